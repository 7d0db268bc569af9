package emulate

import (
	"math"
	"math/big"
	"sync"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/internal/exact"
)

// exactExp2 is 2^x rounded once to nearest, and flushed to zero below 2^-126. The
// operations of the fast part are rounded one by one, so that no CPU fuses them.
func exactExp2(x float32) float32 {
	switch {
	case x != x:
		return x
	case x >= 128:
		return float32(math.Inf(1))
	case x < -127:
		return 0
	}
	n := math.RoundToEven(float64(x))
	f := float64(x) - n // exact, in [-1/2, 1/2]
	t := float64(f * math.Ln2)
	// The series of e^t: |t| < 0.347, so the rest after t^13 is below 2^-55.
	var s float64
	for _, c := range series {
		s = float64(s*t) + c
	}
	// s is good to 2^-50: what a step rounds is at most 2^-53 of it, and 0.347 of that is left
	// after the next. Where that does not decide the rounding, more digits do.
	y := float32(s)
	if float32(s*(1+seriesBound)) != y || float32(s*(1-seriesBound)) != y {
		y = exp2Digits(f)
	}
	r := float64(y) * math.Float64frombits(uint64(1023+int(n))<<52)
	if r < 0x1p-126 {
		return 0
	}
	return float32(r)
}

// seriesBound is a bound of the series' error, whether or not its products are rounded by themselves.
const seriesBound = 0x1p-46

// series holds 1/13!, 1/12! and so on to 1/0!.
var series = [14]float64{
	1. / 6227020800, 1. / 479001600, 1. / 39916800, 1. / 3628800, 1. / 362880, 1. / 40320, 1. / 5040,
	1. / 720, 1. / 120, 1. / 24, 1. / 6, 1. / 2, 1, 1,
}

// seriesOf are the same for vectors.
var seriesOf = func() (c exact.Coefficients) {
	copy(c[copy(c[:], series[:]):], []float64{math.Ln2, 1 + seriesBound, 1 - seriesBound})
	return c
}()

// roots holds 2^(2^-i), rounded to a precision that leaves no doubt of an FP32
// result.
var roots = sync.OnceValue(func() (r [200]*big.Float) {
	r[0] = big.NewFloat(2).SetPrec(320)
	for i := 1; i < len(r); i++ {
		r[i] = new(big.Float).SetPrec(320).Sqrt(r[i-1])
	}
	return r
})

// exp2Digits is 2^f for |f| <= 1/2, to FP32: the product of the roots that f's
// digits call for.
func exp2Digits(f float64) float32 {
	p := big.NewFloat(1).SetPrec(320)
	m := math.Abs(f)
	for i := 1; m > 0 && i < len(roots()); i++ {
		if m *= 2; m >= 1 {
			m--
			p.Mul(p, roots()[i])
		}
	}
	if f < 0 {
		p.Quo(big.NewFloat(1).SetPrec(320), p)
	}
	y, _ := p.Float32()
	return y
}

// exactRcp is 1/x rounded once to nearest; subnormal arguments count as zero, and
// subnormal results become zero.
func exactRcp(x float32) float32 {
	return format.FlushSubnormal(1 / format.FlushSubnormal(x))
}
