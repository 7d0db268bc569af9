package compare

import (
	"context"
	"fmt"

	"github.com/sageacc/sageacc/internal/ranges"
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
	Begin(layer int)
	// Due reports whether it is time to keep a part of a layer.
	Due() bool
	// Keep keeps a part, of which it keeps no reference.
	Keep(layer int, p *Partial) error
	// Noted reads what an earlier run noted of a layer under a name, and reports whether
	// there is anything; Note notes it, as JSON.
	Noted(layer int, name string, note any) (bool, error)
	Note(layer int, name string, note any) error
}

// The names of notes.
const (
	noteMisplaced   = "misplaced"
	noteMask        = "mask"
	noteExplanation = "explanation"
	noteAttribution = "attribution"
)

// keep hands what was finished of a layer to the keeper. The layer's files must be those
// that were opened, or it is worth nothing.
func (opt *Options) keep(l *layerdumps.Layer, index int, p *Partial) error {
	if opt.Keep == nil || p.done == nil {
		return nil
	}
	if err := l.Check(); err != nil {
		return err
	}
	return opt.Keep.Keep(index, p)
}

// noted makes a note of a layer, or reads the one that is kept.
func noted[T any](opt *Options, l *layerdumps.Layer, index int, name string, make func() (T, error)) (T, error) {
	var note T
	if opt.Keep != nil {
		if ok, err := opt.Keep.Noted(index, name, &note); ok || err != nil {
			return note, err
		}
	}
	note, err := make()
	if err == nil {
		err = l.Check()
	}
	if err == nil && opt.Keep != nil {
		err = opt.Keep.Note(index, name, note)
	}
	return note, err
}

// RunChunks computes the wanted chunks of each layer of a dump, as far as they are not
// kept already, and gives them to opt.Keep. Layers are by their index in the dump.
// What Join is told of misplaced outputs is noted.
func RunChunks(ctx context.Context, d *layerdumps.Dump, opt Options, want []ranges.Set) error {
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
		if i+1 < len(d.Layers) && want[i+1] != nil {
			d.Layers[i+1].ReadAhead(readAhead)
		}
		p, err := opt.kept(ctx, i, outlines[i])
		if err == nil {
			p, err = runLayer(ctx, d, i, outlines[i], want[i], p, opt, prog)
		}
		prog.finished()
		if err == nil {
			err = d.Layers[i].Check()
		}
		if err == nil {
			_, err = notesOfMask(ctx, d, i, &opt)
		}
		if err == nil && p.layer(outlines[i]).farOff(outlines[i].All().Minus(p.done) == nil) {
			_, err = noteOfMisplaced(ctx, d, i, &opt)
		}
		if err != nil {
			return layerError(d, i, err)
		}
	}
	return nil
}

// notesOfMask says what is odd about a layer's mask.
func notesOfMask(ctx context.Context, d *layerdumps.Dump, i int, opt *Options) ([]string, error) {
	l := &d.Layers[i]
	if l.Mask == nil {
		return nil, nil
	}
	return noted(opt, l, i, noteMask, func() ([]string, error) { return maskNotes(ctx, l) })
}

// addMaskNotes adds them to the layer's result.
func addMaskNotes(ctx context.Context, d *layerdumps.Dump, i int, opt *Options, l *Layer) error {
	notes, err := notesOfMask(ctx, d, i, opt)
	l.Suspicious = append(l.Suspicious, notes...)
	return err
}

// noteOfMisplaced says in which order the values of a layer's output are the right ones.
func noteOfMisplaced(ctx context.Context, d *layerdumps.Dump, i int, opt *Options) (string, error) {
	return noted(opt, &d.Layers[i], i, noteMisplaced, func() (string, error) { return misplaced(ctx, d, &d.Layers[i]) })
}

// Join puts a result together from the partial results of all layers, each of which
// must have all chunks. Part returns that of a layer, and note reads what was noted of
// it, as [Keeper] does.
func Join(res *Result, outlines []*Outline, part func(layer int) (*Partial, error), note func(layer int, name string, note any) (bool, error)) error {
	for i, o := range outlines {
		p, err := part(i)
		if err != nil {
			return err
		}
		l, err := p.whole(o)
		if err != nil {
			return err
		}
		var notes []string
		if _, err := note(i, noteMask, &notes); err != nil {
			return err
		}
		l.Suspicious = append(l.Suspicious, notes...)
		res.Layers = append(res.Layers, *l)
	}
	for _, i := range res.farOff() {
		if _, err := note(i, noteMisplaced, &res.Layers[i].Misplaced); err != nil {
			return err
		}
	}
	res.summarise()
	return nil
}

// whole is the layer's result. A part of the layer has none.
func (p *Partial) whole(o *Outline) (*Layer, error) {
	if missing := o.All().Minus(p.done); missing != nil || !o.Sampled && len(p.open)+len(p.openKVs) > 0 {
		return nil, fmt.Errorf("layer %s: %d of %d chunks are missing", o.Name, missing.Len(), o.All().Len())
	}
	return p.layer(o), nil
}
