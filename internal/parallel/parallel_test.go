package parallel

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
)

func TestDo(t *testing.T) {
	for _, jobs := range []int{-1, 1, 3, 100} {
		var sum atomic.Int64
		err := Do(context.Background(), jobs, 50, func(_ context.Context, i int) error {
			sum.Add(int64(i))
			return nil
		})
		if err != nil || sum.Load() != 49*50/2 {
			t.Errorf("jobs %d: sum %d, %v", jobs, sum.Load(), err)
		}
	}
	bad := errors.New("bad")
	var ran atomic.Int64
	err := Do(context.Background(), 1, 50, func(_ context.Context, i int) error {
		ran.Add(1)
		if i == 3 {
			return bad
		}
		return nil
	})
	if !errors.Is(err, bad) || ran.Load() != 4 {
		t.Errorf("an error gave %v after %d runs", err, ran.Load())
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := Do(ctx, 2, 50, func(context.Context, int) error { t.Error("ran"); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled context gave %v", err)
	}
}

func TestEach(t *testing.T) {
	for _, jobs := range []int{0, 1, 3} {
		var sum atomic.Int64
		Each(jobs, 50, func(i int) { sum.Add(int64(i)) })
		if sum.Load() != 49*50/2 {
			t.Errorf("jobs %d: sum %d", jobs, sum.Load())
		}
	}
}
