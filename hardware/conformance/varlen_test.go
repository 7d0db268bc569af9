package conformance

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

// TestVarlenFaults: recordings of packed sequences that are none.
func TestVarlenFaults(t *testing.T) {
	zeros := func(name, dtype string, width int, shape ...int) safetensors.Tensor {
		for _, n := range shape {
			width *= n
		}
		return safetensors.Tensor{Name: name, DType: dtype, Shape: shape, Data: make([]byte, width)}
	}
	bounds := func(name string, at ...int32) safetensors.Tensor {
		var b []byte
		for _, x := range at {
			b = binary.LittleEndian.AppendUint32(b, uint32(x))
		}
		return safetensors.Tensor{Name: name, DType: "I32", Shape: []int{len(at)}, Data: b}
	}
	good := []safetensors.Tensor{
		zeros("q", "F16", 2, 5, 2, 16), zeros("k", "F16", 2, 7, 1, 16), zeros("v", "F16", 2, 7, 1, 16), zeros("o", "F16", 2, 5, 2, 16),
		bounds("cu_seqlens_q", 0, 2, 5), bounds("cu_seqlens_k", 0, 3, 7),
	}
	const line = `{"file":"a.safetensors","op":"attention","expect":"o","kernel":"sage-fp16-triton-varlen"}`
	for _, tc := range []struct {
		name, line, want string // want "" is a case that runs, "skip: ..." one that is skipped
		change           []safetensors.Tensor
	}{
		{name: "good", line: line},
		{name: "begin", line: line, change: []safetensors.Tensor{bounds("cu_seqlens_q", 1, 2, 5)}, want: `tensor "cu_seqlens_q": element 0 is 1: want bounds from 0 up to 5`},
		{name: "end", line: line, change: []safetensors.Tensor{bounds("cu_seqlens_k", 0, 3, 6)}, want: `tensor "cu_seqlens_k": element 2 is 6: want bounds from 0 up to 7`},
		{name: "fall", line: line, change: []safetensors.Tensor{bounds("cu_seqlens_q", 0, 4, 3, 5), bounds("cu_seqlens_k", 0, 1, 2, 7)}, want: `element 2 is 3`},
		{name: "below", line: line, change: []safetensors.Tensor{bounds("cu_seqlens_q", 0, -1, 5)}, want: `element 1 is -1`},
		{name: "one", line: line, change: []safetensors.Tensor{bounds("cu_seqlens_q", 0)}, want: `expected I32 or I64 [sequences + 1]`},
		{name: "dtype", line: line, change: []safetensors.Tensor{zeros("cu_seqlens_q", "F32", 4, 3)}, want: `tensor "cu_seqlens_q" is F32`},
		{name: "lengths", line: line, change: []safetensors.Tensor{bounds("cu_seqlens_q", 0, 5)}, want: `cu_seqlens_q and cu_seqlens_k have 2 and 3 elements`},
		{name: "no keys", line: line, change: []safetensors.Tensor{bounds("cu_seqlens_k", 0, 0, 7)}, want: `skip: no model of a sequence without keys`},
		{name: "four dimensions", line: line, change: []safetensors.Tensor{zeros("q", "F16", 2, 1, 5, 2, 16)}, want: `tensor "q" has shape [1 5 2 16]`},
		{name: "heads", line: line, change: []safetensors.Tensor{zeros("k", "F16", 2, 7, 4, 16), zeros("v", "F16", 2, 7, 4, 16)}, want: `2 query heads do not divide into 4 kv heads`},
		{name: "dtypes", line: line, change: []safetensors.Tensor{zeros("v", "BF16", 2, 7, 1, 16)}, want: `q, k and v have different dtypes`},
		{name: "output", line: line, change: []safetensors.Tensor{zeros("o", "BF16", 2, 5, 2, 16)}, want: `tensor "o" has dtype BF16, expected F16`},
		{name: "mask", line: strings.Replace(line, `"op"`, `"mask":"q","op"`, 1), want: "packed sequences with a mask"},
		{name: "kernel", line: strings.Replace(line, "-varlen", "", 1), want: "skip: kernel sage-fp16-triton takes no packed sequences (operands.packed: no)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ts := append([]safetensors.Tensor(nil), good...)
			for _, c := range tc.change {
				for i := range ts {
					if ts[i].Name == c.Name {
						ts[i] = c
					}
				}
			}
			dir := t.TempDir()
			if err := safetensors.Write(filepath.Join(dir, "a.safetensors"), nil, ts); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, casesFile), []byte(tc.line), 0o644); err != nil {
				t.Fatal(err)
			}
			cases, err := Load(dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			rep, err := Run(t.Context(), cases, 1, nil)
			switch skip, skipped := strings.CutPrefix(tc.want, "skip: "); {
			case skipped && (err != nil || rep.Skipped != 1 || !strings.Contains(rep.Cases[0].Reason, skip)):
				t.Errorf("%+v, %v; want it skipped: %s", rep, err, skip)
			case !skipped && tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("error %v, want %s", err, tc.want)
			case tc.want == "" && (err != nil || rep.Passed != 1 || rep.Cases[0].Elements != 160):
				t.Errorf("%+v, %v", rep, err)
			}
		})
	}
}
