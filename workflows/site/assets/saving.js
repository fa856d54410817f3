/* A graph as a file: styles become attributes, pictures are data already. */
"use strict";
(() => {
  const COPIED = ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-size", "font-family", "font-weight", "text-anchor", "image-rendering", "display"];

  IG.svgText = (view) => {
    const box = view.bounds(), copy = view.svg.cloneNode(true), originals = view.svg.querySelectorAll("*"), copies = copy.querySelectorAll("*");
    originals.forEach((original, place) => {
      const style = getComputedStyle(original);
      for (const name of COPIED) {
        const value = style.getPropertyValue(name);
        if (value && !copies[place].hasAttribute("xmlns")) copies[place].setAttribute(name, value);
      }
      copies[place].removeAttribute("tabindex");
    });
    const inner = copy.querySelector(".inner");
    inner.removeAttribute("transform");
    copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    copy.setAttribute("width", Math.ceil(box.width));
    copy.setAttribute("height", Math.ceil(box.height));
    copy.setAttribute("viewBox", `${box.x} ${box.y} ${box.width} ${box.height}`);
    copy.removeAttribute("style");
    copy.prepend(IG.s("rect", { x: box.x, y: box.y, width: box.width, height: box.height, fill: getComputedStyle(document.body).backgroundColor }));
    return new XMLSerializer().serializeToString(copy);
  };

  const name = (view, ending) => `${IG.overview.run.name}-${view.content.graph}-z${view.graph.z}`.replace(/[^A-Za-z0-9._-]+/g, "-") + `.${ending}`;

  function download(blob, file) {
    const url = URL.createObjectURL(blob), anchor = IG.h("a", { href: url, download: file });
    document.body.append(anchor);
    anchor.click();
    anchor.remove();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
    IG.tell(`Saved ${file}`);
  }

  IG.saveSvg = async (view) => {
    await view.ready;
    download(new Blob([IG.svgText(view)], { type: "image/svg+xml" }), name(view, "svg"));
  };

  IG.savePng = async (view) => {
    await view.ready;
    const box = view.bounds(), scale = Math.min(2, 8000 / Math.max(box.width, box.height)), picture = new Image();
    picture.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(IG.svgText(view))}`;
    await picture.decode();
    const canvas = IG.h("canvas", { width: Math.ceil(box.width * scale), height: Math.ceil(box.height * scale) });
    canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((blob) => download(blob, name(view, "png")), "image/png");
  };
})();
