package manifest

import (
	"errors"
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Problem is the shape of one attention.
type Problem struct {
	Batch, Heads, KVHeads, Queries, Keys, HeadDim int
	Causal                                        bool
	// DType is f16 or bf16.
	DType string
	// Scale multiplies Q K^T.
	Scale float64
}

// Plan is what a manifest asks for on one problem.
type Plan struct {
	// Sizes holds each buffer's size in bytes, q, k, v, o and lse included, and
	// Types its element type.
	Sizes map[string]int
	Types map[string]string
	// Launches are in order.
	Launches []PlannedLaunch
}

// Bits is the width of a buffer's elements.
func (p *Plan) Bits(name string) int { return types[p.Types[name]] }

// PlannedLaunch is a launch with its numbers.
type PlannedLaunch struct {
	Entry       string
	Grid, Block [3]int
	Shared      int
	Args        []PlannedArg
}

// PlannedArg is the name of a buffer, or a value, or neither: a null pointer.
type PlannedArg struct {
	Buffer string
	Type   string // i32, i64 or f32 for a value
	Int    int64
	Float  float32
}

// maxBytes bounds a buffer: no GPU has more.
const maxBytes = min(1<<40, math.MaxInt)

// ErrUnsupported is in the error of a problem that a kernel does not take, by its
// manifest's head_dims and dtypes. Any other error is a fault of the manifest.
var ErrUnsupported = errors.New("unsupported")

// Plan evaluates the manifest on a problem. Its errors name the manifest.
func (m *Manifest) Plan(p Problem) (*Plan, error) {
	if !slices.Contains(m.HeadDims, p.HeadDim) {
		return nil, fmt.Errorf("%w: %s does not do head_dim %d (it does %s)", ErrUnsupported, m.Name, p.HeadDim, strings.Trim(fmt.Sprint(m.HeadDims), "[]"))
	}
	if !slices.Contains(m.DTypes, p.DType) {
		return nil, fmt.Errorf("%w: %s does not do %s (it does %s)", ErrUnsupported, m.Name, p.DType, strings.Join(m.DTypes, ", "))
	}
	plan, err := m.plan(p)
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", m.Name, err)
	}
	return plan, nil
}

func (m *Manifest) plan(p Problem) (*Plan, error) {
	causal := 0
	if p.Causal {
		causal = 1
	}
	vars := map[string]constant.Value{}
	for name, x := range map[string]int{
		"batch": p.Batch, "heads": p.Heads, "kv_heads": p.KVHeads, "group": p.Heads / max(p.KVHeads, 1),
		"queries": p.Queries, "keys": p.Keys, "head_dim": p.HeadDim, "causal": causal,
	} {
		vars[name] = constant.MakeInt64(int64(x))
	}
	for _, binding := range m.Let {
		if len(binding) != 1 {
			return nil, errors.New("let: each item gives one name: write \"- name: expression\"")
		}
		for name, text := range binding {
			if _, ok := vars[name]; ok {
				return nil, fmt.Errorf("let: %s has a value already", name)
			}
			x, err := evaluate(text, vars, false)
			if err != nil {
				return nil, fmt.Errorf("let %s: %w", name, err)
			}
			vars[name] = x
		}
	}
	rows := p.Batch * p.Heads * p.Queries
	kv := p.Batch * p.KVHeads * p.Keys * p.HeadDim * 2
	plan := &Plan{
		Sizes: map[string]int{"q": rows * p.HeadDim * 2, "k": kv, "v": kv, "o": rows * p.HeadDim * 2, "lse": rows * 4},
		Types: map[string]string{"q": p.DType, "k": p.DType, "v": p.DType, "o": p.DType, "lse": "f32"},
	}
	for _, name := range slices.Sorted(maps.Keys(m.Buffers)) {
		b := m.Buffers[name]
		n, err := integer(b.Count, vars, 0, maxBytes)
		if err != nil {
			return nil, fmt.Errorf("buffer %s: count: %w", name, err)
		}
		plan.Sizes[name] = (n*types[b.Type] + 7) / 8
		plan.Types[name] = b.Type
		if b.Type == "dtype" {
			plan.Types[name] = p.DType
		}
	}
	names := strings.NewReplacer("{dtype}", p.DType, "{head_dim}", strconv.Itoa(p.HeadDim), "{causal}", strconv.Itoa(causal))
	for _, l := range m.Launches {
		pl, err := l.plan(plan, vars, p.Scale)
		if err != nil {
			return nil, fmt.Errorf("launch of %s: %w", l.Entry, err)
		}
		pl.Entry = names.Replace(l.Entry)
		plan.Launches = append(plan.Launches, pl)
	}
	return plan, nil
}

// What any GPU can launch (CUDA C++ Programming Guide, technical specifications per
// compute capability).
const maxThreads = 1024

var (
	maxGrid  = [3]int{1<<31 - 1, 65535, 65535}
	maxBlock = [3]int{1024, 1024, 64}
)

func (l *Launch) plan(plan *Plan, vars map[string]constant.Value, scale float64) (PlannedLaunch, error) {
	out := PlannedLaunch{Grid: [3]int{1, 1, 1}, Block: [3]int{1, 1, 1}}
	for _, g := range []struct {
		name string
		from []string
		to   *[3]int
		most [3]int
	}{{"grid", l.Grid, &out.Grid, maxGrid}, {"block", l.Block, &out.Block, maxBlock}} {
		if n := len(g.from); n < 1 || n > 3 {
			return out, fmt.Errorf("%s has %d dimensions: want 1 to 3", g.name, n)
		}
		for i, text := range g.from {
			n, err := integer(text, vars, 1, g.most[i])
			if err != nil {
				return out, fmt.Errorf("%s: %w", g.name, err)
			}
			g.to[i] = n
		}
	}
	if n := out.Block[0] * out.Block[1] * out.Block[2]; n > maxThreads {
		return out, fmt.Errorf("block has %d threads: want at most %d", n, maxThreads)
	}
	if l.Shared != "" {
		n, err := integer(l.Shared, vars, 0, 1<<20)
		if err != nil {
			return out, fmt.Errorf("shared: %w", err)
		}
		out.Shared = n
	}
	for _, text := range l.Args {
		a, err := argument(text, plan, vars, scale)
		if err != nil {
			return out, fmt.Errorf("argument %q: %w", text, err)
		}
		out.Args = append(out.Args, a)
	}
	return out, nil
}

func argument(text string, plan *Plan, vars map[string]constant.Value, scale float64) (PlannedArg, error) {
	kind, rest, isValue := strings.Cut(text, " ")
	if !isValue {
		if text == "null" {
			return PlannedArg{}, nil
		}
		if _, ok := plan.Sizes[text]; !ok {
			return PlannedArg{}, errors.New("no such buffer; a value needs a type, as in \"i32 keys\"")
		}
		return PlannedArg{Buffer: text}, nil
	}
	switch kind {
	case "i32", "i64":
		limit := 1<<31 - 1
		if kind == "i64" {
			limit = min(1<<62, math.MaxInt)
		}
		n, err := integer(rest, vars, -limit, limit)
		return PlannedArg{Type: kind, Int: int64(n)}, err
	case "f32":
		all := maps.Clone(vars)
		all["sm_scale"] = constant.MakeFloat64(scale)
		x, err := evaluate(rest, all, true)
		if err != nil {
			return PlannedArg{}, err
		}
		f, _ := constant.Float32Val(x)
		return PlannedArg{Type: kind, Float: f}, nil
	}
	return PlannedArg{}, fmt.Errorf("unknown type %q (have i32, i64, f32)", kind)
}

// integer evaluates an expression to a number from lo to hi.
func integer(text string, vars map[string]constant.Value, lo, hi int) (int, error) {
	x, err := evaluate(text, vars, false)
	if err != nil {
		return 0, err
	}
	n, exact := constant.Int64Val(x)
	if !exact || n < int64(lo) || n > int64(hi) {
		return 0, fmt.Errorf("%s is %s: want %d to %d", text, x, lo, hi)
	}
	return int(n), nil
}

// evaluate computes an expression in Go's syntax, with exact arithmetic. Without
// floats it is over integers, and division truncates.
func evaluate(text string, vars map[string]constant.Value, floats bool) (constant.Value, error) {
	e, err := parser.ParseExpr(text)
	if err != nil {
		return nil, fmt.Errorf("%q is not an expression", text)
	}
	x, err := walk(e, vars, floats, 0)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", text, err)
	}
	return x, nil
}

// maxDepth and maxBits keep a hostile expression from taking long.
const (
	maxDepth = 100
	maxBits  = 128
)

func walk(e ast.Expr, vars map[string]constant.Value, floats bool, depth int) (constant.Value, error) {
	if depth > maxDepth {
		return nil, errors.New("too deep")
	}
	sub := func(e ast.Expr) (constant.Value, error) { return walk(e, vars, floats, depth+1) }
	switch e := e.(type) {
	case *ast.ParenExpr:
		return sub(e.X)
	case *ast.Ident:
		if x, ok := vars[e.Name]; ok {
			return x, nil
		}
		return nil, fmt.Errorf("unknown variable %s (have %s)", e.Name, strings.Join(slices.Sorted(maps.Keys(vars)), ", "))
	case *ast.BasicLit:
		if len(e.Value) <= 40 && (e.Kind == token.INT || floats && e.Kind == token.FLOAT && !strings.ContainsAny(e.Value, "eEpP")) {
			return constant.MakeFromLiteral(e.Value, e.Kind, 0), nil
		}
		return nil, fmt.Errorf("%s is no number here", e.Value)
	case *ast.UnaryExpr:
		if x, err := sub(e.X); err != nil || e.Op == token.SUB {
			if err != nil {
				return nil, err
			}
			return constant.UnaryOp(token.SUB, x, 0), nil
		}
	case *ast.BinaryExpr:
		x, err := sub(e.X)
		if err != nil {
			return nil, err
		}
		y, err := sub(e.Y)
		if err != nil {
			return nil, err
		}
		return operate(e.Op, x, y, floats)
	case *ast.CallExpr:
		f, ok := e.Fun.(*ast.Ident)
		if !ok || f.Name != "min" && f.Name != "max" || len(e.Args) == 0 {
			return nil, errors.New("the only functions are min and max")
		}
		op := token.LSS
		if f.Name == "max" {
			op = token.GTR
		}
		var best constant.Value
		for _, a := range e.Args {
			x, err := sub(a)
			if err != nil {
				return nil, err
			}
			if best == nil || constant.Compare(x, op, best) {
				best = x
			}
		}
		return best, nil
	}
	return nil, errors.New("only + - * / %, parentheses, min and max are known")
}

func operate(op token.Token, x, y constant.Value, floats bool) (constant.Value, error) {
	switch op {
	case token.ADD, token.SUB, token.MUL:
	case token.QUO, token.REM:
		if constant.Sign(y) == 0 {
			return nil, errors.New("division by zero")
		}
		if op == token.REM && (x.Kind() != constant.Int || y.Kind() != constant.Int) {
			return nil, errors.New("% is for integers")
		}
		if op == token.QUO && !floats {
			op = token.QUO_ASSIGN // which is how package constant spells integer division
		}
	default:
		return nil, fmt.Errorf("operator %s is not known (have + - * / %%)", op)
	}
	z := constant.BinaryOp(x, op, y)
	if z.Kind() == constant.Int && constant.BitLen(z) > maxBits {
		return nil, errors.New("too large")
	}
	return z, nil
}
