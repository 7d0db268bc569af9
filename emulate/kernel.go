// Package emulate runs attention kernels bit for bit: from Q, K and V of a head to the
// output that the GPU kernel would return, in the kernel's own order of operations.
//
// A kernel is described as data, by a program.Program; [New] makes a [Kernel] of one.
// The interpreter of this package (interpret.go) runs any valid description, stage by
// stage, in pure Go: it is the definition. Where a description is, field by field, what
// a vector path assumes, that path runs instead and gives the same bits (strip.go); of
// most others each step of a tile is on vectors where there is AVX2, AVX-512 or NEON (lanes.go).
//
// [Attention] emulates a head in one call. Kernel, KV, Query and Workspace are its
// parts, for heads that do not fit in memory and for many goroutines.
//
// Names that the code uses throughout: m is a row's running maximum, d its
// denominator, p the weights before normalisation, o the output accumulator, s a
// score, alpha the factor by which d and o are rescaled when m grows.
//
// Package emulate knows nothing of files; see layerdumps for those.
package emulate

import (
	"fmt"
	"math"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/internal/exact"
	"github.com/sageacc/sageacc/emulate/internal/vec"
	"github.com/sageacc/sageacc/emulate/mufu"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/emulate/quant"
	"github.com/sageacc/sageacc/emulate/tensorcore"
)

// MaxHeadDim is the largest head dimension that any kernel may have. Smaller ones than
// the kernel's are zero-padded by callers; a zero channel changes no score and no other
// channel, so the emulator leaves the padding out.
const MaxHeadDim = program.MaxHeadDim

// Rows reads tokens [lo, hi) of one head into dst, row-major, as exact FP32.
type Rows func(lo, hi int, dst []float32)

// Kernel is a program ready to run. It is immutable and safe for concurrent use.
type Kernel struct {
	// given is the description as New took it, prog what is run: the same with the choices
	// made that depend on the case.
	given, prog program.Program
	bound       bool
	level       Level // of the machine, or the portable one
	portable    string
	plan
}

// plan holds a program's choices in the form that the loops take.
type plan struct {
	tiling      quant.Tiling
	granularity quant.Granularity
	integer     bool // codes of Q and K are integers
	bits        int
	qkStyle     quant.Style
	qkRound     quant.CodeRounding
	difference  quant.Style // how K less its mean is rounded
	smoothQ     bool
	smoothK     bool
	rotate      quant.Rotation

	p, v    operand
	uint8P  bool // P's codes are unsigned
	vStyle  quant.Style
	vSmooth bool
	natural bool // order of keys in the operands

	scoreUnit *tensorcore.Unit // nil for integers and for exact scores
	pvUnit    *tensorcore.Unit // nil for integers and for exact sums
	onesUnit  *tensorcore.Unit
	intPV     bool
	vecUnit   vec.Unit  // of the vector kernels, if they have one
	lanes     *lanePlan // of the interpreter's steps on vectors, nil where they do not take it
	sumKeys   int       // keys of a sum from zero
	offset    float32
	pScale    float32 // of P before its conversion, 0 for none
	start     float32
	masked    float32
	ofTile    bool // P is relative to its tile's maximum
	arith     arith
	ex2       func(float32) float32
}

// Level is a set of vector instructions. No result depends on it. The portable level is
// pure Go and defines the results.
type Level struct {
	l    vec.Level
	rows quant.Level      // the same, of the quantisers
	unit tensorcore.Level // of the units
	fp64 exact.Level      // and of exact arithmetic
}

// String names the level.
func (l Level) String() string { return l.l.String() }

// Levels returns the levels that this machine can run, the fastest last. The first is
// always the portable one.
func Levels() []Level {
	var out []Level
	rows := quant.Levels()
	for i, l := range vec.Levels() {
		out = append(out, Level{l, rows[i], named(l, tensorcore.Levels()), named(l, exact.Levels())})
	}
	return out
}

// named is the level of the same name, the first where there are no kernels for it.
func named[L fmt.Stringer](l vec.Level, of []L) L {
	for _, x := range of {
		if x.String() == l.String() {
			return x
		}
	}
	return of[0]
}

// New makes a kernel of a description. It uses the fastest level there is.
func New(p program.Program) (*Kernel, error) {
	levels := Levels()
	return NewAt(p, levels[len(levels)-1])
}

// NewAt is New with a choice of level, one of Levels, for tests and measurements.
func NewAt(p program.Program, level Level) (*Kernel, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	k := &Kernel{given: p, prog: p, level: level}
	// A program whose choices depend on nothing is ready.
	q, err := p.At(program.Case{HeadDim: 1, DType: p.DTypeList()[0]})
	if err == nil && q.Key() == p.Key() {
		return k, k.compile()
	}
	if n := k.some(); n != nil {
		k.portable = n.portable
	}
	return k, nil
}

// some is a kernel that is not bound for some case, nil if there is none. What depends on the case
// is not what keeps a kernel from the vector paths: any will do.
func (k *Kernel) some() *Kernel {
	p := &k.given
	q, err := p.At(program.Case{HeadDim: min(p.Operands.MaxHeadDim, 64), DType: p.DTypeList()[0]})
	if err != nil {
		return nil
	}
	n := &Kernel{given: k.given, prog: q, level: k.level}
	if n.compile() != nil {
		return nil
	}
	return n
}

// dtypeNames are the names that descriptions have for dtypes.
var dtypeNames = map[format.DType]string{format.FP16: "fp16", format.BF16: "bf16", format.FP32: "fp32", format.FP8: "e4m3", format.FP8Wide: "e5m2"}

// For returns the kernel for a head dimension, dtype and mask: the tile shape and the
// units may depend on them. The error says what the kernel does not take.
func (k *Kernel) For(dim int, dtype format.DType, causal bool) (*Kernel, error) {
	return k.ForCase(dtype, program.Case{HeadDim: dim, Causal: causal})
}

// ForCase is For where more may count: a window, and the shape of the whole call. It sets
// the case's DType.
func (k *Kernel) ForCase(dtype format.DType, c program.Case) (*Kernel, error) {
	c.DType = dtypeNames[dtype]
	q, err := k.given.At(c)
	if err != nil {
		return nil, err
	}
	if k.bound && q.Key() == k.prog.Key() {
		return k, nil
	}
	n := &Kernel{given: k.given, prog: q, level: k.level}
	return n, n.compile()
}

// ForRows returns the kernel, which must be bound (For), for [Kernel.RunRows] alone. What it
// prepares is not laid out for whole blocks, so that more kernels share it
// ([Kernel.Preparation]), and single rows are on vectors where their steps are.
func (k *Kernel) ForRows() *Kernel {
	n := *k
	n.portable = "single rows"
	n.lanes = n.planLanes()
	return &n
}

// Program returns the description that the kernel was made of.
func (k *Kernel) Program() program.Program { return k.given }

// Bound returns the description that runs: with the choices made that depend on the
// case.
func (k *Kernel) Bound() program.Program { return k.prog }

// Portable says why the kernel runs in portable Go where it does: the choice of its
// description that no vector path has. It is "" where a vector path takes it.
func (k *Kernel) Portable() string { return k.portable }

// Scalar says why a kernel that is Portable does not have the steps of its tiles on vectors either,
// on any machine: the choice of its description that they lack. It is "" where they have all.
func (k *Kernel) Scalar() string {
	if k.portable != "" && !k.bound {
		k = k.some()
	}
	if k == nil || k.portable == "" {
		return ""
	}
	return k.whyScalar()
}

// VectorProducts reports whether a kernel that is Portable has its two matrix products, which
// are nearly all of its work, on vectors at its level: the units of both and ordinary
// numbers given.
func (k *Kernel) VectorProducts() bool {
	scores := k.vectorScores() || k.scoreUnit != nil && k.scoreUnit.HasVector(k.level.unit)
	return scores && k.pvUnit != nil && !k.p.exact && !k.v.exact && k.pvUnit.HasVector(k.level.unit)
}

// VectorSteps reports whether a kernel that is Portable has the steps of a tile on vectors at its
// level, ordinary numbers given. The kernel must be bound (For).
func (k *Kernel) VectorSteps() bool { return k.lanes != nil }

// Tiling returns the kernel's tile shape. The kernel must be bound (For).
func (k *Kernel) Tiling() quant.Tiling { return k.tiling }

// Granularity returns which elements of Q and K share a scale.
func (k *Kernel) Granularity() quant.Granularity { return k.granularity }

// DecodeV returns the value of a code of V, as ValueCodes returns them.
func (k *Kernel) DecodeV(code uint16) float32 { return k.v.decode(code) }

// OutputDType returns the dtype of the output for inputs of a dtype.
func (k *Kernel) OutputDType(in format.DType) format.DType {
	switch k.prog.Operands.Output {
	case "fp16":
		return format.FP16
	case "bf16":
		return format.BF16
	case "fp32":
		return format.FP32
	}
	return in
}

var (
	qkStyles   = map[string]quant.Style{"paper": quant.Paper, "triton": quant.Triton, "triton-block": quant.TritonBlock, "fused": quant.Fused, "reciprocal": quant.Reciprocal}
	qkRounds   = map[string]quant.CodeRounding{"even": quant.NearestEven, "away": quant.NearestAway, "zero": quant.TowardZero}
	difference = map[string]quant.Style{"input": quant.Triton, "fp32": quant.Paper, "fp32-ftz": quant.Fused}
)

// compile makes the plan.
func (k *Kernel) compile() error {
	p := &k.prog
	var err error
	k.bound = true
	k.tiling = p.Tiling()
	k.bits = p.Bits()
	k.integer = k.bits != 0
	k.granularity = quant.PerTensor
	if g := p.QKCodes.Granularity; g != "none" {
		if k.granularity, err = quant.ParseGranularity(g); err != nil {
			return err
		}
	}
	k.qkStyle, k.qkRound, k.difference = qkStyles[p.QKCodes.Scale], qkRounds[p.QKCodes.Round], difference[p.Smoothing.KDifference]
	k.smoothQ, k.smoothK = p.Smoothing.Q != "none", p.Smoothing.K != "none"
	if k.rotate, err = quant.ParseRotation(p.QKCodes.Rotate); err != nil {
		return err
	}

	k.p, k.v = newOperand(p.P.Format), newOperand(p.VCodes.Format)
	k.vStyle, k.vSmooth = quant.Paper, p.Smoothing.V != "none"
	if p.VCodes.Scale == "fused" || p.Smoothing.V == "fused-mean" {
		k.vStyle = quant.Fused
	}
	if p.VCodes.Scale == "reciprocal" {
		k.vStyle = quant.Reciprocal
	}
	k.uint8P, k.ofTile = p.P.Format == "uint8", p.TileMaximum()
	k.natural = p.VCodes.Order == "natural"

	if !k.integer && p.QKCodes.Format != "exact" {
		if k.scoreUnit, err = p.Scores.Unit.Lookup(p.Arch); err != nil {
			return err
		}
	}
	if k.pvUnit, err = p.PV.Unit.Lookup(p.Arch); err != nil {
		return err
	}
	if k.pvUnit != nil && k.pvUnit.Integer() {
		k.pvUnit, k.intPV = nil, true
	}
	if name := p.Denominator.Unit; name != "none" {
		if k.onesUnit, err = (program.Unit{Instruction: name, SumRound: "unit"}).Lookup(p.Arch); err != nil {
			return err
		}
	}
	k.sumKeys = k.tiling.BlockK
	if p.PV.Level > 0 {
		k.sumKeys = int(p.PV.Level)
	}
	k.offset, k.start, k.masked = float32(p.Exponent.Offset), float32(p.Maximum.Start), float32(p.Mask.Value)
	k.pScale = float32(p.P.Scale)
	k.arith = arith{p.Operands.Subnormals == "keep"}
	switch p.Exponent.Exp2 {
	case "exact":
		k.ex2 = exactExp2
	case "ex2.approx":
		k.ex2 = ex2Approx
	default:
		k.ex2 = mufu.Ex2
	}
	k.vecUnit, _ = k.vectorUnit()
	k.portable = k.whyPortable()
	k.lanes = k.planLanes()
	return nil
}

// operand is the format of P or V in the second product.
type operand struct {
	kind  quant.PVType
	typed bool         // it is one of quant's
	dtype format.DType // otherwise, unless it is exact or bytes
	exact bool
	bytes bool // unsigned, 0 to 255
}

func newOperand(name string) operand {
	if t, err := quant.ParsePVType(name); err == nil {
		return operand{kind: t, typed: true}
	}
	return operand{dtype: map[string]format.DType{"bf16": format.BF16, "fp32": format.FP32}[name], exact: name == "exact", bytes: name == "uint8"}
}

// encode returns the code of x, decode its inverse.
func (o operand) encode(x float32, zero bool) uint16 {
	switch {
	case o.bytes:
		return uint16(format.Uint8FromFloat32(x, zero))
	case o.typed && zero:
		return o.kind.EncodeTowardZero(x)
	case o.typed:
		return o.kind.Encode(x)
	case zero:
		return uint16(o.dtype.Bits(o.dtype.RoundTowardZero(x)))
	}
	return uint16(o.dtype.Bits(x))
}

func (o operand) decode(c uint16) float32 {
	if o.bytes {
		return float32(c)
	}
	if o.typed {
		return o.kind.Decode(c)
	}
	return o.dtype.FromBits(uint32(c))
}

// ex2Approx is ex2.approx.f32: below -126 the square of that of half the argument.
func ex2Approx(x float32) float32 {
	if x < -126 {
		r := mufu.Ex2(x * 0.5)
		return r * r
	}
	return mufu.Ex2(x)
}

// arith is FP32 arithmetic, which flushes subnormals unless it keeps them.
type arith struct{ keep bool }

func (a arith) mul(x, y float32) float32 {
	if a.keep {
		return float32(x * y)
	}
	return format.MulFtz(x, y)
}

func (a arith) add(x, y float32) float32 {
	if a.keep {
		return x + y
	}
	return format.AddFtz(x, y)
}

func (a arith) sub(x, y float32) float32 {
	if a.keep {
		return x - y
	}
	return format.SubFtz(x, y)
}

func (a arith) fma(x, y, z float32) float32 {
	if a.keep {
		return format.FMA(x, y, z)
	}
	return format.FMAFtz(x, y, z)
}

// mulAdd is x*y + z, fused, or in two roundings.
func (a arith) mulAdd(x, y, z float32, twice bool) float32 {
	if twice {
		return a.add(a.mul(x, y), z)
	}
	return a.fma(x, y, z)
}

// flush is what an operation makes of a result.
func (a arith) flush(x float32) float32 {
	if a.keep {
		return x
	}
	return format.FlushSubnormal(x)
}

// scale returns the softmax scale that multiplies scores in the exponent, for a call's
// sm_scale.
func (k *Kernel) scale(sm float64) float32 {
	const log2e = 1.44269504088896340736
	switch k.prog.Scores.SMScale {
	case "exponent", "with-scale":
		return k.product(sm, log2e)
	}
	return 1
}

// product is sm_scale * log2 e, rounded as the program says.
func (k *Kernel) product(sm, log2e float64) float32 {
	switch k.prog.Scores.Product {
	case "fp64":
		return float32(float64(float32(sm)) * math.Log2E)
	case "fp64-1.44269504":
		return float32(sm * 1.44269504)
	case "fp64-descale":
		return k.descaledProduct(sm, 1)
	}
	return k.arith.mul(float32(sm), float32(log2e))
}

// descaledProduct is the product of sm_scale and log2 e with that of the scales of Q and K,
// of scores.product fp64-descale.
func (k *Kernel) descaledProduct(sm float64, descales float32) float32 {
	const log2e = float32(math.Log2E)
	return k.arith.flush(float32(float64(float64(sm*float64(descales)) * float64(log2e))))
}

// smScale returns a call's softmax scale, 1/sqrt(dim) for 0.
func smScale(scale float64, dim int) float64 {
	if scale == 0 {
		return 1 / math.Sqrt(float64(dim))
	}
	return scale
}

var errUnbound = fmt.Errorf("the kernel's tiles depend on head_dim, dtype or mask: Kernel.For chooses them")
