// Package npy reads NumPy's .npy files and .npz archives of them.
//
// It reads the arrays that dumps are made of: versions 1, 2 and 3 of the
// format, little-endian numbers in C order, and bfloat16 as NumPy's ml_dtypes
// extension saves it. Everything else is refused with one error that names the
// file and the array. Elements are read where they are asked for; compressed
// archive entries are inflated into a temporary file when they are loaded, so that
// they do not fill the memory either, and only after their header, their directory
// entry and what deflate can possibly yield agree on the size.
//
// The format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
package npy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"strings"

	"github.com/sageacc/sageacc/internal/datafile"
)

const (
	magic = "\x93NUMPY"
	// maxHeader bounds the header's text. NumPy itself refuses more than
	// 10,000 bytes unless told otherwise.
	maxHeader = 1 << 16
)

// Array is one array.
type Array struct {
	// Name is the array's name in its archive; empty for a .npy file.
	Name string
	// DType is the element type under its safetensors name, such as "F16".
	DType string
	// Shape is empty for a scalar.
	Shape []int
	// Size is the bytes that the elements take.
	Size int64

	data *io.SectionReader // nil for an archive's array that is not loaded
}

// errNotLoaded is what reading an array of an archive gives before it is loaded.
var errNotLoaded = errors.New("npy: the array is not loaded")

// ReadAt implements [io.ReaderAt] over the elements' bytes, little-endian and
// row-major. An archive's array must have been loaded.
func (a *Array) ReadAt(p []byte, off int64) (int, error) {
	if a.data == nil {
		return 0, errNotLoaded
	}
	return a.data.ReadAt(p, off)
}

// Bytes returns the elements' bytes; see ReadAt.
func (a *Array) Bytes() ([]byte, error) {
	if a.Size > math.MaxInt {
		return nil, fmt.Errorf("array %q: %d bytes do not fit this system's address space", a.Name, a.Size)
	}
	b := make([]byte, a.Size)
	if n, err := a.ReadAt(b, 0); n < len(b) || err == errNotLoaded {
		return nil, err
	}
	return b, nil
}

// File is an open .npy file.
type File struct {
	// Name is the path given to Open.
	Name string
	Array
	close func() error
}

// Open opens the .npy file at path and checks its header.
func Open(path string) (*File, error) {
	p := datafile.NewPool(1)
	f, err := p.Open(path)
	if err != nil {
		return nil, err
	}
	a, err := Read(path, f, f.Size())
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return &File{Name: path, Array: a, close: p.Close}, nil
}

// Close closes the file. Its elements must not be read afterwards.
func (f *File) Close() error {
	if err := f.close(); err != nil {
		return fmt.Errorf("%s: %w", f.Name, err)
	}
	return nil
}

// Parse reads a .npy file held in memory. The array reads from data; name appears in
// errors only.
func Parse(name string, data []byte) (Array, error) {
	return Read(name, bytes.NewReader(data), int64(len(data)))
}

// Read reads the header of a .npy file of size bytes. The array reads from r; name
// appears in errors only.
func Read(name string, r io.ReaderAt, size int64) (Array, error) {
	a, err := read(io.NewSectionReader(r, 0, size))
	if err != nil {
		return Array{}, fmt.Errorf("%s: %w", name, err)
	}
	return a, nil
}

// read reads a .npy file, or an entry that is one.
func read(r *io.SectionReader) (Array, error) {
	if r.Size() == 0 {
		return Array{}, errors.New("the file is empty")
	}
	text, err := readHeader(r)
	if err != nil {
		return Array{}, err
	}
	a, err := parseHeader(text)
	if err != nil {
		return Array{}, err
	}
	start, err := r.Seek(0, io.SeekCurrent)
	if err != nil {
		return Array{}, err
	}
	if rest := r.Size() - start; rest != a.Size {
		return Array{}, fmt.Errorf("%s %v takes %d bytes, but %d follow the header", a.DType, a.Shape, a.Size, rest)
	}
	a.data = io.NewSectionReader(r, start, a.Size)
	return a, nil
}

// readHeader reads up to the array's bytes and returns the header's text.
func readHeader(r io.Reader) (string, error) {
	var prefix [len(magic) + 2 + 4]byte
	if _, err := io.ReadFull(r, prefix[:len(magic)+2]); err != nil || string(prefix[:len(magic)]) != magic {
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return "", err
		}
		return "", errors.New("not a .npy file: it does not start with \\x93NUMPY and a version")
	}
	var n uint32
	length := prefix[len(magic)+2:]
	switch major, minor := prefix[len(magic)], prefix[len(magic)+1]; {
	case major == 1 && minor == 0:
		if _, err := io.ReadFull(r, length[:2]); err != nil {
			return "", fmt.Errorf("truncated in the header length: %w", err)
		}
		n = uint32(binary.LittleEndian.Uint16(length))
	case (major == 2 || major == 3) && minor == 0:
		if _, err := io.ReadFull(r, length); err != nil {
			return "", fmt.Errorf("truncated in the header length: %w", err)
		}
		n = binary.LittleEndian.Uint32(length)
	default:
		return "", fmt.Errorf("version %d.%d of the .npy format is not supported", major, minor)
	}
	if n > maxHeader {
		return "", fmt.Errorf("a header of %d bytes is over the limit of %d", n, maxHeader)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return "", fmt.Errorf("truncated in the header of %d bytes: %w", n, err)
	}
	return string(text), nil
}

// parseHeader reads the header's dict and returns the array, without its data.
func parseHeader(text string) (Array, error) {
	h, err := parseDict(text)
	if err != nil {
		return Array{}, fmt.Errorf("header: %w", err)
	}
	dtype, width, err := elementType(h.descr)
	if err != nil {
		return Array{}, err
	}
	if h.fortran {
		return Array{}, errors.New("the array is in Fortran order; only C order is supported (numpy.ascontiguousarray converts)")
	}
	total := uint64(width)
	for _, n := range h.shape {
		hi, lo := bits.Mul64(total, uint64(n))
		if hi != 0 || lo > math.MaxInt64 {
			return Array{}, fmt.Errorf("the shape %v overflows", h.shape)
		}
		total = lo
	}
	return Array{DType: dtype, Shape: h.shape, Size: int64(total)}, nil
}

// elementType turns a descr into a safetensors dtype name and its bytes.
func elementType(descr string) (dtype string, width int, err error) {
	switch descr {
	case "|b1":
		return "BOOL", 1, nil
	case "|u1":
		return "U8", 1, nil
	case "|i1":
		return "I8", 1, nil
	case "<u2":
		return "U16", 2, nil
	case "<i2":
		return "I16", 2, nil
	case "<f2":
		return "F16", 2, nil
	// NumPy has no bfloat16: ml_dtypes' one is saved as two opaque bytes.
	case "|V2", "<V2", "bfloat16":
		return "BF16", 2, nil
	case "<u4":
		return "U32", 4, nil
	case "<i4":
		return "I32", 4, nil
	case "<f4":
		return "F32", 4, nil
	case "<u8":
		return "U64", 8, nil
	case "<i8":
		return "I64", 8, nil
	case "<f8":
		return "F64", 8, nil
	}
	if strings.HasPrefix(descr, ">") {
		return "", 0, fmt.Errorf("dtype %q is big-endian; only little-endian is supported", descr)
	}
	return "", 0, fmt.Errorf("unsupported dtype %q", descr)
}
