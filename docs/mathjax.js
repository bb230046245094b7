// The widget manager speaks MathJax 2: what it wants typeset is handed to MathJax 3, or, before that is up, left to its first pass over the page
window.MathJax = {
  options: {processHtmlClass: "tex2jax_process|mathjax_process|math|output_area"},
  startup: {ready() {
    MathJax.startup.defaultReady();
    MathJax.Hub = {Queue: ([, , element]) => MathJax.startup.promise.then(() => MathJax.typesetPromise([element]))};
  }},
  Hub: {Queue() {}},
};
