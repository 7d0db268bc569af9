package shard

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/compare/journal"
)

// Merge joins the parts that the shards of a comparison wrote: a result for each kernel.
// It has what compare.Run gives, without arguments and verdict.
func Merge(p *journal.Parts) ([]*compare.Result, error) {
	if p.Header.Command != "compare" {
		return nil, fmt.Errorf("%s: a part of sageacc %s, which is not merged", p.Files[0].Path, p.Header.Command)
	}
	if err := checkWhole(p); err != nil {
		return nil, err
	}
	tool := p.Header.Tool
	var out []*compare.Result
	for i, r := range p.Header.Runs {
		res := &compare.Result{Schema: compare.Schema, Tool: &tool, Kernel: r.Kernel, Reference: p.Header.Options["reference"], QueryTile: r.QueryTile}
		err := compare.Join(res, r.Layers,
			func(layer int) (*compare.Partial, error) { return p.Partial(i, layer) },
			func(layer int, name string, note any) (bool, error) { return p.Noted(i, layer, name, note) })
		if err != nil {
			return nil, err
		}
		out = append(out, res)
	}
	return out, nil
}

// mostNamed is how many missing things a message names.
const mostNamed = 5

// checkWhole reports shards that are not among the parts, and parts that are not
// finished.
func checkWhole(p *journal.Parts) error {
	have := make(map[int]string)
	count := 0
	for _, f := range p.Files {
		switch {
		case f.Shard == nil:
			return fmt.Errorf("%s: the journal of a whole run, not of a shard: go on with it with compare --resume", f.Path)
		case count != 0 && f.Shard[1] != count:
			return fmt.Errorf("%s: shard %d/%d, but %s is one of %d", f.Path, f.Shard[0], f.Shard[1], p.Files[0].Path, count)
		}
		count = f.Shard[1]
		if other, ok := have[f.Shard[0]]; ok {
			return fmt.Errorf("%s: shard %d/%d, as %s is", f.Path, f.Shard[0], f.Shard[1], other)
		}
		have[f.Shard[0]] = f.Path
	}
	var runs [][]*compare.Outline
	for _, r := range p.Header.Runs {
		runs = append(runs, r.Layers)
	}
	var faults []string
	more := 0
	for i := 1; i <= count; i++ {
		path, ok := have[i]
		if !ok && len(faults) >= mostNamed {
			more++
			continue
		}
		if !ok {
			faults = append(faults, fmt.Sprintf("shard %d/%d is missing", i, count))
			continue
		}
		fault, err := unfinished(p, Shard{i, count}, runs)
		if err != nil {
			return err
		}
		if fault != "" {
			faults = append(faults, fmt.Sprintf("%s (shard %d/%d) is not finished: %s", path, i, count, fault))
		}
	}
	if faults == nil {
		return nil
	}
	if n := len(faults) - mostNamed + more; n > 0 {
		faults = append(slices.Clone(faults[:min(mostNamed, len(faults))]), fmt.Sprintf("and %d shards more", n))
	}
	return fmt.Errorf("not all parts are there: %s", strings.Join(faults, "; "))
}

// unfinished says what a shard should have computed and has not.
func unfinished(p *journal.Parts, s Shard, runs [][]*compare.Outline) (string, error) {
	var layers []string
	missing, all := 0, 0
	for run, want := range s.Split(runs) {
		for layer, chunks := range want {
			if chunks == nil {
				continue
			}
			got, err := p.Partial(run, layer)
			if err != nil {
				return "", err
			}
			all += chunks.Len()
			if n := chunks.Minus(got.Done()).Len(); n > 0 {
				missing += n
				layers = append(layers, runs[run][layer].Name)
			}
		}
	}
	if missing == 0 {
		return "", nil
	}
	more := ""
	if n := len(layers) - mostNamed; n > 0 {
		layers, more = layers[:mostNamed], fmt.Sprintf(" and %d more", n)
	}
	return fmt.Sprintf("%d of %d chunks are missing, of %s%s", missing, all, strings.Join(layers, ", "), more), nil
}
