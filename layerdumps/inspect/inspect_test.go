package inspect

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/internal/jsonfloat"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

// tensor is an FP32 tensor of [1, heads, tokens, dim] whose elements value
// gives.
func tensor(name string, heads, tokens, dim int, value func(head, token, channel int) float32) safetensors.Tensor {
	var data []byte
	for i := range heads * tokens * dim {
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(value(i/dim/tokens, i/dim%tokens, i%dim)))
	}
	return safetensors.Tensor{Name: name, DType: "F32", Shape: []int{1, heads, tokens, dim}, Data: data}
}

// wave has no bias and no warning over an even number of tokens.
func wave(_, token, channel int) float32 {
	return float32(channel+1) * float32(1-2*(token%2))
}

func open(t *testing.T, path string) *layerdumps.Dump {
	t.Helper()
	d, err := layerdumps.Open([]string{path}, layerdumps.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// inspect describes a dump of the tensors.
func inspect(t *testing.T, metadata map[string]string, ts ...safetensors.Tensor) *Result {
	t.Helper()
	path := filepath.Join(t.TempDir(), "d.safetensors")
	if err := safetensors.Write(path, metadata, ts); err != nil {
		t.Fatal(err)
	}
	r, err := Dump(t.Context(), open(t, path))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// near checks a number against one that was computed elsewhere.
func near(t *testing.T, what string, got jsonfloat.Float, want float64) {
	t.Helper()
	if g := float64(got); !(math.Abs(g-want) <= 1e-9*math.Abs(want)) && g != want {
		t.Errorf("%s: %v, want %v", what, g, want)
	}
}

// TestSample compares with what NumPy computes from the definitions, in
// float64, for layer 3 of the sample dump.
func TestSample(t *testing.T) {
	r, err := Dump(t.Context(), open(t, filepath.Join("..", "testdata", "byte-lm-sample.safetensors")))
	if err != nil {
		t.Fatal(err)
	}
	if r.Schema != "sageacc/inspect/v1" || len(r.Layers) != 2 || r.Layers[0].O == nil {
		t.Fatalf("got %+v", r)
	}
	if o := r.Layers[0].O; o.Smoothing != nil || o.Verdict != "" || o.AbsMax == 0 {
		t.Errorf("o is %+v", o)
	}
	l := r.Layers[1]
	if l.Name != "layers.3.attn" || !l.Causal || l.SMScale != 0.125 || l.O != nil || len(l.Warnings) != 0 {
		t.Errorf("layer %+v", l)
	}
	for _, tc := range []struct {
		name                                               string
		got                                                Tensor
		rms, mean                                          float64
		subnormals                                         int
		bias, biasMax, outlier, ratio, before, after, gain float64
		gainWorst                                          float64
		channel, worst                                     int
		verdict                                            string
	}{
		{"q", l.Q, 1.12269607345, -0.00624977645111, 4, 0.28522173007028784, 0.29463872052712414, 2.2508736848831177, 0.6909156634653215,
			7.40625, 4.9060342609882355, 1.4716760880012971, 1.4337316544149323, 40, 1, "smooth Q helps: step 1.47x finer"},
		{"k", l.K, 1.24427780177, -0.0483190856294, 2, 0.3427038152769311, 0.4402380429868451, -3.225760780274868, 0.8358246556177795,
			8.3125, 8.230940755456686, 1.0068218907991753, 1.0037349209994881, 41, 1, "smooth K changes little: step 1.01x finer"},
		{"v", l.V, 0.69800722902, -0.0050669267066, 7, 0.19760994173402463, 0.20422882957461336, -0.42160776257514954, 0.16157423236412916,
			3.390625, 3.5093954278018806, 0.9389900835578815, 0.9118237251982172, 58, 1, "smooth V changes little: channel step as before"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			x, s := tc.got, tc.got.Smoothing
			if x.Shape != [4]int{1, 2, 1024, 64} || x.DType != "FP16" || x.NaN+x.Inf+x.Zeros != 0 || x.Subnormals != tc.subnormals {
				t.Errorf("got %+v", x)
			}
			if d := float64(x.RMS) - tc.rms; math.Abs(d) > 1e-11 {
				t.Errorf("RMS %v, want %v", x.RMS, tc.rms)
			}
			if d := float64(x.Mean) - tc.mean; math.Abs(d) > 1e-13 {
				t.Errorf("mean %v, want %v", x.Mean, tc.mean)
			}
			near(t, "absmax", x.AbsMax, tc.before)
			near(t, "bias ratio", s.BiasRatio, tc.bias)
			near(t, "largest bias ratio", s.BiasRatioMax, tc.biasMax)
			near(t, "outlier", s.Outlier.Mean, tc.outlier)
			near(t, "outlier ratio", s.Outlier.Ratio, tc.ratio)
			near(t, "absmax before", s.AbsMaxBefore, tc.before)
			near(t, "absmax after", s.AbsMaxAfter, tc.after)
			near(t, "gain", s.StepGain, tc.gain)
			near(t, "worst gain", s.StepGainWorst, tc.gainWorst)
			if s.Outlier.Head != (Head{}) || s.Outlier.Channel != tc.channel || s.WorstHead != (Head{Head: tc.worst}) || s.SkippedHeads != 0 {
				t.Errorf("got %+v", s)
			}
			if tc.name == "v" {
				near(t, "channel gain", *s.ChannelStepGain, 1.0048385986207506)
			} else if s.ChannelStepGain != nil {
				t.Errorf("channel gain %v", *s.ChannelStepGain)
			}
			if x.Verdict != tc.verdict {
				t.Errorf("verdict %q, want %q", x.Verdict, tc.verdict)
			}
		})
	}
}

func TestValues(t *testing.T) {
	values := []float32{0, float32(math.Copysign(0, -1)), 0x1p-127, -0x1p-149, 0x1p-126, -3, 2, 0}
	r := inspect(t, map[string]string{"synthetic": "by hand", "note": "x"},
		tensor("l.q", 1, 4, 2, func(_, token, channel int) float32 { return values[2*token+channel] }),
		tensor("l.k", 1, 4, 2, wave), tensor("l.v", 1, 4, 2, wave),
		tensor("mask", 1, 1, 1, wave))
	q := r.Layers[0].Q
	if q.Zeros != 3 || q.Subnormals != 2 || q.Min != -3 || q.Max != 2 || q.AbsMax != 3 {
		t.Errorf("got %+v", q)
	}
	near(t, "RMS", q.RMS, math.Sqrt(13.0/8))
	if r.Layers[0].Synthetic != "by hand" || len(r.Metadata) != 1 || len(r.Ignored) != 1 || r.Ignored[0].Name != "mask" {
		t.Errorf("got %+v", r)
	}
}

// TestSubnormalsOfDType gives the same value in two types, of which only FP16
// has it as a subnormal.
func TestSubnormalsOfDType(t *testing.T) {
	half := func(name string) safetensors.Tensor {
		return safetensors.Tensor{Name: name, DType: "F16", Shape: []int{1, 1, 2, 1}, Data: []byte{0xff, 0x03, 0x00, 0x04}}
	}
	bfloat := func(name string) safetensors.Tensor {
		return safetensors.Tensor{Name: name, DType: "BF16", Shape: []int{1, 1, 2, 1}, Data: []byte{0x7f, 0x00, 0x80, 0x00}}
	}
	single := func(name string) safetensors.Tensor {
		return tensor(name, 1, 2, 1, func(_, token, _ int) float32 { return []float32{0x1p-15, 1}[token] })
	}
	r := inspect(t, nil, half("a.q"), half("a.k"), half("a.v"), bfloat("b.q"), bfloat("b.k"), bfloat("b.v"), single("c.q"), single("c.k"), single("c.v"))
	for i, want := range []int{1, 1, 0} {
		if got := r.Layers[i].Q.Subnormals; got != want {
			t.Errorf("%s: %d subnormals, want %d", r.Layers[i].Q.DType, got, want)
		}
	}
}

// TestBias gives one channel of K a large bias, which smoothing removes.
func TestBias(t *testing.T) {
	biased := func(head, token, channel int) float32 {
		x := wave(head, token, 0)
		if channel == 2 {
			x -= 9
		}
		return x
	}
	r := inspect(t, nil, tensor("l.q", 2, 256, 4, biased), tensor("l.k", 2, 256, 4, biased), tensor("l.v", 2, 256, 4, biased))
	for name, x := range map[string]Tensor{"Q": r.Layers[0].Q, "K": r.Layers[0].K} {
		s := x.Smoothing
		near(t, name+" bias ratio", s.BiasRatio, 4.5) // sqrt(81/4) over 1
		near(t, name+" gain", s.StepGain, 10)
		near(t, name+" outlier", s.Outlier.Mean, -9)
		near(t, name+" outlier ratio", s.Outlier.Ratio, 9)
		if s.Outlier.Channel != 2 || x.Verdict != "smooth "+name+" helps: step 10.00x finer" {
			t.Errorf("%s: %+v, %s", name, s, x.Verdict)
		}
	}
	// The other channels of V, each with its own scale, gain nothing.
	near(t, "V's channel gain", *r.Layers[0].V.Smoothing.ChannelStepGain, 13.0/4)
}

// TestQueryBlocks gives each block of 128 queries another bias, and the last,
// short block a third one: means per block remove them, one over all would not.
func TestQueryBlocks(t *testing.T) {
	stepped := func(head, token, channel int) float32 { return wave(head, token, 0) + float32(100*(token/128)) }
	r := inspect(t, nil, tensor("l.q", 1, 288, 2, stepped), tensor("l.k", 1, 288, 2, stepped), tensor("l.v", 1, 288, 2, stepped))
	near(t, "Q after", r.Layers[0].Q.Smoothing.AbsMaxAfter, 1)
	if after := r.Layers[0].K.Smoothing.AbsMaxAfter; after < 100 {
		t.Errorf("K after: %v, want more than 100", after)
	}
}

func TestHurts(t *testing.T) {
	// The mean is -0.75; the one positive value grows by it.
	spike := func(_, token, _ int) float32 {
		if token == 0 {
			return 2
		}
		return -1.5
	}
	r := inspect(t, nil, tensor("l.q", 1, 4, 1, spike), tensor("l.k", 1, 4, 1, spike), tensor("l.v", 1, 4, 1, spike))
	if got, want := r.Layers[0].K.Verdict, "smooth K hurts: step 1.31x coarser"; got != want {
		t.Errorf("verdict %q, want %q", got, want)
	}
}

func TestWarnings(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	at := func(head, token, channel int, x float32) func(int, int, int) float32 {
		return func(h, tk, c int) float32 {
			if h >= head && tk >= token && c == channel {
				return x
			}
			return wave(h, tk, c)
		}
	}
	r := inspect(t, nil,
		tensor("l.q", 2, 4, 3, at(1, 2, 1, nan)),
		tensor("l.k", 2, 4, 3, at(1, 0, 2, 5)),
		tensor("l.v", 2, 4, 3, at(0, 3, 0, -inf)),
		tensor("l.o", 2, 4, 3, func(int, int, int) float32 { return 0 }))
	l := r.Layers[0]
	want := []string{
		"q: 2 NaN, the first at batch 0, head 1, token 2, channel 1",
		"k: 1 of 6 channels are constant over the tokens, the first at batch 0, head 1, channel 2",
		"v: 2 Inf, the first at batch 0, head 0, token 3, channel 0",
		"o: all 24 elements are zero",
	}
	if !slices.Equal(l.Warnings, want) {
		t.Errorf("got  %q\nwant %q", l.Warnings, want)
	}
	if l.Q.NaN != 2 || *l.Q.FirstNaN != (Position{0, 1, 2, 1}) || l.Q.FirstInf != nil || l.Q.Smoothing.SkippedHeads != 1 || l.Q.Max != 3 {
		t.Errorf("q is %+v", l.Q)
	}
	if l.V.Inf != 2 || *l.V.FirstInf != (Position{0, 0, 3, 0}) || l.V.Smoothing != nil || l.V.Verdict != "smooth V: no verdict, every head has NaN or Inf" {
		t.Errorf("v is %+v", l.V)
	}
}

func TestDegenerate(t *testing.T) {
	zero := func(int, int, int) float32 { return 0 }
	one := func(int, int, int) float32 { return 1 }
	nan := func(int, int, int) float32 { return float32(math.NaN()) }
	r := inspect(t, nil,
		// One query, as when decoding, is its own mean but no constant.
		tensor("a.q", 1, 1, 2, one), tensor("a.k", 1, 4, 2, zero), tensor("a.v", 1, 4, 2, one),
		tensor("b.q", 1, 2, 2, nan), tensor("b.k", 1, 2, 2, wave), tensor("b.v", 1, 2, 2, wave))
	a, b := r.Layers[0], r.Layers[1]
	if want := []string{"k: all 8 elements are zero", "v: 2 of 2 channels are constant over the tokens, the first at batch 0, head 0, channel 0"}; !slices.Equal(a.Warnings, want) {
		t.Errorf("got  %q\nwant %q", a.Warnings, want)
	}
	if s := a.Q.Smoothing; !math.IsInf(float64(s.StepGain), 1) || !math.IsInf(float64(s.BiasRatio), 1) || a.Q.Verdict != "smooth Q: no verdict, a single token is its own mean" {
		t.Errorf("q: %+v, %s", s, a.Q.Verdict)
	}
	if a.V.Verdict != "smooth V removes everything: a head is constant over the tokens" {
		t.Errorf("v: %s", a.V.Verdict)
	}
	if s := a.K.Smoothing; s.StepGain != 1 || s.BiasRatio != 0 || s.Outlier.Ratio != 0 || a.K.Verdict != "smooth K changes little: step as before" {
		t.Errorf("k: %+v, %s", s, a.K.Verdict)
	}
	if !math.IsNaN(float64(b.Q.Min)) || !math.IsNaN(float64(b.Q.RMS)) || b.Q.NaN != 4 {
		t.Errorf("q: %+v", b.Q)
	}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"schema":"sageacc/inspect/v1"`, `"step_gain":"+Inf"`, `"min":"NaN"`, `"first_nan":{"batch":0,"head":0,"token":0,"channel":0}`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the JSON lacks %s", want)
		}
	}
	// Of NaN, no two are equal; so compare what is read back as JSON again.
	var back Result
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(back)
	if err != nil || !reflect.DeepEqual(again, text) {
		t.Errorf("the JSON changes when read back: %v\n%s\n%s", err, text, again)
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r, err := Dump(ctx, open(t, filepath.Join("..", "testdata", "video-dit-sample.safetensors")))
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "layers.0.attn") {
		t.Errorf("got %v, %v", r, err)
	}
}
