package probe

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sageacc/sageacc/emulate/tensorcore"
)

// model fills Y with what a unit's model gives, as a GPU without a fault would.
func model(t *testing.T, u *Unit, arch string, b *Batch) {
	t.Helper()
	b.Y = make([]uint32, u.Results(b))
	for i := range b.Y {
		switch u.Kind {
		case Unary:
			b.Y[i] = u.unary(b.X[i])
		case Arith:
			b.Y[i] = bitsOf(u.arith(b.X[3*i], b.X[3*i+1], b.X[3*i+2]))
		case MMA:
			unit, err := tensorcore.Lookup(arch, u.Instruction)
			if err != nil {
				t.Fatal(err)
			}
			tile, r, c := i/(u.m*columns), i/columns%u.m, i%columns
			b.Y[i] = unit.Dot(b.C[i], b.A[(tile*u.m+r)*u.k:][:u.k], b.B[(tile*columns+c)*u.k:][:u.k])
		}
	}
}

// A batch that is right passes, one wrong bit is found where it is, whatever the
// number of goroutines; and operands do not depend on it either.
func TestCheckFindsOneBit(t *testing.T) {
	for _, u := range Units() {
		t.Run(u.Instruction, func(t *testing.T) {
			n := 5000
			if u.Kind == MMA {
				n = 130
			}
			b := u.Operands(n, rand.NewPCG(1, 2), 1)
			if again := u.Operands(n, rand.NewPCG(1, 2), 4); !sameOperands(b, again) {
				t.Fatal("operands depend on the number of goroutines")
			}
			model(t, &u, "sm_90", b)
			for _, jobs := range []int{1, 4} {
				if d, first, err := u.Check(context.Background(), "sm_90", b, jobs); d != 0 || first != nil || err != nil {
					t.Fatalf("a right batch: %d differ, %+v, %v", d, first, err)
				}
			}
			// The sign of a NaN makes no difference, so flip one of a number.
			at := len(b.Y) / 2
			for u.nan(b.Y[at]) || u.nan(b.Y[at]^1) {
				at++
			}
			b.Y[at] ^= 1
			d, first, err := u.Check(context.Background(), "sm_90", b, 4)
			if d != 1 || first == nil || err != nil {
				t.Fatalf("one wrong bit: %d differ, %+v, %v", d, first, err)
			}
			want := int64(at)
			if u.Kind == MMA {
				want = int64(at / (u.m * columns))
				if first.Row != at/columns%u.m || first.Column != at%columns {
					t.Errorf("found at row %d, column %d, want element %d", first.Row, first.Column, at)
				}
			}
			if first.Index != want {
				t.Errorf("found at operation %d, want %d", first.Index, want)
			}
		})
	}
}

func TestRuns(t *testing.T) {
	for _, u := range Units() {
		if err := u.Runs(90); err != nil {
			t.Errorf("%s: %v", u.Instruction, err)
		}
		if err := u.Runs(80); err == nil {
			t.Errorf("%s is said to run on sm_80", u.Instruction)
		}
		if got := u.Runs(120) == nil; got == u.sm90a {
			t.Errorf("%s on sm_120: %v", u.Instruction, got)
		}
	}
}

func bitsOf(x float32) uint32 { return math.Float32bits(x) }

// sameOperands compares bits, for NaNs.
func sameOperands(x, y *Batch) bool {
	return slices.EqualFunc(x.X, y.X, func(a, b float32) bool { return bitsOf(a) == bitsOf(b) }) &&
		slices.Equal(x.A, y.A) && slices.Equal(x.B, y.B) && slices.Equal(x.C, y.C)
}
