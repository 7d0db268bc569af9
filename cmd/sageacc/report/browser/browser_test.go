package browser

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/sageacc/sageacc/cmd/sageacc/report"
	"github.com/sageacc/sageacc/cmd/sageacc/report/internal/demo"
	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/internal/jsonfloat"
)

// shared is the one browser of all tests; nil where there is none.
var shared context.Context

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var path string
		for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
			if p, err := exec.LookPath(name); err == nil {
				path = p
				break
			}
		}
		if path == "" {
			return m.Run()
		}
		dir, err := os.MkdirTemp("", "sageacc-browser-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		opts := []chromedp.ExecAllocatorOption{chromedp.ExecPath(path), chromedp.UserDataDir(dir), chromedp.NoSandbox, chromedp.NoFirstRun, chromedp.Headless}
		for _, f := range []string{"disable-gpu", "disable-quic", "disable-background-networking", "disable-component-update", "disable-sync", "hide-scrollbars"} {
			opts = append(opts, chromedp.Flag(f, true))
		}
		allocator, cancel := chromedp.NewExecAllocator(context.Background(), opts...)
		defer cancel()
		ctx, stop := chromedp.NewContext(allocator)
		defer stop()
		if err := chromedp.Do(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "the browser does not start:", err)
			return 1
		}
		shared = ctx
		return m.Run()
	}())
}

// tab is a page in the browser.
type tab struct {
	testing.TB
	ctx context.Context

	mu       sync.Mutex
	troubles []string // errors on the console, exceptions, and what was asked of a network
}

// how a page is looked at.
type how struct {
	width, height int64
	dark          bool
	noScript      bool
	fragment      string
}

var desktop = how{width: 1280, height: 900}

// open writes a page to a file and opens it. Whatever goes wrong in it fails the test,
// unless the test takes the troubles itself.
func open(t testing.TB, html string, h how) *tab {
	t.Helper()
	if shared == nil {
		t.Skip("there is no Chromium and no Chrome on the PATH")
	}
	path := filepath.Join(t.TempDir(), "page.html")
	if err := os.WriteFile(path, []byte(html), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := chromedp.NewContext(shared)
	t.Cleanup(cancel)
	b := &tab{TB: t, ctx: ctx}
	add := func(format string, args ...any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.troubles = append(b.troubles, fmt.Sprintf(format, args...))
	}
	if err := chromedp.Listen(ctx, func(ev any) {
		switch e := ev.(type) {
		case *runtime.EventExceptionThrown:
			add("exception: %s", e.ExceptionDetails.Text)
		case *cdplog.EventEntryAdded:
			if e.Entry.Level == cdplog.EntryLevelError {
				add("console: %s", e.Entry.Text)
			}
		case *network.EventRequestWillBeSent:
			if u, err := url.Parse(e.Request.URL); err != nil || u.Scheme != "file" || u.Path != path {
				add("asks for %s", e.Request.URL)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	scheme := "light"
	if h.dark {
		scheme = "dark"
	}
	call(b, network.Enable, network.EnableParams{})
	call(b, cdplog.Enable, cdp.Empty{})
	call(b, runtime.Enable, cdp.Empty{})
	call(b, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: h.width, Height: h.height, DeviceScaleFactor: 1, Mobile: h.width < 600})
	call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
	if h.noScript {
		call(b, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	}
	b.run(chromedp.Navigate("file://" + path + h.fragment))
	t.Cleanup(func() {
		for _, s := range b.take() {
			t.Error(s)
		}
	})
	return b
}

// take returns what went wrong so far, and forgets it.
func (b *tab) take() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.troubles
	b.troubles = nil
	return s
}

// call sends a command to the browser.
func call[P, R any](b *tab, c cdp.Command[P, R], params P) R {
	b.Helper()
	r, err := chromedp.Call(b.ctx, c, params)
	if err != nil {
		b.Fatal(err)
	}
	return r
}

func (b *tab) run(actions ...chromedp.Action[chromedp.Void]) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		b.Fatal(err)
	}
}

// eval evaluates an expression in the page.
func eval[T any](b *tab, expression string) T {
	b.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		b.Fatal(err)
	}
	return v
}

// text is that of the elements that a selector finds and that can be seen.
func (b *tab) text(selector string) []string {
	b.Helper()
	return eval[[]string](b, fmt.Sprintf(`[...document.querySelectorAll(%q)].filter((e) => e.checkVisibility()).map((e) => e.textContent.trim().replace(/\s+/g, ' '))`, selector))
}

func (b *tab) press(keys ...string) {
	b.Helper()
	for _, k := range keys {
		b.run(chromedp.KeyEvent(k))
	}
}

// focus puts the focus on an element, as many presses of Tab would.
func (b *tab) focus(selector string) {
	b.Helper()
	b.run(chromedp.Focus(chromedp.CSS(selector)))
}

func pageOf(t testing.TB, r ...*compare.Result) string {
	t.Helper()
	var b bytes.Buffer
	if err := report.Write(&b, &report.Input{Results: r, Names: []string{"old.json", "new.json"}[:len(r)%3]}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func same(t testing.TB, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// Names of the layers in the table.
const inTable = "#table td.name"

// TestOverview: what a reader sees first.
func TestOverview(t *testing.T) {
	b := open(t, pageOf(t, demo.Result(24, 8, 1)), desktop)
	if v := b.text("#verdict li"); len(v) == 0 || !strings.Contains(v[0], "Not finite: blocks.16.attn") {
		t.Errorf("the verdict begins with %q", v)
	}
	same(t, "captions", b.text("#maps figcaption"), []string{
		"Relative L1 error by layerAgainst full precision; less is better.",
		"Relative L1 by layer and head, emulated output",
		"Relative L1 by layer and head, actual output",
		"What causes the emulated error, by layer and stepEach step alone: its mean squared error as a share of the kernel’s.",
	})
	rows := b.text(inTable)
	if len(rows) != 24 || rows[0] != "blocks.16.attn" {
		t.Errorf("the table has %q", rows)
	}
	if n := len(b.text(".static")); n != 0 {
		t.Errorf("%d plain tables are left", n)
	}
	same(t, "states", eval[[]string](b, `[...document.querySelectorAll('#state option')].map((o) => o.textContent)`), []string{"any", "not finite", "differs in bits", "warning", "bit-exact"})
}

// pixels counts those of a colour of the style sheet on the canvas of the figure n.
func (b *tab) pixels(figure int, colour string) int {
	b.Helper()
	return eval[int](b, fmt.Sprintf(`(() => {
		const probe = document.body.appendChild(document.createElement('i'));
		probe.style.color = 'var(--%s)';
		const want = getComputedStyle(probe).color.match(/\d+/g).map(Number);
		probe.remove();
		const c = document.querySelectorAll('#maps figure canvas')[%d];
		const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
		let n = 0;
		for (let i = 0; i < d.length; i += 4) if (d[i] === want[0] && d[i + 1] === want[1] && d[i + 2] === want[2]) n++;
		return n;
	})()`, colour, figure))
}

// TestColours: maps are drawn, what is not finite stands out in the map of the output
// that has it and in no other, in either theme, and the theme can be chosen.
func TestColours(t *testing.T) {
	for _, dark := range []bool{false, true} {
		h := desktop
		h.dark = dark
		b := open(t, pageOf(t, demo.Result(24, 8, 1)), h)
		check := func(when string) {
			t.Helper()
			if b.pixels(1, "bad") != 0 || b.pixels(2, "bad") < 50 || b.pixels(1, "h1") < 1000 || b.pixels(3, "h7") < 50 {
				t.Errorf("dark %v, %s: %d and %d pixels are not finite, %d and %d of a class", dark, when, b.pixels(1, "bad"), b.pixels(2, "bad"), b.pixels(1, "h1"), b.pixels(3, "h7"))
			}
		}
		check("at first")
		page := `getComputedStyle(document.body).backgroundColor`
		before := eval[string](b, page)
		other := map[bool]string{false: "dark", true: "light"}[dark]
		choose := func(theme string) {
			b.run(chromedp.SetValue(chromedp.CSS("#theme"), theme))
			eval[bool](b, `document.getElementById('theme').dispatchEvent(new Event('change'))`)
		}
		choose(other)
		if after := eval[string](b, page); after == before {
			t.Errorf("the page stays %s as the theme changes to %s", after, other)
		}
		check("after a choice")
		choose("")
		if after := eval[string](b, page); after != before {
			t.Errorf("the page is %s and was %s", after, before)
		}
	}
}

// TestSort by mouse and by keyboard.
func TestSort(t *testing.T) {
	b := open(t, pageOf(t, demo.Result(12, 4, 1)), desktop)
	click := func(title string) {
		b.run(chromedp.Click(chromedp.Search(fmt.Sprintf(`//table//th/button[starts-with(., %q)]`, title))))
	}
	numbers := func() []string { return b.text("#table tbody td:first-child") }
	up := strings.Fields("1 2 3 4 5 6 7 8 9 10 11 12")
	click("#")
	same(t, "by number", numbers(), up)
	same(t, "sorted column", b.text("#table th[aria-sort=ascending]"), []string{"# ▲"})
	b.press(kb.Enter) // the button keeps the focus
	down := slices.Clone(up)
	slices.Reverse(down)
	same(t, "by number, down", numbers(), down)
	same(t, "sorted column", b.text("#table th[aria-sort=descending]"), []string{"# ▼"})
	// Of errors the largest comes first, and NaN before it.
	b.focus(`[data-key="a1"]`)
	b.press(kb.Enter)
	errors := b.text("#table tbody td:nth-child(9)")
	if errors[0] != "NaN" || !slices.IsSortedFunc(errors[1:], func(x, y string) int { return strings.Compare(y, x) }) {
		t.Errorf("errors %q", errors)
	}
	// Names are sorted by the numbers in them.
	click("layer")
	if n := b.text(inTable); n[1] != "blocks.1.attn" || n[2] != "blocks.2.attn" || n[11] != "blocks.11.attn" {
		t.Errorf("names %q", n)
	}
}

// TestFilter narrows table and maps.
func TestFilter(t *testing.T) {
	b := open(t, pageOf(t, demo.Result(24, 4, 1)), desktop)
	label := func() string {
		return eval[string](b, `document.querySelectorAll('#maps .canvas')[1].getAttribute('aria-label')`)
	}
	if s := label(); !strings.Contains(s, "24 layers, 4 heads") {
		t.Errorf("the map is %q", s)
	}
	b.run(chromedp.SendKeys(chromedp.CSS("#filter"), "BLOCKS.1 attn"), chromedp.WaitVisible(chromedp.Search(`//*[@id='shown'][contains(., '11 of 24')]`)))
	if n := b.text(inTable); len(n) != 11 || !slices.Contains(n, "blocks.1.attn") || !slices.Contains(n, "blocks.16.attn") || slices.Contains(n, "blocks.2.attn") {
		t.Errorf("the table has %q", n)
	}
	if s := label(); !strings.Contains(s, "11 layers") {
		t.Errorf("the map is %q", s)
	}
	pick := func(id, value string) {
		b.run(chromedp.SetValue(chromedp.CSS(id), value))
		eval[bool](b, fmt.Sprintf(`document.querySelector(%q).dispatchEvent(new Event('change')) && document.querySelector(%q).dispatchEvent(new Event('input'))`, id, id))
	}
	pick("#state", "not-finite")
	same(t, "not finite", b.text(inTable), []string{"blocks.16.attn"})
	pick("#filter", "nothing of that name")
	b.run(chromedp.WaitVisible(chromedp.Search(`//*[@id='maps']/p[contains(., 'No layer is left')]`)))
	b.run(chromedp.Click(chromedp.CSS("#reset")))
	if n := b.text(inTable); len(n) != 24 {
		t.Errorf("after a reset the table has %q", n)
	}
	pick("#from", "3")
	pick("#to", "5")
	b.run(chromedp.WaitVisible(chromedp.Search(`//*[@id='shown'][contains(., '3 of 24')]`)))
	if n := b.text(inTable); len(n) != 3 {
		t.Errorf("of three layers the table has %q", n)
	}
	pick("#measure", "4")
	if c := b.text("#maps figcaption"); !strings.HasPrefix(c[0], "Share of differing elements by layer") || strings.Contains(strings.Join(c, ""), "emulated output") {
		t.Errorf("captions %q", c)
	}
}

// TestMap moves over a map with the keyboard and the mouse, and opens a layer.
func TestMap(t *testing.T) {
	r := demo.Result(24, 8, 1)
	b := open(t, pageOf(t, r), desktop)
	b.focus("#maps figure:nth-of-type(3) .canvas")
	b.press(kb.Home) // layer 0, head 0
	b.press(kb.ArrowRight, kb.ArrowRight, kb.ArrowRight, kb.ArrowDown)
	readout := "#maps figure:nth-of-type(3) .readout"
	want := fmt.Sprintf("blocks.3.attn, head 1: relative L1 %.4g", float64(r.Layers[3].Heads[1].ActualVsReference.RelL1))
	if s := b.text(readout)[0]; !strings.HasPrefix(s, want[:len(want)-1]) {
		t.Errorf("the map says %q, want %q", s, want)
	}
	b.press(kb.Enter)
	b.run(chromedp.WaitVisible(chromedp.CSS("#sheet h2")))
	same(t, "sheet", b.text("#sheet h2"), []string{"4: blocks.3.attn"})
	b.press(kb.Escape)
	b.run(chromedp.WaitNotPresent(chromedp.CSS("#sheet h2")))
	if !eval[bool](b, `document.activeElement === document.querySelectorAll('#maps .canvas')[2]`) {
		t.Error("the focus does not come back to the map")
	}
	b.press(kb.End, kb.ArrowDown, kb.ArrowDown, kb.ArrowDown, kb.ArrowDown, kb.ArrowDown, kb.ArrowDown, kb.ArrowDown, kb.ArrowDown, kb.ArrowDown)
	if s := b.text(readout)[0]; !strings.HasPrefix(s, "blocks.23.attn, head 7:") {
		t.Errorf("the last cell says %q", s)
	}
	// The mouse: what the readout says is what a click opens.
	box := eval[[]float64](b, `(() => { const c = document.querySelectorAll('#maps canvas')[1]; c.scrollIntoView({block: 'center'}); const r = c.getBoundingClientRect(); return [r.left, r.top, r.width, r.height]; })()`)
	x, y := box[0]+0.6*box[2], box[1]+0.4*box[3]
	b.run(chromedp.MouseEvent(input.DispatchMouseEventTypeMouseMoved, x, y))
	said := b.text("#maps figure:nth-of-type(2) .readout")[0]
	name, _, _ := strings.Cut(said, ",")
	if !strings.HasPrefix(name, "blocks.") {
		t.Fatalf("the map says %q", said)
	}
	b.run(chromedp.MouseClickXY(x, y), chromedp.WaitVisible(chromedp.CSS("#sheet h2")))
	if h := b.text("#sheet h2")[0]; !strings.HasSuffix(h, ": "+name) {
		t.Errorf("a click on %q opens %q", said, h)
	}
}

// TestTouch: a finger first asks what is there, and then opens it.
func TestTouch(t *testing.T) {
	b := open(t, pageOf(t, demo.Result(24, 8, 1)), how{width: 375, height: 700})
	call(b, emulation.SetTouchEmulationEnabled, emulation.SetTouchEmulationEnabledParams{Enabled: true})
	at := eval[[]float64](b, `(() => { const c = document.querySelectorAll('#maps canvas')[1]; c.scrollIntoView({block: 'center'}); const r = c.getBoundingClientRect(); return [r.left + 0.7 * r.width, r.top + 0.4 * r.height]; })()`)
	b.run(chromedp.TapXY(at[0], at[1]), chromedp.WaitVisible(chromedp.CSS("#maps .readout .open")))
	if eval[bool](b, `document.getElementById('sheet').open`) {
		t.Error("a touch opens a layer before it says which")
	}
	said := b.text("#maps figure:nth-of-type(2) .readout")[0]
	b.run(chromedp.Click(chromedp.CSS("#maps .readout .open")), chromedp.WaitVisible(chromedp.CSS("#sheet h2")))
	name, _, _ := strings.Cut(said, ",")
	if h := b.text("#sheet h2")[0]; !strings.HasSuffix(h, ": "+name) {
		t.Errorf("%q opens %q", said, h)
	}
}

// TestLayer: the details of a layer, by address, by a link in the verdict and in the
// table, and on to the next.
func TestLayer(t *testing.T) {
	h := desktop
	h.fragment = "#layer-4"
	b := open(t, pageOf(t, demo.Result(24, 8, 1)), h)
	b.run(chromedp.WaitVisible(chromedp.CSS("#sheet h2")))
	same(t, "heading", b.text("#sheet h2"), []string{"4: blocks.3.attn"})
	var captions []string
	for _, c := range b.text("#sheet caption, #sheet figcaption, #sheet .uniform") {
		captions = append(captions, c[:min(len(c), 30)])
	}
	same(t, "parts", captions, []string{
		"Figures", "Differing elements by head and", "Differing elements by channel:", "Relative L1 error by headhead"[:25], "Heads, worst first, by relativ", "Steps: alone, and the kernel w", "Sizes of errorsShare of elemen",
	})
	if s := strings.Join(b.text("#sheet li"), "\n"); !strings.Contains(s, "differs in bits: ") || !strings.Contains(s, "The first is at batch 0, head 1, token 64, channel 3") || !strings.Contains(s, "--pv-accum fp32") {
		t.Errorf("the layer says %q", s)
	}
	if n := eval[int](b, `[...document.querySelectorAll('#sheet canvas')].filter((c) => c.width > 100 && c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((x) => x > 0)).length`); n != 3 {
		t.Errorf("%d charts are drawn, want 3", n)
	}
	// The table has the worst first: 16, 10, 3, 17.
	b.run(chromedp.Click(chromedp.Search(`//dialog//button[.='Next']`)), chromedp.WaitVisible(chromedp.Search(`//dialog//h2[contains(., 'blocks.17.attn')]`)))
	b.run(chromedp.Click(chromedp.Search(`//dialog//button[.='Previous']`)), chromedp.WaitVisible(chromedp.Search(`//dialog//h2[contains(., 'blocks.3.attn')]`)))
	b.run(chromedp.Click(chromedp.Search(`//dialog//button[.='Close']`)), chromedp.WaitNotPresent(chromedp.CSS("#sheet h2")))
	b.run(chromedp.Click(chromedp.CSS("#verdict a")), chromedp.WaitVisible(chromedp.Search(`//dialog//h2[contains(., 'blocks.16.attn')]`)))
	if s := strings.Join(b.text("#sheet li"), "\n"); !strings.Contains(s, "blocks.16.attn.o: 128 NaN") || !strings.Contains(s, "not finite: ") {
		t.Errorf("the layer says %q", s)
	}
	b.press(kb.Escape)
	b.focus("#table tbody tr:nth-child(5) a")
	b.press(kb.Enter)
	b.run(chromedp.WaitVisible(chromedp.CSS("#sheet h2")))
	b.press(kb.Escape)
	if !eval[bool](b, `document.activeElement.matches('#table tbody tr:nth-child(5) a')`) {
		t.Error("the focus does not come back to the link")
	}
	// The browser's own way back closes it too.
	b.press(kb.Enter)
	b.run(chromedp.WaitVisible(chromedp.CSS("#sheet h2")))
	eval[*string](b, `void history.back()`)
	b.run(chromedp.WaitNotPresent(chromedp.CSS("#sheet h2")))
}

// TestOne: a result of one layer shows it at once.
func TestOne(t *testing.T) {
	b := open(t, pageOf(t, demo.Result(1, 8, 1)), desktop)
	if c := b.text("#layer-1 caption"); len(c) == 0 || c[0] != "Figures" {
		t.Errorf("the layer has %q", c)
	}
	if n := eval[int](b, `[...document.querySelectorAll('#layer-1 canvas')].filter((c) => c.width > 100).length`); n != 2 {
		t.Errorf("%d charts, want 2", n)
	}
}

// TestPlain: without a script verdict and table are there, and what needs one is not.
func TestPlain(t *testing.T) {
	h := desktop
	h.noScript = true
	b := open(t, pageOf(t, demo.Result(24, 8, 1)), h)
	if v := b.text("#verdict li"); len(v) == 0 || !strings.Contains(v[0], "blocks.16.attn") {
		t.Errorf("verdict %q", v)
	}
	if rows := b.text(".static td.name"); len(rows) != 24 || rows[0] != "blocks.16.attn" {
		t.Errorf("table %q", rows)
	}
	if s := b.text("#overview, select, button"); len(s) != 0 {
		t.Errorf("what needs a script is there: %.100q", s)
	}
}

// TestSame: the script writes the same figures as the plain page, in the same order.
func TestSame(t *testing.T) {
	for name, r := range map[string][]*compare.Result{"one": {demo.Result(30, 2, 3)}, "two": {demo.Result(30, 2, 3), demo.Result(30, 2, 4)}} {
		html := pageOf(t, r...)
		cells := func(b *tab, table string) map[string][]string {
			rows := eval[[][]string](b, fmt.Sprintf(`[document.querySelectorAll(%q + ' thead th'), ...[...document.querySelectorAll(%q + ' tbody tr')].map((r) => r.children)].map((r) => [...r].map((c) => (c.querySelector('.chip') || c.querySelector('.sort')?.firstChild || c).textContent.trim()))`, table, table))
			out := map[string][]string{}
			seen := map[string]int{} // headings come twice: emulated and actual
			for i, head := range rows[0] {
				seen[head]++
				for _, r := range rows[1:] {
					key := fmt.Sprint(head, " ", seen[head])
					out[key] = append(out[key], r[i])
				}
			}
			return out
		}
		h := desktop
		h.noScript = true
		plain := cells(open(t, html, h), ".static")
		drawn := cells(open(t, html, desktop), "#table")
		heads := []string{"# 1", "layer 1", "state 1", "cos 1", "rel. L1 1", "RMSE 1", "max. error 1", "actual: cos 1", "rel. L1 2", "RMSE 2", "max. error 2", "max. ulp 1"}
		if name == "two" {
			heads = []string{"# 1", "layer 1", "state in A 1", "state in B 1"}
		}
		for _, head := range heads {
			if len(plain[head]) != 30 {
				t.Errorf("%s: the plain table has no column %q", name, head)
			}
			same(t, name+": "+head, drawn[head], plain[head])
		}
	}
}

// TestUniform: maps that are all of one shade become a line.
func TestUniform(t *testing.T) {
	r := demo.Result(24, 8, 1)
	for i := range r.Layers {
		l := &r.Layers[i]
		*l = r.Layers[0]
		l.Name = fmt.Sprintf("blocks.%d.attn", i)
		l.Heads = slices.Clone(l.Heads)
		for h := range l.Heads {
			l.Heads[h].EmulatedVsReference.RelL1 = jsonfloat.Float(0.05 + 0.0015*float64(h))
			v := l.Heads[h].EmulatedVsReference
			l.Heads[h].ActualVsReference = &v
		}
	}
	b := open(t, pageOf(t, r), desktop)
	if n := len(b.text("#maps figure")); n != 2 { // by layer, and the steps
		t.Errorf("%d figures: %q", n, b.text("#maps figcaption"))
	}
	same(t, "lines", b.text("#maps .uniform"), []string{
		"Relative L1 by layer and head, emulated output: between 0.05000 and 0.06050 in all of 192; none stands out.",
		"Relative L1 by layer and head, actual output: the same as emulated output in every head.",
	})
	// One head that stands out makes a map of it again, and of nothing else.
	r.Layers[5].Heads = slices.Clone(r.Layers[5].Heads)
	r.Layers[5].Heads[3].ActualVsReference = &r.Layers[5].Heads[3].ActualVsEmulated.Values
	r.Layers[5].Heads[3].ActualVsReference.RelL1 = 0.4
	b = open(t, pageOf(t, r), desktop)
	if c := b.text("#maps figcaption"); len(c) != 3 || !strings.Contains(c[1], "actual output") || b.pixels(1, "h7") < 50 {
		t.Errorf("captions %q", c)
	}
}

// TestPhone: nothing is wider than a phone but what scrolls by itself.
func TestPhone(t *testing.T) {
	for name, r := range map[string][]*compare.Result{"one": {demo.Result(100, 32, 1)}, "two": {demo.Result(24, 8, 1), demo.Result(24, 8, 2)}, "layer": {demo.Result(1, 8, 1)}} {
		b := open(t, pageOf(t, r...), how{width: 375, height: 700, dark: true})
		wide := func() []string {
			return eval[[]string](b, `document.documentElement.scrollWidth <= 375 ? [] : [...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > 376 && !e.closest('.scroll, pre')).map((e) => e.outerHTML.slice(0, 80))`)
		}
		if w := wide(); len(w) > 0 {
			t.Errorf("%s: wider than the phone: %q", name, w)
		}
		if small := eval[[]string](b, `[...document.querySelectorAll('select, input, button:not(.sort)')].filter((e) => e.checkVisibility() && e.getBoundingClientRect().height < 24).map((e) => e.outerHTML.slice(0, 80))`); len(small) > 0 {
			t.Errorf("%s: too small for a finger: %q", name, small)
		}
		if name == "layer" {
			continue
		}
		b.run(chromedp.Click(chromedp.CSS("#table td a")), chromedp.WaitVisible(chromedp.CSS("#sheet h2")))
		if w := wide(); len(w) > 0 || eval[float64](b, `document.getElementById('sheet').scrollWidth`) > 375 {
			t.Errorf("%s: a layer is wider than the phone: %q", name, w)
		}
	}
}

// TestOver lays two results over each other.
func TestOver(t *testing.T) {
	a, c := demo.Result(24, 8, 1), demo.Result(24, 8, 1)
	c.Layers[5].EmulatedVsReference.RelL1 *= 4
	for h := range c.Layers[5].Heads {
		c.Layers[5].Heads[h].EmulatedVsReference.RelL1 *= 4
	}
	c.Layers[6].Heads[2].EmulatedVsReference.RelL1 /= 4
	c.Layers = c.Layers[:23]
	b := open(t, pageOf(t, a, c), desktop)
	captions := b.text("#maps figcaption")
	if len(captions) < 4 || captions[3] != "From A to B, by layer and headThe relative L1 error in B by that in A." {
		t.Fatalf("captions %q", captions)
	}
	if b.pixels(3, "w3") < 300 || b.pixels(3, "g3") < 50 || b.pixels(3, "c0") < 1000 || b.pixels(3, "bad") > 0 {
		t.Errorf("%d pixels larger, %d smaller, %d the same, %d not finite", b.pixels(3, "w3"), b.pixels(3, "g3"), b.pixels(3, "c0"), b.pixels(3, "bad"))
	}
	b.run(chromedp.Click(chromedp.Search(`//table//th/button[.='change']`)))
	if n := b.text(inTable); n[0] != "blocks.5.attn" || len(n) != 24 || n[23] != "blocks.23.attn" {
		t.Errorf("by change: %q", n)
	}
	if row := b.text("#table tbody tr:first-child td"); !slices.Contains(row, "+300.0%") {
		t.Errorf("the row is %q", row)
	}
	if s := b.text("#table tbody tr:last-child td"); !slices.Contains(s, "not there") {
		t.Errorf("a layer of one result: %q", s)
	}
	b.run(chromedp.Click(chromedp.CSS("#table tbody a")), chromedp.WaitVisible(chromedp.CSS("#sheet h2")))
	same(t, "results of a layer", b.text("#sheet h3"), []string{"A: old.json", "B: new.json"})
	if s := b.text("#sheet table")[0]; !strings.Contains(s, "+300.0%") {
		t.Errorf("the changes are %q", s)
	}
	// The same twice collapses.
	b = open(t, pageOf(t, a, a), desktop)
	same(t, "lines", b.text("#maps .uniform"), []string{
		"Relative L1 by layer and head, B: new.json: the same as A: old.json in every head.",
		"From A to B the relative L1 error is the same within 1% in every head.",
	})
}

// TestMany: 5,000 layers.
func TestMany(t *testing.T) {
	b := open(t, pageOf(t, demo.Result(5000, 8, 1)), desktop)
	if n := b.text(inTable); len(n) != 50 || n[0] != "blocks.3333.attn" {
		t.Errorf("the table begins with %q", n)
	}
	same(t, "pages", b.text("#table .pages [role=status]"), []string{"Rows 1 to 50 of 5000"})
	b.run(chromedp.Click(chromedp.CSS(`[data-go="last"]`)))
	same(t, "pages", b.text("#table .pages [role=status]"), []string{"Rows 4951 to 5000 of 5000"})
	// A column of the map stands for several layers, and for the worst of them.
	if b.pixels(2, "bad") < 3 || b.pixels(1, "bad") != 0 {
		t.Errorf("%d pixels are not finite", b.pixels(2, "bad"))
	}
	if n := eval[int](b, `document.querySelectorAll('body *:not(script)').length`); n > 1500 {
		t.Errorf("the page has %d elements", n)
	}
	b.run(chromedp.SendKeys(chromedp.CSS("#filter"), "333"), chromedp.WaitVisible(chromedp.Search(`//*[@id='shown'][contains(., '14 of 5000')]`)))
	same(t, "the worst", b.text(inTable)[:1], []string{"blocks.3333.attn"})
}

// TestHostile: names are text, and even markup in the page would not run.
func TestHostile(t *testing.T) {
	r := demo.Result(12, 4, 1)
	const name = `</script><script>window.harm=1</script><img src=x onerror="window.harm=2"><!--`
	for i := range r.Layers {
		r.Layers[i].Name = fmt.Sprint(i, name)
		r.Layers[i].Warnings = []string{name}
		r.Layers[i].Source = name
		r.Layers[i].Attribution.Steps[0].Name = name
	}
	r.Kernel.Name = name
	r.Verdict = compare.Judge([]*compare.Result{r}, nil)
	h := desktop
	h.fragment = "#layer-4"
	b := open(t, pageOf(t, r), h)
	b.run(chromedp.WaitVisible(chromedp.CSS("#sheet h2")))
	same(t, "heading", b.text("#sheet h2"), []string{"4: 3" + name})
	if n := eval[int](b, `document.images.length + document.scripts.length`); n != 3+len(r.Layers) {
		t.Errorf("%d scripts and images, want %d", n, 3+len(r.Layers))
	}
	eval[*string](b, `void document.body.insertAdjacentHTML('beforeend', '<img src="x.png" onerror="window.harm=3"><a id="in" href="javascript:window.harm=4">x</a>')`)
	eval[*string](b, `void document.getElementById('in').click()`)
	if harm := eval[*float64](b, `window.harm ?? null`); harm != nil {
		t.Errorf("something ran: %v", *harm)
	}
	if s := strings.Join(b.take(), "\n"); !strings.Contains(s, "Content Security Policy") {
		t.Errorf("the policy does not hinder it: %s", s)
	}
}

// TestBroken: a script that is not the one that was written does not run, the plain page
// is still there, and the tests here notice.
func TestBroken(t *testing.T) {
	html := pageOf(t, demo.Result(12, 4, 1))
	b := open(t, strings.Replace(html, "drawMaps(layers);", "drawMaps (layers);", 1), desktop)
	if s := strings.Join(b.take(), "\n"); !strings.Contains(s, "Content Security Policy") {
		t.Errorf("a changed script is run: %s", s)
	}
	// Data that the script cannot read, an exception in the middle of it.
	b = open(t, strings.Replace(html, `"steps":[`, `"stairs":[`, 1), desktop)
	if s := strings.Join(b.take(), "\n"); !strings.Contains(s, "exception") {
		t.Errorf("no exception is seen: %s", s)
	}
	if rows := b.text(".static td.name"); len(rows) != 12 {
		t.Errorf("the plain table has %q", rows)
	}
}

// TestNames: whatever can be reached with the keyboard has a name for a screen reader.
func TestNames(t *testing.T) {
	b := open(t, pageOf(t, demo.Result(24, 8, 1)), desktop)
	check := func(where string, least int) {
		t.Helper()
		nodes := call(b, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{}).Nodes
		n := 0
		for _, x := range nodes {
			focusable := slices.ContainsFunc(x.Properties, func(p *accessibility.Property) bool {
				return p.Name == "focusable" && string(p.Value.Value) == "true"
			})
			var role, name string
			if x.Role != nil {
				_ = json.Unmarshal(x.Role.Value, &role)
			}
			if x.Name != nil {
				_ = json.Unmarshal(x.Name.Value, &name)
			}
			if !focusable || role == "RootWebArea" {
				continue
			}
			n++
			if name == "" {
				t.Errorf("%s: a %s has no name: node %d", where, role, x.BackendDOMNodeID)
			}
		}
		if n < least {
			t.Errorf("%s: only %d things can be reached", where, n)
		}
	}
	check("page", 30)
	b.run(chromedp.Click(chromedp.CSS("#table td a")), chromedp.WaitVisible(chromedp.CSS("#sheet h2")))
	check("layer", 8)
}

// BenchmarkOpen measures how long a page takes until it is drawn.
func BenchmarkOpen(b *testing.B) {
	for _, n := range []int{24, 100, 1000, 5000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			html := pageOf(b, demo.Result(n, 32, 1))
			var drawn float64
			for b.Loop() {
				t := open(b, html, desktop)
				drawn += eval[float64](t, `performance.getEntriesByType('navigation')[0].loadEventEnd`)
			}
			b.ReportMetric(math.Round(drawn/float64(b.N)), "ms-drawn")
			b.ReportMetric(float64(len(html)), "bytes")
		})
	}
}

// TestTables: the page of the paper's tables needs no script, and fits a phone.
func TestTables(t *testing.T) {
	in, err := report.Read(strings.NewReader(`{"schema":"sageacc/table/v1","layers":["l.0"],"tables":[{"name":"smoothing","title":"Smoothing of Q and K","setup":"INT4","rows":[
		{"method":"none","average":{"cos_sim":0.9,"rel_l1":0.3},"worst":{},"paper":{"average":{"rel_l1":0.4}}},
		{"method":"smooth Q+K","average":{"cos_sim":0.99,"rel_l1":"NaN"},"worst":{}}]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	var html bytes.Buffer
	if err := report.Write(&html, in); err != nil {
		t.Fatal(err)
	}
	b := open(t, html.String(), how{width: 375, height: 700})
	same(t, "methods", b.text("td.name"), []string{"none", "smooth Q+K"})
	if w := eval[int](b, `document.documentElement.scrollWidth`); w > 375 {
		t.Errorf("the page is %d wide", w)
	}
	widths := eval[[]float64](b, `[...document.querySelectorAll('svg.bar path:nth-child(2)')].map((p) => p.getBoundingClientRect().width / p.parentNode.getBoundingClientRect().width)`)
	if len(widths) != 2 || math.Abs(widths[0]-0.74) > 0.02 || widths[1] < 0.97 {
		t.Errorf("bars of %v", widths)
	}
	if n := eval[int](b, `document.scripts.length`); n != 0 {
		t.Errorf("%d scripts", n)
	}
}

// TestPrint: a page can be printed.
func TestPrint(t *testing.T) {
	b := open(t, pageOf(t, demo.Result(24, 8, 1)), desktop)
	pdf := call(b, page.PrintToPDF, page.PrintToPDFParams{}).Data
	if !bytes.HasPrefix(pdf, []byte("%PDF")) {
		t.Errorf("printed %.20q", pdf)
	}
}
