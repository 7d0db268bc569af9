// Package weather damages files, as transfers, disks, other programs and people do, for
// tests of what becomes of damaged input.
package weather

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"regexp"
	"strings"
)

// Damage returns a copy of data with one to four faults, most often one, chosen by r. others are files
// of the same kind, of which parts may get into it.
func Damage(r *rand.Rand, data []byte, others ...[]byte) []byte {
	out := bytes.Clone(data)
	for range 1 + max(0, r.IntN(8)-4) {
		out = faults[r.IntN(len(faults))](r, out, others)
	}
	return out
}

// faults are the single kinds of damage.
var faults = []func(r *rand.Rand, b []byte, others [][]byte) []byte{
	flip, overwrite, truncate, remove, repeat, insert, integer,
	number, number, number, token, token, quoted, quoted, splice,
}

// at is a place in b, or 0.
func at(r *rand.Rand, b []byte) int {
	if len(b) == 0 {
		return 0
	}
	return r.IntN(len(b))
}

// span is a part of b, a short one more often than not.
func span(r *rand.Rand, b []byte) (lo, hi int) {
	lo = at(r, b)
	n := 1 + r.IntN(16)
	if r.IntN(4) == 0 {
		n = 1 + r.IntN(len(b)+1)
	}
	return lo, min(lo+n, len(b))
}

func flip(r *rand.Rand, b []byte, _ [][]byte) []byte {
	if len(b) > 0 {
		b[at(r, b)] ^= 1 << r.IntN(8)
	}
	return b
}

// hard are bytes that mean something somewhere.
const hard = "\x00\xff\x7f\x80\"'\\{}[](),:-.0eE \n\r\t#&*!|>%@`\x1b"

func overwrite(r *rand.Rand, b []byte, _ [][]byte) []byte {
	lo, hi := span(r, b)
	c := hard[r.IntN(len(hard))]
	for i := lo; i < hi; i++ {
		b[i] = c
	}
	return b
}

func truncate(r *rand.Rand, b []byte, _ [][]byte) []byte { return b[:at(r, b)] }

func remove(r *rand.Rand, b []byte, _ [][]byte) []byte {
	lo, hi := span(r, b)
	return append(b[:lo:lo], b[hi:]...)
}

func repeat(r *rand.Rand, b []byte, _ [][]byte) []byte {
	lo, hi := span(r, b)
	times := 1 + r.IntN(3)
	return replace(b, hi, hi, bytes.Repeat(b[lo:hi], times))
}

func insert(r *rand.Rand, b []byte, _ [][]byte) []byte {
	more := make([]byte, 1+r.IntN(8))
	for i := range more {
		more[i] = byte(r.Uint32())
	}
	i := at(r, b)
	return replace(b, i, i, more)
}

// integer writes a size that is none over two, four or eight bytes.
func integer(r *rand.Rand, b []byte, _ [][]byte) []byte {
	width := 2 << r.IntN(3)
	if len(b) < width {
		return b
	}
	i := r.IntN(len(b) - width + 1)
	if r.IntN(2) == 0 {
		i &^= width - 1
	}
	var x [8]byte
	binary.LittleEndian.PutUint64(x[:], sizes[r.IntN(len(sizes))])
	copy(b[i:], x[:width])
	return b
}

var sizes = []uint64{0, 1, 7, 255, 256, 65535, 65536, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32, 1 << 33, 1 << 50, 1 << 62, 1<<63 - 1, 1 << 63, 1<<64 - 1}

var (
	numbers = regexp.MustCompile(`-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?`)
	strs    = regexp.MustCompile(`"[^"\n]{0,200}"|'[^'\n]{0,200}'`)
	tokens  = regexp.MustCompile(`[A-Za-z_][A-Za-z_0-9.]*|[{}\[\]():,]`)
)

// exchange replaces something that re finds by one of the choices.
func exchange(r *rand.Rand, b []byte, re *regexp.Regexp, choices []string) []byte {
	// Of a large file only a part is looked at: most of it is numbers in binary.
	const most = 1 << 13
	lo := 0
	if len(b) > most && r.IntN(2) == 0 {
		lo = r.IntN(len(b) - most)
	}
	found := re.FindAllIndex(b[lo:min(lo+most, len(b))], -1)
	if len(found) == 0 {
		return b
	}
	f := found[r.IntN(len(found))]
	return replace(b, lo+f[0], lo+f[1], []byte(choices[r.IntN(len(choices))]))
}

func replace(b []byte, lo, hi int, by []byte) []byte {
	out := make([]byte, 0, len(b)+len(by))
	out = append(append(out, b[:lo]...), by...)
	return append(out, b[hi:]...)
}

var oddNumbers = []string{
	"0", "-1", "1", "2", "3", "63", "64", "65", "127", "128", "129", "1.5", "-0", "1e3", "1e309", "-1e309", "1e-400", "0.1e", "00", "0x10", "NaN", "Inf", "+1",
	"65536", "1000000000", "2147483647", "2147483648", "4294967296", "8589934592", "1125899906842624", "4611686018427387904", "9223372036854775807",
	"9223372036854775808", "18446744073709551616", "-9223372036854775808", "99999999999999999999999999999999",
}

func number(r *rand.Rand, b []byte, _ [][]byte) []byte { return exchange(r, b, numbers, oddNumbers) }

var oddTokens = []string{
	"null", "true", "false", "{}", "[]", `""`, "{", "}", "[", "]", "(", ")", ",", ":", "~", "&a", "*a", "<<", "!!binary", "- ", "? ", "|", ">",
	"F16", "BF16", "F32", "I8", "F8_E4M3", "I64", "C64", "F4", "sm_90", "sm_75", "ideal", "e5m2", "int8", "fp16", "NHD", "per-token", "per-tensor",
	strings.Repeat("[", 20_000), strings.Repeat(`{"a":`, 5_000), strings.Repeat("(", 20_000),
}

func token(r *rand.Rand, b []byte, _ [][]byte) []byte { return exchange(r, b, tokens, oddTokens) }

var oddStrings = []string{
	`""`, `"q"`, `"l.q"`, `"l.o"`, `"__metadata__"`, `"\u0000"`, `"\ud800"`, `"\u202e\u001b[2J"`, "\"\x1b]0;x\x07\"", "\"\xff\xfe\"", `"=1+1"`, `"../../../../etc/passwd"`,
	`"/dev/zero"`, `"NaN"`, `"+Inf"`, `"-Inf"`, `"1e999"`, `'\x00'`, `''`, `"` + strings.Repeat("n", 70_000) + `"`, `"` + strings.Repeat(`\u0001`, 2_000) + `"`,
}

func quoted(r *rand.Rand, b []byte, _ [][]byte) []byte { return exchange(r, b, strs, oddStrings) }

// splice takes a part of another file.
func splice(r *rand.Rand, b []byte, others [][]byte) []byte {
	if len(others) == 0 {
		return flip(r, b, nil)
	}
	o := others[r.IntN(len(others))]
	from, to := span(r, o)
	lo, hi := span(r, b)
	return replace(b, lo, hi, o[from:to])
}
