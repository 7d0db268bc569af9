package main

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sageacc/sageacc/cmd/sageacc/render"
	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/compare/journal"
	"github.com/sageacc/sageacc/compare/recommend"
	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/metrics"
	"github.com/sageacc/sageacc/reference"
)

func newRecommend(e *env) *cobra.Command {
	var (
		dump    dumpFlags
		require []string
		kernels []string
		format  string
		out     string
		ref     string
		jobs    int
		resume  bool
	)
	cmd := &cobra.Command{
		Use:   "recommend DUMP... --require EXPR",
		Short: "Pick for each layer the cheapest kernel that is accurate enough",
		Long: `For each layer the first of the kernels, cheapest first, whose emulated output
fulfils every --require expression against the reference; fp16 where none does:
leave that layer as it is.`,
		Example: `  sageacc recommend dump.safetensors --require 'cos>=0.995'
  sageacc recommend dump.safetensors --require 'cos>=0.99' --require 'rel_l1<0.1' --kernels sage2-4b,sage2-8b-sm89`,
		Args: needArgs("dump"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			write, err := pick(format, map[string]func(io.Writer, *recommend.Result) error{
				"table":    render.RecommendText,
				"markdown": render.RecommendMarkdown,
				"json":     func(w io.Writer, r *recommend.Result) error { return render.JSON(w, r) },
			})
			if err != nil {
				return fmt.Errorf("--format: %w", err)
			}
			opt := recommend.Options{Jobs: jobs}
			if opt.Reference, err = reference.ParsePrecision(ref); err != nil {
				return fmt.Errorf("--reference: %w", err)
			}
			if len(require) == 0 {
				return fmt.Errorf("recommend: no requirement given (--require 'cos>=0.99', say)")
			}
			for _, s := range require {
				x, err := metrics.ParseExpr(s)
				if err != nil {
					return fmt.Errorf("--require: %w", err)
				}
				opt.Require = append(opt.Require, x)
			}
			for _, name := range kernels {
				p, err := program.Load(name)
				if err != nil {
					return fmt.Errorf("--kernels: %w", err)
				}
				opt.Kernels = append(opt.Kernels, p)
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
			e.tellIgnored(d)
			return e.recommend(cmd, d, out, resume, opt, func(res *recommend.Result) error {
				if err := write(w, res); err != nil {
					return err
				}
				return w.commit()
			})
		},
	}
	dump.add(cmd, false)
	fs := cmd.Flags()
	fs.StringArrayVar(&require, "require", nil, "what the output must fulfil against the reference, `EXPR` as in 'cos>=0.99' (repeatable)")
	fs.StringSliceVar(&kernels, "kernels", []string{"sage2-4b", "sage2-8b-sm90"}, "candidates, cheapest first, `LIST`")
	fs.StringVar(&format, "format", "table", "output format, `table|json|markdown`")
	fs.StringVarP(&out, "output", "o", "", "write to `FILE` instead of standard output")
	fs.StringVar(&ref, "reference", "fp32", "precision of the reference, `fp32|fp64`")
	fs.IntVar(&jobs, "jobs", runtime.GOMAXPROCS(0), "number of goroutines `N`; changes no result")
	addResume(cmd, &resume)
	return cmd
}

// recommend finds the choices with a journal beside out, and hands the result to write.
func (e *env) recommend(cmd *cobra.Command, d *layerdumps.Dump, out string, resume bool, opt recommend.Options, write func(*recommend.Result) error) (err error) {
	id, err := recommendIdentity(cmd, d, opt)
	if err != nil {
		return err
	}
	kept, err := e.keep(cmd.Context(), out, resume, id, d)
	if err != nil {
		return err
	}
	finished := false
	defer func() { err = errors.Join(err, kept.close(finished)) }()
	bar := e.progress("recommend")
	opt.Progress, opt.Skipped, opt.Keep = bar.show, bar.skip, kept.run
	res, err := recommend.Run(cmd.Context(), d, opt)
	bar.erase()
	if err == nil {
		err = write(res)
	}
	finished = err == nil
	return err
}

// recommendIdentity is what the journal of a recommendation is of.
func recommendIdentity(cmd *cobra.Command, d *layerdumps.Dump, opt recommend.Options) (journal.Identity, error) {
	var require []string
	for _, x := range opt.Require {
		require = append(require, x.String())
	}
	id := identity(cmd, map[string]string{"reference": opt.Reference.String(), "requirements": strings.Join(require, ", ")})
	for _, p := range opt.Kernels {
		k, err := emulate.New(p)
		if err != nil {
			return id, err
		}
		id.Runs = append(id.Runs, journal.Run{Kernel: compare.Describe(k)})
	}
	id.Layers = journal.LayersOf(d)
	return id, nil
}
