package vec_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/internal/vec"
)

// The tests of this file hold the interpreter's steps to their operations where results are about
// 2^-126: a GPU looks at what was rounded to see whether to flush it, IEEE's subnormal numbers and
// arm64 at something else.

// arith is the FP32 operations of a Control.
type arith struct {
	mul, add func(x, y float32) float32
	fma      func(x, y, z float32) float32
}

func arithOf(c vec.Control) arith {
	if c == vec.Flush {
		return arith{format.MulFtz, format.AddFtz, format.FMAFtz}
	}
	return arith{func(x, y float32) float32 { return float32(x * y) }, func(x, y float32) float32 { return x + y }, format.FMA}
}

// edge is what results are about.
const edge = 0x1p-126

// factors draws factors for rows: between 2^-20 and 1, some of them 1.
func factors(r *rand.Rand) (f [vec.Rows]float32) {
	for i := range f {
		f[i] = float32(math.Ldexp(1+r.Float64(), -1-r.IntN(20)))
		if r.IntN(4) == 0 {
			f[i] = 1
		}
	}
	return f
}

// near returns a number whose product with y is about 2^-126, and now and then one that is
// subnormal.
func near(r *rand.Rand, y float32) float32 {
	x := math.Float32frombits(math.Float32bits(float32(edge/float64(y))) + uint32(r.IntN(3)) - 1)
	if r.IntN(2) == 0 {
		x = -x
	}
	return x
}

// nearSum returns numbers x and z such that x*y + z is about 2^-126.
func nearSum(r *rand.Rand, y float32) (x, z float32) {
	x = float32(math.Copysign((1+7*r.Float64())*edge, r.Float64()-0.5) / float64(y))
	return x, float32(math.Copysign(edge, r.Float64()-0.5) - float64(x)*float64(y))
}

// seen counts the results at which ways to flush differ.
type seen struct{ kept, flushed int }

// note looks at a result, which is to be got and would be exact without any rounding.
func (s *seen) note(got float32, exact float64) {
	switch {
	case math.Abs(float64(got)) == edge && math.Abs(exact) < edge:
		s.kept++
	case got == 0 && math.Abs(float64(float32(exact))) == edge:
		s.flushed++
	}
}

func (s *seen) check(t *testing.T, what string) {
	t.Helper()
	if s.kept < 20 || s.flushed < 20 {
		t.Errorf("%s: %d results round up to 2^-126 and stay, %d do not: the test compares too little", what, s.kept, s.flushed)
	}
}

// TestCombineFlushes holds the joins to their operations.
func TestCombineFlushes(t *testing.T) { forLanes(t, testCombineFlushes) }

func testCombineFlushes(t *testing.T, l vec.Level) {
	r := rand.New(rand.NewPCG(21, 1))
	const channels = 3
	for j, f := range map[vec.Join]func(m arith, x, y, a, b float32) (float32, float64){
		vec.JoinNone: func(m arith, x, y, a, b float32) (float32, float64) { return m.mul(x, a), float64(x) * float64(a) },
		vec.JoinFMA: func(m arith, x, y, a, b float32) (float32, float64) {
			return m.fma(x, a, y), float64(x)*float64(a) + float64(y)
		},
		vec.JoinTwice: func(m arith, x, y, a, b float32) (float32, float64) {
			return m.add(m.mul(x, a), y), float64(x)*float64(a) + float64(y)
		},
		vec.JoinFactor: func(m arith, x, y, a, b float32) (float32, float64) {
			z := m.mul(x, a)
			return m.fma(y, b, z), float64(y)*float64(b) + float64(z)
		},
	} {
		var s seen
		for range times(160) {
			alpha, factor := factors(r), factors(r)
			o, tile := make([]float32, channels*vec.Rows), make([]float32, channels*vec.Rows)
			for i := range o {
				a, b := alpha[i%vec.Rows], factor[i%vec.Rows]
				switch {
				case j == vec.JoinNone || j == vec.JoinTwice || r.IntN(4) == 0:
					o[i] = near(r, a)
				case j == vec.JoinFMA:
					o[i], tile[i] = nearSum(r, a)
				case a == 1:
					tile[i], o[i] = nearSum(r, b)
				default:
					tile[i] = near(r, b)
				}
			}
			for _, c := range []vec.Control{vec.Keep, vec.Flush} {
				got := append([]float32(nil), o...)
				if !l.Combine(j, got, tile, &alpha, &factor, c) {
					t.Fatal("not finite")
				}
				for i, x := range o {
					a, b := alpha[i%vec.Rows], factor[i%vec.Rows]
					want, exact := f(arithOf(c), x, tile[i], a, b)
					if sameBits(t, "a join", got[i], want, x, tile[i], a, b); c == vec.Flush {
						s.note(want, exact)
					}
				}
			}
		}
		s.check(t, "a join")
	}
}

// TestSumsFlush holds the first keys of sums to their operations.
func TestSumsFlush(t *testing.T) { forLanes(t, testSumsFlush) }

func testSumsFlush(t *testing.T, l vec.Level) {
	r := rand.New(rand.NewPCG(22, 1))
	const keys, threads = 8, 4
	for _, twice := range []bool{false, true} {
		var s seen
		for range times(160) {
			alpha := factors(r)
			sum, w := make([]float32, threads*vec.Rows), make([]float32, keys*vec.Rows)
			for i := range sum {
				row, first := i%vec.Rows, &w[i/vec.Rows*2*vec.Rows+i%vec.Rows]
				if twice || r.IntN(4) == 0 {
					sum[i] = near(r, alpha[row])
				} else {
					sum[i], *first = nearSum(r, alpha[row])
				}
			}
			for _, c := range []vec.Control{vec.Keep, vec.Flush} {
				got, m := append([]float32(nil), sum...), arithOf(c)
				l.SumsFrom(got, w, &alpha, keys, c, twice)
				for i, x := range sum {
					a, first := alpha[i%vec.Rows], w[i/vec.Rows*2*vec.Rows+i%vec.Rows]
					want := m.fma(x, a, first)
					if twice {
						want = m.add(m.mul(x, a), first)
					}
					if sameBits(t, "a sum", got[i], m.add(want, 0), x, a, first); c == vec.Flush {
						s.note(want, float64(x)*float64(a)+float64(first))
					}
				}
			}
		}
		s.check(t, "a sum")
	}
}

// TestScale holds the scaling of scores to its operations, of any numbers and of products about
// 2^-126.
func TestScale(t *testing.T) { forLanes(t, testScale) }

func testScale(t *testing.T, l vec.Level) {
	r := rand.New(rand.NewPCG(23, 1))
	const keys = 5
	var factor, product seen
	for round := range times(400) {
		q, k, s := [vec.Rows]float32(oddNumbers(r, vec.Rows)), oddNumbers(r, keys), oddNumbers(r, keys*vec.Rows)
		if round%2 == 0 {
			q = factors(r)
			for i := range k {
				k[i] = float32(math.Ldexp(1+r.Float64(), -10))
			}
			for i := range q {
				if i%2 == 0 {
					q[i] = near(r, k[i/2%keys])
				}
			}
			for i := range s {
				if s[i] = 1; i%2 != 0 {
					s[i] = near(r, float32(q[i%vec.Rows]*k[i/vec.Rows]))
				}
			}
		}
		for _, c := range []vec.Control{vec.Keep, vec.Flush} {
			got, m := append([]float32(nil), s...), arithOf(c)
			l.Scale(got, &q, k, c)
			for i, x := range s {
				a, b := q[i%vec.Rows], k[i/vec.Rows]
				by := m.mul(a, b)
				want := m.mul(x, by)
				if sameBits(t, "a score", got[i], want, x, a, b); c == vec.Flush {
					factor.note(by, float64(a)*float64(b))
					product.note(want, float64(x)*float64(by))
				}
			}
		}
	}
	factor.check(t, "a factor")
	product.check(t, "a product")
}

// TestOutputFlushes holds the products of an output to their operations.
func TestOutputFlushes(t *testing.T) { forLanes(t, testOutputFlushes) }

func testOutputFlushes(t *testing.T, l vec.Level) {
	r := rand.New(rand.NewPCG(24, 1))
	for _, last := range []bool{false, true} {
		var first, second seen
		for round := range times(2400) {
			// The first product is of inverse and with, the second of that and then.
			with, then, inverse := make([]float32, 16), make([]float32, 16), factors(r)[0]
			for i := range with {
				if with[i], then[i] = near(r, inverse), 1; round%2 != 0 {
					with[i] = float32(1 + r.Float64())
					then[i] = near(r, float32(inverse*with[i]))
				}
			}
			o, scale := then, with
			if last {
				o, scale = with, then
			}
			for _, c := range []vec.Control{vec.Keep, vec.Flush} {
				out, m := make([]float32, 16), arithOf(c)
				if !l.Output(format.FP32, out, o, scale, inverse, last, c) {
					t.Fatal("not finite")
				}
				for i := range out {
					p := m.mul(inverse, with[i])
					want := m.mul(p, then[i])
					if sameBits(t, "an output", out[i], want, o[i], inverse, scale[i]); c == vec.Flush {
						first.note(p, float64(inverse)*float64(with[i]))
						second.note(want, float64(p)*float64(then[i]))
					}
				}
			}
		}
		first.check(t, "a first product")
		second.check(t, "a second product")
	}
}

// TestOutputRefuses: an output that is NaN, of which some round to numbers of BF16, or infinite
// is not taken, wherever it stands.
func TestOutputRefuses(t *testing.T) { forLanes(t, testOutputRefuses) }

func testOutputRefuses(t *testing.T, l vec.Level) {
	const channels = 32
	scale, out := make([]float32, channels), make([]float32, channels)
	for i := range scale {
		scale[i] = 1
	}
	for _, bits := range []uint32{0x7fffffff, 0xffffffff, 0x7f800001, 0x7f800000, 0xff800000} {
		for _, to := range []format.DType{format.FP16, format.BF16, format.FP32} {
			for at := range channels {
				o := make([]float32, channels)
				o[at] = math.Float32frombits(bits)
				for _, last := range []bool{false, true} {
					if l.Output(to, out, o, scale, 1, last, vec.Flush) {
						t.Errorf("%s: %08x in channel %d is taken", to, bits, at)
					}
				}
			}
		}
	}
}
