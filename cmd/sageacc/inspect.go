package main

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/sageacc/sageacc/cmd/sageacc/render"
	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/layerdumps/inspect"
)

var inspectWriters = map[string]func(io.Writer, *inspect.Result) error{
	"table": render.InspectText,
	"json":  func(w io.Writer, r *inspect.Result) error { return render.JSON(w, r) },
}

func newInspect(e *env) *cobra.Command {
	dump := dumpFlags{lse: true}
	var format string
	cmd := &cobra.Command{
		Use:   "inspect DUMP...",
		Short: "Show a dump's layers, shapes, ranges and channel outliers, and what is wrong",
		Long: `For each tensor: range, RMS, how much of it is channel bias (bias: RMS of the
channel means over RMS of the rest), how many times finer the quantisation step
becomes by smoothing (gain), and a verdict. NaN and infinities are reported with
the place of the first.`,
		Example: `  sageacc inspect dump.safetensors
  sageacc inspect dump.safetensors --layers 'layers\.3\.' --format json`,
		Args: needArgs("dump"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			write, err := pick(format, inspectWriters)
			if err != nil {
				return fmt.Errorf("--format: %w", err)
			}
			d, err := dump.read(cmd, args)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, d.Close()) }()
			res, err := inspect.Dump(cmd.Context(), d)
			if err != nil {
				return err
			}
			doubts, err := compare.DoubtLayouts(cmd.Context(), d)
			if err != nil {
				return err
			}
			for _, x := range doubts {
				i := slices.IndexFunc(res.Layers, func(l inspect.Layer) bool { return l.Name == x.Layer })
				res.Layers[i].Warnings = append(res.Layers[i].Warnings, "layout: "+x.Text)
			}
			return write(e.stdout, res)
		},
	}
	dump.add(cmd, false)
	cmd.Flags().StringVar(&format, "format", "table", "output format, `table|json`")
	return cmd
}
