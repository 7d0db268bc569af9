package notebooks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/notebooks/internal/ipynb"
	"github.com/sageacc/sageacc/notebooks/show"
)

// open returns the kept notebooks by file name.
func open(t *testing.T) map[string]*ipynb.Notebook {
	t.Helper()
	names, err := filepath.Glob("*.ipynb")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*ipynb.Notebook{}
	for _, name := range names {
		// Working copies that run.sh leaves for the reader are not kept.
		if strings.HasSuffix(name, ".local.ipynb") {
			continue
		}
		nb, err := ipynb.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = nb
	}
	if len(all) != 3 {
		t.Fatalf("%d notebooks, want 3", len(all))
	}
	return all
}

func TestKept(t *testing.T) {
	for name, nb := range open(t) {
		t.Run(name, func(t *testing.T) {
			if err := nb.Fault(); err != nil {
				t.Error(err)
			}
			if err := nb.Unformatted(); err != nil {
				t.Error(err)
			}
			nb.Clean()
			want, err := nb.Format()
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Error("the file is not as run.sh writes it: run notebooks/run.sh --update")
			}
			const most = 12
			outputs := 0
			for _, c := range nb.Cells {
				outputs += len(c.Outputs)
			}
			if outputs == 0 {
				t.Error("no cell has an output")
			}
			if n := len(nb.Cells); n > most {
				t.Errorf("%d cells, a short notebook has at most %d", n, most)
			}
		})
	}
}

// TestCells compiles, vets and runs the cells of every notebook, without Jupyter,
// and compares what they show with what is kept.
func TestCells(t *testing.T) {
	goTool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("no go command to compile the cells with")
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for name, nb := range open(t) {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			files, err := nb.Program(name)
			if err != nil {
				t.Fatal(err)
			}
			for file, src := range files {
				if err := os.WriteFile(filepath.Join(dir, file), src, 0o666); err != nil {
					t.Fatal(err)
				}
			}
			// The same workspace as the notebooks' first cell makes.
			for _, args := range [][]string{
				{"mod", "init", "cells"},
				{"work", "init", ".", here, filepath.Dir(here)},
				{"vet", "."},
				{"build", "-o", "program", "."},
			} {
				cmd := exec.CommandContext(t.Context(), goTool, args...)
				cmd.Dir = dir
				cmd.Env = append(os.Environ(), "GOWORK="+filepath.Join(dir, "go.work"), "PWD="+dir)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("go %s: %v\n%s", args[0], err, out)
				}
			}
			program := filepath.Join(dir, "program")
			for i, c := range nb.Cells {
				if c.CellType != "code" || len(c.Outputs) == 0 {
					continue
				}
				got, err := run(t.Context(), program, i+1, filepath.Join(dir, fmt.Sprintf("outputs-%d", i+1)))
				if err != nil {
					t.Errorf("cell %d: %v", i+1, err)
					continue
				}
				if err := ipynb.DifferentOutputs(c.Outputs, got); err != nil {
					t.Errorf("cell %d is not what is kept (notebooks/run.sh --update keeps it): %v", i+1, err)
				}
			}
		})
	}
}

// run runs one cell and returns what it shows: its text first, which is the order
// that a notebook's cells have to keep to.
func run(ctx context.Context, program string, cell int, outputs string) ([]ipynb.Output, error) {
	cmd := exec.CommandContext(ctx, program, fmt.Sprint(cell))
	cmd.Env = append(os.Environ(), show.OutputEnv+"="+outputs, dumpEnv+"=")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, stderr.Bytes())
	}
	var list []ipynb.Output
	if stdout.Len() > 0 {
		list = append(list, ipynb.Output{OutputType: "stream", Name: "stdout", Text: ipynb.Text(stdout.String())})
	}
	b, err := os.ReadFile(outputs)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	for dec.More() {
		o := ipynb.Output{OutputType: "display_data"}
		if err := dec.Decode(&o.Data); err != nil {
			return nil, err
		}
		list = append(list, o)
	}
	return list, nil
}

// dumpEnv names a dump that the notebook of the paper's tables takes instead of
// the samples.
const dumpEnv = "SAGEACC_DUMP"
