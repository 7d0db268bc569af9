package conformance

import (
	"regexp"
	"testing"
)

// TestWrongFieldKernel: of every kernel beside SageAttention2, a description with one wrong
// line fails its recordings, so passing means something.
func TestWrongFieldKernel(t *testing.T) {
	for kernel, sets := range map[string][]string{
		"sage-fp16-cuda": {
			"denominator.of=p;denominator.unit=none;denominator.order=sequential", "scores.tail_tiles=1", "exponent.round=twice",
			"smoothing.k_difference=fp32", "exponent.offset=8",
		},
		"sage-fp16-triton": {
			"denominator.combine=01+23", "denominator.order=tile-tree", "pv.join=twice",
			"mask.boolean_value=-50000", "qk_codes.scale=triton",
		},
		"fa2": {
			"exponent.round=fma", "denominator.rescale=multiply", "denominator.combine=01+23", "tiles.order=first-to-last", "tiles.split=none",
			"mask.causal=top-left",
		},
		"sdpa-efficient": {
			"denominator.order=sequential", "denominator.combine=02+13", "scores.unit.instruction=mma.m16n8k16.f32.input",
		},
		"fa3": {"denominator.combine=01+23", "exponent.round=twice", "tiles.order=first-to-last", "finish.inverse=exact", "mask.causal=top-left"},
		"fa3-fp8": {
			"exponent.offset=7", "denominator.rescale=multiply", "pv.level=tile;pv.join=twice", "tiles.order=first-to-last", "denominator.of=codes",
		},
		"sage-fp16-triton-varlen": {"smoothing.k=framework-mean", "qk_codes.scale=triton", "mask.causal=bottom-right", "denominator.combine=01+23"},
		"fa3-fp8-2level":          {"pv.join=fma", "pv.level=all;pv.join=none", "tiles.order=first-to-last"},
	} {
		var own []Case
		for _, dir := range []string{field, packed} {
			cases, err := Load(dir, regexp.MustCompile("^attention "))
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range cases {
				if c.Kernel == kernel {
					own = append(own, c)
				}
			}
		}
		if len(own) == 0 {
			t.Fatalf("no case of %s", kernel)
		}
		for _, set := range sets {
			wrong := make([]Case, len(own))
			for i, c := range own {
				c.CausalAlign = "" // which would undo it
				c.Set = regexp.MustCompile(";").Split(set, -1)
				wrong[i] = c
			}
			rep, err := Run(t.Context(), wrong, 2, nil)
			if err != nil {
				t.Fatalf("%s %s: %v", kernel, set, err)
			}
			if rep.Failed == 0 {
				t.Errorf("%s with %s passes %d cases (%d skipped)", kernel, set, rep.Passed, rep.Skipped)
			}
		}
	}
}
