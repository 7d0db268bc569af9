package render

import (
	"fmt"
	"io"
	"math"
	"strconv"

	"github.com/sageacc/sageacc/cmd/sageacc/render/texttab"
	"github.com/sageacc/sageacc/compare/diff"
	"github.com/sageacc/sageacc/internal/jsonfloat"
	"github.com/sageacc/sageacc/metrics"
)

// Diff is what changed between two results, and which layers of it to show.
type Diff struct {
	*diff.Result
	// Show are the indices of the layers to show, in order; nil for all. Left is how
	// many more there are.
	Show []int
	Left int
}

// DiffText writes what changed between two results.
func DiffText(w io.Writer, d *Diff) error {
	for i, l := range d.verdict() {
		key := "verdict"
		if i > 0 {
			key = ""
		}
		if _, err := fmt.Fprintf(w, "%-9s  %s\n", key, l); err != nil {
			return err
		}
	}
	if err := list(w, append(d.settings(), "")); err != nil {
		return err
	}
	if err := d.table().Text(w); err != nil {
		return err
	}
	if d.Left > 0 {
		_, err := fmt.Fprintf(w, moreLayers+"\n", d.Left)
		return err
	}
	return nil
}

// DiffMarkdown is DiffText in GitHub Flavored Markdown.
func DiffMarkdown(w io.Writer, d *Diff) error {
	if err := items(w, append(d.verdict(), d.settings()...)); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	if err := d.table().Markdown(w); err != nil {
		return err
	}
	if d.Left > 0 {
		_, err := fmt.Fprintf(w, "\n"+moreLayers+"\n", d.Left)
		return err
	}
	return nil
}

// moreLayers says how many layers are not shown.
const moreLayers = "… %d more (--top 0 shows all)"

func (d *Diff) verdict() []string {
	var out []string
	if d.Verdict != nil {
		for _, l := range d.Verdict.Lines {
			out = append(out, texttab.Shorten(l, lineWidth))
		}
	}
	return out
}

// settings are the lines of what the two runs did differently. The names in them are
// those of files.
func (d *Diff) settings() []string {
	var out []string
	for _, s := range d.Settings {
		out = append(out, texttab.Cut(s, lineWidth))
	}
	return out
}

// table has a row for each comparison of a layer against the reference; that of the
// actual output also has how many elements differ from the emulated one.
func (d *Diff) table() *texttab.Table {
	t := columns("layer", "comparison", ">1-cos old", ">new", ">change", ">rel_l1 old", ">new", ">change", ">rmse old", ">new", ">change", ">differing old", ">new", ">change")
	count := func(n *int64) string {
		if n == nil {
			return ""
		}
		return strconv.FormatInt(*n, 10)
	}
	show := d.Show
	if show == nil {
		for i := range d.Layers {
			show = append(show, i)
		}
	}
	for _, i := range show {
		l := &d.Layers[i]
		first := name(l.Name)
		if l.Status != "both" {
			first += " (" + l.Status + ")"
		}
		add := func(what comparison, old, new *metrics.Values, g *diff.Growth, differing ...string) {
			if old == nil && new == nil {
				return
			}
			var oldF, newF, change [3]string
			if old != nil {
				oldF = [3]string{absolute(1 - old.CosSim), relative(old.RelL1), absolute(old.RMSE)}
			}
			if new != nil {
				newF = [3]string{absolute(1 - new.CosSim), relative(new.RelL1), absolute(new.RMSE)}
			}
			if g != nil {
				change = [3]string{percentage(g.OneMinusCos), percentage(g.RelL1), percentage(g.RMSE)}
			}
			cells := []string{first, what.words}
			for i := range oldF {
				cells = append(cells, oldF[i], newF[i], change[i])
			}
			t.Rows = append(t.Rows, append(cells, differing...))
			first = ""
		}
		grew := ""
		if l.ShareGrowth != nil {
			grew = percentage(*l.ShareGrowth)
		}
		add(emulatedVsReference, l.Old, l.New, l.Growth)
		add(actualVsReference, l.OldActual, l.NewActual, l.ActualGrowth, count(l.OldMismatched), count(l.NewMismatched), grew)
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

// DiffCases makes cases of checks.
func DiffCases(checks []diff.Check) []Case {
	var out []Case
	for _, c := range checks {
		x := Case{Group: "diff", Name: c.Layer + ": " + c.Gate}
		switch {
		case c.Failed:
			x.Failure = c.Text
		case c.Skipped:
			x.Skipped = c.Text
		}
		out = append(out, x)
	}
	return out
}
