package vec

import (
	"encoding/binary"
	"math"
	"slices"
)

// Values is a matrix V of codes, laid out for Dot.
type Values struct {
	dim, tile int
	unit      Unit
	format    *ValueFormat
	// codes is [keys/32][dim][32], with room to read past the end: 8-bit codes, or
	// what stands for the exponents of wide's FP16 ones, laid out alike.
	codes []uint8
	wide  []uint16
	// records is [keys/step][dim][recordSize]: a channel's number, how many pairs
	// of positive and of negative elements follow, an unused byte, and the
	// elements' keys within the step: pairs of positive ones, one positive and
	// one negative element, pairs of negative ones. Where there is none, the key
	// is one whose P~ is zero. Channels with equal numbers stand together. Where
	// Unit.Pairs holds, a record is of two channels: see pairArgs.
	records []uint8
	// odd holds, for each tile of keys, the channels with codes that are not finite; nil
	// where all are.
	odd [][]Odd
}

// Odd says which codes of a channel are not finite in a tile of keys. Dot takes zeros for
// them.
type Odd struct {
	Channel int
	// NaN says that there is one; Plus and Minus are the tile's keys with infinities.
	NaN         bool
	Plus, Minus []uint8
}

// Odd returns what is not finite in the tile from key first on, channel by channel, valid
// until the next Index.
func (v *Values) Odd(first int) []Odd {
	if v.odd == nil {
		return nil
	}
	return v.odd[first/v.tile]
}

// Unit describes the matrix unit that Dot computes.
type Unit struct {
	// Kind is how sums are aligned and which keys a step takes.
	Kind Kind
	// Step is how many keys it adds at a time.
	Step int
	// Half says that steps round to FP16 to nearest even, not to FP32 or, by format.TruncateFP22, FP22 toward zero.
	Half bool
}

// Kind is a kind of unit.
type Kind uint8

// Kinds of units.
const (
	// Truncated13 keeps 13 fraction bits and adds steps of 16 or 32 FP8 keys in order.
	Truncated13 Kind = iota
	// Split keeps 25. Its steps of 16 FP8 keys take keys 0-7 and 16-23 of each 32,
	// then the others; it starts from zero every 32 keys, whose sum is then added in the
	// accumulator's format.
	Split
	// Truncated25 keeps 25 and adds 16 FP16 keys at a time, Truncated24 keeps 24 and
	// takes keys 0-3 and 8-11 of each 16, then the others.
	Truncated25
	Truncated24
	// Wide25 keeps 25 and adds 32 FP8 keys at a time.
	Wide25
	// Exact adds 32 E4M3 keys and rounds the exact sum once to nearest even.
	Exact
	// Integer is for INT8 and exact.
	Integer
)

// Channels says whether Index takes n channels: records number them in bytes. Exact sums have no records.
func (u Unit) Channels(n int) bool { return n <= 1<<8 || u.Kind == Exact || u.Kind == Integer }

// FP16 says that operands are FP16.
func (k Kind) FP16() bool { return k == Truncated25 || k == Truncated24 }

// key returns the key of element i of step s, counted from the step's base.
func (u Unit) key(s, i int) int {
	switch u.Kind {
	case Split:
		return i%8 + i/8*16 + s%2*8
	case Truncated24:
		return i%4 + i/4*8 + s%2*4
	}
	return i
}

// base returns the key from which the keys of the step at first are counted.
func (u Unit) base(first int) int {
	switch u.Kind {
	case Split:
		return first &^ 31
	case Truncated24:
		return first &^ 15
	}
	return first
}

// ValueFormat holds what Dot needs to know of the codes of an FP8 format, or of the
// exponents of FP16.
type ValueFormat struct {
	// value of each code; finite is false where there is none. kind is one of
	// the constants, or zero for a zero.
	value   [256]float32
	value64 [256]float64
	finite  [256]bool
	kind    [256]uint8
	// infinite says which codes are infinities; those that are neither this nor finite
	// are NaN.
	infinite [256]bool
	// exponent is a code's exponent, raised by exponentBias, in each of four
	// bytes; zero for a zero. With P~'s exponents, biased as in FP32, the sums
	// stay below 256, and those with a zero operand below all others.
	exponent     [256]uint32
	exponentBias uint32
	// limit is the magnitude from which on codes are not finite.
	limit uint32
}

// integers holds the value of each INT8 code.
var integers = func() (t [256]float32) {
	for c := range t {
		t[c] = float32(int8(c))
	}
	return t
}()

// Kinds of codes.
const (
	kindPositive  = 1
	kindNegative  = 2
	kindNotFinite = 4
)

// NewValueFormat prepares a format with the given smallest normal exponent.
func NewValueFormat(value func(code uint8) float32, lowest int, exponentBias uint32) *ValueFormat {
	f := &ValueFormat{exponentBias: exponentBias}
	for x := value(0); x-x == 0 && f.limit < 128; x = value(uint8(f.limit)) {
		f.limit++
	}
	for c := range f.value {
		v := value(uint8(c))
		switch {
		case v-v != 0:
			f.kind[c], f.infinite[c] = kindNotFinite, v == v
			continue
		case v > 0:
			f.kind[c] = kindPositive
		case v < 0:
			f.kind[c] = kindNegative
		}
		f.value[c], f.value64[c], f.finite[c] = v, float64(v), true
		if v != 0 {
			e := max(int(math.Float32bits(v)>>23&0xff)-127, lowest)
			f.exponent[c] = uint32(e+int(exponentBias)) * 0x01010101
		}
	}
	return f
}

// NewWideFormat prepares FP16, for which codes hold raised exponents.
func NewWideFormat() *ValueFormat {
	f := &ValueFormat{exponentBias: wideBias}
	for e := range f.exponent {
		f.exponent[e] = uint32(e) * 0x01010101
	}
	return f
}

// wideBias is exponentBias of FP16: as for E5M2, which has the same exponents.
const wideBias = 98

// classify returns the kind of an FP16 code and what stands for its exponent.
func classify(code uint16) (kind, exponent uint8) {
	switch e := code >> 10 & 31; {
	case code&0x7fff == 0:
		return 0, 0
	case e == 31:
		return kindNotFinite, 0
	default:
		return kindPositive + uint8(code>>15), uint8(max(e, 1)) - 15 + wideBias
	}
}

func (v *Values) recordSize() int { return v.unit.Step + 8 }

// slack is how far past a step's codes Dot may read: the key that stands for
// none is the first after the tile.
const slack = 256

// NewValues returns a V of dim channels for a padded number of keys, a multiple
// of tile. Index and Dot want a tile that is a multiple of 32; of others the codes are
// kept alone.
func NewValues(format *ValueFormat, dim, keys, tile int, unit Unit) *Values {
	keys = (keys + 31) / 32 * 32 // the codes lie in groups of so many
	v := &Values{dim: dim, unit: unit, tile: tile, format: format}
	v.codes = make([]uint8, keys*dim+slack)
	if unit.Kind.FP16() {
		v.wide = make([]uint16, keys*dim)
	}
	return v
}

// Put sets the code of a channel and a key.
func (v *Values) Put(channel, key int, code uint16) {
	at := (key/32*v.dim+channel)*32 + key%32
	if v.wide != nil {
		v.wide[at] = code
	} else {
		v.codes[at] = uint8(code)
	}
}

// PutRows sets the 8-bit codes of rows of all channels for keys from first on.
func (v *Values) PutRows(first int, rows []uint8) {
	for len(rows) > 0 {
		// A group of 32 keys at a time, whose codes lie together.
		n := min(32-first%32, len(rows)/v.dim)
		turnBytes(v.codes[first/32*v.dim*32+first%32:], 32, rows, v.dim, n)
		first, rows = first+n, rows[n*v.dim:]
	}
}

// turnBytes writes dst[c*to+r] = src[r*from+c] for rows of from bytes. It takes eight by eight in
// words of eight bytes, in which it exchanges what is off the diagonal by fours, twos and ones.
func turnBytes(dst []uint8, to int, src []uint8, from, rows int) {
	le := binary.LittleEndian
	r8, c8 := rows&^7, from&^7
	for r := 0; r < r8; r += 8 {
		for c := 0; c < c8; c += 8 {
			s, d := src[r*from+c:], dst[c*to+r:]
			x0, x1, x2, x3 := le.Uint64(s), le.Uint64(s[from:]), le.Uint64(s[2*from:]), le.Uint64(s[3*from:])
			s = s[4*from:]
			x4, x5, x6, x7 := le.Uint64(s), le.Uint64(s[from:]), le.Uint64(s[2*from:]), le.Uint64(s[3*from:])
			const fours, twos, ones = 1<<32 - 1, (1<<16 - 1) * (1<<32 + 1), (1<<8 - 1) * (1<<48 + 1<<32 + 1<<16 + 1)
			x0, x4 = exchange(x0, x4, 32, fours)
			x1, x5 = exchange(x1, x5, 32, fours)
			x2, x6 = exchange(x2, x6, 32, fours)
			x3, x7 = exchange(x3, x7, 32, fours)
			x0, x2 = exchange(x0, x2, 16, twos)
			x1, x3 = exchange(x1, x3, 16, twos)
			x4, x6 = exchange(x4, x6, 16, twos)
			x5, x7 = exchange(x5, x7, 16, twos)
			x0, x1 = exchange(x0, x1, 8, ones)
			x2, x3 = exchange(x2, x3, 8, ones)
			x4, x5 = exchange(x4, x5, 8, ones)
			x6, x7 = exchange(x6, x7, 8, ones)
			le.PutUint64(d, x0)
			le.PutUint64(d[to:], x1)
			le.PutUint64(d[2*to:], x2)
			le.PutUint64(d[3*to:], x3)
			d = d[4*to:]
			le.PutUint64(d, x4)
			le.PutUint64(d[to:], x5)
			le.PutUint64(d[2*to:], x6)
			le.PutUint64(d[3*to:], x7)
		}
	}
	for r := range rows {
		c := 0
		if r < r8 {
			c = c8
		}
		for ; c < from; c++ {
			dst[c*to+r] = src[r*from+c]
		}
	}
}

// exchange swaps the upper parts of x with the lower ones of y, which are those in mask.
func exchange(x, y uint64, shift int, mask uint64) (a, b uint64) {
	t := (x>>shift ^ y) & mask
	return x ^ t<<shift, y ^ t
}

// Code returns the code of a channel and a key.
func (v *Values) Code(channel, key int) uint16 {
	at := (key/32*v.dim+channel)*32 + key%32
	if v.wide != nil {
		return v.wide[at]
	}
	return uint16(v.codes[at])
}

// Codes returns the 32 codes of a channel for keys [32*group, 32*group+32).
func (v *Values) Codes(group, channel int) []uint8 {
	return v.codes[(group*v.dim+channel)*32:][:32]
}

// Keys returns the padded number of keys.
func (v *Values) Keys() int { return (len(v.codes) - slack) / v.dim }

// channelKeys are the keys of a channel in a step by the sign of their elements, zeros
// left out. The assembly knows the layout.
type channelKeys struct {
	// How many are positive, negative, and not finite.
	pos, neg, bad uint8
	// With room to write past the end.
	posKeys, negKeys [33]uint8
}

// Index writes the records, once all codes are there, and finds the codes that are not
// finite (Odd); all codes of dead channels, which may be nil, count as zeros.
func (v *Values) Index(level Level, dead []bool) {
	keys := v.Keys()
	v.odd = nil
	switch v.unit.Kind {
	case Integer:
		return
	case Exact:
		for i, c := range v.codes[:keys*v.dim] {
			if channel := i / 32 % v.dim; !v.format.finite[c] && (dead == nil || !dead[channel]) {
				v.addOdd(channel, i/32/v.dim*32+i%32)
			}
		}
		return
	}
	if !v.unit.Channels(v.dim) {
		panic("vec: Values have too many channels")
	}
	if v.unit.Pairs(level) {
		v.indexPairs(level, dead)
		return
	}
	size := v.recordSize()
	step := v.unit.Step
	if n := keys / step * v.dim * size; len(v.records) != n {
		v.records = make([]uint8, n)
	}
	list := make([]channelKeys, v.dim)
	for first := 0; first < keys; first += step {
		base := v.unit.base(first)
		none := uint8(v.tile - base%v.tile)
		v.partition(level, list, first, base)
		var count [17 * 17]int // channels by pairs of positive and negative elements
		for c := range list {
			l := &list[c]
			if dead != nil && dead[c] {
				l.pos, l.neg, l.bad = 0, 0, 0
			}
			if l.bad != 0 {
				v.setApart(l, c, first, base)
			}
			count[l.pos/2*17+l.neg/2]++
		}
		at := 0
		for i, n := range count {
			count[i], at = at, at+n
		}
		for c := range list {
			l := &list[c]
			slot := &count[l.pos/2*17+l.neg/2]
			r := v.records[(first/step*v.dim+*slot)*size:][:size]
			*slot++
			r[0], r[1], r[2] = uint8(c), l.pos/2, l.neg/2
			n := 4 + copy(r[4:], l.posKeys[:l.pos&^1])
			r[n], r[n+1] = none, none
			if l.pos&1 != 0 {
				r[n] = l.posKeys[l.pos-1]
			}
			if l.neg&1 != 0 {
				r[n+1] = l.negKeys[l.neg-1]
			}
			copy(r[n+2:], l.negKeys[:l.neg&^1])
		}
	}
}

// setApart takes the codes that are not finite out of the keys of channel c in the step at
// first, counted from base.
func (v *Values) setApart(l *channelKeys, c, first, base int) {
	pos, neg := l.posKeys[:0], l.negKeys[:0]
	for n := range v.unit.Step {
		i := v.unit.key(first/v.unit.Step, n)
		switch k := v.kind(c, base+i); {
		case k == kindNotFinite:
			v.addOdd(c, base+i)
		case k == kindPositive:
			pos = append(pos, uint8(i))
		case k == kindNegative:
			neg = append(neg, uint8(i))
		}
	}
	l.pos, l.neg = uint8(len(pos)), uint8(len(neg))
}

// kind returns the kind of the code of a channel and a key.
func (v *Values) kind(channel, key int) uint8 {
	if v.wide != nil {
		k, _ := classify(v.Code(channel, key))
		return k
	}
	return v.format.kind[uint8(v.Code(channel, key))]
}

// addOdd notes a code that is not finite. The keys of a tile come one after the other.
func (v *Values) addOdd(channel, key int) {
	if v.odd == nil {
		v.odd = make([][]Odd, (v.Keys()+v.tile-1)/v.tile)
	}
	tile := &v.odd[key/v.tile]
	i := slices.IndexFunc(*tile, func(o Odd) bool { return o.Channel == channel })
	if i < 0 {
		i = len(*tile)
		*tile = append(*tile, Odd{Channel: channel})
	}
	o := &(*tile)[i]
	code := v.Code(channel, key)
	nan, minus := !v.format.infinite[uint8(code)], code>>7 != 0
	if v.wide != nil {
		nan, minus = code&0x3ff != 0, code>>15 != 0
	}
	switch k := uint8(key % v.tile); {
	case nan:
		o.NaN = true
	case minus:
		o.Minus = append(o.Minus, k)
	default:
		o.Plus = append(o.Plus, k)
	}
}

// partition fills list with the keys of the step at first, counted from base.
func (v *Values) partition(level Level, list []channelKeys, first, base int) {
	var keyOf [32]uint8
	mask := uint32(0)
	for n := range v.unit.Step {
		keyOf[n] = uint8(v.unit.key(first/v.unit.Step, n))
		mask |= 1 << keyOf[n]
	}
	from := base/32*v.dim*32 + base%32
	switch {
	case v.wide != nil:
		v.partitionWide(list, keyOf[:v.unit.Step], from)
	case level == AVX512 || level == NEON:
		level.partition(list, v.codes[from:], mask, v.format.limit)
	default:
		for c := range list {
			codes := v.codes[from+c*32:][:32]
			l := &list[c]
			pos, neg, bad := 0, 0, uint8(0)
			// Every key is written to both lists and counted in one or none.
			for _, i := range keyOf[:v.unit.Step] {
				k := v.format.kind[codes[i]]
				l.posKeys[pos], l.negKeys[neg] = i, i
				pos += int(k & 1)
				neg += int(k >> 1 & 1)
				bad |= k & kindNotFinite
			}
			l.pos, l.neg, l.bad = uint8(pos), uint8(neg), bad
		}
	}
}

// partitionWide is partition for FP16, and writes what stands for the exponents.
func (v *Values) partitionWide(list []channelKeys, keys []uint8, from int) {
	for c := range list {
		l := &list[c]
		pos, neg, bad := 0, 0, uint8(0)
		for _, i := range keys {
			at := from + c*32 + int(i)
			k, e := classify(v.wide[at])
			v.codes[at] = e
			l.posKeys[pos], l.negKeys[neg] = i, i
			pos += int(k & 1)
			neg += int(k >> 1 & 1)
			bad |= k & kindNotFinite
		}
		l.pos, l.neg, l.bad = uint8(pos), uint8(neg), bad
	}
}

// clearOdd puts zeros for what is not finite.
func clearOdd(x []float64) {
	for i, v := range x {
		if v-v != 0 {
			x[i] = 0
		}
	}
}

// Dot adds the products of a tile of P~ with the keys from first on to
// acc[channel][Rows], which are zeros or what Rescale takes: a chain from zero or
// from what was there. p is
// [tile+1][Rows] with a last row of zeros, pe [tile][Rows] its exponents. Codes that
// are not finite count as zeros (Odd). It reports whether all sums stayed finite.
func (v *Values) Dot(l Level, acc, p []float32, pe []uint8, s *Scratch, first int) bool {
	return v.DotKeys(l, acc, p, pe, s, first, v.tile)
}

// DotKeys is Dot for the first keys of the tile alone, a multiple of 32: all others have P~ zero.
func (v *Values) DotKeys(l Level, acc, p []float32, pe []uint8, s *Scratch, first, keys int) bool {
	f, size, unit := v.format, v.recordSize(), v.unit
	if unit.Kind == Integer || unit.Kind == Exact {
		ok := true
		for k := 0; k < keys; k += 32 {
			codes := v.codes[(first+k)*v.dim:]
			if unit.Kind == Integer {
				l.integerPass(acc, codes, &integers, p[k*Rows:], v.dim)
			} else {
				ok = l.exactPass(acc, codes, &f.value64, p[k*Rows:], v.dim, unit.Half) && ok
			}
		}
		return ok
	}
	if unit.Pairs(l) {
		return v.DotTiles(l, []Tile{{P: p, PE: pe, Acc: acc}}, s, first, keys)[0]
	}
	e := grow(&s.e, v.dim*Rows)
	ok := true
	for k := 0; k < keys; k += unit.Step {
		base := unit.base(k)
		codes := v.codes[(first+base)/32*v.dim*32+base%32:]
		records := v.records[(first+k)/unit.Step*v.dim*size:]
		switch unit.Kind {
		case Truncated13:
			v.stepExponents(l, e, pe[k*Rows:], codes)
			ok = l.dotPass(acc, records, codes, &f.value, p[k*Rows:], e, v.dim, size, f.exponentBias, unit.Half) && ok
		case Wide25:
			v.stepExponents(l, e, pe[k*Rows:], codes)
			ok = l.widePass(acc, records, codes, f.value64[:], p[k*Rows:], e, v.dim, size, f.exponentBias, unit) && ok
		case Split:
			sums := grow(&s.sums, v.dim*Rows)
			second := k % 32 / 16 * 8
			l.exponentSplitPass(e, pe[(base+second)*Rows:], codes[second:], &f.exponent, v.dim)
			ok = l.widePass(sums, records, codes, f.value64[:], p[base*Rows:], e, v.dim, size, f.exponentBias, unit) && ok
			if second > 0 {
				ok = l.addPass(acc, sums, v.dim, unit.Half) && ok
			}
		case Truncated25, Truncated24:
			// Room for the key that stands for none, as behind codes.
			wide := grow(&s.wide, v.dim*32+slack)
			if k%32 == 0 {
				l.widen(wide[:v.dim*32], v.wide[(first+k)*v.dim:])
				if len(v.Odd(first)) > 0 {
					clearOdd(wide[:v.dim*32])
				}
			}
			if unit.Kind == Truncated25 {
				l.exponentPass(e, pe[k*Rows:], codes, &f.exponent, v.dim, 0)
			} else {
				second := k % 16 / 8 * 4
				l.exponentOctetPass(e, pe[(base+second)*Rows:], codes[second:], &f.exponent, v.dim)
			}
			ok = l.widePass(acc, records, codes, wide[base%32:], p[base*Rows:], e, v.dim, size, f.exponentBias, unit) && ok
		}
	}
	return ok
}

// stepExponents writes the largest sum of exponents of a step for each output.
func (v *Values) stepExponents(l Level, e, pe, codes []uint8) {
	l.exponentPass(e, pe, codes, &v.format.exponent, v.dim, 0)
	if v.unit.Step == 32 {
		l.exponentPass(e, pe[16*Rows:], codes[16:], &v.format.exponent, v.dim, math.MaxUint32)
	}
}

// Pairs says whether the level has DotTiles for the unit, which takes less for two strips than two
// calls of Dot.
func (u Unit) Pairs(l Level) bool { return l == AVX512 && u.Kind == Truncated13 }
