"use strict";
// Draws the page from the data in it. What comes from the data becomes text, never markup.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const FULL = "paper";
const FACETS = ["dataset", "dst", "sparsity", "optimizer"];
const NAMES = { dataset: "Data set", dst: "DST method", sparsity: "Sparsity", optimizer: "Optimizer", scale: "Scale" };

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value != null && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat(2).filter((child) => child != null && child !== ""));
  return node;
}

/** A table below its caption; where it is wider than the screen it scrolls in itself, by keys too. */
const captioned = ({ whole, shown }, name, ...parts) => element("div", { class: name },
  element("p", { class: "caption" }, shown),
  element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": whole },
    element("table", { "aria-label": whole }, parts)));

const headOf = (texts) => element("tr", {}, texts.map((text) => element("th", { scope: "col" }, text)));
const lineOf = (texts, head) => element("tr", {}, texts.map((text, i) =>
  element(i ? "td" : "th", i ? { "data-head": head[i] } : { scope: "row" }, marked(text ?? ""))));
const marked = (text) => (/^`.*`$/.test(text) ? element("code", {}, text.slice(1, -1)) : String(text));

/** A table of texts: a head, then lines. */
const lines = ([head, ...rest], caption, name = "lines") =>
  captioned(caption, name, element("thead", {}, headOf(head)), element("tbody", {}, rest.map((line) => lineOf(line, head))));

/** A details element whose inside is made when it is first opened. */
function later(summary, make, attributes = {}) {
  const ontoggle = () => node.children.length > 1 || node.append(make());
  const node = element("details", { ...attributes, ontoggle }, element("summary", {}, summary));
  return node;
}

// --- scales: a reduced one says so wherever a number is shown ---

const isRehearsal = (scale) => data.rehearsals.includes(scale);
const scaleWord = (scale) => (scale === FULL ? "full scale" : `${isRehearsal(scale) ? "REHEARSAL" : "REDUCED SCALE"} ${scale}`);
const scaleName = (scale) => (scale === FULL ? "full scale" : `${scaleWord(scale)}: ${data.scales[scale]}`);
const scaleTag = (scale) => (scale === FULL ? null : element("span", { class: "tag" }, scaleName(scale)));
/** A name for files that readers take along. */
const fileOf = (artifact, view) => (view.scale === FULL ? artifact.name : `${artifact.name}-${view.scale}`);
/** A rehearsal says so before it names the paper's figure. */
const labelled = (text, scale) => (scale === FULL ? text
  : isRehearsal(scale) ? `[${scaleName(scale)}] Laid out as: ${text}` : `${text} [${scaleName(scale)}]`);
const alone = (caption) => ({ whole: caption, shown: caption });
/** What stands alone names its artifact; below the artifact's title only the rest is shown. */
const captionOf = (artifact, about, scale) => {
  const whole = labelled(`${artifact.title}. ${about}`, scale);
  return { whole, shown: isRehearsal(scale) ? whole : labelled(about, scale) };
};

// --- filters ---

const wanted = { dataset: "", dst: "", sparsity: "", optimizer: "", scale: "", text: "", rehearsals: false };
const watchers = [];
const asked = () => Object.values(wanted).some(Boolean);
/** Whether these factors are wanted; `passes` asks for no factor that is not there, `has` for all. */
const passes = (facets) => FACETS.every((key) => !wanted[key] || !(key in facets) || facets[key] === wanted[key]);
const has = (facets) => FACETS.every((key) => !wanted[key] || facets[key] === wanted[key]);
const named = (artifact) => `${artifact.name} ${artifact.title}`.toLowerCase().includes(wanted.text);
const scaleShown = (scale) => (wanted.scale ? scale === wanted.scale : wanted.rehearsals || !isRehearsal(scale));
const viewShown = (view) => scaleShown(view.scale) &&
  (view.facets.some(has) || !FACETS.some((key) => wanted[key]));
const artifactShown = (artifact) => named(artifact) && artifact.views.some(viewShown);

function watch(update) {
  watchers.push(update);
  update();
}

function filter() {
  for (const key of [...FACETS, "scale"]) wanted[key] = $(key).value;
  wanted.text = $("text").value.trim().toLowerCase();
  wanted.rehearsals = $("rehearsals").checked;
  for (const update of watchers) update();
  history.replaceState(null, "", address(place().anchor));
}

/** The address has an anchor and the filters: `#table2?sparsity=0.95`. A file on disk may change no other part of it. */
function place() {
  const [anchor, filters = ""] = location.hash.slice(1).split("?");
  return { anchor: decodeURIComponent(anchor), filters: new URLSearchParams(filters) };
}

function address(anchor) {
  const chosen = Object.entries(wanted).filter(([, value]) => value).map(([key, value]) => [key, String(value)]);
  return `#${encodeURIComponent(anchor)}${chosen.length ? `?${new URLSearchParams(chosen)}` : ""}`;
}

/** Choose what the address asks for; values that are no option are passed over. */
function restore(filters) {
  for (const key of [...FACETS, "scale"])
    $(key).value = [...$(key).options].some((option) => option.value === filters.get(key)) ? filters.get(key) : "";
  $("text").value = filters.get("text") ?? "";
  $("rehearsals").checked = filters.get("rehearsals") === "true";
  filter();
}

function makeFilters() {
  const scales = Object.fromEntries(Object.keys(data.scales).map((scale) =>
    [scale, scale === FULL ? "full (paper)" : `${scale} (${isRehearsal(scale) ? "rehearsal" : "reduced"})`]));
  for (const [key, options] of [...Object.entries(data.options), ["scale", scales]])
    $("choices").append(element("label", {}, NAMES[key], " ",
      element("select", { id: key, onchange: filter }, element("option", { value: "" }, "all"),
        Object.entries(options).map(([value, text]) => element("option", { value }, text)))));
  const reset = () => {
    for (const control of $("choices").querySelectorAll("select, #text")) control.value = "";
    $("rehearsals").checked = false;
    filter();
  };
  $("choices").append(element("label", { class: "check" }, "Rehearsals ",
    element("input", { type: "checkbox", id: "rehearsals", onchange: filter })));
  $("choices").append(element("button", { type: "button", id: "reset", onclick: reset }, "Reset"));
  $("text").addEventListener("input", filter);
  document.querySelector(".filters").addEventListener("submit", (event) => event.preventDefault());
  watch(() => {
    const count = data.artifacts.filter(artifactShown).length;
    $("shown").textContent = `${count} of ${data.artifacts.length} artifacts shown`;
    $("active").textContent = asked() ? "(on)" : "";
  });
}

// --- the look of a series: colour, dash and marker, the same on the canvas and in the legend ---

const DASHES = { "-": [], "--": [7, 4], "-.": [8, 3, 2, 3], ":": [2, 3] };
const MARKERS = {
  o: "M-1,0a1,1 0 1,0 2,0a1,1 0 1,0 -2,0Z", s: "M-.9,-.9h1.8v1.8h-1.8Z", "^": "M0,-1.1L1.1,.9H-1.1Z",
  D: "M0,-1.25L1.25,0L0,1.25L-1.25,0Z", v: "M0,1.1L1.1,-.9H-1.1Z",
  P: "M-.4,-1.1h.8v.7h.7v.8h-.7v.7h-.8v-.7h-.7v-.8h.7Z",
};
const probe = element("span", { hidden: true });
let tones = {};
function tone(name) {
  probe.style.color = `var(--${name})`;
  return (tones[name] ??= getComputedStyle(probe).color);
}
const colour = (series) => series.colour ?? tone("ink");

function vector(name, attributes, parent) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  parent?.append(node);
  return node;
}

function swatch(series) {
  const svg = vector("svg", { viewBox: "0 0 28 12", "aria-hidden": "true" });
  const stroke = series.colour ?? "currentColor";
  const dash = DASHES[series.dash].join(" "), fill = series.paper ? "var(--paper)" : stroke;
  const transform = "translate(14 6) scale(4)";
  vector("line", { x1: 0, x2: 28, y1: 6, y2: 6, stroke, "stroke-width": 2, "stroke-dasharray": dash }, svg);
  if (series.marker)
    vector("path", { d: MARKERS[series.marker], transform, fill, stroke, "stroke-width": 0.3 }, svg);
  return svg;
}

// --- charts ---

const HEIGHT = 250, NONE = "No complete run of ours yet";
const charts = []; // of all figures, made when they come into sight
const sight = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) entry.target.draw();
}, { rootMargin: "300px" });

const spread = (series, i) => {
  const n = series.n?.[i], sd = series.sd?.[i];
  return `${series.y[i].toFixed(2)}${sd == null ? "" : ` ± ${sd.toFixed(2)}`}${n ? ` (n=${n})` : ""}`;
};

/** One panel: what uPlot needs for its series, each mean with the edges of its band. */
function columns(panel) {
  const tables = [], options = [{}], bands = [], mains = [];
  for (const series of panel.series) {
    const band = panel.lines && series.sd, stroke = () => colour(series);
    const every = Math.max(1, Math.round(series.x.length / 4));
    const paths = (u, index, first, last, chosen) => {
      const path = new Path2D(), ratio = uPlot.pxRatio, size = panel.lines ? 3 : 3.6;
      for (const i of chosen ?? u.data[0].keys()) {
        if (u.data[index][i] == null || u.data[0][i] < u.scales.x.min || u.data[0][i] > u.scales.x.max) continue;
        path.addPath(new Path2D(MARKERS[series.marker]), { a: size * ratio, d: size * ratio,
          e: u.valToPos(u.data[0][i], "x", true), f: u.valToPos(u.data[index][i], "y", true) });
      }
      return { stroke: path, fill: path };
    };
    const filter = (u, index) => {
      if (!series.marker) return [];
      if (!panel.lines) return null;
      const known = [...u.data[index].keys()].filter((i) => u.data[index][i] != null);
      return known.filter((_, place) => place % every === Math.floor(every / 2));
    };
    const fill = series.paper ? () => tone("paper") : stroke;
    const points = { show: !!series.marker, size: 7, width: 1.2, stroke, fill, paths, filter };
    const edge = { stroke: "transparent", width: 0, points: { show: false } };
    mains.push(options.length);
    tables.push([series.x, series.y]);
    options.push({ label: series.name, stroke, width: series.paper ? 1.2 : 1.8, dash: DASHES[series.dash], points });
    if (band) {
      for (const sign of [1, -1]) tables.at(-1).push(series.y.map((y, i) => y + sign * (series.sd[i] ?? 0)));
      bands.push({ series: [options.length, options.length + 1], fill: () => faint(colour(series)) });
      options.push({ ...edge }, { ...edge });
    }
  }
  return { table: uPlot.join(tables), options, bands, mains };
}

function faint(value) {
  probe.style.color = `color-mix(in srgb, ${value} 18%, transparent)`;
  return getComputedStyle(probe).color;
}

/** Vertical bars of one standard deviation, where points are few. */
function bars(u, panel, mains) {
  const pen = u.ctx;
  panel.series.forEach((series, i) => {
    if (panel.lines || !series.sd || !u.series[mains[i]].show) return;
    pen.save();
    pen.strokeStyle = colour(series);
    pen.lineWidth = 1.3 * uPlot.pxRatio;
    pen.beginPath();
    series.x.forEach((x, at) => {
      if (!series.sd[at] || x < u.scales.x.min || x > u.scales.x.max) return;
      const across = u.valToPos(x, "x", true);
      pen.moveTo(across, u.valToPos(series.y[at] - series.sd[at], "y", true));
      pen.lineTo(across, u.valToPos(series.y[at] + series.sd[at], "y", true));
    });
    pen.stroke();
    pen.restore();
  });
}

/** The values under the cursor, as text: one line per series that is shown. */
function reading(u, panel, mains) {
  return panel.series.flatMap((series, i) => {
    const at = u.cursor.idxs[mains[i]];
    if (at == null || !u.series[mains[i]].show) return [];
    return [{ series, text: `${series.name}: ${spread(series, series.x.indexOf(u.data[0][at]))}` }];
  }).sort((a, b) => !!a.series.paper - !!b.series.paper);
}

/** Where a series has a value near the cursor; series do not share all their x. */
function nearest(u, index, at, x) {
  const values = u.data[index], away = (i) => Math.abs(u.data[0][i] - x);
  const reach = Math.max(0.015 * (u.scales.x.max - u.scales.x.min), away(at));
  let best = null;
  for (const step of [-1, 1]) {
    let i = at;
    while (values[i] == null && away(i) <= reach) i += step;
    if (values[i] != null && away(i) <= reach && (best == null || away(i) < away(best))) best = i;
  }
  return best;
}

function chart(panel, figure) {
  const keys = "Arrow keys read values, plus and minus zoom, shift and arrows move, 0 shows all.";
  const label = `${panel.title}: ${panel.y} over ${panel.x}. ${keys}`;
  const tabindex = panel.series.length ? 0 : null;
  const plot = element("div", { class: "plot", role: "group", tabindex, "aria-label": label });
  const node = element("div", { class: "panel" }, element("h4", {}, panel.title), plot);
  const spoken = element("p", { class: "quiet", role: "status" });
  const ours = panel.series.some((series) => !series.paper);
  if (!ours) plot.append(element("p", { class: "none" }, NONE));
  node.append(spoken);
  const it = { node, plot, panel, u: null };
  let mains;
  it.toggle = () => {
    const any = !panel.series.length || panel.series.some((series) => passes(series.facets));
    node.hidden = !any || !passes(panel.facets);
    if (!it.u) return;
    panel.series.forEach((series, i) => {
      const visible = !figure.off.has(series.name) && passes(series.facets);
      const last = panel.lines && series.sd ? mains[i] + 2 : mains[i];
      for (let index = mains[i]; index <= last; index++)
        if (it.u.series[index].show !== visible) it.u.setSeries(index, { show: visible });
    });
  };
  if (!panel.series.length) return it;

  const tip = element("div", { class: "tip", hidden: true });
  plot.draw = () => {
    if (it.u) return;
    const { table, options, bands, mains: indices } = columns(panel);
    mains = indices;
    const thin = (name) => ({ stroke: () => tone(name), width: 1 }), font = "12px system-ui, sans-serif";
    const drawn = { stroke: () => tone("soft"), grid: thin("grid"), ticks: thin("line") };
    const axis = { ...drawn, font, labelFont: font, labelSize: 18 };
    const pad = (u, low, high) => {
      const xs = u.data[0], margin = (panel.lines && low < high ? 0 : 0.05) * (high - low || 1);
      return low === xs[0] && high === xs.at(-1) ? [low - margin, high + margin] : [low, high];
    };
    const tall = (u, low, high) => {
      const lack = Math.max(0, panel.span - (high - low)) / 2;
      return uPlot.rangeNum(low - lack, high + lack, 0.1, true);
    };
    it.u = new uPlot({
      width: Math.max(plot.clientWidth, 200), height: HEIGHT, series: options, bands, legend: { show: false },
      scales: { x: { time: false, range: pad }, y: { range: tall } },
      axes: [{ ...axis, label: panel.x, size: 34, space: 40 }, { ...axis, label: panel.y, size: 44 }],
      cursor: { y: false, dataIdx: nearest, drag: { x: true, y: false, setScale: true },
        points: { size: 8, fill: (u, i) => options[i].stroke() } },
      hooks: {
        draw: [(u) => bars(u, panel, mains)],
        setScale: [(u, key) => key === "x" && it.u && figure.zoomed(it, u.scales.x.min, u.scales.x.max)],
        setCursor: [(u) => show(u)],
      },
    }, table, plot);
    it.u.over.append(tip);
    it.mains = mains;
    it.toggle();
    if (figure.range) it.u.setScale("x", { min: figure.range[0], max: figure.range[1] });
  };

  /** The tip lies below the lines, not over them. */
  function show(u) {
    const lines = u.cursor.idx == null || u.cursor.left < 0 ? [] : reading(u, panel, mains);
    tip.hidden = !lines.length;
    if (tip.hidden) return;
    const at = u.data[0][u.cursor.idx];
    tip.replaceChildren(element("b", {}, `${panel.x} ${+at.toFixed(2)}`),
      ...lines.map((line) => element("span", {}, swatch(line.series), line.text)));
    if (figure.scale !== FULL) tip.append(element("span", {}, element("i", {}, scaleWord(figure.scale))));
    const room = u.over.clientWidth - tip.offsetWidth;
    tip.style.left = `${Math.min(Math.max(0, u.cursor.left - tip.offsetWidth / 2), room)}px`;
  }

  plot.addEventListener("keydown", (event) => {
    const { u } = it;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const nearer = () => figure.zoom(0.5), farther = () => figure.zoom(2);
    const act = { "+": nearer, "=": nearer, "-": farther, 0: figure.reset, Escape: figure.reset }[event.key];
    if (!u || (!step && !act) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    if (act) return act();
    if (event.shiftKey) return figure.move(step * 0.25);
    const xs = u.data[0], inside = (i) => xs[i] >= u.scales.x.min && xs[i] <= u.scales.x.max;
    let i = u.cursor.idx ?? (step > 0 ? -1 : xs.length);
    do i += step * (event.repeat && xs.length > 60 ? 5 : 1); while (i >= 0 && i < xs.length && !inside(i));
    if (i < 0 || i >= xs.length) return;
    u.setCursor({ left: u.valToPos(xs[i], "x"), top: u.over.clientHeight / 3 });
    const texts = reading(u, panel, mains).map((line) => line.text);
    spoken.textContent = [`${panel.x} ${+xs[i].toFixed(2)}`, ...texts].join("; ");
  });
  plot.addEventListener("blur", () => it.u?.setCursor({ left: -10, top: -10 }));
  new ResizeObserver(() => {
    const width = plot.clientWidth;
    if (it.u && width && width !== it.u.width) it.u.setSize({ width, height: HEIGHT });
  }).observe(plot);
  sight.observe(plot);
  return it;
}

/** Panels that zoom together, one legend that switches series on and off, and the values as a table. */
function figure(block, view, artifact) {
  const [what, around] = block.panels.some((panel) => panel.lines) ? ["line", "band"] : ["point", "bar"];
  const means = `A ${what} is the mean over seeds, its ${around} one standard deviation`;
  const about = `${block.about} ${means}; each panel has a vertical scale of its own.`;
  const caption = captionOf(artifact, about, view.scale);
  const it = { scale: view.scale, off: new Set(), range: null };
  const known = block.panels.flatMap((panel) => panel.series);
  if (!known.length)
    return element("figure", {}, element("figcaption", {}, caption.shown), element("p", { class: "note" }, NONE));
  const xs = known.flatMap((series) => [series.x[0], series.x.at(-1)]);
  const [low, high] = [Math.min(...xs), Math.max(...xs)];
  const panels = block.panels.map((panel) => chart(panel, it));
  charts.push(...panels);

  const set = (min, max, from) => {
    for (const one of panels) if (one !== from) one.u?.setScale("x", { min, max });
  };
  it.zoomed = (from, min, max) => { // uPlot calls it for a scale that has changed, so panels agree and it ends
    if (min == null || min === max) return;
    it.range = min <= low && max >= high ? null : [min, max];
    set(min, max, from);
  };
  it.reset = () => { it.range = null; set(low, high); };
  it.zoom = (factor) => {
    const [from, to] = it.range ?? [low, high], middle = (from + to) / 2, half = ((to - from) * factor) / 2;
    it.range = [Math.max(low, middle - half), Math.min(high, middle + half)];
    if (it.range[0] <= low && it.range[1] >= high) return it.reset();
    set(...it.range);
  };
  it.move = (share) => {
    if (!it.range) return;
    const width = it.range[1] - it.range[0];
    const from = Math.max(low, Math.min(high - width, it.range[0] + share * width));
    it.range = [from, from + width];
    set(...it.range);
  };

  const order = new Intl.Collator("en", { numeric: true }).compare;
  const entries = [...new Map(known.map((series) => [series.name, series])).values()]
    .sort((a, b) => !!a.paper - !!b.paper || order(a.name, b.name));
  const legend = element("div", { class: "legend", role: "group", "aria-label": "Series: press to hide or show" },
    entries.map((series) => {
      const button = element("button", { type: "button", "aria-pressed": "true", onclick: () => {
        it.off.has(series.name) ? it.off.delete(series.name) : it.off.add(series.name);
        button.setAttribute("aria-pressed", String(!it.off.has(series.name)));
        panels.forEach((one) => one.toggle?.());
      } }, swatch(series), series.name);
      watch(() => { button.hidden = !known.some((one) => one.name === series.name && passes(one.facets)); });
      return button;
    }));
  const tool = (text, label, act) =>
    element("button", { type: "button", "aria-label": label, title: label, onclick: () => act() }, text);
  const tools = element("div", { class: "tools", role: "group", "aria-label": "Zoom" },
    tool("+", "Zoom in", () => it.zoom(0.5)), tool("−", "Zoom out", () => it.zoom(2)),
    tool("◂", "Move left", () => it.move(-0.25)), tool("▸", "Move right", () => it.move(0.25)),
    tool("Show all", "Show all", it.reset),
    element("span", { class: "soft" }, "or drag across a panel; double-click shows all"));
  watch(() => panels.forEach((one) => one.toggle?.()));
  const file = fileOf(artifact, view);
  const drawn = ({ name }) => !it.off.has(name) && known.some((one) => one.name === name && passes(one.facets));
  const given = element("div", { class: "tools" }, csvButton(file, () => pointsOf(block.panels)),
    pngButton(file, () => canvasOf(panels, entries.filter(drawn), caption.whole).toDataURL(), panels));
  return element("figure", {}, element("figcaption", {}, caption.shown), legend, tools, given,
    element("div", { class: "panels" }, panels.map((one) => one.node)),
    later("Values as a table", () => values(block, caption.whole)));
}

function values(block, caption) {
  const rows = block.panels.flatMap((panel) => panel.series.flatMap((series) => {
    const every = panel.lines ? Math.ceil(series.x.length / 10) : 1, last = series.x.length - 1;
    return series.x.flatMap((x, i) => ((last - i) % every ? [] : [[panel.title, series.name, x, spread(series, i)]]));
  }));
  const first = block.panels.find((panel) => panel.series.length);
  const thinned = first.lines ? " A curve is given at ten of its epochs." : "";
  return lines([["Panel", "Series", first.x, first.y], ...rows], alone(caption + thinned));
}

// --- tables ---

function table(block, view, artifact) {
  const about = `Mean ± standard deviation over n runs, by ${block.across.toLowerCase()}`;
  const compared = block.body.some((row) => row.cells.some((cell) => cell.paper));
  const heads = block.values.map((value, i) => element("th", { scope: "col" }, block.labels[i]));
  const rows = block.body.map((row) => element("tr", {},
    row.labels.map((text) => element("th", { scope: "row" }, text)),
    row.cells.map((cell) => element("td", {}, cellOf(cell)))));
  const facets = block.body.map((row) => Object.fromEntries(block.rows.map((key, i) => [key, row.key[i]])));
  watch(() => {
    rows.forEach((row, i) => { row.hidden = !passes(facets[i]); });
    block.values.forEach((value, i) => {
      heads[i].hidden = !passes({ [block.columns]: value });
      for (const row of rows) row.cells[block.rows.length + i].hidden = heads[i].hidden;
    });
  });
  const more = compared ? "; below it the paper's number and ours minus it" : "";
  return captioned(captionOf(artifact, `${about}${more}.`, view.scale), "results",
    element("thead", {}, element("tr", {}, block.heads.map((text) => element("th", { scope: "col" }, text)), heads)),
    element("tbody", {}, rows));
}

function cellOf(cell) {
  const count = ` (n=${cell.n}${cell.n === cell.of ? "" : ` of ${cell.of}`})`;
  const best = cell.best && [element("strong", {}, cell.ours), element("span", { class: "quiet" }, " highest")];
  const ours = cell.ours == null ? element("span", { class: "hole" }, "missing")
    : element("span", {}, best || cell.ours, element("span", { class: "n" }, count));
  if (!cell.paper) return [ours];
  const difference = cell.difference ? `, ${cell.difference}` : "";
  return [ours, element("span", { class: "paper" }, `paper ${cell.paper}${difference}`)];
}

function picture(block, view, artifact) {
  if (!block.file) return element("p", { class: "note" }, `${block.about} Not drawn yet.`);
  const caption = captionOf(artifact, block.about, view.scale);
  const alt = `${caption.whole} Its numbers are in the table above.`;
  const src = data.images[block.file] ?? block.file;
  return element("figure", {}, element("img", { src, alt }), element("figcaption", {}, caption.shown),
    element("div", { class: "tools" }, pngButton(fileOf(artifact, view), () => src)));
}

/** The first head keeps it apart from the other tables of the artifact. */
const asLines = (block, view, artifact) =>
  lines(block.lines, captionOf(artifact, `By ${block.lines[0][0].toLowerCase()}.`, view.scale), "lines stacked");
const DRAW = { table, picture, charts: figure, lines: asLines };

// --- runs ---

function runs(view, artifact) {
  const { shared, columns: keys, rows } = view.runs;
  const same = Object.entries(shared);
  const words = [
    same.length ? `Of all runs: ${same.map(([key, value]) => `${key}=${value}`).join(", ")}.` : "",
    view.replaced ? `Factors are the sweep file's; this scale replaces ${view.replaced}.` : "",
    `A run with id X is made in runs/${view.scale === FULL ? "" : `${view.scale}/`}X; its record.json holds every key.`,
  ].join(" ");
  const told = FACETS.filter((key) => keys.includes(key)); // the others are the same in all runs
  const facets = (row) => Object.fromEntries(told.map((key) => [key, row[keys.indexOf(key)]]));
  return later(`Runs and their configuration (${rows.length})`, () => {
    const node = lines([keys, ...rows], alone(labelled(`Runs of ${artifact.name}. ${words}`, view.scale)), "runs");
    const made = node.querySelectorAll("tbody tr");
    watch(() => rows.forEach((row, i) => { made[i].hidden = !passes(facets(row)); }));
    node.prepend(csvButton(`${fileOf(artifact, view)}-runs`, () => [keys, ...rows]));
    return node;
  });
}

// --- artifacts ---

function command(text) {
  const code = element("code", {}, text);
  const button = element("button", { type: "button", class: "copy", "aria-label": `Copy ${text}`, onclick: async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
  } }, "Copy");
  return [code, " ", button];
}

function count(view) {
  if (view.expected == null)
    return element("p", { class: "count" }, "Nothing is trained: this is the configuration that runs use.");
  const others = Object.entries(view.others).map(([word, number]) => `, ${number} ${word}`).join("");
  const done = `${view.complete} of ${view.expected} runs complete`;
  const words = element("span", {}, element("strong", {}, done), others);
  const bar = element("progress", { max: view.expected, value: view.complete, "aria-label": "complete runs" });
  if (view.complete === view.expected) return element("p", { class: "count" }, bar, words);
  const price = view.cost ? ` (${view.cost})` : "";
  const how = element("span", { class: "fill" }, command(view.command));
  return element("p", { class: "count" }, bar, words, `To fill${price}:`, how);
}

function viewOf(view, artifact) {
  const name = view.scale === FULL ? "view" : "view reduced", label = `${artifact.name}, ${scaleName(view.scale)}`;
  const node = element("section", { class: name, "aria-label": label },
    scaleTag(view.scale), count(view), view.blocks.map((block) => DRAW[block.kind](block, view, artifact)),
    view.runs ? runs(view, artifact) : null);
  watch(() => { node.hidden = !viewShown(view); });
  return node;
}

function claimsOf(artifact) {
  const about = data.claims.filter((claim) => claim.tables.includes(artifact.name));
  if (!about.length) return null;
  return later(`Claims judged on it (${about.length})`, () => element("ul", { class: "about" }, about.map((claim) =>
    element("li", {}, element("a", { href: `#claim-${claim.id}` }, claim.id),
      `: on the paper's means ${claim.paper.said}; on ours at full scale ${claim.ours[FULL].said}`))));
}

function articleOf(artifact) {
  const node = element("article", { id: artifact.name, "aria-labelledby": `${artifact.name}-title` },
    element("h3", { id: `${artifact.name}-title` }, artifact.title), element("p", { class: "about" }, artifact.about),
    claimsOf(artifact), artifact.views.map((view) => viewOf(view, artifact)));
  watch(() => { node.hidden = !artifactShown(artifact); });
  return node;
}

// --- claims ---

const SIGNS = { holds: "✓", fails: "✗", "too small to count": "≈" }; // every other verdict is none

const signOf = (word) => SIGNS[word] || "○";

function verdict(whose, side) {
  const spread = side.spread ? `; beyond the spread ${side.spread}` : "";
  return element("span", {}, `${whose}: `, element("span", { class: "verdict" }, signOf(side.verdict)), ` ${side.said}${spread}`);
}

function claim(one) {
  const ours = Object.entries(one.ours).filter(([scale, side]) => scale === FULL || side.cells.length);
  const sides = [["the paper's means", one.paper],
    ...ours.map(([scale, side]) => [scale === FULL ? "ours" : `ours at REDUCED SCALE ${scale}`, side])];
  const summary = element("span", {}, element("strong", {}, one.id), ` ${one.says} `,
    element("span", { class: "soft" }, `(${one.where}; counts from ${signed(one.counts)})`),
    element("span", { class: "sides" }, sides.map(([whose, side]) => verdict(whose, side))));
  const cells = ([whose, side]) => {
    const ours = whose.startsWith("ours"); // the paper's numbers have no seeds
    const rows = side.cells.map(([cell, effect, low, high, adjusted, n, word]) => [cell, signed(effect),
      low == null ? "" : `${signed(low)} to ${signed(high)}`, ours ? n : adjusted ?? "", `${signOf(word)} ${word}`]);
    return lines([["Cell", "Effect (points)", "95% interval", ours ? "Paired seeds" : "p (Holm)", "Verdict"], ...rows],
      alone(`${one.id}, ${whose}: mean effect ${signed(side.mean)} over ${side.cells.length} cells`));
  };
  const judged = sides.filter(([, side]) => side.cells.length);
  return later(summary, () => element("div", {}, judged.map(cells)), { class: "claim", id: `claim-${one.id}` });
}

const signed = (value) => (value < 0 ? `−${(-value).toFixed(2)}` : `+${value.toFixed(2)}`);

function claimsSection() {
  return element("section", { "aria-labelledby": "claims" },
    element("h2", { id: "claims" }, "Claims of the paper, judged"), element("p", {},
      "A claim holds if it holds in every cell, and fails if it fails in one. A difference counts from half a point on, ",
      "unless the claim says otherwise. Ours are judged by the 95% interval over paired seeds; one seed is not judged. ",
      "Beyond the spread: Welch's test of the paper's means and spreads, read as standard deviations of three runs and ",
      "adjusted over the claim's cells (Holm). Open a claim for its cells."),
    data.claims.map(claim));
}

// --- the first screen ---

// points, at either end of the axis that all effects share
const REACH = Math.ceil(Math.max(1, ...data.statements.flatMap((one) => [...one.effect, ...one.published]).map(Math.abs)));

/** Our mean with its interval, filled; the paper's effect, hollow. */
function forest(one) {
  if (!one.effect.length) return null;
  const [mean, low = mean, high = mean] = one.effect;
  const x = (value) => 90 + (80 / REACH) * value;
  const paper = one.published.length ? `; the paper's: ${one.paper}` : "";
  const svg = vector("svg", { viewBox: "0 0 180 18", class: "forest", role: "img", "aria-label": `ours: ${one.ours}${paper}` });
  vector("line", { x1: 10, x2: 170, y1: 9, y2: 9, class: "axis" }, svg);
  vector("line", { x1: 90, x2: 90, y1: 0, y2: 18, class: "zero" }, svg);
  const theirs = one.published.map(x);
  if (theirs.length > 1) vector("line", { x1: theirs[0], x2: theirs[1], y1: 9, y2: 9, class: "range" }, svg);
  theirs.forEach((cx) => vector("circle", { cx, cy: 9, r: 4, class: "theirs" }, svg));
  vector("line", { x1: x(low), x2: x(high), y1: 9, y2: 9, class: "interval" }, svg);
  vector("circle", { cx: x(mean), cy: 9, r: 4, class: "ours" }, svg);
  return svg;
}

const GLOSSARY = "Filled: ours, with 95% intervals. Hollow: the paper. D alone: SparseOpt's factor without its layer " +
  "average. ITOP rate: the share of weights ever active.";
const BOARD = ["Statement", `±${REACH} points`, "Ours", "Paper", "Seeds", "Scale", "How sure"];

function board() {
  if (!data.statements.length) return null;
  const tables = data.artifacts.flatMap((artifact) => artifact.views).filter((view) => view.scale === FULL)
    .flatMap((view) => view.blocks.filter((block) => block.kind === "table"));
  const cells = tables.flatMap((block) => block.body.flatMap((row) => row.cells)).filter((cell) => cell.paper);
  const ours = cells.filter((cell) => cell.ours != null), done = ours.length, most = Math.max(0, ...ours.map((cell) => cell.n));
  const seeds = done ? `, ${most === 1 ? "one seed" : `up to ${most} seeds`} each` : "";
  const reduced = [...new Set(data.statements.map((one) => one.scale))].filter((scale) => scale !== FULL);
  const line = (one) => {
    const scale = one.scale === FULL ? "the paper's" : element("span", { class: "tag" }, `REDUCED ${one.scale}`);
    const [says, drawn, ...rest] = [element("a", { href: `#${one.at}` }, one.says), forest(one) ?? "", one.ours,
      one.paper, String(one.n), one.measured || scale, one.sure];
    return element("tr", {}, element("th", { scope: "row" }, says), [drawn, ...rest].map((part, i) =>
      element("td", { "data-head": BOARD[i + 1] }, part)));
  };
  const bodies = [...new Set(data.statements.map((one) => one.heading))].map((heading) => {
    const members = data.statements.filter((one) => one.heading === heading);
    return element("tbody", {}, element("tr", {},
      element("th", { scope: "rowgroup", colspan: BOARD.length }, `${heading} (${members.length}) `,
        element("span", { class: "soft" }, members[0].meaning))), members.map(line));
  });
  return element("section", { "aria-labelledby": "found" }, element("h2", { id: "found" }, "What agrees, what does not, how sure"),
    element("p", {}, element("strong", {}, `Accuracy at the paper's protocol: ${done} of ${cells.length} numbers of its tables so far${seeds}.`),
      ` ${GLOSSARY} `, reduced.map((scale) => `REDUCED ${scale}: ${data.scales[scale]}.`).join(" ")),
    element("div", { class: "board stacked scroll", tabindex: 0, role: "region", "aria-label": "Statements" },
      element("table", { "aria-label": "Statements" }, element("thead", {}, headOf(BOARD)), bodies)));
}

// --- the whole ---

const GROUPS = [["Tables", /^table\d+$/], ["Figures", /^fig\d+$/], ["More", /^(?!(table|fig)\d+$)/]];

const KINDS = {
  accuracy: "Accuracy at the paper's protocol",
  theory: "Theory, and experiments of another kind than the paper's accuracies",
  reduced: "Studies at reduced scale",
  rehearsal: "Rehearsals, evidence of nothing; hidden until asked for",
};

function overview() {
  const views = data.artifacts.flatMap((artifact) => artifact.views).filter((view) => view.runs);
  const totals = Object.entries(KINDS).map(([kind, words]) => {
    const here = views.filter((view) => view.kind === kind);
    const status = new Map(here.flatMap((view) => view.runs.rows.map((row) => [row[0], row[1]])));
    const complete = [...status.values()].filter((word) => word === "complete").length;
    return here.length && element("li", {}, element("strong", {}, words), `: ${complete} of ${status.size} distinct runs complete.`);
  });
  const scales = Object.keys(data.scales).filter((scale) => scale !== FULL).map((scale) => element("li", {}, scaleName(scale)));
  return element("section", { "aria-labelledby": "overview" }, element("h2", { id: "overview" }, "What has been measured"),
    element("ul", {}, totals.filter(Boolean)), element("p", {},
      "The paper's numbers stand beside ours only where the protocol is the paper's. A reduced scale stands in a dashed ",
      "frame with its name. A run that is missing stays visible as a hole."), element("ul", {}, scales), progress());
}

const measured = (artifact) => artifact.views.some((view) =>
  view.expected == null || (view.complete && !isRehearsal(view.scale)));

/** How far every artifact is at each scale, as one table. */
function progress() {
  const scales = Object.keys(data.scales).filter((scale) => !isRehearsal(scale));
  const far = (artifact) => scales.map((scale) => {
    const view = artifact.views.find((one) => one.scale === scale && one.runs);
    return view ? `${view.complete} of ${view.expected}` : "";
  });
  const rows = data.artifacts.filter((artifact) => artifact.views.some((view) => view.runs))
    .map((artifact) => [artifact.name, ...far(artifact)]);
  return later(`Progress of all ${rows.length} artifacts`, () =>
    lines([["Artifact", ...scales.map(scaleWord)], ...rows], alone("Complete runs of every artifact, by scale")));
}

/** The articles of a group; those without any run are folded. */
function articlesOf(title, members) {
  const open = members.filter((artifact) => !measured(artifact));
  const fold = element("details", { class: "untrained" },
    element("summary", {}, `${title} without a run yet (${open.length}): ${open.map((artifact) => artifact.name).join(", ")}`),
    open.map(articleOf));
  watch(() => {
    fold.hidden = !open.some(artifactShown);
    fold.open ||= wanted.text !== "";
  });
  return [...members.filter(measured).map(articleOf), fold];
}

function main() {
  document.body.append(probe);
  makeFilters();
  const tried = data.explanation ? explanation() : null;
  $("main").append(...[board(), tried, overview(), claimsSection()].filter(Boolean));
  const link = (id, words = id) => element("li", {}, element("a", { href: `#${id}` }, words));
  $("links").append(element("ul", {}, data.statements.length ? link("found", "Findings") : [],
    tried ? link("try", "Try it") : [], link("overview", "What has been measured"), link("claims", "Claims")));
  for (const [title, pattern] of GROUPS) {
    const members = data.artifacts.filter((artifact) => pattern.test(artifact.name));
    if (!members.length) continue;
    const heading = element("h2", {}, title), items = element("ul", {});
    $("main").append(heading, ...articlesOf(title, members));
    $("links").append(element("b", {}, title, element("span", {}, "runs done")), items);
    for (const artifact of members) {
      const done = artifact.views[0];
      const scale = done.scale === FULL ? "" : ` ${done.scale}`;
      const text = done.expected == null ? "" : `${done.complete}/${done.expected}${scale}`;
      const anchor = element("a", { href: `#${artifact.name}` }, artifact.name, element("span", {}, text));
      const item = element("li", {}, anchor);
      items.append(item);
      watch(() => { item.hidden = !artifactShown(artifact); });
    }
    watch(() => { heading.hidden = !members.some(artifactShown); });
  }
  const none = element("p", { class: "note" }, "No artifact matches. Reset the filters to see all.");
  $("main").append(none);
  watch(() => { none.hidden = data.artifacts.some(artifactShown); });
  const wide = matchMedia("(min-width: 62rem)");
  const open = () => { $("contents").open = $("filters").open = wide.matches; };
  wide.addEventListener("change", open);
  open();
  theme();
  const jump = () => {
    const { anchor, filters } = place();
    if (filters.size) restore(filters);
    else if (asked()) history.replaceState(null, "", address(anchor)); // a link within the page keeps the filters
    const target = $(anchor);
    for (let fold = target?.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
    if (target) target.scrollIntoView();
  };
  addEventListener("hashchange", jump);
  jump();
  performance.mark("interactive");
  document.documentElement.dataset.ready = "";
}

function theme() {
  const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
  const redraw = () => {
    tones = {};
    $("theme").textContent = isDark() ? "Light theme" : "Dark theme";
    for (const one of charts) one.u?.redraw(false);
  };
  try {
    if (["light", "dark"].includes(localStorage.theme)) root.dataset.theme = localStorage.theme;
  } catch { /* no storage: the reader's preference decides */ }
  $("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.theme = root.dataset.theme; } catch { /* kept for this visit only */ }
    redraw();
  });
  dark.addEventListener("change", redraw);
  let before;
  addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    root.dataset.theme = "light";
    for (const fold of document.querySelectorAll("details.untrained")) fold.open = true;
    for (const one of charts) one.plot.draw?.();
    redraw();
  });
  addEventListener("afterprint", () => {
    if (before) root.dataset.theme = before;
    else delete root.dataset.theme;
    redraw();
  });
  redraw();
}

main();
