//go:build !unix

package datafile

const nonblock = 0
