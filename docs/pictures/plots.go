package main

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/quant"
	"github.com/sageacc/sageacc/emulate/tensorcore"
	"github.com/sageacc/sageacc/internal/strictmath"
)

func bitsOf(x float32) uint32  { return math.Float32bits(x) }
func floatOf(b uint32) float32 { return math.Float32frombits(b) }

// levels shows what accumulators do to a long sum: the error of one element of P~V by
// the number of keys.
func levels() (string, error) {
	const (
		from, to = 7, 15 // keys, as powers of two
		tile     = 128
		runs     = 24
	)
	type kind struct {
		name, fill  string
		instruction string
		two         bool
		scale       float32 // of V, so that FP16 holds a tile
	}
	kinds := []kind{
		{"fp32: FP22 all along", red, "wgmma.m64nNk32.f32.e4m3", false, 1},
		{"fp32+fp16: a tile in FP16, tiles in FP32", green, "mma.m16n8k32.f16.e4m3", true, 2.25 / 448},
		{"fp32+fp32: a tile in FP22, tiles in FP32", blue, "wgmma.m64nNk32.f32.e4m3", true, 1},
	}
	errors := make([][]float64, len(kinds))
	for i, k := range kinds {
		arch := tensorcore.SM90
		if k.scale != 1 {
			arch = tensorcore.SM89
		}
		u, err := tensorcore.Lookup(arch, k.instruction)
		if err != nil {
			return "", err
		}
		sums := make([]float64, to-from+1)
		for run := range runs {
			rnd := rand.New(rand.NewPCG(uint64(run), 7))
			var acc, tiled uint32
			var o float32
			exact := 0.0
			a, b := make([]uint32, u.K), make([]uint32, u.K)
			next := from
			for key := 0; key < 1<<to; key += u.K {
				for j := range u.K {
					// A probability as of flat rows, and a value of a channel that is mostly
					// of one sign.
					p := float32(300 + float64(148*float64(rnd.Float64())))
					v := float32(float64(150+float64(100*rnd.NormFloat64())) * float64(k.scale))
					ca, cb := quant.E4M3.Encode(p), quant.E4M3.Encode(v)
					a[j], b[j] = uint32(ca), uint32(cb)
					exact += float64(float64(quant.E4M3.Decode(ca)) * float64(quant.E4M3.Decode(cb)))
				}
				if k.two {
					tiled = u.Dot(tiled, a, b)
					if (key+u.K)%tile == 0 {
						t := floatOf(tiled)
						if u.C == tensorcore.FP16 {
							t = format.FP16ToFloat32(uint16(tiled))
						}
						o, tiled = o+t, 0
					}
				} else {
					acc = u.Dot(acc, a, b)
					o = floatOf(acc)
				}
				if key+u.K == 1<<next {
					e := (float64(o) - exact) / exact
					sums[next-from] += float64(e * e)
					next++
				}
			}
		}
		for _, s := range sums {
			errors[i] = append(errors[i], math.Sqrt(s/runs))
		}
	}
	c := newCanvas(720, 350, "Relative error of a long sum by the number of keys: in one FP22 accumulator it grows, in two levels it does not.")
	const left, right, top, bottom = 90.0, 440.0, 48.0, 280.0
	c.text(20, 28, "start", ink, "Relative error of an element of P~V, sums of one sign", bold)
	const lo, hi = -5.0, 0.0
	log10 := func(x float64) float64 { return strictmath.Log(x) / strictmath.Log(10) }
	py := func(e float64) float64 {
		return bottom - float64((min(max(log10(e), lo), hi)-lo)/(hi-lo)*(bottom-top))
	}
	px := func(i int) float64 { return left + float64(float64(i)/float64(to-from)*(right-left)) }
	for e := lo; e <= hi; e++ {
		y := bottom - float64((e-lo)/(hi-lo)*(bottom-top))
		c.line(left, y, right, y, "#e6e6e3")
		c.text(left-8, y+4, "end", muted, short(e), small)
	}
	for i := range to - from + 1 {
		c.text(px(i), bottom+18, "middle", muted, fmt.Sprint(1<<(from+i)), small)
	}
	c.text((left+right)/2, bottom+38, "middle", muted, "keys", small)
	for i, k := range kinds {
		var points [][2]float64
		for j, e := range errors[i] {
			points = append(points, [2]float64{px(j), py(e)})
			c.dot(px(j), py(e), 3, k.fill)
		}
		c.path(points, k.fill, `stroke-width="1.75"`)
		y := py(errors[i][len(errors[i])-1])
		if i == 1 {
			y -= 16 // the two that end together
		}
		c.text(right+12, y+4, "start", k.fill, k.name, small)
	}
	c.text(20, 338, "start", muted, fmt.Sprintf("Computed with the emulated units, %d sums each: probabilities 300 to 448, values 150 ± 100, tiles of %d keys.", runs, tile), small)
	return c.String(), nil
}

// short writes a power of ten.
func short(e float64) string {
	switch {
	case e == 0:
		return "1"
	case e >= -3:
		return fmt.Sprintf("%g", []float64{0.1, 0.01, 0.001}[int(-e)-1])
	}
	return fmt.Sprintf("1e%g", e)
}

// smoothing shows INT4 codes of two channels of K, as they are and with the mean taken
// off.
func smoothing() (string, error) {
	const tokens = 36
	rnd := rand.New(rand.NewPCG(4, 2))
	var k [2][]float32
	for range tokens {
		k[0] = append(k[0], float32(6.2+rnd.NormFloat64()))
		k[1] = append(k[1], float32(rnd.NormFloat64()))
	}
	means := [2]float32{}
	for ch := range k {
		m := quant.NewChannelMean(1)
		m.Add(k[ch])
		var dst [1]float32
		m.Mean(dst[:], func(x float32) float32 { return x })
		means[ch] = dst[0]
	}
	c := newCanvas(720, 350, "INT4 codes of two channels of K: a bias that all tokens share makes the step coarse; without it the step is finer.")
	const top, bottom = 62.0, 292.0
	panel := func(x float64, head string, off [2]float32) {
		amax := float32(0)
		for ch := range k {
			for _, v := range k[ch] {
				amax = quant.AbsMax(amax, []float32{v - off[ch]})
			}
		}
		s := quant.NewScale(quant.Paper, 4, amax)
		c.text(x, 28, "start", ink, head, bold)
		c.text(x, 46, "start", muted, fmt.Sprintf("largest %.2f, so a step of %.2f", amax, s.Step), small)
		const span = 9.0
		py := func(v float64) float64 { return (top+bottom)/2 - float64(v/span*(bottom-top)/2) }
		used := [2]map[int]bool{{}, {}}
		for code := -7; code <= 7; code++ {
			if v := float64(float32(code) * s.Step); v >= -span && v <= span {
				c.line(x, py(v), x+270, py(v), "#d9dce0", `stroke-dasharray="3 3"`)
				if float64(s.Step)/span*(bottom-top)/2 > 10 || code%7 == 0 {
					c.text(x+276, py(v)+4, "start", muted, fmt.Sprint(code), `font-size="10"`)
				}
			}
		}
		for ch := range k {
			fill := []string{red, blue}[ch]
			for i, v := range k[ch] {
				v -= off[ch]
				var codes [1]int8
				s.Quantize(codes[:], []float32{v})
				code := int(codes[0])
				used[ch][code] = true
				px := x + 10 + float64(135*float64(ch)) + float64(3.2*float64(i))
				c.line(px, py(float64(v)), px, py(float64(float32(code)*s.Step)), fill, `stroke-width="0.75" opacity="0.6"`)
				c.dot(px, py(float64(v)), 2.4, fill)
			}
			c.text(x+10+float64(135*float64(ch)), bottom+20, "start", fill, []string{"a channel with a bias", "another channel"}[ch], small)
			c.text(x+10+float64(135*float64(ch)), bottom+36, "start", muted, fmt.Sprintf("%d of 15 codes used", len(used[ch])), small)
		}
	}
	panel(20, "K as it is", [2]float32{})
	panel(380, "K less its mean over the tokens", means)
	return c.String(), nil
}
