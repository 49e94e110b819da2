"use strict";
// The page's own script: plotly is evaluated once a figure comes near, each figure is drawn once it comes near.
(() => {
  const root = document.documentElement;
  const themes = JSON.parse(document.getElementById("themes").textContent);
  const system = matchMedia("(prefers-color-scheme: dark)");
  const holders = [...document.querySelectorAll("figure > .plotly-graph-div")];
  const figures = new Map(); // of the holders drawn so far
  const queue = [];
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);

  // Colours that figures name themselves are too dark on a dark page; each has a lighter one of its hue.
  function recoloured(node) {
    if (typeof node === "string") return themes.swapped[node.toLowerCase().replaceAll(" ", "")] ?? node;
    if (Array.isArray(node)) return node.map(recoloured);
    if (node === null || typeof node !== "object") return node;
    return Object.fromEntries(Object.entries(node).map(([key, value]) => [key, recoloured(value)]));
  }

  function settings(filename) {
    const saveSvg = {
      name: "saveSvg",
      title: "Download plot as SVG",
      icon: Plotly.Icons.disk,
      click: (drawn) => Plotly.downloadImage(drawn, { format: "svg", filename }),
    };
    return {
      displaylogo: false,
      responsive: true,
      modeBarButtonsToRemove: ["lasso2d", "select2d"],
      toImageButtonOptions: { format: "png", scale: 2, filename },
      modeBarButtonsToAdd: [saveSvg],
    };
  }

  function draw(holder) {
    if (!window.Plotly) {
      const script = document.createElement("script");
      script.textContent = document.getElementById("plotly").textContent;
      document.head.append(script);
    }
    if (!figures.has(holder)) figures.set(holder, JSON.parse(holder.nextElementSibling.textContent));
    const { data, layout } = isDark() ? recoloured(figures.get(holder)) : structuredClone(figures.get(holder));
    layout.uirevision = "kept"; // a change of theme keeps the reader's zoom
    layout.template = isDark() ? themes.dark : themes.light;
    breakTitles(layout, holder.clientWidth);
    const below = layout.legend?.y === undefined; // the legend lies under the figure, as high as its names need
    if (below) layout.legend = { ...layout.legend, yref: "container", y: 0, yanchor: "bottom" };
    Plotly.react(holder, data, layout, settings(holder.id));
    const needed = below ? holder._fullLayout.legend?._height ?? 0 : 0;
    if (needed) {
      holder.style.height = `${layout.height + needed}px`;
      Plotly.relayout(holder, { height: layout.height + needed, "margin.b": needed + 75 });
    }
    if (!performance.getEntriesByName("first-figure").length) performance.mark("first-figure");
  }

  // Titles wider than the figure, or than their panel, would be cut or run into each other: they break into lines.
  function breakTitles(layout, width) {
    const axes = Object.keys(layout).filter((key) => key.startsWith("xaxis")).map((key) => layout[key]);
    const columns = new Set(axes.map((axis) => axis.domain?.[0] ?? 0)).size || 1;
    const most = Math.max(12, Math.floor(width / columns / 9));
    const panels = (layout.annotations ?? []).filter((one) => one.yref === "paper" && one.showarrow === false);
    const long = panels.filter((one) => one.text?.length > most);
    for (const one of long) one.text = broken(one.text, most);
    if (long.length) layout.margin = { ...layout.margin, t: (layout.margin?.t ?? 60) + 20 };
    for (const { title } of width < 700 ? [layout, ...axes] : []) if (title?.text) title.text = broken(title.text, most);
  }

  function broken(text, most) {
    const lines = [""];
    for (const word of text.split(" ")) {
      if ((lines.at(-1) + word).length > most) lines.push("");
      lines[lines.length - 1] += (lines.at(-1) && " ") + word;
    }
    return lines.join("<br>");
  }

  function enqueue(holder) {
    if (queue.push(holder) === 1) setTimeout(drawNext);
  }
  function drawNext() {
    if (!figures.has(queue[0])) draw(queue[0]);
    queue.shift();
    if (queue.length) setTimeout(drawNext); // one a task, so that the page answers in between
  }
  const near = new IntersectionObserver((entries) => {
    for (const { target } of entries.filter((one) => one.isIntersecting)) {
      near.unobserve(target);
      enqueue(target);
    }
  }, { rootMargin: "600px" });
  holders.forEach((holder) => near.observe(holder));
  // The first is drawn anyway, soon after the page is there: plotly is ready then when the reader gets to the others.
  addEventListener("load", () => holders.slice(0, 1).forEach((one) => setTimeout(enqueue, 50, one)));
  addEventListener("beforeprint", () => holders.filter((one) => !figures.has(one)).forEach(draw));

  const toggle = document.getElementById("theme");
  function showTheme() {
    toggle.setAttribute("aria-pressed", String(isDark()));
    [...figures.keys()].forEach(draw);
  }
  toggle.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    showTheme();
  });
  system.addEventListener("change", showTheme);
  showTheme();

  // Contents: folded on a narrow screen; the section being read is marked.
  const contents = document.querySelector("nav details");
  if (!contents) return;
  const narrow = matchMedia("(max-width: 900px)");
  contents.open = !narrow.matches;
  contents.addEventListener("click", (event) => {
    if (event.target.closest("a") && narrow.matches) contents.open = false;
  });
  const read = new IntersectionObserver((entries) => {
    const now = entries.find((one) => one.isIntersecting)?.target;
    for (const link of now ? contents.querySelectorAll("a") : []) {
      if (link.hash.slice(1) === now.id) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }, { rootMargin: "-10% 0px -80% 0px" });
  document.querySelectorAll("main > section").forEach((section) => read.observe(section));
})();
