package program

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/sageacc/sageacc/emulate/quant"
	"github.com/sageacc/sageacc/emulate/tensorcore"
)

// MaxHeadDim is the largest head_dim that a program may have.
const MaxHeadDim = 512

// MaxTile is the largest number of rows, and of keys, of a tile.
const MaxTile = 512

// dtypes are the dtypes of operands.
var dtypes = []string{"fp16", "bf16", "fp32", "e4m3"}

// Validate reports a description that cannot run, in a line that names the choice.
func (p *Program) Validate() error {
	var err error
	bad := func(path, format string, args ...any) {
		if err == nil {
			for i, a := range args {
				if s, ok := a.(string); ok {
					args[i] = short(s)
				}
			}
			err = fmt.Errorf("%s: %s", path, fmt.Sprintf(format, args...))
		}
	}
	p.walk(func(at string, f *field, v reflect.Value) {
		if f.kind == reflect.String {
			if e := f.check(v.String()); e != nil {
				bad(join(at, f.path), "%v", e)
			}
		}
	})
	if p.Schema != Schema {
		bad("schema", "%q: want %s", p.Schema, Schema)
	}
	if p.Name == "" || strings.ContainsAny(p.Name, " ,\t\r\n") {
		bad("name", "%q: want a name without spaces and commas", p.Name)
	}
	if !slices.Contains(tensorcore.Archs(), p.Arch) {
		bad("arch", "unknown architecture %q (have %s)", p.Arch, strings.Join(tensorcore.Archs(), ", "))
	}
	for _, d := range p.DTypeList() {
		if !slices.Contains(dtypes, d) {
			bad("operands.dtypes", "unknown dtype %q (have %s)", d, strings.Join(dtypes, ", "))
		}
	}
	if n := p.Operands.MaxHeadDim; n < 1 || n > MaxHeadDim {
		bad("operands.max_head_dim", "%d: want 1 to %d", n, MaxHeadDim)
	}
	p.validateCodes(bad)
	p.validateTiles(bad)
	p.validateSoftmax(bad)
	p.validateTogether(bad)
	if err != nil {
		return err
	}
	p.validateUnits(bad)
	return err
}

// Plain says that V's operand is V itself, converted or not, without a scale.
func (v *VCodes) Plain() bool { return v.Format != "e4m3" && v.Format != "e5m2" && v.Format != "int8" }

type report func(path, format string, args ...any)

func (p *Program) validateCodes(bad report) {
	s, qk, v := &p.Smoothing, &p.QKCodes, &p.VCodes
	if s.Q == "none" && s.DeltaS != "none" {
		bad("smoothing.delta_s", "%s: the kernel does not smooth Q", s.DeltaS)
	}
	integer := qk.Format == "int8" || qk.Format == "int4"
	switch {
	case integer && (qk.Granularity == "none" || qk.Scale == "none" || qk.Scale == "descale" || qk.Round == "none"):
		bad("qk_codes", "%s codes need a granularity, a scale and a rounding", qk.Format)
	case !integer && qk.Format != "e4m3" && (qk.Granularity != "none" || qk.Scale != "none" || qk.Round != "none"):
		bad("qk_codes", "format %s has no scales: want granularity, scale and round none", qk.Format)
	case qk.Format == "e4m3" && (qk.Granularity != "per-tensor" || qk.Scale != "descale" || qk.Round != "even"):
		bad("qk_codes", "format e4m3 wants granularity per-tensor, scale descale and round even")
	case !integer && s.Q != "none":
		bad("smoothing.q", "format %s of qk_codes cannot be smoothed", qk.Format)
	case qk.Scale == "triton-block" && qk.Granularity != "per-block":
		bad("qk_codes.scale", "triton-block has granularity per-block")
	case !integer && qk.Rotate != "":
		bad("qk_codes.rotate", "%s: codes of the format %s are not rotated", qk.Rotate, qk.Format)
	case qk.Rotate != "" && s.Q != "none":
		bad("qk_codes.rotate", "%s: the correction of a smoothed Q knows no rotation", qk.Rotate)
	case qk.Scale == "reciprocal" && qk.Round != "even":
		bad("qk_codes.round", "%s: the reciprocal quantiser rounds to even", qk.Round)
	case s.K == "anchor" && s.KMean != "input":
		bad("smoothing.k_mean", "%s: an anchor is a key, in the dtype of K", s.KMean)
	}
	if (qk.Fold == "none") == (p.Scores.SMScale == "folded") {
		bad("qk_codes.fold", "%s: the softmax scale stands in scores.sm_scale %s", qk.Fold, p.Scores.SMScale)
	}
	plain := v.Plain()
	switch {
	case plain && v.Scale != "none":
		bad("v_codes.scale", "%s: %s V is not scaled", v.Scale, v.Format)
	case !plain && v.Scale == "none":
		bad("v_codes.scale", "%s V needs a scale", v.Format)
	case !plain && s.V == "input-mean":
		bad("smoothing.v", "input-mean: %s V is quantised; want mean or fused-mean", v.Format)
	case v.Scale == "descale" && v.Format != "e4m3":
		bad("v_codes.scale", "descale is for e4m3")
	case v.Scale == "reciprocal" && (v.Format != "int8" || s.V != "none" || v.Round != "even"):
		bad("v_codes.scale", "reciprocal is for int8 V that is not smoothed, rounded to even")
	case !plain && (v.Max <= 0 || math.IsInf(float64(v.Max), 0)):
		bad("v_codes.max", "%s: want a number above 0", v.Max)
	case plain && v.Max != 0:
		bad("v_codes.max", "%s V is not scaled: want 0", v.Format)
	case v.Format != "exact" && v.Round == "none":
		bad("v_codes.round", "%s V is rounded", v.Format)
	}
	if v.Cast != "" && plain {
		bad("v_codes.cast", "%s: %s V has no scale to be cast for", v.Cast, v.Format)
	}
	if v.Beyond != "zeros" && !plain {
		bad("v_codes.beyond", "%s: quantised V has zeros beyond the end", v.Beyond)
	}
	if p.P.Format != v.Format && p.P.Format != "exact" && v.Format != "exact" && (p.P.Format != "uint8" || v.Format != "int8") {
		bad("p.format", "%s: V's is %s, and a matrix unit takes two operands of one format", p.P.Format, v.Format)
	}
	if p.P.Scale != 0 {
		p.validatePScale(bad)
	}
	if p.P.Format != "exact" && p.P.Round == "none" {
		bad("p.round", "none: %s P is rounded", p.P.Format)
	}
	if (p.Finish.Scale == "none") != plain {
		bad("finish.scale", "%s: V's scale is %s", p.Finish.Scale, v.Scale)
	}
	if (p.Finish.Mean == "none") != (s.V == "none") {
		bad("finish.mean", "%s: smoothing.v is %s", p.Finish.Mean, s.V)
	}
	if p.Finish.Mean == "fma" && p.Finish.Scale == "inverse" {
		bad("finish.mean", "fma joins the scale of V with its mean: want finish.scale output")
	}
}

// validatePScale checks what goes with a scale of P.
func (p *Program) validatePScale(bad report) {
	x, f := float64(p.P.Scale), &p.Finish
	switch {
	case !(x >= minPScale && x <= maxPScale):
		bad("p.scale", "%s: want %v to %v", p.P.Scale, minPScale, maxPScale)
	case p.P.Format != "e4m3" && p.P.Format != "e5m2":
		bad("p.scale", "%s: P is %s; want e4m3 or e5m2", p.P.Scale, p.P.Format)
	case p.Denominator.Of != "p":
		bad("p.scale", "%s: denominator.of is %s, with the scale; want p", p.P.Scale, p.Denominator.Of)
	case f.Scale == "output", f.Inverse == "divide", f.Inverse == "div.full", p.PV.Join == "memory", p.Tiles.Split != "none":
		bad("p.scale", "%s: the inverse of d undoes it: want finish.scale inverse or none, finish.inverse rcp.approx.ftz or exact, another pv.join than memory, and tiles.split none", p.P.Scale)
	}
}

func (p *Program) validateTiles(bad report) {
	if len(p.Tiles.Shapes) == 0 {
		bad("tiles.shapes", "no shape")
		return
	}
	for i, s := range slices.Concat(p.Tiles.Shapes, p.Tiles.SplitShapes) {
		path := fmt.Sprintf("tiles.shapes.%d", i)
		if i >= len(p.Tiles.Shapes) {
			path = fmt.Sprintf("tiles.split_shapes.%d", i-len(p.Tiles.Shapes))
		}
		if s.Set != "" {
			p.validateSet(bad, path, s)
		}
		switch {
		case s.HeadDim < 0 || s.MaxQueries < 0 || s.MaxKeys < 0:
			bad(path, "head_dim, max_queries and max_keys are above 0")
		case s.Arch != "" && slices.ContainsFunc(list(s.Arch), func(a string) bool { return !slices.Contains(tensorcore.Archs(), a) }):
			bad(path+".arch", "%q: want architectures of %s", s.Arch, strings.Join(tensorcore.Archs(), ", "))
		case s.MaxHeadDim < 0:
			bad(path+".max_head_dim", "%d: want a number above 0", s.MaxHeadDim)
		case s.Rows < 1 || s.Rows > MaxTile:
			bad(path+".rows", "%d: want 1 to %d", s.Rows, MaxTile)
		case s.WarpRows < 8 || s.WarpRows%8 != 0 || s.Rows%s.WarpRows != 0:
			bad(path+".warp_rows", "%d: want a multiple of 8 that divides the %d rows", s.WarpRows, s.Rows)
		case s.Keys < 16 || s.Keys > MaxTile || s.Keys%16 != 0:
			bad(path+".keys", "%d: want a multiple of 16 up to %d", s.Keys, MaxTile)
		}
		if n := int(p.PV.Level); n > 0 && s.Keys > 0 && s.Keys%n != 0 {
			bad("pv.level", "%d does not divide the tile of %d keys", n, s.Keys)
		}
	}
	if n, err := strconv.Atoi(p.Tiles.Split); p.Tiles.Split != "none" && p.Tiles.Split != fa2Heuristic && (err != nil || n < 1 || n > maxSplit) {
		bad("tiles.split", "%q: want none, %s, or 1 to %d", p.Tiles.Split, fa2Heuristic, maxSplit)
	}
	if n := p.Tiles.SMs; n < 0 || n > 1<<16 || p.Tiles.Split == fa2Heuristic && n == 0 {
		bad("tiles.sms", "%d: want the number of multiprocessors of the GPU", n)
	}
	if p.Tiles.Split != "none" && p.Tiles.Combine == "" {
		bad("tiles.combine", "missing: want fa2 or fa3, whose way it is to split the keys into parts and to combine these")
	}
	if p.Tiles.Split != "none" && (p.Finish.Scale != "none" || p.Finish.Mean != "none" || p.PV.Join == "memory") {
		bad("tiles.split", "%s: parts are combined where V has no scale and no mean, and O does not live in memory", p.Tiles.Split)
	}
	if n := p.Mask.Shift; n < -maxShift || n > maxShift {
		bad("mask.shift", "%d: want at most %d", n, maxShift)
	}
	if n := p.Scores.TailTiles; n < All {
		bad("scores.tail_tiles", "%d: want a number of tiles or all", n)
	}
	if p.Mask.Tiles == "tail" && p.Tiles.Order != "first-to-last" {
		bad("mask.tiles", "tail: the tail tiles come last only with tiles.order first-to-last")
	}
	if x := float64(p.Mask.BeyondValue); x != x || p.Mask.Beyond == "added" && x > -1000 {
		bad("mask.beyond_value", "%s: want a number far below all scores", p.Mask.BeyondValue)
	}
	if x := float64(p.Mask.Value); x != x || x > -1000 {
		bad("mask.value", "%s: want a number far below all scores", p.Mask.Value)
	}
	if x := float64(p.Mask.BooleanValue); x != x || p.Mask.Boolean == "add" && x > -1000 {
		bad("mask.boolean_value", "%s: want a number far below all scores", p.Mask.BooleanValue)
	}
}

// validateSet checks what goes with a shape.
func (p *Program) validateSet(bad report, path string, s Shape) {
	q := *p
	q.Tiles.Shapes, q.Tiles.SplitShapes = []Shape{{Rows: s.Rows, WarpRows: s.WarpRows, Keys: s.Keys}}, nil
	for change := range strings.SplitSeq(s.Set, ",") {
		to, value, ok := strings.Cut(strings.TrimSpace(change), "=")
		if !ok || strings.HasPrefix(to, "tiles.") {
			bad(path+".set", "%q: want PATH=VALUE of another section", change)
		} else if err := q.Set(to, value); err != nil {
			bad(path+".set", "%v", err)
		}
	}
	if err := q.Validate(); err != nil {
		bad(path+".set", "%v", err)
	}
}

// Bounds of numbers.
const (
	maxShift  = 1 << 20
	maxOffset = 100
	maxSplit  = 128
	minPScale = 1e-6
	maxPScale = 1e6
)

func (p *Program) validateSoftmax(bad report) {
	if x := float64(p.Exponent.Offset); !(math.Abs(x) <= maxOffset) {
		bad("exponent.offset", "%s: want at most %d", p.Exponent.Offset, maxOffset)
	}
	if x := float64(p.Maximum.Start); x != x || x > -1000 {
		bad("maximum.start", "%s: want a number far below all scores", p.Maximum.Start)
	}
	if x := float64(p.Denominator.Start); x != 0 && x != 1 {
		bad("denominator.start", "%s: want 0 or 1", p.Denominator.Start)
	}
	if integer := p.Bits() != 0; p.Mask.Additive == "with-scale" && (!integer || p.Scores.TailTiles != All) ||
		p.Mask.Boolean == "add" && integer && p.Scores.TailTiles != All {
		bad("mask", "what is added with the scale needs integer scores and scores.tail_tiles all")
	}
	if p.LSE.Form == "base2-scaled" && p.Maximum.Of != "scores" {
		bad("log_sum_exp.form", "base2-scaled: the maximum is scaled already (maximum.of: %s)", p.Maximum.Of)
	}
	if p.Maximum.Of == "scores" && p.Scores.SMScale != "exponent" {
		bad("maximum.of", "scores: the softmax scale stands in the exponent")
	}
	if p.Maximum.Of == "scores" && p.perTokenScale() {
		bad("maximum.of", "scores: keys with scales of their own have no maximum before them; want shifted, or scores.tail_tiles all")
	}
	p.validateTileMaximum(bad)
	d := &p.Denominator
	if (d.Order == "chain" || d.Order == "groups32") && (d.Rescale == "fma" || d.Rescale == "multiply-but-last") {
		bad("denominator.rescale", "%s: with denominator.order %s d is rescaled by a product of its own", d.Rescale, d.Order)
	}
	if (d.Of == "ones") != (d.Order == "chain") || (d.Of == "ones") != (d.Unit != "none") {
		bad("denominator", "of ones, order chain and a unit go together")
	}
	one := p.OneChain()
	if n := p.PV.Level; n < AllKeys {
		bad("pv.level", "%d: want a number of keys, tile or all", n)
	}
	switch {
	case one != (p.PV.Join == "none"):
		bad("pv.join", "%s: pv.level is %s", p.PV.Join, text(reflect.ValueOf(p.PV.Level)))
	case p.PV.Join == "memory" && (p.PV.Level != WholeTile || p.Finish.Inverse != "exact" || p.Finish.Scale != "none" || p.Finish.Mean != "none" || p.Denominator.Of == "ones"):
		bad("pv.join", "memory: wants pv.level tile, finish.inverse exact, and no scale and mean of V")
	case p.PV.Rescale == "fp16" && !one:
		bad("pv.rescale", "fp16: a sum from zero joins an FP32 output")
	}
	p.validateListed(bad)
}

// validateListed checks what goes with a block map, and with what its kernels do.
func (p *Program) validateListed(bad report) {
	ordered := p.Tiles.Order == "first-to-last" && p.Tiles.Split == "none"
	switch t := p.PV.Threshold; {
	case p.Mask.BlockMap != "" && (!ordered || p.Mask.Hidden == "skip"):
		bad("mask.block_map", "%s: wants tiles.order first-to-last, tiles.split none and mask.hidden run", p.Mask.BlockMap)
	case p.PV.Join == "twice-but-last" && !ordered:
		bad("pv.join", "twice-but-last: wants tiles.order first-to-last and tiles.split none")
	case p.Maximum.Of == "scaled" && (p.Maximum.Round != "fma" || p.Maximum.Unseen != "itself"):
		bad("maximum.of", "scaled: wants maximum.round fma, as nothing joins the product, and maximum.unseen itself")
	case t == 0:
	case !(t > 0) || math.IsInf(float64(t), 0):
		bad("pv.threshold", "%s: want a number above 0, or none at all", t)
	case p.Maximum.Of != "scaled" || p.Bits() == 0 || p.QKCodes.Granularity == "per-token" || p.Scores.SMScale != "exponent":
		bad("pv.threshold", "%s: wants maximum.of scaled, integer codes with scales of threads or wider and scores.sm_scale exponent", t)
	case !ordered || p.Scores.Softcap != "none" || p.Mask.Boolean != "none" || p.Mask.Additive != "none" || p.Mask.Window != "no" || p.Mask.Causal != "none":
		bad("pv.threshold", "%s: wants tiles.order first-to-last, tiles.split none, no mask but a block map and no soft cap", t)
	case p.OneChain() || p.Denominator.Of == "ones" || p.PV.Join == "memory" || p.PV.Rescale != "fp32" || p.Denominator.Rescale == "none":
		bad("pv.threshold", "%s: wants sums from zero that join an O in registers, and d and O rescaled", t)
	}
}

// validateTileMaximum checks what goes with P relative to its tile's maximum, and what knows
// the last tile of a block.
func (p *Program) validateTileMaximum(bad report) {
	tile, d := p.TileMaximum(), &p.Denominator
	switch {
	case tile && (d.Order != "pairwise16" && d.Order != "groups16" || d.Rescale == "none"):
		bad("maximum.of", "%s: wants denominator.order pairwise16 or groups16, and a denominator that is rescaled", p.Maximum.Of)
	case tile && (p.Maximum.Unseen != "itself" || p.Exponent.Round != "fma" || p.PV.Rescale != "fp32"):
		bad("maximum.of", "%s: wants maximum.unseen itself, exponent.round fma and pv.rescale fp32", p.Maximum.Of)
	case tile && p.PV.Join != "factor" && (p.PV.Unit.Instruction != "exact" || !p.OneChain()):
		bad("pv.join", "%s: with maximum.of %s want factor, or exact sums of all keys", p.PV.Join, p.Maximum.Of)
	case !tile && p.PV.Join == "factor":
		bad("pv.join", "factor: only with maximum.of tile has a tile a factor")
	case (p.Maximum.Of == "tile-unbounded" || d.Of == "codes-but-last" || d.Rescale == "multiply-but-last") && (p.Tiles.Order != "first-to-last" || p.Tiles.Split != "none"):
		bad("tiles", "maximum.of tile-unbounded, denominator.of codes-but-last and denominator.rescale multiply-but-last want order first-to-last and split none")
	case d.Of == "codes-but-last" && d.Order == "chain":
		bad("denominator.of", "codes-but-last: a chain is of ones")
	case p.Scores.SMScale == "with-scale" && (p.Bits() == 0 || p.Scores.TailTiles != 0 || p.Smoothing.Q != "none" || p.QKCodes.Granularity == "per-token"):
		bad("scores.sm_scale", "with-scale: wants integer codes with scales of threads or wider, scores.tail_tiles 0 and smoothing.q none")
	case p.Mask.Additive == "log2e" && p.Scores.SMScale != "with-scale":
		bad("mask.additive", "log2e: wants scores.sm_scale with-scale, scores as the exponent takes them")
	case p.Finish.Empty == "hidden-zero" && (p.Mask.Tiles == "tail" || p.Mask.Beyond != "masked"):
		bad("finish.empty", "hidden-zero: wants every tile masked, and mask.beyond masked")
	case p.Mask.Causal == "none" && p.Mask.Tiles != "all":
		bad("mask.tiles", "%s: with mask.causal none want all", p.Mask.Tiles)
	}
}

// TileMaximum says that P is relative to the maximum of its own tile.
func (p *Program) TileMaximum() bool {
	return p.Maximum.Of == "tile" || p.Maximum.Of == "tile-unbounded"
}

// perTokenScale says that keys of a thread have different scales outside of tail
// tiles.
func (p *Program) perTokenScale() bool {
	g := p.QKCodes.Granularity
	return (g == "per-thread" || g == "per-token") && p.Scores.TailTiles != All
}

// operands are the formats that an operand format is for a unit.
var operands = map[string][]tensorcore.Operand{
	"int8": {tensorcore.S8}, "uint8": {tensorcore.U8}, "int4": {tensorcore.S4, tensorcore.S8},
	"e4m3": {tensorcore.E4M3}, "e5m2": {tensorcore.E5M2}, "fp16": {tensorcore.FP16}, "bf16": {tensorcore.BF16},
}

// validateUnits checks units against operands, for every dtype that is taken.
func (p *Program) validateUnits(bad report) {
	for _, d := range p.DTypeList() {
		q, err := p.At(Case{HeadDim: 1, DType: d})
		if err != nil && len(p.Tiles.Shapes) == 1 {
			bad("operands.dtypes", "%v", err)
			continue
		}
		for _, x := range []struct {
			path, operand string
			unit          Unit
		}{{"scores.unit", q.QKCodes.Format, q.Scores.Unit}, {"pv.unit", q.VCodes.Format, q.PV.Unit}} {
			if x.unit.FractionBits < 0 || x.unit.FractionBits > tensorcore.MaxFractionBits {
				bad(x.path+".fraction_bits", "%d: want 1 to %d", x.unit.FractionBits, tensorcore.MaxFractionBits)
			}
			if x.unit.Step < 0 {
				bad(x.path+".step", "%d: want a number above 0", x.unit.Step)
				continue
			}
			u, err := x.unit.Lookup(p.Arch)
			if err != nil {
				bad(x.path, "kernel %s cannot run on %s: %v", p.Name, p.Arch, err)
				continue
			}
			if u == nil {
				continue
			}
			takes := u.A
			if x.path == "pv.unit" {
				takes = u.B()
			}
			if x.operand != "exact" && !slices.Contains(operands[x.operand], takes) {
				bad(x.path+".instruction", "%s takes %s operands, not %s", u.Instruction, takes, x.operand)
			}
			integer := u.Integer()
			if integer && (x.unit.FractionBits != 0 || x.unit.Step != 0 || x.unit.SumRound != "unit") {
				bad(x.path, "an integer unit is exact: fraction_bits, step and sum_round are the unit's")
			}
			if x.path != "pv.unit" {
				if u.C == tensorcore.FP16 {
					bad(x.path, "scores are FP32 or integers, not FP16")
				}
				continue
			}
			if n := int(p.PV.Level); n > 0 && n%u.K != 0 {
				bad("pv.level", "%d is no multiple of the instruction's depth of %d", n, u.K)
			}
			half := u.C == tensorcore.FP16
			switch {
			case integer && p.OneChain():
				bad("pv.level", "all: integer sums join O in FP32")
			case half && p.OneChain() && p.PV.Rescale == "fp32":
				bad("pv.rescale", "fp32: an FP16 accumulator over all keys is rescaled in fp16, or has two levels")
			case !half && p.PV.Rescale == "fp16":
				bad("pv.rescale", "fp16: the accumulator is not FP16")
			}
		}
		p.validateOperands(&q, bad)
		if name := p.Denominator.Unit; name != "none" {
			if u, err := (Unit{Instruction: name, SumRound: "unit"}).Lookup(p.Arch); err != nil {
				bad("denominator.unit", "kernel %s cannot run on %s: %v", p.Name, p.Arch, err)
			} else if u == nil || u.C != tensorcore.FP32 || !slices.Contains(operands[q.P.Format], u.A) {
				bad("denominator.unit", "%s: want one of %s operands with an FP32 accumulator", name, q.P.Format)
			}
		}
		if p.P.Format == "exact" || p.VCodes.Format == "exact" {
			if u, err := q.PV.Unit.Lookup(p.Arch); err == nil && u != nil && u.Integer() {
				bad("pv.unit", "an integer unit takes no exact operands")
			}
		}
	}
	if g := p.QKCodes.Granularity; g != "none" {
		if _, err := quant.ParseGranularity(g); err != nil {
			bad("qk_codes.granularity", "%v", err)
		}
	}
}
