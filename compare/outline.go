package compare

import (
	"fmt"

	"github.com/sageacc/sageacc/compare/heads"
	"github.com/sageacc/sageacc/internal/ranges"
	"github.com/sageacc/sageacc/layerdumps"
)

// Outline is what a run knows of a layer before it has read a row: how its work is cut
// into chunks, and what its result says beside what is computed.
//
// A chunk is a run of query rows of one head: ChunkRows of them, or fewer at the end.
// Chunks are numbered head by head, and heads batch entry by batch entry.
type Outline struct {
	Name      string  `json:"name"`
	Shape     Shape   `json:"shape"`
	Causal    bool    `json:"causal,omitempty"`
	SMScale   float64 `json:"sm_scale"`
	Source    string  `json:"source"`
	Synthetic string  `json:"synthetic,omitempty"`
	// Q, K, V and O are the names of the layer's tensors; O is empty if no actual output
	// is compared.
	Q string `json:"q"`
	K string `json:"k"`
	V string `json:"v"`
	O string `json:"o,omitempty"`
	// LSE says that the log-sum-exp is compared, ActualLSE that an actual one is too.
	LSE       bool `json:"lse,omitempty"`
	ActualLSE bool `json:"actual_lse,omitempty"`
	PerHead   bool `json:"per_head,omitempty"`
	ChunkRows int  `json:"chunk_rows"`
	// First and End are the queries [First, End) that the run is confined to; Confined
	// says that it was asked to be.
	First    int  `json:"first"`
	End      int  `json:"end"`
	Confined bool `json:"confined,omitempty"`
	// Align is the key up to which a causal mask lets the first query see.
	Align int `json:"align,omitempty"`
}

// outline makes the outline of a layer.
func (opt *Options) outline(l *heads.Layer) (*Outline, error) {
	o := &Outline{
		Name: l.Name, Causal: l.Causal, SMScale: l.Scale(), Source: l.Source, Synthetic: l.Synthetic,
		Shape: Shape{l.Q.Batch, l.Q.Heads, l.K.Heads, l.Q.Tokens, l.K.Tokens, l.Q.Dim, l.Q.DType.String()},
		Q:     l.Q.Name, K: l.K.Name, V: l.V.Name,
		LSE: opt.LSE, PerHead: opt.PerHead, ChunkRows: chunkRows(l.Kernel), Confined: opt.Rows != [2]int{},
	}
	if l.Causal {
		o.Align = l.Kernel.Align(l.Q.Tokens, l.K.Tokens)
	}
	if !opt.NoActual && l.O != nil {
		o.O = l.O.Name
	}
	o.ActualLSE = opt.LSE && !opt.NoActual && l.LSE != nil
	var err error
	o.First, o.End, err = opt.queries(l.Layer, o.ChunkRows)
	return o, err
}

// Outlines returns the outlines of a dump's layers.
func Outlines(d *layerdumps.Dump, opt Options) ([]*Outline, error) {
	var out []*Outline
	for i := range d.Layers {
		l := &d.Layers[i]
		bound, err := heads.Bind(opt.Kernel, l)
		var o *Outline
		if err == nil {
			o, err = opt.outline(bound)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: layer %s: %w", l.Source, l.Name, err)
		}
		out = append(out, o)
	}
	return out, nil
}

// perHead is how many chunks a head has.
func (o *Outline) perHead() int { return (o.End - o.First + o.ChunkRows - 1) / o.ChunkRows }

// group is how many query heads share a kv head.
func (o *Outline) group() int { return o.Shape.Heads / o.Shape.KVHeads }

// perKV is how many chunks the heads of a kv head have.
func (o *Outline) perKV() int { return o.group() * o.perHead() }

// Chunks returns how many chunks the layer has.
func (o *Outline) Chunks() int { return o.Shape.Batch * o.Shape.Heads * o.perHead() }

// All is the set of all chunks.
func (o *Outline) All() ranges.Set { return ranges.Of(0, o.Chunks()) }

// rows are the query rows of a chunk.
func (o *Outline) rows(chunk int) (lo, hi int) {
	lo = o.First + chunk%o.perHead()*o.ChunkRows
	return lo, min(lo+o.ChunkRows, o.End)
}

// check reports numbers that are no layer's.
func (o *Outline) check() error {
	s := &o.Shape
	const most = 1 << 40 // no product of two of them overflows
	for _, n := range []int{s.Batch, s.Heads, s.KVHeads, s.Queries, s.Keys, s.HeadDim, o.ChunkRows} {
		if n < 1 || n > most {
			return fmt.Errorf("layer %s: a size of %d", o.Name, n)
		}
	}
	if s.HeadDim > layerdumps.MaxHeadDim || s.Heads%s.KVHeads != 0 || o.First < 0 || o.First >= o.End || o.End > s.Queries {
		return fmt.Errorf("layer %s: sizes that do not fit each other", o.Name)
	}
	if elements := float64(s.Batch) * float64(s.Heads) * float64(s.Queries); elements > most {
		return fmt.Errorf("layer %s: %g rows", o.Name, elements)
	}
	return nil
}

// Cost estimates what a chunk costs, in multiply-adds of queries with keys.
func (o *Outline) Cost(chunk int) float64 {
	lo, hi := o.rows(chunk)
	keys := float64(o.Shape.Keys)
	if o.Causal {
		// Of the keys up to the middle row's last, in whole tiles or so.
		middle := float64(lo+hi)/2 + float64(o.Align) + 64
		keys = min(max(middle, 64), keys)
	}
	return float64(float64(hi-lo) * float64(keys*float64(o.Shape.HeadDim)))
}

// cost estimates what chunks cost.
func (o *Outline) cost(chunks ranges.Set) float64 {
	if !o.Causal && len(chunks) == 1 && chunks.Len() == o.Chunks() {
		s := &o.Shape
		return float64(s.Batch*s.Heads) * float64(o.End-o.First) * float64(s.Keys) * float64(s.HeadDim)
	}
	sum := 0.0
	for _, r := range chunks {
		for c := r[0]; c < r[1]; c++ {
			sum += o.Cost(c)
		}
	}
	return sum
}
