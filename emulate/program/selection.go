package program

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/sageacc/sageacc/emulate/quant"
)

// Selection names a kernel and says what is different about it: the flags of the
// command line, the claim of a manifest, the fields of a recorded case. Empty fields
// leave the kernel's own choice.
type Selection struct {
	// Kernel is a known kernel, an alias, or a file that describes one.
	Kernel string
	// Dir is where a file's path starts, the working directory if it is empty.
	Dir string
	// Arch, QKBits (0, 4 or 8), Granularity, Smooth, PVType and PVAccum are what SetArch,
	// SetBits, SetGranularity, SetSmooth, SetPVType and SetAccum take.
	Arch        string
	QKBits      int
	Granularity string
	Smooth      string
	PVType      string
	PVAccum     string
	// QuantBackend is what SetQuantBackend takes.
	QuantBackend string
	// Variants are lists as Apply takes them, Set changes of single choices, PATH=VALUE,
	// which come last.
	Variants []string
	Set      []string
}

// FieldError is an error in one field of a Selection.
type FieldError struct {
	// Field is the field's name in files: kernel, arch, qk_bits, qk_granularity, smooth,
	// pv_dtype, pv_accum, quant_backend, variant or set.
	Field string
	Err   error
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Err.Error() }
func (e *FieldError) Unwrap() error { return e.Err }

// Program returns the selected kernel, valid as a whole.
func (s Selection) Program() (Program, error) {
	p, err := Load(s.path())
	if err != nil {
		return p, &FieldError{"kernel", err}
	}
	if err := s.edit(&p); err != nil {
		return p, err
	}
	return p, p.Validate()
}

func (s Selection) path() string {
	if s.Dir != "" && isFile(s.Kernel) && !filepath.IsAbs(s.Kernel) {
		return filepath.Join(s.Dir, s.Kernel)
	}
	return s.Kernel
}

// Check reports fields that say nothing, whatever the kernel.
func (s Selection) Check() error {
	p, err := Preset("sage2-8b-sm90")
	if err != nil {
		return err
	}
	// What only some kernels take is theirs to check.
	s.QuantBackend, s.Set = "", nil
	return s.edit(&p)
}

func (s Selection) edit(p *Program) error {
	var err error
	try := func(field string, f func() error) {
		if err == nil {
			if e := f(); e != nil {
				err = &FieldError{field, e}
			}
		}
	}
	if s.Arch != "" {
		try("arch", func() error { return p.SetArch(s.Arch) })
	}
	if s.QKBits != 0 {
		try("qk_bits", func() error { return p.SetBits(s.QKBits) })
	}
	if s.Granularity != "" {
		try("qk_granularity", func() error {
			g, err := quant.ParseGranularity(s.Granularity)
			if err != nil {
				return err
			}
			return p.SetGranularity(g)
		})
	}
	if s.Smooth != "" {
		try("smooth", func() error { return p.SetSmooth(s.Smooth) })
	}
	// An accumulator that goes with the new type only is set first.
	if s.PVType != "" {
		try("pv_dtype", func() error {
			t, err := quant.ParsePVType(s.PVType)
			if err != nil {
				return err
			}
			return p.SetPVType(t)
		})
	}
	if s.PVAccum != "" {
		try("pv_accum", func() error { return p.SetAccum(s.PVAccum) })
	}
	if s.QuantBackend != "" {
		try("quant_backend", func() error { return p.SetQuantBackend(s.QuantBackend) })
	}
	base := *p
	for _, list := range s.Variants {
		try("variant", func() error { return p.Apply(&base, list) })
	}
	for _, change := range s.Set {
		try("set", func() error {
			path, value, ok := strings.Cut(change, "=")
			if !ok {
				return fmt.Errorf("%q: want PATH=VALUE, as in exponent.offset=8", change)
			}
			return p.Set(strings.TrimSpace(path), strings.TrimSpace(value))
		})
	}
	return err
}

// isFile says whether a kernel's name is a file's.
func isFile(name string) bool {
	return strings.ContainsAny(name, `/\`) || strings.HasSuffix(name, ".yaml") || strings.HasSuffix(name, ".yml")
}

// Load returns the kernel of a name: a known one, or that of a file, which ends in .yaml
// or .yml or has a path.
func Load(name string) (Program, error) {
	p, _, err := LoadText(name)
	return p, err
}

// LoadText is Load, and returns the description's text too.
func LoadText(name string) (Program, []byte, error) {
	if !isFile(name) {
		p, err := Preset(name)
		return p, presetText(p.Name), err
	}
	text, err := readFile(name)
	if err != nil {
		return Program{}, nil, err
	}
	p, err := Parse(text)
	if err != nil {
		return p, text, fmt.Errorf("%s: %w", name, err)
	}
	return p, text, nil
}

func readFile(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", name)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxText+1))
}

// Base returns the known kernel that p is made of, with the options of p that have names
// of their own (architecture, widths, granularity, smoothing, type and accumulator of PV):
// what p's deviations are counted from. A kernel that is not known is its own.
func Base(p *Program) Program {
	b, err := Preset(p.Name)
	if err != nil {
		return *p
	}
	// An edit that b does not take leaves it, and is then a deviation.
	b.Arch = p.Arch
	if n := p.Bits(); n != b.Bits() && n != 0 {
		_ = b.SetBits(n)
	}
	if g, err := quant.ParseGranularity(p.QKCodes.Granularity); err == nil && p.QKCodes.Granularity != b.QKCodes.Granularity {
		_ = b.SetGranularity(g)
	}
	if p.Smooth() != b.Smooth() {
		_ = b.SetSmooth(p.Smooth())
	}
	if t, ok := p.PVType(); ok && p.VCodes.Format != b.VCodes.Format {
		_ = b.SetPVType(t)
	}
	if p.Accum() != b.Accum() {
		_ = b.SetAccum(p.Accum())
	}
	return b
}
