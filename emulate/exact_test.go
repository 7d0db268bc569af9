package emulate

import (
	"math"
	"math/rand/v2"
	"slices"
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

// TestExactExp2Lanes holds the vectors to the portable code, with and without numbers that the series does
// not decide.
func TestExactExp2Lanes(t *testing.T) {
	for _, level := range Levels() {
		if !level.l.Lanes() {
			continue
		}
		r := rand.New(rand.NewPCG(7, 8))
		x := make([]float32, 1<<16)
		for i := range x {
			switch x[i] = float32(r.Float64()*260 - 132); i % 4 {
			case 1:
				x[i] = float32(math.Ldexp(r.Float64()-0.5, r.IntN(160)-153))
			case 2:
				x[i] = math.Nextafter32(float32(r.IntN(255)-127), float32(r.IntN(3)-1)*200)
			case 3:
				x[i] = min(float32(r.IntN(300)-150)/2, 127)
			}
		}
		x[0], x[17], x[18] = float32(math.Inf(-1)), math.Nextafter32(128, 0), -math.MaxFloat32
		for bound, least := range map[float64]int{seriesBound: 0, 0x1p-30: 1000} {
			series := seriesOf
			series[len(series)-2], series[len(series)-1] = 1+bound, 1-bound
			for _, n := range []int{16, 48, len(x)} {
				got, calls := slices.Clone(x[:n]), 0
				level.fp64.Exp2(got, &series, func(x float32) float32 {
					calls++
					return exactExp2(x)
				})
				for i, v := range x[:n] {
					if want := exactExp2(v); math.Float32bits(got[i]) != math.Float32bits(want) {
						t.Fatalf("%s: 2^%g is %x, want %x", level, v, got[i], want)
					}
				}
				if n == len(x) && (calls < least || calls > n/4) {
					t.Errorf("%s: a bound of %g leaves %d undecided", level, bound, calls)
				}
			}
		}
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
