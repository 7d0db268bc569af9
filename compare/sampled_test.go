package compare_test

import (
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/internal/jsonfloat"
	"github.com/sageacc/sageacc/internal/ranges"
	"github.com/sageacc/sageacc/metrics"
)

func TestParseSample(t *testing.T) {
	for in, want := range map[string]compare.Sample{
		"2": {Tiles: 2}, "100": {Tiles: 100}, "5%": {Fraction: 0.05}, "0.25": {Fraction: 0.25}, "1.0": {Fraction: 1}, "100%": {Fraction: 1},
		"auto:±0.1%": {Within: 0.001}, "auto:0.01": {Within: 0.01},
	} {
		got, err := compare.ParseSample(in)
		if err != nil || math.Abs(got.Fraction-want.Fraction) > 1e-12 || math.Abs(got.Within-want.Within) > 1e-12 || got.Tiles != want.Tiles {
			t.Errorf("%q: %+v, %v", in, got, err)
			continue
		}
		if again, err := compare.ParseSample(got.String()); err != nil || *again != *got {
			t.Errorf("%q as %q: %+v, %v", in, got, again, err)
		}
	}
	for _, in := range []string{"", "1", "0", "-3", "0%", "101%", "1.5", "x", "auto", "auto:", "auto:±", "auto:0", "NaN", "5%%"} {
		if _, err := compare.ParseSample(in); err == nil {
			t.Errorf("%q was read", in)
		}
	}
}

// TestSampleOfAll: a sample of all tiles gives the figures of the run, without doubt, and a
// smaller one bounds them about as wide as it is small.
func TestSampleOfAll(t *testing.T) {
	d := mixed(t)
	opt := compare.Options{Kernel: kernel(t, "sage2-8b-sm90"), Jobs: 2}
	whole := run(t, d, opt)
	opt.Sample = &compare.Sample{Fraction: 1}
	all := run(t, d, opt)
	opt.Sample = &compare.Sample{Fraction: 0.3, Seed: 1}
	some := run(t, d, opt)
	for i := range whole.Layers {
		w, a, s := &whole.Layers[i], &all.Layers[i], &some.Layers[i]
		x, y := w.EmulatedVsReference, a.EmulatedVsReference
		if !near(x, y, 1e-13) || x.MaxAbs != y.MaxAbs || a.Sample.Rows != a.Sample.AllRows || a.Sample.Tiles != a.Sample.Of {
			t.Errorf("%s: of all tiles %+v, want %+v", w.Name, y, x)
		}
		if b := a.Confidence.EmulatedVsReference; b.CosSim != [2]jsonFloat{y.CosSim, y.CosSim} || b.RelL1 != [2]jsonFloat{y.RelL1, y.RelL1} {
			t.Errorf("%s: bounds of all tiles %v", w.Name, b)
		}
		if s.Sample.Tiles >= s.Sample.Of || s.Sample.Rows >= s.Sample.AllRows {
			t.Errorf("%s: a sample of %+v", w.Name, s.Sample)
		}
		if b := s.Confidence.EmulatedVsReference; !(b.RelL1[0] < s.EmulatedVsReference.RelL1 && s.EmulatedVsReference.RelL1 < b.RelL1[1] && b.RelL1[1] < 3*b.RelL1[0]) {
			t.Errorf("%s: rel_l1 %v, bounds %v", w.Name, s.EmulatedVsReference.RelL1, b)
		}
		if w.ActualVsEmulated != nil {
			if e := s.ActualVsEmulated.Elements; e != s.Sample.Rows*int64(s.Shape.HeadDim) {
				t.Errorf("%s: %d elements of %d rows", w.Name, e, s.Sample.Rows)
			}
		}
	}
	if c := some.Average.Confidence; c == nil || c.ActualVsEmulated == nil || !(c.EmulatedVsReference.RelL1[0] < some.Average.EmulatedVsReference.RelL1) {
		t.Errorf("average %+v", c)
	}
	if whole.Average.Confidence != nil || whole.Layers[0].Sample != nil {
		t.Error("a run without a sample has bounds")
	}
}

// TestSampleParts: samples too are the same in any parts, also such that grow.
func TestSampleParts(t *testing.T) {
	d := mixed(t)
	for _, s := range []*compare.Sample{{Tiles: 3, Seed: 4}, {Within: 0.05, Seed: 2}} {
		opt := compare.Options{Kernel: kernel(t, "sage2-8b-sm90"), Jobs: 2, PerHead: true, Sample: s}
		m := newMemory(1)
		opt.Keep = m
		want := text(t, run(t, d, opt))
		outlines, err := compare.Outlines(d, opt)
		if err != nil {
			t.Fatal(err)
		}
		r := rand.New(rand.NewPCG(1, 2))
		whole := m.parts
		for range 5 {
			// What an interrupted run had kept: any part of it.
			m = newMemory(3)
			for i, parts := range whole {
				for _, p := range parts {
					if r.IntN(3) > 0 {
						m.parts[i] = append(m.parts[i], p)
					}
				}
			}
			m.kept = make(map[int]*compare.Partial)
			for i, p := range m.join(t, r, outlines) {
				m.kept[i] = p
			}
			opt.Keep = m
			if got := text(t, run(t, d, opt)); got != want {
				t.Fatalf("%v, resumed:\n%s\nwant\n%s", s, got, want)
			}
		}
	}
	// Too narrow for anything but all tiles.
	opt := compare.Options{Kernel: kernel(t, "sage2-8b-sm90"), Jobs: 2, Sample: &compare.Sample{Within: 1e-9}}
	for _, l := range run(t, d, opt).Layers {
		if l.Sample.Tiles != l.Sample.Of {
			t.Errorf("%s: %d of %d tiles give figures to 1e-9", l.Name, l.Sample.Tiles, l.Sample.Of)
		}
	}
}

// TestSampleStops: tiles are added until every interval is as small as was asked.
func TestSampleStops(t *testing.T) {
	d := mixed(t)
	const within = 0.05
	res := run(t, d, compare.Options{Kernel: kernel(t, "sage2-8b-sm90"), Jobs: 2, Sample: &compare.Sample{Within: within}})
	fewer := false
	for _, l := range res.Layers {
		fewer = fewer || l.Sample.Tiles < l.Sample.Of
		for _, x := range []struct {
			b *compare.Bounds
			v *metrics.Values
		}{{l.Confidence.EmulatedVsReference, &l.EmulatedVsReference}, {l.Confidence.ActualVsReference, l.ActualVsReference}} {
			if x.b == nil || l.Sample.Tiles == l.Sample.Of {
				continue
			}
			if w := float64(x.b.RelL1[1]-x.b.RelL1[0]) / 2; !(w <= within*float64(x.v.RelL1)) {
				t.Errorf("%s: rel_l1 %v is known to %v", l.Name, x.v.RelL1, w)
			}
		}
	}
	if !fewer {
		t.Error("all tiles of all layers were computed")
	}
}

// TestGateOfBound: a figure that passes a gate fails it if its bound does.
func TestGateOfBound(t *testing.T) {
	d := open(t, sample)
	res := run(t, d, compare.Options{Kernel: kernel(t, "sage2-4b"), Jobs: 2, Sample: &compare.Sample{Tiles: 2, Seed: 3}})
	l := &res.Layers[0]
	v, b := l.EmulatedVsReference, l.Confidence.EmulatedVsReference
	between := func(x, y jsonFloat) string { return number((float64(x) + float64(y)) / 2) }
	for _, tc := range []struct {
		gate   string
		failed bool
		text   string
	}{
		{"emulated.rel_l1>" + between(v.RelL1, b.RelL1[1]), true, "with 95% confidence at most"},
		{"emulated.rel_l1>" + number(float64(b.RelL1[1])*1.01), false, ""},
		{"emulated.cos<" + between(v.CosSim, b.CosSim[0]), true, "with 95% confidence at least"},
		{"emulated.cos<" + number(float64(b.CosSim[0])-0.001), false, ""},
		{"cos<" + between(v.CosSim, b.CosSim[0]), true, "emulated.cos_sim is"},
		{"emulated.max_abs>" + number(float64(v.MaxAbs)*0.99), true, "emulated.max_abs is"},
		{"emulated.max_abs>" + number(float64(v.MaxAbs)*1.01), false, ""},
	} {
		g, err := metrics.ParseGate(tc.gate)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range res.Check(compare.Gates{FailIf: []metrics.Gate{g}, AllowNonFinite: true}) {
			if c.Layer == l.Name && ((c.Status == compare.Failed) != tc.failed || !strings.Contains(c.Text, tc.text)) {
				t.Errorf("%s: %s, %q; figures %+v, bounds %v", tc.gate, c.Status, c.Text, v, b)
			}
		}
	}
}

// TestSampleChunks: shards of a sample have its chunks.
func TestSampleChunks(t *testing.T) {
	opt := compare.Options{Kernel: kernel(t, "sage2-8b-sm90"), Sample: &compare.Sample{Tiles: 2}}
	outlines, err := compare.Outlines(mixed(t), opt)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range outlines {
		if n := o.All().Len(); n != 2*o.Shape.Batch*o.Shape.Heads || o.All().Minus(ranges.Of(0, o.Chunks())) != nil {
			t.Errorf("%s: %v", o.Name, o.All())
		}
	}
}

type jsonFloat = jsonfloat.Float

func number(x float64) string { return strconv.FormatFloat(x, 'g', -1, 64) }
