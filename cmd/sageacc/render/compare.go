package render

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/sageacc/sageacc/cmd/sageacc/render/texttab"
	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/compare/attribute"
	"github.com/sageacc/sageacc/internal/jsonfloat"
	"github.com/sageacc/sageacc/metrics"
)

// comparison names one of the comparisons of compare.Rows.
type comparison struct{ words, key string }

var (
	emulatedVsReference = comparison{"emulated vs reference", "emulated_vs_reference"}
	actualVsReference   = comparison{"actual vs reference", "actual_vs_reference"}
	actualVsEmulated    = comparison{"actual vs emulated", "actual_vs_emulated"}
)

// row is one comparison of a layer or head.
type row struct {
	comparison
	metrics.Values
	bits *metrics.Bits // nil but for actual against emulated
}

func rowsOf(r compare.Rows) []row {
	rows := []row{{emulatedVsReference, r.EmulatedVsReference, nil}}
	if r.ActualVsReference != nil {
		rows = append(rows, row{actualVsReference, *r.ActualVsReference, nil})
	}
	if r.ActualVsEmulated != nil {
		rows = append(rows, row{actualVsEmulated, r.ActualVsEmulated.Values, &r.ActualVsEmulated.Bits})
	}
	if r.LSE != nil {
		for _, x := range rowsOf(*r.LSE) {
			x.comparison = comparison{"lse: " + x.words, "lse_" + x.key}
			rows = append(rows, x)
		}
	}
	return rows
}

func rowsOfSummary(s compare.Summary) []row {
	rows := []row{{emulatedVsReference, s.EmulatedVsReference, nil}}
	if s.ActualVsReference != nil {
		rows = append(rows, row{actualVsReference, *s.ActualVsReference, nil})
	}
	if s.ActualVsEmulated != nil {
		rows = append(rows, row{actualVsEmulated, *s.ActualVsEmulated, nil})
	}
	return rows
}

// CompareText writes the result as aligned text: what was run, the rows of every
// layer, their average and worst, and what is odd about the layers.
func CompareText(w io.Writer, r *compare.Result) error {
	for _, p := range compareHead(r) {
		if _, err := fmt.Fprintf(w, "%-9s  %s\n", p.key, p.value); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	t := compareTable(r, true)
	if err := t.Text(w); err != nil {
		return err
	}
	notes := compareNotes(r)
	if len(notes) > 0 {
		notes = append([]string{""}, notes...)
	}
	if err := list(w, notes); err != nil {
		return err
	}
	return writeAttribution(w, r, (*texttab.Table).Text)
}

// CompareMarkdown is CompareText in GitHub Flavored Markdown.
func CompareMarkdown(w io.Writer, r *compare.Result) error {
	for _, p := range compareHead(r) {
		if _, err := fmt.Fprintf(w, "- %s: %s\n", p.key, texttab.Markdown(p.value)); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	t := compareTable(r, false)
	if err := t.Markdown(w); err != nil {
		return err
	}
	notes := compareNotes(r)
	if len(notes) > 0 {
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
	}
	if err := items(w, notes); err != nil {
		return err
	}
	return writeAttribution(w, r, (*texttab.Table).Markdown)
}

// kernelHead says what kernel ran.
func kernelHead(k compare.KernelInfo) []pair {
	config := fmt.Sprintf("QK int%d %s, smooth %s; PV %s, accumulated in %s", k.QKBits, k.QKGranularity, k.Smooth, k.PVDType, k.PVAccum)
	if k.Variant != "" {
		config += "; variant " + k.Variant
	}
	head := []pair{{"kernel", fmt.Sprintf("%s on %s: %s", k.Name, k.Arch, k.Program)}, {"config", config}}
	if k.PVUnit != "" {
		head = append(head, pair{"pv unit", k.PVUnit})
	}
	return head
}

// compareHead says what was run, on what.
func compareHead(r *compare.Result) []pair {
	head := kernelHead(r.Kernel)
	head = append(head, pair{"reference", r.Reference})
	layers := fmt.Sprintf("%d", len(r.Layers))
	if same := commonTraits(r.Layers); same != "" {
		layers += ", " + same
	}
	head = append(head, pair{"layers", layers})
	var synthetic []string
	for i, l := range r.Layers {
		if l.Synthetic == "" {
			continue
		}
		// Layers of a file share their origin, which is told once.
		if i > 0 && r.Layers[i-1].Synthetic == l.Synthetic {
			continue
		}
		synthetic = append(synthetic, name(l.Name)+" "+origin(l.Synthetic))
	}
	if len(synthetic) == 1 && allSynthetic(r.Layers) {
		synthetic[0] = origin(r.Layers[0].Synthetic)
	}
	for _, s := range synthetic {
		head = append(head, pair{"input", s})
	}
	return head
}

func allSynthetic(layers []compare.Layer) bool {
	for _, l := range layers {
		if l.Synthetic == "" {
			return false
		}
	}
	return true
}

// traits are what a layer's shape does not tell.
func traits(l *compare.Layer) string {
	if l.Causal {
		return l.Shape.DType + " causal"
	}
	return l.Shape.DType
}

// commonTraits returns the traits of all layers, or "" if they differ.
func commonTraits(layers []compare.Layer) string {
	same := ""
	for i := range layers {
		t := traits(&layers[i])
		if i > 0 && t != same {
			return ""
		}
		same = t
	}
	return same
}

// shapeOf writes the shape of Q, and of K and V as far as it differs.
func shapeOf(s compare.Shape) string {
	out := fmt.Sprintf("%dx%dx%dx%d", s.Batch, s.Heads, s.Queries, s.HeadDim)
	if s.KVHeads != s.Heads || s.Keys != s.Queries {
		out += fmt.Sprintf(" kv %dx%d", s.KVHeads, s.Keys)
	}
	return out
}

// compareTable makes the table; separated puts a blank line in front of the
// summary, which Markdown has no way to say.
func compareTable(r *compare.Result, separated bool) *texttab.Table {
	t := columns("layer", "shape", "comparison", ">cos_sim", ">rel_l1", ">rmse", ">max_abs")
	if r.Average.ActualVsEmulated != nil {
		t.Header = append(t.Header, "differing", "max ulp")
		t.Align = append(t.Align, texttab.Right, texttab.Right)
	}
	add := func(first, second string, rows []row) {
		for _, row := range rows {
			cells := []string{first, second, row.words, cosine(row.CosSim), relative(row.RelL1), absolute(row.RMSE), absolute(row.MaxAbs)}
			if b := row.bits; b != nil {
				cells = append(cells, fmt.Sprintf("%d of %d", b.Mismatched, b.Elements), fmt.Sprintf("%d ulp", b.MaxULP))
			}
			t.Rows = append(t.Rows, cells)
			first, second = "", ""
		}
	}
	tell := len(r.Layers) > 1 && commonTraits(r.Layers) == ""
	for i := range r.Layers {
		l := &r.Layers[i]
		shape := shapeOf(l.Shape)
		if tell {
			shape += " " + traits(l)
		}
		add(name(l.Name), shape, rowsOf(l.Rows))
		for _, h := range l.Heads {
			head := fmt.Sprintf("  head %d", h.Head)
			if l.Shape.Batch > 1 {
				head = fmt.Sprintf("  batch %d, head %d", h.Batch, h.Head)
			}
			add(head, "", rowsOf(h.Rows))
		}
	}
	// Of a single layer, average and worst are the layer again.
	if len(r.Layers) > 1 {
		if separated {
			t.Rows = append(t.Rows, nil)
		}
		add("average", "", rowsOfSummary(r.Average))
		add("worst", "", rowsOfSummary(r.Worst))
	}
	return &t
}

// compareNotes says what is odd about layers, and where outputs first differ.
func compareNotes(r *compare.Result) []string {
	var notes []string
	for _, l := range r.Layers {
		for _, w := range l.Warnings {
			notes = append(notes, fmt.Sprintf("%s: %s", name(l.Name), shortened(strings.TrimPrefix(w, l.Name+"."), l.Name)))
		}
		if b := l.ActualVsEmulated; b != nil && b.First != nil {
			notes = append(notes, fmt.Sprintf("%s: %s", name(l.Name), Mismatch(b.First)))
		}
		if l.LSE != nil && l.LSE.ActualVsEmulated != nil && l.LSE.ActualVsEmulated.First != nil {
			m := l.LSE.ActualVsEmulated.First
			notes = append(notes, fmt.Sprintf("%s: lse: first difference at batch %d, head %d, token %d: %s", name(l.Name), m.Batch, m.Head, m.Token, bothValues(m)))
		}
		notes = append(notes, explanation(&l)...)
	}
	return notes
}

// explanation says what gives a layer's actual output, or what comes nearest.
func explanation(l *compare.Layer) []string {
	if l.Explanation == nil {
		return nil
	}
	var notes []string
	for _, line := range l.Explanation.Lines() {
		notes = append(notes, fmt.Sprintf("%s: %s", name(l.Name), line))
	}
	return notes
}

const attributionTitle = "What causes the error: each step alone with all others exact, and the kernel with that step exact."

// writeAttribution writes what each step causes, if that was asked for.
func writeAttribution(w io.Writer, r *compare.Result, write func(*texttab.Table, io.Writer) error) error {
	table, notes := attribution(r)
	if table == nil && notes == nil {
		return nil
	}
	if _, err := fmt.Fprintf(w, "\n%s\n\n", attributionTitle); err != nil {
		return err
	}
	if table != nil {
		if err := write(table, w); err != nil {
			return err
		}
		if notes != nil {
			notes = append([]string{""}, notes...)
		}
	}
	return list(w, notes)
}

// attribution makes the table of what each step causes, nil without a row, and a
// line for each layer whose error has no parts.
func attribution(r *compare.Result) (*texttab.Table, []string) {
	var notes []string
	t := columns("layer", "step", ">alone: 1-cos", ">rel_l1", ">of MSE", ">without: 1-cos", ">rel_l1", ">of MSE")
	for _, l := range r.Layers {
		a := l.Attribution
		if a == nil {
			continue
		}
		switch mse := float64(a.Kernel.MSE); {
		case math.IsNaN(mse) || math.IsInf(mse, 0):
			notes = append(notes, name(l.Name)+": the kernel's error is not finite and cannot be attributed")
			continue
		case mse == 0:
			notes = append(notes, name(l.Name)+": the kernel's output equals the reference, so there is no error to attribute")
			continue
		}
		part := func(x jsonfloat.Float) string { return fmt.Sprintf("%.1f%%", 100*float64(x/a.Kernel.MSE)) }
		cells := func(e attribute.Error) []string {
			return []string{absolute(e.OneMinusCos), relative(e.RelL1), part(e.MSE)}
		}
		layer := name(l.Name)
		for _, s := range a.Steps {
			t.Rows = append(t.Rows, append(append([]string{layer, s.Name}, cells(s.Alone)...), cells(s.Without)...))
			layer = ""
		}
		t.Rows = append(t.Rows,
			append([]string{"", "no step (FP32 arithmetic)"}, cells(a.Rest)...),
			[]string{"", "what does not add up", "", "", part(a.Remainder)},
			append([]string{"", "the kernel"}, cells(a.Kernel)...))
	}
	if t.Rows == nil {
		return nil, notes
	}
	return &t, notes
}

// Mismatch says in words where an actual and the emulated output first differ,
// and what they hold there.
func Mismatch(m *metrics.Mismatch) string {
	return fmt.Sprintf("first difference at batch %d, head %d, token %d, channel %d: %s", m.Batch, m.Head, m.Token, m.Channel, bothValues(m))
}

func bothValues(m *metrics.Mismatch) string {
	return fmt.Sprintf("actual %s (%s), emulated %s (%s)", m.Actual, general(m.ActualValue, 6), m.Emulated, general(m.EmulatedValue, 6))
}

// CompareCSV writes a record for each comparison of each layer and, after those
// of the layer, of each of its heads. Numbers keep their full precision.
func CompareCSV(w io.Writer, r *compare.Result) error {
	t := texttab.Table{Header: strings.Split("kernel,arch,reference,layer,batch,heads,kv_heads,queries,keys,head_dim,dtype,causal,sm_scale,"+
		"at_batch,at_head,comparison,cos_sim,rel_l1,rmse,max_abs,elements,mismatched,max_ulp", ",")}
	for _, l := range r.Layers {
		s := l.Shape
		add := func(batch, head string, rows []row) {
			for _, row := range rows {
				record := []string{
					r.Kernel.Name, r.Kernel.Arch, r.Reference, l.Name,
					strconv.Itoa(s.Batch), strconv.Itoa(s.Heads), strconv.Itoa(s.KVHeads), strconv.Itoa(s.Queries), strconv.Itoa(s.Keys), strconv.Itoa(s.HeadDim),
					s.DType, strconv.FormatBool(l.Causal), strconv.FormatFloat(l.SMScale, 'g', -1, 64),
					batch, head, row.key, exact(row.CosSim), exact(row.RelL1), exact(row.RMSE), exact(row.MaxAbs),
				}
				if b := row.bits; b != nil {
					record = append(record, strconv.FormatInt(b.Elements, 10), strconv.FormatInt(b.Mismatched, 10), strconv.FormatUint(uint64(b.MaxULP), 10))
				}
				t.Rows = append(t.Rows, record)
			}
		}
		add("", "", rowsOf(l.Rows))
		for _, h := range l.Heads {
			add(strconv.Itoa(h.Batch), strconv.Itoa(h.Head), rowsOf(h.Rows))
		}
	}
	return t.CSV(w)
}
