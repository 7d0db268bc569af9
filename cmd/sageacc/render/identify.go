package render

import (
	"io"

	"github.com/sageacc/sageacc/cmd/sageacc/render/texttab"
	"github.com/sageacc/sageacc/compare/identify"
)

// IdentifyText writes the verdict, and below it what was found of each layer.
func IdentifyText(w io.Writer, r *identify.Result) error {
	lines := append([]string(nil), r.Verdict...)
	for i := range r.Layers {
		l := &r.Layers[i]
		lines = append(lines, "", texttab.Shorten(l.Name, 64)+":")
		for _, x := range l.Lines() {
			lines = append(lines, "  "+x)
		}
	}
	return list(w, lines)
}
