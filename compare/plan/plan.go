// Package plan estimates what a run over a dump takes on this machine, by computing a
// little of it.
package plan

import (
	"context"
	"runtime"
	"time"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/internal/ranges"
	"github.com/sageacc/sageacc/layerdumps"
)

// Estimate is what a run with one kernel takes.
type Estimate struct {
	Kernel string `json:"kernel"`
	// Layers, Chunks and Rows count what there is to do: chunks are runs of query rows.
	Layers int   `json:"layers"`
	Chunks int   `json:"chunks"`
	Rows   int64 `json:"query_rows"`
	// MultiplyAdds are those of all queries with keys, in Q K^T alone.
	MultiplyAdds float64 `json:"multiply_adds"`
	// Seconds is the time of the run with Jobs goroutines on this machine; Measured is
	// how long was measured.
	Seconds  float64 `json:"seconds"`
	Jobs     int     `json:"jobs"`
	Measured float64 `json:"measured_seconds"`
	// Memory is what the process took from the system meanwhile, in bytes.
	Memory uint64 `json:"memory_bytes"`
}

// class is what layers that take the same time for a query and a key have in common.
type class struct {
	headDim int
	dtype   string
	causal  bool
}

// Run estimates a run. Of each class of layers it measures the dearest, all of them
// together for about the budget. Options.Keep must be nil.
func Run(ctx context.Context, d *layerdumps.Dump, opt compare.Options, budget time.Duration) (*Estimate, error) {
	outlines, err := compare.Outlines(d, opt)
	if err != nil {
		return nil, err
	}
	out := &Estimate{Kernel: opt.Kernel.Program().Name, Layers: len(outlines), Jobs: max(1, opt.Jobs)}
	dearest := make(map[class]int)
	var classes []class
	for i, o := range outlines {
		out.Chunks += o.Chunks()
		out.Rows += int64(o.Shape.Batch) * int64(o.Shape.Heads) * int64(o.Shape.Queries)
		cost, _ := o.Costs(o.All())
		out.MultiplyAdds += cost
		c := class{o.Shape.HeadDim, o.Shape.DType, o.Causal}
		at, ok := dearest[c]
		if !ok {
			classes = append(classes, c)
		}
		if !ok || o.TotalCost() > outlines[at].TotalCost() {
			dearest[c] = i
		}
	}
	rates := make(map[class]rate)
	start := time.Now()
	for _, c := range classes {
		i := dearest[c]
		one := *d
		one.Layers = d.Layers[i : i+1]
		measure := func(chunks ranges.Set) (time.Duration, error) {
			start := time.Now()
			err := compare.RunChunks(ctx, &one, opt, []ranges.Set{chunks})
			return time.Since(start), err
		}
		if rates[c], err = measureRate(outlines[i], out.Jobs, budget/time.Duration(len(classes)), measure); err != nil {
			return nil, err
		}
	}
	for _, o := range outlines {
		out.Seconds += rates[class{o.Shape.HeadDim, o.Shape.DType, o.Causal}].seconds(o.Costs(o.All()))
	}
	out.Measured = time.Since(start).Seconds()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	out.Memory = m.Sys
	return out, nil
}

// rate is how long a unit of cost takes: of queries, and of preparing kv heads.
type rate struct{ queries, prepare float64 }

func (r rate) seconds(queries, prepare float64) float64 {
	return float64(r.queries*queries) + float64(r.prepare*prepare)
}

// measureRate measures chunks of a layer, more and more of them until they take half the
// budget. They are of few kv heads, all jobs at work, so that what preparing a kv head
// costs can be told from what its queries cost: by two measurements of as many kv heads.
func measureRate(o *compare.Outline, jobs int, budget time.Duration, measure func(ranges.Set) (time.Duration, error)) (rate, error) {
	all := o.Chunks()
	few := spread(o, 0, jobs)
	short, err := measure(few)
	if err != nil {
		return rate{}, err
	}
	for n := 4 * jobs; ; n *= 2 {
		many := spread(o, 1, n)
		if n >= all {
			many = o.All()
		}
		long, err := measure(many)
		if err != nil {
			return rate{}, err
		}
		if long < budget/2 && n < all {
			continue
		}
		return solve(o, few, short, many, long), nil
	}
}

// solve finds the rate that explains two measurements.
func solve(o *compare.Outline, few ranges.Set, short time.Duration, many ranges.Set, long time.Duration) rate {
	q1, p1 := o.Costs(few)
	q2, p2 := o.Costs(many)
	t1, t2 := short.Seconds(), long.Seconds()
	proportional := rate{t2 / (q2 + p2), t2 / (q2 + p2)}
	det := float64(q1*p2) - float64(q2*p1)
	if det == 0 {
		return proportional
	}
	r := rate{(float64(t1*p2) - float64(t2*p1)) / det, (float64(q1*t2) - float64(q2*t1)) / det}
	if r.queries <= 0 || r.prepare < 0 {
		return proportional
	}
	return r
}

// spread returns about n chunks of as few kv heads as hold them, evenly spread over each,
// from a kv head on.
func spread(o *compare.Outline, kv, n int) ranges.Set {
	perKV := o.PerKV()
	heads := o.Chunks() / perKV
	var out ranges.Set
	for i := 0; n > 0 && i < heads; i++ {
		at := (kv + i) % heads * perKV
		take := min(n, perKV)
		for j := range take {
			c := at + (2*j+1)*perKV/(2*take)
			out = out.Union(ranges.Of(c, c+1))
		}
		n -= take
	}
	return out
}
