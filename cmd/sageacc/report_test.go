package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/compare/tables"
	"github.com/sageacc/sageacc/internal/version"
)

func TestReport(t *testing.T) {
	dump := write(t, nil, layer(1, 2, 20, 8)...)
	dir := t.TempDir()
	result, page := filepath.Join(dir, "r.json"), filepath.Join(dir, "r.html")
	if code, _, errs := sage(t, "compare", dump, "--per-head", "--format", "json", "-o", result); code != exitOK {
		t.Fatalf("exit %d, %s", code, errs)
	}
	code, out, errs := sage(t, "report", result, "-o", page)
	if code != exitOK || out != "" || errs != "" {
		t.Fatalf("exit %d, stdout %q, stderr %q", code, out, errs)
	}
	html, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(html, []byte("<!doctype html>")) || !bytes.Contains(html, []byte("sageacc compare "+dump+" --per-head")) {
		t.Errorf("the page begins %.100s, and may not say how to repeat it", html)
	}
	over := filepath.Join(dir, "over.html")
	if code, out, errs := sage(t, "report", result, result, "-o", over); code != exitOK || out != "" || errs != "" {
		t.Fatalf("exit %d, stdout %q, stderr %q", code, out, errs)
	}
	if html, err := os.ReadFile(over); err != nil || !bytes.Contains(html, []byte("2 results over each other")) {
		t.Errorf("a page of two results begins %.100s, %v", html, err)
	}
	if code, out, _ := sage(t, "report", result, "-o", "-"); code != exitOK || out != string(html) {
		t.Errorf("exit %d, the page on standard output differs", code)
	}
	if code, out, _ := sage(t, "table", "smooth-v", dump, "--paper", "--format", "json", "-o", result); code != exitOK || out != "" {
		t.Fatalf("exit %d", code)
	}
	if code, _, errs := sage(t, "report", result, "-o", page); code != exitOK {
		t.Errorf("exit %d, %s", code, errs)
	}
}

// TestReportBadInput: one line, status 2, and a page that was there stays.
func TestReportBadInput(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	page := file("page.html", "as it was")
	bad := file("bad\n.json", "{")
	good := file("first.json", `{"schema":"sageacc/compare/v1","layers":[{"emulated_vs_reference":{}}]}`)
	tab := file("table.json", `{"schema":"sageacc/table/v1","tables":[{"rows":[{}]}]}`)
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"report"}, "no result given"},
		{[]string{"report", good, good, good, good, good, good, good, good, good, "-o", page}, "9 results: at most 8"},
		{[]string{"report", good, tab, "-o", page}, "table.json: only results of compare can be laid over each other"},
		{[]string{"report", good, filepath.Join(dir, "nowhere.json"), "-o", page}, "nowhere.json"},
		{[]string{"report", bad}, "-o FILE.html"},
		{[]string{"report", filepath.Join(dir, "nowhere.json"), "-o", page}, "nowhere.json"},
		{[]string{"report", dir, "-o", page}, dir},
		{[]string{"report", bad, "-o", page}, "not a result"},
		{[]string{"report", file("x.json", `{"schema":"sageacc/conform/v1"}`), "-o", page}, `x.json: schema is "sageacc/conform/v1"`},
		{[]string{"report", file("none.json", `{"schema":"sageacc/compare/v1","layers":[]}`), "-o", page}, "none.json: the result has no layers"},
		{[]string{"report", file("l.json", `{"schema":"sageacc/compare/v1","layers":[{"name":"a\u001bb"}]}`), "-o", page}, "has no figures"},
		{[]string{"report", file("good.json", `{"schema":"sageacc/compare/v1","layers":[{"emulated_vs_reference":{}}]}`), "-o", filepath.Join(dir, "no", "page.html")}, "cannot write"},
		{[]string{"report", filepath.Join(dir, "good.json"), "-o", filepath.Join(dir, "good.json")}, "one of the inputs"},
	} {
		code, out, errs := sage(t, tc.args...)
		if code != exitCannotRun || out != "" || strings.Count(errs, "\n") != 1 || !strings.Contains(errs, tc.want) || strings.Contains(errs, "\x1b") {
			t.Errorf("%q: exit %d, stdout %q, stderr %q", tc.args, code, out, errs)
		}
	}
	if b, err := os.ReadFile(page); err != nil || string(b) != "as it was" {
		t.Errorf("the page is %q, %v", b, err)
	}
}

// TestArgs: a result has the command that gives it again, less what does not bear on
// it.
func TestArgs(t *testing.T) {
	dump := write(t, nil, layer(1, 2, 20, 8)...)
	o := write(t, nil, tensor("l.o", 1, 2, 20, 8))
	for _, tc := range []struct{ args, want []string }{
		{[]string{"--jobs", "1"}, nil},
		{[]string{"--jobs", "2", "--fail-if", "cos<0", "--per-head", "--junit", os.DevNull, "--causal=false", "--smooth", "none", "--actual", o, "--sm-scale", "0.5"},
			[]string{"--actual", o, "--causal=false", "--fail-if", "cos<0", "--per-head", "--sm-scale", "0.5", "--smooth", "none"}},
	} {
		code, out, errs := sage(t, append([]string{"compare", dump, "--format", "json"}, tc.args...)...)
		if code != exitOK {
			t.Fatalf("exit %d, %s", code, errs)
		}
		var r compare.Result
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatal(err)
		}
		if want := append([]string{"sageacc", "compare", dump}, tc.want...); !slices.Equal(r.Args, want) {
			t.Errorf("args %q, want %q", r.Args, want)
		}
		if r.Tool == nil || *r.Tool != version.Get() {
			t.Errorf("the result is of %v, want %v", r.Tool, version.Get())
		}
		code, again, errs := sage(t, append(slices.Clone(r.Args[1:]), "--format", "json")...)
		if code != exitOK || again != out {
			t.Errorf("%q gives another result; exit %d, %s", r.Args, code, errs)
		}
	}
	code, out, errs := sage(t, "table", "smooth-v", dump, "--paper", "--format", "json")
	var r tables.Result
	if err := json.Unmarshal([]byte(out), &r); code != exitOK || err != nil {
		t.Fatalf("exit %d, %s, %v", code, errs, err)
	}
	if want := []string{"sageacc", "table", "smooth-v", dump}; !slices.Equal(r.Args, want) {
		t.Errorf("args %q, want %q", r.Args, want)
	}
	if r.Tool == nil || *r.Tool != version.Get() {
		t.Errorf("the result is of %v, want %v", r.Tool, version.Get())
	}
}

// TestCommandLineDash: a file whose name begins with a dash stays a file.
func TestCommandLineDash(t *testing.T) {
	t.Chdir(t.TempDir())
	from := write(t, nil, layer(1, 1, 20, 8)...)
	if err := os.Rename(from, "-dump.safetensors"); err != nil {
		t.Fatal(err)
	}
	code, out, errs := sage(t, "compare", "--format", "json", "--", "-dump.safetensors")
	if code != exitOK || !strings.Contains(out, `"./-dump.safetensors"`) {
		t.Errorf("exit %d, %s%s", code, out, errs)
	}
}
