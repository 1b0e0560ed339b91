// Renders every formula of the page with KaTeX and the macros of docs/notation.json.
document.addEventListener("DOMContentLoaded", () => {
  for (const element of document.querySelectorAll(".math")) {
    katex.render(element.textContent, element, {
      displayMode: element.classList.contains("block"),
      macros: { ...window.macros },
      throwOnError: false,
    });
  }
});
