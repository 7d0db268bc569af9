package bench

import (
	"context"
	"testing"

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
