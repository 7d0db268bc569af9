package heads_test

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/compare/heads"
	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/layerdumps/safetensors"
	"github.com/sageacc/sageacc/reference"
)

// tensor is a tensor of normal numbers; a mask of them hides half of the keys.
func tensor(name, dtype string, shape ...int) safetensors.Tensor {
	n := 1
	for _, x := range shape {
		n *= x
	}
	r := rand.New(rand.NewPCG(uint64(len(name)), uint64(name[len(name)-1])))
	var b []byte
	for range n {
		switch x := float32(r.NormFloat64()); dtype {
		case "BOOL":
			b = append(b, byte(r.IntN(2)))
		case "F16":
			b = binary.LittleEndian.AppendUint16(b, uint16(format.FP16.Bits(x)))
		case "F32":
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
		case "F8_E4M3":
			b = append(b, byte(format.E4M3FromFloat32(x)))
		case "F8_E5M2":
			b = append(b, byte(format.E5M2FromFloat32(x)))
		}
	}
	return safetensors.Tensor{Name: name, DType: dtype, Shape: shape, Data: b}
}

// qkv is a layer of two batch entries, four heads that share two, 40 queries and 50 keys.
func qkv(dtype string, dim int) []safetensors.Tensor {
	return []safetensors.Tensor{tensor("l.q", dtype, 2, 4, 40, dim), tensor("l.k", dtype, 2, 2, 50, dim), tensor("l.v", dtype, 2, 2, 50, dim)}
}

func open(t *testing.T, metadata map[string]string, ts ...safetensors.Tensor) *layerdumps.Layer {
	t.Helper()
	path := filepath.Join(t.TempDir(), "d.safetensors")
	if err := safetensors.Write(path, metadata, ts); err != nil {
		t.Fatal(err)
	}
	d, err := layerdumps.Open([]string{path}, layerdumps.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return &d.Layers[0]
}

func kernel(t *testing.T, name string, sets ...string) *emulate.Kernel {
	t.Helper()
	p, err := program.Preset(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sets {
		path, value, _ := strings.Cut(s, "=")
		if err := p.Set(path, value); err != nil {
			t.Fatal(err)
		}
	}
	k, err := emulate.New(p)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// scales are those of so many heads of Q.
func scales(heads int) safetensors.Tensor {
	x := tensor("l.q_descale", "F32", 2, heads)
	for i := range 2 * heads {
		binary.LittleEndian.PutUint32(x.Data[4*i:], math.Float32bits(float32(1+i)))
	}
	return x
}

// listed is a block map of two batch entries and four heads that lists everything.
func listed(queries, keys int) safetensors.Tensor {
	return safetensors.Tensor{Name: "l.block_map", DType: "BOOL", Shape: []int{2, 4, queries, keys}, Data: bytes.Repeat([]byte{1}, 8*queries*keys)}
}

// TestBlockMap: each head runs the tiles that are listed for it, and the reference is of all keys.
func TestBlockMap(t *testing.T) {
	ts := []safetensors.Tensor{tensor("l.q", "F16", 2, 4, 70, 64), tensor("l.k", "F16", 2, 2, 300, 64), tensor("l.v", "F16", 2, 2, 300, 64)}
	k := kernel(t, "sparge-sm90")
	dense, err := heads.Bind(k, open(t, nil, ts...))
	if err != nil {
		t.Fatal(err)
	}
	// Batch entry 1, head 2 lacks tile 1 for its second block of queries.
	m := listed(2, 3)
	m.Data[((1*4+2)*2+1)*3+1] = 0
	sparse, err := heads.Bind(k, open(t, nil, append(ts, m)...))
	if err != nil {
		t.Fatal(err)
	}
	all, some := output(t, dense), output(t, sparse)
	from, to := ((1*4+2)*70+64)*64, (1*4+3)*70*64
	for i := range all {
		if in := i >= from && i < to; all[i] != some[i] && !in {
			t.Fatalf("element %d differs", i)
		}
	}
	if slices.Equal(all[from:to], some[from:to]) {
		t.Error("the tile that is not listed is run")
	}
	if r := heads.Reference(sparse.Layer, reference.FP32, 0, 1, 2); r.Visible != nil || r.Bias != nil {
		t.Error("the reference is not dense")
	}
}

// TestRefused: what a kernel does not take is one line that names the tensor and the choice.
func TestRefused(t *testing.T) {
	boolean, additive := tensor("l.mask", "BOOL", 40, 50), tensor("l.mask", "F16", 1, 4, 40, 50)
	for _, tc := range []struct {
		kernel   string
		ts       []safetensors.Tensor
		metadata map[string]string
		want     string // "" for a kernel that takes it
	}{
		{"sage-fp16-triton", append(qkv("F16", 64), boolean), nil, ""},
		{"sage-fp16-triton", append(qkv("F16", 64), additive), nil, ""},
		{"sdpa-efficient", append(qkv("F16", 64), boolean), nil, ""},
		{"sdpa-efficient", append(qkv("F16", 64), additive), nil, ""},
		{"sage2-8b-sm90", append(qkv("F16", 64), boolean), nil, `tensor "l.mask": kernel sage2-8b-sm90 takes no boolean mask (mask.boolean: none); comfy-int8, sage-fp16-triton and sdpa-efficient do`},
		{"fa3", append(qkv("F16", 64), additive), nil, `tensor "l.mask": kernel fa3 takes no additive mask (mask.additive: none); comfy-int8, sage-fp16-triton and sdpa-efficient do`},
		{"sage-fp16-triton", append(qkv("F16", 64), tensor("l.mask", "F32", 40, 50)), nil, `tensor "l.mask": kernel sage-fp16-triton takes an additive mask of its inputs' dtype, FP16, and this is FP32`},
		{"sage-fp16-triton", append(qkv("F16", 64), boolean), map[string]string{"causal": "true"}, `tensor "l.mask": no kernel takes a mask together with a causal one or a window`},
		{"fa3", qkv("F16", 64), map[string]string{"window": "5,0"}, ""},
		{"sage-fp16-triton", qkv("F16", 64), map[string]string{"window": "5,0"}, "kernel sage-fp16-triton takes no window (mask.window: no); fa2, fa3, fa3-fp8, fa3-fp8-2level, flashinfer-fp8 and flashinfer-fp8-paged do"},
		{"sage-fp16-triton", qkv("F16", 64), map[string]string{"window": "500,-1"}, ""}, // hides nothing
		{"sage2-8b-sm90", qkv("F16", 64), map[string]string{"window": "-1,0", "causal_align": "top-left"}, ""},
		{"fa3", qkv("F16", 64), map[string]string{"softcap": "5"}, ""},
		{"fa2", qkv("F16", 64), map[string]string{"softcap": "5"}, "kernel fa2 takes no soft cap (scores.softcap: none); fa3, fa3-fp8 and fa3-fp8-2level do"},
		{"fa2", qkv("F16", 64), map[string]string{"causal": "true", "causal_align": "top-left"}, "causal_align is top-left, and kernel fa2 aligns 40 queries and 50 keys bottom-right (mask.causal)"},
		{"fa2", qkv("F16", 64), map[string]string{"causal": "true", "causal_align": "bottom-right"}, ""},
		{"fa2", qkv("F16", 64), map[string]string{"causal_align": "top-left"}, ""}, // nothing to align
		{"fa3", qkv("F16", 256), nil, ""},
		{"comfy-int8", append(qkv("F16", 256), boolean), nil, ""},
		{"comfy-int8", append(qkv("F16", 64), tensor("l.mask", "F32", 40, 50)), nil, ""},
		{"comfy-int8", qkv("F16", 64), map[string]string{"causal": "true"}, `tensor "l.q": kernel comfy-int8 takes no causal mask and no window (mask.causal: none)`},
		{"sage2-8b-sm90", qkv("F16", 256), nil, `tensor "l.q": head_dim 256: kernel sage2-8b-sm90 supports 1 to 128; comfy-int8, fa2, fa3, fa3-fp8, fa3-fp8-2level, flashinfer-fp8, flashinfer-fp8-paged and sdpa-efficient do`},
		{"sparge-sm90", append(qkv("F16", 64), listed(1, 1)), nil, ""},
		{"sparge-sm90", qkv("F16", 64), nil, ""}, // all tiles
		{"sage2-8b-sm90", append(qkv("F16", 64), listed(1, 1)), nil, `tensor "l.block_map": kernel sage2-8b-sm90 takes no block map (mask.block_map); sparge-sm90 does`},
		{"sparge-sm90", append(qkv("F16", 64), listed(1, 2)), nil, `tensor "l.block_map": [2 4 1 2] are not the blocks of kernel sparge-sm90, whose tiles are of 64 queries and 128 keys: want [2 4 1 1]`},
		{"sparge-sm90", append(qkv("F16", 64), boolean), nil, `tensor "l.mask": kernel sparge-sm90 takes no boolean mask (mask.boolean: none)`},
		{"sparge-sm90", qkv("F16", 64), map[string]string{"causal": "true"}, `tensor "l.q": kernel sparge-sm90 takes no causal mask and no window (mask.causal: none); it takes a block map`},
		{"fa3-fp8", qkv("F8_E4M3", 64), nil, ""},
		{"fa3-fp8", qkv("F8_E5M2", 64), nil, `tensor "l.q": kernel fa3-fp8 does not take e5m2 inputs (it takes e4m3, fp16, bf16)`},
		{"fa3", qkv("F8_E4M3", 64), nil, `tensor "l.q": kernel fa3 does not take e4m3 inputs (it takes fp16, bf16); fa3-fp8, fa3-fp8-2level, flashinfer-fp8 and flashinfer-fp8-paged do`},
		{"flashinfer-fp8", append(qkv("F8_E4M3", 64), scales(4)), nil, ""},
		{"fa3-fp8", append(qkv("F8_E4M3", 64), scales(2)), nil, ""},
		{"fa3-fp8", append(qkv("F8_E4M3", 64), scales(4)), nil, `tensor "l.q": kernel fa3-fp8 takes one scale of Q for each kv head (operands.descale: kv-head), and here its query heads have different ones; flashinfer-fp8 and flashinfer-fp8-paged do`},
		{"flashinfer-fp8", qkv("F16", 64), map[string]string{"window": "5,0"}, ""},
		{"flashinfer-fp8", qkv("F16", 64), map[string]string{"window": "5,-1"}, ""},
		{"flashinfer-fp8", qkv("F16", 64), map[string]string{"window": "5,7"}, "kernel flashinfer-fp8 takes no window that bounds the keys after the query (mask.window: left); fa2, fa3, fa3-fp8 and fa3-fp8-2level do"},
	} {
		_, err := heads.Bind(kernel(t, tc.kernel), open(t, tc.metadata, tc.ts...))
		if got := ""; err != nil && tc.want != "" {
			if got = err.Error(); !strings.HasPrefix(got, tc.want) || strings.Contains(got, "\n") {
				t.Errorf("%s: %q, want %q", tc.kernel, got, tc.want)
			}
		} else if (err == nil) != (tc.want == "") {
			t.Errorf("%s %v: %v, want %q", tc.kernel, tc.metadata, err, tc.want)
		}
	}
	bounds := func(name string, at ...uint32) safetensors.Tensor {
		var b []byte
		for _, x := range at {
			b = binary.LittleEndian.AppendUint32(b, x)
		}
		return safetensors.Tensor{Name: name, DType: "I32", Shape: []int{len(at)}, Data: b}
	}
	packed := open(t, nil, tensor("l.q", "F16", 9, 2, 64), tensor("l.k", "F16", 9, 1, 64), tensor("l.v", "F16", 9, 1, 64),
		bounds("l.cu_seqlens_q", 0, 4, 9), bounds("l.cu_seqlens_k", 0, 4, 9))
	if _, err := heads.Bind(kernel(t, "sage-fp16-triton"), packed); err == nil || err.Error() != `tensor "l.cu_seqlens_q": kernel sage-fp16-triton takes no packed sequences (operands.packed: no); sage-fp16-triton-varlen does` {
		t.Errorf("packed: %v", err)
	}
	_, err := heads.Bind(kernel(t, "fa3-fp8", "operands.output=input"), open(t, nil, qkv("F8_E4M3", 64)...))
	if err == nil || !strings.Contains(err.Error(), "returns the dtype of its inputs (operands.output), which is E4M3") {
		t.Errorf("an FP8 output: %v", err)
	}
}

// output runs a layer.
func output(t *testing.T, v *heads.Layer) []uint32 {
	t.Helper()
	var out []uint32
	var ws emulate.Workspace
	for b := range v.Q.Batch {
		for h := range v.Q.Heads {
			kv, err := v.Kernel.Prepare(v.KV(b, v.KVHead(h)))
			if err != nil {
				t.Fatal(err)
			}
			x := make([]float32, v.Q.Tokens*v.Q.Dim)
			if _, err := v.Kernel.RunBlocks(t.Context(), v.Kernel.Query(v.Query(b, h), kv, &ws), &ws, 0, v.Kernel.Blocks(v.Q.Tokens), x, nil); err != nil {
				t.Fatal(err)
			}
			for _, f := range x {
				out = append(out, math.Float32bits(f))
			}
		}
	}
	return out
}

// TestQuantised: a kernel of FP8 makes of a 16-bit dump the codes and scales that its
// callers do: the FP8 dump of these gives the same output.
func TestQuantised(t *testing.T) {
	wide := qkv("F16", 64)
	// Heads and batch entries of different size.
	for _, x := range wide {
		n := len(x.Data) / 2
		for i := range n {
			b := x.Data[2*i:]
			f := format.FP16.FromBits(uint32(binary.LittleEndian.Uint16(b)))
			binary.LittleEndian.PutUint16(b, uint16(format.FP16.Bits(f*float32(1+i*16/n))))
		}
	}
	l := open(t, nil, wide...)
	outs := make(map[string][]uint32)
	for _, of := range []string{"kv-head", "tensor", "head"} {
		name := "fa3-fp8"
		if of == "head" {
			name = "flashinfer-fp8"
		}
		k := kernel(t, name, "operands.descale="+of)
		v, err := heads.Bind(k, l)
		if err != nil {
			t.Fatal(err)
		}
		var ts []safetensors.Tensor
		for i, x := range []*layerdumps.Tensor{&l.Q, &l.K, &l.V} {
			most := make([]float32, 8)
			rows := make([]float32, x.Tokens*x.Dim)
			each := func(f func(group int)) {
				for b := range x.Batch {
					for h := range x.Heads {
						x.Rows(b, h, 0, x.Tokens, rows)
						group := b*2 + h*2/x.Heads
						switch of {
						case "tensor":
							group = 0
						case "head":
							group = h // in all batch entries
						}
						f(group)
					}
				}
			}
			each(func(g int) {
				for _, f := range rows {
					most[g] = max(most[g], float32(math.Abs(float64(f))))
				}
			})
			var codes, scales []byte
			each(func(g int) {
				for _, f := range rows {
					codes = append(codes, byte(format.E4M3FromFloat32(f/(most[g]/448))))
				}
			})
			shape := []int{2, 2}
			if of == "head" {
				shape = []int{x.Heads}
			}
			for g := range max(4*len(shape)-4, shape[0]) {
				if of == "tensor" {
					g = 0
				}
				scales = binary.LittleEndian.AppendUint32(scales, math.Float32bits(most[g]/448))
			}
			s := x.Shape()
			ts = append(ts, safetensors.Tensor{Name: wide[i].Name, DType: "F8_E4M3", Shape: s[:], Data: codes},
				safetensors.Tensor{Name: wide[i].Name + "_descale", DType: "F32", Shape: shape, Data: scales})
		}
		narrow, err := heads.Bind(k, open(t, nil, ts...))
		if err != nil {
			t.Fatal(err)
		}
		outs[of] = output(t, v)
		if !slices.Equal(outs[of], output(t, narrow)) {
			t.Errorf("%s: the FP8 dump gives another output", of)
		}
		if narrow.Quantised() != "" || !strings.Contains(v.Quantised(), map[string]string{"kv-head": "kv head", "tensor": "whole tensor", "head": "each head of Q, K and V"}[of]) {
			t.Errorf("%s: said to be %q and %q", of, v.Quantised(), narrow.Quantised())
		}
	}
	if slices.Equal(outs["kv-head"], outs["tensor"]) {
		t.Error("one scale for all gives the same output")
	}
}

// TestValues: the reference takes codes times their scale, and so does a kernel without
// scales of its own.
func TestValues(t *testing.T) {
	ts := qkv("F8_E4M3", 16)
	var scale []byte
	for _, s := range []float32{0.5, 3, 0.3, 7} {
		scale = binary.LittleEndian.AppendUint32(scale, math.Float32bits(s))
	}
	ts = append(ts, safetensors.Tensor{Name: "l.q_descale", DType: "F32", Shape: []int{2, 2}, Data: scale})
	l := open(t, nil, ts...)
	code, value := make([]float32, 40*16), make([]float32, 40*16)
	for head, s := range map[int]float32{0: 0.3, 1: 0.3, 2: 7, 3: 7} {
		l.Q.Rows(1, head, 0, 40, code)
		heads.Values(l, &l.Q, heads.Rows(&l.Q, 1, head), 1, head)(0, 40, value)
		for i, x := range code {
			if value[i] != x*s {
				t.Fatalf("head %d: %v is %v, want %v", head, x, value[i], x*s)
			}
		}
	}
}

// TestWindowIsTheReferences: reference and kernel see the same keys.
func TestWindowIsTheReferences(t *testing.T) {
	l := open(t, map[string]string{"window": "12,4"}, qkv("F16", 64)...)
	v, err := heads.Bind(kernel(t, "fa3"), l)
	if err != nil {
		t.Fatal(err)
	}
	if v.Align() != 10 {
		t.Fatalf("aligned by %d", v.Align())
	}
	p := heads.Reference(l, reference.FP64, v.Align(), 0, 0)
	in := v.Query(0, 0)
	if !p.Windowed || p.Left != 12 || p.Right != 4 || p.Align != 10 || !in.Windowed || in.Left != 12 || in.Right != 4 {
		t.Errorf("the reference has %+v, the kernel %+v", p, in)
	}
}

// TestPackedBatch: the caller of a kernel of packed sequences packs a batch, and K's mean is
// then that of all its entries.
func TestPackedBatch(t *testing.T) {
	l := open(t, nil, qkv("F16", 64)...)
	v, err := heads.Bind(kernel(t, "sage-fp16-triton-varlen"), l)
	if err != nil {
		t.Fatal(err)
	}
	a, b := v.KV(0, 1), v.KV(1, 1)
	if a.KMean == nil || !slices.Equal(a.KMean, b.KMean) {
		t.Errorf("means %v and %v", a.KMean, b.KMean)
	}
	sum := make([]float64, 64)
	row := make([]float32, 50*64)
	for batch := range 2 {
		l.K.Rows(batch, 1, 0, 50, row)
		for i, x := range row {
			sum[i%64] += float64(x)
		}
	}
	for c, x := range sum {
		if got := float64(a.KMean[c]); math.Abs(got-x/100) > 1e-3 {
			t.Errorf("channel %d: mean %v, want %v", c, got, x/100)
		}
	}
	if v, err = heads.Bind(kernel(t, "sage-fp16-triton"), l); err != nil || v.KV(0, 1).KMean != nil {
		t.Errorf("another kernel has the mean %v, %v", v.KV(0, 1).KMean, err)
	}
}
