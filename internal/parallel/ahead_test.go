package parallel

import (
	"fmt"
	"strings"
	"testing"
)

func TestAhead(t *testing.T) {
	for _, c := range []struct {
		pieces []int
		jobs   int
		want   string
	}{
		{nil, 1, ""},
		{[]int{2}, 4, "0.0 0.1"},
		{[]int{2, 1, 3}, 1, "0.0 0.1 1.0 2.0 2.1 2.2"},
		{[]int{2, 2, 2, 2}, 0, "0.0 0.1 1.0 1.1 2.0 2.1 3.0 3.1"},
		{[]int{4, 4, 4}, 2, "0.0 1p 0.1 0.2 0.3 1.0 2p 1.1 1.2 1.3 2.0 2.1 2.2 2.3"},
		{[]int{2, 1, 3}, 8, "0.0 2p 0.1 1.0 2.0 2.1 2.2"},
		{[]int{1, 1, 1, 1, 1}, 2, "0.0 1.0 2.0 3.0 4.0"},
	} {
		var got []string
		for g, p := range Ahead(c.pieces, c.jobs) {
			if p == Prepare {
				got = append(got, fmt.Sprintf("%dp", g))
			} else {
				got = append(got, fmt.Sprintf("%d.%d", g, p))
			}
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%v, %d goroutines: %s, want %s", c.pieces, c.jobs, s, c.want)
		}
	}
	for range Ahead([]int{3, 3}, 1) {
		break // takes no more
	}
}
