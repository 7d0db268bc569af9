// Package ranges holds sets of whole numbers as runs.
package ranges

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Set is a set of numbers: runs [lo, hi) by increasing lo, which neither overlap nor
// touch. Nil is the empty set.
type Set [][2]int

// Of returns the numbers of [lo, hi).
func Of(lo, hi int) Set {
	if lo >= hi {
		return nil
	}
	return Set{{lo, hi}}
}

// Check reports runs that are no set, or not one of numbers of [0, n).
func (s Set) Check(n int) error {
	last := -1
	for _, r := range s {
		if r[0] <= last || r[0] >= r[1] || r[1] > n {
			return fmt.Errorf("%v are no runs of 0 to %d", s, n-1)
		}
		last = r[1]
	}
	return nil
}

// Len returns how many numbers there are.
func (s Set) Len() int {
	n := 0
	for _, r := range s {
		n += r[1] - r[0]
	}
	return n
}

// Union returns the numbers that are in either set.
func (s Set) Union(o Set) Set {
	all := slices.Concat(s, o)
	slices.SortFunc(all, func(a, b [2]int) int { return cmp.Compare(a[0], b[0]) })
	var out Set
	for _, r := range all {
		if n := len(out); n > 0 && r[0] <= out[n-1][1] {
			out[n-1][1] = max(out[n-1][1], r[1])
		} else {
			out = append(out, r)
		}
	}
	return out
}

// Intersect returns the numbers that are in both sets.
func (s Set) Intersect(o Set) Set {
	var out Set
	for i, j := 0, 0; i < len(s) && j < len(o); {
		if lo, hi := max(s[i][0], o[j][0]), min(s[i][1], o[j][1]); lo < hi {
			out = append(out, [2]int{lo, hi})
		}
		if s[i][1] < o[j][1] {
			i++
		} else {
			j++
		}
	}
	return out
}

// Minus returns the numbers that are in s alone.
func (s Set) Minus(o Set) Set {
	var out Set
	j := 0
	for _, r := range s {
		lo := r[0]
		for ; j < len(o) && o[j][1] <= lo; j++ {
		}
		for k := j; k < len(o) && o[k][0] < r[1]; k++ {
			if lo < o[k][0] {
				out = append(out, [2]int{lo, o[k][0]})
			}
			lo = max(lo, o[k][1])
		}
		if lo < r[1] {
			out = append(out, [2]int{lo, r[1]})
		}
	}
	return out
}

// String lists the numbers, as in "0 to 3, 7".
func (s Set) String() string {
	var parts []string
	for _, r := range s {
		if r[1] == r[0]+1 {
			parts = append(parts, fmt.Sprint(r[0]))
		} else {
			parts = append(parts, fmt.Sprintf("%d to %d", r[0], r[1]-1))
		}
	}
	return strings.Join(parts, ", ")
}
