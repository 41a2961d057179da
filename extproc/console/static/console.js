// The console works without this file. It adds live updates, the countdown and single keys.
"use strict";

const live = document.getElementById("live");
const say = (text) => { live.textContent = ""; requestAnimationFrame(() => { live.textContent = text; }); };

// Countdown.

const words = (ms) => {
  if (ms <= 0) return "expired";
  const unit = (n, name) => `${n} ${name}${n === 1 ? "" : "s"} left`;
  const s = Math.floor(ms / 1000);
  if (s < 120) return unit(s, "second");
  if (s < 7200) return unit(Math.floor(s / 60), "minute");
  return unit(Math.floor(s / 3600), "hour");
};
const tick = () => {
  for (const el of document.querySelectorAll("time[data-expires]")) {
    el.textContent = words(Date.parse(el.dataset.expires) - Date.now());
  }
};
setInterval(tick, 1000);

// Live updates. The server renders; this only puts its HTML in place.

const queue = document.getElementById("queue");
const heading = document.querySelector("h1[data-approval]");
let refreshing = false, again = false;

const refreshQueue = async () => {
  if (refreshing) { again = true; return; }
  refreshing = true;
  try {
    const answer = await fetch("/queue", { credentials: "same-origin", headers: { Accept: "text/html" } });
    if (answer.status === 401) { location.reload(); return; }
    if (!answer.ok) return;
    const before = new Set([...queue.querySelectorAll("[data-id]")].map((el) => el.dataset.id));
    const focused = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.id : undefined;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    queue.replaceChildren(...page.body.childNodes);
    const now = [...queue.querySelectorAll("[data-id]")];
    if (focused) {
      const same = now.find((el) => el.dataset.id === focused);
      (same || document.getElementById("main")).focus();
    }
    const added = now.filter((el) => !before.has(el.dataset.id)).length;
    const gone = before.size - (now.length - added);
    if (added) say(`${added} new ${added === 1 ? "request" : "requests"}. ${now.length} waiting.`);
    else if (gone > 0) say(`${now.length} ${now.length === 1 ? "request waits" : "requests wait"}.`);
    document.title = (now.length ? `(${now.length}) ` : "") + "Queue · Countersign";
    document.body.dataset.updates = String(Number(document.body.dataset.updates || 0) + 1);
  } finally {
    refreshing = false;
    if (again) { again = false; refreshQueue(); }
  }
};

const changed = (event) => {
  const change = JSON.parse(event.data);
  if (queue) refreshQueue();
  if (heading && change.id === heading.dataset.approval && change.rev > Number(heading.dataset.rev)) {
    document.getElementById("changed").hidden = false;
  }
};

if (queue || heading) {
  const events = new EventSource("/events");
  events.addEventListener("approval", changed);
  events.addEventListener("reset", () => { if (queue) refreshQueue(); });
  events.addEventListener("end", () => { events.close(); location.reload(); });
  addEventListener("pagehide", () => events.close());
}

// A form is sent once, whatever the finger does.
for (const form of document.querySelectorAll("form[method=post]")) {
  form.addEventListener("submit", (event) => {
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = "yes";
  });
}
addEventListener("pageshow", () => { for (const form of document.forms) delete form.dataset.sent; });

const error = document.getElementById("error");
if (error) error.focus();

// Single keys, outside of fields. None of them decides.

const setting = document.getElementById("keys");
const keysOff = () => localStorage.getItem("keys") === "off";
if (setting) {
  setting.checked = !keysOff();
  setting.addEventListener("change", () => localStorage.setItem("keys", setting.checked ? "on" : "off"));
}
const move = (step) => {
  const all = [...document.querySelectorAll("a.request")];
  if (!all.length) return;
  const at = all.indexOf(document.activeElement);
  const next = at < 0 ? (step > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, at + step));
  all[next].focus();
};
const focusOn = (id) => { const el = document.getElementById(id); if (el) { el.focus(); el.scrollIntoView({ block: "center" }); } };
const actions = {
  j: () => move(1),
  k: () => move(-1),
  a: () => focusOn("approve"),
  r: () => focusOn("reject-reason"),
  u: () => { location.href = "/"; },
  "?": () => { location.href = "/help"; },
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || keysOff()) return;
  if (event.target.closest("input, textarea, select, [contenteditable]")) return;
  const action = actions[event.key];
  if (!action) return;
  event.preventDefault();
  action();
});
