package program

import (
	"embed"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
)

//go:embed presets/*.yaml
var presetFiles embed.FS

// presets are the known kernels, by name, each parsed when it is first asked for. Nothing
// changes them.
var presets = func() map[string]func() Program {
	m := map[string]func() Program{}
	files, err := presetFiles.ReadDir("presets")
	if err != nil {
		panic(err) // embedded
	}
	for _, f := range files {
		name := strings.TrimSuffix(f.Name(), path.Ext(f.Name()))
		m[name] = sync.OnceValue(func() Program {
			p, err := Parse(presetText(name))
			if err != nil {
				panic(fmt.Sprintf("presets/%s: %v", f.Name(), err)) // a test parses them all
			}
			return p
		})
	}
	return m
}()

// presetText returns the file of a known kernel, nil if there is none.
func presetText(name string) []byte {
	text, err := presetFiles.ReadFile("presets/" + name + ".yaml")
	if err != nil {
		return nil
	}
	return text
}

// Names lists the known kernels.
func Names() []string {
	var out []string
	for name := range presets {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// Presets returns the known kernels, by name.
func Presets() []Program {
	var out []Program
	for _, name := range Names() {
		p, _ := Preset(name)
		out = append(out, p)
	}
	return out
}

// Preset returns the known kernel of that name, or of an alias. The caller owns it.
func Preset(name string) (Program, error) {
	for _, a := range aliases {
		if a.name == name {
			p, err := Preset(a.kernel)
			if err == nil {
				err = a.edit(&p)
			}
			return p, err
		}
	}
	preset, ok := presets[name]
	if !ok {
		return Program{}, fmt.Errorf("unknown kernel %q (have %s)", name, strings.Join(append(Names(), Aliases()...), ", "))
	}
	p := preset()
	p.Tiles.Shapes, p.Tiles.SplitShapes = slices.Clone(p.Tiles.Shapes), slices.Clone(p.Tiles.SplitShapes)
	return p, nil
}
