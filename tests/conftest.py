"What several tests share: where the project lies, and a browser that may only talk to this machine"
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="session")
def browser():
    "Chromium, started once; without it the tests that need it are skipped"
    if not BROWSER: pytest.skip("no browser on this machine: on Debian, apt-get install chromium")
    sync_playwright = pytest.importorskip("playwright.sync_api").sync_playwright
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield chromium
        chromium.close()


def watched(browser):
    "A fresh tab that notes what it asked of the outside, and what its console complained about"
    page = browser.new_page(viewport={"width": 1400, "height": 1200})
    page.set_default_timeout(90_000)
    page.outside, page.complaints = [], []

    def guard(route):
        if route.request.url.startswith(("http://127.0.0.1", "data:", "blob:")): return route.continue_()
        page.outside.append(route.request.url)
        route.abort()
    page.route("**/*", guard)
    page.on("console", lambda m: page.complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: page.complaints.append(str(e)))
    return page


@pytest.fixture
def tab(browser):
    "A tab of this test's own"
    page = watched(browser)
    yield page
    page.close()


@pytest.fixture(scope="module")
def one_tab(browser):
    "A tab that a file's tests share, because opening one takes longer than a visit"
    page = watched(browser)
    yield page
    page.close()
