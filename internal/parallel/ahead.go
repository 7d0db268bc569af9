package parallel

import "iter"

// Prepare is the piece, in [Ahead], that prepares a group.
const Prepare = -1

// Ahead yields groups and their pieces 0 to pieces[group]-1 in the order in which so many
// goroutines should take them, where a group must be prepared before its pieces are done and
// whoever comes first does so while others wait. What prepares a group alone, so that none
// need wait, comes right after a first piece of an earlier one, as far ahead as the goroutines
// reach. The first group has none, nor have those of one piece, for which nobody else waits, nor
// others where there is one goroutine.
func Ahead(pieces []int, jobs int) iter.Seq2[int, int] {
	all := 0
	for _, n := range pieces {
		all += n
	}
	reach := 0
	if jobs > 1 && all > 0 {
		reach = 1 + jobs*len(pieces)/all
	}
	return func(yield func(group, piece int) bool) {
		prepared := 0
		for g, n := range pieces {
			for p := range n {
				if !yield(g, p) {
					return
				}
				for p == 0 && prepared < min(g+reach, len(pieces)-1) {
					prepared++
					if pieces[prepared] > 1 && !yield(prepared, Prepare) {
						return
					}
				}
			}
			prepared = max(prepared, g+1)
		}
	}
}
