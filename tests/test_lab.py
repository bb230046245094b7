"A person's path: open the gallery in JupyterLab, run it, press a key"
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from conftest import ROOT

NOTEBOOK = ROOT/"nbs"/"13_gallery.ipynb"
ERRORS = ".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']"  # tracebacks as well
RAN = """errors => { const cells = [...document.querySelectorAll('.jp-Notebook .jp-CodeCell')];
  return document.querySelector(errors) || cells.length > 0 && cells.every(c => /\\[\\d+\\]/.test(c.querySelector('.jp-InputPrompt').textContent)); }"""
QUIET = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
         "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"}}  # no pop-up; every cell is in the page


def wait_until_up(url, process, log):
    "Poll the server until it answers; its log when it dies"
    for _ in range(900):
        try: return urllib.request.urlopen(f"{url}/api", timeout=1).read()
        except OSError: time.sleep(0.1)
        assert process.poll() is None, log.read_text()
    raise TimeoutError(log.read_text())


def start(home, port):
    "JupyterLab with its own folders and settings, so that the reader's are neither used nor changed"
    (home/"app").mkdir()
    (home/"app"/"overrides.json").write_text(json.dumps(QUIET))
    own = {f"JUPYTER_{name}_DIR": str(home/name) for name in ("CONFIG", "DATA", "RUNTIME")}
    own |= {"JUPYTERLAB_SETTINGS_DIR": str(home/"settings"), "JUPYTERLAB_WORKSPACES_DIR": str(home/"workspaces"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    options = [f"--port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token=", f"--ServerApp.root_dir={home}", f"--LabApp.app_settings_dir={home/'app'}"]
    with (home/"log").open("w") as log:
        return subprocess.Popen([sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", *options],
                                env=os.environ | own, stdout=log, stderr=log)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "JupyterLab on a free port, over a copy of the notebooks, because it saves by itself"
    home = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT/"nbs", home/"nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = start(home, port)
    try:
        wait_until_up(f"http://127.0.0.1:{port}", process, home/"log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        try: process.wait(20)
        except subprocess.TimeoutExpired: process.kill()


def run_all(tab, url):
    "Open a notebook and run all its cells; before the kernel is idle the command would be lost"
    tab.goto(url)
    tab.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
    tab.get_by_text("| Idle").first.wait_for()
    tab.get_by_role("menuitem", name="Run", exact=True).click()
    tab.get_by_text("Run All Cells", exact=True).click()
    tab.wait_for_function(RAN, arg=ERRORS, timeout=300_000)
    assert not tab.locator(ERRORS).all_inner_texts()


CHANGE = """() => new Promise((done, failed) => {
  const gallery = [...document.querySelectorAll('.jp-Cell-outputArea')].find(a => a.querySelector('img') && a.querySelector('.noUi-handle, select'));
  const shown = () => [...gallery.querySelectorAll('img')], sources = () => shown().map(i => i.src).join();
  const before = sources(), start = performance.now();
  const look = () => {
    if (sources() !== before && shown().length && shown().every(i => i.complete && i.naturalWidth > 0)) done(performance.now() - start);
    else if (performance.now() - start > 20000) failed(new Error('nothing changed'));
    else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
})"""
GALLERY = ".jp-Cell-outputArea:has(img):has(.noUi-handle, select)"


def press(tab, control, key):
    "Milliseconds from a key press on a gallery's control until other images are there, decoded"
    tab.locator(f"{GALLERY} {control}").first.focus()
    tab.evaluate(f"() => {{ window.change = ({CHANGE})() }}")
    tab.keyboard.press(key)
    return tab.evaluate("() => window.change")


@pytest.mark.skipif(not NOTEBOOK.exists(), reason="the gallery's lesson is not written yet")
def test_the_gallery_follows_the_keyboard(tab, lab):
    run_all(tab, f"{lab}/lab/tree/nbs/{NOTEBOOK.name}?reset")
    assert tab.outside == []
    times = [press(tab, ".noUi-handle", key) for key in ("Home", "ArrowRight", "End", "ArrowLeft")]
    print("milliseconds a change:", [round(t) for t in times])
    assert min(times) < 1000
