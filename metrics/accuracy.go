package metrics

import (
	"fmt"
	"math"

	"github.com/sageacc/sageacc/internal/jsonfloat"
)

// Values are the accuracy figures of an output O' against a reference O. The
// JSON names are those of the compare report, where NaN and infinities are
// strings.
type Values struct {
	// CosSim is Σ(O·O') / (|O|·|O'|).
	CosSim jsonfloat.Float `json:"cos_sim"`
	// RelL1 is Σ|O−O'| / Σ|O|.
	RelL1 jsonfloat.Float `json:"rel_l1"`
	// RMSE is sqrt(mean((O−O')²)).
	RMSE jsonfloat.Float `json:"rmse"`
	// MaxAbs is max|O−O'|.
	MaxAbs jsonfloat.Float `json:"max_abs"`
}

// NonFinite counts the elements that are not numbers one can measure with.
type NonFinite struct {
	OutNaN int64 `json:"out_nan"`
	OutInf int64 `json:"out_inf"`
	RefNaN int64 `json:"ref_nan"`
	RefInf int64 `json:"ref_inf"`
}

// Any reports whether any count is not zero.
func (n NonFinite) Any() bool { return n != NonFinite{} }

// Accuracy accumulates [Values] over the elements of an output and its
// reference. The zero value is empty and ready.
//
// # Error
//
// Products and squares of float32 inputs are exact in float64; differences are
// rounded once. Up to 256 terms are summed plainly, in order, and the partial
// sums are then added to the running ones by Neumaier's compensated summation
// (Zeitschrift für Angewandte Mathematik und Mechanik 54, 1974). With
// u = 2⁻⁵³, each sum is therefore within about 258·u = 2.9e-14 of exact,
// relative to the sum of its absolute terms, for any number of elements that
// matters here. Plain summation would only bound it by n·u, 1e-7 for 1e9
// elements. All sums but Σ(O·O') have terms of one sign, so RelL1 and RMSE carry
// that as their relative error, and CosSim carries it as its absolute error.
//
// # Order
//
// A result depends on the sequence of Add and Merge calls and on what each of
// them was given, and on nothing else. Where the same elements are cut into
// calls differently, results agree to within the error above.
//
// # Special values
//
// Sums follow IEEE 754, so that a NaN in either input makes every figure NaN,
// and an infinity in the output alone makes the differences +Inf and CosSim
// NaN. [Accuracy.NonFinite] tells how many there were.
type Accuracy struct {
	n         int64
	dot       sum // Σ O·O'
	outSq     sum // Σ O'²
	refSq     sum // Σ O²
	absDiff   sum // Σ |O−O'|
	absRef    sum // Σ |O|
	sqDiff    sum // Σ (O−O')²
	maxAbs    float64
	nonFinite NonFinite
}

// chunk is the number of terms that are summed without compensation.
const chunk = 256

// Add accumulates one run of elements of the output and the reference. It panics
// if they differ in length.
func (a *Accuracy) Add(out, ref []float32) { add(a, out, ref) }

// Add64 is [Accuracy.Add] against a float64 reference. Squares of references
// beyond about 1e154 in magnitude overflow, and the figures with them; no
// float16, bfloat16 or float32 value comes near that.
func (a *Accuracy) Add64(out []float32, ref []float64) { add(a, out, ref) }

func add[R float32 | float64](a *Accuracy, out []float32, ref []R) {
	if len(out) != len(ref) {
		panic(fmt.Sprintf("metrics: output has %d elements, reference %d", len(out), len(ref)))
	}
	a.n += int64(len(out))
	for len(out) > 0 {
		n := min(chunk, len(out))
		addChunk(a, out[:n], ref[:n])
		out, ref = out[n:], ref[n:]
	}
}

// addChunk accumulates at most chunk elements.
func addChunk[R float32 | float64](a *Accuracy, out []float32, ref []R) {
	var dot, outSq, refSq, absDiff, absRef, sqDiff float64
	maxAbs := a.maxAbs
	ref = ref[:len(out)]
	for i, x := range out {
		o, r := float64(x), float64(ref[i])
		diff := math.Abs(o - r)
		// The conversions round the products, so that the result is the same
		// on architectures whose compiler would fuse them into the sums.
		dot += float64(o * r)
		outSq += float64(o * o)
		refSq += float64(r * r)
		sqDiff += float64(diff * diff)
		absDiff += diff
		absRef += math.Abs(r)
		// A NaN is taken as the maximum, and then stays.
		if diff > maxAbs || diff != diff {
			maxAbs = diff
		}
	}
	a.dot.add(dot)
	a.outSq.add(outSq)
	a.refSq.add(refSq)
	a.absDiff.add(absDiff)
	a.absRef.add(absRef)
	a.sqDiff.add(sqDiff)
	a.maxAbs = maxAbs
	if !isFinite(outSq) || !isFinite(absRef) {
		a.nonFinite.OutNaN += count(out, math.IsNaN)
		a.nonFinite.OutInf += count(out, isInf)
		a.nonFinite.RefNaN += count(ref, math.IsNaN)
		a.nonFinite.RefInf += count(ref, isInf)
	}
}

// Merge adds what other has accumulated, as if it had been added here after what
// is here already. It leaves other alone.
func (a *Accuracy) Merge(other *Accuracy) {
	o := *other // so that merging an accumulator into itself doubles it
	a.n += o.n
	a.dot.merge(o.dot)
	a.outSq.merge(o.outSq)
	a.refSq.merge(o.refSq)
	a.absDiff.merge(o.absDiff)
	a.absRef.merge(o.absRef)
	a.sqDiff.merge(o.sqDiff)
	if o.maxAbs > a.maxAbs || math.IsNaN(o.maxAbs) {
		a.maxAbs = o.maxAbs
	}
	a.nonFinite.OutNaN += o.nonFinite.OutNaN
	a.nonFinite.OutInf += o.nonFinite.OutInf
	a.nonFinite.RefNaN += o.nonFinite.RefNaN
	a.nonFinite.RefInf += o.nonFinite.RefInf
}

// N returns the number of elements.
func (a *Accuracy) N() int64 { return a.n }

// NonFinite returns how many NaNs and infinities either side held.
func (a *Accuracy) NonFinite() NonFinite { return a.nonFinite }

// CosSim returns Σ(O·O') / (|O|·|O'|), kept within [-1, 1], where rounding
// alone can leave it. Equal inputs give exactly 1. Two zero vectors, and two
// empty ones, count as equal; against a single zero vector there is no angle,
// and the quotient is the NaN that 0/0 is.
func (a *Accuracy) CosSim() float64 {
	dot, oo, rr := a.dot.value(), a.outSq.value(), a.refSq.value()
	if oo == 0 && rr == 0 {
		return 1
	}
	// The root of the product is exact where both are the same sum, which a
	// product of roots is not. The factors are scaled by powers of two, so that
	// it cannot leave float64's range.
	fo, eo := math.Frexp(oo)
	fr, er := math.Frexp(rr)
	e := eo + er
	// The conversion rounds the product: some compilers make f*2 a fused fo*fr + f.
	f := float64(fo * fr)
	if e%2 != 0 {
		f *= 2
		e--
	}
	return min(1, max(-1, math.Ldexp(dot, -e/2)/math.Sqrt(f)))
}

// RelL1 returns Σ|O−O'| / Σ|O|. Against a reference that is all zeros it is 0
// for an output that is all zeros too (or for no elements at all), and +Inf for
// any other.
func (a *Accuracy) RelL1() float64 {
	diff, ref := a.absDiff.value(), a.absRef.value()
	if ref == 0 && diff == 0 {
		return 0
	}
	return diff / ref
}

// RMSE returns sqrt(mean((O−O')²)), and 0 for no elements.
func (a *Accuracy) RMSE() float64 {
	if a.n == 0 {
		return 0
	}
	return math.Sqrt(a.sqDiff.value() / float64(a.n))
}

// MaxAbs returns max|O−O'|, and 0 for no elements.
func (a *Accuracy) MaxAbs() float64 { return a.maxAbs }

// RefRMS returns sqrt(mean(O²)), the size that errors are seen against, and 0 for no
// elements.
func (a *Accuracy) RefRMS() float64 {
	if a.n == 0 {
		return 0
	}
	return math.Sqrt(a.refSq.value() / float64(a.n))
}

// OutRMS returns sqrt(mean(O'²)), and 0 for no elements.
func (a *Accuracy) OutRMS() float64 {
	if a.n == 0 {
		return 0
	}
	return math.Sqrt(a.outSq.value() / float64(a.n))
}

// Values returns the four figures.
func (a *Accuracy) Values() Values {
	return Values{
		CosSim: jsonfloat.Float(a.CosSim()),
		RelL1:  jsonfloat.Float(a.RelL1()),
		RMSE:   jsonfloat.Float(a.RMSE()),
		MaxAbs: jsonfloat.Float(a.MaxAbs()),
	}
}

// sum is a running sum with Neumaier's compensation.
type sum struct{ high, low float64 }

// add adds one term.
func (s *sum) add(x float64) {
	t := s.high + x
	if math.Abs(s.high) >= math.Abs(x) {
		s.low += (s.high - t) + x
	} else {
		s.low += (x - t) + s.high
	}
	s.high = t
}

// merge adds another sum.
func (s *sum) merge(o sum) {
	s.add(o.high)
	s.low += o.low
}

// value returns the sum. Once an infinity or a NaN has gone in, the compensation
// is meaningless, and the plain sum is what IEEE 754 makes of the terms.
func (s *sum) value() float64 {
	if !isFinite(s.high) {
		return s.high
	}
	return s.high + s.low
}

func isFinite(x float64) bool { return x-x == 0 }

func isInf(x float64) bool { return math.IsInf(x, 0) }

func count[F float32 | float64](xs []F, is func(float64) bool) int64 {
	var n int64
	for _, x := range xs {
		if is(float64(x)) {
			n++
		}
	}
	return n
}
