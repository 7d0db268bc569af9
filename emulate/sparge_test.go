package emulate

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/program"
)

// spargeCall invents a call of sparge-sm90 with a block map: the scores of some tiles lie far
// below those of others, so that a threshold passes over them.
func spargeCall(r *rand.Rand, nq, nk, d int, dtype format.DType, size float64) *call {
	h := &call{nq: nq, nk: nk, d: d, dtype: dtype}
	away := make([]float64, d)
	for c := range away {
		away[c] = r.NormFloat64()
	}
	draw := func(n, tile int) []float32 {
		x := make([]float32, n*d)
		for i := range x {
			x[i] = float32(size * r.NormFloat64())
			if tile > 0 {
				x[i] += float32(size * away[i%d] * float64(i/d/tile%3-1))
			} else {
				x[i] += float32(size * away[i%d])
			}
			x[i] = dtype.Round(x[i])
		}
		return x
	}
	h.q, h.k, h.v = draw(nq, 0), draw(nk, 128), draw(nk, 0)
	h.in = QInput{Q: slicesOf(h.q, d), Len: nq}
	h.kIn = KVInput{K: slicesOf(h.k, d), V: slicesOf(h.v, d), Len: nk, Dim: d, DType: dtype}
	blocks, tiles := (nq+63)/64, (nk+127)/128
	list := make([]bool, blocks*tiles)
	for b := range blocks {
		row := list[b*tiles : (b+1)*tiles]
		for i := range row {
			row[i] = r.IntN(3) > 0
		}
		row[r.IntN(tiles)] = true
	}
	h.in.Listed = func(block, lo, hi int, dst []bool) { copy(dst, list[block*tiles+lo:block*tiles+hi]) }
	return h
}

// spargeWith is sparge-sm90 with a threshold.
func spargeWith(t *testing.T, threshold string) program.Program {
	t.Helper()
	p, err := program.Preset("sparge-sm90")
	if err == nil {
		err = p.Set("pv.threshold", threshold)
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestSparge holds the interpreter to the second reading on sparge-sm90, every row, with its
// threshold and with ones that pass over many tiles.
func TestSparge(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 90))
	for _, threshold := range []string{"50", "0.25", "3"} {
		p := spargeWith(t, threshold)
		for _, shape := range [][3]int{{64, 128, 64}, {128, 640, 8}, {70, 300, 8}} {
			if testing.Short() && shape[1] > 500 {
				continue
			}
			h := spargeCall(r, shape[0], shape[1], shape[2], []format.DType{format.FP16, format.BF16}[r.IntN(2)], pick(r, []float64{1, 2}))
			got, k, kv := agree(t, p, h, fmt.Sprintf("threshold %s, %v of %s", threshold, shape, h.dtype), r.IntN(h.nq))
			if k.Portable() == "" {
				t.Fatal("the strips take it")
			}
			h.checkAlone(t, k, kv, &got, t.Errorf)
		}
		q := p
		q.PV.Threshold = 0
		whole, ragged := 0, 0 // heads in which the threshold matters
		for range 6 {
			for _, nq := range []int{64, 63} {
				h := spargeCall(r, nq, 900, 16, format.FP16, 1)
				h.in.Scale = 0.5
				got, _, _ := runCall(t, p, Levels()[0], h)
				if other, _, _ := runCall(t, q, Levels()[0], h); got.differs(&other) == "" {
					continue
				}
				if nq == 64 {
					whole++
				} else {
					ragged++
				}
			}
		}
		// The scores of a row behind the last query are all its maximum.
		if ragged > 0 || (whole == 0) != (threshold == "50") {
			t.Errorf("threshold %s matters in %d of 6 whole blocks and %d with rows behind the last", threshold, whole, ragged)
		}
	}
}

// TestSpargeChoices: each of the choices that sparge-sm90 alone has matters to its output.
func TestSpargeChoices(t *testing.T) {
	p, err := program.Preset("sparge-sm90")
	if err == nil {
		err = p.Set("finish.round", "none") // so that every last bit is seen
	}
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(10, 100))
	h := spargeCall(r, 192, 1150, 16, format.BF16, 1)
	// The maximum grows a little from tile to tile.
	for i := range h.k {
		h.k[i] = format.RoundBF16(h.k[i] * (1 + 0.1*float32(i/h.d/128)))
	}
	// BF16 has numbers that FP16 rounds.
	for i := range h.v {
		h.v[i] = format.RoundBF16(h.v[i] * 1e-6)
	}
	want, _, _ := runCall(t, p, Levels()[0], h)
	for _, change := range []string{"maximum.of=shifted", "denominator.rescale=multiply", "pv.join=fma", "denominator.rescale=fma", "pv.join=twice", "pv.threshold=0.1", "v_codes.cast="} {
		q := p
		path, value, _ := strings.Cut(change, "=")
		if path == "v_codes.cast" {
			q.VCodes.Cast = ""
		} else if err := q.Set(path, value); err != nil {
			t.Fatal(err)
		}
		if path == "maximum.of" {
			q.PV.Threshold = 0
		}
		if got, _, _ := runCall(t, q, Levels()[0], h); fmt.Sprint(got.out) == fmt.Sprint(want.out) {
			t.Errorf("%s changes nothing", change)
		}
	}
	dense := *h
	dense.in.Listed = nil
	if got, _, _ := runCall(t, p, Levels()[0], &dense); slices.Equal(got.out, want.out) {
		t.Error("the block map changes nothing")
	}
	all := *h
	all.in.Listed = func(_, lo, hi int, dst []bool) {
		for i := range dst[:hi-lo] {
			dst[i] = true
		}
	}
	a, _, _ := runCall(t, p, Levels()[0], &all)
	b, _, _ := runCall(t, p, Levels()[0], &dense)
	if diff := a.differs(&b); diff != "" {
		t.Errorf("a map of all tiles, and none: %s", diff)
	}
	q, err := program.Preset("sage2-8b-sm90")
	if err != nil {
		t.Fatal(err)
	}
	k, err := New(q)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Supports(h.in); err == nil || err.Error() != "kernel sage2-8b-sm90 takes no block map (mask.block_map)" {
		t.Errorf("a kernel without block maps: %v", err)
	}
}
