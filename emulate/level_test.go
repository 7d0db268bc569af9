package emulate_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/emulate/quant"
	"github.com/sageacc/sageacc/internal/sweep"
)

// runAt is run with a level, blocks spread over all processors.
func (h *head) runAt(t testing.TB, cfg program.Program, level emulate.Level) (out, lse []float32, counts emulate.Counts) {
	t.Helper()
	k, err := emulate.NewAt(cfg, level)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := k.Prepare(emulate.KVInput{K: matrix(h.k, h.d), V: matrix(h.v, h.d), Len: h.nk, Dim: h.d, DType: h.dtype})
	if err != nil {
		t.Fatal(err)
	}
	in := emulate.QInput{Q: matrix(h.q, h.d), Len: h.nq, Causal: h.causal, Scale: 1 / math.Sqrt(float64(h.d))}
	out, lse = make([]float32, h.nq*h.d), make([]float32, h.nq)
	counts.Merge(&kv.Counts)
	n := runtime.GOMAXPROCS(0)
	var wg sync.WaitGroup
	var mu sync.Mutex
	for p := range n {
		wg.Go(func() {
			var ws emulate.Workspace
			q := k.Query(in, kv, &ws)
			for b := p; b < k.Blocks(h.nq); b += n {
				lo := b * k.Tiling().BlockQ
				if _, err := k.Run(q, &ws, b, out[lo*h.d:], lse[lo:]); err != nil {
					t.Error(err)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			counts.Merge(&ws.Counts)
		})
	}
	wg.Wait()
	return out, lse, counts
}

// streamedAt is runAt with streamed codes, several blocks at a time and several
// goroutines in the preparation.
func (h *head) streamedAt(t testing.TB, cfg program.Program, level emulate.Level) (out, lse []float32, counts emulate.Counts) {
	t.Helper()
	k, err := emulate.NewAt(cfg, level)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := k.Prepare(emulate.KVInput{
		K: matrix(h.k, h.d), V: matrix(h.v, h.d), Len: h.nk, Dim: h.d, DType: h.dtype, Stream: true, Jobs: 3,
	})
	if err != nil {
		t.Fatal(err)
	}
	in := emulate.QInput{Q: matrix(h.q, h.d), Len: h.nq, Causal: h.causal, Scale: 1 / math.Sqrt(float64(h.d))}
	out, lse = make([]float32, h.nq*h.d), make([]float32, h.nq)
	var ws emulate.Workspace
	q := k.Query(in, kv, &ws)
	const some = 3
	for b := 0; b < k.Blocks(h.nq); b += some {
		lo := b * k.Tiling().BlockQ
		n := min(some, k.Blocks(h.nq)-b)
		if rows, err := k.RunBlocks(t.Context(), q, &ws, b, n, out[lo*h.d:], lse[lo:]); err != nil || rows != min(n*k.Tiling().BlockQ, h.nq-lo) {
			t.Errorf("%d rows of %d blocks from %d on, %v", rows, n, b, err)
		}
	}
	counts = ws.Counts
	counts.Merge(&kv.Counts)
	return out, lse, counts
}

// TestTurned: a head so long that K is not kept turned, against its windows one by one, which have
// it.
func TestTurned(t *testing.T) {
	cfg := sage2()[0]
	if cfg.Smoothing.Q == "none" {
		t.Fatalf("%s does not smooth Q", cfg.Name)
	}
	h := randomHead(4, 70, 1<<14+100, 128, format.FP16)
	for _, level := range emulate.Levels()[1:] {
		want, _, _ := h.streamedAt(t, cfg, level)
		got, _, _ := h.runAt(t, cfg, level)
		same(t, level.String(), got, want)
	}
}

// TestStream holds streamed codes to kept ones, over more than one window, also where
// the portable code has to do a block or a head.
func TestStream(t *testing.T) {
	inf := float32(math.Inf(1))
	for j, tc := range []struct {
		name string
		do   func(h *head)
	}{
		{"plain", func(h *head) {}},
		{"causal", func(h *head) { h.causal = true }},
		{"a query that is not finite", func(h *head) { h.q[70*h.d+1] = inf }},
		{"a value that is not finite", func(h *head) { h.v[1500*h.d+3] = inf }},
		{"a channel of zeros", func(h *head) {
			for i := range h.v {
				if i%h.d == 7 {
					h.v[i] = 0
				}
			}
		}},
	} {
		for i, cfg := range sage2() {
			if testing.Short() && (i > 0 || tc.name == "causal") {
				continue
			}
			h := randomHead(3, 300, 2*1024+333, 16, format.FP16)
			tc.do(h)
			for l, level := range emulate.Levels() {
				if l == 0 && i != j%3 && !sweep.Full() {
					continue // the portable level takes long, with each change one kernel
				}
				what := fmt.Sprintf("%s, %s, %s: ", cfg.Name, tc.name, level)
				want, wantLSE, wantCounts := h.runAt(t, cfg, level)
				got, lse, counts := h.streamedAt(t, cfg, level)
				same(t, what+"output", got, want)
				same(t, what+"lse", lse, wantLSE)
				if counts != wantCounts {
					t.Errorf("%scounts %v, want %v", what, counts.Map(), wantCounts.Map())
				}
			}
			kc, vc := h.codes(t, cfg, false)
			ks, vs := h.codes(t, cfg, true)
			if !slices.Equal(kc, ks) || !slices.Equal(vc, vs) {
				t.Errorf("%s, %s: other codes", cfg.Name, tc.name)
			}
		}
	}
}

// One workspace serves heads and kernels of every kind in turn.
func TestWorkspaceServesAll(t *testing.T) {
	for _, level := range emulate.Levels() {
		var shared emulate.Workspace
		for i, cfg := range slices.Concat(sage2(), sage2()) {
			if i > 2 {
				set(t, cfg.SetPVType([]quant.PVType{quant.FP16, quant.INT8, quant.E5M2}[i-3]))
			}
			for _, d := range []int{16, 64, 20} {
				for _, stream := range []bool{false, true} {
					h := randomHead(uint64(i), 70, 1024+150, d, format.FP16)
					k, err := emulate.NewAt(cfg, level)
					if err != nil {
						t.Fatal(err)
					}
					kv, err := k.Prepare(emulate.KVInput{K: matrix(h.k, d), V: matrix(h.v, d), Len: h.nk, Dim: d, DType: h.dtype, Stream: stream})
					if err != nil {
						t.Fatal(err)
					}
					var out [2][]float32
					for j, ws := range []*emulate.Workspace{&shared, {}} {
						out[j] = make([]float32, h.nq*d)
						q := k.Query(emulate.QInput{Q: matrix(h.q, d), Len: h.nq, Scale: 0.2}, kv, ws)
						if _, err := k.RunBlocks(t.Context(), q, ws, 0, k.Blocks(h.nq), out[j], nil); err != nil {
							t.Fatal(err)
						}
					}
					same(t, fmt.Sprintf("%s, %s, %s, head_dim %d, streamed %v", level, cfg.Name, cfg.VCodes.Format, d, stream), out[0], out[1])
				}
			}
		}
	}
}

// A run ends with its context.
func TestRunBlocksEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	h := randomHead(3, 10, 100, 16, format.FP16)
	for _, level := range emulate.Levels() {
		k, err := emulate.NewAt(sage2()[0], level)
		if err != nil {
			t.Fatal(err)
		}
		kv, err := k.Prepare(emulate.KVInput{K: matrix(h.k, h.d), V: matrix(h.v, h.d), Len: h.nk, Dim: h.d, DType: h.dtype})
		if err != nil {
			t.Fatal(err)
		}
		var ws emulate.Workspace
		q := k.Query(emulate.QInput{Q: matrix(h.q, h.d), Len: h.nq, Scale: 1}, kv, &ws)
		if _, err := k.RunBlocks(ctx, q, &ws, 0, 1, make([]float32, 10*h.d), nil); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", level, err)
		}
	}
}

// codes returns the codes of K and V.
func (h *head) codes(t testing.TB, cfg program.Program, stream bool) ([]int8, []uint16) {
	t.Helper()
	k, err := emulate.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := k.Prepare(emulate.KVInput{K: matrix(h.k, h.d), V: matrix(h.v, h.d), Len: h.nk, Dim: h.d, DType: h.dtype, Stream: stream})
	if err != nil {
		t.Fatal(err)
	}
	kc, _ := kv.KeyCodes()
	vc, _, _, _ := kv.ValueCodes()
	return kc, vc
}

// configs lists presets and variants of them.
func configs() []program.Program {
	var list []program.Program
	for _, c := range sage2() {
		for _, arch := range []string{"sm_89", "sm_90", "sm_120", "ideal"} {
			for _, acc := range []string{"fp32+fp32", "fp32+fp16", "fp32", "ideal"} {
				for _, pv := range []quant.PVType{quant.E4M3, quant.E5M2, quant.INT8, quant.FP16} {
					if arch == "sm_120" && (c.Name != "sage2-8b-sm89" || pv > quant.E5M2) {
						continue // as on others
					}
					v := c
					v.Arch = arch
					if v.SetPVType(pv) != nil || v.SetAccum(acc) != nil || v.Validate() != nil {
						continue
					}
					list = append(list, v)
					if acc != "fp32+fp32" || pv != quant.E4M3 || arch != c.Arch {
						continue
					}
					for _, g := range []quant.Granularity{quant.PerTensor, quant.PerBlock, quant.PerWarp, quant.PerToken} {
						w := v
						if err := w.SetGranularity(g); err != nil {
							panic(err)
						}
						list = append(list, w)
					}
					w := v
					if err := w.SetSmooth(map[string]string{"q,k": "v", "k": "q,v"}[v.Smooth()]); err != nil {
						panic(err)
					}
					list = append(list, w)
				}
			}
		}
	}
	return list
}

// TestLevels holds every level to the portable one, on whole outputs.
func TestLevels(t *testing.T) {
	type change struct {
		name string
		do   func(h *head)
	}
	set := func(x []float32, v float32, at ...int) {
		for _, i := range at {
			x[i] = v
		}
	}
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	changes := []change{
		{"plain", func(h *head) {}},
		{"causal", func(h *head) { h.causal = true }},
		{"zeros", func(h *head) { clear(h.q[:len(h.q)/2]); clear(h.k[len(h.k)/2:]) }},
		{"outliers", func(h *head) {
			for i := range h.q {
				if i%h.d == 5 {
					h.q[i], h.k[i%len(h.k)] = 300, 250
				}
			}
		}},
		{"large", func(h *head) {
			for i := range h.q {
				h.q[i] = h.dtype.Round(h.q[i] * 400)
			}
			h.causal = true
		}},
		{"tiny", func(h *head) {
			for i := range h.k {
				h.k[i] = h.dtype.Round(h.k[i] * 1e-6)
			}
			for i := range h.v {
				h.v[i] = h.dtype.Round(h.v[i] * 1e-6)
			}
		}},
		{"nan q", func(h *head) { set(h.q, nan, 60*h.d+1) }},
		{"inf k", func(h *head) { set(h.k, inf, 33*h.d+2) }},
		{"inf v", func(h *head) { set(h.v, -inf, 40*h.d+3) }},
		{"zero channel", func(h *head) {
			for i := range h.v {
				if i%h.d == 7 {
					h.v[i] = 0
				}
			}
		}},
	}
	// Row maxima that climb once, so steeply that what was there before becomes tiny, and
	// channels in which nothing joins it.
	for _, step := range []float32{0.1, 0.5, 1, 1.1, 1.2, 1.3, 1.5, 1.6, 1.65, 1.7, 1.8} {
		changes = append(changes, change{fmt.Sprint("climbing ", step), func(h *head) {
			h.dtype = format.BF16 // whose outputs can be as tiny
			for i, x := range h.v {
				h.v[i] = h.dtype.Round(x)
			}
			for i := range h.q {
				// The maxima climb by 45 times the step at every head_dim.
				h.q[i] = h.dtype.Round(float32(8 * math.Sqrt(32/float64(h.d))))
			}
			for i := range h.k {
				j := i / h.d
				h.k[i] = h.dtype.Round(h.k[i]/64 + step*float32(min(j/h.tile, 1)))
				if i%2 == 0 && j >= h.tile {
					h.v[i] = 0
				}
			}
		}})
	}
	// meets says whether a change has yet to meet a unit, a quantiser, or a kernel's tiles with a
	// format or an accumulator, which the test tries by itself. Climbs meet every unit with
	// every format and accumulator.
	met := map[string]bool{}
	meets := func(p program.Program, change string) (is bool) {
		of := []string{p.QKCodes.Granularity, p.Smooth(), p.Name + " " + p.VCodes.Format, p.Name + " " + p.Accum()}
		if strings.Contains(change, "climbing") {
			of = append(of, p.Arch+" "+p.Accum()+" "+p.VCodes.Format)
		} else {
			of = append(of, p.Arch+" "+p.Accum(), p.Arch+" "+p.VCodes.Format)
		}
		for _, what := range of {
			is = is || !met[change+what]
			met[change+what] = true
		}
		return is
	}
	for n, cfg := range configs() {
		// In the kernel's tiles: rows that go two beyond a block, in a strip of their own; keys of
		// two whole tiles, at whose bound the maxima climb, and one of 44.
		tile := cfg.Tiling()
		shapes := [][3]int{{tile.BlockQ + 2, 2*tile.BlockK + 44, 16}, {64, 65, 64}, {1, 1, 20}, {tile.BlockQ + 2, 2*tile.BlockK + 44, 32}, {70, 150, 19}}
		if testing.Short() {
			shapes = shapes[:1]
		}
		name := fmt.Sprintf("%s %s %s %s %s %s", cfg.Name, cfg.Arch, cfg.Accum(), cfg.VCodes.Format, cfg.QKCodes.Granularity, cfg.Smooth())
		t.Run(name, func(t *testing.T) {
			for i, s := range shapes {
				for j, c := range changes {
					if i > 0 && c.name != "causal" && c.name != "plain" || testing.Short() && (n+j)%5 != 0 {
						continue
					}
					if !meets(cfg, fmt.Sprint(i, " ", c.name)) && !sweep.Full() && !testing.Short() {
						continue
					}
					rows := s[0]
					if strings.HasPrefix(c.name, "climbing") {
						rows = 34 // which are all alike: two strips that run together, and one
					}
					h := randomHead(uint64(i), rows, s[1], s[2], format.FP16)
					h.tile = tile.BlockK
					c.do(h)
					want, wantLSE, wantCounts := h.runAt(t, cfg, emulate.Levels()[0])
					for _, level := range emulate.Levels()[1:] {
						got, lse, counts := h.runAt(t, cfg, level)
						same(t, c.name+": output", got, want)
						same(t, c.name+": lse", lse, wantLSE)
						if counts != wantCounts {
							t.Fatalf("%s: counts %v, want %v", c.name, counts.Map(), wantCounts.Map())
						}
					}
				}
			}
		})
	}
}

// TestProcs runs every level with several numbers of processors.
func TestProcs(t *testing.T) {
	for _, name := range []string{"sage2-8b-sm90", "sage2-4b"} {
		cfg, err := program.Preset(name)
		if err != nil {
			t.Fatal(err)
		}
		h := randomHead(5, 500, 700, 128, format.BF16)
		want, wantLSE, _ := h.runAt(t, cfg, emulate.Levels()[0])
		for _, level := range emulate.Levels() {
			for _, n := range []int{1, 2, 8} {
				old := runtime.GOMAXPROCS(n)
				got, lse, _ := h.runAt(t, cfg, level)
				runtime.GOMAXPROCS(old)
				what := fmt.Sprintf("%s, %s, %d processors: ", name, level, n)
				same(t, what+"output", got, want)
				same(t, what+"lse", lse, wantLSE)
			}
		}
	}
}

// sprinkle puts n values that are not finite into one of Q, K and V, or all of them.
func (h *head) sprinkle(r *rand.Rand, n int) {
	odd := []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))}
	all := [][]float32{h.q, h.k, h.v}
	which := r.IntN(len(all) + 1)
	for range n {
		i := which
		if i == len(all) {
			i = r.IntN(len(all))
		}
		all[i][r.IntN(len(all[i]))] = odd[r.IntN(len(odd))]
	}
}

// TestOdd holds every level to the portable one where Q, K and V are not finite, here and
// there or everywhere.
func TestOdd(t *testing.T) {
	all := configs()
	rounds := 2
	switch {
	case sweep.Full():
		rounds = 6
	case testing.Short():
		rounds = 1
	}
	r := rand.New(rand.NewPCG(12, 34))
	for i, cfg := range all {
		name := fmt.Sprintf("%s %s %s %s %s %s", cfg.Name, cfg.Arch, cfg.Accum(), cfg.VCodes.Format, cfg.QKCodes.Granularity, cfg.Smooth())
		for round := range rounds {
			h := randomHead(r.Uint64(), 1+r.IntN(200), 1+r.IntN(330), 16, []format.DType{format.FP16, format.BF16, format.FP32}[r.IntN(3)])
			h.causal = (i+round)%2 == 0
			h.sprinkle(r, []int{1, 2, 5, 60, 4000}[r.IntN(5)])
			want, wantLSE, wantCounts := h.runAt(t, cfg, emulate.Levels()[0])
			for _, level := range emulate.Levels()[1:] {
				run := h.runAt
				if round%2 == 1 {
					run = h.streamedAt
				}
				got, lse, counts := run(t, cfg, level)
				what := fmt.Sprintf("%s, round %d, %s: ", name, round, level)
				same(t, what+"output", got, want)
				same(t, what+"lse", lse, wantLSE)
				if counts != wantCounts {
					t.Fatalf("%scounts %v, want %v", what, counts.Map(), wantCounts.Map())
				}
			}
		}
	}
}

// FuzzLevels holds the levels together on heads drawn from a seed and scaled.
func FuzzLevels(f *testing.F) {
	f.Add(uint64(1), uint8(0), 1.0, 1.0, false)
	f.Add(uint64(2), uint8(7), 1e-3, 300.0, true)
	all := configs() // fewer than 256
	f.Fuzz(func(t *testing.T, seed uint64, which uint8, qScale, vScale float64, causal bool) {
		h := randomHead(seed, 70, 140, 16, format.FP16)
		h.causal = causal
		for i := range h.q {
			h.q[i] = h.dtype.Round(h.q[i] * float32(qScale))
		}
		for i := range h.v {
			h.v[i] = h.dtype.Round(h.v[i] * float32(vScale))
		}
		if seed%3 == 1 {
			h.sprinkle(rand.New(rand.NewPCG(seed, 1)), 1+int(seed/3%40))
		}
		cfg := all[int(which)%len(all)]
		want, wantLSE, wantCounts := h.runAt(t, cfg, emulate.Levels()[0])
		for _, level := range emulate.Levels()[1:] {
			run := h.runAt
			if seed%2 == 0 {
				run = h.streamedAt
			}
			got, lse, counts := run(t, cfg, level)
			same(t, level.String()+" output", got, want)
			same(t, level.String()+" lse", lse, wantLSE)
			if counts != wantCounts {
				t.Fatalf("%s: counts %v, want %v", level, counts.Map(), wantCounts.Map())
			}
		}
	})
}

// same compares bits; all NaN are one.
func same(t *testing.T, what string, got, want []float32) {
	t.Helper()
	for i := range got {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) && !(got[i] != got[i] && want[i] != want[i]) {
			t.Fatalf("%s[%d] is %x, want %x", what, i, got[i], want[i])
		}
	}
}

// BenchmarkHead runs a head of 4,096 tokens and 128 channels.
func BenchmarkHead(b *testing.B) {
	for _, cfg := range sage2() {
		benchmarkHead(b, cfg, 4096)
	}
}

// BenchmarkPrograms runs a head of 512 tokens and 128 channels of every known kernel.
func BenchmarkPrograms(b *testing.B) {
	for _, p := range program.Presets() {
		benchmarkHead(b, p, 512)
	}
}

// benchmarkHead runs a head of n tokens and 128 channels at every level, on one goroutine.
func benchmarkHead(b *testing.B, p program.Program, n int) {
	const d = 128
	for _, level := range emulate.Levels() {
		b.Run(p.Name+"/"+level.String(), func(b *testing.B) {
			h := randomHead(1, n, n, d, format.FP16)
			k, err := emulate.NewAt(p, level)
			if err == nil {
				k, err = k.For(d, format.FP16, false)
			}
			if err != nil {
				b.Fatal(err)
			}
			var ws emulate.Workspace
			out := make([]float32, n*d)
			for b.Loop() {
				kv, err := k.Prepare(emulate.KVInput{K: matrix(h.k, d), V: matrix(h.v, d), Len: n, Dim: d, DType: h.dtype})
				if err != nil {
					b.Fatal(err)
				}
				q := k.Query(emulate.QInput{Q: matrix(h.q, d), Len: n, Scale: 1 / math.Sqrt(d)}, kv, &ws)
				if _, err := k.RunBlocks(b.Context(), q, &ws, 0, k.Blocks(n), out, nil); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)*2*float64(n)*float64(n)*d/b.Elapsed().Seconds()/1e9, "GMAC/s")
		})
	}
}

// BenchmarkOdd says how many times longer a head takes that holds one value that is not
// finite, measured in turns with the head without it.
func BenchmarkOdd(b *testing.B) {
	levels := emulate.Levels()
	for _, cfg := range sage2() {
		for _, where := range []string{"K", "V"} {
			for _, x := range []float64{math.NaN(), math.Inf(1)} {
				b.Run(fmt.Sprint(cfg.Name, "/", x, " in ", where), func(b *testing.B) {
					h, odd := randomHead(1, 1024, 1024, 64, format.FP16), randomHead(1, 1024, 1024, 64, format.FP16)
					map[string][]float32{"K": odd.k, "V": odd.v}[where][500*64+7] = float32(x)
					var took [2]time.Duration
					for b.Loop() {
						for i, h := range []*head{h, odd} {
							start := time.Now()
							h.runAt(b, cfg, levels[len(levels)-1])
							took[i] += time.Since(start)
						}
					}
					b.ReportMetric(took[1].Seconds()/took[0].Seconds(), "times")
				})
			}
		}
	}
}

// BenchmarkPrepare quantises K and V of a head, BenchmarkQuantizeQuery its Q.
func BenchmarkPrepare(b *testing.B) {
	quantizers(b, func(k *emulate.Kernel, h *head) int {
		if _, err := k.Prepare(emulate.KVInput{K: matrix(h.k, h.d), V: matrix(h.v, h.d), Len: h.nk, Dim: h.d, DType: h.dtype}); err != nil {
			b.Fatal(err)
		}
		return len(h.k) + len(h.v)
	})
}

func BenchmarkQuantizeQuery(b *testing.B) {
	quantizers(b, func(k *emulate.Kernel, h *head) int {
		k.QuantizeQuery(emulate.QInput{Q: matrix(h.q, h.d), Len: h.nq, Scale: 1}, h.d)
		return len(h.q)
	})
}

// quantizers runs f, which returns how many elements it took, for presets and
// levels.
func quantizers(b *testing.B, f func(k *emulate.Kernel, h *head) int) {
	h := randomHead(1, 4096, 4096, 128, format.FP16)
	for _, cfg := range sage2() {
		for _, level := range emulate.Levels() {
			b.Run(cfg.Name+"/"+level.String(), func(b *testing.B) {
				k, err := emulate.NewAt(cfg, level)
				if err != nil {
					b.Fatal(err)
				}
				n := 0
				for b.Loop() {
					n = f(k, h)
				}
				b.ReportMetric(float64(b.N)*float64(n)/b.Elapsed().Seconds()/1e6, "Melem/s")
			})
		}
	}
}
