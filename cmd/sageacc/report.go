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
		Use:   "report RESULT.json -o FILE.html",
		Short: "Make an HTML page of a result",
		Long: `Makes one HTML page of what 'sageacc compare' or 'sageacc table' wrote with
--format json: the verdict in words, charts by layer and head, sizes of errors, the
worst heads, what causes the error (compare --attribute), where an actual output
differs and why (compare --explain), warnings, and the command to repeat it.

The page is one file that needs no network and runs no script; it is light or dark
as the reader's device is, and fits a phone.`,
		Example: `  sageacc compare dump.safetensors --per-head --attribute --explain --format json -o result.json
  sageacc report result.json -o report.html`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("report: want one result, RESULT.json, not %d (see sageacc report --help)", len(args))
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			if out == "" {
				return errors.New("report: no file to write given (-o FILE.html; - is standard output)")
			}
			in, err := report.Open(args[0])
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
