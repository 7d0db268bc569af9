package explain

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/layerdumps"
)

// TestSpargeNeighbours: what a GPU returned for a block map, said to be of a neighbour of
// sparge-sm90, is named by what differs.
func TestSpargeNeighbours(t *testing.T) {
	const file = "sparge_s92001_blocks014_gauss_d64_f16_129x519.safetensors"
	for _, tc := range []struct{ output, blocks, path, wrong, want string }{
		{"o/full/sparge-sm90/all/pv.threshold-0.25", "map/all", "pv.threshold", "50", "--set pv.threshold=0.25"},
		{"o/full/sparge-sm90/all", "map/all", "pv.threshold", "0.25", "--set pv.threshold=50"},
		{"o/full/sparge-sm90/all", "map/all", "pv.join", "fma", "--variant none"},
		{"o/full/sparge-sm90/all", "map/all", "scores.tail_tiles", "all", "--variant none"},
	} {
		d, err := layerdumps.Open([]string{filepath.Join("../../hardware/conformance/testdata/field", file)},
			layerdumps.Options{Names: layerdumps.Names{"o": tc.output, "block_map": tc.blocks}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
		p, err := program.Preset("sparge-sm90")
		if err == nil {
			err = p.Set(tc.path, tc.wrong)
		}
		if err != nil {
			t.Fatal(err)
		}
		l := &d.Layers[0]
		res, err := Layer(t.Context(), l, Options{Program: p, Jobs: 2, MaxChanges: 1})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, h := range res.Exact {
			got = append(got, h.String())
		}
		if !slices.Contains(got, tc.want) {
			t.Errorf("%s, %s=%s: explained by %q, want %s", tc.output, tc.path, tc.wrong, got, tc.want)
		}
		// Which tiles the block looks at, the map says.
		place := &res.Where.First
		listed := make([]bool, place.Tiles)
		l.BlockMap.List(place.Batch, place.Head, place.Block, 0, place.Tiles, listed)
		n := len(slices.DeleteFunc(listed, func(in bool) bool { return !in }))
		if want := fmt.Sprintf("of %d tiles of 128 keys the block map lists %d for the block", place.Tiles, n); !place.Listed || place.BlockTiles != n || !strings.HasSuffix(place.String(), want) {
			t.Errorf("%s, %s=%s: %s (%+v), want %s", tc.output, tc.path, tc.wrong, place, *place, want)
		}
	}
}
