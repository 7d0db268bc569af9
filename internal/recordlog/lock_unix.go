//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package recordlog

import (
	"os"

	"golang.org/x/sys/unix"
)

// lock keeps other processes from appending, until the file is closed. Where files cannot
// be locked, nothing does.
func lock(f *os.File) bool {
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != unix.EWOULDBLOCK
}
