"use strict";
(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const words = data.vocabulary;
  const index = new Map(data.latents.map((latent, i) => [latent.n, i]));
  const BLUE = [33, 102, 172], RED = [178, 24, 43];
  let shown = data.latents.map((_, i) => i);
  let current = 0;

  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name === "style") { element.style.cssText = value; } else { element.setAttribute(name, value); }
    }
    element.append(...children);
    return element;
  }

  function draw(tag, attributes, text) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) { element.setAttribute(name, value); }
    if (text !== undefined) { element.textContent = text; }
    return element;
  }

  const number = (value) => value === null ? "–" : String(+value.toPrecision(3)).replace("-", "−");
  const fixed = (value, digits) => value.toFixed(digits).replace("-", "−");
  const color = (share) => {
    const part = Math.min(Math.abs(share), 1), end = share < 0 ? RED : BLUE;
    return end.map((channel) => Math.round(255 + (channel - 255) * part));
  };

  // black or white, whichever stands out more (WCAG 2)
  function ink(rgb) {
    const linear = rgb.map((c) => c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
    const light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
    return (light + 0.05) ** 2 > 1.05 * 0.05 ? "black" : "white";
  }

  function histogram(title, counts, left, right, options) {
    const width = 360, height = 130, top = 16, bottom = 20, side = 8;
    const svg = draw("svg", { width, height, role: "img", "aria-label": title });
    const most = Math.max(1, ...counts), step = (width - 2 * side) / counts.length;
    const across = (value) => side + (value - left) / (right - left) * (width - 2 * side);
    counts.forEach((count, i) => {
      const tall = count ? Math.max(1, (height - top - bottom) * count / most) : 0;
      const bar = draw("rect", { x: side + i * step, y: height - bottom - tall, width: Math.max(step - 1, 0.5),
        height: tall, fill: options.fill });
      bar.append(draw("title", {}, `${options.name(i)}: ${count.toLocaleString("en")}`));
      svg.append(bar);
    });
    svg.append(draw("line", { x1: side, x2: width - side, y1: height - bottom, y2: height - bottom, stroke: "#787878" }));
    let free = -Infinity;
    for (const [text, value, strong] of options.marks) {
      const x = across(value);
      svg.append(draw("line", { x1: x, x2: x, y1: top, y2: height - bottom, stroke: strong ? "rgb(178,24,43)" : "#787878",
        "stroke-width": strong ? 2 : 1, "stroke-dasharray": strong ? "" : "2 2" }));
      if (x > free) {
        svg.append(draw("text", { x, y: top - 4, "text-anchor": x > width - 40 ? "end" : "middle" }, text));
        free = x + 30;
      }
    }
    for (const [text, value] of options.ticks) {
      const x = across(value);
      const anchor = x < 24 ? "start" : x > width - 24 ? "end" : "middle";
      svg.append(draw("text", { x, y: height - 6, "text-anchor": anchor }, text));
    }
    return make("div", {}, make("h3", {}, title), svg);
  }

  function activations(latent) {
    const n = latent.counts.length, high = latent.max || 1;
    return histogram("activations where it fires; dotted: quantiles", latent.counts, 0, high, {
      fill: "rgb(33,102,172)",
      name: (i) => `${number(i / n * high)} to ${number((i + 1) / n * high)}`,
      marks: latent.marks.slice().sort((a, b) => a[1] - b[1]),
      ticks: [0, 0.25, 0.5, 0.75, 1].map((share) => [number(share * high), share * high]),
    });
  }

  function densities(latent) {
    const { counts, low, width } = data.density;
    const percent = (power) => power < -6 ? `1e${power}` : `${+(10 ** (power + 2)).toPrecision(1)}%`;
    const ticks = [];
    for (let power = Math.ceil(low); power <= 0; power++) { ticks.push([percent(power), power]); }
    return histogram("density of all latents; red: this one", counts, low, low + width * counts.length, {
      fill: "rgb(146,178,214)",
      name: (i) => `${number(100 * 10 ** (low + i * width))} % to ${number(100 * 10 ** (low + (i + 1) * width))} %`,
      marks: latent.density > 0 ? [["", Math.log10(latent.density), true]] : [],
      ticks,
    });
  }

  function bars(title, rows, limit) {
    const body = make("tbody", {});
    for (const [name, value] of rows) {
      const share = limit ? Math.min(Math.abs(value) / limit, 1) : 0;
      const fill = value < 0 ? "rgb(178,24,43)" : "rgb(33,102,172)";
      const bar = make("div", { class: "bar", style: `width:${100 * share}%;background:${fill}` });
      body.append(make("tr", {},
        make("td", { class: "name" }, name),
        make("td", {}, make("div", { class: "track" }, bar)),
        make("td", { class: "value" }, fixed(value, Math.abs(value) >= 100 ? 1 : 3))));
    }
    const content = rows.length ? make("table", { class: "bars" }, body) : make("p", { class: "none" }, "none");
    return make("div", {}, make("h3", {}, title), content);
  }

  const tokens = (pairs) => pairs.map(([word, value]) => [words[word], value]);
  const links = (pairs) => pairs.map(([n, value]) => [
    index.has(n) ? make("a", { href: `#latent-${n}` }, String(n)) : String(n), value]);

  function example(row, high) {
    const values = new Map(row.a);
    const text = make("div", { class: "text" });
    row.t.forEach((word, at) => {
      const value = values.has(at) ? values.get(at) : 0;
      const read = value !== null, share = read ? Math.max(value, 0) / high : 0;
      const span = make("span", { class: "token" + (read ? "" : " unread") + (at === row.p ? " peak" : "") }, words[word]);
      if (share > 0) {
        const rgb = color(share);
        span.style.background = `rgb(${rgb})`;
        span.style.color = ink(rgb);
      }
      const position = row.w[1] + at - row.p;
      span.dataset.tip = `${words[word]}   ${read ? number(value) : "not read"}   position ${position}`;
      text.append(span);
    });
    const peak = values.get(row.p);
    return make("div", { class: "example" },
      make("div", { class: "where" }, `prompt ${row.w[0]} : ${row.w[1]}`),
      make("div", { class: "activation" }, fixed(peak || 0, high >= 100 ? 1 : 2)), text);
  }

  function render() {
    const latent = data.latents[current];
    const section = document.getElementById("latent");
    const panels = make("div", { class: "panels" });
    const drawn = [];
    if (latent.density > 0) { drawn.push(activations(latent)); }
    if (data.density) { drawn.push(densities(latent)); }
    panels.append(make("div", {}, ...drawn));
    const largest = Math.max(...latent.up.map((p) => p[1]), ...latent.down.map((p) => -p[1]), 1e-12);
    if (latent.up.length) {
      panels.append(bars("logits raised", tokens(latent.up), largest), bars("logits lowered", tokens(latent.down), largest));
    }
    panels.append(bars("nearest directions (cosine)", links(latent.near), 1));
    if (latent.density > 0) { panels.append(bars("fire together (phi)", links(latent.coactive), 1)); }
    if (latent.heads.length) {
      panels.append(bars("decoder by head (share)", latent.heads.map((share, head) => [`H${head}`, share]), 1));
    }
    const groups = latent.groups.map((group) => make("div", { class: "group" }, make("h3", {}, group.name),
      ...group.rows.map((row) => example(row, latent.max || 1))));
    section.replaceChildren(make("h2", {}, `Latent ${latent.n}${latent.label ? ` “${latent.label}”` : ""}`),
      make("p", { class: "facts" }, latent.facts.join(" · ")), panels, ...groups);
    update();
  }

  function describe(latent) {
    const fired = latent.groups.length
      ? [...new Set(latent.groups[0].rows.map((row) => words[row.t[row.p]]))].slice(0, 4).join(" ") : "dead";
    return `${latent.n}  ${latent.label || fired}`;
  }

  const find = make("input", { type: "search", placeholder: "search: number, label, token", "aria-label": "search" });
  const list = make("select", { class: "list", "aria-label": "latent" });
  const order = make("select", { "aria-label": "order" });
  const before = make("button", { type: "button", title: "before (←)" }, "←");
  const after = make("button", { type: "button", title: "after (→)" }, "→");
  const count = make("span", { class: "count" });
  const orders = {
    "by number": (a, b) => a.n - b.n,
    "most frequent first": (a, b) => b.density - a.density,
    "rarest first": (a, b) => a.density - b.density,
    "largest activation first": (a, b) => (b.max || 0) - (a.max || 0),
    "labelled first": (a, b) => (b.label !== "") - (a.label !== "") || a.n - b.n,
  };
  for (const name of Object.keys(orders)) { order.append(make("option", { value: name }, name)); }

  function matches(latent, text) {
    if (!text) { return true; }
    if (/^\d+$/.test(text) && String(latent.n).startsWith(text)) { return true; }
    const there = (word) => words[word].toLowerCase().includes(text);
    return latent.label.toLowerCase().includes(text) || latent.up.some(([word]) => there(word)) ||
      latent.groups.some((group) => group.rows.some((row) => there(row.t[row.p])));
  }

  function choose() {
    const text = find.value.trim().toLowerCase();
    shown = data.latents.map((_, i) => i).filter((i) => matches(data.latents[i], text));
    shown.sort((a, b) => orders[order.value](data.latents[a], data.latents[b]));
    list.replaceChildren(...shown.map((i) => make("option", { value: i }, describe(data.latents[i]))));
    if (shown.length && !shown.includes(current)) { go(shown[0]); } else { update(); }
  }

  function update() {
    const place = shown.indexOf(current);
    list.value = place < 0 ? "" : String(current);
    before.disabled = place <= 0;
    after.disabled = place < 0 || place >= shown.length - 1;
    count.textContent = shown.length ? `${place + 1} of ${shown.length}` : "no latent matches";
  }

  function go(i) {
    const address = `#latent-${data.latents[i].n}`;
    current = i;
    if (location.hash !== address) { history.replaceState(null, "", address); }
    render();
  }

  function move(by) {
    const place = shown.indexOf(current) + by;
    if (place >= 0 && place < shown.length) { go(shown[place]); }
  }

  function follow() {
    const found = /^#latent-(\d+)$/.exec(location.hash);
    if (!found || !index.has(Number(found[1]))) { return false; }
    const i = index.get(Number(found[1]));
    if (!shown.includes(i)) { find.value = ""; choose(); }
    go(i);
    return true;
  }

  if (data.latents.length > 1) {
    document.getElementById("controls").append(before, after, list, order, find, count);
  }
  find.addEventListener("input", choose);
  order.addEventListener("change", choose);
  list.addEventListener("change", () => go(Number(list.value)));
  before.addEventListener("click", () => move(-1));
  after.addEventListener("click", () => move(1));
  window.addEventListener("hashchange", follow);
  document.addEventListener("keydown", (event) => {
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey) {
      if (event.key === "Escape") { event.target.blur(); }
      return;
    }
    if (event.key === "ArrowLeft") { move(-1); }
    if (event.key === "ArrowRight") { move(1); }
    if (event.key === "/") { event.preventDefault(); find.focus(); }
  });
  choose();
  if (!follow()) { go(shown[0]); }
})();
