package program

import (
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// A field is what the type of a program says of one of its fields. The tags are read once:
// a search makes and compares thousands of programs.
type field struct {
	index int
	// name is the field's in the text form; path leads to it from the program, or from the
	// entry of the list that it stands in.
	name, path string
	optional   bool     // left out where it is zero
	about      bool     // says something about a program and decides no bits
	choices    []string // all that a text may be, none where anything goes
	kind       reflect.Kind
	fields     []field // of a struct, or of each entry of a list
}

// everything is the program itself, as a field.
var everything = field{kind: reflect.Struct, fields: fieldsOf(reflect.TypeFor[Program](), "")}

// about are the paths that say something about a program and decide no bits.
var about = []string{"schema", "name", "summary", "source", "evidence"}

func fieldsOf(t reflect.Type, path string) []field {
	var out []field
	for i := range t.NumField() {
		f := t.Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		x := field{
			index: i, name: name, path: join(path, name), optional: opts == "omitempty",
			choices: slices.Clip(strings.Fields(f.Tag.Get("choices"))), kind: f.Type.Kind(),
		}
		x.about = slices.Contains(about, x.path)
		switch x.kind {
		case reflect.Struct:
			x.fields = fieldsOf(f.Type, x.path)
		case reflect.Slice:
			x.fields = fieldsOf(f.Type.Elem(), "")
		}
		out = append(out, x)
	}
	return out
}

// named returns the field of a struct, or of a list's entry, that has a name, nil if none has.
func (f *field) named(name string) *field {
	for i := range f.fields {
		if f.fields[i].name == name {
			return &f.fields[i]
		}
	}
	return nil
}

// names lists the fields of a struct or of a list's entry, all or those that must be there.
func (f *field) names(required bool) []string {
	var out []string
	for i := range f.fields {
		if !required || !f.fields[i].optional {
			out = append(out, f.fields[i].name)
		}
	}
	return out
}

// walk calls do with every choice of a program, in the order of the text form. The path of a
// choice is at, where that is not empty, joined with the field's.
func (p *Program) walk(do func(at string, f *field, v reflect.Value)) {
	walkFields(reflect.ValueOf(p).Elem(), "", &everything, do)
}

// walkFields is walk of a struct v that is at a path.
func walkFields(v reflect.Value, at string, in *field, do func(at string, f *field, v reflect.Value)) {
	for i := range in.fields {
		f := &in.fields[i]
		x := v.Field(f.index)
		if f.optional && x.IsZero() {
			continue
		}
		switch f.kind {
		case reflect.Struct:
			walkFields(x, at, f, do)
		case reflect.Slice:
			for j := range x.Len() {
				walkFields(x.Index(j), join(at, join(f.path, strconv.Itoa(j))), f, do)
			}
		default:
			do(at, f, x)
		}
	}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
