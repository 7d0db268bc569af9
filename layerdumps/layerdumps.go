// Package layerdumps turns dumped activations into attention layers.
//
// A dump is one or more safetensors, .npz or .npy files, or folders of them, or the
// index of safetensors files that were cut (model.safetensors.index.json). A tensor
// <layer>.q, .k, .v or .o belongs to layer <layer>: o, which is optional, is what a kernel
// returned for it. The tensors are FP16, BF16 or FP32, q, k and v also F8_E4M3 or F8_E5M2
// with scales <layer>.q_descale and so on, and have four dimensions: HND, [batch, heads,
// tokens, head_dim], or NHD, [batch, tokens, heads, head_dim]. K and V may have fewer heads
// than Q, if these divide Q's, and another number of tokens.
//
// A layer may be spread over files. Where several files each hold a whole layer
// (q, k and v) of the same name, they are different layers, and all layers are
// called <file>/<layer>, the file without its ending.
//
// Tensors <layer>.cu_seqlens_q and .cu_seqlens_k, I32 or I64, bound packed sequences: q, k,
// v and o are then [tokens, heads, head_dim], and each sequence with queries is a layer,
// <layer>.seq0 and so on.
//
// A tensor <layer>.mask is a mask of the scores, boolean or to be added; <layer>.block_map, BOOL
// or U8, lists the tiles of scores that were computed at all.
//
// Tensors <layer>.query, .key, .value and .out, .output or .attn_output stand for
// those where they complete a layer and have no rival, and tensors called q, k, v and
// so on alone are the layer "attn". Options.Names has patterns for any other names.
//
// An .npz array has its name in the archive, a .npy file its file name without
// the ending. A safetensors file's metadata applies to the layers whose q it
// holds: causal ("true" or "false"), layout ("HND" or "NHD"), sm_scale (a
// number), window ("LEFT,RIGHT"), softcap (a number), causal_align ("top-left" or
// "bottom-right") and synthetic (free text: how the layer was made, if it was not
// recorded). Options override all but the last. The names that PyTorch and
// SageAttention have for them are read too: is_causal, tensor_layout, softmax_scale.
// A name that only looks like one of them is an error, so that no mask or scale is
// passed over; others, such as format, mean nothing here.
//
// Layers read from their files when they are asked for rows, so a dump's size is no
// concern. What goes wrong then, such as a file that somebody truncates, is kept until
// it is asked for:
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
//		if err := layer.Check(); err != nil {
//			return err
//		}
//	}
package layerdumps

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"sync/atomic"

	"github.com/sageacc/sageacc/internal/datafile"
)

// MaxHeadDim is the largest head dimension that a layer may have: the largest of the
// kernels and of the reference. Most kernels have a smaller one.
const MaxHeadDim = 256

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
	// CausalAlign says how the caller aligns a causal mask or a window, top-left or
	// bottom-right, where that is given; "" leaves it to the kernel.
	CausalAlign string
	// Window bounds the keys that a query sees; nil for no bound.
	Window *Window
	// Softcap is the soft cap c of the scaled scores, c*tanh(s/c); 0 for none.
	Softcap float64
	// Mask is the mask that the call was given, nil for none.
	Mask *Mask
	// BlockMap lists the tiles that the call was to run, nil for all.
	BlockMap *BlockMap
	// QDescale, KDescale and VDescale are the scales of FP8 tensors, [batch][heads] of the
	// tensor: a value is its code times the scale. They are nil where there are none: 1.
	QDescale, KDescale, VDescale []float32
	// Packed says of which packed batch the layer is a sequence; nil for none.
	Packed *Packed
	// LayoutGiven says that Options or the file's metadata name the layout, which is
	// HND otherwise.
	LayoutGiven bool
	// SMScale is the softmax scale that was given, or 0. Scale has the one to
	// use.
	SMScale float64
	// Source is the files that the layer was read from, joined by ", ".
	Source string
	// Metadata is that of the file whose q it is, nil where it has none. It is shared.
	Metadata map[string]string
	// Synthetic is the file's metadata of that name: not empty if the layer
	// was made up rather than recorded.
	Synthetic string
}

// Window hides from a query, aligned with the keys as a causal mask, those more than Left
// before and more than Right after it; -1 stands for no bound.
type Window struct{ Left, Right int }

// String returns "LEFT,RIGHT", which ParseWindow reads.
func (w Window) String() string { return fmt.Sprintf("%d,%d", w.Left, w.Right) }

// Scale returns the factor of Q times K transposed: SMScale if it was given,
// and 1/sqrt(head_dim) otherwise.
func (l *Layer) Scale() float64 {
	if l.SMScale != 0 {
		return l.SMScale
	}
	return 1 / math.Sqrt(float64(l.Q.Dim))
}

// Err returns what went wrong while a layer of the dump was read, nil for nothing. The
// rows that could not be read are zero. It costs nothing to ask.
func (l *Layer) Err() error {
	if s := l.Q.bytes.source; s != nil {
		return s.err()
	}
	return nil
}

// Check is Err, or else reports that one of the layer's files was changed since it was
// opened: what was read of it need not belong together. It is to be asked when the
// layer has been read.
func (l *Layer) Check() error {
	s := l.Q.bytes.source
	if s == nil {
		return nil
	}
	var files []string
	for _, t := range []*Tensor{&l.Q, &l.K, &l.V, l.O, l.LSE} {
		if t != nil && !slices.Contains(files, t.File) {
			files = append(files, t.File)
		}
	}
	if l.Mask != nil && !slices.Contains(files, l.Mask.File) {
		files = append(files, l.Mask.File)
	}
	if l.BlockMap != nil && !slices.Contains(files, l.BlockMap.File) {
		files = append(files, l.BlockMap.File)
	}
	return s.check(files)
}

// Options select layers and override what the files say of them.
type Options struct {
	Layout  *Layout
	Causal  *bool
	SMScale *float64
	// CausalAlign, Window and Softcap replace what the layer's metadata say of them.
	CausalAlign *string
	Window      *Window
	Softcap     *float64
	// Layers selects layers by name; all of them if it is nil.
	Layers *regexp.Regexp
	// Actual are further files or folders, of which only the tensors <layer>.o
	// (and .lse) are used, in place of the dump's own.
	Actual []string
	// LSE says that tensors <layer>.lse, FP32 [batch, heads, tokens] in either
	// layout, are the layers' log-sum-exp. Otherwise they belong to no layer.
	LSE bool
	// Failed, if not nil, is called once with what Err returns as soon as there is
	// something, by the goroutine that was reading: it can stop what depends on it.
	Failed func(error)
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
	// Files are all files that were read, in this order, whether or not a layer
	// has a tensor of them: nothing may be written in their place.
	Files []string

	files  *datafile.Pool
	source *source
}

// descriptors is how many files of a dump are open at a time.
const descriptors = 128

// Open reads the dump in paths. Every error names the file and, where there is
// one, the tensor that is at fault.
func Open(paths []string, opt Options) (*Dump, error) {
	d := &Dump{
		Metadata: make(map[string]map[string]string),
		files:    datafile.NewPool(descriptors),
		source:   &source{opened: make(map[string]*datafile.File), failed: opt.Failed},
	}
	if err := d.open(paths, opt); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// Close closes the dump's files. No tensor of it may be used afterwards.
func (d *Dump) Close() error {
	if d.files == nil {
		return nil
	}
	return d.files.Close()
}

// source is what the tensors of a dump are read from.
type source struct {
	opened map[string]*datafile.File // by path; only read once the dump is open
	fault  atomic.Pointer[error]     // the first
	failed func(error)
}

// fail keeps the first error.
func (s *source) fail(err error) {
	if s.fault.CompareAndSwap(nil, &err) && s.failed != nil {
		s.failed(err)
	}
}

func (s *source) err() error {
	if p := s.fault.Load(); p != nil {
		return *p
	}
	return nil
}

// check reports the first error, or else the first of the files that was changed.
func (s *source) check(files []string) error {
	if err := s.err(); err != nil {
		return err
	}
	for _, path := range files {
		if f := s.opened[path]; f != nil {
			if err := f.Check(); err != nil {
				s.fail(err)
				return err
			}
		}
	}
	return nil
}

// Reread returns the layer as it is if its tensors are in the other layout, or nil
// where they do not fit each other then, or have scales of heads. It shares their memory. It has no LSE.
func (l *Layer) Reread() *Layer {
	out := *l
	out.LSE = nil
	out.Q, out.K, out.V = l.Q.reread(), l.K.reread(), l.V.reread()
	if l.O != nil {
		o := l.O.reread()
		out.O = &o
	}
	for scales, t := range map[*[]float32]*Tensor{&out.QDescale: &out.Q, &out.KDescale: &out.K, &out.VDescale: &out.V} {
		if s := *scales; s != nil && t.Heads != t.Tokens {
			if slices.Min(s) != slices.Max(s) {
				return nil // they say how many heads there are
			}
			*scales = slices.Repeat(s[:1], t.Batch*t.Heads)
		}
	}
	if out.check() != nil || out.Mask != nil && !out.Mask.fits(&out) || out.BlockMap != nil && !out.BlockMap.fits(&out) {
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
