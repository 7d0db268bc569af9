package conformance

import (
	"context"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sageacc/sageacc/emulate/tensorcore"
	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

// others is a set of single results of the units of eight GPUs, which F. A. Khattak and
// M. Mikaitis recorded (MATLAB-tensor-core). It lies beside the project, where it is there.
const others = "../../../shared/conformance-gpus"

func loadOthers(t *testing.T) []Case {
	cases, err := Load(others, nil)
	if err != nil {
		t.Skipf("no recordings at %s", others)
	}
	return cases
}

// TestOtherGPUs: every result of every GPU is reproduced, and none is left out.
func TestOtherGPUs(t *testing.T) {
	rep, err := Run(t.Context(), loadOthers(t), 2, nil)
	if err != nil {
		t.Fatal(err)
	}
	if rep.Passed == 0 || rep.Failed+rep.Skipped != 0 {
		t.Errorf("%d passed, %d failed, %d skipped", rep.Passed, rep.Failed, rep.Skipped)
	}
}

// TestOtherGPUsDecide: the recordings do not fit units that differ from those of the
// table in one respect, where they can tell. They cannot where results are FP16, which
// hides F, and where a result has no more products than one step; FP8 products widened to
// FP16 have too few bits to show F = 24 and more.
func TestOtherGPUsDecide(t *testing.T) {
	for _, c := range loadOthers(t) {
		t.Run(c.File, func(t *testing.T) {
			u, err := tensorcore.Lookup(c.Arch, c.Instruction)
			if err != nil {
				t.Fatal(err)
			}
			f, err := safetensors.Open(filepath.Join(others, c.File))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			depth := f.Tensor("a").Shape[2]
			differ := func(what string, change func(*tensorcore.Unit)) {
				v := *u
				change(&v)
				cmp := &comparison{}
				if err := c.mmaOn(context.Background(), &v, file{f, new(atomic.Pointer[error])}, cmp); err != nil {
					t.Fatal(err)
				}
				if cmp.mismatched == 0 {
					t.Errorf("%s fits too", what)
				}
			}
			wide := u.C == tensorcore.FP32 && !u.SeparateAdd
			if wide || u.FractionBits == 13 {
				differ("F - 1", func(v *tensorcore.Unit) { v.FractionBits-- })
				differ("F + 1", func(v *tensorcore.Unit) { v.FractionBits++ })
			}
			for _, o := range []tensorcore.Output{tensorcore.FP32Zero, tensorcore.FP32Nearest, tensorcore.FP22Zero, tensorcore.FP22Nearest} {
				if wide && o != u.Out {
					differ(o.String(), func(v *tensorcore.Unit) { v.Out = o })
				}
			}
			if u.SeparateAdd {
				differ("an addend that is a term", func(v *tensorcore.Unit) { v.SeparateAdd = false })
				if u.C == tensorcore.FP16 {
					differ("steps in order of k", func(v *tensorcore.Unit) { v.Steps = tensorcore.Consecutive(v.K, 16) })
					differ("the other half first", func(v *tensorcore.Unit) { v.Steps = [][]int{v.Steps[1], v.Steps[0]} })
				}
				return
			}
			step := len(u.Steps[0])
			// A result of 4 TF32 products says of a step of 8 only that it has 4.
			if half := min(step, depth) / 2; half > 0 {
				differ("half the step", func(v *tensorcore.Unit) { v.Steps = tensorcore.Consecutive(v.K, half) })
			}
			if depth > step {
				differ("twice the step", func(v *tensorcore.Unit) { v.Steps = tensorcore.Consecutive(v.K, 2*step) })
			}
		})
	}
}

// TestTF32Cut: an H200 does not look at the low 13 bits of a TF32 operand, where others'
// recordings have none.
func TestTF32Cut(t *testing.T) {
	for _, c := range []Case{
		{File: "sm90_mma_m16n8k8_f32_tf32_tf32_f32.safetensors", Instruction: "mma.m16n8k8.f32.tf32"},
		{File: "sm90_wgmma_m64n8k8_f32_tf32_tf32.safetensors", Instruction: "wgmma.m64nNk8.f32.tf32"},
	} {
		u, err := tensorcore.Lookup(tensorcore.SM90, c.Instruction)
		if err != nil {
			t.Fatal(err)
		}
		f, err := safetensors.Open(filepath.Join(recorded, c.File))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		c.Expect = "d"
		right, wrong := &comparison{}, &comparison{}
		if err := c.mmaOn(t.Context(), u, file{f, new(atomic.Pointer[error])}, right); err != nil {
			t.Fatal(err)
		}
		v := *u
		v.A = tensorcore.FP32
		if err := c.mmaOn(t.Context(), &v, file{f, new(atomic.Pointer[error])}, wrong); err != nil {
			t.Fatal(err)
		}
		if right.mismatched != 0 || wrong.mismatched == 0 {
			t.Errorf("%s: %d of %d differ, and %d with operands of FP32", c.File, right.mismatched, right.elements, wrong.mismatched)
		}
	}
}

// TestFP8NeedsAda: GPUs without FP8 units say so.
func TestFP8NeedsAda(t *testing.T) {
	c := Case{File: "sm90_mma_m16n8k32_f32_e4m3_e4m3_f32.safetensors", Op: "mma", Expect: "d", Arch: "sm_86",
		Instruction: "mma.sync.m16n8k32.f32.e4m3.e4m3.f32", dir: recorded}
	rep, err := Run(t.Context(), []Case{c}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r := rep.Cases[0]; r.Status != Skip || !strings.Contains(r.Reason, "sm_86 has no FP8") {
		t.Errorf("%+v", r)
	}
}
