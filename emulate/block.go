package emulate

import (
	"context"
	"math"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/mufu"
	"github.com/sageacc/sageacc/emulate/quant"
	"github.com/sageacc/sageacc/emulate/tensorcore"
)

const (
	// masked is the score of a masked key and the row maximum's start.
	masked = -5_000_000
	log2e  = 1.44269504088896340736
	// invLog2e is how the released API turns its base-2 log-sum-exp into a
	// natural one: a multiplication by the FP32 reciprocal of 1.44269504.
	invLog2e = float32(1 / float32(1.44269504))
	// threads is how many threads of a warp share a row of a matrix fragment;
	// each keeps its own part of the denominator.
	threads = 4
)

// QInput is Q of one query head: Len tokens.
type QInput struct {
	Q   Rows
	Len int
	// Causal masks key j for query i where j > i. Scale multiplies Q K^T.
	Causal bool
	Scale  float32
}

// Query is a query head ready to run block by block.
type Query struct {
	in   QInput
	kv   *KV
	amax float32 // of the whole head, for PerTensor
}

// Query prepares a query head against a kv head. It reads Q only where one scale
// spans the head.
func (k *Kernel) Query(in QInput, kv *KV, ws *Workspace) *Query {
	q := &Query{in: in, kv: kv}
	if k.cfg.QKGranularity == quant.PerTensor {
		for b := range k.Blocks(in.Len) {
			ws.fit(k, kv.in.Dim)
			rows := k.loadQuery(q, ws, b)
			q.amax = quant.AbsMaxAt(k.level, q.amax, ws.q[:rows*kv.in.Dim])
		}
	}
	return q
}

// Blocks returns how many blocks of query rows a head of n queries has.
func (k *Kernel) Blocks(n int) int { return (n + k.tiling.BlockQ - 1) / k.tiling.BlockQ }

// Workspace holds the buffers of one goroutine. Its zero value is ready.
type Workspace struct {
	q       []float32 // [BlockQ][Dim]
	qMean   []float32 // [Dim]
	qCodes  []int8    // [BlockQ][Dim]
	qScale  []float32 // [BlockQ], by row
	keys    []float32 // [BlockK][Dim], smoothed K for delta-S
	deltaS  []float32 // [BlockK]
	sInt    []int32   // [BlockQ][BlockK]
	s       []float32 // [BlockQ][BlockK], scores, then P~
	pCodes  []uint16  // [BlockQ][BlockK], in V's stored order
	vCodes  []uint16  // [Dim][BlockK], in V's stored order
	pPanel  tensorcore.Panel
	vPanel  tensorcore.Panel
	m       []float32 // [BlockQ]
	d       []float32 // [BlockQ][threads]
	oScale  []float32 // [BlockQ]
	o       []float32 // [BlockQ][Dim]
	tile    []float32 // [BlockQ][Dim]
	scratch []float32 // [BlockK]
	index   []int     // [BlockQ], the query of each row
	strips  *strips   // of the vector levels
	// window holds the codes in hand of windowOf, where they are streamed.
	window   *window
	windowOf *KV
	// Counts of what the blocks run with this workspace met.
	Counts Counts
	// Observer, if set, is shown every tile.
	Observer func(*Tile)
}

// Tile is what an Observer sees: the stages of one tile, valid during the call.
type Tile struct {
	// Block and Index count blocks of query rows and tiles of keys; the tile's
	// first query row is Row, its first key Key. Rows of its BlockQ rows exist.
	Block, Index, Row, Key, Rows int
	// Keys and Dim are the widths of the matrices below.
	Keys, Dim int
	// QCodes [Rows][Dim] and QScale [Rows] are the quantised queries.
	QCodes []int8
	QScale []float32
	// IntScores [Rows][Keys] are the integer products.
	IntScores []int32
	// P [Rows][Keys] is P~ before quantisation; PCodes its codes, in the stored
	// order of V (quant.Permute).
	P      []float32
	PCodes []uint16
	// RowMax [Rows] and Rescale [Rows] are m and 2^(m_old - m).
	RowMax, Rescale []float32
	// TileSums [Rows][Dim] is the tile's P~V where the accumulator has two
	// levels, with Variant.LevelKeys the last group's, nil otherwise. Output [Rows][Dim] is O after the tile.
	TileSums, Output []float32
	// Denominators [Rows][4] is d of each of a row's four threads after the tile.
	Denominators []float32
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
	ws.qCodes = grow(ws.qCodes, bq*dim)
	ws.qScale = grow(ws.qScale, bq)
	ws.keys = grow(ws.keys, bk*dim)
	ws.deltaS = grow(ws.deltaS, bk)
	ws.sInt = grow(ws.sInt, bq*bk)
	ws.s = grow(ws.s, bq*bk)
	ws.pCodes = grow(ws.pCodes, bq*bk)
	ws.vCodes = grow(ws.vCodes, dim*bk)
	ws.m = grow(ws.m, bq)
	ws.d = grow(ws.d, bq*threads)
	ws.oScale = grow(ws.oScale, bq)
	ws.o = grow(ws.o, bq*dim)
	ws.tile = grow(ws.tile, bq*dim)
	ws.scratch = grow(ws.scratch, bk)
	ws.index = grow(ws.index, bq)
}

// loadQuery reads the rows of a block and smooths them; it returns their number.
func (k *Kernel) loadQuery(q *Query, ws *Workspace, block int) int {
	d := q.kv.in.Dim
	lo := block * k.tiling.BlockQ
	rows := min(k.tiling.BlockQ, q.in.Len-lo)
	x := ws.q[:rows*d]
	q.in.Q(lo, lo+rows, x)
	if k.cfg.SmoothQ {
		m := quant.NewChannelMean(d)
		m.AddAt(k.level, x)
		m.Mean(ws.qMean, format.FP32.Round)
		quant.SubtractMeanAt(k.level, quant.Paper, x, ws.qMean, format.FP32)
	}
	return rows
}

// Run emulates one block of query rows: block b covers rows [b*BlockQ,
// min((b+1)*BlockQ, Len)). out receives [rows][Dim] values of the input dtype;
// lse, if not nil, the kernel's base-2 log-sum-exp per row (lg2(d) + m), as the
// kernel writes it. It returns the number of rows.
func (k *Kernel) Run(q *Query, ws *Workspace, block int, out, lse []float32) int {
	n, _ := k.RunBlocks(context.Background(), q, ws, block, 1, out, lse) // which never ends
	return n
}

// RunBlocks is Run for n consecutive blocks from first on. Where codes are streamed
// it makes them once for all of its blocks, whose state it holds: about 700 bytes a
// row of 128 channels. It returns an error only if ctx ends, which it looks at once for
// each block and window of 1,024 keys.
func (k *Kernel) RunBlocks(ctx context.Context, q *Query, ws *Workspace, first, n int, out, lse []float32) (int, error) {
	kv := q.kv
	d, bq := kv.in.Dim, k.tiling.BlockQ
	ws.fit(k, d)
	group := 1
	if kv.in.Stream {
		group = n
	}
	for lo := first; lo < first+n; lo += group {
		at := (lo - first) * bq
		var l []float32
		if lse != nil {
			l = lse[at:]
		}
		portable := func(i int) error {
			rows := min(bq, q.in.Len-(lo+i)*bq)
			var part []float32
			if l != nil {
				part = l[i*bq:][:rows]
			}
			for r := range rows {
				ws.index[r] = (lo+i)*bq + r
			}
			return k.runRows(ctx, q, ws, lo+i, rows, out[(at+i*bq)*d:], part)
		}
		if !kv.strips || ws.Observer != nil {
			for i := range group {
				k.loadCodes(q, ws, lo+i)
				if err := portable(i); err != nil {
					return 0, err
				}
			}
			continue
		}
		failed, err := k.runStrips(ctx, q, ws, lo, group, out[at*d:], l)
		if err != nil {
			return 0, err
		}
		for _, i := range failed {
			counts := ws.Counts // the queries have been counted
			k.loadCodes(q, ws, lo+i)
			ws.Counts = counts
			if err := portable(i); err != nil {
				return 0, err
			}
		}
	}
	return min((first+n)*bq, q.in.Len) - first*bq, nil
}

// loadCodes quantises a block's queries and returns their number.
func (k *Kernel) loadCodes(q *Query, ws *Workspace, block int) int {
	rows := k.loadQuery(q, ws, block)
	ws.Counts[StageQ].scanAt(k.level, ws.q[:rows*q.kv.in.Dim])
	k.quantizeQuery(q, ws, block*k.tiling.BlockQ, rows)
	return rows
}

// RunRows is Run for some rows of a block: pick holds their numbers within it,
// ascending. out receives [len(pick)][Dim] values. What the block's rows share is
// computed from all of them, so that the rows come out as Run's do.
func (k *Kernel) RunRows(q *Query, ws *Workspace, block int, pick []int, out []float32) {
	d := q.kv.in.Dim
	ws.fit(k, d)
	first := block * k.tiling.BlockQ
	rows := k.loadQuery(q, ws, block)
	k.quantizeQuery(q, ws, first, rows)
	for i, r := range pick {
		ws.index[i] = first + r
		ws.qScale[i] = ws.qScale[r]
		copy(ws.qCodes[i*d:i*d+d], ws.qCodes[r*d:r*d+d])
	}
	_ = k.runRows(context.Background(), q, ws, block, len(pick), out, nil) // which never ends
}

// runRows runs the first rows of the workspace from their codes to the output, with
// portable code. It returns an error only if ctx ends.
func (k *Kernel) runRows(ctx context.Context, q *Query, ws *Workspace, block, rows int, out, lse []float32) error {
	kv := q.kv
	d := kv.in.Dim
	for r := range rows {
		ws.m[r] = masked
		for j := range threads {
			ws.d[r*threads+j] = 1
		}
	}
	clear(ws.o[:rows*d])
	smScale := format.MulFtz(q.in.Scale, log2e)
	tiles := k.Tiles(block, kv.in.Len, q.in.Causal)
	for t := range tiles {
		if t*k.tiling.BlockK%windowKeys == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		k.scores(ws, kv, t, rows)
		k.softmax(q, ws, t, rows, smScale, k.tail(t, tiles))
		k.multiplyV(ws, kv, t, rows)
		if ws.Observer != nil {
			k.observe(ws, kv, block, t, rows)
		}
	}
	k.finish(q, ws, rows, out, lse)
	return nil
}

// tiles returns how many tiles of keys a block of query rows looks at.
func (k *Kernel) tiles(q *Query, block int) int {
	return k.Tiles(block, q.kv.in.Len, q.in.Causal)
}

// Tiles returns how many tiles of keys, from the first on, a block of query rows
// looks at where there are so many keys.
func (k *Kernel) Tiles(block, keys int, causal bool) int {
	if causal {
		keys = min(keys, (block+1)*k.tiling.BlockQ)
	}
	return (keys + k.tiling.BlockK - 1) / k.tiling.BlockK
}

// tail says whether the scores of tile t of n are dequantised before they are
// masked. The released kernels multiply the integer scores by the dequantisation
// scale in their tail tiles and fold it into the softmax scale elsewhere; a
// smoothed Q needs the scores themselves.
func (k *Kernel) tail(t, n int) bool {
	switch {
	case k.cfg.Program == PaperProgram, k.cfg.SmoothQ, k.cfg.Variant.DequantizeAll:
		return true
	case k.cfg.Program == SM90Program:
		return t == n-1
	}
	return t >= n-2
}

func (k *Kernel) quantizeQuery(q *Query, ws *Workspace, first, rows int) {
	d := q.kv.in.Dim
	g := k.cfg.QKGranularity
	style, bits := k.cfg.qkStyle(), k.cfg.QKBits
	ws.Counts[StageQCodes].scanAt(k.level, ws.q[:rows*d])
	// Groups interleave within a block (per-thread), so each row finds its group's
	// maximum among the rows of the block; groups never cross a block but for the
	// one of the whole tensor.
	base := g.QueryGroup(k.tiling, first)
	var amax [128]float32
	for r := range rows {
		i := g.QueryGroup(k.tiling, first+r) - base
		amax[i] = quant.AbsMaxAt(k.level, amax[i], ws.q[r*d:r*d+d])
	}
	if g == quant.PerTensor {
		amax[0] = q.amax
	}
	for r := range rows {
		s := quant.NewScale(style, bits, amax[g.QueryGroup(k.tiling, first+r)-base]).Rounded(k.cfg.Variant.CodeRound)
		ws.qScale[r] = s.Step
		s.QuantizeAt(k.level, ws.qCodes[r*d:r*d+d], ws.q[r*d:r*d+d])
	}
}

// scores computes the integer products of a tile; keys beyond the end give 0,
// they are masked later.
func (k *Kernel) scores(ws *Workspace, kv *KV, t, rows int) {
	d := kv.in.Dim
	bk := k.tiling.BlockK
	lo := t * bk
	n := min(bk, kv.in.Len-lo)
	w, at := kv.windowAt(lo, ws)
	codes := w.kCodes[at*d : (at+n)*d]
	for r := range rows {
		q := ws.qCodes[r*d : r*d+d]
		out := ws.sInt[r*bk : r*bk+bk]
		intDots(out[:n], q, codes)
		clear(out[n:])
	}
}

// intDots writes the exact products of q with each row of k.
func intDots(out []int32, q, k []int8) {
	d := len(q)
	j := 0
	for ; j+4 <= len(out); j += 4 {
		k0 := k[j*d : j*d+d][:len(q)]
		k1 := k[(j+1)*d : (j+1)*d+d][:len(q)]
		k2 := k[(j+2)*d : (j+2)*d+d][:len(q)]
		k3 := k[(j+3)*d : (j+3)*d+d][:len(q)]
		var s0, s1, s2, s3 int32
		for i, v := range q {
			x := int32(v)
			s0 += x * int32(k0[i])
			s1 += x * int32(k1[i])
			s2 += x * int32(k2[i])
			s3 += x * int32(k3[i])
		}
		out[j], out[j+1], out[j+2], out[j+3] = s0, s1, s2, s3
	}
	for ; j < len(out); j++ {
		var s int32
		for i, v := range q {
			s += int32(v) * int32(k[j*d+i])
		}
		out[j] = s
	}
}

// softmax turns the integer scores of a tile into P~, its codes, the new row
// maxima, the rescaling factors and the denominators.
func (k *Kernel) softmax(q *Query, ws *Workspace, t, rows int, smScale float32, tail bool) {
	kv := q.kv
	bk := k.tiling.BlockK
	lo := t * bk
	g := k.cfg.QKGranularity
	v := &k.cfg.Variant
	delta := k.cfg.SmoothQ && v.DeltaS != DeltaNone
	if delta {
		k.deltaScores(ws, kv, ws.qMean, lo)
	}
	perRow := g == quant.PerToken
	for r := range rows {
		si := ws.sInt[r*bk : r*bk+bk]
		s := ws.s[r*bk : r*bk+bk]
		limit := kv.in.Len // keys from here on are masked
		if v.NoKeyMask {
			limit = lo + bk
		}
		if q.in.Causal && tail {
			limit = min(limit, ws.index[r]+1+v.CausalShift)
		}
		limit -= lo
		// Scale of each of the row's four threads; with PerToken of each key.
		var scale [threads]float32
		for j := range threads {
			scale[j] = smScale
		}
		if tail || perRow {
			for i, x := range si {
				if i >= limit {
					s[i] = masked
					continue
				}
				var step float32 // of keys beyond the end, which only NoKeyMask looks at
				if j := g.KeyGroup(k.tiling, lo+i); j < len(kv.kScales) {
					step = kv.kScales[j]
				}
				dequant := format.MulFtz(ws.qScale[r], step)
				if delta {
					s[i] = format.FMAFtz(float32(x), dequant, ws.deltaS[i])
				} else {
					s[i] = format.MulFtz(float32(x), dequant)
				}
			}
		} else {
			for j := range threads {
				// A thread's keys share a scale at every granularity but PerToken.
				dequant := format.MulFtz(ws.qScale[r], kv.kScales[g.KeyGroup(k.tiling, lo+2*j)])
				scale[j] = format.MulFtz(smScale, dequant)
			}
			for i, x := range si {
				s[i] = float32(x)
			}
		}
		k.softmaxRow(ws, r, s, &scale)
		if bad := ws.m[r]; bad-bad != 0 {
			ws.Counts[StageRowMax].add(bad)
		}
	}
}

// softmaxRow is the online softmax of one row of a tile: update_mdo and
// accumulate_d of the released kernels.
func (k *Kernel) softmaxRow(ws *Workspace, r int, s []float32, scale *[threads]float32) {
	variant := &k.cfg.Variant
	mNew := ws.m[r]
	var top [threads]float32
	for j := range top {
		top[j] = masked
	}
	for i, v := range s {
		j := i & 7 >> 1
		if v > top[j] {
			top[j] = v
		} else if v-v != 0 {
			ws.Counts[StageScores].add(v)
		}
	}
	for j, v := range top {
		if x := mulAdd(v, scale[j], -k.offset, variant.SplitMax); x > mNew {
			mNew = x
		}
	}
	rescale := k.ex2(format.SubFtz(ws.m[r], mNew))
	ws.m[r], ws.oScale[r] = mNew, rescale
	if variant.KeepOutput {
		ws.oScale[r] = 1
	}
	if variant.KeepDenominator {
		rescale = 1
	}
	for i, v := range s {
		s[i] = mulAdd(v, scale[i&7>>1], -mNew, variant.SplitExponent)
	}
	if variant.ExactExp2 {
		for i, x := range s {
			s[i] = exactExp2(x)
		}
	} else {
		mufu.Ex2Slice(s, s)
	}
	codes := ws.pCodes[r*len(s) : (r+1)*len(s)]
	k.encodeP(codes, s)
	weights := s
	if variant.DenominatorOfCodes {
		weights = ws.scratch[:len(s)]
		for i, c := range codes {
			weights[quant.Permute(i)] = k.cfg.PVType.Decode(c)
		}
	}
	d := ws.d[r*threads : r*threads+threads]
	for b := 0; b < len(s); b += 16 {
		p := weights[b : b+16]
		for j := range threads {
			sum := p[2*j] + p[2*j+1]
			if variant.PairwiseDenominator {
				sum += p[2*j+8] + p[2*j+9]
			} else {
				sum += p[2*j+8]
				sum += p[2*j+9]
			}
			if b == 0 {
				d[j] = mulAdd(d[j], rescale, sum, variant.SplitDenominator)
			} else {
				d[j] = format.AddFtz(d[j], sum)
			}
		}
	}
	limit := k.cfg.PVType.Max()
	for _, p := range s {
		if p-p != 0 {
			ws.Counts[StageP].add(p)
		} else if limit > 0 && p > limit {
			ws.Counts[StagePCodes].Saturated++
		}
	}
}

// mulAdd is a*b + c, fused, or split into two rounded operations.
func mulAdd(a, b, c float32, split bool) float32 {
	if split {
		return format.AddFtz(format.MulFtz(a, b), c)
	}
	return format.FMAFtz(a, b, c)
}

// encodeP writes the codes of a row of P~ in V's stored order.
func (k *Kernel) encodeP(codes []uint16, s []float32) {
	switch {
	case k.cfg.Variant.PRoundZero:
		for i := range codes {
			codes[i] = k.cfg.PVType.EncodeTowardZero(s[quant.Permute(i)])
		}
	case k.cfg.PVType == quant.E4M3:
		for i := range codes {
			codes[i] = uint16(format.E4M3FromFloat32(s[quant.Permute(i)]))
		}
	default:
		for i := range codes {
			codes[i] = k.cfg.PVType.Encode(s[quant.Permute(i)])
		}
	}
}

// deltaScores computes the delta-S correction of a tile: the products of the
// block's mean query with every smoothed key (with DeltaRaw every key), FP32, one fused multiply-add per
// channel in order.
func (k *Kernel) deltaScores(ws *Workspace, kv *KV, qMean []float32, lo int) {
	d := kv.in.Dim
	n := min(k.tiling.BlockK, kv.in.Len-lo)
	x := ws.keys[:n*d]
	kv.in.K(lo, lo+n, x)
	if k.cfg.Variant.DeltaS != DeltaRaw {
		k.smoothKeys(kv, x)
	}
	for i := range n {
		var s float32
		for c, v := range x[i*d : i*d+d] {
			s = format.FMAFtz(qMean[c], v, s)
		}
		ws.deltaS[i] = s
	}
	clear(ws.deltaS[n:])
}

// twoLevel says that a tile's sums start from zero and are added to O in FP32.
func (k *Kernel) twoLevel() bool {
	return k.cfg.PVAccum == AccumTwoLevel || k.cfg.PVAccum == AccumFP16 || k.unit == nil
}

// multiplyV rescales O and adds the tile's P~V.
func (k *Kernel) multiplyV(ws *Workspace, kv *KV, t, rows int) {
	d := kv.in.Dim
	bk := k.tiling.BlockK
	w, at := kv.windowAt(t*bk, ws)
	w.loadValues(ws.vCodes, d, at, bk)
	if !k.twoLevel() {
		for r := range rows {
			o := ws.o[r*d : r*d+d]
			for c := range o {
				o[c] = format.MulFtz(o[c], ws.oScale[r])
			}
		}
		ws.pPanel.Load(k.unit.A, ws.pCodes, rows, bk, bk)
		ws.vPanel.Load(k.unit.A, ws.vCodes, d, bk, bk)
		k.unit.Tile(ws.o[:rows*d], &ws.pPanel, &ws.vPanel)
		ws.Counts[StageTileSums].scan(ws.o[:rows*d])
		return
	}
	tile := ws.tile[:rows*d]
	level := bk
	if n := k.cfg.Variant.LevelKeys; n != 0 {
		level = n
	}
	for lo := 0; lo < bk; lo += level {
		if k.unit == nil {
			k.intTile(ws, tile, rows, d, lo, level)
		} else {
			clear(tile)
			ws.pPanel.Load(k.unit.A, ws.pCodes[lo:], rows, level, bk)
			ws.vPanel.Load(k.unit.A, ws.vCodes[lo:], d, level, bk)
			k.unit.Tile(tile, &ws.pPanel, &ws.vPanel)
		}
		ws.Counts[StageTileSums].scan(tile)
		for r := range rows {
			o := ws.o[r*d : r*d+d]
			scale := ws.oScale[r]
			if lo > 0 {
				scale = 1
			}
			for c, x := range tile[r*d : r*d+d] {
				o[c] = mulAdd(o[c], scale, x, k.cfg.Variant.SplitOutput)
			}
		}
	}
}

// intTile is the INT8 product of keys [lo, lo+n) of the tile: exact in int32, then
// converted to FP32.
func (k *Kernel) intTile(ws *Workspace, tile []float32, rows, d, lo, n int) {
	bk := k.tiling.BlockK
	for r := range rows {
		p := ws.pCodes[r*bk+lo:][:n]
		for c := range d {
			v := ws.vCodes[c*bk+lo:][:len(p)]
			var s int32
			for i, x := range p {
				s += int32(int8(x)) * int32(int8(v[i]))
			}
			tile[r*d+c] = float32(s)
		}
	}
}

// finish divides O by the denominator, applies V's scale and mean and rounds to
// the input dtype.
func (k *Kernel) finish(q *Query, ws *Workspace, rows int, out, lse []float32) {
	kv := q.kv
	d := kv.in.Dim
	for r := range rows {
		t := ws.d[r*threads : r*threads+threads]
		den := format.AddFtz(format.AddFtz(t[0], t[1]), format.AddFtz(t[2], t[3]))
		if den-den != 0 || den == 0 {
			ws.Counts[StageDenominator].add(den)
			if den == 0 {
				ws.Counts[StageDenominator].Zero++
			}
		}
		rcp := k.cfg.Variant.Rcp
		inv := mufu.Rcp(den)
		if rcp == ExactRcp {
			inv = exactRcp(den)
		}
		if lse != nil {
			lse[r] = format.AddFtz(mufu.Lg2(den), ws.m[r])
		}
		o := ws.o[r*d : r*d+d]
		for c, x := range o {
			if rcp == Division {
				x = format.FlushSubnormal(format.FlushSubnormal(x) / format.FlushSubnormal(den))
			} else {
				x = format.MulFtz(x, inv)
			}
			if kv.vMean != nil {
				x = format.FMAFtz(x, kv.vScale[c], kv.vMean[c])
			} else {
				x = format.MulFtz(x, kv.vScale[c])
			}
			y := kv.in.DType.Round(x)
			if k.cfg.Variant.OutputZero {
				y = kv.in.DType.RoundTowardZero(x)
			}
			if y-y != 0 {
				ws.Counts[StageOutput].add(y)
				if !math.IsInf(float64(x), 0) && x == x {
					ws.Counts[StageOutput].Saturated++
				}
			}
			out[r*d+c] = y
		}
	}
}

func (k *Kernel) observe(ws *Workspace, kv *KV, block, t, rows int) {
	d := kv.in.Dim
	bq, bk := k.tiling.BlockQ, k.tiling.BlockK
	v := &Tile{
		Block: block, Index: t, Row: block * bq, Key: t * bk, Rows: rows, Keys: bk, Dim: d,
		QCodes: ws.qCodes[:rows*d], QScale: ws.qScale[:rows],
		IntScores: ws.sInt[:rows*bk], P: ws.s[:rows*bk], PCodes: ws.pCodes[:rows*bk],
		RowMax: ws.m[:rows], Rescale: ws.oScale[:rows],
		Output: ws.o[:rows*d], Denominators: ws.d[:rows*threads],
	}
	if k.twoLevel() {
		v.TileSums = ws.tile[:rows*d]
	}
	ws.Observer(v)
}

// NaturalLSE turns the kernel's base-2 log-sum-exp into what the released API
// returns: lse / 1.44269504, which PyTorch computes as a product with the FP32
// reciprocal, plus the correction times the softmax scale.
func NaturalLSE(lse, correction, scale float32) float32 {
	// The conversions keep compilers from fusing the operations.
	return float32(lse*invLog2e) + float32(correction*scale)
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

// QuantizeQuery returns the codes [Len][dim] and the scales by group of a query
// head, as Run computes them block by block.
func (k *Kernel) QuantizeQuery(in QInput, dim int) (codes []int8, scales []float32) {
	kv := &KV{in: KVInput{Dim: dim}}
	ws := &Workspace{}
	ws.fit(k, dim)
	q := k.Query(in, kv, ws)
	g := k.cfg.QKGranularity
	scales = make([]float32, g.QueryGroups(k.tiling, in.Len))
	// A group without rows keeps the scale of zeros, which the released kernels
	// store for the padding of the last tile.
	for i := range scales {
		s := quant.NewScale(k.cfg.qkStyle(), k.cfg.QKBits, 0)
		scales[i] = s.Step
	}
	for b := range k.Blocks(in.Len) {
		first := b * k.tiling.BlockQ
		rows := k.loadQuery(q, ws, b)
		k.quantizeQuery(q, ws, first, rows)
		codes = append(codes, ws.qCodes[:rows*dim]...)
		for r := range rows {
			scales[g.QueryGroup(k.tiling, first+r)] = ws.qScale[r]
		}
	}
	return codes, scales
}
