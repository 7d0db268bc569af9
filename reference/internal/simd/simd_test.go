package simd

import (
	"math"
	"math/rand/v2"
	"testing"
)

// TestExpError holds Exp to the exponential of package math: rounded to float32
// the two differ only next to the middle between two values.
func TestExpError(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	differ := 0
	for range 1_000_000 {
		x := float32(-110 + 200*r.Float64())
		got, want := Exp(x), float32(math.Exp(float64(x)))
		if got != want {
			differ++
			if math.Nextafter32(got, want) != want {
				t.Fatalf("Exp(%x) = %x, want %x", x, got, want)
			}
		}
	}
	if differ > 10 {
		t.Errorf("%d of 1,000,000 exponentials differ", differ)
	}
	inf := float32(math.Inf(1))
	for _, c := range [][2]float32{{0, 1}, {-inf, 0}, {inf, inf}, {-104.5, 0}, {89, inf}, {-103, 0x1p-149}} {
		if got := Exp(c[0]); got != c[1] {
			t.Errorf("Exp(%g) = %g, want %g", c[0], got, c[1])
		}
	}
	if x := Exp(float32(math.NaN())); x == x {
		t.Errorf("Exp(NaN) = %g", x)
	}
}
