package main

import "fmt"

// This file encodes the vector instructions that Go's assembler lacks, from the Arm
// Architecture Reference Manual for A-profile (DDI 0487), C4.1 "Advanced SIMD". All work
// on whole 128-bit registers. Operands stand in the manual's order, the result first.

// v is a vector register.
type v int

// three are the instructions of two sources: the bits beside the register numbers, Rm at
// 16, Rn at 5 and Rd at 0.
var three = map[string]uint32{
	"fadd.4s": 0x4e20d400, "fsub.4s": 0x4ea0d400, "fmul.4s": 0x6e20dc00, "fdiv.4s": 0x6e20fc00, "fmla.4s": 0x4e20cc00,
	"fmax.4s": 0x4e20f400, "fmin.4s": 0x4ea0f400,
	"fcmgt.4s": 0x6ea0e400, "fcmge.4s": 0x6e20e400, "fcmeq.4s": 0x4e20e400, "facge.4s": 0x6e20ec00,
	"smax.4s": 0x4ea06400, "smin.4s": 0x4ea06c00, "cmgt.4s": 0x4ea03400, "cmhi.4s": 0x6ea03400, "cmhs.4s": 0x6ea03c00,
	"mul.4s": 0x4ea09c00, "mla.4s": 0x4ea09400, "ushl.16b": 0x6e204400, "bic.16b": 0x4e601c00, "orn.16b": 0x4ee01c00, "udot.4s": 0x6e809400,
	"fmla.2d": 0x4e60cc00, "fadd.2d": 0x4e60d400, "fsub.2d": 0x4ee0d400, "fmul.2d": 0x6e60dc00,
	"fcmeq.2d": 0x4e60e400, "fcmgt.2d": 0x6ee0e400, "facge.2d": 0x6e60ec00, "cmgt.2d": 0x4ee03400,
	"cmhs.16b": 0x6e203c00, "cmgt.16b": 0x4e203400, "smax.8h": 0x4e606400, "saddl.2d": 0x0ea00000, "saddl2.2d": 0x4ea00000,
}

// two are the instructions of one source: Rn at 5 and Rd at 0. Those that narrow write
// the lower half and clear the upper one; with a 2 they write the upper half alone.
var two = map[string]uint32{
	"scvtf.4s": 0x4e21d800, "fcvtzs.4s": 0x4ea1b800, "fcvtns.4s": 0x4e21a800, "fneg.4s": 0x6ea0f800, "fabs.4s": 0x4ea0f800, "frintn.4s": 0x4e218800,
	"cmeq0.4s": 0x4ea09800, "not.16b": 0x6e205800,
	"xtn.4h": 0x0e612800, "xtn.8b": 0x0e212800, "fcvtn.4h": 0x0e216800, "fcvtl.4s": 0x0e217800, "fcvtl2.4s": 0x4e217800, "fcvtn2.8h": 0x4e216800,
	"fcvtl.2d": 0x0e617800, "fcvtl2.2d": 0x4e617800, "fcvtn.2s": 0x0e616800, "fcvtn2.4s": 0x4e616800,
	"fcvtzs.2d": 0x4ee1b800, "cmeq0.2d": 0x4ee09800, "fneg.2d": 0x6ee0f800, "frintn.2d": 0x4e618800, "fmaxv.4s": 0x6e30f800,
	"cnt.16b": 0x4e205800, "abs.4s": 0x4ea0b800, "sxtl.4s": 0x0f10a400, "sxtl2.4s": 0x4f10a400, "addv.4s": 0x4eb1b800,
	"scvtf.2d": 0x4e61d800, "fcvtxn.2s": 0x2e616800, "fcvtxn2.4s": 0x6e616800,
}

// shifts are the instructions with a constant: the bits beside it, and whether it counts
// to the right, or is the number of fraction bits.
var shifts = map[string]struct {
	bits  uint32
	right bool
}{
	"sshr.4s": {0x4f000400, true}, "fcvtzs.4s": {0x4f00fc00, true},
}

// lanes are the instructions that take one element of the second source.
var lanes = map[string]uint32{"fmul.4s": 0x4f809000, "fmla.4s": 0x4f801000, "sdot.4s": 0x4f80e000, "fmla.2d": 0x4fc01000}

// encodeThree returns the instruction d = n op m.
func encodeThree(op string, d, n, m v) uint32 {
	return lookup(three, op) | uint32(m)<<16 | uint32(n)<<5 | uint32(d)
}

// encodeTwo returns the instruction d = op n.
func encodeTwo(op string, d, n v) uint32 { return lookup(two, op) | uint32(n)<<5 | uint32(d) }

// encodeShift returns the instruction d = n op by, of 32-bit elements: immh:immb, at 16, is
// 64 minus a count to the right.
func encodeShift(op string, d, n v, by int) uint32 {
	return lookup(shifts, op).bits | uint32(64-by)<<16 | uint32(n)<<5 | uint32(d)
}

// encodeLane returns the instruction d = n op m[lane]. The lane's bits are H, at 11, and L,
// at 21; of 64-bit elements H alone.
func encodeLane(op string, d, n, m v, lane int) uint32 {
	h, l := uint32(lane>>1), uint32(lane&1)
	if op == "fmla.2d" {
		h, l = l, 0
	}
	return lookup(lanes, op) | l<<21 | uint32(m)<<16 | h<<11 | uint32(n)<<5 | uint32(d)
}

func lookup[T any](table map[string]T, op string) T {
	x, ok := table[op]
	if !ok {
		panic(fmt.Sprintf("no encoding of %s", op))
	}
	return x
}
