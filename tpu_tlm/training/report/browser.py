"""The style sheet and the script of a report.

The script draws one SVG per metric from the JSON in the page. Texts reach the document as text
nodes only, never as HTML.
"""

STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; overflow-wrap: anywhere; }
table { border-collapse: collapse; font-size: 14px; }
th, td { border-bottom: 1px solid var(--line); padding: .2rem .8rem .2rem 0; text-align: left;
  vertical-align: top; max-width: 40rem; }
th { overflow-wrap: break-word; }
td { overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
fieldset { border: 1px solid var(--line); margin: 0 0 .5rem; }
fieldset label { display: inline-block; margin-right: 1rem; overflow-wrap: anywhere; }
#plots { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); }
figure { margin: 0; position: relative; }
figcaption { font-weight: 600; overflow-wrap: anywhere; }
svg { display: block; height: auto; width: 100%; }
svg text { fill: currentColor; font-size: 11px; }
svg path.curve { fill: none; stroke-width: 1.6; }
svg path.grid { stroke: var(--line); }
svg .cursor { stroke: currentColor; stroke-dasharray: 2 3; }
pre.values { font-size: 12px; line-height: 1.35; margin: 0; min-height: 4em; overflow-x: auto; }
"""

SCRIPT = r"""
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const colors = ["#2f7ed8", "#e4622d", "#2a9d4a", "#a04fd0", "#c9a227", "#d6336c", "#1fa3b5",
  "#7f7f7f"];
const W = 520, H = 250, L = 62, R = 12, T = 8, B = 26;
const byId = (id) => document.getElementById(id);
const color = (run) => colors[run % colors.length];

function element(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  if (text !== undefined) made.textContent = text;
  return made;
}

function html(name, text) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  return made;
}

function checkbox(parent, kind, index, name, checked, ink) {
  const label = html("label"), box = html("input");
  box.type = "checkbox";
  box.checked = checked;
  box.id = kind + "-" + index;
  label.append(box, " " + name);
  if (ink) label.style.color = ink;
  parent.append(label);
}

// About five round numbers between two values.
function ticks(low, high) {
  const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
  const unit = [1, 2, 5, 10].find((m) => m * power >= rough) * power;
  const found = [];
  for (let k = Math.ceil(low / unit); k * unit <= high && found.length < 12; k++)
    found.push(k * unit);
  return found;
}

// Powers of ten between two values, or round numbers where there is at most one.
function logTicks(low, high) {
  const found = [];
  for (let e = Math.ceil(Math.log10(low)); 10 ** e <= high && found.length < 12; e++)
    found.push(10 ** e);
  return found.length > 1 ? found : ticks(low, high).filter((value) => value > 0);
}

function number(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) return value.toExponential(2).replace(/\.?0+e/, "e");
  return String(Number(value.toPrecision(4)));
}

function clock(seconds) {
  if (seconds < 120) return number(seconds) + " s";
  if (seconds < 7200) return number(seconds / 60) + " min";
  return number(seconds / 3600) + " h";
}

function timeTicks(low, high) {
  const unit = high < 120 ? 1 : high < 7200 ? 60 : 3600;
  return ticks(low / unit, high / unit).map((value) => value * unit);
}

function chosenCurves(metric) {
  const found = [];
  data.runs.forEach((run, index) => {
    if (!byId("run-" + index).checked) return;
    for (const curve of run.curves)
      if (curve.metric === metric) found.push({...curve, run: index, name: run.name});
  });
  return found;
}

function range(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

// Exponential mean that starts without a bias towards 0.
function smoothed(values, keep) {
  let mean = 0, weight = 0;
  return values.map((value) => {
    mean = keep * mean + (1 - keep) * value;
    weight = keep * weight + (1 - keep);
    return mean / weight;
  });
}

function draw(metric) {
  const axis = Number(byId("x").value), log = byId("log").checked;
  const keep = Number(byId("smooth").value);
  const curves = chosenCurves(metric).map((curve) => {
    if (keep && curve.kind === "train") curve.y = smoothed(curve.y, keep);
    const kept = curve.y.map((value, i) => i).filter((i) => !log || curve.y[i] > 0);
    return {...curve, x: kept.map((i) => curve.x[axis][i]), y: kept.map((i) => curve.y[i])};
  }).filter((curve) => curve.y.length);
  if (!curves.length) return null;
  let [x0, x1] = range(curves.flatMap((curve) => curve.x));
  let [y0, y1] = range(curves.flatMap((curve) => curve.y));
  if (x0 === x1) { x0 -= 1; x1 += 1; }
  // Averages of one value may differ by rounding.
  if (y1 - y0 <= 1e-9 * Math.max(Math.abs(y0), Math.abs(y1))) {
    const room = Math.abs(y0) / 10 || 1;
    y0 -= log ? y0 / 2 : room;
    y1 += room;
  }
  const of = log ? Math.log : (value) => value;
  const px = (x) => L + (x - x0) / (x1 - x0) * (W - L - R);
  const py = (y) => H - B - (of(y) - of(y0)) / (of(y1) - of(y0)) * (H - B - T);

  const figure = html("figure"), svg = element("svg", {viewBox: `0 0 ${W} ${H}`, role: "img"});
  const values = html("pre");
  values.className = "values";
  svg.append(element("title", {}, metric));
  for (const y of (log ? logTicks : ticks)(y0, y1)) {
    svg.append(element("path", {class: "grid", d: `M${L} ${py(y)}H${W - R}`}));
    svg.append(element("text", {x: L - 5, y: py(y) + 4, "text-anchor": "end"}, number(y)));
  }
  for (const x of (axis ? timeTicks : ticks)(x0, x1)) {
    svg.append(element("path", {class: "grid", d: `M${px(x)} ${T}V${H - B}`}));
    svg.append(element("text", {x: px(x), y: H - 9, "text-anchor": "middle"},
      axis ? clock(x) : number(x)));
  }
  for (const curve of curves) {
    const points = curve.x.map((x, i) => `${px(x).toFixed(1)} ${py(curve.y[i]).toFixed(1)}`);
    const train = curve.kind === "train";
    svg.append(element("path", {class: "curve", d: "M" + points.join("L"),
      stroke: color(curve.run), "stroke-dasharray": train ? "none" : "5 3"}));
    if (!train || points.length === 1)
      if (points.length < 60)
        curve.x.forEach((x, i) => svg.append(element("circle", {cx: px(x), cy: py(curve.y[i]),
          r: 2.5, fill: color(curve.run)})));
  }
  const cursor = element("line", {class: "cursor", y1: T, y2: H - B, visibility: "hidden"});
  svg.append(cursor);
  svg.addEventListener("mousemove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = x0 + ((event.clientX - box.left) / box.width * W - L) / (W - L - R) * (x1 - x0);
    const lines = curves.map((curve) => {
      let near = 0;
      curve.x.forEach((x, i) => {
        if (Math.abs(x - at) < Math.abs(curve.x[near] - at)) near = i;
      });
      const place = axis ? clock(curve.x[near]) : "step " + curve.x[near];
      return `${curve.name} ${curve.kind} ${number(curve.y[near])} (${place})`;
    });
    const x = Math.min(W - R, Math.max(L, px(at)));
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    cursor.setAttribute("visibility", "visible");
    values.textContent = lines.join("\n");
  });
  svg.addEventListener("mouseleave", () => {
    cursor.setAttribute("visibility", "hidden");
    values.textContent = "";
  });
  figure.append(html("figcaption", metric), svg, values);
  return figure;
}

function drawAll() {
  const chosen = data.metrics.filter((metric, index) => byId("metric-" + index).checked);
  const figures = chosen.map((metric) => draw(metric.name)).filter((figure) => figure);
  const none = html("p", "Nothing to draw: there are no values of what is chosen.");
  byId("plots").replaceChildren(...(figures.length ? figures : [none]));
}

data.runs.forEach((run, i) => checkbox(byId("runs"), "run", i, run.name, true, color(i)));
data.metrics.forEach((metric, i) =>
  checkbox(byId("metrics"), "metric", i, metric.name, metric.shown));
byId("controls").addEventListener("change", drawAll);
byId("controls").addEventListener("submit", (event) => event.preventDefault());
drawAll();
"""
