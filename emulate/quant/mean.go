package quant

import (
	"math"

	"github.com/sageacc/sageacc/emulate/format"
)

// Rounding rounds an FP32 value to the input dtype: format.RoundFP16,
// format.RoundBF16 or the identity.
type Rounding func(float32) float32

// ChannelMean accumulates the mean of each channel over tokens.
//
// The sum is kept in FP64 with a compensation term (Neumaier), so the mean is
// the exact one rounded once, to the accuracy of 2^-53 relative to the largest
// partial sum. The released kernels take K's mean from a framework reduction, which
// rounds otherwise: FrameworkMean.
type ChannelMean struct {
	n         int
	sum, comp []float64
}

// NewChannelMean returns an accumulator for d channels, at least one.
func NewChannelMean(d int) *ChannelMean {
	d = max(1, d)
	return &ChannelMean{sum: make([]float64, d), comp: make([]float64, d)}
}

// Add takes the whole rows of x, row-major with d channels.
func (m *ChannelMean) Add(x []float32) {
	d := len(m.sum)
	if d == 0 { // the zero value
		return
	}
	for r := 0; r+d <= len(x); r += d {
		for c, v := range x[r : r+d] {
			f := float64(v)
			s := m.sum[c]
			t := s + f
			if math.Abs(s) >= math.Abs(f) {
				m.comp[c] += (s - t) + f
			} else {
				m.comp[c] += (f - t) + s
			}
			m.sum[c] = t
		}
		m.n++
	}
}

// total is the exact sum, as far as FP64 has it. Infinities have no compensation.
func (m *ChannelMean) total(c int) float64 {
	if s := m.sum[c]; s-s != 0 {
		return s
	}
	return m.sum[c] + m.comp[c]
}

// Mean writes the means, rounded to FP32 and then by round: as many as dst holds.
func (m *ChannelMean) Mean(dst []float32, round Rounding) {
	for c := range dst[:min(len(dst), len(m.sum))] {
		dst[c] = round(float32(m.total(c) / float64(m.n)))
	}
}

// FrameworkMean writes the means as PyTorch computes them: the sum, rounded to FP32, times
// the FP32 reciprocal of the count, then rounded by round. (Of 15,940 means recorded on an
// H100 none differs, of the exact ones 2. The order of PyTorch's own sums is not
// modelled: the exact sum, rounded once, agreed with all.)
func (m *ChannelMean) FrameworkMean(dst []float32, round Rounding) {
	inverse := 1 / float32(m.n)
	for c := range dst[:min(len(dst), len(m.sum))] {
		dst[c] = round(float32(float32(m.total(c)) * inverse))
	}
}

// SubtractMean subtracts the channel means from the whole rows of x in place. In the
// Triton style the difference is rounded to the input dtype, because there the
// framework subtracts before the quantiser runs; in the others it stays FP32.
func SubtractMean(style Style, x, mean []float32, round Rounding) {
	d := len(mean)
	if d == 0 {
		return
	}
	for r := 0; r+d <= len(x); r += d {
		row := x[r : r+d]
		switch style {
		case Triton:
			for c := range row {
				row[c] = round(row[c] - mean[c])
			}
		case Fused:
			for c := range row {
				row[c] = format.SubFtz(row[c], mean[c])
			}
		default:
			for c := range row {
				row[c] -= mean[c]
			}
		}
	}
}
