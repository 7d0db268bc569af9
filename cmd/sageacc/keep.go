package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/compare/journal"
	"github.com/sageacc/sageacc/internal/version"
	"github.com/sageacc/sageacc/layerdumps"
)

// journalEnding is what a result's name and its journal's differ in.
const journalEnding = ".journal"

// kept is the journal of a command, or nothing: its methods then do nothing.
type kept struct {
	e *env
	j *journal.Journal
}

// addResume adds the flag that goes on with a journal.
func addResume(cmd *cobra.Command, resume *bool) {
	cmd.Flags().BoolVar(resume, "resume", false, "go on with a run that was not finished: FILE.journal beside the result holds what was")
}

// identity is what the journal of a command's run over the layers of a dump is of. The
// options are those that bear on the partial results, but for the kernels.
func identity(cmd *cobra.Command, options map[string]string, kernels ...compare.KernelInfo) journal.Identity {
	id := journal.Identity{Command: cmd.Name(), Tool: version.Get(), Options: options}
	for _, k := range kernels {
		id.Runs = append(id.Runs, journal.Run{Kernel: k})
	}
	return id
}

// keep opens the journal of a run whose result goes to a file at out. There is none for
// a result that goes elsewhere.
func (e *env) keep(ctx context.Context, out string, resume bool, id journal.Identity, d *layerdumps.Dump) (*kept, error) {
	st, err := os.Stat(out)
	if out == "" || out == "-" || err == nil && !st.Mode().IsRegular() {
		if resume {
			return nil, fmt.Errorf("--resume is for a result that goes to a file, with -o: its journal is beside it")
		}
		return &kept{e: e}, nil
	}
	j, err := journal.Open(ctx, out+journalEnding, journal.Header{Identity: id}, d, journal.Options{Resume: resume, Written: e.keeps, Soon: soon(ctx)})
	if err != nil {
		return nil, err
	}
	return newKept(e, j), nil
}

func newKept(e *env, j *journal.Journal) *kept {
	if n := j.Damaged(); n > 0 {
		fmt.Fprintf(e.stderr, "sageacc: note: damaged or unfinished records of the journal: %d; what they held is computed again\n", n)
	}
	return &kept{e, j}
}

// soonKey is the context's key of how soon a journal is written, where it is not a second.
type soonKey struct{}

func soon(ctx context.Context) time.Duration {
	d, _ := ctx.Value(soonKey{}).(time.Duration)
	return d
}

// keeps takes in that there is a journal.
func (e *env) keeps(path string) { e.journal.Store(&path) }

// run is the keeper of a run over the layers with these numbers, nil for all.
func (k *kept) run(run int, layers []int) compare.Keeper {
	if k.j == nil {
		return nil
	}
	return k.j.Run(run, layers)
}

// close ends the journal.
func (k *kept) close(finished bool) error {
	if k.j == nil {
		return nil
	}
	if err := k.j.Fault(); err != nil {
		fmt.Fprintf(k.e.stderr, "sageacc: note: no journal was kept: %v\n", err)
	}
	return k.j.Close(finished)
}
