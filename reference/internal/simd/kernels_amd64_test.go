//go:build !purego

package simd

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// each runs f with the vector widths of this machine.
func each(t *testing.T, f func(t *testing.T, wide bool)) {
	if narrow {
		t.Run("avx2", func(t *testing.T) { f(t, false) })
	}
	if wide {
		t.Run("avx512", func(t *testing.T) { f(t, true) })
	}
}

func TestProduct(t *testing.T) {
	each(t, func(t *testing.T, wide bool) {
		r := rand.New(rand.NewPCG(3, 4))
		for _, s := range [][3]int{{4, 16, 1}, {64, 192, 128}, {64, 128, 192}, {7, 83, 5}, {12, 80, 33}, {3, 15, 2}} {
			m, n, k := s[0], s[1], s[2]
			a, b := make([]float32, m*k), make([]float32, k*n)
			for i := range a {
				if r.IntN(4) > 0 {
					a[i] = float32(r.NormFloat64() * math.Exp2(float64(r.IntN(40)-20)))
				}
			}
			for i := range b {
				b[i] = float32(r.NormFloat64())
			}
			want, got := make([]float32, m*n), make([]float32, m*n)
			gonumProduct(m, n, k, a, k, b, n, want, n)
			rows, cols := productBy(m, n, k, a, b, got, wide)
			for i := range rows {
				for j := range cols {
					if math.Float32bits(got[i*n+j]) != math.Float32bits(want[i*n+j]) {
						t.Fatalf("%v: element %d, %d is %x, want %x", s, i, j, got[i*n+j], want[i*n+j])
					}
				}
			}
			Product(m, n, k, a, b, got)
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("%v: Product differs", s)
			}
		}
	})
}

func TestExponential(t *testing.T) {
	each(t, func(t *testing.T, wide bool) {
		r := rand.New(rand.NewPCG(5, 6))
		x := make([]float32, 1<<16)
		for i := range x {
			switch r.IntN(3) {
			case 0:
				x[i] = math.Float32frombits(r.Uint32())
			default:
				x[i] = float32(-20 * r.ExpFloat64())
			}
		}
		for _, top := range []float32{0, 3.25, -1e-3} {
			got := append([]float32(nil), x...)
			if n := exponentialBy(got, top, wide); n != len(x) {
				t.Fatalf("%d of %d done", n, len(x))
			}
			for i := range x {
				want := Exp(x[i] - top)
				if math.Float32bits(got[i]) != math.Float32bits(want) && !(got[i] != got[i] && want != want) {
					t.Fatalf("exp(%x - %x) is %x, want %x", x[i], top, got[i], want)
				}
			}
		}
	})
}
