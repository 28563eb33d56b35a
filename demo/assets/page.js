// Page-wide handlers: a click on an image enlarges it; a click on a region opens it on the map.
document.addEventListener("click", (event) => {
  const image = event.target.closest("button.enlarge")?.querySelector("img");
  if (image) enlarge(image);
  const region = event.target.closest("button.region");
  if (region) lead(region.dataset);
});

function enlarge(image) {
  const dialog = document.createElement("dialog");
  dialog.className = "enlarged";
  const close = document.createElement("button");
  close.textContent = "Close";
  dialog.append(image.cloneNode(), close);
  dialog.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  (document.querySelector(".gradio-container") || document.body).append(dialog);
  dialog.showModal();
}

function lead({ city, region }) {
  const tabs = [...document.querySelectorAll("button[role=tab]")];
  tabs.find((tab) => tab.textContent.trim() === "Map")?.click();
  document.dispatchEvent(new CustomEvent("urbanln-region", { detail: { city, region } }));
  window.scrollTo({ top: 0, behavior: "smooth" });
}
