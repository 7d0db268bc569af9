package quant

import (
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/internal/vec"
	"github.com/sageacc/sageacc/emulate/mufu"
)

// This file runs the quantisers' loops with the instructions of a level. The
// results are those of the portable functions.

// AbsMaxAt is AbsMax.
func AbsMaxAt(level vec.Level, m float32, x []float32) float32 {
	n := 0
	if !level.Narrow() {
		n = len(x) &^ 15
		m = level.AbsMax(m, x[:n])
	}
	return AbsMax(m, x[n:])
}

// SubtractMeanAt is SubtractMean with the rounding to a dtype.
func SubtractMeanAt(level vec.Level, style Style, x, mean []float32, to format.DType) {
	if level.Narrow() || len(mean)%16 != 0 || style == Fused || !finite(x) {
		SubtractMean(style, x, mean, to.Round)
		return
	}
	if style == Paper {
		to = format.FP32
	}
	level.Subtract(to, x[:len(x)/len(mean)*len(mean)], mean)
}

// finite says whether no element is NaN or infinite.
func finite(x []float32) bool {
	var probe float32
	for _, v := range x {
		probe += v - v
	}
	return probe == 0
}

// QuantizeAt is Quantize.
func (s *Scale) QuantizeAt(level vec.Level, codes []int8, x []float32) {
	n := len(x) &^ 15
	if level.Narrow() || s.round != StyleRounding || s.style == Paper && s.Step == 0 || s.style == Triton && !(s.Step <= 0x1p126) {
		n = 0
	}
	if n > 0 {
		limit, least := int8(127), int8(-128)
		if s.bits == 4 && s.style != Triton {
			limit, least = 7, -7
		}
		switch s.style {
		case Paper:
			level.Quantize(vec.DivideEven, codes, x[:n], s.Step, limit, least)
		case Triton:
			level.Quantize(vec.MultiplyAway, codes, x[:n], mufu.Rcp(s.Step), limit, least)
		case Fused:
			level.Quantize(vec.MultiplyEven, codes, x[:n], s.inverse, limit, least)
		}
	}
	s.Quantize(codes[n:], x[n:])
}
