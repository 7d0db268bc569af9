package explain

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/emulate/program"

	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/layerdumps"
)

func (w *Where) kinds() []string {
	var k []string
	for _, f := range w.Findings {
		k = append(k, f.Kind)
	}
	return k
}

// up changes an FP16 value to the next but n.
func up(x float32, n uint16) float32 {
	return format.FP16ToFloat32(format.FP16FromFloat32(x) + n)
}

// whereOf is the Where that Layer returns, without a search for what explains it.
func whereOf(t *testing.T, l *layerdumps.Layer, said program.Program) *Where {
	t.Helper()
	s, err := newSearch(l, Options{Program: said, Jobs: 2})
	if err != nil {
		t.Fatal(err)
	}
	given, err := s.whole(t.Context(), s.base, true)
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := s.kernel(&s.base)
	if err != nil {
		t.Fatal(err)
	}
	return describe(l, kernel, given.heads)
}

// TestWhere: outputs that are spoiled in a known place are described by it.
func TestWhere(t *testing.T) {
	// Two query heads of one kv head, and one for each.
	const d, n = 64, 200
	each := func(change func(head, token, channel int, x float32) float32) func([]float32) {
		return func(out []float32) {
			for i, x := range out {
				out[i] = change(i/d/n, i/d%n, i%d, x)
			}
		}
	}
	where := func(bad func(head, token, channel int) bool) func([]float32) {
		return each(func(h, tok, c int, x float32) float32 {
			if bad(h, tok, c) {
				return x + float32(3-c%7)/4 + 0.1
			}
			return x
		})
	}
	own := causalShape
	own.kvHeads = 2
	four := causalShape
	four.heads, four.kvHeads = 4, 2
	open := causalShape
	open.causal = false
	for _, tc := range []struct {
		name  string
		shape shape
		spoil func([]float32)
		kinds []string
		text  string // some finding has it
		first Place  // Token, Channel, Block, Row, Warp and so on
	}{
		{
			"everything", causalShape, where(func(int, int, int) bool { return true }),
			[]string{"all-rows"}, "every row", Place{Keys: 1, Tiles: 1, BlockTiles: 1, TileKeys: 128},
		},
		{
			"beyond the first tile", causalShape, where(func(_, tok, _ int) bool { return tok >= 128 }),
			[]string{"rows-from", "first-tile"}, "it goes wrong with tile 1, keys from 128 on",
			Place{Token: 128, Block: 2, Keys: 129, Tiles: 2, BlockTiles: 2, TileKeys: 128},
		},
		{
			"beyond the first block", causalShape, where(func(_, tok, _ int) bool { return tok >= 64 }),
			[]string{"rows-from", "first-block"}, "the queries are in question",
			Place{Token: 64, Block: 1, Keys: 65, Tiles: 1, BlockTiles: 1, TileKeys: 128},
		},
		{
			"within a block", causalShape, where(func(_, tok, _ int) bool { return tok >= 70 }),
			[]string{"rows-from", "within-block"}, "within block 1",
			Place{Token: 70, Block: 1, Row: 6, Keys: 71, Tiles: 1, BlockTiles: 1, TileKeys: 128},
		},
		{
			"the tail", causalShape, where(func(_, tok, _ int) bool { return tok >= 192 }),
			[]string{"last-block", "first-block"}, "which is not full",
			Place{Token: 192, Block: 3, Keys: 193, Tiles: 2, BlockTiles: 2, TileKeys: 128},
		},
		{
			"the first row", causalShape, where(func(_, tok, _ int) bool { return tok == 0 }),
			[]string{"first-row"}, "sees a single key", Place{Keys: 1, Tiles: 1, BlockTiles: 1, TileKeys: 128},
		},
		{
			"one head of two", own, where(func(h, _, _ int) bool { return h == 1 }),
			[]string{"heads", "all-rows"}, "only 1 head of 2: 1", Place{Head: 1, Keys: 1, Tiles: 1, BlockTiles: 1, TileKeys: 128},
		},
		{
			"the heads of a kv head", four, where(func(h, _, _ int) bool { return h >= 2 }),
			[]string{"heads", "all-rows"}, "share 1 kv head", Place{Head: 2, Keys: 1, Tiles: 1, BlockTiles: 1, TileKeys: 128},
		},
		{
			"a per-thread group", open, where(func(_, tok, _ int) bool { return tok%8 == 3 }),
			[]string{"some-rows", "same-keys", "row-residues"}, "row mod 8 in {3}",
			Place{Token: 3, Row: 3, Keys: 200, Tiles: 2, BlockTiles: 2, TileKeys: 128},
		},
		{
			"a warp", open, where(func(_, tok, _ int) bool { return tok%64/16 == 2 }),
			[]string{"some-rows", "same-keys", "warps"}, "only rows of warp 2",
			Place{Token: 32, Row: 32, Warp: 2, Keys: 200, Tiles: 2, BlockTiles: 2, TileKeys: 128},
		},
		{
			"a channel's scale", open, each(func(_, _, c int, x float32) float32 {
				if c == 9 {
					return 1.25 * x
				}
				return x
			}),
			[]string{"all-rows", "channels", "channel-factor"}, "only channel 9", Place{Channel: 9, Keys: 200, Tiles: 2, BlockTiles: 2, TileKeys: 128},
		},
		{
			"upper channels", open, where(func(_, _, c int) bool { return c >= 32 }),
			[]string{"all-rows", "channels"}, "only channels 32 to 63", Place{Channel: 32, Keys: 200, Tiles: 2, BlockTiles: 2, TileKeys: 128},
		},
		{
			"a factor everywhere", open, each(func(_, _, _ int, x float32) float32 { return 0.75 * x }),
			[]string{"all-rows", "factor"}, "about 0.75 everywhere", Place{Keys: 200, Tiles: 2, BlockTiles: 2, TileKeys: 128},
		},
		{
			"a factor of the row", open, each(func(_, tok, _ int, x float32) float32 { return x * float32(100+tok) / 64 }),
			[]string{"all-rows", "row-factor"}, "the denominator", Place{Keys: 200, Tiles: 2, BlockTiles: 2, TileKeys: 128},
		},
		{
			"the scores", causalShape, where(func(_, tok, _ int) bool { return tok >= 1 }),
			[]string{"rows-from", "one-key"}, "sees one key",
			Place{Token: 1, Row: 1, Keys: 2, Tiles: 1, BlockTiles: 1, TileKeys: 128},
		},
		{
			"after some keys", causalShape, where(func(_, tok, _ int) bool { return tok >= 40 }),
			[]string{"rows-from", "first-keys"}, "no more than 40 keys",
			Place{Token: 40, Row: 40, Warp: 2, Keys: 41, Tiles: 1, BlockTiles: 1, TileKeys: 128},
		},
		{
			"a rounding", open, each(func(_, tok, c int, x float32) float32 {
				if (tok*7+c)%31 == 0 {
					return up(x, 1)
				}
				return x
			}),
			[]string{"all-rows", "ulp"}, "more than 1 ulp", Place{Keys: 200, Tiles: 2, BlockTiles: 2, TileKeys: 128},
		},
		{
			"not a number", open, each(func(_, tok, c int, x float32) float32 {
				if tok >= 130 && tok < 133 && c == 4 {
					return float32(math.NaN())
				}
				return x
			}),
			[]string{"few-rows", "same-keys", "channels", "non-finite"}, "6 elements are NaN",
			Place{Token: 130, Channel: 4, Block: 2, Row: 2, Keys: 200, Tiles: 2, BlockTiles: 2, TileKeys: 128},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			said := preset(t, "sage2-8b-sm90")
			l := tc.shape.layer(t, said, tc.spoil)
			w := whereOf(t, l, said)
			if !slices.Equal(w.kinds(), tc.kinds) {
				t.Errorf("found %q, want %q: %+v", w.kinds(), tc.kinds, w.Findings)
			}
			if !slices.ContainsFunc(w.Findings, func(f Finding) bool { return strings.Contains(f.Text, tc.text) }) {
				t.Errorf("no finding says %q: %+v", tc.text, w.Findings)
			}
			if w.First != tc.first {
				t.Errorf("first at %+v, want %+v", w.First, tc.first)
			}
			if w.Mismatched == 0 || w.Mismatched > w.Elements || w.MismatchedRows > w.Rows || w.MismatchedHeads > w.Heads {
				t.Errorf("counts: %+v", w)
			}
		})
	}
}

// TestWhereOfVariants: what known mistakes look like.
func TestWhereOfVariants(t *testing.T) {
	for _, tc := range []struct {
		variant string
		kind    string
	}{
		{"rescale-d=none", "row-factor"},
		{"out-round=zero", "ulp"},
	} {
		said := preset(t, "sage2-8b-sm90")
		does := said
		if err := does.Apply(&said, tc.variant); err != nil {
			t.Fatal(err)
		}
		res := causalShape.explained(t, said, does)
		if !slices.Contains(res.Where.kinds(), tc.kind) {
			t.Errorf("%s: no %s in %+v", tc.variant, tc.kind, res.Where.Findings)
		}
	}
}

// TestStages: the first intermediate tensor that differs is named.
func TestStages(t *testing.T) {
	for _, name := range []string{"sage2-4b", "sage2-8b-sm90", "sage2-8b-sm89"} {
		for _, smooth := range []string{"k", "q,k,v"} {
			cfg := preset(t, name)
			if err := cfg.SetSmooth(smooth); err != nil {
				t.Fatal(err)
			}
			l := causalShape.layer(t, cfg, nil)
			whole := func(c program.Program) Stages { return stagesOf(t, l, c) }
			given := whole(cfg)
			r, err := CompareStages(t.Context(), l, cfg, []Stages{given})
			if err != nil {
				t.Fatal(err)
			}
			want := []string{"k_mean", "k_scale", "k_codes", "q_scale", "q_codes", "v_scale", "v_codes"}
			if cfg.Smoothing.V != "none" {
				want = slices.Insert(want, 5, "v_mean")
			}
			if r.First != nil || !slices.Equal(r.Compared, want) {
				t.Errorf("%s %s: %s", name, smooth, r)
			}
			for _, tc := range []struct {
				stage, text string
				spoil       func(*Stages)
				want        StageDifference
			}{
				{"k_mean", "channel 7", func(s *Stages) { s.KMean[7] += 0.5 }, StageDifference{Group: -1, Token: -1, Channel: 7}},
				{"k_scale", "row mod 8 = 2 or 3", func(s *Stages) { s.KScale[5] *= 2 }, StageDifference{Group: 5, Token: -1, Channel: -1}},
				{"k_codes", "token 33, channel 2", func(s *Stages) { s.KCodes[33*64+2]++ }, StageDifference{Group: 0, Token: 33, Channel: 2}},
				{"q_scale", "row mod 8 = 1 of queries", func(s *Stages) { s.QScale[9] = 1 }, StageDifference{Group: 9, Token: -1, Channel: -1}},
				{"q_codes", "token 0, channel 63", func(s *Stages) { s.QCodes[63]++ }, StageDifference{Group: 0, Token: 0, Channel: 63}},
				{"v_scale", "channel 1", func(s *Stages) { s.VScale[1] *= 2 }, StageDifference{Group: -1, Token: -1, Channel: 1}},
				{"v_codes", "token 199, channel 63", func(s *Stages) { s.VCodes[63*len(s.VCodes)/64+199] ^= 1 }, StageDifference{Group: -1, Token: 199, Channel: 63}},
			} {
				s := whole(cfg)
				tc.spoil(&s)
				r, err := CompareStages(t.Context(), l, cfg, []Stages{s})
				if err != nil {
					t.Fatal(err)
				}
				f := r.First
				if f == nil || f.Stage != tc.stage || f.Channel != tc.want.Channel || f.Token != tc.want.Token || f.Mismatched != 1 ||
					(tc.want.Token < 0 && f.Group != tc.want.Group) || !strings.Contains(r.String(), tc.text) {
					t.Errorf("%s, %s spoiled: %s (%+v)", name, tc.stage, r, f)
				}
			}
			// A kernel without smoothing differs from the mean on; where that is not
			// given, from K's scale on.
			s := whole(cfg)
			c := cfg
			c.QKCodes.Round = "zero"
			s.KCodes = whole(c).KCodes
			if r, err = CompareStages(t.Context(), l, cfg, []Stages{{KScale: s.KScale, KCodes: s.KCodes}}); err != nil || r.First == nil || r.First.Stage != "k_codes" || r.First.Mismatched < 100 {
				t.Errorf("%s: codes toward zero: %s, %v", name, r, err)
			}
			if !strings.HasPrefix(r.String(), "k_scale agrees; the first stage to differ is k_codes") {
				t.Errorf("%s", r)
			}
		}
	}
}

// stagesOf returns all stages of the first head as a kernel that does c computes them.
func stagesOf(t *testing.T, l *layerdumps.Layer, c program.Program) Stages {
	t.Helper()
	k, err := emulate.New(c)
	if err != nil {
		t.Fatal(err)
	}
	read := func(x *layerdumps.Tensor) emulate.Rows {
		return func(lo, hi int, dst []float32) { x.Rows(0, 0, lo, hi, dst) }
	}
	kv, err := k.Prepare(emulate.KVInput{K: read(&l.K), V: read(&l.V), Len: l.K.Tokens, Dim: l.K.Dim, DType: l.Q.DType})
	if err != nil {
		t.Fatal(err)
	}
	var s Stages
	s.KCodes, s.KScale = kv.KeyCodes()
	s.KMean = kv.KeyMean()
	s.VCodes, _, s.VScale, s.VMean = kv.ValueCodes()
	s.QCodes, s.QScale = k.QuantizeQuery(emulate.QInput{Q: read(&l.Q), Len: l.Q.Tokens}, l.Q.Dim)
	return s
}

// TestStagesErrors: tensors that do not fit are refused.
func TestStagesErrors(t *testing.T) {
	cfg := preset(t, "sage2-8b-sm90")
	l := causalShape.layer(t, cfg, func(out []float32) { out[0]++ })
	for _, tc := range []struct {
		stages Stages
		want   string
	}{
		{Stages{Head: 2}, "2 heads"},
		{Stages{KMean: make([]float32, 3)}, "k_mean has 3 elements: want 64"},
		{Stages{QCodes: make([]int8, 5)}, "q_codes has 5 elements"},
		{Stages{VCodes: make([]uint16, 65)}, "v_codes has 65 elements"},
		{Stages{VMean: make([]float32, 64)}, "v_mean is there"},
	} {
		if _, err := Layer(t.Context(), l, Options{Program: cfg, Stages: []Stages{tc.stages}}); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v, want %q", err, tc.want)
		}
	}
	// Agreeing stages are reported with the search.
	res, err := Layer(t.Context(), l, Options{Program: cfg, MaxChanges: 1, Stages: []Stages{{KScale: stagesOf(t, l, cfg).KScale}}})
	if err != nil || res.Stages == nil || res.Stages.String() != "k_scale agree: what differs comes after them" {
		t.Errorf("%v, %v", res.Stages, err)
	}
}
