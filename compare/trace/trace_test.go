package trace_test

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/emulate/program"

	"github.com/sageacc/sageacc/compare/trace"
	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/quant"
	"github.com/sageacc/sageacc/internal/jsonfloat"
	"github.com/sageacc/sageacc/internal/version"
	"github.com/sageacc/sageacc/layerdumps"
)

const sample = "../../layerdumps/testdata/byte-lm-sample.safetensors"

func open(t *testing.T, path string, opt layerdumps.Options) *layerdumps.Dump {
	t.Helper()
	d, err := layerdumps.Open([]string{path}, opt)
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

func kernel(t *testing.T, cfg program.Program) *emulate.Kernel {
	t.Helper()
	k, err := emulate.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestActual: on a layer that an H200 computed, the traced row is what it returned.
func TestActual(t *testing.T) {
	d := open(t, sample, layerdumps.Options{})
	cfg, err := program.Preset("sage2-8b-sm90")
	if err != nil {
		t.Fatal(err)
	}
	k := kernel(t, cfg)
	for _, row := range []int{0, 1, 63, 64, 200, 1023} {
		r, err := trace.Layer(t.Context(), k, &d.Layers[0], trace.At{Head: 1, Row: row})
		if err != nil {
			t.Fatal(err)
		}
		if r.Tool != version.Get() || len(program.Diff(&r.Kernel.Description, &cfg)) != 0 {
			t.Errorf("row %d is of %v and %v", row, r.Tool, r.Kernel)
		}
		if len(r.OutputBits) != 64 || !slices.Equal(r.OutputBits, r.ActualBits) || !slices.Equal(r.Output, r.Actual) {
			t.Errorf("row %d: output %v, the H200 returned %v", row, r.OutputBits, r.ActualBits)
		}
		last := r.Tiles[len(r.Tiles)-1]
		if got, want := last.Key+last.Visible, row+1; got != want {
			t.Errorf("row %d sees %d keys, want %d", row, got, want)
		}
	}
}

// TestStages repeats what leads from one stage to the next.
func TestStages(t *testing.T) {
	for _, causal := range []bool{false, true} {
		l := &open(t, sample, layerdumps.Options{Causal: &causal}).Layers[1]
		for _, cfg := range sage2(t) {
			for _, accum := range []string{"fp32", "fp32+fp32", "fp32+fp16"} {
				for _, pv := range []quant.PVType{quant.E4M3, quant.FP16} {
					if err := errors.Join(cfg.SetPVType(pv), cfg.SetAccum(accum)); err != nil {
						t.Fatal(err)
					}
					checkStages(t, l, cfg, trace.At{Head: 1, Row: 150})
				}
			}
		}
	}
}

func checkStages(t *testing.T, l *layerdumps.Layer, cfg program.Program, at trace.At) {
	t.Helper()
	k := kernel(t, cfg)
	r, err := trace.Layer(t.Context(), k, l, at)
	if err != nil {
		t.Fatal(err)
	}
	d := l.Q.Dim
	read := func(x *layerdumps.Tensor) emulate.Rows {
		return func(lo, hi int, dst []float32) { x.Rows(at.Batch, at.Head, lo, hi, dst) }
	}
	kv, err := k.Prepare(emulate.KVInput{K: read(&l.K), V: read(&l.V), Len: l.K.Tokens, Dim: d, DType: format.FP16})
	if err != nil {
		t.Fatal(err)
	}
	kCodes, _ := kv.KeyCodes()
	pv, _ := cfg.PVType()
	_, _, vScale, _ := kv.ValueCodes()

	keys, den, o := 0, [4]float32{1, 1, 1, 1}, make([]float32, d)
	for i, tile := range r.Tiles {
		if tile.Index != i || tile.Key != keys || len(tile.P) != tile.Keys || len(tile.PCodes) != tile.Keys || len(tile.IntScores) != tile.Keys {
			t.Fatalf("%s: tile %d: %+v", cfg.Name, i, tile)
		}
		keys += tile.Keys
		var sums [4]float32
		for j, p := range tile.P {
			if j >= tile.Visible && p != 0 {
				t.Errorf("%s: key %d is masked and has P~ %v", cfg.Name, tile.Key+j, p)
			}
			if want := pv.Encode(float32(p)); tile.PCodes[j] != want || tile.PDecoded[j] != jsonfloat.Float32(pv.Decode(want)) {
				t.Errorf("%s: key %d: code %#x, want %#x", cfg.Name, tile.Key+j, tile.PCodes[j], want)
			}
			var s int32
			for c, q := range r.QCodes {
				s += int32(q) * int32(kCodes[(tile.Key+j)*d+c])
			}
			if s != tile.IntScores[j] {
				t.Errorf("%s: key %d: score %d, the codes give %d", cfg.Name, tile.Key+j, tile.IntScores[j], s)
			}
			sums[j&7>>1] += float32(p)
		}
		for j := range den {
			den[j] = float32(den[j]*float32(tile.Rescale)) + sums[j]
			if got := float32(tile.Denominators[j]); got < den[j]*(1-1e-5) || got > den[j]*(1+1e-5) {
				t.Errorf("%s: tile %d: d%d is %v, P~ sums to %v", cfg.Name, i, j, got, den[j])
			}
		}
		if (tile.TileSums == nil) != (cfg.OneChain()) {
			t.Fatalf("%s %v: tile sums %v", cfg.Name, cfg.Accum(), tile.TileSums)
		}
		for c := range o {
			if tile.TileSums != nil {
				if want := format.FMAFtz(o[c], float32(tile.Rescale), float32(tile.TileSums[c])); float32(tile.Output[c]) != want {
					t.Fatalf("%s: tile %d: O[%d] is %v, want %v", cfg.Name, i, c, tile.Output[c], want)
				}
			}
			o[c] = float32(tile.Output[c])
		}
	}
	if want := l.K.Tokens; !l.Causal && keys != want {
		t.Errorf("%s: %d keys, want %d", cfg.Name, keys, want)
	}
	for c, x := range o {
		want := format.RoundFP16(format.MulFtz(format.MulFtz(x, float32(r.Reciprocal)), vScale[c]))
		if float32(r.Output[c]) != want {
			t.Errorf("%s: output[%d] is %v, want %v", cfg.Name, c, r.Output[c], want)
		}
	}
}

func TestOutside(t *testing.T) {
	l := &open(t, sample, layerdumps.Options{}).Layers[0]
	k := kernel(t, sage2(t)[0])
	for _, tc := range []struct {
		at   trace.At
		want string
	}{
		{trace.At{Batch: 1}, "no batch entry 1: they are 0 to 0"},
		{trace.At{Head: 2}, "no head 2: they are 0 to 1"},
		{trace.At{Head: -1}, "no head -1"},
		{trace.At{Row: 1024}, "no row 1024: they are 0 to 1023"},
	} {
		if _, err := trace.Layer(t.Context(), k, l, tc.at); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v, want %q", tc.at, err, tc.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := trace.Layer(ctx, k, l, trace.At{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestJSON: a row reads back as it was.
func TestJSON(t *testing.T) {
	l := &open(t, sample, layerdumps.Options{}).Layers[0]
	r, err := trace.Layer(t.Context(), kernel(t, sage2(t)[2]), l, trace.At{Row: 130})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back trace.Row
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(*r, back) {
		t.Error("the row is another after JSON")
	}
}

// sage2 are the three programs of SageAttention2.
func sage2(t testing.TB) []program.Program {
	t.Helper()
	var out []program.Program
	for _, name := range []string{"sage2-4b", "sage2-8b-sm89", "sage2-8b-sm90"} {
		p, err := program.Preset(name)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

// TestEveryKernel: a row of every kernel can be followed, and its tiles lead to its output.
func TestEveryKernel(t *testing.T) {
	l := &open(t, sample, layerdumps.Options{}).Layers[1]
	for _, p := range program.Presets() {
		at, want := trace.At{Head: 1, Row: 300}, 301
		l := *l
		if p.Mask.Causal == "none" {
			l.Causal, want = false, l.K.Tokens
		}
		r, err := trace.Layer(t.Context(), kernel(t, p), &l, at)
		if err != nil {
			t.Fatalf("%s: %v", p.Name, err)
		}
		seen := 0
		for _, tile := range r.Tiles {
			seen += tile.Visible
		}
		if seen != want {
			t.Errorf("%s: row %d sees %d keys", p.Name, at.Row, seen)
		}
		if d := float64(r.Denominator); !(d > 0) && p.Tiles.Split == "none" {
			t.Errorf("%s: denominator %v", p.Name, d)
		}
	}
}
