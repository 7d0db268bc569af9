package report

import (
	"fmt"
	"html/template"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/sageacc/sageacc/compare/tables"
	"github.com/sageacc/sageacc/metrics"
)

func tablesPage(r *tables.Result) *page {
	over := plural(len(r.Layers), "layer", "layers")
	p := &page{
		assets: common(),
		Kind:   "sageacc: methods of quantised attention",
		Title:  "The tables of SageAttention2 on " + over,
	}
	var names []string
	for _, l := range r.Layers {
		names = append(names, clean(l))
	}
	p.Facts = []fact{{"Layers", strings.Join(names, ", ")}, {"Reference", clean(r.Reference)}}
	if len(r.Synthetic) > 0 {
		p.Facts = append(p.Facts, fact{"Input", clean("synthetic: " + strings.Join(r.Synthetic, "; "))})
	}
	if r.Tool != nil {
		p.Facts = append(p.Facts, fact{"sageacc", clean(r.Tool.String())})
	}
	p.Facts = slices.DeleteFunc(p.Facts, func(f fact) bool { return f.Value == "" })
	p.Verdict = []finding{{Severity: "note", Text: "The paper (arXiv 2411.10958) measured CogVideoX, whose activations are not these. What can be compared is the order of the methods and the size of the gaps, not the digits."}}
	for i := range r.Tables {
		s := tableSection(i, &r.Tables[i])
		if r.Tables[i].Name != "" && slices.ContainsFunc(r.Tables[i].Rows, func(r tables.Row) bool { return r.Paper != nil }) {
			s.Intro = append(s.Intro, "Bars are measured here; the line across is the paper's figure, of other activations.")
		}
		s.Intro = append(s.Intro, fmt.Sprintf("%s; over %s.", clean(r.Tables[i].Setup), over))
		p.Sections = append(p.Sections, *s)
	}
	p.Sections = append(p.Sections, *repeat(r.Args))
	return p
}

// orZero is x, or 0 where it is NaN or infinite.
func orZero(x float64) float64 {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return 0
	}
	return x
}

func tableSection(i int, t *tables.Table) *section {
	s := &section{ID: fmt.Sprintf("table-%d", i+1), Title: clean(t.Title)}
	if t.Title == "" {
		s.Title = clean(t.Name)
	}
	out := table{Caption: s.Title, Columns: columns("~method", "=relative L1, average", ">cos avg", ">L1 avg", ">RMSE avg", ">cos worst", ">L1 worst", ">RMSE worst")}
	withPaper := slices.ContainsFunc(t.Rows, func(r tables.Row) bool { return r.Paper != nil })
	if withPaper {
		out.Columns = append(out.Columns, columns(">paper: cos avg", ">L1 avg", ">RMSE avg", ">cos worst", ">L1 worst", ">RMSE worst")...)
	}
	cells := func(cos, l1, rmse float64) []string {
		fixed := func(x float64) string { return strconv.FormatFloat(x, 'f', 4, 64) }
		return []string{strconv.FormatFloat(100*cos, 'f', 2, 64) + "%", fixed(l1), fixed(rmse)}
	}
	top := 0.0
	for _, row := range t.Rows {
		top = max(top, orZero(float64(row.Average.RelL1)))
		if row.Paper != nil {
			top = max(top, orZero(row.Paper.Average.RelL1))
		}
	}
	for _, row := range t.Rows {
		mark := math.NaN()
		line := []string{clean(row.Method)}
		for _, v := range []metrics.Values{row.Average, row.Worst} {
			line = append(line, cells(float64(v.CosSim), float64(v.RelL1), float64(v.RMSE))...)
		}
		if row.Paper != nil {
			line = append(line, cells(row.Paper.Average.CosSim, row.Paper.Average.RelL1, row.Paper.Average.RMSE)...)
			if w := row.Paper.Worst; w != nil {
				line = append(line, cells(w.CosSim, w.RelL1, w.RMSE)...)
			}
		}
		if row.Paper != nil {
			mark = orZero(row.Paper.Average.RelL1)
		}
		out.Rows = append(out.Rows, tableRow{Text: line, Bars: []template.HTML{bar(float64(row.Average.RelL1), mark, top)}})
	}
	s.Tables = []table{out}
	return s
}

// elide shortens a name to n characters.
func elide(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
}
