// A layer: what is shown of one, made when it is looked at.

const docs = (page, text) => el('p', { class: 'docs' }, el('a', { href: data.docs + page, rel: 'noreferrer' }, text));

function table(caption, heads, rows) {
  return el('div', { class: 'scroll', role: 'region', tabindex: '0', 'aria-label': caption }, el('table', {},
    el('caption', {}, caption),
    el('thead', {}, el('tr', {}, ...heads.map(([text, kind]) => el('th', { scope: 'col', class: kind || '' }, text)))),
    el('tbody', {}, ...rows.map((r) => el('tr', {}, ...r.map((x, i) => el('td', { class: heads[i][1] || '' }, x)))))));
}

const num4 = (f, k) => (k === 0 ? cosine(num(f[0])) : number(num(f[k])));

// layerView makes everything that is said of layer i.
function layerView(i) {
  const l = data.layers[i];
  const details = JSON.parse(byID('detail-' + i).textContent);
  const out = [];
  l.r.forEach((run, k) => {
    if (over) out.push(el('h3', { class: 'run' }, data.runs[k]));
    if (!run) {
      out.push(el('p', {}, 'This result has no such layer.'));
      return;
    }
    out.push(...runView(l, run, details[k], over ? letter(k) + ': ' : ''));
  });
  if (over && l.r.filter((r) => r).length > 1) out.unshift(changes(l));
  return out;
}

function changes(l) {
  const rows = [];
  for (const [output, word] of [['e', 'emulated'], ['a', 'actual']]) {
    if (!l.r.some((r) => r && r[output])) continue;
    measures.forEach((m, k) => {
      if (k === 4 && output === 'e') return;
      const values = l.r.map((r) => figure(r, output, k));
      rows.push([word, m.name, ...values.flatMap((v, n) => [v === undefined ? '' : m.write(v), ...(n === 0 ? [] : [change(values[0], v)])])]);
    });
  }
  return table('All over each other', [['output'], ['measure'], ...l.r.flatMap((_, n) => [[letter(n), 'num'], ...(n === 0 ? [] : [['change', 'num']])])], rows);
}

function runView(l, run, d, prefix) {
  const out = [];
  const add = (...x) => out.push(...x.filter((e) => e !== null));
  add(el('p', {}, el('span', { class: 'chip ' + run.k }, stateText[run.k])));
  if (d.findings) add(el('ul', { class: 'notes found' }, ...d.findings.map((w) => el('li', {}, w))));
  if (d.warnings) add(el('ul', { class: 'notes warned' }, ...d.warnings.map((w) => el('li', {}, w))));
  const lines = [['emulated against full precision', ...[0, 1, 2, 3].map((k) => num4(run.e, k)), '', '']];
  if (run.a) lines.push(['actual against full precision', ...[0, 1, 2, 3].map((k) => num4(run.a, k)), run.b[0] + ' of ' + run.b[1], String(run.b[2])]);
  const heads = [['comparison'], ['cos', 'num'], ['rel. L1', 'num'], ['RMSE', 'num'], ['max. error', 'num'], ['differing', 'num'], ['max. ulp', 'num']];
  add(table(prefix + 'Figures', run.a ? heads : heads.slice(0, 5), run.a ? lines : lines.map((r) => r.slice(0, 5))));
  if (d.why && d.why.length > 0) {
    add(el('h4', {}, 'Where and why the actual output differs'), el('ul', { class: 'notes' }, ...d.why.map((w) => el('li', {}, w))), docs('explain.md', 'What is tried, and what cannot be told apart'));
  }
  if (d.map) add(...differences(run, d.map));
  add(...headsView(l, run));
  if (run.t) add(...causes(run));
  if (d.errors || d.actual) add(errors(d));
  if (d.lse) {
    const rows = [['emulated against full precision', ...[1, 2, 3].map((k) => num4(d.lse.e, k)), '', '']];
    if (d.lse.a) rows.push(['actual against full precision', ...[1, 2, 3].map((k) => num4(d.lse.a, k)), d.lse.b[0] + ' of ' + d.lse.b[1], String(d.lse.b[2])]);
    add(table('Log-sum-exp of the rows’ scores', [['comparison'], ['rel. L1', 'num'], ['RMSE', 'num'], ['max. error', 'num'], ['differing', 'num'], ['max. ulp', 'num']], rows));
  }
  if (d.counts) {
    add(table('Values that are not ordinary numbers, by stage of the emulated kernel', [['stage'], ['NaN', 'num'], ['infinite', 'num'], ['saturated', 'num'], ['zero', 'num']], d.counts.map((r) => r.map(String))), docs('report.md#warnings', 'What the counts mean'));
  }
  add(el('dl', { class: 'facts' }, ...d.facts.map(([k, v]) => el('div', {}, el('dt', {}, k), el('dd', {}, v)))));
  return out;
}

// differences are the maps of where an actual output differs.
function differences(run, p) {
  const out = [];
  const columns = Math.max(0, ...p.b.map((r) => r.length));
  const tokens = (c) => Math.max(1, Math.min(p.t, p.q - c * p.t));
  const value = (c, r) => (c < p.b[r].length ? p.b[r][c] / (tokens(c) * p.d) : undefined);
  if (columns > 0) {
    const values = all(columns, p.b.length, value);
    const shade = shading(values, percent);
    const title = 'Differing elements by head and block of ' + p.t + ' tokens';
    const line = uniform(values, shade, { write: percent });
    if (line !== null) out.push(el('p', { class: 'uniform' }, title + ': ' + line));
    else {
      out.push(chart({
        title, note: 'Share of the elements of a block.', columns: { count: columns, label: (c) => String(c * p.t), title: 'token', edges: true },
        rows: { count: p.b.length, label: (r) => (run.h && run.h.n && run.h.n[r]) || String(r), title: run.h && run.h.n ? 'batch/head' : 'head' }, value, shade, widest: 24,
        say: (at) => headName(run.h && run.h.n ? run : null, at.row) + ', tokens ' + at.column * p.t + ' to ' + (at.column * p.t + tokens(at.column) - 1) + ': ' + p.b[at.row][at.column] + ' differ (' + percent(at.value) + ')',
      }).root);
    }
  }
  if (p.c.length > 0) {
    const value = (c) => p.c[c] / p.each;
    const values = all(p.c.length, 1, value);
    const line = uniform(values, shading(values, percent), { write: percent });
    if (line !== null) out.push(el('p', { class: 'uniform' }, 'Differing elements by channel: ' + line));
    else {
      out.push(chart({
        title: 'Differing elements by channel', note: 'Over all heads and tokens.', columns: { count: p.c.length, label: String, title: 'channel' }, widest: 24, fromZero: true,
        series: [{ name: 'differing', class: 's2', mark: 'bar', value }], unit: 'share', write: (x) => short(100 * x) + '%', say: (at) => 'channel ' + at.column + ': ' + p.c[at.column] + ' differ (' + percent(at.value) + ')',
      }).root);
    }
  }
  return out;
}

// headsView is a chart and a table of the worst heads.
function headsView(l, run) {
  const n = headCount(run);
  if (n === 0) return [];
  const m = measures[view.measure === 4 ? 1 : view.measure], k = view.measure === 4 ? 1 : view.measure;
  const out = [el('h4', {}, 'Heads')];
  if (n > 2) {
    const series = [{ name: 'emulated', class: 's1', mark: 'dot', value: (h) => headFigure(run, 'e', k, h) }];
    if (run.h.a) series.push({ name: 'actual', class: 's2', mark: 'ring', value: (h) => headFigure(run, 'a', k, h) });
    out.push(chart({
      title: capital(m.name) + ' by head', columns: { count: n, label: (h) => (run.h.n ? run.h.n[h] : String(h)), title: run.h.n ? 'batch/head' : 'head' }, series, unit: m.unit, write: short,
      say: (at) => headName(run, at.column) + ': ' + series.map((s) => s.name + ' ' + m.unit + ' ' + m.write(s.value(at.column))).join(', '),
    }).root);
  }
  const worstOf = (h) => {
    const a = headFigure(run, 'a', k, h), e = headFigure(run, 'e', k, h);
    return a === undefined ? e : further(a, e) ? a : e;
  };
  const sorted = Array.from({ length: n }, (_, h) => h).sort((a, b) => compareValues(worstOf(a), worstOf(b), true) || a - b);
  const shown = sorted.slice(0, 10);
  const heads = [['head'], ['cos', 'num'], ['rel. L1', 'num'], ['RMSE', 'num'], ['max. error', 'num']];
  if (run.h.a) heads.push(['actual: cos', 'num'], ['rel. L1', 'num'], ['RMSE', 'num'], ['max. error', 'num'], ['differing', 'num'], ['max. ulp', 'num']);
  const figures = (f, h) => [cosine(num(f[0][h])), number(num(f[1][h])), number(num(f[2][h])), number(num(f[3][h]))];
  out.push(table(n > 10 ? 'The 10 worst of ' + n + ' heads, by ' + m.unit : 'Heads, worst first, by ' + m.unit, heads, shown.map((h) => [
    run.h.n ? run.h.n[h] : String(h), ...figures(run.h.e, h), ...(run.h.a ? [...figures(run.h.a, h), run.h.b[h][0] + ' of ' + headElements(run.h, h), String(run.h.b[h][1])] : []),
  ])));
  return out;
}

// causes is the attribution, a bar for each step.
function causes(run) {
  const whole = num(run.t.k[2]);
  const of = (f) => (whole === 0 || !Number.isFinite(whole) ? '' : percent(num(f[2]) / whole));
  const line = (name, a, w) => [name, a ? bar(num(a[2]) / whole) : '', a ? of(a) : '', a ? number(num(a[0])) : '', a ? number(num(a[1])) : '', w ? of(w) : '', w ? number(num(w[0])) : '', w ? number(num(w[1])) : ''];
  const rows = run.t.s.map((s) => line(data.steps[s.i], s.a, s.w));
  rows.push(line('no step (FP32 arithmetic)', run.t.r), ['what does not add up', '', of([0, 0, run.t.m]), '', '', '', '', ''], line('the kernel', run.t.k));
  return [
    el('h4', {}, 'What causes the emulated error'),
    whole === 0 || !Number.isFinite(whole) ? el('p', {}, 'The mean squared error is ' + number(whole) + ', so there is nothing to share out.') : null,
    table('Steps: alone, and the kernel with only that step exact', [['step'], ['of the mean squared error', 'bar'], ['alone: of MSE', 'num'], ['1 − cos', 'num'], ['rel. L1', 'num'], ['without: of MSE', 'num'], ['1 − cos', 'num'], ['rel. L1', 'num']], rows),
    docs('concepts.md#what-causes-the-error', 'What the steps are'),
  ];
}

// bar is a part of a whole as a length.
function bar(part) {
  const b = el('span', { class: 'part', 'aria-hidden': 'true' }, el('span', {}));
  b.firstChild.style.width = (Number.isFinite(part) ? 100 * Math.min(Math.max(part, 0), 1) : 0) + '%';
  return b;
}

// errors is the chart of the sizes of errors.
function errors(d) {
  const all = [d.errors, d.actual].filter((h) => h && h.n.length > 0);
  if (all.length === 0) return null;
  let from = Math.min(...all.map((h) => h.min)), to = Math.max(...all.map((h) => h.min + h.n.length));
  const total = (h) => h.zero + h.odd + h.n.reduce((a, b) => a + b, 0);
  const at = (h, e) => (h && e >= h.min && e < h.min + h.n.length ? h.n[e - h.min] / Math.max(total(h), 1) : 0);
  // Ends of which there is less than one in 10000 are left out.
  while (from < to - 1 && all.every((h) => at(h, from) < 1e-4)) from++;
  while (to - 1 > from && all.every((h) => at(h, to - 1) < 1e-4)) to--;
  const series = [];
  if (d.errors) series.push({ name: 'emulated', class: 's1', mark: 'bar', value: (i) => at(d.errors, from + i) });
  if (d.actual) series.push({ name: 'actual', class: 's2', mark: 'step', value: (i) => at(d.actual, from + i) });
  const rms = num(d.rms);
  const note = [d.errors, d.actual].map((h, k) => (h && (h.zero > 0 || h.odd > 0) ? ['emulated', 'actual'][k] + ': ' + percent(h.zero / total(h)) + ' exactly zero' + (h.odd > 0 ? ', ' + percent(h.odd / total(h)) + ' not finite' : '') : null)).filter((s) => s !== null).join('; ');
  return chart({
    title: 'Sizes of errors', note: 'Share of elements with an absolute error from 2ⁿ up to twice that. The root mean square of the reference is ' + number(rms) + '.' + (note ? ' ' + capital(note) + '.' : ''),
    columns: { count: to - from, label: (i) => '2^' + (from + i), title: 'absolute error, from' }, series, unit: 'elements', fromZero: true, write: (x) => short(100 * x) + '%',
    say: (at) => 'errors from ' + digits(Math.pow(2, from + at.column), 3) + ' to ' + digits(Math.pow(2, from + at.column + 1), 3) + ': ' + series.map((s) => s.name + ' ' + percent(s.value(at.column))).join(', '),
  }).root;
}

let opener = null; // what had the focus before the sheet opened

function openLayer(i) {
  opener = document.activeElement;
  location.hash = '#layer-' + (i + 1);
}

// showSheet shows layer i over the page.
function showSheet(i) {
  const sheet = byID('sheet');
  const l = data.layers[i];
  const k = order.indexOf(i);
  const step = (by, text) => {
    const to = k < 0 ? -1 : k + by;
    return el('button', { type: 'button', disabled: to < 0 || to >= order.length, onclick: () => location.replace('#layer-' + (order[to] + 1)) }, text);
  };
  sheet.setAttribute('aria-label', 'Layer ' + (i + 1) + ', ' + l.n);
  sheet.replaceChildren(
    el('div', { class: 'bar' }, step(-1, 'Previous'), step(1, 'Next'), el('span', { class: 'space' }), el('button', { type: 'button', class: 'close', onclick: closeSheet }, 'Close')),
    el('div', { class: 'sheet' }, el('h2', { tabindex: '-1' }, (i + 1) + ': ' + l.n), ...layerView(i)));
  if (!sheet.open) sheet.showModal();
  sheet.scrollTop = 0;
  sheet.querySelector('h2').focus();
  redraw();
}

function closeSheet() {
  if (location.hash.startsWith('#layer-')) history.pushState(null, '', location.pathname + location.search + '#layers');
  const sheet = byID('sheet');
  if (sheet.open) sheet.close();
  sheet.replaceChildren();
  if (opener && opener.isConnected) opener.focus({ preventScroll: true });
  opener = null;
}
