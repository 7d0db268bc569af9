// Package synth makes attention layers with the structure that quantisation has
// trouble with, as a documented distribution with a seed, so that a claim about
// accuracy can be repeated without anybody's activations. What it makes says of
// itself that it is synthetic.
//
// # The distribution
//
// For each layer and head, with g standing for independent standard normal draws:
//
//	Q[i,c] = QScale * g + a_c         K[j,c] = KScale * g + b_c         V[j,c] = g + v_c
//
// a, b and v are biases of channels, shared by all tokens: a_c is QBias * s * (1 +
// g/5) with a random sign s on a random part Outliers of the channels, 0 on the
// others; b with KBias on the same channels, or, with Apart, on a random part of its
// own; v with VBias on a random part VBiased. With Sink a random direction u of length
// 1 is added to every query, times sqrt(head_dim), and Sink*u to the first key, which
// makes its score that much larger than the others': an attention sink. A part Peaks of the queries then looks for a key of its own: Peak * k/|k|
// * sqrt(head_dim) is added to it, where k is a random key's row less b (for a
// causal layer one that it may see), which makes a few probabilities large. With
// small QScale and KScale every row has thousands of small ones.
//
// All draws come from a PCG generator (math/rand/v2) seeded by Seed and the layer's
// index, in the order Q's and K's biases, V's, then per head Q, K, V by rows, then
// the sink and the peaks. Values are rounded to FP16.
package synth

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

// Profile is a choice of the distribution's parameters.
type Profile struct {
	Name    string
	Summary string

	QScale, KScale float64
	QBias, KBias   float64
	Outliers       float64
	// Apart says that K's biased channels are not Q's but chosen for themselves.
	Apart          bool
	VBias, VBiased float64
	Peaks, Peak    float64
	// Sink is by how much the score of the first key exceeds the others' for every
	// query; 0 for none.
	Sink float64
}

// Profiles returns the named profiles.
func Profiles() []Profile {
	return []Profile{
		{Name: "gaussian", Summary: "no structure: independent normal values", QScale: 1, KScale: 1},
		{Name: "outlier", Summary: "channels of Q and K with a bias shared by all tokens",
			QScale: 1, KScale: 1, QBias: 6, KBias: 10, Outliers: 0.06},
		{Name: "biased-v", Summary: "half of V's channels with a bias of 8.5",
			QScale: 1.5, KScale: 1.5, VBias: 8.5, VBiased: 0.5},
		{Name: "peaky", Summary: "rows with a few large probabilities",
			QScale: 1, KScale: 1, Peaks: 0.8, Peak: 1.2},
		{Name: "flat", Summary: "rows with thousands of small probabilities", QScale: 0.3, KScale: 0.3},
		{Name: "sink", Summary: "a first key that takes a large part of every row, many small probabilities beside it, V with a part that all tokens share",
			QScale: 0.3, KScale: 0.3, Sink: 7, VBias: 0.5, VBiased: 0.5},
		{Name: "paper", Summary: "biases on many channels of Q and K, so large that INT4 without smoothing falls to about 80% cosine similarity, as in the paper's table 4",
			QScale: 1.2, KScale: 1.2, QBias: 6.25, KBias: 6.25, Outliers: 0.3, Apart: true, VBias: 1, VBiased: 0.2, Peaks: 0.3, Peak: 0.8},
	}
}

// Named returns the profile of that name.
func Named(name string) (Profile, error) {
	var names []string
	for _, p := range Profiles() {
		if p.Name == name {
			return p, nil
		}
		names = append(names, p.Name)
	}
	return Profile{}, fmt.Errorf("unknown profile %q (have %s)", name, strings.Join(names, ", "))
}

// Options are the size and seed of a dump.
type Options struct {
	Layers, Heads, Tokens, HeadDim int
	// Queries keeps the first rows of Q alone, of layers that are not causal; 0 keeps all.
	// K and V are the same either way.
	Queries int
	Causal  bool
	Seed    uint64
}

// Validate reports sizes that make no dump, by the names of the flags.
func (o *Options) Validate() error {
	for _, f := range []struct {
		name   string
		v, max int
	}{{"layers", o.Layers, 1 << 12}, {"heads", o.Heads, 1 << 12}, {"tokens", o.Tokens, 1 << 20}, {"head-dim", o.HeadDim, 128}} {
		if f.v < 1 || f.v > f.max {
			return fmt.Errorf("--%s is %d: want 1 to %d", f.name, f.v, f.max)
		}
	}
	switch {
	case o.Queries < 0 || o.Queries > o.Tokens:
		return fmt.Errorf("--queries is %d: want 1 to the %d tokens, or 0 for all", o.Queries, o.Tokens)
	case o.Queries != 0 && o.Causal:
		return fmt.Errorf("--queries is for layers that are not causal")
	}
	if n := o.Layers * o.Heads; int64(n) > int64(1)<<33/(6*int64(o.Tokens)*int64(o.HeadDim)) {
		return fmt.Errorf("--layers, --heads, --tokens, --head-dim: %d layers of %d heads x %d x %d are more than 8 GiB", o.Layers, o.Heads, o.Tokens, o.HeadDim)
	}
	return nil
}

// queries is how many rows of Q are kept.
func (o *Options) queries() int {
	if o.Queries > 0 {
		return o.Queries
	}
	return o.Tokens
}

// Describe is what a dump says of itself in its metadata.
func Describe(p Profile, o Options) string {
	return fmt.Sprintf("profile %s, seed %d", p.Name, o.Seed)
}

// Write makes a dump of the profile at path: FP16, HND, layers named layers.0.attn
// and so on. What it holds in memory does not depend on the sizes, but for four bytes a
// token. Cancelling ctx stops it soon, and no file is made.
func Write(ctx context.Context, path string, p Profile, o Options) error {
	return write(ctx, path, p, o, most)
}

func write(ctx context.Context, path string, p Profile, o Options, kept int) error {
	if err := o.Validate(); err != nil {
		return err
	}
	rows := [3]int{o.queries(), o.Tokens, o.Tokens}
	var ts []safetensors.Tensor
	for i := range o.Layers {
		for role, name := range []string{"q", "k", "v"} {
			ts = append(ts, safetensors.Tensor{
				Name: fmt.Sprintf("layers.%d.attn.%s", i, name), DType: "F16", Shape: []int{1, o.Heads, rows[role], o.HeadDim},
			})
		}
	}
	w, err := safetensors.Create(path, map[string]string{
		"synthetic": Describe(p, o), "layout": "HND", "causal": fmt.Sprint(o.Causal),
	}, ts)
	if err != nil {
		return err
	}
	defer w.Abort()
	for i := range o.Layers {
		pcg := rand.NewPCG(o.Seed, uint64(i))
		g := generator{ctx: ctx, p: p, o: o, pcg: pcg, r: rand.New(pcg), kept: kept}
		for h := range o.Heads {
			for role := range g.write {
				offset := int64(h) * int64(rows[role]) * int64(2*o.HeadDim)
				g.write[role] = func(row int, b []byte) error {
					return w.WriteAt(3*i+role, b, offset+int64(row)*int64(2*o.HeadDim))
				}
			}
			if err := g.head(); err != nil {
				return err
			}
		}
	}
	return w.Commit()
}

const (
	// chunkRows is how many rows are made between two looks at the context.
	chunkRows = 1024
	// most is how many elements of K are in memory at a time.
	most = 1 << 22
)

// generator makes the heads of a layer, in order. Draws are made again rather than
// kept: its source can be set back to where it was.
type generator struct {
	ctx   context.Context
	p     Profile
	o     Options
	pcg   *rand.PCG
	r     *rand.Rand
	write [3]func(row int, b []byte) error // to q, k and v
	kept  int                              // elements of K
	buf   []float64
	bytes []byte
}

// normal draws rows of scaled normal values with biases.
func (g *generator) normal(r *rand.Rand, x []float64, scale float64, bias []float64) {
	for i := range x {
		x[i] = float64(scale*r.NormFloat64()) + bias[i%len(bias)]
	}
}

// chunks calls f with runs of rows lo to hi, until ctx is done.
func (g *generator) chunks(lo, hi int, f func(lo, hi int) error) error {
	for ; lo < hi; lo += chunkRows {
		if err := g.ctx.Err(); err != nil {
			return err
		}
		if err := f(lo, min(lo+chunkRows, hi)); err != nil {
			return err
		}
	}
	return nil
}

// put writes rows from row on.
func (g *generator) put(role, row int, x []float64) error {
	g.bytes = appendFP16(g.bytes[:0], x)
	return g.write[role](row, g.bytes)
}

// head makes a head.
func (g *generator) head() error {
	p, n, d, r := g.p, g.o.Tokens, g.o.HeadDim, g.r
	if g.buf == nil {
		g.buf = make([]float64, min(n, chunkRows)*d)
	}
	a, b, vb := make([]float64, d), make([]float64, d), make([]float64, d)
	for c := range d {
		if r.Float64() < p.Outliers {
			a[c] = p.QBias * sign(r) * (1 + float64(r.NormFloat64()/5))
			b[c] = p.KBias * sign(r) * (1 + float64(r.NormFloat64()/5))
		}
		if p.Apart {
			b[c] = 0
			if r.Float64() < p.Outliers {
				b[c] = p.KBias * sign(r) * (1 + float64(r.NormFloat64()/5))
			}
		}
	}
	for c := range d {
		if r.Float64() < p.VBiased {
			vb[c] = p.VBias * sign(r) * (1 + float64(r.NormFloat64()/5))
		}
	}
	// Q and K depend on what is drawn after them: they are passed over, and made
	// when that is known.
	skip := func(lo, hi int) error {
		for range (hi - lo) * d {
			r.NormFloat64()
		}
		return nil
	}
	q := *g.pcg
	if err := g.chunks(0, n, skip); err != nil {
		return err
	}
	block := max(1, g.kept/d)
	var keys []rand.PCG // in front of each block of keys
	for lo := 0; lo < n; lo += block {
		keys = append(keys, *g.pcg)
		if err := g.chunks(lo, min(lo+block, n), skip); err != nil {
			return err
		}
	}
	err := g.chunks(0, n, func(lo, hi int) error {
		x := g.buf[:(hi-lo)*d]
		g.normal(r, x, 1, vb)
		return g.put(2, lo, x)
	})
	if err != nil {
		return err
	}
	var u []float64
	if p.Sink > 0 {
		u = make([]float64, d)
		norm := 0.0
		for c := range u {
			u[c] = r.NormFloat64()
			norm += float64(u[c] * u[c])
		}
		norm = math.Sqrt(norm)
		for c := range u {
			u[c] /= norm
		}
	}
	// The key that each query looks for, or -1.
	peaks := make([]int32, n)
	for i := range peaks {
		peaks[i] = -1
		if r.Float64() >= p.Peaks {
			continue
		}
		seen := n
		if g.o.Causal {
			seen = i + 1
		}
		peaks[i] = int32(r.IntN(seen))
	}
	kept := make([]float64, min(n, block)*d)
	for i := range keys {
		lo, hi := i*block, min((i+1)*block, n)
		ks := kept[:(hi-lo)*d]
		kr := rand.New(&keys[i])
		err := g.chunks(lo, hi, func(from, to int) error {
			x := ks[(from-lo)*d : (to-lo)*d]
			g.normal(kr, x, p.KScale, b)
			if from == 0 {
				for c := range u {
					x[c] += float64(p.Sink * u[c])
				}
			}
			return g.put(1, from, x)
		})
		if err != nil {
			return err
		}
		// The queries that look for one of these keys, and once those that look for none.
		mine := func(j int32) bool { return lo <= int(j) && int(j) < hi || j < 0 && lo == 0 }
		if !slices.ContainsFunc(peaks[:g.o.queries()], mine) {
			continue
		}
		state := q
		qr := rand.New(&state)
		err = g.chunks(0, g.o.queries(), func(from, to int) error {
			x := g.buf[:(to-from)*d]
			g.normal(qr, x, p.QScale, a)
			start := from
			for row := from; row < to; row++ {
				j := peaks[row]
				if !mine(j) {
					if start < row {
						if err := g.put(0, start, x[(start-from)*d:(row-from)*d]); err != nil {
							return err
						}
					}
					start = row + 1
					continue
				}
				y := x[(row-from)*d : (row-from+1)*d]
				for c := range u {
					y[c] += float64(u[c] * math.Sqrt(float64(d)))
				}
				if j >= 0 {
					look(y, ks[(int(j)-lo)*d:(int(j)-lo+1)*d], b, p.Peak)
				}
			}
			if start < to {
				return g.put(0, start, x[(start-from)*d:])
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// look turns a query to a key, whose channels have the biases b.
func look(q, k, b []float64, peak float64) {
	norm := 0.0
	for c := range k {
		x := k[c] - b[c]
		norm += float64(x * x)
	}
	for c := range q {
		q[c] += float64(peak * (k[c] - b[c]) * math.Sqrt(float64(len(q))/norm))
	}
}

func sign(r *rand.Rand) float64 {
	return float64(1 - 2*int(r.Uint32()>>31))
}

func appendFP16(dst []byte, x []float64) []byte {
	for _, v := range x {
		dst = binary.LittleEndian.AppendUint16(dst, format.FP16FromFloat32(float32(v)))
	}
	return dst
}
