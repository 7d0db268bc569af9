package render

import (
	"fmt"
	"io"

	"github.com/sageacc/sageacc/cmd/sageacc/bench"
)

// BenchSchema is the version of Bench's JSON form.
const BenchSchema = "sageacc/bench/v1"

// Bench is a set of measurements of speed.
type Bench struct {
	Schema string      `json:"schema"`
	Rows   []bench.Row `json:"rows"`
}

// Text writes the measurements as aligned text.
func (b Bench) Text(w io.Writer) error {
	if len(b.Rows) > 0 {
		r := b.Rows[0]
		mask := ""
		if r.Causal {
			mask = ", causal"
		}
		if _, err := fmt.Fprintf(w, "heads of %d tokens x %d%s, %d goroutines; seconds of one\n\n", r.Tokens, r.HeadDim, mask, r.Jobs); err != nil {
			return err
		}
	}
	t := columns("what", "vectors", ">seconds", ">GMAC/s", ">runs")
	for _, r := range b.Rows {
		t.Rows = append(t.Rows, []string{r.Name, r.Level, fmt.Sprintf("%.3f", r.Seconds), fmt.Sprintf("%.1f", r.GMACs), fmt.Sprint(r.Runs)})
	}
	return t.Text(w)
}
