// Package diff compares two results of a comparison: what changed between two
// runs, layer by layer.
package diff

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/internal/datafile"
	"github.com/sageacc/sageacc/internal/jsonfloat"
	"github.com/sageacc/sageacc/metrics"
)

// Schema is the version of Result's JSON form.
const Schema = "sageacc/diff/v1"

// Layer is what became of one layer.
type Layer struct {
	Name string `json:"name"`
	// Status is "both", "added" (only in the new result) or "removed".
	Status string `json:"status"`
	// Old and New are the emulated output against the reference; nil where the
	// layer is not in that result.
	Old *metrics.Values `json:"old,omitempty"`
	New *metrics.Values `json:"new,omitempty"`
	// Growth is by what fraction the errors grew: 1 - cos_sim, rel_l1 and rmse;
	// negative where they shrank, +Inf from zero to something and from a finite error
	// to an infinite one or NaN. Nil but for "both".
	Growth *Growth `json:"growth,omitempty"`
	// OldActual, NewActual and ActualGrowth are the same of an actual output.
	OldActual    *metrics.Values `json:"old_actual,omitempty"`
	NewActual    *metrics.Values `json:"new_actual,omitempty"`
	ActualGrowth *Growth         `json:"actual_growth,omitempty"`
	// OldMismatched and NewMismatched count the elements in which an actual output
	// differs from the emulated one; nil where there is none.
	OldMismatched *int64 `json:"old_mismatched,omitempty"`
	NewMismatched *int64 `json:"new_mismatched,omitempty"`
	// OldShare and NewShare are what part of the elements these are, 0 to 1, and
	// ShareGrowth by what fraction it grew.
	OldShare    *jsonfloat.Float `json:"old_share,omitempty"`
	NewShare    *jsonfloat.Float `json:"new_share,omitempty"`
	ShareGrowth *jsonfloat.Float `json:"share_growth,omitempty"`
	// Spoiled names the outputs, "emulated" and "actual", that hold NaN or infinities,
	// or more of them, where they did not.
	Spoiled []string `json:"spoiled,omitempty"`
}

// Growth is the relative change of three errors.
type Growth struct {
	OneMinusCos jsonfloat.Float `json:"one_minus_cos"`
	RelL1       jsonfloat.Float `json:"rel_l1"`
	RMSE        jsonfloat.Float `json:"rmse"`
}

// Worst returns the largest growth of the three; NaN counts as infinite.
func (g *Growth) Worst() float64 {
	_, w := g.worst()
	return w
}

// worst returns the largest growth, and the name of the error that grew so.
func (g *Growth) worst() (figure string, growth float64) {
	growth = math.Inf(-1)
	for _, e := range []struct {
		name string
		x    jsonfloat.Float
	}{{"1 - cos_sim", g.OneMinusCos}, {"rel_l1", g.RelL1}, {"rmse", g.RMSE}} {
		x := float64(e.x)
		if math.IsNaN(x) {
			x = math.Inf(1)
		}
		if x > growth {
			figure, growth = e.name, x
		}
	}
	return figure, growth
}

// Result is the outcome.
type Result struct {
	Schema string `json:"schema"`
	// Verdict says what got worse; Compare leaves it nil, Judge makes it.
	Verdict *Verdict `json:"verdict,omitempty"`
	// Settings lists differences of kernel, configuration and reference.
	Settings []string `json:"settings,omitempty"`
	Layers   []Layer  `json:"layers"`
}

// MaxSize is the size of the largest result that is read, in bytes: that of a million
// heads.
const MaxSize = 1 << 30

// Verdict says what got worse.
type Verdict struct {
	// Failed says that a check failed, which is exit status 1.
	Failed bool `json:"failed"`
	// Lines say it in words: a line for each gate that failed, worst first, and one on
	// layers that are in one result only.
	Lines []string `json:"lines"`
}

// Read reads a result of compare --format json.
func Read(path string) (*compare.Result, error) {
	data, err := datafile.ReadAll(path, MaxSize)
	if err != nil {
		return nil, err
	}
	r, err := Decode(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// Decode reads a result and checks that it is one.
func Decode(r io.Reader) (*compare.Result, error) {
	res := new(compare.Result)
	d := json.NewDecoder(r)
	if err := d.Decode(res); err != nil {
		return nil, fmt.Errorf("not a result of compare --format json: %w", err)
	}
	if res.Schema != compare.Schema {
		if res.Schema == compare.SetSchema {
			return nil, fmt.Errorf("it holds the results of several kernels, schema %q: want one, as of compare with a single --kernel", res.Schema)
		}
		return nil, fmt.Errorf("schema is %q, want %q", res.Schema, compare.Schema)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("there is something after the result")
	}
	seen := map[string]bool{}
	for _, l := range res.Layers {
		if seen[l.Name] {
			return nil, fmt.Errorf("layer %q is there twice", l.Name)
		}
		seen[l.Name] = true
	}
	return res, nil
}

// Compare finds what changed from old to new. Layers come in the order of the old
// result, added ones after them.
func Compare(old, new *compare.Result) *Result {
	res := &Result{Schema: Schema, Settings: settings(old, new)}
	index := func(r *compare.Result) map[string]*compare.Layer {
		m := make(map[string]*compare.Layer, len(r.Layers))
		for i := range r.Layers {
			m[r.Layers[i].Name] = &r.Layers[i]
		}
		return m
	}
	inOld, inNew := index(old), index(new)
	for i := range old.Layers {
		a := &old.Layers[i]
		l := Layer{Name: a.Name, Status: "removed"}
		l.setOld(a)
		if b := inNew[a.Name]; b != nil {
			l.Status = "both"
			l.setNew(b)
			l.grow()
			l.Spoiled = spoiled(a, b)
		}
		res.Layers = append(res.Layers, l)
	}
	for i := range new.Layers {
		if b := &new.Layers[i]; inOld[b.Name] == nil {
			l := Layer{Name: b.Name, Status: "added"}
			l.setNew(b)
			res.Layers = append(res.Layers, l)
		}
	}
	return res
}

func (l *Layer) setOld(a *compare.Layer) {
	l.Old, l.OldActual = &a.EmulatedVsReference, a.ActualVsReference
	l.OldMismatched, l.OldShare = mismatched(a)
}

func (l *Layer) setNew(b *compare.Layer) {
	l.New, l.NewActual = &b.EmulatedVsReference, b.ActualVsReference
	l.NewMismatched, l.NewShare = mismatched(b)
}

func mismatched(l *compare.Layer) (*int64, *jsonfloat.Float) {
	b := l.ActualVsEmulated
	if b == nil {
		return nil, nil
	}
	share := jsonfloat.Float(b.Share())
	return &b.Mismatched, &share
}

// grow compares what both results have.
func (l *Layer) grow() {
	of := func(old, new *metrics.Values) *Growth {
		if old == nil || new == nil {
			return nil
		}
		return &Growth{
			OneMinusCos: growth(1-old.CosSim, 1-new.CosSim),
			RelL1:       growth(old.RelL1, new.RelL1),
			RMSE:        growth(old.RMSE, new.RMSE),
		}
	}
	l.Growth, l.ActualGrowth = of(l.Old, l.New), of(l.OldActual, l.NewActual)
	if l.OldShare != nil && l.NewShare != nil {
		g := growth(*l.OldShare, *l.NewShare)
		l.ShareGrowth = &g
	}
}

// spoiled names the outputs with NaN or infinities that they did not have before.
func spoiled(old, new *compare.Layer) []string {
	var out []string
	worse := func(oldN, newN int64, oldV, newV *metrics.Values) bool {
		return newN > oldN || finite(oldV) && !finite(newV)
	}
	count := func(c emulate.Count) int64 { return c.NaN + c.Inf }
	output := emulate.StageOutput.String()
	if worse(count(old.Counts[output]), count(new.Counts[output]), &old.EmulatedVsReference, &new.EmulatedVsReference) {
		out = append(out, "emulated")
	}
	if new.ActualVsReference != nil {
		var a, b emulate.Count
		if old.ActualNonFinite != nil {
			a = *old.ActualNonFinite
		}
		if new.ActualNonFinite != nil {
			b = *new.ActualNonFinite
		}
		if worse(count(a), count(b), old.ActualVsReference, new.ActualVsReference) {
			out = append(out, "actual")
		}
	}
	return out
}

// finite reports whether all figures are finite, as they are of finite outputs of
// which not all is zero; so are those that are not there.
func finite(v *metrics.Values) bool {
	if v == nil {
		return true
	}
	for _, x := range []jsonfloat.Float{v.CosSim, v.RelL1, v.RMSE, v.MaxAbs} {
		if x-x != 0 {
			return false
		}
	}
	return true
}

// growth is new/old - 1; no change of a zero is 0. A NaN counts as an infinite error.
func growth(old, new jsonfloat.Float) jsonfloat.Float {
	infinite := jsonfloat.Float(math.Inf(1))
	if old != old {
		old = infinite
	}
	if new != new {
		new = infinite
	}
	switch {
	case old == new:
		return 0
	case old == 0:
		return jsonfloat.Float(math.Inf(1))
	}
	return new/old - 1
}

// settings names what the two runs did differently.
func settings(old, new *compare.Result) []string {
	var s []string
	add := func(what string, a, b any) {
		if a != b {
			s = append(s, fmt.Sprintf("%s: %v -> %v", what, a, b))
		}
	}
	a, b := old.Kernel, new.Kernel
	add("kernel", a.Name, b.Name)
	add("program", a.Program, b.Program)
	add("arch", a.Arch, b.Arch)
	add("qk_bits", a.QKBits, b.QKBits)
	add("qk_granularity", a.QKGranularity, b.QKGranularity)
	add("smooth", a.Smooth, b.Smooth)
	add("pv_dtype", a.PVDType, b.PVDType)
	add("pv_accum", a.PVAccum, b.PVAccum)
	add("variant", a.Variant, b.Variant)
	add("special_functions", a.SpecialFunctions, b.SpecialFunctions)
	add("reference", old.Reference, new.Reference)
	return s
}

// Check is a layer held to a gate.
type Check struct {
	// Layer is the layer's name, Gate what was looked at: "finite", "emulated error",
	// "actual error" or "differing elements".
	Layer, Gate string
	// Failed says that it got worse, Text how; of one that could not be made, Text says
	// why.
	Failed, Skipped bool
	Text            string

	badness float64
}

// Check holds every layer to the gates: no output may have become NaN or infinite,
// and, if growth is not nil, no error and no share of differing elements may have
// grown by more than that fraction. An actual output that is no longer there fails the
// gates that are about it, since it cannot be shown to be as good as it was.
func (r *Result) Check(growth *float64) []Check {
	var out []Check
	for i := range r.Layers {
		l := &r.Layers[i]
		add := func(gate string, failed, skipped bool, text string) {
			if !failed && !skipped {
				text = ""
			}
			out = append(out, Check{Layer: l.Name, Gate: gate, Failed: failed, Skipped: skipped, Text: text})
		}
		grew := func(gate string, x float64, text string) {
			add(gate, x > *growth || x != x, false, text)
			out[len(out)-1].badness = x
		}
		if l.Status != "both" {
			text := "the layer is only in the new result"
			if l.Status == "removed" {
				text = "the layer is only in the old result"
			}
			add(finiteGate, false, true, text)
			continue
		}
		add(finiteGate, l.Spoiled != nil, false, fmt.Sprintf("the %s output, or a figure of it, became NaN or infinite", strings.Join(l.Spoiled, " and the ")))
		if growth == nil {
			continue
		}
		errorGrew := func(gate string, g *Growth) {
			if g == nil {
				return
			}
			figure, w := g.worst()
			grew(gate, w, fmt.Sprintf("the %s grew %s (%s)", gate, by(w), figure))
		}
		errorGrew("emulated error", l.Growth)
		switch {
		case l.OldActual != nil && l.NewActual == nil:
			add("actual error", true, false, "there is no longer an actual output")
		case l.OldActual == nil && l.NewActual != nil:
			add("actual error", false, true, "there was no actual output")
		default:
			errorGrew("actual error", l.ActualGrowth)
		}
		if g := l.ShareGrowth; g != nil {
			grew("differing elements", float64(*g), fmt.Sprintf("the elements that differ from the emulated output grew %s: %d do, %d did", by(float64(*g)), *l.NewMismatched, *l.OldMismatched))
		}
	}
	return out
}

// finiteGate is the gate that is not to be asked for.
const finiteGate = "finite"

// Judge sums up the checks. growth is the bound that they were made with.
func (r *Result) Judge(checks []Check, growth *float64) *Verdict {
	v := &Verdict{}
	for _, gate := range []string{finiteGate, "actual error", "differing elements", "emulated error"} {
		var first *Check
		n := 0
		for i := range checks {
			if c := &checks[i]; c.Gate == gate && c.Failed {
				if n++; first == nil || c.badness > first.badness {
					first = c
				}
			}
		}
		if first == nil {
			continue
		}
		v.Failed = true
		line := fmt.Sprintf("worse: %s: %s", first.Layer, first.Text)
		switch n {
		case 1:
		case 2:
			line += ", and 1 more layer"
		default:
			line += fmt.Sprintf(", and %d more layers", n-1)
		}
		v.Lines = append(v.Lines, line)
	}
	both, added, removed := r.Count()
	if !v.Failed {
		line := fmt.Sprintf("all fine: of %d layers in both results no output became NaN or infinite", both)
		if both == 0 {
			line = "nothing to compare: no layer is in both results"
		} else if growth != nil {
			line += fmt.Sprintf(", and nothing grew by more than %g%%", 100**growth)
		}
		v.Lines = append(v.Lines, line)
	}
	var only []string
	for _, x := range []struct {
		n            int
		status, what string
	}{{removed, "removed", "vanished"}, {added, "added", "appeared"}} {
		if x.n > 0 {
			only = append(only, fmt.Sprintf("%d %s (%s)", x.n, x.what, r.names(x.status)))
		}
	}
	if only != nil {
		v.Lines = append(v.Lines, "layers: "+strings.Join(only, ", "))
	}
	return v
}

// names lists some layers of a status.
func (r *Result) names(status string) string {
	const most = 3
	var out []string
	n := 0
	for _, l := range r.Layers {
		if l.Status == status {
			if n++; n <= most {
				out = append(out, l.Name)
			}
		}
	}
	if n > most {
		out = append(out, fmt.Sprintf("%d more", n-most))
	}
	return strings.Join(out, ", ")
}

// by says by how much something grew.
func by(x float64) string {
	if math.IsInf(x, 1) || x != x {
		return "from zero, or to infinity or NaN"
	}
	return fmt.Sprintf("by %.2f%%", 100*x)
}

// Count returns how many layers are in both results, only in the new one, and only in
// the old one.
func (r *Result) Count() (both, added, removed int) {
	for _, l := range r.Layers {
		switch l.Status {
		case "both":
			both++
		case "added":
			added++
		default:
			removed++
		}
	}
	return both, added, removed
}

// Worst returns the indices of the top layers, those with failed checks first, then by
// the growth of their errors, and how many more there are; 0 for all, in their order.
func (r *Result) Worst(checks []Check, top int) (layers []int, left int) {
	layers = make([]int, len(r.Layers))
	failed := map[string]bool{}
	for _, c := range checks {
		if c.Failed {
			failed[c.Layer] = true
		}
	}
	badness := make([]float64, len(r.Layers))
	for i := range r.Layers {
		layers[i] = i
		l := &r.Layers[i]
		badness[i] = math.Inf(-1)
		for _, g := range []*Growth{l.Growth, l.ActualGrowth} {
			if g != nil {
				badness[i] = max(badness[i], g.Worst())
			}
		}
		if g := l.ShareGrowth; g != nil {
			badness[i] = max(badness[i], float64(*g))
		}
	}
	if top == 0 || len(layers) <= top {
		return layers, 0
	}
	rank := func(i int) int {
		switch {
		case failed[r.Layers[i].Name]:
			return 0
		case r.Layers[i].Status != "both":
			return 1
		}
		return 2
	}
	slices.SortStableFunc(layers, func(a, b int) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(badness[b], badness[a]))
	})
	return layers[:top], len(layers) - top
}
