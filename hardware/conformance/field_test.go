package conformance

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestWrongFieldKernel: of every kernel beside SageAttention2, a description with one wrong
// line fails its recordings, so passing means something.
func TestWrongFieldKernel(t *testing.T) {
	// What comfy-int8 changes for a mask, beside the denominator's rescaling.
	const masked = "mask.value=-50000, mask.boolean=value, mask.additive=log2e, scores.sm_scale=with-scale, maximum.of=tile, denominator.of=p"
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
		"comfy-int8": {
			"denominator.rescale=fma", "denominator.of=p", "denominator.of=codes", "denominator.order=groups16", "smoothing.k=none", "smoothing.k=framework-mean",
			"qk_codes.rotate=h64", "exponent.offset=8", "p.round=zero", "v_codes.scale=paper", "finish.empty=divide", "finish.first=none",
			// With a mask, d is rescaled as without: always by a product of its own, or but in the last tile.
			"tiles.shapes.4.set=" + masked + ", denominator.rescale=multiply", "tiles.shapes.2.set=" + masked + ", denominator.rescale=multiply-but-last",
		},
		"sparge-sm90": {
			"denominator.rescale=fma", "denominator.rescale=multiply", "pv.join=fma", "pv.join=twice", "pv.threshold=1000", "exponent.offset=8", "v_codes.max=448",
			"scores.tail_tiles=all", "denominator.order=pairwise16", "qk_codes.scale=fused", "smoothing.k=none",
		},
		"flashinfer-fp8": {
			"p.scale=240", "scores.product=fp64", "maximum.unseen=itself", "denominator.rescale=multiply", "denominator.combine=01+23", "pv.level=tile;pv.join=twice",
			"tiles.order=first-to-last", "exponent.round=twice", "mask.causal=top-left", "finish.scale=output;p.scale=0", "log_sum_exp.form=natural-offset", "tiles.shapes.1.keys=128",
		},
		"flashinfer-fp8-paged": {"tiles.shapes.1.keys=192", "tiles.shapes.2.keys=128", "p.scale=256", "p.round=zero"},
		"fa3-fp8-2level":       {"pv.join=fma", "pv.level=all;pv.join=none", "tiles.order=first-to-last"},
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
			// A few cases at a time, as the first that fails is enough.
			var rep Report
			for few := range slices.Chunk(own, 8) {
				wrong := make([]Case, len(few))
				for i, c := range few {
					c.CausalAlign = "" // which would undo it
					c.Set = append(slices.Clone(c.Set), strings.Split(set, ";")...)
					wrong[i] = c
				}
				r, err := Run(t.Context(), wrong, 2, nil)
				if err != nil {
					t.Fatalf("%s %s: %v", kernel, set, err)
				}
				rep.Passed, rep.Failed, rep.Skipped = rep.Passed+r.Passed, rep.Failed+r.Failed, rep.Skipped+r.Skipped
				if rep.Failed > 0 {
					break
				}
			}
			if rep.Failed == 0 {
				t.Errorf("%s with %s passes %d cases (%d skipped)", kernel, set, rep.Passed, rep.Skipped)
			}
		}
	}
}

// TestFieldAlternatives: the recordings tell FlashAttention-3's way of splitting the keys from
// FlashAttention-2's, and the unsigned offset of a diagonal from the one that was meant.
func TestFieldAlternatives(t *testing.T) {
	cases, err := Load(field, regexp.MustCompile("^attention "))
	if err != nil {
		t.Fatal(err)
	}
	for name, wrong := range map[string]func(*Case) bool{
		"splits": func(c *Case) bool {
			c.Set = []string{"tiles.combine=fa2"}
			return c.Kernel == "fa3" && c.NumSplits > 1
		},
		"no splits": func(c *Case) bool {
			n := c.NumSplits
			c.NumSplits = 0
			return c.Kernel == "fa3" && n > 1
		},
		"diagonal": func(c *Case) bool {
			a := c.CausalAlign
			c.CausalAlign = "bottom-right"
			return a == "bottom-right-unsigned"
		},
	} {
		var right, changed []Case
		for _, c := range cases {
			x := c
			if wrong(&x) {
				right, changed = append(right, c), append(changed, x)
			}
		}
		for i, list := range [][]Case{right, changed} {
			rep, err := Run(t.Context(), list, 2, nil)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if i == 0 && (rep.Passed != len(right) || len(right) < 4) || i == 1 && rep.Failed < len(right)/2 {
				t.Errorf("%s: of %d cases, changed %v, %d pass, %d fail, %d are skipped", name, len(list), i == 1, rep.Passed, rep.Failed, rep.Skipped)
			}
		}
	}
}

// TestScaledQuery: a Q that was scaled first is quantised with the call's softmax scale, by
// default that of the head before it was padded.
func TestScaledQuery(t *testing.T) {
	cases, err := Load(field, regexp.MustCompile("^quantize quant_.*/q_scale"))
	if err != nil || len(cases) != 2 {
		t.Fatalf("%d cases, %v", len(cases), err)
	}
	for _, x := range []struct {
		scale  func(float64) *float64
		passed int
	}{
		{func(s float64) *float64 { return &s }, 2},
		{func(float64) *float64 { return nil }, 2},
		{func(s float64) *float64 { s *= 2; return &s }, 0},
		{func(float64) *float64 { s := 0.125; return &s }, 0},
	} {
		changed := make([]Case, len(cases))
		for i, c := range cases {
			c.SMScale = x.scale(*c.SMScale)
			changed[i] = c
		}
		rep, err := Run(t.Context(), changed, 2, nil)
		if err != nil {
			t.Fatal(err)
		}
		if rep.Passed != x.passed {
			t.Errorf("of 2 cases %d pass, want %d", rep.Passed, x.passed)
		}
	}
}
