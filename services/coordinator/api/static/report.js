// What was made of a job, in words: from the job itself and from its report.json.

import { h, icon } from "./dom.js";
import { bytes, clock, count, counted, exactly, span, speed, STAGES, tenths } from "./words.js";

/** The report of a job that succeeded; `report` is null where none is kept. */
export function reportOf(job, report) {
  return h(
    "section",
    { class: "report", "aria-labelledby": "report-title" },
    h("h2", { id: "report-title" }, "Report"),
    warnings(job.result.warnings),
    h(
      "div",
      { class: "cards" },
      card("Result", resultFacts(job, report)),
      card("Frames", frameFacts(job.result), whole(job.result), places(report)),
      card("Time", timeFacts(job, report)),
      stages(job),
      report && card("Source", sourceFacts(report.source)),
      report && card("Made with", madeWith(report)),
    ),
    downloads(job, report),
  );
}

function resultFacts(job, report) {
  const facts = [["People found", count(job.result.people)]];
  if (report) {
    const { output, rate } = report;
    facts.push(
      ["Length", clock(report.duration_s)],
      ["Picture", `${output.width} × ${output.height} px`],
      ["File", bytes(report.size_bytes)],
      ["Rate", rateInWords(output, rate)],
    );
  }
  return [...facts, ["Sound", sound(job.result)]];
}

function rateInWords(output, rate) {
  if (!rate.kbps) return `CRF ${output.crf}`;
  const kind = rate.mode === "vbr" ? "variable" : "constant";
  return `${count(rate.kbps)} kbit/s, ${kind}`;
}

function sound({ sounds_copied: copied, sounds_encoded: encoded }) {
  const parts = [];
  if (copied) parts.push(`${counted(copied, "track")} copied as it was`);
  if (encoded) parts.push(`${counted(encoded, "track")} encoded as AAC`);
  return parts.join(", ") || "none in the source";
}

function frameFacts(result) {
  const losses = [
    ["Not decodable", result.frames_lost],
    ["Concealed damage", result.frames_concealed],
    ["Time repaired", result.times_repaired],
    ["Show the one before", result.frames_replaced],
    ["Left out by the limit", result.frames_dropped],
  ].filter(([, number]) => number);
  const facts = losses.map(([what, number]) => [what, count(number)]);
  return [["In the result", count(result.frames)], ...facts];
}

/** The best that can be said. */
function whole(result) {
  const lost = result.frames_lost + result.frames_concealed + result.times_repaired
    + result.frames_replaced + result.frames_dropped;
  if (lost) return null;
  return h("p", { class: "whole" }, icon("check"),
    "Every frame of the source is there, at its own time.");
}

function places(report) {
  const rows = [
    ...(report?.lost ?? []).map((place) => ["not decodable", place]),
    ...(report?.replaced ?? []).map((place) => ["show the one before", place]),
  ];
  if (!rows.length) return null;
  const items = rows.map(([what, { frames, from_s: from, to_s: to }]) =>
    h("li", {}, `${clock(from)} to ${to === null ? "the end" : clock(to)}: `
      + `${counted(frames, "frame")} ${what}`));
  return h("ul", { class: "places" }, items);
}

function timeFacts(job, report) {
  const [submitted, started, end] = [job.submitted_at, job.started_at, job.ended_at].map(
    (time) => time && new Date(time),
  );
  const worked = (end - (started ?? submitted)) / 1000;
  const facts = [["Submitted", exactly(submitted)]];
  if (started) facts.push(["Waited", span((started - submitted) / 1000)]);
  facts.push(["Took", span(worked)]);
  if (worked > 0) {
    facts.push(["Speed", `${speed(job.result.frames / worked)} frames/s`]);
    if (report) facts.push(["Against real time", `${tenths(report.duration_s / worked)} ×`]);
  }
  return facts;
}

function stages(job) {
  const rows = Object.entries(STAGES).map(([stage, label]) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, label),
      h("td", {}, job.engines[stage]?.split(":")[0] ?? "–"),
      h("td", { class: "number" }, stage in job.cpu_s ? tenths(job.cpu_s[stage]) : "–"),
    ));
  const total = Object.values(job.cpu_s).reduce((sum, each) => sum + each, 0);
  return h(
    "div",
    { class: "card" },
    h("h3", {}, "Stages"),
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Stage"),
        h("th", { scope: "col" }, "Engine"),
        h("th", { scope: "col", class: "number" }, "CPU s"))),
      h("tbody", {}, rows),
      h("tfoot", {}, h("tr", {}, h("th", { scope: "row", colspan: 2 }, "In all"),
        h("td", { class: "number" }, tenths(total)))),
    ),
  );
}

function sourceFacts(source) {
  const [over, under] = source.frame_rate;
  const facts = [
    ["Picture", `${source.width} × ${source.height} px`],
    ["Codec", source.codec],
    ["Frame rate", `${tenths(over / under)} frames/s`],
  ];
  if (source.rotation) facts.push(["Turned by", `${source.rotation}°`]);
  if (source.size_bytes) facts.push(["File", bytes(source.size_bytes)]);
  const sounds = source.sounds.map(
    (each) => `${each.codec}, ${tenths(each.sample_rate / 1000)} kHz`,
  );
  return [...facts, ["Sound", sounds.join("; ") || "none"]];
}

function madeWith(report) {
  const facts = Object.entries(report.versions);
  if (report.model.name) facts.push(["Face detector", report.model.name]);
  return facts;
}

function warnings(texts) {
  if (!texts.length) return null;
  return h("ul", { class: "warnings", "aria-label": "Warnings" },
    texts.map((text) => h("li", {}, text)));
}

function downloads(job, report) {
  const name = `${job.id}-report.json`;
  return h(
    "p",
    { class: "links" },
    report && h("a", { href: job.links.report, download: name }, "Report (JSON)"),
    h("a", { href: job.links.tracks, download: "" }, "Who is where in every frame (JSON lines)"),
  );
}

function card(title, facts, ...more) {
  const rows = facts.map(([term, text]) => h("div", {}, h("dt", {}, term), h("dd", {}, text)));
  return h("div", { class: "card" }, h("h3", {}, title), h("dl", {}, rows), more);
}
