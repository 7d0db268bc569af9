package journal

import (
	"fmt"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/internal/recordlog"
)

// Parts are files that hold parts of one run.
type Parts struct {
	// Header is that of the first file.
	Header *Header
	// Files are the files, with the shard that each is of and how many of its records
	// could not be read.
	Files []File

	index index
}

// File is one of the files of Parts.
type File struct {
	Path    string
	Shard   *[2]int
	Damaged int
}

// ReadParts reads the headers and finds the records of files. Files of different runs, or
// of inputs that differ, are an error.
func ReadParts(paths []string) (*Parts, error) {
	p := &Parts{index: make(index)}
	for _, path := range paths {
		if ok, err := ours(path); !ok || err != nil {
			if err == nil {
				err = fmt.Errorf("%s: not a part of a run of sageacc", path)
			}
			return nil, err
		}
		var h *Header
		_, damaged, err := recordlog.Scan(path, p.index.scanner(path, &h))
		if err != nil {
			return nil, err
		}
		if h == nil {
			return nil, fmt.Errorf("%s: the part ends before it says of which run it is", path)
		}
		p.Files = append(p.Files, File{path, h.Shard, damaged})
		if p.Header == nil {
			p.Header = h
			continue
		}
		d := p.Header.Difference(&h.Identity)
		if d == "" && !same(p.Header.Settings, h.Settings) {
			d = "its command line is another"
		}
		if d != "" {
			return nil, fmt.Errorf("%s: a part of another run than %s: %s", path, paths[0], d)
		}
	}
	return p, p.checkInputs()
}

// checkInputs reports parts that were computed of other tensors, and records of layers
// that are not there.
func (p *Parts) checkInputs() error {
	inputs := make(map[int]entry) // by layer
	for k, entries := range p.index {
		for _, e := range entries {
			run := &p.Header.Runs[k.run]
			if k.layer >= len(run.Layers) {
				return fmt.Errorf("%s: a record of layer %d, which is none", e.path, k.layer)
			}
			first, ok := inputs[k.layer]
			if !ok {
				first = e
				inputs[k.layer] = e
			}
			if first.inputs != e.inputs {
				return fmt.Errorf("layer %s: %s and %s are of different tensors", run.Layers[k.layer].Name, min(first.path, e.path), max(first.path, e.path))
			}
		}
	}
	return nil
}

// Partial returns what all files hold of a layer of a run.
func (p *Parts) Partial(run, layer int) (*compare.Partial, error) {
	return merged(p.Header.Runs[run].Layers[layer], p.index[key{"", run, layer}])
}

// Noted reads what was noted of a layer of a run under a name, and reports whether there
// is anything.
func (p *Parts) Noted(run, layer int, name string, note any) (bool, error) {
	entries := p.index[key{name, run, layer}]
	if entries == nil {
		return false, nil
	}
	return true, entries[0].readInto(note)
}
