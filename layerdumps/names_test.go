package layerdumps

import (
	"archive/zip"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

// named is a complete layer of zeros whose tensors have these names, the fourth, if
// any, the output's.
func named(names ...string) []safetensors.Tensor {
	var ts []safetensors.Tensor
	for i, name := range names {
		tokens := 5
		if i == 0 || i == 3 {
			tokens = 3
		}
		ts = append(ts, zeros(name, "F16", 1, 2, tokens, 4))
	}
	return ts
}

// TestTensorNames: which names make which layers.
func TestTensorNames(t *testing.T) {
	type tensors = []safetensors.Tensor
	for _, tc := range []struct {
		name   string
		dump   tensors
		actual tensors
		names  string
		want   string // layer: names of q k v o; next layer
		ignore string
		err    string
	}{
		{name: "bare", dump: named("q", "k", "v", "o"), want: "attn: q k v o"},
		{name: "bare words", dump: named("query", "key", "value", "attn_output"), want: "attn: query key value attn_output"},
		{name: "bare, out", dump: named("q", "key", "v", "out"), want: "attn: q key v out"},
		{name: "words", dump: named("a.b.query", "a.b.key", "a.b.value", "a.b.output"), want: "a.b: a.b.query a.b.key a.b.value a.b.output"},
		{name: "mixed", dump: named("l.q", "l.k", "l.value"), want: "l: l.q l.k l.value -"},
		{name: "the short name wins", dump: append(named("l.q", "l.k", "l.v", "l.o"), named("l.query", "l.output")...), want: "l: l.q l.k l.v l.o", ignore: "l.query l.output"},
		{name: "two outputs", dump: append(named("l.q", "l.k", "l.v"), named("l.out", "l.output")...), err: `tensors "l.out" and "l.output" are both o of layer "l" (--names says which is)`},
		{name: "words that are no layer", dump: append(named("l.q", "l.k", "l.v"), named("m.output", "key", "n.value")...), want: "l: l.q l.k l.v -", ignore: "m.output key n.value"},
		{name: "words and no layer", dump: named("m.output", "key"), err: `no tensor is named <layer>.q, <layer>.k, <layer>.v or <layer>.o; there is "m.output" [1 2 3 4], "key" [1 2 5 4]; --names says how they are called`},
		{name: "a weight file", dump: tensors{zeros("bert.attention.self.query.weight", "F32", 8, 8)}, err: `there is "bert.attention.self.query.weight" [8 8]`},
		{name: "an empty file", err: "there is none at all"},
		{name: "nearly", dump: named("l0.q", "l0.keys", "l0.v"), err: `layer "l0" has q, v but no k; there is "l0.keys" (--names says how they are called)`},
		{name: "patterns", dump: named("blk0/query", "blk0/key", "blk0.v", "blk0.o"), names: "q={layer}/query,k={layer}/key", want: "blk0: blk0/query blk0/key blk0.v blk0.o"},
		{name: "patterns around", dump: named("attn_3_q_in", "attn_3_k_in", "attn_3_v_in"), names: "q=attn_{layer}_q_in, k=attn_{layer}_k_in,v=attn_{layer}_v_in", want: "3: attn_3_q_in attn_3_k_in attn_3_v_in -"},
		{name: "patterns of one layer", dump: named("Q", "K", "V", "O"), names: "q=Q,k=K,v=V,o=O", want: "attn: Q K V O"},
		{name: "a pattern takes the old name's place", dump: append(named("l.q", "l.k", "l.v"), named("l.q8")...), names: "q={layer}.q8", want: "l: l.q8 l.k l.v -", ignore: "l.q"},
		{name: "patterns that fit nothing", dump: named("l.q", "l.k", "l.v"), names: "q={layer}/a,k={layer}/b,v={layer}/c,o={layer}/d", err: "no tensor is named <layer>/a, <layer>/b, <layer>/c or <layer>/d; there is"},
		{name: "patterns that fit twice", dump: named("l.q", "l.k", "l.v"), names: "q=l{layer},k={layer}q", err: `tensor "l.q" fits the names of both q and k`},
		{name: "actual, bare", dump: named("l.q", "l.k", "l.v"), actual: tensors{named("q", "k", "v", "out")[3]}, want: "l: l.q l.k l.v out"},
		{name: "actual, bare, two layers", dump: append(named("l.q", "l.k", "l.v"), named("m.q", "m.k", "m.v")...), actual: tensors{named("q", "k", "v", "out")[3]}, err: `no tensor is named <layer>.o; there is "out" [1 2 3 4]`},
		{name: "actual, a word", dump: named("l.q", "l.k", "l.v"), actual: append(named("x.output"), named("q", "k", "v", "l.attn_output")[3]), want: "l: l.q l.k l.v l.attn_output"},
		{name: "actual of another layer", dump: named("l.q", "l.k", "l.v"), actual: named("m.o"), err: `tensor "m.o": the dump has no layer "m"; it has l`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			opt := Options{}
			if tc.names != "" {
				var err error
				if opt.Names, err = ParseNames([]string{tc.names}); err != nil {
					t.Fatal(err)
				}
			}
			if tc.actual != nil {
				opt.Actual = []string{write(t, dir, "actual.safetensors", nil, tc.actual...)}
			}
			path := write(t, dir, "dump.safetensors", nil, tc.dump...)
			if tc.err != "" {
				wantError(t, []string{path}, opt, tc.err)
				return
			}
			d := open(t, opt, path)
			var layers, ignored []string
			for _, l := range d.Layers {
				o := "-"
				if l.O != nil {
					o = l.O.Name
				}
				layers = append(layers, fmt.Sprintf("%s: %s %s %s %s", l.Name, l.Q.Name, l.K.Name, l.V.Name, o))
			}
			for _, x := range d.Ignored {
				ignored = append(ignored, x.Name)
			}
			if got := strings.Join(layers, "; "); got != tc.want {
				t.Errorf("layers %s, want %s", got, tc.want)
			}
			if got := strings.Join(ignored, " "); got != tc.ignore {
				t.Errorf("ignored %s, want %s", got, tc.ignore)
			}
		})
	}
}

// TestBareFiles: arrays in files of their own, and several files of bare names.
func TestBareFiles(t *testing.T) {
	dir := t.TempDir()
	for name, tokens := range map[string]int{"q": 2, "k": 3, "v": 3} {
		writeNPY(t, dir, name+".npy", "<f2", fmt.Sprintf("(1, 1, %d, 2)", tokens), 4*tokens)
	}
	out := writeNPY(t, t.TempDir(), "out.npy", "<f2", "(1, 1, 2, 2)", 8)
	if d := open(t, Options{Actual: []string{out}}, dir); layerNames(d) != "attn" || d.Layers[0].O == nil {
		t.Errorf("layers %s, %+v", layerNames(d), d.Layers)
	}
	two := t.TempDir()
	write(t, two, "a.safetensors", nil, named("q", "k", "v")...)
	write(t, two, "b.safetensors", nil, named("query", "key", "value")...)
	if got := layerNames(open(t, Options{}, two)); got != "a/attn b/attn" {
		t.Errorf("layers %s", got)
	}
}

// TestLSENames: a log-sum-exp has a pattern too.
func TestLSENames(t *testing.T) {
	names, err := ParseNames([]string{"lse={layer}_lse", "o={layer}_out"})
	if err != nil {
		t.Fatal(err)
	}
	path := write(t, t.TempDir(), "d.safetensors", nil, append(named("l.q", "l.k", "l.v", "l_out"), zeros("l_lse", "F32", 1, 2, 3))...)
	if l := open(t, Options{LSE: true, Names: names}, path).Layers[0]; l.LSE == nil || l.O == nil {
		t.Errorf("%+v", l)
	}
	path = write(t, t.TempDir(), "d.safetensors", nil, append(named("q", "k", "v"), zeros("lse", "F32", 1, 2, 3))...)
	if l := open(t, Options{LSE: true}, path).Layers[0]; l.LSE == nil {
		t.Errorf("%+v", l)
	}
}

func TestParseNames(t *testing.T) {
	for list, want := range map[string]string{
		"":                              "is not ROLE=PATTERN",
		"q":                             "is not ROLE=PATTERN",
		"q=":                            "is not ROLE=PATTERN",
		"query={layer}.q":               `unknown role "query"`,
		"q={layer}/{layer}":             "more than once",
		"q={layer}.a,k={layer}.b,q=c":   "q is given twice",
		"q={layer}.a,,":                 "is not ROLE=PATTERN",
		"q={layer}.a, p={layer}.b,v=x5": `unknown role "p"`,
	} {
		if n, err := ParseNames([]string{list}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, error %v, want %q", list, n, err, want)
		}
	}
}

func FuzzNames(f *testing.F) {
	f.Add("q={layer}/query,k={layer}/key", "blk.0/query")
	f.Add("q={layer}", "")
	f.Add("o=x{layer}x", "x")
	f.Fuzz(func(t *testing.T, list, name string) {
		n, err := ParseNames([]string{list})
		if err != nil {
			n = nil
		}
		p, ok, err := n.find(name)
		if ok && err == nil && (p.layer == "" || p.role > lse) {
			t.Errorf("%q of %q: %+v", name, list, p)
		}
	})
}

// TestMetadataNames: other programs' names are read, and a name that is nearly known
// is an error.
func TestMetadataNames(t *testing.T) {
	nhd, yes, scale := NHD, true, 2.0
	for _, tc := range []struct {
		metadata map[string]string
		opt      Options
		causal   bool
		scale    float64
		err      string
	}{
		{metadata: map[string]string{"format": "pt", "model": "m", "layers": "4", "device": "cuda", "sample": "1", "step": "7", "head": "3", "tokens": "4"}},
		{metadata: map[string]string{"is_causal": "True"}, causal: true},
		{metadata: map[string]string{"softmax_scale": "0.25"}, scale: 0.25},
		{metadata: map[string]string{"is_causal": "true", "causal": "TRUE"}, causal: true},
		{metadata: map[string]string{"is_causal": "true", "causal": "false"}, err: `causal is "false" and is_causal is "true"`},
		{metadata: map[string]string{"is_causal": "yes"}, err: `causal "yes" is neither true nor false`},
		{metadata: map[string]string{"scale": "0.25"}, err: `unknown name "scale" ("0.25"): if that is sm_scale, call it so, or give --sm-scale`},
		{metadata: map[string]string{"scale": "0.25"}, opt: Options{SMScale: &scale}, scale: 2},
		{metadata: map[string]string{"Scaling": "0.25"}, err: `"Scaling"`},
		{metadata: map[string]string{"smscale": "0.25"}, err: `if that is sm_scale`},
		{metadata: map[string]string{"casual": "true"}, err: `unknown name "casual" ("true"): if that is causal`},
		{metadata: map[string]string{"Causal": "true"}, err: `if that is causal, call it so, or give --causal or --causal=false`},
		{metadata: map[string]string{"Causal": "true"}, opt: Options{Causal: &yes}, causal: true},
		{metadata: map[string]string{"attn-mask": "causal"}, err: `if that is causal`},
		{metadata: map[string]string{"is-causal": "true"}, err: `if that is causal`},
		{metadata: map[string]string{"lay_out": "NHD"}, err: `if that is layout, call it so, or give --layout`},
		{metadata: map[string]string{"tensor_layout": "NHX"}, err: `layout "NHX" is neither HND nor NHD`},
	} {
		path := write(t, t.TempDir(), "d.safetensors", tc.metadata, layer("l")...)
		if tc.err != "" {
			wantError(t, []string{path}, tc.opt, "d.safetensors: metadata: ", tc.err)
			continue
		}
		if l := open(t, tc.opt, path).Layers[0]; l.Causal != tc.causal || l.SMScale != tc.scale || l.LayoutGiven {
			t.Errorf("%v: %+v", tc.metadata, l)
		}
	}
	swapped := []safetensors.Tensor{zeros("l.q", "F16", 1, 3, 2, 4), zeros("l.k", "F16", 1, 5, 2, 4), zeros("l.v", "F16", 1, 5, 2, 4)}
	for _, tc := range []struct {
		metadata map[string]string
		opt      Options
	}{{map[string]string{"layout": "NHD"}, Options{}}, {map[string]string{"tensor_layout": "nhd"}, Options{}}, {nil, Options{Layout: &nhd}}} {
		if l := open(t, tc.opt, write(t, t.TempDir(), "d.safetensors", tc.metadata, swapped...)).Layers[0]; l.Q.Tokens != 3 || !l.LayoutGiven {
			t.Errorf("%v: %+v", tc.metadata, l)
		}
	}
}

// TestReread: the same memory, in the other layout.
func TestReread(t *testing.T) {
	q := zeros("l.q", "F16", 1, 2, 3, 1)
	for i := range q.Data {
		q.Data[i] = byte(i)
	}
	k, v, o := q, q, q
	k.Name, v.Name, o.Name = "l.k", "l.v", "l.o"
	l := open(t, Options{}, write(t, t.TempDir(), "d.safetensors", nil, q, k, v, o)).Layers[0]
	r := l.Reread()
	if r == nil || r.Q.Heads != 3 || r.O.Tokens != 2 {
		t.Fatalf("%+v", r)
	}
	row, again := make([]uint32, 1), make([]uint32, 1)
	for h := range 2 {
		for n := range 3 {
			l.Q.RowsBits(0, h, n, n+1, row)
			r.Q.RowsBits(0, n, h, h+1, again)
			if row[0] != again[0] {
				t.Errorf("head %d, token %d: %#x, %#x", h, n, row[0], again[0])
			}
		}
	}
	if back := r.Reread(); back.Q.Shape() != l.Q.Shape() {
		t.Errorf("%+v", back)
	}
	// The same dimensions, the other order.
	x := l.Q.Reordered()
	x.RowsBits(0, 1, 2, 3, again)
	l.Q.RowsBits(0, 1, 2, 3, row)
	if x.Shape() != l.Q.Shape() || row[0] != 0x0b0a || again[0] != 0x0b0a {
		t.Errorf("%v, %#x, %#x", x.Shape(), row[0], again[0])
	}
	x.RowsBits(0, 1, 0, 1, again)
	if again[0] != 0x0302 {
		t.Errorf("%#x", again[0])
	}
	// Five heads of K do not divide three of Q.
	if r := open(t, Options{}, write(t, t.TempDir(), "d.safetensors", nil, layer("l")...)).Layers[0].Reread(); r != nil {
		t.Errorf("%+v", r)
	}
}

// TestHints: what is no dump says what it is.
func TestHints(t *testing.T) {
	dir := t.TempDir()
	var torch bytes.Buffer
	z := zip.NewWriter(&torch)
	if _, err := z.Create("archive/data.pkl"); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	lfs := []byte("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
	for name, tc := range map[string]struct {
		data []byte
		want string
	}{
		"a.pt":             {torch.Bytes(), "it is a file of PyTorch's (torch.save)"},
		"a.pth":            {[]byte{0x80, 2, 'x'}, "it is a Python pickle"},
		"a.bin":            {[]byte("anything"), "if torch.save wrote it"},
		"a.safetensors":    {torch.Bytes(), "save_file(torch.load(FILE)"},
		"b.safetensors":    {lfs, "Git LFS pointer"},
		"b.npz":            {lfs, "Git LFS pointer"},
		"b.npy":            {lfs, "Git LFS pointer"},
		"c.safetensors":    {npyFile("<f2", "(1,)", []byte{0, 0}), "its name has to end in .npy"},
		"d.safetensors":    {[]byte("<!DOCTYPE html><html>"), "it is a web page"},
		"m.gguf":           {[]byte("GGUF1234"), "a GGUF model"},
		"page.html":        {[]byte("<html>"), "it is a web page"},
		"notes.txt":        {[]byte("hello"), "the name ends in none of .safetensors, .npz and .npy"},
		"e.zip":            {[]byte("PK\x03\x04nothing else"), "it is a zip archive"},
		"garbage.npy":      {[]byte("bad"), "not a .npy"},
		"cut.safetensors":  {[]byte{1, 2}, "not a safetensors"},
		"empty.pt":         {nil, "if torch.save wrote it"},
		"also.safetensors": {nil, ""},
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, tc.data, 0o644); err != nil {
			t.Fatal(err)
		}
		wantError(t, []string{path}, Options{}, path+": ", tc.want)
	}
	only := t.TempDir()
	if err := os.WriteFile(filepath.Join(only, "x.pt"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	wantError(t, []string{only}, Options{}, "there is x.pt, and PyTorch can convert it")
	if !slices.Contains(extTorch, ".pt") {
		t.Error("no .pt")
	}
}
