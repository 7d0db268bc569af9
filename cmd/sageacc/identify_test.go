package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/compare/identify"
)

// TestIdentify: the kernel of a recorded output is named, and the status says whether it was.
func TestIdentify(t *testing.T) {
	code, out, errs := sage(t, "identify", sample)
	if code != exitOK || !strings.Contains(out, "bit for bit (131072 elements) that of sage2-8b-sm90; also called sageattn@sm_90") || !strings.Contains(out, "layers.3.attn") {
		t.Errorf("status %d, %s%s", code, out, errs)
	}
	code, out, errs = sage(t, "identify", sample, "--format", "json")
	var r identify.Result
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != exitOK || r.Schema != identify.Schema || !r.Identified || r.Layers[0].Exact[0].Kernel != "sage2-8b-sm90" {
		t.Errorf("status %d, %v, %s%s", code, err, out, errs)
	}
	// A wrong word about the layer is found out, an output of something else is not.
	if code, out, _ := sage(t, "identify", sample, "--layers", `layers\.0`, "--sm-scale", "7"); code != exitOK || !strings.Contains(out, "sage2-8b-sm90 --sm-scale 0.125") {
		t.Errorf("status %d, %s", code, out)
	}
	code, out, errs = sage(t, "identify", write(t, nil, append(layer(1, 1, 40, 8), tensor("l.o", 1, 1, 40, 8))...))
	if code != exitCheckFailed || !strings.Contains(out, "not identified: 1 layer") || !strings.Contains(errs, "check failed: layer l:") {
		t.Errorf("status %d, %s%s", code, out, errs)
	}
	code, _, errs = sage(t, "identify", sample, "--layers", `layers\.3`)
	if code != exitCannotRun || !strings.Contains(errs, "no layer has an actual output") || strings.Count(errs, "\n") != 1 {
		t.Errorf("status %d, %s", code, errs)
	}
}

// TestTableMethods: whole kernels, layer by layer.
func TestTableMethods(t *testing.T) {
	code, out, errs := sage(t, "table", "gpus", "../../layerdumps/testdata/minilm-sample.safetensors", "--top", "1")
	for _, want := range []string{"sageattn@sm_120 (reported)", "and 1 layer with smaller errors", "encoder.layer.5.attention.self  sageattn@sm_80"} {
		if code != exitOK || !strings.Contains(out, want) {
			t.Errorf("status %d, no %q in %s%s", code, want, out, errs)
		}
	}
	for _, args := range [][]string{
		{"table", "smoothing", sample, "--top", "1"}, {"table", "gpus", sample, "--top", "-1"}, {"table", "gpus", sample, "--top", "1", "--format", "json"},
	} {
		if code, _, errs := sage(t, args...); code != exitCannotRun || !strings.Contains(errs, "--top") {
			t.Errorf("%q: status %d, %s", args, code, errs)
		}
	}
}
