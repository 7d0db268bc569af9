package mufu

import (
	"math"
	"testing"
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
	// Recorded: tiny after rounding is flushed.
	a, b := math.Float32frombits(0x151bacfd), math.Float32frombits(0x541bacfd)
	if got := DivFull(a, b); got != 0 {
		t.Errorf("DivFull(%g, %g) = %g, an H200 gives 0", a, b, got)
	}
}
