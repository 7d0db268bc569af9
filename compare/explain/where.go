package explain

import (
	"fmt"
	"math"
	"strings"

	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/internal/strictmath"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/metrics"
)

// Where says which part of a layer's actual output differs from the emulated one, in
// the kernel's terms.
type Where struct {
	Elements   int64 `json:"elements"`
	Mismatched int64 `json:"mismatched"`
	// Rows and heads of the layer, and how many of them hold a difference.
	Rows            int `json:"rows"`
	MismatchedRows  int `json:"mismatched_rows"`
	Heads           int `json:"heads"`
	MismatchedHeads int `json:"mismatched_heads"`
	// First is the first difference, in the order of the output.
	First Place `json:"first"`
	// Earliest is the difference with the smallest token number of all heads: in a
	// causal layer the one whose row saw the fewest keys.
	Earliest Place `json:"earliest"`
	// MaxULP is the largest distance between an actual and an emulated value that
	// are both finite, in units in the last place of the output's format.
	MaxULP uint64 `json:"max_ulp"`
	// Findings say what the differing part has in common.
	Findings []Finding `json:"findings,omitempty"`
}

// Place is an element of the output and what the kernel looked at for it.
type Place struct {
	Batch   int `json:"batch"`
	Head    int `json:"head"`
	Token   int `json:"token"`
	Channel int `json:"channel"`
	// Block is the block of query rows, Row the row within it, Warp the warp that
	// has the row.
	Block int `json:"block"`
	Row   int `json:"row"`
	Warp  int `json:"warp"`
	// Keys [0, Keys) are those that the row sees, in tiles [0, Tiles) of TileKeys; the
	// block looks at BlockTiles. With a block map it looks at the BlockTiles of them that are
	// listed for it.
	Keys       int `json:"keys"`
	Tiles      int `json:"tiles"`
	BlockTiles int `json:"block_tiles"`
	TileKeys   int `json:"tile_keys"`
	// Listed says that a block map lists the tiles.
	Listed bool `json:"listed,omitempty"`
}

// String says it in words.
func (p *Place) String() string {
	at := fmt.Sprintf("query block %d, row %d of it (warp %d), channel %d", p.Block, p.Row, p.Warp, p.Channel)
	if p.Listed {
		return fmt.Sprintf("%s; of %s of %d keys the block map lists %d for the block", at, count(p.Tiles, "tile"), p.TileKeys, p.BlockTiles)
	}
	return fmt.Sprintf("%s; the row sees keys 0 to %d, %s of %d keys, and the block looks at %s",
		at, p.Keys-1, count(p.Tiles, "tile"), p.TileKeys, count(p.BlockTiles, "tile"))
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// Finding is something that the differing part has in common.
type Finding struct {
	// Kind is one of: heads, all-rows, some-rows, few-rows, rows-from, first-row,
	// last-block, same-keys, one-key, first-keys, first-tile, first-block,
	// within-block, row-residues, warps, channels, row-factor, factor,
	// channel-factor, ulp, non-finite.
	Kind string `json:"kind"`
	// Text says it in words.
	Text string `json:"text"`
}

// headDiff collects the differences of a head, or of a part of one.
type headDiff struct {
	rows       []int32   // differing elements of each row
	beyond     []bool    // rows that are off by more than a rounding, or not finite
	factors    []float64 // of each row
	channels   []int64   // differing elements of each channel
	mismatched int64
	maxULP     uint64
	nonFinite  int64   // elements that are finite in the emulated output only
	firstAt    []int32 // channel of the first differing element of each row, or -1
	// The products of each channel over all rows, and of the row that is being added.
	byChannel []products
	row       struct {
		bad   int32
		first int32
		off   bool
		products
	}
}

// rounding is how many ulp the last roundings may be off by.
const rounding = 2

// products are sums over the same elements of the actual times the emulated value, of
// their squares, and of the square of their difference.
type products struct{ ae, aa, ee, dd float64 }

// add adds an element.
func (p *products) add(a, e float64) {
	d := a - e
	p.ae += float64(a * e)
	p.aa += float64(a * a)
	p.ee += float64(e * e)
	p.dd += float64(d * d)
}

func (p *products) merge(o *products) {
	p.ae += o.ae
	p.aa += o.aa
	p.ee += o.ee
	p.dd += o.dd
}

// factor returns the f for which f times the emulated values is nearest to the actual
// ones, if it takes away most of the difference, and NaN otherwise. Differences that
// have nothing to do with a factor lose no more than one part in their number.
func (p *products) factor() float64 {
	f := p.ae / p.ee
	if rest := p.aa - float64(f*p.ae); !(rest <= p.dd/10) || p.dd == 0 {
		return math.NaN()
	}
	return f
}

func newHeadDiff(d int) headDiff {
	h := headDiff{channels: make([]int64, d), byChannel: make([]products, d)}
	h.row.first = -1
	return h
}

// add takes the next element of a row: x emulated, a actual.
func (h *headDiff) add(c int, x, a float32, xBits, aBits uint32, bad bool, dtype format.DType) {
	h.byChannel[c].add(float64(a), float64(x))
	h.row.add(float64(a), float64(x))
	if !bad {
		return
	}
	if h.row.first < 0 {
		h.row.first = int32(c)
	}
	h.row.bad++
	h.channels[c]++
	h.mismatched++
	switch {
	case x-x == 0 && a-a == 0:
		n := uint64(metrics.ULP(dtype, xBits, aBits))
		h.maxULP = max(h.maxULP, n)
		h.row.off = h.row.off || n > rounding
	default:
		h.row.off = true
		if x-x == 0 {
			h.nonFinite++
		}
	}
}

// endRow ends a row.
func (h *headDiff) endRow() {
	h.rows = append(h.rows, h.row.bad)
	h.firstAt = append(h.firstAt, h.row.first)
	h.factors = append(h.factors, h.row.factor())
	h.beyond = append(h.beyond, h.row.off)
	h.row.bad, h.row.first, h.row.off, h.row.products = 0, -1, false, products{}
}

// append adds the rows of a part that follows h's.
func (h *headDiff) append(o *headDiff) {
	h.rows = append(h.rows, o.rows...)
	h.firstAt = append(h.firstAt, o.firstAt...)
	h.factors = append(h.factors, o.factors...)
	h.beyond = append(h.beyond, o.beyond...)
	for c := range h.channels {
		h.channels[c] += o.channels[c]
		h.byChannel[c].merge(&o.byChannel[c])
	}
	h.mismatched += o.mismatched
	h.maxULP = max(h.maxULP, o.maxULP)
	h.nonFinite += o.nonFinite
}

// enough is how many elements must share a factor before it says something.
const enough = 16

// describe says where a layer's output differs. At least one element does.
func describe(l *layerdumps.Layer, k *emulate.Kernel, heads []headDiff) *Where {
	w := &Where{Heads: len(heads), Rows: len(heads) * l.Q.Tokens}
	first, earliest := -1, -1
	for i := range heads {
		h := &heads[i]
		w.Elements += int64(len(h.rows) * l.Q.Dim)
		w.Mismatched += h.mismatched
		w.MaxULP = max(w.MaxULP, h.maxULP)
		if h.mismatched == 0 {
			continue
		}
		w.MismatchedHeads++
		for r, n := range h.rows {
			if n == 0 {
				continue
			}
			w.MismatchedRows++
			if first < 0 {
				first = i*l.Q.Tokens + r
			}
			if earliest < 0 || r < earliest%l.Q.Tokens {
				earliest = i*l.Q.Tokens + r
			}
		}
	}
	w.First = place(l, k, heads, first)
	w.Earliest = place(l, k, heads, earliest)
	f := finder{l: l, k: k, heads: heads, w: w}
	f.find()
	return w
}

// place describes the first differing element of a row, rows of all heads numbered
// on.
func place(l *layerdumps.Layer, k *emulate.Kernel, heads []headDiff, at int) Place {
	i, token := at/l.Q.Tokens, at%l.Q.Tokens
	t := k.Tiling()
	p := Place{
		Batch: i / l.Q.Heads, Head: i % l.Q.Heads, Token: token, Channel: int(heads[i].firstAt[token]),
		Block: token / t.BlockQ, Row: token % t.BlockQ, Warp: token % t.BlockQ / t.WarpQ,
		Keys: l.K.Tokens, TileKeys: t.BlockK,
		BlockTiles: k.Tiles(token/t.BlockQ, l.Q.Tokens, l.K.Tokens, l.Causal),
	}
	if l.Causal && l.Window == nil {
		p.Keys = max(0, min(p.Keys, token+1+k.Align(l.Q.Tokens, l.K.Tokens)))
	}
	p.Tiles = (p.Keys + t.BlockK - 1) / t.BlockK
	if m := l.BlockMap; m != nil {
		listed := make([]bool, m.Shape[3])
		m.List(p.Batch, p.Head, p.Block, 0, len(listed), listed)
		p.Listed, p.BlockTiles = true, 0
		for _, in := range listed {
			if in {
				p.BlockTiles++
			}
		}
	}
	return p
}

// finder looks for what differing rows have in common.
type finder struct {
	l     *layerdumps.Layer
	k     *emulate.Kernel
	heads []headDiff
	w     *Where
}

func (f *finder) say(kind, text string, args ...any) {
	f.w.Findings = append(f.w.Findings, Finding{kind, fmt.Sprintf(text, args...)})
}

// eachRow calls g for every row that differs.
func (f *finder) eachRow(g func(head, row int, bad int32)) {
	for i := range f.heads {
		for r, n := range f.heads[i].rows {
			if n > 0 {
				g(i, r, n)
			}
		}
	}
}

func (f *finder) find() {
	f.findHeads()
	f.findRows()
	f.findResidues()
	f.findChannels()
	f.findFactors()
	var nonFinite int64
	for i := range f.heads {
		nonFinite += f.heads[i].nonFinite
	}
	if nonFinite > 0 {
		f.say("non-finite", "%d elements are NaN or infinite where the emulated output is finite", nonFinite)
	}
	switch {
	case nonFinite > 0:
	case f.w.MaxULP <= rounding:
		f.say("ulp", "no element is off by more than %d ulp: a rounding or an order of operations, not a mask or a scale", f.w.MaxULP)
	}
}

func (f *finder) findHeads() {
	l, w := f.l, f.w
	if w.MismatchedHeads == w.Heads {
		return
	}
	var names []string
	groups := map[[2]int]int{}
	for i := range f.heads {
		if f.heads[i].mismatched == 0 {
			continue
		}
		b, h := i/l.Q.Heads, i%l.Q.Heads
		groups[[2]int{b, h * l.K.Heads / l.Q.Heads}]++
		name := fmt.Sprint(h)
		if l.Q.Batch > 1 {
			name = fmt.Sprintf("%d of batch %d", h, b)
		}
		names = append(names, name)
	}
	text := fmt.Sprintf("only %s of %d", count(w.MismatchedHeads, "head"), w.Heads)
	if len(names) <= 8 {
		text += ": " + strings.Join(names, ", ")
	}
	if share := l.Q.Heads / l.K.Heads; share > 1 {
		whole := true
		for _, n := range groups {
			whole = whole && n == share
		}
		if whole {
			text += fmt.Sprintf("; they are all that share %s, so K or V is in question", count(len(groups), "kv head"))
		}
	}
	f.say("heads", "%s", text)
}

func (f *finder) findRows() {
	l, w, t := f.l, f.w, f.k.Tiling()
	// The rows of one head: all, and how many of them some head has wrong.
	from, last := l.Q.Tokens, -1
	full := true // in the heads that differ, every row from the first wrong one on
	for i := range f.heads {
		h := &f.heads[i]
		if h.mismatched == 0 {
			continue
		}
		seen := false
		for r, n := range h.rows {
			switch {
			case n > 0:
				from, last = min(from, r), max(last, r)
				seen = true
			case seen:
				full = false
			}
		}
	}
	blocks := f.k.Blocks(l.Q.Tokens)
	lastBlock := (blocks - 1) * t.BlockQ
	rowsOfBad := w.MismatchedHeads * l.Q.Tokens
	tokens := func(lo, hi int) string {
		if lo == hi {
			return fmt.Sprintf("token %d", lo)
		}
		return fmt.Sprintf("tokens %d to %d", lo, hi)
	}
	switch {
	case w.MismatchedRows == rowsOfBad:
		f.say("all-rows", "every row differs: something that all rows share, from the first tile on")
	case last == 0:
		f.say("first-row", "only token 0: a row that sees a single key")
	case blocks > 1 && from >= lastBlock && l.Q.Tokens%t.BlockQ != 0:
		f.say("last-block", "only rows of the last block (tokens from %d on), which is not full: something of the end of the sequence", lastBlock)
	case blocks > 1 && from >= lastBlock:
		f.say("last-block", "only rows of the last block (tokens from %d on)", lastBlock)
	case w.MismatchedRows*20 < rowsOfBad:
		f.say("few-rows", "%d of %d rows, %s: something that is seldom, such as a tie, a saturation or a rounding", w.MismatchedRows, rowsOfBad, tokens(from, last))
	case from > 0 && full && w.MismatchedRows > 1:
		f.say("rows-from", "every row from token %d on and none before", from)
	case from > 0 && 2*w.MismatchedRows > w.MismatchedHeads*(l.Q.Tokens-from):
		f.say("rows-from", "rows from token %d on and none before, %d of %d", from, w.MismatchedRows, w.MismatchedHeads*(l.Q.Tokens-from))
	default:
		f.say("some-rows", "%d of %d rows, %s", w.MismatchedRows, rowsOfBad, tokens(from, last))
	}
	if l.Window != nil || l.Mask != nil || l.BlockMap != nil {
		return // which keys a row sees is theirs to say
	}
	if !l.Causal {
		if w.MismatchedRows == rowsOfBad || blocks == 1 {
			return
		}
		f.say("same-keys", "every row sees all keys: the place says nothing about keys, only about queries")
		return
	}
	// In a causal layer the rows before the first wrong one bound the tile.
	if from == 0 || from >= l.K.Tokens {
		return
	}
	now, before := from/t.BlockK, (from-1)/t.BlockK
	block := from / t.BlockQ
	looked, lookedBefore := f.k.Tiles(block, l.Q.Tokens, l.K.Tokens, true), 0
	if block > 0 {
		lookedBefore = f.k.Tiles(block-1, l.Q.Tokens, l.K.Tokens, true)
	}
	switch {
	case from == 1:
		f.say("one-key", "token 0 agrees in every head: it sees one key, whose weight is 1 whatever the score, so V and the output's last steps are right and the scores or the sums over keys are in question")
	case block == 0 && now == 0:
		f.say("first-keys", "the rows that see no more than %d keys agree in every head", from)
	case now > before:
		f.say("first-tile", "the rows that see keys 0 to %d only (%s) agree in every head: it goes wrong with tile %d, keys from %d on, or with what joins it to those before",
			from-1, count(now, "tile"), now, now*t.BlockK)
	case block > 0 && from%t.BlockQ == 0 && looked > lookedBefore:
		f.say("first-tile", "the blocks before %d agree in every head, which look at %s; block %d looks at tile %d too",
			block, count(lookedBefore, "tile"), block, looked-1)
	case block > 0 && from%t.BlockQ == 0:
		f.say("first-block", "the blocks before %d agree in every head, and look at the same tiles: the queries are in question", block)
	case block > 0:
		f.say("within-block", "the first difference is within block %d, whose rows above it agree and looked at the same %s",
			block, count(looked, "tile"))
	}
}

// findResidues looks for rows of the groups that share a scale, and of warps.
func (f *finder) findResidues() {
	t := f.k.Tiling()
	residues, warps, blocks := map[int]int{}, map[int]int{}, map[int]int{}
	f.eachRow(func(_, r int, _ int32) {
		residues[r%8]++
		blocks[r/t.BlockQ]++
		warps[r%t.BlockQ/t.WarpQ]++
	})
	list := func(m map[int]int, n int) string {
		var s []string
		for i := range n {
			if m[i] > 0 {
				s = append(s, fmt.Sprint(i))
			}
		}
		return strings.Join(s, ", ")
	}
	if n := len(residues); unlikely(n, 8, int64(f.w.MismatchedRows)) {
		f.say("row-residues", "only rows with row mod 8 in {%s}: those of some threads, which share a per-thread scale of Q", list(residues, 8))
	}
	all := t.BlockQ / t.WarpQ
	if n := len(warps); len(blocks) > 1 && unlikely(n, all, int64(f.w.MismatchedRows)) {
		f.say("warps", "only rows of warp %s of each block's %d", list(warps, all), all)
	}
}

// unlikely says that n differences would hardly fall on as few as some of all places
// by chance: the expected number of such sets of places is below 1/1000.
func unlikely(some, all int, n int64) bool {
	if some >= all {
		return false
	}
	sets := 0.0 // the logarithm of how many there are
	for i := range some {
		sets += strictmath.Log(float64(all-i) / float64(i+1))
	}
	return sets+float64(float64(n)*strictmath.Log(float64(some)/float64(all))) < strictmath.Log(1e-3)
}

func (f *finder) findChannels() {
	d := f.l.Q.Dim
	sum := make([]int64, d)
	for i := range f.heads {
		for c, n := range f.heads[i].channels {
			sum[c] += n
		}
	}
	var list []int
	for c, n := range sum {
		if n > 0 {
			list = append(list, c)
		}
	}
	if !unlikely(len(list), d, f.w.Mismatched) {
		return
	}
	lo, hi := list[0], list[len(list)-1]
	var text string
	switch {
	case len(list) == 1:
		text = fmt.Sprintf("only channel %d", lo)
	case hi-lo+1 == len(list):
		text = fmt.Sprintf("only channels %d to %d", lo, hi)
	case len(list) <= 8:
		text = "only channels " + strings.Trim(strings.Join(strings.Fields(fmt.Sprint(list)), ", "), "[]")
	default:
		text = fmt.Sprintf("only %d of %d channels", len(list), d)
	}
	f.say("channels", "%s: V, its scale or its part of the output is in question, not the weights", text)
}

// findFactors looks for rows or channels that are off by one factor.
func (f *finder) findFactors() {
	var rows, off int
	lo, hi := math.Inf(1), math.Inf(-1)
	for i := range f.heads {
		for r, beyond := range f.heads[i].beyond {
			if !beyond {
				continue
			}
			rows++
			if x := f.heads[i].factors[r]; x == x {
				off++
				lo, hi = min(lo, x), max(hi, x)
			}
		}
	}
	if off > 0 && off*10 >= rows*9 && f.l.Q.Dim >= enough {
		if hi-lo < math.Abs(float64((lo+hi)/2)-1)/4 {
			f.say("factor", "in %d of %d rows that are off by more than a rounding all channels are off by the same factor, about %.4g everywhere", off, rows, (lo+hi)/2)
			return
		}
		f.say("row-factor", "in %d of %d rows that are off by more than a rounding all channels are off by one factor of the row, %.4g to %.4g: the denominator, not the weights",
			off, rows, lo, hi)
		return
	}
	var channels int
	off, lo, hi = 0, math.Inf(1), math.Inf(-1)
	for i := range f.heads {
		h := &f.heads[i]
		for c, n := range h.channels {
			if n == 0 {
				continue
			}
			channels++
			if x := h.byChannel[c].factor(); x == x {
				off++
				lo, hi = min(lo, x), max(hi, x)
			}
		}
	}
	if off > 0 && off*10 >= channels*9 && f.l.Q.Tokens >= enough {
		f.say("channel-factor", "in %d of %d differing channels all rows are off by one factor of the channel, %.4g to %.4g: the scale of V", off, channels, lo, hi)
	}
}
