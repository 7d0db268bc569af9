package atomicfile

import (
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

func write(t *testing.T, path, content string) {
	t.Helper()
	f, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Abort()
	if _, err := io.WriteString(f, content); err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
}

func check(t *testing.T, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s holds %q, want %q", path, got, want)
	}
}

// names lists a folder, hidden files and all.
func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return strings.Join(all, " ")
}

func TestCommit(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "out.txt")
	write(t, path, "first")
	check(t, path, "first")
	write(t, path, "second")
	check(t, path, "second")
	if got := names(t, dir); got != "out.txt" {
		t.Errorf("the folder holds %s", got)
	}
}

func TestAbort(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "out.txt")
	write(t, path, "old")
	f, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(f, "half of the n"); err != nil {
		t.Fatal(err)
	}
	check(t, path, "old")
	f.Abort()
	f.Abort()
	check(t, path, "old")
	if got := names(t, dir); got != "out.txt" {
		t.Errorf("the folder holds %s", got)
	}
}

func TestRelative(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "out.txt", "here")
	check(t, "out.txt", "here")
}

func TestLinkAndPermissions(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("links and permissions are Unix's")
	}
	dir, other := t.TempDir(), t.TempDir()
	target, link := filepath.Join(other, "target"), filepath.Join(dir, "link")
	if err := os.WriteFile(target, []byte("old"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	write(t, link, "new")
	check(t, target, "new")
	st, err := os.Lstat(link)
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode()&os.ModeSymlink == 0 {
		t.Error("the link was replaced")
	}
	if st, err = os.Stat(target); err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm() != 0o640 {
		t.Errorf("permissions became %v", st.Mode())
	}
}

func TestDevice(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no device files")
	}
	write(t, os.DevNull, "gone")
	st, err := os.Stat(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().IsRegular() {
		t.Fatalf("%s was replaced by a file", os.DevNull)
	}
}

func TestUnwritable(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "none", "out.txt"): "no such file or directory",
		filepath.Join(file, "out.txt"):        "not a directory",
		dir:                                   "it is a folder",
	} {
		_, err := Create(path)
		if err == nil {
			t.Errorf("%s: no error", path)
			continue
		}
		if got := err.Error(); !strings.HasPrefix(got, "cannot write "+path+": ") || runtime.GOOS != "windows" && !strings.HasSuffix(got, want) {
			t.Errorf("%s: %s", path, got)
		}
	}
}

// TestNothingYet: there is no temporary file before there is something to write.
func TestNothingYet(t *testing.T) {
	dir := t.TempDir()
	f, err := Create(filepath.Join(dir, "out.txt"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(nil); err != nil {
		t.Error(err)
	}
	if got := names(t, dir); got != "" {
		t.Errorf("the folder holds %s", got)
	}
	f.Abort()
	if _, err := f.Write([]byte("x")); err == nil {
		t.Error("written after Abort")
	}
	if got := names(t, dir); got != "" {
		t.Errorf("the folder holds %s", got)
	}
	// An empty file is a file.
	write(t, filepath.Join(dir, "empty"), "")
	check(t, filepath.Join(dir, "empty"), "")
}

func TestWriteAt(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	f, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Abort()
	if err := f.Truncate(6); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("ab"), 3); err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	check(t, path, "\x00\x00\x00ab\x00")
}

// TestLinks: links are followed to where they lead, whether anything is there or not.
func TestLinks(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"a/b", "far/away"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct{ link, to, file string }{
		{"a/dangling", "target", "a/target"},
		{"a/absolute", filepath.Join(root, "far/x"), "far/x"},
		{"a/up", "../far/up", "far/up"},
		{"a/twice", "dangling2", "a/end"},
		{"a/dangling2", "end", "a/end"},
		// b/link leads to far/away, so that .. from there is far.
		{"a/b/link", filepath.Join(root, "far/away"), ""},
		{"a/dots", "b/link/../dots", "far/dots"},
	} {
		if err := os.Symlink(tc.to, filepath.Join(root, tc.link)); err != nil {
			t.Skip(err)
		}
	}
	for link, file := range map[string]string{
		"a/dangling": "a/target", "a/absolute": "far/x", "a/up": "far/up", "a/twice": "a/end", "a/dots": "far/dots", "a/b/link/../plain": "far/plain",
	} {
		path := root + string(filepath.Separator) + link // not cleaned
		write(t, path, link)
		check(t, filepath.Join(root, file), link)
		if st, err := os.Lstat(path); err != nil || link != "a/b/link/../plain" && st.Mode()&os.ModeSymlink == 0 {
			t.Errorf("%s: the link was replaced", link)
		}
	}
	circle := filepath.Join(root, "circle")
	if err := os.Symlink("circle", circle); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(circle); err == nil || !strings.Contains(err.Error(), "symbolic links") {
		t.Errorf("a circle: %v", err)
	}
	nowhere := filepath.Join(root, "nowhere")
	if err := os.Symlink("absent/out", nowhere); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(nowhere); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a link into a folder that is not there: %v", err)
	}
}

func TestLongName(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, strings.Repeat("n", 255))
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Skip(err)
	}
	write(t, path, "long")
	check(t, path, "long")
}

// TestSweep: what a killed process has left is removed by the next one, what is in use
// or somebody else's is not.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	long := time.Now().Add(-24 * time.Hour)
	var want []string
	for name, stays := range map[string]bool{
		".out.txt.sageacc-1a2b3c.tmp": false,
		".other.sageacc-0.tmp":        false,
		".out.txt.sageacc-1A2B.tmp":   false,
		".out.txt.sageacc-.tmp":       true,
		".out.txt.sageacc-mine.x.tmp": true,
		".out.txt.1a2b3c.tmp":         true,
		"out.txt.sageacc-1a2b3c.tmp":  true,
		".out.txt.sageacc-1a2b3c":     true,
		".sageacc-1a2b3c.tmp":         true,
		"notes":                       true,
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("half a f"), 0o644); err != nil {
			t.Fatal(err)
		}
		os.Chtimes(path, long, long)
		if stays {
			want = append(want, name)
		}
	}
	// A folder and a link are no files of ours.
	folder, link := ".d.sageacc-1.tmp", ".l.sageacc-2.tmp"
	if err := os.Mkdir(filepath.Join(dir, folder), 0o755); err != nil {
		t.Fatal(err)
	}
	want = append(want, folder)
	if os.Symlink("notes", filepath.Join(dir, link)) == nil {
		want = append(want, link)
	}
	busy, err := Create(filepath.Join(dir, "busy"))
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Abort()
	if _, err := io.WriteString(busy, "in use"); err != nil {
		t.Fatal(err)
	}
	want = append(want, filepath.Base(busy.f.Name()))
	write(t, filepath.Join(dir, "out.txt"), "whole")
	want = append(want, "out.txt")
	slices.Sort(want)
	if got := names(t, dir); got != strings.Join(want, " ") {
		t.Errorf("the folder holds\n%s, want\n%s", got, strings.Join(want, " "))
	}
	if err := busy.Commit(); err != nil {
		t.Error(err)
	}
	check(t, filepath.Join(dir, "busy"), "in use")
}

// TestFull: a device that takes nothing is an error of the one write or the other.
func TestFull(t *testing.T) {
	const full = "/dev/full"
	if _, err := os.Stat(full); err != nil {
		t.Skip(err)
	}
	f, err := Create(full)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Abort()
	if _, err := io.WriteString(f, "text"); err == nil || !strings.Contains(err.Error(), "cannot write /dev/full: no space left") {
		t.Error(err)
	}
	if err := f.Truncate(5); err == nil {
		t.Error("a device was truncated")
	}
}
