package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/internal/jsonfloat"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/tables"
)

// measured is a result with everything that a page can show.
func measured(t testing.TB) *compare.Result {
	t.Helper()
	d, err := layerdumps.Open([]string{"../layerdumps/testdata/byte-lm-sample.safetensors"}, layerdumps.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	cfg, err := emulate.Preset("sage2-8b-sm90")
	if err != nil {
		t.Fatal(err)
	}
	cfg.PVAccum = emulate.AccumFP32
	k, err := emulate.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	opt := compare.Options{Kernel: k, PerHead: true, Jobs: 2}
	r, err := compare.Run(t.Context(), d, opt)
	if err != nil {
		t.Fatal(err)
	}
	if err := compare.Explain(t.Context(), d, r, opt); err != nil {
		t.Fatal(err)
	}
	if err := compare.Attribute(t.Context(), d, r, opt); err != nil {
		t.Fatal(err)
	}
	return r
}

func asJSON(t testing.TB, x any) string {
	t.Helper()
	b, err := json.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func write(t testing.TB, text string) string {
	t.Helper()
	in, err := Read(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := Write(&b, in, ""); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// parse checks that a page is well formed and returns its elements' names and its
// text.
func parse(t testing.TB, page string) (elements map[string]int, text string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(page))
	d.Strict, d.AutoClose, d.Entity = false, xml.HTMLAutoClose, xml.HTMLEntity
	elements = map[string]int{}
	var b strings.Builder
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			return elements, b.String()
		}
		if err != nil {
			t.Fatalf("the page is not well formed: %v", err)
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			elements[tok.Name.Local]++
			for _, a := range tok.Attr {
				switch a.Name.Local {
				case "src", "href", "action", "data", "style", "xlink":
					if strings.Contains(a.Value, "//") || a.Name.Local == "href" && !strings.HasPrefix(a.Value, "#") {
						t.Errorf("<%s %s=%q> leaves the page", tok.Name.Local, a.Name.Local, a.Value)
					}
				}
			}
		case xml.CharData:
			b.Write(tok)
		}
	}
}

func TestPage(t *testing.T) {
	r := measured(t)
	page := write(t, asJSON(t, r))
	elements, text := parse(t, page)
	// Three by layer, heads, two histograms, two attributions, a map and channels.
	if elements["svg"] != 10 || elements["figcaption"] != 10 {
		t.Errorf("%d charts with %d captions, want 10", elements["svg"], elements["figcaption"])
	}
	if elements["script"]+elements["link"]+elements["img"] != 0 {
		t.Errorf("the page has scripts, links or images: %v", elements)
	}
	for _, want := range []string{
		"58782 of 131072 elements differ", "--pv-accum fp32+fp32", "first difference at batch 0, head 0, token 128, channel 11",
		"The worst 4 of 4 heads", "what does not add up", "layers.0.attn", "layers.3.attn",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	if strings.Contains(page, "#0102") {
		t.Error("a placeholder colour was left")
	}
	if strings.Contains(page, "NaN") {
		t.Error("a chart has NaN")
	}
	if write(t, asJSON(t, r)) != page {
		t.Error("two pages of one result differ")
	}
}

// A chart has a mark for every number.
func TestMarks(t *testing.T) {
	count := func(svg any, pattern string) int {
		return len(regexp.MustCompile(pattern).FindAllString(fmt.Sprint(svg), -1))
	}
	y := []float64{1, 2, 3, 4, 5}
	if s, err := columns("x", "y", y); err != nil || count(s, `style="fill:var\(--c1\)"`) != len(y) {
		t.Errorf("columns: %d bars, %v", count(s, `style="fill:var\(--c1\)"`), err)
	}
	if s, err := bars("x", []string{"a", "b", "c", "d", "e"}, y); err != nil || count(s, `style="fill:var\(--c1\)"`) != len(y) {
		t.Errorf("bars: %d, %v", count(s, `style="fill:var\(--c1\)"`), err)
	}
	if s, err := lines("x", "y", []line{{"a", []float64{1, 2, 3}}, {"b", []float64{1, math.NaN(), 3}}}); err != nil || count(s, `var\(--c2\)`) < 2 {
		t.Errorf("lines: %v", err)
	}
	if s, err := heat("x", "y", "z", [][]float64{{1, 2, 3}, {4, 5, math.NaN()}, {7}}); err != nil || count(s, `fill:#3[AB]8[DE]E[CD]`) != 6 {
		t.Errorf("heat: %d cells, %v", count(s, `fill:#3[AB]8[DE]E[CD]`), err)
	}
}

// Names in a result are anybody's.
func TestNamesAreEscaped(t *testing.T) {
	r := measured(t)
	const evil = `<script>alert(1)</script>"'&`
	for i := range r.Layers {
		r.Layers[i].Name = evil + strings.Repeat("long", 1000)
		r.Layers[i].Attribution.Name = r.Layers[i].Name
		r.Layers[i].Warnings = []string{evil}
	}
	r.Kernel.Name = evil
	page := write(t, asJSON(t, r))
	if strings.Contains(page, "<script") {
		t.Error("a name became markup")
	}
	if elements, _ := parse(t, page); elements["script"] != 0 {
		t.Error("a name became an element")
	}
}

// Odd results have a page all the same: NaN, one layer, no detail.
func TestOddResults(t *testing.T) {
	r := measured(t)
	nan, inf := jsonfloat.Float(math.NaN()), jsonfloat.Float(math.Inf(1))
	r.Layers[0].EmulatedVsReference.RelL1, r.Layers[0].EmulatedVsReference.CosSim = nan, nan
	r.Layers[1].EmulatedVsReference.RelL1 = inf
	r.Layers[0].Heads[0].EmulatedVsReference.RelL1 = nan
	r.Layers[0].Attribution.Kernel.MSE = nan
	parse(t, write(t, asJSON(t, r)))
	parse(t, write(t, `{"schema":"sageacc/compare/v1","layers":[{"name":"x"}]}`))
	parse(t, write(t, `{"schema":"sageacc/compare/v1","layers":[{"name":"x","emulated_vs_reference":{"cos_sim":"NaN","rel_l1":"+Inf"}},{"name":"y"}]}`))
}

func TestTables(t *testing.T) {
	r := &tables.Result{Schema: tables.Schema, Layers: []string{"a"}, Synthetic: []string{"profile x"}, Tables: []tables.Table{{
		Name: "smoothing", Title: "Smoothing", Setup: "INT4",
		Rows: []tables.Row{
			{Method: "none", Paper: &tables.Figures{Average: tables.Triple{CosSim: 0.8, RelL1: 0.39, RMSE: 0.2}}},
			{Method: "own"},
		},
	}}}
	elements, text := parse(t, write(t, asJSON(t, r)))
	if elements["svg"] != 1 || !strings.Contains(text, "0.39") || !strings.Contains(text, "Synthetic activations") {
		t.Errorf("%v", elements)
	}
}

func TestBadInput(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{"", "not a result"},
		{"{", "not a result"},
		{"[]", "not a result"},
		{"{}", "no schema"},
		{`{"schema":"sageacc/diff/v1"}`, "sageacc/diff/v1"},
		{`{"schema":"sageacc/compare/v1"}`, "no layers"},
		{`{"schema":"sageacc/table/v1"}`, "no tables"},
		{`{"schema":"sageacc/compare/v1","layers":[{"name":3}]}`, "name"},
		{`{"schema":"sageacc/compare/v1","layers":[{"name":"x","error_histogram":{"counts":[-1]}}]}`, "histogram"},
		{`{"schema":"sageacc/compare/v1","layers":[{"name":"x","difference_map":{"blocks":[[1],[1,2]]}}]}`, "map"},
	} {
		if _, err := Read(strings.NewReader(tc.text)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q: %v, want %q", tc.text, err, tc.want)
		}
	}
}

// No file makes the page panic.
func FuzzRead(f *testing.F) {
	f.Add(`{"schema":"sageacc/compare/v1","layers":[{"name":"x","heads":[{"rel_l1":1}],"error_histogram":{"min_exponent":-9,"counts":[1,2]},"difference_map":{"block_tokens":64,"blocks":[[1,2]],"channels":[1]},"actual_vs_emulated":{"mismatched":3}}]}`)
	f.Add(`{"schema":"sageacc/table/v1","tables":[{"rows":[{"method":"a","average":{"rel_l1":"NaN"}}]}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		in, err := Read(strings.NewReader(text))
		if err != nil {
			return
		}
		if err := Write(io.Discard, in, ""); err != nil && strings.Contains(err.Error(), "another form") {
			t.Error(err)
		}
	})
}
