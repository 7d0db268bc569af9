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
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/metrics"
)

func comparePage(in *Input) (*page, error) {
	layers := join(in.Results)
	p := &page{
		assets:       common(),
		Kind:         "sageacc: quantised attention against full precision",
		Title:        fmt.Sprintf("%s, %s", kernelName(in.Results[0]), plural(len(layers), "layer", "layers")),
		Facts:        facts(in),
		Descriptions: descriptions(in),
	}
	if in.several() {
		p.Kind = "sageacc: results over each other"
		p.Title = fmt.Sprintf("%d results over each other, %s", len(in.Results), plural(len(layers), "layer", "layers"))
		p.Verdict = overVerdict(in, layers)
	} else {
		p.Verdict = verdict(in.Results[0], layers)
	}
	p.Verdict, p.Notes = split(p.Verdict)
	if len(layers) > 1 {
		p.Sections = append(p.Sections, overviewSection(in, layers))
	}
	p.Sections = append(p.Sections, layersSection(in, layers))
	if s := warningsSection(in, layers); s != nil {
		p.Sections = append(p.Sections, *s)
	}
	for k, r := range in.Results {
		s := repeat(r.Args)
		if in.several() {
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
	cells := max(mapCells/len(layers)/len(in.Results), 1)
	for _, of := range layers {
		d := make([]*detail, len(of))
		for k, l := range of {
			if l != nil {
				d[k] = detailOf(l, cells)
			}
		}
		js, err := encode(d)
		if err != nil {
			return nil, err
		}
		p.Details = append(p.Details, js)
	}
	return p, nil
}

// split parts what is wrong, or right, from what is only worth to know.
func split(all []finding) (verdict, notes []finding) {
	for _, f := range all {
		if f.Severity == "note" {
			notes = append(notes, f)
		} else {
			verdict = append(verdict, f)
		}
	}
	return verdict, notes
}

func kernelName(r *compare.Result) string {
	return fmt.Sprintf("%s on %s", clean(r.Kernel.Name), clean(r.Kernel.Arch))
}

// descriptions are the kernels' descriptions, each once; results of versions that did not write
// them have none.
func descriptions(in *Input) []fact {
	var out []fact
	for _, r := range in.Results {
		p := r.Kernel.Description
		if p.Schema == "" {
			continue
		}
		text, err := program.Text(&p, nil)
		if err != nil {
			continue
		}
		lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
		for i := range lines {
			indent := len(lines[i]) - len(strings.TrimLeft(lines[i], " "))
			lines[i] = lines[i][:indent] + clean(lines[i][indent:])
		}
		f := fact{"The description of " + kernelName(r), strings.Join(lines, "\n")}
		if !slices.Contains(out, f) {
			out = append(out, f)
		}
	}
	return out
}

// facts say what was run, of two results what each was.
func facts(in *Input) []fact {
	of := func(r *compare.Result) []fact {
		k := r.Kernel
		out := []fact{
			{"Kernel", fmt.Sprintf("%s on %s: %s", k.Name, k.Arch, k.Program)},
			{"Q and K", fmt.Sprintf("%s, smooth %s", k.QK(), k.Smooth)},
			{"P and V", fmt.Sprintf("%s, accumulated in %s", k.PVDType, k.PVAccum)},
			{"Variant", k.Variant},
			{"Matrix unit", k.PVUnit},
			{"Known from reports only", k.Reported},
			{"exp2, 1/x", k.SpecialFunctions},
			{"Reference", r.Reference},
			{"Sample", r.SampleText()},
		}
		if c := r.Average.Confidence; c != nil {
			out = append(out, fact{"Average, within", "emulated kernel: " + c.EmulatedVsReference.String()})
			if c.ActualVsReference != nil {
				out = append(out, fact{"Average, within", "actual output: " + c.ActualVsReference.String()})
			}
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
	if !in.several() {
		return slices.DeleteFunc(of(in.Results[0]), func(f fact) bool { return f.Value == "" })
	}
	// What all share is said once.
	var out []fact
	var all [][]fact
	var keys []string
	for k, r := range in.Results {
		out = append(out, fact{letter(k), strings.TrimPrefix(in.names()[k], letter(k)+": ")})
		all = append(all, of(r))
		for _, f := range all[k] {
			if !slices.Contains(keys, f.Key) {
				keys = append(keys, f.Key)
			}
		}
	}
	for _, key := range keys {
		values := make([]string, len(all))
		same := true
		for k, fs := range all {
			if i := slices.IndexFunc(fs, func(f fact) bool { return f.Key == key }); i >= 0 {
				values[k] = fs[i].Value
			}
			same = same && values[k] == values[0]
		}
		if same {
			out = append(out, fact{key, values[0]})
			continue
		}
		for k, v := range values {
			if v != "" {
				out = append(out, fact{key, letter(k) + ": " + v})
			}
		}
	}
	return slices.DeleteFunc(out, func(f fact) bool { return f.Value == "" })
}

// severity of the lines that tell of a kind of finding.
func severity(k compare.Kind) string {
	switch k {
	case compare.AllFine:
		return "good"
	case compare.SuspiciousInput:
		return "warn"
	}
	return "bad"
}

// told are the lines of a verdict that a result holds, each with the layer that it
// names.
func told(v *compare.Verdict, numbers map[string]int) []finding {
	if v.Status == compare.AllFine {
		var out []finding
		for _, l := range v.Lines {
			out = append(out, finding{Severity: "good", Text: sentence(l)})
		}
		return out
	}
	// The lines have a kind each, in the order of the findings, which are sorted by kind.
	var first []compare.Finding
	for _, f := range v.Findings {
		if len(first) == 0 || first[len(first)-1].Kind != f.Kind {
			first = append(first, f)
		}
	}
	var out []finding
	for i, l := range v.Lines {
		f := finding{Severity: "bad", Text: sentence(l)}
		if i < len(first) {
			f.Severity = severity(first[i].Kind)
			if n := numbers[first[i].Layer]; n > 0 {
				f.Layer, f.Name = n, "look at "+clean(first[i].Layer)
			}
		}
		out = append(out, f)
	}
	return out
}

// numbersOf are the layers' numbers in the page, from 1; 0 for one that is not there.
func numbersOf(layers []joined) map[string]int {
	out := map[string]int{}
	if len(layers) > 1 {
		for i, p := range layers {
			out[p.any().Name] = i + 1
		}
	}
	return out
}

// verdict says in words what is wrong, worst first, whether an actual output is the
// emulated one, how accurate the kernel is, and where it is worst.
func verdict(r *compare.Result, layers []joined) []finding {
	var out []finding
	add := func(severity, format string, args ...any) {
		out = append(out, finding{Severity: severity, Text: fmt.Sprintf(format, args...)})
	}
	at := func(severity string, i int, format string, args ...any) {
		out = append(out, finding{severity, fmt.Sprintf(format, args...), i + 1, clean(r.Layers[i].Name)})
	}
	if r.Verdict != nil {
		out = append(out, told(r.Verdict, numbersOf(layers))...)
		if n := r.Verdict.FailedChecks; n > 0 {
			add("bad", "%d of %d checks failed.", n, r.Verdict.Checks)
		}
	}
	var emulated []metrics.Values
	have, exact, odd, warned := 0, 0, 0, 0
	firstOdd, most := -1, -1
	var elements, mismatched int64
	for i := range r.Layers {
		l := &r.Layers[i]
		emulated = append(emulated, l.EmulatedVsReference)
		if ownState(l) == string(compare.NotFinite) {
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
			} else if most < 0 || b.Share() > r.Layers[most].ActualVsEmulated.Share() {
				most = i
			}
		}
	}
	if r.Verdict == nil {
		// An older result: what its figures show.
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
		if most >= 0 && len(r.Layers) > 1 {
			at("bad", most, "The largest part of them, %s, is in", percent(r.Layers[most].ActualVsEmulated.Share()))
		}
	} else if exact < have && len(r.Layers) > 1 {
		add("note", "Of %d actual outputs %d equal the emulated ones bit for bit; %d of %d elements differ (%s).", have, exact, mismatched, elements, percent(ratio(mismatched, elements)))
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
	if have == 0 && r.Verdict == nil {
		add("note", "There is no actual output of a GPU to compare with.")
	}
	if warned > 0 {
		add("warn", "%s warnings, below.", map[bool]string{true: "One layer has", false: fmt.Sprintf("%d layers have", warned)}[warned == 1])
	}
	return out
}

// bound is the growth from which on an error counts as larger.
const bound = 0.01

// overVerdict says what became of the layers from the first result to each other one,
// and what is wrong with each by itself.
func overVerdict(in *Input, layers []joined) []finding {
	var out []finding
	numbers := numbersOf(layers)
	if in.Verdict != nil {
		out = append(out, told(in.Verdict, numbers)...)
	}
	for k, r := range in.Results[1:] {
		to := letter(k + 1)
		d := diff.Compare(in.Results[0], r)
		growth := bound
		checks := d.Check(&growth)
		v := d.Judge(checks, &growth)
		// Kernels on the same layers are not one before and after a change.
		if in.Verdict == nil {
			failed := map[string]int{}
			for _, c := range checks {
				if c.Failed && numbers[c.Layer] > 0 {
					failed["worse: "+c.Layer+": "+c.Text] = numbers[c.Layer]
				}
			}
			for _, l := range v.Lines {
				f := finding{Severity: "good", Text: fmt.Sprintf("From A to %s: %s", to, sentence(l))}
				switch {
				case strings.HasPrefix(l, "worse: "):
					f.Severity = "bad"
					// The line may go on after the check's own words.
					for text, n := range failed {
						if rest, ok := strings.CutPrefix(l, text); ok && (rest == "" || strings.HasPrefix(rest, ", and ")) {
							f.Layer, f.Name = n, "look at "+clean(layers[n-1].any().Name)
							break
						}
					}
				case strings.HasPrefix(l, "layers: "), strings.HasPrefix(l, "nothing "):
					f.Severity = "warn"
				}
				out = append(out, f)
			}
		}
		if len(d.Settings) > 0 {
			for i := range d.Settings {
				d.Settings[i] = clean(d.Settings[i])
			}
			out = append(out, finding{Severity: "note", Text: fmt.Sprintf("From A to %s changed: %s.", to, strings.Join(d.Settings, "; "))})
		}
		out = append(out, counted(in, layers, k+1)...)
	}
	for k, r := range in.Results {
		if r.Verdict != nil && in.Verdict == nil && len(r.Verdict.Lines) > 0 {
			f := told(r.Verdict, numbers)[0]
			f.Text = letter(k) + " by itself: " + f.Text
			out = append(out, f)
		}
		var emulated []metrics.Values
		for _, l := range r.Layers {
			emulated = append(emulated, l.EmulatedVsReference)
		}
		v := metrics.Average(emulated)
		out = append(out, finding{Severity: "note", Text: fmt.Sprintf("%s, %s: on average over %s a cosine similarity of %s and a relative L1 error of %s against full precision.",
			letter(k), kernelName(r), plural(len(r.Layers), "layer", "layers"), cosine(v.CosSim), number(v.RelL1))})
	}
	return out
}

// counted says in how many layers the error of result k is larger than that of the
// first, and where it changed most.
func counted(in *Input, layers []joined, k int) []finding {
	var out []finding
	for _, o := range []struct {
		what string
		of   func(l *seen) *metrics.Values
	}{
		{"actual output", func(l *seen) *metrics.Values { return l.ActualVsReference }},
		{"emulated kernel", func(l *seen) *metrics.Values { return &l.EmulatedVsReference }},
	} {
		var grew, fell, same, mostAt, leastAt int
		var most, least float64
		for i, p := range layers {
			if p[0] == nil || p[k] == nil || o.of(p[0]) == nil || o.of(p[k]) == nil {
				continue
			}
			g := relative(float64(o.of(p[0]).RelL1), float64(o.of(p[k]).RelL1))
			switch {
			case g > bound:
				grew++
			case g < -bound:
				fell++
			default:
				same++
			}
			if g > most {
				most, mostAt = g, i
			}
			if g < least {
				least, leastAt = g, i
			}
		}
		n := grew + fell + same
		if n == 0 {
			continue
		}
		f := finding{Severity: "note", Text: fmt.Sprintf("From A to %s the relative L1 error of the %s grew by more than 1%% in %d of %s, fell in %d and stayed in %d.",
			letter(k), o.what, grew, plural(n, "layer", "layers"), fell, same)}
		name := func(i int) string { return clean(layers[i].any().Name) }
		if least < -bound {
			f.Text += fmt.Sprintf(" It fell most, %s, in %s.", growth(least), name(leastAt))
		}
		if most > bound {
			f.Text += fmt.Sprintf(" It grew most, %s, in", growth(most))
			f.Layer, f.Name = mostAt+1, name(mostAt)
		}
		out = append(out, f)
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
func overviewSection(in *Input, layers []joined) section {
	c := &controls{Layers: len(layers)}
	used := map[string]bool{}
	heads, causes := false, false
	for _, p := range layers {
		for _, l := range p {
			if l != nil {
				used[l.state] = true
				heads = heads || len(l.Heads) > 0
				causes = causes || l.Attribution != nil
			}
		}
	}
	c.Actual = slices.ContainsFunc(in.Results, hasActual)
	c.Outputs = c.Actual && in.several()
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
func layersSection(in *Input, layers []joined) section {
	s := section{ID: "layers", Title: "Layers", Mount: "table"}
	if len(layers) == 1 {
		s.Title = "The layer"
	}
	order := make([]int, len(layers))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch x, y := layers[a].last(), layers[b].last(); {
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
	if in.several() {
		t.Columns = columns("#", "~layer")
		for _, head := range []string{"state in ", ">emulated: rel. L1 in ", ">actual: rel. L1 in ", ">differing in "} {
			for k := range in.Results {
				t.Columns = append(t.Columns, columns(head+letter(k))...)
			}
		}
		for _, i := range order {
			line := []string{strconv.Itoa(i + 1), clean(layers[i].any().Name)}
			parts := make([]string, 4*len(in.Results))
			for k, l := range layers[i] {
				at := func(n int) *string { return &parts[n*len(in.Results)+k] }
				if l == nil {
					*at(0) = "not there"
					continue
				}
				*at(0) = text[l.state]
				*at(1) = number(l.EmulatedVsReference.RelL1)
				if l.ActualVsReference != nil {
					*at(2) = number(l.ActualVsReference.RelL1)
					*at(3) = percent(ratio(l.ActualVsEmulated.Mismatched, l.ActualVsEmulated.Elements))
				}
			}
			t.Rows = append(t.Rows, tableRow{ID: fmt.Sprintf("layer-%d", i+1), Text: append(line, parts...)})
		}
		s.Tables = []table{t}
		return s
	}
	both := hasActual(in.Results[0])
	t.Columns = columns("#", "~layer", "state", "shape", ">cos", ">rel. L1", ">RMSE", ">max. error")
	if both {
		t.Columns = append(t.Columns, columns(">actual: cos", ">rel. L1", ">RMSE", ">max. error", ">differing from emulated", ">max. ulp")...)
	}
	for _, i := range order {
		l := layers[i][0]
		line := append([]string{strconv.Itoa(i + 1), clean(l.Name), text[l.state], shape(l.Layer)}, fourCells(l.EmulatedVsReference)...)
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
	if l.Quantised != "" {
		out += " " + clean(l.Quantised)
	}
	for _, part := range l.Call.Parts() {
		out += ", " + clean(part)
	}
	return out
}

// mostWarnings is how many the page lists; each layer has its own.
const mostWarnings = 30

// warningsSection is nil where there are none.
func warningsSection(in *Input, layers []joined) *section {
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
				if in.several() {
					which = ", in " + letter(k)
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
