// Source and result side by side: one set of controls, one clock, the result's sound.

import { h, iconButton, icon, say } from "./dom.js";
import { clock } from "./words.js";

const JUMP_S = 0.25; // further apart: the source jumps
const CLOSE_S = 0.02; // nearer: nothing to do

export class Player {
  #wanted = false;
  #frame = 0;

  /** `frameRate`: frames per second, for steps; `signal` ends it. */
  constructor({ result, frameRate, signal }) {
    this.step = 1 / (frameRate || 25);
    this.result = h("video", { src: result, preload: "auto", playsinline: true });
    this.source = h("video", { preload: "auto", playsinline: true, muted: true });
    this.source.muted = true;
    this.missing = h("div", { class: "missing" });
    this.note = h("p", { class: "problem", role: "alert", hidden: true });
    this.element = h(
      "section",
      { class: "player", "aria-label": "Source and result" },
      h("div", { class: "screens" },
        figure("Source", this.source, this.missing),
        figure("Result", this.result)),
      this.note,
      this.#controls(),
    );
    this.#wire();
    signal.addEventListener("abort", () => this.#end());
  }

  /** Play this beside the result. */
  setSource(url) {
    this.missing.hidden = true;
    this.source.hidden = false;
    this.source.src = url;
    this.source.currentTime = this.result.currentTime;
  }

  /** There is no source to play: show these instead. */
  noSource(...children) {
    this.missing.replaceChildren(...children);
    this.missing.hidden = false;
    this.source.hidden = true;
    this.source.removeAttribute("src");
    this.source.load();
    this.#settle();
  }

  #controls() {
    this.button = iconButton("play", "Play", () => this.#toggle(), { class: "play round" });
    this.seek = h("input", { type: "range", min: 0, max: 1, step: "any", value: 0,
      "aria-label": "Position", oninput: () => this.#seekTo(Number(this.seek.value)) });
    this.time = h("span", { class: "figures time" }, "0:00 / 0:00");
    this.sound = iconButton("loud", "Mute", () => {
      this.result.muted = !this.result.muted;
    });
    return h(
      "div",
      { class: "controls" },
      this.button,
      iconButton("before", "One frame back", () => this.#stepBy(-1)),
      iconButton("after", "One frame on", () => this.#stepBy(1)),
      this.seek,
      this.time,
      this.sound,
      document.fullscreenEnabled
        && iconButton("full", "Full screen", () => this.#fullScreen()),
    );
  }

  #wire() {
    const { result, source } = this;
    const settle = () => this.#settle();
    for (const kind of ["waiting", "canplay", "seeked", "seeking"]) {
      result.addEventListener(kind, settle);
      source.addEventListener(kind, settle);
    }
    result.addEventListener("loadedmetadata", () => this.#show());
    result.addEventListener("durationchange", () => this.#show());
    result.addEventListener("timeupdate", () => this.#show());
    result.addEventListener("ended", () => this.#want(false));
    result.addEventListener("volumechange", () => {
      this.sound.replaceChildren(icon(result.muted ? "mute" : "loud"));
      this.sound.setAttribute("aria-label", result.muted ? "Sound on" : "Mute");
      this.sound.title = this.sound.getAttribute("aria-label");
    });
    result.addEventListener("error", () => {
      this.note.hidden = false;
      say(this.note, "This browser can't play the result; download it to watch it.");
    });
    source.addEventListener("error", () => {
      if (source.getAttribute("src")) this.noSource("This browser can't play the source.");
    });
    source.addEventListener("loadedmetadata", settle);
  }

  #toggle() {
    if (!this.#wanted && this.result.ended) this.#seekTo(0);
    this.#want(!this.#wanted);
  }

  #want(playing) {
    this.#wanted = playing;
    this.button.replaceChildren(icon(playing ? "pause" : "play"));
    this.button.setAttribute("aria-label", playing ? "Pause" : "Play");
    this.button.title = this.button.getAttribute("aria-label");
    this.#settle();
    cancelAnimationFrame(this.#frame);
    if (playing) this.#follow();
    else if (!this.source.hidden) this.source.currentTime = this.result.currentTime;
  }

  /** Both play, or, while one of them has nothing to show, none. */
  #settle() {
    const { result, source } = this;
    const beside = !source.hidden && source.src && !source.ended;
    const ready = result.readyState >= 3 && (!beside || source.readyState >= 3);
    for (const video of beside ? [result, source] : [result]) {
      if (this.#wanted && ready && video.paused) video.play().catch(() => this.#want(false));
      else if (!(this.#wanted && ready) && !video.paused) video.pause();
    }
  }

  /** Keep the source at the result's time, by its speed rather than by jumps. */
  #follow() {
    const { result, source } = this;
    const apart = source.currentTime - result.currentTime;
    if (!source.hidden && !source.seeking && source.readyState >= 2 && !source.ended) {
      if (Math.abs(apart) > JUMP_S) source.currentTime = result.currentTime;
      const rate = Math.abs(apart) < CLOSE_S ? 1 : 1 - 2 * apart;
      source.playbackRate = Math.min(1.2, Math.max(0.8, rate));
    }
    this.#show();
    this.#frame = requestAnimationFrame(() => this.#follow());
  }

  #seekTo(seconds) {
    const to = Math.min(Math.max(0, seconds), this.result.duration || 0);
    this.result.currentTime = to;
    if (!this.source.hidden) this.source.currentTime = to;
    this.#show();
  }

  #stepBy(frames) {
    this.#want(false);
    this.#seekTo(this.result.currentTime + frames * this.step);
  }

  #show() {
    const { currentTime, duration } = this.result;
    this.seek.max = duration || 1;
    this.seek.value = currentTime;
    this.seek.style.setProperty("--done", `${(100 * currentTime) / (duration || 1)}%`);
    say(this.time, `${clock(currentTime)} / ${clock(duration)}`);
    this.seek.setAttribute("aria-valuetext", `${clock(currentTime)} of ${clock(duration)}`);
  }

  #fullScreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else this.element.requestFullscreen().catch(() => {});
  }

  #end() {
    cancelAnimationFrame(this.#frame);
    for (const video of [this.result, this.source]) {
      video.pause();
      video.removeAttribute("src");
      video.load();
    }
  }
}

function figure(label, ...content) {
  return h("figure", {}, h("div", { class: "screen" }, content), h("figcaption", {}, label));
}
