package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sageacc/sageacc/cmd/sageacc/report"
)

func newReport(e *env) *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "report RESULT.json [NEWER.json]... -o FILE.html",
		Short: "Make an HTML page of a result, or of several over each other",
		Long: `Makes one HTML page of what 'sageacc compare' or 'sageacc table' wrote with
--format json: the verdict in words, a table of layers to sort and filter, maps of
layers and heads and of layers and steps (compare --per-head, --attribute), and for
each layer sizes of errors, the worst heads, what causes the error, where an actual
output differs and why (compare --explain), warnings, and the command to repeat it.

Several results of compare, or one of several kernels (compare --kernel A,B), are laid
over each other: what became larger or smaller from the first to the others, layer by
layer and head by head.

The page is one file that needs no network. Verdict and table need no script either.
It is light or dark as the reader's device is, and fits a phone.`,
		Example: `  sageacc compare dump.safetensors --per-head --attribute --explain --format json -o result.json
  sageacc report result.json -o report.html
  sageacc report before.json after.json -o change.html`,
		Args: needArgs("result"),
		RunE: func(_ *cobra.Command, args []string) error {
			if out == "" {
				return errors.New("report: no file to write given (-o FILE.html; - is standard output)")
			}
			in, err := report.Open(args...)
			if err != nil {
				return err
			}
			w, err := e.open(out, args)
			if err != nil {
				return err
			}
			defer w.abort()
			if err := report.Write(w, in); err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return w.commit()
		},
	}
	cmd.Flags().StringVarP(&out, "output", "o", "", "write the page to `FILE`; - is standard output")
	return cmd
}
