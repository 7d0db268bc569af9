package vec

import (
	"math"
	"math/bits"
)

// SignedFormat holds what products of operands of both signs need to know of the codes of an FP8
// format.
//
// A product is exact where its lowest bit, whose exponent is that of its operands' lowest bits together,
// is not below 2^(E-13). Those exponents are kept raised, so that a row's and a key's together are to be
// compared with E, biased as in FP32. Of zeros, and of products that are positive, the sum is above any E.
type SignedFormat struct {
	values *ValueFormat
	// lowest is what is kept of a code's lowest bit, in each of four bytes.
	lowest [256]uint32
	// rows is, by the upper bits of a value's FP32 pattern, its exponent as in pe of Values.Dot, and what
	// is kept of its lowest bit with a key's element that is positive and with one that is negative.
	rows [1 << (32 - rowBits)][3]uint8
}

// rowBits are the bits of an FP32 pattern that are zero in values of FP8.
const rowBits = 20

// signedKeys is how many keys the kernel takes at once.
const signedKeys = 4

// What is kept of lowest bits. The kernel knows the smallest of a row, rowLowest-16, below which it takes
// no E to be, so that no difference of two bytes wraps.
const (
	keyLowest = 16  // of 2^0 in a key
	rowLowest = 124 // and in a row: 13 and FP32's bias, together
	keyZero   = 60
	rowExact  = 168 // of products that are not negative, or of zero
)

// NewSignedFormat prepares a format with the given smallest normal exponent.
func NewSignedFormat(values *ValueFormat, lowest int) *SignedFormat {
	f := &SignedFormat{values: values}
	for i := range f.rows {
		f.rows[i] = [3]uint8{0, rowExact, rowExact}
	}
	for c, x := range values.value {
		b := math.Float32bits(x)
		low := keyZero
		if x != 0 {
			low = keyLowest + lowestBit(b)
			row := &f.rows[b>>rowBits]
			row[0] = max(uint8(b>>23), uint8(127+lowest))
			// That of a product that is negative.
			row[1+(b>>31^1)] = uint8(rowLowest + lowestBit(b))
		}
		f.lowest[c] = uint32(low) * 0x01010101
	}
	return f
}

// lowestBit returns the exponent of the lowest bit of a normal number.
func lowestBit(x uint32) int {
	const fraction = 23
	return int(x>>fraction&0xff) - 127 - fraction + bits.TrailingZeros32(x|1<<fraction)
}

// Signed says whether the level has Keys of the unit.
func (u Unit) Signed(l Level) bool { return u.Pairs(l) && !u.Half }

// KeyGroup is how many keys' codes lie together.
const KeyGroup = 32

// Keys are rows of codes, laid out for products with Queries.
type Keys struct {
	depth, step int
	format      *SignedFormat
	codes       []uint8 // [keys/KeyGroup][depth/32][KeyGroup][32]
}

// maxDepth is up to how many codes a key has. Of so many the largest sum, of E5M2, has an exponent of 40,
// with FP32's bias one less than rowExact, and than keyZero with the smallest of a row.
const maxDepth = 512

// NewKeys returns room for keys keys of depth codes: keys a multiple of KeyGroup, depth of 32 and up to 512.
func NewKeys(format *SignedFormat, keys, depth int, unit Unit) *Keys {
	if depth > maxDepth {
		panic("vec: Keys are too long")
	}
	return &Keys{depth: depth, step: unit.Step, format: format, codes: make([]uint8, keys*depth)}
}

// Len returns the number of keys.
func (k *Keys) Len() int { return len(k.codes) / k.depth }

// Put sets the codes of a key, which are finite.
func (k *Keys) Put(key int, row []uint8) {
	to := k.codes[key/KeyGroup*KeyGroup*k.depth+key%KeyGroup*32:]
	for c := 0; c < k.depth; c += 32 {
		copy(to[c*KeyGroup:][:32], row[c:])
	}
}

// Queries are the rows of a strip, laid out for products with Keys.
type Queries struct {
	x         []float32 // [depth][Rows]
	exponents []uint8   // [depth][Rows], as pe of Values.Dot
	// lowest [depth/2][2][2][Rows], of two elements of a row with a key's element that is positive, and
	// then negative, is what is kept of lowest bits. Byte 4*i+j is of row 16*j+i.
	lowest []uint8
}

// Load takes [depth][Rows] numbers of the format, which must stay as they are.
func (q *Queries) Load(f *SignedFormat, x []float32) {
	q.x = x
	exponents, lowest := grow(&q.exponents, len(x)), grow(&q.lowest, 2*len(x))
	for i := 0; i < len(x); i += Rows {
		// Those of the second element of two lie behind the first's.
		e, low := exponents[i:][:Rows], lowest[i/(2*Rows)*4*Rows+i/Rows%2*Rows:][:3*Rows]
		for r, y := range x[i:][:Rows] {
			row := &f.rows[math.Float32bits(y)>>rowBits]
			at := r%16*4 + r/16
			e[r], low[at], low[2*Rows+at] = row[0], row[1], row[2]
		}
	}
}

// signedArgs are the operands of a step. The assembly knows the layout.
type signedArgs struct {
	codes        *uint8 // [keys][32]
	values       *[256]float32
	lowest       *[256]uint32
	q            *float32 // [step][Rows]
	low          *uint8   // of Queries.lowest
	e            *uint8   // [keys][Rows], of pairExponents
	acc          *float32 // [keys][Rows]
	magic        *float32 // [signedKeys][Rows], scratch
	groups, step int      // groups of signedKeys keys
	bias         uint8    // by which e is too large
	last         bool     // sums are truncated
	_            [6]uint8
}

// Dot sets acc [keys][Rows] to the products of queries and keys from first on, chains from zero, where
// Unit.Signed holds: both numbers are multiples of KeyGroup.
func (k *Keys) Dot(l Level, acc []float32, q *Queries, s *Scratch, first, keys int) {
	clear(acc[:keys*Rows])
	_ = q.x[k.depth*Rows-1]
	e, magic := grow(&s.e, KeyGroup*Rows), grow(&s.magic, signedKeys*Rows)
	a := signedArgs{values: &k.format.values.value, lowest: &k.format.lowest, e: &e[0], magic: &magic[0], groups: KeyGroup / signedKeys, step: k.step, bias: uint8(k.format.values.exponentBias)}
	for n := 0; n < keys; n += KeyGroup {
		a.acc = &acc[n*Rows]
		for c := 0; c < k.depth; c += k.step {
			codes := k.codes[(first+n)*k.depth+c/32*32*KeyGroup+c%32:]
			for i := 0; i < k.step; i += 16 {
				l.pairExponents(e, q.exponents[(c+i)*Rows:], codes[i:], &k.format.values.exponent, KeyGroup, leastExponent+k.format.values.exponentBias, i > 0)
			}
			a.codes, a.q, a.low, a.last = &codes[0], &q.x[c*Rows], &q.lowest[c*2*Rows], c+k.step >= k.depth
			l.signedPass(&a)
		}
	}
}
