package emulate

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sageacc/sageacc/emulate/internal/vec"
	"github.com/sageacc/sageacc/emulate/tensorcore"
)

// This file says which descriptions the vector kernels run. They take a description only
// if each of its choices is one that they assume; the others are the interpreter's.

// anything is a choice that the vector kernels do not depend on, or read from the plan.
const anything = "*"

// stripChoices says, for every choice of a description, what the vector kernels take. A
// test sees to it that no choice is missing.
var stripChoices = map[string]string{
	"schema": anything, "name": anything, "summary": anything, "source": anything, "evidence": anything,
	"arch":                  anything, // of the unit, which vectorUnit compares
	"operands.dtypes":       anything,
	"operands.max_head_dim": anything, // which whyPortable looks at
	"operands.output":       "input",
	"operands.subnormals":   "flush",
	"operands.descale":      "none", "operands.packed": anything,
	// K and V are prepared by code that the paths share.
	"smoothing.q": anything, "smoothing.delta_s": "none smoothed",
	"smoothing.k": anything, "smoothing.k_mean": anything, "smoothing.k_difference": anything,
	"smoothing.v":          "none mean fused-mean",
	"qk_codes.format":      "int8 int4",
	"qk_codes.granularity": anything, "qk_codes.scale": anything, "qk_codes.round": anything, "qk_codes.fold": "none",
	"v_codes.format": "e4m3 e5m2 int8 fp16", "v_codes.scale": "none paper fused", "v_codes.max": anything,
	"v_codes.round": anything, "v_codes.order": "permuted16", "v_codes.beyond": "zeros",
	"tiles.shapes.0.rows": "64 128", "tiles.shapes.0.warp_rows": anything, "tiles.shapes.0.keys": "64 128",
	"tiles.order": "first-to-last", "tiles.split": "none",
	"mask.causal": "top-left", "mask.shift": "0", "mask.tiles": "tail", "mask.window": "no", "mask.beyond": "masked", "mask.beyond_value": anything,
	"mask.value": "-5000000", "mask.boolean": anything, "mask.boolean_value": anything, "mask.hidden": anything, "mask.additive": anything,
	// An integer unit, which is exact.
	"scores.unit.instruction": anything, "scores.unit.fraction_bits": "unit", "scores.unit.step": "unit", "scores.unit.sum_round": "unit",
	"scores.tail_tiles": anything, "scores.sm_scale": "exponent", "scores.product": anything, "scores.head_dim": "natural", "scores.softcap": "none",
	"maximum.start": "-5000000", "maximum.of": "shifted", "maximum.round": "fma", "maximum.unseen": "itself",
	"exponent.offset": anything, "exponent.round": "fma", "exponent.exp2": "ex2.approx.ftz",
	"denominator.of": "p", "denominator.unit": "none", "denominator.start": "1", "denominator.order": "groups16",
	"denominator.rescale": "fma", "denominator.combine": "01+23",
	"p.format": "e4m3 e5m2 int8 fp16", "p.round": "even",
	"pv.unit.instruction": anything, "pv.unit.fraction_bits": anything, "pv.unit.step": anything, "pv.unit.sum_round": anything,
	"pv.level": "tile all", "pv.join": "fma none", "pv.rescale": "fp32",
	"finish.inverse": "rcp.approx.ftz", "finish.scale": "output none", "finish.mean": "none fma", "finish.empty": "divide",
	"finish.first": "none", "finish.round": "even",
	"log_sum_exp.form": "base2",
}

// stripTakes is stripChoices with the values apart, nil for anything.
var stripTakes = takes(stripChoices)

// takes has the values of choices apart, nil for anything.
func takes(choices map[string]string) map[string][]string {
	m := map[string][]string{}
	for path, values := range choices {
		m[path] = nil
		if values != anything {
			m[path] = strings.Fields(values)
		}
	}
	return m
}

// whyPortable returns the choice that no vector kernel has, "" where they have all.
func (k *Kernel) whyPortable() string {
	p := k.prog.Reduced()
	for _, c := range p.Choices() {
		takes, known := stripTakes[c.Path]
		if !known || takes != nil && !slices.Contains(takes, c.Value) {
			return fmt.Sprintf("%s: %s", c.Path, c.Value)
		}
	}
	if p.Smoothing.Q != "none" && p.Smoothing.DeltaS == "none" {
		return "smoothing.delta_s: none"
	}
	if p.P.Format != p.VCodes.Format {
		return "p.format: " + p.P.Format
	}
	if k.prog.Maximum.Start != k.prog.Mask.Value {
		return fmt.Sprintf("maximum.start: %s", k.prog.Maximum.Start)
	}
	if k.intPV {
		return ""
	}
	if k.pvUnit == nil {
		return "pv.unit.instruction: " + k.prog.PV.Unit.Instruction
	}
	u, ok := k.vectorUnit()
	if !ok {
		return fmt.Sprintf("pv.unit: %s as %s executes it", k.pvUnit.Instruction, k.pvUnit.Arch)
	}
	if most := k.prog.Operands.MaxHeadDim; !u.Channels(most) {
		return fmt.Sprintf("operands.max_head_dim: %d", most)
	}
	return ""
}

// stripCall says whether the vector kernels take a call's masks.
func (k *Kernel) stripCall(in *QInput) bool {
	return in.Visible == nil && in.Bias == nil && in.Listed == nil && !in.Windowed && in.Softcap == 0
}

// vecUnits are the units that the vector kernels have. Of a unit of the table every
// field that decides bits must be equal. The kernels take keys in V's stored order;
// within 32 keys a step of 16 or 32 is the same set in both orders, and keys k mod 4 in
// {0, 1} of the stored order are those with bit 3 clear.
var vecUnits = func() (list []struct {
	unit tensorcore.Unit
	vec  vec.Unit
}) {
	add := func(v vec.Unit, u tensorcore.Unit) {
		list = append(list, struct {
			unit tensorcore.Unit
			vec  vec.Unit
		}{u, v})
	}
	unpacked := [][]int{{}, {}}
	for i := range 32 {
		unpacked[i%4/2] = append(unpacked[i%4/2], i)
	}
	for _, half := range []bool{false, true} {
		c := tensorcore.FP32
		round := func(full tensorcore.Output) tensorcore.Output {
			if half {
				return tensorcore.FP16Nearest
			}
			return full
		}
		if half {
			c = tensorcore.FP16
		}
		for _, f8 := range []tensorcore.Operand{tensorcore.E4M3, tensorcore.E5M2} {
			for _, step := range []int{16, 32} {
				add(vec.Unit{Step: step, Half: half}, tensorcore.Unit{A: f8, C: c, K: 32, Steps: tensorcore.Consecutive(32, step), FractionBits: 13, Out: round(tensorcore.FP22Zero)})
			}
			add(vec.Unit{Kind: vec.Wide25, Step: 32, Half: half}, tensorcore.Unit{A: f8, C: c, K: 32, Steps: tensorcore.Consecutive(32, 32), FractionBits: 25, Out: round(tensorcore.FP32Zero)})
			add(vec.Unit{Kind: vec.Split, Step: 16, Half: half}, tensorcore.Unit{A: f8, C: c, K: 32, Steps: unpacked, FractionBits: 25, Out: round(tensorcore.FP32Zero), SeparateAdd: true})
		}
		add(vec.Unit{Kind: vec.Exact, Step: 32, Half: half}, tensorcore.Unit{A: tensorcore.E4M3, C: c, K: 32, Steps: tensorcore.Consecutive(32, 32), FractionBits: tensorcore.Exact, Out: round(tensorcore.FP32Nearest)})
		add(vec.Unit{Kind: vec.Truncated25, Step: 16, Half: half}, tensorcore.Unit{A: tensorcore.FP16, C: c, K: 16, Steps: tensorcore.Consecutive(16, 16), FractionBits: 25, Out: round(tensorcore.FP32Zero)})
		add(vec.Unit{Kind: vec.Truncated24, Step: 8, Half: half}, tensorcore.Unit{A: tensorcore.FP16, C: c, K: 16, Steps: tensorcore.Consecutive(16, 8), FractionBits: 24, Out: round(tensorcore.FP32Zero)})
	}
	return list
}()

// vectorUnitOf describes a unit to the vector kernels and reports whether they have it.
func vectorUnitOf(u *tensorcore.Unit) (vec.Unit, bool) {
	for i := range vecUnits {
		if u.Same(&vecUnits[i].unit) {
			return vecUnits[i].vec, true
		}
	}
	return vec.Unit{}, false
}

// vectorUnit describes the unit of PV to the vector kernels and reports whether they have
// it.
func (k *Kernel) vectorUnit() (vec.Unit, bool) {
	if k.intPV {
		return vec.Unit{Kind: vec.Integer, Step: 32}, true
	}
	u := k.pvUnit
	if u == nil {
		// Exact sums. V's codes are laid out all the same.
		u = &tensorcore.Unit{A: map[string]tensorcore.Operand{"fp16": tensorcore.FP16}[k.prog.VCodes.Format]}
	}
	if v, ok := vectorUnitOf(u); ok {
		return v, true
	}
	// V's codes are laid out all the same.
	if u.A == tensorcore.FP16 {
		return vec.Unit{Kind: vec.Truncated25, Step: 16}, false
	}
	return vec.Unit{Step: 32}, false
}
