// Maps: the error by layer, by layer and head, and by layer and step.

// drawMaps fills the overview with charts of the layers that are left.
function drawMaps(layers) {
  const mount = byID('maps');
  if (!mount) return;
  if (layers.length === 0) {
    mount.replaceChildren(el('p', {}, 'No layer is left by the filter.'));
    return;
  }
  const m = measures[view.measure], measure = view.measure;
  const columns = { count: layers.length, label: (i) => layers[i].x, title: data.axis };
  const open = (i) => openLayer(layers[i].i);
  const where = (cols) => (cols[1] - cols[0] > 1 ? 'worst of ' + (cols[1] - cols[0]) + ' layers: ' : '') ;
  const outputs = over ? [view.output] : layers.some((l) => l.r[0].a) ? ['e', 'a'] : ['e'];
  const word = { e: 'emulated', a: 'actual' };
  const out = [];
  const narrow = mount.clientWidth < 500;
  const room = narrow ? 76 : 92;

  // By layer.
  const series = [];
  data.runs.forEach((name, k) => {
    for (const output of measure === 4 ? ['a'] : outputs) {
      const n = over ? k : output === 'e' ? 0 : 1;
      series.push({
        name: over ? name : word[output], class: 's' + (n + 1), mark: n === 1 ? 'ring' : 'line',
        value: (i) => figure(layers[i].r[k], output, measure),
      });
    }
  });
  out.push(chart({
    class: 'whole', widest: 90, title: capital(m.name) + ' by layer', note: over && measure !== 4 ? capital(word[view.output]) + ' output against full precision.' : measure === 4 ? 'Of an actual output, against the emulated one.' : 'Against full precision; less is better.',
    label: plural(layers.length, 'layer', 'layers') + '.', columns, series, unit: m.unit, write: measure === 4 ? (x) => short(100 * x) + '%' : short, left: room, open,
    say: (at, cols) => where(cols) + layers[at.column].n + ': ' + series.map((s) => {
      const v = s.value(at.column);
      return v === undefined ? null : (series.length > 1 ? s.name + ' ' : '') + m.unit + ' ' + m.write(v);
    }).filter((s) => s !== null).join(', '),
  }));

  // By layer and head.
  const most = Math.max(...layers.map((l) => Math.max(...l.r.map(headCount))));
  if (most > 0) {
    const named = layers.find((l) => l.r.some((r) => headCount(r) === most)).r.find((r) => headCount(r) === most);
    const rows = { count: most, label: (h) => (named.h.n ? named.h.n[h] : String(h)), title: named.h.n ? 'batch/head' : 'head' };
    const maps = [];
    data.runs.forEach((name, k) => {
      for (const output of measure === 4 ? ['a'] : outputs) {
        const value = (i, h) => headFigure(layers[i].r[k], output, measure, h);
        maps.push({ k, output, value, name: over ? name : word[output] + ' output', values: all(layers.length, most, value) });
      }
    });
    const shade = shading(maps.flatMap((x) => x.values), measure === 4 ? percent : short);
    const lines = [];
    const drawn = [];
    for (const x of maps) {
      const title = capital(m.unit) + ' by layer and head, ' + x.name;
      if (!x.values.some((v) => v !== undefined)) continue;
      const same = drawn.find((y) => x.values.every((v, i) => v === y.values[i] || (Number.isNaN(v) && Number.isNaN(y.values[i]))));
      if (same) {
        lines.push(title + ': the same as ' + same.name + ' in every head.');
        continue;
      }
      drawn.push(x);
      const line = uniform(x.values, shade, m);
      if (line !== null) {
        lines.push(title + ': ' + line);
        continue;
      }
      out.push(chart({
        title, columns, rows, value: x.value, shade, left: room, open, label: plural(layers.length, 'layer', 'layers') + ', ' + plural(most, 'head', 'heads') + '.',
        say: (at, cols) => where(cols) + layers[at.column].n + ', ' + headName(layers[at.column].r[x.k], at.row) + ': ' + m.unit + ' ' + m.write(at.value),
      }));
    }
    for (let k = 1; over && k < maps.length; k++) {
      const from = maps[0].value, to = maps[k].value, title = 'From A to ' + letter(k);
      const value = (i, h) => {
        const a = from(i, h), b = to(i, h);
        if (a === undefined || b === undefined) return undefined;
        return a === b || (Number.isNaN(a) && Number.isNaN(b)) ? 1 : Number.isFinite(b) ? (Number.isFinite(a) ? (a === 0 ? Infinity : b / a) : 0) : NaN;
      };
      const values = all(layers.length, most, value).filter((v) => v !== undefined);
      const alike = uniform(values, ratios(), { write: (v) => digits(v, 3) + ' times' });
      if (values.some((v) => !(v > 0.99 && v < 1.01)) && alike !== null) {
        lines.push(title + ' the ' + m.name + ' of the heads grew to ' + alike);
      } else if (values.some((v) => !(v > 0.99 && v < 1.01))) {
        out.push(chart({
          class: 'whole', widest: 56, title: title + ', by layer and head', note: 'The ' + m.name + ' in ' + letter(k) + ' by that in A.', columns, rows, value, shade: ratios(), left: room, open, label: plural(layers.length, 'layer', 'layers') + '.',
          stands: (v) => (Number.isNaN(v) ? v : Math.abs(Math.log(v))),
          say: (at, cols) => where(cols) + layers[at.column].n + ', ' + headName(last(layers[at.column]), at.row) + ': ' + m.unit + ' ' + m.write(from(at.column, at.row)) + ' → ' + m.write(to(at.column, at.row)) + ' (' + change(from(at.column, at.row), to(at.column, at.row)) + ')',
        }));
      } else if (values.length > 0) {
        lines.push(title + ' the ' + m.name + ' is the same within 1% in every head.');
      }
    }
    for (const l of lines) out.push({ root: el('p', { class: 'uniform' }, l) });
  }

  // By layer and step.
  const rows = { count: data.steps.length, label: (s) => data.steps[s], title: 'step' };
  data.runs.forEach((name, k) => {
    const value = (i, s) => share(layers[i].r[k], s);
    const values = all(layers.length, data.steps.length, value);
    if (!values.some((v) => v !== undefined)) return;
    const title = 'What causes the emulated error, by layer and step' + (over ? ', ' + name : '');
    const shade = shading(values, percent, true);
    const line = uniform(values, shade, { write: percent });
    if (line !== null) {
      out.push({ root: el('p', { class: 'uniform' }, title + ': ' + line) });
      return;
    }
    out.push(chart({
      title, note: 'Each step alone: its mean squared error as a share of the kernel’s.', columns, rows, value, shade, left: room, open, label: plural(layers.length, 'layer', 'layers') + '.',
      say: (at, cols) => where(cols) + layers[at.column].n + ', ' + data.steps[at.row] + ' alone: ' + percent(at.value) + ' of the mean squared error',
    }));
  });
  mount.className = layers.length > 60 ? 'wide' : '';
  mount.replaceChildren(...out.map((c) => c.root));
  for (const c of out) if (c.draw) c.draw();
}

const capital = (s) => s.charAt(0).toUpperCase() + s.slice(1);

// all are the values of a map, row by row.
function all(columns, rows, value) {
  const out = [];
  for (let i = 0; i < columns; i++) for (let r = 0; r < rows; r++) out.push(value(i, r));
  return out;
}

// uniform puts a map into words if all of its cells would look alike: they are of one
// shade, or lie within a quarter of each other. Otherwise it is null.
function uniform(values, shade, m) {
  let lo = Infinity, hi = -Infinity, n = 0, kind = null, alike = true;
  for (const v of values) {
    if (v === undefined) continue;
    const k = shade.kind(v);
    alike = alike && (kind === null || k === kind);
    kind = k;
    n++;
    if (Number.isNaN(v)) lo = NaN;
    if (v < lo) lo = v;
    if (v > hi) hi = v;
  }
  if (!alike && !(shade.extent && lo > 0 && hi < 1.25 * lo)) return null;
  if (kind === 'bad') return 'not finite in all of ' + n + '.';
  return lo === hi ? m.write(lo) + ' in all of ' + n + '.' : 'between ' + m.write(lo) + ' and ' + m.write(hi) + ' in all of ' + n + '; none stands out.';
}
