package recordlog

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func scan(t *testing.T, path string) (records []string, damaged int) {
	t.Helper()
	_, damaged, err := Scan(path, func(at int64, r []byte) error {
		again, err := Record(path, at)
		if err != nil || !bytes.Equal(again, r) {
			t.Errorf("at %d: %q, %v; want %q", at, again, err, r)
		}
		records = append(records, string(r))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return records, damaged
}

// TestTorn: a file cut anywhere holds the records before the cut, and goes on from there.
func TestTorn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"", "one", strings.Repeat("long ", 40_000), "last"}
	var ends []int64
	for _, r := range want {
		if _, err := l.Append([]byte(r)); err != nil {
			t.Fatal(err)
		}
		ends = append(ends, l.end)
	}
	if err := errors.Join(l.Sync(), l.Close()); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		cut := r.Int64N(int64(len(whole)) + 1)
		if r.IntN(2) == 0 {
			cut = min(int64(len(whole)), ends[r.IntN(len(ends))]+r.Int64N(12))
		}
		if err := os.WriteFile(path, whole[:cut], 0o666); err != nil {
			t.Fatal(err)
		}
		n := 0
		for n < len(ends) && ends[n] <= cut {
			n++
		}
		torn := 0
		if n == 0 && cut > 0 || n > 0 && ends[n-1] < cut {
			torn = 1
		}
		if got, damaged := scan(t, path); !slices.Equal(got, want[:n]) || damaged != torn {
			t.Fatalf("cut at %d: %d records and %d damaged, want %d and %d", cut, len(got), damaged, n, torn)
		}
		l, damaged, err := Open(path, func(int64, []byte) error { return nil })
		if err != nil || damaged != torn {
			t.Fatalf("cut at %d: %d damaged, %v", cut, damaged, err)
		}
		if _, err := l.Append([]byte("next")); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if got, damaged := scan(t, path); !slices.Equal(got, append(slices.Clone(want[:n]), "next")) || damaged != 0 {
			t.Fatalf("cut at %d and continued: %d records, %d damaged", cut, len(got), damaged)
		}
	}
}

// TestDamaged: a changed byte costs one record, or two if it is a line feed.
func TestDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	var whole []byte
	for i := range 10 {
		whole = append(whole, encode(fmt.Appendf(nil, "record %d", i))...)
	}
	for at := range whole {
		bad := slices.Clone(whole)
		bad[at] ^= 0x14
		if err := os.WriteFile(path, bad, 0o666); err != nil {
			t.Fatal(err)
		}
		got, damaged := scan(t, path)
		if len(got) < 8 || len(got) > 9 || damaged < 1 || damaged > 2 {
			t.Fatalf("byte %d changed: %d records, %d damaged", at, len(got), damaged)
		}
	}
}

func TestUsed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Create(path); !errors.Is(err, os.ErrExist) {
		t.Errorf("made twice: %v", err)
	}
	if lock(l.f) { // a lock that the process has is no obstacle, where there are any
		if f, err := os.Open(path); err == nil {
			defer f.Close()
			if lock(f) {
				t.Skip("files cannot be locked here")
			}
		}
	}
	if _, _, err := Open(path, nil); err == nil || err.Error() != path+": another run is writing to it" {
		t.Errorf("opened twice: %v", err)
	}
	if err := l.Remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
	if _, err := l.Append([]byte("x")); err == nil {
		t.Error("a record was appended to a closed file")
	}
}

func TestNoLine(t *testing.T) {
	l, err := Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := l.Append([]byte("a\nb")); err == nil {
		t.Error("a record of two lines was written")
	}
}

func FuzzScan(f *testing.F) {
	f.Add(append(encode([]byte("a")), encode([]byte("b"))...))
	f.Add([]byte("00000000 \n"))
	path := filepath.Join(f.TempDir(), "log")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o666); err != nil {
			t.Fatal(err)
		}
		end, _, err := Scan(path, func(at int64, r []byte) error {
			if !bytes.HasPrefix(data[at:], encode(r)[9:]) && !bytes.Contains(data[at:], r) {
				t.Errorf("at %d: %q is not in the file", at, r)
			}
			return nil
		})
		if err != nil || end > int64(len(data)) {
			t.Errorf("end %d of %d, %v", end, len(data), err)
		}
	})
}
