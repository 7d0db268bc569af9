package explain

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/emulate/tensorcore"
	"github.com/sageacc/sageacc/layerdumps"
)

// Named is a kernel among which Among searches, and its name as --kernel takes it.
type Named struct {
	Name    string
	Program program.Program
}

// Match is a kernel that an output may be of.
type Match struct {
	// Kernel is its name, Changes (of the Hypothesis) what differs from it.
	Kernel string `json:"kernel"`
	Hypothesis
	// Also are other names and changes, no more of them, that on this layer stand for the
	// same arithmetic.
	Also []string `json:"also,omitempty"`
	// Parts is into how many parts it splits the keys, where it does.
	Parts int `json:"parts,omitempty"`
	// Output is the dtype of the kernel's output if the layer's is another.
	Output string `json:"output_dtype,omitempty"`
}

// String writes the kernel and its changes as they would be typed.
func (m *Match) String() string { return written(m.Kernel, m.Changes) }

func written(kernel string, changes []string) string {
	for _, c := range changes {
		kernel += " " + c
	}
	return kernel
}

// Refused is a kernel that does not take a layer.
type Refused struct {
	Kernel string `json:"kernel"`
	Why    string `json:"why"`
}

// Origin is the outcome of a search for the kernel of a layer's output.
type Origin struct {
	// Exact are the kernels that give the whole output bit for bit, all with the fewest
	// changes that any needs: this output cannot tell them apart. Unchecked counts more of
	// them that do so on the rows that were tried; the whole layer was not compared.
	Exact     []Match `json:"exact"`
	Unchecked int     `json:"unchecked,omitempty"`
	// Nearest are the nearest on the rows that were tried, best first, where none is exact.
	Nearest []Match `json:"nearest,omitempty"`
	// Unrelated says that even of the nearest more than nine in ten elements differ.
	Unrelated bool `json:"unrelated,omitempty"`
	// Tried counts the hypotheses, Refused are the kernels that do not take the layer.
	Tried   int       `json:"tried"`
	Refused []Refused `json:"refused,omitempty"`
}

// mostExact is how many kernels are compared on the whole layer.
const mostExact = 12

// Among searches for the kernel that gave a layer's actual output: the kernels as they
// are, then on every architecture; then, of the six that came nearest, with one of the
// settings that callers and versions choose, the nearest three with two, and the six with
// any one change that Layer knows. It stops where one of them gives the output. opt.Program and opt.MaxChanges do not count.
func Among(ctx context.Context, l *layerdumps.Layer, kernels []Named, opt Options) (*Origin, error) {
	if l.O == nil {
		return nil, fmt.Errorf("layer %s has no actual output to identify", l.Name)
	}
	opt.Jobs = max(1, opt.Jobs)
	a := &among{
		search: search{layer: l, opt: opt}, at: map[identity]int{},
		res: &Origin{Exact: []Match{}},
	}
	a.sample()
	// Every kernel runs on every architecture that has its units: in a search for two
	// settings the architecture comes on top.
	var bases, placed []trial
	for _, k := range kernels {
		t := trial{kernel: k.Name, program: k.Program, causal: l.Causal, scale: l.Scale()}
		if _, err := a.kernel(&t); err != nil {
			a.res.Refused = append(a.res.Refused, Refused{k.Name, err.Error()})
			continue
		}
		bases = append(bases, t)
		for _, arch := range tensorcore.Archs() {
			u := t
			if u.program.SetArch(arch) != nil || u.program.Validate() != nil {
				continue
			}
			if arch != t.program.Arch {
				u.changes = []string{"--arch " + arch}
			}
			placed = append(placed, u)
		}
	}
	if len(bases) == 0 {
		return a.res, nil
	}
	// Changes are to the kernel as described, which then chooses for the layer.
	each := func(list []trial, f func(t trial) (*lattice, error)) []*lattice {
		var out []*lattice
		for _, t := range list {
			if x, err := f(t); err == nil { // else it does not take the layer
				out = append(out, x)
			}
		}
		return out
	}
	settings := func(list []trial) []*lattice {
		return each(list, func(t trial) (*lattice, error) {
			return &lattice{layer: l, base: t, edits: settingsOf(l, &t.program), level: [][]int{nil}, seen: map[identity]bool{}}, nil
		})
	}
	next := func(list []*lattice) []trial {
		var ts []trial
		for _, x := range list {
			ts = append(ts, x.next()...)
		}
		return ts
	}
	// Neighbours are tried of the kernels that came nearest.
	near := func(list []trial, n int) []trial {
		var names []string
		for _, o := range a.best {
			if len(names) < n && !slices.Contains(names, o.trial.kernel) {
				names = append(names, o.trial.kernel)
			}
		}
		return slices.DeleteFunc(slices.Clone(list), func(t trial) bool { return !slices.Contains(names, t.kernel) })
	}
	const someKernels, fewKernels = 6, 3
	others := func(list []trial) []*lattice {
		return each(list, func(t trial) (*lattice, error) { return newLattice(l, t) })
	}
	steps := []func() []trial{
		func() []trial { return bases },
		func() []trial { return placed },
		func() []trial { return next(settings(near(placed, someKernels))) },
		func() []trial {
			list := settings(near(placed, fewKernels))
			next(list)
			return next(list)
		},
		func() []trial { return next(others(near(bases, someKernels))) },
	}
	for i, step := range steps {
		found, err := a.step(ctx, step(), func(part float64) {
			if opt.Progress != nil {
				opt.Progress((float64(i) + part) / float64(len(steps)))
			}
		})
		if err != nil || found {
			return a.res, err
		}
		// An output that is far from all kernels is not two settings away.
		if i == 2 && !slices.ContainsFunc(a.best, func(o outcome) bool { return float64(o.hypothesis.RelL1) < unlike }) {
			break
		}
	}
	return a.res, a.nearest(ctx)
}

// among is the state of a search among kernels.
type among struct {
	search
	res  *Origin
	best []outcome
	// tried are the trials, at the index of each by what it does on the layer.
	tried []Match
	at    map[identity]int
}

// sample picks the rows to try hypotheses on, of the first head: one that saw a few tiles
// of keys, and then more of all parts.
func (a *among) sample() {
	l := a.layer
	n := l.Q.Tokens
	a.first = []int{min(n-1, 300)}
	for _, r := range []int{n - 1, n / 2, n * 3 / 4, n / 4, n / 8, 1} {
		if r < n && !slices.Contains(a.first, r) && !slices.Contains(a.rest, r) {
			a.rest = append(a.rest, r)
		}
	}
	slices.Sort(a.rest)
	a.readHead(0, 0)
}

// step tries hypotheses and reports whether one of them is exact.
func (a *among) step(ctx context.Context, ts []trial, report func(float64)) (bool, error) {
	var run []trial
	for _, t := range ts {
		v, err := a.view(&t, emulate.Levels()[0])
		if err != nil {
			continue // what it became does not take the layer
		}
		k := v.Kernel
		id, err := t.identity(a.layer)
		if err != nil {
			return false, err
		}
		if i, ok := a.at[id]; ok {
			if m := &a.tried[i]; len(m.Changes) == len(t.changes) {
				// A kernel is tried again where its steps begin at other architectures.
				if also := written(t.kernel, t.changes); also != m.String() && !slices.Contains(m.Also, also) {
					m.Also = append(m.Also, also)
				}
			}
			continue
		}
		m := Match{Kernel: t.kernel, Hypothesis: Hypothesis{Changes: t.changes}}
		became := k.Bound()
		if n := became.Parts(); n > 1 {
			m.Parts = n
		}
		if out := k.OutputDType(a.dtype()); out != a.outputDType() {
			m.Output = out.String()
		}
		t.at = len(a.tried)
		a.at[id] = t.at
		a.tried = append(a.tried, m)
		run = append(run, t)
	}
	a.res.Tried += len(run)
	found, err := a.try(ctx, run, func(n int) { report(float64(n) / float64(len(run))) })
	if err != nil {
		return false, err
	}
	for _, o := range found {
		if o.hypothesis.Mismatched > 0 {
			a.best = append(a.best, o)
			continue
		}
		if len(a.res.Exact) == mostExact {
			a.res.Unchecked++
			continue
		}
		w, err := a.whole(ctx, o.trial, false)
		if err != nil {
			return false, err
		}
		if w.hypothesis.Mismatched == 0 {
			a.res.Exact = append(a.res.Exact, a.match(&w))
		} else {
			a.best = append(a.best, o)
		}
	}
	a.best = nearest(a.best, candidates)
	if len(a.res.Exact) == 0 {
		return false, nil
	}
	// Of those with more changes than need be nothing is said.
	least := slices.MinFunc(a.res.Exact, func(x, y Match) int { return len(x.Changes) - len(y.Changes) })
	a.res.Exact = slices.DeleteFunc(a.res.Exact, func(m Match) bool { return len(m.Changes) > len(least.Changes) })
	return true, nil
}

func (a *among) match(o *outcome) Match {
	m := a.tried[o.trial.at]
	m.Hypothesis = o.hypothesis
	if m.Changes == nil {
		m.Changes = []string{}
	}
	return m
}

// nearest compares the best on all rows that were picked.
func (a *among) nearest(ctx context.Context) error {
	var ts []trial
	for _, o := range a.best {
		ts = append(ts, o.trial)
	}
	found, err := a.tryAll(ctx, ts)
	if err != nil {
		return err
	}
	for _, o := range nearest(found, 5) {
		a.res.Nearest = append(a.res.Nearest, a.match(&o))
	}
	a.res.Unrelated = !slices.ContainsFunc(a.res.Nearest, func(m Match) bool { return m.part() <= nearlyAll })
	return nil
}

// GPUs whose number of multiprocessors decides how FlashAttention-2 splits the keys.
var multiprocessors = []struct {
	sms  int
	gpus string
}{
	{46, "RTX 3070"}, {56, "A30"}, {58, "L4"}, {66, "RTX 4080 Laptop"}, {68, "RTX 3080"}, {72, "A10"}, {76, "RTX 4080"}, {78, "H20"}, {82, "RTX 3090"}, {84, "A40, RTX A6000"},
	{108, "A100"}, {114, "H100 PCIe"}, {128, "RTX 4090"}, {132, "H100, H200"}, {142, "L40, L40S"}, {148, "B200"}, {170, "RTX 5090"}, {188, "RTX PRO 6000"},
}

// settingsOf lists what callers, GPUs and versions choose of a kernel.
func settingsOf(l *layerdumps.Layer, p *program.Program) []edit {
	var list []edit
	for _, e := range edits(l, p) {
		if e.alone {
			continue
		}
		switch e.point {
		case "accum", "granularity", "smooth", "causal", "scale", "mask.causal", "backend":
			list = append(list, e)
		}
	}
	set := func(path, value, note string) {
		flag := "--set " + path + "=" + value + note
		list = append(list, edit{point: path, apply: func(t *trial) (string, error) { return flag, t.program.Set(path, value) }})
	}
	if p.Tiles.SMs != 0 {
		for _, m := range multiprocessors {
			set("tiles.sms", strconv.Itoa(m.sms), " ("+m.gpus+")")
		}
	}
	if p.Tiles.Combine != "" {
		set("tiles.split", "none", "")
		for n := 2; n <= mostParts; n++ {
			set("tiles.split", strconv.Itoa(n), "")
		}
	}
	if p.Denominator.Order == "tile" {
		set("denominator.order", "tile-tree", " (Triton 3.8 and later)")
	}
	return list
}
