package reference

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/sageacc/sageacc/reference/internal/simd"
)

// The fastest loops that this machine has. Their results are those of the portable ones.
var (
	single = simd.Single()[0]
	double = simd.Double()[0]
)

// MaxHeadDim is the largest head dimension that [Attention] accepts.
const MaxHeadDim = 256

// Block sizes used where [Params] leaves them zero. A tile of scores of this
// size is 48 KiB in float32, which with the matching blocks of Kᵀ and V stays
// in a 1 MiB second-level cache; larger key blocks measured no faster.
const (
	DefaultRowBlock = 64
	DefaultKeyBlock = 192
)

// ErrShape is wrapped by every error of [Attention] that reports arguments
// whose sizes contradict each other.
var ErrShape = errors.New("reference: bad shape")

// Precision names the arithmetic of the reference.
type Precision uint8

const (
	// FP32 rounds every operation to float32. The exponential is within 0.9 units in the
	// last place, and 0 below -87; the logarithm is computed in float64 and rounded once.
	FP32 Precision = iota
	// FP64 converts the inputs, exactly, to float64 and rounds every operation
	// to float64. The exponential and the logarithm are within 0.9 units in the
	// last place; the exponential is 0 below -708.
	FP64
)

// String returns "fp32" or "fp64", the names of the --reference flag.
func (p Precision) String() string {
	switch p {
	case FP32:
		return "fp32"
	case FP64:
		return "fp64"
	}
	return fmt.Sprintf("Precision(%d)", uint8(p))
}

// ParsePrecision returns the precision that [Precision.String] names s.
func ParsePrecision(s string) (Precision, error) {
	switch s {
	case "fp32":
		return FP32, nil
	case "fp64":
		return FP64, nil
	}
	return 0, fmt.Errorf("unknown precision %q (have fp32, fp64)", s)
}

// Params fixes what [Attention] computes. The zero value is unmasked float32
// attention with the usual scale.
type Params struct {
	// Precision is the arithmetic.
	Precision Precision
	// Causal hides key j from row i unless j <= i + Align. Both count from zero; with
	// an Align of 0 the mask is aligned to the top left, as is_causal is in torch and in
	// the SageAttention kernels, also where rows and keys differ in number. Keys less rows
	// align it to the bottom right. A row that sees no key is zero, and the logarithm of
	// its sum is -Inf.
	Causal bool
	Align  int
	// Windowed hides key j from row i unless i+Align-Left <= j <= i+Align+Right; a negative
	// Left or Right is no bound.
	Windowed    bool
	Left, Right int
	// Visible, if not nil, writes whether a row sees the keys [lo, hi). Bias, if not nil,
	// writes what is added to a row's scaled scores with these keys, after the soft cap, in
	// the precision; -Inf hides a key. Rows count as those of the call's range do. A row that
	// sees no key is zero.
	Visible func(row, lo, hi int, dst []bool)
	Bias    func(row, lo, hi int, dst []float32)
	// Softcap, if not zero, is c of c·tanh(s/c), which takes the place of a scaled score s:
	// a division, a hyperbolic tangent within 2 ulp in float64, and a multiplication, each
	// rounded to the precision.
	Softcap float64
	// Scale multiplies the scores. It is rounded to the precision. Zero stands
	// for 1/sqrt(head_dim).
	Scale float64
	// RowBlock is the number of rows worked on at a time, zero stands for
	// DefaultRowBlock. It changes speed and memory, never a result.
	RowBlock int
	// KeyBlock is the number of keys between two rescalings of the online
	// softmax, zero stands for DefaultKeyBlock. It takes part in the rounding:
	// results of different KeyBlock agree only to within the error bound.
	KeyBlock int
}

// Workspace holds the scratch memory of [Attention]. The zero value is ready.
// It grows to what the largest call needs and is then reused without
// allocating. A workspace serves one call at a time.
type Workspace struct {
	f32 scratch[float32]
	f64 scratch[float64]
}

// Rows reads the rows [lo, hi) of a matrix into dst, row-major. It must return
// the same values every time.
type Rows func(lo, hi int, dst []float32)

// Attention computes the rows [lo, hi) of softmax(scale·Q·Kᵀ + mask)·V of one
// head.
//
// q is [hi-lo, d], only those rows; k and v are [nk, d]; out is [hi-lo, d];
// all are row-major without gaps. lse is nil or [hi-lo], and receives the
// natural logarithm of the sum of the exponentials of each row's scaled, visible
// scores. In FP32 mode out and lse hold float32 values, widened. ws may be nil,
// then the scratch memory is allocated for this call.
//
// Rounding, in the unit roundoff u of the precision (2^-24, 2^-53): a score is a chain of d
// fused multiply-adds in order of the channel, followed by one multiplication by the scale; the
// weights are exp(score - maximum). Within a block, weighted values are a chain of
// fused multiply-adds in order of the key, and weights are summed as the package says. A block's
// sums are joined to the running ones by one multiply-add, running·exp(old maximum - new
// maximum) + block, where an exponential of 0 is exactly 1. Last is the division.
//
// So a score differs from the exact one by at most (d+1)·u·|scale|·Σ|q·k|, and, to first
// order, each term of a row's two sums over n keys by a factor within 1 ± (KeyBlock +
// 3·⌈n/KeyBlock⌉ + 2 + m - s)·u of the exponential of its score s less the row's maximum m.
// Weights below e^-87 (FP64: e^-708) of the maximum's are 0. With the default blocks that is
// an error of a relative 2e-5 at most for n = 10,000 and scores near the maximum; what is
// measured is 2e-7 to 7e-7, for roundings cancel.
//
// Non-finite inputs follow IEEE 754: a NaN in a row of Q, in a visible row of K,
// or in a visible row of V makes the outputs that depend on it NaN, also where
// the weight underflowed to zero; a score of +Inf makes its row NaN, as does a
// row of visible scores that are all -Inf (its lse is -Inf). Keys hidden by a mask take
// no part at all.
//
// Attention runs in the calling goroutine and starts no other: callers spread
// heads or row ranges over goroutines, with a workspace each. It looks at ctx
// once per key block, and returns ctx.Err with out undefined when it is done.
// An error wraps [ErrShape] when sizes contradict each other.
func Attention(ctx context.Context, p Params, q, k, v []float32, lo, hi, nk, d int, ws *Workspace, out, lse []float64) error {
	if err := check(p, q, len(k), len(v), lo, hi, nk, d, out, lse); err != nil {
		return err
	}
	if ws == nil {
		ws = new(Workspace)
	}
	return run(ctx, &task{Params: p, q: q, k: k, v: v, lo: lo, rows: hi - lo, nk: nk, d: d}, ws, out, lse)
}

// AttentionRows is [Attention] with K and V read one block of keys at a time, so
// that neither need be in memory. The results are the same.
func AttentionRows(ctx context.Context, p Params, q []float32, k, v Rows, lo, hi, nk, d int, ws *Workspace, out, lse []float64) error {
	if err := check(p, q, nk*d, nk*d, lo, hi, nk, d, out, lse); err != nil {
		return err
	}
	if ws == nil {
		ws = new(Workspace)
	}
	return run(ctx, &task{Params: p, q: q, readK: k, readV: v, lo: lo, rows: hi - lo, nk: nk, d: d}, ws, out, lse)
}

// run fills in the defaults and picks the arithmetic.
func run(ctx context.Context, t *task, ws *Workspace, out, lse []float64) error {
	if t.Scale == 0 {
		t.Scale = 1 / math.Sqrt(float64(t.d))
	}
	if t.RowBlock == 0 {
		t.RowBlock = DefaultRowBlock
	}
	if t.KeyBlock == 0 {
		t.KeyBlock = DefaultKeyBlock
	}
	if t.Precision == FP64 {
		return attend(ctx, t, &ws.f64, double, out, lse)
	}
	return attend(ctx, t, &ws.f32, single, out, lse)
}

// check reports the first precondition of [Attention] that its arguments break;
// k and v are the sizes of K and V.
func check(p Params, q []float32, k, v, lo, hi, nk, d int, out, lse []float64) error {
	if p.Precision > FP64 {
		return fmt.Errorf("reference: unknown precision %d", uint8(p.Precision))
	}
	if math.IsNaN(p.Scale) || math.IsInf(p.Scale, 0) {
		return fmt.Errorf("reference: scale %v is not finite", p.Scale)
	}
	if !(p.Softcap >= 0) || math.IsInf(p.Softcap, 0) {
		return fmt.Errorf("reference: soft cap %v is not a finite number of at least 0", p.Softcap)
	}
	if p.RowBlock < 0 || p.KeyBlock < 0 {
		return fmt.Errorf("%w: negative block size, row block %d, key block %d", ErrShape, p.RowBlock, p.KeyBlock)
	}
	if d < 1 || d > MaxHeadDim {
		return fmt.Errorf("%w: head dimension %d is not in 1..%d", ErrShape, d, MaxHeadDim)
	}
	if lo < 0 || hi < lo {
		return fmt.Errorf("%w: row range [%d, %d)", ErrShape, lo, hi)
	}
	if nk < 1 {
		return fmt.Errorf("%w: %d keys, need at least one", ErrShape, nk)
	}
	rows := hi - lo
	for _, s := range []struct {
		name      string
		got, n, w int
	}{
		{"q", len(q), rows, d},
		{"k", k, nk, d},
		{"v", v, nk, d},
		{"out", len(out), rows, d},
	} {
		// Dividing avoids the overflow of n*w for absurd counts.
		if s.got%s.w != 0 || s.got/s.w != s.n {
			return fmt.Errorf("%w: %s has %d elements, want %d x %d", ErrShape, s.name, s.got, s.n, s.w)
		}
	}
	if lse != nil && len(lse) != rows {
		return fmt.Errorf("%w: lse has %d elements, want %d", ErrShape, len(lse), rows)
	}
	return nil
}
