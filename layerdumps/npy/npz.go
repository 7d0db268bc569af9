package npy

import (
	"archive/zip"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"

	"github.com/sageacc/sageacc/internal/datafile"
)

// maxDeflate is the most bytes that one byte of a deflate stream can become: a
// 258-byte match costs at least two bits. It bounds what an archive may claim.
const maxDeflate = 1032

// Spool keeps what fill writes, outside of memory, and returns a reader of it.
type Spool func(fill func(io.Writer) error) (*io.SectionReader, error)

// Archive is an open .npz file: a zip archive of .npy entries.
type Archive struct {
	// Name is the path given to OpenArchive, or the name given to
	// ReadArchive.
	Name string
	// Arrays are in the order of the archive's directory. Their elements can be read
	// once they are loaded.
	Arrays []Array
	// Others are the names of the entries that are not arrays.
	Others []string

	r       io.ReaderAt
	entries []*zip.File // of Arrays
	spool   Spool
	close   func() error
}

// OpenArchive opens the .npz file at path and checks its directory and the headers of
// its arrays.
func OpenArchive(path string) (*Archive, error) {
	p := datafile.NewPool(1)
	f, err := p.Open(path)
	if err != nil {
		return nil, err
	}
	a, err := ReadArchive(path, f, f.Size(), p.Spool)
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	a.close = p.Close
	return a, nil
}

// ParseArchive is ReadArchive of a file held in memory. The archive must be closed.
func ParseArchive(name string, data []byte) (*Archive, error) {
	p := datafile.NewPool(0)
	a, err := ReadArchive(name, bytes.NewReader(data), int64(len(data)), p.Spool)
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	a.close = p.Close
	return a, nil
}

// ReadArchive reads the directory of a .npz file of size bytes and the headers of its
// arrays. The arrays read from r, or from what spool keeps; name appears in errors
// only.
func ReadArchive(name string, r io.ReaderAt, size int64, spool Spool) (*Archive, error) {
	a := &Archive{Name: name, r: r, spool: spool}
	if err := a.read(size); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return a, nil
}

// Load makes Arrays[i] readable: it compares the entry's checksum and inflates it if
// it is compressed. It is for one goroutine at a time.
func (a *Archive) Load(i int) error {
	array, entry := &a.Arrays[i], a.entries[i]
	if array.data != nil {
		return nil
	}
	load := a.loadStored
	if entry.Method == zip.Deflate {
		load = a.inflate
	}
	data, err := load(entry, array.Size)
	if err != nil {
		return fmt.Errorf("%s: array %q: %w", a.Name, array.Name, err)
	}
	array.data = data
	return nil
}

// Close closes the archive. Its arrays must not be read afterwards.
func (a *Archive) Close() error {
	if a.close == nil {
		return nil
	}
	if err := a.close(); err != nil {
		return fmt.Errorf("%s: %w", a.Name, err)
	}
	return nil
}

func (a *Archive) read(size int64) error {
	if size == 0 {
		return errors.New("the file is empty")
	}
	z, err := zip.NewReader(a.r, size)
	if err != nil {
		return fmt.Errorf("not an .npz file: %w", err)
	}
	if err := apart(z.File, size); err != nil {
		return err
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
		array, err := a.readEntry(entry)
		if err != nil {
			return fmt.Errorf("array %q: %w", name, err)
		}
		array.Name = name
		a.Arrays = append(a.Arrays, array)
		a.entries = append(a.entries, entry)
	}
	return nil
}

// apart reports entries whose bytes are out of the file, or another entry's too: a
// small archive of overlapping entries inflates to more than any disk holds.
func apart(entries []*zip.File, size int64) error {
	type span struct {
		begin, end int64
		name       string
	}
	var spans []span
	for _, e := range entries {
		begin, err := e.DataOffset()
		if err != nil {
			return fmt.Errorf("entry %q: %w", e.Name, err)
		}
		if begin < 0 || begin > size || e.CompressedSize64 > uint64(size-begin) {
			return fmt.Errorf("entry %q: its %d bytes are out of the file", e.Name, e.CompressedSize64)
		}
		if e.CompressedSize64 > 0 {
			spans = append(spans, span{begin, begin + int64(e.CompressedSize64), e.Name})
		}
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Or(cmp.Compare(a.begin, b.begin), cmp.Compare(a.end, b.end)) })
	for i := 1; i < len(spans); i++ {
		if a, b := spans[i-1], spans[i]; b.begin < a.end {
			return fmt.Errorf("entry %q: its bytes [%d, %d) overlap entry %q, which ends at %d", b.name, b.begin, b.end, a.name, a.end)
		}
	}
	return nil
}

// readEntry checks an entry and reads its header.
func (a *Archive) readEntry(entry *zip.File) (Array, error) {
	const encrypted = 1
	if entry.Flags&encrypted != 0 {
		return Array{}, errors.New("the entry is encrypted")
	}
	switch entry.Method {
	case zip.Store:
		if entry.CompressedSize64 != entry.UncompressedSize64 {
			return Array{}, fmt.Errorf("stored, but with the two sizes %d and %d", entry.CompressedSize64, entry.UncompressedSize64)
		}
		section, err := a.section(entry)
		if err != nil {
			return Array{}, err
		}
		array, err := read(section)
		array.data = nil
		return array, err
	case zip.Deflate:
		if entry.UncompressedSize64/maxDeflate > entry.CompressedSize64 {
			return Array{}, fmt.Errorf("claims %d bytes, more than %d compressed ones can hold", entry.UncompressedSize64, entry.CompressedSize64)
		}
		r, array, err := openDeflated(entry)
		if err != nil {
			return Array{}, err
		}
		return array, r.Close()
	default:
		return Array{}, fmt.Errorf("compression method %d is not supported", entry.Method)
	}
}

// section is the entry's bytes in the file.
func (a *Archive) section(entry *zip.File) (*io.SectionReader, error) {
	offset, err := entry.DataOffset()
	if err != nil {
		return nil, err
	}
	return io.NewSectionReader(a.r, offset, int64(entry.CompressedSize64)), nil
}

// loadStored compares the checksum of an entry that is not compressed.
func (a *Archive) loadStored(entry *zip.File, _ int64) (*io.SectionReader, error) {
	section, err := a.section(entry)
	if err != nil {
		return nil, err
	}
	sum := crc32.NewIEEE()
	if _, err := io.Copy(sum, section); err != nil {
		return nil, err
	}
	if sum.Sum32() != entry.CRC32 {
		return nil, zip.ErrChecksum
	}
	if _, err := section.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	array, err := read(section)
	return array.data, err
}

// openDeflated inflates up to the array's elements.
func openDeflated(entry *zip.File) (io.ReadCloser, Array, error) {
	r, err := entry.Open()
	if err != nil {
		return nil, Array{}, err
	}
	counted := &countingReader{r: r}
	text, err := readHeader(counted)
	if err != nil {
		return nil, Array{}, errors.Join(err, r.Close())
	}
	array, err := parseHeader(text)
	if err != nil {
		return nil, Array{}, errors.Join(err, r.Close())
	}
	if want := counted.n + uint64(array.Size); want != entry.UncompressedSize64 {
		err := fmt.Errorf("%s %v takes %d bytes with its header, but the archive says %d", array.DType, array.Shape, want, entry.UncompressedSize64)
		return nil, Array{}, errors.Join(err, r.Close())
	}
	return r, array, nil
}

// inflate keeps the elements of a compressed entry outside of memory.
func (a *Archive) inflate(entry *zip.File, size int64) (*io.SectionReader, error) {
	r, _, err := openDeflated(entry)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := a.spool(func(w io.Writer) error {
		if _, err := io.CopyN(w, r, size); err == io.EOF {
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
		return nil, fmt.Errorf("inflating: %w", err)
	}
	return data, nil
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
