package metrics

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Expr is a condition on one figure of [Values], such as cos<0.99. [ParseExpr]
// makes one; the zero value is cos<0.
type Expr struct {
	metric metric
	op     operator
	bound  float64
}

type metric uint8

const (
	cosSim metric = iota
	relL1
	rmse
	maxAbs
	// Of [Bits] only.
	mismatched
	share
	maxULP
)

// metricNames are the names, by metric; cos is short for the first.
var metricNames = [...]string{
	cosSim: "cos_sim", relL1: "rel_l1", rmse: "rmse", maxAbs: "max_abs",
	mismatched: "mismatched", share: "share", maxULP: "max_ulp",
}

// figures is how many of the names are those of [Values].
const figures = int(mismatched)

type operator uint8

const (
	less operator = iota
	lessEqual
	greater
	greaterEqual
)

var operatorNames = [...]string{less: "<", lessEqual: "<=", greater: ">", greaterEqual: ">="}

// ParseExpr parses METRIC OP NUMBER, where METRIC is cos_sim (or cos, for
// short), rel_l1, rmse or max_abs, OP is <, <=, > or >=, and NUMBER is what
// [strconv.ParseFloat] reads, but NaN. Blanks may stand around each of them.
func ParseExpr(s string) (Expr, error) {
	e, err := parseExpr(s, metricNames[:figures])
	if err != nil {
		return Expr{}, fmt.Errorf("expression %q: %w", s, err)
	}
	return e, nil
}

// parseExpr is ParseExpr for metrics of these names.
func parseExpr(s string, names []string) (Expr, error) {
	i := strings.IndexAny(s, "<>")
	if i < 0 {
		return Expr{}, fmt.Errorf("no <, <=, > or >=, want something like cos<0.99")
	}
	var e Expr
	var err error
	if e.metric, err = parseMetric(strings.TrimSpace(s[:i]), names); err != nil {
		return Expr{}, err
	}
	rest, orEqual := strings.CutPrefix(s[i+1:], "=")
	switch {
	case s[i] == '<' && !orEqual:
		e.op = less
	case s[i] == '<':
		e.op = lessEqual
	case !orEqual:
		e.op = greater
	default:
		e.op = greaterEqual
	}
	number := strings.TrimSpace(rest)
	bound, err := strconv.ParseFloat(number, 64)
	if err != nil || math.IsNaN(bound) {
		return Expr{}, fmt.Errorf("%q is not a number a metric can be compared with", number)
	}
	e.bound = bound
	return e, nil
}

// parseMetric finds a metric by name.
func parseMetric(name string, names []string) (metric, error) {
	if name == "cos" {
		name = metricNames[cosSim]
	}
	at := slices.Index(names, name)
	if at < 0 {
		last := len(names) - 1
		return 0, fmt.Errorf("unknown metric %q, want %s or %s", name, strings.Join(names[:last], ", "), names[last])
	}
	return metric(at), nil
}

// String returns the expression in the form cos_sim<0.99, which [ParseExpr]
// reads back as the same expression.
func (e Expr) String() string {
	return metricNames[e.metric] + operatorNames[e.op] + strconv.FormatFloat(e.bound, 'g', -1, 64)
}

// Metric returns the name of the figure that the expression is about.
func (e Expr) Metric() string { return metricNames[e.metric] }

// Value returns the figure of v that the expression is about.
func (e Expr) Value(v Values) float64 {
	switch e.metric {
	case cosSim:
		return float64(v.CosSim)
	case relL1:
		return float64(v.RelL1)
	case rmse:
		return float64(v.RMSE)
	default:
		return float64(v.MaxAbs)
	}
}

// Holds reports whether v meets the condition. A figure that is NaN meets every
// condition: the expressions say when to fail, and an output that cannot be
// measured must not pass.
func (e Expr) Holds(v Values) bool { return e.holds(e.Value(v)) }

func (e Expr) holds(x float64) bool {
	if math.IsNaN(x) {
		return true
	}
	switch e.op {
	case less:
		return x < e.bound
	case lessEqual:
		return x <= e.bound
	case greater:
		return x > e.bound
	default:
		return x >= e.bound
	}
}
