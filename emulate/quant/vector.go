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
	if level.Narrow() || len(mean)%16 != 0 || style == Fused || !FiniteAt(level, x) {
		SubtractMean(style, x, mean, to.Round)
		return
	}
	if style == Paper {
		to = format.FP32
	}
	level.Subtract(to, x[:len(x)/len(mean)*len(mean)], mean)
}

// FiniteAt says whether no element is NaN or infinite.
func FiniteAt(level vec.Level, x []float32) bool {
	if !level.Narrow() {
		n := len(x) &^ 15
		if !level.Finite(x[:n]) {
			return false
		}
		x = x[n:]
	}
	var probe float32
	for _, v := range x {
		probe += v - v
	}
	return probe == 0
}

// AddAt is Add.
func (m *ChannelMean) AddAt(level vec.Level, x []float32) {
	d := len(m.sum)
	if level.Narrow() || d%8 != 0 {
		m.Add(x)
		return
	}
	n := len(x) / d
	level.AddMeans(m.sum, m.comp, x[:n*d])
	m.n += n
}

// ScanAt is Scan.
func (v *Values) ScanAt(level vec.Level, first int, x []float32) {
	if level.Narrow() || v.d%16 != 0 {
		v.Scan(first, x)
		return
	}
	x = x[:len(x)/v.d*v.d]
	level.Extremes(v.hi, v.lo, x)
	if v.exact != nil {
		v.exact.AddAt(level, x)
	}
	v.addFused(first, x)
}

// EncodeAt writes the codes of rows of x. It returns false, and writes nothing of use, if
// a code is NaN or there are no instructions for it: Encode is for those.
func (v *Values) EncodeAt(level vec.Level, codes []uint8, x []float32) bool {
	if level.Narrow() || v.d%16 != 0 || v.TowardZero || v.dtype != E4M3 && v.dtype != E5M2 {
		return false
	}
	mean, factor := v.Mean, v.inverse
	if mean == nil {
		mean = v.zeros
	}
	if v.style != Fused {
		factor = v.Scale
	}
	return level.Encode(v.dtype == E5M2, v.style != Fused, codes, x, mean, factor)
}

// QuantizeAt is Quantize.
func (s *Scale) QuantizeAt(level vec.Level, codes []int8, x []float32) {
	n := len(x) &^ 15
	if level.Narrow() || s.round != StyleRounding || s.style == Paper && s.Step == 0 || s.style == Triton && !(s.Step <= 0x1p126) || s.style == TritonBlock {
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
