package vec_test

import (
	"math"
	"testing"

	"github.com/sageacc/sageacc/emulate/internal/vec"
	"github.com/sageacc/sageacc/emulate/mufu"
	"github.com/sageacc/sageacc/internal/sweep"
)

// TestEx2 holds the exponential in Softmax to package mufu: with scores of zero
// and an offset of zero the new maximum is zero, and Rescale is 2^m. All 2^24
// values in (-2, -0.5], which are all reduced arguments of two signs of
// exponents, every 97th value of the others that matter, and the ends. With -short, every
// 61st and every 977th.
func TestEx2(t *testing.T) {
	for _, l := range vec.Levels()[1:] {
		t.Run(l.String(), func(t *testing.T) { testEx2(t, l) })
	}
}

func testEx2(t *testing.T, l vec.Level) {
	const n = vec.Rows
	var m, rescale, qScale [n]float32
	kScale := make([]float32, 4)
	s, p, top, d := make([]float32, 16*n), make([]float32, 16*n), make([]float32, 4*n), make([]float32, 4*n)
	pe := make([]uint8, 16*n)
	a := vec.SoftmaxArgs{
		P: &p[0], PE: &pe[0], S: &s[0], Blocks: 1, Top: &top[0], M: &m[0], D: &d[0], Rescale: &rescale[0],
		QScale: &qScale[0], KScale: &kScale[0], Table: mufu.Ex2Coefficients(), Scale: 1, Format: vec.E4M3,
	}
	for i := range qScale {
		qScale[i] = 1
	}
	for i := range kScale {
		kScale[i] = 1
	}
	var x [n]float32
	fill := 0
	run := func() {
		m = x
		if !l.Softmax(&a) {
			t.Fatalf("gave up on maxima from %x on", x[0])
		}
		for i, v := range x[:fill] {
			if want := mufu.Ex2(v); math.Float32bits(rescale[i]) != math.Float32bits(want) {
				t.Fatalf("Ex2(%x) = %x, want %x", v, rescale[i], want)
			}
			if m[i] != 0 {
				t.Fatalf("maximum of %x and 0 is %x", v, m[i])
			}
		}
		fill = 0
	}
	try := func(b uint32) {
		x[fill] = math.Float32frombits(b | 1<<31)
		if fill++; fill == n {
			run()
		}
	}
	last := math.Float32bits(5e6)
	step, others := uint32(7), uint32(197)
	switch {
	case sweep.Full():
		step, others = 1, 97
	case testing.Short():
		step, others = 61, 977
	}
	for b := math.Float32bits(0.5); b < math.Float32bits(2); b += step {
		try(b)
	}
	for b := uint32(0); b < last; b += others {
		try(b)
	}
	for b := math.Float32bits(120); b < math.Float32bits(160); b += 3 {
		try(b)
	}
	for _, b := range []uint32{0, 1, 0x7fffff, 0x800000, math.Float32bits(126), math.Float32bits(127), math.Float32bits(128), last} {
		try(b)
	}
	if fill > 0 {
		run()
	}
}
