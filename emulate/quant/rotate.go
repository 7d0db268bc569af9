package quant

import (
	"fmt"

	"github.com/sageacc/sageacc/emulate/format"
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

// group transforms the channels of a group in place.
func (r Rotation) group(y []float32, factor float32) {
	if r == H128Signed {
		for c := range y {
			if signs128[c/32]>>(c%32)&1 == 0 {
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
