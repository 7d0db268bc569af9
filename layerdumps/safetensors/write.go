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
	header, err := encodeHeader(metadata, tensors)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
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

// WriteTo writes what Write puts into a file.
func WriteTo(w io.Writer, metadata map[string]string, tensors []Tensor) error {
	header, err := encodeHeader(metadata, tensors)
	if err != nil {
		return err
	}
	return writeAll(w, header, tensors)
}

func writeAll(w io.Writer, header []byte, tensors []Tensor) error {
	if _, err := w.Write(header); err != nil {
		return err
	}
	for _, t := range tensors {
		if _, err := w.Write(t.Data); err != nil {
			return err
		}
	}
	return nil
}

// encodeHeader returns the header with its length in front.
func encodeHeader(metadata map[string]string, tensors []Tensor) ([]byte, error) {
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
			return nil, err
		}
	}
	seen := map[string]bool{metadataKey: true}
	offset := 0
	for _, t := range tensors {
		if seen[t.Name] {
			return nil, fmt.Errorf("tensor %q: the name is taken", t.Name)
		}
		seen[t.Name] = true
		size, err := byteSize(t.DType, t.Shape)
		if err != nil {
			return nil, fmt.Errorf("tensor %q: %w", t.Name, err)
		}
		if size != len(t.Data) {
			return nil, fmt.Errorf("tensor %q: %s %v takes %d bytes, but there are %d", t.Name, t.DType, t.Shape, size, len(t.Data))
		}
		err = member(t.Name, struct {
			DType   string `json:"dtype"`
			Shape   []int  `json:"shape"`
			Offsets [2]int `json:"data_offsets"`
		}{t.DType, append([]int{}, t.Shape...), [2]int{offset, offset + size}})
		if err != nil {
			return nil, fmt.Errorf("tensor %q: %w", t.Name, err)
		}
		offset += size
	}
	b.WriteByte('}')
	// Spaces after the JSON align the tensor bytes for readers that map them.
	for b.Len()%8 != 0 {
		b.WriteByte(' ')
	}
	if b.Len()-lengthSize > maxHeader {
		return nil, fmt.Errorf("a header of %d bytes is over the format's limit of %d", b.Len()-lengthSize, maxHeader)
	}
	binary.LittleEndian.PutUint64(b.Bytes(), uint64(b.Len()-lengthSize))
	return b.Bytes(), nil
}
