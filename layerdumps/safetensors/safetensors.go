// Package safetensors reads and writes the safetensors format: an eight-byte
// little-endian header length, a JSON header that maps tensor names to a dtype,
// a shape and a byte range, and the tensors' bytes.
//
// Open maps the file, so a tensor's Data costs no heap memory. Reading is
// strict, as the format asks: the byte ranges must cover the data exactly, with
// no overlap and no hole. A file that breaks a rule is refused with one error
// that names the file and, where there is one, the tensor; it never panics and
// never makes the reader allocate more than the file itself justifies.
//
// The format: https://huggingface.co/docs/safetensors/index#format
package safetensors

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"slices"
	"unicode/utf8"

	"github.com/sageacc/sageacc/internal/mapfile"
)

const (
	// lengthSize is the size of the header length that starts every file.
	lengthSize = 8
	// maxHeader is the format's own limit for the JSON header, in bytes.
	maxHeader = 100_000_000
	// metadataKey is the one header key that is not a tensor name.
	metadataKey = "__metadata__"
)

// Tensor is one tensor of a file.
type Tensor struct {
	// Name is unique within the file.
	Name string
	// DType is the format's name of the element type, such as "F16" or "I8".
	DType string
	// Shape is empty for a scalar.
	Shape []int
	// Data holds the elements, little-endian and row-major. It is a part of
	// the file's map: read-only, of any alignment, and invalid after Close.
	Data []byte
}

// File is an open safetensors file.
type File struct {
	// Name is the path given to Open, or the name given to Parse.
	Name string
	// Metadata is the header's free-form string map; nil if there is none.
	Metadata map[string]string
	// Tensors are in the order of their bytes in the file.
	Tensors []Tensor

	byName map[string]int
	m      *mapfile.File // nil after Parse
}

// Open maps the file at path and checks its header.
func Open(path string) (*File, error) {
	m, err := mapfile.Open(path)
	if err != nil {
		return nil, err
	}
	f, err := Parse(path, m.Bytes())
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	f.m = m
	return f, nil
}

// Parse reads a file held in memory. The result's tensors refer to data; name
// appears in errors only.
func Parse(name string, data []byte) (*File, error) {
	f := &File{Name: name}
	if err := f.parse(data); err != nil {
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

// Release tells the system that data, the Data of one of the file's tensors, is
// not needed for now; it stays readable.
func (f *File) Release(data []byte) {
	if f.m != nil {
		f.m.Release(data)
	}
}

// Close unmaps the file. Its tensors' Data must not be used afterwards.
func (f *File) Close() error {
	if f.m == nil {
		return nil
	}
	if err := f.m.Close(); err != nil {
		return fmt.Errorf("%s: %w", f.Name, err)
	}
	return nil
}

// entry is a header's record of a tensor, before its range is resolved.
type entry struct {
	name       string
	dtype      string
	shape      []int
	begin, end int
}

func (f *File) parse(data []byte) error {
	header, body, err := split(data)
	if err != nil {
		return err
	}
	entries, err := f.parseHeader(header)
	if err != nil {
		return err
	}
	// The name settles the order of empty tensors that share a position, so
	// that a file always reads the same.
	slices.SortFunc(entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.begin, b.begin), cmp.Compare(a.end, b.end), cmp.Compare(a.name, b.name))
	})
	f.Tensors = make([]Tensor, 0, len(entries))
	f.byName = make(map[string]int, len(entries))
	covered, last := 0, ""
	for _, e := range entries {
		if err := e.check(len(body)); err != nil {
			return fmt.Errorf("tensor %q: %w", e.name, err)
		}
		switch {
		case e.begin < covered:
			return fmt.Errorf("tensor %q: its bytes [%d, %d) overlap tensor %q, which ends at %d", e.name, e.begin, e.end, last, covered)
		case e.begin > covered:
			return fmt.Errorf("tensor %q: its bytes start at %d and leave a hole of %d bytes before it", e.name, e.begin, e.begin-covered)
		}
		covered, last = e.end, e.name
		f.byName[e.name] = len(f.Tensors)
		f.Tensors = append(f.Tensors, Tensor{Name: e.name, DType: e.dtype, Shape: e.shape, Data: body[e.begin:e.end:e.end]})
	}
	if covered != len(body) {
		return fmt.Errorf("%d bytes after the last tensor belong to none", len(body)-covered)
	}
	return nil
}

// split finds the header and the tensor bytes.
func split(data []byte) (header, body []byte, err error) {
	if len(data) == 0 {
		return nil, nil, errors.New("the file is empty")
	}
	if len(data) < lengthSize {
		return nil, nil, fmt.Errorf("not a safetensors file: %d bytes cannot hold a header length", len(data))
	}
	n := binary.LittleEndian.Uint64(data)
	rest := data[lengthSize:]
	// Any other kind of file gives an arbitrary length here, so both messages
	// say what the cause is likely to be.
	switch {
	case n > maxHeader:
		return nil, nil, fmt.Errorf("not a safetensors file: a header of %d bytes is over the format's limit of %d", n, maxHeader)
	case n > uint64(len(rest)):
		return nil, nil, fmt.Errorf("truncated, or not a safetensors file: the header is %d bytes long but only %d follow its length", n, len(rest))
	}
	header, body = rest[:n], rest[n:]
	if len(header) == 0 || header[0] != '{' {
		return nil, nil, errors.New("not a safetensors file: the header does not start with '{'")
	}
	if !utf8.Valid(header) {
		return nil, nil, errors.New("the header is not UTF-8")
	}
	return header, body, nil
}

func (f *File) parseHeader(header []byte) ([]entry, error) {
	var entries []entry
	d := json.NewDecoder(bytes.NewReader(header))
	err := object(d, func(key string) error {
		if key == metadataKey {
			return f.parseMetadata(d)
		}
		e, err := parseEntry(d, key)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", key, err)
		}
		entries = append(entries, e)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("the header has more than one JSON value")
	}
	return entries, nil
}

func (f *File) parseMetadata(d *json.Decoder) error {
	f.Metadata = make(map[string]string)
	err := object(d, func(key string) error {
		var value *string
		if err := decode(d, &value); err != nil {
			return fmt.Errorf("%q: %w", key, err)
		}
		if value == nil {
			return fmt.Errorf("%q: the value is null, not a string", key)
		}
		f.Metadata[key] = *value
		return nil
	})
	if err != nil {
		return fmt.Errorf("metadata: %w", err)
	}
	return nil
}

func parseEntry(d *json.Decoder, name string) (entry, error) {
	e := entry{name: name}
	var hasType, hasShape, hasOffsets bool
	err := object(d, func(key string) error {
		switch key {
		case "dtype":
			hasType = true
			if err := decode(d, &e.dtype); err != nil {
				return fmt.Errorf("dtype: %w", err)
			}
			return nil
		case "shape":
			hasShape = true
			shape, err := decodeSizes(d)
			if err != nil {
				return fmt.Errorf("shape: %w", err)
			}
			e.shape = shape
			return nil
		case "data_offsets":
			hasOffsets = true
			offsets, err := decodeSizes(d)
			if err != nil {
				return fmt.Errorf("data_offsets: %w", err)
			}
			if len(offsets) != 2 {
				return fmt.Errorf("data_offsets: %d numbers, want a begin and an end", len(offsets))
			}
			e.begin, e.end = offsets[0], offsets[1]
			return nil
		default:
			// The reference reader skips what it does not know, too.
			var skipped json.RawMessage
			return decode(d, &skipped)
		}
	})
	switch {
	case err != nil:
		return e, err
	case !hasType:
		return e, errors.New("has no dtype")
	case !hasShape:
		return e, errors.New("has no shape")
	case !hasOffsets:
		return e, errors.New("has no data_offsets")
	}
	return e, nil
}

// check holds the entry's dtype, shape and range against each other and against
// the size of the data.
func (e *entry) check(bodySize int) error {
	size, err := byteSize(e.dtype, e.shape)
	switch {
	case err != nil:
		return err
	case e.begin > e.end:
		return fmt.Errorf("its bytes end at %d, before they start at %d", e.end, e.begin)
	case e.end > bodySize:
		return fmt.Errorf("its bytes [%d, %d) are out of the file's %d bytes of data", e.begin, e.end, bodySize)
	case e.end-e.begin != size:
		return fmt.Errorf("%s %v takes %d bytes, but its range [%d, %d) has %d", e.dtype, e.shape, size, e.begin, e.end, e.end-e.begin)
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

// bitWidth returns the bits of one element, or 0 for an unknown dtype.
func bitWidth(dtype string) int {
	switch dtype {
	case "F4":
		return 4
	case "F6_E2M3", "F6_E3M2":
		return 6
	case "BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ":
		return 8
	case "U16", "I16", "F16", "BF16":
		return 16
	case "U32", "I32", "F32":
		return 32
	case "U64", "I64", "F64", "C64":
		return 64
	default:
		return 0
	}
}

// object reads a JSON object key by key; value must consume the key's value.
// Unlike decoding into a map, it sees a key that occurs twice.
func object(d *json.Decoder, value func(key string) error) error {
	token, err := d.Token()
	if err != nil {
		return jsonError(err)
	}
	if token != json.Delim('{') {
		return errors.New("not a JSON object")
	}
	seen := make(map[string]bool)
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return jsonError(err)
		}
		key, ok := token.(string)
		if !ok {
			return jsonError(errors.New("a key is not a string"))
		}
		if seen[key] {
			return fmt.Errorf("%q occurs twice", key)
		}
		seen[key] = true
		if err := value(key); err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil {
		return jsonError(err)
	}
	return nil
}

// decode reads one JSON value into v.
func decode(d *json.Decoder, v any) error {
	err := d.Decode(v)
	var mismatch *json.UnmarshalTypeError
	if errors.As(err, &mismatch) {
		return fmt.Errorf("the value is a JSON %s, which does not fit", mismatch.Value)
	}
	if err != nil {
		return jsonError(err)
	}
	return nil
}

// decodeSizes reads an array of integers that are not negative.
func decodeSizes(d *json.Decoder) ([]int, error) {
	// Pointers tell a null, which the decoder would otherwise skip, from a 0.
	var values []*int
	if err := decode(d, &values); err != nil {
		return nil, err
	}
	if values == nil {
		return nil, errors.New("the value is null")
	}
	sizes := make([]int, len(values))
	for i, v := range values {
		switch {
		case v == nil:
			return nil, errors.New("holds a null")
		case *v < 0:
			return nil, fmt.Errorf("holds the negative number %d", *v)
		}
		sizes[i] = *v
	}
	return sizes, nil
}

func jsonError(err error) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("the header is not valid JSON: %w", err)
}
