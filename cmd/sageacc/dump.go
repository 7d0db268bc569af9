package main

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sageacc/sageacc/cmd/sageacc/render/texttab"
	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/layerdumps"
)

// dumpFlags are the flags of the commands that read dumps.
type dumpFlags struct {
	layers, layout string
	causal         bool
	scale          string
	actual, names  []string
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
	fs.StringArrayVar(&f.names, "names", nil, "how tensors are called, a `LIST` as in 'q={layer}/query,k={layer}/key' (default: <layer>.q or .query, and so on)")
	if withActual {
		fs.StringArrayVar(&f.actual, "actual", nil, "take the actual outputs <layer>.o from this `FILE` (repeatable)")
	}
}

// open reads the dump, tells of tensors that belong to no layer, and refuses layers
// that are likely in a layout that nobody named.
func (f *dumpFlags) open(cmd *cobra.Command, paths []string) (*layerdumps.Dump, error) {
	d, err := f.read(cmd, paths)
	if err != nil {
		return nil, err
	}
	doubts, err := compare.DoubtLayouts(cmd.Context(), d)
	if err == nil && len(doubts) > 0 {
		more := ""
		if n := len(doubts) - 1; n > 0 {
			more = fmt.Sprintf(" (and so it is with %d more)", n)
		}
		i := slices.IndexFunc(d.Layers, func(l layerdumps.Layer) bool { return l.Name == doubts[0].Layer })
		err = fmt.Errorf("%s: layer %s: %s%s: say which with --layout nhd or --layout hnd, or metadata layout", d.Layers[i].Source, doubts[0].Layer, doubts[0].Text, more)
	}
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	var names []string
	for _, x := range d.Ignored {
		names = append(names, x.Name)
	}
	// A log-sum-exp is one of a layer's tensors, though not asked for here.
	names = slices.DeleteFunc(names, func(n string) bool { return strings.HasSuffix(n, ".lse") || n == "lse" })
	if len(names) > 0 {
		const most = 5
		list := names[:min(len(names), most)]
		for i, n := range list {
			list[i] = texttab.Shorten(n, 64)
		}
		more := ""
		if n := len(names) - most; n > 0 {
			more = fmt.Sprintf(" and %d more", n)
		}
		what := "tensors belong"
		if len(names) == 1 {
			what = "tensor belongs"
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "sageacc: note: %d %s to no layer: %s%s (see sageacc inspect and --names)\n", len(names), what, strings.Join(list, ", "), more)
	}
	return d, nil
}

// read reads the dump; flags that were not given leave the files' word standing.
func (f *dumpFlags) read(cmd *cobra.Command, paths []string) (*layerdumps.Dump, error) {
	opt := layerdumps.Options{Actual: f.actual, LSE: f.lse}
	if f.names != nil {
		n, err := layerdumps.ParseNames(f.names)
		if err != nil {
			return nil, fmt.Errorf("--names: %w", err)
		}
		opt.Names = n
	}
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

// inputs lists the files that the dump's layers are read from.
func inputs(d *layerdumps.Dump) []string {
	var files []string
	for i := range d.Layers {
		l := &d.Layers[i]
		files = append(files, l.Q.File, l.K.File, l.V.File)
		if l.O != nil {
			files = append(files, l.O.File)
		}
		if l.LSE != nil {
			files = append(files, l.LSE.File)
		}
	}
	return files
}
