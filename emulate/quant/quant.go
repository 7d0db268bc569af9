// Package quant holds the quantisers of SageAttention2: symmetric INT8 and INT4
// codes for Q and K at five granularities, FP8, INT8 or FP16 codes for V per
// channel, and the smoothing that comes before them.
//
// The paper's formulas (arXiv 2411.10958, sections 3.1 to 3.3) and the released
// kernels' (thu-ml/SageAttention d1a57a5) differ in rounding details; [Style]
// names which one is meant. The package works on one head at a time, row-major
// float32 matrices whose values are those of the input dtype.
package quant

import (
	"fmt"
	"math"
	"strings"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/mufu"
)

// Granularity says which elements of Q or K share a scale.
type Granularity uint8

// Granularities, coarse to fine.
const (
	// PerTensor: one scale for all rows of a head.
	PerTensor Granularity = iota
	// PerBlock: one scale for the rows of a thread block's tile.
	PerBlock
	// PerWarp: one scale for each warp's query rows; keys as PerBlock.
	PerWarp
	// PerThread: one scale for what one thread's mma fragments hold: query rows
	// with equal row mod 8 within a warp's rows (8 groups a warp), key rows with
	// equal (row mod 8)/2 within a tile (4 groups a tile).
	PerThread
	// PerToken: one scale for each row.
	PerToken
)

var granularityNames = []string{"per-tensor", "per-block", "per-warp", "per-thread", "per-token"}

// String returns the name used on the command line.
func (g Granularity) String() string { return granularityNames[g] }

// Granularities returns all names, coarse to fine.
func Granularities() []string { return append([]string(nil), granularityNames...) }

// ParseGranularity is the inverse of String.
func ParseGranularity(s string) (Granularity, error) {
	for i, n := range granularityNames {
		if s == n {
			return Granularity(i), nil
		}
	}
	return 0, fmt.Errorf("unknown granularity %q (have %s)", s, strings.Join(granularityNames, ", "))
}

// Tiling is the shape of a kernel's tiles, in tokens.
type Tiling struct {
	// BlockQ query rows make a thread block's tile, WarpQ of them a warp's part.
	BlockQ, WarpQ int
	// BlockK keys make a tile.
	BlockK int
}

func ceilDiv(a, b int) int { return (a + b - 1) / b }

// QueryGroups returns how many scales n query rows have; as in the released
// kernels the last tile counts whole.
func (g Granularity) QueryGroups(t Tiling, n int) int {
	blocks := ceilDiv(n, t.BlockQ)
	switch g {
	case PerTensor:
		return 1
	case PerBlock:
		return blocks
	case PerWarp:
		return blocks * (t.BlockQ / t.WarpQ)
	case PerThread:
		return blocks * (t.BlockQ / t.WarpQ) * 8
	}
	return n
}

// QueryGroup returns the scale index of a query row.
func (g Granularity) QueryGroup(t Tiling, row int) int {
	switch g {
	case PerTensor:
		return 0
	case PerBlock:
		return row / t.BlockQ
	case PerWarp:
		return row / t.WarpQ
	case PerThread:
		return row/t.WarpQ*8 + row%8
	}
	return row
}

// KeyGroups returns how many scales n key rows have.
func (g Granularity) KeyGroups(t Tiling, n int) int {
	blocks := ceilDiv(n, t.BlockK)
	switch g {
	case PerTensor:
		return 1
	case PerBlock, PerWarp:
		return blocks
	case PerThread:
		return blocks * 4
	}
	return n
}

// KeyGroup returns the scale index of a key row.
func (g Granularity) KeyGroup(t Tiling, row int) int {
	switch g {
	case PerTensor:
		return 0
	case PerBlock, PerWarp:
		return row / t.BlockK
	case PerThread:
		return row/t.BlockK*4 + row%8/2
	}
	return row
}

// Style is a set of rounding rules.
type Style uint8

// Styles.
const (
	// Paper: scale = max|x|/qmax and code = round(x/scale) to nearest even, both
	// IEEE divisions in FP32; a group of zeros has scale 0 and codes 0.
	Paper Style = iota
	// Triton is the released per-thread quantiser
	// (sageattention/triton/quant_per_thread.py): scale = fma(max|x|, 1/qmax,
	// 1e-7), code = trunc(x/scale + 0.5*sign(x)) with the division div.full.f32.
	Triton
	// Fused is the released CUDA quantiser (csrc/fused/fused.cu): max|x| is
	// floored at 1e-7, scale = max|x| * (1/qmax), code = cvt.rni.sat(x * (qmax *
	// rcp.approx(max|x|))).
	Fused
	// TritonBlock is the released per-block quantiser
	// (sageattention/triton/quant_per_block.py): Triton without the epsilon, scale =
	// max|x| * (1/qmax); the division keeps subnormal numbers, and its result becomes a
	// 16-bit integer, saturating, of which the code is the low byte.
	TritonBlock
	// Reciprocal is the quantiser of comfy-kitchen (backends/cuda/sage_attention/quant_qk_int8.cu
	// and quant_v_int8.cu, built with --use_fast_math): for Q and K scale = fma(max|x|, 1/qmax,
	// 1e-7), for V max(max|x| * (1/qmax), 1e-12); code = cvt.rni.sat(x * rcp.approx(scale)).
	Reciprocal
)

// String names the style.
func (s Style) String() string {
	return [...]string{"paper", "triton", "fused", "triton-block", "reciprocal"}[s]
}

// CodeRounding says how the codes of Q and K are rounded.
type CodeRounding uint8

// Roundings of codes.
const (
	// StyleRounding is the style's own rule.
	StyleRounding CodeRounding = iota
	// NearestEven rounds to nearest, ties to even (rintf, cvt.rni).
	NearestEven
	// NearestAway rounds to nearest, ties away from zero (roundf). The Triton style
	// does so by adding one half and truncating.
	NearestAway
	// TowardZero truncates (a plain conversion to an integer in C).
	TowardZero
)

// Rounding returns the style's own rounding of codes.
func (s Style) Rounding() CodeRounding {
	if s == Triton || s == TritonBlock {
		return NearestAway
	}
	return NearestEven
}

// QMax returns the largest code of a bit width: 127 for 8, 7 for 4.
func QMax(bits int) float32 {
	if bits == 4 {
		return 7
	}
	return 127
}

// AbsMax returns the larger of m and the largest magnitude in x. A NaN is
// ignored, as the hardware's maximum does.
func AbsMax(m float32, x []float32) float32 {
	for _, v := range x {
		if a := float32(math.Abs(float64(v))); a > m {
			m = a
		}
	}
	return m
}

// Scale is the quantisation step of one group of Q or K: what its codes are
// multiplied with, and what the quantiser itself needs to find them.
type Scale struct {
	// Step is the dequantisation scale.
	Step float32
	// inverse multiplies x in the Fused and Reciprocal styles.
	inverse float32
	style   Style
	bits    int
	round   CodeRounding
}

// Rounded returns s with another rounding of codes.
func (s Scale) Rounded(r CodeRounding) Scale {
	s.round = r
	if r == s.style.Rounding() {
		s.round = StyleRounding
	}
	return s
}

// NewScale returns the scale of a group whose largest magnitude is amax.
func NewScale(style Style, bits int, amax float32) Scale {
	qmax := QMax(bits)
	s := Scale{style: style, bits: bits}
	switch style {
	case Paper:
		s.Step = amax / qmax
	case Triton:
		s.Step = format.FMAFtz(amax, 1/qmax, 1e-7)
	case TritonBlock:
		s.Step = amax * (1 / qmax)
	case Fused:
		amax = max(amax, 1e-7)
		s.Step = format.MulFtz(amax, 1/qmax)
		s.inverse = mufu.DivApprox(qmax, amax)
	case Reciprocal:
		s.Step = format.FMAFtz(amax, 1/qmax, 1e-7)
		s.inverse = mufu.Rcp(s.Step)
	}
	return s
}

// Quantize writes the codes of x, which belongs to the scale's group. Like copy it writes
// as many as both slices hold.
func (s *Scale) Quantize(codes []int8, x []float32) {
	x = x[:min(len(x), len(codes))]
	convert := format.Int8FromFloat32
	if s.bits == 4 {
		convert = format.Int4FromFloat32
	}
	if s.round != StyleRounding {
		s.quantizeRounded(codes, x)
		return
	}
	switch s.style {
	case Paper:
		if s.Step == 0 {
			clear(codes[:len(x)])
			return
		}
		for i, v := range x {
			codes[i] = convert(v / s.Step)
		}
	case Triton:
		// mufu.DivFull, with the reciprocal found once.
		inverse := mufu.Rcp(s.Step)
		plain := s.Step <= 0x1p126
		for i, v := range x {
			var y float32
			if plain {
				y = format.MulFtz(v, inverse)
			} else {
				y = mufu.DivFull(v, s.Step)
			}
			if y >= 0 {
				y += 0.5
			} else {
				y -= 0.5
			}
			codes[i] = format.TruncToInt8(y)
		}
	case TritonBlock:
		for i, v := range x {
			y := mufu.DivFullSubnormal(v, s.Step)
			if y >= 0 {
				y += 0.5
			} else {
				y -= 0.5
			}
			codes[i] = int8(truncToInt16(y))
		}
	case Fused, Reciprocal:
		for i, v := range x {
			codes[i] = convert(format.MulFtz(v, s.inverse))
		}
	}
}

// truncToInt16 is cvt.rzi.s16.f32: toward zero, saturating, 0 for NaN.
func truncToInt16(x float32) int16 {
	if x != x {
		return 0
	}
	return int16(min(max(math.Trunc(float64(x)), math.MinInt16), math.MaxInt16))
}

// quantizeRounded is Quantize with a rounding that is not the style's own. It divides
// and saturates as the style does.
func (s *Scale) quantizeRounded(codes []int8, x []float32) {
	lo, hi := -128.0, 127.0
	if s.bits == 4 && s.style != Triton {
		lo, hi = -7, 7
	}
	for i, v := range x {
		var y float32
		switch s.style {
		case Paper:
			if s.Step != 0 {
				y = v / s.Step
			}
		case Triton:
			y = mufu.DivFull(v, s.Step)
		case TritonBlock:
			y = mufu.DivFullSubnormal(v, s.Step)
		case Fused, Reciprocal:
			y = format.MulFtz(v, s.inverse)
		}
		z := float64(y)
		switch s.round {
		case NearestEven:
			z = math.RoundToEven(z)
		case NearestAway:
			z = math.Round(z)
		default:
			z = math.Trunc(z)
		}
		if z != z {
			z = 0
		}
		codes[i] = int8(min(max(z, lo), hi))
	}
}
