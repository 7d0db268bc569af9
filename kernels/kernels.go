// Package kernels holds the CUDA side: the sources of this project's own
// attention kernels and of the probes, their built images, and the manifests that
// say how to run them. The images are embedded, so that running them needs a
// driver and no compiler.
//
// The sources are in attention and probes; build.sh builds images. attention/broken
// has variants with one deliberate fault each, which are not embedded.
package kernels

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"strings"

	"github.com/sageacc/sageacc/kernels/manifest"
)

//go:embed images manifests
var files embed.FS

// Kernel is an attention kernel that can be run.
type Kernel struct {
	Manifest *manifest.Manifest
	// Image is a PTX text or a cubin.
	Image []byte
}

// images says which image a manifest's kernel is in.
var images = map[string]string{
	"sage2-4b":      "sage2_4b.ptx",
	"sage2-8b-sm90": "sage2_8b_sm90.cubin",
}

// Names returns the names of this project's attention kernels.
func Names() []string { return []string{"sage2-4b", "sage2-8b-sm90"} }

// Named returns the kernel of that name.
func Named(name string) (*Kernel, error) {
	image, ok := images[name]
	if !ok {
		return nil, fmt.Errorf("no kernel %q (have %s)", name, strings.Join(Names(), ", "))
	}
	text, err := files.ReadFile("manifests/" + name + ".yaml")
	if err != nil {
		return nil, err
	}
	m, err := manifest.Read(name+".yaml", bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	k := &Kernel{Manifest: m}
	k.Image, err = Image(image)
	return k, err
}

// Image returns a built image: units.ptx or wgmma.cubin, say.
func Image(name string) ([]byte, error) { return fs.ReadFile(files, "images/"+name) }
