// Package report makes one HTML page of a result: of a comparison (schema
// sageacc/compare/v1) or of the paper's tables (sageacc/table/v1).
//
// The page holds everything it needs and loads nothing. Verdict and table are plain
// HTML. A script of our own, the only one that its Content-Security-Policy lets run,
// draws the maps, sorts and filters the table and shows a layer's details, from JSON in
// the page; it works for 5 layers and for 5,000. Colours come from the style sheet,
// light or dark as the reader's device is set or the reader chooses. Names of layers
// and whatever else a result says are untrusted: they are escaped, the script makes
// text of them and nothing else, and control and formatting characters are shown as Go
// escapes.
//
// The same result gives the same bytes.
package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/compare/diff"
	"github.com/sageacc/sageacc/compare/tables"
	"github.com/sageacc/sageacc/metrics"
)

// Input is what a page is made of: a comparison, alone or with a second one laid over
// it, or tables.
type Input struct {
	Compare *compare.Result
	// Over is laid over Compare; nil where there is one result.
	Over *compare.Result
	// Names are what the page calls Compare and Over, beside A and B.
	Names  [2]string
	Tables *tables.Result
}

// Open reads the JSON result in a file, or two of them to lay over each other, which
// must both be of compare.
func Open(paths ...string) (*Input, error) {
	if len(paths) < 1 || len(paths) > 2 {
		return nil, fmt.Errorf("want one result or two, not %d", len(paths))
	}
	in, err := open(paths[0])
	if err != nil || len(paths) == 1 {
		return in, err
	}
	over, err := open(paths[1])
	if err != nil {
		return nil, err
	}
	for i, r := range []*Input{in, over} {
		if r.Compare == nil {
			return nil, fmt.Errorf("%s: only results of compare can be laid over each other, this is one of table", paths[i])
		}
	}
	in.Over = over.Compare
	in.Names = [2]string{filepath.Base(paths[0]), filepath.Base(paths[1])}
	if in.Names[0] == in.Names[1] {
		in.Names = [2]string{paths[0], paths[1]}
	}
	return in, nil
}

func open(path string) (*Input, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r, err := Read(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// Read reads a JSON result of compare or table and checks that it has what a page
// needs: at least one layer, or a table with methods, each with its figures.
func Read(r io.Reader) (*Input, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	var head struct {
		Schema string `json:"schema"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, fmt.Errorf("not a result of compare or table with --format json: %w", err)
	}
	switch head.Schema {
	case compare.Schema:
		return decodeCompare(data)
	case tables.Schema:
		return decodeTables(data)
	}
	return nil, fmt.Errorf("schema is %q, want %q or %q", head.Schema, compare.Schema, tables.Schema)
}

func decodeCompare(data []byte) (*Input, error) {
	c, err := diff.Decode(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	if len(c.Layers) == 0 {
		return nil, errors.New("the result has no layers")
	}
	// What is missing and what is zero look alike in a compare.Result.
	var have struct {
		Layers []struct {
			Emulated *json.RawMessage `json:"emulated_vs_reference"`
		} `json:"layers"`
	}
	if err := json.Unmarshal(data, &have); err != nil {
		return nil, fmt.Errorf("not a result of compare --format json: %w", err)
	}
	for i := range c.Layers {
		l := &c.Layers[i]
		if have.Layers[i].Emulated == nil {
			return nil, fmt.Errorf("layer %q has no figures (emulated_vs_reference)", l.Name)
		}
		if (l.ActualVsReference == nil) != (l.ActualVsEmulated == nil) {
			return nil, fmt.Errorf("layer %q has only one of actual_vs_reference and actual_vs_emulated", l.Name)
		}
		if s := l.Shape; s.Batch < 0 || s.Heads < 0 || s.KVHeads < 0 || s.Queries < 0 || s.Keys < 0 || s.HeadDim < 0 {
			return nil, fmt.Errorf("layer %q has a shape with a negative size", l.Name)
		}
		if err := checkDetail(l); err != nil {
			return nil, fmt.Errorf("layer %q: %w", l.Name, err)
		}
	}
	return &Input{Compare: c}, nil
}

// checkDetail finds counts that cannot be.
func checkDetail(l *compare.Layer) error {
	negative := func(counts []int64) bool {
		return slices.ContainsFunc(counts, func(n int64) bool { return n < 0 })
	}
	for _, h := range []*metrics.HistogramValues{&l.ErrorHistogram, l.ActualErrorHistogram} {
		// FP64 has fewer than 2200 binary exponents.
		if h != nil && (negative(h.Counts) || len(h.Counts) > 2200 || h.MinExponent < -1100 || h.MinExponent > 1100) {
			return errors.New("the error histogram is not one")
		}
	}
	if m := l.DifferenceMap; m != nil {
		if m.BlockTokens < 1 || negative(m.Channels) || slices.ContainsFunc(m.Blocks, negative) {
			return errors.New("the difference map is not one")
		}
	}
	return nil
}

func decodeTables(data []byte) (*Input, error) {
	t := new(tables.Result)
	if err := json.Unmarshal(data, t); err != nil {
		return nil, fmt.Errorf("not a result of table --format json: %w", err)
	}
	if len(t.Tables) == 0 {
		return nil, errors.New("the result has no tables")
	}
	for _, tab := range t.Tables {
		if len(tab.Rows) == 0 {
			return nil, fmt.Errorf("table %q has no methods", tab.Name)
		}
	}
	return &Input{Tables: t}, nil
}

// Write writes the page of a result that [Read] has returned, or one like it.
func Write(w io.Writer, r *Input) error {
	var p *page
	switch {
	case r.Compare != nil:
		var err error
		if p, err = comparePage(r); err != nil {
			return fmt.Errorf("report: %w", err)
		}
	case r.Tables != nil:
		p = tablesPage(r.Tables)
	default:
		return errors.New("report: there is no result to show")
	}
	if err := pageTemplate.Execute(w, p); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}
