// Package layout holds the tests of how the folders of this module depend on each other.
package layout

import (
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	root   = "../.."
	module = "github.com/sageacc/sageacc"
)

// imports returns, for every folder with Go files, what they import, tests aside;
// packages of this module without its path. Files of all systems and build tags count.
func imports(t *testing.T) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	err := filepath.WalkDir(root, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && name != root && (strings.HasPrefix(e.Name(), ".") || e.Name() == "testdata") {
			return fs.SkipDir
		}
		if e.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		folder, err := filepath.Rel(root, filepath.Dir(name))
		if err != nil {
			return err
		}
		folder = filepath.ToSlash(folder)
		all[folder] = append(all[folder], []string{}...)
		for _, i := range f.Imports {
			p, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			if p = strings.TrimPrefix(p, module+"/"); !slices.Contains(all[folder], p) {
				all[folder] = append(all[folder], p)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 30 {
		t.Fatalf("only %d folders with Go files were found", len(all))
	}
	return all
}

// circle returns a circle in a graph, nil if there is none.
func circle(graph map[string][]string) []string {
	const walking, done = 1, 2
	state := map[string]int{}
	var way []string
	var walk func(string) []string
	walk = func(n string) []string {
		switch state[n] {
		case done:
			return nil
		case walking:
			return append(slices.Clone(way[slices.Index(way, n):]), n)
		}
		state[n] = walking
		way = append(way, n)
		for _, m := range graph[n] {
			if c := walk(m); c != nil {
				return c
			}
		}
		way = way[:len(way)-1]
		state[n] = done
		return nil
	}
	for _, n := range slices.Sorted(maps.Keys(graph)) {
		if c := walk(n); c != nil {
			return c
		}
	}
	return nil
}

// TestNoCircles: packages, and the folders at the top, depend on each other in one
// direction.
func TestNoCircles(t *testing.T) {
	all := imports(t)
	top := map[string][]string{}
	for folder, list := range all {
		from, _, _ := strings.Cut(folder, "/")
		for _, p := range list {
			to, _, _ := strings.Cut(p, "/")
			if _, ours := all[p]; ours && to != from && !slices.Contains(top[from], to) {
				top[from] = append(top[from], to)
			}
		}
	}
	if len(top) < 6 {
		t.Fatalf("only %d folders depend on others: %v", len(top), top)
	}
	for what, graph := range map[string]map[string][]string{"packages": all, "folders": top} {
		if c := circle(graph); c != nil {
			t.Errorf("a circle of %s: %s", what, strings.Join(c, " -> "))
		}
	}
}

func TestCircle(t *testing.T) {
	if c := circle(map[string][]string{"a": {"b", "c"}, "b": {"d"}, "c": {"d"}}); c != nil {
		t.Errorf("%v is no circle", c)
	}
	if c := circle(map[string][]string{"a": {"b"}, "b": {"c"}, "c": {"d", "b"}}); !slices.Equal(c, []string{"b", "c", "b"}) {
		t.Errorf("the circle is %v", c)
	}
}

// bans says for what a row of CONTRIBUTING's table may be ignorant of which imports that
// rules out. A folder stands for itself, with /... for those below too; ! is an exception.
var bans = map[string][]string{
	"layers":                {"emulate/...", "layerdumps/...", "compare/...", "reference/...", "metrics", "kernels/...", "hardware/...", "cmd/..."},
	"tensors":               {"!internal/...", "!emulate/format", "emulate/...", "layerdumps/...", "compare/...", "reference/...", "metrics", "kernels/...", "hardware/...", "cmd/..."},
	"attention":             {"emulate", "emulate/program", "compare/...", "reference", "layerdumps", "cmd/..."},
	"kernels":               {"emulate", "emulate/program", "compare/...", "kernels/...", "hardware/...", "cmd/..."},
	"dumps":                 {"layerdumps/...", "compare/...", "kernels/...", "hardware/...", "cmd/sageacc"},
	"how it is run":         {"emulate", "layerdumps/...", "compare/...", "kernels/...", "hardware/...", "cmd/..."},
	"files":                 {"os", "io", "io/fs", "path/filepath", "layerdumps/...", "compare/...", "hardware/...", "cmd/..."},
	"quantisation":          {"emulate/...", "compare/...", "cmd/..."},
	"arithmetic":            {"gonum.org/v1/gonum/...", "internal/strictmath", "emulate/format", "emulate/mufu", "emulate/internal/..."},
	"arithmetic but dtypes": {"!emulate/format", "gonum.org/v1/gonum/...", "internal/strictmath", "emulate/...", "reference", "metrics", "compare/...", "hardware/...", "cmd/..."},
	"flags":                 {"flag", "github.com/spf13/...", "cmd/sageacc"},
	"flags and formats":     {"flag", "github.com/spf13/...", "cmd/...", "layerdumps/safetensors", "layerdumps/npy", "internal/datafile"},
	"GPUs":                  {"gorgonia.org/...", "kernels/launch", "hardware/..."},
	"how results are made":  {"layerdumps", "reference", "emulate/format", "emulate/mufu", "kernels/...", "cmd/sageacc"},
	"the command line":      {"cmd/sageacc", "github.com/spf13/..."},
	"all others":            {"!internal/...", "emulate/...", "layerdumps/...", "compare/...", "reference/...", "metrics/...", "kernels/...", "hardware/...", "cmd/..."},
}

func matches(pattern, p string) bool {
	if below, ok := strings.CutSuffix(pattern, "/..."); ok {
		return p == below || strings.HasPrefix(p, below+"/")
	}
	return p == pattern
}

// banned says whether what is not known rules an import out.
func banned(unknown, p string) bool {
	for _, b := range bans[unknown] {
		if except, ok := strings.CutPrefix(b, "!"); ok {
			if matches(except, p) {
				return false
			}
		} else if matches(b, p) {
			return true
		}
	}
	return false
}

// rows are the rows of CONTRIBUTING's table of folders: what each knows nothing of, by
// folder.
func rows(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "CONTRIBUTING.md"))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	name := regexp.MustCompile("`([a-z0-9_/]+)`")
	_, table, _ := strings.Cut(string(text), "| folder |")
	for line := range strings.SplitSeq(table, "\n") {
		cells := strings.Split(line, "|")
		if len(cells) != 5 {
			if len(all) > 0 {
				break
			}
			continue
		}
		for _, m := range name.FindAllStringSubmatch(cells[1], -1) {
			all[m[1]] = strings.TrimSpace(cells[3])
		}
	}
	if len(all) < 20 {
		t.Fatalf("CONTRIBUTING.md's table has %d rows", len(all))
	}
	return all
}

// TestFolders holds CONTRIBUTING's table to the folders that there are, and their imports
// to what it says that they know nothing of.
func TestFolders(t *testing.T) {
	all, table := imports(t), rows(t)
	for folder, unknown := range table {
		if info, err := os.Stat(filepath.Join(root, folder)); err != nil || !info.IsDir() {
			t.Errorf("the table has %s, which is no folder", folder)
		}
		if _, ok := bans[unknown]; !ok && unknown != "" {
			t.Errorf("%s knows nothing of %q: no imports are banned for that", folder, unknown)
		}
	}
	for folder, list := range all {
		// The row of a folder is its own, or that of the one above.
		row := folder
		for table[row] == "" && row != "." {
			if _, ok := table[row]; ok {
				break
			}
			row = path.Dir(row)
		}
		if row == "." {
			t.Errorf("the table has no row for %s", folder)
			continue
		}
		for _, p := range list {
			if banned(table[row], p) {
				t.Errorf("%s knows nothing of %s, and imports %s", folder, table[row], p)
			}
		}
	}
}

func TestBanned(t *testing.T) {
	for _, tc := range []struct {
		unknown, p string
		want       bool
	}{
		{"tensors", "layerdumps", true}, {"tensors", "emulate", true}, {"tensors", "math", false}, {"tensors", "internal/strictmath", false},
		{"attention", "emulate", true}, {"attention", "emulate/format", false}, {"flags", "github.com/spf13/cobra", true}, {"", "cmd/sageacc", false},
		{"quantisation", "emulate/quant", true}, {"files", "os", true},
	} {
		if got := banned(tc.unknown, tc.p); got != tc.want {
			t.Errorf("%q: %s is banned: %v", tc.unknown, tc.p, got)
		}
	}
}
