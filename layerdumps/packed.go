package layerdumps

import (
	"encoding/binary"
	"fmt"
	"sync"
)

// Packed is the batch that a sequence is packed in: tensors [tokens, heads, head_dim] of
// all sequences, one after the other, which <layer>.cu_seqlens_q and .cu_seqlens_k bound.
type Packed struct {
	// Layer is the layer's name without that of the sequence; Bounds the name of the tensor
	// that bounds the queries.
	Layer, Bounds string
	// Sequence is the sequence's number among Sequences.
	Sequence, Sequences int
	// K is that of all sequences.
	K Tensor

	kept *kept
}

// kept is what was computed of all sequences together.
type kept struct {
	mu    sync.Mutex
	value map[any]any
}

// Keep returns what is computed of all sequences together under a key: make makes it the
// first time that any sequence of the batch asks.
func (p *Packed) Keep(key any, make func() any) any {
	p.kept.mu.Lock()
	defer p.kept.mu.Unlock()
	if _, ok := p.kept.value[key]; !ok {
		p.kept.value[key] = make()
	}
	return p.kept.value[key]
}

// bounds are the tensors that bound packed sequences, and what they hold: sequence i has
// the tokens from element i to element i+1.
type bounds struct {
	q, k          *rawTensor
	queries, keys []int
}

// maxSequences is how many sequences a batch may have: what they take is bounded by it, not
// by a file.
const maxSequences = 1 << 20

// findBounds finds and reads a layer's bounds; nil where it has none.
func (d *Dump) findBounds(name string, p *parts, found extras) (*bounds, error) {
	if p[0] == nil {
		return nil, nil // which assemble reports
	}
	var b bounds
	for _, x := range []struct {
		role int
		at   **rawTensor
		to   *[]int
	}{{cuSeqlensQ, &b.q, &b.queries}, {cuSeqlensK, &b.k, &b.keys}} {
		t, err := found.of(x.role, name, p[0])
		if err != nil {
			return nil, err
		}
		if *x.at = t; t == nil {
			continue
		}
		if *x.to, err = d.readBounds(t); err != nil {
			return nil, fmt.Errorf("%s: tensor %q: %w", t.file, t.name, err)
		}
	}
	switch {
	case b.q == nil && b.k == nil:
		return nil, nil
	case b.q == nil || b.k == nil:
		there, lacks := b.q, "cu_seqlens_k"
		if there == nil {
			there, lacks = b.k, "cu_seqlens_q"
		}
		return nil, fmt.Errorf("%s: tensor %q: there is no %s.%s", there.file, there.name, there.layer, lacks)
	case len(b.queries) != len(b.keys):
		return nil, fmt.Errorf("%s: tensor %q: has %d elements, and %q has %d", b.k.file, b.k.name, len(b.keys), b.q.name, len(b.queries))
	}
	return &b, nil
}

// readBounds reads bounds: whole numbers from 0 that do not fall.
func (d *Dump) readBounds(t *rawTensor) ([]int, error) {
	width := map[string]int{"I32": 4, "I64": 8}[t.dtype]
	switch {
	case width == 0:
		return nil, fmt.Errorf("dtype %s is not I32 or I64", t.dtype)
	case len(t.shape) != 1 || t.shape[0] < 2:
		return nil, fmt.Errorf("has shape %v; want one number more than there are sequences", t.shape)
	case t.shape[0] > maxSequences+1:
		return nil, fmt.Errorf("has %d sequences; a batch may have up to %d", t.shape[0]-1, maxSequences)
	}
	if err := t.ready(); err != nil {
		return nil, err
	}
	b := make([]byte, t.shape[0]*width)
	e := t.bytes(d.source)
	if e.readAt(t.name, b, 0); d.source.err() != nil {
		return nil, d.source.err()
	}
	out := make([]int, t.shape[0])
	for i := range out {
		x := int64(int32(binary.LittleEndian.Uint32(b[i*width:])))
		if width == 8 {
			x = int64(binary.LittleEndian.Uint64(b[i*width:]))
		}
		switch {
		case i == 0 && x != 0:
			return nil, fmt.Errorf("begins with %d, not with 0", x)
		case i > 0 && x < int64(out[i-1]):
			return nil, fmt.Errorf("element %d is %d, below element %d, %d", i, x, i-1, out[i-1])
		case int64(int(x)) != x:
			return nil, fmt.Errorf("element %d is %d", i, x)
		}
		out[i] = int(x)
	}
	return out, nil
}

// sequences is how many there are, 0 without bounds.
func (b *bounds) sequences() int {
	if b == nil {
		return 0
	}
	return len(b.queries) - 1
}

// split makes a layer of each sequence that has queries.
func (b *bounds) split(l *Layer) ([]Layer, error) {
	for _, x := range []struct {
		bound *rawTensor
		at    []int
		of    *Tensor
	}{{b.q, b.queries, &l.Q}, {b.k, b.keys, &l.K}} {
		if last := x.at[len(x.at)-1]; last != x.of.Tokens {
			return nil, fmt.Errorf("%s: tensor %q: ends with %d, and %q has %d tokens", x.bound.file, x.bound.name, last, x.of.Name, x.of.Tokens)
		}
		l.from(x.bound.file)
	}
	shared := &kept{value: make(map[any]any)}
	n := b.sequences()
	var out []Layer
	for i := range n {
		q0, q1, k0, k1 := b.queries[i], b.queries[i+1], b.keys[i], b.keys[i+1]
		if q0 == q1 {
			continue
		}
		if k0 == k1 {
			return nil, fmt.Errorf("%s: tensor %q: sequence %d has %d queries and no keys", b.k.file, b.k.name, i, q1-q0)
		}
		s := *l
		s.Packed = &Packed{Layer: l.Name, Bounds: b.q.name, Sequence: i, Sequences: n, K: l.K, kept: shared}
		if n > 1 {
			s.Name = fmt.Sprintf("%s.seq%d", l.Name, i)
		}
		s.Q, s.K, s.V = l.Q.sequence(q0, q1), l.K.sequence(k0, k1), l.V.sequence(k0, k1)
		for _, t := range []**Tensor{&s.O, &s.LSE} {
			if *t != nil {
				part := (*t).sequence(q0, q1)
				*t = &part
			}
		}
		for scale, heads := range map[*[]float32]int{&s.QDescale: l.Q.Heads, &s.KDescale: l.K.Heads, &s.VDescale: l.V.Heads} {
			if *scale != nil {
				*scale = (*scale)[i*heads : (i+1)*heads]
			}
		}
		out = append(out, s)
	}
	if out == nil {
		return nil, fmt.Errorf("%s: tensor %q: no sequence has queries", b.q.file, b.q.name)
	}
	return out, nil
}

// sequence is the tensor of the tokens [lo, hi).
func (t *Tensor) sequence(lo, hi int) Tensor {
	out := *t
	out.first, out.total, out.Tokens = lo, t.Tokens, hi-lo
	return out
}
