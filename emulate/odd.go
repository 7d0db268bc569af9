package emulate

import (
	"math"

	"github.com/sageacc/sageacc/emulate/internal/vec"
	"github.com/sageacc/sageacc/emulate/quant"
)

// This file is what NaN and infinities of Q, K and V do to a strip. The vector kernels are
// for finite numbers alone; so they are given finite ones in place of the others, which
// change nothing for the rows and channels that never meet one of them, and what the
// others do is kept beside:
//
//   - A score is NaN where a scale is infinite, whose codes are all zero, or where delta-S
//     is NaN. The kernels' maximum passes over it, as the hardware's does, if it is as low
//     as a masked one. A row with such a score has a denominator that is NaN, and so has
//     all of its output: the row is lost.
//   - A code of V that is not finite counts as zero. What the codes of a channel that are
//     not finite add up to is NaN, an infinity, or nothing yet.

// oddKeys are the keys of a tile whose scores are NaN in every row.
type oddKeys struct {
	nan []bool // [BlockK]
	any bool
	// inf says that one is so only in rows whose scores are all NaN.
	inf bool
	// before [BlockK+1] counts those among the first keys.
	before []int32
}

// oddRows is what the rows of a strip have met.
type oddRows struct {
	rows int            // that the strip has
	nan  [vec.Rows]bool // all scores of a row are NaN
	any  bool           // there is one in nan
	// lost rows have seen a score that is NaN.
	lost    [vec.Rows]bool
	anyLost bool
	// blind rows have seen no score that is a number.
	blind [vec.Rows]bool
	// sums are those of V's channels with codes that are not finite.
	sums []oddSum

	// Of the tile in hand: nothing to look at in its scores; how many of the scores that a
	// row sees are NaN; whether one of its weights is, in its format; the weight of masked
	// keys; its maximum before the tile; what a channel's odd codes add up to.
	quiet  bool
	nans   [vec.Rows]int32
	p      [vec.Rows]bool
	masked [vec.Rows]float32
	m      [vec.Rows]float32
	t      [vec.Rows]float32

	// counts of what the portable code would have met.
	counts Counts
}

// oddSum is what the codes of a channel that are not finite add up to: NaN, an infinity,
// or 0 in rows without any.
type oddSum struct {
	channel int
	x       [vec.Rows]float32
}

// hidden is a score that any scale of hideThreads takes below all others.
const (
	hidden      = -0x1p127
	hiddenScale = 0x1p60
)

func finite(x float32) bool { return x-x == 0 }

// startOdd prepares a strip of n rows whose qScale is there.
func (st *strip) startOdd(n int) {
	o := &st.odd
	o.rows, o.any, o.anyLost, o.sums, o.counts = n, false, false, o.sums[:0], Counts{}
	clear(o.nan[:])
	clear(o.lost[:])
	for r := range n {
		o.blind[r] = true
		if !finite(st.qScale[r]) {
			st.qScale[r], o.nan[r], o.any = 0, true, true
		}
	}
}

// fit starts anew for a tile of n keys.
func (o *oddKeys) fit(n int) {
	if o.any || len(o.nan) != n {
		o.nan, o.before, o.any, o.inf = grow(o.nan, n), grow(o.before, n+1), false, false
		clear(o.nan)
		clear(o.before)
	}
}

// count fills before.
func (o *oddKeys) count() {
	for i, nan := range o.nan {
		o.before[i+1] = o.before[i]
		if nan {
			o.before[i+1]++
		}
	}
}

// takes says whether a strip can take a tile: not one with infinite scores, which NaN
// alone hide.
func (o *oddRows) takes(keys *oddKeys) bool {
	if !keys.inf {
		return true
	}
	for r := range o.rows {
		if !o.nan[r] {
			return false
		}
	}
	return true
}

// hideThreads takes the threads whose scale is not finite out of a tile whose scores are
// not dequantised: they get another scale, and hideScores gives them other scores.
func (ss *strips) hideThreads() {
	ss.nan.fit(len(ss.kScale))
	for j := range threads {
		if finite(ss.kScale[j]) {
			continue
		}
		ss.kScale[j], ss.nan.any = hiddenScale, true
		for i := range ss.nan.nan {
			if i&7>>1 == j {
				ss.nan.nan[i] = true
			}
		}
	}
	if ss.nan.any {
		ss.nan.count()
	}
}

// hideScores is the rest of hideThreads.
func (ss *strips) hideScores(top []float32) {
	if !ss.nan.any {
		return
	}
	for i, nan := range ss.nan.nan {
		if !nan {
			continue
		}
		j := i & 7 >> 1
		for r := range vec.Rows {
			ss.s[i*vec.Rows+r], top[j*vec.Rows+r] = hidden, hidden
		}
	}
}

// hideKeys takes those of the first n keys whose scores are NaN out of a tile whose scores
// are dequantised: their scores are those of masked keys.
func (ss *strips) hideKeys(n int, masked float32) {
	ss.nan.fit(len(ss.kScale))
	for i := range n {
		d := ss.delta[i]
		if finite(ss.kScale[i]) && finite(d) {
			continue
		}
		ss.nan.inf = ss.nan.inf || finite(ss.kScale[i]) && d == d
		ss.kScale[i], ss.delta[i] = 0, masked
		ss.nan.nan[i], ss.nan.any = true, true
	}
	if ss.nan.any {
		ss.nan.count()
	}
}

// look finds out which scores of a tile are NaN, and hides all keys, masked ones too, from
// blind rows: their maximum is what masked keys make it, whose weights may then be beyond
// what the kernels take. The tile's scores are there.
func (k *Kernel) look(q *Query, ss *strips, st *strip, tail bool) {
	o := &st.odd
	o.quiet = !o.any && !ss.nan.any && !o.anyLost
	if o.quiet {
		// Every row sees the first key at least.
		clear(o.blind[:])
		return
	}
	bk := len(ss.kScale)
	dequantized := k.dequantized(tail)
	blind := 0
	for r := range vec.Rows {
		seen := bk
		if dequantized {
			seen = min(max(int(st.limit[r]), 0), bk)
		}
		o.nans[r] = 0
		switch {
		case o.nan[r]:
			o.nans[r] = int32(seen)
		case ss.nan.any:
			o.nans[r] = ss.nan.before[seen]
		}
		// Of rows that do not exist nothing is told but that their weights are none.
		o.blind[r] = r >= o.rows || o.blind[r] && int(o.nans[r]) == seen
		if !o.blind[r] {
			continue
		}
		o.m[r] = st.m[r]
		blind++
		if !dequantized || seen == bk || r >= o.rows {
			continue
		}
		// The weight of masked keys.
		m := max(st.m[r], k.arith.fma(k.start, q.scale, -k.offset))
		p := k.ex2(k.arith.fma(k.masked, q.scale, -m))
		if limit := k.p.kind.Max(); limit > 0 && p > limit {
			o.counts[StagePCodes].Saturated += int64(bk - seen)
		}
		o.masked[r] = k.p.decode(k.p.encode(p, false))
	}
	if blind > 0 {
		o.hideRows(ss.s, hidden, blind == vec.Rows)
		o.hideRows(st.top, k.start, blind == vec.Rows)
	}
}

// hideRows puts x into the blind rows, or all, of a matrix of a strip.
func (o *oddRows) hideRows(m []float32, x float32, all bool) {
	for i := range m {
		if all || o.blind[i%vec.Rows] {
			m[i] = x
		}
	}
}

// showMasked gives masked keys the weights in blind rows that look has kept from the
// kernels; the tile's other weights are there.
func (k *Kernel) showMasked(ss *strips, sl *slot) {
	st := sl.strip
	o := &st.odd
	if o.quiet || !k.dequantized(sl.tail) {
		return
	}
	bk := len(ss.kScale)
	for r := range o.rows {
		if !o.blind[r] {
			continue
		}
		for i := min(max(int(st.limit[r]), 0), bk); i < bk; i++ {
			sl.p[i*vec.Rows+r], sl.pe[i*vec.Rows+r] = o.masked[r], uint8(math.Float32bits(o.masked[r])>>23)
		}
	}
}

// meetOdd keeps what a tile does that has been run: values are the codes of V in it that
// are not finite.
func (k *Kernel) meetOdd(kv *KV, sl *slot, values []vec.Odd) {
	st, tail := sl.strip, sl.tail
	o := &st.odd
	d, sums := kv.in.Dim, &o.counts[StageTileSums]
	if o.quiet && kv.deadCount == 0 && len(values) == 0 && len(o.sums) == 0 {
		return
	}
	clear(o.p[:])
	for r, nans := range o.nans[:o.rows] {
		if o.quiet {
			break
		}
		if !k.dequantized(tail) && o.blind[r] {
			st.m[r] = o.m[r]
		}
		if nans == 0 {
			continue
		}
		if k.dequantized(tail) {
			o.counts[StageScores].NaN += int64(nans)
		}
		o.counts[StageP].NaN += int64(nans)
		o.lost[r], o.anyLost = true, true
		o.p[r] = k.v.kind != quant.INT8 // whose code of NaN is 0
	}
	nan := &o.p // the rows whose sums are NaN
	if k.prog.OneChain() && k.v.kind != quant.INT8 {
		nan = &o.lost
	}
	for r := range o.rows {
		if nan[r] {
			sums.NaN += int64(d)
		} else {
			sums.NaN += int64(kv.deadCount)
		}
	}
	if len(values) > 0 || len(o.sums) > 0 {
		k.addOdd(sl, values, nan)
	}
}

// addOdd adds a tile to the sums of V's codes that are not finite, and counts them in rows
// that are not NaN.
func (k *Kernel) addOdd(sl *slot, values []vec.Odd, nan *[vec.Rows]bool) {
	st := sl.strip
	o := &st.odd
	for i := range values {
		c := values[i].Channel
		if !o.has(c) {
			o.sums = append(o.sums, oddSum{channel: c})
		}
	}
	for i := range o.sums {
		s := &o.sums[i]
		clear(o.t[:])
		for j := range values {
			if values[j].Channel == s.channel {
				oddTile(&o.t, &values[j], sl.p)
			}
		}
		for r := range o.rows {
			// The rest of the sum is finite.
			s.x[r] = float32(s.x[r]*st.rescale[r]) + o.t[r]
			x := o.t[r]
			if k.prog.OneChain() {
				x = s.x[r]
			}
			if !nan[r] && !finite(x) {
				o.counts[StageTileSums].add(x)
			}
		}
	}
}

// has says whether a channel has a sum.
func (o *oddRows) has(channel int) bool {
	for i := range o.sums {
		if o.sums[i].channel == channel {
			return true
		}
	}
	return false
}

// oddTile writes the sums of a tile's products with codes that are not finite; p [key][Rows]
// are its weights.
func oddTile(t *[vec.Rows]float32, v *vec.Odd, p []float32) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	if v.NaN {
		for r := range t {
			t[r] = nan
		}
		return
	}
	for _, keys := range []struct {
		keys []uint8
		inf  float32
	}{{v.Plus, inf}, {v.Minus, -inf}} {
		for _, key := range keys.keys {
			for r, w := range p[int(key)*vec.Rows:][:vec.Rows] {
				t[r] += float32(w * keys.inf) // NaN for a weight of zero
			}
		}
	}
}

// endOdd puts into d and o of a strip what it has met, before they are finished.
func (st *strip) endOdd() {
	o := &st.odd
	for r := range o.rows {
		if o.lost[r] {
			st.d[r] = float32(math.NaN())
		}
	}
	for i := range o.sums {
		s := &o.sums[i]
		for r := range o.rows {
			if !finite(s.x[r]) {
				st.o[s.channel*vec.Rows+r] = s.x[r]
			}
		}
	}
}

// finishDead sets the outputs of dead channels, and counts them in rows that are not lost,
// where they have been.
func (st *strip) finishDead(kv *KV, ws *Workspace, out []float32) {
	d := kv.in.Dim
	for c, dead := range kv.dead {
		if !dead {
			continue
		}
		for r := range st.odd.rows {
			out[r*d+c] = float32(math.NaN())
			if !st.odd.lost[r] {
				ws.Counts[StageOutput].NaN++
			}
		}
	}
}
