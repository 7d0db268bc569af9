package emulate

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sageacc/sageacc/emulate/format"
)

// TestEncodeFP8: the codes of every level are those of the definition, one value at a time, for
// all values of FP16, for FP32 patterns of every kind, and scales that no quantiser makes.
func TestEncodeFP8(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 14))
	kinds := map[string][]float32{"none": nil}
	for c := range 1 << 16 {
		kinds["FP16"] = append(kinds["FP16"], format.FP16ToFloat32(uint16(c)))
	}
	for range 20_011 { // also a part that is not whole lanes
		kinds["any"] = append(kinds["any"], math.Float32frombits(r.Uint32()))
		kinds["ordinary"] = append(kinds["ordinary"], float32(r.NormFloat64()))
		kinds["tiny"] = append(kinds["tiny"], math.Float32frombits(r.Uint32()&(1<<31|1<<24-1)))
	}
	kinds["one"] = []float32{-300}
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for _, level := range Levels() {
		k := &Kernel{level: level}
		for kind, x := range kinds {
			for _, scale := range []float32{1, 3.0 / 448, 0.1, 0x1p-126, 0x1p-149, 0x1p127, 0, -2, inf, nan} {
				for _, dtype := range []format.DType{format.FP16, format.FP8} {
					got := slices.Clone(x)
					k.encodeFP8(got, dtype, scale)
					for i, v := range x {
						if dtype != format.FP8 {
							v /= scale
						}
						if want := format.E4M3FromFloat32(v).Float32(); math.Float32bits(got[i]) != math.Float32bits(want) {
							t.Fatal(fmt.Sprintf("%v, %s of %v, scale %v:", level, kind, dtype, scale), x[i], "is", got[i], "not", want)
						}
					}
				}
			}
		}
	}
}
