package metrics

import (
	"fmt"
	"math"
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
)

type operator uint8

const (
	less operator = iota
	lessEqual
	greater
	greaterEqual
)

// ParseExpr parses METRIC OP NUMBER, where METRIC is cos_sim (or cos, for
// short), rel_l1, rmse or max_abs, OP is <, <=, > or >=, and NUMBER is what
// [strconv.ParseFloat] reads, but NaN. Blanks may stand around each of them.
func ParseExpr(s string) (Expr, error) {
	i := strings.IndexAny(s, "<>")
	if i < 0 {
		return Expr{}, fmt.Errorf("expression %q: no <, <=, > or >=, want something like cos<0.99", s)
	}
	var e Expr
	switch name := strings.TrimSpace(s[:i]); name {
	case "cos", "cos_sim":
		e.metric = cosSim
	case "rel_l1":
		e.metric = relL1
	case "rmse":
		e.metric = rmse
	case "max_abs":
		e.metric = maxAbs
	default:
		return Expr{}, fmt.Errorf("expression %q: unknown metric %q, want cos_sim, rel_l1, rmse or max_abs", s, name)
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
		return Expr{}, fmt.Errorf("expression %q: %q is not a number a metric can be compared with", s, number)
	}
	e.bound = bound
	return e, nil
}

// String returns the expression in the form cos_sim<0.99, which [ParseExpr]
// reads back as the same expression.
func (e Expr) String() string {
	name := [...]string{cosSim: "cos_sim", relL1: "rel_l1", rmse: "rmse", maxAbs: "max_abs"}[e.metric]
	op := [...]string{less: "<", lessEqual: "<=", greater: ">", greaterEqual: ">="}[e.op]
	return name + op + strconv.FormatFloat(e.bound, 'g', -1, 64)
}

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
func (e Expr) Holds(v Values) bool {
	x := e.Value(v)
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
