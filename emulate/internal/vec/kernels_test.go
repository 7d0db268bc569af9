package vec_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/internal/vec"
	"github.com/sageacc/sageacc/emulate/mufu"
)

// The tests of this file hold each kernel to its operations, as package format has them,
// with ordinary numbers, of which a kernel must not give up, and with what may make it.

const rows = vec.Rows

// forLevels runs a test at every vector level of this machine, several times.
func forLevels(t *testing.T, rounds int, f func(t *testing.T, l vec.Level, r *rand.Rand, round int)) {
	for _, l := range vec.Levels()[1:] {
		t.Run(l.String(), func(t *testing.T) {
			r := rand.New(rand.NewPCG(5, 6))
			for round := range rounds {
				if f(t, l, r, round); t.Failed() {
					t.Fatalf("in round %d", round)
				}
			}
		})
	}
}

// kind is a kind of numbers to draw.
type kind int

const (
	ordinary kind = iota // of moderate size
	below                // products of two are subnormal
	odd                  // now and then those at the ends of the format
	tiny                 // products of two are about 2^-126, where flushing begins
)

// draw returns n numbers, none of them subnormal.
func draw(r *rand.Rand, n int, k kind) []float32 {
	ends := []float32{
		0, float32(math.Copysign(0, -1)), 0x1p-126, -0x1p-126, 0x1.000002p-126, 0x1p-63, 0x1p-103,
		math.MaxFloat32, -math.MaxFloat32, 65504, 65520, float32(math.Inf(1)), float32(math.Inf(-1)), float32(math.NaN()),
	}
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(math.Ldexp(r.NormFloat64(), r.IntN(20)-10))
		switch {
		case k == odd && r.IntN(40) == 0:
			x[i] = ends[r.IntN(len(ends))]
		case k == below:
			x[i] = float32(math.Copysign((1+0.3*r.Float64())*0x1p-64, r.NormFloat64()))
		case k == tiny:
			x[i] = []float32{0x1.fffffep-64, -0x1.fffffep-64, 0x1.fffffcp-64, 0x1p-63, 0x1.000002p-63, 0x1p-62, 0}[r.IntN(7)]
		}
	}
	return x
}

func same(t *testing.T, what string, got, want []float32) {
	t.Helper()
	for i := range want {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			t.Errorf("%s, element %d: %x, want %x", what, i, got[i], want[i])
			return
		}
	}
}

func clone[T any](x []T) []T { return append([]T(nil), x...) }

func TestQK(t *testing.T) {
	forLevels(t, 30, func(t *testing.T, l vec.Level, r *rand.Rand, round int) {
		dim, keys := 4*(1+r.IntN(33)), 4*(1+r.IntN(20))
		q, k, bias := make([]uint8, dim*rows), make([]int8, keys*dim), make([]int32, keys)
		for i := range q {
			q[i] = uint8(r.Uint32())
		}
		for i := range k {
			k[i] = int8(r.Uint32())
			if round == 0 {
				k[i], q[i%len(q)] = -128, 0
			}
			bias[i/dim] -= 128 * int32(k[i])
		}
		out := make([]float32, keys*rows)
		l.QK(out, q, k, bias, keys, new(vec.Scratch))
		for i, x := range out {
			want := int32(0)
			for c := range dim {
				want += (int32(q[c/4*4*rows+4*(i%rows)+c%4]) - 128) * int32(k[i/rows*dim+c])
			}
			if got := int32(math.Float32bits(x)); got != want {
				t.Fatalf("key %d row %d: %d, want %d", i/rows, i%rows, got, want)
			}
		}
	})
}

func TestToFloat(t *testing.T) {
	forLevels(t, 20, func(t *testing.T, l vec.Level, r *rand.Rand, round int) {
		keys := 8 * (1 + r.IntN(6))
		s, top := make([]float32, keys*rows), draw(r, 4*rows, ordinary)
		want, wantTop := make([]float32, len(s)), clone(top)
		for i := range s {
			x := int32(r.IntN(1<<16) - 1<<15)
			s[i], want[i] = math.Float32frombits(uint32(x)), float32(x)
			m := &wantTop[i/rows%8/2*rows+i%rows]
			*m = max(*m, want[i])
		}
		l.ToFloat(s, top, keys)
		same(t, "score", s, want)
		same(t, "maximum", top, wantTop)
	})
}

func TestDequantize(t *testing.T) {
	const masked = -5e6
	forLevels(t, 3*rows, func(t *testing.T, l vec.Level, r *rand.Rand, round int) {
		keys, k := 8*(1+r.IntN(6)), kind(round%4)
		s, top := make([]float32, keys*rows), make([]float32, 4*rows)
		for i := range top {
			top[i] = masked
		}
		qScale := [rows]float32(draw(r, rows, k))
		kScale, delta := draw(r, keys, k), draw(r, keys, k)
		if k == tiny || k == below {
			clear(delta)
		}
		var limit [rows]int32
		want, wantTop := make([]float32, len(s)), clone(top)
		for i := range limit {
			limit[i] = int32(r.IntN(keys+10) - 5)
			if round%3 == 0 && i != round/3 { // one row alone is masked
				limit[i] = int32(keys + r.IntN(2))
			}
		}
		for i := range s {
			x := int32(r.IntN(1<<16) - 1<<15)
			s[i] = math.Float32frombits(uint32(x))
			key, row := i/rows, i%rows
			if want[i] = masked; key < int(limit[row]) {
				want[i] = format.FMAFtz(float32(x), format.MulFtz(qScale[row], kScale[key]), delta[key])
			}
			if m := &wantTop[key%8/2*rows+row]; want[i] > *m {
				*m = want[i]
			}
		}
		if !l.Dequantize(s, top, keys, &qScale, kScale, delta, &limit, masked) {
			if k == ordinary {
				t.Error("gave up")
			}
			return
		}
		same(t, "score", s, want)
		same(t, "maximum", top, wantTop)
	})
}

// TestDequantizeRefuses: a score that counts and is not finite is reported, one that does not is
// not looked at.
func TestDequantizeRefuses(t *testing.T) {
	const keys, masked = 16, -5e6
	for _, l := range vec.Levels()[1:] {
		for _, bad := range []float32{float32(math.Inf(1)), float32(math.Inf(-1)), float32(math.NaN())} {
			for key := range keys {
				for _, live := range []int{-1, 0, 37, 63, rows} { // the row whose scores count, none or all
					s, top, delta := make([]float32, keys*rows), make([]float32, 4*rows), make([]float32, keys)
					delta[key] = bad
					var qScale [rows]float32
					var limit [rows]int32
					for r := range limit {
						if limit[r] = int32(key); r == live || live == rows {
							limit[r] = keys
						}
					}
					if ok := l.Dequantize(s, top, keys, &qScale, make([]float32, keys), delta, &limit, masked); ok != (live < 0) {
						t.Errorf("%v: %v at key %d, row %d counts: ok is %v", l, bad, key, live, ok)
					}
				}
			}
		}
	}
}

func TestAddTile(t *testing.T) {
	forLevels(t, 200, func(t *testing.T, l vec.Level, r *rand.Rand, round int) {
		channels, k := 1+r.IntN(3), kind(round%4)
		o, tile := draw(r, channels*rows, k), draw(r, channels*rows, k)
		factors := [rows]float32(draw(r, rows, k))
		if k == tiny || k == below {
			clear(tile) // so that products stand alone
		}
		want := make([]float32, len(o))
		for i := range want {
			want[i] = format.FMAFtz(o[i], factors[i%rows], tile[i])
		}
		if !l.AddTile(o, tile, &factors, channels) {
			if k <= below {
				t.Error("gave up")
			}
			return
		}
		same(t, "sum", o, want)
		same(t, "tile", tile, make([]float32, len(tile)))
	})
}

// TestRescale: products are those of package format, and no others than Dot takes are taken.
func TestRescale(t *testing.T) {
	forLevels(t, 400, func(t *testing.T, l vec.Level, r *rand.Rand, round int) {
		channels, k := 1+r.IntN(3), kind(round%4)
		o := draw(r, channels*rows, k)
		factors := [rows]float32(draw(r, rows, k))
		if round >= 200 { // one number that decides
			for i := range factors {
				factors[i] = 1
			}
			o[r.IntN(len(o))] = []float32{0x1p-63, -0x1p-63, 0x1.fffffep-64, 0, float32(math.Copysign(0, -1)), math.MaxFloat32,
				-math.MaxFloat32, float32(math.Inf(1)), float32(math.Inf(-1)), float32(math.NaN()), 0x1p-126, 0x1p-149}[round%12]
		}
		want, takes := make([]float32, len(o)), true
		for i := range want {
			want[i] = format.MulFtz(o[i], factors[i%rows])
			x := math.Abs(float64(o[i] * factors[i%rows]))
			takes = takes && (x == 0 || x >= 0x1p-63 && x <= math.MaxFloat32)
		}
		if got := l.Rescale(o, &factors, channels); got != takes {
			t.Errorf("taken %v, want %v", got, takes)
		}
		if takes {
			same(t, "product", o, want)
		}
	})
}

func TestFinish(t *testing.T) {
	dtypes := []format.DType{format.FP16, format.BF16, format.FP32}
	forLevels(t, 300, func(t *testing.T, l vec.Level, r *rand.Rand, round int) {
		channels, k, dtype := 1+r.IntN(3), kind(round%4), dtypes[round/4%3]
		o := draw(r, channels*rows, k)
		inverse := [rows]float32(draw(r, rows, k))
		scale, mean := draw(r, channels, k), draw(r, channels, k)
		if k == tiny || k == below {
			// Either product.
			clear(mean)
			one := scale
			if round%8 < 4 {
				one = inverse[:]
			}
			for i := range one {
				one[i] = 1
			}
		}
		for i := range scale {
			if k == ordinary { // so that FP16 holds the result
				scale[i] *= 0x1p-16
			}
		}
		want := make([]float32, len(o))
		for i := range want {
			c := i / rows
			want[i] = dtype.Round(format.FMAFtz(format.MulFtz(o[i], inverse[i%rows]), scale[c], mean[c]))
		}
		got, before := make([]float32, len(o)), clone(o)
		ok := l.Finish(dtype, got, o, &inverse, scale, mean)
		same(t, "operand", o, before)
		if !ok {
			if k <= below {
				t.Error("gave up")
			}
			return
		}
		same(t, "output", got, want)
	})
}

func TestMeanDots(t *testing.T) {
	forLevels(t, 60, func(t *testing.T, l vec.Level, r *rand.Rand, round int) {
		dim, keys, k := 1+r.IntN(80), 16*(1+r.IntN(10)), kind(round%4)
		x, q := draw(r, keys*dim, k), draw(r, dim, k)
		out, want := make([]float32, keys), make([]float32, keys)
		finite := true
		for key := range want {
			for c := range dim {
				want[key] = format.FMAFtz(x[key/16*16*dim+c*16+key%16], q[c], want[key])
			}
			finite = finite && want[key]-want[key] == 0
		}
		if !l.MeanDots(out, x, q) {
			if k == ordinary {
				t.Error("gave up")
			}
			return
		}
		if finite { // a NaN has no bits of its own
			same(t, "score", out, want)
		}
	})
}

// weights are P~'s formats: what rounds to them, and the smallest normal exponent that PE
// gives.
var weights = []struct {
	format vec.Format
	round  func(x float32) float32
	floor  uint32
}{
	{vec.E4M3, func(x float32) float32 { return format.E4M3FromFloat32(x).Float32() }, 121},
	{vec.E5M2, func(x float32) float32 { return format.E5M2FromFloat32(x).Float32() }, 113},
	{vec.FP16, format.RoundFP16, 113},
	{vec.INT8, func(x float32) float32 { return float32(math.RoundToEven(float64(x))) }, 0},
}

// softmaxCase is operands of Softmax and what it has written.
type softmaxCase struct {
	s, p, top, d, kScale []float32
	pe                   []uint8
	m, rescale, qScale   [rows]float32
	a                    vec.SoftmaxArgs
}

func newSoftmaxCase(r *rand.Rand, blocks int, f vec.Format, k kind) *softmaxCase {
	c := &softmaxCase{
		s: make([]float32, blocks*16*rows), p: make([]float32, blocks*16*rows), pe: make([]uint8, blocks*16*rows),
		top: make([]float32, 4*rows), d: draw(r, 4*rows, k), kScale: make([]float32, 4),
	}
	for i := range c.kScale {
		c.kScale[i] = 0.01 * (0.1 + r.Float32())
	}
	for i := range c.top {
		c.top[i] = -5e6
	}
	for i := range c.s {
		c.s[i] = float32(r.IntN(40000) - 20000)
		c.top[i/rows%8/2*rows+i%rows] = max(c.top[i/rows%8/2*rows+i%rows], c.s[i])
	}
	for i := range rows {
		c.qScale[i], c.m[i] = 0.1*(0.1+r.Float32()), float32(20*r.NormFloat64())
	}
	if k == odd {
		c.m, c.qScale = [rows]float32(draw(r, rows, odd)), [rows]float32(draw(r, rows, odd))
	}
	for i := range rows {
		// D is a sum of weights, M a maximum that is never subnormal or NaN.
		if c.m[i] != c.m[i] {
			c.m[i] = 0
		}
		for j := range 4 {
			c.d[j*rows+i] = float32(math.Abs(float64(c.d[j*rows+i])))
		}
	}
	c.a = vec.SoftmaxArgs{
		P: &c.p[0], PE: &c.pe[0], S: &c.s[0], Blocks: blocks, Top: &c.top[0], M: &c.m[0], D: &c.d[0], Rescale: &c.rescale[0],
		QScale: &c.qScale[0], KScale: &c.kScale[0], Table: mufu.Ex2Coefficients(), Scale: 0.125 * math.Log2E, Offset: f.Limit - 0.01, Format: f,
	}
	if k == tiny {
		// A maximum that rises by 63 or so, and weights of zero: what there was is all.
		for i := range c.s {
			c.s[i] = -3e7
		}
		for i := range rows {
			c.m[i] = 0
			for j := range 4 {
				c.top[j*rows+i] = (float32(61+r.IntN(4)) + r.Float32() + c.a.Offset) / (c.qScale[i] * c.kScale[j] * c.a.Scale)
			}
		}
	}
	return c
}

// check runs Softmax and the operations it stands for.
// It reports whether Softmax could.
func (c *softmaxCase) check(t *testing.T, l vec.Level, round func(float32) float32, floor uint32, k kind) bool {
	m, d := c.m, clone(c.d)
	var factor [rows]float32
	p, pe := make([]float32, len(c.p)), make([]float32, len(c.pe))
	for row := range rows {
		var scale [4]float32
		for j := range scale {
			scale[j] = format.MulFtz(format.MulFtz(c.qScale[row], c.kScale[j]), c.a.Scale)
			if x := format.FMAFtz(c.top[j*rows+row], scale[j], -c.a.Offset); x > m[row] {
				m[row] = x
			}
		}
		factor[row] = mufu.Ex2(format.SubFtz(c.m[row], m[row]))
		by := factor[row]
		for first := 0; first < 16*c.a.Blocks; first += 16 {
			for j := range 4 {
				sum := float32(0)
				for _, key := range []int{2 * j, 2*j + 1, 2*j + 8, 2*j + 9} {
					at := (first+key)*rows + row
					x := mufu.Ex2(format.FMAFtz(c.s[at], scale[j], -m[row]))
					sum = format.AddFtz(sum, x)
					if p[at] = round(x); p[at] != 0 {
						pe[at] = float32(max(math.Float32bits(p[at])>>23, floor))
					}
				}
				d[j*rows+row] = format.FMAFtz(d[j*rows+row], by, sum)
			}
			by = 1
		}
	}
	if !l.Softmax(&c.a) {
		if k == ordinary {
			t.Error("gave up")
		}
		return false
	}
	same(t, "maximum", c.m[:], m[:])
	same(t, "rescaling", c.rescale[:], factor[:])
	same(t, "denominator", c.d, d)
	same(t, "weight", c.p, p)
	if floor == 0 {
		return true // whole numbers, whose exponents nothing takes
	}
	got := make([]float32, len(c.pe))
	for i, e := range c.pe {
		got[i] = float32(e)
	}
	same(t, "exponent", got, pe)
	return true
}

func TestSoftmax(t *testing.T) {
	forLevels(t, 80, func(t *testing.T, l vec.Level, r *rand.Rand, round int) {
		w, k := weights[round%4], kind(round/4%4)
		newSoftmaxCase(r, 1+r.IntN(3), w.format, k).check(t, l, w.round, w.floor, k)
	})
}

// TestQuantize: the codes of numbers of every kind, NaN and halves among them.
func TestQuantize(t *testing.T) {
	nearest := func(y float32) float64 { return math.RoundToEven(float64(y)) }
	away := func(y float32) float64 {
		return math.Trunc(float64(y + float32(math.Copysign(0.5, float64(y)))))
	}
	multiply := format.MulFtz
	divide := func(x, by float32) float32 { return x / by }
	forLevels(t, 200, func(t *testing.T, l vec.Level, r *rand.Rand, round int) {
		x := draw(r, 16*(1+r.IntN(4)), []kind{ordinary, odd}[round%2])
		for i := range x {
			if r.IntN(3) == 0 {
				x[i] = float32(r.IntN(600)-300) / 2
			}
		}
		factor := []float32{1, 0.5, r.Float32() + 0.01, 0x1p-120}[round/2%4]
		limit, least := int8(127), int8(-128)
		if round/8%2 == 1 {
			limit, least = 7, -7
		}
		for i, how := range []struct {
			by    func(x, factor float32) float32
			round func(float32) float64
		}{vec.MultiplyAway: {multiply, away}, vec.MultiplyEven: {multiply, nearest}, vec.DivideEven: {divide, nearest}} {
			got := make([]int8, len(x))
			l.Quantize(vec.Rounding(i), got, x, factor, limit, least)
			for j, v := range x {
				want := int8(0)
				if y := how.by(v, factor); y == y {
					want = int8(max(float64(least), min(how.round(y), float64(limit))))
				}
				if got[j] != want {
					t.Fatalf("rounding %d: code of %x and factor %x: %d, want %d", i, v, factor, got[j], want)
				}
			}
		}
	})
}

// TestSoftmaxLimits: rows with scales, maxima and weights at the ends of what the kernels take
// are right, or the strip is given up; one row at a time, so that no other row hides it.
func TestSoftmaxLimits(t *testing.T) {
	forLevels(t, 1, func(t *testing.T, l vec.Level, r *rand.Rand, _ int) {
		exact := 0
		for _, w := range weights {
			for row := range rows {
				for _, change := range []func(c *softmaxCase){
					// Scores of zero count, whatever the scale.
					func(c *softmaxCase) {
						c.setRow(row, float32(math.Ldexp(1, 60+r.IntN(60))), func(i int) float32 { return float32(-(i % 3)) })
					},
					// A maximum far from zero, on both sides.
					func(c *softmaxCase) {
						c.setRow(row, float32(math.Ldexp(1, 90+r.IntN(10))), func(int) float32 { return 1 << 12 })
					},
					func(c *softmaxCase) {
						c.setRow(row, float32(math.Ldexp(1, 90+r.IntN(10))), func(int) float32 { return -1 << 12 })
						c.m[row] = -0x1p126
					},
					// Weights beyond the format's largest.
					func(c *softmaxCase) {
						c.setRow(row, 0.01, func(i int) float32 { return float32(i % 50) })
						c.m[row] = -20
						for j := range 4 {
							c.top[j*rows+row] = -3000
						}
					},
				} {
					c := newSoftmaxCase(r, 1, w.format, ordinary)
					c.a.Scale = 1
					for i := range c.kScale {
						c.kScale[i] = 1
					}
					for i := range c.qScale {
						c.qScale[i] *= 0.001
					}
					change(c)
					if c.check(t, l, w.round, w.floor, odd) {
						exact++
					}
					if t.Failed() {
						t.Fatalf("row %d", row)
					}
				}
			}
		}
		if exact == 0 {
			t.Error("every strip was given up")
		}
	})
}

// setRow gives a row a scale and scores, and no earlier maximum.
func (c *softmaxCase) setRow(row int, scale float32, score func(i int) float32) {
	c.qScale[row], c.m[row] = scale, -5e6
	for j := range 4 {
		c.top[j*rows+row] = -0x1p100
	}
	for i := range len(c.s) / rows {
		x := score(i)
		c.s[i*rows+row] = x
		at := i%8/2*rows + row
		c.top[at] = max(c.top[at], x)
	}
}

// TestControlAfter: after kernels that change how operations round and flush, they round to
// nearest and keep subnormal numbers again.
func TestControlAfter(t *testing.T) {
	forLevels(t, 1, func(t *testing.T, l vec.Level, r *rand.Rand, _ int) {
		softmax := func(k kind) func() {
			c := newSoftmaxCase(r, 1, vec.E4M3, k)
			return func() { l.Softmax(&c.a) }
		}
		dots := func(keys int) func() {
			out, x, q := make([]float32, keys), draw(r, keys*8, ordinary), draw(r, 8, ordinary)
			return func() { l.MeanDots(out, x, q) }
		}
		for name, run := range map[string]func(){
			"softmax": softmax(ordinary), "a softmax given up": softmax(odd),
			"dots of 16 keys": dots(16), "of 64": dots(64), "of 80": dots(80),
			"dequantize": func() {
				var qScale [rows]float32
				var limit [rows]int32
				l.Dequantize(make([]float32, 8*rows), make([]float32, 4*rows), 8, &qScale, make([]float32, 8), make([]float32, 8), &limit, -5e6)
			},
		} {
			run()
			checkControl(t, name)
		}
	})
}

// least are operands that the compiler does not know.
var least = []float32{math.SmallestNonzeroFloat32, math.SmallestNonzeroFloat32, 1, 0x1.8p-24, 0x0.8p-24}

// checkControl reports operations that do not round to nearest or flush subnormal numbers. It
// compares bits, since flushed operands are equal.
func checkControl(t testing.TB, after string) {
	t.Helper()
	for _, s := range []struct {
		sum  float32
		want uint32
	}{{least[0] + least[1], 2}, {least[2] + least[3], math.Float32bits(1 + 0x1p-23)}, {least[2] + least[4], math.Float32bits(1)}} {
		if got := math.Float32bits(s.sum); got != s.want {
			t.Errorf("after %s a sum is %08x, want %08x", after, got, s.want)
		}
	}
}

// TestFP16Codes decodes every code and encodes what lies at and between their values.
func TestFP16Codes(t *testing.T) {
	forLevels(t, 1, func(t *testing.T, l vec.Level, r *rand.Rand, _ int) {
		codes, x, want := make([]uint16, 1<<16), make([]float32, 1<<16), make([]float32, 1<<16)
		for i := range codes {
			codes[i] = uint16(i)
			if want[i] = format.FP16ToFloat32(codes[i]); want[i] != want[i] {
				codes[i], want[i] = 0, 0 // a NaN has no bits of its own
			}
		}
		l.DecodeFP16(x, codes)
		same(t, "value", x, want)
		got := make([]uint16, 16)
		for i := range 0x7bff {
			a, b := float64(want[i]), float64(want[i+1])
			middle := float32((a + b) / 2)
			y := []float32{float32(a), middle, math.Nextafter32(middle, 0), math.Nextafter32(middle, 1e9), float32(a + (b-a)*r.Float64()), 0, 65504, 1}
			for _, v := range y {
				y = append(y, -v)
			}
			if !l.EncodeFP16(got, y) {
				t.Fatalf("gave up on %x", y)
			}
			for j, v := range y {
				if c := format.FP16FromFloat32(v); got[j] != c {
					t.Fatalf("code of %x: %04x, want %04x", v, got[j], c)
				}
			}
		}
		for _, v := range []float32{math.Nextafter32(65504, 1e9), 65520, -1e9, float32(math.Inf(1)), float32(math.Inf(-1)), float32(math.NaN())} {
			for at := range 16 {
				y := make([]float32, 16)
				if y[at] = v; l.EncodeFP16(got, y) {
					t.Errorf("%x in place %d was taken", v, at)
				}
			}
		}
	})
}
