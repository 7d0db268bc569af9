package reference

import (
	"context"
	"math"

	"github.com/sageacc/sageacc/internal/strictmath"
)

// real is the arithmetic that the algorithm is instantiated for.
type real interface{ float32 | float64 }

// task is one checked call with its defaults filled in.
type task struct {
	Params
	q, k, v         []float32
	readK, readV    Rows // where k and v are nil
	lo, rows, nk, d int
}

// scratch is the memory of the algorithm in one arithmetic.
type scratch[T real] struct {
	q      []T       // [rows, d], FP64 only: Q widened
	block  []float32 // [block, d], a block of K, then of V, where they are read
	kT     []T       // [d, block], the key block transposed
	v      []T       // [block, d], FP64 only: the block's V widened
	scores []T       // [RowBlock, block], scores and then weights
	pv     []T       // [RowBlock, d], the block's weighted values
	decay  []T       // [RowBlock], by what the block scales the running sums
	acc    []T       // [rows, d], running weighted values
	max    []T       // [rows], running maximum of the scores
	sum    []T       // [rows], running sum of the weights
	hidden []bool    // [RowBlock, block], of rows that do not see a run of keys
	seen   []bool    // [rows], which of them see a key
	bias   []float32 // [block]
	one    [1]T      // the argument of an exponential
}

// grow returns s with length n, reallocated only where its capacity is short.
// Its contents are unspecified.
func grow[T real](s []T, n int) []T {
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
func attend[T real](ctx context.Context, t *task, w *scratch[T], r arithmetic[T], out, lse []float64) error {
	if t.rows == 0 {
		return ctx.Err()
	}
	d := t.d
	negInf := T(math.Inf(-1))
	w.acc = grow(w.acc, t.rows*d)
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
	w.scores = grow(w.scores, tile*block)
	w.pv = grow(w.pv, tile*d)
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
		var finiteK bool
		w.kT, finiteK = transpose(w.kT, w.rows(t.k, t.readK, k0, n, d), n, d)
		var v []T
		v, w.v = view(w.rows(t.v, t.readV, k0, n, d), w.v)
		finiteV := allFinite(v)

		for r0 := first; r0 < t.rows; r0 += tile {
			m := min(tile, t.rows-r0)
			w.tile(t, tileArgs[T]{
				q: q[r0*d : (r0+m)*d], v: v,
				r0: r0, m: m, k0: k0, n: n,
				strictK: !finiteK, strictV: !finiteV,
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
		for c, a := range w.acc[i*d : (i+1)*d] {
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
type tileArgs[T real] struct {
	q, v             []T
	r0, m, k0, n     int
	strictK, strictV bool // K or V holds a NaN or an infinity
}

// tile folds one tile into the running maxima, sums and weighted values.
func (w *scratch[T]) tile(t *task, a tileArgs[T], r arithmetic[T]) {
	d, n := t.d, a.n
	s := w.scores[:a.m*n]
	if a.strictK {
		strictProduct(a.m, n, d, a.q, w.kT, s, nil)
	} else {
		r.product(a.m, n, d, a.q, w.kT, s)
	}

	visible := func(i int) int {
		if !t.Causal {
			return n
		}
		return min(n, t.lo+a.r0+i+1+t.Align-a.k0)
	}
	scale := T(t.Scale)
	sees := func(i, l int) bool { return l < visible(i) }
	if t.holes() {
		w.hidden = fit(w.hidden, t.RowBlock*n)
		sees = func(i, l int) bool { return !w.hidden[i*n+l] }
	}
	for i := range a.m {
		row := s[i*n : (i+1)*n]
		seen := max(0, visible(i))
		if t.holes() {
			w.prepare(t, &a, i, seen, row)
			seen, scale = n, 1
		}
		clear(row[seen:])
		w.decay[i] = w.weigh(a.r0+i, row[:seen], scale, r.exp)
		if t.holes() {
			for j, h := range w.hidden[i*n : (i+1)*n] {
				if h {
					row[j] = 0
				}
			}
		}
	}

	pv := w.pv[:a.m*d]
	if a.strictV {
		strictProduct(a.m, d, n, s, a.v, pv, sees)
	} else {
		r.product(a.m, d, n, s, a.v, pv)
	}
	for i := range a.m {
		decay := w.decay[i]
		acc := w.acc[(a.r0+i)*d : (a.r0+i+1)*d]
		for c, x := range pv[i*d : (i+1)*d] {
			// The conversion rounds the product, so that no compiler fuses it.
			acc[c] = T(acc[c]*decay) + x
		}
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

// weigh turns the raw scores of row r in place into weights against the new
// running maximum, adds them to the running sum, and returns the factor that
// the row's earlier weights shrink by.
func (w *scratch[T]) weigh(r int, row []T, scale T, exp func([]T, T)) (decay T) {
	old := w.max[r]
	top := old
	for j, x := range row {
		x *= scale
		row[j] = x
		// A NaN is taken as the maximum, and then stays: nothing compares
		// greater than it.
		if x > top || x != x {
			top = x
		}
	}
	if top == T(math.Inf(-1)) {
		// Subtracting the maximum would give NaN and spoil finite scores of
		// later blocks. If there are none, the sum stays 0 and 0/0 gives the
		// NaN in the end.
		clear(row)
		return 1
	}
	w.one[0] = old
	exp(w.one[:], top)
	decay = w.one[0]
	exp(row, top)
	var sum T
	for _, e := range row {
		sum += e
	}
	w.max[r] = top
	w.sum[r] = T(w.sum[r]*decay) + sum
	return decay
}

// view returns x in the arithmetic T: x itself, or a widened copy in buf, which
// is grown as needed and returned for reuse.
func view[T real](x []float32, buf []T) (values, reuse []T) {
	if same, ok := any(x).([]T); ok {
		return same, buf
	}
	buf = grow(buf, len(x))
	for i, f := range x {
		buf[i] = T(f)
	}
	return buf, buf
}

// transpose writes the n×d matrix k as d×n into dst, grown as needed, and says
// whether all its elements are finite.
func transpose[T real](dst []T, k []float32, n, d int) (kT []T, finite bool) {
	dst = grow(dst, n*d)
	// x-x is 0 for a finite x and NaN otherwise; NaN survives the sum.
	var probe float32
	for j := range n {
		for c, x := range k[j*d : (j+1)*d] {
			dst[c*n+j] = T(x)
			probe += x - x
		}
	}
	return dst, probe == 0
}

// allFinite reports whether x holds neither NaN nor infinity.
func allFinite[T real](x []T) bool {
	var probe T
	for _, f := range x {
		probe += f - f
	}
	return probe == 0
}

// logOf is the float64 logarithm, rounded to T.
func logOf[T real](x T) T { return T(strictmath.Log(float64(x))) }
