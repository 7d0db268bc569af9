//go:build !purego

package vec

// Lanes says whether the level has the steps of a strip's softmax and sums.
func (l Level) Lanes() bool { return l == NEON }

// word is c for the kernels: a value of FPCR, nothing or FZ, with which operations take and make
// zeros of subnormal numbers. What it flushes before it rounds, the kernels mend.
func (c Control) word() uint32 {
	if c == Flush {
		return 1 << 24
	}
	return 0
}

// ex2Operand is the table for the kernels.
func ex2Operand(t *Ex2Table) *uint32 {
	packed := packEx2(t)
	return &packed[0][0]
}

// exponentGroup is how many weights laneExponents takes at a time.
const exponentGroup = 16
