package layerdumps

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/x448/float16"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

// zeros is a tensor of zeros.
func zeros(name, dtype string, shape ...int) safetensors.Tensor {
	size := map[string]int{"I8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E4M3FNUZ": 1, "I32": 4, "I64": 8, "F16": 2, "BF16": 2, "F32": 4, "F64": 8}[dtype]
	for _, n := range shape {
		size *= n
	}
	return safetensors.Tensor{Name: name, DType: dtype, Shape: shape, Data: make([]byte, size)}
}

// layer is a complete layer of zeros.
func layer(name string) []safetensors.Tensor {
	return []safetensors.Tensor{
		zeros(name+".q", "F16", 1, 2, 3, 4),
		zeros(name+".k", "F16", 1, 2, 5, 4),
		zeros(name+".v", "F16", 1, 2, 5, 4),
	}
}

// with replaces the tensors of the same names in ts, and appends the others.
func with(ts []safetensors.Tensor, changed ...safetensors.Tensor) []safetensors.Tensor {
	ts = slices.Clone(ts)
	for _, c := range changed {
		i := slices.IndexFunc(ts, func(t safetensors.Tensor) bool { return t.Name == c.Name })
		if i < 0 {
			ts = append(ts, c)
			continue
		}
		ts[i] = c
	}
	return ts
}

// write writes a safetensors file into dir and returns its path.
func write(t *testing.T, dir, name string, metadata map[string]string, ts ...safetensors.Tensor) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := safetensors.Write(path, metadata, ts); err != nil {
		t.Fatal(err)
	}
	return path
}

// writeNPY writes a .npy file of zeros into dir and returns its path.
func writeNPY(t *testing.T, dir, name, descr, shape string, size int) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, npyFile(descr, shape, make([]byte, size)), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// npyFile is a .npy file.
func npyFile(descr, shape string, data []byte) []byte {
	header := fmt.Sprintf("{'descr': '%s', 'fortran_order': False, 'shape': %s, }\n", descr, shape)
	b := append([]byte("\x93NUMPY\x01\x00"), byte(len(header)), 0)
	b = append(b, header...)
	return append(b, data...)
}

// open opens a dump that must be fine, and closes it with the test.
func open(t *testing.T, opt Options, paths ...string) *Dump {
	t.Helper()
	d, err := Open(paths, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func layerNames(d *Dump) string {
	var names []string
	for _, l := range d.Layers {
		names = append(names, l.Name)
	}
	return strings.Join(names, " ")
}

func TestOpenErrors(t *testing.T) {
	good := layer("l0")
	type files map[string][]safetensors.Tensor
	// Every case opens a.safetensors and, if there is one, b.safetensors; the
	// message must have all the parts in want.
	for _, tc := range []struct {
		name     string
		files    files
		metadata map[string]string
		opt      Options
		want     []string
	}{
		{name: "no layers", files: files{"a": {zeros("weight", "F16", 1)}}, want: []string{"a.safetensors: no tensor is named <layer>.q"}},
		{name: "missing k", files: files{"a": {good[0], good[2]}}, want: []string{`a.safetensors: layer "l0" has q, v but no k`}},
		{name: "missing all but o", files: files{"a": {zeros("l0.o", "F16", 1, 2, 3, 4)}}, want: []string{`a.safetensors: layer "l0" has o but no q, k, v`}},
		{name: "twice", files: files{"a": good, "b": {good[1]}}, want: []string{`b.safetensors: tensor "l0.k": `, `a.safetensors has one of that name too`}},
		{name: "I8", files: files{"a": with(good, zeros("l0.k", "I8", 1, 2, 5, 4))}, want: []string{`a.safetensors: tensor "l0.k": dtype I8 is not FP16, BF16, FP32, F8_E4M3 or F8_E5M2`}},
		{name: "F64", files: files{"a": with(good, zeros("l0.q", "F64", 1, 2, 3, 4))}, want: []string{`a.safetensors: tensor "l0.q": dtype F64 is not`}},
		{name: "dtypes differ", files: files{"a": with(good, zeros("l0.v", "BF16", 1, 2, 5, 4))}, want: []string{`a.safetensors: tensor "l0.v": dtype BF16 differs from that of "l0.q", FP16`}},
		{name: "3-D", files: files{"a": with(good, zeros("l0.q", "F16", 2, 3, 4))}, want: []string{`a.safetensors: tensor "l0.q": has 3 dimensions, [2 3 4]; want the 4 of [batch, heads, tokens, head_dim]`}},
		{name: "batch", files: files{"a": with(good, zeros("l0.k", "F16", 2, 2, 5, 4))}, want: []string{`a.safetensors: tensor "l0.k": batch 2 differs from that of "l0.q", 1`}},
		{name: "head_dim", files: files{"a": with(good, zeros("l0.v", "F16", 1, 2, 5, 8))}, want: []string{`a.safetensors: tensor "l0.v": head_dim 8 differs from that of "l0.q", 4`}},
		{name: "heads do not divide", files: files{"a": with(good, zeros("l0.q", "F16", 1, 3, 3, 4))}, want: []string{`a.safetensors: tensor "l0.k": its 2 heads do not divide the 3 of "l0.q"`}},
		{name: "more heads than q", files: files{"a": with(good, zeros("l0.k", "F16", 1, 4, 5, 4))}, want: []string{`a.safetensors: tensor "l0.k": its 4 heads do not divide the 2`}},
		{name: "k and v heads", files: files{"a": with(good, zeros("l0.v", "F16", 1, 1, 5, 4))}, want: []string{`a.safetensors: tensor "l0.v": number of heads 1 differs from that of "l0.k", 2`}},
		{name: "k and v tokens", files: files{"a": with(good, zeros("l0.v", "F16", 1, 2, 6, 4))}, want: []string{`a.safetensors: tensor "l0.v": number of tokens 6 differs from that of "l0.k", 5`}},
		{name: "zero tokens", files: files{"a": with(good, zeros("l0.q", "F16", 1, 2, 0, 4))}, want: []string{`a.safetensors: tensor "l0.q": is empty: [batch, heads, tokens, head_dim] [1 2 0 4]`}},
		{name: "zero heads", files: files{"a": with(good, zeros("l0.k", "F16", 1, 0, 5, 4))}, want: []string{`a.safetensors: tensor "l0.k": is empty`}},
		{name: "zero dim", files: files{"a": with(good, zeros("l0.v", "F16", 1, 2, 5, 0))}, want: []string{`a.safetensors: tensor "l0.v": is empty`}},
		{name: "dim over 256", files: files{"a": with(good, zeros("l0.q", "F16", 1, 2, 3, 257))}, want: []string{`a.safetensors: tensor "l0.q": head_dim is 257; the kernels support up to 256`}},
		{name: "o shape", files: files{"a": with(good, zeros("l0.o", "F16", 1, 2, 4, 4))}, want: []string{`a.safetensors: tensor "l0.o": [batch, heads, tokens, head_dim] [1 2 4 4] differs from that of "l0.q", [1 2 3 4]`}},
		{name: "o dtype", files: files{"a": with(good, zeros("l0.o", "F64", 1, 2, 3, 4))}, want: []string{`a.safetensors: tensor "l0.o": dtype F64 is not`}},
		{name: "layout", files: files{"a": good}, metadata: map[string]string{"layout": "NDH"}, want: []string{`a.safetensors: metadata: layout "NDH" is neither HND nor NHD`}},
		{name: "causal", files: files{"a": good}, metadata: map[string]string{"causal": "yes"}, want: []string{`a.safetensors: metadata: causal "yes" is neither true nor false`}},
		{name: "sm_scale text", files: files{"a": good}, metadata: map[string]string{"sm_scale": "big"}, want: []string{`a.safetensors: metadata: sm_scale "big" is not a number`}},
		{name: "sm_scale NaN", files: files{"a": good}, metadata: map[string]string{"sm_scale": "NaN"}, want: []string{`a.safetensors: metadata: sm_scale NaN is not a positive, finite number`}},
		{name: "sm_scale Inf", files: files{"a": good}, metadata: map[string]string{"sm_scale": "inf"}, want: []string{`a.safetensors: metadata: sm_scale +Inf is not`}},
		{name: "sm_scale zero", files: files{"a": good}, metadata: map[string]string{"sm_scale": "0"}, want: []string{`a.safetensors: metadata: sm_scale 0 is not`}},
		{name: "sm_scale negative", files: files{"a": good}, metadata: map[string]string{"sm_scale": "-1"}, want: []string{`a.safetensors: metadata: sm_scale -1 is not`}},
		{name: "sm_scale option", files: files{"a": good}, opt: Options{SMScale: new(float64)}, want: []string{`sm_scale 0 is not a positive, finite number`}},
		{name: "no layer selected", files: files{"a": slices.Concat(good, layer("l10"), layer("l2"), layer("l3"), layer("l4"), layer("l5"), layer("l6"))},
			opt: Options{Layers: regexp.MustCompile("^x")}, want: []string{`no layer matches "^x"; the dump has l0, l2, l3, l4, l5 and 2 more`}},
		{name: "two layers, none selected", files: files{"a": slices.Concat(good, layer("l1"))},
			opt: Options{Layers: regexp.MustCompile("^x")}, want: []string{`the dump has l0, l1`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			var paths []string
			for _, name := range []string{"a", "b"} {
				if ts, ok := tc.files[name]; ok {
					paths = append(paths, write(t, dir, name+".safetensors", tc.metadata, ts...))
				}
			}
			wantError(t, paths, tc.opt, tc.want...)
		})
	}
}

// wantError checks that opening fails with one line that has all the parts.
func wantError(t *testing.T, paths []string, opt Options, parts ...string) {
	t.Helper()
	d, err := Open(paths, opt)
	if err == nil {
		t.Errorf("got %+v, want an error", d)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q lacks %q", err, part)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("error %q is not one line", err)
	}
}

func TestFileErrors(t *testing.T) {
	dir := t.TempDir()
	wantError(t, nil, Options{}, "no dump given")
	for _, name := range []string{"absent.safetensors", "absent.npz", "absent.npy", "absent"} {
		path := filepath.Join(dir, name)
		wantError(t, []string{path}, Options{}, path)
		if _, err := Open([]string{path}, Options{}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("error %v is not fs.ErrNotExist", err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	wantError(t, []string{filepath.Join(dir, "empty")}, Options{}, filepath.Join(dir, "empty")+": no .safetensors, .npz or .npy file")
	for _, name := range []string{"bad.safetensors", "bad.npz", "bad.npy", "bad.txt"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("bad"), 0o644); err != nil {
			t.Fatal(err)
		}
		wantError(t, []string{path}, Options{}, path+": not a")
	}
	bad := writeNPY(t, dir, "l0.q.npy", "<f2", "(2,)", 3)
	wantError(t, []string{bad}, Options{}, bad, "takes 4 bytes, but 3 follow")
}

func TestLayersAndOrder(t *testing.T) {
	dir := t.TempDir()
	path := write(t, dir, "d.safetensors", map[string]string{"causal": "True", "sm_scale": "0.25", "layout": "hnd", "synthetic": "zeros"},
		slices.Concat(layer("layers.10.attn"), layer("layers.2.attn"), layer("layers.02.attn"), layer("layers.2"),
			[]safetensors.Tensor{zeros("layers.2.o", "BF16", 1, 2, 3, 4), zeros("weight", "I8", 3), zeros(".q", "I8", 3), zeros("q", "I8", 1), zeros("a.qk", "I8", 1), zeros("a.Q", "I8", 1)})...)
	d := open(t, Options{}, path)
	if got, want := layerNames(d), "layers.2 layers.02.attn layers.2.attn layers.10.attn"; got != want {
		t.Errorf("layers %s, want %s", got, want)
	}
	l := d.Layers[0]
	if !l.Causal || l.SMScale != 0.25 || l.Scale() != 0.25 || l.Synthetic != "zeros" || l.Source != path {
		t.Errorf("layer %+v", l)
	}
	if l.O == nil || l.O.DType != format.BF16 || d.Layers[1].O != nil {
		t.Errorf("outputs %v and %v", l.O, d.Layers[1].O)
	}
	if got := l.K.Shape(); got != [4]int{1, 2, 5, 4} || l.K.DType != format.FP16 || l.K.File != path || l.K.Name != "layers.2.k" {
		t.Errorf("k is %+v", l.K)
	}
	if got, want := fmt.Sprint(d.Ignored), fmt.Sprintf("[{%[1]s weight} {%[1]s .q} {%[1]s q} {%[1]s a.qk} {%[1]s a.Q}]", path); got != want {
		t.Errorf("ignored %s, want %s", got, want)
	}
	if d.Metadata[path]["synthetic"] != "zeros" {
		t.Errorf("metadata %v", d.Metadata)
	}
}

func TestOptionsOverride(t *testing.T) {
	path := write(t, t.TempDir(), "d.safetensors", map[string]string{"causal": "true", "sm_scale": "0.25", "layout": "NHD"},
		slices.Concat(layer("l.0"), layer("l.1"), []safetensors.Tensor{zeros("broken.q", "I8", 1)})...)
	hnd, causal, scale := HND, false, 3.5
	// What is not selected is not checked.
	d := open(t, Options{Layout: &hnd, Causal: &causal, SMScale: &scale, Layers: regexp.MustCompile(`^l\.1$`)}, path)
	if got := layerNames(d); got != "l.1" {
		t.Fatalf("layers %s", got)
	}
	if l := d.Layers[0]; l.Causal || l.Scale() != 3.5 || l.Q.Heads != 2 || l.Q.Tokens != 3 {
		t.Errorf("layer %+v", l)
	}
	// Without the override the file's layout swaps heads and tokens, which does
	// not fit: five heads.
	wantError(t, []string{path}, Options{Layers: regexp.MustCompile(`l\.1`)}, `tensor "l.1.k": its 5 heads do not divide the 3`)
}

func TestDefaults(t *testing.T) {
	d := open(t, Options{}, write(t, t.TempDir(), "d.safetensors", nil, layer("l")...))
	if l := d.Layers[0]; l.Causal || l.SMScale != 0 || l.Scale() != 0.5 || l.Synthetic != "" {
		t.Errorf("layer %+v", l)
	}
	if len(d.Metadata) != 0 {
		t.Errorf("metadata %v", d.Metadata)
	}
}

func TestGQA(t *testing.T) {
	d := open(t, Options{}, write(t, t.TempDir(), "d.safetensors", nil,
		zeros("l.q", "F32", 2, 6, 3, 128), zeros("l.k", "F32", 2, 2, 7, 128), zeros("l.v", "F32", 2, 2, 7, 128)))
	if l := d.Layers[0]; l.Q.Heads != 6 || l.K.Heads != 2 || l.V.Tokens != 7 {
		t.Errorf("layer %+v", l)
	}
}

func TestFolder(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "b.safetensors", map[string]string{"causal": "true"}, layer("one")...)
	write(t, dir, "sub/deep/c.SafeTensors", nil, layer("two")...)
	write(t, dir, ".hidden.safetensors", nil, layer("one")...)
	write(t, dir, ".cache/a.safetensors", nil, layer("one")...)
	writeNPY(t, dir, "three.q.npy", "<f2", "(1, 1, 2, 2)", 8)
	writeNPY(t, dir, "three.k.npy", "<f2", "(1, 1, 3, 2)", 12)
	v := writeNPY(t, dir, "sub/three.v.NPY", "<f2", "(1, 1, 3, 2)", 12)
	writeNPY(t, dir, "rope.npy", "<f8", "()", 8)
	if err := os.WriteFile(filepath.Join(dir, "notes.txt"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	d := open(t, Options{}, dir)
	if got := layerNames(d); got != "one three two" {
		t.Errorf("layers %s", got)
	}
	if want := filepath.Join(dir, "three.q.npy") + ", " + filepath.Join(dir, "three.k.npy") + ", " + v; d.Layers[1].Source != want {
		t.Errorf("source %s, want %s", d.Layers[1].Source, want)
	}
	if d.Layers[1].Causal || !d.Layers[0].Causal {
		t.Error("metadata applies to the layers of its own file only")
	}
	if len(d.Ignored) != 1 || d.Ignored[0].Name != "rope" {
		t.Errorf("ignored %v", d.Ignored)
	}
}

func TestNPZ(t *testing.T) {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for i, m := range []struct {
		name, descr, shape string
		size               int
	}{
		{"l.k.npy", "|V2", "(1, 3, 1, 4)", 24},
		{"l.q.npy", "|V2", "(1, 2, 1, 4)", 16},
		{"l.v.npy", "|V2", "(1, 3, 1, 4)", 24},
		{"l.note.npy", "|b1", "(1,)", 1},
	} {
		method := uint16(zip.Store)
		if i%2 == 0 {
			method = zip.Deflate
		}
		w, err := z.CreateHeader(&zip.FileHeader{Name: m.name, Method: method})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(npyFile(m.descr, m.shape, bytes.Repeat([]byte{0x80, 0x3f}, (m.size+1)/2)[:m.size])); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := z.Create("about.txt"); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "d.npz")
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	nhd := NHD
	d := open(t, Options{Layout: &nhd}, path)
	l := &d.Layers[0]
	if l.Q.DType != format.BF16 || l.Q.Tokens != 2 || l.K.Tokens != 3 || l.K.Heads != 1 || l.Source != path {
		t.Errorf("layer %+v", l)
	}
	row := make([]float32, 4)
	for _, x := range []*Tensor{&l.Q, &l.K} {
		if x.Rows(0, 0, 1, 2, row); !slices.Equal(row, []float32{1, 1, 1, 1}) {
			t.Errorf("%s: got %v, want ones", x.Name, row)
		}
	}
	if len(d.Ignored) != 2 || d.Ignored[0].Name != "about.txt" || d.Ignored[1].Name != "l.note" {
		t.Errorf("ignored %v", d.Ignored)
	}
}

// TestMetadataOfQ spreads a layer over two files that disagree.
func TestMetadataOfQ(t *testing.T) {
	dir := t.TempDir()
	l := layer("l")
	a := write(t, dir, "a.safetensors", map[string]string{"causal": "false", "sm_scale": "bad"}, l[1:]...)
	b := write(t, dir, "b.safetensors", map[string]string{"causal": "true", "sm_scale": "2"}, l[0])
	d := open(t, Options{}, a, b)
	if got := d.Layers[0]; !got.Causal || got.SMScale != 2 || got.Source != b+", "+a {
		t.Errorf("layer %+v", got)
	}
}

func TestActual(t *testing.T) {
	dir := t.TempDir()
	dump := write(t, dir, "dump.safetensors", nil, slices.Concat(layer("l.0"), layer("l.1"), []safetensors.Tensor{zeros("l.0.o", "F16", 1, 2, 3, 4)})...)
	// A whole dump of its own, in the other layout; only its o counts.
	actual := write(t, dir, "actual.safetensors", map[string]string{"layout": "NHD", "causal": "true"},
		zeros("l.1.o", "F32", 1, 3, 2, 4), zeros("l.0.q", "I8", 1), zeros("other", "I8", 1))
	d := open(t, Options{Actual: []string{actual}}, dump)
	if o := d.Layers[0].O; o == nil || o.File != dump {
		t.Errorf("l.0 has o %+v, want the dump's own", o)
	}
	l := d.Layers[1]
	if l.O == nil || l.O.File != actual || l.O.DType != format.FP32 || l.O.Heads != 2 || l.O.Tokens != 3 || l.Causal {
		t.Errorf("l.1 is %+v with o %+v", l, l.O)
	}
	if want := dump + ", " + actual; l.Source != want {
		t.Errorf("source %s, want %s", l.Source, want)
	}
	if len(d.Ignored) != 0 {
		t.Errorf("ignored %v", d.Ignored)
	}
	replaced := write(t, dir, "replaced.safetensors", nil, zeros("l.0.o", "BF16", 1, 2, 3, 4))
	if o := open(t, Options{Actual: []string{replaced}}, dump).Layers[0].O; o.File != replaced {
		t.Errorf("l.0 has o %+v, want the actual one", o)
	}
	// An o whose layer is there but not selected is no error.
	open(t, Options{Actual: []string{replaced}, Layers: regexp.MustCompile("1")}, dump)

	stray := write(t, dir, "stray.safetensors", nil, zeros("l.2.o", "F16", 1, 2, 3, 4))
	wantError(t, []string{dump}, Options{Actual: []string{stray}}, stray+`: tensor "l.2.o": the dump has no layer "l.2"`)
	wantError(t, []string{dump}, Options{Actual: []string{replaced, replaced}}, replaced+`: tensor "l.0.o": `)
	none := write(t, dir, "none.safetensors", nil, layer("l.0")...)
	wantError(t, []string{dump}, Options{Actual: []string{none}}, none+": no tensor is named <layer>.o")
	wantError(t, []string{dump}, Options{Actual: []string{filepath.Join(dir, "absent.npz")}}, "absent.npz")
	bad := write(t, dir, "bad.safetensors", map[string]string{"layout": "x"}, zeros("l.0.o", "BF16", 1, 2, 3, 4))
	wantError(t, []string{dump}, Options{Actual: []string{bad}}, bad+`: metadata: layout "x"`)
	shape := write(t, dir, "shape.safetensors", nil, zeros("l.0.o", "BF16", 1, 2, 4, 4))
	wantError(t, []string{dump}, Options{Actual: []string{shape}}, shape+`: tensor "l.0.o": `)
}

// TestRows checks every element of each dtype and layout.
func TestRows(t *testing.T) {
	const batch, heads, tokens, dim = 2, 3, 5, 7
	for _, dtype := range []string{"F16", "BF16", "F32"} {
		for _, layout := range []Layout{HND, NHD} {
			t.Run(dtype+" "+layout.String(), func(t *testing.T) {
				shape := []int{batch, heads, tokens, dim}
				if layout == NHD {
					shape = []int{batch, tokens, heads, dim}
				}
				q := zeros("l.q", dtype, shape...)
				bitsAt := make(map[[4]int]uint32)
				for i := range batch * heads * tokens * dim {
					at := [4]int{i / dim / tokens / heads, i / dim / tokens % heads, i / dim % tokens, i % dim}
					if layout == NHD {
						at = [4]int{i / dim / heads / tokens, i / dim % heads, i / dim / heads % tokens, i % dim}
					}
					if dtype == "F32" {
						bitsAt[at] = uint32(i+1) * 0x01234567
						binary.LittleEndian.PutUint32(q.Data[4*i:], bitsAt[at])
					} else {
						bitsAt[at] = uint32(i+1) * 311 & 0xffff
						binary.LittleEndian.PutUint16(q.Data[2*i:], uint16(bitsAt[at]))
					}
				}
				k, v := q, q
				k.Name, v.Name = "l.k", "l.v"
				path := write(t, t.TempDir(), "d.safetensors", map[string]string{"layout": layout.String()}, zeros("odd", "I8", 3), q, k, v)
				l := open(t, Options{}, path).Layers[0]
				for _, x := range []*Tensor{&l.Q, &l.K, &l.V} {
					checkRows(t, x, bitsAt)
				}
				if err := l.Check(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func checkRows(t *testing.T, x *Tensor, bitsAt map[[4]int]uint32) {
	t.Helper()
	for _, span := range [][2]int{{0, x.Tokens}, {1, 4}, {2, 3}, {3, 3}} {
		lo, hi := span[0], span[1]
		// A longer dst must be left alone behind the rows.
		const guard = 99
		values, patterns := make([]float32, (hi-lo)*x.Dim+1), make([]uint32, (hi-lo)*x.Dim+1)
		values[len(values)-1], patterns[len(patterns)-1] = guard, guard
		for b := range x.Batch {
			for h := range x.Heads {
				x.Rows(b, h, lo, hi, values)
				x.RowsBits(b, h, lo, hi, patterns)
				for i := range (hi - lo) * x.Dim {
					want := bitsAt[[4]int{b, h, lo + i/x.Dim, i % x.Dim}]
					if patterns[i] != want {
						t.Fatalf("bits %d of batch %d, head %d, tokens %v: %#x, want %#x", i, b, h, span, patterns[i], want)
					}
					if got, want := values[i], decode(x.DType, want); got != want && (got == got || want == want) {
						t.Fatalf("value %d of batch %d, head %d, tokens %v: %v, want %v", i, b, h, span, got, want)
					}
				}
			}
		}
		if values[len(values)-1] != guard || patterns[len(patterns)-1] != guard {
			t.Fatal("wrote behind the rows")
		}
	}
}

func decode(d format.DType, bits uint32) float32 {
	switch d {
	case format.FP16:
		return float16.Frombits(uint16(bits)).Float32()
	case format.BF16:
		return math.Float32frombits(bits << 16)
	default:
		return math.Float32frombits(bits)
	}
}

func TestRowsPanics(t *testing.T) {
	l := open(t, Options{}, write(t, t.TempDir(), "d.safetensors", nil, layer("l")...)).Layers[0]
	for _, at := range [][4]int{{1, 0, 0, 1}, {-1, 0, 0, 1}, {0, 2, 0, 1}, {0, -1, 0, 1}, {0, 0, -1, 1}, {0, 0, 2, 1}, {0, 0, 0, 4}} {
		func() {
			defer func() {
				if message := fmt.Sprint(recover()); !strings.Contains(message, "l.q") {
					t.Errorf("Rows(%v): %s, want a panic that names the tensor", at, message)
				}
			}()
			l.Q.Rows(at[0], at[1], at[2], at[3], make([]float32, 100))
		}()
	}
}

func TestNames(t *testing.T) {
	for _, d := range []struct {
		value fmt.Stringer
		want  string
	}{{format.FP16, "FP16"}, {format.BF16, "BF16"}, {format.FP32, "FP32"}, {format.DType(9), "DType(9)"}, {HND, "HND"}, {NHD, "NHD"}, {Layout(9), "Layout(9)"}} {
		if got := d.value.String(); got != d.want {
			t.Errorf("got %s, want %s", got, d.want)
		}
	}
	for _, s := range []string{"HND", "nhd"} {
		if l, err := ParseLayout(s); err != nil || !strings.EqualFold(l.String(), s) {
			t.Errorf("ParseLayout(%s) = %v, %v", s, l, err)
		}
	}
	if _, err := ParseLayout("BHND"); err == nil {
		t.Error("ParseLayout(BHND) gave no error")
	}
}

func TestCompareNatural(t *testing.T) {
	sorted := []string{"", "a", "a.1", "a.01.b", "a.1.b", "a.2", "a.10", "a.10.x", "a.99999999999999999999998", "a.99999999999999999999999", "aa", "b", "b0", "b00", "b1"}
	for i, a := range sorted {
		for j, b := range sorted {
			got := compareNatural(a, b)
			if want := compareInts(i, j); got != want {
				t.Errorf("compareNatural(%q, %q) = %d, want %d", a, b, got, want)
			}
		}
	}
}

func compareInts(i, j int) int {
	switch {
	case i < j:
		return -1
	case i > j:
		return 1
	}
	return 0
}

func TestSamples(t *testing.T) {
	for _, tc := range []struct {
		file   string
		layers string
		heads  int
		causal bool
	}{
		{"byte-lm-sample", "layers.0.attn layers.3.attn", 2, true},
		{"video-dit-sample", "layers.0.attn", 1, false},
	} {
		d := open(t, Options{}, filepath.Join("testdata", tc.file+".safetensors"))
		if got := layerNames(d); got != tc.layers {
			t.Errorf("%s: layers %s, want %s", tc.file, got, tc.layers)
		}
		l := d.Layers[0]
		if got := l.Q.Shape(); got != [4]int{1, tc.heads, 1024, 64} || l.Causal != tc.causal || l.Scale() != 0.125 || l.O == nil {
			t.Errorf("%s: layer %+v", tc.file, l)
		}
		checkSampleOfWhole(t, d, filepath.Join("..", "..", "shared", "dumps", strings.TrimSuffix(tc.file, "-sample")+".safetensors"))
	}
}

// checkSampleOfWhole compares a sample's heads with the dump it was cut from.
func checkSampleOfWhole(t *testing.T, sample *Dump, path string) {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		t.Logf("not compared with the whole dump: %v", err)
		return
	}
	whole := make(map[string]*Layer)
	d := open(t, Options{}, path)
	for i := range d.Layers {
		whole[d.Layers[i].Name] = &d.Layers[i]
	}
	for _, l := range sample.Layers {
		w := whole[l.Name]
		pairs := [][2]*Tensor{{&l.Q, &w.Q}, {&l.K, &w.K}, {&l.V, &w.V}}
		if l.O != nil {
			pairs = append(pairs, [2]*Tensor{l.O, w.O})
		}
		for _, p := range pairs {
			n := p[0].Tokens * p[0].Dim
			got, want := make([]uint32, n), make([]uint32, n)
			for h := range p[0].Heads {
				p[0].RowsBits(0, h, 0, p[0].Tokens, got)
				p[1].RowsBits(0, h, 0, p[1].Tokens, want)
				if !slices.Equal(got, want) {
					t.Errorf("%s, head %d, differs from %s", p[0].Name, h, path)
				}
			}
		}
	}
}

func BenchmarkRows(b *testing.B) {
	path := filepath.Join("testdata", "video-dit-sample.safetensors")
	d, err := Open([]string{path}, Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	q := &d.Layers[0].Q
	dst := make([]float32, q.Tokens*q.Dim)
	b.SetBytes(int64(2 * len(dst)))
	for b.Loop() {
		q.Rows(0, 0, 0, q.Tokens, dst)
	}
}

// TestSameNames: several files that each hold a whole layer of one name hold
// different layers.
func TestSameNames(t *testing.T) {
	dir := t.TempDir()
	a := write(t, dir, "a.safetensors", map[string]string{"causal": "true"}, append(layer("l0"), layer("l1")...)...)
	b := write(t, dir, "b.safetensors", nil, layer("l0")...)
	d := open(t, Options{}, a, b)
	if got, want := layerNames(d), "a/l0 a/l1 b/l0"; got != want {
		t.Errorf("layers %q, want %q", got, want)
	}
	if !d.Layers[1].Causal || d.Layers[2].Causal {
		t.Error("a layer has the other file's metadata")
	}
	sub := filepath.Join(dir, "sub")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	c := write(t, sub, "a.safetensors", nil, layer("l0")...)
	d = open(t, Options{}, a, c)
	top := filepath.ToSlash(strings.TrimSuffix(a, ".safetensors"))
	want := top + "/l0 " + top + "/l1 " + filepath.ToSlash(strings.TrimSuffix(c, ".safetensors")) + "/l0"
	if got := layerNames(d); got != want {
		t.Errorf("layers %q, want %q", got, want)
	}
	wantError(t, []string{a, a}, Options{}, "a.safetensors", "given twice")
}

func TestLSE(t *testing.T) {
	lse := func(name string) safetensors.Tensor { return zeros(name+".lse", "F32", 1, 2, 3) }
	nhd := map[string]string{"layout": "NHD"}
	for _, tc := range []struct {
		name   string
		files  map[string][]safetensors.Tensor
		meta   map[string]string
		actual []safetensors.Tensor // of actual.safetensors
		off    bool                 // without Options.LSE
		want   map[string]string    // the file of a layer's lse
		ignore []string
		err    string
	}{
		{name: "beside q", files: map[string][]safetensors.Tensor{"a": with(layer("l"), lse("l"))}, want: map[string]string{"l": "a"}},
		{name: "not asked for", files: map[string][]safetensors.Tensor{"a": with(layer("l"), lse("l"))}, off: true, ignore: []string{"l.lse"}},
		{name: "none", files: map[string][]safetensors.Tensor{"a": layer("l")}},
		{name: "in a file of its own", files: map[string][]safetensors.Tensor{"a": layer("l"), "b": {lse("l")}}, want: map[string]string{"l": "b"}},
		{name: "of no layer", files: map[string][]safetensors.Tensor{"a": with(layer("l"), lse("m"), zeros(".lse", "F32", 1))}, ignore: []string{".lse", "m.lse"}},
		{name: "layers of one name", files: map[string][]safetensors.Tensor{"a": with(layer("l"), lse("l")), "b": layer("l")}, want: map[string]string{"a/l": "a"}},
		{name: "two for a layer", files: map[string][]safetensors.Tensor{"a": layer("l"), "b": {lse("l")}, "c": {lse("l")}}, err: `tensor "l.lse": `},
		{
			name: "the actual output's own", files: map[string][]safetensors.Tensor{"a": with(layer("l"), lse("l"))},
			actual: []safetensors.Tensor{zeros("l.o", "F16", 1, 2, 3, 4), lse("l")}, want: map[string]string{"l": "actual"},
		},
		{
			name: "the replaced output's", files: map[string][]safetensors.Tensor{"a": with(layer("l"), zeros("l.o", "F16", 1, 2, 3, 4), lse("l"))},
			actual: []safetensors.Tensor{zeros("l.o", "F16", 1, 2, 3, 4)},
		},
		{
			// q is [1, 2, 3, 4] in the file, so 3 heads of 2 tokens.
			name: "NHD", meta: nhd, want: map[string]string{"l": "a"},
			files: map[string][]safetensors.Tensor{"a": {
				zeros("l.q", "F16", 1, 2, 3, 4), zeros("l.k", "F16", 1, 2, 3, 4), zeros("l.v", "F16", 1, 2, 3, 4), zeros("l.lse", "F32", 1, 3, 2),
			}},
		},
		{name: "shape", files: map[string][]safetensors.Tensor{"a": with(layer("l"), zeros("l.lse", "F32", 1, 3, 2))}, err: `tensor "l.lse" is F32 [1 3 2]; want FP32 [batch, heads, tokens], [1 2 3]`},
		{name: "dtype", files: map[string][]safetensors.Tensor{"a": with(layer("l"), zeros("l.lse", "F16", 1, 2, 3))}, err: `a.safetensors: tensor "l.lse" is F16`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, ts := range tc.files {
				write(t, filepath.Join(dir, "dump"), name+".safetensors", tc.meta, ts...)
			}
			opt := Options{LSE: !tc.off}
			if tc.actual != nil {
				opt.Actual = []string{write(t, dir, "actual.safetensors", nil, tc.actual...)}
			}
			d, err := Open([]string{filepath.Join(dir, "dump")}, opt)
			if tc.err != "" || err != nil {
				if tc.err == "" || err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("error %v, want %q", err, tc.err)
				}
				return
			}
			defer d.Close()
			for i := range d.Layers {
				l := &d.Layers[i]
				got := ""
				if l.LSE != nil {
					got = strings.TrimSuffix(filepath.Base(l.LSE.File), ".safetensors")
					x := make([]float32, l.Q.Tokens)
					l.LSE.Rows(0, l.Q.Heads-1, 0, l.Q.Tokens, x)
					if !strings.Contains(l.Source, l.LSE.File) {
						t.Errorf("source %q", l.Source)
					}
				}
				if got != tc.want[l.Name] {
					t.Errorf("layer %s: lse from %q, want %q", l.Name, got, tc.want[l.Name])
				}
			}
			var ignored []string
			for _, x := range d.Ignored {
				ignored = append(ignored, x.Name)
			}
			slices.Sort(ignored)
			if !slices.Equal(ignored, tc.ignore) {
				t.Errorf("ignored %q, want %q", ignored, tc.ignore)
			}
		})
	}
}
