package conformance

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

// TestBlockMapFaults: a block map that is none of its case is one line, a kernel without block
// maps skips the case.
func TestBlockMapFaults(t *testing.T) {
	ones := func(name, dtype string, width int, shape ...int) safetensors.Tensor {
		for _, n := range shape {
			width *= n
		}
		return safetensors.Tensor{Name: name, DType: dtype, Shape: shape, Data: bytes.Repeat([]byte{1}, width)}
	}
	ts := []safetensors.Tensor{
		ones("q", "F16", 2, 1, 2, 70, 64), ones("k", "F16", 2, 1, 1, 200, 64), ones("v", "F16", 2, 1, 1, 200, 64), ones("o", "F16", 2, 1, 2, 70, 64),
		ones("good", "BOOL", 1, 1, 2, 2, 2), ones("bytes", "I8", 1, 1, 2, 2, 2), ones("wide", "BOOL", 1, 1, 2, 1, 4), ones("heads", "BOOL", 1, 1, 1, 2, 2),
	}
	dir := t.TempDir()
	if err := safetensors.Write(filepath.Join(dir, "a.safetensors"), nil, ts); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ blocks, kernel, want string }{
		{"good", "sparge-sm90", ""},
		{"bytes", "sparge-sm90", `tensor "bytes" has dtype I8, expected BOOL`},
		{"wide", "sparge-sm90", `tensor "wide" has 1x4 blocks, and kernel sparge-sm90 has 2x2 tiles`},
		{"heads", "sparge-sm90", `tensor "heads" has shape [1 1 2 2]`},
		{"none", "sparge-sm90", `"none"`},
		{"good", "sage2-8b-sm90", "skip: kernel sage2-8b-sm90 takes no block map (mask.block_map)"},
		{"good", "sage2-8b-sm89", "skip: kernel sage2-8b-sm89 takes no block map (mask.block_map)"},
	} {
		line := `{"file":"a.safetensors","op":"attention","expect":"o","kernel":"` + tc.kernel + `","block_map":"` + tc.blocks + `"}`
		if err := os.WriteFile(filepath.Join(dir, casesFile), []byte(line), 0o644); err != nil {
			t.Fatal(err)
		}
		cases, err := Load(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		rep, err := Run(t.Context(), cases, 1, nil)
		switch skip, skipped := strings.CutPrefix(tc.want, "skip: "); {
		case skipped && (err != nil || rep.Skipped != 1 || !strings.Contains(rep.Cases[0].Reason, skip)):
			t.Errorf("%s: %+v, %v; want it skipped: %s", tc.blocks, rep, err, skip)
		case !skipped && tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n")):
			t.Errorf("%s: error %v, want %s", tc.blocks, err, tc.want)
		case tc.want == "" && (err != nil || rep.Skipped != 0 || rep.Cases[0].Elements != 2*70*64):
			t.Errorf("%s: %+v, %v", tc.blocks, rep, err)
		}
	}
}
