package ipynb

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"maps"
	"slices"
	"strings"
)

// Program returns the notebook's cells as the files of one Go program, by name.
// Run with the numbers of cells as arguments, counted from 1 over all cells, it
// runs these cells. What comes before a cell's %% line are declarations, what
// comes after is the function that runs; other lines that begin with % or ! are
// commands to GoNB and no part of the program. name is used in positions.
//
// GoNB lets a later cell replace a declaration and leaves out unused imports.
// Here the one is an error and the other too: a notebook needs neither.
func (nb *Notebook) Program(name string) (map[string][]byte, error) {
	imports := map[string]bool{}
	var body, dispatch bytes.Buffer
	for i, c := range nb.Cells {
		if c.CellType != "code" {
			continue
		}
		position := fmt.Sprintf("%s[cell %d]", name, i+1)
		decls, run, at := split(string(c.Source))
		fset := token.NewFileSet()
		const head = "package main;"
		f, err := parser.ParseFile(fset, position, head+decls, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		code := []byte(decls)
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.IMPORT {
				continue
			}
			for _, spec := range g.Specs {
				s := spec.(*ast.ImportSpec)
				line := s.Path.Value
				if s.Name != nil {
					line = s.Name.Name + " " + line
				}
				imports[line] = true
			}
			for k := fset.Position(g.Pos()).Offset; k < fset.Position(g.End()).Offset; k++ {
				if code[k-len(head)] != '\n' {
					code[k-len(head)] = ' '
				}
			}
		}
		fmt.Fprintf(&body, "//line %s:1\n%s\n", position, code)
		if at > 0 {
			fmt.Fprintf(&body, "func cell%d() {\n//line %s:%d\n%s\n}\n", i+1, position, at, run)
			fmt.Fprintf(&dispatch, "case \"%d\":\ncell%d()\n", i+1, i+1)
		}
	}
	var cells bytes.Buffer
	fmt.Fprintf(&cells, "package main\n\nimport (\n%s\n)\n\n%s", strings.Join(slices.Sorted(maps.Keys(imports)), "\n"), body.Bytes())
	main, err := format.Source(fmt.Appendf(nil, `package main

import (
	"fmt"
	"os"
)

func main() {
	for _, cell := range os.Args[1:] {
		switch cell {
		%sdefault:
			fmt.Fprintf(os.Stderr, "no cell %%s that runs\n", cell)
			os.Exit(2)
		}
	}
}
`, dispatch.Bytes()))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return map[string][]byte{"cells.go": cells.Bytes(), "main.go": main}, nil
}

// split returns a cell's declarations, the statements that it runs, and the line
// where these begin, 0 if there are none. Commands to GoNB become empty lines.
func split(source string) (decls, run string, at int) {
	lines := strings.Split(source, "\n")
	continued := false
	for i, line := range lines {
		switch {
		case at == 0 && (line == "%%" || line == "%main"):
			at = i + 2
			lines[i] = ""
		case continued || strings.HasPrefix(line, "!") || strings.HasPrefix(line, "%"):
			continued = strings.HasSuffix(line, `\`)
			lines[i] = ""
		}
	}
	if at == 0 {
		return strings.Join(lines, "\n"), "", 0
	}
	return strings.Join(lines[:at-1], "\n"), strings.Join(lines[min(at-1, len(lines)):], "\n"), at
}

// Unformatted returns the first code cell whose Go is not as gofmt writes it, and
// nil if there is none.
func (nb *Notebook) Unformatted() error {
	for i, c := range nb.Cells {
		if c.CellType != "code" {
			continue
		}
		decls, run, _ := split(string(c.Source))
		for _, part := range []string{decls, run} {
			part = strings.TrimSpace(part)
			want, err := format.Source([]byte(part))
			if err != nil {
				return fmt.Errorf("cell %d: %w", i+1, err)
			}
			if err := differentText(Text(want), Text(part)); err != nil {
				return fmt.Errorf("cell %d is not gofmt-formatted: %w", i+1, err)
			}
		}
	}
	return nil
}
