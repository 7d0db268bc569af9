package atomicfile

import (
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
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
