package main

import (
	"bufio"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
)

// A recording holds what a function returned for consecutive bit patterns. On
// disk it is a gzip stream of varints, each the second difference of the
// result bits: the functions are smooth, so these are small.

// pack reads raw little-endian float32 values from r and writes them to w as
// a recording.
func pack(w io.Writer, r io.Reader) error {
	zw, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return err
	}
	in := bufio.NewReaderSize(r, 1<<20)
	var word [4]byte
	var buf [binary.MaxVarintLen64]byte
	var last, slope int64
	for {
		if _, err := io.ReadFull(in, word[:]); err == io.EOF {
			return zw.Close()
		} else if err != nil {
			return err
		}
		v := int64(binary.LittleEndian.Uint32(word[:]))
		d := v - last
		if _, err := zw.Write(buf[:binary.PutVarint(buf[:], d-slope)]); err != nil {
			return err
		}
		last, slope = v, d
	}
}

// unpack reads a recording of n results.
func unpack(r io.Reader, n int) ([]uint32, error) {
	zr, err := gzip.NewReader(r)
	if err != nil {
		return nil, err
	}
	in := bufio.NewReaderSize(zr, 1<<20)
	out := make([]uint32, 0, n)
	var last, slope int64
	for {
		dd, err := binary.ReadVarint(in)
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		slope += dd
		last += slope
		out = append(out, uint32(last))
	}
	if len(out) != n {
		return nil, fmt.Errorf("recording holds %d results, want %d", len(out), n)
	}
	return out, nil
}
