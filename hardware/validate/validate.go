package validate

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/sageacc/sageacc/compare/explain"
	"github.com/sageacc/sageacc/compare/heads"
	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/internal/version"
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
	// Tool is the build of the emulator that the kernel was compared with.
	Tool   version.Info `json:"tool"`
	Kernel string       `json:"kernel"`
	// Config is the emulated program, as flags would say it.
	Config string `json:"config"`
	// Description is the whole description of the kernel that was emulated.
	Description program.Program `json:"description"`
	Device      string          `json:"device"`
	Arch        string          `json:"arch"`
	Passed      int             `json:"passed"`
	Failed      int             `json:"failed"`
	// Skipped counts cases that the kernel does not take.
	Skipped    int   `json:"skipped"`
	Elements   int64 `json:"elements"`
	Mismatched int64 `json:"mismatched"`
	// StageElements counts elements of the tensors before the outputs.
	StageElements int64    `json:"stage_elements"`
	Cases         []Result `json:"cases"`
}

// Result is one case.
type Result struct {
	Name       string `json:"name"`
	Elements   int64  `json:"elements"`
	Mismatched int64  `json:"mismatched"`
	// StageElements counts the elements of the tensors before the output that the
	// kernel wrote and the manifest names: means, scales and codes. All were compared.
	StageElements int64 `json:"stage_elements"`
	// LSE counts the elements of the log-sum-exp that differ, if the kernel writes it.
	LSE *Count `json:"lse,omitempty"`
	// Skipped says why the kernel does not take the case.
	Skipped string `json:"skipped,omitempty"`
	// First is the first output element that differs.
	First *Difference `json:"first_difference,omitempty"`
	// Stages says, where anything differs, which of the tensors before the output
	// does first.
	Stages *explain.StageReport `json:"stages,omitempty"`
	// Keys is, after a search, the fewest keys, in whole tiles, with which the head
	// of the first difference differs too.
	Keys int `json:"keys,omitempty"`
	// Explanation names the numerics that give the output.
	Explanation *explain.Result `json:"explanation,omitempty"`
}

// differs says that the output or the log-sum-exp differs.
func (r *Result) differs() bool { return r.Mismatched > 0 || r.LSE != nil && r.LSE.Mismatched > 0 }

// Failed says that anything differs.
func (r *Result) Failed() bool { return r.differs() || r.Stages != nil && r.Stages.First != nil }

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
	// Block is the block of query rows, and Tiles how many tiles of keys it looks at.
	Block int `json:"block"`
	Tiles int `json:"tiles"`
	// GPU and Emulated are bit patterns.
	GPU      string `json:"gpu"`
	Emulated string `json:"emulated"`
}

// Run validates a kernel that runs on arch over the cases.
func Run(ctx context.Context, r Runner, m *manifest.Manifest, device, arch string, cases []Case, opt Options) (*Report, error) {
	k, err := kernel(m, arch)
	if err != nil {
		return nil, err
	}
	if err := checkCases(m, k, cases); err != nil {
		return nil, err
	}
	rep := &Report{Schema: Schema, Tool: version.Get(), Kernel: m.Name, Config: Describe(k.Program()), Description: k.Program(), Device: device, Arch: arch}
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
		case res.Failed():
			rep.Failed++
		default:
			rep.Passed++
		}
		rep.Elements += res.Elements
		rep.Mismatched += res.Mismatched
		rep.StageElements += res.StageElements
		rep.Cases = append(rep.Cases, res)
		if opt.Progress != nil {
			opt.Progress(float64(i+1) / float64(len(cases)))
		}
	}
	return rep, nil
}

// Describe writes a kernel in words.
func Describe(p program.Program) string {
	text := fmt.Sprintf("%s on %s: QK %s %s, smooth %s; PV %s, accumulated in %s",
		p.Name, p.Arch, p.QKCodes.Format, p.QKCodes.Granularity, p.Smooth(), p.VCodes.Format, p.Accum())
	base := program.Base(&p)
	if v := program.Variant(&base, &p); v != "" {
		text += "; variant " + v
	}
	return text
}

func runCase(ctx context.Context, r Runner, m *manifest.Manifest, k *emulate.Kernel, c *Case, opt Options, search bool) (res Result, err error) {
	res.Name = c.Name
	l, err := c.open()
	if err != nil {
		return res, err
	}
	defer func() {
		if err == nil {
			err = l.Check()
		}
	}()
	switch err := r.Check(l); {
	case errors.Is(err, manifest.ErrUnsupported):
		res.Skipped = err.Error()
		return res, nil
	case err != nil:
		return res, err
	}
	e, got, err := both(ctx, r, m, k, l, opt.Jobs)
	if err != nil {
		return res, err
	}
	e.compare(got, &res)
	agree, err := e.stagesAgree(m, got, &res)
	if err != nil {
		return res, err
	}
	if agree && !res.differs() {
		return res, nil
	}
	stages, err := e.stages(m, got)
	if err != nil {
		return res, err
	}
	if res.Stages, err = explain.CompareStages(ctx, l, k.Program(), stages); err != nil {
		return res, err
	}
	if !res.Failed() {
		res.Stages = nil // only padding differed
		return res, nil
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
	res.Explanation, err = explain.Layer(ctx, &with, explain.Options{Program: k.Program(), Jobs: opt.Jobs})
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

// given makes the buffers that a manifest takes from the emulator. It reports a
// stage of another size than the emulator's.
func (e *emulated) given(m *manifest.Manifest) (map[string][]byte, error) {
	p, err := problem(e.l.Layer)
	if err != nil {
		return nil, err
	}
	plan, err := plannedFor(m, e.k, p)
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
		given[name] = x
	}
	return given, nil
}

// Outputs runs a kernel on a layer and returns what it wrote, without comparing.
func Outputs(ctx context.Context, r Runner, m *manifest.Manifest, l *layerdumps.Layer, arch string, jobs int) (map[string][]byte, error) {
	k, err := kernel(m, arch)
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
	dtype := l.Q.DType
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

// stagesAgree compares the buffers that a manifest names after stages as bytes, and
// counts their elements. Padding may differ where this says that they do not agree.
func (e *emulated) stagesAgree(m *manifest.Manifest, got map[string][]byte, res *Result) (bool, error) {
	plan, err := planned(m, e.l.Layer)
	if err != nil {
		return false, err
	}
	agree := true
	for _, name := range manifest.Stages() {
		raw, ok := got[name]
		if !ok {
			continue
		}
		want, err := e.stage(name, plan.Types[name], len(raw))
		if err != nil {
			return false, err
		}
		res.StageElements += int64(len(raw) * 8 / plan.Bits(name))
		agree = agree && bytes.Equal(raw, want)
	}
	return agree, nil
}

// stages decodes the buffers that a manifest names after stages, head by head, as
// the kernel wrote them.
func (e *emulated) stages(m *manifest.Manifest, got map[string][]byte) ([]explain.Stages, error) {
	l := e.l
	plan, err := planned(m, l.Layer)
	if err != nil {
		return nil, err
	}
	d := l.Q.Dim
	group := l.Q.Heads / l.K.Heads
	numbers := map[string][]float32{}
	for _, name := range manifest.Stages() {
		if raw, ok := got[name]; ok && !strings.HasSuffix(name, "_codes") {
			if numbers[name], err = e.numbers(name, plan.Types[name], raw); err != nil {
				return nil, err
			}
		}
	}
	var out []explain.Stages
	for i := range l.Q.Batch * l.Q.Heads {
		s := explain.Stages{Batch: i / l.Q.Heads, Head: i % l.Q.Heads}
		for _, name := range manifest.Stages() {
			raw, ok := got[name]
			if !ok {
				continue
			}
			at, heads := i, l.Q.Batch*l.Q.Heads
			if name[0] != 'q' {
				// Only the first head of a group has its kv head's.
				if i%group != 0 {
					continue
				}
				at, heads = i/group, l.K.Batch*l.K.Heads
			}
			if len(raw)%heads != 0 {
				return nil, fmt.Errorf("buffer %s has %d bytes, which do not divide into %d heads", name, len(raw), heads)
			}
			size := len(raw) / heads
			x := raw[at*size : (at+1)*size]
			kind := plan.Types[name]
			n := len(numbers[name]) / heads
			y := numbers[name][at*n : (at+1)*n]
			switch name {
			case "k_mean":
				s.KMean = y
			case "k_scale":
				s.KScale = y
			case "q_scale":
				s.QScale = y
			case "v_mean":
				s.VMean = y
			case "v_scale":
				s.VScale = y
			case "k_codes":
				// More rows than there are keys are padding.
				s.KCodes = integers(x, kind)
				s.KCodes = s.KCodes[:min(len(s.KCodes), l.K.Tokens*d)]
			case "q_codes":
				s.QCodes = integers(x, kind)
				s.QCodes = s.QCodes[:min(len(s.QCodes), l.Q.Tokens*d)]
			case "v_codes":
				c := valueCodes(x, kind)
				if len(c)%d != 0 || len(c)/d%16 != 0 {
					return nil, fmt.Errorf("buffer %s has %d codes for a head: want %d channels of a multiple of 16 tokens", name, len(c), d)
				}
				s.VCodes = make([]uint16, len(c))
				n := len(c) / d
				for j, c := range c {
					s.VCodes[j/n*n+e.k.Stored(j%n)] = c
				}
			}
		}
		out = append(out, s)
	}
	return out, nil
}

// numbers decodes a stage of means or scales. A number that is the emulator's,
// rounded to a narrower buffer's type, is given as the emulator's: the rounding is
// the buffer's, and no difference.
func (e *emulated) numbers(name, kind string, raw []byte) ([]float32, error) {
	got := floats(raw, kind)
	if kind == "f32" {
		return got, nil
	}
	rounded, err := e.stage(name, kind, len(raw))
	if err != nil {
		return nil, err
	}
	exact, err := e.stage(name, "f32", 2*len(raw))
	if err != nil {
		return nil, err
	}
	const size = 2 // the bytes of an f16 and of a bf16
	for i, x := range floats(exact, "f32") {
		if i < len(got) && bytes.Equal(raw[size*i:size*(i+1)], rounded[size*i:size*(i+1)]) {
			got[i] = x
		}
	}
	return got, nil
}

// floats decodes numbers of a manifest's type.
func floats(x []byte, kind string) []float32 {
	if kind != "f16" && kind != "bf16" {
		out := make([]float32, len(x)/4)
		for i := range out {
			out[i] = math.Float32frombits(binary.LittleEndian.Uint32(x[4*i:]))
		}
		return out
	}
	dtype := format.FP16
	if kind == "bf16" {
		dtype = format.BF16
	}
	out := make([]float32, len(x)/2)
	for i := range out {
		out[i] = dtype.FromBits(uint32(binary.LittleEndian.Uint16(x[2*i:])))
	}
	return out
}

// valueCodes returns codes of V of a manifest's type.
func valueCodes(x []byte, kind string) []uint16 {
	if kind == "f16" {
		out := make([]uint16, len(x)/2)
		for i := range out {
			out[i] = binary.LittleEndian.Uint16(x[2*i:])
		}
		return out
	}
	out := make([]uint16, len(x))
	for i, c := range x {
		out[i] = uint16(c)
	}
	return out
}

// integers decodes codes of a manifest's type.
func integers(x []byte, kind string) []int8 {
	var out []int8
	for _, b := range x {
		if kind == "i4" {
			out = append(out, int8(b<<4)>>4, int8(b)>>4)
		} else {
			out = append(out, int8(b))
		}
	}
	return out
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
	view, err := heads.Bind(k, l)
	if err != nil {
		return 0, err
	}
	step := view.Kernel.Tiling().BlockK
	for n, tiles := 0, 1; n < l.K.Tokens; {
		n = min(tiles*step, l.K.Tokens)
		if one.K, err = part(&l.K, kvHead, n); err != nil {
			return 0, err
		}
		if one.V, err = part(&l.V, kvHead, n); err != nil {
			return 0, err
		}
		switch err := r.Check(&one); {
		case errors.Is(err, manifest.ErrUnsupported):
			return 0, nil // a kernel that does not take one head says nothing here
		case err != nil:
			return 0, fmt.Errorf("its first %d keys: %w", n, err)
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
