// A region found on this tab leads to the map.
element.addEventListener("click", (event) => {
  const button = event.target.closest("button.region");
  if (!button) return;
  const detail = { city: button.dataset.city, region: button.dataset.region };
  const map = [...document.querySelectorAll("button[role=tab]")].find(
    (tab) => tab.textContent.trim() === "Map",
  );
  if (map) map.click();
  document.dispatchEvent(new CustomEvent("urbanln-region", { detail }));
  window.scrollTo({ top: 0, behavior: "smooth" });
});
