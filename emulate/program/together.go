package program

import (
	"reflect"
	"slices"

	"github.com/sageacc/sageacc/emulate/tensorcore"
)

// validateTogether reports choices each of which is possible, and which say nothing
// together, or say what the interpreter cannot do.
func (p *Program) validateTogether(bad report) {
	p.walk(func(at string, f *field, v reflect.Value) {
		if f.kind == reflect.Float32 && v.Float() != v.Float() {
			bad(join(at, f.path), "not a number")
		}
	})
	s, qk, v, f := &p.Smoothing, &p.QKCodes, &p.VCodes, &p.Finish
	switch {
	case s.V == "input-mean" && !v.Plain():
		bad("smoothing.v", "input-mean: a scaled V is smoothed in FP32, with mean or fused-mean")
	case s.V == "fused-mean" && v.Plain() && v.Format != "fp16":
		bad("smoothing.v", "fused-mean: V of the format %s is smoothed with mean or input-mean", v.Format)
	case s.V == "fused-mean" && v.Scale == "paper", s.V == "mean" && v.Scale == "fused":
		bad("smoothing.v", "%s: one quantiser finds mean and scale, and v_codes.scale is %s", s.V, v.Scale)
	}
	if f.Inverse == "divide" || f.Inverse == "div.full" {
		if f.Scale == "inverse" {
			bad("finish.scale", "inverse: with finish.inverse %s there is none", f.Inverse)
		}
		if f.Empty == "zero" {
			bad("finish.empty", "zero: with finish.inverse %s there is no inverse that could be zero", f.Inverse)
		}
	}
	if p.PV.Join == "memory" && p.Mask.Hidden == "skip" {
		bad("mask.hidden", "skip: with pv.join memory the last tile divides, and must be run")
	}
	if m := &p.Mask; s.DeltaS != "none" && (m.Additive == "with-scale" || m.Boolean == "add") {
		bad("mask", "what is added with the scale has no place beside smoothing.delta_s %s", s.DeltaS)
	}
	if s.K == "packed-mean" && p.Operands.Packed != "yes" {
		bad("smoothing.k", "packed-mean: the kernel takes no packed sequences (operands.packed)")
	}
	if m := &p.Mask; m.Boolean == "additive" && m.Additive == "none" {
		bad("mask.boolean", "additive: the kernel takes no additive mask")
	}
	if d := p.Operands.Descale; (d == "none") == (qk.Scale == "descale" || v.Scale == "descale") {
		bad("operands.descale", "%s: the scales are %s and %s (qk_codes.scale, v_codes.scale)", d, qk.Scale, v.Scale)
	}
	if p.Scores.Product == "fp64-descale" && (qk.Scale != "descale" || p.Scores.SMScale != "exponent") {
		bad("scores.product", "fp64-descale: wants qk_codes.scale descale and scores.sm_scale exponent, not %s and %s", qk.Scale, p.Scores.SMScale)
	}
	if m := &p.Mask; m.Tiles == "tail" {
		if m.Window != "no" {
			bad("mask.window", "%s: a window acts in all tiles, and mask.tiles is tail", m.Window)
		}
		if m.Boolean != "none" {
			bad("mask.boolean", "%s: a boolean mask acts in all tiles, and mask.tiles is tail", m.Boolean)
		}
		if p.Scores.TailTiles == 0 && s.Q == "none" {
			bad("scores.tail_tiles", "0: with mask.tiles tail nothing would be masked")
		}
	}
}

// validateOperands checks the operands of PV for a dtype: q is the program at one.
func (p *Program) validateOperands(q *Program, bad report) {
	for _, x := range []struct{ path, format string }{{"p.format", q.P.Format}, {"v_codes.format", q.VCodes.Format}} {
		if x.format == "fp32" {
			bad(x.path, "input: no operand is FP32; want exact")
		}
	}
	u, err := q.PV.Unit.Lookup(p.Arch)
	if err != nil || u == nil {
		return // exact arithmetic, or reported elsewhere
	}
	if q.P.Format != "exact" && !slices.Contains(operands[q.P.Format], u.A) {
		bad("pv.unit.instruction", "%s takes %s operands, and P is %s", u.Instruction, u.A, q.P.Format)
	}
	p.validateDepth("pv.unit.instruction", u, bad)
	if name := p.Denominator.Unit; name != "none" {
		if u, err = (Unit{Instruction: name, SumRound: "unit"}).Lookup(p.Arch); err == nil && u != nil {
			p.validateDepth("denominator.unit", u, bad)
		}
	}
}

// validateDepth checks that an instruction takes the keys of a tile whole.
func (p *Program) validateDepth(path string, u *tensorcore.Unit, bad report) {
	for _, s := range p.Tiles.Shapes {
		if s.Keys%u.K != 0 {
			bad(path, "%s takes %d keys at a time, which does not divide the tile of %d", u.Instruction, u.K, s.Keys)
		}
	}
}
