//go:build !purego

package vec

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/cpu"
)

// Levels returns what this machine can run, the best last.
func Levels() []Level {
	l := []Level{Portable}
	if x := &cpu.ARM64; x.HasASIMD && x.HasASIMDDP {
		l = append(l, NEON)
	}
	return l
}

// QK writes the integer products, as int32, to out[key][row] of a strip's codes with those of
// keys rows of k, a multiple of 4, each of 4*len(q)/(4*Rows) codes. q is
// [dim/4][Rows][4], biased by 128; bias, for other levels, holds -128 times the sum of each
// key's codes.
func (l Level) QK(out []float32, q []uint8, k []int8, bias []int32, keys int, s *Scratch) {
	quads := len(q) / (4 * Rows)
	_, _ = out[keys*Rows-1], k[keys*quads*4-1]
	qk((*int32)(unsafe.Pointer(&out[0])), &q[0], &k[0], quads, keys)
}

// ToFloat converts the integer scores of keys keys, a multiple of 8, in place
// and raises top[thread][row] to the maximum.
func (l Level) ToFloat(s, top []float32, keys int) {
	_, _ = s[keys*Rows-1], top[threads*Rows-1]
	toFloat(&s[0], &top[0], keys)
}

// Dequantize is ToFloat with s*(qscale[row]*kscale[key]) + delta[key], the sum
// rounded once, and masked from key limit[row] on. It reports whether all
// values were in the range where it is exact.
func (l Level) Dequantize(s, top []float32, keys int, qscale *[Rows]float32, kscale, delta []float32, limit *[Rows]int32, masked float32) bool {
	_, _, _, _ = s[keys*Rows-1], top[threads*Rows-1], kscale[keys-1], delta[keys-1]
	return dequantize(&s[0], &top[0], keys, &qscale[0], &kscale[0], &delta[0], &limit[0], masked) == 0
}

// packEx2 lays out the coefficients for the kernel: of each segment the constant that
// rounds, with C0's two low bits, then C1, C2 and C0's other bits with the bias of the
// exponent.
func packEx2(t *Ex2Table) (p [64][4]uint32) {
	for i := range p {
		c0 := t.c0[i]
		p[i] = [4]uint32{0x77e2 + c0&3<<13, uint32(t.c1[i]), uint32(t.c2[i]), c0>>2 + 126<<23}
	}
	return p
}

// Softmax is the online softmax of a strip and a tile of keys. It reports
// whether all values were in the range where it is exact.
func (l Level) Softmax(a *SoftmaxArgs) bool {
	table := packEx2(a.Table)
	return softmax((*byte)(unsafe.Pointer(a)), &table[0][0]) == 0
}

// The passes of Values.Dot.

func (l Level) exponentPass(e, pe, codes []uint8, table *[256]uint32, channels int, keep uint32) {
	_, _, _ = e[channels*Rows-1], pe[16*Rows-1], codes[(channels-1)*32+15]
	exponents(&e[0], &pe[0], &codes[0], &table[0], channels, keep)
}

func (l Level) dotPass(acc []float32, records, codes []uint8, values *[256]float32, p []float32, e []uint8, channels, stride int, bias uint32, half bool) bool {
	_, _, _ = acc[channels*Rows-1], records[channels*stride-1], e[channels*Rows-1]
	f := dot13
	if half {
		f = dot13Half
	}
	return f(&acc[0], &records[0], &codes[0], &values[0], &p[0], &e[0], channels, stride, bias) == 0
}

// pairExponents needs AVX512.
func (l Level) pairExponents(e, pe, codes []uint8, table *[256]uint32, channels int, least uint32, more bool) {
	panic(unavailable)
}

// pairPass needs AVX512.
func (l Level) pairPass(a *pairArgs, strips int, half bool) [2]bool { panic(unavailable) }

// signedPass needs AVX512.
func (l Level) signedPass(a *signedArgs) { panic(unavailable) }

// signs needs AVX512.
func (l Level) signs(list []keySigns, codes []uint8, keys, limit uint32) { panic(unavailable) }

// pairRecords needs AVX512.
func (l Level) pairRecords(records []uint8, pairs []pair, codes []uint8, u Unit) {
	panic(unavailable)
}

func (l Level) integerPass(acc []float32, codes []uint8, values *[256]float32, p []float32, channels int) {
	_, _, _ = acc[channels*Rows-1], codes[channels*32-1], p[32*Rows-1]
	dotInteger(&acc[0], &codes[0], &values[0], &p[0], channels)
}

// AddTile sets o = o*rescale + tile, channel by channel, flushing subnormal
// results, and clears tile. It reports whether all results are finite.
func (l Level) AddTile(o, tile []float32, rescale *[Rows]float32, channels int) bool {
	_, _ = o[channels*Rows-1], tile[channels*Rows-1]
	return addTile(&o[0], &tile[0], &rescale[0], channels) == 0
}

// Rescale sets o = o*factors, channel by channel. It reports false if a product is NaN,
// infinite, or not zero and below 2^-63, which Dot does not take: the exponents of zero
// products reach up to 2^-83.
func (l Level) Rescale(o []float32, factors *[Rows]float32, channels int) bool {
	_ = o[channels*Rows-1]
	return rescale(&o[0], &factors[0], channels) == 0
}

// MeanDots writes out[key] = the sum of q[c]*x[key/16][c][key%16], fused multiply-adds in order
// of the channel that flush subnormal numbers, for len(out) keys, a multiple of 16. It reports
// whether it could: NEON takes no subnormal number.
func (l Level) MeanDots(out, x, q []float32) bool {
	_ = x[len(out)*len(q)-1]
	return meanDots(&out[0], &x[0], &q[0], len(out)/16, len(q)) == 0
}

func (l Level) kernels() *kernels { return &full }

// partition fills list from the 32 codes of each channel: see channelKeys.
func (l Level) partition(list []channelKeys, codes []uint8, keys, limit uint32) {
	_ = codes[len(list)*32-1]
	var mask [32]uint8
	for i := range mask {
		mask[i] = -uint8(keys >> i & 1)
	}
	partition((*uint8)(unsafe.Pointer(&list[0])), &codes[0], &mask[0], &places[0], len(list), limit)
}

// places holds, for each byte, the places of its bits, one in a byte, from the lowest on.
var places = func() (t [256]uint64) {
	for b := range t {
		for bit, n := 0, 0; bit < 8; bit++ {
			if b>>bit&1 != 0 {
				t[b] |= uint64(bit) << n
				n += 8
			}
		}
	}
	return t
}()

// turnWhole leaves all to Turn.
func (Level) turnWhole(dst []float32, to int, src []float32, from, rows, columns int) (r, c int) {
	return 0, 0
}

// packWhole is Pack for as many of the first rows and channels as it says: all whole words.
func (l Level) packWhole(dst []uint8, codes []int8, d, rows int) (r, c int) {
	words, le := d/4, binary.LittleEndian
	if l == Portable || words == 0 {
		return 0, 0
	}
	for r := range rows {
		row := unsafe.Slice((*uint8)(unsafe.Pointer(&codes[r*d])), d)
		for at := 4 * r; len(row) >= 4; row, at = row[4:], at+4*Rows {
			le.PutUint32(dst[at:], le.Uint32(row)^0x80808080)
		}
	}
	return rows, 4 * words
}
