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
	align, window  string
	softcap        string
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
	fs.StringVar(&f.align, "causal-align", "", "how the caller aligns a causal mask or a window, `top-left|bottom-right|kernel`; a kernel that does otherwise is refused (default: the file's metadata, else as the kernel does)")
	fs.StringVar(&f.window, "window", "", "keys that a query sees, `LEFT,RIGHT` of the one it is aligned with, -1 for no bound (default: the file's metadata, else no window)")
	fs.StringVar(&f.softcap, "softcap", "", "soft cap `C` of the scores, 0 for none (default: the file's metadata, else none)")
	fs.StringArrayVar(&f.names, "names", nil, "how tensors are called, a `LIST` as in 'q={layer}/query,k={layer}/key' (default: <layer>.q or .query, and so on)")
	if withActual {
		fs.StringArrayVar(&f.actual, "actual", nil, "take the actual outputs <layer>.o from this `FILE` (repeatable)")
	}
}

// open reads the dump and refuses layers that are likely in a layout that nobody named.
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
	return d, nil
}

// ignored are the tensors of a dump that belong to no layer. A log-sum-exp is one of a
// layer's, though not asked for.
func ignored(d *layerdumps.Dump) []layerdumps.Ignored {
	return slices.DeleteFunc(slices.Clone(d.Ignored), func(x layerdumps.Ignored) bool {
		return strings.HasSuffix(x.Name, ".lse") || x.Name == "lse"
	})
}

// tellIgnored tells of tensors that belong to no layer. A command that cannot run says
// why and nothing else, so it is for when all that can fail before has not.
func (e *env) tellIgnored(d *layerdumps.Dump) {
	xs := ignored(d)
	if len(xs) == 0 {
		return
	}
	const most = 5
	var list []string
	for _, x := range xs[:min(len(xs), most)] {
		list = append(list, texttab.Shorten(x.Name, 64))
	}
	more := ""
	if n := len(xs) - most; n > 0 {
		more = fmt.Sprintf(" and %d more", n)
	}
	what := "tensors belong"
	if len(xs) == 1 {
		what = "tensor belongs"
	}
	fmt.Fprintf(e.stderr, "sageacc: note: %d %s to no layer: %s%s (see sageacc inspect and --names)\n", len(xs), what, strings.Join(list, ", "), more)
}

// read reads the dump; flags that were not given leave the files' word standing.
func (f *dumpFlags) read(cmd *cobra.Command, paths []string) (*layerdumps.Dump, error) {
	opt := layerdumps.Options{Actual: f.actual, LSE: f.lse, Failed: failure(cmd.Context())}
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
	if err := f.call(cmd, &opt); err != nil {
		return nil, err
	}
	return layerdumps.Open(paths, opt)
}

// call reads the flags of what a call is given beside its mask and scale.
func (f *dumpFlags) call(cmd *cobra.Command, opt *layerdumps.Options) error {
	for _, x := range []struct {
		flag string
		read func() error
	}{
		{"causal-align", func() error {
			a, err := layerdumps.ParseCausalAlign(f.align)
			opt.CausalAlign = &a
			return err
		}},
		{"window", func() error {
			w, err := layerdumps.ParseWindow(f.window)
			opt.Window = &w
			return err
		}},
		{"softcap", func() error {
			c, err := layerdumps.ParseSoftcap(f.softcap)
			opt.Softcap = &c
			return err
		}},
	} {
		if !cmd.Flags().Changed(x.flag) {
			continue
		}
		if err := x.read(); err != nil {
			return fmt.Errorf("--%s: %w", x.flag, err)
		}
	}
	return nil
}
