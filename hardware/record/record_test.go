package record

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/emulate/program"

	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/hardware/conformance"
	"github.com/sageacc/sageacc/hardware/validate"
	"github.com/sageacc/sageacc/kernels"
	"github.com/sageacc/sageacc/kernels/manifest"
	"github.com/sageacc/sageacc/layerdumps"
)

// emulated runs the emulator in place of a GPU.
type emulated struct {
	m *manifest.Manifest
	k *emulate.Kernel
}

func (e emulated) Check(l *layerdumps.Layer) error { return validate.Check(e.m, l) }

func (e emulated) Run(l *layerdumps.Layer, _ map[string][]byte) (map[string][]byte, error) {
	out := map[string][]byte{}
	d := l.Q.Dim
	dtype := l.Q.DType
	o, lse := make([]float32, e.k.Tiling().BlockQ*d), make([]float32, e.k.Tiling().BlockQ)
	for b := range l.Q.Batch {
		for h := range l.Q.Heads {
			kh := h * l.K.Heads / l.Q.Heads
			kv, err := e.k.Prepare(emulate.KVInput{
				K:   func(lo, hi int, dst []float32) { l.K.Rows(b, kh, lo, hi, dst) },
				V:   func(lo, hi int, dst []float32) { l.V.Rows(b, kh, lo, hi, dst) },
				Len: l.K.Tokens, Dim: d, DType: dtype,
			})
			if err != nil {
				return nil, err
			}
			var ws emulate.Workspace
			q := e.k.Query(emulate.QInput{
				Q:   func(lo, hi int, dst []float32) { l.Q.Rows(b, h, lo, hi, dst) },
				Len: l.Q.Tokens, Causal: l.Causal, Scale: l.Scale(),
			}, kv, &ws)
			for blk := range e.k.Blocks(l.Q.Tokens) {
				n, err := e.k.Run(q, &ws, blk, o, lse)
				if err != nil {
					return nil, err
				}
				for _, x := range o[:n*d] {
					out["o"] = binary.LittleEndian.AppendUint16(out["o"], uint16(dtype.Bits(x)))
				}
				for _, x := range lse[:n] {
					out["lse"] = binary.LittleEndian.AppendUint32(out["lse"], math.Float32bits(x))
				}
			}
		}
	}
	return out, nil
}

// What is recorded is a set that conform takes, output and log-sum-exp; a folder
// that holds a set is left alone.
func TestKernel(t *testing.T) {
	own, err := kernels.Named("sage2-8b-sm90")
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := own.Manifest.Program("sm_90")
	if err != nil {
		t.Fatal(err)
	}
	k, err := emulate.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	shape, err := validate.ParseShape("2x2/1x70x40x64")
	if err != nil {
		t.Fatal(err)
	}
	m := validate.Matrix{Shapes: []validate.Shape{shape}, DTypes: []string{"f16", "bf16"}, Causal: []bool{false, true}, Seed: 1}
	dir := filepath.Join(t.TempDir(), "set")
	w, err := conformance.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := &Set{Writer: w, Device: "none", Arch: "sm_90"}
	if err := s.Kernel(context.Background(), emulated{own.Manifest, k}, own.Manifest, m.Cases(), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := conformance.Load(dir, nil); err == nil {
		t.Error("the set is there before it is closed")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	cases, err := conformance.Load(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	rep, err := conformance.Run(context.Background(), cases, 2, nil)
	if err != nil {
		t.Fatal(err)
	}
	runs := len(m.Cases())
	if want := int64(runs * 4 * 70 * (64 + 1)); rep.Passed != 2*runs || rep.Failed+rep.Skipped != 0 || s.Results != want {
		t.Errorf("%d passed, %d failed, %d skipped of %d; %d results, want %d", rep.Passed, rep.Failed, rep.Skipped, 2*runs, s.Results, want)
	}
	if _, err := conformance.Create(dir); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("a second set in the folder: %v", err)
	}
}

// What a kernel does not take is left out; a manifest with a fault is not.
func TestKernelDoesNotTake(t *testing.T) {
	text, err := os.ReadFile("../../kernels/manifests/sage2-8b-sm90.yaml")
	if err != nil {
		t.Fatal(err)
	}
	m, err := manifest.Read("x", strings.NewReader(strings.Replace(string(text), "let:", "let:\n  - bad: 1 / (keys - 40)", 1)))
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{"1x1/1x5x40x40": "", "1x1/1x5x40x64": "case 1x1/1x5x40x64 gauss full f16: manifest sage2-8b-sm90: let bad: "} {
		shape, err := validate.ParseShape(text)
		if err != nil {
			t.Fatal(err)
		}
		w, err := conformance.Create(filepath.Join(t.TempDir(), "set"))
		if err != nil {
			t.Fatal(err)
		}
		s := &Set{Writer: w, Arch: "sm_90"}
		matrix := validate.Matrix{Shapes: []validate.Shape{shape}, DTypes: []string{"f16"}, Causal: []bool{false}}
		err = s.Kernel(context.Background(), emulated{m: m}, m, matrix.Cases(), nil)
		if s.Results != 0 || (err == nil) != (want == "") || err != nil && !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %d results, %v, want %q", text, s.Results, err, want)
		}
	}
}

// Cases whose names become the same have a file each, and none is lost.
func TestKernelKeepsEveryCase(t *testing.T) {
	own, err := kernels.Named("sage2-8b-sm90")
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := own.Manifest.Program("sm_90")
	if err != nil {
		t.Fatal(err)
	}
	k, err := emulate.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	d := &layerdumps.Dump{}
	for i, name := range []string{"a/b", "a b", "A b", "a-b_2", "a-b"} {
		data := make([]byte, 2*2*64)
		data[1] = 0x3c + byte(i)
		x, err := layerdumps.NewTensor(name, format.FP16, [4]int{1, 1, 2, 64}, data)
		if err != nil {
			t.Fatal(err)
		}
		d.Layers = append(d.Layers, layerdumps.Layer{Name: name, Q: x, K: x, V: x})
	}
	dir := filepath.Join(t.TempDir(), "set")
	w, err := conformance.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := &Set{Writer: w, Device: "none", Arch: "sm_90"}
	if err := s.Kernel(context.Background(), emulated{own.Manifest, k}, own.Manifest, validate.LayerCases(d), nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	cases, err := conformance.Load(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]bool{}
	for _, c := range cases {
		files[strings.ToLower(c.File)] = true
	}
	rep, err := conformance.Run(context.Background(), cases, 2, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(d.Layers); len(files) != n || rep.Passed != 2*n || rep.Failed+rep.Skipped != 0 {
		t.Errorf("%d files, %d passed, %d failed: want %d files", len(files), rep.Passed, rep.Failed, n)
	}
}

// A claim has the whole description, so that a set says what it is a recording of.
func TestClaim(t *testing.T) {
	p, err := program.Preset("sage2-4b")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Set("finish.round", "zero"); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(claim(p))
	if err != nil {
		t.Fatal(err)
	}
	var c conformance.Case
	if err := json.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	if d := program.Diff(&p, c.Description); d != nil || c.Kernel != "sage2-4b" {
		t.Errorf("%s is read back with %v", c.Kernel, d)
	}
}

func TestFileName(t *testing.T) {
	if got := fileName("sm_90", "1x2/1x3 a..b"); got != "sm_90_1x2-1x3-a..b.safetensors" {
		t.Error(got)
	}
}
