package probe

import (
	"fmt"
	"math"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/tensorcore"
)

// Accumulator says what a matrix unit's accumulator keeps, by the probe of section
// 3.4 of SageAttention2 (arXiv 2411.10958): with A = B = 0 an addend of n mantissa
// bits comes back as it was as long as the accumulator has as many.
type Accumulator struct {
	Arch        string `json:"arch"`
	Instruction string `json:"instruction"`
	// On is the GPU's name, or "emulated".
	On string `json:"on"`
	// Bits is how many mantissa bits came back, of Of that the format has.
	Bits int `json:"bits"`
	Of   int `json:"of"`
	// Rounding is what becomes of more: "toward zero", "up", or "none" where nothing is
	// lost.
	Rounding string `json:"rounding"`
}

// mantissa returns the fraction bits of an accumulator's format, 0 for integers.
func mantissa(c tensorcore.Operand) int {
	switch c {
	case tensorcore.FP32:
		return 23
	case tensorcore.FP16:
		return 10
	}
	return 0
}

// accumulate runs the probe: f returns D for A = B = 0 and each addend.
func accumulate(c tensorcore.Operand, f func(addends []uint32) ([]uint32, error)) (bits int, rounding string, err error) {
	of := mantissa(c)
	code := func(x float64) uint32 {
		if c == tensorcore.FP16 {
			return uint32(format.FP16FromFloat32(float32(x)))
		}
		return math.Float32bits(float32(x))
	}
	// 1 + 2^-n for n = 1 to of, then 2 - 2^-of, whose mantissa is all ones.
	var addends []uint32
	for n := 1; n <= of; n++ {
		addends = append(addends, code(1+math.Ldexp(1, -n)))
	}
	addends = append(addends, code(2-math.Ldexp(1, -of)))
	got, err := f(addends)
	if err != nil {
		return 0, "", err
	}
	for bits < of && got[bits] == addends[bits] {
		bits++
	}
	switch last := got[of]; {
	case last == addends[of]:
		return bits, "none", nil
	case last == code(2):
		return bits, "up", nil
	case last < addends[of]:
		return bits, "toward zero", nil
	default:
		return bits, "", fmt.Errorf("the addend %#x came back as %#x", addends[of], last)
	}
}

// EmulatedAccumulators probes the models of all floating-point units.
func EmulatedAccumulators() ([]Accumulator, error) {
	var out []Accumulator
	units := tensorcore.Units()
	for i := range units {
		u := &units[i]
		if mantissa(u.C) == 0 {
			continue
		}
		zeros := make([]uint32, u.K)
		bits, rounding, err := accumulate(u.C, func(addends []uint32) ([]uint32, error) {
			var out []uint32
			for _, c := range addends {
				out = append(out, u.Dot(c, zeros, zeros))
			}
			return out, nil
		})
		if err != nil {
			return nil, fmt.Errorf("%s on %s: %w", u.Instruction, u.Arch, err)
		}
		out = append(out, Accumulator{u.Arch, u.Instruction, "emulated", bits, mantissa(u.C), rounding})
	}
	return out, nil
}

// Accumulators probes the floating-point matrix units of the GPU.
func (p *Probes) Accumulators() ([]Accumulator, error) {
	var out []Accumulator
	units := Units()
	for i := range units {
		u := &units[i]
		if u.Kind != MMA || mantissa(u.c) == 0 || u.Runs(p.dev.SM()) != nil {
			continue
		}
		bits, rounding, err := accumulate(u.c, func(addends []uint32) ([]uint32, error) {
			b := &Batch{N: 1, A: make([]uint32, u.m*u.k), B: make([]uint32, columns*u.k), C: make([]uint32, u.m*columns)}
			copy(b.C, addends)
			if err := p.Run(u, b); err != nil {
				return nil, err
			}
			return b.Y[:len(addends)], nil
		})
		if err != nil {
			return nil, fmt.Errorf("%s on %s: %w", u.Instruction, p.dev.Name(), err)
		}
		out = append(out, Accumulator{p.dev.Arch(), u.Instruction, p.dev.Name(), bits, mantissa(u.c), rounding})
	}
	return out, nil
}
