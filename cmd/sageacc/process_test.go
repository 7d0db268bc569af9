//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sageacc/sageacc/internal/sweep"
	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

// asProgram in the environment makes the test's own binary the program, so that a
// process of its own can be killed.
const asProgram = "SAGEACC_TEST_AS_PROGRAM"

// atOnce is its value where a journal is not to wait for a second.
const atOnce = "at once"

func TestMain(m *testing.M) {
	switch os.Getenv(asProgram) {
	case "":
	case atOnce:
		ctx, stop := signal.NotifyContext(context.WithValue(context.Background(), soonKey{}, 2*time.Millisecond), os.Interrupt)
		defer stop()
		os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
	default:
		main()
	}
	os.Exit(m.Run())
}

// process is a running sageacc.
type process struct {
	*exec.Cmd
	out, errs bytes.Buffer
	ended     chan error
}

// command prepares a process.
func command(args ...string) *process {
	p := &process{Cmd: exec.Command(os.Args[0], args...), ended: make(chan error, 1)}
	p.Env = append(os.Environ(), asProgram+"=1")
	p.Stdout, p.Stderr = &p.out, &p.errs
	return p
}

// launch starts it, and kills it at the end of the test if nothing else does.
func (p *process) launch(t *testing.T) *process {
	t.Helper()
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.ended <- p.Wait() }()
	t.Cleanup(func() { p.Process.Kill() })
	return p
}

// hung is when a process counts as one that does not end. A test fails by it only
// where something hangs: how long the machine takes is no matter.
const hung = 30 * time.Second

// end waits for the process and returns its exit status, or 128 and the signal that
// killed it.
func (p *process) end(t *testing.T) int {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(hung):
		p.Process.Kill()
		t.Errorf("%v did not end", p.Args[1:])
		return -1
	}
	if ws := p.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return p.ProcessState.ExitCode()
}

// ticks is the CPU time that the process has used, in hundredths of a second; false
// where the system does not say.
func (p *process) ticks() (int, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Process.Pid))
	if err != nil {
		return 0, false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	user, err1 := strconv.Atoi(f[11])
	system, err2 := strconv.Atoi(f[12])
	return user + system, err1 == nil && err2 == nil
}

// poll is how often a test looks at what a process does.
const poll = 10 * time.Millisecond

// until waits until cond holds of the CPU time used so far and a moment ago; where that
// is not known, for a second. It reports false where the process ends before.
func (p *process) until(cond func(now, before int) bool) bool {
	for before, start := 0, time.Now(); time.Since(start) < hung; {
		select {
		case <-p.ended:
			return false
		case <-time.After(poll):
		}
		now, ok := p.ticks()
		if !ok {
			time.Sleep(time.Second)
			return true
		}
		if cond(now, before) {
			return true
		}
		before = now
	}
	return true
}

// wait is until of a process that does not end by itself.
func (p *process) wait(t *testing.T, cond func(now, before int) bool) {
	t.Helper()
	if !p.until(cond) {
		t.Fatalf("%v ended by itself: %s", p.Args[1:], &p.errs)
	}
}

// busy waits until the process has computed for a while, long after it has started and
// opened its files.
func (p *process) busy(t *testing.T, hundredths int) {
	t.Helper()
	p.wait(t, func(now, _ int) bool { return now >= hundredths })
}

// idle waits until the process has done something and waits for something.
func (p *process) idle(t *testing.T) {
	t.Helper()
	same := 0
	p.wait(t, func(now, before int) bool {
		if same++; now != before {
			same = 0
		}
		return now > 0 && same > 30
	})
}

// vast makes a dump of zeros that would keep any command busy for a long time, but
// takes no room on the disk.
func vast(t *testing.T, heads, tokens int) string {
	t.Helper()
	const dim = 64
	size := 2 * heads * tokens * dim
	var h strings.Builder
	for i, role := range []string{"q", "k", "v"} {
		fmt.Fprintf(&h, `,"l.%s":{"dtype":"F16","shape":[1,%d,%d,%d],"data_offsets":[%d,%d]}`, role, heads, tokens, dim, i*size, (i+1)*size)
	}
	text := "{" + h.String()[1:] + "}"
	path := filepath.Join(t.TempDir(), "vast.safetensors")
	if err := os.WriteFile(path, append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, int64(8+len(text)+3*size)); err != nil {
		t.Skip(err)
	}
	return path
}

// hostileSet makes a conformance set whose one case takes for ever.
func hostileSet(t *testing.T) string {
	t.Helper()
	const n = int64(1) << 36
	text := fmt.Sprintf(`{"x":{"dtype":"F32","shape":[%d],"data_offsets":[0,%d]},"y":{"dtype":"F32","shape":[%d],"data_offsets":[%d,%d]}}`, n, 4*n, n, 4*n, 8*n)
	dir := set(t, `{"file":"f.safetensors","op":"unary","instruction":"ex2.approx.ftz.f32","expect":"y"}`)
	path := filepath.Join(dir, "f.safetensors")
	if err := os.WriteFile(path, append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, int64(8+len(text))+8*n); err != nil {
		t.Skip(err)
	}
	return dir
}

// bigResult makes a result of many layers.
func bigResult(t *testing.T, layers int) string {
	t.Helper()
	code, out, errs := sage(t, "compare", sample, "--layers", "0", "--per-head", "--format", "json")
	if code != exitOK {
		t.Fatal(errs)
	}
	// The one layer, under many names.
	head, rest, _ := strings.Cut(out, `"layers": [`)
	layer, tail, _ := strings.Cut(rest, "\n  ],")
	var b strings.Builder
	b.WriteString(head + `"layers": [`)
	for i := range layers {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strings.Replace(layer, `"layers.0.attn"`, fmt.Sprintf(`"layers.%d.attn"`, i), 1))
	}
	b.WriteString("\n  ]," + tail)
	path := filepath.Join(t.TempDir(), "big.json")
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestSignals: every command that can take long ends soon after SIGINT, SIGTERM or
// SIGHUP, with status 130 and one line, and leaves no file.
func TestSignals(t *testing.T) {
	// What is long, trace reads without a look at signals: run ends it after a while.
	many, long := vast(t, 8, 1<<17), vast(t, 1, 1<<24)
	result := bigResult(t, 20_000)
	other := write(t, nil, append(layer(1, 1, 1024, 64), tensor("l.o", 1, 1, 1024, 64))...)
	for i, tc := range []struct {
		busy int
		args []string
	}{
		{10, []string{"compare", many, "-o", "OUT"}},
		{10, []string{"compare", many, "--lse", "--reference", "fp64", "--format", "json"}},
		{30, []string{"compare", other, "--explain", "--explain-changes", "3", "-o", "OUT"}},
		{10, []string{"inspect", long}},
		{10, []string{"trace", long, "--row", "16777215"}},
		{10, []string{"table", "all", many, "-o", "OUT"}},
		{10, []string{"recommend", many, "--require", "cos>0", "-o", "OUT"}},
		{10, []string{"synth", "--tokens", "1048576", "--heads", "8", "-o", "OUT"}},
		{10, []string{"conform", hostileSet(t)}},
		{10, []string{"bench", "--min-time", "10m"}},
		{10, []string{"report", result, "-o", "OUT"}},
	} {
		// What hears signals, and what a command does then, know nothing of each other: the
		// first command gets all three, and every other one of them.
		signals := []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP}
		if i > 0 && !sweep.Full() {
			signals = signals[i%3 : i%3+1]
		}
		for _, s := range signals {
			t.Run(tc.args[0]+" "+s.String(), func(t *testing.T) {
				dir := t.TempDir()
				var args []string
				for _, a := range tc.args {
					args = append(args, strings.ReplaceAll(a, "OUT", filepath.Join(dir, "out")))
				}
				p := command(args...).launch(t)
				p.busy(t, tc.busy)
				start := time.Now()
				p.Process.Signal(s)
				code := p.end(t)
				t.Logf("%v after the signal", time.Since(start).Round(time.Millisecond))
				left, err := os.ReadDir(dir)
				want := "sageacc: interrupted\n"
				if kept := filepath.Join(dir, "out"+journalEnding); err == nil && len(left) == 1 && left[0].Name() == filepath.Base(kept) {
					// The run took a second, on a slow machine.
					left, want = nil, "sageacc: interrupted; what is done is kept in "+kept+": --resume goes on with it\n"
				}
				if code != exitInterrupted || p.errs.String() != want {
					t.Errorf("exit %d, %.300q", code, &p.errs)
				}
				if err != nil || len(left) > 0 {
					t.Errorf("left behind: %v, %v", left, err)
				}
			})
		}
	}
}

// stuck starts a command that writes to a pipe whose reader does not read.
func stuck(t *testing.T) *process {
	t.Helper()
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Skip(err)
	}
	r, err := os.OpenFile(pipe, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	p := command("trace", sample, "--layer", "layers.0.attn", "--row", "1023", "--format", "json", "-o", pipe).launch(t)
	p.idle(t)
	return p
}

// TestStuck: a signal ends also what waits for somebody else.
func TestStuck(t *testing.T) {
	p := stuck(t)
	p.Process.Signal(syscall.SIGTERM)
	if code := p.end(t); code != exitInterrupted || p.errs.String() != "sageacc: interrupted\n" {
		t.Errorf("exit %d, %q", code, &p.errs)
	}
}

// TestSecondSignal: a second signal does not wait for anything.
func TestSecondSignal(t *testing.T) {
	p := stuck(t)
	p.Process.Signal(syscall.SIGINT)
	time.Sleep(100 * time.Millisecond)
	p.Process.Signal(syscall.SIGINT)
	if code := p.end(t); code != 128+int(syscall.SIGINT) || p.errs.Len() > 0 {
		t.Errorf("exit %d, %q", code, &p.errs)
	}
}

// TestNohup: what the process was started to ignore it goes on ignoring.
func TestNohup(t *testing.T) {
	p := command("synth", "--tokens", "32768", "-o", filepath.Join(t.TempDir(), "out"))
	p.Cmd.Args = append([]string{"sh", "-c", `trap "" HUP; exec "$0" "$@"`}, p.Args...)
	p.Path = "/bin/sh"
	p.launch(t).busy(t, 10)
	p.Process.Signal(syscall.SIGHUP)
	if code := p.end(t); code != exitOK {
		t.Errorf("exit %d, %q", code, &p.errs)
	}
}

// TestDumpChanges: a dump that another program truncates or overwrites while it is
// read is one line and status 2. Commands know nothing of how a dump was made shorter: by itself
// the test does that to each in one way.
func TestDumpChanges(t *testing.T) {
	for i, args := range [][]string{
		{"compare", "DUMP", "-o", "OUT"}, {"inspect", "DUMP"}, {"trace", "DUMP", "--row", "1048575", "-o", "OUT"},
		{"table", "smooth-v", "DUMP", "-o", "OUT"}, {"recommend", "DUMP", "--require", "cos>0", "-o", "OUT"},
	} {
		tokens := 1 << 17
		if args[0] == "trace" || args[0] == "inspect" {
			tokens = 1 << 20
		}
		for j, size := range []int64{1000, 0} {
			if i%2 != j && !sweep.Full() {
				continue
			}
			t.Run(fmt.Sprintf("%s, %d bytes left", args[0], size), func(t *testing.T) {
				_, errs := changed(t, 1, tokens, args, func(path string) error { return os.Truncate(path, size) })
				if !strings.Contains(errs, `(tensor "l.`) {
					t.Errorf("%.500q", errs)
				}
			})
		}
	}
	later := time.Now().Add(time.Minute)
	overwrite := func(path string) error {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteAt([]byte("other"), 4000)
		return errors.Join(err, f.Close(), os.Chtimes(path, later, later))
	}
	// Found at the end of the layer, which must be in sight. Where the machine is so busy that
	// it comes before the change, the layer is twice as long.
	for _, tc := range []struct {
		args   []string
		tokens int
	}{{[]string{"compare", "DUMP", "-o", "OUT"}, 2048}, {[]string{"inspect", "DUMP"}, 1 << 15}} {
		t.Run("overwritten "+tc.args[0], func(t *testing.T) {
			for tokens := tc.tokens; ; tokens *= 2 {
				inTime, _ := changed(t, 8, tokens, tc.args, overwrite)
				if inTime {
					return
				}
				if tokens > 2*tc.tokens {
					t.Fatal("the command always ends before its dump is changed")
				}
			}
		})
	}
}

// changed runs a command on a dump that is changed while it is read, and returns what it
// says. It reports false where the command had ended before.
func changed(t *testing.T, heads, tokens int, args []string, change func(path string) error) (inTime bool, errs string) {
	t.Helper()
	path, out := vast(t, heads, tokens), filepath.Join(t.TempDir(), "out")
	var line []string
	for _, a := range args {
		line = append(line, strings.ReplaceAll(strings.ReplaceAll(a, "DUMP", path), "OUT", out))
	}
	p := command(line...).launch(t)
	if !p.until(func(now, _ int) bool { return now >= 10 }) {
		if code := p.ProcessState.ExitCode(); code != exitOK {
			t.Fatalf("not changed yet: exit %d, %.500q", code, &p.errs)
		}
		return false, ""
	}
	if err := change(path); err != nil {
		t.Fatal(err)
	}
	code := p.end(t)
	if code == exitOK {
		return false, "" // it had read all, or the test says that it never sees a change
	}
	errs = p.errs.String()
	if code != exitCannotRun || strings.Count(errs, "\n") != 1 || !strings.Contains(errs, path+": the file was changed while it was being read") {
		t.Errorf("exit %d, %.500q", code, errs)
	}
	if exists(out) {
		t.Error("a result was written")
	}
	return true, errs
}

// TestFullOutput: a standard output that takes nothing is status 2, also for what only
// helps.
func TestFullOutput(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	for _, args := range [][]string{
		nil, {"--help"}, {"help"}, {"compare", "--help"}, {"help", "compare"}, {"version"}, {"--version"}, {"kernels"}, {"kernels", "--units"}, {"completion", "bash"},
		{"compare", sample}, {"inspect", sample}, {"compare", sample, "-o", "/dev/full"}, {"conform", "../../hardware/conformance/testdata/own"},
	} {
		p := command(args...)
		p.Stdout = full
		p.launch(t)
		if code := p.end(t); code != exitCannotRun || strings.Count(p.errs.String(), "\n") != 1 || !strings.Contains(p.errs.String(), "no space left") {
			t.Errorf("%v: exit %d, %q", args, code, &p.errs)
		}
	}
}

// TestPipes: a pipe or a device that stands where a file should does not block and
// does not fill the memory.
func TestPipes(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"pipe", "pipe.safetensors", "pipe.npz", "pipe.npy", "set/cases.jsonl"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Skip(err)
		}
	}
	pipe, out := filepath.Join(dir, "pipe"), filepath.Join(dir, "out")
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"compare", pipe + ".safetensors"}, "is a pipe"},
		{[]string{"compare", pipe + ".npy"}, "is a pipe"},
		{[]string{"inspect", pipe + ".npz"}, "is a pipe"},
		{[]string{"inspect", dir}, "is a pipe"},
		{[]string{"compare", sample, "--actual", pipe + ".npy"}, "is a pipe"},
		{[]string{"report", "/dev/zero", "-o", out}, "/dev/zero: is a device"},
		{[]string{"report", pipe, "-o", out}, "is a pipe"},
		{[]string{"report", dir, "-o", out}, "is a folder"},
		{[]string{"diff", "/dev/zero", "/dev/zero"}, "/dev/zero: is a device"},
		{[]string{"diff", pipe, pipe}, "is a pipe"},
		{[]string{"conform", filepath.Join(dir, "set")}, "is a pipe"},
		{[]string{"validate", "--module", "/dev/zero", "--manifest", pipe}, "/dev/zero: is a device"},
		{[]string{"validate", "--module", sample, "--manifest", pipe}, "is a pipe"},
		{[]string{"compare", sample, "-o", pipe}, "pipe that nobody reads"},
		{[]string{"trace", sample, "--layer", "layers.0.attn", "-o", pipe}, "pipe that nobody reads"},
		{[]string{"synth", "-o", pipe}, "pipe that nobody reads"},
		{[]string{"synth", "-o", "/dev/null"}, "cannot write /dev/null: it is no regular file"},
	} {
		p := command(tc.args...).launch(t)
		if code := p.end(t); code != exitCannotRun || strings.Count(p.errs.String(), "\n") != 1 || !strings.Contains(p.errs.String(), tc.want) {
			t.Errorf("%v: exit %d, %q, want %q", tc.args, code, &p.errs, tc.want)
		}
	}
	// A device that takes everything is fine.
	if code, _, errs := sage(t, "compare", sample, "-o", os.DevNull); code != exitOK || errs != "" {
		t.Errorf("-o %s: exit %d, %q", os.DevNull, code, errs)
	}
}

// TestNaNOfAnyCPU: what is printed of a NaN does not depend on the CPU, nor does
// anything else.
func TestNaNOfAnyCPU(t *testing.T) {
	for dtype, tc := range map[string]struct {
		one []byte
		nan string
	}{
		"F16": {[]byte{0, 0x3c}, "0x7fff"}, "BF16": {[]byte{0x80, 0x3f}, "0x7fff"}, "F32": {[]byte{0, 0, 0x80, 0x3f}, "0x7fffffff"},
	} {
		var ts []safetensors.Tensor
		for _, role := range []string{"q", "k", "v", "o"} {
			data := bytes.Repeat(tc.one, 70*64)
			if role == "v" {
				// A channel of zeros, which the released kernels divide by its largest
				// magnitude.
				for token := range 70 {
					clear(data[token*64*len(tc.one):][:len(tc.one)])
				}
			}
			ts = append(ts, safetensors.Tensor{Name: "l." + role, DType: dtype, Shape: []int{1, 1, 70, 64}, Data: data})
		}
		path := write(t, nil, ts...)
		for _, kernel := range [][]string{{"sage2-8b-sm90"}, {"sage2-8b-sm89", "--pv-accum", "fp32+fp16"}, {"sage2-8b-sm89", "--pv-accum", "fp32"}} {
			var first string
			for _, features := range []string{"", "cpu.avx512f=off", "cpu.all=off"} {
				p := command(append([]string{"compare", path, "--lse", "--format", "json", "--kernel"}, kernel...)...)
				p.Env = append(p.Env, "GODEBUG="+features)
				p.launch(t)
				if code := p.end(t); code != exitOK {
					t.Fatalf("exit %d, %s", code, &p.errs)
				}
				out := p.out.String()
				if first == "" {
					first = out
				}
				if out != first {
					t.Errorf("%s, %s, %v: the result differs", dtype, features, kernel)
				}
				for _, want := range []string{`"emulated": "` + tc.nan + `"`, `"emulated_value": "NaN"`} {
					if !strings.Contains(out, want) {
						t.Errorf("%s, %s, %v: no %s", dtype, features, kernel, want)
					}
				}
			}
		}
	}
}

// TestWeatherKills kills processes that write, at random moments: there is the old file
// or the new one, whole, and the next run removes what is left.
func TestWeatherKills(t *testing.T) {
	dump := write(t, nil, layer(1, 8, 300, 64)...)
	result := filepath.Join(t.TempDir(), "result.json")
	if code, _, errs := sage(t, "compare", dump, "--per-head", "--format", "json", "-o", result); code != exitOK {
		t.Fatal(errs)
	}
	r := rand.New(rand.NewPCG(7, 7))
	torn, kept, replaced, left := 0, 0, 0, 0
	for _, tc := range []struct {
		share int // of the kills
		args  []string
	}{
		{2, []string{"synth", "--tokens", "8192", "--heads", "2", "--layers", "1"}},
		{1, []string{"compare", dump, "--per-head", "--format", "json"}},
		{1, []string{"report", result}},
	} {
		dir := t.TempDir()
		out := filepath.Join(dir, "out")
		args := append(tc.args, "-o", out)
		start := time.Now()
		if p := command(args...).launch(t); p.end(t) != exitOK {
			t.Fatalf("%v: %s", args, &p.errs)
		}
		whole := time.Since(start)
		want, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		const old = "what was there"
		for range max(1, *kills*tc.share/4) {
			if err := os.WriteFile(out, []byte(old), 0o644); err != nil {
				t.Fatal(err)
			}
			p := command(args...).launch(t)
			// Beyond the end too, since the machine may be faster now.
			time.Sleep(time.Duration(r.Int64N(int64(whole + whole/8))))
			p.Process.Kill()
			p.end(t)
			got, err := os.ReadFile(out)
			switch {
			case err == nil && string(got) == old:
				kept++
			case err == nil && bytes.Equal(got, want):
				replaced++
			default:
				torn++
				t.Errorf("%v: %d bytes of %d, %v", args, len(got), len(want), err)
			}
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			left += len(entries) - 1
		}
		if p := command(args...).launch(t); p.end(t) != exitOK {
			t.Fatalf("%v: %s", args, &p.errs)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
			t.Errorf("%v: %v is left after a run that was not killed, %v", args, entries, err)
		}
		if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%v: another result, %v", args, err)
		}
	}
	t.Logf("%d kills: the old file %d times, the new one %d, %d torn; %d temporary files were found after kills", kept+replaced+torn, kept, replaced, torn, left)
}
