"use strict";
// Figures, buttons that copy, the contents list, and what print needs.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const charts = [...document.querySelectorAll("[data-figure]")];
  const config = { responsive: true, displayModeBar: false, displaylogo: false, doubleClick: false, showTips: false };
  for (const chart of charts) {
    const figure = figures[+chart.dataset.figure];
    figure.layout.dragmode = false;
    Plotly.newPlot(chart, figure.data, figure.layout, config);
  }

  // Dark where the reader's system is, or as the button says; charts take the page's colours.
  const dark = matchMedia("(prefers-color-scheme: dark)"), theme = document.getElementById("theme");
  const isDark = () => (document.documentElement.style.colorScheme || (dark.matches ? "dark" : "light")) === "dark";
  const colours = (paper = false) => {
    theme.textContent = isDark() ? "Light" : "Dark";
    theme.setAttribute("aria-label", (isDark() ? "Light" : "Dark") + " colours");
    const style = getComputedStyle(document.body), ink = paper ? "#222" : style.color, ground = paper ? "#fff" : style.backgroundColor;
    const grid = paper || !isDark() ? "#ddd" : "#345";
    for (const chart of charts) {
      const axes = Object.keys(chart.layout).filter((name) => /^[xy]axis\d*$/.test(name)).map((name) => [name + ".gridcolor", grid]);
      Plotly.relayout(chart, { "font.color": ink, paper_bgcolor: ground, plot_bgcolor: ground, ...Object.fromEntries(axes) });
    }
  };
  theme.hidden = false;
  theme.addEventListener("click", () => { document.documentElement.style.colorScheme = isDark() ? "light" : "dark"; colours(); });
  dark.addEventListener("change", () => colours());
  colours();

  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", async () => {
      const code = button.closest(".code").querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
      } catch {
        // Where pages may not reach the clipboard, the older way still works.
        const range = document.createRange();
        range.selectNodeContents(code);
        getSelection().removeAllRanges();
        getSelection().addRange(range);
        document.execCommand("copy");
      }
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }

  // What can be scrolled sideways can be reached with the keyboard, and nothing else is in its way.
  const reachable = () => {
    for (const part of document.querySelectorAll("[data-name]")) {
      const over = part.scrollWidth > part.clientWidth + 1;
      for (const [name, value] of [["tabindex", "0"], ["role", "region"], ["aria-label", part.dataset.name]]) {
        if (over) part.setAttribute(name, value);
        else part.removeAttribute(name);
      }
    }
  };
  reachable();
  addEventListener("resize", reachable);

  const links = new Map([...document.querySelectorAll("nav a")].map((a) => [a.hash.slice(1), a]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const [id, a] of links) id === entry.target.id ? a.setAttribute("aria-current", "true") : a.removeAttribute("aria-current");
    }
  }, { rootMargin: "-10% 0px -75% 0px" });
  for (const section of document.querySelectorAll("section")) seen.observe(section);

  // Paper is narrower than most windows, and nobody can unfold a part of it.
  const unfolded = [];
  const paper = (on) => {
    if (on) for (const part of document.querySelectorAll("details:not([open])")) { part.open = true; unfolded.push(part); }
    else while (unfolded.length) unfolded.pop().open = false;
    colours(on);
    for (const chart of charts) Plotly.relayout(chart, on ? { autosize: false, width: Math.min(chart.clientWidth, 680) } : { autosize: true, width: null });
  };
  matchMedia("print").addEventListener("change", (event) => paper(event.matches));
})();
