// The owner's jobs, newest first: a page of them, kept up to date while somebody looks.

import { cancel, canCancel, canTryAgain, tryAgain } from "./actions.js";
import { call, pause } from "./api.js";
import { connectionLost, connectionWorks } from "./connection.js";
import { h, iconButton, Meter, problem, say, tiles } from "./dom.js";
import { count, ended, exactly, joined, nameOf, percent, span, STATES, when } from "./words.js";

const PER_PAGE = 20;
const LIVE_MS = 1000;
const CALM_MS = 10_000;

const FILTERS = [
  ["", "All"],
  ["live=true", "Active"],
  ["state=succeeded", "Done"],
  ["state=failed", "Failed"],
  ["state=cancelled", "Cancelled"],
];

const EMPTY = {
  "": "Your videos will appear here, newest first.",
  "live=true": "Nothing is being made just now.",
  "state=succeeded": "No video is done yet.",
  "state=failed": "No job has failed.",
  "state=cancelled": "No job was cancelled.",
};

export class JobList {
  #filter = "";
  #cursors = [""];
  #rows = new Map();
  #round = new AbortController();

  constructor(session, signal) {
    this.session = session;
    this.signal = signal;
    this.rows = h("ul", { class: "jobs", "aria-label": "Jobs" });
    this.note = h("div", { class: "note" });
    this.newer = h("button", { type: "button", class: "small", onclick: () => this.#turn(-1) },
      "Newer");
    this.older = h("button", { type: "button", class: "small", onclick: () => this.#turn(1) },
      "Older");
    this.pages = h("nav", { class: "pages", "aria-label": "Pages", hidden: true }, this.newer,
      this.older);
    this.tabs = FILTERS.map(([query, label]) =>
      h("button", { type: "button", "aria-pressed": String(query === ""),
        onclick: () => this.#choose(query) }, label));
    this.element = h(
      "section",
      { class: "list", "aria-labelledby": "jobs-title", "data-empty": "false" },
      h("div", { class: "line" },
        h("h2", { id: "jobs-title" }, "Jobs"),
        h("div", { class: "tabs", role: "group", "aria-label": "Which jobs" }, this.tabs)),
      this.rows,
      this.note,
      this.pages,
    );
    document.addEventListener("visibilitychange", () => this.refresh(), { signal });
    signal.addEventListener("abort", () => this.#round.abort());
    this.#run();
  }

  /** Look again at once. */
  refresh() {
    this.#round.abort();
  }

  #choose(query) {
    this.#filter = query;
    this.#cursors = [""];
    this.rows.ariaBusy = "true";
    this.note.replaceChildren();
    this.tabs.forEach((tab, at) => tab.setAttribute("aria-pressed", FILTERS[at][0] === query));
    this.refresh();
  }

  #turn(by) {
    if (by < 0) this.#cursors.pop();
    else this.#cursors.push(this.next);
    this.refresh();
  }

  async #run() {
    for (let failed = 0; !this.signal.aborted; ) {
      this.#round = new AbortController();
      const { signal } = this.#round;
      let wait = CALM_MS;
      try {
        const live = await this.#load(signal);
        if (live) wait = LIVE_MS;
        connectionWorks();
        failed = 0;
      } catch (error) {
        if (this.signal.aborted || error.status === 401) return;
        failed += 1;
        wait = Math.min(CALM_MS, 500 * 2 ** failed);
        if (error.passes) connectionLost(error);
        else this.note.replaceChildren(problem(error));
      }
      do await pause(wait, signal);
      while (document.hidden && !signal.aborted);
    }
  }

  /** Show the page that is chosen; true when some job of it has not ended. */
  async #load(signal) {
    const cursor = this.#cursors.at(-1);
    const query = [this.#filter, `limit=${PER_PAGE}`, cursor && `cursor=${cursor}`];
    const page = await call("GET", `/v1/jobs?${query.filter(Boolean).join("&")}`);
    if (signal.aborted) return true; // something else was chosen meanwhile
    this.rows.ariaBusy = "false";
    this.#show(page.jobs);
    this.next = page.next;
    this.newer.disabled = this.#cursors.length === 1;
    this.older.disabled = page.next === null;
    this.pages.hidden = this.newer.disabled && this.older.disabled;
    return page.jobs.some((job) => !ended(job.state));
  }

  #show(jobs) {
    const before = this.#rows;
    this.#rows = new Map(
      jobs.map((job) => [job.id, before.get(job.id) ?? new Row(this.session, this)]),
    );
    jobs.forEach((job, at) => {
      const row = this.#rows.get(job.id);
      row.update(job);
      // Only what moved is moved: a row keeps its focus.
      if (this.rows.children[at] !== row.element) {
        this.rows.insertBefore(row.element, this.rows.children[at] ?? null);
      }
    });
    for (const [id, row] of before) if (!this.#rows.has(id)) row.element.remove();
    this.element.dataset.empty = !jobs.length && this.#filter === "";
    if (!jobs.length) this.note.replaceChildren(h("p", { class: "empty" }, EMPTY[this.#filter]));
    else this.note.querySelector(".empty")?.remove();
  }
}

class Row {
  constructor(session, list) {
    this.session = session;
    this.list = list;
    this.picture = h("span", { class: "picture" }, tiles());
    this.name = h("span", { class: "name" });
    this.state = h("span", { class: "state" });
    this.words = h("span", { class: "figures" });
    this.time = h("time", {});
    this.meter = new Meter("Progress");
    this.link = h(
      "a",
      {},
      this.picture,
      h("span", { class: "what" }, this.name, this.words, this.meter.element),
      h("span", { class: "how" }, this.state, this.time),
    );
    this.action = h("span", { class: "action" });
    this.element = h("li", {}, this.link, this.action);
  }

  update(job) {
    this.link.href = `#/jobs/${job.id}`;
    this.element.dataset.state = job.state;
    say(this.name, nameOf(job));
    say(this.state, STATES[job.state]);
    say(this.words, this.#words(job));
    say(this.time, when(job.submitted_at));
    this.time.dateTime = job.submitted_at;
    this.time.title = exactly(job.submitted_at);
    const live = !ended(job.state);
    this.meter.element.hidden = !live || job.state === "queued";
    this.meter.set(job.progress.expected ? job.progress.share : null);
    if (job.state === "succeeded") this.#showPicture(job);
    if (this.job?.state !== job.state) this.#showAction(job);
    this.job = job;
  }

  #showAction(job) {
    const name = nameOf(job);
    const buttons = [];
    if (canCancel(job)) {
      buttons.push(iconButton("close", `Cancel ${name}`, () => this.#act(cancel)));
    } else if (canTryAgain(job)) {
      buttons.push(iconButton("again", `Try ${name} again`, () => this.#act(tryAgain)));
    }
    const focused = this.action.contains(document.activeElement);
    this.action.replaceChildren(...buttons);
    if (focused) this.link.focus();
  }

  async #act(doIt) {
    try {
      const job = await doIt(this.job);
      if (job) this.update(job);
      this.list.refresh();
    } catch (error) {
      this.list.note.replaceChildren(problem(error));
    }
  }

  #words(job) {
    const parts = job.owner === this.session.owner ? [] : [job.owner || "this machine"];
    const { frames, expected, share } = job.progress;
    if (job.state === "succeeded") {
      parts.push(`${count(job.result?.frames ?? frames)} frames`);
      const took = new Date(job.ended_at) - new Date(job.started_at ?? job.submitted_at);
      parts.push(span(took / 1000));
    } else if (job.error) {
      parts.push(job.error.message);
    } else if (job.state === "running" || job.state === "muxing") {
      parts.push(percent(share), `${count(frames)} of ${count(expected)} frames`);
    } else if (job.state === "splitting") {
      parts.push("Finding where to cut");
    } else {
      parts.push("Waiting for a free worker");
    }
    return joined(parts);
  }

  #showPicture(job) {
    if (this.shown) return;
    this.shown = true;
    const image = h("img", { alt: "", loading: "lazy", width: 96, height: 54 });
    image.onerror = () => image.remove();
    image.src = `/v1/jobs/${job.id}/thumbnails/000000-000000.jpg`;
    this.picture.append(image); // over the tiles, which stay where there is none
  }
}
