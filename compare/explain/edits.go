package explain

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/sageacc/sageacc/compare/heads"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/emulate/quant"
	"github.com/sageacc/sageacc/emulate/tensorcore"
	"github.com/sageacc/sageacc/layerdumps"
)

// trial is a hypothesis ready to be run. Its program is not bound to the layer: what the
// program makes depend on the case is chosen again after every change, as it is for one that
// is typed.
type trial struct {
	program program.Program
	causal  bool
	scale   float64
	changes []string
	// Of a search among kernels: which one it changes, and its place.
	kernel string
	at     int
}

// caseOn is the case of a trial on a layer.
func (t *trial) caseOn(l *layerdumps.Layer) program.Case {
	of := *l
	of.Causal = t.causal
	return heads.Case(&of, t.program.Mask.Causal)
}

// edit is one change to a trial.
type edit struct {
	// point is what the edit changes; a hypothesis changes a point once.
	point string
	// alone says that it is tried without others.
	alone bool
	// apply makes the change and returns the flag that does; a trial that it does not suit is
	// left out.
	apply func(*trial) (flag string, err error)
}

// edits lists the changes that are considered of a layer's trials, where base is the given
// program bound to the layer. The program comes first, because it brings its own fields; the
// others are in the order of likelihood, roughly.
func edits(l *layerdumps.Layer, base *program.Program) []edit {
	b := &builder{layer: l, base: base}
	b.options()
	b.variants()
	// What a description says beyond those.
	for _, s := range sets {
		b.set(s.path, s.value)
	}
	if base.QKCodes.Fold != "none" {
		b.backends()
	}
	n := len(b.list)
	b.lines()
	for i := range b.list[n:] {
		b.list[n+i].alone = true
	}
	return b.list
}

// builder makes a list of edits.
type builder struct {
	layer *layerdumps.Layer
	base  *program.Program
	list  []edit
}

func (b *builder) add(point, flag string, apply func(*trial) error) {
	b.list = append(b.list, edit{point: point, apply: func(t *trial) (string, error) { return flag, apply(t) }})
}

func (b *builder) change(point, flag string, f func(*program.Program) error) {
	b.add(point, flag, func(t *trial) error { return f(&t.program) })
}

// named is a flag that sets several choices; what has that name already is left as it is.
func (b *builder) named(point, flag, value string, has func(*program.Program) string, f func(*program.Program) error) {
	b.change(point, flag+" "+value, func(p *program.Program) error {
		if has(p) == value {
			return nil
		}
		return f(p)
	})
}

// set sets the choice that has a path in the bound program. In the trial's own it may stand
// elsewhere: in the shape that the layer takes, or among what goes with that shape.
func (b *builder) set(path, value string) {
	b.list = append(b.list, edit{point: path, apply: func(t *trial) (string, error) {
		path, value := path, value
		shape, at := t.program.ShapeAt(t.caseOn(b.layer))
		if shape == nil {
			return "", fmt.Errorf("no tile shape for %s", b.layer.Name)
		}
		if field, ok := strings.CutPrefix(path, "tiles.shapes.0."); ok {
			path = at + "." + field
		} else if list, ok := replaced(shape.Set, path, value); ok {
			path, value = at+".set", list
		}
		flag := path + "=" + value
		if strings.Contains(flag, " ") {
			flag = "'" + flag + "'"
		}
		return "--set " + flag, t.program.Set(path, value)
	}})
}

// replaced returns a list of changes that goes with a shape, with another value of a path, and
// whether the path is in it.
func replaced(list, path, value string) (string, bool) {
	found := false
	var out []string
	for c := range strings.SplitSeq(list, ",") {
		c = strings.TrimSpace(c)
		if strings.HasPrefix(c, path+"=") {
			c, found = path+"="+value, true
		}
		out = append(out, c)
	}
	return strings.Join(out, ","), found
}

// options are the flags that choose a kernel and what of it has a flag of its own.
func (b *builder) options() {
	for _, preset := range program.Presets() {
		b.change("program", "--kernel "+preset.Name, func(p *program.Program) error {
			if p.Name != preset.Name {
				*p = preset
			}
			return nil
		})
	}
	for _, a := range program.Accums() {
		b.named("accum", "--pv-accum", a, (*program.Program).Accum, func(p *program.Program) error { return p.SetAccum(a) })
	}
	for _, arch := range tensorcore.Archs() {
		b.change("arch", "--arch "+arch, func(p *program.Program) error { return p.SetArch(arch) })
	}
	for g := quant.PerTensor; g <= quant.PerToken; g++ {
		b.named("granularity", "--qk-granularity", g.String(), func(p *program.Program) string { return p.QKCodes.Granularity }, func(p *program.Program) error { return p.SetGranularity(g) })
	}
	for _, smooth := range []string{"none", "k", "q,k", "k,v", "q,k,v", "q", "v", "q,v"} {
		b.named("smooth", "--smooth", smooth, (*program.Program).Smooth, func(p *program.Program) error { return p.SetSmooth(smooth) })
	}
	causal := !b.layer.Causal
	b.add("causal", fmt.Sprintf("--causal=%v", causal), func(t *trial) error { t.causal = causal; return nil })
	d := float64(b.layer.Q.Dim)
	for _, x := range []float64{1 / math.Sqrt(d), 0.125, 1 / math.Sqrt(128), 1, 1 / d} {
		b.add("scale", "--sm-scale "+strconv.FormatFloat(x, 'g', -1, 64), func(t *trial) error { t.scale = x; return nil })
	}
	for _, bits := range []int{4, 8} {
		b.named("bits", "--qk-bits", strconv.Itoa(bits), func(p *program.Program) string { return strconv.Itoa(p.Bits()) }, func(p *program.Program) error { return p.SetBits(bits) })
	}
	for t := quant.E4M3; t <= quant.FP16; t++ {
		b.named("pv", "--pv-dtype", t.String(), func(p *program.Program) string { return p.VCodes.Format }, func(p *program.Program) error { return p.SetPVType(t) })
	}
}

// variants are the deviations that have names.
func (b *builder) variants() {
	variant := func(point, list string) {
		b.change(point, "--variant "+list, func(p *program.Program) error {
			base := program.Base(p)
			return p.Apply(&base, list)
		})
	}
	// Before its keys, which it would undo.
	variant("variant", "none")
	for _, k := range program.Knobs() {
		for _, value := range append(values(k.Key), "default") {
			variant(k.Key, k.Key+"="+value)
		}
	}
	// Built without contraction, a kernel has no fused operation at all.
	const split = "fma-max=none,fma-exp=none,fma-d=none"
	variant("fma", split+",fma-o=none")
	variant("fma", split)
}

// backends are the quantisers that come with a kernel that folds constants into Q's codes.
func (b *builder) backends() {
	for _, x := range []struct{ name, flags string }{
		{"triton", "--set qk_codes.scale=triton-block --set qk_codes.round=away --set smoothing.k_difference=input"},
		{"cuda", "--set qk_codes.scale=fused --set qk_codes.round=even --set smoothing.k_difference=fp32-ftz"},
	} {
		b.change("backend", x.flags+" (quant_backend "+x.name+")", func(p *program.Program) error { return p.SetQuantBackend(x.name) })
	}
}

// lines are whatever else a line of the description may say.
func (b *builder) lines() {
	for _, c := range b.base.Choices() {
		if silent[c.Path] {
			continue
		}
		for _, value := range append(slices.Clip(c.Choices), numbers[c.Path]...) {
			if value != c.Value {
				b.set(c.Path, value)
			}
		}
	}
	if b.base.Tiles.Combine != "" {
		for n := 1; n <= mostParts; n++ {
			b.set("tiles.split", strconv.Itoa(n))
		}
	}
	for _, x := range []struct {
		path string
		unit program.Unit
	}{{"scores.unit.instruction", b.base.Scores.Unit}, {"pv.unit.instruction", b.base.PV.Unit}} {
		have, err := x.unit.Lookup(b.base.Arch)
		if err != nil || have == nil {
			continue
		}
		for _, u := range tensorcore.Units() {
			if u.Arch == b.base.Arch && u.A == have.A && u.C == have.C && u.Instruction != have.Instruction {
				b.set(x.path, u.Instruction)
			}
		}
	}
}

// sets are choices that no flag of their own has, and that are tried together with others.
var sets = []struct{ path, value string }{
	{"tiles.order", "last-to-first"}, {"tiles.order", "first-to-last"},
	{"mask.causal", "bottom-right"}, {"mask.causal", "bottom-right-unsigned"}, {"mask.causal", "top-left"},
	{"v_codes.order", "natural"}, {"v_codes.order", "permuted16"},
	{"tiles.shapes.0.keys", "32"}, {"tiles.shapes.0.keys", "64"}, {"tiles.shapes.0.keys", "96"}, {"tiles.shapes.0.keys", "128"}, {"tiles.shapes.0.keys", "256"},
	{"denominator.order", "groups16"}, {"denominator.order", "sequential"}, {"denominator.order", "tile"}, {"denominator.combine", "02+13"}, {"denominator.combine", "01+23"},
	{"denominator.start", "0"}, {"denominator.start", "1"},
	{"maximum.of", "shifted"}, {"maximum.of", "scores"},
	{"denominator.of", "p"}, {"p.round", "even"}, {"exponent.exp2", "ex2.approx"},
	{"finish.inverse", "rcp.approx.ftz"}, {"finish.scale", "inverse"}, {"finish.scale", "output"}, {"finish.inverse", "div.full"},
	{"exponent.round", "fma"}, {"maximum.round", "fma"}, {"scores.product", "fp64"}, {"scores.product", "fp32"},
	{"operands.subnormals", "keep"}, {"operands.subnormals", "flush"},
}

// mostParts is into how many parts of the keys hypotheses go.
const mostParts = 32

// silent are choices that no output tells apart: the output's own dtype is known, and the
// log-sum-exp is another.
var silent = map[string]bool{"operands.output": true, "log_sum_exp.form": true}

// numbers are what is tried of choices that are numbers.
var numbers = map[string][]string{
	"pv.threshold":              {"0.25", "0.5", "1", "2", "3", "4", "5", "6", "8", "10", "12", "15", "20", "25", "30", "40", "50"},
	"tiles.shapes.0.rows":       {"16", "32", "48", "64", "96", "128", "192", "256"},
	"tiles.shapes.0.warp_rows":  {"16", "32", "64"},
	"tiles.shapes.0.keys":       {"16", "32", "48", "64", "80", "96", "112", "128", "160", "176", "192", "224", "256"},
	"mask.shift":                {"-1", "0", "1"},
	"mask.value":                {"-inf", "-5000000", "-1000000", "-100000", "-10000"},
	"mask.beyond_value":         {"-inf", "-5000000", "-1000000", "-100000", "-10000"},
	"scores.tail_tiles":         {"1", "all"},
	"maximum.start":             {"-inf", "-5000000", "-1000000", "-100000", "-10000"},
	"p.scale":                   {"448", "440", "256", "240", "224", "127"},
	"scores.unit.fraction_bits": {"unit"},
	"scores.unit.step":          {"unit"},
	"pv.unit.fraction_bits":     {"unit"},
	"pv.unit.step":              {"unit"},
	"pv.level":                  {"tile", "all"},
}

// values lists what is tried of a key of a variant.
func values(key string) []string {
	switch key {
	case "code-round":
		return []string{"even", "away", "zero"}
	case "v-max":
		// Other formats', other accumulators', and powers of two.
		return []string{"448", "440", "256", "240", "224", "127", "64", "2.25", "1", "57344"}
	case "delta-s":
		return []string{"none", "raw"}
	case "causal-shift":
		return []string{"-1", "1"}
	case "key-mask", "fma-max", "fma-exp", "fma-d", "fma-o", "rescale-d", "rescale-o":
		return []string{"none"}
	case "p-offset":
		// log2(448), other formats' offsets, whole numbers.
		return []string{"none", "8", "8.807355", "8.807", "8.8", "9", "7", "7.807", "15.807", "6.988"}
	case "tail":
		return []string{"all"}
	case "exp2":
		return []string{"exact"}
	case "rcp":
		return []string{"exact", "divide"}
	case "p-round", "v-round", "out-round":
		return []string{"zero"}
	case "d-sum":
		return []string{"codes"}
	case "d-order":
		return []string{"pairwise"}
	case "fraction-bits":
		return []string{"10", "11", "12", "13", "14", "15", "16", "18", "20", "22", "23", "24", "25", "26"}
	case "step":
		return []string{"4", "8", "16", "32"}
	case "sum-round":
		return []string{"fp22-zero", "fp22-nearest", "fp32-zero", "fp32-nearest", "fp16-nearest"}
	case "level-keys":
		return []string{"16", "32", "64", "128"}
	}
	return nil
}

// identity is what decides a trial's output on a layer. Trials with the same one are
// the same hypothesis.
type identity struct {
	program string
	causal  bool
	scale   float64
}

func (t *trial) identity(l *layerdumps.Layer) (identity, error) {
	bound, err := t.program.At(t.caseOn(l))
	if err != nil {
		return identity{}, err
	}
	p := bound.Reduced()
	p.Operands.Output, p.LSE.Form = "input", "none"
	if p.Finish.Round == "none" && p.Finish.Mean != "output" {
		p.Finish.Round = "even" // which comparing does
	}
	if !t.causal {
		p.Mask.Shift, p.Mask.Causal = 0, "top-left"
		if p.Mask.Tiles == "shifted" {
			p.Mask.Tiles = "all"
		}
	}
	switch {
	case l.Q.Tokens == l.K.Tokens:
		p.Mask.Causal = "top-left"
	case l.Q.Tokens < l.K.Tokens && p.Mask.Causal == "bottom-right-unsigned":
		p.Mask.Causal = "bottom-right"
	}
	if len(p.Tiles.Shapes) == 1 && l.K.Tokens%p.Tiles.Shapes[0].Keys == 0 {
		p.Mask.Beyond = "masked"
	}
	if l.Q.DType == format.FP32 {
		p.Finish.Round = "even"
	}
	return identity{p.Key(), t.causal, t.scale}, nil
}

// lattice makes hypotheses: those of one change, of two, and so on.
type lattice struct {
	layer *layerdumps.Layer
	base  trial
	edits []edit
	seen  map[identity]bool
	// level holds the edits, ascending, of every combination of the last level.
	level [][]int
}

func newLattice(l *layerdumps.Layer, base trial) (*lattice, error) {
	bound, err := base.program.At(base.caseOn(l))
	if err != nil {
		return nil, err
	}
	id, err := base.identity(l)
	return &lattice{layer: l, base: base, edits: edits(l, &bound), level: [][]int{nil}, seen: map[identity]bool{id: true}}, err
}

// next returns the hypotheses of one change more. A combination that does nothing, or
// cannot run, may still matter together with another change, so that only its own
// trial is left out.
func (x *lattice) next() []trial {
	var ts []trial
	var level [][]int
	for _, e := range x.level {
		from := 0
		if n := len(e); n > 0 {
			from = e[n-1] + 1
		}
		for i := from; i < len(x.edits); i++ {
			if slices.ContainsFunc(e, func(p int) bool { return x.edits[p].point == x.edits[i].point }) {
				continue
			}
			picked := append(slices.Clone(e), i)
			if !x.edits[i].alone {
				level = append(level, picked)
			} else if len(e) > 0 {
				continue
			}
			t := x.base
			var err error
			var flags []string
			for _, p := range picked {
				var flag string
				if flag, err = x.edits[p].apply(&t); err != nil {
					break
				}
				flags = append(flags, flag)
			}
			if err != nil || t.program.Validate() != nil {
				continue
			}
			if id, err := t.identity(x.layer); err == nil && !x.seen[id] {
				x.seen[id] = true
				t.changes = append(slices.Clone(x.base.changes), flags...)
				ts = append(ts, t)
			}
		}
	}
	x.level = level
	return ts
}

// weight estimates how many hypotheses there are of n changes.
func (x *lattice) weight(n int) float64 {
	if n == 1 {
		return float64(len(x.edits))
	}
	w, together := 1.0, 0
	for i := range x.edits {
		if !x.edits[i].alone {
			together++
		}
	}
	for i := range n {
		w *= float64(together-i) / float64(i+1)
	}
	return w
}
