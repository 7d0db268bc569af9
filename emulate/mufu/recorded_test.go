package mufu

import (
	"math"
	"testing"

	"github.com/sageacc/sageacc/emulate/format"
)

// TestValues holds the functions to values recorded on an H200: specials, the
// edges of segments and arguments around the thresholds.
func TestValues(t *testing.T) {
	inf := float32(math.Inf(1))
	negZero := float32(math.Copysign(0, -1))
	for _, tc := range []struct {
		name string
		f    func(float32) float32
		x    float32
		want uint32
	}{
		{"ex2", Ex2, 0, 0x3f800000}, {"ex2", Ex2, negZero, 0x3f800000}, {"ex2", Ex2, 1, 0x40000000}, {"ex2", Ex2, -1, 0x3f000000},
		{"ex2", Ex2, inf, 0x7f800000}, {"ex2", Ex2, -inf, 0}, {"ex2", Ex2, 128, 0x7f800000}, {"ex2", Ex2, -126, 0x00800000}, {"ex2", Ex2, -127, 0},
		{"rcp", Rcp, 1, 0x3f800000}, {"rcp", Rcp, -2, 0xbf000000}, {"rcp", Rcp, 0, 0x7f800000}, {"rcp", Rcp, negZero, 0xff800000},
		{"rcp", Rcp, inf, 0}, {"rcp", Rcp, -inf, 0x80000000}, {"rcp", Rcp, 0x1p126, 0x00800000}, {"rcp", Rcp, 0x1p127, 0},
		{"lg2", Lg2, 1, 0}, {"lg2", Lg2, 2, 0x3f800000}, {"lg2", Lg2, 0.5, 0xbf7ffffe}, {"lg2", Lg2, 0, 0xff800000}, {"lg2", Lg2, inf, 0x7f800000},
	} {
		if got := math.Float32bits(tc.f(tc.x)); got != tc.want {
			t.Errorf("%s(%g) = %08x, want %08x", tc.name, tc.x, got, tc.want)
		}
	}
	nan := float32(math.NaN())
	for _, x := range []float32{Ex2(nan), Rcp(nan), Lg2(nan), Lg2(-1), DivFull(0, 0), DivApprox(1, nan), DivFull(inf, inf)} {
		if x == x {
			t.Errorf("%g where NaN is expected", x)
		}
	}
}

// TestErrors bounds the functions' errors by those that the PTX ISA states: 2
// ulp-scale relative errors of ex2 (2^-22.5) and rcp (1 ulp), the absolute error
// of lg2 (2^-22).
func TestErrors(t *testing.T) {
	for i := range 1 << 20 {
		x := math.Float32frombits(0x3f80_0000 + uint32(i)*8)
		if e := math.Abs(float64(Ex2(x))/math.Exp2(float64(x)) - 1); e > 0x1p-22 {
			t.Fatalf("ex2(%g) is off by %g", x, e)
		}
		if e := math.Abs(float64(Rcp(x))*float64(x) - 1); e > 0x1p-23 {
			t.Fatalf("rcp(%g) is off by %g", x, e)
		}
		if e := math.Abs(float64(Lg2(x)) - math.Log2(float64(x))); e > 0x1p-22 {
			t.Fatalf("lg2(%g) is off by %g", x, e)
		}
	}
}

// TestDivisions: DivFull scales where the reciprocal would be flushed, DivApprox
// does not.
func TestDivisions(t *testing.T) {
	if got := DivFull(0x1p127, 0x1p127); got != 1 {
		t.Errorf("DivFull(2^127, 2^127) = %g", got)
	}
	if got := DivApprox(0x1p127, 0x1p127); got != 0 {
		t.Errorf("DivApprox(2^127, 2^127) = %g", got)
	}
	// From the first number beyond 2^126 on, whose reciprocal is flushed.
	for b, want := range map[uint32]float32{0x7e800000: 0x1p-6, 0x7e800001: 0x1.fffffcp-7, 0x7effffff: 0x1.000002p-7} {
		if got := DivFull(0x1p120, math.Float32frombits(b)); got != want {
			t.Errorf("DivFull(2^120, %#x) = %x, want %x", b, got, want)
		}
	}
	// Recorded: tiny after rounding is flushed.
	a, b := math.Float32frombits(0x151bacfd), math.Float32frombits(0x541bacfd)
	if got := DivFull(a, b); got != 0 {
		t.Errorf("DivFull(%g, %g) = %g, an H200 gives 0", a, b, got)
	}
}

// checksum is FNV-1a over the results of f.
func checksum(f func(b uint32) uint32, from, to, step uint64) uint64 {
	h := uint64(14695981039346656037)
	for b := from; b < to; b += step {
		h = (h ^ uint64(f(uint32(b)))) * 1099511628211
	}
	return h
}

// edges are the arguments around powers of two.
func edges(f func(b uint32) uint32) uint64 {
	h := uint64(0)
	for e := range uint32(512) {
		for d := range uint32(7) {
			h = h*1099511628211 + checksum(f, uint64(e<<23+d-3), uint64(e<<23+d-3)+1, 1)
		}
	}
	return h
}

// TestChecksums pins every result of a binade, one in 499 of all binades and signs, and
// those around powers of two.
// These functions gave an H200's results for all 2^32 arguments when the checksums were
// taken (sageacc validate --units).
func TestChecksums(t *testing.T) {
	of := func(f func(float32) float32) func(uint32) uint32 {
		return func(b uint32) uint32 { return math.Float32bits(f(math.Float32frombits(b))) }
	}
	// b divided by a number of another magnitude, and of another significand.
	over := func(f func(a, b float32) float32) func(uint32) uint32 {
		return func(b uint32) uint32 {
			x := f(math.Float32frombits(b*2654435761), math.Float32frombits(b))
			if x != x {
				return nanBits // an ordinary product's NaN depends on the CPU
			}
			return math.Float32bits(x)
		}
	}
	for _, tc := range []struct {
		name               string
		f                  func(uint32) uint32
		binade, all, edges uint64
	}{
		{"ex2", of(Ex2), 0x3f0f3852f2fa7edb, 0x40513caceec97f86, 0x5a2b7c1d7023356c},
		{"rcp", of(Rcp), 0xfa72a6c698274964, 0xdd9f288560887489, 0xc5e7dd1978796b78},
		{"lg2", of(Lg2), 0x5ca43d6b0d176848, 0x4a46980ec7d185df, 0xf5663f20f0f02ffb},
		{"div.full", over(DivFull), 0x8273bf88916e4f0d, 0x5c0dc0c28a7ff9c, 0xdb7cff4fb7b3fb70},
		{"div.full, subnormal", over(DivFullSubnormal), 0x3b0dd3dc7b1070ef, 0x3cc632aee8a68591, 0xde2893cf4f71ca30},
		{"tanh", of(Tanh), 0x84573e3df0ccdcc5, 0x677972cbe67697b6, 0x3329415a6c68c614}, // recorded on an H100 from 2^-27 on; its NaN is the same for all
		{"div.approx", over(DivApprox), 0x8273bf88916e4f0d, 0x53ec00a6e224a637, 0xdc21e7339591b368},
	} {
		binade, all, edges := checksum(tc.f, 0x3f80_0000, 0x4000_0000, 1), checksum(tc.f, 0, 1<<32, 499), edges(tc.f)
		if binade != tc.binade || all != tc.all || edges != tc.edges {
			t.Errorf("%s: checksums %#x, %#x, %#x, not %#x, %#x, %#x", tc.name, binade, all, edges, tc.binade, tc.all, tc.edges)
		}
	}
}

// TestFactor: a division is one multiplication where the divisor is not scaled first.
func TestFactor(t *testing.T) {
	for _, tc := range []struct {
		b    float32
		keep bool
		want bool
	}{{3, false, true}, {-3, true, true}, {0x1p126, true, true}, {0x1.8p126, false, false}, {0x1.8p126, true, false}, {0x1p-127, true, false}, {0x1p-127, false, true}} {
		d := NewDivisor(tc.b, tc.keep)
		f, ok := d.Factor()
		if ok != tc.want || ok && format.MulFtz(5, f) != d.Divide(5) {
			t.Errorf("%g, keep %v: %g, %v", tc.b, tc.keep, f, ok)
		}
	}
}
