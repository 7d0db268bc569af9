package compare_test

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/metrics"
)

// made is a layer of one batch of heads x tokens x 16 channels, whose elements f makes.
func made(t testing.TB, name string, heads, tokens int, f func(role byte, head, token, channel int) float32) layerdumps.Layer {
	t.Helper()
	const dim = 16
	l := layerdumps.Layer{Name: name}
	for _, x := range []struct {
		role byte
		dst  *layerdumps.Tensor
	}{{'q', &l.Q}, {'k', &l.K}, {'v', &l.V}} {
		data := make([]byte, 0, 2*heads*tokens*dim)
		for h := range heads {
			for n := range tokens {
				for c := range dim {
					data = binary.LittleEndian.AppendUint16(data, uint16(format.FP16.Bits(f(x.role, h, n, c))))
				}
			}
		}
		var err error
		if *x.dst, err = layerdumps.NewTensor(name+"."+string(x.role), format.FP16, [4]int{1, heads, tokens, dim}, data); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// plain values have nothing odd about them.
func plain(_ byte, head, token, channel int) float32 {
	return float32((head*31+token*17+channel*7)%23)/8 - 1.4
}

// TestSuspiciousInputs: inputs that say little about a kernel are told, ordinary ones
// are not.
func TestSuspiciousInputs(t *testing.T) {
	nan := float32(math.NaN())
	for _, tc := range []struct {
		name string
		f    func(role byte, head, token, channel int) float32
		want []string
	}{
		{"plain", plain, nil},
		{"zeros", func(byte, int, int, int) float32 { return 0 }, []string{"q: all elements are zero", "k: all elements are zero", "v: all elements are zero"}},
		{"a head of zeros", func(r byte, h, n, c int) float32 {
			if r == 'k' && h == 1 {
				return 0
			}
			return plain(r, h, n, c)
		}, []string{"k: 1 of 3 heads: all elements are zero"}},
		{"constant", func(r byte, h, n, c int) float32 {
			if r == 'v' {
				return 2
			}
			return plain(r, h, n, c)
		}, []string{"v: every token is the same"}},
		{"every token the same", func(r byte, h, n, c int) float32 {
			if r == 'q' && h == 2 {
				return plain(r, h, 0, c)
			}
			return plain(r, h, n, c)
		}, []string{"q: 1 of 3 heads: every token is the same"}},
		{"outlier", func(r byte, h, n, c int) float32 {
			if r == 'k' && h == 0 && n == 299 && c == 15 {
				return 60000
			}
			return plain(r, h, n, c)
		}, []string{"k: an element of magnitude 6e4, "}},
		{"NaN", func(r byte, h, n, c int) float32 {
			if r == 'q' && h == 0 && n == 5 && c < 2 {
				return nan
			}
			return plain(r, h, n, c)
		}, []string{"q: 2 NaN"}},
	} {
		r := run(t, &layerdumps.Dump{Layers: []layerdumps.Layer{made(t, "l", 3, 300, tc.f)}}, compare.Options{Kernel: kernel(t, "sage2-8b-sm90")})
		v := compare.Judge([]*compare.Result{r}, r.Check(compare.Gates{}))
		var got []string
		for _, f := range v.Findings {
			if f.Kind == compare.SuspiciousInput {
				got = append(got, f.Text)
			}
		}
		if len(got) != len(tc.want) {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
			continue
		}
		for i := range got {
			if !strings.HasPrefix(got[i], tc.want[i]) {
				t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
			}
		}
		if v.Failed {
			t.Errorf("%s: failed without a gate: %+v", tc.name, v)
		}
	}
	// A single token is its own constant.
	r := run(t, &layerdumps.Dump{Layers: []layerdumps.Layer{made(t, "l", 1, 1, plain)}}, compare.Options{Kernel: kernel(t, "sage2-8b-sm90")})
	if s := r.Layers[0].Suspicious; s != nil {
		t.Errorf("one token: %q", s)
	}
}

// TestNaNOfTheKernel: a NaN that the kernel itself makes of its inputs is found, and its
// cause named, but it is no difference.
func TestNaNOfTheKernel(t *testing.T) {
	l := made(t, "l", 1, 200, func(r byte, h, n, c int) float32 {
		if r == 'v' && n == 5 {
			return float32(math.NaN())
		}
		return plain(r, h, n, c)
	})
	v := compare.Judge([]*compare.Result{run(t, &layerdumps.Dump{Layers: []layerdumps.Layer{l}}, compare.Options{Kernel: kernel(t, "sage2-8b-sm90")})}, nil)
	if v.Status != compare.NotFinite || !strings.Contains(v.Lines[0], "not finite: l: the emulated output is NaN or infinite in ") || !strings.HasSuffix(v.Lines[0], ", as v is") {
		t.Errorf("%+v", v)
	}
}

// result makes a result of layers with an actual output of 1000 elements.
func resultOf(layers ...compare.Layer) *compare.Result {
	return &compare.Result{Schema: compare.Schema, Kernel: compare.KernelInfo{Name: "k"}, QueryTile: 64, Layers: layers}
}

func layerOf(name string, cos float64, differ int64) compare.Layer {
	l := compare.Layer{Name: name, Shape: compare.Shape{Batch: 1, Heads: 1, Queries: 100, HeadDim: 10}, ActualRMS: 1}
	l.EmulatedVsReference.CosSim = 0.999
	a := metrics.Values{}
	a.CosSim = l.EmulatedVsReference.CosSim
	setFloat(&a, cos)
	l.ActualVsReference = &a
	l.ActualVsEmulated = &compare.BitValues{Bits: metrics.Bits{Elements: 1000, Mismatched: differ, MaxULP: 3}}
	if differ > 0 {
		l.ActualVsEmulated.First = &metrics.Mismatch{}
		l.Differing = &compare.Extent{Elements: differ, Heads: 1, FirstToken: 70, LastToken: 90, Most: []compare.HeadExtent{{Elements: differ, FirstToken: 70, LastToken: 90}}}
	}
	return l
}

func setFloat(v *metrics.Values, cos float64) {
	b, _ := json.Marshal(cos)
	_ = json.Unmarshal(b, &v.CosSim)
}

// TestVerdictOrder: the worst comes first, each kind takes a line, three lines at the
// most, and the rest is counted.
func TestVerdictOrder(t *testing.T) {
	gate, err := metrics.ParseGate("actual.cos<0.95")
	if err != nil {
		t.Fatal(err)
	}
	spoiled := layerOf("nan", 0.99, 1)
	spoiled.Spoiled = &compare.Extent{Elements: 1, Heads: 1, FirstToken: 3, LastToken: 3, Most: []compare.HeadExtent{{Elements: 1, FirstToken: 3, LastToken: 3}}}
	odd := layerOf("odd", 0.99, 0)
	odd.Suspicious = []string{"q: odd"}
	r := resultOf(odd, layerOf("low", 0.9, 0), layerOf("lower", 0.5, 0), layerOf("few", 0.99, 5), layerOf("more", 0.99, 50), layerOf("other", 0.99, 999), spoiled)
	checks := r.Check(compare.Gates{FailIf: []metrics.Gate{gate}})
	v := compare.Judge([]*compare.Result{r}, checks)
	var got []string
	for _, f := range v.Findings {
		got = append(got, fmt.Sprintf("%s %s", f.Kind, f.Layer))
	}
	want := []string{"not-finite nan", "not-this-kernel other", "differs more", "differs few", "beyond-bound lower", "beyond-bound low", "suspicious-input odd"}
	if !slices.Equal(got, want) {
		t.Errorf("findings %q, want %q", got, want)
	}
	lines := []string{
		"not finite: nan: 1 of 1000 elements (0.1%) of the actual output are NaN or infinite where the emulated one is finite, in head 0 of 1, token 3 (query tile 0)",
		"not this kernel: other: 999 of 1000 elements (99.9%) differ from the emulated ones, though it is this layer's attention (cos_sim 0.990000): another kernel, or other settings",
		"differs in bits: more: 50 of 1000 elements (5%) differ from the emulated ones, in head 0 of 1, tokens 70 to 90 (query tile 1), by up to 3 ulp, cos_sim to the reference 0.990000 in place of 0.999000, and 1 more layer ... and 3 more",
	}
	if !slices.Equal(v.Lines, lines) {
		t.Errorf("lines\n%s\nwant\n%s", strings.Join(v.Lines, "\n"), strings.Join(lines, "\n"))
	}
	if v.Status != compare.NotFinite || !v.Failed || v.FailedChecks != 3 || v.Checks != 14 || v.Layers != 7 || v.Actual != 7 || v.Exact != 3 {
		t.Errorf("%+v", v)
	}
	var failed []string
	for _, c := range compare.Failures(checks) {
		failed = append(failed, c.Layer)
	}
	if !slices.Equal(failed, []string{"nan", "lower", "low"}) {
		t.Errorf("failures %q", failed)
	}
	if p := v.Findings[2].Place; p == nil || p.Tokens != [2]int{70, 90} || *p.Tiles != [2]int{1, 1} {
		t.Errorf("place %+v", p)
	}
	if k := compare.Kind("new"); k.Words() != "new" || compare.WrongLayout.Words() != "wrong layout" {
		t.Error("words of kinds")
	}
	b, err := json.Marshal(v)
	if err != nil || !strings.Contains(string(b), `"status":"not-finite","failed":true,"lines":[`) {
		t.Errorf("%s, %v", b, err)
	}
}

// TestVerdictFine: what was looked at is said, and what was not.
func TestVerdictFine(t *testing.T) {
	none := layerOf("none", 0.99, 0)
	none.ActualVsReference, none.ActualVsEmulated = nil, nil
	for _, tc := range []struct {
		layers []compare.Layer
		want   string
	}{
		{[]compare.Layer{layerOf("a", 0.99, 0)}, "all fine: the layer has an actual output, bit for bit the emulated one (1000 elements); lowest cos_sim 0.999000 (a)"},
		{[]compare.Layer{layerOf("a", 0.99, 0), layerOf("b", 0.99, 0)}, "all fine: all 2 layers have an actual output, bit for bit the emulated one (2000 elements)"},
		{[]compare.Layer{layerOf("a", 0.99, 0), none}, "all fine: 1 of 2 layers has an actual output"},
		{[]compare.Layer{layerOf("a", 0.99, 0), layerOf("b", 0.99, 0), none}, "all fine: 2 of 3 layers have an actual output"},
		{[]compare.Layer{none}, "nothing odd, but no layer has an actual output: what a GPU returns was not checked"},
	} {
		r := resultOf(tc.layers...)
		v := compare.Judge([]*compare.Result{r}, r.Check(compare.Gates{}))
		if v.Status != compare.AllFine || v.Failed || len(v.Lines) != 1 || !strings.HasPrefix(v.Lines[0], tc.want) || v.Findings == nil {
			t.Errorf("%+v, want %q", v, tc.want)
		}
	}
	if v := compare.Judge([]*compare.Result{resultOf()}, nil); len(v.Lines) != 1 || v.Lines[0] != "no layer" {
		t.Errorf("%+v", v)
	}
}

// TestExtent: heads, tokens and tiles of what differs are right, whatever the chunks.
func TestExtent(t *testing.T) {
	d := open(t, sample)
	l := d.Layers[0]
	for _, tc := range []struct {
		name  string
		flips [][3]int // head, token, channel
		want  compare.Extent
	}{
		{"one", [][3]int{{1, 300, 7}}, compare.Extent{Elements: 1, First: metrics.Position{Head: 1, Token: 300, Channel: 7}, FirstToken: 300, LastToken: 300, Heads: 1,
			Most: []compare.HeadExtent{{Head: 1, Elements: 1, FirstToken: 300, LastToken: 300}}}},
		{"over chunks", [][3]int{{0, 255, 63}, {0, 256, 0}, {0, 1023, 1}, {1, 4, 0}}, compare.Extent{Elements: 4, First: metrics.Position{Token: 255, Channel: 63}, FirstToken: 4, LastToken: 1023, Heads: 2,
			Most: []compare.HeadExtent{{Elements: 3, FirstToken: 255, LastToken: 1023}, {Head: 1, Elements: 1, FirstToken: 4, LastToken: 4}}}},
		{"most first", [][3]int{{0, 9, 9}, {1, 8, 8}, {1, 8, 9}}, compare.Extent{Elements: 3, First: metrics.Position{Token: 9, Channel: 9}, FirstToken: 8, LastToken: 9, Heads: 2,
			Most: []compare.HeadExtent{{Head: 1, Elements: 2, FirstToken: 8, LastToken: 8}, {Elements: 1, FirstToken: 9, LastToken: 9}}}},
	} {
		for _, infinite := range []bool{false, true} {
			b := slices.Clone(l.O.Bytes())
			for _, f := range tc.flips {
				i := 2 * ((f[0]*l.Q.Tokens+f[1])*l.Q.Dim + f[2])
				b[i] ^= 1
				if infinite {
					b[i], b[i+1] = 0, 0xfc
				}
			}
			o, err := layerdumps.NewTensor("l.o", format.FP16, l.Q.Shape(), b)
			if err != nil {
				t.Fatal(err)
			}
			x := l
			x.O = &o
			for _, jobs := range []int{1, 3} {
				r := run(t, &layerdumps.Dump{Layers: []layerdumps.Layer{x}}, compare.Options{Kernel: kernel(t, "sage2-8b-sm90"), Jobs: jobs})
				same := func(e *compare.Extent) bool { return e != nil && fmt.Sprint(*e) == fmt.Sprint(tc.want) }
				if !same(r.Layers[0].Differing) {
					t.Errorf("%s: %+v, want %+v", tc.name, r.Layers[0].Differing, tc.want)
				}
				if infinite && !same(r.Layers[0].Spoiled) || !infinite && r.Layers[0].Spoiled != nil {
					t.Errorf("%s: spoiled %+v", tc.name, r.Layers[0].Spoiled)
				}
			}
		}
	}
}
