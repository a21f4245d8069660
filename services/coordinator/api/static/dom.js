// Elements without markup: whatever a file is called, it only ever becomes text.

const SVG = "http://www.w3.org/2000/svg";

/** An element. `on…` properties are listeners, true and false switch attributes on and off. */
export function h(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** An SVG element. */
export function svg(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

/** Change a text only where it differs, so that nothing is announced or selected anew. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const ICONS = {
  back: "M15 5l-7 7 7 7",
  close: "M6 6l12 12M18 6L6 18",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  down: "M12 4v11m-5-5l5 5 5-5M5 20h14",
  again: "M19 12a7 7 0 1 1-2.2-5.1M19 3v4.5h-4.5",
  play: "M8 5.5v13l11-6.5z",
  pause: "M8 5v14M16 5v14",
  before: "M16 6l-7 6 7 6zM6 6v12",
  after: "M8 6l7 6-7 6zM18 6v12",
  loud: "M4 9.5v5h4l5 4v-13l-5 4zM16.5 9a4.2 4.2 0 0 1 0 6M19 6.5a7.8 7.8 0 0 1 0 11",
  mute: "M4 9.5v5h4l5 4v-13l-5 4zM17 9.5l5 5M22 9.5l-5 5",
  full: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
  check: "M5 12.5l4.5 4.5L19 7.5",
  alert: "M12 3a9 9 0 1 0 0 18a9 9 0 0 0 0-18M12 7.5v5M12 16.2v.2",
};

/** One of ICONS, for the eye only. */
export function icon(name) {
  const path = svg("path", { d: ICONS[name] });
  return svg("svg", { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true" }, path);
}

/** A button that shows only an icon. */
export function iconButton(name, label, onclick, properties = {}) {
  const given = { type: "button", class: "quiet round", "aria-label": label, title: label };
  return h("button", { ...given, onclick, ...properties }, icon(name));
}

/** Two tiles with a head each: the picture of what is made. */
export function tiles(layout = "side-by-side") {
  const person = (which, x, y, w, hh) => {
    const [cx, r] = [x + w / 2, Math.min(w, hh) * 0.22];
    const base = y + hh;
    const [wide, high] = [r * 1.85, Math.min(hh * 0.34, r * 1.9)];
    return svg(
      "g",
      { class: which },
      svg("rect", { x, y, width: w, height: hh, rx: 5 }),
      svg("circle", { cx, cy: base - high - r * 1.25, r }),
      svg("path", { d: `M${cx - wide} ${base}c0 ${-high} ${wide * 0.4} ${-high} ${wide} ${-high}`
        + `s${wide} 0 ${wide} ${high}z` }),
    );
  };
  const places = layout === "stacked"
    ? [[14, 2, 68, 30], [14, 34, 68, 30]]
    : [[2, 6, 45, 54], [49, 6, 45, 54]];
  return svg(
    "svg",
    { class: "tiles", viewBox: "0 0 96 66", "aria-hidden": "true" },
    person("one", ...places[0]),
    person("two", ...places[1]),
  );
}

/** A meter of two tiles: the left one fills up, then the right one. */
export class Meter {
  constructor(label) {
    this.halves = [h("span"), h("span")];
    this.element = h(
      "div",
      { class: "meter", role: "progressbar", "aria-label": label, "aria-valuemin": 0,
        "aria-valuemax": 100 },
      this.halves.map((half) => h("i", {}, half)),
    );
  }

  /** `share` from 0 to 1; null: nobody knows yet. */
  set(share) {
    this.element.classList.toggle("unknown", share === null);
    if (share === null) this.element.removeAttribute("aria-valuenow");
    else this.element.setAttribute("aria-valuenow", Math.floor(share * 100));
    this.halves.forEach((half, index) => {
      const own = Math.min(1, Math.max(0, (share ?? 0) * 2 - index));
      half.style.transform = `scaleX(${own})`;
    });
  }
}

/** Ask before something is lost; true when `yes` was chosen. */
export function confirmed(question, yes, no) {
  return new Promise((resolve) => {
    const dialog = h(
      "dialog",
      { "aria-labelledby": "question", class: "card" },
      h("form", { method: "dialog" },
        h("p", { id: "question" }, question),
        h("div", { class: "actions" },
          h("button", { value: "", autofocus: true }, no),
          h("button", { value: "yes", class: "danger" }, yes))),
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Tell those who listen to the page rather than look at it. */
export function announce(text) {
  say(document.getElementById("spoken"), text);
}

/** A sentence about what went wrong, told at once. */
export function problem(error) {
  return h("p", { class: "problem", role: "alert" }, icon("alert"), h("span", {}, error.message));
}
