// Everything is built once; each answer of Python then only changes texts, colours and states.
// Texts of the corpus reach the page through textContent alone.

const HOTTEST = 6; // nats at which the colour is full

function make(tag, name, parent, text) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  if (tag === "button") made.type = "button";
  if (parent) parent.append(made);
  return made;
}

const SIGNS = { "\n": "↵", "\r": "␍", "\t": "⇥" };

// White space that would not be seen, and characters that would turn the text around, get a sign.
function shown(text) {
  return text === "" ? "∅" : text.replace(/[\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]/g, (c) => SIGNS[c] ?? "␣");
}

const quoted = (text) => `“${shown(text)}”`;
const nats = (value) => (value === null || value === undefined ? "–" : value.toFixed(3));

function signed(value, digits = 3) {
  if (value === null) return "–";
  return (value < 0 ? "−" : value > 0 ? "+" : "") + Math.abs(value).toFixed(digits);
}

const fill = (cells, values) => cells.forEach((cell, at) => (cell.textContent = values[at]));

// One tab stop for many items; arrows move among them.
function roving(items, columns, onFocus) {
  items.forEach((item, at) => {
    item.tabIndex = at === 0 ? 0 : -1;
    item.addEventListener("focus", () => {
      items.forEach((other) => (other.tabIndex = other === item ? 0 : -1));
      onFocus?.(at);
    });
    item.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -at, End: items.length - 1 - at };
      const to = at + steps[event.key];
      if (!(event.key in steps) || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      items[to]?.focus();
    });
  });
}

function render({ model, el }) {
  const setup = model.get("setup");
  const root = make("section", "memhooks-explore", el);
  root.setAttribute("aria-label", `Explore paragraph ${setup.id}`);
  root.dataset.lmSuppressShortcuts = "true"; // or JupyterLab would take the arrow keys
  const view = () => model.get("view");
  let idle = 0;
  let waiting = 0; // messages without an answer; each is answered by one view
  let open = null; // the position whose token is being replaced

  function send(message) {
    clearTimeout(idle);
    waiting += 1;
    root.setAttribute("aria-busy", "true");
    model.send(message);
  }

  // Numbers
  const head = make("header", "", root);
  make("h3", "", head, `Paragraph ${setup.id}`);
  const reset = make("button", "reset", head, "Reset all");
  reset.addEventListener("click", () => send({ do: "reset" }));
  const table = make("table", "numbers", root);
  const [em, nll] = numbers(table, view().now.tokens.length - setup.n_prefix);
  const control = make("p", "control", root);
  const error = make("p", "error", root);
  error.setAttribute("role", "alert");

  // Prefix, and the small form that replaces one of its tokens
  const columns = make("div", "columns", root);
  const texts = make("div", "texts", columns);
  make("h4", "", texts, "Prefix: pick a token to replace it");
  const prefix = make("div", "tokens prefix", texts);
  const picks = view().now.tokens.slice(0, setup.n_prefix).map((_, at) => {
    const pick = make("button", "token", prefix);
    pick.addEventListener("click", () => (open === at ? close() : edit(at)));
    pick.addEventListener("mouseenter", () => tell(at));
    pick.addEventListener("keydown", (event) => {
      if (event.key !== "Delete" && event.key !== "Backspace") return;
      event.preventDefault();
      send({ do: "undo", position: at });
    });
    return pick;
  });
  roving(picks, 1, tell);
  const form = editor(texts);
  const detail = make("p", "detail", texts);
  const scale = make("p", "scale", texts);
  make("span", "", scale, "NLL 0");
  make("span", "bar", scale);
  make("span", "", scale, `${HOTTEST} nats and more`);
  make("span", "token missed", scale, "underlined");
  make("span", "", scale, "the model would say another token");

  // The continuation, untouched and now
  const sides = make("div", "sides", texts);
  const strips = {};
  for (const [key, name] of [["untouched", "Untouched"], ["now", "Now"]]) {
    const side = make("div", key, sides);
    make("h4", "", side, `${name}: the true continuation`);
    const truth = strip(side, "truth");
    truth.forEach((span, at) => span.addEventListener("mouseenter", () => tell(setup.n_prefix + at)));
    roving(truth, 1, (at) => tell(setup.n_prefix + at));
    make("h4", "", side, `${name}: what the model itself says`);
    strips[key] = { truth, said: strip(side, "said") };
  }

  // Heads
  const heads = make("div", "heads", columns);
  make("h4", "", heads, "Heads: pick those to silence");
  const how = make("div", "how", heads);
  how.setAttribute("role", "group");
  how.setAttribute("aria-label", "how a head is silenced");
  const ways = [["zero", "to zero"], ["mean", "to its mean"]].map(([key, text]) => {
    const way = make("button", "", how, text);
    way.dataset.how = key;
    way.addEventListener("click", () => send({ do: "how", how: key }));
    return way;
  });
  if (!setup.n_control) {
    ways[1].disabled = true;
    ways[1].title = "the mean is taken over the control: explore(model, paragraph, control=...)";
  }
  const cells = grid(heads);

  // What was tried, and how to do it without the widget
  make("h4", "", root, "Tried so far: pick one to go back to it");
  const tried = make("div", "tried", root);
  const python = make("details", "python", root);
  make("summary", "", python, "Python for this state");
  const copy = make("button", "copy", python, "Copy");
  const code = make("pre", "", python);
  copy.addEventListener("click", () => copyText(code, copy));

  function numbers(parent, n) {
    const top = make("tr", "", make("thead", "", parent));
    for (const text of ["", "untouched", "now", "change"]) make("th", "", top, text);
    const body = make("tbody", "", parent);
    body.setAttribute("aria-live", "polite");
    return [`EM, tokens recited of ${n}`, "NLL, nats per token"].map((text, row) => {
      const line = make("tr", row ? "nll" : "em", body);
      make("th", "", line, text);
      return ["untouched", "now", "change"].map((name) => make("td", name, line));
    });
  }

  function strip(parent, name) {
    const box = make("div", `tokens ${name}`, parent);
    return view().untouched.said.map(() => make("span", "token", box));
  }

  function grid(parent) {
    const made = make("div", "grid", parent);
    made.style.setProperty("--heads", setup.n_heads);
    const found = setup.layers.flatMap((kind, layer) => {
      const whole = make("button", "layer", made, `L${layer}`);
      whole.title = `all heads of layer ${layer} (${kind} attention)`;
      whole.setAttribute("aria-label", `all heads of layer ${layer}`);
      whole.addEventListener("click", () => send({ do: "layer", layer }));
      return [whole, ...Array.from({ length: setup.n_heads }, (_, number) => {
        const cell = make("button", "head", made, String(number));
        cell.setAttribute("aria-label", `L${layer}H${number}`);
        cell.title = `L${layer}H${number} (${kind} attention)`;
        cell.addEventListener("click", () => send({ do: "toggle", heads: [[layer, number]] }));
        return cell;
      })];
    });
    roving(found, setup.n_heads + 1);
    return found;
  }

  function editor(parent) {
    const made = make("form", "editor", parent);
    made.hidden = true;
    const label = make("label", "", made);
    const name = make("span", "", label);
    const input = make("input", "", label);
    input.setAttribute("aria-label", "the new token");
    input.autocomplete = "off";
    input.spellcheck = false;
    input.placeholder = setup.has_text ? "text of one token" : "token id";
    make("button", "put", made, "Replace").type = "submit";
    const undo = make("button", "undo", made, "Undo");
    const shut = make("button", "shut", made, "Close");
    const offered = make("div", "offered", made);
    made.addEventListener("submit", (event) => {
      event.preventDefault();
      send({ do: "replace", position: open, token: input.value });
    });
    undo.addEventListener("click", () => send({ do: "undo", position: open }));
    shut.addEventListener("click", close);
    made.addEventListener("keydown", (event) => {
      if (event.key === "Escape") close();
      if (event.key !== "Enter" || event.target !== input) return;
      event.preventDefault(); // JupyterLab does so too, and then nothing would be sent
      made.requestSubmit();
    });
    return { made, name, input, undo, offered };
  }

  function edit(at) {
    open = at;
    form.made.hidden = false;
    form.input.value = "";
    form.offered.replaceChildren();
    form.input.focus();
    send({ do: "suggest", position: at });
    paintEditor();
  }

  function close() {
    const at = open;
    open = null;
    form.made.hidden = true;
    paintEditor();
    if (at !== null) picks[at].focus();
  }

  function paintEditor() {
    const { now, untouched, replaced } = view();
    picks.forEach((pick, at) => pick.setAttribute("aria-expanded", String(at === open)));
    if (open === null) return;
    form.undo.disabled = !replaced.includes(open);
    const was = replaced.includes(open) ? `, was ${quoted(untouched.tokens[open].text)}` : "";
    form.name.textContent = `Token ${open} ${quoted(now.tokens[open].text)}${was} → `;
  }

  function offer() {
    const { position, tokens } = model.get("suggestions");
    if (position !== open) return;
    const focused = [...form.offered.children].indexOf(document.activeElement);
    form.offered.replaceChildren();
    for (const [likely, title] of [[true, "the model's own"], [false, "random"]]) {
      const some = tokens.filter((one) => (one.share !== null) === likely);
      if (some.length) make("span", "kind", form.offered, title);
      for (const { token, text, share } of some) {
        const chip = make("button", "chip", form.offered);
        make("span", "token", chip, shown(text));
        if (likely) make("small", "", chip, share < 0.01 ? "<1 %" : `${Math.round(100 * share)} %`);
        chip.addEventListener("click", () => send({ do: "replace", position: open, token }));
      }
    }
    form.offered.children[focused]?.focus();
  }

  function answered() {
    waiting = Math.max(0, waiting - 1); // another view of this widget may have asked
    update();
  }

  function tell(at) {
    const { now, untouched } = view();
    const said = now.predicted[at] === null ? "" : `; the model's own choice: ${quoted(now.predicted[at])}`;
    detail.textContent =
      `Token ${at} ${quoted(now.tokens[at].text)}: NLL ${nats(now.nll[at])}, untouched ${nats(untouched.nll[at])}${said}`;
  }

  function paint(span, { text }, loss, missed) {
    span.textContent = shown(text);
    span.style.setProperty("--heat", loss === null ? 0 : Math.min(1, loss / HOTTEST).toFixed(3));
    span.classList.toggle("missed", missed);
  }

  function paintSide({ truth, said }, found) {
    truth.forEach((span, at) => {
      const token = found.tokens[setup.n_prefix + at];
      paint(span, token, found.nll[setup.n_prefix + at], found.predicted[setup.n_prefix + at] !== token.text);
    });
    said.forEach((span, at) => {
      const text = found.said?.[at];
      span.textContent = text === undefined ? "…" : shown(text);
      span.classList.toggle("missed", text !== undefined && text !== found.tokens[setup.n_prefix + at].text);
    });
  }

  function paintControl({ control: found, now, untouched, replaced, heads: silent }) {
    const own = signed(now.mean_nll === null ? null : now.mean_nll - untouched.mean_nll);
    const n = setup.n_control;
    if (!n) control.textContent = "No control: give other paragraphs, explore(model, paragraph, control=...), before you believe a change.";
    else if (!replaced.length && !silent.length) control.textContent = `Control: whatever you change is done to ${n} other paragraphs too.`;
    else if (!found) control.textContent = `Control: measuring ${n} other paragraphs …`;
    else
      control.textContent =
        `Control: the same in ${n} other paragraphs changes NLL by ${signed(found.mean)} on average ` +
        `(${signed(found.least)} to ${signed(found.most)}). Here it is ${own}: more than in ${found.n_below} of ${n}.`;
  }

  function update() {
    const seen = view();
    const { now, untouched } = seen;
    if (!waiting) root.removeAttribute("aria-busy");
    error.textContent = seen.error;
    const rise = now.mean_nll === null ? null : now.mean_nll - untouched.mean_nll;
    const lost = now.exact_match - untouched.exact_match;
    fill(em, [untouched.exact_match, now.exact_match, signed(lost, 0)]);
    fill(nll, [nats(untouched.mean_nll), nats(now.mean_nll), signed(rise)]);
    picks.forEach((pick, at) => {
      paint(pick, now.tokens[at], now.nll[at], false);
      pick.classList.toggle("replaced", seen.replaced.includes(at));
      pick.setAttribute("aria-label", `token ${at}: ${shown(now.tokens[at].text)}${seen.replaced.includes(at) ? ", replaced" : ""}`);
    });
    paintSide(strips.untouched, untouched);
    paintSide(strips.now, now);
    paintControl(seen);
    const silent = new Set(seen.heads.map(([layer, number]) => layer * (setup.n_heads + 1) + number + 1));
    cells.forEach((cell, at) => {
      const layer = at - (at % (setup.n_heads + 1));
      const all = Array.from({ length: setup.n_heads }, (_, number) => layer + number + 1).every((one) => silent.has(one));
      cell.setAttribute("aria-pressed", String(at === layer ? all : silent.has(at)));
    });
    ways.forEach((way) => way.setAttribute("aria-pressed", String(way.dataset.how === seen.how)));
    paintTried(seen);
    code.textContent = seen.snippet;
    paintEditor();
    later();
  }

  function paintTried({ tried: states, at }) {
    while (tried.children.length > states.length) tried.lastChild.remove();
    states.forEach(({ what, exact_match, mean_nll }, row) => {
      let chip = tried.children[row];
      if (!chip) {
        chip = make("button", "chip", tried);
        chip.addEventListener("click", () => send({ do: "back", row }));
      }
      chip.textContent = `${shown(what)}: EM ${exact_match}, NLL ${nats(mean_nll)}`;
      chip.setAttribute("aria-pressed", String(row === at));
    });
  }

  // EM and NLL come at once; the free continuation and the control take longer and wait until nothing else is asked.
  function later() {
    clearTimeout(idle);
    if (!waiting && view().now.said === null && !view().stuck) idle = setTimeout(ask, 80);
  }

  function ask() {
    send({ do: "rest" });
    if (open !== null) send({ do: "suggest", position: open });
  }

  model.on("change:view", answered);
  model.on("change:suggestions", offer);
  update();
  return () => {
    clearTimeout(idle);
    model.off("change:view", answered);
    model.off("change:suggestions", offer);
  };
}

async function copyText(code, button) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(code); // no clipboard here: selected, ready to be copied by hand
    button.textContent = "Selected: press Ctrl+C";
  }
  setTimeout(() => (button.textContent = "Copy"), 2000);
}

export default { render };
