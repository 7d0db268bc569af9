package main

import (
	"fmt"
	"go/ast"
	"go/build"
	"go/constant"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Mutant is one change of one source file.
type Mutant struct {
	// File is the file that changes, as the package's folder was given.
	File string
	// Where names the function, variable or constant that the change is in.
	Where string
	// Change shows the smallest expression around it, before and after.
	Change string
	// Line is where it stands.
	Line int

	from, to int // bytes of the file
	text     string
}

// Key names the mutant without its line, so that other changes of a file leave it as it
// is.
func (m *Mutant) Key() string { return fmt.Sprintf("%s %s: %s", m.File, m.Where, m.Change) }

// Apply returns the changed source.
func (m *Mutant) Apply(source []byte) []byte {
	return slices.Concat(source[:m.from], []byte(m.text), source[m.to:])
}

// Mutants lists those of the packages in dirs: each number one more and one less, each
// comparison made strict or not or negated, each use of one of the package's enumerated
// constants made the next one of its type, each boolean in a table negated. Of a literal
// with more than 32 elements every every-th is changed.
func Mutants(dirs []string, every int) ([][]Mutant, error) {
	fset := token.NewFileSet()
	// One for all, as it reads what packages import from source, and keeps it.
	imported := importer.ForCompiler(fset, "source", nil)
	var out [][]Mutant
	for _, dir := range dirs {
		list, err := mutants(fset, imported, filepath.Clean(dir), every)
		if err != nil {
			return nil, err
		}
		out = append(out, list)
	}
	return out, nil
}

// mutants is Mutants of one package.
func mutants(fset *token.FileSet, imported types.Importer, dir string, every int) ([]Mutant, error) {
	pkg, err := build.ImportDir(dir, 0)
	if err != nil {
		return nil, err
	}
	var files []*ast.File
	sources := map[string][]byte{}
	for _, name := range pkg.GoFiles {
		path := filepath.Join(dir, name)
		src, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		f, err := parser.ParseFile(fset, path, src, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		sources[path] = src
		files = append(files, f)
	}
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}, Types: map[ast.Expr]types.TypeAndValue{}}
	conf := types.Config{Importer: imported, Sizes: types.SizesFor("gc", build.Default.GOARCH)}
	checked, err := conf.Check(pkg.ImportPath, fset, files, info)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	c := &collector{fset: fset, info: info, every: every, next: successors(checked)}
	for _, f := range files {
		path := fset.Position(f.Pos()).Filename
		c.source, c.file, c.base = sources[path], path, fset.File(f.Pos()).Base()
		for _, d := range f.Decls {
			c.decl(d)
		}
	}
	number(c.found)
	return c.found, nil
}

// number tells changes apart that look alike.
func number(list []Mutant) {
	seen := map[string]int{}
	for i := range list {
		k := list[i].Key()
		seen[k]++
		if n := seen[k]; n > 1 {
			list[i].Change += fmt.Sprintf(" (%d)", n)
		}
	}
}

// successors maps each enumerated constant of the package to the next of its type, by
// value and around.
func successors(pkg *types.Package) map[types.Object]string {
	byType := map[types.Type][]*types.Const{}
	for _, name := range pkg.Scope().Names() {
		c, ok := pkg.Scope().Lookup(name).(*types.Const)
		if !ok {
			continue
		}
		if n, ok := c.Type().(*types.Named); ok && n.Obj().Pkg() == pkg && c.Val().Kind() == constant.Int {
			byType[c.Type()] = append(byType[c.Type()], c)
		}
	}
	next := map[types.Object]string{}
	for _, list := range byType {
		slices.SortFunc(list, func(a, b *types.Const) int {
			switch {
			case constant.Compare(a.Val(), token.LSS, b.Val()):
				return -1
			case constant.Compare(b.Val(), token.LSS, a.Val()):
				return 1
			}
			return strings.Compare(a.Name(), b.Name())
		})
		for i, c := range list {
			if len(list) > 1 {
				next[c] = list[(i+1)%len(list)].Name()
			}
		}
	}
	return next
}

// collector walks the declarations of a file.
type collector struct {
	fset   *token.FileSet
	info   *types.Info
	next   map[types.Object]string
	every  int
	file   string
	source []byte
	base   int
	where  string
	found  []Mutant
}

func (c *collector) decl(d ast.Decl) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		c.where = d.Name.Name
		if d.Recv != nil && len(d.Recv.List) == 1 {
			c.where = strings.TrimPrefix(c.text(d.Recv.List[0].Type), "*") + "." + c.where
		}
		if d.Body != nil {
			c.walk(d.Body, nil)
		}
	case *ast.GenDecl:
		if d.Tok == token.IMPORT {
			return
		}
		for _, s := range d.Specs {
			switch s := s.(type) {
			case *ast.ValueSpec:
				c.where = s.Names[0].Name
				c.walk(s, nil)
			case *ast.TypeSpec:
				c.where = s.Name.Name
				c.walk(s.Type, nil)
			}
		}
	}
}

// walk visits n, whose smallest expression or statement around it is around.
func (c *collector) walk(n, around ast.Node) {
	switch n := n.(type) {
	case *ast.CompositeLit:
		step := 1
		if len(n.Elts) > 32 && onlyNumbers(n) {
			step = c.every
		}
		for i, e := range n.Elts {
			if i%step != 0 {
				continue
			}
			if kv, ok := e.(*ast.KeyValueExpr); ok {
				c.walk(kv.Value, kv) // a key names a place
				continue
			}
			c.walk(e, c.narrow(n, e))
		}
		if n.Type != nil {
			c.walk(n.Type, n)
		}
		return
	case *ast.BasicLit:
		c.literal(n, around)
	case *ast.Ident:
		switch obj := c.info.Uses[n]; {
		case obj == nil:
		case c.next[obj] != "":
			c.add(n.Pos(), n.End(), c.next[obj], around)
		case obj == types.Universe.Lookup("true"):
			c.add(n.Pos(), n.End(), "false", around)
		case obj == types.Universe.Lookup("false"):
			c.add(n.Pos(), n.End(), "true", around)
		}
	case *ast.BinaryExpr:
		if op, ok := comparisons[n.Op]; ok {
			c.add(n.OpPos, n.OpPos+token.Pos(len(n.Op.String())), op.String(), n)
		}
	case *ast.SelectorExpr:
		c.walk(n.X, around)
		return
	}
	for child := range children(n) {
		next := around
		switch n.(type) {
		case ast.Expr, *ast.AssignStmt, *ast.ReturnStmt, *ast.ValueSpec, *ast.IncDecStmt, *ast.CaseClause:
			if !contains(n, 80, c) {
				break
			}
			next = n
		}
		if next == nil {
			next = child
		}
		c.walk(child, next)
	}
}

// onlyNumbers says that a literal holds numbers and nothing else.
func onlyNumbers(lit *ast.CompositeLit) bool {
	for _, e := range lit.Elts {
		if u, ok := e.(*ast.UnaryExpr); ok {
			e = u.X
		}
		switch e := e.(type) {
		case *ast.BasicLit:
		case *ast.CompositeLit:
			if !onlyNumbers(e) {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// narrow is what to show of element e of a literal: the literal if it is short.
func (c *collector) narrow(lit *ast.CompositeLit, e ast.Expr) ast.Node {
	if contains(lit, 100, c) {
		return lit
	}
	return e
}

// contains says that the source of n is at most most bytes on one line.
func contains(n ast.Node, most int, c *collector) bool {
	s := c.text(n)
	return len(s) <= most && !strings.Contains(s, "\n")
}

func children(n ast.Node) func(func(ast.Node) bool) {
	return func(yield func(ast.Node) bool) {
		more := true
		ast.Inspect(n, func(m ast.Node) bool {
			if m == n {
				return true
			}
			if m != nil && more {
				more = yield(m)
			}
			return false
		})
	}
}

var comparisons = map[token.Token]token.Token{
	token.LSS: token.LEQ, token.LEQ: token.LSS, token.GTR: token.GEQ, token.GEQ: token.GTR, token.EQL: token.NEQ, token.NEQ: token.EQL,
}

// literal changes a number by one, or one that is not whole by a part in 2^20.
func (c *collector) literal(n *ast.BasicLit, around ast.Node) {
	switch n.Kind {
	case token.INT, token.CHAR:
		c.add(n.Pos(), n.End(), "("+n.Value+" + 1)", around)
		c.add(n.Pos(), n.End(), "("+n.Value+" - 1)", around)
	case token.FLOAT:
		x, err := strconv.ParseFloat(strings.ReplaceAll(n.Value, "_", ""), 64)
		if err == nil && x == float64(int64(x)) {
			c.add(n.Pos(), n.End(), "("+n.Value+" + 1)", around)
			c.add(n.Pos(), n.End(), "("+n.Value+" - 1)", around)
			return
		}
		c.add(n.Pos(), n.End(), "("+n.Value+" * (1 + 0x1p-20))", around)
		c.add(n.Pos(), n.End(), "("+n.Value+" * (1 - 0x1p-20))", around)
	}
}

func (c *collector) text(n ast.Node) string { return string(c.source[c.at(n.Pos()):c.at(n.End())]) }

func (c *collector) at(p token.Pos) int { return int(p) - c.base }

func (c *collector) add(from, to token.Pos, text string, around ast.Node) {
	m := Mutant{File: filepath.ToSlash(c.file), Where: c.where, Line: c.fset.Position(from).Line, from: c.at(from), to: c.at(to), text: text}
	lo, hi := m.from, m.to
	if around != nil {
		lo, hi = c.at(around.Pos()), c.at(around.End())
	}
	before := string(c.source[lo:hi])
	after := string(c.source[lo:m.from]) + text + string(c.source[m.to:hi])
	m.Change = oneLine(before) + " => " + oneLine(after)
	c.found = append(c.found, m)
}

// oneLine joins the lines of s and shortens it in the middle.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 160 {
		s = s[:80] + " ... " + s[len(s)-80:]
	}
	return s
}
