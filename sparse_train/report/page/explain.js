"use strict";
// One sparse layer to play with. Its mask is drawn here. At the start Eq. 10 gives the length of each gradient; after some
// steps the measured exponent gives it relative to the layer's mean, since a slope is measured and no level.

const NEURONS = 12, SEEN = 36; // rows of the mask, and weights of each that are drawn
const FAN_INS = [9, 18, 36, 72, 144, 288, 576, 1152];

/** Uniform numbers in [0, 1), the same at every visit (mulberry32). */
function uniform(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Linear between measured points, level beyond them. */
function between(points, x) {
  const next = points.findIndex(([at]) => at >= x);
  if (next <= 0) return points[next === 0 ? 0 : points.length - 1][1];
  const [[x0, y0], [x1, y1]] = [points[next - 1], points[next]];
  return y0 + ((y1 - y0) * (x - x0)) / (x1 - x0);
}

/** The layer: each neuron's kept weights, and its gradient over a dense one's, without and with Eq. 12. */
function sparseLayer(sparsity, fanIn, exponent) {
  const draw = uniform(12);
  const neurons = Array.from({ length: NEURONS }, () => {
    const mask = Array.from({ length: fanIn }, () => draw() >= sparsity);
    return { mask, kept: mask.filter(Boolean).length };
  });
  const mean = neurons.reduce((sum, { kept }) => sum + kept, 0) / NEURONS;
  for (const one of neurons) {
    one.plain = one.kept ? (one.kept / fanIn) ** exponent : null; // a neuron without weights has no gradient
    one.corrected = one.kept ? one.plain * Math.sqrt(one.kept / mean) : null;
  }
  return neurons;
}

/** Lengths relative to the geometric mean of the layer. */
function relative(neurons) {
  for (const key of ["plain", "corrected"]) {
    const mean = Math.exp(neurons.reduce((sum, one) => sum + Math.log(one[key]), 0) / neurons.length);
    for (const one of neurons) one[key] /= mean;
  }
}

const times = (values) => {
  const [low, high] = [Math.min(...values), Math.max(...values)].map((value) => value.toFixed(value < 10 ? 2 : 1));
  return low === high ? `${low} times` : `${low} to ${high} times`;
};

/** Masks, gradients and the measured amplification as one Plotly figure. */
function drawLayer(neurons, over, sparsity, measured, width) {
  const narrow = width < 700, rows = neurons.map((_, row) => row + 1);
  const cells = (wanted) => neurons.flatMap(({ mask }, row) =>
    mask.slice(0, SEEN).flatMap((kept, i) => (kept === wanted ? [[i, row + 1]] : [])));
  const squares = (wanted, color) => ({ x: cells(wanted).map(([x]) => x), y: cells(wanted).map(([, y]) => y), mode: "markers",
    marker: { symbol: "square", size: 6, color }, hoverinfo: "skip" });
  const dots = (key, name, color) => ({ x: neurons.map((one) => one[key]), y: rows, xaxis: "x2", yaxis: "y2", mode: "markers", name,
    marker: { size: 8, color, line: { color: key === "plain" ? tone("ink") : tone("link"), width: 1.5 } },
    hovertemplate: `neuron %{y}, ${name}: %{x:.2f}×<extra></extra>` });
  const s = Array.from({ length: 99 }, (_, i) => i / 100);
  const all = [squares(false, tone("grid")), squares(true, tone("ink")), dots("plain", "without Eq. 12", tone("paper")),
    dots("corrected", "with Eq. 12", tone("link")),
    { x: s, y: s.map((one) => 1 / Math.sqrt(1 - one)), xaxis: "x3", yaxis: "y3", mode: "lines", line: { color: tone("ink"), width: 1.5 },
      hovertemplate: "1/√(1 − %{x}) = %{y:.2f}<extra></extra>" },
    { x: measured.map(([x]) => x), y: measured.map(([, y]) => y), xaxis: "x3", yaxis: "y3", mode: "markers",
      marker: { size: 8, color: tone("link") }, hovertemplate: "measured: %{y:.2f}× at %{x}<extra></extra>" }];
  const rowsOf = { autorange: "reversed", showticklabels: false, showgrid: false, ticks: "" };
  const dashed = { type: "line", line: { dash: "dot", width: 1, color: tone("soft") } };
  const layout = layoutOf({ width, height: narrow ? 760 : 290, margin: { l: 30, r: 10, t: 10, b: 45 },
    grid: { rows: narrow ? 3 : 1, columns: narrow ? 1 : 3, pattern: "independent", xgap: 0.1, ygap: 0.25 },
    xaxis: axisOf("weights of each neuron", { showticklabels: false, showgrid: false, ticks: "", range: [-1, SEEN] }),
    yaxis: axisOf("neuron", rowsOf), yaxis2: axisOf("", rowsOf), yaxis3: axisOf("", { range: [0.5, 8] }),
    xaxis2: axisOf(`gradient over ${over}`, { type: "log", range: [Math.log10(0.4), Math.log10(16)], tickvals: [0.5, 1, 2, 4, 8, 16] }),
    xaxis3: axisOf("amplification by sparsity", { range: [0, 1], tickformat: ".0%" }),
    shapes: [{ ...dashed, xref: "x2", yref: "y2 domain", x0: 1, x1: 1, y0: 0, y1: 1 },
      { ...dashed, xref: "x3", yref: "y3 domain", x0: sparsity, x1: sparsity, y0: 0, y1: 1 }] });
  Plotly.react("try-plot", all, layout, { displayModeBar: false });
}

function play() {
  const { measured, exponents } = data.explanation, node = $("try-plot");
  const [sparsity, fanIn] = [$("try-sparsity"), $("try-fan-in")], spoken = document.querySelector(".try .says");
  const it = { node, draw: () => {
    const s = Number(sparsity.value), count = FAN_INS[fanIn.value];
    const step = document.querySelector("[name=try-step]:checked").value, start = step === "0";
    const neurons = sparseLayer(s, count, start ? -0.5 : between(exponents[step], s));
    const alive = neurons.filter((one) => one.kept), kept = neurons.map((one) => one.kept);
    document.querySelector("[for=try-sparsity]").textContent = `${Math.round(100 * s)}%`;
    document.querySelector("[for=try-fan-in]").textContent = String(count);
    if (!start) relative(alive);
    drawLayer(neurons, start ? "dense" : "the mean", s, measured, node.clientWidth);
    const [fewest, most] = [Math.min(...kept), Math.max(...kept)];
    spoken.textContent = !alive.length ? "No neuron has a weight." :
      `The neurons keep ${fewest === most ? most : `${fewest} to ${most}`} of ${count} weights each. Their gradients are ` +
      `${times(alive.map((one) => one.plain))} as long as ${start ? "dense ones" : "their layer's mean"}, and ` +
      `${times(alive.map((one) => one.corrected))} with Eq. 12.`;
  } };
  for (const control of $$(".try input")) control.addEventListener("input", it.draw);
  new ResizeObserver(() => node.clientWidth !== node.layout?.width && it.draw()).observe(node);
  charts.push(it); // follows the theme
}

if (data.explanation) addEventListener("DOMContentLoaded", play);
