// Videos on their way to the service: announced, sent, made a job of; one at a time.

import { call, OFFLINE, Problem, problemOf, refused } from "./api.js";
import { announce, h, iconButton, Meter, problem, say } from "./dom.js";
import { bytes, joined, left, percent } from "./words.js";

const NAME_MAX = 255;
const RATE_OVER_MS = 4000;

/** All uploads of this page, and the files that became jobs, so that they can be played. */
export class Uploads {
  #waiting = [];
  #busy = false;

  /** `begun(job, alone)` is called for each new job; `alone`: its file was chosen by itself. */
  constructor(begun) {
    this.begun = begun;
    this.files = new Map();
    this.element = h("ul", { class: "uploads", "aria-label": "Uploads" });
    addEventListener("beforeunload", (event) => {
      if (this.#busy) event.preventDefault();
    });
  }

  /** Send these files, made with these options. */
  add(files, options) {
    for (const file of files) {
      const upload = new Upload(file, options, files.length === 1, (it) => this.#enter(it));
      this.element.append(upload.element);
      this.#enter(upload);
    }
  }

  #enter(upload) {
    this.#waiting.push(upload);
    if (!this.#busy) this.#run();
  }

  async #run() {
    this.#busy = true;
    for (let next; (next = this.#waiting.shift()); ) {
      const job = await next.send();
      if (!job) continue;
      this.files.set(job.id, next.file);
      next.element.remove();
      this.begun(job, next.alone);
    }
    this.#busy = false;
  }
}

class Upload {
  #sent = [];
  #stored = false;
  #links = null;
  #request = null;
  #stopped = false;

  constructor(file, options, alone, again) {
    Object.assign(this, { file, options, alone, again });
    const name = file.name || "video";
    this.meter = new Meter(`Upload of ${name}`);
    this.meter.set(0);
    this.words = h("p", { class: "figures" }, `${bytes(file.size)} · waiting for its turn`);
    this.trouble = h("div");
    this.actions = h("div", { class: "actions" });
    this.element = h(
      "li",
      { class: "card upload" },
      h("div", { class: "line" }, h("p", { class: "name" }, name), this.actions),
      this.meter.element,
      this.words,
      this.trouble,
    );
    this.#offerStop();
  }

  /** The job it became; null when it failed or was stopped, which the element says. */
  async send() {
    if (this.#stopped) return null;
    this.trouble.replaceChildren();
    this.#offerStop();
    try {
      if (!this.file.size) throw new Problem(0, "empty", "The file is empty.");
      this.#links ??= await call("POST", "/v1/uploads", {
        name: shortened(this.file.name),
        size_bytes: this.file.size,
      });
      if (!this.#stored) await this.#put(this.#links.content);
      this.#stored = true;
      say(this.words, `${bytes(this.file.size)} sent · entering the job`);
      const job = await call("POST", "/v1/jobs", { ...this.options, source: this.#links.source });
      announce(`${this.file.name} was sent.`);
      return job;
    } catch (error) {
      if (!this.#stopped) this.#failed(error);
      return null;
    }
  }

  #put(path) {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      this.#request = request;
      this.#sent = [];
      request.open("PUT", path);
      request.setRequestHeader("Content-Type", "application/octet-stream");
      request.upload.onprogress = (event) => this.#progress(event.loaded);
      request.onload = () => {
        if (request.status < 300) resolve();
        else reject(refused(problemOf(request.status, request.statusText, request.responseText)));
      };
      request.onabort = () => reject(new Problem(0, "stopped", "Stopped."));
      request.onerror = () => reject(new Problem(0, "offline", this.#brokenOff()));
      request.send(this.file);
    });
  }

  #brokenOff() {
    const sent = this.#sent.at(-1)?.bytes ?? 0;
    return sent ? `The connection broke off after ${bytes(sent)}.` : OFFLINE;
  }

  #progress(sent) {
    const now = performance.now();
    this.#sent.push({ at: now, bytes: sent });
    while (this.#sent.length > 2 && now - this.#sent[0].at > RATE_OVER_MS) this.#sent.shift();
    const share = this.file.size ? sent / this.file.size : 1;
    this.meter.set(Math.min(1, share));
    if (share >= 1) {
      say(this.words, `${bytes(this.file.size)} sent · being stored`);
      return;
    }
    const [first, last] = [this.#sent[0], this.#sent.at(-1)];
    const perSecond = ((last.bytes - first.bytes) * 1000) / Math.max(1, last.at - first.at);
    const parts = [percent(share), `${bytes(sent)} of ${bytes(this.file.size)}`];
    if (perSecond > 0) {
      parts.push(`${bytes(perSecond)}/s`, left((this.file.size - sent) / perSecond));
    }
    say(this.words, joined(parts));
  }

  #offerStop() {
    const label = `Stop the upload of ${this.file.name}`;
    this.actions.replaceChildren(iconButton("close", label, () => this.#drop()));
  }

  #drop() {
    this.#stopped = true;
    this.#request?.abort();
    this.element.remove();
    announce(`The upload of ${this.file.name} was stopped.`);
    // What was sent goes by itself after a day where this does not come through.
    if (this.#links) call("DELETE", `/v1/uploads/${this.#links.id}`).catch(() => {});
  }

  #failed(error) {
    if (error.code === "not_found") {
      this.#links = null;
      this.#stored = false;
    }
    say(this.words, bytes(this.file.size));
    this.trouble.replaceChildren(problem(error));
    const again = h(
      "button",
      { type: "button", class: "small", onclick: () => this.again(this) },
      "Try again",
    );
    const label = `Remove ${this.file.name}`;
    this.actions.replaceChildren(again, iconButton("close", label, () => this.#drop()));
  }
}

/** What the service takes as a name: cut where it is too long, but not in half a character. */
function shortened(name) {
  const cut = name.slice(0, NAME_MAX);
  return cut.toWellFormed?.() ?? cut;
}
