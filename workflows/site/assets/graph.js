/* A graph as SVG: the class on top, words below it in their layers, focusable, with zoom and pan. */
"use strict";
(() => {
  const { h, s } = IG;
  let views = 0;

  /* options: side, content, photo, z, ratio, heats, label, mark(node) -> {kind, text} or null, selected, view,
     onselect(thing), onchange() */
  class GraphView {
    constructor(options) {
      Object.assign(this, { heats: true, mark: () => null, onselect() {}, onchange() {} }, options);
      this.number = views += 1;
      this.inner = s("g", { class: "inner" });
      this.svg = s("svg", { class: "graph", role: "group", "aria-label": this.label }, this.inner);
      this.list = h("div", { class: "aslist" });
      const button = (text, label, act) => h("button", { type: "button", title: label, "aria-label": text.length > 1 ? null : label, onclick: act }, text);
      this.tools = h("div", { class: "tools" },
        button("+", "Zoom in (+)", () => this.zoomBy(1.3)), button("−", "Zoom out (-)", () => this.zoomBy(1 / 1.3)), button("Fit", "Whole graph (0)", () => this.fit()),
        button("Full screen", "Full screen (f)", () => this.full()),
        button("SVG", "Save as SVG", () => IG.saveSvg(this)), button("PNG", "Save as PNG", () => IG.savePng(this)));
      this.element = h("div", { class: "graphbox" }, this.tools, this.svg, this.list);
      this.zoom = d3.zoom().scaleExtent([0.08, 8]).extent(() => [[0, 0], [this.svg.clientWidth || 900, this.svg.clientHeight || 560]])
        .filter((event) => event.type !== "wheel" ? !event.button : event.ctrlKey || event.metaKey || this.element.contains(document.activeElement))
        .on("zoom", (event) => {
          this.inner.setAttribute("transform", event.transform);
          if (event.sourceEvent || this.byHand) { this.view = [event.transform.x, event.transform.y, event.transform.k]; this.onchange(); }
        });
      d3.select(this.svg).call(this.zoom).on("dblclick.zoom", null);
      this.svg.addEventListener("keydown", (event) => this.key(event));
      this.svg.addEventListener("click", (event) => { if (event.target === this.svg) this.select(null); });
      this.draw();
    }

    /* Draws at once, and again when the pictures of its words have come. */
    draw() {
      this.graph = IG.choose(this.content, this.z);
      this.shownEdges = this.graph.edges.filter((edge) => edge.ratio > this.ratio);
      this.rows = IG.order(this.graph.layers, this.shownEdges);
      this.layout = IG.place(this.rows, this.alone);
      const wanted = this.graph.layers.flatMap((layer) => (layer.level ? layer.nodes.concat(layer.next) : []));
      this.render();
      this.ready = Promise.all(wanted.map((node) => this.side.word(this.content.scope, node.layer, node.word).catch((error) => IG.tell(error.message))))
        .then(() => { this.render(); });
      return this.ready;
    }

    nodes() { return this.graph.layers.flatMap((layer) => layer.nodes); }
    wordOf(node) { return node.level ? this.side.heldWord(this.content.scope, node.layer, node.word) : null; }

    name(node) {
      if (!node.level) return this.content.root;
      const own = this.side.wordName(this.content.scope, node.layer, node.word);
      return own ? `${own} · word ${node.word}` : `word ${node.word}`;
    }
    mostly(node) {
      const word = this.wordOf(node);
      if (!word || !word.row || word.row.dominant_class === null) return "";
      return `mostly ${this.side.className(word.row.dominant_class)} (${IG.percent(word.row.dominant_share)})`;
    }

    render() {
      const { spots, size, roomy } = this.layout, inner = this.inner, focused = document.activeElement && inner.contains(document.activeElement) ? document.activeElement.dataset.key : null;
      inner.replaceChildren();
      const edges = s("g", { class: "edges" }), nodes = s("g", { class: "nodes" });
      this.rows.forEach((row, level) => {
        const layer = this.graph.layers[level];
        inner.append(s("text", { class: "layername", x: -14, y: level * (size.height + size.gap) + size.height / 2, "text-anchor": "end" }, level ? this.side.title(layer.layer) : "class"));
      });
      for (const row of this.rows) for (const node of row) nodes.append(this.node(node, spots.get(node.key)));
      this.edgeElements = new Map();
      for (const node of this.nodes()) {
        const own = this.shownEdges.filter((edge) => edge.lower === node).sort((a, b) => spots.get(a.upper.key).x - spots.get(b.upper.key).x);
        own.forEach((edge, place) => edges.append(this.edge(edge, (place + 0.5) / own.length, roomy)));
      }
      inner.append(edges, nodes);
      this.renderList();
      if (!this.view) this.fit(true);
      else this.transform(...this.view);
      this.highlight();
      if (focused) this.focusNode(focused);
    }

    node(node, spot) {
      const { size } = this.layout, word = this.wordOf(node), mark = node.level ? this.mark(node) : null;
      const label = [node.level ? `${this.side.title(node.layer)} ${this.name(node)}` : `class ${this.name(node)}`, this.mostly(node), node.level ? `${IG.percent(node.share)} of positions` : "", mark ? mark.text : ""].filter(Boolean).join(", ");
      const element = s("g", { class: `node${mark ? ` ${mark.kind}` : ""}`, transform: `translate(${spot.x},${spot.y})`, tabindex: "-1", role: "button", "aria-pressed": "false", "data-key": node.key });
      element.append(s("title", null, label), s("rect", { class: "card", width: size.width, height: size.height, rx: 7 }));
      const within = size.width - 18, small = "11px";
      element.append(s("text", { class: "nodename", x: 9, y: 18 }, IG.fitted(this.name(node), within, "650 13px")));
      if (node.level) {
        element.append(s("text", { class: "small", x: 9, y: 33 }, IG.fitted(this.mostly(node), within, small)));
        element.append(s("text", { class: "small", x: 9, y: size.height - 8 }, IG.fitted(mark ? `${IG.percent(node.share)} · ${mark.text}` : `${IG.percent(node.share)} of positions`, within, small)));
        this.pictures(element, node, word, { x: 8, y: 39 });
      } else {
        const about = this.content.graph.startsWith("image") ? `predicted, ${IG.percent(this.content.probability)}` : `${IG.count(this.content.omega)} validation images`;
        element.append(s("text", { class: "small", x: 9, y: 33 }, about));
        const side = size.height - 48;
        if (this.photo) element.append(s("image", { href: IG.dataUri(this.photo), x: (size.width - side) / 2, y: 40, width: side, height: side, class: IG.overview.run.input[0] <= 48 ? "pixels" : null }));
        else if (this.thumb) element.append(this.tile(this.thumb.sheet, this.thumb.place, (size.width - side) / 2, 40, side));
      }
      element.addEventListener("click", () => { this.select(node); });
      element.addEventListener("pointerenter", () => this.hover(node));
      element.addEventListener("pointerleave", () => this.hover(null));
      return element;
    }

    pictures(element, node, word, at) {
      const { size } = this.layout, tile = size.tile, dots = this.content.dots;
      if (dots && this.photo) {
        const side = 2 * tile + 2;
        element.append(this.dotted(node, at.x, at.y, side));
        if (word && word.sheet) for (let i = 0; i < Math.min(2, word.exemplars.length); i += 1) element.append(this.exemplar(word, i, at.x + side + 2, at.y + i * (tile + 2), tile));
      } else if (word && word.sheet) {
        for (let i = 0; i < Math.min(6, word.exemplars.length); i += 1) element.append(this.exemplar(word, i, at.x + (i % size.columns) * (tile + 2), at.y + Math.floor(i / size.columns) * (tile + 2), tile));
      }
    }

    tile(sheet, place, x, y, side) {
      const [width, height] = sheet.size, column = place % sheet.columns, row = Math.floor(place / sheet.columns);
      const element = s("svg", { x, y, width: side, height: side, viewBox: `${column * width} ${row * height} ${width} ${height}`, preserveAspectRatio: "xMidYMid meet" });
      const image = s("image", { href: IG.dataUri(sheet.webp), width: width * sheet.columns, height: height * sheet.rows, class: Math.max(width, height) <= 48 ? "pixels" : null });
      element.append(image);
      return element;
    }

    exemplar(word, place, x, y, side) {
      const [, , left, top, right, bottom] = word.exemplars[place], element = this.tile(word.sheet, place, x, y, side), [width, height] = word.sheet.size;
      const x0 = (place % word.sheet.columns) * width, y0 = Math.floor(place / word.sheet.columns) * height, line = Math.max(width, height) / 36;
      if (right - left < 0.999 || bottom - top < 0.999) {
        element.append(s("rect", { class: "field", x: x0 + left * width + line / 2, y: y0 + top * height + line / 2, width: Math.max((right - left) * width - line, line), height: Math.max((bottom - top) * height - line, line), "stroke-width": line }));
      }
      return element;
    }

    /* The image with a red dot where the word is. */
    dotted(node, x, y, side) {
      const dots = this.content.dots[node.level - 1], positions = dots.of[node.place], [rows, columns] = this.side.overview.run.input;
      const scale = side / Math.max(rows, columns), width = columns * scale, height = rows * scale, across = dots.columns.length;
      const group = s("g", { transform: `translate(${x},${y})` }, s("image", { href: IG.dataUri(this.photo), width, height, class: Math.max(rows, columns) <= 48 ? "pixels" : null, preserveAspectRatio: "none" }));
      const step = Math.min(width / across, height / dots.rows.length), radius = Math.max(Math.min(0.33 * step, side / 16), side / 90);
      for (const place of positions) group.append(s("circle", { class: "dot", cx: dots.columns[place % across] * width, cy: dots.rows[Math.floor(place / across)] * height, r: radius }));
      return group;
    }

    edge(edge, place, roomy) {
      const { spots, size } = this.layout, up = spots.get(edge.upper.key), low = spots.get(edge.lower.key);
      const x0 = low.x + place * size.width, y0 = low.y, x1 = up.x + size.width / 2, y1 = up.y + size.height, chip = roomy && this.heats ? this.heatOf(edge) : null;
      const start = roomy ? y0 - (chip ? 42 : 16) : y0, bend = (start - y1) * 0.45;
      const path = `M${x0},${start}C${x0},${start - bend} ${x1},${y1 + bend} ${x1},${y1 + 3}`, kind = edge.ratio > IG.overview.run.strong ? "strong" : edge.ratio > 0 ? "weak" : "hidden";
      const words = `${IG.percent(edge.frequency)} of what lies in its windows; log ratio ${IG.ratio(edge.ratio)} ${IG.unit()}`;
      const group = s("g", { class: `edge ${kind}` }, s("title", null, `${this.side.title(edge.lower.layer)} word ${edge.lower.word} speaks for ${edge.upper.level ? `word ${edge.upper.word}` : this.side.className(edge.upper.word)}: ${words}`),
        s("path", { class: "hit", d: path }), s("path", { class: "line", d: path, "stroke-width": 1 + Math.min(Math.max(edge.ratio, 0), 4) * 0.7 }),
        s("path", { class: "head", d: `M${x1},${y1 + 1}l-4,8h8z` }));
      if (chip) {
        const [rows, columns] = chip.size, side = 22, scale = side / Math.max(rows, columns);
        group.append(s("image", { class: "pixels heat", href: IG.heatUri(chip), x: x0 - (columns * scale) / 2, y: y0 - 39, width: columns * scale, height: rows * scale, preserveAspectRatio: "none" }));
      }
      const text = s("text", { class: "edgelabel", x: x0, y: y0 - 5, "text-anchor": "middle" }, `${IG.frequency(edge.frequency)}  `, s("tspan", { class: "ratio" }, IG.ratio(edge.ratio)));
      group.append(text);
      if (!roomy) group.classList.add("quiet");
      group.addEventListener("click", () => this.select(edge));
      this.edgeElements.set(edge.key, group);
      return group;
    }

    heatOf(edge) {
      return this.content.heats.find((heat) => heat.upper[0] === edge.upper.layer && heat.upper[1] === edge.upper.word && heat.lower[0] === edge.lower.layer && heat.lower[1] === edge.lower.word) || null;
    }

    /* The same as a list: for narrow screens, and for who reads without seeing. */
    renderList() {
      const item = (node) => {
        const own = this.shownEdges.filter((edge) => edge.lower === node), word = this.wordOf(node), mark = this.mark(node);
        return h("li", null,
          h("button", { type: "button", class: "plain", onclick: () => this.select(node) }, h("strong", null, this.name(node)), " ", this.mostly(node)), mark ? h("span", { class: `badge ${mark.kind}` }, mark.text) : null,
          h("div", { class: "strip" }, word && word.sheet ? word.exemplars.slice(0, 6).map((one, place) => IG.tileBox(word.sheet, place, 44)) : null),
          h("div", { class: "quiet" }, `${IG.percent(node.share)} of positions`, own.map((edge) => `; ${edge.upper.level ? `word ${edge.upper.word}` : this.side.className(edge.upper.word)}: ${IG.frequency(edge.frequency)}, log ratio ${IG.ratio(edge.ratio)}`)));
      };
      this.list.replaceChildren(...this.graph.layers.slice(1).map((layer) => h("section", null, h(this.alone ? "h2" : "h3", null, this.side.title(layer.layer)), h("ol", null, layer.nodes.map(item)))));
    }

    hover(node) { this.hovered = node; this.highlight(); }

    highlight() {
      const of = this.hovered || (this.selected && this.selected.key && !this.selected.upper ? this.selected : null);
      this.inner.classList.toggle("some", Boolean(of));
      for (const edge of this.shownEdges) {
        const element = this.edgeElements.get(edge.key), lit = of && (edge.upper.key === of.key || edge.lower.key === of.key);
        element.classList.toggle("lit", Boolean(lit));
        element.classList.toggle("selected", Boolean(this.selected && this.selected.key === edge.key));
      }
      let stop = null;
      for (const element of this.inner.querySelectorAll(".node")) {
        const chosen = Boolean(this.selected && this.selected.key === element.dataset.key);
        element.classList.toggle("selected", chosen);
        element.setAttribute("aria-pressed", String(chosen));
        element.setAttribute("tabindex", "-1");
        if (chosen || !stop) stop = element;
      }
      if (stop) stop.setAttribute("tabindex", "0");
    }

    select(thing) {
      this.selected = thing;
      this.highlight();
      this.onselect(thing);
      this.onchange();
    }
    selectKey(key) {
      const found = this.nodes().find((node) => node.key === key) || this.graph.edges.find((edge) => edge.key === key) || null;
      this.selected = found;
      this.highlight();
      this.onselect(found);
    }
    focusNode(key) {
      for (const element of this.inner.querySelectorAll(".node")) if (element.dataset.key === key) { element.setAttribute("tabindex", "0"); element.focus(); }
    }

    key(event) {
      const key = event.key;
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (key === "+" || key === "=") this.zoomBy(1.3);
      else if (key === "-") this.zoomBy(1 / 1.3);
      else if (key === "0") this.fit();
      else if (key === "f") this.full();
      else if (key === "Escape") this.select(null);
      else if (key === "Enter" || key === " ") {
        const node = this.nodes().find((one) => one.key === (document.activeElement.dataset || {}).key);
        if (node) this.select(node);
      } else if (key.startsWith("Arrow")) this.move(key);
      else return;
      event.preventDefault();
      event.stopPropagation();
    }

    move(key) {
      const own = (document.activeElement.dataset || {}).key, level = this.rows.findIndex((row) => row.some((node) => node.key === own));
      if (level < 0) return;
      const place = this.rows[level].findIndex((node) => node.key === own), x = this.layout.spots.get(own).x;
      let target = null;
      if (key === "ArrowLeft" || key === "ArrowRight") target = this.rows[level][place + (key === "ArrowLeft" ? -1 : 1)];
      else {
        const row = this.rows[level + (key === "ArrowUp" ? -1 : 1)] || [];
        target = row.slice().sort((a, b) => Math.abs(this.layout.spots.get(a.key).x - x) - Math.abs(this.layout.spots.get(b.key).x - x))[0];
      }
      if (target) { this.focusNode(target.key); this.select(target); }
    }

    zoomBy(factor) { this.byHand = true; d3.select(this.svg).call(this.zoom.scaleBy, factor); this.byHand = false; }
    transform(x, y, k) { d3.select(this.svg).call(this.zoom.transform, d3.zoomIdentity.translate(x, y).scale(k)); }
    bounds() { return { x: -96, y: -8, width: this.layout.width + 112, height: this.layout.height + 18 }; }
    fit(keep) {
      const box = this.bounds(), width = this.svg.clientWidth || 900, whole = document.fullscreenElement === this.element;
      if (!whole) this.svg.style.height = `${Math.round(Math.min(Math.max(this.tall || 0, Math.min(box.height, (box.height * width) / box.width)), Math.max(420, innerHeight * 0.78)))}px`;
      const height = this.svg.clientHeight || 600, k = Math.min(width / box.width, height / box.height, 1.6);
      if (!keep) { this.view = null; }
      this.transform((width - box.width * k) / 2 - box.x * k, (height - box.height * k) / 2 - box.y * k, k);
      if (!keep) this.onchange();
    }
    full() {
      if (document.fullscreenElement) document.exitFullscreen();
      else if (this.element.requestFullscreen) this.element.requestFullscreen().then(() => this.fit(true), () => IG.tell("The browser allows no full screen."));
    }
  }
  IG.GraphView = GraphView;
})();
