package main

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sageacc/sageacc/cmd/sageacc/render"
	"github.com/sageacc/sageacc/compare/identify"
)

func newIdentify(e *env) *cobra.Command {
	var (
		dump        dumpFlags
		format, out string
		jobs        int
	)
	cmd := &cobra.Command{
		Use:   "identify DUMP...",
		Short: "Find out which kernel wrote the actual outputs",
		Long: `Tries every known kernel, and what sageattn() runs on each GPU, on every layer with an
actual output (<layer>.o), and names the one that gives it bit for bit, or those that
this output cannot tell apart. Where none does, all are tried on every architecture that
has their units; then the six that came nearest with one of the settings that callers and
versions choose (accumulator, granularity, smoothing, quantiser, alignment of the causal
mask, softmax scale, the number of multiprocessors and with it FlashAttention-2's splits,
Triton's order of sums), the nearest three with two of them; and the six with any one
change that compare --explain knows. If none gives the output, the nearest
are named. Hypotheses are tried on a few rows of a head first; what is called bit for bit
was compared on the whole layer.

The exit status is 0 if every layer that has an actual output was identified, 1 if one
was not, and 2 if none has any.`,
		Example: `  sageacc identify dump.safetensors
  sageacc identify q.npz --actual out.npz --layers 'layers\.0\.' --format json -o origin.json`,
		Args: needArgs("dump"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			write, err := pick(format, map[string]func(io.Writer, *identify.Result) error{
				"table": render.IdentifyText,
				"json":  func(w io.Writer, r *identify.Result) error { return render.JSON(w, r) },
			})
			if err != nil {
				return fmt.Errorf("--format: %w", err)
			}
			if err := checkJobs(&jobs); err != nil {
				return err
			}
			d, err := dump.open(cmd, args)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, d.Close()) }()
			w, err := e.open(out, d.Files)
			if err != nil {
				return err
			}
			defer w.abort()
			bar := e.progress("identify")
			res, err := identify.Run(cmd.Context(), d, identify.Options{Jobs: jobs, Progress: bar.show})
			bar.erase()
			if errors.Is(err, identify.ErrNoOutput) {
				err = fmt.Errorf("%s: %w", strings.Join(args, ", "), err)
			}
			if err != nil {
				return err
			}
			res.Args = commandLine(cmd, args)
			if err := write(w, res); err != nil {
				return err
			}
			if err := w.commit(); err != nil {
				return err
			}
			var failures []string
			for i := range res.Layers {
				if l := &res.Layers[i]; len(l.Exact) == 0 {
					failures = append(failures, fmt.Sprintf("layer %s: not identified", l.Name))
				}
			}
			return e.report(failures)
		},
	}
	dump.add(cmd, true)
	fs := cmd.Flags()
	fs.StringVar(&format, "format", "table", "output format, `table|json`")
	fs.StringVarP(&out, "output", "o", "", "write to `FILE` instead of standard output")
	fs.IntVar(&jobs, "jobs", runtime.GOMAXPROCS(0), "number of goroutines `N`; changes no result")
	return cmd
}
