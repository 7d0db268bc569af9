package main

import (
	"fmt"
	"strings"

	"github.com/sageacc/sageacc/emulate/quant"
	"github.com/sageacc/sageacc/emulate/tensorcore"
)

// rows shows what the three rows of compare are.
func rows() (string, error) {
	c := newCanvas(720, 330, "Q, K and V of a layer go to three places: full precision, the emulated kernel, and the GPU. Three comparisons join their outputs.")
	box := func(x, y, w, h float64, fill, stroke, head string, lines ...string) {
		c.rect(x, y, w, h, fill, stroke, `rx="6"`)
		c.text(x+w/2, y+22, "middle", ink, head, bold)
		for i, l := range lines {
			c.text(x+w/2, y+40+16*float64(i), "middle", muted, l, small)
		}
	}
	box(20, 130, 120, 66, pale, line, "Q, K, V", "a layer of", "your model")
	for _, y := range []float64{55, 163, 271} {
		c.path([][2]float64{{140, 163}, {165, 163}, {165, y}, {190, y}}, muted, `stroke-width="1.5"`)
		c.path([][2]float64{{184, y - 4}, {190, y}, {184, y + 4}}, muted, `stroke-width="1.5"`)
	}
	box(190, 22, 190, 66, "#ffffff", ink, "reference", "full precision, FP32 or FP64", "what attention should be")
	box(190, 130, 190, 66, "#ffffff", blue, "emulated", "the kernel, bit for bit", "on a CPU")
	box(190, 238, 190, 66, "#ffffff", red, "actual", "what a GPU returned", "if the dump has it")
	arc := func(x, y0, y1 float64, stroke string) {
		c.path([][2]float64{{380, y0}, {x, y0}, {x, y1}, {380, y1}}, stroke, `stroke-width="2"`)
	}
	arc(420, 42, 150, blue)
	arc(420, 176, 284, ink)
	arc(400, 68, 258, red)
	say := func(y float64, fill, head string, lines ...string) {
		c.text(436, y, "start", fill, head, bold)
		for i, l := range lines {
			c.text(436, y+17+16*float64(i), "start", muted, l, small)
		}
	}
	say(72, blue, "emulated vs reference", "what the kernel costs on this layer")
	say(150, red, "actual vs reference", "what your output costs;", "this needs no trust in the emulator")
	say(226, ink, "actual vs emulated", "whether the kernel computes what it should,", "bit by bit")
	return c.String(), nil
}

// fp22 shows the formats, and how a matrix unit adds.
func fp22() (string, error) {
	c := newCanvas(720, 420, "Bits of the formats, and the alignment of terms in an FP22 accumulator: what lies below 13 fraction bits of the largest term is cut off.")
	c.text(20, 30, "start", ink, "Formats", bold)
	cell := 13.0
	for i, f := range []struct {
		name           string
		exponent, frac int
		cut            int
	}{{"FP32", 8, 23, 0}, {"FP22", 8, 13, 10}, {"BF16", 8, 7, 0}, {"FP16", 5, 10, 0}, {"E5M2", 5, 2, 0}, {"E4M3", 4, 3, 0}} {
		y := 44 + 22*float64(i)
		c.text(70, y+12, "end", ink, f.name)
		x := 80.0
		bit := func(n int, fill, stroke string, more ...string) {
			for range n {
				c.rect(x, y, cell, 15, fill, stroke, more...)
				x += cell
			}
		}
		bit(1, "#e4b9a4", "#ffffff")
		bit(f.exponent, "#b9d2ea", "#ffffff")
		bit(f.frac, "#a9d8cb", "#ffffff")
		bit(f.cut, "#ffffff", line, `stroke-dasharray="2 2"`)
	}
	key := func(x, y float64, fill, s string) {
		c.rect(x, y, 13, 13, fill, line)
		c.text(x+19, y+11, "start", muted, s, small)
	}
	key(540, 46, "#e4b9a4", "sign")
	key(540, 66, "#b9d2ea", "exponent")
	key(540, 86, "#a9d8cb", "fraction")
	key(540, 106, "#ffffff", "cut off toward zero")

	// A sum, as the unit makes it: the terms are products of E4M3 values.
	c.text(20, 206, "start", ink, "A sum in the matrix unit of sm_90 (FP8 inputs)", bold)
	const F = 13
	type term struct {
		what string
		a, b float32
	}
	terms := []term{{"so far", 1234.625, 1}, {"0.875 × 1.875", 0.875, 1.875}, {"0.1015625 × 3.25", 0.1015625, 3.25}, {"0.017578125 × 0.4375", 0.017578125, 0.4375}}
	u, err := tensorcore.Lookup(tensorcore.SM90, "wgmma.m64nNk32.f32.e4m3")
	if err != nil {
		return "", err
	}
	a, b := make([]uint32, u.K), make([]uint32, u.K)
	exact := float64(terms[0].a)
	sum := 0.0 // of the terms as they are cut
	const top = 10
	x0 := 216.0
	bits := func(y float64, v float64, fill string) {
		// From 2^top down to 2^-16; v is a multiple of that.
		n := uint64(v * (1 << 16))
		for k := range top + 17 {
			at := top - k
			x := x0 + 17*float64(k)
			if at < 0 {
				x += 8
			}
			one := n>>(at+16)&1 == 1
			ch, colour := "0", "#b7bbc2"
			if one || n>>(at+16) != 0 {
				colour = fill
			}
			if one {
				ch = "1"
			}
			if at < top-F {
				colour = red
				if !one && n>>(at+16) == 0 {
					colour = "#e3b7a5"
				}
			}
			c.text(x, y, "middle", colour, ch, mono)
		}
	}
	cutX := x0 + 17*float64(F) + 8 + 9
	c.rect(cutX, 218, 17*float64(16-F+top)+4, 116, "#fdf3ee", "none")
	c.line(cutX, 214, cutX, 364, red, `stroke-dasharray="4 3"`)
	for i, t := range terms {
		y := 236 + 26*float64(i)
		v := float64(t.a) * float64(t.b)
		if i > 0 {
			ca, cb := quant.E4M3.Encode(t.a), quant.E4M3.Encode(t.b)
			if quant.E4M3.Decode(ca) != t.a || quant.E4M3.Decode(cb) != t.b {
				return "", fmt.Errorf("%g or %g is no E4M3 value", t.a, t.b)
			}
			a[i], b[i] = uint32(ca), uint32(cb)
			exact += v
		}
		c.text(206, y, "end", ink, t.what)
		bits(y, v, ink)
		const unit = 1 << (F - top)
		sum += float64(int64(v*unit)) / unit
	}
	got := float64(floatOf(u.Dot(bitsOf(terms[0].a), a, b)))
	if got != sum {
		return "", fmt.Errorf("the unit gives %v, the picture %v", got, sum)
	}
	c.line(x0-10, 322, x0+17*float64(top+17)+4, 322, line)
	c.text(206, 344, "end", ink, "sum", bold)
	bits(344, got, blue)
	c.text(20, 378, "start", muted, fmt.Sprintf("All terms are cut at %d fraction bits of the largest, 2^%d, before they are added: %s instead of %s.", F, top, trim(got), trim(exact)), small)
	c.text(20, 398, "start", muted, "The last product is lost altogether. The larger the sum so far, the more of the next products goes.", small)
	return c.String(), nil
}

func trim(x float64) string {
	return strings.TrimRight(strings.TrimRight(fmt.Sprintf("%.9f", x), "0"), ".")
}

// granularity shows which rows share a scale.
func granularity() (string, error) {
	t := quant.Tiling{BlockQ: 128, BlockK: 64, WarpQ: 32}
	c := newCanvas(720, 330, "Rows of queries and of keys that share a scale, at five granularities, in a tile of the mma.sync kernels.")
	c.text(20, 28, "start", ink, "Rows that share a scale have one colour", bold)
	const q, k = 130.0, 490.0
	c.text(q, 52, "start", muted, "a tile of 128 rows of queries, 32 of each warp", small)
	c.text(k, 52, "start", muted, "a tile of 64 rows of keys", small)
	for i, g := range []quant.Granularity{quant.PerTensor, quant.PerBlock, quant.PerWarp, quant.PerThread, quant.PerToken} {
		y := 62 + 46*float64(i)
		c.text(q-10, y+19, "end", ink, g.String())
		strip := func(x, each float64, n, groups int, group func(int) int) {
			for from := 0; from < n; {
				to := from + 1
				for to < n && group(to) == group(from) {
					to++
				}
				// Hues all around, so that neighbours in number are alike and no two the same.
				fill := fmt.Sprintf("hsl(%d 55%% %d%%)", (210+300*group(from)/groups)%360, 48+16*(group(from)%2))
				c.rect(x+each*float64(from), y, each*float64(to-from), 26, fill, "none", `shape-rendering="crispEdges"`)
				from = to
			}
			what := fmt.Sprintf("%d scales a tile", groups)
			switch {
			case g == quant.PerTensor:
				what = "1 scale for all tiles of a head"
			case groups == 1:
				what = "1 scale a tile"
			}
			c.text(x, y+38, "start", muted, what, `font-size="10.5"`)
		}
		strip(q, 2.5, 128, g.QueryGroups(t, 128), func(r int) int { return g.QueryGroup(t, r) })
		strip(k, 3.25, 64, g.KeyGroups(t, 64), func(r int) int { return g.KeyGroup(t, r) })
	}
	for w := range 5 {
		c.line(q+80*float64(w), 58, q+80*float64(w), 276, ink, `stroke-width="0.5" stroke-dasharray="2 3"`)
	}
	c.text(20, 312, "start", muted, "A thread of the GPU holds every eighth row of its warp's queries: a scale for these costs no exchange between threads.", small)
	return c.String(), nil
}

// attribution shows what is taken as exact in which run.
func attribution() (string, error) {
	names := []string{"Q, K codes", "P codes", "V codes", "accumulator", "exp2", "output"}
	c := newCanvas(720, 70+26*float64(2+len(names)), "The runs of compare --attribute: each step of the kernel alone with all others exact, and all with that step exact.")
	c.text(190, 28, "start", ink, "a run with the step alone", bold)
	c.text(440, 28, "start", ink, "a run without the step", bold)
	cell := func(x, y float64, taken bool) {
		if taken {
			c.rect(x, y, 24, 18, blue, "#ffffff", `rx="2"`)
		} else {
			c.rect(x, y, 24, 18, pale, "#ffffff", `rx="2"`)
		}
	}
	for i, n := range names {
		y := 42 + 26*float64(i)
		c.text(176, y+14, "end", ink, n)
		for k := range names {
			cell(190+28*float64(k), y, k == i)
			cell(440+28*float64(k), y, k != i)
		}
	}
	y := 42 + 26*float64(len(names))
	for k := range names {
		c.text(202+28*float64(k), y+16, "middle", muted, fmt.Sprint(k+1), small)
		c.text(452+28*float64(k), y+16, "middle", muted, fmt.Sprint(k+1), small)
	}
	c.text(176, y+16, "end", muted, "steps in the run", small)
	cell(190, y+30, true)
	c.text(222, y+44, "start", muted, "as the kernel does it", small)
	cell(370, y+30, false)
	c.text(402, y+44, "start", muted, "exact", small)
	return c.String(), nil
}
