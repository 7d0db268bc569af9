package layerdumps

import (
	"fmt"
	"math"

	"github.com/sageacc/sageacc/emulate/format"
)

// Mask is an attention mask that came with a call. It is broadcast over batch and heads,
// and over queries and keys, as PyTorch does. Like a Tensor it reads from its file.
type Mask struct {
	File, Name string
	// Boolean says that the mask is true where a query sees a key. Otherwise its values, of
	// DType, are added to the scaled scores.
	Boolean bool
	DType   format.DType
	// Shape is [batch, heads, queries, keys], each the layer's or 1.
	Shape [4]int

	bytes elements
}

// Kind returns what the mask is: boolean, FP16, BF16 or FP32.
func (m *Mask) Kind() string {
	if m.Boolean {
		return "boolean"
	}
	return m.DType.String()
}

// width returns the bytes of one element.
func (m *Mask) width() int {
	if m.Boolean {
		return 1
	}
	return m.DType.Size()
}

// read calls f with the bytes of the keys [lo, hi) for a query, some at a time. A
// dimension of 1 stands for all; f is then given that one element, and how often it counts.
func (m *Mask) read(batch, head, query, lo, hi int, f func(src []byte, times int)) {
	s := &m.Shape
	row := ((batch%s[0])*s[1]+head%s[1])*s[2] + query%s[2]
	w := m.width()
	buf := blocks.Get().(*[1 << 16]byte)
	defer blocks.Put(buf)
	if s[3] == 1 {
		m.bytes.readAt(m.Name, buf[:w], int64(row)*int64(w))
		f(buf[:w], hi-lo)
		return
	}
	for ; lo < hi; lo += len(buf) / w {
		src := buf[:min(hi-lo, len(buf)/w)*w]
		m.bytes.readAt(m.Name, src, (int64(row)*int64(s[3])+int64(lo))*int64(w))
		f(src, 1)
	}
}

// Visible writes whether a query of a head sees the keys [lo, hi), of a boolean mask.
func (m *Mask) Visible(batch, head, query, lo, hi int, dst []bool) {
	m.read(batch, head, query, lo, hi, func(src []byte, times int) {
		for _, b := range src {
			for range times {
				dst[0], dst = b != 0, dst[1:]
			}
		}
	})
}

// Bias writes what is added to a query's scaled scores with the keys [lo, hi), of an
// additive mask.
func (m *Mask) Bias(batch, head, query, lo, hi int, dst []float32) {
	w := m.width()
	m.read(batch, head, query, lo, hi, func(src []byte, times int) {
		n := len(src) / w * times
		decodeAs(m.DType, dst[:len(src)/w], src)
		for i := 1; i < times; i++ {
			dst[i] = dst[0]
		}
		dst = dst[n:]
	})
}

// mask takes a layer's mask.
func (d *Dump) mask(l *Layer, t *rawTensor) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%s: tensor %q: %w", t.file, t.name, fmt.Errorf(format, args...))
	}
	m := &Mask{File: t.file, Name: t.name, Boolean: t.dtype == "BOOL"}
	if !m.Boolean {
		var err error
		if m.DType, err = parseDType(t.dtype, false); err != nil {
			return bad("a mask of dtype %s is neither boolean nor FP16, BF16 or FP32", t.dtype)
		}
	}
	n := len(t.shape)
	if n < 1 || n > len(m.Shape) {
		return bad("has %d dimensions, %v; want [batch, heads, queries, keys] or the last of these", n, t.shape)
	}
	m.Shape = [4]int{1, 1, 1, 1}
	copy(m.Shape[len(m.Shape)-n:], t.shape)
	if !m.fits(l) {
		more := ""
		if other := l.Reread(); !l.LayoutGiven && other != nil && m.fits(other) {
			more = fmt.Sprintf("; it fits layout %s", other.Q.layout)
		}
		return bad("%v is not broadcast to [batch, heads, queries, keys] %v%s", t.shape, scoresOf(l), more)
	}
	if err := t.ready(); err != nil {
		return err
	}
	m.bytes = t.bytes(d.source)
	l.Mask = m
	return nil
}

// scoresOf is the shape of a layer's scores, [batch, heads, queries, keys].
func scoresOf(l *Layer) [4]int { return [4]int{l.Q.Batch, l.Q.Heads, l.Q.Tokens, l.K.Tokens} }

// fits says whether the mask is broadcast to a layer's scores.
func (m *Mask) fits(l *Layer) bool {
	for i, want := range scoresOf(l) {
		if x := m.Shape[i]; x != 1 && x != want {
			return false
		}
	}
	return true
}

// MaskStats is what a whole mask holds.
type MaskStats struct {
	// Rows are the rows that the mask has, of all heads and batch entries that it tells
	// apart, Blind those of them that see no key: a key is hidden by false, and by -inf.
	Rows, Blind int64
	// Elements are its elements, Hidden those that hide a key, NaN those that are no number.
	Elements, Hidden, NaN int64
}

// Notes say what is odd about the mask.
func (s MaskStats) Notes() []string {
	var out []string
	switch {
	case s.Hidden == s.Elements:
		out = append(out, "mask: it hides every key from every row")
	case s.Blind > 0:
		out = append(out, fmt.Sprintf("mask: %d of its %d rows see no key; the reference has zeros there", s.Blind, s.Rows))
	}
	if s.NaN > 0 {
		out = append(out, fmt.Sprintf("mask: %d of %d elements are NaN", s.NaN, s.Elements))
	}
	return out
}

// Stats reads the whole mask. It calls stop once for each row, and returns what that
// does if it is an error.
func (m *Mask) Stats(stop func() error) (MaskStats, error) {
	var st MaskStats
	s := &m.Shape
	x := make([]float32, (1<<16)/m.width())
	for b := range s[0] {
		for h := range s[1] {
			for q := range s[2] {
				if err := stop(); err != nil {
					return st, err
				}
				st.Rows++
				sees := false
				m.read(b, h, q, 0, s[3], func(src []byte, _ int) {
					n := len(src) / m.width()
					st.Elements += int64(n)
					if m.Boolean {
						for _, b := range src {
							sees = sees || b != 0
							if b == 0 {
								st.Hidden++
							}
						}
						return
					}
					decodeAs(m.DType, x[:n], src)
					for _, v := range x[:n] {
						switch {
						case v != v:
							st.NaN++
						case math.IsInf(float64(v), -1):
							st.Hidden++
							continue
						}
						sees = true
					}
				})
				if !sees {
					st.Blind++
				}
			}
		}
	}
	return st, nil
}

// extras are tensors of the roles after those of roles, by role and by the layer's name in
// the files. A name may be a layer's in several files.
type extras map[int]map[string][]*rawTensor

// add takes a tensor in if it is one; a log-sum-exp only if it is asked for.
func (e extras) add(t *rawTensor, sums bool) bool {
	if !t.named || t.role < lse || t.role == lse && !sums {
		return false
	}
	if e[t.role] == nil {
		e[t.role] = make(map[string][]*rawTensor)
	}
	e[t.role][t.layer] = append(e[t.role][t.layer], t)
	return true
}

// without lists those that have no layer in found.
func (e extras) without(found set) []*rawTensor {
	if len(e) == 0 {
		return nil
	}
	layers := make(map[string]bool)
	for _, p := range found {
		for _, t := range p {
			if t != nil {
				layers[t.layer] = true
			}
		}
	}
	var left []*rawTensor
	for _, byLayer := range e {
		for name, ts := range byLayer {
			if !layers[name] {
				left = append(left, ts...)
			}
		}
	}
	return left
}

// of finds the tensor of a role that belongs to a layer: beside one of the layer's own, in
// its file, or in a file of its own if no other layer has that name; nil for none.
func (e extras) of(role int, layer string, beside *rawTensor) (*rawTensor, error) {
	var t *rawTensor
	for _, c := range e[role][beside.layer] {
		if c.file != beside.file {
			continue
		}
		if t != nil {
			return nil, fmt.Errorf("%s: tensors %q and %q are both %s of layer %q (--names says which is)", c.file, t.name, c.name, roleNames[role][0], beside.layer)
		}
		t = c
	}
	if all := e[role][beside.layer]; t == nil && len(all) > 0 && layer == beside.layer {
		if t = all[0]; len(all) > 1 {
			return nil, fmt.Errorf("%s: tensor %q: %s has one of that name too", t.file, t.name, all[1].file)
		}
	}
	return t, nil
}

// ready makes the tensor's bytes readable.
func (t *rawTensor) ready() error {
	if t.load == nil {
		return nil
	}
	return t.load()
}
