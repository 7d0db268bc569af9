package emulate

import (
	"context"
	"math"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/internal/vec"
	"github.com/sageacc/sageacc/emulate/mufu"
	"github.com/sageacc/sageacc/emulate/quant"
)

// This file runs blocks of query rows with the vector kernels, in strips of
// vec.Rows rows. NaN and infinities of the inputs go beside them (odd.go). Whatever they
// cannot do exactly, sums that overflow above all, makes runStrips give a block up, and
// the portable code does it.

// strip is the state of a strip, with the row as the fast index.
type strip struct {
	q   []uint8   // [whole(Dim)/4][Rows][4], biased by 128
	o   []float32 // [Dim][Rows]
	d   []float32 // [threads][Rows]
	top []float32 // [threads][Rows]

	m, rescale, qScale [vec.Rows]float32
	limit              [vec.Rows]int32

	odd oddRows
}

// strips are the strips of blocks and what they share.
type strips struct {
	blocks  []inStrips
	strip   []strip   // [blocks][BlockQ/Rows]
	s       []float32 // [BlockK][Rows], first as int32
	slots   [2]slot
	start   []float32 // [threads][Rows], where a tile's maxima start
	kScale  []float32 // [BlockK]
	delta   []float32 // [BlockK]
	nan     oddKeys
	turned  []float32 // of turnedKeys
	out     []float32 // [Dim][Rows], of finishStrip
	zeros   []float32 // [Dim], negative ones
	scratch vec.Scratch
}

// slot holds what a tile of keys gives a strip until its product with V, which takes two
// strips at a time where that is faster.
type slot struct {
	p    []float32 // [BlockK+1][Rows], P~; the last row is zero
	pe   []uint8   // [BlockK][Rows], its exponents
	tile []float32 // [Dim][Rows], zeros between tiles where Dot takes it; DotTiles leaves anything

	block *inStrips
	strip *strip
	tail  bool
}

// fitStrips returns strips for n blocks of a kernel whose maxima start so.
func (ws *Workspace) fitStrips(bq, bk, dim, n int, start float32) *strips {
	const rows = vec.Rows
	s := ws.strips
	if s == nil || len(s.s) != bk*rows || len(s.slots[0].tile) != dim*rows {
		s = &strips{
			s: make([]float32, bk*rows), start: make([]float32, threads*rows),
			kScale: make([]float32, bk), delta: make([]float32, bk), zeros: make([]float32, dim),
		}
		for i := range s.slots {
			s.slots[i] = slot{p: make([]float32, (bk+1)*rows), pe: make([]uint8, bk*rows), tile: make([]float32, dim*rows)}
		}
		for i := range s.zeros {
			s.zeros[i] = float32(math.Copysign(0, -1))
		}
		ws.strips = s
	}
	for cap(s.blocks) < n {
		s.blocks = append(s.blocks[:cap(s.blocks)], inStrips{})
	}
	s.blocks = s.blocks[:n]
	for i := range s.blocks {
		s.blocks[i].qMean = grow(s.blocks[i].qMean, dim)
	}
	for len(s.strip) < n*bq/rows {
		s.strip = append(s.strip, strip{
			q: make([]uint8, whole(dim)*rows), o: make([]float32, dim*rows),
			d: make([]float32, threads*rows), top: make([]float32, threads*rows),
		})
	}
	for i := range s.start {
		s.start[i] = start
	}
	for i := range s.slots {
		clear(s.slots[i].tile)
		clear(s.slots[i].p[bk*rows:])
	}
	return s
}

// formats of P~ and V for the vector kernels; nil where there are none.
var (
	valueFormats = [...]*vec.ValueFormat{
		quant.E4M3: vec.NewValueFormat(func(c uint8) float32 { return format.E4M3(c).Float32() }, -6, 112),
		quant.E5M2: vec.NewValueFormat(func(c uint8) float32 { return format.E5M2(c).Float32() }, -14, 98),
		quant.INT8: nil,
		quant.FP16: vec.NewWideFormat(),
	}
	weightFormats = [...]vec.Format{quant.E4M3: vec.E4M3, quant.E5M2: vec.E5M2, quant.INT8: vec.INT8, quant.FP16: vec.FP16}
	ex2Table      = mufu.Ex2Coefficients()
	ones          = func() (s [vec.Rows]float32) {
		for i := range s {
			s[i] = 1
		}
		return s
	}()
)

// prepareStrips finds out whether a kv head's blocks can run in strips, as long as
// V's codes are finite.
func (k *Kernel) prepareStrips(kv *KV) {
	if k.level.l == vec.Portable {
		return
	}
	kv.strips = true
	kv.vOrdinary = true
	for c, s := range kv.vScale {
		if format.FlushSubnormal(s) != s || kv.vMean != nil && format.FlushSubnormal(kv.vMean[c]) != kv.vMean[c] {
			kv.vOrdinary = false
		}
		if kv.values.Dead(c) {
			if kv.dead == nil {
				kv.dead = make([]bool, kv.in.Dim)
			}
			kv.dead[c] = true
			kv.deadCount++
		}
	}
}

// inStrips is what runStrips needs of a block beside its strips.
type inStrips struct {
	block, rows int
	qMean       []float32 // [Dim], of a smoothed Q
	failed      bool
}

// runStrips runs n blocks of query rows from first on to the output. It returns the
// numbers, from 0 on, of those that it could not run, and an error only if ctx ends.
func (k *Kernel) runStrips(ctx context.Context, q *Query, ws *Workspace, first, n int, out, lse []float32) (failed []int, err error) {
	kv := q.kv
	d, bq, bk := kv.in.Dim, k.tiling.BlockQ, k.tiling.BlockK
	ss := ws.fitStrips(bq, bk, d, n, k.start)
	per := bq / vec.Rows
	last := 0
	for i := range ss.blocks {
		b := &ss.blocks[i]
		*b = inStrips{block: first + i, rows: k.loadCodes(q, ws, first+i), qMean: b.qMean}
		copy(b.qMean, ws.qMean)
		for j := range (b.rows + vec.Rows - 1) / vec.Rows {
			ss.strip[i*per+j].load(k, ws, d, j*vec.Rows, min(vec.Rows, b.rows-j*vec.Rows))
		}
		last = max(last, k.stripTiles(q, first+i))
	}
	// Window by window, as a window may have to be made; within one, as many blocks as have
	// two strips, whose state then stays in cache.
	together := k.stripBlocks()
	for lo := 0; lo < last; lo += kv.windowKeys / bk {
		hi := min(lo+kv.windowKeys/bk, last)
		w := kv.window(lo*bk/kv.windowKeys, ws)
		for i := 0; i < n; i += together {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			blocks := ss.blocks[i:min(i+together, n)]
			for t := lo; t < hi; t++ {
				k.runTile(q, ws, w, blocks, ss.strip[i*per:], t)
			}
		}
	}
	for i := range ss.blocks {
		b := &ss.blocks[i]
		if b.failed {
			failed = append(failed, i)
			continue
		}
		for j := 0; j*vec.Rows < b.rows; j++ {
			lo, hi := j*vec.Rows, min((j+1)*vec.Rows, b.rows)
			at := i*bq + lo
			var l []float32
			if lse != nil {
				l = lse[at : at+hi-lo]
			}
			st := &ss.strip[i*per+j]
			st.endOdd()
			k.finishStrip(q, ws, st, lo, hi, out[at*d:(at+hi-lo)*d], l)
			st.finishDead(kv, ws, out[at*d:(at+hi-lo)*d])
			ws.Counts.Merge(&st.odd.counts)
		}
	}
	return failed, nil
}

// dequantized says whether the scores of a tile are dequantised first.
func (k *Kernel) dequantized(tail bool) bool { return tail || k.granularity == quant.PerToken }

// stripTiles is how many tiles of keys a block looks at, from the first on.
func (k *Kernel) stripTiles(q *Query, block int) int {
	_, n := k.tiles(q, block)
	return n
}

// stripScales finds the scales and the delta-S of a tile: by key where the scores
// are dequantised first, by thread where they are not.
func (k *Kernel) stripScales(ws *Workspace, kv *KV, w *window, qMean []float32, lo int, tail bool) {
	ss, g := ws.strips, k.granularity
	if !k.dequantized(tail) {
		for j := range threads {
			// A thread's keys share a scale at every granularity but PerToken.
			ss.kScale[j] = kv.kScales[g.KeyGroup(k.tiling, lo+2*j)]
		}
		ss.hideThreads()
		return
	}
	n := min(len(ss.kScale), kv.in.Len-lo)
	clear(ss.kScale[n:])
	for i := range n {
		if i >= 2*threads && g != quant.PerToken {
			ss.kScale[i] = ss.kScale[i-2*threads] // a key's of the same thread
			continue
		}
		ss.kScale[i] = kv.kScales[g.KeyGroup(k.tiling, lo+i)]
	}
	if !k.smoothQ {
		clear(ss.delta)
		ss.hideKeys(n, k.masked)
		return
	}
	if !k.level.l.MeanDots(ss.delta, k.turnedKeys(ws, kv, w, lo, n), qMean) {
		k.deltaScores(ws, kv, qMean, lo)
		copy(ss.delta, ws.deltaS)
	}
	clear(ss.delta[n:])
	ss.hideKeys(n, k.masked)
}

// turnedKeys returns the smoothed keys of the tile of n keys from lo on, as window.kTurned has them.
func (k *Kernel) turnedKeys(ws *Workspace, kv *KV, w *window, lo, n int) []float32 {
	ss, d := ws.strips, kv.in.Dim
	size := len(ss.delta) * d
	if w.kTurned != nil {
		return w.kTurned[(lo-w.first)*d:][:size]
	}
	x := ws.keys[:size]
	kv.in.K(lo, lo+n, x[:n*d])
	k.smoothKeys(kv, x[:n*d])
	clear(x[n*d:])
	ss.turned = grow(ss.turned, size)
	k.turnKeys(ss.turned, x, d, 0)
	return ss.turned
}

// stripBlocks is how many blocks of queries of a head runStrips wants at a time: as many as
// have the strips that share a product with V.
func (k *Kernel) stripBlocks() int { return max(1, k.shared()*vec.Rows/k.tiling.BlockQ) }

// shared is how many strips share a product with V.
func (k *Kernel) shared() int {
	if k.vecUnit.Pairs(k.level.l) {
		return 2
	}
	return 1
}

// runTile runs blocks, whose strips are given, through a tile of keys.
func (k *Kernel) runTile(q *Query, ws *Workspace, w *window, blocks []inStrips, strips []strip, t int) {
	ss, bq, bk := ws.strips, k.tiling.BlockQ, k.tiling.BlockK
	held, most := 0, k.shared()
	for i := range blocks {
		b := &blocks[i]
		tiles := k.stripTiles(q, b.block)
		if t >= tiles || b.failed {
			continue
		}
		tail := k.tail(t, tiles)
		k.stripScales(ws, q.kv, w, b.qMean, t*bk, tail)
		for j := 0; j*vec.Rows < b.rows && !b.failed; j++ {
			sl := &ss.slots[held]
			sl.block, sl.strip, sl.tail = b, &strips[i*(bq/vec.Rows)+j], tail
			if b.failed = !k.weigh(q, w, ss, sl, b.block*bq+j*vec.Rows, t*bk); b.failed {
				break
			}
			if held++; held == most {
				k.gather(q.kv, w, ss, held, t*bk)
				held = 0
			}
		}
	}
	k.gather(q.kv, w, ss, held, t*bk)
}

// weigh finds the weights of the tile of keys from lo on for a slot's strip, whose first row
// is the query first. It reports whether the vector kernels could.
func (k *Kernel) weigh(q *Query, w *window, ss *strips, sl *slot, first, lo int) bool {
	kv, st, tail := q.kv, sl.strip, sl.tail
	wd, bk := whole(kv.in.Dim), k.tiling.BlockK
	at := lo - w.first
	if !st.odd.takes(&ss.nan) {
		return false
	}
	k.level.l.QK(ss.s, st.q, w.kWhole[at*wd:], w.kBias[at:], bk, &ss.scratch)
	copy(st.top, ss.start)
	a := vec.SoftmaxArgs{
		P: &sl.p[0], PE: &sl.pe[0], S: &ss.s[0], Blocks: bk / 16, Top: &st.top[0],
		M: &st.m[0], D: &st.d[0], Rescale: &st.rescale[0],
		QScale: &st.qScale[0], KScale: &ss.kScale[0], Table: ex2Table,
		Scale: q.scale, Offset: k.offset, Format: weightFormats[k.v.kind],
	}
	if k.dequantized(tail) {
		limit := int32(kv.in.Len - lo)
		for r := range st.limit {
			st.limit[r] = limit
		}
		if q.in.Causal && tail {
			for r := range st.limit {
				st.limit[r] = min(limit, int32(first+r+1-lo))
			}
		}
		if !k.level.l.Dequantize(ss.s, st.top, bk, &st.qScale, ss.kScale, ss.delta, &st.limit, k.masked) {
			return false
		}
		a.QScale, a.KScale = &ones[0], &ones[0]
	} else {
		k.level.l.ToFloat(ss.s, st.top, bk)
		ss.hideScores(st.top)
	}
	k.look(q, ss, st, tail)
	if !k.level.l.Softmax(&a) {
		return false
	}
	k.showMasked(ss, sl)
	return true
}

// gather adds the products of the first n slots' weights with V for the tile of keys from lo
// on to their strips. Blocks for which the vector kernels could not are failed.
func (k *Kernel) gather(kv *KV, w *window, ss *strips, n, lo int) {
	if n == 0 {
		return
	}
	d, at, chain := kv.in.Dim, lo-w.first, k.prog.OneChain()
	var tiles [2]vec.Tile
	var done [2]bool
	for i := range n {
		sl := &ss.slots[i]
		tiles[i], done[i] = vec.Tile{P: sl.p, PE: sl.pe, Acc: sl.tile}, true
		if chain {
			tiles[i].Acc = sl.strip.o
			done[i] = k.level.l.Rescale(sl.strip.o, &sl.strip.rescale, d)
		}
	}
	if k.vecUnit.Pairs(k.level.l) && done[0] && (n == 1 || done[1]) {
		if !chain {
			for i := range n {
				tiles[i].O, tiles[i].Rescale = ss.slots[i].strip.o, &ss.slots[i].strip.rescale
			}
		}
		done = w.vCodes.DotTiles(k.level.l, tiles[:n], &ss.scratch, at, k.tiling.BlockK)
	} else {
		for i := range n {
			t := &tiles[i]
			done[i] = done[i] && w.vCodes.Dot(k.level.l, t.Acc, t.P, t.PE, &ss.scratch, at) &&
				(chain || k.level.l.AddTile(ss.slots[i].strip.o, t.Acc, &ss.slots[i].strip.rescale, d))
		}
	}
	for i := range n {
		sl := &ss.slots[i]
		if !done[i] {
			sl.block.failed = true
			clear(sl.tile)
			continue
		}
		k.meetOdd(kv, sl, w.vCodes.Odd(at))
	}
}

// finishStrip is finish for rows [lo, hi) of a block, which are the strip's.
func (k *Kernel) finishStrip(q *Query, ws *Workspace, st *strip, lo, hi int, out, lse []float32) {
	kv, ss := q.kv, ws.strips
	d := kv.in.Dim
	var inverse [vec.Rows]float32
	ordinary := kv.vOrdinary
	for r := range hi - lo {
		den := format.AddFtz(format.AddFtz(st.d[r], st.d[vec.Rows+r]), format.AddFtz(st.d[2*vec.Rows+r], st.d[3*vec.Rows+r]))
		ordinary = ordinary && den-den == 0 && den != 0
		inverse[r] = mufu.Rcp(den)
		if lse != nil {
			lse[r] = format.AddFtz(mufu.Lg2(den), st.m[r])
		}
	}
	mean := kv.vMean
	if mean == nil {
		mean = ss.zeros
	}
	if ordinary {
		ss.out = grow(ss.out, d*vec.Rows)
		if k.level.l.Finish(kv.in.DType, ss.out, st.o, &inverse, kv.vScale, mean) {
			k.level.l.Turn(out, d, ss.out, vec.Rows, d, hi-lo)
			return
		}
	}
	// The portable code counts what is not ordinary.
	copy(ws.m, st.m[:])
	for r := range hi - lo {
		for j := range threads {
			ws.d[r*threads+j] = st.d[j*vec.Rows+r]
		}
	}
	k.level.l.Turn(ws.o, d, st.o, vec.Rows, d, hi-lo)
	k.finish(q, ws, 0, hi-lo, out, lse)
}

// load takes the quantised queries and starts the softmax. Rows beyond the n
// there are have scores of zero.
func (st *strip) load(k *Kernel, ws *Workspace, d, row, n int) {
	k.level.l.Pack(st.q, ws.qCodes[row*d:(row+n)*d], d)
	clear(st.qScale[:])
	copy(st.qScale[:], ws.qScale[row:row+n])
	st.startOdd(n)
	for i := range st.m {
		st.m[i] = k.start
	}
	for i := range st.d {
		st.d[i] = float32(k.prog.Denominator.Start)
	}
	clear(st.o)
}
