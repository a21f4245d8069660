// What can be chosen before a video is sent; defaults and limits are those of the API's document.

import { call } from "./api.js";
import { h, say, tiles } from "./dom.js";
import { joined } from "./words.js";

const WORDS = {
  "side-by-side": "Side by side",
  stacked: "Stacked",
  h264: "H.264",
  hevc: "HEVC",
  av1: "AV1",
  mp4: "MP4",
  mov: "MOV",
};
const PRESETS = "ultrafast superfast veryfast faster fast medium slow".split(" ");
const SIZES = ["1280x720", "1920x1080", "3840x2160", "1080x1080", "1080x1920"];

export class Options {
  #fields = {};
  #defaults = {};

  constructor() {
    this.summary = h("span", { class: "chosen" });
    this.body = h("div", { class: "fields" });
    this.element = h(
      "details",
      { class: "options" },
      h("summary", {}, h("span", {}, "Options"), this.summary),
      this.body,
    );
    this.form = h("form", { novalidate: true, onsubmit: (event) => event.preventDefault() });
    this.form.append(this.element);
    this.form.addEventListener("input", () => this.#changed());
  }

  /** Ask the API what there is to choose; without an answer its defaults hold. */
  async load() {
    let schemas;
    try {
      ({ schemas } = (await call("GET", "/v1/openapi.json")).components);
    } catch (error) {
      this.body.replaceChildren(
        h("p", { class: "hint" }, `${error.message} The service's defaults will be used.`),
      );
      return;
    }
    this.#build(schemas.JobSpec.properties, schemas);
    this.#changed();
  }

  /** What differs from the defaults; null, with the wrong field in focus, if something is wrong. */
  chosen() {
    const wrong = [...this.form.elements].find((each) => each.willValidate && !each.validity.valid);
    if (wrong) {
      this.element.open = true;
      wrong.focus();
      wrong.reportValidity();
      return null;
    }
    const values = this.#values();
    return Object.fromEntries(
      Object.entries(values).filter(([name, value]) => value !== this.#defaults[name]),
    );
  }

  #build(specs, schemas) {
    const enumOf = (spec) => spec.enum ?? schemas[spec.$ref.split("/").pop()].enum;
    const limits = (spec) => spec.anyOf?.[0] ?? spec;
    for (const [name, spec] of Object.entries(specs)) this.#defaults[name] = spec.default ?? null;
    const f = this.#fields;
    f.layout = enumOf(specs.layout).map((value) => {
      const checked = value === specs.layout.default;
      return h("input", { type: "radio", name: "layout", value, checked });
    });
    f.size = select("size", ["", ...SIZES, "other"], "", (value) =>
      ({ "": "As the source gives", other: "Other…" })[value] ?? value.replace("x", " × "));
    f.width = number("width", { min: 32, max: 8192, step: 2, placeholder: "width" });
    f.height = number("height", { min: 32, max: 8192, step: 2, placeholder: "height" });
    f.codec = select("codec", enumOf(specs.codec), specs.codec.default, word);
    f.container = select("container", enumOf(specs.container), specs.container.default, word);
    f.rate = select("rate", ["crf", "bitrate"], "crf", (value) =>
      ({ crf: "Constant quality", bitrate: "Constant bitrate" })[value]);
    f.crf = number("crf", { ...bounds(specs.crf), value: specs.crf.default, required: true });
    f.bitrate = number("bitrate", bounds(limits(specs.bitrate_kbps)));
    f.preset = select("preset", PRESETS, specs.preset.default, (value) => value);
    f.fps = number("fps", { min: 1, max: limits(specs.fps_limit).maximum, step: "any" });
    f.detect = number("detect", bounds(limits(specs.detect_every)));
    f.annotate = select("annotate", ["", "boxes"], "", (value) => (value ? "Boxes" : "None"));
    f.priority = number("priority", {
      ...bounds(specs.priority), value: specs.priority.default, required: true,
    });
    f.fps.placeholder = "as the source";
    f.detect.placeholder = "automatic";
    const pair = h("span", { class: "pair" }, f.width, f.height);
    this.sized = field("Width × height", pair, "px, even");
    this.crf = field("CRF", f.crf, "lower is better and larger");
    this.bitrate = field("Bitrate", f.bitrate, "kbit/s of the picture");
    f.width.setAttribute("aria-label", "Width in pixels");
    f.height.setAttribute("aria-label", "Height in pixels");
    this.body.replaceChildren(
      h("fieldset", { class: "layouts" }, h("legend", {}, "Layout"),
        f.layout.map((input) =>
          h("label", {}, input, tiles(input.value), h("span", {}, word(input.value))))),
      field("Size", f.size),
      this.sized,
      field("Codec", f.codec),
      field("Container", f.container),
      field("Rate control", f.rate),
      this.crf,
      this.bitrate,
      field("Preset", f.preset, "slower is smaller"),
      field("Frame rate, at most", f.fps, "frames/s"),
      field("Detect faces every", f.detect, "frames"),
      field("Marks around faces", f.annotate),
      field("Priority", f.priority, "0 to 9, higher is sooner"),
      h("p", { class: "reset" },
        h("button", { type: "button", class: "quiet", onclick: () => this.#reset() },
          "Back to the defaults")),
    );
  }

  #reset() {
    this.form.reset();
    this.#changed();
  }

  #values() {
    const f = this.#fields;
    if (!f.layout) return {};
    const numeric = (input) => (input.value === "" ? null : Number(input.value));
    const byRate = f.rate.value === "bitrate";
    const sizes = f.size.value === "other" ? `${f.width.value}x${f.height.value}` : f.size.value;
    return {
      layout: f.layout.find((input) => input.checked).value,
      size: sizes ? sizes.split("x").map(Number) : null,
      codec: f.codec.value,
      container: f.container.value,
      crf: byRate ? this.#defaults.crf : numeric(f.crf),
      bitrate_kbps: byRate ? numeric(f.bitrate) : null,
      preset: f.preset.value,
      fps_limit: numeric(f.fps),
      detect_every: numeric(f.detect),
      annotate: f.annotate.value === "boxes",
      priority: numeric(f.priority),
    };
  }

  #changed() {
    const f = this.#fields;
    const sized = f.size.value === "other";
    const byRate = f.rate.value === "bitrate";
    this.sized.hidden = !sized;
    this.crf.hidden = byRate;
    this.bitrate.hidden = !byRate;
    for (const each of [f.width, f.height]) each.disabled = !sized;
    for (const each of [f.width, f.height]) each.required = sized;
    f.crf.disabled = byRate;
    f.bitrate.disabled = !byRate;
    f.bitrate.required = byRate;
    for (const each of f.container.options) {
      each.disabled = f.codec.value === "av1" && each.value === "mov"; // which can't hold it
      if (each.disabled && each.selected) f.container.value = "mp4";
    }
    say(this.summary, joined(inWords(this.#values())));
  }
}

/** A spec's choices in a few words. */
export function inWords(spec) {
  return [
    word(spec.layout),
    spec.size && spec.size.join(" × "),
    word(spec.codec),
    spec.bitrate_kbps ? `${spec.bitrate_kbps} kbit/s` : `CRF ${spec.crf ?? "…"}`,
    spec.preset,
    spec.container !== "mp4" && word(spec.container),
    spec.fps_limit && `at most ${spec.fps_limit} frames/s`,
    spec.detect_every && `faces every ${spec.detect_every} frames`,
    spec.annotate && "boxes around faces",
    spec.priority !== 5 && `priority ${spec.priority}`,
  ].filter(Boolean);
}

function word(value) {
  return WORDS[value] ?? value;
}

function bounds(spec) {
  return { min: spec.minimum, max: spec.maximum, step: 1 };
}

function number(name, properties) {
  return h("input", { type: "number", inputmode: "decimal", name, ...properties });
}

function select(name, values, chosen, words) {
  const options = values.map((value) =>
    h("option", { value, selected: value === chosen }, words(value)));
  return h("select", { name }, options);
}

function field(label, control, hint = "") {
  const id = `option-${label.toLowerCase().replace(/[^a-z]+/g, "-")}`;
  if (control.matches("input, select")) {
    control.id = id;
    if (hint) control.setAttribute("aria-describedby", `${id}-hint`);
  }
  const single = control.matches("input, select");
  return h(
    "div",
    { class: "field" },
    h(single ? "label" : "span", single ? { for: id } : { class: "label" }, label),
    control,
    hint && h("span", { class: "hint", id: `${id}-hint` }, hint),
  );
}
