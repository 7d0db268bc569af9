package compare

import (
	"errors"
	"testing"

	"github.com/sageacc/sageacc/compare/heads"
	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/internal/ranges"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/layerdumps/synth"
)

// newTestGatherer returns what makes the tasks of a layer of heads of three chunks.
func newTestGatherer(t *testing.T) (*gatherer, *worker) {
	t.Helper()
	path := t.TempDir() + "/x.safetensors"
	profile, err := synth.Named("gaussian")
	if err != nil {
		t.Fatal(err)
	}
	if err := synth.Write(t.Context(), path, profile, synth.Options{Layers: 1, Heads: 4, Tokens: 600, HeadDim: 16, Seed: 1}); err != nil {
		t.Fatal(err)
	}
	d, err := layerdumps.Open([]string{path}, layerdumps.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	p, err := program.Preset("sage2-8b-sm90")
	if err != nil {
		t.Fatal(err)
	}
	k, err := emulate.New(p)
	if err != nil {
		t.Fatal(err)
	}
	opt := Options{Kernel: k, Jobs: 2}
	outlines, err := Outlines(d, opt)
	if err != nil {
		t.Fatal(err)
	}
	bound, err := heads.Bind(k, &d.Layers[0])
	if err != nil {
		t.Fatal(err)
	}
	opt.Kernel = bound.Kernel
	return newGatherer(bound, 0, outlines[0], opt, new(Partial), outlines[0].All()), &worker{opt: opt, layer: bound}
}

// TestTasks: every chunk is in one task, heads but the first are prepared ahead, and none is kept
// once its chunks have run.
func TestTasks(t *testing.T) {
	g, w := newTestGatherer(t)
	var done ranges.Set
	prepared, kvs := 0, map[*kvHead]bool{}
	for _, task := range g.tasks {
		if task.prepares() {
			kv := g.ahead(task.kv)
			if kv == nil || kvs[kv] {
				t.Fatalf("head %d is prepared after its first chunk", task.kv)
			}
			if err := kv.ready(w.layer, w.opt, 1); err != nil {
				t.Fatal(err)
			}
			prepared++
			continue
		}
		cs := g.start(task)
		if err := w.run(t.Context(), cs); err != nil {
			t.Fatal(err)
		}
		kvs[cs[0].kv] = true
		done = done.Union(ranges.Set{task.chunks})
	}
	if len(kvs) != 4 || prepared != 3 || len(done.Minus(g.o.All())) != 0 || len(g.o.All().Minus(done)) != 0 {
		t.Errorf("%d heads, %d prepared ahead, chunks %v of %v", len(kvs), prepared, done, g.o.All())
	}
	for kv := range kvs {
		if kv.kv != nil {
			t.Errorf("head %d is kept", kv.head)
		}
	}
	for n := range 4 {
		if g.ahead(n) != nil {
			t.Errorf("head %d is prepared after its chunks", n)
		}
	}
	if len(g.kvs) != 0 {
		t.Errorf("%d heads are kept", len(g.kvs))
	}
}

// TestAheadFails: what goes wrong in preparing ahead is the chunks' error.
func TestAheadFails(t *testing.T) {
	g, w := newTestGatherer(t)
	bad := errors.New("bad")
	kv := g.ahead(0)
	kv.once.Do(func() { kv.err = bad })
	if err := w.run(t.Context(), g.start(g.tasks[0])); !errors.Is(err, bad) {
		t.Errorf("error %v", err)
	}
}
