package version

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
)

func TestRecorded(t *testing.T) {
	vcs := []debug.BuildSetting{{Key: "-trimpath", Value: "true"}, {Key: "vcs.revision", Value: "0123456789abcdef0123"}, {Key: "vcs.time", Value: "2026-01-02T03:04:05Z"}, {Key: "vcs.modified", Value: "true"}}
	for _, tc := range []struct {
		name string
		info *debug.BuildInfo
		want Info
		line string
	}{
		{"no build information", nil, Info{Version: "(unknown)"}, "(unknown)"},
		{"go install", &debug.BuildInfo{Main: debug.Module{Path: Module, Version: "v1.2.3"}}, Info{Version: "v1.2.3"}, "v1.2.3"},
		{"go run", &debug.BuildInfo{Main: debug.Module{Path: Module}}, Info{Version: "(devel)"}, "(devel)"},
		{"a checkout", &debug.BuildInfo{Main: debug.Module{Path: Module, Version: "v1.2.4-0.2026"}, Settings: vcs},
			Info{"v1.2.4-0.2026", "0123456789abcdef0123", "2026-01-02T03:04:05Z", true}, "v1.2.4-0.2026 (commit 0123456789ab, modified, 2026-01-02T03:04:05Z)"},
		// The commit is that of the other program.
		{"imported", &debug.BuildInfo{Main: debug.Module{Path: "example.com/x", Version: "v9"}, Deps: []*debug.Module{{Path: "a", Version: "v8"}, {Path: Module, Version: "v1.0.0"}}, Settings: vcs}, Info{Version: "v1.0.0"}, "v1.0.0"},
		{"replaced", &debug.BuildInfo{Deps: []*debug.Module{{Path: Module, Version: "v1.0.0", Replace: &debug.Module{Path: "example.com/fork", Version: "v1.0.1"}}}}, Info{Version: "v1.0.1"}, "v1.0.1"},
		{"copied", &debug.BuildInfo{Main: debug.Module{Path: "example.com/x", Version: "v9"}}, Info{Version: "(unknown)"}, "(unknown)"},
	} {
		got := recorded(tc.info)
		if got != tc.want || got.String() != tc.line {
			t.Errorf("%s: %+v, %q; want %+v, %q", tc.name, got, got, tc.want, tc.line)
		}
	}
	if b, err := json.Marshal(Info{Version: "v1"}); err != nil || string(b) != `{"version":"v1"}` {
		t.Errorf("JSON %s, %v", b, err)
	}
}

// TestOverride builds a command as a release does; release's test asks sageacc itself.
func TestOverride(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a command")
	}
	exe := filepath.Join(t.TempDir(), "say")
	const path = Module + "/internal/version."
	build := exec.CommandContext(t.Context(), "go", "build", "-o", exe, "-ldflags", "-X "+path+"version=v9.8.7 -X "+path+"commit=feedbeef -X "+path+"date=2026-01-02T03:04:05Z", "./testdata/say")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := "v9.8.7 (commit feedbeef, 2026-01-02T03:04:05Z) " + runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH
	out, err := exec.CommandContext(t.Context(), exe).Output()
	if got := strings.TrimSpace(string(out)); err != nil || got != want {
		t.Errorf("it prints %q, %v; want %q", got, err, want)
	}
}
