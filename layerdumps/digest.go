package layerdumps

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
)

// Digest returns the SHA-256, in hexadecimal, of what the layer's tensors are and hold:
// role, type, dimensions and elements of q, k, v and, if they are there, o, lse, the mask,
// the block map and the scales. Names, files and the layout do not matter. Of a sequence of a packed
// batch the whole batch's k counts, which may be smoothed as a whole.
func (l *Layer) Digest(ctx context.Context) (string, error) {
	h := sha256.New()
	for i, t := range []*Tensor{&l.Q, &l.K, &l.V, l.O, l.LSE} {
		if t == nil {
			continue
		}
		fmt.Fprintln(h, i)
		if err := t.digest(ctx, h); err != nil {
			return "", err
		}
	}
	fmt.Fprintln(h, l.QDescale, l.KDescale, l.VDescale)
	if m := l.Mask; m != nil {
		if err := m.digest(ctx, h); err != nil {
			return "", err
		}
	}
	if m := l.BlockMap; m != nil {
		if err := m.digest(ctx, h); err != nil {
			return "", err
		}
	}
	if p := l.Packed; p != nil {
		type key struct{}
		type digest struct {
			sum []byte
			err error
		}
		all := p.Keep(key{}, func() any {
			h := sha256.New()
			err := p.K.digest(ctx, h)
			return digest{h.Sum(nil), err}
		}).(digest)
		if all.err != nil {
			return "", all.err
		}
		h.Write(all.sum)
	}
	if err := l.Check(); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// digest adds a tensor, head by head.
func (t *Tensor) digest(ctx context.Context, h hash.Hash) error {
	fmt.Fprintln(h, t.DType, t.Shape())
	const rows = 4096
	for batch := range t.Batch {
		for head := range t.Heads {
			for lo := 0; lo < t.Tokens; lo += rows {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				t.rows(batch, head, lo, min(lo+rows, t.Tokens), func(src []byte) { h.Write(src) })
			}
		}
	}
	return nil
}

// digest adds a mask.
func (m *Mask) digest(ctx context.Context, h hash.Hash) error {
	fmt.Fprintln(h, m.Kind(), m.Shape)
	size := int64(m.width())
	for _, n := range m.Shape {
		size *= int64(n)
	}
	buf := make([]byte, 1<<16)
	for off := int64(0); off < size; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		p := buf[:min(int64(len(buf)), size-off)]
		m.bytes.readAt(m.Name, p, off)
		h.Write(p)
		off += int64(len(p))
	}
	return nil
}
