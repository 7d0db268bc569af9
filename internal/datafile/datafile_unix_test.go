//go:build unix

package datafile

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestPipe: a pipe that nobody writes to does not block.
func TestPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Skip(err)
	}
	done := make(chan error)
	go func() {
		_, err := NewPool(1).Open(path)
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), path+": is a pipe") {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("blocked")
	}
}
