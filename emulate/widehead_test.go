package emulate

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/emulate/quant"
)

// TestWideHeads: heads of more channels than any released kernel with quantised P and V takes, which
// descriptions may have: every level gives the portable one's results.
func TestWideHeads(t *testing.T) {
	r := rand.New(rand.NewPCG(25, 8))
	normal := func() format.E4M3 { return format.E4M3FromFloat32(float32(r.NormFloat64())) }
	inStrips, ran := 0, 0
	for _, preset := range program.Presets() {
		for _, kind := range []quant.PVType{quant.E4M3, quant.E5M2, quant.FP16, quant.INT8} {
			p, err := program.Selection{Kernel: preset.Name, Set: []string{fmt.Sprintf("operands.max_head_dim=%d", MaxHeadDim)}}.Program()
			if err != nil {
				t.Fatal(err)
			}
			if p.P.Format != kind.String() && (preset.Name != "sage2-8b-sm90" || p.SetPVType(kind) != nil) {
				continue
			}
			for _, arch := range []string{p.Arch, "ideal"} {
				p.Arch = arch
				for _, d := range []int{257, MaxHeadDim} {
					h := codeCall(r, 70, 100, d, false, normal, normal)
					h.dtype, h.kIn.DType = format.FP16, format.FP16
					if k, err := New(p); err != nil {
						continue // a unit that the architecture lacks
					} else if _, err := h.bind(k); err != nil {
						continue // no tile for such heads
					}
					ran++
					want, _, _ := runCall(t, p, Levels()[0], h)
					for _, level := range Levels()[1:] {
						got, _, kv := runCall(t, p, level, h)
						if s := want.differs(&got); s != "" {
							t.Errorf("%s on %s, P and V %s, head_dim %d, %s: %s", p.Name, arch, p.P.Format, d, level, s)
						}
						if kv.strips {
							inStrips++
						}
					}
				}
			}
		}
	}
	if t.Logf("%d heads, %d in strips", ran, inStrips); ran < 30 || len(Levels()) > 1 && inStrips == 0 {
		t.Error("the test compares too little")
	}
}
