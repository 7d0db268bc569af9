//go:build cuda

package launch

// #cgo LDFLAGS: -ldl
// #include <stddef.h>
// const char *sageacc_driver_error(void);
// int sageacc_driver_init(void);
// int sageacc_allow_shared(void *function, int bytes);
import "C"

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"gorgonia.org/cu"
)

// Device is a GPU. Its methods and those of what belongs to it may be called from
// any goroutine, one at a time.
type Device struct {
	name    string
	sm      int
	context cu.CUContext
	work    chan func()
}

// Module is a loaded image.
type Module struct {
	d *Device
	m cu.Module
}

// Function is an entry point of a module.
type Function struct {
	d *Device
	f cu.Function
}

// Buffer is memory on the device.
type Buffer struct {
	d    *Device
	p    cu.DevicePtr
	size int
}

// Built says whether this binary can reach a GPU.
func Built() bool { return true }

// Open opens the first GPU. It fails with one line where there is no driver, no
// GPU, or none that may be used.
func Open() (*Device, error) {
	if msg := C.sageacc_driver_error(); msg != nil {
		return nil, fmt.Errorf("no NVIDIA driver: %s", C.GoString(msg))
	}
	if r := cu.Version(); r <= 0 {
		return nil, errors.New("the NVIDIA driver does not answer")
	}
	d := &Device{work: make(chan func())}
	// A context belongs to the thread that made it.
	go func() {
		runtime.LockOSThread()
		for f := range d.work {
			f()
		}
	}()
	err := d.do(func() error {
		if r := C.sageacc_driver_init(); r != 0 {
			if r == 100 {
				return errors.New("the NVIDIA driver finds no GPU")
			}
			return fmt.Errorf("the NVIDIA driver cannot start (CUDA error %d)", int(r))
		}
		n, err := cu.NumDevices()
		if err != nil {
			return fmt.Errorf("count GPUs: %w", err)
		}
		if n == 0 {
			return errors.New("the NVIDIA driver finds no GPU")
		}
		dev, err := cu.GetDevice(0)
		if err != nil {
			return fmt.Errorf("open the GPU: %w", err)
		}
		if d.name, err = dev.Name(); err != nil {
			return fmt.Errorf("open the GPU: %w", err)
		}
		major, minor, err := dev.ComputeCapability()
		if err != nil {
			return fmt.Errorf("open the GPU: %w", err)
		}
		d.sm = 10*major + minor
		if d.context, err = dev.MakeContext(cu.SchedAuto); err != nil {
			return fmt.Errorf("open the GPU %s: %w", d.name, err)
		}
		return nil
	})
	if err != nil {
		close(d.work)
		return nil, err
	}
	return d, nil
}

// do runs f on the context's thread.
func (d *Device) do(f func() error) error {
	done := make(chan error)
	d.work <- func() { done <- f() }
	return <-done
}

// Name returns the device's name.
func (d *Device) Name() string { return d.name }

// SM returns its compute capability, 90 for 9.0.
func (d *Device) SM() int { return d.sm }

// Arch returns its architecture, sm_90 say.
func (d *Device) Arch() string { return fmt.Sprintf("sm_%d", d.sm) }

// Close frees everything.
func (d *Device) Close() error {
	err := d.do(func() error { return d.context.Destroy() })
	close(d.work)
	return err
}

// Load loads a PTX text or a cubin.
func (d *Device) Load(image []byte) (*Module, error) {
	m := &Module{d: d}
	return m, d.do(func() (err error) {
		m.m, err = cu.LoadData(string(image))
		return err
	})
}

// Alloc reserves n bytes.
func (d *Device) Alloc(n int) (*Buffer, error) {
	b := &Buffer{d: d, size: n}
	return b, d.do(func() (err error) {
		b.p, err = cu.MemAlloc(int64(max(n, 1)))
		if err != nil {
			err = fmt.Errorf("reserve %d bytes on the GPU: %w", n, err)
		}
		return err
	})
}

// Function finds an entry point.
func (m *Module) Function(name string) (*Function, error) {
	f := &Function{d: m.d}
	return f, m.d.do(func() (err error) {
		f.f, err = m.m.Function(name)
		return err
	})
}

// Launch runs the function and waits for it.
func (f *Function) Launch(grid, block Grid, shared int, args ...Arg) error {
	if err := check(grid, block, shared); err != nil {
		return err
	}
	params := make([]unsafe.Pointer, len(args))
	for i := range args {
		params[i] = unsafe.Pointer(&args[i])
	}
	return f.d.do(func() error {
		if shared > 48<<10 {
			// gorgonia.org/cu has no call for this; its Function is the driver's handle.
			handle := *(*unsafe.Pointer)(unsafe.Pointer(&f.f))
			if r := C.sageacc_allow_shared(handle, C.int(shared)); r != 0 {
				return fmt.Errorf("the GPU does not give %d bytes of shared memory to a block (CUDA error %d)", shared, int(r))
			}
		}
		if err := f.f.Launch(grid[0], grid[1], grid[2], block[0], block[1], block[2], shared, cu.Stream{}, params); err != nil {
			return err
		}
		return cu.Synchronize()
	})
}

// Arg is the buffer's address.
func (b *Buffer) Arg() Arg { return b.ArgAt(0) }

// ArgAt is the address of the buffer's byte at offset.
func (b *Buffer) ArgAt(offset int) Arg { return Int64(int64(b.p) + int64(offset)) }

// Size is the buffer's size in bytes.
func (b *Buffer) Size() int { return b.size }

// Fill sets every byte.
func (b *Buffer) Fill(x byte) error {
	return b.d.do(func() error { return cu.MemsetD8(b.p, x, int64(b.size)) })
}

func (b *Buffer) span(what string, offset int, x []byte) error {
	if offset < 0 || offset+len(x) > b.size {
		return fmt.Errorf("%s %d bytes from %d on: the buffer has %d", what, len(x), offset, b.size)
	}
	return nil
}

// Upload copies x to the buffer from offset on.
func (b *Buffer) Upload(offset int, x []byte) error {
	if err := b.span("upload", offset, x); err != nil || len(x) == 0 {
		return err
	}
	return b.d.do(func() error {
		return cu.MemcpyHtoD(b.p+cu.DevicePtr(offset), unsafe.Pointer(&x[0]), int64(len(x)))
	})
}

// Download copies from the buffer, from offset on, to x.
func (b *Buffer) Download(offset int, x []byte) error {
	if err := b.span("download", offset, x); err != nil || len(x) == 0 {
		return err
	}
	return b.d.do(func() error {
		return cu.MemcpyDtoH(unsafe.Pointer(&x[0]), b.p+cu.DevicePtr(offset), int64(len(x)))
	})
}

// Free returns the memory.
func (b *Buffer) Free() error {
	return b.d.do(func() error { return cu.MemFree(b.p) })
}
