package explain

import (
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/emulate/quant"
	"github.com/sageacc/sageacc/emulate/tensorcore"
	"github.com/sageacc/sageacc/layerdumps"
)

// trial is a hypothesis ready to be run.
type trial struct {
	program program.Program
	causal  bool
	scale   float64
	changes []string
	// Of a search among kernels: which one it changes, and its place.
	kernel string
	at     int
}

// edit is one change to a trial.
type edit struct {
	// point is what the edit changes; a hypothesis changes a point once.
	point string
	flag  string
	// alone says that it is tried without others.
	alone bool
	// apply makes the change; a trial that it does not suit is left out.
	apply func(*trial) error
}

// edits lists the changes that are considered. The program comes first, because it
// brings its own fields; the others are in the order of likelihood, roughly.
func edits(l *layerdumps.Layer, base *program.Program) []edit {
	var list []edit
	add := func(point, flag string, apply func(*trial) error) {
		list = append(list, edit{point: point, flag: flag, apply: apply})
	}
	change := func(point, flag string, f func(*program.Program) error) {
		add(point, flag, func(t *trial) error { return f(&t.program) })
	}
	// named is a flag that sets several choices; what has that name already is left as it is.
	named := func(point, flag, value string, has func(*program.Program) string, f func(*program.Program) error) {
		change(point, flag+" "+value, func(p *program.Program) error {
			if has(p) == value {
				return nil
			}
			return f(p)
		})
	}
	for _, preset := range program.Presets() {
		change("program", "--kernel "+preset.Name, func(p *program.Program) error {
			if p.Name != preset.Name {
				*p = preset
			}
			return nil
		})
	}
	for _, a := range program.Accums() {
		named("accum", "--pv-accum", a, (*program.Program).Accum, func(p *program.Program) error { return p.SetAccum(a) })
	}
	for _, arch := range tensorcore.Archs() {
		change("arch", "--arch "+arch, func(p *program.Program) error { return p.SetArch(arch) })
	}
	for g := quant.PerTensor; g <= quant.PerToken; g++ {
		named("granularity", "--qk-granularity", g.String(), func(p *program.Program) string { return p.QKCodes.Granularity }, func(p *program.Program) error { return p.SetGranularity(g) })
	}
	for _, smooth := range []string{"none", "k", "q,k", "k,v", "q,k,v", "q", "v", "q,v"} {
		named("smooth", "--smooth", smooth, (*program.Program).Smooth, func(p *program.Program) error { return p.SetSmooth(smooth) })
	}
	causal := !l.Causal
	add("causal", fmt.Sprintf("--causal=%v", causal), func(t *trial) error { t.causal = causal; return nil })
	d := float64(l.Q.Dim)
	for _, x := range []float64{1 / math.Sqrt(d), 0.125, 1 / math.Sqrt(128), 1, 1 / d} {
		add("scale", "--sm-scale "+strconv.FormatFloat(x, 'g', -1, 64), func(t *trial) error { t.scale = x; return nil })
	}
	for _, bits := range []int{4, 8} {
		named("bits", "--qk-bits", strconv.Itoa(bits), func(p *program.Program) string { return strconv.Itoa(p.Bits()) }, func(p *program.Program) error { return p.SetBits(bits) })
	}
	for t := quant.E4M3; t <= quant.FP16; t++ {
		named("pv", "--pv-dtype", t.String(), func(p *program.Program) string { return p.VCodes.Format }, func(p *program.Program) error { return p.SetPVType(t) })
	}
	variant := func(point, list string) {
		change(point, "--variant "+list, func(p *program.Program) error {
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
	// What a description says beyond those.
	set := func(path, value string) {
		change(path, "--set "+path+"="+value, func(p *program.Program) error { return p.Set(path, value) })
	}
	for _, s := range sets {
		set(s.path, s.value)
	}
	if base.QKCodes.Fold != "none" {
		for _, b := range []struct{ name, flags string }{
			{"triton", "--set qk_codes.scale=triton-block --set qk_codes.round=away --set smoothing.k_difference=input"},
			{"cuda", "--set qk_codes.scale=fused --set qk_codes.round=even --set smoothing.k_difference=fp32-ftz"},
		} {
			change("backend", b.flags+" (quant_backend "+b.name+")", func(p *program.Program) error { return p.SetQuantBackend(b.name) })
		}
	}
	// And whatever else a line of it may say, one at a time.
	n := len(list)
	for _, c := range base.Choices() {
		if silent[c.Path] {
			continue
		}
		for _, value := range append(slices.Clip(c.Choices), numbers[c.Path]...) {
			if value != c.Value {
				set(c.Path, value)
			}
		}
	}
	if base.Tiles.Combine == "fa3" { // fa2's parts have shapes of their own, which a layer's kernel has no more
		for n := 1; n <= mostParts; n++ {
			set("tiles.split", strconv.Itoa(n))
		}
	}
	for _, x := range []struct {
		path string
		unit program.Unit
	}{{"scores.unit.instruction", base.Scores.Unit}, {"pv.unit.instruction", base.PV.Unit}} {
		have, err := x.unit.Lookup(base.Arch)
		if err != nil || have == nil {
			continue
		}
		for _, u := range tensorcore.Units() {
			if u.Arch == base.Arch && u.A == have.A && u.C == have.C && u.Instruction != have.Instruction {
				set(x.path, u.Instruction)
			}
		}
	}
	for i := range list[n:] {
		list[n+i].alone = true
	}
	return list
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
	"tiles.shapes.0.rows":       {"16", "32", "48", "64", "96", "128", "192", "256"},
	"tiles.shapes.0.warp_rows":  {"16", "32", "64"},
	"tiles.shapes.0.keys":       {"16", "32", "48", "64", "80", "96", "112", "128", "160", "176", "192", "224", "256"},
	"mask.shift":                {"-1", "0", "1"},
	"mask.value":                {"-inf", "-5000000", "-1000000", "-100000", "-10000"},
	"mask.beyond_value":         {"-inf", "-5000000", "-1000000", "-100000", "-10000"},
	"scores.tail_tiles":         {"1", "all"},
	"maximum.start":             {"-inf", "-5000000", "-1000000", "-100000", "-10000"},
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

func (t *trial) identity(l *layerdumps.Layer) identity {
	p := t.program.Reduced()
	p.Operands.Output, p.LSE.Form = "input", "none"
	if p.Finish.Round == "none" && p.Finish.Mean != "output" {
		p.Finish.Round = "even" // which comparing does
	}
	if !t.causal {
		p.Mask.Shift, p.Mask.Causal = 0, "top-left"
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
	if l.Q.DType == layerdumps.F32 {
		p.Finish.Round = "even"
	}
	return identity{p.Key(), t.causal, t.scale}
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

func newLattice(l *layerdumps.Layer, base trial) *lattice {
	return &lattice{
		layer: l, base: base, edits: edits(l, &base.program), level: [][]int{nil},
		seen: map[identity]bool{base.identity(l): true},
	}
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
			suits := true
			for _, p := range picked {
				suits = suits && x.edits[p].apply(&t) == nil
			}
			if !suits || t.program.Validate() != nil {
				continue
			}
			if id := t.identity(x.layer); !x.seen[id] {
				x.seen[id] = true
				t.changes = slices.Clone(x.base.changes)
				for _, p := range picked {
					t.changes = append(t.changes, x.edits[p].flag)
				}
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
