package nearest

import (
	"strings"
	"testing"
)

func TestDistance(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"a", "", 1}, {"kitten", "sitting", 3}, {"casual", "causal", 1}, {"comapre", "compare", 1}, {"ca", "abc", 3},
		{"é", "e", 1}, {"", strings.Repeat("x", 300), 9}, {strings.Repeat("x", 300), strings.Repeat("x", 300), 9}, {"abcdefghij", "klmnopqrst", 9},
	} {
		if got := Distance(tc.a, tc.b); got != tc.want {
			t.Errorf("%q to %q: %d, want %d", tc.a, tc.b, got, tc.want)
		}
		if Distance(tc.a, tc.b) != Distance(tc.b, tc.a) {
			t.Errorf("%q and %q: the distance has a direction", tc.a, tc.b)
		}
	}
}

func TestName(t *testing.T) {
	names := []string{"compare", "conform", "diff", "report", "record"}
	for given, want := range map[string]string{
		"comapre": "compare", "compar": "compare", "conformm": "conform", "dif": "diff", "rep0rt": "report", "recrod": "record",
		"": "", "x": "", "frobnicate": "", "dxyf": "", "comparison": "",
	} {
		if got, ok := Name(given, names); got != want || ok != (want != "") {
			t.Errorf("%q: %q, want %q", given, got, want)
		}
	}
}
