"Every built page: links and pictures by reading it, scripts and requests by visiting it"
import functools
import http.server
import re
import threading
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest
from conftest import ROOT

SITE = ROOT/"_docs"
PAGES = sorted(p.name for p in SITE.glob("*.html"))
pytestmark = pytest.mark.skipif(not PAGES, reason="no site here: make docs builds it")
each_page = pytest.mark.parametrize("name", PAGES)
LARGEST = 3_000_000  # bytes a page


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
def read(name): return Reader((SITE/name).read_text(encoding="utf-8"))


def broken(name, href):
    "Is this internal link of the page `name` broken?"
    url = urlsplit(href)
    if url.scheme or url.netloc: return False
    target = (SITE/name).parent/unquote(url.path) if url.path else SITE/name
    if not target.exists(): return True
    return target.suffix == ".html" and unquote(url.fragment) not in read(str(target.relative_to(SITE))).anchors


@each_page
def test_links_lead_somewhere(name): assert not [href for href in read(name).links if broken(name, href)]


@each_page
def test_pictures_have_words(name): assert not read(name).mute


@each_page
def test_size(name): assert (SITE/name).stat().st_size <= LARGEST


def test_every_lesson_has_its_page():
    lessons = {re.sub(r"^\d+_", "", p.stem) for p in ROOT.glob("nbs/*.ipynb")}
    assert lessons | {"index"} <= {name.removesuffix(".html") for name in PAGES}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_): pass


@pytest.fixture(scope="module")
def address():
    "The site, served on a free port of this machine"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=SITE))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


DRAWN = """() => ![...document.querySelectorAll('.math')].some(m => !m.querySelector('mjx-container'))
  && [...document.images].every(i => i.loading === 'lazy' || (i.complete && i.naturalWidth > 0))"""


@each_page
def test_a_visit(tab, address, name):
    "No error in the console, no request to the outside, formulas and pictures drawn"
    if not (SITE/"_static"/"tex-svg.js").exists(): pytest.skip("the site was built without MathJax: npm was missing")
    tab.goto(f"{address}/{name}", wait_until="networkidle")
    tab.wait_for_function(DRAWN)
    assert (tab.outside, tab.complaints) == ([], [])


def test_the_first_visit_finds_the_street(tab, address):
    "From the home page to the first lesson, and on by its next link"
    tab.goto(f"{address}/index.html")
    tab.get_by_role("link", name="core", exact=True).first.click()
    assert tab.locator("h1").inner_text().startswith("core")
    tab.locator("a.next-page").click()
    assert not tab.url.endswith("core.html")
