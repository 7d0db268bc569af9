package emulate

import (
	"fmt"
	"testing"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/internal/vec"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/emulate/quant"
)

// ramp is rows of ordinary numbers, channel zero of zeros.
func ramp(d int) Rows {
	return func(lo, hi int, dst []float32) {
		for i := range dst[:(hi-lo)*d] {
			dst[i] = float32((lo*d+i)*37%64-31) / 16
			if i%d == 0 {
				dst[i] = 0
			}
		}
	}
}

// TestStripsRun: the configurations that the documents call vectorised are, and run to
// the end, with a channel of zeros too. A result could not tell: the portable code has it
// as well.
func TestStripsRun(t *testing.T) {
	for _, level := range Levels()[1:] {
		for _, name := range []string{"sage2-4b", "sage2-8b-sm89", "sage2-8b-sm90"} {
			preset, err := program.Preset(name)
			if err != nil {
				t.Fatal(err)
			}
			for _, arch := range []string{"sm_89", "sm_90", "ideal"} {
				for _, accum := range []string{"fp32+fp32", "fp32+fp16", "fp32", "ideal"} {
					for _, pv := range []quant.PVType{quant.E4M3, quant.E5M2, quant.INT8, quant.FP16} {
						cfg := preset
						cfg.Arch = arch
						if cfg.SetPVType(pv) != nil || cfg.SetAccum(accum) != nil || cfg.Validate() != nil {
							continue
						}
						ideal := arch == "ideal" || accum == "ideal"
						hopperMMA := arch == "sm_90" && cfg.Name != "sage2-8b-sm90"
						want := level.l == vec.AVX512 && !(ideal && (pv == quant.E5M2 || pv == quant.FP16)) ||
							pv == quant.INT8 || !ideal && !hopperMMA && pv != quant.FP16
						t.Run(fmt.Sprintf("%s/%s %s %s %s", level, cfg.Name, arch, accum, pv), func(t *testing.T) {
							if got := runsInStrips(t, cfg, level); got != want {
								t.Errorf("in strips: %v, want %v", got, want)
							}
						})
					}
				}
			}
		}
	}
}

// runsInStrips runs a small head and says whether every block ran in strips.
func runsInStrips(t *testing.T, cfg program.Program, level Level) bool {
	const d, n = 16, 200
	k, err := NewAt(cfg, level)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := k.Prepare(KVInput{K: ramp(d), V: ramp(d), Len: n, Dim: d, DType: format.FP16})
	if err != nil {
		t.Fatal(err)
	}
	if !kv.strips {
		return false
	}
	var ws Workspace
	ws.fit(k, d)
	q := k.Query(QInput{Q: ramp(d), Len: n, Scale: 0.25}, kv, &ws)
	failed, err := k.runStrips(t.Context(), q, &ws, 0, k.Blocks(n), make([]float32, n*d), nil)
	if err != nil {
		t.Fatal(err)
	}
	return len(failed) == 0
}
