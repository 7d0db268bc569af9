// State: what is looked at, and the layers that are left.

const data = JSON.parse(byID('data').textContent);
const over = data.runs.length > 1;
const letter = (k) => String.fromCharCode(65 + k);
const stateText = Object.fromEntries(data.states);

data.layers.forEach((l, i) => {
  l.i = i;
  l.low = l.n.toLowerCase();
  for (const r of l.r) {
    if (!r) continue;
    r.e = r.e.map(num);
    if (r.a) r.a = r.a.map(num);
  }
});

const measures = [
  { name: '1 − cosine similarity', unit: '1 − cos', write: number },
  { name: 'relative L1 error', unit: 'relative L1', write: number },
  { name: 'RMSE', unit: 'RMSE', write: number },
  { name: 'max. error', unit: 'max. error', write: number },
  { name: 'share of differing elements', unit: 'differing', write: percent },
];

const view = { measure: 1, output: 'e', text: '', state: '', from: 1, to: data.layers.length, sort: 'worst', down: true, page: 0 };

// figure is a measure of a layer in a result, of the emulated (e) or actual (a) output.
function figure(run, output, m) {
  if (!run) return undefined;
  if (m === 4) return run.b ? (run.b[1] > 0 ? run.b[0] / run.b[1] : 0) : undefined;
  const f = output === 'a' ? run.a : run.e;
  return f ? f[m] : undefined;
}

// headElements is how many elements a head has.
const headElements = (x, h) => (x.m.length === 1 ? x.m[0] : x.m[h]);

// headFigure is the same of a head.
function headFigure(run, output, m, h) {
  const x = run && run.h;
  if (!x) return undefined;
  if (m === 4) return x.b && h < x.b.length ? (headElements(x, h) > 0 ? x.b[h][0] / headElements(x, h) : 0) : undefined;
  const f = output === 'a' ? x.a : x.e;
  return f && h < f[m].length ? num(f[m][h]) : undefined;
}

const headCount = (run) => (run && run.h ? run.h.e[0].length : 0);

// headName names a head; over several batches "batch/head".
const headName = (run, h) => (run && run.h && run.h.n ? 'batch/head ' + run.h.n[h] : 'head ' + h);

// share is a step's part of a layer's mean squared error, undefined where there is none
// to share out.
function share(run, s) {
  const step = run && run.t && run.t.s.find((x) => x.i === s);
  const whole = run && run.t ? num(run.t.k[2]) : undefined;
  if (!step || whole === 0 || !Number.isFinite(whole)) return undefined;
  return num(step.a[2]) / whole;
}

// rank is a state's place among those that are worse than others.
const rank = (r) => Math.min(data.states.findIndex(([k]) => k === r.k), data.rank);

// last is the newest result of a layer.
const last = (l) => l.r.findLast((r) => r !== null);

// worstFirst orders layers as the page's table does without a script.
function worstFirst(x, y) {
  const a = last(x), b = last(y);
  if (rank(a) !== rank(b)) return rank(a) - rank(b);
  const err = (r) => (r.a && !(r.e[1] > r.a[1]) && !Number.isNaN(r.e[1]) ? r.a[1] : r.e[1]);
  const p = err(a), q = err(b);
  if (Number.isNaN(p) || Number.isNaN(q)) return Number.isNaN(p) && Number.isNaN(q) ? x.i - y.i : Number.isNaN(p) ? -1 : 1;
  return q - p || x.i - y.i;
}

// left are the layers that the filter leaves, in the model's order.
function left() {
  const words = view.text.toLowerCase().split(/\s+/).filter((w) => w !== '');
  return data.layers.filter((l) => l.i + 1 >= view.from && l.i + 1 <= view.to &&
    words.every((w) => l.low.includes(w)) && (view.state === '' || l.r.some((r) => r && r.k === view.state)));
}

let order = []; // of the layers in the table, for previous and next
