package main

// This file generates the index of V by sign.

// The layout of a channelKeys: its size, and where the keys begin.
const (
	keysSize     = 69
	positiveKeys = 3
	negativeKeys = 36
)

// partition takes the 32 codes of a channel at a time. Bits of 8 keys are a number of the table,
// which holds their places; from the group's first key on these are the keys.
func partition(a *asm) {
	a.function("partition", 0, "list *uint8, codes *uint8, mask *uint8, table *uint64, channels int, limit uint32", "",
		"partition fills a channelKeys for each channel from those of its 32 codes whose bytes of mask are set. Codes whose magnitude is",
		"limit or more are bad. table has the places of the bits of each byte, in order.")
	a.load("list", "codes", "mask", "table", "channels")
	const x, mask, size, there, sign, count, limit, abs, bit, bad, zero = v(0), v(2), v(4), v(6), v(8), v(10), v(16), v(17), v(18), v(19), v(20)
	a.pairAt(mask, "R2", 0)
	a.do("MOVWU limit+%d(FP), R16", a.offset["limit"])
	a.do("VDUP R16, V%d.B16", limit)
	a.splat(abs, 0x7f7f7f7f)
	a.bytes(bit, [16]byte{1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128})
	a.clear(zero)
	a.loop("channel", "R4", 1, func() {
		a.pairAt(x, "R1", 0)
		a.clear(bad)
		for i := range v(2) {
			a.op("and.16b", size+i, x+i, abs)
			a.op("and.16b", size+i, size+i, mask+i)
			a.op("cmhs.16b", sign+i, size+i, limit)
			a.op("orr.16b", bad, bad, sign+i)
			a.op("cmtst.16b", there+i, size+i, size+i)
			a.op("and.16b", there+i, there+i, bit)
			a.op("cmgt.16b", sign+i, zero, x+i)
			a.op("and.16b", sign+i, sign+i, there+i)
			a.op("bic.16b", there+i, there+i, sign+i)
		}
		// The bits of 8 keys to a byte: four of positive keys, four of negative ones.
		a.op("addp.16b", there, there, there+1)
		a.op("addp.16b", sign, sign, sign+1)
		a.op("addp.16b", there, there, sign)
		a.op("addp.16b", there, there, there)
		a.op1("cnt.16b", count, there)
		a.do("VMOV V%d.D[0], R5", there)
		a.do("VMOV V%d.D[0], R6", count)
		a.do("VMOV V%d.D[0], R7", bad)
		a.do("VMOV V%d.D[1], R8", bad)
		a.do("ORR R8, R7")
		a.do("CMP $0, R7")
		a.do("CSET NE, R7")
		a.do("MOVB R7, 2(R0)")
		for i, keys := range []int{positiveKeys, negativeKeys} {
			a.do("ADD $%d, R0, R8", keys)
			a.do("MOVD ZR, R9") // how many
			for group := range 4 {
				at := 32*i + 8*group
				a.do("UBFX $%d, R5, $8, R10", at)
				a.do("MOVD (R3)(R10<<3), R11")
				a.do("MOVD $%#x, R12", uint64(group)*0x0808080808080808)
				a.do("ADD R12, R11")
				a.do("MOVD R11, (R8)(R9)")
				a.do("UBFX $%d, R6, $8, R10", at)
				a.do("ADD R10, R9")
			}
			a.do("MOVB R9, %d(R0)", i)
		}
		a.do("ADD $%d, R0", keysSize)
		a.do("ADD $32, R1")
	})
	a.ret()
}
