// Package safetensors reads and writes the safetensors format: an eight-byte
// little-endian header length, a JSON header that maps tensor names to a dtype,
// a shape and a byte range, and the tensors' bytes.
//
// Open reads the header alone; a tensor's bytes are read where they are asked for.
// Reading is strict, as the format asks: the byte ranges must cover the data exactly,
// with no overlap and no hole. A file that breaks a rule is refused with one error
// that names the file and, where there is one, the tensor; it never panics and
// never makes the reader allocate more than the file itself justifies.
//
// The format: https://huggingface.co/docs/safetensors/index#format
package safetensors

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"slices"

	"github.com/sageacc/sageacc/internal/datafile"
)

const (
	// lengthSize is the size of the header length that starts every file.
	lengthSize = 8
	// maxHeader is the format's own limit for the JSON header, in bytes.
	maxHeader = 100_000_000
	// maxDims is the most dimensions of a tensor, as in PyTorch.
	maxDims = 64
	// metadataKey is the one header key that is not a tensor name.
	metadataKey = "__metadata__"
)

// Tensor is one tensor, of a file or in memory.
type Tensor struct {
	// Name is unique within the file.
	Name string
	// DType is the format's name of the element type, such as "F16" or "I8".
	DType string
	// Shape is empty for a scalar.
	Shape []int
	// Data holds the elements, little-endian and row-major, of a tensor to be
	// written. It is nil for a tensor of a file: see ReadAt and Bytes.
	Data []byte
	// Offset is the position of the elements in the tensor's file.
	Offset int64

	file *File // nil in memory
	size int64
}

// Size returns the bytes that the elements take.
func (t *Tensor) Size() int64 {
	if t.file == nil {
		return int64(len(t.Data))
	}
	return t.size
}

// ReadAt implements [io.ReaderAt] over the elements' bytes. The error of a file that
// was truncated after it was opened names it.
func (t *Tensor) ReadAt(p []byte, off int64) (int, error) {
	if t.file == nil {
		return bytes.NewReader(t.Data).ReadAt(p, off)
	}
	if off < 0 || off > t.size {
		return 0, fmt.Errorf("%s: tensor %q has no byte %d", t.file.Name, t.Name, off)
	}
	if int64(len(p)) <= t.size-off {
		return t.file.r.ReadAt(p, t.Offset+off)
	}
	n, err := t.file.r.ReadAt(p[:t.size-off], t.Offset+off)
	if err == nil {
		err = io.EOF
	}
	return n, err
}

// Bytes returns the elements' bytes. Those of a tensor in memory are Data.
func (t *Tensor) Bytes() ([]byte, error) {
	if t.file == nil {
		return t.Data, nil
	}
	if t.size > math.MaxInt {
		return nil, fmt.Errorf("%s: tensor %q: %d bytes do not fit this system's address space", t.file.Name, t.Name, t.size)
	}
	b := make([]byte, t.size)
	if n, err := t.ReadAt(b, 0); n < len(b) {
		return nil, err
	}
	return b, nil
}

// File is an open safetensors file.
type File struct {
	// Name is the path given to Open, or the name given to Read.
	Name string
	// Metadata is the header's free-form string map; nil if there is none.
	Metadata map[string]string
	// Tensors are in the order of their bytes in the file.
	Tensors []Tensor

	r      io.ReaderAt
	byName map[string]int32
	close  func() error
}

// Open opens the file at path and checks its header.
func Open(path string) (*File, error) {
	p := datafile.NewPool(1)
	f, err := p.Open(path)
	if err != nil {
		return nil, err
	}
	out, err := Read(path, f, f.Size())
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	out.close = p.Close
	return out, nil
}

// Parse reads a file held in memory. The result's tensors read from data; name
// appears in errors only.
func Parse(name string, data []byte) (*File, error) {
	return Read(name, bytes.NewReader(data), int64(len(data)))
}

// Read reads the header of a file of size bytes. The result's tensors read from r;
// name appears in errors only.
func Read(name string, r io.ReaderAt, size int64) (*File, error) {
	f := &File{Name: name, r: r}
	if err := f.read(size); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return f, nil
}

// Tensor returns the named tensor, or nil if the file has none of that name.
func (f *File) Tensor(name string) *Tensor {
	i, ok := f.byName[name]
	if !ok {
		return nil
	}
	return &f.Tensors[i]
}

// Close closes the file. Its tensors must not be read afterwards.
func (f *File) Close() error {
	if f.close == nil {
		return nil
	}
	if err := f.close(); err != nil {
		return fmt.Errorf("%s: %w", f.Name, err)
	}
	return nil
}

func (f *File) read(size int64) error {
	header, length, err := f.header(size)
	if err != nil {
		return err
	}
	if err := f.parseHeader(header); err != nil {
		return err
	}
	// The name settles the order of empty tensors that share a position, so
	// that a file always reads the same.
	slices.SortFunc(f.Tensors, func(a, b Tensor) int {
		return cmp.Or(cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.size, b.size), cmp.Compare(a.Name, b.Name))
	})
	start := lengthSize + length
	body := size - start
	covered, last := int64(0), ""
	for i := range f.Tensors {
		t := &f.Tensors[i]
		begin, end := t.Offset, t.Offset+t.size
		if err := t.check(body); err != nil {
			return fmt.Errorf("tensor %q: %w", t.Name, err)
		}
		switch {
		case begin < covered:
			return fmt.Errorf("tensor %q: its bytes [%d, %d) overlap tensor %q, which ends at %d", t.Name, begin, end, last, covered)
		case begin > covered:
			return fmt.Errorf("tensor %q: its bytes start at %d and leave a hole of %d bytes before it", t.Name, begin, begin-covered)
		}
		covered, last = end, t.Name
		f.byName[t.Name] = int32(i)
		t.Offset, t.file = start+begin, f
	}
	if covered != body {
		return fmt.Errorf("%d bytes after the last tensor belong to none", body-covered)
	}
	return nil
}

// header finds the header and returns a reader of it and its length.
func (f *File) header(size int64) (io.Reader, int64, error) {
	if size == 0 {
		return nil, 0, errors.New("the file is empty")
	}
	if size < lengthSize {
		return nil, 0, fmt.Errorf("not a safetensors file: %d bytes cannot hold a header length", size)
	}
	var length [lengthSize]byte
	if err := f.readAt(length[:], 0); err != nil {
		return nil, 0, err
	}
	n := binary.LittleEndian.Uint64(length[:])
	// Any other kind of file gives an arbitrary length here, so both messages
	// say what the cause is likely to be.
	switch rest := size - lengthSize; {
	case n > maxHeader:
		return nil, 0, fmt.Errorf("not a safetensors file: a header of %d bytes is over the format's limit of %d", n, maxHeader)
	case n > uint64(rest):
		return nil, 0, fmt.Errorf("truncated, or not a safetensors file: the header is %d bytes long but only %d follow its length", n, rest)
	}
	first := []byte{0}
	if n > 0 {
		if err := f.readAt(first, lengthSize); err != nil {
			return nil, 0, err
		}
	}
	if first[0] != '{' {
		return nil, 0, errors.New("not a safetensors file: the header does not start with '{'")
	}
	return io.NewSectionReader(f.r, lengthSize, int64(n)), int64(n), nil
}

// readAt reads all of b.
func (f *File) readAt(b []byte, off int64) error {
	n, err := f.r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// parseHeader reads the header into Tensors, whose offsets are those in the header.
func (f *File) parseHeader(header io.Reader) error {
	// Shapes are cut from blocks: most are of a few numbers.
	var block []int
	f.byName = make(map[string]int32)
	s := &scanner{r: bufio.NewReaderSize(header, 1<<16)}
	hasMetadata := false
	err := s.object(func(key []byte) error {
		name := string(key)
		if name == metadataKey {
			if hasMetadata {
				return fmt.Errorf("%q occurs twice", name)
			}
			hasMetadata = true
			return f.parseMetadata(s)
		}
		if _, ok := f.byName[name]; ok {
			return fmt.Errorf("%q occurs twice", name)
		}
		f.byName[name] = 0
		if cap(block)-len(block) < maxDims {
			block = make([]int, 0, 4096)
		}
		t, err := parseEntry(s, name, &block)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", name, err)
		}
		f.Tensors = append(f.Tensors, t)
		return nil
	})
	if err != nil {
		return err
	}
	return s.end()
}

func (f *File) parseMetadata(s *scanner) error {
	f.Metadata = make(map[string]string)
	err := s.object(func(b []byte) error {
		key := string(b)
		if _, ok := f.Metadata[key]; ok {
			return fmt.Errorf("%q occurs twice", key)
		}
		value, err := s.text(maxValue)
		if err != nil {
			return fmt.Errorf("%q: %w", key, err)
		}
		f.Metadata[key] = string(value)
		return nil
	})
	if err != nil {
		return fmt.Errorf("metadata: %w", err)
	}
	return nil
}

// parseEntry reads a tensor's record. Its shape is taken from the end of block, which
// has room for one.
func parseEntry(s *scanner, name string, block *[]int) (Tensor, error) {
	t := Tensor{Name: name}
	var hasType, hasShape, hasOffsets bool
	var others map[string]bool
	twice := func(has *bool, key string) error {
		if *has {
			return fmt.Errorf("%q occurs twice", key)
		}
		*has = true
		return nil
	}
	err := s.object(func(key []byte) error {
		switch string(key) {
		case "dtype":
			if err := twice(&hasType, "dtype"); err != nil {
				return err
			}
			text, err := s.text(maxName)
			if err != nil {
				return fmt.Errorf("dtype: %w", err)
			}
			t.DType = known(text)
			return nil
		case "shape":
			if err := twice(&hasShape, "shape"); err != nil {
				return err
			}
			n := len(*block)
			shape, err := s.sizes((*block)[n:n:cap(*block)])
			if err != nil {
				return fmt.Errorf("shape: %w", err)
			}
			*block = (*block)[:n+len(shape)]
			t.Shape = shape[:len(shape):len(shape)]
			return nil
		case "data_offsets":
			if err := twice(&hasOffsets, "data_offsets"); err != nil {
				return err
			}
			var pair [2]int
			offsets, err := s.sizes(pair[:0])
			if err != nil {
				return fmt.Errorf("data_offsets: %w", err)
			}
			if len(offsets) != 2 {
				return fmt.Errorf("data_offsets: %d numbers, want a begin and an end", len(offsets))
			}
			t.Offset, t.size = int64(offsets[0]), int64(offsets[1])-int64(offsets[0])
			return nil
		}
		// The reference reader skips what it does not know, too.
		if others[string(key)] {
			return fmt.Errorf("%q occurs twice", key)
		}
		if others == nil {
			others = make(map[string]bool)
		}
		others[string(key)] = true
		_, err := s.skip(0)
		return err
	})
	switch {
	case err != nil:
		return t, err
	case !hasType:
		return t, errors.New("has no dtype")
	case !hasShape:
		return t, errors.New("has no shape")
	case !hasOffsets:
		return t, errors.New("has no data_offsets")
	}
	return t, nil
}

// check holds a tensor's dtype, shape and range, which begins at Offset in the data,
// against each other and against the size of the data.
func (t *Tensor) check(bodySize int64) error {
	size, err := byteSize(t.DType, t.Shape)
	begin, end := t.Offset, t.Offset+t.size
	switch {
	case err != nil:
		return err
	case begin > end:
		return fmt.Errorf("its bytes end at %d, before they start at %d", end, begin)
	case end > bodySize:
		return fmt.Errorf("its bytes [%d, %d) are out of the file's %d bytes of data", begin, end, bodySize)
	case t.size != int64(size):
		return fmt.Errorf("%s %v takes %d bytes, but its range [%d, %d) has %d", t.DType, t.Shape, size, begin, end, t.size)
	}
	return nil
}

// byteSize returns the bytes that a tensor takes.
func byteSize(dtype string, shape []int) (int, error) {
	width := bitWidth(dtype)
	if width == 0 {
		return 0, fmt.Errorf("unknown dtype %q", dtype)
	}
	total := uint64(width)
	for _, n := range shape {
		if n < 0 {
			return 0, fmt.Errorf("negative size in the shape %v", shape)
		}
		hi, lo := bits.Mul64(total, uint64(n))
		if hi != 0 {
			return 0, fmt.Errorf("the shape %v overflows", shape)
		}
		total = lo
	}
	if total%8 != 0 {
		return 0, fmt.Errorf("%s %v does not fill whole bytes", dtype, shape)
	}
	if total /= 8; total > math.MaxInt {
		return 0, fmt.Errorf("the shape %v overflows", shape)
	}
	return int(total), nil
}

// widths are the bits of an element by dtype.
var widths = []struct {
	dtype string
	bits  int
}{
	{"F16", 16}, {"BF16", 16}, {"F32", 32},
	{"F4", 4}, {"F6_E2M3", 6}, {"F6_E3M2", 6},
	{"BOOL", 8}, {"U8", 8}, {"I8", 8}, {"F8_E4M3", 8}, {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8},
	{"U16", 16}, {"I16", 16},
	{"U32", 32}, {"I32", 32},
	{"U64", 64}, {"I64", 64}, {"F64", 64}, {"C64", 64},
}

// known returns the dtype of that name, or a copy of the name of none.
func known(name []byte) string {
	for i := range widths {
		if widths[i].dtype == string(name) {
			return widths[i].dtype
		}
	}
	return string(name)
}

// bitWidth returns the bits of one element, or 0 for an unknown dtype.
func bitWidth(dtype string) int {
	for i := range widths {
		if widths[i].dtype == dtype {
			return widths[i].bits
		}
	}
	return 0
}
