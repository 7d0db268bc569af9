// Package trace follows one row of queries of one head through an emulated
// kernel, tile by tile: what to hold a kernel's own intermediate values against
// when its output is not the emulated one.
package trace

import (
	"context"
	"fmt"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/compare/heads"
	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/internal/jsonfloat"
	"github.com/sageacc/sageacc/internal/version"
	"github.com/sageacc/sageacc/layerdumps"
)

// Schema is the version of Row's JSON form.
const Schema = "sageacc/trace/v1"

// At says which row.
type At struct {
	Batch, Head, Row int
}

// Row is everything that happens to one row of queries. All numbers are FP32 but
// where it says otherwise.
type Row struct {
	Schema string             `json:"schema"`
	Tool   compare.Tool       `json:"tool"`
	Kernel compare.KernelInfo `json:"kernel"`
	Layer  string             `json:"layer"`
	// Synthetic says how the layer was made up, if it was not recorded.
	Synthetic string        `json:"synthetic,omitempty"`
	Batch     int           `json:"batch"`
	Head      int           `json:"head"`
	KVHead    int           `json:"kv_head"`
	Row       int           `json:"row"`
	Shape     compare.Shape `json:"shape"`
	Causal    bool          `json:"causal"`
	// SMScale is the softmax scale.
	SMScale float64 `json:"sm_scale"`
	// Call is what the call was given besides; nil for nothing.
	Call *layerdumps.Call `json:"call,omitempty"`
	// QCodes [head_dim] are the quantised query (absent where it is not quantised to
	// integers), QScale its step.
	QCodes []int8            `json:"q_codes,omitempty"`
	QScale jsonfloat.Float32 `json:"q_scale"`
	// Tiles are those that the row's block runs, in its order: none where it sees no key.
	Tiles []Tile `json:"tiles"`
	// Denominator is the sum over the four threads, Reciprocal what the kernel
	// multiplies O by (the denominator itself where it divides every element), LSE the
	// log-sum-exp that the kernel writes, in base 2 unless its description says otherwise.
	Denominator jsonfloat.Float32 `json:"denominator"`
	Reciprocal  jsonfloat.Float32 `json:"reciprocal"`
	LSE         jsonfloat.Float32 `json:"lse_base2"`
	// Output [head_dim] is the row of the output, in the dtype of the inputs;
	// OutputBits are its bit patterns.
	Output     []jsonfloat.Float32 `json:"output"`
	OutputBits []string            `json:"output_bits"`
	// Actual and ActualBits are the same of the output in the dump, if there is one.
	Actual     []jsonfloat.Float32 `json:"actual,omitempty"`
	ActualBits []string            `json:"actual_bits,omitempty"`
}

// Tile is one tile of keys as the row meets it.
type Tile struct {
	Index int `json:"tile"`
	// Key is the first key, Keys how many there are and Visible how many of them
	// the mask leaves to the row.
	Key     int `json:"key"`
	Keys    int `json:"keys"`
	Visible int `json:"visible"`
	// IntScores [Keys] are the integer products of the codes.
	// (absent where the scores are no integers).
	IntScores []int32 `json:"int_scores,omitempty"`
	// RowMax is m after the tile, Rescale 2^(m_old - m).
	RowMax  jsonfloat.Float32 `json:"row_max"`
	Rescale jsonfloat.Float32 `json:"rescale"`
	// P [Keys] is P~ before quantisation; PCodes [Keys] are its codes, as unsigned
	// bit patterns, and PDecoded [Keys] what they stand for.
	P        []jsonfloat.Float32 `json:"p"`
	PCodes   []uint16            `json:"p_codes"`
	PDecoded []jsonfloat.Float32 `json:"p_decoded"`
	// Denominators are d of the row's four threads after the tile.
	Denominators [4]jsonfloat.Float32 `json:"denominators"`
	// TileSums [head_dim] is the tile's P~V in units of V's scale, absent where one
	// accumulator goes through all tiles. Output [head_dim] is O after the tile,
	// not yet divided by the denominator.
	TileSums []jsonfloat.Float32 `json:"tile_sums,omitempty"`
	Output   []jsonfloat.Float32 `json:"output"`
}

// Layer follows one row of a layer through kernel k. The error says what is
// outside of the layer.
func Layer(ctx context.Context, k *emulate.Kernel, l *layerdumps.Layer, at At) (*Row, error) {
	for _, x := range []struct {
		what  string
		i, of int
	}{{"batch entry", at.Batch, l.Q.Batch}, {"head", at.Head, l.Q.Heads}, {"row", at.Row, l.Q.Tokens}} {
		if x.i < 0 || x.i >= x.of {
			return nil, fmt.Errorf("no %s %d: they are 0 to %d", x.what, x.i, x.of-1)
		}
	}
	view, err := heads.Bind(k, l)
	if err != nil {
		return nil, err
	}
	kvHead := view.KVHead(at.Head)
	described := compare.Describe(k)
	k = view.Kernel
	d, dtype := l.Q.Dim, view.OutputDType()
	kv, err := k.Prepare(view.KV(at.Batch, kvHead))
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	row := &Row{
		Schema: Schema, Tool: version.Get(), Kernel: described,
		Layer: l.Name, Synthetic: l.Synthetic, Batch: at.Batch, Head: at.Head, KVHead: kvHead, Row: at.Row,
		Shape:  compare.Shape{Batch: l.Q.Batch, Heads: l.Q.Heads, KVHeads: l.K.Heads, Queries: l.Q.Tokens, Keys: l.K.Tokens, HeadDim: d, DType: l.Q.DType.String()},
		Causal: l.Causal, SMScale: l.Scale(), Call: l.Call(), Tiles: []Tile{},
	}
	ws := &emulate.Workspace{
		Observer: func(t *emulate.Tile) { row.add(k, t, at.Row-t.Row, l.K.Tokens) },
		Ending: func(e *emulate.Ending) {
			r := at.Row - e.Row
			row.Denominator, row.Reciprocal, row.LSE = jsonfloat.Float32(e.Denominator[r]), jsonfloat.Float32(e.Inverse[r]), jsonfloat.Float32(e.LSE[r])
		},
	}
	q := k.Query(view.Query(at.Batch, at.Head), kv, ws)
	block := k.Tiling().BlockQ
	out := make([]float32, block*d)
	if _, err := k.Run(q, ws, at.Row/block, out, nil); err != nil {
		return nil, err
	}

	in := at.Row % block
	row.Output = floats(out[in*d : in*d+d])
	bits := make([]uint32, d)
	for i, x := range out[in*d : in*d+d] {
		bits[i] = dtype.Bits(x)
	}
	row.OutputBits = patterns(bits, dtype)
	if l.O != nil {
		actual := make([]float32, d)
		l.O.Rows(at.Batch, at.Head, at.Row, at.Row+1, actual)
		l.O.RowsBits(at.Batch, at.Head, at.Row, at.Row+1, bits)
		row.Actual, row.ActualBits = floats(actual), patterns(bits, l.O.DType)
	}
	return row, nil
}

// add copies what a tile did to row r of its block.
func (row *Row) add(k *emulate.Kernel, t *emulate.Tile, r, nk int) {
	d, keys := t.Dim, min(t.Keys, nk-t.Key)
	if len(row.Tiles) == 0 {
		if t.QCodes != nil {
			row.QCodes = append(row.QCodes, t.QCodes[r*d:r*d+d]...)
		}
		row.QScale = jsonfloat.Float32(t.QScale[r])
	}
	tile := Tile{
		Index: t.Index, Key: t.Key, Keys: keys, Visible: min(keys, t.Visible[r]),
		RowMax: jsonfloat.Float32(t.RowMax[r]), Rescale: jsonfloat.Float32(t.Rescale[r]),
		P:      floats(t.P[r*t.Keys:][:keys]),
		PCodes: make([]uint16, keys), PDecoded: make([]jsonfloat.Float32, keys),
		Output: floats(t.Output[r*d : r*d+d]),
	}
	if t.IntScores != nil {
		tile.IntScores = append(tile.IntScores, t.IntScores[r*t.Keys:][:keys]...)
	}
	for i := range t.Keys {
		if key := k.Stored(i); key < keys {
			tile.PCodes[key] = t.PCodes[r*t.Keys+i]
		}
	}
	copy(tile.PDecoded, floats(t.PDecoded[r*t.Keys:][:keys]))
	for j := range tile.Denominators {
		tile.Denominators[j] = jsonfloat.Float32(t.Denominators[len(tile.Denominators)*r+j])
	}
	if t.TileSums != nil {
		tile.TileSums = floats(t.TileSums[r*d : r*d+d])
	}
	row.Tiles = append(row.Tiles, tile)
}

func floats(x []float32) []jsonfloat.Float32 {
	out := make([]jsonfloat.Float32, len(x))
	for i, f := range x {
		out[i] = jsonfloat.Float32(f)
	}
	return out
}

func patterns(bits []uint32, dtype format.DType) []string {
	digits := 4
	if dtype == format.FP32 {
		digits = 8
	}
	out := make([]string, len(bits))
	for i, b := range bits {
		out[i] = fmt.Sprintf("0x%0*x", digits, b)
	}
	return out
}
