// The demo page: what it shows follows from what the client says, "in", "out" or "waiting".

import { Portcullis } from "./portcullis-client.js";

const $ = (id) => document.getElementById(id);
let state = null;
const portcullis = new Portcullis({ changed: show });

function show(next) {
  const entered = next === "in" && state !== "in";
  state = next;
  $("waiting").hidden = state !== "waiting";
  $("login").hidden = state !== "out";
  $("inside").hidden = state !== "in";
  $("error").textContent = "";
  if (state !== "in") for (const part of ["who", "answer", "sessions"]) $(part).textContent = "";
  if (entered) attempt(async () => {
    await call("/orders/7");
    await listSessions();
  });
}

// Does it; what goes wrong is told, and changes nothing else.
async function attempt(act) {
  $("error").textContent = "";
  try {
    await act();
  } catch (why) {
    $("error").textContent = `Not done: ${why.message}`;
  }
}

async function call(path) {
  const answer = await portcullis.fetch(path);
  if (answer.status === 401) return; // the login form is there by now
  if (answer.status >= 500) throw new Error(`${path} was answered with ${answer.status}`);
  const { headers = {}, detail = "" } = await answer.json();
  // What the backend was told about the caller. Names of header fields have no case.
  const told = Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]);
  const about = told.filter(([name]) => name.startsWith("x-auth-"));
  $("who").textContent = Object.fromEntries(about)["x-auth-subject"] ?? $("who").textContent;
  const lines = about.map(([name, value]) => `${name}: ${value}`);
  $("answer").textContent = [`${answer.status} ${path}`, ...lines, detail].join("\n");
}

async function listSessions() {
  const answer = await portcullis.fetch("/auth/sessions");
  if (!answer.ok) return;
  const { sessions } = await answer.json();
  const items = sessions.map(({ current, createdAt, address }) => {
    const item = document.createElement("li");
    const since = new Date(createdAt).toLocaleTimeString();
    item.textContent = `since ${since}, from ${address}${current ? ", this browser" : ""}`;
    return item;
  });
  $("sessions").replaceChildren(...items);
}

$("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { username, password } = Object.fromEntries(new FormData($("login")));
  await attempt(async () => {
    await portcullis.login(username, password);
    $("login").reset();
  });
});
$("orders").addEventListener("click", () => attempt(() => call("/orders/7")));
$("reports").addEventListener("click", () => attempt(() => call("/reports/q3")));
$("logout").addEventListener("click", () => attempt(() => portcullis.logout()));
$("logout-all").addEventListener("click", () => attempt(() => portcullis.logout({ everywhere: true })));

portcullis.start();
