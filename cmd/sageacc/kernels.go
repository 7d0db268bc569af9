package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sageacc/sageacc/cmd/sageacc/render"
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
	return cmd
}
