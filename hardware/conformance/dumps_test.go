package conformance

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/compare/heads"
	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/reference"
)

// kind names what of a call a recording is of.
func (c *Case) kind() string {
	kind := c.Kernel
	for _, x := range []struct {
		is   bool
		name string
	}{{c.Mask != "", "mask"}, {c.BlockMap != "", "blocks"}, {c.Window != nil, "window"}, {c.Softcap != 0, "softcap"}, {c.Causal, "causal"}} {
		if x.is {
			kind += " " + x.name
		}
	}
	return kind
}

// asDump opens a recording as a dump, and the kernel of its case.
func (c *Case) asDump(t *testing.T) (*layerdumps.Dump, *emulate.Kernel) {
	t.Helper()
	names := layerdumps.Names{"o": c.Expect}
	if c.Mask != "" {
		names["mask"] = c.Mask
	}
	if c.BlockMap != "" {
		names["block_map"] = c.BlockMap
	}
	align := c.CausalAlign
	opt := layerdumps.Options{Causal: &c.Causal, SMScale: c.SMScale, CausalAlign: &align, Softcap: &c.Softcap, Names: names}
	if c.Window != nil {
		opt.Window = &layerdumps.Window{Left: c.Window[0], Right: c.Window[1]}
	}
	d, err := layerdumps.Open([]string{filepath.Join(c.dir, c.File)}, opt)
	if err != nil {
		t.Fatalf("%s: %v", c.Name(), err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	p, err := c.selection().Program()
	if err != nil {
		t.Fatal(err)
	}
	k, err := emulate.New(p)
	if err != nil {
		t.Fatal(err)
	}
	return d, k
}

// TestRecordingsAreDumps: a recording of a whole kernel is a dump, its mask, window, soft
// cap and FP8 scales included, and compare finds the GPU's output in it bit for bit, near
// the reference.
func TestRecordingsAreDumps(t *testing.T) {
	cases, err := Load(field, nil)
	if err != nil {
		t.Fatal(err)
	}
	sequences, err := Load(packed, nil)
	if err != nil {
		t.Fatal(err)
	}
	cases = append(cases, sequences...)
	ran := make(map[string]int)
	for _, c := range cases {
		// conform runs them all; here a few of each kind are enough.
		const most = 6
		kind := c.kind()
		if c.Op != "attention" || c.Unstable || c.NumSplits > 1 || strings.HasPrefix(c.Expect, "lse") || ran[kind] >= most {
			continue
		}
		ran[kind]++
		d, k := c.asDump(t)
		res, err := compare.Run(t.Context(), d, compare.Options{Kernel: k, Jobs: 2})
		if err != nil {
			t.Fatalf("%s: %v", c.Name(), err)
		}
		for i := range res.Layers {
			l := &res.Layers[i]
			if l.ActualVsEmulated == nil || l.ActualVsEmulated.Elements == 0 || !l.ActualVsEmulated.Exact() {
				t.Errorf("%s (%s), layer %s: %+v", c.Name(), kind, l.Name, l.ActualVsEmulated)
			}
		}
	}
	for _, kind := range []string{
		"sage-fp16-triton mask", "sdpa-efficient mask", "fa3 window", "fa3 softcap", "fa3 softcap causal", "fa3-fp8", "fa3-fp8 causal", "fa3-fp8 window",
		"fa3-fp8 softcap", "fa3-fp8-2level", "fa2 window", "flashinfer-fp8", "flashinfer-fp8 window", "flashinfer-fp8 window causal", "flashinfer-fp8-paged causal",
		"sage-fp16-triton-varlen", "sage-fp16-triton-varlen causal", "comfy-int8", "comfy-int8 mask", "sparge-sm90 blocks",
	} {
		if ran[kind] == 0 {
			t.Errorf("no recording of %s (there are %v)", kind, ran)
		}
	}
}

// TestWrongDump: what a dump says of a call counts: without its mask, its window, its soft
// cap or its scales an output is not the GPU's.
func TestWrongDump(t *testing.T) {
	for _, tc := range []struct {
		kind  string
		spoil func(*layerdumps.Layer)
	}{
		{"sage-fp16-triton mask", func(l *layerdumps.Layer) { l.Mask = nil }},
		{"sdpa-efficient mask", func(l *layerdumps.Layer) { l.Mask = nil }},
		{"fa3 window", func(l *layerdumps.Layer) { l.Window = nil }},
		{"fa3 window", func(l *layerdumps.Layer) { l.Window.Left++ }},
		{"fa3 softcap", func(l *layerdumps.Layer) { l.Softcap = 0 }},
		{"flashinfer-fp8", func(l *layerdumps.Layer) { l.QDescale = nil }},
		{"flashinfer-fp8 window", func(l *layerdumps.Layer) { l.Window.Left++ }},
		{"sparge-sm90 blocks", func(l *layerdumps.Layer) { l.BlockMap = nil }},
		{"fa3-fp8", func(l *layerdumps.Layer) { l.QDescale = nil }},
		{"fa3-fp8", func(l *layerdumps.Layer) { l.KDescale = nil }},
		{"fa3-fp8", func(l *layerdumps.Layer) { l.VDescale = nil }},
	} {
		cases, err := Load(field, nil)
		if err != nil {
			t.Fatal(err)
		}
		differs := false
		for _, c := range cases {
			if c.Op != "attention" || c.kind() != tc.kind || differs {
				continue
			}
			d, k := c.asDump(t)
			tc.spoil(&d.Layers[0])
			res, err := compare.Run(t.Context(), d, compare.Options{Kernel: k, Jobs: 2})
			if err != nil {
				t.Fatal(err)
			}
			differs = !res.Layers[0].ActualVsEmulated.Exact()
		}
		if !differs {
			t.Errorf("%s: a dump that lacks it gives the GPU's output", tc.kind)
		}
	}
}

// TestReferenceOfRecordings: the reference applies masks, windows, soft caps and scales as
// the kernels do: their outputs are near it, and are not near one without.
func TestReferenceOfRecordings(t *testing.T) {
	cases, err := Load(field, nil)
	if err != nil {
		t.Fatal(err)
	}
	near := make(map[string]bool)
	for _, c := range cases {
		// Its masks are in units of log 2 (docs/dumps.md).
		if kind := c.kind(); c.Op != "attention" || near[kind] || kind == c.Kernel && c.Kernel != "fa3-fp8" && c.Kernel != "flashinfer-fp8" || strings.HasPrefix(c.Kernel, "sage") {
			continue
		}
		d, k := c.asDump(t)
		l := &d.Layers[0]
		view, err := heads.Bind(k, l)
		if err != nil {
			t.Fatal(err)
		}
		if p := heads.Reference(l, reference.FP32, view.Align(), 0, 0); c.Window != nil && !p.Windowed && !p.Causal {
			continue // it hides nothing
		}
		res, err := compare.Run(t.Context(), d, compare.Options{Kernel: k, Jobs: 2})
		if err != nil {
			t.Fatal(err)
		}
		near[c.kind()] = res.Layers[0].ActualVsReference.CosSim > 0.995
	}
	for _, kind := range []string{"sdpa-efficient mask", "fa3 window", "fa3 softcap", "fa3 softcap causal", "fa3-fp8", "fa3-fp8 window", "fa3-fp8 softcap", "fa2 causal", "flashinfer-fp8", "flashinfer-fp8 window"} {
		if !near[kind] {
			t.Errorf("no output of %s is near the reference", kind)
		}
	}
}
