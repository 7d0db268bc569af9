package compare

import (
	"cmp"
	"math"
	"slices"

	"github.com/sageacc/sageacc/metrics"
)

// SetSchema is the version of Set's JSON form.
const SetSchema = "sageacc/compare-set/v1"

// Set is the results of several kernels on the same layers.
type Set struct {
	Schema string   `json:"schema"`
	Args   []string `json:"args,omitempty"`
	// Verdict is that of all results; each has its own too.
	Verdict *Verdict `json:"verdict"`
	// Results are whole results, each as of a run with that kernel alone.
	Results []*Result `json:"results"`
}

// Selection says which layers to show, and in what order.
type Selection struct {
	// Sort puts the layers with the worst of this figure first; nil keeps them in
	// order.
	Sort *metrics.Figure
	// Worst puts the layers first of which the verdict finds the worst, and then those
	// with the lowest cosine similarity. Sort goes before it.
	Worst bool
	// Failing leaves only layers with a failed check or, where no check was made, a
	// finding.
	Failing bool
	// Top is how many layers to show at most; 0 for all.
	Top int
}

// Select returns the indices of the layers to show, in order, and how many of them
// Top left out. The results are of the same layers.
func (s Selection) Select(results []*Result, v *Verdict, checks []Check) (layers []int, left int) {
	n := len(results[0].Layers)
	layers = make([]int, 0, n)
	failing := make(map[string]bool)
	rank := make(map[string]int, n) // of a layer's worst finding, from 1
	made := false
	for _, c := range checks {
		made = made || c.Gate != finite
		if c.Status == Failed {
			failing[c.Layer] = true
		}
	}
	for i, f := range v.Findings {
		if !made {
			failing[f.Layer] = true
		}
		if rank[f.Layer] == 0 {
			rank[f.Layer] = i + 1
		}
	}
	for i := range n {
		if !s.Failing || failing[results[0].Layers[i].Name] {
			layers = append(layers, i)
		}
	}
	// badness of a layer is that of the kernel that is worst.
	badness := func(f metrics.Figure, i int) float64 {
		b := math.Inf(-1)
		for _, r := range results {
			l := &r.Layers[i].Rows
			look := func(v metrics.Values, bits *metrics.Bits) { b = max(b, f.Badness(v, bits)) }
			if f.Row == metrics.Emulated || f.Row == metrics.AnyReference {
				look(l.EmulatedVsReference, nil)
			}
			if l.ActualVsReference != nil && (f.Row == metrics.Actual || f.Row == metrics.AnyReference) {
				look(*l.ActualVsReference, nil)
			}
			if l.ActualVsEmulated != nil && f.Row == metrics.BitRow {
				look(l.ActualVsEmulated.Values, &l.ActualVsEmulated.Bits)
			}
		}
		return b
	}
	var cos metrics.Figure // the zero value
	by := make(map[int]float64, len(layers))
	for _, i := range layers {
		switch {
		case s.Sort != nil:
			by[i] = badness(*s.Sort, i)
		case s.Worst:
			by[i] = badness(cos, i)
		}
	}
	slices.SortStableFunc(layers, func(a, b int) int {
		worse := cmp.Compare(by[b], by[a])
		if s.Sort != nil || !s.Worst {
			return worse
		}
		// Those without a finding come last.
		place := func(i int) int {
			if r := rank[results[0].Layers[i].Name]; r > 0 {
				return r
			}
			return math.MaxInt
		}
		return cmp.Or(cmp.Compare(place(a), place(b)), worse)
	})
	if s.Top > 0 && len(layers) > s.Top {
		layers, left = layers[:s.Top], len(layers)-s.Top
	}
	return layers, left
}
