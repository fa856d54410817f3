/* Routes, the head of the page, keys, and the start. */
"use strict";
(() => {
  const { h } = IG;
  const main = document.getElementById("main");
  let shown = 0, page = null, last = null;

  function head() {
    const toggle = h("button", { type: "button", onclick: () => { IG.theme(IG.theme() === "dark" ? "light" : "dark"); } }, "Light / dark");
    document.getElementById("top").replaceChildren(h("a", { href: "#/", class: "brand" }, IG.overview.run.name), h("nav", { "aria-label": "Pages" }, IG.link("#/", "Overview"), IG.overview.graphs.number.length ? IG.link("#/compare", "Compare") : null, IG.overview.run.chain ? IG.link("#/paths", "Paths") : null,
      /* The command serve answers there, on this machine alone. */
      location.protocol === "http:" && ["127.0.0.1", "localhost"].includes(location.hostname) ? IG.link("/sql", "SQL") : null),
      h("span", { class: "spring" }), h("button", { type: "button", onclick: () => navigator.clipboard.writeText(location.href).then(() => IG.tell("Link copied"), () => IG.tell(location.href)), title: "Copy a link that restores this view" }, "Copy link"), toggle);
    const skip = document.getElementById("skip");
    skip.addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
  }

  const sameRoute = (a, b) => a && b && a.split("?")[0] === b.split("?")[0];

  async function show() {
    const turn = (shown += 1), hash = location.hash || "#/", [path, query] = hash.slice(1).split("?"), parts = path.split("/").filter(Boolean);
    const route = parts.length ? parts[0] : "overview", make = Object.hasOwn(IG.pages, route) ? IG.pages[route] : () => IG.missing(`There is no page ${route}.`);
    main.setAttribute("aria-busy", "true");
    let made;
    try {
      made = await make(parts.slice(1), new URLSearchParams(query || ""));
    } catch (error) {
      made = { title: "error", element: h("div", { class: "page" }, h("h1", null, "This page could not be shown"), h("p", { class: "warning" }, String(error.message || error))) };
      if (!(error instanceof Error)) throw error;
    }
    if (turn !== shown) return;
    page = made;
    main.replaceChildren(made.element);
    main.removeAttribute("aria-busy");
    document.title = made.title === IG.overview.run.name ? `${made.title}: inference graphs` : `${made.title} · ${IG.overview.run.name}`;
    if (made.mounted) made.mounted();
    if (!sameRoute(last, hash)) { scrollTo(0, 0); if (last) main.focus({ preventScroll: true }); }
    last = hash;
    document.documentElement.dataset.shown = String(turn);
  }

  addEventListener("keydown", (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      const field = document.getElementById("search");
      if (field) field.focus();
      else { location.hash = "#/"; addEventListener("hashchange", () => setTimeout(() => { const later = document.getElementById("search"); if (later) later.focus(); }, 200), { once: true }); }
    } else if (!typing && page && page.view && ["+", "=", "-", "0"].includes(event.key) && !event.ctrlKey && !event.metaKey) page.view.key(event);
  });
  addEventListener("hashchange", show);
  addEventListener("resize", () => { if (page && page.view && !page.view.view) page.view.fit(true); });
  addEventListener("fullscreenchange", () => { if (page && page.view) page.view.fit(true); });
  addEventListener("beforeprint", () => { if (page && page.view) page.view.fit(true); });

  IG.load("overview", "all").then(async (overview) => {
    IG.overview = overview;
    IG.side = new IG.Side(overview, "");
    IG.other = overview.beside === null ? null : new IG.Side(await IG.load("beside-overview", "all"), "beside-");
    head();
    return show();
  }).catch((error) => { main.replaceChildren(h("p", { class: "warning" }, `The site cannot be shown: ${error.message}`)); });
})();
