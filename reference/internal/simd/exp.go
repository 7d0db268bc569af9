package simd

import "math"

// single and double are the constants of the exponentials, each as often as a vector of
// AVX2 has elements, exact in hexadecimal. They are, in order: the smallest argument whose
// exponential is not taken as 0; 1/ln(2); a magic number whose sum with an argument/ln(2)
// holds that, rounded to an integer n, in its low bits; ln(2) in two parts, whose first is
// ln(2) rounded; a polynomial's coefficients from the highest degree to the second; and
// its last two, 1.
//
// The exponential of x is then p(r)·2^n with r = x - n·ln(2), where every step is a fused
// multiply-add and every result normal. |r| <= ln(2)/2, where the polynomials are the
// best in relative error among those that begin with 1 + r (Remez exchange): of degree
// 6 within 2^-28 for float32, of degree 11 within 2^-57 for float64.
var (
	single = repeated[float32](8, []float64{
		-87, 0x1.715476p+0, 0x1.8p23, 0x1.62e43p-1, -0x1.05c61p-29,
		0x1.6a244cp-10, 0x1.1239d4p-7, 0x1.5558f2p-5, 0x1.555492p-3, 0x1.fffffcp-2, 1,
	})
	double = repeated[float64](4, []float64{
		-708, 0x1.71547652b82fep+0, 0x1.8p52, 0x1.62e42fefa39efp-1, 0x1.abc9e3b39803fp-56,
		0x1.ad7f7a9b10222p-26, 0x1.28ad6901ef859p-22, 0x1.71df253af43e3p-19, 0x1.a0199a1680118p-16,
		0x1.a01a012a691e8p-13, 0x1.6c16c184268eep-10, 0x1.1111111127b9ep-7, 0x1.555555555088bp-5,
		0x1.55555555554fap-3, 0x1.000000000000ap-1, 1,
	})
)

// repeated lays constants out as the kernels read them.
func repeated[T Real](times int, constants []float64) []T {
	var t []T
	for _, c := range constants {
		for range times {
			t = append(t, T(c))
		}
	}
	return t
}

// exp32 is the exponential of x <= 0, with an error below 0.9 units in the last place;
// below -87 it is 0.
func exp32(x float32) float32 {
	c := func(i int) float32 { return single[8*i] }
	switch {
	case x != x:
		return x
	case x < c(0):
		return 0
	}
	t := fma32(x, c(1), c(2))
	n := t - c(2)
	r := fma32(-n, c(3), x)
	r = fma32(-n, c(4), r)
	p := c(5)
	for i := 6; i < 10; i++ {
		p = fma32(p, r, c(i))
	}
	p = fma32(p, r, c(10))
	p = fma32(p, r, c(10))
	return math.Float32frombits(math.Float32bits(p) + math.Float32bits(t)<<23)
}

// exp64 is the exponential of x <= 0, with an error below 0.9 units in the last place;
// below -708 it is 0.
func exp64(x float64) float64 {
	c := func(i int) float64 { return double[4*i] }
	switch {
	case x != x:
		return x
	case x < c(0):
		return 0
	}
	t := fma64(x, c(1), c(2))
	n := t - c(2)
	r := fma64(-n, c(3), x)
	r = fma64(-n, c(4), r)
	p := c(5)
	for i := 6; i < 15; i++ {
		p = fma64(p, r, c(i))
	}
	p = fma64(p, r, c(15))
	p = fma64(p, r, c(15))
	return math.Float64frombits(math.Float64bits(p) + math.Float64bits(t)<<52)
}
