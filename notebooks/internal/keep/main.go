// Keep compares a notebook that has just been run with the one that is kept, and
// replaces it if told so.
//
//	go run ./internal/keep [-update] RUN.ipynb KEPT.ipynb
//
// What differs from run to run and from machine to machine is dropped before
// (ipynb.Clean). A notebook with a failed cell or an absolute path is never kept.
// Exit status: 0 the two are the same or KEPT has been replaced, 1 they differ, 2
// the notebook cannot be kept or a file not be read.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/sageacc/sageacc/internal/atomicfile"
	"github.com/sageacc/sageacc/notebooks/internal/ipynb"
)

func main() {
	update := flag.Bool("update", false, "replace the kept notebook")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: keep [-update] RUN.ipynb KEPT.ipynb, for example\n  go run ./internal/keep -update run.ipynb paper-tables.ipynb")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 2 {
		flag.Usage()
		os.Exit(2)
	}
	different, err := keep(flag.Arg(0), flag.Arg(1), *update)
	if err != nil {
		fmt.Fprintln(os.Stderr, "keep:", err)
		os.Exit(2)
	}
	if different != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", flag.Arg(1), different)
		os.Exit(1)
	}
}

// keep does the command's work. different says where the run differs from what is
// kept, after an update never.
func keep(run, kept string, update bool) (different, err error) {
	now, err := ipynb.Open(run)
	if err != nil {
		return nil, err
	}
	now.Clean()
	if err := now.Fault(); err != nil {
		return nil, fmt.Errorf("%s: %w", kept, err)
	}
	if !update {
		before, err := ipynb.Open(kept)
		if err != nil {
			return nil, err
		}
		return ipynb.Difference(before, now), nil
	}
	b, err := now.Format()
	if err != nil {
		return nil, err
	}
	f, err := atomicfile.Create(kept)
	if err != nil {
		return nil, err
	}
	defer f.Abort()
	if _, err := f.Write(b); err != nil {
		return nil, err
	}
	return nil, f.Commit()
}
