package kernels

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/kernels/manifest"
)

// An image that is older than its sources, or changed by hand, is found by the
// stamps that build.sh writes.
func TestImagesAreCurrent(t *testing.T) {
	f, err := os.Open("images/stamps.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sum := func(names ...string) string {
		h := sha256.New()
		for _, n := range names {
			b, err := os.ReadFile(n)
			if err != nil {
				t.Fatal(err)
			}
			h.Write(b)
		}
		return hex.EncodeToString(h.Sum(nil))
	}
	seen := map[string]bool{}
	scan := bufio.NewScanner(f)
	for scan.Scan() {
		line := scan.Text()
		if strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) < 4 {
			t.Fatalf("stamps.txt: bad line %q", line)
		}
		image, sources := fields[2], fields[3:]
		seen[strings.TrimPrefix(image, "images/")] = true
		if sum(image) != fields[0] {
			t.Errorf("%s is not what build.sh built: run kernels/build.sh", image)
		}
		if sum(sources...) != fields[1] {
			t.Errorf("%s is older than its sources %v: run kernels/build.sh", image, sources)
		}
		// A source includes nothing that the stamp does not cover.
		for _, s := range sources {
			b, err := os.ReadFile(s)
			if err != nil {
				t.Fatal(err)
			}
			for l := range strings.Lines(string(b)) {
				if name, ok := strings.CutPrefix(l, `#include "`); ok && !strings.Contains(line, strings.TrimRight(name, "\"\n")) {
					t.Errorf("%s: the stamp of %s does not cover %s", s, image, name)
				}
			}
		}
	}
	entries, err := files.ReadDir("images")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "stamps.txt" && !seen[e.Name()] {
			t.Errorf("images/%s has no stamp", e.Name())
		}
	}
}

// The manifests name entry points that the images have, with as many arguments as
// the sources say.
func TestManifestsFitImages(t *testing.T) {
	for _, name := range Names() {
		k, err := Named(name)
		if err != nil {
			t.Fatal(err)
		}
		if k.Manifest.Name != name {
			t.Errorf("%s.yaml is called %q", name, k.Manifest.Name)
		}
		for _, dtype := range k.Manifest.DTypes {
			for _, dim := range k.Manifest.HeadDims {
				for _, causal := range []bool{false, true} {
					plan, err := k.Manifest.Plan(manifest.Problem{Batch: 1, Heads: 4, KVHeads: 2, Queries: 100, Keys: 77, HeadDim: dim, DType: dtype, Causal: causal, Scale: 0.1})
					if err != nil {
						t.Fatal(err)
					}
					for _, l := range plan.Launches {
						if !bytes.Contains(k.Image, []byte(l.Entry)) {
							t.Errorf("%s: no entry %s in the image", name, l.Entry)
						}
						// PTX names each parameter.
						if params := bytes.Count(k.Image, []byte(".param .")); params > 0 {
							last := l.Entry + "_param_"
							if !bytes.Contains(k.Image, []byte(last+strconv.Itoa(len(l.Args)-1))) || bytes.Contains(k.Image, []byte(last+strconv.Itoa(len(l.Args)))) {
								t.Errorf("%s: %s does not take %d arguments", name, l.Entry, len(l.Args))
							}
						}
					}
				}
			}
		}
	}
	if _, err := Named("flash"); err == nil {
		t.Error("an unknown kernel gives no error")
	}
	for _, name := range []string{"units.ptx", "wgmma.cubin"} {
		if b, err := Image(name); err != nil || len(b) == 0 {
			t.Errorf("Image(%s): %d bytes, %v", name, len(b), err)
		}
	}
}
