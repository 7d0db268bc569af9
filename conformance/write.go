package conformance

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sageacc/sageacc/internal/atomicfile"
	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

// Writer makes a conformance set: a folder with safetensors files and, once it is
// closed, the list of cases. Without that list a folder is no set, so a set is
// whole or not there.
type Writer struct {
	dir   string
	lines bytes.Buffer
}

// Create makes the folder, which must not hold a set already.
func Create(dir string) (*Writer, error) {
	if _, err := os.Stat(filepath.Join(dir, casesFile)); !errors.Is(err, os.ErrNotExist) {
		if err == nil {
			err = fmt.Errorf("%s holds a conformance set already", dir)
		}
		return nil, err
	}
	return &Writer{dir: dir}, os.MkdirAll(dir, 0o777)
}

// Add writes one file and the cases that it is for; their File is set to it.
func (w *Writer) Add(name string, metadata map[string]string, tensors []safetensors.Tensor, cases ...Case) error {
	if err := safetensors.Write(filepath.Join(w.dir, name), metadata, tensors); err != nil {
		return err
	}
	for _, c := range cases {
		c.File = name
		line, err := json.Marshal(c)
		if err != nil {
			return err
		}
		w.lines.Write(append(line, '\n'))
	}
	return nil
}

// Close writes the list of cases.
func (w *Writer) Close() error {
	f, err := atomicfile.Create(filepath.Join(w.dir, casesFile))
	if err != nil {
		return err
	}
	defer f.Abort()
	if _, err := f.Write(w.lines.Bytes()); err != nil {
		return err
	}
	return f.Commit()
}
