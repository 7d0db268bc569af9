package vec_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/internal/vec"
	"github.com/sageacc/sageacc/emulate/mufu"
	"github.com/sageacc/sageacc/internal/sweep"
)

// forLanes runs a test at every level that has steps of the interpreter.
func forLanes(t *testing.T, f func(t *testing.T, l vec.Level)) {
	ran := false
	for _, l := range vec.Levels() {
		if l.Lanes() {
			ran = true
			t.Run(l.String(), func(t *testing.T) { f(t, l) })
		}
	}
	if !ran {
		t.Skip("no level has steps here")
	}
}

// times is how often to do what is done n times in the full sweeps.
func times(n int) int {
	switch {
	case sweep.Full():
		return n
	case testing.Short():
		return n / 8
	}
	return n / 4
}

// oddNumbers are FP32 numbers of every binade, and the ends of what is special about them.
func oddNumbers(r *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		switch r.IntN(4) {
		case 0:
			x[i] = float32(r.NormFloat64())
		case 1: // where results are tiny
			x[i] = float32(math.Copysign(math.Ldexp(1+r.Float64(), -126+r.IntN(4)-2), r.Float64()-0.5))
		case 2:
			x[i] = []float32{0, 1, -1, 0x1p-126, -0x1p-126, 0x1p-149, 0x1.fffffep-1, 0x1.fffffep-127}[r.IntN(8)]
		default:
			x[i] = float32(math.Ldexp(r.NormFloat64(), r.IntN(120)-100))
		}
	}
	return x
}

func sameBits(t *testing.T, what string, got, want float32, operands ...float32) {
	t.Helper()
	if math.Float32bits(got) != math.Float32bits(want) {
		t.Fatalf("%s of %x: %x (%08x), want %x (%08x)", what, operands, got, math.Float32bits(got), want, math.Float32bits(want))
	}
}

// TestControl: operations under a Control are those of package format, with results that are
// tiny before and after rounding, or subnormal.
func TestControl(t *testing.T) { forLanes(t, testControl) }

func testControl(t *testing.T, l vec.Level) {
	r := rand.New(rand.NewPCG(1, 2))
	const channels = 8
	for round := range times(800) {
		o, tile := oddNumbers(r, channels*vec.Rows), oddNumbers(r, channels*vec.Rows)
		alpha, factor := [vec.Rows]float32(oddNumbers(r, vec.Rows)), [vec.Rows]float32(oddNumbers(r, vec.Rows))
		if round%2 == 0 { // whose products FP16 has
			for i, x := range o {
				o[i] = max(-60000, min(x, 60000))
			}
			for i, x := range alpha {
				alpha[i] = max(-1, min(x, 1))
			}
		}
		for _, c := range []vec.Control{vec.Keep, vec.Flush} {
			mul, add, fma := func(x, y float32) float32 { return float32(x * y) }, func(x, y float32) float32 { return x + y }, format.FMA
			if c == vec.Flush {
				mul, add, fma = format.MulFtz, format.AddFtz, format.FMAFtz
			}
			for j, f := range map[vec.Join]func(x, y, a, b float32) float32{
				vec.JoinNone:     func(x, y, a, b float32) float32 { return mul(x, a) },
				vec.JoinNoneFP16: func(x, y, a, b float32) float32 { return format.RoundFP16(mul(x, a)) },
				vec.JoinFMA:      func(x, y, a, b float32) float32 { return fma(x, a, y) },
				vec.JoinTwice:    func(x, y, a, b float32) float32 { return add(mul(x, a), y) },
				vec.JoinFactor:   func(x, y, a, b float32) float32 { return fma(y, b, mul(x, a)) },
			} {
				got := append([]float32(nil), o...)
				valid, finite := l.Combine(j, got, tile, &alpha, &factor, c), true
				for i, x := range o {
					a, b := alpha[i%vec.Rows], factor[i%vec.Rows]
					want := f(x, tile[i], a, b)
					if finite = finite && want-want == 0; finite {
						sameBits(t, "a join", got[i], want, x, tile[i], a, b)
					}
				}
				if valid != finite || round%2 == 0 && !valid {
					t.Fatalf("join %d: valid %v, finite %v", j, valid, finite)
				}
			}
		}
	}
	bad := make([]float32, vec.Rows)
	bad[63] = float32(math.Inf(1))
	if l.Combine(vec.JoinFMA, bad, make([]float32, vec.Rows), &[vec.Rows]float32{63: 1}, &[vec.Rows]float32{}, vec.Keep) {
		t.Error("an infinity is finite")
	}
}

// TestWeights: exponents and ex2 of a strip, in one rounding or two, of every size.
func TestWeights(t *testing.T) { forLanes(t, testWeights) }

func testWeights(t *testing.T, l vec.Level) {
	r := rand.New(rand.NewPCG(3, 4))
	const keys, threads = 16, 4
	table := mufu.Ex2Coefficients()
	ran := 0
	for round := range times(1000) {
		s, scale, lower := oddNumbers(r, keys*vec.Rows), oddNumbers(r, threads*vec.Rows), oddNumbers(r, threads*vec.Rows)
		spread := []float64{1, 20, 80, 160}[round%4]
		for i := range s {
			if r.IntN(2) == 0 {
				s[i] = float32(-spread * r.Float64())
			}
			if r.IntN(50) == 0 {
				s[i] = float32(math.Inf(-1))
			}
			if round%10 != 0 {
				s[i] = min(s[i], 100)
			}
		}
		for i := range scale {
			scale[i] = float32(math.Abs(float64(scale[i])))
			if r.IntN(2) == 0 || !(scale[i] < 1.25 && scale[i] > 0) {
				scale[i] = 1
			}
			lower[i] = float32(math.Abs(float64(lower[i])))
		}
		for variant := range 6 {
			twice, wide, c := variant&1 != 0, variant >= 4, vec.Keep
			if variant&2 != 0 {
				c = vec.Flush
			}
			got := append([]float32(nil), s...)
			valid := l.Weights(got, scale, lower, table, keys, c, twice, wide)
			want := make([]float32, len(s))
			good := true
			for i, x := range s {
				j := i/vec.Rows%8/2*vec.Rows + i%vec.Rows
				var e float32
				switch {
				case twice && c == vec.Flush:
					e = format.SubFtz(format.MulFtz(x, scale[j]), lower[j])
				case twice:
					e = float32(x*scale[j]) - lower[j]
				case c == vec.Flush:
					e = format.FMAFtz(x, scale[j], -lower[j])
				default:
					e = format.FMA(x, scale[j], -lower[j])
				}
				if good = good && e < 128; !good {
					break
				}
				if want[i] = mufu.Ex2(e); wide && e < -126 {
					h := mufu.Ex2(e * 0.5)
					want[i] = float32(h * h)
				}
			}
			if valid != good {
				t.Fatalf("valid %v, want %v", valid, good)
			}
			if !good {
				continue
			}
			ran++
			for i := range want {
				j := i/vec.Rows%8/2*vec.Rows + i%vec.Rows
				sameBits(t, "a weight", got[i], want[i], s[i], scale[j], lower[j])
			}
		}
	}
	if ran < times(1000) {
		t.Errorf("only %d strips had exponents in range", ran)
	}
	for x, want := range map[float32]bool{128: false, math.Nextafter32(128, 0): true, float32(math.NaN()): false} {
		s, one := make([]float32, keys*vec.Rows), make([]float32, threads*vec.Rows)
		for i := range one {
			one[i] = 1
		}
		s[9*vec.Rows+3] = x
		if got := l.Weights(s, one, make([]float32, len(one)), table, keys, vec.Flush, false, false); got != want {
			t.Errorf("an exponent of %g: valid %v", x, got)
		}
	}
}

// TestRound: every value half way between two numbers of a format, and its neighbours.
func TestRound(t *testing.T) { forLanes(t, testRound) }

func testRound(t *testing.T, l vec.Level) {
	r := rand.New(rand.NewPCG(5, 6))
	for to, f := range map[vec.Weight]struct {
		round func(float32) float32
		most  float32
		top   float32 // the largest that is valid
	}{
		vec.WeightFP16: {format.RoundFP16, math.MaxFloat32, 65504},
		vec.WeightBF16: {format.RoundBF16, math.MaxFloat32, math.Float32frombits(0x7f7f0000)},
		vec.WeightE4M3: {func(x float32) float32 { return format.E4M3FromFloat32(x).Float32() }, 448, 448},
		vec.WeightE5M2: {func(x float32) float32 { return format.E5M2FromFloat32(x).Float32() }, 57344, 57344},
		vec.WeightInt:  {func(x float32) float32 { return float32(format.Uint8FromFloat32(x, false)) }, 255, 255},
	} {
		src, dst := make([]float32, 256), make([]float32, 256)
		for range times(4000) {
			for i := range src {
				x := math.Ldexp(float64(1<<23+r.IntN(1<<23)), -23+r.IntN(44)-36)
				if r.IntN(2) == 0 { // few digits: ties
					x = math.Ldexp(float64(r.IntN(1<<(1+r.IntN(13)))), -r.IntN(30))
				}
				src[i] = min(float32(x), f.top, 60000)
			}
			if !l.Round(to, dst, src, f.most) {
				t.Fatalf("format %d: not valid", to)
			}
			for i, x := range src {
				sameBits(t, "a rounding", dst[i], f.round(x), x)
			}
		}
		for _, x := range []float32{float32(math.NaN()), float32(math.Inf(1)), math.Nextafter32(f.top, float32(math.Inf(1)))} {
			if src[77] = x; l.Round(to, dst, src, f.most) {
				t.Errorf("format %d: %g is valid", to, x)
			}
		}
	}
}

// TestSums holds the sums to additions one by one, with results that are flushed.
func TestSums(t *testing.T) { forLanes(t, testSums) }

func testSums(t *testing.T, l vec.Level) {
	r := rand.New(rand.NewPCG(7, 8))
	const threads = 4
	for range times(500) {
		keys := 8 * (1 + r.IntN(5))
		w, sum, alpha := oddNumbers(r, keys*vec.Rows), oddNumbers(r, threads*vec.Rows), [vec.Rows]float32(oddNumbers(r, vec.Rows))
		for mode := range 6 {
			c, mul, add, fma := vec.Keep, func(x, y float32) float32 { return float32(x * y) }, func(x, y float32) float32 { return x + y }, format.FMA
			if mode&1 != 0 {
				c, mul, add, fma = vec.Flush, format.MulFtz, format.AddFtz, format.FMAFtz
			}
			got := append([]float32(nil), sum...)
			switch mode / 2 {
			case 0:
				l.Sums(got, w, keys, c)
			default:
				l.SumsFrom(got, w, &alpha, keys, c, mode/2 == 2)
			}
			for i, want := range sum {
				j, row := i/vec.Rows, i%vec.Rows
				for key := range keys {
					x := w[key*vec.Rows+row]
					switch {
					case key%8/2 != j:
					case key != 2*j:
						want = add(want, x)
					case mode/2 == 1:
						want = fma(want, alpha[row], x)
					case mode/2 == 2:
						want = add(mul(want, alpha[row]), x)
					}
				}
				sameBits(t, "a sum", got[i], want)
			}
		}
	}
}

// TestMultiply: products of whole numbers, at their largest too, for rows apart and of every depth.
func TestMultiply(t *testing.T) { forLanes(t, testMultiply) }

func testMultiply(t *testing.T, l vec.Level) {
	r := rand.New(rand.NewPCG(9, 10))
	for round := range times(200) {
		rows, depth := 2*(1+r.IntN(4)), 1+r.IntN(128)
		stride := depth + r.IntN(5)
		a, b := make([]float32, rows*stride), make([]float32, depth*vec.Rows)
		for i := range a {
			if a[i] = float32(r.IntN(256) - 128); round == 0 {
				a[i] = -128
			}
		}
		for i := range b {
			if b[i] = float32(r.IntN(256)); round == 0 {
				b[i] = 255
			}
		}
		acc := oddNumbers(r, rows*vec.Rows)
		l.Multiply(acc, a, stride, b)
		for i, got := range acc {
			want := float32(0)
			for k := range depth {
				want += float32(a[i/vec.Rows*stride+k] * b[k*vec.Rows+i%vec.Rows])
			}
			sameBits(t, "a product", got, want)
		}
	}
}

// TestTops: maxima, and scores that are not finite.
func TestTops(t *testing.T) { forLanes(t, testTops) }

func testTops(t *testing.T, l vec.Level) {
	inf := float32(math.Inf(1))
	for _, tc := range []struct {
		x, masked float32
		want      bool
	}{{1, -inf, true}, {-inf, -inf, true}, {-inf, -5e6, false}, {inf, -inf, false}, {float32(math.NaN()), -inf, false}, {-5e6, -5e6, true}, {0x1p-149, -inf, true}} {
		const keys = 16
		s, top := make([]float32, keys*vec.Rows), make([]float32, 4*vec.Rows)
		for i := range top {
			top[i] = -inf
		}
		for i := range s {
			s[i] = -1 - float32(i)
		}
		s[11*vec.Rows+37] = tc.x // of thread 1
		if got := l.Tops(s, top, keys, tc.masked); got != tc.want {
			t.Errorf("%g masked as %g: %v", tc.x, tc.masked, got)
		}
		for i, x := range top {
			want := -1 - float32(i/vec.Rows*2*vec.Rows+i%vec.Rows)
			if i == vec.Rows+37 {
				want = max(want, tc.x)
			}
			if tc.want && x != want {
				t.Errorf("%g: top %d is %g, want %g", tc.x, i, x, want)
			}
		}
	}
}

// TestOutput holds the end of a row to the operations that it is made of.
func TestOutput(t *testing.T) { forLanes(t, testOutput) }

func testOutput(t *testing.T, l vec.Level) {
	r := rand.New(rand.NewPCG(11, 12))
	ran := 0
	for range times(4000) {
		o, scale, inverse := oddNumbers(r, 32), oddNumbers(r, 32), oddNumbers(r, 1)[0]
		for _, to := range []format.DType{format.FP16, format.BF16, format.FP32} {
			for mode := range 4 {
				c, mul := vec.Keep, func(x, y float32) float32 { return float32(x * y) }
				if mode&1 != 0 {
					c, mul = vec.Flush, format.MulFtz
				}
				out := make([]float32, len(o))
				valid, want := l.Output(to, out, o, scale, inverse, mode&2 != 0, c), true
				for i, x := range o {
					if mode&2 != 0 {
						x = mul(mul(x, inverse), scale[i])
					} else {
						x = mul(x, mul(inverse, scale[i]))
					}
					if y := to.Round(x); y-y != 0 || x-x != 0 {
						want = false
					} else if valid {
						sameBits(t, to.String(), out[i], y, o[i], inverse, scale[i])
					}
				}
				if valid != want {
					t.Fatalf("%s: valid %v, want %v", to, valid, want)
				}
				if valid {
					ran++
				}
			}
		}
	}
	if ran < times(1000) || ran == times(4000)*12 {
		t.Errorf("%d rows ran", ran)
	}
}

// TestExponents: of every code of the formats, in every lane.
func TestExponents(t *testing.T) { forLanes(t, testExponents) }

func testExponents(t *testing.T, l vec.Level) {
	for _, tc := range []struct {
		name   string
		format vec.Format
		value  func(c uint8) float32
		least  int
	}{
		{"e4m3", vec.E4M3, func(c uint8) float32 { return format.E4M3(c).Float32() }, -6},
		{"e5m2", vec.E5M2, func(c uint8) float32 { return format.E5M2(c).Float32() }, -14},
	} {
		var x [128 + 16]float32
		for c := range x {
			if v := tc.value(uint8(c % 128)); v-v == 0 {
				x[c] = v
			}
		}
		for at := range 16 {
			got := make([]uint8, 128)
			l.Exponents(tc.format, got, x[at:at+128])
			for i, v := range x[at : at+128] {
				want := 0
				if v != 0 {
					want = 127 + max(int(math.Float32bits(v)>>23)-127, tc.least)
				}
				if int(got[i]) != want {
					t.Errorf("%s: the exponent of %g is %d, want %d", tc.name, v, got[i], want)
				}
			}
		}
	}
}
