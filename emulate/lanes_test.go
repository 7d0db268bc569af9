package emulate

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/emulate/tensorcore"
	"github.com/sageacc/sageacc/internal/sweep"
)

// forLanes runs a test at every level that has steps on vectors.
func forLanes(t *testing.T, f func(t *testing.T, level Level)) {
	ran := false
	for _, level := range Levels() {
		if level.l.Lanes() {
			ran = true
			t.Run(level.String(), func(t *testing.T) { f(t, level) })
		}
	}
	if !ran {
		t.Skip("no level has steps here")
	}
}

// TestLaneChoices: the list of what the steps on vectors take has every choice that a
// description can have, and none that it cannot.
func TestLaneChoices(t *testing.T) {
	var paths []string
	for _, p := range program.Presets() {
		reduced := p.Reduced()
		for _, c := range reduced.Choices() {
			if !strings.HasPrefix(c.Path, "tiles.") {
				paths = append(paths, c.Path)
			}
			takes, ok := laneChoices[c.Path]
			if !ok && strings.HasPrefix(c.Path, "tiles.") {
				continue // of shapes that a bound description does not have
			}
			if !ok {
				t.Errorf("%s is missing: no description runs on vectors", c.Path)
			}
			for _, w := range strings.Fields(takes) {
				if takes != anything && len(c.Choices) > 0 && !slices.Contains(c.Choices, w) {
					t.Errorf("%s cannot be %s", c.Path, w)
				}
			}
		}
	}
	for path := range laneChoices {
		if !slices.Contains(paths, path) && !strings.HasPrefix(path, "tiles.") {
			t.Errorf("%s is no choice of a description", path)
		}
	}
}

// tileState is what runTiles leaves.
type tileState struct {
	m, d, o []float32
	total   []int
}

func (ws *Workspace) state(rows, d int) tileState {
	return tileState{slices.Clone(ws.m[:rows]), slices.Clone(ws.d[:rows*threads]), slices.Clone(ws.o[:rows*d]), slices.Clone(ws.total[:rows])}
}

// differs compares what runTiles leaves; the denominators of threads that share one are not
// looked at.
func (a *tileState) differs(b *tileState, shared bool) string {
	for _, x := range []struct {
		name string
		a, b []float32
		step int
	}{{"maximum", a.m, b.m, 1}, {"denominator", a.d, b.d, map[bool]int{true: threads, false: 1}[shared]}, {"output", a.o, b.o, 1}} {
		for i := 0; i < len(x.a); i += x.step {
			if math.Float32bits(x.a[i]) != math.Float32bits(x.b[i]) {
				return fmt.Sprintf("%s %d: %g (%08x), want %g (%08x)", x.name, i, x.b[i], math.Float32bits(x.b[i]), x.a[i], math.Float32bits(x.a[i]))
			}
		}
	}
	if !slices.Equal(a.total, b.total) {
		return "keys seen"
	}
	return ""
}

// compareLanes runs every block of a call through its tiles both ways. It returns how many
// blocks the steps on vectors took and ran to the end.
func compareLanes(t *testing.T, k *Kernel, h *call, what string) (took, ran int) {
	t.Helper()
	kv, err := k.Prepare(h.kIn)
	if err != nil {
		t.Fatal(err)
	}
	portable := *k
	portable.lanes = nil
	var ws, other Workspace
	q := k.Query(h.in, kv, &ws)
	order := k.prog.Denominator.Order
	shared := order != "groups16" && order != "pairwise16" && order != "sequential"
	for b := range k.Blocks(h.nq) {
		var rows int
		for _, w := range []*Workspace{&ws, &other} {
			w.fit(k, h.d)
			rows = k.loadCodes(q, w, b)
			for r := range rows {
				w.index[r] = b*k.tiling.BlockQ + r
			}
			k.loadQueries(w, rows, h.d)
		}
		if !k.takesLanes(q, &ws) {
			return took, ran
		}
		took++
		before := ws.Counts
		first, last := k.tiles(q, b)
		done, err := k.runLanes(t.Context(), q, &ws, b, rows, first, last, last)
		if err != nil {
			t.Fatal(err)
		}
		if !done {
			if ws.Counts != before {
				t.Errorf("%s: block %d: the steps on vectors count, and give up", what, b)
			}
			continue
		}
		ran++
		counted := other.Counts
		if err := portable.runTiles(t.Context(), q, &other, b, rows, first, last, last); err != nil {
			t.Fatal(err)
		}
		before.Merge(&other.Counts)
		if counted.Merge(&ws.Counts); before != counted {
			t.Errorf("%s: block %d: counts %v, want %v", what, b, ws.Counts.Map(), other.Counts.Map())
		}
		want, got := other.state(rows, h.d), ws.state(rows, h.d)
		if d := want.differs(&got, shared); d != "" {
			t.Errorf("%s: block %d: %s", what, b, d)
			return took, ran
		}
	}
	return took, ran
}

// TestLanes holds the steps on vectors to the interpreter's, for invented descriptions and
// heads, odd ones too: the same maxima, denominators and outputs after all tiles, and the
// same counts.
func TestLanes(t *testing.T) { forLanes(t, testLanes) }

func testLanes(t *testing.T, level Level) {
	n := uint64(700)
	switch {
	case sweep.Full():
		n = 1500
	case testing.Short():
		n = 150
	}
	took, ran, kernels := 0, 0, map[string]int{}
	for seed := range n {
		r := rand.New(rand.NewPCG(seed, 77))
		p := randomProgram(r, pick(r, []int{0, 2, 4, 12}))
		k, err := NewAt(p, level)
		if err != nil {
			t.Fatal(err)
		}
		h, err := randomCall(r, k, &p)
		if err != nil {
			continue
		}
		if k, err = h.bind(k); err != nil {
			t.Fatal(err)
		}
		a, b := compareLanes(t, k, h, fmt.Sprintf("seed %d: %s: %d queries, %d keys of %d %s, causal %v", seed, describe(&p), h.nq, h.nk, h.d, h.dtype, h.in.Causal))
		took, ran = took+a, ran+b
		kernels[p.Name] += b
		if t.Failed() {
			return
		}
	}
	t.Logf("%d blocks, of which %d ran to the end: %v", took, ran, kernels)
	if took < int(n)/8 || ran < took/2 || ran == took {
		t.Errorf("%d blocks, of which %d ran to the end: the test compares too little", took, ran)
	}
}

// TestLanesRun: heads of ordinary numbers run on vectors to the end, with every known kernel
// that is the interpreter's and in every shape. The results could not tell.
func TestLanesRun(t *testing.T) { forLanes(t, testLanesRun) }

func testLanesRun(t *testing.T, level Level) {
	for i, p := range program.Presets() {
		if strings.HasPrefix(p.Name, "sage2-") {
			continue // in strips
		}
		for n, tc := range []struct {
			nq, nk, d int
			causal    bool
			softcap   float64
			left      int
		}{
			{128, 256, 64, false, 0, -1}, {130, 1300, 64, true, 0, -1}, {70, 77, 128, false, 0, -1}, {200, 200, 128, true, 0, -1},
			{3, 200, 40, false, 0, -1}, {100, 100, 64, true, 30, -1}, {150, 150, 64, false, 0, 40}, {1, 1, 16, false, 0, -1},
			// Blocks after others, in whose first tile 16 keys of a step of 32 are hidden from all rows.
			{300, 1038, 128, true, 0, -1},
		} {
			if testing.Short() && tc.nq*tc.nk > 100*100 {
				continue
			}
			for j, dtype := range []format.DType{format.FP16, format.BF16} {
				if (i+n)%2 != j && !sweep.Full() {
					continue // each kernel and each shape meet both
				}
				r := rand.New(rand.NewPCG(3, 4))
				h := &call{nq: tc.nq, nk: tc.nk, d: tc.d, dtype: dtype}
				draw := func(n int) Rows {
					x := make([]float32, n*h.d)
					for i := range x {
						x[i] = dtype.Round(float32(r.NormFloat64()))
					}
					return slicesOf(x, h.d)
				}
				h.in = QInput{Q: draw(h.nq), Len: h.nq, Causal: tc.causal, Softcap: tc.softcap, Windowed: tc.left >= 0, Left: tc.left, Right: -1}
				h.kIn = KVInput{K: draw(h.nk), V: draw(h.nk), Len: h.nk, Dim: h.d, DType: dtype}
				k, err := NewAt(p, level)
				if err == nil {
					k, err = k.ForCase(dtype, program.Case{HeadDim: h.d, Causal: tc.causal, Window: tc.left >= 0, Softcap: tc.softcap != 0, Keys: h.nk, Queries: h.nq})
				}
				if err != nil || k.Supports(h.in) != nil {
					continue
				}
				what := fmt.Sprintf("%s, %s, %+v", p.Name, dtype, tc)
				if took, ran := compareLanes(t, k, h, what); took == 0 || ran != took {
					t.Errorf("%s: %d blocks taken, %d run of %d", what, took, ran, k.Blocks(h.nq))
				}
			}
		}
	}
}

// TestLanesJump: heads in which later keys' scores are larger by so much that what O was is tiny beside what
// they add run on vectors to the end, too.
func TestLanesJump(t *testing.T) { forLanes(t, testLanesJump) }

func testLanesJump(t *testing.T, level Level) {
	for _, name := range []string{"fa2", "fa3", "sdpa-efficient", "sage-fp16-cuda", "sage-fp16-triton"} {
		for _, jump := range []float32{50, 70, 80} { // of the scores
			p, err := program.Selection{Kernel: name}.Program()
			if err != nil {
				t.Fatal(err)
			}
			const rows, keys, d, root = 70, 512, 64, 8
			r := rand.New(rand.NewPCG(3, 50))
			draw := func(n int, first func(i int) float32) Rows {
				x := make([]float32, n*d)
				for i := range x {
					x[i] = format.FP16.Round(float32(r.NormFloat64()))
					if first != nil && i%d == 0 {
						x[i] = first(i / d)
					}
				}
				return slicesOf(x, d)
			}
			h := &call{nq: rows, nk: keys, d: d, dtype: format.FP16}
			h.in = QInput{Q: draw(rows, func(int) float32 { return 1 }), Len: rows}
			h.kIn = KVInput{Len: keys, Dim: d, DType: h.dtype, V: draw(keys, nil), K: draw(keys, func(i int) float32 {
				if i >= keys/2 == (name == "fa3") { // which begins at the end
					return 0
				}
				return root * jump
			})}
			k, err := NewAt(p, level)
			if err == nil {
				k, err = h.bind(k)
			}
			if err != nil {
				t.Fatal(err)
			}
			if took, ran := compareLanes(t, k, h, name); took == 0 || ran != took {
				t.Errorf("%s, a jump of %g: %d blocks taken, %d run", name, jump, took, ran)
			}
		}
	}
}

// TestLanesListed: the tiles of a block map, and those that a threshold passes over, with rows
// behind the last query and without, in blocks of one strip and of two.
func TestLanesListed(t *testing.T) { forLanes(t, testLanesListed) }

func testLanesListed(t *testing.T, level Level) {
	r := rand.New(rand.NewPCG(6, 4))
	for _, threshold := range []string{"50", "0.25", "3", "0.25 of 128 rows", "3 of 128 rows"} {
		value, of, _ := strings.Cut(threshold, " ")
		p := spargeWith(t, value)
		if of != "" {
			p.Tiles.Shapes[0].Rows = 128
		}
		matters := 0
		for _, shape := range [][3]int{{64, 128, 64}, {128, 2640, 8}, {70, 300, 8}, {63, 900, 16}, {300, 900, 16}} {
			h := spargeCall(r, shape[0], shape[1], shape[2], []format.DType{format.FP16, format.BF16}[r.IntN(2)], 1)
			h.in.Scale = 0.5
			for _, listed := range []func(int, int, int, []bool){h.in.Listed, nil} {
				h.in.Listed = listed
				k := h.bindAt(t, p, level)
				what := fmt.Sprintf("threshold %s, %v, listed %v", threshold, shape, listed != nil)
				if took, ran := compareLanes(t, k, h, what); took == 0 || ran != took {
					t.Errorf("%s: %d blocks taken, %d run", what, took, ran)
				}
				none := p
				none.PV.Threshold = 0
				a, _, _ := runCall(t, p, level, h)
				if b, _, _ := runCall(t, none, level, h); a.differs(&b) != "" {
					matters++
				}
			}
		}
		if matters == 0 && threshold != "50" {
			t.Errorf("threshold %s passes over nothing", threshold)
		}
	}
}

// TestLanesRefuse: a choice that the steps on vectors do not have keeps a description from
// them.
func TestLanesRefuse(t *testing.T) { forLanes(t, testLanesRefuse) }

func testLanesRefuse(t *testing.T, level Level) {
	p, err := program.Preset("fa3")
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		change func(*Kernel)
		want   bool
	}{
		"as it is":        {func(*Kernel) {}, true},
		"exact exponents": {func(k *Kernel) { k.prog.Exponent.Exp2 = "exact" }, true},
		"truncated P":     {func(k *Kernel) { k.prog.P.Round = "zero" }, true},
		"P not rounded":   {func(k *Kernel) { k.prog.P.Round = "none" }, false},
		"O in memory":     {func(k *Kernel) { k.prog.PV.Join = "memory" }, true},
		"a new order":     {func(k *Kernel) { k.prog.Denominator.Order = "random" }, false},
		"squares flushed": {func(k *Kernel) { k.prog.Exponent.Exp2 = "ex2.approx" }, true},
		"exact scores":    {func(k *Kernel) { k.prog.QKCodes.Format, k.scoreUnit = "exact", nil }, true},
		"exact sums":      {func(k *Kernel) { k.pvUnit = nil }, true},
		"and ones":        {func(k *Kernel) { k.onesUnit, k.pvUnit = k.pvUnit, nil }, false},
		"an exact unit": {func(k *Kernel) {
			u := *k.pvUnit
			u.FractionBits = tensorcore.Exact
			k.pvUnit = &u
		}, false},
		"no level":                      {func(k *Kernel) { k.level = Levels()[0] }, false},
		"a threshold of several strips": {func(k *Kernel) { k.prog.PV.Threshold, k.prog.Scores.TailTiles = 50, 1 }, true},
		"a threshold of one":            {func(k *Kernel) { k.prog.PV.Threshold, k.prog.Scores.TailTiles, k.tiling.BlockQ = 50, 1, 64 }, true},
		"a threshold without tail":      {func(k *Kernel) { k.prog.PV.Threshold, k.prog.Scores.TailTiles, k.tiling.BlockQ = 50, 0, 64 }, false},
	} {
		k, err := NewAt(p, level)
		if err == nil {
			k, err = k.For(64, format.FP16, false)
		}
		if err != nil {
			t.Fatal(err)
		}
		tc.change(k)
		if got := k.planLanes() != nil; got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
	if p, err = program.Preset("fa3-fp8"); err != nil {
		t.Fatal(err)
	}
	for keys, want := range map[int]bool{32: true, 48: false, 64: true, 224: true, 256: false} {
		k, err := NewAt(p, level)
		if err == nil {
			k, err = k.For(64, format.FP16, false)
		}
		if err != nil {
			t.Fatal(err)
		}
		k.tiling.BlockK, k.sumKeys = keys, keys
		if got := k.dotsValues(); got != want {
			t.Errorf("tiles of %d keys: V by sign %v, want %v", keys, got, want)
		}
	}
}

// TestLanesRare: what invented descriptions and heads hardly ever have. Each case is one that
// a shortcut of the steps on vectors would get wrong.
func TestLanesRare(t *testing.T) { forLanes(t, testLanesRare) }

func testLanesRare(t *testing.T, level Level) {
	for name, tc := range map[string]struct {
		kernel  string
		set     []string
		visible func(row, lo, hi int, dst []bool)
		scale   float64
	}{
		// Instructions without products change what the unit keeps of a sum, so the keys beyond
		// the end cannot be left out.
		"a unit that keeps little": {"fa3", []string{"pv.unit.fraction_bits=12", "pv.unit.sum_round=fp32-zero"}, nil, 0},
		// A subnormal code has its format's smallest exponent, next to values that have FP32's.
		"subnormal codes of P": {"sage2-8b-sm90", []string{"v_codes.format=exact", "v_codes.scale=none", "v_codes.max=0", "v_codes.round=none", "finish.scale=none"}, nil, 3},
		"subnormal codes of V": {"sage2-8b-sm90", []string{"p.format=exact", "p.round=none"}, nil, 3},
		// Blocks after others, whose first tile rescales nothing.
		"exact sums": {"fa2", []string{"pv.unit.instruction=exact"}, nil, 0},
		// A tile that is hidden from all rows is skipped. Of rows for which that is every tile the
		// maximum shows it.
		"hidden tiles": {"sage-fp16-triton", nil, func(row, lo, hi int, dst []bool) {
			for i := range dst[:hi-lo] {
				dst[i] = row >= 128
			}
		}, 0},
	} {
		r := rand.New(rand.NewPCG(5, 4))
		h := &call{nq: 130, nk: 270, d: 64, dtype: format.FP16}
		draw := func(n int) Rows {
			x := make([]float32, n*h.d)
			for i := range x {
				x[i] = h.dtype.Round(float32(r.NormFloat64()))
			}
			return slicesOf(x, h.d)
		}
		h.in = QInput{Q: draw(h.nq), Len: h.nq, Visible: tc.visible, Scale: tc.scale}
		h.kIn = KVInput{K: draw(h.nk), V: draw(h.nk), Len: h.nk, Dim: h.d, DType: h.dtype}
		p, err := program.Selection{Kernel: tc.kernel, Set: tc.set}.Program()
		if err != nil {
			t.Fatal(err)
		}
		k := h.bindAt(t, p, level)
		if took, ran := compareLanes(t, k, h, name); took == 0 || ran != took {
			t.Errorf("%s: %d blocks taken, %d run", name, took, ran)
		}
	}
}

// TestLanesTiny: outputs that a climbing maximum makes so small that PV by V's sign does not take
// them, next to strips that it takes, and others that it makes subnormal.
func TestLanesTiny(t *testing.T) { forLanes(t, testLanesTiny) }

func testLanesTiny(t *testing.T, level Level) {
	for _, name := range []string{"fa3-fp8", "fa3-fp8-2level", "flashinfer-fp8", "sparge-sm90"} {
		took, ran := 0, 0
		for i, step := range []float32{0.1, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.2, 1.6} {
			if testing.Short() && i%4 != 1 {
				continue
			}
			r := rand.New(rand.NewPCG(9, 4))
			h := &call{nq: 200, nk: 450, d: 64, dtype: format.BF16}
			draw := func(n int, of func(token, c int, x float32) float32) Rows {
				x := make([]float32, n*h.d)
				for i := range x {
					x[i] = h.dtype.Round(of(i/h.d, i%h.d, float32(r.NormFloat64())))
				}
				return slicesOf(x, h.d)
			}
			p, err := program.Preset(name)
			if err != nil {
				t.Fatal(err)
			}
			late := func(token int) bool { return (token >= 230) == (p.Tiles.Order == "first-to-last") }
			h.in = QInput{Q: draw(h.nq, func(token, c int, x float32) float32 {
				if token < 64 {
					return x / 8
				}
				return 8
			}), Len: h.nq}
			h.kIn = KVInput{K: draw(h.nk, func(token, c int, x float32) float32 {
				if late(token) {
					return x/64 + step
				}
				return x / 64
			}), V: draw(h.nk, func(token, c int, x float32) float32 {
				if late(token) && c%2 == 0 {
					return 0
				}
				return x
			}), Len: h.nk, Dim: h.d, DType: h.dtype}
			k := h.bindAt(t, p, level)
			a, b := compareLanes(t, k, h, fmt.Sprintf("%s, climbing %g", name, step))
			took, ran = took+a, ran+b
		}
		if ran <= took/2 {
			t.Errorf("%s: %d blocks taken, %d run", name, took, ran)
		}
	}
}

// TestLanesPrepared: K and V that a kernel with another unit prepared, or one that takes PV another
// way, give what the kernel's own do; and a code of V that is NaN is seen.
func TestLanesPrepared(t *testing.T) { forLanes(t, testLanesPrepared) }

func testLanesPrepared(t *testing.T, level Level) {
	for _, name := range []string{"fa3-fp8", "sparge-sm90"} {
		var kernels []*Kernel
		h := fp8Call(rand.New(rand.NewPCG(7, 4)), 150, 500, 64, false, -1)
		for _, set := range [][]string{nil, {"pv.unit.step=16"}, {"pv.unit.fraction_bits=23"}, {"pv.unit.sum_round=fp32-nearest"}} {
			p, err := program.Selection{Kernel: name, Set: set}.Program()
			if err != nil {
				t.Fatal(err)
			}
			k := h.bindAt(t, p, level)
			kernels = append(kernels, k)
		}
		for i, dots := range []bool{true, true, false, false} {
			if k := kernels[i]; (k.lanes != nil && k.lanes.dots) != dots {
				t.Errorf("%s: kernel %d takes PV the wrong way", name, i)
			}
		}
		results := make([]result, len(kernels))
		for i, k := range kernels {
			for j, by := range kernels {
				if k.Preparation() != by.Preparation() {
					t.Fatal("the preparations differ")
				}
				kv, err := by.Prepare(h.kIn)
				if err != nil {
					t.Fatal(err)
				}
				got := h.run(t, k, kv)
				if j == 0 {
					results[i] = got
				} else if d := results[i].differs(&got); d != "" {
					t.Errorf("%s: kernel %d, prepared by %d: %s", name, i, j, d)
				}
			}
			if d := results[0].differs(&results[i]); i > 0 && d == "" {
				t.Errorf("%s: kernel %d gives what the first does", name, i)
			}
		}
		bad := *h
		bad.kIn.V = func(lo, hi int, dst []float32) {
			h.kIn.V(lo, hi, dst)
			if lo <= 300 && 300 < hi {
				dst[(300-lo)*h.d+5] = float32(math.NaN())
			}
		}
		if took, ran := compareLanes(t, kernels[0], &bad, "NaN"); took == 0 || ran != 0 {
			t.Errorf("%s, with NaN in V: %d blocks taken, %d run", name, took, ran)
		}
	}
}
