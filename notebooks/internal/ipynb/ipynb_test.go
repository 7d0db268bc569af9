package ipynb

import (
	"bytes"
	"go/parser"
	"go/token"
	"strings"
	"testing"
)

const small = `{
 "cells": [
  {"cell_type": "markdown", "id": "a", "metadata": {}, "source": ["# Title\n", "1 < 2"]},
  {"cell_type": "code", "execution_count": 1, "id": "b", "metadata": {"execution": {"iopub.status.busy": "now"}},
   "outputs": [
    {"name": "stdout", "output_type": "stream", "text": "one\n"},
    {"name": "stdout", "output_type": "stream", "text": ["two\n"]},
    {"data": {"text/markdown": "**bold**"}, "metadata": {}, "output_type": "display_data"}
   ],
   "source": "%noautoget\n!*go \\\n  version\nimport (\n\t\"fmt\"\n\tm \"math\"\n)\n\nfunc f() { fmt.Println(m.Pi) }\n\n%%\nf()"},
  {"cell_type": "code", "execution_count": 2, "id": "c", "metadata": {}, "outputs": [], "source": "import \"fmt\"\n\nfunc g() { fmt.Println() }"}
 ],
 "metadata": {"language_info": {"version": "go1.99"}},
 "nbformat": 4, "nbformat_minor": 5
}`

func parse(t *testing.T, s string) *Notebook {
	t.Helper()
	nb, err := Parse([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return nb
}

func TestParseErrors(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"empty":     {``, "not a notebook"},
		"no json":   {`cells`, "not a notebook"},
		"format 3":  {`{"nbformat": 3, "worksheets": []}`, "nbformat is 3"},
		"cell type": {`{"nbformat": 4, "cells": [{"cell_type": "prose"}]}`, `cell 1: unknown cell type "prose"`},
		"source":    {`{"nbformat": 4, "cells": [{"cell_type": "code", "source": 7}]}`, "neither a string nor a list"},
		"outputs":   {`{"nbformat": 4, "cells": [{"cell_type": "raw", "outputs": [{}]}]}`, "cell 1: a cell of type raw has outputs"},
		"trailing":  {`{"nbformat": 4} {}`, "more after the notebook"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse([]byte(c.in)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestClean(t *testing.T) {
	nb := parse(t, small)
	nb.Clean()
	b, err := nb.Format()
	if err != nil {
		t.Fatal(err)
	}
	s := string(b)
	for _, gone := range []string{"iopub", "go1.99", `\u003c`} {
		if strings.Contains(s, gone) {
			t.Errorf("%s is still there:\n%s", gone, s)
		}
	}
	for _, want := range []string{"\"1 < 2\"", "\"one\\n\",\n      \"two\\n\"", `"outputs": []`, `"metadata": {}`} {
		if !strings.Contains(s, want) {
			t.Errorf("%s is missing:\n%s", want, s)
		}
	}
	again, err := parse(t, s).Format()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, again) {
		t.Error("reading and writing changes the notebook")
	}
}

func TestFault(t *testing.T) {
	for name, c := range map[string]struct{ from, to, want string }{
		"none":         {"", "", ""},
		"error":        {`{"name": "stdout", "output_type": "stream", "text": "one\n"}`, `{"output_type": "error", "ename": "ERROR", "evalue": "exit status 1"}`, "cell 2: failed: ERROR: exit status 1"},
		"stderr":       {`"name": "stdout"`, `"name": "stderr"`, "cell 2: wrote to standard error"},
		"order":        {`"execution_count": 1`, `"execution_count": 3`, "cell 2: not the 1. that was run"},
		"not run":      {`"execution_count": 2`, `"execution_count": null`, "cell 3: not the 2. that was run"},
		"path":         {"**bold**", "in /usr/local/go", "cell 2: holds an absolute path: /usr/local/go"},
		"quoted path":  {"1 < 2", `\"/tmp/x\"`, "cell 1: holds an absolute path"},
		"Windows path": {"**bold**", `C:\\Users\\me`, `holds an absolute path: C:\Users\me`},
		"fraction":     {"**bold**", "a 1/2 b / c, </svg> and ../up", ""},
		"address":      {"**bold**", "https://example.org/a/b", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(small, c.from) {
				t.Fatal("nothing to replace")
			}
			err := parse(t, strings.Replace(small, c.from, c.to, 1)).Fault()
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestDifference(t *testing.T) {
	for name, c := range map[string]struct{ from, to, want string }{
		"none":     {"", "", ""},
		"metadata": {"go1.99", "go1.98", ""},
		"source":   {"# Title", "# Another", "cell 1: another source"},
		"text":     {"two", "2", `cell 2: output 1: line 2 is "2", kept was "two"`},
		"data":     {"**bold**", "plain", `cell 2: output 2, text/markdown: line 1 is "plain", kept was "**bold**"`},
		"longer":   {"**bold**", `**bold**\nmore`, "2 lines, kept were 1"},
		"MIME":     {"text/markdown", "text/html", "text/markdown"},
		"stream":   {`"name": "stdout", "output_type": "stream", "text": "one\n"`, `"name": "stderr", "output_type": "stream", "text": "one\n"`, "output 1 is stream stderr, not stream stdout"},
		"outputs":  {`"outputs": []`, `"outputs": [{"output_type": "stream", "name": "stdout", "text": "x"}]`, "cell 3: 1 outputs, not 0"},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(small, c.from) {
				t.Fatal("nothing to replace")
			}
			kept, now := parse(t, small), parse(t, strings.Replace(small, c.from, c.to, 1))
			kept.Clean()
			now.Clean()
			err := Difference(kept, now)
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	fewer := parse(t, small)
	fewer.Cells = fewer.Cells[:2]
	if err := Difference(parse(t, small), fewer); err == nil || err.Error() != "2 cells, not 3" {
		t.Errorf("a missing cell: got %v", err)
	}
}

func TestProgram(t *testing.T) {
	files, err := parse(t, small).Program("small.ipynb")
	if err != nil {
		t.Fatal(err)
	}
	cells, main := string(files["cells.go"]), string(files["main.go"])
	for _, want := range []string{"import (\n\"fmt\"\nm \"math\"\n)", "//line small.ipynb[cell 2]:1\n", "func f() {", "func cell2() {\n//line small.ipynb[cell 2]:12\nf()\n}", "func g() {"} {
		if !strings.Contains(cells, want) {
			t.Errorf("%q is missing:\n%s", want, cells)
		}
	}
	if strings.Count(cells, "import") != 1 || strings.Contains(cells, "version") || strings.Contains(cells, "noautoget") {
		t.Errorf("an import or a command is left in the cells:\n%s", cells)
	}
	if !strings.Contains(main, "case \"2\":\n\t\t\tcell2()\n") || strings.Contains(main, "cell3()") {
		t.Errorf("only cell 2 runs something:\n%s", main)
	}
	for name, src := range files {
		if _, err := parser.ParseFile(token.NewFileSet(), name, src, 0); err != nil {
			t.Error(err)
		}
	}
	if _, err := parse(t, strings.Replace(small, "func g() {", "func g( {", 1)).Program("small.ipynb"); err == nil || !strings.Contains(err.Error(), "small.ipynb[cell 3]:3") {
		t.Errorf("a cell that is no Go: got %v", err)
	}
}

func TestUnformatted(t *testing.T) {
	if err := parse(t, small).Unformatted(); err != nil {
		t.Error(err)
	}
	for from, to := range map[string]string{`\nf()"`: `\nf( )"`, "func g() {": "func g()  {"} {
		if err := parse(t, strings.Replace(small, from, to, 1)).Unformatted(); err == nil || !strings.Contains(err.Error(), "not gofmt-formatted") {
			t.Errorf("%s: got %v", to, err)
		}
	}
}

// FuzzNotebook holds that no input makes any function panic, and that what Format
// writes is read back as the same.
func FuzzNotebook(f *testing.F) {
	f.Add([]byte(small))
	f.Add([]byte(`{"nbformat": 4, "cells": [{"cell_type": "code", "source": "%%\n"}]}`))
	f.Add([]byte(`{"nbformat": 4, "cells": [{"cell_type": "code", "source": ["import \"a\"; import b \"c\""]}, {"cell_type": "raw"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		nb, err := Parse(b)
		if err != nil {
			return
		}
		nb.Clean()
		// Whether these find anything wrong is not the point.
		_ = nb.Fault()
		_ = nb.Unformatted()
		_, _ = nb.Program("fuzz.ipynb")
		once, err := nb.Format()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(once)
		if err != nil {
			t.Fatalf("%v\n%s", err, once)
		}
		if err := Difference(nb, again); err != nil {
			t.Errorf("%v\n%s", err, once)
		}
		twice, err := again.Format()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(once, twice) {
			t.Errorf("%s\nbecomes\n%s", once, twice)
		}
	})
}
