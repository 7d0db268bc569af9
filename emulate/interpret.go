package emulate

import (
	"context"
	"math"
	"slices"
	"strings"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/internal/vec"
	"github.com/sageacc/sageacc/emulate/libm"
	"github.com/sageacc/sageacc/emulate/mufu"
	"github.com/sageacc/sageacc/emulate/quant"
	"github.com/sageacc/sageacc/emulate/tensorcore"
)

// This file is the interpreter: it runs any description, a block of query rows at a
// time, in the order of its stages. It is the definition of what a description means.

// threads is how many threads of a warp share a row of a matrix fragment; each keeps
// its own part of the denominator.
const threads = 4

// Workspace holds the buffers of one goroutine. Its zero value is ready.
type Workspace struct {
	q       []float32 // [BlockQ][Dim]
	qMean   []float32 // [Dim]
	rotated []float32 // [BlockQ][CodeDim], of rotated rows alone
	qCodes  []int8    // [BlockQ][CodeDim]
	qScale  []float32 // [BlockQ], by row
	amax    []float32 // [BlockQ], by group
	keys    []float32 // [BlockK][Dim], smoothed K for delta-S
	deltaS  []float32 // [BlockK]
	sInt    []int32   // [BlockQ][BlockK]
	s       []float32 // [BlockQ][BlockK], scores, then P
	pCodes  []uint16  // [BlockQ][BlockK], in V's stored order
	pValues []float32 // [BlockQ][BlockK], the same where P or V is exact
	vCodes  []uint16  // [Dim][BlockK], in V's stored order
	vValues []float32 // [Dim][BlockK]
	wide    []uint16  // operands of scores
	qStrips []uint8   // [strips][whole(CodeDim)/4][vec.Rows][4], qCodes biased by 128, for vector levels
	strip   []float32 // [BlockK][vec.Rows], int32 scores of a strip
	vector  vec.Scratch
	qPanel  tensorcore.Panel
	kPanel  tensorcore.Panel
	pPanel  tensorcore.Panel
	vPanel  tensorcore.Panel
	ones    tensorcore.Panel
	m       []float32 // [BlockQ]
	d       []float32 // [BlockQ][threads]
	alpha   []float32 // [BlockQ]
	factor  []float32 // [BlockQ], of what a tile adds to d and O
	o       []float32 // [BlockQ][Dim]
	o64     []float64 // the same where sums are exact
	tile    []float32 // [BlockQ][Dim]
	scratch []float32 // [BlockK]
	added   []float32 // [BlockK], to the scores with their scale
	parts   []float32 // [parts][BlockQ][Dim], outputs of the parts of the keys
	partLSE []float32 // [parts][BlockQ]
	visible []bool    // [BlockK]
	gone    []bool    // [BlockK], keys that an additive mask hides (mask.additive: log2e)
	list    []bool    // [tiles], those of a block that a block map lists
	seen    []int     // [BlockQ], keys of the tile that a row sees
	total   []int     // [BlockQ], of all tiles so far
	index   []int     // [BlockQ], the query of each row
	strips  *strips   // of the vector levels
	lanes   *lanes    // of the interpreter's steps on vectors
	// window holds the codes in hand of windowOf, where they are streamed.
	window   *window
	windowOf *KV
	// Counts of what the blocks run with this workspace met.
	Counts Counts
	// Observer, if set, is shown every tile, and Ending what becomes of the rows of a
	// block; both keep the blocks in portable code.
	Observer func(*Tile)
	Ending   func(*Ending)
}

// Tile is what an Observer sees: the stages of one tile, valid during the call.
type Tile struct {
	// Block and Index count blocks of query rows and tiles of keys; the tile's
	// first query row is Row, its first key Key. Rows of its BlockQ rows exist.
	Block, Index, Row, Key, Rows int
	// Keys and Dim are the widths of the matrices below.
	Keys, Dim int
	// QCodes [Rows][Kernel.CodeDim] are the integer codes of the queries, nil where they have
	// none, Q [Rows][Dim] what they are made of: smoothed, not yet rotated and quantised. QScale
	// [Rows] are their scales.
	QCodes []int8
	Q      []float32
	QScale []float32
	// IntScores [Rows][Keys] are the integer products, nil where there are none.
	IntScores []int32
	// Visible [Rows] says how many keys of the tile the mask leaves to a row.
	Visible []int
	// P [Rows][Keys] is P before its conversion; PCodes its codes, in the stored order of
	// V, and PDecoded [Rows][Keys] what they stand for, in the order of the keys.
	P        []float32
	PCodes   []uint16
	PDecoded []float32
	// RowMax [Rows] and Rescale [Rows] are m and alpha; Factor [Rows] is what the tile's weights
	// and sums are multiplied by before they join d and O, 1 but where P is relative to its tile's
	// maximum.
	RowMax, Rescale, Factor []float32
	// TileSums [Rows][Dim] is what joins O, the last level's where a tile has several;
	// nil where all keys go through one chain. Output [Rows][Dim] is O after the tile.
	TileSums, Output []float32
	// Denominators [Rows][4] is d of each of a row's four threads after the tile; where
	// they share one it is the first's.
	Denominators []float32
}

// Ending is what becomes of a block's rows after the last tile, valid during the call.
type Ending struct {
	// Block is the block, Row its first row, Rows how many it has.
	Block, Row, Rows int
	// Denominator and Inverse [Rows] are d over all threads, and what O is multiplied by
	// (1/d; d itself where every element is divided). LSE [Rows] is the log-sum-exp, NaN
	// where the kernel writes none.
	Denominator, Inverse, LSE []float32
}

func grow[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

func (ws *Workspace) fit(k *Kernel, dim int) {
	bq, bk := k.tiling.BlockQ, k.tiling.BlockK
	ws.q = grow(ws.q, bq*dim)
	ws.qMean = grow(ws.qMean, dim)
	ws.qCodes = grow(ws.qCodes, bq*k.CodeDim(dim))
	if k.rotate != quant.Unrotated {
		ws.rotated = grow(ws.rotated, bq*k.CodeDim(dim))
	}
	ws.qScale = grow(ws.qScale, bq)
	ws.amax = grow(ws.amax, bq)
	ws.keys = grow(ws.keys, bk*dim)
	ws.deltaS = grow(ws.deltaS, bk)
	ws.sInt = grow(ws.sInt, bq*bk)
	ws.s = grow(ws.s, bq*bk)
	ws.pCodes = grow(ws.pCodes, bq*bk)
	ws.vCodes = grow(ws.vCodes, dim*bk)
	if k.byValue() {
		ws.pValues = grow(ws.pValues, bq*bk)
		ws.vValues = grow(ws.vValues, dim*bk)
		ws.o64 = grow(ws.o64, bq*dim)
	}
	ws.m = grow(ws.m, bq)
	ws.d = grow(ws.d, bq*threads)
	ws.alpha, ws.factor = grow(ws.alpha, bq), grow(ws.factor, bq)
	ws.o = grow(ws.o, bq*dim)
	ws.tile = grow(ws.tile, bq*dim)
	ws.scratch = grow(ws.scratch, bk)
	ws.added = grow(ws.added, bk)
	ws.visible, ws.gone = grow(ws.visible, bk), grow(ws.gone, bk)
	ws.seen, ws.total = grow(ws.seen, bq), grow(ws.total, bq)
	ws.index = grow(ws.index, bq)
}

// byValue says that the second product takes values instead of codes: of exact P or V,
// or through exact sums.
func (k *Kernel) byValue() bool {
	return k.p.exact || k.v.exact || k.exactSums()
}

func (k *Kernel) exactSums() bool { return k.pvUnit == nil && !k.intPV }

// runRows runs the first rows of the workspace from their codes to the output. It
// returns an error only if ctx ends.
func (k *Kernel) runRows(ctx context.Context, q *Query, ws *Workspace, block, rows int, out, lse []float32) error {
	d := q.kv.in.Dim
	k.loadQueries(ws, rows, d)
	parts := k.prog.Parts()
	if parts == 1 {
		first, last := k.tiles(q, block)
		if err := k.runTiles(ctx, q, ws, block, rows, first, last, last); err != nil {
			return err
		}
		k.finish(q, ws, block, rows, out, lse)
		return nil
	}
	ws.parts, ws.partLSE = grow(ws.parts, parts*rows*d), grow(ws.partLSE, parts*rows)
	for lo := 0; lo < rows; {
		s := k.split(q, ws, block, lo, rows)
		for i := range parts {
			from, to := max(s.first, s.start+i*s.per), min(s.last, s.start+(i+1)*s.per)
			if err := k.runTiles(ctx, q, ws, block, rows, from, max(from, to), s.last); err != nil {
				return err
			}
			k.finishPart(q, ws, lo, s.end, ws.parts[i*rows*d:], ws.partLSE[i*rows:])
		}
		lo = s.end
	}
	if k.prog.Tiles.Combine == "fa3" {
		k.combineFA3(q, ws, parts, rows, out, lse)
	} else {
		k.combineFA2(q, ws, parts, rows, out, lse)
	}
	return nil
}

// split is how the keys of some rows are split: of the tiles [first, last) that they look
// at, part i takes those from start + i*per on, per of them. The rows end before end.
type split struct{ first, last, start, per, end int }

// split returns how the keys of the workspace's row lo are split, and of those behind it
// that have it alike.
func (k *Kernel) split(q *Query, ws *Workspace, block, lo, rows int) split {
	parts, bq, bk := k.prog.Parts(), k.tiling.BlockQ, k.tiling.BlockK
	if k.prog.Tiles.Combine == "fa2" {
		first, last := k.tiles(q, block)
		all := (q.kv.in.Len + bk - 1) / bk
		return split{first, last, 0, (all + parts - 1) / parts, rows}
	}
	// Rows of all heads of the group are packed into tiles (hopper/block.h, pack_gqa.h).
	group := max(1, q.in.Group)
	packed := func(r int) int { return (ws.index[r]*group + q.in.Member) / bq }
	tile := packed(lo)
	end := lo + 1
	for end < rows && packed(end) == tile {
		end++
	}
	first, last := k.tilesOf(q, tile*bq/group, ((tile+1)*bq-1)/group+1)
	return split{first, last, first, (last - first + parts - 1) / parts, end}
}

// runTiles runs tiles [first, last) of keys, in the program's order; a block looks at all
// tiles below end.
func (k *Kernel) runTiles(ctx context.Context, q *Query, ws *Workspace, block, rows, first, last, end int) error {
	kv := q.kv
	d := kv.in.Dim
	if k.takesLanes(q, ws) {
		if done, err := k.runLanes(ctx, q, ws, block, rows, first, last, end); done || err != nil {
			return err
		}
	}
	if k.scoreUnit != nil {
		k.loadScorePanel(&ws.qPanel, ws, ws.q, rows, d)
	}
	k.startRows(ws, rows)
	clear(ws.o[:rows*d])
	if k.exactSums() {
		clear(ws.o64[:rows*d])
	}
	walk := k.walk(q, ws, block, first, last, end)
	idle := idleRow{m: k.start}
	for i := range last - first {
		t := k.tileAt(i, first, last)
		if i%(kv.windowKeys/k.tiling.BlockK) == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		at, runs := walk.next(i, t)
		if !runs {
			continue
		}
		k.scores(ws, kv, t, rows)
		if k.prog.PV.Threshold != 0 && !at.tail && k.passed(q, ws, t, rows, &idle) {
			continue
		}
		k.softmax(q, ws, t, rows, at)
		k.multiplyV(ws, kv, t, rows, at)
		if ws.Observer != nil {
			k.observe(ws, kv, block, t, rows)
		}
	}
	return nil
}

// tileWalk goes through the tiles that a block looks at.
type tileWalk struct {
	k                       *Kernel
	q                       *Query
	ws                      *Workspace
	block, first, last, end int
	listed, run             int // tiles of a block map, and those of them so far
}

// walk starts with tiles [first, last) of a block that looks at all below end.
func (k *Kernel) walk(q *Query, ws *Workspace, block, first, last, end int) tileWalk {
	return tileWalk{k, q, ws, block, first, last, end, k.listed(q, ws, block, first, last), 0}
}

// next says where the i-th of the tiles stands, which is t, and whether it is run.
func (w *tileWalk) next(i, t int) (at place, runs bool) {
	if w.q.in.Listed == nil {
		at = place{first: i == 0, tail: w.k.tail(t, w.end), last: t == w.end-1, final: i == w.last-w.first-1}
		return at, !w.k.hidden(w.q, w.ws, w.block, t)
	}
	if !w.ws.list[i] {
		return at, false
	}
	last := w.run == w.listed-1
	at = place{first: w.run == 0, tail: w.k.tail(w.run, w.listed), last: last, final: last}
	w.run++
	return at, true
}

// listed fills ws.list with which of the tiles [first, last) a block map lists for a block, and
// returns how many.
func (k *Kernel) listed(q *Query, ws *Workspace, block, first, last int) (n int) {
	if q.in.Listed == nil {
		return 0
	}
	ws.list = grow(ws.list, last-first)
	q.in.Listed(block, first, last, ws.list)
	for _, in := range ws.list {
		if in {
			n++
		}
	}
	return n
}

// idleRow is a row of a block behind the last query: its scores are zero. It counts where the
// rows of a block decide together, and has a maximum as the others.
type idleRow struct{ m float32 }

// passed says whether a tile adds nothing to its block because of PV.Threshold, and does then
// what is left to do: the maxima and what they rescale. Its scores are there.
func (k *Kernel) passed(q *Query, ws *Workspace, t, rows int, idle *idleRow) bool {
	bk := k.tiling.BlockK
	tops := ws.factor[:rows] // which softmax sets
	var scale [threads]float32
	for r := range rows {
		s := ws.s[r*bk : r*bk+bk]
		k.dequantize(q, ws, r, t*bk, s, &scale, false, false)
		var top [threads]float32
		for j := range top {
			top[j] = k.start
		}
		for i, x := range s {
			if j := i & 7 >> 1; x > top[j] {
				top[j] = x
			}
		}
		tops[r] = k.scaledTop(&top, &scale)
	}
	if !k.passes(ws, tops, scale[0], idle) {
		return false
	}
	d := q.kv.in.Dim
	for r := range rows {
		ws.total[r] += bk
		for c := range d {
			ws.o[r*d+c] = k.arith.mul(ws.o[r*d+c], ws.alpha[r])
		}
	}
	return true
}

// scaledTop is a row's largest score in the exponent's unit.
func (k *Kernel) scaledTop(top, scale *[threads]float32) float32 {
	m := float32(math.NaN())
	for j, x := range top {
		if x = k.arith.mul(x, scale[j]); x > m || m != m {
			m = x
		}
	}
	return m
}

// passes is passed of the rows' largest scores and what a score of the last is multiplied by; it
// leaves O and its factors in ws.alpha.
func (k *Kernel) passes(ws *Workspace, tops []float32, scale float32, idle *idleRow) bool {
	most := k.start // of what a maximum grows by
	grows := func(old, top float32) float32 {
		if d := k.arith.sub(top, old); d > most {
			most = d
		}
		if top > old {
			return top
		}
		return old
	}
	for r, top := range tops {
		grows(ws.m[r], top)
	}
	if len(tops) < k.tiling.BlockQ {
		idle.m = grows(idle.m, k.arith.mul(0, scale))
	}
	if k.arith.add(most, float32(k.prog.PV.Threshold)) > 0 {
		return false
	}
	for r, top := range tops {
		old := ws.m[r]
		ws.m[r] = grows(old, top)
		ws.alpha[r] = k.ex2(k.arith.sub(old, ws.m[r]))
		for j := range threads {
			ws.d[r*threads+j] = k.arith.mul(ws.d[r*threads+j], ws.alpha[r])
		}
	}
	return true
}

// startRows starts the softmax of the rows.
func (k *Kernel) startRows(ws *Workspace, rows int) {
	for r := range rows {
		ws.m[r], ws.total[r] = k.start, 0
		for j := range threads {
			ws.d[r*threads+j] = float32(k.prog.Denominator.Start)
		}
	}
}

// tileAt is the i-th of tiles [first, last) in the program's order.
func (k *Kernel) tileAt(i, first, last int) int {
	if k.prog.Tiles.Order == "last-to-first" {
		return last - 1 - i
	}
	return first + i
}

// hidden says whether a tile is skipped because a boolean mask hides all of it from every
// row of the block.
func (k *Kernel) hidden(q *Query, ws *Workspace, block, t int) bool {
	if q.in.Visible == nil || k.prog.Mask.Hidden != "skip" {
		return false
	}
	bq, lo := k.tiling.BlockQ, t*k.tiling.BlockK
	n := min(k.tiling.BlockK, q.kv.in.Len-lo)
	for row := block * bq; row < min((block+1)*bq, q.in.Len); row++ {
		q.in.Visible(row, lo, lo+n, ws.visible[:n])
		if slices.Contains(ws.visible[:n], true) {
			return false
		}
	}
	return true
}

// loadQueries lays out the queries of integer scores as vector levels take them.
func (k *Kernel) loadQueries(ws *Workspace, rows, d int) {
	if k.vectorScores() {
		ws.qStrips = k.packStrips(ws.qStrips, ws.qCodes, k.CodeDim(d), rows)
	}
}

// scoreLayout says how channels lie in the operands of the first product, which are padded to
// the unit's depth, if there is one: a channel from short on lies shift further on.
func (k *Kernel) scoreLayout(d int) (depth, short, shift int) {
	const part = 32
	if k.scoreUnit == nil {
		return d, d, 0
	}
	if k.prog.Scores.HeadDim == "residual32" && d%part != 0 {
		return (d + part - 1) / part * part, d % part, part - d%part
	}
	return (d + k.scoreUnit.K - 1) / k.scoreUnit.K * k.scoreUnit.K, d, 0
}

// loadScorePanel loads rows of x, padded to the unit's depth, in its order of channels.
func (k *Kernel) loadScorePanel(p *tensorcore.Panel, ws *Workspace, x []float32, rows, d int) {
	u := k.scoreUnit
	depth, short, shift := k.scoreLayout(d)
	ws.wide = grow(ws.wide, rows*depth)
	clear(ws.wide)
	for r := range rows {
		for c, v := range x[r*d : r*d+d] {
			if c >= short {
				c += shift
			}
			ws.wide[r*depth+c] = encodeOperand(u.A, v)
		}
	}
	p.Load(u.A, ws.wide, rows, depth, depth)
}

// encodeOperand is the code of a value that the format has.
func encodeOperand(f tensorcore.Operand, x float32) uint16 {
	switch f {
	case tensorcore.E4M3:
		return uint16(format.E4M3FromFloat32(x))
	case tensorcore.E5M2:
		return uint16(format.E5M2FromFloat32(x))
	case tensorcore.BF16:
		return format.BF16FromFloat32(x)
	}
	return format.FP16FromFloat32(x)
}

// scores computes the products of a tile; keys beyond the end give 0, they are masked
// later. Integers go to sInt, all to s as FP32.
func (k *Kernel) scores(ws *Workspace, kv *KV, t, rows int) {
	d := kv.in.Dim
	bk := k.tiling.BlockK
	lo := t * bk
	n := min(bk, kv.in.Len-lo)
	w, at := kv.windowAt(lo, ws)
	switch {
	case k.integer:
		k.intScores(ws, w, at, k.CodeDim(d), rows, n)
	case k.scoreUnit != nil:
		clear(ws.s[:rows*bk])
		k.loadScorePanel(&ws.kPanel, ws, w.kRaw[at*d:], bk, d)
		k.scoreUnit.TileAt(k.level.unit, ws.s[:rows*bk], &ws.qPanel, &ws.kPanel)
	default:
		for r := range rows {
			q := ws.q[r*d : r*d+d]
			for i := 0; i < bk; i += together { // whole, as tiles have 16 keys or more
				for j, s := range exactDots(q, w.kRaw[(at+i)*d:], d, bk-i) {
					ws.s[r*bk+i+j] = float32(s)
				}
			}
		}
	}
}

// place says where a tile stands among those that a block looks at: the first in the order of
// the program; one of the tail of the scores; the one with the last keys; the last in that order.
type place struct{ first, tail, last, final bool }

// softmax turns the scores of a tile into P, its codes, the new row maxima, the
// rescaling factors and the denominators.
func (k *Kernel) softmax(q *Query, ws *Workspace, t, rows int, at place) {
	bk := k.tiling.BlockK
	delta := k.smoothQ && k.prog.Smoothing.DeltaS != "none"
	if delta {
		k.deltaScores(ws, q.kv, ws.qMean, t*bk)
	}
	for r := range rows {
		var scale [threads]float32
		s := ws.s[r*bk : r*bk+bk]
		k.dequantize(q, ws, r, t*bk, s, &scale, at.tail, delta)
		k.mask(q, ws, r, t*bk, s, at.tail)
		ws.total[r] += ws.seen[r]
		k.softmaxRow(ws, r, s, &scale, at)
		if bad := ws.m[r]; bad-bad != 0 && bad != k.start {
			ws.Counts[StageRowMax].add(bad)
		}
	}
}

// dequantize multiplies the scores of a row by what the program multiplies them by before
// the mask, and finds what is left for the exponent, for each of the row's threads.
func (k *Kernel) dequantize(q *Query, ws *Workspace, r, lo int, s []float32, scale *[threads]float32, tail, delta bool) {
	kv, g := q.kv, k.granularity
	for j := range scale {
		scale[j] = q.scale
	}
	added := k.add(q, ws, r, lo, len(s))
	if k.integer {
		if tail || g == quant.PerToken {
			for i, x := range s {
				var step float32 // of keys beyond the end
				if j := g.KeyGroup(k.tiling, lo+i); j < len(kv.kScales) {
					step = kv.kScales[j]
				}
				dequant := k.arith.mul(ws.qScale[r], step)
				if delta {
					s[i] = k.arith.fma(x, dequant, ws.deltaS[i])
				} else if added != nil {
					s[i] = k.arith.fma(x, dequant, added[i])
				} else {
					s[i] = k.arith.mul(x, dequant)
				}
			}
		} else {
			for j := range threads {
				// A thread's keys share a scale at every granularity but PerToken.
				dequant := k.arith.mul(ws.qScale[r], kv.kScales[g.KeyGroup(k.tiling, lo+2*j)])
				scale[j] = k.arith.mul(q.scale, dequant)
			}
		}
	}
	if k.prog.Scores.SMScale == "with-scale" {
		for i, x := range s {
			s[i] = k.arith.mul(x, scale[i&7>>1])
		}
		*scale = [threads]float32{1, 1, 1, 1}
	}
	if k.prog.Scores.SMScale == "scores" {
		sm := float32(q.sm)
		for i, x := range s {
			s[i] = k.arith.mul(sm, x)
		}
	}
	if q.cap != 0 {
		for i, x := range s {
			s[i] = mufu.Tanh(k.arith.mul(x, q.cap))
		}
	}
	if q.in.Bias != nil && k.prog.Mask.Additive == "log2e" {
		n := min(len(s), kv.in.Len-lo)
		q.in.Bias(ws.index[r], lo, lo+n, ws.scratch[:n])
		for i, b := range ws.scratch[:n] {
			s[i] = k.arith.add(s[i], k.arith.mul(b, math.Log2E))
			ws.gone[i] = b-b != 0
		}
	}
	if q.in.Bias != nil && k.prog.Mask.Additive == "scaled" {
		n := min(len(s), kv.in.Len-lo)
		q.in.Bias(ws.index[r], lo, lo+n, ws.scratch[:n])
		for i, b := range ws.scratch[:n] {
			s[i] = k.arith.add(s[i], b)
		}
	}
	if k.prog.Scores.SMScale == "scores" {
		for i, x := range s {
			s[i] = k.arith.mul(math.Log2E, x)
		}
	}
}

// add returns what is added to integer scores in one rounding with the product of their
// scale, nil for nothing: an additive mask, or a boolean one that adds.
func (k *Kernel) add(q *Query, ws *Workspace, r, lo, keys int) []float32 {
	bias := q.in.Bias != nil && k.prog.Mask.Additive == "with-scale"
	hide := q.in.Visible != nil && k.prog.Mask.Boolean == "add"
	if !k.integer || !bias && !hide {
		return nil
	}
	clear(ws.added)
	n := min(keys, q.kv.in.Len-lo)
	if bias {
		q.in.Bias(ws.index[r], lo, lo+n, ws.added[:n])
	}
	if hide {
		q.in.Visible(ws.index[r], lo, lo+n, ws.visible[:n])
		for i, see := range ws.visible[:n] {
			if !see {
				ws.added[i] += float32(k.prog.Mask.BooleanValue)
			}
		}
	}
	return ws.added
}

// span returns the scores of a row of n from key lo on that neither the end of the keys nor a
// causal mask or a window masks: those from from to to, each of which is at most n.
func (k *Kernel) span(q *Query, row, lo, n int, tail bool) (from, to int) {
	m := &k.prog.Mask
	if m.Tiles == "tail" && !tail {
		// No key of these tiles needs a mask.
		return 0, n
	}
	from, to = lo, lo+n
	if m.Beyond != "kept" {
		to = min(to, q.kv.in.Len)
	}
	at := row + k.align(q.in.Len, q.kv.in.Len)
	if q.in.Causal {
		to = min(to, k.causalEnd(q, row))
	}
	if q.in.Windowed {
		if q.in.Right >= 0 && !q.in.Causal {
			to = min(to, at+q.in.Right+1)
		}
		if q.in.Left >= 0 {
			from = max(from, at-q.in.Left)
		}
	}
	return min(from-lo, n), max(to-lo, 0)
}

// maskedScore is what a masked score x becomes, of a key that a row does not see.
func (k *Kernel) maskedScore(q *Query, x float32, key int) float32 {
	m := &k.prog.Mask
	if m.Beyond != "added" || q.in.Causal || key < q.kv.in.Len {
		return k.masked
	}
	beyond := float32(m.BeyondValue)
	if q.in.Bias != nil && m.Additive == "with-scale" {
		beyond = q.kv.in.DType.Round(beyond)
	}
	return k.arith.add(x, beyond)
}

// mask masks the scores of a row: those beyond the end, of keys that a causal mask or a
// window hides, and of a mask that came with the call.
func (k *Kernel) mask(q *Query, ws *Workspace, r, lo int, s []float32, tail bool) {
	m := &k.prog.Mask
	keys := q.kv.in.Len
	from, to := k.span(q, ws.index[r], lo, len(s), tail)
	if ws.seen[r] = max(0, to-from); m.Tiles == "tail" && !tail {
		return
	}
	for i := range from {
		s[i] = k.masked
	}
	for i := to; i < len(s); i++ {
		s[i] = k.maskedScore(q, s[i], lo+i)
	}
	n := min(len(s), keys-lo)
	adds := q.in.Bias != nil && m.Additive == "log2e"
	for i := range n {
		if !adds || !ws.gone[i] {
			continue
		}
		if s[i] = k.masked; i >= from && i < to {
			ws.seen[r]--
		}
	}
	if q.in.Visible == nil {
		return
	}
	q.in.Visible(ws.index[r], lo, lo+n, ws.visible[:n])
	for i, see := range ws.visible[:n] {
		if see {
			continue
		}
		if i >= from && i < to && !(adds && ws.gone[i]) {
			ws.seen[r]--
		}
		switch {
		case m.Boolean != "add":
			s[i] = k.masked
		case !k.integer:
			s[i] = k.arith.add(s[i], float32(m.BooleanValue))
		}
	}
}

// softmaxRow is the online softmax of one row of a tile.
func (k *Kernel) softmaxRow(ws *Workspace, r int, s []float32, scale *[threads]float32, at place) {
	top := k.threadTops(ws, s, k.bounded(at))
	lower, alpha := k.raise(ws, r, &top, scale, at)
	twice := k.prog.Exponent.Round == "twice"
	for i, x := range s {
		j := i & 7 >> 1
		s[i] = k.arith.mulAdd(x, scale[j], -lower[j], twice)
	}
	k.weights(ws, r, s, alpha, at)
}

// bounded says whether the maximum of a tile's scores is at least Maximum.Start.
func (k *Kernel) bounded(at place) bool { return k.prog.Maximum.Of != "tile-unbounded" || at.last }

// raise sets a row's maximum, given those of its threads' scores, its alpha and its factor. It
// returns what the exponents of its threads are lowered by, the maximum in their unit, and what
// the denominator is multiplied by.
func (k *Kernel) raise(ws *Workspace, r int, top, scale *[threads]float32, at place) (lower [threads]float32, alpha float32) {
	ws.factor[r] = 1
	if k.ofTile {
		return k.raiseTile(ws, r, top, scale)
	}
	old := ws.m[r]
	m := k.rowMax(old, top, scale)
	ws.m[r] = m
	scaled := k.prog.Maximum.Of == "scaled"
	shifted := scaled || k.prog.Maximum.Of == "shifted"
	seen := m
	if k.prog.Maximum.Unseen == "zero" && math.IsInf(float64(m), -1) {
		seen = 0
	}
	lowest := k.prog.Maximum.Unseen == "lowest"
	if lowest {
		seen = notBelow(m)
	}
	if shifted {
		alpha = k.ex2(k.arith.sub(old, seen))
		for j := range lower {
			if lower[j] = seen; scaled {
				lower[j] = k.arith.sub(seen, k.offset)
			}
		}
	} else {
		alpha = 1 // in the first tile, where there is nothing to rescale
		if !at.first {
			alpha = k.ex2(k.arith.mul(k.arith.sub(old, seen), scale[0]))
		}
		for j := range lower {
			by := seen
			if lowest {
				by = m
			}
			lower[j] = k.arith.mul(by, scale[j])
			if k.offset != 0 {
				lower[j] = k.arith.mulAdd(by, scale[j], -k.offset, k.prog.Maximum.Round == "twice")
			}
			if lowest {
				lower[j] = notBelow(lower[j])
			} else if seen != m {
				lower[j] = 0
			}
		}
	}
	ws.alpha[r] = alpha
	if k.prog.PV.Rescale == "none" {
		ws.alpha[r] = 1
	}
	if k.prog.Denominator.Rescale == "none" {
		alpha = 1
	}
	return lower, alpha
}

// notBelow is x, but FP32's lowest finite number at least, which stands for a NaN too (as
// CUDA's fmaxf has it).
func notBelow(x float32) float32 {
	if x >= -math.MaxFloat32 {
		return x
	}
	return -math.MaxFloat32
}

// raiseTile is raise where P is relative to the maximum of its own tile. What the tile adds is
// rescaled where the maximum of the tiles before is larger, and what they added where its own
// is.
func (k *Kernel) raiseTile(ws *Workspace, r int, top, scale *[threads]float32) (lower [threads]float32, alpha float32) {
	var m float32
	for j, x := range top {
		if x = k.arith.mulAdd(x, scale[j], -k.offset, k.prog.Maximum.Round == "twice"); j == 0 || x > m || m != m {
			m = x
		}
	}
	old := ws.m[r]
	if m > old || old != old {
		ws.m[r] = m
	}
	smaller := k.ex2(-float32(math.Abs(float64(k.arith.sub(old, m)))))
	alpha = 1
	switch {
	case old < m:
		alpha = smaller
	case m < old:
		ws.factor[r] = smaller
	}
	ws.alpha[r] = alpha
	return [threads]float32{m, m, m, m}, alpha
}

// weights makes P of the exponents of a row, its codes, and adds it to the denominator.
func (k *Kernel) weights(ws *Workspace, r int, s []float32, alpha float32, at place) {
	if k.prog.Exponent.Exp2 == "ex2.approx.ftz" {
		mufu.Ex2Slice(s, s)
	} else {
		for i, x := range s {
			s[i] = k.ex2(x)
		}
	}
	k.convertP(ws, r, s)
	k.sum(ws, r, s, alpha, at)
	limit := float32(0)
	switch {
	case k.p.typed:
		limit = k.p.kind.Max()
	case k.uint8P:
		limit = math.MaxUint8
	}
	for _, p := range s {
		if p-p != 0 {
			ws.Counts[StageP].add(p)
		} else if limit > 0 && k.scaledP(p) > limit {
			ws.Counts[StagePCodes].Saturated++
		}
	}
}

// rowMax returns the new maximum of a row, given those of its threads' scores.
func (k *Kernel) rowMax(m float32, top, scale *[threads]float32) float32 {
	if k.prog.Maximum.Of == "scores" {
		for _, x := range top {
			if x > m {
				m = x
			}
		}
		return m
	}
	scaled := k.prog.Maximum.Of == "scaled"
	for j, x := range top {
		if scaled {
			x = k.arith.mul(x, scale[j])
		} else {
			x = k.arith.mulAdd(x, scale[j], -k.offset, k.prog.Maximum.Round == "twice")
		}
		if x > m {
			m = x
		}
	}
	return m
}

// threadTops returns the largest score of each thread of a row, and at least Maximum.Start if
// it is bounded.
func (k *Kernel) threadTops(ws *Workspace, s []float32, bounded bool) (top [threads]float32) {
	for j := range top {
		if top[j] = k.start; !bounded {
			top[j] = float32(math.Inf(-1))
		}
	}
	for i, v := range s {
		j := i & 7 >> 1
		if v > top[j] {
			top[j] = v
		} else if v-v != 0 && v != k.masked {
			ws.Counts[StageScores].add(v)
		}
	}
	return top
}

// convertP writes the operand of a row of P, in the stored order of V.
func (k *Kernel) convertP(ws *Workspace, r int, s []float32) {
	codes := ws.pCodes[r*len(s) : (r+1)*len(s)]
	zero := k.prog.P.Round == "zero"
	switch {
	case k.p.exact:
	case k.p.typed && k.p.kind == quant.E4M3 && !zero:
		for i := range codes {
			codes[i] = uint16(format.E4M3FromFloat32(k.scaledP(s[k.Stored(i)])))
		}
	default:
		for i := range codes {
			codes[i] = k.p.encode(k.scaledP(s[k.Stored(i)]), zero)
		}
	}
	if k.byValue() {
		values := ws.pValues[r*len(s) : (r+1)*len(s)]
		for i := range values {
			if k.p.exact {
				values[i] = s[k.Stored(i)]
			} else {
				values[i] = k.p.decode(codes[i])
			}
		}
	}
}

// scaledP is an element of P as it is converted.
func (k *Kernel) scaledP(p float32) float32 {
	if k.pScale == 0 {
		return p
	}
	return k.arith.mul(p, k.pScale)
}

// decodedP writes what a row's operand stands for, in the order of the keys.
func (k *Kernel) decodedP(ws *Workspace, r, keys int, dst []float32) {
	for i := range keys {
		if k.p.exact {
			dst[k.Stored(i)] = ws.pValues[r*keys+i]
		} else {
			dst[k.Stored(i)] = k.p.decode(ws.pCodes[r*keys+i])
		}
	}
}

// sum adds a row's weights to its denominator.
func (k *Kernel) sum(ws *Workspace, r int, s []float32, alpha float32, at place) {
	weights := s
	if k.sumsCodes(at) {
		weights = ws.scratch[:len(s)]
		k.decodedP(ws, r, len(s), weights)
	}
	k.addWeights(ws, r, weights, alpha, at)
}

// sumsCodes says whether the denominator is the sum of what P's codes stand for.
func (k *Kernel) sumsCodes(at place) bool {
	of := k.prog.Denominator.Of
	return of == "codes" || of == "codes-but-last" && !at.last
}

// rescalesTwice says whether the rescaling of the denominator is rounded by itself.
func (k *Kernel) rescalesTwice(at place) bool {
	r := k.prog.Denominator.Rescale
	return r != "fma" && (r != "multiply-but-last" || !at.last)
}

func (k *Kernel) addWeights(ws *Workspace, r int, weights []float32, alpha float32, at place) {
	den := &k.prog.Denominator
	a := k.arith
	d := ws.d[r*threads : r*threads+threads]
	twice := k.rescalesTwice(at)
	if k.ofTile && twice {
		for j := range d {
			d[j] = a.mul(d[j], alpha)
		}
	}
	switch den.Order {
	case "groups16", "pairwise16":
		for b := 0; b < len(weights); b += 16 {
			p := weights[b : b+16]
			for j := range threads {
				sum := p[2*j] + p[2*j+1]
				if den.Order == "pairwise16" {
					sum += p[2*j+8] + p[2*j+9]
				} else {
					sum += p[2*j+8]
					sum += p[2*j+9]
				}
				switch {
				case k.ofTile && b == 0 && !twice:
					d[j] = a.fma(d[j], alpha, a.mul(sum, ws.factor[r]))
				case k.ofTile:
					d[j] = a.fma(sum, ws.factor[r], d[j])
				case b > 0:
					d[j] = a.add(d[j], sum)
				default:
					d[j] = a.mulAdd(d[j], alpha, sum, twice)
				}
			}
		}
	case "sequential":
		// The first p joins in one rounding with the rescaling, or after it.
		for j := range d {
			d[j] = a.mulAdd(d[j], alpha, weights[2*j], twice)
		}
		for i, p := range weights {
			if j := i & 7 >> 1; i != 2*j {
				d[j] = a.add(d[j], p)
			}
		}
	case "chain":
		d[0] = a.mul(d[0], alpha) // the unit adds the codes, with all rows
	case "tile":
		d[0] = a.mulAdd(d[0], alpha, k.combine(k.threadSums(weights)), twice)
	case "tile-tree":
		d[0] = a.mulAdd(d[0], alpha, k.combine(k.threadTrees(weights)), twice)
	case "groups32":
		d[0] = a.mul(d[0], alpha)
		for b := 0; b < len(weights); b += 32 {
			d[0] = a.add(d[0], k.combine(k.threadSums(weights[b:min(b+32, len(weights))])))
		}
	}
}

// threadSums adds each thread's weights, one after the other, from its first.
func (k *Kernel) threadSums(weights []float32) (sums [threads]float32) {
	for i, p := range weights {
		if j := i & 7 >> 1; i == 2*j {
			sums[j] = p
		} else {
			sums[j] = k.arith.add(sums[j], p)
		}
	}
	return sums
}

// threadTrees adds each thread's weights as a balanced tree in the order of the keys.
func (k *Kernel) threadTrees(weights []float32) (sums [threads]float32) {
	var own []float32
	for j := range sums {
		own = own[:0]
		for i := 2 * j; i < len(weights); i += 8 {
			own = append(own, weights[i], weights[i+1])
		}
		for len(own) > 1 {
			for i := 0; i+1 < len(own); i += 2 {
				own[i/2] = k.arith.add(own[i], own[i+1])
			}
			if odd := len(own) % 2; odd != 0 {
				own[len(own)/2] = own[len(own)-1]
			}
			own = own[:(len(own)+1)/2]
		}
		sums[j] = own[0]
	}
	return sums
}

// combine adds the parts of a row's threads.
func (k *Kernel) combine(t [threads]float32) float32 {
	a := k.arith
	if k.prog.Denominator.Combine == "02+13" {
		return a.add(a.add(t[0], t[2]), a.add(t[1], t[3]))
	}
	return a.add(a.add(t[0], t[1]), a.add(t[2], t[3]))
}

// deltaScores computes the delta-S correction of a tile: the products of the
// block's mean query with every smoothed key (or every raw key), FP32, one fused
// multiply-add per channel in order.
func (k *Kernel) deltaScores(ws *Workspace, kv *KV, qMean []float32, lo int) {
	d := kv.in.Dim
	n := min(k.tiling.BlockK, kv.in.Len-lo)
	x := ws.keys[:n*d]
	kv.in.K(lo, lo+n, x)
	if k.prog.Smoothing.DeltaS != "raw" {
		k.smoothKeys(kv, x)
	}
	for i := range n {
		var s float32
		for c, v := range x[i*d : i*d+d] {
			s = k.arith.fma(qMean[c], v, s)
		}
		ws.deltaS[i] = s
	}
	clear(ws.deltaS[n:])
}

// multiplyV rescales O and adds the tile's PV.
func (k *Kernel) multiplyV(ws *Workspace, kv *KV, t, rows int, pos place) {
	d := kv.in.Dim
	bk := k.tiling.BlockK
	w, at := kv.windowAt(t*bk, ws)
	var values []float32
	if k.byValue() {
		values = ws.vValues
	}
	k.loadValues(w, ws.vCodes, values, d, at, bk)
	if k.onesUnit != nil {
		k.sumOnes(ws, rows)
	}
	if k.exactSums() && k.prog.OneChain() {
		k.multiplyExact(ws, rows, d)
		return
	}
	if k.prog.OneChain() {
		k.rescale(ws, rows, d)
		k.load(ws, rows, d, 0, bk)
		k.tileProduct(ws.o[:rows*d], ws)
		ws.Counts[StageTileSums].scan(ws.o[:rows*d])
		return
	}
	tile := ws.tile[:rows*d]
	twice := k.prog.PV.Join == "twice" || k.prog.PV.Join == "twice-but-last" && !pos.last
	for lo := 0; lo < bk; lo += k.sumKeys {
		if k.intPV {
			k.intTile(ws, tile, rows, d, lo, k.sumKeys)
		} else if k.exactSums() {
			k.exactTile(ws, tile, rows, d, lo, k.sumKeys)
		} else {
			clear(tile)
			k.load(ws, rows, d, lo, k.sumKeys)
			k.tileProduct(tile, ws)
		}
		ws.Counts[StageTileSums].scan(tile)
		if k.prog.PV.Join == "memory" {
			k.joinMemory(ws, tile, rows, d, pos.first, pos.final)
			continue
		}
		for r := range rows {
			o := ws.o[r*d : r*d+d]
			scale := ws.alpha[r]
			if lo > 0 {
				scale = 1
			}
			if k.ofTile {
				for c, x := range tile[r*d : r*d+d] {
					o[c] = k.arith.fma(x, ws.factor[r], k.arith.mul(o[c], scale))
				}
				continue
			}
			for c, x := range tile[r*d : r*d+d] {
				o[c] = k.arith.mulAdd(o[c], scale, x, twice)
			}
		}
	}
}

// joinMemory joins a tile's sums with an O that lives in memory.
func (k *Kernel) joinMemory(ws *Workspace, tile []float32, rows, d int, first, last bool) {
	a := k.arith
	for r := range rows {
		o, alpha, inverse := ws.o[r*d:r*d+d], ws.alpha[r], float32(1)
		if last {
			inverse = k.inverse(k.denominator(ws, r))
		}
		beta := a.mul(inverse, alpha)
		for c, x := range tile[r*d : r*d+d] {
			switch {
			case first && last:
				o[c] = a.mul(x, inverse)
			case first:
				o[c] = x
			case last:
				o[c] = a.fma(x, inverse, a.mul(beta, o[c]))
			default:
				o[c] = a.fma(alpha, o[c], x)
			}
		}
	}
}

// rescale multiplies O by alpha.
func (k *Kernel) rescale(ws *Workspace, rows, d int) {
	for r := range rows {
		o := ws.o[r*d : r*d+d]
		alpha := ws.alpha[r]
		if k.prog.PV.Rescale == "fp16" {
			alpha = format.RoundFP16(alpha)
			for c := range o {
				o[c] = format.RoundFP16(o[c] * alpha)
			}
			continue
		}
		for c := range o {
			o[c] = k.arith.mul(o[c], alpha)
		}
	}
}

// load loads keys [lo, lo+n) of the tile into the panels, padded with zeros to the
// unit's depth.
func (k *Kernel) load(ws *Workspace, rows, d, lo, n int) {
	bk := k.tiling.BlockK
	depth := k.pvUnit.K
	if k.p.exact {
		loadValues(&ws.pPanel, ws.pValues[lo:], rows, n, bk, depth)
	} else {
		loadCodes(&ws.pPanel, k.pvUnit, ws.pCodes[lo:], rows, n, bk)
	}
	if k.v.exact {
		loadValues(&ws.vPanel, ws.vValues[lo:], d, n, bk, depth)
	} else {
		loadCodes(&ws.vPanel, k.pvUnit, ws.vCodes[lo:], d, n, bk)
	}
}

// loadCodes loads rows of n codes, padded with zeros to the unit's depth.
func loadCodes(p *tensorcore.Panel, u *tensorcore.Unit, codes []uint16, rows, n, stride int) {
	codes, n, stride = padded(codes, rows, n, stride, u.K)
	p.Load(u.A, codes, rows, n, stride)
}

// loadValues loads rows of n values, padded with zeros to the depth.
func loadValues(p *tensorcore.Panel, x []float32, rows, n, stride, depth int) {
	x, n, stride = padded(x, rows, n, stride, depth)
	p.LoadValues(x, rows, n, stride)
}

// padded returns rows of n elements with zeros up to a multiple of depth: the rows as they
// are, or a copy.
func padded[T uint16 | float32](x []T, rows, n, stride, depth int) (y []T, width, newStride int) {
	width = (n + depth - 1) / depth * depth
	if width == n {
		return x, n, stride
	}
	y = make([]T, rows*width)
	for r := range rows {
		copy(y[r*width:], x[r*stride:r*stride+n])
	}
	return y, width, width
}

// tileProduct adds the product of the panels. Exact operands keep the exponents that they
// have as FP32 numbers.
func (k *Kernel) tileProduct(acc []float32, ws *Workspace) {
	if k.p.exact || k.v.exact {
		k.pvUnit.TileValuesAt(k.level.unit, acc, &ws.pPanel, &ws.vPanel)
		return
	}
	k.pvUnit.TileAt(k.level.unit, acc, &ws.pPanel, &ws.vPanel)
}

// sumOnes adds the tile's codes of P to d through the matrix unit.
func (k *Kernel) sumOnes(ws *Workspace, rows int) {
	bk := k.tiling.BlockK
	one := encodeOperand(k.onesUnit.A, 1)
	ws.wide = grow(ws.wide, bk)
	for i := range ws.wide[:bk] {
		ws.wide[i] = one
	}
	loadCodes(&ws.ones, k.onesUnit, ws.wide, 1, bk, bk)
	loadCodes(&ws.pPanel, k.onesUnit, ws.pCodes, rows, bk, bk)
	den := make([]float32, rows)
	for r := range den {
		den[r] = ws.d[r*threads]
	}
	k.onesUnit.TileAt(k.level.unit, den, &ws.pPanel, &ws.ones)
	for r, x := range den {
		ws.d[r*threads] = x
	}
}

// exactTile is the product of keys [lo, lo+n) of the tile in FP64, rounded to FP32.
func (k *Kernel) exactTile(ws *Workspace, tile []float32, rows, d, lo, n int) {
	bk := k.tiling.BlockK
	for r := range rows {
		p := ws.pValues[r*bk+lo:][:n]
		for c := range d {
			v := ws.vValues[c*bk+lo:][:len(p)]
			var s float64
			for i, x := range p {
				s += float64(float64(x) * float64(v[i]))
			}
			tile[r*d+c] = float32(s)
		}
	}
}

// multiplyExact adds a tile without rounding but FP64's.
func (k *Kernel) multiplyExact(ws *Workspace, rows, d int) {
	bk := k.tiling.BlockK
	for r := range rows {
		alpha := float64(ws.alpha[r])
		p := ws.pValues[r*bk : r*bk+bk]
		for c := 0; c < d; c += together {
			sums := exactDots(p, ws.vValues[c*bk:], bk, d-c)
			for i, s := range sums[:min(together, d-c)] {
				at := r*d + c + i
				ws.o64[at] = float64(ws.o64[at]*alpha) + float64(s*float64(ws.factor[r]))
				ws.o[at] = float32(ws.o64[at])
			}
		}
	}
}

// together is how many sums exactDots makes at once, so that no sum waits for itself.
const together = 4

// exactDots multiplies x with up to four of the n rows of y, which are stride apart, in FP64 and
// one product after the other. Sums of rows that are not there are zero.
func exactDots(x, y []float32, stride, n int) (s [together]float64) {
	if n < together {
		for i := range n {
			row := y[i*stride:][:len(x)]
			for j, a := range x {
				s[i] += float64(float64(a) * float64(row[j]))
			}
		}
		return s
	}
	y0, y1, y2, y3 := y[:len(x)], y[stride:][:len(x)], y[2*stride:][:len(x)], y[3*stride:][:len(x)]
	var s0, s1, s2, s3 float64
	for j, v := range x {
		a := float64(v)
		s0 += float64(a * float64(y0[j]))
		s1 += float64(a * float64(y1[j]))
		s2 += float64(a * float64(y2[j]))
		s3 += float64(a * float64(y3[j]))
	}
	return [together]float64{s0, s1, s2, s3}
}

// intTile is the product of the INT8 codes, or of unsigned codes of P and INT8 ones of V, of
// keys [lo, lo+n) of the tile: exact in int32, then converted to FP32.
func (k *Kernel) intTile(ws *Workspace, tile []float32, rows, d, lo, n int) {
	bk := k.tiling.BlockK
	for r := range rows {
		p := ws.pCodes[r*bk+lo:][:n]
		for c := range d {
			v := ws.vCodes[c*bk+lo:][:len(p)]
			var s int32
			for i, x := range p {
				if k.uint8P {
					s += int32(x) * int32(int8(v[i]))
				} else {
					s += int32(int8(x)) * int32(int8(v[i]))
				}
			}
			tile[r*d+c] = float32(s)
		}
	}
}

// finish divides O by the denominator, applies V's scale and mean and rounds to the
// output's dtype.
func (k *Kernel) finish(q *Query, ws *Workspace, block, rows int, out, lse []float32) {
	d := q.kv.in.Dim
	var end *Ending
	if ws.Ending != nil {
		end = &Ending{Block: block, Row: block * k.tiling.BlockQ, Rows: rows,
			Denominator: make([]float32, rows), Inverse: make([]float32, rows), LSE: make([]float32, rows)}
	}
	for r := range rows {
		den := k.denominator(ws, r)
		if den-den != 0 || den == 0 {
			ws.Counts[StageDenominator].add(den)
			if den == 0 {
				ws.Counts[StageDenominator].Zero++
			}
		}
		inverse := k.inverse(den)
		sum := k.lse(q, den, ws.m[r])
		if lse != nil {
			lse[r] = sum
		}
		if end != nil {
			end.Denominator[r], end.Inverse[r], end.LSE[r] = den, inverse, sum
		}
		hidden := k.prog.Finish.Empty == "hidden-zero" && ws.total[r] == 0
		k.finishRow(q.kv, ws, den, inverse, hidden, ws.o[r*d:r*d+d], out[r*d:r*d+d])
	}
	if end != nil {
		ws.Ending(end)
	}
}

// denominator is a row's d over all threads.
func (k *Kernel) denominator(ws *Workspace, r int) float32 {
	t := [threads]float32(ws.d[r*threads : r*threads+threads])
	switch k.prog.Denominator.Order {
	case "groups16", "pairwise16", "sequential":
		return k.combine(t)
	}
	return t[0]
}

// finishPart makes the output of one part of the keys, in FP32, and its log-sum-exp.
func (k *Kernel) finishPart(q *Query, ws *Workspace, lo, hi int, out, lse []float32) {
	d := q.kv.in.Dim
	for r := lo; r < hi; r++ {
		den := k.denominator(ws, r)
		inverse := k.inverse(den)
		for c, x := range ws.o[r*d : r*d+d] {
			if k.prog.Finish.Inverse == "divide" {
				out[r*d+c] = k.arith.flush(x / den)
			} else {
				out[r*d+c] = k.arith.mul(x, inverse)
			}
		}
		lse[r] = float32(math.Inf(-1))
		if den != 0 && den == den {
			lse[r] = k.lse(q, den, ws.m[r])
		}
	}
}

// combineFA3 joins the parts as FlashAttention-3's combine kernel does
// (hopper/flash_fwd_combine_kernel.h): the weights of the parts are shares of a sum that a
// number of lanes takes, which depends on head_dim, all with approximate functions.
func (k *Kernel) combineFA3(q *Query, ws *Workspace, parts, rows int, out, lse []float32) {
	a, d := k.arith, q.kv.in.Dim
	to := k.OutputDType(q.kv.in.DType)
	lanes := 32
	if d <= 64 {
		lanes = 16
	}
	acc, weights := make([]float32, d), make([]float32, parts)
	sums, next := make([]float32, lanes), make([]float32, lanes)
	for r := range rows {
		top := float32(math.Inf(-1))
		for i := range parts {
			top = max(top, ws.partLSE[i*rows+r])
		}
		base := top
		if math.IsInf(float64(top), -1) {
			base = 0
		}
		clear(sums)
		for i := range parts {
			weights[i] = mufu.Ex2(a.mul(a.sub(ws.partLSE[i*rows+r], base), math.Log2E))
			sums[i%lanes] = a.add(sums[i%lanes], weights[i])
		}
		for off := lanes / 2; off > 0; off /= 2 {
			for l := range sums {
				next[l] = a.add(sums[l], sums[l^off])
			}
			sums, next = next, sums
		}
		sum := sums[0]
		if lse != nil {
			lse[r] = a.fma(mufu.Lg2(sum), ln2, top)
		}
		inverse := float32(0)
		if sum != 0 && sum == sum {
			inverse = mufu.Rcp(sum)
		}
		clear(acc)
		for i, w := range weights {
			if w = a.mul(w, inverse); !(w > 0) {
				continue
			}
			for c, x := range ws.parts[(i*rows+r)*d:][:d] {
				acc[c] = a.fma(w, x, acc[c])
			}
		}
		for c, x := range acc {
			out[r*d+c] = to.Round(x)
		}
	}
}

// combineFA2 joins the parts as FlashAttention-2's combine kernel does
// (flash_fwd_kernel.h, combine_attn_seqk_parallel): the weights exp(lse_i - lse) of the
// parts, whose sum is taken by a number of lanes that depends on head_dim.
func (k *Kernel) combineFA2(q *Query, ws *Workspace, parts, rows int, out, lse []float32) {
	d := q.kv.in.Dim
	to := k.OutputDType(q.kv.in.DType)
	lanes := 2
	for lanes < parts {
		lanes *= 2
	}
	padded := d
	for _, n := range []int{256, 192, 128, 96, 64, 32} {
		if d <= n {
			padded = n
		}
	}
	lanes = min(lanes, map[int]int{32: 8, 64: 16, 96: 8, 128: 32, 192: 16, 256: 32}[padded])
	inf := float32(math.Inf(1))
	acc := make([]float32, d)
	sums, next := make([]float32, lanes), make([]float32, lanes)
	for r := range rows {
		top := -inf
		for i := range parts {
			top = max(top, ws.partLSE[i*rows+r])
		}
		base := top
		if top == -inf {
			base = 0
		}
		for l := range sums {
			sums[l] = 0
			for i := l; i < parts || i == l; i += lanes {
				x := -inf
				if i < parts {
					x = ws.partLSE[i*rows+r]
				}
				sums[l] += libm.Expf(x - base)
			}
		}
		for off := lanes / 2; off > 0; off /= 2 {
			for l := range sums {
				next[l] = sums[l] + sums[l^off]
			}
			sums, next = next, sums
		}
		total := inf
		if sums[0] != 0 && sums[0] == sums[0] {
			total = base + libm.Logf(sums[0])
		}
		if lse != nil {
			lse[r] = total
		}
		clear(acc)
		for i := range parts {
			w := libm.Expf(ws.partLSE[i*rows+r] - total)
			for c, x := range ws.parts[(i*rows+r)*d:][:d] {
				acc[c] = format.FMA(w, x, acc[c])
			}
		}
		for c, x := range acc {
			out[r*d+c] = to.Round(x)
		}
	}
}

// inverse is what O is multiplied by.
func (k *Kernel) inverse(den float32) float32 {
	if den == 0 || den != den {
		switch k.prog.Finish.Empty {
		case "one":
			return 1
		case "zero":
			return 0
		}
	}
	switch k.prog.Finish.Inverse {
	case "exact":
		if k.arith.keep {
			return 1 / den
		}
		return exactRcp(den)
	case "divide", "div.full":
		return den
	}
	return mufu.Rcp(den)
}

// ln2 is the FP32 constant of CUDA's natural logarithm.
const ln2 = float32(0.69314718246459960938)

// lse is the log-sum-exp of a row; NaN where the kernel writes none.
func (k *Kernel) lse(q *Query, den, m float32) float32 {
	a := k.arith
	switch k.prog.LSE.Form {
	case "base2":
		return a.add(mufu.Lg2(den), m)
	case "base2-libdevice":
		return a.add(libm.Log2f(den), m)
	case "base2-scaled":
		return a.fma(m, q.scale, mufu.Lg2(den))
	case "natural-libm":
		const log2e = float32(math.Log2E)
		if math.IsInf(float64(m), -1) {
			m = 0
		}
		if den == 0 {
			den = 1
		}
		return float32(m/log2e) + libm.Logf(den)
	case "natural":
		if den == 0 || den != den {
			return float32(math.Inf(1))
		}
		if den < 0x1p-126 { // the library's logarithm scales a subnormal number
			return a.fma(m, float32(q.sm), float32((mufu.Lg2(float32(den*0x1p24))-24)*ln2))
		}
		return a.fma(m, float32(q.sm), a.mul(mufu.Lg2(den), ln2))
	case "natural-offset":
		den = a.mul(den, float32(math.Ldexp(1, -int(k.offset))))
		if den == 0 || den != den {
			return float32(math.Inf(-1))
		}
		return a.fma(m, a.mul(q.scale, ln2), a.mul(mufu.Lg2(den), ln2))
	}
	return float32(math.NaN())
}

// finishRow makes a row of the output; O/d of a hidden one is zero.
func (k *Kernel) finishRow(kv *KV, ws *Workspace, den, inverse float32, hidden bool, o, out []float32) {
	a := k.arith
	f := &k.prog.Finish
	to := k.OutputDType(kv.in.DType)
	// Choices are looked at once for a row.
	exact, full, memory := f.Inverse == "divide", f.Inverse == "div.full", k.prog.PV.Join == "memory"
	byFactor, byScale, plusMean, plusMeanLast := f.Scale == "inverse", f.Scale == "output", f.Mean == "fma", f.Mean == "output"
	half, brain := f.First == "fp16", f.First == "fp32-as-bf16" && to == format.FP32
	even, zero := f.Round == "even", f.Round == "zero"
	divisor := mufu.NewDivisor(inverse, a.keep)
	if !hidden && k.finishVector(kv, &divisor, inverse, o, out) {
		return
	}
	for c, x := range o {
		switch {
		case exact:
			x = a.flush(a.flush(x) / a.flush(inverse))
		case full:
			x = divisor.Divide(x)
		default:
			factor := inverse
			switch {
			case byFactor:
				factor = a.mul(inverse, k.unscaled(kv.vScale[c]))
			case k.pScale != 0:
				factor = a.mul(inverse, k.unscaled(1))
			}
			if !memory { // where it is done
				x = a.mul(x, factor)
			}
		}
		if hidden {
			x = 0
		}
		switch {
		case plusMean && byScale:
			x = a.fma(x, kv.vScale[c], kv.vMean[c])
		case plusMean:
			x = a.add(x, kv.vMean[c])
		case byScale:
			x = a.mul(x, kv.vScale[c])
		}
		switch {
		case half:
			x = format.RoundFP16(x)
		case brain:
			x = format.RoundBF16(x)
		}
		y := x
		switch {
		case even:
			y = to.Round(x)
		case zero:
			y = to.RoundTowardZero(x)
		}
		if plusMeanLast {
			y = to.Round(y + kv.vMean[c])
		}
		if y-y != 0 {
			ws.Counts[StageOutput].add(y)
			if !math.IsInf(float64(x), 0) && x == x {
				ws.Counts[StageOutput].Saturated++
			}
		}
		out[c] = y
	}
}

// unscaled is V's scale without that of P, which its codes have.
func (k *Kernel) unscaled(vScale float32) float32 {
	if k.pScale == 0 {
		return vScale
	}
	return mufu.DivApprox(vScale, k.pScale)
}

func (k *Kernel) observe(ws *Workspace, kv *KV, block, t, rows int) {
	d := kv.in.Dim
	bq, bk := k.tiling.BlockQ, k.tiling.BlockK
	v := &Tile{
		Block: block, Index: t, Row: block * bq, Key: t * bk, Rows: rows, Keys: bk, Dim: d,
		Q: ws.q[:rows*d], QScale: ws.qScale[:rows], Visible: ws.seen[:rows],
		P: ws.s[:rows*bk], PCodes: ws.pCodes[:rows*bk], PDecoded: make([]float32, rows*bk),
		RowMax: ws.m[:rows], Rescale: ws.alpha[:rows], Factor: ws.factor[:rows],
		Output: ws.o[:rows*d], Denominators: ws.d[:rows*threads],
	}
	for r := range rows {
		k.decodedP(ws, r, bk, v.PDecoded[r*bk:(r+1)*bk])
	}
	if k.integer {
		v.QCodes, v.IntScores = ws.qCodes[:rows*k.CodeDim(d)], ws.sInt[:rows*bk]
	}
	if !k.prog.OneChain() {
		v.TileSums = ws.tile[:rows*d]
	}
	ws.Observer(v)
}

// NaturalLSE turns a base-2 log-sum-exp into what the released API returns: lse /
// 1.44269504, which PyTorch computes as a product with the FP32 reciprocal, plus the
// correction times the softmax scale.
func NaturalLSE(lse, correction, scale float32) float32 {
	// The conversions keep compilers from fusing the operations.
	return float32(lse*invLog2e) + float32(correction*scale)
}

// invLog2e is how the released API turns its base-2 log-sum-exp into a natural one: a
// multiplication by the FP32 reciprocal of 1.44269504.
const invLog2e = float32(1 / float32(1.44269504))

// NaturalLSE turns a row's log-sum-exp, as the kernel writes it, into the natural one
// that the kernel's callers return: x is the row of Q, of which the released API needs
// the product with K's mean. Of base2-scaled, which callers return in base 2, it is the FP32
// product with ln 2.
func (q *Query) NaturalLSE(lse float32, x []float32) float32 {
	switch form := q.kernel.prog.LSE.Form; {
	case form == "base2-scaled":
		return float32(lse * ln2)
	case !strings.HasPrefix(form, "base2"):
		return lse
	}
	return NaturalLSE(lse, q.LSECorrection(x), float32(q.sm))
}

// LSECorrection returns the product of the query row x with the mean that was
// subtracted from K, rounded to the input dtype; 0 where K was not smoothed. The
// released API forms it with a framework's matrix multiplication; here it is the
// exact product rounded once, which may differ from a particular library's in
// that dtype's last place.
func (q *Query) LSECorrection(x []float32) float32 {
	var s float64
	for c, m := range q.kv.mean {
		s += float64(float64(x[c]) * float64(m))
	}
	return q.kv.in.DType.Round(float32(s))
}
