package render

import (
	"strings"
	"testing"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/program"
)

// TestSpeed: a kernel that runs whole in strips has no line of its speed, one whose tiles run in
// vectors says what the strips lack, and one without vectors that too, and what the steps lack.
func TestSpeed(t *testing.T) {
	for _, tc := range []struct {
		kernel, set string
		want        []string // nothing for no line
	}{
		{"sage2-8b-sm90", "", nil},
		{"fa2", "", []string{"several times slower", "operands.subnormals: keep"}},
		{"fa2", "pv.unit.sum_round=fp32-nearest", []string{"tens of times slower", "operands.subnormals: keep", "pv.unit: mma.m16n8k16.f32.f16 as sm_90"}},
		{"sage2-8b-sm90", "pv.level=all pv.join=none pv.unit.instruction=exact", []string{"several times slower", "which have no pv.unit.instruction: exact"}},
		{"sage2-8b-sm90", "p.format=exact p.round=none arch=ideal", []string{"tens of times slower", "strips have no p.format: exact", "steps no pv.unit: wgmma.m64nNk32.f32.e4m3 as ideal"}},
	} {
		p, err := program.Selection{Kernel: tc.kernel, Set: strings.Fields(tc.set)}.Program()
		if err != nil {
			t.Fatal(err)
		}
		// It does not depend on the machine.
		for _, level := range emulate.Levels() {
			k, err := emulate.NewAt(p, level)
			if err != nil {
				t.Fatal(err)
			}
			line := ""
			for _, x := range kernelHead(compare.Describe(k)) {
				if x.key == "speed" {
					line = x.value
				}
			}
			if (line == "") != (tc.want == nil) {
				t.Errorf("%s %s: the line is %q", tc.kernel, tc.set, line)
			}
			for _, w := range tc.want {
				if !strings.Contains(line, w) {
					t.Errorf("%s %s: the line is %q, without %q", tc.kernel, tc.set, line, w)
				}
			}
		}
	}
}
