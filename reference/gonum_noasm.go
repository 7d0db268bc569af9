//go:build !amd64 || noasm || gccgo || safe

package reference

// fuses says that gonum's products may fuse x*y+z, as compilers may in its
// portable loops. Here the products are computed by strictProduct, whose roundings
// are explicit: slower, and the same bits everywhere.
const fuses = true
