//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package atomicfile

import (
	"os"
	"time"
)

const nonblock = 0

// writable reports a folder in which no file can be made.
func writable(dir string) error {
	f, err := os.CreateTemp(dir, ".sageacc-*")
	if err != nil {
		return err
	}
	f.Close()
	return os.Remove(f.Name())
}

// claim has nothing to lock; an open file cannot be removed.
func claim(*os.File) bool { return true }

// removeAbandoned removes a temporary file that has not been written to for a while,
// if the system lets it.
func removeAbandoned(name string) {
	if st, err := os.Lstat(name); err == nil && st.Mode().IsRegular() && time.Since(st.ModTime()) > time.Hour {
		os.Remove(name)
	}
}

// rename closes the file and gives it its name.
func (f *File) rename() error {
	if err := f.f.Close(); err != nil {
		return err
	}
	return os.Rename(f.f.Name(), f.target)
}

func syncFolder(string) {}
