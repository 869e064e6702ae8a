// The Logs page: live mode, and the drawer of one call. Without it the list, its filters and the
// pages of calls are the same; new calls are there after a reload.

// -- live mode: asks what stands on the page now, and offers what it does not show yet ------------

const LOGS_EVERY_MS = 3000;
const LOGS_SLOWEST_MS = 60000;
const LOGS_PAUSED = "logs-paused";
// What is exchanged when new calls are shown; each is on every page of the list.
const LOGS_PARTS = ["#logs-live", "#logs-looked", "#changelist-form", "nav.spend-keyset"];

class LiveLogs {
  constructor(bar) {
    this.state = bar.querySelector("[data-logs-state]");
    this.pauseButton = bar.querySelector("[data-logs-pause]");
    this.showLink = bar.querySelector("[data-logs-show]");
    this.said = document.querySelector("[data-logs-said]");
    this.waitMs = LOGS_EVERY_MS;
    this.isPaused = sessionStorage.getItem(LOGS_PAUSED) === "yes";
    this.take();
    this.pauseButton.addEventListener("click", () => this.pause(!this.isPaused));
    this.showLink.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      this.show();
    });
    document.addEventListener("visibilitychange", () => this.plan(0));
    bar.hidden = false;
    this.pause(this.isPaused);
  }

  take() {
    const { url, query, booked, shown } = JSON.parse(document.getElementById("logs-live").textContent);
    this.address = `${url}${query}`;
    this.booked = booked;
    this.shown = new Set(shown);
    this.tell(0, false);
  }

  pause(isPaused) {
    this.isPaused = isPaused;
    sessionStorage.setItem(LOGS_PAUSED, isPaused ? "yes" : "no");
    this.pauseButton.setAttribute("aria-pressed", isPaused);
    this.state.textContent = isPaused ? "Paused" : "Live";
    this.state.classList.toggle("is-off", isPaused);
    this.plan(LOGS_EVERY_MS);
  }

  // One timer at a time; none while the page is paused, or not looked at.
  plan(waitMs) {
    clearTimeout(this.timer);
    if (!this.isPaused && document.visibilityState === "visible" && !this.isAsking) {
      this.timer = setTimeout(() => this.ask(), waitMs);
    }
  }

  async ask() {
    this.isAsking = true;
    const began = performance.now();
    const { address, booked } = this;
    try {
      const answer = await fetch(`${address}&booked=${booked}`, { headers: { Accept: "application/json" } });
      if (answer.redirected) throw new Error("logged out");
      if (!answer.ok) throw new Error(`answered ${answer.status}`);
      const news = await answer.json();
      if (address === this.address) this.hear(news);
      if (!this.isPaused) this.state.textContent = "Live";
      this.state.classList.toggle("is-off", this.isPaused);
      // A list that is slow to ask is asked seldom: a twentieth of the time at most.
      this.waitMs = Math.max(LOGS_EVERY_MS, Math.min(20 * (performance.now() - began), LOGS_SLOWEST_MS));
    } catch (error) {
      this.waitMs = Math.min(this.waitMs * 2, LOGS_SLOWEST_MS);
      const seconds = Math.round(this.waitMs / 1000);
      this.state.textContent =
        error.message === "logged out" ? "Not live: reload the page to log in" : `Not live: trying again in ${seconds} s`;
      this.state.classList.add("is-off");
    }
    this.isAsking = false;
    this.plan(this.waitMs);
  }

  hear({ booked, calls, is_more: isMore }) {
    this.booked = booked;
    if (calls) this.tell(calls.filter((id) => !this.shown.has(id)).length, isMore);
  }

  tell(count, isMore) {
    const many = isMore && count > 0 ? "+" : "";
    const text = count ? `${count}${many} new ${count === 1 && !many ? "call" : "calls"} – show` : "";
    // Once, not for each: whoever listens is not read a counter.
    if (count && this.showLink.hidden) this.said.textContent = "New calls are there to be shown.";
    this.showLink.textContent = text;
    this.showLink.hidden = !count;
  }

  async show() {
    const before = this.shown;
    try {
      const answer = await fetch(this.showLink.href, { headers: { Accept: "text/html" } });
      if (!answer.ok || answer.redirected) throw new Error(`answered ${answer.status}`);
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const pairs = LOGS_PARTS.map((part) => [document.querySelector(part), page.querySelector(part)]);
      if (pairs.some(([old, fresh]) => !old || !fresh)) throw new Error("another page");
      for (const [old, fresh] of pairs) old.replaceWith(document.importNode(fresh, true));
    } catch {
      location.assign(this.showLink.href);
      return;
    }
    this.take();
    const fresh = [...document.querySelectorAll("#result_list .field-time a")].filter(
      (link) => ![...before].some((id) => link.pathname.includes(id)),
    );
    for (const link of fresh) link.closest("tr").classList.add("is-new");
    // After the theme has put the table into its scroller, which takes the focus away.
    setTimeout(() => fresh[0]?.focus());
    this.said.textContent = `${fresh.length} new ${fresh.length === 1 ? "call" : "calls"} shown.`;
    this.plan(this.waitMs);
  }
}

// -- the drawer: one call beside the list ---------------------------------------------------------

class CallDrawer {
  constructor() {
    this.dialog = document.createElement("dialog");
    this.dialog.className = "logs-drawer";
    this.dialog.setAttribute("aria-labelledby", "logs-drawer-title");
    document.body.append(this.dialog);
    this.dialog.addEventListener("click", (event) => {
      // A click on the dialog itself is one beside what it shows.
      if (event.target === this.dialog || event.target.closest("[data-drawer-close]")) this.dialog.close();
      else if (event.target.closest("[data-drawer-again]")) this.fill();
    });
    this.dialog.addEventListener("close", () => {
      this.asked = null;
      this.row?.classList.remove("is-open");
      this.link?.focus();
    });
  }

  open(link) {
    this.link = link;
    this.row = link.closest("tr");
    this.row.classList.add("is-open");
    this.dialog.showModal();
    this.fill();
  }

  async fill() {
    const { link } = this;
    this.asked = link;
    this.write("Loading …");
    try {
      const address = link.pathname.replace(/change\/$/, "drawer/");
      const answer = await fetch(address, { headers: { Accept: "text/html" } });
      if (answer.redirected) throw new Error("You are no longer logged in: reload the page.");
      if (!answer.ok) throw new Error(`The call could not be loaded: the gateway answered ${answer.status}.`);
      const html = await answer.text();
      if (this.asked === link) this.dialog.firstChild.innerHTML = html;
    } catch (error) {
      if (this.asked !== link) return;
      this.write(error instanceof TypeError ? "The call could not be loaded: no answer." : error.message, true);
    }
    this.dialog.querySelector("[data-drawer-close]").focus();
  }

  // While it loads, and where it does not: with a way out, and one to the call's own page.
  write(text, isError = false) {
    this.dialog.innerHTML = `<div class="logs-drawer-body" tabindex="0"><header class="logs-drawer-head">
      <h2 id="logs-drawer-title">Call</h2><button type="button" data-drawer-close aria-label="Close">×</button></header>
      <p role="${isError ? "alert" : "status"}"></p><p class="spend-buttons"></p></div>`;
    this.dialog.querySelector("p").textContent = text;
    if (!isError) return;
    const page = Object.assign(document.createElement("a"), { href: this.link.href, className: "text-link", textContent: "Open its page" });
    const again = Object.assign(document.createElement("button"), { type: "button", className: "spend-button", textContent: "Try again" });
    again.dataset.drawerAgain = "";
    this.dialog.querySelector(".spend-buttons").append(again, page);
  }
}

function callLink(event) {
  if (event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return null;
  const row = event.target.closest("#result_list tbody tr");
  const link = row?.querySelector(".field-time a");
  const other = event.target.closest("a, button, input, label");
  // Whoever marks text wants the text.
  return link && (!other || other === link) && !String(getSelection()) ? link : null;
}

document.addEventListener("DOMContentLoaded", () => {
  if (!document.querySelector(".logs-bar")) return;
  const bar = document.querySelector("[data-logs-live]");
  if (bar) new LiveLogs(bar);
  const drawer = new CallDrawer();
  document.addEventListener("click", (event) => {
    const link = callLink(event);
    if (!link) return;
    event.preventDefault();
    drawer.open(link);
  });
  // The theme's button is a link without an address: no key reaches it.
  const filters = [...document.querySelectorAll("a[x-on\\:click]:not([href])")].find((each) => each.getAttribute("x-on:click") === "filterOpen = true");
  if (filters) {
    filters.setAttribute("role", "button");
    filters.tabIndex = 0;
    filters.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      filters.click();
      setTimeout(() => document.querySelector("#filter-form :is(input:not([type=hidden]), select)")?.focus());
    });
  }
  const loading = document.querySelector("[data-logs-loading]");
  for (const form of document.querySelectorAll("#filter-form, #changelist-search")) {
    form.addEventListener("submit", () => {
      for (const input of form.elements) if (input.name && !input.value) input.disabled = true;
      loading.hidden = false;
    });
  }
  // Back shows the page as it was left: not as one that loads.
  addEventListener("pageshow", () => {
    loading.hidden = true;
    for (const input of document.querySelectorAll("#filter-form :disabled, #changelist-search :disabled")) input.disabled = false;
  });
});
