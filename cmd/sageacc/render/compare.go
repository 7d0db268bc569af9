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
	// bounds are those of the figures where they are estimates, nil otherwise.
	bounds *compare.Bounds
}

// bounded adds the bounds of rows.
func bounded(rows []row, c *compare.Confidence) []row {
	if c == nil {
		return rows
	}
	for i := range rows {
		switch rows[i].comparison {
		case emulatedVsReference:
			rows[i].bounds = c.EmulatedVsReference
		case actualVsReference:
			rows[i].bounds = c.ActualVsReference
		case actualVsEmulated:
			rows[i].bounds = c.ActualVsEmulated
		}
	}
	return rows
}

// between writes a figure, with its bounds if there are any.
func (r *row) between(v jsonfloat.Float, format func(jsonfloat.Float) string, metric string) string {
	out := format(v)
	if r.bounds == nil {
		return out
	}
	low, high, ok := r.bounds.Of(metric)
	if !ok {
		return out
	}
	return fmt.Sprintf("%s (%s to %s)", out, format(jsonfloat.Float(low)), format(jsonfloat.Float(high)))
}

func rowsOf(r compare.Rows) []row {
	rows := []row{{comparison: emulatedVsReference, Values: r.EmulatedVsReference}}
	if r.ActualVsReference != nil {
		rows = append(rows, row{comparison: actualVsReference, Values: *r.ActualVsReference})
	}
	if r.ActualVsEmulated != nil {
		rows = append(rows, row{comparison: actualVsEmulated, Values: r.ActualVsEmulated.Values, bits: &r.ActualVsEmulated.Bits})
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
	rows := []row{{comparison: emulatedVsReference, Values: s.EmulatedVsReference}}
	if s.ActualVsReference != nil {
		rows = append(rows, row{comparison: actualVsReference, Values: *s.ActualVsReference})
	}
	if s.ActualVsEmulated != nil {
		rows = append(rows, row{comparison: actualVsEmulated, Values: *s.ActualVsEmulated})
	}
	return bounded(rows, s.Confidence)
}

// Compared is results of compare, of one kernel or of several on the same layers, and
// what of them a table shows.
type Compared struct {
	Results []*compare.Result
	Verdict *compare.Verdict
	// Layers are the indices of the layers to show, in order; nil for all. Left is how
	// many more there are that --top left out.
	Layers []int
	Left   int
}

// layers are the indices of the layers to show.
func (c *Compared) layers() []int {
	if c.Layers != nil {
		return c.Layers
	}
	all := make([]int, len(c.Results[0].Layers))
	for i := range all {
		all[i] = i
	}
	return all
}

// RowsOf is how many rows a table has of a layer of results, without its heads.
func RowsOf(results []*compare.Result, layer int) int {
	n := 0
	for k, r := range results {
		for _, row := range rowsOf(r.Layers[layer].Rows) {
			if k == 0 || !shared(row) {
				n++
			}
		}
	}
	return n
}

// shared says that a row is the same for every kernel.
func shared(r row) bool { return strings.HasSuffix(r.key, actualVsReference.key) }

// several says that there are several kernels.
func (c *Compared) several() bool { return len(c.Results) > 1 }

// CompareText writes results as aligned text: the verdict, what was run, the rows of
// the layers, their average and worst, and what is odd about the layers.
func CompareText(w io.Writer, c *Compared) error {
	for _, p := range c.head() {
		if _, err := fmt.Fprintf(w, "%-9s  %s\n", p.key, p.value); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	if err := c.table(true).Text(w); err != nil {
		return err
	}
	if c.Left > 0 {
		if _, err := fmt.Fprintln(w, c.more()); err != nil {
			return err
		}
	}
	notes := c.notes()
	if len(notes) > 0 {
		notes = append([]string{""}, notes...)
	}
	if err := list(w, notes); err != nil {
		return err
	}
	return c.writeAttribution(w, (*texttab.Table).Text)
}

// CompareMarkdown is CompareText in GitHub Flavored Markdown.
func CompareMarkdown(w io.Writer, c *Compared) error {
	for _, p := range c.head() {
		key := "- " + p.key + ":"
		if p.key == "" {
			key = " " // the item goes on
		}
		if _, err := fmt.Fprintf(w, "%s %s\n", key, texttab.Markdown(p.value)); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	if err := c.table(false).Markdown(w); err != nil {
		return err
	}
	notes := c.notes()
	if c.Left > 0 {
		if _, err := fmt.Fprintf(w, "\n%s\n", c.more()); err != nil {
			return err
		}
	}
	if len(notes) > 0 {
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
	}
	if err := items(w, notes); err != nil {
		return err
	}
	return c.writeAttribution(w, (*texttab.Table).Markdown)
}

// more says how many layers are not shown.
func (c *Compared) more() string { return fmt.Sprintf(moreLayers, c.Left) }

// verdictHead says the verdict, a line each.
func verdictHead(v *compare.Verdict) []pair {
	var out []pair
	if v == nil {
		return nil
	}
	for i, l := range v.Lines {
		key := "verdict"
		if i > 0 {
			key = ""
		}
		out = append(out, pair{key, texttab.Shorten(l, lineWidth)})
	}
	return out
}

// lineWidth is how wide a line of the verdict gets.
const lineWidth = 300

// kernelHead says what kernel ran.
func kernelHead(k compare.KernelInfo) []pair {
	config := fmt.Sprintf("QK %s, smooth %s; PV %s, accumulated in %s", k.QK(), k.Smooth, k.PVDType, k.PVAccum)
	if k.Variant != "" {
		config += "; variant " + k.Variant
	}
	head := []pair{{"kernel", fmt.Sprintf("%s on %s: %s", k.Name, k.Arch, k.Program)}}
	if k.Chosen != "" {
		head = append(head, pair{"chosen", k.Chosen})
	}
	head = append(head, pair{"config", config})
	if k.PVUnit != "" {
		head = append(head, pair{"pv unit", k.PVUnit})
	}
	if k.Reported != "" {
		head = append(head, pair{"reported", k.Reported})
	}
	switch {
	case k.Scalar != "":
		head = append(head, pair{"speed", "tens of times slower than kernels that run in vectors: their strips have no " + k.Portable + ", their steps no " + k.Scalar})
	case k.Portable != "":
		head = append(head, pair{"speed", "several times slower than kernels that run whole in strips of vectors, which have no " + k.Portable})
	}
	return head
}

// head says what is wrong, what was run, and on what.
func (c *Compared) head() []pair {
	r := c.Results[0]
	head := verdictHead(c.Verdict)
	for _, r := range c.Results {
		head = append(head, kernelHead(r.Kernel)...)
	}
	head = append(head, pair{"reference", r.Reference})
	layers := fmt.Sprintf("%d", len(r.Layers))
	if same := commonTraits(r.Layers); same != "" {
		layers += ", " + same
	}
	head = append(head, pair{"layers", layers})
	if s := r.SampleText(); s != "" {
		head = append(head, pair{"sample", s})
	}
	var synthetic []string
	shown := c.layers()
	for n, i := range shown {
		l := &r.Layers[i]
		if l.Synthetic == "" {
			continue
		}
		// Layers of a file share their origin, which is told once.
		if n > 0 && r.Layers[shown[n-1]].Synthetic == l.Synthetic {
			continue
		}
		synthetic = append(synthetic, name(l.Name)+" "+origin(l.Synthetic))
	}
	if len(synthetic) == 1 && allSynthetic(r.Layers) {
		synthetic[0] = origin(r.Layers[shown[0]].Synthetic)
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
	t := l.Shape.DType
	if l.Causal {
		t += " causal"
	}
	if l.Quantised != "" {
		t += " " + l.Quantised
	}
	return strings.Join(append([]string{t}, l.Call.Parts()...), ", ")
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

// table makes the table; separated puts a blank line between the layers and their
// summary, which Markdown has no way to say. Where layers are left out the summary
// comes first.
func (c *Compared) table(separated bool) *texttab.Table {
	r := c.Results[0]
	heads := []string{"layer", "shape", "comparison", ">cos_sim", ">rel_l1", ">rmse", ">max_abs"}
	if c.several() {
		heads = []string{"layer", "shape", "kernel", "comparison", ">cos_sim", ">rel_l1", ">rmse", ">max_abs"}
	}
	t := columns(heads...)
	if r.Average.ActualVsEmulated != nil {
		t.Header = append(t.Header, "differing", "max ulp")
		t.Align = append(t.Align, texttab.Right, texttab.Right)
	}
	add := func(first, second string, kernels [][]row) {
		for k, rows := range kernels {
			kernel := c.Results[k].Kernel.Name
			for _, row := range rows {
				// What no kernel has a part in is told once.
				if k > 0 && shared(row) {
					continue
				}
				cells := []string{first, second}
				if c.several() {
					cells = append(cells, kernel)
				}
				cells = append(cells, row.words, row.between(row.CosSim, cosine, "cos_sim"), row.between(row.RelL1, relative, "rel_l1"), row.between(row.RMSE, absolute, "rmse"), absolute(row.MaxAbs))
				if b := row.bits; b != nil {
					cells = append(cells, fmt.Sprintf("%d of %d", b.Mismatched, b.Elements), fmt.Sprintf("%d ulp", b.MaxULP))
				}
				t.Rows = append(t.Rows, cells)
				first, second, kernel = "", "", ""
			}
		}
	}
	each := func(rows func(r *compare.Result) []row) [][]row {
		var out [][]row
		for _, r := range c.Results {
			out = append(out, rows(r))
		}
		return out
	}
	tell := len(r.Layers) > 1 && commonTraits(r.Layers) == ""
	layers := func() {
		for _, i := range c.layers() {
			l := &r.Layers[i]
			shape := shapeOf(l.Shape)
			if tell {
				shape += " " + traits(l)
			}
			add(name(l.Name), shape, each(func(r *compare.Result) []row { return bounded(rowsOf(r.Layers[i].Rows), r.Layers[i].Confidence) }))
			for n, h := range l.Heads {
				head := fmt.Sprintf("  head %d", h.Head)
				if l.Shape.Batch > 1 {
					head = fmt.Sprintf("  batch %d, head %d", h.Batch, h.Head)
				}
				add(head, "", each(func(r *compare.Result) []row { return rowsOf(r.Layers[i].Heads[n].Rows) }))
			}
		}
	}
	summary := func() {
		add("average", "", each(func(r *compare.Result) []row { return rowsOfSummary(r.Average) }))
		at := len(t.Rows)
		add("worst", "", each(func(r *compare.Result) []row { return rowsOfSummary(r.Worst) }))
		// Each row names the layer that it is of.
		for k, r := range c.Results {
			for _, x := range worstOf(r) {
				if k > 0 && x.comparison == actualVsReference {
					continue
				}
				t.Rows[at][1] = x.short()
				at++
			}
		}
	}
	blank := func() {
		if separated {
			t.Rows = append(t.Rows, nil)
		}
	}
	switch {
	// Of a single layer, average and worst are the layer again.
	case len(r.Layers) <= 1:
		layers()
	case c.Left > 0:
		summary()
		blank()
		layers()
	default:
		layers()
		blank()
		summary()
	}
	return &t
}

// notes says which layers the worst figures are of, what is odd about layers, and where outputs
// first differ.
func (c *Compared) notes() []string {
	var notes []string
	for _, r := range c.Results {
		of := ""
		if c.several() {
			of = r.Kernel.Name + ": "
		}
		if len(r.Layers) > 1 {
			for _, x := range worstOf(r) {
				if x.several() {
					notes = append(notes, fmt.Sprintf("%sworst %s: %s", of, x.words, x.long()))
				}
			}
		}
	}
	// Where layers are left out, so are notes beyond so many; but for what was asked for.
	told, left := 0, 0
	add := func(format string, args ...any) {
		if c.Left > 0 && told == manyNotes {
			left++
			return
		}
		told++
		notes = append(notes, fmt.Sprintf(format, args...))
	}
	var explained []string
	for k, r := range c.Results {
		for _, i := range c.layers() {
			l := &r.Layers[i]
			of := name(l.Name)
			if c.several() {
				of += ", " + r.Kernel.Name
			}
			for _, w := range l.Warnings {
				add("%s: %s", of, shortened(strings.TrimPrefix(w, l.Name+"."), l.Name))
			}
			if k == 0 {
				for _, w := range l.Suspicious {
					add("%s: suspicious: %s", name(l.Name), w)
				}
			}
			if k == 0 && l.Misplaced != "" {
				add("%s: %s", name(l.Name), l.Misplaced)
			}
			if b := l.ActualVsEmulated; b != nil && b.First != nil {
				add("%s: %s", of, Mismatch(b.First))
			}
			if l.LSE != nil && l.LSE.ActualVsEmulated != nil && l.LSE.ActualVsEmulated.First != nil {
				m := l.LSE.ActualVsEmulated.First
				add("%s: lse: first difference at batch %d, head %d, token %d: %s", of, m.Batch, m.Head, m.Token, m.Both())
			}
			lines := &notes
			if left > 0 {
				lines = &explained
			}
			for _, line := range explanation(l) {
				*lines = append(*lines, fmt.Sprintf("%s: %s", of, line))
			}
		}
	}
	if left > 0 {
		notes = append(notes, fmt.Sprintf("… %d more notes (--top 0 shows all)", left))
	}
	return append(notes, explained...)
}

// manyNotes is how many notes of layers a table has that does not show all layers.
const manyNotes = 12

// worstLayers names the layers of a row of worst figures.
type worstLayers struct {
	comparison
	*compare.FigureLayers
}

// worstOf returns those that there are, in the order of the rows.
func worstOf(r *compare.Result) []worstLayers {
	var out []worstLayers
	for _, x := range []worstLayers{{emulatedVsReference, r.WorstLayers.EmulatedVsReference}, {actualVsReference, r.WorstLayers.ActualVsReference}, {actualVsEmulated, r.WorstLayers.ActualVsEmulated}} {
		if x.FigureLayers != nil {
			out = append(out, x)
		}
	}
	return out
}

// several reports whether the figures are of more than one layer.
func (w worstLayers) several() bool {
	return w.RelL1 != w.CosSim || w.RMSE != w.CosSim || w.MaxAbs != w.CosSim
}

// short names the first of the layers.
func (w worstLayers) short() string {
	const width = 24
	s := texttab.Shorten(w.CosSim, width)
	if w.several() {
		s += ", …"
	}
	return s
}

// long names the layers, each with its figures.
func (w worstLayers) long() string {
	var names []string
	figures := map[string][]string{}
	for _, x := range []struct{ figure, layer string }{{"cos_sim", w.CosSim}, {"rel_l1", w.RelL1}, {"rmse", w.RMSE}, {"max_abs", w.MaxAbs}} {
		if figures[x.layer] == nil {
			names = append(names, x.layer)
		}
		figures[x.layer] = append(figures[x.layer], x.figure)
	}
	for i, n := range names {
		names[i] = fmt.Sprintf("%s (%s)", name(n), strings.Join(figures[n], ", "))
	}
	return strings.Join(names, ", ")
}

// explanation says what gives a layer's actual output, or what comes nearest.
func explanation(l *compare.Layer) []string {
	if l.Explanation == nil {
		return nil
	}
	return l.Explanation.Lines()
}

// writeAttribution writes what each step causes, if that was asked for.
func (c *Compared) writeAttribution(w io.Writer, write func(*texttab.Table, io.Writer) error) error {
	for _, r := range c.Results {
		table, notes := attribution(r, c.layers())
		if table == nil && notes == nil {
			continue
		}
		of := ""
		if c.several() {
			of = " of " + r.Kernel.Name
		}
		if _, err := fmt.Fprintf(w, "\nWhat causes the error%s: each step alone with all others exact, and the kernel with that step exact.\n\n", of); err != nil {
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
		if err := list(w, notes); err != nil {
			return err
		}
	}
	return nil
}

// attribution makes the table of what each step causes, nil without a row, and a
// line for each layer whose error has no parts.
func attribution(r *compare.Result, layers []int) (*texttab.Table, []string) {
	var notes []string
	t := columns("layer", "step", ">alone: 1-cos", ">rel_l1", ">of MSE", ">without: 1-cos", ">rel_l1", ">of MSE")
	for _, i := range layers {
		l := &r.Layers[i]
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
		rest := "no step (FP32 arithmetic)"
		if l.Call != nil && l.Call.BlockMap != nil {
			rest = "no step (FP32 arithmetic, block map)"
		}
		t.Rows = append(t.Rows,
			append([]string{"", rest}, cells(a.Rest)...),
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
func Mismatch(m *metrics.Mismatch) string { return fmt.Sprintf("first difference at %v", m) }

// CompareCSV writes a record for each comparison of each layer and, after those
// of the layer, of each of its heads. Numbers keep their full precision.
func CompareCSV(w io.Writer, c *Compared) error {
	t := texttab.Table{Header: strings.Split("kernel,arch,reference,layer,batch,heads,kv_heads,queries,keys,head_dim,dtype,causal,sm_scale,"+
		"at_batch,at_head,comparison,cos_sim,rel_l1,rmse,max_abs,elements,mismatched,max_ulp", ",")}
	sampled := c.Results[0].SampleText() != ""
	if sampled {
		t.Header = append(t.Header, "cos_sim_low", "cos_sim_high", "rel_l1_low", "rel_l1_high", "rmse_low", "rmse_high")
	}
	for _, i := range c.layers() {
		for _, r := range c.Results {
			l := &r.Layers[i]
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
					if sampled {
						for len(record) < len(t.Header)-6 {
							record = append(record, "")
						}
						if b := row.bounds; b != nil {
							for _, x := range [][2]jsonfloat.Float{b.CosSim, b.RelL1, b.RMSE} {
								record = append(record, exact(x[0]), exact(x[1]))
							}
						}
					}
					t.Rows = append(t.Rows, record)
				}
			}
			add("", "", bounded(rowsOf(l.Rows), l.Confidence))
			for _, h := range l.Heads {
				add(strconv.Itoa(h.Batch), strconv.Itoa(h.Head), rowsOf(h.Rows))
			}
		}
	}
	return t.CSV(w)
}
