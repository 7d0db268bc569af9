package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func notebook(output string) string {
	return `{"cells": [{"cell_type": "code", "execution_count": 1, "metadata": {"execution": {"at": "noon"}},
 "outputs": [` + output + `], "source": "%%\nf()"}], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}`
}

func stream(text string) string {
	return `{"output_type": "stream", "name": "stdout", "text": "` + text + `"}`
}

func TestKeep(t *testing.T) {
	const failed = `{"output_type": "error", "ename": "ERROR", "evalue": "exit status 1", "traceback": []}`
	for name, c := range map[string]struct {
		run       string
		update    bool
		different string
		err       string
		replaced  bool
	}{
		"same":              {run: stream("old")},
		"another":           {run: stream("new"), different: `"new", kept was "old"`},
		"update":            {run: stream("new"), update: true, replaced: true},
		"a failed cell":     {run: failed, update: true, err: "kept.ipynb: cell 1: failed: ERROR"},
		"an absolute path":  {run: stream("see /etc/passwd"), update: true, err: "absolute path"},
		"failed, no update": {run: failed, err: "kept.ipynb: cell 1: failed: ERROR"},
		"half a notebook":   {run: `{"output`, update: true, err: "run.ipynb: not a notebook"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			run, kept := filepath.Join(dir, "run.ipynb"), filepath.Join(dir, "kept.ipynb")
			for path, s := range map[string]string{run: notebook(c.run), kept: notebook(stream("old"))} {
				if err := os.WriteFile(path, []byte(s), 0o666); err != nil {
					t.Fatal(err)
				}
			}
			different, err := keep(run, kept, c.update)
			if (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("error %v, want %q", err, c.err)
			}
			if (different != nil) != (c.different != "") || different != nil && !strings.Contains(different.Error(), c.different) {
				t.Errorf("different: %v, want %q", different, c.different)
			}
			b, err := os.ReadFile(kept)
			if err != nil {
				t.Fatal(err)
			}
			if replaced := strings.Contains(string(b), "new") && !strings.Contains(string(b), "noon"); replaced != c.replaced {
				t.Errorf("replaced: %v, want %v\n%s", replaced, c.replaced, b)
			}
			left, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			if len(left) != 2 {
				t.Errorf("%d files are left, want 2", len(left))
			}
		})
	}
}
