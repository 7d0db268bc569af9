//go:build amd64 && !noasm && !gccgo && !safe

package reference

// fuses says that gonum's products may fuse x*y+z: not here, where they are
// assembly that does not.
const fuses = false
