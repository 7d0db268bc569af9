package compare

import (
	"context"
	"fmt"

	"github.com/sageacc/sageacc/internal/ranges"
	"github.com/sageacc/sageacc/internal/version"
	"github.com/sageacc/sageacc/layerdumps"
)

// Keeper keeps the finished parts of a run, and knows those of an earlier run that did
// not come to its end. Its methods are called by several goroutines at once. A layer is
// its index in the dump.
type Keeper interface {
	// Kept returns what an earlier run kept of a layer, which is the caller's now; nil
	// for nothing.
	Kept(ctx context.Context, layer int, o *Outline) (*Partial, error)
	// Begin says that a layer is about to be computed.
	Begin(ctx context.Context, layer int)
	// Due reports whether it is time to keep what was finished since the last time.
	Due() bool
	// Keep keeps a part. Whole says that the layer is finished with it. It may keep it
	// in memory for a while, but not after whole or where last is set.
	Keep(ctx context.Context, layer int, p *Partial, whole bool) error
}

// keep hands what was finished of a layer to the keeper. The layer's files must be those
// that were opened, or it is worth nothing.
func (opt *Options) keep(ctx context.Context, l *layerdumps.Layer, index int, p *Partial, whole bool) error {
	if opt.Keep == nil || p.done == nil {
		return nil
	}
	if err := l.Check(); err != nil {
		return err
	}
	return opt.Keep.Keep(ctx, index, p, whole)
}

// RunChunks computes the wanted chunks of each layer of a dump, as far as they are not
// kept already, and gives them to opt.Keep. Layers are by their index in the dump.
// Misplaced is called for each layer whose output may be found to be misplaced when the
// result is put together, with what Join wants to be told then.
func RunChunks(ctx context.Context, d *layerdumps.Dump, opt Options, want []ranges.Set, misplacedText func(layer int, text string) error) error {
	outlines, err := Outlines(d, opt)
	if err != nil {
		return err
	}
	prog := newProgress(opt, outlines, want)
	for i := range d.Layers {
		if want[i] == nil {
			prog.finished()
			continue
		}
		p, err := runLayer(ctx, d, i, outlines[i], want[i], opt, prog)
		if err == nil {
			err = d.Layers[i].Check()
		}
		if err != nil {
			return layerError(d, i, err)
		}
		text := ""
		if l := p.layer(outlines[i]); l.farOff(p.done.Len() == outlines[i].Chunks()) {
			if text, err = misplaced(ctx, d, &d.Layers[i]); err != nil {
				return layerError(d, i, err)
			}
		}
		if text != "" {
			if err := misplacedText(i, text); err != nil {
				return err
			}
		}
	}
	return nil
}

// Join puts a result together from the partial results of all layers, each of which
// must have all chunks. Misplaced is what RunChunks told of, by layer.
func Join(kernel KernelInfo, reference string, tile int, tool version.Info, outlines []*Outline, parts []*Partial, misplaced map[int]string) (*Result, error) {
	res := &Result{Schema: Schema, Tool: &tool, Kernel: kernel, Reference: reference, QueryTile: tile}
	for i, p := range parts {
		l, err := p.whole(outlines[i])
		if err != nil {
			return nil, err
		}
		res.Layers = append(res.Layers, *l)
	}
	for _, i := range res.farOff() {
		res.Layers[i].Misplaced = misplaced[i]
	}
	res.summarise()
	return res, nil
}

// whole is the layer's result. A part of the layer has none.
func (p *Partial) whole(o *Outline) (*Layer, error) {
	if missing := o.All().Minus(p.done); missing != nil || len(p.open)+len(p.openKVs) > 0 {
		return nil, fmt.Errorf("layer %s: %d of %d chunks are missing", o.Name, missing.Len(), o.Chunks())
	}
	return p.layer(o), nil
}
