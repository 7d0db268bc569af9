package layerdumps

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// Digest returns the SHA-256, in hexadecimal, of what the layer's tensors are and hold:
// role, type, dimensions, layout and bytes of q, k, v and, if they are there, o and lse.
// Names and files do not matter.
func (l *Layer) Digest(ctx context.Context) (string, error) {
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for i, t := range []*Tensor{&l.Q, &l.K, &l.V, l.O, l.LSE} {
		if t == nil {
			continue
		}
		fmt.Fprintln(h, i, t.DType, t.Shape(), t.layout)
		size := int64(t.DType.Size())
		for _, n := range t.Shape() {
			size *= int64(n)
		}
		for off := int64(0); off < size; {
			if err := ctx.Err(); err != nil {
				return "", context.Cause(ctx)
			}
			p := buf[:min(int64(len(buf)), size-off)]
			t.readAt(p, off)
			h.Write(p)
			off += int64(len(p))
		}
	}
	if err := l.Check(); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
