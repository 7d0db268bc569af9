package auto

import (
	"strings"
	"testing"

	"github.com/sageacc/sageacc/layerdumps"
)

func dumpOf(metadata ...map[string]string) *layerdumps.Dump {
	d := new(layerdumps.Dump)
	for i, m := range metadata {
		d.Layers = append(d.Layers, layerdumps.Layer{Name: "l" + string(rune('0'+i)), Source: "f" + string(rune('0'+i)), Metadata: m})
	}
	return d
}

type meta = map[string]string

func TestChoose(t *testing.T) {
	const sage = "sage2-8b-sm89 --arch sm_90 --qk-granularity per-thread --smooth k --pv-accum fp32"
	captured := meta{"device": "NVIDIA H100 80GB HBM3", "arch": "sm_90", "call": "sageattn_qk_int8_pv_fp8_cuda(q[1,2])", "kernel": sage}
	sdpa := meta{"device": "NVIDIA A100-SXM4-80GB", "arch": "sm_80", "call": "scaled_dot_product_attention(q)", "kernel": "fa2"}
	for _, tc := range []struct {
		name     string
		metadata []meta
		want     string
		why      string
	}{
		{Kernel, []meta{{"device": "NVIDIA H200"}}, "sageattn@sm_90", "what sageattn() runs on NVIDIA H200 (sm_90)"},
		{Sage, []meta{{"device": "NVIDIA H200"}, {"device": "NVIDIA H20"}}, "sageattn@sm_90", "what sageattn() runs on NVIDIA H200 (sm_90)"},
		{Sage, []meta{{"arch": "sm_121"}}, "sageattn@sm_121", "what sageattn() runs on sm_121"},
		{Kernel, []meta{{"device": "a GPU of tomorrow", "arch": "sm_120"}}, "sageattn@sm_120", "a GPU of tomorrow (sm_120)"},
		{Kernel, []meta{captured}, sage, "the recorded call, sageattn_qk_int8_pv_fp8_cuda() on NVIDIA H100 80GB HBM3"},
		{Sage, []meta{captured}, sage, "the recorded call"},
		{Kernel, []meta{sdpa}, "fa2", "the recorded call, scaled_dot_product_attention()"},
		{Sage, []meta{sdpa}, "sageattn@sm_80", "what sageattn() runs on NVIDIA A100"},
		{Kernel, []meta{{"kernel": "fa3 --set tiles.split=3", "device": "cpu"}}, "fa3 --set tiles.split=3", "the recorded call's kernel"},
	} {
		c, err := Choose(tc.name, dumpOf(tc.metadata...))
		if err != nil || c.Name != tc.want || !strings.Contains(c.Why, tc.why) {
			t.Errorf("%s of %v: %q, %q, %v; want %q, %q", tc.name, tc.metadata, c.Name, c.Why, err, tc.want, tc.why)
			continue
		}
		if p, err := c.Program(); err != nil || p.Name == "" {
			t.Errorf("%s: %v", c.Name, err)
		}
	}
	c, err := Choose(Kernel, dumpOf(captured))
	if p, e := c.Program(); err != nil || e != nil || p.Name != "sage2-8b-sm89" || p.Arch != "sm_90" || p.Accum() != "fp32" {
		t.Errorf("%v, %v: %+v", err, e, p)
	}
}

func TestUnknown(t *testing.T) {
	for _, tc := range []struct {
		name     string
		metadata []meta
		want     string
	}{
		{Kernel, []meta{nil}, "f0: layer l0: --kernel auto: no metadata device or arch says which GPU it is of: name the kernel"},
		{Sage, []meta{{"kernel": "fa2"}}, "no metadata device or arch"},
		{Kernel, []meta{{"device": "cpu"}}, `metadata device "cpu" is no GPU whose architecture is known here`},
		{Kernel, []meta{{"device": "Tesla T4"}}, "Tesla T4 (sm_75): sageattn() runs no known kernel on sm_75"},
		{Kernel, []meta{{"arch": "hopper"}}, `metadata arch "hopper" is no architecture as in sm_90`},
		{Kernel, []meta{{"device": "NVIDIA H200", "arch": "sm_80"}}, `metadata device "NVIDIA H200" is sm_90, and metadata arch is sm_80`},
		{Kernel, []meta{{"device": "NVIDIA H200"}, {"device": "NVIDIA A100"}}, "f1: layer l1: --kernel auto: it is of sageattn@sm_80 (what sageattn() runs on NVIDIA A100 (sm_80)), and layer l0 of sageattn@sm_90"},
		{Kernel, []meta{{"device": "NVIDIA H200"}, nil}, "f1: layer l1"},
		{Kernel, nil, "no layer"},
		{Kernel, []meta{{"kernel": ""}}, "names no kernel"},
		{Kernel, []meta{{"kernel": "/etc/passwd.yaml"}}, "unknown kernel"},
		{Kernel, []meta{{"kernel": "fa2 --arch"}}, "--arch has no value"},
		{Kernel, []meta{{"kernel": "fa2 --jobs 3"}}, "unknown flag --jobs"},
		{Kernel, []meta{{"kernel": "sage2-4b --qk-bits 5"}}, "want 4 or 8"},
		{Kernel, []meta{{"kernel": "fa2 --set tiles.split=x"}}, "tiles.split"},
		{Kernel, []meta{{"device": "line\nbreak\x07" + strings.Repeat("x", 1000)}}, `"line break?xxx`},
	} {
		c, err := Choose(tc.name, dumpOf(tc.metadata...))
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.ContainsAny(err.Error(), "\n\x07") || len(err.Error()) > 600 {
			t.Errorf("%s of %v: %+v, %v; want %q", tc.name, tc.metadata, c, err, tc.want)
		}
	}
}

// TestArch: names as drivers give them.
func TestArch(t *testing.T) {
	for device, want := range map[string]string{
		"Tesla V100-SXM2-16GB": "sm_70", "Tesla T4": "sm_75", "Quadro RTX 5000": "sm_75", "NVIDIA GeForce RTX 2080 Ti": "sm_75",
		"NVIDIA A100-SXM4-80GB": "sm_80", "NVIDIA A100 80GB PCIe": "sm_80", "A100-PCIE-40GB": "sm_80", "NVIDIA A800-SXM4-80GB": "sm_80", "NVIDIA A30": "sm_80",
		"NVIDIA A10G": "sm_86", "NVIDIA A2": "sm_86", "NVIDIA RTX A6000": "sm_86", "NVIDIA RTX A500 Laptop GPU": "sm_86", "NVIDIA GeForce RTX 3060 Laptop GPU": "sm_86",
		"NVIDIA GeForce RTX 3090": "sm_86", "NVIDIA A40-48Q": "sm_86", "Orin": "sm_87",
		"NVIDIA L4": "sm_89", "NVIDIA L40S": "sm_89", "NVIDIA GeForce RTX 4090": "sm_89", "NVIDIA GeForce RTX 4090 D": "sm_89", "NVIDIA RTX 5000 Ada Generation": "sm_89",
		"NVIDIA RTX 4000 SFF Ada Generation": "sm_89", "NVIDIA RTX 1000 Ada Generation Laptop GPU": "sm_89",
		"NVIDIA H100 80GB HBM3": "sm_90", "NVIDIA H100 80GB HBM3 MIG 1g.10gb": "sm_90", "NVIDIA H200": "sm_90", "NVIDIA GH200 480GB": "sm_90", "NVIDIA H20": "sm_90",
		"NVIDIA B200": "sm_100", "NVIDIA GB200": "sm_100", "NVIDIA B300 SXM6 AC": "sm_103", "NVIDIA GeForce RTX 5090": "sm_120",
		"NVIDIA RTX PRO 6000 Blackwell Workstation Edition": "sm_120", "NVIDIA GB10": "sm_121",
		"cpu": "", "": "", "AMD Instinct MI300X": "", "NVIDIA A1000": "", "NVIDIA RTX 9090": "", "mps": "", "NVIDIA GeForce GTX 1080": "",
	} {
		if got := Arch(device); got != want {
			t.Errorf("%s is %q, want %q", device, got, want)
		}
	}
}

// FuzzChoose: whatever metadata says, there is a kernel or a line about it.
func FuzzChoose(f *testing.F) {
	f.Add("fa3 --set tiles.split=3", "sageattn(q)", "NVIDIA H200", "sm_90")
	f.Add("", "", "cpu", "sm_")
	f.Fuzz(func(t *testing.T, kernel, call, device, arch string) {
		for _, name := range Names() {
			c, err := Choose(name, dumpOf(meta{"kernel": kernel, "call": call, "device": device, "arch": arch}))
			if err == nil {
				_, err = c.Program()
				if err != nil || strings.Contains(c.Why, "\n") {
					t.Errorf("%+v, %v", c, err)
				}
			} else if strings.Contains(err.Error(), "\n") {
				t.Errorf("%q", err)
			}
		}
	})
}
