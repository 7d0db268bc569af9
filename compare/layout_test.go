package compare_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

// exchanged is a tensor's elements, of two bytes, with heads and tokens exchanged.
func exchanged(b []byte, heads, tokens, dim int) []byte {
	out := make([]byte, 0, len(b))
	for n := range tokens {
		for h := range heads {
			out = append(out, b[2*(h*tokens+n)*dim:][:2*dim]...)
		}
	}
	return out
}

// TestDoubtLayouts: a dump in [batch, tokens, heads, head_dim] that does not say so is
// found out, by its output or by having fewer tokens than heads; one that says so, or
// that is what it is taken for, is not.
func TestDoubtLayouts(t *testing.T) {
	d := open(t, sample)
	l := &d.Layers[0]
	shape := l.Q.Shape()
	heads, tokens, dim := shape[1], shape[2], shape[3]
	// dump writes the layer's first so many tokens, with or without its output.
	dump := func(n int, swap, output bool, metadata map[string]string, opt layerdumps.Options) *layerdumps.Dump {
		var ts []safetensors.Tensor
		for _, x := range []struct {
			name string
			t    *layerdumps.Tensor
		}{{"l.q", &l.Q}, {"l.k", &l.K}, {"l.v", &l.V}, {"l.o", l.O}} {
			if x.name == "l.o" && !output {
				continue
			}
			var b []byte
			for h := range heads {
				b = append(b, x.t.Bytes()[2*h*tokens*dim:][:2*n*dim]...)
			}
			s := []int{1, heads, n, dim}
			if swap {
				b, s = exchanged(b, heads, n, dim), []int{1, n, heads, dim}
			}
			ts = append(ts, safetensors.Tensor{Name: x.name, DType: "F16", Shape: s, Data: b})
		}
		m := map[string]string{"causal": "true"}
		for k, v := range metadata {
			m[k] = v
		}
		path := t.TempDir() + "/d.safetensors"
		if err := safetensors.Write(path, m, ts); err != nil {
			t.Fatal(err)
		}
		out, err := layerdumps.Open([]string{path}, opt)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { out.Close() })
		return out
	}
	hnd := layerdumps.HND
	for _, tc := range []struct {
		name         string
		tokens       int
		swap, output bool
		metadata     map[string]string
		opt          layerdumps.Options
		want         string
	}{
		{"right", 64, false, true, nil, layerdumps.Options{}, ""},
		{"right, no output", 64, false, false, nil, layerdumps.Options{}, ""},
		{"right, one token", 1, false, true, nil, layerdumps.Options{}, ""},
		{"one token, no output", 1, false, false, nil, layerdumps.Options{}, `"l.k" has 2 heads of 1 tokens`},
		{"exchanged", 64, true, true, nil, layerdumps.Options{}, "read as [batch, heads, tokens, head_dim] its output is not that of its q, k and v (cos_sim "},
		{"exchanged, no output", 64, true, false, nil, layerdumps.Options{}, `"l.k" has 64 heads of 2 tokens, which is likely [batch, tokens, heads, head_dim]`},
		{"exchanged and labelled", 64, true, true, map[string]string{"layout": "NHD"}, layerdumps.Options{}, ""},
		{"exchanged, but insisted on", 64, true, true, nil, layerdumps.Options{Layout: &hnd}, ""},
	} {
		doubts, err := compare.DoubtLayouts(t.Context(), dump(tc.tokens, tc.swap, tc.output, tc.metadata, tc.opt))
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if len(doubts) > 0 {
			got = doubts[0].Layer + ": " + doubts[0].Text
		}
		if !strings.Contains(got, tc.want) || tc.want == "" && got != "" {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

// TestMisplaced: the right values in another order are found.
func TestMisplaced(t *testing.T) {
	d := open(t, sample)
	l := d.Layers[0]
	right := l.O.Bytes()
	heads, tokens, dim := l.Q.Heads, l.Q.Tokens, l.Q.Dim
	head := 2 * tokens * dim
	transposed := func() []byte {
		out := make([]byte, len(right))
		for h := range heads {
			for n := range tokens {
				for c := range dim {
					copy(out[h*head+2*(c*tokens+n):][:2], right[h*head+2*(n*dim+c):])
				}
			}
		}
		return out
	}
	zero := make([]byte, 2*dim)
	for _, tc := range []struct {
		name string
		o    []byte
		want string
	}{
		{"right", right, ""},
		{"the other order", exchanged(right, heads, tokens, dim), "the actual output holds the right values in the memory order of the other layout"},
		{"transposed", transposed(), "each head of the actual output is transposed, [head_dim, tokens]"},
		{"a token late", append(slices.Clone(zero), right[:len(right)-2*dim]...), "the actual output is shifted: the values of a token are in the one after it"},
		{"a token early", append(slices.Clone(right[2*dim:]), zero...), "the actual output is shifted: the values of a token are in the one before it"},
		{"other heads", append(slices.Clone(right[head:]), right[:head]...), "the actual output has the right values in other heads: those of head 0 are in head 1"},
		{"nowhere", exchanged(transposed(), heads, tokens, dim), ""},
	} {
		o, err := layerdumps.NewTensor("l.o", format.FP16, l.Q.Shape(), tc.o)
		if err != nil {
			t.Fatal(err)
		}
		x := l
		x.O = &o
		r := run(t, &layerdumps.Dump{Layers: []layerdumps.Layer{x}}, compare.Options{Kernel: kernel(t, "sage2-8b-sm90")})
		if got := r.Layers[0].Misplaced; got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
		v := compare.Judge([]*compare.Result{r}, nil)
		found := slices.ContainsFunc(v.Findings, func(f compare.Finding) bool { return f.Kind == compare.WrongLayout && f.Text == tc.want })
		if found != (tc.want != "") {
			t.Errorf("%s: %+v", tc.name, v)
		}
	}
	// All of it in the other layout, and said to be in this one.
	x := l.Reread()
	r := run(t, &layerdumps.Dump{Layers: []layerdumps.Layer{*x}}, compare.Options{Kernel: kernel(t, "sage2-8b-sm90")})
	if got := r.Layers[0].Misplaced; !strings.HasPrefix(got, "with heads and tokens of all its tensors exchanged") {
		t.Errorf("%q", got)
	}
	// Two layers with each other's output: the second's is computed here.
	x1 := d.Layers[1]
	x1.O = l.O
	r = run(t, &layerdumps.Dump{Layers: []layerdumps.Layer{d.Layers[0], x1}}, compare.Options{Kernel: kernel(t, "sage2-8b-sm90")})
	if got := r.Layers[1].Misplaced; got != "the actual output is that of layers.0.attn" {
		t.Errorf("%q", got)
	}
}
