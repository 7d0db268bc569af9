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

// Run estimates a run. Of each class of layers it measures the dearest, or several where
// they are small, all classes together for about the budget. Options.Keep must be nil.
func Run(ctx context.Context, d *layerdumps.Dump, opt compare.Options, budget time.Duration) (*Estimate, error) {
	outlines, err := compare.Outlines(d, opt)
	if err != nil {
		return nil, err
	}
	out := &Estimate{Kernel: opt.Kernel.Program().Name, Layers: len(outlines), Jobs: max(1, opt.Jobs)}
	members := make(map[class][]int) // the layers of each
	var classes []class
	for i, o := range outlines {
		out.Chunks += o.Chunks()
		out.Rows += int64(o.Shape.Batch) * int64(o.Shape.Heads) * int64(o.Shape.Queries)
		cost, _ := o.Costs(o.All())
		out.MultiplyAdds += cost
		c := class{o.Shape.HeadDim, o.Shape.DType, o.Causal}
		if members[c] == nil {
			classes = append(classes, c)
		}
		members[c] = append(members[c], i)
	}
	start := time.Now()
	for _, c := range classes {
		var of []*compare.Outline
		for _, i := range members[c] {
			of = append(of, outlines[i])
		}
		measure := func(which []int, chunks []ranges.Set) (time.Duration, error) {
			some := *d
			some.Layers = nil
			for _, i := range which {
				some.Layers = append(some.Layers, d.Layers[members[c][i]])
			}
			start := time.Now()
			err := compare.RunChunks(ctx, &some, opt, chunks)
			return time.Since(start), err
		}
		r, err := measureClass(of, out.Jobs, budget/time.Duration(len(classes)), measure)
		if err != nil {
			return nil, err
		}
		for _, o := range of {
			out.Seconds += r.seconds(o.Costs(o.All()))
		}
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

// measureFunc computes chunks of some layers of a class and returns the time.
type measureFunc func(which []int, chunks []ranges.Set) (time.Duration, error)

// measureClass measures the dearest layer of a class; and where all of that takes little
// of the budget as many layers as take half of it, spread over the dump: what small ones
// cost is not in their queries and keys alone.
func measureClass(of []*compare.Outline, jobs int, budget time.Duration, measure measureFunc) (rate, error) {
	at := 0
	for i, o := range of {
		if o.TotalCost() > of[at].TotalCost() {
			at = i
		}
	}
	r, whole, err := measureRate(of[at], jobs, budget, func(chunks ranges.Set) (time.Duration, error) {
		return measure([]int{at}, []ranges.Set{chunks})
	})
	if err != nil || whole == 0 || whole > budget/4 || len(of) == 1 {
		return r, err
	}
	n := int(min(int64(len(of)), int64(budget/2/whole)))
	for {
		which := make([]int, n)
		chunks := make([]ranges.Set, n)
		var queries, prepare float64
		for i := range n {
			which[i] = (2*i + 1) * len(of) / (2 * n)
			o := of[which[i]]
			chunks[i] = o.All()
			q, p := o.Costs(chunks[i])
			queries, prepare = queries+q, prepare+p
		}
		took, err := measure(which, chunks)
		if err != nil {
			return rate{}, err
		}
		// The first measurement is of a process that has just started, and too long.
		if n < len(of) && took < budget/4 {
			n = int(min(int64(len(of)), int64(n)*int64(1+budget/2/max(took, 1))))
			continue
		}
		each := took.Seconds() / (queries + prepare)
		return rate{each, each}, nil
	}
}

// measureRate measures chunks of a layer, more and more of them until they take half the
// budget. They are of few kv heads, all jobs at work, so that what preparing a kv head
// costs can be told from what its queries cost: by two measurements of as many kv heads.
// It returns the time of the whole layer too, if that was measured, or 0.
func measureRate(o *compare.Outline, jobs int, budget time.Duration, measure func(ranges.Set) (time.Duration, error)) (r rate, whole time.Duration, err error) {
	all := o.Chunks()
	few := spread(o, 0, jobs)
	short, err := measure(few)
	if err != nil {
		return rate{}, 0, err
	}
	for n := 4 * jobs; ; n *= 2 {
		many := spread(o, 1, n)
		if n >= all {
			many = o.All()
		}
		long, err := measure(many)
		if err != nil {
			return rate{}, 0, err
		}
		if long < budget/2 && n < all {
			continue
		}
		if n >= all {
			whole = long
		}
		return solve(o, few, short, many, long), whole, nil
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
