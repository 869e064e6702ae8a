// An element with data-live="url" shows that address' answer, asked for again every few
// seconds while the page is looked at. Without this file it shows what it was served with.
const EVERY_MS = 3000;

async function refresh(element) {
  const answer = await fetch(element.dataset.live, { headers: { Accept: "text/html" } });
  if (!answer.ok || answer.redirected) throw new Error(`answered ${answer.status}`);
  const html = await answer.text();
  // Not under somebody's keyboard: a link that has the focus would lose it.
  if (html !== element.liveHtml && !element.contains(document.activeElement)) {
    element.innerHTML = html;
    element.liveHtml = html;
  }
}

function keepLive(element) {
  let waitMs = EVERY_MS;
  const next = async () => {
    if (document.visibilityState === "visible") {
      try {
        await refresh(element);
        waitMs = EVERY_MS;
      } catch {
        waitMs = Math.min(waitMs * 2, 60000);
      }
    }
    setTimeout(next, waitMs);
  };
  setTimeout(next, waitMs);
}

document.addEventListener("DOMContentLoaded", () => {
  for (const element of document.querySelectorAll("[data-live]")) keepLive(element);
});
