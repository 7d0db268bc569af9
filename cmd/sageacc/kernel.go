package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/quant"
	"github.com/sageacc/sageacc/emulate/tensorcore"
)

// kernelFlags choose a preset and change its fields.
type kernelFlags struct {
	kernel, arch, granularity, smooth, pvType, pvAccum string
	bits                                               int
	variant                                            emulate.Variant
}

// variantFlag applies each list to the variant, in the order of the command line.
type variantFlag struct{ v *emulate.Variant }

func (f variantFlag) String() string        { return f.v.String() }
func (f variantFlag) Set(list string) error { return f.v.Apply(list) }
func (f variantFlag) Type() string          { return "LIST" }

func (f *kernelFlags) add(cmd *cobra.Command) {
	var names []string
	for _, c := range emulate.Presets() {
		names = append(names, c.Name)
	}
	fs := cmd.Flags()
	choice := func(p *string, name, def, what string, values []string) {
		// The name in back quotes stands for the value in the help; the values do
		// where what has none.
		usage := what + ": " + strings.Join(values, ", ")
		if !strings.Contains(what, "`") {
			usage = fmt.Sprintf("%s, `%s`", what, strings.Join(values, "|"))
		}
		fs.StringVar(p, name, def, usage)
		// The only error is a flag that does not exist.
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}
	choice(&f.kernel, "kernel", "sage2-8b-sm90", "`KERNEL` to emulate", names)
	choice(&f.arch, "arch", "", "architecture whose matrix units run it (default: the kernel's own)", tensorcore.Archs())
	fs.IntVar(&f.bits, "qk-bits", 0, "width of Q and K's codes, `4|8` (default: the kernel's)")
	choice(&f.granularity, "qk-granularity", "", "`GROUPS` of Q and K that share a scale (default: the kernel's)", quant.Granularities())
	choice(&f.smooth, "smooth", "", "what is smoothed (default: the kernel's)", []string{"q,k,v", "none"})
	choice(&f.pvType, "pv-dtype", "", "data type of P and V (default: the kernel's)", quant.PVTypes())
	choice(&f.pvAccum, "pv-accum", "", "accumulator of PV (default: the kernel's)", emulate.Accums())
	fs.Var(variantFlag{&f.variant}, "variant", "deviations from the program, a `LIST` as in p-round=zero,level-keys=32 (repeatable; see sageacc kernels --variants)")
	var knobs []string
	for _, k := range emulate.Knobs() {
		knobs = append(knobs, k.Key+"=\t"+k.Summary)
	}
	_ = cmd.RegisterFlagCompletionFunc("variant", cobra.FixedCompletions(knobs, cobra.ShellCompDirectiveNoSpace|cobra.ShellCompDirectiveNoFileComp))
}

// build makes the kernel.
func (f *kernelFlags) build(cmd *cobra.Command) (*emulate.Kernel, error) {
	cfg, err := emulate.Preset(f.kernel)
	if err != nil {
		return nil, fmt.Errorf("--kernel: %w", err)
	}
	if f.arch != "" {
		if !slices.Contains(tensorcore.Archs(), f.arch) {
			return nil, fmt.Errorf("--arch: unknown architecture %q (have %s)", f.arch, strings.Join(tensorcore.Archs(), ", "))
		}
		cfg.Arch = f.arch
	}
	if cmd.Flags().Changed("qk-bits") {
		if f.bits != 4 && f.bits != 8 {
			return nil, fmt.Errorf("--qk-bits is %d: want 4 or 8", f.bits)
		}
		cfg.QKBits = f.bits
	}
	if f.granularity != "" {
		if cfg.QKGranularity, err = quant.ParseGranularity(f.granularity); err != nil {
			return nil, fmt.Errorf("--qk-granularity: %w", err)
		}
	}
	if cmd.Flags().Changed("smooth") {
		if err := cfg.SetSmooth(f.smooth); err != nil {
			return nil, fmt.Errorf("--smooth: %w", err)
		}
	}
	if f.pvType != "" {
		if cfg.PVType, err = quant.ParsePVType(f.pvType); err != nil {
			return nil, fmt.Errorf("--pv-dtype: %w", err)
		}
	}
	if f.pvAccum != "" {
		if cfg.PVAccum, err = emulate.ParseAccum(f.pvAccum); err != nil {
			return nil, fmt.Errorf("--pv-accum: %w", err)
		}
	}
	cfg.Variant = f.variant
	return emulate.New(cfg)
}
