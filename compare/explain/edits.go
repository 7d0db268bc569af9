package explain

import (
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/quant"
	"github.com/sageacc/sageacc/emulate/tensorcore"
	"github.com/sageacc/sageacc/layerdumps"
)

// trial is a hypothesis ready to be run.
type trial struct {
	cfg     emulate.Config
	causal  bool
	scale   float64
	changes []string
}

// edit is one change to a trial.
type edit struct {
	// point is what the edit changes; a hypothesis changes a point once.
	point string
	flag  string
	apply func(*trial)
}

// edits lists the changes that are considered. The program comes first, because it
// brings its own fields; the others are in the order of likelihood, roughly.
func edits(l *layerdumps.Layer) []edit {
	var list []edit
	add := func(point, flag string, apply func(*trial)) { list = append(list, edit{point, flag, apply}) }
	for _, preset := range emulate.Presets() {
		add("program", "--kernel "+preset.Name, func(t *trial) {
			if t.cfg.Program != preset.Program {
				t.cfg = preset
			}
		})
	}
	for a := emulate.AccumFP32; a <= emulate.AccumIdeal; a++ {
		add("accum", "--pv-accum "+a.String(), func(t *trial) { t.cfg.PVAccum = a })
	}
	for _, arch := range tensorcore.Archs() {
		add("arch", "--arch "+arch, func(t *trial) { t.cfg.Arch = arch })
	}
	for g := quant.PerTensor; g <= quant.PerToken; g++ {
		add("granularity", "--qk-granularity "+g.String(), func(t *trial) { t.cfg.QKGranularity = g })
	}
	for _, smooth := range []string{"none", "k", "q,k", "k,v", "q,k,v", "q", "v", "q,v"} {
		add("smooth", "--smooth "+smooth, func(t *trial) {
			// The list is of valid values.
			_ = t.cfg.SetSmooth(smooth)
		})
	}
	causal := !l.Causal
	add("causal", fmt.Sprintf("--causal=%v", causal), func(t *trial) { t.causal = causal })
	d := float64(l.Q.Dim)
	for _, x := range []float64{1 / math.Sqrt(d), 0.125, 1 / math.Sqrt(128), 1, 1 / d} {
		add("scale", "--sm-scale "+strconv.FormatFloat(x, 'g', -1, 64), func(t *trial) { t.scale = x })
	}
	for _, bits := range []int{4, 8} {
		add("bits", fmt.Sprintf("--qk-bits %d", bits), func(t *trial) { t.cfg.QKBits = bits })
	}
	for p := quant.E4M3; p <= quant.FP16; p++ {
		add("pv", "--pv-dtype "+p.String(), func(t *trial) { t.cfg.PVType = p })
	}
	// Before its keys, which it would undo.
	add("variant", "--variant none", func(t *trial) { t.cfg.Variant = emulate.Variant{} })
	for _, k := range emulate.Knobs() {
		for _, value := range append(values(k.Key), "default") {
			list := k.Key + "=" + value
			add(k.Key, "--variant "+list, func(t *trial) {
				// The lists are of valid values; Validate sees to the rest.
				_ = t.cfg.Variant.Apply(list)
			})
		}
	}
	// Built without contraction, a kernel has no fused operation at all.
	const split = "fma-max=none,fma-exp=none,fma-d=none"
	add("fma", "--variant "+split+",fma-o=none", func(t *trial) { _ = t.cfg.Variant.Apply(split + ",fma-o=none") })
	add("fma", "--variant "+split, func(t *trial) { _ = t.cfg.Variant.Apply(split) })
	return list
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
	cfg    emulate.Config
	causal bool
	scale  float32
}

func (t *trial) identity(l *layerdumps.Layer) identity {
	id := identity{t.cfg.Reduced(), t.causal, float32(t.scale)}
	v := &id.cfg.Variant
	if !t.causal {
		v.CausalShift = 0
	}
	if l.K.Tokens%t.cfg.Tiling().BlockK == 0 {
		v.NoKeyMask = false
	}
	if l.Q.DType == layerdumps.F32 {
		v.OutputZero = false
	}
	return id
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
		layer: l, base: base, edits: edits(l), level: [][]int{nil},
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
			level = append(level, picked)
			t := x.base
			for _, p := range picked {
				x.edits[p].apply(&t)
			}
			if t.cfg.Validate() != nil {
				continue
			}
			if id := t.identity(x.layer); !x.seen[id] {
				x.seen[id] = true
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
	w := 1.0
	for i := range n {
		w *= float64(len(x.edits)-i) / float64(i+1)
	}
	return w
}
