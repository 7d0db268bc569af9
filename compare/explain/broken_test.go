package explain

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/emulate/program"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

// What kernels with one deliberate fault each (kernels/attention/broken) returned on
// an H200 is explained by exactly that fault.
func TestBrokenKernels(t *testing.T) {
	want := map[string]string{
		"4b_codes_toward_zero":    "--variant code-round=zero",
		"4b_fp16_accumulator":     "--pv-accum fp32+fp16",
		"4b_mask_shift":           "--variant causal-shift=-1",
		"4b_no_delta_s":           "--variant delta-s=none",
		"4b_per_block":            "--qk-granularity per-block",
		"8b_codes_toward_zero":    "--variant code-round=zero",
		"8b_denominator_of_codes": "--variant d-sum=codes",
		"8b_exact_exp2":           "--variant exp2=exact",
		"8b_level_64":             "--variant level-keys=64",
		"8b_mask_shift":           "--variant causal-shift=1",
		"8b_no_key_mask":          "--variant key-mask=none",
		"8b_no_rescale_d":         "--variant rescale-d=none",
		"8b_one_level":            "--pv-accum fp32",
		"8b_p_offset":             "--variant p-offset=8",
		"8b_p_toward_zero":        "--variant p-round=zero",
		"8b_unfused_rescale":      "--variant fma-o=none",
	}
	sources, err := filepath.Glob("../../kernels/attention/broken/*.cu")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sources {
		if name := strings.TrimSuffix(filepath.Base(s), ".cu"); want[name] == "" {
			t.Errorf("%s is not tested", s)
		}
	}
	f, err := safetensors.Open(filepath.Join("testdata", "broken.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for name, flag := range want {
		t.Run(name, func(t *testing.T) {
			if _, err := os.Stat("../../kernels/attention/broken/" + name + ".cu"); err != nil {
				t.Error(err)
			}
			mask, preset := "full", "sage2-8b-sm90"
			if strings.Contains(name, "mask_shift") {
				mask = "causal"
			}
			if strings.HasPrefix(name, "4b") {
				preset = "sage2-4b"
			}
			tensor := func(part string) layerdumps.Tensor {
				x := f.Tensor(mask + "." + part)
				if x == nil {
					t.Fatalf("no tensor %s.%s", mask, part)
				}
				b, err := x.Bytes()
				if err != nil {
					t.Fatal(err)
				}
				y, err := layerdumps.NewTensor(x.Name, format.FP16, [4]int(x.Shape), b)
				if err != nil {
					t.Fatal(err)
				}
				return y
			}
			o := tensor("o." + name)
			l := &layerdumps.Layer{Name: name, Q: tensor("q"), K: tensor("k"), V: tensor("v"), O: &o, Causal: mask == "causal"}
			cfg, err := program.Preset(preset)
			if err != nil {
				t.Fatal(err)
			}
			cfg.Arch = "sm_90" // which ran it
			r, err := Layer(context.Background(), l, Options{Program: cfg, Jobs: 1})
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Exact) != 1 || !slices.Equal(r.Exact[0].Changes, []string{flag}) {
				t.Errorf("explained by %v, want %s", r.Exact, flag)
			}
		})
	}
}
