package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
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

// repository makes a commit of the sources as they are now in the working tree.
func repository(t *testing.T) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "sources")
	for _, args := range [][]string{{"clone", "-q", "--no-hardlinks", "--depth", "1", "file://" + mustAbs(t, ".."), root}} {
		if out, err := exec.CommandContext(t.Context(), "git", args...).CombinedOutput(); err != nil {
			t.Skipf("this is no git checkout: %s", out)
		}
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

// TestRelease builds this machine's part of a release twice, in two folders.
func TestRelease(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the command twice")
	}
	var first map[string][]byte
	for range 2 {
		root := repository(t)
		dir := filepath.Join(t.TempDir(), "dist")
		r := &release{root: root, dir: dir, platforms: []string{runtime.GOOS + "/" + runtime.GOARCH, "windows/amd64"}}
		if err := r.identify(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := r.build(t.Context()); err != nil {
			t.Fatal(err)
		}
		files := map[string][]byte{}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			b, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			files[e.Name()] = b
		}
		if first == nil {
			first = files
			check(t, r, files)
			if err := r.build(t.Context()); err == nil || !strings.Contains(err.Error(), "is not empty") {
				t.Errorf("a second release in the same folder: %v", err)
			}
			if err := os.WriteFile(filepath.Join(root, "LICENSE"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := (&release{root: root}).identify(t.Context()); err == nil || !strings.Contains(err.Error(), "not those of a commit") {
				t.Errorf("changed sources: %v", err)
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

// check looks at the files of a release.
func check(t *testing.T, r *release, files map[string][]byte) {
	t.Helper()
	own := r.name(r.platforms[0])
	for _, name := range []string{own + ".tar.gz", own + ".cdx.json", r.name("windows/amd64") + ".zip", r.name("windows/amd64") + ".cdx.json"} {
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
	out, err := exec.CommandContext(t.Context(), exe, "--version").Output()
	if err != nil || !strings.Contains(string(out), r.version) || !strings.Contains(string(out), r.commit[:12]) {
		t.Errorf("the binary says it is %q, %v", out, err)
	}
	if bytes.Contains(binary, []byte(r.root)) {
		t.Error("the binary names the folder that it was built in")
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
