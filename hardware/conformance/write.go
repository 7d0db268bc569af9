package conformance

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/sageacc/sageacc/internal/atomicfile"
	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

// Writer makes a conformance set: a folder with safetensors files and, once it is
// closed, the list of cases. Without that list a folder is no set, so a set is
// whole or not there.
type Writer struct {
	dir   string
	lines bytes.Buffer
	// names holds the files that were written, in lower case: a set must survive a
	// file system that takes A and a for the same.
	names map[string]bool
}

// Vacant reports a folder that no set can be written to: what is there must be an
// empty folder, so that the set has no files of something else.
func Vacant(dir string) error {
	st, err := os.Stat(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !st.IsDir():
		return fmt.Errorf("%s is a file: want a new or an empty folder", dir)
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	switch _, err := f.Readdirnames(1); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("%s is not empty: want a new or an empty folder", dir)
}

// Create makes the folder, if it is not there; see [Vacant].
func Create(dir string) (*Writer, error) {
	if err := Vacant(dir); err != nil {
		return nil, err
	}
	return &Writer{dir: dir, names: map[string]bool{}}, os.MkdirAll(dir, 0o777)
}

// Has reports whether a file of that name was added, in whatever case.
func (w *Writer) Has(name string) bool { return w.names[strings.ToLower(name)] }

// Add writes one file and the cases that it is for; their File is set to it. It
// refuses a name that it has written already.
func (w *Writer) Add(name string, metadata map[string]string, tensors []safetensors.Tensor, cases ...Case) error {
	if w.Has(name) {
		return fmt.Errorf("%s has a file %s already", w.dir, name)
	}
	if err := safetensors.Write(filepath.Join(w.dir, name), metadata, tensors); err != nil {
		return err
	}
	w.names[strings.ToLower(name)] = true
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
