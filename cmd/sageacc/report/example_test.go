package report_test

import (
	"bytes"
	"fmt"
	"log"
	"strings"

	"github.com/sageacc/sageacc/cmd/sageacc/report"
)

// A page of what sageacc compare --format json wrote.
func Example() {
	const result = `{
		"schema": "sageacc/compare/v1",
		"kernel": {"name": "sage2-4b", "arch": "sm_89"},
		"layers": [
			{"name": "layers.0.attn", "emulated_vs_reference": {"cos_sim": 0.9963, "rel_l1": 0.0851, "rmse": 0.00635}},
			{"name": "layers.1.attn", "emulated_vs_reference": {"cos_sim": 0.9930, "rel_l1": 0.1015, "rmse": 0.04785}}
		]
	}`
	in, err := report.Read(strings.NewReader(result))
	if err != nil {
		log.Fatal(err)
	}
	var page bytes.Buffer
	if err := report.Write(&page, in); err != nil {
		log.Fatal(err)
	}
	for line := range strings.Lines(page.String()) {
		if strings.Contains(line, `<li class="note">`) {
			fmt.Print(line)
		}
	}
	// Output:
	// <li class="note"><span>Against full precision the emulated kernel has, on average over 2 layers, a cosine similarity of 0.994650, a relative L1 error of 0.09330 and an RMSE of 0.02710.</span></li>
	// <li class="note"><span>The worst is, with a cosine similarity of 0.993000 and a relative L1 error of 0.1015, <a href="#layer-2">layers.1.attn</a></span></li>
	// <li class="note"><span>There is no actual output of a GPU to compare with.</span></li>
}
