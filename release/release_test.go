package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sageacc/sageacc/internal/sweep"
)

var when = time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))

// TestArchives: what goes in comes out, and the same goes in twice gives the same bytes.
func TestArchives(t *testing.T) {
	files := []file{{name: "sageacc", data: []byte("binary"), mode: 0o755}, {name: "man/man1/x.1", data: []byte("page")}}
	gz, err := tarGz("folder", files, when)
	if err != nil {
		t.Fatal(err)
	}
	zr, err := gzip.NewReader(bytes.NewReader(gz))
	if err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(zr)
	for _, f := range files {
		h, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil || h.Name != "folder/"+f.name || h.Mode != f.perm() || !bytes.Equal(b, f.data) || !h.ModTime.Equal(when) || h.Uname != "" || h.Uid != 0 {
			t.Errorf("%+v, %q, %v", h, b, err)
		}
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("there is more: %v", err)
	}
	z, err := zipped("folder", files, when)
	if err != nil {
		t.Fatal(err)
	}
	zz, err := zip.NewReader(bytes.NewReader(z), int64(len(z)))
	if err != nil || len(zz.File) != 2 || zz.File[0].Name != "folder/sageacc" || zz.File[0].Mode() != 0o755 || !zz.File[1].Modified.Equal(when) {
		t.Errorf("%v, %v", zz, err)
	}
	// Wherever and whenever.
	t.Setenv("TZ", "Asia/Tokyo")
	gz2, _ := tarGz("folder", files, when.In(time.FixedZone("", -7200)))
	z2, _ := zipped("folder", files, when.In(time.FixedZone("", -7200)))
	if !bytes.Equal(gz, gz2) || !bytes.Equal(z, z2) {
		t.Error("the same files give other bytes")
	}
	other, _ := tarGz("folder", files, when.Add(time.Second))
	if bytes.Equal(gz, other) {
		t.Error("another time gives the same bytes")
	}
}

func TestSPDX(t *testing.T) {
	goroot, err := output(t.Context(), ".", nil, "go", "env", "GOROOT")
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"../LICENSE": "Apache-2.0", filepath.Join(goroot, "LICENSE"): "BSD-3-Clause"} {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := spdx(string(b)); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
	if got := spdx("All rights reserved."); got != "" {
		t.Errorf("no licence is %q", got)
	}
	m := module{path: "x"}
	if err := m.read(t.TempDir()); err == nil || !strings.Contains(err.Error(), "x has no licence") {
		t.Errorf("a module without a licence: %v", err)
	}
}

// git runs git in a folder, for somebody.
func git(t *testing.T, dir string, args ...string) {
	t.Helper()
	c := exec.CommandContext(t.Context(), "git", append([]string{"-c", "user.name=n", "-c", "user.email=e@example.com", "-c", "commit.gpgsign=false", "-c", "tag.gpgsign=false"}, args...)...)
	c.Dir = dir
	c.Env = append(os.Environ(), "GIT_COMMITTER_DATE=2026-01-02T03:04:05+01:00")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("git %q: %v, %s", args, err, out)
	}
}

// TestIdentify: version, commit and date are those of the commit, where they are not given.
func TestIdentify(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip(err)
	}
	root := t.TempDir()
	path := filepath.Join(root, "file")
	identify := func(given release) (release, error) {
		given.root = root
		err := given.identify(t.Context())
		return given, err
	}
	if _, err := identify(release{}); err == nil || !strings.Contains(err.Error(), "no git checkout") {
		t.Errorf("a folder: %v", err)
	}
	if r, err := identify(release{version: "v1.0.0", commit: "c", date: when}); err != nil || r.version != "v1.0.0" || r.commit != "c" {
		t.Errorf("a folder, with all that is needed: %+v, %v", r, err)
	}
	git(t, root, "init", "-q")
	for _, text := range []string{"one", "two"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		git(t, root, "add", "file")
		git(t, root, "commit", "-q", "-m", text)
	}
	r, err := identify(release{})
	if want := "v0.0.0-20260102020405-" + r.commit[:min(12, len(r.commit))]; err != nil || len(r.commit) != 40 || r.version != want || !r.date.Equal(when) || r.date.Location() != time.UTC {
		t.Errorf("a commit: %+v, %v", r, err)
	}
	git(t, root, "tag", "other")
	git(t, root, "tag", "v1.2.3")
	if r, err := identify(release{}); err != nil || r.version != "v1.2.3" {
		t.Errorf("a tag: %+v, %v", r, err)
	}
	if old, err := identify(release{commit: "HEAD~1"}); err != nil || old.version == "v1.2.3" {
		t.Errorf("the commit before the tag: %+v, %v", old, err)
	}
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := identify(release{}); err == nil || !strings.Contains(err.Error(), "not those of a commit") {
		t.Errorf("changed sources: %v", err)
	}
}

// repository makes a commit of the sources as they are now in the working tree.
func repository(t *testing.T) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "sources")
	if out, err := exec.CommandContext(t.Context(), "git", "clone", "-q", "--no-hardlinks", "--depth", "1", "file://"+mustAbs(t, ".."), root).CombinedOutput(); err != nil {
		t.Skipf("this is no git checkout: %s", out)
	}
	return root
}

func mustAbs(t *testing.T, path string) string {
	t.Helper()
	p, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// built builds a release and returns its files.
func built(t *testing.T, r *release) map[string][]byte {
	t.Helper()
	if err := r.build(t.Context()); err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(r.dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = b
	}
	return files
}

// TestRelease builds this machine's part of a release from the sources where they are, with
// what the build cache has.
func TestRelease(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the command")
	}
	r := &release{
		root: mustAbs(t, ".."), dir: filepath.Join(t.TempDir(), "dist"), platforms: []string{runtime.GOOS + "/" + runtime.GOARCH},
		version: "v9.8.7", commit: "feedbeef0123456789", date: when.UTC(), plain: true,
	}
	check(t, r, built(t, r))
	if err := r.build(t.Context()); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("a second release in the same folder: %v", err)
	}
}

// TestSameTwice builds this machine's part of a release and one for another machine twice, in
// two folders, of which nothing is to be seen.
func TestSameTwice(t *testing.T) {
	if !sweep.Full() {
		t.Skip("compiles everything for two machines")
	}
	var first map[string][]byte
	for range 2 {
		r := &release{root: repository(t), dir: filepath.Join(t.TempDir(), "dist"), platforms: []string{runtime.GOOS + "/" + runtime.GOARCH, "windows/amd64"}}
		if err := r.identify(t.Context()); err != nil {
			t.Fatal(err)
		}
		files := built(t, r)
		if first == nil {
			first = files
			if binary := check(t, r, files); bytes.Contains(binary, []byte(r.root)) {
				t.Error("the binary names the folder that it was built in")
			}
			continue
		}
		for name, b := range files {
			if !bytes.Equal(first[name], b) {
				t.Errorf("%s is not the same twice", name)
			}
		}
		if len(files) != len(first) {
			t.Errorf("%d files and %d", len(files), len(first))
		}
	}
}

// check looks at the files of a release, of which this machine's platform is the first, and
// returns its binary.
func check(t *testing.T, r *release, files map[string][]byte) []byte {
	t.Helper()
	own := r.name(r.platforms[0])
	want := []string{sumsName}
	for i, p := range r.platforms {
		ending := ".tar.gz"
		if i > 0 {
			ending = ".zip" // of Windows
		}
		want = append(want, r.name(p)+ending, r.name(p)+".cdx.json")
	}
	if len(files) != len(want) {
		t.Errorf("%d files, want %q", len(files), want)
	}
	for _, name := range want[1:] {
		if files[name] == nil {
			t.Fatalf("%s is missing of %d files", name, len(files))
		}
		if !strings.Contains(string(files[sumsName]), "  "+name+"\n") {
			t.Errorf("%s has no sum", name)
		}
	}
	zr, err := gzip.NewReader(bytes.NewReader(files[own+".tar.gz"]))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	var binary, third []byte
	for r := tar.NewReader(zr); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(h.Name, own+"/")
		names = append(names, name)
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		switch name {
		case "sageacc":
			binary = b
		case "THIRD-PARTY.txt":
			third = b
		}
	}
	for _, want := range []string{"sageacc", "LICENSE", "README.md", "man/man1/sageacc-compare.1", "completions/_sageacc", "completions/sageacc.bash"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is missing of %q", want, names)
		}
	}
	exe := filepath.Join(t.TempDir(), "sageacc")
	if err := os.WriteFile(exe, binary, 0o755); err != nil {
		t.Fatal(err)
	}
	says := fmt.Sprintf("sageacc %s (commit %.12s, %s) %s %s\n", r.version, r.commit, r.date.Format(time.RFC3339), runtime.Version(), r.platforms[0])
	for _, arg := range []string{"--version", "version"} {
		if out, err := exec.CommandContext(t.Context(), exe, arg).Output(); err != nil || string(out) != says {
			t.Errorf("%s says %q, %v, want %q", arg, out, err, says)
		}
	}
	var bom cdxBOM
	if err := json.Unmarshal(files[own+".cdx.json"], &bom); err != nil {
		t.Fatal(err)
	}
	if bom.Spec != "1.6" || len(bom.Components) < 5 || bom.Components[0].Name != "std" || len(bom.Dependencies) != len(bom.Components)+1 {
		t.Errorf("bill of materials %+v", bom)
	}
	for _, c := range bom.Components {
		if c.Licences == nil || c.Name != "std" && len(c.Properties) == 0 {
			t.Errorf("%s has no licence or no sum", c.Name)
		}
		if name := c.Name + " " + c.Version; c.Name != "std" && !strings.Contains(string(third), name) {
			t.Errorf("the licence of %s is not in THIRD-PARTY.txt", name)
		}
	}
	if !slices.ContainsFunc(bom.Components, func(c cdxComponent) bool {
		return c.Name == "github.com/spf13/cobra" && strings.HasPrefix(c.Version, "v")
	}) {
		t.Error("cobra is not in the bill of materials")
	}
	return binary
}

func TestArguments(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"x"}, `unknown argument "x"`},
		{[]string{"-date", "yesterday"}, "-date"},
		{[]string{"-nothing"}, "-nothing"},
		{[]string{"-version", "v1", "-commit", "c", "-date", "2026-01-02T03:04:05Z", "-o", "."}, "not empty"},
		{[]string{"-version", "v1", "-commit", "c", "-date", "2026-01-02T03:04:05Z", "-platforms", "plan9", "-o", t.TempDir()}, `platform "plan9" is not GOOS/GOARCH`},
	} {
		if err := run(t.Context(), tc.args); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q: %v, want %q", tc.args, err, tc.want)
		}
	}
}
