package emulate

import (
	"context"
	"fmt"
	"math"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/quant"
)

// QInput is Q of one query head, and how it attends: Len tokens.
type QInput struct {
	Q   Rows
	Len int
	// Scale multiplies Q K^T; 0 stands for 1/sqrt(Dim).
	Scale float64
	// Causal masks keys that come after the query, aligned as the program says.
	Causal bool
	// Left and Right, where Windowed is set, mask keys more than Left before or Right after
	// the query, aligned like the causal mask; -1 for no bound. Right counts only without
	// Causal, which hides all that it does.
	Windowed    bool
	Left, Right int
	// Visible, if not nil, is a boolean mask: it writes whether query row sees keys [lo,
	// hi). Bias, if not nil, is an additive one: it writes what is added to the scaled
	// scores. The program must take them.
	Visible func(row, lo, hi int, dst []bool)
	Bias    func(row, lo, hi int, dst []float32)
	// Listed, if not nil, is a block map: it writes which of the tiles of keys [lo, hi) a block of
	// query rows runs. The program must take one.
	Listed func(block, lo, hi int, dst []bool)
	// Softcap, if not 0, is a soft cap of the scores, which the program must take.
	Softcap float64
	// Group is how many query heads share the kv head, and Member which of them this one is,
	// from 0 on; a Group of 0 stands for one head alone. They matter where the keys are split as
	// FlashAttention-3 splits them (tiles.combine: fa3).
	Group, Member int
	// QDescale is that of Q as KVInput.KDescale is that of K.
	QDescale float32
}

// Query is a query head ready to run block by block.
type Query struct {
	in QInput
	kv *KV
	// kernel is whose query it is; kv may be another's (see Preparation).
	kernel *Kernel
	amax   float32 // of the whole head, for PerTensor and descales
	sm     float64 // the softmax scale
	fold   float32 // what Q is multiplied by
	scale  float32 // of the scores in the exponent
	cap    float32 // what scores are multiplied by before their soft cap, 0 without one
}

// Query prepares a query head against a kv head. It reads Q only where one scale spans
// the head. The kernel must be the one that prepared kv, or have its Preparation.
func (k *Kernel) Query(in QInput, kv *KV, ws *Workspace) *Query {
	if see := in.Visible; see != nil && k.prog.Mask.Boolean == "additive" {
		in.Visible, in.Bias = nil, hiding(see, in.Bias)
	}
	q := &Query{in: in, kv: kv, kernel: k, sm: smScale(in.Scale, kv.in.Dim), fold: 1}
	q.scale = k.scale(q.sm)
	if k.prog.QKCodes.Fold != "none" {
		q.fold = k.product(q.sm, 1.44269504088896340736)
	}
	if k.granularity == quant.PerTensor && (k.integer || k.prog.QKCodes.Scale == "descale") {
		for b := range k.Blocks(in.Len) {
			ws.fit(k, kv.in.Dim)
			rows := k.loadQuery(q, ws, b)
			q.amax = quant.AbsMaxAt(k.level.rows, q.amax, k.rotated(ws.q[:rows*kv.in.Dim], kv.in.Dim))
		}
	}
	descales := float32(1)
	if k.prog.QKCodes.Scale == "descale" {
		// The scales of Q and K join the softmax scale.
		descales = k.arith.mul(k.descaleOf(kv.in.DType, in.QDescale, q.amax), kv.kScale)
		if k.prog.Scores.Product == "fp64-descale" {
			q.scale = k.descaledProduct(q.sm, descales)
		} else {
			q.scale = k.arith.mul(q.scale, descales)
		}
	}
	if in.Softcap != 0 {
		q.cap = float32(q.sm) / float32(in.Softcap)
		if k.prog.QKCodes.Scale == "descale" {
			q.cap = k.arith.mul(q.cap, descales)
		}
		q.scale = float32(float64(float32(in.Softcap)) * math.Log2E)
	}
	return q
}

// hiding makes a boolean mask one that is added: 0, or bias if there is one too, where a key
// is seen, else -Inf.
func hiding(visible func(row, lo, hi int, dst []bool), bias func(row, lo, hi int, dst []float32)) func(row, lo, hi int, dst []float32) {
	return func(row, lo, hi int, dst []float32) {
		see := make([]bool, hi-lo)
		visible(row, lo, hi, see)
		if clear(dst[:hi-lo]); bias != nil {
			bias(row, lo, hi, dst)
		}
		for i, s := range see {
			if !s {
				dst[i] = float32(math.Inf(-1))
			}
		}
	}
}

// Bounds are a causal mask and a window as a call gives them: QInput has their fields.
type Bounds struct {
	Causal, Windowed bool
	Left, Right      int
}

// Normal returns the bounds as the kernels take them: a bound of the window that hides
// nothing is none, a causal mask bounds it on the right, and with no other bound it is the
// causal mask (FlashAttention-3, flash_api.cpp). Query 0 is aligned with key align
// (Kernel.Align).
func (b Bounds) Normal(queries, keys, align int) Bounds {
	if !b.Windowed {
		return Bounds{Causal: b.Causal, Left: -1, Right: -1}
	}
	if b.Left >= queries-1+align || b.Left < 0 {
		b.Left = -1
	}
	if b.Right >= keys-1-align || b.Right < 0 {
		b.Right = -1
	}
	if b.Causal {
		b.Right = 0
	}
	if b.Left < 0 && b.Right == 0 {
		b.Causal = true
	}
	if b.Windowed = b.Left >= 0 || b.Right > 0; !b.Windowed {
		b.Left, b.Right = -1, -1
	}
	return b
}

// Supports says whether the kernel takes a call's masks; the error names the choice.
func (k *Kernel) Supports(in QInput) error {
	switch m := &k.prog.Mask; {
	case in.Visible != nil && m.Boolean == "none":
		return fmt.Errorf("kernel %s takes no boolean mask (mask.boolean: none)", k.prog.Name)
	case in.Bias != nil && m.Additive == "none":
		return fmt.Errorf("kernel %s takes no additive mask (mask.additive: none)", k.prog.Name)
	case in.Listed != nil && m.BlockMap == "":
		return fmt.Errorf("kernel %s takes no block map (mask.block_map)", k.prog.Name)
	case in.Softcap != 0 && k.prog.Scores.Softcap == "none":
		return fmt.Errorf("kernel %s takes no soft cap (scores.softcap: none)", k.prog.Name)
	case in.Windowed && m.Window == "no":
		return fmt.Errorf("kernel %s takes no window (mask.window: no)", k.prog.Name)
	case in.Windowed && m.Window == "left" && in.Right > 0 && !in.Causal:
		return fmt.Errorf("kernel %s takes no window that bounds the keys after the query (mask.window: left)", k.prog.Name)
	case in.Causal && m.Causal == "none":
		return fmt.Errorf("kernel %s takes no causal mask (mask.causal: none)", k.prog.Name)
	}
	return nil
}

// Blocks returns how many blocks of query rows a head of n queries has.
func (k *Kernel) Blocks(n int) int { return (n + k.tiling.BlockQ - 1) / k.tiling.BlockQ }

// loadQuery reads the rows of a block and smooths them; it returns their number.
func (k *Kernel) loadQuery(q *Query, ws *Workspace, block int) int {
	d := q.kv.in.Dim
	lo := block * k.tiling.BlockQ
	rows := min(k.tiling.BlockQ, q.in.Len-lo)
	x := ws.q[:rows*d]
	q.in.Q(lo, lo+rows, x)
	if k.smoothQ {
		m := quant.NewChannelMean(d)
		m.AddAt(k.level.rows, x)
		m.Mean(ws.qMean, format.FP32.Round)
		quant.SubtractMeanAt(k.level.rows, quant.Paper, x, ws.qMean, format.FP32)
	}
	if q.fold != 1 {
		for i, v := range x {
			x[i] = k.arith.mul(v, q.fold)
		}
	}
	return rows
}

// loadCodes quantises a block's queries and returns their number.
func (k *Kernel) loadCodes(q *Query, ws *Workspace, block int) int {
	rows := k.loadQuery(q, ws, block)
	ws.Counts[StageQ].scanAt(k.level.rows, ws.q[:rows*q.kv.in.Dim])
	k.quantizeQuery(q, ws, block*k.tiling.BlockQ, rows)
	return rows
}

func (k *Kernel) quantizeQuery(q *Query, ws *Workspace, first, rows int) {
	d := q.kv.in.Dim
	ws.Counts[StageQCodes].scanAt(k.level.rows, ws.q[:rows*d])
	if !k.integer {
		for r := range rows {
			ws.qScale[r] = 1
		}
		if k.prog.QKCodes.Scale == "descale" {
			k.encodeFP8(ws.q[:rows*d], q.kv.in.DType, k.descaleOf(q.kv.in.DType, q.in.QDescale, q.amax))
		}
		return
	}
	g, cd := k.granularity, k.CodeDim(d)
	x := ws.q[:rows*d]
	if k.rotate != quant.Unrotated {
		x = k.rotate.RotateAt(k.level.rows, ws.rotated, x, d)
	}
	// Groups interleave within a block (per-thread), so each row finds its group's
	// maximum among the rows of the block; groups never cross a block but for the
	// one of the whole tensor.
	base := g.QueryGroup(k.tiling, first)
	clear(ws.amax)
	for r := range rows {
		i := g.QueryGroup(k.tiling, first+r) - base
		ws.amax[i] = quant.AbsMaxAt(k.level.rows, ws.amax[i], x[r*cd:r*cd+cd])
	}
	if g == quant.PerTensor {
		ws.amax[0] = q.amax
	}
	for r := range rows {
		s := quant.NewScale(k.qkStyle, k.bits, ws.amax[g.QueryGroup(k.tiling, first+r)-base]).Rounded(k.qkRound)
		ws.qScale[r] = s.Step
		s.QuantizeAt(k.level.rows, ws.qCodes[r*cd:r*cd+cd], x[r*cd:r*cd+cd])
	}
}

// QuantizeQuery returns the integer codes [Len][CodeDim] and the scales by group of a query
// head, as Run computes them block by block; nil where Q is not quantised to integers.
func (k *Kernel) QuantizeQuery(in QInput, dim int) (codes []int8, scales []float32) {
	if !k.integer {
		return nil, nil
	}
	kv := &KV{in: KVInput{Dim: dim}, kScale: 1}
	ws := &Workspace{}
	ws.fit(k, dim)
	q := k.Query(in, kv, ws)
	g := k.granularity
	scales = make([]float32, g.QueryGroups(k.tiling, in.Len))
	// A group without rows keeps the scale of zeros, which the released kernels
	// store for the padding of the last tile.
	for i := range scales {
		s := quant.NewScale(k.qkStyle, k.bits, 0)
		scales[i] = s.Step
	}
	for b := range k.Blocks(in.Len) {
		first := b * k.tiling.BlockQ
		rows := k.loadQuery(q, ws, b)
		k.quantizeQuery(q, ws, first, rows)
		codes = append(codes, ws.qCodes[:rows*k.CodeDim(dim)]...)
		for r := range rows {
			scales[g.QueryGroup(k.tiling, first+r)] = ws.qScale[r]
		}
	}
	return codes, scales
}

// Run emulates one block of query rows: block b covers rows [b*BlockQ,
// min((b+1)*BlockQ, Len)). out receives [rows][Dim] values of the output dtype;
// lse, if not nil, the kernel's log-sum-exp per row, as the kernel writes it. It
// returns the number of rows, and an error if there is no such block or a slice is too
// short for it.
func (k *Kernel) Run(q *Query, ws *Workspace, block int, out, lse []float32) (int, error) {
	return k.RunBlocks(context.Background(), q, ws, block, 1, out, lse)
}

// checkRun reports blocks that a head does not have, and slices that are too short for
// their rows; lse may be nil.
func (k *Kernel) checkRun(q *Query, first, n int, out, lse []float32) error {
	if first < 0 || n < 0 || first+n > k.Blocks(q.in.Len) {
		return fmt.Errorf("blocks %d to %d of %d", first, first+n-1, k.Blocks(q.in.Len))
	}
	rows := min((first+n)*k.tiling.BlockQ, q.in.Len) - first*k.tiling.BlockQ
	if d := q.kv.in.Dim; n > 0 && (len(out) < rows*d || lse != nil && len(lse) < rows) {
		return fmt.Errorf("%d rows of %d channels do not fit in %d elements (and %d log-sum-exps)", rows, d, len(out), len(lse))
	}
	return nil
}

// RunBlocks is Run for n consecutive blocks from first on. Where codes are streamed
// it makes them once for all of its blocks, whose state it holds: about 700 bytes a
// row of 128 channels. Other errors than Run's come only if ctx ends, which it looks at
// once for each block and window of 1,024 keys.
func (k *Kernel) RunBlocks(ctx context.Context, q *Query, ws *Workspace, first, n int, out, lse []float32) (int, error) {
	if err := k.checkRun(q, first, n, out, lse); err != nil {
		return 0, err
	}
	kv := q.kv
	d, bq := kv.in.Dim, k.tiling.BlockQ
	ws.fit(k, d)
	group := k.stripBlocks()
	if kv.in.Stream {
		group = n
	}
	for lo := first; lo < first+n; lo += group {
		group := min(group, first+n-lo)
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
		if !kv.strips || ws.Observer != nil || !k.stripCall(&q.in) {
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

// RunRows is Run for some rows of a block: pick holds their numbers within it,
// ascending. out receives [len(pick)][Dim] values. What the block's rows share is
// computed from all of them, so that the rows come out as Run's do. An error says that
// there is no such block or row, or that out is too short.
func (k *Kernel) RunRows(q *Query, ws *Workspace, block int, pick []int, out []float32) error {
	d := q.kv.in.Dim
	if err := k.checkRun(q, block, 0, nil, nil); err != nil || block == k.Blocks(q.in.Len) {
		return fmt.Errorf("block %d of %d", block, k.Blocks(q.in.Len))
	}
	for i, r := range pick {
		if r < 0 || block*k.tiling.BlockQ+r >= q.in.Len || r >= k.tiling.BlockQ || i > 0 && r < pick[i-1] {
			return fmt.Errorf("row %d of block %d: rows must be the block's, and ascending", r, block)
		}
	}
	if len(out) < len(pick)*d {
		return fmt.Errorf("%d rows of %d channels do not fit in %d elements", len(pick), d, len(out))
	}
	if k.prog.PV.Threshold != 0 {
		return k.runWhole(q, ws, block, pick, out)
	}
	ws.fit(k, d)
	first := block * k.tiling.BlockQ
	rows, cd := k.loadQuery(q, ws, block), k.CodeDim(d)
	k.quantizeQuery(q, ws, first, rows)
	for i, r := range pick {
		ws.index[i] = first + r
		ws.qScale[i] = ws.qScale[r]
		copy(ws.qCodes[i*cd:i*cd+cd], ws.qCodes[r*cd:r*cd+cd])
		copy(ws.q[i*d:i*d+d], ws.q[r*d:r*d+d])
	}
	return k.runRows(context.Background(), q, ws, block, len(pick), out, nil)
}

// runWhole is RunRows where the rows of a block decide together.
func (k *Kernel) runWhole(q *Query, ws *Workspace, block int, pick []int, out []float32) error {
	d := q.kv.in.Dim
	all := make([]float32, k.tiling.BlockQ*d)
	counts := ws.Counts
	_, err := k.Run(q, ws, block, all, nil)
	ws.Counts = counts
	for i, r := range pick {
		copy(out[i*d:i*d+d], all[r*d:r*d+d])
	}
	return err
}

// tiles returns the tiles of keys [first, last) that a block of query rows looks at.
func (k *Kernel) tiles(q *Query, block int) (first, last int) {
	return k.tilesOf(q, block*k.tiling.BlockQ, (block+1)*k.tiling.BlockQ)
}

// tilesOf is tiles for query rows [lo, hi).
func (k *Kernel) tilesOf(q *Query, lo, hi int) (first, last int) {
	keys, bk := q.kv.in.Len, k.tiling.BlockK
	align := k.align(q.in.Len, keys)
	if q.in.Causal {
		reach := hi + align
		if k.prog.Mask.Tiles == "shifted" {
			reach += k.prog.Mask.Shift
		}
		keys = min(keys, reach)
	}
	if q.in.Windowed {
		if q.in.Right >= 0 {
			keys = min(keys, hi+align+q.in.Right)
		}
		if q.in.Left >= 0 {
			first = max(0, (lo+align-q.in.Left)/bk)
		}
	}
	return first, max(first, (keys+bk-1)/bk)
}

// align is what is added to a query's number for the key that it is aligned with.
func (k *Kernel) align(queries, keys int) int {
	switch k.prog.Mask.Causal {
	case "top-left", "none":
		return 0
	}
	return keys - queries
}

// causalEnd returns the end of the keys that a causal mask leaves to a query.
func (k *Kernel) causalEnd(q *Query, row int) int {
	align := k.align(q.in.Len, q.kv.in.Len)
	if bq := k.tiling.BlockQ; k.prog.Mask.Causal == "bottom-right-unsigned" && row/bq*bq+align < 0 {
		return row/bq*bq + bq + align
	}
	return row + align + 1 + k.prog.Mask.Shift
}

// Tiles returns how many tiles of keys a block of query rows looks at, where there are so
// many queries and keys and no window.
func (k *Kernel) Tiles(block, queries, keys int, causal bool) int {
	q := &Query{in: QInput{Len: queries, Causal: causal}, kv: &KV{in: KVInput{Len: keys}}}
	_, last := k.tiles(q, block)
	return last
}

// Align returns what is added to a query's number for the key that a causal mask aligns it
// with.
func (k *Kernel) Align(queries, keys int) int { return k.align(queries, keys) }

// tail says whether the scores of tile t of n are dequantised before they are masked.
// The released kernels multiply the integer scores by the dequantisation scale in
// their tail tiles and fold it into the softmax scale elsewhere; a smoothed Q needs the
// scores themselves.
func (k *Kernel) tail(t, n int) bool {
	c := k.prog.Scores.TailTiles
	return k.smoothQ || c < 0 || t >= n-int(c)
}
