//go:build unix

package main

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// lengthy writes a dump that takes more than one record to compare.
func lengthy(t *testing.T, layers string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "dump.safetensors")
	if code, _, errs := sage(t, "synth", "--tokens", "2048", "--heads", "1", "--layers", layers, "-o", path); code != exitOK {
		t.Fatal(errs)
	}
	return path
}

// eager starts a process that writes a journal at once.
func eager(t *testing.T, args ...string) *process {
	t.Helper()
	p := command(args...)
	p.Env = append(p.Env, asProgram+"="+atOnce)
	return p.launch(t)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// TestKillAndResume: runs that are killed at any moment, again and again, and resumed
// end with the result of one that was not.
func TestKillAndResume(t *testing.T) {
	dump := lengthy(t, "4")
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	for _, args := range [][]string{
		{"compare", dump, "--reference", "fp64", "--per-head", "--format", "json"},
		{"compare", dump, "--kernel", "sage2-4b,sage2-8b-sm90", "--lse"},
		{"table", "smooth-v", dump, "--format", "json"},
		{"recommend", dump, "--require", "cos>=0.9999999", "--format", "json"},
	} {
		t.Run(args[0], func(t *testing.T) {
			dir := t.TempDir()
			whole, out := filepath.Join(dir, "whole"), filepath.Join(dir, "out")
			if code, _, errs := sage(t, append(args, "-o", whole)...); code != exitOK {
				t.Fatal(errs)
			}
			args = append(args, "-o", out, "--resume")
			kills := 0
			for i := 0; i < 200 && kills < 6; i++ {
				had := exists(out + journalEnding)
				p := eager(t, args...)
				// Once there is a journal, some time later.
				for !had && !exists(out+journalEnding) && !exists(out) {
					time.Sleep(time.Millisecond)
				}
				time.Sleep(time.Duration(r.Int64N(int64(80 * time.Millisecond))))
				p.Process.Kill()
				p.end(t)
				if exists(out + journalEnding) {
					kills++
				} else {
					os.Remove(out) // it had come to its end
				}
			}
			if kills == 0 {
				t.Error("no run was killed with a journal")
			}
			if code, _, errs := sage(t, args...); code != exitOK {
				t.Fatal(errs)
			}
			if !bytes.Equal(content(t, out), content(t, whole)) {
				t.Errorf("after %d kills:\n%s\nwant\n%s", kills, content(t, out), content(t, whole))
			}
			if exists(out + journalEnding) {
				t.Error("the journal is still there")
			}
			t.Logf("%d kills with a journal", kills)
		})
	}
}

// interrupted runs a command until there is a journal, and interrupts it.
func interrupted(t *testing.T, out string, args ...string) *process {
	t.Helper()
	p := eager(t, append(args, "-o", out)...)
	for end := time.Now().Add(hung); !exists(out + journalEnding); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) || exists(out) {
			t.Fatalf("no journal was written: %s", &p.errs)
		}
	}
	p.Process.Signal(syscall.SIGINT)
	if code := p.end(t); code != exitInterrupted {
		t.Errorf("exit %d", code)
	}
	return p
}

// TestJournal: an interrupt says what is kept; a journal is not passed over, nor one of
// another run taken, and one that is damaged costs work alone.
func TestJournal(t *testing.T) {
	dump := lengthy(t, "9")
	dir := t.TempDir()
	whole, out := filepath.Join(dir, "whole"), filepath.Join(dir, "out")
	args := []string{"compare", dump, "--reference", "fp64", "--format", "json"}
	if code, _, errs := sage(t, append(args, "-o", whole)...); code != exitOK {
		t.Fatal(errs)
	}
	p := interrupted(t, out, args...)
	if want := "sageacc: interrupted; what is done is kept in " + out + ".journal: --resume goes on with it\n"; p.errs.String() != want {
		t.Errorf("stderr %q, want %q", &p.errs, want)
	}
	kept := content(t, out+journalEnding)

	// Another dump of the same name and shape.
	other := filepath.Join(t.TempDir(), "dump.safetensors")
	b := content(t, dump)
	b[len(b)-1] ^= 1  // the last layer's
	b[len(b)/18] ^= 1 // the first layer's
	if err := os.WriteFile(other, b, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args []string
		want string
	}{
		{args, "is there, of a run that was not finished: --resume goes on with it; or remove it"},
		{append(args, "--resume", "--kernel", "sage2-4b"), `a journal of another run: its kernel sage2-8b-sm90 is another`},
		{append(args, "--resume", "--per-head"), `a journal of another run: its layer layers.0.attn has another shape or other parameters`},
		{append(args, "--resume", "--reference", "fp32"), `a journal of another run: its reference is "fp64", not "fp32"`},
		{append(args, "--resume", "--layers", "0|1"), `a journal of another run: it is of 9 layers, not of 2`},
		{append(args, "--resume", "--causal"), `a journal of another run: its layer layers.0.attn has another shape or other parameters`},
		{[]string{"recommend", dump, "--require", "cos>0", "--resume"}, `a journal of another run: it is of sageacc compare`},
		{append([]string{"compare", other}, append(args[2:], "--resume")...), "a journal of another run: it is of other tensors than " + other + " has now"},
	} {
		code, _, errs := sage(t, append(tc.args, "-o", out)...)
		if code != exitCannotRun || !strings.Contains(errs, out+".journal") || !strings.HasSuffix(errs, tc.want+"\n") || strings.Count(errs, "\n") != 1 {
			t.Errorf("%v: exit %d, %q, want %q", tc.args, code, errs, tc.want)
		}
		if !bytes.Equal(content(t, out+journalEnding), kept) {
			t.Fatalf("%v changed the journal", tc.args)
		}
	}
	damage := map[string][]byte{
		"whole":  kept,
		"torn":   kept[:len(kept)-5],
		"header": kept[:100],
		"byte":   append(append(bytes.Clone(kept[:len(kept)-100]), 'x'), kept[len(kept)-99:]...),
		"empty":  nil,
	}
	for name, b := range damage {
		if err := os.WriteFile(out+journalEnding, b, 0o666); err != nil {
			t.Fatal(err)
		}
		code, _, errs := sage(t, append(args, "-o", out, "--resume")...)
		if noted := regexp.MustCompile(`^sageacc: note: damaged or unfinished records of the journal: 1; .*\n$`).MatchString(errs); code != exitOK || noted != (name == "torn" || name == "byte") {
			t.Errorf("%s: exit %d, %q", name, code, errs)
		}
		if !bytes.Equal(content(t, out), content(t, whole)) || exists(out+journalEnding) {
			t.Errorf("%s: another result, or the journal is still there", name)
		}
		os.Remove(out)
	}
	// A file that is no journal is left alone.
	for _, text := range []string{"mine", "notes of mine\nand more", "0123abcd {\"a\":1}\n"} {
		if err := os.WriteFile(out+journalEnding, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		code, _, errs := sage(t, append(args, "-o", out, "--resume")...)
		if want := "sageacc: " + out + ".journal: not a journal of sageacc\n"; code != exitCannotRun || errs != want {
			t.Errorf("%q: exit %d, %q, want %q", text, code, errs, want)
		}
		if got := content(t, out+journalEnding); string(got) != text {
			t.Errorf("%q became %q", text, got)
		}
	}
}

// TestResumeNeedsFile: a journal is beside a file.
func TestResumeNeedsFile(t *testing.T) {
	for _, out := range []string{"", "-", "/dev/null"} {
		code, _, errs := sage(t, "compare", sample, "--resume", "-o", out)
		if want := "sageacc: --resume is for a result that goes to a file, with -o: its journal is beside it\n"; code != exitCannotRun || errs != want {
			t.Errorf("-o %q: exit %d, %q", out, code, errs)
		}
	}
}
