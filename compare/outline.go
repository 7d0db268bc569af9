package compare

import (
	"fmt"
	"math"

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
	// Call and Quantised are those of the result.
	Call      *layerdumps.Call `json:"call,omitempty"`
	Quantised string           `json:"quantised,omitempty"`
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
	// Sampled says that Chosen are the chunks that are computed, of which the figures of
	// all are estimated. A chunk is a tile then.
	Sampled bool       `json:"sampled,omitempty"`
	Chosen  ranges.Set `json:"chosen,omitempty"`
}

// ShapeOf returns a layer's shape.
func ShapeOf(l *layerdumps.Layer) Shape {
	return Shape{l.Q.Batch, l.Q.Heads, l.K.Heads, l.Q.Tokens, l.K.Tokens, l.Q.Dim, l.Q.DType.String()}
}

// outline makes the outline of a layer.
func (opt *Options) outline(l *heads.Layer) (*Outline, error) {
	o := &Outline{
		Name: l.Name, Causal: l.Causal, SMScale: l.Scale(), Source: l.Source, Synthetic: l.Synthetic,
		Call: l.Call(), Quantised: l.Quantised(), Shape: ShapeOf(l.Layer), Q: l.Q.Name, K: l.K.Name, V: l.V.Name,
		LSE: opt.LSE, PerHead: opt.PerHead, ChunkRows: chunkRows(l.Kernel), Confined: opt.Rows != [2]int{},
	}
	if l.Causal {
		o.Align = l.Align()
	}
	if !opt.NoActual && l.O != nil {
		o.O = l.O.Name
	}
	o.ActualLSE = opt.LSE && !opt.NoActual && l.LSE != nil
	if opt.Sample != nil {
		o.Sampled, o.ChunkRows = true, l.Kernel.Tiling().BlockQ
	}
	var err error
	o.First, o.End, err = opt.queries(l.Layer, o.ChunkRows)
	if err == nil && o.Sampled {
		o.choose(opt.Sample, opt.Sample.blocks(o))
	}
	return o, err
}

// Outlines returns the outlines of a dump's layers.
func Outlines(d *layerdumps.Dump, opt Options) ([]*Outline, error) {
	var out []*Outline
	for i := range d.Layers {
		l := &d.Layers[i]
		bound, err := heads.Bind(opt.Kernel, l)
		var o *Outline
		if p := opt.Kernel.Program(); err == nil && opt.LSE && p.LSE.Form == "none" {
			err = fmt.Errorf("kernel %s writes no log-sum-exp (log_sum_exp.form: none)", p.Name)
		}
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

// PerKV is how many chunks the heads of a kv head have.
func (o *Outline) PerKV() int { return o.group() * o.perHead() }

// Chunks returns how many chunks the layer has.
func (o *Outline) Chunks() int { return o.Shape.Batch * o.Shape.Heads * o.perHead() }

// All is the set of the chunks that are to be computed: all of them, or those chosen.
func (o *Outline) All() ranges.Set {
	if o.Sampled {
		return o.Chosen
	}
	return ranges.Of(0, o.Chunks())
}

// rows are the query rows of a chunk.
func (o *Outline) rows(chunk int) (lo, hi int) {
	lo = o.First + chunk%o.perHead()*o.ChunkRows
	return lo, min(lo+o.ChunkRows, o.End)
}

// Check reports an outline that is no layer's, such as one from a file.
func (o *Outline) Check() error {
	s := &o.Shape
	const most, mostHeads, mostChunks, mostCounts = min(1<<40, math.MaxInt), 1 << 22, 1 << 28, 1 << 24
	for _, n := range []int{s.Batch, s.Heads, s.KVHeads, s.Queries, s.Keys, s.HeadDim, o.ChunkRows} {
		if n < 1 || n > most {
			return fmt.Errorf("layer %s: a size of %d", o.Name, n)
		}
	}
	if o.Sampled && (o.Chosen == nil || o.Chosen.Check(o.Chunks()) != nil) {
		return fmt.Errorf("layer %s: chosen chunks that are none", o.Name)
	}
	if s.HeadDim > layerdumps.MaxHeadDim || s.Heads%s.KVHeads != 0 || o.First < 0 || o.First >= o.End || o.End > s.Queries {
		return fmt.Errorf("layer %s: sizes that do not fit each other", o.Name)
	}
	blocks := min((s.Queries-1)/mapTokens+1, mostBlocks) // of a difference map
	if heads := float64(s.Batch) * float64(s.Heads); heads > mostHeads || float64(heads*float64(o.perHead())) > mostChunks || float64(heads*float64(blocks)) > mostCounts {
		return fmt.Errorf("layer %s: %g heads of %d parts each are too many", o.Name, heads, o.perHead())
	}
	return nil
}

// prepareRows is what the preparation of a kv head costs, in query rows that see all of
// its keys: as measured.
const prepareRows = 100

// Cost estimates what a chunk costs, in multiply-adds of queries with keys. The cost of
// preparing a kv head is shared by its chunks.
func (o *Outline) Cost(chunk int) float64 {
	lo, hi := o.rows(chunk)
	all := float64(o.Shape.Keys)
	keys := all
	if o.Causal {
		// Those up to the middle row's last, in whole tiles or so.
		const tile = 64
		keys = min(max(float64((lo+hi)/2+o.Align+tile), tile), all)
	}
	prepared := float64(all*prepareRows) / float64(o.PerKV())
	return float64(float64(o.Shape.HeadDim) * (float64(float64(hi-lo)*keys) + prepared))
}

// Costs estimates what chunks cost as Cost does, queries and the preparation of the kv
// heads that they are of apart, whole.
func (o *Outline) Costs(chunks ranges.Set) (queries, prepare float64) {
	shared := float64(float64(o.Shape.HeadDim*o.Shape.Keys) * prepareRows)
	last := -1
	for _, r := range chunks {
		for c := r[0]; c < r[1]; c++ {
			queries += o.Cost(c) - shared/float64(o.PerKV())
			if kv := c / o.PerKV(); kv != last {
				last = kv
				prepare += shared
			}
		}
	}
	return queries, prepare
}

// TotalCost is what the chunks cost that are to be computed.
func (o *Outline) TotalCost() float64 {
	if o.Sampled {
		return o.sum(o.Chosen)
	}
	// Heads cost the same.
	return float64(o.sum(ranges.Of(0, o.perHead())) * float64(o.Shape.Batch*o.Shape.Heads))
}

// sum adds up what chunks cost.
func (o *Outline) sum(chunks ranges.Set) float64 {
	sum := 0.0
	for _, r := range chunks {
		for c := r[0]; c < r[1]; c++ {
			sum += o.Cost(c)
		}
	}
	return sum
}

// cost estimates what chunks cost.
func (o *Outline) cost(chunks ranges.Set) float64 {
	if !o.Sampled && chunks.Len() == o.Chunks() {
		return o.TotalCost()
	}
	return o.sum(chunks)
}
