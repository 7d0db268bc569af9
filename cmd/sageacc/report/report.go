// Package report makes one HTML page of a result: of a comparison (schema
// sageacc/compare/v1) or of the paper's tables (sageacc/table/v1).
//
// The page holds everything it needs. It loads nothing, runs no script, and its
// Content-Security-Policy forbids both. Charts are SVG whose colours come from the
// page's style sheet, light or dark as the reader's device is set; each has a label
// in words, and the figures stand in tables too. Names of layers and whatever else a
// result says are untrusted: they are escaped, and control and formatting characters
// are shown as Go escapes.
//
// The same result gives the same bytes.
package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/compare/diff"
	"github.com/sageacc/sageacc/compare/tables"
	"github.com/sageacc/sageacc/internal/datafile"
	"github.com/sageacc/sageacc/metrics"
)

// Input is a result that a page is made of: one of the two.
type Input struct {
	Compare *compare.Result
	Tables  *tables.Result
}

// Open reads the JSON result in a file.
func Open(path string) (*Input, error) {
	data, err := datafile.ReadAll(path, diff.MaxSize)
	if err != nil {
		return nil, err
	}
	r, err := Read(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// Read reads a JSON result of compare or table and checks that it has what a page
// needs: at least one layer, or a table with methods, each with its figures.
func Read(r io.Reader) (*Input, error) {
	data, err := io.ReadAll(io.LimitReader(r, diff.MaxSize+1))
	if err != nil {
		return nil, err
	}
	if len(data) > diff.MaxSize {
		return nil, fmt.Errorf("more than the limit of %d bytes", diff.MaxSize)
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
	var err error
	switch {
	case r.Compare != nil:
		p, err = comparePage(r.Compare)
	case r.Tables != nil:
		p, err = tablesPage(r.Tables)
	default:
		return errors.New("report: there is no result to show")
	}
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if err := pageTemplate.Execute(w, p); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}
