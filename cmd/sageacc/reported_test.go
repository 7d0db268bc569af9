package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestReported: every output of a kernel on a GPU that is known from reports only says so, and
// no other does.
func TestReported(t *testing.T) {
	dump := write(t, nil, layer(1, 1, 40, 64)...)
	page, result := filepath.Join(t.TempDir(), "r.html"), filepath.Join(t.TempDir(), "r.json")
	for _, tc := range []struct {
		flags string
		want  bool
	}{
		{"--kernel sage2-8b-sm89 --arch sm_120", true},
		{"--kernel sage2-8b-sm89 --arch sm_100", false},
		{"--kernel sage2-8b-sm89", false},
		{"--kernel sage2-4b --arch sm_121", true},
		{"--kernel fa2 --arch sm_120", true},
		{"--kernel fa2 --arch sm_100", false},
		{"--kernel sageattn@sm_120", true},
		{"--kernel sage2-8b-sm89 --set pv.unit.instruction=mma.m16n8k32.f32.e4m3@sm_120", true},
		{"--kernel fa2 --set scores.unit.instruction=mma.m16n8k8.f32.input@sm_100", true},
	} {
		for _, command := range []string{
			"compare", "compare --format json", "compare --format csv", "compare --format markdown", "compare --format json -o " + result, "report", "trace --row 3", "trace --row 3 --format json", "emulate",
		} {
			args := append(strings.Fields(command), dump)
			args = append(args, strings.Fields(tc.flags)...)
			if command == "report" {
				args = []string{"report", result, "-o", page}
			}
			code, out, errs := sage(t, args...)
			if code != exitOK {
				t.Fatalf("%q: exit %d: %s", args, code, errs)
			}
			if strings.Contains(command, "-o ") {
				continue
			}
			if command == "report" {
				out = read(t, page)
			}
			if got := strings.Contains(out+errs, "not recorded"); got != tc.want {
				t.Errorf("%q: says that it is reported: %v, want %v", args, got, tc.want)
			}
		}
	}
}
