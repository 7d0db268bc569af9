package safetensors

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// file builds a file from a header's text and the bytes behind it.
func file(header string, body int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	b = append(b, header...)
	return append(b, make([]byte, body)...)
}

func TestParseErrors(t *testing.T) {
	const (
		a = `"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}`
		b = `"b":{"dtype":"F16","shape":[2],"data_offsets":[4,8]}`
	)
	one := func(entry string) []byte { return file(`{"t":`+entry+`}`, 4) }
	for _, tc := range []struct {
		name string
		data []byte
		want string
	}{
		{"empty", nil, "x.st: the file is empty"},
		{"seven bytes", make([]byte, 7), "not a safetensors file"},
		{"zero header", make([]byte, 8), "does not start with '{'"},
		{"text", []byte("hello, this is text"), "not a safetensors file: a header of"},
		{"header over the limit", binary.LittleEndian.AppendUint64(nil, maxHeader+1), "a header of 100000001 bytes is over the format's limit of 100000000"},
		{"huge header length", binary.LittleEndian.AppendUint64(nil, 1<<63), "a header of 9223372036854775808 bytes"},
		{"header beyond the file", binary.LittleEndian.AppendUint64(nil, 50), "the header is 50 bytes long but only 0 follow"},
		{"not an object", file(`["a"]`, 0), "does not start with '{'"},
		{"not JSON", file(`{a}`, 0), "the header is not valid JSON"},
		{"JSON cut short", file(`{`+a, 4), "the header is not valid JSON"},
		{"JSON comma", file(`{`+a+` `+b+`}`, 8), "the header is not valid JSON"},
		{"two values", file(`{}{}`, 0), "more than one JSON value"},
		{"trailing text", file(`{} x`, 0), "more than one JSON value"},
		{"not UTF-8", file("{\"\xff\":1}", 0), "the header is not UTF-8"},
		{"same name twice", file(`{`+a+`,`+a+`}`, 4), `"a" occurs twice`},
		{"same key twice", one(`{"dtype":"F16","dtype":"F16","shape":[2],"data_offsets":[0,4]}`), `tensor "t": "dtype" occurs twice`},
		{"metadata number", file(`{"__metadata__":{"k":1}}`, 0), `metadata: "k": the value is a JSON number`},
		{"metadata null", file(`{"__metadata__":{"k":null}}`, 0), `metadata: "k": the value is null, not a string`},
		{"metadata nested", file(`{"__metadata__":{"k":{}}}`, 0), `metadata: "k": the value is a JSON object`},
		{"metadata not an object", file(`{"__metadata__":"k"}`, 0), "metadata: not a JSON object"},
		{"metadata key twice", file(`{"__metadata__":{"k":"","k":""}}`, 0), `metadata: "k" occurs twice`},
		{"tensor not an object", one(`3`), `tensor "t": not a JSON object`},
		{"no dtype", one(`{"shape":[2],"data_offsets":[0,4]}`), `tensor "t": has no dtype`},
		{"no shape", one(`{"dtype":"F16","data_offsets":[0,4]}`), `tensor "t": has no shape`},
		{"no offsets", one(`{"dtype":"F16","shape":[2]}`), `tensor "t": has no data_offsets`},
		{"unknown dtype", one(`{"dtype":"F17","shape":[2],"data_offsets":[0,4]}`), `tensor "t": unknown dtype "F17"`},
		{"dtype not a string", one(`{"dtype":16,"shape":[2],"data_offsets":[0,4]}`), `tensor "t": dtype: the value is a JSON number`},
		{"negative size", one(`{"dtype":"F16","shape":[-2],"data_offsets":[0,4]}`), `tensor "t": shape: holds the negative number -2`},
		{"fraction", one(`{"dtype":"F16","shape":[2.5],"data_offsets":[0,4]}`), `tensor "t": shape: the value is a JSON number 2.5`},
		{"null size", one(`{"dtype":"F16","shape":[null],"data_offsets":[0,4]}`), `tensor "t": shape: holds a null`},
		{"null shape", one(`{"dtype":"F16","shape":null,"data_offsets":[0,4]}`), `tensor "t": shape: the value is null`},
		{"size over int64", one(`{"dtype":"F16","shape":[9223372036854775808],"data_offsets":[0,4]}`), `tensor "t": shape: `},
		{"product over 2^64", one(`{"dtype":"F16","shape":[4294967296,4294967296,4],"data_offsets":[0,4]}`), `overflows`},
		// 2^32 * 2^31 F16 elements are 2^64 bytes: 0 if the product wraps.
		{"product wraps to zero", file(`{"t":{"dtype":"F16","shape":[4294967296,2147483648],"data_offsets":[0,0]}}`, 0), `tensor "t": the shape [4294967296 2147483648] overflows`},
		{"half a byte", one(`{"dtype":"F4","shape":[7],"data_offsets":[0,4]}`), `tensor "t": F4 [7] does not fill whole bytes`},
		{"one offset", one(`{"dtype":"F16","shape":[2],"data_offsets":[0]}`), `tensor "t": data_offsets: 1 numbers`},
		{"three offsets", one(`{"dtype":"F16","shape":[2],"data_offsets":[0,4,4]}`), `tensor "t": data_offsets: 3 numbers`},
		{"negative offset", one(`{"dtype":"F16","shape":[2],"data_offsets":[-4,0]}`), `tensor "t": data_offsets: holds the negative number -4`},
		{"offsets reversed", one(`{"dtype":"F16","shape":[2],"data_offsets":[4,0]}`), `tensor "t": its bytes end at 0, before they start at 4`},
		{"beyond the file", one(`{"dtype":"F16","shape":[4],"data_offsets":[0,8]}`), `tensor "t": its bytes [0, 8) are out of the file's 4 bytes of data`},
		{"size differs", one(`{"dtype":"F32","shape":[2],"data_offsets":[0,4]}`), `tensor "t": F32 [2] takes 8 bytes, but its range [0, 4) has 4`},
		{"overlap", file(`{`+a+`,"b":{"dtype":"F16","shape":[2],"data_offsets":[2,6]}}`, 6), `tensor "b": its bytes [2, 6) overlap tensor "a"`},
		{"same range", file(`{`+a+`,"b":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}`, 4), `tensor "b": its bytes [0, 4) overlap tensor "a"`},
		{"hole between", file(`{`+a+`,"b":{"dtype":"F16","shape":[2],"data_offsets":[6,10]}}`, 10), `tensor "b": its bytes start at 6 and leave a hole of 2 bytes`},
		{"hole at the start", file(`{`+b+`}`, 8), `tensor "b": its bytes start at 4 and leave a hole of 4 bytes`},
		{"hole at the end", file(`{`+a+`}`, 9), "5 bytes after the last tensor belong to none"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, err := Parse("x.st", tc.data)
			if err == nil {
				t.Fatalf("got %+v, want an error", f)
			}
			if !strings.HasPrefix(err.Error(), "x.st: ") || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %q, want the file's name and %q", err, tc.want)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("error %q is not one line", err)
			}
		})
	}
}

func TestParse(t *testing.T) {
	// Tensors are out of order in the header, a key is unknown, a tensor is
	// empty, one is a scalar, and spaces pad the header.
	data := file(`{"c":{"dtype":"I64","shape":[],"data_offsets":[4,12],"extra":[{"x":1}]},`+
		`"a":{"dtype":"F8_E4M3","shape":[2,2],"data_offsets":[0,4]},`+
		`"b":{"dtype":"F32","shape":[0,3],"data_offsets":[4,4]}}   `, 12)
	for i := range 12 {
		data[len(data)-12+i] = byte(i)
	}
	f, err := Parse("x", data)
	if err != nil {
		t.Fatal(err)
	}
	if f.Metadata != nil {
		t.Errorf("metadata %v, want nil", f.Metadata)
	}
	checkTensors(t, f.Tensors, []Tensor{
		{Name: "a", DType: "F8_E4M3", Shape: []int{2, 2}, Data: []byte{0, 1, 2, 3}},
		{Name: "b", DType: "F32", Shape: []int{0, 3}, Data: []byte{}},
		{Name: "c", DType: "I64", Shape: []int{}, Data: []byte{4, 5, 6, 7, 8, 9, 10, 11}},
	})
	if got := f.Tensor("c"); got != &f.Tensors[2] {
		t.Errorf("Tensor(c) = %v", got)
	}
	if got := f.Tensor("d"); got != nil {
		t.Errorf("Tensor(d) = %v, want nil", got)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

// checkTensors compares tensors that were read with those in memory.
func checkTensors(t *testing.T, got, want []Tensor) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("got %d tensors, want %d", len(got), len(want))
	}
	for i := range got {
		x, y := &got[i], &want[i]
		if b, err := x.Bytes(); err != nil || x.Name != y.Name || x.DType != y.DType || !reflect.DeepEqual(x.Shape, y.Shape) || !bytes.Equal(b, y.Data) || x.Size() != int64(len(b)) {
			t.Errorf("got %s %s %v %v, %v\nwant %s %s %v %v", x.Name, x.DType, x.Shape, b, err, y.Name, y.DType, y.Shape, y.Data)
		}
		for off := range x.Size() + 1 {
			b := make([]byte, 2)
			n, err := x.ReadAt(b, off)
			if rest := y.Data[off:]; n != min(2, len(rest)) || !bytes.Equal(b[:n], rest[:n]) || (err == io.EOF) != (len(rest) < 2) {
				t.Errorf("%s: ReadAt(%d) = %v, %d, %v", x.Name, off, b, n, err)
			}
		}
	}
}

func TestWriteOpen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "dump.safetensors")
	metadata := map[string]string{"causal": "true", "quote\"": "line\nbreak, ünï, <&>"}
	tensors := []Tensor{
		{Name: "z", DType: "I8", Shape: []int{3}, Data: []byte{1, 2, 3}},
		{Name: `odd "name" <é>`, DType: "F16", Shape: []int{1, 2}, Data: []byte{4, 5, 6, 7}}, // not aligned
		{Name: "scalar", DType: "BF16", Shape: []int{}, Data: []byte{8, 9}},
		{Name: "empty", DType: "F64", Shape: []int{4, 0}, Data: []byte{}},
		{Name: "six", DType: "F6_E2M3", Shape: []int{4}, Data: []byte{10, 11, 12}},
	}
	for range 2 { // the second time over the first file
		if err := Write(path, metadata, tensors); err != nil {
			t.Fatal(err)
		}
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(f.Metadata, metadata) {
		t.Errorf("metadata %q, want %q", f.Metadata, metadata)
	}
	// The empty tensor shares its position with "six" and sorts by its end.
	checkTensors(t, f.Tensors, tensors)
	for range 2 {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := binary.LittleEndian.Uint64(raw); n%8 != 0 {
		t.Errorf("header of %d bytes does not align the data", n)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("the folder has %v, %v; want the dump alone", entries, err)
	}
}

func TestWriteNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none")
	if err := Write(path, nil, nil); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil || len(f.Tensors) != 0 || f.Metadata != nil {
		t.Fatalf("got %+v, %v", f, err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func TestWriteErrors(t *testing.T) {
	dir := t.TempDir()
	for _, tc := range []struct {
		name    string
		tensors []Tensor
		want    string
	}{
		{"size", []Tensor{{Name: "t", DType: "F16", Shape: []int{3}, Data: make([]byte, 4)}}, `tensor "t": F16 [3] takes 6 bytes, but there are 4`},
		{"dtype", []Tensor{{Name: "t", DType: "FP16", Shape: []int{2}, Data: make([]byte, 4)}}, `tensor "t": unknown dtype "FP16"`},
		{"negative", []Tensor{{Name: "t", DType: "F16", Shape: []int{-1}, Data: nil}}, `tensor "t": negative size in the shape [-1]`},
		{"twice", []Tensor{{Name: "t", DType: "U8", Shape: []int{0}, Data: nil}, {Name: "t", DType: "U8", Shape: []int{0}, Data: nil}}, `tensor "t": the name is taken`},
		{"reserved", []Tensor{{Name: metadataKey, DType: "U8", Shape: []int{0}, Data: nil}}, `tensor "__metadata__": the name is taken`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(dir, "f")
			err := Write(path, nil, tc.tensors)
			if err == nil || !strings.HasPrefix(err.Error(), path) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want the path and %q", err, tc.want)
			}
		})
	}
	if err := Write(filepath.Join(dir, "absent", "f"), nil, nil); err == nil {
		t.Error("wrote into a folder that is not there")
	}
	// A folder in the way makes the rename fail; nothing may be left behind.
	target := filepath.Join(dir, "taken")
	if err := os.MkdirAll(filepath.Join(target, "full"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Write(target, nil, nil); err == nil {
		t.Error("replaced a folder by a file")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("the folder has %v, %v; want the one in it before", entries, err)
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.safetensors")
	if err := os.WriteFile(bad, []byte("bad"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(dir, "absent"), dir, bad} {
		if f, err := Open(path); err == nil || !strings.HasPrefix(err.Error(), path+": ") {
			t.Errorf("Open(%s) = %v, %v; want an error that names it", path, f, err)
		}
	}
}

// TestLyingHeaderAllocatesLittle gives sizes that a naive reader would allocate.
func TestLyingHeaderAllocatesLittle(t *testing.T) {
	for _, data := range [][]byte{
		binary.LittleEndian.AppendUint64(nil, maxHeader),
		file(`{"t":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4000000000]}}`, 0),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := Parse("x", data); err == nil {
			t.Error("no error")
		}
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
			t.Errorf("%d bytes were allocated for a file of %d", n, len(data))
		}
	}
}

func FuzzParse(f *testing.F) {
	dir := f.TempDir()
	path := filepath.Join(dir, "seed")
	err := Write(path, map[string]string{"causal": "true"}, []Tensor{
		{Name: "layers.0.q", DType: "F16", Shape: []int{1, 1, 2, 2}, Data: make([]byte, 8)},
		{Name: "layers.0.k", DType: "BF16", Shape: []int{1, 1, 2, 2}, Data: make([]byte, 8)},
		{Name: "scalar", DType: "U8", Shape: []int{}, Data: make([]byte, 1)},
	})
	if err != nil {
		f.Fatal(err)
	}
	seed, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add(file(`{}`, 0))
	f.Add(file(`{"__metadata__":{"a":"b"},"t":{"dtype":"F4","shape":[2,0],"data_offsets":[0,0]}}`, 0))
	f.Add(file(`{"t":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}`, 0))
	f.Add(file(`{"a":{"dtype":"I8","shape":[1],"data_offsets":[1,2]},"b":{"dtype":"I8","shape":[1],"data_offsets":[0,1],"x":null}}`, 2))
	f.Fuzz(func(t *testing.T, data []byte) {
		parsed, err := Parse("fuzz", data)
		if err != nil {
			if parsed != nil || !strings.HasPrefix(err.Error(), "fuzz: ") {
				t.Fatalf("got %v and error %q", parsed, err)
			}
			return
		}
		// The tensors must tile the end of the file, in order.
		at := int64(len(data))
		for _, x := range slices.Backward(parsed.Tensors) {
			size, err := byteSize(x.DType, x.Shape)
			if err != nil || int64(size) != x.Size() || x.Offset+x.Size() != at {
				t.Fatalf("tensor %q: %d bytes at %d, %d by its shape, %v; the next is at %d", x.Name, x.Size(), x.Offset, size, err, at)
			}
			at = x.Offset
			b, err := x.Bytes()
			if err != nil || !bytes.Equal(b, data[x.Offset:x.Offset+x.Size()]) {
				t.Fatalf("tensor %q: other bytes, %v", x.Name, err)
			}
		}
		for i := range parsed.Tensors {
			if x := &parsed.Tensors[i]; parsed.Tensor(x.Name) != x {
				t.Fatalf("tensor %q is not found by its name", x.Name)
			}
		}
		// What was read can be written, and reads the same again.
		header, _, err := encodeHeader(parsed.Metadata, parsed.Tensors)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := writeAll(&b, header, parsed.Tensors); err != nil {
			t.Fatal(err)
		}
		again, err := Parse("again", b.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if len(again.Tensors) != len(parsed.Tensors) || len(again.Metadata) != len(parsed.Metadata) {
			t.Fatalf("rewritten: %+v\nwas: %+v", again, parsed)
		}
		for i := range parsed.Tensors {
			x, y := again.Tensor(parsed.Tensors[i].Name), &parsed.Tensors[i]
			if x == nil || x.DType != y.DType || !reflect.DeepEqual(x.Shape, y.Shape) {
				t.Fatalf("rewritten: %+v\nwas: %+v", x, y)
			}
			a, _ := x.Bytes()
			if b, _ := y.Bytes(); !bytes.Equal(a, b) {
				t.Fatalf("rewritten: %v\nwas: %v", a, b)
			}
		}
	})
}
