package render

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/emulate/quant"
	"github.com/sageacc/sageacc/emulate/tensorcore"
)

// KernelsSchema is the version of the JSON form of Kernels.
const KernelsSchema = "sageacc/kernels/v1"

// Kernels lists what can be emulated.
type Kernels struct {
	Schema        string   `json:"schema"`
	Kernels       []Kernel `json:"kernels"`
	Archs         []string `json:"archs"`
	Granularities []string `json:"qk_granularities"`
	PVDTypes      []string `json:"pv_dtypes"`
	PVAccums      []string `json:"pv_accums"`
	// Variants are the deviations from a program that can be emulated.
	Variants []program.Knob `json:"variants"`
	Units    []Unit         `json:"units"`
}

// Kernel is a preset.
type Kernel struct {
	compare.KernelInfo
	Summary string `json:"summary"`
}

// Unit is a row of the table of matrix units.
type Unit struct {
	Arch        string `json:"arch"`
	Instruction string `json:"instruction"`
	Executed    string `json:"executed"`
	// Steps sums up StepK.
	Steps string `json:"steps"`
	// StepK lists the k of each fused dot-add, in order.
	StepK [][]int `json:"step_k"`
	// SeparateAddend says that the steps start from zero and the addend is added
	// after them.
	SeparateAddend bool   `json:"separate_addend"`
	FractionBits   int    `json:"fraction_bits"` // -1: nothing is truncated
	Output         string `json:"output"`
	Evidence       string `json:"evidence"`
	// Reported says that the evidence is others' report alone.
	Reported bool `json:"reported"`
}

// ListKernels collects the presets and units.
func ListKernels() Kernels {
	k := Kernels{
		Schema: KernelsSchema, Archs: tensorcore.Archs(),
		Granularities: quant.Granularities(), PVDTypes: quant.PVTypes(), PVAccums: program.Accums(),
		Variants: program.Knobs(),
	}
	for _, p := range program.Presets() {
		// A test makes a kernel of each.
		if kernel, err := emulate.New(p); err == nil {
			k.Kernels = append(k.Kernels, Kernel{compare.Describe(kernel), p.Summary})
		}
	}
	for _, u := range tensorcore.Units() {
		steps := fmt.Sprintf("%d x %d", len(u.Steps), len(u.Steps[0]))
		if u.SeparateAdd {
			steps += ", then + c"
		}
		k.Units = append(k.Units, Unit{
			u.Arch, u.Instruction, u.Executed, steps, u.Steps, u.SeparateAdd, u.FractionBits, u.Out.String(), u.Evidence, u.Reported(),
		})
	}
	return k
}

// Text writes the presets and the values of the options as aligned text.
func (k Kernels) Text(w io.Writer) error {
	t := columns("kernel", "arch", "Q, K", "smooth", "P, V", "accumulator", "program")
	for _, c := range k.Kernels {
		t.Rows = append(t.Rows, []string{
			c.Name, c.Arch, codes(c.Description.QKCodes), c.Smooth, c.PVDType, c.PVAccum, c.Program,
		})
	}
	if err := t.Text(w); err != nil {
		return err
	}
	lines := []string{""}
	for _, c := range k.Kernels {
		lines = append(lines, c.Name+": "+c.Summary+".")
	}
	return list(w, append(lines, "",
		"--arch            "+strings.Join(k.Archs, ", "),
		"--qk-bits         4, 8",
		"--qk-granularity  "+strings.Join(k.Granularities, ", "),
		"--smooth          any of q,k,v; or none",
		"--pv-dtype        "+strings.Join(k.PVDTypes, ", "),
		"--pv-accum        "+strings.Join(k.PVAccums, ", "),
		"--variant         deviations from the program, see --variants",
	))
}

// codes says what Q and K become.
func codes(c program.QKCodes) string {
	if c.Granularity == "none" {
		return c.Format
	}
	return c.Format + " " + c.Granularity
}

// VariantsText writes the deviations as aligned text.
func (k Kernels) VariantsText(w io.Writer) error {
	t := columns("key", "values", "what changes")
	for _, v := range k.Variants {
		t.Rows = append(t.Rows, []string{v.Key, v.Values, v.Summary})
	}
	return t.Text(w)
}

// UnitsText writes the table of matrix units as aligned text, the evidence and the
// order of k as notes below it.
func (k Kernels) UnitsText(w io.Writer) error {
	t := columns("arch", "instruction", "executed as", "steps", ">F", "output of a step", "evidence")
	var evidence, orders notes
	for _, u := range k.Units {
		f := "exact"
		if u.FractionBits >= 0 {
			f = strconv.Itoa(u.FractionBits)
		}
		steps := fmt.Sprintf("%d x %d", len(u.StepK), len(u.StepK[0]))
		if o := order(u.StepK); o != "" {
			steps += strings.Repeat("*", orders.number(o))
		}
		if u.SeparateAddend {
			steps += ", + c"
		}
		t.Rows = append(t.Rows, []string{
			u.Arch, u.Instruction, u.Executed, steps, f, u.Output, fmt.Sprintf("[%d]", evidence.number(u.Evidence)),
		})
	}
	if err := t.Text(w); err != nil {
		return err
	}
	lines := []string{"",
		"steps  fused dot-adds x products in each, in order of k; + c: they start from zero and c is added after them",
	}
	for i, o := range orders {
		lines = append(lines, fmt.Sprintf("%5s  %s", strings.Repeat("*", i+1), o))
	}
	lines = append(lines, "    F  fraction bits that are kept relative to the largest term", "")
	for i, e := range evidence {
		lines = append(lines, fmt.Sprintf("%5s  %s", fmt.Sprintf("[%d]", i+1), e))
	}
	return list(w, lines)
}

// notes are texts below a table, counted from 1.
type notes []string

// number is that of the note s, which is new if there is none.
func (n *notes) number(s string) int {
	i := slices.Index(*n, s)
	if i < 0 {
		i = len(*n)
		*n = append(*n, s)
	}
	return i + 1
}

// order says which k each step takes, and nothing where they follow one another.
func order(steps [][]int) string {
	next, inOrder := 0, true
	var parts []string
	for _, step := range steps {
		for _, k := range step {
			inOrder = inOrder && k == next
			next++
		}
		parts = append(parts, strings.Trim(fmt.Sprint(step), "[]"))
	}
	if inOrder {
		return ""
	}
	return "k " + strings.Join(parts, "; then ")
}
