package validate

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"sync"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/kernels/manifest"
	"github.com/sageacc/sageacc/layerdumps"
)

// Shape is the shape of a case.
type Shape struct {
	Batch, Heads, KVHeads, Queries, Keys, HeadDim int
}

// String writes the shape as batch x heads/kv heads x queries x keys x head_dim.
func (s Shape) String() string {
	return fmt.Sprintf("%dx%d/%dx%dx%dx%d", s.Batch, s.Heads, s.KVHeads, s.Queries, s.Keys, s.HeadDim)
}

// ParseShape is the inverse of String.
func ParseShape(text string) (Shape, error) {
	var s Shape
	var rest string
	n, _ := fmt.Sscanf(text+" ", "%dx%d/%dx%dx%dx%d%s", &s.Batch, &s.Heads, &s.KVHeads, &s.Queries, &s.Keys, &s.HeadDim, &rest)
	if n != 6 {
		return s, fmt.Errorf("shape %q: want BATCHxHEADS/KV_HEADSxQUERIESxKEYSxHEAD_DIM, as in 1x8/2x1000x1000x64", text)
	}
	const most = 1 << 24
	for _, x := range []int{s.Batch, s.Heads, s.KVHeads, s.Queries, s.Keys} {
		if x < 1 || x > most {
			return s, fmt.Errorf("shape %q: every length must be 1 to %d", text, most)
		}
	}
	if s.HeadDim < 1 || s.HeadDim > layerdumps.MaxHeadDim {
		return s, fmt.Errorf("shape %q: head_dim must be 1 to %d", text, layerdumps.MaxHeadDim)
	}
	if s.Heads%s.KVHeads != 0 {
		return s, fmt.Errorf("shape %q: %d query heads do not divide into %d kv heads", text, s.Heads, s.KVHeads)
	}
	const elements int64 = 1 << 31
	for _, n := range []int{s.Queries, s.Keys} {
		if heads := int64(s.Batch) * int64(s.Heads); heads > elements || heads > elements/(int64(n)*int64(s.HeadDim)) {
			return s, fmt.Errorf("shape %q: more than 2^31 elements", text)
		}
	}
	return s, nil
}

// small covers what goes wrong at edges: whole and ragged tiles, one token, more
// keys than queries and the reverse, shared kv heads, batches.
var small = []Shape{
	{1, 2, 2, 256, 256, 64},
	{1, 2, 1, 333, 333, 64},
	{2, 4, 2, 130, 130, 128},
	{1, 2, 1, 17, 17, 64},
	{1, 1, 1, 1, 1, 128},
	{1, 2, 2, 200, 333, 128},
	{1, 2, 1, 64, 17, 64},
	{1, 1, 1, 1, 520, 64},
	{1, 1, 1, 1030, 1030, 64},
	{1, 8, 2, 512, 512, 128},
}

// large adds whole layers.
var large = []Shape{
	{1, 8, 8, 2048, 2048, 128},
	{1, 8, 2, 4096, 4096, 64},
	{2, 4, 4, 1000, 1500, 128},
}

// Shapes returns the shapes of a size: "small" or "large", which has them all.
func Shapes(size string) ([]Shape, error) {
	switch size {
	case "small":
		return slices.Clone(small), nil
	case "large":
		return slices.Concat(small, large), nil
	}
	return nil, fmt.Errorf("unknown size %q (have small, large)", size)
}

// Distribution is a kind of input.
type Distribution struct {
	Name, Summary string
	make          func(r *rand.Rand, x *head)
}

// head is Q, K and V of one head while they are made.
type head struct {
	q, k, v []float32
	dim     int
}

func scale(x []float32, f float32) {
	for i := range x {
		x[i] *= f
	}
}

// bias adds one number to a part of the channels.
func bias(r *rand.Rand, x []float32, dim int, size, part float64) {
	for c := range dim {
		if r.Float64() >= part {
			continue
		}
		b := float32(size * float64(1-2*r.IntN(2)))
		for i := c; i < len(x); i += dim {
			x[i] += b
		}
	}
}

var distributions = []Distribution{
	{"gauss", "independent normal values", func(*rand.Rand, *head) {}},
	{"outliers", "a tenth of the channels of Q and K with a large bias", func(r *rand.Rand, x *head) {
		bias(r, x.q, x.dim, 6, 0.1)
		bias(r, x.k, x.dim, 8, 0.1)
	}},
	{"peaky", "rows with one large probability", func(_ *rand.Rand, x *head) {
		scale(x.q, 6)
		scale(x.k, 6)
	}},
	{"bias-v", "half of V's channels with a bias of 8", func(r *rand.Rand, x *head) { bias(r, x.v, x.dim, 8, 0.5) }},
	{"tiny", "everything times 1e-4", func(_ *rand.Rand, x *head) {
		scale(x.q, 1e-4)
		scale(x.k, 1e-4)
		scale(x.v, 1e-4)
	}},
	{"huge", "V up to 3e4", func(_ *rand.Rand, x *head) {
		for i, v := range x.v {
			x.v[i] = 1e4 * min(max(v, -3), 3)
		}
	}},
	{"holes", "rows of Q and a channel of V that are zero, K in whole numbers", func(r *rand.Rand, x *head) {
		for i := 0; i < len(x.q); i += x.dim {
			if r.Float64() < 0.3 {
				clear(x.q[i : i+x.dim])
			}
		}
		for i, v := range x.k {
			x.k[i] = float32(math.RoundToEven(float64(v)))
		}
		for i := 5 % x.dim; i < len(x.v); i += x.dim {
			x.v[i] = 0
		}
	}},
}

// Distributions returns the kinds of input.
func Distributions() []Distribution { return slices.Clone(distributions) }

// Case is one run of a kernel.
type Case struct {
	Name string
	// problem is the shape of the inputs, told without making them.
	problem func() (manifest.Problem, error)
	// open returns the inputs.
	open func() (*layerdumps.Layer, error)
}

// Matrix says which generated cases to run: all combinations.
type Matrix struct {
	Shapes []Shape
	DTypes []string // f16, bf16
	Causal []bool
	// Distributions selects by name, all if nil.
	Distributions *regexp.Regexp
	Seed          uint64
}

// Cases returns the combinations in order.
func (m *Matrix) Cases() []Case {
	var cases []Case
	for _, s := range m.Shapes {
		for _, d := range distributions {
			if m.Distributions != nil && !m.Distributions.MatchString(d.Name) {
				continue
			}
			for _, causal := range m.Causal {
				for _, dtype := range m.DTypes {
					mask := "full"
					if causal {
						mask = "causal"
					}
					name := fmt.Sprintf("%s %s %s %s", s, d.Name, mask, dtype)
					p := manifest.Problem{
						Batch: s.Batch, Heads: s.Heads, KVHeads: s.KVHeads, Queries: s.Queries, Keys: s.Keys, HeadDim: s.HeadDim,
						Causal: causal, DType: dtype, Scale: 1 / math.Sqrt(float64(s.HeadDim)),
					}
					cases = append(cases, Case{
						Name:    name,
						problem: func() (manifest.Problem, error) { return p, nil },
						open:    func() (*layerdumps.Layer, error) { return generate(name, s, d, causal, dtype, m.Seed) },
					})
				}
			}
		}
	}
	return cases
}

// LayerCases returns a case for each layer of a dump, rounded to dtype if that is
// not the layer's own.
func LayerCases(d *layerdumps.Dump) []Case {
	var cases []Case
	for i := range d.Layers {
		l := &d.Layers[i]
		cases = append(cases, layerCase(l))
	}
	return cases
}

func layerCase(l *layerdumps.Layer) Case {
	return Case{
		Name:    l.Name,
		problem: func() (manifest.Problem, error) { return problem(l) },
		open:    func() (*layerdumps.Layer, error) { return l, nil },
	}
}

// generate makes a case's inputs. Each tensor of a head has a generator of its
// own (PCG, seeded by the seed and the case's name), so heads are made in parallel
// and the result is the same everywhere.
func generate(name string, s Shape, dist Distribution, causal bool, dtype string, seed uint64) (*layerdumps.Layer, error) {
	h := fnv.New64a()
	h.Write([]byte(name))
	base := h.Sum64()
	d := s.HeadDim
	type tensor struct {
		heads, n int
		data     []byte
	}
	q := tensor{s.Batch * s.Heads, s.Queries, make([]byte, 2*s.Batch*s.Heads*s.Queries*d)}
	k := tensor{s.Batch * s.KVHeads, s.Keys, make([]byte, 2*s.Batch*s.KVHeads*s.Keys*d)}
	v := tensor{k.heads, k.n, make([]byte, len(k.data))}
	encode, kind := format.FP16.Bits, format.FP16
	if dtype == "bf16" {
		encode, kind = format.BF16.Bits, format.BF16
	}
	put := func(t *tensor, i int, x []float32) {
		out := t.data[2*i*t.n*d:]
		for j, f := range x {
			binary.LittleEndian.PutUint16(out[2*j:], uint16(encode(f)))
		}
	}
	var wg sync.WaitGroup
	for i := range q.heads {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, base+uint64(i)))
			normal := func(n int) []float32 {
				x := make([]float32, n*d)
				for j := range x {
					x[j] = float32(r.NormFloat64())
				}
				return x
			}
			x := head{q: normal(s.Queries), dim: d}
			if i < k.heads {
				x.k, x.v = normal(s.Keys), normal(s.Keys)
			}
			dist.make(r, &x)
			put(&q, i, x.q)
			if i < k.heads {
				put(&k, i, x.k)
				put(&v, i, x.v)
			}
		})
	}
	wg.Wait()
	l := &layerdumps.Layer{Name: name, Causal: causal, Source: "generated", Synthetic: fmt.Sprintf("%s, seed %d", dist.Name, seed)}
	var err error
	if l.Q, err = layerdumps.NewTensor(name+".q", kind, [4]int{s.Batch, s.Heads, s.Queries, d}, q.data); err != nil {
		return nil, err
	}
	if l.K, err = layerdumps.NewTensor(name+".k", kind, [4]int{s.Batch, s.KVHeads, s.Keys, d}, k.data); err != nil {
		return nil, err
	}
	l.V, err = layerdumps.NewTensor(name+".v", kind, [4]int{s.Batch, s.KVHeads, s.Keys, d}, v.data)
	return l, err
}

// Open returns a case's inputs. When they have been read, their Check is to be asked.
func (c *Case) Open() (*layerdumps.Layer, error) { return c.open() }
