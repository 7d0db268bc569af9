package emulate

import (
	"fmt"
	"math"
	"testing"

	"github.com/sageacc/sageacc/emulate/format"
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
						want := !(ideal && (pv == quant.E5M2 || pv == quant.FP16))
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
	return callInStrips(t, cfg, level, ramp(16), ramp(16), ramp(16))
}

// callInStrips is runsInStrips for 200 queries and keys of 16 channels.
func callInStrips(t *testing.T, cfg program.Program, level Level, q, k, v Rows) bool {
	t.Helper()
	const d, n = 16, 200
	kernel, err := NewAt(cfg, level)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := kernel.Prepare(KVInput{K: k, V: v, Len: n, Dim: d, DType: format.FP16})
	if err != nil {
		t.Fatal(err)
	}
	if !kv.strips {
		return false
	}
	var ws Workspace
	ws.fit(kernel, d)
	query := kernel.Query(QInput{Q: q, Len: n, Scale: 0.25}, kv, &ws)
	failed, err := kernel.runStrips(t.Context(), query, &ws, 0, kernel.Blocks(n), make([]float32, n*d), nil)
	if err != nil {
		t.Fatal(err)
	}
	return len(failed) == 0
}

// TestOddInStrips: NaN and infinities of Q, K and V keep no row out of the vector kernels.
// A result could not tell.
func TestOddInStrips(t *testing.T) {
	const d = 16
	odd := func(x float64) Rows {
		return func(lo, hi int, dst []float32) {
			ramp(d)(lo, hi, dst)
			if lo <= 70 && 70 < hi {
				dst[(70-lo)*d+3] = float32(x)
			}
		}
	}
	for _, level := range Levels()[1:] {
		for _, name := range []string{"sage2-4b", "sage2-8b-sm89", "sage2-8b-sm90"} {
			cfg, err := program.Preset(name)
			if err != nil {
				t.Fatal(err)
			}
			for _, x := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
				rows := [3]Rows{}
				for i := range rows {
					rows = [3]Rows{ramp(d), ramp(d), ramp(d)}
					rows[i] = odd(x)
					if !callInStrips(t, cfg, level, rows[0], rows[1], rows[2]) {
						t.Errorf("%s, %s: %v in %c leaves the strips", level, name, x, "QKV"[i])
					}
				}
			}
		}
	}
}
