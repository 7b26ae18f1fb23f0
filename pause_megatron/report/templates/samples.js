// Filters the samples by task and kind. Without scripts, the page shows all samples and hides this form.
const form = document.querySelector(".filter");
const questions = [...document.querySelectorAll(".question")];
function choose() {
  const { task, kind } = Object.fromEntries(new FormData(form));
  let shown = 0;
  for (const question of questions) {
    const kinds = question.dataset.kinds.split(" ");
    question.hidden = (task && question.dataset.task !== task) || (kind && !kinds.includes(kind));
    shown += !question.hidden;
  }
  form.querySelector("output").textContent = `${shown} of ${questions.length}`;
}
form.addEventListener("change", choose);
form.hidden = false;
choose();
