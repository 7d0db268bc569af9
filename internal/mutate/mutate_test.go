package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const sample = "testdata/sample"

// TestMutants: what is changed in a package, by name and as shown.
func TestMutants(t *testing.T) {
	list, err := Mutants([]string{sample}, 16)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, m := range list[0] {
		found[strings.TrimPrefix(m.Key(), sample+"/sample.go ")] = true
	}
	for _, want := range []string{
		`held: "grass": Green => "grass": Blue`,
		"loose: []Colour{Blue} => []Colour{Red}",
		"table: 1 => (1 + 1)", "table: 17 => (17 - 1)", "table: 33 => (33 + 1)",
		"Limit: x > 10 => x >= 10", "Limit: x > 10 => x > (10 + 1)", "Limit: return 10 => return (10 - 1)",
		"Half: x * 0.25 => x * (0.25 * (1 + 0x1p-20))", "Half: x * 0.25 * 2 => x * 0.25 * (2 + 1)",
	} {
		if !found[want] {
			t.Errorf("no change %q in %v", want, found)
		}
		delete(found, want)
	}
	for key := range found {
		if strings.HasPrefix(key, "table: 2 ") {
			t.Errorf("every number of a table changes: %q", key)
		}
	}
}

// TestRun: what a test holds is seen, what it does not survives, and the package is as it
// was.
func TestRun(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a package for each change")
	}
	var out strings.Builder
	opt := options{filter: "(held|loose|Limit|Half): .*(Colour|grass|> 10 =>|0.25 =>)", every: 16, jobs: 2, timeout: time.Minute}
	n, err := run(t.Context(), &out, []string{sample}, opt)
	if err != nil {
		t.Fatal(err)
	}
	// Green grass and the limit are held. The other colour is not, and nothing looks at
	// Half. Where 10 itself is cut, or 11 too, no test can tell.
	for _, want := range []string{
		"survives: testdata/sample/sample.go:16 loose: []Colour{Blue} => []Colour{Red}\n",
		" Half: x * 0.25 => x * (0.25 * (1 - 0x1p-20))\n", " Limit: x > 10 => x >= 10\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
	for _, not := range []string{"grass", "(10 + 1)"} {
		if strings.Contains(out.String(), not) {
			t.Errorf("%q survives:\n%s", not, out.String())
		}
	}
	if want := "testdata/sample: 7 changes, 0 do not compile, 2 seen by a test, 0 equivalent, 5 survive\n"; !strings.HasSuffix(out.String(), want) || n != 5 {
		t.Errorf("%d survive:\n%s want %s", n, out.String(), want)
	}
	// Again, those of them that are about Half.
	earlier := filepath.Join(t.TempDir(), "earlier")
	if err := os.WriteFile(earlier, []byte(out.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	out.Reset()
	n, err = run(t.Context(), &out, []string{sample}, options{filter: "Half", again: earlier, every: 16, jobs: 1, timeout: time.Minute})
	if err != nil || n != 2 || strings.Count(out.String(), "survives: ") != 2 {
		t.Errorf("again: %d survive, %v:\n%s", n, err, out.String())
	}
}

func TestErrors(t *testing.T) {
	for _, tc := range []struct {
		dirs []string
		opt  options
		want string
	}{
		{nil, options{every: 1, jobs: 1}, "name the folders"}, {[]string{sample}, options{every: 1}, "from 1 on"},
		{[]string{sample}, options{filter: "(", every: 1, jobs: 1}, "missing closing"},
		{[]string{sample}, options{again: "testdata/none", every: 1, jobs: 1}, "testdata/none"},
		{[]string{"testdata/none"}, options{every: 1, jobs: 1}, "testdata/none"},
	} {
		if _, err := run(t.Context(), &strings.Builder{}, tc.dirs, tc.opt); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v: %v, want %q", tc.dirs, err, tc.want)
		}
	}
}

// TestEquivalent: each change that is excused has a reason, and exists.
func TestEquivalent(t *testing.T) {
	for _, text := range []string{"a.go f: 1 => 2", "# same\nx\nx"} {
		if _, err := parseEquivalent(text); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
	m, err := parseEquivalent("# same\nx\n\ny\n# other\nz\n")
	if err != nil || m["x"] != "same" || m["y"] != "same" || m["z"] != "other" || len(m) != 3 {
		t.Errorf("%q, %v", m, err)
	}
	excused, err := parseEquivalent(equivalentText)
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir("../..")
	lists, err := Mutants([]string{"emulate/tensorcore", "emulate/format", "emulate/quant", "emulate/mufu"}, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range lists {
		for i := range list {
			delete(excused, list[i].Key())
		}
	}
	for key := range excused {
		t.Errorf("equivalent.txt excuses what is not there: %s", key)
	}
}
