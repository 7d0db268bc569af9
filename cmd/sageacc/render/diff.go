package render

import (
	"fmt"
	"io"
	"math"
	"strconv"

	"github.com/sageacc/sageacc/cmd/sageacc/render/texttab"
	"github.com/sageacc/sageacc/compare/diff"
	"github.com/sageacc/sageacc/internal/jsonfloat"
)

// DiffText writes what changed between two results.
func DiffText(w io.Writer, r *diff.Result) error {
	if len(r.Settings) > 0 {
		if err := list(w, append(settings(r), "")); err != nil {
			return err
		}
	}
	return diffTable(r).Text(w)
}

// DiffMarkdown is DiffText in GitHub Flavored Markdown.
func DiffMarkdown(w io.Writer, r *diff.Result) error {
	if err := items(w, settings(r)); err != nil {
		return err
	}
	if len(r.Settings) > 0 {
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
	}
	return diffTable(r).Markdown(w)
}

// settings are the lines of what the two runs did differently: the names in them are
// those of files.
func settings(r *diff.Result) []string {
	const longest = 300
	var lines []string
	for _, s := range r.Settings {
		lines = append(lines, texttab.Cut(s, longest))
	}
	return lines
}

func diffTable(r *diff.Result) *texttab.Table {
	t := columns("layer", ">1-cos old", ">new", ">change", ">rel_l1 old", ">new", ">change", ">rmse old", ">new", ">change", ">differing old", ">new")
	count := func(n *int64) string {
		if n == nil {
			return ""
		}
		return strconv.FormatInt(*n, 10)
	}
	for _, l := range r.Layers {
		cells := []string{name(l.Name)}
		if l.Status != "both" {
			cells[0] += " (" + l.Status + ")"
		}
		var oldF, newF, change [3]string
		if v := l.Old; v != nil {
			oldF = [3]string{absolute(1 - v.CosSim), relative(v.RelL1), absolute(v.RMSE)}
		}
		if v := l.New; v != nil {
			newF = [3]string{absolute(1 - v.CosSim), relative(v.RelL1), absolute(v.RMSE)}
		}
		if g := l.Growth; g != nil {
			change = [3]string{percentage(g.OneMinusCos), percentage(g.RelL1), percentage(g.RMSE)}
		}
		for i := range oldF {
			cells = append(cells, oldF[i], newF[i], change[i])
		}
		t.Rows = append(t.Rows, append(cells, count(l.OldMismatched), count(l.NewMismatched)))
	}
	return &t
}

// percentage writes a relative change; ~ is none.
func percentage(x jsonfloat.Float) string {
	switch {
	case x == 0:
		return "~"
	case math.IsNaN(float64(x)) || math.IsInf(float64(x), 0):
		return general(x, 3)
	}
	return fmt.Sprintf("%+.2f%%", 100*float64(x))
}
