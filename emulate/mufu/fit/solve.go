package main

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
)

// coefficients are the integers of one segment.
type coefficients struct{ c0, c1, c2 int64 }

// A function says how one MUFU function uses its segments: the sum that it
// truncates is C0<<c0Shift + C1*t + C2*square(t<<tShift)<<squareShift + bias,
// where t is the part of the fraction below the segment's number.
type function struct {
	name        string
	instruction string
	segments    int
	c0Shift     uint
	tShift      uint
	squareShift uint
	bias        int64
	bound       func(recordings map[string][]uint32, x uint32) interval
}

var functions = []function{
	{"ex2", "ex2.approx.ftz.f32", 64, 13, 0, 0, 0x77e2, boundEx2},
	{"rcp", "rcp.approx.ftz.f32", 128, 13, 1, 0, 0x47e7, boundRcp},
	{"lg2", "lg2.approx.ftz.f32", 64, 12, 0, 1, 0x3345, boundLg2},
}

// An interval is the half-open range [lo, hi) that a recorded result leaves
// open for the sum.
type interval struct{ lo, hi int64 }

// boundEx2 bounds the sum for fraction x. The result is 2^(1+x), in [2, 4); its
// significand is the sum without its low 15 bits.
func boundEx2(rec map[string][]uint32, x uint32) interval {
	sig := int64(rec["ex2_127"][x]) - 127<<23
	return interval{sig << 15, (sig + 1) << 15}
}

// boundRcp bounds the sum for fraction x. The result is in (1/2, 1]; its
// significand is the sum without its low 15 bits.
func boundRcp(rec map[string][]uint32, x uint32) interval {
	sig := int64(rec["rcp_127"][x]) - 125<<23
	return interval{sig << 15, (sig + 1) << 15}
}

// boundLg2 bounds the sum for fraction x. With exponent 127 the result is the
// leading 24 bits of r, the sum without its low 2 bits, in units of 2^-36; with
// exponent 126 it is minus the leading 24 bits of 2^36-1-r. The result for 1.0
// is no evidence: it is zero whatever the sum.
func boundLg2(rec map[string][]uint32, x uint32) interval {
	below := magnitude(rec["lg2_126"][x])
	r := interval{1<<36 - below.hi, 1<<36 - below.lo}
	if x != 0 {
		above := magnitude(rec["lg2_127"][x])
		r = interval{max(r.lo, above.lo), min(r.hi, above.hi)}
	}
	return interval{r.lo << 2, r.hi << 2}
}

// magnitude is the range of integers, in units of 2^-36, that truncate to the
// magnitude of a float32.
func magnitude(b uint32) interval {
	exp := int(b >> 23 & 0xff)
	if exp == 0 {
		return interval{0, 1}
	}
	sig := int64(b&0x7fffff | 1<<23)
	shift := exp - (127 + 23 - 36)
	if shift <= 0 {
		sig >>= uint(-shift)
		return interval{sig, sig + 1}
	}
	return interval{sig << shift, (sig + 1) << shift}
}

// square is the unit's truncated squarer, as documented in envytools.
func square(t int64) int64 {
	var sum int64
	for b := uint64(t); b != 0; b &= b - 1 {
		sum += t >> (18 - bits.TrailingZeros64(b))
	}
	return sum >> 1
}

var errNoFit = errors.New("no coefficients reproduce the recording")

// search is how far from the least-squares estimate C1 and C2 are looked for.
const search = 3

// fit solves one segment of f.
func (f *function) fit(recordings map[string][]uint32, seg int) (coefficients, error) {
	n := (1 << 23) / f.segments
	ivs := make([]interval, n)
	sq := make([]int64, n)
	for t := range ivs {
		ivs[t] = f.bound(recordings, uint32(seg*n+t))
		sq[t] = square(int64(t)<<f.tShift) << f.squareShift
	}
	e1, e2 := estimate(ivs, sq)
	var found []coefficients
	for c1 := e1 - search; c1 <= e1+search; c1++ {
		for c2 := e2 - search; c2 <= e2+search; c2++ {
			lo, hi := f.c0Range(ivs, sq, c1, c2, 61)
			if lo >= hi {
				continue
			}
			lo, hi = f.c0Range(ivs, sq, c1, c2, 1)
			for c0 := lo; c0 < hi; c0++ {
				found = append(found, coefficients{c0, c1, c2})
			}
		}
	}
	switch len(found) {
	case 0:
		return coefficients{}, errNoFit
	case 1:
		return found[0], nil
	}
	return coefficients{}, fmt.Errorf("%d sets of coefficients reproduce the recording", len(found))
}

// c0Range returns the range [lo, hi) of C0 that satisfies every stride-th
// interval, given C1 and C2. It is empty where lo >= hi.
func (f *function) c0Range(ivs []interval, sq []int64, c1, c2 int64, stride int) (lo, hi int64) {
	open := interval{math.MinInt64, math.MaxInt64}
	for t := 0; t < len(ivs); t += stride {
		rest := c1*int64(t) + c2*sq[t] + f.bias
		open.lo = max(open.lo, ivs[t].lo-rest)
		open.hi = min(open.hi, ivs[t].hi-rest)
	}
	ceil := int64(1)<<f.c0Shift - 1
	return (open.lo + ceil) >> f.c0Shift, (open.hi + ceil) >> f.c0Shift
}

// estimate returns the least-squares C1 and C2 for the intervals' midpoints,
// rounded to integers.
func estimate(ivs []interval, sq []int64) (c1, c2 int64) {
	n := float64(len(ivs))
	var mt, ms, my float64
	base := ivs[0].lo
	mid := func(iv interval) float64 { return float64(float64(iv.lo-base)/2) + float64(float64(iv.hi-base)/2) }
	for t, iv := range ivs {
		mt += float64(t) / n
		ms += float64(sq[t]) / n
		my += mid(iv) / n
	}
	var tt, ts, ss, ty, sy float64
	for t, iv := range ivs {
		dt, ds, dy := float64(t)-mt, float64(sq[t])-ms, mid(iv)-my
		tt += float64(dt * dt)
		ts += float64(dt * ds)
		ss += float64(ds * ds)
		ty += float64(dt * dy)
		sy += float64(ds * dy)
	}
	det := float64(tt*ss) - float64(ts*ts)
	return int64(math.Round((float64(ty*ss) - float64(sy*ts)) / det)), int64(math.Round((float64(sy*tt) - float64(ty*ts)) / det))
}
