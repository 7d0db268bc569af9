// Package atomicfile writes files that are complete or not there: the content
// goes to a temporary file in the same folder, which takes the wanted name when
// all of it has been written.
//
//	f, err := atomicfile.Create(path)
//	if err != nil {
//		return err
//	}
//	defer f.Abort()
//	... write to f ...
//	return f.Commit()
package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
)

// File is a file in the making.
type File struct {
	f *os.File
	// path is the name that the caller knows, target the one that Commit renames
	// to: it differs where path is a symbolic link.
	path, target string
	// direct says that there is no temporary file.
	direct bool
	done   bool
}

// Create starts a file at path. What can be known to stand in the way is an
// error here and not of Commit: a folder that is missing or not writable, or a
// folder in the file's place.
//
// A symbolic link is followed, and an existing file's permissions are kept.
// Where path is neither a file nor a folder, such as /dev/stdout or a named
// pipe, there is nothing to rename, and the content goes there directly.
func Create(path string) (*File, error) {
	out := &File{path: path, target: path}
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("cannot write %s: %w", path, cause(err))
	case st.IsDir():
		return nil, fmt.Errorf("cannot write %s: it is a folder", path)
	case !st.Mode().IsRegular():
		out.direct = true
		if out.f, err = os.OpenFile(path, os.O_WRONLY, 0); err != nil {
			return nil, fmt.Errorf("cannot write %s: %w", path, cause(err))
		}
		return out, nil
	default:
		if out.target, err = filepath.EvalSymlinks(path); err != nil {
			return nil, fmt.Errorf("cannot write %s: %w", path, cause(err))
		}
	}
	if out.f, err = createTemp(out.target); err != nil {
		return nil, fmt.Errorf("cannot write %s: %w", path, cause(err))
	}
	if st != nil {
		if err := out.f.Chmod(st.Mode().Perm()); err != nil {
			out.Abort()
			return nil, fmt.Errorf("cannot write %s: %w", path, cause(err))
		}
	}
	return out, nil
}

// createTemp is os.CreateTemp with the permissions of an ordinary new file,
// which only the system knows.
func createTemp(target string) (*os.File, error) {
	dir, base := filepath.Split(target)
	const attempts = 1000
	for i := 0; ; i++ {
		name := filepath.Join(dir, "."+base+"."+strconv.FormatUint(uint64(rand.Uint32()), 36))
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
		if err == nil || !errors.Is(err, fs.ErrExist) || i == attempts {
			return f, err
		}
	}
}

// Write implements io.Writer.
func (f *File) Write(p []byte) (int, error) {
	n, err := f.f.Write(p)
	if err != nil {
		err = fmt.Errorf("cannot write %s: %w", f.path, cause(err))
	}
	return n, err
}

// Commit closes the file and gives it its name. If it fails, nothing of the
// file is left.
func (f *File) Commit() error {
	if f.done {
		return nil
	}
	f.done = true
	err := f.f.Close()
	if err == nil && !f.direct {
		err = os.Rename(f.f.Name(), f.target)
	}
	if err != nil {
		f.remove()
		return fmt.Errorf("cannot write %s: %w", f.path, cause(err))
	}
	return nil
}

// Abort drops the file. After Commit it does nothing, so that it can be
// deferred.
func (f *File) Abort() {
	if f.done {
		return
	}
	f.done = true
	f.f.Close() // nothing of what was written is wanted
	f.remove()
}

// remove removes the temporary file. It does what it can: the error that led
// here is the one to report.
func (f *File) remove() {
	if !f.direct {
		os.Remove(f.f.Name())
	}
}

// cause strips an error of the temporary file's name, which means nothing to
// the caller.
func cause(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	var link *os.LinkError
	if errors.As(err, &link) {
		return link.Err
	}
	return err
}
