package emulate

import (
	"math"
	"sync"

	"github.com/sageacc/sageacc/emulate/internal/vec"
	"github.com/sageacc/sageacc/emulate/quant"
	"github.com/sageacc/sageacc/internal/parallel"
)

// readBlock is how many tokens are decoded at a time; a multiple of every tile.
const readBlock = 512

// minWindow is how many keys a window has at least; it has whole tiles.
const minWindow = 1024

// keepTurned is up to how many elements a kept head has K turned too, so that it stays small. A
// streamed head has it in the window there is.
const keepTurned = 1 << 21

// window holds the codes of a run of keys, padded to whole tiles.
type window struct {
	first, keys int
	kCodes      []int8    // [keys][CodeDim]
	kWhole      []int8    // [keys][whole(CodeDim)], the same in whole groups, zeros behind; for vector levels
	kRaw        []float32 // [keys][Dim], where K is not quantised to integers
	vRaw        []float32 // [keys][Dim], where V is plain
	vWide       []uint16  // [keys][Dim], codes of V that no vector kernel takes
	kTurned     []float32 // [keys/16][Dim][16], smoothed K for the delta-S of strips; nil in long kept heads
	kBias       []int32   // [keys], -128 times the sum of each key's codes; for vector levels
	vCodes      *vec.Values
	scoreCodes  windowCodes // K for scores
	vTurned     []float32   // [tiles][even(Dim)][BlockK], what V's codes stand for, in V's stored order; for lanes without vCodes

	buf    []float32 // [readBlock][Dim]
	scales []quant.Scale
	row    []uint16 // [Dim]
	rows   []uint8  // [readBlock][Dim]
}

// windowCount returns how many windows a head has.
func (kv *KV) windowCount() int { return (kv.stride + kv.windowKeys - 1) / kv.windowKeys }

// window returns a window: the head's own, or the one that the workspace keeps while
// codes are streamed; without workspace a new one.
func (kv *KV) window(i int, ws *Workspace) *window {
	if kv.windows != nil {
		return kv.windows[i]
	}
	if ws == nil {
		w := &window{}
		kv.kernel.fill(kv, w, i, nil)
		return w
	}
	switch {
	case ws.windowOf != kv: // whose codes may be of another kind or size
		ws.window, ws.windowOf = &window{}, kv
		kv.kernel.fill(kv, ws.window, i, nil)
	case ws.window.first != i*kv.windowKeys:
		kv.kernel.fill(kv, ws.window, i, nil)
	}
	return ws.window
}

// windowAt returns the window of key lo and the key's number in it.
func (kv *KV) windowAt(lo int, ws *Workspace) (*window, int) {
	return kv.window(lo/kv.windowKeys, ws), lo % kv.windowKeys
}

// encode fills all windows, and keeps them unless they are streamed.
func (k *Kernel) encode(kv *KV) {
	n := kv.windowCount()
	jobs := max(1, min(kv.in.Jobs, n))
	kept := make([]*window, n)
	var mu sync.Mutex
	// Each goroutine takes every jobs-th window.
	parallel.Each(jobs, jobs, func(j int) {
		var counts Counts
		w := &window{}
		for i := j; i < n; i += jobs {
			k.fill(kv, w, i, &counts)
			if !kv.in.Stream {
				kept[i] = w
				w = &window{buf: w.buf, scales: w.scales, row: w.row, rows: w.rows}
				kept[i].buf, kept[i].scales, kept[i].row, kept[i].rows = nil, nil, nil, nil
			}
		}
		mu.Lock()
		defer mu.Unlock()
		kv.Counts.Merge(&counts)
	})
	if !kv.in.Stream {
		kv.windows = kept
	}
}

// fill makes the codes of window i. counts, if not nil, gets what K and V count.
func (k *Kernel) fill(kv *KV, w *window, i int, counts *Counts) {
	d := kv.in.Dim
	cd := k.CodeDim(d)
	w.first = i * kv.windowKeys
	w.scoreCodes.reset()
	keys := min(kv.windowKeys, kv.stride-w.first)
	if w.keys != keys {
		w.keys = keys
		if k.integer {
			w.kCodes = make([]int8, keys*cd)
		} else {
			w.kRaw = make([]float32, keys*d)
		}
		if k.vectorScores() {
			w.kBias, w.kWhole = make([]int32, keys), w.kCodes
			if wd := whole(cd); wd != cd {
				w.kWhole = make([]int8, keys*wd)
			}
		}
		if kv.strips && k.smoothQ && (kv.in.Stream || kv.in.Len*d <= keepTurned) {
			w.kTurned = make([]float32, keys*d)
		}
		switch {
		case k.plainV():
			w.vRaw = make([]float32, keys*d)
		case k.portable != "":
			w.vWide = make([]uint16, keys*d)
		default:
			w.vCodes = vec.NewValues(valueFormats[k.v.kind], d, keys, k.tiling.BlockK, k.vecUnit)
		}
	}
	if w.buf == nil {
		w.buf, w.row, w.rows = make([]float32, readBlock*d), make([]uint16, d), make([]uint8, readBlock*d)
	}
	k.fillKeys(kv, w, counts)
	k.fillValues(kv, w, counts)
	if k.vectorScores() {
		if wd := whole(cd); wd != cd {
			for i := range w.keys {
				copy(w.kWhole[i*wd:], w.kCodes[i*cd:i*cd+cd])
			}
		}
		vec.KeyBias(w.kBias, w.kCodes)
	}
	if kv.strips {
		w.vCodes.Index(k.level.l, kv.dead)
	}
	switch {
	case !k.turnsValues():
	case k.lanes != nil && k.lanes.dots:
		k.index(w, d)
	default:
		k.turn(w, d)
	}
}

// index writes the window's vCodes by sign, for lanes.
func (k *Kernel) index(w *window, d int) {
	if w.vCodes == nil || w.vCodes.Keys() != w.keys {
		w.vCodes = vec.NewValues(valueFormats[k.v.kind], d, w.keys, k.tiling.BlockK, k.vecUnit)
	}
	for lo := 0; lo < w.keys; lo += readBlock {
		rows := w.rows[:min(readBlock, w.keys-lo)*d]
		if w.vRaw != nil {
			codes := fp8Codes[k.v.kind]
			for i, x := range w.vRaw[lo*d:][:len(rows)] {
				rows[i] = codes[math.Float32bits(x)>>20]
			}
		} else {
			for i, c := range w.vWide[lo*d:][:len(rows)] {
				rows[i] = uint8(c)
			}
		}
		w.vCodes.PutRows(lo, rows)
	}
	w.vCodes.Index(k.level.l, nil)
}

// fp8Codes are the codes of the values of FP8 formats, by the upper bits of a value's FP32 pattern:
// the lower ones are zero, or a NaN's.
var fp8Codes = func() (t [2]*[1 << 12]uint8) {
	for _, kind := range []quant.PVType{quant.E4M3, quant.E5M2} {
		t[kind] = new([1 << 12]uint8)
		for c := range 1 << 8 {
			t[kind][math.Float32bits(kind.Decode(uint16(c)))>>20] = uint8(c)
		}
	}
	return t
}()

// turn writes the window's vTurned, some keys at a time that stay in the nearest cache.
func (k *Kernel) turn(w *window, d int) {
	const some = 16 // whose order is their own
	var decoded [1 << 8]float32
	if w.vRaw == nil && k.v.kind != quant.FP16 {
		for c := range decoded {
			decoded[c] = k.v.decode(uint16(c))
		}
	}
	bk, channels := k.tiling.BlockK, even(d)
	w.vTurned = grow(w.vTurned, w.keys*channels) // where a channel beyond d stays zero
	x := make([]float32, some*d)
	var keys [some]int
	for i := range keys {
		keys[i] = k.Stored(i)
	}
	for lo := 0; lo < w.keys; lo += some {
		switch {
		case w.vRaw != nil:
			copy(x, w.vRaw[lo*d:])
		case k.v.kind == quant.FP16:
			k.level.l.DecodeFP16(x, w.vWide[lo*d:(lo+some)*d])
		default:
			for i, code := range w.vWide[lo*d:][:len(x)] {
				x[i] = decoded[code&0xff]
			}
		}
		for c := range d {
			dst := w.vTurned[lo/bk*bk*channels+c*bk+lo%bk:][:some]
			for i, key := range &keys {
				dst[i] = x[key*d+c]
			}
		}
	}
}

func (k *Kernel) fillKeys(kv *KV, w *window, counts *Counts) {
	in, d, g := kv.in, kv.in.Dim, k.granularity
	cd := k.CodeDim(d)
	last := min(w.first+w.keys, in.Len)
	if !k.integer {
		k.fillRawKeys(kv, w, last)
		return
	}
	// The groups of a window are consecutive, the first key's the first.
	base, end := g.KeyGroup(k.tiling, w.first), 0
	for i := w.first; i < last; i++ {
		end = max(end, g.KeyGroup(k.tiling, i)+1)
	}
	w.scales = w.scales[:0]
	for i := base; i < end; i++ {
		w.scales = append(w.scales, k.keyScale(kv, i))
	}
	blocks(in.K, w.first, last, d, w.buf, func(lo int, x []float32) {
		k.smoothKeys(kv, x)
		if counts != nil {
			counts[StageKCodes].scanAt(k.level.rows, x)
		}
		if w.kTurned != nil {
			k.turnKeys(w.kTurned, x, d, lo-w.first)
		}
		x = k.rotated(x, d)
		for r := 0; r < len(x)/cd; r++ {
			at := lo - w.first + r
			s := &w.scales[g.KeyGroup(k.tiling, lo+r)-base]
			s.QuantizeAt(k.level.rows, w.kCodes[at*cd:(at+1)*cd], x[r*cd:r*cd+cd])
		}
	})
	clear(w.kCodes[(last-w.first)*cd:])
}

// turnKeys writes rows x of d channels to turned [keys/16][d][16] from the key at on, a multiple of 16.
func (k *Kernel) turnKeys(turned, x []float32, d, at int) {
	const some = 16
	for n := len(x) / d; n > 0; n, at = n-some, at+some {
		rows := min(some, n)
		k.level.l.Turn(turned[at*d:], some, x, d, rows, d)
		x = x[rows*d:]
	}
}

// fillRawKeys takes keys that are not quantised to integers.
func (k *Kernel) fillRawKeys(kv *KV, w *window, last int) {
	d := kv.in.Dim
	blocks(kv.in.K, w.first, last, d, w.buf, func(lo int, x []float32) {
		k.smoothKeys(kv, x)
		if k.prog.QKCodes.Scale == "descale" {
			k.encodeFP8(x, kv.in.DType, kv.kScale)
		}
		copy(w.kRaw[(lo-w.first)*d:], x)
	})
	clear(w.kRaw[(last-w.first)*d:])
}

func (k *Kernel) fillValues(kv *KV, w *window, counts *Counts) {
	in, d := kv.in, kv.in.Dim
	last := min(w.first+w.keys, in.Len)
	if k.plainV() {
		blocks(in.V, w.first, last, d, w.buf, func(lo int, x []float32) {
			k.convertV(kv, x)
			if counts != nil {
				counts[StageVCodes].scanAt(k.level.rows, x)
			}
			copy(w.vRaw[(lo-w.first)*d:], x)
		})
		rest := w.vRaw[(last-w.first)*d:]
		clear(rest)
		if back := last - k.tiling.BlockK; k.prog.VCodes.Beyond == "previous-tile" && back >= 0 && len(rest) > 0 {
			// What the tile before left in shared memory.
			in.V(back, back+len(rest)/d, rest)
			k.convertV(kv, rest)
		}
		return
	}
	put := func(at int, x []float32) {
		kv.values.Encode(w.row, x)
		if w.vWide != nil {
			copy(w.vWide[at*d:], w.row)
			return
		}
		for c, code := range w.row {
			w.vCodes.Put(c, at, code)
		}
	}
	blocks(in.V, w.first, last, d, w.buf, func(lo int, x []float32) {
		if w.vWide != nil && kv.values.EncodeWideAt(k.level.rows, w.vWide[(lo-w.first)*d:], x) {
			return
		}
		if kv.values.EncodeAt(k.level.rows, w.rows, x) {
			if w.vWide == nil {
				w.vCodes.PutRows(lo-w.first, w.rows[:len(x)])
				return
			}
			for i, code := range w.rows[:len(x)] {
				w.vWide[(lo-w.first)*d+i] = uint16(code)
			}
			return
		}
		for r := 0; r < len(x)/d; r++ {
			put(lo-w.first+r, x[r*d:r*d+d])
			if counts == nil || k.v.kind == quant.INT8 {
				continue // whose codes are all finite
			}
			for _, code := range w.row {
				// Of FP8 only the largest magnitudes are not finite.
				if k.v.kind != quant.FP16 && code&0x7c != 0x7c {
					continue
				}
				if f := k.v.decode(code); f-f != 0 {
					counts[StageVCodes].add(f)
				}
			}
		}
	})
	// The padding up to a whole tile is quantised like any token: zeros.
	clear(w.buf[:d])
	for at := last - w.first; at < w.keys; at++ {
		put(at, w.buf[:d])
	}
}

// Stored returns the key at position i of the operands P and V.
func (k *Kernel) Stored(i int) int {
	if k.natural {
		return i
	}
	return quant.Permute(i)
}

// code returns the code of V of channel c of d and the window's key t.
func (w *window) code(c, t, d int) uint16 {
	if w.vWide != nil {
		return w.vWide[t*d+c]
	}
	return w.vCodes.Code(c, t)
}

// loadValues writes the operands of keys of V from the window's key at on as
// [Dim][keys] in the stored order: codes, or values where V is exact.
func (k *Kernel) loadValues(w *window, codes []uint16, values []float32, d, at, keys int) {
	for c := range d {
		for i := range keys {
			t := at + k.Stored(i)
			switch {
			case w.vRaw == nil:
				codes[c*keys+i] = w.code(c, t, d)
				continue
			case values != nil:
				values[c*keys+i] = w.vRaw[t*d+c]
			}
			if !k.v.exact {
				codes[c*keys+i] = k.v.encode(w.vRaw[t*d+c], false)
			}
		}
	}
	if w.vRaw == nil && values != nil {
		for i, code := range codes[:d*keys] {
			values[i] = k.v.decode(code)
		}
	}
}
