package ranges

import (
	"math/rand/v2"
	"testing"
)

const width = 24

// of is the set of the bits.
func of(bits uint32) Set {
	var s Set
	for i := range width {
		if bits>>i&1 != 0 {
			s = s.Union(Of(i, i+1))
		}
	}
	return s
}

func bits(s Set) uint32 {
	var b uint32
	for _, r := range s {
		for i := r[0]; i < r[1]; i++ {
			b |= 1 << i
		}
	}
	return b
}

// TestOperations holds them to those of bits.
func TestOperations(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		a, b := r.Uint32N(1<<width)|r.Uint32N(1<<width), r.Uint32N(1<<width)&r.Uint32N(1<<width)
		if r.IntN(2) == 0 {
			a, b = b, a
		}
		x, y := of(a), of(b)
		for _, op := range []struct {
			name string
			got  Set
			want uint32
		}{{"union", x.Union(y), a | b}, {"intersection", x.Intersect(y), a & b}, {"difference", x.Minus(y), a &^ b}} {
			if err := op.got.Check(width); err != nil || bits(op.got) != op.want {
				t.Fatalf("%s of %v and %v is %v, %v", op.name, x, y, op.got, err)
			}
		}
		if bits(x) != a || bits(y) != b {
			t.Fatal("the sets were changed")
		}
	}
}

func TestString(t *testing.T) {
	s := of(0b1000_1111)
	if got, want := s.String(), "0 to 3, 7"; got != want || s.Len() != 5 {
		t.Errorf("%q of %d, want %q", got, s.Len(), want)
	}
}

func TestCheck(t *testing.T) {
	for _, bad := range []Set{{{3, 3}}, {{3, 2}}, {{-1, 2}}, {{0, 2}, {2, 3}}, {{0, 2}, {1, 3}}, {{0, 11}}, {{5, 6}, {0, 1}}} {
		if bad.Check(10) == nil {
			t.Errorf("%v is a set", [][2]int(bad))
		}
	}
}
