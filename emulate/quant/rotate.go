package quant

import (
	"fmt"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/internal/vec"
)

// Rotation is an orthogonal transform of the channels of Q and K, which changes no exact
// product: the normalised Hadamard transform of consecutive channels, as comfy-kitchen's
// convrot computes it (backends/cuda/sage_attention/quant_qk_int8.cu): four channels at once,
// then a butterfly for each further factor of two, FP32 without subnormal numbers.
type Rotation uint8

// Rotations.
const (
	// Unrotated leaves rows as they are.
	Unrotated Rotation = iota
	// H4, H64 and H128 take that many channels at a time.
	H4
	H64
	H128
	// H128Signed changes the signs of some channels first (signs128).
	H128Signed
)

var rotations = []string{"", "h4", "h64", "h128", "h128-signed"}

// ParseRotation returns the rotation of a name; "" is Unrotated.
func ParseRotation(name string) (Rotation, error) {
	for i, n := range rotations {
		if n == name {
			return Rotation(i), nil
		}
	}
	return 0, fmt.Errorf("unknown rotation %q", name)
}

// channels is how many channels are transformed at once, factor what they are multiplied by at
// the end, beside the 1/2 of each four.
func (r Rotation) channels() (n int, factor float32) {
	switch r {
	case H4:
		return 4, 1
	case H64:
		return 64, 0.25
	case H128, H128Signed:
		return 128, 0.1767766952966369
	}
	return 1, 1
}

// Width returns how many channels a row of d has once it is rotated: d filled up to whole
// groups.
func (r Rotation) Width(d int) int {
	n, _ := r.channels()
	return ceilDiv(d, n) * n
}

// signs128 has a bit for each of the 128 channels: H128Signed negates those whose bit is 0.
var signs128 = [4]uint32{0x1035997b, 0x8087f5ee, 0xee2e4e1a, 0x71132418}

// negates says whether H128Signed changes the sign of a channel of a group.
func negates(c int) bool { return signs128[c/32]>>(c%32)&1 == 0 }

// Rotate writes the rotated rows of x, which have d channels, to dst, Width(d) each, and returns
// it. Rows that dst has no room for are left out.
func (r Rotation) Rotate(dst, x []float32, d int) []float32 {
	w := r.Width(d)
	if d < 1 {
		return dst[:0]
	}
	rows := min(len(x)/d, len(dst)/w)
	n, factor := r.channels()
	for i := range rows {
		y := dst[i*w : i*w+w]
		copy(y, x[i*d:i*d+d])
		clear(y[d:])
		for lo := 0; lo < w && r != Unrotated; lo += n {
			r.group(y[lo:lo+n], factor)
		}
	}
	return dst[:rows*w]
}

// RotateAt is Rotate with the instructions of a level: vec.Rows rows at a time, which lie in the
// lanes, so that every step of the butterflies adds rows of their channels.
func (r Rotation) RotateAt(level Level, dst, x []float32, d int) []float32 {
	const few = 8 // which it does not pay for
	if d < 1 || r == Unrotated || !level.l.Lanes() {
		return r.Rotate(dst, x, d)
	}
	w := r.Width(d)
	rows := min(len(x)/d, len(dst)/w)
	var t, spare []float32
	for lo := 0; lo < rows; lo += vec.Rows {
		n := min(vec.Rows, rows-lo)
		y, from := dst[lo*w:(lo+n)*w], x[lo*d:(lo+n)*d]
		if n < few {
			r.Rotate(y, from, d)
			continue
		}
		if t == nil {
			t, spare = make([]float32, w*vec.Rows), make([]float32, w*vec.Rows)
		}
		if !r.lanes(level, t, spare, from, d) {
			r.Rotate(y, from, d) // of what is not finite
			continue
		}
		for i := range n {
			for c := range w {
				y[i*w+c] = t[c*vec.Rows+i]
			}
		}
	}
	return dst[:rows*w]
}

// lanes writes the rotated rows of x, at most vec.Rows, to t[channel][vec.Rows], of which spare has
// the size. It reports whether all of it is finite.
func (r Rotation) lanes(level Level, t, spare, x []float32, d int) bool {
	n, factor := r.channels()
	clear(t)
	for i := range len(x) / d {
		for c, v := range x[i*d : i*d+d] {
			t[c*vec.Rows+i] = v
		}
	}
	for c := range len(t) / vec.Rows {
		if r == H128Signed && negates(c%n) {
			for i, v := range t[c*vec.Rows:][:vec.Rows] {
				t[c*vec.Rows+i] = -v
			}
		}
	}
	scale := func(by float32) {
		for i := range spare[:len(t)/vec.Rows] {
			spare[i] = by
		}
		level.l.Scale(t, &plus, spare[:len(t)/vec.Rows], vec.Flush)
	}
	ok := true
	for half := 1; half < n; half *= 2 {
		if half == 4 {
			scale(0.5)
		}
		run := half * vec.Rows
		for lo := 0; lo < len(t); lo += 2 * run {
			a, b := t[lo:lo+run], t[lo+run:lo+2*run]
			copy(spare, a)
			// A sum of two is a multiply-add with 1.
			ok = level.l.Combine(vec.JoinFMA, a, b, &plus, &plus, vec.Flush) && ok
			ok = level.l.Combine(vec.JoinFMA, b, spare, &minus, &plus, vec.Flush) && ok
		}
	}
	if n == 4 {
		factor = 0.5
	}
	scale(factor)
	return ok
}

// plus and minus are factors of all rows.
var plus, minus = func() (p, m [vec.Rows]float32) {
	for i := range p {
		p[i], m[i] = 1, -1
	}
	return p, m
}()

// group transforms the channels of a group in place.
func (r Rotation) group(y []float32, factor float32) {
	if r == H128Signed {
		for c := range y {
			if negates(c) {
				y[c] = -y[c]
			}
		}
	}
	add, sub := format.AddFtz, format.SubFtz
	for c := 0; c+4 <= len(y); c += 4 {
		x := [4]float32(y[c : c+4])
		a0, a1, a2, a3 := add(x[0], x[1]), sub(x[0], x[1]), add(x[2], x[3]), sub(x[2], x[3])
		y[c], y[c+1] = format.MulFtz(add(a0, a2), 0.5), format.MulFtz(add(a1, a3), 0.5)
		y[c+2], y[c+3] = format.MulFtz(sub(a0, a2), 0.5), format.MulFtz(sub(a1, a3), 0.5)
	}
	for half := 4; half < len(y); half *= 2 {
		for lo := 0; lo < len(y); lo += 2 * half {
			for c := lo; c < lo+half; c++ {
				y[c], y[c+half] = add(y[c], y[c+half]), sub(y[c], y[c+half])
			}
		}
	}
	if factor != 1 {
		for c := range y {
			y[c] = format.MulFtz(y[c], factor)
		}
	}
}
