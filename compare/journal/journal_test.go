package journal

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/internal/version"
	"github.com/sageacc/sageacc/layerdumps"
)

// soon is the default of Options.Soon.
const soon = time.Second

func dump(t *testing.T) *layerdumps.Dump {
	t.Helper()
	d, err := layerdumps.Open([]string{"../../layerdumps/testdata/byte-lm-sample.safetensors"}, layerdumps.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func header() Header {
	return Header{Identity: Identity{Command: "table", Runs: []Run{{Kernel: compare.KernelInfo{Name: "k"}}}}}
}

// TestLate: there is no file before there is work worth one, what was kept until then
// goes into it, and none remains of a run that came to its end.
func TestLate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	told := ""
	start := func(resume bool) *Journal {
		t.Helper()
		j, err := Open(t.Context(), path, header(), dump(t), Options{Resume: resume, Written: func(p string) { told = p }})
		if err != nil {
			t.Fatal(err)
		}
		return j
	}
	absent := func() bool {
		_, err := os.Stat(path)
		return errors.Is(err, fs.ErrNotExist)
	}
	j := start(false)
	k := j.Run(0, nil)
	if err := k.Note(0, "a", 1); err != nil || !absent() || told != "" || k.Due() {
		t.Fatalf("a file too early, %v", err)
	}
	j.start = j.start.Add(-2 * soon)
	j.kept = j.start
	if !k.Due() {
		t.Error("nothing is due after two seconds")
	}
	if err := k.Note(1, "a", 2); err != nil || absent() || told != path {
		t.Fatalf("no file, %v, told %q", err, told)
	}
	if k.Due() {
		t.Error("something is due at once")
	}
	if err := j.Close(false); err != nil || absent() {
		t.Fatal("the journal of a run that was stopped is gone")
	}
	j = start(true)
	for layer, want := range []int{1, 2} {
		got := 0
		if ok, err := j.Run(0, nil).Noted(layer, "a", &got); !ok || err != nil || got != want {
			t.Errorf("layer %d: %d, %v, %v", layer, got, ok, err)
		}
	}
	// A run over some layers knows them by numbers of its own.
	got := 0
	if ok, err := j.Run(0, []int{1}).Noted(0, "a", &got); !ok || err != nil || got != 2 {
		t.Errorf("the only layer of a part: %d, %v, %v", got, ok, err)
	}
	if ok, err := j.Run(0, nil).Noted(0, "b", &got); ok || err != nil {
		t.Errorf("a note that is not there: %v, %v", ok, err)
	}
	if err := j.Close(true); err != nil || !absent() {
		t.Errorf("the journal of a finished run remains, %v", err)
	}
}

// TestFault: a run goes on where its journal cannot be written, and says why; a shard does
// not.
func TestFault(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gone")
	for _, lasting := range []bool{false, true} {
		if err := os.Mkdir(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		j, err := Open(t.Context(), filepath.Join(dir, "journal"), header(), dump(t), Options{Lasting: lasting})
		if err != nil {
			t.Fatal(err)
		}
		j.start = j.start.Add(-2 * soon)
		if lasting {
			j.log.Close() // as a disk that fails
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			err = j.Run(0, nil).Note(0, "a", 1)
			if (err != nil) != lasting {
				t.Errorf("lasting %v: %v", lasting, err)
			}
		}
		if (j.Fault() != nil) == lasting {
			t.Errorf("lasting %v: fault %v", lasting, j.Fault())
		}
		if err := j.Close(true); (err != nil) != lasting {
			t.Errorf("lasting %v: %v at the end", lasting, err)
		}
	}
}

// TestHeader: what no run has is refused before anything is made of it.
func TestHeader(t *testing.T) {
	for s, ok := range map[[2]int]bool{{1, 1}: true, {3, MaxShards}: true, {0, 1}: false, {2, 1}: false, {1, MaxShards + 1}: false, {1, math.MaxInt}: false} {
		if err := (&Header{Shard: &s}).check("part"); (err == nil) != ok {
			t.Errorf("shard %d of %d: %v", s[0], s[1], err)
		}
	}
	var h *Header
	if err := (index{}).scanner("x.journal", &h)(17, []byte(`{}`)); err == nil || !strings.Contains(err.Error(), "the first record of this journal") {
		t.Errorf("a journal without its first record: %v", err)
	}
}

// TestDue: the longer a run, the rarer are parts of layers.
func TestDue(t *testing.T) {
	j, err := Open(t.Context(), filepath.Join(t.TempDir(), "journal"), header(), dump(t), Options{})
	if err != nil {
		t.Fatal(err)
	}
	k := j.Run(0, nil)
	for _, tc := range []struct {
		run, kept time.Duration
		due       bool
	}{
		{2 * time.Second, soon / 2, false}, {2 * time.Second, 3 * soon / 2, true},
		{time.Hour, 30 * time.Second, false}, {time.Hour, 40 * time.Second, true},
	} {
		now := time.Now()
		j.start, j.kept = now.Add(-tc.run), now.Add(-tc.kept)
		if k.Due() != tc.due {
			t.Errorf("after %v, %v after the last: due is %v", tc.run, tc.kept, !tc.due)
		}
	}
}

func TestDifference(t *testing.T) {
	base := func() Identity {
		o := &compare.Outline{Name: "l", Source: "a", ChunkRows: 256}
		return Identity{
			Command: "compare", Tool: version.Info{Version: "v1"}, Options: map[string]string{"reference": "fp32"},
			Runs: []Run{{Kernel: compare.KernelInfo{Name: "k"}, Layers: []*compare.Outline{o}}}, Layers: []Layer{{Name: "m"}},
		}
	}
	for want, edit := range map[string]func(x *Identity){
		"":                                 func(x *Identity) { x.Runs[0].Layers[0].Source = "b" },
		"it is of sageacc table":           func(x *Identity) { x.Command = "table" },
		"it is of another build":           func(x *Identity) { x.Tool.Commit = "c" },
		"it is of 2 kernels, not of 1":     func(x *Identity) { x.Runs = append(x.Runs, x.Runs[0]) },
		`its reference is "fp64", not "fp`: func(x *Identity) { x.Options["reference"] = "fp64" },
		"its options are others":           func(x *Identity) { x.Options["more"] = "1" },
		"its kernel k is another":          func(x *Identity) { x.Runs[0].Kernel.PVAccum = "fp16" },
		"its layer l has another shape":    func(x *Identity) { x.Runs[0].Layers[0].ChunkRows = 128 },
		"its layer 1 is n, not l":          func(x *Identity) { x.Runs[0].Layers[0].Name = "n" },
		"it is of 0 layers, not of 1":      func(x *Identity) { x.Runs[0].Layers = nil },
		"its layer m has another shape":    func(x *Identity) { x.Layers[0].Causal = true },
	} {
		a, b := base(), base()
		edit(&b)
		if got := a.Difference(&b); !strings.HasPrefix(got, want) || (got == "") != (want == "") {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
