"use strict";
// Everything can be read, searched and tried without this file; it makes it quicker.

function search() {
  const box = document.getElementById("q");
  if (!box) return;
  const modules = [...document.querySelectorAll(".module")];
  box.addEventListener("input", () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const module of modules) {
      const hit = words.every((word) => module.dataset.text.includes(word));
      module.hidden = !hit;
      shown += hit ? 1 : 0;
    }
    document.getElementById("count").textContent = `${shown} of ${modules.length} modules`;
  });
}

function copyButtons() {
  for (const pre of document.querySelectorAll(".card pre")) {
    const frame = document.createElement("div");
    frame.className = "snippet";
    pre.replaceWith(frame);
    pre.tabIndex = 0; // so that a wide snippet scrolls by keyboard
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(pre.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(pre);
        button.textContent = "Press Ctrl+C";
      }
      setTimeout(() => (button.textContent = "Copy"), 2000);
    });
    frame.append(pre, button);
  }
}

function tryIt() {
  const form = document.getElementById("try-form");
  if (!form) return;
  const section = document.getElementById("try");
  const picker = document.getElementById("image");
  const preview = document.getElementById("preview");
  const answer = document.getElementById("answer");

  function fail(text) {
    const line = document.createElement("p");
    line.className = "error";
    line.textContent = text;
    answer.replaceChildren(line);
  }

  function show(classes) {
    const list = document.createElement("ol");
    list.className = "bars";
    for (const row of classes) {
      const item = document.createElement("li");
      const label = document.createElement("span");
      label.className = "label";
      label.textContent = row.label;
      const bar = document.createElement("meter");
      bar.max = 1;
      bar.value = row.probability;
      const percent = document.createElement("span");
      percent.className = "percent";
      percent.textContent = `${(100 * row.probability).toFixed(1)} %`;
      item.append(label, bar, percent);
      list.append(item);
    }
    answer.replaceChildren(list);
  }

  let latest = 0;
  async function classify(file) {
    if (!file) return;
    const turn = ++latest;
    if (preview.src) URL.revokeObjectURL(preview.src);
    preview.src = URL.createObjectURL(file);
    preview.hidden = false;
    if (file.size > Number(form.dataset.limit)) {
      fail(`This file has ${(file.size / 1e6).toFixed(1)} MB; the limit is ${form.dataset.limit / 1e6} MB.`);
      return;
    }
    answer.textContent = "Classifying …";
    try {
      const response = await fetch(form.action, {
        method: "POST", body: file, headers: { Accept: "application/json" },
      });
      const result = await response.json();
      if (turn !== latest) return; // a later image overtook this one
      if (response.ok) show(result.classes);
      else fail(result.error);
    } catch {
      if (turn === latest) fail("The server does not answer. Try again.");
    }
  }

  preview.addEventListener("error", () => (preview.hidden = true));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    classify(picker.files[0]);
  });
  picker.addEventListener("change", () => classify(picker.files[0]));
  for (const name of ["dragover", "dragleave", "drop"]) {
    section.addEventListener(name, (event) => {
      event.preventDefault();
      section.classList.toggle("over", name === "dragover");
      if (name === "drop") classify(event.dataTransfer.files[0]);
    });
  }
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((item) => item.type.startsWith("image/"));
    if (file) classify(file);
  });
}

search();
copyButtons();
tryIt();
