package main

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/layerdumps/inspect"
	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

// ramp is a tensor of FP16 numbers that differ.
func ramp(name string, shape ...int) safetensors.Tensor {
	x := tensor(name, shape...)
	for i := range len(x.Data) / 2 {
		x.Data[2*i], x.Data[2*i+1] = byte(i*37), byte(0x2c|(i*i)%9|i%2<<7)
	}
	return x
}

// calls are dumps as callers pass inputs, and a kernel that takes each.
var calls = map[string]struct {
	metadata map[string]string
	more     []safetensors.Tensor
	kernel   string
	said     string
}{
	"boolean mask":  {nil, []safetensors.Tensor{{Name: "l.mask", DType: "BOOL", Shape: []int{6, 7}, Data: append(make([]byte, 7), []byte(strings.Repeat("\x01\x00\x01\x01\x00", 7))...)}}, "sage-fp16-triton", "mask boolean 1x1x6x7"},
	"additive mask": {nil, []safetensors.Tensor{ramp("l.mask", 2, 6, 7)}, "sage-fp16-triton", "mask FP16 1x2x6x7"},
	"window":        {map[string]string{"window": "2,1", "softcap": "5", "causal_align": "bottom-right"}, nil, "fa3", "window 2,1, softcap 5, aligned bottom-right"},
	"block map":     {nil, []safetensors.Tensor{{Name: "l.block_map", DType: "BOOL", Shape: []int{1, 2, 1, 1}, Data: []byte{1, 1}}}, "sparge-sm90", "block map 1x2x1x1, 100.0% listed (the reference is dense)"},
	"fp8":           {nil, nil, "fa3-fp8", "to E4M3 by amax/448 of each batch entry and kv head"},
	"fp8 by head":   {nil, nil, "flashinfer-fp8", "to E4M3 by amax/448, at least 1e-6, of each head of Q, K and V"},
}

// TestCalls: every command that runs a layer takes what its call was given, and says it.
func TestCalls(t *testing.T) {
	for name, c := range calls {
		t.Run(name, func(t *testing.T) {
			p, err := program.Preset(c.kernel)
			if err != nil {
				t.Fatal(err)
			}
			o := ramp("l.o", 1, 2, 6, 16)
			o.DType = map[string]string{"fp8": "BF16", "fp8 by head": "BF16"}[name] + map[string]string{"boolean mask": "F16", "additive mask": "F16", "window": "F16", "block map": "F16"}[name]
			path := write(t, c.metadata, append([]safetensors.Tensor{ramp("l.q", 1, 2, 6, 16), ramp("l.k", 1, 1, 7, 16), ramp("l.v", 1, 1, 7, 16), o}, c.more...)...)
			for _, args := range [][]string{
				{"compare", path, "--kernel", c.kernel},
				{"compare", path, "--kernel", c.kernel, "--explain", "--explain-changes", "1", "--attribute", "--layout", "hnd"},
				{"trace", path, "--kernel", c.kernel, "--layer", "l", "--row", "3"},
				{"emulate", path, "--kernel", c.kernel, "-o", t.TempDir() + "/o.safetensors"},
			} {
				code, out, stderr := sage(t, args...)
				if code != 0 || stderr != "" {
					t.Fatalf("%v: status %d: %s", args, code, stderr)
				}
				if rest := "FP32 arithmetic, block map"; strings.Contains(strings.Join(args, " "), "--attribute") && strings.Contains(out, rest) != (name == "block map") {
					t.Errorf("%v: attribution and %q:\n%s", args, rest, out)
				}
				if args[0] == "trace" && strings.Contains(out, "no log-sum-exp.") != (p.LSE.Form == "none") {
					t.Errorf("%v: the log-sum-exp is %s:\n%s", args, p.LSE.Form, out)
				}
				if args[0] == "compare" && !strings.Contains(out, c.said) {
					t.Errorf("%v does not say %q:\n%s", args, c.said, out)
				}
			}
			_, out, _ := sage(t, "compare", path, "--kernel", c.kernel, "--format", "json")
			var res compare.Result
			if err := json.Unmarshal([]byte(out), &res); err != nil {
				t.Fatal(err)
			}
			if l := &res.Layers[0]; strings.Join(append(l.Call.Parts(), l.Quantised), ", ") != c.said && strings.Join(l.Call.Parts(), ", ") != c.said && l.Quantised != c.said {
				t.Errorf("JSON says %+v and %q, want %q", l.Call, l.Quantised, c.said)
			}
			code, out, _ := sage(t, "inspect", path)
			if code != 0 || !strings.HasPrefix(name, "fp8") && !strings.Contains(out, c.said) {
				t.Errorf("inspect does not say %q:\n%s", c.said, out)
			}
			_, out, _ = sage(t, "inspect", path, "--format", "json")
			var seen inspect.Result
			if err := json.Unmarshal([]byte(out), &seen); err != nil {
				t.Fatal(err)
			}
			if name == "boolean mask" && (len(seen.Layers[0].Warnings) == 0 || !strings.Contains(strings.Join(seen.Layers[0].Warnings, " "), "1 of its 6 rows see no key")) {
				t.Errorf("warnings %q", seen.Layers[0].Warnings)
			}
		})
	}
}

// TestRefusedByAll: where no kernel of a table takes a layer, it is said why.
func TestRefusedByAll(t *testing.T) {
	c := calls["block map"]
	path := write(t, nil, append([]safetensors.Tensor{ramp("l.q", 1, 2, 6, 16), ramp("l.k", 1, 1, 7, 16), ramp("l.v", 1, 1, 7, 16)}, c.more...)...)
	for _, format := range []string{"table", "markdown"} {
		code, out, stderr := sage(t, "table", "methods", path, "--format", format)
		if want := "sage2-4b leaves out l: kernel sage2-4b takes no block map"; code != 0 || !strings.Contains(out, want) {
			t.Errorf("%s: status %d, no %q: %s\n%s", format, code, want, stderr, out)
		}
	}
}

// TestCallFlags: flags go before metadata, and bad ones are one line.
func TestCallFlags(t *testing.T) {
	path := write(t, map[string]string{"window": "2,1"}, ramp("l.q", 1, 2, 6, 16), ramp("l.k", 1, 1, 7, 16), ramp("l.v", 1, 1, 7, 16))
	figure := func(args ...string) float64 {
		t.Helper()
		code, out, stderr := sage(t, append([]string{"compare", path, "--format", "json"}, args...)...)
		if code != 0 {
			t.Fatalf("%v: %s", args, stderr)
		}
		var res compare.Result
		if err := json.Unmarshal([]byte(out), &res); err != nil {
			t.Fatal(err)
		}
		return float64(res.Layers[0].ReferenceRMS)
	}
	window, none, causal := figure("--kernel", "fa3"), figure("--kernel", "fa3", "--window", "-1,-1"), figure("--kernel", "fa3", "--window", "-1,0")
	if window == none || none == causal || causal == window || causal != figure("--kernel", "fa3", "--window", "-1,-1", "--causal") {
		t.Errorf("window %v, none %v, causal %v", window, none, causal)
	}
	if capped := figure("--kernel", "fa3", "--softcap", "0.01"); capped == window || math.IsNaN(capped) {
		t.Errorf("capped %v", capped)
	}
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"--kernel", "fa3", "--window", "1"}, `--window: window "1" is not LEFT,RIGHT`},
		{[]string{"--kernel", "fa3", "--softcap", "-1"}, `--softcap: softcap "-1" is not`},
		{[]string{"--kernel", "fa3", "--causal-align", "up"}, `--causal-align: causal_align "up" is neither`},
		{[]string{"--kernel", "fa3", "--causal-align", "top-left"}, `dump.safetensors: layer l: causal_align is top-left, and kernel fa3 aligns 6 queries and 7 keys bottom-right`},
		{nil, "dump.safetensors: layer l: kernel sage2-8b-sm90 takes no window (mask.window: no); fa2, fa3,"},
	} {
		code, _, stderr := sage(t, append([]string{"compare", path}, tc.args...)...)
		if code != 2 || !strings.Contains(stderr, tc.want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%v: status %d: %q, want %q", tc.args, code, stderr, tc.want)
		}
	}
}
