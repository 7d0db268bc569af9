package layerdumps

import (
	"context"
	"fmt"
	"hash"
)

// BlockMap is a block map that came with a call: which tiles of keys a block of queries runs.
// Like a Tensor it reads from its file.
type BlockMap struct {
	File, Name string
	// Shape is [batch, heads, blocks of queries, blocks of keys]. How many queries and keys a
	// block has, the kernel says.
	Shape [4]int
	// Listed is how many blocks are listed; every row has one.
	Listed int64

	bytes elements
}

// List writes which of the blocks of keys [lo, hi) are listed for a block of queries.
func (m *BlockMap) List(batch, head, block, lo, hi int, dst []bool) {
	buf := blocks.Get().(*[1 << 16]byte)
	defer blocks.Put(buf)
	row := (int64(batch)*int64(m.Shape[1])+int64(head))*int64(m.Shape[2]) + int64(block)
	for ; lo < hi; lo += len(buf) {
		src := buf[:min(hi-lo, len(buf))]
		m.bytes.readAt(m.Name, src, row*int64(m.Shape[3])+int64(lo))
		for i, b := range src {
			dst[i] = b != 0
		}
		dst = dst[len(src):]
	}
}

// blockMap takes a layer's block map.
func (d *Dump) blockMap(l *Layer, t *rawTensor) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%s: tensor %q: %w", t.file, t.name, fmt.Errorf(format, args...))
	}
	if t.dtype != "BOOL" && t.dtype != "U8" {
		return bad("dtype %s is not BOOL or U8", t.dtype)
	}
	m := &BlockMap{File: t.file, Name: t.name}
	if len(t.shape) != len(m.Shape) {
		return bad("has %d dimensions, %v; want [batch, heads, blocks of queries, blocks of keys]", len(t.shape), t.shape)
	}
	copy(m.Shape[:], t.shape)
	if !m.fits(l) {
		return bad("%v are no blocks [batch, heads, blocks of queries, blocks of keys] of scores %v", t.shape, scoresOf(l))
	}
	if err := t.ready(); err != nil {
		return err
	}
	m.bytes = t.bytes(d.source)
	listed := make([]bool, m.Shape[3])
	for b := range m.Shape[0] {
		for h := range m.Shape[1] {
			for q := range m.Shape[2] {
				before := m.Listed
				m.List(b, h, q, 0, m.Shape[3], listed)
				for _, in := range listed {
					if in {
						m.Listed++
					}
				}
				if err := d.source.err(); err != nil {
					return err
				}
				if m.Listed == before {
					return bad("batch %d, head %d: no block of keys is listed for block %d of queries, whose output no kernel writes", b, h, q)
				}
			}
		}
	}
	l.BlockMap = m
	return nil
}

// fits says whether the map can be one of a layer's scores.
func (m *BlockMap) fits(l *Layer) bool {
	s := scoresOf(l)
	return m.Shape[0] == s[0] && m.Shape[1] == s[1] && m.Shape[2] >= 1 && m.Shape[2] <= s[2] && m.Shape[3] >= 1 && m.Shape[3] <= s[3]
}

// digest adds the map.
func (m *BlockMap) digest(ctx context.Context, h hash.Hash) error {
	fmt.Fprintln(h, "block map", m.Shape)
	listed, row := make([]bool, m.Shape[3]), make([]byte, m.Shape[3])
	for b := range m.Shape[0] {
		for head := range m.Shape[1] {
			for q := range m.Shape[2] {
				if err := ctx.Err(); err != nil {
					return context.Cause(ctx)
				}
				m.List(b, head, q, 0, m.Shape[3], listed)
				for i, in := range listed {
					if row[i] = 0; in {
						row[i] = 1
					}
				}
				h.Write(row)
			}
		}
	}
	return nil
}
