package render

import (
	"encoding/csv"
	"io"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/hardware/conformance"
	"github.com/sageacc/sageacc/internal/jsonfloat"
	"github.com/sageacc/sageacc/layerdumps/inspect"
	"github.com/sageacc/sageacc/metrics"
)

// text returns what f writes of r, with a line break in front as in the raw
// strings below.
func text[R any](t *testing.T, f func(io.Writer, R) error, r R) string {
	t.Helper()
	var b strings.Builder
	b.WriteByte('\n')
	if err := f(&b, r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func check(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got:%s\nwant:%s", got, want)
	}
}

// result has what makes rendering hard: layers of different kind, one with an
// actual output that differs, one that could not be measured.
func result() *compare.Result {
	nan := jsonfloat.Float(math.NaN())
	good := metrics.Values{CosSim: 0.99995, RelL1: 0.0123456, RMSE: 0.00123456, MaxAbs: 0.5}
	near := metrics.Values{CosSim: 0.9999999, RelL1: 3.14e-6, RMSE: 1e-8, MaxAbs: 2e-7}
	spoiled := metrics.Values{CosSim: nan, RelL1: nan, RMSE: jsonfloat.Float(math.Inf(1)), MaxAbs: nan}
	first := &metrics.Mismatch{
		Position: metrics.Position{Batch: 0, Head: 1, Token: 2, Channel: 3},
		Actual:   "0x3c01", Emulated: "0x3c00", ActualValue: 1.0009765625, EmulatedValue: 1,
	}
	rows := compare.Rows{
		EmulatedVsReference: good, ActualVsReference: &good,
		ActualVsEmulated: &compare.BitValues{Values: near, Bits: metrics.Bits{Elements: 96, Mismatched: 2, MaxULP: 1, First: first}},
	}
	return &compare.Result{
		Schema: compare.Schema, Reference: "fp64",
		Kernel: compare.KernelInfo{
			Name: "k", Program: "p", Arch: "sm_90", QKBits: 8, QKGranularity: "per-thread", Smooth: "k",
			PVDType: "e4m3", PVAccum: "fp32",
		},
		QueryTile: 4,
		WorstLayers: compare.WorstLayers{
			EmulatedVsReference: &compare.FigureLayers{CosSim: "c", RelL1: "c", RMSE: "c", MaxAbs: "c"},
			ActualVsReference:   &compare.FigureLayers{CosSim: "a|b", RelL1: "a|b", RMSE: "a|b", MaxAbs: "a|b"},
			ActualVsEmulated:    &compare.FigureLayers{CosSim: "a|b", RelL1: "c", RMSE: "a|b", MaxAbs: "c"},
		},
		Layers: []compare.Layer{
			{
				Name: "a|b", Shape: compare.Shape{Batch: 1, Heads: 2, KVHeads: 1, Queries: 6, Keys: 9, HeadDim: 8, DType: "FP16"},
				Causal: true, SMScale: 0.125, Rows: rows, Heads: []compare.Head{{Batch: 0, Head: 1, Rows: rows}},
			},
			{
				Name: "c", Shape: compare.Shape{Batch: 2, Heads: 1, KVHeads: 1, Queries: 6, Keys: 6, HeadDim: 8, DType: "BF16"},
				SMScale: 0.5, Synthetic: "noise", Rows: compare.Rows{EmulatedVsReference: spoiled},
				Warnings: []string{"c.v: 1 NaN"}, Heads: []compare.Head{{Batch: 1, Head: 0, Rows: compare.Rows{EmulatedVsReference: spoiled}}},
			},
		},
		Average: compare.Summary{EmulatedVsReference: spoiled, ActualVsReference: &good, ActualVsEmulated: &near},
		Worst:   compare.Summary{EmulatedVsReference: spoiled, ActualVsReference: &good, ActualVsEmulated: &near},
	}
}

func compared(rs ...*compare.Result) *Compared {
	return &Compared{Results: rs, Verdict: &compare.Verdict{Lines: []string{"not finite: c: worst", "differs in bits: a|b: next"}}}
}

func TestCompareText(t *testing.T) {
	check(t, text(t, CompareText, compared(result())), `
verdict    not finite: c: worst
           differs in bits: a|b: next
kernel     k on sm_90: p
config     QK int8 per-thread, smooth k; PV e4m3, accumulated in fp32
reference  fp64
layers     2
input      c (synthetic: noise)

layer              shape                       comparison              cos_sim   rel_l1       rmse    max_abs  differing  max ulp
-----------------  --------------------------  ---------------------  --------  -------  ---------  ---------  ---------  -------
a|b                1x2x6x8 kv 1x9 FP16 causal  emulated vs reference  0.999950  0.01235  1.235e-03  5.000e-01
                                               actual vs reference    0.999950  0.01235  1.235e-03  5.000e-01
                                               actual vs emulated     1.000000  3.1e-06  1.000e-08  2.000e-07    2 of 96    1 ulp
  head 1                                       emulated vs reference  0.999950  0.01235  1.235e-03  5.000e-01
                                               actual vs reference    0.999950  0.01235  1.235e-03  5.000e-01
                                               actual vs emulated     1.000000  3.1e-06  1.000e-08  2.000e-07    2 of 96    1 ulp
c                  2x1x6x8 BF16                emulated vs reference       NaN      NaN       +Inf        NaN
  batch 1, head 0                              emulated vs reference       NaN      NaN       +Inf        NaN

average                                        emulated vs reference       NaN      NaN       +Inf        NaN
                                               actual vs reference    0.999950  0.01235  1.235e-03  5.000e-01
                                               actual vs emulated     1.000000  3.1e-06  1.000e-08  2.000e-07
worst              c                           emulated vs reference       NaN      NaN       +Inf        NaN
                   a|b                         actual vs reference    0.999950  0.01235  1.235e-03  5.000e-01
                   a|b, …                      actual vs emulated     1.000000  3.1e-06  1.000e-08  2.000e-07

worst actual vs emulated: a|b (cos_sim, rmse), c (rel_l1, max_abs)
a|b: first difference at batch 0, head 1, token 2, channel 3: actual 0x3c01 (1.00098), emulated 0x3c00 (1)
c: v: 1 NaN
`)
}

func TestCompareOneLayer(t *testing.T) {
	r := result()
	r.Layers = r.Layers[1:]
	r.Layers[0].Heads = nil
	r.Average.ActualVsReference, r.Average.ActualVsEmulated = nil, nil
	r.Worst = r.Average
	check(t, text(t, CompareText, compared(r)), `
verdict    not finite: c: worst
           differs in bits: a|b: next
kernel     k on sm_90: p
config     QK int8 per-thread, smooth k; PV e4m3, accumulated in fp32
reference  fp64
layers     1, BF16
input      (synthetic: noise)

layer  shape    comparison             cos_sim  rel_l1  rmse  max_abs
-----  -------  ---------------------  -------  ------  ----  -------
c      2x1x6x8  emulated vs reference      NaN     NaN  +Inf      NaN

c: v: 1 NaN
`)
}

func TestCompareMarkdown(t *testing.T) {
	r := result()
	for i := range r.Layers {
		r.Layers[i].Heads = nil
	}
	got := text(t, CompareMarkdown, compared(r))
	for _, want := range []string{
		"\n- verdict: not finite: c: worst\n  differs in bits: a\\|b: next\n- kernel: k on sm_90: p\n",
		"\n- input: c (synthetic: noise)\n\n| layer ",
		"\n| a\\|b    | 1x2x6x8 kv 1x9 FP16 causal | emulated vs reference | 0.999950 |",
		"\n| average |",
		"\n\n- worst actual vs emulated: a\\|b (cos_sim, rmse), c (rel_l1, max_abs)\n- a\\|b: first difference at batch 0,",
		"\n- c: v: 1 NaN\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:%s", want, got)
		}
	}
	for line := range strings.Lines(got) {
		if strings.HasPrefix(line, "|") && strings.Trim(line, "| \n") == "" {
			t.Errorf("an empty row:%s", got)
		}
	}
}

func TestCompareCSV(t *testing.T) {
	records, err := csv.NewReader(strings.NewReader(text(t, CompareCSV, compared(result()))[1:])).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(records[0], ","), "kernel,arch,reference,layer,batch,heads,kv_heads,queries,keys,head_dim,dtype,causal,sm_scale,at_batch,at_head,comparison,cos_sim,rel_l1,rmse,max_abs,elements,mismatched,max_ulp"; got != want {
		t.Errorf("columns %s\nwant    %s", got, want)
	}
	var got []string
	for _, r := range records[1:] {
		got = append(got, strings.Join(r[3:], ","))
	}
	check(t, "\n"+strings.Join(got, "\n"), `
a|b,1,2,1,6,9,8,FP16,true,0.125,,,emulated_vs_reference,0.99995,0.0123456,0.00123456,0.5,,,
a|b,1,2,1,6,9,8,FP16,true,0.125,,,actual_vs_reference,0.99995,0.0123456,0.00123456,0.5,,,
a|b,1,2,1,6,9,8,FP16,true,0.125,,,actual_vs_emulated,0.9999999,3.14e-06,1e-08,2e-07,96,2,1
a|b,1,2,1,6,9,8,FP16,true,0.125,0,1,emulated_vs_reference,0.99995,0.0123456,0.00123456,0.5,,,
a|b,1,2,1,6,9,8,FP16,true,0.125,0,1,actual_vs_reference,0.99995,0.0123456,0.00123456,0.5,,,
a|b,1,2,1,6,9,8,FP16,true,0.125,0,1,actual_vs_emulated,0.9999999,3.14e-06,1e-08,2e-07,96,2,1
c,2,1,1,6,6,8,BF16,false,0.5,,,emulated_vs_reference,NaN,NaN,+Inf,NaN,,,
c,2,1,1,6,6,8,BF16,false,0.5,1,0,emulated_vs_reference,NaN,NaN,+Inf,NaN,,,`)
}

func TestInspectText(t *testing.T) {
	tensor := func(verdict string) inspect.Tensor {
		return inspect.Tensor{
			Shape: [4]int{1, 2, 3, 4}, DType: "FP16", Min: -1, Max: 2, AbsMax: 2, RMS: 0.123456, Verdict: verdict,
			Smoothing: &inspect.Smoothing{BiasRatio: 0.25, StepGain: 1.5},
		}
	}
	spoiled := tensor("no verdict")
	spoiled.Smoothing = nil
	spoiled.Min = jsonfloat.Float(math.NaN())
	o := spoiled
	o.DType, o.Verdict = "FP32", ""
	check(t, text(t, InspectText, &inspect.Result{
		Layers: []inspect.Layer{
			{Name: "a", Causal: true, SMScale: 0.125, Q: tensor("q"), K: tensor("k"), V: spoiled, O: &o, Warnings: []string{"v: 1 NaN", "v: 2 Inf"}},
			{Name: "b", SMScale: 0.5, Synthetic: "noise", Q: tensor("q"), K: tensor("k"), V: tensor("v")},
		},
		Ignored: []inspect.Ignored{{File: "f.npz", Name: "mask"}},
	}), `
  tensor  shape         min  max  absmax     rms  bias  gain  verdict
--------  ------------  ---  ---  ------  ------  ----  ----  ----------
a: FP16, causal, sm_scale 0.125
  q       1x2x3x4        -1    2       2  0.1235  0.25   1.5  q
  k       1x2x3x4        -1    2       2  0.1235  0.25   1.5  k
  v       1x2x3x4       NaN    2       2  0.1235              no verdict
  o       1x2x3x4 FP32  NaN    2       2  0.1235
  ! v: 1 NaN
  ! v: 2 Inf
b: FP16, not causal, sm_scale 0.5 (synthetic: noise)
  q       1x2x3x4        -1    2       2  0.1235  0.25   1.5  q
  k       1x2x3x4        -1    2       2  0.1235  0.25   1.5  k
  v       1x2x3x4        -1    2       2  0.1235  0.25   1.5  v

ignored, because their names are not <layer>.q, .k, .v, .o, .lse, .mask, .q_descale and so on (--names says otherwise):
  mask in f.npz
`)
}

func TestConformText(t *testing.T) {
	check(t, text(t, ConformText, &conformance.Report{
		Passed: 1, Failed: 1, Skipped: 1,
		Cases: []conformance.Result{
			{File: "x", Expect: "y", Op: "unary", Elements: 10, Status: conformance.Pass},
			{File: "z", Expect: "d", Op: "mma", Elements: 10, Mismatched: 3, Status: conformance.Fail,
				First: &conformance.Difference{Index: []int{0, 1, 2}, Recorded: "0x01", Emulated: "0x02"}},
			{File: "z", Expect: "d", Op: "tma", Status: conformance.Skip, Reason: `no model of op "tma"`},
		},
	}), `
status  op     file  expected  elements  differing  first difference
------  -----  ----  --------  --------  ---------  ----------------------------------------
pass    unary  x     y               10          0
fail    mma    z     d               10          3  at [0 1 2]: recorded 0x01, emulated 0x02
skip    tma    z     d                0          0  no model of op "tma"

1 passed, 1 failed, 1 skipped
`)
}

func TestNumbers(t *testing.T) {
	for _, tc := range []struct{ got, want string }{
		{cosine(1), "1"}, {cosine(0.9999999), "1.000000"}, {cosine(-0.25), "-0.250000"},
		{relative(0), "0"}, {relative(0.5), "0.50000"}, {relative(9.9e-5), "9.9e-05"}, {relative(12345), "1.2e+04"},
		{relative(jsonfloat.Float(math.Inf(1))), "+Inf"},
		{absolute(0), "0"}, {absolute(1234.5), "1.234e+03"}, {absolute(jsonfloat.Float(math.NaN())), "NaN"},
		{exact(0.1), "0.1"}, {exact(1.0 / 3), "0.3333333333333333"},
	} {
		if tc.got != tc.want {
			t.Errorf("%s, want %s", tc.got, tc.want)
		}
	}
}

func TestUnits(t *testing.T) {
	k := ListKernels()
	got := text(t, func(w io.Writer, k Kernels) error { return k.UnitsText(w) }, k)
	for _, line := range strings.Split(got, "\n") {
		if len(line) > 110 {
			t.Errorf("%d columns: %s", len(line), line)
		}
	}
	for _, want := range []string{
		"sm_90   mma.m16n8k32.f32.e4m3    2 HMMA.16816.F32 + FADD   2 x 16*, + c     25  FP32 toward zero   [",
		"\n    *  k 0 1 4 5 8 9 12 13 16 17 20 21 24 25 28 29; then 2 3 6 7 ",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:%s", want, got)
		}
	}
	for _, u := range k.Units {
		if !strings.Contains(got, "]  "+u.Evidence+"\n") {
			t.Errorf("no evidence %q", u.Evidence)
		}
		// Every k takes part once.
		var all []int
		for _, step := range u.StepK {
			all = append(all, step...)
		}
		slices.Sort(all)
		for i, x := range all {
			if x != i {
				t.Errorf("%s %s: k is %v", u.Arch, u.Instruction, u.StepK)
				break
			}
		}
	}
}
