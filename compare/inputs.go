package compare

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/sageacc/sageacc/internal/exactsum"
	"github.com/sageacc/sageacc/layerdumps"
)

// inputs looks for what is odd about an input, head by head: such a layer says
// little about a kernel, and more often than not its dump is broken.
type inputs struct {
	elements, zeros, nonFinite int64
	absMax                     float64
	absSum                     exactsum.Sum
	// Whole heads that are zero, and that are the same in every token.
	heads, zeroHeads, sameHeads int64
}

// head collects one head, or a part of one, whose first token is known.
type headInputs struct {
	inputs
	varies bool
}

// add takes in rows of d channels of a head with the given first row.
func (h *headInputs) add(rows, first []float32, d int) {
	h.elements += int64(len(rows))
	// Four sums, because one would wait for each addition. Magnitudes compare as their
	// bits do.
	const sign, inf = 1 << 31, 0x7f80_0000
	var sum [4]float64
	var most uint32
	n := len(rows) &^ 3
	for i := 0; i < n; i += 4 {
		x := rows[i : i+4 : i+4]
		b0, b1, b2, b3 := math.Float32bits(x[0])&^sign, math.Float32bits(x[1])&^sign, math.Float32bits(x[2])&^sign, math.Float32bits(x[3])&^sign
		if b0-1 >= inf-1 || b1-1 >= inf-1 || b2-1 >= inf-1 || b3-1 >= inf-1 { // zero or not finite
			for j := range x {
				h.odd(x[j], &sum[j], &most)
			}
			continue
		}
		sum[0] += float64(math.Float32frombits(b0))
		sum[1] += float64(math.Float32frombits(b1))
		sum[2] += float64(math.Float32frombits(b2))
		sum[3] += float64(math.Float32frombits(b3))
		most = max(most, b0, b1, b2, b3)
	}
	for _, x := range rows[n:] {
		h.odd(x, &sum[0], &most)
	}
	h.absSum.Add((sum[0] + sum[1]) + (sum[2] + sum[3]))
	h.absMax = max(h.absMax, float64(math.Float32frombits(most)))
	for i := 0; i < len(rows) && !h.varies; i += d {
		for c, x := range rows[i : i+d] {
			if x != first[c] {
				h.varies = true
				break
			}
		}
	}
}

// odd takes in an element that may be zero or not finite.
func (h *headInputs) odd(x float32, sum *float64, most *uint32) {
	a := math.Abs(float64(x))
	switch {
	case a == 0:
		h.zeros++
	case a-a != 0:
		h.nonFinite++
	default:
		*sum += a
		*most = max(*most, math.Float32bits(float32(a)))
	}
}

// merge takes in another part of the same head.
func (h *headInputs) merge(o *headInputs) {
	h.inputs.sum(&o.inputs)
	h.varies = h.varies || o.varies
}

func (in *inputs) sum(o *inputs) {
	in.elements += o.elements
	in.zeros += o.zeros
	in.nonFinite += o.nonFinite
	in.absSum.Merge(&o.absSum)
	in.absMax = max(in.absMax, o.absMax)
	in.heads += o.heads
	in.zeroHeads += o.zeroHeads
	in.sameHeads += o.sameHeads
}

// addHead takes in a whole head of that many tokens.
func (in *inputs) addHead(h *headInputs, tokens int) {
	in.sum(&h.inputs)
	in.heads++
	switch {
	case h.zeros == h.elements:
		in.zeroHeads++
	case !h.varies && tokens > 1:
		in.sameHeads++
	}
}

// outlier is how many times the mean magnitude of a tensor an element must be to be
// odd. Channels of real models with a bias stay below a hundred.
const outlier = 1000

// describe says what is odd about the tensor of that name, a line for each thing. NaN
// and infinities the emulator counts.
func (in *inputs) describe(name string) []string {
	var out []string
	add := func(format string, args ...any) { out = append(out, name+": "+fmt.Sprintf(format, args...)) }
	of := func(n int64, what string) {
		switch {
		case n == 0:
		case n == in.heads:
			add("%s", what)
		default:
			add("%d of %d heads: %s", n, in.heads, what)
		}
	}
	of(in.zeroHeads, "all elements are zero")
	of(in.sameHeads, "every token is the same")
	if finite := in.elements - in.nonFinite; finite > 0 {
		mean := in.absSum.Value() / float64(finite)
		if in.absMax > outlier*mean {
			add("an element of magnitude %s, %s times the mean", figure(in.absMax), figure(in.absMax/mean))
		}
	}
	return out
}

// figure writes a number with few digits and no exponent where there is none to see.
func figure(x float64) string {
	return strings.Replace(fmt.Sprintf("%.3g", x), "e+0", "e", 1)
}

// maskNotes says what is odd about a layer's mask.
func maskNotes(ctx context.Context, l *layerdumps.Layer) ([]string, error) {
	if l.Mask == nil {
		return nil, nil
	}
	st, err := l.Mask.Stats(func() error { return errors.Join(ctx.Err(), l.Err()) })
	if err != nil {
		return nil, err
	}
	return st.Notes(), nil
}
