package render

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/sageacc/sageacc/cmd/sageacc/render/texttab"
	"github.com/sageacc/sageacc/compare/tables"
	"github.com/sageacc/sageacc/metrics"
)

// TableText writes the paper's tables as aligned text; withPaper puts the paper's
// figures beside the measured ones.
//
// Below a table of whole kernels stand its notes and, of the top layers that are worst, the
// figures of each (0 for all).
func TableText(w io.Writer, r *tables.Result, withPaper bool, top int) error {
	for i, t := range r.Tables {
		if i > 0 {
			if _, err := fmt.Fprintln(w); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprintf(w, "%s\n%s; %s\n\n", t.Title, t.Setup, over(r)); err != nil {
			return err
		}
		if err := tableOf(&t, withPaper).Text(w); err != nil {
			return err
		}
		if err := list(w, notesOf(&t)); err != nil {
			return err
		}
		layers, left := layersOf(&t, top)
		if layers == nil {
			continue
		}
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
		if err := layers.Text(w); err != nil {
			return err
		}
		if left > 0 {
			if _, err := fmt.Fprintf(w, "and %s with smaller errors (--top 0 shows all)\n", layerCount(left)); err != nil {
				return err
			}
		}
	}
	return nil
}

// TableMarkdown is TableText in GitHub Flavored Markdown.
func TableMarkdown(w io.Writer, r *tables.Result, withPaper bool, top int) error {
	for i, t := range r.Tables {
		if i > 0 {
			if _, err := fmt.Fprintln(w); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprintf(w, "**%s.** %s; %s.\n\n", t.Title, t.Setup, texttab.Markdown(over(r))); err != nil {
			return err
		}
		if err := tableOf(&t, withPaper).Markdown(w); err != nil {
			return err
		}
		for _, note := range notesOf(&t) {
			if _, err := fmt.Fprintf(w, "\n%s\n", texttab.Printable(note)); err != nil {
				return err
			}
		}
		layers, left := layersOf(&t, top)
		if layers == nil {
			continue
		}
		more := ""
		if left > 0 {
			more = fmt.Sprintf("; the worst, without %s", layerCount(left))
		}
		if _, err := fmt.Fprintf(w, "\nBy layer%s:\n\n", more); err != nil {
			return err
		}
		if err := layers.Markdown(w); err != nil {
			return err
		}
	}
	return nil
}

func layerCount(n int) string {
	if n == 1 {
		return "1 layer"
	}
	return fmt.Sprintf("%d layers", n)
}

// notesOf says what the rows of whole kernels do not: which layers a kernel does not take,
// and what rests on reports.
func notesOf(t *tables.Table) []string {
	var out []string
	for _, row := range t.Rows {
		if row.Reported != "" {
			out = append(out, fmt.Sprintf("%s (reported): %s is known from others' reports, recorded by nobody here", row.Method, row.Reported))
		}
		for _, r := range row.Refused {
			const most = 3
			names := slices.Clone(r.Layers[:min(most, len(r.Layers))])
			for i := range names {
				names[i] = texttab.Shorten(names[i], 64)
			}
			if n := len(r.Layers) - most; n > 0 {
				names = append(names, fmt.Sprintf("%d more", n))
			}
			out = append(out, fmt.Sprintf("%s leaves out %s: %s", row.Method, strings.Join(names, ", "), r.Why))
		}
	}
	return out
}

// layersOf returns a table with the figures of each kernel on the top layers on which one
// errs most (0 for all), nil for tables without such figures, and how many are left out.
func layersOf(t *tables.Table, top int) (*texttab.Table, int) {
	var names []string
	worst := map[string]float64{}
	for _, row := range t.Rows {
		for _, l := range row.Layers {
			x := float64(l.Values.RelL1)
			if x != x {
				x = math.Inf(1)
			}
			if _, ok := worst[l.Layer]; !ok {
				names = append(names, l.Layer)
			}
			worst[l.Layer] = max(worst[l.Layer], x)
		}
	}
	if names == nil {
		return nil, 0
	}
	left := 0
	if top > 0 && top < len(names) {
		slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(worst[b], worst[a]) })
		names, left = names[:top], len(names)-top
	}
	out := columns("layer", "method", ">cos", ">L1", ">RMSE")
	for _, name := range names {
		first := texttab.Shorten(name, 64)
		for _, row := range t.Rows {
			i := slices.IndexFunc(row.Layers, func(l tables.LayerFigures) bool { return l.Layer == name })
			if i < 0 {
				continue
			}
			v := row.Layers[i].Values
			out.Rows = append(out.Rows, []string{first, row.Method, precise(float64(v.CosSim)), small(float64(v.RelL1)), small(float64(v.RMSE))})
			first = ""
		}
	}
	return &out, left
}

// Errors of whole kernels are from 1e-4 to 1e-1: a fixed number of places would not do.
func precise(x float64) string { return strconv.FormatFloat(100*x, 'f', 4, 64) + "%" }
func small(x float64) string   { return strconv.FormatFloat(x, 'f', 5, 64) }

// over says what the figures are over.
func over(r *tables.Result) string {
	s := fmt.Sprintf("over %d layers", len(r.Layers))
	if len(r.Layers) == 1 {
		s = "over 1 layer"
	}
	if len(r.Synthetic) > 0 {
		s += " " + origin(strings.Join(r.Synthetic, "; "))
	}
	return s
}

func tableOf(t *tables.Table, withPaper bool) *texttab.Table {
	heads := []string{"method", ">cos avg", ">L1 avg", ">RMSE avg", ">cos worst", ">L1 worst", ">RMSE worst"}
	paper := false
	for _, row := range t.Rows {
		paper = paper || withPaper && row.Paper != nil
	}
	if paper {
		heads = append(heads, ">paper: cos", ">L1", ">RMSE", ">cos worst", ">L1 worst", ">RMSE worst")
	}
	out := columns(heads...)
	percent := func(x float64) string { return strconv.FormatFloat(100*x, 'f', 2, 64) + "%" }
	fixed := func(x float64) string { return strconv.FormatFloat(x, 'f', 4, 64) }
	for _, row := range t.Rows {
		if row.Kernel != "" {
			percent, fixed = precise, small
		}
		cells := []string{row.Method}
		if row.Reported != "" {
			cells[0] += " (reported)"
		}
		if n := len(row.Layers); len(row.Refused) > 0 {
			cells[0] += fmt.Sprintf(", %s", layerCount(n))
		}
		for _, v := range []metrics.Values{row.Average, row.Worst} {
			cells = append(cells, percent(float64(v.CosSim)), fixed(float64(v.RelL1)), fixed(float64(v.RMSE)))
		}
		if p := row.Paper; paper && p != nil {
			for _, v := range []*tables.Triple{&p.Average, p.Worst} {
				if v != nil {
					cells = append(cells, percent(v.CosSim), fixed(v.RelL1), fixed(v.RMSE))
				}
			}
		}
		out.Rows = append(out.Rows, cells)
	}
	return &out
}

// TableCSV writes a record for each method of each table, with full precision and
// the paper's figures where it has them.
func TableCSV(w io.Writer, r *tables.Result) error {
	t := texttab.Table{Header: strings.Split("table,method,cos_avg,rel_l1_avg,rmse_avg,cos_worst,rel_l1_worst,rmse_worst,"+
		"paper_cos_avg,paper_rel_l1_avg,paper_rmse_avg,paper_cos_worst,paper_rel_l1_worst,paper_rmse_worst", ",")}
	for _, tab := range r.Tables {
		for _, row := range tab.Rows {
			record := []string{tab.Name, row.Method}
			for _, v := range []metrics.Values{row.Average, row.Worst} {
				record = append(record, exact(v.CosSim), exact(v.RelL1), exact(v.RMSE))
			}
			if p := row.Paper; p != nil {
				for _, v := range []*tables.Triple{&p.Average, p.Worst} {
					if v != nil {
						for _, x := range []float64{v.CosSim, v.RelL1, v.RMSE} {
							record = append(record, strconv.FormatFloat(x, 'g', -1, 64))
						}
					}
				}
			}
			t.Rows = append(t.Rows, record)
		}
	}
	return t.CSV(w)
}
