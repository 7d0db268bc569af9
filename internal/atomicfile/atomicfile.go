// Package atomicfile writes files that are complete or not there: the content
// goes to a temporary file in the same folder, which takes the wanted name when
// all of it has been written and is on the disk.
//
//	f, err := atomicfile.Create(path)
//	if err != nil {
//		return err
//	}
//	defer f.Abort()
//	... write to f ...
//	return f.Commit()
//
// A process that is killed leaves at most its temporary file, which the next one that
// writes to that folder removes.
package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// File is a file in the making.
type File struct {
	// f is nil until there is something to write.
	f *os.File
	// path is the name that the caller knows, target the one that Commit renames
	// to: it differs where path is a symbolic link.
	path, target string
	// perm is that of an existing file, which is kept.
	perm   fs.FileMode
	exists bool
	// direct says that there is no temporary file.
	direct bool
	done   bool
}

// Create starts a file at path. What can be known to stand in the way is an
// error here and not of Commit: a folder that is missing or not writable, or a
// folder in the file's place. Nothing is made before there is something to write.
//
// A symbolic link is followed, also one to a file that is not there yet, and an
// existing file's permissions are kept. Where path is a device that is written as a
// stream, such as /dev/stdout, or a named pipe, there is nothing to rename, and the
// content goes there directly; a pipe must have somebody who reads it.
func Create(path string) (*File, error) {
	out := &File{path: path}
	if err := out.prepare(); err != nil {
		return nil, out.failed(err)
	}
	return out, nil
}

// failed is the error of a file that cannot be written, without the temporary file's
// name, which means nothing to the caller.
func (f *File) failed(err error) error {
	var path *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &path):
		err = path.Err
	case errors.As(err, &link):
		err = link.Err
	}
	return fmt.Errorf("cannot write %s: %w", f.path, err)
}

func (f *File) prepare() error {
	st, err := os.Stat(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case st.IsDir():
		return errors.New("it is a folder")
	case !st.Mode().IsRegular():
		f.direct = true
		f.f, err = openStream(f.path, st.Mode())
		return err
	default:
		f.exists, f.perm = true, st.Mode().Perm()
	}
	if f.target, err = follow(f.path); err != nil {
		return err
	}
	return writable(filepath.Dir(f.target))
}

// openStream opens what is neither a file nor a folder, without waiting for anybody.
func openStream(path string, mode fs.FileMode) (*os.File, error) {
	if mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0 {
		return nil, errors.New("it is a disk")
	}
	f, err := os.OpenFile(path, os.O_WRONLY|nonblock, 0)
	if err != nil && mode&fs.ModeNamedPipe != 0 {
		return nil, errors.New("it is a pipe that nobody reads")
	}
	return f, err
}

// follow returns the name that path's symbolic links lead to, which need not be there.
func follow(path string) (string, error) {
	const most = 40 // as in Linux
	for range most {
		dir, base := filepath.Split(path)
		if dir == "" {
			dir = "."
		}
		dir, err := filepath.EvalSymlinks(dir)
		if err != nil {
			return "", err
		}
		path = filepath.Join(dir, base)
		st, err := os.Lstat(path)
		if err != nil || st.Mode()&fs.ModeSymlink == 0 {
			if errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
			return path, err
		}
		link, err := os.Readlink(path)
		if err != nil {
			return "", err
		}
		if path = link; !filepath.IsAbs(link) {
			// Not cleaned: what .. means depends on the links in front of it.
			path = dir + string(filepath.Separator) + link
		}
	}
	return "", errors.New("too many levels of symbolic links")
}

// The names of temporary files are ".NAME.sageacc-RANDOM.tmp".
const (
	mark   = ".sageacc-"
	ending = ".tmp"
	// longest is how much of a name is taken, so that the name of the temporary file
	// is not too long for the system where NAME itself is not.
	longest = 128
)

// create makes the temporary file, with the permissions of an ordinary new file, which
// only the system knows.
func (f *File) create() error {
	if f.done {
		return os.ErrClosed
	}
	if f.f != nil {
		return nil
	}
	dir, base := filepath.Split(f.target)
	sweep(dir)
	const attempts = 1000
	for i := 0; ; i++ {
		name := filepath.Join(dir, "."+base[:min(len(base), longest)]+mark+strconv.FormatUint(uint64(rand.Uint32()), 36)+ending)
		t, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
		if err == nil {
			// Another process may take the file for one that was left behind, as
			// long as it is not locked.
			if claim(t) {
				f.f = t
				break
			}
			t.Close()
			os.Remove(name)
			err = fs.ErrExist
		}
		if !errors.Is(err, fs.ErrExist) || i == attempts {
			return err
		}
	}
	if f.exists {
		return f.f.Chmod(f.perm)
	}
	return nil
}

// sweep removes temporary files in dir that a process has left which was killed. It
// does what it can: what it leaves is in nobody's way.
func sweep(dir string) {
	if dir == "" {
		dir = "."
	}
	d, err := os.Open(dir)
	if err != nil {
		return
	}
	defer d.Close()
	for {
		names, err := d.Readdirnames(1000)
		for _, name := range names {
			if isTemporary(name) {
				removeAbandoned(filepath.Join(dir, name))
			}
		}
		if err != nil {
			return
		}
	}
}

// isTemporary reports whether a file has the name of a temporary one.
func isTemporary(name string) bool {
	rest, ok := strings.CutSuffix(name, ending)
	i := strings.LastIndex(rest, mark)
	if !ok || i < 1 || name[0] != '.' {
		return false
	}
	_, err := strconv.ParseUint(rest[i+len(mark):], 36, 32)
	return err == nil
}

// Write implements io.Writer.
func (f *File) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := f.create(); err != nil {
		return 0, f.failed(err)
	}
	n, err := f.f.Write(p)
	if err != nil {
		err = f.failed(err)
	}
	return n, err
}

// errStream is what a stream gives that is to be written at any place.
var errStream = errors.New("it is no regular file")

// WriteAt implements io.WriterAt. A device or a pipe cannot be written so.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	if f.direct {
		return 0, f.failed(errStream)
	}
	if err := f.create(); err != nil {
		return 0, f.failed(err)
	}
	n, err := f.f.WriteAt(p, off)
	if err != nil {
		err = f.failed(err)
	}
	return n, err
}

// Truncate sets the size of the file; what is added is zero.
func (f *File) Truncate(size int64) error {
	if f.direct {
		return f.failed(errStream)
	}
	err := f.create()
	if err == nil {
		err = f.f.Truncate(size)
	}
	if err != nil {
		err = f.failed(err)
	}
	return err
}

// Commit closes the file and gives it its name. If it fails, nothing of the
// file is left.
func (f *File) Commit() error {
	if f.done {
		return nil
	}
	if err := f.create(); err != nil { // if nothing was written
		f.Abort()
		return f.failed(err)
	}
	f.done = true
	if f.direct {
		if err := f.f.Close(); err != nil {
			return f.failed(err)
		}
		return nil
	}
	// On the disk before it has the name: after a power failure there is the old file
	// or the new one.
	err := f.f.Sync()
	if err == nil {
		err = f.rename()
	}
	if err != nil {
		f.remove()
		return f.failed(err)
	}
	syncFolder(filepath.Dir(f.target))
	return nil
}

// Abort drops the file. After Commit it does nothing, so that it can be
// deferred.
func (f *File) Abort() {
	if f.done {
		return
	}
	f.done = true
	if f.f != nil {
		f.remove()
	}
}

// remove removes the temporary file. It does what it can: the error that led
// here is the one to report.
func (f *File) remove() {
	f.f.Close() // nothing of what was written is wanted
	if !f.direct {
		os.Remove(f.f.Name())
	}
}
