package report

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"unicode"

	"github.com/sageacc/sageacc/emulate/program"

	"github.com/sageacc/sageacc/cmd/sageacc/report/internal/demo"
	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/compare/attribute"
	"github.com/sageacc/sageacc/compare/tables"
	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/internal/jsonfloat"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/layerdumps/safetensors"
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
	if err := attributed(ctx, d, r, opt); err != nil {
		return nil, err
	}
	r.Args = []string{"sageacc", "compare", "a dump's.safetensors", "--per-head"}
	return json.Marshal(r)
})

// attributed is compare.Attribute, of the first tokens of each layer alone: pages show what
// is there.
func attributed(ctx context.Context, d *layerdumps.Dump, r *compare.Result, opt compare.Options) error {
	const tokens = 70
	var ts []safetensors.Tensor
	for i := range d.Layers {
		l := &d.Layers[i]
		for role, x := range map[string]*layerdumps.Tensor{"q": &l.Q, "k": &l.K, "v": &l.V} {
			s := safetensors.Tensor{Name: l.Name + "." + role, DType: "F16", Shape: []int{1, x.Heads, tokens, x.Dim}}
			for h := range x.Heads {
				rows := make([]float32, tokens*x.Dim)
				x.Rows(0, h, 0, tokens, rows)
				for _, y := range rows {
					s.Data = binary.LittleEndian.AppendUint16(s.Data, format.FP16FromFloat32(y))
				}
			}
			ts = append(ts, s)
		}
	}
	dir, err := os.MkdirTemp("", "report")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "short.safetensors")
	if err := safetensors.Write(path, map[string]string{"causal": "true"}, ts); err != nil {
		return err
	}
	short, err := layerdumps.Open([]string{path}, layerdumps.Options{})
	if err != nil {
		return err
	}
	defer short.Close()
	return compare.Attribute(ctx, short, r, opt)
}

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
	return in.Results[0]
}

func results(r ...*compare.Result) *Input { return &Input{Results: r} }

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

// block is a script of a page: its attributes and its text.
type block struct{ attributes, text string }

// blocks takes the elements of a name out of a page, as a browser would find those that
// hold text alone.
func blocks(page, name string) (rest string, found []block) {
	var b strings.Builder
	for {
		before, after, ok := strings.Cut(page, "<"+name)
		b.WriteString(before)
		if !ok {
			return b.String(), found
		}
		attributes, after, _ := strings.Cut(after, ">")
		text, after, _ := strings.Cut(after, "</"+name+">")
		found = append(found, block{attributes, text})
		page = after
	}
}

// parse reads a page and checks what holds for every page: elements are closed, nothing
// is loaded, only our script runs, and links stay within or lead to the documentation.
func parse(t testing.TB, page string) *node {
	t.Helper()
	whole := page
	page, scripts := blocks(page, "script")
	for _, b := range scripts {
		switch {
		case b.text == string(common().Script) || b.text == early:
		case strings.HasPrefix(b.attributes, ` type="application/json" id="`):
			if !json.Valid([]byte(b.text)) || strings.ContainsAny(b.text, "<>&\u2028\u2029") {
				t.Errorf("a script element of data holds %.200s", b.text)
			}
		default:
			t.Errorf("the page has a script%s: %.100s", b.attributes, b.text)
		}
	}
	page, styles := blocks(page, "style")
	if len(styles) != 1 || styles[0].text != string(common().Style) {
		t.Error("the page has another style sheet")
	}
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
		if !strings.HasPrefix(l, docsURL) && (!strings.HasPrefix(l, "#") || !ids[l[1:]]) {
			t.Errorf("the link %q leads nowhere on the page", l)
		}
	}
	if len(root.all("h1")) != 1 || len(root.all("main")) != 1 || len(root.all("title")) == 0 {
		t.Error("the page has not one heading and one main part")
	}
	if i := strings.IndexFunc(whole, func(r rune) bool {
		return unicode.IsControl(r) && r != '\n' || unicode.Is(unicode.Bidi_Control, r)
	}); i >= 0 {
		t.Errorf("the page has a control character: %q", whole[max(0, i-20):min(len(whole), i+20)])
	}
	for _, m := range root.all("meta") {
		if m.attr["http-equiv"] == "Content-Security-Policy" {
			want := "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'sha256-" + hash(string(common().Style)) + "'"
			if len(scripts) > 0 {
				want += "; script-src 'sha256-" + hash(early) + "' 'sha256-" + hash(string(common().Script)) + "'"
			}
			if m.attr["content"] != want {
				t.Errorf("the policy is %q, want %q", m.attr["content"], want)
			}
			return root
		}
	}
	t.Error("the page has no Content-Security-Policy")
	return root
}

func hash(s string) string {
	h := sha256.Sum256([]byte(s))
	return base64.StdEncoding.EncodeToString(h[:])
}

// embedded reads what the script is given.
func embedded(t testing.TB, page string) (c cockpit, details [][]*detail) {
	t.Helper()
	_, scripts := blocks(page, "script")
	for _, b := range scripts {
		var err error
		switch {
		case b.attributes == ` type="application/json" id="data"`:
			err = json.Unmarshal([]byte(b.text), &c)
		case strings.HasPrefix(b.attributes, fmt.Sprintf(` type="application/json" id="detail-%d"`, len(details))):
			var d []*detail
			err = json.Unmarshal([]byte(b.text), &d)
			details = append(details, d)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(details) != len(c.Layers) {
		t.Errorf("%d layers with %d details", len(c.Layers), len(details))
	}
	return c, details
}

// UnmarshalJSON reads what MarshalJSON writes.
func (f *figure) UnmarshalJSON(b []byte) error {
	x, err := strconv.ParseFloat(strings.Trim(string(b), `"`), 64)
	*f = figure(x)
	return err
}

// UnmarshalJSON reads what MarshalJSON writes.
func (f *exact) UnmarshalJSON(b []byte) error { return (*figure)(f).UnmarshalJSON(b) }

// near holds what five digits hold.
func near[T ~float64](got T, want float64) bool {
	return float64(got) == want || math.Abs(float64(got)-want) <= 1e-4*math.Abs(want) || math.IsNaN(float64(got)) && math.IsNaN(want)
}

// TestCompare: every layer, head and figure is there, in plain HTML and for the script.
func TestCompare(t *testing.T) {
	r := sample(t)
	page := write(t, results(r))
	root := parse(t, page)
	text := root.allText()
	for _, want := range []string{
		"It is not the emulated one: 58782 of 131072 elements differ (44.8%)",
		`sageacc compare 'a dump'\''s.safetensors' --per-head`,
		"with a cosine similarity of 0.999545",
		"(devel)",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	rows := root.id("layers").all("tbody")[0].all("tr")
	if len(rows) != 2 {
		t.Fatalf("%d rows", len(rows))
	}
	// The layer that differs is the first, and the verdict leads to it.
	if rows[0].attr["id"] != "layer-1" || !strings.Contains(rows[0].allText(), "differs") || !strings.Contains(rows[0].allText(), "58782 of 131072") {
		t.Errorf("the first row is %s", rows[0].allText())
	}
	if a := root.id("verdict").all("a"); len(a) == 0 || a[0].attr["href"] != "#layer-1" || a[0].text != "layers.0.attn" {
		t.Error("the verdict does not lead to the layer")
	}
	c, details := embedded(t, page)
	if c.Axis != "layer: layers.*.attn" || c.Layers[1].Label != "3" {
		t.Errorf("axis %q, label %q", c.Axis, c.Layers[1].Label)
	}
	for i := range r.Layers {
		l, f := &r.Layers[i], c.Layers[i].Runs[0]
		if c.Layers[i].Name != l.Name || len(c.Layers[i].Runs) != 1 {
			t.Errorf("layer %d is %q", i, c.Layers[i].Name)
		}
		e := l.EmulatedVsReference
		for k, want := range []float64{1 - float64(e.CosSim), float64(e.RelL1), float64(e.RMSE), float64(e.MaxAbs)} {
			if !near(f.Emulated[k], want) {
				t.Errorf("layer %d, figure %d is %g, want %g", i, k, f.Emulated[k], want)
			}
		}
		if (f.Actual != nil) != (l.ActualVsReference != nil) || f.Actual != nil && (f.Bits[0] != l.ActualVsEmulated.Mismatched || f.Bits[1] != l.ActualVsEmulated.Elements) {
			t.Errorf("layer %d: actual %v, bits %v", i, f.Actual, f.Bits)
		}
		for h := range l.Heads {
			if !near(f.Heads.Emulated[1][h], float64(l.Heads[h].EmulatedVsReference.RelL1)) || len(f.Heads.Emulated[1]) != len(l.Heads) || f.Heads.Names != nil {
				t.Errorf("layer %d: heads %v", i, f.Heads)
			}
		}
		if len(f.Causes.Steps) != len(l.Attribution.Steps) || !near(f.Causes.Kernel[2], float64(l.Attribution.Kernel.MSE)) {
			t.Errorf("layer %d: causes %v", i, f.Causes)
		}
		for k, s := range l.Attribution.Steps {
			if got := f.Causes.Steps[k]; c.Steps[got.Step] != s.Name || !near(got.Alone[2], float64(s.Alone.MSE)) || !near(got.Without[1], float64(s.Without.RelL1)) {
				t.Errorf("layer %d, step %s: %v", i, s.Name, got)
			}
		}
		d := details[i][0]
		if !slices.Equal(d.Errors.Counts, l.ErrorHistogram.Counts) || d.Errors.Min != l.ErrorHistogram.MinExponent || (d.Actual != nil) != (l.ActualErrorHistogram != nil) {
			t.Errorf("layer %d: histogram %v", i, d.Errors)
		}
	}
	d := details[0][0]
	if want := r.Layers[0].DifferenceMap; !reflect.DeepEqual(d.Map.Blocks, want.Blocks) || !slices.Equal(d.Map.Channels, want.Channels) || d.Map.Tokens != 64 || details[1][0].Map != nil {
		t.Errorf("difference map %v", d.Map)
	}
	why := strings.Join(d.Why, "\n")
	for _, want := range []string{"58782 of 131072 elements differ (44.8%)", "The actual output is, bit for bit, that of --pv-accum fp32+fp32.", "token 128, channel 11"} {
		if !strings.Contains(why, want) {
			t.Errorf("the layer does not say %q: %s", want, why)
		}
	}
	if again := write(t, results(sample(t))); again != page {
		t.Error("the same result gives another page")
	}
}

// TestLess: what a result lacks is left out, and said where it would help.
func TestLess(t *testing.T) {
	r := sample(t)
	r.Args, r.Tool = nil, nil
	for i := range r.Layers {
		l := &r.Layers[i]
		l.ActualVsReference, l.ActualVsEmulated, l.Heads, l.Attribution, l.ErrorHistogram, l.ActualErrorHistogram, l.DifferenceMap, l.Explanation = nil, nil, nil, nil, metrics.HistogramValues{}, nil, nil, nil
	}
	page := write(t, results(r))
	root := parse(t, page)
	for id, want := range map[string]bool{"overview": true, "layers": true, "warnings": false, "repeat": true, "meaning": true} {
		if got := root.id(id) != nil; got != want {
			t.Errorf("section %s: %v", id, got)
		}
	}
	for _, want := range []string{"There is no actual output", "does not say by which command", "--per-head adds", "--attribute adds"} {
		if s := root.allText(); !strings.Contains(s, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	c, details := embedded(t, page)
	if f := c.Layers[0].Runs[0]; f.Actual != nil || f.Heads != nil || f.Causes != nil || f.State != "none" || details[0][0].Errors != nil {
		t.Errorf("%+v", f)
	}
	// A single layer has no maps to choose from.
	r.Layers = r.Layers[:1]
	if root := parse(t, write(t, results(r))); root.id("overview") != nil || root.id("layer-1") == nil {
		t.Error("a page of one layer has an overview, or no layer")
	}
}

// TestExact: an actual output that is the emulated one.
func TestExact(t *testing.T) {
	r := sample(t)
	b := r.Layers[0].ActualVsEmulated
	b.Mismatched, b.First, b.MaxULP = 0, nil, 0
	r.Layers[0].DifferenceMap, r.Layers[0].Explanation = nil, nil
	page := write(t, results(r))
	root := parse(t, page)
	v := root.id("verdict").all("li")[0]
	if s := v.allText(); !strings.Contains(s, "it equals the emulated one bit for bit: none of 131072 elements differs") || v.attr["class"] != "good" {
		t.Errorf("verdict %s", s)
	}
	if c, d := embedded(t, page); c.Layers[0].Runs[0].State != "exact" || d[0][0].Why != nil {
		t.Error("the layer is not exact")
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
	p := r.Kernel.Description
	p.Name, p.Summary, p.Source, p.Evidence, p.Arch = hostile, hostile, hostile+"\n"+hostile, hostile, hostile
	r.Kernel = compare.KernelInfo{Name: hostile, Arch: hostile, Program: hostile, PVUnit: hostile, Description: p}
	r.Reference, r.Args = hostile, []string{hostile, ""}
	for _, in := range []*Input{results(r), {Results: []*compare.Result{r, r}, Names: []string{hostile, hostile}}} {
		page := write(t, in)
		root := parse(t, page)
		if s := root.id("layers").allText(); !strings.Contains(s, `<script>alert('1')</script>`) || !strings.Contains(s, `\u202ecod.exe`) {
			t.Errorf("the name is not there as text: %s", s)
		}
		if c, d := embedded(t, page); c.Layers[0].Name != clean(hostile) || d[0][0].Warnings[0] != clean(hostile) || c.Steps[0] != clean(hostile) {
			t.Errorf("the script gets %q", c.Layers[0].Name)
		}
	}
	tab := &tables.Result{Schema: tables.Schema, Layers: []string{hostile}, Synthetic: []string{hostile}, Reference: hostile,
		Tables: []tables.Table{{Name: hostile, Title: hostile, Setup: hostile, Rows: []tables.Row{{Method: hostile}}}}}
	parse(t, write(t, &Input{Tables: tab}))
}

// TestDescriptions: the page holds the whole description of every kernel once, from which the
// kernel can be read again; a result without one has none.
func TestDescriptions(t *testing.T) {
	r := sample(t)
	other := *r
	if err := other.Kernel.Description.Set("exponent.offset", "7"); err != nil {
		t.Fatal(err)
	}
	old := *r
	old.Kernel.Description = program.Program{}
	for _, tc := range []struct {
		in   *Input
		want []program.Program
	}{
		{results(r), []program.Program{r.Kernel.Description}},
		{&Input{Results: []*compare.Result{r, r}, Names: []string{"a", "b"}}, []program.Program{r.Kernel.Description}},
		{&Input{Results: []*compare.Result{r, &other}, Names: []string{"a", "b"}}, []program.Program{r.Kernel.Description, other.Kernel.Description}},
		{results(&old), nil},
	} {
		var got []program.Program
		for _, code := range parse(t, write(t, tc.in)).id("run").all("code") {
			p, err := program.Parse([]byte(code.text))
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, p)
		}
		if len(got) != len(tc.want) {
			t.Fatalf("%d descriptions, want %d", len(got), len(tc.want))
		}
		for i := range got {
			if d := program.Diff(&got[i], &tc.want[i]); len(d) != 0 {
				t.Errorf("the description differs: %v", d)
			}
		}
	}
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
	page := write(t, in)
	root := parse(t, page)
	if s := root.id("layers").all("tbody")[0].all("tr")[0].allText(); !strings.Contains(s, "not finite") || !strings.Contains(s, "NaN") || !strings.Contains(s, "+Inf") {
		t.Errorf("the worst layer is %s", s)
	}
	if v := root.id("verdict").all("li")[0]; v.attr["class"] != "bad" || !strings.Contains(v.allText(), "NaN or infinite values:") || v.all("a")[0].attr["href"] != "#layer-1" {
		t.Errorf("verdict %s", v.allText())
	}
	c, _ := embedded(t, page)
	if f := c.Layers[0].Runs[0]; !math.IsNaN(float64(f.Emulated[0])) || !math.IsInf(float64(f.Emulated[1]), 1) || !math.IsInf(float64(f.Emulated[3]), -1) || !math.IsNaN(float64(f.Heads.Emulated[1][1])) || f.State != "not-finite" {
		t.Errorf("%+v", f)
	}
}

// TestSize: what a page of a model weighs, and that difference maps become coarser
// before it weighs too much.
func TestSize(t *testing.T) {
	all := func(r *compare.Result) *compare.Result {
		// Every layer differs everywhere.
		var worst *compare.Layer
		for i := range r.Layers {
			if r.Layers[i].DifferenceMap != nil {
				worst = &r.Layers[i]
			}
		}
		for i := range r.Layers {
			m := *worst.DifferenceMap
			m.Blocks = nil
			for h := range worst.DifferenceMap.Blocks {
				row := make([]int64, 64)
				for k := range row {
					row[k] = int64(1000 + (h*64+k)%7000)
				}
				m.Blocks = append(m.Blocks, row)
			}
			r.Layers[i].DifferenceMap, r.Layers[i].Explanation = &m, worst.Explanation
			r.Layers[i].ActualVsEmulated = worst.ActualVsEmulated
		}
		return r
	}
	for _, tc := range []struct {
		name          string
		r             *compare.Result
		least, most   int
		blocks, heads int
	}{
		{"24 layers", demo.Result(24, 32, 1), 100e3, 400e3, 64, 32},
		{"100 layers", demo.Result(100, 32, 1), 400e3, 1e6, 64, 32},
		{"100 layers that all differ", all(demo.Result(100, 32, 1)), 1e6, 2e6, 64, 32},
		{"100 layers of 64 heads that all differ", all(demo.Result(100, 64, 1)), 1e6, 2e6, 32, 64},
		{"2000 layers that all differ", all(demo.Result(2000, 16, 1)), 5e6, 12e6, 8, 16},
	} {
		page := write(t, results(tc.r))
		if n := len(page); n < tc.least || n > tc.most {
			t.Errorf("the page of %s has %d bytes", tc.name, n)
		}
		_, d := embedded(t, page)
		var m *place
		for i := range d {
			if d[i][0].Map != nil {
				m = d[i][0].Map
			}
		}
		if len(m.Blocks) != tc.heads || len(m.Blocks[0]) != tc.blocks || m.Tokens*int64(tc.blocks) != 4096 {
			t.Errorf("%s: a map of %d x %d blocks of %d tokens", tc.name, len(m.Blocks), len(m.Blocks[0]), m.Tokens)
		}
	}
}

// TestCoarser: blocks that are put together keep their counts.
func TestCoarser(t *testing.T) {
	l := demo.Result(8, 4, 1).Layers[3]
	sum := func(rows [][]int64) (n int64) {
		for _, r := range rows {
			for _, x := range r {
				n += x
			}
		}
		return n
	}
	l.DifferenceMap.Blocks[1] = l.DifferenceMap.Blocks[1][:61] // ragged, odd
	fine, coarse := placeOf(&l, 1<<20), placeOf(&l, 40)
	if fine.Tokens != 64 || coarse.Tokens != 512 || len(coarse.Blocks[0]) != 8 || sum(fine.Blocks) != sum(coarse.Blocks) || sum(fine.Blocks) != sum(l.DifferenceMap.Blocks) {
		t.Errorf("%d tokens with %d differing, then %d with %d", fine.Tokens, sum(fine.Blocks), coarse.Tokens, sum(coarse.Blocks))
	}
}

// TestOver lays two results over each other.
func TestOver(t *testing.T) {
	a, b := demo.Result(10, 4, 1), demo.Result(10, 4, 1)
	b.Kernel.PVAccum = "fp32"
	b.Layers[2].EmulatedVsReference.RelL1 *= 3
	b.Layers[4].EmulatedVsReference.RelL1 /= 2
	b.Layers[5].ActualVsReference.RelL1 = jsonfloat.Float(math.NaN())
	a.Layers[8].Name, b.Layers[9].Name = "only a", "only b"
	page := write(t, &Input{Results: []*compare.Result{a, b}, Names: []string{"old.json", "new.json"}})
	root := parse(t, page)
	verdict := root.id("verdict").allText() + root.id("numbers").allText()
	for _, want := range []string{
		"From A to B: Worse: blocks.5.attn: the actual output, or a figure of it, became NaN or infinite. look at blocks.5.attn",
		"From A to B: Worse: blocks.2.attn: the emulated error grew by 200.00% (rel_l1). look at blocks.2.attn",
		"From A to B: Layers: 2 vanished (only a, blocks.9.attn), 2 appeared (blocks.8.attn, only b).",
		"From A to B changed: pv_accum: fp32+fp32 -> fp32.",
		"the relative L1 error of the emulated kernel grew by more than 1% in 1 of 8 layers, fell in 1 and stayed in 6. It fell most, -50.0%, in blocks.4.attn. It grew most, +200.0%, in blocks.2.attn",
		"the relative L1 error of the actual output grew by more than 1% in 1 of 8 layers",
		"A by itself: Not finite: blocks.6.attn",
		"A, sage2-8b-sm90 on sm_90: on average over 10 layers",
	} {
		if got := strings.Join(strings.Fields(verdict), " "); !strings.Contains(got, want) {
			t.Errorf("the verdict does not say %q: %s", want, got)
		}
	}
	c, d := embedded(t, page)
	if len(c.Layers) != 12 || !slices.Equal(c.Runs, []string{"A: old.json", "B: new.json"}) {
		t.Fatalf("%d layers of %q", len(c.Layers), c.Runs)
	}
	for i, want := range map[int][2]bool{0: {true, true}, 8: {true, false}, 9: {true, false}, 10: {false, true}, 11: {false, true}} {
		for k := range want {
			if (c.Layers[i].Runs[k] != nil) != want[k] || (d[i][k] != nil) != want[k] {
				t.Errorf("layer %d, %q, of result %d: %v", i, c.Layers[i].Name, k, c.Layers[i].Runs[k])
			}
		}
	}
	if n := len(root.id("layers").all("tbody")[0].all("tr")); n != 12 {
		t.Errorf("%d rows", n)
	}
	// A result over itself has not changed.
	if v := parse(t, write(t, results(a, a))).id("verdict").all("li")[0]; v.attr["class"] != "good" || !strings.Contains(v.allText(), "All fine: of 10 layers in both results") {
		t.Errorf("a result over itself: %s", v.allText())
	}
	// One layer in many results.
	one := demo.Result(1, 4, 1)
	if c, d := embedded(t, write(t, results(one, one, one))); len(c.Layers) != 1 || len(c.Layers[0].Runs) != 3 || len(d[0]) != 3 {
		t.Errorf("%d layers", len(c.Layers))
	}
}

// TestSet: the results of several kernels are laid over each other.
func TestSet(t *testing.T) {
	a, b := demo.Result(5, 4, 1), demo.Result(5, 4, 1)
	b.Kernel.Name = "sage2-4b"
	set := compare.Set{Schema: compare.SetSchema, Args: []string{"sageacc", "compare", "d"}, Verdict: compare.Judge([]*compare.Result{a, b}, nil), Results: []*compare.Result{a, b}}
	js, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "set.json")
	if err := os.WriteFile(path, js, 0o644); err != nil {
		t.Fatal(err)
	}
	in, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	page := write(t, in)
	root := parse(t, page)
	if c, _ := embedded(t, page); !slices.Equal(c.Runs, []string{"A: sage2-8b-sm90", "B: sage2-4b"}) {
		t.Errorf("runs %q", c.Runs)
	}
	v := root.id("verdict").all("li")
	if s := v[0].allText(); !strings.Contains(s, "Not finite: blocks.3.attn") || v[0].all("a")[0].attr["href"] != "#layer-4" {
		t.Errorf("verdict %s", s)
	}
	if in, err = Open(path, path, path); err != nil || len(in.Results) != 6 || in.Names[5] != path+": sage2-4b" {
		t.Errorf("%v, %v", in, err)
	}
	if _, err := Open(path, path, path, path, path); err == nil || err.Error() != "10 results: at most 8 can be laid over each other" {
		t.Errorf("error %v", err)
	}
}

func TestRelative(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	for _, tc := range []struct {
		a, b, want float64
		text       string
	}{
		{1, 1, 0, "+0.0%"}, {2, 1, -0.5, "-50.0%"}, {1, 20, 19, "20.0 times"}, {0, 0, 0, "+0.0%"}, {0, 1, inf, "from zero or to infinity or NaN"},
		{1, nan, inf, "from zero or to infinity or NaN"}, {nan, nan, 0, "+0.0%"}, {nan, inf, 0, "+0.0%"}, {nan, 1, -1, "-100.0%"},
	} {
		if got := relative(tc.a, tc.b); got != tc.want || growth(got) != tc.text {
			t.Errorf("from %g to %g is %g, %q", tc.a, tc.b, got, growth(got))
		}
	}
}

// TestOrder: the worst layer is the first, whatever its number.
func TestOrder(t *testing.T) {
	r := demo.Result(30, 4, 1)
	rows := parse(t, write(t, results(r))).id("layers").all("tbody")[0].all("tr")
	rank := map[string]int{"not finite": 0, "differs": 1, "warning": 2, "bit-exact": 2, "no actual output": 2}
	last, lastErr := -1, math.Inf(1)
	for _, row := range rows {
		cells := row.all("td")
		err, e := strconv.ParseFloat(cells[9].text, 64)
		if e != nil {
			t.Fatal(e)
		}
		if k := rank[cells[2].text]; k < last {
			t.Errorf("%s comes after a lesser state", row.allText())
		} else if k > last {
			last, lastErr = k, math.Inf(1)
		}
		if err > lastErr {
			t.Errorf("%s comes after a smaller error", row.allText())
		}
		lastErr = err
	}
	if rows[0].attr["id"] != "layer-21" {
		t.Errorf("the first row is %s", rows[0].allText())
	}
}

func TestAxis(t *testing.T) {
	for _, tc := range []struct {
		names  []string
		axis   string
		labels string
	}{
		{[]string{"l"}, "layer, numbered as in the table", "1"},
		{[]string{"l.10", "l.11"}, "layer: l.*", "10 11"},
		{[]string{"b.0.attn", "b.12.attn"}, "layer: b.*.attn", "0 12"},
		{[]string{"l1", "l12"}, "layer: l*", "1 12"},
		{[]string{"a.x", "b.x"}, "layer: *.x", "a b"},
		{[]string{"encoder.self", "decoder.cross"}, "layer, numbered as in the table", "1 2"},
		{[]string{"x", "x.1"}, "layer, numbered as in the table", "1 2"},
		{[]string{"", "y"}, "layer, numbered as in the table", "1 2"},
	} {
		axis, labels := axisOf(tc.names)
		if axis != tc.axis || strings.Join(labels, " ") != tc.labels {
			t.Errorf("%q: %q, %q", tc.names, axis, labels)
		}
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
	if len(charts) != 3 || len(charts[0].all("path")) != 3 || len(charts[2].all("path")) != 2 || charts[2].count("path", "bad") != 1 {
		t.Errorf("%d bars", len(charts))
	}
	first := root.id("table-1").all("table")[0]
	if s := first.allText(); !strings.Contains(s, "80.04%") || !strings.Contains(s, "0.3906") || !strings.Contains(s, "70.00%") || !strings.Contains(s, "4.83%") {
		t.Errorf("the first table is %s", s)
	}
	for _, row := range first.all("tr") {
		if n := len(row.nodes); n != 14 {
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
		`{"schema":"x/v1"}`:               `schema is "x/v1", want "sageacc/compare/v1", "sageacc/compare-set/v1" or "sageacc/table/v1"`,
		`{"schema":"sageacc/compare/v1"}`: "no layers",
		`{"schema":"sageacc/compare-set/v1","results":[]}`:                                "the set has no results",
		`{"schema":"sageacc/compare-set/v1","results":7}`:                                 "not a result",
		`{"schema":"sageacc/compare-set/v1","results":[{"schema":"sageacc/compare/v1"}]}`: "result 1 of the set: the result has no layers",
		`{"schema":"sageacc/compare-set/v1","results":[{},{},{},{},{},{},{},{},{}]}`:      "9 results: at most 8",
		`{"schema":"sageacc/compare/v1","layers":[{"name":"l"}]}`:                         `layer "l" has no figures`,
		`{"schema":"sageacc/compare/v1","layers":7}`:                                      "not a result",
		layer(`,"actual_vs_reference":{}`):                                                "only one of",
		layer(`,"shape":{"heads":-1}`):                                                    "negative size",
		layer(`,"error_histogram":{"counts":[-1]}`):                                       "error histogram",
		layer(`,"error_histogram":{"min_exponent":99999}`):                                "error histogram",
		layer(`,"difference_map":{"block_tokens":0}`):                                     "difference map",
		layer(`,"difference_map":{"block_tokens":64,"blocks":[[1],[-2]]}`):                "difference map",
		`{"schema":"sageacc/compare/v1","layers":[` + l("a") + `,` + l("a") + `]}`:        "twice",
		string(good) + "{}":                                     "not a result",
		`{"schema":"sageacc/table/v1"}`:                         "no tables",
		`{"schema":"sageacc/table/v1","tables":[{"name":"t"}]}`: `table "t" has no methods`,
		`{"schema":"sageacc/table/v1","tables":3}`:              "not a result",
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

// TestStyle: the colours can be told from what they lie on, in light and in dark: WCAG
// 2.1 asks for a contrast of 4.5 for text and 3 for graphics.
func TestStyle(t *testing.T) {
	css := string(common().Style)
	if regexp.MustCompile(`(?i)url\(|@import|https?:`).MatchString(css) {
		t.Error("the style sheet loads something")
	}
	// What the device chooses and what the reader does are the same colours.
	device := regexp.MustCompile(`(?s):root:not\(\[data-theme="light"\]\) \{(.*?)\}`).FindStringSubmatch(css)
	reader := regexp.MustCompile(`(?s):root\[data-theme="dark"\] \{\s*color-scheme: dark;(.*?)\}`).FindStringSubmatch(css)
	light := regexp.MustCompile(`(?s):root \{(.*?)\}`).FindStringSubmatch(css)
	if device == nil || reader == nil || light == nil || strings.Join(strings.Fields(device[1]), " ") != strings.Join(strings.Fields(reader[1]), " ") {
		t.Fatal("there are not two dark themes that are the same")
	}
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
	for mode, v := range map[string]map[string][3]float64{"light": vars(light[1]), "dark": vars(device[1])} {
		for _, tc := range []struct {
			colour, on string
			want       float64
		}{
			{"ink", "card", 4.5}, {"ink", "page", 4.5}, {"ink", "code", 4.5}, {"muted", "card", 4.5}, {"muted", "page", 4.5}, {"link", "page", 4.5}, {"link", "card", 4.5},
			{"bad", "card", 4.5}, {"warn", "card", 4.5}, {"warn", "page", 4.5}, {"good", "card", 4.5}, {"s1", "card", 3}, {"s2", "card", 3}, {"s1", "h0", 3},
		} {
			a, ok := v[tc.colour]
			b, ok2 := v[tc.on]
			if got := contrast(a, b); !ok || !ok2 || got < tc.want {
				t.Errorf("%s: the contrast of %s on %s is %.2f, want %.1f", mode, tc.colour, tc.on, got, tc.want)
			}
		}
		// A map's classes go one way, and each differs from the one before.
		for _, way := range [][]string{{"h0", "h1", "h2", "h3", "h4", "h5", "h6", "h7"}, {"c0", "w1", "w2", "w3"}, {"c0", "g1", "g2", "g3"}} {
			for i := range way[1:] {
				a, b := v[way[i]], v[way[i+1]]
				if (mode == "light") != (luminance(a) > luminance(b)) || contrast(a, b) < 1.1 {
					t.Errorf("%s: %s and %s do not differ as they should", mode, way[i], way[i+1])
				}
			}
		}
		for _, class := range []string{"w3", "g3", "h7", "bad"} {
			if contrast(v[class], v["h0"]) < 3 {
				t.Errorf("%s: %s hardly stands out", mode, class)
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
	for in, want := range map[string]string{"": "", "that is x": "That is x.", "so:": "So:", "élan": "Élan.", "\x1bb": `\x1bb.`} {
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
	f.Add([]byte(`{"schema":"sageacc/compare-set/v1","verdict":{"status":"differs","lines":["differs in bits: b: \u202e"],"findings":[{"kind":"differs","layer":"b","place":{}},{"kind":"<x>"}]},"results":[
		{"schema":"sageacc/compare/v1","verdict":{"status":"ok","findings":[{"kind":"beyond-bound","layer":"b"}]},"layers":[{"name":"b","emulated_vs_reference":{},"differing":{},"spoiled":{"most":[]}}]},
		{"schema":"sageacc/compare/v1","verdict":{"lines":["x"]},"layers":[{"name":"c","emulated_vs_reference":{"rel_l1":"NaN"}}]}]}`))
	f.Add([]byte(`{"schema":"sageacc/table/v1","layers":["\u202e"],"tables":[{"rows":[{"method":"\n","average":{"rel_l1":"-Inf"},"paper":{"average":{"rel_l1":1e308}}},{"method":"字","average":{"rel_l1":1e-308}}]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		in, err := Read(bytes.NewReader(data))
		if err != nil {
			return
		}
		page := write(t, in)
		root := parse(t, page)
		if in.Tables != nil {
			return
		}
		names := map[string]bool{}
		for _, r := range in.Results {
			for _, l := range r.Layers {
				names[l.Name] = true
			}
		}
		if len(root.id("layers").all("tbody")[0].all("tr")) != len(names) {
			t.Error("a layer is missing")
		}
		embedded(t, page)
		parse(t, write(t, results(in.Results[0], in.Results[0])))
	})
}

// FuzzWrite makes pages of results with any name and any figures.
func FuzzWrite(f *testing.F) {
	f.Add("l", 0.1, 1e-3, 64, int64(5), []byte{0, 1, 200})
	f.Add(hostile, math.NaN(), math.Inf(1), math.MinInt/2, int64(1)<<62, []byte{255})
	f.Add("", 5e-324, 1.7e308, math.MaxInt/2, int64(0), []byte{})
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
		page := write(t, in)
		parse(t, page)
		if c, _ := embedded(t, page); len(c.Layers) != 4 {
			t.Errorf("%d layers", len(c.Layers))
		}
		tab := &tables.Result{Schema: tables.Schema, Tables: []tables.Table{{Title: name, Rows: []tables.Row{
			{Method: name, Average: v(x), Worst: v(y)}, {Method: name, Average: v(y), Paper: &tables.Figures{Average: tables.Triple{RelL1: y, CosSim: x}}},
		}}}}
		parse(t, write(t, &Input{Tables: tab}))
	})
}

// TestLSE: where the log-sum-exp was compared its figures are there.
func TestLSE(t *testing.T) {
	r := sample(t)
	if _, d := embedded(t, write(t, results(r))); d[1][0].LSE != nil {
		t.Error("there are figures of a log-sum-exp that was not compared")
	}
	v := metrics.Values{RelL1: 0.125, RMSE: 0.25}
	r.Layers[1].LSE = &compare.Rows{EmulatedVsReference: v, ActualVsReference: &v, ActualVsEmulated: &compare.BitValues{Bits: metrics.Bits{Elements: 77, Mismatched: 3}}}
	_, d := embedded(t, write(t, results(r)))
	if l := d[1][0].LSE; l == nil || l.Emulated[1] != 0.125 || l.Actual[2] != 0.25 || l.Bits[0] != 3 || l.Bits[1] != 77 {
		t.Errorf("%+v", l)
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
