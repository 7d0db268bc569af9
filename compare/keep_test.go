package compare_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/internal/ranges"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

// memory is a keeper that holds parts as JSON.
type memory struct {
	mu    sync.Mutex
	parts map[int][]string
	kept  map[int]*compare.Partial
	notes map[string]string
	every int // a part is due after so many calls
	calls int
}

func newMemory(every int) *memory {
	return &memory{parts: make(map[int][]string), notes: make(map[string]string), every: every}
}

func (m *memory) Kept(_ context.Context, layer int, _ *compare.Outline) (*compare.Partial, error) {
	return m.kept[layer], nil
}

func (m *memory) Begin(int) {}

func (m *memory) Noted(layer int, name string, note any) (bool, error) {
	text, ok := m.notes[fmt.Sprint(layer, name)]
	if !ok {
		return false, nil
	}
	return true, json.Unmarshal([]byte(text), note)
}

func (m *memory) Note(layer int, name string, note any) error {
	text, err := json.Marshal(note)
	m.notes[fmt.Sprint(layer, name)] = string(text)
	return err
}

func (m *memory) Due() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls++
	return m.every > 0 && m.calls%m.every == 0
}

func (m *memory) Keep(layer int, p *compare.Partial) error {
	text, err := json.Marshal(p)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.parts[layer] = append(m.parts[layer], string(text))
	return err
}

// join merges what is kept of each layer, in any order.
func (m *memory) join(t *testing.T, r *rand.Rand, outlines []*compare.Outline) []*compare.Partial {
	t.Helper()
	out := make([]*compare.Partial, len(outlines))
	for i, o := range outlines {
		out[i] = new(compare.Partial)
		for _, j := range r.Perm(len(m.parts[i])) {
			p, err := compare.ReadPartial([]byte(m.parts[i][j]), o)
			if err == nil {
				err = out[i].Merge(o, p)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return out
}

// mixed is a dump of layers of several kinds: with groups of heads, a batch, a causal
// mask, constant heads; outputs that are right, partly wrong, not finite, or another
// head's.
func mixed(t testing.TB) *layerdumps.Dump {
	t.Helper()
	src, err := safetensors.Open(sample)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	read := func(role string) safetensors.Tensor {
		x := src.Tensor("layers.0.attn." + role)
		b, err := x.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		return safetensors.Tensor{Name: "swapped." + role, DType: x.DType, Shape: x.Shape, Data: b}
	}
	ts := []safetensors.Tensor{read("q"), read("k"), read("v"), read("o")}
	right := read("o")
	right.Name = "wrong.o"
	half := len(right.Data) / 2
	ts[3].Data = append(append([]byte{}, right.Data[half:]...), right.Data[:half]...)
	for i := range 3 {
		x := ts[i]
		x.Name = strings.Replace(x.Name, "swapped", "wrong", 1)
		ts = append(ts, x)
	}
	wrong := right
	wrong.Data = append([]byte{}, right.Data...)
	r := rand.New(rand.NewPCG(7, 8))
	for range 500 {
		wrong.Data[2*r.IntN(half)] ^= 1
	}
	wrong.Data[half+1], wrong.Data[half+901] = 0x7e, 0x7e
	ts = append(ts, wrong)
	const batch, dim = 2, 24
	for _, x := range []struct {
		role          string
		heads, tokens int
	}{{"q", 4, 700}, {"k", 2, 333}, {"v", 2, 333}} {
		b := make([]byte, 2*batch*x.heads*x.tokens*dim)
		for i := 0; i < len(b); i += 2 {
			b[i], b[i+1] = byte(r.Uint32()), byte(0x34+r.IntN(10)|r.IntN(2)<<7)
			if x.role != "q" && i/2/dim/x.tokens == 1 {
				b[i], b[i+1] = 0, 0x3c // one head of ones
			}
		}
		ts = append(ts, safetensors.Tensor{Name: "grouped." + x.role, DType: "F16", Shape: []int{batch, x.heads, x.tokens, dim}, Data: b})
	}
	path := filepath.Join(t.TempDir(), "mixed.safetensors")
	if err := safetensors.Write(path, map[string]string{"layout": "HND", "causal": "true"}, ts); err != nil {
		t.Fatal(err)
	}
	return open(t, path)
}

func text(t *testing.T, res *compare.Result) string {
	t.Helper()
	b, err := json.Marshal(res)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestParts: any division of a run into parts gives the whole run's result, to the byte.
func TestParts(t *testing.T) {
	d := mixed(t)
	for _, perHead := range []bool{false, true} {
		opt := compare.Options{Kernel: kernel(t, "sage2-8b-sm90"), Jobs: 2, PerHead: perHead, LSE: perHead}
		res := run(t, d, opt)
		want := text(t, res)
		if !strings.Contains(want, "other heads") || !strings.Contains(want, "every token is the same") || !strings.Contains(want, "spoiled") {
			t.Fatalf("the dump has not all kinds of faults: %s", want)
		}
		outlines, err := compare.Outlines(d, opt)
		if err != nil {
			t.Fatal(err)
		}
		r := rand.New(rand.NewPCG(1, 2))
		for range 6 {
			// Shares of the chunks, each of which a process may have had.
			n := 1 + r.IntN(5)
			share := make([][]ranges.Set, n)
			for i := range share {
				share[i] = make([]ranges.Set, len(outlines))
			}
			for i, o := range outlines {
				for c := range o.Chunks() {
					s := share[r.IntN(n)]
					s[i] = s[i].Union(ranges.Of(c, c+1))
				}
			}
			m := newMemory(r.IntN(4))
			opt.Keep = m
			for _, s := range share {
				if err := compare.RunChunks(t.Context(), d, opt, s); err != nil {
					t.Fatal(err)
				}
			}
			parts := m.join(t, r, outlines)
			joined := &compare.Result{Schema: res.Schema, Tool: res.Tool, Kernel: res.Kernel, Reference: res.Reference, QueryTile: res.QueryTile}
			if err := compare.Join(joined, outlines, func(i int) (*compare.Partial, error) { return parts[i], nil }, m.Noted); err != nil {
				t.Fatal(err)
			}
			if got := text(t, joined); got != want {
				t.Fatalf("%d shares, parts every %d:\n%s\nwant\n%s", n, m.every, got, want)
			}
			// A run that finds some of it kept already, and one that finds all.
			for i := range m.parts {
				if k := r.IntN(len(m.parts[i]) + 1); r.IntN(3) > 0 {
					m.parts[i] = m.parts[i][:k]
				}
			}
			m.kept = make(map[int]*compare.Partial)
			for i, p := range m.join(t, r, outlines) {
				m.kept[i] = p
			}
			if got := text(t, run(t, d, opt)); got != want {
				t.Fatalf("resumed:\n%s\nwant\n%s", got, want)
			}
			opt.Keep = nil
		}
	}
}

// TestJoinRefuses: parts that are not all there, or there twice.
func TestJoinRefuses(t *testing.T) {
	d := open(t, sample)
	opt := compare.Options{Kernel: kernel(t, "sage2-8b-sm90"), Jobs: 2}
	outlines, err := compare.Outlines(d, opt)
	if err != nil {
		t.Fatal(err)
	}
	m := newMemory(1)
	opt.Keep = m
	run(t, d, opt)
	r := rand.New(rand.NewPCG(1, 2))
	o := outlines[0]
	p, err := compare.ReadPartial([]byte(m.parts[0][1]), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.join(t, r, outlines)[0].Merge(o, p); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("a part twice: %v", err)
	}
	m.parts[0] = m.parts[0][1:]
	parts := m.join(t, r, outlines)
	if err := compare.Join(new(compare.Result), outlines, func(i int) (*compare.Partial, error) { return parts[i], nil }, m.Noted); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("a part less: %v", err)
	}
}

// TestKeepOnCancel: what was done when a run ends early is kept.
func TestKeepOnCancel(t *testing.T) {
	d := open(t, sample)
	opt := compare.Options{Kernel: kernel(t, "sage2-8b-sm90"), Jobs: 1}
	outlines, err := compare.Outlines(d, opt)
	if err != nil {
		t.Fatal(err)
	}
	m := newMemory(0)
	opt.Keep = m
	ctx, cancel := context.WithCancel(t.Context())
	opt.Progress = func(part float64) {
		if part > 0.2 {
			cancel()
		}
	}
	if _, err := compare.Run(ctx, d, opt); err == nil {
		t.Fatal("it ran to its end")
	}
	p := m.join(t, rand.New(rand.NewPCG(1, 2)), outlines)[0]
	if n := p.Done().Len(); n == 0 || n == outlines[0].Chunks() {
		t.Errorf("%d of %d chunks were kept", n, outlines[0].Chunks())
	}
}

// FuzzReadPartial: what is no partial of a layer is refused, and none makes a merge or a
// result panic.
func FuzzReadPartial(f *testing.F) {
	d := mixed(f)
	opt := compare.Options{Kernel: kernel(f, "sage2-8b-sm90"), Jobs: 2, PerHead: true}
	outlines, err := compare.Outlines(d, opt)
	if err != nil {
		f.Fatal(err)
	}
	m := newMemory(3)
	opt.Keep = m
	if _, err := compare.Run(f.Context(), d, opt); err != nil {
		f.Fatal(err)
	}
	for i, ps := range m.parts {
		for _, p := range ps {
			f.Add(i, p)
		}
	}
	f.Fuzz(func(t *testing.T, layer int, text string) {
		o := outlines[uint(layer)%uint(len(outlines))]
		p, err := compare.ReadPartial([]byte(text), o)
		if err != nil {
			return
		}
		all := new(compare.Partial)
		if err := all.Merge(o, p); err != nil {
			t.Fatal(err)
		}
		_ = compare.Join(new(compare.Result), []*compare.Outline{o}, func(int) (*compare.Partial, error) { return all, nil }, m.Noted)
	})
}

// TestNotes: what was found out about layers once is not found out again.
func TestNotes(t *testing.T) {
	d := open(t, sample)
	opt := compare.Options{Kernel: kernel(t, "sage2-8b-sm90"), Jobs: 2}
	d.Layers = d.Layers[:1]
	// Another kernel's output, so that there is something to explain.
	opt.Kernel = kernel(t, "sage2-8b-sm89")
	m := newMemory(0)
	var want string
	for i := range 2 {
		opt.Keep = m
		if i == 1 {
			p, err := compare.Outlines(d, opt)
			if err != nil {
				t.Fatal(err)
			}
			m.kept = map[int]*compare.Partial{0: m.join(t, rand.New(rand.NewPCG(1, 2)), p)[0]}
		}
		res := run(t, d, opt)
		ctx, cancel := context.WithCancel(t.Context())
		if i == 1 {
			cancel() // nothing can be computed any more
		}
		if err := compare.Explain(ctx, d, res, opt); err != nil {
			t.Fatal(err)
		}
		if testing.Short() && i == 0 {
			m.notes["0attribution"] = `{"name":"x","steps":null}`
		}
		if err := compare.Attribute(ctx, d, res, opt); err != nil {
			t.Fatal(err)
		}
		cancel()
		got := text(t, res)
		if i == 0 {
			want = got
			if res.Layers[0].Explanation == nil || len(m.notes) != 2 {
				t.Fatalf("%d notes: %s", len(m.notes), got)
			}
		} else if got != want {
			t.Errorf("with notes:\n%s\nwant\n%s", got, want)
		}
	}
}
