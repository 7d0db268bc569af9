//go:build unix

package main

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

// An hour of it, also under the race detector (CGO_ENABLED=1, and without the limit,
// which the detector's address space exceeds):
//
//	go test ./cmd/sageacc -run TestSoak -v -timeout 0 -soak 1h -soak-limit 1400
//	go test -race ./cmd/sageacc -run TestSoak -v -timeout 0 -soak 1h
var (
	soakTime  = flag.Duration("soak", 3*time.Second, "how long TestSoak goes on")
	soakSeed  = flag.Uint64("soak-seed", 0, "what its dumps and commands are drawn from; 0 for the time")
	soakLimit = flag.Int("soak-limit", 0, "MiB of address space that each process may have, as by ulimit -v; 0 for no limit. Go reserves 1.2 GiB that it does not use")
)

// soak runs random commands on random dumps, whole and with kills.
type soak struct {
	t   *testing.T
	r   *rand.Rand
	dir string // of a round

	rounds, refused, processes, kills, interrupts, journals, differences int
	// peak is the most memory that a process had, in KiB.
	peak int64
}

// upTo draws a number from 1 to n, small ones more often than large ones.
func (s *soak) upTo(n int) int { return 1 + s.r.IntN(1+s.r.IntN(n)) }

// oneOf draws one of several.
func oneOf[T any](s *soak, of ...T) T { return of[s.r.IntN(len(of))] }

// tensor draws a tensor: normal values, a few channels of which are large.
func (s *soak) tensor(name, dtype string, shape ...int) safetensors.Tensor {
	n := 1
	for _, d := range shape {
		n *= d
	}
	dim := shape[len(shape)-1]
	large := s.r.IntN(dim)
	var data []byte
	for i := range n {
		x := float32(s.r.NormFloat64())
		if i%dim == large {
			x += 8
		}
		switch dtype {
		case "F16":
			data = binary.LittleEndian.AppendUint16(data, format.FP16FromFloat32(x))
		case "BF16":
			data = binary.LittleEndian.AppendUint16(data, format.BF16FromFloat32(x))
		}
	}
	return safetensors.Tensor{Name: name, DType: dtype, Shape: shape, Data: data}
}

// dump draws a dump of layers of random shapes and writes it.
func (s *soak) dump() string {
	var ts []safetensors.Tensor
	dim := 8 * oneOf(s, 1, 2, 4, 8, 8, 9, 12, 16)
	dtype := oneOf(s, "F16", "BF16")
	work := 6_000_000 / dim * 8 // queries with keys, of all layers
	for i := range s.upTo(6) {
		kvHeads := s.upTo(3)
		heads := kvHeads * s.upTo(3)
		batch := s.upTo(2)
		keys := s.upTo(2500)
		queries := oneOf(s, keys, s.upTo(2500))
		work -= batch * heads * queries * keys
		if work < 0 && i > 0 {
			break
		}
		name := fmt.Sprintf("layers.%d.attn.", i)
		ts = append(ts, s.tensor(name+"q", dtype, batch, heads, queries, dim), s.tensor(name+"k", dtype, batch, kvHeads, keys, dim), s.tensor(name+"v", dtype, batch, kvHeads, keys, dim))
		if s.r.IntN(3) == 0 {
			ts = append(ts, s.tensor(name+"o", dtype, batch, heads, queries, dim))
		}
	}
	path := filepath.Join(s.dir, "dump.safetensors")
	causal := fmt.Sprint(s.r.IntN(2) == 0)
	if err := safetensors.Write(path, map[string]string{"causal": causal, "layout": "HND"}, ts); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// command draws a command over a dump.
func (s *soak) command(dump string) []string {
	kernels := oneOf(s, program.Names()...)
	if second := oneOf(s, program.Names()...); second != kernels && s.r.IntN(3) == 0 {
		kernels += "," + second
	}
	compare := []string{"compare", dump, "--kernel", kernels}
	for _, flag := range []string{"--per-head", "--lse", "--reference=fp64", "--sm-scale=0.2"} {
		if s.r.IntN(4) == 0 {
			compare = append(compare, flag)
		}
	}
	output := "--format=" + oneOf(s, "json", "json", "csv", "table", "markdown")
	switch s.r.IntN(8) {
	case 0:
		return []string{"table", oneOf(s, "smooth-v", "granularity"), dump, "--format", "json"}
	case 1:
		return []string{"recommend", dump, "--require", "cos>=0.9995", "--format", "json"}
	case 2:
		if info, err := os.Stat(dump); err == nil && info.Size() < 200_000 { // it takes many runs
			return append(compare, "--attribute", "--format=json")
		}
	case 3, 4:
		return append(compare, "--sample", oneOf(s, "2", "3", "40%"), output)
	}
	return append(compare, output)
}

// start starts a process with the limits.
func (s *soak) start(args ...string) *process {
	s.t.Helper()
	p := command(append(args, "--jobs", fmt.Sprint(1+s.r.IntN(4)))...)
	p.Env = append(p.Env, asProgram+"="+atOnce, "GODEBUG="+oneOf(s, "", "", "", "cpu.avx512f=off"))
	if *soakLimit > 0 {
		args := append([]string{"-c", `ulimit -v "$1" && shift && exec "$@"`, "sh", fmt.Sprint(*soakLimit << 10)}, p.Args...)
		env := p.Env
		p.Cmd = exec.Command("/bin/sh", args...)
		p.Env, p.Stdout, p.Stderr = env, &p.out, &p.errs
	}
	s.processes++
	return p.launch(s.t)
}

// ended takes in what is known of a process at its end, and returns its exit status.
func (s *soak) ended(p *process) int {
	s.peak = max(s.peak, peak(p.ProcessState))
	return p.ProcessState.ExitCode()
}

// whole runs a command to its end.
func (s *soak) whole(args ...string) (code int, took time.Duration, errs string) {
	start := time.Now()
	p := s.start(args...)
	<-p.ended
	return s.ended(p), time.Since(start), p.errs.String()
}

// broken runs a command that resumes, and kills it again and again: at random moments
// of the time that all of it takes.
func (s *soak) broken(took time.Duration, args ...string) {
	args = append(args, "--resume")
	out := args[len(args)-2]
	for range s.upTo(8) {
		p := s.start(args...)
		signal := oneOf(s, syscall.SIGKILL, syscall.SIGKILL, syscall.SIGKILL, syscall.SIGTERM)
		select {
		case <-p.ended:
		case <-time.After(time.Duration(s.r.Int64N(int64(took)))):
			p.Process.Signal(signal)
			<-p.ended
		}
		switch code := s.ended(p); {
		case code == exitOK:
			return
		case code == -1 && signal == syscall.SIGKILL:
			s.kills++
		case code == exitInterrupted && signal == syscall.SIGTERM:
			s.interrupts++
		case code == -1: // before it could take signals
			s.interrupts++
		default:
			s.t.Errorf("%v: exit %d, %s", args, code, &p.errs)
		}
		if exists(out) || exists(out+journalEnding) {
			s.journals++
		}
	}
	if code, _, errs := s.whole(args...); code != exitOK {
		s.t.Errorf("%v: exit %d, %s", args, code, errs)
	}
}

// round is a random command on a random dump.
func (s *soak) round() {
	s.dir = s.t.TempDir()
	defer os.RemoveAll(s.dir)
	args := s.command(s.dump())
	whole, out := filepath.Join(s.dir, "whole"), filepath.Join(s.dir, "out")
	s.rounds++
	code, took, errs := s.whole(append(args, "-o", whole)...)
	if code == exitCannotRun && strings.Count(errs, "\n") == 1 && strings.HasPrefix(errs, "sageacc: ") && !exists(whole) {
		s.refused++ // a kernel that does not take such layers
		s.t.Logf("refused: %s", errs)
		return
	}
	if code != exitOK {
		s.t.Errorf("%v: exit %d, %s", args, code, errs)
		return
	}
	last := len(args) - 1
	command, output := args[:last:last], args[last]
	joined := strings.Join(args, " ")
	if args[0] == "compare" && !strings.Contains(joined, "--sample") && !strings.Contains(joined, "--attribute") && s.r.IntN(2) == 0 {
		n := 1 + s.upTo(7)
		merge := []string{"merge", output, "-o", out}
		for i := range n {
			part := filepath.Join(s.dir, fmt.Sprintf("part-%d", i+1))
			s.broken(took*2/time.Duration(n), append(command, "--shard", fmt.Sprintf("%d/%d", i+1, n), "-o", part)...)
			merge = append(merge, part)
		}
		if code, _, errs := sage(s.t, merge...); code != exitOK {
			s.t.Errorf("%v: exit %d, %s", merge, code, errs)
		}
	} else {
		s.broken(took, append(args, "-o", out)...)
	}
	if got := content(s.t, out); !bytes.Equal(got, content(s.t, whole)) {
		s.differences++
		s.t.Errorf("%v: another result:\n%.2000s\nwant\n%.2000s", args, got, content(s.t, whole))
	}
}

// TestSoak: for as long as is asked, random commands on random dumps, killed at random
// moments and resumed, give the bytes of one that was not killed.
func TestSoak(t *testing.T) {
	seed := *soakSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	s := &soak{t: t, r: rand.New(rand.NewPCG(seed, 0))}
	defer func() {
		t.Logf("seed %d: %d rounds, %d of them refused; %d processes, %d killed, %d interrupted, after %d of these there was a journal; %d differences; peak memory of a process at most %d MiB",
			seed, s.rounds, s.refused, s.processes, s.kills, s.interrupts, s.journals, s.differences, s.peak>>10)
	}()
	for end := time.Now().Add(*soakTime); !t.Failed() && (s.rounds == 0 || time.Now().Before(end)); {
		s.round()
	}
}
