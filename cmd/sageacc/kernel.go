package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/emulate/quant"
	"github.com/sageacc/sageacc/emulate/tensorcore"
)

// kernelFlags choose a kernel and change its description.
type kernelFlags struct {
	kernel, arch, granularity, smooth, pvType, pvAccum string
	bits                                               int
	variants, set                                      []string
}

func (f *kernelFlags) add(cmd *cobra.Command) {
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
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveDefault))
	}
	choice(&f.kernel, "kernel", "sage2-8b-sm90", "`KERNEL` to emulate, a file that describes one (FILE.yaml), or one of", append(program.Names(), program.Aliases()...))
	choice(&f.arch, "arch", "", "architecture whose matrix units run it (default: the kernel's own)", tensorcore.Archs())
	fs.IntVar(&f.bits, "qk-bits", 0, "width of Q and K's codes, `4|8` (default: the kernel's)")
	choice(&f.granularity, "qk-granularity", "", "`GROUPS` of Q and K that share a scale (default: the kernel's)", quant.Granularities())
	choice(&f.smooth, "smooth", "", "what is smoothed (default: the kernel's)", []string{"q,k,v", "none"})
	choice(&f.pvType, "pv-dtype", "", "data type of P and V (default: the kernel's)", quant.PVTypes())
	choice(&f.pvAccum, "pv-accum", "", "accumulator of PV (default: the kernel's)", program.Accums())
	fs.StringArrayVar(&f.variants, "variant", nil, "deviations from the program, a `LIST` as in p-round=zero,level-keys=32 (repeatable; see sageacc kernels --variants)")
	fs.StringArrayVar(&f.set, "set", nil, "change one choice of the description, `PATH=VALUE` as in exponent.offset=8 (repeatable; see sageacc kernels show)")
	var knobs []string
	for _, k := range program.Knobs() {
		knobs = append(knobs, k.Key+"=\t"+k.Summary)
	}
	_ = cmd.RegisterFlagCompletionFunc("variant", cobra.FixedCompletions(knobs, cobra.ShellCompDirectiveNoSpace|cobra.ShellCompDirectiveNoFileComp))
	var paths []string
	if p, err := program.Preset("sage2-8b-sm90"); err == nil {
		for _, c := range p.Choices() {
			paths = append(paths, c.Path+"=\t"+strings.Join(c.Choices, ", "))
		}
	}
	_ = cmd.RegisterFlagCompletionFunc("set", cobra.FixedCompletions(paths, cobra.ShellCompDirectiveNoSpace|cobra.ShellCompDirectiveNoFileComp))
}

// program returns the description that the flags choose.
func (f *kernelFlags) program(cmd *cobra.Command) (program.Program, error) {
	if cmd.Flags().Changed("qk-bits") && f.bits != 4 && f.bits != 8 {
		return program.Program{}, fmt.Errorf("--qk-bits is %d: want 4 or 8", f.bits)
	}
	if cmd.Flags().Changed("smooth") && f.smooth == "" {
		return program.Program{}, fmt.Errorf("--smooth: bad smoothing list %q: want a comma-separated list of q, k and v, or none", f.smooth)
	}
	p, err := program.Selection{
		Kernel: f.kernel, Arch: f.arch, QKBits: f.bits, Granularity: f.granularity, Smooth: f.smooth,
		PVType: f.pvType, PVAccum: f.pvAccum, Variants: f.variants, Set: f.set,
	}.Program()
	var bad *program.FieldError
	if errors.As(err, &bad) {
		err = fmt.Errorf("--%s: %w", strings.ReplaceAll(bad.Field, "_", "-"), bad.Err)
	}
	return p, err
}

// build makes the kernel.
func (f *kernelFlags) build(cmd *cobra.Command) (*emulate.Kernel, error) {
	p, err := f.program(cmd)
	if err != nil {
		return nil, err
	}
	return emulate.New(p)
}
