package compare_test

import (
	"path/filepath"
	"runtime"
	"testing"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

// TestManyHeads: what a layer takes in memory does not grow with its heads.
func TestManyHeads(t *testing.T) {
	const batch, heads, dim = 50, 100, 8
	var ts []safetensors.Tensor
	for _, role := range []string{"q", "k", "v", "o"} {
		data := make([]byte, 2*batch*heads*dim)
		for i := range data {
			data[i] = byte(i * 7 & 0x3f)
		}
		ts = append(ts, safetensors.Tensor{Name: "l." + role, DType: "F16", Shape: []int{batch, heads, 1, dim}, Data: data})
	}
	path := filepath.Join(t.TempDir(), "many.safetensors")
	if err := safetensors.Write(path, nil, ts); err != nil {
		t.Fatal(err)
	}
	d, err := layerdumps.Open([]string{path}, layerdumps.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	p, err := program.Preset("sage2-8b-sm90")
	if err != nil {
		t.Fatal(err)
	}
	k, err := emulate.New(p)
	if err != nil {
		t.Fatal(err)
	}
	live := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	var early, late uint64
	_, err = compare.Run(t.Context(), d, compare.Options{Kernel: k, Jobs: 2, Progress: func(part float64) {
		switch {
		case early == 0 && part > 0.1:
			early = live()
		case late == 0 && part > 0.9:
			late = live()
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	// 4,000 heads lie between the two. A head's figures alone are some 4 KB.
	if grown := int64(late) - int64(early); early == 0 || late == 0 || grown > 4000*400 {
		t.Errorf("%d bytes more are in use after 90%% of the heads than after 10%%, %d and %d", grown, late, early)
	}
}
