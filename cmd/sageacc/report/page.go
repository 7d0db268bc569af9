package report

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"strings"
	"sync"
)

//go:embed page.html.tmpl style.css js/*.js
var files embed.FS

// scripts are the parts of the page's script, in order. Each declares functions; the
// last calls them.
var scripts = []string{"words", "chart", "state", "maps", "layers", "layer", "start"}

// early hides what the script is going to draw anew, before it is laid out.
const early = "document.documentElement.classList.add('js')"

// assets are what every page has, with the hashes that its Content-Security-Policy
// names: nothing else runs or styles.
type assets struct {
	Style  template.CSS
	Script template.JS
	Early  template.JS
}

var common = sync.OnceValue(func() assets {
	read := func(name string) string {
		b, err := files.ReadFile(name)
		if err != nil {
			panic(err) // embedded above
		}
		return string(b)
	}
	var b strings.Builder
	b.WriteString("(() => {\n'use strict';\n")
	for _, s := range scripts {
		b.WriteString(read("js/" + s + ".js"))
	}
	b.WriteString("})();\n")
	return assets{Style: template.CSS(read("style.css")), Script: template.JS(b.String()), Early: early}
})

// Policy is the page's Content-Security-Policy.
func (a assets) Policy(script bool) string {
	hash := func(s string) string {
		h := sha256.Sum256([]byte(s))
		return " 'sha256-" + base64.StdEncoding.EncodeToString(h[:]) + "'"
	}
	p := "default-src 'none'; base-uri 'none'; form-action 'none'; style-src" + hash(string(a.Style))
	if script {
		p += "; script-src" + hash(string(a.Early)) + hash(string(a.Script))
	}
	return p
}

var pageTemplate = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("page.html.tmpl").ParseFS(files, "page.html.tmpl"))
})

// page is what the template shows.
type page struct {
	assets
	Title string
	// Kind is the line above the title.
	Kind  string
	Facts []fact
	// Descriptions are the whole descriptions of the kernels that were run, below the facts.
	Descriptions []fact
	Verdict      []finding
	Notes        []finding
	Sections     []section
	// Data is what the script draws from, as JSON, nil where there is no script, and
	// Details what it reads when a layer is looked at, one for each.
	Data    template.JS
	Details []template.JS
}

// fact is a line of the list of what was run.
type fact struct{ Key, Value string }

// finding is a line of the verdict.
type finding struct {
	// Severity is "bad", "warn", "good" or "note", which is worth to know and no more.
	Severity string
	Text     string
	// Layer is the number of the layer to look at, from 1, and Name its name; 0 where
	// it is about no layer.
	Layer int
	Name  string
}

// Folded reports whether the notes are more than fit before the rest.
func (p *page) Folded() bool { return len(p.Notes) > 3 }

// Mark is what stands before a finding, for those who do not see its colour.
func (f finding) Mark() string {
	return map[string]string{"bad": "✕", "warn": "!", "good": "✓"}[f.Severity]
}

// section is a part of the page; what it lacks is left out.
type section struct {
	ID, Title string
	// Mount is the id of what the script draws; without a script it is empty.
	Mount string
	// Controls are those of the overview.
	Controls *controls
	Intro    []string
	Tables   []table
	Notes    []string
	// Code is a command.
	Code string
	// Docs leads to the documentation.
	Docs  []link
	Parts []section
}

// controls are the choices over maps and table.
type controls struct {
	// Outputs has "emulated" and "actual" where two results are laid over each other
	// and have both.
	Outputs bool
	Actual  bool
	Layers  int
	// States are those that occur.
	States []state
}

// state is what a layer is: a key and words for it.
type state struct{ Key, Text string }

// docsURL is where the documentation is read.
const docsURL = "https://github.com/sageacc/sageacc/blob/main/docs/"

// link leads to a section of the documentation.
type link struct{ Text, Page string }

// URL is where the link leads.
func (l link) URL() string { return docsURL + l.Page }

// table is a table of text.
type table struct {
	Caption string
	Columns []column
	Rows    []tableRow
	// Static tables are drawn anew by the script.
	Static bool
}

// tableRow is a row's cells.
type tableRow struct {
	// ID is the target of links, Class of the row.
	ID, Class string
	Text      []string
	// Bars stand in columns of the class "bar", in order.
	Bars []template.HTML
}

// column is the head of a table's column; Class is "num" for numbers, "name" for what
// may be long and is then wrapped, "bar" for bars, and "" for the rest.
type column struct{ Text, Class string }

// columns declares columns: ">" in front makes one of numbers, "~" one of names, "="
// one of bars.
func columns(heads ...string) []column {
	classes := map[byte]string{'>': "num", '~': "name", '=': "bar"}
	var out []column
	for _, h := range heads {
		if c, ok := classes[h[0]]; ok {
			out = append(out, column{h[1:], c})
		} else {
			out = append(out, column{h, ""})
		}
	}
	return out
}

// cell is a cell of a table, text or bar.
type cell struct {
	Text, Class string
	Bar         template.HTML
}

// Cells returns a row with its columns' classes; what it lacks at the end is empty.
func (t table) Cells(row tableRow) []cell {
	out := make([]cell, len(t.Columns))
	text, bars := row.Text, row.Bars
	for i, c := range t.Columns {
		out[i].Class = c.Class
		switch {
		case c.Class == "bar":
			if len(bars) > 0 {
				out[i].Bar, bars = bars[0], bars[1:]
			}
		case len(text) > 0:
			out[i].Text, text = text[0], text[1:]
		}
	}
	return out
}

// bar draws a value from 0 to top, and a mark at another if that is not NaN.
func bar(value, mark, top float64) template.HTML {
	const width = 160
	at := func(v float64) float64 {
		if !(top > 0) || v != v {
			return width
		}
		return width * min(max(v/top, 0), 1)
	}
	class := "s1"
	if value != value || value > top {
		class = "bad"
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg class="bar" viewBox="0 0 %d 14" width="%d" height="14" aria-hidden="true"><path class="grid" d="M0 13.5H%d"/><path class="%s" d="M0 2H%.1fV11H0Z"/>`,
		width+2, width+2, width, class, at(value))
	if mark == mark {
		fmt.Fprintf(&b, `<path class="mark s2" d="M%.1f 0V13"/>`, at(mark))
	}
	b.WriteString("</svg>")
	return template.HTML(b.String())
}
