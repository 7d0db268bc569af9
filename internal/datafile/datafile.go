// Package datafile reads files in pieces, by descriptors that a pool bounds, so that
// a dump larger than memory, or of more files than a process may open, can be walked
// layer by layer.
//
// Only regular files are read: a pipe or a device could block or never end. Nothing
// is mapped into memory, because a map of a file that another program truncates
// faults the process; here that is an error which names the file.
package datafile

import (
	"container/list"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// Open opens a regular file for reading from its start. The descriptor is the
// caller's to close.
func Open(path string) (*os.File, error) {
	// A pipe or a device must not even be opened: that may block or have effects.
	// What it is may change in between, so the descriptor is asked too, and opening
	// does not block.
	st, err := os.Stat(path)
	if err != nil {
		return nil, plain(path, err)
	}
	if err := regular(st); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|nonblock, 0)
	if err != nil {
		return nil, plain(path, err)
	}
	if st, err = f.Stat(); err == nil {
		err = regular(st)
	}
	if err != nil {
		f.Close()
		return nil, plain(path, err)
	}
	return f, nil
}

func regular(st fs.FileInfo) error {
	switch mode := st.Mode(); {
	case mode.IsRegular():
		return nil
	case mode.IsDir():
		return errors.New("is a folder")
	case mode&fs.ModeNamedPipe != 0:
		return errors.New("is a pipe, not a regular file")
	case mode&fs.ModeDevice != 0:
		return errors.New("is a device, not a regular file")
	}
	return errors.New("is not a regular file")
}

// plain names the path once and not the system call: the callers' own context repeats
// neither.
func plain(path string, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return fmt.Errorf("%s: %w", path, err)
}

// ReadAll returns the content of a regular file of up to limit bytes.
func ReadAll(path string, limit int64) ([]byte, error) {
	f, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, plain(path, err)
	}
	if st.Size() > limit {
		return nil, fmt.Errorf("%s: %d bytes are over the limit of %d", path, st.Size(), limit)
	}
	// A file of /proc has content though its size is 0.
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, plain(path, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s: more than the limit of %d bytes", path, limit)
	}
	return data, nil
}

// Pool holds the descriptors of open files, the most recently read ones.
type Pool struct {
	mu    sync.Mutex
	max   int
	open  *list.List // of *File, most recently read first
	spool *os.File
	end   int64 // of what was spooled
}

// NewPool returns a pool of up to max descriptors. More are open only while more
// files are being read at the same moment.
func NewPool(max int) *Pool { return &Pool{max: max, open: list.New()} }

// File is a regular file whose content is read in pieces. It is safe for concurrent
// use.
type File struct {
	path  string
	stat  fs.FileInfo // when it was opened
	pool  *Pool
	f     *os.File // nil while it is closed
	users int      // readings going on
	place *list.Element
}

// Open opens a file that is not to change until it is closed.
func (p *Pool) Open(path string) (*File, error) {
	f := &File{path: path, pool: p}
	if _, err := f.acquire(); err != nil {
		return nil, err
	}
	f.release()
	return f, nil
}

// Close closes all files, and drops what was spooled. Reading them is an error then.
func (p *Pool) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.max = -1
	var errs []error
	for p.open.Len() > 0 {
		errs = append(errs, p.close(p.open.Front().Value.(*File)))
	}
	if p.spool != nil {
		errs = append(errs, p.spool.Close())
		p.spool = nil
		// Where an open file cannot be removed, it is now.
		spools.sweep()
	}
	return errors.Join(errs...)
}

// close closes a file's descriptor. The pool is locked.
func (p *Pool) close(f *File) error {
	p.open.Remove(f.place)
	err := f.f.Close()
	f.f, f.place = nil, nil
	return err
}

// evict closes files until no more than n are open, or those that are are being read.
// The pool is locked.
func (p *Pool) evict(n int) {
	for e := p.open.Back(); e != nil && p.open.Len() > n; {
		f := e.Value.(*File)
		e = e.Prev()
		if f.users == 0 {
			p.close(f) // it was only read: nothing is lost
		}
	}
}

// acquire returns the file's descriptor, which is kept open until release.
func (f *File) acquire() (*os.File, error) {
	p := f.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.max < 0 {
		return nil, fmt.Errorf("%s: %w", f.path, os.ErrClosed)
	}
	if f.f == nil {
		p.evict(p.max - 1)
		fd, err := Open(f.path)
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
			p.evict(0)
			fd, err = Open(f.path)
		}
		if err != nil {
			return nil, err
		}
		st, err := fd.Stat()
		if err == nil && f.stat != nil {
			err = f.same(st)
		}
		if err != nil {
			fd.Close()
			return nil, plain(f.path, err)
		}
		if f.stat == nil {
			f.stat = st
		}
		f.f, f.place = fd, p.open.PushFront(f)
	} else {
		p.open.MoveToFront(f.place)
	}
	f.users++
	return f.f, nil
}

func (f *File) release() {
	f.pool.mu.Lock()
	f.users--
	f.pool.mu.Unlock()
}

// errChanged is what is wrong with a file that is not the one that was opened.
var errChanged = errors.New("the file was changed while it was being read")

// same reports what is not the file that was opened, or was changed since.
func (f *File) same(st fs.FileInfo) error {
	if !os.SameFile(st, f.stat) || st.Size() != f.stat.Size() || !st.ModTime().Equal(f.stat.ModTime()) {
		return errChanged
	}
	return nil
}

// Size returns the file's size when it was opened.
func (f *File) Size() int64 { return f.stat.Size() }

// ReadAt implements [io.ReaderAt]. Every error but io.EOF names the file; that it
// became shorter than it was is one of them.
func (f *File) ReadAt(b []byte, off int64) (int, error) {
	fd, err := f.acquire()
	if err != nil {
		return 0, err
	}
	defer f.release()
	n, err := fd.ReadAt(b, off)
	switch {
	case err == nil:
		return n, nil
	case err != io.EOF:
		return n, plain(f.path, err)
	case off+int64(n) < f.Size():
		return n, fmt.Errorf("%s: %w: it ends at byte %d of %d", f.path, errChanged, off+int64(n), f.Size())
	}
	return n, io.EOF
}

// Check reports a file that was changed since it was opened. One that another file
// has taken the place of is still what was opened.
func (f *File) Check() error {
	fd, err := f.acquire()
	if err != nil {
		return err
	}
	defer f.release()
	st, err := fd.Stat()
	if err == nil {
		err = f.same(st)
	}
	if err != nil {
		return plain(f.path, err)
	}
	return nil
}

// Spool runs fill with a writer into the pool's temporary file, which has no name
// where the system allows that, and returns a reader of what was written. It keeps
// data that must be produced, such as an archive's inflated entries, out of memory.
// It is for one goroutine at a time.
func (p *Pool) Spool(fill func(io.Writer) error) (*io.SectionReader, error) {
	if p.spool == nil {
		f, err := spools.create()
		if err != nil {
			return nil, err
		}
		p.spool = f
	}
	w := io.NewOffsetWriter(p.spool, p.end)
	if err := fill(w); err != nil {
		return nil, err
	}
	n, err := w.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, err
	}
	section := io.NewSectionReader(p.spool, p.end, n)
	p.end += n
	return section, nil
}

// Spooled returns how many bytes were spooled.
func (p *Pool) Spooled() int64 { return p.end }

// spools is the pattern of the names of temporary files.
const spools = spoolPattern("sageacc-spool-*")

type spoolPattern string

func (s spoolPattern) create() (*os.File, error) {
	s.sweep()
	f, err := os.CreateTemp("", string(s))
	if err != nil {
		return nil, err
	}
	os.Remove(f.Name()) // if it cannot be removed while it is open, it is later
	return f, nil
}

// sweep removes files that could not be removed while they were open, also those of
// a process that was killed. One that is in use stays: either it has no name, or the
// system does not remove it.
func (s spoolPattern) sweep() {
	names, err := filepath.Glob(filepath.Join(os.TempDir(), string(s)))
	if err != nil {
		return
	}
	for _, name := range names {
		os.Remove(name)
	}
}
