package validate

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/emulate/program"

	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/quant"
	"github.com/sageacc/sageacc/kernels"
	"github.com/sageacc/sageacc/kernels/manifest"
	"github.com/sageacc/sageacc/layerdumps"
)

// simulated is a Runner that is the emulator under another configuration: a GPU
// whose kernel does what that says.
type simulated struct {
	m   *manifest.Manifest
	cfg program.Program
	// spoil, if not nil, changes what the kernel wrote.
	spoil func(out map[string][]byte)
	runs  int
}

func (s *simulated) Check(l *layerdumps.Layer) error { return Check(s.m, l) }

func (s *simulated) Run(l *layerdumps.Layer, _ map[string][]byte) (map[string][]byte, error) {
	s.runs++
	k, err := emulate.New(s.cfg)
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	e, err := newEmulated(ctx, k, l, 2)
	if err != nil {
		return nil, err
	}
	if err := e.run(ctx, 2); err != nil {
		return nil, err
	}
	plan, err := planned(s.m, l)
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	for name, size := range plan.Sizes {
		switch name {
		case "q", "k", "v":
		case "o":
			for _, b := range e.o {
				out[name] = binary.LittleEndian.AppendUint16(out[name], uint16(b))
			}
		case "lse":
			for _, x := range e.lse {
				out[name] = binary.LittleEndian.AppendUint32(out[name], math.Float32bits(x))
			}
		default:
			x, err := e.stage(name, plan.Types[name], size)
			if err != nil {
				continue // scratch that is no stage
			}
			if len(x) != size {
				return nil, errors.New(name + ": the emulator's tensor has another size")
			}
			out[name] = x
		}
	}
	if s.spoil != nil {
		s.spoil(out)
	}
	return out, nil
}

func load(t *testing.T, name string) (*manifest.Manifest, program.Program) {
	t.Helper()
	k, err := kernels.Named(name)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := k.Manifest.Program("sm_90")
	if err != nil {
		t.Fatal(err)
	}
	return k.Manifest, cfg
}

func cases(t *testing.T, text ...string) []Case {
	t.Helper()
	m := Matrix{DTypes: []string{"f16", "bf16"}, Causal: []bool{false, true}, Distributions: regexp.MustCompile("gauss|holes"), Seed: 3}
	for _, x := range text {
		s, err := ParseShape(x)
		if err != nil {
			t.Fatal(err)
		}
		m.Shapes = append(m.Shapes, s)
	}
	return m.Cases()
}

// A kernel that is what it claims to be passes, with all its stages, on ragged and
// grouped shapes.
func TestRightKernelPasses(t *testing.T) {
	for _, name := range kernels.Names() {
		m, cfg := load(t, name)
		cs := cases(t, "1x2/1x70x150x64", "2x2/2x17x5x128")
		rep, err := Run(context.Background(), &simulated{m: m, cfg: cfg}, m, "simulated", "sm_90", cs, Options{Jobs: 2})
		if err != nil {
			t.Fatal(err)
		}
		if rep.Passed != len(cs) || rep.Failed+rep.Skipped != 0 || rep.Mismatched != 0 {
			t.Errorf("%s: %d of %d passed, %d failed, %d skipped", name, rep.Passed, len(cs), rep.Failed, rep.Skipped)
		}
		if want := int64(8 * (2*70*64 + 4*17*128)); rep.Elements != want {
			t.Errorf("%s: %d elements, want %d", name, rep.Elements, want)
		}
		for _, c := range rep.Cases {
			if c.LSE == nil || c.LSE.Elements == 0 {
				t.Errorf("%s: %s: the log-sum-exp was not compared", name, c.Name)
			}
		}
	}
}

// A difference is found with its stage, its cause and the keys that it takes.
func TestDifferenceIsExplained(t *testing.T) {
	for _, tc := range []struct {
		name, variant string
		shape         string
		stage         string
		keys          int
	}{
		// There is nothing to rescale before the second tile; but d starts from 1.
		{"sage2-8b-sm90", "rescale-o=none", "1x1/1x70x300x64", "", 256},
		{"sage2-8b-sm90", "rescale-d=none", "1x1/1x70x300x64", "", 128},
		{"sage2-8b-sm90", "code-round=zero", "1x1/1x70x300x64", "k_codes", 128},
		{"sage2-4b", "p-round=zero", "1x1/1x70x150x64", "", 64},
		{"sage2-4b", "delta-s=none", "1x1/1x70x150x64", "", 64},
	} {
		t.Run(tc.name+" "+tc.variant, func(t *testing.T) {
			m, cfg := load(t, tc.name)
			base := cfg
			if err := cfg.Apply(&base, tc.variant); err != nil {
				t.Fatal(err)
			}
			cs := cases(t, tc.shape)[:1]
			rep, err := Run(context.Background(), &simulated{m: m, cfg: cfg}, m, "simulated", "sm_90", cs, Options{Jobs: 2, Explain: true})
			if err != nil {
				t.Fatal(err)
			}
			c := rep.Cases[0]
			if rep.Failed != 1 || c.First == nil || c.Stages == nil || c.Explanation == nil {
				t.Fatalf("not reported: %+v", c)
			}
			if got := c.Stages.First; (got == nil) != (tc.stage == "") || got != nil && got.Stage != tc.stage {
				t.Errorf("first stage %v, want %q", got, tc.stage)
			}
			if len(c.Stages.Compared) < 6 {
				t.Errorf("only the stages %v were compared", c.Stages.Compared)
			}
			if len(c.Explanation.Exact) != 1 || c.Explanation.Exact[0].String() != "--variant "+tc.variant {
				t.Errorf("explained by %v", c.Explanation.Exact)
			}
			if c.Keys != tc.keys {
				t.Errorf("differs from %d keys on, want %d", c.Keys, tc.keys)
			}
		})
	}
}

// One wrong bit anywhere in the output is one difference, where it is.
func TestOneBit(t *testing.T) {
	m, cfg := load(t, "sage2-8b-sm90")
	const at = (1*70+33)*64 + 5 // head 1, token 33, channel 5
	r := &simulated{m: m, cfg: cfg, spoil: func(out map[string][]byte) {
		if len(out["o"]) > 2*at {
			out["o"][2*at] ^= 1
		}
	}}
	cs := cases(t, "1x2/1x70x150x64")[:1]
	rep, err := Run(context.Background(), r, m, "simulated", "sm_90", cs, Options{Jobs: 2})
	if err != nil {
		t.Fatal(err)
	}
	c := rep.Cases[0]
	if c.Mismatched != 1 || c.First == nil || c.First.Head != 1 || c.First.Token != 33 || c.First.Channel != 5 || c.First.Block != 0 || c.First.Tiles != 2 {
		t.Errorf("got %d, first %+v", c.Mismatched, c.First)
	}
	if c.Stages == nil || c.Stages.First != nil {
		t.Errorf("stages %v, want all to agree", c.Stages)
	}
}

// What a kernel does not take is skipped and said so.
func TestSkipped(t *testing.T) {
	m, cfg := load(t, "sage2-4b")
	rep, err := Run(context.Background(), &simulated{m: m, cfg: cfg}, m, "simulated", "sm_90", cases(t, "1x1/1x5x5x40"), Options{Jobs: 1})
	if err != nil {
		t.Fatal(err)
	}
	if rep.Passed+rep.Failed != 0 || rep.Skipped != 8 || !strings.Contains(rep.Cases[0].Skipped, "head_dim 40") {
		t.Errorf("%d skipped, %q", rep.Skipped, rep.Cases[0].Skipped)
	}
}

// changed is the manifest of one of our kernels with pieces of its text replaced.
func changed(t *testing.T, name string, oldNew ...string) (*manifest.Manifest, error) {
	t.Helper()
	text, err := os.ReadFile("../../kernels/manifests/" + name + ".yaml")
	if err != nil {
		t.Fatal(err)
	}
	changed := string(text)
	for i := 0; i < len(oldNew); i += 2 {
		if !strings.Contains(changed, oldNew[i]) {
			t.Fatalf("%s.yaml does not have %q", name, oldNew[i])
		}
		changed = strings.Replace(changed, oldNew[i], oldNew[i+1], 1)
	}
	return manifest.Read(name+".yaml", strings.NewReader(changed))
}

// Stages are read in every type that a manifest may give them: where the output
// differs and they do not, nothing is said of them, and where they do, which.
func TestStageTypes(t *testing.T) {
	const name = "sage2-8b-sm90"
	for _, tc := range []struct{ claim, old, new string }{
		{"", "k_mean: {type: dtype", "k_mean: {type: f32"},
		{"", "k_scale: {type: f32", "k_scale: {type: f16"},
		{"", "q_scale: {type: f32", "q_scale: {type: bf16"},
		{"", "v_scale: {type: f32", "v_scale: {type: dtype"},
		{", qk_bits: 4", "k_codes: {type: i8", "k_codes: {type: i4"},
		{", pv_dtype: e5m2", "v_codes: {type: e4m3", "v_codes: {type: e5m2"},
		{", pv_dtype: int8", "v_codes: {type: e4m3", "v_codes: {type: i8"},
		{", pv_dtype: fp16", "v_codes: {type: e4m3", "v_codes: {type: f16"},
		{", set: [v_codes.order=natural]", "v_codes: {type: e4m3", "v_codes: {type: e4m3"},
		{", smooth: 'k,v'", "k_scale: {", "v_mean: {type: f16, count: kvh * head_dim}\n  k_scale: {"},
	} {
		m, err := changed(t, name, tc.old, tc.new, "kernel: "+name, "kernel: "+name+tc.claim)
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := m.Program("")
		if err != nil {
			t.Fatal(err)
		}
		stage, _, _ := strings.Cut(tc.new, ":")
		spoilt := "o"
		r := &simulated{m: m, cfg: cfg, spoil: func(out map[string][]byte) { out[spoilt][0] ^= 1 }}
		for _, want := range []string{"", stage} {
			if want != "" {
				spoilt = want
			}
			rep, err := Run(context.Background(), r, m, "simulated", cfg.Arch, cases(t, "1x2/1x70x150x64")[:1], Options{Jobs: 2})
			if err != nil {
				t.Errorf("%s%s: %v", tc.new, tc.claim, err)
				continue
			}
			got := ""
			if s := rep.Cases[0].Stages; s != nil && s.First != nil {
				got = s.First.Stage
			}
			if rep.Failed != 1 || got != want {
				t.Errorf("%s%s: %s spoilt, %d failed, first stage %q", tc.new, tc.claim, spoilt, rep.Failed, got)
			}
		}
	}
}

// A manifest that has a fault at one shape fails the run; it is no kernel that does
// not take the shape.
func TestFaultyManifestIsNotSkipped(t *testing.T) {
	const name = "sage2-8b-sm90"
	_, cfg := load(t, name)
	for _, tc := range []struct {
		old, new string
		spoil    bool
		want     string
	}{
		{"- padded: k_tiles * 128", "- padded: k_tiles * 128\n  - bad: 1 / (keys - 300)", false, "division by zero"},
		{"grid: [k_tiles, kvh]", "grid: ['k_tiles * min(300 - keys, 1)', kvh]", false, "grid: "},
		// Only the search for the fewest keys comes by 128.
		{"- padded: k_tiles * 128", "- padded: k_tiles * 128\n  - bad: 1 / (keys - 128)", true, "division by zero"},
	} {
		m, err := changed(t, name, tc.old, tc.new)
		if err != nil {
			t.Fatal(err)
		}
		r := &simulated{m: m, cfg: cfg}
		if tc.spoil {
			r.spoil = func(out map[string][]byte) { out["o"][0] ^= 1 }
		}
		cs := cases(t, "1x2/1x70x300x64")
		rep, err := Run(context.Background(), r, m, "simulated", "sm_90", cs, Options{Jobs: 2, Explain: true})
		if err == nil {
			t.Errorf("%s: %d passed, %d skipped", tc.new, rep.Passed, rep.Skipped)
			continue
		}
		for _, want := range []string{"case " + cs[0].Name, "manifest " + name, tc.want} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %q, want %q in it", tc.new, err, want)
			}
		}
	}
}

// A stage of another size than the emulator's is reported before any case is run.
func TestStageSizesAreChecked(t *testing.T) {
	const name = "sage2-8b-sm90"
	for _, tc := range []struct{ old, new, want string }{
		{"type: f32, count: kvh * k_tiles * 4}", "type: f32, count: kvh * k_tiles}", "buffer k_scale has 8 bytes; the emulated program's has 32"},
		{"type: f32, count: kvh * k_tiles * 4}", "type: f32, count: kvh * k_tiles * 5}", "buffer k_scale has 40 bytes; the emulated program's has 32"},
		{"type: f32, count: h * q_tiles * 32}", "type: f16, count: h * q_tiles * 16}", "buffer q_scale has 128 bytes; the emulated program's has 256"},
		{"count: kvh * padded * head_dim}", "count: kvh * (keys - 1) * head_dim}", "buffer k_codes has 9536 bytes; the emulated program's has 9600, to which padding may add a multiple of 64"},
		{"count: kvh * padded * head_dim}", "count: kvh * keys * head_dim + 32}", "buffer k_codes has 9632 bytes"},
		{"count: kvh * padded * head_dim}", "count: kvh * keys * head_dim}", ""},
		{"count: h * queries * head_dim}", "count: h * queries * head_dim + head_dim}", "buffer q_codes has 9024 bytes; the emulated program's has 8960, to which padding may add a multiple of 128"},
		{"count: h * queries * head_dim}", "count: h * (queries + 3) * head_dim}", ""},
		{"type: e4m3, count: kvh * head_dim * padded}", "type: e4m3, count: kvh * head_dim * keys}", "buffer v_codes has 9600 bytes; the emulated program's has 16384"},
		{"type: e4m3, count: kvh * head_dim * padded}", "type: e4m3, count: kvh * head_dim * (padded + 16), from: emulator}", "buffer v_codes has 17408 bytes; the emulated program's has 16384"},
		{"kernel: sage2-8b-sm90", "kernel: sage2-8b-sm90, smooth: none", "buffer k_mean: the emulated program has no such tensor"},
		// A fault of the second shape only.
		{"count: kvh * head_dim}", "count: kvh * (head_dim + keys / 150)}", "buffer k_mean has 130 bytes; the emulated program's has 128"},
	} {
		m, err := changed(t, name, tc.old, tc.new)
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := m.Program("sm_90")
		if err != nil {
			t.Fatal(err)
		}
		r := &simulated{m: m, cfg: cfg}
		cs := cases(t, "1x2/1x70x150x64")
		if strings.Contains(tc.new, "keys / 150") {
			cs = cases(t, "1x2/1x70x149x64", "1x2/1x70x150x64")
		}
		_, err = Run(context.Background(), r, m, "simulated", "sm_90", cs, Options{Jobs: 2})
		if tc.want == "" {
			if err != nil {
				t.Errorf("%s: %v", tc.new, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), "manifest "+name+": "+tc.want) || !strings.HasPrefix(err.Error(), "case 1x2/1x70x150x64 ") {
			t.Errorf("%s: error %v, want %q", tc.new, err, tc.want)
		}
		if r.runs > 0 {
			t.Errorf("%s: %d runs before it is reported", tc.new, r.runs)
		}
	}
}

// The sizes that a manifest is held to are those of the emulator's tensors, and the
// shape that a case tells is that of its inputs.
func TestStageShapes(t *testing.T) {
	ctx := context.Background()
	for _, preset := range program.Presets()[:3] {
		for _, smooth := range []string{"none", "q,k,v"} {
			for _, g := range quant.Granularities() {
				for _, pv := range []quant.PVType{quant.E4M3, quant.FP16} {
					cfg := preset
					if err := cfg.SetSmooth(smooth); err != nil {
						t.Fatal(err)
					}
					by, err := quant.ParseGranularity(g)
					if err != nil {
						t.Fatal(err)
					}
					if cfg.SetGranularity(by) != nil || cfg.SetPVType(pv) != nil {
						continue // which has no codes
					}
					k, err := emulate.New(cfg)
					if err != nil {
						continue // no such kernel
					}
					for _, c := range cases(t, "2x4/2x70x150x32")[:2] {
						l, err := c.Open()
						if err != nil {
							t.Fatal(err)
						}
						p, err := c.problem()
						if err != nil {
							t.Fatal(err)
						}
						if got, err := problem(l); err != nil || got != p {
							t.Errorf("%s: the inputs are %+v (%v), the case says %+v", c.Name, got, err, p)
						}
						e, err := newEmulated(ctx, k, l, 2)
						if err != nil {
							t.Fatal(err)
						}
						shapes := stageShapes(k, p)
						for _, name := range manifest.Stages() {
							kind, bits := "f32", 32
							switch {
							case name == "v_codes" && pv == quant.FP16:
								kind, bits = "f16", 16
							case strings.HasSuffix(name, "codes"):
								kind, bits = "i8", 8
							}
							raw, err := e.stage(name, kind, 0)
							if err != nil {
								t.Fatal(err)
							}
							s, ok := shapes[name]
							if ok != (raw != nil) || ok && len(raw) != s.heads*s.least*bits/8 {
								t.Errorf("%s smooth %s %s: %s has %d bytes, want %+v", cfg.Name, smooth, g, name, len(raw), s)
							}
						}
					}
				}
			}
		}
	}
}

// TestPlannedShape: a plan is held to the tiles that the program has for the whole call.
func TestPlannedShape(t *testing.T) {
	m, cfg := load(t, "sage2-8b-sm90")
	few := cfg.Tiles.Shapes[0]
	few.MaxQueries, few.Keys = 70, 64
	cfg.Tiles.Shapes = append([]program.Shape{few}, cfg.Tiles.Shapes...)
	k, err := emulate.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for queries, want := range map[int]string{71: "", 70: "buffer k_scale"} {
		p := manifest.Problem{Batch: 1, Heads: 1, KVHeads: 1, Queries: queries, Keys: 500, HeadDim: 64, DType: "f16", Scale: 1}
		if _, err := plannedFor(m, k, p); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%d queries: %v, want %q", queries, err, want)
		}
	}
}

// A layer in FP32 is no fault.
func TestFP32IsSkipped(t *testing.T) {
	m, cfg := load(t, "sage2-8b-sm90")
	x, err := layerdumps.NewTensor("x", format.FP32, [4]int{1, 1, 3, 64}, make([]byte, 4*3*64))
	if err != nil {
		t.Fatal(err)
	}
	l := &layerdumps.Layer{Name: "x", Q: x, K: x, V: x}
	cs := []Case{layerCase(l)}
	rep, err := Run(context.Background(), &simulated{m: m, cfg: cfg}, m, "simulated", "sm_90", cs, Options{Jobs: 1})
	if err != nil || rep.Skipped != 1 || !strings.Contains(rep.Cases[0].Skipped, "FP16 or BF16") {
		t.Errorf("%+v, %v", rep, err)
	}
}

// Inputs depend on the seed and the case alone.
func TestInputsAreReproducible(t *testing.T) {
	same := func(a, b *layerdumps.Layer) bool {
		return bytes.Equal(a.Q.Bytes(), b.Q.Bytes()) && bytes.Equal(a.K.Bytes(), b.K.Bytes()) && bytes.Equal(a.V.Bytes(), b.V.Bytes())
	}
	s := Shape{1, 4, 2, 20, 30, 64}
	seen := map[string]bool{}
	for _, seed := range []uint64{1, 2} {
		m := Matrix{Shapes: []Shape{s}, DTypes: []string{"f16"}, Causal: []bool{false}, Seed: seed}
		for _, c := range m.Cases() {
			a, err := c.Open()
			if err != nil {
				t.Fatal(err)
			}
			b, err := c.Open()
			if err != nil {
				t.Fatal(err)
			}
			if !same(a, b) {
				t.Errorf("%s: made twice, differs", c.Name)
			}
			if key := string(a.Q.Bytes()) + string(a.V.Bytes()); seen[key] {
				t.Errorf("%s, seed %d: another case has the same inputs", c.Name, seed)
			} else {
				seen[key] = true
			}
		}
	}
}

func TestParseShape(t *testing.T) {
	for _, text := range []string{"", "1x1", "1x3/2x5x5x64", "1x1/1x0x5x64", "1x1/1x5x5x257", "1x1/1x5x5x64x", "9999999x99999/1x99999x9x128"} {
		if s, err := ParseShape(text); err == nil {
			t.Errorf("ParseShape(%q) = %v, want an error", text, s)
		}
	}
	const text = "2x8/2x100x333x64"
	if s, err := ParseShape(text); err != nil || s.String() != text {
		t.Errorf("ParseShape(%q) = %v, %v", text, s, err)
	}
}
