package explain

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/emulate/program"

	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/internal/sweep"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

// shape is a layer to make up.
type shape struct {
	heads, kvHeads, queries, keys, dim int
	causal                             bool
	dtype                              format.DType
	// grid draws K and Q from multiples of a half with a largest magnitude of 7 and
	// means of zero, so that INT4 codes have ties.
	grid bool
}

// The shapes: a causal layer of several tiles whose last is not full, a ragged one
// without a mask, the first with outputs that show every bit, and one with ties.
var (
	causalShape = shape{2, 1, 200, 200, 64, true, format.FP16, false}
	raggedShape = shape{2, 2, 130, 300, 64, false, format.FP16, false}
	wideShape   = shape{1, 1, 200, 200, 64, true, format.FP32, false}
	gridShape   = shape{1, 1, 256, 256, 64, true, format.FP16, true}
)

// inputs makes up Q, K and V, [heads][tokens][dim]: rows that look at few keys and
// rows that look at all alike, channels with a bias and with outliers.
func (s shape) inputs() (q, k, v []float32) {
	r := rand.New(rand.NewPCG(2411, uint64(s.keys)))
	draw := func(heads, tokens int, at func(t, c int) float64) []float32 {
		x := make([]float32, heads*tokens*s.dim)
		for i := range x {
			x[i] = s.dtype.Round(float32(at(i/s.dim%tokens, i%s.dim)))
		}
		return x
	}
	grid := func(heads, tokens int) []float32 {
		x := make([]float32, heads*tokens*s.dim)
		for i := 0; i < len(x); i += 2 * s.dim {
			for c := range s.dim {
				y := float32(r.IntN(27)-13) / 2
				if c == i/(2*s.dim)%s.dim {
					y = 7
				}
				x[i+c], x[i+s.dim+c] = y, -y
			}
		}
		return x
	}
	if s.grid {
		q, k = grid(s.heads, s.queries), grid(s.kvHeads, s.keys)
	} else {
		q = draw(s.heads, s.queries, func(t, c int) float64 {
			x := r.NormFloat64()
			switch t % 4 {
			case 1:
				x *= 4
			case 2:
				x *= 0.1
			}
			if c == 3 {
				x += 2
			}
			return x
		})
		k = draw(s.kvHeads, s.keys, func(t, c int) float64 {
			x := r.NormFloat64() * (0.7 + float64(t)/200)
			if c == 3 || c == 10 {
				x += 4
			}
			return x
		})
	}
	v = draw(s.kvHeads, s.keys, func(t, c int) float64 {
		x := r.NormFloat64()
		if c == 5 {
			x *= 8
		}
		return x + 0.3
	})
	return q, k, v
}

// layer writes a dump whose actual output is that of cfg, changed by spoil, and opens
// it.
func (s shape) layer(t testing.TB, cfg program.Program, spoil func(out []float32)) *layerdumps.Layer {
	t.Helper()
	q, k, v := s.inputs()
	out := make([]float32, len(q))
	kernel, err := emulate.New(cfg)
	if err == nil {
		kernel, err = kernel.ForCase(s.dtype, program.Case{
			HeadDim: s.dim, Causal: s.causal, Batch: 1, Heads: s.heads, KVHeads: s.kvHeads, Queries: s.queries, Keys: s.keys,
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	matrix := func(x []float32, head, tokens int) emulate.Rows {
		x = x[head*tokens*s.dim:]
		return func(lo, hi int, dst []float32) { copy(dst, x[lo*s.dim:hi*s.dim]) }
	}
	var ws emulate.Workspace
	for h := range s.heads {
		kh := h * s.kvHeads / s.heads
		kv, err := kernel.Prepare(emulate.KVInput{K: matrix(k, kh, s.keys), V: matrix(v, kh, s.keys), Len: s.keys, Dim: s.dim, DType: s.dtype})
		if err != nil {
			t.Fatal(err)
		}
		in := emulate.QInput{Q: matrix(q, h, s.queries), Len: s.queries, Causal: s.causal, Scale: 1 / math.Sqrt(float64(s.dim))}
		query := kernel.Query(in, kv, &ws)
		for b := range kernel.Blocks(s.queries) {
			kernel.Run(query, &ws, b, out[(h*s.queries+b*kernel.Tiling().BlockQ)*s.dim:], nil)
		}
	}
	if spoil != nil {
		spoil(out)
	}
	name := map[format.DType]string{format.FP16: "F16", format.BF16: "BF16", format.FP32: "F32"}[s.dtype]
	tensor := func(suffix string, heads, tokens int, x []float32) safetensors.Tensor {
		var data []byte
		for _, y := range x {
			if s.dtype == format.FP32 {
				data = binary.LittleEndian.AppendUint32(data, s.dtype.Bits(y))
			} else {
				data = binary.LittleEndian.AppendUint16(data, uint16(s.dtype.Bits(y)))
			}
		}
		return safetensors.Tensor{Name: "l." + suffix, DType: name, Shape: []int{1, heads, tokens, s.dim}, Data: data}
	}
	meta := map[string]string{"causal": "false"}
	if s.causal {
		meta["causal"] = "true"
	}
	path := filepath.Join(t.TempDir(), "layer.safetensors")
	err = safetensors.Write(path, meta, []safetensors.Tensor{
		tensor("q", s.heads, s.queries, q), tensor("k", s.kvHeads, s.keys, k), tensor("v", s.kvHeads, s.keys, v), tensor("o", s.heads, s.queries, out),
	})
	if err != nil {
		t.Fatal(err)
	}
	return open(t, path, layerdumps.Options{})
}

// explained searches for the output of does on a kernel that is said to be said.
func (s shape) explained(t *testing.T, said, does program.Program) *Result {
	t.Helper()
	res, err := Layer(t.Context(), s.layer(t, does, nil), Options{Program: said, Jobs: 2})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func changesOf(list []Hypothesis) [][]string {
	var out [][]string
	for _, h := range list {
		out = append(out, h.Changes)
	}
	return out
}

// TestNamesTheVariant: a kernel that deviates in one step is explained by exactly
// that step, with both of our kernels: by itself the test takes one of them in turn.
func TestNamesTheVariant(t *testing.T) {
	tried := map[string]bool{}
	for i, tc := range []struct {
		variant string
		shape   shape
		// only restricts the test to a kernel; alike lists what gives the same bits.
		only  string
		alike []string
	}{
		{"code-round=zero", causalShape, "", nil},
		{"code-round=away", gridShape, "sage2-4b", nil},
		{"v-max=256", causalShape, "", nil},
		{"v-round=zero", causalShape, "", nil},
		{"delta-s=none", causalShape, "sage2-4b", nil},
		{"delta-s=raw", causalShape, "sage2-4b", nil},
		{"tail=all", causalShape, "sage2-8b-sm90", nil},
		{"causal-shift=1", causalShape, "", nil},
		{"causal-shift=-1", causalShape, "", nil},
		{"key-mask=none", raggedShape, "", nil},
		{"p-offset=none", causalShape, "", nil},
		{"p-offset=8", causalShape, "", nil},
		{"fma-max=none", wideShape, "", nil},
		{"fma-exp=none", wideShape, "", nil},
		{"exp2=exact", wideShape, "", nil},
		{"p-round=zero", causalShape, "", nil},
		{"d-sum=codes", causalShape, "", nil},
		{"d-order=pairwise", wideShape, "", nil},
		{"fma-d=none", wideShape, "", nil},
		{"rescale-d=none", causalShape, "", nil},
		{"fraction-bits=12", causalShape, "", nil},
		{"step=8", causalShape, "", nil},
		{"sum-round=fp22-nearest", causalShape, "", nil},
		{"sum-round=fp32-zero", causalShape, "", nil},
		{"sum-round=fp16-nearest", causalShape, "", nil},
		{"level-keys=32", causalShape, "", nil},
		{"fma-o=none", wideShape, "", nil},
		{"rescale-o=none", causalShape, "", nil},
		{"rcp=exact", wideShape, "", nil},
		{"rcp=divide", wideShape, "", nil},
		{"out-round=zero", causalShape, "", nil},
	} {
		key, _, _ := strings.Cut(tc.variant, "=")
		tried[key] = true
		for j, name := range []string{"sage2-4b", "sage2-8b-sm90"} {
			if tc.only != "" && tc.only != name || tc.only == "" && i%2 != j && !sweep.Full() {
				continue
			}
			t.Run(name+" "+tc.variant, func(t *testing.T) {
				said := preset(t, name)
				does := said
				if err := does.Apply(&said, tc.variant); err != nil {
					t.Fatal(err)
				}
				res := tc.shape.explained(t, said, does)
				want := [][]string{{"--variant " + tc.variant}}
				for _, a := range tc.alike {
					want = append(want, []string{a})
				}
				if got := changesOf(res.Exact); !slices.EqualFunc(got, want, slices.Equal) {
					t.Errorf("explained by %q, want %q; nearest %+v", got, want, res.Nearest)
				}
				if res.Where == nil {
					t.Error("no word of where it differs")
				}
				if name == "sage2-4b" {
					return
				}
				// The other way round: the kernel as it is, said to have the variant.
				res = tc.shape.explained(t, does, said)
				if got := changesOf(res.Exact); len(got) == 0 || got[0][0] != "--variant none" && got[0][0] != "--variant "+key+"=default" {
					t.Errorf("undone by %q", got)
				}
			})
		}
	}
	for _, k := range program.Knobs() {
		if !tried[k.Key] {
			t.Errorf("%s is not tested", k.Key)
		}
		if len(values(k.Key)) == 0 {
			t.Errorf("no value of %s is tried", k.Key)
		}
		for _, x := range values(k.Key) {
			base := preset(t, "sage2-4b")
			p := base
			if err := p.Apply(&base, k.Key+"="+x); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestPairs: two deviations at once, of variants and of configurations. A search for two tries
// thousands of hypotheses: by itself the test does one such, of a variant and a configuration.
func TestPairs(t *testing.T) {
	for _, tc := range []struct {
		kernel string
		change func(*program.Program)
		list   string
		want   []string
		long   bool
	}{
		{"sage2-8b-sm90", nil, "p-round=zero,rescale-d=none", []string{"--variant p-round=zero", "--variant rescale-d=none"}, true},
		{"sage2-8b-sm90", func(c *program.Program) { must(c.SetSmooth("none")) }, "d-sum=codes", []string{"--smooth none", "--variant d-sum=codes"}, false},
		{"sage2-4b", nil, "delta-s=none,level-keys=32", []string{"--variant delta-s=none", "--variant level-keys=32"}, true},
		// One choice of the description, where flags would take two.
		{"sage2-8b-sm90", func(c *program.Program) { must(c.SetSmooth("q,k")) }, "delta-s=none", []string{"--set smoothing.q=tile-mean"}, false},
	} {
		t.Run(tc.kernel+" "+strings.Join(tc.want, " "), func(t *testing.T) {
			if tc.long && !sweep.Full() {
				t.Skip("long")
			}
			said := preset(t, tc.kernel)
			does := said
			if tc.change != nil {
				tc.change(&does)
			}
			if err := does.Apply(&said, tc.list); err != nil {
				t.Fatal(err)
			}
			res := causalShape.explained(t, said, does)
			if got := changesOf(res.Exact); !slices.EqualFunc(got, [][]string{tc.want}, slices.Equal) {
				t.Errorf("explained by %q, want %q; nearest %+v", got, tc.want, res.Nearest)
			}
		})
	}
}

// TestSplitEverywhere: a kernel built without contraction differs in four steps and
// is one hypothesis.
func TestSplitEverywhere(t *testing.T) {
	said := preset(t, "sage2-8b-sm90")
	does := said
	must(does.Apply(&said, "fma-max=none,fma-exp=none,fma-d=none,fma-o=none"))
	res := wideShape.explained(t, said, does)
	want := [][]string{{"--variant fma-max=none,fma-exp=none,fma-d=none,fma-o=none"}}
	if got := changesOf(res.Exact); !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("explained by %q, want %q", got, want)
	}
}

// TestJobs: the number of goroutines changes nothing.
func TestJobs(t *testing.T) {
	said := preset(t, "sage2-8b-sm90")
	l := causalShape.layer(t, said, func(out []float32) { out[77*64+5] += 0.25 })
	var first string
	for _, jobs := range []int{1, 3} {
		last := 0.0
		res, err := Layer(t.Context(), l, Options{Program: said, MaxChanges: 1, Jobs: jobs, Progress: func(part float64) {
			if part < last || part > 1 {
				t.Errorf("progress from %g to %g", last, part)
			}
			last = part
		}})
		if err != nil {
			t.Fatal(err)
		}
		if last != 1 {
			t.Errorf("progress ends at %g", last)
		}
		data, err := json.Marshal(res)
		if err != nil {
			t.Fatal(err)
		}
		if first == "" {
			first = string(data)
		}
		if string(data) != first {
			t.Errorf("%d jobs: %s\nbut with one %s", jobs, data, first)
		}
		// One changed element: the kernel as given is the nearest.
		if len(res.Exact) != 0 || len(res.Nearest) == 0 || len(res.Nearest[0].Changes) != 0 || res.Nearest[0].Mismatched != 1 {
			t.Errorf("one changed element: %+v", res)
		}
	}
}

// TestChosenShape: what a kernel makes depend on the layer (its split, its shape and what goes
// with that) is found where the layer finds it, and what is named gives the same when it is
// typed.
func TestChosenShape(t *testing.T) {
	long := shape{1, 1, 130, 600, 64, true, format.FP16, false}
	for _, tc := range []struct {
		kernel, said, does string // edits of both, and of what it does
		dim                int
		want               string
	}{
		{"fa2", "", "", 64, "the kernel as given"},
		{"fa2", "", "tiles.split_shapes.0.keys=128", 64, "--set tiles.split_shapes.0.keys=128"},
		{"fa2", "", "tiles.split_shapes.1.keys=64", 128, "--set tiles.split_shapes.1.keys=64"},
		{"fa2", "tiles.sms=1", "tiles.shapes.0.keys=64", 64, "--set tiles.shapes.0.keys=64"},
		{"fa2", "tiles.sms=1", "tiles.shapes.4.keys=96", 128, "--set tiles.shapes.4.keys=96"},
		{"fa2", "", "mask.causal=top-left", 64, "--set mask.causal=top-left"},
		{"sdpa-efficient", "tiles.shapes.1.max_head_dim=65", "", 128, "the kernel as given"},
		{"sdpa-efficient", "tiles.shapes.1.max_head_dim=65", "tiles.shapes.2.keys=64", 128, "--set tiles.shapes.2.keys=64"},
		{"sdpa-efficient", "tiles.shapes.1.max_head_dim=65;tiles.shapes.2.set=p.round=even, pv.level=tile, pv.join=memory", "tiles.shapes.2.set=p.round=zero,pv.level=tile,pv.join=memory", 128, "--set tiles.shapes.2.set=p.round=zero,pv.level=tile,pv.join=memory"},
	} {
		t.Run(tc.kernel+" "+tc.does, func(t *testing.T) {
			set := func(p program.Program, change string) program.Program {
				t.Helper()
				for c := range strings.SplitSeq(change, ";") {
					if path, value, ok := strings.Cut(c, "="); ok {
						if err := p.Set(path, value); err != nil {
							t.Fatal(err)
						}
					}
				}
				return p
			}
			said := set(preset(t, tc.kernel), tc.said)
			does := set(said, tc.does)
			s := long
			s.dim = tc.dim
			l := s.layer(t, does, nil)
			res, err := Layer(t.Context(), l, Options{Program: said, Jobs: 2, MaxChanges: 1})
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for _, h := range res.Exact {
				found = found || h.String() == tc.want
				if len(h.Changes) == 0 || !strings.HasPrefix(h.Changes[0], "--set ") {
					continue
				}
				typed := set(said, strings.Trim(strings.TrimPrefix(h.Changes[0], "--set "), "'"))
				again, err := Layer(t.Context(), l, Options{Program: typed, MaxChanges: 1})
				if err != nil || len(again.Exact) != 1 || len(again.Exact[0].Changes) != 0 {
					t.Errorf("%s, typed, gives something else: %q, %v", h.String(), changesOf(again.Exact), err)
				}
			}
			if !found {
				t.Errorf("explained by %q, want %s", changesOf(res.Exact), tc.want)
			}
		})
	}
}
