package emulate

import (
	"github.com/sageacc/sageacc/emulate/internal/exact"
	"github.com/sageacc/sageacc/emulate/internal/vec"
)

// This file is what lanes.go does where a description has exact arithmetic in place of a step's own:
// FP64, in the order of the portable code.

// laneExact are the first operands of sums in FP64.
type laneExact struct {
	keys          exact.Rows
	values        []exact.Rows // of each sum from zero
	alpha, factor [vec.Rows]float64
}

// exactSum is multiplyExact for a strip of n rows.
func (k *Kernel) exactSum(l *lanes, st *laneStrip, weights []float32, n int) {
	e := &l.exactly
	for r := range n {
		e.alpha[r], e.factor[r] = float64(l.alpha[r]), float64(l.factor[r])
	}
	k.level.fp64.DotOnto(st.o64, &e.values[0], weights, &e.alpha, &e.factor, n)
}

// narrow rounds the strip's output to FP32. It reports whether it is finite: whether no number that was
// not has gone into it.
func (st *laneStrip) narrow() bool {
	ok := true
	for i := range st.o {
		st.o[i] = float32(st.o64[i])
		ok = ok && st.o[i]-st.o[i] == 0
	}
	return ok
}

// exactWeights makes the weights of a strip's scores where 2^x is exact. It reports whether all
// exponents are below 128.
func (k *Kernel) exactWeights(l *lanes) bool {
	least := float32(0x1p-126)
	if k.arith.keep {
		least = 0
	}
	// What an exponent loses below 2^-126 its power of 2 does not show, but what a factor loses.
	for i := range l.scale {
		l.scale[i], l.lower[i] = k.arith.flush(l.scale[i]), k.arith.flush(l.lower[i])
	}
	s := l.s[:k.tiling.BlockK*vec.Rows]
	if !k.level.fp64.Exponents(s, l.scale[:], l.lower[:], least, k.prog.Exponent.Round == "twice") {
		return false
	}
	k.level.fp64.Exp2(s, &seriesOf, exactExp2)
	return true
}
