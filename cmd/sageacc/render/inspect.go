package render

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/sageacc/sageacc/cmd/sageacc/render/texttab"
	"github.com/sageacc/sageacc/layerdumps/inspect"
)

// InspectText writes the tensors of every layer as aligned text, each layer under
// a line of its own, with what is wrong with it below.
func InspectText(w io.Writer, r *inspect.Result) error {
	t := columns("  tensor", "shape", ">min", ">max", ">absmax", ">rms", ">bias", ">gain", "verdict")
	for i := range r.Layers {
		l := &r.Layers[i]
		for _, part := range []struct {
			name string
			*inspect.Tensor
		}{{"q", &l.Q}, {"k", &l.K}, {"v", &l.V}, {"o", l.O}, {"lse", l.LSE}} {
			if part.Tensor == nil {
				continue
			}
			const digits = 4
			s := part.Shape
			bias, gain := "", ""
			if s := part.Smoothing; s != nil && part.Shape[2] > 1 {
				bias, gain = general(s.BiasRatio, 3), general(s.StepGain, 3)
				if s.ChannelStepGain != nil { // V has a scale per channel
					gain = general(*s.ChannelStepGain, 3)
				}
			}
			shape := fmt.Sprintf("%dx%dx%dx%d", s[0], s[1], s[2], s[3])
			if part.DType != l.Q.DType {
				shape += " " + part.DType
			}
			t.Rows = append(t.Rows, []string{
				"  " + part.name, shape,
				general(part.Min, digits), general(part.Max, digits), general(part.AbsMax, digits), general(part.RMS, digits),
				bias, gain, part.Verdict,
			})
		}
	}
	// The table is one, so that its columns align through all layers; the
	// layers' own lines go between its rows.
	var b bytes.Buffer
	if err := t.Text(&b); err != nil {
		return err
	}
	rows := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	lines, rows := slices.Clone(rows[:2]), rows[2:]
	for i := range r.Layers {
		l := &r.Layers[i]
		lines = append(lines, layerLine(l))
		n := 3
		for _, more := range []*inspect.Tensor{l.O, l.LSE} {
			if more != nil {
				n++
			}
		}
		lines, rows = append(lines, rows[:n]...), rows[n:]
		for _, warning := range l.Warnings {
			lines = append(lines, "  ! "+shortened(warning, l.Name))
		}
	}
	if len(r.Ignored) > 0 {
		lines = append(lines, "", "ignored, because their names are not <layer>.q, .k, .v, .o, .lse, .mask, .q_descale and so on (--names says otherwise):")
		for _, t := range r.Ignored {
			lines = append(lines, fmt.Sprintf("  %s in %s", name(t.Name), texttab.Printable(t.File)))
		}
	}
	return list(w, lines)
}

func layerLine(l *inspect.Layer) string {
	mask := "not causal"
	if l.Causal {
		mask = "causal"
	}
	line := fmt.Sprintf("%s: %s, %s, sm_scale %s", name(l.Name), l.Q.DType, mask, general(l.SMScale, 6))
	for _, part := range l.Call.Parts() {
		line += ", " + part
	}
	if l.Synthetic != "" {
		line += " " + origin(l.Synthetic)
	}
	return line
}
