// Package probe runs single units of a GPU, matrix instructions, special
// functions, conversions and FP32 arithmetic, on chosen operands, and compares
// their results with the models, or records them.
//
// The kernels are kernels/probes; the operands are made from a seed, in classes
// that between them reach what is special about the units: see [Unit.Operands].
package probe

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync/atomic"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/mufu"
	"github.com/sageacc/sageacc/emulate/tensorcore"
	"github.com/sageacc/sageacc/internal/parallel"
	"github.com/sageacc/sageacc/kernels"
	"github.com/sageacc/sageacc/kernels/launch"
	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

// Kind is what a unit takes.
type Kind uint8

// Kinds.
const (
	// Unary: one FP32 number.
	Unary Kind = iota
	// Arith: up to three FP32 numbers.
	Arith
	// MMA: a tile of operands.
	MMA
)

// Unit is one instruction with its probe.
type Unit struct {
	// Instruction is its PTX name, for MMA as in tensorcore.Unit with n = 8.
	Instruction string
	Kind        Kind

	image string
	// Result is the safetensors dtype of a result.
	Result string

	unary func(float32) uint32
	arith func(a, b, c float32) float32

	// Of a matrix instruction: the rows of a tile, which are 16 or 64, and how wide
	// operands and accumulator are.
	m     int
	k     int
	a, c  tensorcore.Operand
	sm90a bool
}

// Columns is how many columns a probe's tile has.
const columns = 8

// Units returns every unit that can be probed.
func Units() []Unit {
	special := func(name string, f func(float32) float32) Unit {
		return Unit{Instruction: name, Kind: Unary, image: "units.ptx", Result: "F32", unary: func(x float32) uint32 { return math.Float32bits(f(x)) }}
	}
	convert := func(name, dtype string, f func(float32) uint32) Unit {
		return Unit{Instruction: name, Kind: Unary, image: "units.ptx", Result: dtype, unary: f}
	}
	arith := func(name string, f func(a, b, c float32) float32) Unit {
		return Unit{Instruction: name, Kind: Arith, image: "units.ptx", Result: "F32", arith: f}
	}
	mma := func(name string, a, c tensorcore.Operand) Unit {
		u := Unit{Instruction: name, Kind: MMA, image: "units.ptx", m: 16, k: 256 / bits(a), a: a, c: c}
		u.Result = map[tensorcore.Operand]string{tensorcore.FP32: "F32", tensorcore.FP16: "F16", tensorcore.S32: "I32"}[c]
		if strings.HasPrefix(name, "wgmma") {
			u.image, u.m, u.sm90a = "wgmma.cubin", 64, true
		}
		return u
	}
	e4m3, e5m2, f16, bf16 := tensorcore.E4M3, tensorcore.E5M2, tensorcore.FP16, tensorcore.BF16
	f32, s8, s4, s32 := tensorcore.FP32, tensorcore.S8, tensorcore.S4, tensorcore.S32
	return []Unit{
		special("ex2.approx.ftz.f32", mufu.Ex2),
		special("rcp.approx.ftz.f32", mufu.Rcp),
		special("lg2.approx.ftz.f32", mufu.Lg2),
		convert("cvt.rn.satfinite.e4m3x2.f32", "F8_E4M3", func(x float32) uint32 { return uint32(format.E4M3FromFloat32(x)) }),
		convert("cvt.rn.satfinite.e5m2x2.f32", "F8_E5M2", func(x float32) uint32 { return uint32(format.E5M2FromFloat32(x)) }),
		convert("cvt.rni.sat.s8.f32", "I8", func(x float32) uint32 { return uint32(uint8(format.Int8FromFloat32(x))) }),
		convert("cvt.rn.f16.f32", "F16", func(x float32) uint32 { return uint32(format.FP16FromFloat32(x)) }),
		convert("cvt.rn.bf16.f32", "BF16", func(x float32) uint32 { return uint32(format.BF16FromFloat32(x)) }),
		arith("mul.rn.ftz.f32", func(a, b, _ float32) float32 { return format.MulFtz(a, b) }),
		arith("add.rn.ftz.f32", func(a, _, c float32) float32 { return format.AddFtz(a, c) }),
		arith("fma.rn.ftz.f32", format.FMAFtz),
		arith("div.full.ftz.f32", func(a, b, _ float32) float32 { return mufu.DivFull(a, b) }),
		arith("div.approx.ftz.f32", func(a, b, _ float32) float32 { return mufu.DivApprox(a, b) }),
		mma("mma.sync.m16n8k32.f32.e4m3.e4m3.f32", e4m3, f32),
		mma("mma.sync.m16n8k32.f32.e5m2.e5m2.f32", e5m2, f32),
		mma("mma.sync.m16n8k32.f16.e4m3.e4m3.f16", e4m3, f16),
		mma("mma.sync.m16n8k32.f16.e5m2.e5m2.f16", e5m2, f16),
		mma("mma.sync.m16n8k16.f32.f16.f16.f32", f16, f32),
		mma("mma.sync.m16n8k16.f16.f16.f16.f16", f16, f16),
		mma("mma.sync.m16n8k16.f32.bf16.bf16.f32", bf16, f32),
		mma("mma.sync.m16n8k32.s32.s8.s8.s32", s8, s32),
		mma("mma.sync.m16n8k64.s32.s4.s4.s32", s4, s32),
		mma("wgmma.m64n8k32.f32.e4m3.e4m3", e4m3, f32),
		mma("wgmma.m64n8k32.f32.e5m2.e5m2", e5m2, f32),
		mma("wgmma.m64n8k32.f16.e4m3.e4m3", e4m3, f16),
		mma("wgmma.m64n8k32.f16.e5m2.e5m2", e5m2, f16),
		mma("wgmma.m64n8k16.f32.f16.f16", f16, f32),
		mma("wgmma.m64n8k16.f16.f16.f16", f16, f16),
		mma("wgmma.m64n8k32.s32.s8.s8", s8, s32),
	}
}

// bits is the width of an operand.
func bits(o tensorcore.Operand) int {
	switch o {
	case tensorcore.S4:
		return 4
	case tensorcore.E4M3, tensorcore.E5M2, tensorcore.S8:
		return 8
	case tensorcore.FP16, tensorcore.BF16:
		return 16
	}
	return 32
}

// entry is the probe's entry point.
func (u *Unit) entry() string { return strings.ReplaceAll(u.Instruction, ".", "_") }

// Runs reports why a GPU of that compute capability cannot run the unit, or nil.
func (u *Unit) Runs(sm int) error {
	if u.sm90a && sm != 90 {
		return fmt.Errorf("%s needs an sm_90 GPU; this one is sm_%d", u.Instruction, sm)
	}
	if sm < 89 {
		return fmt.Errorf("the probes need a GPU of sm_89 or later; this one is sm_%d", sm)
	}
	return nil
}

// Probes runs units on a device.
type Probes struct {
	dev     *launch.Device
	modules map[string]*launch.Module
}

// New prepares to probe a device.
func New(dev *launch.Device) *Probes { return &Probes{dev, map[string]*launch.Module{}} }

// function finds a unit's entry, loading its image at first.
func (p *Probes) function(u *Unit) (*launch.Function, error) {
	if err := u.Runs(p.dev.SM()); err != nil {
		return nil, err
	}
	m := p.modules[u.image]
	if m == nil {
		image, err := kernels.Image(u.image)
		if err != nil {
			return nil, err
		}
		if m, err = p.dev.Load(image); err != nil {
			return nil, fmt.Errorf("the probes %s do not load on %s: %w", u.image, p.dev.Name(), err)
		}
		p.modules[u.image] = m
	}
	return m.Function(u.entry())
}

// Batch is a number of operations of a unit: the operands, and after
// [Probes.Run] the results.
type Batch struct {
	// N counts operations, of a matrix instruction tiles.
	N int
	// X holds FP32 numbers: 1 for each operation of a Unary unit, 3 of an Arith one.
	// A Unary batch without them takes the numbers with the bits Start, Start+1, ...
	X     []float32
	Start uint32
	// A [N][m][k], B [N][8][k] and C [N][m][8] are codes, s4 and s8 sign-extended.
	A, B, C []uint32
	// Y holds the results' bits, [N] or [N][m][8].
	Y []uint32
}

// Results counts a batch's results.
func (u *Unit) Results(b *Batch) int {
	if u.Kind == MMA {
		return b.N * u.m * columns
	}
	return b.N
}

// pack writes codes as the instruction takes them.
func pack(x []uint32, width int) []byte {
	switch width {
	case 4:
		out := make([]byte, len(x)/2)
		for i := range out {
			out[i] = byte(x[2*i]&15 | x[2*i+1]<<4)
		}
		return out
	case 8:
		out := make([]byte, len(x))
		for i, v := range x {
			out[i] = byte(v)
		}
		return out
	case 16:
		out := make([]byte, 2*len(x))
		for i, v := range x {
			binary.LittleEndian.PutUint16(out[2*i:], uint16(v))
		}
		return out
	}
	out := make([]byte, 4*len(x))
	for i, v := range x {
		binary.LittleEndian.PutUint32(out[4*i:], v)
	}
	return out
}

func unpack(x []byte, width int) []uint32 {
	out := make([]uint32, len(x)/(width/8))
	const chunk = 1 << 16
	// The work never fails.
	_ = parallel.Do(context.Background(), runtime.GOMAXPROCS(0), (len(out)+chunk-1)/chunk, func(_ context.Context, c int) error {
		for i := c * chunk; i < min((c+1)*chunk, len(out)); i++ {
			if width == 16 {
				out[i] = uint32(binary.LittleEndian.Uint16(x[2*i:]))
			} else {
				out[i] = binary.LittleEndian.Uint32(x[4*i:])
			}
		}
		return nil
	})
	return out
}

// Run runs a batch on the GPU and fills Y.
func (p *Probes) Run(u *Unit, b *Batch) (err error) {
	f, err := p.function(u)
	if err != nil {
		return err
	}
	var buffers []*launch.Buffer
	defer func() {
		for _, x := range buffers {
			if e := x.Free(); err == nil {
				err = e
			}
		}
	}()
	upload := func(x []byte) (*launch.Buffer, error) {
		buf, err := p.dev.Alloc(len(x))
		if err != nil {
			return nil, err
		}
		buffers = append(buffers, buf)
		return buf, buf.Upload(0, x)
	}
	width := 32
	if u.Kind == MMA {
		width = bits(u.c)
	}
	size := u.Results(b) * width / 8
	y, err := p.dev.Alloc(size)
	if err != nil {
		return err
	}
	buffers = append(buffers, y)
	if err := y.Fill(0xa5); err != nil {
		return err
	}
	const block = 256
	grid := launch.Grid{(b.N + block - 1) / block, 1, 1}
	threads := launch.Grid{block, 1, 1}
	var args []launch.Arg
	switch u.Kind {
	case Unary, Arith:
		x := launch.Int64(0)
		if b.X != nil {
			raw := make([]byte, 4*len(b.X))
			for i, v := range b.X {
				binary.LittleEndian.PutUint32(raw[4*i:], math.Float32bits(v))
			}
			buf, err := upload(raw)
			if err != nil {
				return err
			}
			x = buf.Arg()
		}
		args = []launch.Arg{x, y.Arg()}
		if u.Kind == Unary {
			args = append(args, launch.Int64(int64(b.Start)))
		}
		args = append(args, launch.Int64(int64(b.N)))
	case MMA:
		grid, threads = launch.Grid{b.N, 1, 1}, launch.Grid{2 * u.m, 1, 1}
		for _, x := range []struct {
			codes []uint32
			width int
		}{{b.A, bits(u.a)}, {b.B, bits(u.a)}, {b.C, width}} {
			buf, err := upload(pack(x.codes, x.width))
			if err != nil {
				return err
			}
			args = append(args, buf.Arg())
		}
		args = append(args, y.Arg())
	}
	if err := f.Launch(grid, threads, 0, args...); err != nil {
		return fmt.Errorf("%s: %w", u.Instruction, err)
	}
	raw := make([]byte, size)
	if err := y.Download(0, raw); err != nil {
		return err
	}
	b.Y = unpack(raw, width)
	return nil
}

// Mismatch is a result that differs.
type Mismatch struct {
	// Index counts operations over all batches; Row and Column are those of a tile.
	Index       int64 `json:"index"`
	Row, Column int
	Operands    string `json:"operands"`
	GPU         string `json:"gpu"`
	Model       string `json:"model"`
}

// Check compares a batch's results with the model on jobs goroutines; it returns
// how many differ, and the first that does. Any NaN equals any NaN.
func (u *Unit) Check(ctx context.Context, arch string, b *Batch, jobs int) (int64, *Mismatch, error) {
	var unit *tensorcore.Unit
	if u.Kind == MMA {
		var err error
		if unit, err = tensorcore.Lookup(arch, u.Instruction); err != nil {
			return 0, nil, err
		}
	}
	// Chunks are fixed, so the first difference is the same for any jobs.
	chunk := 1 << 16
	if u.Kind == MMA {
		chunk = 64
	}
	chunks := (b.N + chunk - 1) / chunk
	first := make([]*Mismatch, chunks)
	var differing atomic.Int64
	err := parallel.Do(ctx, jobs, chunks, func(_ context.Context, i int) error {
		var n int64
		var w workspace
		for j := i * chunk; j < min((i+1)*chunk, b.N); j++ {
			m := u.checkOne(unit, b, j, &w, &n)
			if first[i] == nil {
				first[i] = m
			}
		}
		differing.Add(n)
		return nil
	})
	for _, m := range first {
		if m != nil {
			return differing.Load(), m, err
		}
	}
	return 0, nil, err
}

func (u *Unit) checkOne(unit *tensorcore.Unit, b *Batch, j int, w *workspace, differing *int64) *Mismatch {
	switch u.Kind {
	case Unary:
		x := math.Float32frombits(b.Start + uint32(j))
		if b.X != nil {
			x = b.X[j]
		}
		if want := u.unary(x); !u.same(want, b.Y[j]) {
			*differing++
			return &Mismatch{Index: int64(j), Operands: fmt.Sprintf("%#08x (%g)", math.Float32bits(x), x), GPU: fmt.Sprintf("%#x", b.Y[j]), Model: fmt.Sprintf("%#x", want)}
		}
	case Arith:
		x := b.X[3*j : 3*j+3]
		if want := math.Float32bits(u.arith(x[0], x[1], x[2])); !u.same(want, b.Y[j]) {
			*differing++
			return &Mismatch{Index: int64(j), Operands: fmt.Sprintf("%g, %g, %g", x[0], x[1], x[2]), GPU: fmt.Sprintf("%#08x", b.Y[j]), Model: fmt.Sprintf("%#08x", want)}
		}
	case MMA:
		return u.checkTile(unit, b, j, w, differing)
	}
	return nil
}

// workspace holds a goroutine's buffers.
type workspace struct {
	codes []uint16
	a, b  tensorcore.Panel
	acc   []float32
}

// checkTile compares a tile. Tile gives what Dot defines, faster, for the floating
// units; what it finds differing is decided by Dot.
func (u *Unit) checkTile(unit *tensorcore.Unit, b *Batch, j int, w *workspace, differing *int64) *Mismatch {
	at, bt := b.A[j*u.m*u.k:(j+1)*u.m*u.k], b.B[j*columns*u.k:(j+1)*columns*u.k]
	ct, yt := b.C[j*u.m*columns:(j+1)*u.m*columns], b.Y[j*u.m*columns:(j+1)*u.m*columns]
	w.acc = w.acc[:0]
	if u.c != tensorcore.S32 {
		load := func(p *tensorcore.Panel, codes []uint32) {
			w.codes = w.codes[:0]
			for _, c := range codes {
				w.codes = append(w.codes, uint16(c))
			}
			p.Load(u.a, w.codes, len(codes)/u.k, u.k, u.k)
		}
		load(&w.a, at)
		load(&w.b, bt)
		for _, c := range ct {
			if u.c == tensorcore.FP16 {
				w.acc = append(w.acc, format.FP16ToFloat32(uint16(c)))
			} else {
				w.acc = append(w.acc, math.Float32frombits(c))
			}
		}
		unit.Tile(w.acc, &w.a, &w.b)
	}
	var m *Mismatch
	for e, got := range yt {
		if len(w.acc) > 0 {
			x := math.Float32bits(w.acc[e])
			if u.c == tensorcore.FP16 {
				x = uint32(format.FP16FromFloat32(w.acc[e]))
			}
			if u.same(x, got) {
				continue
			}
		}
		r, c := e/columns, e%columns
		want := unit.Dot(ct[e], at[r*u.k:(r+1)*u.k], bt[c*u.k:(c+1)*u.k])
		if u.same(want, got) {
			continue
		}
		*differing++
		if m == nil {
			m = &Mismatch{Index: int64(j), Row: r, Column: c, Operands: fmt.Sprintf("c %#x, a %#x, b %#x", ct[e], at[r*u.k:(r+1)*u.k], bt[c*u.k:(c+1)*u.k]), GPU: fmt.Sprintf("%#x", got), Model: fmt.Sprintf("%#x", want)}
		}
	}
	return m
}

// same compares results' bits; any NaN equals any NaN.
func (u *Unit) same(a, b uint32) bool {
	if a == b {
		return true
	}
	return u.nan(a) && u.nan(b)
}

// nan says that a result is a NaN.
func (u *Unit) nan(x uint32) bool {
	switch u.Result {
	case "F32":
		return x&0x7fff_ffff > 0x7f80_0000
	case "F16":
		return x&0x7fff > 0x7c00
	case "BF16":
		return x&0x7fff > 0x7f80
	case "F8_E4M3":
		return x&0x7f == 0x7f
	case "F8_E5M2":
		return x&0x7f > 0x7c
	}
	return false
}

// Outcome is what became of a unit.
type Outcome struct {
	Instruction string `json:"instruction"`
	Arch        string `json:"arch"`
	Device      string `json:"device"`
	Results     int64  `json:"results"`
	Differing   int64  `json:"differing"`
	// Exhaustive says that the results are those of all 2^32 inputs.
	Exhaustive bool      `json:"exhaustive"`
	Skipped    string    `json:"skipped,omitempty"`
	First      *Mismatch `json:"first_difference,omitempty"`
}

// Validate compares at least results results of a unit with its model. A Unary
// unit of 2^32 results or more is tried on every FP32 number. progress, if not
// nil, is called with the finished part.
func (p *Probes) Validate(ctx context.Context, u *Unit, results int64, seed uint64, progress func(part float64)) (Outcome, error) {
	out := Outcome{Instruction: u.Instruction, Arch: p.dev.Arch(), Device: p.dev.Name()}
	if err := u.Runs(p.dev.SM()); err != nil {
		out.Skipped = err.Error()
		return out, nil
	}
	jobs := runtime.GOMAXPROCS(0)
	out.Exhaustive = u.Kind == Unary && results >= 1<<32
	if out.Exhaustive {
		results = 1 << 32
	}
	// A batch is about as much as keeps memory small.
	size := 1 << 23
	if u.Kind == MMA {
		size = 1 << 20 / (u.m * columns)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// The GPU works on the next batch while this one is checked.
	batches := make(chan *Batch, 1)
	go func() {
		defer close(batches)
		per := int64(u.perOperation())
		var done int64
		for i := uint64(0); done < results && ctx.Err() == nil; i++ {
			n := int(min(int64(size), (results-done+per-1)/per))
			b := &Batch{N: n, Start: uint32(done)}
			if !out.Exhaustive {
				b = u.Operands(n, rand.NewPCG(seed, i), jobs)
			}
			if err := p.Run(u, b); err != nil {
				cancel(err)
				return
			}
			done += int64(u.Results(b))
			select {
			case batches <- b:
			case <-ctx.Done():
			}
		}
	}()
	for b := range batches {
		n, first, err := u.Check(ctx, p.dev.Arch(), b, jobs)
		if err != nil {
			cancel(err)
			break
		}
		if first != nil && out.First == nil {
			first.Index += out.Results / int64(u.perOperation())
			out.First = first
		}
		out.Differing += n
		out.Results += int64(u.Results(b))
		if progress != nil {
			progress(float64(out.Results) / float64(results))
		}
	}
	for range batches { // the goroutine above ends before the device is used again
	}
	return out, context.Cause(ctx)
}

// perOperation is the number of results of an operation.
func (u *Unit) perOperation() int { return u.Results(&Batch{N: 1}) }

// Tensors returns a matrix instruction's operands a [N][m][k], b [N][8][k] and c
// [N][m][8] in their safetensors dtypes; s4 is widened to I8.
func (u *Unit) Tensors(b *Batch) (ta, tb, tc safetensors.Tensor) {
	width := max(bits(u.a), 8)
	operand := map[tensorcore.Operand]string{tensorcore.E4M3: "F8_E4M3", tensorcore.E5M2: "F8_E5M2", tensorcore.FP16: "F16", tensorcore.BF16: "BF16", tensorcore.S8: "I8", tensorcore.S4: "I8"}[u.a]
	return safetensors.Tensor{Name: "a", DType: operand, Shape: []int{b.N, u.m, u.k}, Data: pack(b.A, width)},
		safetensors.Tensor{Name: "b", DType: operand, Shape: []int{b.N, columns, u.k}, Data: pack(b.B, width)},
		safetensors.Tensor{Name: "c", DType: u.Result, Shape: []int{b.N, u.m, columns}, Data: pack(b.C, bits(u.c))}
}

// ResultTensor returns a batch's results: [N], or [N][m][8].
func (u *Unit) ResultTensor(name string, b *Batch) safetensors.Tensor {
	width := map[string]int{"F8_E4M3": 8, "F8_E5M2": 8, "I8": 8, "F16": 16, "BF16": 16, "F32": 32, "I32": 32}[u.Result]
	shape := []int{b.N}
	if u.Kind == MMA {
		shape = []int{b.N, u.m, columns}
	}
	return safetensors.Tensor{Name: name, DType: u.Result, Shape: shape, Data: pack(b.Y, width)}
}
