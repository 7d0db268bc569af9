package shard

import (
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/compare/journal"
	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/internal/recordlog"
	"github.com/sageacc/sageacc/layerdumps"
)

// FuzzMerge: records of any content give a result or an error.
func FuzzMerge(f *testing.F) {
	d, err := layerdumps.Open([]string{"../../layerdumps/testdata/byte-lm-sample.safetensors"}, layerdumps.Options{})
	if err != nil {
		f.Fatal(err)
	}
	defer d.Close()
	p, err := program.Preset("sage2-8b-sm90")
	if err != nil {
		f.Fatal(err)
	}
	k, err := emulate.New(p)
	if err != nil {
		f.Fatal(err)
	}
	d.Layers = d.Layers[:1]
	opt := compare.Options{Kernel: k, Jobs: 2}
	outlines, err := compare.Outlines(d, opt)
	if err != nil {
		f.Fatal(err)
	}
	h := journal.Header{
		Identity: journal.Identity{Command: "compare", Runs: []journal.Run{{Kernel: compare.Describe(k), Layers: outlines}}},
		Shard:    &[2]int{1, 1}, Settings: json.RawMessage(`{}`),
	}
	path := filepath.Join(f.TempDir(), "part")
	j, err := journal.Open(f.Context(), path, h, d, journal.Options{Lasting: true})
	if err != nil {
		f.Fatal(err)
	}
	opt.Keep = j.Run(0, nil)
	err = compare.RunChunks(f.Context(), d, opt, Shard{1, 1}.Split([][]*compare.Outline{outlines})[0])
	if err == nil {
		err = j.Close(true)
	}
	var records []string
	if err == nil {
		_, _, err = recordlog.Scan(path, func(_ int64, r []byte) error {
			records = append(records, string(r))
			return nil
		})
	}
	if err != nil {
		f.Fatal(err)
	}
	f.Add(records[0], records[1])
	f.Add(records[0], `{"run":0,"layer":0,"inputs":"","data":{}}`)
	f.Fuzz(func(t *testing.T, header, record string) {
		path := filepath.Join(t.TempDir(), "part")
		l, err := recordlog.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range []string{header, record} {
			_, _ = l.Append([]byte(r)) // some are no lines
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		parts, err := journal.ReadParts([]string{path})
		if err != nil {
			return
		}
		results, err := Merge(parts)
		if err != nil {
			return
		}
		if _, err := json.Marshal(results); err != nil {
			t.Error(err)
		}
	})
}
