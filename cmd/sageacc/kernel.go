package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/compare/auto"
	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/emulate/quant"
	"github.com/sageacc/sageacc/emulate/tensorcore"
	"github.com/sageacc/sageacc/layerdumps"
)

// kernelFlags choose a kernel and change its description.
type kernelFlags struct {
	kernel, arch, granularity, smooth, pvType, pvAccum string
	bits                                               int
	variants, set                                      []string
	// chosen is what auto stands for on the dump at hand, once that is known.
	chosen auto.Choice
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
	choice(&f.kernel, "kernel", "sage2-8b-sm90", "`KERNEL` to emulate, a file that describes one (FILE.yaml), or one of", slices.Concat(program.Names(), program.Aliases(), auto.Names()))
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
	// The paths are those of any description, read when they are asked for.
	_ = cmd.RegisterFlagCompletionFunc("set", func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
		var paths []cobra.Completion
		if p, err := program.Preset("sage2-8b-sm90"); err == nil {
			for _, c := range p.Choices() {
				paths = append(paths, c.Path+"=\t"+strings.Join(c.Choices, ", "))
			}
		}
		return paths, cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
	})
}

// program returns the description that the flags choose.
func (f *kernelFlags) program(cmd *cobra.Command) (program.Program, error) {
	if cmd.Flags().Changed("qk-bits") && f.bits != 4 && f.bits != 8 {
		return program.Program{}, fmt.Errorf("--qk-bits is %d: want 4 or 8", f.bits)
	}
	if cmd.Flags().Changed("smooth") && f.smooth == "" {
		return program.Program{}, fmt.Errorf("--smooth: bad smoothing list %q: want a comma-separated list of q, k and v, or none", f.smooth)
	}
	s := f.chosen.Selection
	if s.Kernel == "" {
		s.Kernel = f.kernel
	}
	if auto.Is(s.Kernel) {
		return program.Program{}, fmt.Errorf("--kernel: %s is chosen by a dump's metadata, and here is no dump: name the kernel", s.Kernel)
	}
	// What flags say stands over what was recorded.
	s.Arch, s.QKBits, s.Granularity = cmp.Or(f.arch, s.Arch), cmp.Or(f.bits, s.QKBits), cmp.Or(f.granularity, s.Granularity)
	s.Smooth, s.PVType, s.PVAccum = cmp.Or(f.smooth, s.Smooth), cmp.Or(f.pvType, s.PVType), cmp.Or(f.pvAccum, s.PVAccum)
	s.Variants, s.Set = slices.Concat(s.Variants, f.variants), slices.Concat(s.Set, f.set)
	p, err := s.Program()
	var bad *program.FieldError
	if errors.As(err, &bad) {
		err = fmt.Errorf("--%s: %w", strings.ReplaceAll(bad.Field, "_", "-"), bad.Err)
	}
	return p, err
}

// tellReported says that a kernel rests on matrix units that are known from reports only, where the output itself does not.
func (e *env) tellReported(k *emulate.Kernel) {
	if info := compare.Describe(k); info.Reported != "" {
		fmt.Fprintf(e.stderr, "sageacc: note: %s: %s\n", info.Name, info.Reported)
	}
}

// choose finds out what auto stands for on a dump; a named kernel stays.
func (f *kernelFlags) choose(d *layerdumps.Dump) (err error) {
	if auto.Is(f.kernel) {
		f.chosen, err = auto.Choose(f.kernel, d)
	}
	return err
}

// choice says what auto came to, "" where a kernel was named.
func (f *kernelFlags) choice() string {
	if f.chosen.Name == "" {
		return ""
	}
	return fmt.Sprintf("%s for --kernel %s: %s", f.chosen.Name, f.kernel, f.chosen.Why)
}

// tellChoice tells what auto came to, where the output has no place for it.
func (e *env) tellChoice(f *kernelFlags) {
	if c := f.choice(); c != "" {
		fmt.Fprintf(e.stderr, "sageacc: note: %s\n", c)
	}
}

// early makes the kernel before a dump is read, nil where that decides.
func (f *kernelFlags) early(cmd *cobra.Command) (*emulate.Kernel, error) {
	if auto.Is(f.kernel) {
		return nil, nil
	}
	return f.build(cmd)
}

// late makes the kernel that a dump decides.
func (f *kernelFlags) late(cmd *cobra.Command, d *layerdumps.Dump) (*emulate.Kernel, error) {
	if err := f.choose(d); err != nil {
		return nil, err
	}
	return f.build(cmd)
}

// build makes the kernel.
func (f *kernelFlags) build(cmd *cobra.Command) (*emulate.Kernel, error) {
	p, err := f.program(cmd)
	if err != nil {
		return nil, err
	}
	return emulate.New(p)
}
