package vec

// Turn transposes: it writes dst[c*to+r] = src[r*from+c] for rows r and columns c.
func (l Level) Turn(dst []float32, to int, src []float32, from, rows, columns int) {
	if rows == 0 || columns == 0 {
		return
	}
	_, _ = dst[(columns-1)*to+rows-1], src[(rows-1)*from+columns-1]
	n, m := l.turnWhole(dst, to, src, from, rows, columns)
	for r := range rows {
		c := 0
		if r < n {
			c = m
		}
		for ; c < columns; c++ {
			dst[c*to+r] = src[r*from+c]
		}
	}
}

// Pack lays out at most Rows rows of d codes for QK: as [channel/4][Rows][4], biased by 128, zeros
// for rows that are missing and for channels that fill up.
func (l Level) Pack(dst []uint8, codes []int8, d int) {
	rows := len(codes) / d
	if rows < Rows || d%4 != 0 {
		for i := range dst {
			dst[i] = 128
		}
	}
	n, m := l.packWhole(dst, codes, d, rows)
	for r := range rows {
		c := 0
		if r < n {
			c = m
		}
		for ; c < d; c++ {
			dst[c/4*4*Rows+4*r+c%4] = uint8(codes[r*d+c]) ^ 0x80
		}
	}
}
