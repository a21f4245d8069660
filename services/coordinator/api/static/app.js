// The page: who is signed in, which view is shown, where files can be dropped.

import { call } from "./api.js";
import { announce, h, problem, tiles } from "./dom.js";
import { JobView } from "./job.js";
import { JobList } from "./list.js";
import { Options } from "./options.js";
import { Uploads } from "./uploads.js";

const KNOWN = "dualface-signed-in"; // whether asking for a session is worth it

const ENDED = "Your session has ended; sign in again.";

const main = document.getElementById("main");
const who = document.getElementById("who");

class App {
  #view = new AbortController();
  #session = null;
  #mayWrite = false;

  constructor() {
    this.options = new Options();
    this.uploads = new Uploads((job, alone) => this.#begun(job, alone));
    addEventListener("hashchange", () => (keyGiven() ? this.start() : this.#route()));
    addEventListener("signed-out", () => this.#session && this.#forget(ENDED));
    this.#takeDrops();
  }

  async start() {
    const key = keyGiven();
    try {
      if (key) {
        // Neither the history nor whoever looks over a shoulder is to keep it.
        history.replaceState(null, "", location.pathname + location.search);
        await this.#signIn(key);
      } else if (known()) {
        this.#signedIn(await call("GET", "/v1/session"));
      } else {
        this.#askForKey();
      }
    } catch (error) {
      if (error.status === 401) this.#forget(ENDED);
      else this.#askForKey(error);
    }
  }

  async #signIn(key) {
    const session = await call("POST", "/v1/session", { key }).catch((error) => {
      throw error.status === 401 ? new Error("This key opens nothing. Is it complete?") : error;
    });
    this.#signedIn(session);
  }

  #signedIn(session) {
    this.#session = session;
    known(true);
    who.replaceChildren(
      h("span", { class: "owner" }, session.owner),
      h("button", { type: "button", class: "quiet", onclick: () => this.#signOut() }, "Sign out"),
    );
    this.#mayWrite = session.roles.some((role) => role === "submit" || role === "admin");
    if (this.#mayWrite) this.options.load();
    this.#route();
  }

  async #signOut() {
    try {
      await call("DELETE", "/v1/session");
      this.#forget();
    } catch (error) {
      main.prepend(problem(error));
    }
  }

  /** Nobody is signed in any more. */
  #forget(sentence) {
    known(false);
    this.#session = null;
    this.#askForKey(sentence && new Error(sentence));
  }

  #askForKey(error) {
    this.#begin("Sign in");
    who.replaceChildren();
    const trouble = h("div", {}, error ? problem(error) : "");
    const input = h("input", { type: "password", id: "key", name: "key", autocomplete: "off",
      spellcheck: "false", required: true, "aria-describedby": "key-hint" });
    const button = h("button", { class: "primary" }, "Sign in");
    const submit = async (event) => {
      event.preventDefault();
      button.disabled = true;
      trouble.replaceChildren();
      try {
        await this.#signIn(input.value.trim());
      } catch (why) {
        trouble.replaceChildren(problem(why));
        input.focus();
        input.select();
      }
      button.disabled = false;
    };
    main.replaceChildren(h(
      "section",
      { class: "sign-in card" },
      tiles(),
      h("h1", {}, "Sign in"),
      h("form", { onsubmit: submit },
        h("label", { for: "key" }, "API key"),
        input,
        h("p", { class: "hint", id: "key-hint" }, h("code", {}, "dualface up"),
          " prints an address that signs you in; ", h("code", {}, "dualface keys add"),
          " makes a key."),
        trouble,
        button),
    ));
    input.focus();
  }

  /** End what is shown; the title and the life of what comes. */
  #begin(title) {
    this.#view.abort();
    this.#view = new AbortController();
    document.title = title ? `${title} · dualface` : "dualface";
    return this.#view;
  }

  #route() {
    if (!this.#session) return;
    const id = /^#\/jobs\/([\w-]{1,64})$/.exec(location.hash)?.[1];
    if (id) this.#showJob(id);
    else this.#showHome();
    scrollTo(0, 0);
  }

  #showHome() {
    const { signal } = this.#begin();
    const list = new JobList(this.#session, signal);
    this.list = list;
    main.replaceChildren(
      h("h1", { class: "unseen" }, "dualface"),
      ...(this.#mayWrite ? [this.#dropZone(), this.options.form] : []),
      this.uploads.element,
      list.element,
    );
  }

  #showJob(id) {
    const { signal } = this.#begin("Job");
    this.list = null;
    const view = new JobView(id, this.#session, this.uploads.files, signal);
    main.replaceChildren(this.uploads.element, view.element);
    view.title.focus({ preventScroll: true });
  }

  #dropZone() {
    const input = h("input", { type: "file", accept: "video/*,.mkv,.ts,.mts,.m2ts,.avi,.mxf",
      multiple: true, class: "unseen", tabindex: "-1", "aria-label": "Videos" });
    input.addEventListener("change", () => {
      this.#send([...input.files]);
      input.value = "";
    });
    return h(
      "section",
      { class: "drop", "aria-label": "New video" },
      tiles(),
      h("p", { class: "invitation" }, "Drop a video of two people"),
      h("p", { class: "hint" }, "Each gets a half of the picture, steadily framed; the sound stays "
        + "as it is."),
      h("button", { type: "button", class: "primary", onclick: () => input.click() },
        "Choose videos"),
      input,
    );
  }

  #send(files) {
    if (!files.length || !this.#session) return;
    const chosen = this.options.chosen();
    if (!chosen) return;
    this.uploads.add(files, chosen);
    announce(`${files.length === 1 ? files[0].name : `${files.length} videos`} chosen.`);
  }

  #begun(job, alone) {
    if (alone && this.list) location.hash = `#/jobs/${job.id}`;
    else this.list?.refresh();
  }

  /** Anywhere on the page; a file that misses the zone would replace the page otherwise. */
  #takeDrops() {
    let depth = 0;
    const over = (by) => {
      depth = Math.max(0, depth + by);
      document.body.classList.toggle("dropping", depth > 0 && this.#mayWrite);
    };
    addEventListener("dragenter", () => over(1));
    addEventListener("dragleave", () => over(-1));
    addEventListener("dragover", (event) => event.preventDefault());
    addEventListener("drop", (event) => {
      event.preventDefault();
      over(-depth);
      if (this.#mayWrite) this.#send([...event.dataTransfer.files]);
    });
  }
}

/** The key behind the "#", if the address has one. */
function keyGiven() {
  return new URLSearchParams(location.hash.slice(1)).get("key");
}

function known(value) {
  try {
    if (value === true) localStorage.setItem(KNOWN, "1");
    else if (value === false) localStorage.removeItem(KNOWN);
    return localStorage.getItem(KNOWN) === "1";
  } catch {
    return true; // no storage: ask
  }
}

new App().start();
