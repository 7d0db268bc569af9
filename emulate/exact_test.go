package emulate

import (
	"math"
	"math/rand/v2"
	"testing"
)

// TestExactExp2 holds the fast part to the digits: random arguments of all
// magnitudes, and those next to integers and to the ends of the range.
func TestExactExp2(t *testing.T) {
	want := func(x float32) float32 {
		n := math.RoundToEven(float64(x))
		r := math.Ldexp(float64(exp2Digits(float64(x)-n)), int(n))
		if r < 0x1p-126 {
			return 0
		}
		return float32(r)
	}
	check := func(x float32) {
		t.Helper()
		if got := exactExp2(x); got != want(x) {
			t.Fatalf("exactExp2(%g) = %x, want %x", x, got, want(x))
		}
	}
	r := rand.New(rand.NewPCG(7, 7))
	for range 20000 {
		check(float32(r.Float64()*254 - 126.99))
		check(float32(math.Ldexp(r.Float64()-0.5, r.IntN(40)-34)))
	}
	for n := float32(-126); n < 128; n++ {
		if got := exactExp2(n); got != float32(math.Ldexp(1, int(n))) {
			t.Errorf("exactExp2(%g) = %x", n, got)
		}
		check(math.Nextafter32(n, 200))
		check(math.Nextafter32(n, -200))
	}
	for _, tc := range []struct{ x, want float32 }{
		{-126.00001, 0}, {-127, 0}, {-5e6, 0}, {float32(math.Inf(-1)), 0}, {0, 1}, {1e-42, 1},
		{128, float32(math.Inf(1))}, {float32(math.Inf(1)), float32(math.Inf(1))},
		{0.5, math.Sqrt2}, {-0.5, math.Sqrt2 / 2},
	} {
		if got := exactExp2(tc.x); got != tc.want {
			t.Errorf("exactExp2(%g) = %g, want %g", tc.x, got, tc.want)
		}
	}
	if x := exactExp2(float32(math.NaN())); x == x {
		t.Errorf("exactExp2(NaN) = %g", x)
	}
}

func TestExactRcp(t *testing.T) {
	for _, tc := range []struct{ x, want float32 }{
		{3, 1.0 / 3}, {1, 1}, {0x1p-126, 0x1p126}, {0x1p126, 0x1p-126}, {0x1p127, 0},
		{0, float32(math.Inf(1))}, {0x1p-127, float32(math.Inf(1))},
	} {
		if got := exactRcp(tc.x); got != tc.want {
			t.Errorf("exactRcp(%g) = %g, want %g", tc.x, got, tc.want)
		}
	}
}
