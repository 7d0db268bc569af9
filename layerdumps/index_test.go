package layerdumps_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

// cut writes a dump of two layers, cut into three files, with an index.
func cut(t *testing.T, dir string) {
	t.Helper()
	for i, names := range [][]string{{"a.q", "a.k", "b.q"}, {"a.v", "b.k"}, {"b.v"}} {
		var ts []safetensors.Tensor
		for _, n := range names {
			ts = append(ts, safetensors.Tensor{Name: n, DType: "F16", Shape: []int{1, 1, 2, 4}, Data: make([]byte, 16)})
		}
		if err := safetensors.Write(filepath.Join(dir, fmt.Sprintf("model-%d-of-3.safetensors", i+1)), nil, ts); err != nil {
			t.Fatal(err)
		}
	}
	writeIndex(t, dir, `{"metadata":{"total_size":96},"weight_map":{"a.q":"model-1-of-3.safetensors","a.k":"model-1-of-3.safetensors",
		"b.q":"model-1-of-3.safetensors","a.v":"model-2-of-3.safetensors","b.k":"model-2-of-3.safetensors","b.v":"model-3-of-3.safetensors"}}`)
}

const indexName = "model.safetensors.index.json"

func writeIndex(t *testing.T, dir, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, indexName), []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
}

// TestIndex: an index stands for its files, by its name and in a folder.
func TestIndex(t *testing.T) {
	dir := t.TempDir()
	cut(t, dir)
	for _, path := range []string{dir, filepath.Join(dir, indexName)} {
		d, err := layerdumps.Open([]string{path}, layerdumps.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if len(d.Layers) != 2 || d.Layers[0].Name != "a" || d.Layers[1].Name != "b" || len(d.Files) != 4 {
			t.Errorf("%s: layers %v of files %v", path, d.Layers, d.Files)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestBadIndex(t *testing.T) {
	for _, tc := range []struct {
		name  string
		spoil func(dir string) error
		want  string
	}{
		{"a file is missing", func(dir string) error { return os.Remove(filepath.Join(dir, "model-3-of-3.safetensors")) }, "model-3-of-3.safetensors: no such file"},
		{"no JSON", func(dir string) error { return os.WriteFile(filepath.Join(dir, indexName), []byte("x"), 0o666) }, indexName + ": not an index of safetensors files: invalid"},
		{"no map", func(dir string) error { return os.WriteFile(filepath.Join(dir, indexName), []byte("{}"), 0o666) }, indexName + ": not an index of safetensors files: it has no weight_map"},
		{"another tensor", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, indexName), []byte(`{"weight_map":{"c.q":"model-1-of-3.safetensors"}}`), 0o666)
		}, `model-1-of-3.safetensors: there is no tensor "c.q", which `},
		{"out of the folder", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, indexName), []byte(`{"weight_map":{"a.q":"../x.safetensors"}}`), 0o666)
		}, `tensor "a.q" is said to be in "../x.safetensors", which is no safetensors file beside the index`},
		{"absolute", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, indexName), []byte(`{"weight_map":{"a.q":"/etc/x.safetensors"}}`), 0o666)
		}, "which is no safetensors file beside the index"},
		{"no safetensors", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, indexName), []byte(`{"weight_map":{"a.q":"model.bin"}}`), 0o666)
		}, "which is no safetensors file beside the index"},
	} {
		dir := t.TempDir()
		cut(t, dir)
		if err := tc.spoil(dir); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{dir, filepath.Join(dir, indexName)} {
			_, err := layerdumps.Open([]string{path}, layerdumps.Options{})
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.HasPrefix(err.Error(), dir) {
				t.Errorf("%s, %s: %v, want %q", tc.name, path, err, tc.want)
			}
		}
	}
}

// TestLargerThanMemory: of a dump of 40 GB, in many files with an index, a layer is read
// in little memory.
func TestLargerThanMemory(t *testing.T) {
	const layers, tokens, dim = 40, 1 << 21, 128 // 0.5 GB a tensor
	dir := t.TempDir()
	var entries []string
	for i := range layers {
		for _, role := range []string{"k", "v"} {
			name := fmt.Sprintf("layers.%d.%s", i, role)
			file := name + ".safetensors"
			sparse(t, filepath.Join(dir, file), name, tokens, dim)
			entries = append(entries, fmt.Sprintf("%q:%q", name, file))
		}
		name := fmt.Sprintf("layers.%d.q", i)
		sparse(t, filepath.Join(dir, name+".safetensors"), name, 64, dim)
		entries = append(entries, fmt.Sprintf("%q:%q", name, name+".safetensors"))
	}
	writeIndex(t, dir, `{"weight_map":{`+strings.Join(entries, ",")+`}}`)
	d, err := layerdumps.Open([]string{filepath.Join(dir, indexName)}, layerdumps.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if len(d.Layers) != layers {
		t.Fatalf("%d layers", len(d.Layers))
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	row := make([]float32, dim)
	for i := range d.Layers {
		l := &d.Layers[i]
		l.K.Rows(0, 0, tokens-1, tokens, row)
		l.Q.Rows(0, 0, 63, 64, row)
	}
	if _, err := d.Layers[7].Digest(t.Context()); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 32<<20 { // the race detector allocates more
		t.Errorf("%d bytes were allocated", n)
	}
}

// sparse writes a file of one tensor of zeros, which takes no room on the disk.
func sparse(t *testing.T, path, name string, tokens, dim int) {
	t.Helper()
	size := 2 * tokens * dim
	head := fmt.Sprintf(`{%q:{"dtype":"F16","shape":[1,1,%d,%d],"data_offsets":[0,%d]}}`, name, tokens, dim, size)
	if err := os.WriteFile(path, append(binary.LittleEndian.AppendUint64(nil, uint64(len(head))), head...), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, int64(8+len(head)+size)); err != nil {
		t.Skip(err)
	}
}

func TestDigest(t *testing.T) {
	digest := func(edit func(l *layerdumps.Layer)) string {
		t.Helper()
		dir := t.TempDir()
		cut(t, dir)
		d, err := layerdumps.Open([]string{dir}, layerdumps.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		l := d.Layers[0]
		edit(&l)
		x, err := l.Digest(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	same := digest(func(*layerdumps.Layer) {})
	if again := digest(func(l *layerdumps.Layer) { l.Name, l.Source = "other", "elsewhere" }); again != same || len(same) != 64 {
		t.Errorf("%s and %s of the same tensors in other files", same, again)
	}
	for name, edit := range map[string]func(l *layerdumps.Layer){
		"layout": func(l *layerdumps.Layer) { *l = *l.Reread() },
		"an output": func(l *layerdumps.Layer) {
			o := l.V
			l.O = &o
		},
		"a byte": func(l *layerdumps.Layer) {
			x, err := layerdumps.NewTensor("k", l.K.DType, l.K.Shape(), append(make([]byte, 15), 1))
			if err != nil {
				t.Fatal(err)
			}
			l.K = x
		},
	} {
		if other := digest(edit); other == same {
			t.Errorf("another digest is expected of another %s", name)
		}
	}
}

// FuzzIndex: what is no index is an error.
func FuzzIndex(f *testing.F) {
	f.Add(`{"weight_map":{"a.q":"model-1-of-3.safetensors"}}`)
	f.Add(`{"weight_map":{"a.q":"../../x.safetensors"}}`)
	dir := f.TempDir()
	path := filepath.Join(dir, indexName)
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		d, err := layerdumps.Open([]string{path}, layerdumps.Options{})
		if err == nil {
			d.Close()
			t.Errorf("%q gives a dump of %d layers", text, len(d.Layers))
		}
	})
}
