package emulate

import (
	"cmp"
	"fmt"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/internal/vec"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/emulate/quant"
	"github.com/sageacc/sageacc/internal/parallel"
)

// KVInput is K and V of one kv head: Len tokens of Dim channels. K and V must be
// safe for concurrent use.
type KVInput struct {
	K, V     Rows
	Len, Dim int
	DType    format.DType
	// KDescale and VDescale are the scales of FP8 operands. Of inputs that are FP8 codes they
	// are what came with them, 0 for 1. Other inputs are divided by them; 0 stands for
	// Descale of the head's largest magnitude.
	KDescale, VDescale float32
	// KMean replaces the computed mean of K where it is not nil: a recording's
	// own mean, say, or that of a whole packed batch.
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
	kScale float32   // of all keys, where the program has one descale

	kMax    []float32 // the largest magnitude of each group of K
	kScales []float32

	values        *quant.Values
	stride        int // Len padded to whole tiles
	windowKeys    int // keys of a window
	vScale, vMean []float32
	vLess         []float32 // subtracted from V before it is converted, if it is plain

	// windows hold the codes, unless they are streamed.
	windows []*window

	// strips says that kernels on strips can run, vOrdinary that V's scale and mean
	// are not subnormal.
	strips, vOrdinary bool
	// dead holds the channels of zeros in V, whose codes are all NaN
	// (quant.Values.Dead): the kernels on strips take zeros for them.
	dead      []bool
	deadCount int

	// Counts of the inputs and codes of K and V.
	Counts Counts
}

// Preparation is what Prepare depends on. A KV may be used by every kernel whose
// Preparation equals that of the kernel that made it.
type Preparation struct {
	key   string
	level Level
}

// Preparation returns the part of the description that decides what Prepare does.
func (k *Kernel) Preparation() Preparation {
	r := k.prog.Reduced()
	p := program.Program{
		Arch: program.Nowhere, Smoothing: r.Smoothing, QKCodes: r.QKCodes, VCodes: r.VCodes,
		Tiles: program.Tiles{Shapes: r.Tiles.Shapes}, Operands: program.Operands{Descale: r.Operands.Descale},
	}
	p.Smoothing.DeltaS = ""
	p.QKCodes.Fold = ""
	if k.portable != "" {
		p.Smoothing.Q = ""
		return Preparation{key: p.Key()}
	}
	// What the vector kernels prepare depends on the unit and the smoothing of Q too.
	p.Arch, p.PV = r.Arch, r.PV
	return Preparation{p.Key(), k.level}
}

// Prepare quantises K and V.
func (k *Kernel) Prepare(in KVInput) (*KV, error) {
	if !k.bound {
		return nil, errUnbound
	}
	if most := k.prog.Operands.MaxHeadDim; in.Dim < 1 || in.Dim > most {
		return nil, fmt.Errorf("head_dim %d: kernel %s supports 1 to %d", in.Dim, k.prog.Name, most)
	}
	if in.Len < 1 {
		return nil, fmt.Errorf("no keys")
	}
	if in.KMean != nil && len(in.KMean) != in.Dim {
		return nil, fmt.Errorf("a mean of K with %d channels: want %d", len(in.KMean), in.Dim)
	}
	if k.prog.VCodes.Cast == "fp16" {
		in.V = castFP16(in.V, in.Dim)
	}
	kv := &KV{in: in, kernel: k, kScale: 1}
	kv.stride = (in.Len + k.tiling.BlockK - 1) / k.tiling.BlockK * k.tiling.BlockK
	kv.windowKeys = (minWindow + k.tiling.BlockK - 1) / k.tiling.BlockK * k.tiling.BlockK
	var err error
	scans := [...]func(){func() { k.scanK(kv) }, func() { err = k.scanV(kv) }}
	parallel.Each(in.Jobs, len(scans), func(i int) { scans[i]() })
	if err != nil {
		return nil, err
	}
	if k.portable == "" {
		k.prepareStrips(kv)
	}
	k.encode(kv)
	return kv, nil
}

// castFP16 is rows rounded to FP16.
func castFP16(src Rows, d int) Rows {
	return func(lo, hi int, dst []float32) {
		src(lo, hi, dst)
		for i, x := range dst[:(hi-lo)*d] {
			dst[i] = format.RoundFP16(x)
		}
	}
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
	level := k.level.rows
	buf := make([]float32, readBlock*d)
	if k.smoothK {
		kv.mean = in.KMean
		switch {
		case kv.mean != nil:
		case k.prog.Smoothing.K == "anchor":
			kv.mean = anchor(in)
		default:
			kv.mean = k.MeanOfKeys(in.DType, d, Run{in.K, in.Len})
		}
	}
	g, cd := k.granularity, k.rotate.Width(d)
	n := 1
	if k.integer {
		n = g.KeyGroups(k.tiling, in.Len)
	}
	kv.kMax = make([]float32, n)
	blocks(in.K, 0, in.Len, d, buf, func(lo int, x []float32) {
		kv.Counts[StageK].scanAt(level, x)
		if !k.integer {
			kv.kMax[0] = quant.AbsMaxAt(level, kv.kMax[0], x)
			return
		}
		k.smoothKeys(kv, x)
		x = k.rotated(x, d)
		for r := 0; r < len(x)/cd; r++ {
			i := g.KeyGroup(k.tiling, lo+r)
			kv.kMax[i] = quant.AbsMaxAt(level, kv.kMax[i], x[r*cd:r*cd+cd])
		}
	})
	if !k.integer {
		if k.prog.QKCodes.Scale == "descale" {
			kv.kScale = k.descaleOf(in.DType, in.KDescale, kv.kMax[0])
		}
		return
	}
	kv.kScales = make([]float32, len(kv.kMax))
	for i := range kv.kMax {
		kv.kScales[i] = k.keyScale(kv, i).Step
	}
}

// anchor returns the key that quant.Anchor chooses, nil for none.
func anchor(in KVInput) []float32 {
	x := make([]float32, quant.AnchorSamples*in.Dim)
	for s := range quant.AnchorSamples {
		at := quant.AnchorKey(s, in.Len)
		in.K(at, at+1, x[s*in.Dim:][:in.Dim])
	}
	if s := quant.Anchor(x, in.Dim); s >= 0 {
		return x[s*in.Dim:][:in.Dim]
	}
	return nil
}

// rotated returns the rows of x, d channels each, as they are quantised: rotated, with
// k.rotate.Width(d) channels, or x itself.
func (k *Kernel) rotated(x []float32, d int) []float32 {
	if k.rotate == quant.Unrotated {
		return x
	}
	return k.rotate.RotateAt(k.level.rows, make([]float32, len(x)/d*k.rotate.Width(d)), x, d)
}

// Run is some rows of K.
type Run struct {
	Rows Rows
	Len  int
}

// MeanOfKeys returns the mean that the kernel subtracts from K of d channels, over all rows
// of the runs.
func (k *Kernel) MeanOfKeys(dtype format.DType, d int, of ...Run) []float32 {
	m, buf := quant.NewChannelMean(d), make([]float32, readBlock*d)
	for _, r := range of {
		blocks(r.Rows, 0, r.Len, d, buf, func(_ int, x []float32) { m.AddAt(k.level.rows, x) })
	}
	mean, round := make([]float32, d), quant.Rounding(dtype.Round)
	if k.prog.Smoothing.KMean == "fp32" {
		round = format.FP32.Round
	}
	if k.prog.Smoothing.K == "mean" {
		m.Mean(mean, round)
	} else {
		m.FrameworkMean(mean, round)
	}
	return mean
}

// Descale returns the scale of E4M3 codes of numbers up to amax, in FP32, where it is not
// given: amax / 448, 1 for zeros, or, with operands.descale head, at least 1e-6 (the quantiser of
// FlashInfer's tests, test_hopper_fp8_attention.py).
func (k *Kernel) Descale(amax float32) float32 {
	switch {
	case k.prog.Operands.Descale == "head":
		return max(amax/format.E4M3Max, 1e-6)
	case amax == 0:
		return 1
	}
	return amax / format.E4M3Max
}

// descaleOf returns the scale of a head's E4M3 codes: of codes the given one, 0 for 1, else
// the given one, 0 for that of its largest magnitude.
func (k *Kernel) descaleOf(dtype format.DType, given, amax float32) float32 {
	switch {
	case given != 0:
		return given
	case dtype == format.FP8:
		return 1
	}
	return k.Descale(amax)
}

// encodeFP8 replaces x by the values of its E4M3 codes, which codes have already.
func (k *Kernel) encodeFP8(x []float32, dtype format.DType, scale float32) {
	if dtype == format.FP8 {
		scale = 1
	}
	const lanes = 64
	var codes [16 * lanes]uint8
	var mean, factor [lanes]float32
	for c := range factor {
		factor[c] = scale
	}
	for ; len(x) > 0; x = x[min(len(codes), len(x)):] {
		part := x[:min(len(codes), len(x))]
		n := len(part) &^ (lanes - 1)
		if k.level.l == vec.Portable || scale == 0 || !k.level.l.Encode(false, true, codes[:], part[:n], mean[:], factor[:]) {
			n = 0
		}
		for i, c := range codes[:n] {
			part[i] = format.E4M3(c).Float32()
		}
		for i, v := range part[n:] {
			part[n+i] = format.E4M3FromFloat32(v / scale).Float32()
		}
	}
}

// keyScale returns the scale of a group of keys.
func (k *Kernel) keyScale(kv *KV, group int) quant.Scale {
	return quant.NewScale(k.qkStyle, k.bits, kv.kMax[group]).Rounded(k.qkRound)
}

// plainV says that V is converted to a dtype, or not at all, instead of quantised.
func (k *Kernel) plainV() bool {
	return !k.v.typed || k.prog.VCodes.Scale == "descale" || k.prog.Smoothing.V == "input-mean" || k.prog.VCodes.Beyond != "zeros"
}

// scanV finds V's scales and mean.
func (k *Kernel) scanV(kv *KV) error {
	in := kv.in
	level := k.level.rows
	buf := make([]float32, readBlock*in.Dim)
	if k.plainV() {
		var amax float32
		mean := quant.NewChannelMean(in.Dim)
		blocks(in.V, 0, in.Len, in.Dim, buf, func(_ int, x []float32) {
			kv.Counts[StageV].scanAt(level, x)
			amax = quant.AbsMaxAt(level, amax, x)
			if k.vSmooth {
				mean.AddAt(level, x)
			}
		})
		if k.prog.VCodes.Scale == "descale" {
			kv.vScale = make([]float32, in.Dim)
			for c := range kv.vScale {
				kv.vScale[c] = k.descaleOf(in.DType, in.VDescale, amax)
			}
		}
		if k.vSmooth {
			kv.vMean = make([]float32, in.Dim)
			if k.prog.Smoothing.V == "input-mean" {
				mean.FrameworkMean(kv.vMean, in.DType.Round)
			} else {
				mean.Mean(kv.vMean, format.FP32.Round)
			}
			kv.vLess = kv.vMean
		}
		return nil
	}
	kv.values = quant.NewValues(k.vStyle, k.v.kind, float32(k.prog.VCodes.Max), k.vSmooth, in.Len, in.Dim)
	kv.values.TowardZero = k.prog.VCodes.Round == "zero"
	var err error
	blocks(in.V, 0, in.Len, in.Dim, buf, func(lo int, x []float32) {
		kv.Counts[StageV].scanAt(level, x)
		err = cmp.Or(err, kv.values.ScanAt(level, lo, x))
	})
	if err != nil {
		return err
	}
	kv.values.Finish()
	kv.vScale, kv.vMean = kv.values.Scale, kv.values.Mean
	return nil
}

// convertV makes the operands of plain V of rows x in place.
func (k *Kernel) convertV(kv *KV, x []float32) {
	d := kv.in.Dim
	if kv.vLess != nil {
		round := kv.in.DType.Round
		if k.prog.Smoothing.V != "input-mean" {
			round = format.FP32.Round
		}
		for i := range x {
			x[i] = round(x[i] - kv.vLess[i%d])
		}
	}
	switch {
	case k.prog.VCodes.Scale == "descale":
		k.encodeFP8(x, kv.in.DType, kv.vScale[0])
	case k.prog.VCodes.Format == "exact":
	case k.prog.VCodes.Round == "zero":
		for i, v := range x {
			x[i] = k.v.decode(k.v.encode(v, true))
		}
	default:
		const some = 1024
		for ; len(x) > 0; x = x[min(some, len(x)):] {
			part := x[:min(some, len(x))]
			if k.roundFP16(part) {
				continue
			}
			for i, v := range part {
				part[i] = k.v.decode(k.v.encode(v, false))
			}
		}
	}
}

// roundFP16 makes the operands of plain FP16 V of x in place, on vectors. It reports whether it
// could.
func (k *Kernel) roundFP16(x []float32) bool {
	var codes [1024]uint16
	if k.level.l == vec.Portable || !k.v.typed || k.v.kind != quant.FP16 || len(x)%16 != 0 || len(x) > len(codes) || !k.level.l.EncodeFP16(codes[:], x) {
		return false
	}
	k.level.l.DecodeFP16(x, codes[:len(x)])
	return true
}

// smoothKeys subtracts K's mean from rows in place, if the kernel smooths K.
func (k *Kernel) smoothKeys(kv *KV, x []float32) {
	if kv.mean != nil {
		quant.SubtractMeanAt(k.level.rows, k.difference, x, kv.mean, kv.in.DType)
	}
}

// CodeDim returns how many channels the integer codes of Q and K of a head of d have: d, or
// what a rotation fills it up to.
func (k *Kernel) CodeDim(d int) int { return k.rotate.Width(d) }

// KeyCodes returns the integer codes of K, [Len][CodeDim], and its scales by group; nil
// where K is not quantised to integers.
func (kv *KV) KeyCodes() (codes []int8, scales []float32) {
	if !kv.kernel.integer {
		return nil, nil
	}
	for i := range kv.windowCount() {
		codes = append(codes, kv.window(i, nil).kCodes...)
	}
	return codes[:kv.in.Len*kv.kernel.CodeDim(kv.in.Dim)], kv.kScales
}

// KeyMean returns the mean, or the key, that was subtracted from K, or nil.
func (kv *KV) KeyMean() []float32 { return kv.mean }

// ValueCodes returns the codes of V, channel-major with the given stride (the
// tokens padded to a whole tile), its scale per channel and the subtracted mean,
// nil unless V is smoothed. Codes are nil where V is not quantised.
func (kv *KV) ValueCodes() (codes []uint16, stride int, scale, mean []float32) {
	if kv.values == nil {
		return nil, kv.stride, kv.vScale, kv.vMean
	}
	codes = make([]uint16, kv.in.Dim*kv.stride)
	for i := range kv.windowCount() {
		w := kv.window(i, nil)
		for c := range kv.in.Dim {
			row := codes[c*kv.stride+w.first:][:w.keys]
			for t := range row {
				row[t] = w.code(c, t, kv.in.Dim)
			}
		}
	}
	return codes, kv.stride, kv.vScale, kv.vMean
}
