package render

import (
	"bytes"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/compare/explain"
	"github.com/sageacc/sageacc/hardware/probe"
	"github.com/sageacc/sageacc/hardware/validate"
)

func TestValidateText(t *testing.T) {
	r := &validate.Report{
		Kernel: "mine", Config: "c", Device: "GPU", Arch: "sm_90", Passed: 1, Failed: 1, Skipped: 1, Elements: 30, Mismatched: 2, StageElements: 7,
		Cases: []validate.Result{
			{Name: "1x1/1x2x3x64 gauss full f16", Elements: 10},
			{
				Name: "1x1/1x4x5x64 gauss full f16", Elements: 20, Mismatched: 2,
				LSE:    &validate.Count{Elements: 4, Mismatched: 1},
				First:  &validate.Difference{Token: 3, Channel: 9, Block: 2, Tiles: 1, GPU: "0x1", Emulated: "0x2"},
				Stages: &explain.StageReport{Compared: []string{"k_mean", "k_scale"}},
				Keys:   128,
			},
			{Name: "layers.0", Skipped: "mine does not do head_dim 40"},
		},
	}
	var b bytes.Buffer
	if err := ValidateText(&b, []*validate.Report{r, r}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"gauss full f16      2        0       1        30          2",
		"layers.0            1        1       0         0          0",
		"1x1/1x4x5x64 gauss full f16: 2 of 20 elements differ",
		"token 3, channel 9: GPU 0x1, emulated 0x2",
		"block 2 of query rows, which looks at 1 tile of keys",
		"log-sum-exp: 1 of 4 differ",
		"k_mean and k_scale agree",
		"first 128 keys",
		"skipped: mine does not do head_dim 40",
		"30 output elements, 2 differ; 7 elements",
		"1 passed, 1 failed, 1 skipped",
	} {
		if strings.Count(b.String(), want) != 2 {
			t.Errorf("%q is there %d times, want 2:\n%s", want, strings.Count(b.String(), want), b.String())
		}
	}
}

func TestProbesText(t *testing.T) {
	var b bytes.Buffer
	err := ProbesText(&b, []probe.Outcome{
		{Instruction: "ex2", Arch: "sm_90", Device: "GPU", Results: 1 << 32, Exhaustive: true},
		{Instruction: "mma", Arch: "sm_90", Device: "GPU", Results: 5, Differing: 1, First: &probe.Mismatch{Index: 3, Operands: "x", GPU: "0x1", Model: "0x2"}},
		{Instruction: "wgmma", Arch: "sm_90", Device: "GPU", Skipped: "no"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"all 2^32", "mma: first at operation 3: x: GPU 0x1, model 0x2", "skipped: no"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in:\n%s", want, b.String())
		}
	}
}
