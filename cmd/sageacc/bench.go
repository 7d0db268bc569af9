package main

import (
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/sageacc/sageacc/cmd/sageacc/bench"
	"github.com/sageacc/sageacc/cmd/sageacc/render"
)

func newBench(e *env) *cobra.Command {
	var format string
	var opt bench.Options
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure how fast this machine emulates, to plan a run",
		Long: `Emulates heads of random values with every kernel and computes their reference, as
many together as goroutines, up to 16, and prints the time of one and the rate. A
layer takes the time of a head, emulated and reference, times its heads; time grows
linearly with heads and quadratically with tokens.`,
		Example: `  sageacc bench
  sageacc bench --tokens 16384 --head-dim 64 --causal`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			write, err := pick(format, map[string]func(io.Writer, render.Bench) error{
				"table": func(w io.Writer, b render.Bench) error { return b.Text(w) },
				"json":  func(w io.Writer, b render.Bench) error { return render.JSON(w, b) },
			})
			if err != nil {
				return fmt.Errorf("--format: %w", err)
			}
			switch {
			case opt.Tokens < 1 || opt.Tokens > 1<<20:
				return fmt.Errorf("--tokens is %d: want 1 to %d", opt.Tokens, 1<<20)
			case opt.HeadDim < 1 || opt.HeadDim > 128:
				return fmt.Errorf("--head-dim is %d: want 1 to 128", opt.HeadDim)
			case opt.MinTime < 0:
				return fmt.Errorf("--min-time is %v: want at least 0", opt.MinTime)
			}
			if err := checkJobs(&opt.Jobs); err != nil {
				return err
			}
			rows, err := bench.Run(cmd.Context(), opt, nil)
			if err != nil {
				return err
			}
			return write(e.stdout, render.Bench{Schema: render.BenchSchema, Rows: rows})
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&format, "format", "table", "output format, `table|json`")
	fs.IntVar(&opt.Tokens, "tokens", 4096, "queries and keys of the head")
	fs.IntVar(&opt.HeadDim, "head-dim", 128, "channels of the head")
	fs.BoolVar(&opt.Causal, "causal", false, "with a causal mask")
	fs.DurationVar(&opt.MinTime, "min-time", time.Second, "measure each row for at least this long, `DURATION`")
	fs.IntVar(&opt.Jobs, "jobs", runtime.GOMAXPROCS(0), "number of goroutines `N`")
	return cmd
}
