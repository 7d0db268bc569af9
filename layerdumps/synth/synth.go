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
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
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
	if n := o.Layers * o.Heads; n > (1<<33)/(6*o.Tokens*o.HeadDim) {
		return fmt.Errorf("--layers, --heads, --tokens, --head-dim: %d layers of %d heads x %d x %d are more than 8 GiB", o.Layers, o.Heads, o.Tokens, o.HeadDim)
	}
	return nil
}

// Describe is what a dump says of itself in its metadata.
func Describe(p Profile, o Options) string {
	return fmt.Sprintf("profile %s, seed %d", p.Name, o.Seed)
}

// Write makes a dump of the profile at path: FP16, HND, layers named layers.0.attn
// and so on.
func Write(path string, p Profile, o Options) error {
	if err := o.Validate(); err != nil {
		return err
	}
	var ts []safetensors.Tensor
	for i := range o.Layers {
		ts = append(ts, layer(p, o, i)...)
	}
	return safetensors.Write(path, map[string]string{
		"synthetic": Describe(p, o), "layout": "HND", "causal": fmt.Sprint(o.Causal),
	}, ts)
}

func layer(p Profile, o Options, index int) []safetensors.Tensor {
	r := rand.New(rand.NewPCG(o.Seed, uint64(index)))
	n, d := o.Tokens, o.HeadDim
	size := o.Heads * n * d
	q, k, v := make([]byte, 0, 2*size), make([]byte, 0, 2*size), make([]byte, 0, 2*size)
	for range o.Heads {
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
		normal := func(scale float64, bias []float64) []float64 {
			x := make([]float64, n*d)
			for i := range x {
				x[i] = float64(scale*r.NormFloat64()) + bias[i%d]
			}
			return x
		}
		qs, ks, vs := normal(p.QScale, a), normal(p.KScale, b), normal(1, vb)
		if p.Sink > 0 {
			u := make([]float64, d)
			norm := 0.0
			for c := range u {
				u[c] = r.NormFloat64()
				norm += float64(u[c] * u[c])
			}
			norm = math.Sqrt(norm)
			for c := range u {
				u[c] /= norm
				ks[c] += float64(p.Sink * u[c])
				for i := range n {
					qs[i*d+c] += float64(u[c] * math.Sqrt(float64(d)))
				}
			}
		}
		for i := range n {
			if r.Float64() >= p.Peaks {
				continue
			}
			keys := n
			if o.Causal {
				keys = i + 1
			}
			j := r.IntN(keys)
			norm := 0.0
			for c := range d {
				x := ks[j*d+c] - b[c]
				norm += float64(x * x)
			}
			for c := range d {
				qs[i*d+c] += float64(p.Peak * (ks[j*d+c] - b[c]) * math.Sqrt(float64(d)/norm))
			}
		}
		if o.Queries > 0 {
			qs = qs[:o.Queries*d]
		}
		q, k, v = appendFP16(q, qs), appendFP16(k, ks), appendFP16(v, vs)
	}
	shape := []int{1, o.Heads, n, d}
	queries := []int{1, o.Heads, len(q) / (2 * o.Heads * d), d}
	name := fmt.Sprintf("layers.%d.attn", index)
	return []safetensors.Tensor{
		{Name: name + ".q", DType: "F16", Shape: queries, Data: q},
		{Name: name + ".k", DType: "F16", Shape: shape, Data: k},
		{Name: name + ".v", DType: "F16", Shape: shape, Data: v},
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
