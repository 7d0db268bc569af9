// Package explain finds which numerics explain a kernel's output: it emulates the
// layer under hypotheses that differ from what the kernel is said to do in as few
// points as possible, and names those that give the output bit for bit.
package explain

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/quant"
	"github.com/sageacc/sageacc/emulate/tensorcore"
	"github.com/sageacc/sageacc/layerdumps"
)

// Options control a search.
type Options struct {
	// Config is what the kernel is said to be.
	Config emulate.Config
	// MaxChanges is how many points a hypothesis may change; 0 stands for 2.
	MaxChanges int
	// Jobs is the number of goroutines; at least one runs. It changes no result.
	Jobs int
}

// Hypothesis is a way in which the output may have been computed.
type Hypothesis struct {
	// Changes lists what differs from what the kernel is said to do, as flags of
	// the command line; none for the kernel as it is said to be.
	Changes []string `json:"changes"`
	// Elements were compared, Mismatched of them differ in their bits.
	Elements   int64 `json:"elements"`
	Mismatched int64 `json:"mismatched"`
	// RelL1 is the relative L1 distance to the actual output.
	RelL1 float64 `json:"rel_l1"`
}

// String writes the changes as they would be typed.
func (h *Hypothesis) String() string {
	if len(h.Changes) == 0 {
		return "the kernel as given"
	}
	return strings.Join(h.Changes, " ")
}

// Result is the outcome of a search on one layer.
type Result struct {
	// Exact holds the hypotheses that reproduce the whole output, all with the
	// fewest changes that any needs. Where there are several, they cannot be told
	// apart by this output.
	Exact []Hypothesis `json:"exact"`
	// Nearest holds, where nothing is exact, the hypotheses with the fewest
	// differing elements on the part that was tried, best first.
	Nearest []Hypothesis `json:"nearest,omitempty"`
	// Tried counts the hypotheses.
	Tried int `json:"tried"`
}

// trial is a hypothesis ready to be run.
type trial struct {
	cfg     emulate.Config
	causal  bool
	scale   float64
	changes []string
}

// edit is one change to a trial; it reports whether it changes anything.
type edit struct {
	// point is what the edit changes; a hypothesis changes a point once.
	point string
	flag  string
	apply func(*trial) bool
}

// edits lists the changes that are considered, the likelier first.
func edits(l *layerdumps.Layer) []edit {
	var list []edit
	add := func(point, flag string, apply func(*trial) bool) { list = append(list, edit{point, flag, apply}) }
	set := func(point, flag string, apply func(*trial)) {
		add(point, flag, func(t *trial) bool {
			before := t.cfg
			apply(t)
			return t.cfg != before
		})
	}
	for a := emulate.AccumFP32; a <= emulate.AccumIdeal; a++ {
		set("accum", "--pv-accum "+a.String(), func(t *trial) { t.cfg.PVAccum = a })
	}
	for _, arch := range tensorcore.Archs() {
		set("arch", "--arch "+arch, func(t *trial) { t.cfg.Arch = arch })
	}
	for g := quant.PerTensor; g <= quant.PerToken; g++ {
		set("granularity", "--qk-granularity "+g.String(), func(t *trial) { t.cfg.QKGranularity = g })
	}
	for _, smooth := range []string{"none", "k", "q,k", "k,v", "q,k,v", "q", "v"} {
		set("smooth", "--smooth "+smooth, func(t *trial) {
			// The list is of valid values.
			_ = t.cfg.SetSmooth(smooth)
		})
	}
	causal := !l.Causal
	add("causal", fmt.Sprintf("--causal=%v", causal), func(t *trial) bool { t.causal = causal; return true })
	for _, d := range []int{l.Q.Dim, 64, 128} {
		x := 1 / math.Sqrt(float64(d))
		add("scale", fmt.Sprintf("--sm-scale %g", x), func(t *trial) bool {
			changed := float32(x) != float32(t.scale)
			t.scale = x
			return changed
		})
	}
	for _, bits := range []int{4, 8} {
		set("bits", fmt.Sprintf("--qk-bits %d", bits), func(t *trial) { t.cfg.QKBits = bits })
	}
	for p := quant.E4M3; p <= quant.FP16; p++ {
		set("pv", "--pv-dtype "+p.String(), func(t *trial) { t.cfg.PVType = p })
	}
	for _, preset := range emulate.Presets() {
		set("program", "--kernel "+preset.Name, func(t *trial) {
			if t.cfg.Program != preset.Program {
				t.cfg = preset
			}
		})
	}
	return list
}

// trials returns the hypotheses of exactly n changes.
func trials(base trial, list []edit, n int) []trial {
	if n == 0 {
		return []trial{base}
	}
	var out []trial
	for i, e := range list {
		// Changes of one point are alternatives, and their order does not matter,
		// but for the program, which comes first because it brings its own fields.
		for _, rest := range trials(base, list[:i], n-1) {
			if slices.ContainsFunc(list[:i], func(o edit) bool { return o.point == e.point && slices.Contains(rest.changes, o.flag) }) {
				continue
			}
			t := base
			ok := true
			for _, f := range append([]string{e.flag}, rest.changes...) {
				k := slices.IndexFunc(list, func(o edit) bool { return o.flag == f })
				ok = ok && list[k].apply(&t)
			}
			if ok && t.cfg.Validate() == nil {
				t.changes = append(slices.Clone(rest.changes), e.flag)
				out = append(out, t)
			}
		}
	}
	return out
}

// Layer searches for the numerics of a layer's actual output.
func Layer(ctx context.Context, l *layerdumps.Layer, opt Options) (*Result, error) {
	if l.O == nil {
		return nil, fmt.Errorf("layer %s has no actual output to explain", l.Name)
	}
	if opt.MaxChanges == 0 {
		opt.MaxChanges = 2
	}
	base := trial{cfg: opt.Config, causal: l.Causal, scale: l.Scale()}
	list := edits(l)
	res := &Result{}
	var near []Hypothesis
	for n := range opt.MaxChanges + 1 {
		ts := trials(base, list, n)
		res.Tried += len(ts)
		found := make([]Hypothesis, len(ts))
		err := parallel(ctx, opt.Jobs, len(ts), func(ctx context.Context, i int) error {
			var err error
			found[i], err = ts[i].run(ctx, l, false)
			return err
		})
		if err != nil {
			return nil, err
		}
		for i, h := range found {
			if h.Mismatched > 0 {
				near = append(near, h)
				continue
			}
			// The part fits: now the whole layer.
			h, err := ts[i].run(ctx, l, true)
			if err != nil {
				return nil, err
			}
			if h.Mismatched == 0 {
				res.Exact = append(res.Exact, h)
			} else {
				near = append(near, h)
			}
		}
		if len(res.Exact) > 0 {
			return res, nil
		}
	}
	slices.SortStableFunc(near, func(a, b Hypothesis) int {
		x, y := float64(a.Mismatched)/float64(a.Elements), float64(b.Mismatched)/float64(b.Elements)
		return cmp.Or(cmp.Compare(x, y), cmp.Compare(len(a.Changes), len(b.Changes)))
	})
	const most = 5
	res.Nearest = near[:min(most, len(near))]
	return res, nil
}

// parallel runs f(0) to f(n-1) on jobs goroutines and returns the first error.
func parallel(ctx context.Context, jobs, n int, f func(context.Context, int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range max(1, min(jobs, n)) {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := f(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// run emulates the layer under the hypothesis and compares. Without whole it
// takes the first head only, and there the first and the last block of rows,
// which between them see every kind of tile.
func (t *trial) run(ctx context.Context, l *layerdumps.Layer, whole bool) (Hypothesis, error) {
	h := Hypothesis{Changes: t.changes}
	k, err := emulate.New(t.cfg)
	if err != nil {
		return h, err
	}
	d, bq := l.Q.Dim, k.Tiling().BlockQ
	dtype := format.DType(l.O.DType)
	out, act := make([]float32, bq*d), make([]float32, bq*d)
	bits := make([]uint32, bq*d)
	var ws emulate.Workspace
	var diff, sum float64
	for b := range l.Q.Batch {
		for head := range l.Q.Heads {
			if !whole && b+head > 0 {
				break
			}
			kh := head * l.K.Heads / l.Q.Heads
			kv, err := k.Prepare(emulate.KVInput{
				K:   func(lo, hi int, dst []float32) { l.K.Rows(b, kh, lo, hi, dst) },
				V:   func(lo, hi int, dst []float32) { l.V.Rows(b, kh, lo, hi, dst) },
				Len: l.K.Tokens, Dim: d, DType: format.DType(l.Q.DType),
			})
			if err != nil {
				return h, err
			}
			q := k.Query(emulate.QInput{
				Q:   func(lo, hi int, dst []float32) { l.Q.Rows(b, head, lo, hi, dst) },
				Len: l.Q.Tokens, Causal: t.causal, Scale: float32(t.scale),
			}, kv, &ws)
			blocks := k.Blocks(l.Q.Tokens)
			for blk := 0; blk < blocks; blk++ {
				if err := ctx.Err(); err != nil {
					return h, err
				}
				if !whole && blk == 1 {
					blk = blocks - 1
				}
				n := k.Run(q, &ws, blk, out, nil)
				lo := blk * bq
				l.O.Rows(b, head, lo, lo+n, act)
				l.O.RowsBits(b, head, lo, lo+n, bits)
				for i, x := range out[:n*d] {
					h.Elements++
					if dtype.Bits(x) != bits[i] && !(x != x && act[i] != act[i]) {
						h.Mismatched++
					}
					diff += math.Abs(float64(x) - float64(act[i]))
					sum += math.Abs(float64(act[i]))
				}
			}
		}
	}
	if sum > 0 {
		h.RelL1 = diff / sum
	}
	return h, nil
}
