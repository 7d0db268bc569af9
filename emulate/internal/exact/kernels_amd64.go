//go:build !purego

package exact

import "golang.org/x/sys/cpu"

// Levels returns what this machine can run, the best last.
func Levels() []Level {
	l := []Level{Portable}
	if x := &cpu.X86; x.HasAVX2 && x.HasFMA {
		l = append(l, AVX2)
	}
	if x := &cpu.X86; x.HasAVX512F && x.HasAVX512BW && x.HasAVX512DQ && x.HasAVX512VL {
		l = append(l, AVX512)
	}
	return l
}

// kernels are its kernels, with how many lanes a call of dot takes and how many numbers a group
// of exp2 has.
func (l Level) kernels() kernels {
	switch l {
	case AVX2:
		return kernels{dotAVX2, dotOntoAVX2, exponentsAVX2, exponentsTwiceAVX2, exp2AVX2, 8, 8}
	case AVX512:
		return kernels{dot, dotOnto, exponents, exponentsTwice, exp2, 32, 16}
	}
	panic("exact: no vector instructions")
}
