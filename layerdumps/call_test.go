package layerdumps

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/x448/float16"

	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

// fp8Layer is a layer of zeros of E4M3 with two batch entries, four heads and two kv heads.
func fp8Layer(dtype string) []safetensors.Tensor {
	return []safetensors.Tensor{
		zeros("l0.q", dtype, 2, 4, 3, 4), zeros("l0.k", dtype, 2, 2, 5, 4), zeros("l0.v", dtype, 2, 2, 5, 4),
	}
}

// floats is an FP32 tensor.
func floats(name string, shape []int, values ...float32) safetensors.Tensor {
	var b []byte
	for _, x := range values {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return safetensors.Tensor{Name: name, DType: "F32", Shape: shape, Data: b}
}

func TestCallErrors(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	good, fp8 := layer("l0"), fp8Layer("F8_E4M3")
	for _, tc := range []struct {
		name     string
		tensors  []safetensors.Tensor
		metadata map[string]string
		opt      Options
		want     string
	}{
		{name: "mask of integers", tensors: with(good, zeros("l0.mask", "I64", 3, 5)), want: `tensor "l0.mask": a mask of dtype I64 is neither boolean nor FP16, BF16 or FP32`},
		{name: "mask of FP8", tensors: with(good, zeros("l0.mask", "F8_E4M3", 3, 5)), want: `a mask of dtype F8_E4M3 is neither`},
		{name: "mask of no dimension", tensors: with(good, zeros("l0.mask", "BOOL")), want: `tensor "l0.mask": has 0 dimensions, []; want [batch, heads, queries, keys] or the last of these`},
		{name: "mask of five dimensions", tensors: with(good, zeros("l0.mask", "BOOL", 1, 1, 1, 3, 5)), want: `has 5 dimensions`},
		{name: "keys of the mask", tensors: with(good, zeros("l0.mask", "BOOL", 3, 4)), want: `tensor "l0.mask": [3 4] is not broadcast to [batch, heads, queries, keys] [1 2 3 5]`},
		{name: "no key", tensors: with(good, zeros("l0.mask", "BOOL", 3, 0)), want: `[3 0] is not broadcast`},
		{name: "heads of the mask", tensors: with(good, zeros("l0.mask", "F16", 3, 3, 5)), want: `[3 3 5] is not broadcast`},
		{name: "mask in the other layout", tensors: with(good, zeros("l0.k", "F16", 1, 3, 6, 4), zeros("l0.v", "F16", 1, 3, 6, 4), zeros("l0.q", "F16", 1, 3, 6, 4), zeros("l0.mask", "F16", 3, 3)), want: `[3 3] is not broadcast to [batch, heads, queries, keys] [1 3 6 6]; it fits layout NHD`},
		{name: "two masks", tensors: with(good, zeros("l0.mask", "F16", 3, 5), zeros("l0.attn_mask", "F16", 3, 5)), want: `tensors "l0.mask" and "l0.attn_mask" are both mask of layer "l0"`},
		{name: "window of one", tensors: good, metadata: map[string]string{"window": "5"}, want: `metadata: window "5" is not LEFT,RIGHT`},
		{name: "window of words", tensors: good, metadata: map[string]string{"window": "a,b"}, want: `window "a,b" is not`},
		{name: "window below", tensors: good, metadata: map[string]string{"window": "-2,0"}, want: `window "-2,0" is not`},
		{name: "window far", tensors: good, metadata: map[string]string{"window": "4294967296,0"}, want: `window "4294967296,0" is not`},
		{name: "softcap below", tensors: good, metadata: map[string]string{"softcap": "-1"}, want: `metadata: softcap "-1" is not a finite number of at least 0`},
		{name: "softcap NaN", tensors: good, metadata: map[string]string{"softcap": "NaN"}, want: `softcap "NaN" is not`},
		{name: "softcap of FP64", tensors: good, metadata: map[string]string{"softcap": "1e300"}, want: `softcap "1e300" is not`},
		{name: "softcap of nothing", tensors: good, metadata: map[string]string{"softcap": "1e-300"}, want: `softcap "1e-300" is not`},
		{name: "align", tensors: good, metadata: map[string]string{"causal_align": "left"}, want: `causal_align "left" is neither top-left nor bottom-right`},
		{name: "two windows", tensors: good, metadata: map[string]string{"window": "1,2", "window_size": "2,1"}, want: `window is "1,2" and window_size is "2,1"`},
		{name: "another name for a window", tensors: good, metadata: map[string]string{"sliding_window": "4"}, want: `unknown name "sliding_window" ("4"): if that is window, call it so, or give --window`},
		{name: "a misspelt window", tensors: good, metadata: map[string]string{"windw": "4,4"}, want: `unknown name "windw" ("4,4"): if that is window`},
		{name: "another name for a soft cap", tensors: good, metadata: map[string]string{"attn_logit_softcapping": "50"}, want: `if that is softcap, call it so, or give --softcap`},
		{name: "other FP8", tensors: with(good, zeros("l0.q", "F8_E4M3FNUZ", 1, 2, 3, 4)), want: `tensor "l0.q": dtype F8_E4M3FNUZ is another FP8 than E4M3 and E5M2`},
		{name: "FP8 output", tensors: with(fp8, zeros("l0.o", "F8_E4M3", 2, 4, 3, 4)), want: `tensor "l0.o": dtype F8_E4M3 is not FP16, BF16 or FP32`},
		{name: "two FP8", tensors: with(fp8, zeros("l0.v", "F8_E5M2", 2, 2, 5, 4)), want: `tensor "l0.v": dtype E5M2 differs from that of "l0.q", E4M3`},
		{name: "a scale of FP16", tensors: with(good, floats("l0.q_descale", []int{1}, 1)), want: `tensor "l0.q_descale": a scale of FP8 codes, and "l0.q" is FP16`},
		{name: "dtype of a scale", tensors: with(fp8, zeros("l0.k_descale", "F16", 2, 2)), want: `tensor "l0.k_descale": dtype F16 is not FP32`},
		{name: "shape of a scale", tensors: with(fp8, floats("l0.k_descale", []int{2, 4}, 1, 1, 1, 1, 1, 1, 1, 1)), want: `tensor "l0.k_descale": has shape [2 4]; want [batch, kv heads], [2 2], [heads], [2], or one number`},
		{name: "shape of Q's scale", tensors: with(fp8, floats("l0.q_descale", []int{3}, 1, 1, 1)), want: `tensor "l0.q_descale": has shape [3]; want [batch, kv heads], [2 2], [batch, query heads], [2 4], [heads], [4], or one number`},
		{name: "no scale", tensors: with(fp8, floats("l0.k_descale", []int{0})), want: `has shape [0]; want`},
		{name: "scale NaN", tensors: with(fp8, floats("l0.v_descale", []int{2, 2}, 1, 2, nan, 1)), want: `tensor "l0.v_descale": element 2 is NaN, not a positive, finite number`},
		{name: "scale Inf", tensors: with(fp8, floats("l0.v_descale", nil, inf)), want: `element 0 is +Inf, not`},
		{name: "scale zero", tensors: with(fp8, floats("l0.q_descale", []int{1}, 0)), want: `element 0 is 0, not`},
		{name: "scale below", tensors: with(fp8, floats("l0.q_descale", []int{1, 1}, -1)), want: `element 0 is -1, not`},
		{name: "block map of FP16", tensors: with(good, zeros("l0.block_map", "F16", 1, 2, 1, 1)), want: `tensor "l0.block_map": dtype F16 is not BOOL or U8`},
		{name: "block map of three dimensions", tensors: with(good, zeros("l0.block_map", "BOOL", 2, 1, 1)), want: `tensor "l0.block_map": has 3 dimensions, [2 1 1]; want [batch, heads, blocks of queries, blocks of keys]`},
		{name: "heads of a block map", tensors: with(good, zeros("l0.block_map", "BOOL", 1, 1, 1, 1)), want: `tensor "l0.block_map": [1 1 1 1] are no blocks [batch, heads, blocks of queries, blocks of keys] of scores [1 2 3 5]`},
		{name: "block map without blocks", tensors: with(good, zeros("l0.block_map", "BOOL", 1, 2, 1, 0)), want: `[1 2 1 0] are no blocks`},
		{name: "block map of more than there is", tensors: with(good, zeros("l0.block_map", "BOOL", 1, 2, 3, 6)), want: `[1 2 3 6] are no blocks`},
		{name: "a row without blocks", tensors: with(good, safetensors.Tensor{Name: "l0.block_map", DType: "BOOL", Shape: []int{1, 2, 2, 3}, Data: []byte{1, 0, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1}}),
			want: `tensor "l0.block_map": batch 0, head 1: no block of keys is listed for block 0 of queries, whose output no kernel writes`},
		{name: "head_dim", tensors: with(good, zeros("l0.q", "F16", 1, 2, 3, 257)), want: `head_dim is 257; the kernels support up to 256`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := write(t, t.TempDir(), "a.safetensors", tc.metadata, tc.tensors...)
			wantError(t, []string{path}, tc.opt, path+": ", tc.want)
		})
	}
}

// TestBlockMap reads a block map, which counts in the digest.
func TestBlockMap(t *testing.T) {
	data := []byte{1, 0, 0, 0, 1, 0, 2, 1, 0, 0, 0, 1}
	digests := map[string]string{}
	for name, ts := range map[string][]safetensors.Tensor{
		"bool":  {{Name: "l0.block_map", DType: "BOOL", Shape: []int{1, 2, 2, 3}, Data: bytes.ReplaceAll(data, []byte{2}, []byte{1})}},
		"u8":    {{Name: "l0.block_map", DType: "U8", Shape: []int{1, 2, 2, 3}, Data: data}},
		"other": {{Name: "l0.block_map", DType: "U8", Shape: []int{1, 2, 2, 3}, Data: bytes.Repeat([]byte{1}, 12)}},
		"none":  nil,
	} {
		dir := t.TempDir()
		paths := []string{write(t, dir, "q.safetensors", nil, layer("l0")...)}
		if ts != nil {
			paths = append(paths, write(t, dir, "map.safetensors", nil, ts...))
		}
		l := &open(t, Options{}, paths...).Layers[0]
		sum, err := l.Digest(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		digests[name] = sum
		if ts == nil || name == "other" {
			continue
		}
		m := l.BlockMap
		if m == nil || m.Shape != [4]int{1, 2, 2, 3} || m.Listed != 5 || !strings.Contains(l.Source, "map.safetensors") {
			t.Fatalf("%s: %+v of %s", name, m, l.Source)
		}
		got := make([]bool, 2)
		m.List(0, 1, 0, 0, 2, got)
		if !got[0] || !got[1] {
			t.Errorf("%s: head 1, block 0 lists %v", name, got)
		}
		if m.List(0, 1, 1, 1, 3, got); got[0] || !got[1] {
			t.Errorf("%s: head 1, block 1 lists %v from block 1 on", name, got)
		}
		if want := "block map 1x2x2x3, 41.7% listed (the reference is dense)"; strings.Join(l.Call().Parts(), ", ") != want {
			t.Errorf("%s: %q, want %q", name, l.Call().Parts(), want)
		}
		if other := l.Reread(); other != nil {
			t.Errorf("%s: in the other layout the map has no meaning, and %v is read", name, other.Q.Shape())
		}
	}
	if digests["bool"] != digests["u8"] || digests["u8"] == digests["other"] || digests["u8"] == digests["none"] || digests["none"] == digests["other"] {
		t.Errorf("digests %v", digests)
	}
}

// TestMask reads masks of every kind and of every shape that is broadcast.
func TestMask(t *testing.T) {
	full := [4]int{2, 4, 3, 5}
	for _, dtype := range []string{"BOOL", "F16", "BF16", "F32"} {
		for _, shape := range [][]int{{2, 4, 3, 5}, {1, 4, 3, 5}, {2, 1, 1, 5}, {4, 1, 5}, {3, 5}, {3, 1}, {1, 1, 3, 1}, {5}, {1}} {
			t.Run(fmt.Sprint(dtype, shape), func(t *testing.T) {
				padded := [4]int{1, 1, 1, 1}
				copy(padded[4-len(shape):], shape)
				n := padded[0] * padded[1] * padded[2] * padded[3]
				// Element i is i+1, or for a boolean whether i is even.
				var data []byte
				for i := range n {
					switch x := float32(i + 1); dtype {
					case "BOOL":
						data = append(data, byte(1-i%2))
					case "F16":
						data = binary.LittleEndian.AppendUint16(data, float16.Fromfloat32(x).Bits())
					case "BF16":
						data = binary.LittleEndian.AppendUint16(data, uint16(math.Float32bits(x)>>16))
					default:
						data = binary.LittleEndian.AppendUint32(data, math.Float32bits(x))
					}
				}
				ts := []safetensors.Tensor{
					zeros("l.q", "F16", 2, 4, 3, 4), zeros("l.k", "F16", 2, 2, 5, 4), zeros("l.v", "F16", 2, 2, 5, 4),
					{Name: "l.mask", DType: dtype, Shape: shape, Data: data},
				}
				dir := t.TempDir()
				l := &open(t, Options{}, write(t, dir, "q.safetensors", nil, ts[:3]...), write(t, dir, "mask.safetensors", nil, ts[3])).Layers[0]
				m := l.Mask
				if m == nil || m.Boolean != (dtype == "BOOL") || m.Shape != padded || !strings.Contains(l.Source, "mask.safetensors") {
					t.Fatalf("mask %+v of %s", m, l.Source)
				}
				see, bias := make([]bool, 5), make([]float32, 5)
				for i := range full[0] * full[1] * full[2] {
					b, h, q := i/12, i/3%4, i%3
					for lo := range 5 {
						for j := lo; j < 5; j++ {
							at := ((b%padded[0]*padded[1]+h%padded[1])*padded[2]+q%padded[2])*padded[3] + j%padded[3]
							if m.Boolean {
								if m.Visible(b, h, q, lo, 5, see); see[j-lo] != (at%2 == 0) {
									t.Fatalf("batch %d, head %d, query %d, key %d: %v", b, h, q, j, see[j-lo])
								}
							} else if m.Bias(b, h, q, lo, 5, bias); bias[j-lo] != float32(at+1) {
								t.Fatalf("batch %d, head %d, query %d, key %d: %v, want %d", b, h, q, j, bias[j-lo], at+1)
							}
						}
					}
				}
				st, err := m.Stats(func() error { return nil })
				if err != nil || st.Elements != int64(n) || m.Boolean && st.Hidden != int64(n/2) {
					t.Errorf("stats %+v, %v", st, err)
				}
			})
		}
	}
}

// TestMaskNotes: rows that see nothing and NaN are told.
func TestMaskNotes(t *testing.T) {
	inf, nan := float32(math.Inf(-1)), float32(math.NaN())
	for _, tc := range []struct {
		mask safetensors.Tensor
		want string
	}{
		{safetensors.Tensor{Name: "l0.mask", DType: "BOOL", Shape: []int{3, 5}, Data: slices.Concat([]byte{0, 0, 0, 0, 1}, make([]byte, 5), bytes.Repeat([]byte{1}, 5))}, "mask: 1 of its 3 rows see no key; the reference has zeros there"},
		{zeros("l0.mask", "BOOL", 3, 5), "mask: it hides every key from every row"},
		{floats("l0.mask", []int{2, 1, 5}, inf, inf, inf, inf, inf, 0, nan, nan, inf, 1), "mask: 1 of its 2 rows see no key; the reference has zeros there|mask: 2 of 10 elements are NaN"},
		{floats("l0.mask", []int{5}, 1, 2, 3, 4, inf), ""},
	} {
		d := open(t, Options{}, write(t, t.TempDir(), "a.safetensors", nil, with(layer("l0"), tc.mask)...))
		st, err := d.Layers[0].Mask.Stats(func() error { return nil })
		if got := strings.Join(st.Notes(), "|"); err != nil || got != tc.want {
			t.Errorf("%q, %v; want %q", got, err, tc.want)
		}
	}
}

// TestCall: metadata and options of a call, options first.
func TestCall(t *testing.T) {
	path := write(t, t.TempDir(), "a.safetensors", map[string]string{"window_size": "(3, -1)", "softcap": "30", "causal_align": "bottom_right"}, layer("l0")...)
	l := &open(t, Options{}, path).Layers[0]
	if got := strings.Join(l.Call().Parts(), "; "); got != "window 3,-1; softcap 30; aligned bottom-right" {
		t.Error(got)
	}
	none, align := 0.0, ""
	l = &open(t, Options{Window: &Window{-1, -1}, Softcap: &none, CausalAlign: &align}, path).Layers[0]
	if c := l.Call(); c != nil || c.Parts() != nil {
		t.Errorf("%+v", c)
	}
}

// TestFP8 reads every code, and the scales.
func TestFP8(t *testing.T) {
	for _, dtype := range []string{"F8_E4M3", "F8_E5M2"} {
		codes := make([]byte, 256)
		for i := range codes {
			codes[i] = byte(i)
		}
		q := safetensors.Tensor{Name: "l.q", DType: dtype, Shape: []int{1, 4, 64, 1}, Data: codes}
		ts := []safetensors.Tensor{q, {Name: "l.k", DType: dtype, Shape: []int{1, 2, 128, 1}, Data: codes}, {Name: "l.v", DType: dtype, Shape: []int{1, 2, 128, 1}, Data: codes},
			floats("l.k_descale", []int{1, 2}, 2, 3), floats("l.q_descale", nil, 0.5)}
		l := &open(t, Options{}, write(t, t.TempDir(), "a.safetensors", nil, ts...)).Layers[0]
		x, bits := make([]float32, 64), make([]uint32, 64)
		for h := range 4 {
			l.Q.Rows(0, h, 0, 64, x)
			l.Q.RowsBits(0, h, 0, 64, bits)
			for i := range x {
				if want := fp8(dtype, byte(64*h+i)); x[i] != want && (x[i] == x[i] || want == want) || bits[i] != uint32(64*h+i) {
					t.Errorf("%s code %#x is %v, want %v", dtype, bits[i], x[i], want)
				}
			}
		}
		got := []float32{l.Descale(&l.Q, 0, 1), l.Descale(&l.K, 0, 0), l.Descale(&l.K, 0, 1), l.Descale(&l.V, 0, 1)}
		if !slices.Equal(got, []float32{0.5, 2, 3, 1}) {
			t.Errorf("scales %v", got)
		}
		if got := strings.Join(l.Call().Parts(), "; "); got != "descale q k" {
			t.Error(got)
		}
	}
}

// TestScales: a scale is of a kv head, of a head of the tensor itself, in one batch entry or in
// all, or of everything. In the other layout those of heads are of no head.
func TestScales(t *testing.T) {
	for _, tc := range []struct {
		shape  []int
		values []float32
		want   []float32 // [batch][query heads]
		reread bool
	}{
		{[]int{2, 2}, []float32{1, 2, 3, 4}, []float32{1, 1, 2, 2, 3, 3, 4, 4}, false},
		{[]int{2, 4}, []float32{1, 2, 3, 4, 5, 6, 7, 8}, []float32{1, 2, 3, 4, 5, 6, 7, 8}, false},
		{[]int{4}, []float32{1, 2, 3, 4}, []float32{1, 2, 3, 4, 1, 2, 3, 4}, false},
		{[]int{1}, []float32{5}, []float32{5, 5, 5, 5, 5, 5, 5, 5}, true},
		{nil, []float32{5}, []float32{5, 5, 5, 5, 5, 5, 5, 5}, true},
	} {
		ts := []safetensors.Tensor{
			zeros("l.q", "F8_E4M3", 2, 4, 6, 4), zeros("l.k", "F8_E4M3", 2, 2, 6, 4), zeros("l.v", "F8_E4M3", 2, 2, 6, 4),
			floats("l.q_descale", tc.shape, tc.values...),
		}
		l := &open(t, Options{}, write(t, t.TempDir(), "a.safetensors", nil, ts...)).Layers[0]
		var got []float32
		for i := range 8 {
			got = append(got, l.Descale(&l.Q, i/4, i%4))
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%v: %v, want %v", tc.shape, got, tc.want)
		}
		other := l.Reread()
		if (other != nil) != tc.reread {
			t.Errorf("%v: reread %v", tc.shape, other)
		}
		if other != nil && other.Descale(&other.Q, 1, 5) != 5 {
			t.Errorf("%v: reread, the scale is %v", tc.shape, other.QDescale)
		}
	}
}

// fp8 is the value of a code by its definition (OCP OFP8 1.0).
func fp8(dtype string, c byte) float32 {
	fraction, bias := 3, 7
	if dtype == "F8_E5M2" {
		fraction, bias = 2, 15
	}
	e, m := int(c&0x7f)>>fraction, int(c)&(1<<fraction-1)
	x := math.Ldexp(float64(m), 1-bias-fraction)
	switch {
	case dtype == "F8_E4M3" && c&0x7f == 0x7f, dtype == "F8_E5M2" && e == 31 && m != 0:
		x = math.NaN()
	case dtype == "F8_E5M2" && e == 31:
		x = math.Inf(1)
	case e > 0:
		x = math.Ldexp(float64(m+1<<fraction), e-bias-fraction)
	}
	if c&0x80 != 0 {
		x = -x
	}
	return float32(x)
}

// FuzzBlockMap: whatever a block map is, a dump opens and every block of queries lists one, or a
// line says what is wrong.
func FuzzBlockMap(f *testing.F) {
	f.Add("BOOL", uint8(1), uint8(2), uint8(2), uint8(3), []byte{1, 0, 1})
	f.Add("U8", uint8(1), uint8(2), uint8(3), uint8(5), []byte{7})
	f.Add("U8", uint8(1), uint8(2), uint8(1), uint8(1), []byte{0})
	f.Add("F16", uint8(0), uint8(2), uint8(4), uint8(1), []byte{})
	f.Fuzz(func(t *testing.T, dtype string, batch, heads, queries, keys uint8, data []byte) {
		width := map[string]int{"BOOL": 1, "U8": 1, "F16": 2}[dtype]
		if width == 0 {
			return
		}
		shape := []int{int(batch % 3), int(heads % 4), int(queries % 6), int(keys % 8)}
		m := safetensors.Tensor{Name: "l0.block_map", DType: dtype, Shape: shape, Data: make([]byte, width*shape[0]*shape[1]*shape[2]*shape[3])}
		for i := range m.Data {
			if len(data) > 0 {
				m.Data[i] = data[i%len(data)]
			}
		}
		path := filepath.Join(t.TempDir(), "a.safetensors")
		if err := safetensors.Write(path, nil, append(layer("l0"), m)); err != nil {
			t.Fatal(err)
		}
		d, err := Open([]string{path}, Options{})
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r") {
				t.Errorf("error %q is not one line", err)
			}
			return
		}
		defer d.Close()
		l := &d.Layers[0]
		for h := range l.Q.Heads {
			for q := range l.BlockMap.Shape[2] {
				listed := make([]bool, l.BlockMap.Shape[3])
				if l.BlockMap.List(0, h, q, 0, len(listed), listed); !slices.Contains(listed, true) {
					t.Errorf("head %d, block %d lists nothing", h, q)
				}
			}
		}
		if err := l.Check(); err != nil {
			t.Error(err)
		}
	})
}

// FuzzCall: whatever a mask, a scale and metadata are, a dump opens and is read, or says in
// a line what is wrong.
func FuzzCall(f *testing.F) {
	f.Add("BOOL", uint8(3), uint8(5), uint8(2), "3,4", "30", "F32", uint8(1), []byte{1, 0, 1})
	f.Add("F32", uint8(1), uint8(1), uint8(4), "(1, -1)", "1e9", "F32", uint8(2), []byte{0, 0, 0x80, 0x7f})
	f.Add("BF16", uint8(0), uint8(200), uint8(5), "", "", "F16", uint8(0), []byte{})
	f.Fuzz(func(t *testing.T, dtype string, rows, keys, dims uint8, window, softcap, scaleType string, scales uint8, data []byte) {
		fill := func(x safetensors.Tensor) safetensors.Tensor {
			for i := range x.Data {
				if len(data) > 0 {
					x.Data[i] = data[i%len(data)]
				}
			}
			return x
		}
		sizes := map[string]bool{"BOOL": true, "I8": true, "F16": true, "BF16": true, "F32": true, "F64": true, "I64": true, "F8_E4M3": true}
		if !sizes[dtype] || !sizes[scaleType] {
			return
		}
		shape := []int{1, 1, 1, int(rows), int(keys)}[5-min(5, int(dims%6)):]
		ts := append(fp8Layer("F8_E4M3"), fill(zeros("l0.mask", dtype, shape...)), fill(zeros("l0.k_descale", scaleType, int(scales%3), int(scales/3))))
		path := filepath.Join(t.TempDir(), "a.safetensors")
		if err := safetensors.Write(path, map[string]string{"window": window, "softcap": softcap}, ts); err != nil {
			return // no metadata
		}
		d, err := Open([]string{path}, Options{})
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r") {
				t.Errorf("error %q is not one line", err)
			}
			return
		}
		defer d.Close()
		l := &d.Layers[0]
		see, bias := make([]bool, l.K.Tokens), make([]float32, l.K.Tokens)
		for i := range l.Q.Tokens {
			if m := l.Mask; m.Boolean {
				m.Visible(1, 3, i, 0, l.K.Tokens, see)
			} else {
				m.Bias(1, 3, i, 0, l.K.Tokens, bias)
			}
		}
		if s := l.Descale(&l.K, 1, 1); !(s > 0) {
			t.Errorf("scale %v", s)
		}
		if err := l.Check(); err != nil {
			t.Error(err)
		}
	})
}
