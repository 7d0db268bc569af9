package format

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"
)

// finite8 lists the finite values of an 8-bit format in ascending order with
// their codes, negative zero left out.
func finite8(value func(uint8) float32) (v []float32, codes []uint8) {
	for c := range 256 {
		f := value(uint8(c))
		if f-f != 0 || c == 0x80 {
			continue
		}
		codes = append(codes, uint8(c))
	}
	slices.SortFunc(codes, func(a, b uint8) int {
		if value(a) < value(b) {
			return -1
		}
		return 1
	})
	for _, c := range codes {
		v = append(v, value(c))
	}
	return v, codes
}

// TestFP8Rounding decides the conversion for every FP32 input: it is monotone
// between representable values, so it is right everywhere if it is right at each
// value, at the mid point of each pair of neighbours (ties to even) and one FP32
// ulp on either side of it.
func TestFP8Rounding(t *testing.T) {
	for _, tc := range []struct {
		name    string
		value   func(uint8) float32
		convert func(float32) uint8
		max     uint8
	}{
		{"E4M3", func(c uint8) float32 { return E4M3(c).Float32() }, func(x float32) uint8 { return uint8(E4M3FromFloat32(x)) }, 0x7e},
		{"E5M2", func(c uint8) float32 { return E5M2(c).Float32() }, func(x float32) uint8 { return uint8(E5M2FromFloat32(x)) }, 0x7b},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v, codes := finite8(tc.value)
			check := func(x float32, want uint8) {
				t.Helper()
				got := tc.convert(x)
				if got != want && !(want&0x7f == 0 && got&0x7f == 0 && math.Signbit(float64(x)) == (got == 0x80)) {
					t.Errorf("%g (%08x) gives %02x, want %02x", x, math.Float32bits(x), got, want)
				}
			}
			for i := range v {
				check(v[i], codes[i])
				if i == 0 {
					continue
				}
				mid := (v[i-1] + v[i]) / 2 // exact in FP32
				even := codes[i]
				if codes[i]&1 != 0 {
					even = codes[i-1]
				}
				check(mid, even)
				check(math.Nextafter32(mid, float32(math.Inf(-1))), codes[i-1])
				check(math.Nextafter32(mid, float32(math.Inf(1))), codes[i])
			}
			// Monotone over all magnitudes, on a stride coprime to every boundary.
			last := uint8(0)
			for b := uint32(0); b <= inf32; b += 997 {
				c := tc.convert(math.Float32frombits(b))
				if c < last || c > tc.max {
					t.Fatalf("%08x gives %02x after %02x", b, c, last)
				}
				last = c
			}
			for _, x := range []float32{math.MaxFloat32, float32(math.Inf(1))} {
				check(x, tc.max)
				check(-x, tc.max|0x80)
			}
			check(float32(math.NaN()), 0x7f)
			check(math.Float32frombits(0xffc00001), 0x7f)
			if got := tc.convert(float32(math.Copysign(0, -1))); got != 0x80 {
				t.Errorf("-0 gives %02x", got)
			}
		})
	}
}

func TestFP8Values(t *testing.T) {
	for _, tc := range []struct {
		name string
		got  float32
		want float64
	}{
		{"E4M3 max", E4M3(0x7e).Float32(), 448},
		{"E4M3 min normal", E4M3(0x08).Float32(), 0x1p-6},
		{"E4M3 min subnormal", E4M3(0x01).Float32(), 0x1p-9},
		{"E4M3 -1", E4M3(0xb8).Float32(), -1},
		{"E5M2 max", E5M2(0x7b).Float32(), 57344},
		{"E5M2 min normal", E5M2(0x04).Float32(), 0x1p-14},
		{"E5M2 min subnormal", E5M2(0x01).Float32(), 0x1p-16},
		{"E5M2 -Inf", E5M2(0xfc).Float32(), math.Inf(-1)},
	} {
		if float64(tc.got) != tc.want {
			t.Errorf("%s is %g, want %g", tc.name, tc.got, tc.want)
		}
	}
	for _, c := range []E4M3{0x7f, 0xff} {
		if v := c.Float32(); v == v {
			t.Errorf("E4M3 %02x is %g, want NaN", c, v)
		}
	}
	for _, c := range []E5M2{0x7d, 0x7e, 0x7f, 0xfd} {
		if v := c.Float32(); v == v {
			t.Errorf("E5M2 %02x is %g, want NaN", c, v)
		}
	}
}

// Test16 checks that every FP16 and BF16 pattern survives a round trip, and the
// roundings half way between neighbours.
func Test16(t *testing.T) {
	for _, tc := range []struct {
		name string
		to   func(uint16) float32
		from func(float32) uint16
		inf  uint16
	}{
		{"FP16", FP16ToFloat32, FP16FromFloat32, 0x7c00},
		{"BF16", BF16ToFloat32, BF16FromFloat32, 0x7f80},
	} {
		for i := range 1 << 16 {
			h := uint16(i)
			f := tc.to(h)
			if h&0x7fff > tc.inf {
				if f == f || tc.from(f)&0x7fff <= tc.inf {
					t.Fatalf("%s %04x is a NaN and gives %g, %04x", tc.name, h, f, tc.from(f))
				}
				continue
			}
			if got := tc.from(f); got != h {
				t.Fatalf("%s %04x returns as %04x", tc.name, h, got)
			}
			if next := h + 1; h&0x7fff+1 < tc.inf {
				mid := float32((float64(f) + float64(tc.to(next))) / 2)
				want := h + h&1
				if got := tc.from(mid); got != want {
					t.Fatalf("%s: %g, half way from %04x to %04x, gives %04x", tc.name, mid, h, next, got)
				}
				up := math.Nextafter32(mid, tc.to(next))
				if got := tc.from(up); got != next {
					t.Fatalf("%s: %g above half way from %04x gives %04x", tc.name, up, h, got)
				}
				down := math.Nextafter32(mid, f)
				if got := tc.from(down); got != h {
					t.Fatalf("%s: %g below half way from %04x gives %04x", tc.name, down, h, got)
				}
			}
		}
		if got := tc.from(math.MaxFloat32); got != tc.inf {
			t.Errorf("%s of MaxFloat32 is %04x, want infinity", tc.name, got)
		}
	}
}

func TestIntegers(t *testing.T) {
	nan := float32(math.NaN())
	inf := float32(math.Inf(1))
	for _, tc := range []struct {
		x          float32
		i8, i4, rz int8
	}{
		{0, 0, 0, 0}, {0.5, 0, 0, 0}, {1.5, 2, 2, 1}, {2.5, 2, 2, 2}, {-0.5, 0, 0, 0}, {-1.5, -2, -2, -1},
		{6.5, 6, 6, 6}, {7.5, 8, 7, 7}, {-7.5, -8, -7, -7}, {-9, -9, -7, -9},
		{126.5, 126, 7, 126}, {127.5, 127, 7, 127}, {-127.5, -128, -7, -127}, {-128.5, -128, -7, -128},
		{1e9, 127, 7, 127}, {inf, 127, 7, 127}, {-inf, -128, -7, -128}, {nan, 0, 0, 0},
	} {
		if got := Int8FromFloat32(tc.x); got != tc.i8 {
			t.Errorf("Int8FromFloat32(%g) = %d, want %d", tc.x, got, tc.i8)
		}
		if got := Int4FromFloat32(tc.x); got != tc.i4 {
			t.Errorf("Int4FromFloat32(%g) = %d, want %d", tc.x, got, tc.i4)
		}
		if got := TruncToInt8(tc.x); got != tc.rz {
			t.Errorf("TruncToInt8(%g) = %d, want %d", tc.x, got, tc.rz)
		}
	}
}

func TestTruncateFP22(t *testing.T) {
	for in, want := range map[uint32]uint32{
		0x3f80_03ff: 0x3f80_0000, 0xbf80_07ff: 0xbf80_0400, 0x0000_03ff: 0, 0x7f80_0000: 0x7f80_0000, 0x7f7f_ffff: 0x7f7f_fc00,
	} {
		if got := math.Float32bits(TruncateFP22(math.Float32frombits(in))); got != want {
			t.Errorf("TruncateFP22(%08x) = %08x, want %08x", in, got, want)
		}
	}
	if x := TruncateFP22(math.Float32frombits(0x7f80_0001)); x == x {
		t.Error("a NaN with low bits only does not survive")
	}
}

// TestFMA compares with big.Float, which rounds once.
func TestFMA(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	draw := func() float32 {
		if r.IntN(3) == 0 {
			// Few significant bits: products and sums hit ties.
			return float32(r.IntN(1<<12)-1<<11) * float32(math.Exp2(float64(r.IntN(60)-30)))
		}
		for {
			x := math.Float32frombits(r.Uint32())
			if x-x == 0 && math.Abs(float64(x)) < 1e18 {
				return x
			}
		}
	}
	ties := 0
	for range 300_000 {
		a, b, c := draw(), draw(), draw()
		if r.IntN(2) == 0 {
			// c near -a*b or at half an ulp of it.
			p := float32(a * b)
			c = float32(math.Ldexp(float64(p), -24-r.IntN(3)))
			if r.IntN(2) == 0 {
				c = -c
			}
		}
		x := new(big.Float).SetPrec(2000).Mul(big.NewFloat(float64(a)), big.NewFloat(float64(b)))
		x.SetPrec(2000).Add(x, new(big.Float).SetPrec(2000).SetFloat64(float64(c)))
		want, _ := x.Float32()
		got := FMA(a, b, c)
		if got != want {
			t.Fatalf("FMA(%g, %g, %g) = %g, want %g", a, b, c, got, want)
		}
		if float32(float64(a)*float64(b)+float64(c)) != want {
			ties++
		}
	}
	if ties == 0 {
		t.Error("no case in which rounding twice is wrong: the test tests nothing")
	}
}

func TestFlush(t *testing.T) {
	tiny := math.Float32frombits(0x007f_ffff)
	if got := FlushSubnormal(-tiny); math.Float32bits(got) != 0x8000_0000 {
		t.Errorf("FlushSubnormal(-tiny) = %08x", math.Float32bits(got))
	}
	if got := MulFtz(0x1p-100, 0x1p-30); got != 0 {
		t.Errorf("a subnormal product stays %g", got)
	}
	if got := FMAFtz(tiny, 0x1p100, 1); got != 1 {
		t.Errorf("a subnormal argument counts: %g", got)
	}
	// Tiny after rounding: just below 2^-126 (1 - 2^-25) flushes, there it stays.
	for _, tc := range []struct{ a, b, c, want float32 }{
		{0x1p-126, 1 - 0x1p-24, 0, 0},
		{0x1.000002p-64, 0x1.fffffcp-63, 0, 0x1p-126}, // 2^-126 (1 - 2^-46)
		{-0x1p-126, 1 - 0x1p-24, 0, float32(math.Copysign(0, -1))},
		{-0x1p-76, 0x1p-75, 0x1p-126, 0x1p-126},        // 2^-126 - 2^-151, the bound
		{-0x1.000002p-76, 0x1p-75, 0x1p-126, 0},        // below it
		{-0x1.000002p-76, 0x1.000002p-75, 0x1p-126, 0}, // below it
		{-0x1.fffffep-77, 0x1p-75, 0x1p-126, 0x1p-126}, // above it
	} {
		if got := FMAFtz(tc.a, tc.b, tc.c); math.Float32bits(got) != math.Float32bits(tc.want) {
			t.Errorf("FMAFtz(%x, %x, %x) = %x, want %x", tc.a, tc.b, tc.c, got, tc.want)
		}
		if tc.c == 0 {
			if got := MulFtz(tc.a, tc.b); math.Float32bits(got) != math.Float32bits(tc.want) {
				t.Errorf("MulFtz(%x, %x) = %x, want %x", tc.a, tc.b, got, tc.want)
			}
		}
	}
	if got := AddFtz(0x1p-126, -0x1.8p-126); math.Float32bits(got) != 0x8000_0000 {
		t.Errorf("a subnormal sum gives %08x", math.Float32bits(got))
	}
	if got := SubFtz(1, 0.25); got != 0.75 {
		t.Errorf("1 - 0.25 = %g", got)
	}
}

func TestDType(t *testing.T) {
	for _, tc := range []struct {
		d    DType
		bits uint32
		back float32
	}{{FP16, 0x3555, FP16ToFloat32(0x3555)}, {BF16, 0x3eab, BF16ToFloat32(0x3eab)}, {FP32, math.Float32bits(1.0 / 3), 1.0 / 3}} {
		if got := tc.d.Bits(1.0 / 3); got != tc.bits {
			t.Errorf("%s bits of 1/3 are %x, want %x", tc.d, got, tc.bits)
		}
		if got := tc.d.Round(1.0 / 3); got != tc.back {
			t.Errorf("%s of 1/3 is %g, want %g", tc.d, got, tc.back)
		}
	}
}

// TestRoundTowardZero: the result is the value of the format that is next to x on
// zero's side.
func TestRoundTowardZero(t *testing.T) {
	for _, d := range []DType{FP16, BF16} {
		for i := range 1 << 16 {
			x := math.Float32frombits(uint32(i)<<16 | uint32(i)*2654435761>>16)
			if x-x != 0 {
				continue
			}
			y := d.RoundTowardZero(x)
			ok := d.Round(y) == y && math.Abs(float64(y)) <= math.Abs(float64(x)) && math.Signbit(float64(y)) == math.Signbit(float64(x))
			// The next value away from zero is beyond x.
			up := FP16ToFloat32(uint16(d.Bits(y) + 1))
			if d == BF16 {
				up = BF16ToFloat32(uint16(d.Bits(y) + 1))
			}
			if !ok || !(math.Abs(float64(up)) > math.Abs(float64(x))) {
				t.Fatalf("%s: %g becomes %g, the next is %g", d, x, y, up)
			}
		}
		if y := d.RoundTowardZero(float32(math.Inf(-1))); !math.IsInf(float64(y), -1) {
			t.Errorf("%s: -Inf becomes %g", d, y)
		}
		if y := d.RoundTowardZero(float32(math.NaN())); y == y {
			t.Errorf("%s: NaN becomes %g", d, y)
		}
	}
	for x, want := range map[float32]float32{0.3: 0.28125, -0.3: -0.28125, 447: 416, 0.3125: 0.3125, 1e9: 448, 0x1p-10: 0} {
		if y := FP8.RoundTowardZero(x); y != want {
			t.Errorf("E4M3: %g becomes %g, want %g", x, y, want)
		}
	}
	if y := FP16.RoundTowardZero(1e9); y != 65504 {
		t.Errorf("1e9 becomes %g", y)
	}
	if y := FP32.RoundTowardZero(0.1); y != 0.1 {
		t.Errorf("FP32 changes 0.1 to %g", y)
	}
}

func ExampleE4M3FromFloat32() {
	for _, x := range []float32{0.3, 448, 1e6, 0x1p-10} {
		c := E4M3FromFloat32(x)
		fmt.Printf("%g -> 0x%02x = %g\n", x, uint8(c), c.Float32())
	}
	// Output:
	// 0.3 -> 0x2a = 0.3125
	// 448 -> 0x7e = 448
	// 1e+06 -> 0x7e = 448
	// 0.0009765625 -> 0x00 = 0
}

func ExampleTruncateFP22() {
	fmt.Println(TruncateFP22(1+0x1p-13), TruncateFP22(1+0x1p-14))
	// Output: 1.0001221 1
}

// A product of exactly 2^-126 (1 - 2^-25) rounds to 2^-126 and stays, whatever its
// sign (recorded on an H200).
func TestFMAFtzAtTheBound(t *testing.T) {
	const a, b = 1.9068829e-19, 6.164481e-20
	for _, tc := range []struct {
		a, c float32
		want uint32
	}{
		{a, 0, 0x0080_0000}, {-a, 0, 0x8080_0000},
		{a, float32(math.Copysign(0, -1)), 0x0080_0000}, {-a, float32(math.Copysign(0, -1)), 0x8080_0000},
	} {
		if got := math.Float32bits(FMAFtz(tc.a, b, tc.c)); got != tc.want {
			t.Errorf("FMAFtz(%g, %g, %g) = %#08x, recorded %#08x", tc.a, float32(b), tc.c, got, tc.want)
		}
	}
}

// TestOneNaN: a NaN of any sign and payload has one bit pattern.
func TestOneNaN(t *testing.T) {
	for _, b := range []uint32{0x7fc0_0000, 0xffc0_0000, 0x7f80_0001, 0xff80_0001, 0x7fff_ffff, 0xffff_ffff, 0x7fa0_0000, 0x7f80_2000} {
		x := math.Float32frombits(b)
		for d, want := range map[DType]uint32{FP16: 0x7fff, BF16: 0x7fff, FP32: 0x7fff_ffff} {
			if got := d.Bits(x); got != want {
				t.Errorf("%s of %#x is %#x, want %#x", d, b, got, want)
			}
			if y := d.FromBits(d.Bits(x)); y == y {
				t.Errorf("%s of %#x is %g", d, b, y)
			}
		}
		if got := FP16FromFloat32(x); got != NaN16 {
			t.Errorf("FP16 of %#x is %#x", b, got)
		}
	}
}

// TestFP16Values computes binary16 by its definition.
func TestFP16Values(t *testing.T) {
	for i := range 1 << 16 {
		got := FP16ToFloat32(uint16(i))
		exponent, fraction := i>>10&31, float64(i&1023)
		var want float64
		switch {
		case exponent == 31 && fraction == 0:
			want = math.Inf(1)
		case exponent == 31:
			want = math.NaN()
		case exponent == 0:
			want = math.Ldexp(fraction, -24)
		default:
			want = math.Ldexp(1024+fraction, exponent-25)
		}
		if i>>15 == 1 {
			want = math.Copysign(want, -1)
		}
		if w := float32(want); math.Float32bits(got) != math.Float32bits(w) && (got == got || want == want) {
			t.Fatalf("binary16 %#04x: %v, want %v", i, got, want)
		}
	}
}

// TestDTypeNames holds names and sizes of the dtypes.
func TestDTypeNames(t *testing.T) {
	for _, tc := range []struct {
		d    DType
		name string
		size int
	}{{FP16, "FP16", 2}, {BF16, "BF16", 2}, {FP32, "FP32", 4}, {FP8, "E4M3", 1}} {
		if tc.d.String() != tc.name || tc.d.Size() != tc.size {
			t.Errorf("%s of %d bytes, want %s of %d", tc.d, tc.d.Size(), tc.name, tc.size)
		}
	}
	if s := DType(9).String(); s != "DType(9)" {
		t.Errorf("%s", s)
	}
}
