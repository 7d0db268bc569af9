// Package strictmath holds exponentials and logarithms whose bits do not depend
// on the machine. Those of package math do: some architectures have assembly for
// them, that of amd64 asks the CPU whether it has FMA, and on others the compiler
// fuses x*y + z.
//
// Here everything is sums, products and quotients in float64, each rounded to
// nearest; the conversions around products keep compilers from fusing them. The
// tests measure the errors that the functions state, in units in the last place
// (ulp) of the exact result, against math/big.
package strictmath

import "math"

// ln(2) in two parts, the first of 32 bits.
const (
	ln2High = 0x1.62e42feep-1
	ln2Low  = 0x1.a39ef35793c76p-33
)

// magic, added to and subtracted from a number below 2^51, rounds it to an
// integer, to nearest, ties to even.
const magic = 0x1.8p52

// Exp returns e to the x, with an error below 0.9 ulp, also among the subnormal
// numbers. Overflow gives +Inf, underflow 0, NaN gives NaN.
func Exp(x float64) float64 {
	switch {
	case x != x:
		return x
	case x > 710:
		return math.Inf(1)
	case x < -746:
		return 0
	}
	n := float64(x*math.Log2E) + magic - magic
	// Product and difference are exact: n has at most 11 bits, and the difference
	// is small where x is not.
	return scaled(x-float64(n*ln2High), -float64(n*ln2Low), int(n))
}

// Exp2 returns 2 to the x, with an error below 0.9 ulp, also among the subnormal
// numbers. Overflow gives +Inf, underflow 0, NaN gives NaN.
func Exp2(x float64) float64 {
	switch {
	case x != x:
		return x
	case x >= 1024:
		return math.Inf(1)
	case x < -1076:
		return 0
	}
	n := x + magic - magic
	f := x - n
	// f*ln(2) in two parts: 21 bits of f times the 32 of ln2High are exact.
	top := math.Float64frombits(math.Float64bits(f) &^ (1<<32 - 1))
	return scaled(float64(top*ln2High), float64(top*ln2Low)+float64((f-top)*math.Ln2), int(n))
}

// inverse[i] is 1/i!.
var inverse = func() (c [15]float64) {
	f := 1.0
	for i := range c {
		if i > 0 {
			f *= float64(i) // at most 14!, exact
		}
		c[i] = 1 / f
	}
	return c
}()

// scaled returns e^(high+low) * 2^n for |high| < 0.35 and a much smaller low.
func scaled(high, low float64, n int) float64 {
	r := high + low
	low += high - r
	// The Taylor polynomial of degree 14, whose remainder is below 2^-61: 1 + r +
	// r²q, by pairs, so that the operations need not all wait for each other.
	c := &inverse
	r2 := float64(r * r)
	r4 := float64(r2 * r2)
	q := float64(c[14]*r4) + (c[10] + float64(c[11]*r)) + float64((c[12]+float64(c[13]*r))*r2)
	q = float64(q*r4) + (c[6] + float64(c[7]*r)) + float64((c[8]+float64(c[9]*r))*r2)
	q = float64(q*r4) + (c[2] + float64(c[3]*r)) + float64((c[4]+float64(c[5]*r))*r2)
	// The small terms first: only the last sum rounds at the size of the result.
	y := 1 + (r + (low + float64(q*r2)))
	switch {
	case n > 1023:
		return y * 0x1p1023 * power(n-1023)
	case n < -1021:
		// The first product is exact, the second may round to a subnormal.
		return y * 0x1p-1000 * power(n+1000)
	}
	return y * power(n)
}

// power returns 2^n for a normal result.
func power(n int) float64 { return math.Float64frombits(uint64(n+1023) << 52) }

// Log returns the natural logarithm of x, with an error below 0.9 ulp. Zero gives
// -Inf, a negative number or NaN gives NaN.
func Log(x float64) float64 {
	switch {
	case x != x || x > math.MaxFloat64:
		return x
	case x < 0:
		return math.NaN()
	case x == 0:
		return math.Inf(-1)
	}
	m, exp := math.Frexp(x)
	if m < math.Sqrt2/2 {
		m *= 2
		exp--
	}
	// With s = f/(2+f), ln(1+f) = 2 artanh(s) = f - s(f - 2s²/3 - 2s⁴/5 - ...).
	// f is exact, and the term that rounds is small against it. The series ends
	// where what follows is below 2^-60 of the sum.
	f := m - 1
	s := f / (2 + f)
	w := float64(s * s)
	var series float64
	for i := 23; i >= 3; i -= 2 {
		series = float64((series + 2/float64(i)) * w)
	}
	n := float64(exp)
	high := float64(n * ln2High) // exact
	sum := high + f
	low := high - sum + f // what the sum lost
	return sum + (low + (float64(n*ln2Low) - float64(s*(f-series))))
}

// Tanh returns the hyperbolic tangent of x, with an error below 2 ulp.
//
// Below 5/8 it is the rational approximation of S. Moshier's Cephes library (tanh.c), above
// 1 - 2/(e^2x + 1).
func Tanh(x float64) float64 {
	z := math.Abs(x)
	switch {
	case x != x || x == 0:
		return x
	case z > 22: // 1 - 2^-63
		return math.Copysign(1, x)
	case z >= 0.625:
		return math.Copysign(1-2/(Exp(2*z)+1), x)
	}
	s := float64(x * x)
	p := float64((float64(-9.64399179425052238628e-1*s)+-9.92877231001918586564e1)*s) + -1.61468768441708447952e3
	q := float64((float64((s+1.12811678491632931402e2)*s)+2.23548839060100448583e3)*s) + 4.84406305325125486048e3
	return x + float64(x*float64(s*float64(p/q)))
}
