// What can be done to a job, the same from the list and from its own view.

import { call } from "./api.js";
import { confirmed } from "./dom.js";
import { ended, nameOf } from "./words.js";

/** Cancel the job, if that is meant; how it is then, null when it goes on. Throws Problem. */
export async function cancel(job) {
  const question = `Cancel “${nameOf(job)}”? What was made of it so far will be removed.`;
  if (!(await confirmed(question, "Cancel the job", "Keep it"))) return null;
  return call("DELETE", `/v1/jobs/${job.id}`);
}

/** Have it made again; how it is then. Throws Problem. */
export function tryAgain(job) {
  return call("POST", `/v1/jobs/${job.id}/retry`);
}

export function canCancel(job) {
  return !ended(job.state);
}

/** What was uploaded for a job is gone once that was cancelled. */
export function canTryAgain(job) {
  return job.state === "failed" || (job.state === "cancelled" && !uploaded(job));
}

/** The source was sent here, rather than to be fetched from somewhere. */
export function uploaded(job) {
  return job.spec.source.startsWith("jobs/");
}
