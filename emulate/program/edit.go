package program

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sageacc/sageacc/emulate/quant"
	"github.com/sageacc/sageacc/emulate/tensorcore"
)

// The edits of this file change several choices of a program together, as people name
// them on the command line.

// Accums are the names of accumulators: one chain over all keys in the matrix unit
// (fp32, and fp16 with an FP16 output), each tile from zero and then added to FP32
// registers (fp32+fp32, and fp32+fp16 with the unit's FP16 accumulator), and one chain
// of exact sums, rounded once per instruction (ideal).
func Accums() []string { return slices.Clone(accums) }

var accums = []string{"fp32", "fp32+fp32", "fp32+fp16", "fp16", "ideal"}

// SetBits makes the codes of Q and K 4 or 8 bits wide.
func (p *Program) SetBits(bits int) error {
	if bits != 4 && bits != 8 {
		return fmt.Errorf("codes of %d bits: want 4 or 8", bits)
	}
	if p.Bits() == 0 {
		return fmt.Errorf("kernel %s has no integer codes of Q and K", p.Name)
	}
	p.QKCodes.Format = fmt.Sprintf("int%d", bits)
	// Codes of four bits fit an unit of eight.
	if bits == 8 && strings.HasSuffix(p.Scores.Unit.Instruction, ".s4") {
		p.Scores.Unit.Instruction = "mma.m16n8k32.s32.s8"
	}
	return nil
}

// Bits is the width of the codes of Q and K, 0 where they are no integers.
func (p *Program) Bits() int {
	switch p.QKCodes.Format {
	case "int4":
		return 4
	case "int8":
		return 8
	}
	return 0
}

// SetGranularity sets which elements of Q and K share a scale. In the released kernels
// each granularity has a quantiser of its own, which comes with it.
func (p *Program) SetGranularity(g quant.Granularity) error {
	if p.Bits() == 0 {
		return fmt.Errorf("kernel %s has no integer codes of Q and K", p.Name)
	}
	p.QKCodes.Granularity = g.String()
	if p.QKCodes.Scale == "triton" || p.QKCodes.Scale == "fused" {
		own := p.QKCodes.Round == p.scaleRound()
		if g == quant.PerThread {
			p.QKCodes.Scale, p.Smoothing.KDifference = "triton", "input"
		} else {
			p.QKCodes.Scale, p.Smoothing.KDifference = "fused", "fp32-ftz"
		}
		if own {
			p.QKCodes.Round = p.scaleRound()
		}
	}
	return nil
}

// scaleRound is the rounding that the quantiser of the scale has in the kernels.
func (p *Program) scaleRound() string {
	if p.QKCodes.Scale == "triton" || p.QKCodes.Scale == "triton-block" {
		return "away"
	}
	return "even"
}

// SetSmooth sets what is smoothed: a comma-separated list of q, k and v, or none.
func (p *Program) SetSmooth(list string) error {
	var q, k, v bool
	if list != "none" {
		for part := range strings.SplitSeq(list, ",") {
			switch strings.TrimSpace(part) {
			case "q":
				q = true
			case "k":
				k = true
			case "v":
				v = true
			default:
				return fmt.Errorf("bad smoothing list %q: want a comma-separated list of q, k and v, or none", list)
			}
		}
	}
	s := &p.Smoothing
	if q != (s.Q != "none") {
		s.Q, s.DeltaS = "none", "none"
		if q {
			s.Q, s.DeltaS = "tile-mean", "smoothed"
		}
	}
	if k != (s.K != "none") {
		s.K = "none"
		if k {
			// What is not the paper's is PyTorch's.
			s.K = "framework-mean"
			switch {
			case p.Operands.Packed == "yes":
				s.K = "packed-mean"
			case p.QKCodes.Scale == "paper":
				s.K = "mean"
			case p.QKCodes.Scale == "reciprocal":
				s.K = "anchor"
			}
		}
	}
	if v != (s.V != "none") {
		s.V, p.Finish.Mean = "none", "none"
		switch {
		case !v:
		case p.VCodes.Order == "natural":
			s.V, p.Finish.Mean = "input-mean", "output" // csrc/fused/fused.cu, sub_mean
		case p.QKCodes.Scale == "paper":
			s.V, p.Finish.Mean = "mean", "fma"
		default:
			s.V, p.Finish.Mean = "fused-mean", "fma"
		}
	}
	return nil
}

// Smooth is the inverse of SetSmooth.
func (p *Program) Smooth() string {
	var parts []string
	for _, s := range []struct{ on, name string }{{p.Smoothing.Q, "q"}, {p.Smoothing.K, "k"}, {p.Smoothing.V, "v"}} {
		if s.on != "none" {
			parts = append(parts, s.name)
		}
	}
	if parts == nil {
		return "none"
	}
	return strings.Join(parts, ",")
}

// offsets are what the exponent of P is lowered by so that P fills its format: 8.807 is
// the released kernels' constant, about log2(448); the others put the largest P just
// below their format's largest value in the same way.
var offsets = map[quant.PVType]Number{quant.E4M3: 8.807, quant.E5M2: 15.807, quant.INT8: 6.988, quant.FP16: 0}

// SetPVType sets the data type of P and V, with what belongs to it: V's scale, P's
// offset and the matrix instruction.
func (p *Program) SetPVType(t quant.PVType) error {
	accum := p.Accum()
	if p.TileMaximum() {
		if t.String() == p.VCodes.Format {
			return nil
		}
		return fmt.Errorf("kernel %s multiplies uint8 P with int8 V alone", p.Name)
	}
	if t == quant.INT8 && accum == "fp32+fp16" {
		return fmt.Errorf("the accumulator fp32+fp16 does not exist for int8 P and V: integers accumulate in int32")
	}
	p.VCodes.Format, p.P.Format = t.String(), t.String()
	p.Exponent.Offset = offsets[t]
	if t == quant.FP16 {
		p.VCodes.Scale, p.Finish.Scale = "none", "none"
	} else if p.VCodes.Scale == "none" {
		p.VCodes.Scale, p.Finish.Scale = "fused", "output"
		if p.QKCodes.Scale == "paper" {
			p.VCodes.Scale = "paper"
		}
	}
	return p.SetAccum(accum)
}

// PVType is the data type of P and V in the second product, and whether it is one of
// quant's.
func (p *Program) PVType() (quant.PVType, bool) {
	t, err := quant.ParsePVType(p.VCodes.Format)
	return t, err == nil && p.P.Format == p.VCodes.Format
}

// SetAccum sets how PV is accumulated, one of Accums, with the instruction and V's
// scale that belong to it.
func (p *Program) SetAccum(name string) error {
	if name == "fp16+fp32" {
		name = "fp32+fp16" // as the FP16 kernels say it
	}
	if !slices.Contains(accums, name) {
		return fmt.Errorf("unknown accumulator %q (have %s)", name, strings.Join(accums, ", "))
	}
	if p.TileMaximum() {
		if name == p.Accum() {
			return nil
		}
		return fmt.Errorf("the accumulator %s does not exist for kernel %s: its integers accumulate in int32", name, p.Name)
	}
	if p.PV.Join == "twice-but-last" && name == p.Accum() {
		return nil // which joins as no named accumulator does
	}
	t := p.VCodes.Format
	half := name == "fp32+fp16" || name == "fp16"
	if t == "int8" {
		if half {
			return fmt.Errorf("the accumulator %s does not exist for int8 P and V: integers accumulate in int32", name)
		}
		name = "fp32+fp32" // sums are exact, and every tile's joins O in FP32
	}
	p.PV.Level, p.PV.Join, p.PV.Rescale = AllKeys, "none", "fp32"
	if p.Denominator.Of == "ones" {
		// The FP16 kernels round an FP16 output to FP16 first.
		p.Finish.First = map[bool]string{false: "none", true: "fp16"}[name == "fp16"]
	}
	switch name {
	case "fp32+fp32", "fp32+fp16":
		p.PV.Level, p.PV.Join = WholeTile, "fma"
	case "fp16":
		p.PV.Rescale = "fp16"
	}
	acc, depth := "f32", 32
	if half {
		acc = "f16"
	}
	ptx := t
	switch t {
	case "int8":
		acc, ptx = "s32", "s8"
	case "fp16", "bf16", "input":
		depth = 16
		ptx = map[string]string{"fp16": "f16", "bf16": "bf16", "input": "input"}[t]
	}
	shape := "mma.m16n8k"
	if strings.HasPrefix(p.PV.Unit.Instruction, "wgmma") {
		shape = "wgmma.m64nNk"
	}
	p.PV.Unit.Instruction = fmt.Sprintf("%s%d.%s.%s", shape, depth, acc, ptx)
	if name == "ideal" {
		p.PV.Unit.Instruction += "@" + tensorcore.Ideal
	}
	p.VCodes.Max = p.vMax(half)
	return nil
}

// vMax is what V's channel maximum is scaled to: the format's largest value, or for the
// FP16 accumulator what keeps a tile's sum of 64 products with P at most 64,512. For
// E4M3 that is SageAttention2++'s 2.25; E5M2, whose P is 128 times larger, follows it.
func (p *Program) vMax(half bool) Number {
	t, err := quant.ParsePVType(p.VCodes.Format)
	switch {
	case err != nil || p.VCodes.Plain():
		return 0
	case half && t == quant.E4M3:
		return 2.25
	case half && t == quant.E5M2:
		return 2.25 / 128
	}
	return Number(t.Max())
}

// Accum is the name of the accumulator, one of Accums, or of the level in keys.
func (p *Program) Accum() string {
	i := p.PV.Unit.Instruction
	half := strings.Contains(i, ".f16.")
	switch {
	case strings.HasSuffix(i, "@"+tensorcore.Ideal) && p.OneChain():
		return "ideal"
	case half && p.OneChain():
		return "fp16"
	case half:
		return "fp32+fp16"
	case p.OneChain():
		return "fp32"
	}
	return "fp32+fp32"
}

// SetQuantBackend sets whose quantiser of Q and K a per-block kernel has: triton or cuda.
func (p *Program) SetQuantBackend(name string) error {
	if p.Bits() == 0 || p.QKCodes.Granularity != "per-block" || p.QKCodes.Fold == "none" {
		return fmt.Errorf("kernel %s has one quantiser", p.Name)
	}
	switch name {
	case "triton":
		p.QKCodes.Scale, p.QKCodes.Round, p.Smoothing.KDifference = "triton-block", "away", "input"
	case "cuda":
		p.QKCodes.Scale, p.QKCodes.Round, p.Smoothing.KDifference = "fused", "even", "fp32-ftz"
	default:
		return fmt.Errorf("unknown backend %q (have triton, cuda)", name)
	}
	return nil
}

// SetArch sets the architecture whose units run the kernel.
func (p *Program) SetArch(arch string) error {
	if !slices.Contains(tensorcore.Archs(), arch) {
		return fmt.Errorf("unknown architecture %q (have %s)", arch, strings.Join(tensorcore.Archs(), ", "))
	}
	p.Arch = arch
	return nil
}

// Reduced returns the program without what makes no difference to its arithmetic.
// Programs whose Key is the same then are the same kernel.
func (p Program) Reduced() Program {
	p.Tiles.Shapes = slices.Clone(p.Tiles.Shapes)
	integer := p.Bits() != 0
	if p.Tiles.Split == "1" {
		p.Tiles.Split = "none"
	}
	if p.Tiles.Split == "none" {
		p.Tiles.Combine = ""
	}
	if integer {
		// Exact, whatever the shape of the instruction.
		p.Scores.Unit.Instruction = "integer"
	}
	if p.Smoothing.K == "none" {
		p.Smoothing.KMean, p.Smoothing.KDifference = "input", "input"
		if p.Smoothing.DeltaS == "raw" {
			p.Smoothing.DeltaS = "smoothed"
		}
	}
	if p.Smoothing.Q != "none" {
		p.Scores.TailTiles = All
	}
	if p.Mask.Shift == 0 && p.Mask.Tiles == "shifted" {
		p.Mask.Tiles = "all"
	}
	if len(p.Tiles.Shapes) == 1 && int(p.PV.Level) == p.Tiles.Shapes[0].Keys {
		p.PV.Level = WholeTile
	}
	u := &p.PV.Unit
	name, ideal := strings.CutSuffix(u.Instruction, "@"+tensorcore.Ideal)
	byArch := slices.ContainsFunc(p.Tiles.Shapes, func(s Shape) bool { return s.Arch != "" })
	if integer && (p.VCodes.Format == "int8" || ideal) && !byArch {
		p.Arch, u.Instruction = tensorcore.Ideal, name
	}
	plain := *u
	plain.FractionBits, plain.Step, plain.SumRound = 0, 0, "unit"
	t, err := plain.Lookup(p.Arch)
	if err != nil || t == nil || t.Integer() {
		return p
	}
	if int(u.FractionBits) == t.FractionBits {
		u.FractionBits = 0
	}
	bits := t.FractionBits
	if u.FractionBits != 0 {
		bits = int(u.FractionBits)
	}
	// A sum of up to 33 terms below 4, with so few fraction bits, is an FP32 number.
	if u.SumRound == "fp32-nearest" && bits != tensorcore.Exact && bits <= 16 {
		u.SumRound = "fp32-zero"
	}
	if u.Step != 0 && t.K%int(u.Step) == 0 && slices.EqualFunc(t.Steps, tensorcore.Consecutive(t.K, int(u.Step)), slices.Equal) {
		u.Step = 0
	}
	if u.SumRound != "unit" && sumRounds[u.SumRound] == t.Out {
		u.SumRound = "unit"
	}
	return p
}
