package layerdumps

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sageacc/sageacc/internal/datafile"
	"github.com/sageacc/sageacc/layerdumps/npy"
	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

// rawTensor is a tensor as its file has it, before anything is known of layers.
type rawTensor struct {
	file, name, dtype string
	shape             []int
	size              int64
	// Its bytes are those of src from offset on, once load, if there is one, has run.
	src    io.ReaderAt
	offset int64
	load   func() error

	// What the name says, if anything.
	part
	named bool
	used  bool // by a layer
	// number is its place among those of all files.
	number int
}

// The endings of the files that a dump is made of.
const (
	extSafetensors = ".safetensors"
	extNPZ         = ".npz"
	extNPY         = ".npy"
)

// expand replaces every folder in paths by the dump files in it, and every index by its
// files. It returns the indexes that were met, those in folders too.
func expand(paths []string) (files []string, indexes []*index, err error) {
	for _, path := range paths {
		st, err := os.Stat(path)
		switch {
		case err == nil && !st.IsDir() && isIndex(path):
			x, err := readIndex(path)
			if err != nil {
				return nil, nil, err
			}
			files, indexes = append(files, x.files()...), append(indexes, x)
		case err != nil || !st.IsDir():
			files = append(files, path) // opening it says what is wrong
		default:
			n := len(files)
			var found []string
			if files, found, err = appendFolder(files, path); err != nil {
				return nil, nil, err
			}
			if len(files) == n && found == nil {
				return nil, nil, fmt.Errorf("%s: no %s, %s or %s file in this folder%s", path, extSafetensors, extNPZ, extNPY, torchFiles(path))
			}
			for _, name := range found {
				x, err := readIndex(name)
				if err != nil {
					return nil, nil, err
				}
				// Its files are in the folder, or missing, which reading them says.
				for _, file := range x.files() {
					if !slices.Contains(files[n:], file) {
						files = append(files, file)
					}
				}
				indexes = append(indexes, x)
			}
		}
	}
	return files, indexes, nil
}

// torchFiles says that a folder has files of PyTorch's.
func torchFiles(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ""
	}
	for _, e := range entries {
		if slices.Contains(extTorch, strings.ToLower(filepath.Ext(e.Name()))) {
			return fmt.Sprintf("; there is %s, and %s", e.Name(), convert)
		}
	}
	return ""
}

// appendFolder appends the dump files in dir and below, sorted by name, and lists the
// indexes. Hidden
// ones are left out: they are other programs' caches and half-written files. A
// link to a file counts as the file, a link to a folder is not followed, since
// it might lead back up.
func appendFolder(files []string, dir string) ([]string, []string, error) {
	var indexes []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if e.IsDir() {
			var below []string
			if files, below, err = appendFolder(files, path); err != nil {
				return nil, nil, err
			}
			indexes = append(indexes, below...)
			continue
		}
		if isIndex(path) {
			indexes = append(indexes, path)
		}
		switch strings.ToLower(filepath.Ext(path)) {
		case extSafetensors, extNPZ, extNPY:
			if st, err := os.Stat(path); err == nil && st.IsDir() {
				continue
			}
			files = append(files, path)
		}
	}
	return files, indexes, nil
}

// read opens one file of the dump and returns its tensors. Of a file that is none it
// says what it is, where that is known.
func (d *Dump) read(path string) ([]rawTensor, error) {
	d.Files = append(d.Files, path)
	raw, err := d.parse(path)
	if err != nil {
		if better := hint(path); better != nil {
			return nil, better
		}
	}
	return raw, err
}

func (d *Dump) parse(path string) ([]rawTensor, error) {
	switch strings.ToLower(filepath.Ext(path)) {
	case extSafetensors:
		return d.readSafetensors(path)
	case extNPZ:
		return d.readNPZ(path)
	case extNPY:
		return d.readNPY(path)
	}
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("%s: not a dump: the name ends in none of %s, %s and %s", path, extSafetensors, extNPZ, extNPY)
}

// openFile opens a file that the dump reads from until it is closed.
func (d *Dump) openFile(path string) (*datafile.File, error) {
	f, err := d.files.Open(path)
	if err == nil {
		d.source.opened[path] = f
	}
	return f, err
}

func (d *Dump) readSafetensors(path string) ([]rawTensor, error) {
	file, err := d.openFile(path)
	if err != nil {
		return nil, err
	}
	f, err := safetensors.Read(path, file, file.Size())
	if err != nil {
		return nil, err
	}
	if f.Metadata != nil {
		d.Metadata[path] = f.Metadata
	}
	raw := make([]rawTensor, len(f.Tensors))
	for i := range f.Tensors {
		t := &f.Tensors[i]
		raw[i] = rawTensor{file: path, name: t.Name, dtype: t.DType, shape: t.Shape, size: t.Size(), src: file, offset: t.Offset}
	}
	return raw, nil
}

func (d *Dump) readNPZ(path string) ([]rawTensor, error) {
	file, err := d.openFile(path)
	if err != nil {
		return nil, err
	}
	a, err := npy.ReadArchive(path, file, file.Size(), d.files.Spool)
	if err != nil {
		return nil, err
	}
	for _, name := range a.Others {
		d.Ignored = append(d.Ignored, Ignored{File: path, Name: name})
	}
	raw := make([]rawTensor, len(a.Arrays))
	for i := range a.Arrays {
		t := &a.Arrays[i]
		raw[i] = rawTensor{file: path, name: t.Name, dtype: t.DType, shape: t.Shape, size: t.Size, src: t, load: func() error { return a.Load(i) }}
	}
	return raw, nil
}

func (d *Dump) readNPY(path string) ([]rawTensor, error) {
	file, err := d.openFile(path)
	if err != nil {
		return nil, err
	}
	a, err := npy.Read(path, file, file.Size())
	if err != nil {
		return nil, err
	}
	base := filepath.Base(path)
	name := base[:len(base)-len(extNPY)]
	return []rawTensor{{file: path, name: name, dtype: a.DType, shape: a.Shape, size: a.Size, src: &a}}, nil
}
