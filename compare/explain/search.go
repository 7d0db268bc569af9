package explain

import (
	"context"
	"hash/fnv"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/sageacc/sageacc/compare/heads"
	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/internal/jsonfloat"
	"github.com/sageacc/sageacc/layerdumps"
)

// search is the state of a search on one layer.
type search struct {
	layer *layerdumps.Layer
	opt   Options
	base  trial
	// blockQ is how many rows a block of the kernel as given has.
	blockQ int

	// The rows on which hypotheses are tried, tokens of one head, ascending: first
	// those that cost least, then the others.
	batch, head int
	first, rest []int
	q, k, v     emulate.Rows // of the head
}

func newSearch(l *layerdumps.Layer, opt Options) (*search, error) {
	opt.Jobs = max(1, opt.Jobs)
	s := &search{layer: l, opt: opt, base: trial{program: opt.Program, causal: l.Causal, scale: l.Scale()}}
	k, err := s.kernel(&s.base)
	if err == nil {
		s.blockQ = k.Tiling().BlockQ
	}
	return s, err
}

// kernel returns the kernel of a trial, for the layer.
func (s *search) kernel(t *trial) (*emulate.Kernel, error) {
	view, err := s.view(t, fastest())
	if err != nil {
		return nil, err
	}
	return view.Kernel, nil
}

// fastest is the fastest level.
func fastest() emulate.Level {
	levels := emulate.Levels()
	return levels[len(levels)-1]
}

// view is the layer as a trial has it.
func (s *search) view(t *trial, level emulate.Level) (*heads.Layer, error) {
	k, err := emulate.NewAt(t.program, level)
	if err != nil {
		return nil, err
	}
	l := *s.layer
	l.Causal, l.SMScale = t.causal, t.scale
	v, err := heads.Bind(k, &l)
	if err != nil || s.q == nil {
		return v, err
	}
	v.Read = func(t *layerdumps.Tensor, batch, head int) emulate.Rows {
		switch {
		case batch != s.batch:
		case t == &l.Q && head == s.head:
			return s.q
		case t == &l.K && head == v.KVHead(s.head):
			return s.k
		case t == &l.V && head == v.KVHead(s.head):
			return s.v
		}
		return heads.Rows(t, batch, head)
	}
	return v, nil
}

func (s *search) dtype() format.DType       { return s.layer.Q.DType }
func (s *search) outputDType() format.DType { return s.layer.O.DType }

// readHead takes the rows of a head for trials.
func (s *search) readHead(batch, head int) {
	l := s.layer
	s.batch, s.head = batch, head
	kh := head * l.K.Heads / l.Q.Heads
	s.q = heads.Cached(heads.Rows(&l.Q, batch, head), l.Q.Tokens, l.Q.Dim)
	s.k = heads.Cached(heads.Rows(&l.K, batch, kh), l.K.Tokens, l.K.Dim)
	s.v = heads.Cached(heads.Rows(&l.V, batch, kh), l.V.Tokens, l.V.Dim)
}

// outcome is what a trial gave.
type outcome struct {
	trial      trial
	hypothesis Hypothesis
	hash       uint64     // of the output
	heads      []headDiff // of a whole run that keeps them
}

// choose picks the rows to try hypotheses on: of the first head that differs, rows
// of the first block with a difference, and of the last. Rows that agree take part
// too, because a hypothesis may spoil them.
func (s *search) choose(diffs []headDiff) {
	l := s.layer
	i := slices.IndexFunc(diffs, func(h headDiff) bool { return h.mismatched > 0 })
	h := &diffs[i]
	s.readHead(i/l.Q.Heads, i%l.Q.Heads)

	bq := s.blockQ
	var bad []int
	for r, n := range h.rows {
		if n > 0 {
			bad = append(bad, r)
		}
	}
	pick := func(block int) []int {
		var out, good, wrong []int
		for r := block * bq; r < min((block+1)*bq, l.Q.Tokens); r++ {
			if h.rows[r] > 0 {
				wrong = append(wrong, r)
			} else {
				good = append(good, r)
			}
		}
		out = append(out, spread(wrong, 4)...)
		out = append(out, spread(good, 2)...)
		slices.Sort(out)
		return out
	}
	a, b := bad[0]/bq, bad[len(bad)-1]/bq
	s.first = pick(a)
	if b != a {
		s.rest = pick(b)
	}
	// A block that agrees, if there is one: the last, which sees most.
	for c := (l.Q.Tokens - 1) / bq; c >= 0; c-- {
		lo, hi := c*bq, min((c+1)*bq, l.Q.Tokens)
		if !slices.ContainsFunc(h.rows[lo:hi], func(n int32) bool { return n > 0 }) {
			s.rest = append(s.rest, pick(c)...)
			break
		}
	}
	slices.Sort(s.rest)
}

// spread returns n elements of list, its first and its last among them.
func spread(list []int, n int) []int {
	if len(list) <= n {
		return list
	}
	var out []int
	for i := range n {
		out = append(out, list[i*(len(list)-1)/(n-1)])
	}
	return out
}

// group is a set of trials whose K and V are prepared alike.
type group struct {
	once sync.Once
	kv   *emulate.KV
	err  error
	left atomic.Int64
}

// try runs trials on the first rows and, where those come out right, on the others.
// report is called with the number of finished trials.
func (s *search) try(ctx context.Context, ts []trial, report func(int)) ([]outcome, error) {
	return s.run(ctx, ts, report, func(w *worker, t *trial, v *heads.Layer, kv *emulate.KV) (outcome, error) {
		o, err := w.rows(t, v, kv, s.first)
		if err == nil && o.hypothesis.Mismatched == 0 && len(s.rest) > 0 {
			right := o.hypothesis.Elements
			o, err = w.rows(t, v, kv, s.rest)
			o.hypothesis.Elements += right
		}
		return o, err
	})
}

// tryAll runs trials on all chosen rows.
func (s *search) tryAll(ctx context.Context, ts []trial) ([]outcome, error) {
	all := append(slices.Clone(s.first), s.rest...)
	slices.Sort(all)
	return s.run(ctx, ts, func(int) {}, func(w *worker, t *trial, v *heads.Layer, kv *emulate.KV) (outcome, error) {
		return w.rows(t, v, kv, all)
	})
}

// run runs f on every trial. Trials that prepare K and V alike follow each other and
// share what was prepared.
func (s *search) run(ctx context.Context, ts []trial, report func(int), f func(*worker, *trial, *heads.Layer, *emulate.KV) (outcome, error)) ([]outcome, error) {
	views := make([]*heads.Layer, len(ts))
	order := map[emulate.Preparation]int{}
	var byGroup [][]int
	for i := range ts {
		v, err := s.view(&ts[i], fastest())
		if err != nil {
			continue // the kernel does not take the layer
		}
		v.Kernel = v.Kernel.ForRows()
		views[i] = v
		prepared := v.Kernel.Preparation()
		g, ok := order[prepared]
		if !ok {
			g = len(byGroup)
			order[prepared] = g
			byGroup = append(byGroup, nil)
		}
		byGroup[g] = append(byGroup[g], i)
	}
	type item struct {
		trial int
		group *group
	}
	var items []item
	for _, members := range byGroup {
		g := new(group)
		g.left.Store(int64(len(members)))
		for _, i := range members {
			items = append(items, item{i, g})
		}
	}
	all := make([]outcome, len(ts))
	var mu sync.Mutex
	done := 0
	err := parallel(ctx, s.opt.Jobs, len(items), func() func(int) error {
		w := &worker{s: s}
		return func(n int) error {
			i, g := items[n].trial, items[n].group
			g.once.Do(func() { g.kv, g.err = s.prepare(views[i]) })
			if g.err != nil {
				return g.err
			}
			var err error
			if all[i], err = f(w, &ts[i], views[i], g.kv); err != nil {
				return err
			}
			if g.left.Add(-1) == 0 {
				g.kv = nil
			}
			mu.Lock()
			defer mu.Unlock()
			done++
			report(done)
			return nil
		}
	})
	var out []outcome
	for i, o := range all {
		if views[i] != nil {
			out = append(out, o)
		}
	}
	return out, err
}

// prepare prepares K and V of the chosen head.
func (s *search) prepare(v *heads.Layer) (*emulate.KV, error) {
	return v.Kernel.Prepare(v.KV(s.batch, v.KVHead(s.head)))
}

// worker holds a goroutine's buffers.
type worker struct {
	s    *search
	ws   emulate.Workspace
	out  []float32
	act  []float32
	bits []uint32
}

func (w *worker) fit(n int) {
	if len(w.out) < n {
		w.out, w.act, w.bits = make([]float32, n), make([]float32, n), make([]uint32, n)
	}
}

// rows runs a trial on some rows of the chosen head.
func (w *worker) rows(t *trial, v *heads.Layer, kv *emulate.KV, tokens []int) (outcome, error) {
	s, l, k := w.s, w.s.layer, v.Kernel
	o := outcome{trial: *t, hypothesis: Hypothesis{Changes: t.changes}}
	q := k.Query(v.Query(s.batch, s.head), kv, &w.ws)
	d, bq := l.Q.Dim, k.Tiling().BlockQ
	w.fit(bq * d)
	hash := fnv.New64a()
	var c comparison
	for i := 0; i < len(tokens); {
		block := tokens[i] / bq
		var pick []int
		for ; i < len(tokens) && tokens[i]/bq == block; i++ {
			pick = append(pick, tokens[i]-block*bq)
		}
		n := len(pick) * d
		if err := k.RunRows(q, &w.ws, block, pick, w.out[:n]); err != nil {
			return o, err
		}
		for j, r := range pick {
			l.O.Rows(s.batch, s.head, block*bq+r, block*bq+r+1, w.act[j*d:j*d+d])
			l.O.RowsBits(s.batch, s.head, block*bq+r, block*bq+r+1, w.bits[j*d:j*d+d])
		}
		for j, x := range w.out[:n] {
			b := l.O.DType.Bits(x)
			hash.Write([]byte{byte(b), byte(b >> 8), byte(b >> 16), byte(b >> 24)})
			c.add(x, w.act[j], b, w.bits[j])
		}
	}
	c.fill(&o.hypothesis)
	o.hash = hash.Sum64()
	return o, nil
}

// comparison counts differences.
type comparison struct {
	elements, mismatched int64
	diff, sum            float64
}

// add reports whether the emulated x and the actual a, with their bits, differ. NaNs
// are all alike.
func (c *comparison) add(x, a float32, xBits, aBits uint32) bool {
	c.elements++
	c.diff += math.Abs(float64(x) - float64(a))
	c.sum += math.Abs(float64(a))
	if xBits == aBits || x != x && a != a {
		return false
	}
	c.mismatched++
	return true
}

func (c *comparison) fill(h *Hypothesis) {
	h.Elements, h.Mismatched = c.elements, c.mismatched
	if c.sum > 0 || c.sum != c.sum {
		h.RelL1 = jsonfloat.Float(c.diff / c.sum)
	}
}

// whole runs a trial on the whole layer. It keeps where the differences are, or stops
// at the first.
func (s *search) whole(ctx context.Context, t trial, keep bool) (outcome, error) {
	o := outcome{trial: t, hypothesis: Hypothesis{Changes: t.changes}}
	v, err := s.view(&t, fastest())
	if err != nil {
		return o, err
	}
	l, k := s.layer, v.Kernel
	perHead := k.Blocks(l.Q.Tokens)
	share := l.Q.Heads / l.K.Heads
	queryHeads := l.Q.Batch * l.Q.Heads
	groups := make([]group, l.Q.Batch*l.K.Heads)
	for i := range groups {
		groups[i].left.Store(int64(share * perHead))
	}
	// What the blocks found is added up in order.
	sums := make([]comparison, queryHeads*perHead)
	parts := make([]headDiff, queryHeads*perHead)
	var stop atomic.Bool
	err = parallel(ctx, s.opt.Jobs, queryHeads*perHead, func() func(int) error {
		w := &worker{s: s}
		w.fit(k.Tiling().BlockQ * l.Q.Dim)
		var q *emulate.Query
		of := -1
		return func(n int) error {
			if stop.Load() {
				return nil
			}
			i, block := n/perHead, n%perHead
			batch, head := i/l.Q.Heads, i%l.Q.Heads
			g := &groups[i/share]
			g.once.Do(func() {
				in := v.KV(batch, head/share)
				in.K, in.V = heads.Cached(in.K, in.Len, in.Dim), heads.Cached(in.V, in.Len, in.Dim)
				g.kv, g.err = k.Prepare(in)
			})
			if g.err != nil {
				return g.err
			}
			if of != i {
				of, q = i, k.Query(v.Query(batch, head), g.kv, &w.ws)
			}
			count, err := k.Run(q, &w.ws, block, w.out, nil)
			if err != nil {
				return err
			}
			if g.left.Add(-1) == 0 {
				g.kv = nil
			}
			lo := block * k.Tiling().BlockQ
			m := count * l.Q.Dim
			l.O.Rows(batch, head, lo, lo+count, w.act[:m])
			l.O.RowsBits(batch, head, lo, lo+count, w.bits[:m])
			part := &parts[n]
			if keep {
				*part = newHeadDiff(l.Q.Dim)
			}
			for j, x := range w.out[:m] {
				b := l.O.DType.Bits(x)
				bad := sums[n].add(x, w.act[j], b, w.bits[j])
				if bad {
					stop.Store(!keep)
				}
				if keep {
					part.add(j%l.Q.Dim, x, w.act[j], b, w.bits[j], bad, l.O.DType)
					if j%l.Q.Dim == l.Q.Dim-1 {
						part.endRow()
					}
				}
			}
			return nil
		}
	})
	if err != nil {
		return o, err
	}
	var c comparison
	for _, x := range sums {
		c.elements += x.elements
		c.mismatched += x.mismatched
		c.diff += x.diff
		c.sum += x.sum
	}
	c.fill(&o.hypothesis)
	if keep {
		o.heads = make([]headDiff, queryHeads)
		for i := range o.heads {
			o.heads[i] = newHeadDiff(l.Q.Dim)
			for n := range perHead {
				o.heads[i].append(&parts[i*perHead+n])
			}
		}
	}
	return o, nil
}

// parallel runs items 0 to n-1 on jobs goroutines, each with a function of its own,
// and returns the first error.
func parallel(ctx context.Context, jobs, n int, start func() func(int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range max(1, min(jobs, n)) {
		wg.Go(func() {
			f := start()
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := f(i); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}
