package render

import (
	"fmt"
	"io"
	"strings"

	"github.com/sageacc/sageacc/cmd/sageacc/render/texttab"
	"github.com/sageacc/sageacc/compare/recommend"
)

// RecommendText writes the choice for each layer and how often each was made.
func RecommendText(w io.Writer, r *recommend.Result) error {
	if err := recommendTable(r).Text(w); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%s\n", choices(r))
	return err
}

// RecommendMarkdown is RecommendText in GitHub Flavored Markdown.
func RecommendMarkdown(w io.Writer, r *recommend.Result) error {
	if err := recommendTable(r).Markdown(w); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%s\n", choices(r))
	return err
}

func recommendTable(r *recommend.Result) *texttab.Table {
	heads := []string{"layer", "choice"}
	for _, k := range r.Kernels {
		heads = append(heads, ">"+k+": cos_sim", ">rel_l1", ">rmse")
	}
	t := columns(heads...)
	for _, l := range r.Layers {
		layer := name(l.Name)
		if l.Synthetic != "" {
			layer += " " + origin(l.Synthetic)
		}
		cells := []string{layer, l.Kernel}
		for _, v := range l.Figures {
			cells = append(cells, cosine(v.CosSim), relative(v.RelL1), absolute(v.RMSE))
		}
		t.Rows = append(t.Rows, cells)
	}
	return &t
}

// choices says how many layers each kernel got.
func choices(r *recommend.Result) string {
	var parts []string
	for _, k := range append(append([]string{}, r.Kernels...), recommend.FP16) {
		if n := r.Counts[k]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, k))
		}
	}
	return fmt.Sprintf("%s: %s", strings.Join(r.Require, " and "), strings.Join(parts, ", "))
}
