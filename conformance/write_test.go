package conformance

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

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
