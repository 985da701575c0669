"use strict";
// One sparse layer to play with. Its mask is drawn here. At the start Eq. 10 gives the length of each gradient; after some
// steps the measured exponent gives it relative to the layer's mean, since a slope is measured and no level.

const NEURONS = 12, SEEN = 36; // rows of the mask, and weights of each that are drawn
const FAN_INS = [9, 18, 36, 72, 144, 288, 576, 1152];
const LOW = 0.5, HIGH = 16; // ends of the axis of gradient lengths

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
    if (!one.kept) continue; // a neuron without weights has no gradient
    one.plain = (one.kept / fanIn) ** exponent;
    one.corrected = one.plain * Math.sqrt(one.kept / mean);
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

function explanation() {
  const { measured, exponents } = data.explanation;
  const steps = Object.keys(exponents), last = steps.at(-1);
  const range = (id, max, value, step) =>
    element("input", { type: "range", id, min: 0, max, step, value, oninput: () => redraw() });
  const sparsity = range("try-sparsity", 0.98, 0.9, 0.01), fanIn = range("try-fan-in", FAN_INS.length - 1, 4, 1);
  const choice = (step, i) => element("label", {}, element("input",
    { type: "radio", name: "try-step", value: step, checked: i === 0, onchange: () => redraw() }),
  step === "0" ? " at the start" : ` after ${Number(step) + 1} steps`);
  const stages = element("fieldset", {}, element("legend", {}, "Training"), steps.map(choice));
  const told = [element("output", { for: "try-sparsity" }), element("output", { for: "try-fan-in" })];
  const spoken = element("p", { class: "says", role: "status" });
  const layer = vector("svg", { viewBox: "0 0 560 240", role: "img", "aria-labelledby": "try-layer" });
  const curve = vector("svg", { viewBox: "0 0 300 240", role: "img", "aria-labelledby": "try-curve" });
  const across = (ratio) => 300 + (240 * Math.log(ratio / LOW)) / Math.log(HIGH / LOW);

  const text = (parent, x, y, words, anchor = "start") => {
    vector("text", { x, y, "text-anchor": anchor }, parent).textContent = words;
  };

  function drawLayer(neurons, over) {
    layer.replaceChildren();
    text(layer, 0, 15, `${Math.min(SEEN, neurons[0].mask.length)} of each neuron's weights`);
    text(layer, 300, 15, `gradient over ${over}`);
    for (const ratio of [0.5, 1, 2, 4, 8, 16]) {
      vector("line", { x1: across(ratio), x2: across(ratio), y1: 20, y2: 216, class: ratio === 1 ? "zero" : "axis" }, layer);
      text(layer, across(ratio), 232, `${ratio}×`, "middle");
    }
    neurons.forEach((one, row) => {
      const y = 22 + row * 16;
      one.mask.slice(0, SEEN).forEach((kept, i) =>
        vector("rect", { x: i * 7.6, y, width: 6.4, height: 11, class: kept ? "kept" : "masked" }, layer));
      if (!one.kept) return text(layer, 300, y + 9, "no weights, no gradient");
      const mark = (value, name) => vector("circle",
        { cx: across(Math.max(LOW, Math.min(HIGH, value))), cy: y + 5.5, r: 4, class: name }, layer);
      mark(one.plain, "theirs");
      mark(one.corrected, "ours");
    });
  }

  function drawCurve(at) {
    const x = (value) => 34 + 244 * value, y = (ratio) => 210 - (180 * (ratio - 1)) / 7;
    curve.replaceChildren();
    text(curve, 0, 12, "measured (points) and 1/√(1 − s)");
    for (const ratio of [1, 2, 4, 6, 8]) {
      vector("line", { x1: 34, x2: 278, y1: y(ratio), y2: y(ratio), class: "axis" }, curve);
      text(curve, 28, y(ratio) + 4, `${ratio}×`, "end");
    }
    for (const share of [0, 0.5, 1]) text(curve, x(share), 228, `${100 * share}%`, "middle");
    const path = Array.from({ length: 99 }, (_, i) => `${x(i / 100)},${y(1 / Math.sqrt(1 - i / 100))}`);
    vector("polyline", { points: path.join(" "), class: "theory" }, curve);
    vector("line", { x1: x(at), x2: x(at), y1: 24, y2: 210, class: "zero" }, curve);
    for (const [share, ratio] of measured) vector("circle", { cx: x(share), cy: y(ratio), r: 4, class: "ours" }, curve);
  }

  function redraw() {
    const s = Number(sparsity.value), count = FAN_INS[fanIn.value];
    const step = stages.querySelector(":checked").value;
    const exponent = step === "0" ? -0.5 : between(exponents[step], s);
    const neurons = sparseLayer(s, count, exponent), alive = neurons.filter((one) => one.kept);
    told[0].textContent = `${Math.round(100 * s)}%`;
    told[1].textContent = String(count);
    const start = step === "0";
    if (!start) relative(alive);
    drawLayer(neurons, start ? "dense" : "the mean");
    drawCurve(s);
    const kept = neurons.map((one) => one.kept);
    const [fewest, most] = [Math.min(...kept), Math.max(...kept)];
    spoken.textContent = !alive.length ? "No neuron has a weight." :
      `The neurons keep ${fewest === most ? most : `${fewest} to ${most}`} of ${count} weights each. Their gradients are ` +
      `${times(alive.map((one) => one.plain))} as long as ${start ? "dense ones" : "their layer's mean"}, and ` +
      `${times(alive.map((one) => one.corrected))} with Eq. 12.`;
  }

  const known = exponents[last].map(([share]) => `${Math.round(100 * share)}%`).join(", ");
  const node = element("section", { class: "try", "aria-labelledby": "try" },
    element("h2", { id: "try" }, "Try it: one sparse layer under normalization"),
    element("p", {}, "Normalization divides by each neuron's own spread. A neuron of sparsity s therefore gets a gradient ",
      "1/√(1 − s) times as long (Section 3.2; hollow). Eq. 12 multiplies it by √(1 − s) and divides it by the root of ",
      "the layer's mean density (filled). The neurons then agree, and the layer keeps one common factor. Training ",
      "undoes the amplification, and the correction then skews the neurons the other way."),
    element("div", { class: "controls" },
      element("label", {}, "Sparsity ", sparsity, " ", told[0]), element("label", {}, "Dense fan-in ", fanIn, " ", told[1]), stages),
    spoken,
    element("div", { class: "shown" },
      element("figure", {}, layer, element("figcaption", { id: "try-layer" },
        `${NEURONS} neurons with random masks. Hollow: by Eq. 10 at the start; after ${Number(last) + 1} steps by the measured `,
        "exponent, relative to the layer's mean. Filled: with Eq. 12.")),
      element("figure", {}, curve, element("figcaption", { id: "try-curve" },
        "Amplification at the start, by sparsity: ", element("a", { href: "#fig2" }, "Figure 2"), "."))),
    element("p", { class: "soft" }, `After ${Number(last) + 1} steps: median exponents over the layers of ResNet20 and three seeds at ${known} `,
      "sparsity (CIFAR-100 at 16x16, RigL with SGD), straight lines between them and level beyond, from ", element("a", { href: "#mask-updates" }, "mask-updates"), "."));
  redraw();
  return node;
}
