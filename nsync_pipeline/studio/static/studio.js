"use strict";
// What all pages share: parts that refresh themselves, files dropped, pictures enlarged, keys.

const studio = {
  async send(url, content) {
    const answer = await fetch(url, {
      method: "POST", headers: { "Content-Type": "application/json", Accept: "application/json" },
      body: JSON.stringify(content),
    });
    let said = {};
    try { said = await answer.json(); } catch (error) { said = { error: "The studio does not answer as it should." }; }
    if (!answer.ok) throw Object.assign(new Error(said.error || "That did not work."), said, { status: answer.status });
    return said;
  },
  toast(text, label, action) {
    const toast = document.getElementById("toast");
    toast.textContent = text;
    if (label) {
      const button = document.createElement("button");
      button.textContent = label;
      button.onclick = () => { toast.textContent = ""; action(); };
      toast.append(button);
    }
    clearTimeout(studio.hiding);
    studio.hiding = setTimeout(() => { toast.textContent = ""; }, label ? 12000 : 4000);
  },
  typing(event) { return /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) || event.target.isContentEditable; },
};
window.studio = studio;

// A part of the page that is fetched anew every so often; nothing is changed while it is the same.
async function refresh(part) {
  try {
    const answer = await fetch(part.dataset.refresh);
    if (!answer.ok) return;
    const text = await answer.text();
    if (text === part.shown) return;
    const first = part.shown === undefined && part.dataset.every;
    part.shown = text;
    if (first && part.innerHTML.trim() === text.trim()) return;
    const open = [...part.querySelectorAll("details")].map((one) => one.open);
    const scrolled = [...part.querySelectorAll(".strip")].map((one) => one.scrollLeft);
    const next = document.createElement("template");
    next.innerHTML = text;
    const inner = next.content.firstElementChild;
    if (inner && inner.id && inner.id === part.id) { part.replaceWith(inner); begin(inner.parentElement); return; }
    part.innerHTML = text;
    part.querySelectorAll("details").forEach((one, index) => { if (index < open.length) one.open = open[index]; });
    part.querySelectorAll(".strip").forEach((one, index) => { one.scrollLeft = scrolled[index] || 0; });
    begin(part);
  } catch (error) { /* the studio is away for a moment */ }
}

function begin(root) {
  root.querySelectorAll("[data-refresh]").forEach((part) => {
    if (part.begun) return;
    part.begun = true;
    const timer = setInterval(() => {
      if (!part.isConnected) clearInterval(timer);
      else if (!document.hidden) refresh(part);
    }, Number(part.dataset.every));
  });
  root.querySelectorAll("[data-load]").forEach((part) => {
    fetch(part.dataset.load).then((answer) => answer.text()).then((text) => { part.innerHTML = text; });
    part.removeAttribute("data-load");
  });
  root.querySelectorAll("[data-reload]").forEach((part) => { setTimeout(() => location.reload(), Number(part.dataset.reload)); });
  root.querySelectorAll("img[data-fallback]").forEach((image) => {
    const broken = () => image.parentElement.classList.add("broken");
    if (image.complete && image.naturalWidth === 0 && image.src) image.loading !== "lazy" && broken();
    image.addEventListener("error", broken);
  });
}

// Files: dropped or chosen, then sent one by one, and the form with the name of their batch.
async function entriesOf(transfer) {
  const found = [];
  async function walk(entry, above) {
    if (entry.isFile) {
      const file = await new Promise((done, failed) => entry.file(done, failed));
      found.push([above + entry.name, file]);
    } else {
      const reader = entry.createReader();
      for (;;) {
        const some = await new Promise((done, failed) => reader.readEntries(done, failed));
        if (!some.length) break;
        for (const one of some) await walk(one, above + entry.name + "/");
      }
    }
  }
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry && item.webkitGetAsEntry()).filter(Boolean);
  for (const entry of entries) await walk(entry, "");
  return found;
}

function dropForm(form) {
  const zone = form.querySelector(".zone"), said = form.querySelector(".dropped"), progress = form.querySelector(".progress");
  let files = [];
  function take(found) {
    files = found.filter(([name]) => !name.split("/").some((part) => part.startsWith(".")));
    said.textContent = files.length ? `${files.length} files ready` : "";
    const name = form.elements.name;
    if (name && !name.value && files.length && files[0][0].includes("/")) {
      name.value = files[0][0].split("/")[0].toLowerCase().replace(/[^a-z0-9]+/g, "_").replace(/^_+|_+$/g, "").slice(0, 48);
    }
  }
  zone.addEventListener("dragover", (event) => { event.preventDefault(); zone.classList.add("over"); });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", async (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    take(await entriesOf(event.dataTransfer));
  });
  form.querySelectorAll("input[type=file]").forEach((input) => input.addEventListener("change", () => {
    take([...input.files].map((file) => [file.webkitRelativePath || file.name, file]));
  }));
  zone.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); form.querySelector("input[type=file]").click(); }
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button.main");
    button.disabled = true;
    let watching = 0;
    try {
      let batch = "";
      if (files.length) {
        batch = Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");
        let done = 0;
        for (const [name, file] of files) {
          const answer = await fetch(`/upload/${batch}/${name.split("/").map(encodeURIComponent).join("/")}`, { method: "PUT", body: file, headers: { Accept: "application/json" } });
          if (!answer.ok) throw new Error((await answer.json()).error);
          done += 1;
          progress.textContent = `${done} of ${files.length} files`;
        }
      }
      progress.textContent = "reading the pictures …";
      watching = setInterval(async () => {
        const state = await (await fetch("/adding")).json();
        if (state.total) progress.textContent = `looking at picture ${state.done} of ${state.total}`;
      }, 1000);
      const content = Object.fromEntries(new FormData(form));
      content.batch = batch;
      location.href = (await studio.send(form.action, content)).go;
    } catch (error) {
      progress.textContent = "";
      let mistake = form.querySelector(".mistake");
      if (!mistake) {
        mistake = document.createElement("p");
        mistake.className = "mistake pre";
        mistake.setAttribute("role", "alert");
        form.append(mistake);
      }
      mistake.textContent = error.message;
      button.disabled = false;
    } finally {
      clearInterval(watching);
    }
  });
}

document.querySelectorAll("form[data-drop]").forEach(dropForm);
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => event.preventDefault());

document.addEventListener("click", (event) => {
  const thumb = event.target.closest("[data-large]");
  if (thumb) {
    const dialog = document.getElementById("large");
    const image = dialog.querySelector("img");
    image.src = thumb.dataset.large;
    image.onload = () => image.classList.toggle("pixelated", image.naturalWidth <= 256);
    dialog.querySelector("p").textContent = thumb.dataset.words || "";
    dialog.showModal();
    return;
  }
  const dialog = event.target.closest("dialog");
  if (dialog && event.target === dialog) dialog.close();
  const copy = event.target.closest(".copy");
  if (copy) {
    navigator.clipboard.writeText(copy.textContent.trim());
    studio.toast("Copied");
  }
});

document.addEventListener("submit", (event) => {
  const busy = event.target.dataset.busy;
  const button = busy && event.target.querySelector("button");
  if (button) setTimeout(() => { button.disabled = true; button.textContent = busy; });
});

// A picture of a few pixels is shown with its pixels.
document.addEventListener("load", (event) => {
  const image = event.target;
  if (image.tagName === "IMG" && image.naturalWidth && image.naturalWidth <= 128) image.classList.add("pixelated");
}, true);

const here = document.querySelector(".tabs [aria-current]");
if (here) here.parentElement.scrollLeft = Math.max(0, here.offsetLeft - here.parentElement.offsetLeft - 60);

document.querySelectorAll("select[data-go]").forEach((select) => {
  select.addEventListener("change", () => { location.href = select.dataset.go.replace("{}", select.value); });
});

const search = document.getElementById("find-setting");
if (search) search.addEventListener("input", () => {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  document.querySelectorAll(".setting").forEach((row) => {
    row.hidden = !words.every((word) => row.dataset.words.toLowerCase().includes(word));
  });
  document.querySelectorAll("#settings fieldset").forEach((set) => { set.hidden = !set.querySelector(".setting:not([hidden])"); });
});

// 1 to 6 go to the tabs.
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.target.classList && event.target.classList.contains("copy")) event.target.click();
  if (studio.typing(event) || event.ctrlKey || event.metaKey || event.altKey) return;
  const tab = document.querySelector(`.tabs a[data-key="${CSS.escape(event.key)}"]`);
  if (tab) tab.click();
});

begin(document);
