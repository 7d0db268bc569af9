package main

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/sageacc/sageacc/internal/weather"
	"github.com/sageacc/sageacc/kernels"
	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

// All of it: go test ./cmd/sageacc -run Weather -timeout 60m -mutants 10000 -kills 160
var (
	mutants = flag.Int("mutants", 100, "damaged files of each kind that TestWeatherMutants tries")
	first   = flag.Int("first", 0, "number of the first of them")
	kills   = flag.Int("kills", 12, "times that TestWeatherKills kills a process")
)

// batch is how many mutants a process tries: what commands leave in memory, such as
// cobra's functions for completion, adds up.
const batch = 500

// kind is a kind of input file and what reads it.
type kind struct {
	// seeds are sound files. lay puts a damaged one where the commands want it, beside
	// what else they need, and returns the commands.
	seeds [][]byte
	lay   func(t *testing.T, dir string, r *rand.Rand, damaged []byte) [][]string
}

// npyBytes is a .npy file of FP16.
func npyBytes(shape string, n int) []byte {
	h := fmt.Sprintf("{'descr': '<f2', 'fortran_order': False, 'shape': %s, }", shape)
	h += strings.Repeat(" ", 63-(len(h)+10)%64) + "\n"
	b := binary.LittleEndian.AppendUint16([]byte("\x93NUMPY\x01\x00"), uint16(len(h)))
	return append(append(b, h...), tensor("x", n).Data...)
}

// archiveBytes is a .npz file.
func archiveBytes(t *testing.T, method uint16, entries map[string][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		w, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: method})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(entries[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func save(t *testing.T, data []byte, path ...string) string {
	t.Helper()
	name := filepath.Join(path...)
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, data, 0o644)); err != nil {
		t.Fatal(err)
	}
	return name
}

func load(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// kinds are the formats that are read.
func kinds(t *testing.T) map[string]kind {
	t.Helper()
	shape := []int{1, 2, 9, 8}
	whole := append(layer(shape...), tensor("l.o", shape...), safetensors.Tensor{Name: "l.lse", DType: "F32", Shape: shape[:3], Data: make([]byte, 4*18)})
	dump := load(t, write(t, map[string]string{"causal": "true", "sm_scale": "0.3", "layout": "HND"}, whole...))
	small := load(t, write(t, nil, layer(1, 1, 3, 4)...))
	dumps := func(path string) [][]string {
		return [][]string{{"inspect", path}, {"compare", path, "--lse", "--format", "json"}, {"trace", path, "--layout", "hnd"}}
	}

	result := func(args ...string) []byte {
		code, out, errs := sage(t, args...)
		if code != exitOK {
			t.Fatal(errs)
		}
		return []byte(out)
	}
	dumpFile := save(t, dump, t.TempDir(), "d.safetensors")
	sound := result("compare", dumpFile, "--per-head", "--attribute", "--format", "json")
	several := result("compare", dumpFile, "--kernel", "sage2-4b,sage2-8b-sm89", "--format", "json")
	tabled := result("table", "smooth-v", dumpFile, "--format", "json")

	recordings := "../../hardware/conformance/testdata/own"
	lines := load(t, filepath.Join(recordings, "cases.jsonl"))
	if i := bytes.IndexByte(lines, '\n'); i >= 0 {
		lines = lines[:i+1]
	}
	recording := load(t, filepath.Join(recordings, fieldOf(t, lines, "file")))
	unary := load(t, write(t, nil, safetensors.Tensor{Name: "x", DType: "F32", Shape: []int{4}, Data: make([]byte, 16)}, safetensors.Tensor{Name: "y", DType: "F32", Shape: []int{4}, Data: bytes.Repeat([]byte{0, 0, 0x80, 0x3f}, 4)}))
	mma := load(t, write(t, nil,
		safetensors.Tensor{Name: "a", DType: "F8_E4M3", Shape: []int{2, 16, 32}, Data: make([]byte, 1024)},
		safetensors.Tensor{Name: "b", DType: "F8_E4M3", Shape: []int{2, 8, 32}, Data: make([]byte, 512)},
		safetensors.Tensor{Name: "c", DType: "F32", Shape: []int{2, 16, 8}, Data: make([]byte, 1024)},
		safetensors.Tensor{Name: "d", DType: "F32", Shape: []int{2, 16, 8}, Data: make([]byte, 1024)}))
	set := []byte(`{"file":"unary.safetensors","op":"unary","instruction":"ex2.approx.ftz.f32","arch":"sm_90","expect":"y"}
{"file":"mma.safetensors","op":"mma","arch":"sm_90","instruction":"mma.m16n8k32.f32.e4m3","expect":"d"}
`)

	k, err := kernels.Named(kernels.Names()[0])
	if err != nil {
		t.Fatal(err)
	}
	image := save(t, k.Image, t.TempDir(), "image")
	manifests := yamlFiles(t, "../../kernels/manifests")

	return map[string]kind{
		"safetensors": {[][]byte{dump, small}, func(t *testing.T, dir string, r *rand.Rand, b []byte) [][]string {
			// Half of them with the right length in front of the header again.
			if n := bytes.Index(b, []byte("]}}")); n > 8 && r.IntN(2) == 0 {
				for n += 3; n < len(b) && b[n] == ' '; n++ {
				}
				binary.LittleEndian.PutUint64(b, uint64(n-8))
			}
			return dumps(save(t, b, dir, "d.safetensors"))
		}},
		"npy": {[][]byte{npyBytes("(1, 2, 9, 8)", 144), bytes.Replace(npyBytes("(1L, 2L, 9L, 8L)", 144), []byte("<f2"), []byte("|V2"), 1)}, func(t *testing.T, dir string, r *rand.Rand, b []byte) [][]string {
			for _, role := range []string{"q", "k", "v", "o"} {
				save(t, npyBytes("(1, 2, 9, 8)", 144), dir, "l."+role+".npy")
			}
			if i := r.IntN(5); i < 4 {
				save(t, b, dir, "l."+string("qkvo"[i])+".npy")
			} else {
				// One that is damaged in the same way everywhere.
				for _, role := range []string{"q", "k", "v", "o"} {
					save(t, b, dir, "l."+role+".npy")
				}
			}
			return dumps(dir)
		}},
		"npz": {[][]byte{
			archiveBytes(t, zip.Deflate, map[string][]byte{"l.q.npy": npyBytes("(1, 2, 9, 8)", 144), "l.k.npy": npyBytes("(1, 2, 9, 8)", 144), "l.v.npy": npyBytes("(1, 2, 9, 8)", 144)}),
			archiveBytes(t, zip.Store, map[string][]byte{"l.q.npy": npyBytes("(1, 1, 3, 4)", 12), "l.k.npy": npyBytes("(1, 1, 3, 4)", 12), "l.v.npy": npyBytes("(1, 1, 3, 4)", 12), "readme": nil}),
		}, func(t *testing.T, dir string, r *rand.Rand, b []byte) [][]string {
			if r.IntN(2) == 0 {
				return dumps(save(t, b, dir, "d.npz"))
			}
			// A sound archive of a damaged array.
			inner := weather.Damage(r, npyBytes("(1, 2, 9, 8)", 144))
			good := npyBytes("(1, 2, 9, 8)", 144)
			whole := archiveBytes(t, zip.Deflate, map[string][]byte{"l.q.npy": inner, "l.k.npy": good, "l.v.npy": good})
			return dumps(save(t, whole, dir, "d.npz"))
		}},
		"results": {[][]byte{sound, several, tabled}, func(t *testing.T, dir string, _ *rand.Rand, b []byte) [][]string {
			path, good := save(t, b, dir, "r.json"), save(t, sound, dir, "good.json")
			return [][]string{{"report", path, "-o", filepath.Join(dir, "r.html")}, {"diff", good, path}, {"diff", path, good, "--max-growth", "5", "--format", "markdown"}}
		}},
		"cases": {[][]byte{lines, set}, func(t *testing.T, dir string, r *rand.Rand, b []byte) [][]string {
			// Either the list is damaged or what it names.
			name := fieldOf(t, lines, "file")
			files := map[string][]byte{"cases.jsonl": slices.Concat(set, lines), name: recording, "unary.safetensors": unary, "mma.safetensors": mma}
			switch damaged := []string{name, "unary.safetensors", "mma.safetensors"}; r.IntN(2) {
			case 0:
				files["cases.jsonl"] = b
			default:
				f := damaged[r.IntN(len(damaged))]
				files[f] = weather.Damage(r, files[f], recording)
			}
			for name, data := range files {
				save(t, data, dir, name)
			}
			return [][]string{{"conform", dir}, {"conform", dir, "--by-unit", "--format", "json"}}
		}},
		"manifests": {manifests, func(t *testing.T, dir string, _ *rand.Rand, b []byte) [][]string {
			return [][]string{{"validate", "--module", image, "--manifest", save(t, b, dir, "m.yaml")}}
		}},
		"kernels": {yamlFiles(t, "../../emulate/program/presets"), func(t *testing.T, dir string, _ *rand.Rand, b []byte) [][]string {
			path := save(t, b, dir, "k.yaml")
			return [][]string{{"kernels", "check", path}, {"compare", dumpFile, "--kernel", path}}
		}},
	}
}

// fieldOf is a field of the first line of a list of cases.
func fieldOf(t *testing.T, lines []byte, name string) string {
	t.Helper()
	_, rest, ok := strings.Cut(string(lines), `"`+name+`":`)
	if !ok {
		t.Fatalf("no %s in %.200s", name, lines)
	}
	return strings.Split(rest, `"`)[1]
}

// yamlFiles reads the YAML files of a folder.
func yamlFiles(t *testing.T, dir string) [][]byte {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil || names == nil {
		t.Fatalf("no YAML in %s: %v", dir, err)
	}
	var all [][]byte
	for _, name := range names {
		all = append(all, load(t, name))
	}
	return all
}

// TestWeatherMutants: whatever damage a file has, a command ends with a status of its
// own and at most one line of error, soon, and in reasonable memory.
func TestWeatherMutants(t *testing.T) {
	all := kinds(t)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		t.Run(name, func(t *testing.T) {
			if *mutants > batch {
				inBatches(t, name)
				return
			}
			k := all[name]
			h := fnv.New64a()
			h.Write([]byte(name))
			statuses := map[int]int{}
			// Without damage a command is content, or it is not the damage that is tried.
			for i, seed := range k.seeds {
				content := name == "manifests" // without a GPU none is
				for n := range uint64(8) {
					for _, args := range k.lay(t, t.TempDir(), rand.New(rand.NewPCG(1, n)), bytes.Clone(seed)) {
						code, problem := endure(args)
						if problem != "" {
							t.Errorf("%v of seed %d, not damaged: exit %d, %s", args, i, code, problem)
						}
						content = content || code == exitOK
					}
				}
				if !content {
					t.Errorf("seed %d is not taken by any command", i)
				}
			}
			dir := t.TempDir()
			for i := *first; i < *first+*mutants; i++ {
				r := rand.New(rand.NewPCG(h.Sum64(), uint64(i)))
				damaged := weather.Damage(r, k.seeds[r.IntN(len(k.seeds))], k.seeds...)
				// A folder of its own, which a panic leaves there.
				at := filepath.Join(dir, fmt.Sprint(i))
				for _, args := range k.lay(t, at, r, damaged) {
					code, problem := endure(args)
					statuses[code]++
					if problem != "" {
						t.Errorf("mutant %d: %v: %s", i, args, problem)
					}
				}
				os.RemoveAll(at)
			}
			t.Logf(mutantsLine, *mutants, statuses[exitOK], statuses[exitCheckFailed], statuses[exitCannotRun])
			if *mutants >= 100 && statuses[exitCannotRun] == 0 {
				t.Error("no mutant was refused")
			}
		})
	}
}

const mutantsLine = "%d mutants; of the commands %d ended with status 0, %d with 1, %d with 2"

// inBatches is TestWeatherMutants of a kind in processes of their own.
func inBatches(t *testing.T, name string) {
	var sum [4]int
	for from := *first; from < *first+*mutants; from += batch {
		n := min(batch, *first+*mutants-from)
		out, err := exec.Command(os.Args[0], "-test.v", "-test.run", "^TestWeatherMutants$/^"+name+"$", "-mutants", fmt.Sprint(n), "-first", fmt.Sprint(from)).CombinedOutput()
		if err != nil {
			t.Errorf("mutants %d to %d: %v\n%s", from, from+n-1, err, out[:min(len(out), 1<<16)])
		}
		for line := range strings.Lines(string(out)) {
			var x [4]int
			if _, text, ok := strings.Cut(line, ".go:"); ok {
				_, text, _ = strings.Cut(text, ": ")
				if _, err := fmt.Sscanf(text, mutantsLine, &x[0], &x[1], &x[2], &x[3]); err == nil {
					for i := range sum {
						sum[i] += x[i]
					}
				}
			}
		}
	}
	t.Logf(mutantsLine, sum[0], sum[1], sum[2], sum[3])
	if sum[0] != *mutants {
		t.Errorf("%d mutants were tried, not %d", sum[0], *mutants)
	}
}

// endure runs a command on damaged input and says what is wrong with how it took it.
func endure(args []string) (code int, problem string) {
	const (
		most  = 20 * time.Second
		bytes = 1 << 30
	)
	ctx, cancel := context.WithTimeout(context.Background(), most)
	defer cancel()
	var out, errs limitedBuffer
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	code = run(ctx, args, &out, &errs)
	runtime.ReadMemStats(&after)
	text := withoutNotes(errs.String())
	switch {
	case code != exitOK && code != exitCheckFailed && code != exitCannotRun:
		return code, fmt.Sprintf("exit %d, %.300q", code, text)
	case code == exitCannotRun && (strings.Count(text, "\n") != 1 || !strings.HasPrefix(text, "sageacc: ")):
		return code, fmt.Sprintf("not one line of error: %.500q", text)
	case strings.ContainsFunc(out.String()+text, func(r rune) bool { return r != '\n' && r != '\t' && unicode.In(r, unicode.Cc) }):
		return code, "a control character is written"
	case slices.ContainsFunc(strings.Split(text, "\n"), func(l string) bool { return len(l) > 4*longestLine }):
		return code, "a line is longer than a line is"
	case after.TotalAlloc-before.TotalAlloc > bytes:
		return code, fmt.Sprintf("%d bytes were allocated", after.TotalAlloc-before.TotalAlloc)
	case strings.Contains(text, "goroutine "):
		return code, text
	}
	return code, ""
}

// limitedBuffer keeps the first megabytes of what is written.
type limitedBuffer struct{ strings.Builder }

// Write implements io.Writer.
func (b *limitedBuffer) Write(p []byte) (int, error) {
	const most = 4 << 20
	b.Builder.Write(p[:min(len(p), max(0, most-b.Len()))])
	return len(p), nil
}
