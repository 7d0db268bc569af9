package reference

import (
	"context"
	"math"

	"github.com/sageacc/sageacc/internal/strictmath"
	"github.com/sageacc/sageacc/reference/internal/simd"
)

// task is one checked call with its defaults filled in.
type task struct {
	Params
	q, k, v         []float32
	readK, readV    Rows // where k and v are nil
	lo, rows, nk, d int
}

// scratch is the memory of the algorithm in one arithmetic. Stride is d rounded up to
// whole panels, width the block's keys.
type scratch[T simd.Real] struct {
	q      []T       // [rows, d], FP64 only: Q widened
	block  []float32 // [block, d], a block of K, then of V, where they are read
	k      []T       // [d, width] in panels, the key block transposed
	v      []T       // [block, stride] in panels, the block's V
	scores []T       // [RowBlock, width], scores and then weights
	pv     []T       // [RowBlock, stride], the block's weighted values
	decay  []T       // [RowBlock], by what the block scales the running sums
	acc    []T       // [rows, stride], running weighted values
	max    []T       // [rows], running maximum of the scores
	sum    []T       // [rows], running sum of the weights
	odd    []odd[T]  // of the block's V, what is not finite
	hidden []bool    // [RowBlock, block], of rows that do not see a run of keys
	seen   []bool    // [rows], which of them see a key
	bias   []float32 // [block]
}

// odd is an element of V, of a key of the block.
type odd[T simd.Real] struct {
	key, channel int
	value        T
}

// grow returns s with length n, reallocated only where its capacity is short.
// Its contents are unspecified.
func grow[T simd.Real](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

// fit is grow for flags.
func fit(s []bool, n int) []bool {
	if cap(s) < n {
		return make([]bool, n)
	}
	return s[:n]
}

// holes says that a row may see other keys than a run from the first, or that there is
// more to a score than its scale.
func (t *task) holes() bool {
	return t.Windowed || t.Visible != nil || t.Bias != nil || t.Softcap != 0
}

// attend runs the online softmax for t. Key blocks are the outer loop so that a
// block is transposed, widened and checked once for all rows.
func attend[T simd.Real](ctx context.Context, t *task, w *scratch[T], r simd.Kernels[T], out, lse []float64) error {
	if t.rows == 0 {
		return ctx.Err()
	}
	d, panel := t.d, simd.Panel[T]()
	stride := simd.Ceil(d, panel)
	negInf := T(math.Inf(-1))
	w.acc = grow(w.acc, t.rows*stride)
	w.max = grow(w.max, t.rows)
	w.sum = grow(w.sum, t.rows)
	clear(w.acc)
	clear(w.sum)
	if t.holes() {
		w.seen = fit(w.seen, t.rows)
		clear(w.seen)
	}
	for i := range w.max {
		w.max[i] = negInf
	}
	block := min(t.KeyBlock, t.nk)
	tile := min(t.RowBlock, t.rows)
	w.scores = grow(w.scores, tile*simd.Ceil(block, max(panel, simd.Lanes)))
	w.pv = grow(w.pv, tile*stride)
	w.decay = grow(w.decay, tile)
	var q []T
	q, w.q = view(t.q, w.q)

	for k0 := 0; k0 < t.nk; k0 += block {
		if err := ctx.Err(); err != nil {
			return err
		}
		first := 0
		if t.Causal {
			// Rows before k0 see nothing of this block, nor of those behind it.
			if first = max(0, k0-t.lo-t.Align); first >= t.rows {
				break
			}
		}
		n := min(block, t.nk-k0)
		w.packKeys(w.rows(t.k, t.readK, k0, n, d), n, d, r)
		w.packValues(w.rows(t.v, t.readV, k0, n, d), n, d, r)

		for r0 := first; r0 < t.rows; r0 += tile {
			m := min(tile, t.rows-r0)
			w.tile(t, tileArgs[T]{
				q:  q[r0*d : (r0+m)*d],
				r0: r0, m: m, k0: k0, n: n,
				width: simd.Ceil(n, max(panel, simd.Lanes)), stride: stride,
			}, r)
		}
	}

	for i := range t.rows {
		o := out[i*d : (i+1)*d]
		if t.Causal && t.lo+i+t.Align < 0 || t.holes() && !w.seen[i] {
			clear(o)
			if lse != nil {
				lse[i] = math.Inf(-1)
			}
			continue
		}
		for c, a := range w.acc[i*stride:][:d] {
			o[c] = float64(a / w.sum[i])
		}
		if lse != nil {
			lse[i] = float64(w.max[i] + logOf(w.sum[i]))
		}
	}
	return nil
}

// rows returns the rows [lo, lo+n) of x, or of what read reads if x is nil; those
// are valid until the next call.
func (w *scratch[T]) rows(x []float32, read Rows, lo, n, d int) []float32 {
	if x != nil {
		return x[lo*d : (lo+n)*d]
	}
	w.block = grow(w.block, n*d)
	read(lo, lo+n, w.block)
	return w.block
}

// tileArgs is one tile: m rows from row r0 of the call against n keys from k0.
type tileArgs[T simd.Real] struct {
	q             []T
	r0, m, k0, n  int
	width, stride int // between rows of scores, and of weighted values
}

// tile folds one tile into the running maxima, sums and weighted values.
func (w *scratch[T]) tile(t *task, a tileArgs[T], r simd.Kernels[T]) {
	d, n := t.d, a.n
	s := w.scores[:a.m*a.width]
	r.Product(a.m, n, d, a.q, d, w.k, s, a.width)

	visible := func(i int) int {
		if !t.Causal {
			return n
		}
		return min(n, max(0, t.lo+a.r0+i+1+t.Align-a.k0))
	}
	scale := T(t.Scale)
	sees := func(i, l int) bool { return l < visible(i) }
	if t.holes() {
		w.hidden = fit(w.hidden, t.RowBlock*n)
		sees = func(i, l int) bool { return !w.hidden[i*n+l] }
	}
	for i := range a.m {
		row := s[i*a.width : (i+1)*a.width]
		seen := visible(i)
		if t.holes() {
			w.prepare(t, &a, i, seen, row[:n])
			seen, scale = n, 1
		}
		w.decay[i] = w.weigh(a.r0+i, row, seen, scale, r)
		if t.holes() {
			for j, h := range w.hidden[i*n : (i+1)*n] {
				if h {
					row[j] = 0
				}
			}
		}
	}

	r.Product(a.m, d, n, s, a.width, w.v, w.pv, a.stride)
	for i := range a.m {
		pv := w.pv[i*a.stride : (i+1)*a.stride]
		for _, o := range w.odd {
			if sees(i, o.key) {
				pv[o.channel] = r.FMA(s[i*a.width+o.key], o.value, pv[o.channel])
			}
		}
		r.Join(w.acc[(a.r0+i)*a.stride:][:a.stride], pv, w.decay[i])
	}
}

// prepare scales and caps the scores of row i of a tile, adds the bias and hides the keys
// that it does not see: those from the first seen on, those outside of the window, and those
// of the masks.
func (w *scratch[T]) prepare(t *task, a *tileArgs[T], i, seen int, row []T) {
	n, at := a.n, t.lo+a.r0+i
	hidden := w.hidden[i*n : (i+1)*n]
	if t.Visible != nil {
		t.Visible(at, a.k0, a.k0+n, hidden)
		for j := range hidden {
			hidden[j] = !hidden[j]
		}
	} else {
		clear(hidden)
	}
	w.bias = grow(w.bias, n)
	if t.Bias != nil {
		t.Bias(at, a.k0, a.k0+n, w.bias)
	}
	from, to := 0, seen
	if t.Windowed && t.Left >= 0 {
		from = at + t.Align - t.Left - a.k0
	}
	if t.Windowed && t.Right >= 0 {
		to = min(to, at+t.Align+t.Right+1-a.k0)
	}
	scale, limit := T(t.Scale), T(t.Softcap)
	for j, x := range row {
		if hidden[j] = hidden[j] || j < from || j >= to || t.Bias != nil && math.IsInf(float64(w.bias[j]), -1); hidden[j] {
			row[j] = T(math.Inf(-1))
			continue
		}
		w.seen[a.r0+i] = true
		x *= scale
		if limit != 0 {
			x = T(limit * T(strictmath.Tanh(float64(x/limit))))
		}
		if t.Bias != nil {
			x += T(w.bias[j])
		}
		row[j] = x
	}
}

// weigh turns the first seen raw scores of row r in place into weights against the
// new running maximum and the others into 0, adds the weights to the running sum, and
// returns the factor that the row's earlier weights shrink by.
func (w *scratch[T]) weigh(r int, row []T, seen int, scale T, k simd.Kernels[T]) (decay T) {
	negInf := T(math.Inf(-1))
	part := row[:simd.Ceil(seen, simd.Lanes)]
	clear(row[len(part):])
	old := w.max[r]
	top := old
	if seen > 0 {
		// What fills the last lanes must not count: here a copy, below no weight.
		fill(part[seen:], part[0])
		if m := k.Max(part, scale); m > old || m != m {
			top = m
		}
	}
	switch {
	case top == negInf:
		// Subtracting the maximum would give NaN and spoil finite scores of
		// later blocks. If there are none, the sum stays 0 and 0/0 gives the
		// NaN in the end.
		clear(part)
		return 1
	case top != top:
		fill(part[:seen], top)
		clear(part[seen:])
		w.max[r], w.sum[r] = top, top
		return top
	}
	var sum T
	if seen > 0 {
		fill(part[seen:], negInf)
		sum = k.Weigh(part, top)
	}
	if top == old {
		w.sum[r] += sum // as a multiply-add by 1
		return 1
	}
	decay = k.Exp(old - top)
	w.max[r] = top
	w.sum[r] = k.FMA(w.sum[r], decay, sum)
	return decay
}

// fill sets all of s to x.
func fill[T simd.Real](s []T, x T) {
	for i := range s {
		s[i] = x
	}
}

// view returns x in the arithmetic T: x itself, or a widened copy in buf, which
// is grown as needed and returned for reuse.
func view[T simd.Real](x []float32, buf []T) (values, reuse []T) {
	if same, ok := any(x).([]T); ok {
		return same, buf
	}
	buf = grow(buf, len(x))
	for i, f := range x {
		buf[i] = T(f)
	}
	return buf, buf
}

// packKeys writes the n×d matrix k as d×n, in panels, to w.k.
func (w *scratch[T]) packKeys(k []float32, n, d int, r simd.Kernels[T]) {
	panel := simd.Panel[T]()
	w.k = grow(w.k, simd.Ceil(n, panel)*d)
	for j := 0; j < n; j += panel {
		dst := w.k[j*d : (j+panel)*d]
		if n-j < panel {
			clear(dst)
		}
		r.Turn(dst, k[j*d:min(j+panel, n)*d], d)
	}
}

// packValues writes the n×d matrix v in panels to w.v, with zeros for what is not
// finite: that is in w.odd, so that a key that is hidden, and whose weight is 0, takes
// no part.
func (w *scratch[T]) packValues(v []float32, n, d int, r simd.Kernels[T]) {
	panel := simd.Panel[T]()
	w.v = grow(w.v, simd.Ceil(d, panel)*n)
	w.odd = w.odd[:0]
	finite := true
	for c := 0; c < d; c += panel {
		dst := w.v[c*n : (c+panel)*n]
		if d-c < panel {
			clear(dst)
		}
		finite = r.Take(dst, v[:n*d], d, c) && finite
	}
	if finite {
		return
	}
	for i, x := range v[:n*d] {
		if x-x != 0 {
			key, c := i/d, i%d
			w.odd = append(w.odd, odd[T]{key, c, T(x)})
			w.v[c/panel*panel*n+key*panel+c%panel] = 0
		}
	}
}

// logOf is the float64 logarithm, rounded to T.
func logOf[T simd.Real](x T) T { return T(strictmath.Log(float64(x))) }
