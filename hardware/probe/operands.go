package probe

import (
	"context"
	"math"
	"math/rand/v2"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/tensorcore"
	"github.com/sageacc/sageacc/internal/parallel"
	"github.com/sageacc/sageacc/internal/strictmath"
)

// Operands makes a batch of n operations from a generator, on jobs goroutines;
// the result does not depend on how many.
//
// FP32 numbers are of all bit patterns, and near where results become subnormal.
// The tiles of a floating-point matrix instruction are in turn of twelve classes:
// any finite bits; normal values; tiny operands and addends; sums that
// overflow; an addend that dominates; one that vanishes; cancellation; signed
// zeros; NaN and infinities among the operands; special addends; few terms of wide
// exponents; and values as in attention. Those of an integer one are random,
// extreme, and at the accumulator's wrap.
func (u *Unit) Operands(n int, source *rand.PCG, jobs int) *Batch {
	b := &Batch{N: n}
	root := rand.New(source)
	per := 1 << 14
	switch u.Kind {
	case Unary:
		b.X = make([]float32, n)
	case Arith:
		b.X = make([]float32, 3*n)
	case MMA:
		per = 128
		b.A, b.B, b.C = make([]uint32, n*u.m*u.k), make([]uint32, n*columns*u.k), make([]uint32, n*u.m*columns)
	}
	chunks := (n + per - 1) / per
	seeds := make([]uint64, chunks)
	for i := range seeds {
		seeds[i] = root.Uint64()
	}
	// The work never fails.
	_ = parallel.Do(context.Background(), jobs, chunks, func(_ context.Context, i int) error {
		r := rand.New(rand.NewPCG(seeds[i], uint64(i)))
		for j := i * per; j < min((i+1)*per, n); j++ {
			switch u.Kind {
			case Unary:
				b.X[j] = math.Float32frombits(r.Uint32())
			case Arith:
				triple(r, j, b.X[3*j:3*j+3])
			case MMA:
				u.tile(r, j, b.A[j*u.m*u.k:(j+1)*u.m*u.k], b.B[j*columns*u.k:(j+1)*columns*u.k], b.C[j*u.m*columns:(j+1)*u.m*columns])
			}
		}
		return nil
	})
	return b
}

// triple makes a, b and c of an FP32 operation.
func triple(r *rand.Rand, class int, x []float32) {
	for i := range x {
		x[i] = math.Float32frombits(r.Uint32())
	}
	bump := func(f float32) float32 { return math.Float32frombits(math.Float32bits(f) + uint32(r.IntN(9)-4)) }
	sign := func() float32 { return float32(sign(r)) }
	m := 1 + float32(r.Float32())
	switch class % 8 {
	case 0: // products and quotients near 2^-126
		x[0], x[1] = m*0x1p-63*sign(), bump(1/m)*0x1p-63
		x[2] = 0
	case 1: // sums near 2^-126
		x[0], x[2] = bump(0x1p-125), -bump(0x1p-126)
	case 2: // a fused sum near 2^-126
		x[0], x[1], x[2] = m*0x1p-62*sign(), bump(1/m)*0x1p-63, bump(0x1p-126)*sign()
	case 3: // a quotient at the threshold of subnormal numbers
		x[0] = math.Float32frombits(math.Float32bits(x[1]) - 126<<23 + uint32(r.IntN(17)) - 8)
	case 4: // numbers of like size
		for i := range x {
			x[i] = (1 + float32(r.Float32())) * sign()
		}
	}
}

// sign is 1 or -1.
func sign(r *rand.Rand) float64 { return float64(1 - 2*r.IntN(2)) }

// limits returns the largest value and the smallest subnormal of a matrix operand,
// as exponents of two; the former is a little below.
func limits(o tensorcore.Operand) (top, smallest float64) {
	switch o {
	case tensorcore.E4M3:
		return 8.8, -9
	case tensorcore.E5M2:
		return 15.8, -16
	case tensorcore.FP16:
		return 15.99, -24
	}
	return 127.8, -126 // BF16
}

// encode rounds a value to a code of a matrix operand or accumulator; the FP8
// formats saturate.
func encode(o tensorcore.Operand, x float64) uint32 {
	f := float32(x)
	switch o {
	case tensorcore.E4M3:
		return uint32(format.E4M3FromFloat32(f))
	case tensorcore.E5M2:
		return uint32(format.E5M2FromFloat32(f))
	case tensorcore.FP16:
		return uint32(format.FP16FromFloat32(f))
	case tensorcore.BF16:
		return uint32(format.BF16FromFloat32(f))
	}
	return math.Float32bits(f)
}

// finiteBits is any finite code.
func finiteBits(r *rand.Rand, o tensorcore.Operand) uint32 {
	for {
		x := r.Uint32() >> (32 - bits(o))
		switch o {
		case tensorcore.E4M3:
			if x&0x7f != 0x7f {
				return x
			}
		case tensorcore.E5M2:
			if x&0x7c != 0x7c {
				return x
			}
		case tensorcore.FP16:
			if x&0x7c00 != 0x7c00 {
				return x
			}
		case tensorcore.BF16:
			if x&0x7f80 != 0x7f80 {
				return x
			}
		default:
			if x&0x7f80_0000 != 0x7f80_0000 {
				return x
			}
		}
	}
}

var inf = math.Inf(1)

// specials are addends that are not ordinary, or at a format's end.
var specials = []float64{
	inf, -inf, math.NaN(), 0, math.Copysign(0, -1), 65504, -65504, 0x1p-24, -0x1p-24, math.MaxFloat32, -math.MaxFloat32,
	0x1p-149, -0x1p-149, 0x1p-126, 65519, -65519,
}

// classes is how many classes of tiles there are.
const classes = 12

// tile makes one tile of operands.
func (u *Unit) tile(r *rand.Rand, index int, a, b, c []uint32) {
	if u.c == tensorcore.S32 {
		u.integers(r, index, a, b, c)
		return
	}
	t := &tile{u: u, r: r, a: a, b: b, c: c, half: u.c == tensorcore.FP16}
	t.top, t.smallest = limits(u.a)
	switch class := index % classes; class {
	case 0:
		t.anyBits()
	case 2:
		t.tiny()
	case 3:
		t.overflow()
	case 6:
		t.cancellation()
	case 7:
		t.zeros()
	case 9:
		t.special()
	case 10:
		t.few()
	case 11:
		t.attention()
	default: // 1, 4, 5, 8
		t.normal(class)
	}
}

// tile is a tile of operands of a floating-point instruction in the making.
type tile struct {
	u       *Unit
	r       *rand.Rand
	a, b, c []uint32
	// top and smallest are limits of the operands; half says that the accumulator is FP16.
	top, smallest float64
	half          bool
}

// wide is 2^x with a random sign, x uniform.
func (t *tile) wide(lo, hi float64) float64 {
	return math.Copysign(strictmath.Exp2(lo+float64(t.r.Float64()*(hi-lo))), sign(t.r))
}

// pick is one range for an FP16 accumulator, another for an FP32 one.
func (t *tile) pick(lo16, hi16, lo32, hi32 float64) float64 {
	if t.half {
		return t.wide(lo16, hi16)
	}
	return t.wide(lo32, hi32)
}

func (t *tile) fill(o tensorcore.Operand, x []uint32, f func() float64) {
	for i := range x {
		x[i] = encode(o, f())
	}
}

func (t *tile) zeroSign() float64 { return math.Copysign(0, sign(t.r)) }

// anyBits: any finite bits.
func (t *tile) anyBits() {
	for _, x := range [][]uint32{t.a, t.b} {
		for i := range x {
			x[i] = finiteBits(t.r, t.u.a)
		}
	}
	if t.half {
		for i := range t.c {
			t.c[i] = finiteBits(t.r, t.u.c)
		}
	} else {
		t.fill(t.u.c, t.c, func() float64 { return t.wide(-20, 20) })
	}
}

// tiny: tiny operands and addends.
func (t *tile) tiny() {
	lo, hi, c32 := t.smallest, t.smallest+5, -40.0
	some := 1.0
	if t.u.a == tensorcore.BF16 {
		// A few products about as small as the accumulator can be.
		lo, hi, c32, some = -85, -60, -100, 0.2
	}
	tiny := func() float64 {
		if t.r.Float64() >= some {
			return 0
		}
		return t.wide(lo, hi)
	}
	t.fill(t.u.a, t.a, tiny)
	some = 1
	t.fill(t.u.a, t.b, tiny)
	t.fill(t.u.c, t.c, func() float64 {
		if t.r.Float64() < 0.3 {
			return 0
		}
		return t.pick(-24, -14, -149, c32)
	})
}

// overflow: sums that overflow.
func (t *tile) overflow() {
	t.fill(t.u.a, t.a, func() float64 { return t.wide(t.top-6, t.top) })
	t.fill(t.u.a, t.b, func() float64 { return t.wide(t.top-6, t.top) })
	t.fill(t.u.c, t.c, func() float64 { return t.pick(8, 16, 20, 127.9) })
}

// cancellation: terms that cancel.
func (t *tile) cancellation() {
	t.fill(t.u.a, t.a, t.r.NormFloat64)
	t.fill(t.u.a, t.b, t.r.NormFloat64)
	t.fill(t.u.c, t.c, func() float64 {
		if t.r.Float64() < 0.2 {
			return 0
		}
		return t.wide(-14, -2)
	})
	// The second half of the terms undoes the first, but for a few.
	p := t.r.Perm(t.u.k)
	sign := uint32(1) << (bits(t.u.a) - 1)
	for i := range t.u.k / 2 {
		from, to := p[i], p[t.u.k/2+i]
		for row := 0; row < len(t.a); row += t.u.k {
			t.a[row+to] = t.a[row+from] ^ sign
			if t.r.Float64() < 0.1 {
				t.a[row+to] ^= 1
			}
		}
		for row := 0; row < len(t.b); row += t.u.k {
			t.b[row+to] = t.b[row+from]
		}
	}
}

// zeros: signed zeros.
func (t *tile) zeros() {
	sparse := func(part float64) func() float64 {
		return func() float64 {
			if t.r.Float64() < part {
				return t.r.NormFloat64()
			}
			return t.zeroSign()
		}
	}
	t.fill(t.u.a, t.a, sparse(0.05))
	t.fill(t.u.a, t.b, sparse(0.3))
	t.fill(t.u.c, t.c, sparse(0.1))
}

// special: special addends.
func (t *tile) special() {
	on := 4.0
	if t.r.Float64() < 0.3 {
		on = 0
	}
	t.fill(t.u.a, t.a, func() float64 { return on * t.r.NormFloat64() })
	t.fill(t.u.a, t.b, func() float64 { return 4 * t.r.NormFloat64() })
	t.fill(t.u.c, t.c, func() float64 { return specials[t.r.IntN(len(specials))] })
}

// few: few terms of wide exponents.
func (t *tile) few() {
	few := func(part float64) func() float64 {
		return func() float64 {
			if t.r.Float64() >= part {
				return 0
			}
			return t.wide(t.smallest, t.top)
		}
	}
	t.fill(t.u.a, t.a, few(0.2))
	t.fill(t.u.a, t.b, few(0.5))
	t.fill(t.u.c, t.c, func() float64 {
		if t.r.Float64() < 0.3 {
			return 0
		}
		return t.pick(-24, 15.9, -30, 30)
	})
}

// attention: values as in attention.
func (t *tile) attention() {
	p := 448.0
	if t.u.a == tensorcore.FP16 || t.u.a == tensorcore.BF16 {
		p = 1
	}
	v := 448.0
	if t.r.Float64() < 0.5 {
		v = 2.25
	}
	t.fill(t.u.a, t.a, func() float64 { return p * strictmath.Exp2(-8*t.r.Float64()) })
	t.fill(t.u.a, t.b, func() float64 { return t.r.NormFloat64() * v / 3 })
	t.fill(t.u.c, t.c, func() float64 { return t.r.NormFloat64() * strictmath.Exp2(12*t.r.Float64()) })
}

// normal: normal values, and with them an addend that dominates, one that vanishes, or NaN and
// infinities among the operands.
func (t *tile) normal(class int) {
	t.fill(t.u.a, t.a, t.r.NormFloat64)
	t.fill(t.u.a, t.b, t.r.NormFloat64)
	switch class {
	case 4:
		t.fill(t.u.c, t.c, func() float64 { return t.pick(4, 15.9, 5, 40) })
	case 5:
		t.fill(t.u.c, t.c, func() float64 { return t.pick(-24, -4, -60, -5) })
	default:
		t.fill(t.u.c, t.c, t.r.NormFloat64)
	}
	if class != 8 {
		return
	}
	// A few values that are not finite. E4M3 has no infinity: encode gives its
	// largest value.
	sprinkle := func(o tensorcore.Operand, x []uint32, part float64) {
		for i := range x {
			if t.r.Float64() < part {
				x[i] = encode(o, []float64{math.NaN(), inf, -inf}[t.r.IntN(3)])
				if o == tensorcore.E5M2 && x[i]&0x7f != 0x7f {
					x[i] = x[i]&0x80 | uint32(format.E5M2Inf)
				}
			}
		}
	}
	sprinkle(t.u.a, t.a, 0.01)
	sprinkle(t.u.a, t.b, 0.005)
	sprinkle(t.u.c, t.c, 0.05)
}

func (u *Unit) integers(r *rand.Rand, index int, a, b, c []uint32) {
	lo, hi := -128, 128
	if u.a == tensorcore.S4 {
		lo, hi = -8, 8
	}
	code := func() uint32 { return uint32(int32(lo + r.IntN(hi-lo))) }
	class := index % 4
	for i := range a {
		a[i] = code()
		if class == 0 {
			a[i] = uint32(int32(lo))
		}
	}
	for i := range b {
		b[i] = code()
		if class == 0 {
			b[i] = uint32(int32([]int{lo, hi - 1}[i/u.k%2]))
		}
	}
	for i := range c {
		switch class {
		case 0: // at either end of int32
			c[i] = uint32(math.MaxInt32 - r.Int32N(2_000_000))
			if r.IntN(2) == 0 {
				c[i] = ^c[i]
			}
		case 1:
			c[i] = uint32(r.Int32N(10_000) - 5000)
		default:
			c[i] = r.Uint32()
		}
	}
}
