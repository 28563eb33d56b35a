// Run by Gradio with `element` (the panel) and `server` (the functions of MapPanel). HTML comes
// escaped from the server; all other text is set with textContent.
const find = (selector) => element.querySelector(selector);
const state = { ids: [], painted: { colours: [], values: [] }, centres: null, at: -1, asked: 0 };

function take() {
  const drawing = find(".drawing");
  state.ids = JSON.parse(drawing.dataset.ids);
  state.city = drawing.dataset.city;
  state.centres = null;
  state.at = -1;
  paint(JSON.parse(drawing.dataset.painted));
  const shown = state.ids.indexOf(find(".card").dataset.region);
  if (shown >= 0) point(shown);
}

function paint(painted) {
  state.painted = painted;
  element.querySelectorAll(".regions path").forEach((path, i) => {
    path.style.fill = painted.colours[i];
  });
}

function chosen() {
  const layer = find("input[name=layer]:checked");
  return {
    city: state.city,
    view: find("select[name=view]").value,
    indicator: find("select[name=indicator]").value,
    layer: layer ? layer.value : "measured",
  };
}

async function ask(name, question) {
  try {
    const answer = await server[name](question);
    if (answer && !answer.error) return answer;
    say(answer && answer.error ? answer.error : "The server did not respond. Try again.");
  } catch (error) {
    say("The server cannot be reached. Check that it is running and reload the page.");
  }
  return null;
}

function say(sentence) {
  const line = document.createElement("p");
  line.className = "notice error";
  line.setAttribute("role", "alert");
  line.textContent = sentence;
  find(".card").replaceChildren(line);
}

async function showLayer() {
  const answer = await ask("layer", chosen());
  if (!answer) return;
  paint(answer);
  find(".legend").innerHTML = answer.legend;
  find(".note").innerHTML = answer.note;
  if (state.at >= 0) speak();
}

async function showCity(name) {
  const answer = await ask("city", { city: name });
  if (!answer) return;
  find(".controls").outerHTML = answer.controls;
  find(".stage").innerHTML = answer.drawing;
  take();
}

function speak() {
  const indicator = find("select[name=indicator]").selectedOptions[0].textContent;
  const value = state.painted.values[state.at];
  find(".spoken").textContent = `${state.ids[state.at]}: ${indicator} ${value}`;
}

function point(i) {
  state.at = i;
  const path = element.querySelectorAll(".regions path")[i];
  find(".cursor").setAttribute("d", path.getAttribute("d"));
  speak();
}

async function showRegion(i, thenFocus = false) {
  point(i);
  const asked = ++state.asked;
  element.classList.add("waiting");
  const answer = await ask("region", { ...chosen(), region: state.ids[i] });
  if (asked !== state.asked) return; // another region was selected meanwhile
  element.classList.remove("waiting");
  if (!answer) return;
  find(".card").innerHTML = answer.card;
  find(".card").dataset.region = state.ids[i];
  if (thenFocus) find(".card h3").focus();
}

async function goTo(city, region) {
  if (city !== state.city) await showCity(city);
  const i = state.ids.indexOf(region);
  if (i >= 0) await showRegion(i);
}

// Index of the nearest region within 45 degrees of the direction and a gap of at most twice the
// region's size; -1 at the edge of the city.
function neighbour(dx, dy) {
  const paths = [...element.querySelectorAll(".regions path")];
  state.centres ??= paths.map((path) => {
    const box = path.getBBox();
    return { x: box.x + box.width / 2, y: box.y + box.height / 2, w: box.width, h: box.height };
  });
  if (state.at < 0) return 0;
  const own = state.centres[state.at];
  const size = (one) => (dx ? one.w : one.h);
  let best = -1;
  let least = Infinity;
  state.centres.forEach((one, i) => {
    const along = (one.x - own.x) * dx + (one.y - own.y) * dy;
    const across = Math.abs((one.x - own.x) * dy) + Math.abs((one.y - own.y) * dx);
    const gap = along - (size(one) + size(own)) / 2;
    if (i === state.at || !one.w || along <= across || gap > 2 * size(own)) return;
    const distance = along + 3 * across;
    if (distance < least) [best, least] = [i, distance];
  });
  return best;
}

let pause;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

element.addEventListener("keydown", (event) => {
  if (!event.target.closest("svg.city")) return;
  let i = -1;
  if (ARROWS[event.key]) i = neighbour(...ARROWS[event.key]);
  else if (event.key === "Home") i = 0;
  else if (event.key === "End") i = state.ids.length - 1;
  else if ((event.key === "Enter" || event.key === " ") && state.at >= 0) i = state.at;
  else return;
  event.preventDefault();
  if (i < 0) return;
  point(i);
  clearTimeout(pause);
  if (event.key === "Enter") showRegion(i, true);
  else pause = setTimeout(() => showRegion(i), 150);
});

element.addEventListener("click", (event) => {
  const path = event.target.closest(".regions path");
  if (path) showRegion(Number(path.dataset.i));
  const button = event.target.closest("button.download");
  if (button) download(button);
});

async function download(button) {
  const said = button.nextElementSibling;
  said.textContent = "Preparing the file…";
  button.disabled = true;
  try {
    const answer = await server.geopackage(chosen());
    if (answer.error) throw new Error(answer.error);
    const link = document.createElement("a");
    link.href = `data:application/geopackage+sqlite3;base64,${answer.content}`;
    link.download = answer.name;
    link.click();
    said.textContent = answer.name;
  } catch (error) {
    said.textContent = error.message || "The server cannot be reached.";
  }
  button.disabled = false;
}

element.addEventListener("mousemove", (event) => {
  const path = event.target.closest && event.target.closest(".regions path");
  if (!path) return;
  const i = Number(path.dataset.i);
  const indicator = find("select[name=indicator]").selectedOptions[0].textContent;
  find(".spoken").textContent = `${state.ids[i]}: ${indicator} ${state.painted.values[i]}`;
});

element.addEventListener("change", (event) => {
  if (event.target.name === "city") return showCity(event.target.value);
  if (event.target.closest(".controls")) {
    showLayer();
    if (event.target.name === "view" && state.at >= 0) showRegion(state.at);
  }
});

// sent by region buttons on all tabs
document.addEventListener("urbanln-region", (event) => {
  goTo(event.detail.city, event.detail.region);
});

take();
