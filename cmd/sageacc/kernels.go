package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sageacc/sageacc/cmd/sageacc/render"
	"github.com/sageacc/sageacc/cmd/sageacc/render/texttab"
	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/program"
)

func newKernels(e *env) *cobra.Command {
	var format string
	var units, variants bool
	cmd := &cobra.Command{
		Use:   "kernels",
		Short: "List the kernels that can be emulated, their options and the matrix units",
		Example: `  sageacc kernels
  sageacc kernels --units
  sageacc kernels --variants
  sageacc kernels show sage2-8b-sm90 > mine.yaml
  sageacc kernels check mine.yaml
  sageacc kernels --format json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			k := render.ListKernels()
			text := render.Kernels.Text
			if units {
				text = render.Kernels.UnitsText
			}
			if variants {
				text = render.Kernels.VariantsText
			}
			write, err := pick(format, map[string]func(io.Writer, render.Kernels) error{
				"table": func(w io.Writer, k render.Kernels) error { return text(k, w) },
				"json":  func(w io.Writer, k render.Kernels) error { return render.JSON(w, k) },
			})
			if err != nil {
				return fmt.Errorf("--format: %w", err)
			}
			return write(e.stdout, k)
		},
	}
	cmd.Flags().StringVar(&format, "format", "table", "output format, `table|json`")
	cmd.Flags().BoolVar(&units, "units", false, "show the table of matrix units")
	cmd.Flags().BoolVar(&variants, "variants", false, "show the deviations that --variant takes")
	cmd.MarkFlagsMutuallyExclusive("units", "variants")
	cmd.AddCommand(newKernelsShow(e), newKernelsCheck(e))
	return cmd
}

func newKernelsShow(e *env) *cobra.Command {
	var kernel kernelFlags
	var format, out string
	cmd := &cobra.Command{
		Use:   "show [KERNEL|FILE.yaml]",
		Short: "Print the whole description of a kernel, with the source of each fact",
		Long: `Print the whole description of a kernel, with the source of each fact beside its line.

The description says every choice that decides the output's bits; docs/new-kernel.md walks
through one. What it prints is a file that --kernel takes. Flags change it first, and a line
that they changed says what it was.`,
		Example: `  sageacc kernels show sage2-8b-sm90
  sageacc kernels show sage2-8b-sm89 --pv-accum fp32+fp16 --set exponent.offset=8 -o mine.yaml`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				if cmd.Flags().Changed("kernel") {
					return fmt.Errorf("kernels show: %s and --kernel %s: want one of them", args[0], kernel.kernel)
				}
				kernel.kernel = args[0]
			}
			p, err := kernel.program(cmd)
			if err != nil {
				return err
			}
			_, original, err := program.LoadText(kernel.kernel)
			if err != nil {
				return err
			}
			text, err := program.Text(&p, original)
			if err != nil {
				return err
			}
			write, err := pick(format, map[string]func(io.Writer, program.Program) error{
				"yaml": func(w io.Writer, _ program.Program) error { _, err := w.Write(text); return err },
				"json": func(w io.Writer, p program.Program) error { return render.JSON(w, p) },
			})
			if err != nil {
				return fmt.Errorf("--format: %w", err)
			}
			w, err := e.open(out, nil)
			if err != nil {
				return err
			}
			defer w.abort()
			if err := write(w, p); err != nil {
				return err
			}
			return w.commit()
		},
	}
	kernel.add(cmd)
	cmd.Flags().StringVar(&format, "format", "yaml", "output format, `yaml|json`")
	cmd.Flags().StringVarP(&out, "output", "o", "", "write to `FILE` instead of standard output")
	return cmd
}

func newKernelsCheck(e *env) *cobra.Command {
	return &cobra.Command{
		Use:     "check FILE.yaml...",
		Short:   "Validate descriptions of kernels, and say what would run them",
		Example: `  sageacc kernels check mine.yaml`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			for _, name := range args {
				p, err := program.Load(name)
				if err != nil {
					return err
				}
				k, err := emulate.New(p)
				if err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				paths := "vector paths"
				if why := k.Portable(); why != "" {
					paths = "the interpreter, step by step (" + why + ")"
					if why := k.Scalar(); why != "" {
						paths += ", without vectors (" + why + ")"
					}
				}
				if _, err := fmt.Fprintf(e.stdout, "%s: %s on %s: %s; runs in %s\n", texttab.Printable(name), p.Name, p.Arch, p.Shape(), paths); err != nil {
					return err
				}
			}
			return nil
		},
	}
}
