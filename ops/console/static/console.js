// Live updates: the server sends the middle of the home page, and what has changed in it is replaced.
// Everything else works without this file.
"use strict";
const live = document.getElementById("live");
if (live) {
  const source = new EventSource("/live");
  const say = (text) => {
    const link = document.getElementById("link");
    if (link && link.textContent !== text) link.textContent = text;
  };
  source.onmessage = ({ data }) => {
    const fresh = new DOMParser().parseFromString(data, "text/html"); // inert: nothing in it runs
    const rows = (root) => [...root.querySelectorAll("section")].length;
    if (rows(fresh) !== rows(live)) return location.reload();
    for (const next of fresh.querySelectorAll("[id]")) {
      const now = document.getElementById(next.id);
      const same = !now || now.innerHTML === next.innerHTML || now.contains(document.activeElement);
      if (!same && next.id !== "link") now.replaceChildren(...next.childNodes);
    }
    say("Live.");
  };
  source.onerror = () => say(source.readyState === EventSource.CLOSED ? "Not live: load the page again." : "Not live: connecting…");
}
