// Package bench measures, on the machine it runs on, how fast whole heads are
// emulated and what the reference beside them costs: what a user needs to plan
// a run.
package bench

import (
	"context"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/internal/parallel"
	"github.com/sageacc/sageacc/reference"
)

// Options say what to measure.
type Options struct {
	// Tokens and HeadDim are the shape of the head, queries and keys alike.
	Tokens, HeadDim int
	Causal          bool
	// Jobs is the number of goroutines; as many heads, up to 16, are measured together.
	Jobs int
	// Level is the set of vector instructions for the emulator; nil stands for
	// the fastest.
	Level *emulate.Level
	// MinTime is how long each row is measured at least; it runs once more often
	// than that takes.
	MinTime time.Duration
}

// Row is one measurement.
type Row struct {
	// Name is a preset's name, "reference fp32" or "reference fp64".
	Name string `json:"name"`
	// Level is the set of vector instructions of an emulated head.
	Level   string `json:"level,omitempty"`
	Tokens  int    `json:"tokens"`
	HeadDim int    `json:"head_dim"`
	Causal  bool   `json:"causal"`
	Jobs    int    `json:"jobs"`
	// Seconds is the time of one head of those that run together, the shortest of Runs.
	Seconds float64 `json:"seconds"`
	Runs    int     `json:"runs"`
	// GMACs is 10^9 multiply-adds a second: both products, half of them where
	// causal.
	GMACs float64 `json:"gmac_per_s"`
}

// Run measures every preset and both references, calling report, if not nil,
// with each row as it is done.
func Run(ctx context.Context, o Options, report func(Row)) ([]Row, error) {
	var rows []Row
	heads := min(max(1, o.Jobs), mostHeads)
	add := func(name, level string, run func() error) error {
		r := Row{Name: name, Level: level, Tokens: o.Tokens, HeadDim: o.HeadDim, Causal: o.Causal, Jobs: o.Jobs}
		if err := measure(ctx, &r, heads, o.MinTime, run); err != nil {
			return err
		}
		rows = append(rows, r)
		if report != nil {
			report(r)
		}
		return nil
	}
	h := NewHead(o.Tokens, o.HeadDim, o.Causal)
	for _, p := range program.Presets() {
		if o.Causal && p.Mask.Causal == "none" {
			continue // it takes no such call
		}
		levels := emulate.Levels()
		level := levels[len(levels)-1]
		if o.Level != nil {
			level = *o.Level
		}
		k, err := emulate.NewAt(p, level)
		if err == nil {
			k, err = k.ForCase(format.FP16, program.Case{HeadDim: o.HeadDim, Causal: o.Causal, Keys: o.Tokens})
		}
		if err != nil {
			return nil, err
		}
		runs := level.String()
		switch {
		case k.Portable() == "":
		case k.VectorSteps():
			runs += " steps"
		case k.VectorProducts():
			runs += " products"
		default:
			runs = emulate.Levels()[0].String()
		}
		if err := add(p.Name, runs, func() error { return h.Emulate(ctx, k, heads, o.Jobs) }); err != nil {
			return nil, err
		}
	}
	for _, p := range []reference.Precision{reference.FP32, reference.FP64} {
		if err := add("reference "+p.String(), "", func() error { return h.Reference(ctx, p, heads, o.Jobs) }); err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// mostHeads is how many heads are measured together at most.
const mostHeads = 16

// measure runs heads once to warm up, then for at least d.
func measure(ctx context.Context, r *Row, heads int, d time.Duration, run func() error) error {
	if err := run(); err != nil {
		return err
	}
	best := time.Duration(math.MaxInt64)
	for start := time.Now(); r.Runs == 0 || time.Since(start) < d; r.Runs++ {
		t := time.Now()
		if err := run(); err != nil {
			return err
		}
		best = min(best, time.Since(t))
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	macs := 2 * float64(r.Tokens) * float64(r.Tokens) * float64(r.HeadDim)
	if r.Causal {
		macs /= 2
	}
	r.Seconds = best.Seconds() / float64(heads)
	r.GMACs = macs / r.Seconds / 1e9
	return nil
}

// Head is a head of Gaussian values in FP16, with a few outlying channels in K
// as models have them.
type Head struct {
	Q, K, V     []float32 // [Tokens][Dim]
	Tokens, Dim int
	Causal      bool
}

// NewHead returns a head, always the same for a shape.
func NewHead(tokens, dim int, causal bool) *Head {
	r := rand.New(rand.NewPCG(1, 2))
	draw := func(outlier float64) []float32 {
		x := make([]float32, tokens*dim)
		for i := range x {
			v := r.NormFloat64()
			if i%dim%32 == 3 {
				v += outlier
			}
			x[i] = format.RoundFP16(float32(v))
		}
		return x
	}
	return &Head{Q: draw(0), K: draw(6), V: draw(0), Tokens: tokens, Dim: dim, Causal: causal}
}

func rows(x []float32, dim int) emulate.Rows {
	return func(lo, hi int, dst []float32) { copy(dst, x[lo*dim:hi*dim]) }
}

// chunkRows is how many rows of queries of a head are taken at a time, as compare takes them.
const chunkRows = 256

// Emulate runs so many heads, all alike, as compare runs a layer: quantisers, all blocks, output.
func (h *Head) Emulate(ctx context.Context, k *emulate.Kernel, heads, jobs int) error {
	return h.emulate(ctx, k, heads, jobs, func(head, row int, out []float32) {})
}

// emulate is Emulate that shows each chunk's output, of rows from row on, as soon as it is there.
func (h *Head) emulate(ctx context.Context, k *emulate.Kernel, heads, jobs int, show func(head, row int, out []float32)) error {
	type prepared struct {
		once sync.Once
		kv   *emulate.KV
		err  error
		left atomic.Int64 // chunks to come
	}
	bq := k.Tiling().BlockQ
	blocks, chunk := k.Blocks(h.Tokens), (chunkRows+bq-1)/bq
	chunks := (blocks + chunk - 1) / chunk
	kvs := make([]prepared, heads)
	for i := range kvs {
		kvs[i].left.Store(int64(chunks))
	}
	prepare := func(head, jobs int) error {
		p := &kvs[head]
		p.once.Do(func() {
			in := emulate.KVInput{K: rows(h.K, h.Dim), V: rows(h.V, h.Dim), Len: h.Tokens, Dim: h.Dim, DType: format.FP16, Jobs: jobs}
			p.kv, p.err = k.Prepare(in)
		})
		return p.err
	}
	in := emulate.QInput{Q: rows(h.Q, h.Dim), Len: h.Tokens, Causal: h.Causal, Scale: 1 / math.Sqrt(float64(h.Dim))}
	return spread(ctx, heads, chunks, jobs, func() func(int, int) error {
		var ws emulate.Workspace
		out := make([]float32, min(chunk*bq, h.Tokens)*h.Dim)
		return func(head, i int) error {
			if i == parallel.Prepare {
				return prepare(head, max(1, jobs/heads))
			}
			if err := prepare(head, jobs); err != nil {
				return err
			}
			q := k.Query(in, kvs[head].kv, &ws)
			b := i * chunk
			rows := out[:min(chunk*bq, h.Tokens-b*bq)*h.Dim]
			if _, err := k.RunBlocks(ctx, q, &ws, b, min(chunk, blocks-b), rows, nil); err != nil {
				return err
			}
			show(head, b*bq, rows)
			if kvs[head].left.Add(-1) == 0 {
				kvs[head].kv = nil
			}
			return nil
		}
	})
}

// Reference computes so many heads, all alike, in full precision.
func (h *Head) Reference(ctx context.Context, p reference.Precision, heads, jobs int) error {
	return spread(ctx, heads, (h.Tokens+chunkRows-1)/chunkRows, jobs, func() func(int, int) error {
		var ws reference.Workspace
		out := make([]float64, min(chunkRows, h.Tokens)*h.Dim)
		return func(_, i int) error {
			if i == parallel.Prepare {
				return nil
			}
			lo, hi := i*chunkRows, min((i+1)*chunkRows, h.Tokens)
			return reference.Attention(ctx, reference.Params{Precision: p, Causal: h.Causal}, h.Q[lo*h.Dim:hi*h.Dim], h.K, h.V,
				lo, hi, h.Tokens, h.Dim, &ws, out[:(hi-lo)*h.Dim], nil)
		}
	})
}

// spread runs the chunks of heads on jobs goroutines, each with a function of its own from start.
func spread(ctx context.Context, heads, chunks, jobs int, start func() func(head, chunk int) error) error {
	pieces := make([]int, heads)
	for i := range pieces {
		pieces[i] = chunks
	}
	var list [][2]int
	for head, i := range parallel.Ahead(pieces, jobs) {
		if i != parallel.Prepare {
			i = chunks - 1 - i // from the end, where causal chunks are the longest
		}
		list = append(list, [2]int{head, i})
	}
	spare := make(chan func(head, chunk int) error, max(1, jobs))
	for range cap(spare) {
		spare <- start()
	}
	return parallel.Do(ctx, jobs, len(list), func(_ context.Context, i int) error {
		run := <-spare
		defer func() { spare <- run }()
		return run(list[i][0], list[i][1])
	})
}
