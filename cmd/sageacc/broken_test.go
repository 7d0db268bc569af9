package main

import (
	"encoding/binary"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/compare/diff"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/layerdumps/safetensors"
	"github.com/sageacc/sageacc/reference"
)

// actualOf is the sample's layer with an output of a GPU: two heads of 1024 tokens of
// 64 channels, FP16.
func actualOf(t testing.TB) []uint16 {
	t.Helper()
	d, err := layerdumps.Open([]string{sample}, layerdumps.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	b := d.Layers[0].O.Bytes()
	o := make([]uint16, len(b)/2)
	for i := range o {
		o[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return o
}

const (
	brokenHeads, brokenTokens, brokenDim = 2, 1024, 64
	brokenHead                           = brokenTokens * brokenDim
)

// at is an element's index.
func at(head, token, channel int) int { return (head*brokenTokens+token)*brokenDim + channel }

// brokenOutputs are what a GPU may return in place of the right output, and what the
// verdict on it begins with.
var brokenOutputs = []struct {
	name    string
	spoil   func(t testing.TB, o []uint16) []uint16
	verdict string
	// hidden is how well it hides: 0 not at all, 1 in the figures of a whole layer
	// against the reference, 2 in those against the emulated output too, of which only
	// the bits show it.
	hidden int
}{
	{"NaN", func(_ testing.TB, o []uint16) []uint16 {
		for i := range o {
			o[i] = 0x7fff
		}
		return o
	}, "not finite: layers.0.attn: 131072 of 131072 elements of the actual output are NaN or infinite where the emulated one is finite, in all 2 heads alike, from the first token to the last", 0},
	{"one NaN", func(_ testing.TB, o []uint16) []uint16 {
		o[at(1, 700, 3)] = 0x7e00
		return o
	}, "not finite: layers.0.attn: 1 of 131072 elements (0.000763%) of the actual output are NaN or infinite where the emulated one is finite, in head 1 of 2, token 700 (query tile 10)", 0},
	{"one infinity", func(_ testing.TB, o []uint16) []uint16 {
		o[at(0, 64, 0)] = 0xfc00
		return o
	}, "not finite: layers.0.attn: 1 of 131072 elements (0.000763%) of the actual output are NaN or infinite where the emulated one is finite, in head 0 of 2, token 64 (query tile 1)", 0},
	{"noise", func(_ testing.TB, o []uint16) []uint16 {
		r := rand.New(rand.NewPCG(1, 2))
		for i := range o {
			o[i] = uint16(r.IntN(0x3c00)) | uint16(r.IntN(2))<<15
		}
		return o
	}, "not this kernel: layers.0.attn: 131", 0},
	{"zeros", func(_ testing.TB, o []uint16) []uint16 {
		clear(o)
		return o
	}, "not this kernel: layers.0.attn: 131071 of 131072 elements (over 99.9%) differ from the emulated ones, all of the actual output is zero", 0},
	{"transposed", func(_ testing.TB, o []uint16) []uint16 {
		out := make([]uint16, len(o))
		for h := range brokenHeads {
			for n := range brokenTokens {
				for c := range brokenDim {
					out[h*brokenHead+c*brokenTokens+n] = o[at(h, n, c)]
				}
			}
		}
		return out
	}, "not this kernel: layers.0.attn: 13", 0},
	{"shifted by a token", func(_ testing.TB, o []uint16) []uint16 {
		return append(slices.Clone(o[brokenDim:]), o[:brokenDim]...)
	}, "not this kernel: layers.0.attn: 13", 0},
	{"another layer's", func(t testing.TB, o []uint16) []uint16 {
		d, err := layerdumps.Open([]string{sample}, layerdumps.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		l := &d.Layers[1]
		q, k, v := make([]float32, brokenHead), make([]float32, brokenHead), make([]float32, brokenHead)
		out := make([]float64, brokenHead)
		for h := range brokenHeads {
			l.Q.Rows(0, h, 0, brokenTokens, q)
			l.K.Rows(0, h, 0, brokenTokens, k)
			l.V.Rows(0, h, 0, brokenTokens, v)
			p := reference.Params{Causal: l.Causal, Scale: l.Scale()}
			if err := reference.Attention(t.Context(), p, q, k, v, 0, brokenTokens, brokenTokens, brokenDim, nil, out, nil); err != nil {
				t.Fatal(err)
			}
			for i, x := range out {
				o[h*brokenHead+i] = uint16(format.FP16.Bits(float32(x)))
			}
		}
		return o
	}, "not this kernel: layers.0.attn: 131", 0},
	{"the right values in another head", func(_ testing.TB, o []uint16) []uint16 {
		return append(slices.Clone(o[brokenHead:]), o[:brokenHead]...)
	}, "not this kernel: layers.0.attn: 13", 0},
	{"one head's in both", func(_ testing.TB, o []uint16) []uint16 {
		copy(o[brokenHead:], o[:brokenHead])
		return o
	}, "differs in bits: layers.0.attn: 65", 0},
	{"one bit", func(_ testing.TB, o []uint16) []uint16 {
		o[at(1, 1023, 63)] ^= 1
		return o
	}, "differs in bits: layers.0.attn: 1 of 131072 elements (0.000763%) differ from the emulated ones, in head 1 of 2, token 1023 (query tile 15), by up to 1 ulp", 1},
	{"a zero's sign", func(_ testing.TB, o []uint16) []uint16 {
		i := slices.Index(o, 0)
		if i < 0 {
			i = slices.Index(o, 0x8000)
		}
		if i < 0 {
			// The output has no zero: the smallest magnitude, then.
			for j, x := range o {
				if i < 0 || x&0x7fff < o[i]&0x7fff {
					i = j
				}
			}
		}
		o[i] ^= 0x8000
		return o
	}, "differs in bits: layers.0.attn: 1 of 131072 elements", 2},
}

// brokenGates are the checks that no broken output may pass. Those that look at the
// figures of a whole layer are not for outputs that are nearly right.
var brokenGates = []struct {
	args []string
	// blind is from how well hidden an output on the gate cannot see it.
	blind int
}{
	{[]string{"--expect-bit-exact"}, 3},
	{[]string{"--fail-if", "bits.mismatched>0"}, 3},
	{[]string{"--fail-if", "bits.share>0"}, 3},
	{[]string{"--fail-if", "bits.cos<1"}, 2},
	{[]string{"--fail-if", "bits.max_abs>0"}, 2},
	{[]string{"--fail-if", "bits.max_ulp>2"}, 1},
	{[]string{"--fail-if", "cos<0.99"}, 1},
	{[]string{"--fail-if", "actual.cos<0.99"}, 1},
	{[]string{"--fail-if", "actual.rel_l1>0.1"}, 1},
	{[]string{"--fail-if", "rel_l1>0.1"}, 1},
	{[]string{"--fail-if", "actual.rmse>0.01"}, 1},
	{[]string{"--fail-if", "actual.max_abs>0.1"}, 1},
	{[]string{"--fail-if", "bits.cos<0.999"}, 1},
	{[]string{"--fail-if", "bits.rel_l1>0.001"}, 1},
	{[]string{"--kernel", "sage2-8b-sm90,sage2-8b-sm89", "--fail-if", "cos<0.99"}, 1},
}

// spoilt writes the sample's first layer with another output.
func spoilt(t testing.TB, o []uint16) string {
	t.Helper()
	data := make([]byte, 2*len(o))
	for i, x := range o {
		binary.LittleEndian.PutUint16(data[2*i:], x)
	}
	return write(t, map[string]string{"layout": "HND"}, safetensors.Tensor{Name: "layers.0.attn.o", DType: "F16", Shape: []int{1, brokenHeads, brokenTokens, brokenDim}, Data: data})
}

// TestBrokenOutputs holds every gate to every broken output: none passes, neither with
// the gate alone nor beside --allow-nonfinite, and the right output passes them all.
func TestBrokenOutputs(t *testing.T) {
	result := func(o []uint16) *compare.Result {
		code, out, errs := sage(t, "compare", sample, "--layers", `layers\.0`, "--actual", spoilt(t, o), "--allow-nonfinite", "--format", "json")
		if code != exitOK {
			t.Fatalf("exit %d, %s", code, errs)
		}
		r := new(compare.Result)
		if err := json.Unmarshal([]byte(out), r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	gatesOf := func(args []string) *compare.Gates {
		var f gateFlags
		for i, a := range args {
			switch a {
			case "--expect-bit-exact":
				f.BitExact = true
			case "--fail-if":
				f.FailIf = append(f.FailIf, args[i+1])
			}
		}
		g, err := f.parse()
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	failed := func(r *compare.Result, g *compare.Gates) bool {
		return slices.ContainsFunc(r.Check(*g), func(c compare.Check) bool { return c.Status == compare.Failed })
	}
	right := result(actualOf(t))
	for _, g := range brokenGates {
		if failed(right, gatesOf(g.args)) {
			t.Errorf("the right output fails %q", g.args)
		}
	}
	for _, b := range brokenOutputs {
		t.Run(b.name, func(t *testing.T) {
			r := result(b.spoil(t, actualOf(t)))
			if got := r.Verdict.Lines[0]; !strings.HasPrefix(got, b.verdict) {
				t.Errorf("the verdict is %q, want %q", got, b.verdict)
			}
			for _, g := range brokenGates {
				if b.hidden >= g.blind {
					continue
				}
				for _, allow := range []bool{false, true} {
					gates := gatesOf(g.args)
					gates.AllowNonFinite = allow
					if !failed(r, gates) {
						t.Errorf("passes %q (--allow-nonfinite: %t)", g.args, allow)
					}
				}
			}
			// The right output was there before.
			for _, bound := range []*float64{nil, new(float64), ptr(1000.0)} {
				d := diff.Compare(right, r)
				worse := slices.ContainsFunc(d.Check(bound), func(c diff.Check) bool { return c.Failed })
				if bound != nil && !worse {
					t.Errorf("passes diff with --max-growth %g", 100**bound)
				}
				if bound == nil && strings.HasPrefix(b.verdict, "not finite") && !worse {
					t.Error("passes diff")
				}
				if d.Judge(d.Check(bound), bound).Failed != worse {
					t.Error("the verdict of diff is another")
				}
			}
			if nonFinite := strings.HasPrefix(b.verdict, "not finite"); failed(r, gatesOf(nil)) != nonFinite {
				t.Errorf("fails without a gate: %t", !nonFinite)
			}
		})
	}
}

// TestBrokenOutputsExit is TestBrokenOutputs from the outside, for a few: status 1 and
// a line that says why, in the table, the JUnit file and the summary too.
func TestBrokenOutputsExit(t *testing.T) {
	for _, b := range brokenOutputs {
		if b.name != "NaN" && b.name != "one NaN" && b.name != "zeros" && b.name != "the right values in another head" {
			continue
		}
		for _, args := range [][]string{
			{"--fail-if", "cos<0.99"},
			{"--kernel", "sage2-8b-sm90,sage2-8b-sm89", "--fail-if", "actual.cos<0.99"},
			{"--expect-bit-exact", "--allow-nonfinite", "--format", "markdown"},
			{"--fail-if", "bits.max_ulp>2", "--format", "csv"},
		} {
			dir := t.TempDir()
			junit, summary := filepath.Join(dir, "j.xml"), filepath.Join(dir, "s.md")
			path := spoilt(t, b.spoil(t, actualOf(t)))
			code, out, errs := sage(t, append([]string{"compare", sample, "--layers", `layers\.0`, "--actual", path, "--junit", junit, "--summary", summary}, args...)...)
			if code != exitCheckFailed || !strings.Contains(errs, "sageacc: check failed: layer layers.0.attn") {
				t.Errorf("%s, %q: exit %d, stderr %q", b.name, args, code, errs)
			}
			if first := strings.SplitN(out, "\n", 2)[0]; !strings.Contains(out, "actual_vs_emulated") && !strings.Contains(first, b.verdict[:14]) {
				t.Errorf("%s, %q: the first line is %q", b.name, args, first)
			}
			var suites struct {
				Failures int `xml:"failures,attr"`
				Suite    struct {
					Cases []struct {
						Name    string `xml:"name,attr"`
						Failure *struct {
							Message string `xml:"message,attr"`
						} `xml:"failure"`
					} `xml:"testcase"`
				} `xml:"testsuite"`
			}
			if err := xml.Unmarshal([]byte(read(t, junit)), &suites); err != nil || suites.Failures == 0 {
				t.Errorf("%s, %q: JUnit: %v, %+v", b.name, args, err, suites)
			}
			n := 0
			for _, c := range suites.Suite.Cases {
				if c.Failure != nil && c.Failure.Message != "" && strings.HasPrefix(c.Name, "layers.0.attn: ") {
					n++
				}
			}
			if n != suites.Failures {
				t.Errorf("%s, %q: %d failures of %d", b.name, args, n, suites.Failures)
			}
			if s := read(t, summary); !strings.HasPrefix(s, "### sageacc compare: failed\n\n- "+b.verdict[:14]) || !strings.Contains(s, "| layers.0.attn |") {
				t.Errorf("%s, %q: summary:\n%s", b.name, args, s)
			}
		}
	}
}

func ptr[T any](x T) *T { return &x }

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestLayoutGuard: a dump in a layout that nobody named is refused, but by inspect,
// which says what is odd about it.
func TestLayoutGuard(t *testing.T) {
	swapped := func(names ...string) []safetensors.Tensor {
		var ts []safetensors.Tensor
		for _, n := range names {
			ts = append(ts, tensor(n, 1, 20, 2, 8))
		}
		return ts
	}
	path := write(t, nil, swapped("l.q", "l.k", "l.v", "m.q", "m.k", "m.v")...)
	want := "dump.safetensors: layer l: read as [batch, heads, tokens, head_dim] \"l.k\" has 20 heads of 2 tokens, which is likely [batch, tokens, heads, head_dim] (and so it is with 1 more): say which with --layout nhd or --layout hnd, or metadata layout\n"
	for _, args := range [][]string{{"compare", path}, {"recommend", "--require", "cos>0.9", path}, {"trace", "--layer", "l", path}, {"table", "smooth-v", path}} {
		if code, out, errs := sage(t, args...); code != exitCannotRun || out != "" || !strings.HasSuffix(errs, want) {
			t.Errorf("%q: exit %d, stderr %q", args, code, errs)
		}
		for _, layout := range []string{"nhd", "hnd"} {
			if code, _, errs := sage(t, append(slices.Clone(args), "--layout", layout)...); code != exitOK {
				t.Errorf("%q --layout %s: exit %d, stderr %q", args, layout, code, errs)
			}
		}
	}
	if code, out, errs := sage(t, "inspect", path); code != exitOK || errs != "" || strings.Count(out, "  ! layout: read as [batch, heads, tokens, head_dim]") != 2 {
		t.Errorf("inspect: exit %d, %s%s", code, out, errs)
	}
	labelled := write(t, map[string]string{"tensor_layout": "NHD"}, swapped("l.q", "l.k", "l.v")...)
	if code, out, errs := sage(t, "compare", labelled); code != exitOK || errs != "" || !strings.Contains(out, "1x2x20x8") {
		t.Errorf("labelled: exit %d, %s%s", code, out, errs)
	}
}

// TestNamesFlag: other names by pattern, and a note on what belongs to no layer.
func TestNamesFlag(t *testing.T) {
	path := write(t, nil, tensor("blk/query", 1, 2, 20, 8), tensor("blk/key", 1, 2, 20, 8), tensor("blk.v", 1, 2, 20, 8), tensor("mask", 1), tensor("rope\x1b", 1))
	code, out, errs := sage(t, "compare", path, "--names", "q={layer}/query,k={layer}/key")
	if code != exitOK || !strings.Contains(out, "\nblk    1x2x20x8") || errs != "sageacc: note: 2 tensors belong to no layer: mask, rope\\x1b (see sageacc inspect and --names)\n" {
		t.Errorf("exit %d, stderr %q, stdout:\n%s", code, errs, out)
	}
	code, _, errs = sage(t, "compare", path)
	if want := `layer "blk" has v but no q, k; there is "blk/query", "blk/key" (--names says how they are called)`; code != exitCannotRun || !strings.Contains(errs, want) {
		t.Errorf("exit %d, stderr %q", code, errs)
	}
	if code, _, errs := sage(t, "compare", path, "--names", "query=x"); code != exitCannotRun || !strings.Contains(errs, `--names: "query=x": unknown role "query"`) {
		t.Errorf("exit %d, stderr %q", code, errs)
	}
	if code, _, errs := sage(t, "compare", write(t, map[string]string{"scale": "1"}, layer(1, 2, 20, 8)...)); code != exitCannotRun || !strings.Contains(errs, `metadata: unknown name "scale" ("1"): if that is sm_scale, call it so, or give --sm-scale`) {
		t.Errorf("exit %d, stderr %q", code, errs)
	}
}

// TestGatesNeedActual: a check that has nothing to look at does not pass.
func TestGatesNeedActual(t *testing.T) {
	good := write(t, nil, layer(1, 2, 20, 8)...)
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--fail-if", "actual.cos<0.9"}, exitCannotRun, "--fail-if actual.cos_sim<0.9: no layer has an actual output"},
		{[]string{"--fail-if", "bits.mismatched>5"}, exitCannotRun, "--fail-if bits.mismatched>5: no layer has an actual output"},
		{[]string{"--expect-bit-exact"}, exitCannotRun, "--expect-bit-exact: no layer has an actual output"},
		{[]string{"--require-actual"}, exitCheckFailed, "layer l: no actual output (--require-actual)"},
		{[]string{"--fail-if", "cos<0.9"}, exitOK, ""},
	} {
		code, _, errs := sage(t, append([]string{"compare", good}, tc.args...)...)
		if code != tc.code || !strings.Contains(errs, tc.want) || tc.want == "" && errs != "" {
			t.Errorf("%q: exit %d, stderr %q", tc.args, code, errs)
		}
	}
	// Of two layers one has an output.
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--require-actual"}, exitCheckFailed, "layer layers.3.attn: no actual output"},
		{[]string{"--expect-bit-exact"}, exitOK, "checked 1 of 2 layers, 1 of them bit-exact"},
		{[]string{"--fail-if", "actual.cos<0.99"}, exitOK, ""},
		// The emulated row of the layer without an output counts.
		{[]string{"--fail-if", "rmse>0.01"}, exitCheckFailed, "layer layers.3.attn: emulated.rmse is 0.0107"},
		{[]string{"--fail-if", "actual.rmse>0.01"}, exitOK, ""},
	} {
		code, _, errs := sage(t, append([]string{"compare", sample}, tc.args...)...)
		if code != tc.code || !strings.Contains(errs, tc.want) {
			t.Errorf("%q: exit %d, stderr %q", tc.args, code, errs)
		}
	}
}

// TestManyFailures: thousands of failed checks do not make thousands of lines.
func TestManyFailures(t *testing.T) {
	var ts []safetensors.Tensor
	for i := range 50 {
		for _, role := range []string{"q", "k", "v"} {
			ts = append(ts, tensor(fmt.Sprintf("layers.%d.%s", i, role), 1, 1, 8, 8))
		}
	}
	path := write(t, nil, ts...)
	code, out, errs := sage(t, "compare", path, "--fail-if", "cos<2")
	if code != exitCheckFailed || strings.Count(errs, "\n") != 21 || !strings.Contains(errs, "sageacc: and 30 more checks failed\n") {
		t.Errorf("exit %d, stderr %q", code, errs)
	}
	if n := strings.Count(out, "\n"); n > 45 || !strings.Contains(out, "\n… 26 more (--top 0 shows all)\n") || !strings.HasPrefix(out, "verdict    beyond a bound: layers.0: emulated.cos_sim is ") || !strings.Contains(out, ", and 49 more layers\n") {
		t.Errorf("%d lines:\n%s", n, out)
	}
	for _, tc := range []struct {
		args  []string
		first string
		rows  int
	}{
		{[]string{"--top", "0"}, "layers.0 ", 50},
		{[]string{"--top", "3", "--sort", "emulated.rel_l1"}, "layers.0 ", 3},
		{[]string{"--only-failing"}, "", 0},
		{[]string{"--only-failing", "--fail-if", "cos<2", "--top", "0"}, "layers.0 ", 50},
		{[]string{"--format", "csv", "--top", "2"}, "sage2-8b-sm90,", 2},
		{[]string{"--format", "csv"}, "sage2-8b-sm90,", 50},
	} {
		_, out, errs := sage(t, append([]string{"compare", path}, tc.args...)...)
		n := 0
		for l := range strings.Lines(out) {
			if strings.HasPrefix(l, "layers.") || strings.HasPrefix(l, "sage2") {
				n++
			}
		}
		if n != tc.rows || !strings.Contains(out, tc.first) {
			t.Errorf("%q: %d rows, want %d, %s:\n%s", tc.args, n, tc.rows, errs, out)
		}
	}
	for _, args := range [][]string{{"--sort", "cosine"}, {"--top", "-1"}, {"--format", "json", "--top", "3"}, {"--format", "json", "--only-failing"}, {"--junit", "x", "--summary", "x"}} {
		if code, out, errs := sage(t, append([]string{"compare", path}, args...)...); code != exitCannotRun || out != "" || strings.Count(errs, "\n") != 1 {
			t.Errorf("%q: exit %d, stderr %q", args, code, errs)
		}
	}
}

// TestSort: the worst layer by the figure comes first, whatever the order of names.
func TestSort(t *testing.T) {
	for _, tc := range []struct{ figure, first string }{{"rmse", "layers.3.attn"}, {"rel_l1", "layers.0.attn"}, {"cos", "layers.0.attn"}, {"actual.cos", "layers.0.attn"}} {
		_, out, _ := sage(t, "compare", sample, "--sort", tc.figure, "--format", "csv")
		lines := strings.Split(out, "\n")
		if !strings.Contains(lines[1], tc.first) {
			t.Errorf("--sort %s: %s", tc.figure, lines[1])
		}
	}
}

// TestSeveralKernels: one table, one set, one verdict; an output is that of one kernel.
func TestSeveralKernels(t *testing.T) {
	args := []string{"compare", sample, "--kernel", "sage2-4b,sage2-8b-sm90", "--layers", `layers\.0`}
	code, out, errs := sage(t, args...)
	if code != exitOK || errs != "" || !strings.HasPrefix(out, "verdict    all fine: the layer has an actual output, bit for bit the emulated one") || strings.Count(out, "actual vs reference") != 1 || strings.Count(out, "actual vs emulated") != 2 {
		t.Errorf("exit %d, stderr %q, stdout:\n%s", code, errs, out)
	}
	code, out, errs = sage(t, append(args, "--format", "json", "--expect-bit-exact")...)
	if code != exitCheckFailed || !strings.Contains(errs, "check failed: layer layers.0.attn, sage2-4b: ") || strings.Contains(errs, "layers.0.attn, sage2-8b-sm90: ") {
		t.Errorf("exit %d, stderr %q", code, errs)
	}
	var s compare.Set
	if err := json.Unmarshal([]byte(out), &s); err != nil || s.Schema != compare.SetSchema || len(s.Results) != 2 || s.Results[0].Kernel.Name != "sage2-4b" || s.Results[1].Verdict.Status != compare.AllFine || !s.Verdict.Failed {
		t.Errorf("%v: %+v", err, s)
	}
	// Each result is the one of that kernel alone.
	_, alone, _ := sage(t, "compare", sample, "--kernel", "sage2-8b-sm90", "--layers", `layers\.0`, "--format", "json")
	var one compare.Result
	if err := json.Unmarshal([]byte(alone), &one); err != nil || math.Float64bits(float64(one.Worst.EmulatedVsReference.RMSE)) != math.Float64bits(float64(s.Results[1].Worst.EmulatedVsReference.RMSE)) {
		t.Errorf("%v: %+v", err, one.Worst)
	}
	if _, out, _ := sage(t, append(args, "--format", "csv")...); strings.Count(out, "\n") != 7 || strings.Count(out, "\nsage2-4b,") != 3 {
		t.Errorf("CSV:\n%s", out)
	}
	for _, list := range []string{"sage2-4b,sage2-4b", "sage2-4b,", "sage2-4b,nothing"} {
		if code, _, errs := sage(t, "compare", sample, "--kernel", list); code != exitCannotRun || !strings.Contains(errs, "--kernel") {
			t.Errorf("--kernel %s: exit %d, %s", list, code, errs)
		}
	}
}

// TestSummaryKeeps: what a step's summary holds already stays in front, another file is
// replaced.
func TestSummaryKeeps(t *testing.T) {
	path := filepath.Join(t.TempDir(), "summary.md")
	if err := os.WriteFile(path, []byte("before\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GITHUB_STEP_SUMMARY", path)
	dump := write(t, nil, layer(1, 2, 20, 8)...)
	if code, _, errs := sage(t, "compare", dump, "--summary", path); code != exitOK {
		t.Fatal(errs)
	}
	if s := read(t, path); !strings.HasPrefix(s, "before\n### sageacc compare: passed\n") {
		t.Errorf("%.200s", s)
	}
	t.Setenv("GITHUB_STEP_SUMMARY", "")
	if code, _, errs := sage(t, "compare", dump, "--summary", path); code != exitOK {
		t.Fatal(errs)
	}
	if s := read(t, path); !strings.HasPrefix(s, "### sageacc compare: passed\n") {
		t.Errorf("%.200s", s)
	}
	if code, _, errs := sage(t, "compare", dump, "--summary", dump); code != exitCannotRun || !strings.Contains(errs, "one of the inputs") {
		t.Errorf("exit %d, %s", code, errs)
	}
}

// TestExplainUnrelated: of an output that no hypothesis comes near, --explain says so
// and lists none.
func TestExplainUnrelated(t *testing.T) {
	d, err := layerdumps.Open([]string{sample}, layerdumps.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	const tokens = 128
	l := &d.Layers[0]
	q, k, v := make([]float32, tokens*brokenDim), make([]float32, tokens*brokenDim), make([]float32, tokens*brokenDim)
	l.Q.Rows(0, 0, 0, tokens, q)
	l.K.Rows(0, 0, 0, tokens, k)
	l.V.Rows(0, 0, 0, tokens, v)
	exact := make([]float64, tokens*brokenDim)
	if err := reference.Attention(t.Context(), reference.Params{Causal: true, Scale: l.Scale()}, q, k, v, 0, tokens, tokens, brokenDim, nil, exact, nil); err != nil {
		t.Fatal(err)
	}
	ts := func(o func(i int) uint16) []safetensors.Tensor {
		var out []safetensors.Tensor
		for _, x := range []struct {
			name string
			bits func(i int) uint16
		}{
			{"l.q", func(i int) uint16 { return uint16(format.FP16.Bits(q[i])) }},
			{"l.k", func(i int) uint16 { return uint16(format.FP16.Bits(k[i])) }},
			{"l.v", func(i int) uint16 { return uint16(format.FP16.Bits(v[i])) }},
			{"l.o", o},
		} {
			data := make([]byte, 2*tokens*brokenDim)
			for i := range tokens * brokenDim {
				binary.LittleEndian.PutUint16(data[2*i:], x.bits(i))
			}
			out = append(out, safetensors.Tensor{Name: x.name, DType: "F16", Shape: []int{1, 1, tokens, brokenDim}, Data: data})
		}
		return out
	}
	r := rand.New(rand.NewPCG(1, 2))
	for _, tc := range []struct {
		name string
		o    func(i int) uint16
		want string
	}{
		// As of a kernel that rounds elsewhere.
		{"attention", func(i int) uint16 { return uint16(format.FP16.Bits(float32(exact[i] * (1 + 0.02*r.NormFloat64())))) }, "l: yet it is much like it: the output is likely of another family of kernels"},
		{"noise", func(i int) uint16 { return uint16(r.IntN(0x3c00)) | uint16(r.IntN(2))<<15 }, "l: nor is it much like it: the output is likely not of these inputs, or in another order"},
	} {
		code, out, errs := sage(t, "compare", write(t, map[string]string{"causal": "true"}, ts(tc.o)...), "--explain", "--explain-changes", "1")
		if code != exitOK || errs != "" || !strings.Contains(out, tc.want) || !strings.Contains(out, " hypotheses comes near the actual output: even of ") || strings.Contains(out, "on some of its rows") {
			t.Errorf("%s: exit %d, stderr %q, stdout:\n%s", tc.name, code, errs, out)
		}
	}
}
