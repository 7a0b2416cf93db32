"use strict";
// One image is asked about at a time; a new one, or new labels, make earlier answers void. Texts from files and the server are only ever
// set as textContent.
const at = (id) => document.getElementById(id);
const model = document.documentElement.dataset.model;
const address = (path) => new URL(path, new URL("./", document.baseURI)).href;
const PREDICT = `v1/models/${encodeURIComponent(model)}:predict`;
const NUM_NEIGHBOURS = 5, MAX_BARS = 96;
let file = null, hasText = false, hasNeighbours = false, turn = 0;

const MEANING = {
  400: "The server cannot read this.", 401: "The server asks for a token.", 404: "This model is not served here.",
  408: "The image took too long to arrive.", 413: "This is too large for the server.", 415: "The server does not read this format.",
  422: "This encoder has no answer to that.", 429: "Too many requests at a time.", 503: "The server is busy or still loading.",
};

function headers() {
  const token = at("token").value.trim();
  return token ? { Authorization: `Bearer ${token}` } : {};
}

class Refused extends Error {
  constructor(status, reason, wait) { super(reason); this.status = status; this.wait = wait; }
}

async function fetched(path, options = {}) {
  let response;
  try {
    response = await fetch(address(path), { ...options, headers: { ...headers(), ...options.headers } });
  } catch (error) {
    throw new Refused(0, "The server does not answer.", "");
  }
  const text = await response.text();
  let body = {};
  try { body = JSON.parse(text); } catch (error) { if (response.ok) throw new Refused(response.status, "The answer is no JSON.", ""); }
  if (!response.ok) throw new Refused(response.status, String(body.error || body.detail || text.slice(0, 300)), response.headers.get("Retry-After"));
  return body;
}

async function describe() {
  try {
    const facts = await fetched(`v2/models/${encodeURIComponent(model)}`);
    const id = (facts.versions || [])[0];
    if (!id) throw new Refused(503, "", "1");
    hasText = (facts.outputs || []).some((output) => output.name === "scores");
    const output = (facts.outputs || []).find((each) => each.name === "embedding");
    at("model").textContent = `${model} \u00b7 ${id}` + (output ? ` \u00b7 ${output.shape[output.shape.length - 1]} numbers` : "");
    at("state").className = "dot ready";
    hasNeighbours = (facts.parameters || {}).num_references > 0;
    at("question").hidden = !hasText;
    offerLabels(facts);
  } catch (error) {
    at("state").className = "dot away";
    at("model").textContent = `${model} \u00b7 ${MEANING[error.status] || error.message}`;
    if (error.status === 401) at("access").hidden = false;
    if (error.status === 503 || error.status === 0 || error.status === 429) setTimeout(describe, 2000);
  }
}

function offerLabels(facts) {
  if (at("labels").value) return;
  const size = ((facts.parameters || {}).input || {}).size_px || 0;
  const isSmall = size && size < 64;  // the embedded recipes draw digits
  at("labels").value = isSmall ? "zero, one, two, three, four, five, six, seven, eight, nine" : "cat, dog, person, car, building, landscape";
  at("template").value = isSmall ? "a photo of the number {}" : "a photo of a {}";
}

function parameters() {
  const asked = {};
  const labels = [...new Set(at("labels").value.split(/[,\n]/).map((label) => label.trim()).filter(Boolean))];
  if (hasText && labels.length) {
    asked.labels = labels;
    const template = at("template").value.trim();
    if (template) asked.templates = [template];
  }
  if (hasNeighbours) asked.neighbours = NUM_NEIGHBOURS;
  return asked;
}

async function base64(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let text = "";
  for (let start = 0; start < bytes.length; start += 32768) text += String.fromCharCode(...bytes.subarray(start, start + 32768));
  return btoa(text);
}

async function ask() {
  if (!file) return;
  const mine = ++turn;
  at("answer").setAttribute("aria-busy", "true");
  at("ask").hidden = false;
  showCurl();
  try {
    const instances = [{ b64: await base64(file) }];
    const body = JSON.stringify({ instances, parameters: parameters() });
    const startedAt = performance.now();
    const answer = await fetched(PREDICT, { method: "POST", headers: { "Content-Type": "application/json" }, body });
    const milliseconds = performance.now() - startedAt;
    if (mine === turn) show(answer, milliseconds);
  } catch (error) {
    if (mine === turn) showProblem(error);
  }
}

function show(answer, milliseconds) {
  const found = answer.predictions[0];
  const row = Array.isArray(found) ? { embedding: found } : found;
  at("problem").hidden = at("nothing").hidden = true;
  at("answer").hidden = false;
  at("answer").setAttribute("aria-busy", "false");
  at("headline").textContent = row.label || `${row.embedding.length} numbers`;
  const scores = Object.entries(row.scores || {}).sort((a, b) => b[1] - a[1]).slice(0, 20);
  bars("scores", scores.map(([name, score]) => [name, score, `${(100 * score).toFixed(score < 0.001 ? 2 : 1)} %`]));
  bars("neighbours", (row.neighbours || []).map((each) => [each.id, each.score, each.score.toFixed(3)]));
  drawEmbedding(row.embedding);
  const length = Math.hypot(...row.embedding);
  const first = row.embedding.slice(0, 6).map((value) => value.toFixed(3)).join(", ");
  at("numbers").textContent = `${row.embedding.length} numbers, length ${length.toFixed(2)}: ${first}, \u2026`;
  at("latency").textContent = `${milliseconds.toFixed(0)} ms there and back \u00b7 ${answer.model_id}`;
}

function bars(id, rows) {
  at(`${id}-part`).hidden = !rows.length;
  at(id).replaceChildren(...rows.map(([name, share, text]) => {
    const item = document.createElement("li");
    const parts = ["name", "track", "value"].map((kind) => Object.assign(document.createElement("span"), { className: kind }));
    parts[0].textContent = parts[0].title = name;
    const filled = document.createElement("span");
    filled.style.width = `${100 * Math.max(0, Math.min(1, share))}%`;
    parts[1].append(filled);
    parts[2].textContent = text;
    item.append(...parts);
    return item;
  }));
}

function drawEmbedding(values) {
  const most = Math.max(...values.map(Math.abs)) || 1;
  const shown = values.slice(0, MAX_BARS);
  at("embedding").setAttribute("aria-label", `The first ${shown.length} numbers of the embedding as bars`);
  at("embedding").replaceChildren(...shown.map((value) => {
    const bar = document.createElement("span");
    bar.style.height = `${48 * Math.abs(value) / most}%`;
    bar.style.transform = `translateY(${value > 0 ? -50 : 50}%)`;
    return bar;
  }));
}

function showProblem(error) {
  const wait = error.wait ? ` Ask again in ${error.wait} s.` : "";
  const meaning = MEANING[error.status] || (error.status ? `The server answered ${error.status}.` : "");
  const reason = error.message.replace(/^image 0 of 1: |^instances\[0\]: /, "");
  at("problem").textContent = `${meaning} ${reason.charAt(0).toUpperCase()}${reason.slice(1)}${/[.!?]$/.test(reason) || !reason ? "" : "."}${wait}`.trim();
  at("problem").hidden = false;
  at("nothing").hidden = at("answer").hidden = true;
  if (error.status === 401) { at("access").hidden = false; at("token").focus(); }
}

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

function showCurl() {
  const asked = parameters();
  const name = file.name && file.name !== "image.png" ? file.name : "image.png";
  const tail = Object.keys(asked).length ? `"}],"parameters":%s}' ${quoted(JSON.stringify(asked))}` : `"}]}'`;
  const token = at("token").value.trim() ? ` -H "Authorization: Bearer $TOKEN"` : "";
  at("curl").textContent = `(printf '{"instances":[{"b64":"'; base64 -w0 < ${quoted(name)}; printf '${tail}) | curl -s ${quoted(address(PREDICT))}${token} -H 'Content-Type: application/json' -d @-`;
  at("curl-part").hidden = false;
}

function take(chosen) {
  if (!chosen) return;
  file = chosen;
  const preview = at("preview");
  if (preview.src) URL.revokeObjectURL(preview.src);
  preview.onload = () => { preview.hidden = false; at("invitation").hidden = true; preview.classList.toggle("small", preview.naturalWidth < 128); };
  preview.onerror = () => { preview.hidden = true; at("invitation").hidden = false; };
  preview.alt = `The image that was asked about: ${chosen.name || "pasted"}`;
  preview.src = URL.createObjectURL(chosen);
  ask();
}

let patience = 0;
function askSoon() { clearTimeout(patience); patience = setTimeout(ask, 500); }

at("drop").addEventListener("click", () => at("file").click());
at("file").addEventListener("change", (event) => { take(event.target.files[0]); event.target.value = ""; });
for (const kind of ["dragover", "dragenter"]) document.addEventListener(kind, (event) => { event.preventDefault(); at("drop").classList.add("over"); });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) at("drop").classList.remove("over"); });
document.addEventListener("drop", (event) => { event.preventDefault(); at("drop").classList.remove("over"); take(event.dataTransfer.files[0]); });
document.addEventListener("paste", (event) => { const pasted = [...event.clipboardData.files][0]; if (pasted) { event.preventDefault(); take(pasted); } });
at("ask").addEventListener("click", ask);
at("labels").addEventListener("input", askSoon);
at("template").addEventListener("input", askSoon);
at("access").addEventListener("submit", (event) => { event.preventDefault(); at("token").blur(); });
at("token").addEventListener("change", () => { describe().then(ask); });
at("copy").addEventListener("click", async () => {
  const range = document.createRange();
  range.selectNodeContents(at("curl"));
  getSelection().removeAllRanges();
  getSelection().addRange(range);
  try { await navigator.clipboard.writeText(at("curl").textContent); at("copy").textContent = "Copied"; } catch (error) { at("copy").textContent = "Selected: press Ctrl-C"; }
  setTimeout(() => { at("copy").textContent = "Copy"; }, 2000);
});
describe();
