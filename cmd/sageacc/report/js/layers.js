// Layers: the table, sorted, filtered and in pages.

const pageRows = 50;

// columnsOf are the table's columns: key, heading, class, and of a layer what is sorted
// by and what is shown.
function columnsOf() {
  const m = measures[view.measure];
  const figureColumn = (key, title, run, output, k, write) => ({
    key, title, class: 'num', of: (l) => figure(l.r[run], output, k), text: (l) => write(figure(l.r[run], output, k)),
  });
  const cols = [
    { key: '#', title: '#', class: 'num', of: (l) => l.i, text: (l) => String(l.i + 1) },
    { key: 'name', title: 'layer', class: 'name', of: (l) => l.n, link: true, text: (l) => l.n },
  ];
  const stateColumn = (k, title) => ({ key: 'state' + k, title, class: 'state', of: (l) => (l.r[k] ? data.states.findIndex(([key]) => key === l.r[k].k) : undefined), state: (l) => l.r[k], text: (l) => (l.r[k] ? stateText[l.r[k].k] : 'not there') });
  const some = (k, f) => data.layers.some((l) => l.r[k] && f(l.r[k]));
  if (over) {
    cols.push(...data.runs.map((_, k) => stateColumn(k, 'state in ' + letter(k))));
    for (const output of view.measure === 4 ? ['a'] : ['e', 'a']) {
      if (output === 'a' && !data.runs.some((_, k) => some(k, (r) => r.a))) continue;
      const word = output === 'a' ? 'actual' : 'emulated';
      data.runs.forEach((_, k) => {
        cols.push(figureColumn(output + k, (k === 0 ? word + ': ' + m.unit + ' in ' : 'in ') + letter(k), k, output, view.measure, m.write));
        if (k === 0) return;
        cols.push({
          key: output + 'change' + k, title: 'change', class: 'num',
          of: (l) => {
            const a = figure(l.r[0], output, view.measure), b = figure(l.r[k], output, view.measure);
            return a === undefined || b === undefined ? undefined : a === b ? 1 : Number.isFinite(b) ? b / a : NaN;
          },
          text: (l) => change(figure(l.r[0], output, view.measure), figure(l.r[k], output, view.measure)),
        });
      });
    }
    return cols;
  }
  cols.push(stateColumn(0, 'state'));
  if (oneShape() === null) cols.push({ key: 'shape', title: 'shape', class: 'state', of: (l) => l.s, text: (l) => l.s });
  cols.push(figureColumn('e0', 'cos', 0, 'e', 0, cosine), figureColumn('e1', 'rel. L1', 0, 'e', 1, number), figureColumn('e2', 'RMSE', 0, 'e', 2, number), figureColumn('e3', 'max. error', 0, 'e', 3, number));
  if (some(0, (r) => r.a)) {
    cols.push(figureColumn('a0', 'actual: cos', 0, 'a', 0, cosine), figureColumn('a1', 'rel. L1', 0, 'a', 1, number), figureColumn('a2', 'RMSE', 0, 'a', 2, number), figureColumn('a3', 'max. error', 0, 'a', 3, number));
    cols.push({ key: 'b0', title: 'differing', class: 'num', of: (l) => figure(l.r[0], 'a', 4), text: (l) => (l.r[0].b ? l.r[0].b[0] + ' of ' + l.r[0].b[1] : '') });
    cols.push({ key: 'b2', title: 'max. ulp', class: 'num', of: (l) => (l.r[0].b ? l.r[0].b[2] : undefined), text: (l) => (l.r[0].b ? String(l.r[0].b[2]) : '') });
  }
  if (some(0, (r) => r.t)) {
    const largest = (l) => {
      let at;
      for (let s = 0; s < data.steps.length; s++) {
        const v = share(l.r[0], s);
        if (v !== undefined && (at === undefined || further(v, at[1]))) at = [s, v];
      }
      return at;
    };
    cols.push({ key: 'cause', title: 'largest cause', class: 'state', of: (l) => (largest(l) || [undefined])[0], text: (l) => { const x = largest(l); return x ? data.steps[x[0]] + ' ' + percent(x[1]) : ''; } });
  }
  return cols;
}

// oneShape is the shape that all layers have, or null.
const oneShape = () => (data.layers.every((l) => l.s === data.layers[0].s) ? data.layers[0].s : null);

// compareValues orders what is sorted by: what is not there comes last either way, NaN
// is larger than any number.
function compareValues(a, b, down) {
  if (a === undefined || b === undefined) return a === b ? 0 : a === undefined ? 1 : -1;
  const sign = down ? -1 : 1;
  if (typeof a === 'string') return sign * a.localeCompare(b, 'en', { numeric: true });
  if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) && Number.isNaN(b) ? 0 : Number.isNaN(a) ? sign : -sign;
  return sign * (a - b || 0);
}

function drawTable(layers) {
  const mount = byID('table');
  const cols = columnsOf();
  const by = cols.find((c) => c.key === view.sort);
  const sorted = layers.slice().sort(by ? (x, y) => compareValues(by.of(x), by.of(y), view.down) || x.i - y.i : worstFirst);
  order = sorted.map((l) => l.i);
  const pages = Math.max(1, Math.ceil(sorted.length / pageRows));
  view.page = Math.min(view.page, pages - 1);
  const from = view.page * pageRows;
  const head = el('tr', {}, ...cols.map((c) => {
    const mine = c.key === view.sort;
    const press = () => {
      if (view.sort === c.key) view.down = !view.down;
      else [view.sort, view.down] = [c.key, c.class === 'num' && c.key !== '#'];
      view.page = 0;
      drawTable(left());
      byID('table').querySelector('[data-key="' + c.key + '"]').focus();
    };
    return el('th', { scope: 'col', class: c.class, 'aria-sort': mine ? (view.down ? 'descending' : 'ascending') : null },
      el('button', { type: 'button', class: 'sort', 'data-key': c.key, onclick: press }, c.title, el('span', { 'aria-hidden': 'true' }, mine ? (view.down ? ' ▼' : ' ▲') : '')));
  }));
  const body = sorted.slice(from, from + pageRows).map((l) => el('tr', {}, ...cols.map((c) => {
    const td = el('td', { class: c.class });
    if (c.link) td.append(el('a', { href: '#layer-' + (l.i + 1) }, c.text(l)));
    else if (c.state) {
      const r = c.state(l);
      td.append(el('span', { class: 'chip ' + (r ? r.k : '') }, c.text(l)));
      if (r && r.w > 0 && r.k !== 'warn') td.append(' ', el('span', { class: 'chip warn', title: plural(r.w, 'warning', 'warnings') }, '!' + r.w));
    } else td.append(c.text(l));
    return td;
  })));
  const caption = 'Layers' + (by ? ', sorted by ' + by.title : ', worst first') + ', against full precision' + (oneShape() === null ? '' : '; all ' + oneShape());
  const old = mount.querySelector('.scroll');
  const scroll = old ? old.scrollLeft : 0;
  const box = el('div', { class: 'scroll', role: 'region', tabindex: '0', 'aria-label': caption }, el('table', {}, el('caption', {}, caption), el('thead', {}, head), el('tbody', {}, ...body)));
  mount.replaceChildren(box);
  box.scrollLeft = scroll;
  if (sorted.length > pageRows) {
    const go = (p, focus) => () => {
      view.page = Math.min(Math.max(p, 0), pages - 1);
      drawTable(left());
      const b = byID('table').querySelector('[data-go="' + focus + '"]');
      (b.disabled ? byID('table').querySelector('.scroll') : b).focus();
    };
    const button = (name, p, text) => el('button', { type: 'button', 'data-go': name, disabled: p < 0 || p >= pages || p === view.page, onclick: go(p, name) }, text);
    mount.append(el('nav', { class: 'pages', 'aria-label': 'Pages of the table' },
      button('first', 0, 'First'), button('back', view.page - 1, 'Back'),
      el('span', { role: 'status' }, 'Rows ' + (from + 1) + ' to ' + Math.min(from + pageRows, sorted.length) + ' of ' + sorted.length),
      button('on', view.page + 1, 'On'), button('last', pages - 1, 'Last')));
  }
}
