package format

import (
	"math"
	"testing"
)

// TestLimits: the constants are what the formats' codes say.
func TestLimits(t *testing.T) {
	if E4M3(0x7e).Float32() != E4M3Max || E5M2(0x7b).Float32() != E5M2Max {
		t.Errorf("largest values %g and %g", E4M3(0x7e).Float32(), E5M2(0x7b).Float32())
	}
	for _, x := range []float32{float32(math.NaN()), math.Float32frombits(0xff80_0001)} {
		if E4M3FromFloat32(x) != E4M3NaN || E5M2FromFloat32(x) != E5M2NaN || E5M2Inf.Float32() != float32(math.Inf(1)) {
			t.Error("the codes of NaN or infinity are not those of the constants")
		}
		if got := BF16FromFloat32(x); got != 0x7fff {
			t.Errorf("BF16 NaN is %04x", got)
		}
	}
}

// TestIntegerCodes: at the ends of the ranges, inside and beyond.
func TestIntegerCodes(t *testing.T) {
	for _, tc := range []struct {
		x                 float32
		int8, int4, trunc int8
	}{
		{-127, -127, -7, -127}, {-127.4, -127, -7, -127}, {-127.5, -128, -7, -127}, {-127.6, -128, -7, -127}, {-128, -128, -7, -128},
		{-128.7, -128, -7, -128}, {-129, -128, -7, -128}, {-1e9, -128, -7, -128}, {-126.5, -126, -7, -126}, {-126, -126, -7, -126},
		{126, 126, 7, 126}, {126.5, 126, 7, 126}, {126.6, 127, 7, 126}, {127, 127, 7, 127}, {127.6, 127, 7, 127}, {128, 127, 7, 127},
		{129, 127, 7, 127}, {1e9, 127, 7, 127},
		{-6, -6, -6, -6}, {-6.4, -6, -6, -6}, {-6.5, -6, -6, -6}, {-6.6, -7, -7, -6}, {-7, -7, -7, -7}, {-7.4, -7, -7, -7}, {-7.6, -8, -7, -7},
		{6, 6, 6, 6}, {6.5, 6, 6, 6}, {6.6, 7, 7, 6}, {7, 7, 7, 7}, {7.6, 8, 7, 7}, {8, 8, 7, 8},
		{0.5, 0, 0, 0}, {-0.5, 0, 0, 0}, {1.5, 2, 2, 1}, {-1.5, -2, -2, -1}, {float32(math.NaN()), 0, 0, 0},
	} {
		if a, b, c := Int8FromFloat32(tc.x), Int4FromFloat32(tc.x), TruncToInt8(tc.x); a != tc.int8 || b != tc.int4 || c != tc.trunc {
			t.Errorf("%g becomes %d, %d and, cut off, %d, want %d, %d and %d", tc.x, a, b, c, tc.int8, tc.int4, tc.trunc)
		}
	}
}

// TestRoundFP16: the shortcut is the conversion there and back, at every value, every
// midpoint, one FP32 number to either side of both, and all over.
func TestRoundFP16(t *testing.T) {
	check := func(b uint32) {
		x := math.Float32frombits(b)
		if got, want := RoundFP16(x), FP16ToFloat32(FP16FromFloat32(x)); math.Float32bits(got) != math.Float32bits(want) && got == got {
			t.Fatalf("%g (%08x) becomes %g, not %g", x, b, got, want)
		}
	}
	for h := range uint16(0x7c00) {
		lo := math.Float32bits(FP16ToFloat32(h))
		mid := math.Float32bits((FP16ToFloat32(h) + FP16ToFloat32(h+1)) / 2)
		if h == 0x7bff {
			mid = math.Float32bits(65520)
		}
		for _, b := range []uint32{lo - 1, lo, lo + 1, mid - 1, mid, mid + 1} {
			check(b & absMask32)
			check(b | signMask32)
		}
	}
	for b := uint64(0); b < 1<<32; b += 5003 {
		check(uint32(b))
	}
	if got := RoundFP16(65520); !math.IsInf(float64(got), 1) {
		t.Errorf("65520 becomes %g", got)
	}
}

// TestFP22: both roundings against the definition in FP64, all over and around ties.
func TestFP22(t *testing.T) {
	check := func(b uint32) {
		x := math.Float32frombits(b)
		if x-x != 0 {
			return
		}
		_, e := math.Frexp(float64(x))
		ulp := math.Ldexp(1, max(e-1, -126)-13)
		down := float32(math.Trunc(float64(x)/ulp) * ulp)
		near := float32(math.RoundToEven(float64(x)/ulp) * ulp)
		if got := TruncateFP22(x); math.Float32bits(got) != math.Float32bits(down) {
			t.Fatalf("%08x is cut to %g, want %g", b, got, down)
		}
		if got := RoundFP22(x); math.Float32bits(got) != math.Float32bits(near) {
			t.Fatalf("%08x is rounded to %g, want %g", b, got, near)
		}
	}
	for b := uint64(0); b < 1<<32; b += 1 << 16 {
		for _, low := range []uint64{0, 1, 0x1ff, 0x200, 0x201, 0x3ff, 0x400, 0x5ff, 0x600, 0x601, 0xffff} {
			check(uint32(b + low))
		}
	}
	for b := uint64(0); b < 1<<32; b += 10007 {
		check(uint32(b))
	}
	for _, b := range []uint32{inf32, inf32 | signMask32} {
		x := math.Float32frombits(b)
		if TruncateFP22(x) != x || RoundFP22(x) != x {
			t.Errorf("%g becomes %g and %g", x, TruncateFP22(x), RoundFP22(x))
		}
	}
	if x := math.Float32frombits(inf32 | 1); TruncateFP22(x) == TruncateFP22(x) || RoundFP22(x) == RoundFP22(x) {
		t.Error("a NaN ends")
	}
	if x := RoundFP22(math.MaxFloat32); !math.IsInf(float64(x), 1) {
		t.Errorf("the largest number becomes %g", x)
	}
}

// TestFromBits undoes Bits.
func TestFromBits(t *testing.T) {
	for _, tc := range []struct {
		d    DType
		bits uint32
		want float32
	}{{FP16, 0xc500, -5}, {BF16, 0xc0a0, -5}, {FP32, 0xc0a0_0000, -5}} {
		if got := tc.d.FromBits(tc.bits); got != tc.want || tc.d.Bits(got) != tc.bits {
			t.Errorf("%s %x is %g, want %g", tc.d, tc.bits, got, tc.want)
		}
	}
}

// TestFMANearTies: sums whose FP64 rounding error decides, worked out by hand. The
// products are of (1 + i 2^-23) and (1 - j 2^-23), scaled: they fall a little short of,
// or beyond, a power of two, by less than FP64 holds in a sum.
func TestFMANearTies(t *testing.T) {
	const u = 0x1p-23
	for _, tc := range []struct {
		name          string
		a, b, c, want float32
	}{
		// 2^-126 - 1.5 ulp, and 2^-196 above that tie of subnormal numbers.
		{"above a subnormal tie", (1 + u) * 0x1p-75, -(1 - u) * 0x1p-75, 0x1p-126 - 0x1p-149, 0x1p-126 - 0x1p-149},
		// An odd FP64 sum just below the tie at 2^-126 - ulp/2, itself rounded down.
		{"odd, below", (1 + 2875*u) * 0x1p-75, -(1 - 2874*u) * 0x1p-75, 0x1p-126, 0x1p-126 - 0x1p-149},
		// And just above the tie at 2^-126 - 1.5 ulp, rounded up.
		{"odd, above", (1 + 361*u) * 0x1p-75, -(1 - 361*u) * 0x1p-75, 0x1p-126 - 0x1p-149, 0x1p-126 - 0x1p-149},
		// The same distance from a tie of normal numbers: 1 - 2^-25 and 2^-71 more.
		{"above a tie", (1 + u) * 0x1p-12, -(1 - u) * 0x1p-13, 1 - 0x1p-24, 1 - 0x1p-24},
		{"overflow", math.MaxFloat32, math.MaxFloat32, 0, float32(math.Inf(1))},
		{"negative overflow", -math.MaxFloat32, math.MaxFloat32, 0, float32(math.Inf(-1))},
	} {
		if got := FMA(tc.a, tc.b, tc.c); got != tc.want {
			t.Errorf("%s: %x, want %x", tc.name, got, tc.want)
		}
		if got := FMA(-tc.a, tc.b, -tc.c); got != -tc.want {
			t.Errorf("%s, negative: %x, want %x", tc.name, got, -tc.want)
		}
	}
}

// TestFlushBound: what decides whether a result is flushed is the exact one, also where
// FP64 rounds it to the bound, 2^-126 - 2^-151.
func TestFlushBound(t *testing.T) {
	const u = 0x1p-23
	const x, y = 1 + 2896*u, 1 - 2895*u // their product is 1 + 4688 2^-46
	for _, tc := range []struct {
		name          string
		a, b, c, want float32
	}{
		{"a hair below the bound", x * 0x1p-75, -y * 0x1p-76, 0x1p-126, 0},
		{"at the bound", 0x1p-75, -0x1p-76, 0x1p-126, 0x1p-126},
		{"above the bound, rounded up", x * 0x1p-76, -y * 0x1p-76, 0x1p-126, 0x1p-126},
		{"a product at the bound", 18631 * 0x1p-76, 1801 * 0x1p-75, 0, 0x1p-126}, // 2^25 - 1 = 18631 x 1801
		{"a product below it", 18631 * 0x1p-76, 1800 * 0x1p-75, 0, 0},
	} {
		if got := FMAFtz(tc.a, tc.b, tc.c); got != tc.want {
			t.Errorf("%s: %x, want %x", tc.name, got, tc.want)
		}
		if got := FMAFtz(-tc.a, tc.b, -tc.c); got != -tc.want {
			t.Errorf("%s, negative: %x, want %x", tc.name, got, -tc.want)
		}
		if got := MulFtz(tc.a, tc.b); tc.c == 0 && got != tc.want {
			t.Errorf("%s: MulFtz gives %x, want %x", tc.name, got, tc.want)
		}
	}
}
