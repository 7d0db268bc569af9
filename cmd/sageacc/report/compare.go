package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/compare/diff"
	"github.com/sageacc/sageacc/metrics"
)

func comparePage(in *Input) (*page, error) {
	layers := join(in)
	p := &page{
		assets: common,
		Kind:   "sageacc: quantised attention against full precision",
		Title:  fmt.Sprintf("%s, %s", kernelName(in.Compare), plural(len(layers), "layer", "layers")),
		Facts:  facts(in),
	}
	if in.Over != nil {
		p.Kind = "sageacc: two results over each other"
		a, b := kernelName(in.Compare), kernelName(in.Over)
		if n := in.names(); a == b {
			p.Title = fmt.Sprintf("%s, %s against %s", a, n[1], n[0])
		} else {
			p.Title = fmt.Sprintf("B, %s, against A, %s", b, a)
		}
		p.Verdict = overVerdict(in, layers)
	} else {
		p.Verdict = verdict(in.Compare)
	}
	if len(layers) > 1 {
		p.Sections = append(p.Sections, overviewSection(in, layers))
	}
	p.Sections = append(p.Sections, layersSection(in, layers))
	if s := warningsSection(in, layers); s != nil {
		p.Sections = append(p.Sections, *s)
	}
	for k, r := range in.results() {
		s := repeat(r.Args)
		if in.Over != nil {
			s.ID, s.Title = fmt.Sprintf("repeat-%d", k+1), "How to repeat "+in.names()[k]
		}
		var sources []string
		for _, l := range r.Layers {
			if l.Source != "" && !slices.Contains(sources, l.Source) && len(sources) < 20 {
				sources = append(sources, l.Source)
			}
		}
		for _, f := range sources {
			s.Notes = append(s.Notes, "Read from "+clean(f))
		}
		p.Sections = append(p.Sections, *s)
	}
	p.Sections = append(p.Sections, section{ID: "meaning", Title: "What the figures mean", Notes: []string{
		"O is the reference in full precision, O′ the emulated or actual output.",
		"Cosine similarity: Σ(O·O′) / (|O|·|O′|). 1 is best.",
		"Relative L1: Σ|O−O′| / Σ|O|. RMSE: √mean((O−O′)²). Max. error: max|O−O′|.",
		"Differing elements are those whose bits differ; an ulp is the distance to the next representable value.",
	}, Docs: []link{{"The three comparisons", "concepts.md#the-three-rows"}, {"Glossary", "glossary.md"}, {"This page", "report.md"}}})
	var err error
	if p.Data, err = encode(overview(in, layers)); err != nil {
		return nil, err
	}
	cells := max(mapCells/len(layers), 1)
	for _, l := range layers {
		var d [2]*detail
		for k := range in.results() {
			if l[k] != nil {
				d[k] = detailOf(l[k], cells)
			}
		}
		js, err := encode(d[:len(in.results())])
		if err != nil {
			return nil, err
		}
		p.Details = append(p.Details, js)
	}
	return p, nil
}

func kernelName(r *compare.Result) string {
	return fmt.Sprintf("%s on %s", clean(r.Kernel.Name), clean(r.Kernel.Arch))
}

// facts say what was run, of two results what each was.
func facts(in *Input) []fact {
	of := func(r *compare.Result) []fact {
		k := r.Kernel
		out := []fact{
			{"Kernel", fmt.Sprintf("%s on %s: %s", k.Name, k.Arch, k.Program)},
			{"Q and K", fmt.Sprintf("INT%d %s, smooth %s", k.QKBits, k.QKGranularity, k.Smooth)},
			{"P and V", fmt.Sprintf("%s, accumulated in %s", k.PVDType, k.PVAccum)},
			{"Variant", k.Variant},
			{"Matrix unit", k.PVUnit},
			{"exp2, 1/x", k.SpecialFunctions},
			{"Reference", r.Reference},
		}
		var origins []string
		for _, l := range r.Layers {
			if l.Synthetic != "" && !slices.Contains(origins, l.Synthetic) && len(origins) < 20 {
				origins = append(origins, l.Synthetic)
			}
		}
		if origins != nil {
			out = append(out, fact{"Input", "synthetic: " + strings.Join(origins, "; ")})
		}
		if r.Tool != nil {
			out = append(out, fact{"sageacc", r.Tool.String()})
		}
		for i := range out {
			out[i].Value = clean(out[i].Value)
		}
		return out
	}
	a := of(in.Compare)
	if in.Over != nil {
		b := of(in.Over)
		n := in.names()
		both := []fact{{"A", n[0]}, {"B", n[1]}}
		for i := range a {
			switch k := slices.IndexFunc(b, func(f fact) bool { return f.Key == a[i].Key }); {
			case k < 0:
				both = append(both, fact{a[i].Key, "A: " + a[i].Value})
			case b[k].Value == a[i].Value:
				both = append(both, a[i])
			default:
				both = append(both, fact{a[i].Key, "A: " + a[i].Value}, fact{"", "B: " + b[k].Value})
			}
		}
		for _, f := range b {
			if !slices.ContainsFunc(a, func(x fact) bool { return x.Key == f.Key }) {
				both = append(both, fact{f.Key, "B: " + f.Value})
			}
		}
		a = both
	}
	return slices.DeleteFunc(a, func(f fact) bool { return f.Value == "" || f.Value == "A: " || f.Value == "B: " })
}

// verdict says in words what is wrong, worst first, whether an actual output is the
// emulated one, how accurate the kernel is, and where it is worst.
func verdict(r *compare.Result) []finding {
	var out []finding
	add := func(severity, format string, args ...any) {
		out = append(out, finding{Severity: severity, Text: fmt.Sprintf(format, args...)})
	}
	at := func(severity string, i int, format string, args ...any) {
		out = append(out, finding{severity, fmt.Sprintf(format, args...), i + 1, clean(r.Layers[i].Name)})
	}
	var emulated []metrics.Values
	have, exact, odd, warned := 0, 0, 0, 0
	firstOdd, worst := -1, -1
	var elements, mismatched int64
	for i := range r.Layers {
		l := &r.Layers[i]
		emulated = append(emulated, l.EmulatedVsReference)
		if stateOf(l) == "nan" {
			odd++
			if firstOdd < 0 {
				firstOdd = i
			}
		}
		if len(l.Warnings) > 0 {
			warned++
		}
		if b := l.ActualVsEmulated; b != nil {
			have++
			elements += b.Elements
			mismatched += b.Mismatched
			if b.Exact() {
				exact++
			} else if worst < 0 || worse(l, &r.Layers[worst]) {
				worst = i
			}
		}
	}
	switch {
	case odd == 1 && len(r.Layers) == 1:
		add("bad", "It has NaN or infinite values.")
	case odd == 1:
		at("bad", firstOdd, "One layer has NaN or infinite values:")
	case odd > 1:
		at("bad", firstOdd, "%d of %d layers have NaN or infinite values, the first is", odd, len(r.Layers))
	}
	of := "the one layer"
	if len(r.Layers) > 1 {
		of = fmt.Sprintf("%d of %d layers", have, len(r.Layers))
	}
	switch {
	case have == 0:
	case exact == have:
		add("good", "There is an actual output for %s, and it equals the emulated one bit for bit: none of %d elements differs.", of, elements)
	case exact == 0:
		add("bad", "There is an actual output for %s. It is not the emulated one: %d of %d elements differ (%s).", of, mismatched, elements, percent(ratio(mismatched, elements)))
	default:
		add("bad", "There is an actual output for %s. It equals the emulated one bit for bit in %d of these and differs in %d: %d of %d elements (%s).",
			of, exact, have-exact, mismatched, elements, percent(ratio(mismatched, elements)))
	}
	if worst >= 0 && len(r.Layers) > 1 {
		b := r.Layers[worst].ActualVsEmulated
		at("bad", worst, "%s of elements differ, by %s in relative L1, in", percent(ratio(b.Mismatched, b.Elements)), number(b.RelL1))
	}
	if len(r.Layers) == 1 {
		v := emulated[0]
		add("note", "Against full precision the emulated kernel has a cosine similarity of %s, a relative L1 error of %s and an RMSE of %s.",
			cosine(v.CosSim), number(v.RelL1), number(v.RMSE))
	} else {
		// Computed here, because a file's own average may be missing.
		v, w := metrics.Average(emulated), metrics.WorstOf(emulated)
		add("note", "Against full precision the emulated kernel has, on average over %d layers, a cosine similarity of %s, a relative L1 error of %s and an RMSE of %s.",
			len(r.Layers), cosine(v.CosSim), number(v.RelL1), number(v.RMSE))
		if w.CosSimAt == w.RelL1At {
			at("note", w.CosSimAt, "The worst is, with a cosine similarity of %s and a relative L1 error of %s,", cosine(w.CosSim), number(w.RelL1))
		} else {
			at("note", w.CosSimAt, "The lowest cosine similarity, %s, is that of", cosine(w.CosSim))
			at("note", w.RelL1At, "The highest relative L1 error, %s, is that of", number(w.RelL1))
		}
	}
	if have == 0 {
		add("note", "There is no actual output of a GPU to compare with.")
	}
	if warned > 0 {
		add("warn", "%s warnings, below.", map[bool]string{true: "One layer has", false: fmt.Sprintf("%d layers have", warned)}[warned == 1])
	}
	return out
}

// worse orders layers, worst first.
func worse(a, b *compare.Layer) bool {
	x, p := badness(a)
	y, q := badness(b)
	if x != y {
		return x < y
	}
	if math.IsNaN(p) || math.IsNaN(q) {
		return math.IsNaN(p) && !math.IsNaN(q)
	}
	return p > q
}

// overVerdict says what became of the layers that both results have.
func overVerdict(in *Input, layers []pair) []finding {
	var out []finding
	at := func(severity string, i int, format string, args ...any) {
		out = append(out, finding{severity, fmt.Sprintf(format, args...), i + 1, clean(layers[i].first().Name)})
	}
	const bound = 0.01
	common, alone := 0, [2]int{}
	broke, brokeAt := 0, 0
	type change struct {
		grew, fell, same int
		most, least      float64
		mostAt, leastAt  int
	}
	var emulated, actual change
	count := func(c *change, i int, a, b metrics.Values) {
		g := relative(float64(a.RelL1), float64(b.RelL1))
		switch {
		case g > bound:
			c.grew++
		case g < -bound:
			c.fell++
		default:
			c.same++
		}
		if g > c.most {
			c.most, c.mostAt = g, i
		}
		if g < c.least {
			c.least, c.leastAt = g, i
		}
	}
	differ := [2]int64{}
	haveBits := false
	for i, p := range layers {
		a, b := p[0], p[1]
		switch {
		case b == nil:
			alone[0]++
			continue
		case a == nil:
			alone[1]++
			continue
		}
		common++
		if stateOf(b) == "nan" && stateOf(a) != "nan" {
			if broke == 0 {
				brokeAt = i
			}
			broke++
		}
		count(&emulated, i, a.EmulatedVsReference, b.EmulatedVsReference)
		if a.ActualVsReference != nil && b.ActualVsReference != nil {
			count(&actual, i, *a.ActualVsReference, *b.ActualVsReference)
			haveBits = true
			differ[0] += a.ActualVsEmulated.Mismatched
			differ[1] += b.ActualVsEmulated.Mismatched
		}
	}
	if broke > 0 {
		at("bad", brokeAt, "In B %s NaN or infinite values that A has not, the first is", map[bool]string{true: "one layer has", false: fmt.Sprintf("%d layers have", broke)}[broke == 1])
	}
	say := func(what string, c change) {
		n := c.grew + c.fell + c.same
		if n == 0 {
			return
		}
		severity := "good"
		if c.grew > 0 {
			severity = "bad"
		}
		text := fmt.Sprintf("%s: in B the relative L1 error is larger than in A by more than 1%% in %d of %d layers, smaller in %d, about the same in %d.", what, c.grew, n, c.fell, c.same)
		out = append(out, finding{Severity: severity, Text: text})
		if c.most > bound {
			at("bad", c.mostAt, "It grew most, %s, in", growth(c.most))
		}
		if c.least < -bound {
			at("note", c.leastAt, "It fell most, %s, in", growth(c.least))
		}
	}
	say("Actual output", actual)
	say("Emulated kernel", emulated)
	if haveBits {
		severity := "note"
		if differ[1] > differ[0] {
			severity = "bad"
		}
		out = append(out, finding{Severity: severity, Text: fmt.Sprintf("Elements that differ from the emulated output: %d in A, %d in B.", differ[0], differ[1])})
	}
	for k, n := range alone {
		if n > 0 {
			out = append(out, finding{Severity: "warn", Text: fmt.Sprintf("%s only in %s.", map[bool]string{true: "One layer is", false: fmt.Sprintf("%d layers are", n)}[n == 1], in.names()[k])})
		}
	}
	if common == 0 {
		out = append(out, finding{Severity: "warn", Text: "The results have no layer in common."})
	}
	if s := diff.Compare(in.Compare, in.Over).Settings; len(s) > 0 {
		for i := range s {
			s[i] = clean(s[i])
		}
		out = append(out, finding{Severity: "note", Text: "From A to B changed: " + strings.Join(s, "; ") + "."})
	}
	return out
}

// relative is b/a - 1: 0 where both are the same or NaN, infinite where b alone is not
// finite.
func relative(a, b float64) float64 {
	finite := func(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }
	switch {
	case a == b || !finite(a) && !finite(b):
		return 0
	case !finite(b) || a == 0:
		return math.Inf(1)
	case !finite(a):
		return -1
	}
	return b/a - 1
}

// growth writes what relative returns.
func growth(x float64) string {
	switch {
	case math.IsInf(x, 1):
		return "from zero or to infinity or NaN"
	case x > 10:
		return digits(1+x, 3) + " times"
	}
	return fmt.Sprintf("%+.1f%%", 100*x)
}

func hasActual(r *compare.Result) bool {
	return slices.ContainsFunc(r.Layers, func(l compare.Layer) bool { return l.ActualVsReference != nil })
}

// overviewSection is drawn by the script alone.
func overviewSection(in *Input, layers []pair) section {
	c := &controls{Layers: len(layers)}
	used := map[string]bool{}
	actual, heads, causes := 0, false, false
	for _, r := range in.results() {
		if hasActual(r) {
			actual++
		}
		for i := range r.Layers {
			l := &r.Layers[i]
			used[stateOf(l)] = true
			heads = heads || len(l.Heads) > 0
			causes = causes || l.Attribution != nil
		}
	}
	c.Actual, c.Outputs = actual > 0, actual > 0 && in.Over != nil
	for _, s := range states {
		if used[s.Key] {
			c.States = append(c.States, s)
		}
	}
	s := section{ID: "overview", Title: "Where the error is", Mount: "maps", Controls: c}
	if !heads {
		s.Notes = append(s.Notes, "compare --per-head adds a map of layers and heads.")
	}
	if !causes {
		s.Notes = append(s.Notes, "compare --attribute adds a map of layers and the steps that cause the error.")
	}
	s.Docs = []link{{"How to read these maps", "report.md#maps"}, {"What the steps are", "concepts.md#what-causes-the-error"}}
	return s
}

// layersSection is the table, worst layers first. The script draws it anew, to be
// sorted and filtered.
func layersSection(in *Input, layers []pair) section {
	s := section{ID: "layers", Title: "Layers", Mount: "table"}
	if len(layers) == 1 {
		s.Title = "The layer"
	}
	order := make([]int, len(layers))
	for i := range order {
		order[i] = i
	}
	// Of two results the second is the newer.
	last := func(p pair) *compare.Layer {
		if p[1] != nil {
			return p[1]
		}
		return p[0]
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch x, y := last(layers[a]), last(layers[b]); {
		case worse(x, y):
			return -1
		case worse(y, x):
			return 1
		}
		return cmp.Compare(a, b)
	})
	text := map[string]string{}
	for _, x := range states {
		text[x.Key] = x.Text
	}
	t := table{Caption: "Layers, worst first, against full precision", Static: true}
	if in.Over != nil {
		t.Columns = columns("#", "~layer", "state in A", "in B", ">emulated: rel. L1 in A", ">in B", ">actual: rel. L1 in A", ">in B", ">differing in A", ">in B")
		for _, i := range order {
			line := []string{strconv.Itoa(i + 1), clean(layers[i].first().Name)}
			var parts [4][2]string
			for k, l := range layers[i] {
				if l == nil {
					parts[0][k] = "not there"
					continue
				}
				parts[0][k] = text[stateOf(l)]
				parts[1][k] = number(l.EmulatedVsReference.RelL1)
				if l.ActualVsReference != nil {
					parts[2][k] = number(l.ActualVsReference.RelL1)
					parts[3][k] = percent(ratio(l.ActualVsEmulated.Mismatched, l.ActualVsEmulated.Elements))
				}
			}
			for _, p := range parts {
				line = append(line, p[:]...)
			}
			t.Rows = append(t.Rows, tableRow{ID: fmt.Sprintf("layer-%d", i+1), Text: line})
		}
		s.Tables = []table{t}
		return s
	}
	both := hasActual(in.Compare)
	t.Columns = columns("#", "~layer", "state", "shape", ">cos", ">rel. L1", ">RMSE", ">max. error")
	if both {
		t.Columns = append(t.Columns, columns(">actual: cos", ">rel. L1", ">RMSE", ">max. error", ">differing from emulated", ">max. ulp")...)
	}
	for _, i := range order {
		l := layers[i][0]
		line := append([]string{strconv.Itoa(i + 1), clean(l.Name), text[stateOf(l)], shape(l)}, fourCells(l.EmulatedVsReference)...)
		if v, b := l.ActualVsReference, l.ActualVsEmulated; both && v != nil && b != nil {
			line = append(append(line, fourCells(*v)...), fmt.Sprintf("%d of %d", b.Mismatched, b.Elements), strconv.FormatUint(uint64(b.MaxULP), 10))
		}
		t.Rows = append(t.Rows, tableRow{ID: fmt.Sprintf("layer-%d", i+1), Text: line})
	}
	s.Tables = []table{t}
	return s
}

func fourCells(v metrics.Values) []string {
	return []string{cosine(v.CosSim), number(v.RelL1), number(v.RMSE), number(v.MaxAbs)}
}

func shape(l *compare.Layer) string {
	s := l.Shape
	out := fmt.Sprintf("%d×%d×%d×%d", s.Batch, s.Heads, s.Queries, s.HeadDim)
	if s.KVHeads != s.Heads || s.Keys != s.Queries {
		out += fmt.Sprintf(", KV %d×%d", s.KVHeads, s.Keys)
	}
	if l.Causal {
		out += " causal"
	}
	if s.DType != "" {
		out += " " + clean(s.DType)
	}
	return out
}

// mostWarnings is how many the page lists; each layer has its own.
const mostWarnings = 30

// warningsSection is nil where there are none.
func warningsSection(in *Input, layers []pair) *section {
	s := &section{ID: "warnings", Title: "Warnings", Docs: []link{{"What they mean", "report.md#warnings"}}}
	n := 0
	for i, p := range layers {
		for k, l := range p {
			if l == nil {
				continue
			}
			for _, w := range l.Warnings {
				if n++; n > mostWarnings {
					continue
				}
				which := ""
				if in.Over != nil {
					which = ", in " + []string{"A", "B"}[k]
				}
				s.Notes = append(s.Notes, fmt.Sprintf("Layer %d, %s%s: %s", i+1, clean(l.Name), which, clean(w)))
			}
		}
	}
	if n > mostWarnings {
		s.Notes = append(s.Notes, fmt.Sprintf("And %d more; each layer shows its own.", n-mostWarnings))
	}
	if n == 0 {
		return nil
	}
	return s
}

// repeat shows the command that gave a result.
func repeat(args []string) *section {
	s := &section{ID: "repeat", Title: "How to repeat this"}
	if len(args) == 0 {
		s.Intro = []string{"The result does not say by which command it was made."}
		return s
	}
	s.Intro = []string{"The same figures again, on any machine; --format json gives what this page was made of:"}
	s.Code = shellLine(args)
	return s
}
