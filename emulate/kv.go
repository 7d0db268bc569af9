package emulate

import (
	"fmt"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/internal/vec"
	"github.com/sageacc/sageacc/emulate/mufu"
	"github.com/sageacc/sageacc/emulate/quant"
	"github.com/sageacc/sageacc/emulate/tensorcore"
)

// MaxHeadDim is the largest head dimension of the kernels. Smaller ones are
// zero-padded to 64 or 128 by the released API; a zero channel changes no score
// and no other channel, so the emulator leaves the padding out.
const MaxHeadDim = 128

// Rows reads tokens [lo, hi) of one head into dst, row-major, as exact FP32.
type Rows func(lo, hi int, dst []float32)

// Kernel is a configuration ready to run. It is immutable and safe for
// concurrent use.
type Kernel struct {
	cfg    Config
	unit   *tensorcore.Unit // nil for INT8 P and V
	tiling quant.Tiling
	offset float32 // what P~'s exponent is lowered by so that P~ fills its format
	level  Level
	ex2    func(float32) float32 // of the portable path
}

// Level is a set of vector instructions. No result depends on it.
type Level = vec.Level

// Levels returns the levels that this machine can run, the fastest last. The
// first is always the portable one, pure Go, which defines the results.
func Levels() []Level { return vec.Levels() }

// New validates a configuration. The kernel uses the fastest level there is.
func New(cfg Config) (*Kernel, error) {
	levels := Levels()
	return NewAt(cfg, levels[len(levels)-1])
}

// NewAt is New with a choice of level, one of Levels, for tests and
// measurements.
func NewAt(cfg Config, level Level) (*Kernel, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	k := &Kernel{cfg: cfg, tiling: cfg.Tiling(), level: level}
	if cfg.PVType != quant.INT8 {
		u, err := cfg.Unit()
		if err != nil {
			return nil, err
		}
		k.unit = u
	}
	if cfg.Variant.portable() {
		k.level = vec.Portable
	}
	k.offset = cfg.pOffset()
	k.ex2 = mufu.Ex2
	if cfg.Variant.ExactExp2 {
		k.ex2 = exactExp2
	}
	return k, nil
}

// Config returns the kernel's configuration.
func (k *Kernel) Config() Config { return k.cfg }

// Tiling returns the kernel's tile shape.
func (k *Kernel) Tiling() quant.Tiling { return k.tiling }

// KVInput is K and V of one kv head: Len tokens of Dim channels.
type KVInput struct {
	K, V     Rows
	Len, Dim int
	DType    format.DType
	// KMean replaces the computed mean of K where it is not nil: a recording's
	// own mean, say.
	KMean []float32
}

// KV is a prepared kv head: the codes and scales of K and V.
type KV struct {
	in   KVInput
	mean []float32 // of K, nil unless smoothed

	kCodes  []int8 // [Len padded to whole tiles][Dim]
	kScales []float32

	vCodes        *vec.Values // codes of 8 bits, or
	vCodes16      []uint16    // [Dim][vStride], of 16
	vStride       int         // Len padded to whole tiles
	vScale, vMean []float32

	// strips says that kernels on strips can run, kBias what they need of K: -128
	// times the sum of each key's codes, vOrdinary that V's scale and mean are not
	// subnormal.
	strips, vOrdinary bool
	kBias             []int32

	// Counts of the inputs and codes of K and V.
	Counts Counts
}

// readBlock is how many tokens are decoded at a time; a multiple of every tile.
const readBlock = 512

// Preparation is what Prepare depends on. A KV may be used by every kernel whose
// Preparation equals that of the kernel that made it.
type Preparation struct {
	cfg   Config
	vMax  float32
	level Level
}

// Preparation returns the part of the configuration that decides what Prepare does.
func (k *Kernel) Preparation() Preparation {
	c := k.cfg.Reduced()
	p := Preparation{vMax: c.valueMax()}
	p.cfg = Config{
		Program: c.Program, QKBits: c.QKBits, QKGranularity: c.QKGranularity,
		SmoothK: c.SmoothK, SmoothV: c.SmoothV, PVType: c.PVType,
		Variant: Variant{CodeRound: c.Variant.CodeRound, VRoundZero: c.Variant.VRoundZero},
	}
	if k.level != vec.Portable {
		// What the vector kernels prepare depends on the rest of the program too.
		p.level = k.level
		p.cfg.Arch, p.cfg.PVAccum, p.cfg.SmoothQ = c.Arch, c.PVAccum, c.SmoothQ
	}
	return p
}

// Prepare quantises K and V.
func (k *Kernel) Prepare(in KVInput) (*KV, error) {
	if in.Dim < 1 || in.Dim > MaxHeadDim {
		return nil, fmt.Errorf("head_dim %d: the kernels support 1 to %d", in.Dim, MaxHeadDim)
	}
	if in.Len < 1 {
		return nil, fmt.Errorf("no keys")
	}
	kv := &KV{in: in}
	buf := make([]float32, readBlock*in.Dim)
	kv.vStride = (in.Len + k.tiling.BlockK - 1) / k.tiling.BlockK * k.tiling.BlockK
	k.prepareK(kv, buf)
	k.prepareV(kv, buf)
	k.prepareStrips(kv)
	return kv, nil
}

// blocks calls f with consecutive runs of rows of src.
func blocks(src Rows, n, d int, buf []float32, f func(lo int, x []float32)) {
	for lo := 0; lo < n; lo += readBlock {
		hi := min(lo+readBlock, n)
		x := buf[:(hi-lo)*d]
		src(lo, hi, x)
		f(lo, x)
	}
}

func (k *Kernel) prepareK(kv *KV, buf []float32) {
	in := kv.in
	d := in.Dim
	if k.cfg.SmoothK {
		kv.mean = in.KMean
		if kv.mean == nil {
			m := quant.NewChannelMean(d)
			blocks(in.K, in.Len, d, buf, func(_ int, x []float32) { m.Add(x) })
			kv.mean = make([]float32, d)
			round := quant.Rounding(in.DType.Round)
			if k.cfg.qkStyle() == quant.Paper {
				round = format.FP32.Round
			}
			m.Mean(kv.mean, round)
		}
	}
	g := k.cfg.QKGranularity
	amax := make([]float32, g.KeyGroups(k.tiling, in.Len))
	blocks(in.K, in.Len, d, buf, func(lo int, x []float32) {
		kv.Counts[StageK].scan(x)
		k.smoothKeys(kv, x)
		for r := 0; r < len(x)/d; r++ {
			i := g.KeyGroup(k.tiling, lo+r)
			amax[i] = quant.AbsMaxAt(k.level, amax[i], x[r*d:r*d+d])
		}
	})
	scales := make([]quant.Scale, len(amax))
	kv.kScales = make([]float32, len(amax))
	for i, a := range amax {
		scales[i] = quant.NewScale(k.cfg.qkStyle(), k.cfg.QKBits, a).Rounded(k.cfg.Variant.CodeRound)
		kv.kScales[i] = scales[i].Step
	}
	kv.kCodes = make([]int8, kv.vStride*d)
	blocks(in.K, in.Len, d, buf, func(lo int, x []float32) {
		k.smoothKeys(kv, x)
		kv.Counts[StageKCodes].scan(x)
		for r := 0; r < len(x)/d; r++ {
			s := &scales[g.KeyGroup(k.tiling, lo+r)]
			s.QuantizeAt(k.level, kv.kCodes[(lo+r)*d:(lo+r+1)*d], x[r*d:r*d+d])
		}
	})
}

// smoothKeys subtracts K's mean from rows in place, if the kernel smooths K.
func (k *Kernel) smoothKeys(kv *KV, x []float32) {
	if kv.mean != nil {
		quant.SubtractMeanAt(k.level, k.cfg.qkStyle(), x, kv.mean, kv.in.DType)
	}
}

func (k *Kernel) prepareV(kv *KV, buf []float32) {
	in := kv.in
	d := in.Dim
	v := quant.NewValues(k.cfg.vStyle(), k.cfg.PVType, k.cfg.valueMax(), k.cfg.SmoothV, in.Len, d)
	v.TowardZero = k.cfg.Variant.VRoundZero
	blocks(in.V, in.Len, d, buf, func(lo int, x []float32) {
		kv.Counts[StageV].scan(x)
		v.Scan(lo, x)
	})
	v.Finish()
	kv.vScale, kv.vMean = v.Scale, v.Mean
	row := make([]uint16, d)
	put := func(token int, x []float32) {
		v.Encode(row, x)
		for c, code := range row {
			kv.vCodes.Codes(token/32, c)[token%32] = uint8(code)
		}
	}
	if k.cfg.PVType == quant.FP16 {
		kv.vCodes16 = make([]uint16, d*kv.vStride)
		put = func(token int, x []float32) {
			v.Encode(row, x)
			for c, code := range row {
				kv.vCodes16[c*kv.vStride+token] = code
			}
		}
	} else {
		unit, _ := k.vecUnit()
		kv.vCodes = vec.NewValues(valueFormats[k.cfg.PVType], d, kv.vStride, k.tiling.BlockK, unit)
	}
	blocks(in.V, in.Len, d, buf, func(lo int, x []float32) {
		for r := 0; r < len(x)/d; r++ {
			put(lo+r, x[r*d:r*d+d])
			if k.cfg.PVType == quant.INT8 {
				continue // whose codes are all finite
			}
			for _, code := range row {
				// Of FP8 only the largest magnitudes are not finite.
				if k.cfg.PVType != quant.FP16 && code&0x7c != 0x7c {
					continue
				}
				if f := k.cfg.PVType.Decode(code); f-f != 0 {
					kv.Counts[StageVCodes].add(f)
				}
			}
		}
	})
	// The padding up to a whole tile is quantised like any token: zeros.
	clear(buf[:d])
	for t := in.Len; t < kv.vStride; t++ {
		put(t, buf[:d])
	}
}

// loadValues writes the codes of a tile of V as [Dim][BlockK] in the stored
// order of tokens.
func (kv *KV) loadValues(dst []uint16, first, keys int) {
	for c := range kv.in.Dim {
		row := dst[c*keys : (c+1)*keys]
		if kv.vCodes16 != nil {
			src := kv.vCodes16[c*kv.vStride+first:][:keys]
			for i := range row {
				row[i] = src[quant.Permute(i)]
			}
			continue
		}
		for g := 0; g < keys; g += 32 {
			src := kv.vCodes.Codes((first+g)/32, c)
			for i := range src {
				row[g+i] = uint16(src[quant.Permute(i)])
			}
		}
	}
}

// KeyCodes returns the codes of K, [Len][Dim], and its scales by group.
func (kv *KV) KeyCodes() (codes []int8, scales []float32) {
	return kv.kCodes[:kv.in.Len*kv.in.Dim], kv.kScales
}

// KeyMean returns the mean that was subtracted from K, or nil.
func (kv *KV) KeyMean() []float32 { return kv.mean }

// ValueCodes returns the codes of V, channel-major with the given stride (the
// tokens padded to a whole tile), its scale per channel and the subtracted mean,
// nil unless V is smoothed.
func (kv *KV) ValueCodes() (codes []uint16, stride int, scale, mean []float32) {
	codes = kv.vCodes16
	if codes == nil {
		codes = make([]uint16, kv.in.Dim*kv.vStride)
		for i := range codes {
			c, t := i/kv.vStride, i%kv.vStride
			codes[i] = uint16(kv.vCodes.Codes(t/32, c)[t%32])
		}
	}
	return codes, kv.vStride, kv.vScale, kv.vMean
}
