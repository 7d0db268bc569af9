package conformance

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

// The sets in the repository, recorded on an H200: units and released kernels, and
// the project's own kernel.
const (
	recorded = "testdata/h200"
	own      = "testdata/own"
	field    = "testdata/field"
	// Packed sequences.
	packed = "testdata/varlen"
	// A kernel that no code here was written for (kernels/attention/custom).
	custom = "testdata/reverse96"
)

func mustRun(t *testing.T, dir string, filter *regexp.Regexp) *Report {
	t.Helper()
	cases, err := Load(dir, filter)
	if err != nil {
		t.Fatal(err)
	}
	rep, err := Run(t.Context(), cases, runtime.GOMAXPROCS(0), nil)
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

// TestRecorded holds the emulator to the hardware without a GPU.
func TestRecorded(t *testing.T) {
	dirs := []string{recorded, own, field, packed, custom}
	const shared = "../../../shared/conformance"
	if _, err := os.Stat(shared); err == nil {
		dirs = append(dirs, shared)
	} else {
		t.Logf("no recorded set at %s", shared)
	}
	for _, dir := range dirs {
		rep := mustRun(t, dir, nil)
		for _, r := range rep.Cases {
			if r.Status != Pass {
				t.Errorf("%s: %s %s: %d of %d differ, first %+v %s", r.Status, r.File, r.Expect, r.Mismatched, r.Elements, r.First, r.Reason)
			}
		}
		if rep.Passed == 0 {
			t.Errorf("%s: no case passed", dir)
		}
		t.Logf("%s: %d passed, %d failed, %d skipped", dir, rep.Passed, rep.Failed, rep.Skipped)
	}
}

// inMemory is a tensor of a file as one to be written.
func inMemory(t *testing.T, x safetensors.Tensor) safetensors.Tensor {
	t.Helper()
	b, err := x.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return safetensors.Tensor{Name: x.Name, DType: x.DType, Shape: x.Shape, Data: b}
}

// TestDifference: one bit changed in a recording is found, and where.
func TestDifference(t *testing.T) {
	const name = "sm90_mma_m16n8k32_f32_e4m3_e4m3_f32.safetensors"
	f, err := safetensors.Open(filepath.Join(recorded, name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var ts []safetensors.Tensor
	for _, x := range f.Tensors {
		if x.Name == "d" {
			x = inMemory(t, x)
			// Element [1, 2, 3] of [t, 16, 8].
			x.Data[4*((1*16+2)*8+3)] ^= 1
		}
		ts = append(ts, x)
	}
	dir := t.TempDir()
	if err := safetensors.Write(filepath.Join(dir, name), f.Metadata, ts); err != nil {
		t.Fatal(err)
	}
	line := `{"file":"` + name + `","op":"mma","instruction":"mma.sync.m16n8k32.f32.e4m3.e4m3.f32","arch":"sm_90","expect":"d"}`
	if err := os.WriteFile(filepath.Join(dir, casesFile), []byte(line), 0o644); err != nil {
		t.Fatal(err)
	}
	rep := mustRun(t, dir, nil)
	r := rep.Cases[0]
	if rep.Failed != 1 || r.Mismatched != 1 || r.First == nil {
		t.Fatalf("%+v", r)
	}
	if i := r.First.Index; len(i) != 3 || i[0] != 1 || i[1] != 2 || i[2] != 3 {
		t.Errorf("first difference at %v, want [1 2 3]", i)
	}
	if r.First.Recorded == r.First.Emulated || len(r.First.Recorded) != 10 {
		t.Errorf("patterns %s and %s", r.First.Recorded, r.First.Emulated)
	}
}

// TestWrongModel: an emulation that is not the recorded one fails, so passing
// means something.
func TestWrongModel(t *testing.T) {
	cases, err := Load(recorded, regexp.MustCompile(`^attention d40.*o/full/sage2-8b-sm89/per-thread/fp32\+fp32$`))
	if err != nil || len(cases) != 1 {
		t.Fatalf("%d cases, %v", len(cases), err)
	}
	for _, change := range []func(*Case){
		func(c *Case) { c.Arch = "sm_89" },
		func(c *Case) { c.PVAccum = "fp32+fp16" },
		func(c *Case) { c.Granularity = "per-warp" },
		func(c *Case) { c.Causal = true },
		func(c *Case) { c.SMScale = new(0.3) },
		func(c *Case) { f := false; c.SmoothK = &f },
	} {
		c := cases[0]
		change(&c)
		rep, err := Run(t.Context(), []Case{c}, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		if rep.Failed != 1 {
			t.Errorf("%+v passes", c)
		}
	}
}

func TestSkips(t *testing.T) {
	cases, err := Load(recorded, regexp.MustCompile(`^(attention n1_d64.*o/|quantize n1_d64|mma sm90_mma_m16n8k32_f32_e4m3|arith)`))
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range []func(*Case){
		func(c *Case) { c.Op = "sparse" },
		func(c *Case) { c.Instruction, c.Kernel, c.Tensor = "none", "none", "none" },
	} {
		for _, c := range cases {
			change(&c)
			rep, err := Run(t.Context(), []Case{c}, 1, nil)
			if err != nil {
				t.Fatal(err)
			}
			if rep.Skipped != 1 || rep.Cases[0].Reason == "" {
				t.Errorf("%+v", rep.Cases[0])
			}
		}
	}
}

func TestMalformed(t *testing.T) {
	dir := t.TempDir()
	one := func(name, dtype string, shape []int, size int) safetensors.Tensor {
		return safetensors.Tensor{Name: name, DType: dtype, Shape: shape, Data: make([]byte, size)}
	}
	if err := safetensors.Write(filepath.Join(dir, "f.safetensors"), nil, []safetensors.Tensor{
		one("x", "F32", []int{4}, 16), one("y", "F16", []int{4}, 8), one("short", "F32", []int{3}, 12),
		one("a", "F8_E4M3", []int{1, 2, 33}, 66), one("q", "I8", []int{1, 1, 1, 1}, 1),
	}); err != nil {
		t.Fatal(err)
	}
	if err := safetensors.Write(filepath.Join(dir, "wide.safetensors"), nil, []safetensors.Tensor{
		one("q", "F16", []int{1, 1, 1, 256}, 512), one("k", "F16", []int{1, 1, 1, 256}, 512), one("v", "F16", []int{1, 1, 1, 256}, 512),
		one("y", "I8", []int{1, 1, 1, 256}, 256), one("a", "F16", []int{1, 1, 0}, 0),
	}); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ lines, want string }{
		{"", ""},
		{"{", "line 1"},
		{`{"op":"unary","expect":"y"}`, "needs file"},
		{`{"file":"../f","op":"unary","expect":"y"}`, "not below"},
		{`{"file":"none.safetensors","op":"unary","instruction":"ex2.approx.ftz.f32","expect":"y"}`, "none.safetensors"},
		{`{"file":"f.safetensors","op":"unary","instruction":"ex2.approx.ftz.f32","expect":"z"}`, `no tensor "z"`},
		{`{"file":"f.safetensors","op":"unary","instruction":"ex2.approx.ftz.f32","expect":"y"}`, "dtype F16, expected F32"},
		{`{"file":"f.safetensors","op":"unary","instruction":"ex2.approx.ftz.f32","expect":"short"}`, "shape [3]"},
		{`{"file":"f.safetensors","op":"mma","arch":"sm_90","instruction":"mma.m16n8k32.f32.e4m3","expect":"d"}`, "shape [1 2 33], expected 1 to 32 products"},
		{`{"file":"wide.safetensors","op":"quantize","kernel":"sage2-8b-sm90","tensor":"k_int8","expect":"y"}`, "head_dim 256: kernel sage2-8b-sm90 supports 1 to 128"},
		{`{"file":"f.safetensors","op":"attention","kernel":"sage2-4b","expect":"o"}`, `tensor "q" has dtype I8`},
		{`{"file":"f.safetensors","op":"attention","kernel":"sage2-4b","qk_granularity":"per-tread","expect":"o"}`, `line 1: case "attention f.safetensors o": qk_granularity: unknown granularity "per-tread"`},
		{`{"file":"f.safetensors","op":"quantize","kernel":"sage2-4b","pv_accum":"fp23","expect":"o"}`, `pv_accum: unknown accumulator "fp23"`},
	} {
		if err := os.WriteFile(filepath.Join(dir, casesFile), []byte(tc.lines), 0o644); err != nil {
			t.Fatal(err)
		}
		cases, err := Load(dir, nil)
		if err == nil {
			_, err = Run(t.Context(), cases, 2, nil)
		}
		switch {
		case tc.want == "" && err != nil:
			t.Errorf("%s: %v", tc.lines, err)
		case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n")):
			t.Errorf("%s: error %v, want one line with %q", tc.lines, err, tc.want)
		}
	}
	if _, err := Load(filepath.Join(dir, "nowhere"), nil); err == nil {
		t.Error("a set that is not there loads")
	}
}

// TestPartOfV: a recording of codes that stops short of the last token is refused,
// and not checked as far as it goes.
func TestPartOfV(t *testing.T) {
	const name = "n17_d64_f16.safetensors"
	f, err := safetensors.Open(filepath.Join(recorded, name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dir := t.TempDir()
	for _, tc := range []struct {
		tokens int
		want   string // "" for a case that passes
	}{{16, "has 16 tokens a channel"}, {24, "has 24 tokens a channel"}, {32, ""}} {
		var ts []safetensors.Tensor
		for _, x := range f.Tensors {
			if x.Name == "quant/v_fp8" {
				x = inMemory(t, x)
				old := x.Shape[3]
				if old < 32 {
					t.Fatalf("recorded with %d tokens", old)
				}
				x.Shape = []int{x.Shape[0], x.Shape[1], x.Shape[2], tc.tokens}
				var data []byte
				for row := 0; row < len(x.Data); row += old {
					data = append(data, x.Data[row:row+tc.tokens]...)
				}
				x.Data = data
			}
			ts = append(ts, x)
		}
		if err := safetensors.Write(filepath.Join(dir, name), f.Metadata, ts); err != nil {
			t.Fatal(err)
		}
		c := Case{dir: dir, File: name, Op: "quantize", Kernel: "sage2-8b-sm89", Arch: "sm_90", Tensor: "v_fp8", Expect: "quant/v_fp8"}
		rep, err := Run(t.Context(), []Case{c}, 1, nil)
		switch {
		case tc.want == "" && (err != nil || rep.Passed != 1):
			t.Errorf("%d tokens: %+v, %v", tc.tokens, rep, err)
		case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%d tokens: %v, want an error with %q", tc.tokens, err, tc.want)
		}
	}
}

// TestNoElement: a case without an element does not pass.
func TestNoElement(t *testing.T) {
	dir := t.TempDir()
	if err := safetensors.Write(filepath.Join(dir, "f.safetensors"), nil, []safetensors.Tensor{
		{Name: "x", DType: "F32", Shape: []int{0}}, {Name: "y", DType: "F32", Shape: []int{0}},
	}); err != nil {
		t.Fatal(err)
	}
	rep, err := Run(t.Context(), []Case{{dir: dir, File: "f.safetensors", Op: "unary", Instruction: "ex2.approx.ftz.f32", Expect: "y"}}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if rep.Skipped != 1 || rep.Cases[0].Reason != "no element to compare" {
		t.Errorf("%+v", rep)
	}
}

// hostile writes a set of one file of tensors that are all zero bytes, however large,
// without writing them: the file is cut to its size and takes no room.
func hostile(t *testing.T, tensors map[string]string, line string) []Case {
	t.Helper()
	var header []string
	end := 0
	for _, name := range slices.Sorted(maps.Keys(tensors)) {
		dtype, shape, _ := strings.Cut(tensors[name], " ")
		size := width(dtype)
		for s := range strings.SplitSeq(shape, ",") {
			n, err := strconv.Atoi(s)
			if err != nil {
				t.Fatal(err)
			}
			size *= n
		}
		header = append(header, fmt.Sprintf(`%q:{"dtype":%q,"shape":[%s],"data_offsets":[%d,%d]}`, name, dtype, shape, end, end+size))
		end += size
	}
	text := "{" + strings.Join(header, ",") + "}"
	dir := t.TempDir()
	path := filepath.Join(dir, "f.safetensors")
	if err := os.WriteFile(path, append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, int64(8+len(text)+end)); err != nil {
		t.Skipf("no file of %d bytes: %v", end, err)
	}
	if err := os.WriteFile(filepath.Join(dir, casesFile), []byte(line), 0o644); err != nil {
		t.Fatal(err)
	}
	cases, err := Load(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	return cases
}

// TestSizes: no size of a file is used before it is known to be bounded.
func TestSizes(t *testing.T) {
	const (
		mma       = `{"file":"f.safetensors","op":"mma","arch":"sm_90","instruction":"mma.m16n8k32.f32.e4m3","expect":"d"}`
		attention = `{"file":"f.safetensors","op":"attention","kernel":"sage2-8b-sm90","expect":"o"}`
		quantize  = `{"file":"f.safetensors","op":"quantize","kernel":"sage2-8b-sm90","tensor":"k_int8","expect":"o"}`
	)
	problem := func(q, kv string) map[string]string {
		return map[string]string{"q": "F16 " + q, "k": "F16 " + kv, "v": "F16 " + kv, "o": "F16 " + q}
	}
	for _, tc := range []struct {
		name    string
		tensors map[string]string
		line    string
		want    string // of the error or the reason for skipping
		skip    bool
	}{
		{"no rows of a", map[string]string{"a": "F8_E4M3 4,0,32", "b": "F8_E4M3 4,8,32", "c": "F32 4,0,8", "d": "F32 4,0,8"}, mma, "no element", true},
		{"no rows of b", map[string]string{"a": "F8_E4M3 4,16,32", "b": "F8_E4M3 4,0,32", "c": "F32 4,16,0", "d": "F32 4,16,0"}, mma, "no element", true},
		{"no tile, 2^33 rows", map[string]string{"a": "F8_E4M3 0,8589934592,32", "b": "F8_E4M3 0,8589934592,32", "c": "F32 0,8589934592,8589934592", "d": "F32 0,8589934592,8589934592"}, mma, "no element", true},
		{"2^58 tiles of nothing", map[string]string{"a": "F8_E4M3 288230376151711744,0,32", "b": "F8_E4M3 288230376151711744,0,32", "c": "F32 288230376151711744,0,0", "d": "F32 288230376151711744,0,0"}, mma, "no element", true},
		{"2^26 rows", map[string]string{"a": "F8_E4M3 1,67108864,32", "b": "F8_E4M3 1,1,32", "c": "F32 1,67108864,1", "d": "F32 1,67108864,1"}, mma, "67108864 and 1 rows", false},
		{"2^50 heads of no token", problem("1,1125899906842624,0,64", "1,1125899906842624,0,64"), attention, "no element", true},
		{"2^50 heads of no token, quantised", problem("1,1125899906842624,0,64", "1,1125899906842624,0,64"), quantize, "no element", true},
		{"2^50 batches without heads", problem("1125899906842624,0,8,64", "1125899906842624,0,8,64"), attention, "no element", true},
		{"no kv head", problem("1,2,8,64", "1,0,8,64"), attention, "no element", true},
		{"2^28 keys", problem("1,1,8,64", "1,1,268435456,64"), attention, `tensor "k" has 268435456 tokens`, false},
		{"2^28 queries", problem("1,1,268435456,64", "1,1,8,64"), quantize, `tensor "q" has 268435456 tokens`, false},
		{"no channel", problem("1,1,8,0", "1,1,8,0"), attention, "no element", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var before, after runtime.MemStats
			cases := hostile(t, tc.tensors, tc.line)
			runtime.ReadMemStats(&before)
			rep, err := Run(t.Context(), cases, 5_000_000, nil)
			runtime.ReadMemStats(&after)
			switch {
			case tc.skip && (err != nil || rep.Skipped != 1 || !strings.Contains(rep.Cases[0].Reason, tc.want)):
				t.Errorf("%+v, %v", rep, err)
			case !tc.skip && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("%+v, %v; want an error with %q", rep, err, tc.want)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 64<<20 {
				t.Errorf("%d bytes were allocated", n)
			}
		})
	}
}

// TestLoopsEnd: a case that would take for ever ends with its context.
func TestLoopsEnd(t *testing.T) {
	for name, cases := range map[string][]Case{
		"unary": hostile(t, map[string]string{"x": "F32 1099511627776", "y": "F32 1099511627776"},
			`{"file":"f.safetensors","op":"unary","instruction":"ex2.approx.ftz.f32","expect":"y"}`),
		"arith": hostile(t, map[string]string{"x": "F32 274877906944,3", "y": "F32 274877906944"},
			`{"file":"f.safetensors","op":"arith","instruction":"fma.rn.ftz.f32","expect":"y"}`),
		"mma": hostile(t, map[string]string{"a": "F8_E4M3 1073741824,16,32", "b": "F8_E4M3 1073741824,8,32", "c": "F32 1073741824,16,8", "d": "F32 1073741824,16,8"},
			`{"file":"f.safetensors","op":"mma","arch":"sm_90","instruction":"mma.m16n8k32.f32.e4m3","expect":"d"}`),
		"attention": hostile(t, map[string]string{"q": "F16 1,268435456,1,64", "k": "F16 1,268435456,1,64", "v": "F16 1,268435456,1,64", "o": "F16 1,268435456,1,64"},
			`{"file":"f.safetensors","op":"attention","kernel":"sage2-8b-sm90","expect":"o"}`),
		"quantize": hostile(t, map[string]string{"q": "F16 1,268435456,1,64", "k": "F16 1,268435456,1,64", "v": "F16 1,268435456,1,64", "o": "I8 1,268435456,1,64"},
			`{"file":"f.safetensors","op":"quantize","kernel":"sage2-8b-sm90","tensor":"k_int8","expect":"o"}`),
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			start := time.Now()
			if rep, err := Run(ctx, cases, 1, nil); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%+v, %v", rep, err)
			}
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("ended after %v", d)
			}
		})
	}
}

func TestCancelled(t *testing.T) {
	cases, err := Load(recorded, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := Run(ctx, cases, 1, func(int) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled run: %v", err)
	}
}

func TestByUnit(t *testing.T) {
	rep := mustRun(t, recorded, regexp.MustCompile("^mma|n1_d64"))
	var results int64
	for _, e := range rep.ByUnit() {
		if e.Unit == "" || e.Device == "" || e.Cases == 0 || e.Results == 0 {
			t.Errorf("%+v", e)
		}
		results += e.Results
	}
	var want int64
	for _, c := range rep.Cases {
		want += c.Elements
	}
	if results != want {
		t.Errorf("%d results by unit, %d by case", results, want)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"file":"f.safetensors","op":"unary","expect":"y"}`))
	f.Add([]byte("{}\n\n[]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		cases, err := parse(bytes.NewReader(data), ".", nil)
		if err != nil {
			return
		}
		for _, c := range cases {
			if !filepath.IsLocal(c.File) {
				t.Errorf("file %q is outside the set", c.File)
			}
			if _, err := json.Marshal(c); err != nil {
				t.Error(err)
			}
		}
	})
}
