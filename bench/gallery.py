"""How fast a gallery follows a key in JupyterLab, and what it holds in memory: `make bench-gallery` (about a minute; needs Chromium).

Writes docs/bench-gallery.md. The machine should be quiet. `--print` prints the page and leaves the file as it is."""
import argparse
import datetime
import statistics
import subprocess
import sys
import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time

import nbformat
import torch
import torch.nn.functional as F
from layer import busy, machine

from protolab.core import Patch, atomic_path
from protolab.data import bird_splits
from protolab.gallery import Album, NearestGallery, Thumbs
from protolab.wall import WallGallery

ROOT = Path(__file__).parents[1]
PAGE, CELL = ROOT/"docs"/"bench-gallery.md", f"import sys\nsys.path += [{str(ROOT/'bench')!r}, {str(ROOT/'tests')!r}]\nfrom gallery import {{0}}\n{{0}}()"
P, C, SIDE, SHOWN = 2000, 200, 224, 100


def images():
    "400 drawn birds as large as the paper's photographs"
    x = bird_splits(seed=0, per_class=25, valid=1, test=1).train.x
    return F.interpolate(x.float(), size=(SIDE, SIDE), mode="bilinear").round().byte()


def patch(j, n):
    "A planted patch: another place in another image for each n"
    top, left, side = 7 * n % 150, 13 * n % 150, 40 + n % 30
    return Patch(j, n % 400, f"image {n % 400}", j * C // P, (top // 32, left // 32), (top, left, top + side, left + side), n / 1000)


def album(x, many=P): return Album([patch(j, j) for j in range(many)], Thumbs(x), [f"class {c}" for c in range(C)])


def wall(): return WallGallery(album(images()), per=SHOWN)


def nearest():
    x = images()
    return NearestGallery(album(x, 30), {"train": ([[patch(j, SHOWN * j + n) for n in range(SHOWN)] for j in range(30)], Thumbs(x))}, k=SHOWN)


def in_browser(presses):
    "What is shown -> milliseconds from a key press until 100 new thumbnails are on the screen, decoded; for each press"
    sys.path.append(str(ROOT/"tests"))
    from conftest import BROWSER, FLAGS
    from playwright.sync_api import sync_playwright
    from test_lab import free_port, output_of, press, pressed, run_all, running
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL.format(name)) for name in ("wall", "nearest")])
    nb.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    with TemporaryDirectory() as home, sync_playwright() as playwright:
        nbformat.write(nb, Path(home)/"bench.ipynb")
        with running(Path(home), free_port()) as url:
            tab = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS).new_page(viewport={"width": 1400, "height": 1200})
            run_all(tab, f"{url}/lab/tree/bench.ipynb?reset")
            areas = {"next page of the wall": output_of(tab, 0), "next prototype, its nearest patches": output_of(tab, 1)}
            for area in areas.values(): pressed(tab, area)                     # the browser's first times are not counted
            found = {name: [press(tab, area, "ArrowRight") for _ in range(presses)] for name, area in areas.items()}
    if min(c["images"] for changes in found.values() for c in changes) < SHOWN: raise RuntimeError(f"fewer than {SHOWN} pictures came: {found}")
    return {name: [c["ms"] for c in changes] for name, changes in found.items()}


def opened():
    "A wall of 2000: seconds to open, processor milliseconds of a new page, MB at its highest when opened and when all pages were seen; the images are there before"
    x = images()
    def made(): return WallGallery(album(x), {"number": range(P)}, per=SHOWN)
    start = perf_counter()
    gallery, pages = made(), []
    seconds = perf_counter() - start
    for page in range(2, P // SHOWN + 1):
        start, gallery.page.value = process_time(), page
        pages.append(process_time() - start)
    tracemalloc.start()                                                        # slows what follows, so the seconds come first
    gallery = made()
    first = tracemalloc.get_traced_memory()[1]
    for gallery.page.value in range(1, P // SHOWN + 1): pass
    return seconds, 1e3 * statistics.median(pages), first / 1e6, tracemalloc.get_traced_memory()[1] / 1e6


def widgets():
    "Name of a gallery -> how many widgets there are more after 200 changes"
    sys.path.append(str(ROOT/"tests"))
    from test_widgets import MADE, controls, living, turn
    found = {}
    for name, make in MADE.items():
        gallery = make()
        own, before = controls(gallery), living()
        for n in range(200): turn(own[n % len(own)], n // len(own) + 1)
        found[name] = living() - before
        gallery.close()
    return found


TEXT = """# The galleries, measured

JupyterLab in headless Chromium, driven by keys: the milliseconds from a key press until {SHOWN} thumbnails that were never made before stand on the screen, each decoded.
{P} prototypes of {C} classes, planted on drawn birds of {SIDE} px; {presses} presses of each kind.

- Command: `make bench-gallery`, {date}
- Machine: {machine}; {load} jobs were running at the start

| milliseconds from a key press to {SHOWN} new thumbnails | best | median | worst | goal |
|---|---|---|---|---|
{speed}

| a wall of {P} prototypes | | goal |
|---|---|---|
| opens in, seconds | {seconds:.2f} | at most 2 |
| a new page, processor time of Python alone, milliseconds | {turned:.0f} | |
| memory it adds, MB | {first:.0f} | at most 300 |
| the same after all {pages} pages were seen | {last:.0f} | at most 300 |

| widgets more after 200 changes | | goal |
|---|---|---|
{leaks}

A busy machine takes longer than the gallery does; the best time is nearest to what a quiet one shows. Processor time does not count what others do: it goes into cutting, scaling and packing
the thumbnails, on the wall with a larger picture of each image when it first comes. Memory is the highest that Python's own objects took, the thumbnails among them, and not the images, {images:.0f} MB, which are there before.
How the galleries keep to it is told in the [gallery](gallery.ipynb) lesson.
"""


def row(name, ms):
    "A line of the first table"
    return f"| {name} | {min(ms):.0f} | {statistics.median(ms):.0f} | {max(ms):.0f} | at most 200 |"


def text(presses):
    "The page"
    load, fresh = busy(), subprocess.run([sys.executable, __file__, "--open"], check=True, capture_output=True, text=True).stdout.split()
    seconds, turned, first, last = map(float, fresh)
    return TEXT.format(P=P, C=C, SIDE=SIDE, SHOWN=SHOWN, pages=P // SHOWN, presses=presses, date=datetime.date.today(), machine=machine(), load=load, seconds=seconds, turned=turned, first=first, last=last,
                       images=400 * 3 * SIDE * SIDE / 1e6, speed="\n".join(row(*one) for one in in_browser(presses).items()),
                       leaks="\n".join(f"| {name} | {more} | 0 |" for name, more in widgets().items()))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presses", type=int, default=12, help="of each kind (default 12)")
    parser.add_argument("--print", action="store_true", help="leave docs/bench-gallery.md as it is")
    parser.add_argument("--open", action="store_true", help="print what opening takes, and stop")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.open: return print(*opened())
    page = text(given.presses)
    if not given.print:
        with atomic_path(PAGE) as tmp: tmp.write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__": main()
