package conformance

import (
	"cmp"
	"slices"
	"strings"
)

// Evidence is what a run says of one unit on one device.
type Evidence struct {
	Op     string `json:"op"`
	Unit   string `json:"unit"`
	Arch   string `json:"arch"`
	Device string `json:"device"`
	// Cases and Results count the cases checked and their elements; Differing the
	// elements whose bits differ. Skipped cases are those without a model.
	Cases     int   `json:"cases"`
	Skipped   int   `json:"skipped,omitempty"`
	Results   int64 `json:"results"`
	Differing int64 `json:"differing"`
}

// ByUnit sums a report by unit, architecture and device, in that order. A unit is
// an instruction, or a kernel with what was expected of it: its output, its
// log-sum-exp or its quantised tensors.
func (r *Report) ByUnit() []Evidence {
	type key struct{ op, unit, arch, device string }
	sums := map[key]*Evidence{}
	for _, c := range r.Cases {
		unit := c.Unit
		if c.Op == "attention" {
			part, rest, _ := strings.Cut(c.Expect, "/")
			unit += " " + map[string]string{"lse": "log-sum-exp (API)", "lse_raw": "log-sum-exp (kernel)"}[part]
			if part == "o" {
				// o/causal/kernel/granularity/accumulator[/smooth-v]...
				if f := strings.Split(rest, "/"); len(f) > 2 {
					unit += strings.Join(f[2:], " ")
				}
			}
		}
		k := key{c.Op, strings.TrimSpace(unit), c.Arch, c.Device}
		e := sums[k]
		if e == nil {
			e = &Evidence{Op: k.op, Unit: k.unit, Arch: k.arch, Device: k.device}
			sums[k] = e
		}
		if c.Status == Skip {
			e.Skipped++
			continue
		}
		e.Cases++
		e.Results += c.Elements
		e.Differing += c.Mismatched
	}
	var out []Evidence
	for _, e := range sums {
		out = append(out, *e)
	}
	slices.SortFunc(out, func(a, b Evidence) int {
		return cmp.Or(cmp.Compare(a.Op, b.Op), cmp.Compare(a.Unit, b.Unit), cmp.Compare(a.Arch, b.Arch), cmp.Compare(a.Device, b.Device))
	})
	return out
}
