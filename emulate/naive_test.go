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
// shared, nothing kept but the codes of keys, nothing of the interpreter's. It knows a good part of the choices
// (see knows), and numbers that are finite.
type naive struct {
	p  program.Program
	h  *call
	sm float64
	// frameworkMean is PyTorch's mean of K, whose order of sums is quant's to know.
	frameworkMean []float32
	ofV           float32 // V's descale
	keys          map[int]keyCodes
	channels      map[int][2]float32
	turned        map[*float32][]float32 // rows, by their first element
}

// keyCodes are the scale and the codes of a key.
type keyCodes struct {
	scale float32
	row   []float32
}

// key is codes of key j, found once.
func (n *naive) key(k []float32, j int) (float32, []float32) {
	c, ok := n.keys[j]
	if !ok {
		if n.keys == nil {
			n.keys = map[int]keyCodes{}
		}
		c.scale, c.row = n.codes(k, n.h.d, j, true)
		n.keys[j] = c
	}
	return c.scale, c.row
}

// knows says whether naive can read a description.
func knows(p *program.Program) bool {
	exact := p.QKCodes.Format == "exact" || p.VCodes.Format == "exact" || p.P.Format == "exact" || p.PV.Unit.Instruction == "exact"
	scores := p.Bits() == 0 && p.Scores.Unit.Instruction == "exact"
	return !exact && !scores && p.Smoothing.V == "none" && p.P.Round == "even" && p.VCodes.Round == "even" &&
		(p.Bits() == 0 || p.QKCodes.Round == map[string]string{"paper": "even", "triton": "away", "triton-block": "away", "fused": "even", "reciprocal": "even"}[p.QKCodes.Scale]) &&
		p.Finish.Inverse != "exact" && p.Exponent.Exp2 != "exact" && p.Tiles.Split == "none" &&
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
		return float32(min(max(math.RoundToEven(float64(x)), -128), 127))
	case "uint8":
		return float32(min(max(math.RoundToEven(float64(x)), 0), 255))
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

// descale is the scale of the E4M3 codes of numbers up to top.
func (n *naive) descale(top float32) float32 {
	if n.p.Operands.Descale == "head" {
		return max(top/448, 1e-6)
	}
	if top == 0 {
		return 1
	}
	return top / 448
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
	case "reciprocal":
		step = format.FMAFtz(top, 1/most, 1e-7)
		return step, func(x float32) float32 { return nearest(format.MulFtz(x, mufu.Rcp(step))) }
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
			top = max(top, amax(n.rotated(x[r*d:r*d+d])))
		}
	}
	step, code := n.scale(top)
	if i*d >= len(x) {
		return step, n.rotated(make([]float32, d))
	}
	out := n.rotated(x[i*d : i*d+d])
	for c := range out {
		out[c] = code(out[c])
	}
	return step, out
}

// rotated is rotate of a row, found once. The caller owns what it returns.
func (n *naive) rotated(x []float32) []float32 {
	y, ok := n.turned[&x[0]]
	if !ok {
		if n.turned == nil {
			n.turned = map[*float32][]float32{}
		}
		y = n.rotate(x)
		n.turned[&x[0]] = y
	}
	return slices.Clone(y)
}

// rotate is a row as it is quantised: each group of channels recursively, the two halves of a
// group apart and then their sums and differences.
func (n *naive) rotate(x []float32) []float32 {
	name, signed := strings.CutSuffix(n.p.QKCodes.Rotate, "-signed")
	group := map[string]int{"h4": 4, "h64": 64, "h128": 128}[name]
	out := slices.Clone(x)
	if group == 0 {
		return out
	}
	for len(out)%group != 0 {
		out = append(out, 0)
	}
	// The signs of the source as bits, the first channel of 32 the lowest.
	words := []uint32{0x1035997b, 0x8087f5ee, 0xee2e4e1a, 0x71132418}
	var hadamard func(y []float32) []float32
	hadamard = func(y []float32) []float32 {
		if len(y) == 1 {
			return y
		}
		a, b := hadamard(y[:len(y)/2]), hadamard(y[len(y)/2:])
		sum, difference := make([]float32, len(a)), make([]float32, len(a))
		for i := range a {
			sum[i], difference[i] = format.AddFtz(a[i], b[i]), format.AddFtz(a[i], -b[i])
		}
		both := append(sum, difference...)
		if len(both) == 4 {
			for i := range both {
				both[i] = format.MulFtz(both[i], 0.5)
			}
		}
		return both
	}
	for lo := 0; lo < len(out); lo += group {
		y := slices.Clone(out[lo : lo+group])
		for c := range y {
			if signed && words[c/32]&(1<<(c%32)) == 0 {
				y[c] *= -1
			}
		}
		y = hadamard(y)
		for c := range y {
			switch group {
			case 64:
				y[c] = format.MulFtz(y[c], 1./4)
			case 128:
				y[c] = format.MulFtz(y[c], float32(1/math.Sqrt(32)))
			}
		}
		copy(out[lo:], y)
	}
	return out
}

// anchor is the key that is subtracted from K, nil for none: nine keys are sampled.
func (n *naive) anchor() []float32 {
	d := n.h.d
	var keys [9][]float32
	for s := range keys {
		at := (n.h.nk - 1) * s / 8
		keys[s] = n.h.k[at*d : at*d+d]
	}
	// Sums of the terms of each channel, as 128 threads and their shuffles add them.
	sum := func(term func(c int, acc float32) float32) float32 {
		var warps [4]float32
		for w := range warps {
			var tree func(lane, width int) float32
			tree = func(lane, width int) float32 {
				if width == 32 {
					var acc float32
					for c := 32*w + lane; c < d; c += 128 {
						acc = term(c, acc)
					}
					return acc
				}
				return format.AddFtz(tree(lane, 2*width), tree(lane+width, 2*width))
			}
			warps[w] = tree(0, 1)
		}
		return format.AddFtz(format.AddFtz(format.AddFtz(warps[0], warps[1]), warps[2]), warps[3])
	}
	best, least := 0, float32(math.Inf(1))
	for s := range keys {
		distance := sum(func(c int, acc float32) float32 {
			var total float32
			for _, k := range keys {
				total = format.AddFtz(total, k[c])
			}
			x := format.FMAFtz(9, keys[s][c], -total)
			return format.FMAFtz(x, x, acc)
		})
		if distance < least {
			best, least = s, distance
		}
	}
	energy := func(less []float32) (e, top float32) {
		e = sum(func(c int, acc float32) float32 {
			for _, k := range keys {
				x := format.AddFtz(k[c], -less[c])
				top = max(top, float32(math.Abs(float64(x))))
				acc = format.FMAFtz(x, x, acc)
			}
			return acc
		})
		return e, top
	}
	before, topBefore := energy(make([]float32, d))
	after, top := energy(keys[best])
	if after < before && top <= format.MulFtz(topBefore, 1.125) {
		return keys[best]
	}
	return nil
}

// smoothedK is K less its mean, as the program rounds it.
func (n *naive) smoothedK() []float32 {
	x, d := slices.Clone(n.h.k), n.h.d
	if n.p.Smoothing.K == "none" {
		return x
	}
	anchor := n.anchor()
	if n.p.Smoothing.K == "anchor" && anchor == nil {
		return x
	}
	for c := range d {
		m := mean(n.h.k, d, c)
		switch n.p.Smoothing.K {
		case "anchor":
			m = anchor[c]
		case "mean":
		default:
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
	n.ofV = n.descale(amax(h.v))
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
	if p.Scores.SMScale == "folded" || p.Scores.SMScale == "scores" {
		scale = 1
	}
	if p.QKCodes.Scale == "descale" {
		ofQ, ofK := n.descale(amax(q)), n.descale(amax(h.k))
		qRow = slices.Clone(qRow)
		for j := range qRow {
			qRow[j] = rounded("e4m3", qRow[j]/ofQ)
		}
		for j := range k {
			k[j] = rounded("e4m3", k[j]/ofK)
		}
		both := n.mul(ofQ, ofK)
		if scale = n.mul(scale, both); p.Scores.Product == "fp64-descale" {
			scale = n.flush(float32(n.sm * float64(both) * float64(float32(math.Log2E))))
		}
	}

	// The tiles that the block looks at.
	align := 0
	if p.Mask.Causal != "top-left" && p.Mask.Causal != "none" {
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
	tiles := n.tiles(block, first, last)
	passed := make([]bool, len(tiles))
	if p.PV.Threshold != 0 {
		passed = n.passed(k, q, scale, lo, tiles)
	}
	for x, t := range tiles {
		latest := t == last-1
		if h.in.Listed != nil {
			latest = x == len(tiles)-1
		}
		tail := p.Scores.TailTiles == program.All || p.Smoothing.Q != "none" || t >= last-int(p.Scores.TailTiles)
		if h.in.Listed != nil && p.Smoothing.Q == "none" && p.Scores.TailTiles != program.All {
			tail = x >= len(tiles)-int(p.Scores.TailTiles)
		}
		if passed[x] && !tail {
			continue // the maximum has not grown: nothing is rescaled
		}
		s, scales := n.scores(k, qRow, qMean, qScale, scale, i, t*shape.Keys, tail)
		n.masks(s, i, t*shape.Keys, align, tail)
		m = n.tile(s, scales, m, &den, o, t*shape.Keys, x == 0, latest)
	}
	sees := false
	for j := first * shape.Keys; j < min(h.nk, last*shape.Keys); j++ {
		sees = sees || !n.hidden(i, j) && !n.outside(i, j, align)
	}
	return n.finish(den, o, sees)
}

// tiles are those that a block runs, in their order.
func (n *naive) tiles(block, first, last int) (out []int) {
	for t := first; t < last; t++ {
		in := [1]bool{true}
		if n.h.in.Listed != nil {
			n.h.in.Listed(block, t, t+1, in[:])
		}
		if in[0] {
			out = append(out, t)
		}
	}
	if n.p.Tiles.Order == "last-to-first" {
		slices.Reverse(out)
	}
	return out
}

// passed says which tiles the threshold passes over in the block whose first row is lo: those in
// which no row comes near its largest score of the tiles before. Rows behind the last have
// scores of zero.
func (n *naive) passed(k, q []float32, scale float32, lo int, tiles []int) []bool {
	d, shape := n.h.d, n.p.Tiles.Shapes[0]
	largest := make([]float32, shape.Rows)
	for r := range largest {
		largest[r] = float32(n.p.Maximum.Start)
	}
	out := make([]bool, len(tiles))
	for x, t := range tiles {
		out[x] = true
		for r := range largest {
			i := min(lo+r, n.h.nq-1)
			step, row := n.codes(q, d, i, false)
			if lo+r >= n.h.nq {
				row = make([]float32, len(row))
			}
			s, scales := n.scores(k, row, nil, step, scale, i, t*shape.Keys, false)
			top := float32(math.Inf(-1))
			for y := range s {
				top = max(top, n.mul(s[y], scales[y]))
			}
			if n.add(n.add(top, -largest[r]), float32(n.p.PV.Threshold)) > 0 {
				out[x] = false
			}
			largest[r] = max(largest[r], top)
		}
	}
	return out
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
				kScale, kRow = n.key(k, j)
			} else {
				kRow = make([]float32, d)
			}
			var sum int64
			if kRow == nil || j >= h.nk {
				kRow = make([]float32, len(q))
			}
			for c := range q {
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
				if p.Scores.SMScale == "with-scale" {
					s[x], scales[x] = n.mul(s[x], scales[x]), 1
				}
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
			if p.Mask.Additive == "log2e" {
				bias[0] = n.mul(bias[0], math.Log2E)
			}
			s[x] = n.add(s[x], bias[0])
		}
		if p.Scores.SMScale == "scores" {
			s[x] = n.mul(math.Log2E, s[x])
		}
		if p.Mask.Tiles == "tail" && !tail {
			continue
		}
		left, beyond := n.leftOf(i, j, align), j >= h.nk
		switch {
		case beyond && p.Mask.Beyond == "added" && !h.in.Causal:
			if left {
				s[x] = float32(p.Mask.Value)
			}
			s[x] = n.add(s[x], float32(p.Mask.BeyondValue))
		case n.outside(i, j, align), beyond && p.Mask.Beyond != "kept":
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

// leftOf says whether key j lies before row i's window.
func (n *naive) leftOf(i, j, align int) bool {
	return n.h.in.Windowed && n.h.in.Left >= 0 && j < i+align-n.h.in.Left
}

// outside says whether a causal mask or a window hides key j from row i.
func (n *naive) outside(i, j, align int) bool {
	p, h, at := &n.p, n.h, i+align
	right := h.in.Windowed && h.in.Right >= 0 && !h.in.Causal && j > at+h.in.Right
	causal := h.in.Causal && j > at+p.Mask.Shift
	if rows := p.Tiles.Shapes[0].Rows; p.Mask.Causal == "bottom-right-unsigned" && i-i%rows+align < 0 {
		causal = h.in.Causal && j >= i-i%rows+rows+align
	}
	return n.leftOf(i, j, align) || right || causal
}

// hidden says whether a boolean mask hides key j from row i, or an additive one that is not
// finite and hides like it.
func (n *naive) hidden(i, j int) bool {
	if n.h.in.Bias != nil && n.p.Mask.Additive == "log2e" && j < n.h.nk {
		var bias [1]float32
		if n.h.in.Bias(i, j, j+1, bias[:]); math.IsInf(float64(bias[0]), 0) || bias[0] != bias[0] {
			return true
		}
	}
	if n.h.in.Visible == nil || j >= n.h.nk {
		return false
	}
	var see [1]bool
	n.h.in.Visible(i, j, j+1, see[:])
	return !see[0]
}

// tile is the online softmax and the second product of a tile whose first key is lo; it
// returns the new maximum.
func (n *naive) tile(s, scales []float32, old float32, den *[4]float32, o []float32, lo int, first, last bool) float32 {
	p := &n.p
	offset := float32(p.Exponent.Offset)
	m := old
	byTile := strings.HasPrefix(p.Maximum.Of, "tile")
	if byTile {
		m = float32(math.Inf(-1)) // of this tile
	}
	for x := range s {
		y := max(s[x], float32(p.Maximum.Start))
		if p.Maximum.Of == "tile-unbounded" && !last {
			y = s[x]
		}
		if p.Maximum.Of == "scaled" {
			y = n.mul(y, scales[x])
		} else if p.Maximum.Of != "scores" {
			y = n.mulAdd(y, scales[x], -offset, p.Maximum.Round)
		}
		m = max(m, y)
	}
	seen := m
	if p.Maximum.Unseen == "zero" && math.IsInf(float64(m), -1) {
		seen = 0
	}
	lowest := float32(-math.MaxFloat32)
	if p.Maximum.Unseen == "lowest" {
		seen = max(seen, lowest)
	}
	alpha := n.add(old, -seen)
	if p.Maximum.Of == "scores" {
		alpha = n.mul(alpha, scales[0])
	}
	if alpha = n.ex2(alpha); first && p.Maximum.Of == "scores" {
		alpha = 1 // there is nothing to rescale
	}
	factor := float32(1)
	if byTile {
		alpha = 1
		if m > old {
			alpha = n.ex2(n.add(old, -m))
		} else if m < old {
			factor = n.ex2(n.add(m, -old))
		}
	}
	w := make([]float32, len(s))
	for x := range s {
		lower := seen
		if p.Maximum.Of == "scaled" {
			lower = n.add(seen, -offset)
		}
		if p.Maximum.Of == "scores" {
			if lower = n.mul(seen, scales[x]); offset != 0 {
				lower = n.mulAdd(seen, scales[x], -offset, p.Maximum.Round)
			}
			if seen != m && p.Maximum.Unseen == "zero" {
				lower = 0
			}
			if p.Maximum.Unseen == "lowest" {
				if lower = n.mul(m, scales[x]); offset != 0 {
					lower = n.mulAdd(m, scales[x], -offset, p.Maximum.Round)
				}
				if !(lower >= lowest) {
					lower = lowest
				}
			}
		}
		w[x] = n.ex2(n.mulAdd(s[x], scales[x], -lower, p.Exponent.Round))
	}
	codes := make([]float32, len(w))
	for x := range w {
		if y := w[x]; p.P.Scale != 0 {
			codes[x] = rounded(p.P.Format, n.mul(y, float32(p.P.Scale)))
		} else {
			codes[x] = rounded(p.P.Format, y)
		}
	}
	n.denominator(w, codes, alpha, factor, den, last)
	if p.PV.Rescale == "none" {
		alpha = 1
	}
	n.values(codes, alpha, factor, o, lo, last)
	return max(m, old)
}

func (n *naive) denominator(w, codes []float32, alpha, factor float32, den *[4]float32, last bool) {
	d := &n.p.Denominator
	if d.Rescale == "none" {
		alpha = 1
	}
	if d.Of == "codes" || d.Of == "codes-but-last" && !last {
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
	if d.Rescale == "multiply" || d.Rescale == "none" || d.Rescale == "multiply-but-last" && !last {
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
				switch {
				case strings.HasPrefix(n.p.Maximum.Of, "tile"):
					switch {
					case b > 0:
						den[th] = n.fma(factor, sum, den[th])
					case round == "fma":
						den[th] = n.fma(alpha, den[th], n.mul(factor, sum))
					default:
						den[th] = n.fma(factor, sum, n.mul(den[th], alpha))
					}
				case b == 0:
					den[th] = n.mulAdd(den[th], alpha, sum, round)
				default:
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

// cast is an element of V as it is quantised.
func (n *naive) cast(x float32) float32 {
	if n.p.VCodes.Cast != "" {
		return format.RoundFP16(x)
	}
	return x
}

// vScale is findVScale of channel c, found once.
func (n *naive) vScale(c int) (scale, inverse float32) {
	x, ok := n.channels[c]
	if !ok {
		if n.channels == nil {
			n.channels = map[int][2]float32{}
		}
		x[0], x[1] = n.findVScale(c)
		n.channels[c] = x
	}
	return x[0], x[1]
}

// findVScale is the scale of a channel of V, and the inverse that the fused quantiser uses.
func (n *naive) findVScale(c int) (scale, inverse float32) {
	var top float32
	for i := c; i < len(n.h.v); i += n.h.d {
		top = max(top, float32(math.Abs(float64(n.cast(n.h.v[i])))))
	}
	most := float32(n.p.VCodes.Max)
	switch n.p.VCodes.Scale {
	case "descale":
		return n.ofV, 0
	case "paper":
		return top / most, 0
	case "fused":
		return mufu.DivApprox(top, most), mufu.DivApprox(most, top)
	case "reciprocal":
		scale = max(float32(top*(1/most)), 1e-12)
		return scale, mufu.Rcp(scale)
	}
	return 1, 1
}

// value is key j of channel c of V as an operand.
func (n *naive) value(j, c int) float32 {
	var x float32 // beyond the end
	if j < n.h.nk {
		x = n.cast(n.h.v[j*n.h.d+c])
	}
	scale, inverse := n.vScale(c)
	switch n.p.VCodes.Scale {
	case "descale":
		x /= scale
	case "paper":
		if x /= scale; scale == 0 {
			x = 0
		}
	case "fused", "reciprocal":
		x = format.MulFtz(x, inverse)
	}
	return rounded(n.p.VCodes.Format, x)
}

// values adds a tile's product to the output.
func (n *naive) values(codes []float32, alpha, tileFactor float32, o []float32, lo int, last bool) {
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
				o[c] = n.join(o[c], factor, float32(sum), tileFactor, last)
			default:
				o[c] = n.join(o[c], factor, dots(u, 0, a, v), tileFactor, last)
			}
			factor = 1
		}
	}
}

// join is O after a sum from zero has joined it.
func (n *naive) join(o, alpha, sum, factor float32, last bool) float32 {
	if n.p.PV.Join == "factor" {
		return n.fma(sum, factor, n.mul(o, alpha))
	}
	if n.p.PV.Join == "twice-but-last" && last {
		return n.fma(o, alpha, sum)
	}
	return n.mulAdd(o, alpha, sum, n.p.PV.Join)
}

func (n *naive) finish(den [4]float32, o []float32, sees bool) []float32 {
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
	to := n.h.dtype
	if named, ok := map[string]format.DType{"fp16": format.FP16, "bf16": format.BF16, "fp32": format.FP32}[p.Operands.Output]; ok {
		to = named
	}
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
			if empty && (p.Finish.Empty == "one" || p.Finish.Empty == "zero") {
				inverse = map[string]float32{"one": 1, "zero": 0}[p.Finish.Empty]
			}
			if p.P.Scale != 0 {
				scale = format.MulFtz(scale, mufu.Rcp(float32(p.P.Scale)))
			}
			if p.Finish.Scale == "inverse" || p.P.Scale != 0 {
				inverse = n.mul(inverse, scale)
			}
			x = n.mul(x, inverse)
		}
		if p.Finish.Empty == "hidden-zero" && !sees {
			x = 0
		}
		if p.Finish.Scale == "output" {
			x = n.mul(x, scale)
		}
		if p.Finish.First == "fp32-as-bf16" && to == format.FP32 {
			x = format.RoundBF16(x)
		}
		if p.Finish.First == "fp16" {
			x = format.RoundFP16(x)
		}
		switch p.Finish.Round {
		case "even":
			x = to.Round(x)
		case "zero":
			x = to.RoundTowardZero(x)
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
	if k, err = h.bind(k); err != nil {
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

// agree holds a call to be the same at every level and, in the given rows, to the second
// reading. It returns what the portable code gives, and its kernel.
func agree(t *testing.T, p program.Program, h *call, what string, rows ...int) (result, *Kernel, *KV) {
	t.Helper()
	got, k, kv := runCall(t, p, Levels()[0], h)
	for _, level := range Levels()[1:] {
		other, _, _ := runCall(t, p, level, h)
		if diff := got.differs(&other); diff != "" {
			t.Errorf("%s: level %s: %s", what, level, diff)
		}
	}
	second := &naive{p: k.Bound(), h: h, sm: 1 / math.Sqrt(float64(h.d)), frameworkMean: kv.KeyMean()}
	for _, i := range rows {
		a := result{out: got.out[i*h.d : (i+1)*h.d]}
		if diff := a.differs(&result{out: second.row(i)}); diff != "" {
			t.Errorf("%s: row %d: %s", what, i, diff)
		}
	}
	return got, k, kv
}

// bindAt returns the kernel of a program for a call at a level.
func (h *call) bindAt(t *testing.T, p program.Program, level Level) *Kernel {
	t.Helper()
	k, err := NewAt(p, level)
	if err == nil {
		k, err = h.bind(k)
	}
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// runCall runs a call by a program at a level.
func runCall(t *testing.T, p program.Program, level Level, h *call) (result, *Kernel, *KV) {
	t.Helper()
	k := h.bindAt(t, p, level)
	if err := k.Supports(h.in); err != nil {
		t.Fatal(err)
	}
	kv, err := k.Prepare(h.kIn)
	if err != nil {
		t.Fatal(err)
	}
	return h.run(t, k, kv), k, kv
}
