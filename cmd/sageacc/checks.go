package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/sageacc/sageacc/cmd/sageacc/render"
	"github.com/sageacc/sageacc/cmd/sageacc/render/texttab"
	"github.com/sageacc/sageacc/internal/datafile"
)

// checkFiles are the files that hold the outcome of checks for others to read.
type checkFiles struct {
	junit, summary string

	// Opened, with what is in the summary's file already.
	junitFile, summaryFile *output
	before                 []byte
}

func (f *checkFiles) add(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.junit, "junit", "", "write the checks to `FILE` as JUnit XML")
	fs.StringVar(&f.summary, "summary", "", "write a summary to `FILE` as Markdown; what $GITHUB_STEP_SUMMARY holds is kept")
}

// maxSummary is the most that GitHub takes of a step's summary.
const maxSummary = 1 << 20

// open finds out whether the files can be written, beside the result at out, before
// anything is computed.
func (f *checkFiles) open(e *env, out string, inputs []string) (err error) {
	paths := map[string]string{}
	for _, x := range []struct{ flag, path string }{{"-o", out}, {"--junit", f.junit}, {"--summary", f.summary}} {
		if x.path == "" {
			continue
		}
		at := filepath.Clean(x.path)
		if other, ok := paths[at]; ok && at != "-" {
			return fmt.Errorf("cannot write %s: both %s and %s name it", x.path, other, x.flag)
		}
		paths[at] = x.flag
	}
	if f.junit != "" {
		if f.junitFile, err = e.open(f.junit, inputs); err != nil {
			return err
		}
	}
	if f.summary != "" {
		// Steps of a job add to one file.
		if f.summary == os.Getenv("GITHUB_STEP_SUMMARY") {
			if f.before, err = readUpTo(f.summary, maxSummary); err != nil {
				return err
			}
		}
		if f.summaryFile, err = e.open(f.summary, inputs); err != nil {
			return err
		}
	}
	return nil
}

// readUpTo reads the first n bytes of a file, none if it is not there.
func readUpTo(path string, n int64) ([]byte, error) {
	in, err := datafile.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer in.Close()
	return io.ReadAll(io.LimitReader(in, n))
}

// write writes the files; table adds the body of the summary.
func (f *checkFiles) write(o render.Outcome, table func(io.Writer) error) error {
	if w := f.junitFile; w != nil {
		if err := render.JUnit(w, o.Title, o.Cases); err != nil {
			return err
		}
		if err := w.commit(); err != nil {
			return err
		}
	}
	if w := f.summaryFile; w != nil {
		if _, err := w.Write(f.before); err != nil {
			return err
		}
		if err := render.Summary(w, o, table); err != nil {
			return err
		}
		return w.commit()
	}
	return nil
}

func (f *checkFiles) abort() {
	for _, w := range []*output{f.junitFile, f.summaryFile} {
		if w != nil {
			w.abort()
		}
	}
}

// mostFailures is how many failed checks are told one by one.
const mostFailures = 20

// report tells the checks that failed, a line each, and returns errChecks if any did.
func (e *env) report(failures []string) error {
	for i, f := range failures {
		if i == mostFailures {
			fmt.Fprintf(e.stderr, "sageacc: and %d more checks failed\n", len(failures)-i)
			break
		}
		fmt.Fprintf(e.stderr, "sageacc: check failed: %s\n", texttab.Printable(f))
	}
	if len(failures) > 0 {
		return errChecks
	}
	return nil
}
