package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/compare/journal"
	"github.com/sageacc/sageacc/compare/shard"
	"github.com/sageacc/sageacc/layerdumps"
)

// shardFlag says which shard of a run is computed.
type shardFlag struct {
	text  string
	shard *shard.Shard // nil for the whole run
}

func (f *shardFlag) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.text, "shard", "", "compute one of N parts of the run, `I/N`, for sageacc merge; array/N in a job array")
}

// parse reads the flag. What is said of a result is for the command that merges.
func (f *shardFlag) parse(cmd *cobra.Command, out string) error {
	if !cmd.Flags().Changed("shard") {
		return nil
	}
	s, err := shard.Parse(f.text, os.Getenv)
	if err != nil {
		return fmt.Errorf("--shard: %w", err)
	}
	f.shard = &s
	for _, name := range []string{"format", "sort", "top", "only-failing", "junit", "summary"} {
		if cmd.Flags().Changed(name) {
			return fmt.Errorf("--%s is not for --shard: give it to sageacc merge", name)
		}
	}
	for _, name := range []string{"explain", "attribute"} {
		if cmd.Flags().Changed(name) {
			return fmt.Errorf("--%s is not for --shard, which has but parts of layers", name)
		}
	}
	if out == "" || out == "-" {
		return errors.New("--shard: a part goes to a file, with -o")
	}
	return nil
}

// mergeSettings is what parts hold for the command that merges them.
type mergeSettings struct {
	Args  []string  `json:"args"`
	Gates gateFlags `json:"gates"`
}

// compareShard computes a shard of a comparison and writes it to a part at out.
func (e *env) compareShard(cmd *cobra.Command, d *layerdumps.Dump, f shardFlag, opts []compare.Options, id journal.Identity, s mergeSettings, out string, resume bool) (err error) {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	// Whether the part may be written there.
	w, err := e.open(out, d.Files)
	if err != nil {
		return err
	}
	w.abort()
	h := journal.Header{Identity: id, Shard: &[2]int{f.shard.Index, f.shard.Count}, Settings: text}
	j, err := journal.Open(cmd.Context(), out, h, d, journal.Options{Resume: resume, Lasting: true, Written: e.keeps, Soon: soon(cmd.Context())})
	if err != nil {
		return err
	}
	kept := newKept(e, j)
	defer func() { err = errors.Join(err, kept.close(true)) }()
	e.tellIgnored(d)
	var runs [][]*compare.Outline
	for _, r := range id.Runs {
		runs = append(runs, r.Layers)
	}
	for i, want := range f.shard.Split(runs) {
		opt := opts[i]
		bar := e.progress(fmt.Sprintf("compare %s, shard %s", opt.Kernel.Program().Name, f.shard))
		opt.Progress, opt.Skipped, opt.LayerDone = bar.show, bar.skip, bar.layer
		opt.Keep = kept.run(i, nil)
		err := compare.RunChunks(cmd.Context(), d, opt, want)
		bar.erase()
		if err != nil {
			return err
		}
	}
	return nil
}

func newMerge(e *env) *cobra.Command {
	var (
		view   viewFlags
		files  checkFiles
		format string
		out    string
	)
	cmd := &cobra.Command{
		Use:   "merge PART...",
		Short: "Join the parts that compare --shard wrote to the result of one run",
		Long: `Joins the parts of all shards of a run: the result is that of sageacc compare without
--shard, to the byte. If a shard is missing or not finished, it says which and how
much of it; its job can be run again with --resume, which goes on where it ended.

The checks that the shards were given, --fail-if and others, are made here; one that
fails makes the exit status 1.`,
		Example: `  sageacc merge part-* -o result.json
  sageacc merge part-1 part-2 --format markdown --junit checks.xml`,
		Args: needArgs("part"),
		RunE: func(cmd *cobra.Command, args []string) error {
			write, err := pick(format, compareWriters)
			if err != nil {
				return fmt.Errorf("--format: %w", err)
			}
			if err := view.parse(cmd, format); err != nil {
				return err
			}
			parts, err := journal.ReadParts(args)
			if err != nil {
				return err
			}
			for _, f := range parts.Files {
				if f.Damaged > 0 {
					fmt.Fprintf(e.stderr, "sageacc: note: %s: damaged or unfinished records: %d\n", f.Path, f.Damaged)
				}
			}
			var s mergeSettings
			if err := json.Unmarshal(parts.Header.Settings, &s); err != nil {
				return fmt.Errorf("%s: no part of a comparison: %w", args[0], err)
			}
			checks, err := s.Gates.parse()
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			w, err := e.open(out, args)
			if err != nil {
				return err
			}
			defer w.abort()
			defer files.abort()
			if err := files.open(e, out, args); err != nil {
				return err
			}
			results, err := shard.Merge(parts)
			if err != nil {
				return err
			}
			for _, res := range results {
				res.Args = s.Args
			}
			made, err := comparedFlags{&view, &files, format}.write(results, checks, write, w)
			if err != nil {
				return err
			}
			return e.check(results, made, checks)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&format, "format", "json", "output format, `table|json|csv|markdown`")
	fs.StringVarP(&out, "output", "o", "", "write to `FILE` instead of standard output")
	view.add(cmd)
	files.add(cmd)
	return cmd
}
