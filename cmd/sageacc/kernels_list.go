package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/layerdumps"
)

// listed is a kernel of a list.
type listed struct {
	flags kernelFlags
	// kernel is nil until it is known what auto stands for.
	kernel *emulate.Kernel
}

// buildAll makes the kernels of a list, A,B,C; the other flags hold for each of them. What a
// dump decides is left to chooseAll.
func (f *kernelFlags) buildAll(cmd *cobra.Command) ([]*listed, error) {
	var out []*listed
	names := strings.Split(f.kernel, ",")
	for i, name := range names {
		one := &listed{flags: *f}
		one.flags.kernel = strings.TrimSpace(name)
		if slices.Contains(names[:i], name) {
			return nil, fmt.Errorf("--kernel: %q is given twice", one.flags.kernel)
		}
		var err error
		if one.kernel, err = one.flags.early(cmd); err != nil {
			return nil, err
		}
		out = append(out, one)
	}
	return out, nil
}

// chooseAll makes those that a dump decides.
func chooseAll(cmd *cobra.Command, list []*listed, d *layerdumps.Dump) error {
	for _, one := range list {
		if one.kernel == nil {
			var err error
			if one.kernel, err = one.flags.late(cmd, d); err != nil {
				return err
			}
		}
	}
	return nil
}
