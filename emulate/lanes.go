package emulate

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/internal/exact"
	"github.com/sageacc/sageacc/emulate/internal/vec"
	"github.com/sageacc/sageacc/emulate/mufu"
	"github.com/sageacc/sageacc/emulate/quant"
	"github.com/sageacc/sageacc/emulate/tensorcore"
)

// This file runs the tiles of a block on vectors for descriptions that are the
// interpreter's: step by step as there, with the block's rows in the lanes, so that each
// row's order of operations is kept by itself. What is of a row, not of a score, is the
// interpreter's own code. Whatever is not an ordinary number makes runLanes give the block
// up, before anything has been counted, and the portable steps do it. Weights beyond P's format
// are ordinary: the largest of a row is, where P's scale is the format's largest number and the
// exponent comes out a little above 0.

// lanePlan is how the steps of a description run on vectors.
type lanePlan struct {
	scores, pv, ones *tensorcore.Strip // nil for integers and where there is no unit
	dots             bool              // PV through vec.Values
	codes            keyLayout         // of scores through vec.Keys
	weight           vec.Weight
	most             float32 // to which P saturates, the largest number where it does not
	control          vec.Control
	join             vec.Join // of tiles but the last, for twice-but-last
}

// laneChoices says, for every choice of a description, what the steps on vectors take. A test
// sees to it that no choice is missing.
var laneChoices = map[string]string{
	"schema": anything, "name": anything, "summary": anything, "source": anything, "evidence": anything,
	"arch":            anything, // of the units, which Unit.Strip looks at
	"operands.dtypes": anything,
	"operands.output": anything, "operands.max_head_dim": anything,
	"operands.subnormals": "flush keep", "operands.descale": anything, "operands.packed": anything,
	// Operands are prepared by code that the paths share.
	"smoothing.q": anything, "smoothing.delta_s": anything,
	"smoothing.k": anything, "smoothing.k_mean": anything, "smoothing.k_difference": anything, "smoothing.v": anything,
	"qk_codes.format":      "int8 int4 e4m3 fp16 bf16 input exact",
	"qk_codes.granularity": anything, "qk_codes.scale": anything, "qk_codes.round": anything, "qk_codes.fold": anything, "qk_codes.rotate": anything,
	"v_codes.format": "e4m3 e5m2 int8 fp16 bf16 input exact", "v_codes.scale": anything, "v_codes.max": anything,
	"v_codes.round": anything, "v_codes.order": "natural permuted16", "v_codes.beyond": anything, "v_codes.cast": anything,
	"tiles.shapes.0.rows": anything, "tiles.shapes.0.warp_rows": anything, "tiles.shapes.0.keys": anything,
	"tiles.order": "first-to-last last-to-first", "tiles.split": anything, "tiles.combine": anything, "tiles.sms": anything,
	// Code of the interpreter says which scores are masked.
	"mask.causal": anything, "mask.shift": anything, "mask.tiles": anything, "mask.window": anything, "mask.beyond": anything, "mask.beyond_value": anything,
	"mask.value": anything, "mask.boolean": anything, "mask.boolean_value": anything, "mask.hidden": anything, "mask.additive": anything, "mask.block_map": anything,
	"scores.unit.instruction": anything, "scores.unit.fraction_bits": anything, "scores.unit.step": anything, "scores.unit.sum_round": anything,
	"scores.tail_tiles": anything, "scores.sm_scale": "exponent folded scores with-scale", "scores.product": anything, "scores.head_dim": "natural residual32",
	"scores.softcap": "none tanh.approx",
	"maximum.start":  anything, "maximum.of": "shifted scaled scores tile tile-unbounded", "maximum.round": anything, "maximum.unseen": anything,
	"exponent.offset": anything, "exponent.round": "fma twice", "exponent.exp2": anything,
	"denominator.of": "p codes ones codes-but-last", "denominator.unit": anything, "denominator.start": anything,
	"denominator.order": "groups16 pairwise16 sequential chain tile tile-tree groups32", "denominator.rescale": anything, "denominator.combine": anything,
	"p.format": "e4m3 e5m2 int8 uint8 fp16 bf16 input exact", "p.scale": anything, "p.round": "even zero none",
	"pv.unit.instruction": anything, "pv.unit.fraction_bits": anything, "pv.unit.step": anything, "pv.unit.sum_round": anything,
	"pv.level": anything, "pv.join": "none fma twice twice-but-last factor memory", "pv.rescale": "fp32 fp16 none", "pv.threshold": anything,
	"finish.inverse": anything, "finish.scale": anything, "finish.mean": anything, "finish.empty": anything,
	"finish.first": anything, "finish.round": anything,
	"log_sum_exp.form": anything,
}

// planLanes returns how the description's steps run on vectors, nil where they do not.
func (k *Kernel) planLanes() *lanePlan {
	if !k.turnsValues() || k.whyScalar() != "" {
		return nil
	}
	p := &lanePlan{control: vec.Flush, most: math.MaxFloat32}
	if k.arith.keep {
		p.control = vec.Keep
	}
	p.operands(k)
	p.units(k)
	p.dots, p.codes = k.dotsValues(), k.codesOfScores()
	switch {
	case k.ofTile:
		p.join = vec.JoinFactor
	case k.prog.OneChain() && k.prog.PV.Rescale == "fp16":
		p.join = vec.JoinNoneFP16
	case k.prog.OneChain():
		p.join = vec.JoinNone
	case k.prog.PV.Join == "twice", k.prog.PV.Join == "twice-but-last":
		p.join = vec.JoinTwice
	default:
		p.join = vec.JoinFMA
	}
	return p
}

// whyScalar returns the choice that the steps on vectors do not have, "" where they have all.
func (k *Kernel) whyScalar() string {
	reduced := k.prog.Reduced()
	for _, c := range reduced.Choices() {
		if takes, known := laneTakes[c.Path]; !known || takes != nil && !slices.Contains(takes, c.Value) {
			return fmt.Sprintf("%s: %s", c.Path, c.Value)
		}
	}
	if !k.p.bytes && !k.p.typed && !k.p.exact && k.p.dtype != format.BF16 {
		return "p.format: " + dtypeNames[k.p.dtype]
	}
	if k.prog.P.Round == "none" && !k.p.exact {
		return "p.round: none"
	}
	if k.prog.PV.Threshold != 0 && k.prog.Scores.TailTiles == 0 {
		return "scores.tail_tiles: 0" // rows decide with keys beyond the end
	}
	return k.whyNoUnits()
}

// whyNoUnits is whyScalar of the units.
func (k *Kernel) whyNoUnits() string {
	for _, x := range []struct {
		path string
		unit *tensorcore.Unit
	}{{"scores.unit", k.scoreUnit}, {"pv.unit", k.pvUnit}, {"denominator.unit", k.onesUnit}} {
		has := (*tensorcore.Unit).HasStrip
		if x.unit == k.pvUnit && (k.p.exact || k.v.exact) {
			has = (*tensorcore.Unit).HasStripOf
		}
		if x.unit != nil && !has(x.unit) {
			return fmt.Sprintf("%s: %s as %s executes it", x.path, x.unit.Instruction, x.unit.Arch)
		}
	}
	level, ones := fmt.Sprintf("pv.level: %d", k.sumKeys), "denominator.unit: "+k.prog.Denominator.Unit
	switch {
	case k.sumKeys%16 != 0:
		return level
	case k.intPV && k.onesUnit != nil:
		return ones
	case k.intPV && (k.sumKeys > 1<<24/(256*128) || k.prog.OneChain()):
		return level // the largest sum is not one that FP32 has
	case k.intPV:
		return ""
	case k.exactSums() && k.onesUnit != nil:
		return ones
	case k.exactSums():
		return ""
	case k.p.exact && k.onesUnit != nil:
		return ones
	case k.sumKeys%k.pvUnit.K != 0:
		return level
	case k.onesUnit != nil && (k.tiling.BlockK%k.onesUnit.K != 0 || k.onesUnit.A != k.pvUnit.A || !k.natural):
		return ones
	}
	return ""
}

// turnsValues says whether windows keep V for the steps on vectors. It depends on nothing that
// a Preparation does not but the level, without which they are not taken.
func (k *Kernel) turnsValues() bool { return k.portable != "" && k.level.l.Lanes() }

// operands finds the format of P.
func (p *lanePlan) operands(k *Kernel) {
	switch {
	case k.p.exact:
	case k.p.bytes:
		p.weight, p.most = vec.WeightInt, math.MaxUint8
	case k.p.typed:
		p.weight = [...]vec.Weight{quant.E4M3: vec.WeightE4M3, quant.E5M2: vec.WeightE5M2, quant.INT8: vec.WeightInt, quant.FP16: vec.WeightFP16}[k.p.kind]
		if k.p.kind != quant.FP16 {
			p.most = k.p.kind.Max()
		}
	default:
		p.weight = vec.WeightBF16
	}
}

// laneTakes is laneChoices with the values apart, nil for anything.
var laneTakes = takes(laneChoices)

// units finds the strips of the units.
func (p *lanePlan) units(k *Kernel) {
	for _, x := range []struct {
		strip **tensorcore.Strip
		unit  *tensorcore.Unit
	}{{&p.scores, k.scoreUnit}, {&p.pv, k.pvUnit}, {&p.ones, k.onesUnit}} {
		if x.unit != nil {
			*x.strip, _ = x.unit.Strip(k.level.unit)
		}
	}
	if k.pvUnit != nil && (k.p.exact || k.v.exact) {
		of := func(o operand) tensorcore.Operand {
			if o.exact {
				return tensorcore.FP32
			}
			return k.pvUnit.A
		}
		p.pv, _ = k.pvUnit.StripOf(k.level.unit, of(k.v), of(k.p))
	}
}

// takesLanes says whether the tiles of a block of a query run on vectors.
func (k *Kernel) takesLanes(q *Query, ws *Workspace) bool {
	return k.lanes != nil && q.kv.kernel.turnsValues() && ws.Observer == nil
}

// dotsValues says whether PV is a product of [vec.Values], with V by sign: of FP8, in sums of whole
// tiles, with 13 fraction bits.
func (k *Kernel) dotsValues() bool {
	u, ok := k.vectorUnit()
	bk := k.tiling.BlockK
	return ok && u.Kind == vec.Truncated13 && !u.Half && !k.p.exact && !k.v.exact && k.onesUnit == nil && k.sumKeys == bk && bk%32 == 0 && bk <= math.MaxUint8 && u.Channels(k.prog.Operands.MaxHeadDim)
}

// dots says whether a head's V lies as k.lanes.dots wants it.
func (k *Kernel) dots(kv *KV) bool {
	by := kv.kernel
	return k.lanes.dots && by.lanes != nil && by.lanes.dots && by.vecUnit == k.vecUnit
}

// even fills channels up to the pairs that the products with V take.
func even(d int) int { return (d + 1) &^ 1 }

// laneRows is a value for each row of a strip.
type laneRows = [vec.Rows]float32

// lanes is the state of runLanes.
type lanes struct {
	strips      []laneStrip
	scored      []laneScored // one, or one for each strip where their rows decide together
	*laneScored              // of the strip in hand

	p       []float32 // [BlockK][Rows], P as the operand, in the order of the keys
	stored  []float32 // p in V's stored order, if that is another
	keyRows []float32 // [BlockK][depth], keys whose operand has more channels than they
	vRows   []float32 // [even(Dim)][BlockK], V in the order of the operands, if the window has it otherwise
	steps   []float32 // [BlockK], of the keys' scales
	all     []float32 // [BlockK], the same number

	whole   []float32 // [even(Dim)][BlockK], V of integers
	keys    tensorcore.RowOperand
	loaded  bool                    // keys are the tile's
	values  []tensorcore.RowOperand // of each sum from zero
	exactly laneExact
	ones    tensorcore.RowOperand
	weights tensorcore.LaneOperand

	// Of the strip in hand, by thread: what scores are lowered by, and sums of weights.
	lower, sum [threads * vec.Rows]float32
	// alpha of O, that of the denominator, and the factor of what a tile adds.
	alpha, rescale, factor laneRows
	scratch                vec.Scratch
	slots                  [2]laneSlot // the first held have P and no PV yet
	held                   int
	// saturated counts the weights of the block beyond P's format.
	saturated int64
}

// laneScored are the scores of a strip in a tile.
type laneScored struct {
	s     []float32 // [BlockK][Rows], scores, then P
	reach int       // the keys from here on no row sees
	// By thread: the maxima, and what scores are multiplied by.
	top, scale [threads * vec.Rows]float32
}

// laneStrip is what a strip of rows keeps.
type laneStrip struct {
	o       []float32 // [even(Dim)][Rows]
	q       []float32 // [depth][Rows]
	queries tensorcore.LaneOperand
	codes   vec.Queries // q, if coded
	coded   bool
	o64     []float64 // o where sums are exact
}

// laneSlot is what a strip waits with for its PV, which two take together.
type laneSlot struct {
	strip         *laneStrip
	p             []float32 // [BlockK+1][Rows], with zeros at the end
	pe            []uint8   // [BlockK][Rows], the exponents of p
	tile          []float32 // [even(Dim)][Rows]
	alpha, factor laneRows
	lo, n         int // the block's row that is the strip's first, and how many it has
	keys          int // the first that may have weight
}

var oneRows = laneRows(ones)

// runLanes is runTiles on vectors. It reports whether it could.
func (k *Kernel) runLanes(ctx context.Context, q *Query, ws *Workspace, block, rows, first, last, end int) (bool, error) {
	kv := q.kv
	d := kv.in.Dim
	l := k.fitLanes(ws, rows, d)
	if !k.loadLanes(ws, rows, d) {
		return false, nil
	}
	k.startRows(ws, rows)
	walk := k.walk(q, ws, block, first, last, end)
	idle := idleRow{m: k.start}
	for i := range last - first {
		t := k.tileAt(i, first, last)
		if i%(kv.windowKeys/k.tiling.BlockK) == 0 && ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		where, ok := walk.next(i, t)
		if ok && !k.laneTile(q, ws, t, rows, where, &idle) {
			return false, nil
		}
	}
	for i := range l.strips {
		lo := i * vec.Rows
		if k.exactSums() && k.prog.OneChain() && !l.strips[i].narrow() {
			return false, nil
		}
		k.level.l.Turn(ws.o[lo*d:], d, l.strips[i].o, vec.Rows, d, min(vec.Rows, rows-lo))
	}
	ws.Counts[StagePCodes].Saturated += l.saturated
	return true, nil
}

// laneTile runs a tile. It reports whether it could.
func (k *Kernel) laneTile(q *Query, ws *Workspace, t, rows int, where place, idle *idleRow) bool {
	l, kv := ws.lanes, q.kv
	d, dots := kv.in.Dim, k.dots(kv)
	w, at := kv.windowAt(t*k.tiling.BlockK, ws)
	if k.smoothQ && k.prog.Smoothing.DeltaS != "none" {
		k.deltaScores(ws, kv, ws.qMean, t*k.tiling.BlockK)
	}
	l.loaded = false
	if !dots && !k.loadLaneValues(l, w, at, d) || dots && len(w.vCodes.Odd(at)) > 0 {
		return false
	}
	score := func(i int) bool {
		lo := i * vec.Rows
		n := min(vec.Rows, rows-lo)
		l.laneScored = &l.scored[i%len(l.scored)]
		l.reach = k.laneKeys(q, ws, t, lo, n, where.tail)
		return k.laneScores(q, ws, &l.strips[i], w, t, at, lo, n, where) && k.laneTops(l, where)
	}
	together := k.prog.PV.Threshold != 0 && !where.tail
	if together {
		for i := range l.strips {
			if !score(i) {
				return false
			}
		}
		if k.lanePassed(ws, rows, idle) {
			return true
		}
	}
	for i := range l.strips {
		st, lo := &l.strips[i], i*vec.Rows
		n := min(vec.Rows, rows-lo)
		if !together && !score(i) {
			return false
		}
		l.laneScored = &l.scored[i%len(l.scored)]
		l.p = l.slots[l.held].p[:k.tiling.BlockK*vec.Rows]
		if !k.laneSoftmax(ws, lo, n, where) {
			return false
		}
		keys := l.reach
		if slices.ContainsFunc(l.p[keys*vec.Rows:], func(x float32) bool { return x != 0 }) {
			keys = k.tiling.BlockK
		}
		if !dots {
			if !k.laneValues(l, st, ws, lo, n, keys, where) {
				return false
			}
			continue
		}
		slot := &l.slots[l.held]
		slot.strip, slot.alpha, slot.factor, slot.lo, slot.n, slot.keys = st, l.alpha, l.factor, lo, n, keys
		if l.held++; l.held == len(l.slots) && !k.laneDots(ws, w, at, d, where) {
			return false
		}
	}
	return l.held == 0 || k.laneDots(ws, w, at, d, where)
}

// fitLanes makes room for rows of d channels, and starts their outputs.
func (k *Kernel) fitLanes(ws *Workspace, rows, d int) *lanes {
	if ws.lanes == nil {
		ws.lanes = &lanes{}
	}
	l, bk := ws.lanes, k.tiling.BlockK
	l.strips = grow(l.strips, (rows+vec.Rows-1)/vec.Rows)
	for i := range l.strips {
		s := &l.strips[i]
		s.o = grow(s.o, even(d)*vec.Rows)
		clear(s.o)
		if k.exactSums() {
			s.o64 = grow(s.o64, exact.Sums(d))
			clear(s.o64)
		}
	}
	n := 1
	if k.prog.PV.Threshold != 0 {
		n = len(l.strips)
	}
	l.scored = grow(l.scored, n)
	for i := range l.scored {
		s := &l.scored[i]
		s.s = grow(s.s, bk*vec.Rows)
	}
	for i := range l.slots {
		s := &l.slots[i]
		s.p, s.pe, s.tile = grow(s.p, (bk+1)*vec.Rows), grow(s.pe, bk*vec.Rows), grow(s.tile, exact.Sums(d))[:even(d)*vec.Rows]
		clear(s.p[bk*vec.Rows:])
	}
	l.steps, l.all = grow(l.steps, bk), grow(l.all, bk)
	if !k.natural {
		l.stored = grow(l.stored, bk*vec.Rows)
	}
	l.values = grow(l.values, bk/k.sumKeys)
	l.exactly.values = grow(l.exactly.values, bk/k.sumKeys)
	l.saturated, l.held = 0, 0
	return l
}

// loadLanes loads the queries of a float product, and the ones of a denominator. It reports
// whether they are numbers of the unit's format.
func (k *Kernel) loadLanes(ws *Workspace, rows, d int) bool {
	l := ws.lanes
	if u := k.lanes.ones; u != nil {
		const pair = 2 // rows come in pairs
		one := make([]float32, pair*k.tiling.BlockK)
		for i := range one {
			one[i] = 1
		}
		if !u.LoadRows(&l.ones, one, pair, k.tiling.BlockK, k.tiling.BlockK) {
			return false
		}
	}
	if k.integer {
		return true
	}
	depth, short, shift := k.scoreLayout(d)
	for i := range l.strips {
		s := &l.strips[i]
		s.q = grow(s.q, depth*vec.Rows)
		clear(s.q)
		s.coded = false
		for r := range min(vec.Rows, rows-i*vec.Rows) {
			for c, x := range ws.q[(i*vec.Rows+r)*d:][:d] {
				if c >= short {
					c += shift
				}
				s.q[c*vec.Rows+r] = x
			}
		}
		if k.scoreUnit != nil && !k.lanes.scores.LoadLanes(&s.queries, s.q) {
			return false
		}
	}
	return true
}

// loadKeys loads the keys of the tile whose first one is the window's key at, of a float product, unless
// they are loaded. It reports whether they are numbers of the unit's format.
func (k *Kernel) loadKeys(l *lanes, w *window, at, d int) bool {
	u, bk := k.lanes.scores, k.tiling.BlockK
	if l.loaded {
		return true
	}
	l.loaded = true
	if u == nil {
		return l.exactly.keys.Load(w.kRaw[at*d:], bk, d, d)
	}
	depth, short, shift := k.scoreLayout(d)
	x := w.kRaw[at*d : (at+bk)*d]
	if depth != d {
		l.keyRows = grow(l.keyRows, bk*depth)
		clear(l.keyRows)
		for i := range bk {
			copy(l.keyRows[i*depth:], x[i*d:i*d+short])
			copy(l.keyRows[i*depth+short+shift:], x[i*d+short:i*d+d])
		}
		x = l.keyRows
	}
	return u.LoadRows(&l.keys, x, bk, depth, depth)
}

// loadLaneValues is loadKeys for the values.
func (k *Kernel) loadLaneValues(l *lanes, w *window, at, d int) bool {
	bk := k.tiling.BlockK
	if w.vTurned == nil {
		l.vRows = grow(l.vRows, even(d)*bk)
		clear(l.vRows[d*bk:])
		for c := range d {
			for i := range bk {
				l.vRows[c*bk+i] = k.v.decode(w.vCodes.Code(c, at+k.Stored(i)))
			}
		}
	}
	v := l.vRows
	if w.vTurned != nil {
		v = w.vTurned[at*even(d):]
	}
	for i := range l.values {
		l.whole = v
		switch {
		case k.intPV:
		case k.exactSums():
			if !l.exactly.values[i].Load(v[i*k.sumKeys:], d, k.sumKeys, bk) {
				return false
			}
		case !k.lanes.pv.LoadRows(&l.values[i], v[i*k.sumKeys:], even(d), k.sumKeys, bk):
			return false
		}
	}
	return true
}

// laneKeys returns how many keys of a tile any of n rows from lo on sees, rounded up to what
// kernels take: those behind them are masked, or beyond the end, where they are zeros.
func (k *Kernel) laneKeys(q *Query, ws *Workspace, t, lo, n int, tail bool) int {
	const multiple = 16
	bk, most := k.tiling.BlockK, 1
	for r := range n {
		_, to := k.span(q, ws.index[lo+r], t*bk, bk, tail)
		most = max(most, to)
	}
	return min(bk, (most+multiple-1)/multiple*multiple)
}

// laneScores writes the scores of a strip whose first row is the block's row lo and which has
// n, as they are after the mask, and finds what is left for the exponent.
func (k *Kernel) laneScores(q *Query, ws *Workspace, st *laneStrip, w *window, t, at, lo, n int, where place) bool {
	l, bk, d := ws.lanes, k.tiling.BlockK, q.kv.in.Dim
	keys := l.reach
	switch {
	case k.integer:
		wd := whole(k.CodeDim(d))
		k.level.l.QK(l.s, ws.qStrips[lo*wd:(lo+vec.Rows)*wd], w.kWhole[at*wd:], w.kBias[at:], keys, &l.scratch)
		k.level.l.ToFloat(l.s, l.top[:], keys)
	case k.codeScores(q.kv, st, w, at, n, keys, l):
	case !k.loadKeys(l, w, at, d):
		return false
	case k.scoreUnit == nil:
		clear(l.s[:keys*vec.Rows])
		k.level.fp64.Dot(l.s[:keys*vec.Rows], &l.exactly.keys, st.q, n)
	default:
		depth, _, _ := k.scoreLayout(d)
		clear(l.s[:keys*vec.Rows])
		if !k.lanes.scores.Dot(l.s[:keys*vec.Rows], &l.keys, &st.queries, 0, depth, n) {
			return false
		}
	}
	clear(l.s[keys*vec.Rows:])
	if k.byRow(q) {
		k.rowScores(q, ws, t, lo, n, where)
		return true
	}
	if k.integer && (where.tail || k.granularity == quant.PerToken) {
		for i := range l.steps {
			l.steps[i] = 0 // of keys beyond the end
			if j := k.granularity.KeyGroup(k.tiling, t*bk+i); j < len(q.kv.kScales) {
				l.steps[i] = q.kv.kScales[j]
			}
		}
		var qScale laneRows
		copy(qScale[:n], ws.qScale[lo:])
		k.level.l.Scale(l.s, &qScale, l.steps, k.lanes.control)
	}
	scores := k.prog.Scores.SMScale == "scores"
	if scores {
		k.scaleAll(l, float32(q.sm))
	}
	if q.cap != 0 {
		for i, x := range l.s {
			l.s[i] = mufu.Tanh(k.arith.mul(x, q.cap))
		}
	}
	if scores {
		k.scaleAll(l, math.Log2E)
	}
	var scale [threads]float32
	for r := range n {
		// Of no scores, as these have been multiplied already.
		k.dequantize(q, ws, lo+r, t*bk, nil, &scale, where.tail, false)
		l.setScale(r, &scale)
		k.laneMask(q, ws, r, lo+r, t*bk, where.tail)
	}
	return true
}

// byRow says whether more is done to the scores before the exponent than laneScores does on
// vectors.
func (k *Kernel) byRow(q *Query) bool {
	return q.in.Visible != nil || q.in.Bias != nil || k.smoothQ || k.prog.Scores.SMScale == "with-scale"
}

// rowScores takes the products of a strip through the interpreter's steps up to the mask, row
// by row.
func (k *Kernel) rowScores(q *Query, ws *Workspace, t, lo, n int, where place) {
	l, bk := ws.lanes, k.tiling.BlockK
	var scale [threads]float32
	row := ws.s[:bk]
	for r := range n {
		for i := range row {
			row[i] = l.s[i*vec.Rows+r]
		}
		k.dequantize(q, ws, lo+r, t*bk, row, &scale, where.tail, k.smoothQ && k.prog.Smoothing.DeltaS != "none")
		k.mask(q, ws, lo+r, t*bk, row, where.tail)
		ws.total[lo+r] += ws.seen[lo+r]
		l.setScale(r, &scale)
		for i, x := range row {
			l.s[i*vec.Rows+r] = x
		}
	}
}

// setScale sets what scores of the threads of a strip's row are multiplied by in the exponent.
func (l *laneScored) setScale(r int, scale *[threads]float32) {
	for j, x := range scale {
		l.scale[j*vec.Rows+r] = x
	}
}

// scaleAll multiplies all scores by a number.
func (k *Kernel) scaleAll(l *lanes, by float32) {
	for i := range l.all {
		l.all[i] = by
	}
	k.level.l.Scale(l.s, &oneRows, l.all, k.lanes.control)
}

// laneMask is mask for the row r of the strip, the block's row at, and counts what it sees.
func (k *Kernel) laneMask(q *Query, ws *Workspace, r, at, lo int, tail bool) {
	s, bk := ws.lanes.s, k.tiling.BlockK
	from, to := k.span(q, ws.index[at], lo, bk, tail)
	ws.seen[at] = max(0, to-from)
	ws.total[at] += ws.seen[at]
	for i := range from {
		s[i*vec.Rows+r] = k.masked
	}
	for i := to; i < bk; i++ {
		s[i*vec.Rows+r] = k.maskedScore(q, s[i*vec.Rows+r], lo+i)
	}
}

// laneTops finds the maxima of a strip's threads. It reports whether the scores are numbers.
func (k *Kernel) laneTops(l *lanes, at place) bool {
	start := float32(math.Inf(-1))
	if k.bounded(at) {
		start = k.start
	}
	for i := range l.top {
		l.top[i] = start
	}
	return k.level.l.Tops(l.s, l.top[:], k.tiling.BlockK, k.masked)
}

// tops returns the maxima of a row's threads, and what their scores are multiplied by.
func (l *laneScored) tops(r int) (top, scale [threads]float32) {
	for j := range top {
		top[j], scale[j] = l.top[j*vec.Rows+r], l.scale[j*vec.Rows+r]
	}
	return top, scale
}

// lanePassed is passed for a block of rows. No maximum grows in a tile that is passed over, so alpha
// is 1 and O stays as it is.
func (k *Kernel) lanePassed(ws *Workspace, rows int, idle *idleRow) bool {
	tops, last := ws.factor[:rows], float32(0)
	for r := range rows {
		top, scale := ws.lanes.scored[r/vec.Rows].tops(r % vec.Rows)
		tops[r], last = k.scaledTop(&top, &scale), scale[0]
	}
	return k.passes(ws, tops, last, idle)
}

// laneSoftmax is softmax from the maxima of the threads on.
func (k *Kernel) laneSoftmax(ws *Workspace, lo, n int, at place) bool {
	l := ws.lanes
	for r := range n {
		top, scale := l.tops(r)
		lower, alpha := k.raise(ws, lo+r, &top, &scale, at)
		for j, x := range lower {
			l.lower[j*vec.Rows+r] = x
		}
		if m := ws.m[lo+r]; m-m != 0 && m != k.start {
			return false
		}
		l.alpha[r], l.rescale[r], l.factor[r] = ws.alpha[lo+r], alpha, ws.factor[lo+r]
	}
	for r := n; r < vec.Rows; r++ { // rows that the strip lacks
		l.alpha[r], l.rescale[r], l.factor[r] = 1, 1, 1
		for j := range threads {
			l.scale[j*vec.Rows+r], l.lower[j*vec.Rows+r] = 0, 0
		}
	}
	if !k.laneWeights(l) || !k.laneCodes(l, n) {
		return false
	}
	weights := l.s
	if k.sumsCodes(at) {
		weights = l.p
	}
	k.laneSum(ws, weights, lo, n, at)
	return true
}

// laneCodes is convertP for a strip of n rows. It reports whether it could.
func (k *Kernel) laneCodes(l *lanes, n int) bool {
	p, x, scale := k.lanes, l.s, float32(1)
	if k.p.exact {
		copy(l.p, x)
		return true
	}
	if k.pScale != 0 {
		x, scale = l.p, k.pScale
		copy(x, l.s)
		for i := range l.all {
			l.all[i] = scale
		}
		k.level.l.Scale(x, &oneRows, l.all, p.control)
	}
	if k.laneRound(l.p, x) {
		return true
	}
	if p.most == math.MaxFloat32 {
		return false
	}
	for i, x := range l.s {
		if x = float32(x * scale); x <= p.most {
			continue
		}
		if x != x {
			return false
		}
		if l.p[i] = p.most; i%vec.Rows < n {
			l.saturated++
		}
	}
	return true
}

// laneSum adds the weights of a strip to the denominators of its rows.
func (k *Kernel) laneSum(ws *Workspace, weights []float32, lo, n int, at place) {
	l, bk, a, control := ws.lanes, k.tiling.BlockK, k.arith, k.lanes.control
	twice := k.rescalesTwice(at)
	switch order := k.prog.Denominator.Order; order {
	case "chain":
		for r := range n {
			d := &ws.d[(lo+r)*threads]
			*d = a.mul(*d, l.rescale[r]) // the unit adds the codes, with V
		}
	case "sequential":
		// The first p joins in one rounding with the rescaling, or after it.
		for r := range n {
			for j := range threads {
				l.sum[j*vec.Rows+r] = ws.d[(lo+r)*threads+j]
			}
		}
		k.level.l.SumsFrom(l.sum[:], weights, &l.rescale, bk, control, twice)
		for r := range n {
			for j := range threads {
				ws.d[(lo+r)*threads+j] = l.sum[j*vec.Rows+r]
			}
		}
	case "tile":
		k.laneSums(l, weights, 0, bk)
		for r := range n {
			d := &ws.d[(lo+r)*threads]
			*d = a.mulAdd(*d, l.rescale[r], k.combine(l.sums(r)), twice)
		}
	case "groups32":
		for r := range n {
			d := &ws.d[(lo+r)*threads]
			*d = a.mul(*d, l.rescale[r])
		}
		for b := 0; b < bk; b += 32 {
			k.laneSums(l, weights, b, min(b+32, bk))
			for r := range n {
				d := &ws.d[(lo+r)*threads]
				*d = a.add(*d, k.combine(l.sums(r)))
			}
		}
	default:
		row := ws.scratch[:bk]
		for r := range n {
			for i := range row {
				row[i] = weights[i*vec.Rows+r]
			}
			k.addWeights(ws, lo+r, row, l.rescale[r], at)
		}
	}
}

// laneSums sets sum to that of each thread's weights of keys [lo, hi), one after the other.
func (k *Kernel) laneSums(l *lanes, weights []float32, lo, hi int) {
	w := weights[lo*vec.Rows : hi*vec.Rows]
	for j := range threads {
		copy(l.sum[j*vec.Rows:][:vec.Rows], w[2*j*vec.Rows:])
	}
	k.level.l.Sums(l.sum[:], w, hi-lo, k.lanes.control)
}

// sums returns those of a row's threads.
func (l *lanes) sums(r int) [threads]float32 {
	return [threads]float32{l.sum[r], l.sum[vec.Rows+r], l.sum[2*vec.Rows+r], l.sum[3*vec.Rows+r]}
}

// laneDots is laneValues for the strips held, through vec.Values.
func (k *Kernel) laneDots(ws *Workspace, w *window, at, d int, pos place) bool {
	l, chain := ws.lanes, k.prog.OneChain()
	slots := l.slots[:l.held]
	l.held = 0
	var tiles [2]vec.Tile
	keys, whole := 1, true
	for i := range slots {
		s := &slots[i]
		o := s.strip.o
		tiles[i], keys = vec.Tile{P: s.p, PE: s.pe, Acc: s.tile}, max(keys, s.keys)
		k.level.l.Exponents(weightFormats[k.v.kind], s.pe[:s.keys*vec.Rows], s.p[:s.keys*vec.Rows])
		if !chain {
			clear(s.tile)
			continue
		}
		tiles[i].Acc = o
		if !k.laneRescale(o, &s.alpha, &s.factor) {
			return false
		}
		whole = k.level.l.Rescale(o, &oneRows, even(d)) && whole // which changes nothing
	}
	if !whole {
		return k.laneTiny(l, w, at, d, slots)
	}
	const most = 32 // keys of a step
	keys = (keys + most - 1) / most * most
	for i := range slots {
		s := &slots[i]
		clear(s.pe[s.keys*vec.Rows : keys*vec.Rows])
	}
	pairs := k.vecUnit.Pairs(k.level.l)
	if pairs {
		w.vCodes.DotTiles(k.level.l, tiles[:len(slots)], &l.scratch, at, keys)
	}
	for i := range slots {
		s, t := &slots[i], &tiles[i]
		if !pairs {
			w.vCodes.DotKeys(k.level.l, t.Acc, t.P, t.PE, &l.scratch, at, keys)
		}
		if !chain && !k.laneCombine(ws, pos, s.strip.o, s.tile, &s.alpha, &s.factor, s.lo, s.n) {
			return false
		}
	}
	return true
}

// laneTiny adds the products of the slots' strips to their outputs, of which some are too small
// for vec.Values.
func (k *Kernel) laneTiny(l *lanes, w *window, at, d int, slots []laneSlot) bool {
	if !k.loadLaneValues(l, w, at, d) {
		return false
	}
	for i := range slots {
		s := &slots[i]
		if l.p = s.p[:k.tiling.BlockK*vec.Rows]; !k.lanes.pv.LoadLanes(&l.weights, k.storedWeights(l)) ||
			!k.lanes.pv.Dot(s.strip.o, &l.values[0], &l.weights, 0, k.laneDepth(s.keys), s.n) {
			return false
		}
	}
	return true
}

// storedWeights are the weights of a strip in the order of the operands.
func (k *Kernel) storedWeights(l *lanes) []float32 {
	if k.natural {
		return l.p
	}
	for i := range k.tiling.BlockK {
		copy(l.stored[i*vec.Rows:][:vec.Rows], l.p[k.Stored(i)*vec.Rows:])
	}
	return l.stored
}

// laneJoin is how a tile joins O.
func (k *Kernel) laneJoin(at place) vec.Join {
	if k.prog.PV.Join == "twice-but-last" && at.last {
		return vec.JoinFMA
	}
	return k.lanes.join
}

// laneRescale multiplies the O of one chain by alpha.
func (k *Kernel) laneRescale(o []float32, alpha, factor *laneRows) bool {
	control := k.lanes.control
	if k.lanes.join == vec.JoinNoneFP16 {
		control = vec.Keep
		for r, x := range alpha {
			alpha[r] = format.RoundFP16(x)
		}
	}
	return k.level.l.Combine(k.lanes.join, o, o, alpha, factor, control)
}

// laneValues rescales a strip's O and adds the tile's PV. Only keys from the first on count.
func (k *Kernel) laneValues(l *lanes, st *laneStrip, ws *Workspace, lo, n, keys int, at place) bool {
	p := k.lanes
	weights := k.storedWeights(l)
	if p.pv != nil && !p.pv.LoadLanes(&l.weights, weights) {
		return false
	}
	if p.ones != nil && !k.laneOnes(l, ws, lo, n) {
		return false
	}
	if k.exactSums() && k.prog.OneChain() {
		k.exactSum(l, st, weights, n)
		return true
	}
	if k.prog.OneChain() {
		return k.laneRescale(st.o, &l.alpha, &l.factor) && p.pv.Dot(st.o, &l.values[0], &l.weights, 0, k.laneDepth(keys), n)
	}
	tile := l.slots[0].tile
	alpha := l.alpha
	for i := range l.values {
		from := i * k.sumKeys
		if k.intPV {
			depth := max(1, min(k.sumKeys, keys-from))
			k.level.l.Multiply(tile, l.whole[from:], k.tiling.BlockK, weights[from*vec.Rows:][:depth*vec.Rows])
		} else if k.exactSums() {
			k.level.fp64.Dot(tile[:exact.Sums(len(tile)/vec.Rows)], &l.exactly.values[i], weights[from*vec.Rows:], n)
		} else {
			clear(tile)
			if !p.pv.Dot(tile, &l.values[i], &l.weights, from, k.laneDepth(keys-from), n) {
				return false
			}
		}
		if !k.laneCombine(ws, at, st.o, tile, &alpha, &l.factor, lo, n) {
			return false
		}
		alpha = oneRows
	}
	return true
}

// laneCombine joins a tile with the O of a strip whose first row is the block's row lo and which
// has n. It reports whether all of it is finite.
func (k *Kernel) laneCombine(ws *Workspace, at place, o, tile []float32, alpha, factor *laneRows, lo, n int) bool {
	join, control := k.laneJoin(at), k.lanes.control
	if k.prog.PV.Join != "memory" || !at.first && !at.final {
		return k.level.l.Combine(join, o, tile, alpha, factor, control)
	}
	// As joinMemory.
	if at.first {
		copy(o, tile)
	}
	if !at.final {
		return true
	}
	beta, inverse := oneRows, oneRows
	for r := range n {
		inverse[r] = k.inverse(k.denominator(ws, lo+r))
		beta[r] = k.arith.mul(inverse[r], alpha[r])
	}
	if at.first {
		return k.level.l.Combine(vec.JoinNone, o, o, &inverse, factor, control)
	}
	return k.level.l.Combine(vec.JoinFactor, o, tile, &beta, &inverse, control)
}

// laneDepth is how many keys of a sum count where all from the given one on have no weight: as
// many as whole instructions take, and one instruction at least, which leaves no sum -0.
func (k *Kernel) laneDepth(keys int) int {
	u := k.lanes.pv
	if !u.Idle() {
		return k.sumKeys
	}
	return max(u.Depth(), min(k.sumKeys, (keys+u.Depth()-1)/u.Depth()*u.Depth()))
}

// laneOnes is sumOnes.
func (k *Kernel) laneOnes(l *lanes, ws *Workspace, lo, n int) bool {
	var sums [2 * vec.Rows]float32
	for r := range n {
		sums[r] = ws.d[(lo+r)*threads]
	}
	if !k.lanes.ones.Dot(sums[:], &l.ones, &l.weights, 0, k.tiling.BlockK, n) {
		return false
	}
	for r := range n {
		ws.d[(lo+r)*threads] = sums[r]
	}
	return true
}

// unscaled are the scales of channels that have none.
var unscaled = func() (s [MaxHeadDim]float32) {
	for i := range s {
		s[i] = 1
	}
	return s
}()

// finishVector is finishRow on vectors. It reports whether it could: whether a row is finished
// by products and one rounding alone, and all of it is finite.
func (k *Kernel) finishVector(kv *KV, divisor *mufu.Divisor, inverse float32, o, out []float32) bool {
	f := &k.prog.Finish
	to := k.OutputDType(kv.in.DType)
	first := f.First == "none" || f.First == "fp32-as-bf16" && to != format.FP32
	if !k.level.l.Lanes() || len(o)%16 != 0 || len(o) == 0 || f.Mean != "none" || !first || f.Round != "even" {
		return false
	}
	factor, ok := inverse, true
	scale := unscaled[:len(o)]
	var without [MaxHeadDim]float32
	switch f.Inverse {
	case "rcp.approx.ftz", "exact":
	case "div.full":
		if factor, ok = divisor.Factor(); !ok {
			return false
		}
	default:
		return false
	}
	if k.prog.PV.Join == "memory" { // where it is done
		factor = 1
	}
	last := f.Scale == "output"
	switch {
	case f.Scale == "none":
	case last || f.Scale == "inverse" && f.Inverse != "div.full":
		scale = kv.vScale
	default:
		return false
	}
	if k.pScale != 0 {
		scale = k.unscaledRow(without[:len(o)], scale)
	}
	control := vec.Flush
	if k.arith.keep || k.prog.PV.Join == "memory" {
		control = vec.Keep
	}
	return !to.IsFP8() && k.level.l.Output(to, out, o, scale, factor, last, control)
}

// unscaledRow sets dst to unscaled of a row of V's scales, which are often all one.
func (k *Kernel) unscaledRow(dst, scale []float32) []float32 {
	for c, x := range scale {
		if c > 0 && x == scale[c-1] {
			dst[c] = dst[c-1]
		} else {
			dst[c] = k.unscaled(x)
		}
	}
	return dst
}
