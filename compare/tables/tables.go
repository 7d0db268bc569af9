// Package tables regenerates the accuracy tables of SageAttention2 (arXiv
// 2411.10958) on any dump: the same methods, measured as the paper measures them,
// average and worst over layers. Two tables more compare whole kernels, layer by
// layer: methods, those of the paper and of the field it compares with, and gpus,
// what sageattn() runs on each GPU.
//
// The paper's own activations (CogVideoX) are not at hand, so the figures differ
// from the paper's; what can be compared is the order of the methods and the size
// of the gaps between them. The paper's figures travel along.
package tables

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/compare/heads"
	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/emulate/quant"
	"github.com/sageacc/sageacc/emulate/tensorcore"
	"github.com/sageacc/sageacc/internal/jsonfloat"
	"github.com/sageacc/sageacc/internal/version"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/metrics"
	"github.com/sageacc/sageacc/reference"
)

// Schema is the version of Result's JSON form.
const Schema = "sageacc/table/v1"

// Figures are a method's figures in the paper: cosine similarity as a fraction,
// relative L1 and RMSE. Worst is nil where the paper has one tensor only.
type Figures struct {
	Average Triple  `json:"average"`
	Worst   *Triple `json:"worst,omitempty"`
}

// Triple is cosine similarity, relative L1 and RMSE.
type Triple struct {
	CosSim float64 `json:"cos_sim"`
	RelL1  float64 `json:"rel_l1"`
	RMSE   float64 `json:"rmse"`
}

// Row is one method of a table.
type Row struct {
	Method  string         `json:"method"`
	Average metrics.Values `json:"average"`
	Worst   metrics.Values `json:"worst"`
	Paper   *Figures       `json:"paper,omitempty"`
	// In the tables of whole kernels: the kernel, as --kernel takes it; whose reports its
	// matrix units rest on alone, if any does; the figures of each layer that it takes,
	// which average and worst are over (NaN if there is none); and the others.
	Kernel   string          `json:"kernel,omitempty"`
	Reported string          `json:"reported,omitempty"`
	Layers   []LayerFigures  `json:"layers,omitempty"`
	Refused  []RefusedLayers `json:"refused,omitempty"`
}

// LayerFigures are the figures of one layer.
type LayerFigures struct {
	Layer  string         `json:"layer"`
	Values metrics.Values `json:"values"`
}

// RefusedLayers are layers that a kernel does not take, all for the same reason.
type RefusedLayers struct {
	Layers []string `json:"layers"`
	Why    string   `json:"why"`
}

// Table is one table, measured.
type Table struct {
	Name  string `json:"name"`
	Title string `json:"title"`
	// Setup says what all methods of the table share.
	Setup string `json:"setup"`
	Rows  []Row  `json:"rows"`
}

// Result is the outcome of a run.
type Result struct {
	Schema string `json:"schema"`
	// Tool is what computed the result; nil in those of versions that did not say.
	Tool *compare.Tool `json:"tool,omitempty"`
	// Args is the command that gave the result, as far as it bears on it; Run leaves
	// it nil.
	Args []string `json:"args,omitempty"`
	// Layers are the layers that average and worst are over. Synthetic says how
	// those that are not recordings were made.
	Layers    []string `json:"layers"`
	Synthetic []string `json:"synthetic,omitempty"`
	Reference string   `json:"reference"`
	Tables    []Table  `json:"tables"`
}

// method is a row before it is measured.
type method struct {
	name      string
	change    edit
	transform compare.Transform
	paper     *Figures
	// kernel, if not empty, is the kernel instead of an edited sage2-4b.
	kernel string
}

type definition struct {
	name, title, setup string
	methods            []method
}

// edit changes the description of sage2-4b.
type edit func(*program.Program) error

func smooth(s string) edit {
	return func(p *program.Program) error { return p.SetSmooth(s) }
}

func granularity(g quant.Granularity) edit {
	return func(p *program.Program) error { return p.SetGranularity(g) }
}

// fp32PV computes P~V with a true FP32 accumulator: Hopper's mma.sync has one.
func fp32PV(t quant.PVType) edit {
	return func(p *program.Program) error {
		if err := p.SetPVType(t); err != nil {
			return err
		}
		return p.SetArch(tensorcore.SM90)
	}
}

func accum(name, arch string) edit {
	return func(p *program.Program) error {
		if err := p.SetAccum(name); err != nil {
			return err
		}
		return p.SetArch(arch)
	}
}

func paper(cos, l1, rmse, worstCos, worstL1, worstRMSE float64) *Figures {
	return &Figures{Triple{cos, l1, rmse}, &Triple{worstCos, worstL1, worstRMSE}}
}

// kernels are methods that are whole kernels.
func kernels(names ...string) []method {
	var list []method
	for _, n := range names {
		m := method{name: n, kernel: n}
		if n == "sage2-4b" {
			m.paper = paper(0.9946, 0.0648, 0.0334, 0.9671, 0.1956, 0.0779) // smooth Q+K
		}
		list = append(list, m)
	}
	return list
}

// definitions are the tables: variations of sage2-4b, then whole kernels. The paper's
// figures are those of arXiv 2411.10958v7: tables 4 and 17, 6 and 15, 7 and 16,
// and 10. Of whole kernels it measures sage2-4b like this, as the method that smooths
// Q and K; of the others it has figures of models' outputs alone.
func definitions() []definition {
	oneLevel := func(s string) edit {
		return func(p *program.Program) error {
			if err := p.SetSmooth(s); err != nil {
				return err
			}
			return p.SetAccum("fp32")
		}
	}
	return []definition{
		{"smoothing", "Smoothing of Q and K (paper: tables 4 and 17)", "INT4 Q and K per-thread, E4M3 P and V", []method{
			{"none", smooth("none"), nil, paper(0.8004, 0.3906, 0.2223, 0.0483, 0.9979, 0.7784), ""},
			{"HadmdAttn", smooth("none"), hadamard, paper(0.7977, 0.3782, 0.2180, 0.0485, 0.9978, 0.7785), ""},
			{"SmoothAttn", smooth("none"), smoothAttn, paper(0.9021, 0.3383, 0.1952, 0.6449, 0.9262, 0.7204), ""},
			{"smooth K", smooth("k"), nil, paper(0.9807, 0.1493, 0.0743, 0.9086, 0.3565, 0.1464), ""},
			{"smooth Q", smooth("q"), nil, paper(0.9830, 0.1250, 0.0712, 0.9310, 0.2989, 0.2195), ""},
			{"smooth Q+K", smooth("q,k"), nil, paper(0.9946, 0.0648, 0.0334, 0.9671, 0.1956, 0.0779), ""},
		}},
		{"granularity", "Granularity of Q and K (paper: tables 6 and 15)", "INT4 Q and K, smoothed; E4M3 P and V", []method{
			{"per-token", granularity(quant.PerToken), nil, paper(0.9945, 0.0649, 0.0335, 0.9676, 0.1916, 0.0775), ""},
			{"per-thread", granularity(quant.PerThread), nil, paper(0.9945, 0.0622, 0.0313, 0.9672, 0.1932, 0.0776), ""},
			{"per-block", granularity(quant.PerBlock), nil, paper(0.9803, 0.1492, 0.0744, 0.9068, 0.3615, 0.1490), ""},
			{"per-tensor", granularity(quant.PerTensor), nil, paper(0.9715, 0.1800, 0.0865, 0.8585, 0.4687, 0.2261), ""},
		}},
		{"pv-dtype", "Data type of P and V (paper: tables 7 and 16)", "INT4 Q and K, smoothed; FP32 accumulator", []method{
			{"INT8", fp32PV(quant.INT8), nil, paper(0.7705, 0.5618, 0.5044, 0.1952, 0.9579, 1.4483), ""},
			{"E5M2", fp32PV(quant.E5M2), nil, paper(0.9920, 0.0905, 0.0903, 0.9494, 0.2327, 0.2361), ""},
			{"E4M3", fp32PV(quant.E4M3), nil, paper(0.9944, 0.0683, 0.0347, 0.9670, 0.1956, 0.0779), ""},
			{"FP16", fp32PV(quant.FP16), nil, paper(0.9945, 0.0649, 0.0335, 0.9676, 0.1916, 0.0775), ""},
		}},
		{"smooth-v", "Smoothing of V (paper: table 10, one tensor)", "INT4 Q and K, smoothed; E4M3 P and V; FP22 accumulator, one level", []method{
			{"no", oneLevel("q,k"), nil, &Figures{Average: Triple{0.9825, 0.1980, 0.2387}}, ""},
			{"yes", oneLevel("q,k,v"), nil, &Figures{Average: Triple{0.9975, 0.0406, 0.0773}}, ""},
		}},
		{"accumulator", "Accumulator of PV (paper: section 3.4)", "INT4 Q and K, smoothed; E4M3 P and V", []method{
			{"FP22, one level", accum("fp32", tensorcore.SM89), nil, nil, ""},
			{"FP22, two levels", accum("fp32+fp32", tensorcore.SM89), nil, nil, ""},
			{"FP32", accum("fp32", tensorcore.SM90), nil, nil, ""},
			{"FP16, two levels", accum("fp32+fp16", tensorcore.SM89), nil, nil, ""},
		}},
		{"methods", "Kernels of the paper and of the field", "each as it is released; paper: the method of tables 4 and 17 that is sage2-4b", kernels(
			"fa2", "sdpa-efficient", "fa3", "sage-fp16-cuda", "sage-fp16-triton", "sage2-8b-sm90", "sageattn@sm_89", "sageattn@sm_120",
			"sage2-4b", "fa3-fp8-2level", "fa3-fp8", "flashinfer-fp8")},
		{"gpus", "sageattn() by GPU", "what sageattn() of SageAttention d1a57a5 runs on each", kernels(
			"sageattn@sm_80", "sageattn@sm_86", "sageattn@sm_89", "sageattn@sm_90", "sageattn@sm_120")},
	}
}

// Names returns the names of the tables.
func Names() []string {
	var names []string
	for _, d := range definitions() {
		names = append(names, d.name)
	}
	return names
}

// Options control a run.
type Options struct {
	Reference reference.Precision
	Jobs      int
	// Progress, if not nil, is called with the finished part, 0 to 1, Skipped with parts
	// of it that were kept.
	Progress, Skipped func(part float64)
	// Keep, if not nil, returns what keeps the run of one of Methods over the layers of
	// these numbers, nil for all.
	Keep func(method int, layers []int) compare.Keeper
}

// Method is a row of a table that is to be measured.
type Method struct {
	// Table and Name say which it is.
	Table, Name string
	Kernel      *emulate.Kernel

	method method
	table  *definition
}

// Methods returns the rows of the named tables.
func Methods(names []string) ([]Method, error) {
	var out []Method
	all := definitions()
	for _, n := range names {
		i := slices.IndexFunc(all, func(d definition) bool { return d.name == n })
		if i < 0 {
			return nil, fmt.Errorf("unknown table %q (have %s)", n, strings.Join(Names(), ", "))
		}
		for _, m := range all[i].methods {
			k, err := m.build()
			if err != nil {
				return nil, fmt.Errorf("table %s, %s: %w", n, m.name, err)
			}
			out = append(out, Method{n, m.name, k, m, &all[i]})
		}
	}
	return out, nil
}

// Run measures the named tables on a dump.
func Run(ctx context.Context, names []string, d *layerdumps.Dump, opt Options) (*Result, error) {
	methods, err := Methods(names)
	if err != nil {
		return nil, err
	}
	tool := version.Get()
	res := &Result{Schema: Schema, Tool: &tool, Reference: opt.Reference.String()}
	for _, l := range d.Layers {
		res.Layers = append(res.Layers, l.Name)
		if l.Synthetic != "" && !slices.Contains(res.Synthetic, l.Synthetic) {
			res.Synthetic = append(res.Synthetic, l.Synthetic)
		}
	}
	for i := range methods {
		m := &methods[i]
		if i == 0 || methods[i-1].table != m.table {
			res.Tables = append(res.Tables, Table{Name: m.Table, Title: m.table.title, Setup: m.table.setup})
		}
		row, err := m.run(ctx, d, opt, i, len(methods))
		if err != nil {
			return nil, err
		}
		t := &res.Tables[len(res.Tables)-1]
		t.Rows = append(t.Rows, *row)
	}
	return res, nil
}

// run measures the method of that number of so many.
func (m *Method) run(ctx context.Context, d *layerdumps.Dump, opt Options, number, methods int) (*Row, error) {
	row := &Row{Method: m.Name, Paper: m.method.paper, Kernel: m.method.kernel}
	part, layers := d, []int(nil)
	if m.method.kernel != "" {
		part = new(layerdumps.Dump)
		*part = *d
		part.Layers = nil
		layers, row.Refused = taken(m.Kernel, d)
		for _, i := range layers {
			part.Layers = append(part.Layers, d.Layers[i])
		}
		row.Reported = reported(m.Kernel, part.Layers)
	}
	if len(part.Layers) == 0 {
		nan := jsonfloat.Float(math.NaN())
		row.Average = metrics.Values{CosSim: nan, RelL1: nan, RMSE: nan, MaxAbs: nan}
		row.Worst = row.Average
		return row, nil
	}
	share := func(f func(float64), done int) func(float64) {
		return func(part float64) {
			if f != nil {
				f((float64(done) + part) / float64(methods))
			}
		}
	}
	o := compare.Options{
		Kernel: m.Kernel, Reference: opt.Reference, Jobs: opt.Jobs, Transform: m.method.transform, NoActual: true,
		Progress: share(opt.Progress, number), Skipped: share(opt.Skipped, 0),
	}
	if opt.Keep != nil {
		o.Keep = opt.Keep(number, layers)
	}
	r, err := compare.Run(ctx, part, o)
	if err != nil {
		return nil, err
	}
	row.Average, row.Worst = r.Average.EmulatedVsReference, r.Worst.EmulatedVsReference
	if m.method.kernel != "" {
		for _, l := range r.Layers {
			row.Layers = append(row.Layers, LayerFigures{l.Name, l.EmulatedVsReference})
		}
	}
	return row, nil
}

// build makes the kernel of a method.
func (m *method) build() (*emulate.Kernel, error) {
	name := m.kernel
	if name == "" {
		name = "sage2-4b"
	}
	p, err := program.Preset(name)
	if err != nil {
		return nil, err
	}
	if m.change != nil {
		if err := m.change(&p); err != nil {
			return nil, err
		}
	}
	return emulate.New(p)
}

// taken returns the numbers of the layers that a kernel takes, and the others.
func taken(k *emulate.Kernel, d *layerdumps.Dump) (list []int, refused []RefusedLayers) {
	for i := range d.Layers {
		l := &d.Layers[i]
		if _, err := heads.Bind(k, l); err != nil {
			why := heads.Reason(err)
			n := slices.IndexFunc(refused, func(r RefusedLayers) bool { return r.Why == why })
			if n < 0 {
				n = len(refused)
				refused = append(refused, RefusedLayers{Why: why})
			}
			refused[n].Layers = append(refused[n].Layers, l.Name)
			continue
		}
		list = append(list, i)
	}
	return list, refused
}

// reported names the matrix units of a kernel that nobody recorded, as it runs layers.
func reported(k *emulate.Kernel, layers []layerdumps.Layer) string {
	var units []string
	for i := range layers {
		b, err := heads.Bind(k, &layers[i])
		if err != nil {
			continue // it was among those taken
		}
		p := b.Kernel.Bound()
		for _, unit := range []program.Unit{p.Scores.Unit, p.PV.Unit} {
			u, err := unit.Lookup(p.Arch)
			if err != nil || u == nil || !u.Reported() {
				continue
			}
			if name := u.Instruction + " of " + u.Arch; !slices.Contains(units, name) {
				units = append(units, name)
			}
		}
	}
	return strings.Join(units, ", ")
}
