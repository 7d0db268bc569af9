package render

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/sageacc/sageacc/cmd/sageacc/render/texttab"
	"github.com/sageacc/sageacc/hardware/probe"
	"github.com/sageacc/sageacc/hardware/validate"
)

// ValidateText writes each kernel's cases summed up by input, and the cases that
// differ with where the difference starts.
func ValidateText(w io.Writer, reports []*validate.Report) error {
	for i, r := range reports {
		if i > 0 {
			if _, err := fmt.Fprintln(w); err != nil {
				return err
			}
		}
		if err := validateText(w, r); err != nil {
			return err
		}
	}
	return nil
}

func validateText(w io.Writer, r *validate.Report) error {
	fmt.Fprintf(w, "kernel    %s\nemulated  %s\ndevice    %s (%s)\n\n", texttab.Printable(r.Kernel), texttab.Printable(r.Config), texttab.Printable(r.Device), texttab.Printable(r.Arch))
	type sum struct {
		cases, failed, skipped int
		elements, mismatched   int64
	}
	var order []string
	sums := map[string]*sum{}
	for _, c := range r.Cases {
		// Generated cases are named shape, distribution, mask, format.
		name := c.Name
		if f := strings.Fields(c.Name); len(f) == 4 {
			name = strings.Join(f[1:], " ")
		}
		if sums[name] == nil {
			sums[name] = &sum{}
			order = append(order, name)
		}
		s := sums[name]
		s.cases++
		s.elements += c.Elements
		s.mismatched += c.Mismatched
		if c.Skipped != "" {
			s.skipped++
		}
		if c.Failed() {
			s.failed++
		}
	}
	t := columns("input", ">cases", ">skipped", ">failed", ">elements", ">differing")
	for _, name := range order {
		s := sums[name]
		t.Rows = append(t.Rows, []string{
			texttab.Printable(name), strconv.Itoa(s.cases), strconv.Itoa(s.skipped), strconv.Itoa(s.failed),
			strconv.FormatInt(s.elements, 10), strconv.FormatInt(s.mismatched, 10),
		})
	}
	if err := t.Text(w); err != nil {
		return err
	}
	const most = 20
	shown := 0
	for _, c := range r.Cases {
		if !c.Failed() {
			continue
		}
		if shown++; shown > most {
			continue
		}
		for _, line := range describe(&c) {
			if _, err := fmt.Fprintln(w, line); err != nil {
				return err
			}
		}
	}
	if shown > most {
		fmt.Fprintf(w, "\n... and %d more cases that differ (--format json has them all)\n", shown-most)
	}
	if i := slices.IndexFunc(r.Cases, func(c validate.Result) bool { return c.Skipped != "" }); i >= 0 {
		fmt.Fprintf(w, "\nskipped: %s\n", texttab.Printable(r.Cases[i].Skipped))
	}
	_, err := fmt.Fprintf(w, "\n%d output elements, %d differ; %d elements of means, scales and codes compared\n%d passed, %d failed, %d skipped\n", r.Elements, r.Mismatched, r.StageElements, r.Passed, r.Failed, r.Skipped)
	return err
}

// describe says in words how a case differs.
func describe(c *validate.Result) []string {
	lines := []string{"", fmt.Sprintf("%s: %d of %d elements differ", texttab.Printable(c.Name), c.Mismatched, c.Elements)}
	add := func(format string, args ...any) { lines = append(lines, "  "+fmt.Sprintf(format, args...)) }
	if d := c.First; d != nil {
		add("first at batch %d, head %d, token %d, channel %d: GPU %s, emulated %s", d.Batch, d.Head, d.Token, d.Channel, d.GPU, d.Emulated)
		if c.Explanation == nil {
			tiles := "1 tile"
			if d.Tiles != 1 {
				tiles = fmt.Sprintf("%d tiles", d.Tiles)
			}
			add("that is in block %d of query rows, which looks at %s of keys", d.Block, tiles)
		}
	}
	if c.LSE != nil && c.LSE.Mismatched > 0 {
		add("log-sum-exp: %d of %d differ", c.LSE.Mismatched, c.LSE.Elements)
	}
	if s := c.Stages; s != nil && len(s.Compared) > 0 {
		add("%s", s)
	}
	if c.Keys > 0 {
		add("that head alone differs with its first %d keys already, and not with fewer whole tiles", c.Keys)
	}
	if x := c.Explanation; x != nil {
		for _, line := range x.Lines() {
			add("%s", line)
		}
	}
	return lines
}

// ProbesText writes what became of units.
func ProbesText(w io.Writer, outcomes []probe.Outcome) error {
	t := columns("unit", "arch", "device", ">results", ">differing", "inputs")
	var notes []string
	for _, o := range outcomes {
		inputs := "generated"
		if o.Exhaustive {
			inputs = "all 2^32"
		}
		if o.Skipped != "" {
			inputs = "skipped"
			notes = append(notes, "skipped: "+o.Skipped)
		}
		t.Rows = append(t.Rows, []string{o.Instruction, o.Arch, o.Device, strconv.FormatInt(o.Results, 10), strconv.FormatInt(o.Differing, 10), inputs})
		if m := o.First; m != nil {
			notes = append(notes, fmt.Sprintf("%s: first at operation %d: %s: GPU %s, model %s", o.Instruction, m.Index, m.Operands, m.GPU, m.Model))
		}
	}
	if err := t.Text(w); err != nil {
		return err
	}
	return list(w, notes)
}

// AccumulatorsText writes what accumulators keep.
func AccumulatorsText(w io.Writer, rows []probe.Accumulator) error { return accumulators(rows).Text(w) }

// AccumulatorsMarkdown is AccumulatorsText as a Markdown table.
func AccumulatorsMarkdown(w io.Writer, rows []probe.Accumulator) error {
	return accumulators(rows).Markdown(w)
}

func accumulators(rows []probe.Accumulator) *texttab.Table {
	t := columns("on", "arch", "instruction", ">mantissa bits kept", "the rest")
	for _, r := range rows {
		rest := "rounded " + r.Rounding
		if r.Rounding == "none" {
			rest = "all kept"
		}
		t.Rows = append(t.Rows, []string{r.On, r.Arch, r.Instruction, fmt.Sprintf("%d of %d", r.Bits, r.Of), rest})
	}
	return &t
}
