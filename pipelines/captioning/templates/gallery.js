"use strict";
// The page is complete without this script, which filters images and moves between them.
const bar = document.querySelector(".bar");
const form = bar.querySelector("form");
const count = form.querySelector("output");
const articles = [...document.querySelectorAll("article")];
const visible = () => articles.filter((article) => !article.hidden);

function filter() {
  const words = form.search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const [model, reason, why] = [form.model.value, form.reason.value, form.why.value];
  for (const article of articles) {
    const head = article.querySelector(".head").textContent.toLowerCase();
    let matches = 0;
    for (const one of article.querySelectorAll(".candidate")) {
      const text = head + one.textContent.toLowerCase();
      const fits = (!model || one.dataset.model === model)
        && (!reason || one.dataset.reasons.split(" ").includes(reason))
        && words.every((word) => text.includes(word));
      one.hidden = !fits;
      matches += fits;
      // what was searched for must not stay folded away
      if (one.tagName === "DETAILS" && (words.length || reason)) one.open = fits;
    }
    const alone = !model && !reason && words.every((word) => head.includes(word));
    article.hidden = Boolean(why && article.dataset.why !== why) || !(matches || alone);
  }
  count.textContent = `${visible().length} of ${articles.length} images`;
}

function move(step) {
  const shown = visible();
  const line = Math.max(0, bar.getBoundingClientRect().bottom) + 24;
  const read = window.scrollY
    ? shown.findLastIndex((article) => article.getBoundingClientRect().top <= line) : -1;
  const focused = shown.indexOf(document.activeElement);
  const next = Math.min(shown.length - 1, Math.max(0, (focused < 0 ? read : focused) + step));
  if (!shown.length) return;
  shown[next].focus({ preventScroll: true });
  shown[next].scrollIntoView({ block: "start" });
  count.textContent = `${next + 1} of ${shown.length} images`;
}

form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", filter);
form.addEventListener("reset", () => setTimeout(filter));
form.querySelector(".previous").addEventListener("click", () => move(-1));
form.querySelector(".next").addEventListener("click", () => move(1));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, select")) return;
  const keys = { j: () => move(1), ArrowRight: () => move(1), k: () => move(-1),
    ArrowLeft: () => move(-1), "/": () => form.search.focus() };
  if (event.key in keys) {
    event.preventDefault();
    keys[event.key]();
  }
});
filter();
bar.hidden = false;
