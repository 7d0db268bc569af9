package render

import (
	"fmt"
	"io"
	"strconv"

	"github.com/sageacc/sageacc/cmd/sageacc/render/texttab"
	"github.com/sageacc/sageacc/hardware/conformance"
)

// ConformText writes the cases of a conformance run, the failed ones with their
// first difference, and the summary line.
func ConformText(w io.Writer, r *conformance.Report) error {
	t := columns("status", "op", "file", "expected", ">elements", ">differing", "first difference")
	for _, c := range r.Cases {
		note := c.Reason
		if d := c.First; d != nil {
			note = fmt.Sprintf("at %v: recorded %s, emulated %s", d.Index, d.Recorded, d.Emulated)
		}
		t.Rows = append(t.Rows, []string{
			string(c.Status), c.Op, name(c.File), name(c.Expect),
			strconv.FormatInt(c.Elements, 10), strconv.FormatInt(c.Mismatched, 10), note,
		})
	}
	if err := t.Text(w); err != nil {
		return err
	}
	return conformSummary(w, r)
}

func conformSummary(w io.Writer, r *conformance.Report) error {
	note := ""
	if r.Passed+r.Failed == 0 {
		note = ": nothing was checked"
	}
	_, err := fmt.Fprintf(w, "\n%d passed, %d failed, %d skipped%s\n", r.Passed, r.Failed, r.Skipped, note)
	return err
}

// EvidenceText writes a run's results by unit as aligned text.
func EvidenceText(w io.Writer, r *conformance.Report) error {
	t := evidence(r)
	if err := t.Text(w); err != nil {
		return err
	}
	return conformSummary(w, r)
}

// EvidenceMarkdown is EvidenceText as a Markdown table without the summary.
func EvidenceMarkdown(w io.Writer, r *conformance.Report) error { return evidence(r).Markdown(w) }

func evidence(r *conformance.Report) *texttab.Table {
	t := columns("op", "unit", "arch", "device", ">cases", ">results", ">differing")
	for _, e := range r.ByUnit() {
		cases := strconv.Itoa(e.Cases)
		if e.Skipped > 0 {
			cases += fmt.Sprintf(" (%d skipped)", e.Skipped)
		}
		t.Rows = append(t.Rows, []string{e.Op, e.Unit, e.Arch, e.Device, cases, strconv.FormatInt(e.Results, 10), strconv.FormatInt(e.Differing, 10)})
	}
	return &t
}
