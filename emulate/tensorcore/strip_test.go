package tensorcore

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/sageacc/sageacc/emulate/format"
)

// vectorLevels returns the levels of vectors, all of which have strips; it skips the test where
// there is none.
func vectorLevels(t testing.TB) []Level {
	levels := Levels()[1:]
	if len(levels) == 0 {
		t.Skip("no vector instructions here")
	}
	return levels
}

// stripUnits are the units that a Strip is to be had of, by the table: a loss of one is one of
// speed that no result shows.
func stripUnits(t testing.TB, level Level) (list []Unit) {
	for _, u := range Units() {
		_, got := u.Strip(level)
		wide := u.A <= E5M2 && u.FractionBits == 25 // 32 terms of 2^27
		if want := u.Out != Int32 && u.FractionBits != Exact && !wide; got != want {
			t.Errorf("%s %s: a strip %v, want %v", u.Arch, u.Instruction, got, want)
		}
		if got {
			list = append(list, u)
		}
		if _, ok := u.Strip(Level{}); ok {
			t.Errorf("%s %s: portable Go has a strip", u.Arch, u.Instruction)
		}
	}
	return list
}

// TestStrip holds Strip.Dot to TileValues, for operands of every size: either all elements are
// the same or it says that they are not; and it says so of ordinary numbers never.
func TestStrip(t *testing.T) {
	for _, level := range vectorLevels(t) {
		t.Run(level.String(), func(t *testing.T) { testStrips(t, level) })
	}
}

func testStrips(t *testing.T, level Level) {
	r := rand.New(rand.NewPCG(5, 6))
	for _, u := range stripUnits(t, level) {
		for name, draw := range map[string]func() float64{
			"ordinary":      func() float64 { return r.NormFloat64() },
			"zeros":         func() float64 { return 0 },
			"some zeros":    func() float64 { return r.NormFloat64() * float64(r.IntN(2)) },
			"subnormal":     func() float64 { return math.Ldexp(r.NormFloat64(), -r.IntN(30)) },
			"constant":      func() float64 { return 1.75 },
			"far apart":     func() float64 { return math.Ldexp(r.NormFloat64(), r.IntN(24)-12) },
			"largest":       func() float64 { return math.MaxFloat64 },
			"tiny":          func() float64 { return math.Ldexp(r.NormFloat64(), -60) },
			"a NaN":         func() float64 { return []float64{1, math.NaN()}[r.IntN(40)/39] },
			"an infinity":   func() float64 { return []float64{1, math.Inf(1)}[r.IntN(40)/39] },
			"cancellations": func() float64 { return []float64{1, -1, 1.25, -1.25}[r.IntN(4)] },
		} {
			const rows = 6
			k := max(u.K, 16) * 3
			for start, first := range map[string]func() float32{
				"zero":      func() float32 { return 0 },
				"ordinary":  func() float32 { return float32(r.NormFloat64() * 3) },
				"large":     func() float32 { return float32(r.NormFloat64() * 20000) },
				"small":     func() float32 { return float32(math.Ldexp(r.NormFloat64(), -r.IntN(150))) },
				"overflows": func() float32 { return float32(r.NormFloat64() * 1e38) },
			} {
				ok := testStrip(t, fmt.Sprintf("%s %s, %s from %s", u.Arch, u.Instruction, name, start), &u, level, rows, k, draw, first)
				plain := start == "zero" || start == "ordinary" || start == "large"
				if u.C == FP16 { // where these sums overflow
					plain = plain && start != "large" && name != "far apart"
				}
				switch name {
				case "ordinary", "zeros", "some zeros", "constant", "far apart", "cancellations":
					if plain && !ok {
						t.Errorf("%s %s, %s from %s: not computed", u.Arch, u.Instruction, name, start)
					}
				case "a NaN", "an infinity":
					if ok && (name == "a NaN" || u.A > E5M2) { // FP8 saturates
						t.Errorf("%s %s, %s: computed", u.Arch, u.Instruction, name)
					}
				}
			}
		}
	}
}

// nearestBits is the code of x; TF32's is cut off.
func nearestBits(f Operand, x float32) uint32 {
	switch f {
	case E4M3:
		return uint32(format.E4M3FromFloat32(x))
	case E5M2:
		return uint32(format.E5M2FromFloat32(x))
	case FP16:
		return uint32(format.FP16FromFloat32(x))
	case BF16:
		return uint32(format.BF16FromFloat32(x))
	}
	return math.Float32bits(x) &^ 0x1fff
}

// testStrip compares one product and reports whether it was computed.
func testStrip(t *testing.T, what string, u *Unit, level Level, rows, k int, draw func() float64, first func() float32) bool {
	t.Helper()
	s, _ := u.Strip(level)
	value := func() float32 {
		x := float32(draw())
		if e := makeEntry(&layouts[u.A], nearestBits(u.A, x)); !e.special {
			x = e.val
		} else if u.A != E4M3 && x == x {
			x = float32(math.Inf(1))
		}
		return x
	}
	a, b := make([]float32, rows*k), make([]float32, k*Lanes)
	for i := range a {
		a[i] = value()
	}
	columns := make([]float32, Lanes*k)
	for i := range columns {
		columns[i] = value()
		b[i%k*Lanes+i/k] = columns[i]
	}
	acc := make([]float32, rows*Lanes)
	for i := range acc {
		acc[i] = u.decodeC(u.encode(first()))
	}
	var pa, pb Panel
	load := func(p *Panel, x []float32, n int) {
		bits := make([]uint32, len(x))
		for i, v := range x {
			bits[i] = nearestBits(u.A, v)
		}
		p.LoadBits(u.A, bits, n, k, k)
	}
	load(&pa, a, rows)
	load(&pb, columns, Lanes)
	want := append([]float32(nil), acc...)
	u.Tile(want, &pa, &pb)
	var ra RowOperand
	var lb LaneOperand
	if !s.LoadRows(&ra, a, rows, k, k) || !s.LoadLanes(&lb, b) || !s.Dot(acc, &ra, &lb, 0, k) {
		return false
	}
	for i, x := range acc {
		if math.Float32bits(x) != math.Float32bits(want[i]) {
			t.Errorf("%s: element %d: %g (%08x), want %g (%08x)", what, i, x, math.Float32bits(x), want[i], math.Float32bits(want[i]))
			return true
		}
	}
	return true
}

func BenchmarkStrip(b *testing.B) {
	for _, level := range vectorLevels(b) {
		b.Run(level.String(), func(b *testing.B) { benchmarkStrips(b, level) })
	}
}

func benchmarkStrips(b *testing.B, level Level) {
	r := rand.New(rand.NewPCG(1, 2))
	const m, k = 64, 128
	for _, u := range Units() {
		s, ok := u.Strip(level)
		if !ok {
			continue
		}
		x, y := make([]float32, m*k), make([]float32, k*Lanes)
		for i := range x {
			x[i], y[i] = float32(r.IntN(15)-7)/4, float32(r.IntN(15)-7)/4
		}
		var ra RowOperand
		var lb LaneOperand
		if !s.LoadRows(&ra, x, m, k, k) || !s.LoadLanes(&lb, y) {
			b.Fatal("not finite")
		}
		acc := make([]float32, m*Lanes)
		b.Run(u.Arch+"/"+u.Instruction, func(b *testing.B) {
			for b.Loop() {
				clear(acc)
				if !s.Dot(acc, &ra, &lb, 0, k) {
					b.Fatal("not valid")
				}
			}
			b.ReportMetric(float64(b.N)*m*Lanes*k/b.Elapsed().Seconds()/1e6, "MMAC/s")
		})
	}
}

// TestIdle: instructions of zeros change no sum of a unit that is Idle, whatever the sum, and
// some sum of one that is not.
func TestIdle(t *testing.T) {
	levels := vectorLevels(t)
	level := levels[len(levels)-1]
	r := rand.New(rand.NewPCG(9, 9))
	units := stripUnits(t, level)
	short := Unit{Arch: "invented", Instruction: "short", A: FP16, C: FP32, K: 16, Steps: Consecutive(16, 16), FractionBits: 12, Out: FP32Zero}
	for _, u := range append(units, short) {
		s, ok := u.Strip(level)
		if !ok {
			t.Fatalf("%s %s has no strip", u.Arch, u.Instruction)
		}
		zeros := make([]uint32, u.K)
		changed := 0
		for range 20000 {
			x := float32(math.Ldexp(r.NormFloat64(), r.IntN(30)-15))
			// Any sum that the unit makes.
			a, b := make([]uint32, u.K), make([]uint32, u.K)
			for k := range a {
				a[k], b[k] = nearestBits(u.A, float32(r.NormFloat64())), nearestBits(u.A, float32(r.NormFloat64())*x)
			}
			sum := u.Dot(0, a, b)
			if u.Dot(sum, zeros, zeros) != sum {
				changed++
			}
		}
		if s.Idle() != (changed == 0) {
			t.Errorf("%s %s: Idle %v, %d sums changed", u.Arch, u.Instruction, s.Idle(), changed)
		}
	}
}
