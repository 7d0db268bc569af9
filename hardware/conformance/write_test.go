package conformance

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

// A set is written to a new or an empty folder, and to nothing else.
func TestCreate(t *testing.T) {
	tmp := t.TempDir()
	file := func(name string) string {
		path := filepath.Join(tmp, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o666); err != nil {
			t.Fatal(err)
		}
		return path
	}
	empty := filepath.Join(tmp, "empty")
	if err := os.Mkdir(empty, 0o777); err != nil {
		t.Fatal(err)
	}
	plain := file("plain")
	for _, tc := range []struct{ dir, want string }{
		{empty, ""},
		{filepath.Join(tmp, "new", "new"), ""},
		{plain, "is a file"},
		{filepath.Join(plain, "under"), "not a directory"},
		{filepath.Dir(file("set/cases.jsonl")), "is not empty"},
		{filepath.Dir(file("half/a.safetensors")), "is not empty"},
		{filepath.Dir(file("hidden/.x")), "is not empty"},
	} {
		_, err := Create(tc.dir)
		if tc.want == "" {
			if st, e := os.Stat(tc.dir); err != nil || e != nil || !st.IsDir() {
				t.Errorf("%s: %v, %v", tc.dir, err, e)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), tc.dir) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error %v, want one line with %q", tc.dir, err, tc.want)
		}
	}
}

// A file of a set is not written twice: the first would be lost, and its cases
// checked against the second.
func TestAddRefusesAWrittenName(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "set")
	w, err := Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	add := func(name string, x byte) error {
		ts := []safetensors.Tensor{{Name: "x", DType: "I8", Shape: []int{1}, Data: []byte{x}}}
		return w.Add(name, nil, ts, Case{Op: "unary"})
	}
	if err := add("a.safetensors", 1); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(filepath.Join(dir, "a.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a.safetensors", "A.safetensors"} {
		if !w.Has(name) || w.Has("b.safetensors") {
			t.Errorf("Has(%s) = %t", name, w.Has(name))
		}
		if err := add(name, 2); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s a second time: %v", name, err)
		}
	}
	again, err := os.ReadFile(filepath.Join(dir, "a.safetensors"))
	if err != nil || string(again) != string(first) {
		t.Errorf("the first file changed (%v)", err)
	}
	if err := add("b.safetensors", 3); err != nil {
		t.Error(err)
	}
}
