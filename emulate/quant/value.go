package quant

import (
	"fmt"
	"math"
	"strings"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/mufu"
)

// PVType is the data type of P~ and V in the second product.
type PVType uint8

// Data types of P~ and V.
const (
	E4M3 PVType = iota
	E5M2
	INT8
	FP16
)

var pvNames = []string{"e4m3", "e5m2", "int8", "fp16"}

// String returns the name used on the command line.
func (t PVType) String() string { return pvNames[t] }

// PVTypes returns all names.
func PVTypes() []string { return append([]string(nil), pvNames...) }

// ParsePVType is the inverse of String.
func ParsePVType(s string) (PVType, error) {
	for i, n := range pvNames {
		if s == n {
			return PVType(i), nil
		}
	}
	return 0, fmt.Errorf("unknown data type %q (have %s)", s, strings.Join(pvNames, ", "))
}

// Max returns the largest value that V is scaled to: 448, 57344, 127, and 0 for
// FP16, which is not scaled.
func (t PVType) Max() float32 { return [...]float32{format.E4M3Max, format.E5M2Max, 127, 0}[t] }

// Encode converts x to the type's code: to nearest even, saturating (FP16
// overflows to infinity). INT8 codes are two's complement in the low byte.
func (t PVType) Encode(x float32) uint16 {
	switch t {
	case E4M3:
		return uint16(format.E4M3FromFloat32(x))
	case E5M2:
		return uint16(format.E5M2FromFloat32(x))
	case INT8:
		return uint16(uint8(format.Int8FromFloat32(x)))
	}
	return format.FP16FromFloat32(x)
}

// EncodeTowardZero is Encode with the magnitude rounded down: what a conversion that
// truncates gives. It saturates alike, FP16 to 65504; infinities and NaN are
// Encode's.
func (t PVType) EncodeTowardZero(x float32) uint16 {
	c := t.Encode(x)
	if t == INT8 {
		if x == x {
			c = uint16(uint8(int8(min(max(math.Trunc(float64(x)), -128), 127))))
		}
		return c
	}
	// A sign and a magnitude: the next smaller code is one less.
	if math.Abs(float64(t.Decode(c))) > math.Abs(float64(x)) {
		c--
	}
	return c
}

// Decode returns the value of a code.
func (t PVType) Decode(c uint16) float32 {
	switch t {
	case E4M3:
		return format.E4M3(c).Float32()
	case E5M2:
		return format.E5M2(c).Float32()
	case INT8:
		return float32(int8(c))
	}
	return format.FP16ToFloat32(c)
}

// Values quantises V per channel, in two passes over the tokens: Scan every row
// in order, Finish, then Encode rows in any order.
type Values struct {
	style    Style
	dtype    PVType
	scaleMax float32
	smooth   bool
	n, d     int

	lo, hi []float32
	fused  []float32 // partial sums of the released kernel's threads, [256][d]
	exact  *ChannelMean

	// Scale is the dequantisation scale and Mean the subtracted mean of each
	// channel, valid after Finish. Mean is nil unless V is smoothed.
	Scale, Mean []float32
	inverse     []float32
	zeros       []float32 // [d], a mean

	// TowardZero makes Encode round codes toward zero.
	TowardZero bool
}

// NewValues prepares to quantise n tokens of d channels. scaleMax is the value
// that a channel's maximum is mapped to (dtype.Max(), or 2.25 for the FP16
// accumulator of SageAttention2++); it is ignored for FP16. The styles are
// Fused (csrc/fused/fused.cu), Paper and Reciprocal. There is at least one channel.
func NewValues(style Style, dtype PVType, scaleMax float32, smooth bool, n, d int) *Values {
	n, d = max(0, n), max(1, d)
	v := &Values{style: style, dtype: dtype, scaleMax: scaleMax, smooth: smooth, n: n, d: d}
	v.lo, v.hi = make([]float32, d), make([]float32, d)
	for c := range d {
		v.hi[c], v.lo[c] = float32(math.Inf(-1)), float32(math.Inf(1))
		if style == Fused {
			v.hi[c], v.lo[c] = -1e6, 1e6 // the released kernel's starting values
		}
	}
	if smooth {
		if style == Fused {
			v.fused = make([]float32, fusedThreads*d)
		} else {
			v.exact = NewChannelMean(d)
		}
	}
	v.Scale, v.inverse, v.zeros = make([]float32, d), make([]float32, d), make([]float32, d)
	return v
}

// fusedThreads is the thread count of the released mean-and-scale kernel; each
// thread takes 8 consecutive tokens at a stride of 8*fusedThreads.
const fusedThreads = 256

// permutation is the order of 16 tokens in the released kernels' V: position i
// of the stored layout holds token Permutation[i].
var permutation = [16]int{0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15}

// Permute returns the token at stored position i of the released kernels'
// layout of V, which is permuted within 16 tokens.
func Permute(i int) int { return i&^15 + permutation[i&15] }

// Scan takes the rows of tokens [first, first+len(x)/d). In the released
// kernel's sums the order within 16 tokens is the stored one, so first must be a
// multiple of 16. The error says that there are no such rows.
func (v *Values) Scan(first int, x []float32) error {
	if err := v.checkScan(first, x); err != nil {
		return err
	}
	d := v.d
	for r := 0; r+d <= len(x); r += d {
		for c, f := range x[r : r+d] {
			if f > v.hi[c] {
				v.hi[c] = f
			}
			if f < v.lo[c] {
				v.lo[c] = f
			}
		}
	}
	if v.exact != nil {
		v.exact.Add(x)
	}
	v.addFused(first, x)
	return nil
}

// checkScan reports rows that Scan does not take.
func (v *Values) checkScan(first int, x []float32) error {
	if v.d == 0 {
		return fmt.Errorf("values of no channels: NewValues makes them")
	}
	switch rows := len(x) / v.d; {
	case len(x)%v.d != 0:
		return fmt.Errorf("%d elements are not rows of %d channels", len(x), v.d)
	case first < 0 || first%16 != 0 || rows > v.n-first:
		return fmt.Errorf("tokens %d to %d of %d: want a multiple of 16 to start from", first, first+rows-1, v.n)
	}
	return nil
}

// addFused adds to the sums of the released kernel's threads, where it has them.
func (v *Values) addFused(first int, x []float32) {
	if v.fused == nil {
		return
	}
	d := v.d
	rows := len(x) / d
	for base := 0; base < rows; base += 16 {
		for i := range 16 {
			r := base + permutation[i]
			if r >= rows {
				continue // zero padding adds nothing
			}
			thread := (first + base + i) / 8 % fusedThreads
			sums := v.fused[thread*d : thread*d+d]
			for c, f := range x[r*d : r*d+d] {
				sums[c] = format.AddFtz(sums[c], f)
			}
		}
	}
}

// Finish computes Scale and Mean.
func (v *Values) Finish() {
	padded := ceilDiv(v.n, 16) * 16
	if v.style == Fused && padded != v.n {
		// The padding to 16 tokens takes part in the extremes.
		for c := range v.d {
			v.hi[c], v.lo[c] = max(v.hi[c], 0), min(v.lo[c], 0)
		}
	}
	if v.smooth {
		v.Mean = make([]float32, v.d)
		if v.style == Fused {
			for c := range v.d {
				// The mean divides by the padded count.
				v.Mean[c] = mufu.DivApprox(v.blockSum(c), float32(padded))
			}
		} else {
			v.exact.Mean(v.Mean, func(x float32) float32 { return x })
		}
	}
	for c := range v.d {
		hi, lo := v.hi[c], v.lo[c]
		if hi < lo && v.style != Fused {
			hi, lo = 0, 0 // nothing but NaN
		}
		if v.smooth {
			hi, lo = format.SubFtz(hi, v.Mean[c]), format.SubFtz(lo, v.Mean[c])
		}
		amax := float32(max(math.Abs(float64(hi)), math.Abs(float64(lo))))
		switch {
		case v.dtype == FP16:
			v.Scale[c], v.inverse[c] = 1, 1
		case v.style == Fused:
			v.Scale[c] = mufu.DivApprox(amax, v.scaleMax)
			v.inverse[c] = mufu.DivApprox(v.scaleMax, amax)
		case v.style == Reciprocal:
			v.Scale[c] = max(format.MulFtz(amax, 1/v.scaleMax), 1e-12)
			v.inverse[c] = mufu.Rcp(v.Scale[c])
		default:
			v.Scale[c] = amax / v.scaleMax
		}
	}
}

// Dead reports, after Finish, a channel whose codes are all NaN, those of the padding
// too: with the Fused style and an FP8 format one of zeros, which is 0 / 0.
func (v *Values) Dead(c int) bool {
	return v.style == Fused && (v.dtype == E4M3 || v.dtype == E5M2) && v.hi[c] == 0 && v.lo[c] == 0 && (v.Mean == nil || v.Mean[c] == 0)
}

// blockSum reduces the threads' sums of channel c as the released kernel does:
// a butterfly within each warp of 32, then one over the 8 warps' sums.
func (v *Values) blockSum(c int) float32 {
	var lane [32]float32
	var warps [32]float32
	for w := range fusedThreads / 32 {
		for l := range lane {
			lane[l] = v.fused[(w*32+l)*v.d+c]
		}
		warps[w] = butterfly(&lane)
	}
	return butterfly(&warps)
}

// butterfly is a warp's xor-shuffle sum with masks 16, 8, 4, 2, 1; lane 0's
// result.
func butterfly(v *[32]float32) float32 {
	for mask := 16; mask > 0; mask >>= 1 {
		var next [32]float32
		for l := range v {
			next[l] = format.AddFtz(v[l], v[l^mask])
		}
		*v = next
	}
	return v[0]
}

// Encode writes the codes of one token's row x: like copy as many as both slices hold, and
// no more than there are channels.
func (v *Values) Encode(codes []uint16, x []float32) {
	for c, f := range x[:min(v.d, len(x), len(codes))] {
		if v.style == Fused || v.style == Reciprocal {
			if v.Mean != nil {
				f = format.SubFtz(f, v.Mean[c])
			}
			if v.dtype != FP16 {
				f = format.MulFtz(f, v.inverse[c])
			}
		} else {
			if v.Mean != nil {
				f -= v.Mean[c]
			}
			if v.dtype != FP16 {
				if v.Scale[c] == 0 {
					f = 0
				} else {
					f /= v.Scale[c]
				}
			}
		}
		if v.TowardZero {
			codes[c] = v.dtype.EncodeTowardZero(f)
		} else {
			codes[c] = v.dtype.Encode(f)
		}
	}
}
