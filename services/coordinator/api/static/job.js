// One job: how it gets on while it is made, then what came of it.

import { cancel, canCancel, canTryAgain, tryAgain, uploaded } from "./actions.js";
import { call, pause } from "./api.js";
import { connectionLost, connectionWorks } from "./connection.js";
import { announce, h, icon, Meter, problem, say, tiles } from "./dom.js";
import { watch } from "./events.js";
import { inWords } from "./options.js";
import { Player } from "./player.js";
import { reportOf } from "./report.js";
import {
  count, counted, ended, exactly, joined, left, nameOf, percent, speed, STAGES, STATES, when,
} from "./words.js";

const LOOK_MS = 700; // between two looks at the figures
const PICTURES_MS = 2500;
const ANNOUNCED = 0.1; // share between two announcements

export class JobView {
  #job = null;
  #told = -1;
  #shown = "";

  /** `files`: job id -> the file it was made of, as far as this page sent it. */
  constructor(id, session, files, signal) {
    Object.assign(this, { id, session, files, signal });
    this.title = h("h1", { tabindex: "-1" }, "…");
    this.state = h("span", { class: "pill" });
    this.about = h("p", { class: "about" });
    this.actions = h("div", { class: "actions" });
    this.trouble = h("div");
    this.body = h("div", { class: "body" });
    this.element = h(
      "article",
      { class: "job" },
      h("a", { class: "back", href: "#/" }, icon("back"), "All jobs"),
      h("div", { class: "heading" },
        h("div", {}, h("div", { class: "titled" }, this.title, this.state), this.about),
        this.actions),
      this.trouble,
      this.body,
    );
    this.live = new Live();
    this.#begin();
  }

  async #begin() {
    const job = await this.#patiently(() => this.#look());
    if (!job || ended(job.state)) return;
    try {
      await watch(this.id, (event) => this.#heard(event), this.signal);
    } catch (error) {
      this.#complain(error);
    }
    await this.#patiently(() => this.#look());
  }

  #heard({ kind, data }) {
    if (kind === "warning") this.live.warn(data.warning);
    this.due ??= pause(kind === "state" ? 0 : LOOK_MS, this.signal).then(async () => {
      this.due = null;
      try {
        await this.#look();
      } catch (error) {
        if (error.passes) connectionLost(error);
        else this.#complain(error);
      }
    });
  }

  /** Until it comes through; null when it is refused or nobody looks any more. */
  async #patiently(look) {
    for (let wait = 500; !this.signal.aborted; wait = Math.min(8000, wait * 2)) {
      try {
        return await look();
      } catch (error) {
        if (!error.passes) {
          this.#complain(error);
          return null;
        }
        connectionLost(error);
        await pause(wait, this.signal);
      }
    }
    return null;
  }

  async #look() {
    const job = await call("GET", `/v1/jobs/${this.id}`);
    connectionWorks();
    if (this.signal.aborted) return job;
    this.#show(job);
    return job;
  }

  #show(job) {
    const before = this.#job;
    this.#job = job;
    say(this.title, nameOf(job));
    document.title = `${nameOf(job)} · dualface`;
    say(this.state, STATES[job.state]);
    this.element.dataset.state = job.state;
    this.#announce(job, before);
    if (this.#shown !== job.state) {
      this.#showAbout(job);
      this.#showActions(job);
    }
    if (!ended(job.state)) this.#showLive(job);
    else if (this.#shown !== job.state) this.#showEnd(job);
    this.#shown = job.state;
  }

  #showAbout(job) {
    const time = h("time", { datetime: job.submitted_at, title: exactly(job.submitted_at) },
      when(job.submitted_at));
    const owner = job.owner !== this.session.owner && `of ${job.owner || "this machine"}`;
    const parts = [time, owner, ...inWords(job.spec)].filter(Boolean);
    this.about.replaceChildren(...parts.flatMap((part, at) => (at ? ["\u00a0· ", part] : [part])));
  }

  #showActions(job) {
    const actions = [];
    if (canCancel(job)) actions.push(this.#action("Cancel", cancel));
    if (canTryAgain(job)) actions.push(this.#action("Try again", tryAgain, "primary"));
    if (job.state === "succeeded") {
      actions.push(h("a", { class: "button primary", href: job.links.result, download: "" },
        icon("down"), "Download"));
    }
    this.actions.replaceChildren(...actions);
  }

  #action(label, doIt, kind = "") {
    const button = h("button", { type: "button", class: kind }, label);
    button.addEventListener("click", async () => {
      button.disabled = true;
      this.trouble.replaceChildren();
      try {
        const job = await doIt(this.#job);
        if (job) await this.#done(job);
      } catch (error) {
        this.#complain(error);
      }
      button.disabled = false;
    });
    return button;
  }

  async #done(job) {
    this.#show(job);
    this.title.focus(); // the button is gone
    if (!ended(job.state)) await this.#begin();
  }

  #showLive(job) {
    if (this.body.firstChild !== this.live.element) this.body.replaceChildren(this.live.element);
    this.live.show(job);
    if (job.progress.frames) this.#showPictures();
  }

  #showPictures() {
    if (this.pictures) return;
    this.pictures = true;
    call("GET", `/v1/jobs/${this.id}/thumbnails`)
      .then(({ thumbnails }) => this.live.showPictures(thumbnails))
      .catch((error) => error.passes || this.#complain(error))
      .then(() => pause(PICTURES_MS, this.signal))
      .then(() => {
        this.pictures = false;
      });
  }

  #showEnd(job) {
    this.live = new Live();
    if (job.state !== "succeeded") {
      this.body.replaceChildren(sentence(job));
      return;
    }
    const room = h("div");
    this.body.replaceChildren(room);
    this.#showResult(job, room);
  }

  async #showResult(job, room) {
    const report = await call("GET", job.links.report).catch((error) => {
      if (error.status !== 404) this.#complain(error);
      return null;
    });
    if (this.signal.aborted) return;
    const [over, under] = report?.output.frame_rate ?? [25, 1];
    const player = new Player({
      result: job.links.result, frameRate: over / under, signal: this.signal,
    });
    room.replaceChildren(player.element, reportOf(job, report));
    await this.#giveSource(player, job);
  }

  async #giveSource(player, job) {
    const file = this.files.get(this.id);
    if (file) {
      this.#playFile(player, file);
      return;
    }
    const there = await fetch(`${job.links.self}/source`, { method: "HEAD" }).catch(() => null);
    if (there?.status === 200) player.setSource(`${job.links.self}/source`);
    else this.#askForSource(player);
  }

  #askForSource(player) {
    const input = h("input", { type: "file", accept: "video/*", class: "unseen", tabindex: "-1",
      "aria-label": "The source of this job" });
    input.addEventListener("change", () => {
      if (input.files[0]) this.#playFile(player, input.files[0]);
    });
    player.noSource(
      h("p", {}, "The source is not kept here."),
      h("button", { type: "button", class: "small", onclick: () => input.click() },
        "Choose it to compare"),
      input,
    );
  }

  #playFile(player, file) {
    const url = URL.createObjectURL(file);
    this.signal.addEventListener("abort", () => URL.revokeObjectURL(url));
    player.setSource(url);
  }

  #announce(job, before) {
    if (before && before.state !== job.state) {
      const why = job.error ? ` ${job.error.message}` : "";
      announce(`${nameOf(job)}: ${STATES[job.state]}.${why}`);
    }
    const step = Math.floor(job.progress.share / ANNOUNCED);
    if (job.state === "running" && step > this.#told) {
      if (this.#told >= 0) announce(`${percent(job.progress.share)} done.`);
      this.#told = step;
    }
  }

  #complain(error) {
    if (!this.signal.aborted) this.trouble.replaceChildren(problem(error));
  }
}

/** What a job that gave nothing says. */
function sentence(job) {
  const gone = job.state === "cancelled" && uploaded(job);
  return h(
    "div",
    { class: `card verdict ${job.state}` },
    tiles(job.spec.layout),
    h("div", {},
      h("p", { class: "sentence" }, job.error?.message || `${STATES[job.state]}.`),
      job.state === "failed" && h("p", { class: "hint" }, "Code ", h("code", {}, job.error.code)),
      gone && h("p", { class: "hint" },
        "Its upload was removed; send the video again to start anew."),
      job.progress.frames > 0 && h("p", { class: "hint" },
        `${counted(job.progress.frames, "frame")} had been made.`)),
  );
}

/** How far a job is that has not ended. */
class Live {
  #pictures = new Map();

  constructor() {
    this.share = h("p", { class: "share" });
    this.figures = h("p", { class: "figures" });
    this.meter = new Meter("Progress");
    this.steps = Object.fromEntries(
      ["split", ...Object.keys(STAGES), "mux"].map((name) => [name, new Step(name)]),
    );
    this.strip = h("ol", { class: "strip", tabindex: "0", "aria-label": "Pictures of the result",
      hidden: true });
    this.warnings = h("ul", { class: "warnings", "aria-label": "Warnings", hidden: true });
    this.element = h(
      "div",
      { class: "live" },
      h("div", { class: "card" },
        h("div", { class: "line" }, this.share, this.figures),
        this.meter.element,
        h("ol", { class: "flow", "aria-label": "Stages" },
          Object.values(this.steps).map((step) => step.element))),
      this.warnings,
      this.strip,
    );
  }

  show(job) {
    const { frames, expected, share } = job.progress;
    const known = expected > 0;
    say(this.share, known ? percent(share) : STATES[job.state]);
    say(this.figures, this.#figures(job));
    this.meter.set(known ? share : job.state === "queued" ? 0 : null);
    const at = ["queued", "splitting", "running", "muxing"].indexOf(job.state);
    this.steps.split.show(at === 1 ? "active" : at > 1 ? "done" : "", at > 1 ? 1 : 0, "");
    for (const stage of Object.keys(STAGES)) {
      const done = job.progress.stages[stage];
      const part = known ? Math.min(1, done / expected) : 0;
      const how = done && part < 1 ? "active" : part >= 1 ? "done" : "";
      this.steps[stage].show(how, part, done ? count(done) : "");
    }
    this.steps.mux.show(at === 3 ? "active" : "", 0, "");
  }

  #figures(job) {
    const { frames, expected, frames_per_s: rate, seconds_left: seconds } = job.progress;
    if (job.state === "queued") return "It begins as soon as a worker is free.";
    if (job.state === "muxing") return "Joining picture and sound, then checking the result.";
    const parts = expected ? [`${count(frames)} of ${counted(expected, "frame")}`] : [];
    if (!frames && job.state === "splitting") parts.push("finding where to cut");
    if (rate) parts.push(`${speed(rate)} frames/s`);
    if (seconds != null) parts.push(left(seconds));
    return joined(parts);
  }

  warn(text) {
    this.warnings.hidden = false;
    this.warnings.append(h("li", {}, text));
  }

  /** Add the new ones where they belong; the strip stays at its end if it was there. */
  showPictures(thumbnails) {
    const { strip } = this;
    const atEnd = strip.scrollLeft + strip.clientWidth >= strip.scrollWidth - 40;
    thumbnails.forEach(({ name, url }, at) => {
      if (this.#pictures.has(name)) return;
      const image = h("img", { src: url, alt: "", loading: "lazy" });
      image.onerror = () => item.remove();
      const item = h("li", {}, image);
      this.#pictures.set(name, item);
      strip.insertBefore(item, strip.children[at] ?? null);
    });
    strip.hidden = !this.#pictures.size;
    strip.setAttribute("aria-label", `${counted(this.#pictures.size, "picture")} of the result`);
    if (atEnd) strip.scrollLeft = strip.scrollWidth;
  }
}

class Step {
  constructor(name) {
    this.number = h("span", { class: "figures" });
    this.bar = h("span");
    this.how = h("span", { class: "unseen" });
    const label = { split: "Cut", mux: "Join", ...STAGES }[name];
    this.element = h("li", {}, h("span", { class: "label" }, label), this.how, this.number,
      h("i", {}, this.bar));
  }

  show(how, share, number) {
    this.element.className = how;
    say(this.how, { active: "at work", done: "done" }[how] ?? "waiting");
    say(this.number, number);
    this.bar.style.transform = `scaleX(${share})`;
  }
}
