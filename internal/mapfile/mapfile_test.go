package mapfile

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOpenReleaseClose(t *testing.T) {
	want := bytes.Repeat([]byte("sageacc "), 10_000)
	path := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(path, want, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	// Whatever part is released, the bytes must read the same afterwards.
	for _, part := range [][2]int{{0, 0}, {0, len(want)}, {1, 4095}, {1, 4097}, {100, 70_001}, {4096, 8192}} {
		f.Release(f.Bytes()[part[0]:part[1]])
		if !bytes.Equal(f.Bytes(), want) {
			t.Fatalf("after Release(%v) the bytes differ", part)
		}
	}
	for range 2 {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	if f.Bytes() != nil {
		t.Error("bytes after Close")
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	_, err := Open(filepath.Join(dir, "absent"))
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "absent") {
		t.Errorf("missing file: %v", err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("folder: %v", err)
	}
	path := filepath.Join(dir, "empty")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil || len(f.Bytes()) != 0 {
		t.Fatalf("empty file: %v", err)
	}
	f.Release(f.Bytes())
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func TestSpool(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	f, err := Spool(func(w io.Writer) error {
		_, err := io.WriteString(w, "spooled")
		return err
	})
	if err != nil || string(f.Bytes()) != "spooled" {
		t.Fatalf("Spool: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	boom := errors.New("boom")
	if _, err := Spool(func(io.Writer) error { return boom }); !errors.Is(err, boom) {
		t.Errorf("Spool with a failing writer: %v", err)
	}
	left, err := os.ReadDir(os.TempDir())
	if err != nil || len(left) != 0 {
		t.Errorf("temporary files left behind: %v, %v", left, err)
	}
}
