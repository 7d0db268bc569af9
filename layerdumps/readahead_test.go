package layerdumps

import (
	"fmt"
	"io"
	"slices"
	"testing"
)

// hinted is a source that takes hints.
type hinted struct {
	io.ReaderAt
	hints []string
}

func (h *hinted) WillNeed(off, n int64) { h.hints = append(h.hints, fmt.Sprintf("%d+%d", off, n)) }

// TestReadAhead: K, V, Q and the output are asked for, in that order, up to the limit; what
// is in memory, or takes no hint, is not.
func TestReadAhead(t *testing.T) {
	src := &hinted{}
	tensor := func(off, n int64) Tensor { return Tensor{bytes: elements{src: src, offset: off, size: n}} }
	o := tensor(600, 40)
	l := Layer{Q: tensor(0, 100), K: tensor(100, 200), V: tensor(300, 200), O: &o}
	for _, tc := range []struct {
		limit int64
		want  []string
	}{
		{1000, []string{"100+200", "300+200", "0+100", "600+40"}},
		{450, []string{"100+200", "300+200", "0+50"}},
		{150, []string{"100+150"}},
		{0, nil},
	} {
		src.hints = nil
		l.ReadAhead(tc.limit)
		if !slices.Equal(src.hints, tc.want) {
			t.Errorf("up to %d: %q, want %q", tc.limit, src.hints, tc.want)
		}
	}
	src.hints = nil
	l.K.bytes.data = make([]byte, 200)
	l.V.bytes.src = io.NewSectionReader(nil, 0, 0)
	l.O = nil
	l.ReadAhead(1000)
	if want := []string{"0+100"}; !slices.Equal(src.hints, want) {
		t.Errorf("%q, want %q", src.hints, want)
	}
}
