package layerdumps

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/x448/float16"

	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

// bound is a tensor of bounds.
func bound(name, dtype string, at ...int64) safetensors.Tensor {
	var b []byte
	for _, x := range at {
		if dtype == "I32" {
			b = binary.LittleEndian.AppendUint32(b, uint32(x))
		} else {
			b = binary.LittleEndian.AppendUint64(b, uint64(x))
		}
	}
	return safetensors.Tensor{Name: name, DType: dtype, Shape: []int{len(at)}, Data: b}
}

// packedLayer is a packed layer of three sequences, the second of which is empty, of two
// heads that share one: element i of every tensor is i.
func packedLayer(dtype string) []safetensors.Tensor {
	count := func(name string, shape ...int) safetensors.Tensor {
		x := zeros(name, "F16", shape...)
		for i := range len(x.Data) / 2 {
			binary.LittleEndian.PutUint16(x.Data[2*i:], float16.Fromfloat32(float32(i)).Bits())
		}
		return x
	}
	return []safetensors.Tensor{
		count("l.q", 5, 2, 4), count("l.k", 7, 1, 4), count("l.v", 7, 1, 4), count("l.o", 5, 2, 4),
		bound("l.cu_seqlens_q", dtype, 0, 2, 2, 5), bound("l.cu_seqlens_k", dtype, 0, 3, 3, 7),
	}
}

func TestPacked(t *testing.T) {
	for _, dtype := range []string{"I32", "I64"} {
		lse := floats("l.lse", []int{2, 5}, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
		d := open(t, Options{LSE: true}, write(t, t.TempDir(), "a.safetensors", map[string]string{"layout": "HND"}, append(packedLayer(dtype), lse)...))
		if got := layerNames(d); got != "l.seq0 l.seq2" {
			t.Fatalf("layers %s", got)
		}
		l := &d.Layers[1]
		if l.Q.Shape() != [4]int{1, 2, 3, 4} || l.K.Shape() != [4]int{1, 1, 4, 4} || l.O.Shape() != l.Q.Shape() || l.Packed.K.Shape() != [4]int{1, 1, 7, 4} {
			t.Errorf("%+v", l)
		}
		// Tokens 3 and 4 of all, head 1: elements (3*2+1)*4 and (4*2+1)*4 on.
		x := make([]float32, 8)
		for _, q := range []*Tensor{&l.Q, l.O} {
			if q.Rows(0, 1, 1, 3, x); x[0] != 28 || x[3] != 31 || x[4] != 36 || x[7] != 39 {
				t.Errorf("%s: %v", q.Name, x)
			}
		}
		if l.K.Rows(0, 0, 2, 4, x); x[0] != 20 || x[7] != 27 {
			t.Errorf("k %v", x)
		}
		if l.Packed.K.Rows(0, 0, 0, 1, x); x[0] != 0 {
			t.Errorf("all of k %v", x)
		}
		if l.LSE.Rows(0, 1, 0, 3, x); x[0] != 7 || x[2] != 9 {
			t.Errorf("lse %v", x)
		}
		if b := l.Q.Bytes(); len(b) != 48 || float16.Frombits(binary.LittleEndian.Uint16(b[24:])).Float32() != 20 {
			t.Errorf("bytes %v", b)
		}
		if got := strings.Join(l.Call().Parts(), "; "); got != "packed with 3 in all" || l.Call().Packed.Sequence != 2 {
			t.Error(got)
		}
		calls := 0
		for i := range d.Layers {
			if got := d.Layers[i].Packed.Keep("k", func() any { calls++; return 7 }); got != 7 {
				t.Errorf("kept %v", got)
			}
		}
		if calls != 1 {
			t.Errorf("made %d times", calls)
		}
	}
	// Of one sequence the name stays.
	d := open(t, Options{}, write(t, t.TempDir(), "a.safetensors", nil, with(packedLayer("I32"), bound("l.cu_seqlens_q", "I64", 0, 5), bound("l.cu_seqlens_k", "I32", 0, 7))...))
	if got := layerNames(d); got != "l" || d.Layers[0].Packed == nil {
		t.Errorf("layers %s", got)
	}
	// Scales are a sequence's own.
	ts := []safetensors.Tensor{zeros("l.q", "F8_E4M3", 5, 2, 4), zeros("l.k", "F8_E4M3", 7, 2, 4), zeros("l.v", "F8_E4M3", 7, 2, 4)}
	ts = append(ts, packedLayer("I32")[4:]...)
	d = open(t, Options{}, write(t, t.TempDir(), "a.safetensors", nil, append(ts, floats("l.k_descale", []int{3, 2}, 1, 2, 3, 4, 5, 6), floats("l.v_descale", nil, 9))...))
	if l := &d.Layers[1]; l.Descale(&l.K, 0, 1) != 6 || l.Descale(&l.V, 0, 0) != 9 || l.Descale(&l.Q, 0, 0) != 1 {
		t.Errorf("scales %v %v", l.KDescale, l.VDescale)
	}
}

func TestPackedErrors(t *testing.T) {
	good := packedLayer("I32")
	for _, tc := range []struct {
		name, want string
		tensors    []safetensors.Tensor
	}{
		{"no bounds of k", `tensor "l.cu_seqlens_q": there is no l.cu_seqlens_k`, good[:5]},
		{"no bounds of q", `tensor "l.cu_seqlens_k": there is no l.cu_seqlens_q`, append(good[:4:4], good[5])},
		{"floats", `tensor "l.cu_seqlens_q": dtype F32 is not I32 or I64`, with(good, floats("l.cu_seqlens_q", []int{4}, 0, 2, 2, 5))},
		{"two dimensions", `tensor "l.cu_seqlens_q": has shape [2 2]`, with(good, zeros("l.cu_seqlens_q", "I32", 2, 2))},
		{"one number", `has shape [1]; want one number more than there are sequences`, with(good, bound("l.cu_seqlens_q", "I32", 0))},
		{"too many", `has 1048577 sequences; a batch may have up to 1048576`, with(good, zeros("l.cu_seqlens_q", "I32", 1<<20+2))},
		{"begin", `tensor "l.cu_seqlens_k": begins with 1, not with 0`, with(good, bound("l.cu_seqlens_k", "I64", 1, 3, 3, 7))},
		{"fall", `tensor "l.cu_seqlens_q": element 2 is 1, below element 1, 2`, with(good, bound("l.cu_seqlens_q", "I32", 0, 2, 1, 5))},
		{"below", `element 1 is -1, below element 0, 0`, with(good, bound("l.cu_seqlens_q", "I32", 0, -1, 1, 5))},
		{"end", `tensor "l.cu_seqlens_k": ends with 6, and "l.k" has 7 tokens`, with(good, bound("l.cu_seqlens_k", "I32", 0, 3, 3, 6))},
		{"far end", `ends with 1099511627776, and "l.q" has 5 tokens`, with(good, bound("l.cu_seqlens_q", "I64", 0, 2, 2, 1<<40))},
		{"lengths", `tensor "l.cu_seqlens_k": has 3 elements, and "l.cu_seqlens_q" has 4`, with(good, bound("l.cu_seqlens_k", "I32", 0, 3, 7))},
		{"no keys", `tensor "l.cu_seqlens_k": sequence 0 has 2 queries and no keys`, with(good, bound("l.cu_seqlens_k", "I32", 0, 0, 3, 7))},
		{"four dimensions", `tensor "l.q": has 4 dimensions, [1 2 5 4]; want the 3 of [tokens, heads, head_dim], which cu_seqlens bounds`, with(good, zeros("l.q", "F16", 1, 2, 5, 4))},
		{"output", `tensor "l.o": [batch, heads, tokens, head_dim] [1 2 4 4] differs from that of "l.q"`, with(good, zeros("l.o", "F16", 4, 2, 4))},
		{"block map", `tensor "l.block_map": packed sequences (cu_seqlens) take no block map`, with(good, zeros("l.block_map", "BOOL", 1))},
		{"mask", `tensor "l.mask": packed sequences (cu_seqlens) take no mask`, with(good, zeros("l.mask", "BOOL", 1))},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := write(t, t.TempDir(), "a.safetensors", nil, tc.tensors...)
			wantError(t, []string{path}, Options{}, path+": ", tc.want)
		})
	}
}

// FuzzPacked: whatever the bounds are, a dump opens and is read, or says in a line what is
// wrong.
func FuzzPacked(f *testing.F) {
	f.Add(int64(0), int64(2), int64(5), int64(0), int64(3), int64(7), true)
	f.Add(int64(0), int64(5), int64(5), int64(0), int64(7), int64(7), false)
	f.Add(int64(-1), int64(1<<62), int64(5), int64(0), int64(0), int64(7), false)
	f.Fuzz(func(t *testing.T, q0, q1, q2, k0, k1, k2 int64, short bool) {
		dtype := map[bool]string{true: "I32", false: "I64"}[short]
		ts := with(packedLayer(dtype), bound("l.cu_seqlens_q", dtype, q0, q1, q2), bound("l.cu_seqlens_k", dtype, k0, k1, k2))
		d, err := Open([]string{write(t, t.TempDir(), "a.safetensors", nil, ts...)}, Options{})
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r") {
				t.Errorf("error %q is not one line", err)
			}
			return
		}
		defer d.Close()
		tokens := 0
		for i := range d.Layers {
			l := &d.Layers[i]
			tokens += l.Q.Tokens
			x := make([]float32, 4*max(l.Q.Tokens, l.K.Tokens))
			l.Q.Rows(0, 1, 0, l.Q.Tokens, x)
			l.K.Rows(0, 0, 0, l.K.Tokens, x)
			if err := l.Check(); err != nil {
				t.Error(err)
			}
		}
		if tokens != 5 {
			t.Errorf("%d of 5 queries", tokens)
		}
	})
}
