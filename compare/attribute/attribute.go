// Package attribute finds out how much of a kernel's error each of its steps
// causes: each step alone, with all others computed without error, and each step
// left out of the whole. A step is left out by an edit of the kernel's description,
// which puts exact arithmetic in its place; the emulator runs what comes out, so that
// every kernel that it runs can be attributed, deviations included.
package attribute

import (
	"context"
	"strings"

	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/internal/jsonfloat"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/reference"
)

// Steps is a set of steps of a kernel.
type Steps uint8

// The steps that cause errors.
const (
	// QK is what happens to Q and K before and in the first product. Without it scores are
	// exact products of Q and the smoothed K, rounded to FP32.
	QK Steps = 1 << iota
	// P is the quantisation of P~.
	P
	// V is the quantisation of V, its smoothing included.
	V
	// Accumulator is the rounding of sums in P~V and O; without it they are FP64.
	Accumulator
	// Exp2 is the error of the special functions ex2 and rcp; without it they are
	// correctly rounded.
	Exp2
	// Output is the rounding of O to the input dtype.
	Output
	// All are all steps.
	All = 1<<iota - 1
)

// names are in the order of the bits.
var names = []string{"Q, K codes", "P codes", "V codes", "accumulator", "exp2", "output"}

// Error is how far an output is from the reference.
type Error struct {
	OneMinusCos jsonfloat.Float `json:"one_minus_cos"`
	RelL1       jsonfloat.Float `json:"rel_l1"`
	// MSE is the mean squared error. Of independent errors it adds up.
	MSE jsonfloat.Float `json:"mse"`
}

// Step is what a step does.
type Step struct {
	Name string `json:"name"`
	// Alone is the error where only this step is taken and all others are exact.
	Alone Error `json:"alone"`
	// Without is the error of the kernel where only this step is exact.
	Without Error `json:"without"`
}

// Layer is the attribution of one layer.
type Layer struct {
	Name      string `json:"name"`
	Synthetic string `json:"synthetic,omitempty"`
	// Kernel is the error of the kernel as it is, Rest of the program with every
	// step exact: FP32 arithmetic in the softmax.
	Kernel Error  `json:"kernel"`
	Rest   Error  `json:"rest"`
	Steps  []Step `json:"steps"`
	// Remainder is the kernel's mean squared error less that of all steps alone and
	// of the rest: what does not add up, because errors interact.
	Remainder jsonfloat.Float `json:"remainder_mse"`
}

// Options control a run.
type Options struct {
	// Program describes the kernel.
	Program   program.Program
	Reference reference.Precision
	Jobs      int
	// Progress, if not nil, is called with the finished part, 0 to 1, one call at a
	// time.
	Progress func(part float64)
}

// exact returns the description with exact arithmetic in place of some steps.
func exact(p program.Program, steps Steps) program.Program {
	p.Name += "-exact" // it is no longer the kernel of that name
	if steps&QK != 0 {
		p.Smoothing.Q, p.Smoothing.DeltaS, p.Smoothing.KDifference = "none", "none", "fp32"
		p.QKCodes = program.QKCodes{Format: "exact", Granularity: "none", Scale: "none", Round: "none", Fold: "none"}
		p.Scores.Unit = exactUnit
		p.Scores.TailTiles = program.All
		if p.Scores.Product == "fp64-descale" {
			p.Scores.Product = "fp64" // there are no scales
		}
		p.PV.Threshold = 0 // of a maximum of integer scores
		if p.Scores.SMScale == "folded" || p.Scores.SMScale == "with-scale" {
			p.Scores.SMScale = "exponent"
		}
		// There is no scale to join: masks act as they do in the reference.
		if p.Mask.Boolean == "add" {
			p.Mask.Boolean = "value"
		}
		if p.Mask.Additive == "with-scale" || p.Mask.Additive == "log2e" {
			p.Mask.Additive, p.Scores.SMScale = "scaled", "scores"
		}
	}
	if steps&P != 0 {
		p.P = program.P{Format: "exact", Round: "none"}
	}
	if steps&V != 0 {
		p.Smoothing.V = "none"
		p.VCodes.Format, p.VCodes.Scale, p.VCodes.Max, p.VCodes.Round, p.VCodes.Cast = "exact", "none", 0, "none", ""
		p.Finish.Scale, p.Finish.Mean = "none", "none"
	}
	switch {
	case steps&Accumulator != 0:
		p.PV = program.PV{Unit: exactUnit, Level: program.AllKeys, Join: "none", Rescale: "fp32"}
	case steps&(P|V) != 0 && strings.Contains(p.PV.Unit.Instruction, ".s32."):
		// Integer sums are exact already, and an integer unit takes codes alone.
		p.PV.Unit = exactUnit
	}
	if steps&(P|Accumulator) != 0 && p.Denominator.Of == "ones" {
		// The unit that adds the codes of P goes with the codes and with the unit.
		p.Denominator.Of, p.Denominator.Unit, p.Denominator.Order = "p", "none", "sequential"
	}
	if steps&Exp2 != 0 {
		p.Exponent.Exp2, p.Finish.Inverse = "exact", "exact"
	}
	if p.QKCodes.Scale != "descale" && p.VCodes.Scale != "descale" {
		p.Operands.Descale = "none"
	}
	if steps&Output != 0 {
		p.Finish.First, p.Finish.Round = "none", "none"
	}
	return p
}

var exactUnit = program.Unit{Instruction: "exact", SumRound: "unit"}

// sets lists the sets of exact steps that are run: none, all, all but one, one.
func sets() []Steps {
	v := []Steps{0, All}
	for i := range names {
		v = append(v, All&^(1<<i), 1<<i)
	}
	return v
}

// Cost estimates what a layer costs, in heads that are run.
func Cost(l *layerdumps.Layer) float64 { return float64(l.Q.Batch * l.Q.Heads * len(sets())) }

// Run attributes the error of a layer. Beside what its goroutines work with, which does not grow
// with the layer, it holds for each of them at most 8 MiB of the reference, or as many rows of it as
// the tiles of all runs have as a common multiple.
func Run(ctx context.Context, l *layerdumps.Layer, opt Options) (*Layer, error) {
	r, err := newRun(l, opt, kept)
	if err != nil {
		return nil, err
	}
	if err := r.all(ctx); err != nil {
		return nil, err
	}
	errs := make([]Error, len(r.sums))
	for v := range errs {
		f := r.sums[v].Values()
		errs[v] = Error{1 - f.CosSim, f.RelL1, f.RMSE * f.RMSE}
	}
	out := &Layer{Name: l.Name, Synthetic: l.Synthetic, Kernel: errs[0], Rest: errs[1]}
	out.Remainder = out.Kernel.MSE - out.Rest.MSE
	for i, name := range names {
		s := Step{Name: name, Alone: errs[2+2*i], Without: errs[3+2*i]}
		out.Steps = append(out.Steps, s)
		out.Remainder -= s.Alone.MSE - out.Rest.MSE
	}
	return out, nil
}
