package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/sageacc/sageacc/cmd/sageacc/render"
	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/compare/plan"
	"github.com/sageacc/sageacc/reference"
)

// planned is what sageacc plan finds out.
type planned struct {
	Schema string `json:"schema"`
	// Estimates are those of each kernel; Seconds is their sum, Memory the most.
	Estimates []*plan.Estimate `json:"estimates"`
	Seconds   float64          `json:"seconds"`
	Memory    uint64           `json:"memory_bytes"`
	Shards    int              `json:"shards"`

	job plan.Job
}

// planFlags are the flags of plan.
type planFlags struct {
	dump         dumpFlags
	kernel       kernelFlags
	gates        gateFlags
	format, out  string
	ref          string
	perHead      bool
	jobs, shards int
	budget       time.Duration
	image, claim string
}

func newPlan(e *env) *cobra.Command {
	var f planFlags
	cmd := &cobra.Command{
		Use:   "plan DUMP...",
		Short: "Estimate what a comparison takes, and write it as a job of many shards",
		Long: `Computes a little of a comparison, for --measure or so, and estimates time and memory
of all of it on this machine. With --format slurm it writes a script for sbatch, an
array of a task for each of --shards; with --format kubernetes the manifest of an
Indexed Job. Time and memory that they ask for are those of this machine, with room
to spare. Flags of sageacc compare that bear on the result go into the job.`,
		Example: `  sageacc plan dumps/ --kernel sage2-4b
  sageacc plan dumps/ --kernel sage2-4b --shards 8 --format slurm -o job.sh
  sageacc plan dumps/ --shards 8 --format kubernetes --image sageacc:latest --claim dumps -o job.yaml`,
		Args: needArgs("dump"),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(e, cmd, args) },
	}
	f.dump.add(cmd, true)
	f.kernel.add(cmd)
	cmd.Flags().Lookup("kernel").Usage += "; A,B,C for several"
	f.gates.add(cmd)
	fs := cmd.Flags()
	fs.StringVar(&f.format, "format", "table", "output format, `table|json|slurm|kubernetes`")
	fs.StringVarP(&f.out, "output", "o", "", "write to `FILE` instead of standard output")
	fs.StringVar(&f.ref, "reference", "fp32", "precision of the reference, `fp32|fp64`")
	fs.BoolVar(&f.perHead, "per-head", false, "show each head too")
	fs.BoolVar(&f.dump.lse, "lse", false, "compare the rows' log-sum-exp too")
	fs.IntVar(&f.shards, "shards", 8, "how many shards `N` the job has")
	fs.DurationVar(&f.budget, "measure", 5*time.Second, "about how `LONG` to measure")
	fs.StringVar(&f.image, "image", "", "the container's `IMAGE`, for kubernetes")
	fs.StringVar(&f.claim, "claim", "", "the persistent volume `CLAIM` that holds the dump and takes the parts, for kubernetes")
	fs.IntVar(&f.jobs, "jobs", runtime.GOMAXPROCS(0), "number of goroutines `N`, and of cores of a shard")
	return cmd
}

// run is the command.
func (f *planFlags) run(e *env, cmd *cobra.Command, args []string) (err error) {
	write, err := pick(f.format, map[string]func(io.Writer, *planned) error{
		"table":      planText,
		"json":       func(w io.Writer, p *planned) error { return render.JSON(w, p) },
		"slurm":      func(w io.Writer, p *planned) error { return plan.Slurm(w, &p.job) },
		"kubernetes": func(w io.Writer, p *planned) error { return plan.Kubernetes(w, &p.job) },
	})
	if err != nil {
		return fmt.Errorf("--format: %w", err)
	}
	for _, name := range []string{"image", "claim"} {
		if given := cmd.Flags().Changed(name); given != (f.format == "kubernetes") {
			return fmt.Errorf("--%s is for --format kubernetes, which needs it", name)
		}
	}
	if f.shards < 1 || f.shards > 100_000 {
		return fmt.Errorf("--shards is %d: want 1 to 100000", f.shards)
	}
	if f.budget <= 0 {
		return fmt.Errorf("--measure is %v: want a time, as in 5s", f.budget)
	}
	kernels, err := f.kernel.buildAll(cmd)
	if err != nil {
		return err
	}
	precision, err := reference.ParsePrecision(f.ref)
	if err != nil {
		return fmt.Errorf("--reference: %w", err)
	}
	if _, err := f.gates.parse(); err != nil {
		return err
	}
	if err := checkJobs(&f.jobs); err != nil {
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
	w, err := e.open(f.out, d.Files)
	if err != nil {
		return err
	}
	defer w.abort()
	e.tellIgnored(d)
	p := &planned{Schema: "sageacc/plan/v1", Shards: f.shards}
	for _, k := range kernels {
		opt := compare.Options{Kernel: k.kernel, Reference: precision, PerHead: f.perHead, LSE: f.dump.lse, Jobs: f.jobs}
		x, err := plan.Run(cmd.Context(), d, opt, f.budget/time.Duration(len(kernels)))
		if err != nil {
			return err
		}
		p.Estimates = append(p.Estimates, x)
		p.Seconds += x.Seconds
		p.Memory = max(p.Memory, x.Memory)
	}
	line := commandLine(cmd, args)
	line[1] = "compare"
	p.job = plan.Job{Command: line, Shards: f.shards, Jobs: f.jobs, Seconds: p.Seconds / float64(f.shards), Memory: p.Memory, Image: f.image, Claim: f.claim}
	if err := write(w, p); err != nil {
		return err
	}
	return w.commit()
}

// planText tells the estimate.
func planText(w io.Writer, p *planned) error {
	for _, x := range p.Estimates {
		if _, err := fmt.Fprintf(w, "%s: %d layers, %d query rows in %d chunks, %.3g multiply-adds in Q K^T\n", x.Kernel, x.Layers, x.Rows, x.Chunks, x.MultiplyAdds); err != nil {
			return err
		}
	}
	each := p.Seconds / float64(p.Shards)
	_, err := fmt.Fprintf(w, "on this machine, with %d goroutines: %s, memory %d MiB (measured for %.1f s)\n%d shards, each on such a machine: %s\n",
		p.Estimates[0].Jobs, roughly(p.Seconds), p.Memory>>20, measured(p), p.Shards, roughly(each))
	return err
}

func measured(p *planned) float64 {
	sum := 0.0
	for _, x := range p.Estimates {
		sum += x.Measured
	}
	return sum
}

// roughly writes seconds as people say them.
func roughly(seconds float64) string {
	return rough(time.Duration(min(seconds*1e9, math.MaxInt64/2)))
}
