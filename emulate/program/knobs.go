package program

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/sageacc/sageacc/emulate/tensorcore"
)

// Knob is a named deviation from a program: what kernels do that are built from the
// same design but not with the same constants, roundings or order, be it on purpose or
// by mistake. It changes one choice.
type Knob struct {
	Key string `json:"key"`
	// Values are what it may be, as "a|b"; X stands for a number, N for an integer.
	Values string `json:"values"`
	// Summary says in a few words what changes.
	Summary string `json:"summary"`
	// Path is the choice that it sets.
	Path string `json:"path"`

	// words translates values to the choice's, the others pass as they are if check takes
	// them.
	words map[string]string
	check func(value string) error
}

// asProgram is the value of any key that undoes it.
const asProgram = "default"

func whole(lo, hi int) func(string) error {
	return func(s string) error {
		n, err := strconv.Atoi(s)
		if err != nil || n < lo || n > hi || n == 0 {
			return fmt.Errorf("want an integer from %d to %d other than 0", lo, hi)
		}
		return nil
	}
}

func real(lo, hi float64, want string) func(string) error {
	return func(s string) error {
		x, err := parseNumber(s)
		switch {
		case err != nil || math.IsInf(float64(x), 0):
			return fmt.Errorf("want a number")
		case float64(x) < lo || float64(x) > hi:
			return fmt.Errorf("%s", want)
		}
		return nil
	}
}

const maxStep = 32

// knobs lists all keys, in the order of a program.
var knobs = []Knob{
	{"code-round", "even|away|zero", "rounding of the codes of Q and K", "qk_codes.round", words("even", "away", "zero"), nil},
	{"v-max", "X", "what V's channel maximum is scaled to", "v_codes.max", nil, real(1e-30, math.MaxFloat32, "want a number above 0")},
	{"v-round", "zero", "V to its codes toward zero", "v_codes.round", words("zero"), nil},
	{"delta-s", "none|raw", "no correction of a smoothed Q, or with the raw K", "smoothing.delta_s", words("none", "raw"), nil},
	{"tail", "all", "every tile dequantised before the softmax", "scores.tail_tiles", words("all"), nil},
	{"causal-shift", "N", "key j is masked for query i where j > i + N, in the tiles that a block looks at without it", "mask.shift", nil, whole(-maxShift, maxShift)},
	{"key-mask", "none", "keys beyond the end are not masked", "mask.beyond", map[string]string{"none": "kept"}, nil},
	{"p-offset", "X|none", "what P~'s exponent is lowered by", "exponent.offset", map[string]string{"none": "0"}, real(-maxOffset, maxOffset, fmt.Sprintf("want at most %d", maxOffset))},
	{"fma-max", "none", "rowmax*scale - offset in two roundings", "maximum.round", map[string]string{"none": "twice"}, nil},
	{"fma-exp", "none", "score*scale - maximum in two roundings", "exponent.round", map[string]string{"none": "twice"}, nil},
	{"exp2", "exact", "exp2 correctly rounded", "exponent.exp2", words("exact"), nil},
	{"p-round", "zero", "P~ to its format toward zero", "p.round", words("zero"), nil},
	{"d-sum", "codes", "the denominator sums P~ after its conversion", "denominator.of", words("codes"), nil},
	{"d-order", "pairwise", "the denominator sums (p0+p1)+(p8+p9)", "denominator.order", map[string]string{"pairwise": "pairwise16"}, nil},
	{"fma-d", "none", "d*alpha + sum in two roundings", "denominator.rescale", map[string]string{"none": "multiply"}, nil},
	{"rescale-d", "none", "d is not rescaled when the maximum grows", "denominator.rescale", words("none"), nil},
	{"fraction-bits", "N", "fraction bits that PV's dot-add keeps", "pv.unit.fraction_bits", nil, whole(1, tensorcore.MaxFractionBits)},
	{"step", "N", "consecutive k that PV's dot-add takes", "pv.unit.step", nil, whole(1, maxStep)},
	{"sum-round", "fp22-zero|fp22-nearest|fp32-zero|fp32-nearest|fp16-nearest", "rounding of PV's sums", "pv.unit.sum_round",
		words("fp22-zero", "fp22-nearest", "fp32-zero", "fp32-nearest", "fp16-nearest"), nil},
	{"level-keys", "N", "the second level takes over after N keys", "pv.level", nil, whole(1, MaxTile)},
	{"fma-o", "none", "O*alpha + tile in two roundings", "pv.join", map[string]string{"none": "twice"}, nil},
	{"rescale-o", "none", "O is not rescaled when the maximum grows", "pv.rescale", words("none"), nil},
	{"rcp", "exact|divide", "1/d correctly rounded, or a division of every element", "finish.inverse", words("exact", "divide"), nil},
	{"out-round", "zero", "the output toward zero", "finish.round", words("zero"), nil},
}

func words(list ...string) map[string]string {
	m := map[string]string{}
	for _, w := range list {
		m[w] = w
	}
	return m
}

// Knobs lists the keys of variants, in the order of a program.
func Knobs() []Knob { return slices.Clone(knobs) }

// value translates a value of the key to that of the choice.
func (k *Knob) value(s string) (string, error) {
	if w, ok := k.words[s]; ok {
		return w, nil
	}
	if k.check == nil {
		return "", fmt.Errorf("want %s", strings.ReplaceAll(k.Values, "|", ", "))
	}
	return s, k.check(s)
}

// name is the inverse of value, "" where the key cannot say it.
func (k *Knob) name(value string) string {
	for w, v := range k.words {
		if v == value {
			return w
		}
	}
	if k.check != nil && k.check(value) == nil {
		return value
	}
	return ""
}

// Apply changes p by a comma-separated list of key=value, whose keys are those of
// Knobs. base is the program without deviations: the value "default" of any key takes
// it from there, and the list "none" undoes all. A key stands in a list once. An error
// leaves p as it was.
func (p *Program) Apply(base *Program, list string) error {
	q := *p
	switch strings.TrimSpace(list) {
	case "":
		return nil
	case "none":
		for _, k := range knobs {
			if err := q.Set(k.Path, base.Get(k.Path)); err != nil {
				return err
			}
		}
		*p = q
		return nil
	}
	seen := map[string]bool{}
	for part := range strings.SplitSeq(list, ",") {
		key, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok {
			return fmt.Errorf("bad variant %q: want key=value", part)
		}
		i := slices.IndexFunc(knobs, func(k Knob) bool { return k.Key == key })
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
		to := base.Get(knobs[i].Path)
		if value != asProgram {
			var err error
			if to, err = knobs[i].value(value); err != nil {
				return fmt.Errorf("variant %s=%s: %w", key, value, err)
			}
		}
		if knobs[i].Path == "smoothing.delta_s" && q.Smoothing.Q == "none" && value != asProgram {
			return fmt.Errorf("variant %s: the kernel does not smooth Q", key)
		}
		if err := q.Set(knobs[i].Path, to); err != nil {
			return fmt.Errorf("variant %s=%s: %w", key, value, err)
		}
	}
	*p = q
	return nil
}

// Variant writes the deviations of p from base as Apply takes them, in the order of a
// program; "" where there is none. Changes that no key can say are not in it (Diff has
// them all).
func Variant(base, p *Program) string {
	changed := map[string]string{}
	for _, c := range Diff(base, p) {
		changed[c.Path] = c.To
	}
	var parts []string
	for i := range knobs {
		k := &knobs[i]
		if to, ok := changed[k.Path]; ok {
			if name := k.name(to); name != "" {
				parts = append(parts, k.Key+"="+name)
			}
		}
	}
	return strings.Join(parts, ",")
}
