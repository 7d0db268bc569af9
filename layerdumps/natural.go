package layerdumps

import (
	"cmp"
	"strings"
)

// compareNatural orders names as people do: runs of digits compare as numbers,
// so that layers.2 comes before layers.10. Names that differ only in leading
// zeros fall back to the order of their bytes, so that the order is total.
func compareNatural(a, b string) int {
	x, y := a, b
	for x != "" && y != "" {
		dx, dy := digits(x), digits(y)
		if dx == "" || dy == "" {
			if x[0] != y[0] {
				return cmp.Compare(x[0], y[0])
			}
			x, y = x[1:], y[1:]
			continue
		}
		x, y = x[len(dx):], y[len(dy):]
		// Without leading zeros, the longer number is the larger one. Numbers
		// of any length compare without being parsed.
		dx, dy = strings.TrimLeft(dx, "0"), strings.TrimLeft(dy, "0")
		if c := cmp.Or(cmp.Compare(len(dx), len(dy)), cmp.Compare(dx, dy)); c != 0 {
			return c
		}
	}
	return cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(a, b))
}

// digits returns the digits that s starts with.
func digits(s string) string {
	n := 0
	for n < len(s) && '0' <= s[n] && s[n] <= '9' {
		n++
	}
	return s[:n]
}
