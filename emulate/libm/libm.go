// Package libm holds functions of CUDA's mathematical library that attention kernels call,
// as the machine code computes them that nvcc 13.0 makes without --use_fast_math: what
// is not one instruction. Recorded on an H100: 0 of 420,014 results of Expf, Logf and
// others differ.
package libm

import (
	"math"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/mufu"
)

// Expf is CUDA's expf without --use_fast_math, as its SASS computes it.
func Expf(x float32) float32 {
	t := format.FMA(x, math.Float32frombits(0x3bbb989d), 0.5)
	if !(t > 0) { // FFMA.SAT: NaN too
		t = 0
	}
	t = min(t, 1)
	// FFMA.RM t*252 + 12582913: the product and the sum are exact in FP64.
	j := float32(math.Floor(float64(t)*252) + 12582913)
	jf := j - 12583039
	r := format.FMA(x, 1.4426950216293334961, -jf)
	r = format.FMA(x, 1.925963033500011079e-08, r)
	return float32(math.Float32frombits(math.Float32bits(j)<<23) * mufu.Ex2(r))
}

// Logf is CUDA's logf without --use_fast_math.
func Logf(x float32) float32 {
	var e float32
	if x < 0x1p-126 {
		e = -23
		x = float32(x * 8388608)
	}
	b := math.Float32bits(x)
	i := (b - 0x3f2aaaab) & 0xff800000
	f := math.Float32frombits(b-i) - 1
	e = format.FMA(float32(int32(i)), 1.1920928955078125e-07, e)
	p := format.FMA(f, -math.Float32frombits(0x3e055027), 0.14084610342979431152)
	for _, c := range []float32{-0.12148627638816833496, 0.13980610668659210205, -0.16684235632419586182,
		0.20012299716472625732, -0.24999669194221496582, 0.33333182334899902344, -0.5} {
		p = format.FMA(f, p, c)
	}
	p = float32(f * p)
	r := format.FMA(e, 0.69314718246459960938, format.FMA(f, p, f))
	switch {
	case b >= 0x7f800000: // infinities, negative numbers, NaN
		r = format.FMA(x, float32(math.Inf(1)), float32(math.Inf(1)))
	case x == 0:
		r = float32(math.Inf(-1))
	}
	return r
}

// Log2f is libdevice's __nv_log2f, which Triton's log2 is.
func Log2f(x float32) float32 {
	e := float32(0)
	if x < 0x1p-126 {
		x, e = float32(x*0x1p23), -23
	}
	b := int32(math.Float32bits(x))
	top := (b - 1060439283) & -8388608
	i := format.FMAFtz(float32(top), 0x1p-23, e)
	f := math.Float32frombits(uint32(b-top)) - 1
	p := math.Float32frombits(0x3DC6B27F)
	for _, c := range [...]uint32{0xBE2C7F30, 0x3E2FCF2A, 0xBE374E43, 0x3E520BF4, 0xBE763C8B, 0x3E93BF99, 0xBEB8AA49, 0x3EF6384A, 0xBF38AA3B} {
		p = format.FMAFtz(p, f, math.Float32frombits(c))
	}
	p = float32(f * p)
	p = float32(f * p)
	r := i + format.FMAFtz(f, math.Float32frombits(0x3FB8AA3B), p)
	if uint32(b) >= 0x7f800000 {
		r = format.FMAFtz(x, float32(math.Inf(1)), float32(math.Inf(1)))
	}
	if x == 0 {
		r = float32(math.Inf(-1))
	}
	return r
}
