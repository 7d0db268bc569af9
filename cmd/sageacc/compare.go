package main

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sageacc/sageacc/cmd/sageacc/render"
	"github.com/sageacc/sageacc/cmd/sageacc/render/texttab"
	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/metrics"
	"github.com/sageacc/sageacc/reference"
)

var compareWriters = map[string]func(io.Writer, *compare.Result) error{
	"table":    render.CompareText,
	"json":     func(w io.Writer, r *compare.Result) error { return render.JSON(w, r) },
	"csv":      render.CompareCSV,
	"markdown": render.CompareMarkdown,
}

func newCompare(e *env) *cobra.Command {
	var (
		dump     dumpFlags
		kernel   kernelFlags
		format   string
		out      string
		ref      string
		perHead  bool
		failIf   []string
		bitExact bool
		why      bool
		changes  int
		causes   bool
		jobs     int
	)
	cmd := &cobra.Command{
		Use:   "compare DUMP...",
		Short: "Compare reference, emulated and actual attention outputs, layer by layer",
		Long: `For each layer of the dumps: the emulated kernel against the full-precision
reference, the actual GPU output (<layer>.o of the dump, or from --actual)
against the reference, and the actual against the emulated output bit by bit.

A dump is one or more safetensors, .npz or .npy files or folders of them, with
tensors <layer>.q, .k, .v and optionally .o.

With --lse the log-sum-exp of every row's scaled scores is compared as well, as the
released API returns it (natural, corrected for a smoothed K), with that of the
dump where it has <layer>.lse, FP32 [batch, heads, tokens]. The checks do not
look at it.

With --fail-if a condition on the emulated-vs-reference row of any layer makes
the exit status 1: cos, rel_l1, rmse or max_abs, one of < <= > >=, a number.

With --explain, where an actual output is not the emulated one, it is said where
the two differ, and kernels that differ from the given one in up to two points
(accumulator, architecture, granularity, smoothing, mask, softmax scale, data
types, program, and the variants that sageacc kernels --variants lists) are tried.
Those that give the actual output bit for bit are named, or else the nearest. With
--explain-changes 3 up to three points are combined, which takes minutes.

With --attribute the kernel is run once more for each of its steps (codes of Q
and K, of P, of V, the accumulator, exp2, the output's rounding): that step alone
with all others exact, and all others with that step exact.`,
		Example: `  sageacc compare dump.safetensors
  sageacc compare dump.safetensors --kernel sage2-8b-sm89 --arch sm_90 --pv-accum fp32+fp16
  sageacc compare dump.safetensors --lse
  sageacc compare q.npz --actual out.npz --expect-bit-exact --explain
  sageacc compare dump.safetensors --kernel sage2-4b --attribute
  sageacc compare dump.safetensors --kernel sage2-4b --fail-if 'cos<0.99' --fail-if 'rel_l1>0.1' --format json -o result.json`,
		Args: needArgs("dump"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			write, err := pick(format, compareWriters)
			if err != nil {
				return fmt.Errorf("--format: %w", err)
			}
			if format == "csv" && (causes || why) {
				return fmt.Errorf("--attribute and --explain are not available with --format csv")
			}
			k, err := kernel.build(cmd)
			if err != nil {
				return err
			}
			precision, err := reference.ParsePrecision(ref)
			if err != nil {
				return fmt.Errorf("--reference: %w", err)
			}
			var checks []metrics.Expr
			for _, s := range failIf {
				x, err := metrics.ParseExpr(s)
				if err != nil {
					return fmt.Errorf("--fail-if: %w", err)
				}
				checks = append(checks, x)
			}
			if changes < 1 || changes > 3 {
				return fmt.Errorf("--explain-changes is %d: want 1, 2 or 3", changes)
			}
			if err := checkJobs(&jobs); err != nil {
				return err
			}
			d, err := dump.open(cmd, args)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, d.Close()) }()
			actual := slices.ContainsFunc(d.Layers, func(l layerdumps.Layer) bool { return l.O != nil })
			if bitExact && !actual {
				return fmt.Errorf("--expect-bit-exact: no layer has an actual output (<layer>.o) to compare")
			}
			if why && !actual {
				return fmt.Errorf("--explain: no layer has an actual output (<layer>.o) to explain")
			}
			w, err := e.open(out, d.Files)
			if err != nil {
				return err
			}
			defer w.abort()
			bar := e.progress("compare")
			opt := compare.Options{Kernel: k, Reference: precision, PerHead: perHead, LSE: dump.lse, Jobs: jobs, Progress: bar.show, MaxChanges: changes}
			res, err := compare.Run(cmd.Context(), d, opt)
			bar.erase()
			if err != nil {
				return err
			}
			res.Args = commandLine(cmd, args)
			if why {
				bar := e.progress("explain")
				opt.Progress = bar.show
				err := compare.Explain(cmd.Context(), d, res, opt)
				bar.erase()
				if err != nil {
					return err
				}
			}
			if causes {
				bar := e.progress("attribute")
				opt.Progress = bar.show
				err := compare.Attribute(cmd.Context(), d, res, opt)
				bar.erase()
				if err != nil {
					return err
				}
			}
			if err := write(w, res); err != nil {
				return err
			}
			if err := w.commit(); err != nil {
				return err
			}
			return e.check(res, checks, bitExact)
		},
	}
	dump.add(cmd, true)
	kernel.add(cmd)
	fs := cmd.Flags()
	fs.StringVar(&format, "format", "table", "output format, `table|json|csv|markdown`")
	fs.StringVarP(&out, "output", "o", "", "write to `FILE` instead of standard output")
	fs.StringVar(&ref, "reference", "fp32", "precision of the reference, `fp32|fp64`")
	fs.BoolVar(&perHead, "per-head", false, "show each head too")
	fs.StringArrayVar(&failIf, "fail-if", nil, "exit with status 1 if `EXPR` holds for a layer, as in 'cos<0.99' (repeatable)")
	fs.BoolVar(&bitExact, "expect-bit-exact", false, "exit with status 1 unless every actual output equals the emulated one bit for bit")
	fs.BoolVar(&dump.lse, "lse", false, "compare the rows' log-sum-exp too")
	fs.BoolVar(&causes, "attribute", false, "show how much of the error each step of the kernel causes")
	fs.BoolVar(&why, "explain", false, "where an actual output differs, say where and name the numerics that give it")
	fs.IntVar(&changes, "explain-changes", 2, "how many changes --explain combines, `1|2|3`")
	fs.IntVar(&jobs, "jobs", runtime.GOMAXPROCS(0), "number of goroutines `N`; changes no result")
	return cmd
}

// check reports the checks that failed, one line each.
func (e *env) check(res *compare.Result, checks []metrics.Expr, bitExact bool) error {
	failed := false
	fail := func(layer, format string, args ...any) {
		failed = true
		fmt.Fprintf(e.stderr, "sageacc: check failed: layer %s: %s\n", texttab.Cut(layer, 200), fmt.Sprintf(format, args...))
	}
	for _, l := range res.Layers {
		for _, x := range checks {
			if x.Holds(l.EmulatedVsReference) {
				metric := x.String()[:strings.IndexAny(x.String(), "<>")]
				fail(l.Name, "%s is %.9g (--fail-if %s)", metric, x.Value(l.EmulatedVsReference), x)
			}
		}
		if b := l.ActualVsEmulated; bitExact && b != nil && !b.Exact() {
			fail(l.Name, "%d of %d elements differ, %s (--expect-bit-exact)", b.Mismatched, b.Elements, render.Mismatch(b.First))
		}
	}
	if failed {
		return errChecks
	}
	return nil
}
