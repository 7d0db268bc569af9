package probe

import (
	"math"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/emulate/tensorcore"
)

// The paper found 13 mantissa bits in the FP8 units' accumulator, the others zeroed;
// the recordings say so of Ada's and of Hopper's wgmma.
func TestEmulatedAccumulators(t *testing.T) {
	rows, err := EmulatedAccumulators()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, r := range rows {
		name := r.Arch + " " + r.Instruction
		seen[name]++
		fp22 := (r.Arch == tensorcore.SM89 || r.Instruction[0] == 'w') && r.Arch != tensorcore.Ideal &&
			(strings.Contains(r.Instruction, "f32.e4m3") || strings.Contains(r.Instruction, "f32.e5m2"))
		if fp22 && (r.Bits != 13 || r.Rounding != "toward zero") {
			t.Errorf("%s keeps %d bits, %s; recorded: 13, toward zero", name, r.Bits, r.Rounding)
		}
		if !fp22 && (r.Bits != r.Of || r.Rounding != "none") {
			t.Errorf("%s keeps %d of %d bits, %s; recorded: all", name, r.Bits, r.Of, r.Rounding)
		}
	}
	for _, want := range []string{"sm_89 mma.m16n8k32.f32.e4m3", "sm_90 wgmma.m64nNk32.f32.e4m3", "sm_90 mma.m16n8k32.f32.e4m3"} {
		if seen[want] != 1 {
			t.Errorf("%s is there %d times", want, seen[want])
		}
	}
}

// The probe tells accumulators apart that are not in the table.
func TestAccumulate(t *testing.T) {
	round := func(keep int, nearest bool) func([]uint32) ([]uint32, error) {
		return func(c []uint32) ([]uint32, error) {
			var out []uint32
			for _, x := range c {
				if nearest {
					x += 1 << (22 - keep)
				}
				out = append(out, x&^(1<<(23-keep)-1))
			}
			return out, nil
		}
	}
	for _, tc := range []struct {
		keep     int
		nearest  bool
		bits     int
		rounding string
	}{{13, false, 13, "toward zero"}, {10, true, 10, "up"}, {22, false, 22, "toward zero"}} {
		bits, rounding, err := accumulate(tensorcore.FP32, round(tc.keep, tc.nearest))
		if err != nil || bits != tc.bits || rounding != tc.rounding {
			t.Errorf("%+v: %d bits, %q, %v", tc, bits, rounding, err)
		}
	}
	bits, rounding, err := accumulate(tensorcore.FP32, func(c []uint32) ([]uint32, error) { return c, nil })
	if err != nil || bits != 23 || rounding != "none" {
		t.Errorf("an exact one: %d bits, %q, %v", bits, rounding, err)
	}
	if _, _, err := accumulate(tensorcore.FP32, func(c []uint32) ([]uint32, error) {
		out := append([]uint32{}, c...)
		out[23] = math.Float32bits(7)
		return out, nil
	}); err == nil {
		t.Error("nonsense gives no error")
	}
}
