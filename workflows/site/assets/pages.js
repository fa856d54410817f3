/* Pages of a class, an image and a word. */
"use strict";
(() => {
  const { h } = IG;

  IG.openGraph = async (side, scope, graph, options) => {
    const content = await side.graph(scope, graph), label = content.words[0][0], size = IG.overview.sheet, more = {};
    content.root = side.className(label);
    if (graph.startsWith("image")) more.photo = await side.photo(Number(graph.split(":")[1]));
    else {
      const chunk = await IG.load(`${side.prefix}thumbs`, Math.floor(label / size)).catch(() => null);
      if (chunk && chunk.sheet) more.thumb = { sheet: chunk.sheet, place: label % size };
    }
    return new IG.GraphView({ side, content, label: `Inference graph of ${graph.startsWith("image") ? graph.replace(":", " ") : `class ${content.root}`}`, ...more, ...options });
  };

  /* Z, threshold and heat maps, for one or two views. */
  IG.controls = (tops, state, change) => {
    const slide = (name, low, high, step, value, text, label, hint) => {
      const output = h("output", null, text(value)), input = h("input", { type: "range", min: low, max: high, step, value, "aria-label": label, oninput: () => { output.textContent = text(Number(input.value)); state[name] = Number(input.value); change(name); } });
      return h("label", { class: "slider", title: hint }, h("span", null, label), input, output);
    };
    const highest = Math.max(...tops), lowest = Math.min(...tops);
    const heats = h("input", { type: "checkbox", checked: state.heats, onchange: () => { state.heats = heats.checked; change("heats"); } });
    return h("div", { class: "controls" },
      tops.length > 1 ? slide("z", lowest, Math.min(highest, 12), 1, state.z, String, "Words a layer (Z)", "Chosen anew by Algorithm 1, as the command mine does") : h("span", { class: "quiet" }, `Z = ${tops[0]}: the counts for others are gone`),
      slide("t", -1, 4, 0.25, state.t, (value) => IG.number(value, 2), "Arrows above log ratio", "Arrows at or below this log ratio are hidden; 0 as in the figures, above 1 is strong"),
      h("label", null, heats, " heat maps"));
  };

  IG.legend = (image, marks) => h("p", { class: "legend quiet" },
    h("span", { class: "key strong" }), " twice as frequent there as at large, or more ", h("span", { class: "key weak" }), " more frequent. On an arrow: relative frequency and log ratio; the picture is where in the window the lower word sits. Red frames: what a word's column sees.",
    image ? " Red dots: where the word is in the image." : "", marks ? [" ", marks] : "");

  IG.graphState = (params, content) => ({ z: Number(params.get("z")) || content.top, t: params.has("t") ? Number(params.get("t")) : 0, heats: params.get("h") !== "0" });
  const numbers = (text) => { const found = (text || "").split(",").map(Number); return found.length === 3 && found.every(Number.isFinite) ? found : null; };
  IG.viewOf = numbers;
  IG.remember = (path, values) => {
    const params = new URLSearchParams();
    for (const [name, value] of Object.entries(values)) if (value !== null && value !== undefined && value !== "") params.set(name, value);
    const text = params.toString();
    history.replaceState(null, "", `#${path}${text ? `?${text}` : ""}`);
  };
  IG.rounded = (view) => (view ? view.map((one) => Math.round(one * 1000) / 1000).join(",") : null);

  const scopeLinks = (graph, scope) => {
    const scopes = IG.side.scopesOf(graph);
    return scopes.length > 1 ? h("label", null, "Scope ", h("select", { onchange: (event) => { location.hash = `#/${graph.replace(":", "/")}?s=${encodeURIComponent(event.target.value)}`; } }, scopes.map((one) => h("option", { value: one, selected: one === scope }, one)))) : null;
  };

  const missing = (words) => ({ title: "not here", element: h("div", { class: "page" }, h("h1", null, "Not in this site"), h("p", null, words), h("p", null, IG.link("#/", "To the overview"))) });
  IG.missing = missing;

  IG.pages.class = async (parts, params) => {
    const label = Number(parts[0]), graph = `class:${label}`, scope = params.get("s") || IG.side.scopesOf(graph)[0];
    if (!Number.isInteger(label) || label < 0 || label >= IG.overview.classes.name.length) return missing(`There is no class ${parts[0]}.`);
    if (!IG.side.has(scope, graph)) return missing(`Class ${IG.className(label)} has no graph here. A run mines the graphs that mine.classes asks for, of classes that some validation image is predicted as.`);
    const content = await IG.side.graph(scope, graph), state = IG.graphState(params, content), panel = h("aside", { class: "panel", "aria-label": "Details" });
    let view = null;
    const remember = () => { if (view) IG.remember(`/class/${label}`, { s: scope === IG.overview.scopes[0] ? null : scope, z: state.z === content.top ? null : state.z, t: state.t === 0 ? null : state.t, h: state.heats ? null : "0", n: view.selected ? view.selected.key : null, v: IG.rounded(view.view) }); };
    view = await IG.openGraph(IG.side, scope, graph, { z: state.z, ratio: state.t, heats: state.heats, alone: true, view: numbers(params.get("v")), onselect: (thing) => panel.replaceChildren(IG.panel(view, thing)), onchange: remember });
    const change = (name) => { const key = view.selected && view.selected.key; Object.assign(view, { z: state.z, ratio: state.t, heats: state.heats }); if (name === "z") view.view = null; view.draw().then(() => view.selectKey(view.selected ? view.selected.key : null)); view.selectKey(key); remember(); };
    const of = IG.overview.classes, likeness = IG.overview.likeness, at = likeness.class.indexOf(label), near = at >= 0 && likeness.scope === scope ? likeness.nearest[at] : null;
    const images = IG.overview.graphs.number.filter((image, place) => IG.overview.graphs.kind[place] === "i");
    const other = images.length ? h("p", { class: "row quiet", id: "ofclass" }) : null;
    if (other) IG.load("wrong", "all").then((wrong) => {
      const own = wrong.image.filter((image, i) => wrong.label[i] === label && IG.side.scopesOf(`image:${image}`).length).slice(0, 12), into = wrong.image.filter((image, i) => wrong.predicted[i] === label && IG.side.scopesOf(`image:${image}`).length).slice(0, 12);
      if (own.length) other.append("Misclassified images of it: ", ...own.flatMap((image) => [IG.link(IG.graphHash(`image:${image}`, IG.side.scopesOf(`image:${image}`)[0]), String(image)), " "]));
      if (into.length) other.append(" Taken for it: ", ...into.flatMap((image) => [IG.link(IG.graphHash(`image:${image}`, IG.side.scopesOf(`image:${image}`)[0]), String(image)), " "]));
    });
    return { title: content.root, mounted: () => { view.fit(Boolean(view.view)); if (view.view) view.transform(...view.view); view.ready.then(() => view.selectKey(params.get("n"))); view.selectKey(params.get("n")); }, view,
      element: h("div", { class: "page wide" }, h("h1", null, "Class ", content.root),
        h("p", { class: "quiet" }, of.images[label] && IG.overview.run.labelled ? `${IG.percent(of.right[label] / of.images[label])} of its ${IG.count(of.images[label])} validation images are classified right; ` : "", `${IG.count(content.omega)} are predicted as it. `,
          near !== null && near !== undefined ? [`Its graph is most like that of ${IG.className(near)}: `, IG.link(`#/compare?a=${encodeURIComponent(`${scope}|${graph}`)}&b=${encodeURIComponent(`${scope}|class:${near}`)}`, "compare"), "."] : null), other,
        h("div", { class: "row" }, scopeLinks(graph, scope), IG.controls(content.tops, state, change)),
        h("div", { class: "workspace" }, view.element, panel), IG.legend(false)) };
  };

  IG.pages.image = async (parts, params) => {
    const image = Number(parts[0]), graph = `image:${image}`, scope = params.get("s") || IG.side.scopesOf(graph)[0];
    if (!IG.side.has(scope, graph)) return missing(`Image ${parts[0]} has no graph here. A run mines the graphs that mine.images asks for.`);
    const content = await IG.side.graph(scope, graph), choices = [];
    const add = (label, text) => { const found = label === null || label < 0 ? null : IG.side.has(scope, `class:${label}`) ? scope : IG.side.scopesOf(`class:${label}`)[0]; if (found && !choices.some((one) => one.graph === `class:${label}`)) choices.push({ graph: `class:${label}`, scope: found, text: `${text}: ${IG.className(label)}` }); };
    add(content.label, "true class");
    add(content.predicted, "predicted class");
    const asked = params.get("b"), beside = asked === "none" ? null : choices.find((one) => one.graph === asked) || choices[0] || null;
    const choice = h("label", null, "Beside it ", h("select", { onchange: (event) => { const query = new URLSearchParams(params); query.set("b", event.target.value); query.delete("n"); query.delete("v"); query.delete("w"); location.hash = `#/image/${image}?${query}`; } }, choices.map((one) => h("option", { value: one.graph, selected: one === beside }, one.text)), h("option", { value: "none", selected: !beside }, "nothing")));
    const wrong = content.label !== null && content.label !== content.predicted;
    const pair = await IG.pairOfGraphs({ path: `/image/${image}`, params, left: { side: IG.side, scope, graph }, right: beside ? { side: IG.side, scope: beside.scope, graph: beside.graph } : null, keep: { s: params.get("s"), b: params.get("b") } });
    return { title: `image ${image}`, mounted: pair.mounted, view: pair.views[0], element: h("div", { class: "page wide" }, h("h1", null, `Image ${image}`),
      h("p", null, "Predicted ", h("strong", null, IG.className(content.predicted)), ` (${IG.percent(content.probability)})`, content.label === null ? "" : wrong ? [", but it is ", h("strong", null, IG.className(content.label)), "."] : ", which is right.", " ", h("span", { class: "quiet" }, content.path)),
      h("div", { class: "row" }, scopeLinks(graph, scope), choice, pair.controls), pair.element, IG.legend(true, pair.marks)) };
  };

  const bars = (rows, title) => {
    const total = rows.reduce((sum, one) => sum + one[1], 0), most = Math.max(1, ...rows.map((one) => one[1]));
    return rows.length ? h("figure", { class: "bars" }, h("figcaption", null, title), h("table", null, h("tbody", null, rows.map(([label, count]) => {
      const bar = h("span", { class: "fill" });
      bar.style.width = `${(100 * count) / most}%`;
      return h("tr", null, h("th", { scope: "row" }, label < 0 ? "all others" : IG.side.scopesOf(`class:${label}`).length ? IG.link(IG.graphHash(`class:${label}`, IG.side.scopesOf(`class:${label}`)[0]), IG.clamped(IG.className(label))) : IG.clamped(IG.className(label))), h("td", { class: "barcell" }, bar), h("td", { class: "number" }, `${IG.count(count)} (${IG.percent(count / total)})`));
    })))) : null;
  };

  function neighbours(scope, rows, title, hint) {
    if (!rows.length) return h("section", null, h("h3", null, title), h("p", { class: "quiet" }, IG.overview.missing.some((one) => one[1].includes("pairs")) ? "The table pairs is not written." : "None."));
    const pictures = [];
    const table = IG.table([
      { title: "word", head: true, cell: ([layer, word]) => layer === IG.overview.run.output ? (IG.side.scopesOf(`class:${word}`).length ? IG.link(IG.graphHash(`class:${word}`, IG.side.scopesOf(`class:${word}`)[0]), `class ${IG.className(word)}`) : `class ${IG.className(word)}`) : IG.side.wordNumber(scope, layer, word) === null ? `${IG.title(layer)} word ${word}` : IG.link(IG.wordHash(scope, layer, word), `${IG.title(layer)} word ${word}`, IG.side.wordName(scope, layer, word) ? `: ${IG.side.wordName(scope, layer, word)}` : "") },
      { title: "", unseen: "exemplars", cell: ([layer, word]) => { const box = h("span", { class: "strip" }); pictures.push([box, layer, word]); return box; } },
      { title: "log ratio", number: true, key: (row) => row[3], text: (row) => IG.ratio(row[3]) }, { title: "pairs", number: true, key: (row) => row[2], text: (row) => IG.count(row[2]) }], rows, { label: title });
    for (const [box, layer, word] of pictures) IG.side.word(scope, layer, word).then((content) => { if (content && content.sheet) box.append(...content.exemplars.slice(0, 3).map((one, place) => IG.tileBox(content.sheet, place, 34))); }, () => {});
    return h("section", null, h("h3", null, title), h("p", { class: "quiet" }, hint), table.element);
  }

  IG.pages.word = async (parts) => {
    const [scope, layer, text] = parts.map(decodeURIComponent), number = Number(text);
    if (IG.side.wordNumber(scope, layer, number) === null) return missing(`There is no page of word ${text} of layer ${layer} in scope ${scope}.`);
    const word = await IG.side.word(scope, layer, number), row = word.row, name = IG.side.wordName(scope, layer, number), drawer = Object.assign(Object.create(IG.GraphView.prototype), { side: IG.side });
    const layers = IG.overview.layers.find((one) => one.name === layer), step = (by) => { const next = number + by; return IG.side.wordNumber(scope, layer, next) === null ? null : IG.link(IG.wordHash(scope, layer, next), by < 0 ? "‹ previous" : "next ›"); };
    return { title: `${IG.title(layer)} word ${number}`, element: h("div", { class: "page" }, h("h1", null, `Word ${number} of ${IG.title(layer)}`, name ? `: ${name}` : ""), h("p", { class: "row" }, step(-1), step(1)),
      IG.facts([["scope", scope], ["layer", layer], row && ["mostly", row.dominant_class === null ? "never seen" : `${IG.className(row.dominant_class)} (${IG.percent(row.dominant_share)})`], row && ["training columns", `${IG.count(row.columns)} in ${IG.count(row.images)} images`], row && ["weight in its mixture", IG.percent(row.pi), "Of how many columns the dictionary expects to be this word"], layers && ["layer's words", IG.count(layers.words)], name && ["name", name, "From labels.csv in the run folder"]]),
      h("section", null, h("h2", null, "Exemplars"), h("p", { class: "quiet" }, "The most typical training columns; the frame is what the column sees."), word.sheet ? h("div", { class: "strip large" }, word.exemplars.map((one, place) => h("figure", null, IG.exemplarBox({ side: IG.side, exemplar: drawer.exemplar.bind(drawer) }, word, place, 116), h("figcaption", null, `image ${one[0]}`, one[1] === null ? "" : `, ${IG.className(one[1])}`)))) : h("p", { class: "quiet" }, word.exemplars.length ? "The pictures could not be read." : "None: no training column is this word.")),
      h("section", null, h("h2", null, "Where it fires"), h("div", { class: "columns" }, bars(word.train, "Columns of training images, by true class") || h("p", { class: "quiet" }, "No training columns."), bars(word.validation, "Columns of validation images, by predicted class"))),
      h("div", { class: "columns" }, neighbours(scope, word.above, "Speaks for", "Upper words in whose windows it is most over-represented, over all validation images"), neighbours(scope, word.below, "Is spoken for by", "Lower words that are most over-represented in its windows")),
      h("section", null, h("h2", null, `Graphs that hold it (${IG.count(word.graph_count)})`), word.graphs.length ? h("p", { class: "tags" }, word.graphs.map((graph) => IG.side.has(scope, graph) ? IG.link(`${IG.graphHash(graph, scope)}${IG.graphHash(graph, scope).includes("?") ? "&" : "?"}n=${encodeURIComponent(`${layer}:${number}`)}`, IG.graphTitle(graph)) : h("span", null, IG.graphTitle(graph)))) : h("p", { class: "quiet" }, "None chooses it."), word.graph_count > word.graphs.length ? h("p", { class: "quiet" }, `The first ${word.graphs.length} are listed.`) : null)) };
  };
})();
