package emulate

import (
	"math"

	"github.com/sageacc/sageacc/emulate/internal/vec"
)

// vectorScores reports whether the integer scores of the interpreter run on vectors.
func (k *Kernel) vectorScores() bool { return k.integer && k.level.l != vec.Portable }

// whole fills channels up to the groups of four that [vec.Level.QK] takes.
func whole(d int) int { return (d + 3) &^ 3 }

// intScores writes the exact products of the codes of the queries with those of n keys of
// the window from at on, and zeros for the tile's others.
func (k *Kernel) intScores(ws *Workspace, w *window, at, d, rows, n int) {
	bk := k.tiling.BlockK
	done := 0
	if k.vectorScores() {
		done = n &^ 3
		k.stripScores(ws, w, at, d, rows, done)
	}
	codes := w.kCodes[(at+done)*d : (at+n)*d]
	for r := range rows {
		out := ws.sInt[r*bk : r*bk+bk]
		intDots(out[done:n], ws.qCodes[r*d:r*d+d], codes)
		clear(out[n:])
		for i, x := range out[done:] {
			ws.s[r*bk+done+i] = float32(x)
		}
	}
}

// stripScores is intScores for a number of keys that is a multiple of 4, strip by strip.
func (k *Kernel) stripScores(ws *Workspace, w *window, at, d, rows, keys int) {
	if keys == 0 {
		return
	}
	bk, wd := k.tiling.BlockK, whole(d)
	ws.strip = grow(ws.strip, keys*vec.Rows)
	for first := 0; first < rows; first += vec.Rows {
		k.level.l.QK(ws.strip, ws.qStrips[first*wd:(first+vec.Rows)*wd], w.kWhole[at*wd:], w.kBias[at:], keys, &ws.vector)
		for r := range min(vec.Rows, rows-first) {
			ints, floats := ws.sInt[(first+r)*bk:][:keys], ws.s[(first+r)*bk:][:keys]
			for i := range ints {
				x := int32(math.Float32bits(ws.strip[i*vec.Rows+r]))
				ints[i], floats[i] = x, float32(x)
			}
		}
	}
}

// packStrips lays out rows of codes, strip by strip.
func (k *Kernel) packStrips(dst []uint8, codes []int8, d, rows int) []uint8 {
	wd := whole(d)
	dst = grow(dst, (rows+vec.Rows-1)/vec.Rows*vec.Rows*wd)
	for first := 0; first < rows; first += vec.Rows {
		k.level.l.Pack(dst[first*wd:(first+vec.Rows)*wd], codes[first*d:min(first+vec.Rows, rows)*d], d)
	}
	return dst
}

// intDots writes the exact products of q with each row of k.
func intDots(out []int32, q, k []int8) {
	d := len(q)
	j := 0
	for ; j+4 <= len(out); j += 4 {
		k0 := k[j*d : j*d+d][:len(q)]
		k1 := k[(j+1)*d : (j+1)*d+d][:len(q)]
		k2 := k[(j+2)*d : (j+2)*d+d][:len(q)]
		k3 := k[(j+3)*d : (j+3)*d+d][:len(q)]
		var s0, s1, s2, s3 int32
		for i, v := range q {
			x := int32(v)
			s0 += x * int32(k0[i])
			s1 += x * int32(k1[i])
			s2 += x * int32(k2[i])
			s3 += x * int32(k3[i])
		}
		out[j], out[j+1], out[j+2], out[j+3] = s0, s1, s2, s3
	}
	for ; j < len(out); j++ {
		var s int32
		for i, v := range q {
			s += int32(v) * int32(k[j*d+i])
		}
		out[j] = s
	}
}
