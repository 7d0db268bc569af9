package validate

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/sageacc/sageacc/compare/heads"
	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/internal/parallel"
	"github.com/sageacc/sageacc/layerdumps"
)

// emulated is the emulator's side of a case.
type emulated struct {
	k   *emulate.Kernel
	l   *heads.Layer
	kvs []*emulate.KV
	// o holds the bits of the output, lse the base-2 log-sum-exp.
	o   []uint32
	lse []float32
}

func newEmulated(ctx context.Context, k *emulate.Kernel, l *layerdumps.Layer, jobs int) (*emulated, error) {
	view, err := heads.Bind(k, l)
	if err != nil {
		return nil, err
	}
	e := &emulated{k: view.Kernel, l: view, kvs: make([]*emulate.KV, l.K.Batch*l.K.Heads)}
	return e, parallel.Do(ctx, jobs, len(e.kvs), func(_ context.Context, i int) error {
		kv, err := e.k.Prepare(view.KV(i/l.K.Heads, i%l.K.Heads))
		e.kvs[i] = kv
		return err
	})
}

// run computes the outputs.
func (e *emulated) run(ctx context.Context, jobs int) error {
	l := e.l
	n, d := l.Q.Tokens, l.Q.Dim
	all := l.Q.Batch * l.Q.Heads
	e.o, e.lse = make([]uint32, all*n*d), make([]float32, all*n)
	dtype := l.OutputDType()
	group := l.Q.Heads / l.K.Heads
	bq := e.k.Tiling().BlockQ
	blocks := e.k.Blocks(n)
	// A worker takes a run of blocks of one head, so that its workspace lasts.
	const run = 16
	runs := (blocks + run - 1) / run
	return parallel.Do(ctx, jobs, all*runs, func(ctx context.Context, i int) error {
		head, first := i/runs, i%runs*run
		var ws emulate.Workspace
		q := e.k.Query(l.Query(head/l.Q.Heads, head%l.Q.Heads), e.kvs[head/group], &ws)
		out := make([]float32, bq*d)
		for blk := first; blk < min(first+run, blocks); blk++ {
			if err := ctx.Err(); err != nil {
				return err
			}
			row := head*n + blk*bq
			rows, err := e.k.Run(q, &ws, blk, out, e.lse[row:min(row+bq, (head+1)*n)])
			if err != nil {
				return err
			}
			for j, x := range out[:rows*d] {
				e.o[row*d+j] = dtype.Bits(x)
			}
		}
		return nil
	})
}

// stage returns a tensor before the attention as the bytes of the given type: see
// manifest.Stages. size is what the kernel's buffer has. It returns nil for a
// tensor that the program does not have.
func (e *emulated) stage(name, kind string, size int) ([]byte, error) {
	l := e.l
	d := l.Q.Dim
	var out []byte
	number := func(x float32) {
		switch kind {
		case "f16":
			out = binary.LittleEndian.AppendUint16(out, uint16(format.FP16.Bits(x)))
		case "bf16":
			out = binary.LittleEndian.AppendUint16(out, uint16(format.BF16.Bits(x)))
		default:
			out = binary.LittleEndian.AppendUint32(out, format.FP32.Bits(x))
		}
	}
	// codes appends rows of codes and zeros up to the buffer's rows.
	all := len(e.kvs)
	if name[0] == 'q' {
		all = l.Q.Batch * l.Q.Heads
	}
	codes := func(x []int8) {
		if kind == "i4" {
			for i := 0; i+1 < len(x); i += 2 {
				out = append(out, uint8(x[i])&15|uint8(x[i+1])<<4)
			}
		} else {
			for _, c := range x {
				out = append(out, uint8(c))
			}
		}
	}
	pad := func(head int) {
		if want := size / all * (head + 1); len(out) < want {
			out = append(out, make([]byte, want-len(out))...)
		}
	}
	switch {
	case name == "q_codes" || name == "q_scale":
		for h := range all {
			c, s := e.k.QuantizeQuery(l.Query(h/l.Q.Heads, h%l.Q.Heads), d)
			if name == "q_scale" {
				for _, x := range s {
					number(x)
				}
				continue
			}
			codes(c)
			pad(h)
		}
		return out, nil
	}
	for h, kv := range e.kvs {
		switch name {
		case "k_mean":
			if kv.KeyMean() == nil {
				return nil, nil
			}
			for _, x := range kv.KeyMean() {
				number(x)
			}
		case "k_scale":
			_, s := kv.KeyCodes()
			for _, x := range s {
				number(x)
			}
		case "k_codes":
			c, _ := kv.KeyCodes()
			codes(c)
			pad(h)
		case "v_mean", "v_scale":
			_, _, s, mean := kv.ValueCodes()
			if name == "v_mean" {
				s = mean
			}
			if s == nil {
				return nil, nil
			}
			for _, x := range s {
				number(x)
			}
		case "v_codes":
			c, stride, _, _ := kv.ValueCodes()
			for ch := range d {
				for t := range stride {
					code := c[ch*stride+e.k.Stored(t)]
					if kind == "f16" {
						out = binary.LittleEndian.AppendUint16(out, code)
						continue
					}
					out = append(out, uint8(code))
				}
			}
		default:
			return nil, fmt.Errorf("no stage %q", name)
		}
	}
	return out, nil
}
