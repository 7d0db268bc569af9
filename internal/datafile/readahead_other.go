//go:build !linux

package datafile

// WillNeed does nothing: only Linux is asked to read ahead.
func (f *File) WillNeed(off, n int64) {}
