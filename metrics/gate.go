package metrics

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Row is a comparison that a [Gate] may be about.
type Row uint8

// The rows.
const (
	// AnyReference stands for every row against the reference that a layer has.
	AnyReference Row = iota
	// Emulated is the emulated output against the reference.
	Emulated
	// Actual is the actual output against the reference.
	Actual
	// BitRow is the actual output against the emulated one.
	BitRow
)

var rowNames = [...]string{AnyReference: "", Emulated: "emulated", Actual: "actual", BitRow: "bits"}

// String returns "emulated", "actual", "bits", or "" for AnyReference.
func (r Row) String() string { return rowNames[r] }

// Figure is one figure of a row, such as actual.cos_sim. [ParseFigure] makes one.
type Figure struct {
	Row    Row
	metric metric
}

// ParseFigure parses [ROW.]METRIC, in the names of [ParseGate].
func ParseFigure(s string) (Figure, error) {
	row, name, err := splitRow(s)
	if err != nil {
		return Figure{}, fmt.Errorf("figure %q: %w", s, err)
	}
	m, err := parseMetric(strings.TrimSpace(name), row.metrics())
	if err != nil {
		return Figure{}, fmt.Errorf("figure %q: %w", s, row.hint(name, err))
	}
	return Figure{row, m}, nil
}

// String returns the form that [ParseFigure] reads back as the same.
func (f Figure) String() string { return f.Row.prefix() + metricNames[f.metric] }

// Value returns the figure, of a row's figures v and, for BitRow, its bits; b may be
// nil for other rows.
func (f Figure) Value(v Values, b *Bits) float64 {
	switch f.metric {
	case mismatched, share, maxULP:
		if b == nil {
			return math.NaN()
		}
	default:
		return Expr{metric: f.metric}.Value(v)
	}
	switch f.metric {
	case mismatched:
		return float64(b.Mismatched)
	case share:
		return b.Share()
	default:
		return float64(b.MaxULP)
	}
}

// Badness is Value so that more is worse, and NaN the worst of all.
func (f Figure) Badness(v Values, b *Bits) float64 {
	switch x := f.Value(v, b); {
	case math.IsNaN(x):
		return math.Inf(1)
	case f.metric == cosSim:
		return -x
	default:
		return x
	}
}

// prefix is the row as it stands in front of a metric.
func (r Row) prefix() string {
	if r == AnyReference {
		return ""
	}
	return r.String() + "."
}

// metrics are the names of the row's metrics.
func (r Row) metrics() []string {
	if r == BitRow {
		return metricNames[:]
	}
	return metricNames[:figures]
}

// hint is err, or, where the metric that an expression starts with is one of the bits,
// what to write instead.
func (r Row) hint(s string, err error) error {
	name := strings.TrimSpace(s[:endOfName(s)])
	if r != BitRow && slices.Contains(metricNames[figures:], name) {
		return fmt.Errorf("%s is a figure of the bits, want bits.%s", name, name)
	}
	return err
}

// splitRow takes the row off the front of an expression.
func splitRow(s string) (Row, string, error) {
	i := strings.IndexByte(s[:endOfName(s)], '.')
	if i < 0 {
		return AnyReference, s, nil
	}
	row := strings.TrimSpace(s[:i])
	at := slices.Index(rowNames[1:], row)
	if at < 0 {
		return 0, "", fmt.Errorf("unknown row %q, want emulated, actual or bits", row)
	}
	return Row(at + 1), s[i+1:], nil
}

// endOfName is where the metric's name ends.
func endOfName(s string) int {
	if end := strings.IndexAny(s, "<>"); end >= 0 {
		return end
	}
	return len(s)
}

// Gate is a condition under which a layer fails: an expression on one figure of a
// row, such as actual.cos<0.99 or bits.max_ulp>2. [ParseGate] makes one.
type Gate struct {
	Row  Row
	expr Expr
}

// ParseGate parses [ROW.]METRIC OP NUMBER: an expression as [ParseExpr] reads it, in
// front of it emulated, actual or bits and a dot. With bits the figures are those of
// the actual output against the emulated one, and beside them there are mismatched,
// the elements whose bits differ, share, what part of all elements that is, 0 to 1,
// and max_ulp.
func ParseGate(s string) (Gate, error) {
	row, text, err := splitRow(s)
	if err != nil {
		return Gate{}, fmt.Errorf("expression %q: %w", s, err)
	}
	e, err := parseExpr(text, row.metrics())
	if err != nil {
		return Gate{}, fmt.Errorf("expression %q: %w", s, row.hint(text, err))
	}
	return Gate{row, e}, nil
}

// String returns the gate in the form actual.cos_sim<0.99, which [ParseGate] reads
// back as the same gate.
func (g Gate) String() string { return g.Row.prefix() + g.expr.String() }

// Metric returns the name of the figure that the gate is about.
func (g Gate) Metric() string { return g.expr.Metric() }

// NeedsActual reports whether the gate is about an actual output alone.
func (g Gate) NeedsActual() bool { return g.Row == Actual || g.Row == BitRow }

// Below reports whether the gate fails small figures rather than large ones.
func (g Gate) Below() bool { return g.expr.op == less || g.expr.op == lessEqual }

// Value returns the figure that the gate is about, of a row's figures v and, for
// BitRow, its bits; b may be nil for other rows.
func (g Gate) Value(v Values, b *Bits) float64 {
	return Figure{g.Row, g.expr.metric}.Value(v, b)
}

// Holds reports whether the figure meets the condition, which fails the layer. A NaN
// meets every condition, as for [Expr.Holds].
func (g Gate) Holds(v Values, b *Bits) bool { return g.expr.holds(g.Value(v, b)) }

// HoldsFor is Holds for a figure of that value.
func (g Gate) HoldsFor(value float64) bool { return g.expr.holds(value) }
