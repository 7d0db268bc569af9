package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sageacc/sageacc/report"
)

func newReport(e *env) *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "report RESULT.json -o FILE.html",
		Short: "Make a page of a result: charts, worst heads, where it differs",
		Long: `Reads what compare or table wrote with --format json and makes one HTML page that
needs no network: summary, charts by layer and head, error histograms, the worst
heads, attribution, and maps of where an actual output differs. With
compare --per-head, --attribute and --explain there is more to show.`,
		Example: `  sageacc compare dump --per-head --attribute --format json -o result.json
  sageacc report result.json -o report.html`,
		Args: func(cmd *cobra.Command, args []string) error {
			switch len(args) {
			case 0:
				return errors.New("report: no result given (see sageacc report --help)")
			case 1:
				return nil
			}
			return fmt.Errorf("report: %d results given: want one", len(args))
		},
		RunE: func(_ *cobra.Command, args []string) error {
			if out == "" {
				return errors.New("report: no file to write to given (-o FILE.html)")
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
			if err := report.Write(w, in, ""); err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return w.commit()
		},
	}
	cmd.Flags().StringVarP(&out, "output", "o", "", "`FILE` to write (HTML)")
	return cmd
}
