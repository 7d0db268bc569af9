package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestMan: there is a page of every command, and it has every word of the help.
func TestMan(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1767225600")
	dir := filepath.Join(t.TempDir(), "share", "man1")
	if code, out, errs := sage(t, "man", dir); code != exitOK || out != "" || errs != "" {
		t.Fatalf("exit %d, %q, %q", code, out, errs)
	}
	pages := map[string]string{}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		pages[filepath.Base(f)] = string(b)
	}
	// What roff writes in another way.
	plain := strings.NewReplacer(`\&`, "", `\-`, "-", `\(cq`, "'", `\(aq`, "'", `\\`, `\`, `\fB`, "", `\fP`, "", `\fR`, "")
	n := 0
	var look func(c *cobra.Command)
	look = func(c *cobra.Command) {
		name := strings.ReplaceAll(c.CommandPath(), " ", "-") + ".1"
		page, ok := pages[name]
		if !ok {
			t.Errorf("%s is missing", name)
			return
		}
		n++
		have := plain.Replace(page)
		for _, w := range strings.Fields(c.Long + " " + c.Short + " " + c.Example) {
			if !strings.Contains(have, w) {
				t.Errorf("%s does not have %q", name, w)
			}
		}
		if !strings.Contains(page, `"Jan 2026"`) {
			t.Errorf("%s has another date: %.100s", name, page)
		}
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() {
				look(sub)
			}
		}
	}
	look(newRoot(&env{stdout: io.Discard, stderr: io.Discard}))
	if n != len(pages) || n < 15 {
		t.Errorf("%d pages of %d commands", len(pages), n)
	}
	file := filepath.Join(dir, "sageacc.1")
	for _, args := range [][]string{{"man"}, {"man", "a", "b"}, {"man", file}, {"man", filepath.Join(file, "x")}} {
		if code, _, errs := sage(t, args...); code != exitCannotRun || strings.Count(errs, "\n") != 1 {
			t.Errorf("%q: exit %d, %q", args, code, errs)
		}
	}
}
