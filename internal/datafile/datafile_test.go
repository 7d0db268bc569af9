package datafile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func write(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t *testing.T, p *Pool, path string) *File {
	t.Helper()
	f, err := p.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestReadAt(t *testing.T) {
	p := NewPool(2)
	defer p.Close()
	want := bytes.Repeat([]byte("sageacc "), 1000)
	f := open(t, p, write(t, "data", want))
	if f.Size() != int64(len(want)) {
		t.Errorf("size %d", f.Size())
	}
	got := make([]byte, 100)
	if n, err := f.ReadAt(got, 777); n != 100 || err != nil || !bytes.Equal(got, want[777:877]) {
		t.Errorf("read %d, %v", n, err)
	}
	if n, err := f.ReadAt(got, f.Size()-10); n != 10 || err != io.EOF {
		t.Errorf("at the end: read %d, %v", n, err)
	}
	if n, err := f.ReadAt(got[:10], f.Size()-10); n != 10 || err != nil {
		t.Errorf("up to the end: read %d, %v", n, err)
	}
	if err := f.Check(); err != nil {
		t.Error(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if _, err := f.ReadAt(got, 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

func TestNotRegular(t *testing.T) {
	dir := t.TempDir()
	for path, want := range map[string]string{
		filepath.Join(dir, "absent"): "absent: ",
		dir:                          dir + ": is a folder",
		os.DevNull:                   os.DevNull + ": is a device, not a regular file",
	} {
		p := NewPool(1)
		if _, err := p.Open(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
		if _, err := ReadAll(path, 100); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := Open(filepath.Join(dir, "absent")); !errors.Is(err, fs.ErrNotExist) || strings.Count(err.Error(), "absent") != 1 {
		t.Error(err)
	}
}

func TestReadAll(t *testing.T) {
	path := write(t, "data", make([]byte, 1000))
	if b, err := ReadAll(path, 1000); len(b) != 1000 || err != nil {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if _, err := ReadAll(path, 999); err == nil || !strings.Contains(err.Error(), "1000 bytes are over the limit of 999") {
		t.Error(err)
	}
}

// TestChanged: a file that does not stay as it was is an error that names it, and not
// a fault of the process.
func TestChanged(t *testing.T) {
	data := make([]byte, 100_000)
	for _, tc := range []struct {
		name   string
		change func(path string) error
		read   bool // whether reading finds it; Check always does
	}{
		{"truncated", func(path string) error { return os.Truncate(path, 50_000) }, true},
		{"emptied", func(path string) error { return os.Truncate(path, 0) }, true},
		{"grown", func(path string) error { return os.Truncate(path, 100_001) }, false},
		{"overwritten", func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			if _, err := f.WriteAt([]byte("x"), 5); err != nil {
				return err
			}
			// The change may fall into the tick of the clock in which the file was made.
			return errors.Join(f.Close(), os.Chtimes(path, time.Time{}, time.Now().Add(time.Second)))
		}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := NewPool(2)
			defer p.Close()
			path := write(t, "data", data)
			f := open(t, p, path)
			if err := tc.change(path); err != nil {
				t.Fatal(err)
			}
			_, err := f.ReadAt(make([]byte, 1000), 99_000)
			if tc.read != (err != nil) || err != nil && (!errors.Is(err, errChanged) || !strings.HasPrefix(err.Error(), path)) {
				t.Errorf("ReadAt: %v", err)
			}
			if err := f.Check(); !errors.Is(err, errChanged) || !strings.HasPrefix(err.Error(), path) {
				t.Errorf("Check: %v", err)
			}
		})
	}
}

// TestReplaced: a file whose name another file took is read to its end while its
// descriptor is open, and refused after that.
func TestReplaced(t *testing.T) {
	p := NewPool(1)
	defer p.Close()
	path := write(t, "data", []byte("old"))
	f := open(t, p, path)
	next := filepath.Join(filepath.Dir(path), "next")
	if err := os.WriteFile(next, []byte("new"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, path); err != nil {
		t.Skip(err)
	}
	b := make([]byte, 3)
	if _, err := f.ReadAt(b, 0); err != nil || string(b) != "old" {
		t.Errorf("read %q, %v", b, err)
	}
	if err := f.Check(); err != nil {
		t.Error(err)
	}
	open(t, p, path) // takes the one descriptor
	if _, err := f.ReadAt(b, 0); !errors.Is(err, errChanged) {
		t.Errorf("read %q, %v", b, err)
	}
}

// TestManyFiles: more files than descriptors are read, by several goroutines.
func TestManyFiles(t *testing.T) {
	const files, most = 50, 4
	p := NewPool(most)
	defer p.Close()
	var all []*File
	for i := range files {
		all = append(all, open(t, p, write(t, "data", fmt.Appendf(nil, "%04d", i))))
	}
	var wg sync.WaitGroup
	for g := range 3 {
		wg.Go(func() {
			b := make([]byte, 4)
			for i := range 500 {
				n := (i*7 + g) % files
				if _, err := all[n].ReadAt(b, 0); err != nil || string(b) != fmt.Sprintf("%04d", n) {
					t.Errorf("file %d: %q, %v", n, b, err)
				}
			}
		})
	}
	wg.Wait()
	if n := p.open.Len(); n > most {
		t.Errorf("%d descriptors are open", n)
	}
}

func TestSpool(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	t.Setenv("TMP", temp)
	// What a process that was killed has left.
	left := filepath.Join(temp, "sageacc-spool-1234")
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := NewPool(1)
	for i := range 3 {
		text := strings.Repeat(fmt.Sprint(i), 1000)
		s, err := p.Spool(func(w io.Writer) error {
			_, err := io.WriteString(w, text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 1000)
		if _, err := s.ReadAt(got, 0); err != nil || string(got) != text || s.Size() != 1000 {
			t.Errorf("read %.10s..., %v", got, err)
		}
	}
	boom := errors.New("boom")
	if _, err := p.Spool(func(io.Writer) error { return boom }); !errors.Is(err, boom) {
		t.Errorf("a failing writer: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if names, err := os.ReadDir(temp); err != nil || len(names) != 0 {
		t.Errorf("left behind: %v, %v", names, err)
	}
}
