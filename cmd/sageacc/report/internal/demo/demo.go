// Package demo makes up results of any size, to test reports with.
package demo

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/compare/attribute"
	"github.com/sageacc/sageacc/compare/explain"
	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/internal/jsonfloat"
	"github.com/sageacc/sageacc/metrics"
)

// Result makes up a result of a model with that many layers, heads and everything else
// that a result can hold: most layers are bit-exact, every seventh differs, one is NaN.
func Result(layers, heads int, seed uint64) *compare.Result {
	rnd := rand.New(rand.NewPCG(seed, 1))
	f := func(x float64) jsonfloat.Float { return jsonfloat.Float(x) }
	r := &compare.Result{Schema: compare.Schema, Tool: &compare.Tool{Version: "v0.0.0"}, Reference: "fp32",
		Args:   []string{"sageacc", "compare", "model", "--per-head", "--attribute"},
		Kernel: compare.KernelInfo{Name: "sage2-8b-sm90", Program: "wgmma, tiles 64x128", Arch: "sm_90", QKBits: 8, QKGranularity: "per-thread", Smooth: "k", PVDType: "e4m3", PVAccum: "fp32+fp32", PVUnit: "wgmma.m64nNk32.f32.e4m3", SpecialFunctions: "MUFU"}}
	for i := range layers {
		wave := float64(min(i%16, 16-i%16)) / 8
		base := 0.02 + float64(0.03*wave) + float64(0.005*float64(rnd.Float64()))
		values := func(e float64) metrics.Values {
			return metrics.Values{CosSim: f(1 - float64(float64(e*e)/2)), RelL1: f(e), RMSE: f(e / 10), MaxAbs: f(e * (2 + float64(rnd.Float64())))}
		}
		l := compare.Layer{Name: fmt.Sprintf("blocks.%d.attn", i), Causal: true, SMScale: 0.125, Source: fmt.Sprintf("dump/%03d.safetensors", i/10),
			Shape: compare.Shape{Batch: 1, Heads: heads, KVHeads: max(1, heads/4), Queries: 4096, Keys: 4096, HeadDim: 128, DType: "FP16"}, ReferenceRMS: 0.1}
		differs, broken := i%7 == 3, i == layers*2/3 && layers > 3
		var sum float64
		m := &compare.DifferenceMap{BlockTokens: 64, Channels: make([]int64, 128)}
		var wrong int64
		for h := range heads {
			e := base * (0.6 + float64(0.8*float64(rnd.Float64())))
			if h == i%heads && i%5 == 0 {
				e *= 3
			}
			sum += e
			v := values(e)
			x := compare.Head{Head: h, Rows: compare.Rows{EmulatedVsReference: v}}
			a, b := v, compare.BitValues{Values: metrics.Values{CosSim: 1}, Bits: metrics.Bits{Elements: 4096 * 128}}
			row := make([]int64, 64)
			if differs && h%3 == 1 {
				a = values(e * 1.3)
				for t := h; t < 64; t++ {
					row[t] = int64(rnd.IntN(8192))
					b.Mismatched += row[t]
				}
				b.MaxULP, b.RelL1, b.CosSim = 200, 0.01, 0.9999
			}
			if broken && h == 2%heads {
				a = metrics.Values{CosSim: f(math.NaN()), RelL1: f(math.NaN()), RMSE: f(math.NaN()), MaxAbs: f(math.NaN())}
				row[5], b.Mismatched, b.MaxULP = 128, 128, 63488
			}
			wrong += b.Mismatched
			m.Blocks = append(m.Blocks, row)
			x.ActualVsReference, x.ActualVsEmulated = &a, &b
			l.Heads = append(l.Heads, x)
		}
		v := values(sum / float64(heads))
		a, b := v, compare.BitValues{Values: metrics.Values{CosSim: 1}, Bits: metrics.Bits{Elements: 4096 * 128 * int64(heads), Mismatched: wrong}}
		if wrong > 0 {
			for c := range m.Channels {
				m.Channels[c] = wrong / 128
			}
			a.RelL1 *= 1.1
			b.RelL1, b.MaxULP = 0.01, 200
			b.First = &metrics.Mismatch{Position: metrics.Position{Head: 1, Token: 64, Channel: 3}, Actual: "0x3c01", Emulated: "0x3c00", ActualValue: 1.0009765625, EmulatedValue: 1}
			l.DifferenceMap = m
			l.Explanation = &explain.Result{Tried: 300, Nearest: []explain.Hypothesis{{Changes: []string{"--pv-accum fp32"}, Mismatched: 10, Elements: 1000, RelL1: 0.001}}}
		}
		if broken {
			nan := f(math.NaN())
			a = metrics.Values{CosSim: nan, RelL1: nan, RMSE: nan, MaxAbs: nan}
			b.Values = a
			l.ActualNonFinite = &emulate.Count{NaN: 128}
			l.Warnings = []string{l.Name + ".o: 128 NaN"}
		}
		if i%20 == 11 {
			l.Counts = map[string]emulate.Count{"v_codes": {Saturated: 3}}
			l.Warnings = append(l.Warnings, "V's codes: 3 saturated")
		}
		l.EmulatedVsReference, l.ActualVsReference, l.ActualVsEmulated = v, &a, &b
		hist := metrics.HistogramValues{MinExponent: -30}
		for k := range 26 {
			hist.Counts = append(hist.Counts, int64(1e6)>>(max(k-17, 17-k)/2)+int64(rnd.IntN(100)))
		}
		other := hist
		l.ErrorHistogram, l.ActualErrorHistogram = hist, &other
		mse := float64(v.RMSE * v.RMSE)
		step := func(name string, part float64) attribute.Step {
			e := func(p float64) attribute.Error {
				return attribute.Error{OneMinusCos: f(1e-3 * p), RelL1: f(0.03 * math.Sqrt(p)), MSE: f(mse * p)}
			}
			return attribute.Step{Name: name, Alone: e(part), Without: e(1 - part)}
		}
		q := 0.3 + float64(0.5*float64(rnd.Float64()))
		l.Attribution = &attribute.Layer{Name: l.Name, Kernel: step("", 1).Alone, Rest: step("", 1e-9).Alone, Remainder: f(-0.01 * mse),
			Steps: []attribute.Step{step("Q, K codes", q), step("P codes", 0.9-q), step("V codes", 0.1), step("accumulator", 1e-4), step("exp2", 1e-9), step("output", 1e-5)}}
		if wrong > 0 {
			l.Differing = &compare.Extent{Elements: wrong, First: b.First.Position, FirstToken: 64, LastToken: 4095, Heads: heads, Most: []compare.HeadExtent{{Head: 1, Elements: wrong, FirstToken: 64, LastToken: 4095}}}
		}
		if broken {
			l.Spoiled = &compare.Extent{Elements: 128, FirstToken: 320, LastToken: 320, Heads: 1, Most: []compare.HeadExtent{{Head: 2, Elements: 128, FirstToken: 320, LastToken: 320}}}
		}
		r.Layers = append(r.Layers, l)
	}
	r.QueryTile = 64
	r.Verdict = compare.Judge([]*compare.Result{r}, nil)
	return r
}
