"use strict";
// Filters, theme, charts and folded tables of the page. Plotly and DataTables draw; text from the data stays text.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];
const FACETS = ["dataset", "dst", "sparsity", "optimizer"], FULL = "paper";
const root = document.documentElement;

// --- filters: the address has an anchor and them, `#table2?sparsity=0.95`; a file on disk may change no more of it ---

let wanted = {};
/** Whether these factors are wanted: one that is not there counts as wanted, unless all are asked for. */
const passes = (facets, all = false) => FACETS.every((key) =>
  !wanted[key] || (key in facets ? same(facets[key], wanted[key]) : !all));
const same = (a, b) => a === b || Number(a) === Number(b); // 0 and 0.0 are one sparsity
const says = (node) => node.textContent.toLowerCase().includes(wanted.text);
const faceted = () => FACETS.some((key) => wanted[key]);

function filter() {
  wanted = Object.fromEntries($$("#choices select").map((select) => [select.id, select.value]));
  Object.assign(wanted, { text: $("text").value.trim().toLowerCase(), rehearsals: $("rehearsals").checked });
  for (const node of $$("[data-facets]")) node.hidden = !passes(JSON.parse(node.dataset.facets));
  for (const { node, scale, runs } of views) {
    const scaled = wanted.scale ? scale === wanted.scale : wanted.rehearsals || !data.rehearsals.includes(scale);
    node.hidden = !scaled || !(runs.some((facets) => passes(facets, true)) || !faceted());
  }
  const articles = $$("article");
  for (const node of articles) {
    node.hidden = !says(node) || !$$(".view", node).some((view) => !view.hidden);
    if (wanted.text && !node.hidden) node.firstElementChild.open = true;
  }
  judge();
  for (const node of $$("[data-of]")) node.hidden = $(node.dataset.of).hidden;
  for (const node of $$("details.untrained")) {
    node.hidden = $$("article", node).every((one) => one.hidden);
    node.open ||= wanted.text !== "";
  }
  for (const node of $$(".group")) node.hidden = $$("article", node).every((one) => one.hidden);
  const shown = articles.filter((node) => !node.hidden).length;
  $("shown").textContent = `${shown} of ${articles.length} artifacts shown`;
  $("none").hidden = shown > 0;
  $("active").textContent = Object.values(wanted).some(Boolean) ? "(on)" : "";
  history.replaceState(null, "", address(place().anchor));
  charts.forEach((one) => one.draw());
}

/** The scoreboard and the claims: by their factors where they have any, else by the artifacts behind them. */
function judge() {
  const there = (name) => !faceted() || !$(name) || $$(".view", $(name)).some((view) => !view.hidden);
  for (const node of $$("[data-measured]")) {
    const facets = JSON.parse(node.dataset.measured), { scale, at } = node.dataset;
    const kept = facets.length ? facets.some((one) => passes(one, true)) : there(at);
    node.hidden = !kept || Boolean(wanted.scale && scale !== wanted.scale);
  }
  const rows = $$("[data-claim]");
  for (const node of rows) node.hidden = !says(node) || $$("[data-measured]", node).every((one) => one.hidden);
  if ($("no-claim")) $("no-claim").hidden = rows.some((node) => !node.hidden);
  for (const node of $$(".claim")) {
    const tables = node.dataset.tables.split(" ").filter($); // those that this page has
    node.hidden = !says(node) || (tables.length > 0 && !tables.some(there));
  }
}

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
  for (const select of $$("#choices select")) {
    select.value = filters.get(select.id) ?? "";
    if (select.selectedIndex < 0) select.value = "";
  }
  $("text").value = filters.get("text") ?? "";
  $("rehearsals").checked = filters.get("rehearsals") === "true";
  filter();
}

function jump() {
  const { anchor, filters } = place();
  if (filters.size) restore(filters);
  else if (Object.values(wanted).some(Boolean)) history.replaceState(null, "", address(anchor)); // links keep the filters
  const target = $(anchor), own = target?.querySelector(":scope > details");
  if (own) own.open = true;
  for (let fold = target?.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  target?.scrollIntoView();
}

// --- files to take along: no server, no network ---

function take(name, href) {
  const link = document.createElement("a");
  Object.assign(link, { href, download: name });
  link.click();
}

const takeText = (name, text) => take(name, URL.createObjectURL(new Blob([text], { type: "text/plain;charset=utf-8" })));

/** One cell of a CSV file: quoted where it must be, and never a formula where a spreadsheet opens it. */
function csvCell(value) {
  let text = value == null ? "" : String(value).replaceAll("\r", " ");
  if (/^[=+\-@\t]/.test(text) && isNaN(text)) text = `'${text}`;
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

const csvOf = ({ head, rows }) => [head, ...rows].map((row) => `${row.map(csvCell).join(",")}\n`).join("");

/** A table in LaTeX (booktabs), for a paper. */
function texOf({ head, rows, caption }) {
  const words = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "±": "$\\pm$", "−": "$-$",
    "·": "$\\cdot$", "√": "$\\surd$" };
  const cell = (value) => String(value ?? "").replace(/[\\~^±−·√]/g, (one) => words[one]).replace(/(?<!\\\w*)[&%#_{}]/g, "\\$&");
  const line = (cells) => `${cells.map(cell).join(" & ")} \\\\\n`;
  return `\\begin{table}\n\\caption{${cell(caption)}}\n\\begin{tabular}{${"l".repeat(head.length)}}\n\\toprule\n` +
    `${line(head)}\\midrule\n${rows.map(line).join("")}\\bottomrule\n\\end{tabular}\n\\end{table}\n`;
}

/** Buttons that download a table as CSV and as LaTeX; `made` gives it when one is pressed. */
function downloads(name, made) {
  const box = Object.assign(document.createElement("div"), { className: "tools" });
  for (const [ending, written] of [["csv", csvOf], ["tex", texOf]]) {
    const kind = { csv: "CSV", tex: "LaTeX" }[ending];
    const button = Object.assign(document.createElement("button"), { type: "button", className: "copy", textContent: kind });
    button.ariaLabel = `${kind} of ${name}`;
    button.onclick = () => takeText(`${name}.${ending}`, written(made()));
    box.append(button);
  }
  return box;
}

/** What a table in the page has, in its present order. */
const read = (table) => ({ caption: table.ariaLabel,
  head: [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim()),
  rows: [...table.tBodies[0].rows].map((row) => [...row.cells].map((cell) => cell.textContent.trim())) });

// --- tables ---

const SORTED = { order: [], autoWidth: false, info: false, paging: false,
  columnDefs: [{ targets: "_all", orderSequence: ["desc", "asc", ""] }] };

/** A table that stands in the page can be sorted, a long one searched. */
function sortable(table) {
  const long = table.tBodies[0].rows.length > 12, box = table.closest(".scroll");
  if (box.classList.contains("lines")) {
    const article = box.closest("article"), scale = box.closest(".view").dataset.scale;
    const place = $$(".lines", article).filter((one) => !one.closest("[data-rows]")).indexOf(box) + 1;
    box.after(downloads([article.id, scale === FULL ? "" : scale, place].filter(Boolean).join("-"), () => read(table)));
  }
  return new DataTable(table, { ...SORTED, searching: long, layout: { topStart: null, topEnd: long ? "search" : null } });
}

/** The points of a chart, as rows. */
function valuesOf(key) {
  const { panels, caption } = data.charts[key], first = panels[0];
  return { caption, head: ["panel", "series", first.x, "mean", "sd", "n"], rows: panels.flatMap((panel) =>
    panel.series.flatMap((one) => one.x.map((x, i) =>
      [panel.title, one.name, x, one.y[i], one.sd?.[i] ?? null, one.n?.[i] ?? null]))) };
}

/** A link in a cell, in place of its text or after it. */
function lead(cell, href, text) {
  const link = Object.assign(document.createElement("a"), { href, textContent: text });
  if (text === cell.textContent) cell.replaceChildren(link);
  else cell.append(" ", link);
}

/** The table of a fold, made when it is first opened: sorted, searched, paged, and taken along as CSV. */
function unfold(fold) {
  if (fold.children.length > 1) return;
  const key = fold.dataset.rows;
  const made = key.startsWith("values-") ? valuesOf(key.slice(7)) : data.rows[key];
  const caption = Object.assign(document.createElement("p"), { className: "caption", textContent: made.caption });
  const table = document.createElement("table");
  table.setAttribute("aria-label", made.caption);
  const box = Object.assign(document.createElement("div"), { className: "scroll lines", tabIndex: 0 });
  box.append(table);
  fold.append(downloads(key, () => made), caption, box);
  const render = DataTable.render.text();
  const facets = (row) => Object.fromEntries(made.head.map((name, i) => [name, row[i]]).filter(([name]) => FACETS.includes(name)));
  const many = made.rows.length > 50;
  new DataTable(table, { ...SORTED, paging: many, info: many, pageLength: 50, data: made.rows, deferRender: true,
    columns: made.head.map((title) => ({ title: title.replaceAll("<", "&lt;"), render, defaultContent: "" })),
    layout: { topStart: null, topEnd: "search", bottomStart: many ? "info" : null, bottomEnd: many ? "paging" : null },
    createdRow: (row, values, index) => {
      for (const [place, href] of (made.links?.[index] ?? []).entries()) if (href) lead(row.cells[0], href, place ? "W&B" : values[0]);
      row.dataset.facets = JSON.stringify(facets(values));
      row.hidden = !passes(facets(values));
    } });
}

// --- charts ---

const charts = [];
let printing = false; // on paper panels are smaller
const tone = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).match(/#\w{6}/g)[isDark() ? 1 : 0];
const SYMBOLS = { o: "circle", s: "square", "^": "triangle-up", D: "diamond", v: "triangle-down", P: "cross" };
const SPREAD = "%{y:.2f}%{customdata}";

/** Plotly's axis in the colours of the theme. */
const axisOf = (text, more) => ({ title: { text, standoff: 6 }, gridcolor: tone("grid"), linecolor: tone("line"), zeroline: false,
  ticks: "outside", tickcolor: tone("line"), automargin: true, ...more });
const layoutOf = (more) => ({ paper_bgcolor: tone("paper"), plot_bgcolor: tone("paper"), showlegend: false,
  font: { family: "system-ui, sans-serif", size: printing ? 9 : 12, color: tone("soft") }, ...more });
const CONFIG = { displaylogo: false, responsive: false, modeBarButtons: [["zoomIn2d", "zoomOut2d", "resetScale2d"]] };

/** One series: its band of one standard deviation where it is a line, else bars; then the mean. */
function traces(one, panel, axes, visible) {
  const colour = one.colour ?? tone("ink"), made = [], band = panel.lines && one.sd;
  const look = { ...axes, visible, legendgroup: one.name };
  const known = (one.sd ?? []).map((sd) => sd ?? 0);
  if (band) made.push({ ...look, x: [...one.x, ...one.x.toReversed()], fill: "toself", fillcolor: `${colour}2e`,
    y: [...one.y.map((y, i) => y + known[i]), ...one.y.map((y, i) => y - known[i]).toReversed()],
    mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false });
  const customdata = one.x.map((_, i) =>
    `${one.sd?.[i] == null ? "" : ` ± ${one.sd[i].toFixed(2)}`}${one.n?.[i] ? ` (n=${one.n[i]})` : ""}`);
  made.push({ ...look, name: one.name, x: one.x, y: one.y, customdata, mode: one.marker ? "lines+markers" : "lines",
    line: { color: colour, width: one.paper ? 1.2 : 1.8, dash: data.looks.dashes[one.dash] },
    marker: { symbol: SYMBOLS[one.marker], size: 7, color: one.paper ? tone("paper") : colour,
      line: { color: colour, width: 1.2 }, maxdisplayed: panel.lines ? 6 : 0 },
    error_y: !panel.lines && one.sd ? { array: known, color: colour, thickness: 1.3, width: 0 } : undefined,
    hovertemplate: `${one.name}: ${SPREAD}<extra></extra>` });
  return made;
}

/** Noise does not fill a panel: its vertical axis covers `span` at least. */
function reach(panel) {
  const ends = panel.series.flatMap((one) => one.y.flatMap((y, i) => [y - (one.sd?.[i] ?? 0), y + (one.sd?.[i] ?? 0)]));
  const middle = (Math.min(...ends) + Math.max(...ends)) / 2;
  return ends.length ? [middle - panel.span / 2, middle + panel.span / 2] : [0, 1];
}

/** A figure: panels that zoom together, and a legend that hides and shows series. */
function chart(node) {
  const { panels, caption, tag } = data.charts[node.dataset.chart], figure = node.closest("figure");
  const off = new Set(), spoken = figure.querySelector("[role=status]");
  const buttons = $$("[data-series]", figure);
  const it = { node, seen: false, at: { panel: 0, x: null } };

  const grid = (width) => {
    const columns = Math.max(1, Math.min(4, it.shown().length, Math.floor(width / (printing ? 230 : 270))));
    const rows = Math.ceil(it.shown().length / columns);
    return { rows, columns, height: (printing ? 190 : 300) * rows + 30 };
  };
  it.shown = () => panels.filter((panel) => passes(panel.facets) && panel.series.some((one) => passes(one.facets)));
  it.figure = (width) => {
    const shown = it.shown(), { rows, columns, height } = grid(width);
    const layout = layoutOf({ width, height, margin: { l: 50, r: 10, t: 60, b: 45 }, hovermode: "x unified",
      grid: { rows, columns, pattern: "independent", xgap: 0.16, ygap: 0.4 }, uirevision: "kept", annotations: [],
      hoverlabel: { bgcolor: tone("paper"), font: { color: tone("ink") } } });
    const all = shown.flatMap((panel, i) => {
      const n = i ? i + 1 : "", axes = { xaxis: `x${n}`, yaxis: `y${n}` };
      const room = Math.floor((width / columns - 60) / 6.5), none = panel.series.every((one) => one.paper);
      const title = panel.title.replace(new RegExp(`(.{1,${room}})(\\s|$)`, "g"), "$1<br>").replace(/<br>$/, "");
      layout[`xaxis${n}`] = axisOf(panel.x, { matches: i ? "x" : undefined,
        unifiedhovertitle: { text: `${panel.x} %{x}${tag ? ` (${tag})` : ""}` } });
      layout[`yaxis${n}`] = axisOf(i % columns ? "" : panel.y, { fixedrange: true, autorangeoptions: { include: reach(panel) } });
      layout.annotations.push({ text: none ? `${title}<br><i>no complete run of ours yet</i>` : title, x: 0, y: 1.03,
        xref: `x${n} domain`, yref: `y${n} domain`, xanchor: "left", yanchor: "bottom", align: "left", showarrow: false,
        font: { color: tone("ink"), size: printing ? 10 : 13 } });
      return panel.series.flatMap((one) => traces(one, panel, axes, !off.has(one.name) && passes(one.facets)));
    });
    return { data: all, layout };
  };
  it.draw = () => {
    for (const button of buttons) button.hidden =
      !panels.some((panel) => panel.series.some((one) => one.name === button.dataset.series && passes(one.facets)));
    node.style.minHeight = `${grid(node.clientWidth || 900).height}px`; // what comes into sight moves nothing
    if (!it.seen || !node.clientWidth) return;
    const { data: all, layout } = it.figure(node.clientWidth);
    Plotly.react(node, all, layout, CONFIG);
  };
  /** The values at the next x of a panel, shown and spoken. */
  it.read = (across, down) => {
    const shown = it.shown();
    it.at.panel = (it.at.panel + down + shown.length) % shown.length;
    const panel = shown[it.at.panel], n = it.at.panel ? it.at.panel + 1 : "";
    const drawn = panel.series.filter((one) => !off.has(one.name) && passes(one.facets));
    const [low, high] = node.layout.xaxis.range;
    const xs = [...new Set(drawn.flatMap((one) => one.x))].filter((x) => x >= low && x <= high).sort((a, b) => a - b);
    const next = across > 0 ? xs.find((x) => x > (it.at.x ?? -Infinity)) : xs.findLast((x) => x < (it.at.x ?? Infinity));
    it.at.x = (across ? next : it.at.x) ?? it.at.x ?? xs[0];
    Plotly.Fx.hover(node, { xval: it.at.x }, `x${n}y${n}`);
    spoken.textContent = [panel.title, `${panel.x} ${it.at.x}`, ...drawn.filter((one) => one.x.includes(it.at.x))
      .map((one) => `${one.name}: ${one.y[one.x.indexOf(it.at.x)].toFixed(2)}`)].join("; ");
  };
  node.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    it.read(...step);
  });
  for (const button of buttons) button.onclick = () => {
    const name = button.dataset.series;
    if (!off.delete(name)) off.add(name);
    button.ariaPressed = String(!off.has(name));
    it.draw();
  };
  const name = node.dataset.chart;
  figure.querySelector("[data-act=csv]").onclick = () => takeText(`${name}.csv`, csvOf(valuesOf(name)));
  figure.querySelector("[data-act=png]").onclick = () => {
    const made = it.figure(1000);
    const named = { showlegend: true, legend: { orientation: "h", y: 0, yref: "container", yanchor: "bottom" }, height: made.layout.height + 90,
      title: { text: caption.replace(/(.{1,140})(\s|$)/g, "$1<br>"), font: { size: 12 }, x: 0.01, y: 1, yanchor: "top", pad: { t: 10 } },
      margin: { l: 50, r: 10, t: 110, b: 90 } };
    const seen = new Set();
    for (const trace of made.data) trace.showlegend = trace.name != null && !seen.has(trace.name) && !!seen.add(trace.name);
    Plotly.downloadImage({ data: made.data, layout: { ...made.layout, ...named } },
      { filename: name, format: "png", scale: 2, width: 1000, height: named.height });
  };
  return it;
}

// --- theme, print, start ---

const dark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";

function recolour() {
  $("theme").textContent = isDark() ? "Light theme" : "Dark theme";
  charts.forEach((one) => one.draw());
}

function theme() {
  let before, opened = [];
  try {
    if (["light", "dark"].includes(localStorage.theme)) root.dataset.theme = localStorage.theme;
  } catch { /* no storage: the reader's preference decides */ }
  $("theme").onclick = () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.theme = root.dataset.theme; } catch { /* kept for this visit only */ }
    recolour();
  };
  dark.addEventListener("change", recolour);
  addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    printing = true;
    root.dataset.theme = "light";
    opened = $$("details.artifact").filter((fold) => !fold.open && !fold.closest(".untrained"));
    for (const fold of opened) fold.open = true;
    charts.forEach((one) => { one.seen = true; });
    recolour();
  });
  addEventListener("afterprint", () => {
    if (before) root.dataset.theme = before;
    else delete root.dataset.theme;
    for (const fold of opened) fold.open = false;
    printing = false;
    recolour();
  });
  recolour();
}

const views = $$(".view").map((node) => ({ node, scale: node.dataset.scale, runs: JSON.parse(node.dataset.runs) }));

function main() {
  charts.push(...$$("[data-chart]").map(chart));
  const act = { // what comes into sight is drawn, and what is drawn follows its width
    chart: (node) => {
      const one = charts.find((it) => it.node === node);
      one.seen = true;
      one.draw();
      new ResizeObserver(() => node.clientWidth !== node.layout?.width && one.draw()).observe(node);
    },
    table: sortable,
  };
  const sight = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) if (isIntersecting) {
      sight.unobserve(target);
      act[target.dataset.chart ? "chart" : "table"](target);
    }
  }, { rootMargin: "300px" });
  for (const node of $$("[data-chart], .results table, .lines table")) sight.observe(node);
  for (const fold of $$("[data-rows]")) fold.addEventListener("toggle", () => fold.open && unfold(fold));
  for (const button of $$("[data-file]")) button.onclick = () => takeText(button.dataset.file, data.files[button.dataset.file]);
  const large = $("large"), shown = document.createElement("img");
  large.append(shown);
  for (const button of $$(".enlarge")) button.onclick = () => {
    const { src, alt } = button.querySelector("img");
    Object.assign(shown, { src, alt });
    large.showModal();
  };
  large.onclick = () => large.close();
  for (const button of $$("[data-act=picture]")) button.onclick = () =>
    take(button.ariaLabel.replace("PNG of ", "").replaceAll("/", "-"), button.closest("figure").querySelector("img").src);
  for (const button of $$("[data-copy], [data-copy-of]")) button.onclick = async () => {
    const source = $(button.dataset.copyOf) ?? button.previousElementSibling;
    try {
      await navigator.clipboard.writeText(button.dataset.copy ?? source.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(source);
      button.textContent = "Selected";
    }
  };
  for (const control of $$("#choices select, #choices input")) control.addEventListener("input", filter);
  document.querySelector(".filters").addEventListener("submit", (event) => event.preventDefault());
  $("reset").onclick = () => restore(new URLSearchParams());
  const wide = matchMedia("(min-width: 62rem)");
  const open = () => { // a phone begins with titles alone
    $("contents").open = $("filters").open = wide.matches;
    for (const fold of $$("details.artifact")) fold.open = wide.matches;
  };
  wide.addEventListener("change", open);
  open();
  theme();
  restore(place().filters);
  addEventListener("hashchange", jump);
  jump();
  performance.mark("interactive");
  root.dataset.ready = "";
}

addEventListener("DOMContentLoaded", main);
