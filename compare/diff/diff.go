// Package diff compares two results of a comparison: what changed between two
// runs, layer by layer.
package diff

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/sageacc/sageacc/compare"
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
	// OldMismatched and NewMismatched count the elements in which an actual output
	// differs from the emulated one; nil where there is none.
	OldMismatched *int64 `json:"old_mismatched,omitempty"`
	NewMismatched *int64 `json:"new_mismatched,omitempty"`
}

// Growth is the relative change of three errors.
type Growth struct {
	OneMinusCos jsonfloat.Float `json:"one_minus_cos"`
	RelL1       jsonfloat.Float `json:"rel_l1"`
	RMSE        jsonfloat.Float `json:"rmse"`
}

// Worst returns the largest growth of the three; NaN counts as infinite.
func (g *Growth) Worst() float64 {
	w := math.Inf(-1)
	for _, x := range []jsonfloat.Float{g.OneMinusCos, g.RelL1, g.RMSE} {
		if math.IsNaN(float64(x)) {
			return math.Inf(1)
		}
		w = max(w, float64(x))
	}
	return w
}

// Result is the outcome.
type Result struct {
	Schema string `json:"schema"`
	// Settings lists differences of kernel, configuration and reference.
	Settings []string `json:"settings,omitempty"`
	Layers   []Layer  `json:"layers"`
}

// MaxSize is the size of the largest result that is read, in bytes: that of a million
// heads.
const MaxSize = 1 << 30

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
	byName := func(r *compare.Result) map[string]*compare.Layer {
		m := make(map[string]*compare.Layer, len(r.Layers))
		for i := range r.Layers {
			m[r.Layers[i].Name] = &r.Layers[i]
		}
		return m
	}
	inOld, inNew := byName(old), byName(new)
	for i := range old.Layers {
		a := &old.Layers[i]
		l := Layer{Name: a.Name, Status: "removed", Old: &a.EmulatedVsReference, OldMismatched: mismatched(a)}
		if b := inNew[a.Name]; b != nil {
			l.Status, l.New, l.NewMismatched = "both", &b.EmulatedVsReference, mismatched(b)
			l.Growth = &Growth{
				OneMinusCos: growth(1-l.Old.CosSim, 1-l.New.CosSim),
				RelL1:       growth(l.Old.RelL1, l.New.RelL1),
				RMSE:        growth(l.Old.RMSE, l.New.RMSE),
			}
		}
		res.Layers = append(res.Layers, l)
	}
	for i := range new.Layers {
		if b := &new.Layers[i]; inOld[b.Name] == nil {
			res.Layers = append(res.Layers, Layer{Name: b.Name, Status: "added", New: &b.EmulatedVsReference, NewMismatched: mismatched(b)})
		}
	}
	return res
}

func mismatched(l *compare.Layer) *int64 {
	if l.ActualVsEmulated == nil {
		return nil
	}
	return &l.ActualVsEmulated.Mismatched
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

// Worse lists the layers whose errors grew by more than the fraction bound, and
// those that have more differing elements than before, each with the reason.
func (r *Result) Worse(bound float64) []string {
	var out []string
	for _, l := range r.Layers {
		var why []string
		if l.Growth != nil && l.Growth.Worst() > bound {
			grew := fmt.Sprintf("by %.2f%%", 100*l.Growth.Worst())
			if math.IsInf(l.Growth.Worst(), 1) {
				grew = "from zero, or to infinity or NaN"
			}
			why = append(why, "an error grew "+grew)
		}
		if l.OldMismatched != nil && l.NewMismatched != nil && *l.NewMismatched > *l.OldMismatched {
			why = append(why, fmt.Sprintf("%d elements differ from the emulated output, %d did", *l.NewMismatched, *l.OldMismatched))
		}
		if why != nil {
			out = append(out, fmt.Sprintf("layer %s: %s", l.Name, strings.Join(why, "; ")))
		}
	}
	return out
}
