// Package recommend picks, for each layer of a dump, the cheapest kernel whose
// accuracy meets a requirement.
package recommend

import (
	"context"
	"math"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/metrics"
	"github.com/sageacc/sageacc/reference"
)

// Schema is the version of Result's JSON form.
const Schema = "sageacc/recommend/v1"

// FP16 is the choice where no kernel meets the requirement: leave the layer as it
// is.
const FP16 = "fp16"

// Layer is the choice for one layer.
type Layer struct {
	Name      string `json:"name"`
	Synthetic string `json:"synthetic,omitempty"`
	// Kernel is the choice: a kernel of Result.Kernels, or FP16.
	Kernel string `json:"kernel"`
	// Figures of the kernels against the reference, in the order of
	// Result.Kernels. Kernels dearer than the choice are not tried.
	Figures []metrics.Values `json:"figures"`
}

// Result is the outcome.
type Result struct {
	Schema string `json:"schema"`
	// Kernels are the candidates, cheapest first.
	Kernels   []string `json:"kernels"`
	Require   []string `json:"require"`
	Reference string   `json:"reference"`
	Layers    []Layer  `json:"layers"`
	// Counts says how many layers each choice got.
	Counts map[string]int `json:"counts"`
}

// Options control a run.
type Options struct {
	// Kernels are the candidates, cheapest first.
	Kernels []program.Program
	// Require is what the emulated output must fulfil against the reference, every
	// expression of it.
	Require   []metrics.Expr
	Reference reference.Precision
	Jobs      int
	// Progress, if not nil, is called with the finished part, 0 to 1, Skipped with parts
	// of it that were kept.
	Progress, Skipped func(part float64)
	// Keep, if not nil, returns what keeps the run of one of Kernels over the layers of
	// these numbers.
	Keep func(kernel int, layers []int) compare.Keeper
}

// Run finds the choice for every layer.
func Run(ctx context.Context, d *layerdumps.Dump, opt Options) (*Result, error) {
	res := &Result{Schema: Schema, Reference: opt.Reference.String(), Counts: map[string]int{}}
	for _, x := range opt.Require {
		res.Require = append(res.Require, x.String())
	}
	for _, l := range d.Layers {
		res.Layers = append(res.Layers, Layer{Name: l.Name, Synthetic: l.Synthetic, Kernel: FP16})
	}
	left := make([]int, len(d.Layers)) // layers without a choice yet
	for i := range left {
		left[i] = i
	}
	for n, p := range opt.Kernels {
		res.Kernels = append(res.Kernels, p.Name)
		k, err := emulate.New(p)
		if err != nil {
			return nil, err
		}
		sub := &layerdumps.Dump{}
		for _, i := range left {
			sub.Layers = append(sub.Layers, d.Layers[i])
		}
		part := func(f func(float64), done int) func(float64) {
			return func(part float64) {
				if f != nil {
					f((float64(done) + part) / float64(len(opt.Kernels)))
				}
			}
		}
		o := compare.Options{
			Kernel: k, Reference: opt.Reference, NoActual: true, Jobs: opt.Jobs,
			Progress: part(opt.Progress, n), Skipped: part(opt.Skipped, 0),
		}
		if opt.Keep != nil {
			o.Keep = opt.Keep(n, left)
		}
		r, err := compare.Run(ctx, sub, o)
		if err != nil {
			return nil, err
		}
		var next []int
		for j, i := range left {
			v := r.Layers[j].EmulatedVsReference
			res.Layers[i].Figures = append(res.Layers[i].Figures, v)
			if meets(opt.Require, v) {
				res.Layers[i].Kernel = p.Name
			} else {
				next = append(next, i)
			}
		}
		left = next
	}
	for _, l := range res.Layers {
		res.Counts[l.Kernel]++
	}
	return res, nil
}

// meets reports whether every expression holds. A figure that is NaN meets
// nothing.
func meets(require []metrics.Expr, v metrics.Values) bool {
	for _, x := range require {
		if math.IsNaN(x.Value(v)) || !x.Holds(v) {
			return false
		}
	}
	return true
}
