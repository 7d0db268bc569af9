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
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/layerdumps/safetensors"
	"github.com/sageacc/sageacc/reference"
)

func newEmulate(e *env) *cobra.Command {
	var (
		dump   dumpFlags
		kernel kernelFlags
		ref    string
		out    string
		rows   string
		jobs   int
	)
	cmd := &cobra.Command{
		Use:   "emulate DUMP...",
		Short: "Write the emulated kernel's outputs as tensors",
		Long: `Runs the emulated kernel on each layer of the dumps and writes what it returns as
safetensors: <layer>.o in the format that the kernel returns, [batch, heads, tokens,
head_dim], and with --lse the natural log-sum-exp <layer>.lse, FP32 [batch, heads,
tokens].

With --reference also full-precision attention, <layer>.reference (with --lse,
<layer>.reference_lse), FP32 or FP64 as asked for; and the file's metadata then holds
as "result" what compare --per-head --format json prints, actual outputs included.

A tensor of the dump that belongs to no layer is an error here: it might be meant to
bear on the result.`,
		Example: `  sageacc emulate dump.safetensors -o emulated.safetensors
  sageacc emulate dump.safetensors --kernel sage2-4b --lse --reference fp32 -o outputs.safetensors
  sageacc compare dump.safetensors --actual emulated.safetensors`,
		Args: needArgs("dump"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if e.shown && (out == "" || out == "-") {
				return errors.New("tensors are not for a terminal: say -o FILE")
			}
			k, err := kernel.build(cmd)
			if err != nil {
				return err
			}
			opt := compare.Options{Kernel: k, LSE: dump.lse, PerHead: true, NoReference: ref == "", Jobs: jobs}
			if ref != "" {
				if opt.Reference, err = reference.ParsePrecision(ref); err != nil {
					return fmt.Errorf("--reference: %w", err)
				}
			}
			if rows != "" {
				if opt.Rows, err = parseRows(rows); err != nil {
					return fmt.Errorf("--rows: %w", err)
				}
			}
			if err := checkJobs(&jobs); err != nil {
				return err
			}
			opt.Jobs = jobs
			d, err := dump.open(cmd, args)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, d.Close()) }()
			if err := nothingIgnored(d); err != nil {
				return err
			}
			w, err := e.open(out, d.Files)
			if err != nil {
				return err
			}
			defer w.abort()
			bar := e.progress("emulate")
			opt.Progress = bar.show
			c, err := tensors.New(d, k, tensors.Options{LSE: dump.lse, Reference: ref != "", Precision: opt.Reference})
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
			metadata := map[string]string{"layout": layerdumps.HND.String()}
			if ref != "" {
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
		},
	}
	dump.add(cmd, true)
	kernel.add(cmd)
	fs := cmd.Flags()
	fs.StringVar(&ref, "reference", "", "write full-precision attention too, `fp32|fp64`")
	fs.BoolVar(&dump.lse, "lse", false, "write the rows' log-sum-exp too")
	fs.StringVarP(&out, "output", "o", "", "write to `FILE` instead of standard output")
	fs.StringVar(&rows, "rows", "", "only the queries `LO:HI`, in whole chunks of 256; the other rows are zeros")
	fs.IntVar(&jobs, "jobs", runtime.GOMAXPROCS(0), "number of goroutines `N`; changes no result")
	return cmd
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
