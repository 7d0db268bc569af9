package attribute

import "sync"

// partRows is how many rows of a reference are computed at a time.
const partRows = 256

// references are the reference of a run of rows, of which each part is computed once, by
// who needs it first. Others wait for it.
type references struct {
	lo, hi, d int       // rows of d elements
	values    []float64 // [hi-lo, d]
	parts     []part
}

// part is whether partRows rows, or fewer at the end, are there.
type part struct {
	once sync.Once
	err  error
}

// reset makes r that of the rows [lo, hi), none of which is computed. Buf is memory that it
// may use.
func (r *references) reset(lo, hi, d int, buf []float64) {
	if n := (hi - lo) * d; cap(buf) < n {
		buf = make([]float64, n)
	} else {
		buf = buf[:n]
	}
	*r = references{lo: lo, hi: hi, d: d, values: buf, parts: make([]part, (hi-lo+partRows-1)/partRows)}
}

// of returns the rows [lo, hi). What compute is called for is whole parts, which it writes
// to dst; its error is that of every call for these rows.
func (r *references) of(lo, hi int, compute func(lo, hi int, dst []float64) error) ([]float64, error) {
	for i := (lo - r.lo) / partRows; i*partRows < hi-r.lo; i++ {
		p := &r.parts[i]
		p.once.Do(func() {
			first := r.lo + i*partRows
			last := min(first+partRows, r.hi)
			p.err = compute(first, last, r.values[(first-r.lo)*r.d:(last-r.lo)*r.d])
		})
		if p.err != nil {
			return nil, p.err
		}
	}
	return r.values[(lo-r.lo)*r.d : (hi-r.lo)*r.d], nil
}
