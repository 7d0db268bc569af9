package compare

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/sageacc/sageacc/compare/heads"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/metrics"
	"github.com/sageacc/sageacc/reference"
)

// fits reports whether rows that are like the reference's to then, read in another
// order, are the right ones, where as they are said to be they are like them to now. Rows
// next to each other may be much alike, so that it takes more than a high likeness.
func fits(then, now float64) bool {
	const good, nearer = 0.97, 8
	// A NaN now, of an output of zeros, fits nothing.
	return then > good && 1-then < (1-now)/nearer
}

// place is a row of an output.
type place struct{ batch, head, token int }

// samples are the rows that are looked at: spread over the heads, and late in the
// layer, where a causal row sees many keys, but not the last, so that each has a next.
func samples(l *layerdumps.Layer) []place {
	const n = 6
	var out []place
	for i := range n {
		p := place{i * l.Q.Batch / n, i * l.Q.Heads / n, max(0, l.Q.Tokens-2-i*l.Q.Tokens/(n+1))}
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// expected is the reference of rows of a layer, one after the other.
func expected(ctx context.Context, l *layerdumps.Layer, at []place) ([]float64, error) {
	d, group := l.Q.Dim, l.Q.Heads/l.K.Heads
	out := make([]float64, len(at)*d)
	q := make([]float32, d)
	align := 0
	if l.CausalAlign == "bottom-right" {
		align = l.K.Tokens - l.Q.Tokens
	}
	var ws reference.Workspace
	for i, x := range at {
		read := func(t *layerdumps.Tensor, head int) reference.Rows {
			return reference.Rows(heads.Values(l, t, heads.Rows(t, x.batch, head), x.batch, head))
		}
		read(&l.Q, x.head)(x.token, x.token+1, q)
		k, v := read(&l.K, x.head/group), read(&l.V, x.head/group)
		if err := reference.AttentionRows(ctx, heads.Reference(l, reference.FP32, align, x.batch, x.head), q, k, v, x.token, x.token+1, l.K.Tokens, d, &ws, out[i*d:][:d], nil); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// likeness is the cosine similarity of rows to the reference's; row reads the i-th.
func likeness(ref []float64, d int, row func(i int, dst []float32)) float64 {
	var a metrics.Accuracy
	x := make([]float32, d)
	for i := range len(ref) / d {
		row(i, x)
		a.Add64(x, ref[i*d:][:d])
	}
	return a.CosSim()
}

// rowsAt reads rows of a tensor.
func rowsAt(t *layerdumps.Tensor, at []place) func(i int, dst []float32) {
	return func(i int, dst []float32) { t.Rows(at[i].batch, at[i].head, at[i].token, at[i].token+1, dst) }
}

// agreement is how near a layer's output is to its reference, on a few rows.
func agreement(ctx context.Context, l *layerdumps.Layer) (float64, error) {
	at := samples(l)
	ref, err := expected(ctx, l, at)
	if err != nil {
		return 0, err
	}
	return likeness(ref, l.Q.Dim, rowsAt(l.O, at)), nil
}

// Doubt is a layer that is likely in another layout than it was taken to be.
type Doubt struct {
	Layer string
	// Text says why.
	Text string
}

// settled is how like its reference an output must be for the layer to be in the layout
// that it was taken to be in.
const settled = 0.9

// DoubtLayouts looks for layers whose layout neither a file's metadata nor an option
// names and that are likely in the other one: because the output fits the reference
// then and does not otherwise, which a few rows tell, or because there are fewer tokens
// than heads. An output that fits as the layer was read settles it.
func DoubtLayouts(ctx context.Context, d *layerdumps.Dump) ([]Doubt, error) {
	var out []Doubt
	for i := range d.Layers {
		l := &d.Layers[i]
		odd := l.K.Tokens < l.K.Heads
		if l.LayoutGiven {
			continue
		}
		other := l.Reread()
		if other == nil {
			continue
		}
		if l.O != nil {
			now, err := agreement(ctx, l)
			if err != nil {
				return nil, err
			}
			then, err := agreement(ctx, other)
			if err != nil {
				return nil, err
			}
			if fits(then, now) && (now < settled || odd) {
				out = append(out, Doubt{l.Name, fmt.Sprintf("read as [batch, heads, tokens, head_dim] its output is not that of its q, k and v (cos_sim %.3g), as [batch, tokens, heads, head_dim] it is (%.6f)", now, then)})
				continue
			}
			if now > settled {
				continue
			}
		}
		if odd {
			out = append(out, Doubt{l.Name, fmt.Sprintf("read as [batch, heads, tokens, head_dim] %q has %d heads of %d tokens, which is likely [batch, tokens, heads, head_dim]", l.K.Name, l.K.Heads, l.K.Tokens)})
		}
	}
	return out, nil
}

// mostSearched is how many heads, or layers, are looked through for the values of
// another.
const mostSearched = 256

// misplaced looks for the right values of a wrong output in another order, and says in
// which; it is empty if they are nowhere.
func misplaced(ctx context.Context, d *layerdumps.Dump, l *layerdumps.Layer) (string, error) {
	at := samples(l)
	ref, err := expected(ctx, l, at)
	if err != nil {
		return "", err
	}
	dim, o := l.Q.Dim, l.O
	now := likeness(ref, dim, rowsAt(o, at))
	found := func(row func(i int, dst []float32)) bool { return fits(likeness(ref, dim, row), now) }
	shifted := func(by int) []place {
		out := slices.Clone(at)
		for i := range out {
			out[i].token = min(max(out[i].token+by, 0), o.Tokens-1)
		}
		return out
	}
	if other := l.Reread(); other != nil {
		x, err := agreement(ctx, other)
		if err != nil {
			return "", err
		}
		if fits(x, now) {
			return "with heads and tokens of all its tensors exchanged the actual output is right: they are in the other layout", nil
		}
	}
	// The order of the memory alone.
	if x := o.Reordered(); o.Heads > 1 && o.Tokens > 1 && found(rowsAt(&x, at)) {
		return "the actual output holds the right values in the memory order of the other layout", nil
	}
	if found(func(i int, dst []float32) {
		element := make([]float32, dim)
		for c := range dst {
			n := c*o.Tokens + at[i].token
			o.Rows(at[i].batch, at[i].head, n/dim, n/dim+1, element)
			dst[c] = element[n%dim]
		}
	}) {
		return "each head of the actual output is transposed, [head_dim, tokens]", nil
	}
	for _, by := range []int{1, -1} {
		if found(rowsAt(o, shifted(by))) {
			where := "after"
			if by < 0 {
				where = "before"
			}
			return fmt.Sprintf("the actual output is shifted: the values of a token are in the one %s it", where), nil
		}
	}
	if o.Batch*o.Heads <= mostSearched {
		// Where each sampled row is instead.
		from := slices.Clone(at)
		row := make([]float32, dim)
		for i, x := range at {
			best := math.Inf(-1)
			for b := range o.Batch {
				for h := range o.Heads {
					o.Rows(b, h, x.token, x.token+1, row)
					if c := likeness(ref[i*dim:][:dim], dim, func(_ int, dst []float32) { copy(dst, row) }); c > best {
						best, from[i] = c, place{b, h, x.token}
					}
				}
			}
		}
		if found(rowsAt(o, from)) {
			i := 0
			for at[i] == from[i] {
				i++ // they are not all the same, or the output would be right
			}
			if o.Batch > 1 {
				return fmt.Sprintf("the actual output has the right values in other heads: those of batch %d, head %d are in batch %d, head %d", at[i].batch, at[i].head, from[i].batch, from[i].head), nil
			}
			return fmt.Sprintf("the actual output has the right values in other heads: those of head %d are in head %d", at[i].head, from[i].head), nil
		}
	}
	for i := range d.Layers[:min(len(d.Layers), mostSearched)] {
		m := d.Layers[i]
		if m.Name == l.Name || m.Q.Shape() != l.Q.Shape() {
			continue
		}
		m.O = o
		x, err := agreement(ctx, &m)
		if err != nil {
			return "", err
		}
		if fits(x, now) {
			return "the actual output is that of " + m.Name, nil
		}
	}
	return "", nil
}
