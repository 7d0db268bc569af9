package layerdumps

import (
	"fmt"
	"slices"
	"strings"
)

// The indices of what comes after those in roles: a log-sum-exp, and what else a call may
// be given.
const (
	lse = len(roles) + iota
	maskRole
	qDescale
	kDescale
	vDescale
	cuSeqlensQ
	cuSeqlensK
	blockMapRole
)

// roleNames are the names that tensors of a role have: the first is the last part of
// <layer>.q, the others stand for it where there is none of that.
var roleNames = [...][]string{
	{"q", "query"},
	{"k", "key"},
	{"v", "value"},
	{"o", "out", "output", "attn_output"},
	{"lse"},
	{"mask", "attn_mask", "attention_mask", "attn_bias"},
	{"q_descale"},
	{"k_descale"},
	{"v_descale"},
	{"cu_seqlens_q"},
	{"cu_seqlens_k"},
	{"block_map"},
}

// roleList names the roles for messages.
func roleList() string {
	var names []string
	for _, r := range roleNames {
		names = append(names, r[0])
	}
	return strings.Join(names[:len(names)-1], ", ") + " or " + names[len(names)-1]
}

// BareLayer is the name of the layer of tensors that are called q, k and v alone.
const BareLayer = "attn"

// placeholder stands for the layer's name in a pattern.
const placeholder = "{layer}"

// Names say how tensors are called where that is not <layer>.q: by role, q, k, v, o, lse,
// mask, q_descale, k_descale, v_descale, cu_seqlens_q, cu_seqlens_k or block_map, a pattern
// in which {layer} stands for the layer's name, or which is the whole name of a single layer's
// tensor. Roles without a pattern keep their names.
type Names map[string]string

// ParseNames reads lists of ROLE=PATTERN, separated by commas: q={layer}/query.
func ParseNames(lists []string) (Names, error) {
	n := make(Names)
	for _, list := range lists {
		for item := range strings.SplitSeq(list, ",") {
			role, pattern, ok := strings.Cut(item, "=")
			role, pattern = strings.TrimSpace(role), strings.TrimSpace(pattern)
			switch {
			case !ok || pattern == "":
				return nil, fmt.Errorf("%q is not ROLE=PATTERN, as in q=%s/query", item, placeholder)
			case !slices.ContainsFunc(roleNames[:], func(names []string) bool { return names[0] == role }):
				return nil, fmt.Errorf("%q: unknown role %q, want %s", item, role, roleList())
			case strings.Count(pattern, placeholder) > 1:
				return nil, fmt.Errorf("%q has %s more than once", item, placeholder)
			case n[role] != "":
				return nil, fmt.Errorf("%q: %s is given twice", item, role)
			}
			n[role] = pattern
		}
	}
	return n, nil
}

// part is what a tensor's name says.
type part struct {
	layer string
	role  int
	// weak names may also mean something else: they count only where they complete a
	// layer and no other tensor has that role.
	weak bool
}

// find takes a tensor's name apart. A name that two patterns fit is an error.
func (n Names) find(name string) (p part, ok bool, err error) {
	for role, names := range roleNames {
		pattern, given := n[names[0]]
		if !given {
			continue
		}
		layer, fits := fit(pattern, name)
		if !fits {
			continue
		}
		if ok {
			return part{}, false, fmt.Errorf("tensor %q fits the names of both %s and %s", name, roleNames[p.role][0], names[0])
		}
		p, ok = part{layer: layer, role: role}, true
	}
	if ok {
		return p, true, nil
	}
	dot := strings.LastIndexByte(name, '.')
	for role, names := range roleNames {
		if _, given := n[names[0]]; given {
			continue
		}
		i := slices.Index(names, name[dot+1:])
		switch {
		case i < 0:
		case dot < 0:
			return part{BareLayer, role, true}, true, nil
		case dot > 0:
			return part{name[:dot], role, i > 0}, true, nil
		}
	}
	return part{}, false, nil
}

// fit finds the layer's name in a tensor's.
func fit(pattern, name string) (layer string, ok bool) {
	before, after, many := strings.Cut(pattern, placeholder)
	if !many {
		return BareLayer, name == pattern
	}
	if len(name) <= len(before)+len(after) || !strings.HasPrefix(name, before) || !strings.HasSuffix(name, after) {
		return "", false
	}
	return name[len(before) : len(name)-len(after)], true
}

// String says how the tensors of a role are called.
func (n Names) describe(role int) string {
	names := roleNames[role]
	if pattern, given := n[names[0]]; given {
		return strings.ReplaceAll(pattern, placeholder, "<layer>")
	}
	return "<layer>." + names[0]
}

// absent says that no tensor belongs to a layer, and what there is instead.
func (n Names) absent(paths []string, there string, wanted ...int) error {
	var names []string
	for _, role := range wanted {
		names = append(names, n.describe(role))
	}
	want := names[0]
	if len(names) > 1 {
		want = strings.Join(names[:len(names)-1], ", ") + " or " + names[len(names)-1]
	}
	have := "there is none at all"
	if there != "" {
		have = "there is " + there + "; --names says how they are called"
	}
	return fmt.Errorf("%s: no tensor is named %s; %s", strings.Join(paths, ", "), want, have)
}

// list names the first few of names.
func list(names []string) string {
	return some(len(names), func(i int) string { return names[i] })
}

// some lists the first few of n things.
func some(n int, thing func(i int) string) string {
	const most = 5
	var first []string
	for i := range min(n, most) {
		first = append(first, thing(i))
	}
	out := strings.Join(first, ", ")
	if n > most {
		out += fmt.Sprintf(" and %d more", n-most)
	}
	return out
}
