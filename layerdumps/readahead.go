package layerdumps

// ReadAhead asks the system to read up to limit bytes of the layer's tensors, from their
// starts on, while something else is computed: on a slow file system the layer's rows are
// there when they are needed. It is a hint, which changes no result.
func (l *Layer) ReadAhead(limit int64) {
	for _, t := range []*Tensor{&l.K, &l.V, &l.Q, l.O} {
		if t == nil || limit <= 0 {
			continue
		}
		e := &t.bytes
		n := min(e.size, limit)
		if n == 0 {
			continue // to the system that is the whole file
		}
		if f, ok := e.src.(interface{ WillNeed(off, n int64) }); ok && e.data == nil {
			f.WillNeed(e.offset, n)
		}
		limit -= n
	}
}
