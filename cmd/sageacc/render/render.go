// Package render writes results for people and for programs: aligned text,
// Markdown, CSV and JSON. It computes nothing and knows nothing of files or
// flags; what it prints is in the result that it is given.
package render

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/sageacc/sageacc/cmd/sageacc/render/texttab"
	"github.com/sageacc/sageacc/internal/jsonfloat"
)

// JSON writes any result as indented JSON.
func JSON(w io.Writer, result any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(result)
}

// cosine writes a cosine similarity with the digits that set kernels apart. Only
// a cosine of exactly 1 is written as such.
func cosine(x jsonfloat.Float) string {
	if x == 1 {
		return "1"
	}
	return strconv.FormatFloat(float64(x), 'f', 6, 64)
}

// relative writes a relative error: in fixed notation, unless that would show
// less than two digits of it.
func relative(x jsonfloat.Float) string {
	switch a := math.Abs(float64(x)); {
	case a == 0:
		return "0"
	case a < 1e-4 || a >= 1e4:
		return strconv.FormatFloat(float64(x), 'e', 1, 64)
	}
	return strconv.FormatFloat(float64(x), 'f', 5, 64)
}

// absolute writes an error in the unit of the values.
func absolute(x jsonfloat.Float) string {
	if x == 0 {
		return "0"
	}
	return strconv.FormatFloat(float64(x), 'e', 3, 64)
}

// general writes a value with n significant digits at most.
func general(x jsonfloat.Float, n int) string {
	return strconv.FormatFloat(float64(x), 'g', n, 64)
}

// exact writes a value so that it reads back as the same float64.
func exact(x jsonfloat.Float) string { return strconv.FormatFloat(float64(x), 'g', -1, 64) }

// name writes the name of a layer, a tensor or a file where people read it:
// thousands of characters would make a table unreadable.
func name(s string) string {
	const width = 64
	return texttab.Shorten(s, width)
}

// origin writes how a layer was made, if it was not recorded: what a file says of that
// may be anything.
func origin(s string) string {
	const width = 200
	return fmt.Sprintf("(synthetic: %s)", texttab.Shorten(s, width))
}

// shortened is a message about a layer with its name as [name] writes it.
func shortened(message, layer string) string { return strings.ReplaceAll(message, layer, name(layer)) }

// columns declares a table by its columns' heads; those that start with ">" are
// set to the right.
func columns(heads ...string) texttab.Table {
	var t texttab.Table
	for _, h := range heads {
		name, right := strings.CutPrefix(h, ">")
		align := texttab.Left
		if right {
			align = texttab.Right
		}
		t.Header, t.Align = append(t.Header, name), append(t.Align, align)
	}
	return t
}

// pair is a line of the block in front of a table.
type pair struct{ key, value string }

// list writes lines of text.
func list(w io.Writer, lines []string) error {
	for _, l := range lines {
		if _, err := fmt.Fprintln(w, texttab.Printable(l)); err != nil {
			return err
		}
	}
	return nil
}

// items writes lines of text as a list in Markdown.
func items(w io.Writer, lines []string) error {
	for _, l := range lines {
		if _, err := fmt.Fprintf(w, "- %s\n", texttab.Markdown(l)); err != nil {
			return err
		}
	}
	return nil
}
