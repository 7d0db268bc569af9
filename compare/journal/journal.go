// Package journal keeps what a run over the layers of a dump has finished in a file, so
// that it is not lost when the run is: the run that resumes it gives the same result as
// one that was never interrupted.
//
// The file is a [recordlog]. Its first record, the header, says of which run it is; the
// others are partial results of layers and notes about them, each with a digest of the
// layer's inputs. The parts that the shards of a run write are such files too.
package journal

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/internal/datafile"
	"github.com/sageacc/sageacc/internal/recordlog"
	"github.com/sageacc/sageacc/internal/version"
	"github.com/sageacc/sageacc/layerdumps"
)

// Schema is the version of the records' JSON form.
const Schema = "sageacc/journal/v1"

// Identity is what the partial results of a run depend on, beside what its layers hold.
type Identity struct {
	Command string       `json:"command"`
	Tool    version.Info `json:"tool"`
	// Options are those that bear on partial results, but for the kernels.
	Options map[string]string `json:"options,omitempty"`
	// Runs are the runs over the layers, one for each kernel.
	Runs []Run `json:"runs"`
	// Layers are the dump's layers, where the runs do not say them.
	Layers []Layer `json:"layers,omitempty"`
}

// Layer is what a layer is.
type Layer struct {
	Name    string        `json:"name"`
	Shape   compare.Shape `json:"shape"`
	Causal  bool          `json:"causal,omitempty"`
	SMScale float64       `json:"sm_scale"`
	// Call is what the call was given besides.
	Call *layerdumps.Call `json:"call,omitempty"`
}

// LayersOf returns the layers of a dump.
func LayersOf(d *layerdumps.Dump) []Layer {
	var out []Layer
	for i := range d.Layers {
		l := &d.Layers[i]
		out = append(out, Layer{l.Name, compare.ShapeOf(l), l.Causal, l.Scale(), l.Call()})
	}
	return out
}

// Run is what a run with one kernel is.
type Run struct {
	Kernel    compare.KernelInfo `json:"kernel"`
	QueryTile int                `json:"query_tile,omitempty"`
	// Layers are the outlines of the dump's layers; nil where the result is not joined
	// of parts.
	Layers []*compare.Outline `json:"layers,omitempty"`
}

// Header is the first record.
type Header struct {
	Schema string `json:"schema"`
	Identity
	// Shard is which of how many shards the file is of, counted from 1; nil for a whole
	// run.
	Shard *[2]int `json:"shard,omitempty"`
	// Settings are the command's own: what it needs to put the result together.
	Settings json.RawMessage `json:"settings,omitempty"`
}

// MaxShards is how many shards there may be.
const MaxShards = 1 << 20

// check reports a header that is none.
func (h *Header) check(path string) error {
	for _, r := range h.Runs {
		for _, o := range r.Layers {
			if o == nil {
				return fmt.Errorf("%s: a layer without an outline", path)
			}
			if err := o.Check(); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
		}
	}
	if s := h.Shard; s != nil && (s[0] < 1 || s[0] > s[1] || s[1] > MaxShards) {
		return fmt.Errorf("%s: shard %d of %d", path, s[0], s[1])
	}
	return nil
}

// Difference says in what another run differs from this one; it is empty if in nothing
// that partial results depend on. Where files lie does not matter.
func (h *Identity) Difference(o *Identity) string {
	switch {
	case h.Command != o.Command:
		return fmt.Sprintf("it is of sageacc %s", o.Command)
	case h.Tool != o.Tool:
		return fmt.Sprintf("it is of another build of sageacc, %s", o.Tool)
	case len(h.Runs) != len(o.Runs):
		return fmt.Sprintf("it is of %d kernels, not of %d", len(o.Runs), len(h.Runs))
	}
	for name, x := range h.Options {
		if y := o.Options[name]; x != y {
			return fmt.Sprintf("its %s is %q, not %q", name, y, x)
		}
	}
	if len(h.Options) != len(o.Options) {
		return "its options are others"
	}
	if d := difference(h.Layers, o.Layers, func(l Layer) string { return l.Name }); d != "" {
		return d
	}
	for i := range h.Runs {
		a, b := &h.Runs[i], &o.Runs[i]
		if !same(a.Kernel, b.Kernel) {
			return fmt.Sprintf("its kernel %s is another", b.Kernel.Name)
		}
		if d := difference(unplaced(a.Layers), unplaced(b.Layers), func(o compare.Outline) string { return o.Name }); d != "" {
			return d
		}
	}
	return ""
}

// difference says in what the layers of another run differ from these.
func difference[L any](a, b []L, name func(L) string) string {
	if len(a) != len(b) {
		return fmt.Sprintf("it is of %d layers, not of %d", len(b), len(a))
	}
	for i := range a {
		if x, y := name(a[i]), name(b[i]); x != y {
			return fmt.Sprintf("its layer %d is %s, not %s", i+1, y, x)
		}
		if !same(a[i], b[i]) {
			return fmt.Sprintf("its layer %s has another shape or other parameters", name(b[i]))
		}
	}
	return ""
}

// unplaced are outlines without the files of the layers.
func unplaced(os []*compare.Outline) []compare.Outline {
	var out []compare.Outline
	for _, o := range os {
		x := *o
		x.Source = ""
		out = append(out, x)
	}
	return out
}

// same compares what a file holds with what may go into one.
func same(a, b any) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && reflect.DeepEqual(x, y)
}

// record is a record after the header: a partial result, or a note of a name.
type record struct {
	Note   string          `json:"note,omitempty"`
	Run    int             `json:"run"`
	Layer  int             `json:"layer"`
	Inputs string          `json:"inputs"` // digest
	Data   json.RawMessage `json:"data"`
}

// key says what a record is of.
type key struct {
	note       string
	run, layer int
}

// entry is where a record is.
type entry struct {
	path   string
	offset int64
	inputs string
}

// read reads a record's data.
func (e *entry) read() (json.RawMessage, error) {
	text, err := recordlog.Record(e.path, e.offset)
	if err != nil {
		return nil, err
	}
	var r record
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", e.path, err)
	}
	return r.Data, nil
}

// readInto reads a record's data as JSON.
func (e *entry) readInto(x any) error {
	data, err := e.read()
	if err == nil {
		if err = json.Unmarshal(data, x); err != nil {
			err = fmt.Errorf("%s: %w", e.path, err)
		}
	}
	return err
}

// index is what files hold.
type index map[key][]entry

// scanner returns a function that takes in a file's records.
func (x index) scanner(path string, h **Header) func(int64, []byte) error {
	return func(at int64, text []byte) error {
		if *h == nil {
			if at > 0 {
				return fmt.Errorf("%s: the first record of this journal, which says of what run it is, is damaged: nothing of it can be used", path)
			}
			*h = new(Header)
			if err := json.Unmarshal(text, *h); err != nil || (*h).Schema != Schema {
				return fmt.Errorf("%s: not a journal of sageacc", path)
			}
			return (*h).check(path)
		}
		var r record
		if err := json.Unmarshal(text, &r); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if r.Run < 0 || r.Run >= len((*h).Runs) || r.Layer < 0 {
			return fmt.Errorf("%s: a record of layer %d of run %d, which is none", path, r.Layer, r.Run)
		}
		k := key{r.Note, r.Run, r.Layer}
		x[k] = append(x[k], entry{path, at, r.Inputs})
		return nil
	}
}

// Options say how a journal is kept.
type Options struct {
	// Resume goes on with a journal that is there. Without it one that is there is an
	// error.
	Resume bool
	// Lasting keeps the file from the start and after the end, and what cannot be
	// written is an error: it is the part of a shard. Otherwise there is no file before
	// the run has taken a second, nor after its end, and a run without a journal goes on.
	Lasting bool
	// Written, if not nil, is called once there is a file.
	Written func(path string)
	// Soon is how long the work is that is not worth a file, and the shortest time between
	// two records of one layer; 0 stands for a second.
	Soon time.Duration
}

// share of a run's time, one part in so many, may be lost.
const share = 100

// Journal is a run's journal. It is safe for concurrent use.
type Journal struct {
	path   string
	header *Header
	opt    Options
	dump   *layerdumps.Dump
	start  time.Time

	digests []digest
	ctx     context.Context // of digests
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	mu      sync.Mutex
	log     *recordlog.Log // nil before there is a file
	pending []pending      // not in a file yet
	index   index          // what an earlier run left
	damaged int
	kept    time.Time // when something was
	synced  time.Time
	fault   error // the first failure to write
}

type pending struct {
	key
	data json.RawMessage
}

// digest is that of a layer's inputs, made once.
type digest struct {
	once sync.Once
	text string
	err  error
}

// Open starts the journal of a run over a dump, or goes on with one that is there.
func Open(ctx context.Context, path string, h Header, d *layerdumps.Dump, opt Options) (*Journal, error) {
	h.Schema = Schema
	if opt.Soon == 0 {
		opt.Soon = time.Second
	}
	j := &Journal{path: path, header: &h, opt: opt, dump: d, start: time.Now(), digests: make([]digest, len(d.Layers)), index: make(index)}
	j.kept, j.synced = j.start, j.start
	j.ctx, j.cancel = context.WithCancel(context.WithoutCancel(ctx))
	_, err := os.Lstat(path)
	switch {
	case err == nil && !opt.Resume && opt.Lasting:
		return nil, fmt.Errorf("%s is there already: --resume goes on with it if it is not finished; or remove it", path)
	case err == nil && !opt.Resume:
		return nil, fmt.Errorf("%s is there, of a run that was not finished: --resume goes on with it; or remove it", path)
	case err == nil:
		return j, j.open()
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	case opt.Lasting:
		j.mu.Lock()
		defer j.mu.Unlock()
		return j, j.create()
	}
	return j, nil
}

// beginning is how a file begins, after the checksum of its first record.
const beginning = ` {"schema":"` + Schema + `"`

// ours reports whether a file begins as a journal does, as far as it goes.
func ours(path string) (bool, error) {
	f, err := datafile.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	head, err := io.ReadAll(io.LimitReader(f, int64(8+len(beginning))))
	sum := head[:min(8, len(head))]
	return strings.Trim(string(sum), "0123456789abcdef") == "" && strings.HasPrefix(beginning, string(head[len(sum):])), err
}

// open reads what an earlier run left.
func (j *Journal) open() error {
	if ok, err := ours(j.path); !ok || err != nil {
		return cmp.Or(err, fmt.Errorf("%s: not a journal of sageacc", j.path))
	}
	var h *Header
	log, damaged, err := recordlog.Open(j.path, j.index.scanner(j.path, &h))
	if err != nil {
		return err
	}
	if h == nil { // it was killed before it could say what it was
		j.log = log
		return j.writeHeader()
	}
	d := j.header.Difference(&h.Identity)
	if d == "" && !reflect.DeepEqual(j.header.Shard, h.Shard) {
		d = "it is of another shard"
	}
	if d == "" && j.opt.Lasting && !same(j.header.Settings, h.Settings) {
		d = "its command line is another"
	}
	if d != "" {
		return errors.Join(fmt.Errorf("%s: a journal of another run: %s", j.path, d), log.Close())
	}
	j.log, j.damaged = log, damaged
	j.tell()
	return nil
}

// tell says that there is a file.
func (j *Journal) tell() {
	if j.opt.Written != nil {
		j.opt.Written(j.path)
	}
}

// create makes the file.
func (j *Journal) create() error {
	log, err := recordlog.Create(j.path)
	if err != nil {
		return err
	}
	j.log = log
	return j.writeHeader()
}

func (j *Journal) writeHeader() error {
	text, err := json.Marshal(j.header)
	if err == nil {
		_, err = j.log.Append(text)
	}
	if err == nil {
		j.tell()
	}
	return err
}

// Damaged is how many records of an earlier run could not be read. Their work is done
// again.
func (j *Journal) Damaged() int { return j.damaged }

// Fault is why the journal could not be written, nil if it could.
func (j *Journal) Fault() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.fault
}

// digest is that of a layer's inputs.
func (j *Journal) digest(layer int) (string, error) {
	d := &j.digests[layer]
	d.once.Do(func() { d.text, d.err = j.dump.Layers[layer].Digest(j.ctx) })
	return d.text, d.err
}

// old reports whether the run is long enough for a file.
func (j *Journal) old() bool { return j.opt.Lasting || time.Since(j.start) >= j.opt.Soon }

// earlier returns what an earlier run left of something, if that had the same inputs.
func (j *Journal) earlier(k key) ([]entry, error) {
	j.mu.Lock()
	entries := j.index[k]
	j.mu.Unlock()
	if entries == nil {
		return nil, nil
	}
	now, err := j.digest(k.layer)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.inputs != now {
			return nil, fmt.Errorf("%s: a journal of another run: it is of other tensors than %s has now", j.path, j.dump.Layers[k.layer].Source)
		}
	}
	return entries, nil
}

// append keeps data: in memory as long as there need not be a file.
func (j *Journal) append(k key, data json.RawMessage) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.kept = time.Now()
	if j.fault != nil {
		return nil // said once is enough
	}
	j.pending = append(j.pending, pending{k, data})
	if j.log == nil && !j.old() {
		return nil
	}
	err := j.flush()
	if err != nil && !j.opt.Lasting {
		j.fault, j.pending, err = err, nil, nil
	}
	return err
}

// flush writes what is pending.
func (j *Journal) flush() error {
	if j.log == nil {
		if err := j.create(); err != nil {
			return err
		}
	}
	for _, p := range j.pending {
		inputs, err := j.digest(p.layer)
		if err != nil {
			return err
		}
		text, err := json.Marshal(record{p.note, p.run, p.layer, inputs, p.data})
		if err == nil {
			_, err = j.log.Append(text)
		}
		if err != nil {
			return err
		}
	}
	j.pending = nil
	if time.Since(j.synced) < j.opt.Soon {
		return nil
	}
	j.synced = time.Now()
	return j.log.Sync()
}

// Close ends the journal. Finished says that the run came to its end: what was kept is
// of no use any more, if it is not to last.
func (j *Journal) Close(finished bool) error {
	j.cancel()
	j.wg.Wait()
	j.mu.Lock()
	defer j.mu.Unlock()
	log := j.log
	j.log = nil
	switch {
	case log == nil:
		return nil
	case finished && !j.opt.Lasting:
		return log.Remove()
	}
	return errors.Join(log.Sync(), log.Close())
}

// Keeper is the journal's view of one run.
type Keeper struct {
	j   *Journal
	run int
	// layers are the indices in the journal's dump of the layers of the run's.
	layers []int
}

// Run returns the keeper of a run over the layers with these indices, nil for all of
// them.
func (j *Journal) Run(run int, layers []int) *Keeper { return &Keeper{j, run, layers} }

func (k *Keeper) at(layer int) int {
	if k.layers == nil {
		return layer
	}
	return k.layers[layer]
}

// Kept implements [compare.Keeper].
func (k *Keeper) Kept(_ context.Context, layer int, o *compare.Outline) (*compare.Partial, error) {
	entries, err := k.j.earlier(key{"", k.run, k.at(layer)})
	if entries == nil || err != nil {
		return nil, err
	}
	return merged(o, entries)
}

// merged is what the entries of a layer give together.
func merged(o *compare.Outline, entries []entry) (*compare.Partial, error) {
	all := new(compare.Partial)
	for _, e := range entries {
		data, err := e.read()
		if err != nil {
			return nil, err
		}
		p, err := compare.ReadPartial(data, o)
		if err == nil && p.Done().Minus(all.Done()) == nil {
			continue // it is there already
		}
		if err == nil {
			err = all.Merge(o, p)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.path, err)
		}
	}
	return all, nil
}

// Begin implements [compare.Keeper].
func (k *Keeper) Begin(layer int) {
	j := k.j
	if !j.old() {
		return
	}
	// So that nothing waits for it later.
	j.wg.Go(func() {
		_, _ = j.digest(k.at(layer)) // its error is that of whoever needs it
	})
}

// Due implements [compare.Keeper].
func (k *Keeper) Due() bool {
	j := k.j
	j.mu.Lock()
	defer j.mu.Unlock()
	now := time.Now()
	return now.Sub(j.kept) >= max(j.opt.Soon, now.Sub(j.start)/share)
}

// Keep implements [compare.Keeper].
func (k *Keeper) Keep(layer int, p *compare.Partial) error {
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return k.j.append(key{"", k.run, k.at(layer)}, data)
}

// Noted implements [compare.Keeper].
func (k *Keeper) Noted(layer int, name string, note any) (bool, error) {
	entries, err := k.j.earlier(key{name, k.run, k.at(layer)})
	if entries == nil || err != nil {
		return false, err
	}
	return true, entries[0].readInto(note)
}

// Note implements [compare.Keeper].
func (k *Keeper) Note(layer int, name string, note any) error {
	data, err := json.Marshal(note)
	if err != nil {
		return err
	}
	return k.j.append(key{name, k.run, k.at(layer)}, data)
}

var _ compare.Keeper = (*Keeper)(nil)
