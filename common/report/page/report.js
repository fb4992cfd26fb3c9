// The interactive part of the report: timelines and memory curves on canvases. No network, no
// libraries. Data: the JSON of #data (html.cpp). Tested by tests/common/report/chromium_test.
'use strict';
window.addEventListener('error', (e) => {
  const root = document.documentElement;
  root.dataset.errors = (root.dataset.errors || '') + e.message + ' (line ' + e.lineno + '); ';
});
(() => {
const data = JSON.parse(document.getElementById('data').textContent);
const root = document.documentElement;
const $ = (id) => document.getElementById(id);
const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();

// Okabe and Ito's colours: told apart by people with any common kind of colour blindness.
const PHASES = {F: '#0072B2', B: '#D55E00', I: '#E69F00', W: '#009E73', R: '#56B4E9', O: '#CC79A7', D: '#999999'};
const PHASE_WORDS = {F: 'forward', B: 'backward', I: 'backward for inputs', W: 'backward for weights',
  R: 'recompute', O: 'optimizer', D: 'data'};
const CLASSES = {matmul: '#0072B2', attention: '#D55E00', norm: '#009E73', elementwise: '#56B4E9',
  embedding: '#F0E442', loss: '#CC79A7', optimizer: '#E69F00', reduction: '#999999'};
const MEMORY = ['#0072B2', '#56B4E9', '#009E73', '#9AD4BE', '#CC79A7', '#D55E00', '#E69F00', '#F0E442',
  '#8C564B', '#7F7F7F', '#BDBDBD', '#5D3A9B', '#1A1A1A'];

function timeText(ns) {
  const a = Math.abs(ns);
  const [value, unit] = a >= 999.5e6 ? [ns / 1e9, 's'] : a >= 999.5e3 ? [ns / 1e6, 'ms'] : a >= 999.5 ? [ns / 1e3, 'us'] : [ns, 'ns'];
  const v = Math.abs(value);
  return value.toFixed(unit === 'ns' && Number.isInteger(value) ? 0 : v < 9.995 ? 2 : v < 99.95 ? 1 : 0) + ' ' + unit;
}
function bytesText(b) {
  let i = 0;
  while (i < 4 && b >= 1023.5) { b /= 1024; ++i; }
  return (i === 0 ? b.toFixed(0) : b < 9.995 ? b.toFixed(2) : b < 99.95 ? b.toFixed(1) : b.toFixed(0)) + ' ' + ['B', 'KiB', 'MiB', 'GiB', 'TiB'][i];
}
// About `count` round numbers in [low, high].
function ticks(low, high, count, base) {
  const raw = (high - low) / count;
  if (!(raw > 0)) return [];
  let step;
  if (base === 2) step = 2 ** Math.ceil(Math.log2(raw));
  else {
    const power = 10 ** Math.floor(Math.log10(raw));
    step = power * [1, 2, 5, 10].find((m) => m * power >= raw);
  }
  const out = [];
  for (let t = Math.ceil(low / step) * step; t <= high; t += step) out.push(t);
  return out;
}

// --- rows ------------------------------------------------------------------------------------
// A row is a lane of one rank and one timeline: {side, rank, label, kind, y, h, list, top}.
const STRIDE = 6;  // op, stream, issued, ready, started, ended
const sides = data.timelines.map((t) => t.label);
const length = Math.max(1, ...data.timelines.map((t) => t.length));
const isComm = (op) => data.ops[op].comm !== undefined;

for (const t of data.timelines) {
  for (const rank of t.ranks) {
    rank.list = [];
    for (let i = 0; i < rank.spans.length; i += STRIDE) {
      const [op, stream, issued, ready, started, ended] = rank.spans.slice(i, i + STRIDE);
      rank.list.push({op, stream, issued, ready, started, ended, rank: rank.rank, calls: []});
    }
    rank.byOp = new Map(rank.list.map((s) => [s.op, s]));
    for (let i = 0; i < rank.calls.length; i += 4) {
      const [op, call, started, ended] = rank.calls.slice(i, i + 4);
      const s = rank.byOp.get(op);
      if (s) s.calls.push({call, started, ended});
    }
  }
}
const compute = data.streams.indexOf('compute');
let expanded = false, colours = 'phase', shown = 'both';
let rows = [], height = 0;

function layout() {
  rows = [];
  let y = 0;
  const first = data.timelines[0];
  for (let r = 0; r < first.ranks.length; ++r) {
    y += 6;
    const top = y;
    const pushRow = (side, rank, label, kind, h, list) => {
      list = list.slice().sort((a, b) => a.ready - b.ready);
      rows.push({side, rank: rank.rank, label, kind, y, h, list, top});
      y += h;
    };
    const wanted = sides.map((_, i) => i).filter((i) => shown === 'both' || shown === sides[i]);
    const streams = expanded ? [...new Set(wanted.flatMap((i) => data.timelines[i].ranks[r].list.map((s) => s.stream)))].sort((a, b) => (b === compute) - (a === compute) || a - b) : [compute];
    for (const stream of streams) {
      for (const side of wanted) {
        const rank = data.timelines[side].ranks[r];
        const mine = rank.list.filter((s) => s.stream === stream);
        const label = expanded ? data.streams[stream] + ', ' + sides[side] : sides[side];
        pushRow(side, rank, label, stream === compute ? 'compute' : 'comm', 17, mine);
        if (!expanded) pushRow(side, rank, '', 'comm', 8, rank.list.filter((s) => isComm(s.op)));
        y += 3;
      }
    }
    y += 5;
  }
  height = y + 4;
}

// --- drawing the timelines ---------------------------------------------------------------------
const canvas = $('timeline'), view = $('view'), spacer = $('spacer'), tip = $('tip');
const LEFT = 170, AXIS = 34, RIGHT = 12;
let from = 0, to = length, selected = null, hovered = null;
let frame = 0;
const width = () => view.clientWidth;
const x = (t) => LEFT + (t - from) / (to - from) * (width() - LEFT - RIGHT);
const timeAt = (px) => from + (px - LEFT) / (width() - LEFT - RIGHT) * (to - from);

function resize(c, w, h) {
  const d = window.devicePixelRatio || 1;
  c.style.width = w + 'px';
  c.style.height = h + 'px';
  c.width = Math.round(w * d);
  c.height = Math.round(h * d);
  const g = c.getContext('2d');
  g.setTransform(d, 0, 0, d, 0, 0);
  return g;
}
function redraw() {
  if (!frame) frame = requestAnimationFrame(() => { frame = 0; draw(); });
}
function hatch(g, colour) {
  const tile = document.createElement('canvas');
  tile.width = tile.height = 6;
  const t = tile.getContext('2d');
  t.strokeStyle = colour;
  t.lineWidth = 1.5;
  t.beginPath();
  t.moveTo(-1, 7); t.lineTo(7, -1); t.moveTo(-1, 1); t.lineTo(1, -1); t.moveTo(5, 7); t.lineTo(7, 5);
  t.stroke();
  return g.createPattern(tile, 'repeat');
}
// First span of a row that may reach into the window: rows are in order, so ends are too (nearly).
function firstVisible(list, t) {
  let a = 0, b = list.length;
  while (a < b) {
    const m = (a + b) >> 1;
    if (list[m].ended < t) a = m + 1; else b = m;
  }
  return Math.max(0, a - 2);
}
function callColour(op, call) { return CLASSES[data.ops[op].classes[call]] || '#999999'; }

function draw() {
  const w = width();
  if (w < LEFT + 50) return;
  const h = Math.min(height + AXIS, Math.max(220, Math.round(window.innerHeight * 0.7)));
  spacer.style.height = Math.max(0, height + AXIS - h) + 'px';
  const g = resize(canvas, w, h);
  const fg = css('--fg'), muted = css('--muted'), grid = css('--grid'), bg = css('--bg');
  const waiting = hatch(g, css('--wait')), transfer = css('--transfer');
  g.fillStyle = bg;
  g.fillRect(0, 0, w, h);
  g.font = '12px system-ui, "DejaVu Sans", sans-serif';
  g.textBaseline = 'middle';
  const marks = ticks(from, to, Math.max(2, Math.floor((w - LEFT) / 110)));
  g.strokeStyle = grid;
  g.beginPath();
  for (const t of marks) { g.moveTo(Math.round(x(t)) + .5, AXIS); g.lineTo(Math.round(x(t)) + .5, h); }
  g.stroke();
  const scroll = view.scrollTop;
  g.save();
  g.beginPath();
  g.rect(0, AXIS, w, h - AXIS);
  g.clip();
  let labelled = -1;
  for (const row of rows) {
    const y = row.y - scroll + AXIS;
    if (y > h || y + row.h < AXIS) continue;
    if (row.rank !== labelled) {
      labelled = row.rank;
      const top = row.top - scroll + AXIS;
      g.strokeStyle = css('--line');
      g.beginPath(); g.moveTo(0, Math.round(top - 5) + .5); g.lineTo(w, Math.round(top - 5) + .5); g.stroke();
      g.fillStyle = fg;
      g.font = 'bold 12px system-ui, "DejaVu Sans", sans-serif';
      g.textAlign = 'left';
      if (top + 12 > AXIS) g.fillText('rank ' + row.rank, 8, top + 9);
      g.font = '12px system-ui, "DejaVu Sans", sans-serif';
    }
    if (row.label) {
      g.fillStyle = muted;
      g.textAlign = 'right';
      let label = row.label;
      while (label.length > 4 && g.measureText(label).width > LEFT - (expanded && row.y > row.top ? 16 : 66)) label = label.slice(0, -2) + '\u2026';
      g.fillText(label, LEFT - 8, y + row.h / 2);
    }
    g.fillStyle = css('--row');
    g.fillRect(LEFT, y, w - LEFT - RIGHT, row.h);
    drawRow(g, row, y, w, waiting, transfer);
  }
  g.restore();
  // the axis, above everything
  g.fillStyle = bg;
  g.fillRect(0, 0, w, AXIS - 1);
  g.strokeStyle = muted;
  g.beginPath(); g.moveTo(LEFT, AXIS - .5); g.lineTo(w - RIGHT, AXIS - .5); g.stroke();
  g.fillStyle = muted;
  g.textAlign = 'center';
  const unit = to - from >= 2e9 ? [1e9, 's'] : to - from >= 2e6 ? [1e6, 'ms'] : to - from >= 2e3 ? [1e3, 'us'] : [1, 'ns'];
  for (const t of marks) {
    g.beginPath(); g.moveTo(Math.round(x(t)) + .5, AXIS - 6); g.lineTo(Math.round(x(t)) + .5, AXIS); g.stroke();
    if (x(t) < w - 30) g.fillText(String(Number((t / unit[0]).toPrecision(6))), x(t), AXIS - 14);
  }
  g.textAlign = 'left';
  g.fillStyle = fg;
  g.fillText('time in the step [' + unit[1] + ']', 8, AXIS - 14);
  root.dataset.drawn = String(Number(root.dataset.drawn || 0) + 1);
}

function drawRow(g, row, y, w, waiting, transfer) {
  const list = row.list;
  const low = LEFT, high = w - RIGHT;
  let drawnTo = -1;
  g.save();
  g.beginPath(); g.rect(low, y - 1, high - low, row.h + 2); g.clip();
  for (let i = row.kind === 'comm' ? 0 : firstVisible(list, from); i < list.length; ++i) {
    const s = list[i];
    if (s.ready > to) break;
    if (s.ended < from) continue;
    const a = x(s.started), b = x(s.ended);
    if (row.kind === 'comm' && s.started > s.ready) {
      const wa = x(s.ready);
      if (a - wa > 1) { g.fillStyle = waiting; g.fillRect(wa, y, a - wa, row.h); }
    }
    if (b <= drawnTo + .4 && s !== selected) continue;  // nothing new to see at this scale
    drawnTo = b;
    const wide = Math.max(.6, b - a);
    if (row.kind === 'comm') {
      g.fillStyle = transfer;
      g.fillRect(a, y, wide, row.h);
    } else if (colours === 'class' && s.calls.length) {
      for (const c of s.calls) {
        g.fillStyle = callColour(s.op, c.call);
        g.fillRect(x(c.started), y, Math.max(.6, x(c.ended) - x(c.started)), row.h);
      }
    } else {
      g.fillStyle = PHASES[data.ops[s.op].phase] || '#999999';
      g.fillRect(a, y, wide, row.h);
    }
    if (wide > 3) { g.strokeStyle = 'rgba(255,255,255,.65)'; g.lineWidth = 1; g.strokeRect(a + .5, y + .5, wide - 1, row.h - 1); }
    const op = data.ops[s.op];
    if (row.kind === 'compute' && wide > 26) {
      const short = op.phase + (op.mb >= 0 ? op.mb : '');
      const text = wide > g.measureText(op.name).width + 8 ? op.name : short;
      g.fillStyle = op.phase === 'I' || (colours === 'class') ? '#000000' : '#ffffff';
      g.textAlign = 'center';
      if (wide > g.measureText(text).width + 4) {
        if (colours === 'class' && s.calls.length) { g.lineWidth = 3; g.strokeStyle = 'rgba(255,255,255,.8)'; g.strokeText(text, (Math.max(a, low) + Math.min(b, high)) / 2, y + row.h / 2 + .5); }
        g.fillText(text, (Math.max(a, low) + Math.min(b, high)) / 2, y + row.h / 2 + .5);
      }
    }
    if ((selected && s.op === selected.op && s.rank === selected.rank) || s === hovered) {
      g.strokeStyle = css('--fg');
      g.lineWidth = s === selected ? 3 : 2;
      g.strokeRect(a, y + .5, Math.max(2, wide), row.h - 1);
      g.lineWidth = 1;
    }
  }
  g.restore();
}

// --- what is under the pointer -----------------------------------------------------------------
function spanAt(px, py) {
  if (py < AXIS || px < LEFT) return null;
  const y = py - AXIS + view.scrollTop;
  const row = rows.find((r) => y >= r.y && y < r.y + r.h);
  if (!row) return null;
  const slack = (to - from) / width() * 2, t = timeAt(px);
  let best = null;
  for (const s of row.list) {
    if (s.ready > t + slack) break;
    const begin = row.kind === 'comm' ? s.ready : s.started;
    if (begin - slack <= t && s.ended + slack >= t && (!best || s.started <= t)) best = s;
  }
  return best && {row, span: best};
}
function describe(row, s) {
  const op = data.ops[s.op];
  const lines = [(op.comm !== undefined ? '' : 'op ') + op.name + '   (rank ' + row.rank + ', ' + sides[row.side] + ')'];
  const facts = ['op ' + s.op, PHASE_WORDS[op.phase] || op.phase];
  if (op.mb >= 0) facts.push('microbatch ' + op.mb);
  if (op.stage >= 0) facts.push('stage ' + op.stage);
  if (op.layer >= 0) facts.push('layer ' + op.layer);
  if (op.comm !== undefined) facts.push('communicator ' + data.communicators[op.comm]);
  if (op.bytes) facts.push(bytesText(op.bytes));
  lines.push(facts.join(', '));
  lines.push((op.comm !== undefined ? 'transfer ' : 'takes ') + timeText(s.ended - s.started) +
    (op.comm !== undefined ? ', waiting before ' + timeText(s.started - s.ready) : '') +
    '; starts at ' + timeText(s.started) + ', issued at ' + timeText(s.issued));
  const other = sides.length > 1 ? data.timelines[1 - row.side].ranks.find((r) => r.rank === row.rank) : null;
  const twin = other && other.byOp.get(s.op);
  if (twin) {
    const own = s.ended - s.started, its = twin.ended - twin.started;
    const p = row.side === 0 ? own : its, m = row.side === 0 ? its : own;
    lines.push(sides[1 - row.side] + ': ' + timeText(its) + ', starts at ' + timeText(twin.started) +
      (m > 0 ? '; predicted / measured - 1 = ' + (100 * (p / m - 1)).toFixed(1) + ' %' : ''));
  }
  if (s.calls.length) lines.push(s.calls.map((c) => op.kernels[c.call] + ' ' + timeText(c.ended - c.started)).join('; '));
  return lines.join('\n');
}
function select(hit) {
  selected = hit && hit.span;
  $('detail').textContent = hit ? describe(hit.row, hit.span) : 'Nothing is selected.';
  root.dataset.selected = hit ? String(hit.span.op) : '';
  redraw();
}
function zoom(factor, centre) {
  const c = centre === undefined ? (from + to) / 2 : centre;
  const size = Math.min(length, Math.max((to - from) * factor, 10));
  const part = (c - from) / (to - from);
  setWindow(c - part * size, size);
}
function setWindow(start, size) {
  from = Math.min(Math.max(0, start), length - size);
  to = from + size;
  redraw();
}
function step(by) {  // the span beside the selected one on its row
  const row = rows.find((r) => selected && r.list.includes(selected) && r.kind === 'compute') ||
    rows.find((r) => selected && r.list.includes(selected)) || rows[0];
  if (!row || !row.list.length) return;
  const at = selected ? row.list.indexOf(selected) + by : 0;
  const s = row.list[Math.min(row.list.length - 1, Math.max(0, at))];
  select({row, span: s});
  if (s.started < from || s.ended > to) setWindow(s.started - (to - from) / 4, to - from);
}
function changeRow(by) {  // the same moment on the next row
  const at = rows.findIndex((r) => selected && r.list.includes(selected) && r.kind === 'compute');
  const t = selected ? (selected.started + selected.ended) / 2 : from;
  for (let i = (at < 0 ? 0 : at) + by; i >= 0 && i < rows.length; i += by) {
    if (rows[i].kind !== 'compute' && !expanded) continue;
    const s = rows[i].list.reduce((best, one) => !best || Math.abs(one.started - t) < Math.abs(best.started - t) ? one : best, null);
    if (!s) continue;
    if (rows[i].y < view.scrollTop || rows[i].y > view.scrollTop + view.clientHeight - 80) view.scrollTop = rows[i].y - 60;
    select({row: rows[i], span: s});
    return;
  }
}

let drag = null;
canvas.addEventListener('wheel', (e) => {
  if (!(e.ctrlKey || e.metaKey || e.shiftKey)) return;  // a plain wheel scrolls
  e.preventDefault();
  if (e.shiftKey) setWindow(from + (e.deltaY || e.deltaX) / width() * (to - from), to - from);
  else zoom(Math.exp(e.deltaY * 0.002), timeAt(e.offsetX));
}, {passive: false});
canvas.addEventListener('pointerdown', (e) => { drag = {x: e.clientX, from, moved: false}; view.focus({preventScroll: true}); });
window.addEventListener('pointermove', (e) => {
  if (!drag) return;
  if (Math.abs(e.clientX - drag.x) > 3) drag.moved = true;
  if (drag.moved) setWindow(drag.from - (e.clientX - drag.x) / (width() - LEFT - RIGHT) * (to - from), to - from);
});
window.addEventListener('pointerup', (e) => {
  if (drag && !drag.moved && e.target === canvas) select(spanAt(e.offsetX, e.offsetY));
  drag = null;
});
canvas.addEventListener('dblclick', (e) => zoom(0.4, timeAt(e.offsetX)));
canvas.addEventListener('mousemove', (e) => {
  const hit = drag && drag.moved ? null : spanAt(e.offsetX, e.offsetY);
  if ((hit && hit.span) !== hovered) { hovered = hit && hit.span; redraw(); }
  tip.hidden = !hit;
  if (!hit) return;
  tip.textContent = describe(hit.row, hit.span);
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.min(e.clientX + 14, window.innerWidth - box.width - 8) + 'px';
  tip.style.top = (e.clientY + box.height + 22 > window.innerHeight ? e.clientY - box.height - 10 : e.clientY + 16) + 'px';
});
canvas.addEventListener('mouseleave', () => { tip.hidden = true; hovered = null; redraw(); });
view.addEventListener('scroll', redraw);
view.addEventListener('keydown', (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey) return;
  const pan = (part) => setWindow(from + part * (to - from), to - from);
  const keys = {ArrowLeft: () => pan(-.15), ArrowRight: () => pan(.15), a: () => pan(-.15), d: () => pan(.15),
    '+': () => zoom(.7), '=': () => zoom(.7), w: () => zoom(.7), '-': () => zoom(1 / .7), s: () => zoom(1 / .7),
    '0': () => setWindow(0, length), Home: () => setWindow(0, length),
    n: () => step(1), p: () => step(-1), j: () => changeRow(1), k: () => changeRow(-1), Escape: () => select(null)};
  if (!keys[e.key]) return;
  e.preventDefault();
  keys[e.key]();
});
$('zoom-in').addEventListener('click', () => zoom(.6));
$('zoom-out').addEventListener('click', () => zoom(1 / .6));
$('fit').addEventListener('click', () => setWindow(0, length));
$('colours').addEventListener('change', (e) => { colours = e.target.value; legend(); redraw(); });
$('streams').addEventListener('change', (e) => { expanded = e.target.value === 'all'; layout(); redraw(); });
$('shown').addEventListener('change', (e) => { shown = e.target.value; layout(); redraw(); });
$('theme').addEventListener('click', () => {
  const dark = root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  root.dataset.theme = dark ? 'light' : 'dark';
  redraw();
  drawMemory();
});

function key(colour, text, wait) {
  const span = document.createElement('span'), i = document.createElement('i');
  if (wait) i.className = 'wait'; else i.style.background = colour;
  span.append(i, text);
  return span;
}
function legend() {
  const box = $('legend');
  box.replaceChildren();
  const used = new Set();
  for (const op of Object.values(data.ops)) {
    if (op.comm !== undefined) continue;
    if (colours === 'phase') used.add(op.phase); else op.classes.forEach((c) => used.add(c));
  }
  const all = colours === 'phase' ? PHASES : CLASSES;
  for (const name of Object.keys(all)) if (used.has(name)) box.append(key(all[name], colours === 'phase' ? name + ' ' + PHASE_WORDS[name] : name));
  box.append(key('var(--transfer)', 'communication: transfer'), key('', 'communication: waiting for its members', true));
}

// --- memory ------------------------------------------------------------------------------------
// Live bytes of one rank over the step, stacked by class: predicted left, measured right.
const memoryCanvas = $('memory-canvas');
function drawMemory() {
  if (!memoryCanvas) return;
  const rank = Number($('memory-rank').value);
  const holders = data.timelines.map((t) => t.ranks.find((r) => r.rank === rank));
  const w = $('memory').clientWidth, h = 300;
  if (w < 200) return;
  const g = resize(memoryCanvas, w, h);
  const fg = css('--fg'), muted = css('--muted'), grid = css('--grid');
  g.fillStyle = css('--bg');
  g.fillRect(0, 0, w, h);
  g.font = '12px system-ui, "DejaVu Sans", sans-serif';
  const classes = data.classes, n = classes.length + 1;
  let peak = 1;
  for (const r of holders) for (let i = 0; r && i < r.memory.length; i += n) {
    let sum = 0;
    for (let c = 1; c < n; ++c) sum += r.memory[i + c];
    peak = Math.max(peak, sum);
  }
  const left = 78, top = 26, bottom = h - 40, gap = 26, panel = (w - left - 12 - gap * (holders.length - 1)) / holders.length;
  const y = (b) => bottom - b / (peak * 1.05) * (bottom - top);
  g.textBaseline = 'middle';
  for (const b of ticks(0, peak * 1.05, 5, 2)) {
    g.strokeStyle = grid;
    g.beginPath(); g.moveTo(left, Math.round(y(b)) + .5); g.lineTo(w - 12, Math.round(y(b)) + .5); g.stroke();
    g.fillStyle = muted; g.textAlign = 'right';
    g.fillText(bytesText(b), left - 6, y(b));
  }
  holders.forEach((r, side) => {
    const x0 = left + side * (panel + gap);
    const px = (t) => x0 + Math.min(1, Math.max(0, t / length)) * panel;
    g.fillStyle = fg; g.textAlign = 'left'; g.font = 'bold 12px system-ui, "DejaVu Sans", sans-serif';
    g.fillText(sides[side] + ', rank ' + rank, x0, 12);
    g.font = '12px system-ui, "DejaVu Sans", sans-serif';
    g.strokeStyle = muted;
    g.beginPath(); g.moveTo(x0 + .5, top); g.lineTo(x0 + .5, bottom + .5); g.lineTo(x0 + panel, bottom + .5); g.stroke();
    const unit = length >= 2e9 ? [1e9, 's'] : length >= 2e6 ? [1e6, 'ms'] : length >= 2e3 ? [1e3, 'us'] : [1, 'ns'];
    g.fillStyle = muted; g.textAlign = 'center';
    for (const t of ticks(0, length, Math.max(2, Math.floor(panel / 110)))) {
      g.beginPath(); g.moveTo(px(t) + .5, bottom); g.lineTo(px(t) + .5, bottom + 5); g.stroke();
      g.fillText(String(Number((t / unit[0]).toPrecision(6))), px(t), bottom + 14);
    }
    g.fillText('time in the step [' + unit[1] + ']', x0 + panel / 2, bottom + 31);
    if (!r || !r.memory.length) { g.fillText('no memory samples', x0 + panel / 2, (top + bottom) / 2); return; }
    const count = r.memory.length / n, sums = new Float64Array(count);
    for (let c = 1; c < n; ++c) {
      g.fillStyle = MEMORY[data.class_index[c - 1]];
      g.beginPath();
      const upper = new Float64Array(count);
      for (let i = 0; i < count; ++i) upper[i] = sums[i] + r.memory[i * n + c];
      g.moveTo(px(r.memory[0]), y(upper[0]));
      for (let i = 0; i < count; ++i) {
        g.lineTo(px(r.memory[i * n]), y(upper[i]));
        g.lineTo(px(i + 1 < count ? r.memory[(i + 1) * n] : length), y(upper[i]));
      }
      for (let i = count - 1; i >= 0; --i) {
        g.lineTo(px(i + 1 < count ? r.memory[(i + 1) * n] : length), y(sums[i]));
        g.lineTo(px(r.memory[i * n]), y(sums[i]));
      }
      g.fill();
      sums.set(upper);
    }
  });
  const box = $('memory-legend');
  box.replaceChildren();
  classes.forEach((name, i) => box.append(key(MEMORY[data.class_index[i]], name)));
}
if (memoryCanvas) {
  const choose = $('memory-rank');
  for (const r of data.timelines[0].ranks) choose.append(new Option('rank ' + r.rank, r.rank));
  choose.addEventListener('change', drawMemory);
}

layout();
legend();
draw();
drawMemory();
window.addEventListener('resize', () => { redraw(); drawMemory(); });
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => { redraw(); drawMemory(); });
root.dataset.ready = 'yes';

// --- #selftest: exercises every handler as a user would, for the headless test ------------------
if (location.hash === '#selftest') {
  const failures = [];
  const expect = (ok, what) => { if (!ok) failures.push(what); };
  const press = (k) => view.dispatchEvent(new KeyboardEvent('keydown', {key: k, bubbles: true, cancelable: true}));
  const mouse = (type, px, py, more) => canvas.dispatchEvent(new (type.startsWith('pointer') ? PointerEvent : type === 'wheel' ? WheelEvent : MouseEvent)(type,
    {bubbles: true, cancelable: true, clientX: canvas.getBoundingClientRect().left + px, clientY: canvas.getBoundingClientRect().top + py, ...more}));
  try {
    const full = to - from;
    press('+'); expect(to - from < full, 'the + key zooms in');
    const small = to - from;
    press('ArrowRight'); expect(Math.abs(to - from - small) < 1 && from > 0, 'the right arrow pans');
    press('-'); expect(to - from > small, 'the - key zooms out');
    press('0'); expect(from === 0 && to === length, '0 shows the whole step');
    mouse('wheel', LEFT + 300, 60, {deltaY: -200, ctrlKey: true}); expect(to - from < full, 'ctrl and wheel zoom');
    const before = from;
    mouse('pointerdown', 500, 60); mouse('pointermove', 440, 60); mouse('pointerup', 440, 60);
    expect(from > before, 'dragging pans');
    $('fit').click(); expect(to - from === full, 'the button fits');
    const row = rows.find((r) => r.kind === 'compute' && r.list.length);
    const s = row.list.reduce((a, b) => b.ended - b.started > a.ended - a.started ? b : a);
    const px = x((s.started + s.ended) / 2), py = row.y + row.h / 2 + AXIS - view.scrollTop;
    mouse('mousemove', px, py);
    expect(!tip.hidden && tip.textContent.includes('op ' + s.op), 'the tooltip names the op');
    mouse('pointerdown', px, py); mouse('pointerup', px, py);
    expect($('detail').textContent.includes('op ' + s.op), 'a click selects the op');
    if (sides.length > 1) expect($('detail').textContent.includes('predicted / measured'), 'the detail compares both sides');
    press('n'); press('j');
    expect(selected !== s, 'n and j move the selection');
    press('Escape'); expect(selected === null, 'Escape drops the selection');
    for (const id of ['colours', 'streams', 'shown']) {
      for (const option of [...$(id).options].reverse()) {
        $(id).value = option.value;
        $(id).dispatchEvent(new Event('change'));
        draw();
        expect(rows.length > 0, id + ' ' + option.value);
      }
    }
    $('theme').click(); draw(); $('theme').click(); draw();
    root.removeAttribute('data-theme');
    expect($('legend').children.length >= 3, 'there is a legend');
    mouse('mouseleave', 0, 0);
    const began = performance.now();
    for (let i = 0; i < 5; ++i) draw();
    root.dataset.frameMs = ((performance.now() - began) / 5).toFixed(1);
    setWindow(0, length);
    draw();
  } catch (error) {
    failures.push(String(error));
  }
  root.dataset.selftest = failures.length ? failures.join('; ') : 'ok';
}
})();
