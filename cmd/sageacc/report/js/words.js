// Words: elements made of text, and numbers written as the rest of the page does.

const byID = (id) => document.getElementById(id);

// el makes an element; strings among its children become text, never markup.
function el(name, attributes, ...children) {
  const e = document.createElement(name);
  for (const [k, v] of Object.entries(attributes || {})) {
    if (k === 'onclick') e.addEventListener('click', v);
    else if (v === true) e.setAttribute(k, '');
    else if (v !== false && v !== null && v !== undefined) e.setAttribute(k, v);
  }
  e.append(...children.filter((c) => c !== null && c !== undefined));
  return e;
}

// num reads a figure: JSON has no NaN and no infinities.
function num(x) {
  if (typeof x === 'number') return x;
  if (x === '+Inf') return Infinity;
  if (x === '-Inf') return -Infinity;
  return x === undefined || x === null ? undefined : NaN;
}

// digits writes a number with n significant digits, in fixed notation where that is
// not long.
function digits(x, n) {
  if (x === undefined) return '';
  if (x === 0 || !Number.isFinite(x)) return x === Infinity ? '+Inf' : x === -Infinity ? '-Inf' : String(x);
  const [mantissa, exp] = x.toExponential(n - 1).split('e');
  const e = Number(exp);
  return e < -4 || e > 6 ? mantissa + 'e' + e : x.toFixed(Math.max(0, n - 1 - e));
}

const number = (x) => digits(x, 4);

// short writes a number of an axis.
function short(x) {
  if (x === 0 || !Number.isFinite(x)) return String(x);
  const e = Math.floor(Math.log10(Math.abs(x)));
  const s = e < -4 || e > 5 ? x.toExponential(2) : x.toPrecision(3);
  const [mantissa, exp] = s.split('e');
  const m = mantissa.includes('.') ? mantissa.replace(/\.?0+$/, '') : mantissa;
  return exp === undefined ? m : m + 'e' + Number(exp);
}

// percent writes a fraction with the digits that it takes to see it.
function percent(x) {
  if (x === undefined) return '';
  const p = 100 * x;
  if (!Number.isFinite(p)) return digits(p, 2);
  if (p === 0) return '0%';
  return (Math.abs(p) < 0.1 ? digits(p, 2) : p.toFixed(1)) + '%';
}

// cosine writes a cosine similarity of one minus it.
function cosine(oneMinus) {
  if (oneMinus === undefined) return '';
  return oneMinus === 0 ? '1' : Number.isFinite(oneMinus) ? (1 - oneMinus).toFixed(6) : digits(1 - oneMinus, 2);
}

const plural = (n, one, many) => (n === 1 ? '1 ' + one : n + ' ' + many);

// times writes how one figure grew to another.
function change(a, b) {
  if (a === undefined || b === undefined) return '';
  if (a === b || (Number.isNaN(a) && Number.isNaN(b))) return 'same';
  if (!Number.isFinite(a) || !Number.isFinite(b) || a === 0) return digits(a, 3) + ' → ' + digits(b, 3);
  const g = b / a - 1;
  if (g > 10) return digits(b / a, 3) + '×';
  if (Math.abs(g) < 0.0005) return g > 0 ? '+0.0%' : '−0.0%';
  return (g > 0 ? '+' : '−') + (100 * Math.abs(g)).toFixed(1) + '%';
}
