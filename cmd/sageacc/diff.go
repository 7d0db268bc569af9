package main

import (
	"fmt"
	"io"
	"math"

	"github.com/spf13/cobra"

	"github.com/sageacc/sageacc/cmd/sageacc/render"
	"github.com/sageacc/sageacc/compare/diff"
)

// diffFlags are the flags of diff.
type diffFlags struct {
	format string
	bound  float64 // --max-growth
	top    int
	files  checkFiles
}

func newDiff(e *env) *cobra.Command {
	var f diffFlags
	cmd := &cobra.Command{
		Use:   "diff OLD.json NEW.json",
		Short: "Show what changed between two results of compare",
		Long: `Compares two results of 'sageacc compare --format json', layers by name: the
errors of the emulated and of an actual output against the reference, and how many
elements of the actual output differ from the emulated one.

The exit status is 1 if an output became NaN or infinite, and with --max-growth if an
error of a layer (1 - cos_sim, rel_l1 or rmse, emulated or actual) or its share of
differing elements grew by more than that many percent, or if its actual output is no
longer there. Layers that are in one result only are named. If no layer is in both,
--max-growth has nothing to look at, and the exit status is 2.`,
		Example: `  sageacc diff before.json after.json
  sageacc diff before.json after.json --max-growth 5 --junit checks.xml --summary "$GITHUB_STEP_SUMMARY"`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return fmt.Errorf("diff: want two results, OLD.json and NEW.json, not %d (see sageacc diff --help)", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(e, cmd, args) },
	}
	cmd.Flags().StringVar(&f.format, "format", "table", "output format, `table|json|markdown`")
	cmd.Flags().Float64Var(&f.bound, "max-growth", 0, "exit with status 1 if an error, or the share of differing elements, grew by more than `PERCENT`")
	cmd.Flags().IntVar(&f.top, "top", 0, "show `N` layers at most, the worst, 0 for all (default: as many as fit a screen)")
	f.files.add(cmd)
	return cmd
}

// run is the command.
func (f *diffFlags) run(e *env, cmd *cobra.Command, args []string) error {
	write, err := pick(f.format, map[string]func(io.Writer, *render.Diff) error{
		"table":    render.DiffText,
		"markdown": render.DiffMarkdown,
		"json":     func(w io.Writer, d *render.Diff) error { return render.JSON(w, d.Result) },
	})
	if err != nil {
		return fmt.Errorf("--format: %w", err)
	}
	if math.IsNaN(f.bound) || f.bound < 0 {
		return fmt.Errorf("--max-growth is %g: want a percentage of at least 0", f.bound)
	}
	if f.top < 0 {
		return fmt.Errorf("--top is %d: want at least 0", f.top)
	}
	given := cmd.Flags().Changed("top")
	if given && f.format == "json" {
		return fmt.Errorf("--top is not for --format json, which holds every layer in order")
	}
	var growth *float64
	if cmd.Flags().Changed("max-growth") {
		x := f.bound / 100
		growth = &x
	}
	old, err := diff.Read(args[0])
	if err != nil {
		return err
	}
	new, err := diff.Read(args[1])
	if err != nil {
		return err
	}
	defer f.files.abort()
	if err := f.files.open(e, "", args); err != nil {
		return err
	}
	res := diff.Compare(old, new)
	if both, _, _ := res.Count(); both == 0 && growth != nil {
		return fmt.Errorf("--max-growth: %s and %s have no layer in common", args[0], args[1])
	}
	checks := res.Check(growth)
	res.Verdict = res.Judge(checks, growth)
	d := &render.Diff{Result: res}
	if rows := 2 * len(res.Layers); given || rows > screen && f.format != "json" {
		if !given {
			f.top = shown / 2
		}
		d.Show, d.Left = res.Worst(checks, f.top)
	}
	if err := write(e.stdout, d); err != nil {
		return err
	}
	var failures []string
	for _, c := range checks {
		if c.Failed {
			failures = append(failures, fmt.Sprintf("layer %s: %s", c.Layer, c.Text))
		}
	}
	err = f.files.write(render.Outcome{Title: "sageacc diff", Verdict: res.Verdict.Lines, Cases: render.DiffCases(checks), Failures: failures}, func(w io.Writer) error {
		d, res := *d, *res
		res.Verdict = nil // which stands in front
		d.Result = &res
		if d.Show == nil {
			d.Show, d.Left = res.Worst(checks, shown/2)
		}
		return render.DiffMarkdown(w, &d)
	})
	if err != nil {
		return err
	}
	return e.report(failures)
}
