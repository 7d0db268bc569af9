package synth

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// TestBlocks: how many keys are in memory at a time changes no byte, nor does a new
// version.
func TestBlocks(t *testing.T) {
	for _, tc := range []struct {
		profile string
		o       Options
		want    string
	}{
		{"paper", Options{Layers: 1, Heads: 3, Tokens: 3000, HeadDim: 40, Causal: true, Seed: 5}, "810264983866d3c68226f7c1719c1ad3904e0d81497d05cbec7a4fcbe2921677"},
		{"sink", Options{Layers: 1, Heads: 2, Tokens: 1000, HeadDim: 40, Seed: 5}, "89d4a254473d0de68ab264c057551659ef0f15e2558f5ae8355d6b311b880a92"},
	} {
		p, err := Named(tc.profile)
		if err != nil {
			t.Fatal(err)
		}
		for _, kept := range []int{1, 40 * 700, 40 * 1024, most} {
			if kept == 1 {
				tc.o.Tokens = min(tc.o.Tokens, 100) // a block for each key
			}
			path := filepath.Join(t.TempDir(), "s")
			if err := write(t.Context(), path, p, tc.o, kept); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if kept == 1 {
				if err := write(t.Context(), path, p, tc.o, most); err != nil {
					t.Fatal(err)
				}
				if want, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s: a block for each key makes another dump, %v", tc.profile, err)
				}
				tc.o.Tokens = map[string]int{"paper": 3000, "sink": 1000}[tc.profile]
				continue
			}
			if sum := fmt.Sprintf("%x", sha256.Sum256(got)); sum != tc.want {
				t.Errorf("%s, %d elements kept: the file's sum is %s", tc.profile, kept, sum)
			}
		}
	}
}

// TestMemory: a dump of many heads takes no more memory than one of few.
func TestMemory(t *testing.T) {
	p, err := Named("paper")
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := Write(t.Context(), filepath.Join(t.TempDir(), "s"), p, Options{Layers: 4, Heads: 64, Tokens: 256, HeadDim: 64}); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	// The file has 25 MB; each head's buffers are made anew.
	const head = 256 * 64 * 8
	if n := after.TotalAlloc - before.TotalAlloc; n > 4*64*2*head {
		t.Errorf("%d bytes were allocated", n)
	}
}

// TestCancelled: an interruption ends it and leaves nothing.
func TestCancelled(t *testing.T) {
	p, err := Named("outlier")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Write(ctx, filepath.Join(dir, "s"), p, Options{Layers: 1, Heads: 1, Tokens: 10, HeadDim: 8}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
