//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package recordlog

import "os"

// lock has nothing to lock with.
func lock(*os.File) bool { return true }
