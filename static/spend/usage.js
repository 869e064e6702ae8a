// The usage pages: draws the chart, fills the filters' lists as one types, keeps addresses short.
// Without it all figures are there: the chart's in the table below it.
const chosenColour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const usd = (value) => {
  const places = Math.abs(value) >= 1 || value === 0 ? 2 : 6;
  return `$${value.toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: places })}`;
};

function colourOf(series, at) {
  return chosenColour(series.kind === "name" ? `--usage-${at + 1}` : `--usage-${series.kind}`);
}

function datasets(data) {
  const ground = chosenColour("--spend-ground");
  return data.series.map((series, at) => {
    const colour = colourOf(series, at);
    const line = !data.isStacked || series.kind === "before";
    return {
      type: line ? "line" : "bar",
      label: series.name,
      data: series.values.map(Number),
      backgroundColor: colour,
      borderColor: line ? colour : ground,
      borderWidth: line ? 2 : { top: 1 },
      borderDash: series.kind === "before" ? [5, 4] : data.isStacked ? [] : [[], [8, 3], [2, 3]][at % 3],
      pointRadius: line && data.days.length < 3 ? 3 : 0,
      pointHoverRadius: 4,
      maxBarThickness: 48,
      categoryPercentage: 0.86,
      barPercentage: 1,
      stack: series.kind === "before" ? "before" : "now",
      order: line ? 0 : 1,
    };
  });
}

function options(data) {
  const ink = chosenColour("--spend-quiet");
  const line = chosenColour("--spend-line");
  return {
    animation: false,
    maintainAspectRatio: false,
    interaction: { mode: "index", intersect: false },
    plugins: {
      legend: { display: false },
      tooltip: {
        filter: (item) => item.raw !== 0,
        itemSort: (one, other) => other.raw - one.raw,
        callbacks: {
          label: (item) => ` ${item.dataset.label}: ${usd(item.raw)}`,
          footer: (items) => {
            const stacked = items.filter((item) => item.dataset.stack === "now");
            return data.isStacked ? `Total: ${usd(stacked.reduce((sum, item) => sum + item.raw, 0))}` : "";
          },
        },
      },
    },
    scales: {
      x: {
        stacked: data.isStacked,
        grid: { display: false },
        border: { color: line },
        ticks: { color: ink, maxRotation: 0, autoSkipPadding: 16 },
      },
      y: {
        stacked: data.isStacked,
        beginAtZero: true,
        title: { display: true, text: "USD a day", color: ink },
        grid: { color: line },
        border: { display: false },
        ticks: { color: ink, maxTicksLimit: 7, callback: usd },
      },
    },
  };
}

function draw(canvas) {
  const state = canvas.parentElement.querySelector("[data-usage-chart-state]");
  try {
    const data = JSON.parse(document.getElementById(canvas.dataset.usageChart).textContent);
    Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
    const chart = new Chart(canvas, { data: { labels: data.days, datasets: datasets(data) }, options: options(data) });
    state.hidden = true;
    canvas.dataset.drawn = "true";
    // Light and dark change while one looks on: the colours are the page's.
    new MutationObserver(() => {
      chart.data.datasets = datasets(data);
      chart.options = options(data);
      chart.update();
    }).observe(document.documentElement, { attributeFilter: ["class"] });
  } catch {
    canvas.hidden = true;
    state.textContent = "The chart could not be drawn. Its figures are in the table below; reload the page to try again.";
  }
}

function suggest(input) {
  const list = document.getElementById(input.getAttribute("list"));
  let asked = 0;
  let timer;
  const fill = async () => {
    const number = ++asked;
    const url = `${input.dataset.suggest}?${new URLSearchParams({ q: input.value.trim() })}`;
    try {
      const answer = await fetch(url, { headers: { Accept: "application/json" } });
      if (!answer.ok || number !== asked) return;
      const { results } = await answer.json();
      list.replaceChildren(...results.map(({ value, label }) => Object.assign(new Option(label, value), { label: label || value })));
    } catch {
      list.replaceChildren(); // what is typed counts without suggestions, too
    }
  };
  input.addEventListener("focus", () => list.childElementCount || fill());
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(fill, 150);
  });
}

function begin(page) {
  page.setAttribute("aria-busy", "true");
  page.querySelector("[data-usage-loading]").hidden = false;
}

document.addEventListener("DOMContentLoaded", () => {
  const page = document.querySelector(".usage");
  page.querySelectorAll("[data-usage-chart]").forEach(draw);
  page.querySelectorAll("[data-suggest]").forEach(suggest);
  for (const form of page.querySelectorAll("[data-usage-form]")) {
    form.addEventListener("submit", () => {
      for (const input of form.elements) if (input.name && !input.value) input.disabled = true;
      begin(page);
    });
  }
  page.addEventListener("click", (event) => {
    const link = event.target.closest("a[href]");
    const stays = !link || link.hasAttribute("download") || event.ctrlKey || event.metaKey || event.shiftKey || link.target;
    if (!stays) begin(page);
  });
});
// Back shows the page as it was left: not as one that loads.
addEventListener("pageshow", () => {
  const page = document.querySelector(".usage");
  page?.removeAttribute("aria-busy");
  const loading = page?.querySelector("[data-usage-loading]");
  if (loading) loading.hidden = true;
  page?.querySelectorAll("[data-usage-form] :disabled").forEach((input) => (input.disabled = false));
});
