// What htmx cannot do by attributes: a slider that grows with the run and stays at its end if it stood there.
"use strict";
const byId = (id) => document.getElementById(id);

function follow(live) {
  const slider = document.querySelector(`input[data-live="${live.id}"]`);
  const last = Number(live.dataset.moments) - 1;
  if (!slider || last <= Number(slider.max)) return;
  const isAtEnd = slider.value === slider.max;
  slider.max = last;
  if (isAtEnd) {
    slider.value = last;
    slider.dispatchEvent(new Event("newest"));
  }
}

function tell(status) {
  const said = byId(status.dataset.of).dataset.said;
  if (status.textContent !== said) status.textContent = said;
}

function say(gallery) {
  const told = gallery.querySelector("[data-told]");
  if (told) byId(gallery.dataset.slider).setAttribute("aria-valuetext", told.dataset.told);
}

document.body.addEventListener("htmx:afterSettle", () => {
  document.querySelectorAll(".live").forEach(follow);
  document.querySelectorAll("[data-slider]").forEach(say);
  document.querySelectorAll("[data-of]").forEach(tell);
});
document.querySelectorAll("[data-slider]").forEach(say);
document.body.addEventListener("htmx:sendError", () => { byId("lost").hidden = false; });
document.body.addEventListener("htmx:afterOnLoad", () => { byId("lost").hidden = true; });
