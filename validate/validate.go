package validate

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/explain"
	"github.com/sageacc/sageacc/kernels/manifest"
	"github.com/sageacc/sageacc/layerdumps"
)

// Schema is the version of Report's JSON form.
const Schema = "sageacc/validate/v1"

// Options control a validation.
type Options struct {
	// Explain searches for the numerics of the first case that differs, and for the
	// number of keys from which on it does.
	Explain bool
	// Jobs is the number of goroutines of the emulator; it changes no result.
	Jobs int
	// Progress, if not nil, is called with the finished part.
	Progress func(part float64)
}

// Report is what became of the cases.
type Report struct {
	Schema string `json:"schema"`
	Kernel string `json:"kernel"`
	// Config is the emulated program, as flags would say it.
	Config string `json:"config"`
	Device string `json:"device"`
	Arch   string `json:"arch"`
	Passed int    `json:"passed"`
	Failed int    `json:"failed"`
	// Skipped counts cases that the kernel does not take.
	Skipped    int      `json:"skipped"`
	Elements   int64    `json:"elements"`
	Mismatched int64    `json:"mismatched"`
	Cases      []Result `json:"cases"`
}

// Result is one case.
type Result struct {
	Name       string `json:"name"`
	Elements   int64  `json:"elements"`
	Mismatched int64  `json:"mismatched"`
	// LSE counts the elements of the log-sum-exp that differ, if the kernel writes it.
	LSE *Count `json:"lse,omitempty"`
	// Skipped says why the kernel does not take the case.
	Skipped string `json:"skipped,omitempty"`
	// First is the first output element that differs.
	First *Difference `json:"first_difference,omitempty"`
	// Stage is the first stage that differs, of those that the manifest names.
	Stage *StageDifference `json:"first_stage,omitempty"`
	// Keys is, after a search, the fewest keys, in whole tiles, with which the head
	// of the first difference differs too.
	Keys int `json:"keys,omitempty"`
	// Explanation names the numerics that give the output.
	Explanation *explain.Result `json:"explanation,omitempty"`
}

// Count counts elements.
type Count struct {
	Elements   int64 `json:"elements"`
	Mismatched int64 `json:"mismatched"`
}

// Difference is an output element that differs.
type Difference struct {
	Batch   int `json:"batch"`
	Head    int `json:"head"`
	Token   int `json:"token"`
	Channel int `json:"channel"`
	// Tile is the block of query rows, of BlockQ rows each, and Tiles how many tiles
	// of keys it sees.
	Block int `json:"block"`
	Tiles int `json:"tiles"`
	// GPU and Emulated are bit patterns.
	GPU      string `json:"gpu"`
	Emulated string `json:"emulated"`
}

// StageDifference is a difference before the output.
type StageDifference struct {
	Stage      string `json:"stage"`
	Elements   int    `json:"elements"`
	Mismatched int    `json:"mismatched"`
	// Index is the first element that differs, counted over the whole tensor.
	Index    int    `json:"index"`
	GPU      string `json:"gpu"`
	Emulated string `json:"emulated"`
}

// Run validates a kernel that runs on arch over the cases.
func Run(ctx context.Context, r Runner, m *manifest.Manifest, device, arch string, cases []Case, opt Options) (*Report, error) {
	cfg, err := m.Config(arch)
	if err != nil {
		return nil, fmt.Errorf("%s: emulates: %w", m.Name, err)
	}
	k, err := emulate.New(cfg)
	if err != nil {
		return nil, err
	}
	rep := &Report{Schema: Schema, Kernel: m.Name, Config: Describe(cfg), Device: device, Arch: arch}
	explained := false
	for i := range cases {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		res, err := runCase(ctx, r, m, k, &cases[i], opt, opt.Explain && !explained)
		if err != nil {
			return nil, fmt.Errorf("case %s: %w", cases[i].Name, err)
		}
		explained = explained || res.Explanation != nil
		switch {
		case res.Skipped != "":
			rep.Skipped++
		case res.Mismatched > 0 || res.LSE != nil && res.LSE.Mismatched > 0:
			rep.Failed++
		default:
			rep.Passed++
		}
		rep.Elements += res.Elements
		rep.Mismatched += res.Mismatched
		rep.Cases = append(rep.Cases, res)
		if opt.Progress != nil {
			opt.Progress(float64(i+1) / float64(len(cases)))
		}
	}
	return rep, nil
}

// Describe writes a configuration in words.
func Describe(c emulate.Config) string {
	return fmt.Sprintf("%s on %s: QK int%d %s, smooth %s; PV %s, accumulated in %s",
		c.Name, c.Arch, c.QKBits, c.QKGranularity, c.Smooth(), c.PVType, c.PVAccum)
}

func runCase(ctx context.Context, r Runner, m *manifest.Manifest, k *emulate.Kernel, c *Case, opt Options, search bool) (Result, error) {
	res := Result{Name: c.Name}
	l, release, err := c.open()
	if err != nil {
		return res, err
	}
	defer release()
	if err := r.Check(l); err != nil {
		res.Skipped = err.Error()
		return res, nil
	}
	e, got, err := both(ctx, r, m, k, l, opt.Jobs)
	if err != nil {
		return res, err
	}
	e.compare(got, &res)
	if res.Mismatched == 0 && (res.LSE == nil || res.LSE.Mismatched == 0) {
		return res, nil
	}
	if res.Stage, err = e.firstStage(m, got); err != nil {
		return res, err
	}
	if !search || res.First == nil {
		return res, nil
	}
	if res.Keys, err = fewestKeys(ctx, r, m, k, l, res.First, opt.Jobs); err != nil {
		return res, err
	}
	with := *l
	o, err := layerdumps.NewTensor(l.Name+".o", l.Q.DType, l.Q.Shape(), got["o"])
	if err != nil {
		return res, err
	}
	with.O = &o
	res.Explanation, err = explain.Layer(ctx, &with, explain.Options{Config: k.Config(), Jobs: opt.Jobs})
	return res, err
}

// both runs the kernel and the emulator on a layer.
func both(ctx context.Context, r Runner, m *manifest.Manifest, k *emulate.Kernel, l *layerdumps.Layer, jobs int) (*emulated, map[string][]byte, error) {
	e, err := newEmulated(ctx, k, l, jobs)
	if err != nil {
		return nil, nil, err
	}
	given, err := e.given(m)
	if err != nil {
		return nil, nil, err
	}
	got, err := r.Run(l, given)
	if err != nil {
		return nil, nil, err
	}
	return e, got, e.run(ctx, jobs)
}

// given makes the buffers that a manifest takes from the emulator.
func (e *emulated) given(m *manifest.Manifest) (map[string][]byte, error) {
	p, err := problem(e.l)
	if err != nil {
		return nil, err
	}
	plan, err := m.Plan(p)
	if err != nil {
		return nil, err
	}
	given := map[string][]byte{}
	for name, b := range m.Buffers {
		if b.From == "" {
			continue
		}
		x, err := e.stage(name, plan.Types[name], plan.Sizes[name])
		if err != nil {
			return nil, err
		}
		if x == nil {
			return nil, fmt.Errorf("buffer %s: the emulated program has no such tensor", name)
		}
		given[name] = x
	}
	return given, nil
}

// Outputs runs a kernel on a layer and returns what it wrote, without comparing.
func Outputs(ctx context.Context, r Runner, m *manifest.Manifest, l *layerdumps.Layer, arch string, jobs int) (map[string][]byte, error) {
	cfg, err := m.Config(arch)
	if err != nil {
		return nil, err
	}
	k, err := emulate.New(cfg)
	if err != nil {
		return nil, err
	}
	e, err := newEmulated(ctx, k, l, jobs)
	if err != nil {
		return nil, err
	}
	given, err := e.given(m)
	if err != nil {
		return nil, err
	}
	return r.Run(l, given)
}

// sameBits compares bit patterns; any NaN equals any NaN.
func sameBits(dtype format.DType, a, b uint32) bool {
	if a == b {
		return true
	}
	x, y := dtype.FromBits(a), dtype.FromBits(b)
	return x != x && y != y
}

// compare counts the output elements that differ.
func (e *emulated) compare(got map[string][]byte, res *Result) {
	l := e.l
	n, d := l.Q.Tokens, l.Q.Dim
	dtype := format.DType(l.Q.DType)
	o := got["o"]
	res.Elements = int64(len(e.o))
	for i, want := range e.o {
		g := uint32(binary.LittleEndian.Uint16(o[2*i:]))
		if sameBits(dtype, g, want) {
			continue
		}
		res.Mismatched++
		if res.First != nil {
			continue
		}
		t := e.k.Tiling()
		head, token := i/(n*d), i/d%n
		keys := l.K.Tokens
		if l.Causal {
			keys = min(keys, (token/t.BlockQ+1)*t.BlockQ)
		}
		res.First = &Difference{
			Batch: head / l.Q.Heads, Head: head % l.Q.Heads, Token: token, Channel: i % d,
			Block: token / t.BlockQ, Tiles: (keys + t.BlockK - 1) / t.BlockK,
			GPU:      fmt.Sprintf("0x%04x (%g)", g, dtype.FromBits(g)),
			Emulated: fmt.Sprintf("0x%04x (%g)", want, dtype.FromBits(want)),
		}
	}
	lse, ok := got["lse"]
	if !ok {
		return
	}
	res.LSE = &Count{Elements: int64(len(e.lse))}
	for i, want := range e.lse {
		if !sameBits(format.FP32, binary.LittleEndian.Uint32(lse[4*i:]), math.Float32bits(want)) {
			res.LSE.Mismatched++
		}
	}
}

// firstStage finds the first stage, in the program's order, that differs.
func (e *emulated) firstStage(m *manifest.Manifest, got map[string][]byte) (*StageDifference, error) {
	p, err := problem(e.l)
	if err != nil {
		return nil, err
	}
	plan, err := m.Plan(p)
	if err != nil {
		return nil, err
	}
	for _, name := range manifest.Stages() {
		g, ok := got[name]
		if !ok {
			continue
		}
		kind := plan.Types[name]
		want, err := e.stage(name, kind, len(g))
		if err != nil {
			return nil, err
		}
		if want == nil {
			continue // the emulated program has no such stage
		}
		if len(want) != len(g) {
			return nil, fmt.Errorf("buffer %s has %d bytes in the manifest; the emulator's has %d", name, len(g), len(want))
		}
		if d := stageDifference(name, kind, g, want); d.Mismatched > 0 {
			return d, nil
		}
	}
	return nil, nil
}

func stageDifference(name, kind string, got, want []byte) *StageDifference {
	width := 1
	switch kind {
	case "f32", "i32":
		width = 4
	case "f16", "bf16":
		width = 2
	}
	per := 1 // elements in width bytes
	if kind == "i4" {
		per = 2
	}
	element := func(b []byte, i int) (uint32, string) {
		switch {
		case kind == "i4":
			x := int8(b[i/2]<<(4-i%2*4)) >> 4
			return uint32(uint8(x)), fmt.Sprint(x)
		case width == 4:
			x := binary.LittleEndian.Uint32(b[4*i:])
			return x, fmt.Sprintf("0x%08x (%g)", x, math.Float32frombits(x))
		case width == 2:
			x := uint32(binary.LittleEndian.Uint16(b[2*i:]))
			return x, fmt.Sprintf("0x%04x", x)
		case kind == "i8":
			return uint32(b[i]), fmt.Sprint(int8(b[i]))
		}
		return uint32(b[i]), fmt.Sprintf("0x%02x", b[i])
	}
	d := &StageDifference{Stage: name, Elements: len(got) / width * per}
	for i := range d.Elements {
		g, gs := element(got, i)
		w, ws := element(want, i)
		if g == w || kind == "f32" && sameBits(format.FP32, g, w) {
			continue
		}
		d.Mismatched++
		if d.Mismatched == 1 {
			d.Index, d.GPU, d.Emulated = i, gs, ws
		}
	}
	return d
}

// fewestKeys runs the head of a difference alone on growing prefixes of the keys,
// whole tiles of them, until it differs; 0 if it never does.
func fewestKeys(ctx context.Context, r Runner, m *manifest.Manifest, k *emulate.Kernel, l *layerdumps.Layer, at *Difference, jobs int) (int, error) {
	d := l.Q.Dim
	part := func(t *layerdumps.Tensor, head, n int) (layerdumps.Tensor, error) {
		size := 2 * d * n
		from := 2 * d * t.Tokens * (at.Batch*t.Heads + head)
		return layerdumps.NewTensor(t.Name, t.DType, [4]int{1, 1, n, d}, t.Bytes()[from:from+size])
	}
	one := *l
	var err error
	if one.Q, err = part(&l.Q, at.Head, l.Q.Tokens); err != nil {
		return 0, err
	}
	kvHead := at.Head * l.K.Heads / l.Q.Heads
	step := k.Tiling().BlockK
	for n, tiles := 0, 1; n < l.K.Tokens; {
		n = min(tiles*step, l.K.Tokens)
		if one.K, err = part(&l.K, kvHead, n); err != nil {
			return 0, err
		}
		if one.V, err = part(&l.V, kvHead, n); err != nil {
			return 0, err
		}
		if r.Check(&one) != nil {
			return 0, nil // a kernel that does not take one head says nothing here
		}
		e, got, err := both(ctx, r, m, k, &one, jobs)
		if err != nil {
			return 0, err
		}
		var res Result
		if e.compare(got, &res); res.Mismatched > 0 {
			return n, nil
		}
		// Every tile at first, then ever larger steps.
		tiles += 1 + tiles/8
	}
	return 0, nil
}
