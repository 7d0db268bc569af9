package program

import (
	"fmt"
	"slices"
	"strings"
)

// An alias is what `sageattn()` of thu-ml/SageAttention d1a57a5 (core.py) runs on a GPU: a
// known kernel with what sageattn passes to it there.
type alias struct {
	name, kernel string
	edit         func(*Program) error
}

var aliases = []alias{
	{"sageattn@sm_80", "sage-fp16-cuda", func(p *Program) error { return p.SetArch("sm_80") }},
	{"sageattn@sm_86", "sage-fp16-triton", func(p *Program) error {
		// Triton makes mma.sync there (PTX).
		p.Scores.Unit.Instruction, p.PV.Unit.Instruction = "mma.m16n8k32.s32.s8", "mma.m16n8k16.f16.f16"
		return p.SetArch("sm_86")
	}},
	{"sageattn@sm_89", "sage2-8b-sm89", func(p *Program) error { return p.SetAccum("fp32+fp16") }},
	{"sageattn@sm_90", "sage2-8b-sm90", func(*Program) error { return nil }},
	{"sageattn@sm_120", "sage2-8b-sm89", perWarp("sm_120")},
	{"sageattn@sm_121", "sage2-8b-sm89", perWarp("sm_121")},
}

func perWarp(arch string) func(*Program) error {
	return func(p *Program) error {
		for _, change := range [][2]string{
			{"qk_codes.granularity", "per-warp"}, {"qk_codes.scale", "fused"}, {"qk_codes.round", "even"}, {"smoothing.k_difference", "fp32-ftz"},
		} {
			if err := p.Set(change[0], change[1]); err != nil {
				return err
			}
		}
		if err := p.SetAccum("fp32+fp16"); err != nil {
			return err
		}
		return p.SetArch(arch)
	}
}

// Aliases lists the names that stand for a known kernel as a caller runs it.
func Aliases() []string {
	var out []string
	for _, a := range aliases {
		out = append(out, a.name)
	}
	return out
}

// AliasOf returns the alias of a GPU, given its architecture as in sm_90.
func AliasOf(arch string) (string, error) {
	name := "sageattn@" + arch
	if !slices.Contains(Aliases(), name) {
		return "", fmt.Errorf("sageattn() runs no known kernel on %s (known: %s)", arch, strings.Join(Aliases(), ", "))
	}
	return name, nil
}
