package npy

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// member is one entry of an archive that archive builds.
type member struct {
	name   string
	method uint16
	data   []byte
}

func archive(t testing.TB, members ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, m := range members {
		w, err := z.CreateHeader(&zip.FileHeader{Name: m.name, Method: m.method})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(m.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// rawArchive builds an archive of one entry whose directory says what it likes.
func rawArchive(t *testing.T, h zip.FileHeader, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	h.CompressedSize64 = uint64(len(data))
	w, err := z.CreateRaw(&h)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func deflate(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestOpenArchive(t *testing.T) {
	body := bytes.Repeat([]byte{1, 2, 3, 4}, 5000)
	path := filepath.Join(t.TempDir(), "a.npz")
	data := archive(t,
		member{"stored.q.npy", zip.Store, array(1, dict("<f2", "False", "(2, 5000)"), body...)},
		member{"readme.txt", zip.Store, []byte("hi")},
		member{"deflated.k.npy", zip.Deflate, array(2, dict("<f4", "False", "(5000,)"), body...)},
		member{"empty.npy", zip.Deflate, array(1, dict("<f4", "False", "(0,)"))},
	)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	a, err := OpenArchive(path)
	if err != nil {
		t.Fatal(err)
	}
	want := []struct {
		name, dtype string
		data        []byte
	}{{"stored.q", "F16", body}, {"deflated.k", "F32", body}, {"empty", "F32", nil}}
	if len(a.Arrays) != len(want) {
		t.Fatalf("got %d arrays, want %d", len(a.Arrays), len(want))
	}
	for i, w := range want {
		if _, err := a.Arrays[i].ReadAt(make([]byte, 1), 0); err != errNotLoaded {
			t.Errorf("array %d is read before it is loaded: %v", i, err)
		}
		for range 2 {
			if err := a.Load(i); err != nil {
				t.Fatal(err)
			}
			got := a.Arrays[i]
			if b := checkArray(t, got); got.Name != w.name || got.DType != w.dtype || !bytes.Equal(b, w.data) {
				t.Errorf("array %d: got %s %s with %d bytes, want %s %s with %d", i, got.Name, got.DType, len(b), w.name, w.dtype, len(w.data))
			}
		}
	}
	if len(a.Others) != 1 || a.Others[0] != "readme.txt" {
		t.Errorf("others %v, want readme.txt", a.Others)
	}
	for range 2 {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("temporary files left behind: %v, %v", left, err)
	}
}

// loadAll loads every array.
func loadAll(a *Archive) error {
	for i := range a.Arrays {
		if err := a.Load(i); err != nil {
			return errors.Join(err, a.Close())
		}
	}
	return nil
}

func TestArchiveErrors(t *testing.T) {
	good := array(1, dict("<f2", "False", "(2,)"), 1, 2, 3, 4)
	store := zip.FileHeader{Name: "a.npy", Method: zip.Store, UncompressedSize64: uint64(len(good)), CRC32: crc32.ChecksumIEEE(good)}
	with := func(h zip.FileHeader, change func(*zip.FileHeader)) zip.FileHeader {
		change(&h)
		return h
	}
	deflated := with(store, func(h *zip.FileHeader) { h.Method = zip.Deflate })
	bomb := array(1, dict("<f2", "False", "(1000000000000,)"))
	for _, tc := range []struct {
		name string
		data []byte
		want string
	}{
		{"empty", nil, "the file is empty"},
		{"not a zip", []byte("this is no archive"), "not an .npz file: zip: not a valid zip file"},
		{"cut short", archive(t, member{"a.npy", zip.Store, good})[:80], "not an .npz file"},
		{"same name twice", archive(t, member{"a.npy", zip.Store, good}, member{"a.npy", zip.Store, good}), `array "a": occurs twice`},
		{"not an array", archive(t, member{"a.npy", zip.Store, []byte("text")}), `array "a": not a .npy file`},
		{"not an array, deflated", archive(t, member{"a.npy", zip.Deflate, []byte("text")}), `array "a": not a .npy file`},
		{"big-endian, deflated", archive(t, member{"a.npy", zip.Deflate, array(1, dict(">f2", "False", "()"), 0, 0)}), `array "a": dtype ">f2" is big-endian`},
		{"encrypted", rawArchive(t, with(store, func(h *zip.FileHeader) { h.Flags = 1 }), good), `array "a": the entry is encrypted`},
		{"method", rawArchive(t, with(store, func(h *zip.FileHeader) { h.Method = 12 }), good), `array "a": compression method 12 is not supported`},
		{"checksum", rawArchive(t, with(store, func(h *zip.FileHeader) { h.CRC32++ }), good), `array "a": zip: checksum error`},
		{"checksum, deflated", rawArchive(t, with(deflated, func(h *zip.FileHeader) { h.CRC32++ }), deflate(t, good)), `array "a": inflating: zip: checksum error`},
		{"stored with two sizes", rawArchive(t, with(store, func(h *zip.FileHeader) { h.UncompressedSize64-- }), good), `array "a": stored, but with the two sizes`},
		{"stored beyond the file", rawArchive(t, with(store, func(h *zip.FileHeader) { h.UncompressedSize64 = 1 << 40 }), good), `array "a": stored, but with the two sizes`},
		{"impossible ratio", rawArchive(t, with(deflated, func(h *zip.FileHeader) { h.UncompressedSize64 = uint64(len(bomb)) + 2e12 }), deflate(t, bomb)), `array "a": claims 2000000000080 bytes, more than`},
		{"shape beyond the entry", archive(t, member{"a.npy", zip.Deflate, bomb}), `array "a": F16 [1000000000000] takes 2000000000080 bytes with its header, but the archive says 80`},
		{"entry beyond the shape", archive(t, member{"a.npy", zip.Deflate, append(good, make([]byte, 1<<20)...)}), `array "a": F16 [2] takes 72 bytes with its header, but the archive says`},
		{"inflates to more", rawArchive(t, deflated, deflate(t, append(good, make([]byte, 1<<20)...))), `array "a": inflating: `},
		{"inflates to less", rawArchive(t, deflated, deflate(t, good[:len(good)-1])), `array "a": inflating: unexpected EOF`},
		{"not deflate", rawArchive(t, deflated, []byte{0xff, 0xff, 0xff, 0xff}), `array "a": flate: corrupt input`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, err := ParseArchive("x.npz", tc.data)
			if err == nil {
				err = loadAll(a)
			}
			if err == nil {
				t.Fatalf("got %+v, want an error", a)
			}
			if !strings.HasPrefix(err.Error(), "x.npz: ") || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %q, want the file's name and %q", err, tc.want)
			}
		})
	}
	path := filepath.Join(t.TempDir(), "absent.npz")
	if a, err := OpenArchive(path); err == nil || !strings.HasPrefix(err.Error(), path) {
		t.Errorf("got %v, %v; want an error that names the missing file", a, err)
	}
	if err := os.WriteFile(path, []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	if a, err := OpenArchive(path); err == nil || !strings.HasPrefix(err.Error(), path) {
		t.Errorf("got %v, %v; want an error that names the file", a, err)
	}
}

// overlapping makes an archive of n entries that share the bytes of one, as a bomb does
// that inflates to n times what its size allows.
func overlapping(t *testing.T, n int, method uint16) []byte {
	t.Helper()
	body := array(1, dict("<f2", "False", "(1, 1, 1000, 100)"), make([]byte, 200_000)...)
	whole := archive(t, member{"a.000.npy", method, body})
	// A directory entry for each, all of them with the first one's local header.
	end := bytes.LastIndex(whole, []byte("PK\x05\x06"))
	dir := bytes.Index(whole, []byte("PK\x01\x02"))
	entry := whole[dir:end]
	out := bytes.Clone(whole[:dir])
	for i := range n {
		e := bytes.Clone(entry)
		at := bytes.Index(e, []byte("a.000.npy"))
		copy(e[at:], fmt.Sprintf("a.%03d.npy", i))
		out = append(out, e...)
	}
	tail := bytes.Clone(whole[end:])
	binary.LittleEndian.PutUint16(tail[8:], uint16(n))
	binary.LittleEndian.PutUint16(tail[10:], uint16(n))
	binary.LittleEndian.PutUint32(tail[12:], uint32(n*len(entry)))
	return append(out, tail...)
}

func TestOverlappingEntries(t *testing.T) {
	for _, method := range []uint16{zip.Store, zip.Deflate} {
		if _, err := ParseArchive("x.npz", overlapping(t, 1, method)); err != nil {
			t.Errorf("one entry: %v", err)
		}
		_, err := ParseArchive("x.npz", overlapping(t, 500, method))
		if err == nil || !strings.HasPrefix(err.Error(), `x.npz: entry "a.`) || !strings.Contains(err.Error(), "overlap entry") {
			t.Errorf("500 entries of the same bytes: %v", err)
		}
	}
}

// TestLoadsOnlyWhatIsAsked: an array that is not loaded costs nothing, however much it
// would inflate to.
func TestLoadsOnlyWhatIsAsked(t *testing.T) {
	big := array(1, dict("<f2", "False", "(4194304,)"), make([]byte, 8<<20)...)
	small := array(1, dict("<f2", "False", "(2,)"), 1, 2, 3, 4)
	data := archive(t, member{"big.npy", zip.Deflate, big}, member{"small.npy", zip.Deflate, small})
	written := 0
	a, err := ReadArchive("x", bytes.NewReader(data), int64(len(data)), func(fill func(io.Writer) error) (*io.SectionReader, error) {
		var b bytes.Buffer
		err := fill(&b)
		written += b.Len()
		return io.NewSectionReader(bytes.NewReader(b.Bytes()), 0, int64(b.Len())), err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Load(1); err != nil {
		t.Fatal(err)
	}
	if b := checkArray(t, a.Arrays[1]); !bytes.Equal(b, []byte{1, 2, 3, 4}) || written != 4 {
		t.Errorf("read %v, %d bytes were inflated", b, written)
	}
}

func FuzzParseArchive(f *testing.F) {
	good := array(1, dict("<f2", "False", "(2,)"), 1, 2, 3, 4)
	f.Add(archive(f, member{"layers.0.q.npy", zip.Store, good}, member{"x", zip.Store, nil}))
	f.Add(archive(f, member{"layers.0.q.npy", zip.Deflate, good}))
	f.Add(archive(f, member{"a.npy", zip.Deflate, array(1, dict("<f8", "False", "(1000,)"), make([]byte, 8000)...)}))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := ParseArchive("fuzz", data)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "fuzz: ") {
				t.Fatalf("error %q does not name the file", err)
			}
			return
		}
		seen := make(map[string]bool)
		if err := loadAll(a); err != nil {
			if !strings.HasPrefix(err.Error(), "fuzz: ") {
				t.Fatalf("error %q does not name the file", err)
			}
			return
		}
		total := 0
		for _, x := range a.Arrays {
			b := checkArray(t, x)
			total += len(b)
			if seen[x.Name] {
				t.Fatalf("array %q occurs twice", x.Name)
			}
			seen[x.Name] = true
		}
		// All of them together: no byte of the file is inflated twice.
		if limit := (len(data) + 1) * maxDeflate; total > limit {
			t.Fatalf("%d bytes out of a file of %d", total, len(data))
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
