package report

import (
	"embed"
	"fmt"
	"html/template"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

//go:embed page.html.tmpl style.css
var files embed.FS

var pageTemplate = template.Must(template.New("page.html.tmpl").Funcs(template.FuncMap{
	"style": func() (template.CSS, error) {
		b, err := files.ReadFile("style.css")
		return template.CSS(b), err
	},
}).ParseFS(files, "page.html.tmpl"))

// page is what the template shows.
type page struct {
	Title string
	// Kind is the line above the title.
	Kind     string
	Facts    []fact
	Verdict  []string
	Sections []section
}

// fact is a line of the list of what was run.
type fact struct{ Key, Value string }

// section is a part of the page; what it lacks is left out.
type section struct {
	ID, Title string
	Intro     []string
	Charts    []chart
	Tables    []table
	Notes     []string
	// Code is a command.
	Code string
	// MoreCharts and MoreTables are folded under MoreTitle.
	MoreTitle  string
	MoreCharts []chart
	MoreTables []table
	Parts      []section
}

// table is a table of text.
type table struct {
	Caption string
	Columns []column
	Rows    [][]string
	// Bold rows sum up.
	Bold map[int]bool
}

// column is the head of a table's column; Class is "num" for numbers, "name" for what
// may be long and is then wrapped, and "" for the rest.
type column struct{ Text, Class string }

// columns declares columns: ">" in front makes one of numbers, "~" one of names.
func columns(heads ...string) []column {
	var out []column
	for _, h := range heads {
		switch {
		case strings.HasPrefix(h, ">"):
			out = append(out, column{h[1:], "num"})
		case strings.HasPrefix(h, "~"):
			out = append(out, column{h[1:], "name"})
		default:
			out = append(out, column{h, ""})
		}
	}
	return out
}

// Cells returns a row with its columns' classes; what it lacks at the end is empty.
func (t table) Cells(row []string) []column {
	out := make([]column, len(t.Columns))
	for i, c := range t.Columns {
		out[i].Class = c.Class
		if i < len(row) {
			out[i].Text = row[i]
		}
	}
	return out
}

// IsBold reports whether a row sums up.
func (t table) IsBold(row int) bool { return t.Bold[row] }

// clean makes an untrusted name fit to be shown on a line: control and formatting
// characters, which might hide or reverse what follows, become Go escapes.
func clean(s string) string {
	var b strings.Builder
	for _, r := range strings.ToValidUTF8(s, "\uFFFD") {
		if r != ' ' && !unicode.IsGraphic(r) || unicode.Is(unicode.Bidi_Control, r) {
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// sentence makes a sentence of untrusted words.
func sentence(s string) string {
	s = clean(s)
	first, n := utf8.DecodeRuneInString(s)
	if n == 0 {
		return ""
	}
	return string(unicode.ToUpper(first)) + s[n:] + "."
}

// plural writes a count of things.
func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// digits writes a number with n significant digits, in fixed notation where that is
// not long.
func digits(x float64, n int) string {
	if math.IsNaN(x) || math.IsInf(x, 0) || x == 0 {
		return strconv.FormatFloat(x, 'g', -1, 64)
	}
	s := strconv.FormatFloat(x, 'e', n-1, 64)
	mantissa, exp, _ := strings.Cut(s, "e")
	e, err := strconv.Atoi(exp)
	if err != nil || e < -4 || e > 6 {
		return mantissa + "e" + strconv.Itoa(e)
	}
	return strconv.FormatFloat(x, 'f', max(0, n-1-e), 64)
}

// percent writes a fraction with the digits that it takes to see it.
func percent(x float64) string {
	p := 100 * x
	switch a := math.Abs(p); {
	case math.IsNaN(p) || math.IsInf(p, 0):
		return strconv.FormatFloat(p, 'g', -1, 64)
	case a == 0:
		return "0%"
	case a < 0.1:
		return digits(p, 2) + "%"
	}
	return strconv.FormatFloat(p, 'f', 1, 64) + "%"
}

// ratio divides counts.
func ratio(n, of int64) float64 {
	if of == 0 {
		return 0
	}
	return float64(n) / float64(of)
}

// shellLine writes arguments so that a POSIX shell reads them back.
func shellLine(args []string) string {
	var out []string
	for _, a := range args {
		plain := a != "" && !strings.ContainsFunc(a, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./,=+:@%", r))
		})
		if !plain {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		out = append(out, clean(a))
	}
	return strings.Join(out, " ")
}
