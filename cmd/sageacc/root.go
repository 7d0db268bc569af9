package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/sageacc/sageacc/cmd/sageacc/render/texttab"
	"github.com/sageacc/sageacc/internal/atomicfile"
	"github.com/sageacc/sageacc/internal/version"
)

// Exit statuses.
const (
	exitOK          = 0
	exitCheckFailed = 1   // ran, and a check that was asked for failed
	exitCannotRun   = 2   // usage, or unreadable or malformed input
	exitInterrupted = 130 // as shells report SIGINT
)

// errChecks says that a check failed and that the command has said so already.
var errChecks = errors.New("a check failed")

// env is what a command sees of the world.
type env struct {
	stdout, stderr io.Writer
	// terminal is standard error if that is a terminal, for what is drawn there.
	terminal *os.File
	// shown says that standard output is a terminal.
	shown bool
	// journal is the journal in which what is done is kept; nil while there is none.
	journal atomic.Pointer[string]
	// given is what the command line names, beside what it writes to: no file of these
	// names is written.
	given []string
}

// longestLine is how many characters a message may have: a file may hold names of any
// length.
const longestLine = 1000

// patience is how long a command may take to end when it is interrupted. What it leaves
// behind then, such as a temporary file, the next run removes.
const patience = 500 * time.Millisecond

// failureKey is the context's key of the function that ends the command with an error,
// see failure.
type failureKey struct{}

// failure returns the function that ends a command whose input cannot be read any more.
func failure(ctx context.Context) func(error) {
	fail, _ := ctx.Value(failureKey{}).(context.CancelCauseFunc)
	return fail
}

// run executes one command line and returns its exit status. When ctx ends, or the
// input fails, it returns soon, also from a command that waits for something, a pipe
// or a disk, or computes what does not look at ctx.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	inner, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	out := &checkedWriter{w: stdout}
	e := &env{stdout: out, stderr: texttab.Lines(stderr, longestLine)}
	if f, ok := stderr.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		e.terminal = f
	}
	if f, ok := stdout.(*os.File); ok {
		e.shown = term.IsTerminal(int(f.Fd()))
	}
	done := make(chan error, 1)
	go func() {
		root := newRoot(e)
		root.SetArgs(append([]string{}, args...)) // nil would stand for os.Args
		err := root.ExecuteContext(context.WithValue(inner, failureKey{}, fail))
		if err == nil && out.err != nil {
			err = fmt.Errorf("standard output: %w", out.err) // of a help text, say
		}
		done <- err
	}()
	var err error
	select {
	case err = <-done:
	case <-inner.Done():
		select {
		case err = <-done:
		case <-time.After(patience):
			err = context.Canceled
			if e.terminal != nil {
				fmt.Fprint(e.terminal, eraseLine)
			}
		}
	}
	switch stopped := inner.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.Cause(inner))); {
	case err == nil:
		return exitOK
	case errors.Is(err, errChecks):
		return exitCheckFailed
	case stopped && ctx.Err() != nil:
		more := ""
		if path := e.journal.Load(); path != nil {
			more = fmt.Sprintf("; what is done is kept in %s: --resume goes on with it", *path)
		}
		fmt.Fprintf(e.stderr, "sageacc: interrupted%s\n", more)
		return exitInterrupted
	case stopped:
		err = context.Cause(inner)
	}
	// One line, whatever the error holds.
	fmt.Fprintf(e.stderr, "sageacc: %s\n", strings.Join(strings.Fields(strings.ReplaceAll(message(err), "\n", "; ")), " "))
	return exitCannotRun
}

// checkedWriter keeps the first error, which not every writer reports.
type checkedWriter struct {
	w   io.Writer
	err error
}

// Write implements io.Writer.
func (c *checkedWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	if err != nil && c.err == nil {
		c.err = err
	}
	return n, err
}

// message is the error's text without what is of no use to users: the name of the
// system call or of the library's function that failed.
func message(err error) string {
	s := err.Error()
	var file *fs.PathError
	if errors.As(err, &file) {
		s = strings.Replace(s, file.Op+" "+file.Path+": ", file.Path+": ", 1)
	}
	var number *strconv.NumError
	if errors.As(err, &number) {
		s = strings.Replace(s, number.Error(), number.Err.Error(), 1)
	}
	return s
}

// outputs are the flags that name files to write.
var outputs = []string{"output", "junit", "summary"}

// names lists what a command line may name files with.
func names(cmd *cobra.Command, args []string) []string {
	names := slices.Clone(args)
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if slices.Contains(outputs, f.Name) {
			return
		}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			names = append(names, list.GetSlice()...)
			return
		}
		names = append(names, f.Value.String())
		names = append(names, strings.Split(f.Value.String(), ",")...)
	})
	return names
}

func newRoot(e *env) *cobra.Command {
	root := &cobra.Command{
		PersistentPreRun: func(cmd *cobra.Command, args []string) { e.given = names(cmd, args) },
		Use:              "sageacc",
		Short:            "How accurate is quantised attention, and does a kernel compute what it should?",
		Long: `sageacc runs SageAttention2-style kernels bit for bit on the CPU and compares
three outputs of every layer of a dump: full precision (reference), emulated,
and what a GPU returned (actual).`,
		Example: `  sageacc compare dump.safetensors
  sageacc compare dump.safetensors --kernel sage2-4b --fail-if 'cos<0.99'
  sageacc inspect dump.safetensors`,
		Version:       version.Line(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		err = nearestFlag(cmd, err)
		if !cmd.HasParent() {
			return fmt.Errorf("%w (see %s --help)", err, cmd.CommandPath())
		}
		return fmt.Errorf("%s: %w (see %s --help)", cmd.Name(), err, cmd.CommandPath())
	})
	root.AddCommand(
		newCompare(e),
		newMerge(e),
		newPlan(e),
		newEmulate(e),
		newInspect(e),
		newIdentify(e),
		newTrace(e),
		newKernels(e),
		newConform(e),
		newTable(e),
		newRecommend(e),
		newDiff(e),
		newReport(e),
		newSynth(e),
		newBench(e),
		newValidate(e),
		newRecord(e),
		newVersion(e),
		newMan(e),
	)
	root.SetVersionTemplate("sageacc {{.Version}}\n")
	root.SetHelpCommand(newHelp())
	// The completion command keeps the output that is set when it is made.
	root.SetOut(e.stdout)
	root.SetErr(e.stderr)
	root.InitDefaultCompletionCmd()
	if c, _, err := root.Find([]string{"completion"}); err == nil {
		describeCompletion(c)
	}
	return root
}

// newHelp is cobra's help command, but an unknown command is an error.
func newHelp() *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "Show the help of a command",
		Example: "  sageacc help compare",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, rest, err := cmd.Root().Find(args)
			if err != nil {
				return err
			}
			if len(rest) > 0 && !c.HasParent() {
				return unknownCommand(c, rest)
			}
			if len(rest) > 0 {
				return fmt.Errorf("unknown command %q for %q", rest[0], c.CommandPath())
			}
			c.InitDefaultHelpFlag() // so that the help shows the flag
			return c.Help()
		},
	}
}

// describeCompletion adds examples to cobra's completion command, which also
// takes an unknown shell for a request for help.
func describeCompletion(c *cobra.Command) {
	c.Example = `  source <(sageacc completion bash)
  sageacc completion fish > ~/.config/fish/completions/sageacc.fish`
	c.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	for _, shell := range c.Commands() {
		shell.Example = "  sageacc completion " + shell.Name()
	}
}

func newVersion(e *env) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version, the commit and its date",
		Example: "  sageacc version",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(e.stdout, "sageacc", version.Line())
			return err
		},
	}
}

// commandLine is the command as it would be typed to get the same result again:
// the arguments, and the flags that were given, less those that do not bear on it.
func commandLine(cmd *cobra.Command, args []string) []string {
	line := []string{cmd.Root().Name(), cmd.Name()}
	for _, a := range args {
		if strings.HasPrefix(a, "-") {
			a = "./" + a
		}
		line = append(line, a)
	}
	cmd.Flags().Visit(func(f *pflag.Flag) {
		switch f.Name {
		case "output", "format", "jobs", "paper", "junit", "summary", "sort", "top", "only-failing", "resume", "shard",
			"shards", "measure", "image", "claim":
			return
		}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			for _, v := range list.GetSlice() {
				line = append(line, "--"+f.Name, v)
			}
			return
		}
		switch v := f.Value.String(); {
		case f.Value.Type() != "bool":
			line = append(line, "--"+f.Name, v)
		case v == "true":
			line = append(line, "--"+f.Name)
		default:
			line = append(line, "--"+f.Name+"="+v)
		}
	})
	return line
}

// checkJobs bounds the number of goroutines that --jobs asks for: beyond a few for
// each core they only cost memory.
func checkJobs(jobs *int) error {
	if *jobs < 1 {
		return fmt.Errorf("--jobs is %d: want at least 1", *jobs)
	}
	*jobs = min(*jobs, 8*runtime.GOMAXPROCS(0))
	return nil
}

// needArgs is cobra.MinimumNArgs(1) with a message that names what is missing.
func needArgs(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return fmt.Errorf("%s: no %s given (see %s --help)", cmd.Name(), what, cmd.CommandPath())
		}
		return nil
	}
}

// pick finds the writer for a --format value. What it writes has no hidden characters,
// whatever the names in the files are.
func pick[R any](format string, choices map[string]func(io.Writer, R) error) (func(io.Writer, R) error, error) {
	if write, ok := choices[format]; ok {
		safe := texttab.Safe
		if format == "json" {
			safe = texttab.SafeJSON
		}
		return func(w io.Writer, r R) error { return write(safe(w), r) }, nil
	}
	var names []string
	for _, n := range []string{"table", "json", "csv", "markdown", "slurm", "kubernetes"} {
		if _, ok := choices[n]; ok {
			names = append(names, n)
		}
	}
	return nil, fmt.Errorf("unknown format %q (have %s)", format, strings.Join(names, ", "))
}

// output is where a command's results go: standard output, or a file that
// appears when it is complete.
type output struct {
	io.Writer
	file   *atomicfile.File
	path   string
	inputs []string
}

// open finds out whether path can be written before anything is computed. An
// empty path and "-" are standard output.
//
// The output must not be one of the inputs, which are all files that the command
// reads, by whatever names and links: it would replace them.
func (e *env) open(path string, inputs []string) (*output, error) {
	if path == "" || path == "-" {
		return &output{Writer: e.stdout}, nil
	}
	o := &output{path: path, inputs: slices.Concat(inputs, e.given)}
	if err := o.distinct(); err != nil {
		return nil, err
	}
	var err error
	if o.file, err = atomicfile.Create(path); err != nil {
		return nil, err
	}
	o.Writer = o.file
	return o, nil
}

// distinct reports an output that is one of the inputs.
func (o *output) distinct() error {
	out, err := os.Stat(o.path)
	if err != nil {
		return nil // writing it says what is wrong, if anything is
	}
	for _, in := range o.inputs {
		if st, err := os.Stat(in); err == nil && os.SameFile(out, st) {
			return fmt.Errorf("cannot write %s: it is one of the inputs", o.path)
		}
	}
	return nil
}

// commit gives the file its name. What stands there now need not be what stood
// there before the results were computed.
func (o *output) commit() error {
	if o.file == nil {
		return nil
	}
	if err := o.distinct(); err != nil {
		return err
	}
	return o.file.Commit()
}

func (o *output) abort() {
	if o.file != nil {
		o.file.Abort()
	}
}
