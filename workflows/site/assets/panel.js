/* Details of what is selected in a graph: a word, an arrow, or the graph as a whole. */
"use strict";
(() => {
  const { h, s } = IG;

  const facts = (rows) => h("dl", { class: "facts" }, rows.filter(Boolean).map(([name, value, hint]) => h("div", { title: hint || null }, h("dt", null, name), h("dd", null, value))));
  IG.facts = facts;

  IG.wordHash = (scope, layer, word) => `#/word/${encodeURIComponent(scope)}/${encodeURIComponent(layer)}/${word}`;
  IG.graphHash = (graph, scope) => {
    const [kind, number] = graph.split(":");
    return `#/${kind}/${number}${scope && scope !== IG.overview.scopes[0] ? `?s=${encodeURIComponent(scope)}` : ""}`;
  };
  IG.graphTitle = (graph, side) => {
    const [kind, number] = graph.split(":");
    return kind === "image" ? `image ${number}` : (side || IG.side).className(Number(number));
  };
  IG.wordLabel = (view, layer, word) => layer === IG.overview.run.output ? view.side.className(word) : `${view.side.title(layer)} word ${word}`;

  IG.heatScale = (heat, highest) => {
    const bar = h("canvas", { width: 64, height: 1, class: "bar" }), context = bar.getContext("2d"), image = context.createImageData(64, 1);
    for (let i = 0; i < 64; i += 1) image.data.set([...IG.heatColour(i / 63), 255], 4 * i);
    context.putImageData(image, 0, 0);
    return h("div", { class: "scale" }, h("span", null, "0 %"), bar, h("span", null, IG.percent(highest)));
  };

  function heatFigure(view, edge, heat) {
    if (!heat) return h("p", { class: "quiet" }, `Where the lower word sits is counted for the arrows at Z = ${view.content.top} only.`);
    const [rows, columns] = heat.size, whole = edge.upper.level === 0, image = h("img", { class: "pixels heatmap", src: IG.heatUri(heat), alt: `Heat map of ${rows} by ${columns} offsets` });
    image.style.aspectRatio = `${columns} / ${rows}`;
    image.style.width = `${Math.min(200, Math.max(120, columns * 16))}px`;
    return h("figure", { class: "heatfigure" }, image, IG.heatScale(heat, heat.highest),
      h("figcaption", null, whole ? "Each square is a position of the lower layer's map: how often the lower word lies there, in the images that are explained. " : "Each square is a place in the window of the upper word: how often the lower word lies there, whenever that place is inside the map. ",
        "Black: never; bright: as often as anywhere. Grey: that place was never inside the map."));
  }

  function aboutEdge(view, edge) {
    const upper = edge.upper.level ? `${view.side.title(edge.upper.layer)} word ${edge.upper.word}` : view.side.className(edge.upper.word);
    const times = 2 ** Math.abs(edge.ratio);
    const many = IG.unit() === "bits" ? `${IG.fixed(times, times < 10 ? 1 : 0)} times as ${edge.ratio >= 0 ? "frequent" : "rare"} there as in windows at large` : "";
    const sure = (view.content.intervals || []).find((one) => one[0] === edge.upper.layer && one[1] === edge.upper.word && one[2] === edge.lower.layer && one[3] === edge.lower.word);
    return [h("h2", null, `${view.side.title(edge.lower.layer)} word ${edge.lower.word} → ${upper}`),
      facts([
        ["relative frequency", IG.frequency(edge.frequency), "Of what lies in the windows of the upper word, in the images that are explained"],
        ["log ratio", `${IG.ratio(edge.ratio)} ${IG.unit()}`, "log P(lower | upper) / P(lower), over all validation images of the scope"],
        sure && ["95 % interval", `${IG.ratio(sure[4])} to ${IG.ratio(sure[5])} ${IG.unit()}`, `Of the log ratio, over sets of as many images; the pair is in ${IG.count(sure[6])} of them`],
        many && ["that is", many],
        ["pairs", IG.count(edge.count)], ["score", `${IG.number(edge.score, 1)} ${IG.unit()} × pairs`, "pairs times log ratio: its part of the lower word's score"]]),
      heatFigure(view, edge, view.heatOf(edge)),
      h("p", { class: "row" }, h("button", { type: "button", onclick: () => view.select(edge.lower) }, "Lower word"), h("button", { type: "button", onclick: () => view.select(edge.upper) }, "Upper word"))];
  }

  function edgesOf(view, node) {
    const list = (edges, end, title) => edges.length ? [h("h3", null, title), h("ul", { class: "edges" }, edges.sort((a, b) => b.score - a.score).map((edge) => h("li", null,
      h("button", { type: "button", class: "plain", onclick: () => view.select(edge) }, IG.wordLabel(view, edge[end].layer, edge[end].word)),
      ` ${IG.frequency(edge.frequency)}, log ratio ${IG.ratio(edge.ratio)}${edge.ratio > view.ratio ? "" : " (hidden)"}`)))] : null;
    return [list(view.graph.edges.filter((edge) => edge.lower.key === node.key), "upper", "Speaks for"), list(view.graph.edges.filter((edge) => edge.upper.key === node.key), "lower", "Spoken for by")];
  }

  function bigDots(view, node) {
    if (!view.content.dots || !view.photo || !node.level) return null;
    const svg = s("svg", { class: "bigdots", viewBox: "0 0 300 300", role: "img", "aria-label": `Where word ${node.word} is in the image` }, view.dotted(node, 0, 0, 300));
    const [rows, columns] = view.side.overview.run.input;
    svg.setAttribute("viewBox", `0 0 ${(300 * columns) / Math.max(rows, columns)} ${(300 * rows) / Math.max(rows, columns)}`);
    return h("figure", null, svg, h("figcaption", null, `Red dots: the ${IG.count(node.positions)} positions of this image that are this word.`));
  }

  const logit = (value) => IG.number(value, 2);
  const verdict = (low, high) => (low === null ? ["?", "not known"] : low > 0 ? [">", "more"] : high < 0 ? ["<", "less"] : ["≈", "no more"]);

  /* What the study `trust` found when the columns of this word alone were taken out. */
  function usedFacts(view, node) {
    const used = view.content.used, row = used && used.words.find((one) => one[0] === node.layer && one[1] === node.word);
    return row ? [["without it", `logit ${logit(row[2])} lower`, `Of the class, when the columns of the word are ablated (${used.intervention}) on ${IG.count(used.images)} images that chose none`],
      ["above random", `${logit(row[3])} (${logit(row[4])} to ${logit(row[5])})`, "More than as many random columns, with the 95 % interval; used if its lower end lies above 0"]] : [];
  }

  /* Does the network use the words of the graph: the table of the study `trust`. */
  function usedTable(view) {
    const used = view.content.used;
    if (!used) return null;
    const same = new Map(used.complete.map((one) => [one[0], one]));
    const row = ([layer, drop, random, excess, low, high]) => {
      const [sign, said] = verdict(low, high);
      return h("tr", null, h("th", { scope: "row" }, view.side.title(layer)), h("td", { class: "number" }, logit(drop)),
        h("td", { title: `${logit(excess)} above random columns, 95 % interval ${logit(low)} to ${logit(high)}` }, h("span", { "aria-hidden": "true" }, sign), h("span", { class: "unseen" }, said)),
        h("td", { class: "number" }, logit(random)), h("td", { class: "number" }, same.has(layer) ? IG.percent(same.get(layer)[1]) : "–"));
    };
    return [h("h3", null, "Does the network use them?"),
      h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Does the network use the words" }, h("table", { class: "used" },
        h("thead", null, h("tr", null, ["layer", "drop", "", "random", "alone"].map((name) => h("th", { scope: "col" }, name || h("span", { class: "unseen" }, "verdict"))))),
        h("tbody", null, [...used.layers].reverse().map(row)))),
      h("p", { class: "quiet" }, `How far the logit drops when the columns of the ${used.top} words of a layer are ablated, and of as many random columns (>: more, by a 95 % interval; ${IG.count(used.images)} images). Alone: decisions that stay when every column of the layer says its word's mean.`)];
  }

  function aboutNode(view, node) {
    if (!node.level) return aboutGraph(view);
    const word = view.wordOf(node), row = word && word.row, scope = view.content.scope, has = view.side === IG.side && view.side.wordNumber(scope, node.layer, node.word) !== null;
    const again = view.graph.z === view.content.top && (view.content.again || []).find((one) => one[0] === node.layer && one[1] === node.word);
    const explained = view.content.graph.startsWith("image") ? "this image" : "these images";
    return [h("h2", null, view.side.wordName(scope, node.layer, node.word) ? `${view.name(node)} of ${view.side.title(node.layer)}` : `Word ${node.word} of ${view.side.title(node.layer)}`),
      bigDots(view, node),
      word && word.sheet ? h("div", { class: "strip" }, word.exemplars.slice(0, 6).map((one, place) => exemplarBox(view, word, place, 88))) : null,
      facts([
        ["place", `${node.rank + 1} of ${view.graph.layers[node.level].nodes.length}`],
        ["score", `${IG.number(node.score, 1)} ${IG.unit()} × pairs`, "Sum over the chosen upper words of pairs times log ratio"],
        again && ["chosen again", IG.percent(again[2]), "Share of 200 resamplings of the validation images in which the word is chosen"],
        ...usedFacts(view, node),
        [`positions of ${explained}`, `${IG.count(node.positions)} (${IG.percent(node.share)})`],
        row && ["mostly", `${view.side.className(row.dominant_class)} (${IG.percent(row.dominant_share)} of its training columns)`],
        row && ["training columns", `${IG.count(row.columns)} in ${IG.count(row.images)} images`]]),
      has ? h("p", null, IG.link(IG.wordHash(scope, node.layer, node.word), "Everything about this word")) : null,
      edgesOf(view, node)];
  }

  const exemplarBox = (view, word, place, side) => {
    const svg = s("svg", { class: "exemplar", width: side, height: side, viewBox: `0 0 ${side} ${side}`, role: "img", "aria-label": `image ${word.exemplars[place][0]}${word.exemplars[place][1] === null ? "" : `, ${view.side.className(word.exemplars[place][1])}`}` }, view.exemplar(word, place, 0, 0, side));
    return svg;
  };
  IG.exemplarBox = exemplarBox;

  /* The chosen words of each layer, and what came just below the cut. */
  function aboutGraph(view) {
    const graph = view.graph, content = view.content, hidden = graph.edges.length - view.shownEdges.length;
    return [h("h2", null, content.graph.startsWith("image") ? `Image ${content.graph.split(":")[1]}` : IG.clamped(`Class ${content.root}`)),
      facts([
        content.graph.startsWith("image") ? ["predicted", `${view.side.className(content.predicted)} (${IG.percent(content.probability)})`] : ["validation images", IG.count(content.omega), "that the network calls this class: the graph explains them"],
        content.graph.startsWith("image") && content.label !== null && ["true class", view.side.className(content.label)],
        ["words", `${graph.z} a layer`], ["scope", content.scope],
        ["arrows", `${view.shownEdges.length}${hidden ? `, ${hidden} more with a log ratio of ${IG.number(view.ratio, 2)} or below` : ""}`]]),
      usedTable(view),
      h("h3", null, "Just below the cut"),
      h("p", { class: "quiet" }, "The words that would have come next. They change no arrow: only chosen words are followed downwards."),
      graph.layers.slice(1).map((layer) => layer.next.length ? h("section", { class: "below" }, h("h4", null, view.side.title(layer.layer)), h("ul", null, layer.next.map((node) => {
        const word = view.wordOf(node);
        return h("li", null, word && word.sheet ? h("span", { class: "strip" }, word.exemplars.slice(0, 3).map((one, place) => exemplarBox(view, word, place, 30))) : null,
          h("span", null, view.side === IG.side && view.side.wordNumber(content.scope, node.layer, node.word) !== null ? IG.link(IG.wordHash(content.scope, node.layer, node.word), view.name(node)) : view.name(node), ` score ${IG.number(node.score, 1)}, last chosen ${layer.nodes.length ? IG.number(layer.nodes[layer.nodes.length - 1].score, 1) : "–"}`));
      }))) : h("p", { class: "quiet" }, `${view.side.title(layer.layer)}: none${content.tops.length < 2 ? " (the counts of this run are gone)" : ""}`))];
  }

  IG.panel = (view, thing) => h("div", { class: "details" }, !thing ? aboutGraph(view) : thing.upper ? aboutEdge(view, thing) : aboutNode(view, thing));
})();
