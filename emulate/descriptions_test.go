package emulate

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/emulate/tensorcore"
)

// This file invents descriptions and heads for the property tests.

// invented are values for the choices that are no words of a list, by path; the paths of
// all shapes and units are those of the first.
var invented = map[string][]string{
	"arch":                  tensorcore.Archs(),
	"operands.dtypes":       {"fp16", "bf16", "fp16, bf16", "fp32", "fp16, bf16, fp32"},
	"operands.max_head_dim": {"64", "128", "256"},
	"v_codes.max":           {"0", "448", "2.25", "57344", "127", "1e-30", "3e38", "100.5"},
	"shape.max_head_dim":    {"0", "32", "128"},
	"shape.rows":            {"8", "16", "32", "48", "64", "80", "128"},
	"shape.warp_rows":       {"8", "16", "24", "32", "64"},
	"shape.keys":            {"16", "32", "48", "64", "96", "128", "160"},
	"tiles.split":           {"none", "2", "3", "fa2-heuristic"},
	"tiles.sms":             {"0", "1", "132"},
	"shape.head_dim":        {"0", "16"},
	"shape.accum":           program.Accums(),
	"shape.max_queries":     {"0", "1", "64"},
	"shape.max_keys":        {"0", "64", "100"},
	"shape.arch":            {"", "sm_90", "sm_89, sm_120"},
	"shape.set":             {"", "exponent.offset=1"},
	"mask.shift":            {"0", "1", "-1", "7", "-40", "1000"},
	"mask.beyond_value":     {"0", "-10000", "-inf", "-3e38"},
	"mask.value":            {"-5000000", "-inf", "-10000", "-3.4028235e38"},
	"mask.boolean_value":    {"0", "-10000", "-inf"},
	"scores.tail_tiles":     {"0", "1", "2", "3", "all"},
	"maximum.start":         {"-5000000", "-inf", "-10000", "-3.4028235e38"},
	"p.scale":               {"0", "448", "240", "0.1", "1000"},
	"exponent.offset":       {"0", "8.807", "-8.807", "15.807", "6.988", "8", "-3.5", "99"},
	"denominator.start":     {"0", "1"},
	"pv.level":              {"tile", "all", "16", "32", "64"},
	"pv.threshold":          {"0", "0.5", "3", "15", "50", "-1"},
	"unit.fraction_bits":    {"unit", "1", "7", "13", "14", "23", "25", "30"},
	"unit.step":             {"unit", "1", "2", "4", "8", "16", "32"},
}

// instructions are the names of all units, and exact arithmetic.
var instructions = func() []string {
	names := []string{"exact", "mma.m16n8k16.f32.input", "mma.m16n8k16.f32.f16@sm_80", "mma.m16n8k32.f32.e4m3@sm_89", "wgmma.m64nNk32.f32.e4m3@sm_90"}
	for _, u := range tensorcore.Units() {
		if u.Arch == tensorcore.Ideal {
			names = append(names, u.Instruction, u.Instruction+"@"+tensorcore.Ideal)
		}
	}
	return names
}()

// values returns what a choice may be set to, nil where nothing is to be tried.
func values(c program.Choice) []string {
	if len(c.Choices) > 0 {
		return c.Choices
	}
	switch c.Path {
	case "schema", "name", "summary", "source", "evidence":
		return nil
	case "denominator.unit":
		return append([]string{"none"}, instructions...)
	}
	var shape int
	var field, unit string
	if n, _ := fmt.Sscanf(c.Path, "tiles.shapes.%d.%s", &shape, &field); n == 2 {
		return invented["shape."+field]
	}
	if n, _ := fmt.Sscanf(c.Path, "tiles.split_shapes.%d.%s", &shape, &field); n == 2 {
		return invented["shape."+field]
	}
	for _, unit = range []string{"scores.unit.", "pv.unit."} {
		if len(c.Path) > len(unit) && c.Path[:len(unit)] == unit {
			if field = c.Path[len(unit):]; field == "instruction" {
				return instructions
			}
			return invented["unit."+field]
		}
	}
	return invented[c.Path]
}

// TestEveryChoiceIsInvented: the property tests try every choice of a description.
func TestEveryChoiceIsInvented(t *testing.T) {
	for _, p := range program.Presets() {
		for _, c := range p.Choices() {
			switch c.Path {
			case "schema", "name", "summary", "source", "evidence":
				continue
			}
			if values(c) == nil {
				t.Errorf("no values to try for %s", c.Path)
			}
		}
	}
}

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

// groups are choices that only make sense together; each list is a set of edits.
var groups = [][]string{
	{"qk_codes.format=input", "qk_codes.granularity=none", "qk_codes.scale=none", "qk_codes.round=none", "smoothing.q=none", "smoothing.delta_s=none", "smoothing.k=none", "scores.unit.instruction=mma.m16n8k16.f32.input", "operands.dtypes=fp16, bf16"},
	{"qk_codes.format=input", "qk_codes.granularity=none", "qk_codes.scale=none", "qk_codes.round=none", "smoothing.q=none", "smoothing.delta_s=none", "scores.unit.instruction=exact"},
	{"qk_codes.format=exact", "qk_codes.granularity=none", "qk_codes.scale=none", "qk_codes.round=none", "smoothing.q=none", "smoothing.delta_s=none"},
	{"qk_codes.format=e4m3", "qk_codes.granularity=per-tensor", "qk_codes.scale=descale", "qk_codes.round=even", "smoothing.q=none", "smoothing.delta_s=none", "scores.unit.instruction=mma.m16n8k32.f32.e4m3", "operands.descale=kv-head"},
	{"v_codes.format=input", "v_codes.scale=none", "v_codes.max=0", "p.format=input", "finish.scale=none", "pv.unit.instruction=mma.m16n8k16.f32.input", "operands.dtypes=fp16, bf16"},
	{"v_codes.format=exact", "v_codes.scale=none", "v_codes.max=0", "p.format=exact", "finish.scale=none"},
	{"v_codes.format=fp16", "v_codes.scale=none", "v_codes.max=0", "p.format=fp16", "finish.scale=none", "pv.unit.instruction=mma.m16n8k16.f32.f16"},
	{"v_codes.scale=descale", "v_codes.format=e4m3", "p.format=e4m3", "v_codes.max=448", "operands.descale=tensor"},
	{"qk_codes.format=e4m3", "qk_codes.granularity=per-tensor", "qk_codes.scale=descale", "qk_codes.round=even", "smoothing.q=none", "smoothing.delta_s=none", "scores.unit.instruction=mma.m16n8k32.f32.e4m3", "operands.descale=head", "scores.product=fp64-descale"},
	{"p.scale=448", "finish.scale=inverse", "denominator.of=p", "finish.inverse=rcp.approx.ftz"}, {"maximum.start=-inf", "mask.value=-inf", "maximum.unseen=lowest"}, {"mask.tiles=all", "mask.window=left"},
	{"p.format=exact", "pv.unit.instruction=exact"}, {"v_codes.format=exact", "v_codes.scale=none", "v_codes.max=0", "finish.scale=none"},
	{"pv.level=all", "pv.join=none"}, {"pv.level=tile", "pv.join=fma"}, {"pv.level=32", "pv.join=twice"},
	{"pv.level=all", "pv.join=none", "pv.rescale=fp16", "pv.unit.sum_round=fp16-nearest"},
	{"smoothing.q=tile-mean", "smoothing.delta_s=smoothed"}, {"smoothing.q=tile-mean", "smoothing.delta_s=raw"},
	{"smoothing.v=mean", "finish.mean=fma"}, {"smoothing.v=fused-mean", "finish.mean=fma"}, {"smoothing.v=input-mean", "finish.mean=output"},
	{"qk_codes.fold=sm_scale*log2e", "scores.sm_scale=folded"}, {"qk_codes.fold=none", "scores.sm_scale=scores"},
	{"denominator.of=ones", "denominator.order=chain", "denominator.unit=mma.m16n8k32.f32.e4m3", "denominator.rescale=multiply"},
	{"denominator.of=ones", "denominator.order=chain", "denominator.unit=mma.m16n8k16.f32.f16", "denominator.rescale=multiply"},
	{"denominator.order=sequential", "denominator.rescale=multiply"}, {"denominator.order=groups32", "denominator.rescale=none"},
	{"tiles.order=last-to-first", "mask.tiles=all"}, {"mask.tiles=all", "mask.boolean=value"}, {"mask.tiles=all", "mask.boolean=add", "mask.boolean_value=-10000", "mask.additive=scaled"},
	{"mask.tiles=all", "mask.window=yes"}, {"mask.boolean=additive", "mask.additive=scaled", "mask.tiles=all", "qk_codes.fold=none", "scores.sm_scale=scores"},
	{"operands.packed=yes", "smoothing.k=packed-mean"},
	{"mask.beyond=added", "mask.beyond_value=-10000"}, {"maximum.of=scores", "scores.tail_tiles=all"},
	{"maximum.of=scores", "qk_codes.granularity=per-block"}, {"maximum.start=-inf", "mask.value=-inf", "maximum.unseen=zero"},
	{"finish.inverse=divide", "finish.scale=output"},
	{"maximum.of=tile", "denominator.order=pairwise16", "denominator.rescale=multiply", "pv.level=tile", "pv.join=factor"},
	{"maximum.of=tile", "denominator.order=pairwise16", "denominator.rescale=fma", "pv.level=tile", "pv.join=factor"},
	{"denominator.rescale=multiply-but-last", "tiles.order=first-to-last"}, {"denominator.rescale=multiply-but-last", "denominator.order=sequential"},
	{"maximum.of=tile-unbounded", "denominator.order=groups16", "denominator.rescale=multiply", "pv.level=32", "pv.join=factor", "denominator.of=codes-but-last", "tiles.order=first-to-last"},
	{"v_codes.format=int8", "p.format=uint8", "pv.unit.instruction=mma.m16n8k32.s32.u8", "v_codes.scale=reciprocal", "v_codes.max=127"},
	{"qk_codes.scale=reciprocal", "qk_codes.round=even", "qk_codes.rotate=h64", "smoothing.k=anchor"}, {"qk_codes.rotate=h128-signed"}, {"qk_codes.rotate=h4"}, {"qk_codes.rotate=h128"},
	{"v_codes.cast=fp16"}, {"mask.block_map=yes"}, {"maximum.of=scaled", "pv.join=twice-but-last", "pv.level=tile"}, {"maximum.of=scaled", "pv.level=32", "pv.join=twice-but-last"},
	{"pv.threshold=0.5"}, {"maximum.of=scaled", "mask.causal=none", "mask.tiles=all", "pv.threshold=2", "mask.block_map=yes"},
	{"scores.sm_scale=with-scale", "scores.tail_tiles=0", "mask.additive=log2e", "mask.boolean=value", "mask.tiles=all", "finish.empty=hidden-zero"},
}

// edit makes random changes: a group, named edits, or single choices.
func edit(r *rand.Rand, p *program.Program) {
	apply := func(path, value string) { _ = p.Set(path, value) }
	switch r.IntN(6) {
	case 0, 1:
		for _, e := range pick(r, groups) {
			for i := range e {
				if e[i] == '=' {
					apply(e[:i], e[i+1:])
					break
				}
			}
		}
	case 2:
		switch r.IntN(4) {
		case 0:
			_ = p.SetAccum(pick(r, program.Accums()))
		case 1:
			_ = p.SetBits(4 + 4*r.IntN(2))
		case 2:
			_ = p.SetSmooth(pick(r, []string{"none", "k", "q,k", "q,k,v", "v", "q"}))
		case 3:
			keys, rows := pick(r, []int{32, 64, 96, 128}), pick(r, []int{32, 64, 96, 128})
			for i := range p.Tiles.Shapes {
				s := fmt.Sprintf("tiles.shapes.%d.", i)
				apply(s+"keys", strconv.Itoa(keys))
				apply(s+"rows", strconv.Itoa(rows))
				apply(s+"warp_rows", strconv.Itoa(pick(r, []int{8, 16, 32})))
			}
		}
	default:
		c := pick(r, p.Choices())
		if v := values(c); v != nil {
			apply(c.Path, pick(r, v))
		}
	}
}

// randomProgram walks from a known kernel to a description that Validate takes. Far is
// how many changes it has at most.
func randomProgram(r *rand.Rand, far int) program.Program {
	p := pick(r, program.Presets())
	if r.IntN(2) == 0 {
		// One that the vector paths have.
		p, _ = program.Preset(pick(r, []string{"sage2-4b", "sage2-8b-sm89", "sage2-8b-sm90"}))
	}
	for range r.IntN(far + 1) {
		q := p
		q.Tiles.Shapes = append([]program.Shape(nil), p.Tiles.Shapes...)
		// Several changes at once, for those that are valid together alone.
		for range 1 + r.IntN(3) {
			edit(r, &q)
		}
		if q.Validate() == nil {
			p = q
		}
	}
	return p
}

// call is a head and how a kernel is called on it.
type call struct {
	q, k, v   []float32
	nq, nk, d int
	dtype     format.DType
	in        QInput
	kIn       KVInput
}

func slicesOf(x []float32, d int) Rows {
	return func(lo, hi int, dst []float32) { copy(dst, x[lo*d:hi*d]) }
}

// randomCall invents a call that the kernel takes.
func randomCall(r *rand.Rand, k *Kernel, p *program.Program) (*call, error) {
	h := &call{nq: 1 + r.IntN(90), nk: 1 + r.IntN(200), d: min(pick(r, []int{1, 4, 7, 8, 16, 24, 32, 40, 48}), p.Operands.MaxHeadDim)}
	h.dtype = pick(r, []format.DType{format.FP16, format.BF16, format.FP32})
	if r.IntN(3) == 0 {
		h.nk = h.nq
	}
	if r.IntN(20) == 0 {
		h.nk += 1024 // a second window
	}
	causal := r.IntN(2) == 0
	_, err := k.For(h.d, h.dtype, causal)
	for try := 0; err != nil && try < 30; try++ {
		h.d, h.dtype, causal = pick(r, []int{8, 16, 64}), pick(r, []format.DType{format.FP16, format.BF16, format.FP32}), !causal
		_, err = k.For(h.d, h.dtype, causal)
	}
	if err != nil {
		return nil, err
	}
	wild := r.IntN(8) == 0
	draw := func(n int, scale, bias float64) []float32 {
		x := make([]float32, n*h.d)
		for i := range x {
			b := 0.0
			if i%h.d == 3 {
				b = bias
			}
			x[i] = h.dtype.Round(float32(scale * (r.NormFloat64() + b)))
			if wild && r.IntN(100) == 0 {
				x[i] = h.dtype.Round(pick(r, []float32{0, 60000, -60000, 3e38, float32(math.Inf(1)), float32(math.NaN()), 1e-40, 6e-8}))
			}
		}
		return x
	}
	sizes := []float64{1, 1, 1, 0, 3, 30, 1e-6}
	h.q, h.k, h.v = draw(h.nq, pick(r, sizes), 2), draw(h.nk, pick(r, sizes), 4), draw(h.nk, pick(r, sizes), 1)
	h.in = QInput{Q: slicesOf(h.q, h.d), Len: h.nq, Causal: causal, Scale: pick(r, []float64{0, 0.125, 0.3, 1})}
	h.kIn = KVInput{K: slicesOf(h.k, h.d), V: slicesOf(h.v, h.d), Len: h.nk, Dim: h.d, DType: h.dtype}
	if r.IntN(4) == 0 {
		h.in.Windowed, h.in.Left, h.in.Right = true, r.IntN(100)-1, r.IntN(100)-1
	}
	if r.IntN(2) == 0 {
		h.in.Visible = func(row, lo, hi int, dst []bool) {
			for i := range dst[:hi-lo] {
				dst[i] = (row*31+(lo+i)*17)%5 != 0
			}
		}
	}
	infinite := r.IntN(2) == 0 && p.Mask.Additive == "log2e"
	if r.IntN(2) == 0 {
		h.in.Bias = func(row, lo, hi int, dst []float32) {
			for i := range dst[:hi-lo] {
				dst[i] = float32((row*13+(lo+i)*7)%11) / 4
				if infinite && dst[i] == 1 {
					dst[i] = float32(math.Inf(-1))
				}
			}
		}
	}
	if r.IntN(4) != 0 {
		density := r.IntN(6)
		h.in.Listed = func(block, lo, hi int, dst []bool) {
			for i := range dst[:hi-lo] {
				dst[i] = (block*5+(lo+i)*3)%7 <= density
			}
		}
	}
	for _, drop := range []func(){func() { h.in.Listed = nil }, func() { h.in.Visible = nil }, func() { h.in.Bias = nil }, func() { h.in.Windowed = false }} {
		if bound, err := h.bind(k); err != nil || bound.Supports(h.in) != nil {
			drop()
		}
	}
	bound, err := h.bind(k)
	if err != nil {
		return nil, err
	}
	return h, bound.Supports(h.in)
}

// bind returns the kernel for the call.
func (h *call) bind(k *Kernel) (*Kernel, error) {
	return k.ForCase(h.dtype, program.Case{
		HeadDim: h.d, Causal: h.in.Causal, Window: h.in.Windowed, Masked: h.in.Visible != nil || h.in.Bias != nil, Keys: h.nk, Queries: h.nq,
	})
}

// result is what a run gives.
type result struct {
	out, lse []float32
	counts   Counts
}

// run runs a call, blocks together as Run or RunBlocks does.
func (h *call) run(t testing.TB, k *Kernel, kv *KV) result {
	t.Helper()
	var ws Workspace
	q := k.Query(h.in, kv, &ws)
	res := result{out: make([]float32, h.nq*h.d), lse: make([]float32, h.nq)}
	if _, err := k.RunBlocks(t.Context(), q, &ws, 0, k.Blocks(h.nq), res.out, res.lse); err != nil {
		t.Fatal(err)
	}
	res.counts = ws.Counts
	res.counts.Merge(&kv.Counts)
	return res
}

// differs says where two results differ, "" where they do not. All NaN are one.
func (a *result) differs(b *result) string {
	for _, x := range []struct {
		what string
		a, b []float32
	}{{"output", a.out, b.out}, {"lse", a.lse, b.lse}} {
		for i := range x.a {
			if math.Float32bits(x.a[i]) != math.Float32bits(x.b[i]) && !(x.a[i] != x.a[i] && x.b[i] != x.b[i]) {
				return fmt.Sprintf("%s[%d] is %x and %x", x.what, i, x.a[i], x.b[i])
			}
		}
	}
	if a.counts != b.counts {
		return fmt.Sprintf("counts are %v and %v", a.counts.Map(), b.counts.Map())
	}
	return ""
}
