// Package identify finds out which kernel wrote the actual outputs of a dump: it tries
// every known one, what sageattn() runs on each GPU, and their neighbours, and names
// those that give an output bit for bit. The search is [explain.Among].
package identify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/compare/explain"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/internal/version"
	"github.com/sageacc/sageacc/layerdumps"
)

// Schema is the version of Result's JSON form.
const Schema = "sageacc/identify/v1"

// Options control a run.
type Options struct {
	// Kernels are those to try, every known one and every alias if it is nil.
	Kernels []explain.Named
	// Jobs is the number of goroutines; at least one runs. It changes no result.
	Jobs int
	// Progress, if not nil, is called with the finished part, 0 to 1.
	Progress func(part float64)
}

// Result is the outcome of a run.
type Result struct {
	Schema string        `json:"schema"`
	Tool   *compare.Tool `json:"tool,omitempty"`
	// Args is the command that gave the result; Run leaves it nil.
	Args []string `json:"args,omitempty"`
	// Verdict says the outcome in words, a line for each thing.
	Verdict []string `json:"verdict"`
	// Identified says that every layer with an actual output is of a kernel that was found.
	Identified bool    `json:"identified"`
	Layers     []Layer `json:"layers"`
	// Without are layers that have no actual output.
	Without []string `json:"without_output,omitempty"`
}

// Layer is the outcome of a layer.
type Layer struct {
	Name      string `json:"name"`
	Source    string `json:"source"`
	Synthetic string `json:"synthetic,omitempty"`
	*explain.Origin
}

// Known are all known kernels, then the aliases.
func Known() ([]explain.Named, error) {
	var out []explain.Named
	for _, name := range append(program.Names(), program.Aliases()...) {
		p, err := program.Preset(name)
		if err != nil {
			return nil, err
		}
		out = append(out, explain.Named{Name: name, Program: p})
	}
	return out, nil
}

// ErrNoOutput says that there is nothing to identify.
var ErrNoOutput = errors.New("no layer has an actual output (<layer>.o) to identify")

// Run looks for the kernel of every layer of d that has an actual output.
func Run(ctx context.Context, d *layerdumps.Dump, opt Options) (*Result, error) {
	if opt.Kernels == nil {
		var err error
		if opt.Kernels, err = Known(); err != nil {
			return nil, err
		}
	}
	tool := version.Get()
	res := &Result{Schema: Schema, Tool: &tool, Identified: true, Layers: []Layer{}}
	var with []*layerdumps.Layer
	for i := range d.Layers {
		if l := &d.Layers[i]; l.O != nil {
			with = append(with, l)
		} else {
			res.Without = append(res.Without, l.Name)
		}
	}
	if with == nil {
		return nil, ErrNoOutput
	}
	for i, l := range with {
		o, err := explain.Among(ctx, l, opt.Kernels, explain.Options{Jobs: opt.Jobs, Progress: func(part float64) {
			if opt.Progress != nil {
				opt.Progress((float64(i) + part) / float64(len(with)))
			}
		}})
		if err == nil {
			err = l.Check()
		}
		if err != nil {
			return nil, fmt.Errorf("%s: layer %s: %w", l.Source, l.Name, err)
		}
		res.Layers = append(res.Layers, Layer{l.Name, l.Source, l.Synthetic, o})
		res.Identified = res.Identified && len(o.Exact) > 0
	}
	res.Verdict = res.judge()
	return res, nil
}

// judge says the outcome in words: of which kernels all identified layers may be, or else
// how many are of which, and how many are of none.
func (r *Result) judge() []string {
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	found := 0
	count := map[string]int{}
	var names []string
	for i := range r.Layers {
		if len(r.Layers[i].Exact) > 0 {
			found++
		}
		for _, m := range r.Layers[i].Exact {
			n := m.String()
			if count[n] == 0 {
				names = append(names, n)
			}
			count[n]++
		}
	}
	common := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return count[n] < found })
	all := "the layer is"
	if len(r.Layers) > 1 {
		all = fmt.Sprintf("all %d layers are", len(r.Layers))
	}
	if found < len(r.Layers) {
		all = fmt.Sprintf("%d of %d layers are", found, len(r.Layers))
	}
	switch {
	case found == 0:
	case len(common) == 1:
		add("identified: %s, bit for bit, of %s", all, common[0])
	case len(common) > 1:
		add("identified: %s, bit for bit, of one of %s, which these outputs cannot tell apart", all, few(common))
	default:
		slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(count[b], count[a]) })
		for i, n := range names {
			names[i] = fmt.Sprintf("%s (%d)", n, count[n])
		}
		add("identified: %s, bit for bit, of known kernels, but not all of one: %s", all, few(names))
	}
	if n := len(r.Layers) - found; n > 0 {
		what := "1 layer is"
		if n > 1 {
			what = fmt.Sprintf("%d layers are", n)
		}
		add("not identified: %s of no kernel that was tried", what)
	}
	if n := len(r.Without); n > 0 {
		add("left out, having no actual output: %s", few(r.Without))
	}
	return lines
}

// few writes a list that may be long.
func few(list []string) string {
	const most = 4
	if n := len(list) - most; n > 0 {
		return strings.Join(list[:most], ", ") + fmt.Sprintf(" and %d more", n)
	}
	return strings.Join(list, ", ")
}

// Lines says a layer's outcome in words.
func (l *Layer) Lines() []string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	what := func(m *explain.Match) string {
		s := m.String()
		if m.Parts > 0 {
			s += fmt.Sprintf(", keys in %d parts", m.Parts)
		}
		if m.Output != "" {
			s += fmt.Sprintf(", whose output is %s and not as here", m.Output)
		}
		if len(m.Also) > 0 {
			s += "; also called " + few(m.Also)
		}
		return s
	}
	for i := range l.Exact {
		m := &l.Exact[i]
		if i == 0 {
			add("bit for bit (%d elements) that of %s", m.Elements, what(m))
		} else {
			add("or, which this output cannot tell apart, of %s", what(m))
		}
	}
	if l.Unchecked > 0 {
		add("or of one of %d more that agree on the rows tried", l.Unchecked)
	}
	switch {
	case len(l.Exact) > 0:
	case l.Tried == 0:
		add("no kernel takes this layer")
	case l.Unrelated:
		m := &l.Nearest[0]
		add("none of %d hypotheses comes near: even of %s, the nearest, %d of %d elements differ on the rows tried (rel_l1 %.2g)", l.Tried, what(m), m.Mismatched, m.Elements, float64(m.RelL1))
	default:
		add("none of %d hypotheses gives it; the nearest, on some of its rows:", l.Tried)
		for i := range l.Nearest {
			m := &l.Nearest[i]
			add("  %s: %d of %d differ, rel_l1 %.2g", what(m), m.Mismatched, m.Elements, float64(m.RelL1))
		}
	}
	var why []string
	names := map[string][]string{}
	for _, r := range l.Refused {
		if names[r.Why] == nil {
			why = append(why, r.Why)
		}
		names[r.Why] = append(names[r.Why], r.Kernel)
	}
	for _, w := range why {
		add("passed over: %s: %s", strings.Join(names[w], ", "), w)
	}
	return out
}
