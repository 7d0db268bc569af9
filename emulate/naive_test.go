package emulate

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/mufu"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/emulate/tensorcore"
)

// naive reads a description a second time, from its documentation and as simply as it
// can: a row and a channel at a time, tensorcore.Unit.Dot for every product, nothing
// shared, nothing kept, nothing of the interpreter's. It knows a good part of the choices
// (see knows), and numbers that are finite.
type naive struct {
	p  program.Program
	h  *call
	sm float64
	// frameworkMean is PyTorch's mean of K, whose order of sums is quant's to know.
	frameworkMean []float32
}

// knows says whether naive can read a description.
func knows(p *program.Program) bool {
	exact := p.QKCodes.Format == "exact" || p.VCodes.Format == "exact" || p.P.Format == "exact" || p.PV.Unit.Instruction == "exact"
	scores := p.Bits() == 0 && p.Scores.Unit.Instruction == "exact"
	return !exact && !scores && p.QKCodes.Scale != "descale" && p.VCodes.Scale != "descale" && p.Smoothing.V == "none" && p.P.Round == "even" && p.VCodes.Round == "even" &&
		(p.QKCodes.Scale == "none" || p.QKCodes.Round == map[string]string{"paper": "even", "triton": "away", "triton-block": "away", "fused": "even"}[p.QKCodes.Scale]) &&
		p.Finish.Inverse != "exact" && p.Exponent.Exp2 != "exact" && p.Operands.Output == "input" && p.Tiles.Split == "none" &&
		p.VCodes.Beyond == "zeros" && p.Denominator.Order != "tile-tree" && p.PV.Join != "memory" && p.Mask.Additive != "with-scale" && p.Mask.Hidden == "run" && p.Scores.Softcap == "none"
}

func (n *naive) flush(x float32) float32 {
	if n.p.Operands.Subnormals == "flush" && math.Abs(float64(x)) < 0x1p-126 {
		return float32(math.Copysign(0, float64(x)))
	}
	return x
}

func (n *naive) mul(x, y float32) float32 { return n.flush(float32(n.flush(x) * n.flush(y))) }
func (n *naive) add(x, y float32) float32 { return n.flush(n.flush(x) + n.flush(y)) }
func (n *naive) fma(x, y, z float32) float32 {
	if n.p.Operands.Subnormals == "flush" {
		return format.FMAFtz(x, y, z)
	}
	return format.FMA(x, y, z)
}

func (n *naive) mulAdd(x, y, z float32, round string) float32 {
	if round == "fma" {
		return n.fma(x, y, z)
	}
	return n.add(n.mul(x, y), z)
}

func (n *naive) ex2(x float32) float32 {
	if n.p.Exponent.Exp2 == "ex2.approx" && x < -126 {
		half := mufu.Ex2(x / 2)
		return half * half
	}
	return mufu.Ex2(x)
}

// dots runs a chain of products through a unit, from acc on; a and b are values.
func dots(u *tensorcore.Unit, acc float32, a, b []float32) float32 {
	code := func(o tensorcore.Operand, x float32) uint32 {
		switch o {
		case tensorcore.E4M3:
			return uint32(format.E4M3FromFloat32(x))
		case tensorcore.E5M2:
			return uint32(format.E5M2FromFloat32(x))
		case tensorcore.FP16:
			return uint32(format.FP16FromFloat32(x))
		case tensorcore.BF16:
			return uint32(format.BF16FromFloat32(x))
		}
		return math.Float32bits(x)
	}
	c := code(u.C, acc)
	for i := 0; i < len(a); i += u.K {
		x, y := make([]uint32, u.K), make([]uint32, u.K)
		for j := range x {
			x[j], y[j] = code(u.A, a[i+j]), code(u.A, b[i+j])
		}
		c = u.Dot(c, x, y)
	}
	if u.C == tensorcore.FP16 {
		return format.FP16ToFloat32(uint16(c))
	}
	return math.Float32frombits(c)
}

// rounded is a value in the format of P and V.
func rounded(f string, x float32) float32 {
	switch f {
	case "e4m3":
		return format.E4M3FromFloat32(x).Float32()
	case "e5m2":
		return format.E5M2FromFloat32(x).Float32()
	case "int8":
		return float32(min(max(math.RoundToEven(float64(x)), -127), 127))
	case "bf16":
		return format.RoundBF16(x)
	}
	return format.RoundFP16(x)
}

func amax(x []float32) (top float32) {
	for _, v := range x {
		top = max(top, float32(math.Abs(float64(v))))
	}
	return top
}

// mean is the mean of a channel, rounded to FP32.
func mean(x []float32, d, c int) float32 {
	s := 0.0
	for i := c; i < len(x); i += d {
		s += float64(x[i])
	}
	return float32(s / float64(len(x)/d))
}

// scale returns the scale of codes whose largest magnitude is top, and the code of x.
func (n *naive) scale(top float32) (step float32, code func(x float32) float32) {
	most := float32(127)
	low := float64(-128)
	if n.p.Bits() == 4 {
		most, low = 7, -7
	}
	nearest := func(y float32) float32 {
		return float32(min(max(math.RoundToEven(float64(y)), low), float64(most)))
	}
	switch n.p.QKCodes.Scale {
	case "paper":
		step = top / most
		return step, func(x float32) float32 {
			if step == 0 {
				return 0
			}
			return nearest(x / step)
		}
	case "fused":
		top = max(top, 1e-7)
		inverse := mufu.DivApprox(most, top)
		return format.MulFtz(top, 1/most), func(x float32) float32 { return nearest(format.MulFtz(x, inverse)) }
	}
	step = top * (1 / most)
	if n.p.QKCodes.Scale == "triton" {
		step = format.FMAFtz(top, 1/most, 1e-7)
	}
	return step, func(x float32) float32 {
		y := mufu.DivFull(x, step)
		y += float32(math.Copysign(0.5, float64(y)))
		return float32(math.Trunc(float64(y)))
	}
}

// sameScale says whether two rows of Q, or of K, share a scale.
func (n *naive) sameScale(a, b int, keys bool) bool {
	s := n.p.Tiles.Shapes[0]
	tile, warp := s.Rows, s.WarpRows
	if keys {
		tile, warp = s.Keys, s.Keys
	}
	switch n.p.QKCodes.Granularity {
	case "per-tensor":
		return true
	case "per-block":
		return a/tile == b/tile
	case "per-warp":
		return a/warp == b/warp
	case "per-thread":
		if keys {
			return a/tile == b/tile && a%8/2 == b%8/2
		}
		return a/warp == b/warp && a%8 == b%8
	}
	return a == b
}

// codes returns the scale of row i among all rows of x, and the row's codes.
func (n *naive) codes(x []float32, d, i int, keys bool) (float32, []float32) {
	var top float32
	for r := range len(x) / d {
		if n.sameScale(i, r, keys) {
			top = max(top, amax(x[r*d:r*d+d]))
		}
	}
	step, code := n.scale(top)
	out := make([]float32, d)
	if i*d < len(x) {
		for c := range out {
			out[c] = code(x[i*d+c])
		}
	}
	return step, out
}

// smoothedK is K less its mean, as the program rounds it.
func (n *naive) smoothedK() []float32 {
	x, d := slices.Clone(n.h.k), n.h.d
	if n.p.Smoothing.K == "none" {
		return x
	}
	for c := range d {
		m := mean(n.h.k, d, c)
		if n.p.Smoothing.K != "mean" {
			m = n.frameworkMean[c]
		}
		if n.p.Smoothing.KMean == "input" {
			m = n.h.dtype.Round(m)
		}
		for i := c; i < len(x); i += d {
			switch n.p.Smoothing.KDifference {
			case "input":
				x[i] = n.h.dtype.Round(x[i] - m)
			case "fp32":
				x[i] -= m
			default:
				x[i] = format.SubFtz(x[i], m)
			}
		}
	}
	return x
}

// row is a row of the output.
func (n *naive) row(i int) []float32 {
	p, h, d := &n.p, n.h, n.h.d
	shape := p.Tiles.Shapes[0]
	block := i / shape.Rows
	lo := block * shape.Rows

	// Q, smoothed and multiplied by the scale, and its codes.
	product := n.mul(float32(n.sm), math.Log2E)
	switch p.Scores.Product {
	case "fp64":
		product = float32(float64(float32(n.sm)) * math.Log2E)
	case "fp64-1.44269504":
		product = float32(n.sm * 1.44269504)
	}
	q, qMean := slices.Clone(h.q), make([]float32, d)
	for b := 0; b < h.nq; b += shape.Rows {
		rows := q[b*d : min(b+shape.Rows, h.nq)*d]
		for c := range d {
			if p.Smoothing.Q != "none" {
				m := mean(rows, d, c)
				for j := c; j < len(rows); j += d {
					rows[j] -= m
				}
				if b == lo {
					qMean[c] = m
				}
			}
		}
	}
	if p.QKCodes.Fold != "none" {
		for j := range q {
			q[j] = n.mul(q[j], product)
		}
	}
	k := n.smoothedK()
	qScale, qRow := float32(1), q[i*d:i*d+d]
	if p.Bits() > 0 {
		qScale, qRow = n.codes(q, d, i, false)
	}
	scale := product
	if p.Scores.SMScale != "exponent" {
		scale = 1
	}

	// The tiles that the block looks at.
	align := 0
	if p.Mask.Causal != "top-left" {
		align = h.nk - h.nq
	}
	end, first := h.nk, 0
	if h.in.Causal {
		end = min(end, lo+shape.Rows+align)
		if p.Mask.Tiles == "shifted" {
			end = min(h.nk, lo+shape.Rows+align+p.Mask.Shift)
		}
	}
	if h.in.Windowed && h.in.Right >= 0 {
		end = min(end, lo+shape.Rows+align+h.in.Right)
	}
	if h.in.Windowed && h.in.Left >= 0 {
		first = max(0, (lo+align-h.in.Left)/shape.Keys)
	}
	last := max(first, (end+shape.Keys-1)/shape.Keys)

	m, den, o := float32(p.Maximum.Start), [4]float32{}, make([]float32, d)
	for th := range den {
		den[th] = float32(p.Denominator.Start)
	}
	for x := range last - first {
		t := first + x
		if p.Tiles.Order == "last-to-first" {
			t = last - 1 - x
		}
		tail := p.Scores.TailTiles == program.All || p.Smoothing.Q != "none" || t >= last-int(p.Scores.TailTiles)
		s, scales := n.scores(k, qRow, qMean, qScale, scale, i, t*shape.Keys, tail)
		n.masks(s, i, t*shape.Keys, align, tail)
		m = n.tile(s, scales, m, &den, o, t*shape.Keys, x == 0)
	}
	return n.finish(den, o)
}

// scores are the scores of a row with a tile, before the mask, and what each is multiplied
// by in the exponent.
func (n *naive) scores(k, q, qMean []float32, qScale, scale float32, i, lo int, tail bool) (s, scales []float32) {
	p, h, d := &n.p, n.h, n.h.d
	s, scales = make([]float32, p.Tiles.Shapes[0].Keys), make([]float32, p.Tiles.Shapes[0].Keys)
	for x := range s {
		j := lo + x
		scales[x] = scale
		if p.Bits() > 0 {
			var kScale float32
			var kRow []float32
			if j < h.nk || p.QKCodes.Granularity != "per-token" {
				kScale, kRow = n.codes(k, d, j, true)
			} else {
				kRow = make([]float32, d)
			}
			var sum int64
			for c := range d {
				sum += int64(q[c]) * int64(kRow[c])
			}
			if tail || p.QKCodes.Granularity == "per-token" {
				if hidden := n.hidden(i, j); hidden && p.Mask.Boolean == "add" {
					s[x] = n.fma(float32(sum), n.mul(qScale, kScale), float32(p.Mask.BooleanValue))
				} else if h.in.Visible != nil && p.Mask.Boolean == "add" && p.Smoothing.DeltaS == "none" {
					s[x] = n.fma(float32(sum), n.mul(qScale, kScale), 0)
				} else if p.Smoothing.DeltaS == "none" {
					s[x] = n.mul(float32(sum), n.mul(qScale, kScale))
				} else {
					var delta float32
					for c := 0; c < d && j < h.nk; c++ {
						key := k[j*d+c]
						if p.Smoothing.DeltaS == "raw" {
							key = h.k[j*d+c]
						}
						delta = n.fma(qMean[c], key, delta)
					}
					s[x] = n.fma(float32(sum), n.mul(qScale, kScale), delta)
				}
			} else {
				s[x], scales[x] = float32(sum), n.mul(scale, n.mul(qScale, kScale))
			}
		} else if j < h.nk {
			u, _ := p.Scores.Unit.Lookup(p.Arch)
			a, b := slices.Clone(q), slices.Clone(k[j*d:j*d+d])
			if short := d % 32; p.Scores.HeadDim == "residual32" && short > 0 {
				a, b = slices.Insert(a, short, make([]float32, 32-short)...), slices.Insert(b, short, make([]float32, 32-short)...)
			}
			for len(a)%u.K != 0 {
				a, b = append(a, 0), append(b, 0)
			}
			s[x] = dots(u, 0, a, b)
		}
	}
	return s, scales
}

// masks adds and applies what hides keys from row i.
func (n *naive) masks(s []float32, i, lo, align int, tail bool) {
	p, h := &n.p, n.h
	for x := range s {
		j := lo + x
		if p.Scores.SMScale == "scores" {
			s[x] = n.mul(float32(n.sm), s[x])
		}
		if additive := p.Mask.Boolean == "additive" && h.in.Visible != nil; (h.in.Bias != nil || additive) && j < h.nk {
			var bias [1]float32
			if h.in.Bias != nil {
				h.in.Bias(i, j, j+1, bias[:])
			}
			if additive && n.hidden(i, j) {
				bias[0] = float32(math.Inf(-1))
			}
			s[x] = n.add(s[x], bias[0])
		}
		if p.Scores.SMScale == "scores" {
			s[x] = n.mul(math.Log2E, s[x])
		}
		if p.Mask.Tiles == "tail" && !tail {
			continue
		}
		at := i + align
		left := h.in.Windowed && h.in.Left >= 0 && j < at-h.in.Left
		right := h.in.Windowed && h.in.Right >= 0 && !h.in.Causal && j > at+h.in.Right
		causal := h.in.Causal && j > at+p.Mask.Shift
		if rows := p.Tiles.Shapes[0].Rows; p.Mask.Causal == "bottom-right-unsigned" && i-i%rows+align < 0 {
			causal = h.in.Causal && j >= i-i%rows+rows+align
		}
		beyond := j >= h.nk
		switch {
		case beyond && p.Mask.Beyond == "added" && !h.in.Causal:
			if left {
				s[x] = float32(p.Mask.Value)
			}
			s[x] = n.add(s[x], float32(p.Mask.BeyondValue))
		case left, right, causal, beyond && p.Mask.Beyond != "kept":
			s[x] = float32(p.Mask.Value)
		}
		if n.hidden(i, j) {
			switch {
			case p.Mask.Boolean == "additive": // added
			case p.Mask.Boolean == "add" && p.Bits() > 0: // joined with the scale
			case p.Mask.Boolean == "add":
				s[x] = n.add(s[x], float32(p.Mask.BooleanValue))
			default:
				s[x] = float32(p.Mask.Value)
			}
		}
	}
}

// hidden says whether a boolean mask hides key j from row i.
func (n *naive) hidden(i, j int) bool {
	if n.h.in.Visible == nil || j >= n.h.nk {
		return false
	}
	var see [1]bool
	n.h.in.Visible(i, j, j+1, see[:])
	return !see[0]
}

// tile is the online softmax and the second product of a tile whose first key is lo; it
// returns the new maximum.
func (n *naive) tile(s, scales []float32, old float32, den *[4]float32, o []float32, lo int, first bool) float32 {
	p := &n.p
	offset := float32(p.Exponent.Offset)
	m := old
	for x := range s {
		y := max(s[x], float32(p.Maximum.Start))
		if p.Maximum.Of == "shifted" {
			y = n.mulAdd(y, scales[x], -offset, p.Maximum.Round)
		}
		m = max(m, y)
	}
	seen := m
	if p.Maximum.Unseen == "zero" && math.IsInf(float64(m), -1) {
		seen = 0
	}
	alpha := n.add(old, -seen)
	if p.Maximum.Of == "scores" {
		alpha = n.mul(alpha, scales[0])
	}
	if alpha = n.ex2(alpha); first && p.Maximum.Of == "scores" {
		alpha = 1 // there is nothing to rescale
	}
	w := make([]float32, len(s))
	for x := range s {
		lower := seen
		if p.Maximum.Of == "scores" {
			if lower = n.mul(seen, scales[x]); offset != 0 {
				lower = n.mulAdd(seen, scales[x], -offset, p.Maximum.Round)
			}
			if seen != m {
				lower = 0
			}
		}
		w[x] = n.ex2(n.mulAdd(s[x], scales[x], -lower, p.Exponent.Round))
	}
	codes := make([]float32, len(w))
	for x := range w {
		codes[x] = rounded(p.P.Format, w[x])
	}
	n.denominator(w, codes, alpha, den)
	if p.PV.Rescale == "none" {
		alpha = 1
	}
	n.values(codes, alpha, o, lo)
	return m
}

func (n *naive) denominator(w, codes []float32, alpha float32, den *[4]float32) {
	d := &n.p.Denominator
	if d.Rescale == "none" {
		alpha = 1
	}
	if d.Of == "codes" {
		w = codes
	}
	of := func(th, lo, hi int) (sum float32) { // of a thread's keys, one after the other
		for x := lo; x < hi; x++ {
			if x%8/2 == th {
				if sum = n.add(sum, w[x]); x == lo+2*th {
					sum = w[x]
				}
			}
		}
		return sum
	}
	all := func(lo, hi int) float32 {
		if d.Combine == "02+13" {
			return n.add(n.add(of(0, lo, hi), of(2, lo, hi)), n.add(of(1, lo, hi), of(3, lo, hi)))
		}
		return n.add(n.add(of(0, lo, hi), of(1, lo, hi)), n.add(of(2, lo, hi), of(3, lo, hi)))
	}
	round := "fma"
	if d.Rescale != "fma" {
		round = "twice"
	}
	switch d.Order {
	case "tile":
		den[0] = n.mulAdd(den[0], alpha, all(0, len(w)), round)
	case "groups32":
		den[0] = n.mul(den[0], alpha)
		for lo := 0; lo < len(w); lo += 32 {
			den[0] = n.add(den[0], all(lo, min(lo+32, len(w))))
		}
	case "chain":
		u, _ := program.Unit{Instruction: d.Unit, SumRound: "unit"}.Lookup(n.p.Arch)
		one := make([]float32, len(codes))
		for x := range one {
			one[x] = 1
		}
		stored := make([]float32, len(codes))
		for x := range codes {
			stored[x] = codes[n.stored(x)]
		}
		den[0] = dots(u, n.mul(den[0], alpha), stored, one)
	default:
		for th := range den {
			if d.Order == "sequential" {
				den[th] = n.mulAdd(den[th], alpha, w[2*th], round)
				for x := range w {
					if x%8/2 == th && x != 2*th {
						den[th] = n.add(den[th], w[x])
					}
				}
				continue
			}
			for b := 0; b < len(w); b += 16 {
				x := b + 2*th
				sum := w[x] + w[x+1] + w[x+8] + w[x+9]
				if d.Order == "pairwise16" {
					sum = (w[x] + w[x+1]) + (w[x+8] + w[x+9])
				}
				if b == 0 {
					den[th] = n.mulAdd(den[th], alpha, sum, round)
				} else {
					den[th] = n.add(den[th], sum)
				}
			}
		}
	}
}

// stored is the key at position x of the operands.
func (n *naive) stored(x int) int {
	if n.p.VCodes.Order == "natural" {
		return x
	}
	return x/16*16 + []int{0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15}[x%16]
}

// vScale is the scale of a channel of V, and the inverse that the fused quantiser uses.
func (n *naive) vScale(c int) (scale, inverse float32) {
	var top float32
	for i := c; i < len(n.h.v); i += n.h.d {
		top = max(top, amax(n.h.v[i:i+1]))
	}
	most := float32(n.p.VCodes.Max)
	switch n.p.VCodes.Scale {
	case "paper":
		return top / most, 0
	case "fused":
		return mufu.DivApprox(top, most), mufu.DivApprox(most, top)
	}
	return 1, 1
}

// value is key j of channel c of V as an operand.
func (n *naive) value(j, c int) float32 {
	var x float32 // beyond the end
	if j < n.h.nk {
		x = n.h.v[j*n.h.d+c]
	}
	scale, inverse := n.vScale(c)
	switch n.p.VCodes.Scale {
	case "paper":
		if x /= scale; scale == 0 {
			x = 0
		}
	case "fused":
		x = format.MulFtz(x, inverse)
	}
	return rounded(n.p.VCodes.Format, x)
}

// values adds a tile's product to the output.
func (n *naive) values(codes []float32, alpha float32, o []float32, lo int) {
	p := &n.p
	u, _ := p.PV.Unit.Lookup(p.Arch)
	level := len(codes)
	if p.PV.Level > 0 {
		level = int(p.PV.Level)
	}
	for c := range o {
		factor := alpha // of the first sum alone
		for b := 0; b < len(codes); b += level {
			a, v := make([]float32, level), make([]float32, level)
			for x := range a {
				key := n.stored(b + x)
				a[x], v[x] = codes[key], n.value(lo+key, c)
			}
			switch {
			case p.PV.Level == program.AllKeys:
				switch p.PV.Rescale {
				case "fp32":
					o[c] = n.mul(o[c], factor)
				case "fp16":
					o[c] = format.RoundFP16(o[c] * format.RoundFP16(factor))
				}
				o[c] = dots(u, o[c], a, v)
				continue
			case u.Integer():
				var sum int64
				for x := range a {
					sum += int64(a[x]) * int64(v[x])
				}
				o[c] = n.mulAdd(o[c], factor, float32(sum), p.PV.Join)
			default:
				o[c] = n.mulAdd(o[c], factor, dots(u, 0, a, v), p.PV.Join)
			}
			factor = 1
		}
	}
}

func (n *naive) finish(den [4]float32, o []float32) []float32 {
	p := &n.p
	d := den[0]
	switch p.Denominator.Order {
	case "groups16", "pairwise16", "sequential":
		if d = n.add(n.add(den[0], den[1]), n.add(den[2], den[3])); p.Denominator.Combine == "02+13" {
			d = n.add(n.add(den[0], den[2]), n.add(den[1], den[3]))
		}
	}
	empty := d == 0 || d != d
	out := make([]float32, len(o))
	for c, x := range o {
		scale, _ := n.vScale(c)
		switch {
		case strings.HasPrefix(p.Finish.Inverse, "div"):
			by := d
			if empty && p.Finish.Empty == "one" {
				by = 1
			}
			if x = mufu.DivFull(x, by); p.Finish.Inverse == "divide" {
				x = n.flush(n.flush(o[c]) / n.flush(by))
			}
		default:
			inverse := mufu.Rcp(d)
			if empty && p.Finish.Empty != "divide" {
				inverse = map[string]float32{"one": 1, "zero": 0}[p.Finish.Empty]
			}
			if p.Finish.Scale == "inverse" {
				inverse = n.mul(inverse, scale)
			}
			x = n.mul(x, inverse)
		}
		if p.Finish.Scale == "output" {
			x = n.mul(x, scale)
		}
		if p.Finish.First == "fp16" {
			x = format.RoundFP16(x)
		}
		switch p.Finish.Round {
		case "even":
			x = n.h.dtype.Round(x)
		case "zero":
			x = n.h.dtype.RoundTowardZero(x)
		}
		out[c] = x
	}
	return out
}

// readTwice holds the interpreter to a second reading of an invented description. It says
// which units the description has, "" where naive cannot read it.
func readTwice(t *testing.T, seed uint64) string {
	r := rand.New(rand.NewPCG(seed, 13))
	p := randomProgram(r, 10)
	for try := 0; !knows(&p) && try < 8; try++ {
		p = randomProgram(r, 10)
	}
	k, err := NewAt(p, Levels()[0])
	if err != nil {
		t.Fatal(err)
	}
	h, err := randomCall(r, k, &p)
	if err != nil || h.nk > 1000 || !tame(h) {
		return ""
	}
	if k, err = k.For(h.d, h.dtype, h.in.Causal); err != nil {
		t.Fatal(err)
	}
	q := k.Bound()
	if !knows(&q) {
		return ""
	}
	kv, err := k.Prepare(h.kIn)
	if err != nil {
		t.Fatal(err)
	}
	got := h.run(t, k, kv)
	second := &naive{p: q, h: h, sm: h.in.Scale, frameworkMean: kv.KeyMean()}
	if second.sm == 0 {
		second.sm = 1 / math.Sqrt(float64(h.d))
	}
	for _, i := range []int{0, h.nq / 2, h.nq - 1} {
		a := result{out: got.out[i*h.d : (i+1)*h.d]}
		if d := a.differs(&result{out: second.row(i)}); d != "" {
			t.Fatalf("seed %d: %s: %d queries, %d keys of %d %s, causal %v, window %v: row %d: %s", seed, describe(&q), h.nq, h.nk, h.d, h.dtype, h.in.Causal, h.in.Windowed, i, d)
		}
	}
	return q.QKCodes.Format + " and " + q.VCodes.Format
}

// TestSecondReader holds the interpreter to a second reading of the same descriptions.
func TestSecondReader(t *testing.T) {
	read, units := 0, map[string]int{}
	n := uint64(300)
	if testing.Short() {
		n = 40
	}
	for seed := range n {
		if u := readTwice(t, seed); u != "" {
			read++
			units[u]++
		}
	}
	t.Logf("%d of %d descriptions read twice: %v", read, n, units)
	if read < int(n)/4 || !testing.Short() && len(units) < 8 {
		t.Errorf("only %d of %d descriptions were read: %v", read, n, units)
	}
}

// FuzzSecondReader is TestSecondReader for any seed.
func FuzzSecondReader(f *testing.F) {
	f.Add(uint64(1 << 40))
	f.Fuzz(func(t *testing.T, seed uint64) { readTwice(t, seed) })
}

// tame says that a call's numbers are finite and of ordinary size.
func tame(h *call) bool {
	for _, x := range [][]float32{h.q, h.k, h.v} {
		for _, v := range x {
			if a := math.Abs(float64(v)); !(a < 1e3) || a != 0 && a < 1e-9 {
				return false
			}
		}
	}
	return true
}
