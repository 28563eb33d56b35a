"use strict";
// The page holds all its text as text: this only shows and hides, and moves the focus.
(() => {
  const bar = document.querySelector(".bar");
  const form = bar.querySelector("form");
  const shown = form.querySelector("output");
  const images = [...document.querySelectorAll("article")].map((article) => ({
    article,
    why: article.dataset.why,
    text: article.querySelector(".head").textContent.toLowerCase(),
    candidates: [...article.querySelectorAll(".candidate")].map((node) => ({
      node,
      model: node.dataset.model,
      reasons: node.dataset.reasons.split(" "),
      text: node.textContent.toLowerCase(),
    })),
  }));
  let visible = images;
  let current = -1;

  const apply = () => {
    const words = form.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const { value: model } = form.model;
    const { value: reason } = form.reason;
    const { value: why } = form.why;
    const narrow = Boolean(words.length || model || reason);
    for (const image of images) {
      let matches = 0;
      for (const one of image.candidates) {
        const fits = (!model || one.model === model) && (!reason || one.reasons.includes(reason))
          && words.every((word) => one.text.includes(word) || image.text.includes(word));
        one.node.hidden = !fits;
        matches += fits;
        // what was looked for must not stay folded away
        if (one.node.tagName === "DETAILS" && (words.length || reason)) one.node.open = fits;
      }
      const alone = !model && !reason && words.every((word) => image.text.includes(word));
      image.article.hidden = (why && image.why !== why) || (narrow && !matches && !alone);
    }
    visible = images.filter((image) => !image.article.hidden);
    current = -1;
    shown.textContent = `${visible.length} of ${images.length} images`;
  };

  const nearest = () => {
    const line = bar.getBoundingClientRect().bottom + 24;
    let index = -1;
    if (window.scrollY === 0) return index;
    visible.forEach((image, place) => {
      if (image.article.getBoundingClientRect().top <= line) index = place;
    });
    return index;
  };

  const move = (step) => {
    if (!visible.length) return;
    // where the reader has scrolled to counts, unless the last move led there
    const at = current >= 0 && visible[current].article === document.activeElement
      ? current : nearest();
    current = Math.min(visible.length - 1, Math.max(0, at + step));
    const { article } = visible[current];
    article.focus({ preventScroll: true });
    article.scrollIntoView({ block: "start" });
    shown.textContent = `${current + 1} of ${visible.length} images`;
  };

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", apply);
  form.addEventListener("reset", () => setTimeout(apply));
  form.querySelector(".previous").addEventListener("click", () => move(-1));
  form.querySelector(".next").addEventListener("click", () => move(1));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("input, select")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const steps = { j: 1, ArrowRight: 1, k: -1, ArrowLeft: -1 };
    if (event.key in steps) {
      event.preventDefault();
      move(steps[event.key]);
    } else if (event.key === "/") {
      event.preventDefault();
      form.search.focus();
    }
  });
  // a browser may have kept what was typed before the page was loaded again
  apply();
  bar.hidden = false;
})();
