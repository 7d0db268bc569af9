package manifest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"math"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/emulate/program"
)

const good = `
name: mine
emulates: {kernel: sage2-8b-sm90, pv_accum: fp32+fp32}
arch: sm_90a
head_dims: [64, 128]
dtypes: [f16]
let:
  - tiles: (queries + 63) / 64
  - padded: max(tiles * 64, 128)
buffers:
  k_codes: {type: i8, count: batch * kv_heads * keys * head_dim, from: emulator}
  scratch: {type: i4, count: padded + 1}
  flag: {type: dtype, count: 3}
launches:
  - entry: go_{dtype}_{head_dim}_{causal}
    grid: [tiles, batch * heads]
    block: [128]
    shared: 2 * head_dim
    args: [q, k_codes, v, o, "null", i32 keys % 7, i64 -queries, f32 sm_scale * 2 / 3, scratch]
`

func read(t *testing.T, text string) *Manifest {
	t.Helper()
	m, err := Read("mine.yaml", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestPlan(t *testing.T) {
	m := read(t, good)
	p, err := m.Plan(Problem{Batch: 2, Heads: 4, KVHeads: 2, Queries: 100, Keys: 50, HeadDim: 128, Causal: true, DType: "f16", Scale: 0.25})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int{
		"q": 2 * 4 * 100 * 128 * 2, "o": 2 * 4 * 100 * 128 * 2, "k": 2 * 2 * 50 * 128 * 2, "v": 2 * 2 * 50 * 128 * 2,
		"lse": 2 * 4 * 100 * 4, "k_codes": 2 * 2 * 50 * 128, "scratch": 65, "flag": 6,
	}
	if !reflect.DeepEqual(p.Sizes, want) {
		t.Errorf("sizes %v, want %v", p.Sizes, want)
	}
	if p.Types["flag"] != "f16" || p.Types["scratch"] != "i4" {
		t.Errorf("types %v", p.Types)
	}
	l := p.Launches[0]
	if l.Entry != "go_f16_128_1" || l.Grid != [3]int{2, 8, 1} || l.Block != [3]int{128, 1, 1} || l.Shared != 256 {
		t.Errorf("launch %+v", l)
	}
	args := []PlannedArg{
		{Buffer: "q"}, {Buffer: "k_codes"}, {Buffer: "v"}, {Buffer: "o"}, {}, {Type: "i32", Int: 1}, {Type: "i64", Int: -100},
		{Type: "f32", Float: float32(0.25 * 2 / 3.0)}, {Buffer: "scratch"},
	}
	if !reflect.DeepEqual(l.Args, args) {
		t.Errorf("args %+v, want %+v", l.Args, args)
	}
	for _, bad := range []Problem{
		{Batch: 1, Heads: 1, KVHeads: 1, Queries: 1, Keys: 1, HeadDim: 96, DType: "f16"},
		{Batch: 1, Heads: 1, KVHeads: 1, Queries: 1, Keys: 1, HeadDim: 64, DType: "bf16"},
	} {
		if _, err := m.Plan(bad); !errors.Is(err, ErrUnsupported) {
			t.Errorf("a plan for %+v: %v", bad, err)
		}
	}
}

// A launch that no GPU can do is no plan.
func TestLaunchLimits(t *testing.T) {
	for _, tc := range []struct{ grid, block, want string }{
		{"[2147483647, 65535, 65535]", "[1024]", ""},
		{"[1]", "[1, 1024]", ""},
		{"[1]", "[2, 8, 64]", ""},
		{"[2147483648]", "[1]", "grid: 2147483648 is 2147483648: want 1 to 2147483647"},
		{"[1, 65536]", "[1]", "grid: 65536 is 65536: want 1 to 65535"},
		{"[1, 1, 65536]", "[1]", "grid: 65536 is 65536: want 1 to 65535"},
		{"[1]", "[1025]", "block: 1025 is 1025: want 1 to 1024"},
		{"[1]", "[1, 1025]", "block: 1025 is 1025: want 1 to 1024"},
		{"[1]", "[1, 1, 65]", "block: 65 is 65: want 1 to 64"},
		{"[1]", "[32, 33]", "block has 1056 threads: want at most 1024"},
		{"[1]", "[1024, 1024, 64]", "block has 67108864 threads"},
	} {
		text := strings.Replace(good, "grid: [tiles, batch * heads]", "grid: "+tc.grid, 1)
		text = strings.Replace(text, "block: [128]", "block: "+tc.block, 1)
		_, err := Read("x", strings.NewReader(text))
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("grid %s, block %s: error %v, want %q", tc.grid, tc.block, err, tc.want)
		}
	}
	// What depends on the shape is found at the shape.
	m := read(t, good)
	p := Problem{Batch: 1 << 13, Heads: 8, KVHeads: 8, Queries: 1, Keys: 1, HeadDim: 64, DType: "f16", Scale: 1}
	if _, err := m.Plan(p); err == nil || !strings.Contains(err.Error(), "launch of go_{dtype}_{head_dim}_{causal}: grid: batch * heads is 65536: want 1 to 65535") {
		t.Errorf("65536 heads in y: %v", err)
	}
}

// A fault at one shape is the manifest's, not a shape that the kernel does not take.
func TestPlanOfFault(t *testing.T) {
	m := read(t, strings.Replace(good, "  - padded:", "  - bad: 1 / (keys - 50)\n  - padded:", 1))
	_, err := m.Plan(Problem{Batch: 1, Heads: 1, KVHeads: 1, Queries: 1, Keys: 50, HeadDim: 64, DType: "f16", Scale: 1})
	if err == nil || errors.Is(err, ErrUnsupported) || !strings.HasPrefix(err.Error(), "manifest mine: let bad: ") {
		t.Errorf("error %v", err)
	}
}

// A manifest that cannot be is refused with a line that says what is wrong.
func TestBadManifests(t *testing.T) {
	for _, tc := range []struct{ old, new, want string }{
		{"name: mine", "name: ''", "no name"},
		{"name: mine", "nome: mine", "nome"},
		{"kernel: sage2-8b-sm90", "kernel: flash", "flash"},
		{"pv_accum: fp32+fp32", "pv_accum: fp8", "fp8"},
		{"pv_accum: fp32+fp32", "variant: p-offset=x", "p-offset"},
		{"emulates: {kernel: sage2-8b-sm90, pv_accum: fp32+fp32}", "", "which program"},
		{"arch: sm_90a", "arch: hopper", "hopper"},
		{"[64, 128]", "[]", "head_dims"},
		{"[64, 128]", "[256]", "256"},
		{"[64, 128]", "[64, 64]", "each once"},
		{"[64, 128]", "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17]", "17 head_dims"},
		{"dtypes: [f16]", "dtypes: [f16, f16]", "each once"},
		{"dtypes: [f16]", "dtypes: [f32]", "f32"},
		{"(queries + 63) / 64", "(queries + 63 / 64", "not an expression"},
		{"(queries + 63) / 64", "queries / 0", "division by zero"},
		{"(queries + 63) / 64", "queries + queries / (keys - 1)", "queries = 1, keys = 1"},
		{"(queries + 63) / 64", "queries + queries / (1 - causal)", "causal = true"},
		{"(queries + 63) / 64", "queries + queries / (128 - head_dim)", "head_dim = 128"},
		{"block: [128]", "block: [128 - head_dim]", "head_dim = 128"},
		{"(queries + 63) / 64", "quer", "unknown variable quer"},
		{"(queries + 63) / 64", "queries << 3", "<<"},
		{"(queries + 63) / 64", "abs(3)", "min and max"},
		{"(queries + 63) / 64", "1.5", "1.5"},
		{"- tiles:", "- keys:", "keys has a value"},
		{"i8, count", "i9, count", "i9"},
		{"from: emulator", "from: me", "emulator"},
		{"  scratch: {", "  o: {", "every problem has it"},
		{"scratch: {type: i4, count: padded + 1}", "scratch: {type: i4, count: padded + 1, from: emulator}", "no such tensor"},
		{"k_codes: {type: i8", "k_codes: {type: i4", "k_codes: type is i4: what this program has there is i8"},
		{"k_codes: {type: i8", "k_codes: {type: f32", "is i8"},
		{"  scratch: {type: i4", "  q_codes: {type: e4m3", "is i8"},
		{"  scratch: {type: i4", "  k_scale: {type: i32", "is f32, f16, bf16, dtype"},
		{"  scratch: {type: i4", "  v_mean: {type: i8", "is f32, f16, bf16, dtype"},
		{"  scratch: {type: i4", "  v_codes: {type: i8", "is e4m3"},
		{"  scratch: {type: i4", "  v_codes: {type: e5m2", "is e4m3"},
		{"count: padded + 1", "count: 0 - 5", "-5"},
		{"block: [128]", "block: []", "0 dimensions"},
		{"block: [128]", "block: [0]", "is 0"},
		{"v, o,", "v,", "takes o"},
		{"i32 keys % 7", "u8 keys", "unknown type"},
		{"i32 keys % 7", "keyz", "no such buffer"},
		{"i32 keys % 7", "i32 keys * 1000000000", "i32"},
		{"entry: go", "entrie: go", "entrie"},
	} {
		text := strings.Replace(good, tc.old, tc.new, 1)
		if text == good {
			t.Fatalf("%q is not in the manifest", tc.old)
		}
		_, err := Read("mine.yaml", strings.NewReader(text))
		if err == nil || !strings.HasPrefix(err.Error(), "mine.yaml: ") || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q for %q: error %v, want one line with %q", tc.new, tc.old, err, tc.want)
		}
	}
	if _, err := Read("x", strings.NewReader("")); err == nil {
		t.Error("an empty manifest is read")
	}
}

// A stage's buffer has a type that the program's tensor can have.
func TestStageTypes(t *testing.T) {
	for _, tc := range []struct {
		claim, rest, stage string
		want               string // the types that are taken
	}{
		{"kernel: sage2-8b-sm90", "", "k_mean", "bf16 dtype f16 f32"},
		{"kernel: sage2-8b-sm90", "", "q_scale", "bf16 dtype f16 f32"},
		{"kernel: sage2-8b-sm90", "", "q_codes", "i8"},
		{"kernel: sage2-8b-sm90, qk_bits: 4", "", "k_codes", "i4 i8"},
		{"kernel: sage2-4b", "", "q_codes", "i4 i8"},
		{"kernel: sage2-4b", "head_dims: [64, 33]", "q_codes", "i8"},
		{"kernel: sage2-4b", "", "v_codes", "e4m3"},
		{"kernel: sage2-4b, pv_dtype: e5m2", "", "v_codes", "e5m2"},
		{"kernel: sage2-4b, pv_dtype: int8", "", "v_codes", "i8"},
		{"kernel: sage2-4b, pv_dtype: fp16", "", "v_codes", "dtype f16"},
		{"kernel: sage2-4b, pv_dtype: fp16", "dtypes: [f16, bf16]", "v_codes", "f16"},
	} {
		var taken []string
		for _, kind := range slices.Sorted(maps.Keys(types)) {
			text := strings.Replace(good, "kernel: sage2-8b-sm90, pv_accum: fp32+fp32", tc.claim, 1)
			text = strings.Replace(text, "  k_codes: {type: i8, count: batch * kv_heads * keys * head_dim, from: emulator}", "  "+tc.stage+": {type: "+kind+", count: 8}", 1)
			text = strings.Replace(text, "k_codes, v,", "v,", 1)
			switch key, _, _ := strings.Cut(tc.rest, ":"); key {
			case "head_dims":
				text = strings.Replace(text, "head_dims: [64, 128]", tc.rest, 1)
			case "dtypes":
				text = strings.Replace(text, "dtypes: [f16]", tc.rest, 1)
			}
			if _, err := Read("x", strings.NewReader(text)); err == nil {
				taken = append(taken, kind)
			} else if !strings.HasPrefix(err.Error(), "x: buffer "+tc.stage+": type is "+kind+": ") {
				t.Errorf("%s: %v", tc.claim, err)
			}
		}
		if got := strings.Join(taken, " "); got != tc.want {
			t.Errorf("%s %s: %s takes %s, want %s", tc.claim, tc.rest, tc.stage, got, tc.want)
		}
	}
}

func TestRuns(t *testing.T) {
	m := read(t, good)
	for sm, ok := range map[int]bool{80: false, 89: false, 90: true, 100: false} {
		if (m.Runs(sm) == nil) != ok {
			t.Errorf("sm_90a on sm_%d: %v", sm, m.Runs(sm))
		}
	}
	m.Arch = "sm_89"
	for sm, ok := range map[int]bool{80: false, 89: true, 90: true, 120: true} {
		if (m.Runs(sm) == nil) != ok {
			t.Errorf("sm_89 on sm_%d: %v", sm, m.Runs(sm))
		}
	}
}

// cubin is an ELF file with sections of these names; what follows a space is the number
// of parameters that a section .nv.info tells.
func cubin(sections ...string) string {
	names, body := "\x00.shstrtab\x00", ""
	type header struct{ name, at, size int }
	headers := []header{{}, {name: 1}}
	for _, s := range sections {
		s, n, _ := strings.Cut(s, " ")
		data := ""
		if n != "" {
			count, _ := strconv.Atoi(n)
			data = "\x04\x0a\x08\x00........" + strings.Repeat("\x04\x17\x0c\x00............", count) + "\x03\x1b\xff\x00"
		}
		headers = append(headers, header{len(names), 64 + len(body), len(data)})
		names += s + "\x00"
		body += data
	}
	headers[1].at, headers[1].size = 64+len(body), len(names)
	body += names
	le := binary.LittleEndian
	b := append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 57)...)
	le.PutUint16(b[16:], 2)
	le.PutUint16(b[18:], 190) // EM_CUDA
	le.PutUint32(b[20:], 1)
	le.PutUint64(b[40:], uint64(64+len(body)))
	le.PutUint16(b[52:], 64)
	le.PutUint16(b[58:], 64)
	le.PutUint16(b[60:], uint16(len(headers)))
	le.PutUint16(b[62:], 1)
	b = append(b, body...)
	for i, h := range headers {
		s := make([]byte, 64)
		le.PutUint32(s, uint32(h.name))
		le.PutUint32(s[4:], []uint32{0, 3, 1}[min(i, 2)])
		le.PutUint64(s[24:], uint64(h.at))
		le.PutUint64(s[32:], uint64(h.size))
		b = append(b, s...)
	}
	return string(b)
}

// An image must have every entry by its whole name, for both masks, with as many
// parameters as there are arguments.
func TestCheckImage(t *testing.T) {
	m := read(t, good)
	entries := []string{"go_f16_64_0", "go_f16_128_0", "go_f16_64_1", "go_f16_128_1"}
	nine := "(\n\t.param .u64 p0" + strings.Repeat(",\n\t.param .u32 p", 8) + "\n)\n{\n}\n"
	ptx, kinds := ".version 8.4\n", []string{".visible .entry ", ".entry ", ".weak .entry\n\t", ".visible .entry "}
	var sections []string
	for i, e := range entries {
		ptx += kinds[i] + e + strings.Repeat(" ", i%2) + nine
		sections = append(sections, ".nv.info."+e+" 9", ".text."+e)
	}
	for _, image := range []string{ptx, cubin(sections...)} {
		if err := CheckImage(m, []byte(image)); err != nil {
			t.Error(err)
		}
	}
	with := func(old, new string) string {
		x := slices.Clone(sections)
		for i := range x {
			x[i] = strings.Replace(x[i], old, new, 1)
		}
		return cubin(x...)
	}
	for _, tc := range []struct{ image, want string }{
		{"", "neither"},
		{"hello", "neither"},
		{"\x7fELF", "not a cubin: "},
		{cubin(sections...)[:300], "not a cubin: "},
		{".version 8.4\n.entry go_f16_64_0x", "no entry"},
		// The causal variants are entries too.
		{strings.ReplaceAll(ptx, "64_1", "64_2"), "no entry go_f16_64_1"},
		{with("64_1", "64_2"), "no entry go_f16_64_1"},
		// A longer name is another.
		{strings.ReplaceAll(ptx, "go_f16_64_0", "go_f16_64_0x"), "no entry go_f16_64_0"},
		{strings.ReplaceAll(ptx, "go_f16_64_0", "go_f16_64_0$x"), "no entry go_f16_64_0"},
		{strings.ReplaceAll(ptx, "go_f16_64_0", "ago_f16_64_0"), "no entry go_f16_64_0"},
		{with("go_f16_64_0", "go_f16_64_0x"), "no entry go_f16_64_0"},
		{with("go_f16_64_0", "ago_f16_64_0"), "no entry go_f16_64_0"},
		// A function that is called, or a section beside the code, is no entry.
		{strings.ReplaceAll(ptx, ".entry go_f16_64_0", ".func go_f16_64_0"), "no entry go_f16_64_0"},
		{with(".text.go_f16_128_1", ".rel.go_f16_128_1"), "no entry go_f16_128_1"},
		{strings.Replace(ptx, ",\n\t.param .u32 p", "", 1), "go_f16_64_0 has 8 parameters, and the manifest mine gives it 9 arguments"},
		{strings.Replace(ptx, nine, "()", 1), "go_f16_64_0 has 0 parameters"},
		{with("go_f16_64_1 9", "go_f16_64_1 10"), "go_f16_64_1 has 10 parameters, and the manifest mine gives it 9 arguments"},
		{with(".nv.info.go_f16_64_1 9", ".debug"), "go_f16_64_1 has 0 parameters"},
	} {
		if err := CheckImage(m, []byte(tc.image)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("image %q: error %v, want %q", tc.image, err, tc.want)
		}
	}
}

// An argument that is null is one, with and without quotes.
func TestNullArgument(t *testing.T) {
	p := Problem{Batch: 1, Heads: 2, KVHeads: 1, Queries: 3, Keys: 3, HeadDim: 64, DType: "f16", Scale: 1}
	want, err := read(t, good).Plan(p)
	if err != nil {
		t.Fatal(err)
	}
	for _, null := range []string{"null", "~", "'null'"} {
		got, err := read(t, strings.Replace(good, `"null"`, null, 1)).Plan(p)
		if err != nil || !reflect.DeepEqual(got.Launches, want.Launches) {
			t.Errorf("%s: %v, launches %+v, want %+v", null, err, got, want.Launches)
		}
	}
	for _, args := range []string{"args: [q, [k], o]", "args: {q: o}", "args: o"} {
		text := good[:strings.Index(good, "args:")] + args
		if _, err := Read("x", strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), "args") {
			t.Errorf("%s: error %v", args, err)
		}
	}
}

// A description that a manifest names stands beside it, wherever one works.
func TestDescriptionBesideManifest(t *testing.T) {
	const dir = "../attention/custom"
	m, err := Open(dir + "/reverse96.yaml")
	if err != nil {
		t.Fatal(err)
	}
	p, err := m.Program("")
	if err != nil {
		t.Fatal(err)
	}
	want, err := program.Load(dir + "/reverse96.program.yaml")
	if err != nil || p.Key() != want.Key() {
		t.Errorf("%v; the manifest's program differs in %v", err, program.Diff(&want, &p))
	}
	text, err := os.ReadFile(dir + "/reverse96.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Read("x", bytes.NewReader(text)); err == nil || !strings.Contains(err.Error(), "reverse96.program.yaml") {
		t.Errorf("from the working directory: error %v", err)
	}
}

// No text makes the reader panic, hang or plan something out of bounds.
func FuzzRead(f *testing.F) {
	f.Add(good)
	f.Add(strings.Replace(good, "tiles * 64", "((((tiles))))*-1", 1))
	f.Fuzz(func(t *testing.T, text string) {
		m, err := Read("fuzz", strings.NewReader(text))
		if err != nil {
			return
		}
		p, err := m.Plan(Problem{Batch: 3, Heads: 6, KVHeads: 2, Queries: 1000, Keys: 999, HeadDim: m.HeadDims[0], DType: m.DTypes[0], Scale: math.Pi})
		if err != nil {
			return
		}
		for name, n := range p.Sizes {
			if n < 0 || int64(n) > 4*int64(maxBytes) {
				t.Errorf("buffer %s has %d bytes", name, n)
			}
		}
	})
}
