package tensorcore

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// TestStripOf holds products of operands that are not of the unit's format to TileValues: either all elements
// are the same, or it says that they are not, and of ordinary numbers never.
func TestStripOf(t *testing.T) {
	for _, level := range vectorLevels(t) {
		t.Run(level.String(), func(t *testing.T) { testStripsOf(t, level) })
	}
}

func testStripsOf(t *testing.T, level Level) {
	r := rand.New(rand.NewPCG(5, 9))
	strips := 0
	for _, u := range append(Units(), separateUnits...) {
		if _, got := u.StripOf(level, FP32, u.A); got != (u.Out != Int32 && u.FractionBits != Exact) {
			t.Errorf("%s %s: a strip %v", u.Arch, u.Instruction, got)
		}
		if !u.HasStripOf() {
			continue
		}
		strips++
		for name, draw := range map[string]func() float64{
			"ordinary":             func() float64 { return r.NormFloat64() },
			"zeros":                func() float64 { return 0 },
			"some zeros":           func() float64 { return r.NormFloat64() * float64(r.IntN(2)) },
			"subnormal":            func() float64 { return math.Ldexp(r.NormFloat64(), -r.IntN(30)) },
			"far apart":            func() float64 { return math.Ldexp(r.NormFloat64(), r.IntN(40)-20) },
			"tiny":                 func() float64 { return math.Ldexp(r.NormFloat64(), -60-r.IntN(80)) },
			"large":                func() float64 { return math.Ldexp(r.NormFloat64(), r.IntN(60)) },
			"a NaN":                func() float64 { return []float64{1, math.NaN()}[r.IntN(40)/39] },
			"an infinity":          func() float64 { return []float64{1, math.Inf(1)}[r.IntN(40)/39] },
			"cancellations":        func() float64 { return []float64{1, -1, 1.25, -1.25}[r.IntN(4)] },
			"largest significands": func() float64 { return []float64{1, -1}[r.IntN(2)] * (2 - 0x1p-23) },
		} {
			for start, first := range map[string]func() float32{
				"zero":      func() float32 { return 0 },
				"ordinary":  func() float32 { return float32(r.NormFloat64() * 3) },
				"small":     func() float32 { return float32(math.Ldexp(r.NormFloat64(), -r.IntN(150))) },
				"overflows": func() float32 { return float32(r.NormFloat64() * 1e38) },
			} {
				for i, f := range [][2]Operand{{FP32, FP32}, {FP32, u.A}, {u.A, FP32}} {
					if testing.Short() && i != (strips+len(name)+len(start))%3 {
						continue // each unit meets each
					}
					what := fmt.Sprintf("%s %s of %v, %s from %s", u.Arch, u.Instruction, f, name, start)
					ok := testStripOf(t, what, &u, level, f[0], f[1], draw, first)
					plain := start != "overflows" && (start != "small" || u.C != FP16)
					switch name {
					case "ordinary", "zeros", "some zeros", "cancellations", "tiny":
						if plain && !ok {
							t.Errorf("%s: not computed", what)
						}
					case "a NaN":
						if ok {
							t.Errorf("%s: computed", what)
						}
					}
				}
			}
		}
	}
	if strips < 10 {
		t.Errorf("%d strips", strips)
	}
}

// TestStripOfNegative: a negative number in lanes is reported, and one in rows is not.
func TestStripOfNegative(t *testing.T) {
	for _, level := range vectorLevels(t) {
		for _, u := range Units() {
			s, ok := u.StripOf(level, FP32, FP32)
			if !ok {
				continue
			}
			for _, neg := range []float32{-1, float32(math.Copysign(0, -1)), -0x1p-149} {
				var lanes LaneOperand
				var rows RowOperand
				x := make([]float32, u.K*Lanes)
				if !s.LoadLanes(&lanes, x) {
					t.Errorf("%s: zeros are refused", u.Instruction)
				}
				x[u.K*Lanes-7] = neg
				if s.LoadLanes(&lanes, x) {
					t.Errorf("%s: %g in lanes", u.Instruction, neg)
				}
				if !s.LoadRows(&rows, x, 64, u.K, u.K) {
					t.Errorf("%s: %g in rows is refused", u.Instruction, neg)
				}
			}
		}
	}
}

// testStripOf compares one product and reports whether it was computed.
func testStripOf(t *testing.T, what string, u *Unit, level Level, fa, fb Operand, draw func() float64, first func() float32) bool {
	t.Helper()
	const rows = 4
	k := max(u.K, 16) * 2
	s, _ := u.StripOf(level, fa, fb)
	value := func(f Operand) float32 {
		x := float32(draw())
		if f == FP32 {
			return x
		}
		if e := makeEntry(&layouts[f], nearestBits(f, x)); !e.special {
			return e.val
		}
		return x
	}
	load := func(f Operand, x []float32, rows int) *Panel {
		p := &Panel{}
		if f == FP32 {
			p.LoadValues(x, rows, k, k)
			return p
		}
		bits := make([]uint32, len(x))
		for i, v := range x {
			bits[i] = nearestBits(f, v)
		}
		p.LoadBits(f, bits, rows, k, k)
		return p
	}
	a, b, columns := make([]float32, rows*k), make([]float32, k*Lanes), make([]float32, Lanes*k)
	for i := range a {
		a[i] = value(fa)
	}
	for i := range columns {
		columns[i] = max(0, float32(math.Abs(float64(value(fb)))))
		b[i%k*Lanes+i/k] = columns[i]
	}
	acc := make([]float32, rows*Lanes)
	for i := range acc {
		if acc[i] = first(); u.C == FP16 {
			acc[i] = roundFP16(acc[i])
		}
	}
	want := append([]float32(nil), acc...)
	var ra RowOperand
	var lb LaneOperand
	if !s.LoadRows(&ra, a, rows, k, k) || !s.LoadLanes(&lb, b) || !s.Dot(acc, &ra, &lb, 0, k, Lanes) {
		return false
	}
	pa, pb := load(fa, a, rows), load(fb, columns, Lanes)
	u.TileValues(want, pa, pb)
	for i, x := range want {
		if math.Float32bits(acc[i]) != math.Float32bits(x) {
			t.Fatalf("%s: row %d, lane %d: %g (%08x), want %g (%08x)", what, i/Lanes, i%Lanes, acc[i], math.Float32bits(acc[i]), x, math.Float32bits(x))
		}
	}
	return true
}
