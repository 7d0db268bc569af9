package mufu

import "github.com/sageacc/sageacc/emulate/internal/vec"

// Ex2Coefficients returns the table of Ex2 for the vector kernels.
func Ex2Coefficients() *vec.Ex2Table {
	return vec.NewEx2Table(func(i int) (c0 uint32, c1, c2 uint16) {
		c := ex2Table[i]
		return c.c0, uint16(c.c1), uint16(c.c2)
	})
}
