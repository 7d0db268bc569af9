package exact

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/sageacc/sageacc/emulate/format"
)

// forLevels runs a test at every level that has kernels.
func forLevels(t *testing.T, f func(t *testing.T, l Level)) {
	for _, l := range Levels()[1:] {
		t.Run(l.String(), func(t *testing.T) { f(t, l) })
	}
}

// draw returns numbers of both signs and many magnitudes, of which the sums depend on the order.
func draw(r *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(math.Ldexp(r.NormFloat64(), r.IntN(60)-30))
	}
	return x
}

// sum is the definition of a sum.
func sum(a, b []float32, terms, lane int) (s float64) {
	for k, x := range a[:terms] {
		s += float64(float64(x) * float64(b[k*Lanes+lane]))
	}
	return s
}

// TestSums holds sums of all shapes to the definition.
func TestSums(t *testing.T) { forLevels(t, testSums) }

func testSums(t *testing.T, l Level) {
	r := rand.New(rand.NewPCG(1, 2))
	var a Rows
	for _, shape := range [][4]int{{1, 1, 1, 64}, {4, 3, 5, 1}, {5, 64, 64, 64}, {64, 70, 71, 33}, {16, 128, 200, 8}, {2, 17, 17, 9}, {128, 64, 64, 63}} {
		rows, terms, stride, n := shape[0], shape[1], shape[2], shape[3]
		what := fmt.Sprintf("%d rows, %d terms of %d, %d lanes", rows, terms, stride, n)
		x, b := draw(r, rows*stride), draw(r, terms*Lanes)
		if !a.Load(x, rows, terms, stride) {
			t.Fatalf("%s: not finite", what)
		}
		dst, onto := make([]float32, Sums(rows)), make([]float64, Sums(rows))
		var alpha, factor [Lanes]float64
		for i := range alpha {
			alpha[i], factor[i] = float64(r.Float32()), float64(r.Float32())
		}
		for i := range onto {
			onto[i] = r.NormFloat64()
		}
		before := append([]float64(nil), onto...)
		l.Dot(dst, &a, b, n)
		l.DotOnto(onto, &a, b, &alpha, &factor, n)
		for i := range rows {
			for j := range n {
				s, at := sum(x[i*stride:], b, terms, j), i*Lanes+j
				if got := dst[at]; math.Float32bits(got) != math.Float32bits(float32(s)) {
					t.Fatalf("%s: row %d, lane %d: %g, want %g", what, i, j, got, s)
				}
				want := float64(before[at]*alpha[j]) + float64(s*factor[j])
				if got := onto[at]; math.Float64bits(got) != math.Float64bits(want) {
					t.Fatalf("%s: row %d, lane %d joined: %g, want %g", what, i, j, got, want)
				}
			}
		}
		for i := rows * Lanes; i < len(dst); i += Lanes {
			if dst[i] != 0 || onto[i] != float64(before[i]*alpha[0]) {
				t.Errorf("%s: a row that there is not: %g, %g", what, dst[i], onto[i])
			}
		}
		// Fewer rows than were loaded.
		if few := Sums(1); rows > few {
			clear(dst)
			if l.Dot(dst[:few*Lanes], &a, b, n); dst[few*Lanes] != 0 {
				t.Errorf("%s: more rows than were asked for", what)
			}
		}
	}
}

// TestLoadFinite: a number that is none is seen wherever it lies.
func TestLoadFinite(t *testing.T) {
	for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))} {
		for i := range 5 * 8 {
			x := make([]float32, 5*8)
			x[i] = bad
			var a Rows
			if got, want := a.Load(x, 5, 7, 8), i%8 == 7; got != want {
				t.Errorf("%g at %d: finite %v, want %v", bad, i, got, want)
			}
		}
	}
}

// TestExponents holds exponents to their definition, tiny scores among them, and sees those of 128 and
// what is no number.
func TestExponents(t *testing.T) { forLevels(t, testExponents) }

func testExponents(t *testing.T, l Level) {
	const keys, threads = 24, 4
	r := rand.New(rand.NewPCG(3, 4))
	scale, lower := make([]float32, threads*Lanes), make([]float32, threads*Lanes)
	for i := range scale {
		scale[i], lower[i] = r.Float32(), 40*(r.Float32()-0.5)
		if i%5 == 0 {
			scale[i] = 0x1p120 // of tiny scores
		}
	}
	s := make([]float32, keys*Lanes)
	for i := range s {
		if s[i] = float32(30 * r.NormFloat64()); scale[i/Lanes&7>>1*Lanes+i%Lanes] > 1 {
			s[i] = float32(math.Ldexp(r.NormFloat64(), -r.IntN(10)-122))
		}
	}
	s[7] = float32(math.Inf(-1))
	for _, twice := range []bool{false, true} {
		for _, least := range []float32{0, 0x1p-126} {
			got := append([]float32(nil), s...)
			if !l.Exponents(got, scale, lower, least, twice) {
				t.Fatal("exponents below 128 are not")
			}
			for i, x := range s {
				if j := i/Lanes&7>>1*Lanes + i%Lanes; math.Abs(float64(x)) < float64(least) {
					x = -lower[j]
				} else if twice {
					x = float32(x*scale[j]) - lower[j]
				} else {
					x = format.FMA(x, scale[j], -lower[j])
				}
				if got[i] != x {
					t.Fatalf("twice %v, least %g: exponent %d of %g is %g, want %g", twice, least, i, s[i], got[i], x)
				}
			}
		}
	}
	for i := range scale {
		scale[i], lower[i] = 1, 0
	}
	for _, tc := range []struct {
		x    float32
		want bool
	}{{128, false}, {math.Nextafter32(128, 0), true}, {float32(math.NaN()), false}, {float32(math.Inf(1)), false}} {
		for i := range s {
			clear(s)
			s[i] = tc.x
			if got := l.Exponents(s, scale, lower, 0, i%2 == 0); got != tc.want {
				t.Fatalf("an exponent of %g at %d: %v", tc.x, i, got)
			}
		}
	}
}
