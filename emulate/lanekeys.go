package emulate

import (
	"math"
	"slices"
	"sync"

	"github.com/sageacc/sageacc/emulate/internal/vec"
	"github.com/sageacc/sageacc/emulate/quant"
	"github.com/sageacc/sageacc/emulate/tensorcore"
)

// This file makes scores of E4M3 operands by vec.Keys, of units with 13 fraction bits.

var scoreFormat = vec.NewSignedFormat(valueFormats[quant.E4M3], -6)

// keyLayout is how K lies for that. Kernels with the same share a window's codes.
type keyLayout struct {
	ok      bool
	unit    vec.Unit
	headDim string // the layout of channels
}

// codesOfScores finds how K lies, if the kernel's scores are such products.
func (k *Kernel) codesOfScores() keyLayout {
	u := k.scoreUnit
	if u == nil || u.A != tensorcore.E4M3 || k.tiling.BlockK%vec.KeyGroup != 0 {
		return keyLayout{}
	}
	v, ok := vectorUnitOf(u)
	if !ok || !v.Signed(k.level.l) {
		return keyLayout{}
	}
	return keyLayout{true, v, k.prog.Scores.HeadDim}
}

// windowCodes are a window's keys as codes, made when they are first wanted: strips of few rows do
// without.
type windowCodes struct {
	once sync.Once
	keys *vec.Keys
	odd  []bool // groups with elements that are not numbers of the format, which keys lack
}

// reset says that the window has other keys.
func (x *windowCodes) reset() { x.once = sync.Once{} }

// fillScoreCodes makes the window's codes of keys.
func (k *Kernel) fillScoreCodes(w *window, d int) {
	x := &w.scoreCodes
	depth, short, shift := k.scoreLayout(d)
	if x.keys == nil || x.keys.Len() != w.keys {
		x.keys = vec.NewKeys(scoreFormat, w.keys, depth, k.lanes.codes.unit)
	}
	x.odd = make([]bool, w.keys/vec.KeyGroup)
	codes := fp8Codes[quant.E4M3]
	var value [1 << 8]float32
	for c := range value {
		value[c] = quant.E4M3.Decode(uint16(c))
	}
	row := make([]uint8, depth)
	for i := range w.keys {
		for c, y := range w.kRaw[i*d : i*d+d] {
			code := codes[math.Float32bits(y)>>20]
			if value[code] != y { // a NaN, too
				code, x.odd[i/vec.KeyGroup] = 0, true
			}
			if c >= short {
				c += shift
			}
			row[c] = code
		}
		x.keys.Put(i, row)
	}
}

// codeScores writes the products of a strip's n rows with the first keys of the tile at the window's key
// at, whole groups. It reports whether it did: whether that is faster, which it is not of few rows, and
// whether the keys are numbers of the format.
func (k *Kernel) codeScores(kv *KV, st *laneStrip, w *window, at, n, keys int, l *lanes) bool {
	const few = vec.Rows / 2
	by, x := kv.kernel, &w.scoreCodes
	if !k.lanes.codes.ok || by.lanes == nil || by.lanes.codes != k.lanes.codes || n <= few {
		return false
	}
	x.once.Do(func() { k.fillScoreCodes(w, kv.in.Dim) })
	keys = (keys + vec.KeyGroup - 1) / vec.KeyGroup * vec.KeyGroup
	if slices.Contains(x.odd[at/vec.KeyGroup:][:keys/vec.KeyGroup], true) {
		return false
	}
	if !st.coded {
		st.coded = true
		st.codes.Load(scoreFormat, st.q)
	}
	x.keys.Dot(k.level.l, l.s, &st.codes, &l.scratch, at, keys)
	return true
}
