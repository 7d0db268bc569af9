package tensorcore

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/internal/sweep"
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
		wide := u.A <= E5M2 && u.FractionBits == 25 && len(u.Steps[0]) == 32 // terms of 2^27
		exact := u.FractionBits == Exact && u.A > FP16                       // whose products are too far apart
		if want := u.Out != Int32 && !exact && !wide; got != want {
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

// separateUnits are units with an addition apart that the table does not have.
var separateUnits = []Unit{
	{Arch: "invented", Instruction: "separate", A: E4M3, C: FP32, K: 32, Steps: Consecutive(32, 16), FractionBits: 13, Out: FP32Zero, SeparateAdd: true},
	{Arch: "invented", Instruction: "separate FP16", A: FP16, C: FP16, K: 16, Steps: Consecutive(16, 8), FractionBits: 24, Out: FP16Nearest, SeparateAdd: true},
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
	draws := map[string]func() float64{
		"ordinary":      func() float64 { return r.NormFloat64() },
		"zeros":         func() float64 { return 0 },
		"some zeros":    func() float64 { return r.NormFloat64() * float64(r.IntN(2)) },
		"subnormal":     func() float64 { return math.Ldexp(r.NormFloat64(), -r.IntN(30)) },
		"constant":      func() float64 { return 1.75 },
		"far apart":     func() float64 { return math.Ldexp(r.NormFloat64(), r.IntN(24)-12) },
		"largest":       func() float64 { return math.MaxFloat64 },
		"small":         func() float64 { return math.Ldexp(r.NormFloat64(), -8-r.IntN(3)) },
		"tiny":          func() float64 { return math.Ldexp(r.NormFloat64(), -60) },
		"a NaN":         func() float64 { return []float64{1, math.NaN()}[r.IntN(40)/39] },
		"an infinity":   func() float64 { return []float64{1, math.Inf(1)}[r.IntN(40)/39] },
		"cancellations": func() float64 { return []float64{1, -1, 1.25, -1.25}[r.IntN(4)] },
		// About the ends of what a bounded kernel takes, and beyond, where sums that nearly cancel meet zeros.
		"near the least": func() float64 { return math.Ldexp(float64(1-2*r.IntN(2))*(1+r.Float64()), -35) },
		"near the most":  func() float64 { return math.Ldexp(float64(1-2*r.IntN(2))*(1+r.Float64()), 29) },
		"nearly cancel": func() float64 {
			x := []float64{1, 1 - 0x1p-8, 1 - 0x1p-7}[r.IntN(3)] * float64(r.IntN(4)/3) * float64(1-2*r.IntN(2))
			return math.Ldexp(x, -41-r.IntN(3))
		},
		// Whose sums 32 bits may not hold.
		"largest significands": func() float64 { return 2 - 0x1p-10 },
	}
	starts := map[string]func() float32{
		"zero":           func() float32 { return 0 },
		"minus zero":     func() float32 { return float32(math.Copysign(0, -1)) },
		"one to two":     func() float32 { return float32(1 + r.Float64()) },
		"the least":      func() float32 { return float32(math.Ldexp(1+r.Float64(), -96)) },
		"less than that": func() float32 { return float32(math.Ldexp(1+r.Float64(), -97)) },
		"not finite": func() float32 {
			return []float32{1, float32(math.Inf(1 - 2*r.IntN(2))), float32(math.NaN())}[r.IntN(3)]
		},
		"tiny":                  func() float32 { return float32(math.Ldexp(1+r.Float64(), -97-r.IntN(18))) },
		"huge":                  func() float32 { return float32(math.Ldexp(r.NormFloat64(), 94+r.IntN(34))) },
		"large as kernels take": func() float32 { return float32(math.Ldexp(1+r.Float64(), 96+r.IntN(4))) },
		"ordinary":              func() float32 { return float32(r.NormFloat64() * 3) },
		"large":                 func() float32 { return float32(r.NormFloat64() * 20000) },
		"small":                 func() float32 { return float32(math.Ldexp(r.NormFloat64(), -r.IntN(150))) },
		"overflows":             func() float32 { return float32(r.NormFloat64() * 1e38) },
	}
	for i, u := range append(stripUnits(t, level), separateUnits...) {
		for j, name := range slices.Sorted(maps.Keys(draws)) {
			const rows = 6
			k := max(u.K, 16) * 3
			for l, start := range slices.Sorted(maps.Keys(starts)) {
				if (i+j+l)%3 != 0 && !sweep.Full() {
					continue
				}
				ok := testStrip(t, fmt.Sprintf("%s %s, %s from %s", u.Arch, u.Instruction, name, start), &u, level, rows, k, draws[name], starts[start])
				plain := start == "zero" || start == "minus zero" || start == "ordinary" || start == "large"
				if u.C == FP16 { // where these sums overflow
					plain = plain && start != "large" && name != "far apart"
				}
				if start == "not finite" && ok {
					t.Errorf("%s %s, %s from %s: computed", u.Arch, u.Instruction, name, start)
				}
				// Sums that vanish beside products, and that products vanish beside.
				if (name == "ordinary" || name == "constant") && u.C == FP32 {
					plain = plain || start == "tiny" || start == "large as kernels take"
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
	some, n := append([]float32(nil), acc...), 1+(rows*k+len(what))%Lanes
	if !s.LoadRows(&ra, a, rows, k, k) || !s.LoadLanes(&lb, b) || !s.Dot(acc, &ra, &lb, 0, k, Lanes) {
		return false
	}
	// The first lanes alone.
	if !s.Dot(some, &ra, &lb, 0, k, n) {
		t.Errorf("%s: all lanes are computed, but not %d", what, n)
	}
	for i, x := range acc {
		if i%Lanes < n && math.Float32bits(some[i]) != math.Float32bits(x) {
			t.Errorf("%s: element %d of %d lanes: %g, want %g", what, i, n, some[i], x)
			return true
		}
	}
	for i, x := range acc {
		if x-x != 0 {
			t.Errorf("%s: element %d: %g is computed", what, i, x)
			return true
		}
		if math.Float32bits(x) != math.Float32bits(want[i]) {
			t.Errorf("%s: element %d: %g (%08x), want %g (%08x)", what, i, x, math.Float32bits(x), want[i], math.Float32bits(want[i]))
			return true
		}
	}
	return true
}

// TestStripSpans: kernels of bounded sums take the formats none of whose products can leave the exponents,
// and of others operands that do not.
func TestStripSpans(t *testing.T) {
	for _, level := range vectorLevels(t) {
		for _, tc := range []struct {
			format         Operand
			least, most    float32 // of rows
			lLeast, lMost  float32 // of lanes
			want, measured bool
		}{
			{FP16, 0x1p-24, 65504, 0x1p-24, 65504, true, false},
			{E4M3, 0x1p-9, 448, 0x1p-9, 448, true, false},
			{BF16, 0x1p-35, 1, 0x1p-36, 1, true, true},
			{BF16, 0x1p-36, 1, 0x1p-36, 1, false, true},
			{BF16, 0, 0, 0x1p-71, 1, true, true},
			{BF16, 0x1p-133, 1, 1, 1, false, true},
			{BF16, 1, 1.75 * 0x1p29, 1, 1.75 * 0x1p29, true, true},
			{BF16, 1, 1.75 * 0x1p29, 1, 0x1p30, false, true},
			{TF32, 0x1p-35, 1, -0x1p-36, -1, true, true},
		} {
			u := Unit{A: tc.format, C: FP32, K: 16, Steps: Consecutive(16, 16), FractionBits: 24, Out: FP32Zero}
			s, ok := u.Strip(level)
			if !ok {
				t.Fatalf("%s: no strip of %s", level, tc.format)
			}
			for i := range 32 {
				// Zeros but for two numbers; of rows that follow each other, and rows apart, with others between
				// that do not count.
				const rows, k = 2, 16
				at, stride := i%16, []int{k, 3 * k}[i/16]
				a, b := make([]float32, rows*stride), make([]float32, k*Lanes)
				if stride > k {
					a[k], a[2*k] = 0x1p-126, 0x1p100
				}
				a[at], a[stride+15-at] = tc.least, -tc.most
				b[at*(Lanes+1)], b[len(b)-1-at] = tc.lLeast, tc.lMost
				var ra RowOperand
				var lb LaneOperand
				if !s.LoadRows(&ra, a, rows, k, stride) || !s.LoadLanes(&lb, b) {
					t.Fatalf("%s: operands are refused", tc.format)
				}
				want := tc.want && (!tc.measured || level.String() == "avx512")
				if got := ra.span.Bounded(lb.span); got != want {
					t.Errorf("%s, %s: rows from %g to %g, lanes from %g to %g, bounded %v", level, tc.format, tc.least, tc.most, tc.lLeast, tc.lMost, got)
				}
			}
		}
	}
}

// TestExactTies: sums that lie half way between two results, but for a last bit far below, which may
// be a product's or the accumulator's, and half way itself.
func TestExactTies(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	units := 0
	for _, u := range Units() {
		if !u.exactOnce() {
			continue
		}
		units++
		least := map[Operand]int{E4M3: -6, E5M2: -14, FP16: -14}[u.A]
		most := map[Operand]int{E4M3: 8, E5M2: 15, FP16: 15}[u.A]
		bits := 24
		if u.C == FP16 {
			bits = 11
		}
		// power puts a power of two, or near it, into a row's and a lane's k.
		power := func(a, b []float32, k, e int, sign float32) bool {
			x := min(max(e/2, least), most)
			if e-x < least || e-x > most {
				return false
			}
			a[k], b[k] = sign*float32(math.Ldexp(1, x)), float32(math.Ldexp(1, e-x))
			return true
		}
		for _, level := range vectorLevels(t) {
			s, ok := u.Strip(level)
			if !ok {
				t.Fatalf("%s %s: no strip", level, u.Instruction)
			}
			for range 40 {
				a, b, acc := make([]float32, 2*u.K), make([]float32, u.K*Lanes), make([]float32, 2*Lanes)
				columns := make([]float32, Lanes*u.K)
				for lane := range Lanes {
					column := columns[lane*u.K:][:u.K]
					// Rows are shared: each lane has its sum in products of its own.
					top := 2*least + r.IntN(2*(most-least))
					first := r.IntN(u.K)
					if lane > 0 {
						first = 0
					}
					row := make([]float32, u.K)
					if lane == 0 {
						for k, e := range []int{top, top - bits, 2*least + r.IntN(6), top - 1 - r.IntN(bits)} {
							power(row, column, (first+k)%u.K, e, []float32{1, 1, 1, -1}[r.IntN(4)])
						}
						copy(a, row)
						copy(a[u.K:], row)
						continue
					}
					for k, x := range a[:u.K] {
						if x != 0 && r.IntN(4) > 0 {
							column[k] = columns[k] * []float32{1, 1, 1, -1, 0.5, 2}[r.IntN(6)]
							if m := math.Abs(float64(column[k])); m != 0 && (m < math.Ldexp(1, least) || m > math.Ldexp(1, most)) {
								column[k] = columns[k]
							}
						}
					}
				}
				for i := range acc {
					e := []int{-140, -30, -24, -13, 0, 10}[r.IntN(6)]
					acc[i] = u.decodeC(u.encode(float32(math.Ldexp(float64(r.IntN(5)-2), e))))
				}
				for i, x := range columns {
					b[i%u.K*Lanes+i/u.K] = x
				}
				var pa, pb Panel
				load := func(p *Panel, x []float32, n int) {
					codes := make([]uint32, len(x))
					for i, v := range x {
						codes[i] = nearestBits(u.A, v)
					}
					p.LoadBits(u.A, codes, n, u.K, u.K)
				}
				load(&pa, a, 2)
				load(&pb, columns, Lanes)
				want := append([]float32(nil), acc...)
				u.Tile(want, &pa, &pb)
				var ra RowOperand
				var lb LaneOperand
				if !s.LoadRows(&ra, a, 2, u.K, u.K) || !s.LoadLanes(&lb, b) {
					t.Fatalf("%s %s: operands are refused", level, u.Instruction)
				}
				start, ok := append([]float32(nil), acc...), s.Dot(acc, &ra, &lb, 0, u.K, Lanes)
				for i, x := range acc {
					if ok && math.Float32bits(x) != math.Float32bits(want[i]) {
						t.Fatalf("%s %s: %x plus %x by %x: %x, want %x", level, u.Instruction, start[i], a[:u.K], columns[i%Lanes*u.K:][:u.K], x, want[i])
					}
				}
			}
		}
	}
	if units < 5 {
		t.Errorf("%d units", units)
	}
}

// TestStripFormats: operands of a unit's format are taken and no others, in every lane.
func TestStripFormats(t *testing.T) {
	for _, level := range vectorLevels(t) {
		for f, least := range map[Operand]int{FP16: -24, BF16: -133, TF32: -136, E4M3: -9, E5M2: -16} {
			u := Unit{A: f, C: FP32, K: 32, Steps: Consecutive(32, 16), FractionBits: 13, Out: FP32Zero}
			s, ok := u.Strip(level)
			if !ok {
				t.Fatalf("%s: no strip of %s", level, f)
			}
			bits := layouts[f].fracBits
			quantum, top := float32(math.Ldexp(1, least)), largest(f)
			for i, tc := range []struct {
				x    float32
				want bool
			}{
				{0, true}, {quantum, true}, {-quantum, true}, {3 * quantum, true}, {top, true}, {-top, true},
				{1 + float32(math.Ldexp(1, -bits)), true}, {1 + float32(math.Ldexp(1, -bits-1)), false}, {-1 - 0x1p-23, false},
				{1.5 * quantum, false}, {quantum / 2, false},
				{math.Nextafter32(top, float32(math.Inf(1))), false}, {float32(math.Inf(1)), false}, {float32(math.Inf(-1)), false}, {float32(math.NaN()), false},
			} {
				for at := range 16 {
					x := make([]float32, 32*Lanes)
					x[at*(Lanes+1)], x[at] = tc.x, tc.x
					var rows RowOperand
					var lanes LaneOperand
					if got := s.LoadRows(&rows, x[:32], 1, 32, 32); got != tc.want {
						t.Errorf("%s, %s: case %d, %x in place %d of rows: %v", level, f, i, tc.x, at, got)
					}
					if got := s.LoadLanes(&lanes, x); got != tc.want {
						t.Errorf("%s, %s: case %d, %x in place %d of lanes: %v", level, f, i, tc.x, at, got)
					}
				}
			}
		}
	}
}

// TestSubnormalSums: an FP16 sum that is subnormal has the smallest exponent, below which terms
// lose their bits: here the one that would break a tie. A sum of zero has none.
func TestSubnormalSums(t *testing.T) {
	for _, u := range Units() {
		if u.C == FP16 && u.A == FP16 && len(u.Steps[0]) >= 5 {
			testSubnormalSum(t, &u, 0x1p-23)
			testSubnormalSum(t, &u, 0)
		}
	}
}

func testSubnormalSum(t *testing.T, u *Unit, start float32) {
	// An element of 2^-28 * 2^(-10-n), from four, of which the first has a bit that is too low
	// for 24 or 25 fraction bits, and the tie.
	low := float32(1 + math.Ldexp(1, 23-u.FractionBits))
	a := []float32{1 + 0x1p-10, -1, -1 - 0x1p-10, 1, 1}
	b := []float32{low, low, 1, 1, 8}
	const scale = 0x1p-14
	bits := [2][]uint32{make([]uint32, u.K), make([]uint32, u.K)}
	for i := range a {
		k := u.Steps[0][i]
		bits[0][k], bits[1][k] = nearestBits(FP16, a[i]*scale), nearestBits(FP16, b[i]*scale)
	}
	want := u.decodeC(u.Dot(u.encode(start), bits[0], bits[1]))
	for _, level := range Levels() {
		var pa, pb Panel
		pa.LoadBits(FP16, bits[0], 1, u.K, u.K)
		pb.LoadBits(FP16, bits[1], 1, u.K, u.K)
		got := []float32{start}
		if u.TileAt(level, got, &pa, &pb); got[0] != want {
			t.Errorf("%s %s, %s: a tile's sum is %x, want %x", u.Arch, u.Instruction, level, got[0], want)
		}
		s, ok := u.Strip(level)
		if !ok {
			continue
		}
		x, y, acc := make([]float32, 2*u.K), make([]float32, u.K*Lanes), make([]float32, 2*Lanes)
		for k := range u.K {
			x[k], y[k*Lanes] = pa.val32[k], pb.val32[k]
		}
		acc[0] = start
		var ra RowOperand
		var lb LaneOperand
		if !s.LoadRows(&ra, x, 2, u.K, u.K) || !s.LoadLanes(&lb, y) || !s.Dot(acc, &ra, &lb, 0, u.K, Lanes) || acc[0] != want {
			t.Errorf("%s %s, %s: a strip's sum is %x, want %x", u.Arch, u.Instruction, level, acc[0], want)
		}
	}
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
				if !s.Dot(acc, &ra, &lb, 0, k, Lanes) {
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
