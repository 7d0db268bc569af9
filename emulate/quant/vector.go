package quant

import (
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/internal/vec"
	"github.com/sageacc/sageacc/emulate/mufu"
)

// This file runs the quantisers' loops with the instructions of a level. The
// results are those of the portable functions.

// Level is a set of vector instructions that this machine has. No result depends on it. The
// zero value is portable Go, which defines the results.
type Level struct{ l vec.Level }

// Levels returns the levels of this machine, those of emulate.Levels: portable Go first, the
// fastest last.
func Levels() []Level {
	var out []Level
	for _, l := range vec.Levels() {
		out = append(out, Level{l})
	}
	return out
}

// String names the level.
func (l Level) String() string { return l.l.String() }

// AbsMaxAt is AbsMax.
func AbsMaxAt(level Level, m float32, x []float32) float32 {
	n := 0
	if level.l != vec.Portable {
		n = len(x) &^ 15
		m = level.l.AbsMax(m, x[:n])
	}
	return AbsMax(m, x[n:])
}

// SubtractMeanAt is SubtractMean with the rounding to a dtype.
func SubtractMeanAt(level Level, style Style, x, mean []float32, to format.DType) {
	if level.l == vec.Portable || len(mean) == 0 || len(mean)%16 != 0 || style == Fused || to == format.FP8 || !FiniteAt(level, x) {
		SubtractMean(style, x, mean, to.Round)
		return
	}
	if style == Paper {
		to = format.FP32
	}
	level.l.Subtract(to, x[:len(x)/len(mean)*len(mean)], mean)
}

// FiniteAt says whether no element is NaN or infinite.
func FiniteAt(level Level, x []float32) bool {
	if level.l != vec.Portable {
		n := len(x) &^ 15
		if !level.l.Finite(x[:n]) {
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
func (m *ChannelMean) AddAt(level Level, x []float32) {
	d := len(m.sum)
	if level.l == vec.Portable || d == 0 || d%8 != 0 {
		m.Add(x)
		return
	}
	n := len(x) / d
	level.l.AddMeans(m.sum, m.comp, x[:n*d])
	m.n += n
}

// ScanAt is Scan.
func (v *Values) ScanAt(level Level, first int, x []float32) error {
	if level.l == vec.Portable || v.d%16 != 0 {
		return v.Scan(first, x)
	}
	if err := v.checkScan(first, x); err != nil {
		return err
	}
	level.l.Extremes(v.hi, v.lo, x)
	if v.exact != nil {
		v.exact.AddAt(level, x)
	}
	v.addFused(first, x)
	return nil
}

// EncodeAt writes the codes of rows of x. It returns false, and writes nothing of use, if
// a code is NaN, x is not whole rows that fit in codes, or there are no instructions for it:
// Encode is for those.
func (v *Values) EncodeAt(level Level, codes []uint8, x []float32) bool {
	if level.l == vec.Portable || v.d%16 != 0 || v.TowardZero || v.style == Reciprocal || v.dtype != E4M3 && v.dtype != E5M2 || len(x)%v.d != 0 || len(codes) < len(x) {
		return false
	}
	mean, factor := v.Mean, v.inverse
	if mean == nil {
		mean = v.zeros
	}
	if v.style != Fused {
		factor = v.Scale
	}
	return level.l.Encode(v.dtype == E5M2, v.style != Fused, codes, x, mean, factor)
}

// EncodeWideAt is Encode of rows of x to FP16 without a mean. It returns false, and writes
// nothing of use, of other values, for which Encode is.
func (v *Values) EncodeWideAt(level Level, codes []uint16, x []float32) bool {
	if level.l == vec.Portable || v.TowardZero || v.dtype != FP16 || v.Mean != nil || len(x)%16 != 0 || len(codes) < len(x) {
		return false
	}
	return level.l.EncodeFP16(codes, x)
}

// QuantizeAt is Quantize.
func (s *Scale) QuantizeAt(level Level, codes []int8, x []float32) {
	x = x[:min(len(x), len(codes))]
	n := len(x) &^ 15
	if level.l == vec.Portable || s.round != StyleRounding || s.style == Paper && s.Step == 0 || s.style == Triton && !(s.Step <= 0x1p126) {
		n = 0
	}
	inverse := s.inverse
	switch s.style {
	case Triton:
		inverse = mufu.Rcp(s.Step)
	case TritonBlock:
		// As Triton, where no product of an ordinary number is subnormal and no code wraps around.
		inverse = mufu.Rcp(s.Step)
		if !(s.Step >= 0x1p-100 && s.Step <= 0x1p126) || n > 0 && !(level.l.AbsMax(0, x[:n])*inverse <= 127) {
			n = 0
		}
	}
	if n > 0 {
		limit, least := int8(127), int8(-128)
		if s.bits == 4 && s.style != Triton && s.style != TritonBlock {
			limit, least = 7, -7
		}
		switch s.style {
		case Paper:
			level.l.Quantize(vec.DivideEven, codes, x[:n], s.Step, limit, least)
		case Triton, TritonBlock:
			level.l.Quantize(vec.MultiplyAway, codes, x[:n], inverse, limit, least)
		case Fused, Reciprocal:
			level.l.Quantize(vec.MultiplyEven, codes, x[:n], inverse, limit, least)
		}
	}
	s.Quantize(codes[n:], x[n:])
}
