// The list of operations works without this file. It says how many decisions were made since, and leaves the rows alone.
"use strict";

(() => {
  const news = document.getElementById("news");
  if (!news || !news.dataset.live) return;
  const link = news.querySelector("a");
  const address = new URL(news.dataset.live, location.href);
  let count = 0;
  const ask = async () => {
    if (document.hidden) return;
    const answer = await fetch(address, { credentials: "same-origin", headers: { Accept: "application/json" } });
    if (answer.status === 401) { clearInterval(timer); location.reload(); return; }
    if (!answer.ok) return;
    const told = await answer.json();
    address.searchParams.set("after", told.seen);
    if (!told.new) return;
    count += told.new;
    link.textContent = `${count} new decision${count === 1 ? "" : "s"}: show`;
    link.hidden = false;
    document.title = `(${count}) Operations · Countersign`;
  };
  let asking = false;
  const timer = setInterval(async () => {
    if (asking) return;
    asking = true;
    try { await ask(); } catch { /* the gateway is away: ask again */ } finally { asking = false; }
  }, 2000);
})();
