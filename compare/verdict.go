package compare

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/sageacc/sageacc/emulate"
)

// Kind is a kind of finding.
type Kind string

// The kinds of findings, worst first.
const (
	// NotFinite is an output that is NaN or infinite: an actual one where the emulated
	// one is finite, or an emulated one.
	NotFinite Kind = "not-finite"
	// NotThisKernel is an actual output of which nearly all elements differ from the
	// emulated ones: it is another kernel's, or no attention of this layer.
	NotThisKernel Kind = "not-this-kernel"
	// Differs is an actual output of which some elements differ in their bits.
	Differs Kind = "differs"
	// BeyondBound is a layer that fails a gate, but for one that is found otherwise.
	BeyondBound Kind = "beyond-bound"
	// WrongLayout is an output, or a layer, that holds the right values in an order
	// other than what the dump says.
	WrongLayout Kind = "wrong-layout"
	// SuspiciousInput is an input that says little about a kernel: zeros, constants,
	// NaN, a single huge element.
	SuspiciousInput Kind = "suspicious-input"
)

// AllFine is the status of a verdict without findings.
const AllFine Kind = "ok"

// kinds lists the kinds, worst first, with the words for them.
var kinds = []struct {
	kind  Kind
	words string
}{
	{NotFinite, "not finite"},
	{NotThisKernel, "not this kernel"},
	{Differs, "differs in bits"},
	{BeyondBound, "beyond a bound"},
	{WrongLayout, "wrong layout"},
	{SuspiciousInput, "suspicious input"},
}

// Words says the kind as people read it.
func (k Kind) Words() string {
	for _, x := range kinds {
		if x.kind == k {
			return x.words
		}
	}
	return string(k)
}

// severity is the kind's place among the kinds, 0 for the worst.
func (k Kind) severity() int {
	return slices.IndexFunc(kinds, func(x struct {
		kind  Kind
		words string
	}) bool {
		return x.kind == k
	})
}

// Finding is something that is wrong.
type Finding struct {
	Kind Kind `json:"kind"`
	// Kernel is the emulated kernel that the finding is about, where there are several;
	// Layer is the layer.
	Kernel string `json:"kernel,omitempty"`
	Layer  string `json:"layer"`
	// Place is the head that holds most of it, for findings about elements.
	Place *Place `json:"place,omitempty"`
	// Gate is the gate that failed, for BeyondBound.
	Gate string `json:"gate,omitempty"`
	// Text says what is wrong, without kind, kernel and layer.
	Text string `json:"text"`

	// badness orders findings of a kind, worst first, and of the same badness those of
	// earlier layers.
	badness float64
}

// Place is a head, and tokens and query tiles of it, first and last.
type Place struct {
	Batch  int     `json:"batch"`
	Head   int     `json:"head"`
	Tokens [2]int  `json:"tokens"`
	Tiles  *[2]int `json:"tiles,omitempty"`
}

// Verdict says whether all is well with a result, and what is wrong, worst first.
type Verdict struct {
	// Status is the kind of the worst finding, or "ok".
	Status Kind `json:"status"`
	// Failed says that a check failed, which is exit status 1.
	Failed bool `json:"failed"`
	// Lines are the verdict in one to three lines.
	Lines []string `json:"lines"`
	// Layers were compared; Actual of them have an actual output, and Exact of these
	// equal the emulated output, of any of the kernels, bit for bit.
	Layers int `json:"layers"`
	Actual int `json:"actual"`
	Exact  int `json:"exact"`
	// Checks were made, without those that were skipped; FailedChecks of them failed.
	Checks       int `json:"checks"`
	FailedChecks int `json:"failed_checks"`
	// Findings are what is wrong, worst first.
	Findings []Finding `json:"findings"`
}

// verdictLines is how many lines a verdict takes at most.
const verdictLines = 3

// nearlyAll is the part of differing elements from which on an output is not that of
// the kernel at all: what agrees does so by chance.
const nearlyAll = 0.9

// Judge makes the verdict of one result, or of those of several kernels on the same
// layers, and of the checks of them all. Of several kernels an actual output can be
// but one's: how it differs is told of the kernel that it is nearest to.
func Judge(results []*Result, checks []Check) *Verdict {
	v := &Verdict{Status: AllFine, Findings: []Finding{}}
	for _, c := range checks {
		if c.Status == Skipped {
			continue
		}
		v.Checks++
		if c.Status == Failed {
			v.FailedChecks++
		}
	}
	v.Failed = v.FailedChecks > 0
	several := len(results) > 1
	for i := range results[0].Layers {
		v.Layers++
		nearest := 0
		for k, r := range results {
			if b := r.Layers[i].ActualVsEmulated; b != nil && b.Mismatched < results[nearest].Layers[i].ActualVsEmulated.Mismatched {
				nearest = k
			}
		}
		if b := results[nearest].Layers[i].ActualVsEmulated; b != nil {
			v.Actual++
			if b.Exact() {
				v.Exact++
			}
		}
		for k, r := range results {
			l := &r.Layers[i]
			for _, f := range l.findings(r.QueryTile) {
				if k != nearest && f.Kind != NotFinite {
					continue
				}
				f.Layer = l.Name
				if several && (f.Kind == NotFinite || f.Kind == NotThisKernel || f.Kind == Differs) {
					f.Kernel = r.Kernel.Name
				}
				v.Findings = append(v.Findings, f)
			}
		}
	}
	for _, c := range checks {
		// What is not finite, or differs, is found already.
		if c.Status == Failed && c.Gate != finite && c.Gate != bitExact {
			f := Finding{Kind: BeyondBound, Layer: c.Layer, Gate: c.Gate, Text: fmt.Sprintf("%s (%s)", c.Text, c.Gate), badness: c.badness}
			if several {
				f.Kernel = c.Kernel
			}
			v.Findings = append(v.Findings, f)
		}
	}
	gates := gateOrder(checks)
	slices.SortStableFunc(v.Findings, func(a, b Finding) int {
		return cmp.Or(
			cmp.Compare(a.Kind.severity(), b.Kind.severity()),
			cmp.Compare(gates[a.Gate], gates[b.Gate]),
			// NaN is the worst.
			cmp.Compare(worst(b.badness), worst(a.badness)))
	})
	if len(v.Findings) > 0 {
		v.Status = v.Findings[0].Kind
	}
	v.Lines = v.lines(results)
	if s := results[0].SampleText(); s != "" {
		rows, _, _ := strings.Cut(s, ",")
		v.Lines[0] += "; of a sample: " + rows
	}
	return v
}

func worst(x float64) float64 {
	if math.IsNaN(x) {
		return math.Inf(1)
	}
	return x
}

// lines says the verdict in words: a line for each kind of finding, with the worst
// finding of it.
func (v *Verdict) lines(results []*Result) []string {
	if len(v.Findings) == 0 {
		return []string{v.fine(results)}
	}
	var out []string
	shown := 0
	for _, k := range kinds {
		var first *Finding
		layers := map[string]bool{}
		n := 0
		for i := range v.Findings {
			if f := &v.Findings[i]; f.Kind == k.kind {
				if first == nil {
					first = f
				}
				layers[f.Layer] = true
				n++
			}
		}
		if first == nil {
			continue
		}
		if len(out) == verdictLines {
			break
		}
		shown += n
		line := k.words + ": " + short(first.Layer)
		if first.Kernel != "" {
			line += ", " + first.Kernel
		}
		line += ": " + first.Text
		switch more := len(layers) - 1; {
		case more == 0 && n > 1:
			line += fmt.Sprintf(", and %s more", strconv.Itoa(n-1))
		case more == 1:
			line += ", and 1 more layer"
		case more > 1:
			line += fmt.Sprintf(", and %d more layers", more)
		}
		out = append(out, line)
	}
	if rest := len(v.Findings) - shown; rest > 0 {
		out[len(out)-1] += fmt.Sprintf(" ... and %d more", rest)
	}
	return out
}

// fine says what was looked at and found right.
func (v *Verdict) fine(results []*Result) string {
	var elements int64
	name, cos := "", math.Inf(1)
	for k, r := range results {
		for i := range r.Layers {
			l := &r.Layers[i]
			if b := l.ActualVsEmulated; b != nil && k == 0 {
				elements += b.Elements
			}
			if x := float64(l.EmulatedVsReference.CosSim); x < cos {
				name, cos = l.Name, x
			}
		}
	}
	out := "no layer"
	switch {
	case v.Layers == 0:
		return out
	case v.Actual == 0:
		out = "nothing odd, but no layer has an actual output: what a GPU returns was not checked"
	default:
		have := fmt.Sprintf("%d of %d layers have", v.Actual, v.Layers)
		switch {
		case v.Layers == 1:
			have = "the layer has"
		case v.Actual == v.Layers:
			have = fmt.Sprintf("all %d layers have", v.Layers)
		case v.Actual == 1:
			have = fmt.Sprintf("1 of %d layers has", v.Layers)
		}
		out = fmt.Sprintf("all fine: %s an actual output, bit for bit the emulated one (%d elements)", have, elements)
	}
	if name != "" {
		out += fmt.Sprintf("; lowest cos_sim %.6f (%s)", cos, short(name))
	}
	return out
}

// short is a layer's name for a line of text.
func short(name string) string {
	const most = 64
	r := []rune(name)
	if len(r) <= most {
		return name
	}
	return string(r[:most/2]) + "…" + string(r[len(r)-most/2:])
}

// lessExact is how much lower the cosine similarity of an output that differs must be to be
// told: what another order of operations does is far below it.
const lessExact = 1e-3

// findings are what is wrong with a layer by itself.
func (l *Layer) findings(tile int) []Finding {
	var out []Finding
	add := func(k Kind, badness float64, e *Extent, format string, args ...any) {
		f := Finding{Kind: k, Text: fmt.Sprintf(format, args...), badness: badness}
		if e != nil {
			m := e.Most[0]
			f.Place = &Place{Batch: m.Batch, Head: m.Head, Tokens: [2]int{m.FirstToken, m.LastToken}}
			if tile > 0 {
				f.Place.Tiles = &[2]int{m.FirstToken / tile, m.LastToken / tile}
			}
		}
		out = append(out, f)
	}
	elements := float64(l.Shape.Batch) * float64(l.Shape.Heads) * float64(l.Shape.Queries) * float64(l.Shape.HeadDim)
	if l.Sample != nil {
		elements = float64(l.Sample.Rows) * float64(l.Shape.HeadDim)
	}
	emulated := l.Counts["output"]
	spoilt := emulated.NaN + emulated.Inf
	switch s := l.Spoiled; {
	case s != nil:
		add(NotFinite, 1+float64(s.Elements)/elements, s, "%s of the actual output are NaN or infinite where the emulated one is finite, %s",
			ofElements(s.Elements, int64(elements)), s.describe(l.Shape, tile))
	case spoilt > 0:
		cause := ""
		if in := l.badInputs(); in != "" {
			cause = ", as " + in + " is"
		}
		what := "the emulated output is"
		if a := l.ActualNonFinite; a != nil {
			what = "the emulated and the actual output are"
		}
		add(NotFinite, float64(spoilt)/elements, nil, "%s NaN or infinite in %s%s", what, ofElements(spoilt, int64(elements)), cause)
	}
	if b := l.ActualVsEmulated; b != nil && !b.Exact() && (l.Spoiled == nil || b.Mismatched > l.Spoiled.Elements) {
		kind := Differs
		var more []string
		if b.Share() > nearlyAll {
			kind = NotThisKernel
			more = append(more, l.resemblance())
		} else if l.Differing != nil {
			more = append(more, l.Differing.describe(l.Shape, tile))
		}
		if b.First != nil && kind == Differs {
			more = append(more, fmt.Sprintf("by up to %d ulp", b.MaxULP))
			if cos, want := float64(l.ActualVsReference.CosSim), float64(l.EmulatedVsReference.CosSim); cos < want-lessExact {
				more = append(more, fmt.Sprintf("cos_sim to the reference %.6f in place of %.6f", cos, want))
			}
		}
		add(kind, b.Share(), l.Differing, "%s differ from the emulated ones%s", ofElements(b.Mismatched, b.Elements), after(", ", strings.Join(more, ", ")))
	}
	if l.Misplaced != "" {
		add(WrongLayout, 0, nil, "%s", l.Misplaced)
	}
	for _, name := range []string{"q", "k", "v"} {
		if c := l.Counts[name]; c.NaN+c.Inf > 0 {
			add(SuspiciousInput, 1, nil, "%s", describe(name, emulate.Count{NaN: c.NaN, Inf: c.Inf}))
		}
	}
	for _, s := range l.Suspicious {
		add(SuspiciousInput, 0, nil, "%s", s)
	}
	return out
}

func after(separator, s string) string {
	if s == "" {
		return ""
	}
	return separator + s
}

// badInputs names the inputs that are not finite.
func (l *Layer) badInputs() string {
	var in []string
	for _, name := range []string{"q", "k", "v"} {
		if c := l.Counts[name]; c.NaN+c.Inf > 0 {
			in = append(in, name)
		}
	}
	return strings.Join(in, ", ")
}

// resemblance says how near an output that is not the kernel's is to attention.
func (l *Layer) resemblance() string {
	v := l.ActualVsReference
	switch cos := float64(v.CosSim); {
	case l.Spoiled != nil:
		return "many of them not finite"
	case l.Misplaced != "":
		return fmt.Sprintf("cos_sim to the reference %.3g", cos)
	case l.ActualRMS == 0:
		return "all of the actual output is zero"
	case cos > 0.9:
		return fmt.Sprintf("though it is this layer's attention (cos_sim %.6f): another kernel, or other settings", cos)
	default:
		return fmt.Sprintf("and it is not this layer's attention (cos_sim %.3g)", cos)
	}
}
