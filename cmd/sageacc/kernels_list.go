package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sageacc/sageacc/emulate"
)

// buildAll makes the kernels of a list, A,B,C; the other flags hold for each of them.
func (f *kernelFlags) buildAll(cmd *cobra.Command) ([]*emulate.Kernel, error) {
	var out []*emulate.Kernel
	names := strings.Split(f.kernel, ",")
	for i, name := range names {
		one := *f
		one.kernel = strings.TrimSpace(name)
		if slices.Contains(names[:i], name) {
			return nil, fmt.Errorf("--kernel: %q is given twice", one.kernel)
		}
		k, err := one.build(cmd)
		if err != nil {
			return nil, err
		}
		out = append(out, k)
	}
	return out, nil
}
