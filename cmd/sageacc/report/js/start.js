// Start: hears the controls and draws everything for the first time.

// refresh draws what the controls bear on.
function refresh() {
  const layers = left();
  const shown = byID('shown');
  if (shown) shown.textContent = layers.length === data.layers.length ? '' : layers.length + ' of ' + plural(data.layers.length, 'layer', 'layers') + ' shown.';
  drawMaps(layers);
  drawTable(layers);
}

// route shows the layer that the address names.
function route() {
  const m = /^#layer-(\d+)$/.exec(location.hash);
  const i = m ? Number(m[1]) - 1 : -1;
  if (data.layers.length > 1 && i >= 0 && i < data.layers.length) showSheet(i);
  else if (byID('sheet').open) closeSheet();
}

function hear(id, event, f) {
  const e = byID(id);
  if (e) e.addEventListener(event, () => f(e));
}

function controls() {
  let wait = 0;
  const later = () => {
    clearTimeout(wait);
    wait = setTimeout(refresh, data.layers.length > 500 ? 150 : 0);
  };
  hear('measure', 'change', (e) => { view.measure = Number(e.value); refresh(); });
  hear('output', 'change', (e) => { view.output = e.value; refresh(); });
  hear('state', 'change', (e) => { view.state = e.value; view.page = 0; refresh(); });
  hear('filter', 'input', (e) => { view.text = e.value; view.page = 0; later(); });
  const bound = (e, or) => (e.value !== '' && Number.isFinite(Number(e.value)) ? Number(e.value) : or);
  hear('from', 'input', (e) => { view.from = bound(e, 1); view.page = 0; later(); });
  hear('to', 'input', (e) => { view.to = bound(e, data.layers.length); view.page = 0; later(); });
  hear('reset', 'click', () => {
    Object.assign(view, { measure: 1, output: 'e', text: '', state: '', from: 1, to: data.layers.length, sort: 'worst', page: 0 });
    for (const [id, value] of [['measure', '1'], ['output', 'e'], ['state', ''], ['filter', ''], ['from', 1], ['to', data.layers.length]]) if (byID(id)) byID(id).value = value;
    refresh();
  });
  hear('theme', 'change', (e) => {
    if (e.value) document.documentElement.dataset.theme = e.value;
    else delete document.documentElement.dataset.theme;
    redraw();
  });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
  let width = innerWidth;
  addEventListener('resize', () => {
    if (innerWidth === width) return;
    width = innerWidth;
    redraw();
  });
  addEventListener('hashchange', route);
  byID('sheet').addEventListener('cancel', (e) => { e.preventDefault(); closeSheet(); });
  document.addEventListener('click', (e) => {
    if (e.target === byID('sheet')) closeSheet();
  });
}

try {
  controls();
  if (data.layers.length === 1) {
    byID('table').append(el('div', { id: 'layer-1' }, ...layerView(0)));
    redraw();
  } else {
    refresh();
  }
  for (const e of document.querySelectorAll('.static')) e.remove();
  route();
} catch (e) {
  // The plain page says the same.
  document.documentElement.classList.remove('js');
  throw e;
}
