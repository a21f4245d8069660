// Talks to the API; every failure is a Problem whose message is a sentence for people.

/** A problem document (RFC 9457), or what stands for one when none came. */
export class Problem extends Error {
  constructor(status, code, message, waitSeconds = 0) {
    super(message);
    Object.assign(this, { status, code, waitSeconds });
  }

  /** The same request may go well a little later. */
  get passes() {
    return this.status === 0 || this.status === 429 || this.status >= 502;
  }
}

export const OFFLINE = "No connection to the service.";
const PATIENT = 3;

/** The Problem of an answer with this status and text. */
export function problemOf(status, statusText, text, retryAfter) {
  let given = {};
  try {
    given = JSON.parse(text) ?? {};
  } catch {
    // A proxy's page, or nothing: the status has to do.
  }
  const words = given.detail || `The service answered ${status} ${statusText}.`.replace(" .", ".");
  return new Problem(status, given.code ?? "", words, Number(retryAfter) || 0);
}

/** What a path answers, or null where it answers nothing. Throws Problem. */
export async function call(method, path, body) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await once(method, path, body);
    } catch (error) {
      // "busy" says that nothing was done yet.
      if (error.code !== "busy" || tries >= PATIENT) throw error;
      await pause(Math.min(5, error.waitSeconds || 1) * 1000);
    }
  }
}

async function once(method, path, body) {
  const answer = await send(path, {
    method,
    headers: body === undefined ? {} : { "Content-Type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const text = await answer.text().catch(() => "");
  return text ? JSON.parse(text) : null;
}

/** fetch() that throws Problem for whatever is no success. */
export async function send(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "offline", OFFLINE);
  }
  if (answer.ok) return answer;
  const text = await answer.text().catch(() => "");
  const wait = answer.headers.get("retry-after");
  throw refused(problemOf(answer.status, answer.statusText, text, wait));
}

/** Tells the page, too, when it is no longer signed in. */
export function refused(problem) {
  if (problem.status === 401) dispatchEvent(new CustomEvent("signed-out"));
  return problem;
}

/** Wait; `signal` ends it early. */
export function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    if (signal?.aborted) {
      resolve();
      return;
    }
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    });
  });
}
