package layerdumps

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestFileChanges: a file that changes while it is read is an error that names it, and
// rows that cannot be read are zero.
func TestFileChanges(t *testing.T) {
	later := time.Now().Add(time.Minute)
	for _, tc := range []struct {
		name   string
		change func(path string) error
		lost   bool // whether the rows cannot be read
		bad    bool
	}{
		{"nothing", func(string) error { return nil }, false, false},
		{"truncated", func(path string) error { return os.Truncate(path, 100) }, true, true},
		{"emptied", func(path string) error { return os.WriteFile(path, nil, 0o644) }, true, true},
		{"overwritten", func(path string) error {
			st, err := os.Stat(path)
			if err != nil {
				return err
			}
			if err := os.WriteFile(path, bytes.Repeat([]byte{0x3c}, int(st.Size())), 0o644); err != nil {
				return err
			}
			return os.Chtimes(path, later, later)
		}, false, true},
		{"removed", os.Remove, false, false},
	} {
		for _, ext := range []string{".safetensors", ".npy", ".npz"} {
			t.Run(tc.name+ext, func(t *testing.T) {
				dir := t.TempDir()
				var path string
				ts := layer("l")
				for i := range ts {
					for j := range ts[i].Data {
						ts[i].Data[j] = 0x3c
					}
				}
				switch ext {
				case ".safetensors":
					path = write(t, dir, "d"+ext, nil, ts...)
				case ".npy":
					for _, x := range ts {
						path = filepath.Join(dir, x.Name+ext)
						shape := strings.Trim(strings.ReplaceAll(fmt.Sprint(x.Shape), " ", ", "), "[]")
						if err := os.WriteFile(path, npyFile("<f2", "("+shape+")", x.Data), 0o644); err != nil {
							t.Fatal(err)
						}
					}
				case ".npz":
					var b bytes.Buffer
					z := zip.NewWriter(&b)
					for _, x := range ts {
						w, err := z.CreateHeader(&zip.FileHeader{Name: x.Name + ".npy", Method: zip.Store})
						if err != nil {
							t.Fatal(err)
						}
						shape := strings.Trim(strings.ReplaceAll(fmt.Sprint(x.Shape), " ", ", "), "[]")
						if _, err := w.Write(npyFile("<f2", "("+shape+")", x.Data)); err != nil {
							t.Fatal(err)
						}
					}
					if err := z.Close(); err != nil {
						t.Fatal(err)
					}
					path = filepath.Join(dir, "d"+ext)
					if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				d := open(t, Options{}, dir)
				l := &d.Layers[0]
				if err := tc.change(path); err != nil {
					t.Skip(err)
				}
				x := &l.V // of the last file
				rows := slices.Repeat([]float32{7}, x.Tokens*x.Dim)
				x.Rows(0, 1, 0, x.Tokens, rows)
				want := float32(1.0585938) // 0x3c3c
				if tc.lost {
					want = 0
				}
				for _, v := range rows {
					if v != want {
						t.Fatalf("read %v, want %v", v, want)
					}
				}
				if err := l.Err(); (err != nil) != tc.lost || err != nil && !strings.Contains(err.Error(), path) {
					t.Errorf("Err: %v", err)
				}
				if err := l.Check(); (err != nil) != tc.bad || err != nil && !strings.Contains(err.Error(), path+": the file was changed") {
					t.Errorf("Check: %v", err)
				}
			})
		}
	}
}

// TestMoreFilesThanDescriptors walks over a folder of more files than are open at a
// time, twice.
func TestMoreFilesThanDescriptors(t *testing.T) {
	dir := t.TempDir()
	const layers = descriptors
	for i := range layers {
		for _, role := range []string{"q", "k", "v"} {
			data := make([]byte, 4)
			binary.LittleEndian.PutUint16(data, uint16(0x3c00+i))
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("l%d.%s.npy", i, role)), npyFile("<f2", "(1, 1, 1, 2)", data), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	d := open(t, Options{}, dir)
	if len(d.Layers) != layers || len(d.Files) != 3*layers {
		t.Fatalf("%d layers of %d files", len(d.Layers), len(d.Files))
	}
	for range 2 {
		for i := range d.Layers {
			l := &d.Layers[i]
			bits := make([]uint32, 2)
			for _, x := range []*Tensor{&l.Q, &l.K, &l.V} {
				if x.RowsBits(0, 0, 0, 1, bits); bits[0] != uint32(0x3c00+i) {
					t.Errorf("%s: %#x", x.Name, bits[0])
				}
			}
			if err := l.Check(); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestInflatesWhatIsSelected: of an archive only the layers that are asked for take
// room on the disk.
func TestInflatesWhatIsSelected(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for i, name := range []string{"big.q", "big.k", "big.v", "big.o", "extra", "l.q", "l.k", "l.v"} {
		shape, size := "(1, 1, 65536, 64)", 8<<20
		if i > 4 {
			shape, size = "(1, 1, 2, 4)", 16
		}
		w, err := z.Create(name + ".npy")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(npyFile("<f2", shape, make([]byte, size))); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "d.npz")
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	d := open(t, Options{Layers: regexp.MustCompile("^l$")}, path)
	if n := d.files.Spooled(); n != 3*16 {
		t.Errorf("%d bytes were inflated, want those of layer l, %d", n, 3*16)
	}
	if got := layerNames(d); got != "l" {
		t.Errorf("layers %s", got)
	}
}

// TestNoPipes: what is not a regular file is refused, whatever its name is.
func TestNoPipes(t *testing.T) {
	if _, err := os.Stat("/dev/zero"); err != nil {
		t.Skip(err)
	}
	for _, ext := range []string{".safetensors", ".npy", ".npz"} {
		path := filepath.Join(t.TempDir(), "endless"+ext)
		if err := os.Symlink("/dev/zero", path); err != nil {
			t.Skip(err)
		}
		for _, p := range []string{path, filepath.Dir(path)} {
			wantError(t, []string{p}, Options{}, path+": is a device, not a regular file")
		}
	}
}

// TestManyLayersOfManyFiles: putting layers together takes time that grows with the
// tensors and not with layers times files, which here would be 2 billion steps.
func TestManyLayersOfManyFiles(t *testing.T) {
	const n = 45_000
	files := make([]string, n)
	layers := make(map[string]*holders)
	for i := range files {
		files[i] = fmt.Sprintf("l%d.npy", i)
		h := new(holders)
		p := h.of(files[i], i)
		for role := range p {
			p[role] = &rawTensor{file: files[i]}
		}
		layers[files[i]] = h
	}
	steps := 0
	label := fileLabels(files)
	for _, h := range layers {
		if p, err := h.merge(); err != nil || p[0] == nil || !h.whole() {
			t.Fatal(p, err)
		}
		if label(h.files[0])+".npy" != h.files[0] {
			t.Fatal(h.files)
		}
		steps += len(h.parts)
	}
	if steps != n {
		t.Errorf("%d steps", steps)
	}
	// Whatever the order in which files come, they are kept in theirs.
	h := new(holders)
	for _, i := range []int{5, 2, 9, 2, 0, 5, 7} {
		h.of(fmt.Sprint(i), i)
	}
	if got := strings.Join(h.files, " "); got != "0 2 5 7 9" {
		t.Errorf("files %s", got)
	}
}
