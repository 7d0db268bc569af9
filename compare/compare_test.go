package compare_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/internal/jsonfloat"
	"github.com/sageacc/sageacc/internal/sweep"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/layerdumps/safetensors"
	"github.com/sageacc/sageacc/metrics"
	"github.com/sageacc/sageacc/reference"
)

const sample = "../layerdumps/testdata/byte-lm-sample.safetensors"

func kernel(t testing.TB, name string) *emulate.Kernel {
	t.Helper()
	cfg, err := program.Preset(name)
	if err != nil {
		t.Fatal(err)
	}
	k, err := emulate.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func open(t testing.TB, paths ...string) *layerdumps.Dump {
	t.Helper()
	d, err := layerdumps.Open(paths, layerdumps.Options{})
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

func run(t testing.TB, d *layerdumps.Dump, opt compare.Options) *compare.Result {
	t.Helper()
	res, err := compare.Run(t.Context(), d, opt)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// attention64 is the textbook in FP64 for a whole layer, [b,h,n,d].
func attention64(l *layerdumps.Layer) []float64 {
	nq, nk, d := l.Q.Tokens, l.K.Tokens, l.Q.Dim
	out := make([]float64, l.Q.Batch*l.Q.Heads*nq*d)
	q, k, v := make([]float32, nq*d), make([]float32, nk*d), make([]float32, nk*d)
	p := make([]float64, nk)
	for b := range l.Q.Batch {
		for h := range l.Q.Heads {
			kh := h * l.K.Heads / l.Q.Heads
			l.Q.Rows(b, h, 0, nq, q)
			l.K.Rows(b, kh, 0, nk, k)
			l.V.Rows(b, kh, 0, nk, v)
			k64, v64 := wide(k), wide(v)
			base := (b*l.Q.Heads + h) * nq * d
			for i := range nq {
				n := nk
				if l.Causal {
					n = min(nk, i+1)
				}
				top := math.Inf(-1)
				row := wide(q[i*d : i*d+d])
				for j := range n {
					p[j] = dot64(row, k64[j*d:j*d+d]) * l.Scale()
					top = max(top, p[j])
				}
				sum := 0.0
				for j := range n {
					p[j] = math.Exp(p[j] - top)
					sum += p[j]
				}
				o := out[base+i*d:][:d]
				for j := range n {
					w := p[j] / sum
					for c, x := range v64[j*d:][:d] {
						o[c] += w * x
					}
				}
			}
		}
	}
	return out
}

func wide(x []float32) []float64 {
	out := make([]float64, len(x))
	for i := range x {
		out[i] = float64(x[i])
	}
	return out
}

// dot64 has four sums, which a CPU adds to at once.
func dot64(x, y []float64) float64 {
	var sum [4]float64
	i := 0
	for ; i+4 <= len(x); i += 4 {
		a, b := x[i:i+4:i+4], y[i:i+4:i+4]
		sum[0] += a[0] * b[0]
		sum[1] += a[1] * b[1]
		sum[2] += a[2] * b[2]
		sum[3] += a[3] * b[3]
	}
	for ; i < len(x); i++ {
		sum[0] += x[i] * y[i]
	}
	return sum[0] + sum[1] + (sum[2] + sum[3])
}

// values64 is the definition of the metrics, in one plain pass.
func values64(out []float32, ref []float64) metrics.Values {
	var dot, oo, rr, diff, abs, sq, top float64
	for i, x := range out {
		o, r := float64(x), ref[i]
		dot += o * r
		oo += o * o
		rr += r * r
		diff += math.Abs(o - r)
		abs += math.Abs(r)
		sq += (o - r) * (o - r)
		top = max(top, math.Abs(o-r))
	}
	var v metrics.Values
	set := func(dst any, x float64) {
		b, _ := json.Marshal(x)
		_ = json.Unmarshal(b, dst)
	}
	set(&v.CosSim, dot/math.Sqrt(oo*rr))
	set(&v.RelL1, diff/abs)
	set(&v.RMSE, math.Sqrt(sq/float64(len(out))))
	set(&v.MaxAbs, top)
	return v
}

func near(a, b metrics.Values, tol float64) bool {
	for _, p := range [][2]float64{{float64(a.CosSim), float64(b.CosSim)}, {float64(a.RelL1), float64(b.RelL1)}, {float64(a.RMSE), float64(b.RMSE)}, {float64(a.MaxAbs), float64(b.MaxAbs)}} {
		if math.Abs(p[0]-p[1]) > tol {
			return false
		}
	}
	return true
}

// checkIndependent holds every row of a comparison to an FP64 computation that
// shares nothing with it but the emulated output itself.
func checkIndependent(t *testing.T, d *layerdumps.Dump, k *emulate.Kernel) {
	t.Helper()
	both := map[reference.Precision]*compare.Result{}
	for _, prec := range []reference.Precision{reference.FP32, reference.FP64} {
		both[prec] = run(t, d, compare.Options{Kernel: k, Reference: prec, Jobs: 2})
	}
	for i := range d.Layers {
		l := &d.Layers[i]
		ref, emu := attention64(l), emulated(t, l, k)
		for prec, res := range both {
			got := res.Layers[i]
			// The reference's own FP32 rounding reaches max_abs, where nothing
			// averages it out.
			if want := values64(emu, ref); !near(got.EmulatedVsReference, want, 1e-6) {
				t.Errorf("%s %s: emulated vs reference %+v, want %+v", l.Name, prec, got.EmulatedVsReference, want)
			}
			if l.O == nil {
				if got.ActualVsReference != nil || got.ActualVsEmulated != nil {
					t.Errorf("%s: rows of an output that is not there", l.Name)
				}
				continue
			}
			act := make([]float32, len(emu))
			n := l.O.Tokens * l.O.Dim
			for b := range l.O.Batch {
				for h := range l.O.Heads {
					l.O.Rows(b, h, 0, l.O.Tokens, act[(b*l.O.Heads+h)*n:])
				}
			}
			if want := values64(act, ref); !near(*got.ActualVsReference, want, 1e-6) {
				t.Errorf("%s %s: actual vs reference %+v, want %+v", l.Name, prec, *got.ActualVsReference, want)
			}
			differ := int64(0)
			for i := range act {
				if math.Float32bits(act[i]) != math.Float32bits(emu[i]) {
					differ++
				}
			}
			if got.ActualVsEmulated.Mismatched != differ || got.ActualVsEmulated.Elements != int64(len(act)) {
				t.Errorf("%s: %d of %d differ, want %d of %d", l.Name, got.ActualVsEmulated.Mismatched, got.ActualVsEmulated.Elements, differ, len(act))
			}
		}
	}
}

func emulated(t *testing.T, l *layerdumps.Layer, k *emulate.Kernel) []float32 {
	t.Helper()
	d := l.Q.Dim
	out := make([]float32, l.Q.Batch*l.Q.Heads*l.Q.Tokens*d)
	var ws emulate.Workspace
	for b := range l.Q.Batch {
		for h := range l.Q.Heads {
			kh := h * l.K.Heads / l.Q.Heads
			kv, err := k.Prepare(emulate.KVInput{
				K:   func(lo, hi int, dst []float32) { l.K.Rows(b, kh, lo, hi, dst) },
				V:   func(lo, hi int, dst []float32) { l.V.Rows(b, kh, lo, hi, dst) },
				Len: l.K.Tokens, Dim: d, DType: l.Q.DType,
			})
			if err != nil {
				t.Fatal(err)
			}
			q := k.Query(emulate.QInput{
				Q:   func(lo, hi int, dst []float32) { l.Q.Rows(b, h, lo, hi, dst) },
				Len: l.Q.Tokens, Causal: l.Causal, Scale: l.Scale(),
			}, kv, &ws)
			base := (b*l.Q.Heads + h) * l.Q.Tokens * d
			for blk := range k.Blocks(l.Q.Tokens) {
				k.Run(q, &ws, blk, out[base+blk*k.Tiling().BlockQ*d:], nil)
			}
		}
	}
	return out
}

// TestRecordedLayer: the sample's first layer carries the output of the released
// sm_90 kernel, recorded on an H200. Not one bit may differ.
func TestRecordedLayer(t *testing.T) {
	d := open(t, sample)
	k := kernel(t, "sage2-8b-sm90")
	res := run(t, d, compare.Options{Kernel: k, Jobs: 2})
	row := res.Layers[0].ActualVsEmulated
	if row == nil {
		t.Fatal("the sample's first layer has no actual output")
	}
	if row.Elements == 0 || row.Mismatched != 0 {
		t.Errorf("%d of %d elements differ from the recorded kernel, first %+v", row.Mismatched, row.Elements, row.First)
	}
	if !testing.Short() {
		checkIndependent(t, d, k)
	}
}

// TestShared does the same for the dumps and the ragged recording beside the
// repository, where they are.
func TestShared(t *testing.T) {
	if !sweep.Full() {
		t.Skip("long")
	}
	k := kernel(t, "sage2-8b-sm90")
	for _, name := range []string{"byte-lm", "video-dit"} {
		path := "../../shared/dumps/" + name + ".safetensors"
		if _, err := os.Stat(path); err != nil {
			t.Skipf("no dump at %s", path)
		}
		d := open(t, path)
		checkIndependent(t, d, k)
		if row := run(t, d, compare.Options{Kernel: k, Jobs: 2}).Layers[0].ActualVsEmulated; row == nil || row.Mismatched != 0 {
			t.Errorf("%s: %+v", path, row)
		}
	}
	const recording = "../../shared/conformance/attention/ragged_d64.safetensors"
	f, err := safetensors.Open(recording)
	if err != nil {
		t.Skipf("no recording at %s", recording)
	}
	defer f.Close()
	var ts []safetensors.Tensor
	for role, name := range map[string]string{"q": "q", "k": "k", "v": "v", "o": "o/causal/sage2-8b-sm90/per-thread/fp32+fp32"} {
		x := *f.Tensor(name)
		x.Name = "ragged." + role
		ts = append(ts, x)
	}
	path := filepath.Join(t.TempDir(), "ragged.safetensors")
	if err := safetensors.Write(path, map[string]string{"causal": "true", "sm_scale": "0.125"}, ts); err != nil {
		t.Fatal(err)
	}
	checkIndependent(t, open(t, path), k)
}

// TestJobs: neither the number of goroutines nor the heads shown change a result.
func TestJobs(t *testing.T) {
	d := open(t, sample)
	k := kernel(t, "sage2-4b")
	var first []byte
	for _, jobs := range []int{1, 2, 8} {
		res := run(t, d, compare.Options{Kernel: k, PerHead: true, Jobs: jobs})
		b, err := json.Marshal(res)
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = b
			if n := len(res.Layers[0].Heads); n != d.Layers[0].Q.Heads {
				t.Errorf("%d heads shown, want %d", n, d.Layers[0].Q.Heads)
			}
		} else if string(b) != string(first) {
			t.Errorf("%d jobs give another result:\n%s\nwith one:\n%s", jobs, b, first)
		}
	}
}

func TestCancel(t *testing.T) {
	d := open(t, sample)
	ctx, cancel := context.WithCancel(t.Context())
	opt := compare.Options{Kernel: kernel(t, "sage2-8b-sm90"), Jobs: 2}
	opt.Progress = func(part float64) {
		if part < 0 || part > 1.0000001 {
			t.Errorf("progress %g", part)
		}
		cancel()
	}
	if res, err := compare.Run(ctx, d, opt); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled run returns %v, %v", res, err)
	}
}

// TestSpoiled: NaN and Inf are reported, never fatal.
func TestSpoiled(t *testing.T) {
	n, dim := 70, 8
	data := func(nan int) []byte {
		b := make([]byte, 2*n*dim)
		for i := range n * dim {
			x := uint16(0x3c00 + i*37%512)
			if i == nan {
				x = 0x7e00
			}
			b[2*i], b[2*i+1] = byte(x), byte(x>>8)
		}
		return b
	}
	var ts []safetensors.Tensor
	for role, nan := range map[string]int{"q": 9, "k": -1, "v": -1, "o": 17} {
		ts = append(ts, safetensors.Tensor{Name: "l." + role, DType: "F16", Shape: []int{1, 1, n, dim}, Data: data(nan)})
	}
	path := filepath.Join(t.TempDir(), "spoiled.safetensors")
	if err := safetensors.Write(path, nil, ts); err != nil {
		t.Fatal(err)
	}
	res := run(t, open(t, path), compare.Options{Kernel: kernel(t, "sage2-8b-sm90"), Jobs: 1})
	l := res.Layers[0]
	if l.Counts["q"].NaN != 1 || l.ActualNonFinite == nil || l.ActualNonFinite.NaN != 1 {
		t.Errorf("counts %+v, actual %+v", l.Counts, l.ActualNonFinite)
	}
	if !slices.Contains(l.Warnings, "the reference: 8 NaN") { // the row of the NaN in Q
		t.Errorf("warnings %q", l.Warnings)
	}
	if len(l.Warnings) < 2 {
		t.Errorf("warnings %q", l.Warnings)
	}
	b, err := json.Marshal(res)
	if err != nil {
		t.Fatal(err)
	}
	var m struct {
		Layers []struct {
			Actual struct {
				Cos any `json:"cos_sim"`
			} `json:"actual_vs_reference"`
		}
	}
	if err := json.Unmarshal(b, &m); err != nil || m.Layers[0].Actual.Cos != "NaN" {
		t.Errorf("cos_sim of a NaN output in JSON is %v (%v)", m.Layers[0].Actual.Cos, err)
	}
}

func BenchmarkRun(b *testing.B) {
	d := open(b, sample)
	for _, cfg := range program.Presets() {
		if cfg.Mask.Causal == "none" {
			continue // the sample's layers are causal
		}
		b.Run(cfg.Name, func(b *testing.B) {
			k := kernel(b, cfg.Name)
			macs := 0.0
			for i := range d.Layers {
				l := &d.Layers[i]
				macs += 2 * float64(l.Q.Batch*l.Q.Heads) * float64(l.Q.Tokens) * float64(l.K.Tokens) * float64(l.Q.Dim)
			}
			for b.Loop() {
				run(b, d, compare.Options{Kernel: k, Jobs: 2})
			}
			b.ReportMetric(float64(b.N)*macs/b.Elapsed().Seconds()/1e9, "GMAC/s")
		})
	}
}

// TestLSERecorded: the log-sum-exp that the released kernels returned on an H200,
// with the correction for a smoothed K and without.
func TestLSERecorded(t *testing.T) {
	for _, tc := range []struct {
		file, key string
		causal    bool
		change    func(*program.Program)
	}{
		{"n17_d64_f16", "causal/sage2-8b-sm90/per-thread/fp32+fp32", true, func(*program.Program) {}},
		{"n17_d64_f16", "full/sage2-8b-sm90/per-thread/fp32+fp32/no-smooth-k", false, func(c *program.Program) { must(c.SetSmooth("none")) }},
		{"n17_d128_bf16", "full/sage2-8b-sm90/per-thread/fp32+fp32", false, func(*program.Program) {}},
	} {
		f, err := safetensors.Open("../hardware/conformance/testdata/h200/" + tc.file + ".safetensors")
		if err != nil {
			t.Fatal(err)
		}
		var ts []safetensors.Tensor
		for name, as := range map[string]string{"q": "l.q", "k": "l.k", "v": "l.v", "o/" + tc.key: "l.o", "lse/" + tc.key: "l.lse"} {
			x := f.Tensor(name)
			if x == nil {
				t.Fatalf("%s has no %s", tc.file, name)
			}
			b, err := x.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			ts = append(ts, safetensors.Tensor{Name: as, DType: x.DType, Shape: x.Shape, Data: b})
		}
		path := filepath.Join(t.TempDir(), "dump.safetensors")
		if err := errors.Join(safetensors.Write(path, nil, ts), f.Close()); err != nil {
			t.Fatal(err)
		}
		d, err := layerdumps.Open([]string{path}, layerdumps.Options{LSE: true, Causal: &tc.causal})
		if err != nil {
			t.Fatal(err)
		}
		cfg := kernel(t, "sage2-8b-sm90").Program()
		tc.change(&cfg)
		k, err := emulate.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		res := run(t, d, compare.Options{Kernel: k, LSE: true, PerHead: true, Jobs: 2})
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		l := res.Layers[0]
		lse := l.LSE
		if lse == nil || lse.ActualVsReference == nil || lse.ActualVsEmulated == nil {
			t.Fatalf("%s: %+v", tc.key, lse)
		}
		if b := lse.ActualVsEmulated; !b.Exact() || b.Elements != int64(l.Shape.Heads*l.Shape.Queries*l.Shape.Batch) {
			t.Errorf("%s %s: %d of %d differ", tc.file, tc.key, b.Mismatched, b.Elements)
		}
		if lse.EmulatedVsReference.RelL1 > 0.01 || *lse.ActualVsReference != lse.EmulatedVsReference || l.Heads[1].LSE == nil {
			t.Errorf("%s %s: %+v", tc.file, tc.key, lse)
		}
	}
}

// TestLSENearReference: the natural log-sum-exp of every program is that of the
// reference but for the codes of Q and K.
func TestLSENearReference(t *testing.T) {
	d := open(t, sample)
	for _, preset := range program.Presets() {
		if preset.LSE.Form == "none" {
			continue
		}
		if preset.Bits() == 4 {
			if err := preset.SetBits(8); err != nil {
				t.Fatal(err)
			}
		}
		k, err := emulate.New(preset)
		if err != nil {
			t.Fatal(err)
		}
		part, precisions, bound := d, []reference.Precision{reference.FP32, reference.FP64}, jsonfloat.Float(2e-3)
		if k.Portable() != "" || !strings.HasPrefix(preset.Name, "sage2") {
			// Slow: half of it.
			part, precisions = &layerdumps.Dump{Layers: d.Layers[:1]}, precisions[:1]
		}
		if preset.QKCodes.Format == "e4m3" {
			bound = 1e-2
		}
		for _, p := range precisions {
			for _, l := range run(t, part, compare.Options{Kernel: k, Reference: p, LSE: true, Jobs: 2}).Layers {
				if v := l.LSE.EmulatedVsReference; !(v.RelL1 < bound) || v.RelL1 == 0 || l.LSE.ActualVsReference != nil {
					t.Errorf("%s %s %s: %+v", preset.Name, p, l.Name, l.LSE)
				}
			}
		}
	}
}

// A real layer of 32 channels a head, which the kernels see padded to 64: both
// kernels run it, at the accuracy that the format allows.
func TestMiniLM(t *testing.T) {
	d, err := layerdumps.Open([]string{"../layerdumps/testdata/minilm-sample.safetensors"}, layerdumps.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, tc := range []struct {
		kernel string
		cos    float64
	}{{"sage2-8b-sm90", 0.9995}, {"sage2-8b-sm89", 0.9995}, {"sage2-4b", 0.985}} {
		cfg, err := program.Preset(tc.kernel)
		if err != nil {
			t.Fatal(err)
		}
		k, err := emulate.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		r, err := compare.Run(t.Context(), d, compare.Options{Kernel: k, Jobs: 2})
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Layers) != 2 {
			t.Fatalf("%d layers, want 2", len(r.Layers))
		}
		for _, l := range r.Layers {
			if want := (compare.Shape{Batch: 1, Heads: 12, KVHeads: 12, Queries: 256, Keys: 256, HeadDim: 32, DType: "FP16"}); l.Shape != want {
				t.Errorf("%s: shape %+v", l.Name, l.Shape)
			}
			if c := float64(l.EmulatedVsReference.CosSim); !(c > tc.cos && c < 1) {
				t.Errorf("%s, %s: cosine similarity %v, want above %v", tc.kernel, l.Name, c, tc.cos)
			}
		}
	}
}

// TestCountsAddUp: the histograms have every element, and the difference map every
// difference, whatever the number of goroutines.
func TestCountsAddUp(t *testing.T) {
	d := open(t, sample)
	cfg, err := program.Preset("sage2-8b-sm90")
	if err != nil {
		t.Fatal(err)
	}
	must(cfg.SetAccum("fp32"))
	k, err := emulate.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	sum := func(counts []int64) (n int64) {
		for _, c := range counts {
			n += c
		}
		return n
	}
	var first *compare.Result
	for _, jobs := range []int{1, 3} {
		r := run(t, d, compare.Options{Kernel: k, Jobs: jobs})
		if first == nil {
			first = r
		} else if !reflect.DeepEqual(r, first) {
			t.Error("the result depends on the number of goroutines")
		}
		for i, l := range r.Layers {
			all := int64(l.Shape.Batch * l.Shape.Heads * l.Shape.Queries * l.Shape.HeadDim)
			if h := l.ErrorHistogram; h.Zero+h.NonFinite+sum(h.Counts) != all {
				t.Errorf("%s: the histogram %+v is not of %d elements", l.Name, h, all)
			}
			var sq float64
			for _, x := range attention64(&d.Layers[i]) {
				sq += x * x
			}
			if want := math.Sqrt(sq / float64(all)); math.Abs(float64(l.ReferenceRMS)-want) > 1e-6*want {
				t.Errorf("%s: the reference's RMS is %g, want %g", l.Name, l.ReferenceRMS, want)
			}
			if (l.ActualErrorHistogram == nil) != (l.ActualVsEmulated == nil) {
				t.Errorf("%s: a histogram without an actual output, or the reverse", l.Name)
			}
			if l.ActualVsEmulated == nil {
				continue
			}
			if h := l.ActualErrorHistogram; h.Zero+h.NonFinite+sum(h.Counts) != all {
				t.Errorf("%s: the actual output's histogram %+v is not of %d elements", l.Name, h, all)
			}
			m := l.DifferenceMap
			if m == nil {
				t.Fatalf("%s: no difference map", l.Name)
			}
			var blocks int64
			for _, row := range m.Blocks {
				blocks += sum(row)
			}
			if want := l.ActualVsEmulated.Mismatched; want == 0 || blocks != want || sum(m.Channels) != want {
				t.Errorf("%s: %d by block, %d by channel, %d differ", l.Name, blocks, sum(m.Channels), want)
			}
			at := l.ActualVsEmulated.First
			for b := range at.Token / m.BlockTokens {
				if m.Blocks[at.Head][b] != 0 {
					t.Errorf("%s: block %d differs, but the first difference is at token %d", l.Name, b, at.Token)
				}
			}
			if m.Blocks[at.Head][at.Token/m.BlockTokens] == 0 || m.Channels[at.Channel] == 0 {
				t.Errorf("%s: the first difference, %+v, is not in the map", l.Name, at)
			}
		}
	}
	exact := run(t, d, compare.Options{Kernel: kernel(t, "sage2-8b-sm90"), Jobs: 2})
	if l := exact.Layers[0]; l.DifferenceMap != nil || !reflect.DeepEqual(*l.ActualErrorHistogram, l.ErrorHistogram) {
		t.Errorf("%s: equal outputs differ in the map or the histograms", l.Name)
	}
}

// TestDifferenceMapIsBounded: a long sequence has larger blocks, not more, and the
// last may be short.
func TestDifferenceMapIsBounded(t *testing.T) {
	const n, dim = 64*130 + 5, 8
	var ts []safetensors.Tensor
	for _, role := range []string{"q", "k", "v", "o"} {
		tokens := n
		if role == "k" || role == "v" {
			tokens = 16
		}
		b := make([]byte, 2*tokens*dim)
		for i := range tokens * dim {
			x := uint16(0x3c00 + i*37%512)
			if role == "o" {
				x = 0x7e00 // NaN, which no emulated value is
			}
			b[2*i], b[2*i+1] = byte(x), byte(x>>8)
		}
		ts = append(ts, safetensors.Tensor{Name: "l." + role, DType: "F16", Shape: []int{1, 1, tokens, dim}, Data: b})
	}
	path := filepath.Join(t.TempDir(), "long.safetensors")
	if err := safetensors.Write(path, nil, ts); err != nil {
		t.Fatal(err)
	}
	l := run(t, open(t, path), compare.Options{Kernel: kernel(t, "sage2-8b-sm90"), Jobs: 2}).Layers[0]
	m := l.DifferenceMap
	if m == nil || m.BlockTokens != 256 || len(m.Blocks) != 1 || len(m.Blocks[0]) != 33 {
		t.Fatalf("map %+v", m)
	}
	for b, c := range m.Blocks[0] {
		if want := int64(min(256, n-256*b) * dim); c != want {
			t.Errorf("block %d: %d differ, want %d", b, c, want)
		}
	}
	for c, x := range m.Channels {
		if x != n {
			t.Errorf("channel %d: %d differ, want %d", c, x, n)
		}
	}
	if l.ActualErrorHistogram.NonFinite != n*dim {
		t.Errorf("%d errors are not finite, want %d", l.ActualErrorHistogram.NonFinite, n*dim)
	}
}

// TestLongHeads: heads whose codes are not kept give what kept codes give, whatever the
// number of goroutines.
func TestLongHeads(t *testing.T) {
	const queries, keys, dim = 16*256 + 30, 1<<22/128 + 77, 128
	if testing.Short() {
		t.Skip("long")
	}
	var ts []safetensors.Tensor
	for i, role := range []string{"q", "k", "v"} {
		tokens := keys
		if role == "q" {
			tokens = queries
		}
		b := make([]byte, 2*tokens*dim)
		for j := 0; j < len(b); j += 2 {
			x := uint16(0x3c00 + (j/2*37+j/2/dim*(i+11))%1500)
			b[j], b[j+1] = byte(x), byte(x>>8)
			if j%22 == 0 {
				b[j+1] |= 0x80
			}
		}
		ts = append(ts, safetensors.Tensor{Name: "l." + role, DType: "F16", Shape: []int{1, 1, tokens, dim}, Data: b})
	}
	path := filepath.Join(t.TempDir(), "long.safetensors")
	if err := safetensors.Write(path, nil, ts); err != nil {
		t.Fatal(err)
	}
	k := kernel(t, "sage2-8b-sm90")
	out := emulated(t, &open(t, path).Layers[0], k)
	b := make([]byte, 2*len(out))
	for i, x := range out {
		binary.LittleEndian.PutUint16(b[2*i:], uint16(format.FP16.Bits(x)))
	}
	ts = append(ts, safetensors.Tensor{Name: "l.o", DType: "F16", Shape: []int{1, 1, queries, dim}, Data: b})
	if err := safetensors.Write(path, nil, ts); err != nil {
		t.Fatal(err)
	}
	d := open(t, path)
	var first []byte
	for _, jobs := range []int{1, 3} {
		res := run(t, d, compare.Options{Kernel: k, Jobs: jobs})
		if row := res.Layers[0].ActualVsEmulated; row.Elements != int64(len(out)) || row.Mismatched != 0 {
			t.Errorf("%d jobs: %+v", jobs, row)
		}
		text, err := json.Marshal(res)
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = text
		} else if string(text) != string(first) {
			t.Errorf("%d jobs give another result", jobs)
		}
	}
}

// must stops at an edit that a test cannot do without.
func must(errs ...error) {
	for _, err := range errs {
		if err != nil {
			panic(err)
		}
	}
}
