package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sageacc/sageacc/cmd/sageacc/render"
	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/compare/journal"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/metrics"
	"github.com/sageacc/sageacc/reference"
)

var compareWriters = map[string]func(io.Writer, *render.Compared) error{
	"table":    render.CompareText,
	"json":     compareJSON,
	"csv":      render.CompareCSV,
	"markdown": render.CompareMarkdown,
}

// compareJSON writes the result of one kernel as such, those of several as a set.
func compareJSON(w io.Writer, c *render.Compared) error {
	if len(c.Results) == 1 {
		return render.JSON(w, c.Results[0])
	}
	return render.JSON(w, compare.Set{Schema: compare.SetSchema, Args: c.Results[0].Args, Verdict: c.Verdict, Results: c.Results})
}

// compareFlags are the flags of compare.
type compareFlags struct {
	dump          dumpFlags
	kernel        kernelFlags
	gates         gateFlags
	view          viewFlags
	files         checkFiles
	format        string
	out           string
	ref           string
	perHead       bool
	why, causes   bool // --explain and --attribute
	changes, jobs int
	resume        bool
	part          shardFlag
	sample        string
	seed          uint64
}

func newCompare(e *env) *cobra.Command {
	var f compareFlags
	cmd := &cobra.Command{
		Use:   "compare DUMP...",
		Short: "Compare reference, emulated and actual attention outputs, layer by layer",
		Long: `For each layer of the dumps: the emulated kernel against the full-precision
reference, the actual GPU output (<layer>.o of the dump, or from --actual)
against the reference, and the actual against the emulated output bit by bit.

A dump is one or more safetensors, .npz or .npy files or folders of them, with
tensors <layer>.q, .k, .v and optionally .o; masks, FP8 tensors with their scales, windows
and soft caps are in docs/dumps.md.

With --lse the log-sum-exp of every row's scaled scores is compared as well, as the
released API returns it (natural, corrected for a smoothed K), with that of the
dump where it has <layer>.lse, FP32 [batch, heads, tokens]. The checks do not
look at it.

First comes the verdict: what is wrong, worst first, with layer, head and tokens.

Checks that fail make the exit status 1. --fail-if takes [ROW.]METRIC OP NUMBER:
cos, rel_l1, rmse or max_abs of emulated or actual (against the reference) or bits
(actual against emulated), without a row of emulated and actual; bits.mismatched,
bits.share (0 to 1) and bits.max_ulp; one of < <= > >=. A figure that is NaN fails.
An actual output that is NaN or infinite where the emulated one is finite fails
without being asked for, unless --allow-nonfinite is given. A check of actual or
bits where no layer has an actual output is an error.

--kernel auto is the kernel that a dump's metadata names: that of the call that was
captured, or else what sageattn() runs on the GPU; sageattn@auto is the latter, or the
SageAttention function that was called.

--kernel A,B,C compares several kernels in one table, and checks each. As JSON that
is {"schema":"sageacc/compare-set/v1","verdict":...,"results":[...]} with a whole
result for each.

With --shard I/N the I-th of N parts of the run, which cost about the same, is computed
and written to FILE; sageacc merge joins the parts to the result of one run. --shard
array/N is for tasks of a Slurm job array or a Kubernetes Indexed Job, and sageacc plan
writes such jobs.

With --sample a few tiles of query rows of each head are computed, spread over it by a
seed. What is computed is exact; cos_sim, rel_l1 and rmse of all rows are estimated,
with bounds that hold with 95% confidence. --fail-if then fails a layer if the worse
bound does, which it says. The other checks are of the rows that were computed.

With -o FILE, what is finished of a run that takes longer than a second is kept in
FILE.journal until the result is there. After a kill or an interrupt --resume goes on
with it; the result is the same to the byte.

Of many layers the table shows the worst; --top, --sort and --only-failing choose.

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
  sageacc compare dump.safetensors --kernel sage2-4b,sage2-8b-sm90 --sort actual.rel_l1 --top 5
  sageacc compare dumps/ --format json -o result.json --resume
  sageacc compare dumps/ --shard 3/8 -o part-3
  sageacc compare dumps/ --sample 4 --fail-if 'cos<0.99'
  sageacc compare dump.safetensors --fail-if 'actual.cos<0.99' --fail-if 'bits.max_ulp>2' --require-actual --junit checks.xml
  sageacc compare dump.safetensors --kernel sage2-4b --fail-if 'cos<0.99' --fail-if 'rel_l1>0.1' --format json -o result.json`,
		Args: needArgs("dump"),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(e, cmd, args) },
	}
	f.dump.add(cmd, true)
	f.kernel.add(cmd)
	cmd.Flags().Lookup("kernel").Usage += "; A,B,C for several"
	fs := cmd.Flags()
	fs.StringVar(&f.format, "format", "table", "output format, `table|json|csv|markdown`")
	fs.StringVarP(&f.out, "output", "o", "", "write to `FILE` instead of standard output")
	fs.StringVar(&f.ref, "reference", "fp32", "precision of the reference, `fp32|fp64`")
	fs.BoolVar(&f.perHead, "per-head", false, "show each head too")
	f.gates.add(cmd)
	f.view.add(cmd)
	f.files.add(cmd)
	fs.BoolVar(&f.dump.lse, "lse", false, "compare the rows' log-sum-exp too")
	fs.BoolVar(&f.causes, "attribute", false, "show how much of the error each step of the kernel causes")
	fs.BoolVar(&f.why, "explain", false, "where an actual output differs, say where and name the numerics that give it")
	fs.IntVar(&f.changes, "explain-changes", 2, "how many changes --explain combines, `1|2|3`")
	fs.IntVar(&f.jobs, "jobs", runtime.GOMAXPROCS(0), "number of goroutines `N`; changes no result")
	addResume(cmd, &f.resume)
	f.part.add(cmd)
	fs.StringVar(&f.sample, "sample", "", "compute a sample of each head's tiles and estimate, `N` tiles, a fraction as in 5%, or auto:±1% for as many as it takes")
	fs.Uint64Var(&f.seed, "sample-seed", 1, "which tiles --sample takes, a `NUMBER`")
	return cmd
}

// run is the command.
func (f *compareFlags) run(e *env, cmd *cobra.Command, args []string) (err error) {
	write, err := pick(f.format, compareWriters)
	if err != nil {
		return fmt.Errorf("--format: %w", err)
	}
	if f.format == "csv" && (f.causes || f.why) {
		return fmt.Errorf("--attribute and --explain are not available with --format csv")
	}
	kernels, err := f.kernel.buildAll(cmd)
	if err != nil {
		return err
	}
	precision, err := reference.ParsePrecision(f.ref)
	if err != nil {
		return fmt.Errorf("--reference: %w", err)
	}
	checks, err := f.gates.parse()
	if err != nil {
		return err
	}
	if err := f.view.parse(cmd, f.format); err != nil {
		return err
	}
	if f.changes < 1 || f.changes > 3 {
		return fmt.Errorf("--explain-changes is %d: want 1, 2 or 3", f.changes)
	}
	if err := checkJobs(&f.jobs); err != nil {
		return err
	}
	if err := f.part.parse(cmd, f.out); err != nil {
		return err
	}
	sampled, err := f.parseSample(cmd)
	if err != nil {
		return err
	}
	d, err := f.dump.open(cmd, args)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if err := chooseAll(cmd, kernels, d); err != nil {
		return err
	}
	if !slices.ContainsFunc(d.Layers, func(l layerdumps.Layer) bool { return l.O != nil }) {
		gate := checks.NeedsActual()
		if f.why {
			gate = "--explain"
		}
		if gate != "" {
			return fmt.Errorf("%s: no layer has an actual output (<layer>.o)", gate)
		}
	}
	opts, id, err := f.runs(cmd, d, kernels, precision, sampled)
	if err != nil {
		return err
	}
	if f.part.shard != nil {
		return e.compareShard(cmd, d, f.part, opts, id, mergeSettings{Args: commandLine(cmd, args), Gates: f.gates}, f.out, f.resume)
	}
	w, err := e.open(f.out, d.Files)
	if err != nil {
		return err
	}
	defer w.abort()
	defer f.files.abort()
	if err := f.files.open(e, f.out, d.Files); err != nil {
		return err
	}
	kept, err := e.keep(cmd.Context(), f.out, f.resume, id, d)
	if err != nil {
		return err
	}
	finished := false
	defer func() { err = errors.Join(err, kept.close(finished)) }()
	e.tellIgnored(d)
	if f.format == "csv" { // the others say it
		for _, k := range kernels {
			e.tellReported(k.kernel)
		}
	}
	var results []*compare.Result
	for i, opt := range opts {
		opt.Keep = kept.run(i, nil)
		res, err := e.compare(cmd.Context(), d, opt, f.why, f.causes)
		if err != nil {
			return err
		}
		res.Args, res.Kernel.Chosen = commandLine(cmd, args), id.Runs[i].Kernel.Chosen
		results = append(results, res)
	}
	made, err := comparedFlags{&f.view, &f.files, f.format}.write(results, checks, write, w)
	if err != nil {
		return err
	}
	finished = true
	return e.check(results, made, checks)
}

// parseSample reads --sample; nil if it was not given.
func (f *compareFlags) parseSample(cmd *cobra.Command) (*compare.Sample, error) {
	if !cmd.Flags().Changed("sample") {
		if cmd.Flags().Changed("sample-seed") {
			return nil, fmt.Errorf("--sample-seed is for --sample")
		}
		return nil, nil
	}
	s, err := compare.ParseSample(f.sample)
	if err != nil {
		return nil, fmt.Errorf("--sample: %w", err)
	}
	if s.Within > 0 && f.part.shard != nil {
		return nil, fmt.Errorf("--sample %s is not for --shard: how much there is to do must be known", f.sample)
	}
	s.Seed = f.seed
	return s, nil
}

// runs are the runs of the kernels, and what a journal of them is of.
func (f *compareFlags) runs(cmd *cobra.Command, d *layerdumps.Dump, kernels []*listed, precision reference.Precision, sampled *compare.Sample) (opts []compare.Options, id journal.Identity, err error) {
	id = identity(cmd, map[string]string{"reference": precision.String(), "explain-changes": strconv.Itoa(f.changes)})
	if sampled != nil {
		id.Options["sample"] = fmt.Sprintf("%v, seed %d", sampled, sampled.Seed)
	}
	for _, k := range kernels {
		opt := compare.Options{Kernel: k.kernel, Reference: precision, PerHead: f.perHead, LSE: f.dump.lse, Jobs: f.jobs, MaxChanges: f.changes, Sample: sampled}
		r := journal.Run{Kernel: compare.Describe(opt.Kernel), QueryTile: compare.QueryTile(opt.Kernel)}
		r.Kernel.Chosen = k.flags.choice()
		if r.Layers, err = compare.Outlines(d, opt); err != nil {
			return nil, id, err
		}
		opts, id.Runs = append(opts, opt), append(id.Runs, r)
	}
	return opts, id, nil
}

// comparedFlags say how results are written.
type comparedFlags struct {
	view   *viewFlags
	files  *checkFiles
	format string
}

// write checks results, and writes them and the outcome of the checks, which it returns.
func (f comparedFlags) write(results []*compare.Result, checks *compare.Gates, write func(io.Writer, *render.Compared) error, w *output) ([]compare.Check, error) {
	var made []compare.Check
	for _, res := range results {
		own := res.Check(*checks)
		res.Verdict = compare.Judge([]*compare.Result{res}, own)
		made = append(made, own...)
	}
	c := render.Compared{Results: results, Verdict: results[0].Verdict}
	if len(results) > 1 {
		c.Verdict = compare.Judge(results, made)
	}
	c.Layers, c.Left = f.view.selection(results, f.format).Select(results, c.Verdict, made)
	if err := write(w, &c); err != nil {
		return nil, err
	}
	if err := w.commit(); err != nil {
		return nil, err
	}
	failed := failures(made, len(results) > 1)
	return made, f.files.write(render.Outcome{Title: "sageacc compare", Verdict: c.Verdict.Lines, Cases: render.CasesOf(made), Failures: failed}, func(w io.Writer) error {
		c := c // without the verdict, which stands in front
		c.Layers, c.Left = f.view.selection(results, "markdown").Select(results, c.Verdict, made)
		c.Verdict = nil
		return render.CompareMarkdown(w, &c)
	})
}

// compare runs one kernel, and explains and attributes what it gives.
func (e *env) compare(ctx context.Context, d *layerdumps.Dump, opt compare.Options, why, causes bool) (*compare.Result, error) {
	of := ""
	if name := opt.Kernel.Program().Name; name != "" {
		of = " " + name
	}
	bar := e.progress("compare" + of)
	opt.Progress, opt.Skipped, opt.LayerDone = bar.show, bar.skip, bar.layer
	res, err := compare.Run(ctx, d, opt)
	bar.erase()
	if err != nil {
		return nil, err
	}
	for _, more := range []struct {
		wanted bool
		label  string
		run    func(context.Context, *layerdumps.Dump, *compare.Result, compare.Options) error
	}{{why, "explain", compare.Explain}, {causes, "attribute", compare.Attribute}} {
		if !more.wanted {
			continue
		}
		bar := e.progress(more.label + of)
		opt.Progress = bar.show
		err := more.run(ctx, d, res, opt)
		bar.erase()
		if err != nil {
			return nil, err
		}
	}
	return res, nil
}

// gateFlags are the checks of a result, as they are given.
type gateFlags struct {
	FailIf        []string `json:"fail_if,omitempty"`
	BitExact      bool     `json:"expect_bit_exact,omitempty"`
	RequireActual bool     `json:"require_actual,omitempty"`
	NonFinites    bool     `json:"allow_nonfinite,omitempty"`
}

func (f *gateFlags) add(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringArrayVar(&f.FailIf, "fail-if", nil, "exit with status 1 if `EXPR` holds for a layer, as in 'cos<0.99' or 'bits.max_ulp>2' (repeatable)")
	fs.BoolVar(&f.BitExact, "expect-bit-exact", false, "exit with status 1 unless every actual output equals the emulated one bit for bit")
	fs.BoolVar(&f.RequireActual, "require-actual", false, "exit with status 1 if a layer has no actual output")
	fs.BoolVar(&f.NonFinites, "allow-nonfinite", false, "let actual outputs be NaN or infinite where the emulated ones are finite")
}

func (f *gateFlags) parse() (*compare.Gates, error) {
	g := &compare.Gates{BitExact: f.BitExact, RequireActual: f.RequireActual, AllowNonFinite: f.NonFinites}
	for _, s := range f.FailIf {
		x, err := metrics.ParseGate(s)
		if err != nil {
			return nil, fmt.Errorf("--fail-if: %w", err)
		}
		g.FailIf = append(g.FailIf, x)
	}
	return g, nil
}

// viewFlags say which layers a table shows.
type viewFlags struct {
	sort    string
	top     int
	failing bool

	figure *metrics.Figure
	given  bool // top
}

func (f *viewFlags) add(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.sort, "sort", "", "show the layers that are worst by this [ROW.]`METRIC` first, as in actual.rel_l1")
	fs.IntVar(&f.top, "top", 0, "show `N` layers at most, 0 for all (default: as many as fit a screen)")
	fs.BoolVar(&f.failing, "only-failing", false, "show only layers that fail a check or, without checks, that the verdict names")
}

func (f *viewFlags) parse(cmd *cobra.Command, format string) error {
	f.given = cmd.Flags().Changed("top")
	if format == "json" {
		for _, name := range []string{"sort", "top", "only-failing"} {
			if cmd.Flags().Changed(name) {
				return fmt.Errorf("--%s is not for --format json, which holds every layer in order", name)
			}
		}
	}
	if f.top < 0 {
		return fmt.Errorf("--top is %d: want at least 0", f.top)
	}
	if f.sort != "" {
		x, err := metrics.ParseFigure(f.sort)
		if err != nil {
			return fmt.Errorf("--sort: %w", err)
		}
		f.figure = &x
	}
	return nil
}

// A table of more rows than screen shows only the worst layers, in about shown rows.
const (
	screen = 40
	shown  = 24
)

// selection is what was asked for; tables that people read fit a screen by default.
func (f *viewFlags) selection(results []*compare.Result, format string) compare.Selection {
	s := compare.Selection{Sort: f.figure, Failing: f.failing, Top: f.top}
	if f.given || format == "json" || format == "csv" {
		s.Worst = f.top > 0
		return s
	}
	rows, each := 0, 1
	for i := range results[0].Layers {
		n := render.RowsOf(results, i)
		rows, each = rows+n, max(each, n)
	}
	if rows > screen {
		s.Worst, s.Top = true, max(1, shown/each)
	}
	return s
}

// check reports the checks that failed, one line each.
func (e *env) check(results []*compare.Result, made []compare.Check, g *compare.Gates) error {
	if g.BitExact {
		for _, r := range results {
			v := r.Verdict
			of := ""
			if len(results) > 1 {
				of = r.Kernel.Name + ": "
			}
			rows := ""
			if r.SampleText() != "" {
				rows = " in the rows of the sample"
			}
			fmt.Fprintf(e.stderr, "sageacc: --expect-bit-exact: %schecked %d of %d layers, %d of them bit-exact%s\n", of, v.Actual, v.Layers, v.Exact, rows)
		}
	}
	return e.report(failures(made, len(results) > 1))
}

// failures says which checks failed, the worst first.
func failures(made []compare.Check, several bool) []string {
	var out []string
	for _, c := range compare.Failures(made) {
		of := ""
		if several {
			of = ", " + c.Kernel
		}
		gate := c.Gate
		if !strings.HasPrefix(gate, "--") {
			gate = "see --allow-nonfinite"
		}
		out = append(out, fmt.Sprintf("layer %s%s: %s (%s)", c.Layer, of, c.Text, gate))
	}
	return out
}
