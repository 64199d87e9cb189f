// Live updates: what has changed in the page is replaced, element by element, where it has an id.
// Everything else works without this file.
"use strict";
const replace = (text, root) => {
  const fresh = new DOMParser().parseFromString(text, "text/html"); // inert: nothing in it runs
  for (const next of fresh.querySelectorAll("[id]")) {
    const now = document.getElementById(next.id);
    const same = !now || now.innerHTML === next.innerHTML || now.contains(document.activeElement);
    if (!same && next.id !== "link" && root.contains(now)) now.replaceChildren(...next.childNodes);
  }
  const rows = (part) => part.querySelectorAll("section, tbody > tr").length;
  return rows(fresh.querySelector("[data-every]") ?? fresh) === rows(root);
};

const live = document.getElementById("live");
if (live) {
  const source = new EventSource("/live");
  const say = (text) => {
    const link = document.getElementById("link");
    if (link && link.textContent !== text) link.textContent = text;
  };
  source.onmessage = ({ data }) => {
    if (!replace(data, live)) return location.reload();
    say("Live.");
  };
  source.onerror = () =>
    say(source.readyState === EventSource.CLOSED ? "Not live: load the page again." : "Not live: connecting…");
}

const polled = document.querySelector("[data-every]");
if (polled) {
  const ask = async () => {
    if (document.hidden) return;
    const answer = await fetch(location.href, { headers: { "X-Refresh": "1" } }).catch(() => null);
    if (answer?.redirected) return location.reload(); // to log in
    if (answer?.ok && !replace(await answer.text(), polled)) location.reload();
  };
  setInterval(ask, 1000 * polled.dataset.every);
}

const names = new Intl.DisplayNames(["en"], { type: "region" });
for (const each of document.querySelectorAll("[data-country]")) each.textContent = names.of(each.dataset.country);
