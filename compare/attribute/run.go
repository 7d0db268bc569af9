package attribute

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/sageacc/sageacc/compare/heads"
	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/metrics"
	"github.com/sageacc/sageacc/reference"
)

const (
	// blocks is how many blocks of query rows are run, and compared, at a time.
	blocks = 4
	// Of kv heads of more than streamed elements the codes are not kept but made for runs of
	// streamedBlocks blocks.
	streamed       = 1 << 20
	streamedBlocks = 16 * blocks
	// kept is how many elements a reference that is kept has at the most, 8 MiB. As many
	// queries as keys whose codes are kept are one segment, whose codes are made once.
	kept = streamed
)

// run is a layer's attribution. The rows of each head are cut into segments. What is done
// at a time is a segment with one set of exact steps, all sets of a segment before the next
// one, so that a segment's reference is computed once and is let go of soon. As segments
// are begun in order, no more of them are open than there are goroutines.
type run struct {
	opt      Options
	views    []*heads.Layer // by set
	layer    *heads.Layer   // what the reference is of, as all of them
	rows     int            // of a segment, whole chunks of every view
	segments int            // of a head
	streamed int

	mu    sync.Mutex
	open  map[int]*segment // by number in the layer
	spare [][]float64      // what references were in
	sums  []metrics.Accuracy
	done  int // rows, of each set
}

// segment is some rows of a head with their reference.
type segment struct {
	batch, head int
	ref         references
	left        int // sets that are not done
}

// newRun prepares the attribution of a layer, with references of at most keep elements, but
// for the fewest rows that a segment can have.
func newRun(l *layerdumps.Layer, opt Options, keep int) (*run, error) {
	views, err := views(opt.Program, l)
	if err != nil {
		return nil, err
	}
	r := &run{opt: opt, views: views, layer: views[0], rows: partRows, streamed: streamed, open: make(map[int]*segment), sums: make([]metrics.Accuracy, len(views))}
	for _, v := range views {
		r.rows = lcm(r.rows, blocks*v.Kernel.Tiling().BlockQ)
	}
	r.rows *= max(1, keep/(r.rows*l.Q.Dim))
	r.segments = (l.Q.Tokens + r.rows - 1) / r.rows
	return r, nil
}

// views are those of a layer for each set of exact steps. They differ neither in the order
// of rows nor in what is masked, so that one reference is that of all.
func views(p program.Program, l *layerdumps.Layer) ([]*heads.Layer, error) {
	// What goes with a shape of tiles counts before steps are made exact. A layer that the kernel
	// does not take is Bind's to refuse.
	bound, err := p.At(heads.Case(l, p.Mask.Causal))
	if err != nil {
		bound = p
	}
	var out []*heads.Layer
	for _, steps := range sets() {
		p := bound
		if steps != 0 {
			p = exact(p, steps)
		}
		k, err := emulate.New(p)
		if err != nil {
			return nil, err
		}
		v, err := heads.Bind(k, l)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// lcm is the least common multiple.
func lcm(a, b int) int {
	x, y := a, b
	for y != 0 {
		x, y = y, x%y
	}
	return a / x * b
}

// all does all of the layer.
func (r *run) all(ctx context.Context) error {
	l := r.layer
	n := l.Q.Batch * l.Q.Heads * r.segments * len(r.views) // by head, then by segment, then by set
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range max(1, min(r.opt.Jobs, n)) {
		wg.Go(func() {
			var w worker
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				number, set := i/len(r.views), i%len(r.views)
				s := r.segment(number)
				var acc metrics.Accuracy
				if err := w.run(ctx, r, s, set, &acc); err != nil {
					cancel(err)
					return
				}
				r.finish(number, set, &acc)
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// segment returns a segment of which not all sets are done, by its number in the layer.
func (r *run) segment(number int) *segment {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.open[number]
	if s == nil {
		q := &r.layer.Q
		head, lo := number/r.segments, number%r.segments*r.rows
		s = &segment{batch: head / q.Heads, head: head % q.Heads, left: len(r.views)}
		var buf []float64
		if last := len(r.spare) - 1; last >= 0 {
			buf, r.spare = r.spare[last], r.spare[:last]
		}
		s.ref.reset(lo, min(lo+r.rows, q.Tokens), q.Dim, buf)
		r.open[number] = s
	}
	return s
}

// finish takes in the errors of a set in a segment.
func (r *run) finish(number, set int, acc *metrics.Accuracy) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.open[number]
	r.sums[set].Merge(acc)
	r.done += s.ref.hi - s.ref.lo
	if r.opt.Progress != nil {
		q := &r.layer.Q
		r.opt.Progress(float64(r.done) / float64(q.Batch*q.Heads*q.Tokens*len(r.views)))
	}
	if s.left--; s.left == 0 {
		delete(r.open, number)
		r.spare = append(r.spare, s.ref.values)
	}
}

// worker holds a goroutine's buffers, whose size does not depend on the layer's length.
type worker struct {
	ws     emulate.Workspace
	rws    reference.Workspace
	q, out []float32
}

// run adds the errors of a segment with a set of exact steps to acc.
func (w *worker) run(ctx context.Context, r *run, s *segment, set int, acc *metrics.Accuracy) error {
	l := r.views[set]
	k, d := l.Kernel, l.Q.Dim
	in := l.KV(s.batch, l.KVHead(s.head))
	in.Stream = in.Len*d > r.streamed
	kv, err := k.Prepare(in)
	if err != nil {
		return err
	}
	q := k.Query(l.Query(s.batch, s.head), kv, &w.ws)
	step := blocks * k.Tiling().BlockQ // compared by itself
	rows := step
	if in.Stream {
		rows = streamedBlocks * k.Tiling().BlockQ
	}
	if len(w.out) < rows*d {
		w.out = make([]float32, rows*d)
	}
	compute := w.reference(ctx, r, s)
	chunks := (s.ref.hi - s.ref.lo + rows - 1) / rows
	for i := range chunks {
		// Where there are several chunks, goroutines that work on the same rows begin at different
		// ones, so that each computes another part of the reference. Sums do not depend on the order.
		lo := s.ref.lo + (i+set)%chunks*rows
		hi := min(lo+rows, s.ref.hi)
		first := lo / k.Tiling().BlockQ
		out := w.out[:(hi-lo)*d]
		if _, err := k.RunBlocks(ctx, q, &w.ws, first, k.Blocks(hi)-first, out, nil); err != nil {
			return err
		}
		for ; lo < hi; lo += step {
			ref, err := s.ref.of(lo, min(lo+step, hi), compute)
			if err != nil {
				return err
			}
			acc.Add64(out[:len(ref)], ref)
			out = out[len(ref):]
		}
	}
	return nil
}

// reference returns a function that computes the reference of a segment's rows.
func (w *worker) reference(ctx context.Context, r *run, s *segment) func(lo, hi int, dst []float64) error {
	l := r.layer
	kvHead := l.KVHead(s.head)
	read := func(t *layerdumps.Tensor, head int) emulate.Rows {
		return heads.Values(l.Layer, t, l.Read(t, s.batch, head), s.batch, head)
	}
	queries, keys, values := read(&l.Q, s.head), read(&l.K, kvHead), read(&l.V, kvHead)
	params := heads.Reference(l.Layer, r.opt.Reference, l.Align(), s.batch, s.head)
	return func(lo, hi int, dst []float64) error {
		if len(w.q) < len(dst) {
			w.q = make([]float32, len(dst))
		}
		q := w.q[:len(dst)]
		queries(lo, hi, q)
		return reference.AttentionRows(ctx, params, q, reference.Rows(keys), reference.Rows(values), lo, hi, l.K.Tokens, l.Q.Dim, &w.rws, dst, nil)
	}
}
