package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/compare/tensors"
	"github.com/sageacc/sageacc/internal/version"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/layerdumps/safetensors"
	"github.com/sageacc/sageacc/reference"
)

// emulateFlags are the flags of emulate.
type emulateFlags struct {
	dump   dumpFlags
	kernel kernelFlags
	ref    string
	out    string
	rows   string
	jobs   int
}

func newEmulate(e *env) *cobra.Command {
	var f emulateFlags
	cmd := &cobra.Command{
		Use:   "emulate DUMP...",
		Short: "Write the emulated kernel's outputs as tensors",
		Long: `Runs the emulated kernel on each layer of the dumps and writes what it returns as
safetensors: <layer>.o in the format that the kernel returns, [batch, heads, tokens,
head_dim], and with --lse the natural log-sum-exp <layer>.lse, FP32 [batch, heads,
tokens]. The file's metadata holds the kernel's description and the version of sageacc.

With --reference also full-precision attention, <layer>.reference (with --lse,
<layer>.reference_lse), FP32 or FP64 as asked for; and the metadata then holds as
"result" what compare --per-head --format json prints, actual outputs included.

A tensor of the dump that belongs to no layer is an error here: it might be meant to
bear on the result.`,
		Example: `  sageacc emulate dump.safetensors -o emulated.safetensors
  sageacc emulate dump.safetensors --kernel sage2-4b --lse --reference fp32 -o outputs.safetensors
  sageacc compare dump.safetensors --actual emulated.safetensors`,
		Args: needArgs("dump"),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(e, cmd, args) },
	}
	f.dump.add(cmd, true)
	f.kernel.add(cmd)
	fs := cmd.Flags()
	fs.StringVar(&f.ref, "reference", "", "write full-precision attention too, `fp32|fp64`")
	fs.BoolVar(&f.dump.lse, "lse", false, "write the rows' log-sum-exp too")
	fs.StringVarP(&f.out, "output", "o", "", "write to `FILE` instead of standard output")
	fs.StringVar(&f.rows, "rows", "", "only the queries `LO:HI`, in whole chunks of 256; the other rows are zeros")
	fs.IntVar(&f.jobs, "jobs", runtime.GOMAXPROCS(0), "number of goroutines `N`; changes no result")
	return cmd
}

// run is the command.
func (f *emulateFlags) run(e *env, cmd *cobra.Command, args []string) (err error) {
	if e.shown && (f.out == "" || f.out == "-") {
		return errors.New("tensors are not for a terminal: say -o FILE")
	}
	k, err := f.kernel.early(cmd)
	if err != nil {
		return err
	}
	opt := compare.Options{LSE: f.dump.lse, PerHead: true, NoReference: f.ref == "", Jobs: f.jobs}
	if f.ref != "" {
		if opt.Reference, err = reference.ParsePrecision(f.ref); err != nil {
			return fmt.Errorf("--reference: %w", err)
		}
	}
	if f.rows != "" {
		if opt.Rows, err = parseRows(f.rows); err != nil {
			return fmt.Errorf("--rows: %w", err)
		}
	}
	if err := checkJobs(&f.jobs); err != nil {
		return err
	}
	opt.Jobs = f.jobs
	d, err := f.dump.open(cmd, args)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if k == nil {
		if k, err = f.kernel.late(cmd, d); err != nil {
			return err
		}
	}
	opt.Kernel = k
	if err := nothingIgnored(d); err != nil {
		return err
	}
	e.tellReported(k)
	w, err := e.open(f.out, d.Files)
	if err != nil {
		return err
	}
	defer w.abort()
	e.tellChoice(&f.kernel)
	bar := e.progress("emulate")
	opt.Progress = bar.show
	c, err := tensors.New(d, k, tensors.Options{LSE: f.dump.lse, Reference: f.ref != "", Precision: opt.Reference})
	if err != nil {
		return err
	}
	opt.Outputs = c.Add
	res, err := compare.Run(cmd.Context(), d, opt)
	bar.erase()
	if err != nil {
		return err
	}
	ts, err := c.Tensors()
	if err != nil {
		return err
	}
	description, err := json.Marshal(k.Program())
	if err != nil {
		return err
	}
	metadata := map[string]string{"layout": layerdumps.HND.String(), "description": string(description), "tool": version.Get().String()}
	if f.ref != "" {
		res.Args = commandLine(cmd, args)
		res.Verdict = compare.Judge([]*compare.Result{res}, res.Check(compare.Gates{}))
		text, err := json.Marshal(res)
		if err != nil {
			return err
		}
		metadata["result"] = string(text)
	}
	if err := safetensors.WriteTo(w, metadata, ts); err != nil {
		return err
	}
	return w.commit()
}

// parseRows reads LO:HI.
func parseRows(s string) ([2]int, error) {
	lo, hi, ok := strings.Cut(s, ":")
	a, err1 := strconv.Atoi(lo)
	b, err2 := strconv.Atoi(hi)
	if !ok || err1 != nil || err2 != nil || a < 0 || b <= a {
		return [2]int{}, fmt.Errorf("%q is not LO:HI, two rising numbers as in 0:256", s)
	}
	return [2]int{a, b}, nil
}

// nothingIgnored is an error if a tensor belongs to no layer.
func nothingIgnored(d *layerdumps.Dump) error {
	xs := ignored(d)
	if len(xs) == 0 {
		return nil
	}
	return fmt.Errorf("%s: tensor %q is no part of a layer that this version reads (<layer>.q, .k, .v, .o, .mask, .q_descale, .cu_seqlens_q and so on, and .lse with --lse)", xs[0].File, xs[0].Name)
}
