package npy

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// array builds a .npy file of a version from its header's text.
func array(major byte, header string, body ...byte) []byte {
	b := append([]byte(magic), major, 0)
	if major == 1 {
		b = binary.LittleEndian.AppendUint16(b, uint16(len(header)))
	} else {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(header)))
	}
	b = append(b, header...)
	return append(b, body...)
}

// dict is a header as NumPy writes it, but for the padding.
func dict(descr, fortran, shape string) string {
	return "{'descr': '" + descr + "', 'fortran_order': " + fortran + ", 'shape': " + shape + ", }\n"
}

// TestNumPyBytes reads, byte for byte, what
// numpy.save(f, numpy.array([[1, -2, 0.5]], dtype=numpy.float16)) writes.
func TestNumPyBytes(t *testing.T) {
	data := []byte("\x93NUMPY\x01\x00v\x00{'descr': '<f2', 'fortran_order': False, 'shape': (1, 3), }" +
		strings.Repeat(" ", 58) + "\n" + "\x00\x3c\x00\xc0\x00\x38")
	if len(data) != 128+6 {
		t.Fatalf("the fixture has %d bytes", len(data))
	}
	got, err := Parse("x", data)
	if err != nil {
		t.Fatal(err)
	}
	want := []byte{0x00, 0x3c, 0x00, 0xc0, 0x00, 0x38}
	if b := checkArray(t, got); got.DType != "F16" || !reflect.DeepEqual(got.Shape, []int{1, 3}) || !bytes.Equal(b, want) {
		t.Errorf("got %s %v %v", got.DType, got.Shape, b)
	}
}

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		name  string
		data  []byte
		dtype string
		shape []int
	}{
		{"version 1", array(1, dict("<f4", "False", "(2,)"), make([]byte, 8)...), "F32", []int{2}},
		{"version 2", array(2, dict("<f4", "False", "(2,)"), make([]byte, 8)...), "F32", []int{2}},
		{"version 3", array(3, dict("<f4", "False", "(2,)"), make([]byte, 8)...), "F32", []int{2}},
		{"scalar", array(1, dict("<f8", "False", "()"), make([]byte, 8)...), "F64", []int{}},
		{"empty", array(1, dict("<f8", "False", "(3, 0)")), "F64", []int{3, 0}},
		{"bfloat16 as void", array(1, dict("|V2", "False", "(2, 1)"), 0, 0, 0, 0), "BF16", []int{2, 1}},
		{"bfloat16 as little-endian void", array(1, dict("<V2", "False", "(1,)"), 0, 0), "BF16", []int{1}},
		{"bfloat16 by name", array(1, dict("bfloat16", "False", "(1,)"), 0, 0), "BF16", []int{1}},
		{"bool", array(1, dict("|b1", "False", "(1,)"), 0), "BOOL", []int{1}},
		{"uint8", array(1, dict("|u1", "False", "(1,)"), 0), "U8", []int{1}},
		{"int8", array(1, dict("|i1", "False", "(1,)"), 0), "I8", []int{1}},
		{"uint16", array(1, dict("<u2", "False", "(1,)"), 0, 0), "U16", []int{1}},
		{"int16", array(1, dict("<i2", "False", "(1,)"), 0, 0), "I16", []int{1}},
		{"uint32", array(1, dict("<u4", "False", "(1,)"), 0, 0, 0, 0), "U32", []int{1}},
		{"int32", array(1, dict("<i4", "False", "(1,)"), 0, 0, 0, 0), "I32", []int{1}},
		{"uint64", array(1, dict("<u8", "False", "(1,)"), make([]byte, 8)...), "U64", []int{1}},
		{"int64", array(1, dict("<i8", "False", "(1,)"), make([]byte, 8)...), "I64", []int{1}},
		{"other spacing, quotes and order", array(1, "{ \"shape\":( 1 ,2\t),\n'fortran_order' :False,'descr':\"<f2\"}  ", 0, 0, 0, 0), "F16", []int{1, 2}},
		{"Python 2 long", array(1, dict("<f2", "False", "(1L, 2L)"), 0, 0, 0, 0), "F16", []int{1, 2}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, err := Parse("x", tc.data)
			if err != nil {
				t.Fatal(err)
			}
			if a.DType != tc.dtype || !reflect.DeepEqual(a.Shape, tc.shape) {
				t.Errorf("got %s %v, want %s %v", a.DType, a.Shape, tc.dtype, tc.shape)
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	good := dict("<f2", "False", "(2,)")
	for _, tc := range []struct {
		name string
		data []byte
		want string
	}{
		{"empty", nil, "the file is empty"},
		{"magic", []byte("PK\x03\x04 something"), "not a .npy file"},
		{"magic cut short", []byte(magic), "not a .npy file"},
		{"version 0", array(0, good, 0, 0, 0, 0), "version 0.0 of the .npy format"},
		{"version 4", array(4, good, 0, 0, 0, 0), "version 4.0 of the .npy format"},
		{"minor version", []byte(magic + "\x01\x01\x00\x00"), "version 1.1 of the .npy format"},
		{"length cut short", []byte(magic + "\x01\x00\x05"), "truncated in the header length"},
		{"long length cut short", []byte(magic + "\x02\x00\x05\x00\x00"), "truncated in the header length"},
		{"header cut short", []byte(magic + "\x01\x00\x05\x00{}"), "truncated in the header of 5 bytes"},
		{"huge header", []byte(magic + "\x02\x00\xff\xff\xff\xff{}"), "a header of 4294967295 bytes is over the limit of 65536"},
		{"data cut short", array(1, good, 0, 0, 0), "F16 [2] takes 4 bytes, but 3 follow"},
		{"data behind", array(1, good, 0, 0, 0, 0, 0), "F16 [2] takes 4 bytes, but 5 follow"},
		{"no dict", array(1, "[]"), "header: '[' at byte 0, want '{'"},
		{"empty header", array(1, ""), "header: it ends where '{' should be"},
		{"empty dict", array(1, "{}"), `the key "descr" is missing`},
		{"no shape", array(1, "{'descr': '<f2', 'fortran_order': False}"), `the key "shape" is missing`},
		{"no fortran_order", array(1, "{'descr': '<f2', 'shape': ()}"), `the key "fortran_order" is missing`},
		{"key twice", array(1, "{'descr': '<f2', 'descr': '<f2'}"), `the key "descr" occurs twice`},
		{"other key", array(1, "{'descr': '<f2', 'more': 1}"), `unexpected key "more"`},
		{"no colon", array(1, "{'descr' '<f2'}"), "want ':'"},
		{"no comma", array(1, "{'descr': '<f2' 'shape': ()}"), "want ','"},
		{"two commas", array(1, "{'descr': '<f2',, 'shape': ()}"), "want a string"},
		{"dict cut short", array(1, "{'descr': '<f2',"), "it ends where a string should be"},
		{"string cut short", array(1, "{'descr': '<f2"), "a string does not end"},
		{"escape", array(1, `{'descr': '\x3cf2'}`), "a string with an escape"},
		{"text behind", array(1, good+"x", 0, 0, 0, 0), "want the end"},
		{"structured", array(1, "{'descr': [('a', '<f2')], 'fortran_order': False, 'shape': ()}"), "structured arrays are not supported"},
		{"descr is a number", array(1, "{'descr': 2}"), "descr: '2' at byte 10, want a string"},
		{"fortran order", array(1, dict("<f2", "True", "(2,)"), 0, 0, 0, 0), "Fortran order"},
		{"fortran order unclear", array(1, dict("<f2", "0", "(2,)"), 0, 0, 0, 0), "fortran_order: '0' at byte 34, want True or False"},
		{"big-endian", array(1, dict(">f2", "False", "(2,)"), 0, 0, 0, 0), `dtype ">f2" is big-endian`},
		{"complex", array(1, dict("<c8", "False", "(1,)"), make([]byte, 8)...), `unsupported dtype "<c8"`},
		{"object", array(1, dict("|O", "False", "(1,)"), 0), `unsupported dtype "|O"`},
		{"text", array(1, dict("<U4", "False", "(1,)"), 0), `unsupported dtype "<U4"`},
		{"shape is a number", array(1, dict("<f2", "False", "2"), 0, 0, 0, 0), "shape: '2' at byte"},
		{"shape is no tuple", array(1, dict("<f2", "False", "(2)"), 0, 0, 0, 0), "shape: not a tuple"},
		{"shape without commas", array(1, dict("<f2", "False", "(1 2)"), 0, 0, 0, 0), "want ',' or ')'"},
		{"shape of a comma", array(1, dict("<f2", "False", "(,)"), 0, 0, 0, 0), "want a size"},
		{"shape cut short", array(1, "{'shape': (1,"), "it ends where a size should be"},
		{"negative size", array(1, dict("<f2", "False", "(-1,)"), 0, 0), "shape: a negative size"},
		{"size overflows", array(1, dict("<f2", "False", "(99999999999999999999,)"), 0, 0), "the size 99999999999999999999 overflows"},
		{"shape overflows", array(1, dict("<f2", "False", "(4294967296, 4294967296)"), 0, 0), "the shape [4294967296 4294967296] overflows"},
		{"shape overflows int", array(1, dict("<f2", "False", "(4611686018427387904,)"), 0, 0), "overflows"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, err := Parse("x.npy", tc.data)
			if err == nil {
				t.Fatalf("got %+v, want an error", a)
			}
			if !strings.HasPrefix(err.Error(), "x.npy: ") || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %q, want the file's name and %q", err, tc.want)
			}
		})
	}
}

func TestOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.npy")
	if f, err := Open(path); err == nil || !strings.HasPrefix(err.Error(), path) {
		t.Errorf("got %v, %v; want an error that names the missing file", f, err)
	}
	if err := os.WriteFile(path, array(1, dict("<f2", "False", "(2,)"), 1, 2, 3, 4), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if b := checkArray(t, f.Array); !bytes.Equal(b, []byte{1, 2, 3, 4}) {
		t.Errorf("data %v", b)
	}
	for range 2 {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := os.WriteFile(path, []byte("no"), 0o644); err != nil {
		t.Fatal(err)
	}
	if f, err := Open(path); err == nil || !strings.HasPrefix(err.Error(), path) {
		t.Errorf("got %v, %v; want an error that names the file", f, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(array(1, dict("<f2", "False", "(2,)"), 0, 0, 0, 0))
	f.Add(array(2, dict("|V2", "False", "(1, 1, 2, 1)"), 0, 0, 0, 0))
	f.Add(array(3, dict("<f8", "False", "()"), make([]byte, 8)...))
	f.Add(array(1, dict("<f2", "True", "(2L, 0)")))
	f.Add(array(1, "{\"shape\":(),'fortran_order':False,'descr':'|u1',}", 7))
	f.Add(array(1, dict("<f2", "False", "(4294967296, 4294967296)")))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := Parse("fuzz", data)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "fuzz: ") {
				t.Fatalf("error %q does not name the file", err)
			}
			return
		}
		if b := checkArray(t, a); !bytes.Equal(b, data[len(data)-len(b):]) {
			t.Fatal("the data is not the end of the file")
		}
	})
}

// checkArray fails unless the array's data has the size of its shape, and returns it.
func checkArray(t *testing.T, a Array) []byte {
	t.Helper()
	size := map[string]int{
		"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
		"U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
	}[a.DType]
	if size == 0 {
		t.Fatalf("array %q: dtype %q", a.Name, a.DType)
	}
	for _, n := range a.Shape {
		if n < 0 {
			t.Fatalf("array %q: shape %v", a.Name, a.Shape)
		}
		size *= n
	}
	b, err := a.Bytes()
	if err != nil || size != len(b) || int64(size) != a.Size {
		t.Fatalf("array %q: %d of %d bytes of data, %d by its shape: %v", a.Name, len(b), a.Size, size, err)
	}
	return b
}
