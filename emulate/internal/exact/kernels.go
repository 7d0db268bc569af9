package exact

// kernels are those of a level.
type kernels struct {
	dot                       func(dst *float32, a *float64, b *float32, groups, terms int)
	dotOnto                   func(dst *float64, a *float64, b *float32, groups, terms int, alpha, factor *float64)
	exponents, exponentsTwice func(s, scale, lower *float32, octets int, least float32) uint32
	exp2                      func(x *float32, groups int, series *float64) uint32
	lanes, group              int // of a call of dot, and of exp2
}

// Dot writes dst [rows][Lanes], the sums of the first rows of r, of whole groups of which it has Sums
// numbers: those over k of the row's k-th number with b's [k][Lanes], added in FP64 in the order of k and
// rounded once to FP32. Lanes from lanes on, 1 to Lanes, may stay as they are.
func (l Level) Dot(dst []float32, r *Rows, b []float32, lanes int) {
	k, groups := l.kernels(), len(dst)/(together*Lanes)
	_, _ = r.x[groups*together*r.terms-1], b[r.terms*Lanes-1]
	for i := 0; i < lanes; i += k.lanes {
		k.dot(&dst[i], &r.x[0], &b[i], groups, r.terms)
	}
}

// DotOnto is Dot for sums that join dst in FP64: dst*alpha + sum*factor, in three roundings.
func (l Level) DotOnto(dst []float64, r *Rows, b []float32, alpha, factor *[Lanes]float64, lanes int) {
	k, groups := l.kernels(), len(dst)/(together*Lanes)
	_, _ = r.x[groups*together*r.terms-1], b[r.terms*Lanes-1]
	for i := 0; i < lanes; i += k.lanes {
		k.dotOnto(&dst[i], &r.x[0], &b[i], groups, r.terms, &alpha[i], &factor[i])
	}
}

// Exponents makes exponents of scores s [keys][Lanes], a multiple of 8 keys: s*scale - lower, rounded
// once, or twice. scale and lower are [4][Lanes], of the threads that have keys 0 and 1, 2 and 3 and so
// on of every eight. Scores of a magnitude below least count as zero. It reports whether all
// exponents are below 128.
func (l Level) Exponents(s, scale, lower []float32, least float32, twice bool) bool {
	k, octet := l.kernels(), 8*Lanes
	_, _ = scale[octet/2-1], lower[octet/2-1]
	f := k.exponents
	if twice {
		f = k.exponentsTwice
	}
	return f(&s[0], &scale[0], &lower[0], len(s)/octet, least) == 0
}

// Exp2 replaces numbers below 128, a multiple of 16 of them, by powers of 2 rounded once, and by zero
// below 2^-126. Those of a group in which the series does not decide it come from one.
func (l Level) Exp2(x []float32, c *Coefficients, one func(x float32) float32) {
	k := l.kernels()
	for len(x) > 0 {
		done := int(k.exp2(&x[0], len(x)/k.group, &c[0])) * k.group
		if x = x[done:]; len(x) == 0 {
			return
		}
		for i, v := range x[:k.group] {
			x[i] = one(v)
		}
		x = x[k.group:]
	}
}
