package attribute

import (
	"math"

	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/mufu"
	"github.com/sageacc/sageacc/emulate/quant"
	"github.com/sageacc/sageacc/emulate/tensorcore"
	"github.com/sageacc/sageacc/internal/strictmath"
)

// head is one query head with everything that its rows need. It is the kernel's
// program once more, row by row, with steps that can be left out; with none left
// out it gives the bits of package emulate, and a test says so.
type head struct {
	cfg    emulate.Config
	tiling quant.Tiling
	unit   *tensorcore.Unit

	nq, nk, d int
	causal    bool
	sm        float32 // softmax scale times log2(e)
	dtype     format.DType

	q, k, v []float32 // as they are; k less its mean if the kernel smooths K

	qCodes, kCodes   []int8
	qScales, kScales []float32
	delta            []float32 // [blocks][nk], of a smoothed Q
	vCodes           []uint16  // [d][stride]
	stride           int
	vScale, vMean    []float32

	// V as values and exponents, channel-major, padded to whole tiles: the codes,
	// and the values themselves.
	vCode, vExact operand
}

// operand holds values with the exponents that the matrix units align by.
type operand struct {
	val []float64
	exp []int32
}

// noExp is the exponent of zero: below any sum of two real ones.
const noExp = -1 << 12

func newOperand(n int) operand { return operand{make([]float64, n), make([]int32, n)} }

// set stores a value; minExp is the smallest exponent of its format.
func (o *operand) set(i int, x float32, minExp int32) {
	o.val[i] = float64(x)
	b := math.Float32bits(x) & 0x7fff_ffff
	if b == 0 {
		o.exp[i] = noExp
		return
	}
	o.exp[i] = max(int32(b>>23)-127, minExp)
}

// minExp is the smallest exponent of P~ and V's format, which a subnormal code
// keeps.
func minExp(t quant.PVType) int32 { return [...]int32{-6, -14, -126, -14}[t] }

// offset is what P~'s exponent is lowered by.
func offset(t quant.PVType) float32 { return [...]float32{8.807, 15.807, 6.988, 0}[t] }

// scratch holds a goroutine's buffers.
type scratch struct {
	s      []float32
	pCode  operand
	pExact operand
	o      []float64
}

// row computes output row i of the head; steps in exact are left out.
func (h *head) row(i int, exact Steps, w *scratch, out []float32) {
	bq, bk, d := h.tiling.BlockQ, h.tiling.BlockK, h.d
	block := i / bq
	keys := h.nk
	if h.causal {
		keys = min(keys, (block+1)*bq)
	}
	tiles := (keys + bk - 1) / bk
	g := h.cfg.QKGranularity
	m := float32(-5_000_000)
	den := [4]float32{1, 1, 1, 1}
	clear(w.o)
	ex2, rcp := mufu.Ex2, mufu.Rcp
	if exact&Exp2 != 0 {
		ex2 = func(x float32) float32 { return format.FlushSubnormal(float32(strictmath.Exp2(float64(x)))) }
		rcp = func(x float32) float32 { return 1 / x }
	}
	for t := range tiles {
		lo := t * bk
		tail := h.cfg.Program == emulate.PaperProgram || h.cfg.SmoothQ || exact&QK != 0 || g == quant.PerToken
		switch h.cfg.Program {
		case emulate.SM90Program:
			tail = tail || t == tiles-1
		case emulate.SM89Program:
			tail = tail || t >= tiles-2
		}
		var scale [4]float32
		for j := range scale {
			scale[j] = h.sm
			if !tail {
				scale[j] = format.MulFtz(h.sm, format.MulFtz(h.qScales[g.QueryGroup(h.tiling, i)], h.kScales[g.KeyGroup(h.tiling, lo+2*j)]))
			}
		}
		s := w.s[:bk]
		for j := range s {
			key := lo + j
			if tail && (key >= h.nk || h.causal && key > i) {
				s[j] = -5_000_000
				continue
			}
			s[j] = h.score(i, key, exact, tail)
		}
		var top [4]float32
		for j := range top {
			top[j] = -5_000_000
		}
		for j, x := range s {
			top[j&7>>1] = max(top[j&7>>1], x)
		}
		next := m
		for j, x := range top {
			next = max(next, format.FMAFtz(x, scale[j], -offset(h.cfg.PVType)))
		}
		rescale := ex2(format.SubFtz(m, next))
		m = next
		for j, x := range s {
			s[j] = ex2(format.FMAFtz(x, scale[j&7>>1], -m))
		}
		for b := 0; b < bk; b += 16 {
			for j := range den {
				sum := s[b+2*j] + s[b+2*j+1]
				sum += s[b+2*j+8]
				sum += s[b+2*j+9]
				if b == 0 {
					den[j] = format.FMAFtz(den[j], rescale, sum)
				} else {
					den[j] = format.AddFtz(den[j], sum)
				}
			}
		}
		p, v := &w.pCode, &h.vCode
		if exact&P != 0 {
			p = &w.pExact
		}
		if exact&V != 0 {
			v = &h.vExact
		}
		for x := range bk {
			y := s[quant.Permute(x)]
			if exact&P != 0 {
				p.set(x, y, -126)
			} else {
				p.set(x, h.cfg.PVType.Decode(h.cfg.PVType.Encode(y)), minExp(h.cfg.PVType))
			}
		}
		for c := range d {
			h.accumulate(&w.o[c], rescale, p, v, c*h.stride+lo, exact)
		}
	}
	inv := rcp(format.AddFtz(format.AddFtz(den[0], den[1]), format.AddFtz(den[2], den[3])))
	for c := range d {
		x := float32(w.o[c])
		vScale := h.vScale[c]
		if exact&V != 0 {
			vScale = 1
		}
		x = format.MulFtz(x, inv)
		switch {
		case h.vMean != nil && exact&V == 0:
			x = format.FMAFtz(x, vScale, h.vMean[c])
		default:
			x = format.MulFtz(x, vScale)
		}
		if exact&Output == 0 {
			x = h.dtype.Round(x)
		}
		out[c] = x
	}
}

// score is S of a query and a key, before the softmax scale; without tail it is
// the integer product, whose scales are elsewhere.
func (h *head) score(i, key int, exact Steps, tail bool) float32 {
	d := h.d
	if exact&QK != 0 {
		q, k := h.q[i*d:i*d+d], h.k[key*d:key*d+d]
		var s float64
		for c, x := range q {
			s += float64(float64(x) * float64(k[c]))
		}
		return float32(s)
	}
	if key >= h.nk {
		return 0
	}
	q, k := h.qCodes[i*d:i*d+d], h.kCodes[key*d:key*d+d]
	var s int32
	for c, x := range q {
		s += int32(x) * int32(k[c])
	}
	if !tail {
		return float32(s)
	}
	g := h.cfg.QKGranularity
	dequant := format.MulFtz(h.qScales[g.QueryGroup(h.tiling, i)], h.kScales[g.KeyGroup(h.tiling, key)])
	if h.delta != nil {
		return format.FMAFtz(float32(s), dequant, h.delta[i/h.tiling.BlockQ*h.nk+key])
	}
	return format.MulFtz(float32(s), dequant)
}

// accumulate rescales one output element and adds a tile's P~V.
func (h *head) accumulate(o *float64, rescale float32, p, v *operand, at int, exact Steps) {
	n := h.tiling.BlockK
	pv, vv := p.val[:n], v.val[at:at+n]
	if exact&Accumulator != 0 || h.unit == nil {
		// Exact: FP64, and the tile's products all at once. Integers are exact too,
		// as long as both operands are codes.
		var s float64
		for j, x := range pv {
			s += float64(x * vv[j])
		}
		if exact&Accumulator != 0 {
			*o = float64(*o*float64(rescale)) + s
		} else {
			*o = float64(format.FMAFtz(float32(*o), rescale, float32(s)))
		}
		return
	}
	pe, ve := p.exp[:n], v.exp[at:at+n]
	if h.cfg.PVAccum == emulate.AccumTwoLevel || h.cfg.PVAccum == emulate.AccumFP16 {
		var acc float32
		for lo := 0; lo < n; lo += h.unit.K {
			acc = dot(h.unit, acc, pv[lo:], vv[lo:], pe[lo:], ve[lo:])
		}
		*o = float64(format.FMAFtz(float32(*o), rescale, acc))
		return
	}
	acc := format.MulFtz(float32(*o), rescale)
	for lo := 0; lo < n; lo += h.unit.K {
		acc = dot(h.unit, acc, pv[lo:], vv[lo:], pe[lo:], ve[lo:])
	}
	*o = float64(acc)
}

// dot is tensorcore.Unit.Dot for operands of any precision: the same alignment,
// truncation and output rule on FP64 values whose exponents are given. The product
// of two FP32 values is exact in FP64.
func dot(u *tensorcore.Unit, c float32, a, b []float64, ae, be []int32) float32 {
	acc := c
	if u.SeparateAdd {
		acc = 0
	}
	for _, step := range u.Steps {
		top := exponent(u, acc)
		for _, k := range step {
			top = max(top, ae[k]+be[k])
		}
		switch {
		case top < noExp/2:
			acc = 0
		case u.FractionBits == tensorcore.Exact:
			s := float64(acc)
			for _, k := range step {
				s += float64(a[k] * b[k])
			}
			acc = finish(u, s)
		default:
			scale := math.Ldexp(1, u.FractionBits-int(top))
			sum := math.Trunc(float64(acc) * scale)
			for _, k := range step {
				sum += math.Trunc(a[k] * b[k] * scale)
			}
			acc = finish(u, sum/scale)
		}
	}
	if u.SeparateAdd {
		acc += c
		if u.C == tensorcore.FP16 {
			acc = format.RoundFP16(acc)
		}
	}
	return acc
}

// exponent is the one that the accumulator is aligned by.
func exponent(u *tensorcore.Unit, c float32) int32 {
	b := math.Float32bits(c) & 0x7fff_ffff
	switch {
	case b == 0:
		return noExp
	case u.C == tensorcore.FP16:
		return max(int32(b>>23)-127, -14)
	}
	return max(int32(b>>23)-127, -126)
}

// finish applies the output rule to a sum that FP64 holds exactly (or nearly so,
// for the ideal unit).
func finish(u *tensorcore.Unit, s float64) float32 {
	b := math.Float64bits(s)
	switch u.Out {
	case tensorcore.FP32Zero:
		return float32(math.Float64frombits(b &^ (1<<29 - 1)))
	case tensorcore.FP22Zero:
		return float32(math.Float64frombits(b &^ (1<<39 - 1)))
	case tensorcore.FP16Nearest:
		odd := b &^ (1<<29 - 1)
		if odd != b {
			odd |= 1 << 29
		}
		return format.RoundFP16(float32(math.Float64frombits(odd)))
	}
	return float32(s)
}
