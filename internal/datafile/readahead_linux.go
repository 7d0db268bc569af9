package datafile

import "golang.org/x/sys/unix"

// WillNeed asks the system to read n bytes from off on ahead of time, into its cache. It
// is a hint: nothing waits for it and nothing depends on it.
func (f *File) WillNeed(off, n int64) {
	fd, err := f.acquire()
	if err != nil {
		return // who reads it is told
	}
	defer f.release()
	// What the system makes of a hint is no error of ours.
	_ = unix.Fadvise(int(fd.Fd()), off, n, unix.FADV_WILLNEED)
}
