package main

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/internal/version"
	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

const emulateSample = "../../layerdumps/testdata/byte-lm-sample.safetensors"

// TestEmulate: what emulate writes is, bit for bit, what compare emulates, and not
// that of another kernel; its figures are compare's.
func TestEmulate(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out.safetensors")
	args := []string{"emulate", emulateSample, "--kernel", "sage2-8b-sm89", "--lse", "--reference", "fp32", "-o", out}
	if code, stdout, errs := sage(t, args...); code != exitOK || stdout != "" {
		t.Fatalf("exit %d, stdout %.100q, stderr %q", code, stdout, errs)
	}
	for _, tc := range []struct {
		kernel string
		want   int
	}{{"sage2-8b-sm89", exitOK}, {"sage2-8b-sm90", exitCheckFailed}} {
		code, _, errs := sage(t, "compare", emulateSample, "--actual", out, "--kernel", tc.kernel, "--expect-bit-exact", "--lse")
		if code != tc.want {
			t.Errorf("%s: exit %d, want %d: %s", tc.kernel, code, tc.want, errs)
		}
	}
	f, err := safetensors.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var names []string
	for _, x := range f.Tensors {
		names = append(names, x.Name+" "+x.DType)
	}
	want := strings.Fields("layers.0.attn.o_F16 layers.0.attn.lse_F32 layers.0.attn.reference_F32 layers.0.attn.reference_lse_F32 " +
		"layers.3.attn.o_F16 layers.3.attn.lse_F32 layers.3.attn.reference_F32 layers.3.attn.reference_lse_F32")
	for i := range want {
		want[i] = strings.ReplaceAll(want[i], "_F", " F")
	}
	if !slices.Equal(names, want) {
		t.Errorf("tensors %q, want %q", names, want)
	}
	var got, direct compare.Result
	if err := json.Unmarshal([]byte(f.Metadata["result"]), &got); err != nil {
		t.Fatal(err)
	}
	_, stdout, _ := sage(t, "compare", emulateSample, "--kernel", "sage2-8b-sm89", "--lse", "--per-head", "--format", "json")
	if err := json.Unmarshal([]byte(stdout), &direct); err != nil {
		t.Fatal(err)
	}
	got.Args, direct.Args = nil, nil
	a, _ := json.Marshal(got)
	b, _ := json.Marshal(direct)
	if string(a) != string(b) {
		t.Errorf("figures differ:\n%.2000s\n%.2000s", a, b)
	}
}

// TestEmulateStdout: without -o the file goes to standard output, and the reference
// stays away.
func TestEmulateStdout(t *testing.T) {
	dump := write(t, nil, layer(1, 2, 40, 64)...)
	code, stdout, errs := sage(t, "emulate", dump)
	if code != exitOK {
		t.Fatal(errs)
	}
	f, err := safetensors.Parse("stdout", []byte(stdout))
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Tensors) != 1 || f.Tensors[0].Name != "l.o" || !slices.Equal(f.Tensors[0].Shape, []int{1, 2, 40, 64}) || f.Metadata["result"] != "" {
		t.Errorf("tensors %v, metadata %v", f.Tensors, f.Metadata)
	}
	// What they are the outputs of.
	var p program.Program
	want, err := program.Preset("sage2-8b-sm90")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(f.Metadata["description"]), &p); err != nil || len(program.Diff(&p, &want)) != 0 {
		t.Errorf("%v: the outputs are of %s", err, f.Metadata["description"])
	}
	if f.Metadata["tool"] != version.Get().String() {
		t.Errorf("the outputs are by %q", f.Metadata["tool"])
	}
}

// TestEmulateRefuses: a tensor that no layer reads might be meant to bear on the
// result.
func TestEmulateRefuses(t *testing.T) {
	for _, tc := range []struct{ name, flag, want string }{
		{"l.something", "--lse", `tensor "l.something" is no part of a layer`},
		{"l.o", "--jobs=0", "--jobs is 0"},
		{"l.o", "--rows=3", `"3" is not LO:HI`},
		{"l.o", "--rows=8:4", `"8:4" is not LO:HI`},
		{"l.o", "--rows=8:20", "it has no queries 8 to 19: they are 0 to 7"},
		{"l.o", "--reference=fp16", `unknown precision "fp16"`},
	} {
		dump := write(t, nil, append(layer(1, 1, 8, 16), tensor(tc.name, 1, 1, 8, 16))...)
		code, stdout, errs := sage(t, "emulate", dump, tc.flag)
		if code != exitCannotRun || stdout != "" || !strings.Contains(errs, tc.want) || strings.Count(errs, "\n") != 1 {
			t.Errorf("%v: exit %d, stdout %.50q, stderr %q", tc, code, stdout, errs)
		}
	}
}

// TestEmulateRows: the rows asked for are those of the whole, the others zeros, and
// the figures are theirs.
func TestEmulateRows(t *testing.T) {
	dump := write(t, map[string]string{"causal": "true"}, layer(1, 2, 700, 16)...)
	data := func(flags ...string) []byte {
		code, stdout, errs := sage(t, append([]string{"emulate", dump}, flags...)...)
		if code != exitOK {
			t.Fatal(errs)
		}
		f, err := safetensors.Parse("stdout", []byte(stdout))
		if err != nil {
			t.Fatal(err)
		}
		b, err := f.Tensors[0].Bytes()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	all, some := data(), data("--rows", "300:310")
	const row = 2 * 16
	for i := range 2 * 700 {
		want := make([]byte, row)
		if n := i % 700; n >= 256 && n < 512 {
			want = all[i*row : (i+1)*row]
		}
		if got := some[i*row : (i+1)*row]; string(got) != string(want) {
			t.Fatalf("row %d of head %d: %x, want %x", i%700, i/700, got, want)
		}
	}
}
