// Package explain finds which numerics explain a kernel's output, and where an
// output goes wrong.
//
// [Layer] emulates a layer under hypotheses that differ from what the kernel is said
// to do in as few points as possible, and names those that give the output bit for
// bit. The points are choices of its description. A
// hypothesis is tried on a few rows first; those that it gets right it must get
// right on the whole layer.
//
// [Where] says in the kernel's terms which part of the output differs, and
// [CompareStages] finds the first intermediate tensor that does.
package explain

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/internal/jsonfloat"
	"github.com/sageacc/sageacc/layerdumps"
)

// Options control a search.
type Options struct {
	// Program is what the kernel is said to be.
	Program program.Program
	// MaxChanges is how many points a hypothesis may change; 0 stands for 2. The
	// time grows with the power: about a hundred hypotheses of one change,
	// thousands of two.
	MaxChanges int
	// Stages are intermediate tensors of heads, if the kernel wrote any.
	Stages []Stages
	// Jobs is the number of goroutines; at least one runs. It changes no result.
	Jobs int
	// Progress, if not nil, is called with the finished part of the search, 0 to 1,
	// one call at a time. A search that finds an explanation ends before 1.
	Progress func(part float64)
}

// Hypothesis is a way in which the output may have been computed.
type Hypothesis struct {
	// Changes lists what differs from what the kernel is said to do, as flags of
	// the command line; none for the kernel as it is said to be.
	Changes []string `json:"changes"`
	// Elements were compared, Mismatched of them differ in their bits.
	Elements   int64 `json:"elements"`
	Mismatched int64 `json:"mismatched"`
	// RelL1 is the relative L1 distance to the actual output.
	RelL1 jsonfloat.Float `json:"rel_l1"`
}

// String writes the changes as they would be typed.
func (h *Hypothesis) String() string {
	if len(h.Changes) == 0 {
		return "the kernel as given"
	}
	return strings.Join(h.Changes, " ")
}

// Result is the outcome of a search on one layer.
type Result struct {
	// Exact holds the hypotheses that reproduce the whole output, all with the
	// fewest changes that any needs. Where there are several, they cannot be told
	// apart by this output.
	Exact []Hypothesis `json:"exact"`
	// Nearest holds, where nothing is exact, the hypotheses with the fewest
	// differing elements on the rows that were tried, best first; where nearly all
	// differ, those with the smallest distance. Of several whose rows are the same it
	// holds one.
	Nearest []Hypothesis `json:"nearest,omitempty"`
	// Unrelated says that even of the nearest more than nine in ten elements differ: the
	// output is of another family of kernels, or not of these inputs.
	Unrelated bool `json:"unrelated,omitempty"`
	// Tried counts the hypotheses.
	Tried int `json:"tried"`
	// Where says which part of the output differs from that of the kernel as given,
	// nil if none does.
	Where *Where `json:"where,omitempty"`
	// Stages says which of the intermediate tensors differs first, nil where there
	// are none.
	Stages *StageReport `json:"stages,omitempty"`
}

// Layer searches for the numerics of a layer's actual output.
func Layer(ctx context.Context, l *layerdumps.Layer, opt Options) (*Result, error) {
	if l.O == nil {
		return nil, fmt.Errorf("layer %s has no actual output to explain", l.Name)
	}
	if opt.MaxChanges == 0 {
		opt.MaxChanges = 2
	}
	s, err := newSearch(l, opt)
	if err != nil {
		return nil, err
	}
	res := &Result{Tried: 1}
	if len(opt.Stages) > 0 {
		if res.Stages, err = CompareStages(ctx, l, opt.Program, opt.Stages); err != nil {
			return nil, err
		}
	}
	given, err := s.whole(ctx, s.base, true)
	if err != nil {
		return nil, err
	}
	if given.hypothesis.Mismatched == 0 {
		res.Exact = []Hypothesis{given.hypothesis}
		return res, nil
	}
	kernel, err := s.kernel(&s.base)
	if err != nil {
		return nil, err
	}
	res.Where = describe(l, kernel, given.heads)
	s.choose(given.heads)

	x, err := newLattice(l, s.base)
	if err != nil {
		return nil, err
	}
	total, done := 0.0, 0.0
	for n := range opt.MaxChanges {
		total += x.weight(n + 1)
	}
	var best []outcome
	for n := range opt.MaxChanges {
		ts := x.next()
		res.Tried += len(ts)
		weight := x.weight(n + 1)
		found, err := s.try(ctx, ts, func(n int) {
			if opt.Progress != nil {
				opt.Progress(min(1, (done+weight*float64(n)/float64(len(ts)))/total))
			}
		})
		if err != nil {
			return nil, err
		}
		done += weight
		for _, o := range found {
			if o.hypothesis.Mismatched == 0 {
				w, err := s.whole(ctx, o.trial, false)
				if err != nil {
					return nil, err
				}
				if w.hypothesis.Mismatched == 0 {
					res.Exact = append(res.Exact, w.hypothesis)
				}
			}
			best = append(best, o)
		}
		if len(res.Exact) > 0 {
			return res, nil
		}
		best = nearest(best, candidates)
	}
	// The best on the first rows are compared on all that were chosen.
	trials := []trial{s.base}
	for _, o := range best {
		trials = append(trials, o.trial)
	}
	found, err := s.tryAll(ctx, trials)
	if err != nil {
		return nil, err
	}
	for _, o := range nearest(found, len(found)) {
		// What adds changes to one that is nearer says nothing more.
		more := slices.ContainsFunc(res.Nearest, func(h Hypothesis) bool {
			return len(h.Changes) < len(o.trial.changes) && !slices.ContainsFunc(h.Changes, func(c string) bool { return !slices.Contains(o.trial.changes, c) })
		})
		if !more {
			res.Nearest = append(res.Nearest, o.hypothesis)
		}
		if len(res.Nearest) == 5 {
			break
		}
	}
	res.Unrelated = !slices.ContainsFunc(res.Nearest, func(h Hypothesis) bool { return h.part() <= nearlyAll })
	return res, nil
}

// Lines says the result in words, a line for each thing that it holds.
func (r *Result) Lines() []string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if w := r.Where; w != nil {
		add("that is %s", w.First.String())
		if e := w.Earliest; e != w.First {
			add("the earliest row to differ is token %d of batch %d, head %d: %s", e.Token, e.Batch, e.Head, e.String())
		}
		for _, f := range w.Findings {
			add("%s", f.Text)
		}
	}
	if r.Stages != nil {
		add("%s", r.Stages)
	}
	const most = 8
	for i, h := range r.Exact {
		switch i {
		case 0:
			add("the actual output is, bit for bit, that of %s", h.String())
		case most:
			add("or of one of %d more, which the JSON form lists", len(r.Exact)-most)
			return out
		default:
			add("or, which this output cannot tell apart, of %s", h.String())
		}
	}
	if len(r.Exact) > 0 {
		return out
	}
	if r.Unrelated {
		h := &r.Nearest[0]
		add("none of %d hypotheses comes near the actual output: even of %s, the nearest, %d of %d elements differ (rel_l1 %.2g)", r.Tried, h.String(), h.Mismatched, h.Elements, float64(h.RelL1))
		if h.RelL1 < unlike {
			add("yet it is much like it: the output is likely of another family of kernels (sageacc kernels lists those that --kernel knows)")
		} else {
			add("nor is it much like it: the output is likely not of these inputs, or in another order")
		}
		return out
	}
	add("none of %d hypotheses gives the actual output; the nearest, on some of its rows:", r.Tried)
	for _, h := range r.Nearest {
		add("  %s: %d of %d differ, rel_l1 %.2g", h.String(), h.Mismatched, h.Elements, float64(h.RelL1))
	}
	return out
}

// candidates is how many hypotheses are kept for the list of the nearest.
const candidates = 40

// nearlyAll is the part of differing elements from which on those that agree do so by
// chance.
const nearlyAll = 0.9

// unlike is the relative L1 distance from which on an output is not another kernel's
// for the same inputs: the coarsest quantisation stays below.
const unlike = 0.5

// nearest returns the n best outcomes, best first, and of those whose rows are the
// same only the one with the fewest changes. What leaves some elements right is judged
// by how many it leaves wrong; where nearly all are wrong, those that are right are
// so by chance, and the distance counts, of which a change has to take a tenth to be
// worth it.
func nearest(list []outcome, n int) []outcome {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b outcome) int {
		x, y := &a.hypothesis, &b.hypothesis
		fewer := cmp.Compare(len(x.Changes), len(y.Changes))
		nearer := cmp.Compare(distance(x), distance(y))
		worth := cmp.Compare(distance(x)*(1+float64(len(x.Changes))/10), distance(y)*(1+float64(len(y.Changes))/10))
		if x.part() >= nearlyAll && y.part() >= nearlyAll {
			return cmp.Or(worth, fewer)
		}
		return cmp.Or(cmp.Compare(min(x.part(), nearlyAll), min(y.part(), nearlyAll)), fewer, nearer)
	})
	seen := map[uint64]bool{}
	var out []outcome
	for _, o := range list {
		if !seen[o.hash] {
			seen[o.hash] = true
			out = append(out, o)
		}
		if len(out) == n {
			break
		}
	}
	return out
}

// distance is RelL1, with NaN beyond all others.
func distance(h *Hypothesis) float64 {
	if x := float64(h.RelL1); x == x {
		return x
	}
	return math.Inf(1)
}

// part is the part of the elements that differ.
func (h *Hypothesis) part() float64 {
	if h.Elements == 0 {
		return 1
	}
	return float64(h.Mismatched) / float64(h.Elements)
}
