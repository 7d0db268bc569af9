package emulate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/internal/parallel"
)

// Head is one attention head: rows of Dim channels, row-major without gaps, of numbers
// that DType has.
type Head struct {
	// Q is [queries][Dim], K and V are [keys][Dim].
	Q, K, V []float32
	Dim     int
	DType   format.DType
	// Causal masks keys that come after the query, aligned as the kernel does.
	Causal bool
	// Scale multiplies Q K^T; 0 stands for 1/sqrt(Dim).
	Scale float64
}

// ErrHead is wrapped by the errors of [Attention] that are about the head.
var ErrHead = errors.New("bad head")

// check reports a head that is none.
func (h *Head) check() error {
	bad := func(f string, args ...any) error { return fmt.Errorf("%w: %s", ErrHead, fmt.Sprintf(f, args...)) }
	if h.DType > format.FP32 {
		return bad("there is no dtype %d", h.DType)
	}
	if h.Dim < 1 || h.Dim > MaxHeadDim {
		return bad("head_dim %d: want 1 to %d", h.Dim, MaxHeadDim)
	}
	if s := h.Scale; s-s != 0 || math.IsInf(float64(float32(s)), 0) {
		return bad("scale %v is not finite", s)
	}
	for _, x := range []struct {
		name string
		x    []float32
	}{{"Q", h.Q}, {"K", h.K}, {"V", h.V}} {
		if len(x.x) == 0 || len(x.x)%h.Dim != 0 {
			return bad("%s has %d elements, which are no rows of %d channels", x.name, len(x.x), h.Dim)
		}
		for i, v := range x.x {
			if v == v && h.DType.Round(v) != v {
				return bad("%s[%d] = %v is no %s number", x.name, i, v, h.DType)
			}
		}
	}
	if len(h.K) != len(h.V) {
		return bad("K has %d rows and V %d", len(h.K)/h.Dim, len(h.V)/h.Dim)
	}
	return nil
}

// Attention emulates a head: out [queries][Dim] is what the kernel returns, numbers of
// its output dtype; lse [queries] is the natural log-sum-exp that the kernel's callers
// return, nil where it writes none. What depends on the whole call is as in one of this head
// alone, but that the keys are not in parts (tiles.split: fa2-heuristic). It runs on all
// processors, on which no bit depends.
// An error says what is wrong with the description, the head (it wraps [ErrHead]) or
// their combination, or is the cause of ctx's end.
func Attention(ctx context.Context, p program.Program, h Head) (out, lse []float32, err error) {
	if err := h.check(); err != nil {
		return nil, nil, err
	}
	k, err := New(p)
	if err != nil {
		return nil, nil, err
	}
	if k, err = k.ForCase(h.DType, program.Case{HeadDim: h.Dim, Causal: h.Causal, Queries: len(h.Q) / h.Dim, Keys: len(h.K) / h.Dim}); err != nil {
		return nil, nil, err
	}
	rows := func(x []float32) Rows {
		return func(lo, hi int, dst []float32) { copy(dst, x[lo*h.Dim:hi*h.Dim]) }
	}
	jobs := runtime.GOMAXPROCS(0)
	kv, err := k.Prepare(KVInput{K: rows(h.K), V: rows(h.V), Len: len(h.K) / h.Dim, Dim: h.Dim, DType: h.DType, Jobs: jobs})
	if err != nil {
		return nil, nil, err
	}
	n := len(h.Q) / h.Dim
	in := QInput{Q: rows(h.Q), Len: n, Causal: h.Causal, Scale: h.Scale}
	q := k.Query(in, kv, &Workspace{})
	out, lse = make([]float32, n*h.Dim), make([]float32, n)
	bq := k.Tiling().BlockQ
	// Every goroutine has a workspace, which it takes from here.
	spare := make(chan *Workspace, jobs)
	for range jobs {
		spare <- &Workspace{}
	}
	blocks, group := k.Blocks(n), k.stripBlocks()
	err = parallel.Do(ctx, jobs, (blocks+group-1)/group, func(ctx context.Context, i int) error {
		ws := <-spare
		defer func() { spare <- ws }()
		b := i * group
		_, err := k.RunBlocks(ctx, q, ws, b, min(group, blocks-b), out[b*bq*h.Dim:], lse[b*bq:])
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	if p.LSE.Form == "none" {
		return out, nil, nil
	}
	for i := range lse {
		lse[i] = q.NaturalLSE(lse[i], h.Q[i*h.Dim:(i+1)*h.Dim])
	}
	return out, lse, nil
}
