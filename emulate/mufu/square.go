package mufu

// square is the unit's truncated squarer. For a 17-bit t it is
//
//	(sum over the set bits i of t of (t >> (18-i))) >> 1
//
// which adds the partial products of t*t that reach bit 18 and drops all that
// lie below. Cut t into h, its upper 8 bits, and l, its lower 9. The products
// within h are all kept and sum to h*h; those within l are all dropped; and
// those between the two occur twice, so that the final shift makes it
//
//	h*h>>1 + (sum over the set bits j of h of (l >> (9-j)))
//
// That last sum is at most 247: its terms travel in seven bytes of a word, and
// a multiplication adds them up. squareByBits is the definition as it stands.
func square(t int64) int64 {
	h, l := uint64(t)>>9&0xff, uint64(t)&0x1ff
	return int64(h*h>>1 + shiftedBytes[l]&selectBytes[h]*0x0101010101010101>>56)
}

// shiftedBytes holds l >> (9-j) in byte j, for j from 1 to 7, for every l.
var shiftedBytes = func() (words [512]uint64) {
	for l := range words {
		for j := 1; j < 8; j++ {
			words[l] |= uint64(l>>(9-j)) << (8 * j)
		}
	}
	return words
}()

// selectBytes holds 0xff in byte j where bit j of h is set, for every h.
var selectBytes = func() (words [256]uint64) {
	for h := range words {
		for j := range 8 {
			if h>>j&1 != 0 {
				words[h] |= 0xff << (8 * j)
			}
		}
	}
	return words
}()
