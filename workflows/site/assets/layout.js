/* Which words and arrows a graph has at some Z, and where they stand. */
"use strict";
(() => {
  /* Layers from the class down: chosen words with scores, what came next, and the arrows between chosen words. */
  IG.choose = (content, z) => {
    const at = content.tops.indexOf(z), ranked = content.ranked[at < 0 ? content.tops.indexOf(content.top) : at];
    const top = at < 0 ? content.top : z;
    const layers = content.layers.map((layer, level) => {
      const taken = ranked[level].slice(0, level ? top : 1), above = level ? ranked[level - 1].slice(0, level > 1 ? top : 1) : [];
      const describe = (place, rank) => ({
        layer, level, place, rank,
        word: content.words[level][place],
        key: `${layer}:${content.words[level][place]}`,
        positions: level ? content.positions[level - 1][place] : content.omega,
        share: level ? content.positions[level - 1][place] / content.whole[level - 1] : 1,
        score: level ? above.reduce((sum, upper) => {
          const count = content.pairs[level - 1][upper][place], ratio = content.ratios[level - 1][upper][place];
          return count > 0 && ratio !== null ? sum + count * ratio : sum;
        }, 0) : 0,
      });
      return { layer, level, nodes: taken.map(describe), next: level ? ranked[level].slice(top).map(describe) : [] };
    });
    const edges = [];
    for (let level = 1; level < layers.length; level += 1) {
      for (const upper of layers[level - 1].nodes) {
        for (const lower of layers[level].nodes) {
          const count = content.pairs[level - 1][upper.place][lower.place], ratio = content.ratios[level - 1][upper.place][lower.place];
          if (count > 0 && ratio !== null) {
            edges.push({ upper, lower, level, count, ratio, frequency: count / content.sums[level - 1][upper.place], score: count * ratio, key: `${upper.key}>${lower.key}` });
          }
        }
      }
    }
    return { layers, edges, z: top };
  };

  /* Barycentre sweeps, then exchanges of neighbours while arrows that cross become fewer. */
  IG.order = (layers, edges) => {
    const rows = layers.map((layer) => layer.nodes.slice());
    const near = new Map();
    const join = (from, to) => (near.get(from.key) || near.set(from.key, []).get(from.key)).push(to.key);
    for (const edge of edges) { join(edge.upper, edge.lower); join(edge.lower, edge.upper); }
    const places = (row) => new Map(row.map((node, place) => [node.key, row.length > 1 ? place / (row.length - 1) : 0.5]));
    const crossings = (level) => {
      const up = places(rows[level - 1]), low = places(rows[level]), own = edges.filter((edge) => edge.level === level);
      let total = 0;
      for (let i = 0; i < own.length; i += 1) for (let j = i + 1; j < own.length; j += 1) {
        if ((up.get(own[i].upper.key) - up.get(own[j].upper.key)) * (low.get(own[i].lower.key) - low.get(own[j].lower.key)) < 0) total += 1;
      }
      return total;
    };
    const around = (level) => (level > 0 ? crossings(level) : 0) + (level + 1 < rows.length ? crossings(level + 1) : 0);
    const sweep = (level, by) => {
      const fixed = places(rows[by]), own = places(rows[level]);
      const mean = (node) => {
        const known = (near.get(node.key) || []).map((key) => fixed.get(key)).filter((x) => x !== undefined);
        return known.length ? known.reduce((a, b) => a + b, 0) / known.length : own.get(node.key);
      };
      rows[level] = rows[level].map((node) => [mean(node), node]).sort((a, b) => a[0] - b[0]).map((one) => one[1]);
    };
    for (let round = 0; round < 4; round += 1) {
      for (let level = 1; level < rows.length; level += 1) sweep(level, level - 1);
      for (let level = rows.length - 2; level >= 0; level -= 1) sweep(level, level + 1);
    }
    if (edges.length < 400) {
      for (let level = 1; level < rows.length; level += 1) for (let place = 0; place + 1 < rows[level].length; place += 1) {
        const before = around(level), row = rows[level];
        [row[place], row[place + 1]] = [row[place + 1], row[place]];
        if (around(level) >= before) [row[place], row[place + 1]] = [row[place + 1], row[place]];
      }
    }
    return rows;
  };

  /* Cards: six pictures in a row where few words stand in a layer and the graph has the page alone, 3 x 2 else. */
  IG.place = (rows, alone) => {
    const widest = Math.max(...rows.map((row) => row.length)), roomy = widest <= 4;
    const size = roomy && alone ? { width: 398, height: 126, tile: 62, columns: 6, gap: 96, between: 46 }
      : roomy ? { width: 204, height: 192, tile: 62, columns: 3, gap: 92, between: 52 } : { width: 158, height: 156, tile: 46, columns: 3, gap: 84, between: 22 };
    const width = widest * size.width + (widest - 1) * size.between, spots = new Map();
    rows.forEach((row, level) => {
      const own = row.length * size.width + (row.length - 1) * size.between;
      row.forEach((node, place) => spots.set(node.key, { x: (width - own) / 2 + place * (size.width + size.between), y: level * (size.height + size.gap) }));
    });
    return { spots, size, roomy, width, height: rows.length * size.height + (rows.length - 1) * size.gap };
  };
})();
