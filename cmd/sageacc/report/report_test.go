package report

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"unicode"

	"github.com/sageacc/sageacc/emulate/program"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/compare/attribute"
	"github.com/sageacc/sageacc/compare/tables"
	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/internal/jsonfloat"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/metrics"
)

// measured is a result that has everything: heads, causes, and an actual output that
// is not the emulated one.
var measured = sync.OnceValues(func() ([]byte, error) {
	d, err := layerdumps.Open([]string{"../../../layerdumps/testdata/byte-lm-sample.safetensors"}, layerdumps.Options{})
	if err != nil {
		return nil, err
	}
	defer d.Close()
	cfg, err := program.Preset("sage2-8b-sm90")
	if err != nil {
		return nil, err
	}
	must(cfg.SetAccum("fp32"))
	k, err := emulate.New(cfg)
	if err != nil {
		return nil, err
	}
	opt := compare.Options{Kernel: k, PerHead: true, Jobs: 2}
	ctx := context.Background()
	r, err := compare.Run(ctx, d, opt)
	if err != nil {
		return nil, err
	}
	if err := compare.Explain(ctx, d, r, opt); err != nil {
		return nil, err
	}
	if err := compare.Attribute(ctx, d, r, opt); err != nil {
		return nil, err
	}
	r.Args = []string{"sageacc", "compare", "a dump's.safetensors", "--per-head"}
	return json.Marshal(r)
})

func sample(t testing.TB) *compare.Result {
	t.Helper()
	b, err := measured()
	if err != nil {
		t.Fatal(err)
	}
	in, err := Read(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return in.Compare
}

func write(t testing.TB, in *Input) string {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, in); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// node is an element of a page.
type node struct {
	name   string
	attr   map[string]string
	parent *node
	nodes  []*node
	text   string // of this element alone
}

func (n *node) all(name string) []*node {
	var out []*node
	for _, c := range n.nodes {
		if c.name == name {
			out = append(out, c)
		}
		out = append(out, c.all(name)...)
	}
	return out
}

func (n *node) allText() string {
	s := n.text
	for _, c := range n.nodes {
		s += " " + c.allText()
	}
	return s
}

func (n *node) id(id string) *node {
	for _, c := range n.nodes {
		if c.attr["id"] == id {
			return c
		}
		if x := c.id(id); x != nil {
			return x
		}
	}
	return nil
}

// count returns how many elements below have exactly these classes.
func (n *node) count(name, class string) int {
	k := 0
	for _, c := range n.all(name) {
		if c.attr["class"] == class {
			k++
		}
	}
	return k
}

// parse reads a page and checks what holds for every page: elements are closed,
// nothing is loaded or run, links stay within, and charts have labels.
func parse(t testing.TB, page string) *node {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(page))
	d.Strict, d.AutoClose, d.Entity = false, xml.HTMLAutoClose, xml.HTMLEntity
	root := &node{attr: map[string]string{}}
	at := root
	ids := map[string]bool{}
	var links []string
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("the page is not well formed: %v", err)
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			n := &node{name: tok.Name.Local, attr: map[string]string{}, parent: at}
			for _, a := range tok.Attr {
				n.attr[a.Name.Local] = a.Value
				switch name := a.Name.Local; {
				case strings.HasPrefix(name, "on"), name == "src", name == "srcset", name == "style", name == "action", name == "data", name == "xlink":
					t.Errorf("<%s %s=%q>", n.name, name, a.Value)
				case name == "href":
					links = append(links, a.Value)
				case name == "id":
					if ids[a.Value] {
						t.Errorf("the id %q is there twice", a.Value)
					}
					ids[a.Value] = true
				}
			}
			switch n.name {
			case "script", "link", "img", "iframe", "object", "embed", "image", "use", "foreignObject", "base", "form":
				t.Errorf("the page has <%s>", n.name)
			case "svg":
				if n.attr["role"] != "img" || n.attr["aria-label"] == "" {
					t.Errorf("a chart without a label: %v", n.attr)
				}
			}
			at.nodes = append(at.nodes, n)
			at = n
		case xml.EndElement:
			if tok.Name.Local != at.name {
				t.Fatalf("</%s> ends <%s>", tok.Name.Local, at.name)
			}
			at = at.parent
		case xml.CharData:
			at.text += string(tok)
		}
	}
	for _, l := range links {
		if !strings.HasPrefix(l, "#") || !ids[l[1:]] {
			t.Errorf("the link %q leads nowhere on the page", l)
		}
	}
	if len(root.all("h1")) != 1 || len(root.all("main")) != 1 || len(root.all("title")) == 0 {
		t.Error("the page has not one heading and one main part")
	}
	if i := strings.IndexFunc(page, func(r rune) bool {
		return unicode.IsControl(r) && r != '\n' || unicode.Is(unicode.Bidi_Control, r)
	}); i >= 0 {
		t.Errorf("the page has a control character: %q", page[max(0, i-20):min(len(page), i+20)])
	}
	return root
}

// TestCompare: every layer, head and figure is there, and every datum of a chart has
// its mark.
func TestCompare(t *testing.T) {
	r := sample(t)
	page := write(t, &Input{Compare: r})
	root := parse(t, page)
	text := root.allText()
	for _, want := range []string{
		"58782 of 131072 elements differ (44.8%)",
		"The actual output is, bit for bit, that of --pv-accum fp32+fp32.",
		"token 128, channel 11",
		`sageacc compare 'a dump'\''s.safetensors' --per-head`,
		"worst is layer 1, layers.0.attn, with a cosine similarity of 0.999545",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	for _, l := range r.Layers {
		if !strings.Contains(root.id("layers").allText(), l.Name) {
			t.Errorf("%s is not in the table of layers", l.Name)
		}
	}
	layers := root.id("layers").all("svg")
	if len(layers) != 3 {
		t.Fatalf("%d charts by layer", len(layers))
	}
	for _, c := range layers {
		// One layer of two has an actual output; a line joins the emulated ones.
		if c.count("path", "f s1") != 2 || c.count("path", "k s2") != 1 || c.count("path", "k s1") != 1 || len(c.all("title")) != 3 {
			t.Errorf("%s: %d emulated, %d actual", c.attr["aria-label"], c.count("path", "f s1"), c.count("path", "k s2"))
		}
	}
	heads := root.id("heads").all("svg")
	n := len(r.Layers[0].Heads) + len(r.Layers[1].Heads)
	if len(heads) != 2 || heads[0].count("path", "k s1") != n || len(heads[0].all("title")) != n || len(heads[1].all("title")) != n {
		t.Errorf("%d charts of heads, %d rings for %d heads", len(heads), heads[0].count("path", "k s1"), n)
	}
	if rows := root.id("heads").all("tr"); len(rows) != 1+n {
		t.Errorf("%d rows for %d heads", len(rows)-1, n)
	}
	steps := root.id("attribution").all("svg")
	if want := len(r.Layers[0].Attribution.Steps) * 2; len(steps) != 1 || len(steps[0].all("title")) != want {
		t.Errorf("%d bars for %d steps", len(steps[0].all("title")), want)
	}
	hist := root.id("histograms").all("svg")
	if len(hist) != 2 {
		t.Fatalf("%d histograms", len(hist))
	}
	for i, c := range hist {
		h := r.Layers[i].ErrorHistogram
		var drawn int64
		for _, bar := range c.all("title") {
			k, err := strconv.ParseInt(strings.Fields(bar.text)[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			drawn += k
		}
		// Bars of rare errors are left out, up to 1 in 10000 each.
		var all int64
		for _, k := range h.Counts {
			all += k
		}
		if bars := c.count("path", "f s1"); bars != len(c.all("title")) || drawn > all || float64(drawn) < 0.998*float64(all) {
			t.Errorf("layer %d: %d bars of %d elements, the histogram has %d", i, bars, drawn, all)
		}
		if lines := c.count("path", "k s2"); (lines == 1) != (r.Layers[i].ActualErrorHistogram != nil) {
			t.Errorf("layer %d: %d lines of an actual output", i, lines)
		}
	}
	m := r.Layers[0].DifferenceMap
	diff := root.id("differences").all("svg")
	if want := len(m.Blocks) * len(m.Blocks[0]); len(diff) != 2 || len(diff[0].all("title")) != want || len(diff[1].all("title")) != len(m.Channels) {
		t.Errorf("%d charts, %d cells, %d channels", len(diff), len(diff[0].all("title")), len(diff[1].all("title")))
	}
	if k := diff[0].count("path", "f h0"); k != 4 { // two blocks of 64 tokens of two heads
		t.Errorf("%d cells without a difference, want 4", k)
	}
	if again := write(t, &Input{Compare: sample(t)}); again != page {
		t.Error("the same result gives another page")
	}
}

// TestLess: what a result lacks is left out, and nothing else is.
func TestLess(t *testing.T) {
	r := sample(t)
	r.Args = nil
	r.Layers = r.Layers[1:] // no actual output
	l := &r.Layers[0]
	l.Heads, l.Attribution, l.ErrorHistogram = nil, nil, metrics.HistogramValues{}
	root := parse(t, write(t, &Input{Compare: r}))
	for id, want := range map[string]bool{"layers": true, "heads": false, "attribution": false, "histograms": false, "differences": false, "warnings": true, "repeat": true} {
		if got := root.id(id) != nil; got != want {
			t.Errorf("section %s: %v", id, got)
		}
	}
	if n := len(root.all("svg")); n != 0 {
		t.Errorf("%d charts of a single layer", n)
	}
	if s := root.allText(); !strings.Contains(s, "There is no actual output") || !strings.Contains(s, "does not say by which command") {
		t.Errorf("text %s", s)
	}
}

// TestExact: an actual output that is the emulated one.
func TestExact(t *testing.T) {
	r := sample(t)
	b := r.Layers[0].ActualVsEmulated
	b.Mismatched, b.First, b.MaxULP = 0, nil, 0
	r.Layers[0].DifferenceMap, r.Layers[0].Explanation = nil, nil
	root := parse(t, write(t, &Input{Compare: r}))
	if s := root.allText(); !strings.Contains(s, "it equals the emulated one bit for bit: none of 131072 elements differs") {
		t.Errorf("text %s", s)
	}
	if n := len(root.id("differences").all("svg")); n != 0 {
		t.Errorf("%d maps of no difference", n)
	}
}

// hostile is a name that means harm to a page, to a reader and to a shell.
const hostile = "</title><script>alert('1')</script><img src=x onerror=\"x\">]]>&amp;\u202ecod.exe\u2066\x1b[31m\x00\n" +
	"looooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooong\xff"

func TestHostileNames(t *testing.T) {
	r := sample(t)
	r.Layers[0].Name, r.Layers[0].Source, r.Layers[0].Warnings = hostile, hostile, []string{hostile}
	r.Layers[0].Synthetic, r.Layers[0].Shape.DType = hostile, hostile
	r.Layers[0].Counts = map[string]emulate.Count{hostile: {NaN: 1}}
	r.Layers[0].Attribution.Steps[0].Name = hostile
	r.Layers[0].Explanation.Exact[0].Changes = []string{hostile}
	r.Layers[0].ActualVsEmulated.First.Actual = hostile
	r.Kernel = compare.KernelInfo{Name: hostile, Arch: hostile, Program: hostile, PVUnit: hostile}
	r.Reference, r.Args = hostile, []string{hostile, ""}
	root := parse(t, write(t, &Input{Compare: r}))
	if s := root.id("layers").allText(); !strings.Contains(s, `<script>alert('1')</script>`) || !strings.Contains(s, `\u202ecod.exe`) {
		t.Errorf("the name is not there as text: %s", s)
	}
	tab := &tables.Result{Schema: tables.Schema, Layers: []string{hostile}, Synthetic: []string{hostile}, Reference: hostile,
		Tables: []tables.Table{{Name: hostile, Title: hostile, Setup: hostile, Rows: []tables.Row{{Method: hostile}}}}}
	parse(t, write(t, &Input{Tables: tab}))
}

// TestNonFinite: NaN and infinities are said, and keep their marks.
func TestNonFinite(t *testing.T) {
	nan, inf := jsonfloat.Float(math.NaN()), jsonfloat.Float(math.Inf(1))
	r := sample(t)
	r.Layers[0].EmulatedVsReference = metrics.Values{CosSim: nan, RelL1: inf, RMSE: nan, MaxAbs: -inf}
	r.Layers[0].Heads[1].EmulatedVsReference.RelL1 = nan
	r.Layers[0].ReferenceRMS = nan
	r.Layers[0].Attribution.Kernel.MSE = 0
	r.Layers[1].ReferenceRMS = 0
	// The JSON form has strings for them.
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	in, err := Read(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	root := parse(t, write(t, in))
	for _, c := range root.id("layers").all("svg") {
		// The cross is a stroke, as is the line.
		if c.count("path", "f s1") != 1 || c.count("path", "k s1") != 2 || len(c.all("title")) != 3 {
			t.Errorf("%s: %d points, %d strokes", c.attr["aria-label"], c.count("path", "f s1"), c.count("path", "k s1"))
		}
	}
	if n := root.id("heads").all("svg")[1].count("path", "f bad"); n != 1 {
		t.Errorf("%d cells of NaN", n)
	}
	if s := root.id("heads").all("tbody")[0].all("tr")[0].allText(); !strings.Contains(s, "NaN") {
		t.Errorf("the worst head is %s", s)
	}
	if s := root.allText(); !strings.Contains(s, "cosine similarity of NaN") || !strings.Contains(s, "absolute errors, because") {
		t.Error("the page does not say that a figure is NaN or that there is no RMS")
	}
	steps := root.id("attribution")
	if n := len(steps.all("svg")[0].all("title")); n != len(r.Layers[1].Attribution.Steps) || !strings.Contains(steps.allText(), "Layer 1, layers.0.attn: the mean squared error is 0") {
		t.Errorf("%d bars of steps of one layer: %s", n, steps.allText())
	}
	r.Layers[1].Attribution.Kernel.MSE = nan
	steps = parse(t, write(t, &Input{Compare: r})).id("attribution")
	if steps == nil || len(steps.all("svg")) != 0 {
		t.Error("errors that cannot be shared out are drawn, or not spoken of")
	}
}

// TestManyLayers: charts stay bounded in number and in titles.
func TestManyLayers(t *testing.T) {
	r := sample(t)
	one := r.Layers[0]
	r.Layers = nil
	for i := range 60 {
		l := one
		l.Name = fmt.Sprintf("blocks.%d.attn", i)
		l.Heads = nil
		for h := range 48 {
			x := one.Heads[h%2]
			x.Head = h
			l.Heads = append(l.Heads, x)
		}
		r.Layers = append(r.Layers, l)
	}
	root := parse(t, write(t, &Input{Compare: r}))
	for i := range r.Layers {
		if !strings.Contains(root.id("layers").allText(), r.Layers[i].Name+" ") {
			t.Errorf("%s is missing", r.Layers[i].Name)
		}
	}
	hist := root.id("histograms")
	if n := len(hist.all("svg")); n != 60 {
		t.Errorf("%d histograms", n)
	}
	if n := len(hist.all("details")[0].all("svg")); n != 60-unfolded {
		t.Errorf("%d histograms are folded", n)
	}
	dots := root.id("heads").all("svg")[0]
	if n := dots.count("path", "k s1"); n != 60*48 || len(dots.all("title")) != 0 {
		t.Errorf("%d rings, %d titles", n, len(dots.all("title")))
	}
	if n := len(root.id("heads").all("tr")); n != 1+worstHeads {
		t.Errorf("%d rows of worst heads", n-1)
	}
}

func TestTables(t *testing.T) {
	v := func(x float64) metrics.Values {
		return metrics.Values{CosSim: jsonfloat.Float(1 - x), RelL1: jsonfloat.Float(x), RMSE: jsonfloat.Float(x / 2)}
	}
	r := &tables.Result{Schema: tables.Schema, Layers: []string{"l.0", "l.1"}, Reference: "fp32", Args: []string{"sageacc", "table", "all", "dump"}, Tables: []tables.Table{
		{Name: "smoothing", Title: "Smoothing", Setup: "INT4", Rows: []tables.Row{
			{Method: "none", Average: v(0.3), Worst: v(0.5), Paper: &tables.Figures{Average: tables.Triple{CosSim: 0.8004, RelL1: 0.3906, RMSE: 0.2223}, Worst: &tables.Triple{CosSim: 0.0483}}},
			{Method: "both", Average: v(0.1), Worst: v(0.2), Paper: &tables.Figures{Average: tables.Triple{CosSim: 0.9946, RelL1: 0.0648, RMSE: 0.0334}}},
		}},
		{Name: "accumulator", Title: "Accumulator", Setup: "INT4", Rows: []tables.Row{{Method: "FP22", Average: v(math.NaN()), Worst: v(0.2)}}},
	}}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	in, err := Read(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	root := parse(t, write(t, in))
	charts := root.all("svg")
	if len(charts) != 2 || charts[0].count("path", "f s1") != 2 || charts[0].count("path", "k s2") != 2 || charts[1].count("path", "k s1") != 1 {
		t.Errorf("%d charts", len(charts))
	}
	first := root.id("table-1").all("table")[0]
	if s := first.allText(); !strings.Contains(s, "80.04%") || !strings.Contains(s, "0.3906") || !strings.Contains(s, "70.00%") || !strings.Contains(s, "4.83%") {
		t.Errorf("the first table is %s", s)
	}
	for _, row := range first.all("tr") {
		if n := len(row.nodes); n != 13 {
			t.Errorf("a row has %d cells", n)
		}
	}
	if s := root.id("table-2").allText(); strings.Contains(s, "paper") || !strings.Contains(s, "NaN") {
		t.Errorf("the second table is %s", s)
	}
	if s := root.id("repeat").allText(); !strings.Contains(s, "sageacc table all dump") {
		t.Errorf("repeat: %s", s)
	}
}

func TestRead(t *testing.T) {
	good, err := measured()
	if err != nil {
		t.Fatal(err)
	}
	layer := func(fields string) string {
		return `{"schema":"sageacc/compare/v1","layers":[{"name":"l","emulated_vs_reference":{}` + fields + `}]}`
	}
	for in, want := range map[string]string{
		"":                                "not a result",
		"<html>":                          "not a result",
		"[]":                              "not a result",
		"{}":                              `schema is ""`,
		`{"schema":"x/v1"}`:               `schema is "x/v1", want "sageacc/compare/v1" or "sageacc/table/v1"`,
		`{"schema":"sageacc/compare/v1"}`: "no layers",
		`{"schema":"sageacc/compare/v1","layers":[{"name":"l"}]}`:                                  `layer "l" has no figures`,
		`{"schema":"sageacc/compare/v1","layers":7}`:                                               "not a result",
		layer(`,"actual_vs_reference":{}`):                                                         "only one of",
		layer(`,"shape":{"heads":-1}`):                                                             "negative size",
		layer(`,"error_histogram":{"counts":[-1]}`):                                                "error histogram",
		layer(`,"error_histogram":{"min_exponent":99999}`):                                         "error histogram",
		layer(`,"difference_map":{"block_tokens":0}`):                                              "difference map",
		layer(`,"difference_map":{"block_tokens":64,"blocks":[[1],[-2]]}`):                         "difference map",
		`{"schema":"sageacc/compare/v1","layers":[` + l("a") + `,` + l("a") + `]}`:                 "twice",
		string(good) + "{}":                                                                        "not a result",
		`{"schema":"sageacc/table/v1"}`:                                                            "no tables",
		`{"schema":"sageacc/table/v1","tables":[{"name":"t"}]}`:                                    `table "t" has no methods`,
		`{"schema":"sageacc/table/v1","tables":3}`:                                                 "not a result",
		`{"schema":"sageacc/compare/v1","layers":[{"emulated_vs_reference":{"rmse":"Infinity"}}]}`: "not a result",
	} {
		if in, err := Read(strings.NewReader(in)); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%.60v: error %v, want %q", in, err, want)
		}
	}
	if _, err := Read(strings.NewReader(layer(""))); err != nil {
		t.Errorf("a layer with figures only: %v", err)
	}
	if _, err := Open("nowhere.json"); err == nil {
		t.Error("a file that is not there is read")
	}
	path := filepath.Join(t.TempDir(), "r.json")
	if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil || !strings.HasPrefix(err.Error(), path+": ") {
		t.Errorf("the error does not name the file: %v", err)
	}
	if err := Write(io.Discard, &Input{}); err == nil {
		t.Error("nothing makes a page")
	}
}

func l(name string) string { return `{"name":"` + name + `","emulated_vs_reference":{}}` }

// TestStyle: every class that is drawn has a colour, in light and in dark, that can be
// told from what it lies on: WCAG 2.1 asks for a contrast of 4.5 for text and 3 for
// graphics.
func TestStyle(t *testing.T) {
	css, err := files.ReadFile("style.css")
	if err != nil {
		t.Fatal(err)
	}
	if regexp.MustCompile(`(?i)url\(|@import|https?:`).Match(css) {
		t.Error("the style sheet loads something")
	}
	light, dark, ok := strings.Cut(string(css), "@media (prefers-color-scheme: dark)")
	if !ok {
		t.Fatal("the style sheet has no dark part")
	}
	dark, rules, _ := strings.Cut(dark, "\n}\n")
	vars := func(s string) map[string][3]float64 {
		out := map[string][3]float64{}
		for _, m := range regexp.MustCompile(`--([a-z0-9]+): #([0-9a-f]{6})`).FindAllStringSubmatch(s, -1) {
			x, err := strconv.ParseUint(m[2], 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			out[m[1]] = [3]float64{float64(x >> 16), float64(x >> 8 & 255), float64(x & 255)}
		}
		return out
	}
	luminance := func(c [3]float64) float64 {
		var y float64
		for i, w := range []float64{0.2126, 0.7152, 0.0722} {
			v := c[i] / 255
			if v <= 0.04045 {
				v /= 12.92
			} else {
				v = math.Pow((v+0.055)/1.055, 2.4)
			}
			y += w * v
		}
		return y
	}
	contrast := func(a, b [3]float64) float64 {
		x, y := luminance(a), luminance(b)
		return (max(x, y) + 0.05) / (min(x, y) + 0.05)
	}
	classes := map[string]float64{"ink": 4.5, "muted": 4.5, "s1": 3, "s2": 3, "grid": 1, "h0": 1, "bad": 3}
	for i := range stepClasses {
		classes[fmt.Sprintf("a%d", i+1)] = 3
	}
	for i := range shades {
		classes[fmt.Sprintf("h%d", i+1)] = 1
	}
	for mode, v := range map[string]map[string][3]float64{"light": vars(light), "dark": vars(dark)} {
		for c, want := range classes {
			if !strings.Contains(rules, "."+c+" { color: var(--"+c+"); }") {
				t.Errorf("there is no rule for .%s", c)
			}
			colour, ok := v[c]
			if got := contrast(colour, v["card"]); !ok || got < want {
				t.Errorf("%s: the contrast of %s is %.2f, want %.1f", mode, c, got, want)
			}
		}
		for text, on := range map[string]string{"link": "page", "ink": "code", "muted": "page"} {
			if got := contrast(v[text], v[on]); got < 4.5 {
				t.Errorf("%s: the contrast of %s on %s is %.2f", mode, text, on, got)
			}
		}
		// A map's classes go one way, and its first differs from no difference.
		for i := range shades {
			a, b := luminance(v[fmt.Sprintf("h%d", i)]), luminance(v[fmt.Sprintf("h%d", i+1)])
			if (mode == "light") != (a > b) || contrast(v[fmt.Sprintf("h%d", i)], v[fmt.Sprintf("h%d", i+1)]) < 1.1 {
				t.Errorf("%s: h%d and h%d do not differ as they should", mode, i, i+1)
			}
		}
	}
}

func TestScales(t *testing.T) {
	for _, tc := range []struct {
		values []float64
		want   string // lo, hi, labels
	}{
		{nil, "0 1 [0 1]"},
		{[]float64{0, math.NaN(), math.Inf(1)}, "0 1 [0 1]"},
		{[]float64{0.034, 0.008}, "0 0.04 [0 0.01 0.02 0.03 0.04]"},
		{[]float64{1}, "0 1 [0 0.2 0.4 0.6 0.8 1]"},
		{[]float64{7, 0, 3}, "0 8 [0 2 4 6 8]"},
		{[]float64{1e-5, 0.04}, "1e-05 0.1 [1e-5 0.0001 0.001 0.01 0.1]"},
		{[]float64{0.003, 0.11}, "0.002 0.2 [0.002 0.005 0.01 0.02 0.05 0.1 0.2]"},
		{[]float64{5e-324}, "0 4.94e-324 [0 4.94e-324]"},
		{[]float64{1e300, 1e-300}, "1e-300 1e+300 [1e-300 1e-200 1e-100 1 1e100 1e200 1e300]"},
	} {
		s := scaleOf(tc.values)
		var labels []string
		for _, k := range s.ticks {
			labels = append(labels, k.Label)
		}
		if got := fmt.Sprintf("%.3g %.3g %v", s.lo, s.hi, labels); got != tc.want {
			t.Errorf("%v: %s, want %s", tc.values, got, tc.want)
		}
		for _, v := range append(tc.values, -1, math.Inf(-1)) {
			if p := s.place(v); !(p >= s.lo && p <= s.hi) {
				t.Errorf("%v: %g is drawn at %g", tc.values, v, p)
			}
		}
	}
}

func TestWords(t *testing.T) {
	for x, want := range map[float64]string{0: "0", 0.034: "0.03400", 1234567: "1234567", 12345678: "1.235e7", 0.00004: "4.000e-5", 9.9996: "10.00", math.Inf(-1): "-Inf"} {
		if got := digits(x, 4); got != want {
			t.Errorf("digits(%g) is %q, want %q", x, got, want)
		}
	}
	for x, want := range map[float64]string{0: "0%", 0.448: "44.8%", 1: "100.0%", 1e-6: "0.00010%", 3e-9: "3.0e-7%"} {
		if got := percent(x); got != want {
			t.Errorf("percent(%g) is %q, want %q", x, got, want)
		}
	}
	for in, want := range map[string]string{"": "", "that is x": "That is x.", "élan": "Élan.", "\x1bb": `\x1bb.`} {
		if got := sentence(in); got != want {
			t.Errorf("sentence(%q) is %q, want %q", in, got, want)
		}
	}
	if got, want := shellLine([]string{"a", "--x=b,c", "d e", "", "it's", "$(x)", "a\nb"}), `a --x=b,c 'd e' '' 'it'\''s' '$(x)' 'a\nb'`; got != want {
		t.Errorf("command %s, want %s", got, want)
	}
	for in, want := range map[string]string{"plain µ·字": "plain µ·字", "a\u202eb": `a\u202eb`, "\x1b[0m\n": `\x1b[0m\n`, "\xff": "\uFFFD"} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) is %q, want %q", in, got, want)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"schema":"sageacc/compare/v1","layers":[{"name":"<b>","reference_rms":1e-300,"emulated_vs_reference":{"cos_sim":"NaN","rel_l1":1e300},
		"error_histogram":{"min_exponent":-1000,"counts":[1,0,5]},"heads":[{"head":-1,"rel_l1":5e-324}],
		"actual_vs_reference":{},"actual_vs_emulated":{"mismatched":9223372036854775807,"max_abs":"+Inf"},
		"difference_map":{"block_tokens":9223372036854775807,"blocks":[[],[9223372036854775807,1,2]],"channels":[0,1]},
		"attribution":{"steps":[{"name":"s","alone":{"mse":-1}},{"name":"s","alone":{"mse":"+Inf"}}]},"explanation":{"nearest":[{}]},"counts":{"q":{"nan":1}}},
		{"name":"b","emulated_vs_reference":{"rel_l1":1e-300}}]}`))
	f.Add([]byte(`{"schema":"sageacc/table/v1","layers":["\u202e"],"tables":[{"rows":[{"method":"\n","average":{"rel_l1":"-Inf"},"paper":{"average":{"rel_l1":1e308}}},{"method":"字","average":{"rel_l1":1e-308}}]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		in, err := Read(bytes.NewReader(data))
		if err != nil {
			return
		}
		root := parse(t, write(t, in))
		if in.Compare != nil && len(root.id("layers").all("tbody")[0].all("tr")) < len(in.Compare.Layers) {
			t.Error("a layer is missing")
		}
	})
}

// FuzzWrite makes pages of results with any name and any figures.
func FuzzWrite(f *testing.F) {
	f.Add("l", 0.1, 1e-3, 64, int64(5), []byte{0, 1, 200})
	f.Add(hostile, math.NaN(), math.Inf(1), -1<<62, int64(1)<<62, []byte{255})
	f.Add("", 5e-324, 1.7e308, 1<<62, int64(0), []byte{})
	f.Add("x", 1e-310, -1.0, 0, int64(1), make([]byte, 300))
	f.Fuzz(func(t *testing.T, name string, x, y float64, size int, count int64, many []byte) {
		count = max(count, 0)
		many = many[:min(len(many), 16)] // a page of more says no more
		v := func(z float64) metrics.Values {
			z2 := jsonfloat.Float(z)
			return metrics.Values{CosSim: z2, RelL1: z2, RMSE: z2, MaxAbs: z2}
		}
		h := metrics.HistogramValues{MinExponent: size % 1100, Counts: []int64{count}, Zero: count}
		m := &compare.DifferenceMap{BlockTokens: max(1, size), Blocks: [][]int64{nil, {count}}}
		e := attribute.Error{OneMinusCos: jsonfloat.Float(x), RelL1: jsonfloat.Float(y), MSE: jsonfloat.Float(y)}
		r := &compare.Result{Schema: compare.Schema, Reference: name, Args: []string{name}}
		for i, z := range []float64{x, y, x * y, x - y} {
			l := compare.Layer{Name: fmt.Sprint(i, name), ReferenceRMS: jsonfloat.Float(z), ErrorHistogram: h, ActualErrorHistogram: &h, DifferenceMap: m}
			l.Shape = compare.Shape{Batch: max(0, size), Heads: max(0, size), Queries: max(0, size), HeadDim: max(0, size)}
			l.EmulatedVsReference = v(z)
			a := v(-z)
			l.ActualVsReference, l.ActualVsEmulated = &a, &compare.BitValues{Values: a, Bits: metrics.Bits{Elements: count, Mismatched: count}}
			l.Attribution = &attribute.Layer{Kernel: e, Rest: e, Steps: []attribute.Step{{Name: name, Alone: attribute.Error{MSE: jsonfloat.Float(z)}}, {Name: "b", Alone: e}}}
			for k, c := range many {
				h.Counts = append(h.Counts, int64(c))
				m.Channels = append(m.Channels, int64(c))
				l.Heads = append(l.Heads, compare.Head{Batch: size, Head: k, Rows: compare.Rows{EmulatedVsReference: v(z * float64(c))}})
			}
			r.Layers = append(r.Layers, l)
		}
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		in, err := Read(bytes.NewReader(b))
		if err != nil {
			return
		}
		root := parse(t, write(t, in))
		for _, c := range root.id("layers").all("svg") {
			if n := len(c.all("title")); n != 8 {
				t.Errorf("%d marks of four layers with two outputs", n)
			}
		}
		tab := &tables.Result{Schema: tables.Schema, Tables: []tables.Table{{Title: name, Rows: []tables.Row{
			{Method: name, Average: v(x), Worst: v(y)}, {Method: name, Average: v(y), Paper: &tables.Figures{Average: tables.Triple{RelL1: y, CosSim: x}}},
		}}}}
		parse(t, write(t, &Input{Tables: tab}))
	})
}

// TestLSE: where the log-sum-exp was compared it has a table.
func TestLSE(t *testing.T) {
	r := sample(t)
	if n := len(parse(t, write(t, &Input{Compare: r})).id("layers").all("table")); n != 1 {
		t.Errorf("%d tables without a log-sum-exp", n)
	}
	v := metrics.Values{RelL1: 0.125, RMSE: 0.25}
	r.Layers[1].LSE = &compare.Rows{EmulatedVsReference: v, ActualVsReference: &v, ActualVsEmulated: &compare.BitValues{Bits: metrics.Bits{Elements: 77, Mismatched: 3}}}
	tab := parse(t, write(t, &Input{Compare: r})).id("layers").all("table")
	if len(tab) != 2 || len(tab[1].all("tr")) != 2 || !strings.Contains(tab[1].allText(), "3 of 77") || !strings.Contains(tab[1].allText(), "layers.3.attn") {
		t.Errorf("%d tables", len(tab))
	}
}

// must stops at an edit that a test cannot do without.
func must(errs ...error) {
	for _, err := range errs {
		if err != nil {
			panic(err)
		}
	}
}
