package launch

import (
	"errors"
	"strings"
	"testing"
)

func TestOpen(t *testing.T) {
	d, err := Open()
	switch {
	case !Built():
		if !errors.Is(err, ErrNotBuilt) {
			t.Fatalf("Open() = %v, want ErrNotBuilt", err)
		}
	case err != nil:
		if !strings.Contains(err.Error(), "NVIDIA driver") || strings.Contains(err.Error(), "\n") {
			t.Errorf("Open() = %q, want one line about the driver", err)
		}
		t.Skip(err)
	default:
		defer d.Close()
		b, err := d.Alloc(16)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Fill(7); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 2)
		if err := b.Upload(1, []byte{9}); err != nil {
			t.Fatal(err)
		}
		if err := b.Download(1, got); err != nil || got[0] != 9 || got[1] != 7 {
			t.Errorf("downloaded %v, %v", got, err)
		}
		if err := b.Download(15, got); err == nil {
			t.Error("a download beyond the end gives no error")
		}
		if err := b.Free(); err != nil {
			t.Error(err)
		}
	}
}

func TestLaunchLimits(t *testing.T) {
	one := Grid{1, 1, 1}
	for _, tc := range []struct {
		grid, block Grid
		shared      int
		ok          bool
	}{
		{one, one, 0, true},
		{Grid{1 << 20, 65535, 65535}, Grid{32, 32, 1}, 1 << 17, true},
		{Grid{0, 1, 1}, one, 0, false},
		{Grid{1, 65536, 1}, one, 0, false},
		{one, Grid{1025, 1, 1}, 0, false},
		{one, Grid{1024, 2, 1}, 0, false},
		{one, one, -1, false},
	} {
		if err := check(tc.grid, tc.block, tc.shared); (err == nil) != tc.ok {
			t.Errorf("check(%v, %v, %d) = %v", tc.grid, tc.block, tc.shared, err)
		}
	}
}
