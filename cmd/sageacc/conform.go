package main

import (
	"fmt"
	"io"
	"regexp"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sageacc/sageacc/cmd/sageacc/render"
	"github.com/sageacc/sageacc/hardware/conformance"
)

func newConform(e *env) *cobra.Command {
	var format, filter string
	var byUnit bool
	var jobs int
	cmd := &cobra.Command{
		Use:   "conform DIR...",
		Short: "Check the emulator against recorded GPU results, bit by bit",
		Long: `Runs conformance sets: folders with a cases.jsonl and the safetensors files that
it names. A case passes when every recorded element is reproduced bit for bit
(any NaN equals any NaN). A case that there is no model for is skipped. The exit
status is 1 if any case differs, and 2 if nothing was checked: no case at all, none
that --filter matches, or all of them skipped.`,
		Example: `  sageacc conform hardware/conformance/testdata/h200
  sageacc conform recordings --filter 'mma .*e4m3'
  sageacc conform recordings --by-unit --format markdown`,
		Args: needArgs("folder"),
		RunE: func(cmd *cobra.Command, args []string) error {
			writers := map[string]func(io.Writer, *conformance.Report) error{
				"table": render.ConformText,
				"json":  func(w io.Writer, r *conformance.Report) error { return render.JSON(w, r) },
			}
			if byUnit {
				writers = map[string]func(io.Writer, *conformance.Report) error{
					"table":    render.EvidenceText,
					"json":     func(w io.Writer, r *conformance.Report) error { return render.JSON(w, r.ByUnit()) },
					"markdown": render.EvidenceMarkdown,
				}
			}
			write, err := pick(format, writers)
			if err != nil {
				return fmt.Errorf("--format: %w", err)
			}
			var re *regexp.Regexp
			if filter != "" {
				if re, err = regexp.Compile(filter); err != nil {
					return fmt.Errorf("--filter %q: %w", filter, err)
				}
			}
			if err := checkJobs(&jobs); err != nil {
				return err
			}
			var cases []conformance.Case
			for _, dir := range args {
				c, err := conformance.Load(dir, re)
				if err != nil {
					return err
				}
				if re == nil && len(c) == 0 {
					return fmt.Errorf("%s: the set holds no case", dir)
				}
				cases = append(cases, c...)
			}
			if len(cases) == 0 {
				return fmt.Errorf("--filter %q: no case of %s matches", filter, strings.Join(args, ", "))
			}
			bar := e.progress("conform")
			rep, err := conformance.Run(cmd.Context(), cases, jobs, func(done int) { bar.show(float64(done) / float64(len(cases))) })
			bar.erase()
			if err != nil {
				return err
			}
			if err := write(e.stdout, rep); err != nil {
				return err
			}
			if rep.Failed > 0 {
				fmt.Fprintf(e.stderr, "sageacc: check failed: %d of %d cases differ\n", rep.Failed, len(cases))
				return errChecks
			}
			if rep.Passed == 0 {
				return fmt.Errorf("nothing was checked: %d of %d cases were skipped, the first with: %s", rep.Skipped, len(cases), rep.Cases[0].Reason)
			}
			return nil
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&format, "format", "table", "output format, `table|json`, with --by-unit also markdown")
	fs.StringVar(&filter, "filter", "", "only cases whose 'op file expect instruction' matches this `REGEX`")
	fs.BoolVar(&byUnit, "by-unit", false, "sum up by unit, architecture and device")
	fs.IntVar(&jobs, "jobs", runtime.GOMAXPROCS(0), "number of cases run at a time `N`")
	return cmd
}
