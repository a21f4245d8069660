// Numbers, times and states as people read them.

const NUMBER = new Intl.NumberFormat("en");
const TENTHS = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const TIME = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const FULL = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });

export const STATES = {
  queued: "Waiting",
  splitting: "Reading",
  running: "Working",
  muxing: "Joining",
  succeeded: "Done",
  failed: "Failed",
  cancelled: "Cancelled",
};

export const STAGES = {
  decode: "Decode",
  infer: "Find faces",
  compose: "Compose",
  encode: "Encode",
};

/** True when nothing more will happen to a job in this state. */
export function ended(state) {
  return state === "succeeded" || state === "failed" || state === "cancelled";
}

/** 1,234 */
export function count(number) {
  return NUMBER.format(number);
}

/** 12.3 */
export function tenths(number) {
  return TENTHS.format(number);
}

/** 12.3 or 1,234: how fast, with as many digits as mean something. */
export function speed(number) {
  return number < 100 ? tenths(number) : count(Math.round(number));
}

/** Parts of one line; it breaks after a dot, never before. */
export function joined(parts) {
  return parts.filter(Boolean).join("\u00a0· ");
}

/** "1 frame", "2 frames" */
export function counted(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

/** Whole percent; 100 only when it is all. */
export function percent(share) {
  return `${Math.floor(share * 100)} %`;
}

/** 12.3 MB; powers of ten, as file managers show them. */
export function bytes(number) {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let at = 0;
  while (number >= 999.95 && at < units.length - 1) {
    number /= 1000;
    at += 1;
  }
  return `${at ? tenths(number) : count(number)} ${units[at]}`;
}

/** "4 s", "2 min 05 s", "1 h 12 min" */
export function span(seconds) {
  if (seconds < 9.95) return `${seconds < 0.05 ? "0" : tenths(seconds)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60)];
  if (hours) return `${hours} h ${two(minutes)} min`;
  return `${minutes} min ${two(whole % 60)} s`;
}

/** "4 s left"; whole seconds, as nobody knows tenths beforehand. */
export function left(seconds) {
  if (seconds < 1) return "a moment left";
  return `${seconds < 10 ? `${Math.ceil(seconds)} s` : span(seconds)} left`;
}

/** 0:07, 12:34, 1:02:03 */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds || 0));
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60)];
  const rest = two(whole % 60);
  return hours ? `${hours}:${two(minutes)}:${rest}` : `${minutes}:${rest}`;
}

/** "just now", "5 min ago", "14:03", "21 Nov, 14:03" */
export function when(text, now = Date.now()) {
  const date = new Date(text);
  const minutes = Math.floor((now - date) / 60000);
  if (minutes < 1) return "just now";
  if (minutes < 60) return `${minutes} min ago`;
  const today = new Date(now).toDateString() === date.toDateString();
  return today ? TIME.format(date) : `${DAY.format(date)}, ${TIME.format(date)}`;
}

/** The whole date and time. */
export function exactly(text) {
  return FULL.format(new Date(text));
}

/** What a job is called. */
export function nameOf(job) {
  return job.name || job.spec.source.split(/[?#]/)[0].split("/").pop() || job.id;
}

function two(number) {
  return String(number).padStart(2, "0");
}
