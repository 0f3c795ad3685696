"use strict";
(() => {
  const box = document.getElementById("search");
  if (!box) return;
  const said = document.getElementById("matches");
  const rows = [...document.querySelectorAll("#tensors tbody tr")];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const filter = () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, i) => {
      row.hidden = !words.every((word) => texts[i].includes(word));
      shown += row.hidden ? 0 : 1;
    });
    said.textContent = words.length ? `${shown} of ${rows.length} rows` : `${rows.length} rows`;
  };
  box.addEventListener("input", filter);
  for (const button of document.querySelectorAll("[data-find]")) {
    button.disabled = false;
    button.addEventListener("click", () => {
      box.value = button.dataset.find;
      filter();
      box.focus();
      box.scrollIntoView({ block: "start" });
    });
  }
  document.getElementById("finder").hidden = false;
  filter();
})();
