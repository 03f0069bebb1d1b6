"use strict";
// The maps. Points are drawn on plain canvases: Plotly's own way for so many needs WebGL, which remote desktops and
// print often lack, and compiles code at run time, which the page's policy forbids.
(() => {
  const data = JSON.parse(document.getElementById("points").textContent);
  const row = document.getElementById("map-row");
  if (!data || !row || !data.maps.length) return;
  const find = (id) => document.getElementById(id);

  // The table of `pl/palette.py`.
  const { levels: PALETTE, numbers: NUMBERS, missing: ABSENT, rare: OTHER, dimmed: DIM, unexpressed: UNEXPRESSED } = data.colours;
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

  const state = { column: null, hidden: new Set(), only: null, hover: null, selected: null, size: 3, opacity: 0.8 };
  const maps = data.maps.map((about) => ({ about, x: wide(about.x), y: wide(about.y), view: null, bins: null }));

  // --- what is drawn -------------------------------------------------------------------------------------------
  const palettes = new Map();
  function paletteOf(column) {
    if (palettes.has(column)) return palettes.get(column);
    let colours;
    if (column.kind === "number") {
      colours = ramp(column.low_on_top ? NUMBERS : NUMBERS.slice().reverse());
      if (column.gene) colours[0] = UNEXPRESSED;
    } else {
      const last = column.merged ? column.levels.length - 1 : -1;
      const ranked = column.levels.map((_, i) => i);
      if (ranked.length > PALETTE.length) ranked.sort((a, b) => (a === last) - (b === last) || column.counts[b] - column.counts[a]);
      colours = [];
      ranked.forEach((level, rank) => { colours[level] = rank < PALETTE.length && level !== last ? PALETTE[rank] : OTHER; });
    }
    palettes.set(column, colours);
    return colours;
  }
  const codesOf = (column) => (column.bytes ||= bytes(column.codes));

  // 0: not drawn, 1: in the background, 2: in its colour.
  function layers() {
    const codes = codesOf(state.column), level = new Uint8Array(data.n).fill(2), category = state.column.kind === "category";
    const only = state.hover ?? state.only;
    for (let i = 0; i < data.n; i++) {
      const code = codes[i];
      if (category && state.hidden.has(code)) level[i] = 0;
      else if (code === MISSING || (state.selected && !state.selected[i]) || (category && only !== null && code !== only)) level[i] = 1;
    }
    return level;
  }

  // Cells come in random order. Runs of one colour draw fast; several passes keep the order random enough.
  function order(level) {
    const codes = codesOf(state.column), number = state.column.kind === "number", passes = number ? 1 : Math.min(16, data.n);
    const runs = [{ colour: null, cells: [] }];
    for (let i = 0; i < data.n; i++) if (level[i] === 1) runs[0].cells.push(i);
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
    for (const map of maps) drawMap(map, runs);
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
  }

  let pointed = -1, dragged = null;
  function drawOver() {
    for (const map of maps) {
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
        pen.fillStyle = PALETTE[0] + "1f"; pen.strokeStyle = PALETTE[0]; pen.lineWidth = 1.5;
        const box = [dragged.x, dragged.y, dragged.u - dragged.x, dragged.v - dragged.y];
        pen.fillRect(...box); pen.strokeRect(...box);
      }
    }
  }

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
    if (dragged) { dragged.u = x; dragged.v = y; pointed = -1; map.tip.hidden = true; drawOver(); return; }
    pointed = nearest(map, x, y);
    map.tip.hidden = pointed < 0;
    if (pointed >= 0) {
      const shown = [state.column, ...data.columns.filter((c) => c !== state.column && c.group === "Batch").slice(0, 2)];
      map.tip.replaceChildren(...shown.map((c) => make("div", "", c.name + ": " + valueOf(c, pointed))));
      map.tip.style.left = Math.min(x + 12, map.side - 150) + "px";
      map.tip.style.top = (y > map.side - 70 ? y - 60 : y + 14) + "px";
    }
    drawOver();
  }

  function select(box) {
    const [left, right] = [Math.min(box.x, box.u), Math.max(box.x, box.u)], [top, bottom] = [Math.min(box.y, box.v), Math.max(box.y, box.v)];
    if (right - left < 4 && bottom - top < 4) { state.selected = null; return; }
    const chosen = new Uint8Array(data.n), level = layers();
    for (let i = 0; i < data.n; i++) {
      if (level[i] === 0 || box.map.x[i] === NOWHERE) continue;
      const [x, y] = place(box.map, i);
      chosen[i] = x >= left && x <= right && y >= top && y <= bottom ? 1 : 0;
    }
    state.selected = chosen.includes(1) ? chosen : null;
  }

  const whole = () => ({ x: -0.03, y: -0.03, w: 1.06 });
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
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (moves[event.key]) { v.x += moves[event.key][0]; v.y += moves[event.key][1]; }
    else if (event.key === "+" || event.key === "=") scale(map, 0.8);
    else if (event.key === "-") scale(map, 1.25);
    else if (event.key === "0") map.view = whole();
    else if (event.key === "Escape") state.selected = null;
    else return;
    event.preventDefault();
    refresh();
  }

  // --- the controls --------------------------------------------------------------------------------------------
  function legend() {
    const column = state.column, box = make("fieldset"), colours = paletteOf(column);
    if (column.kind === "number") {
      box.append(make("legend", "", column.name));
      const strip = make("div", "ramp");
      strip.style.background = "linear-gradient(to right, " + colours.filter((_, i) => i % 6 === 0).join(", ") + ")";
      const ends = make("div", "ends");
      ends.append(make("span", "", (column.below ? "≤ " : "") + say(column.low)), make("span", "", (column.above ? "≥ " : "") + say(column.high)));
      box.append(strip, ends);
      if (column.missing) box.append(make("p", "quiet", count(column.missing) + " cells without a value are grey."));
    } else {
      box.append(make("legend", "", "Levels of " + column.name + " (" + count(column.levels.length) + ")"));
      const buttons = make("span", "buttons");
      for (const [text, hide] of [["Show all", false], ["Hide all", true]]) {
        const button = make("button", "", text);
        button.type = "button";
        button.addEventListener("click", () => {
          state.hidden = new Set(hide ? column.levels.keys() : []);
          for (const input of box.querySelectorAll("input")) { input.checked = !hide; input.parentNode.classList.toggle("off", hide); }
          refresh();
        });
        buttons.append(button);
      }
      const list = make("ul", "levels");
      column.levels.forEach((name, i) => list.append(entry(column, name, i, colours[i])));
      box.append(buttons, list);
      const rare = colours.filter((c) => c === OTHER).length;
      if (rare > 1) box.append(make("p", "quiet", "The largest " + PALETTE.length + " levels have colours of their own; choose any other under Highlight."));
      if (column.missing) box.append(make("p", "quiet", count(column.missing) + " cells have no level and are grey."));
    }
    find("legend").replaceChildren(box);
  }

  function entry(column, name, i, colour) {
    const item = make("li"), label = make("label"), input = make("input"), swatch = make("span", "swatch");
    input.type = "checkbox";
    input.checked = !state.hidden.has(i);
    swatch.style.background = colour;
    const text = make("span", "name", name);
    text.title = name;
    input.addEventListener("change", () => {
      state.hidden[input.checked ? "delete" : "add"](i);
      label.classList.toggle("off", !input.checked);
      refresh();
    });
    label.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") { state.hover = i; later(); } });
    label.addEventListener("pointerleave", () => { if (state.hover !== null) { state.hover = null; later(); } });
    label.append(input, swatch, text, make("span", "count", count(column.counts[i])));
    item.append(label);
    return item;
  }

  function highlights() {
    const list = find("highlight"), category = state.column.kind === "category";
    list.disabled = !category;
    const names = category ? state.column.levels : [];
    list.replaceChildren(...[category ? "All levels" : "(not for numbers)", ...names].map((name, i) => new Option(name, String(i - 1))));
  }

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
    find("zoom").disabled = find("clear").disabled = !state.selected;
    maps.forEach((map) => map.box.setAttribute("aria-label", map.about.title + ", map of cells coloured by " + column.name));
  }

  let waiting = false;
  function later() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  }
  function refresh() { status(); later(); }

  function colourBy(i) {
    state.column = data.columns[i];
    Object.assign(state, { hidden: new Set(), only: null, hover: null });
    find("colour").value = String(i);
    legend(); highlights(); refresh();
  }

  function build() {
    for (const map of maps) {
      const figure = make("figure", "map"), caption = make("figcaption", "", map.about.title + " ");
      caption.append(make("small", "", map.about.key));
      map.box = make("div", "map-box");
      map.box.tabIndex = 0;
      map.box.setAttribute("role", "application");
      map.canvas = make("canvas");
      map.over = make("canvas", "over");
      map.tip = make("div", "tip");
      map.tip.hidden = true;
      map.view = whole();
      map.box.append(map.canvas, map.over, map.tip);
      figure.append(caption, map.box);
      row.append(figure);
      map.over.addEventListener("pointermove", (event) => point(map, event));
      map.over.addEventListener("pointerleave", () => { pointed = -1; map.tip.hidden = true; drawOver(); });
      map.over.addEventListener("pointerdown", (event) => {
        if (event.pointerType === "touch" || event.button) return;
        const frame = map.box.getBoundingClientRect(), x = event.clientX - frame.left, y = event.clientY - frame.top;
        map.over.setPointerCapture(event.pointerId);
        dragged = { map, x, y, u: x, v: y };
      });
      map.over.addEventListener("pointerup", () => { if (dragged) { const box = dragged; dragged = null; select(box); refresh(); } });
      map.over.addEventListener("pointercancel", () => { dragged = null; drawOver(); });
      map.over.addEventListener("wheel", (event) => {
        if (!event.ctrlKey) return;
        event.preventDefault();
        const frame = map.box.getBoundingClientRect();
        scale(map, event.deltaY > 0 ? 1.15 : 0.87, (event.clientX - frame.left) / map.side, 1 - (event.clientY - frame.top) / map.side);
        refresh();
      }, { passive: false });
      map.box.addEventListener("keydown", (event) => key(map, event));
    }
    const groups = new Map();
    data.columns.forEach((column, i) => {
      if (!groups.has(column.group)) {
        const group = make("optgroup");
        group.label = column.group;
        groups.set(column.group, group);
      }
      groups.get(column.group).append(new Option(column.name, String(i)));
    });
    find("colour").append(...groups.values());
    find("colour").addEventListener("change", (event) => colourBy(+event.target.value));
    find("highlight").addEventListener("change", (event) => { state.only = +event.target.value < 0 ? null : +event.target.value; refresh(); });
    state.size = Math.min(5, Math.max(1, 220 / Math.sqrt(data.n)));
    find("size").value = String(state.size);
    for (const name of ["size", "opacity"]) find(name).addEventListener("input", (event) => { state[name] = +event.target.value; later(); });
    find("clear").addEventListener("click", () => { state.selected = null; refresh(); });
    find("whole").addEventListener("click", () => { maps.forEach((map) => { map.view = whole(); }); refresh(); });
    find("zoom").addEventListener("click", () => {
      const cells = [];
      state.selected.forEach((on, i) => { if (on) cells.push(i); });
      maps.forEach((map) => zoomTo(map, cells));
      refresh();
    });
    for (const button of document.querySelectorAll("[data-colour]")) {
      const i = data.columns.findIndex((column) => column.name === button.dataset.colour);
      if (i < 0) button.disabled = true;
      button.addEventListener("click", () => {
        colourBy(i);
        document.getElementById("maps").scrollIntoView();
        find("colour").focus({ preventScroll: true });
      });
    }
    new ResizeObserver(later).observe(row);
  }

  build();
  if (!data.columns.length) {
    // Nothing to colour by is no reason to show nothing.
    data.columns.push({ name: "nothing", group: "Other columns", kind: "category", levels: ["cells"], counts: [data.total],
      missing: 0, merged: false, bytes: new Uint8Array(data.n) });
  } else find("map-tools").hidden = false;
  colourBy(0);
})();
