"use strict";
// The paragraph viewer. Corpus text and names reach the page by textContent alone, each in an element that isolates it.
(() => {
  const source = document.getElementById("viewer-data");
  const viewer = source.closest("section");
  const data = JSON.parse(source.textContent);
  const part = (name) => document.getElementById(`viewer-${name}`);
  const [list, tokens, tip, search] = ["list", "tokens", "tip", "search"].map(part);
  const RTL = /^[^\p{L}]*[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff]/u; // is the first letter Hebrew, Arabic or kin?
  const hasEffects = data.prefix.some((one) => one.key === "effect");
  const hasAfter = data.paragraphs.some((one) => one.after);
  let shown = []; // numbers of the paragraphs in the list
  let chosen = null;

  const quoted = (words) => words.replaceAll("\n", "↵").replaceAll("\t", "⇥") || "(empty)";
  const number = (value) => (value === null ? "not measured" : String(Number(value.toPrecision(3))));
  const worst = (one) => Math.max(...(one.prefix.effect ?? [-Infinity]));
  const ORDERS = {
    "set, most was measured first": () => 0,
    "EM, most first": (a, b) => b.em - a.em,
    "NLL, least first": (a, b) => a.nll - b.nll,
    "NLL, most first": (a, b) => b.nll - a.nll,
    ...(hasEffects && { "worst replaced token first": (a, b) => worst(b) - worst(a) }),
  };
  for (const one of data.paragraphs) {
    one.text = one.tokens.map((id) => data.texts[id]).join("");
    one.found = `${one.id}\n${one.text}`.toLowerCase();
  }

  function element(name, words, className = "") {
    const made = document.createElement(name);
    made.textContent = words;
    made.className = className;
    return made;
  }

  function addOptions(name, options) {
    part(name).append(...options.map(([value, words]) => new Option(words, value)));
    part(name).closest("label").hidden = options.length < 2;
  }

  function filter() {
    const [set, from, to] = ["set", "from", "to"].map((name) => part(name).value);
    const fits = (one) => (set === "" || one.set === Number(set)) && (from === "" || one.em >= from)
      && (to === "" || one.em <= to) && one.found.includes(search.value.toLowerCase());
    const [order, all] = [ORDERS[part("sort").value], data.paragraphs];
    shown = [...all.keys()].filter((place) => fits(all[place])).sort((a, b) => order(all[a], all[b]) || a - b);
    list.replaceChildren(...shown.map(row));
    part("count").textContent = `${shown.length} of ${all.length} paragraphs`;
    choose(shown.includes(chosen) ? chosen : shown[0] ?? null);
  }

  function row(place) {
    const one = data.paragraphs[place];
    const [made, name] = [element("div", ""), element("b", "")];
    made.id = `viewer-row-${place}`;
    made.setAttribute("role", "option");
    name.append(element("bdi", one.id), `, EM ${one.em}`);
    made.append(name, element("span", one.text.slice(0, 80).replaceAll("\n", " ")));
    made.lastChild.dir = "auto";
    made.addEventListener("click", () => choose(place));
    return made;
  }

  function choose(place) {
    chosen = place;
    const option = part(`row-${place}`);
    for (const each of list.children) each.setAttribute("aria-selected", String(each === option));
    list.setAttribute("aria-activedescendant", option?.id ?? "");
    if (option) { // only the list scrolls to it, never the page
      const above = option.offsetTop - list.offsetTop;
      list.scrollTop = Math.max(Math.min(list.scrollTop, above), above + option.offsetHeight - list.clientHeight);
    }
    show();
  }

  function show() {
    const one = data.paragraphs[chosen];
    tip.hidden = true;
    tokens.replaceChildren();
    part("legend").replaceChildren();
    part("about").textContent = "";
    part("name").textContent = one ? "" : "No paragraph matches";
    if (!one) return;
    const measured = (of) => `EM ${of.em} of ${of.surprise.length}, NLL ${number(of.nll)} nats a token`;
    part("name").append(element("bdi", one.id), ` (${data.sets[one.set]})`);
    part("about").textContent = measured(one) + (one.after ? `; after unlearning ${measured(one.after)}` : "");
    const prefix = data.prefix.find((each) => each.key === part("prefix").value);
    const after = part("rest").value === "after" && one.after;
    tokens.dir = RTL.test(one.text) ? "rtl" : "ltr";
    tokens.append(...one.tokens.map((id, pos) => token(one, id, pos, prefix, after || one)));
    tokens.firstChild.tabIndex = 0;
    showLegend(one, prefix, after);
  }

  function token(one, id, pos, prefix, read) {
    const made = element("bdi", data.texts[id].replaceAll("\n", "↵\n") || "∅", "token");
    const rest = pos - data.n_prefix;
    const value = (rest < 0 ? one.prefix[prefix.key]?.[pos] : read.surprise[rest]) ?? null;
    const scale = rest < 0 ? prefix : data.rest;
    const missed = rest >= 0 && read.said[rest] !== id;
    made.tabIndex = -1;
    made.style.setProperty("--share", Math.min(1, Math.abs(value ?? 0) / scale.most).toFixed(3));
    const classes = { rest: rest >= 0, border: rest === 0, below: value < 0, missed };
    made.classList.add(...Object.keys(classes).filter((name) => classes[name]));
    const says = missed ? ["the model says instead: ", data.texts[read.said[rest]]] : ["the model says the same"];
    made.notes = [
      ["", data.texts[id]],
      [`position ${pos}, ${rest < 0 ? "prefix" : `continuation token ${rest + 1}`}`],
      [`${scale.name}: ${number(value)}${value === null ? "" : ` ${scale.unit}`}`],
      ...(rest < 0 ? [] : [says]),
    ];
    return made;
  }

  function showLegend(one, prefix, after) {
    const bar = (words, scale, className, sign = "") => {
      const made = element("span", `${words} 0`);
      made.append(element("i", "", className), `${sign}${number(scale.most)} ${scale.unit} or more`);
      return made;
    };
    const values = one.prefix[prefix.key];
    const quiet = (words) => element("span", words, "quiet");
    part("legend").append(
      values ? bar(`prefix: ${prefix.name}`, prefix, "") : quiet(`${prefix.name}: not measured for this paragraph`),
      ...(values?.some((value) => value < 0) ? [bar("the text is likelier when replaced", prefix, "below", "−")] : []),
      bar(`continuation: NLL${after ? " after unlearning" : ""}`, data.rest, "rest"),
      ...(part("rest").value === "after" && !after ? [quiet("this paragraph was not unlearned")] : []),
      element("span", "wavy: the model says something else", "missed"),
    );
  }

  function showTip(at) {
    tip.replaceChildren(...at.notes.map(([words, corpus]) => {
      const line = element("div", words);
      if (corpus !== undefined) line.append("“", element("bdi", quoted(corpus)), "”");
      return line;
    }));
    tip.hidden = false;
    const { left, top, bottom } = at.getBoundingClientRect();
    tip.style.top = `${bottom + 8 + tip.offsetHeight < innerHeight ? bottom + 8 : top - tip.offsetHeight - 8}px`;
    tip.style.left = `${Math.max(8, Math.min(left, innerWidth - tip.offsetWidth - 8))}px`;
  }

  function moveToken(step) {
    const now = tokens.querySelector('[tabindex="0"]');
    const next = document.activeElement === now ? tokens.children[[...tokens.children].indexOf(now) + step] : now;
    if (!next) return;
    now.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  function moveParagraph(step) {
    if (shown.length) choose(shown[Math.max(0, Math.min(shown.length - 1, shown.indexOf(chosen) + step))]);
  }

  const KEYS = { j: () => moveParagraph(1), k: () => moveParagraph(-1), "/": () => search.focus() };
  const ARROWS = { ArrowDown: KEYS.j, ArrowUp: KEYS.k, ArrowRight: () => moveToken(1), ArrowLeft: () => moveToken(-1) };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const inside = viewer.contains(event.target); // elsewhere arrows scroll the page
    if (event.key === "Escape" && inside) {
      if (event.target === search) search.value = "";
      filter();
      return list.focus({ preventScroll: true });
    }
    const { top, bottom } = viewer.getBoundingClientRect();
    const act = KEYS[event.key] ?? (inside && ARROWS[event.key]);
    if (!act || event.target.matches("input, select, textarea") || !(inside || (bottom > 0 && top < innerHeight))) return;
    event.preventDefault();
    act();
  });

  addOptions("set", [["", "all"], ...data.sets.map((name, place) => [place, name])]);
  addOptions("sort", Object.keys(ORDERS).map((name) => [name, name]));
  addOptions("prefix", data.prefix.map((one) => [one.key, one.name]));
  addOptions("rest", [["before", "NLL"], ...(hasAfter ? [["after", "NLL after unlearning"]] : [])]);
  for (const name of ["set", "from", "to", "sort", "search"]) part(name).addEventListener("input", filter);
  for (const name of ["prefix", "rest"]) part(name).addEventListener("input", show);
  for (const name of ["mouseover", "focusin"]) tokens.addEventListener(name, ({ target }) => target.notes && showTip(target));
  for (const name of ["mouseleave", "focusout"]) tokens.addEventListener(name, () => { tip.hidden = true; });
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
  filter();
})();
