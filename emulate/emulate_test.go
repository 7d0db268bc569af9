package emulate_test

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/mufu"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/emulate/quant"
	"github.com/sageacc/sageacc/emulate/tensorcore"
	"github.com/sageacc/sageacc/internal/sweep"
)

// head is one attention problem.
type head struct {
	q, k, v   []float32
	nq, nk, d int
	dtype     format.DType
	causal    bool
	tile      int // keys of the kernel's tile, where a test looks at it
}

// sage2 are the three programs of SageAttention2.
func sage2() []program.Program {
	var out []program.Program
	for _, name := range []string{"sage2-4b", "sage2-8b-sm89", "sage2-8b-sm90"} {
		p, err := program.Preset(name)
		if err != nil {
			panic(err)
		}
		out = append(out, p)
	}
	return out
}

// set fails the test if an edit did.
func set(t testing.TB, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func randomHead(seed uint64, nq, nk, d int, dtype format.DType) *head {
	r := rand.New(rand.NewPCG(seed, 99))
	draw := func(n int, bias float64) []float32 {
		x := make([]float32, n*d)
		for i := range x {
			b := 0.0
			if i%d == 3 {
				b = bias
			}
			x[i] = dtype.Round(float32(r.NormFloat64() + b))
		}
		return x
	}
	return &head{q: draw(nq, 2), k: draw(nk, 4), v: draw(nk, 1), nq: nq, nk: nk, d: d, dtype: dtype}
}

func matrix(x []float32, d int) emulate.Rows {
	return func(lo, hi int, dst []float32) { copy(dst, x[lo*d:hi*d]) }
}

// run emulates the head and returns the output, the base-2 log-sum-exp and the
// counts.
func (h *head) run(t testing.TB, cfg program.Program) (out, lse []float32, counts emulate.Counts) {
	t.Helper()
	k, err := emulate.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := k.Prepare(emulate.KVInput{K: matrix(h.k, h.d), V: matrix(h.v, h.d), Len: h.nk, Dim: h.d, DType: h.dtype})
	if err != nil {
		t.Fatal(err)
	}
	var ws emulate.Workspace
	q := k.Query(emulate.QInput{Q: matrix(h.q, h.d), Len: h.nq, Causal: h.causal, Scale: 1 / math.Sqrt(float64(h.d))}, kv, &ws)
	out, lse = make([]float32, h.nq*h.d), make([]float32, h.nq)
	for b := range k.Blocks(h.nq) {
		lo := b * k.Tiling().BlockQ
		if _, err := k.Run(q, &ws, b, out[lo*h.d:], lse[lo:]); err != nil {
			t.Fatal(err)
		}
	}
	counts = ws.Counts
	counts.Merge(&kv.Counts)
	return out, lse, counts
}

// exact is attention in FP64; lse is in base 2 and of the scores as they are.
func (h *head) exact() (out, lse []float64) {
	out, lse = make([]float64, h.nq*h.d), make([]float64, h.nq)
	s := make([]float64, h.nk)
	for i := range h.nq {
		n := h.nk
		if h.causal {
			n = min(n, i+1)
		}
		top := math.Inf(-1)
		for j := range n {
			s[j] = 0
			for c := range h.d {
				s[j] += float64(h.q[i*h.d+c]) * float64(h.k[j*h.d+c])
			}
			s[j] /= math.Sqrt(float64(h.d))
			top = max(top, s[j])
		}
		sum := 0.0
		for j := range n {
			p := math.Exp(s[j] - top)
			sum += p
			for c := range h.d {
				out[i*h.d+c] += p * float64(h.v[j*h.d+c])
			}
		}
		for c := range h.d {
			out[i*h.d+c] /= sum
		}
		lse[i] = (top + math.Log(sum)) * math.Log2E
	}
	return out, lse
}

func relL1(out []float32, want []float64) float64 {
	var diff, sum float64
	for i, x := range out {
		diff += math.Abs(float64(x) - want[i])
		sum += math.Abs(want[i])
	}
	return diff / sum
}

// TestEveryConfiguration runs every combination of options, by itself a third of them in which
// every two meet, and holds it to the error that its data types allow. It would notice any tile, mask, scale or
// correction in the wrong place: those are errors of the order of 1.
func TestEveryConfiguration(t *testing.T) {
	shapes := []struct {
		nq, nk, d int
		causal    bool
	}{{130, 130, 64, true}, {70, 333, 40, false}, {1, 17, 128, false}, {200, 150, 64, true}}
	for i, s := range shapes {
		h := randomHead(uint64(i), s.nq, s.nk, s.d, format.FP16)
		h.causal = s.causal
		want, _ := h.exact()
		for _, base := range sage2() {
			for g := quant.PerTensor; g <= quant.PerToken; g++ {
				for pv := quant.E4M3; pv <= quant.FP16; pv++ {
					for j, acc := range program.Accums() {
						for l, smooth := range []string{"none", "q,k,v", "k"} {
							if (i+int(g)+int(pv)+j+l)%3 != 0 && !sweep.Full() {
								continue
							}
							cfg := base
							for _, err := range []error{cfg.SetGranularity(g), cfg.SetSmooth(smooth), cfg.SetPVType(pv)} {
								if err != nil {
									t.Fatal(err)
								}
							}
							if cfg.SetAccum(acc) != nil || cfg.Validate() != nil {
								continue
							}
							// The step of Q and K's codes is a 7th or a 127th of their
							// maximum; K's bias of 4 makes it worse unless smoothed.
							bound := 0.06
							if cfg.Bits() == 4 {
								bound = 0.45
								if smooth == "none" {
									bound = 0.9
								}
							}
							if pv == quant.INT8 {
								bound += 0.5
							}
							if pv == quant.E5M2 {
								bound += 0.05
							}
							out, _, _ := h.run(t, cfg)
							if e := relL1(out, want); !(e < bound) {
								t.Errorf("shape %v %s %s %s %s smooth %s: relative L1 %.4f, bound %.2f", s, cfg.Name, g, pv, acc, smooth, e, bound)
							}
						}
					}
				}
			}
		}
	}
}

// TestLSE compares the log-sum-exp with FP64. Without smoothing nothing needs
// correcting; a smoothed K shifts each row by the product of q and the mean.
func TestLSE(t *testing.T) {
	h := randomHead(5, 150, 200, 64, format.BF16)
	_, want := h.exact()
	for _, smooth := range []string{"none", "k"} {
		cfg, _ := program.Preset("sage2-8b-sm90")
		if err := cfg.SetSmooth(smooth); err != nil {
			t.Fatal(err)
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
		q := k.Query(emulate.QInput{Q: matrix(h.q, h.d), Len: h.nq, Scale: 0.125}, kv, &ws)
		out, lse := make([]float32, k.Tiling().BlockQ*h.d), make([]float32, k.Tiling().BlockQ)
		for b := range k.Blocks(h.nq) {
			n, err := k.Run(q, &ws, b, out, lse)
			if err != nil {
				t.Fatal(err)
			}
			for i := range n {
				row := b*k.Tiling().BlockQ + i
				got := emulate.NaturalLSE(lse[i], q.LSECorrection(h.q[row*h.d:(row+1)*h.d]), 0.125)
				if e := float64(got) - want[row]/math.Log2E; math.Abs(e) > 0.03 {
					t.Fatalf("smooth %s row %d: log-sum-exp %g, want %g", smooth, row, got, want[row]/math.Log2E)
				}
			}
		}
	}
}

// TestPadding: zero channels, which the released API adds up to 64 or 128, change
// nothing.
func TestPadding(t *testing.T) {
	h := randomHead(9, 100, 140, 40, format.FP16)
	pad := func(x []float32) []float32 {
		y := make([]float32, len(x)/40*64)
		for i := range len(x) / 40 {
			copy(y[i*64:], x[i*40:i*40+40])
		}
		return y
	}
	for _, cfg := range sage2() {
		k, err := emulate.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		run := func(h *head) []float32 {
			kv, err := k.Prepare(emulate.KVInput{K: matrix(h.k, h.d), V: matrix(h.v, h.d), Len: h.nk, Dim: h.d, DType: h.dtype})
			if err != nil {
				t.Fatal(err)
			}
			var ws emulate.Workspace
			q := k.Query(emulate.QInput{Q: matrix(h.q, h.d), Len: h.nq, Scale: 0.2}, kv, &ws)
			out := make([]float32, h.nq*h.d)
			for b := range k.Blocks(h.nq) {
				k.Run(q, &ws, b, out[b*k.Tiling().BlockQ*h.d:], nil)
			}
			return out
		}
		short := run(h)
		long := run(&head{q: pad(h.q), k: pad(h.k), v: pad(h.v), nq: h.nq, nk: h.nk, d: 64, dtype: h.dtype})
		for i := range h.nq {
			for c := range 40 {
				if a, b := short[i*40+c], long[i*64+c]; a != b {
					t.Fatalf("%s: row %d channel %d is %g, padded %g", cfg.Name, i, c, a, b)
				}
			}
		}
	}
}

// TestPaperProgram computes sage2-4b once more, row by row from its definition
// and with the tensor core's definition for every product. No released kernel
// does all of Algorithm 1, so this is what stands against the tiled program.
func TestPaperProgram(t *testing.T) {
	cfg, _ := program.Preset("sage2-4b")
	for _, arch := range []string{tensorcore.SM89, tensorcore.SM90} {
		cfg.Arch = arch
		for _, causal := range []bool{false, true} {
			h := randomHead(11, 140, 150, 24, format.BF16)
			h.causal = causal
			out, _, _ := h.run(t, cfg)
			want := naive4b(t, h, arch)
			for i := range out {
				if out[i] != want[i] {
					t.Fatalf("%s causal=%v: row %d channel %d is %g, by definition %g", arch, causal, i/h.d, i%h.d, out[i], want[i])
				}
			}
		}
	}
}

// naive4b is Algorithm 1 without tiles in memory, SIMD or sharing.
func naive4b(t *testing.T, h *head, arch string) []float32 {
	u, err := tensorcore.Lookup(arch, "mma.m16n8k32.f32.e4m3")
	if err != nil {
		t.Fatal(err)
	}
	d := h.d
	mean := func(x []float32) []float32 {
		m := make([]float32, d)
		for c := range m {
			s := 0.0
			for r := c; r < len(x); r += d {
				s += float64(x[r])
			}
			m[c] = float32(s / float64(len(x)/d))
		}
		return m
	}
	minus := func(x, m []float32) []float32 {
		y := make([]float32, len(x))
		for i := range x {
			y[i] = x[i] - m[i%d]
		}
		return y
	}
	k := minus(h.k, mean(h.k))
	qMean := make([]float32, len(h.q))
	q := make([]float32, len(h.q))
	for lo := 0; lo < h.nq; lo += 128 {
		hi := min(lo+128, h.nq)
		m := mean(h.q[lo*d : hi*d])
		copy(q[lo*d:], minus(h.q[lo*d:hi*d], m))
		for r := lo; r < hi; r++ {
			copy(qMean[r*d:], m)
		}
	}
	scales := func(x []float32, n int, same func(a, b int) bool) []float32 {
		s := make([]float32, n)
		for a := range n {
			var top float64
			for b := range n {
				if same(a, b) {
					for _, v := range x[b*d : b*d+d] {
						top = max(top, math.Abs(float64(v)))
					}
				}
			}
			s[a] = float32(top) / 7
		}
		return s
	}
	qs := scales(q, h.nq, func(a, b int) bool { return a/32 == b/32 && a%8 == b%8 })
	ks := scales(k, h.nk, func(a, b int) bool { return a/64 == b/64 && a%8/2 == b%8/2 })
	code := func(x, s float32) float32 {
		if s == 0 {
			return 0
		}
		return float32(math.RoundToEven(float64(x / s)))
	}
	vs := make([]float32, d)
	for c := range vs {
		var top float64
		for r := c; r < len(h.v); r += d {
			top = max(top, math.Abs(float64(h.v[r])))
		}
		vs[c] = float32(top) / 448
	}
	out := make([]float32, len(h.q))
	sm := float32(1/math.Sqrt(float64(d))) * float32(math.Log2E)
	for i := range h.nq {
		n := h.nk
		if h.causal {
			n = min(n, i/128*128+128)
		}
		m, den := float32(-5e6), [4]float32{1, 1, 1, 1}
		o := make([]float32, d)
		for lo := 0; lo < n; lo += 64 {
			var s, p [64]float32
			for x := range s {
				j := lo + x
				s[x] = -5e6
				if j >= h.nk || h.causal && j > i {
					continue
				}
				dot, delta := float32(0), float32(0)
				for c := range d {
					dot += code(q[i*d+c], qs[i]) * code(k[j*d+c], ks[j])
					delta = format.FMA(qMean[i*d+c], k[j*d+c], delta)
				}
				s[x] = format.FMA(dot, qs[i]*ks[j], delta)
			}
			mNew := m
			for x := range s {
				mNew = max(mNew, format.FMA(s[x], sm, -8.807))
			}
			rescale := mufu.Ex2(m - mNew)
			m = mNew
			for x := range s {
				p[x] = mufu.Ex2(format.FMA(s[x], sm, -m))
			}
			for b := 0; b < 64; b += 16 {
				for th := range den {
					sum := p[b+2*th] + p[b+2*th+1]
					sum += p[b+2*th+8]
					sum += p[b+2*th+9]
					if b == 0 {
						den[th] = format.FMA(den[th], rescale, sum)
					} else {
						den[th] += sum
					}
				}
			}
			for c := range d {
				acc := uint32(0)
				for b := 0; b < 64; b += 32 {
					var pc, vc [32]uint32
					for x := range pc {
						j := b + quant.Permute(x)
						pc[x] = uint32(format.E4M3FromFloat32(p[j]))
						if lo+j < h.nk {
							vc[x] = uint32(format.E4M3FromFloat32(h.v[(lo+j)*d+c] / vs[c]))
						}
					}
					acc = u.Dot(acc, pc[:], vc[:])
				}
				o[c] = format.FMA(o[c], rescale, math.Float32frombits(acc))
			}
		}
		inv := mufu.Rcp((den[0] + den[1]) + (den[2] + den[3]))
		for c := range d {
			out[i*d+c] = h.dtype.Round(o[c] * inv * vs[c])
		}
	}
	return out
}

// TestCounts: 'my output is black' must be answerable.
func TestCounts(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	cfg, _ := program.Preset("sage2-8b-sm89")
	for _, tc := range []struct {
		name  string
		spoil func(*head)
		cfg   func(*program.Program)
		want  map[string]emulate.Count
	}{
		{name: "nothing", spoil: func(*head) {}, want: map[string]emulate.Count{}},
		{name: "NaN in Q", spoil: func(h *head) { h.q[5] = nan },
			want: map[string]emulate.Count{"q": {NaN: 1}, "q_codes": {NaN: 1}}},
		{name: "Inf in K", spoil: func(h *head) { h.k[70] = inf },
			// Its channel's mean is infinite, and so is the scale of every key.
			want: map[string]emulate.Count{"k": {Inf: 1}, "k_codes": {NaN: 1, Inf: 89}, "scores": {NaN: 80 * 90}, "p": {NaN: 80 * 90},
				"tile_sums": {NaN: 2 * 80 * 32}, "denominator": {NaN: 80}, "output": {NaN: 80 * 32}}},
		{name: "a channel of zeros in V", spoil: func(h *head) {
			for i := 7; i < len(h.v); i += h.d {
				h.v[i] = 0
			}
		}, want: map[string]emulate.Count{"v_codes": {NaN: 90}, "tile_sums": {NaN: 2 * 80}, "output": {NaN: 80}}},
		{name: "V too large for the FP16 accumulator", spoil: func(h *head) {
			for i := range h.v {
				h.v[i] = 6e4
			}
		}, cfg: func(c *program.Program) { set(t, c.SetPVType(quant.FP16), c.SetAccum("fp32+fp16")) },
			// (One row has so little weight in one tile that its sums stay below 65520.)
			want: map[string]emulate.Count{"tile_sums": {Inf: 2*80*32 - 32}, "output": {Inf: 80 * 32}}},
		// With equal scores every P~ is 2^8.807 = 447.7, whose code is 448 of it: an output
		// of 65504 becomes 65541, beyond FP16's last rounding at 65520.
		{name: "output overflow", spoil: func(h *head) {
			clear(h.k)
			for i := range h.v {
				h.v[i] = 65504
			}
		}, want: map[string]emulate.Count{"output": {Inf: 80 * 32, Saturated: 80 * 32}}},
		// P~ is 2^10 for every key, and E4M3 ends at 448.
		{name: "P beyond its format", spoil: func(h *head) { clear(h.k) },
			cfg:  func(c *program.Program) { set(t, c.Set("exponent.offset", "10")) },
			want: map[string]emulate.Count{"p_codes": {Saturated: 80 * 90}}},
		{name: "P at its format's end", spoil: func(h *head) { clear(h.k) },
			cfg:  func(c *program.Program) { set(t, c.SetPVType(quant.E5M2), c.Set("exponent.offset", "15")) },
			want: map[string]emulate.Count{}},
		// Scores of 2^60 and more have an ulp so large that the rounded maximum may lie far
		// above the score that it is of: then every P~ of the row is 0, and so is their sum.
		{name: "scores too large for a maximum", spoil: func(h *head) {
			h.dtype = format.BF16
			for i := range h.q {
				h.q[i] = format.RoundBF16(h.q[i] * 0x1p30)
			}
			for i := range h.k {
				h.k[i] = format.RoundBF16(h.k[i] * 0x1p30)
			}
		}, want: map[string]emulate.Count{"p": {Inf: 52}, "denominator": {Zero: 33, Inf: 32, NaN: 15}, "output": {NaN: (33 + 15) * 32}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := randomHead(3, 80, 90, 32, format.FP16)
			tc.spoil(h)
			c := cfg
			if tc.cfg != nil {
				tc.cfg(&c)
			}
			_, _, counts := h.run(t, c)
			got := counts.Map()
			if !maps.Equal(got, tc.want) {
				t.Errorf("counts %+v, want %+v", got, tc.want)
			}
			var twice emulate.Counts
			twice.Merge(&counts)
			twice.Merge(&counts)
			for stage, n := range twice.Map() {
				if one := tc.want[stage]; n != (emulate.Count{NaN: 2 * one.NaN, Inf: 2 * one.Inf, Saturated: 2 * one.Saturated, Zero: 2 * one.Zero}) {
					t.Errorf("%s: twice %+v is %+v", stage, one, n)
				}
			}
		})
	}
}

// TestObserver checks that what an observer is shown hangs together.
func TestObserver(t *testing.T) {
	h := randomHead(21, 100, 300, 32, format.FP16)
	for _, cfg := range sage2() {
		k, err := emulate.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		kv, err := k.Prepare(emulate.KVInput{K: matrix(h.k, h.d), V: matrix(h.v, h.d), Len: h.nk, Dim: h.d, DType: h.dtype})
		if err != nil {
			t.Fatal(err)
		}
		codes, _ := kv.KeyCodes()
		tiles := 0
		ws := emulate.Workspace{Observer: func(tl *emulate.Tile) {
			tiles++
			for r := range tl.Rows {
				for j := range min(tl.Keys, h.nk-tl.Key) {
					var s int32
					for c := range h.d {
						s += int32(tl.QCodes[r*h.d+c]) * int32(codes[(tl.Key+j)*h.d+c])
					}
					if s != tl.IntScores[r*tl.Keys+j] {
						t.Fatalf("%s: score of row %d key %d is %d, the codes give %d", cfg.Name, tl.Row+r, tl.Key+j, tl.IntScores[r*tl.Keys+j], s)
					}
				}
				for i := range tl.Keys {
					want := uint16(format.E4M3FromFloat32(tl.P[r*tl.Keys+quant.Permute(i)]))
					if got := tl.PCodes[r*tl.Keys+i]; got != want {
						t.Fatalf("%s: P~ code %d of row %d is %02x, P~ gives %02x", cfg.Name, i, tl.Row+r, got, want)
					}
				}
			}
		}}
		q := k.Query(emulate.QInput{Q: matrix(h.q, h.d), Len: h.nq, Scale: 0.1}, kv, &ws)
		out := make([]float32, k.Tiling().BlockQ*h.d)
		for b := range k.Blocks(h.nq) {
			k.Run(q, &ws, b, out, nil)
		}
		bk := k.Tiling().BlockK
		if want := k.Blocks(h.nq) * ((h.nk + bk - 1) / bk); tiles != want {
			t.Errorf("%s: %d tiles, want %d", cfg.Name, tiles, want)
		}
	}
}

func TestConfig(t *testing.T) {
	if _, err := program.Preset("sage3"); err == nil || !strings.Contains(err.Error(), "sage2-8b-sm90") {
		t.Errorf("unknown preset: %v", err)
	}
	for _, tc := range []struct {
		name   string
		change func(*program.Program)
		want   string
	}{
		{"format", func(c *program.Program) { c.QKCodes.Format = "int6" }, "qk_codes.format: unknown value"},
		{"arch", func(c *program.Program) { c.Arch = "sm_12" }, "unknown architecture"},
		{"wgmma on Ada", func(c *program.Program) { c.Arch = tensorcore.SM89 }, "sm_89 has no model"},
		{"int8 with one chain", func(c *program.Program) {
			set(t, c.SetPVType(quant.INT8))
			c.PV.Level, c.PV.Join = program.AllKeys, "none"
		}, "integer sums join O"},
	} {
		cfg, _ := program.Preset("sage2-8b-sm90")
		tc.change(&cfg)
		if _, err := emulate.New(cfg); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v, want one with %q", tc.name, err, tc.want)
		}
	}
	c := sage2()[1]
	if err := c.SetBits(6); err == nil || !strings.Contains(err.Error(), "codes of 6 bits") {
		t.Errorf("6 bits: %v", err)
	}
	set(t, c.SetPVType(quant.INT8))
	if err := c.SetAccum("fp32+fp16"); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("int8 with FP16: %v", err)
	}
	for _, s := range []string{"none", "q", "k", "q,k", "q,k,v", "v"} {
		if err := c.SetSmooth(s); err != nil || c.Smooth() != s {
			t.Errorf("SetSmooth(%q): %v, Smooth() = %q", s, err, c.Smooth())
		}
	}
	for _, s := range []string{"", "x", "q;k", "k,none"} {
		if err := c.SetSmooth(s); err == nil {
			t.Errorf("SetSmooth(%q) is accepted", s)
		}
	}
	for _, d := range []int{0, 129} {
		k, err := emulate.New(sage2()[0])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.Prepare(emulate.KVInput{Len: 4, Dim: d}); err == nil {
			t.Errorf("head_dim %d is accepted", d)
		}
	}
}

func ExampleKernel_Run() {
	// Two keys, the query halfway between them: the output is the mean of V.
	k := []float32{1, 0, 0, 1}
	v := []float32{2, 4, 6, 8}
	q := []float32{1, 1}
	rows := func(x []float32) emulate.Rows {
		return func(lo, hi int, dst []float32) { copy(dst, x[lo*2:hi*2]) }
	}
	cfg, _ := program.Preset("sage2-8b-sm90")
	kernel, _ := emulate.New(cfg)
	kv, _ := kernel.Prepare(emulate.KVInput{K: rows(k), V: rows(v), Len: 2, Dim: 2, DType: format.FP16})
	var ws emulate.Workspace
	query := kernel.Query(emulate.QInput{Q: rows(q), Len: 1, Scale: 1}, kv, &ws)
	out := make([]float32, 2)
	kernel.Run(query, &ws, 0, out, nil)
	fmt.Println(out)
	// Output: [3.9648438 6]
}

func BenchmarkRun(b *testing.B) {
	for _, cfg := range sage2() {
		b.Run(cfg.Name, func(b *testing.B) {
			const n, d = 1024, 128
			h := randomHead(1, n, n, d, format.FP16)
			k, err := emulate.New(cfg)
			if err != nil {
				b.Fatal(err)
			}
			kv, err := k.Prepare(emulate.KVInput{K: matrix(h.k, d), V: matrix(h.v, d), Len: n, Dim: d, DType: h.dtype})
			if err != nil {
				b.Fatal(err)
			}
			var ws emulate.Workspace
			q := k.Query(emulate.QInput{Q: matrix(h.q, d), Len: n, Scale: 0.1}, kv, &ws)
			out := make([]float32, k.Tiling().BlockQ*d)
			for b.Loop() {
				for blk := range k.Blocks(n) {
					k.Run(q, &ws, blk, out, nil)
				}
			}
			b.ReportMetric(float64(b.N)*2*n*n*d/b.Elapsed().Seconds()/1e9, "GMAC/s")
		})
	}
}
