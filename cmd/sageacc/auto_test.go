package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

// dumpWith copies the sample's first layer into a file with other metadata.
func dumpWith(t *testing.T, more map[string]string) string {
	t.Helper()
	d, err := layerdumps.Open([]string{sample}, layerdumps.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	f, err := safetensors.Open(sample)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	metadata := map[string]string{"causal": "true", "sm_scale": "0.125", "layout": "HND"}
	for k, v := range more {
		metadata[k] = v
	}
	var ts []safetensors.Tensor
	for _, role := range []string{"q", "k", "v", "o"} {
		x := f.Tensor("layers.0.attn." + role)
		b, err := x.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		ts = append(ts, safetensors.Tensor{Name: "l." + role, DType: x.DType, Shape: x.Shape, Data: b})
	}
	path := filepath.Join(t.TempDir(), "x.safetensors")
	if err := safetensors.Write(path, metadata, ts); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestAuto: the kernel is chosen by the dump's metadata, which the output says; flags stand
// over it; what is unknown is one line.
func TestAuto(t *testing.T) {
	h200 := dumpWith(t, map[string]string{"device": "NVIDIA H200"})
	for _, name := range []string{"auto", "sageattn@auto"} {
		code, out, errs := sage(t, "compare", h200, "--kernel", name, "--expect-bit-exact")
		want := "chosen     sageattn@sm_90 for --kernel " + name + ": what sageattn() runs on NVIDIA H200 (sm_90)\n"
		if code != exitOK || !strings.Contains(out, want) {
			t.Errorf("%s: status %d, %s%s", name, code, out, errs)
		}
	}
	captured := dumpWith(t, map[string]string{
		"device": "NVIDIA H100", "arch": "sm_90", "call": "sageattn_qk_int8_pv_fp8_cuda(q)", "kernel": "sage2-8b-sm89 --arch sm_90 --pv-accum fp32",
	})
	code, out, errs := sage(t, "compare", captured, "--kernel", "auto,sage2-4b", "--pv-accum", "fp32+fp32", "--format", "json")
	var set compare.Set
	if err := json.Unmarshal([]byte(out), &set); err != nil || code != exitOK || len(set.Results) != 2 {
		t.Fatalf("status %d, %v, %s", code, err, errs)
	}
	k := set.Results[0].Kernel
	if k.Name != "sage2-8b-sm89" || k.Arch != "sm_90" || k.PVAccum != "fp32+fp32" || !strings.Contains(k.Chosen, "the recorded call, sageattn_qk_int8_pv_fp8_cuda() on NVIDIA H100") {
		t.Errorf("%+v", k)
	}
	if set.Results[1].Kernel.Chosen != "" {
		t.Errorf("a named kernel was chosen: %s", set.Results[1].Kernel.Chosen)
	}
	if code, _, errs := sage(t, "trace", h200, "--kernel", "auto", "--row", "3"); code != exitOK || !strings.Contains(errs, "note: sageattn@sm_90 for --kernel auto") {
		t.Errorf("status %d, %s", code, errs)
	}
	emulated := filepath.Join(t.TempDir(), "o.safetensors")
	if code, _, errs := sage(t, "emulate", h200, "--kernel", "auto", "-o", emulated); code != exitOK || !strings.Contains(errs, "note: sageattn@sm_90 for --kernel auto") {
		t.Errorf("status %d, %s", code, errs)
	}
	for want, args := range map[string][]string{
		"no metadata device or arch says":    {"compare", dumpWith(t, nil), "--kernel", "auto"},
		"is no GPU whose architecture":       {"emulate", dumpWith(t, map[string]string{"device": "cpu"}), "--kernel", "sageattn@auto", "-o", emulated},
		"sageattn() runs no known kernel on": {"trace", dumpWith(t, map[string]string{"arch": "sm_75"}), "--kernel", "auto", "--row", "0"},
		"here is no dump: name the kernel":   {"kernels", "show", "--kernel", "auto"},
		"--pv-accum: unknown accumulator ":   {"compare", h200, "--kernel", "auto", "--pv-accum", "fp9"},
	} {
		code, _, errs := sage(t, args...)
		if code != exitCannotRun || !strings.Contains(errs, want) || strings.Count(errs, "\n") != 1 {
			t.Errorf("%q: status %d, %s", args, code, errs)
		}
	}
}
