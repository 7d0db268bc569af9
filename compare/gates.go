package compare

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"github.com/sageacc/sageacc/metrics"
)

// Gates are what every layer of a result must fulfil.
type Gates struct {
	// FailIf are conditions that fail a layer.
	FailIf []metrics.Gate
	// BitExact fails a layer whose actual output is not the emulated one bit for bit.
	BitExact bool
	// RequireActual fails a layer without an actual output.
	RequireActual bool
	// AllowNonFinite lets an actual output be NaN or infinite where the emulated one
	// is not. Otherwise that fails a layer, whatever else is asked for.
	AllowNonFinite bool
}

// NeedsActual names the first gate that is about actual outputs alone, as it is
// given on the command line; it is empty if there is none. Where no layer has an
// actual output such a gate checks nothing.
func (g *Gates) NeedsActual() string {
	for _, x := range g.FailIf {
		if x.NeedsActual() {
			return "--fail-if " + x.String()
		}
	}
	if g.BitExact {
		return bitExact
	}
	return ""
}

// Status is what became of a check.
type Status string

// The outcomes.
const (
	Passed Status = "passed"
	Failed Status = "failed"
	// Skipped is a check of an actual output that the layer does not have.
	Skipped Status = "skipped"
)

// Check is one gate applied to one layer.
type Check struct {
	// Gate is the gate as it is given on the command line; "finite" is the one that
	// needs not be asked for.
	Gate string `json:"gate"`
	// Kernel is the name of the emulated kernel, Layer that of the layer.
	Kernel string `json:"kernel"`
	Layer  string `json:"layer"`
	Status Status `json:"status"`
	// Text says what was found where the check failed, and why one was skipped.
	Text string `json:"text,omitempty"`

	// badness orders failures of the same gate.
	badness float64
}

// finite is the name of the check that is made without being asked for.
const finite = "finite"

// bitExact is the name of the check of Gates.BitExact.
const bitExact = "--expect-bit-exact"

// Check applies the gates to every layer of the result.
func (r *Result) Check(g Gates) []Check {
	var out []Check
	for i := range r.Layers {
		l := &r.Layers[i]
		add := func(gate string, badness float64, failed bool, text string) {
			c := Check{Gate: gate, Kernel: r.Kernel.Name, Layer: l.Name, Status: Passed}
			if failed {
				c.Status, c.Text, c.badness = Failed, text, badness
			}
			out = append(out, c)
		}
		skip := func(gate string) {
			out = append(out, Check{Gate: gate, Kernel: r.Kernel.Name, Layer: l.Name, Status: Skipped, Text: "the layer has no actual output"})
		}
		b := l.ActualVsEmulated
		if !g.AllowNonFinite && b != nil {
			text, part := "", 0.0
			if s := l.Spoiled; s != nil {
				text = fmt.Sprintf("%s of the actual output are NaN or infinite where the emulated one is finite, %s", ofElements(s.Elements, b.Elements), s.describe(l.Shape, r.QueryTile))
				part = float64(s.Elements) / float64(b.Elements)
			}
			add(finite, part, l.Spoiled != nil, text)
		}
		if g.RequireActual {
			add("--require-actual", 1, b == nil, "no actual output")
		}
		for _, x := range g.FailIf {
			gate := "--fail-if " + x.String()
			if b == nil && x.NeedsActual() {
				skip(gate)
				continue
			}
			row, value, bound, failed := worstRow(x, l)
			badness := bound
			if x.Below() {
				badness = -bound
			}
			number := func(x float64) string { return strconv.FormatFloat(x, 'g', 9, 64) }
			text := fmt.Sprintf("%s.%s is %s", row, x.Metric(), number(value))
			if bound != value {
				side := "at most"
				if x.Below() {
					side = "at least"
				}
				text += fmt.Sprintf(", with 95%% confidence %s %s", side, number(bound))
			}
			add(gate, badness, failed, text)
		}
		switch {
		case !g.BitExact:
		case b == nil:
			skip(bitExact)
		default:
			text := ""
			if !b.Exact() {
				text = fmt.Sprintf("%s differ, first at %v", ofElements(b.Mismatched, b.Elements), b.First)
			}
			add(bitExact, b.Share(), !b.Exact(), text)
		}
	}
	return out
}

// Failures returns the checks that failed, those of the first gate first and of each
// gate the worst first.
func Failures(checks []Check) []Check {
	order := gateOrder(checks)
	var out []Check
	for _, c := range checks {
		if c.Status == Failed {
			out = append(out, c)
		}
	}
	slices.SortStableFunc(out, func(a, b Check) int {
		return cmp.Or(cmp.Compare(order[a.Gate], order[b.Gate]), cmp.Compare(worst(b.badness), worst(a.badness)))
	})
	return out
}

// gateOrder numbers the gates as they come.
func gateOrder(checks []Check) map[string]int {
	order := map[string]int{}
	for _, c := range checks {
		if _, ok := order[c.Gate]; !ok {
			order[c.Gate] = len(order)
		}
	}
	return order
}

// worstRow returns the row that a gate is about, and of several the one that fails it
// most, with the figure there. Of a layer that was sampled it is the worse bound of the
// figure that counts, otherwise the figure itself.
func worstRow(g metrics.Gate, l *Layer) (row metrics.Row, value, bound float64, failed bool) {
	found := false
	look := func(at metrics.Row, v metrics.Values, b *metrics.Bits) {
		x := g.Value(v, b)
		y, ok := l.bound(g, at)
		if !ok {
			y = x
		}
		// A NaN is worse than any number.
		worse := y > bound
		if g.Below() {
			worse = y < bound
		}
		if !found || bound == bound && (worse || y != y) {
			row, value, bound = at, x, y
		}
		found = true
		failed = failed || g.HoldsFor(y)
	}
	r := &l.Rows
	if g.Row == metrics.Emulated || g.Row == metrics.AnyReference {
		look(metrics.Emulated, r.EmulatedVsReference, nil)
	}
	if v := r.ActualVsReference; v != nil && (g.Row == metrics.Actual || g.Row == metrics.AnyReference) {
		look(metrics.Actual, *v, nil)
	}
	if b := r.ActualVsEmulated; b != nil && g.Row == metrics.BitRow {
		look(metrics.BitRow, b.Values, &b.Bits)
	}
	return row, value, bound, failed
}

// ofElements writes a part of the elements.
func ofElements(n, all int64) string {
	part := ""
	if 0 < n && n < all {
		if percent := 100 * float64(n) / float64(all); percent > 99.9 {
			part = " (over 99.9%)"
		} else {
			part = fmt.Sprintf(" (%s%%)", figure(percent))
		}
	}
	return fmt.Sprintf("%d of %d elements%s", n, all, part)
}
