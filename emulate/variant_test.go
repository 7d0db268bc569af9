package emulate_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/emulate/quant"
)

// variant returns p with deviations.
func variant(t testing.TB, p program.Program, list string) program.Program {
	t.Helper()
	base := p
	if err := p.Apply(&base, list); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestVariantRefused: deviations of what the configuration does not have.
func TestVariantRefused(t *testing.T) {
	for _, tc := range []struct {
		kernel, variant, want string
		change                func(*program.Program) error
	}{
		{"sage2-8b-sm90", "delta-s=none", "does not smooth Q", nil},
		{"sage2-8b-sm90", "v-max=2", "not scaled", func(c *program.Program) error { return c.SetPVType(quant.FP16) }},
		{"sage2-8b-sm90", "level-keys=32", "pv.join: none: pv.level is 32", func(c *program.Program) error { return c.SetAccum("fp32") }},
		{"sage2-8b-sm90", "fma-o=none", "pv.join: twice: pv.level is all", func(c *program.Program) error { return c.SetAccum("ideal") }},
		{"sage2-8b-sm90", "level-keys=48", "does not divide", nil},
		{"sage2-8b-sm90", "level-keys=16", "no multiple of the instruction's depth of 32", nil},
		{"sage2-4b", "level-keys=128", "does not divide", nil},
		{"sage2-8b-sm90", "step=3", "does not divide", nil},
		{"sage2-8b-sm90", "step=16", "exact", func(c *program.Program) error { return c.SetPVType(quant.INT8) }},
		{"sage2-8b-sm90", "sum-round=fp16-nearest", "two levels", func(c *program.Program) error { return c.SetAccum("fp32") }},
	} {
		cfg, err := program.Preset(tc.kernel)
		if err != nil {
			t.Fatal(err)
		}
		if tc.change != nil {
			set(t, tc.change(&cfg))
		}
		if err := cfg.Validate(); err != nil {
			t.Fatal(err)
		}
		base := cfg
		err = cfg.Apply(&base, tc.variant)
		if err == nil {
			err = cfg.Validate()
		}
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s %s: %v, want %q", tc.kernel, tc.variant, err, tc.want)
		}
	}
}

// stages are the intermediate values of a head, in the order of the program.
type stages struct {
	names  []string
	values map[string][]float32
}

func (s *stages) add(name string, x []float32) {
	if _, ok := s.values[name]; !ok {
		s.names = append(s.names, name)
	}
	s.values[name] = append(s.values[name], x...)
}

func floats[T int8 | int32 | uint16](x []T) []float32 {
	y := make([]float32, len(x))
	for i, v := range x {
		y[i] = float32(v)
	}
	return y
}

// watch runs a head and keeps all stages.
func (h *head) watch(t testing.TB, cfg program.Program) *stages {
	t.Helper()
	k, err := emulate.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := k.Prepare(emulate.KVInput{K: matrix(h.k, h.d), V: matrix(h.v, h.d), Len: h.nk, Dim: h.d, DType: h.dtype})
	if err != nil {
		t.Fatal(err)
	}
	s := &stages{values: map[string][]float32{}}
	kc, ks := kv.KeyCodes()
	vc, _, vs, _ := kv.ValueCodes()
	s.add("k scale", ks)
	s.add("k codes", floats(kc))
	s.add("v scale", vs)
	s.add("v codes", floats(vc))
	ws := emulate.Workspace{Observer: func(x *emulate.Tile) {
		s.add("q codes", floats(x.QCodes))
		s.add("scores", floats(x.IntScores))
		s.add("row max", x.RowMax)
		s.add("p", x.P)
		s.add("p codes", floats(x.PCodes))
		s.add("d", x.Denominators)
		s.add("tile", x.TileSums)
		s.add("rescale", x.Rescale)
		s.add("o", x.Output)
	}}
	q := k.Query(emulate.QInput{Q: matrix(h.q, h.d), Len: h.nq, Causal: h.causal, Scale: 1 / math.Sqrt(float64(h.d))}, kv, &ws)
	out := make([]float32, h.nq*h.d)
	for b := range k.Blocks(h.nq) {
		k.Run(q, &ws, b, out[b*k.Tiling().BlockQ*h.d:], nil)
	}
	s.add("output", out)
	return s
}

// changed returns the first stage that differs, "" for none.
func (s *stages) changed(o *stages) string {
	for _, n := range s.names {
		if !slices.Equal(s.values[n], o.values[n]) {
			return n
		}
	}
	return ""
}

// peaky makes some rows look at a few keys only, so that sums lose bits, and has a
// maximum that grows from tile to tile.
func peaky(h *head) *head {
	for i := range h.nq {
		if i%3 == 0 {
			for c := range h.d {
				h.q[i*h.d+c] = h.dtype.Round(4 * h.q[i*h.d+c])
			}
		}
	}
	return h
}

// TestVariantStages: each deviation changes the stage that it is about, and nothing
// that comes before it.
func TestVariantStages(t *testing.T) {
	causal := peaky(randomHead(5, 200, 200, 64, format.FP16))
	causal.causal = true
	ragged := peaky(randomHead(6, 130, 300, 64, format.FP16))
	// The last steps show in an output of FP32 only, or seldom.
	wide := peaky(randomHead(7, 130, 200, 64, format.FP32))
	for _, tc := range []struct {
		variant, stage string
		ragged, only4b bool
	}{
		{"code-round=zero", "k codes", false, false},
		{"v-max=440", "v scale", false, false},
		{"v-round=zero", "v codes", false, false},
		{"delta-s=none", "row max", false, true},
		{"delta-s=raw", "row max", false, true},
		{"causal-shift=1", "row max", false, false},
		{"causal-shift=-1", "row max", false, false},
		{"key-mask=none", "p", true, false},
		{"p-offset=8", "row max", false, false},
		{"p-offset=none", "row max", false, false},
		{"fma-max=none", "row max", false, false},
		{"fma-exp=none", "p", false, false},
		{"exp2=exact", "p", false, false},
		{"p-round=zero", "p codes", false, false},
		{"d-sum=codes", "d", false, false},
		{"d-order=pairwise", "d", false, false},
		{"fma-d=none", "d", false, false},
		{"rescale-d=none", "d", false, false},
		{"fraction-bits=12", "tile", false, false},
		{"step=8", "tile", false, false},
		{"sum-round=fp22-nearest", "tile", false, false},
		{"sum-round=fp32-zero", "tile", false, false},
		{"sum-round=fp32-nearest", "tile", false, false},
		{"sum-round=fp16-nearest", "tile", false, false},
		{"level-keys=32", "tile", false, false},
		{"rescale-o=none", "rescale", false, false},
		{"fma-o=none", "o", false, false},
		{"rcp=exact", "output", false, false},
		{"rcp=divide", "output", false, false},
	} {
		for _, cfg := range sage2() {
			if tc.only4b && cfg.Smooth() != "q,k" {
				continue
			}
			t.Run(cfg.Name+" "+tc.variant, func(t *testing.T) {
				h := causal
				if tc.ragged {
					h = ragged
				}
				if tc.stage == "output" {
					h = wide
				}
				before := h.watch(t, cfg)
				cfg = variant(t, cfg, tc.variant)
				if got := h.watch(t, cfg).changed(before); got != tc.stage {
					t.Errorf("changes %q first, want %q", got, tc.stage)
				}
			})
		}
	}
	// The tail is everywhere already in Algorithm 1.
	cfg := sage2()[2]
	before := ragged.watch(t, cfg)
	cfg = variant(t, cfg, "tail=all")
	if got := ragged.watch(t, cfg).changed(before); got != "row max" {
		t.Errorf("tail=all changes %q first", got)
	}
}

// TestVariantArithmetic recomputes what single deviations are about from the stages
// before them.
func TestVariantArithmetic(t *testing.T) {
	h := peaky(randomHead(8, 64, 256, 64, format.FP16))
	cfg := sage2()[2]
	run := func(list string) *stages {
		c := cfg
		c = variant(t, c, list)
		return h.watch(t, c)
	}
	const bk, rows = 128, 64
	tiles := h.nk / bk

	t.Run("p-round", func(t *testing.T) {
		s := run("p-round=zero")
		for i, c := range s.values["p codes"] {
			p := s.values["p"][quant.Permute(i)]
			lo, hi := format.E4M3(c).Float32(), format.E4M3(c+1).Float32()
			if p < lo || c < 0x7e && p >= hi {
				t.Fatalf("P~ %g has the code of %g, the next is %g", p, lo, hi)
			}
		}
	})
	t.Run("denominators", func(t *testing.T) {
		for _, list := range []string{"d-sum=codes", "d-order=pairwise", "fma-d=none", "rescale-d=none"} {
			s := run(list)
			d := make([]float32, rows*4)
			for i := range d {
				d[i] = 1
			}
			for tile := range tiles {
				for r := range rows {
					row := make([]float32, bk)
					for i := range row {
						at := (tile*rows+r)*bk + i
						row[i] = s.values["p"][at]
					}
					if list == "d-sum=codes" {
						for i := range row {
							row[quant.Permute(i)] = format.E4M3(s.values["p codes"][(tile*rows+r)*bk+i]).Float32()
						}
					}
					alpha := s.values["rescale"][tile*rows+r]
					for j := range 4 {
						x := d[r*4+j]
						for b := 0; b < bk; b += 16 {
							p := row[b+2*j:]
							sum := ((p[0] + p[1]) + p[8]) + p[9]
							if list == "d-order=pairwise" {
								sum = (p[0] + p[1]) + (p[8] + p[9])
							}
							switch {
							case b > 0 || list == "rescale-d=none":
								x += sum
							case list == "fma-d=none":
								x = float32(x*alpha) + sum
							default:
								x = format.FMAFtz(x, alpha, sum)
							}
						}
						d[r*4+j] = x
					}
				}
				if got := s.values["d"][tile*rows*4:][:rows*4]; !slices.Equal(got, d) {
					t.Fatalf("%s, tile %d: %v, want %v", list, tile, got[:8], d[:8])
				}
			}
		}
	})
	t.Run("output", func(t *testing.T) {
		for _, list := range []string{"fma-o=none", "rescale-o=none"} {
			s := run(list)
			o := make([]float32, rows*h.d)
			for tile := range tiles {
				for i := range o {
					alpha, sum := s.values["rescale"][tile*rows+i/h.d], s.values["tile"][tile*rows*h.d+i]
					if list == "rescale-o=none" {
						if alpha != 1 {
							t.Fatalf("O is rescaled by %g", alpha)
						}
						o[i] += sum
					} else {
						o[i] = float32(o[i]*alpha) + sum
					}
				}
				if !slices.Equal(s.values["o"][tile*rows*h.d:][:rows*h.d], o) {
					t.Fatalf("%s: tile %d differs", list, tile)
				}
			}
		}
	})
	t.Run("level-keys", func(t *testing.T) {
		s := run("level-keys=64")
		u, err := cfg.PV.Unit.Lookup(cfg.Arch)
		if err != nil {
			t.Fatal(err)
		}
		o := make([]float32, rows*h.d)
		var p, v [32]uint32
		for tile := range tiles {
			for i := range o {
				r, c := i/h.d, i%h.d
				old, alpha := float32(0), s.values["rescale"][tile*rows+r]
				if tile > 0 {
					old = s.values["o"][(tile-1)*rows*h.d+i]
				}
				for lo := 0; lo < bk; lo += 64 {
					acc := uint32(0)
					for k := lo; k < lo+64; k += 32 {
						for i := range 32 {
							p[i] = uint32(s.values["p codes"][(tile*rows+r)*bk+k+i])
							v[i] = uint32(s.values["v codes"][c*h.nk+tile*bk+quant.Permute(k+i)])
						}
						acc = u.Dot(acc, p[:], v[:])
					}
					old = format.FMAFtz(old, alpha, math.Float32frombits(acc))
					alpha = 1
				}
				o[i] = old
			}
			if !slices.Equal(s.values["o"][tile*rows*h.d:][:rows*h.d], o) {
				t.Fatalf("tile %d differs", tile)
			}
		}
	})
	t.Run("out-round", func(t *testing.T) {
		x, y := run("out-round=zero").values["output"], run("").values["output"]
		if slices.Equal(x, y) {
			t.Error("no difference")
		}
		for i := range x {
			if math.Abs(float64(x[i])) > math.Abs(float64(y[i])) {
				t.Fatalf("%g rounded toward zero is %g", y[i], x[i])
			}
		}
	})
	t.Run("v-max", func(t *testing.T) {
		x := run("v-max=224").values["v scale"]
		for i, y := range run("").values["v scale"] {
			if x[i] != 2*y {
				t.Fatalf("the scale %g becomes %g", y, x[i])
			}
		}
	})
	t.Run("mask", func(t *testing.T) {
		h := randomHead(9, 192, 192, 64, format.FP16)
		h.causal = true
		for shift := -1; shift <= 1; shift++ {
			c := cfg
			c.Mask.Shift = shift
			p := h.watch(t, c).values["p"]
			// The first block sees one tile; keys past the mask have no weight, but for a
			// row that sees nothing else.
			for r := max(0, -shift); r < 64; r++ {
				for j := range bk {
					if hidden := j > r+shift; hidden != (p[r*bk+j] == 0) {
						t.Fatalf("shift %d: query %d, key %d has weight %g", shift, r, j, p[r*bk+j])
					}
				}
			}
			if shift == -1 && slices.Min(p[:bk]) == 0 {
				t.Error("a row whose keys are all masked has weights of zero")
			}
		}
	})
}

// TestShiftedTiles: where mask.tiles is shifted a row sees every key up to its own and the
// shift's, also in tiles that its block looks at for the shift alone, and a block looks at no tile
// that none of its rows sees; otherwise the tiles end where they end without a shift.
func TestShiftedTiles(t *testing.T) {
	h := randomHead(9, 192, 700, 64, format.FP16)
	h.causal = true
	for _, tiles := range []string{"all", "shifted"} {
		for _, shift := range []int{-70, -1, 0, 1, 63, 65, 200, 1 << 20} {
			c, err := program.Preset("sage2-8b-sm90")
			if err != nil {
				t.Fatal(err)
			}
			c.Mask.Tiles, c.Mask.Shift = tiles, shift
			k, err := emulate.New(c)
			if err == nil {
				k, err = k.For(h.d, h.dtype, true)
			}
			if err != nil {
				t.Fatal(err)
			}
			seen, looked := make([]int, h.nq), make([]int, k.Blocks(h.nq))
			ws := emulate.Workspace{Observer: func(x *emulate.Tile) {
				looked[x.Block]++
				for r, n := range x.Visible {
					seen[x.Row+r] += n
				}
			}}
			kv, err := k.Prepare(emulate.KVInput{K: matrix(h.k, h.d), V: matrix(h.v, h.d), Len: h.nk, Dim: h.d, DType: h.dtype})
			if err != nil {
				t.Fatal(err)
			}
			q := k.Query(emulate.QInput{Q: matrix(h.q, h.d), Len: h.nq, Causal: true}, kv, &ws)
			tiling := k.Tiling()
			for b := range k.Blocks(h.nq) {
				rows := min(tiling.BlockQ, h.nq-b*tiling.BlockQ)
				if _, err := k.Run(q, &ws, b, make([]float32, rows*h.d), nil); err != nil {
					t.Fatal(err)
				}
				end := (b + 1) * tiling.BlockQ
				if tiles == "shifted" {
					end += shift
				}
				want := (max(0, min(end, h.nk)) + tiling.BlockK - 1) / tiling.BlockK
				if looked[b] != want {
					t.Errorf("%s, shift %d: block %d looks at %d tiles, want %d", tiles, shift, b, looked[b], want)
				}
				for r := b * tiling.BlockQ; r < b*tiling.BlockQ+rows; r++ {
					if want := max(0, min(r+1+shift, h.nk, want*tiling.BlockK)); seen[r] != want {
						t.Fatalf("%s, shift %d: row %d sees %d keys, want %d", tiles, shift, r, seen[r], want)
					}
				}
			}
		}
	}
}

// TestVariantLevels: deviations that the vector paths have give the same bits there.
func TestVariantLevels(t *testing.T) {
	h := peaky(randomHead(10, 200, 333, 64, format.FP16))
	for _, plain := range sage2() {
		for _, list := range []string{"code-round=zero", "code-round=away", "code-round=even", "v-max=2", "v-max=500", "v-round=zero", "tail=all"} {
			cfg := variant(t, plain, list)
			want, wantLSE, wantCounts := h.runAt(t, cfg, emulate.Levels()[0])
			for _, level := range emulate.Levels()[1:] {
				got, lse, counts := h.runAt(t, cfg, level)
				same(t, list+": output", got, want)
				same(t, list+": lse", lse, wantLSE)
				if counts != wantCounts {
					t.Errorf("%s: counts %v, want %v", list, counts.Map(), wantCounts.Map())
				}
			}
		}
	}
}

// TestReduced: what makes no difference is left out, and the bits agree.
func TestReduced(t *testing.T) {
	h := randomHead(11, 70, 150, 64, format.FP16)
	for _, tc := range []struct{ kernel, same string }{
		{"sage2-4b", "code-round=even"}, {"sage2-8b-sm90", "code-round=away"}, {"sage2-4b", "tail=all"},
		{"sage2-4b", "v-max=448"}, {"sage2-4b", "p-offset=8.807"}, {"sage2-4b", "level-keys=64"},
		{"sage2-8b-sm90", "level-keys=128"}, {"sage2-8b-sm90", "fraction-bits=13,step=32,sum-round=fp22-zero"},
		{"sage2-8b-sm89", "step=16"},
	} {
		cfg, err := program.Preset(tc.kernel)
		if err != nil {
			t.Fatal(err)
		}
		plain := cfg
		cfg = variant(t, cfg, tc.same)
		got, want := cfg.Reduced(), plain.Reduced()
		if d := program.Diff(&want, &got); d != nil {
			t.Errorf("%s %s reduces to %v", tc.kernel, tc.same, d)
		}
		a, _, _ := h.run(t, cfg)
		b, _, _ := h.run(t, plain)
		same(t, tc.same, a, b)
	}
	// With 13 fraction bits every sum is an FP32 number: there is nothing to round.
	nearest := variant(t, sage2()[2], "sum-round=fp32-nearest")
	zero := variant(t, sage2()[2], "sum-round=fp32-zero")
	x, y := nearest.Reduced(), zero.Reduced()
	if x.Key() != y.Key() {
		t.Error("sums that are exact are rounded in two ways")
	}
	a, _, _ := h.run(t, nearest)
	b, _, _ := h.run(t, zero)
	same(t, "exact sums", a, b)
	// Not the same: the other program's values.
	plain := sage2()[2]
	cfg := variant(t, plain, "code-round=even,step=16")
	x, y = plain.Reduced(), cfg.Reduced()
	if len(program.Diff(&x, &y)) != 2 {
		t.Errorf("reduced to %v", program.Diff(&x, &y))
	}
}

// TestRunRows: rows on their own are those of the whole block, also where others'
// preparation is used.
func TestRunRows(t *testing.T) {
	h := randomHead(12, 200, 200, 64, format.FP16)
	h.causal = true
	for _, plain := range sage2() {
		want, _, _ := h.run(t, plain)
		for _, list := range []string{"", "p-round=zero", "code-round=zero"} {
			cfg := variant(t, plain, list)
			if list != "" {
				want, _, _ = h.run(t, cfg)
			}
			k, err := emulate.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			kv, err := k.Prepare(emulate.KVInput{K: matrix(h.k, h.d), V: matrix(h.v, h.d), Len: h.nk, Dim: h.d, DType: h.dtype})
			if err != nil {
				t.Fatal(err)
			}
			var ws emulate.Workspace
			q := k.Query(emulate.QInput{Q: matrix(h.q, h.d), Len: h.nq, Causal: true, Scale: 1 / math.Sqrt(float64(h.d))}, kv, &ws)
			last := k.Blocks(h.nq) - 1
			first := last * k.Tiling().BlockQ
			pick := []int{0, 3, h.nq - first - 1}
			out := make([]float32, len(pick)*h.d)
			if err := k.RunRows(q, &ws, last, pick, out); err != nil {
				t.Fatal(err)
			}
			for i, r := range pick {
				same(t, cfg.Name+" "+list, out[i*h.d:(i+1)*h.d], want[(first+r)*h.d:(first+r+1)*h.d])
			}
		}
	}
}

// TestForRows: a kernel for rows alone gives the same rows, at every level and with what another
// prepared, of which more do alike. FP32 shows every bit.
func TestForRows(t *testing.T) {
	h := randomHead(13, 200, 200, 64, format.FP32)
	h.causal = true
	for _, plain := range sage2() {
		for _, level := range emulate.Levels() {
			shared := map[emulate.Preparation]*emulate.KV{}
			for _, list := range []string{"p-round=zero", "", "fma-o=none", "level-keys=32"} {
				cfg := variant(t, plain, list)
				want, _, _ := h.run(t, cfg)
				whole, err := emulate.NewAt(cfg, level)
				if err != nil {
					t.Fatal(err)
				}
				k := whole.ForRows()
				kv := shared[k.Preparation()]
				if kv == nil {
					if kv, err = k.Prepare(emulate.KVInput{K: matrix(h.k, h.d), V: matrix(h.v, h.d), Len: h.nk, Dim: h.d, DType: h.dtype}); err != nil {
						t.Fatal(err)
					}
					shared[k.Preparation()] = kv
				}
				var ws emulate.Workspace
				q := k.Query(emulate.QInput{Q: matrix(h.q, h.d), Len: h.nq, Causal: true, Scale: 1 / math.Sqrt(float64(h.d))}, kv, &ws)
				last := k.Blocks(h.nq) - 1
				first := last * k.Tiling().BlockQ
				pick := []int{0, 1, 5, h.nq - first - 1}
				out := make([]float32, len(pick)*h.d)
				if err := k.RunRows(q, &ws, last, pick, out); err != nil {
					t.Fatal(err)
				}
				for i, r := range pick {
					same(t, fmt.Sprint(cfg.Name, " ", list, " ", level), out[i*h.d:(i+1)*h.d], want[(first+r)*h.d:(first+r+1)*h.d])
				}
			}
			if len(shared) != 1 {
				t.Errorf("%s, %s: %d preparations", plain.Name, level, len(shared))
			}
		}
	}
}

// TestPreparation: kernels that prepare alike share a KV, others do not.
func TestPreparation(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		same bool
	}{
		{"p-round=zero", "exp2=exact", true}, {"p-round=zero", "p-round=zero,v-max=448", true},
		{"p-round=zero", "p-round=zero,v-max=2", false}, {"", "code-round=zero", false},
		{"v-round=zero", "v-round=zero,tail=all", true},
	} {
		var p [2]emulate.Preparation
		for i, list := range []string{tc.a, tc.b} {
			cfg := variant(t, sage2()[2], list)
			k, err := emulate.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			p[i] = k.Preparation()
		}
		if (p[0] == p[1]) != tc.same {
			t.Errorf("%q and %q: %+v, %+v", tc.a, tc.b, p[0], p[1])
		}
	}
}
