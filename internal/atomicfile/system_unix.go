//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package atomicfile

import (
	"os"

	"golang.org/x/sys/unix"
)

// nonblock keeps the opening of a pipe from waiting for its reader.
const nonblock = unix.O_NONBLOCK | unix.O_NOCTTY

// writable reports a folder in which no file can be made.
func writable(dir string) error {
	return unix.Access(dir, unix.W_OK|unix.X_OK)
}

// claim locks a temporary file that was just made and reports whether it still has its
// name. The lock ends with the process. Where files cannot be locked they count as
// claimed: there nobody can lock them to remove them either.
func claim(f *os.File) bool {
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err {
	case nil:
		return named(f, f.Name())
	case unix.EWOULDBLOCK:
		return false
	}
	return true
}

// named reports whether name is the name of the open file.
func named(f *os.File, name string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Lstat(name)
	return err == nil && os.SameFile(a, b)
}

// removeAbandoned removes a temporary file if no process has it locked.
func removeAbandoned(name string) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() || unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return
	}
	if named(f, name) {
		os.Remove(name)
	}
}

// rename gives the file its name while it is locked, and closes it.
func (f *File) rename() error {
	if err := os.Rename(f.f.Name(), f.target); err != nil {
		return err
	}
	// It is on the disk already.
	f.f.Close()
	return nil
}

// syncFolder puts the name on the disk, where the system can.
func syncFolder(dir string) {
	if d, err := os.Open(dir); err == nil {
		d.Sync()
		d.Close()
	}
}
