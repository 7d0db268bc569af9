// Package mapfile gives read-only byte slices that are backed by files rather
// than by the Go heap, so that a dump larger than memory can be walked layer by
// layer. Where the system has no memory map the bytes are simply read.
package mapfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
)

// File is the content of one file. Its bytes must not be written to, nor used
// after Close; truncating the file while it is open faults the process, as it
// does for every reader of a memory map.
type File struct {
	data   []byte
	mapped bool
}

// Open maps the regular file at path.
func Open(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		// The path is repeated by every caller's own context, so only the
		// reason is kept of *fs.PathError's "open PATH: reason".
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	defer f.Close() // the map outlives the descriptor
	m, err := load(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// Spool runs fill with a writer into an unnamed temporary file and maps what
// was written. It keeps data that must be produced (such as a decompressed
// archive entry) out of the heap.
func Spool(fill func(io.Writer) error) (*File, error) {
	f, err := os.CreateTemp("", "sageacc-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name()) // deferred first: some systems remove only closed files
	defer f.Close()
	if err := fill(f); err != nil {
		return nil, err
	}
	return load(f)
}

func load(f *os.File) (*File, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	switch {
	case st.IsDir():
		return nil, errors.New("is a folder")
	case !st.Mode().IsRegular():
		return nil, errors.New("is not a regular file")
	case st.Size() == 0:
		return new(File), nil // an empty map is an error to the system
	case st.Size() > math.MaxInt:
		return nil, fmt.Errorf("%d bytes do not fit this system's address space", st.Size())
	}
	return loadRegular(f, int(st.Size()))
}

// Bytes returns the whole content.
func (f *File) Bytes() []byte { return f.data }

// Release tells the system that the pages wholly inside b, a part of Bytes, are
// not needed for now. They are read from the file again when touched.
func (f *File) Release(b []byte) {
	if f.mapped && len(b) > 0 {
		release(b)
	}
}

// Close gives the bytes back. Further calls do nothing.
func (f *File) Close() error {
	data, mapped := f.data, f.mapped
	f.data, f.mapped = nil, false
	if !mapped {
		return nil
	}
	return unmap(data)
}
