// Package exactsum adds float64 numbers without rounding, so that a sum depends neither
// on the order of its terms nor on how they were cut into parts.
//
// A sum is a fixed-point number as wide as the range of float64, after U. Kulisch,
// Computer Arithmetic and Validity (de Gruyter, 2013), in digits of 32 bits whose carries
// wait.
package exactsum

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
)

const (
	// digits hold 2098 bits, from 2^-1074 up to 2^1024, and 78 more for carries.
	digits = 68
	// lowest is the exponent of the lowest bit.
	lowest = -1074
	// patience is how many terms may be added before carries are taken up: each adds
	// less than 2^32 to a digit, of which an int64 holds 2^31.
	patience = 1 << 30
)

// Sum is a running sum. The zero value is empty and ready; a copy is a sum of its own.
type Sum struct {
	digits [digits]int64
	terms  int64 // since carries were taken up
	// special is the IEEE 754 sum of the terms that are NaN or infinite.
	special float64
}

// Add adds a term.
func (s *Sum) Add(x float64) {
	b := math.Float64bits(x)
	e := int(b >> 52 & 0x7ff)
	m := b & (1<<52 - 1)
	switch e {
	case 0x7ff:
		s.special += x
		return
	case 0:
		e = 1
	default:
		m |= 1 << 52
	}
	at, by := (e-1)/32, uint(e-1)%32
	d := s.digits[at : at+3 : at+3]
	low, middle, high := int64(m<<by&(1<<32-1)), int64(m>>(32-by)&(1<<32-1)), int64(m>>32>>(32-by))
	if b>>63 != 0 {
		low, middle, high = -low, -middle, -high
	}
	d[0] += low
	d[1] += middle
	d[2] += high
	if s.terms++; s.terms == patience {
		s.carry()
	}
}

// Merge adds another sum.
func (s *Sum) Merge(o *Sum) {
	for i, d := range o.digits {
		s.digits[i] += d
	}
	s.special += o.special
	// What carries left behind counts as a term.
	if s.terms += o.terms + 1; s.terms >= patience {
		s.carry()
	}
}

// carry leaves 0 to 2^32-1 in every digit but the highest, which has the sign.
func (s *Sum) carry() {
	s.terms = 1
	for i := range digits - 1 {
		s.digits[i+1] += s.digits[i] >> 32
		s.digits[i] &= 1<<32 - 1
	}
}

// integer is the sum of the finite terms in units of 2^lowest.
func (s *Sum) integer() *big.Int {
	c := *s
	c.carry()
	negative := c.digits[digits-1] < 0
	if negative {
		for i := range c.digits {
			c.digits[i] = -c.digits[i]
		}
		c.carry()
	}
	var b [4 * digits]byte
	for i, d := range c.digits {
		at := len(b) - 4*i
		b[at-1], b[at-2], b[at-3], b[at-4] = byte(d), byte(d>>8), byte(d>>16), byte(d>>24)
	}
	x := new(big.Int).SetBytes(b[:])
	if negative {
		x.Neg(x)
	}
	return x
}

// Value returns the sum, rounded once, to nearest even. One that is beyond float64's range
// is infinite.
func (s *Sum) Value() float64 {
	if s.special != 0 {
		return s.special
	}
	x := s.integer()
	if x.Sign() == 0 {
		return 0
	}
	f := new(big.Float).SetPrec(32 * digits).SetInt(x)
	v, _ := f.SetMantExp(f, lowest).Float64()
	return v
}

// MarshalText writes the sum exactly. Equal sums have the same text.
func (s *Sum) MarshalText() ([]byte, error) {
	if s.special != 0 {
		return strconv.AppendFloat(nil, s.special, 'g', -1, 64), nil
	}
	x := s.integer()
	if x.Sign() == 0 {
		return []byte("0"), nil
	}
	zeros := x.TrailingZeroBits()
	x.Rsh(x, zeros)
	return fmt.Appendf(nil, "%xp%d", x, int(zeros)+lowest), nil
}

// UnmarshalText reads what MarshalText writes.
func (s *Sum) UnmarshalText(text []byte) error {
	*s = Sum{}
	fault := fmt.Errorf("%.40q is not a sum", text)
	switch string(text) {
	case "0":
		return nil
	case "NaN", "+Inf", "-Inf":
		s.special, _ = strconv.ParseFloat(string(text), 64)
		return nil
	}
	at := len(text) - 1
	for at >= 0 && text[at] != 'p' {
		at--
	}
	// Longer is no sum of numbers.
	if at < 1 || at > 2+8*digits || text[0] == '+' {
		return fault
	}
	e, err := strconv.Atoi(string(text[at+1:]))
	x, ok := new(big.Int).SetString(string(text[:at]), 16)
	if err != nil || !ok || e < lowest || x.BitLen()+e-lowest > 32*digits-2 {
		return fault
	}
	x.Lsh(x, uint(e-lowest))
	negative := x.Sign() < 0
	for i, b := 0, x.Bytes(); i < len(b); i++ {
		s.digits[i/4] |= int64(b[len(b)-1-i]) << (8 * (i % 4))
	}
	if negative {
		for i := range s.digits {
			s.digits[i] = -s.digits[i]
		}
	}
	s.terms = 1
	return nil
}
