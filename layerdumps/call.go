package layerdumps

import (
	"fmt"
	"strings"
)

// Call is what a layer's call was given beside q, k, v, a causal mask and a scale, in the
// form that results have.
type Call struct {
	Mask *MaskCall `json:"mask,omitempty"`
	// Window is [left, right], -1 for no bound.
	Window      *[2]int `json:"window,omitempty"`
	Softcap     float64 `json:"softcap,omitempty"`
	CausalAlign string  `json:"causal_align,omitempty"`
	// Descale names the FP8 tensors that have scales, as in "q k v".
	Descale string `json:"descale,omitempty"`
	// BlockMap describes the block map, of which the reference knows nothing.
	BlockMap *BlockMapCall `json:"block_map,omitempty"`
	// Packed says which sequence of a packed batch the layer is.
	Packed *PackedCall `json:"packed,omitempty"`
}

// PackedCall is a sequence of a packed batch, one of Sequences of a layer.
type PackedCall struct {
	Layer     string `json:"layer"`
	Sequence  int    `json:"sequence"`
	Sequences int    `json:"sequences"`
}

// MaskCall describes a mask: boolean, FP16, BF16 or FP32, and [batch, heads, queries, keys],
// 1 where it is broadcast.
type MaskCall struct {
	Kind  string `json:"kind"`
	Shape [4]int `json:"shape"`
}

// BlockMapCall describes a block map: [batch, heads, blocks of queries, blocks of keys], and how
// many blocks are listed.
type BlockMapCall struct {
	Shape  [4]int `json:"shape"`
	Listed int64  `json:"listed"`
}

// Call describes the layer's call; it is nil where there is nothing to say.
func (l *Layer) Call() *Call {
	c := Call{Softcap: l.Softcap, CausalAlign: l.CausalAlign}
	if l.Mask != nil {
		c.Mask = &MaskCall{l.Mask.Kind(), l.Mask.Shape}
	}
	if m := l.BlockMap; m != nil {
		c.BlockMap = &BlockMapCall{m.Shape, m.Listed}
	}
	if l.Window != nil {
		c.Window = &[2]int{l.Window.Left, l.Window.Right}
	}
	var scaled []string
	for _, x := range []struct {
		name  string
		scale []float32
	}{{"q", l.QDescale}, {"k", l.KDescale}, {"v", l.VDescale}} {
		if x.scale != nil {
			scaled = append(scaled, x.name)
		}
	}
	c.Descale = strings.Join(scaled, " ")
	if p := l.Packed; p != nil {
		c.Packed = &PackedCall{p.Layer, p.Sequence, p.Sequences}
	}
	if c == (Call{}) {
		return nil
	}
	return &c
}

// Parts says it in short pieces.
func (c *Call) Parts() []string {
	if c == nil {
		return nil
	}
	var out []string
	if m := c.Mask; m != nil {
		out = append(out, fmt.Sprintf("mask %s %dx%dx%dx%d", m.Kind, m.Shape[0], m.Shape[1], m.Shape[2], m.Shape[3]))
	}
	if m := c.BlockMap; m != nil {
		all := int64(m.Shape[0]) * int64(m.Shape[1]) * int64(m.Shape[2]) * int64(m.Shape[3])
		out = append(out, fmt.Sprintf("block map %dx%dx%dx%d, %.1f%% listed (the reference is dense)", m.Shape[0], m.Shape[1], m.Shape[2], m.Shape[3],
			100*float64(m.Listed)/float64(all)))
	}
	if w := c.Window; w != nil {
		out = append(out, "window "+Window{w[0], w[1]}.String())
	}
	if c.Softcap != 0 {
		out = append(out, fmt.Sprintf("softcap %v", c.Softcap))
	}
	if c.CausalAlign != "" {
		out = append(out, "aligned "+c.CausalAlign)
	}
	if c.Descale != "" {
		out = append(out, "descale "+c.Descale)
	}
	if c.Packed != nil {
		out = append(out, fmt.Sprintf("packed with %d in all", c.Packed.Sequences))
	}
	return out
}
