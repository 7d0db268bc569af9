package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

func content(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// shards computes all shards of a comparison and returns their parts.
func shards(t *testing.T, n int, args ...string) []string {
	t.Helper()
	dir := t.TempDir()
	var parts []string
	for i := range n {
		part := filepath.Join(dir, fmt.Sprintf("part-%d", i+1))
		parts = append(parts, part)
		code, out, errs := sage(t, append([]string{"compare", "--shard", fmt.Sprintf("%d/%d", i+1, n), "-o", part}, args...)...)
		if code != exitOK || out != "" {
			t.Fatalf("shard %d/%d: exit %d, %q, %q", i+1, n, code, out, errs)
		}
	}
	return parts
}

// TestMerge: parts give the bytes of one run, in every format, with its checks.
func TestMerge(t *testing.T) {
	video := strings.Replace(sample, "byte-lm", "video-dit", 1)
	for _, tc := range []struct {
		n    int
		args []string
	}{
		{1, []string{sample}},
		{3, []string{sample, video, "--per-head", "--lse"}},
		{5, []string{sample, "--kernel", "sage2-4b,sage2-8b-sm90", "--fail-if", "bits.mismatched>0", "--allow-nonfinite"}},
		{40, []string{video, "--causal=false", "--sm-scale", "0.1", "--expect-bit-exact"}}, // more than chunks
	} {
		parts := shards(t, tc.n, tc.args...)
		slices.Reverse(parts)
		for _, format := range []string{"json", "table", "csv"} {
			code, want, wantErrs := sage(t, append([]string{"compare", "--format", format}, tc.args...)...)
			got, out, errs := sage(t, append([]string{"merge", "--format", format}, parts...)...)
			if got != code || out != want || errs != wantErrs {
				t.Errorf("%v, %s: exit %d, %q\n%s\nwant exit %d, %q\n%s", tc.args, format, got, errs, out, code, wantErrs, want)
			}
		}
	}
}

func TestMergeRefuses(t *testing.T) {
	parts := shards(t, 3, sample)
	other := shards(t, 3, sample, "--lse")
	args := shards(t, 3, sample, "--allow-nonfinite")
	few := shards(t, 2, sample)
	whole := content(t, parts[1])
	cut := filepath.Join(t.TempDir(), "cut")
	if err := os.WriteFile(cut, whole[:len(whole)-3], 0o666); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		parts []string
		want  string
	}{
		{parts[:2], "not all parts are there: shard 3/3 is missing"},
		{parts[2:], "not all parts are there: shard 1/3 is missing; shard 2/3 is missing"},
		{[]string{parts[0], cut, parts[2]}, "not all parts are there: " + cut + " (shard 2/3) is not finished: "},
		{[]string{parts[0], parts[1], parts[1], parts[2]}, parts[1] + ": shard 2/3, as " + parts[1] + " is"},
		{[]string{parts[0], few[1]}, few[1] + ": shard 2/2, but " + parts[0] + " is one of 3"},
		{[]string{parts[0], other[1], parts[2]}, other[1] + ": a part of another run than " + parts[0] + ": its layer layers.0.attn has another shape or other parameters"},
		{[]string{parts[0], args[1], parts[2]}, args[1] + ": a part of another run than " + parts[0] + ": its command line is another"},
		{[]string{sample}, sample + ": not a part of a run of sageacc"},
		{[]string{filepath.Join(t.TempDir(), "none")}, "no such file"},
	} {
		code, out, errs := sage(t, append([]string{"merge"}, tc.parts...)...)
		// A note of what is damaged may come before.
		lines := strings.Split(strings.TrimSuffix(errs, "\n"), "\n")
		last := lines[len(lines)-1]
		if code != exitCannotRun || out != "" || !strings.Contains(last, tc.want) || len(lines) > 2 || len(lines) == 2 && !strings.HasPrefix(errs, "sageacc: note: "+cut) {
			t.Errorf("%v: exit %d, %q, want %q", tc.parts, code, errs, tc.want)
		}
	}
	// The same command, of another dump of that name.
	dump := filepath.Join(t.TempDir(), "dump.safetensors")
	b := content(t, sample)
	var mixed []string
	for i := range 3 {
		if err := os.WriteFile(dump, b, 0o666); err != nil {
			t.Fatal(err)
		}
		mixed = append(mixed, shards(t, 3, dump)[i])
		if i == 1 {
			b[len(b)-1] ^= 1
		}
	}
	code, _, errs := sage(t, append([]string{"merge"}, mixed...)...)
	if want := mixed[2] + " are of different tensors\n"; code != exitCannotRun || !strings.Contains(errs, "layer layers.") || !strings.Contains(errs, want) && !strings.Contains(errs, mixed[2]+" and ") {
		t.Errorf("parts of different dumps: exit %d, %q, want %q", code, errs, want)
	}
}

// TestShardResumes: a shard that was stopped goes on, and one that is finished is not
// computed again.
func TestShardResumes(t *testing.T) {
	parts := shards(t, 2, sample, "--per-head")
	_, want, _ := sage(t, append([]string{"merge"}, parts...)...)
	whole := content(t, parts[0])
	for _, cut := range []int{0, 50, len(whole) / 2, len(whole) - 1, len(whole)} {
		if err := os.WriteFile(parts[0], whole[:cut], 0o666); err != nil {
			t.Fatal(err)
		}
		args := []string{"compare", sample, "--per-head", "--shard", "1/2", "-o", parts[0]}
		if code, _, errs := sage(t, args...); code != exitCannotRun || !strings.Contains(errs, parts[0]+" is there already: --resume goes on with it") {
			t.Errorf("without --resume: exit %d, %q", code, errs)
		}
		if code, _, errs := sage(t, append(args, "--resume")...); code != exitOK {
			t.Errorf("cut at %d: exit %d, %q", cut, code, errs)
		}
		if cut == len(whole) && !bytes.Equal(content(t, parts[0]), whole) {
			t.Error("a part that is finished was changed")
		}
		if _, got, errs := sage(t, append([]string{"merge"}, parts...)...); got != want {
			t.Errorf("cut at %d: %q\n%s\nwant\n%s", cut, errs, got, want)
		}
	}
	for _, args := range [][]string{{"--shard", "2/2"}, {"--shard", "1/3"}, {"--shard", "1/2", "--fail-if", "cos<0.9"}} {
		code, _, errs := sage(t, append([]string{"compare", sample, "--per-head", "-o", parts[0], "--resume"}, args...)...)
		if code != exitCannotRun || !strings.Contains(errs, parts[0]+": a journal of another run: it") {
			t.Errorf("%v: exit %d, %q", args, code, errs)
		}
	}
}

func TestShardFlag(t *testing.T) {
	out := filepath.Join(t.TempDir(), "part")
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"--shard", "4/3", "-o", out}, `--shard: "4/3" is no shard: want I/N`},
		{[]string{"--shard", "array", "-o", out}, "this is no task of a job array"},
		{[]string{"--shard", "1/3"}, "--shard: a part goes to a file, with -o"},
		{[]string{"--shard", "1/3", "-o", out, "--format", "json"}, "--format is not for --shard: give it to sageacc merge"},
		{[]string{"--shard", "1/3", "-o", out, "--junit", "x"}, "--junit is not for --shard: give it to sageacc merge"},
		{[]string{"--shard", "1/3", "-o", out, "--explain"}, "--explain is not for --shard, which has but parts of layers"},
		{[]string{"--shard", "1/3", "-o", sample}, "it is one of the inputs"},
	} {
		code, _, errs := sage(t, append([]string{"compare", sample}, tc.args...)...)
		if code != exitCannotRun || !strings.Contains(errs, tc.want) || strings.Count(errs, "\n") != 1 {
			t.Errorf("%v: exit %d, %q, want %q", tc.args, code, errs, tc.want)
		}
	}
	t.Setenv("SLURM_ARRAY_TASK_ID", "1")
	if code, _, errs := sage(t, "compare", sample, "--shard", "array/2", "-o", out); code != exitOK {
		t.Errorf("a task of an array: exit %d, %q", code, errs)
	}
	if _, _, errs := sage(t, "merge", out); !strings.Contains(errs, "shard 1/2 is missing") {
		t.Errorf("task 1 of 2: %q", errs)
	}
}

// TestPlan: the job of a plan is the comparison that was asked for, in as many shards.
func TestPlan(t *testing.T) {
	args := []string{"plan", sample, "--measure", "10ms", "--kernel", "sage2-4b,sage2-8b-sm90", "--causal", "--fail-if", "cos<0.9", "--shards", "3"}
	code, out, errs := sage(t, args...)
	if code != exitOK || errs != "" || strings.Count(out, "\n") != 4 || !strings.Contains(out, "sage2-4b: 2 layers, 4096 query rows in 16 chunks") || !strings.Contains(out, "\n3 shards, each") {
		t.Errorf("exit %d, %q:\n%s", code, errs, out)
	}
	want := "compare " + sample + " --causal --fail-if 'cos<0.9' --kernel sage2-4b,sage2-8b-sm90 --shard array/3 --resume -o"
	code, out, errs = sage(t, append(args, "--format", "slurm")...)
	if code != exitOK || errs != "" || !strings.Contains(out, "#SBATCH --array=0-2\n") || !strings.Contains(out, want) {
		t.Errorf("exit %d, %q:\n%s", code, errs, out)
	}
	code, out, errs = sage(t, append(args, "--format", "kubernetes", "--image", "i", "--claim", "c")...)
	if code != exitOK || errs != "" || !strings.Contains(out, "completions: 3\n") {
		t.Errorf("exit %d, %q:\n%s", code, errs, out)
	}
	code, out, errs = sage(t, append(args, "--format", "json")...)
	if code != exitOK || errs != "" || !strings.Contains(out, `"schema": "sageacc/plan/v1"`) || !strings.Contains(out, `"multiply_adds"`) {
		t.Errorf("exit %d, %q:\n%s", code, errs, out)
	}
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"--format", "kubernetes"}, "--image is for --format kubernetes, which needs it"},
		{[]string{"--image", "x"}, "--image is for --format kubernetes, which needs it"},
		{[]string{"--shards", "0"}, "--shards is 0: want 1 to 100000"},
		{[]string{"--measure", "0s"}, "--measure is 0s: want a time, as in 5s"},
		{[]string{"--fail-if", "cos=1"}, "--fail-if"},
		{[]string{"--format", "csv"}, `unknown format "csv" (have table, json, slurm, kubernetes)`},
	} {
		code, _, errs := sage(t, append([]string{"plan", sample}, tc.args...)...)
		if code != exitCannotRun || !strings.Contains(errs, tc.want) {
			t.Errorf("%v: exit %d, %q, want %q", tc.args, code, errs, tc.want)
		}
	}
}

// TestMergeCalls: parts know what calls were given: masks, windows, packed sequences, FP8.
func TestMergeCalls(t *testing.T) {
	packed := safetensors.Tensor{Name: "l.cu_seqlens_q", DType: "I32", Shape: []int{3}, Data: []byte{0, 0, 0, 0, 2, 0, 0, 0, 7, 0, 0, 0}}
	keys := packed
	keys.Name = "l.cu_seqlens_k"
	dumps := map[string][]string{
		"packed": {write(t, nil, ramp("l.q", 7, 2, 16), ramp("l.k", 7, 1, 16), ramp("l.v", 7, 1, 16), packed, keys), "--kernel", "sage-fp16-triton-varlen"},
	}
	for name, c := range calls {
		path := write(t, c.metadata, append([]safetensors.Tensor{ramp("l.q", 1, 2, 6, 16), ramp("l.k", 1, 1, 7, 16), ramp("l.v", 1, 1, 7, 16)}, c.more...)...)
		dumps[name] = []string{path, "--kernel", c.kernel}
	}
	for name, args := range dumps {
		code, want, errs := sage(t, append([]string{"compare", "--format", "json"}, args...)...)
		if code != exitOK {
			t.Fatalf("%s: %s", name, errs)
		}
		if name == "packed" && !strings.Contains(want, "l.seq1") || name == "boolean mask" && !strings.Contains(want, "see no key") {
			t.Errorf("%s:\n%s", name, want)
		}
		if _, got, errs := sage(t, append([]string{"merge"}, shards(t, 2, args...)...)...); got != want {
			t.Errorf("%s: %q\n%s\nwant\n%s", name, errs, got, want)
		}
	}
}
