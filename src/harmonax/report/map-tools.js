"use strict";
// The controls of the maps: colours, genes, embeddings, selections, and what can be taken away.
(() => {
  const cells = globalThis.cellMaps;
  if (!cells) return;
  const { count, data, embeddings, find, later, make, maps, paletteOf, refresh, row, say, shown, state, whole } = cells;
  const on = (id, event, work) => find(id).addEventListener(event, work);
  const button = (text, says, work) => {
    const made = make("button", "", text);
    made.type = "button";
    if (says) made.setAttribute("aria-label", says);
    made.addEventListener("click", work);
    return made;
  };

  // --- colours -------------------------------------------------------------------------------------------------
  function legend() {
    const column = state.column, box = make("fieldset"), colours = paletteOf(column);
    if (column.kind === "number") {
      box.append(make("legend", "", column.name));
      const strip = make("div", "ramp"), ends = make("div", "ends");
      strip.style.background = "linear-gradient(to right, " + colours.filter((_, i) => i % 6 === 0).join(", ") + ")";
      ends.append(make("span", "", (column.below ? "≤ " : "") + say(column.low)), make("span", "", (column.above ? "≥ " : "") + say(column.high)));
      box.append(strip, ends);
      if (column.missing) box.append(make("p", "quiet", count(column.missing) + " cells without a value are grey."));
    } else {
      box.append(make("legend", "", "Levels of " + column.name + " (" + count(column.levels.length) + ")"));
      const buttons = make("span", "buttons"), list = make("ul", "levels");
      for (const [text, hide] of [["Show all", false], ["Hide all", true]]) {
        buttons.append(button(text, "", () => {
          state.hidden = new Set(hide ? column.levels.keys() : []);
          for (const input of box.querySelectorAll("input")) { input.checked = !hide; input.parentNode.classList.toggle("off", hide); }
          refresh();
        }));
      }
      list.dataset.name = "Levels of " + column.name;
      column.levels.forEach((name, i) => list.append(entry(column, name, i, colours[i])));
      box.append(buttons, list);
      const without = column.missing + column.unlabelled.reduce((sum, i) => sum + column.counts[i], 0);
      if (without) box.append(make("p", "quiet", count(without) + (without === 1 ? " cell without a label is" : " cells without a label are") + " grey, and behind the others."));
    }
    find("legend").replaceChildren(box);
  }

  function entry(column, name, i, colour) {
    const item = make("li"), label = make("label"), input = make("input"), swatch = make("span", "swatch"), text = make("span", "name", name);
    input.type = "checkbox";
    input.checked = !state.hidden.has(i);
    swatch.style.background = colour;
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

  function colourBy(i) {
    state.column = data.columns[i];
    Object.assign(state, { hidden: new Set(), only: null, hover: null, labels: null });
    find("colour").value = String(i);
    const category = state.column.kind === "category";
    find("labels").disabled = find("pick").disabled = !category;
    find("labels").checked = category && state.column.group === "Clusters and labels";
    legend(); highlights(); refresh();
  }

  // Of all that is in the page: the name itself, or what only one name begins with or holds.
  function search() {
    const text = find("search").value.trim().toLowerCase(), names = data.columns.map((column) => column.name.toLowerCase());
    if (!text) return;
    let at = names.indexOf(text);
    for (const like of [(name) => name.startsWith(text), (name) => name.includes(text)]) {
      const found = names.filter(like);
      if (at < 0 && found.length === 1) at = names.indexOf(found[0]);
    }
    if (at >= 0) { colourBy(at); return; }
    const like = data.columns.filter((column) => column.name.toLowerCase().includes(text)).map((column) => column.name);
    find("map-status").textContent = like.length
      ? "Several names hold “" + find("search").value + "”: " + like.slice(0, 8).join(", ") + (like.length > 8 ? " …" : "") + "."
      : "Nothing in this page is called “" + find("search").value + "”. It holds " + count(data.columns.filter((c) => c.gene).length) + " genes; others are named with --genes.";
  }

  // --- what is taken away --------------------------------------------------------------------------------------
  function save(blob, name) {
    const link = make("a");
    link.href = URL.createObjectURL(blob);
    link.download = name.replace(/[^\w.-]+/g, "-");
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  // The map as it is, on white, with its title and the legend beside it.
  function picture(map) {
    const column = state.column, side = map.side, ratio = map.canvas.width / side, wide = 230, top = 34, canvas = make("canvas");
    const entries = column.kind === "number" ? [] : column.levels.map((name, i) => [name, column.colours[i], i]).filter((e) => !state.hidden.has(e[2]));
    const fit = Math.floor((side - 30) / 18), pen = canvas.getContext("2d");
    canvas.width = (side + wide) * ratio; canvas.height = (side + top) * ratio;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.fillStyle = "#fff"; pen.fillRect(0, 0, side + wide, side + top);
    pen.drawImage(map.canvas, 0, top, side, side);
    pen.fillStyle = "#111"; pen.textBaseline = "middle";
    const write = (text, x, y, room, font) => { pen.font = font + " system-ui, sans-serif"; pen.fillText(text, x, y, room); };
    write(map.about.title + (map.about.title === map.about.key ? "" : " (" + map.about.key + ")"), 10, top / 2, side - 20, "600 15px");
    write(column.name, side + 12, top + 10, wide - 20, "600 13px");
    entries.slice(0, fit).forEach(([name, colour], k) => {
      const y = top + 32 + 18 * k;
      pen.fillStyle = colour; pen.beginPath(); pen.arc(side + 18, y, 5.5, 0, 7); pen.fill();
      pen.fillStyle = "#111"; write(name, side + 30, y, wide - 40, "12px");
    });
    if (entries.length > fit) write("and " + count(entries.length - fit) + " more", side + 30, top + 32 + 18 * fit, wide - 40, "12px");
    if (column.kind === "number") {
      column.colours.forEach((colour, i) => { pen.fillStyle = colour; pen.fillRect(side + 12 + i * 0.75, top + 24, 1, 14); });
      pen.fillStyle = "#111";
      write((column.below ? "≤ " : "") + say(column.low), side + 12, top + 50, 80, "12px");
      pen.textAlign = "right"; write((column.above ? "≥ " : "") + say(column.high), side + 204, top + 50, 80, "12px"); pen.textAlign = "left";
    }
    canvas.toBlob((blob) => save(blob, map.about.key + "-" + column.name + ".png"));
  }

  async function barcodes() {
    const packed = Uint8Array.from(atob(data.names), (c) => c.charCodeAt(0));
    const names = JSON.parse(await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"))).text());
    const chosen = names.filter((_, i) => state.selected[i]);
    save(new Blob([chosen.join("\n") + "\n"], { type: "text/plain" }), "barcodes.txt");
    find("map-status").textContent = "Saved the barcodes of " + count(chosen.length) + " cells" + (data.n < data.total ? ", of the " + count(data.n) + " that the maps show." : ".");
  }

  // --- building ------------------------------------------------------------------------------------------------
  function build(map, place) {
    const caption = make("figcaption", "map-head"), side = maps.length > 1 ? [" (left map)", " (right map)"][place] : "", buttons = make("span", "buttons");
    map.figure = make("figure", "map");
    map.box = make("div", "map-box");
    map.box.tabIndex = 0;
    map.box.setAttribute("role", "application");
    map.canvas = make("canvas");
    map.over = make("canvas", "over");
    map.tip = make("div", "tip");
    map.tip.hidden = true;
    map.box.append(map.canvas, map.over, map.tip);
    if (embeddings.length > 1) {
      const list = make("select");
      list.setAttribute("aria-label", "Embedding" + side);
      list.append(...embeddings.map((e, i) => new Option(e.title === e.key ? e.title : e.title + " (" + e.key + ")", String(i), i === map.source, i === map.source)));
      list.addEventListener("change", () => { cells.show(map, +list.value); refresh(); });
      caption.append(list);
    } else caption.append(make("span", "", map.about.title + " "), make("small", "", map.about.key));
    buttons.append(
      button("+", "Zoom in" + side, () => { cells.scale(map, 0.7); refresh(); }),
      button("−", "Zoom out" + side, () => { cells.scale(map, 1.4); refresh(); }),
      button("PNG", "Save this map as PNG" + side, () => picture(map)),
    );
    caption.append(buttons);
    map.figure.append(caption, map.box);
    row.append(map.figure);
    map.over.addEventListener("pointermove", (event) => cells.point(map, event));
    map.over.addEventListener("pointerleave", () => cells.leave(map));
    map.over.addEventListener("pointerdown", (event) => {
      // A finger scrolls the page, until a way of selecting was chosen.
      if ((event.pointerType === "touch" && !state.touch) || event.button) return;
      const frame = map.box.getBoundingClientRect(), x = event.clientX - frame.left, y = event.clientY - frame.top;
      map.over.setPointerCapture(event.pointerId);
      cells.dragged = { map, path: [[x, y], [x, y]] };
    });
    map.over.addEventListener("pointerup", () => {
      if (!cells.dragged) return;
      const line = cells.outline(cells.dragged);
      cells.dragged = null;
      cells.enclose(map, line);
      refresh();
    });
    map.over.addEventListener("pointercancel", () => { cells.dragged = null; cells.drawOver(); });
    map.over.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      const frame = map.box.getBoundingClientRect();
      cells.scale(map, event.deltaY > 0 ? 1.15 : 0.87, (event.clientX - frame.left) / map.side, 1 - (event.clientY - frame.top) / map.side);
      refresh();
    }, { passive: false });
    map.box.addEventListener("keydown", (event) => cells.key(map, event));
  }

  function connect() {
    const groups = new Map();
    data.columns.forEach((column, i) => {
      if (!groups.has(column.group)) {
        groups.set(column.group, make("optgroup"));
        groups.get(column.group).label = column.group;
      }
      groups.get(column.group).append(new Option(column.name, String(i)));
    });
    find("colour").append(...groups.values());
    find("found").append(...data.columns.map((column) => new Option(column.name)));
    on("colour", "change", (event) => colourBy(+event.target.value));
    on("search", "change", search);
    on("highlight", "change", (event) => { state.only = +event.target.value < 0 ? null : +event.target.value; refresh(); });
    on("labels", "change", (event) => { state.labels = event.target.checked; later(); });
    on("tool", "change", (event) => { Object.assign(state, { tool: event.target.value, touch: true }); row.classList.add("touch"); });
    if (maps.length < 2) find("layout").closest("label").hidden = true;
    on("layout", "change", (event) => {
      if (maps[1]) maps[1].figure.hidden = event.target.value === "1";
      row.classList.toggle("one", event.target.value === "1");
      refresh();
    });
    state.size = Math.min(5, Math.max(1, 220 / Math.sqrt(data.n)));
    find("size").value = String(state.size);
    for (const name of ["size", "opacity"]) on(name, "input", (event) => { state[name] = +event.target.value; later(); });
    on("pick", "click", () => {
      const codes = cells.codesOf(state.column);
      cells.pick((i) => (state.only === null ? codes[i] !== cells.MISSING && !state.hidden.has(codes[i]) : codes[i] === state.only));
      refresh();
    });
    on("clear", "click", () => { state.selected = null; refresh(); });
    on("whole", "click", () => { maps.forEach((map) => { map.view = whole(); }); refresh(); });
    on("zoom", "click", () => {
      const chosen = [];
      state.selected.forEach((is, i) => { if (is) chosen.push(i); });
      maps.forEach((map) => cells.zoomTo(map, chosen));
      refresh();
    });
    on("barcodes", "click", barcodes);
    find("barcodes").hidden = !data.names;
    for (const link of document.querySelectorAll("[data-colour]")) {
      const i = data.columns.findIndex((column) => column.name === link.dataset.colour);
      if (i < 0) link.disabled = true;
      link.addEventListener("click", () => {
        colourBy(i);
        document.getElementById("maps").scrollIntoView();
        find("colour").focus({ preventScroll: true });
      });
    }
    new ResizeObserver(later).observe(row);
  }

  maps.forEach(build);
  connect();
  if (!data.columns.length) {
    // With nothing to colour by the map is still shown.
    data.columns.push({ name: "nothing", group: "Other columns", kind: "category", levels: ["cells"], counts: [data.total], colours: [cells.ABSENT],
      unlabelled: [], missing: 0, merged: false, bytes: new Uint8Array(data.n) });
  } else find("map-tools").hidden = find("selection-tools").hidden = false;
  colourBy(0);
})();
