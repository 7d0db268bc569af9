//go:build !(darwin || freebsd || linux || netbsd || openbsd)

package mapfile

import (
	"io"
	"os"
)

func loadRegular(f *os.File, size int) (*File, error) {
	data := make([]byte, size)
	if _, err := f.ReadAt(data, 0); err != nil && err != io.EOF {
		return nil, err
	}
	return &File{data: data}, nil
}

func release([]byte) {}

func unmap([]byte) error { return nil }
