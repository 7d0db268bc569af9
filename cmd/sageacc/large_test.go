//go:build unix

package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sageacc/sageacc/emulate/format"
)

// The sizes of docs/large.md, 400 MB on the disk and some minutes:
//
//	go test ./cmd/sageacc -run TestLarge -v -timeout 0 -large
var large = flag.Bool("large", false, "TestLarge takes dumps of 5,000 layers, of 1,000,000 keys, and of 30 GB")

// huge writes a dump of layers of one shape without holding it: of normal values, or of
// zeros that take no room on the disk.
func huge(t *testing.T, zeros bool, layers, heads, tokens, dim int) string {
	t.Helper()
	size := 2 * heads * tokens * dim
	var h strings.Builder
	for i := range layers {
		for j, role := range []string{"q", "k", "v"} {
			at := (3*i + j) * size
			fmt.Fprintf(&h, `,"layers.%d.attn.%s":{"dtype":"F16","shape":[1,%d,%d,%d],"data_offsets":[%d,%d]}`, i, role, heads, tokens, dim, at, at+size)
		}
	}
	text := "{" + h.String()[1:] + "}"
	path := filepath.Join(t.TempDir(), "dump.safetensors")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriterSize(f, 1<<20)
	w.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(text))))
	w.WriteString(text)
	if !zeros {
		r := rand.New(rand.NewPCG(1, 2))
		for range 3 * layers * size / 2 {
			w.Write(binary.LittleEndian.AppendUint16(w.AvailableBuffer(), format.FP16FromFloat32(float32(r.NormFloat64()))))
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(int64(8 + len(text) + 3*layers*size)); err != nil {
		t.Skip(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// timed runs a process to its end and logs what it took, under a name.
func timed(t *testing.T, name string, args ...string) (out string, took time.Duration) {
	t.Helper()
	start := time.Now()
	p := command(args...).launch(t)
	err := <-p.ended
	took = time.Since(start)
	if err != nil {
		t.Fatalf("%s: %v, %s", name, err, &p.errs)
	}
	s := p.ProcessState
	t.Logf("%s: %.1f s, %.1f s of CPU, peak memory at most %d MiB", name, took.Seconds(), (s.UserTime() + s.SystemTime()).Seconds(), peak(s)>>10)
	return p.out.String(), took
}

// TestLarge: runs on dumps that are large in every way; and what plan says of one. By
// itself it takes small ones.
func TestLarge(t *testing.T) {
	layers, kills, keys, parts, many := 40, 3, 20_000, 2, 2000
	if *large {
		layers, kills, keys, parts, many = 5000, 50, 1_000_000, 14, 118_000
	}
	t.Run("layers", func(t *testing.T) { manyLayers(t, layers, kills) })
	t.Run("keys", func(t *testing.T) {
		dump := huge(t, false, 1, 1, keys, 64)
		out, _ := timed(t, fmt.Sprintf("%d keys, a sample of 4 tiles", keys), "compare", dump, "--sample", "4", "--format", "json")
		if !strings.Contains(out, `"confidence"`) {
			t.Errorf("no bounds:\n%s", out)
		}
	})
	t.Run("sparse", func(t *testing.T) {
		dump := huge(t, true, parts, 24, many, 128)
		info, err := os.Stat(dump)
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("%.1f GB in %d layers, a sample of 2 tiles", float64(info.Size())/1e9, parts)
		out, _ := timed(t, name, "compare", dump, "--sample", "2", "--format", "csv")
		if n := strings.Count(out, "layers."); n < parts {
			t.Errorf("%d layers of %d:\n%s", n, parts, out)
		}
	})
}

// manyLayers compares a dump of many small layers, whole and with kills, and asks plan
// what that takes.
func manyLayers(t *testing.T, layers, kills int) {
	dump := huge(t, false, layers, 1, 128, 64)
	dir := t.TempDir()
	whole, out := filepath.Join(dir, "whole"), filepath.Join(dir, "out")
	args := []string{"compare", dump, "--kernel", "sage2-4b", "--format", "json"}
	_, took := timed(t, fmt.Sprintf("%d layers", layers), append(args, "-o", whole)...)
	estimate, _ := timed(t, "plan", "plan", dump, "--kernel", "sage2-4b", "--format", "json")
	var p planned
	if err := json.Unmarshal([]byte(estimate), &p); err != nil || p.Seconds <= 0 {
		t.Errorf("%v: %s", err, estimate)
	}
	t.Logf("plan said %.1f s and %d MiB", p.Seconds, p.Memory>>20)

	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	args = append(args, "-o", out, "--resume")
	killed, journals := 0, 0
	for killed < kills {
		q := eager(t, args...)
		select {
		case <-q.ended:
			if code := q.ProcessState.ExitCode(); code != exitOK {
				t.Fatalf("exit %d, %s", code, &q.errs)
			}
			// It had come to its end: once more, from the start.
			if !bytes.Equal(content(t, out), content(t, whole)) {
				t.Fatalf("after %d kills another result", killed)
			}
			os.Remove(out)
		case <-time.After(time.Duration(r.Int64N(int64(took/5 + 100*time.Millisecond)))):
			q.Process.Kill()
			<-q.ended
			killed++
			if exists(out + journalEnding) {
				journals++
			}
		}
	}
	os.Remove(out)
	timed(t, fmt.Sprintf("the last of %d runs, %d with a journal", killed+1, journals), args...)
	if !bytes.Equal(content(t, out), content(t, whole)) {
		t.Errorf("after %d kills another result", killed)
	}
}

// peak is the most memory that a process has had, in KiB. What the test's process had
// when it started it counts too.
func peak(s *os.ProcessState) int64 {
	use := int64(s.SysUsage().(*syscall.Rusage).Maxrss)
	if runtime.GOOS == "darwin" {
		use /= 1024 // of bytes
	}
	return use
}
