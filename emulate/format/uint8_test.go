package format

import (
	"math"
	"testing"
)

func TestUint8FromFloat32(t *testing.T) {
	for _, tc := range []struct {
		x          float32
		even, zero uint8
	}{
		{0, 0, 0}, {0.5, 0, 0}, {1.5, 2, 1}, {2.5, 2, 2}, {254.49, 254, 254}, {254.5, 254, 254}, {254.51, 255, 254}, {255, 255, 255}, {1e9, 255, 255},
		{-0.6, 0, 0}, {-7, 0, 0}, {float32(math.Inf(1)), 255, 255}, {float32(math.Inf(-1)), 0, 0}, {float32(math.NaN()), 0, 0},
	} {
		if got := Uint8FromFloat32(tc.x, false); got != tc.even {
			t.Errorf("%g is %d, want %d", tc.x, got, tc.even)
		}
		if got := Uint8FromFloat32(tc.x, true); got != tc.zero {
			t.Errorf("%g toward zero is %d, want %d", tc.x, got, tc.zero)
		}
	}
}
