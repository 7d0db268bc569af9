package emulate

import (
	"math"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/internal/vec"
	"github.com/sageacc/sageacc/emulate/mufu"
	"github.com/sageacc/sageacc/emulate/quant"
	"github.com/sageacc/sageacc/emulate/tensorcore"
)

// This file runs blocks of query rows with the vector kernels, in strips of
// vec.Rows rows. Whatever they cannot do exactly, values that are not finite
// above all, makes runStrips give up, and the portable code does the block.

// strip is the state of a strip, with the row as the fast index.
type strip struct {
	q   []uint8   // [Dim/4][Rows][4], biased by 128
	o   []float32 // [Dim][Rows]
	d   []float32 // [threads][Rows]
	top []float32 // [threads][Rows]

	m, rescale, qScale [vec.Rows]float32
	limit              [vec.Rows]int32
}

// strips are the strips of a block and what they share.
type strips struct {
	strip   []strip
	s       []float32 // [BlockK][Rows], first as int32
	p       []float32 // [BlockK+1][Rows], P~; the last row is zero
	pe      []uint8   // [BlockK][Rows], its exponents
	tile    []float32 // [Dim][Rows]
	kScale  []float32 // [BlockK]
	delta   []float32 // [BlockK]
	zeros   []float32 // [Dim], negative ones
	scratch vec.Scratch
}

func newStrips(bq, bk, dim int) *strips {
	const n = vec.Rows
	s := &strips{
		s: make([]float32, bk*n), p: make([]float32, (bk+1)*n), pe: make([]uint8, bk*n),
		tile:   make([]float32, dim*n),
		kScale: make([]float32, bk), delta: make([]float32, bk), zeros: make([]float32, dim),
	}
	for i := range s.zeros {
		s.zeros[i] = float32(math.Copysign(0, -1))
	}
	for range bq / n {
		s.strip = append(s.strip, strip{
			q: make([]uint8, dim*n), o: make([]float32, dim*n),
			d: make([]float32, threads*n), top: make([]float32, threads*n),
		})
	}
	return s
}

// formats of P~ and V for the vector kernels; nil where there are none.
var (
	valueFormats = [...]*vec.ValueFormat{
		quant.E4M3: vec.NewValueFormat(func(c uint8) float32 { return format.E4M3(c).Float32() }, -6, 112),
		quant.E5M2: vec.NewValueFormat(func(c uint8) float32 { return format.E5M2(c).Float32() }, -14, 98),
		quant.INT8: nil,
	}
	weightFormats = [...]vec.Format{quant.E4M3: vec.E4M3, quant.E5M2: vec.E5M2, quant.INT8: vec.INT8}
	ex2Table      = mufu.Ex2Coefficients()
	ones          = func() (s [vec.Rows]float32) {
		for i := range s {
			s[i] = 1
		}
		return s
	}()
)

// vecUnit describes the PV unit to the vector kernels and reports whether they
// have it. The unit takes keys in V's stored order; within 32 keys a step of 16
// or 32 is the same set in both orders, and keys k mod 4 in {0, 1} of the stored
// order are those with bit 3 clear.
func (k *Kernel) vecUnit() (vec.Unit, bool) {
	u := k.unit
	switch {
	case u == nil:
		return vec.Unit{Step: 32, Integer: true}, true
	case u.A != tensorcore.E4M3 && u.A != tensorcore.E5M2:
	case u.FractionBits == 13:
		return vec.Unit{Step: len(u.Steps[0]), Half: u.C == tensorcore.FP16}, true
	case u.SeparateAdd && u.FractionBits == 25 && u.C == tensorcore.FP32:
		return vec.Unit{Step: 16, Split: true}, true
	}
	return vec.Unit{Step: 32}, false
}

// prepareStrips finds out whether a kv head's blocks can run in strips.
func (k *Kernel) prepareStrips(kv *KV) {
	d := kv.in.Dim
	if u, ok := k.vecUnit(); !ok || k.level == vec.Portable || (u.Split || u.Integer) && k.level.Narrow() || d%4 != 0 || !kv.vCodes.Index() {
		return
	}
	kv.strips = true
	kv.vOrdinary = true
	for c, s := range kv.vScale {
		if format.FlushSubnormal(s) != s || kv.vMean != nil && format.FlushSubnormal(kv.vMean[c]) != kv.vMean[c] {
			kv.vOrdinary = false
		}
	}
	kv.kBias = make([]int32, kv.vStride)
	for i := range kv.kBias {
		var s int32
		for _, c := range kv.kCodes[i*d : i*d+d] {
			s += int32(c)
		}
		kv.kBias[i] = -128 * s
	}
}

// runStrips runs a block from the quantised queries to the output. It reports
// false if it could not; ws holds nothing of use then.
func (k *Kernel) runStrips(q *Query, ws *Workspace, block, rows int, out, lse []float32) bool {
	kv := q.kv
	d, bq, bk := kv.in.Dim, k.tiling.BlockQ, k.tiling.BlockK
	if !kv.strips || ws.Observer != nil {
		return false
	}
	if ws.strips == nil || len(ws.strips.s) != bk*vec.Rows || len(ws.strips.tile) != d*vec.Rows {
		ws.strips = newStrips(bq, bk, d)
	}
	ss := ws.strips
	clear(ss.tile)
	clear(ss.p[bk*vec.Rows:])
	n := (rows + vec.Rows - 1) / vec.Rows
	for i := range n {
		ss.strip[i].load(ws, d, i*vec.Rows, min(vec.Rows, rows-i*vec.Rows))
	}
	smScale := format.MulFtz(q.in.Scale, log2e)
	tiles := k.tiles(q, block)
	for t := range tiles {
		tail := k.tail(t, tiles)
		k.stripScales(ws, kv, t*bk, tail)
		for i := range n {
			if !k.runTile(q, ss, &ss.strip[i], block*bq+i*vec.Rows, t*bk, smScale, tail) {
				return false
			}
		}
	}
	for i := range n {
		lo, hi := i*vec.Rows, min((i+1)*vec.Rows, rows)
		var l []float32
		if lse != nil {
			l = lse[lo:hi]
		}
		k.finishStrip(q, ws, &ss.strip[i], lo, hi, out[lo*d:hi*d], l)
	}
	return true
}

// dequantized says whether the scores of a tile are dequantised first.
func (k *Kernel) dequantized(tail bool) bool { return tail || k.cfg.QKGranularity == quant.PerToken }

// stripScales finds the scales and the delta-S of a tile: by key where the scores
// are dequantised first, by thread where they are not.
func (k *Kernel) stripScales(ws *Workspace, kv *KV, lo int, tail bool) {
	ss, g := ws.strips, k.cfg.QKGranularity
	if !k.dequantized(tail) {
		for j := range threads {
			// A thread's keys share a scale at every granularity but PerToken.
			ss.kScale[j] = kv.kScales[g.KeyGroup(k.tiling, lo+2*j)]
		}
		return
	}
	n := min(len(ss.kScale), kv.in.Len-lo)
	clear(ss.kScale[n:])
	for i := range n {
		ss.kScale[i] = kv.kScales[g.KeyGroup(k.tiling, lo+i)]
	}
	if !k.cfg.SmoothQ {
		clear(ss.delta)
		return
	}
	d := kv.in.Dim
	x, mean := ws.keys[:len(ss.delta)*d], ss.zeros
	kv.in.K(lo, lo+n, x[:n*d])
	clear(x[n*d:])
	if kv.mean != nil && k.cfg.qkStyle() == quant.Paper {
		mean = kv.mean
	} else {
		k.smoothKeys(kv, x[:n*d])
	}
	if k.level.Narrow() || !k.level.MeanDots(ss.delta, x, mean, ws.qMean) {
		k.deltaScores(ws, kv, lo)
		copy(ss.delta, ws.deltaS)
	}
	clear(ss.delta[n:])
}

// runTile runs a strip whose first row is the query first through the tile of
// keys from lo on.
func (k *Kernel) runTile(q *Query, ss *strips, st *strip, first, lo int, smScale float32, tail bool) bool {
	kv := q.kv
	d, bk := kv.in.Dim, k.tiling.BlockK
	k.level.QK(ss.s, st.q, kv.kCodes[lo*d:], kv.kBias[lo:], bk, &ss.scratch)
	for i := range st.top {
		st.top[i] = masked
	}
	a := vec.SoftmaxArgs{
		P: &ss.p[0], PE: &ss.pe[0], S: &ss.s[0], Blocks: bk / 16, Top: &st.top[0],
		M: &st.m[0], D: &st.d[0], Rescale: &st.rescale[0],
		QScale: &st.qScale[0], KScale: &ss.kScale[0], Table: ex2Table,
		Scale: smScale, Offset: k.offset, Format: weightFormats[k.cfg.PVType],
	}
	if k.dequantized(tail) {
		for r := range st.limit {
			limit := kv.in.Len
			if q.in.Causal && tail {
				limit = min(limit, first+r+1)
			}
			st.limit[r] = int32(limit - lo)
		}
		if !k.level.Dequantize(ss.s, st.top, bk, &st.qScale, ss.kScale, ss.delta, &st.limit, masked) {
			return false
		}
		a.QScale, a.KScale = &ones[0], &ones[0]
	} else {
		k.level.ToFloat(ss.s, st.top, bk)
	}
	if k.cfg.PVAccum == AccumFP32 && k.unit != nil {
		return k.level.Softmax(&a) && k.level.Rescale(st.o, &st.rescale, d) &&
			kv.vCodes.Dot(k.level, st.o, ss.p, ss.pe, &ss.scratch, lo)
	}
	return k.level.Softmax(&a) &&
		kv.vCodes.Dot(k.level, ss.tile, ss.p, ss.pe, &ss.scratch, lo) &&
		k.level.AddTile(st.o, ss.tile, &st.rescale, d)
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
	if ordinary && !k.level.Narrow() {
		copy(ss.tile, st.o)
		if k.level.Finish(kv.in.DType, ss.tile, &inverse, kv.vScale, mean) {
			transpose(out, ss.tile, d, hi-lo)
			clear(ss.tile)
			return
		}
		clear(ss.tile)
	}
	// The portable code counts what is not ordinary.
	copy(ws.m, st.m[:])
	for r := range hi - lo {
		for j := range threads {
			ws.d[r*threads+j] = st.d[j*vec.Rows+r]
		}
	}
	transpose(ws.o, st.o, d, hi-lo)
	k.finish(q, ws, hi-lo, out, lse)
}

// transpose writes rows of d channels from a strip's matrix.
func transpose(dst, src []float32, d, rows int) {
	for r := range rows {
		row := dst[r*d : r*d+d]
		for c := range row {
			row[c] = src[c*vec.Rows+r]
		}
	}
}

// load takes the quantised queries and starts the softmax. Rows beyond the n
// there are have scores of zero.
func (st *strip) load(ws *Workspace, d, row, n int) {
	for i := range st.q {
		st.q[i] = 128
	}
	clear(st.qScale[:])
	copy(st.qScale[:], ws.qScale[row:row+n])
	for r := range n {
		codes := ws.qCodes[(row+r)*d : (row+r+1)*d]
		for c, x := range codes {
			st.q[c/4*4*vec.Rows+4*r+c%4] = uint8(x) ^ 0x80
		}
	}
	for i := range st.m {
		st.m[i] = masked
	}
	for i := range st.d {
		st.d[i] = 1
	}
	clear(st.o)
}
