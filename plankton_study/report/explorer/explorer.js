// The explorer: a map of cells, two cells side by side, and a browser of test images.
"use strict";
(() => {
  const root = document.querySelector(".explorer");
  const data = JSON.parse(document.querySelector(".explorer-data").textContent);
  const choice = (name) => root.querySelector(`[data-choice="${name}"]`);
  const place = (name) => root.querySelector(`[data-place="${name}"]`);
  const shown = (name) => name.replaceAll("_", " ");
  const ALL_LAYERS = "all layers";
  const MOST_IMAGES = 60;

  let chosen = null;
  let kept = null;

  // --- small pieces of the page

  function element(tag, text = "", attributes = {}) {
    const made = document.createElement(tag);
    made.textContent = text;
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  }

  function fill(select, values, label = shown) {
    select.replaceChildren(...values.map((value) => element("option", label(value), { value })));
  }

  function scoreText([value, low, high]) {
    if (low === null) return `${value.toFixed(1)} % (no interval)`;
    return `${value.toFixed(1)} % [${low.toFixed(1)}, ${high.toFixed(1)}]`;
  }

  function countText(count, taxon) {
    return `${count} of ${data.validation[taxon]} images`;
  }

  // from dark blue over green to yellow, as in the figures of the study
  const COLOURS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];

  function colour(share) {
    const at = Math.min(Math.max(share, 0), 1) * (COLOURS.length - 1);
    const below = Math.min(Math.floor(at), COLOURS.length - 2);
    const mixed = COLOURS[below].map((one, i) => Math.round(one + (at - below) * (COLOURS[below + 1][i] - one)));
    return { ground: `rgb(${mixed})`, ink: share > 0.6 ? "#000" : "#fff" };
  }

  // --- cells

  function cellsOf(encoder, readout) {
    const isJoined = readout === "layers";
    return data.encoders[encoder].cells.filter((cell) => (cell.layer === ALL_LAYERS) === isJoined);
  }

  function best(cells, metric) {
    return cells.reduce((a, b) => (b[metric][0] > a[metric][0] ? b : a));
  }

  function nameOf(cell) {
    return cell.timestep === null ? cell.layer : `${cell.layer} at timestep ${cell.timestep}`;
  }

  function drawMap() {
    const metric = choice("metric").value;
    const cells = cellsOf(choice("encoder").value, choice("readout").value);
    const scores = cells.map((cell) => cell[metric][0]);
    const least = Math.min(...scores);
    const range = Math.max(...scores) - least || 1;
    const layers = [...new Set(cells.map((cell) => cell.layer))];
    const timesteps = [...new Set(cells.map((cell) => cell.timestep))];
    const table = element("table");
    const head = table.createTHead().insertRow();
    head.append(element("th"), ...timesteps.map((t) => element("th", t === null ? "" : `t ${t}`, { scope: "col" })));
    const body = table.createTBody();
    for (const layer of layers) {
      const row = body.insertRow();
      row.append(element("th", layer, { scope: "row" }));
      for (const timestep of timesteps) {
        const cell = cells.find((one) => one.layer === layer && one.timestep === timestep);
        const button = element("button", cell[metric][0].toFixed(1), {
          type: "button",
          "aria-pressed": String(cell === chosen),
          "aria-label": `${nameOf(cell)}: ${scoreText(cell[metric])}`,
        });
        const { ground, ink } = colour((cell[metric][0] - least) / range);
        button.style.background = ground;
        button.style.color = ink;
        button.addEventListener("click", () => choose(cell));
        row.insertCell().append(button);
      }
    }
    place("map").replaceChildren(table);
  }

  function choose(cell) {
    const focused = document.activeElement?.getAttribute("aria-label");
    chosen = cell;
    drawMap();
    drawCells();
    // the map was drawn anew: give the keyboard its place back
    [...place("map").querySelectorAll("button")].find((one) => one.getAttribute("aria-label") === focused)?.focus();
  }

  function describe(panel, title, cell, encoder) {
    panel.replaceChildren(element("h3", title));
    if (!cell) {
      panel.append(element("p", "Keep a cell, then choose another one.", { class: "quiet" }));
      return;
    }
    panel.append(element("p", `${encoder}: ${nameOf(cell)}`));
    if (cell.resolution) panel.append(element("p", `maps of ${cell.resolution} × ${cell.resolution}`, { class: "quiet" }));
    panel.append(element("p", `macro-F1 ${scoreText(cell.macro_f1)}`, { "data-score": "macro_f1" }));
    panel.append(element("p", `accuracy ${scoreText(cell.accuracy)}`, { "data-score": "accuracy" }));
    panel.append(element("p", "Its commonest confusions among the validation images:", { class: "quiet" }));
    const list = element("ul");
    for (const [taxon, other, count] of cell.confusions) {
      list.append(element("li", `${shown(taxon)}, called ${shown(other)}: ${countText(count, taxon)}`));
    }
    panel.append(list);
  }

  function drawCells() {
    const encoder = choice("encoder").value;
    describe(place("chosen"), "The cell you chose", chosen, encoder);
    const keep = element("button", "Keep it to compare", { type: "button" });
    keep.addEventListener("click", () => {
      kept = { cell: chosen, encoder };
      drawCells();
    });
    place("chosen").append(keep);
    describe(place("kept"), "The cell you kept", kept?.cell, kept?.encoder);
  }

  function drawOthers() {
    const metric = choice("metric").value;
    const readout = choice("readout").value;
    const lines = Object.keys(data.encoders).map((name) => [name, best(cellsOf(name, readout), metric)]);
    lines.sort((a, b) => b[1][metric][0] - a[1][metric][0]);
    const table = element("table");
    for (const [name, cell] of lines) {
      const row = table.insertRow();
      row.append(element("th", name, { scope: "row" }));
      row.append(element("td", `${scoreText(cell[metric])}`), element("td", `\u00a0 ${nameOf(cell)}`, { class: "quiet" }));
    }
    place("others").replaceChildren(table);
  }

  function drawEncoder() {
    chosen = best(cellsOf(choice("encoder").value, choice("readout").value), choice("metric").value);
    drawMap();
    drawCells();
    drawOthers();
  }

  // --- images

  function shot(row, width) {
    const made = element("span", "", { class: "shot", role: "img", "aria-label": `image ${row}` });
    made.style.width = made.style.height = `${width}px`;
    const { rows, columns, side } = data.tiles;
    const position = rows.indexOf(Number(row));
    const scale = width / (side - 1);
    made.style.backgroundImage = `url(${data.pictures})`;
    made.style.backgroundSize = `${(columns * side - 1) * scale}px auto`;
    made.style.backgroundPosition = `${-(position % columns) * side * scale}px ${-Math.floor(position / columns) * side * scale}px`;
    return made;
  }

  function called(namer, number) {
    return data.taxa[data.names[namer][number][0]];
  }

  function confusionOf(namer, number) {
    return `${data.images[number].taxon} → ${called(namer, number)}`;
  }

  const numbers = data.images.map((_, number) => number);

  function keyOf(number) {
    if (choice("by").value === "taxon") return data.images[number].taxon;
    if (choice("by").value === "cluster") return String(data.images[number].cluster);
    return confusionOf(choice("namer").value, number);
  }

  function fillWhich() {
    const by = choice("by").value;
    const namer = choice("namer").value;
    place("namer").hidden = by !== "confusion";
    const counted = new Map();
    for (const number of numbers) {
      if (by === "confusion" && called(namer, number) === data.images[number].taxon) continue;
      counted.set(keyOf(number), (counted.get(keyOf(number)) ?? 0) + 1);
    }
    const keys = [...counted.keys()];
    if (by === "confusion") keys.sort((a, b) => counted.get(b) - counted.get(a));
    else keys.sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    fill(choice("which"), keys, (key) => `${shown(key)} (${counted.get(key)})`);
    drawImages();
  }

  function imageCard(number) {
    const image = data.images[number];
    const card = element("div", "", { class: "card" });
    if (data.pictures) card.append(shot(image.row, 128));
    card.append(element("h3", shown(image.taxon)));
    const list = element("ul", "", { class: "names" });
    for (const namer of Object.keys(data.names)) {
      const percent = data.names[namer][number][1];
      const name = called(namer, number);
      const isRight = name === image.taxon;
      const mark = isRight ? "✓" : "✗";
      list.append(element("li", `${mark} ${namer}: ${shown(name)}, ${percent} %`, { class: isRight ? "right" : "wrong" }));
    }
    card.append(list, element("p", "nearest training images:", { class: "quiet" }));
    const near = element("div", "", { class: "near" });
    for (const row of image.nearest) {
      const taxon = shown(data.training[row]);
      if (data.pictures) {
        const picture = shot(row, 48);
        picture.title = taxon;
        picture.setAttribute("aria-label", `training image: ${taxon}`);
        near.append(picture);
      } else near.append(element("span", taxon, { class: "quiet" }));
    }
    card.append(near);
    return card;
  }

  function drawImages() {
    const key = choice("which").value;
    const found = numbers.filter((number) => keyOf(number) === key);
    const cut = found.length > MOST_IMAGES ? `, the first ${MOST_IMAGES} are shown` : "";
    const without = data.pictures ? "" : " The pictures are not part of these stored results: run the study to see them.";
    // 12: IMAGES_OF_A_TAXON in questions/explorer.py
    place("count").textContent = `${found.length} of the ${numbers.length} test images that were kept, at most 12 of each taxon${cut}.${without}`;
    place("gallery").replaceChildren(...found.slice(0, MOST_IMAGES).map(imageCard));
  }

  // --- start

  fill(choice("encoder"), Object.keys(data.encoders), (name) => name);
  fill(choice("namer"), Object.keys(data.names), (name) => name);
  for (const name of ["encoder", "metric", "readout"]) choice(name).addEventListener("change", drawEncoder);
  for (const name of ["by", "namer"]) choice(name).addEventListener("change", fillWhich);
  choice("which").addEventListener("change", drawImages);
  drawEncoder();
  fillWhich();
})();
