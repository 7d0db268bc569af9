package main

import (
	"fmt"
	"io"
	"math"

	"github.com/spf13/cobra"

	"github.com/sageacc/sageacc/cmd/sageacc/render"
	"github.com/sageacc/sageacc/compare/diff"
)

func newDiff(e *env) *cobra.Command {
	var format string
	var bound float64
	cmd := &cobra.Command{
		Use:   "diff OLD.json NEW.json",
		Short: "Show what changed between two results of compare",
		Long: `Compares two results of 'sageacc compare --format json', layers by name: the
emulated output's errors against the reference, old and new, and how many
elements of an actual output differ from the emulated one.

With --max-growth the exit status is 1 if an error of a layer (1 - cos_sim,
rel_l1 or rmse) grew by more than that many percent, or if more elements differ
than did.`,
		Example: `  sageacc diff before.json after.json
  sageacc diff before.json after.json --max-growth 5`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return fmt.Errorf("diff: want two results, OLD.json and NEW.json, not %d (see sageacc diff --help)", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			write, err := pick(format, map[string]func(io.Writer, *diff.Result) error{
				"table":    render.DiffText,
				"markdown": render.DiffMarkdown,
				"json":     func(w io.Writer, r *diff.Result) error { return render.JSON(w, r) },
			})
			if err != nil {
				return fmt.Errorf("--format: %w", err)
			}
			check := cmd.Flags().Changed("max-growth")
			if math.IsNaN(bound) || bound < 0 {
				return fmt.Errorf("--max-growth is %g: want a percentage of at least 0", bound)
			}
			old, err := diff.Read(args[0])
			if err != nil {
				return err
			}
			new, err := diff.Read(args[1])
			if err != nil {
				return err
			}
			res := diff.Compare(old, new)
			if err := write(e.stdout, res); err != nil {
				return err
			}
			if !check {
				return nil
			}
			worse := res.Worse(bound / 100)
			for _, w := range worse {
				fmt.Fprintf(e.stderr, "sageacc: check failed: %s (--max-growth %g)\n", w, bound)
			}
			if worse != nil {
				return errChecks
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&format, "format", "table", "output format, `table|json|markdown`")
	cmd.Flags().Float64Var(&bound, "max-growth", 0, "exit with status 1 if an error grew by more than `PERCENT`")
	return cmd
}
