package metrics

import (
	"encoding/json"
	"fmt"
	"math"

	"github.com/sageacc/sageacc/internal/exactsum"
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
// rounded once. Up to 256 terms of an Add are summed plainly, in order; these partial
// sums are added up exactly, and what comes of it is rounded once. With u = 2⁻⁵³, each
// sum is therefore within about 257·u = 2.9e-14 of exact, relative to the sum of its
// absolute terms, for any number of elements. Plain summation would only bound it by
// n·u, 1e-7 for 1e9 elements. All sums but Σ(O·O') have terms of one sign, so RelL1 and
// RMSE carry that as their relative error, and CosSim carries it as its absolute error.
//
// # Order
//
// A result depends on what the calls of Add were given, each by itself. It depends on
// neither their order nor on how they were spread over accumulators that are merged
// then. Where the same elements are cut into calls differently, results agree to within
// the error above, and are the same where the cuts are at multiples of 256 elements.
//
// # Special values
//
// Sums follow IEEE 754, so that a NaN in either input makes every figure NaN,
// and an infinity in the output alone makes the differences +Inf and CosSim
// NaN. [Accuracy.NonFinite] tells how many there were.
type Accuracy struct {
	n         int64
	dot       exactsum.Sum // Σ O·O'
	outSq     exactsum.Sum // Σ O'²
	refSq     exactsum.Sum // Σ O²
	absDiff   exactsum.Sum // Σ |O−O'|
	absRef    exactsum.Sum // Σ |O|
	sqDiff    exactsum.Sum // Σ (O−O')²
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
	a.dot.Add(dot)
	a.outSq.Add(outSq)
	a.refSq.Add(refSq)
	a.absDiff.Add(absDiff)
	a.absRef.Add(absRef)
	a.sqDiff.Add(sqDiff)
	a.maxAbs = maxAbs
	if !isFinite(outSq) || !isFinite(absRef) {
		a.nonFinite.OutNaN += count(out, math.IsNaN)
		a.nonFinite.OutInf += count(out, isInf)
		a.nonFinite.RefNaN += count(ref, math.IsNaN)
		a.nonFinite.RefInf += count(ref, isInf)
	}
}

// Merge adds what other has accumulated, as if it had been added here. It leaves
// other alone.
func (a *Accuracy) Merge(other *Accuracy) {
	o := *other // so that merging an accumulator into itself doubles it
	a.n += o.n
	a.dot.Merge(&o.dot)
	a.outSq.Merge(&o.outSq)
	a.refSq.Merge(&o.refSq)
	a.absDiff.Merge(&o.absDiff)
	a.absRef.Merge(&o.absRef)
	a.sqDiff.Merge(&o.sqDiff)
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
	dot, oo, rr := a.dot.Value(), a.outSq.Value(), a.refSq.Value()
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
	diff, ref := a.absDiff.Value(), a.absRef.Value()
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
	return math.Sqrt(a.sqDiff.Value() / float64(a.n))
}

// MaxAbs returns max|O−O'|, and 0 for no elements.
func (a *Accuracy) MaxAbs() float64 { return a.maxAbs }

// RefRMS returns sqrt(mean(O²)), the size that errors are seen against, and 0 for no
// elements.
func (a *Accuracy) RefRMS() float64 {
	if a.n == 0 {
		return 0
	}
	return math.Sqrt(a.refSq.Value() / float64(a.n))
}

// OutRMS returns sqrt(mean(O'²)), and 0 for no elements.
func (a *Accuracy) OutRMS() float64 {
	if a.n == 0 {
		return 0
	}
	return math.Sqrt(a.outSq.Value() / float64(a.n))
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

// Totals are the sums that figures are made of.
type Totals struct{ Dot, OutSq, RefSq, AbsDiff, AbsRef, SqDiff float64 }

// Totals returns the sums, each rounded once.
func (a *Accuracy) Totals() Totals {
	return Totals{a.dot.Value(), a.outSq.Value(), a.refSq.Value(), a.absDiff.Value(), a.absRef.Value(), a.sqDiff.Value()}
}

// accuracyState is an Accuracy in JSON.
type accuracyState struct {
	N         int64           `json:"n"`
	Dot       *exactsum.Sum   `json:"dot"`
	OutSq     *exactsum.Sum   `json:"out_sq"`
	RefSq     *exactsum.Sum   `json:"ref_sq"`
	AbsDiff   *exactsum.Sum   `json:"abs_diff"`
	AbsRef    *exactsum.Sum   `json:"abs_ref"`
	SqDiff    *exactsum.Sum   `json:"sq_diff"`
	MaxAbs    jsonfloat.Float `json:"max_abs"`
	NonFinite *NonFinite      `json:"non_finite,omitempty"`
}

// state is what JSON holds of a.
func (a *Accuracy) state() accuracyState {
	return accuracyState{N: a.n, Dot: &a.dot, OutSq: &a.outSq, RefSq: &a.refSq, AbsDiff: &a.absDiff, AbsRef: &a.absRef, SqDiff: &a.sqDiff}
}

// MarshalJSON implements [json.Marshaler]. It loses nothing: what is read back goes on
// as the original would. Equal accumulators have the same JSON.
func (a *Accuracy) MarshalJSON() ([]byte, error) {
	s := a.state()
	s.MaxAbs = jsonfloat.Float(a.maxAbs)
	if a.nonFinite.Any() {
		s.NonFinite = &a.nonFinite
	}
	return json.Marshal(s)
}

// UnmarshalJSON implements [json.Unmarshaler].
func (a *Accuracy) UnmarshalJSON(data []byte) error {
	var read Accuracy
	s := read.state()
	s.NonFinite = &read.nonFinite
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("figures: %w", err)
	}
	for _, sum := range []*exactsum.Sum{s.Dot, s.OutSq, s.RefSq, s.AbsDiff, s.AbsRef, s.SqDiff} {
		if sum == nil {
			return fmt.Errorf("figures: a sum is null")
		}
	}
	read.n, read.maxAbs = s.N, float64(s.MaxAbs)
	*a = read
	return nil
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
