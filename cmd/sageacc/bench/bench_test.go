package bench

import (
	"context"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/layerdumps"
)

func TestRun(t *testing.T) {
	seen := 0
	got, err := Run(t.Context(), Options{Tokens: 130, HeadDim: 64, Jobs: 2}, func(Row) { seen++ })
	if err != nil {
		t.Fatal(err)
	}
	if want := len(program.Presets()) + 2; len(got) != want || seen != want {
		t.Fatalf("%d rows, %d reported, want %d", len(got), seen, want)
	}
	for _, r := range got {
		if r.Runs < 1 || r.Seconds <= 0 || r.GMACs <= 0 {
			t.Errorf("row %+v", r)
		}
	}
}

// TestRunCausal: kernels without a causal mask are left out of causal calls.
func TestRunCausal(t *testing.T) {
	got, err := Run(t.Context(), Options{Tokens: 64, HeadDim: 64, Jobs: 2, Causal: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	without := 0
	for _, p := range program.Presets() {
		if p.Mask.Causal == "none" {
			without++
		}
	}
	for _, r := range got {
		if r.Name == "comfy-int8" || r.Name == "sparge-sm90" {
			t.Errorf("%s takes no causal mask", r.Name)
		}
	}
	if want := len(program.Presets()) + 2 - without; len(got) != want || without < 2 {
		t.Errorf("%d rows, want %d", len(got), want)
	}
}

func TestRunCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, Options{Tokens: 64, HeadDim: 32, Jobs: 1}, nil); err == nil {
		t.Fatal("no error")
	}
}

// TestEmulate: each head of a layer is that head, for every number of goroutines.
func TestEmulate(t *testing.T) {
	const tokens, dim, heads = 600, 32, 3
	h := NewHead(tokens, dim, false)
	p, err := program.Preset("sage2-8b-sm90")
	if err != nil {
		t.Fatal(err)
	}
	k, err := emulate.New(p)
	if err == nil {
		k, err = k.ForCase(format.FP16, program.Case{HeadDim: dim, Keys: tokens})
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := NewHead(tokens, 2*p.Operands.MaxHeadDim, false).Emulate(t.Context(), k, heads, 2); err == nil {
		t.Error("no error from preparing")
	}
	kv, err := k.Prepare(emulate.KVInput{K: rows(h.K, dim), V: rows(h.V, dim), Len: tokens, Dim: dim, DType: format.FP16})
	if err != nil {
		t.Fatal(err)
	}
	var ws emulate.Workspace
	want := make([]float32, tokens*dim)
	q := k.Query(emulate.QInput{Q: rows(h.Q, dim), Len: tokens, Scale: 1 / math.Sqrt(dim)}, kv, &ws)
	if _, err := k.RunBlocks(t.Context(), q, &ws, 0, k.Blocks(tokens), want, nil); err != nil {
		t.Fatal(err)
	}
	for _, jobs := range []int{1, 2, 7} {
		var mu sync.Mutex
		var got [heads][]float32
		for i := range got {
			got[i] = make([]float32, tokens*dim)
		}
		err := h.emulate(t.Context(), k, heads, jobs, func(head, row int, out []float32) {
			mu.Lock()
			defer mu.Unlock()
			copy(got[head][row*dim:], out)
		})
		if err != nil {
			t.Fatal(err)
		}
		for i := range got {
			if !slices.Equal(got[i], want) {
				t.Errorf("%d goroutines: head %d differs", jobs, i)
			}
		}
	}
}

// TestMeasure: the time is that of one head.
func TestMeasure(t *testing.T) {
	const heads = 4
	r := Row{Tokens: 1, HeadDim: 1}
	start := time.Now()
	if err := measure(t.Context(), &r, heads, 0, func() error { time.Sleep(time.Millisecond); return nil }); err != nil {
		t.Fatal(err)
	}
	// It ran twice, once to warm up.
	if most := time.Since(start).Seconds() / heads; r.Runs != 1 || r.Seconds <= 0 || r.Seconds > most {
		t.Errorf("%d runs, %v s: at most %v", r.Runs, r.Seconds, most)
	}
}

// BenchmarkLoad decodes every tensor of a dump that is in the page cache.
func BenchmarkLoad(b *testing.B) {
	d, err := layerdumps.Open([]string{"../../../layerdumps/testdata/byte-lm-sample.safetensors"}, layerdumps.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	var dst []float32
	n := 0
	for b.Loop() {
		n = 0
		for i := range d.Layers {
			l := &d.Layers[i]
			for _, t := range []*layerdumps.Tensor{&l.Q, &l.K, &l.V} {
				if len(dst) < t.Tokens*t.Dim {
					dst = make([]float32, t.Tokens*t.Dim)
				}
				for batch := range t.Batch {
					for head := range t.Heads {
						t.Rows(batch, head, 0, t.Tokens, dst)
						n += t.Tokens * t.Dim
					}
				}
			}
		}
	}
	b.ReportMetric(float64(b.N)*float64(n)/b.Elapsed().Seconds()/1e6, "Melem/s")
}
