/* Two graphs side by side: words that both have, and words that one has alone. */
"use strict";
(() => {
  const { h } = IG;

  /* Words of one side as words of the other: themselves within a run, matched by overlap between two runs. */
  function translator(from, to, matches, scopeFrom, scopeTo) {
    if (from === to) return (layer, word) => (scopeFrom === scopeTo ? { layer, word, overlap: 1 } : null);
    const forward = from === IG.side;
    return (layer, word) => {
      for (const one of matches ? matches.layers : []) {
        if (one.scopes[forward ? 0 : 1] !== scopeFrom || one.scopes[forward ? 1 : 0] !== scopeTo || one.names[forward ? 0 : 1] !== layer) continue;
        const found = one.pairs.find((pair) => pair[forward ? 0 : 1] === word);
        if (found && found[2] > 0) return { layer: one.names[forward ? 1 : 0], word: found[forward ? 1 : 0], overlap: found[2] };
      }
      return null;
    };
  }

  /* options: path, params, left, right {side, scope, graph} or null, keep. */
  IG.pairOfGraphs = async (options) => {
    const { left, right, params } = options, ends = [left, right].filter(Boolean), contents = await Promise.all(ends.map((end) => end.side.graph(end.scope, end.graph)));
    const state = IG.graphState(params, contents[0]), panel = h("aside", { class: "panel", "aria-label": "Details" }), views = [];
    const matches = right && right.side !== left.side ? await IG.load("match", "all") : null;
    let active = params.get("w") === "1" ? 1 : 0;
    const remember = () => IG.remember(options.path, { ...options.keep, z: state.z === contents[0].top ? null : state.z, t: state.t === 0 ? null : state.t, h: state.heats ? null : "0",
      n: views[active] && views[active].selected ? views[active].selected.key : null, w: active ? "1" : null, v: views[0] ? IG.rounded(views[0].view) : null, u: views[1] ? IG.rounded(views[1].view) : null });
    const translators = right ? [translator(left.side, right.side, matches, left.scope, right.scope), translator(right.side, left.side, matches, right.scope, left.scope)] : [];
    const comparable = right && (left.side !== right.side ? matches && matches.layers.some((one) => one.scopes[0] === left.scope && one.scopes[1] === right.scope) : left.scope === right.scope);
    const marker = (place) => (node) => {
      if (!comparable || views.length < 2) return null;
      const same = translators[place](node.layer, node.word), other = views[1 - place];
      const found = same && other.graph && other.nodes().some((one) => one.layer === same.layer && one.word === same.word);
      if (found) return { kind: "shared", text: left.side === right.side ? "in both" : `both: word ${same.word}, overlap ${IG.percent(same.overlap)}` };
      return place ? { kind: "added", text: "only right" } : { kind: "lost", text: "only left" };
    };
    for (const [place, end] of ends.entries()) {
      views.push(await IG.openGraph(end.side, end.scope, end.graph, { z: state.z, ratio: state.t, heats: state.heats, view: IG.viewOf(params.get(place ? "u" : "v")), mark: marker(place), alone: !right, tall: 380, onchange: remember,
        onselect: (thing) => { active = place; panel.replaceChildren(h("p", { class: "quiet" }, right ? (place ? "Right: " : "Left: ") : "", IG.graphTitle(end.graph, end.side)), IG.panel(views[place], thing)); } }));
    }
    const summary = h("p", { class: "quiet", role: "status" });
    const tally = () => {
      if (!comparable) { summary.textContent = right && right.side === left.side ? "The two graphs are of different scopes, whose words are not the same." : right ? "The words of these scopes were not matched." : ""; return; }
      const nodes = views[0].nodes().filter((node) => node.level), shared = nodes.filter((node) => (marker(0)(node) || {}).kind === "shared").length, others = views[1].nodes().filter((node) => node.level).length;
      summary.textContent = `${shared} words in both, ${nodes.length - shared} only left, ${others - shared} only right${matches ? `; words are matched by overlap on ${IG.count(matches.images)} images of both runs` : ""}.`;
    };
    for (const view of views) view.render();
    tally();
    const change = (name) => {
      const keys = views.map((view) => view.selected && view.selected.key);
      for (const view of views) { Object.assign(view, { z: view.content.tops.includes(state.z) ? state.z : view.content.top, ratio: state.t, heats: state.heats }); if (name === "z") view.view = null; }
      const drawn = views.map((view) => view.draw());
      for (const view of views) view.render();
      tally();
      Promise.all(drawn).then(() => { for (const view of views) view.render(); });
      views[active].selectKey(keys[active]);
      remember();
    };
    const element = h("div", { class: `workspace${right ? " two" : ""}` }, views.map((view, place) => h("section", { class: "half" }, h("h2", null, right ? (place ? "Right: " : "Left: ") : "", view.content.graph.startsWith("image") ? `image ${view.content.graph.split(":")[1]}, predicted ${view.content.root}` : `class ${view.content.root}`, ends[place].side.prefix ? ` (${ends[place].side.overview.run.name}, the other run)` : ""), view.element)), panel);
    return { views, element: h("div", null, summary, element), controls: IG.controls(contents[0].tops, state, change), marks: right ? h("span", null, h("span", { class: "key shared" }), " in both graphs ", h("span", { class: "key lost" }), " only left ", h("span", { class: "key added" }), " only right.") : null,
      mounted: () => {
        for (const view of views) { if (view.view) { const kept = view.view; view.fit(true); view.transform(...kept); view.view = kept; } else view.fit(true); }
        views[active].selectKey(params.get("n"));
        Promise.all(views.map((view) => view.ready)).then(() => views[active].selectKey(params.get("n") || (views[active].selected && views[active].selected.key) || null));
      } };
  };

  const sides = () => [["", IG.side], ...(IG.other ? [["@", IG.other]] : [])];
  const parse = (text) => {
    if (!text) return null;
    const prefix = text.startsWith("@") ? "@" : "", at = text.lastIndexOf("|"), side = prefix ? IG.other : IG.side;
    const end = { side, scope: text.slice(prefix.length, at), graph: text.slice(at + 1), text };
    return side && at > 0 && side.has(end.scope, end.graph) ? end : null;
  };

  function chooser(name, chosen, change) {
    const groups = sides().map(([prefix, side]) => {
      const options = side.overview.graphs.number.map((number, place) => {
        const scope = side.overview.scopes[side.overview.graphs.scope[place]], graph = `${side.overview.graphs.kind[place] === "i" ? "image" : "class"}:${number}`, value = `${prefix}${scope}|${graph}`;
        return { value, text: `${IG.graphTitle(graph, side)}${side.overview.scopes.length > 1 ? ` (${scope})` : ""}` };
      });
      return h("optgroup", { label: prefix ? `${side.overview.run.name}, the other run` : side.overview.run.name }, options.map((one) => h("option", { value: one.value, selected: one.value === chosen }, one.text)));
    });
    const select = h("select", { "aria-label": name, onchange: () => change(select.value) }, groups);
    return h("label", null, `${name} `, select);
  }

  IG.pages.compare = async (parts, params) => {
    const graphs = IG.overview.graphs;
    if (!graphs.number.length) return IG.missing("The run has no graphs yet.");
    const named = (place) => `${IG.overview.scopes[graphs.scope[place]]}|${graphs.kind[place] === "i" ? "image" : "class"}:${graphs.number[place]}`;
    const first = params.get("a") || named(0), fallback = IG.other ? `@${first}` : named(Math.min(1, graphs.number.length - 1)), second = params.get("b") || (parse(fallback) ? fallback : named(0));
    const left = parse(first), right = parse(second);
    if (!left || !right) return IG.missing(`There is no graph ${left ? second : first}.`);
    const go = (a, b) => { location.hash = `#/compare?a=${encodeURIComponent(a)}&b=${encodeURIComponent(b)}`; };
    const pair = await IG.pairOfGraphs({ path: "/compare", params, left, right, keep: { a: first, b: second } });
    return { title: "compare", mounted: pair.mounted, view: pair.views[0], element: h("div", { class: "page wide" }, h("h1", null, "Compare two graphs"),
      h("div", { class: "row" }, chooser("Left", first, (value) => go(value, second)), chooser("Right", second, (value) => go(first, value)), h("button", { type: "button", onclick: () => go(second, first) }, "Swap"), pair.controls), pair.element, IG.legend(false, pair.marks)) };
  };
})();
