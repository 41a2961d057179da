// The console works without this file. It adds live updates, the countdown and single keys.
"use strict";

const live = document.getElementById("live");
const say = (text) => { live.textContent = ""; requestAnimationFrame(() => { live.textContent = text; }); };

// Countdown, by the server's clock: a browser's can be minutes wrong.

const behind = Date.parse(document.body.dataset.now) - Date.now();
const words = (ms, over) => {
  if (ms <= 0) return over || "expired";
  if (over) return `${Math.floor(ms / 1000)} s left`;
  const unit = (n, name) => `${n} ${name}${n === 1 ? "" : "s"} left`;
  const s = Math.floor(ms / 1000);
  if (s < 120) return unit(s, "second");
  if (s < 7200) return unit(Math.floor(s / 60), "minute");
  return unit(Math.floor(s / 3600), "hour");
};
const tick = () => {
  for (const el of document.querySelectorAll("time[data-expires]")) {
    let text = words(Date.parse(el.dataset.expires) - Date.now() - behind, el.dataset.over);
    if ("bare" in el.dataset) text = text.replace(" left", "");
    if (el.textContent === text) continue; // there can be hundreds
    el.textContent = text;
    if (text === el.dataset.over) el.previousElementSibling?.remove();
  }
};
setInterval(tick, 1000);

// Live updates. The server renders; this only puts its HTML in place.

const queue = document.getElementById("queue");
const card = document.querySelector("[data-approval]");

// get returns a part of the page as it is now; nothing if it cannot be had.
const get = async (path) => {
  const answer = await fetch(path, { credentials: "same-origin", headers: { Accept: "text/html" } });
  if (answer.status === 401) location.reload();
  return answer.ok ? new DOMParser().parseFromString(await answer.text(), "text/html") : undefined;
};

// calmly does it at once, and then once a second at most, however often it is asked to.
const calmly = (work) => {
  let busy = false, again = false;
  const run = async () => {
    again = busy;
    if (busy) return;
    busy = true;
    const second = new Promise((done) => setTimeout(done, 1000));
    try { await work(); } finally {
      await second;
      busy = false;
      if (again) run();
    }
  };
  return run;
};

const refreshQueue = async () => {
  const page = await get("/queue");
  if (!page) return;
  const before = new Set([...queue.querySelectorAll("[data-id]")].map((el) => el.dataset.id));
  const focused = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.id : undefined;
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
};

// The parts of a card's page that change. What somebody is typing is left alone while they can still send it.
const refreshCard = async () => {
  const page = await get(`/approvals/${card.dataset.approval}/live`);
  if (!page) return;
  for (const id of ["notice", "wait", "answers", "bar"]) {
    const old = document.getElementById(id), now = page.getElementById(id);
    if (!old || !now || old.outerHTML === now.outerHTML) continue;
    if (id === "notice") { // a screen reader is told of what is put into the element that is there
      old.className = now.className;
      if (!now.className) old.removeAttribute("class");
      old.replaceChildren(...now.childNodes);
    } else if (id !== "bar") {
      old.replaceChildren(...now.childNodes);
    } else if (old.dataset.kind !== now.dataset.kind) {
      const within = old.contains(document.activeElement), typed = old.querySelector("#reason")?.value.trim();
      old.replaceWith(now);
      if (typed && !now.querySelector("#reason")) {
        const lost = document.createElement("p");
        lost.id = "typed";
        lost.textContent = `What you have typed was not sent: ${typed}`;
        now.append(lost);
      }
      if (within) document.getElementById("notice").focus();
    }
  }
  tick();
  document.body.dataset.updates = String(Number(document.body.dataset.updates || 0) + 1);
};

if (queue || card) {
  const refresh = calmly(queue ? refreshQueue : refreshCard);
  let events;
  const listen = () => {
    events = new EventSource("/events");
    events.addEventListener("approval", (event) => { if (queue || JSON.parse(event.data).id === card.dataset.approval) refresh(); });
    events.addEventListener("reset", refresh);
    events.addEventListener("end", () => { events.close(); location.reload(); });
  };
  listen();
  addEventListener("pagehide", () => events.close());
  addEventListener("pageshow", (event) => { if (event.persisted) { listen(); refresh(); } }); // back from where the browser kept it
}

// A link to what is folded opens it.
const unfold = () => { const to = location.hash.length > 1 && document.getElementById(location.hash.slice(1)); if (to && to.tagName === "DETAILS") to.open = true; };
addEventListener("hashchange", unfold);
unfold();

// A form is sent once, whatever the finger does.
for (const form of document.querySelectorAll("form[method=post]")) {
  form.addEventListener("submit", (event) => {
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = "yes";
  });
}
addEventListener("pageshow", () => { for (const form of document.forms) delete form.dataset.sent; });

// What is typed is kept in this tab, for this person and request, until it is sent: the session can end meanwhile. It is never sent by itself.
const kept = () => { const field = document.getElementById("reason"); return field && `typed ${field.form.elements.person.value} ${card.dataset.approval}`; };
document.addEventListener("input", (event) => { if (event.target.id === "reason") sessionStorage.setItem(kept(), event.target.value); });
if (card && kept()) {
  const field = document.getElementById("reason"), text = sessionStorage.getItem(kept());
  if (text && !field.value) {
    field.value = text;
    document.getElementById("wants").textContent = "You typed this before. Nothing was sent.";
  }
} else if (card) {
  for (const key of Object.keys(sessionStorage)) if (key.startsWith("typed ") && key.endsWith(" " + card.dataset.approval)) sessionStorage.removeItem(key);
}

// A rejection needs a reason: say so before it is sent, in place.
document.addEventListener("click", (event) => {
  const reason = document.getElementById("reason");
  if (!event.target.closest("#reject") || reason.value.trim()) return;
  event.preventDefault();
  document.getElementById("wants").textContent = "Say why: the agent is told.";
  reason.setAttribute("aria-invalid", "true");
  reason.focus();
});

const error = document.getElementById("error");
if (error) error.focus();
else if (location.hash === "#notice") document.getElementById("notice")?.focus();

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
  r: () => focusOn("reason"),
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
