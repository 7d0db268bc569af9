// Package parallel runs independent pieces of work on a bounded number of
// goroutines.
package parallel

import (
	"context"
	"sync"
	"sync/atomic"
)

// Do runs f(0) to f(n-1) on up to jobs goroutines, at least one, and returns the
// first error, or the cause if ctx ends. The context that f gets ends at the first
// error.
func Do(ctx context.Context, jobs, n int, f func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range max(1, min(jobs, n)) {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := f(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// Each runs f(0) to f(n-1) on up to jobs goroutines, at least one.
func Each(jobs, n int, f func(i int)) {
	// Without an error or an end of the context Do runs them all.
	_ = Do(context.Background(), jobs, n, func(_ context.Context, i int) error {
		f(i)
		return nil
	})
}
