package vec

import "math"

// Values is a matrix V of FP8 codes, laid out for Dot.
type Values struct {
	dim, step, tile int
	format          *ValueFormat
	// codes is [keys/32][dim][32], with room to read past the end.
	codes []uint8
	// records is [keys/step][dim][recordSize]: a channel's number, how many pairs
	// of positive and of negative elements follow, an unused byte, and the
	// elements' keys within the step: pairs of positive ones, one positive and
	// one negative element, pairs of negative ones. Where there is none, the key
	// is one whose P~ is zero. Channels with equal numbers stand together.
	records []uint8
}

// ValueFormat holds what Dot needs to know of the codes of an FP8 format.
type ValueFormat struct {
	// value of each code; finite is false where there is none.
	value  [256]float32
	finite [256]bool
	// exponent is a code's exponent, raised by exponentBias, in each of four
	// bytes; zero for a zero. With P~'s exponents, biased as in FP32, the sums
	// stay below 256, and those with a zero operand below all others.
	exponent     [256]uint32
	exponentBias uint32
}

// NewValueFormat prepares a format with the given smallest normal exponent.
func NewValueFormat(value func(code uint8) float32, lowest int, exponentBias uint32) *ValueFormat {
	f := &ValueFormat{exponentBias: exponentBias}
	for c := range f.value {
		v := value(uint8(c))
		if v-v != 0 {
			continue
		}
		f.value[c], f.finite[c] = v, true
		if v != 0 {
			e := max(int(math.Float32bits(v)>>23&0xff)-127, lowest)
			f.exponent[c] = uint32(e+int(exponentBias)) * 0x01010101
		}
	}
	return f
}

func (v *Values) recordSize() int { return v.step + 8 }

// slack is how far past a step's codes Dot may read: the key that stands for
// none is the first after the tile.
const slack = 256

// NewValues returns a V of dim channels for a padded number of keys, a multiple
// of tile. A step of the matrix unit is 16 or 32 keys deep.
func NewValues(format *ValueFormat, dim, keys, tile, step int) *Values {
	v := &Values{dim: dim, step: step, tile: tile, format: format}
	v.codes = make([]uint8, keys*dim+slack)
	return v
}

// Codes returns the 32 codes of a channel for keys [32*group, 32*group+32).
func (v *Values) Codes(group, channel int) []uint8 {
	return v.codes[(group*v.dim+channel)*32:][:32]
}

// Keys returns the padded number of keys.
func (v *Values) Keys() int { return (len(v.codes) - slack) / v.dim }

// Index writes the records, once all codes are there. It reports false if a code
// is not finite; Dot cannot be used then.
func (v *Values) Index() bool {
	keys := v.Keys()
	size := v.recordSize()
	v.records = make([]uint8, keys/v.step*v.dim*size)
	type channel struct {
		pos, neg int
		keys     [64]uint8 // positive ones from 0, negative ones from 32
	}
	list := make([]channel, v.dim)
	for first := 0; first < keys; first += v.step {
		none := uint8(v.tile - first%v.tile)
		var count [33 * 33]int // channels by pairs of positive and negative elements
		for c := range list {
			l := &list[c]
			l.pos, l.neg = 0, 0
			for i, code := range v.Codes(first/32, c)[first%32:][:v.step] {
				switch {
				case !v.format.finite[code]:
					v.records = nil
					return false
				case code&0x7f == 0:
				case code&0x80 == 0:
					l.keys[l.pos] = uint8(i)
					l.pos++
				default:
					l.keys[32+l.neg] = uint8(i)
					l.neg++
				}
			}
			count[l.pos/2*33+l.neg/2]++
		}
		at := 0
		for i, n := range count {
			count[i], at = at, at+n
		}
		for c := range list {
			l := &list[c]
			slot := &count[l.pos/2*33+l.neg/2]
			r := v.records[(first/v.step*v.dim+*slot)*size:][:size]
			*slot++
			r[0], r[1], r[2] = uint8(c), uint8(l.pos/2), uint8(l.neg/2)
			n := 4 + copy(r[4:], l.keys[:l.pos&^1])
			r[n], r[n+1] = none, none
			if l.pos&1 != 0 {
				r[n] = l.keys[l.pos-1]
			}
			if l.neg&1 != 0 {
				r[n+1] = l.keys[32+l.neg-1]
			}
			copy(r[n+2:], l.keys[32:32+l.neg&^1])
		}
	}
	return true
}

// Dot adds the products of a tile of P~ with the keys from first on to
// acc[channel][Rows], by a unit that keeps 13 fraction bits and rounds each step
// to FP22, or to FP16 if half is set. p is [tile+1][Rows] with a last row of
// zeros, pe [tile][Rows] its exponents; e is scratch, [dim][Rows]. It reports
// whether all sums stayed finite.
func (v *Values) Dot(acc, p []float32, pe, e []uint8, first int, half bool) bool {
	ok := true
	size := v.recordSize() * v.dim
	for k := 0; k < v.tile; k += v.step {
		key := first + k
		codes := v.codes[key/32*v.dim*32+key%32:]
		exponentPass(e, pe[k*Rows:], codes, &v.format.exponent, v.dim, 0)
		if v.step == 32 {
			exponentPass(e, pe[(k+16)*Rows:], codes[16:], &v.format.exponent, v.dim, math.MaxUint32)
		}
		ok = dotPass(acc, v.records[key/v.step*size:], codes, &v.format.value, p[k*Rows:], e, v.dim, v.recordSize(), v.format.exponentBias, half) && ok
	}
	return ok
}
