package compare

import (
	"path/filepath"
	"testing"

	"github.com/sageacc/sageacc/compare/sample"
	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/internal/sweep"
	"github.com/sageacc/sageacc/layerdumps"
)

// intervals are those of all figures against the reference.
func (e *estimates) intervals() []sample.Interval {
	var out []sample.Interval
	for _, x := range []*sample.Estimate{e.emulated, e.actual} {
		if x != nil {
			out = append(out, x.CosSim, x.RelL1, x.RMSE)
		}
	}
	return out
}

// TestCoverage: of 1,000 samples of every layer of the recorded dumps, those of the
// repository and those beside it where they are, the intervals hold the truth in 93% to
// 97%, for any number of tiles.
func TestCoverage(t *testing.T) {
	const trials = 1000
	for f, from := range []string{"../layerdumps/testdata/*.safetensors", "../../shared/dumps/*.safetensors"} {
		if f > 0 && !sweep.Full() {
			continue
		}
		files, err := filepath.Glob(from)
		if err != nil {
			t.Fatal(err)
		}
		holds, of := map[int]int{}, map[int]int{}
		least := 1.0
		for _, file := range files {
			d, err := layerdumps.Open([]string{file}, layerdumps.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			for _, name := range []string{"sage2-8b-sm90", "sage2-4b"} {
				p, err := program.Preset(name)
				if err != nil {
					t.Fatal(err)
				}
				k, err := emulate.New(p)
				if err != nil {
					t.Fatal(err)
				}
				opt := Options{Kernel: k, Jobs: 2, Sample: &Sample{Fraction: 1}}
				outlines, err := Outlines(d, opt)
				if err != nil {
					t.Fatal(err)
				}
				for i, o := range outlines {
					p, err := runWhole(t.Context(), d, i, o, opt, newProgress(opt, outlines, nil))
					if err != nil {
						t.Fatal(err)
					}
					truth := p.estimates(o).intervals()
					for _, n := range []int{2, 3, 4, 6} {
						if n >= o.perHead() {
							continue
						}
						hits := make([]int, len(truth))
						for seed := range uint64(trials) {
							x := *o
							x.choose(&Sample{Seed: seed}, n)
							for j, got := range p.estimates(&x).intervals() {
								if got.Low <= truth[j].Value && truth[j].Value <= got.High {
									hits[j]++
								}
							}
						}
						for _, h := range hits {
							holds[n] += h
							of[n] += trials
							least = min(least, float64(h)/trials)
						}
					}
				}
			}
		}
		for _, n := range []int{2, 3, 4, 6} {
			if of[n] == 0 {
				continue
			}
			c := float64(holds[n]) / float64(of[n])
			t.Logf("%s, %d tiles of each head: %.1f%% of %d intervals", from, n, 100*c, of[n])
			if c < 0.93 || c > 0.97 {
				t.Errorf("%s, %d tiles of each head: %.1f%% of the intervals hold", from, n, 100*c)
			}
		}
		t.Logf("%s: at least %.1f%% for every figure of every layer", from, 100*least)
		if least < 0.8 {
			t.Errorf("%s: a figure of a layer is in %.1f%% of its intervals", from, 100*least)
		}
	}
}
