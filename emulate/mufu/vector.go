package mufu

import "github.com/sageacc/sageacc/emulate/internal/vec"

// Ex2Coefficients returns the table of Ex2 for the vector kernels.
func Ex2Coefficients() *vec.Ex2Table {
	t := new(vec.Ex2Table)
	for i, c := range ex2Table {
		t.C0[i], t.C1[i], t.C2[i] = c.c0, uint16(c.c1), uint16(c.c2)
	}
	return t
}
