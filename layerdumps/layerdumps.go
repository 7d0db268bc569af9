// Package layerdumps turns dumped activations into attention layers.
//
// A dump is one or more safetensors, .npz or .npy files, or folders of them. A
// tensor <layer>.q, .k, .v or .o belongs to layer <layer>: o, which is optional,
// is what a kernel returned for it. The tensors are FP16, BF16 or FP32 and have
// four dimensions: HND, [batch, heads, tokens, head_dim], or NHD, [batch,
// tokens, heads, head_dim]. K and V may have fewer heads than Q, if these divide
// Q's, and another number of tokens.
//
// A layer may be spread over files. Where several files each hold a whole layer
// (q, k and v) of the same name, they are different layers, and all layers are
// called <file>/<layer>, the file without its ending.
//
// Tensors <layer>.query, .key, .value and .out, .output or .attn_output stand for
// those where they complete a layer and have no rival, and tensors called q, k, v and
// so on alone are the layer "attn". Options.Names has patterns for any other names.
//
// An .npz array has its name in the archive, a .npy file its file name without
// the ending. A safetensors file's metadata applies to the layers whose q it
// holds: causal ("true" or "false"), layout ("HND" or "NHD"), sm_scale (a
// number) and synthetic (free text: how the layer was made, if it was not
// recorded). Options override the first three. The names that PyTorch and
// SageAttention have for them are read too: is_causal, tensor_layout, softmax_scale.
// A name that only looks like one of them is an error, so that no mask or scale is
// passed over; others, such as format, mean nothing here.
//
// Layers read from memory maps, so a dump's size is no concern:
//
//	dump, err := layerdumps.Open([]string{"dump.safetensors"}, layerdumps.Options{})
//	if err != nil {
//		return err
//	}
//	defer dump.Close()
//	for i := range dump.Layers {
//		layer := &dump.Layers[i]
//		row := make([]float32, layer.Q.Dim)
//		layer.Q.Rows(0, 0, 0, 1, row) // the first token of the first head
//		layer.Release()
//	}
package layerdumps

import (
	"errors"
	"math"
	"regexp"
)

// MaxHeadDim is the largest head dimension that a layer may have, because it is
// the kernels'.
const MaxHeadDim = 128

// Layer is one attention layer: its inputs, its parameters and, if a kernel's
// result is at hand, that.
type Layer struct {
	Name    string
	Q, K, V Tensor
	O       *Tensor // nil if there is none
	// LSE is the natural log-sum-exp of the scaled scores that came with the output,
	// one number a row: FP32 with a Dim of 1. It is nil without Options.LSE, or if
	// there is none.
	LSE    *Tensor
	Causal bool
	// LayoutGiven says that Options or the file's metadata name the layout, which is
	// HND otherwise.
	LayoutGiven bool
	// SMScale is the softmax scale that was given, or 0. Scale has the one to
	// use.
	SMScale float64
	// Source is the files that the layer was read from, joined by ", ".
	Source string
	// Synthetic is the file's metadata of that name: not empty if the layer
	// was made up rather than recorded.
	Synthetic string
}

// Scale returns the factor of Q times K transposed: SMScale if it was given,
// and 1/sqrt(head_dim) otherwise.
func (l *Layer) Scale() float64 {
	if l.SMScale != 0 {
		return l.SMScale
	}
	return 1 / math.Sqrt(float64(l.Q.Dim))
}

// Release tells the system that the layer's pages are not needed for now, so
// that a pass over a large dump keeps one layer at a time in memory. The layer
// stays readable.
func (l *Layer) Release() {
	for _, t := range []*Tensor{&l.Q, &l.K, &l.V, l.O, l.LSE} {
		if t != nil && t.release != nil {
			t.release()
		}
	}
}

// Options select layers and override what the files say of them.
type Options struct {
	Layout  *Layout
	Causal  *bool
	SMScale *float64
	// Layers selects layers by name; all of them if it is nil.
	Layers *regexp.Regexp
	// Actual are further files or folders, of which only the tensors <layer>.o
	// (and .lse) are used, in place of the dump's own.
	Actual []string
	// LSE says that tensors <layer>.lse, FP32 [batch, heads, tokens] in either
	// layout, are the layers' log-sum-exp. Otherwise they belong to no layer.
	LSE bool
	// Names say how tensors are called, if not <layer>.q.
	Names Names
}

// Ignored is a tensor that belongs to no layer.
type Ignored struct {
	File, Name string
}

// Dump is an open dump.
type Dump struct {
	// Layers are in the natural order of their names: layers.2 comes before
	// layers.10.
	Layers []Layer
	// Ignored are the tensors whose names are not those of a layer's, in file
	// order.
	Ignored []Ignored
	// Metadata is that of each file that has any.
	Metadata map[string]map[string]string

	closers []func() error
}

// Open reads the dump in paths. Every error names the file and, where there is
// one, the tensor that is at fault.
func Open(paths []string, opt Options) (*Dump, error) {
	d := &Dump{Metadata: make(map[string]map[string]string)}
	if err := d.open(paths, opt); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// Close unmaps the dump's files. No tensor of it may be used afterwards.
func (d *Dump) Close() error {
	var errs []error
	for _, c := range d.closers {
		errs = append(errs, c())
	}
	d.closers = nil
	return errors.Join(errs...)
}

// Reread returns the layer as it is if its tensors are in the other layout, or nil
// where they do not fit each other then. It shares their memory. It has no LSE.
func (l *Layer) Reread() *Layer {
	out := *l
	out.LSE = nil
	out.Q, out.K, out.V = l.Q.reread(), l.K.reread(), l.V.reread()
	if l.O != nil {
		o := l.O.reread()
		out.O = &o
	}
	if out.check() != nil {
		return nil
	}
	return &out
}

// reread is the tensor with heads and tokens exchanged.
func (t *Tensor) reread() Tensor {
	out := *t
	out.Heads, out.Tokens = t.Tokens, t.Heads
	out.layout = HND
	if t.layout == HND {
		out.layout = NHD
	}
	return out
}

// Reordered returns the tensor with the same dimensions, whose elements lie in the
// order of the other layout.
func (t *Tensor) Reordered() Tensor {
	out := t.reread()
	out.Heads, out.Tokens = t.Heads, t.Tokens
	return out
}
