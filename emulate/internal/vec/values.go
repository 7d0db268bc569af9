package vec

import "math"

// Values is a matrix V of FP8 codes, laid out for Dot.
type Values struct {
	dim, tile int
	unit      Unit
	format    *ValueFormat
	// codes is [keys/32][dim][32], with room to read past the end.
	codes []uint8
	// records is [keys/step][dim][recordSize]: a channel's number, how many pairs
	// of positive and of negative elements follow, an unused byte, and the
	// elements' keys within the step: pairs of positive ones, one positive and
	// one negative element, pairs of negative ones. Where there is none, the key
	// is one whose P~ is zero. Channels with equal numbers stand together.
	records []uint8
}

// Unit describes the matrix unit that Dot computes.
type Unit struct {
	// Step is how many keys it adds at a time, 16 or 32.
	Step int
	// Split says that steps of 16 keys take keys 0-7 and 16-23 of each 32, then
	// the others, keep 25 fraction bits, round toward zero to FP32 and start from
	// zero every 32 keys, whose sum is then added in FP32. Otherwise a unit keeps
	// 13 fraction bits.
	Split bool
	// Integer says that the codes are INT8 and sums exact; the others do not matter.
	Integer bool
	// Half says that steps round to FP16 to nearest even, not to FP22 toward zero.
	Half bool
}

// key returns the key of element i of step s within 32 keys, counted from the
// first key of the step or, with Split, of the 32.
func (u Unit) key(s, i int) int {
	if u.Split {
		return i%8 + i/8*16 + s%2*8
	}
	return i
}

// base returns the key from which a step's keys are counted.
func (u Unit) base(first int) int {
	if u.Split {
		return first &^ 31
	}
	return first
}

// ValueFormat holds what Dot needs to know of the codes of an FP8 format.
type ValueFormat struct {
	// value of each code; finite is false where there is none. kind is one of
	// the constants, or zero for a zero.
	value   [256]float32
	value64 [256]float64
	finite  [256]bool
	kind    [256]uint8
	// exponent is a code's exponent, raised by exponentBias, in each of four
	// bytes; zero for a zero. With P~'s exponents, biased as in FP32, the sums
	// stay below 256, and those with a zero operand below all others.
	exponent     [256]uint32
	exponentBias uint32
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
	for c := range f.value {
		v := value(uint8(c))
		switch {
		case v-v != 0:
			f.kind[c] = kindNotFinite
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

func (v *Values) recordSize() int { return v.unit.Step + 8 }

// slack is how far past a step's codes Dot may read: the key that stands for
// none is the first after the tile.
const slack = 256

// NewValues returns a V of dim channels for a padded number of keys, a multiple
// of tile, which is one of 32.
func NewValues(format *ValueFormat, dim, keys, tile int, unit Unit) *Values {
	v := &Values{dim: dim, unit: unit, tile: tile, format: format}
	v.codes = make([]uint8, keys*dim+slack)
	return v
}

// Codes returns the 32 codes of a channel for keys [32*group, 32*group+32).
func (v *Values) Codes(group, channel int) []uint8 {
	return v.codes[(group*v.dim+channel)*32:][:32]
}

// Keys returns the padded number of keys.
func (v *Values) Keys() int { return (len(v.codes) - slack) / v.dim }

// Index writes the records, once all codes are there; those of dead channels, which
// may be nil, count as zeros. It reports false if another code is not finite; Dot
// cannot be used then.
func (v *Values) Index(dead []bool) bool {
	if v.unit.Integer {
		return true
	}
	keys := v.Keys()
	size := v.recordSize()
	step := v.unit.Step
	if n := keys / step * v.dim * size; len(v.records) != n {
		v.records = make([]uint8, n)
	}
	type channel struct {
		pos, neg         int
		posKeys, negKeys [33]uint8 // with room to write past the end
	}
	list := make([]channel, v.dim)
	var keyOf [32]uint8
	bad := uint8(0)
	for first := 0; first < keys; first += step {
		base := v.unit.base(first)
		none := uint8(v.tile - base%v.tile)
		for n := range step {
			keyOf[n] = uint8(v.unit.key(first/16, n))
		}
		var count [33 * 33]int // channels by pairs of positive and negative elements
		for c := range list {
			l := &list[c]
			pos, neg := 0, 0
			codes := v.Codes(base/32, c)[base%32:]
			of := keyOf[:step]
			if dead != nil && dead[c] {
				of = nil
			}
			// Every key is written to both lists and counted in one or none.
			for _, i := range of {
				k := v.format.kind[codes[i]]
				l.posKeys[pos], l.negKeys[neg] = i, i
				pos += int(k & 1)
				neg += int(k >> 1 & 1)
				bad |= k
			}
			l.pos, l.neg = pos, neg
			count[l.pos/2*33+l.neg/2]++
		}
		at := 0
		for i, n := range count {
			count[i], at = at, at+n
		}
		for c := range list {
			l := &list[c]
			slot := &count[l.pos/2*33+l.neg/2]
			r := v.records[(first/step*v.dim+*slot)*size:][:size]
			*slot++
			r[0], r[1], r[2] = uint8(c), uint8(l.pos/2), uint8(l.neg/2)
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
		if bad&kindNotFinite != 0 {
			return false
		}
	}
	return true
}

// Dot adds the products of a tile of P~ with the keys from first on to
// acc[channel][Rows], which are zeros or what Rescale takes: a chain from zero or
// from what was there. p is
// [tile+1][Rows] with a last row of zeros, pe [tile][Rows] its exponents. It
// reports whether all sums stayed finite.
func (v *Values) Dot(l Level, acc, p []float32, pe []uint8, s *Scratch, first int) bool {
	if v.unit.Integer {
		for k := 0; k < v.tile; k += 32 {
			l.integerPass(acc, v.codes[(first+k)*v.dim:], &integers, p[k*Rows:], v.dim)
		}
		return true
	}
	e := grow(&s.e, v.dim*Rows)
	sums := grow(&s.sums, v.dim*Rows)
	ok := true
	f, size := v.format, v.recordSize()
	for k := 0; k < v.tile; k += v.unit.Step {
		base := v.unit.base(k)
		codes := v.codes[(first+base)/32*v.dim*32+base%32:]
		records := v.records[(first+k)/v.unit.Step*v.dim*size:]
		if v.unit.Split {
			second := k % 32 / 16 * 8
			l.exponentPass(e, pe[(base+second)*Rows:], codes[second:], &f.exponent, v.dim, 0, true)
			l.splitPass(sums, records, codes, &f.value64, p[base*Rows:], e, v.dim, size, f.exponentBias)
			if second > 0 {
				l.addPass(acc, sums, v.dim)
			}
			continue
		}
		l.exponentPass(e, pe[k*Rows:], codes, &f.exponent, v.dim, 0, false)
		if v.unit.Step == 32 {
			l.exponentPass(e, pe[(k+16)*Rows:], codes[16:], &f.exponent, v.dim, math.MaxUint32, false)
		}
		ok = l.dotPass(acc, records, codes, &f.value, p[k*Rows:], e, v.dim, size, f.exponentBias, v.unit.Half) && ok
	}
	return ok
}
