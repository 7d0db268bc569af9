package main

import (
	"bytes"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

// dumpFolder makes a dump of files of every part that a file can have: of layers,
// of no layer, log-sum-exps, and outputs that --actual replaces.
func dumpFolder(t *testing.T) (dir, actual string) {
	t.Helper()
	dir = t.TempDir()
	add := func(name string, ts ...safetensors.Tensor) {
		if err := safetensors.Write(filepath.Join(dir, name), nil, ts); err != nil {
			t.Fatal(err)
		}
	}
	lse := safetensors.Tensor{Name: "l0.lse", DType: "F32", Shape: []int{1, 1, 8}, Data: make([]byte, 32)}
	for _, l := range []string{"l0", "l1"} {
		for _, role := range []string{"q", "k", "v", "o"} {
			add(l+"."+role+".safetensors", tensor(l+"."+role, 1, 1, 8, 16))
		}
	}
	add("lse.safetensors", lse)
	add("ignored.safetensors", tensor("weights", 4, 4))
	add("empty.safetensors")
	actual = filepath.Join(t.TempDir(), "actual.safetensors")
	if err := safetensors.Write(actual, nil, []safetensors.Tensor{tensor("l0.o", 1, 1, 8, 16), tensor("other", 2)}); err != nil {
		t.Fatal(err)
	}
	return dir, actual
}

// withoutNotes are the messages that are not notes.
func withoutNotes(errs string) string {
	lines := slices.DeleteFunc(strings.SplitAfter(errs, "\n"), func(l string) bool { return strings.HasPrefix(l, "sageacc: note: ") })
	return strings.Join(lines, "")
}

// contents reads all files of a folder.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = string(b)
	}
	return all
}

// TestOutputIsNoInput: no command writes in the place of a file that it reads,
// whatever the file is to it and by whichever name it is given.
func TestOutputIsNoInput(t *testing.T) {
	dir, actual := dumpFolder(t)
	before := contents(t, dir)
	links := t.TempDir()
	commands := [][]string{
		{"compare", dir, "--layers", "l0"},
		{"compare", dir, "--layers", "l0", "--actual", actual},
		{"compare", dir, "--layers", "l0", "--lse", "--format", "json"},
		{"table", "smooth-v", dir, "--layers", "l0"},
		{"recommend", dir, "--layers", "l0", "--require", "cos>0"},
		{"trace", dir, "--layer", "l0"},
	}
	targets := []string{actual}
	for name := range before {
		targets = append(targets, filepath.Join(dir, name))
	}
	for _, args := range commands {
		for _, target := range targets {
			if target == actual && !strings.Contains(strings.Join(args, " "), actual) {
				continue
			}
			name := filepath.Base(target)
			soft, hard, twice := filepath.Join(links, "soft."+name), filepath.Join(links, "hard."+name), filepath.Join(links, "twice."+name)
			os.Symlink(target, soft)
			os.Link(target, hard)
			os.Symlink(soft, twice)
			dots := filepath.Join(filepath.Dir(target), "..", filepath.Base(filepath.Dir(target)), name)
			for _, out := range []string{target, soft, hard, twice, dots} {
				code, stdout, errs := sage(t, append(args, "-o", out)...)
				if code != exitCannotRun || stdout != "" || !strings.Contains(errs, out+": it is one of the inputs") || strings.Count(errs, "\n") != 1 {
					t.Errorf("%v -o %s: exit %d, %q", args, out, code, errs)
				}
			}
		}
		// A file beside them is written; what belongs to no layer is told.
		out := filepath.Join(links, "result")
		if code, _, errs := sage(t, append(args, "-o", out)...); code != exitOK || !strings.HasPrefix(errs, "sageacc: note: 1 tensor belongs to no layer: weights (") || strings.Count(errs, "\n") != 1 {
			t.Errorf("%v -o %s: exit %d, %q", args, out, code, errs)
		}
	}
	after := contents(t, dir)
	for name := range before {
		if before[name] != after[name] {
			t.Errorf("%s was changed", name)
		}
	}
	if len(after) != len(before) {
		t.Errorf("the folder has %d files, had %d", len(after), len(before))
	}
}

// TestOutputIsNoNamedFile: nor does a command write over any other file that its
// command line names, by -o or what else it writes.
func TestOutputIsNoNamedFile(t *testing.T) {
	dir := t.TempDir()
	kernel, result := filepath.Join(dir, "mine.yaml"), filepath.Join(dir, "result.json")
	if code, _, errs := sage(t, "kernels", "show", "sage2-4b", "-o", kernel); code != exitOK {
		t.Fatal(errs)
	}
	if code, _, errs := sage(t, "compare", sample, "--format", "json", "-o", result); code != exitOK {
		t.Fatal(errs)
	}
	before := contents(t, dir)
	for _, args := range [][]string{
		{"compare", sample, "--kernel", kernel, "-o", kernel},
		{"compare", sample, "--kernel", "sage2-4b," + kernel, "-o", kernel},
		{"compare", sample, "--kernel", kernel, "--junit", kernel},
		{"compare", sample, "--kernel", kernel, "--summary", kernel},
		{"trace", sample, "--layer", "layers.0.attn", "--kernel", kernel, "-o", kernel},
		{"recommend", sample, "--require", "cos>0", "--kernels", "sage2-4b," + kernel, "-o", kernel},
		{"kernels", "show", kernel, "-o", kernel},
		{"diff", result, result, "--junit", result},
		{"diff", result, result, "--summary", result},
		{"report", result, "-o", result},
	} {
		code, stdout, errs := sage(t, args...)
		if code != exitCannotRun || stdout != "" || !strings.Contains(errs, args[len(args)-1]+": it is one of the inputs") {
			t.Errorf("%v: exit %d, %q", args, code, errs)
		}
	}
	if after := contents(t, dir); !maps.Equal(before, after) {
		t.Error("a file was changed")
	}
}

// TestOutputBecomesInput: what a link leads to is looked at again when the result
// is complete.
func TestOutputBecomesInput(t *testing.T) {
	dir := t.TempDir()
	in, link := filepath.Join(dir, "in"), filepath.Join(dir, "link")
	if err := os.WriteFile(in, []byte("input"), 0o644); err != nil {
		t.Fatal(err)
	}
	var e env
	w, err := e.open(link, []string{in})
	if err != nil {
		t.Fatal(err)
	}
	defer w.abort()
	io.WriteString(w, "result")
	if err := os.Symlink(in, link); err != nil {
		t.Skip(err)
	}
	if err := w.commit(); err == nil || !strings.Contains(err.Error(), "one of the inputs") {
		t.Errorf("commit: %v", err)
	}
	if b, err := os.ReadFile(in); err != nil || !bytes.Equal(b, []byte("input")) {
		t.Errorf("the input holds %q, %v", b, err)
	}
}
