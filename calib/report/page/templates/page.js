"use strict";

// Tables: a head sorts, a tree opens and closes, a long one shows its first rows.

const rowsOf = (table) => [...table.tBodies[0].rows];

function valueOf(row, column) {
  const raw = row.cells[column].dataset.value;
  return raw === undefined ? null : Number.isNaN(Number(raw)) ? raw : Number(raw);
}

function compare(a, b, down) {
  if (a === null || b === null) return (a === null) - (b === null); // what is not known comes last
  const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  return down ? -order : order;
}

function sort(table, column) {
  const heads = [...table.tHead.rows[0].cells];
  const down = heads[column].getAttribute("aria-sort") !== "descending"
    && !(heads[column].classList.contains("words") && !heads[column].hasAttribute("aria-sort"));
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  heads[column].setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = rowsOf(table);
  const total = rows.filter((row) => row.classList.contains("total"));
  const others = rows.filter((row) => !row.classList.contains("total"));
  const ordered = (some) => some.sort((a, b) => compare(valueOf(a, column), valueOf(b, column), down));
  if (table.classList.contains("tree")) {
    const below = Map.groupBy ? Map.groupBy(others, (row) => row.dataset.parent) : grouped(others);
    const walk = (parent) => ordered(below.get(parent) || []).flatMap((row) => [row, ...walk(row.dataset.id)]);
    table.tBodies[0].append(...walk(""));
  } else {
    table.tBodies[0].append(...ordered(others), ...total);
  }
  shorten(table);
}

function grouped(rows) {
  const found = new Map();
  rows.forEach((row) => found.set(row.dataset.parent, [...(found.get(row.dataset.parent) || []), row]));
  return found;
}

function fold(table) {
  const shut = new Set();
  rowsOf(table).forEach((row) => {
    row.hidden = shut.has(row.dataset.parent);
    const twist = row.querySelector(".twist");
    if (row.hidden || (twist && twist.getAttribute("aria-expanded") === "false")) shut.add(row.dataset.id);
  });
}

function shorten(table) {
  const first = Number(table.dataset.first || 0);
  if (first && !table.dataset.all) rowsOf(table).forEach((row, i) => { row.hidden = i >= first; });
  if (table.classList.contains("tree")) fold(table);
}

document.querySelectorAll("table").forEach((table) => {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => sort(table, column));
  });
  table.querySelectorAll(".twist").forEach((twist) => {
    const shown = Number(twist.closest("tr").dataset.depth) < 2;
    twist.setAttribute("aria-expanded", String(shown));
    twist.addEventListener("click", () => {
      twist.setAttribute("aria-expanded", String(twist.getAttribute("aria-expanded") !== "true"));
      fold(table);
    });
  });
  const first = Number(table.dataset.first || 0), count = rowsOf(table).length;
  if (first && count > first) {
    const more = Object.assign(document.createElement("button"), { type: "button", className: "more" });
    more.textContent = `all ${count}`;
    more.addEventListener("click", () => {
      table.dataset.all = "yes";
      rowsOf(table).forEach((row) => { row.hidden = false; });
      more.remove();
    });
    table.parentElement.after(more);
  }
  shorten(table);
});

// Figures: drawn in the colours of the page, anew where the scheme changes.

const dark = window.matchMedia("(prefers-color-scheme: dark)");

function look() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(name).trim();
  const ink = of("--ink"), soft = of("--soft"), line = of("--line");
  const text = { labelColor: soft, titleColor: soft, labelFontSize: 11, titleFontSize: 11.5, titleFontWeight: 500 };
  return {
    font: getComputedStyle(document.body).fontFamily,
    legend: { labelColor: soft, titleColor: soft, labelFontSize: 12, symbolType: "circle" },
    axis: { ...text, gridColor: line, domainColor: line, tickColor: line },
    view: { stroke: null },
    style: {
      roof: { stroke: ink, color: ink },
      "roof-name": { color: soft, fill: soft, fontSize: 10.5 },
      host: { color: soft, fill: soft, opacity: 0.7 },
      band: { fill: soft, opacity: 0.12 },
    },
  };
}

function embedding() {
  return { actions: false, renderer: "svg", config: look(), tooltip: { theme: dark.matches ? "dark" : "light" } };
}

async function draw() {
  const options = embedding();
  for (const source of document.querySelectorAll("script[data-figure]")) {
    const place = document.getElementById(source.dataset.figure);
    if (place) await window.vegaEmbed(place, JSON.parse(source.textContent), options);
  }
  document.documentElement.dataset.drawn = "yes";
}

if (window.vegaEmbed && document.querySelector("script[data-figure]")) {
  draw();
  dark.addEventListener("change", draw);
} else if (!document.getElementById("explored")) {
  document.documentElement.dataset.drawn = "yes";
}
