//go:build !purego

package exact

import "golang.org/x/sys/cpu"

// Levels returns what this machine can run, the best last.
func Levels() []Level {
	l := []Level{Portable}
	if cpu.ARM64.HasASIMD {
		l = append(l, NEON)
	}
	return l
}

func (l Level) kernels() kernels {
	if l != NEON {
		panic("exact: no vector instructions")
	}
	return kernels{dot, dotOnto, exponents, exponentsTwice, exp2, 8, 4}
}
