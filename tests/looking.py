"What the tests of the galleries share: odd names and boxes, a widget's controls, and a page looked at in a browser"
import re
import time

import ipywidgets as W

LONG = ["Great Crested Flycatcher of the Northern Woods", "Salt & <Pepper>", 'the "quoted" one', "Käuzchen", "n02123045_tabby_cat_with_underscores_and_no_space", "鸟"]
EDGES = [(0, 0, 8, 8), (88, 88, 96, 96), (0, 80, 16, 96), (40, 40, 41, 41), (0, 0, 96, 96), (30, 10, 60, 90)]


def controls(gallery):
    "What a gallery can be set by, those that stay together one by one; `settings` says to what"
    return [c for row in gallery.children[0].children for c in getattr(row, "children", (row,))]


def settings(control):
    "The values that a control can take"
    if isinstance(control, W.ToggleButton): return [True, False]
    if isinstance(control, W.IntSlider): return list(range(control.min, control.max + 1, control.step))
    return [o[1] if isinstance(o, tuple) else o for o in (control.options.items() if isinstance(control.options, dict) else control.options)]


def living(): return len(W.widget._instances)


def best(f, times=3):
    "The shortest of several runs in seconds, for a machine that has other things to do"
    spent = []
    for _ in range(times):
        start = time.perf_counter()
        f()
        spent.append(time.perf_counter() - start)
    return min(spent)


def light(colour): return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3


STATE = """() => ({wide: document.documentElement.scrollWidth, images: [...document.images].map(i => [i.alt, i.complete && i.naturalWidth]),
  ink: getComputedStyle(document.querySelector('.pl h3, .pl p, .pl div')).color, paper: getComputedStyle(document.body).backgroundColor, small: [...document.querySelectorAll('.pl *')]
  .filter(e => e.children.length == 0 && e.textContent.trim() && parseFloat(getComputedStyle(e).fontSize) < 12).map(e => e.outerHTML.slice(0, 80))})"""


def look_at(tab, path, width, scheme):
    "Open a page: nothing too wide, too small, unseen or unreadable, nothing fetched; gives the number of its pictures"
    tab.unroute_all()
    tab.on("request", lambda r: r.url.startswith(("file:", "data:")) or tab.outside.append(r.url))
    tab.set_viewport_size({"width": width, "height": 900})
    tab.emulate_media(color_scheme=scheme)
    tab.goto(path.as_uri())
    state = tab.evaluate(STATE)
    assert state["wide"] <= width and not state["small"]
    assert all(alt and decoded for alt, decoded in state["images"])
    assert abs(light(state["ink"]) - light(state["paper"])) > 150 and (light(state["paper"]) > 128) == (scheme == "light")
    assert not tab.outside and not tab.complaints
    return len(state["images"])
