// Whether the service can be reached; said once at the top, whoever notices.

import { announce, say } from "./dom.js";

let lost = false;

/** Something did not come through and is tried again. */
export function connectionLost(problem) {
  const banner = document.getElementById("banner");
  banner.hidden = false;
  say(banner, `${problem.message} Trying again…`);
  lost = true;
}

/** Something came through. */
export function connectionWorks() {
  if (!lost) return;
  lost = false;
  document.getElementById("banner").hidden = true;
  announce("Connected again.");
}
