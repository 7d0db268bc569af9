package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sageacc/sageacc/compare/trace"
	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

const sample = "../../layerdumps/testdata/byte-lm-sample.safetensors"

// sage runs a command line in this process.
func sage(t testing.TB, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

// tensor makes an FP16 tensor of small values.
func tensor(name string, shape ...int) safetensors.Tensor {
	n := 1
	for _, d := range shape {
		n *= d
	}
	data := make([]byte, 2*n)
	for i := range n {
		// Between 1 and 2, of either sign.
		binary.LittleEndian.PutUint16(data[2*i:], uint16(0x3c00+i*389%1024)|uint16(i*7%2)<<15)
	}
	return safetensors.Tensor{Name: name, DType: "F16", Shape: shape, Data: data}
}

func layer(shape ...int) []safetensors.Tensor {
	return []safetensors.Tensor{tensor("l.q", shape...), tensor("l.k", shape...), tensor("l.v", shape...)}
}

func write(t testing.TB, metadata map[string]string, ts ...safetensors.Tensor) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "dump.safetensors")
	if err := safetensors.Write(path, metadata, ts); err != nil {
		t.Fatal(err)
	}
	return path
}

func raw(t testing.TB, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "dump.safetensors")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// header makes a safetensors file of a header that may lie and some bytes.
func header(h string, body int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(h)))
	return append(append(b, h...), make([]byte, body)...)
}

// TestBadInput: one line on standard error that names file, tensor and fault;
// exit status 2; nothing on standard output.
func TestBadInput(t *testing.T) {
	good := write(t, nil, layer(1, 2, 20, 8)...)
	changed := func(i int, x safetensors.Tensor) string {
		ts := layer(1, 2, 20, 8)
		ts[i] = x
		return write(t, nil, ts...)
	}
	ints := tensor("l.k", 1, 2, 20, 8)
	ints.DType, ints.Data = "I8", ints.Data[:320]
	huge := raw(t, binary.LittleEndian.AppendUint64(nil, 100_000_001))
	if err := os.Truncate(huge, 200_000_000); err != nil {
		t.Fatal(err)
	}
	empty := t.TempDir()
	two := func(a, b string) string {
		return `{"l.q":{"dtype":"F16","shape":[1,1,2,2],"data_offsets":` + a + `},"l.k":{"dtype":"F16","shape":[1,1,2,2],"data_offsets":` + b + `}}`
	}
	nowhere := filepath.Join(empty, "missing", "result.json")
	for _, tc := range []struct {
		name string
		args []string
		want []string
	}{
		{"no arguments", []string{"compare"}, []string{"no dump given"}},
		{"missing file", []string{"compare", "nowhere.safetensors"}, []string{"nowhere.safetensors", "no such file"}},
		{"empty file", []string{"compare", raw(t, nil)}, []string{"dump.safetensors"}},
		{"not safetensors", []string{"compare", raw(t, []byte("this is not a tensor file"))}, []string{"dump.safetensors"}},
		{"unknown ending", []string{"compare", "main.go"}, []string{"main.go", ".safetensors"}},
		{"header beyond the file", []string{"compare", raw(t, header(strings.Repeat(" ", 50), 0)[:30])}, []string{"dump.safetensors", "header"}},
		{"header of 100 MB", []string{"compare", huge}, []string{"dump.safetensors", "header"}},
		{"overlapping offsets", []string{"compare", raw(t, header(two("[0,8]", "[4,12]"), 12))}, []string{"dump.safetensors", "l.k"}},
		{"offsets out of range", []string{"compare", raw(t, header(two("[0,8]", "[8,16]"), 12))}, []string{"dump.safetensors", "l.k"}},
		{"wrong dtype", []string{"compare", changed(1, ints)}, []string{"dump.safetensors", `"l.k"`, "I8"}},
		{"3-D tensor", []string{"compare", changed(2, tensor("l.v", 2, 20, 8))}, []string{"dump.safetensors", `"l.v"`, "3 dimensions"}},
		{"head_dim disagrees", []string{"compare", changed(1, tensor("l.k", 1, 2, 20, 4))}, []string{"dump.safetensors", `"l.k"`, "head_dim"}},
		{"tokens of k and v disagree", []string{"compare", changed(2, tensor("l.v", 1, 2, 21, 8))}, []string{"dump.safetensors", `"l.v"`, "21"}},
		{"heads do not divide", []string{"compare", write(t, nil, tensor("l.q", 1, 3, 20, 8), tensor("l.k", 1, 2, 20, 8), tensor("l.v", 1, 2, 20, 8))}, []string{"dump.safetensors", `"l.k"`, "divide"}},
		{"zero tokens", []string{"compare", write(t, nil, layer(1, 2, 0, 8)...)}, []string{"dump.safetensors", `"l.q"`, "empty"}},
		{"no k", []string{"compare", write(t, nil, tensor("l.q", 1, 1, 4, 8))}, []string{"dump.safetensors", `"l"`, "no k"}},
		{"head_dim too large", []string{"compare", write(t, nil, layer(1, 1, 4, 136)...)}, []string{"dump.safetensors", `"l.q"`, "128"}},
		{"o of another shape", []string{"compare", write(t, nil, append(layer(1, 2, 20, 8), tensor("l.o", 1, 2, 19, 8))...)}, []string{"dump.safetensors", `"l.o"`}},
		{"bad metadata", []string{"compare", write(t, map[string]string{"causal": "maybe"}, layer(1, 2, 20, 8)...)}, []string{"dump.safetensors", "causal"}},
		{"folder without dumps", []string{"compare", empty}, []string{empty}},
		{"unknown kernel", []string{"compare", good, "--kernel", "sage9"}, []string{"--kernel", "sage9", "sage2-4b"}},
		{"unknown arch", []string{"compare", good, "--arch", "sm_12"}, []string{`--arch: unknown architecture "sm_12"`}},
		{"wgmma on sm_89", []string{"compare", good, "--kernel", "sage2-8b-sm90", "--arch", "sm_89"}, []string{"sage2-8b-sm90", "sm_89"}},
		{"bad bits", []string{"compare", good, "--qk-bits", "5"}, []string{"--qk-bits is 5"}},
		{"bad granularity", []string{"compare", good, "--qk-granularity", "per-atom"}, []string{"per-atom"}},
		{"bad smooth", []string{"compare", good, "--smooth", "x"}, []string{"--smooth", `"x"`}},
		{"bad pv-dtype", []string{"compare", good, "--pv-dtype", "e9m9"}, []string{"e9m9"}},
		{"bad pv-accum", []string{"compare", good, "--pv-accum", "fp7"}, []string{"fp7"}},
		{"unknown variant", []string{"compare", good, "--variant", "fma=no"}, []string{"--variant", `unknown variant "fma"`}},
		{"too many changes", []string{"compare", good, "--explain", "--explain-changes", "4"}, []string{"--explain-changes is 4"}},
		{"bad variant", []string{"compare", good, "--variant", "v-max=0"}, []string{"v-max=0", "above 0"}},
		{"variant that does not apply", []string{"compare", good, "--variant", "delta-s=raw"}, []string{"delta-s", "does not smooth Q"}},
		{"bad regex", []string{"compare", good, "--layers", "("}, []string{"--layers", "("}},
		{"no layer matches", []string{"compare", good, "--layers", "zzz"}, []string{"zzz", "l"}},
		{"bad EXPR", []string{"compare", good, "--fail-if", "cosine=1"}, []string{"--fail-if", "cosine=1"}},
		{"bad format", []string{"compare", good, "--format", "xml"}, []string{"xml", "markdown"}},
		{"bad layout", []string{"compare", good, "--layout", "dnh"}, []string{"--layout", "dnh"}},
		{"bad scale", []string{"compare", good, "--sm-scale", "-1"}, []string{"--sm-scale is -1"}},
		{"scale no number", []string{"compare", good, "--sm-scale", "x"}, []string{"--sm-scale", "x"}},
		{"bad reference", []string{"compare", good, "--reference", "fp8"}, []string{"--reference", "fp8"}},
		{"jobs no number", []string{"compare", good, "--jobs", "x"}, []string{`compare: invalid argument "x" for "--jobs" flag: invalid syntax (see`}},
		{"no such file", []string{"compare", "nowhere"}, []string{"sageacc: nowhere: no such file or directory\n"}},
		{"bad jobs", []string{"compare", good, "--jobs", "0"}, []string{"--jobs"}},
		{"unwritable output", []string{"compare", good, "-o", nowhere}, []string{nowhere}},
		{"output is a folder", []string{"compare", good, "-o", empty}, []string{empty, "folder"}},
		{"bit-exact without an output", []string{"compare", good, "--expect-bit-exact"}, []string{"--expect-bit-exact"}},
		{"explain without an output", []string{"compare", good, "--explain"}, []string{"--explain: no layer has an actual output"}},
		{"actual of another layer", []string{"compare", good, "--actual", write(t, nil, tensor("m.o", 1, 2, 20, 8))}, []string{`"m.o"`, `"m"`}},
		{"unknown flag", []string{"compare", good, "--frobnicate"}, []string{"--frobnicate"}},
		{"unknown command", []string{"frobnicate"}, []string{"frobnicate"}},
		{"table of that name", []string{"table", "smothing", good}, []string{"smothing", "smoothing", "all"}},
		{"table without a dump", []string{"table", "all"}, []string{"no dump given"}},
		{"table format", []string{"table", "all", good, "--format", "xml"}, []string{"xml"}},
		{"table of a missing file", []string{"table", "smooth-v", "nowhere.safetensors"}, []string{"nowhere.safetensors"}},
		{"recommend without a requirement", []string{"recommend", good}, []string{"--require"}},
		{"recommend bad requirement", []string{"recommend", good, "--require", "cos"}, []string{"--require", "cos"}},
		{"recommend bad kernel", []string{"recommend", good, "--require", "cos>0", "--kernels", "x"}, []string{"--kernels", "sage2-4b"}},
		{"diff of one", []string{"diff", "a.json"}, []string{"two results"}},
		{"diff of a missing file", []string{"diff", "nowhere.json", "nowhere.json"}, []string{"nowhere.json"}},
		{"diff of no result", []string{"diff", good, good}, []string{"dump.safetensors", "not a result"}},
		{"diff bad bound", []string{"diff", "a", "b", "--max-growth", "-1"}, []string{"--max-growth"}},
		{"output is an input", []string{"compare", good, "-o", good}, []string{"dump.safetensors", "one of the inputs"}},
		{"csv with attribution", []string{"compare", good, "--attribute", "--format", "csv"}, []string{"--attribute", "csv"}},
		{"bench tokens", []string{"bench", "--tokens", "0"}, []string{"--tokens"}},
		{"bench head-dim", []string{"bench", "--head-dim", "129"}, []string{"--head-dim"}},
		{"synth without a file", []string{"synth"}, []string{"-o FILE"}},
		{"synth profile", []string{"synth", "--profile", "x", "-o", "x.safetensors"}, []string{"--profile", "outlier"}},
		{"synth size", []string{"synth", "--tokens", "0", "-o", filepath.Join(empty, "x.safetensors")}, []string{"tokens"}},
		{"synth unwritable", []string{"synth", "--tokens", "4", "-o", nowhere}, []string{nowhere}},
		{"inspect a missing file", []string{"inspect", "nowhere.npz"}, []string{"nowhere.npz"}},
		{"inspect format", []string{"inspect", good, "--format", "csv"}, []string{"csv"}},
		{"kernels format", []string{"kernels", "--format", "csv"}, []string{"csv"}},
		{"kernels with an argument", []string{"kernels", "x"}, []string{"x"}},
		{"trace without a layer", []string{"trace", sample}, []string{"--layer is missing", "layers.0.attn, layers.3.attn"}},
		{"trace of another layer", []string{"trace", good, "--layer", "m"}, []string{`--layer: no layer "m"; the dump has l`}},
		{"trace beyond the heads", []string{"trace", good, "--head", "2"}, []string{"dump.safetensors", "layer l", "no head 2"}},
		{"trace beyond the tokens", []string{"trace", good, "--row", "-1"}, []string{"no row -1: they are 0 to 19"}},
		{"trace beyond the channels", []string{"trace", good, "--channels", "8"}, []string{"--channels is 8", "0 to 7"}},
		{"trace beyond the tiles", []string{"trace", good, "--tile", "1"}, []string{"--tile is 1", "0 to 0"}},
		{"trace tile in JSON", []string{"trace", good, "--tile", "0", "--format", "json"}, []string{"--tile is for --format table"}},
		{"trace format", []string{"trace", good, "--format", "csv"}, []string{"csv"}},
		{"conform without a folder", []string{"conform"}, []string{"no folder given"}},
		{"conform no set", []string{"conform", empty}, []string{empty, "cases.jsonl"}},
		{"conform bad filter", []string{"conform", empty, "--filter", "["}, []string{"--filter"}},
		{"conform nothing left", []string{"conform", "../../hardware/conformance/testdata/h200", "--filter", "zzz"}, []string{`--filter "zzz"`, "no case of ../../hardware/conformance/testdata/h200 matches"}},
		{"conform no case", []string{"conform", set(t, "\n")}, []string{"the set holds no case"}},
		{"conform misspelt", []string{"conform", set(t, `{"file":"f","op":"attention","kernel":"sage2-4b","qk_granularity":"per-tread","expect":"o"}`)}, []string{"cases.jsonl", "line 1", `"attention f o"`, "per-tread"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, out, errs := sage(t, tc.args...)
			if code != exitCannotRun || out != "" {
				t.Errorf("exit %d, stdout %q", code, out)
			}
			if strings.Count(errs, "\n") != 1 || !strings.HasPrefix(errs, "sageacc: ") || !strings.HasSuffix(errs, "\n") {
				t.Errorf("not one line: %q", errs)
			}
			for _, w := range tc.want {
				if !strings.Contains(errs, w) {
					t.Errorf("%q is not in %q", w, errs)
				}
			}
		})
	}
}

// TestSpoiledInput: NaN and Inf are reported, not fatal.
func TestSpoiledInput(t *testing.T) {
	for i, role := range []string{"q", "k", "v"} {
		ts := layer(1, 2, 20, 8)
		binary.LittleEndian.PutUint16(ts[i].Data[6:], 0x7e00)
		binary.LittleEndian.PutUint16(ts[i].Data[40:], 0x7c00)
		path := write(t, nil, ts...)
		code, out, errs := sage(t, "compare", path)
		if code != exitOK || errs != "" || !strings.Contains(out, "l: "+role+": 1 NaN, 1 Inf") {
			t.Errorf("%s: exit %d, stderr %q, stdout:\n%s", role, code, errs, out)
		}
		code, out, errs = sage(t, "inspect", path)
		if code != exitOK || errs != "" || !strings.Contains(out, "NaN") {
			t.Errorf("%s: exit %d, stderr %q, stdout:\n%s", role, code, errs, out)
		}
	}
}

func TestChecks(t *testing.T) {
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--fail-if", "cos<0.9", "--fail-if", "rel_l1>0.5"}, exitOK, ""},
		{[]string{"--fail-if", "cos<0.99999"}, exitCheckFailed, "layer layers.0.attn: emulated.cos_sim is 0.99954"},
		{[]string{"--expect-bit-exact"}, exitOK, "sageacc: --expect-bit-exact: checked 1 of 1 layers, 1 of them bit-exact\n"},
		{[]string{"--expect-bit-exact", "--pv-accum", "fp32"}, exitCheckFailed, "of 131072 elements (44.8%) differ, first at batch 0, head 0"},
		{[]string{"--expect-bit-exact", "--arch", "ideal"}, exitCheckFailed, "actual 0x"},
	} {
		code, out, errs := sage(t, append([]string{"compare", sample, "--layers", `layers\.0`}, tc.args...)...)
		if code != tc.code || !strings.Contains(errs, tc.want) || (tc.want == "") != (errs == "") {
			t.Errorf("%v: exit %d, stderr %q, want %d, %q", tc.args, code, errs, tc.code, tc.want)
		}
		if !strings.Contains(out, "actual vs emulated") {
			t.Errorf("%v: no table:\n%s", tc.args, out)
		}
	}
}

// TestExplain: what is said of the kernel is wrong in one point, which is named.
func TestExplain(t *testing.T) {
	// Lists add up, and a key may be undone.
	code, out, errs := sage(t, "compare", sample, "--variant", "out-round=zero,p-round=zero", "--variant", "p-round=default,level-keys=32")
	if code != exitOK || errs != "" || !strings.Contains(out, "accumulated in fp32+fp32; variant level-keys=32,out-round=zero\n") {
		t.Errorf("compare --variant: status %d, %q\n%s", code, errs, out)
	}
	code, out, errs = sage(t, "compare", sample, "--layers", `layers\.0`, "--pv-accum", "fp32", "--explain")
	if code != exitOK || errs != "" || !strings.Contains(out, "layers.0.attn: the actual output is, bit for bit, that of --pv-accum fp32+fp32\n") {
		t.Errorf("exit %d, stderr %q, stdout:\n%s", code, errs, out)
	}
	code, out, errs = sage(t, "compare", write(t, nil, append(layer(1, 1, 20, 8), tensor("l.o", 1, 1, 20, 8))...), "--explain")
	if code != exitOK || errs != "" || !strings.Contains(out, "hypotheses gives the actual output") {
		t.Errorf("exit %d, stderr %q, stdout:\n%s", code, errs, out)
	}
	_, out, _ = sage(t, "compare", sample, "--explain", "--format", "json")
	if strings.Contains(out, "explanation") {
		t.Error("an explanation where nothing differs")
	}
}

func TestAttribute(t *testing.T) {
	path := write(t, nil, layer(1, 2, 40, 8)...)
	for format, want := range map[string]string{"table": "what does not add up", "markdown": "| Q, K codes ", "json": `"attribution": {`} {
		code, out, errs := sage(t, "compare", path, "--attribute", "--format", format)
		if code != exitOK || errs != "" || !strings.Contains(out, want) {
			t.Errorf("%s: exit %d, stderr %q, stdout:\n%s", format, code, errs, out)
		}
	}
}

// TestJSON checks the contract that others script against.
func TestJSON(t *testing.T) {
	path := filepath.Join(t.TempDir(), "result.json")
	code, out, errs := sage(t, "compare", sample, "--format", "json", "-o", path, "--per-head")
	if code != exitOK || out != "" || errs != "" {
		t.Fatalf("exit %d, stdout %q, stderr %q", code, out, errs)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	get := func(v any, path string) any {
		t.Helper()
		for _, p := range strings.Split(path, ".") {
			switch x := v.(type) {
			case map[string]any:
				y, ok := x[p]
				if !ok {
					t.Fatalf("no %s in %v", path, x)
				}
				v = y
			case []any:
				v = x[int(p[0]-'0')]
			default:
				t.Fatalf("no %s", path)
			}
		}
		return v
	}
	if s := get(m, "schema"); s != "sageacc/compare/v1" {
		t.Errorf("schema %v", s)
	}
	for _, row := range []string{"layers.0.emulated_vs_reference", "layers.0.actual_vs_reference", "layers.0.actual_vs_emulated",
		"average.emulated_vs_reference", "average.actual_vs_reference", "worst.emulated_vs_reference", "layers.0.heads.1.actual_vs_emulated"} {
		for _, f := range []string{"cos_sim", "rel_l1", "rmse", "max_abs"} {
			if x, ok := get(m, row+"."+f).(float64); !ok || math.IsNaN(x) {
				t.Errorf("%s.%s is %v", row, f, x)
			}
		}
	}
	for f, want := range map[string]any{"elements": 131072.0, "mismatched": 0.0, "max_ulp": 0.0, "first_mismatch": nil} {
		if got := get(m, "layers.0.actual_vs_emulated."+f); got != want {
			t.Errorf("%s is %v, want %v", f, got, want)
		}
	}
	if get(m, "layers.0.name") != "layers.0.attn" || get(m, "layers.0.causal") != true || get(m, "kernel.name") != "sage2-8b-sm90" {
		t.Error("name, causal or kernel is wrong")
	}
	if _, ok := get(m, "layers.1").(map[string]any)["actual_vs_reference"]; ok {
		t.Error("a row of an output that is not there")
	}
	for _, jobs := range []string{"1", "2", "8"} {
		if _, again, _ := sage(t, "compare", sample, "--format", "json", "--per-head", "--jobs", jobs); again != string(data) {
			t.Errorf("%s jobs give another result", jobs)
		}
	}
}

func TestFormats(t *testing.T) {
	for format, want := range map[string]string{
		"csv":      "sage2-8b-sm90,sm_90,fp32,layers.0.attn,1,2,2,1024,1024,64,FP16,true,0.125,,,actual_vs_emulated,1,0,0,0,131072,0,0\n",
		"markdown": "| actual vs emulated",
		"table":    "0 of 131072",
	} {
		code, out, errs := sage(t, "compare", sample, "--format", format)
		if code != exitOK || errs != "" || !strings.Contains(out, want) {
			t.Errorf("%s: exit %d, stderr %q, stdout:\n%s", format, code, errs, out)
		}
	}
	for _, args := range [][]string{{"inspect", sample, "--format", "json"}, {"kernels", "--format", "json"},
		{"conform", "../../hardware/conformance/testdata/h200", "--filter", "n1_d64", "--format", "json"},
		{"conform", "../../hardware/conformance/testdata/h200", "--filter", "n1_d64", "--by-unit", "--format", "json"}} {
		code, out, errs := sage(t, args...)
		if code != exitOK || errs != "" || !json.Valid([]byte(out)) {
			t.Errorf("%v: exit %d, stderr %q, stdout %.100s", args, code, errs, out)
		}
	}
}

func TestTable(t *testing.T) {
	for format, want := range map[string]string{
		"table":    "99.75%  0.0406  0.0773", // the paper's
		"csv":      "smooth-v,yes,",
		"json":     `"schema": "sageacc/table/v1"`,
		"markdown": "| yes ",
	} {
		code, out, errs := sage(t, "table", "smooth-v", sample, "--layers", `layers\.0`, "--paper", "--format", format)
		if code != exitOK || errs != "" || !strings.Contains(out, want) {
			t.Errorf("%s: exit %d, stderr %q, stdout:\n%s", format, code, errs, out)
		}
	}
	if _, out, _ := sage(t, "table", "smooth-v", sample, "--layers", `layers\.0`); strings.Contains(out, "paper: cos") {
		t.Error("the paper's figures without being asked for")
	}
}

func TestRecommend(t *testing.T) {
	for format, want := range map[string]string{
		"table":    "cos_sim>=0.995: 1 sage2-4b, 1 sage2-8b-sm90\n",
		"markdown": "| layers.3.attn | sage2-8b-sm90 |",
		"json":     `"kernel": "sage2-8b-sm90"`,
	} {
		code, out, errs := sage(t, "recommend", sample, "--require", "cos>=0.995", "--format", format)
		if code != exitOK || errs != "" || !strings.Contains(out, want) {
			t.Errorf("%s: exit %d, stderr %q, stdout:\n%s", format, code, errs, out)
		}
	}
}

func TestBench(t *testing.T) {
	for format, want := range map[string]string{"table": "sage2-8b-sm90", "json": `"schema": "sageacc/bench/v1"`} {
		code, out, errs := sage(t, "bench", "--tokens", "256", "--head-dim", "64", "--min-time", "0s", "--format", format)
		if code != exitOK || errs != "" || !strings.Contains(out, want) || !strings.Contains(out, "reference fp64") {
			t.Errorf("%s: exit %d, stderr %q, stdout:\n%s", format, code, errs, out)
		}
	}
}

func TestDiff(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a.json"), filepath.Join(dir, "b.json")
	for path, kernel := range map[string]string{a: "sage2-8b-sm90", b: "sage2-4b"} {
		if code, _, errs := sage(t, "compare", sample, "--kernel", kernel, "--format", "json", "-o", path); code != exitOK {
			t.Fatal(errs)
		}
	}
	code, out, errs := sage(t, "diff", a, a, "--max-growth", "0")
	if code != exitOK || errs != "" || !strings.Contains(out, "~") || strings.Contains(out, "->") {
		t.Errorf("of itself: exit %d, stderr %q, stdout:\n%s", code, errs, out)
	}
	code, out, errs = sage(t, "diff", a, b, "--max-growth", "50")
	if code != exitCheckFailed || strings.Count(errs, "check failed: layer") != 3 || !strings.HasPrefix(out, "verdict    worse: layers.0.attn: the elements that differ from the emulated output grew from zero") || !strings.Contains(out, "kernel: sage2-8b-sm90 -> sage2-4b") {
		t.Errorf("exit %d, stderr %q, stdout:\n%s", code, errs, out)
	}
	junit, summary := filepath.Join(dir, "j.xml"), filepath.Join(dir, "s.md")
	if code, _, errs := sage(t, "diff", a, b, "--max-growth", "50", "--junit", junit, "--summary", summary); code != exitCheckFailed {
		t.Errorf("exit %d, %s", code, errs)
	}
	if s := read(t, junit); !strings.Contains(s, `<testsuites tests="6" failures="3">`) || !strings.Contains(s, `name="layers.3.attn: emulated error"`) {
		t.Errorf("JUnit:\n%s", s)
	}
	if s := read(t, summary); !strings.HasPrefix(s, "### sageacc diff: failed\n\n- worse: ") || !strings.Contains(s, "3 checks passed, 3 failed, 0 skipped") {
		t.Errorf("summary:\n%s", s)
	}
	c := filepath.Join(dir, "c.json")
	if code, _, errs := sage(t, "compare", sample, "--layers", "3", "--format", "json", "-o", c); code != exitOK {
		t.Fatal(errs)
	}
	d := filepath.Join(dir, "d.json")
	if code, _, errs := sage(t, "compare", sample, "--layers", "0", "--format", "json", "-o", d); code != exitOK {
		t.Fatal(errs)
	}
	if code, out, errs := sage(t, "diff", a, c, "--max-growth", "0"); code != exitOK || errs != "" || !strings.Contains(out, "layers: 1 vanished (layers.0.attn)") {
		t.Errorf("a layer that vanished: exit %d, %s%s", code, out, errs)
	}
	if code, out, errs := sage(t, "diff", d, c, "--max-growth", "0"); code != exitCannotRun || out != "" || !strings.Contains(errs, "no layer in common") {
		t.Errorf("nothing in common: exit %d, %s%s", code, out, errs)
	}
	for _, args := range [][]string{{"--top", "-1"}, {"--top", "2", "--format", "json"}, {"--junit", a}} {
		if code, out, errs := sage(t, append([]string{"diff", a, b}, args...)...); code != exitCannotRun || out != "" || strings.Count(errs, "\n") != 1 {
			t.Errorf("%q: exit %d, %s", args, code, errs)
		}
	}
	for _, format := range []string{"json", "markdown"} {
		if code, out, errs := sage(t, "diff", b, a, "--format", format); code != exitOK || errs != "" || !strings.Contains(out, "layers.3.attn") {
			t.Errorf("%s: exit %d, stderr %q, stdout:\n%s", format, code, errs, out)
		}
	}
}

// TestControlCharacters: a layer's name cannot break lines or reach the terminal.
func TestControlCharacters(t *testing.T) {
	ts := layer(1, 1, 20, 8)
	for i := range ts {
		ts[i].Name = "a\n\x1b[31mb" + ts[i].Name[1:]
	}
	path := write(t, nil, ts...)
	for _, args := range [][]string{{"compare", path, "--fail-if", "cos<2"}, {"compare", path, "--format", "markdown"}, {"inspect", path}} {
		_, out, errs := sage(t, args...)
		if strings.Contains(out+errs, "\x1b") || strings.Count(errs, "\n") > 1 || !strings.Contains(out, "b") {
			t.Errorf("%v: stderr %q, stdout %q", args, errs, out)
		}
	}
}

// TestSynth: what is made from synthetic activations says so.
func TestSynth(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.safetensors")
	code, out, errs := sage(t, "synth", "--profile", "outlier", "--tokens", "100", "--heads", "2", "-o", path)
	if code != exitOK || out != "" || !strings.Contains(errs, "profile outlier, seed 1") {
		t.Fatalf("exit %d, stdout %q, stderr %q", code, out, errs)
	}
	for _, args := range [][]string{{"compare", path}, {"inspect", path}, {"table", "smooth-v", path}, {"compare", path, "--format", "json"}, {"compare", path, "--format", "markdown"}} {
		if code, out, errs := sage(t, args...); code != exitOK || errs != "" || !strings.Contains(strings.ToLower(out), "synthetic") {
			t.Errorf("%v: exit %d, stderr %q, stdout:\n%s", args, code, errs, out)
		}
	}
}

// TestInspectRows: every layer has its own rows.
func TestInspectRows(t *testing.T) {
	_, out, _ := sage(t, "inspect", sample)
	var rows []string
	for _, l := range strings.Split(out, "\n") {
		if f := strings.Fields(l); len(f) > 0 {
			rows = append(rows, f[0])
		}
	}
	if got, want := strings.Join(rows[2:], " "), "layers.0.attn: q k v o layers.3.attn: q k v"; got != want {
		t.Errorf("rows %q, want %q in:\n%s", got, want, out)
	}
}

func TestConformFails(t *testing.T) {
	// Recordings of Hopper under the name of Ada differ.
	const set = "../../hardware/conformance/testdata/h200"
	dir := t.TempDir()
	data, err := os.ReadFile(filepath.Join(set, "sm90_mma_m16n8k32_f32_e4m3_e4m3_f32.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"d.safetensors": string(data),
		"cases.jsonl":   `{"file":"d.safetensors","op":"mma","instruction":"mma.sync.m16n8k32.f32.e4m3.e4m3.f32","arch":"sm_89","expect":"d"}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	code, out, errs := sage(t, "conform", dir)
	if code != exitCheckFailed || errs != "sageacc: check failed: 1 of 1 cases differ\n" || !strings.Contains(out, "0 passed, 1 failed, 0 skipped") || !strings.Contains(out, "recorded 0x") {
		t.Errorf("exit %d, stderr %q, stdout:\n%s", code, errs, out)
	}
}

// TestNothingToAttribute: a layer whose error is not finite gets a line, not a table
// of NaN.
func TestNothingToAttribute(t *testing.T) {
	spoiled := layer(1, 2, 20, 8)
	binary.LittleEndian.PutUint16(spoiled[0].Data[6:], 0x7e00)
	code, out, errs := sage(t, "compare", write(t, nil, spoiled...), "--attribute")
	if code != exitOK || errs != "" || strings.Contains(out, "NaN%") || !strings.HasSuffix(out, "\n\nl: the kernel's error is not finite and cannot be attributed\n") {
		t.Errorf("exit %d, stderr %q, stdout:\n%s", code, errs, out)
	}
}

// TestOneToken: smoothing means nothing for a single token.
func TestOneToken(t *testing.T) {
	code, out, errs := sage(t, "inspect", write(t, nil, layer(1, 2, 1, 8)...))
	if code != exitOK || errs != "" || strings.Contains(out, "Inf") || !strings.Contains(out, "smooth K: no verdict, a single token is its own mean") {
		t.Errorf("exit %d, stderr %q, stdout:\n%s", code, errs, out)
	}
}

// TestLSE: the log-sum-exp of the dump against the emulated one, in every format.
func TestLSE(t *testing.T) {
	lse := safetensors.Tensor{Name: "l.lse", DType: "F32", Shape: []int{1, 2, 20}, Data: make([]byte, 160)}
	path := write(t, nil, append(layer(1, 2, 20, 8), lse)...)
	if code, out, errs := sage(t, "inspect", path); code != exitOK || !strings.Contains(out, "  lse     1x2x20x1 FP32") || strings.Contains(out, "ignored") {
		t.Errorf("inspect: exit %d, %s%s", code, out, errs)
	}
	for format, want := range map[string]string{
		"table":    "lse: actual vs emulated",
		"markdown": "| lse: emulated vs reference |",
		"csv":      ",lse_actual_vs_reference,",
		"json":     `"lse": {`,
	} {
		code, out, errs := sage(t, "compare", path, "--lse", "--format", format)
		if code != exitOK || errs != "" || !strings.Contains(out, want) {
			t.Errorf("%s: exit %d, stderr %q, no %q in:\n%s", format, code, errs, want, out)
		}
		if format == "table" && !strings.Contains(out, "\nl: lse: first difference at batch 0, head 0, token 0: actual 0x00000000 (0), emulated 0x") {
			t.Errorf("no difference in:\n%s", out)
		}
		if _, out, _ := sage(t, "compare", path, "--format", format); strings.Contains(out, want) {
			t.Errorf("%s without --lse:\n%s", format, out)
		}
	}
	for _, args := range [][]string{{"compare", path}, {"compare", path, "--shard", "1/2", "-o", t.TempDir() + "/s.json"}, {"plan", path}, {"emulate", path, "-o", t.TempDir() + "/o.safetensors"}} {
		code, _, errs := sage(t, append(args, "--kernel", "sparge-sm90", "--lse")...)
		if want := "layer l: kernel sparge-sm90 writes no log-sum-exp (log_sum_exp.form: none)\n"; code != exitCannotRun || !strings.HasSuffix(errs, want) {
			t.Errorf("%v: exit %d, stderr %q, want %q", args, code, errs, want)
		}
	}
	if code, _, errs := sage(t, "compare", path, "--lse", "-o", path); code != exitCannotRun || !strings.Contains(errs, "one of the inputs") {
		t.Errorf("-o DUMP: exit %d, stderr %q", code, errs)
	}
	lse.Shape = []int{1, 20, 2}
	bad := write(t, nil, append(layer(1, 2, 20, 8), lse)...)
	if code, _, errs := sage(t, "compare", bad, "--lse"); code != exitCannotRun || !strings.Contains(errs, `tensor "l.lse" is F32 [1 20 2]; want FP32 [batch, heads, tokens], [1 2 20]`) {
		t.Errorf("shape: exit %d, stderr %q", code, errs)
	}
}

// TestTrace: a row of a layer that a GPU computed, as a table and as JSON.
func TestTrace(t *testing.T) {
	args := []string{"trace", sample, "--layer", "layers.0.attn", "--head", "1", "--row", "200"}
	code, out, errs := sage(t, append(args, "--tile", "1", "--channels", "0,63")...)
	if code != exitOK || errs != "" {
		t.Fatalf("exit %d, stderr %q", code, errs)
	}
	for _, want := range []string{
		"row        layers.0.attn: batch 0, head 1 (kv head 1), row 200 of 1024; FP16, causal, sm_scale 0.125\n",
		"   1  128-255       73  -6.6026597  0.5394255  ", "P~V[63]", "\nTile 1, key by key.\n",
		"\n200      29714   447.88986  0x7e    448\n", "\n201     -25199           0  0x00      0  masked\n",
		"0xae93  -0.10272217  0xae93\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	path := filepath.Join(t.TempDir(), "row.json")
	if code, out, errs := sage(t, append(args, "--format", "json", "-o", path)...); code != exitOK || out != "" || errs != "" {
		t.Fatalf("exit %d, stdout %q, stderr %q", code, out, errs)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var r trace.Row
	if err := json.Unmarshal(text, &r); err != nil || r.Schema != trace.Schema || len(r.Tiles) != 2 || len(r.Tiles[1].P) != 128 {
		t.Errorf("%v: %+v", err, r)
	}
}

// TestLongNames: tables and messages shorten a layer's name, JSON and CSV never do.
func TestLongNames(t *testing.T) {
	name := strings.Repeat("transformer.", 500) + "attn"
	ts := layer(1, 2, 20, 8)
	binary.LittleEndian.PutUint16(ts[0].Data[6:], 0x7e00) // a warning
	for i := range ts {
		ts[i].Name = name + strings.TrimPrefix(ts[i].Name, "l")
	}
	path := write(t, nil, ts...)
	for _, args := range [][]string{{"compare", path}, {"compare", path, "--per-head", "--format", "markdown"}, {"inspect", path},
		{"compare", path, "--attribute"}, {"recommend", path, "--require", "cos>0.9"}} {
		_, out, errs := sage(t, args...)
		for _, line := range strings.Split(out+errs, "\n") {
			if len(line) > 400 || !strings.Contains(out, "transformer.transformer.") {
				t.Errorf("%v: line of %d characters in:\n%.2000s", args, len(line), out)
				break
			}
		}
	}
	for _, format := range []string{"json", "csv"} {
		if _, out, _ := sage(t, "compare", path, "--format", format); !strings.Contains(out, name) {
			t.Errorf("%s shortens the name", format)
		}
	}
}

// TestManyLayersFitAScreen: so do the notes on them.
func TestManyLayersFitAScreen(t *testing.T) {
	var ts []safetensors.Tensor
	for i := range 100 {
		for _, part := range []string{"q", "k", "v"} {
			x := tensor(fmt.Sprintf("l%d.%s", i, part), 1, 1, 2, 4)
			clear(x.Data) // which is suspicious
			ts = append(ts, x)
		}
	}
	path := write(t, map[string]string{"layout": "HND"}, ts...)
	for _, tc := range []struct {
		args []string
		all  bool
	}{{nil, false}, {[]string{"--top", "0"}, true}} {
		code, out, errs := sage(t, append([]string{"compare", path}, tc.args...)...)
		if code != exitOK {
			t.Fatalf("exit %d, %s", code, errs)
		}
		lines, last := strings.Count(out, "\n"), strings.Contains(out, "l99: ")
		if tc.all != (lines > 300) || tc.all != last || !tc.all && (lines > 60 || !strings.Contains(out, " more notes (--top 0 shows all)")) {
			t.Errorf("%q: %d lines, a note on the last layer: %t\n%s", tc.args, lines, last, out)
		}
	}
}

// set writes a conformance set without recordings.
func set(t *testing.T, cases string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "cases.jsonl"), []byte(cases), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestConformChecksNothing: a run in which every case is skipped does not succeed.
func TestConformChecksNothing(t *testing.T) {
	dir := set(t, `{"file":"f.safetensors","op":"sparse","expect":"y"}`)
	if err := safetensors.Write(filepath.Join(dir, "f.safetensors"), nil, []safetensors.Tensor{tensor("y", 4)}); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"conform", dir}, {"conform", dir, "--by-unit"}} {
		code, out, errs := sage(t, args...)
		if want := "sageacc: nothing was checked: 1 of 1 cases were skipped, the first with: no model of op \"sparse\"\n"; code != exitCannotRun || errs != want {
			t.Errorf("exit %d, stderr %q, want %q", code, errs, want)
		}
		if !strings.HasSuffix(out, "\n0 passed, 0 failed, 1 skipped: nothing was checked\n") {
			t.Errorf("stdout:\n%s", out)
		}
	}
}

// TestInterrupt: a cancelled run says so and leaves no file.
func TestInterrupt(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		time.Sleep(20 * time.Millisecond)
		cancel()
	}()
	var out, errs bytes.Buffer
	code := run(ctx, []string{"compare", sample, sample[:len(sample)-len("byte-lm-sample.safetensors")] + "video-dit-sample.safetensors", "--reference", "fp64", "--arch", "ideal", "-o", filepath.Join(dir, "r.json"), "--format", "json"}, &out, &errs)
	if code == exitOK {
		t.Fatal("the run was faster than the interruption")
	}
	if code != exitInterrupted || errs.String() != "sageacc: interrupted\n" {
		t.Errorf("exit %d, stderr %q", code, errs.String())
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// TestHelp: every command shows an example.
func TestHelp(t *testing.T) {
	for _, c := range newRoot(&env{stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}}).Commands() {
		code, out, errs := sage(t, c.Name(), "--help")
		if code != exitOK || errs != "" || !strings.Contains(out, "sageacc "+c.Name()) {
			t.Errorf("%s --help: exit %d, stderr %q, stdout:\n%s", c.Name(), code, errs, out)
		}
		if c.Example == "" || !strings.Contains(out, "Examples:") {
			t.Errorf("%s --help has no example", c.Name())
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if code, out, _ := sage(t, "completion", shell); code != exitOK || !strings.Contains(out, "sageacc") {
			t.Errorf("completion %s: exit %d", shell, code)
		}
	}
	if code, out, _ := sage(t, "__complete", "compare", "--kernel", ""); code != exitOK || !strings.Contains(out, "sage2-4b") {
		t.Errorf("completion of --kernel: exit %d, %q", code, out)
	}
}

// TestTraceTiles: tiles by their numbers, whichever the row's block runs and in whatever order,
// of kernels without integer scores too; and rows whose block runs none.
func TestTraceTiles(t *testing.T) {
	long := write(t, nil, ramp("l.q", 1, 1, 130, 16), ramp("l.k", 1, 1, 300, 16), ramp("l.v", 1, 1, 300, 16))
	listed := safetensors.Tensor{Name: "l.block_map", DType: "BOOL", Shape: []int{1, 1, 3, 3}, Data: []byte{1, 0, 1, 1, 0, 1, 1, 0, 1}}
	sparse := write(t, nil, ramp("l.q", 1, 1, 130, 16), ramp("l.k", 1, 1, 300, 16), ramp("l.v", 1, 1, 300, 16), listed)
	short := write(t, nil, ramp("l.q", 1, 1, 300, 16), ramp("l.k", 1, 1, 10, 16), ramp("l.v", 1, 1, 10, 16))
	for _, tc := range []struct {
		args   []string
		status int
		has    []string
		not    string
	}{
		{[]string{long, "--kernel", "fa3", "--tile", "0"}, exitOK, []string{"\nTile 0, key by key.\n\nkey ", "\n  0 ", "\n127 "}, "int score"},
		{[]string{long, "--kernel", "fa3", "--window", "0,-1", "--row", "3", "--tile", "1"}, exitOK, []string{"\nTile 1, key by key.\n"}, "masked"},
		{[]string{long, "--kernel", "fa3", "--window", "0,-1", "--row", "3", "--tile", "7"}, exitCannotRun, []string{"--tile is 7: the row's tiles are 1 to 2\n"}, ""},
		{[]string{sparse, "--kernel", "sparge-sm90", "--tile", "2"}, exitOK, []string{"\nTile 2, key by key.\n", "int score", "\n256 ", "\n299 "}, "\n300 "},
		{[]string{sparse, "--kernel", "sparge-sm90", "--tile", "1"}, exitCannotRun, []string{"--tile is 1: the row has 2 of the tiles 0 to 2, and not this one\n"}, ""},
		{[]string{short, "--kernel", "fa2", "--causal", "--row", "3"}, exitOK, []string{"\nThe row's block runs no tile of keys.\n", "      0  -       0  0x0000\n"}, "q scale"},
		{[]string{short, "--kernel", "fa2", "--causal", "--row", "3", "--format", "json"}, exitOK, []string{`"tiles": []`}, ""},
		{[]string{short, "--kernel", "fa2", "--causal", "--row", "3", "--tile", "0"}, exitCannotRun, []string{"--tile is 0: the row's block runs no tile\n"}, ""},
	} {
		code, out, errs := sage(t, append([]string{"trace"}, tc.args...)...)
		for _, want := range tc.has {
			if code != tc.status || !strings.Contains(out+errs, want) || tc.not != "" && strings.Contains(out, tc.not) {
				t.Errorf("%q: status %d, stderr %q, want %q and no %q:\n%s", tc.args[1:], code, errs, want, tc.not, out)
			}
		}
	}
}
