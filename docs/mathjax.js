// The widget manager speaks MathJax 2. MathJax 3 replaces window.MathJax when it begins, so whichever object stands there is given the one word that the
// manager says, `Hub.Queue(["Typeset", ..., element])`: the element is typeset as soon as MathJax is up, be it before or after the manager asks.
(() => {
  let up;
  const ready = new Promise(resolve => { up = resolve; });
  const Hub = {Queue: ([, , element]) => ready.then(() => held.typesetPromise([element]))};
  let held = {
    options: {processHtmlClass: "tex2jax_process|mathjax_process|math|output_area"},
    startup: {ready() { held.startup.defaultReady(); held.startup.promise.then(up); }},
    Hub,
  };
  Object.defineProperty(window, "MathJax", {configurable: true, get: () => held, set(value) { held = value; held.Hub = Hub; }});
})();
