package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sageacc/sageacc/cmd/sageacc/render"
	"github.com/sageacc/sageacc/hardware/conformance"
	"github.com/sageacc/sageacc/hardware/probe"
	"github.com/sageacc/sageacc/hardware/record"
	"github.com/sageacc/sageacc/hardware/validate"
	"github.com/sageacc/sageacc/internal/datafile"
	"github.com/sageacc/sageacc/kernels"
	"github.com/sageacc/sageacc/kernels/launch"
	"github.com/sageacc/sageacc/kernels/manifest"
	"github.com/sageacc/sageacc/layerdumps"
)

// gpuFlags choose kernels and the cases that they run on.
type gpuFlags struct {
	kernels          []string
	module, manifest string
	size             string
	shapes           []string
	dtypes, masks    []string
	distributions    string
	seed             uint64
	dump             dumpFlags
}

func (f *gpuFlags) add(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringSliceVar(&f.kernels, "kernel", nil, "this project's kernels to run, `"+strings.Join(kernels.Names(), "|")+"` (default: all that this GPU can run)")
	fs.StringVar(&f.module, "module", "", "a kernel of yours: PTX or cubin `FILE`")
	fs.StringVar(&f.manifest, "manifest", "", "how to run it and what it claims to be: YAML `FILE`")
	fs.StringVar(&f.size, "size", "small", "which shapes, `small|large`")
	fs.StringArrayVar(&f.shapes, "shape", nil, "this shape instead, `BxH/KVxNQxNKxD` (repeatable)")
	fs.StringSliceVar(&f.dtypes, "dtype", []string{"f16", "bf16"}, "input formats, `f16,bf16`")
	fs.StringSliceVar(&f.masks, "mask", []string{"full", "causal"}, "masks, `full,causal`")
	fs.StringVar(&f.distributions, "distribution", "", "only input distributions that match this `REGEX`")
	fs.Uint64Var(&f.seed, "seed", 1, "seed of the generated inputs")
	f.dump.add(cmd, false)
}

// Flags that single instructions have no use for: those that choose kernels, and
// those that choose the cases that kernels run on.
var (
	choiceFlags = []string{"kernel", "module", "manifest"}
	matrixFlags = []string{"size", "shape", "dtype", "mask", "distribution"}
	layerFlags  = []string{"layers", "layout", "causal", "sm-scale", "names"}
	caseFlags   = slices.Concat(matrixFlags, layerFlags)
)

// given reports whether any of the flags is on the command line.
func given(cmd *cobra.Command, flags ...string) bool {
	return slices.ContainsFunc(flags, cmd.Flags().Changed)
}

// refuse is the error of the first of the flags that is on the command line, where it
// would do nothing. why says what is wrong with it.
func refuse(cmd *cobra.Command, why string, flags ...string) error {
	if i := slices.IndexFunc(flags, cmd.Flags().Changed); i >= 0 {
		return fmt.Errorf("--%s %s", flags[i], why)
	}
	return nil
}

// chosen returns the kernels, and whether the user named them.
func (f *gpuFlags) chosen() ([]*kernels.Kernel, bool, error) {
	if (f.module == "") != (f.manifest == "") {
		return nil, false, errors.New("a kernel of yours needs both --module and --manifest")
	}
	if f.module != "" {
		if len(f.kernels) > 0 {
			return nil, false, errors.New("--kernel and --module exclude each other")
		}
		const largest = 1 << 28
		image, err := datafile.ReadAll(f.module, largest)
		if err != nil {
			return nil, false, err
		}
		m, err := manifest.Open(f.manifest)
		if err != nil {
			return nil, false, err
		}
		if err := manifest.CheckImage(m, image); err != nil {
			return nil, false, fmt.Errorf("%s: %w", f.module, err)
		}
		return []*kernels.Kernel{{Manifest: m, Image: image}}, true, nil
	}
	names, named := f.kernels, true
	if len(names) == 0 {
		names, named = kernels.Names(), false
	}
	var ks []*kernels.Kernel
	for _, n := range unique(names) {
		k, err := kernels.Named(n)
		if err != nil {
			return nil, false, fmt.Errorf("--kernel: %w", err)
		}
		ks = append(ks, k)
	}
	return ks, named, nil
}

// unique returns x without what it has already had: a case that is asked for twice
// is run once.
func unique[T comparable](x []T) []T {
	var out []T
	for _, v := range x {
		if !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	return out
}

// cases returns the cases, those of a dump if one is given, and then the dump.
func (f *gpuFlags) cases(cmd *cobra.Command, args []string) ([]validate.Case, *layerdumps.Dump, error) {
	if len(args) > 0 {
		if err := refuse(cmd, "is for generated inputs, and a dump has its own", matrixFlags...); err != nil {
			return nil, nil, err
		}
		d, err := f.dump.open(cmd, args)
		if err != nil {
			return nil, nil, err
		}
		return validate.LayerCases(d), d, nil
	}
	if err := refuse(cmd, "is for a dump, and none is given", layerFlags...); err != nil {
		return nil, nil, err
	}
	m := validate.Matrix{Seed: f.seed}
	var err error
	if m.Shapes, err = validate.Shapes(f.size); err != nil {
		return nil, nil, fmt.Errorf("--size: %w", err)
	}
	if len(f.shapes) > 0 {
		m.Shapes = nil
		for _, text := range f.shapes {
			s, err := validate.ParseShape(text)
			if err != nil {
				return nil, nil, fmt.Errorf("--shape: %w", err)
			}
			m.Shapes = append(m.Shapes, s)
		}
		m.Shapes = unique(m.Shapes)
	}
	for _, d := range unique(f.dtypes) {
		if d != "f16" && d != "bf16" {
			return nil, nil, fmt.Errorf("--dtype: unknown format %q (have f16, bf16)", d)
		}
		m.DTypes = append(m.DTypes, d)
	}
	for _, mask := range unique(f.masks) {
		if mask != "full" && mask != "causal" {
			return nil, nil, fmt.Errorf("--mask: unknown mask %q (have full, causal)", mask)
		}
		m.Causal = append(m.Causal, mask == "causal")
	}
	if f.distributions != "" {
		if m.Distributions, err = regexp.Compile(f.distributions); err != nil {
			return nil, nil, fmt.Errorf("--distribution %q: %w", f.distributions, err)
		}
	}
	cases := m.Cases()
	if len(cases) == 0 {
		return nil, nil, errors.New("no case to run: no distribution matches, or a list is empty")
	}
	return cases, new(layerdumps.Dump), nil
}

// units returns the units whose instruction matches.
func units(pattern string) ([]probe.Unit, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, fmt.Errorf("--units %q: %w", pattern, err)
	}
	var out []probe.Unit
	for _, u := range probe.Units() {
		if re.MatchString(u.Instruction) {
			out = append(out, u)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("--units %q matches no instruction", pattern)
	}
	return out, nil
}

// validateFlags are the flags of validate.
type validateFlags struct {
	gpuFlags
	format, out string
	unitPattern string // --units
	results     int64
	search      bool // --explain
	jobs        int
}

func newValidate(e *env) *cobra.Command {
	var f validateFlags
	cmd := &cobra.Command{
		Use:   "validate [DUMP...]",
		Short: "Run kernels on this GPU and compare them with the emulator, bit by bit",
		Long: `Runs this project's attention kernels, or one of yours, on this machine's GPU and
compares every output element with the emulated kernel: over a matrix of shapes,
masks, formats and input distributions, or on the layers of a dump. With --units
it runs single instructions instead. The exit status is 1 on a difference.

Needs a build with the tag cuda (see the README) and an NVIDIA driver.`,
		Example: `  sageacc validate
  sageacc validate --kernel sage2-8b-sm90 --size large --format json -o result.json
  sageacc validate --module mine.cubin --manifest mine.yaml --explain
  sageacc validate --units 'wgmma|ex2' --results 1000000000`,
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(e, cmd, args) },
	}
	f.add(cmd)
	fs := cmd.Flags()
	fs.StringVar(&f.format, "format", "table", "output format, `table|json`")
	fs.StringVarP(&f.out, "output", "o", "", "write to this `FILE`")
	fs.BoolVar(&f.search, "explain", false, "search for the cause of the first difference")
	fs.StringVar(&f.unitPattern, "units", "", "validate the instructions that match this `REGEX` instead of kernels")
	fs.Int64Var(&f.results, "results", 1<<24, "results of each instruction `N`; 2^32 and more try every input of those that have one")
	fs.IntVar(&f.jobs, "jobs", runtime.GOMAXPROCS(0), "goroutines of the emulator `N`")
	return cmd
}

// run is the command.
func (f *validateFlags) run(e *env, cmd *cobra.Command, args []string) error {
	if err := checkJobs(&f.jobs); err != nil {
		return err
	}
	if f.unitPattern != "" {
		if len(args) > 0 {
			return errors.New("--units excludes dumps")
		}
		if err := refuse(cmd, "is for kernels, and --units excludes them", slices.Concat(choiceFlags, caseFlags, []string{"explain"})...); err != nil {
			return err
		}
		return validateUnits(cmd, e, f.unitPattern, f.results, f.seed, f.format, f.out)
	}
	if err := refuse(cmd, "is for instructions: it needs --units", "results"); err != nil {
		return err
	}
	write, err := pick(f.format, map[string]func(io.Writer, []*validate.Report) error{
		"table": render.ValidateText,
		"json":  func(w io.Writer, r []*validate.Report) error { return render.JSON(w, r) },
	})
	if err != nil {
		return fmt.Errorf("--format: %w", err)
	}
	ks, named, err := f.chosen()
	if err != nil {
		return err
	}
	cases, dump, err := f.cases(cmd, args)
	if err != nil {
		return err
	}
	defer dump.Close()
	dev, err := launch.Open()
	if err != nil {
		return err
	}
	defer dev.Close()
	inputs := dump.Files
	for _, k := range ks {
		// A manifest may name a description beside it.
		inputs = append(inputs, filepath.Join(filepath.Dir(f.manifest), k.Manifest.Emulates.Kernel))
	}
	w, err := e.open(f.out, inputs)
	if err != nil {
		return err
	}
	defer w.abort()
	e.tellIgnored(dump)
	var reports []*validate.Report
	bar := e.progress("validate")
	var unfit error
	for _, k := range ks {
		if err := k.Manifest.Runs(dev.SM()); err != nil && !named {
			unfit = err
			continue
		}
		gpu, err := validate.NewGPU(dev, k.Manifest, k.Image)
		if err != nil {
			return err
		}
		rep, err := validate.Run(cmd.Context(), gpu, k.Manifest, dev.Name(), dev.Arch(), cases, validate.Options{Explain: f.search, Jobs: f.jobs, Progress: bar.show})
		if err != nil {
			bar.erase()
			return err
		}
		reports = append(reports, rep)
	}
	bar.erase()
	if len(reports) == 0 {
		return unfit
	}
	if err := write(w, reports); err != nil {
		return err
	}
	if err := w.commit(); err != nil {
		return err
	}
	failed, ran := 0, 0
	for _, r := range reports {
		failed += r.Failed
		ran += r.Passed + r.Failed
	}
	switch {
	case failed > 0:
		fmt.Fprintf(e.stderr, "sageacc: check failed: %d of %d cases differ\n", failed, ran)
		return errChecks
	case ran == 0:
		return errors.New("the kernel takes none of the cases; --format json says why")
	}
	return nil
}

func validateUnits(cmd *cobra.Command, e *env, pattern string, results int64, seed uint64, format, out string) error {
	write, err := pick(format, map[string]func(io.Writer, []probe.Outcome) error{
		"table": render.ProbesText,
		"json":  func(w io.Writer, r []probe.Outcome) error { return render.JSON(w, r) },
	})
	if err != nil {
		return fmt.Errorf("--format: %w", err)
	}
	if results < 1 {
		return fmt.Errorf("--results is %d: want at least 1", results)
	}
	us, err := units(pattern)
	if err != nil {
		return err
	}
	dev, err := launch.Open()
	if err != nil {
		return err
	}
	defer dev.Close()
	w, err := e.open(out, nil)
	if err != nil {
		return err
	}
	defer w.abort()
	p := probe.New(dev)
	bar := e.progress("validate")
	defer bar.erase()
	var outcomes []probe.Outcome
	differing := 0
	for i := range us {
		o, err := p.Validate(cmd.Context(), &us[i], results, seed, func(part float64) { bar.show((float64(i) + part) / float64(len(us))) })
		if err != nil {
			return err
		}
		if o.Differing > 0 {
			differing++
		}
		outcomes = append(outcomes, o)
	}
	bar.erase()
	if err := write(w, outcomes); err != nil {
		return err
	}
	if err := w.commit(); err != nil {
		return err
	}
	if differing > 0 {
		fmt.Fprintf(e.stderr, "sageacc: check failed: %d of %d units differ\n", differing, len(us))
		return errChecks
	}
	return nil
}

// recordFlags are the flags of record.
type recordFlags struct {
	gpuFlags
	out         string
	unitPattern string // --units
	results     int
}

func newRecord(e *env) *cobra.Command {
	var f recordFlags
	cmd := &cobra.Command{
		Use:   "record [DUMP...] -o DIR",
		Short: "Record what this GPU returns as a conformance set",
		Long: `Runs kernels, and with --units single instructions, on this machine's GPU and
writes inputs and outputs as a conformance set, which sageacc conform checks
anywhere. So evidence from a GPU that others do not have can be kept and sent.

Needs a build with the tag cuda (see the README) and an NVIDIA driver.`,
		Example: `  sageacc record -o recordings/units --units .
  sageacc record -o recordings/mine --module mine.cubin --manifest mine.yaml --seed 7
  sageacc record -o recordings/own --kernel sage2-4b --shape 1x2/1x333x333x64`,
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(e, cmd, args) },
	}
	f.add(cmd)
	fs := cmd.Flags()
	fs.StringVarP(&f.out, "output", "o", "", "`DIR` to write, new or empty")
	fs.StringVar(&f.unitPattern, "units", "", "record the instructions that match this `REGEX`")
	fs.IntVar(&f.results, "results", 6144, "results of each instruction `N`")
	return cmd
}

// run is the command.
func (f *recordFlags) run(e *env, cmd *cobra.Command, args []string) error {
	if f.out == "" {
		return errors.New("record: no folder to write to given (-o DIR)")
	}
	if f.results < 1 || f.results > 1<<28 {
		return fmt.Errorf("--results is %d: want 1 to %d", f.results, 1<<28)
	}
	if err := conformance.Vacant(f.out); err != nil {
		return fmt.Errorf("-o: %w", err)
	}
	var us []probe.Unit
	var ks []*kernels.Kernel
	var cases []validate.Case
	dump := new(layerdumps.Dump)
	named := false
	if f.unitPattern != "" {
		var err error
		if us, err = units(f.unitPattern); err != nil {
			return err
		}
	} else if err := refuse(cmd, "is for instructions: it needs --units", "results"); err != nil {
		return err
	}
	if f.unitPattern == "" || len(args) > 0 || given(cmd, choiceFlags...) {
		var err error
		if ks, named, err = f.chosen(); err != nil {
			return err
		}
		if cases, dump, err = f.cases(cmd, args); err != nil {
			return err
		}
		defer dump.Close()
	} else if err := refuse(cmd, "is for kernels: beside --units it needs --kernel, --module or a dump", caseFlags...); err != nil {
		return err
	}
	dev, err := launch.Open()
	if err != nil {
		return err
	}
	defer dev.Close()
	w, err := conformance.Create(f.out)
	if err != nil {
		return err
	}
	e.tellIgnored(dump)
	set := &record.Set{Writer: w, Device: dev.Name(), Arch: dev.Arch()}
	bar := e.progress("record")
	defer bar.erase()
	p := probe.New(dev)
	for i := range us {
		if err := us[i].Runs(dev.SM()); err != nil {
			fmt.Fprintf(e.stderr, "sageacc: left out: %v\n", err)
			continue
		}
		if err := set.Unit(p, &us[i], f.results, f.seed); err != nil {
			return err
		}
		bar.show(float64(i+1) / float64(len(us)))
		if err := cmd.Context().Err(); err != nil {
			return err
		}
	}
	for _, k := range ks {
		if err := k.Manifest.Runs(dev.SM()); err != nil && !named {
			fmt.Fprintf(e.stderr, "sageacc: left out: %v\n", err)
			continue
		}
		gpu, err := validate.NewGPU(dev, k.Manifest, k.Image)
		if err != nil {
			return err
		}
		if err := set.Kernel(cmd.Context(), gpu, k.Manifest, cases, bar.show); err != nil {
			return err
		}
	}
	bar.erase()
	if set.Results == 0 {
		return errors.New("nothing was recorded: this GPU can run none of it")
	}
	if err := set.Close(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(e.stderr, "%s: %d results of %s; check them with: sageacc conform %s\n", f.out, set.Results, dev.Name(), f.out)
	return err
}
