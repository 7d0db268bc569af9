//go:build !cuda

package launch

// Device is a GPU; there is none in this build.
type Device struct{}

// Module, Function and Buffer belong to a Device.
type (
	// Module is a loaded image.
	Module struct{}
	// Function is an entry point of a module.
	Function struct{}
	// Buffer is memory on the device.
	Buffer struct{}
)

// Open returns ErrNotBuilt.
func Open() (*Device, error) { return nil, ErrNotBuilt }

// Built says whether this binary can reach a GPU.
func Built() bool { return false }

// Name returns the device's name.
func (d *Device) Name() string { return "" }

// Arch returns its architecture, sm_90 say.
func (d *Device) Arch() string { return "" }

// SM returns its compute capability, 90 for 9.0.
func (d *Device) SM() int { return 0 }

// Close frees everything.
func (d *Device) Close() error { return nil }

// Load loads a PTX text or a cubin.
func (d *Device) Load([]byte) (*Module, error) { return nil, ErrNotBuilt }

// Alloc reserves n bytes.
func (d *Device) Alloc(int) (*Buffer, error) { return nil, ErrNotBuilt }

// Function finds an entry point.
func (m *Module) Function(string) (*Function, error) { return nil, ErrNotBuilt }

// Launch runs the function and waits for it.
func (f *Function) Launch(Grid, Grid, int, ...Arg) error { return ErrNotBuilt }

// Arg is the buffer's address.
func (b *Buffer) Arg() Arg { return Arg{} }

// ArgAt is the address of the buffer's byte at offset.
func (b *Buffer) ArgAt(int) Arg { return Arg{} }

// Size is the buffer's size in bytes.
func (b *Buffer) Size() int { return 0 }

// Fill sets every byte.
func (b *Buffer) Fill(byte) error { return ErrNotBuilt }

// Upload copies x to the buffer from offset on.
func (b *Buffer) Upload(int, []byte) error { return ErrNotBuilt }

// Download copies from the buffer, from offset on, to x.
func (b *Buffer) Download(int, []byte) error { return ErrNotBuilt }

// Free returns the memory.
func (b *Buffer) Free() error { return nil }
