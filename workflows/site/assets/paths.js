/* Runs of dense layers: junctions that explain errors, and the path of a wrong image. */
"use strict";
(() => {
  const { h } = IG;
  const SCOPE = () => IG.overview.scopes[0];
  const SHOWN = 200;

  const wordText = (layer, word) => {
    if (word === null || word === undefined) return "–";
    if (layer === IG.overview.run.output) return IG.className(word);
    const name = IG.side.wordName(SCOPE(), layer, word), text = `${IG.title(layer)} word ${word}${name ? `: ${name}` : ""}`;
    return IG.side.wordNumber(SCOPE(), layer, word) === null ? text : IG.link(IG.wordHash(SCOPE(), layer, word), text);
  };
  const junctionText = (row) => (row.lower_layer === null ? "start" : wordText(row.lower_layer, row.lower_word));

  IG.pages.paths = async (parts, params) => {
    if (!IG.overview.run.chain) return IG.missing("Paths belong to runs of dense layers (a preset with [hmm]); this run has graphs.");
    const content = await IG.load("junctions", "all"), triage = content.triage;
    const table = IG.table([
      { title: "junction", head: true, cell: junctionText }, { title: "errors", number: true, key: (row) => row.errors, cell: (row) => (row.errors ? IG.link(`#/paths?j=${encodeURIComponent(row.junction)}`, IG.count(row.errors)) : "0"), hint: "Misclassified validation images that leave their class's paths here" },
      { title: "share", number: true, key: (row) => row.share, text: (row) => IG.percent(row.share) }, { title: "together", number: true, text: (row) => IG.percent(row.cumulative_share), hint: "Share of this and all earlier junctions" },
      { title: "right images leaving", number: true, key: (row) => row.correct_leaving, text: (row) => IG.count(row.correct_leaving), hint: "Correctly classified validation images that leave here as well: what would happen anyway" },
      { title: "images", number: true, key: (row) => row.images, text: (row) => IG.count(row.images), hint: "Validation images whose path comes by" },
      { title: "log-odds", number: true, key: (row) => row.mean_log_odds, text: (row) => IG.number(row.mean_log_odds, 2), hint: "Mean of the taken word over the expected one, nats" },
      { title: "commonest confusion", text: (row) => (row.label_name === null ? "–" : `${row.label_name} taken for ${row.predicted_name} (${row.confusions})`) },
    ], content.junctions, { caption: "Junctions, those that explain most errors first" });
    const chosen = params.get("j"), picked = triage.image.map((image, i) => i).filter((i) => !chosen || triage.junction[i] === chosen);
    const list = IG.table([
      { title: "image", head: true, key: (i) => triage.image[i], cell: (i) => IG.link(`#/path/${triage.image[i]}`, String(triage.image[i])) },
      { title: "true class", key: (i) => IG.className(triage.label[i]), text: (i) => IG.className(triage.label[i]) }, { title: "predicted", key: (i) => IG.className(triage.predicted[i]), text: (i) => IG.className(triage.predicted[i]) },
      { title: "leaves at", key: (i) => triage.junction[i], text: (i) => triage.junction[i] }, { title: "log-odds", number: true, key: (i) => triage.log_odds[i], text: (i) => IG.number(triage.log_odds[i], 2) },
    ], picked.slice(0, SHOWN), { label: "Misclassified images" });
    return { title: "paths", element: h("div", { class: "page" }, h("h1", null, "Paths and junctions"), h("p", { class: "quiet" }, "Every image has a path of one word a layer. A misclassified image leaves the paths of its true class at its junction: the first branch that no correctly classified training image of the class takes."),
      content.junctions.length ? table.element : h("p", { class: "quiet" }, "No junctions: no validation image is misclassified, or the stage paths has not ended."),
      h("section", null, h("h2", null, chosen ? `Errors that leave at ${chosen}` : "Errors"), h("p", { class: "quiet" }, `${IG.count(picked.length)} images${picked.length > SHOWN ? `, the first ${SHOWN} shown` : ""}. `, chosen ? IG.link("#/paths", "all") : ""), list.element)) };
  };

  IG.pages.path = async (parts) => {
    if (!IG.overview.run.chain) return IG.missing("Paths belong to runs of dense layers (a preset with [hmm]).");
    const image = Number(parts[0]), content = await IG.load("junctions", "all"), at = content.triage.image.indexOf(image);
    if (at < 0) return IG.missing(`Image ${parts[0]} has no path here: the site has those of misclassified validation images.`);
    let block = content.blocks.length - 1;
    while (block > 0 && content.blocks[block] > image) block -= 1;
    const paths = await IG.load("path", block), path = paths[String(image)], triage = content.triage, level = triage.level[at], leaves = (i) => level === i + 1;
    const steps = path ? path.steps : [], boxes = [];
    const rows = steps.map((step, i) => h("li", { class: leaves(i) ? "leaves" : null }, h("div", { class: "strip" }, (() => { const box = h("span", { class: "strip" }); if (step.layer !== IG.overview.run.output) boxes.push([box, step.layer, step.word]); return box; })()),
      h("div", null, h("strong", null, wordText(step.layer, step.word)), h("div", { class: "quiet" }, `probability ${IG.percent(Math.exp(step.log_probability))}`, step.runner_up === null ? "" : [", next ", wordText(step.layer, step.runner_up), `, less probable by ${IG.number(step.runner_up_log_odds, 2)} nats`]),
        leaves(i) ? h("div", { class: "badge lost" }, "leaves the paths of ", IG.className(triage.label[at]), triage.expected_word[at] === null ? "" : [": expected ", wordText(step.layer, triage.expected_word[at])]) : null)));
    for (const [box, layer, word] of boxes) IG.side.word(SCOPE(), layer, word).then((found) => { if (found && found.sheet) box.append(...found.exemplars.slice(0, 6).map((one, place) => IG.tileBox(found.sheet, place, 44))); }, () => {});
    const photo = await IG.side.photo(image), graph = IG.side.scopesOf(`image:${image}`)[0];
    return { title: `path of image ${image}`, element: h("div", { class: "page" }, h("h1", null, `Path of image ${image}`), h("p", null, "Predicted ", h("strong", null, IG.className(triage.predicted[at])), ", but it is ", h("strong", null, IG.className(triage.label[at])), ". ", graph ? IG.link(IG.graphHash(`image:${image}`, graph), "Its graph") : null, " ", IG.link(`#/paths?j=${encodeURIComponent(triage.junction[at])}`, "Other errors of its junction")),
      photo ? h("img", { src: IG.dataUri(photo), class: "photo pixels", alt: `image ${image}` }) : null, path ? h("p", { class: "quiet" }, `Log probability of the whole path ${IG.number(path.log_probability, 2)} nats. From the lowest layer to the prediction:`) : h("p", { class: "quiet" }, "Its path is not written."), h("ol", { class: "path" }, rows)) };
  };
})();
