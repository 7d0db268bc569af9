package main

import (
	"fmt"
	"math"
	"regexp"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/sageacc/sageacc/layerdumps"
)

// dumpFlags are the flags of the commands that read dumps.
type dumpFlags struct {
	layers, layout string
	causal         bool
	scale          string
	actual         []string
	lse            bool
}

func (f *dumpFlags) add(cmd *cobra.Command, withActual bool) {
	cmd.Flags().StringVar(&f.layers, "layers", "", "only layers whose name matches this `REGEX`")
	f.addSelected(cmd, withActual)
}

// addSelected is add for a command that chooses layers otherwise.
func (f *dumpFlags) addSelected(cmd *cobra.Command, withActual bool) {
	fs := cmd.Flags()
	fs.StringVar(&f.layout, "layout", "", "dimensions of the tensors, `hnd|nhd` (default: the file's metadata, else hnd)")
	fs.BoolVar(&f.causal, "causal", false, "causal mask, or none with --causal=false (default: the file's metadata, else none)")
	fs.StringVar(&f.scale, "sm-scale", "", "softmax scale `X` (default: the file's metadata, else 1/sqrt(head_dim))")
	if withActual {
		fs.StringArrayVar(&f.actual, "actual", nil, "take the actual outputs <layer>.o from this `FILE` (repeatable)")
	}
}

// open reads the dump; flags that were not given leave the files' word standing.
func (f *dumpFlags) open(cmd *cobra.Command, paths []string) (*layerdumps.Dump, error) {
	opt := layerdumps.Options{Actual: f.actual, LSE: f.lse, Failed: failure(cmd.Context())}
	if f.layers != "" {
		re, err := regexp.Compile(f.layers)
		if err != nil {
			return nil, fmt.Errorf("--layers %q: %w", f.layers, err)
		}
		opt.Layers = re
	}
	if f.layout != "" {
		l, err := layerdumps.ParseLayout(f.layout)
		if err != nil {
			return nil, fmt.Errorf("--layout: %w", err)
		}
		opt.Layout = &l
	}
	if cmd.Flags().Changed("causal") {
		opt.Causal = &f.causal
	}
	if f.scale != "" {
		x, err := strconv.ParseFloat(f.scale, 64)
		if err != nil {
			return nil, fmt.Errorf("--sm-scale %q is not a number", f.scale)
		}
		if !(x > 0) || math.IsInf(x, 0) {
			return nil, fmt.Errorf("--sm-scale is %v: want a positive, finite number", x)
		}
		opt.SMScale = &x
	}
	return layerdumps.Open(paths, opt)
}
