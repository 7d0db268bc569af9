package main

import (
	"fmt"
	"testing"
)

// encodings are of d = V1, n = V2 and, of an element, m = V27, otherwise V3, as LLVM's
// assembler encodes the instructions in the comments of the generated file.
var encodings = []struct {
	op   string
	by   int // a shift or an element
	want uint32
}{
	{"fadd.4s", -1, 0x4e23d441},
	{"fsub.4s", -1, 0x4ea3d441},
	{"fmul.4s", -1, 0x6e23dc41},
	{"fdiv.4s", -1, 0x6e23fc41},
	{"fmla.4s", -1, 0x4e23cc41},
	{"fmax.4s", -1, 0x4e23f441},
	{"fmin.4s", -1, 0x4ea3f441},
	{"fcmgt.4s", -1, 0x6ea3e441},
	{"fcmge.4s", -1, 0x6e23e441},
	{"fcmeq.4s", -1, 0x4e23e441},
	{"facge.4s", -1, 0x6e23ec41},
	{"smax.4s", -1, 0x4ea36441},
	{"smin.4s", -1, 0x4ea36c41},
	{"cmgt.4s", -1, 0x4ea33441},
	{"cmhi.4s", -1, 0x6ea33441},
	{"cmhs.4s", -1, 0x6ea33c41},
	{"mul.4s", -1, 0x4ea39c41},
	{"mla.4s", -1, 0x4ea39441},
	{"ushl.16b", -1, 0x6e234441},
	{"bic.16b", -1, 0x4e631c41},
	{"orn.16b", -1, 0x4ee31c41},
	{"udot.4s", -1, 0x6e839441},
	{"fmla.2d", -1, 0x4e63cc41},
	{"fadd.2d", -1, 0x4e63d441},
	{"fsub.2d", -1, 0x4ee3d441},
	{"fmul.2d", -1, 0x6e63dc41},
	{"fcmeq.2d", -1, 0x4e63e441},
	{"fcmgt.2d", -1, 0x6ee3e441},
	{"facge.2d", -1, 0x6e63ec41},
	{"cmgt.2d", -1, 0x4ee33441},
	{"cmhs.16b", -1, 0x6e233c41},
	{"cmgt.16b", -1, 0x4e233441},
	{"smax.8h", -1, 0x4e636441},
	{"saddl.2d", -1, 0x0ea30041},
	{"saddl2.2d", -1, 0x4ea30041},
	{"scvtf.4s", -1, 0x4e21d841},
	{"fcvtzs.4s", -1, 0x4ea1b841},
	{"fcvtns.4s", -1, 0x4e21a841},
	{"fneg.4s", -1, 0x6ea0f841},
	{"fabs.4s", -1, 0x4ea0f841},
	{"frintn.4s", -1, 0x4e218841},
	{"cmeq0.4s", -1, 0x4ea09841},
	{"not.16b", -1, 0x6e205841},
	{"xtn.4h", -1, 0x0e612841},
	{"xtn.8b", -1, 0x0e212841},
	{"fcvtn.4h", -1, 0x0e216841},
	{"fcvtl.4s", -1, 0x0e217841},
	{"fcvtl2.4s", -1, 0x4e217841},
	{"fcvtn2.8h", -1, 0x4e216841},
	{"fcvtl.2d", -1, 0x0e617841},
	{"fcvtl2.2d", -1, 0x4e617841},
	{"fcvtn.2s", -1, 0x0e616841},
	{"fcvtn2.4s", -1, 0x4e616841},
	{"fcvtzs.2d", -1, 0x4ee1b841},
	{"cmeq0.2d", -1, 0x4ee09841},
	{"fneg.2d", -1, 0x6ee0f841},
	{"frintn.2d", -1, 0x4e618841},
	{"fmaxv.4s", -1, 0x6e30f841},
	{"cnt.16b", -1, 0x4e205841},
	{"abs.4s", -1, 0x4ea0b841},
	{"sxtl.4s", -1, 0x0f10a441},
	{"sxtl2.4s", -1, 0x4f10a441},
	{"addv.4s", -1, 0x4eb1b841},
	{"scvtf.2d", -1, 0x4e61d841},
	{"fcvtxn.2s", -1, 0x2e616841},
	{"fcvtxn2.4s", -1, 0x6e616841},
	{"sshr.4s", 31, 0x4f210441},
	{"sshr.4s", 1, 0x4f3f0441},
	{"fcvtzs.4s", 23, 0x4f29fc41},
	{"fmul.4s", 0, 0x4f9b9041},
	{"fmul.4s", 1, 0x4fbb9041},
	{"fmul.4s", 2, 0x4f9b9841},
	{"fmul.4s", 3, 0x4fbb9841},
	{"fmla.4s", 0, 0x4f9b1041},
	{"sdot.4s", 0, 0x4f9be041},
	{"fmla.4s", 1, 0x4fbb1041},
	{"sdot.4s", 1, 0x4fbbe041},
	{"fmla.4s", 2, 0x4f9b1841},
	{"sdot.4s", 2, 0x4f9be841},
	{"fmla.4s", 3, 0x4fbb1841},
	{"sdot.4s", 3, 0x4fbbe841},
	{"fmla.2d", 0, 0x4fdb1041},
	{"fmla.2d", 1, 0x4fdb1841},
}

// TestEncodings holds every entry of the tables to another assembler.
func TestEncodings(t *testing.T) {
	type form struct {
		table, op string
	}
	seen := map[form]bool{}
	for _, e := range encodings {
		_, isThree := three[e.op]
		_, isTwo := two[e.op]
		_, isShift := shifts[e.op]
		_, isLane := lanes[e.op]
		var table string
		var got uint32
		switch {
		case isLane && e.by >= 0:
			table, got = "lane", encodeLane(e.op, 1, 2, 27, e.by)
		case isShift && e.by >= 0:
			table, got = "shift", encodeShift(e.op, 1, 2, e.by)
		case isThree:
			table, got = "three", encodeThree(e.op, 1, 2, 3)
		case isTwo:
			table, got = "two", encodeTwo(e.op, 1, 2)
		default:
			t.Errorf("%s is in no table", e.op)
			continue
		}
		seen[form{table, e.op}] = true
		if got != e.want {
			t.Errorf("%s %s, %d: %08x, want %08x", table, e.op, e.by, got, e.want)
		}
	}
	for table, ops := range map[string][]string{"three": keys(three), "two": keys(two), "shift": keys(shifts), "lane": keys(lanes)} {
		for _, op := range ops {
			if !seen[form{table, op}] {
				t.Errorf("no encoding of %s is held", op)
			}
		}
	}
}

func keys[T any](table map[string]T) (list []string) {
	for k := range table {
		list = append(list, k)
	}
	return list
}

// TestUnknown: an instruction without an encoding stops the generator.
func TestUnknown(t *testing.T) {
	defer func() {
		if got := fmt.Sprint(recover()); got != "no encoding of fsqrt.4s" {
			t.Errorf("panic: %s", got)
		}
	}()
	encodeTwo("fsqrt.4s", 1, 2)
}
