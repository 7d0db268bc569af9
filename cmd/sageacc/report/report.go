// Package report makes one HTML page of results: of a comparison (schema
// sageacc/compare/v1), of several laid over each other (sageacc/compare-set/v1, or more
// than one file), or of the paper's tables (sageacc/table/v1).
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
	"slices"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/compare/diff"
	"github.com/sageacc/sageacc/compare/tables"
	"github.com/sageacc/sageacc/internal/datafile"
	"github.com/sageacc/sageacc/metrics"
)

// Input is what a page is made of: comparisons, one or several laid over each other, or
// tables.
type Input struct {
	// Results are of compare; Names are what the page calls them, beside A, B and so on,
	// where there are several.
	Results []*compare.Result
	Names   []string
	// Verdict is that of several kernels on the same layers; nil of other results.
	Verdict *compare.Verdict
	Tables  *tables.Result
}

// MostResults is how many results can be laid over each other.
const MostResults = 8

// Open reads the JSON result in a file, or several of compare to lay over each other.
func Open(paths ...string) (*Input, error) {
	if len(paths) == 0 {
		return nil, errors.New("no result to read")
	}
	all := new(Input)
	for _, path := range paths {
		in, err := open(path)
		if err != nil {
			return nil, err
		}
		if len(paths) == 1 {
			return in, nil
		}
		if in.Tables != nil {
			return nil, fmt.Errorf("%s: only results of compare can be laid over each other, this is one of table", path)
		}
		for i, r := range in.Results {
			name := path
			if len(in.Results) > 1 {
				name += ": " + in.Names[i]
			}
			all.Results, all.Names = append(all.Results, r), append(all.Names, name)
		}
	}
	if n := len(all.Results); n > MostResults {
		return nil, fmt.Errorf("%d results: at most %d can be laid over each other", n, MostResults)
	}
	return all, nil
}

func open(path string) (*Input, error) {
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
		r, err := decodeCompare(data)
		if err != nil {
			return nil, err
		}
		return &Input{Results: []*compare.Result{r}, Names: []string{r.Kernel.Name}}, nil
	case compare.SetSchema:
		return decodeSet(data)
	case tables.Schema:
		return decodeTables(data)
	}
	return nil, fmt.Errorf("schema is %q, want %q, %q or %q", head.Schema, compare.Schema, compare.SetSchema, tables.Schema)
}

// decodeSet reads the results of several kernels.
func decodeSet(data []byte) (*Input, error) {
	var set struct {
		Args    []string          `json:"args"`
		Verdict *compare.Verdict  `json:"verdict"`
		Results []json.RawMessage `json:"results"`
	}
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, fmt.Errorf("not a result of compare --format json: %w", err)
	}
	if n := len(set.Results); n == 0 {
		return nil, errors.New("the set has no results")
	} else if n > MostResults {
		return nil, fmt.Errorf("%d results: at most %d can be laid over each other", n, MostResults)
	}
	in := &Input{Verdict: set.Verdict}
	for i, b := range set.Results {
		r, err := decodeCompare(b)
		if err != nil {
			return nil, fmt.Errorf("result %d of the set: %w", i+1, err)
		}
		if r.Args == nil {
			r.Args = set.Args
		}
		in.Results, in.Names = append(in.Results, r), append(in.Names, r.Kernel.Name)
	}
	return in, nil
}

func decodeCompare(data []byte) (*compare.Result, error) {
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
	return c, nil
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
	case len(r.Results) > 0:
		var err error
		if p, err = comparePage(r); err != nil {
			return fmt.Errorf("report: %w", err)
		}
	case r.Tables != nil:
		p = tablesPage(r.Tables)
	default:
		return errors.New("report: there is no result to show")
	}
	if err := pageTemplate().Execute(w, p); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}
