"use strict";
// The desk for captions: a picture, what is said of it, what becomes of that; the next one by a key.

(() => {
  const source = document.getElementById("content");
  if (!source) return;
  const content = JSON.parse(source.textContent);
  const $ = (id) => document.getElementById(id);
  const base = `/styles/${$("desk").dataset.style}`;
  let cards = content.cards, chips = content.chips, filter = null, place = 0, asking = 0;

  const of = (card, what) => `${base}/${what}?name=${encodeURIComponent(card.name)}&v=${card.id}`;
  const card = () => cards[place];
  const small = (one) => Math.max(one.width, one.height) <= 128;
  const shown = () => cards.map((one, index) => [one, index]).filter(([one]) => !filter || has(one, filter));

  function has(one, chip) {
    const raw = one.raw.toLowerCase();
    if (chip.tag) return raw.split(",").map((part) => part.trim().replace(/\.$/, "").trim()).includes(chip.text);
    return raw.split(/[^\p{L}\p{N}'_-]+/u).includes(chip.text);
  }

  function list() {
    $("list").replaceChildren(...shown().map(([one, index]) => {
      const item = document.createElement("li"), button = document.createElement("button"), image = document.createElement("img");
      image.src = of(one, "thumbnail");
      image.alt = one.name;
      image.loading = "lazy";
      if (small(one)) image.className = "pixelated";
      button.type = "button";
      button.title = one.name;
      button.dataset.index = index;
      button.className = one.raw ? "done" : "";
      button.append(image);
      button.onclick = () => go(index);
      item.append(button);
      return item;
    }));
    mark();
  }

  function mark() {
    const done = cards.filter((one) => one.raw).length;
    $("count").innerHTML = `<b>${done} of ${cards.length}</b> captioned`;
    document.querySelectorAll("#list button").forEach((button) => {
      const index = Number(button.dataset.index);
      button.className = cards[index].raw ? "done" : "";
      if (index === place) {
        button.setAttribute("aria-current", "true");
        button.scrollIntoView({ block: "nearest", inline: "nearest" });
      } else button.removeAttribute("aria-current");
    });
  }

  function chipRow() {
    $("chips").replaceChildren(...chips.map(([text, count, tag]) => {
      const span = document.createElement("span"), button = document.createElement("button");
      button.type = "button";
      button.textContent = text;
      const number = document.createElement("b");
      number.textContent = count;
      button.append(number);
      const on = filter && filter.text === text && filter.tag === tag;
      button.setAttribute("aria-pressed", on ? "true" : "false");
      button.onclick = () => { filter = on ? null : { text, tag }; list(); chipRow(); };
      span.append(button);
      if (tag) {
        const out = document.createElement("button");
        out.type = "button";
        out.textContent = "✕";
        out.setAttribute("aria-label", `Take ${text} out of all captions`);
        out.onclick = () => all({ do: "remove_tag", tag: text }, `Took “${text}” out of`);
        span.append(out);
      }
      return span;
    }));
    $("chips-help").hidden = !chips.length;
  }

  function outlook(said) {
    $("pieces").replaceChildren(...said.pieces.flatMap((piece) => {
      const span = document.createElement("span");
      span.className = `piece ${piece.fate}`;
      span.textContent = piece.text;
      return [span, " "];
    }));
    $("final").textContent = said.nothing_left ? "nothing is left: say what is in the picture" : said.final || "—";
    $("final").classList.toggle("bad", said.nothing_left);
  }

  function show() {
    const one = card();
    $("picture").src = of(one, "view");
    $("picture").alt = one.name;
    $("picture").className = small(one) ? "pixelated" : "";
    $("about").textContent = `${one.name} · ${one.width} × ${one.height}${one.split === "held out" ? " · held out of training" : ""}`;
    $("caption").value = one.raw;
    $("conflict").hidden = true;
    $("suggestion").hidden = !(one.suggested && !one.raw);
    document.querySelector(".suggested").textContent = one.suggested;
    $("came").textContent = one.came ? `${one.came} (${one.came_from})` : "";
    $("came").hidden = $("came-title").hidden = !one.came || one.came === one.raw;
    outlook(one.outlook);
    mark();
    history.replaceState(null, "", `#${one.id}`);
    const next = shown().find(([, index]) => index > place);
    if (next) new Image().src = of(next[0], "view");
  }

  const dirty = () => cards.length && $("caption").value.trim() !== card().raw;

  function merge(said) {
    for (const one of said.cards) {
      const index = cards.findIndex((other) => other.id === one.id);
      if (index >= 0) cards[index] = one;
    }
    chips = said.chips;
    chipRow();
  }

  // Saves what was written of the picture at hand; false where it could not be.
  async function save() {
    if (!dirty()) return true;
    const one = card(), caption = $("caption").value;
    try {
      $("saved").textContent = "saving …";
      merge(await studio.send(`${base}/captions`, { changes: JSON.stringify([{ id: one.id, was: one.raw, caption }]) }));
      $("saved").textContent = "saved";
      return true;
    } catch (error) {
      $("saved").textContent = "";
      if (error.status === 409) conflict(one, error.current);
      else {
        $("conflict").textContent = error.message || "The studio does not answer: is it still running?";
        $("conflict").hidden = false;
      }
      return false;
    }
  }

  function conflict(one, current) {
    const box = $("conflict"), mine = document.createElement("button"), theirs = document.createElement("button");
    box.replaceChildren("This caption was changed elsewhere meanwhile. It says now: ");
    const said = document.createElement("p");
    said.textContent = current || "(nothing)";
    mine.textContent = "Keep mine";
    mine.onclick = async () => { one.raw = current; if (await save()) { box.hidden = true; mark(); } };
    theirs.textContent = "Take theirs";
    theirs.onclick = () => { one.raw = current; show(); look(); };
    box.append(said, mine, " ", theirs);
    box.hidden = false;
  }

  async function go(index) {
    if (index < 0 || index >= cards.length || !(await save())) return;
    place = index;
    $("saved").textContent = "";
    show();
    $("caption").focus({ preventScroll: true });
  }

  function step(by) {
    const places = shown().map(([, index]) => index);
    const next = by > 0 ? places.find((index) => index > place) : places.reverse().find((index) => index < place);
    if (next !== undefined) return go(next);
    return save().then((done) => { if (done) { show(); if (by > 0) studio.toast("That was the last one"); } });
  }

  function without() {
    const order = cards.map((_, index) => (place + 1 + index) % cards.length);
    const next = order.find((index) => !cards[index].raw && index !== place);
    if (next !== undefined) return go(next);
    return save().then(() => { show(); studio.toast("Every other picture has a caption"); });
  }

  let waiting = 0;
  async function look() {
    const mine = ++asking;
    try {
      const said = await studio.send(`${base}/captions/outlook`, { caption: $("caption").value });
      if (mine === asking) outlook(said);
    } catch (error) { /* shown when it is saved */ }
  }
  $("caption").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(look, 180); });
  $("caption").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); step(1); }
  });
  $("save").onclick = () => step(1);
  $("next").onclick = () => step(1);
  $("previous").onclick = () => step(-1);
  $("empty-next").onclick = without;
  $("accept").onclick = () => { $("caption").value = card().suggested; step(1); };
  document.addEventListener("keydown", (event) => {
    if (!event.altKey || event.ctrlKey || event.metaKey) return;
    const keys = { ArrowDown: () => step(1), ArrowUp: () => step(-1), n: without, s: () => { if (!$("suggestion").hidden) $("accept").click(); } };
    if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
  });
  window.addEventListener("beforeunload", (event) => { if (dirty()) event.preventDefault(); });
  document.addEventListener("visibilitychange", () => { if (document.hidden) save(); });

  async function all(asked, words) {
    if (!(await save())) return;
    try {
      const said = await studio.send(`${base}/captions/change`, asked);
      merge(said);
      show();
      list();
      if (!said.undo.length) studio.toast("No caption has that");
      else studio.toast(`${words} ${said.undo.length} captions`, "Undo", async () => {
        merge(await studio.send(`${base}/captions`, { changes: JSON.stringify(said.undo) }));
        show();
        list();
      });
    } catch (error) { studio.toast(error.message); }
  }
  const replace = $("replace");
  const asked = () => ({ do: "replace", find: replace.elements.find.value, by: replace.elements.by.value, whole_words: String(replace.elements.whole_words.checked) });
  replace.addEventListener("input", async () => {
    if (!asked().find.trim()) { $("hits").textContent = ""; return; }
    try { $("hits").textContent = `in ${(await studio.send(`${base}/captions/change`, { ...asked(), try: "true" })).count} captions`; } catch (error) { $("hits").textContent = error.message; }
  });
  replace.addEventListener("submit", (event) => { event.preventDefault(); all(asked(), "Replaced in"); });
  $("add-tag").addEventListener("submit", (event) => {
    event.preventDefault();
    all({ do: "add_tag", tag: event.target.elements.tag.value }, "Added to");
  });

  const wanted = cards.findIndex((one) => `#${one.id}` === location.hash);
  const first = cards.findIndex((one) => !one.raw);
  place = wanted >= 0 ? wanted : Math.max(first, 0);
  list();
  chipRow();
  show();
  $("caption").focus({ preventScroll: true });
})();
