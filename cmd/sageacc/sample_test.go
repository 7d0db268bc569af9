package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSample: a sample says what it is in every output, and gates hold its bounds.
func TestSample(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "result.json")
	args := []string{"compare", sample, "--kernel", "sage2-4b", "--sample", "2", "--allow-nonfinite"}
	code, out, errs := sage(t, args...)
	if code != exitOK || errs != "" || !strings.Contains(out, "of a sample: 1024 of 4096 rows of queries (25%)") || !strings.Contains(out, "\nsample     1024 of 4096 rows") || !strings.Contains(out, " to ") {
		t.Errorf("exit %d, %q:\n%s", code, errs, out)
	}
	code, out, errs = sage(t, append(args, "--format", "csv")...)
	lines := strings.Split(out, "\n")
	if code != exitOK || errs != "" || !strings.HasSuffix(lines[0], ",rmse_low,rmse_high") || strings.Count(lines[1], ",") != strings.Count(lines[0], ",") {
		t.Errorf("exit %d, %q:\n%s", code, errs, out)
	}
	if code, _, errs = sage(t, append(args, "--format", "json", "-o", file)...); code != exitOK {
		t.Fatal(errs)
	}
	var r struct {
		Args   []string
		Layers []struct {
			Sample     struct{ Tiles, Of, Rows int }
			Confidence struct {
				Level    float64
				Emulated struct {
					CosSim [2]float64 `json:"cos_sim"`
				} `json:"emulated_vs_reference"`
			}
			Emulated struct {
				CosSim float64 `json:"cos_sim"`
			} `json:"emulated_vs_reference"`
		}
		Average struct{ Confidence struct{ Level float64 } }
	}
	if err := json.Unmarshal(content(t, file), &r); err != nil {
		t.Fatal(err)
	}
	l := r.Layers[0]
	if b := l.Confidence.Emulated.CosSim; l.Sample.Tiles != 2 || l.Sample.Of != 8 || l.Sample.Rows != 512 || l.Confidence.Level != 0.95 || r.Average.Confidence.Level != 0.95 || !(b[0] < l.Emulated.CosSim && l.Emulated.CosSim < b[1]) {
		t.Errorf("%+v", r)
	}
	if !strings.Contains(strings.Join(r.Args, " "), "--sample 2") {
		t.Errorf("args %q", r.Args)
	}
	page := filepath.Join(dir, "report.html")
	if code, _, errs := sage(t, "report", file, "-o", page); code != exitOK {
		t.Fatal(errs)
	}
	b, err := os.ReadFile(page)
	if err != nil || !strings.Contains(string(b), "1024 of 4096 rows") || !strings.Contains(string(b), "Average, within") || !strings.Contains(string(b), "2 of 8 tiles of each head") {
		t.Errorf("the report does not say of a sample (%v)", err)
	}
	// Another seed, other rows; the same seed, the same.
	_, same, _ := sage(t, append(args, "--format", "csv", "--sample-seed", "1")...)
	_, other, _ := sage(t, append(args, "--format", "csv", "--sample-seed", "2")...)
	_, first, _ := sage(t, append(args, "--format", "csv")...)
	if same != first || other == first {
		t.Error("the seed decides nothing, or not all")
	}
	parts := shards(t, 3, args[1:]...)
	_, want, _ := sage(t, append(args, "--format", "json")...)
	if _, got, errs := sage(t, append([]string{"merge"}, parts...)...); got != want {
		t.Errorf("merged: %q\n%s\nwant\n%s", errs, got, want)
	}
	if _, _, errs := sage(t, append(args, "--expect-bit-exact")...); !strings.Contains(errs, "0 of them bit-exact in the rows of the sample\n") {
		t.Errorf("--expect-bit-exact: %q", errs)
	}
}

func TestSampleFlag(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"--sample", "1"}, `--sample: "1" is no sample: want tiles of each head (at least 2)`},
		{[]string{"--sample", ""}, `--sample: "" is no sample`},
		{[]string{"--sample", "200%"}, `--sample: "200%" is no sample`},
		{[]string{"--sample-seed", "3"}, "--sample-seed is for --sample"},
		{[]string{"--sample", "auto:1%", "--shard", "1/2", "-o", "x"}, "--sample auto:1% is not for --shard: how much there is to do must be known"},
	} {
		code, _, errs := sage(t, append([]string{"compare", sample}, tc.args...)...)
		if code != exitCannotRun || !strings.Contains(errs, tc.want) || strings.Count(errs, "\n") != 1 {
			t.Errorf("%v: exit %d, %q, want %q", tc.args, code, errs, tc.want)
		}
	}
}
