// Package recordlog is a file that records are appended to, each with a checksum, so that
// what a process had finished is there after it was killed.
//
// A record is a line of text: the CRC-32C of what follows the blank in eight hexadecimal
// digits, a blank, and the record, which holds no line feed. A line that is not whole, or
// whose checksum is another, is no record: it is passed over, and counted.
package recordlog

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strconv"

	"github.com/sageacc/sageacc/internal/datafile"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// overhead is what a line takes beside its record.
const overhead = 10

// longest is how long a record may be.
const longest = 1 << 30

// encode writes a record as a line.
func encode(record []byte) []byte {
	return fmt.Appendf(make([]byte, 0, len(record)+overhead), "%08x %s\n", crc32.Checksum(record, castagnoli), record)
}

// decode returns the record of a line, with or without its line feed.
func decode(line []byte) ([]byte, bool) {
	line = bytes.TrimSuffix(line, []byte("\n"))
	if len(line) < overhead-1 || line[8] != ' ' {
		return nil, false
	}
	sum, err := strconv.ParseUint(string(line[:8]), 16, 32)
	record := line[9:]
	return record, err == nil && uint32(sum) == crc32.Checksum(record, castagnoli)
}

// Scan calls f with every record of a file, in order, and where its line starts. It
// returns where the last whole line ends, and how many lines are no records. The record
// is f's for the call alone.
func Scan(path string, f func(offset int64, record []byte) error) (end int64, damaged int, err error) {
	in, err := datafile.Open(path)
	if err != nil {
		return 0, 0, err
	}
	defer in.Close()
	r := bufio.NewReaderSize(in, 1<<16)
	var line []byte
	for {
		line = line[:0]
		var part []byte
		for {
			part, err = r.ReadSlice('\n')
			if line = append(line, part...); err != bufio.ErrBufferFull || len(line) > longest {
				break
			}
		}
		switch {
		case err == io.EOF && len(line) == 0:
			return end, damaged, nil
		case err == io.EOF: // torn
			return end, damaged + 1, nil
		case err == bufio.ErrBufferFull:
			return end, damaged, fmt.Errorf("%s: not a journal: a line of more than %d bytes", path, longest)
		case err != nil:
			return end, damaged, fmt.Errorf("%s: %w", path, err)
		}
		record, ok := decode(line)
		if !ok {
			damaged++
		} else if err := f(end, record); err != nil {
			return end, damaged, err
		}
		end += int64(len(line))
	}
}

// Log is a file that is open to be appended to. It is for one goroutine at a time.
type Log struct {
	f    *os.File
	path string
	end  int64
}

// errUsed is what is wrong with a log that another process appends to.
var errUsed = errors.New("another run is writing to it")

// Create makes a new file. One that is there is an error that is [os.ErrExist].
func Create(path string) (*Log, error) {
	return open(path, os.O_RDWR|os.O_CREATE|os.O_EXCL)
}

func open(path string, flag int) (*Log, error) {
	f, err := os.OpenFile(path, flag, 0o666)
	if err == nil && !lock(f) {
		f.Close()
		err = errUsed
	}
	if err != nil {
		var pe *os.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &Log{f: f, path: path}, nil
}

// Open opens a file to be appended to and calls f with what is in it, as Scan does. What
// is after the last whole line is cut off.
func Open(path string, f func(offset int64, record []byte) error) (*Log, int, error) {
	// A pipe or a device must not be opened.
	probe, err := datafile.Open(path)
	if err != nil {
		return nil, 0, err
	}
	probe.Close()
	l, err := open(path, os.O_RDWR)
	if err != nil {
		return nil, 0, err
	}
	end, damaged, err := Scan(path, f)
	if err == nil {
		if err = l.f.Truncate(end); err != nil {
			err = l.failed(err)
		}
	}
	if err != nil {
		l.f.Close()
		return nil, 0, err
	}
	l.end = end
	return l, damaged, nil
}

func (l *Log) failed(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return fmt.Errorf("cannot write %s: %w", l.path, err)
}

// Append writes a record and returns where its line starts. If it fails nothing of the
// record is left, as far as the system lets it.
func (l *Log) Append(record []byte) (offset int64, err error) {
	if bytes.IndexByte(record, '\n') >= 0 || len(record) > longest-overhead {
		return 0, fmt.Errorf("%s: a record that is no line", l.path)
	}
	line := encode(record)
	if _, err := l.f.WriteAt(line, l.end); err != nil {
		_ = l.f.Truncate(l.end) // what remains is passed over
		return 0, l.failed(err)
	}
	offset = l.end
	l.end += int64(len(line))
	return offset, nil
}

// Sync puts what was written on the disk.
func (l *Log) Sync() error {
	if err := l.f.Sync(); err != nil {
		return l.failed(err)
	}
	return nil
}

// Path is the file's name.
func (l *Log) Path() string { return l.path }

// Close closes the file.
func (l *Log) Close() error {
	if err := l.f.Close(); err != nil {
		return l.failed(err)
	}
	return nil
}

// Remove closes the file and removes it.
func (l *Log) Remove() error {
	return errors.Join(l.Close(), os.Remove(l.path))
}

// Record reads the record whose line starts at offset.
func Record(path string, offset int64) ([]byte, error) {
	f, err := datafile.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	line, err := bufio.NewReader(io.NewSectionReader(f, offset, longest)).ReadBytes('\n')
	record, ok := decode(line)
	if err != nil || !ok {
		return nil, fmt.Errorf("%s: the file was changed while it was being read", path)
	}
	return record, nil
}
