package emulate

import (
	"math"

	"github.com/sageacc/sageacc/emulate/internal/vec"
)

// This file holds what no vector kernel has of the steps of lanes.go, a weight at a time: a
// description that takes it keeps its products, which are nearly all of its work, on vectors.

// slowEx2 says whether the exponentials are those of k.ex2, one by one: squares that are flushed.
func (k *Kernel) slowEx2() bool { return k.prog.Exponent.Exp2 == "ex2.approx" && !k.arith.keep }

// laneWeights makes the weights of a strip's scores. It reports whether all exponents are below
// 128.
func (k *Kernel) laneWeights(l *lanes) bool {
	twice := k.prog.Exponent.Round == "twice"
	if k.prog.Exponent.Exp2 == "exact" {
		return k.exactWeights(l)
	}
	if !k.slowEx2() {
		return k.level.l.Weights(l.s, l.scale[:], l.lower[:], ex2Table, k.tiling.BlockK, k.lanes.control, twice, k.prog.Exponent.Exp2 == "ex2.approx")
	}
	for i := range k.tiling.BlockK {
		thread := i & 7 >> 1 * vec.Rows
		scale, lower := l.scale[thread:][:vec.Rows], l.lower[thread:][:vec.Rows]
		for r, x := range l.s[i*vec.Rows:][:vec.Rows] {
			x = k.arith.mulAdd(x, scale[r], -lower[r], twice)
			if !(x < 128) {
				return false
			}
			l.s[i*vec.Rows+r] = k.ex2(x)
		}
	}
	return true
}

// laneRound writes the weights of x rounded to P's format. It reports whether none is beyond it.
func (k *Kernel) laneRound(dst, x []float32) bool {
	p := k.lanes
	if k.prog.P.Round != "zero" {
		return k.level.l.Round(p.weight, dst, x, p.most)
	}
	f := truncations[p.weight]
	most, ok := min(p.most, f.most), true
	for i, v := range x {
		ok = ok && v <= most
		b := math.Float32bits(v)
		// Below the smallest normal number the last place stays what it is there.
		drop := f.drop + max(0, f.lowest-int(b>>23))
		if b = b >> (drop & 31) << (drop & 31); drop > fraction {
			b = 0
		}
		dst[i] = math.Float32frombits(b)
	}
	return ok
}

// fraction is how many bits FP32's significand has behind the first.
const fraction = 23

// truncations says how numbers that are not negative are rounded toward zero to formats: how many
// bits of FP32's fraction they drop, the biased exponent of their smallest normal number, and
// their largest number.
var truncations = [...]struct {
	drop, lowest int
	most         float32
}{
	vec.WeightFP16: {fraction - 10, 127 - 14, 65504},
	vec.WeightBF16: {fraction - 7, 0, math.MaxFloat32},
	vec.WeightE4M3: {fraction - 3, 127 - 6, 448},
	vec.WeightE5M2: {fraction - 2, 127 - 14, 57344},
	vec.WeightInt:  {0, 127 + fraction, 255},
}
