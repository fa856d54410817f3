/* The first page: what the run is, its classes, errors, confusions, layers and words. */
"use strict";
(() => {
  const { h, s } = IG;

  function curve(history) {
    const names = ["held_out_log_likelihood", "held_out_loss", "train_log_likelihood", "loss"], name = names.find((one) => history[one] && history[one].filter((y) => y !== null).length > 1);
    if (!name) return null;
    const points = history.steps.map((x, i) => [x, history[name][i]]).filter((one) => one[1] !== null);
    /* The first steps fall so far that nothing else would be seen. */
    const kept = points.slice(Math.floor(points.length / 10)), ys = kept.map((one) => one[1]), low = Math.min(...ys), high = Math.max(...ys), first = kept[0][0], last = kept[kept.length - 1][0];
    const at = (x, y) => `${IG.fixed((220 * (x - first)) / (last - first || 1), 1)},${IG.fixed(46 - (44 * (y - low)) / (high - low || 1), 1)}`;
    const label = `${name.replaceAll("_", " ")} from ${IG.number(ys[0], 3)} to ${IG.number(ys[ys.length - 1], 3)} over ${IG.count(last)} steps`;
    return h("figure", { class: "curve" }, s("svg", { viewBox: "0 0 220 48", role: "img", "aria-label": label }, s("polyline", { class: "curveline", points: kept.map((one) => at(...one)).join(" ") })),
      h("figcaption", null, `${IG.title(history.layer)} ${history.phase}: ${label}`));
  }

  function layersOf(scope, place) {
    const box = h("div", null, h("p", { class: "quiet" }, "loading"));
    IG.load("scope", place).then((content) => {
      const last = (layer, name) => {
        const own = content.history.filter((one) => one.layer === layer || one.layer === "chain").map((one) => one[`last_${name}`]).filter((value) => value !== undefined && value !== null);
        return own.length ? Math.max(...own) : null;
      };
      const rows = IG.overview.layers.slice().reverse().map((layer) => ({ ...layer, row: content.layers.find((one) => one.layer === layer.name) || {} }));
      const table = IG.table([
        { title: "layer", head: true, text: (one) => one.title, hint: "Name in the preset" },
        { title: "map", text: (one) => `${one.size[0]} × ${one.size[1]}` },
        { title: "units", number: true, text: (one) => IG.count(one.units) },
        { title: "words", number: true, text: (one) => IG.count(one.words) },
        { title: "used", number: true, text: (one) => IG.count(one.row.used), hint: "Words with a training column" },
        { title: "dominant share", number: true, text: (one) => IG.percent(one.row.column_dominant_share), hint: "Of training columns whose word's dominant class is their own" },
        { title: "within / between", number: true, text: (one) => IG.number(one.row.column_ratio, 2), hint: "Distance of words with the same dominant class over that of others: below 1 they lie together" },
        { title: "held-out log likelihood", number: true, text: (one) => IG.number(last(one.name, "held_out_log_likelihood"), 2), hint: "nats a column, at the end of the fit" },
      ], rows, { caption: "Layers and their words" });
      const errors = content.errors.length ? IG.table([
        { title: "layer", head: true, text: (one) => IG.title(one.layer) }, { title: "words trained for", text: (one) => (one.loss === "discriminative" ? "the labels" : "likelihood") },
        { title: "histogram", text: (one) => one.histogram }, { title: "images", number: true, text: (one) => IG.count(one.images) },
        { title: "error of words", number: true, text: (one) => IG.percent(one.error), hint: "A linear layer on the image's histogram of words" },
        { title: "error of network", number: true, text: (one) => IG.percent(one.network_error) },
        { title: "difference to likelihood", number: true, text: (one) => (one.difference === null ? "–" : `${IG.percent(one.difference).replace("-", "−")} [${IG.percent(one.difference_low).replace("-", "−")}, ${IG.percent(one.difference_high).replace("-", "−")}]`), hint: "With its paired 95 % interval" },
      ], content.errors, { caption: "Errors of decisions made from words alone, beside the network's" }) : null;
      box.replaceChildren(table.element, errors ? errors.element : h("p", { class: "quiet" }, IG.overview.run.loss === "discriminative" ? "Errors of words: not written yet." : "Words of this run are fitted by likelihood alone, so they decide nothing."),
        h("div", { class: "curves" }, content.history.map(curve)));
    }).catch((error) => box.replaceChildren(h("p", { class: "warning" }, error.message)));
    return box;
  }

  const graphOf = (label) => IG.side.scopesOf(`class:${label}`)[0] || null;

  /* Thumbnails come when their rows are seen. */
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      if (entry.target.dataset.photo) {
        IG.side.photo(Number(entry.target.dataset.photo)).then((photo) => { if (photo) entry.target.replaceChildren(h("img", { src: IG.dataUri(photo), alt: "", width: 32, height: 32 })); }, () => {});
        continue;
      }
      const label = Number(entry.target.dataset.label), size = IG.overview.sheet;
      IG.load("thumbs", Math.floor(label / size)).then((chunk) => { if (chunk.sheet) entry.target.replaceChildren(IG.tileBox(chunk.sheet, label % size, 32)); }, () => {});
    }
  });

  function classes() {
    const all = IG.overview.classes, alike = IG.overview.likeness, place = new Map(alike.class.map((label, i) => [label, i]));
    const rows = all.name.map((name, label) => ({ name, label, images: all.images[label], right: all.right[label], predicted: all.predicted[label], at: place.has(label) ? place.get(label) : null }));
    const hasLabels = IG.overview.run.labelled > 0;
    const columns = [
      { title: "", unseen: "picture", text: (row) => { const box = h("span", { class: "thumb", "data-label": row.label }); seen.observe(box); return box; } },
      { title: "class", head: true, key: (row) => row.name, cell: (row) => (graphOf(row.label) ? IG.link(IG.graphHash(`class:${row.label}`, graphOf(row.label)), IG.clamped(row.name)) : IG.clamped(row.name)) },
      { title: "accuracy", number: true, key: (row) => (row.images ? row.right / row.images : null), text: (row) => (row.images && hasLabels ? IG.percent(row.right / row.images) : "–"), hint: "Of its validation images" },
      { title: "images", number: true, key: (row) => row.images, text: (row) => IG.count(row.images), hint: "Validation images of the class" },
      { title: "predicted", number: true, key: (row) => row.predicted, text: (row) => IG.count(row.predicted), hint: "Validation images that the network calls so: the graph explains them" },
      { title: "most alike", key: (row) => (row.at === null ? null : alike.place[row.at]), hint: "Class whose graph shares most words (Jaccard); sorting puts similar graphs side by side",
        cell: (row) => (row.at === null || alike.nearest[row.at] === null ? "–" : h("span", null, IG.clamped(IG.className(alike.nearest[row.at])), " ", h("span", { class: "quiet" }, IG.fixed(alike.jaccard[row.at], 2)), " ",
          IG.link(`#/compare?a=${encodeURIComponent(`${alike.scope}|class:${row.label}`)}&b=${encodeURIComponent(`${alike.scope}|class:${alike.nearest[row.at]}`)}`, "compare"))) },
    ];
    const table = IG.table(columns, rows, { caption: `${IG.count(rows.length)} classes`, class: "classes" }), note = h("span", { class: "quiet", role: "status" });
    const search = h("input", { type: "search", id: "search", placeholder: "name of a class", "aria-label": "Search classes by name", oninput: () => {
      const wanted = search.value.trim().toLocaleLowerCase();
      let shown = 0;
      for (const one of table.rows) { const keep = one.row.name.toLocaleLowerCase().includes(wanted) || String(one.row.label) === wanted; one.element.hidden = !keep; shown += keep; }
      note.textContent = wanted ? `${IG.count(shown)} of ${IG.count(rows.length)}` : "";
    } });
    return h("section", { id: "classes" }, h("h2", null, "Classes"), h("p", { class: "row" }, search, note), table.element);
  }

  const noErrors = () => {
    const { run } = IG.overview;
    return run.labelled ? "No validation image is misclassified." : run.predictions ? "The images have no labels." : run.decides ? "Nothing is predicted yet." : "The network decides nothing.";
  };

  function confusions() {
    const rows = IG.overview.confusions;
    if (!rows.length) return h("section", null, h("h2", null, "Confusions"), h("p", { class: "quiet" }, noErrors()));
    const table = IG.table([
      { title: "true class", head: true, key: (row) => IG.className(row[0]), text: (row) => IG.clamped(IG.className(row[0])) },
      { title: "predicted", key: (row) => IG.className(row[1]), text: (row) => IG.clamped(IG.className(row[1])) },
      { title: "images", number: true, key: (row) => row[2], text: (row) => IG.count(row[2]) },
      { title: "", unseen: "graphs", cell: (row) => (graphOf(row[0]) && graphOf(row[1]) ? IG.link(`#/compare?a=${encodeURIComponent(`${graphOf(row[0])}|class:${row[0]}`)}&b=${encodeURIComponent(`${graphOf(row[1])}|class:${row[1]}`)}`, "compare graphs") : "") },
    ], rows, { caption: "Most frequent first" });
    return h("section", null, h("h2", null, "Confusions"), table.element);
  }

  const SHOWN = 200;
  function wrong() {
    const box = h("section", { id: "wrong" }, h("h2", null, "Misclassified images"));
    IG.load("wrong", "all").then((content) => {
      if (!content.total) { box.append(h("p", { class: "quiet" }, noErrors())); return; }
      const select = (name, values) => {
        const counts = new Map();
        for (const value of values) counts.set(value, (counts.get(value) || 0) + 1);
        const options = [...counts].sort((a, b) => IG.className(a[0]).localeCompare(IG.className(b[0])));
        return h("select", { "aria-label": name, onchange: () => show() }, h("option", { value: "" }, `${name}: any`), options.map(([label, count]) => h("option", { value: String(label) }, `${IG.className(label)} (${count})`)));
      };
      const truth = select("true class", content.label), said = select("predicted class", content.predicted), only = h("input", { type: "checkbox", id: "onlygraphs", onchange: () => show() });
      const note = h("p", { class: "quiet", role: "status" }), list = h("div");
      const show = () => {
        const picked = content.image.map((image, i) => i).filter((i) => (truth.value === "" || content.label[i] === Number(truth.value)) && (said.value === "" || content.predicted[i] === Number(said.value)) && (!only.checked || IG.side.scopesOf(`image:${content.image[i]}`).length));
        note.textContent = `${IG.count(picked.length)} of ${IG.count(content.total)} images${picked.length > SHOWN ? `, the first ${SHOWN} shown` : ""}${content.total > content.image.length ? ` (the site lists the first ${IG.count(content.image.length)})` : ""}`;
        list.replaceChildren(IG.table([
          { title: "", unseen: "picture", text: (i) => { const box = h("span", { class: "thumb", "data-photo": content.image[i] }); seen.observe(box); return box; } },
          { title: "image", head: true, key: (i) => content.image[i], cell: (i) => { const scope = IG.side.scopesOf(`image:${content.image[i]}`)[0]; return scope ? IG.link(IG.graphHash(`image:${content.image[i]}`, scope), String(content.image[i])) : IG.overview.run.chain ? IG.link(`#/path/${content.image[i]}`, String(content.image[i])) : String(content.image[i]); } },
          { title: "true class", key: (i) => IG.className(content.label[i]), text: (i) => IG.clamped(IG.className(content.label[i])) },
          { title: "predicted", key: (i) => IG.className(content.predicted[i]), text: (i) => IG.clamped(IG.className(content.predicted[i])) },
          { title: "probability", number: true, key: (i) => content.probability[i], text: (i) => IG.percent(content.probability[i]) },
        ], picked.slice(0, SHOWN), { label: "Misclassified images" }).element);
      };
      box.append(h("p", { class: "row" }, truth, said, h("label", null, only, " with a graph")), note, list);
      show();
    }).catch((error) => box.append(h("p", { class: "warning" }, error.message)));
    return box;
  }

  IG.pages = IG.pages || {};
  IG.pages.overview = () => {
    const { run, scopes, missing } = IG.overview, chosen = h("div", null, layersOf(scopes[0], 0));
    const graphs = IG.overview.graphs.kind;
    const images = graphs.split("i").length - 1;
    const facts = IG.facts([
      ["network", run.network], ["images", `${IG.count(run.train)} to train, ${IG.count(run.images - run.train)} to validate${run.broken ? `, ${IG.count(run.broken)} broken` : ""}`],
      ["input", `${run.input[0]} × ${run.input[1]} pixels`], ["classes", IG.count(IG.overview.classes.name.length)],
      run.labelled && ["right", `${IG.count(run.right)} of ${IG.count(run.labelled)} validation images (${IG.number((100 * run.right) / run.labelled, 1)} %)`],
      ["graphs", `${IG.count(graphs.length - images)} of classes, ${IG.count(images)} of images, ${run.top} words a layer`],
      ["words", IG.count(IG.overview.layers.reduce((sum, one) => sum + one.words, 0)) + (scopes.length > 1 ? ` in each of ${IG.count(scopes.length)} scopes` : "")]]);
    const scopeChoice = scopes.length > 1 ? h("label", null, "Scope ", h("select", { onchange: (event) => chosen.replaceChildren(layersOf(event.target.value, scopes.indexOf(event.target.value))) }, scopes.map((one) => h("option", { value: one }, one)))) : null;
    return { title: run.name, element: h("div", { class: "page" }, h("h1", null, run.name), facts,
      missing.length ? h("div", { class: "warning", role: "note" }, h("strong", null, "Not shown: "), h("ul", null, missing.map(([what, why]) => h("li", null, `${what}: ${why}`)))) : null,
      h("div", { class: "columns" }, classes(), h("div", null, confusions(), wrong())),
      h("section", { id: "layers" }, h("h2", null, "Layers and words"), scopeChoice, chosen)) };
  };
})();
