package attribute

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/metrics"
	"github.com/sageacc/sageacc/reference"
)

// drawn is a layer of random numbers, other ones in every row.
func drawn(t *testing.T, causal bool, heads, kvHeads, tokens, dim int) *layerdumps.Layer {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	tensor := func(name string, heads int) layerdumps.Tensor {
		data := make([]byte, 2*heads*tokens*dim)
		for i := 0; i < len(data); i += 2 {
			b := format.FP16.Bits(float32(r.NormFloat64()))
			data[i], data[i+1] = byte(b), byte(b>>8)
		}
		x, err := layerdumps.NewTensor(name, format.FP16, [4]int{1, heads, tokens, dim}, data)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	return &layerdumps.Layer{Name: "drawn", Causal: causal, Q: tensor("q", heads), K: tensor("k", kvHeads), V: tensor("v", kvHeads)}
}

// plain compares each set's outputs of whole heads with the reference of whole heads, and with
// that of other rows of the same head.
func plain(t *testing.T, l *layerdumps.Layer, p program.Program, prec reference.Precision) (own, other []metrics.Values) {
	t.Helper()
	views, err := views(p, l)
	if err != nil {
		t.Fatal(err)
	}
	n, d := l.Q.Tokens, l.Q.Dim
	sums, wrong := make([]metrics.Accuracy, len(views)), make([]metrics.Accuracy, len(views))
	for h := range l.Q.Heads {
		rows := func(x *layerdumps.Tensor, head int) []float32 {
			v := make([]float32, n*d)
			x.Rows(0, head, 0, n, v)
			return v
		}
		kvHead := h * l.K.Heads / l.Q.Heads
		ref := make([]float64, n*d)
		params := reference.Params{Precision: prec, Causal: l.Causal, Scale: l.Scale()}
		if err := reference.Attention(t.Context(), params, rows(&l.Q, h), rows(&l.K, kvHead), rows(&l.V, kvHead), 0, n, n, d, nil, ref, nil); err != nil {
			t.Fatal(err)
		}
		shifted := slices.Concat(ref[partRows*d:], ref[:partRows*d])
		for set, v := range views {
			kv, err := v.Kernel.Prepare(v.KV(0, kvHead))
			if err != nil {
				t.Fatal(err)
			}
			var ws emulate.Workspace
			out := make([]float32, n*d)
			if _, err := v.Kernel.RunBlocks(t.Context(), v.Kernel.Query(v.Query(0, h), kv, &ws), &ws, 0, v.Kernel.Blocks(n), out, nil); err != nil {
				t.Fatal(err)
			}
			sums[set].Add64(out, ref)
			wrong[set].Add64(out, shifted)
		}
	}
	for i := range sums {
		own, other = append(own, sums[i].Values()), append(other, wrong[i].Values())
	}
	return own, other
}

// TestReferences: every set is compared with the reference of its own rows, however many
// goroutines there are, however many rows have theirs kept, and with codes kept or not. No
// more references are held than the documentation says, and progress comes to its end in order.
func TestReferences(t *testing.T) {
	type how struct{ keep, jobs, streamed int }
	for _, c := range []struct {
		kernel    string
		causal    bool
		precision reference.Precision
		how       []how
	}{
		{"sage2-8b-sm90", false, reference.FP32, []how{{1, 1, streamed}, {1, 3, streamed}, {512 * 64, 20, streamed}, {kept, 1, streamed}, {kept, 20, streamed}, {1, 2, 1}, {kept, 2, 1}}},
		{"sage2-4b", true, reference.FP64, []how{{1, 3, streamed}, {kept, 2, streamed}}},
		{"fa3", true, reference.FP32, []how{{1, 3, streamed}, {kept, 2, 1}}},
	} {
		l := drawn(t, c.causal, 2, 1, 800, 64)
		p, err := program.Preset(c.kernel)
		if err != nil {
			t.Fatal(err)
		}
		want, other := plain(t, l, p, c.precision)
		for i, v := range other {
			if v == want[i] {
				t.Fatalf("%s, set %d: the reference of other rows gives the same figures", c.kernel, i)
			}
		}
		for _, how := range c.how {
			t.Run(fmt.Sprintf("%s/%d", c.kernel, how), func(t *testing.T) {
				var r *run
				part, most, largest := 0.0, 0, 0
				r, err := newRun(l, Options{Program: p, Reference: c.precision, Jobs: how.jobs, Progress: func(now float64) {
					if now <= part || now > 1 {
						t.Errorf("progress %g after %g", now, part)
					}
					part = now
					most = max(most, len(r.open)+len(r.spare))
					for _, s := range r.open {
						largest = max(largest, cap(s.ref.values))
					}
				}}, how.keep)
				if err != nil {
					t.Fatal(err)
				}
				r.streamed = how.streamed
				var read atomic.Int64 // rows of Q, for the reference
				counted, err := views(p, l)
				if err != nil {
					t.Fatal(err)
				}
				r.layer = counted[0]
				r.layer.Read = func(x *layerdumps.Tensor, batch, head int) emulate.Rows {
					return func(lo, hi int, dst []float32) {
						x.Rows(batch, head, lo, hi, dst)
						if x.Name == "q" {
							read.Add(int64(hi - lo))
						}
					}
				}
				if err := r.all(t.Context()); err != nil {
					t.Fatal(err)
				}
				if part != 1 || most > how.jobs || len(r.open) != 0 {
					t.Errorf("progress %g, %d references for %d goroutines, %d left", part, most, how.jobs, len(r.open))
				}
				if n := read.Load(); n != int64(l.Q.Heads*l.Q.Tokens) {
					t.Errorf("the reference of %d rows was computed", n)
				}
				if largest > max(how.keep, 768*l.Q.Dim) {
					t.Errorf("a reference of %d elements", largest)
				}
				if many := r.segments > 1; many != (how.keep < kept) {
					t.Errorf("%d segments", r.segments)
				}
				for i := range want {
					if got := r.sums[i].Values(); got != want[i] {
						t.Errorf("set %d: %v, want %v", i, got, want[i])
					}
				}
			})
		}
	}
}

// TestOneReference: all sets of a kernel have one reference, in chunks of whole blocks.
func TestOneReference(t *testing.T) {
	for _, causal := range []bool{false, true} {
		d := open(t, causal)
		for _, n := range []int{3, 70, 300} {
			l := cut(t, &d.Layers[0], n)
			for name, p := range programs(t) {
				views, err := views(p, &l)
				if err != nil {
					continue // a kernel that does not take the layer
				}
				r, err := newRun(&l, Options{Program: p}, 1)
				if err != nil {
					t.Fatal(err)
				}
				for i, v := range views {
					if v.Align() != views[0].Align() {
						t.Errorf("%s, set %d: query 0 is aligned with key %d, that of the kernel with %d", name, i, v.Align(), views[0].Align())
					}
					if rows := blocks * v.Kernel.Tiling().BlockQ; r.rows%rows != 0 {
						t.Errorf("%s, set %d: segments of %d rows, chunks of %d", name, i, r.rows, rows)
					}
				}
			}
		}
	}
}

// TestParts: each part of a reference is computed once, whoever asks for it, and is where
// its rows are.
func TestParts(t *testing.T) {
	const lo, hi, d = 512, 512 + 3*partRows + 7, 2
	var r references
	r.reset(lo, hi, d, make([]float64, 1))
	var calls [4]atomic.Int32
	compute := func(lo, hi int, dst []float64) error {
		calls[(lo-512)/partRows].Add(1)
		for i := range dst {
			dst[i] = float64(lo*d + i)
		}
		if len(dst) != (hi-lo)*d {
			return errors.New("wrong length")
		}
		return nil
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 8 {
				first := lo + (i+g)%8*100
				last := min(first+150, hi)
				x, err := r.of(first, last, compute)
				if err != nil || len(x) != (last-first)*d {
					t.Errorf("%d elements, %v", len(x), err)
					return
				}
				for j, v := range x {
					if v != float64(first*d+j) {
						t.Errorf("element %d of rows %d to %d is %v", j, first, last, v)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	for i := range calls {
		if n := calls[i].Load(); n != 1 {
			t.Errorf("part %d was computed %d times", i, n)
		}
	}

	fault := errors.New("fault")
	r.reset(0, 2*partRows, d, r.values)
	for range 2 {
		if _, err := r.of(10, partRows+1, func(lo, hi int, dst []float64) error {
			if lo == 0 {
				return nil
			}
			return fault
		}); err != fault {
			t.Errorf("error %v", err)
		}
	}
}
