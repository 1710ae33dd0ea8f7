"use strict";

// The explorer: axes, colour and filters are chosen by the reader, the figure is drawn anew.

const explored = document.getElementById("explored");

function explorer() {
  const { runs, keys, figures, x, y } = JSON.parse(explored.textContent);
  const numbers = keys.filter((key) => runs.every((run) => typeof run[key.name] === "number"));
  const axes = [...figures, ...numbers], place = document.getElementById("choices");
  const chosen = { x, y, colour: keys.length ? keys[0].name : "", filters: {}, intervals: true, unfit: true };

  function choice(label, options, value, change) {
    const box = document.createElement("label"), select = document.createElement("select");
    box.append(label, select);
    options.forEach(([name, text]) => select.add(new Option(text, name, false, name === value)));
    select.addEventListener("change", () => { change(select.value); show(); });
    place.append(box);
  }
  function tick(label, name) {
    const box = document.createElement("label"), input = document.createElement("input");
    Object.assign(input, { type: "checkbox", checked: chosen[name] });
    input.addEventListener("change", () => { chosen[name] = input.checked; show(); });
    box.append(input, label);
    place.append(box);
  }
  const named = (some) => some.map((one) => [one.name, one.title]);
  choice("across ", named(axes), x, (value) => { chosen.x = value; });
  choice("up ", named(axes), y, (value) => { chosen.y = value; });
  if (keys.length) choice("colour ", named(keys), chosen.colour, (value) => { chosen.colour = value; });
  keys.forEach((key) => {
    const values = [...new Set(runs.map((run) => String(run[key.name])))];
    if (values.length < 2) return;
    choice(`${key.title} `, [["", "all"], ...values.map((value) => [value, value])], "", (value) => { chosen.filters[key.name] = value; });
  });
  tick("intervals", "intervals");
  if (runs.some((run) => !run.fits)) tick("what does not fit", "unfit");

  function scale(name) {
    const values = runs.map((run) => run[name]).filter((value) => typeof value === "number" && value > 0);
    const wide = values.length === runs.length && Math.max(...values) > 20 * Math.min(...values);
    return wide ? { type: "log", nice: false, padding: 16 } : { type: "linear", zero: false, nice: true, padding: 16 };
  }
  function axis(name) {
    const of = axes.find((one) => one.name === name), label = `format(datum.value, '~s') + '${of.unit || ""}'`;
    return { field: name, type: "quantitative", scale: scale(name), axis: { title: of.title, labelExpr: label, grid: true, tickCount: 6 } };
  }
  function show() {
    const kept = runs.filter((run) => (run.fits || chosen.unfit)
      && Object.entries(chosen.filters).every(([key, value]) => !value || String(run[key]) === value));
    const values = kept.map((run) => ({ ...run, low: run[`${chosen.y} low`], high: run[`${chosen.y} high`], colour: String(run[chosen.colour]) }));
    const tooltip = ["run", ...keys.map((key) => key.name), ...figures.map((one) => one.name), "known"]
      .map((name) => ({ field: name.replace(/\./g, "\\."), title: name, ...(figures.some((one) => one.name === name) ? { format: ".3~s" } : {}) }));
    const colour = { field: "colour", type: "nominal", sort: null, scale: { scheme: "tableau10" }, legend: { title: null, orient: "top" } };
    const ends = { mark: { type: "rule", opacity: 0.45 }, transform: [{ filter: "datum.fits && isValid(datum.low) && isValid(datum.high)" }],
      encoding: { x: axis(chosen.x), y: { ...axis(chosen.y), field: "low" }, y2: { field: "high" }, color: colour } };
    const points = { mark: { type: "point", filled: true, size: 90, opacity: 0.9 }, transform: [{ filter: "datum.fits" }],
      encoding: { x: axis(chosen.x), y: axis(chosen.y), color: colour, tooltip } };
    const crosses = { mark: { type: "text", text: "×", fontSize: 18 }, transform: [{ filter: "!datum.fits" }],
      encoding: { x: axis(chosen.x), y: axis(chosen.y), color: colour, tooltip } };
    // A layer without a run would have no extent.
    const drawn = (run) => typeof run[chosen.x] === "number" && typeof run[chosen.y] === "number";
    const some = (test) => values.some((run) => drawn(run) && test(run));
    const layer = [
      ...(chosen.intervals && some((run) => run.fits && typeof run.low === "number" && typeof run.high === "number") ? [ends] : []),
      ...(some((run) => run.fits) ? [points] : []),
      ...(some((run) => !run.fits) ? [crosses] : []),
    ];
    if (!layer.length) {
      document.getElementById("explorer").textContent = "No run is left, or none knows both.";
      return Promise.resolve();
    }
    const escaped = JSON.parse(JSON.stringify(layer), (key, value) => (key === "field" && value === chosen.x ? value.replace(/\./g, "\\.") : value));
    return window.vegaEmbed("#explorer", { width: "container", height: 420, background: "transparent", data: { values }, layer: escaped }, embedding());
  }
  return show;
}

if (explored) {
  const show = explorer();
  const again = () => show().then(() => { document.documentElement.dataset.drawn = "yes"; });
  again();
  dark.addEventListener("change", again);
}
