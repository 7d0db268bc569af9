package emulate

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/sageacc/sageacc/emulate/quant"
	"github.com/sageacc/sageacc/emulate/tensorcore"
)

// Variant holds deviations from a program: what kernels do that are built from
// the same design but not with the same constants, roundings or order, be it on
// purpose or by mistake. Its zero value is the program as it is. Each field has a
// key in the text form, which String, ParseVariant and [Knobs] list.
type Variant struct {
	// POffset, key p-offset, replaces what P~'s exponent is lowered by so that P~
	// fills its format: 8.807 for E4M3. Kernels take log2(448), 8 or nothing
	// ("none": P~ in [0, 1]), or keep E4M3's for another format.
	POffset Number
	// PRound, key p-round=zero, converts P~ to its format toward zero instead of to
	// nearest even, saturating likewise: a conversion by cutting off bits.
	PRoundZero bool
	// CodeRound, key code-round, is the rounding of the codes of Q and K. The
	// paper's and the CUDA quantisers round ties to even, Triton's away from zero,
	// and a cast in C truncates.
	CodeRound quant.CodeRounding
	// VMax, key v-max, is what the largest magnitude of a channel of V is scaled
	// to; 0 stands for the program's, the format's largest value (2.25 for the FP16
	// accumulator). Kernels leave headroom, or take another format's.
	VMax float32
	// VRoundZero, key v-round=zero, converts V to its codes toward zero.
	VRoundZero bool
	// ExactExp2, key exp2=exact, is 2^x correctly rounded and flushed below 2^-126
	// instead of the special function unit's: a library's exp2f. It acts on P~ and
	// on the rescaling factors.
	ExactExp2 bool
	// Rcp, key rcp, is how the output is divided by d at the end: by a product with
	// 1/d correctly rounded (exact), or by an IEEE division of every element (divide),
	// as it is without fast math.
	Rcp Reciprocal
	// SplitMax, SplitExponent, SplitDenominator and SplitOutput, keys fma-max,
	// fma-exp, fma-d and fma-o with the value none, compute rowmax*scale - offset,
	// s*scale - m, d*alpha + sum and O*alpha + tile with a rounded product and a
	// rounded sum: kernels built without contraction.
	SplitMax, SplitExponent, SplitDenominator, SplitOutput bool
	// DenominatorOfCodes, key d-sum=codes, sums P~ after its conversion instead of
	// before. Then the weights of a row add up to one.
	DenominatorOfCodes bool
	// PairwiseDenominator, key d-order=pairwise, adds a thread's four P~ of 16 keys
	// as (p0+p1)+(p8+p9) instead of ((p0+p1)+p8)+p9: loops written otherwise, or
	// packed additions.
	PairwiseDenominator bool
	// LevelKeys, key level-keys, lets the second level of accumulation take over
	// after so many keys, which divide the tile: each group's sum, from zero in the
	// unit, joins O on its own, the first with the rescaling of O. 0 stands for the
	// whole tile.
	LevelKeys int
	// FractionBits, Step and SumRound, keys fraction-bits, step and sum-round, are
	// parameters of the matrix unit of P~V: the fraction bits that a fused dot-add
	// keeps, how many consecutive k it takes, and how its sum is rounded. They are
	// for hardware that is not in the table of units, and for software that
	// promises another accumulator than it has.
	FractionBits, Step int
	SumRound           SumRounding
	// CausalShift, key causal-shift, masks key j for query i where j > i + shift: a
	// mask that is off by one. A row that sees no key is what the program makes of
	// scores that are all masked. It acts where the mask is applied, in the
	// tiles that the program would look at.
	CausalShift int
	// NoKeyMask, key key-mask=none, does not mask the keys between the end and the
	// end of its tile: they take part in the softmax with scores of zero. A kernel
	// that was tried with round lengths only.
	NoKeyMask bool
	// DeltaS, key delta-s, is the correction of a smoothed Q: none at all, or made
	// of K before K was smoothed (raw), which is the same but for rounding.
	DeltaS DeltaS
	// KeepDenominator and KeepOutput, keys rescale-d=none and rescale-o=none, do not
	// multiply the old d or O by alpha when the row's maximum grows: the step of the
	// online softmax that is forgotten most easily.
	KeepDenominator, KeepOutput bool
	// DequantizeAll, key tail=all, multiplies the scores by the dequantisation scale
	// before masking in every tile, not only in the last ones.
	DequantizeAll bool
	// OutputZero, key out-round=zero, rounds the output toward zero.
	OutputZero bool
}

// Number is a number that may be absent.
type Number struct {
	Set   bool
	Value float32
}

// SumRounding is how a fused dot-add of the matrix unit rounds its sum.
type SumRounding uint8

// Roundings of sums.
const (
	// UnitRounding is the unit's own.
	UnitRounding SumRounding = iota
	SumFP22Zero
	SumFP22Nearest
	SumFP32Zero
	SumFP32Nearest
	// SumFP16Nearest also makes the accumulator FP16.
	SumFP16Nearest
)

// output returns the rule of package tensorcore.
func (r SumRounding) output() tensorcore.Output {
	return [...]tensorcore.Output{
		SumFP22Zero: tensorcore.FP22Zero, SumFP22Nearest: tensorcore.FP22Nearest,
		SumFP32Zero: tensorcore.FP32Zero, SumFP32Nearest: tensorcore.FP32Nearest,
		SumFP16Nearest: tensorcore.FP16Nearest,
	}[r]
}

// Reciprocal is how the output is divided by the denominator.
type Reciprocal uint8

// Reciprocals.
const (
	// UnitRcp is a product with the special function unit's reciprocal.
	UnitRcp Reciprocal = iota
	ExactRcp
	Division
)

// DeltaS is how the scores of a smoothed Q are corrected.
type DeltaS uint8

// Corrections.
const (
	// DeltaSmoothed is the program's: the products with the smoothed K.
	DeltaSmoothed DeltaS = iota
	DeltaNone
	DeltaRaw
)

// Knob describes a key of the text form of a Variant.
type Knob struct {
	Key string `json:"key"`
	// Values are what it may be, as "a|b"; X stands for a number, N for an integer.
	Values string `json:"values"`
	// Summary says in a few words what changes.
	Summary string `json:"summary"`
}

// knob is a key of the text form. get returns "" for what the program does.
type knob struct {
	Knob
	get func(v *Variant) string
	set func(v *Variant, value string) error
}

// asProgram is the value of any key that undoes it.
const asProgram = "default"

// choice is a knob whose field is one of some values; the first is "".
func choice[T ~uint8](key, summary string, field func(*Variant) *T, names ...string) knob {
	return knob{
		Knob: Knob{key, strings.Join(names, "|"), summary},
		get: func(v *Variant) string {
			switch i := int(*field(v)); {
			case i == 0:
				return ""
			case i <= len(names):
				return names[i-1]
			default:
				return strconv.Itoa(i) // which set refuses
			}
		},
		set: func(v *Variant, value string) error {
			i := slices.Index(names, value)
			if i < 0 {
				return fmt.Errorf("want %s", strings.Join(names, ", "))
			}
			*field(v) = T(i + 1)
			return nil
		},
	}
}

// toggle is a knob with one value beside the program's.
func toggle(key, name, summary string, field func(*Variant) *bool) knob {
	return knob{
		Knob: Knob{key, name, summary},
		get: func(v *Variant) string {
			if *field(v) {
				return name
			}
			return ""
		},
		set: func(v *Variant, value string) error {
			if value != name {
				return fmt.Errorf("want %s", name)
			}
			*field(v) = true
			return nil
		},
	}
}

// integer is a knob with a number in [lo, hi] beside 0, which is the program's.
func integer(key, summary string, lo, hi int, field func(*Variant) *int) knob {
	return knob{
		Knob: Knob{key, "N", summary},
		get: func(v *Variant) string {
			if *field(v) != 0 {
				return strconv.Itoa(*field(v))
			}
			return ""
		},
		set: func(v *Variant, value string) error {
			n, err := strconv.Atoi(value)
			if err != nil || n < lo || n > hi || n == 0 {
				return fmt.Errorf("want an integer from %d to %d other than 0", lo, hi)
			}
			*field(v) = n
			return nil
		},
	}
}

func parseNumber(s string) (float32, error) {
	x, err := strconv.ParseFloat(s, 32)
	if err != nil || x-x != 0 {
		return 0, fmt.Errorf("want a number")
	}
	return float32(x), nil
}

func formatNumber(x float32) string { return strconv.FormatFloat(float64(x), 'g', -1, 32) }

// The bounds of numeric knobs.
const (
	maxPOffset     = 100
	maxCausalShift = 1 << 20
	maxLevelKeys   = 128
	maxStep        = 32
)

// knobs lists all keys, in the order of the program.
var knobs = []knob{
	choice("code-round", "rounding of the codes of Q and K", func(v *Variant) *quant.CodeRounding { return &v.CodeRound }, "even", "away", "zero"),
	{
		Knob: Knob{"v-max", "X", "what V's channel maximum is scaled to"},
		get: func(v *Variant) string {
			if v.VMax == 0 {
				return ""
			}
			return formatNumber(v.VMax)
		},
		set: func(v *Variant, value string) (err error) {
			if v.VMax, err = parseNumber(value); err == nil && v.VMax <= 0 {
				err = fmt.Errorf("want a number above 0")
			}
			return err
		},
	},
	toggle("v-round", "zero", "V to its codes toward zero", func(v *Variant) *bool { return &v.VRoundZero }),
	choice("delta-s", "no correction of a smoothed Q, or with the raw K", func(v *Variant) *DeltaS { return &v.DeltaS }, "none", "raw"),
	toggle("tail", "all", "every tile dequantised before the softmax", func(v *Variant) *bool { return &v.DequantizeAll }),
	integer("causal-shift", "key j is masked for query i where j > i + N", -maxCausalShift, maxCausalShift, func(v *Variant) *int { return &v.CausalShift }),
	toggle("key-mask", "none", "keys beyond the end are not masked", func(v *Variant) *bool { return &v.NoKeyMask }),
	{
		Knob: Knob{"p-offset", "X|none", "what P~'s exponent is lowered by"},
		get: func(v *Variant) string {
			switch {
			case !v.POffset.Set:
				return ""
			case v.POffset.Value == 0:
				return "none"
			}
			return formatNumber(v.POffset.Value)
		},
		set: func(v *Variant, value string) error {
			if value == "none" {
				value = "0"
			}
			x, err := parseNumber(value)
			if err == nil && math.Abs(float64(x)) > maxPOffset {
				err = fmt.Errorf("want at most %d", maxPOffset)
			}
			// Of the two zeros there is one.
			v.POffset = Number{true, x + 0}
			return err
		},
	},
	toggle("fma-max", "none", "rowmax*scale - offset in two roundings", func(v *Variant) *bool { return &v.SplitMax }),
	toggle("fma-exp", "none", "score*scale - maximum in two roundings", func(v *Variant) *bool { return &v.SplitExponent }),
	toggle("exp2", "exact", "exp2 correctly rounded", func(v *Variant) *bool { return &v.ExactExp2 }),
	toggle("p-round", "zero", "P~ to its format toward zero", func(v *Variant) *bool { return &v.PRoundZero }),
	toggle("d-sum", "codes", "the denominator sums P~ after its conversion", func(v *Variant) *bool { return &v.DenominatorOfCodes }),
	toggle("d-order", "pairwise", "the denominator sums (p0+p1)+(p8+p9)", func(v *Variant) *bool { return &v.PairwiseDenominator }),
	toggle("fma-d", "none", "d*alpha + sum in two roundings", func(v *Variant) *bool { return &v.SplitDenominator }),
	toggle("rescale-d", "none", "d is not rescaled when the maximum grows", func(v *Variant) *bool { return &v.KeepDenominator }),
	integer("fraction-bits", "fraction bits that PV's dot-add keeps", 1, tensorcore.MaxFractionBits, func(v *Variant) *int { return &v.FractionBits }),
	integer("step", "consecutive k that PV's dot-add takes", 1, maxStep, func(v *Variant) *int { return &v.Step }),
	choice("sum-round", "rounding of PV's sums", func(v *Variant) *SumRounding { return &v.SumRound },
		"fp22-zero", "fp22-nearest", "fp32-zero", "fp32-nearest", "fp16-nearest"),
	integer("level-keys", "the second level takes over after N keys", 1, maxLevelKeys, func(v *Variant) *int { return &v.LevelKeys }),
	toggle("fma-o", "none", "O*alpha + tile in two roundings", func(v *Variant) *bool { return &v.SplitOutput }),
	toggle("rescale-o", "none", "O is not rescaled when the maximum grows", func(v *Variant) *bool { return &v.KeepOutput }),
	choice("rcp", "1/d correctly rounded, or a division of every element", func(v *Variant) *Reciprocal { return &v.Rcp }, "exact", "divide"),
	toggle("out-round", "zero", "the output toward zero", func(v *Variant) *bool { return &v.OutputZero }),
}

// Knobs lists the keys of the text form, in the order of the program.
func Knobs() []Knob {
	var out []Knob
	for _, k := range knobs {
		out = append(out, k.Knob)
	}
	return out
}

// String writes the deviations as a comma-separated list of key=value, in the
// order of the program; "" where there is none.
func (v Variant) String() string {
	var parts []string
	for _, k := range knobs {
		if s := k.get(&v); s != "" {
			parts = append(parts, k.Key+"="+s)
		}
	}
	return strings.Join(parts, ",")
}

// ParseVariant is the inverse of String. It takes the keys in any order.
func ParseVariant(s string) (Variant, error) {
	var v Variant
	err := v.Apply(s)
	return v, err
}

// Apply changes v by a list in the form of String, whose keys replace what v had.
// The value "default" of any key undoes it, and the list "none" undoes them all. A
// key stands in a list once.
func (v *Variant) Apply(list string) error {
	switch strings.TrimSpace(list) {
	case "":
		return nil
	case "none":
		*v = Variant{}
		return nil
	}
	out := *v
	seen := map[string]bool{}
	for _, part := range strings.Split(list, ",") {
		key, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok {
			return fmt.Errorf("bad variant %q: want key=value", part)
		}
		i := slices.IndexFunc(knobs, func(k knob) bool { return k.Key == key })
		if i < 0 {
			var keys []string
			for _, k := range knobs {
				keys = append(keys, k.Key)
			}
			return fmt.Errorf("unknown variant %q (have %s)", key, strings.Join(keys, ", "))
		}
		if seen[key] {
			return fmt.Errorf("variant %s stands twice", key)
		}
		seen[key] = true
		if value == asProgram {
			knobs[i].clear(&out)
			continue
		}
		if err := knobs[i].set(&out, value); err != nil {
			return fmt.Errorf("variant %s=%s: %w", key, value, err)
		}
	}
	*v = out
	return nil
}

// clear undoes the knob in v: everything but it goes into a new value.
func (k *knob) clear(v *Variant) {
	var out Variant
	for i := range knobs {
		if knobs[i].Key == k.Key {
			continue
		}
		if s := knobs[i].get(v); s != "" {
			// What get returns, set takes.
			_ = knobs[i].set(&out, s)
		}
	}
	*v = out
}

// validate reports a deviation that does not apply to the rest of the
// configuration, or is out of range.
func (v *Variant) validate(c *Config) error {
	if *v == (Variant{}) {
		return nil
	}
	for _, k := range knobs {
		s := k.get(v)
		if s == "" {
			continue
		}
		var w Variant
		if err := k.set(&w, s); err != nil {
			return fmt.Errorf("variant %s=%s: %w", k.Key, s, err)
		}
	}
	bad := func(key, why string, args ...any) error {
		return fmt.Errorf("variant %s: "+why, append([]any{key}, args...)...)
	}
	oneLevel := c.PVType != quant.INT8 && (c.PVAccum == AccumFP32 || c.PVAccum == AccumIdeal)
	unit := v.FractionBits != 0 || v.Step != 0 || v.SumRound != UnitRounding
	depth := 32
	if c.PVType == quant.FP16 {
		depth = 16
	}
	switch bk := c.Tiling().BlockK; {
	case v.DeltaS != DeltaSmoothed && !c.SmoothQ:
		return bad("delta-s", "the kernel does not smooth Q")
	case v.VMax != 0 && c.PVType == quant.FP16:
		return bad("v-max", "FP16 V is not scaled")
	case v.SplitOutput && oneLevel:
		return bad("fma-o", "pv-accum %s adds in the matrix unit", c.PVAccum)
	case v.LevelKeys != 0 && oneLevel:
		return bad("level-keys", "pv-accum %s has one level", c.PVAccum)
	case v.LevelKeys != 0 && (bk%v.LevelKeys != 0 || v.LevelKeys%depth != 0):
		return bad("level-keys", "%d does not divide the tile of %d keys into multiples of %d", v.LevelKeys, bk, depth)
	case unit && c.PVType == quant.INT8:
		return bad("fraction-bits, step and sum-round", "pv-dtype int8 is exact")
	case v.Step != 0 && depth%v.Step != 0:
		return bad("step", "%d does not divide the instruction's depth of %d", v.Step, depth)
	case v.SumRound == SumFP16Nearest && oneLevel:
		return bad("sum-round", "an FP16 accumulator has two levels (pv-accum fp32+fp32 or fp32+fp16)")
	}
	return nil
}

// unit applies the parameters to a copy of a unit.
func (v *Variant) unit(u *tensorcore.Unit) *tensorcore.Unit {
	w := *u
	if v.FractionBits != 0 {
		w.FractionBits = v.FractionBits
	}
	if v.Step != 0 {
		w.Steps = tensorcore.Consecutive(w.K, v.Step)
	}
	if v.SumRound != UnitRounding {
		w.Out, w.C = v.SumRound.output(), tensorcore.FP32
		if v.SumRound == SumFP16Nearest {
			w.C = tensorcore.FP16
		}
	}
	return &w
}

// portable says whether only the portable path has the deviations. What acts before
// the softmax, in code that the paths share, the vector paths have too.
func (v Variant) portable() bool {
	v.CodeRound, v.VMax, v.VRoundZero, v.DequantizeAll = 0, 0, false, false
	return v != Variant{}
}

// Reduced returns the configuration without what makes no difference to its
// arithmetic: the preset's name, and deviations that say what the program does
// anyway. Configurations that are equal then are the same kernel.
func (c Config) Reduced() Config {
	c.Name, c.Summary = "", ""
	switch {
	case c.PVType == quant.INT8:
		// Sums are exact, and every tile's joins O in FP32.
		c.Arch, c.PVAccum = tensorcore.Ideal, AccumTwoLevel
	case c.PVAccum == AccumIdeal:
		c.Arch, c.PVAccum = tensorcore.Ideal, AccumFP32
	}
	v := &c.Variant
	plain := c
	plain.Variant = Variant{}
	if v.CodeRound == c.qkStyle().Rounding() {
		v.CodeRound = quant.StyleRounding
	}
	if v.VMax == plain.valueMax() {
		v.VMax = 0
	}
	if v.POffset.Set && v.POffset.Value == plain.pOffset() {
		v.POffset = Number{}
	}
	if v.LevelKeys == c.Tiling().BlockK {
		v.LevelKeys = 0
	}
	if c.Program == PaperProgram || c.SmoothQ {
		v.DequantizeAll = false
	}
	if v.DeltaS == DeltaRaw && !c.SmoothK {
		v.DeltaS = DeltaSmoothed
	}
	if u, err := plain.Unit(); err == nil && c.PVType != quant.INT8 {
		if v.FractionBits == u.FractionBits {
			v.FractionBits = 0
		}
		bits := u.FractionBits
		if v.FractionBits != 0 {
			bits = v.FractionBits
		}
		// A sum of up to 33 terms below 4, with so few fraction bits, is an FP32 number.
		if v.SumRound == SumFP32Nearest && bits != tensorcore.Exact && bits <= 16 {
			v.SumRound = SumFP32Zero
		}
		if v.Step != 0 && slices.EqualFunc(u.Steps, tensorcore.Consecutive(u.K, v.Step), slices.Equal) {
			v.Step = 0
		}
		if v.SumRound != UnitRounding && v.SumRound.output() == u.Out {
			v.SumRound = UnitRounding
		}
	}
	return c
}
