package layerdumps

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sageacc/sageacc/internal/datafile"
)

// extIndex is the ending of the index of a safetensors file that was cut into shards, as
// model.safetensors.index.json of transformers.
const extIndex = ".safetensors.index.json"

// maxIndex is how large an index may be, in bytes.
const maxIndex = 100_000_000

func isIndex(path string) bool { return strings.HasSuffix(strings.ToLower(path), extIndex) }

// index says which tensors are in which files.
type index struct {
	path string
	// tensors of each file, by its path.
	tensors map[string][]string
}

// readIndex reads an index. Its files are beside it, or below.
func readIndex(name string) (*index, error) {
	data, err := datafile.ReadAll(name, maxIndex)
	if err != nil {
		return nil, err
	}
	var x struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(data, &x); err != nil {
		return nil, fmt.Errorf("%s: not an index of safetensors files: %w", name, err)
	}
	if len(x.WeightMap) == 0 {
		return nil, fmt.Errorf("%s: not an index of safetensors files: it has no weight_map", name)
	}
	out := &index{name, make(map[string][]string)}
	for tensor, file := range x.WeightMap {
		// In the index, paths are those of URLs.
		if !filepath.IsLocal(filepath.FromSlash(file)) || path.Clean(file) != file || !strings.HasSuffix(strings.ToLower(file), extSafetensors) {
			return nil, fmt.Errorf("%s: tensor %q is said to be in %q, which is no safetensors file beside the index", name, tensor, file)
		}
		at := filepath.Join(filepath.Dir(name), filepath.FromSlash(file))
		out.tensors[at] = append(out.tensors[at], tensor)
	}
	return out, nil
}

// files are the files of the index, by name.
func (x *index) files() []string { return slices.Sorted(maps.Keys(x.tensors)) }

// check reports a tensor of the index that its file has not.
func (x *index) check(file string, raw []rawTensor) error {
	have := make(map[string]bool, len(raw))
	for i := range raw {
		have[raw[i].name] = true
	}
	for _, t := range slices.Sorted(slices.Values(x.tensors[file])) {
		if !have[t] {
			return fmt.Errorf("%s: there is no tensor %q, which %s says is in it", file, t, x.path)
		}
	}
	return nil
}
