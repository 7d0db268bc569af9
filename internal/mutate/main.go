// Mutate asks whether tests hold facts: it changes one constant, one comparison or one
// choice of a table's entry at a time, runs the package's own tests, short, on the
// changed source, and lists the changes that no test saw.
//
//	go run ./internal/mutate ./emulate/tensorcore ./emulate/format ./emulate/quant ./emulate/mufu
//
// The sources stay as they are: the changed one reaches the compiler as an overlay.
// equivalent.txt beside this program lists changes that no test can see, each with the
// reason. The exit status is 1 if any other survives.
package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
)

//go:embed equivalent.txt
var equivalentText string

type outcome uint8

const (
	killed outcome = iota
	unbuilt
	survived
)

func main() {
	every := flag.Int("every", 24, "of tables with more than 32 numbers, change every `N`-th")
	timeout := flag.Duration("timeout", time.Minute, "a test that takes longer has seen the change")
	jobs := flag.Int("jobs", 1, "changes tried at a time")
	filter := flag.String("run", "", "only changes whose 'file function: change' matches `REGEX`")
	again := flag.String("again", "", "only changes that survive in `FILE`, the output of an earlier run")
	list := flag.Bool("list", false, "list the changes and stop")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	o := options{filter: *filter, again: *again, every: *every, jobs: *jobs, timeout: *timeout, list: *list}
	bad, err := run(ctx, os.Stdout, flag.Args(), o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(2)
	}
	if bad > 0 {
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	filter, again string
	every, jobs   int
	timeout       time.Duration
	list          bool
}

var survivor = regexp.MustCompile(`(?m)^survives: (.*?):\d+ (.*)$`)

// selection returns what says whether a mutant of a key is wanted.
func (o *options) selection() (func(key string) bool, error) {
	re, err := regexp.Compile(o.filter)
	if err != nil || o.again == "" {
		return re.MatchString, err
	}
	text, err := os.ReadFile(o.again)
	if err != nil {
		return nil, err
	}
	keys := map[string]bool{}
	for _, m := range survivor.FindAllStringSubmatch(string(text), -1) {
		keys[m[1]+" "+m[2]] = true
	}
	return func(key string) bool { return keys[key] && re.MatchString(key) }, nil
}

// run tries the mutants of the packages and returns how many survive without a reason.
func run(ctx context.Context, w io.Writer, dirs []string, opt options) (int, error) {
	wanted, err := opt.selection()
	if err != nil {
		return 0, err
	}
	every, jobs, timeout := opt.every, opt.jobs, opt.timeout
	if len(dirs) == 0 || every < 1 || jobs < 1 {
		return 0, errors.New("name the folders of packages, and numbers from 1 on")
	}
	equivalent, err := parseEquivalent(equivalentText)
	if err != nil {
		return 0, err
	}
	unexplained := 0
	all, err := Mutants(dirs, every)
	if err != nil {
		return 0, err
	}
	for i, dir := range dirs {
		var mutants []Mutant
		for _, m := range all[i] {
			if wanted(m.Key()) {
				mutants = append(mutants, m)
			}
		}
		if opt.list {
			for _, m := range mutants {
				fmt.Fprintln(w, m.Key())
			}
			continue
		}
		// Unchanged, the tests must pass.
		if o, out := try(ctx, dir, nil, timeout); o != survived {
			return 0, fmt.Errorf("%s: the tests fail as it is: %s", dir, out)
		}
		outcomes := make([]outcome, len(mutants))
		next := make(chan int)
		var wg sync.WaitGroup
		var mu sync.Mutex
		for range jobs {
			wg.Go(func() {
				for i := range next {
					o, _ := try(ctx, dir, &mutants[i], timeout)
					mu.Lock()
					outcomes[i] = o
					if ctx.Err() == nil && o == survived && equivalent[mutants[i].Key()] == "" {
						fmt.Fprintf(w, "survives: %s:%d %s: %s\n", mutants[i].File, mutants[i].Line, mutants[i].Where, mutants[i].Change)
					}
					mu.Unlock()
				}
			})
		}
		for i := range mutants {
			select {
			case next <- i:
			case <-ctx.Done():
			}
		}
		close(next)
		wg.Wait()
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		var count [3]int
		known := 0
		for i, o := range outcomes {
			count[o]++
			reason := equivalent[mutants[i].Key()]
			switch {
			case o == survived && reason != "":
				known++
			case reason != "":
				fmt.Fprintf(w, "equivalent.txt is wrong, tests see it: %s\n", mutants[i].Key())
				unexplained++
			}
		}
		unexplained += count[survived] - known
		fmt.Fprintf(w, "%s: %d changes, %d do not compile, %d seen by a test, %d equivalent, %d survive\n",
			dir, len(mutants), count[unbuilt], count[killed], known, count[survived]-known)
	}
	return unexplained, nil
}

// try runs the tests of the package in dir, with m in place if it is not nil.
func try(ctx context.Context, dir string, m *Mutant, timeout time.Duration) (outcome, string) {
	args := []string{"test", "-short", "-count=1", "-failfast", "-vet=off", "-timeout", timeout.String()}
	if m != nil {
		tmp, err := overlay(m)
		if err != nil {
			return unbuilt, err.Error()
		}
		defer os.RemoveAll(tmp)
		args = append(args, "-overlay", filepath.Join(tmp, "overlay.json"))
	}
	cmd := exec.CommandContext(ctx, "go", append(args, ".")...)
	cmd.Dir = dir
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	switch err := cmd.Run(); {
	case err == nil:
		return survived, ""
	case strings.Contains(out.String(), "[build failed]"), strings.Contains(out.String(), "[setup failed]"):
		return unbuilt, out.String()
	}
	return killed, out.String()
}

// overlay writes the changed source and the file that puts it in place to a folder.
func overlay(m *Mutant) (string, error) {
	path, err := filepath.Abs(m.File)
	if err != nil {
		return "", err
	}
	src, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return "", err
	}
	changed := filepath.Join(tmp, "changed.go")
	b, err := json.Marshal(map[string]map[string]string{"Replace": {path: changed}})
	if err == nil {
		err = os.WriteFile(changed, m.Apply(src), 0o600)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(tmp, "overlay.json"), b, 0o600)
	}
	if err != nil {
		os.RemoveAll(tmp)
	}
	return tmp, err
}

// parseEquivalent reads equivalent.txt: a line with a reason that begins with "# ", and
// below it, until the next such line, the keys of mutants that it holds for.
func parseEquivalent(text string) (map[string]string, error) {
	m := map[string]string{}
	reason := ""
	for i, line := range strings.Split(text, "\n") {
		switch r, ok := strings.CutPrefix(line, "# "); {
		case strings.TrimSpace(line) == "":
		case ok:
			reason = r
		case reason == "" || m[line] != "":
			return nil, fmt.Errorf("equivalent.txt: line %d has no reason, or is there twice", i+1)
		default:
			m[line] = reason
		}
	}
	return m, nil
}
