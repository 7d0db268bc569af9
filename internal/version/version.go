// Package version says which build of this module is running.
package version

import (
	"runtime"
	"runtime/debug"
	"strings"
)

// Module is the path of this module.
const Module = "github.com/sageacc/sageacc"

// A build from an archive, without the repository, sets what the go command cannot
// know with -ldflags "-X github.com/sageacc/sageacc/internal/version.version=v1.2.3",
// and commit and date likewise. What is set is believed.
var version, commit, date string

// Info identifies a build.
type Info struct {
	// Version is a release, "v1.2.3", or what the go command makes of a commit
	// between releases; "(devel)" where it knows none, as in tests.
	Version string `json:"version"`
	// Commit is the revision, all digits of it, and Date the time of that commit in
	// RFC 3339, not that of the build, which would differ each time. Both are empty
	// where nobody recorded them: go install records the version only.
	Commit string `json:"commit,omitempty"`
	Date   string `json:"date,omitempty"`
	// Modified says that the sources were not those of Commit.
	Modified bool `json:"modified,omitempty"`
}

// Get returns what the build recorded. In another program that imports this module,
// it is the version of the module, not that of the program.
func Get() Info {
	b, ok := debug.ReadBuildInfo()
	if !ok {
		b = nil
	}
	i := recorded(b)
	if version != "" {
		i.Version = version
	}
	if commit != "" {
		i.Commit, i.Modified = commit, false
	}
	if date != "" {
		i.Date = date
	}
	return i
}

// recorded is what the go command wrote into the binary.
func recorded(b *debug.BuildInfo) Info {
	if b == nil {
		return Info{Version: "(unknown)"}
	}
	if b.Main.Path != Module {
		for _, d := range b.Deps {
			if d.Path == Module {
				if d.Replace != nil && d.Replace.Version != "" {
					return Info{Version: d.Replace.Version}
				}
				return Info{Version: d.Version}
			}
		}
		return Info{Version: "(unknown)"}
	}
	i := Info{Version: b.Main.Version}
	if i.Version == "" {
		i.Version = "(devel)"
	}
	for _, s := range b.Settings {
		switch s.Key {
		case "vcs.revision":
			i.Commit = s.Value
		case "vcs.time":
			i.Date = s.Value
		case "vcs.modified":
			i.Modified = s.Value == "true"
		}
	}
	return i
}

// String writes the version, and in brackets what else is known: "v1.2.3 (commit
// 0123456789ab, 2026-01-02T03:04:05Z)".
func (i Info) String() string {
	var more []string
	if i.Commit != "" {
		c := "commit " + i.Commit[:min(12, len(i.Commit))]
		if i.Modified {
			c += ", modified"
		}
		more = append(more, c)
	}
	if i.Date != "" {
		more = append(more, i.Date)
	}
	if more == nil {
		return i.Version
	}
	return i.Version + " (" + strings.Join(more, ", ") + ")"
}

// Line is String with the compiler and the platform, as --version prints it.
func Line() string {
	return Get().String() + " " + runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH
}
