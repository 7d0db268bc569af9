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
	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/compare/journal"
	"github.com/sageacc/sageacc/compare/tables"
	"github.com/sageacc/sageacc/hardware/probe"
	"github.com/sageacc/sageacc/kernels/launch"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/reference"
)

func newTable(e *env) *cobra.Command {
	var (
		dump             dumpFlags
		format, out, ref string
		paper, gpu       bool
		jobs             int
		resume           bool
		top              int
	)
	cmd := &cobra.Command{
		Use:   "table NAME... DUMP...",
		Short: "Regenerate the paper's accuracy tables on a dump",
		Long: `Measures the methods of the SageAttention2 paper (arXiv 2411.10958) on the layers
of the dumps, average and worst over layers, cosine similarity, relative L1 and
RMSE. NAME is ` + strings.Join(tables.Names(), ", ") + `, or all; or
accumulator-probe, which needs no dump: the mantissa bits that each matrix unit's
accumulator keeps, of the emulated units and with --gpu of this GPU's. With
--paper the paper's figures stand beside the measured ones; they are of other
activations (CogVideoX), so compare the order of the methods, not the digits.

The tables methods (FlashAttention-2, xformers, FlashAttention-3 and its FP8, and the
Sage kernels) and gpus (what sageattn() runs on each GPU) are of whole kernels, and
have each layer's figures too. Many of those kernels run in portable Go, and a dump of
many layers takes minutes: --layers chooses some.`,
		Example: `  sageacc table smoothing dump.safetensors --paper
  sageacc table methods dump.safetensors --layers 'layers\.(0|3)' --top 2
  sageacc table all dumps/ --format markdown -o tables.md
  sageacc table accumulator-probe`,
		Args: needArgs("table"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if slices.Contains(args, accumulatorProbe) {
				if len(args) > 1 {
					return fmt.Errorf("table: %s stands alone: it needs no dump", accumulatorProbe)
				}
				return probeAccumulators(e, format, out, gpu)
			}
			if gpu {
				return fmt.Errorf("--gpu is for %s", accumulatorProbe)
			}
			write, err := pick(format, tableWriters(paper, top))
			if err != nil {
				return fmt.Errorf("--format: %w", err)
			}
			precision, err := reference.ParsePrecision(ref)
			if err != nil {
				return fmt.Errorf("--reference: %w", err)
			}
			if err := checkJobs(&jobs); err != nil {
				return err
			}
			if top < 0 {
				return fmt.Errorf("--top is %d: want at least 0", top)
			}
			names, dumps, err := splitTables(args)
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("top") {
				if format != "table" && format != "markdown" {
					return fmt.Errorf("--top is not for --format %s, which holds all", format)
				}
				if !slices.Contains(names, "methods") && !slices.Contains(names, "gpus") {
					return fmt.Errorf("--top is for the tables methods and gpus")
				}
			}
			d, err := dump.open(cmd, dumps)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, d.Close()) }()
			w, err := e.open(out, d.Files)
			if err != nil {
				return err
			}
			defer w.abort()
			e.tellIgnored(d)
			return e.tables(cmd, d, out, resume, names, tables.Options{Reference: precision, Jobs: jobs}, func(res *tables.Result) error {
				res.Args = commandLine(cmd, args)
				if err := write(w, res); err != nil {
					return err
				}
				return w.commit()
			})
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			return append(tables.Names(), "all", accumulatorProbe), cobra.ShellCompDirectiveDefault
		},
	}
	dump.add(cmd, false)
	fs := cmd.Flags()
	fs.StringVar(&format, "format", "table", "output format, `table|json|csv|markdown`")
	fs.StringVarP(&out, "output", "o", "", "write to `FILE` instead of standard output")
	fs.StringVar(&ref, "reference", "fp32", "precision of the reference, `fp32|fp64`")
	fs.BoolVar(&paper, "paper", false, "put the paper's figures beside the measured ones")
	fs.BoolVar(&gpu, "gpu", false, "accumulator-probe: probe this machine's GPU too")
	fs.IntVar(&top, "top", 5, "methods and gpus: show `N` layers one by one at most, the worst, 0 for all")
	fs.IntVar(&jobs, "jobs", runtime.GOMAXPROCS(0), "number of goroutines `N`; changes no result")
	addResume(cmd, &resume)
	return cmd
}

// tableWriters are the formats of tables.
func tableWriters(paper bool, top int) map[string]func(io.Writer, *tables.Result) error {
	return map[string]func(io.Writer, *tables.Result) error{
		"table":    func(w io.Writer, r *tables.Result) error { return render.TableText(w, r, paper, top) },
		"markdown": func(w io.Writer, r *tables.Result) error { return render.TableMarkdown(w, r, paper, top) },
		"csv":      render.TableCSV,
		"json":     func(w io.Writer, r *tables.Result) error { return render.JSON(w, r) },
	}
}

// tables measures tables with a journal beside out, and hands the result to write.
func (e *env) tables(cmd *cobra.Command, d *layerdumps.Dump, out string, resume bool, names []string, opt tables.Options, write func(*tables.Result) error) (err error) {
	id, err := tableIdentity(cmd, d, names, opt.Reference)
	if err != nil {
		return err
	}
	kept, err := e.keep(cmd.Context(), out, resume, id, d)
	if err != nil {
		return err
	}
	finished := false
	defer func() { err = errors.Join(err, kept.close(finished)) }()
	bar := e.progress("table")
	opt.Progress, opt.Skipped, opt.Keep = bar.show, bar.skip, kept.run
	res, err := tables.Run(cmd.Context(), names, d, opt)
	bar.erase()
	if err == nil {
		err = write(res)
	}
	finished = err == nil
	return err
}

// tableIdentity is what the journal of tables is of.
func tableIdentity(cmd *cobra.Command, d *layerdumps.Dump, names []string, precision reference.Precision) (journal.Identity, error) {
	methods, err := tables.Methods(names)
	if err != nil {
		return journal.Identity{}, err
	}
	var list []string
	var kernels []compare.KernelInfo
	for _, m := range methods {
		list, kernels = append(list, m.Table+"/"+m.Name), append(kernels, compare.Describe(m.Kernel))
	}
	id := identity(cmd, map[string]string{"reference": precision.String(), "methods": strings.Join(list, ", ")}, kernels...)
	id.Layers = journal.LayersOf(d)
	return id, nil
}

// accumulatorProbe is the name of the table without a dump.
const accumulatorProbe = "accumulator-probe"

func probeAccumulators(e *env, format, out string, gpu bool) error {
	write, err := pick(format, map[string]func(io.Writer, []probe.Accumulator) error{
		"table":    render.AccumulatorsText,
		"markdown": render.AccumulatorsMarkdown,
		"json":     func(w io.Writer, r []probe.Accumulator) error { return render.JSON(w, r) },
	})
	if err != nil {
		return fmt.Errorf("--format: %w", err)
	}
	rows, err := probe.EmulatedAccumulators()
	if err != nil {
		return err
	}
	if gpu {
		dev, err := launch.Open()
		if err != nil {
			return err
		}
		defer dev.Close()
		more, err := probe.New(dev).Accumulators()
		if err != nil {
			return err
		}
		rows = append(rows, more...)
	}
	w, err := e.open(out, nil)
	if err != nil {
		return err
	}
	defer w.abort()
	if err := write(w, rows); err != nil {
		return err
	}
	return w.commit()
}

// splitTables takes the names of tables, which come first, from the dumps.
func splitTables(args []string) (names, dumps []string, err error) {
	for len(args) > 0 && (args[0] == "all" || slices.Contains(tables.Names(), args[0])) {
		if args[0] == "all" {
			names = append(names, tables.Names()...)
		} else {
			names = append(names, args[0])
		}
		args = args[1:]
	}
	dumps = args
	have := strings.Join(tables.Names(), ", ") + ", all, " + accumulatorProbe
	switch {
	case names == nil:
		return nil, nil, fmt.Errorf("table: %q is not a table (have %s)", args[0], have)
	case len(dumps) == 0:
		return nil, nil, fmt.Errorf("table: no dump given (see sageacc table --help)")
	}
	var once []string
	for _, n := range names {
		if !slices.Contains(once, n) {
			once = append(once, n)
		}
	}
	return once, dumps, nil
}
