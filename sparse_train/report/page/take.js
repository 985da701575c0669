"use strict";
// Buttons that give a reader a figure as PNG or its numbers as CSV, from the page itself: no server, no network.

function take(name, href) {
  element("a", { href, download: name }).click();
  if (href.startsWith("blob:")) setTimeout(() => URL.revokeObjectURL(href), 60_000); // some browsers read it later
}

const takeButton = (kind, name, act) =>
  element("button", { type: "button", class: "copy", "aria-label": `${kind} of ${name}`, onclick: act }, kind);

/** One cell of a CSV file: quoted where it must be, and never a formula where a spreadsheet opens it. */
function csvCell(value) {
  let text = value == null ? "" : String(value).replaceAll("\r", " ");
  if (/^[=+\-@\t]/.test(text) && isNaN(text)) text = `'${text}`;
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

const csvOf = (rows) => rows.map((row) => `${row.map(csvCell).join(",")}\n`).join("");

const csvButton = (name, rows) => takeButton("CSV", name, () =>
  take(`${name}.csv`, URL.createObjectURL(new Blob([csvOf(rows())], { type: "text/csv" }))));

/** All points of a figure's charts. */
const pointsOf = (panels) => [["panel", "series", "x", "mean", "sd", "n"], ...panels.flatMap((panel) =>
  panel.series.flatMap((series) => series.x.map((x, i) =>
    [panel.title, series.name, x, series.y[i], series.sd?.[i], series.n?.[i]])))];

/** The panels side by side on one canvas, below the names of their series and above the caption. */
function canvasOf(panels, series, caption) {
  const made = panels.filter((one) => one.u && !one.node.hidden), ratio = uPlot.pxRatio, line = 22 * ratio;
  const across = Math.min(3, made.length), wide = Math.max(...made.map((one) => one.u.ctx.canvas.width)) + line;
  const high = Math.max(...made.map((one) => one.u.ctx.canvas.height)) + 1.5 * line;
  const canvas = element("canvas", { width: across * wide + line });
  const pen = canvas.getContext("2d"), font = `${13 * ratio}px system-ui, sans-serif`;
  pen.font = font;
  const fit = (parts, room) => parts.reduce((rows, part) => {
    const last = rows.at(-1), next = [...last, part];
    if (!last.length || pen.measureText(next.map((one) => one.text).join("   ")).width < room) last.push(part);
    else rows.push([part]);
    return rows;
  }, [[]]);
  const names = fit(series.map((one) => ({ text: `● ${one.name}`, ink: colour(one) })), canvas.width - 2 * line);
  const words = fit(caption.split(" ").map((text) => ({ text, ink: tone("soft") })), canvas.width - 2 * line);
  const top = (names.length + 0.5) * line;
  canvas.height = top + Math.ceil(made.length / across) * high + (words.length + 0.5) * line;
  pen.fillStyle = tone("paper");
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.font = font;
  const write = (rows, from, gap) => rows.forEach((row, i) => row.reduce((x, { text, ink }) => {
    pen.fillStyle = ink;
    pen.fillText(text, x, from + (i + 0.8) * line);
    return x + pen.measureText(text + gap).width;
  }, line));
  write(names, 0, "   ");
  made.forEach((one, i) => {
    const x = line + (i % across) * wide, y = top + Math.floor(i / across) * high;
    pen.fillStyle = tone("ink");
    pen.fillText(one.node.querySelector("h4").textContent, x, y + line);
    pen.drawImage(one.u.ctx.canvas, x, y + 1.3 * line);
  });
  write(words, canvas.height - (words.length + 0.3) * line, " ");
  return canvas;
}

/** What is not in sight yet is drawn first, which takes until the next frame. */
const pngButton = (name, href, panels = []) => takeButton("PNG", name, async () => {
  for (const one of panels) one.plot.draw?.();
  await new Promise((done) => requestAnimationFrame(done));
  take(`${name}.png`, href());
});
