/* The page's own script: tabs, filters, and programs that are read when a problem is opened. What models wrote comes in
   as text; only highlight.js makes elements of it, and it escapes what it is given. */
"use strict";

/* Tabs: click, arrow keys, Home, End; the address names the open one. */
const tabs = [...document.querySelectorAll("[role=tab]")];
const panel = (tab) => document.getElementById(tab.getAttribute("aria-controls"));

function select(tab) {
  for (const each of tabs) {
    each.setAttribute("aria-selected", String(each === tab));
    each.tabIndex = each === tab ? 0 : -1;
    panel(each).hidden = each !== tab;
  }
}

function follow() {
  const target = document.getElementById(location.hash.slice(1));
  const found = target && tabs.find((tab) => panel(tab).contains(target));
  select(found || tabs[0]);
  if (target instanceof HTMLDetailsElement) target.open = true;
  if (target && found && target !== panel(found)) target.scrollIntoView();
}

for (const [index, tab] of tabs.entries()) {
  tab.addEventListener("click", () => {
    select(tab);
    history.replaceState(null, "", `#${panel(tab).id}`);
  });
  tab.addEventListener("keydown", (event) => {
    const to = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = tabs[(to + tabs.length) % tabs.length];
    next.focus();
    next.click();
  });
}
document.body.classList.add("tabs-work");
addEventListener("hashchange", follow);
follow();

/* Filters. */
for (const form of document.querySelectorAll(".filters")) {
  const rows = [...form.nextElementSibling.querySelectorAll(".problem")];
  const matches = {
    task: (row, value) => row.dataset.task.toLowerCase().includes(value.toLowerCase()),
    language: (row, value) => row.dataset.language === value,
    benchmark: (row, value) => row.dataset.benchmark === value,
    verdict: (row, value) => row.dataset.verdict.split(" ").includes(value),
    kind: (row, value) => (value === "*" ? row.dataset.kind !== "" : row.dataset.kind.split(" ").includes(value)),
  };
  const filter = () => {
    const asked = [...new FormData(form)].filter(([, value]) => value);
    let shown = 0;
    for (const row of rows) {
      row.hidden = !asked.every(([name, value]) => matches[name](row, value));
      if (!row.hidden) shown += 1;
    }
    form.querySelector("output").textContent = `${shown} of ${rows.length}`;
  };
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  filter(); /* a browser keeps what was chosen when a page is read again */
}

/* Scripts of the folder, each read once. */
const read = new Map();

function script(address) {
  if (!read.has(address)) {
    read.set(
      address,
      new Promise((resolve, reject) => {
        const element = document.createElement("script");
        element.src = address;
        element.addEventListener("load", resolve);
        element.addEventListener("error", () => reject(new Error(`${address} is missing beside this page`)));
        document.head.append(element);
      }),
    );
  }
  return read.get(address);
}

/* Programs. */
const chunks = new Map();
globalThis.programs = (number, problems) => chunks.set(number, problems);

function element(name, text, ...classes) {
  const made = document.createElement(name);
  made.textContent = text;
  made.classList.add(...classes.filter(Boolean));
  return made;
}

function coloured(text, language) {
  const code = element("code", text);
  if (globalThis.hljs && hljs.getLanguage(language)) code.innerHTML = hljs.highlight(text, { language }).value;
  return code;
}

/* A program with a mark at each line that the first program of the reference does not have. */
function listing(text, language, reference) {
  const pre = element("pre", "", "program");
  const known = new Set((reference ?? text).split("\n").map((line) => line.trimEnd()));
  const marks = text.split("\n").map((line) => (line.trim() && !known.has(line.trimEnd()) ? "+" : ""));
  pre.tabIndex = 0;
  pre.append(element("span", marks.join("\n"), "marks"), coloured(text, language));
  return pre;
}

function written(program, language, reference) {
  const made = element("div", "");
  const by = program.by.map(([label, note]) => (note ? `${label} (${note})` : label)).join(", ");
  const head = element("p", `${by}: `, "by");
  head.append(element("span", program.verdict, program.passed ? "passed" : "failed"));
  made.append(head);
  if (program.text === null) made.append(element("p", "The program is not here: there are only its verdicts.", "soft"));
  else made.append(listing(program.text, language, reference));
  if (program.detail) made.append(element("pre", program.detail, "soft"));
  return made;
}

async function open(row) {
  if (row.querySelector(".opened")) return;
  const opened = element("div", "", "opened");
  row.append(opened);
  try {
    await Promise.all([script(`programs/${row.dataset.chunk}.js`), script("lib/highlight.min.js")]);
    const all = chunks.get(Number(row.dataset.chunk));
    const problem = all[Number(row.dataset.index)];
    const prompt = problem.prompt === null ? element("p", "The problem's text is not kept here.", "soft") : element("pre", "");
    if (problem.prompt !== null) prompt.append(coloured(problem.prompt, problem.language));
    prompt.classList.add("whole");
    prompt.tabIndex = 0;
    const reference = problem.programs[0].text;
    opened.append(prompt, ...problem.programs.map((program) => written(program, problem.language, reference)));
  } catch (error) {
    opened.append(element("p", error.message, "soft"));
  }
}

for (const row of document.querySelectorAll(".problem")) {
  row.addEventListener("toggle", () => {
    if (!row.open) return;
    history.replaceState(null, "", `#${row.id}`);
    open(row);
  });
  if (row.open) open(row);
}

/* Figures in three dimensions. */
globalThis.turn = (name, figure) => {
  const ink = getComputedStyle(document.body).color;
  const layout = { paper_bgcolor: "transparent", font: { color: ink }, margin: { l: 0, r: 0, t: 0, b: 0 }, ...figure.layout };
  Plotly.newPlot(`turned-${name}`, figure.data, layout, { displaylogo: false, responsive: true });
};
for (const button of document.querySelectorAll("button.turn")) {
  button.addEventListener("click", async () => {
    button.hidden = true;
    document.getElementById(`turned-${button.dataset.figure}`).hidden = false;
    await script("lib/plotly.min.js");
    await script(`figures/${button.dataset.figure}.js`);
  });
}

/* A run that is under way. */
if ("underWay" in document.body.dataset) {
  setInterval(() => document.querySelector(".problem[open]") || location.reload(), 10000);
}
