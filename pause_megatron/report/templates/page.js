// Shows the hint above each table that is wider than its box, and unfolds all parts for printing.
// Without scripts, the shadow at the edge of a table still shows that it scrolls.
const widths = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const box = target.closest(".scroll"), hint = box.previousElementSibling;
    hint.hidden = box.scrollWidth <= box.clientWidth;
    if (hint.hidden) box.removeAttribute("aria-describedby");
    else box.setAttribute("aria-describedby", hint.id);
  }
});
for (const box of document.querySelectorAll(".scroll")) {
  widths.observe(box);
  widths.observe(box.querySelector("table"));
}
let unfolded = [];
addEventListener("beforeprint", () => {
  unfolded = [...document.querySelectorAll("details:not([open])")];
  for (const part of unfolded) part.open = true;
});
addEventListener("afterprint", () => {
  for (const part of unfolded) part.open = false;
});
