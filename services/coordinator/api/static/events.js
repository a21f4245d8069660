// A job's event stream: on again after every break, from the last event that was heard.

import { pause, send } from "./api.js";
import { connectionLost, connectionWorks } from "./connection.js";

const SILENCE_MS = 40_000; // the service says something every 15 s
const WAITS_MS = [300, 1000, 2000, 4000, 8000];

/**
 * Call `heard({kind, data})` for all that happens to the job, until it has ended or `signal` says
 * so. Resolves at the end; throws Problem for what no waiting mends.
 */
export async function watch(job, heard, signal) {
  let last = "";
  let failed = 0;
  while (!signal.aborted) {
    const came = new AbortController();
    const stop = () => came.abort();
    signal.addEventListener("abort", stop);
    addEventListener("online", stop);
    try {
      const headers = last ? { "Last-Event-ID": last } : {};
      const answer = await send(`/v1/jobs/${job}/events`, { headers, signal: came.signal });
      connectionWorks();
      if (answer.status === 204) return;
      for await (const event of read(answer.body, came)) {
        failed = 0;
        last = event.id || last;
        heard(event);
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error.passes === false) throw error;
      // No room for one more who watches: whoever hears of progress looks at the job itself.
      if (error.code === "busy") heard({ kind: "progress" });
      else if (error.passes) connectionLost(error);
    } finally {
      signal.removeEventListener("abort", stop);
      removeEventListener("online", stop);
    }
    await pause(WAITS_MS[Math.min(failed, WAITS_MS.length - 1)], signal);
    failed += 1;
  }
}

/** The events of a stream; gives up a connection that has gone silent. */
async function* read(body, came) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const timer = setTimeout(() => came.abort(), SILENCE_MS);
    const { done, value } = await reader.read().finally(() => clearTimeout(timer));
    if (done) return;
    const blocks = (text + value).split(/\r?\n\r?\n/);
    text = blocks.pop();
    yield* blocks.map(parsed).filter(Boolean);
  }
}

function parsed(block) {
  const fields = {};
  for (const line of block.split(/\r?\n/)) {
    const [, name, value] = /^([a-z]+): ?(.*)$/.exec(line) ?? [];
    if (name) fields[name] = value;
  }
  if (!fields.data) return null;
  return { id: fields.id, kind: fields.event, data: JSON.parse(fields.data) };
}
