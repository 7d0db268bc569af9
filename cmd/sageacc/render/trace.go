package render

import (
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/sageacc/sageacc/cmd/sageacc/render/texttab"
	"github.com/sageacc/sageacc/compare/trace"
	"github.com/sageacc/sageacc/internal/jsonfloat"
)

// TraceText writes what happens to a row as aligned text: the softmax tile by tile,
// the sums of the given channels, every key of the tiles of the given numbers, and the
// output. Channels are in range; tiles that the row has not are passed over.
func TraceText(w io.Writer, r *trace.Row, channels, tiles []int) error {
	mask := "not causal"
	if r.Causal {
		mask = "causal"
	}
	row := fmt.Sprintf("%s: batch %d, head %d (kv head %d), row %d of %d; %s, %s, sm_scale %s",
		name(r.Layer), r.Batch, r.Head, r.KVHead, r.Row, r.Shape.Queries, r.Shape.DType, mask, general(jsonfloat.Float(r.SMScale), 6))
	for _, part := range r.Call.Parts() {
		row += ", " + part
	}
	if r.Synthetic != "" {
		row += " " + origin(r.Synthetic)
	}
	head := append(kernelHead(r.Kernel), pair{"row", texttab.Printable(row)})
	if len(r.Tiles) > 0 {
		head = append(head, pair{"q scale", single(r.QScale)})
	}
	for _, p := range head {
		if _, err := fmt.Fprintf(w, "%-9s  %s\n", p.key, p.value); err != nil {
			return err
		}
	}

	if len(r.Tiles) == 0 {
		if _, err := fmt.Fprintln(w, "\nThe row's block runs no tile of keys."); err != nil {
			return err
		}
		return endText(w, r, channels)
	}
	if err := softmaxText(w, r); err != nil {
		return err
	}
	if err := sumsText(w, r, channels); err != nil {
		return err
	}
	for _, n := range tiles {
		for i := range r.Tiles {
			if r.Tiles[i].Index != n {
				continue
			}
			if err := keysText(w, &r.Tiles[i], r.Call == nil || r.Call.Window == nil && r.Call.Mask == nil); err != nil {
				return err
			}
		}
	}
	return endText(w, r, channels)
}

// section writes the line above a table.
func section(w io.Writer, title string) error {
	_, err := fmt.Fprintf(w, "\n%s\n\n", title)
	return err
}

// softmaxText writes the softmax tile by tile.
func softmaxText(w io.Writer, r *trace.Row) error {
	if err := section(w, "Softmax, base 2: the row maximum m (of most kernels less P~'s offset), 2^(m_old - m), d of the row's four threads, and the largest P~."); err != nil {
		return err
	}
	t := columns(">tile", ">keys", ">visible", ">m", ">rescale", ">d0", ">d1", ">d2", ">d3", ">P~", ">of key")
	for _, x := range r.Tiles {
		cells := []string{strconv.Itoa(x.Index), fmt.Sprintf("%d-%d", x.Key, x.Key+x.Keys-1), strconv.Itoa(x.Visible), single(x.RowMax), single(x.Rescale)}
		for _, d := range x.Denominators {
			cells = append(cells, single(d))
		}
		top := 0
		for i, p := range x.P {
			if p > x.P[top] || p != p {
				top = i
			}
		}
		t.Rows = append(t.Rows, append(cells, single(x.P[top]), strconv.Itoa(x.Key+top)))
	}
	return t.Text(w)
}

// sumsText writes the sums of the given channels, tile by tile.
func sumsText(w io.Writer, r *trace.Row, channels []int) error {
	if err := section(w, "O after each tile, in units of V's scale and not yet divided, and the tile's own P~V where the accumulator has two levels."); err != nil {
		return err
	}
	var heads []string
	if r.Tiles[0].TileSums != nil {
		for _, c := range channels {
			heads = append(heads, fmt.Sprintf(">P~V[%d]", c))
		}
	}
	for _, c := range channels {
		heads = append(heads, fmt.Sprintf(">O[%d]", c))
	}
	t := columns(append([]string{">tile"}, heads...)...)
	for _, x := range r.Tiles {
		cells := []string{strconv.Itoa(x.Index)}
		for _, values := range [][]jsonfloat.Float32{x.TileSums, x.Output} {
			if values == nil {
				continue
			}
			for _, c := range channels {
				cells = append(cells, single(values[c]))
			}
		}
		t.Rows = append(t.Rows, cells)
	}
	return t.Text(w)
}

// keysText writes every key of a tile. Where the row sees the tile's first keys, inOrder, it
// says which are masked; with a window or a mask those may be any.
func keysText(w io.Writer, x *trace.Tile, inOrder bool) error {
	if err := section(w, fmt.Sprintf("Tile %d, key by key.", x.Index)); err != nil {
		return err
	}
	heads := []string{">key", ">int score", ">P~", "code", ">value"}
	if x.IntScores == nil {
		heads = slices.Delete(heads, 1, 2)
	}
	t := columns(heads...)
	for k := range x.P {
		note := ""
		if inOrder && k >= x.Visible {
			note = "masked"
		}
		cells := []string{strconv.Itoa(x.Key + k)}
		if x.IntScores != nil {
			cells = append(cells, strconv.Itoa(int(x.IntScores[k])))
		}
		t.Rows = append(t.Rows, append(cells, single(x.P[k]), fmt.Sprintf("0x%02x", x.PCodes[k]), single(x.PDecoded[k]), note))
	}
	if slices.ContainsFunc(t.Rows, func(row []string) bool { return row[len(row)-1] != "" }) {
		t.Header = append(t.Header, "")
	} else {
		for i := range t.Rows {
			t.Rows[i] = t.Rows[i][:len(t.Header)]
		}
	}
	return t.Text(w)
}

// endText writes what becomes of the row after the last tile.
func endText(w io.Writer, r *trace.Row, channels []int) error {
	lse := "base-2 log-sum-exp " + single(r.LSE)
	if r.Kernel.Description.LSE.Form == "none" {
		lse = "no log-sum-exp"
	}
	if err := section(w, fmt.Sprintf("The row's end: d = %s, 1/d = %s, %s.", single(r.Denominator), single(r.Reciprocal), lse)); err != nil {
		return err
	}
	t := columns(">channel", ">O", ">output", "bits")
	if r.Actual != nil {
		t = columns(">channel", ">O", ">output", "bits", ">actual", "bits")
	}
	for _, c := range channels {
		last := "-"
		if n := len(r.Tiles); n > 0 {
			last = single(r.Tiles[n-1].Output[c])
		}
		cells := []string{strconv.Itoa(c), last, single(r.Output[c]), r.OutputBits[c]}
		if r.Actual != nil {
			cells = append(cells, single(r.Actual[c]), r.ActualBits[c])
		}
		t.Rows = append(t.Rows, cells)
	}
	return t.Text(w)
}

// single writes a float32 so that it reads back as the same.
func single(x jsonfloat.Float32) string { return strconv.FormatFloat(float64(x), 'g', -1, 32) }
