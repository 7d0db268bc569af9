//go:build darwin || freebsd || linux || netbsd || openbsd

package mapfile

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

func loadRegular(f *os.File, size int) (*File, error) {
	data, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("memory map of %d bytes: %w", size, err)
	}
	return &File{data: data, mapped: true}, nil
}

// release drops only the pages wholly inside b, because its neighbours in the
// same page may still be in use. The advice is only that: an error changes
// nothing for the caller.
func release(b []byte) {
	page := os.Getpagesize()
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) & (page - 1)
	if skip >= len(b) {
		return
	}
	b = b[skip:]
	if b = b[:len(b)&^(page-1)]; len(b) > 0 {
		_ = unix.Madvise(b, unix.MADV_DONTNEED)
	}
}

func unmap(data []byte) error { return unix.Munmap(data) }
