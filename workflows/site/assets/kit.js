/* Elements, numbers and words that all pages use. Names that people gave become text nodes, never markup. */
"use strict";
const IG = (window.IG = window.IG || {});

(() => {
  const SVG = "http://www.w3.org/2000/svg";

  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (name === "value") element.value = value;
      else if (name === "checked") element.checked = true;
      else element.setAttribute(name, value === true ? "" : value);
    }
    for (const child of children.flat(Infinity)) {
      if (child !== null && child !== undefined && child !== false) element.append(child);
    }
    return element;
  }
  IG.h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
  IG.s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

  /* Rounds halves to even, as Python does: the page shows the digits that the terminal shows. */
  IG.fixed = (value, digits) => {
    const ties = Math.abs(value) * 2 ** (digits + 1);
    if (Number.isInteger(ties) && ties % 2 === 1 && ties < 2 ** 52) {
      const below = Math.floor(Math.abs(value) * 10 ** digits);
      const even = below % 2 ? below + 1 : below;
      return (value < 0 && even ? "-" : "") + (even / 10 ** digits).toFixed(digits);
    }
    return value.toFixed(digits);
  };
  const known = (value) => typeof value === "number" && Number.isFinite(value);
  IG.percent = (share) => {
    if (!known(share)) return "–";
    const hundredths = 100 * share;
    return `${hundredths > 0 && hundredths < 9.95 ? IG.fixed(hundredths, 1) : IG.fixed(hundredths, 0)} %`;
  };
  IG.frequency = (share) => (!known(share) ? "–" : share > 0 && share < 0.005 ? "<.01" : IG.fixed(share, 2));
  IG.ratio = (value) => {
    if (!known(value)) return "–";
    const text = IG.fixed(Math.abs(value), Math.abs(value) < 9.995 ? 2 : 1);
    return value < 0 && Number(text) > 0 ? `−${text}` : text;
  };
  IG.count = (value) => (known(value) ? value.toLocaleString("en-US", { maximumFractionDigits: 0 }) : "–");
  IG.number = (value, digits) => (known(value) ? IG.fixed(value, digits).replace("-", "−") : "–");

  /* A name that people gave: at most three lines, whole on hover, in its own direction of writing. */
  IG.clamped = (name) => IG.h("bdi", { class: "clamp", title: name }, name);
  /* As much of a text as fits a width, in pixels of an SVG. */
  const measure = document.createElement("canvas").getContext("2d");
  IG.fitted = (text, width, font) => {
    measure.font = `${font} system-ui, sans-serif`;
    if (measure.measureText(text).width <= width) return text;
    const letters = Array.from(text);
    let low = 0, high = letters.length;
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (measure.measureText(`${letters.slice(0, middle).join("")}…`).width <= width) low = middle;
      else high = middle - 1;
    }
    return `${letters.slice(0, low).join("")}…`;
  };
  IG.className = (label) => IG.side.className(label);
  IG.title = (layer) => IG.side.title(layer);
  IG.unit = () => IG.overview.run.unit;
  IG.tell = (text) => {
    document.getElementById("told").textContent = text;
  };
  IG.link = (hash, ...children) => IG.h("a", { href: hash }, ...children);

  /* A table whose rows are moved when a heading sorts them. Columns: {title, key, number, text, cell, hint}. */
  IG.table = (columns, rows, options) => {
    const opts = options || {};
    const body = IG.h("tbody");
    const made = rows.map((row) => ({
      row,
      element: IG.h("tr", null, columns.map((column) => {
        const cell = column.cell ? column.cell(row) : column.text(row);
        return IG.h(column.head ? "th" : "td", { class: column.number ? "number" : null, scope: column.head ? "row" : null }, cell);
      })),
    }));
    const show = (sorted) => body.append(...sorted.map((one) => one.element));
    const heads = columns.map((column) => {
      if (!column.key) return IG.h("th", { scope: "col", class: column.number ? "number" : null, title: column.hint }, column.title || IG.h("span", { class: "unseen" }, column.unseen));
      const button = IG.h("button", { type: "button", class: "sort", title: column.hint, onclick: () => sort(column, head) }, column.title);
      const head = IG.h("th", { scope: "col", class: column.number ? "number" : null }, button);
      return head;
    });
    let current = null;
    function sort(column, head, way) {
      const down = way || (current && current.column === column && current.way === 1 ? -1 : current && current.column === column ? 1 : column.number ? -1 : 1);
      current = { column, way: down };
      for (const one of heads) one.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down === 1 ? "ascending" : "descending");
      const missing = (value) => value === null || value === undefined || Number.isNaN(value);
      made.sort((a, b) => {
        const x = column.key(a.row), y = column.key(b.row);
        if (missing(x) || missing(y)) return missing(x) - missing(y);
        return down * (typeof x === "string" ? x.localeCompare(y) : x - y);
      });
      show(made);
      if (opts.sorted) opts.sorted(column.title, down);
    }
    show(made);
    const table = IG.h("table", { class: opts.class }, opts.caption ? IG.h("caption", null, opts.caption) : null, IG.h("thead", null, IG.h("tr", null, heads)), body);
    return { element: IG.h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": opts.caption || opts.label || "table" }, table), rows: made, sort: (title, way) => {
      const place = columns.findIndex((column) => column.title === title);
      if (place >= 0) sort(columns[place], heads[place], way);
    } };
  };

  /* Picture sheets: tile number `place` of a sheet as an element of some pixels. */
  IG.dataUri = (webp) => `data:image/webp;base64,${webp}`;
  IG.tileBox = (sheet, place, side) => {
    const [width, height] = sheet.size;
    const scale = side / Math.max(width, height);
    const box = IG.h("span", { class: "tile" });
    box.style.width = `${width * scale}px`;
    box.style.height = `${height * scale}px`;
    box.style.backgroundImage = `url("${IG.dataUri(sheet.webp)}")`;
    box.style.backgroundSize = `${sheet.columns * width * scale}px auto`;
    box.style.backgroundPosition = `${-(place % sheet.columns) * width * scale}px ${-Math.floor(place / sheet.columns) * height * scale}px`;
    if (Math.max(width, height) <= 48) box.classList.add("pixels");
    return box;
  };

  /* Inferno in nine colours: black never, bright as often as anywhere. */
  const INFERNO = [[0, 0, 4], [31, 12, 72], [85, 15, 109], [136, 34, 106], [186, 54, 85], [227, 89, 51], [249, 140, 10], [249, 201, 50], [252, 255, 164]];
  IG.heatColour = (level) => {
    const at = Math.min(Math.max(level, 0), 1) * (INFERNO.length - 1), low = Math.min(Math.floor(at), INFERNO.length - 2), part = at - low;
    return INFERNO[low].map((value, i) => Math.round(value + part * (INFERNO[low + 1][i] - value)));
  };
  IG.HEAT_GREY = [150, 155, 162];
  IG.heatUri = (heat) => {
    if (heat.uri) return heat.uri;
    const [rows, columns] = heat.size;
    const canvas = IG.h("canvas", { width: columns, height: rows }), context = canvas.getContext("2d"), image = context.createImageData(columns, rows);
    heat.levels.forEach((level, i) => image.data.set([...(level < 0 ? IG.HEAT_GREY : IG.heatColour(level / 99)), 255], 4 * i));
    context.putImageData(image, 0, 0);
    heat.uri = canvas.toDataURL("image/png");
    return heat.uri;
  };

  /* Themes: what the system prefers, unless the reader chose. */
  const KEY = "inference-graphs-theme";
  IG.theme = (chosen) => {
    try {
      if (chosen) localStorage.setItem(KEY, chosen);
      else chosen = localStorage.getItem(KEY);
    } catch (error) { /* storage may be forbidden */ }
    if (chosen) document.documentElement.dataset.theme = chosen;
    return document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  };
  IG.theme();
})();
