//go:build !(amd64 || arm64) || purego

package exact

// Levels returns what this machine can run, the best last.
func Levels() []Level { return []Level{Portable} }

func (l Level) kernels() kernels { panic("exact: no vector instructions") }
