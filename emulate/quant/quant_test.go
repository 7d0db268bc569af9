package quant

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sageacc/sageacc/emulate/format"
)

var (
	sm89 = Tiling{BlockQ: 128, WarpQ: 32, BlockK: 64}
	sm90 = Tiling{BlockQ: 64, WarpQ: 16, BlockK: 128}
)

// TestGroups spells out which rows share a scale, as the paper and the released
// kernels lay the mma fragments out.
func TestGroups(t *testing.T) {
	for _, tc := range []struct {
		g          Granularity
		t          Tiling
		n          int
		query, key int // number of groups
	}{
		{PerTensor, sm89, 333, 1, 1}, {PerBlock, sm89, 333, 3, 6}, {PerWarp, sm89, 333, 12, 6},
		{PerThread, sm89, 333, 96, 24}, {PerToken, sm89, 333, 333, 333},
		{PerBlock, sm90, 333, 6, 3}, {PerWarp, sm90, 333, 24, 3}, {PerThread, sm90, 333, 192, 12},
		{PerThread, sm90, 1, 32, 4},
	} {
		if q, k := tc.g.QueryGroups(tc.t, tc.n), tc.g.KeyGroups(tc.t, tc.n); q != tc.query || k != tc.key {
			t.Errorf("%s of %d rows: %d query and %d key groups, want %d and %d", tc.g, tc.n, q, k, tc.query, tc.key)
		}
		for r := range tc.n {
			if q, k := tc.g.QueryGroup(tc.t, r), tc.g.KeyGroup(tc.t, r); q < 0 || q >= tc.query || k < 0 || k >= tc.key {
				t.Fatalf("%s row %d is in query group %d of %d, key group %d of %d", tc.g, r, q, tc.query, k, tc.key)
			}
		}
	}
	rows := func(group func(Tiling, int) int, tl Tiling, g, n int) (out []int) {
		for r := range n {
			if group(tl, r) == g {
				out = append(out, r)
			}
		}
		return out
	}
	// Query rows {i, i+8, i+16, i+24} of a warp's 32.
	if got := fmt.Sprint(rows(PerThread.QueryGroup, sm89, 8+3, 256)); got != "[35 43 51 59]" {
		t.Errorf("per-thread query group 11 is %s", got)
	}
	// Key rows {2j, 2j+1, 2j+8, 2j+9, ...} of a tile's 64.
	if got := fmt.Sprint(rows(PerThread.KeyGroup, sm89, 1, 128)); got != "[2 3 10 11 18 19 26 27 34 35 42 43 50 51 58 59]" {
		t.Errorf("per-thread key group 1 is %s", got)
	}
	if got := fmt.Sprint(rows(PerWarp.QueryGroup, sm90, 1, 64)); got != "[16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31]" {
		t.Errorf("per-warp query group 1 is %s", got)
	}
}

// TestStyles pins each style's rounding on values where they part.
func TestStyles(t *testing.T) {
	x := []float32{0, 0.5, 1.5, 2.5, -0.5, -2.5, 127, -127}
	for _, tc := range []struct {
		style Style
		bits  int
		amax  float32
		step  float32
		codes []int8
	}{
		// 127/127: halves round to even, or away from zero after adding half; the
		// Triton step is a little more than 1, so there halves fall short.
		{Paper, 8, 127, 1, []int8{0, 0, 2, 2, 0, -2, 127, -127}},
		{Fused, 8, 127, 1, []int8{0, 0, 2, 2, 0, -2, 127, -127}},
		{Triton, 8, 127, format.FMA(127, float32(1)/127, 1e-7), []int8{0, 0, 1, 2, 0, -2, 127, -127}},
		{Paper, 4, 127, 127.0 / 7, []int8{0, 0, 0, 0, 0, 0, 7, -7}},
		{Paper, 8, 0, 0, []int8{0, 0, 0, 0, 0, 0, 0, 0}},
		{Fused, 8, 0, float32(1e-7) * (float32(1) / 127), nil},
		{Triton, 4, 0, 1e-7, nil},
	} {
		s := NewScale(tc.style, tc.bits, tc.amax)
		if s.Step != tc.step {
			t.Errorf("%s int%d of %g: step %g, want %g", tc.style, tc.bits, tc.amax, s.Step, tc.step)
		}
		if tc.codes == nil {
			continue
		}
		got := make([]int8, len(x))
		s.Quantize(got, x)
		if fmt.Sprint(got) != fmt.Sprint(tc.codes) {
			t.Errorf("%s int%d: codes %v, want %v", tc.style, tc.bits, got, tc.codes)
		}
	}
}

// TestStep: whatever the style, a code times the step is within half a step of
// the value, and the largest magnitude uses the whole range (in the Triton style
// unless the 1e-7 added to the step counts).
func TestStep(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 2))
	for range 2000 {
		x := make([]float32, 64)
		scale := math.Exp2(float64(r.IntN(30) - 15))
		for i := range x {
			x[i] = float32(r.NormFloat64() * scale)
		}
		amax := AbsMax(0, x)
		for _, style := range []Style{Paper, Triton, Fused} {
			for _, bits := range []int{4, 8} {
				s := NewScale(style, bits, amax)
				codes := make([]int8, len(x))
				s.Quantize(codes, x)
				top := int8(0)
				for i, c := range codes {
					top = max(top, c, -c)
					if e := math.Abs(float64(c)*float64(s.Step) - float64(x[i])); e > float64(s.Step)*0.5002+2e-7*float64(amax) {
						t.Fatalf("%s int%d: %g has code %d of step %g", style, bits, x[i], c, s.Step)
					}
				}
				if want := int8(QMax(bits)); top != want && amax > 0.01 {
					t.Fatalf("%s int%d: largest code %d, want %d", style, bits, top, want)
				}
			}
		}
	}
}

func TestAbsMaxIgnoresNaN(t *testing.T) {
	if got := AbsMax(1, []float32{-3, float32(math.NaN()), 2}); got != 3 {
		t.Errorf("AbsMax = %g", got)
	}
}

func TestChannelMean(t *testing.T) {
	const n, d = 1000, 3
	m := NewChannelMean(d)
	x := make([]float32, n*d)
	for i := range x {
		x[i] = []float32{1e8, 0.1, -7}[i%d] + float32(i/d%2)
	}
	for lo := 0; lo < n; lo += 256 {
		m.Add(x[lo*d : min(lo+256, n)*d])
	}
	got := make([]float32, d)
	m.Mean(got, format.FP32.Round)
	a, b := float64(float32(0.1)), float64(float32(0.1)+1)
	want := []float32{1e8, float32((a + b) / 2), -6.5}
	for c := range want {
		if got[c] != want[c] {
			t.Errorf("mean of channel %d is %v, want %v", c, got[c], want[c])
		}
	}
	m.Mean(got, format.RoundBF16)
	if got[1] != format.RoundBF16(want[1]) {
		t.Errorf("mean in BF16 is %v", got[1])
	}
	// Rounded to the input dtype in the Triton style, FP32 in the others.
	y := []float32{1, 2, 3}
	SubtractMean(Triton, y, []float32{0.0001, 0, 0}, format.RoundFP16)
	if y[0] != 1 {
		t.Errorf("Triton difference %v", y[0])
	}
	y[0] = 1
	SubtractMean(Fused, y, []float32{0.0001, 0, 0}, format.RoundFP16)
	if y[0] != 1-float32(0.0001) {
		t.Errorf("Fused difference %v", y[0])
	}
}

// scan quantises a small V whole.
func scan(v *Values, x []float32, d int) [][]uint16 {
	v.Scan(0, x)
	v.Finish()
	var codes [][]uint16
	for r := 0; r < len(x); r += d {
		row := make([]uint16, d)
		v.Encode(row, x[r:r+d])
		codes = append(codes, row)
	}
	return codes
}

func TestValues(t *testing.T) {
	x := []float32{1, -8, 0, 2, 4, 0, -4, 16, 0} // 3 tokens, 3 channels
	for _, style := range []Style{Paper, Fused} {
		v := NewValues(style, E4M3, 448, false, 3, 3)
		codes := scan(v, x, 3)
		for c, amax := range []float64{4, 16} {
			if e := math.Abs(float64(v.Scale[c])*448/amax - 1); e > 1e-6 {
				t.Errorf("style %s: scale of channel %d is %g", style, c, v.Scale[c])
			}
			for r := range 3 {
				got := float64(E4M3.Decode(codes[r][c])) * float64(v.Scale[c])
				if e := math.Abs(got - float64(x[r*3+c])); e > amax/16 {
					t.Errorf("style %s: token %d channel %d is %g, want %g", style, r, c, got, x[r*3+c])
				}
			}
		}
		// A channel of zeros: the paper's formula gives zeros; the released kernel
		// divides by zero.
		if z := E4M3.Decode(codes[0][2]); (style == Paper) != (z == 0) || (style == Fused) != (z != z) {
			t.Errorf("style %s: a zero of a zero channel has the value %g", style, z)
		}
	}
	// FP16 is not scaled.
	v := NewValues(Fused, FP16, 0, false, 3, 3)
	if codes := scan(v, x, 3); v.Scale[1] != 1 || FP16.Decode(codes[2][1]) != 16 {
		t.Errorf("FP16: scale %g, code %04x", v.Scale[1], codes[2][1])
	}
	v = NewValues(Paper, INT8, 127, false, 3, 3)
	if codes := scan(v, x, 3); INT8.Decode(codes[2][1]) != 127 || INT8.Decode(codes[0][1]) != -64 {
		t.Errorf("INT8: codes %v", codes)
	}
}

// TestSmoothValues: the released mean divides by the padded token count and its
// extremes include the padding; the paper's mean is the mean.
func TestSmoothValues(t *testing.T) {
	x := []float32{10, 11, 12}
	v := NewValues(Paper, E4M3, 448, true, 3, 1)
	scan(v, x, 1)
	if v.Mean[0] != 11 || math.Abs(float64(v.Scale[0])*448-1) > 1e-6 {
		t.Errorf("paper: mean %g, scale %g", v.Mean[0], v.Scale[0])
	}
	v = NewValues(Fused, E4M3, 448, true, 3, 1)
	scan(v, x, 1)
	if v.Mean[0] != 33.0/16 {
		t.Errorf("released: mean %g, want %g", v.Mean[0], 33.0/16)
	}
	if want := (12 - 33.0/16) / 448; math.Abs(float64(v.Scale[0])/want-1) > 1e-6 {
		t.Errorf("released: scale %g, want %g", v.Scale[0], want)
	}
}

func TestPermute(t *testing.T) {
	seen := map[int]bool{}
	for i := range 32 {
		p := Permute(i)
		if p/16 != i/16 || seen[p] {
			t.Errorf("position %d holds token %d", i, p)
		}
		seen[p] = true
	}
	var got []int
	for i := range 16 {
		got = append(got, Permute(i))
	}
	if s := fmt.Sprint(got); s != "[0 1 8 9 2 3 10 11 4 5 12 13 6 7 14 15]" {
		t.Errorf("permutation %s", s)
	}
}

func TestNames(t *testing.T) {
	for _, s := range Granularities() {
		if g, err := ParseGranularity(s); err != nil || g.String() != s {
			t.Errorf("%s: %v, %v", s, g, err)
		}
	}
	for _, s := range PVTypes() {
		if p, err := ParsePVType(s); err != nil || p.String() != s {
			t.Errorf("%s: %v, %v", s, p, err)
		}
	}
	if _, err := ParseGranularity("x"); err == nil {
		t.Error("granularity x is accepted")
	}
	if _, err := ParsePVType("x"); err == nil {
		t.Error("pv-dtype x is accepted")
	}
}

func ExampleScale_Quantize() {
	x := []float32{0.9, -1.4, 0.2, 0.05}
	s := NewScale(Paper, 4, AbsMax(0, x))
	codes := make([]int8, len(x))
	s.Quantize(codes, x)
	fmt.Println(s.Step, codes)
	// Output: 0.2 [4 -7 1 0]
}

func BenchmarkQuantize(b *testing.B) {
	x := make([]float32, 4096)
	for i := range x {
		x[i] = float32(i%251) / 100
	}
	codes := make([]int8, len(x))
	for _, style := range []Style{Paper, Triton, Fused} {
		b.Run(style.String(), func(b *testing.B) {
			s := NewScale(style, 8, 2.5)
			b.SetBytes(4 * int64(len(x)))
			for b.Loop() {
				s.Quantize(codes, x)
			}
		})
	}
}

// TestEncodeTowardZero: the code's value is next to x on zero's side.
func TestEncodeTowardZero(t *testing.T) {
	for _, dt := range []PVType{E4M3, E5M2, INT8, FP16} {
		top := map[PVType]float32{E4M3: 448, E5M2: 57344, INT8: 127, FP16: 65504}[dt]
		for i := -4000; i <= 4000; i++ {
			x := float32(i) * 0.037 * top / 127
			y := dt.Decode(dt.EncodeTowardZero(x))
			if math.Abs(float64(y)) > math.Abs(float64(x)) || y*x < 0 {
				t.Fatalf("%s: %g becomes %g", dt, x, y)
			}
			// To nearest, the code is the same one or the next.
			if n := dt.Decode(dt.Encode(x)); n != y && math.Abs(float64(n)) < math.Abs(float64(x)) {
				t.Fatalf("%s: %g becomes %g, to nearest %g", dt, x, y, n)
			}
		}
		if y := dt.Decode(dt.EncodeTowardZero(1e8)); y != top {
			t.Errorf("%s: 1e8 becomes %g, want %g", dt, y, top)
		}
	}
}

func TestRounded(t *testing.T) {
	for _, tc := range []struct {
		style Style
		round CodeRounding
		want  []int8
	}{
		{Paper, StyleRounding, []int8{0, 2, 2, 2, -2, 127}},
		{Paper, NearestEven, []int8{0, 2, 2, 2, -2, 127}},
		{Paper, NearestAway, []int8{1, 2, 3, 2, -3, 127}},
		{Paper, TowardZero, []int8{0, 1, 2, 1, -2, 127}},
	} {
		x := []float32{0.5, 1.5, 2.5, 1.75, -2.5, 127}
		s := NewScale(tc.style, 8, 127).Rounded(tc.round)
		got := make([]int8, len(x))
		s.Quantize(got, x)
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s, rounding %d: %v, want %v", tc.style, tc.round, got, tc.want)
		}
	}
	// Without ties, both ways to the nearest give the style's codes.
	r := rand.New(rand.NewPCG(4, 4))
	x := make([]float32, 5000)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	for _, style := range []Style{Paper, Triton, Fused} {
		for _, bits := range []int{4, 8} {
			s := NewScale(style, bits, AbsMax(0, x))
			own := make([]int8, len(x))
			s.Quantize(own, x)
			for round := NearestEven; round <= TowardZero; round++ {
				codes := make([]int8, len(x))
				o := s.Rounded(round)
				o.Quantize(codes, x)
				if slices.Equal(codes, own) != (round != TowardZero) {
					t.Errorf("%s, %d bits: rounding %d", style, bits, round)
				}
			}
		}
	}
}
