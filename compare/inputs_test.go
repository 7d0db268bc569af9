package compare

import (
	"math"
	"math/rand/v2"
	"testing"
)

// TestHeadInputs: rows of any length, with zeros, NaN and infinities anywhere, are counted
// as one element after the other would be.
func TestHeadInputs(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	odd := []float32{0, float32(math.Copysign(0, -1)), float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1)), 0x1p-149, -math.MaxFloat32}
	for range 2000 {
		x := make([]float32, 1+r.IntN(40))
		var want inputs
		sum := 0.0
		for i := range x {
			// Multiples of 1/64, whose sums are exact in any order.
			x[i] = float32(r.IntN(4000)-2000) / 64
			if r.IntN(8) == 0 {
				x[i] = odd[r.IntN(5)]
			}
			a := math.Abs(float64(x[i]))
			want.elements++
			switch {
			case a == 0:
				want.zeros++
			case a-a != 0:
				want.nonFinite++
			default:
				sum += a
				want.absMax = max(want.absMax, a)
			}
		}
		var got headInputs
		got.add(x, x[:1], 1)
		if got.absSum.Value() != sum {
			t.Fatalf("%v: sum %g, want %g", x, got.absSum.Value(), sum)
		}
		want.absSum = got.absSum
		if got.inputs != want {
			t.Fatalf("%v: %+v, want %+v", x, got.inputs, want)
		}
	}
	for i := range 8 {
		x := make([]float32, 8)
		x[i], x[(i+1)%8] = odd[5], odd[6]
		var got headInputs
		if got.add(x, x[:1], 1); got.absMax != math.MaxFloat32 || got.zeros != 6 || got.nonFinite != 0 {
			t.Errorf("at %d: %+v", i, got.inputs)
		}
	}
}
