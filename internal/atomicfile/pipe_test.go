//go:build unix

package atomicfile

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestPipe: a pipe that nobody reads is an error at once; one that is read gets the
// content, and stays a pipe.
func TestPipe(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Skip(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := Create(path)
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), "it is a pipe that nobody reads") {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("blocked")
	}
	r, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	text := strings.Repeat("more than a pipe holds. ", 10_000)
	go func() {
		f, err := Create(path)
		if err == nil {
			_, err = io.WriteString(f, text)
		}
		if err == nil {
			err = f.Commit()
		}
		done <- err
	}()
	var got strings.Builder
	for got.Len() < len(text) {
		b := make([]byte, 4096)
		n, err := r.Read(b)
		if err != nil && err != io.EOF {
			t.Fatal(err)
		}
		got.Write(b[:n])
	}
	if err := <-done; err != nil || got.String() != text {
		t.Errorf("%d bytes came of %d, %v", got.Len(), len(text), err)
	}
	if names := names(t, dir); names != "pipe" {
		t.Errorf("the folder holds %s", names)
	}
}
