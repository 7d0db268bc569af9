package shard

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/internal/ranges"
)

func TestParse(t *testing.T) {
	slurm := func(id, count, first, last string) map[string]string {
		return map[string]string{"SLURM_ARRAY_TASK_ID": id, "SLURM_ARRAY_TASK_COUNT": count, "SLURM_ARRAY_TASK_MIN": first, "SLURM_ARRAY_TASK_MAX": last}
	}
	kubernetes := map[string]string{"JOB_COMPLETION_INDEX": "4"}
	for _, tc := range []struct {
		in   string
		env  map[string]string
		want string // or an error
	}{
		{"1/1", nil, "1/1"},
		{"3/8", nil, "3/8"},
		{"array", slurm("0", "8", "0", "7"), "1/8"},
		{"array", slurm("7", "8", "0", "7"), "8/8"},
		{"array/8", slurm("5", "1", "5", "5"), "6/8"}, // one task, again
		{"array/5", kubernetes, "5/5"},
		{"array", slurm("5", "1", "5", "5"), "the array's tasks are 5 to 5, not 0 to 0: say how many shards there are, as in array/8"},
		{"array", slurm("1", "8", "1", "8"), "the array's tasks are 1 to 8, not 0 to 7: say"},
		{"array", slurm("0", "2", "0", "4"), "the array's tasks are 0 to 4, not 0 to 1: say"},
		{"array/5", slurm("5", "5", "1", "5"), "SLURM_ARRAY_TASK_ID is 5, but the tasks of a job array of Slurm with 5 shards are 0 to 4"},
		{"array", slurm("x", "8", "0", "7"), `SLURM_ARRAY_TASK_ID is "x", which is no number`},
		{"array", map[string]string{"SLURM_ARRAY_TASK_ID": "0"}, `SLURM_ARRAY_TASK_COUNT is "", which is no number`},
		{"array", kubernetes, "an Indexed Job does not tell a task how many there are"},
		{"array/4", kubernetes, "JOB_COMPLETION_INDEX is 4, but the tasks of an Indexed Job of Kubernetes with 4 shards are 0 to 3"},
		{"array/x", kubernetes, `"x" is no number of shards`},
		{"array", nil, "neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX is set"},
		{"", nil, `"" is no shard`},
		{"3", nil, `"3" is no shard`},
		{"0/8", nil, `"0/8" is no shard`},
		{"9/8", nil, `"9/8" is no shard`},
		{"1/0", nil, `"1/0" is no shard`},
		{"1/8/2", nil, `"1/8/2" is no shard`},
	} {
		s, err := Parse(tc.in, func(name string) string { return tc.env[name] })
		got := s.String()
		if err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, tc.want) || err == nil && got != tc.want {
			t.Errorf("%q with %v: %q, want %q", tc.in, tc.env, got, tc.want)
		}
	}
}

// TestSplit: every chunk is in one shard, and shards cost the same but for a chunk.
func TestSplit(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		runs := make([][]*compare.Outline, 1+r.IntN(3))
		total, most := 0.0, 0.0
		for i := range runs {
			for j := range 1 + r.IntN(6) {
				queries := 1 + r.IntN(5000)
				o := &compare.Outline{
					Name:  fmt.Sprint(j),
					Shape: compare.Shape{Batch: 1 + r.IntN(2), Heads: 4, KVHeads: 1 << r.IntN(3), Queries: queries, Keys: 1 + r.IntN(5000), HeadDim: 64},
					End:   queries, ChunkRows: 256, Causal: r.IntN(2) == 0,
				}
				runs[i] = append(runs[i], o)
				sum := 0.0
				for c := range o.Chunks() {
					sum += o.Cost(c)
					most = max(most, o.Cost(c))
				}
				total += sum
				if x := o.TotalCost(); x < sum*0.999999 || x > sum*1.000001 {
					t.Fatalf("a layer costs %g, its chunks %g", x, sum)
				}
			}
		}
		n := 1 + r.IntN(12)
		done := make(map[[2]int]ranges.Set)
		for i := range n {
			cost := 0.0
			for run, layers := range (Shard{i + 1, n}).Split(runs) {
				for layer, chunks := range layers {
					at := [2]int{run, layer}
					if both := done[at].Intersect(chunks); both != nil {
						t.Fatalf("chunks %v are in two shards", both)
					}
					done[at] = done[at].Union(chunks)
					for _, r := range chunks {
						for c := r[0]; c < r[1]; c++ {
							cost += runs[run][layer].Cost(c)
						}
					}
				}
			}
			if d := cost - total/float64(n); d > most+total*1e-9 || -d > most+total*1e-9 {
				t.Errorf("shard %d/%d costs %g of %g; a chunk costs up to %g", i+1, n, cost, total, most)
			}
		}
		for run, layers := range runs {
			for layer, o := range layers {
				if missing := o.All().Minus(done[[2]int{run, layer}]); missing != nil {
					t.Fatalf("chunks %v are in no shard", missing)
				}
			}
		}
	}
}
