package render

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/sageacc/sageacc/cmd/sageacc/render/texttab"
	"github.com/sageacc/sageacc/compare/tables"
	"github.com/sageacc/sageacc/metrics"
)

// TableText writes the paper's tables as aligned text; withPaper puts the paper's
// figures beside the measured ones.
func TableText(w io.Writer, r *tables.Result, withPaper bool) error {
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
	}
	return nil
}

// TableMarkdown is TableText in GitHub Flavored Markdown.
func TableMarkdown(w io.Writer, r *tables.Result, withPaper bool) error {
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
	}
	return nil
}

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
		cells := []string{row.Method}
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
