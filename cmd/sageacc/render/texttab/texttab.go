// Package texttab renders tables of text. It knows nothing of what the cells
// mean: numbers come formatted.
package texttab

import (
	"bufio"
	"encoding/csv"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/rivo/uniseg"
)

// Align says to which side of its column a cell is set.
type Align uint8

const (
	// Left sets cells to the left.
	Left Align = iota
	// Right sets cells to the right, as suits numbers.
	Right
)

// Table is a header and rows of cells. Rows need not be of equal length: the
// table is as wide as the longest of them and of the header, and missing cells
// are empty. Columns beyond the end of Align are set to the left.
type Table struct {
	Header []string
	Align  []Align
	Rows   [][]string
}

// Text writes the table as aligned plain text: columns two blanks apart, a rule
// under the header, no blanks at the ends of lines. Without a header there is no
// rule either. The width of a cell is that on a terminal with fixed width, where
// East Asian characters take two columns. Line breaks and tabs in a cell become
// blanks, since they would break the table.
func (t *Table) Text(w io.Writer) error {
	widths := t.widths(clean, 0)
	b := bufio.NewWriter(w)
	line := func(row []string) {
		var s strings.Builder
		for c, width := range widths {
			if c > 0 {
				s.WriteString("  ")
			}
			s.WriteString(pad(clean(cell(row, c)), width, t.align(c)))
		}
		fmt.Fprintln(b, strings.TrimRight(s.String(), " "))
	}
	if len(t.Header) > 0 {
		line(t.Header)
		rule := make([]string, len(widths))
		for c, width := range widths {
			rule[c] = strings.Repeat("-", width)
		}
		line(rule)
	}
	for _, row := range t.Rows {
		line(row)
	}
	return b.Flush()
}

// Markdown writes the table in the syntax of GitHub Flavored Markdown, padded so
// that its source can be read as well. It escapes the bars in cells, and the
// backslashes before them, and turns line breaks into <br>. Markdown has no
// tables without a header: a missing one is written as empty cells. A cell's text is
// no link, picture or HTML.
func (t *Table) Markdown(w io.Writer) error {
	const shortestRule = 3 // what every Markdown dialect accepts, "--:"
	widths := t.widths(escape, shortestRule)
	b := bufio.NewWriter(w)
	line := func(row []string) {
		for c, width := range widths {
			fmt.Fprintf(b, "| %s ", pad(escape(cell(row, c)), width, t.align(c)))
		}
		fmt.Fprintln(b, "|")
	}
	if len(widths) == 0 {
		return nil
	}
	line(t.Header)
	for c, width := range widths {
		rule := strings.Repeat("-", width)
		if t.align(c) == Right {
			rule = rule[1:] + ":"
		}
		fmt.Fprintf(b, "| %s ", rule)
	}
	fmt.Fprintln(b, "|")
	for _, row := range t.Rows {
		line(row)
	}
	return b.Flush()
}

// CSV writes the table as RFC 4180 has it, with encoding/csv, every record of
// the same length. The header, if there is one, is the first record. A cell that a
// spreadsheet would take for a formula has an apostrophe in front, as there; numbers
// have none.
func (t *Table) CSV(w io.Writer) error {
	columns := t.columns()
	c := csv.NewWriter(w)
	record := make([]string, columns)
	write := func(row []string) error {
		clear(record)
		for c, s := range row {
			record[c] = inert(s)
		}
		return c.Write(record)
	}
	if len(t.Header) > 0 {
		if err := write(t.Header); err != nil {
			return err
		}
	}
	for _, row := range t.Rows {
		if err := write(row); err != nil {
			return err
		}
	}
	c.Flush()
	return c.Error()
}

// inert keeps a spreadsheet from evaluating a cell.
func inert(s string) string {
	first, _ := utf8.DecodeRuneInString(s)
	if !strings.ContainsRune("=+-@\t\r\n＝＋－＠", first) || s == "" {
		return s
	}
	if _, err := strconv.ParseFloat(s, 64); err == nil {
		return s
	}
	return "'" + s
}

// columns returns the number of columns.
func (t *Table) columns() int {
	n := len(t.Header)
	for _, row := range t.Rows {
		n = max(n, len(row))
	}
	return n
}

// widths returns the width of each column, least at the least, where form is
// what is done to a cell before it is written.
func (t *Table) widths(form func(string) string, least int) []int {
	widths := make([]int, t.columns())
	for c := range widths {
		widths[c] = max(least, uniseg.StringWidth(form(cell(t.Header, c))))
		for _, row := range t.Rows {
			widths[c] = max(widths[c], uniseg.StringWidth(form(cell(row, c))))
		}
	}
	return widths
}

func (t *Table) align(c int) Align {
	if c < len(t.Align) {
		return t.Align[c]
	}
	return Left
}

func cell(row []string, c int) string {
	if c < len(row) {
		return row[c]
	}
	return ""
}

func pad(s string, width int, a Align) string {
	blanks := strings.Repeat(" ", max(0, width-uniseg.StringWidth(s)))
	if a == Right {
		return blanks + s
	}
	return s + blanks
}

// widest is how wide a cell of text may be: what stands in it may come from a file, and
// every row of the table is as wide as the widest.
const widest = 300

// clean makes a cell of text of s.
func clean(s string) string {
	if len(s) <= widest {
		return oneLine(s)
	}
	return Shorten(s, widest)
}

// oneLine makes a line of s.
func oneLine(s string) string { return Printable(lineBreaks.Replace(s)) }

// Shorten returns s for a table or a message: on one line, without control
// characters, and where it is wider than width columns with an ellipsis in place
// of its middle, so that the beginning and the end of a name remain. It never
// splits what is read as one character.
func Shorten(s string, width int) string {
	// What is far from both ends is not worth the time of looking at it.
	if far := 32 * width; len(s) > 2*far {
		s = strings.ToValidUTF8(s[:far], "") + "\u2026" + strings.ToValidUTF8(s[len(s)-far:], "")
	}
	s = oneLine(s)
	if uniseg.StringWidth(s) <= width {
		return s
	}
	type cluster struct {
		text  string
		width int
	}
	var all []cluster
	for rest, state := s, -1; rest != ""; {
		var c cluster
		c.text, rest, c.width, state = uniseg.FirstGraphemeClusterInString(rest, state)
		all = append(all, c)
	}
	const ellipsis = "…"
	room := width - 1
	head, tail := "", ""
	for left, i := (room+1)/2, 0; i < len(all) && all[i].width <= left; i++ {
		left -= all[i].width
		head += all[i].text
	}
	for left, i := room/2, len(all)-1; i >= 0 && all[i].width <= left; i-- {
		left -= all[i].width
		tail = all[i].text + tail
	}
	return head + ellipsis + tail
}

func escape(s string) string {
	if len(s) > widest {
		s = Shorten(s, widest)
	}
	return Printable(markdown.Replace(s))
}

// Markdown returns s as one line of running Markdown text, in which no character of
// s means anything but itself.
func Markdown(s string) string { return Printable(running.Replace(s)) }

// The replacers are safe for concurrent use and never change.
var (
	lineBreaks = strings.NewReplacer("\r\n", " ", "\n", " ", "\r", " ", "\t", " ")
	running    = strings.NewReplacer(`\`, `\\`, "`", "\\`", "*", `\*`, "[", `\[`, "]", `\]`, "<", "&lt;", ">", "&gt;", "&", "&amp;", "|", `\|`, "~", `\~`,
		"\r\n", " ", "\n", " ", "\r", " ", "\t", " ")
	markdown = strings.NewReplacer(`\|`, `\\\|`, "|", `\|`, "\r\n", "<br>", "\n", "<br>", "\r", "<br>", "\t", " ", "<", "&lt;", "[", `\[`)
)
