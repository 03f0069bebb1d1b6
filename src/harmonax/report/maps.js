"use strict";
// The maps. Points are drawn on plain canvases: Plotly's own way for so many needs WebGL, which remote desktops and
// print often lack, and compiles code at run time, which the page's policy forbids.
(() => {
  const data = JSON.parse(document.getElementById("points").textContent);
  const row = document.getElementById("map-row");
  if (!data || !row || !data.maps.length) return;
  const find = (id) => document.getElementById(id);

  // Of `pl/palette.py`; those of the levels come with their columns.
  const { numbers: NUMBERS, missing: ABSENT, dimmed: DIM, unexpressed: UNEXPRESSED, selection: SELECTION } = data.colours;
  const MISSING = 255, NOWHERE = 65535;

  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const wide = (text) => new Uint16Array(bytes(text).buffer);
  const say = (x) => (Math.abs(x) >= 1e5 || (x !== 0 && Math.abs(x) < 1e-3) ? x.toExponential(2) : String(+x.toPrecision(4)));
  const count = (n) => n.toLocaleString("en");
  const make = (tag, name, text) => {
    const node = document.createElement(tag);
    if (name) node.className = name;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const mix = (a, b, t) => {
    const part = (hex, i) => parseInt(hex.slice(i, i + 2), 16);
    return "#" + [1, 3, 5].map((i) => Math.round(part(a, i) * (1 - t) + part(b, i) * t).toString(16).padStart(2, "0")).join("");
  };
  const ramp = (stops) => Array.from({ length: MISSING }, (_, i) => {
    const at = (i / (MISSING - 1)) * (stops.length - 1), k = Math.min(Math.floor(at), stops.length - 2);
    return mix(stops[k], stops[k + 1], at - k);
  });

  const state = { column: null, hidden: new Set(), only: null, hover: null, selected: null, size: 3, opacity: 0.8, tool: "box", touch: false,
    labels: null };
  // Whatever can be shown, and the one or two maps that show it.
  const embeddings = [...data.maps, ...data.others];
  const maps = data.maps.map((_, i) => ({ source: i }));
  const whole = () => ({ x: -0.03, y: -0.03, w: 1.06 });
  function show(map, source) {
    const about = embeddings[source];
    about.wide ||= [wide(about.x), wide(about.y)];
    Object.assign(map, { source, about, x: about.wide[0], y: about.wide[1], view: whole(), bins: null });
  }
  maps.forEach((map, i) => show(map, i));
  const shown = () => maps.filter((map) => !map.figure.hidden);

  // --- what is drawn -------------------------------------------------------------------------------------------
  function paletteOf(column) {
    if (column.kind === "number" && !column.colours) {
      column.colours = ramp(column.low_on_top ? NUMBERS : NUMBERS.slice().reverse());
      if (column.gene) column.colours[0] = UNEXPRESSED;
    }
    return column.colours;
  }
  const codesOf = (column) => (column.bytes ||= bytes(column.codes));

  // 0: not drawn, 1: in the background, 2: in its colour, 3: without a label, before the others.
  function layers() {
    const codes = codesOf(state.column), level = new Uint8Array(data.n).fill(2), category = state.column.kind === "category";
    const only = state.hover ?? state.only, grey = new Set(state.column.unlabelled);
    for (let i = 0; i < data.n; i++) {
      const code = codes[i];
      if (category && state.hidden.has(code)) level[i] = 0;
      else if (code === MISSING || (state.selected && !state.selected[i]) || (category && only !== null && code !== only)) level[i] = 1;
      else if (category && code !== only && grey.has(code)) level[i] = 3;
    }
    return level;
  }

  // Cells come in random order. Runs of one colour draw fast; several passes keep the order random enough.
  function order(level) {
    const codes = codesOf(state.column), number = state.column.kind === "number", passes = number ? 1 : Math.min(16, data.n);
    const runs = [{ colour: null, cells: [] }, { colour: ABSENT, cells: [] }];
    for (let i = 0; i < data.n; i++) if (level[i] % 2) runs[level[i] === 1 ? 0 : 1].cells.push(i);
    const colours = paletteOf(state.column);
    for (let p = 0; p < passes; p++) {
      const from = Math.floor((p * data.n) / passes), to = Math.floor(((p + 1) * data.n) / passes), held = new Map();
      for (let i = from; i < to; i++) {
        if (level[i] !== 2) continue;
        if (!held.has(codes[i])) held.set(codes[i], []);
        held.get(codes[i]).push(i);
      }
      const keys = [...held.keys()];
      if (number) keys.sort((a, b) => (state.column.low_on_top ? b - a : a - b));
      for (const code of keys) runs.push({ colour: colours[code], cells: held.get(code) });
    }
    return runs;
  }

  function place(map, i) {
    const side = map.side, v = map.view;
    return [((map.x[i] / 65534 - v.x) / v.w) * side, (1 - (map.y[i] / 65534 - v.y) / v.w) * side];
  }

  function draw() {
    const runs = order(layers());
    for (const map of shown()) drawMap(map, runs);
    drawOver();
  }

  function drawMap(map, runs) {
    const ratio = Math.max(window.devicePixelRatio || 1, 2), side = map.box.clientWidth || 400;
    map.side = side;
    if (map.canvas.width !== Math.round(side * ratio)) {
      for (const canvas of [map.canvas, map.over]) canvas.width = canvas.height = Math.round(side * ratio);
    }
    const pen = map.canvas.getContext("2d"), size = state.size * Math.min(2.5, 1 / Math.sqrt(map.view.w)), round = data.n <= 30000;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, side, side);
    for (const run of runs) {
      pen.fillStyle = run.colour || (state.selected || state.only !== null ? DIM : ABSENT);
      pen.globalAlpha = run.colour ? state.opacity : 1;
      for (const i of run.cells) {
        if (map.x[i] === NOWHERE) continue;
        const [x, y] = place(map, i);
        if (x < -9 || y < -9 || x > side + 9 || y > side + 9) continue;
        if (!round) { pen.fillRect(x - size / 2, y - size / 2, size, size); continue; }
        pen.beginPath();
        pen.arc(x, y, size / 2, 0, 7);
        pen.fill();
      }
    }
    pen.globalAlpha = 1;
    if (labelled()) names(map, pen);
  }

  // Islands have names where clusters or labels are shown, or where somebody wants them.
  const labelled = () => state.column.kind === "category" && (state.labels ?? state.column.group === "Clusters and labels");

  // A level's name stands where most of its cells are: in its densest square, as the mean may lie between islands.
  const SQUARES = 24;
  function centres(map) {
    const codes = codesOf(state.column), held = new Map();
    for (let i = 0; i < data.n; i++) {
      if (map.x[i] === NOWHERE || codes[i] === MISSING) continue;
      const square = Math.floor(map.x[i] / 65535 * SQUARES) * SQUARES + Math.floor(map.y[i] / 65535 * SQUARES);
      if (!held.has(codes[i])) held.set(codes[i], new Map());
      const of = held.get(codes[i]), sums = of.get(square) || [0, 0, 0];
      of.set(square, [sums[0] + 1, sums[1] + map.x[i], sums[2] + map.y[i]]);
    }
    return [...held].map(([code, of]) => {
      const [n, x, y] = [...of.values()].reduce((a, b) => (b[0] > a[0] ? b : a));
      return { code, x: x / n / 65534, y: y / n / 65534 };
    });
  }
  function names(map, pen) {
    if (map.named !== state.column || map.namedFrom !== map.source) Object.assign(map, { named: state.column, namedFrom: map.source, centres: centres(map) });
    const only = state.hover ?? state.only, taken = [], column = state.column, v = map.view;
    pen.font = "600 12px system-ui, sans-serif";
    Object.assign(pen, { textAlign: "center", textBaseline: "middle", lineJoin: "round", lineWidth: 3.5, strokeStyle: "#fff", fillStyle: "#111" });
    const wanted = map.centres.filter((c) => !state.hidden.has(c.code) && (only === null || c.code === only) && !column.unlabelled.includes(c.code));
    for (const c of wanted.sort((a, b) => column.counts[b.code] - column.counts[a.code])) {
      const name = column.levels[c.code], text = name.length > 24 ? name.slice(0, 23) + "…" : name, half = pen.measureText(text).width / 2 + 2;
      const x = Math.min(map.side - half, Math.max(half, ((c.x - v.x) / v.w) * map.side)), y = (1 - (c.y - v.y) / v.w) * map.side;
      // A name that would cover another is left out; zooming in makes room for it.
      if (y < 8 || y > map.side - 8 || taken.some((t) => Math.abs(t.y - y) < 14 && Math.abs(t.x - x) < t.half + half)) continue;
      taken.push({ x, y, half });
      pen.strokeText(text, x, y);
      pen.fillText(text, x, y);
    }
    map.box.dataset.names = String(taken.length);
  }

  let pointed = -1, dragged = null;
  function drawOver() {
    for (const map of shown()) {
      const pen = map.over.getContext("2d"), ratio = map.over.width / map.side;
      pen.setTransform(ratio, 0, 0, ratio, 0, 0);
      pen.clearRect(0, 0, map.side, map.side);
      if (pointed >= 0 && map.x[pointed] !== NOWHERE) {
        const [x, y] = place(map, pointed);
        for (const [width, colour] of [[5, "#fff"], [2.5, "#111"]]) {
          pen.lineWidth = width; pen.strokeStyle = colour;
          pen.beginPath(); pen.arc(x, y, 7, 0, 7); pen.stroke();
        }
      }
      if (dragged && dragged.map === map) {
        Object.assign(pen, { fillStyle: SELECTION + "1f", strokeStyle: SELECTION, lineWidth: 1.5 });
        pen.beginPath();
        for (const [x, y] of outline(dragged)) pen.lineTo(x, y);
        pen.closePath(); pen.fill(); pen.stroke();
      }
    }
  }
  const outline = (drag) => {
    if (state.tool === "lasso") return drag.path;
    const [[x, y], [u, v]] = [drag.path[0], drag.path.at(-1)];
    return [[x, y], [u, y], [u, v], [x, v]];
  };

  // --- pointing, selecting, moving -----------------------------------------------------------------------------
  const BINS = 100;
  function nearest(map, x, y) {
    if (!map.bins) {
      map.bins = new Map();
      for (let i = 0; i < data.n; i++) {
        const key = Math.floor(map.x[i] / 65535 * BINS) * 1000 + Math.floor(map.y[i] / 65535 * BINS);
        if (!map.bins.has(key)) map.bins.set(key, []);
        map.bins.get(key).push(i);
      }
    }
    const v = map.view, fx = v.x + (x / map.side) * v.w, fy = v.y + (1 - y / map.side) * v.w, reach = (10 / map.side) * v.w;
    let best = -1, least = 100;
    for (let a = Math.floor((fx - reach) * BINS); a <= Math.floor((fx + reach) * BINS); a++) {
      for (let b = Math.floor((fy - reach) * BINS); b <= Math.floor((fy + reach) * BINS); b++) {
        for (const i of map.bins.get(a * 1000 + b) || []) {
          if (map.x[i] === NOWHERE || (state.column.kind === "category" && state.hidden.has(codesOf(state.column)[i]))) continue;
          const [px, py] = place(map, i), d = (px - x) ** 2 + (py - y) ** 2;
          if (d < least) { least = d; best = i; }
        }
      }
    }
    return best;
  }

  function valueOf(column, i) {
    const code = codesOf(column)[i];
    if (code === MISSING) return "missing";
    if (column.kind === "category") return column.levels[code];
    const value = column.low + (code / (MISSING - 1)) * (column.high - column.low);
    if (code === MISSING - 1 && column.above) return "at least " + say(column.high);
    return (code === 0 && column.below ? "at most " : "about ") + say(value);
  }

  function point(map, event) {
    const frame = map.box.getBoundingClientRect(), x = event.clientX - frame.left, y = event.clientY - frame.top;
    if (dragged) { dragged.path.push([x, y]); pointed = -1; map.tip.hidden = true; drawOver(); return; }
    pointed = nearest(map, x, y);
    map.tip.hidden = pointed < 0;
    if (pointed >= 0) {
      const told = [state.column, ...data.columns.filter((c) => c !== state.column && c.group === "Batch").slice(0, 2)];
      map.tip.replaceChildren(...told.map((c) => make("div", "", c.name + ": " + valueOf(c, pointed))));
      map.tip.style.left = Math.min(x + 12, map.side - 150) + "px";
      map.tip.style.top = (y > map.side - 70 ? y - 60 : y + 14) + "px";
    }
    drawOver();
  }

  function leave(map) { pointed = -1; map.tip.hidden = true; drawOver(); }

  // Select the drawn cells within a line around them, on one map.
  function enclose(map, line) {
    const xs = line.map((p) => p[0]), ys = line.map((p) => p[1]);
    const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    if (right - left < 4 && bottom - top < 4) { state.selected = null; return; }
    const level = layers();
    pick((i) => {
      if (level[i] === 0 || map.x[i] === NOWHERE) return false;
      const [x, y] = place(map, i);
      if (x < left || x > right || y < top || y > bottom) return false;
      let within = false;
      for (let a = 0, b = line.length - 1; a < line.length; b = a++) {
        const [[ax, ay], [bx, by]] = [line[a], line[b]];
        if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) within = !within;
      }
      return within;
    });
  }
  function pick(is) {
    const chosen = new Uint8Array(data.n);
    for (let i = 0; i < data.n; i++) chosen[i] = is(i) ? 1 : 0;
    state.selected = chosen.includes(1) ? chosen : null;
  }
  const inView = (map) => enclose(map, [[0, 0], [map.side, 0], [map.side, map.side], [0, map.side]]);

  function zoomTo(map, cells) {
    let [a, b, c, d] = [1, 1, 0, 0];
    for (const i of cells) {
      if (map.x[i] === NOWHERE) continue;
      const x = map.x[i] / 65534, y = map.y[i] / 65534;
      a = Math.min(a, x); b = Math.min(b, y); c = Math.max(c, x); d = Math.max(d, y);
    }
    if (c < a) return;
    const w = Math.max(c - a, d - b, 0.02) * 1.08;
    map.view = { x: (a + c - w) / 2, y: (b + d - w) / 2, w };
  }
  function scale(map, by, x = 0.5, y = 0.5) {
    const v = map.view, w = Math.min(1.06, Math.max(0.01, v.w * by));
    map.view = { x: v.x + (v.w - w) * x, y: v.y + (v.w - w) * y, w };
  }
  function key(map, event) {
    const v = map.view, step = v.w / 10;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
    if (event.target !== map.box || event.ctrlKey || event.metaKey || event.altKey) return;
    if (moves[event.key]) { v.x += moves[event.key][0]; v.y += moves[event.key][1]; }
    else if (event.key === "+" || event.key === "=") scale(map, 0.8);
    else if (event.key === "-") scale(map, 1.25);
    else if (event.key === "0") map.view = whole();
    else if (event.key === "Enter") inView(map);
    else if (event.key === "Escape") state.selected = null;
    else return;
    event.preventDefault();
    refresh();
  }

  // --- what is said --------------------------------------------------------------------------------------------
  function status() {
    const column = state.column, parts = ["Coloured by " + column.name + "."];
    if (state.only !== null) parts.push("Highlighted: " + column.levels[state.only] + ".");
    if (state.hidden.size) parts.push(count(state.hidden.size) + " of " + count(column.levels.length) + " levels hidden.");
    if (state.selected) {
      const tally = new Map(), codes = codesOf(column);
      let n = 0;
      state.selected.forEach((on, i) => { if (on) { n++; tally.set(codes[i], (tally.get(codes[i]) || 0) + 1); } });
      let text = count(n) + " cells selected";
      if (column.kind === "category") {
        const top = [...tally].sort((a, b) => b[1] - a[1]).slice(0, 4);
        text += ": " + top.map(([code, k]) => (code === MISSING ? "missing" : column.levels[code]) + " " + Math.round((100 * k) / n) + "%").join(", ");
      }
      parts.push(text + ".");
    }
    find("map-status").textContent = parts.join(" ");
    for (const id of ["zoom", "clear", "barcodes"]) find(id).disabled = !state.selected;
    maps.forEach((map) => map.box.setAttribute("aria-label", map.about.title + ", map of cells coloured by " + column.name));
  }

  let waiting = false;
  function later() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  }
  function refresh() { status(); later(); }

  globalThis.cellMaps = { ABSENT, MISSING, codesOf, count, data, embeddings, enclose, find, inView, key, later, leave, make, maps, outline,
    paletteOf, pick, point, refresh, row, say, scale, show, shown, state, whole, zoomTo, get dragged() { return dragged; }, set dragged(d) { dragged = d; }, drawOver };
})();
