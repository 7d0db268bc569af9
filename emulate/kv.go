package emulate

import (
	"fmt"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/internal/vec"
	"github.com/sageacc/sageacc/emulate/mufu"
	"github.com/sageacc/sageacc/emulate/quant"
	"github.com/sageacc/sageacc/emulate/tensorcore"
	"github.com/sageacc/sageacc/internal/parallel"
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

// KVInput is K and V of one kv head: Len tokens of Dim channels. K and V must be
// safe for concurrent use.
type KVInput struct {
	K, V     Rows
	Len, Dim int
	DType    format.DType
	// KMean replaces the computed mean of K where it is not nil: a recording's
	// own mean, say.
	KMean []float32
	// Jobs is the number of goroutines that Prepare may use; it changes no result.
	Jobs int
	// Stream keeps no codes: a Workspace makes those of a run of keys when it needs
	// them. Memory then hardly depends on Len, and RunBlocks should be given many blocks
	// at a time. It changes no result.
	Stream bool
}

// KV is a prepared kv head: the codes and scales of K and V.
type KV struct {
	in     KVInput
	kernel *Kernel   // that prepared it
	mean   []float32 // of K, nil unless smoothed

	kMax    []float32 // the largest magnitude of each group of K
	kScales []float32

	values        *quant.Values
	stride        int // Len padded to whole tiles
	vScale, vMean []float32

	// windows hold the codes, unless they are streamed.
	windows []*window

	// strips says that kernels on strips can run, vOrdinary that V's scale and mean
	// are not subnormal.
	strips, vOrdinary bool
	// dead holds the channels of zeros in V, whose codes are all NaN
	// (quant.Values.Dead): the kernels on strips take zeros for them.
	dead []bool

	// Counts of the inputs and codes of K and V.
	Counts Counts
}

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
	kv := &KV{in: in, kernel: k}
	kv.stride = (in.Len + k.tiling.BlockK - 1) / k.tiling.BlockK * k.tiling.BlockK
	scans := [...]func(*KV){k.scanK, k.scanV}
	parallel.Each(in.Jobs, len(scans), func(i int) { scans[i](kv) })
	k.prepareStrips(kv)
	k.encode(kv)
	return kv, nil
}

// blocks calls f with consecutive runs of rows [lo, hi) of src.
func blocks(src Rows, lo, hi, d int, buf []float32, f func(lo int, x []float32)) {
	for ; lo < hi; lo += readBlock {
		n := min(readBlock, hi-lo)
		x := buf[:n*d]
		src(lo, lo+n, x)
		f(lo, x)
	}
}

// scanK finds the mean of K and its scales.
func (k *Kernel) scanK(kv *KV) {
	in := kv.in
	d := in.Dim
	buf := make([]float32, readBlock*d)
	if k.cfg.SmoothK {
		kv.mean = in.KMean
		if kv.mean == nil {
			m := quant.NewChannelMean(d)
			blocks(in.K, 0, in.Len, d, buf, func(_ int, x []float32) { m.AddAt(k.level, x) })
			kv.mean = make([]float32, d)
			round := quant.Rounding(in.DType.Round)
			if k.cfg.qkStyle() == quant.Paper {
				round = format.FP32.Round
			}
			m.Mean(kv.mean, round)
		}
	}
	g := k.cfg.QKGranularity
	kv.kMax = make([]float32, g.KeyGroups(k.tiling, in.Len))
	blocks(in.K, 0, in.Len, d, buf, func(lo int, x []float32) {
		kv.Counts[StageK].scanAt(k.level, x)
		k.smoothKeys(kv, x)
		for r := 0; r < len(x)/d; r++ {
			i := g.KeyGroup(k.tiling, lo+r)
			kv.kMax[i] = quant.AbsMaxAt(k.level, kv.kMax[i], x[r*d:r*d+d])
		}
	})
	kv.kScales = make([]float32, len(kv.kMax))
	for i := range kv.kMax {
		kv.kScales[i] = k.keyScale(kv, i).Step
	}
}

// keyScale returns the scale of a group of keys.
func (k *Kernel) keyScale(kv *KV, group int) quant.Scale {
	return quant.NewScale(k.cfg.qkStyle(), k.cfg.QKBits, kv.kMax[group]).Rounded(k.cfg.Variant.CodeRound)
}

// scanV finds V's scales and mean.
func (k *Kernel) scanV(kv *KV) {
	in := kv.in
	kv.values = quant.NewValues(k.cfg.vStyle(), k.cfg.PVType, k.cfg.valueMax(), k.cfg.SmoothV, in.Len, in.Dim)
	kv.values.TowardZero = k.cfg.Variant.VRoundZero
	buf := make([]float32, readBlock*in.Dim)
	blocks(in.V, 0, in.Len, in.Dim, buf, func(lo int, x []float32) {
		kv.Counts[StageV].scanAt(k.level, x)
		kv.values.ScanAt(k.level, lo, x)
	})
	kv.values.Finish()
	kv.vScale, kv.vMean = kv.values.Scale, kv.values.Mean
}

// smoothKeys subtracts K's mean from rows in place, if the kernel smooths K.
func (k *Kernel) smoothKeys(kv *KV, x []float32) {
	if kv.mean != nil {
		quant.SubtractMeanAt(k.level, k.cfg.qkStyle(), x, kv.mean, kv.in.DType)
	}
}

// KeyCodes returns the codes of K, [Len][Dim], and its scales by group.
func (kv *KV) KeyCodes() (codes []int8, scales []float32) {
	for i := range kv.windowCount() {
		codes = append(codes, kv.window(i, nil).kCodes...)
	}
	return codes[:kv.in.Len*kv.in.Dim], kv.kScales
}

// KeyMean returns the mean that was subtracted from K, or nil.
func (kv *KV) KeyMean() []float32 { return kv.mean }

// ValueCodes returns the codes of V, channel-major with the given stride (the
// tokens padded to a whole tile), its scale per channel and the subtracted mean,
// nil unless V is smoothed.
func (kv *KV) ValueCodes() (codes []uint16, stride int, scale, mean []float32) {
	codes = make([]uint16, kv.in.Dim*kv.stride)
	for i := range kv.windowCount() {
		w := kv.window(i, nil)
		for c := range kv.in.Dim {
			row := codes[c*kv.stride+w.first:][:w.keys]
			for t := range row {
				row[t] = w.vCodes.Code(c, t)
			}
		}
	}
	return codes, kv.stride, kv.vScale, kv.vMean
}
