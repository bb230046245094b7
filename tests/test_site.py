"Every built page: links and pictures by reading it, scripts, requests and widths by visiting it; and the proof that each check can fail"
import functools
import http.server
import json
import re
import threading
from contextlib import contextmanager
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest
from conftest import ROOT

SITE, SHOTS = ROOT/"_docs", ROOT/"_shots"
PAGES = sorted(p.name for p in SITE.glob("*.html"))
STATIC = SITE/"_static"
LARGEST = 3_000_000  # bytes a page
built = pytest.mark.skipif(not PAGES, reason="no site here: make docs builds it")
scripted = pytest.mark.skipif(not (STATIC/"tex-svg.js").exists(), reason="the site was built without MathJax: npm was missing")
alive = pytest.mark.skipif(not any("widget-state+json" in (SITE/name).read_text(encoding="utf-8") for name in PAGES),
                           reason="the site shows saved outputs: make docs runs the notebooks, so that its galleries are widgets")
each_page = pytest.mark.parametrize("name", PAGES)


# -- by reading ---------------------------------------------------------------------------------------------------------------

class Reader(HTMLParser):
    "Collects a page's anchors, links and pictures without words"
    def __init__(self, text):
        super().__init__()
        self.anchors, self.links, self.mute = {"", "top"}, [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.anchors |= {a[k] for k in ("id", "name") if a.get(k)}
        if tag == "a" and a.get("href"): self.links.append(a["href"])
        if tag == "img" and not (a.get("alt") or "").strip(): self.mute.append(a.get("src", "")[:60])
        if tag == "img" and re.search(r"_images/\w+\.\w+$", a.get("alt") or ""): self.mute.append(a["alt"])


@functools.cache
def read(path): return Reader(path.read_text(encoding="utf-8"))


def broken(page, href):
    "Is this internal link of a page broken?"
    url = urlsplit(href)
    if url.scheme or url.netloc: return False
    target = page.parent/unquote(url.path) if url.path else page
    if not target.exists(): return True
    return target.suffix == ".html" and unquote(url.fragment) not in read(target).anchors


def broken_links(page): return sorted({href for href in read(page).links if broken(page, href)})


@built
@each_page
def test_links_lead_somewhere(name): assert not broken_links(SITE/name)


@built
@each_page
def test_pictures_have_words(name): assert not read(SITE/name).mute


@built
@each_page
def test_size(name): assert (SITE/name).stat().st_size <= LARGEST


@built
def test_every_lesson_has_its_pages():
    "The lesson, its API and source, the file to download, a place on the map"
    numbered = {re.sub(r"^\d+_", "", p.stem): p for p in ROOT.glob("nbs/*.ipynb")}
    wanted = {f"{kind}{room}.html" for room in numbered for kind in ("", "api-", "source-")} | {"index.html", "map.html", "glossary.html", "benchmarks.html", "cite.html"}
    assert wanted <= set(PAGES)
    assert {f"door-{room}" for room in numbered} <= read(SITE/"map.html").anchors
    for room, path in numbered.items():
        links = read(SITE/f"{room}.html").links
        assert f"notebooks/{path.name}" in links and any(link.startswith("https://colab.research.google.com/") and link.endswith(f"/nbs/{path.name}") for link in links)
        assert (SITE/"notebooks"/path.name).read_bytes() == path.read_bytes()


@built
def test_every_public_name_has_its_entry():
    "With a way to its line of source and to its cell of the lesson"
    for path in ROOT.glob("protolab/[!_]*.py"):
        entries = read(SITE/f"api-{path.stem}.html")
        listed = re.search(r"^__all__ = \[(.*?)\]", path.read_text(encoding="utf-8"), re.S | re.M)[1]
        names = re.findall(r"'(\w+)'", listed)
        assert {name.lower() for name in names} <= entries.anchors
        assert {f"{path.stem}.html#def-{name}" for name in names} <= set(entries.links)
        assert sum(link.startswith(f"source-{path.stem}.html#L-") for link in entries.links) >= len(names)


def test_the_citation_is_of_this_version():
    "CITATION.cff says what settings.ini says"
    settings = dict(re.findall(r"^(\w+) = (.*)$", (ROOT/"settings.ini").read_text(encoding="utf-8"), re.M))
    cited = (ROOT/"CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {settings['version']}\n" in cited and f'url: "{settings["git_url"]}"' in cited


# -- by visiting --------------------------------------------------------------------------------------------------------------

class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_): pass


@contextmanager
def served(folder):
    "A folder, served on a free port of this machine"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try: yield f"http://127.0.0.1:{server.server_port}"
    finally: server.shutdown()


@pytest.fixture(scope="module")
def address():
    with served(SITE) as url: yield url


UNDRAWN = """() => [
  ...[...document.querySelectorAll('.math')].filter(m => !m.querySelector('mjx-container')).map(m => 'formula ' + m.textContent),
  ...[...document.images].filter(i => i.loading !== 'lazy' && !(i.complete && i.naturalWidth > 0)).map(i => 'picture ' + i.src.slice(0, 80)),
  ...[...document.querySelectorAll('script[type="application/vnd.jupyter.widget-view+json"]')].filter(s => !s.parentElement.querySelector('.jupyter-widgets')).map(s => 'widget'),
  ...[...document.querySelectorAll('.pl')].filter(v => v.offsetParent && v.offsetWidth < 200).map(v => 'gallery squeezed to ' + v.offsetWidth + ' px'),
  ...[...document.querySelectorAll('.cell_output .pl')].map(v => [v, v.getBoundingClientRect().right - v.closest('.cell_output').getBoundingClientRect().right])
    .filter(([v, over]) => v.offsetParent && over > 1).map(([v, over]) => 'gallery cut by ' + Math.round(over) + ' px'),
]"""
WIDE = "() => { const page = document.scrollingElement; return page.scrollWidth > innerWidth ? [page.scrollWidth + ' px wide on a screen of ' + innerWidth] : [] }"


def faults(tab, url, patience=20_000):
    "What is wrong with a page on a small screen: complaints of its console, requests to the outside, things not drawn, its width"
    tab.outside.clear(), tab.complaints.clear()
    tab.set_viewport_size({"width": 400, "height": 900})
    tab.goto(url)
    try: tab.wait_for_function(f"() => !({UNDRAWN})().length", timeout=patience)
    except Exception as error:
        if "Timeout" not in str(error): raise
    return [*tab.complaints, *tab.outside, *tab.evaluate(UNDRAWN), *tab.evaluate(WIDE)]


@built
@scripted
@each_page
def test_a_visit(one_tab, address, name): assert faults(one_tab, f"{address}/{name}") == []


PLANTED = {  # a page -> the fault that a visit finds
    "a script's mistake": ("<script>nothing.here()</script>", "nothing is not defined"),
    "an unhappy console": ("<script>console.error('unhappy')</script>", "unhappy"),
    "a picture of another host": ('<img src="http://elsewhere.invalid/bird.png" loading="lazy">', "http://elsewhere.invalid/bird.png"),
    "a script of another host": ('<script src="https://elsewhere.invalid/a.js"></script>', "https://elsewhere.invalid/a.js"),
    "a font of another host": ("<style>@font-face{font-family:F;src:url(https://elsewhere.invalid/f.woff)}p{font-family:F}</style><p>text</p>", "https://elsewhere.invalid/f.woff"),
    "a late request": ("<script>addEventListener('load', () => fetch('http://elsewhere.invalid/data'))</script>", "http://elsewhere.invalid/data"),
    "a missing picture": ('<img src="missing.png">', "missing.png"),
    "a formula left as TeX": ('<span class="math">x</span>', "formula x"),
    "a widget that never comes": ('<div><script type="application/vnd.jupyter.widget-view+json">{}</script></div>', "widget"),
    "a squeezed gallery": ('<div style="width:0"><div class="pl">text</div></div>', "gallery squeezed to 0 px"),
    "a cut gallery": ('<div class="cell_output" style="width:200px;overflow:hidden"><div class="pl" style="width:230px">text</div></div>', "gallery cut by 30 px"),
    "a page that scrolls sideways": ('<div style="width:500px">text</div>', "px wide on a screen of 400"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_visit_finds(one_tab, tmp_path, name):
    body, fault = PLANTED[name]
    (tmp_path/"page.html").write_text(f'<!doctype html><meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">{body}')
    with served(tmp_path) as url: found = faults(one_tab, f"{url}/page.html", patience=300)
    assert any(fault in f for f in found), found


def test_a_visit_finds_nothing_on_a_good_page(one_tab, tmp_path):
    (tmp_path/"page.html").write_text('<!doctype html><link rel="icon" href="data:,"><p>text</p>')
    with served(tmp_path) as url: assert faults(one_tab, f"{url}/page.html") == []


@pytest.mark.parametrize("href", ["gone.html", "there.html#gone", "#gone", "notes/gone.ipynb"])
def test_a_reading_finds_broken_links(tmp_path, href):
    page = tmp_path/"page.html"
    (tmp_path/"there.html").write_text('<p id="here">')
    page.write_text(f'<a href="there.html#here"></a><a href="https://elsewhere.invalid/x"></a><a href="{href}"></a>')
    assert broken_links(page) == [href]


def test_a_reading_finds_pictures_without_words():
    assert Reader('<img src="a.png"><img src="b.png" alt=" "><img src="c.png" alt="_images/abc.png"><img src="d.png" alt="a bird">').mute == ["a.png", "b.png", "_images/abc.png"]


# -- what a visitor does ------------------------------------------------------------------------------------------------------

@built
def test_the_first_visit_finds_the_street(one_tab, address):
    "From the home page to the first lesson, and on by its next link"
    one_tab.set_viewport_size({"width": 1400, "height": 1000})
    one_tab.goto(f"{address}/index.html")
    one_tab.get_by_role("link", name="core", exact=True).first.click()
    assert one_tab.locator("h1").inner_text().startswith("core")
    one_tab.locator("a.next-page").click()
    assert one_tab.locator("h1").inner_text().startswith("birds")
    one_tab.locator("a.prev-page").click()
    assert one_tab.url.endswith("core.html")


@built
@alive
def test_the_home_gallery_moves(one_tab, address):
    "One key press, no kernel"
    one_tab.goto(f"{address}/index.html")
    gallery = one_tab.locator(".cell_output .pl:visible").first
    gallery.wait_for()
    before = gallery.inner_text()
    one_tab.locator(".cell_output .noUi-handle").first.focus()
    one_tab.keyboard.press("ArrowRight")
    one_tab.wait_for_function("before => [...document.querySelectorAll('.cell_output .pl')].find(v => v.offsetParent).innerText !== before", arg=before, timeout=10_000)


@built
def test_search_finds_projection(one_tab, address):
    one_tab.set_viewport_size({"width": 1400, "height": 1000})
    one_tab.goto(f"{address}/search.html")
    one_tab.locator("input[name=q]:visible").first.fill("projection")
    one_tab.keyboard.press("Enter")
    one_tab.locator("ul.search li a").first.wait_for()
    one_tab.wait_for_function("() => [...document.querySelectorAll('ul.search li a')].some(a => a.pathname.endsWith('/project.html'))", timeout=10_000)


@built
def test_a_door_lights_those_that_it_needs(one_tab, address):
    "`project` needs `core`, and not `birds`"
    one_tab.goto(f"{address}/map.html")
    one_tab.locator("#door-project").focus()
    one_tab.keyboard.press("Shift+Tab"), one_tab.keyboard.press("Tab")  # so that the browser shows the focus
    lit = one_tab.evaluate("() => [...document.querySelectorAll('a.door')].filter(d => getComputedStyle(d).boxShadow !== 'none').map(d => d.id)")
    assert "door-core" in lit and "door-birds" not in lit


SHOWN = ["index", "map", "loss", "prototypes", "explain", "gallery", "wall", "explore", "why", "film", "versus", "your_photos", "galleries", "api", "api-core", "source-core",
         "glossary", "benchmarks", "cite", "teaching"]


TO_THE_GALLERY = """() => {
  scrollTo({top: 0, behavior: 'instant'});
  document.querySelector('.cell_output .pl')?.closest('.cell').scrollIntoView({behavior: 'instant'});
}"""


@built
@pytest.mark.parametrize("name", [name for name in SHOWN if f"{name}.html" in PAGES])
def test_pictures_for_the_eye(one_tab, address, name):
    "Three widths and both themes into _shots; a lesson with galleries at its first one"
    SHOTS.mkdir(exist_ok=True)
    one_tab.goto(f"{address}/{name}.html")
    one_tab.wait_for_function(f"() => !({UNDRAWN})().length")
    for theme in ("light", "dark"):
        one_tab.emulate_media(color_scheme=theme)
        for width in (400, 1000, 1600):
            one_tab.set_viewport_size({"width": width, "height": 1000})
            if name != "index": one_tab.evaluate(TO_THE_GALLERY)
            assert one_tab.evaluate(WIDE) == []
            one_tab.screenshot(path=SHOTS/f"{name}-{width}-{theme}.jpg", type="jpeg", quality=80)
    one_tab.emulate_media(color_scheme="light")


# -- formulas in widgets, whoever loads first -----------------------------------------------------------------------------------

BARE = "window.MathJax = {options: {processHtmlClass: 'math'}};"  # a configuration without the manager's word
FIRST = {"MathJax": ["tex-svg.js", "require.js", "embed-amd.js"], "the widgets": ["require.js", "embed-amd.js", "tex-svg.js"]}
LOAD = """src => new Promise(done => { const s = document.createElement('script'); s.src = src; s.onload = done; document.head.append(s); })"""
UP = {"tex-svg.js": "() => window.MathJax?.startup?.promise?.then(() => true)", "embed-amd.js": "() => document.querySelector('.widget-htmlmath')", "require.js": "() => window.require"}


def page_with_a_formula(config):
    "One widget that holds a formula, and the widget manager's word for MathJax 2"
    import ipywidgets as W
    from ipywidgets.embed import embed_data
    data = embed_data(views=[W.HTMLMath(r"\(x^2\)")])
    return (f'<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><script>{config}</script>'
            f'<script type="application/vnd.jupyter.widget-state+json">{json.dumps(data["manager_state"])}</script>'
            f'<div><script type="application/vnd.jupyter.widget-view+json">{json.dumps(data["view_specs"][0])}</script></div>')


def formula(tab, folder, config, scripts):
    "Load the scripts one after the other, each only when the one before is up; (complaints, was the formula drawn?)"
    tab.outside.clear(), tab.complaints.clear()
    (folder/"page.html").write_text(page_with_a_formula(config))
    for name in scripts: (folder/name).symlink_to(STATIC/name)
    with served(folder) as url:
        tab.goto(f"{url}/page.html")
        for name in scripts:
            tab.evaluate(LOAD, name)
            tab.wait_for_function(UP[name], timeout=10_000)
        tab.wait_for_timeout(300)
        return tab.complaints + tab.outside, tab.locator(".widget-htmlmath mjx-container").count()


@built
@scripted
@pytest.mark.parametrize("first", FIRST)
def test_formulas_in_widgets(one_tab, tmp_path, first):
    assert formula(one_tab, tmp_path, (ROOT/"docs"/"mathjax.js").read_text(), FIRST[first]) == ([], 1)


@built
@scripted
@pytest.mark.parametrize("first", FIRST)
def test_formulas_in_widgets_need_the_shim(one_tab, tmp_path, first):
    complaints, _ = formula(one_tab, tmp_path, BARE, FIRST[first])
    assert any("Queue" in c for c in complaints), complaints


def test_the_manager_may_speak_while_mathjax_starts(one_tab, tmp_path):
    "MathJax replaces the object that holds its configuration; between that and its being up the manager's word is kept"
    (tmp_path/"page.html").write_text(f"<!doctype html><link rel='icon' href='data:,'><script>{(ROOT/'docs'/'mathjax.js').read_text()}</script>")
    one_tab.complaints.clear()
    with served(tmp_path) as url:
        one_tab.goto(f"{url}/page.html")
        one_tab.evaluate("() => { window.MathJax = {version: '3', config: window.MathJax}; MathJax.Hub.Queue(['Typeset', MathJax.Hub, document.body]); }")
    assert one_tab.complaints == []
