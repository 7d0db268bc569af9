// Package nearest finds what a misspelt name is likely meant to be.
package nearest

import "unicode/utf8"

// Name returns the name that is nearest to the given one, if one is near enough: it
// takes at most a third of its letters to be changed, added, left out or swapped with
// the next, and at most two. Of several the first is returned.
func Name(given string, names []string) (string, bool) {
	best, distance := "", 3
	for _, n := range names {
		most := min(2, max(utf8.RuneCountInString(n), utf8.RuneCountInString(given))/3)
		if d := Distance(given, n); d <= most && d < distance {
			best, distance = n, d
		}
	}
	return best, distance < 3
}

// Distance counts the letters that must be changed, added, left out or swapped with
// the next to make b of a (the optimal string alignment distance). It is at most
// limit+1, which stands for everything beyond: names in files may be long.
func Distance(a, b string) int {
	const limit = 8
	x, y := []rune(a[:min(len(a), 256)]), []rune(b[:min(len(b), 256)])
	if len(x)-len(y) > limit || len(y)-len(x) > limit || len(a) > 256 || len(b) > 256 {
		return limit + 1
	}
	rows := [3][]int{make([]int, len(y)+1), make([]int, len(y)+1), make([]int, len(y)+1)}
	for j := range rows[1] {
		rows[1][j] = j
	}
	for i := range x {
		before, last, cur := rows[0], rows[1], rows[2]
		cur[0] = i + 1
		for j := range y {
			change := 1
			if x[i] == y[j] {
				change = 0
			}
			cur[j+1] = min(last[j]+change, last[j+1]+1, cur[j]+1)
			if i > 0 && j > 0 && x[i] == y[j-1] && x[i-1] == y[j] {
				cur[j+1] = min(cur[j+1], before[j-1]+1)
			}
		}
		rows[0], rows[1], rows[2] = last, cur, before
	}
	return min(limit+1, rows[1][len(y)])
}
