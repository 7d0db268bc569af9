package reference_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"math/big"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"testing"

	"github.com/sageacc/sageacc/reference"
	"github.com/sageacc/sageacc/reference/internal/simd"
)

// tolerance returns how far a result of the precision may be from exact for
// values and scores of the order of one.
func tolerance(p reference.Precision) float64 {
	if p == reference.FP64 {
		return 1e-13
	}
	return 1e-5
}

func bothPrecisions(t *testing.T, f func(t *testing.T, p reference.Precision)) {
	for _, p := range []reference.Precision{reference.FP32, reference.FP64} {
		t.Run(p.String(), func(t *testing.T) { f(t, p) })
	}
}

func attention(t *testing.T, p reference.Params, q, k, v []float32, lo, hi, nk, d int) (out, lse []float64) {
	t.Helper()
	out = make([]float64, (hi-lo)*d)
	lse = make([]float64, hi-lo)
	if err := reference.Attention(t.Context(), p, q, k, v, lo, hi, nk, d, nil, out, lse); err != nil {
		t.Fatal(err)
	}
	return out, lse
}

func compare(t *testing.T, what string, got, want []float64, tol float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d elements, want %d", what, len(got), len(want))
	}
	for i := range got {
		// Written so that a NaN fails.
		if !(math.Abs(got[i]-want[i]) <= tol*(1+math.Abs(want[i]))) {
			t.Fatalf("%s[%d] = %v, want %v", what, i, got[i], want[i])
		}
	}
}

func TestAgainstNaive(t *testing.T) {
	bothPrecisions(t, func(t *testing.T, p reference.Precision) {
		for _, tc := range []struct{ lo, hi, nk, d int }{
			{0, 1, 1, 1},
			{0, 3, 2, 1},
			{0, 64, 64, 64},
			{0, 65, 193, 33},
			{0, 130, 500, 128},
			{17, 100, 384, 7},
			{200, 300, 100, 80}, // all rows beyond the last key
			{0, 20, 577, 256},
			{383, 386, 1000, 5},
		} {
			for _, causal := range []bool{false, true} {
				for _, blocks := range [][2]int{{0, 0}, {1, 1}, {7, 13}, {200, 400}} {
					name := fmt.Sprintf("%+v/causal=%t/blocks=%v", tc, causal, blocks)
					t.Run(name, func(t *testing.T) {
						rows := tc.hi - tc.lo
						q, k, v := gaussian(1, rows*tc.d), gaussian(2, tc.nk*tc.d), gaussian(3, tc.nk*tc.d)
						out, lse := attention(t, reference.Params{
							Precision: p, Causal: causal, RowBlock: blocks[0], KeyBlock: blocks[1],
						}, q, k, v, tc.lo, tc.hi, tc.nk, tc.d)
						wantOut, wantLSE := naive(q, k, v, tc.lo, tc.hi, tc.nk, tc.d, causal, 0)
						compare(t, "out", out, wantOut, tolerance(p))
						compare(t, "lse", lse, wantLSE, tolerance(p))
					})
				}
			}
		}
	})
}

// TestNumpyFixture compares with testdata/attention.json, which
// testdata/gen.py computed with numpy.
func TestNumpyFixture(t *testing.T) {
	text, err := os.ReadFile("testdata/attention.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Name      string
		Lo, NK, D int
		Causal    bool
		Scale     float64
		Q, K, V   []float32
		Out, LSE  []float64
	}
	if err := json.Unmarshal(text, &cases); err != nil {
		t.Fatal(err)
	}
	bothPrecisions(t, func(t *testing.T, p reference.Precision) {
		for _, tc := range cases {
			t.Run(tc.Name, func(t *testing.T) {
				tol := tolerance(p)
				if tc.Name == "peaked scores" {
					// Scores reach 1e4, and their rounding is an absolute
					// error in the exponent.
					tol *= 100
				}
				out, lse := attention(t, reference.Params{Precision: p, Causal: tc.Causal, Scale: tc.Scale, KeyBlock: 4},
					tc.Q, tc.K, tc.V, tc.Lo, tc.Lo+len(tc.Q)/tc.D, tc.NK, tc.D)
				compare(t, "out", out, tc.Out, tol)
				compare(t, "lse", lse, tc.LSE, tol)
			})
		}
	})
}

// TestLargeScores has scores whose exponentials leave the range of float32, and
// of float64, unless the maximum is subtracted first.
func TestLargeScores(t *testing.T) {
	bothPrecisions(t, func(t *testing.T, p reference.Precision) {
		for _, magnitude := range []float32{1e2, 1e4, 1e15} {
			// Keys are ordered so that the maximum rises with every block.
			const nk, d = 40, 1
			k, v := make([]float32, nk), make([]float32, nk)
			for j := range k {
				k[j] = magnitude * float32(j-nk/2)
				v[j] = float32(j)
			}
			q := []float32{1, -1, 0}
			out, lse := attention(t, reference.Params{Precision: p, Scale: 1, KeyBlock: 8}, q, k, v, 0, 3, nk, d)
			compare(t, "out", out, []float64{nk - 1, 0, (nk - 1) / 2.0}, 1e-6)
			compare(t, "lse", lse, []float64{float64(k[nk-1]), -float64(k[0]), math.Log(nk)}, 1e-6)
		}
	})
}

// cuts are ways to cut n rows into calls.
func cuts(n int) [][]int {
	return [][]int{{0, n}, {0, 1, 2, 3, n}, {0, 63, 64, 65, n}, {0, 50, 100, 150, 200, n}, {0, 191, 193, n}}
}

// TestRowsDoNotDependOnTheCall computes the same rows cut into different calls,
// with different row blocks, workspaces, numbers of threads and alignments of
// the inputs, with and without non-finite values, and wants the same bits.
func TestRowsDoNotDependOnTheCall(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	const n, nk = 300, 401
	bothPrecisions(t, func(t *testing.T, p reference.Precision) {
		for _, d := range []int{1, 3, 31, 64, 129, 256} {
			for _, special := range []bool{false, true} {
				for _, causal := range []bool{false, true} {
					q, k, v := gaussian(1, n*d), gaussian(2, nk*d), gaussian(3, nk*d)
					if special {
						v[200*d] = float32(math.NaN())
						v[201*d] = float32(math.Inf(1))
						k[250*d+d/2] = float32(math.NaN())
						q[20*d] = float32(math.Inf(1))
						q[21*d] = 0
						k[240*d] = float32(math.Inf(-1))
					}
					params := reference.Params{Precision: p, Causal: causal, KeyBlock: 96}
					want, wantLSE := attention(t, params, q, k, v, 0, n, nk, d)
					for i, cut := range cuts(n) {
						runtime.GOMAXPROCS(i%4 + 1)
						params.RowBlock = []int{0, 1, 64, 100, 1000}[i]
						// i%4 floats in front shift the alignment.
						kk := append(make([]float32, i%4, i%4+len(k)), k...)[i%4:]
						vv := append(make([]float32, i%4, i%4+len(v)), v...)[i%4:]
						var ws reference.Workspace
						out, lse := make([]float64, n*d), make([]float64, n)
						for c := range len(cut) - 1 {
							lo, hi := cut[c], cut[c+1]
							qq := append(make([]float32, i%4), q[lo*d:hi*d]...)[i%4:]
							if err := reference.Attention(t.Context(), params, qq, kk, vv, lo, hi, nk, d, &ws, out[lo*d:hi*d], lse[lo:hi]); err != nil {
								t.Fatal(err)
							}
						}
						if !slices.EqualFunc(out, want, sameBits) || !slices.EqualFunc(lse, wantLSE, sameBits) {
							t.Errorf("d=%d causal=%t special=%t: rows cut at %v differ", d, causal, special, cut)
						}
					}
				}
			}
		}
	})
}

// sameBits reports equality of the bits, where NaNs are all the same: their
// payload depends on the order of the operands of an instruction.
func sameBits(a, b float64) bool {
	return math.Float64bits(a) == math.Float64bits(b) || a != a && b != b
}

// TestBitsPinned holds the results to the bits of a first computation, so that an
// architecture that rounds differently shows.
func TestBitsPinned(t *testing.T) {
	const rows, nk, d = 50, 450, 37
	r := rand.New(rand.NewPCG(5, 6))
	draw := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(r.Int64N(1<<24)-1<<23) * 0x1p-22 // exact
		}
		return x
	}
	q, k, v := draw(rows*d), draw(nk*d), draw(nk*d)
	want := map[reference.Precision]uint64{reference.FP32: 0xedd9c6114c12ce5b, reference.FP64: 0xf184409366594051}
	bothPrecisions(t, func(t *testing.T, p reference.Precision) {
		out, lse := attention(t, reference.Params{Precision: p, Scale: 0.2}, q, k, v, 0, rows, nk, d)
		h := fnv.New64a()
		_ = binary.Write(h, binary.LittleEndian, out)
		_ = binary.Write(h, binary.LittleEndian, lse)
		if got := h.Sum64(); got != want[p] {
			t.Errorf("bits hash to %#x, want %#x", got, want[p])
		}
	})
}

// TestErrorBound holds results to the bound that Attention states, in both precisions
// against exact enough arithmetic, and to the much smaller error that they have.
func TestErrorBound(t *testing.T) {
	const rows, nk, d, block = 20, 1000, 64, 192
	q, k, v := gaussian(1, rows*d), gaussian(2, nk*d), gaussian(3, nk*d)
	for i := range q {
		q[i] *= 3 // scores of up to about 10
	}
	got, _ := attention(t, reference.Params{Scale: 0.125}, q, k, v, 0, rows, nk, d)
	exact, _ := attention(t, reference.Params{Scale: 0.125, Precision: reference.FP64}, q, k, v, 0, rows, nk, d)
	want, _ := naive(q, k, v, 0, rows, nk, d, false, 0.125)
	var worst, abs, sum float64
	const u = 0x1p-24
	for i := range rows {
		s, size, top := make([]float64, nk), make([]float64, nk), math.Inf(-1)
		for j := range nk {
			for c := range d {
				x := float64(q[i*d+c]) * float64(k[j*d+c]) / 8
				s[j] += x
				size[j] += math.Abs(x)
			}
			top = max(top, s[j])
		}
		var total float64
		for j := range nk {
			total += math.Exp(s[j] - top)
		}
		for c := range d {
			o := want[i*d+c]
			bound := math.Abs(o) * u
			for j := range nk {
				e := (block + 3*math.Ceil(nk/float64(block)) + 2 + top - s[j] + (d+1)*size[j]) * u
				bound += math.Exp(s[j]-top) / total * e * (math.Abs(float64(v[j*d+c])) + math.Abs(o))
			}
			diff := math.Abs(got[i*d+c] - o)
			worst = max(worst, diff/bound)
			abs, sum = abs+diff, sum+math.Abs(o)
			if e := math.Abs(exact[i*d+c] - o); !(e <= bound*0x1p-29) {
				t.Errorf("FP64: out[%d,%d] is off by %v, bound %v", i, c, e, bound*0x1p-29)
			}
		}
	}
	t.Logf("error at most %.4f of the bound, relative L1 %.2g", worst, abs/sum)
	if !(worst < 1) || !(abs/sum < 1e-6) {
		t.Errorf("error is %v of the bound, relative L1 %v", worst, abs/sum)
	}
}

// exactFMA is x·y + z in math/big, rounded once.
func exactFMA[T simd.Real](x, y, z T) T {
	f := func(x T) *big.Float { return new(big.Float).SetPrec(2000).SetFloat64(float64(x)) }
	p := f(x)
	p.Add(p.Mul(p, f(y)), f(z))
	if _, ok := any(z).(float32); ok {
		r, _ := p.Float32()
		return T(r)
	}
	r, _ := p.Float64()
	return T(r)
}

// TestDefinition repeats the arithmetic operation by operation, in the order that
// the package documents, with multiply-adds by math/big.
func TestDefinition(t *testing.T) {
	testDefinition(t, reference.FP32, simd.Single())
	testDefinition(t, reference.FP64, simd.Double())
}

func testDefinition[T simd.Real](t *testing.T, precision reference.Precision, levels []simd.Kernels[T]) {
	const rows, nk, d, block = 3, 450, 37, 192
	exp := levels[len(levels)-1].Exp // its error has a test of its own
	q, k, v := gaussian(1, rows*d), gaussian(2, nk*d), gaussian(3, nk*d)
	got, gotLSE := attention(t, reference.Params{Precision: precision, Scale: 0.2, KeyBlock: block}, q, k, v, 0, rows, nk, d)
	for i := range rows {
		top, sum, acc := T(math.Inf(-1)), T(0), make([]T, d)
		for k0 := 0; k0 < nk; k0 += block {
			n := min(block, nk-k0)
			s, old := make([]T, n), top
			for j := range n {
				for c := range d {
					s[j] = exactFMA(T(q[i*d+c]), T(k[(k0+j)*d+c]), s[j])
				}
				scale := 0.2
				s[j] *= T(scale)
				top = max(top, s[j])
			}
			var sums [16]T
			pv := make([]T, d)
			for j := range n {
				w := exp(s[j] - top)
				sums[j%16] += w
				for c := range d {
					pv[c] = exactFMA(w, T(v[(k0+j)*d+c]), pv[c])
				}
			}
			for h := 8; h > 0; h /= 2 {
				for j := range h {
					sums[j] += sums[j+h]
				}
			}
			decay := exp(old - top)
			sum = exactFMA(sum, decay, sums[0])
			for c := range d {
				acc[c] = exactFMA(acc[c], decay, pv[c])
			}
		}
		for c := range d {
			if want := float64(acc[c] / sum); got[i*d+c] != want {
				t.Fatalf("out[%d,%d] = %v, want %v", i, c, got[i*d+c], want)
			}
		}
		if want := float64(top + T(math.Log(float64(sum)))); math.Abs(gotLSE[i]-want) > 1e-15*math.Abs(want) {
			t.Fatalf("lse[%d] = %v, want %v", i, gotLSE[i], want)
		}
	}
}

func TestNonFinite(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	const n, d = 10, 40 // in more than one panel, of which the last is finite
	type matrices struct{ q, k, v []float32 }
	for _, tc := range []struct {
		name   string
		causal bool
		set    func(m matrices)
		bad    func(row, channel int) bool // where NaN is due
	}{
		{"NaN in Q", false, func(m matrices) { m.q[3*d] = nan }, func(row, _ int) bool { return row == 3 }},
		{"Inf in Q", false, func(m matrices) { m.q[3*d] = inf }, func(row, _ int) bool { return row == 3 }},
		{"NaN in K", false, func(m matrices) { m.k[9*d] = nan }, func(int, int) bool { return true }},
		{"NaN in the first K", false, func(m matrices) { m.k[0] = nan }, func(int, int) bool { return true }},
		{"NaN in K against zero in Q", false, func(m matrices) {
			clear(m.q)
			m.k[9*d] = nan
		}, func(int, int) bool { return true }},
		{"NaN in V", false, func(m matrices) { m.v[9*d+1] = nan }, func(_, c int) bool { return c == 1 }},
		{"NaN in V under a weight of zero", false, func(m matrices) {
			for i := range n {
				m.q[i*d] = 1
				m.k[9*d], m.v[9*d+1] = -1e6, nan
			}
		}, func(_, c int) bool { return c == 1 }},
		{"NaN in K, causal", true, func(m matrices) { m.k[6*d] = nan }, func(row, _ int) bool { return row >= 6 }},
		{"NaN in V, causal", true, func(m matrices) { m.v[6*d] = nan }, func(row, c int) bool { return row >= 6 && c == 0 }},
		{"Inf in V, causal", true, func(m matrices) {
			m.v[6*d], m.v[7*d] = inf, -inf
		}, func(row, c int) bool { return row >= 7 && c == 0 }},
		{"scores all -Inf", true, func(m matrices) {
			for i := range n {
				m.q[i*d], m.k[i*d] = 1, -inf
			}
		}, func(int, int) bool { return true }},
		{"scores -Inf in the first blocks", true, func(m matrices) {
			for i := range n {
				m.q[i*d] = 1
				if i < 8 {
					m.k[i*d] = -inf
				}
			}
		}, func(row, _ int) bool { return row < 8 }},
		{"scores +Inf", true, func(m matrices) {
			for i := range n {
				m.q[i*d] = 1
			}
			m.k[5*d] = inf
		}, func(row, _ int) bool { return row >= 5 }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bothPrecisions(t, func(t *testing.T, p reference.Precision) {
				for _, block := range []int{1, 4, 100} {
					m := matrices{gaussian(1, n*d), gaussian(2, n*d), gaussian(3, n*d)}
					tc.set(m)
					out, _ := attention(t, reference.Params{Precision: p, Causal: tc.causal, KeyBlock: block}, m.q, m.k, m.v, 0, n, n, d)
					for i, o := range out {
						if got, want := math.IsNaN(o), tc.bad(i/d, i%d); got != want {
							t.Errorf("key block %d: out[%d,%d] = %v, want NaN: %t", block, i/d, i%d, o, want)
						}
					}
				}
			})
		})
	}
}

func TestAllScoresMinusInf(t *testing.T) {
	q, k, v := []float32{1}, []float32{float32(math.Inf(-1))}, []float32{1}
	out, lse := attention(t, reference.Params{}, q, k, v, 0, 1, 1, 1)
	if !math.IsNaN(out[0]) || !math.IsInf(lse[0], -1) {
		t.Errorf("out %v, lse %v, want NaN and -Inf", out[0], lse[0])
	}
}

func TestErrors(t *testing.T) {
	x := func(n int) []float32 { return make([]float32, n) }
	o := func(n int) []float64 { return make([]float64, n) }
	for _, tc := range []struct {
		name           string
		p              reference.Params
		q, k, v        []float32
		lo, hi, nk, d  int
		out, lse       []float64
		shape, success bool
	}{
		{name: "fine", q: x(4), k: x(6), v: x(6), hi: 2, nk: 3, d: 2, out: o(4), success: true},
		{name: "no rows", k: x(6), v: x(6), lo: 2, hi: 2, nk: 3, d: 2, success: true},
		{name: "q", q: x(5), k: x(6), v: x(6), hi: 2, nk: 3, d: 2, out: o(4), shape: true},
		{name: "k", q: x(4), k: x(8), v: x(6), hi: 2, nk: 3, d: 2, out: o(4), shape: true},
		{name: "v", q: x(4), k: x(6), v: x(4), hi: 2, nk: 3, d: 2, out: o(4), shape: true},
		{name: "out", q: x(4), k: x(6), v: x(6), hi: 2, nk: 3, d: 2, out: o(2), shape: true},
		{name: "lse", q: x(4), k: x(6), v: x(6), hi: 2, nk: 3, d: 2, out: o(4), lse: o(1), shape: true},
		{name: "range", q: x(4), k: x(6), v: x(6), lo: 3, hi: 2, nk: 3, d: 2, shape: true},
		{name: "no keys", q: x(4), hi: 2, d: 2, out: o(4), shape: true},
		{name: "d too small", hi: 2, nk: 3, shape: true},
		{name: "d too large", q: x(257), k: x(257), v: x(257), hi: 1, nk: 1, d: 257, out: o(257), shape: true},
		{name: "overflowing count", hi: math.MaxInt, nk: 1, d: 2, k: x(2), v: x(2), q: x(4), out: o(4), shape: true},
		{name: "block", p: reference.Params{KeyBlock: -1}, q: x(4), k: x(6), v: x(6), hi: 2, nk: 3, d: 2, out: o(4), shape: true},
		{name: "scale", p: reference.Params{Scale: math.Inf(1)}, q: x(4), k: x(6), v: x(6), hi: 2, nk: 3, d: 2, out: o(4)},
		{name: "soft cap", p: reference.Params{Softcap: math.NaN()}, q: x(4), k: x(6), v: x(6), hi: 2, nk: 3, d: 2, out: o(4)},
		{name: "precision", p: reference.Params{Precision: 2}, q: x(4), k: x(6), v: x(6), hi: 2, nk: 3, d: 2, out: o(4)},
	} {
		err := reference.Attention(t.Context(), tc.p, tc.q, tc.k, tc.v, tc.lo, tc.hi, tc.nk, tc.d, nil, tc.out, tc.lse)
		if (err == nil) != tc.success || errors.Is(err, reference.ErrShape) != tc.shape {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	out := make([]float64, 4)
	x := make([]float32, 4)
	if err := reference.Attention(ctx, reference.Params{}, x, x, x, 0, 2, 2, 2, nil, out, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestWorkspaceDoesNotAllocate(t *testing.T) {
	const n, d = 260, 200
	q, k, v, out := gaussian(1, n*d), gaussian(2, n*d), gaussian(3, n*d), make([]float64, n*d)
	v[0] = float32(math.Inf(1)) // is set aside
	bothPrecisions(t, func(t *testing.T, p reference.Precision) {
		var ws reference.Workspace
		call := func() {
			if err := reference.Attention(t.Context(), reference.Params{Precision: p, Causal: true}, q, k, v, 0, n, n, d, &ws, out, nil); err != nil {
				t.Fatal(err)
			}
		}
		if allocs := testing.AllocsPerRun(3, call); allocs != 0 {
			t.Errorf("%v allocations per call", allocs)
		}
	})
}

func TestPrecisionNames(t *testing.T) {
	bothPrecisions(t, func(t *testing.T, p reference.Precision) {
		if back, err := reference.ParsePrecision(p.String()); err != nil || back != p {
			t.Errorf("%v, %v", back, err)
		}
	})
	if _, err := reference.ParsePrecision("fp16"); err == nil {
		t.Error("fp16 was accepted")
	}
}

// With an Align, a row is the attention over the keys that it sees; a row that sees none
// is zero.
func TestAlign(t *testing.T) {
	const nk, d = 37, 8
	bothPrecisions(t, func(t *testing.T, p reference.Precision) {
		for _, nq := range []int{5, 37, 60} {
			r := rand.New(rand.NewPCG(5, uint64(nq)))
			draw := func(n int) []float32 {
				x := make([]float32, n*d)
				for i := range x {
					x[i] = float32(r.NormFloat64())
				}
				return x
			}
			q, k, v := draw(nq), draw(nk), draw(nk)
			for _, align := range []int{nk - nq, -3, 2, -100, 100} {
				params := reference.Params{Precision: p, Causal: true, Align: align, RowBlock: 7, KeyBlock: 16}
				out, lse := attention(t, params, q[2*d:], k, v, 2, nq, nk, d)
				for i := 2; i < nq; i++ {
					what := fmt.Sprintf("%d rows, align %d: row %d", nq, align, i)
					seen := min(nk, i+align+1)
					if seen <= 0 {
						compare(t, what, out[(i-2)*d:(i-1)*d], make([]float64, d), 0)
						if !math.IsInf(lse[i-2], -1) {
							t.Errorf("%s: log-sum-exp %v", what, lse[i-2])
						}
						continue
					}
					want, wantLSE := attention(t, reference.Params{Precision: p}, q[i*d:(i+1)*d], k[:seen*d], v[:seen*d], 0, 1, seen, d)
					compare(t, what, out[(i-2)*d:(i-1)*d], want, tolerance(p))
					compare(t, what, lse[i-2:i-1], wantLSE, tolerance(p))
				}
			}
		}
	})
}

// masked is attention in float64 with whatever hides, adds and caps, key by key.
func masked(p reference.Params, q, k, v []float32, lo, hi, nk, d int) (out, lse []float64) {
	out, lse = make([]float64, (hi-lo)*d), make([]float64, hi-lo)
	for i := lo; i < hi; i++ {
		weights, top := make(map[int]float64), math.Inf(-1)
		for j := range nk {
			at := i + p.Align
			see, bias := []bool{true}, []float32{0}
			if p.Visible != nil {
				p.Visible(i, j, j+1, see)
			}
			if p.Bias != nil {
				p.Bias(i, j, j+1, bias)
			}
			if !see[0] || p.Causal && j > at || p.Windowed && (p.Left >= 0 && j < at-p.Left || p.Right >= 0 && j > at+p.Right) || math.IsInf(float64(bias[0]), -1) {
				continue
			}
			var s float64
			for c := range d {
				s += float64(q[(i-lo)*d+c]) * float64(k[j*d+c])
			}
			s /= math.Sqrt(float64(d))
			if p.Softcap != 0 {
				s = p.Softcap * math.Tanh(s/p.Softcap)
			}
			weights[j] = s + float64(bias[0])
			top = max(top, weights[j])
		}
		var sum float64
		for _, w := range weights {
			sum += math.Exp(w - top)
		}
		lse[i-lo] = top + math.Log(sum)
		for j, w := range weights {
			for c := range d {
				out[(i-lo)*d+c] += math.Exp(w-top) / sum * float64(v[j*d+c])
			}
		}
	}
	return out, lse
}

// TestMasks: masks of every kind, windows and soft caps, alone and together, with rows that
// see nothing.
func TestMasks(t *testing.T) {
	const nq, nk, d, lo = 60, 83, 8, 3
	r := rand.New(rand.NewPCG(11, 12))
	draw := func(n int) []float32 {
		x := make([]float32, n*d)
		for i := range x {
			x[i] = 2 * float32(r.NormFloat64())
		}
		return x
	}
	q, k, v := draw(nq), draw(nk), draw(nk)
	visible := func(row, lo, hi int, dst []bool) {
		for i := range hi - lo {
			dst[i] = row != 9 && (row*31+(lo+i)*17)%3 != 0
		}
	}
	bias := func(row, lo, hi int, dst []float32) {
		for i := range hi - lo {
			if dst[i] = float32((row*13+(lo+i)*7)%11)/4 - 1; row == 20 || (row+lo+i)%6 == 0 {
				dst[i] = float32(math.Inf(-1))
			}
		}
	}
	for name, p := range map[string]reference.Params{
		"boolean": {Visible: visible}, "additive": {Bias: bias}, "softcap": {Softcap: 1.5}, "window": {Windowed: true, Left: 7, Right: 3, Align: nk - nq},
		"left": {Windowed: true, Left: 7, Right: -1}, "right": {Windowed: true, Left: -1, Right: 5, Align: -20}, "no key": {Windowed: true, Left: 1, Right: 1, Align: 200},
		"all": {Visible: visible, Bias: bias, Softcap: 3, Windowed: true, Left: 30, Right: 20, Causal: true, Align: 5},
	} {
		bothPrecisions(t, func(t *testing.T, precision reference.Precision) {
			p.Precision, p.RowBlock, p.KeyBlock = precision, 7, 16
			out, lse := attention(t, p, q[lo*d:], k, v, lo, nq, nk, d)
			want, wantLSE := masked(p, q[lo*d:], k, v, lo, nq, nk, d)
			compare(t, name, out, want, tolerance(precision))
			for i, x := range wantLSE {
				if math.IsInf(x, -1) != math.IsInf(lse[i], -1) {
					t.Errorf("%s: lse[%d] = %v, want %v", name, i, lse[i], x)
				} else if !math.IsInf(x, -1) {
					compare(t, name+" lse", lse[i:i+1], wantLSE[i:i+1], tolerance(precision))
				}
			}
			// The bits do not depend on how rows are cut.
			p.RowBlock = 1
			again, _ := attention(t, p, q[40*d:], k, v, 40, nq, nk, d)
			for i, x := range again {
				if x != out[(40-lo)*d+i] {
					t.Fatalf("%s: element %d is %v in another call, %v", name, i, x, out[(40-lo)*d+i])
				}
			}
		})
	}
}

// TestHiddenTakesNoPart: what a mask hides may be anything; what it does not hide counts.
func TestHiddenTakesNoPart(t *testing.T) {
	const nk, d = 5, 2
	nan := float32(math.NaN())
	q, k := []float32{1, 1}, []float32{1, 0, nan, 1, 0, 1, 1, 1, 0, 0}
	v := []float32{1, 2, nan, nan, 3, 4, 5, 6, float32(math.Inf(1)), 8}
	hides := func(_, lo, hi int, dst []bool) {
		for i := range hi - lo {
			dst[i] = lo+i != 1 && lo+i != 4
		}
	}
	bothPrecisions(t, func(t *testing.T, p reference.Precision) {
		out, _ := attention(t, reference.Params{Precision: p, Visible: hides}, q, k, v, 0, 1, nk, d)
		want, _ := attention(t, reference.Params{Precision: p}, q, []float32{1, 0, 0, 1, 1, 1}, []float32{1, 2, 3, 4, 5, 6}, 0, 1, 3, d)
		compare(t, "hidden", out, want, tolerance(p))
		for name, params := range map[string]reference.Params{
			"NaN in the bias": {Bias: func(_, _, _ int, dst []float32) { dst[0] = nan }},
			"NaN in K":        {Visible: func(_, lo, hi int, dst []bool) { dst[1] = true }},
			"+Inf":            {Bias: func(_, _, _ int, dst []float32) { dst[0] = float32(math.Inf(1)) }},
		} {
			params.Precision = p
			if out, _ := attention(t, params, q, k, v, 0, 1, nk, d); out[0] == out[0] {
				t.Errorf("%s: %v", name, out)
			}
		}
	})
}
