package emulate

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/internal/sweep"
)

// about says which description failed, as changes of a known kernel.
func describe(p *program.Program) string {
	base, err := program.Preset(p.Name)
	if err != nil {
		return err.Error()
	}
	var s []string
	for _, c := range program.Diff(&base, p) {
		s = append(s, c.String())
	}
	return p.Name + " with " + strings.Join(s, "; ")
}

// checkDescription runs an invented description on an invented head, in every way there
// is: any level, streamed, by rows, by blocks, on several processors. All give the same
// bits. It says whether a vector path ran.
func checkDescription(t *testing.T, seed uint64) (vector bool) {
	r := rand.New(rand.NewPCG(seed, 7))
	p := randomProgram(r, pick(r, []int{2, 4, 12}))
	defer func() {
		if e := recover(); e != nil {
			buf := make([]byte, 4096)
			t.Fatalf("seed %d: %s: panic: %v\n%s", seed, describe(&p), e, buf[:runtime.Stack(buf, false)])
		}
	}()
	levels := Levels()
	k, err := NewAt(p, levels[0])
	if err != nil {
		t.Fatalf("seed %d: %s is valid, but: %v", seed, describe(&p), err)
	}
	h, err := randomCall(r, k, &p)
	if err != nil {
		return false // no dtype or shape of these heads
	}
	var want result
	fail := func(format string, args ...any) {
		t.Helper()
		t.Errorf("seed %d: %s: %d queries, %d keys of %d %s, causal %v: %s", seed, describe(&p), h.nq, h.nk, h.d, h.dtype, h.in.Causal, fmt.Sprintf(format, args...))
	}
	for i, level := range levels {
		k, err := NewAt(p, level)
		if err == nil {
			k, err = k.For(h.d, h.dtype, h.in.Causal)
		}
		if err != nil {
			t.Fatal(err)
		}
		kv, err := k.Prepare(h.kIn)
		if err != nil {
			t.Fatal(err)
		}
		vector = vector || kv.strips
		got := h.run(t, k, kv)
		if i == 0 {
			want = got
			h.checkAlone(t, k, kv, &want, fail)
			continue
		}
		if d := want.differs(&got); d != "" {
			fail("%s, in strips %v: %s", level, kv.strips, d)
		}
		in := h.kIn
		in.Stream, in.Jobs = true, 3
		if kv, err = k.Prepare(in); err != nil {
			t.Fatal(err)
		}
		got = h.run(t, k, kv)
		if d := want.differs(&got); d != "" {
			fail("%s, streamed: %s", level, d)
		}
	}
	return vector
}

// checkAlone holds rows alone, and blocks on several processors, to the whole.
func (h *call) checkAlone(t *testing.T, k *Kernel, kv *KV, want *result, fail func(string, ...any)) {
	bq := k.Tiling().BlockQ
	got := result{out: make([]float32, len(want.out)), lse: make([]float32, len(want.lse)), counts: kv.Counts}
	var wg sync.WaitGroup
	var mu sync.Mutex
	for b := range k.Blocks(h.nq) {
		wg.Go(func() {
			var ws Workspace
			if _, err := k.Run(k.Query(h.in, kv, &ws), &ws, b, got.out[b*bq*h.d:], got.lse[b*bq:]); err != nil {
				fail("block %d: %v", b, err)
			}
			mu.Lock()
			defer mu.Unlock()
			// What Query reads of the whole head is not counted.
			got.counts.Merge(&ws.Counts)
		})
	}
	wg.Wait()
	if d := want.differs(&got); d != "" {
		fail("block by block: %s", d)
	}
	for b := range k.Blocks(h.nq) {
		var some []int
		for i := range min(bq, h.nq-b*bq) {
			if i%5 == 2 || i == 0 {
				some = append(some, i)
			}
		}
		k, kv := k, kv
		if b == 0 {
			k = k.ForRows()
			var err error
			if kv, err = k.Prepare(kv.in); err != nil {
				fail("prepared for rows: %v", err)
				return
			}
		}
		var ws Workspace
		out := make([]float32, len(some)*h.d)
		if err := k.RunRows(k.Query(h.in, kv, &ws), &ws, b, some, out); err != nil {
			fail("rows of block %d: %v", b, err)
		}
		for i, row := range some {
			a := result{out: out[i*h.d : (i+1)*h.d]}
			at := (b*bq + row) * h.d
			if d := a.differs(&result{out: want.out[at : at+h.d]}); d != "" {
				fail("row %d of block %d alone: %s", row, b, d)
				return
			}
		}
	}
}

// TestDescriptions holds invented descriptions to themselves.
func TestDescriptions(t *testing.T) {
	n := uint64(200)
	switch {
	case sweep.Full():
		n = 400
	case testing.Short():
		n = 60
	}
	vector := 0
	for seed := range n {
		if checkDescription(t, seed) {
			vector++
		}
		if t.Failed() {
			return
		}
	}
	if len(Levels()) > 1 && vector < int(n)/20 {
		t.Errorf("%d of %d descriptions ran in a vector path: the test compares nothing", vector, n)
	}
	t.Logf("%d of %d in a vector path", vector, n)
}

// FuzzDescriptions is TestDescriptions for any seed.
func FuzzDescriptions(f *testing.F) {
	f.Add(uint64(1 << 40))
	f.Fuzz(func(t *testing.T, seed uint64) { checkDescription(t, seed) })
}

// TestStripChoices: the list of what the vector kernels take has every choice that a
// description can have, and none that it cannot.
func TestStripChoices(t *testing.T) {
	p, err := program.Preset("sage2-8b-sm90")
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, c := range p.Choices() {
		paths = append(paths, c.Path)
		takes, ok := stripChoices[c.Path]
		if !ok {
			t.Errorf("%s is missing: no description runs in strips", c.Path)
		}
		for _, w := range strings.Fields(takes) {
			if takes != anything && len(c.Choices) > 0 && !slices.Contains(c.Choices, w) {
				t.Errorf("%s cannot be %s", c.Path, w)
			}
		}
	}
	for path := range stripChoices {
		if !slices.Contains(paths, path) {
			t.Errorf("%s is no choice of a description", path)
		}
	}
}

// TestPortableIsTrue: where Portable has nothing to say, a head of ordinary numbers runs
// in strips to the end, on every level that has the unit; where it has, none does. The
// results could not tell.
func TestPortableIsTrue(t *testing.T) {
	ran := 0
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 11))
		p := randomProgram(r, 3)
		if p.VCodes.Max != 0 && (p.VCodes.Max < 1 || p.VCodes.Max > 1e5) {
			continue // V's scale is no ordinary number
		}
		for _, level := range Levels()[1:] {
			k, err := NewAt(p, level)
			if err != nil {
				t.Fatal(err)
			}
			const n = 200
			d := []int{16, 15, 14, 13}[seed%4]
			if k, err = k.For(d, format.FP16, seed%2 == 0); err != nil {
				continue
			}
			kv, err := k.Prepare(KVInput{K: ramp(d), V: ramp(d), Len: n, Dim: d, DType: format.FP16})
			if err != nil {
				t.Fatal(err)
			}
			if want := k.Portable() == ""; kv.strips != want {
				t.Fatalf("seed %d: %s: level %s, prepared for strips %v, Portable %q", seed, describe(&p), level, kv.strips, k.Portable())
			}
			if !kv.strips || k.vecUnit.Half && p.VCodes.Max > 2.25 { // whose FP16 sums overflow
				continue
			}
			if most := k.p.kind.Max(); most > 0 && float64(p.Exponent.Offset) > math.Log2(float64(most))+0.1 {
				continue // the largest weights are beyond the format
			}
			ran++
			var ws Workspace
			ws.fit(k, d)
			q := k.Query(QInput{Q: ramp(d), Len: n, Scale: 0.25, Causal: seed%2 == 0}, kv, &ws)
			failed, err := k.runStrips(t.Context(), q, &ws, 0, k.Blocks(n), make([]float32, n*d), nil)
			if err != nil || len(failed) > 0 {
				t.Errorf("seed %d: %s: level %s gives up blocks %v, error %v", seed, describe(&p), level, failed, err)
			}
		}
	}
	if ran < 20 && len(Levels()) > 1 {
		t.Errorf("only %d in strips", ran)
	}
	t.Logf("%d in strips", ran)
}

// TestOddTile: a tile of keys that is no multiple of 32, which is how V's codes lie.
func TestOddTile(t *testing.T) {
	p, err := program.Preset("sage2-8b-sm90")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range [][2]string{
		{"v_codes.format", "fp16"}, {"v_codes.scale", "none"}, {"v_codes.max", "0"}, {"p.format", "fp16"}, {"finish.scale", "none"},
		{"pv.unit.instruction", "mma.m16n8k16.f32.f16"}, {"tiles.shapes.0.keys", "48"},
	} {
		if err := p.Set(e[0], e[1]); err != nil {
			t.Fatal(err)
		}
	}
	k, err := New(p)
	if err != nil {
		t.Fatal(err)
	}
	const d, n = 16, 40
	if _, err := k.Prepare(KVInput{K: ramp(d), V: ramp(d), Len: n, Dim: d}); err != nil {
		t.Fatal(err)
	}
}

// TestNaturalLSEOfTheQuery: the form of the log-sum-exp is that of the kernel that runs,
// not of the one that prepared K and V.
func TestNaturalLSEOfTheQuery(t *testing.T) {
	var k [2]*Kernel
	for i, form := range []string{"base2", "natural"} {
		p, err := program.Preset("sage2-8b-sm90")
		if err == nil {
			err = p.Set("log_sum_exp.form", form)
		}
		// Both in portable code, whose preparation does not depend on the rest.
		if err == nil {
			err = p.Set("p.round", "zero")
		}
		if err == nil {
			k[i], err = New(p)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if k[0].Preparation() != k[1].Preparation() {
		t.Fatal("the preparations differ")
	}
	const d = 16
	kv, err := k[0].Prepare(KVInput{K: ramp(d), V: ramp(d), Len: 40, Dim: d})
	if err != nil {
		t.Fatal(err)
	}
	q := k[1].Query(QInput{Q: ramp(d), Len: 1}, kv, &Workspace{})
	if got := q.NaturalLSE(3, make([]float32, d)); got != 3 {
		t.Errorf("a natural log-sum-exp of 3 becomes %v", got)
	}
}
