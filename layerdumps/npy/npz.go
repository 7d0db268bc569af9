package npy

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"

	"github.com/sageacc/sageacc/internal/mapfile"
)

// maxDeflate is the most bytes that one byte of a deflate stream can become: a
// 258-byte match costs at least two bits. It bounds what an archive may claim.
const maxDeflate = 1032

// Archive is an open .npz file: a zip archive of .npy entries.
type Archive struct {
	// Name is the path given to OpenArchive, or the name given to
	// ParseArchive.
	Name string
	// Arrays are in the order of the archive's directory.
	Arrays []Array
	// Others are the names of the entries that are not arrays.
	Others []string

	m       *mapfile.File   // nil after ParseArchive
	spooled []*mapfile.File // by array; nil for a stored entry
}

// OpenArchive maps the .npz file at path, checks every entry and inflates the
// compressed ones into temporary files.
func OpenArchive(path string) (*Archive, error) {
	m, err := mapfile.Open(path)
	if err != nil {
		return nil, err
	}
	a, err := ParseArchive(path, m.Bytes())
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	a.m = m
	// The checksums have touched every page.
	m.Release(m.Bytes())
	return a, nil
}

// ParseArchive reads a .npz file held in memory. Its stored arrays refer to
// data; name appears in errors only. The archive must be closed.
func ParseArchive(name string, data []byte) (*Archive, error) {
	a := &Archive{Name: name}
	if err := a.parse(data); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), a.Close())
	}
	return a, nil
}

// Release tells the system that the bytes of Arrays[i] are not needed for now;
// they stay readable.
func (a *Archive) Release(i int) {
	switch {
	case a.spooled[i] != nil:
		a.spooled[i].Release(a.Arrays[i].Data)
	case a.m != nil:
		a.m.Release(a.Arrays[i].Data)
	}
}

// Close unmaps the archive. Its arrays' Data must not be used afterwards.
func (a *Archive) Close() error {
	var errs []error
	for _, s := range a.spooled {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	if a.m != nil {
		errs = append(errs, a.m.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%s: %w", a.Name, err)
	}
	return nil
}

func (a *Archive) parse(data []byte) error {
	if len(data) == 0 {
		return errors.New("the file is empty")
	}
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return fmt.Errorf("not an .npz file: %w", err)
	}
	seen := make(map[string]bool)
	for _, entry := range z.File {
		name, isArray := strings.CutSuffix(entry.Name, ".npy")
		if !isArray {
			a.Others = append(a.Others, entry.Name)
			continue
		}
		if seen[name] {
			return fmt.Errorf("array %q: occurs twice", name)
		}
		seen[name] = true
		array, spooled, err := readEntry(entry, data)
		if err != nil {
			return fmt.Errorf("array %q: %w", name, err)
		}
		array.Name = name
		a.Arrays = append(a.Arrays, array)
		a.spooled = append(a.spooled, spooled)
	}
	return nil
}

func readEntry(entry *zip.File, data []byte) (Array, *mapfile.File, error) {
	const encrypted = 1
	if entry.Flags&encrypted != 0 {
		return Array{}, nil, errors.New("the entry is encrypted")
	}
	switch entry.Method {
	case zip.Store:
		a, err := readStored(entry, data)
		return a, nil, err
	case zip.Deflate:
		return readDeflated(entry)
	default:
		return Array{}, nil, fmt.Errorf("compression method %d is not supported", entry.Method)
	}
}

// readStored finds the entry's bytes in the archive's own.
func readStored(entry *zip.File, data []byte) (Array, error) {
	offset, err := entry.DataOffset()
	if err != nil {
		return Array{}, err
	}
	if offset < 0 || offset > int64(len(data)) || entry.UncompressedSize64 > uint64(int64(len(data))-offset) {
		return Array{}, fmt.Errorf("its %d bytes are out of the file", entry.UncompressedSize64)
	}
	stored := data[offset:][:entry.UncompressedSize64]
	if entry.CompressedSize64 != entry.UncompressedSize64 {
		return Array{}, fmt.Errorf("stored, but with the two sizes %d and %d", entry.CompressedSize64, entry.UncompressedSize64)
	}
	if crc32.ChecksumIEEE(stored) != entry.CRC32 {
		return Array{}, zip.ErrChecksum
	}
	return parse(stored)
}

// readDeflated inflates the entry, once it is plain that its size is no lie.
func readDeflated(entry *zip.File) (Array, *mapfile.File, error) {
	if entry.UncompressedSize64/maxDeflate > entry.CompressedSize64 {
		return Array{}, nil, fmt.Errorf("claims %d bytes, more than %d compressed ones can hold", entry.UncompressedSize64, entry.CompressedSize64)
	}
	r, err := entry.Open()
	if err != nil {
		return Array{}, nil, err
	}
	defer r.Close()
	counted := &countingReader{r: r}
	text, err := readHeader(counted)
	if err != nil {
		return Array{}, nil, err
	}
	a, size, err := parseHeader(text)
	if err != nil {
		return Array{}, nil, err
	}
	if want := counted.n + uint64(size); want != entry.UncompressedSize64 {
		return Array{}, nil, fmt.Errorf("%s %v takes %d bytes with its header, but the archive says %d", a.DType, a.Shape, want, entry.UncompressedSize64)
	}
	spooled, err := mapfile.Spool(func(w io.Writer) error {
		if _, err := io.CopyN(w, r, int64(size)); err == io.EOF {
			return io.ErrUnexpectedEOF
		} else if err != nil {
			return err
		}
		// Only the read that finds the end compares the checksum.
		switch n, err := io.ReadFull(r, make([]byte, 1)); {
		case n > 0:
			return errors.New("more bytes than the archive says")
		case err != io.EOF:
			return err
		}
		return nil
	})
	if err != nil {
		return Array{}, nil, fmt.Errorf("inflating: %w", err)
	}
	a.Data = spooled.Bytes()
	return a, spooled, nil
}

// countingReader counts the bytes read through it.
type countingReader struct {
	r io.Reader
	n uint64
}

// Read is [io.Reader].
func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += uint64(n)
	return n, err
}
