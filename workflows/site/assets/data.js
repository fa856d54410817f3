/* Chunks: data/<kind>/<key>.js, each one call of IG.put. Only files that the overview knows of are asked for. */
"use strict";
(() => {
  const held = new Map(), waiting = new Map();

  IG.put = (name, text) => held.set(name, JSON.parse(text));

  IG.load = (kind, key) => {
    const name = `${kind}/${key}`;
    if (held.has(name)) return Promise.resolve(held.get(name));
    if (!waiting.has(name)) {
      waiting.set(name, new Promise((resolve, reject) => {
        const script = IG.h("script", { src: `data/${kind}/${key}.js` });
        script.onload = () => {
          waiting.delete(name);
          script.remove();
          if (held.has(name)) resolve(held.get(name));
          else reject(new Error(`data/${kind}/${key}.js holds nothing: the site is damaged, write it again`));
        };
        script.onerror = () => {
          waiting.delete(name);
          script.remove();
          reject(new Error(`data/${kind}/${key}.js is missing: the site was copied in part, write it again`));
        };
        document.head.append(script);
      }));
    }
    return waiting.get(name);
  };

  /* A side is one run of the site: its overview, and chunks under a prefix. */
  class Side {
    constructor(overview, prefix) {
      this.overview = overview;
      this.prefix = prefix;
      this.graphNumbers = new Map();
      overview.graphs.number.forEach((number, place) => {
        const kind = overview.graphs.kind[place] === "i" ? "image" : "class";
        this.graphNumbers.set(`${overview.graphs.scope[place]}|${kind}:${number}`, place);
      });
      this.shown = overview.words.shown === null ? null : new Set(overview.words.shown);
    }
    className(label) {
      if (label === null || label === undefined || label < 0) return "";
      const name = this.overview.classes.name[label];
      return name === undefined ? `class ${label}` : name;
    }
    title(layer) {
      const found = this.overview.layers.find((one) => one.name === layer);
      return found ? found.title : layer;
    }
    wordName(scope, layer, word) {
      const of = this.overview.scopes.indexOf(scope), found = this.overview.names.find((one) => one[0] === of && one[1] === layer && one[2] === word);
      return found ? found[3] : "";
    }
    scopesOf(graph) {
      return this.overview.scopes.filter((scope, place) => this.graphNumbers.has(`${place}|${graph}`));
    }
    has(scope, graph) {
      return this.graphNumbers.has(`${this.overview.scopes.indexOf(scope)}|${graph}`);
    }
    graph(scope, graph) {
      return IG.load(`${this.prefix}graph`, this.graphNumbers.get(`${this.overview.scopes.indexOf(scope)}|${graph}`));
    }
    wordNumber(scope, layer, word) {
      const of = this.overview.scopes.indexOf(scope), level = this.overview.layers.findIndex((one) => one.name === layer);
      if (of < 0 || level < 0 || !Number.isInteger(word) || word < 0 || word >= this.overview.layers[level].words) return null;
      const number = this.overview.words.first[of][level] + word;
      return this.shown && !this.shown.has(number) ? null : number;
    }
    word(scope, layer, word) {
      const number = this.wordNumber(scope, layer, word);
      return number === null ? Promise.resolve(null) : IG.load(`${this.prefix}word`, number);
    }
    photo(image) {
      if (!this.photos) this.photos = new Set(this.overview.photos);
      return this.photos.has(image) ? IG.load(`${this.prefix}photo`, image) : Promise.resolve(null);
    }
    heldWord(scope, layer, word) {
      return held.get(`${this.prefix}word/${this.wordNumber(scope, layer, word)}`) || null;
    }
  }
  IG.Side = Side;
})();
