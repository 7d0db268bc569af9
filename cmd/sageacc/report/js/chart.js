// Charts: maps of cells and plots of values over columns, on a canvas, with names on
// their axes and a line of text that says what the pointer or the cursor is on.

const shades = 7;
const font = '11px system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif';

// colour is that of the style sheet's variable.
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim();

// odd is what stands out of every scale.
const odd = (v) => v !== undefined && !Number.isFinite(v);

// extent returns the smallest and largest positive finite values, and whether others
// occur.
function extent(values) {
  const e = { lo: Infinity, hi: 0, zero: false, odd: false, n: 0 };
  for (const v of values) {
    if (v === undefined) continue;
    e.n++;
    if (!Number.isFinite(v)) e.odd = true;
    else if (v <= 0) e.zero = true;
    else {
      if (v < e.lo) e.lo = v;
      if (v > e.hi) e.hi = v;
    }
  }
  return e;
}

// shading maps values to classes of a map: h1 to h7 in steps that are equal in the
// logarithm where values span much and linear is not asked for, and else from zero; h0
// is zero.
function shading(values, write, linear) {
  const e = extent(values);
  const log = !linear && e.hi / e.lo > 30;
  const bound = (i) => (log ? Math.exp(Math.log(e.lo) + (i / shades) * (Math.log(e.hi) - Math.log(e.lo))) : (i / shades) * e.hi);
  const kind = (v) => {
    if (!Number.isFinite(v)) return 'bad';
    if (v <= 0) return 'h0';
    const part = log ? (Math.log(v) - Math.log(e.lo)) / (Math.log(e.hi) - Math.log(e.lo)) : v / e.hi;
    return 'h' + (1 + Math.min(shades - 1, Math.max(0, Math.floor(part * shades))));
  };
  return { kind, extent: e, text: (k) => (k === 'bad' ? 'not finite' : k === 'h0' ? '0' : '≤ ' + write(bound(Number(k[1])))) };
}

// ratios shades changes: g1 to g3 smaller, c0 the same, w1 to w3 larger.
function ratios() {
  const steps = [1.01, 1.1, 2];
  const kind = (v) => {
    if (Number.isNaN(v)) return 'bad';
    const a = Math.max(v, 1 / v);
    let k = 0;
    while (k < 3 && a > steps[k]) k++;
    return k === 0 ? 'c0' : (v > 1 ? 'w' : 'g') + k;
  };
  const words = ['by more than 1%', 'by more than 10%', 'more than 2 times'];
  return { kind, extent: null, text: (k) => (k === 'bad' ? 'not finite' : k === 'c0' ? 'the same within 1%' : (k[0] === 'w' ? 'larger ' : 'smaller ') + words[Number(k[1]) - 1]) };
}

// further says which of two values stands out more.
function further(a, b) {
  if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) && !Number.isNaN(b);
  return a > b;
}

// axis is a scale of values: from zero, or logarithmic where they span much.
function axis(values, fromZero) {
  const e = extent(values);
  if (e.hi === 0) return { lo: 0, hi: 1, log: false, ticks: [0, 1] };
  if (!fromZero && e.hi / e.lo > 30) {
    const from = Math.floor(Math.log10(e.lo)), to = Math.ceil(Math.log10(e.hi));
    const every = Math.max(1, Math.ceil((to - from) / 5));
    const ticks = [];
    for (let x = from; x <= to; x += every) for (const f of to - from <= 2 ? [1, 2, 5] : [1]) ticks.push(f * Math.pow(10, x));
    const lo = Math.max(...ticks.filter((t) => t <= e.lo)), hi = Math.min(...ticks.filter((t) => t >= e.hi), Math.pow(10, to));
    return { lo, hi: Math.max(hi, e.hi), log: true, ticks: ticks.filter((t) => t >= lo && t <= hi) };
  }
  if (e.hi < 1e-300 || e.hi > 1e300) return { lo: 0, hi: e.hi, log: false, ticks: [0, e.hi] };
  let step = Math.pow(10, Math.floor(Math.log10(e.hi)));
  step *= [0.2, 0.5, 1, 2].find((f) => e.hi <= 4 * f * step * (1 + 1e-9)) || 5;
  const ticks = [];
  for (let i = 0; ; i++) {
    ticks.push(i * step);
    if (i * step >= e.hi * (1 - 1e-9)) break;
  }
  return { lo: 0, hi: ticks[ticks.length - 1], log: false, ticks };
}

// bins puts n columns into as many as have room, evenly.
function bins(n, room) {
  const count = Math.min(n, Math.max(1, room));
  return Array.from({ length: count }, (_, i) => [Math.floor((i * n) / count), Math.floor(((i + 1) * n) / count)]);
}

const charts = new Set();

// redraw draws all charts anew, after a change of the theme or of the width.
function redraw() {
  for (const c of charts) {
    if (!c.root.isConnected) charts.delete(c);
    else c.draw();
  }
}

// chart makes a figure. A chart has columns: {count, label(i), title}, and is either a
// map: rows: {count, label(i), title}, value(column, row), shade, or a plot: series: [{
// name, class, mark, value(column)}], unit, fromZero, write. say(columns, row) puts a
// cell into words, where columns is the range [from, to) that it stands for, or at, of a
// cell that stands for many, the one that stands out. open(column, row), if it is
// there, goes to what is there.
function chart(o) {
  const canvas = el('canvas', {});
  const readout = el('p', { class: 'readout', 'aria-live': 'polite' }, 'Point at it, or use the arrow keys.');
  const area = el('div', { class: 'canvas', tabindex: '0', role: 'application', 'aria-roledescription': o.rows ? 'map' : 'chart', 'aria-label': o.title + '. ' + (o.label || '') + ' Arrow keys move' + (o.open ? ', Enter opens.' : '.') }, canvas);
  const legend = el('ul', { class: 'legend' });
  const root = el('figure', { class: o.class || '' }, el('figcaption', {}, o.title, o.note ? el('span', { class: 'note' }, o.note) : null), area, legend, readout);
  const c = { root, cursor: null };
  let g; // the geometry of the last drawing

  function measure() {
    const width = Math.max(120, area.clientWidth || 320);
    const ctx = canvas.getContext('2d');
    ctx.font = font;
    const text = (s) => ctx.measureText(s).width;
    const y = { title: o.rows ? o.rows.title : o.unit };
    const out = { width, text, ctx, top: 16, bottom: 34 };
    if (o.rows) {
      const most = width < 500 ? 240 : 320;
      out.rowBins = bins(o.rows.count, Math.floor(most / 3));
      out.rowHeight = Math.max(3, Math.min(18, Math.floor(most / out.rowBins.length)));
      out.height = out.rowHeight * out.rowBins.length;
      out.yLabels = out.rowBins.map(([a]) => o.rows.label(a));
    } else {
      const values = [];
      for (const s of o.series) for (let i = 0; i < o.columns.count; i++) values.push(s.value(i));
      out.y = axis(values, o.fromZero);
      out.height = width < 500 ? 130 : 150;
      out.yLabels = out.y.ticks.map(o.write || short);
    }
    out.left = Math.ceil(Math.max(o.left || 0, 12 + Math.max(0, ...out.yLabels.map(text))));
    const room = width - out.left - 8;
    out.columns = bins(o.columns.count, Math.floor(room / (o.rows ? 3 : 2)));
    out.cell = Math.min(o.widest || 36, room / out.columns.length);
    out.right = out.left + out.cell * out.columns.length;
    out.y0 = y.title;
    return out;
  }

  // worst finds what a cell of several columns and rows stands for.
  function worst([a, b], [p, q], value) {
    let at = null;
    for (let i = a; i < b; i++) {
      for (let r = p; r < q; r++) {
        const v = value(i, r);
        if (v !== undefined && (at === null || further(o.stands ? o.stands(v) : v, o.stands ? o.stands(at.value) : at.value))) at = { column: i, row: r, value: v };
      }
    }
    return at;
  }

  const place = (v) => {
    const y = g.y;
    if (Number.isNaN(v)) v = y.hi;
    v = Math.min(Math.max(v, y.lo), y.hi);
    const part = y.log ? (Math.log(v) - Math.log(y.lo)) / (Math.log(y.hi) - Math.log(y.lo)) : (v - y.lo) / (y.hi - y.lo);
    return g.top + g.height * (1 - part);
  };

  c.draw = () => {
    g = measure();
    const ratio = window.devicePixelRatio || 1;
    const height = g.top + g.height + g.bottom;
    canvas.width = Math.round(g.width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.width = g.width + 'px';
    canvas.style.height = height + 'px';
    const ctx = g.ctx;
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    ctx.clearRect(0, 0, g.width, height);
    ctx.font = font;
    const ink = colour('ink'), muted = colour('muted'), line = colour('grid');
    ctx.fillStyle = muted;
    ctx.textAlign = 'left';
    ctx.textBaseline = 'top';
    ctx.fillText(g.y0 || '', 0, 0);
    ctx.textBaseline = 'middle';
    ctx.textAlign = 'right';
    ctx.fillStyle = ink;
    if (o.rows) drawMap(ctx);
    else drawPlot(ctx, ink, line);
    // Names of columns, as many as have room.
    ctx.fillStyle = ink;
    ctx.textAlign = 'center';
    ctx.textBaseline = 'top';
    const bottom = g.top + g.height;
    const widest = Math.max(...g.columns.map(([a]) => g.text(o.columns.label(a)))) + 10;
    let every = 1;
    for (let i = 0; every * g.cell < widest && every < g.columns.length; i++) every = [1, 2, 5][i % 3] * Math.pow(10, Math.floor(i / 3));
    for (let i = 0; i < g.columns.length; i += every) {
      const edge = o.columns.edges; // labels name where a column starts
      ctx.fillText(o.columns.label(g.columns[i][0]), g.left + (edge ? i : i + 0.5) * g.cell, bottom + 4);
    }
    ctx.fillStyle = muted;
    ctx.textAlign = 'left';
    const title = o.columns.title + (g.columns.length < o.columns.count ? ' (a column stands for the worst of ' + Math.ceil(o.columns.count / g.columns.length) + ')' : '');
    ctx.fillText(title, Math.max(0, Math.min(g.left, g.width - g.text(title))), bottom + 19);
    if (c.cursor) {
      ctx.strokeStyle = ink;
      ctx.lineWidth = 2;
      const [x, y] = c.cursor;
      if (o.rows) ctx.strokeRect(g.left + x * g.cell, g.top + y * g.rowHeight, Math.max(g.cell, 3), Math.max(g.rowHeight, 3));
      else ctx.strokeRect(g.left + x * g.cell, g.top, Math.max(g.cell, 3), g.height);
    }
  };

  function drawMap(ctx) {
    const used = new Set();
    const fill = {};
    g.rowBins.forEach((rows, r) => {
      g.columns.forEach((cols, i) => {
        const at = worst(cols, rows, o.value);
        if (at === null) return;
        const k = o.shade.kind(at.value);
        used.add(k);
        ctx.fillStyle = fill[k] || (fill[k] = colour(k));
        const x = g.left + i * g.cell, gap = g.cell > 8 ? 1 : 0;
        ctx.fillRect(x, g.top + r * g.rowHeight, g.cell - gap, g.rowHeight - (g.rowHeight > 8 ? 1 : 0));
      });
    });
    ctx.fillStyle = colour('ink');
    let every = 1;
    for (let i = 0; every * g.rowHeight < 13; i++) every = [1, 2, 5][i % 3] * Math.pow(10, Math.floor(i / 3));
    for (let r = 0; r < g.rowBins.length; r += every) ctx.fillText(g.yLabels[r], g.left - 6, g.top + (r + 0.5) * g.rowHeight);
    const order = ['bad', 'w3', 'w2', 'w1', 'c0', 'g1', 'g2', 'g3', 'h0', 'h1', 'h2', 'h3', 'h4', 'h5', 'h6', 'h7'];
    legend.replaceChildren(...order.filter((k) => used.has(k)).map((k) => el('li', {}, el('span', { class: 'swatch ' + k }), o.shade.text(k))));
  }

  function drawPlot(ctx, ink, line) {
    ctx.strokeStyle = line;
    ctx.lineWidth = 1;
    g.y.ticks.forEach((t, i) => {
      const y = Math.round(place(t)) + 0.5;
      ctx.beginPath();
      ctx.moveTo(g.left, y);
      ctx.lineTo(g.right, y);
      ctx.stroke();
      ctx.fillText(g.yLabels[i], g.left - 6, y);
    });
    for (const s of o.series) {
      ctx.fillStyle = ctx.strokeStyle = colour(s.class);
      const points = g.columns.map((cols, i) => {
        const at = worst(cols, [0, 1], (k) => s.value(k));
        return at === null ? null : { x: g.left + (i + 0.5) * g.cell, y: place(at.value), odd: odd(at.value), value: at.value };
      });
      const radius = g.cell < 6 ? 1.5 : 3;
      if (s.mark === 'line' || s.mark === 'step') {
        ctx.lineWidth = 1.5;
        ctx.beginPath();
        let pen = false;
        for (const p of points) {
          if (p === null) {
            pen = false;
          } else if (s.mark === 'step') {
            if (!pen) ctx.moveTo(p.x - g.cell / 2, p.y);
            else ctx.lineTo(p.x - g.cell / 2, p.y);
            ctx.lineTo(p.x + g.cell / 2, p.y);
            pen = true;
          } else {
            if (pen) ctx.lineTo(p.x, p.y);
            else ctx.moveTo(p.x, p.y);
            pen = true;
          }
        }
        ctx.stroke();
      }
      for (const p of points) {
        if (p === null || s.mark === 'step') continue;
        if (p.odd) {
          ctx.lineWidth = 2;
          ctx.strokeStyle = colour('bad');
          ctx.beginPath();
          ctx.moveTo(p.x - 4, p.y - 4);
          ctx.lineTo(p.x + 4, p.y + 4);
          ctx.moveTo(p.x - 4, p.y + 4);
          ctx.lineTo(p.x + 4, p.y - 4);
          ctx.stroke();
          ctx.strokeStyle = colour(s.class);
        } else if (s.mark === 'bar') {
          if (p.value > 0) ctx.fillRect(p.x - 0.42 * g.cell, p.y, Math.max(0.84 * g.cell, 1), g.top + g.height - p.y);
        } else {
          ctx.lineWidth = 1.5;
          ctx.beginPath();
          ctx.arc(p.x, p.y, s.mark === 'ring' ? radius + 1.5 : radius, 0, 2 * Math.PI);
          if (s.mark === 'ring') ctx.stroke();
          else ctx.fill();
        }
      }
    }
    if (o.series.length > 1) legend.replaceChildren(...o.series.map((s) => el('li', {}, el('span', { class: 'swatch ' + s.class + ' ' + s.mark }), s.name)));
  }

  // target is what a cell stands for: the columns of it, and what stands out there.
  function target([x, y]) {
    const cols = g.columns[x];
    if (o.rows) return { cols, at: worst(cols, g.rowBins[y], o.value), rows: g.rowBins[y] };
    let at = null;
    for (const s of o.series) {
      const w = worst(cols, [0, 1], (k) => s.value(k));
      if (w !== null && (at === null || further(w.value, at.value))) at = w;
    }
    return { cols, at, rows: [0, 1] };
  }

  function show() {
    const t = target(c.cursor);
    readout.replaceChildren(t.at === null ? 'nothing here' : o.say(t.at, t.cols, t.rows));
    if (o.open && t.at !== null) readout.append(' ', el('button', { type: 'button', class: 'open', onclick: () => o.open(t.at.column, t.at.row) }, 'Open'));
    c.draw();
  }

  function locate(event) {
    const box = canvas.getBoundingClientRect();
    const x = Math.floor((event.clientX - box.left - g.left) / g.cell);
    const y = o.rows ? Math.floor((event.clientY - box.top - g.top) / g.rowHeight) : 0;
    if (x < 0 || x >= g.columns.length || y < 0 || (o.rows && y >= g.rowBins.length)) return null;
    return [x, y];
  }

  function moveTo(p) {
    if (p === null || (c.cursor && c.cursor[0] === p[0] && c.cursor[1] === p[1])) return;
    c.cursor = p;
    show();
  }

  area.addEventListener('pointermove', (e) => {
    if (e.pointerType === 'mouse') moveTo(locate(e));
  });
  area.addEventListener('click', (e) => {
    const p = locate(e);
    if (p === null) return;
    const touch = e.pointerType === 'touch' || e.pointerType === 'pen';
    moveTo(p);
    const t = target(p);
    // A finger first asks what is there.
    if (!touch && o.open && t.at !== null) o.open(t.at.column, t.at.row);
  });
  area.addEventListener('keydown', (e) => {
    const rows = o.rows ? g.rowBins.length : 1;
    const [x, y] = c.cursor || [-1, 0];
    const to = {
      ArrowLeft: [x - 1, y], ArrowRight: [x + 1, y], ArrowUp: [Math.max(x, 0), y - 1], ArrowDown: [Math.max(x, 0), c.cursor ? y + 1 : y],
      Home: [0, y], End: [g.columns.length - 1, y],
    }[e.key];
    if (to) {
      e.preventDefault();
      moveTo([Math.min(Math.max(to[0], 0), g.columns.length - 1), Math.min(Math.max(to[1], 0), rows - 1)]);
    } else if ((e.key === 'Enter' || e.key === ' ') && c.cursor && o.open) {
      e.preventDefault();
      const t = target(c.cursor);
      if (t.at !== null) o.open(t.at.column, t.at.row);
    }
  });
  charts.add(c);
  return c;
}
