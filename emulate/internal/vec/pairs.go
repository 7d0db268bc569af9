package vec

import "math/bits"

// pair is two channels of a step. The assembly knows the layout.
type pair struct {
	classes  [4]uint32 // keys by the signs of the two elements: ++, +-, -+, --
	live     [2]uint32 // of each channel, keys whose elements count
	channels [2]uint8
	_        uint16
	// order is what pairs with equal numbers of keys by class have in common.
	order uint32
}

// keySigns are a channel's keys of a step. The assembly knows the layout.
type keySigns struct {
	// there are not zero, negative are of these, and bad are not finite.
	there, negative, bad uint32
}

// pairSize is the size of a record of a pair.
func (u Unit) pairSize() int { return 8 + 3*u.Step }

// indexPairs is Index where Unit.Pairs holds.
func (v *Values) indexPairs(level Level, dead []bool) {
	keys, step, size, count := v.Keys(), v.unit.Step, v.unit.pairSize(), (v.dim+1)/2
	if n := keys/step*count*size + recordSlack; len(v.records) != n {
		v.records = make([]uint8, n)
	}
	list, pairs := make([]keySigns, v.dim), make([]pair, 0, count)
	m := matcher{list: list, step: step}
	for first := 0; first < keys; first += step {
		codes := v.codes[first/32*v.dim*32+first%32:]
		level.signs(list, codes, uint32(1<<step-1), v.format.limit)
		for c := range list {
			s := &list[c]
			switch {
			case dead != nil && dead[c]:
				*s = keySigns{}
			case s.bad != 0:
				for b := s.bad; b != 0; b &= b - 1 {
					v.addOdd(c, first+bits.TrailingZeros32(b))
				}
				s.there, s.negative = s.there&^s.bad, s.negative&^s.bad
			}
		}
		pairs = m.match(pairs[:0])
		level.pairRecords(v.records[first/step*count*size:], pairs, codes, v.unit)
	}
}

// recordSlack is how far past the records the assembly writes.
const recordSlack = 32

// matcher makes pairs of channels.
//
// Where the numbers of keys by class are those of the pair before, the branches go as before.
// Of channels with n negative elements each the classes +- and -+ are equal: pairs where they
// are a quarter of the step differ in n alone, and channels are many enough that most find a
// partner for that.
type matcher struct {
	list []keySigns
	step int

	order, open []uint8 // channels
}

// match appends pairs of all channels to pairs, those with equal classes together.
func (m *matcher) match(pairs []pair) []pair {
	// Channels in order of n.
	var at [34]int
	for i := range m.list {
		at[bits.OnesCount32(m.list[i].negative)+1]++
	}
	for n := 1; n < len(at); n++ {
		at[n] += at[n-1]
	}
	m.order = grow(&m.order, len(m.list))
	ends := at
	for i := range m.list {
		n := bits.OnesCount32(m.list[i].negative)
		m.order[ends[n]] = uint8(i)
		ends[n]++
	}
	open := m.open[:0]
	for n := range m.step + 1 {
		open = append(open, m.order[at[n]:at[n+1]]...)
		// Both negative, so that a quarter is -+.
		want, from := max(0, n-m.step/4, 2*n-m.step), len(pairs)
		for len(open) > 1 {
			a := m.list[open[0]].negative
			best, least := 0, m.step+1
			for j, c := range open[1:] {
				off := bits.OnesCount32(a&m.list[c].negative) - want
				if off = max(off, -off); off < least {
					best, least = j+1, off
					if off == 0 {
						break
					}
				}
			}
			pairs = append(pairs, m.pair(open[0], open[best]))
			last := len(open) - 1
			open[best] = open[last]
			open[0] = open[last-1]
			open = open[:last-1]
		}
		sortPairs(pairs[from:])
	}
	if len(open) > 0 { // of an odd number: computed twice
		pairs = append(pairs, m.pair(open[0], open[0]))
	}
	m.open = open
	return pairs
}

// pair returns the pair of channels a and b.
func (m *matcher) pair(a, b uint8) pair {
	x, y := &m.list[a], &m.list[b]
	there := x.there | y.there
	p := pair{
		classes: [4]uint32{
			there &^ x.negative &^ y.negative, y.negative &^ x.negative,
			x.negative &^ y.negative, x.negative & y.negative,
		},
		live: [2]uint32{x.there, y.there}, channels: [2]uint8{a, b},
	}
	for _, c := range p.classes {
		p.order = p.order<<8 | uint32(bits.OnesCount32(c))
	}
	return p
}

// sortPairs brings pairs with equal numbers together. Most are so already.
func sortPairs(p []pair) {
	for i := 1; i < len(p); i++ {
		x, j := p[i], i
		for ; j > 0 && p[j-1].order > x.order; j-- {
			p[j] = p[j-1]
		}
		p[j] = x
	}
}

// pairArgs are the operands of a step of strips. The assembly knows the layout.
type pairArgs struct {
	// records are of pairs of channels: their numbers, how many keys each class has, by the
	// signs of the two elements, two unused bytes, and, each a step long, the keys, class by
	// class, and the two channels' codes.
	records *uint8
	values  *[256]float32
	magic   *float32 // [4][Rows], scratch
	pairs   int
	step    int
	bias    uint8 // by which e is too large, or, where first, ten more than that
	// A tile may start from zero in its first step. After the last it is truncated and, if adds,
	// written to o alone.
	first, last, adds bool
	perG              float32 // M over what waits for a sum's end
	strips            [2]stripArgs
}

// stripArgs are those of a strip.
type stripArgs struct {
	acc *float32 // [channel][Rows]
	p   *float32 // [step][Rows]
	e   *uint8   // [channel][Rows], of pairExponents
	// o [channel][Rows] becomes o*factor[row] + the tile's sum.
	o, factor *float32
}

// Tile is a tile of P~ and what its product with V is added to.
type Tile struct {
	// P is [tile+1][Rows] with a last row of zeros, PE [tile][Rows] its exponents.
	P  []float32
	PE []uint8
	// Acc [channel][Rows] takes the products, a chain from what was there.
	Acc []float32
	// O, if not nil as that of the other tile, becomes O*Rescale[row] + the tile's sum, a chain
	// from zero, in one rounding that flushes subnormal results. Acc is lost.
	O       []float32
	Rescale *[Rows]float32
}

// DotTiles is Dot for one strip or two, where Unit.Pairs holds, and for the first keys of the tile
// alone: one at least, all others have P~ zero. What is read of V serves both strips.
func (v *Values) DotTiles(l Level, tiles []Tile, s *Scratch, first, keys int) (ok [2]bool) {
	unit, sums := v.unit, v.dim*Rows
	if len(tiles) < 1 || len(tiles) > 2 || keys < 1 || keys > v.tile {
		panic("vec: DotTiles takes one tile or two, and one to all of its keys")
	}
	// Where a channel is its own partner it must not be added twice.
	apart := tiles[0].O != nil && v.dim%2 != 0
	joins := tiles[0].O != nil && !apart
	e, magic := grow(&s.e, len(tiles)*sums), grow(&s.magic, 4*Rows)
	a := pairArgs{values: &v.format.value, magic: &magic[0], pairs: (v.dim + 1) / 2, step: unit.Step, adds: joins}
	size := a.pairs * unit.pairSize()
	for i, t := range tiles {
		_, _ = t.Acc[sums-1], t.P[(v.tile+1)*Rows-1]
		a.strips[i] = stripArgs{acc: &t.Acc[0], e: &e[i*sums]}
		if apart {
			clear(t.Acc)
		}
		if joins {
			_ = t.O[sums-1]
			a.strips[i].o, a.strips[i].factor = &t.O[0], &t.Rescale[0]
		}
	}
	ok = [2]bool{true, len(tiles) == 2}
	for k := 0; k < keys; k += unit.Step {
		codes := v.codes[(first+k)/32*v.dim*32+(first+k)%32:]
		for i, t := range tiles {
			for n := 0; n < unit.Step; n += 16 {
				l.pairExponents(e[i*sums:][:sums], t.PE[(k+n)*Rows:], codes[n:], &v.format.exponent, v.dim, leastExponent+v.format.exponentBias, n > 0)
			}
			a.strips[i].p = &t.P[k*Rows]
		}
		a.records = &v.records[(first+k)/unit.Step*size:][:size][0]
		a.first, a.last = joins && k == 0, k+unit.Step >= keys
		a.bias, a.perG = uint8(v.format.exponentBias), 1.5*(1<<10)
		if a.first {
			a.bias, a.perG = a.bias-10, 1
		}
		good := l.pairPass(&a, len(tiles), unit.Half)
		ok[0], ok[1] = ok[0] && good[0], ok[1] && good[1]
	}
	if apart {
		for i, t := range tiles {
			ok[i] = ok[i] && l.AddTile(t.O, t.Acc, t.Rescale, v.dim)
		}
	}
	return ok
}

// leastExponent, biased as in FP32, stands for that of an output all of whose products are zero.
const leastExponent = 31
