package safetensors

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"

	"github.com/sageacc/sageacc/internal/atomicfile"
)

// Write makes a safetensors file at path with the tensors in the order given.
// Path never holds half a file: see package atomicfile.
func Write(path string, metadata map[string]string, tensors []Tensor) error {
	header, _, err := encodeHeader(metadata, tensors)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for i := range tensors {
		if err := tensors[i].checkSize(); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	f, err := atomicfile.Create(path)
	if err != nil {
		return err
	}
	defer f.Abort()
	if err := writeAll(f, header, tensors); err != nil {
		return err
	}
	return f.Commit()
}

// checkSize reports a tensor whose bytes are not those of its shape.
func (t *Tensor) checkSize() error {
	size, err := byteSize(t.DType, t.Shape)
	if err == nil && int64(size) != t.Size() {
		err = fmt.Errorf("%s %v takes %d bytes, but there are %d", t.DType, t.Shape, size, t.Size())
	}
	if err != nil {
		return fmt.Errorf("tensor %q: %w", t.Name, err)
	}
	return nil
}

// WriteTo writes what Write puts into a file.
func WriteTo(w io.Writer, metadata map[string]string, tensors []Tensor) error {
	header, _, err := encodeHeader(metadata, tensors)
	if err != nil {
		return err
	}
	for i := range tensors {
		if err := tensors[i].checkSize(); err != nil {
			return err
		}
	}
	return writeAll(w, header, tensors)
}

func writeAll(w io.Writer, header []byte, tensors []Tensor) error {
	if _, err := w.Write(header); err != nil {
		return err
	}
	for i := range tensors {
		t := &tensors[i]
		if t.file == nil {
			if _, err := w.Write(t.Data); err != nil {
				return err
			}
			continue
		}
		if _, err := io.Copy(w, io.NewSectionReader(t, 0, t.size)); err != nil {
			return err
		}
	}
	return nil
}

// Writer makes a file piece by piece, for tensors that do not fit in memory.
type Writer struct {
	f       *atomicfile.File
	path    string
	tensors []Tensor
	offsets []int64
}

// Create starts a safetensors file at path, of tensors without Data. They are all zero
// until they are written, with WriteAt. Path is there when Commit has returned.
func Create(path string, metadata map[string]string, tensors []Tensor) (*Writer, error) {
	header, end, err := encodeHeader(metadata, tensors)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	w := &Writer{path: path, tensors: tensors}
	at := int64(len(header))
	for i := range tensors {
		size, err := byteSize(tensors[i].DType, tensors[i].Shape)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		w.offsets = append(w.offsets, at)
		at += int64(size)
	}
	if w.f, err = atomicfile.Create(path); err != nil {
		return nil, err
	}
	if _, err := w.f.Write(header); err != nil {
		w.f.Abort()
		return nil, err
	}
	if err := w.f.Truncate(int64(len(header)) + end); err != nil {
		w.f.Abort()
		return nil, err
	}
	return w, nil
}

// WriteAt writes a part of a tensor's bytes, from off on.
func (w *Writer) WriteAt(tensor int, p []byte, off int64) error {
	t := &w.tensors[tensor]
	if size, err := byteSize(t.DType, t.Shape); err != nil || off < 0 || off+int64(len(p)) > int64(size) {
		return fmt.Errorf("%s: tensor %q: bytes %d to %d are not in it", w.path, t.Name, off, off+int64(len(p)))
	}
	_, err := w.f.WriteAt(p, w.offsets[tensor]+off)
	return err
}

// Commit gives the file its name.
func (w *Writer) Commit() error { return w.f.Commit() }

// Abort drops the file. After Commit it does nothing.
func (w *Writer) Abort() { w.f.Abort() }

// encodeHeader returns the header with its length in front, and the size of what
// follows it.
func encodeHeader(metadata map[string]string, tensors []Tensor) ([]byte, int64, error) {
	b := bytes.NewBuffer(make([]byte, lengthSize))
	b.WriteByte('{')
	member := func(key string, value any) error {
		if b.Len() > lengthSize+1 {
			b.WriteByte(',')
		}
		k, err := json.Marshal(key)
		if err != nil {
			return err
		}
		v, err := json.Marshal(value)
		if err != nil {
			return err
		}
		b.Write(k)
		b.WriteByte(':')
		b.Write(v)
		return nil
	}
	if len(metadata) > 0 {
		if err := member(metadataKey, metadata); err != nil {
			return nil, 0, err
		}
	}
	seen := map[string]bool{metadataKey: true}
	offset := 0
	for i := range tensors {
		t := &tensors[i]
		if seen[t.Name] {
			return nil, 0, fmt.Errorf("tensor %q: the name is taken", t.Name)
		}
		if len(t.Name) > maxName {
			return nil, 0, fmt.Errorf("tensor %.40q...: a name of %d bytes is over the limit of %d", t.Name, len(t.Name), maxName)
		}
		seen[t.Name] = true
		size, err := byteSize(t.DType, t.Shape)
		if err != nil {
			return nil, 0, fmt.Errorf("tensor %q: %w", t.Name, err)
		}
		err = member(t.Name, struct {
			DType   string `json:"dtype"`
			Shape   []int  `json:"shape"`
			Offsets [2]int `json:"data_offsets"`
		}{t.DType, append([]int{}, t.Shape...), [2]int{offset, offset + size}})
		if err != nil {
			return nil, 0, fmt.Errorf("tensor %q: %w", t.Name, err)
		}
		offset += size
	}
	b.WriteByte('}')
	// Spaces after the JSON align the tensor bytes for readers that map them.
	for b.Len()%8 != 0 {
		b.WriteByte(' ')
	}
	if b.Len()-lengthSize > maxHeader {
		return nil, 0, fmt.Errorf("a header of %d bytes is over the format's limit of %d", b.Len()-lengthSize, maxHeader)
	}
	binary.LittleEndian.PutUint64(b.Bytes(), uint64(b.Len()-lengthSize))
	return b.Bytes(), int64(offset), nil
}
