// Filters the samples, steps from one to the next, opens the one that the address names, and lights up both places of
// a tile. It only shows, hides and marks what is on the page.
"use strict";
(() => {
  const section = document.getElementById("samples");
  const samples = [...section.querySelectorAll(".sample")];
  const tools = section.querySelector(".tools");
  const steps = section.querySelector(".steps");
  const fields = Object.fromEntries([...tools.querySelectorAll("[data-filter]")].map((field) => [field.dataset.filter, field]));
  const cleared = steps.querySelector("[data-clear]");
  const said = steps.querySelector("[role=status]");
  const texts = new Map();
  let current = null;

  const textOf = (sample) => {
    if (!texts.has(sample)) texts.set(sample, sample.textContent.toLowerCase());
    return texts.get(sample);
  };

  const wanted = (sample, query) =>
    ["strategy", "kind", "tiles"].every((name) => !fields[name].value || sample.dataset[name] === fields[name].value) &&
    (!fields.least.value || Number(sample.dataset.tokens) >= Number(fields.least.value)) &&
    (!fields.most.value || Number(sample.dataset.tokens) <= Number(fields.most.value)) &&
    (!query || textOf(sample).includes(query));

  const filter = () => {
    const query = fields.text.value.toLowerCase();
    for (const sample of samples) sample.hidden = !wanted(sample, query);
    cleared.hidden = Object.values(fields).every((field) => !field.value);
    mark(query);
    tell();
  };

  const clear = () => {
    for (const field of Object.values(fields)) field.value = "";
    filter();
  };

  const shown = () => samples.filter((sample) => !sample.hidden);

  const tell = () => {
    const seen = shown();
    const place = seen.indexOf(current) + 1;
    said.textContent = `${seen.length} of ${samples.length} samples${place ? `, at number ${place}` : ""}`;
  };

  // What is searched for, marked where it stands, with no change to the page.
  const mark = (query) => {
    if (!window.Highlight) return;
    const found = new Highlight();
    for (const sample of query.length > 1 ? shown() : []) {
      const walker = document.createTreeWalker(sample, NodeFilter.SHOW_TEXT);
      for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        const text = node.data.toLowerCase();
        if (text.length !== node.data.length) continue;
        for (let at = text.indexOf(query); at >= 0; at = text.indexOf(query, at + query.length)) {
          const range = new Range();
          range.setStart(node, at);
          range.setEnd(node, at + query.length);
          found.add(range);
        }
      }
    }
    CSS.highlights.set("found", found);
  };

  // Opens the sample that the address names, or that holds what it names.
  const arrive = () => {
    let name = location.hash.slice(1);
    try { name = decodeURIComponent(name); } catch { return; }
    const goal = name && document.getElementById(name);
    const sample = goal && goal.closest(".sample");
    if (!sample) return;
    if (sample.hidden) clear();
    current = sample;
    sample.open = true;
    tell();
    goal.scrollIntoView({ block: goal === sample ? "start" : "nearest" });
    if (goal !== sample) light(goal, "held");
  };

  const step = (by) => {
    const seen = shown();
    if (!seen.length) return;
    const from = seen.indexOf(current);
    const to = from < 0 ? (by > 0 ? 0 : seen.length - 1) : (from + by + seen.length) % seen.length;
    for (const sample of samples) sample.open = sample === seen[to];
    // Not by location.hash, which would take the focus from the button.
    history.pushState(null, "", `#${encodeURIComponent(seen[to].id)}`);
    arrive();
  };

  const tileOf = (target) => target instanceof Element && target.closest("[data-tile]");

  const places = (tile) => tile.closest(".sample").querySelectorAll(`[data-tile="${tile.dataset.tile}"]`);

  const light = (target, kind) => {
    for (const old of section.querySelectorAll(`.${kind}`)) old.classList.remove(kind);
    const tile = tileOf(target);
    if (tile) for (const place of places(tile)) place.classList.add(kind);
  };

  section.addEventListener("mouseover", (event) => light(event.target, "lit"));
  section.addEventListener("mouseleave", () => light(null, "lit"));
  section.addEventListener("focusin", (event) => light(event.target, "lit"));
  section.addEventListener("click", (event) => {
    if (event.target.closest("summary")) {
      current = event.target.closest(".sample");
      tell();
    }
    const tile = tileOf(event.target);
    if (tile && !event.target.closest("a")) light(tile.classList.contains("held") ? null : tile, "held");
  });
  section.addEventListener("keydown", (event) => {
    if (event.key === "Escape") light(null, "held");
  });
  tools.addEventListener("input", filter);
  for (const button of steps.querySelectorAll("[data-step]")) {
    button.addEventListener("click", () => step(Number(button.dataset.step)));
  }
  cleared.addEventListener("click", clear);
  window.addEventListener("hashchange", arrive);
  tools.hidden = steps.hidden = false;
  filter();
  arrive();
})();
