package quant

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sageacc/sageacc/emulate/format"
)

// hardRows are rows of d channels with values from every binade and of every kind.
func hardRows(r *rand.Rand, rows, d int, finite bool) []float32 {
	x := make([]float32, rows*d)
	for i := range x {
		switch r.IntN(8) {
		case 0:
			x[i] = math.Float32frombits(r.Uint32())
		case 1:
			x[i] = []float32{0, float32(math.Copysign(0, -1)), 1e-40, -1e-40, 3e38, -3e38, 1, 448, -464}[r.IntN(9)]
		case 2:
			x[i] = float32(r.IntN(2000)-1000) / 1024 // ties
		default:
			x[i] = float32(r.NormFloat64())
		}
		if finite && x[i]-x[i] != 0 {
			x[i] = 1
		}
	}
	return x
}

// sameFloats compares bits; any NaN equals any NaN.
func sameFloats[T float32 | float64](a, b []T) bool {
	return slices.EqualFunc(a, b, func(x, y T) bool {
		return x == y && math.Signbit(float64(x)) == math.Signbit(float64(y)) || x != x && y != y
	})
}

// What the levels do with rows of V and K is what the portable code does.
func TestRowsAtLevels(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 5))
	for _, level := range Levels() {
		for _, d := range []int{16, 64, 128, 20} {
			for n := range 60 {
				const rows = 48
				x := hardRows(r, rows, d, n%2 == 0)
				if n%5 == 0 {
					for i := 3; i < len(x); i += d {
						x[i] = 0 // a channel of zeros
					}
				}
				if got, want := FiniteAt(level, x), FiniteAt(Level{}, x); got != want {
					t.Fatalf("%s: FiniteAt = %v, want %v", level, got, want)
				}
				a, b := NewChannelMean(d), NewChannelMean(d)
				a.Add(x)
				b.AddAt(level, x)
				if a.n != b.n || !sameFloats(a.sum, b.sum) || !sameFloats(a.comp, b.comp) {
					t.Fatalf("%s: another mean of %d channels", level, d)
				}
				for _, style := range []Style{Fused, Paper} {
					for _, dtype := range []PVType{E4M3, E5M2, INT8, FP16} {
						for _, smooth := range []bool{false, true} {
							what := fmt.Sprintf("%s: %d channels, style %d, %s, smooth %v", level, d, style, dtype, smooth)
							v, w := NewValues(style, dtype, dtype.Max(), smooth, rows, d), NewValues(style, dtype, dtype.Max(), smooth, rows, d)
							v.Scan(0, x)
							v.Finish()
							w.ScanAt(level, 0, x)
							w.Finish()
							if !sameFloats(v.Scale, w.Scale) || !sameFloats(v.Mean, w.Mean) {
								t.Fatalf("%s: other scales or means", what)
							}
							encodeBoth(t, what, level, w, x)
						}
					}
				}
			}
		}
	}
}

// encodeBoth holds EncodeAt to Encode.
func encodeBoth(t *testing.T, what string, level Level, v *Values, x []float32) {
	t.Helper()
	got := make([]uint8, len(x))
	ok := v.EncodeAt(level, got, x)
	fast := level != (Level{}) && v.d%16 == 0 && (v.dtype == E4M3 || v.dtype == E5M2)
	if ok && !fast {
		t.Fatalf("%s: EncodeAt did what it has no instructions for", what)
	}
	nan := false
	codes := make([]uint16, v.d)
	for i := 0; i < len(x); i += v.d {
		v.Encode(codes, x[i:i+v.d])
		for c, code := range codes {
			f := v.dtype.Decode(code)
			nan = nan || f != f
			if ok && got[i+c] != uint8(code) {
				t.Fatalf("%s: %x of %g, want %x", what, got[i+c], x[i+c], code)
			}
		}
	}
	if fast && ok == nan {
		t.Fatalf("%s: EncodeAt returned %v, but is there a NaN? %v", what, ok, nan)
	}
}

// Every FP16 and BF16 value as an element of V, scaled as it is and by a half.
func TestEncodeEveryValue(t *testing.T) {
	const d = 16
	for _, level := range Levels() {
		for _, dtype := range []format.DType{format.FP16, format.BF16} {
			x := make([]float32, 0, 1<<16)
			for b := range uint32(1 << 16) {
				if f := dtype.FromBits(b); f-f == 0 {
					x = append(x, f)
				}
			}
			x = x[:len(x)/d*d]
			for _, style := range []Style{Fused, Paper} {
				for _, pv := range []PVType{E4M3, E5M2} {
					for _, most := range []float32{pv.Max(), 1, 300} {
						v := NewValues(style, pv, pv.Max(), false, 1, d)
						row := slices.Repeat([]float32{most}, d)
						v.Scan(0, row)
						v.Finish()
						encodeBoth(t, fmt.Sprintf("%s: %d, style %d, %s, %g", level, dtype, style, pv, most), level, v, x)
					}
				}
			}
		}
	}
}

// What the levels do with a group of Q or K is what the portable code does: any length,
// every style, width and rounding, codes that saturate, steps of zero, and values of
// every binade.
func TestGroupsAtLevels(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 7))
	for _, level := range Levels() {
		for round := range 40 {
			for _, n := range []int{0, 1, 14, 15, 16, 17, 31, 32, 33, 64, 127, 200} {
				x := hardRows(r, 1, n, round%5 != 0)
				if round%4 == 1 {
					for i := range x { // of one size
						x[i] = float32(r.NormFloat64()) * 100
					}
				}
				if got, want := AbsMaxAt(level, 0.5, x), AbsMax(0.5, x); got != want {
					t.Fatalf("%s: AbsMax of %d is %g, want %g", level, n, got, want)
				}
				amax := AbsMax(0, x)
				for _, style := range []Style{Paper, Triton, Fused, TritonBlock} {
					for _, bits := range []int{4, 8} {
						for own := StyleRounding; own <= TowardZero; own++ {
							for _, m := range []float32{amax, amax / 3, 127, 7, 0, 1e-30, 1e-37, float32(math.Inf(1))} {
								s := NewScale(style, bits, m).Rounded(own)
								got, want := make([]int8, n), make([]int8, n)
								s.QuantizeAt(level, got, x)
								s.Quantize(want, x)
								if !slices.Equal(got, want) {
									t.Fatalf("%s: %s int%d, rounding %d, maximum %g of %v: %v, want %v", level, style, bits, own, m, x, got, want)
								}
							}
						}
					}
				}
			}
		}
	}
}

// Finiteness and differences from means, with every width of a row.
func TestMeansAtLevels(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 9))
	for _, level := range Levels() {
		for _, d := range []int{1, 3, 7, 8, 9, 14, 15, 16, 17, 27, 32, 48, 49, 63, 64} {
			for round := range 20 {
				const rows = 5
				x, mean := hardRows(r, rows, d, true), hardRows(r, 1, d, true)
				for i := range mean {
					mean[i] = float32(r.NormFloat64())
				}
				for _, style := range []Style{Paper, Triton, Fused} {
					for _, to := range []format.DType{format.FP16, format.BF16, format.FP32, format.FP8} {
						got, want := slices.Clone(x), slices.Clone(x)
						SubtractMeanAt(level, style, got, mean, to)
						SubtractMean(style, want, mean, to.Round)
						if !sameFloats(got, want) {
							t.Fatalf("%s: %s differences from means in %s: %v, want %v", level, style, to, got, want)
						}
					}
				}
				a, b := NewChannelMean(d), NewChannelMean(d)
				a.Add(x)
				b.AddAt(level, x)
				if a.n != rows || a.n != b.n || !sameFloats(a.sum, b.sum) || !sameFloats(a.comp, b.comp) {
					t.Fatalf("%s: another mean of %d channels", level, d)
				}
				v, w := NewValues(Paper, E4M3, 448, true, rows, d), NewValues(Paper, E4M3, 448, true, rows, d)
				v.Scan(0, x)
				w.ScanAt(level, 0, x)
				v.Finish()
				w.Finish()
				if !sameFloats(v.Scale, w.Scale) || !sameFloats(v.Mean, w.Mean) {
					t.Fatalf("%s: other scales or means of %d channels", level, d)
				}
				if !FiniteAt(level, x) {
					t.Fatalf("%s: %v is not finite", level, x)
				}
				x[r.IntN(len(x))] = []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))}[round%3]
				if FiniteAt(level, x) {
					t.Fatalf("%s: %v is finite", level, x)
				}
			}
		}
	}
}

// TestLengths: slices that are too short, too long or no whole rows are an error, or as many
// elements are written as fit, at every level alike; nothing is written beyond.
func TestLengths(t *testing.T) {
	r := rand.New(rand.NewPCG(10, 11))
	const d = 16
	for _, level := range Levels() {
		x := hardRows(r, 3, d, true)
		for _, style := range []Style{Paper, Triton, Fused, TritonBlock} {
			for own := StyleRounding; own <= TowardZero; own++ {
				s := NewScale(style, 8, AbsMax(0, x)).Rounded(own)
				want := make([]int8, len(x))
				s.Quantize(want, x)
				for _, n := range []int{0, 1, 15, 16, 17, 47} {
					for _, long := range []int{n, len(x)} { // codes that are too short, and too long
						codes := slices.Repeat([]int8{99}, len(x))
						s.QuantizeAt(level, codes[:n], x[:long])
						s.QuantizeAt(level, codes[:long], x[:n])
						if !slices.Equal(codes[:n], want[:n]) || slices.ContainsFunc(codes[n:], func(c int8) bool { return c != 99 }) {
							t.Errorf("%s: %s, rounding %d, %d codes: %v", level, style, own, n, codes)
						}
					}
				}
			}
		}
		for _, style := range []Style{Fused, Paper} {
			v := NewValues(style, E4M3, 448, true, 3, d)
			for _, tc := range []struct {
				first int
				x     []float32
			}{{0, x[:d+1]}, {-16, x}, {1, x[:d]}, {16, x[:d]}, {0, hardRows(r, 4, d, true)}} {
				if err := v.ScanAt(level, tc.first, tc.x); err == nil {
					t.Errorf("%s: Scan takes %d elements from token %d on", level, len(tc.x), tc.first)
				}
			}
			if err := v.ScanAt(level, 0, x); err != nil {
				t.Error(err)
			}
			v.Encode(make([]uint16, d), x[:d]) // before Finish: no mean yet
			v.Finish()
			want := make([]uint16, d)
			v.Encode(want, x) // the first row's
			for _, n := range []int{0, 1, d - 1} {
				codes := slices.Repeat([]uint16{999}, d)
				v.Encode(codes[:n], x)
				v.Encode(codes, x[:n])
				if !slices.Equal(codes[:n], want[:n]) || slices.ContainsFunc(codes[n:], func(c uint16) bool { return c != 999 }) {
					t.Errorf("%s: %d codes of V: %v", level, n, codes)
				}
			}
			if v.EncodeAt(level, make([]uint8, 3*d-1), x) || v.EncodeAt(level, make([]uint8, 3*d), x[1:]) {
				t.Errorf("%s: EncodeAt takes slices of other lengths", level)
			}
		}
		for _, n := range []int{-1, 0} {
			m := NewChannelMean(n) // one channel
			m.AddAt(level, x)
			mean := []float32{0, 99}
			m.Mean(mean, format.FP32.Round)
			m.FrameworkMean(mean, format.FP32.Round)
			if m.n != len(x) || mean[1] != 99 {
				t.Errorf("%s: %d rows, means %v", level, m.n, mean)
			}
			if err := NewValues(Paper, E4M3, 448, false, n, n).ScanAt(level, 0, x[:1]); err == nil {
				t.Errorf("%s: Scan takes a row of none", level)
			}
		}
		var none ChannelMean
		none.AddAt(level, x)
		none.Mean(make([]float32, 2), format.FP32.Round)
		if err := new(Values).ScanAt(level, 0, x); err == nil || none.n != 0 {
			t.Errorf("%s: the zero values take rows", level)
		}
		got := slices.Clone(x)
		if SubtractMeanAt(level, Paper, got, nil, format.FP32); !slices.Equal(got, x) {
			t.Errorf("%s: a mean of no channels was subtracted", level)
		}
	}
}

// FP16 codes of V are the same at every level, and what is no ordinary number is left to
// Encode.
func TestWideCodesAtLevels(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 9))
	const d = 32
	for _, level := range Levels() {
		took := 0
		for range 300 {
			v := NewValues(Paper, FP16, 0, false, 4, d)
			x := hardRows(r, 4, d, true)
			for i := range x {
				if math.Abs(float64(x[i])) > 65504 && r.IntN(40) != 0 {
					x[i] = 65504
				}
			}
			got, want := make([]uint16, 4*d), make([]uint16, 4*d)
			if !v.EncodeWideAt(level, got, x) {
				continue
			}
			took++
			for i := range 4 {
				v.Encode(want[i*d:(i+1)*d], x[i*d:(i+1)*d])
			}
			if !slices.Equal(got, want) {
				t.Fatalf("%s: %v: %v, want %v", level, x, got, want)
			}
		}
		if portable := level == (Level{}); portable && took > 0 || !portable && took < 20 {
			t.Errorf("%s: %d of 300 runs", level, took)
		}
		other := NewValues(Paper, E4M3, 448, false, 4, d)
		less := NewValues(Paper, FP16, 0, false, 4, d)
		less.Mean = make([]float32, d)
		truncated := NewValues(Paper, FP16, 0, false, 4, d)
		truncated.TowardZero = true
		for _, v := range []*Values{other, less, truncated} {
			if v.EncodeWideAt(level, make([]uint16, d), make([]float32, d)) {
				t.Errorf("%s: codes of %s with a mean, truncated %v", level, v.dtype, v.TowardZero)
			}
		}
	}
}

// TestRotateAt: rows rotated in the lanes are those rotated one by one, whatever is in them and
// however many there are, and ordinary ones are rotated in the lanes.
func TestRotateAt(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 7))
	for _, level := range Levels() {
		for rot := H4; rot <= H128Signed; rot++ {
			for _, d := range []int{1, 40, 64, 128, 130} {
				for _, rows := range []int{1, 7, 8, 64, 65, 73} {
					for _, finite := range []bool{true, false} {
						x := hardRows(r, rows, d, finite)
						for i := range x {
							if finite && r.IntN(2) == 0 { // where results are tiny
								x[i] = float32(math.Ldexp(r.NormFloat64(), -126+r.IntN(6)))
							}
						}
						w := rot.Width(d)
						want, got := rot.Rotate(make([]float32, rows*w), x, d), rot.RotateAt(level, make([]float32, rows*w), x, d)
						if !sameFloats(got, want) {
							t.Fatalf("%s, %s: %d rows of %d channels, finite %v: differ", level, rotations[rot], rows, d, finite)
						}
					}
				}
			}
			if !level.l.Lanes() {
				continue
			}
			x, w := make([]float32, 64*100), rot.Width(100)
			for i := range x {
				x[i] = float32(r.NormFloat64())
			}
			if !rot.lanes(level, make([]float32, w*64), make([]float32, w*64), x, 100) {
				t.Errorf("%s, %s: ordinary rows are not rotated in the lanes", level, rotations[rot])
			}
		}
		if got := H64.RotateAt(level, make([]float32, 100), make([]float32, 90), 40); len(got) != 64 {
			t.Errorf("%d elements of one row that has room", len(got))
		}
	}
}
