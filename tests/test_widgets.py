"The six galleries as widgets, without a browser and without training: planted records go in, pages and still pictures come out"
import base64
import io
import re

import ipywidgets as W
import pytest
import torch
from PIL import Image

from protolab.core import Evidence, Patch
from protolab.explain import Explanation
from protolab.explore import ActivationGallery, Lens
from protolab.film import FilmGallery, Frame
from protolab.gallery import Album, NearestGallery, Thumbs
from protolab.versus import PairGallery, Side, VersusGallery
from protolab.wall import WallGallery
from protolab.why import LooksLikeGallery

CLASSES = ["wren", "Salt & <Pepper>", 'the "quoted" one']
P, K, SIZE = 9, 4, 64


def pixels(seed): return torch.randint(256, (12, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def planted(j, image, label): return Patch(j, image, f"image {image} <b>", label, (image % 8, j % 8), (8 * (image % 8), 8 * (j % 8), 8 * (image % 8) + 8, 8 * (j % 8) + 8), 0.1 * (image + 1))


def album(seed=0): return Album([planted(j, j, j * 3 // P) for j in range(P)], Thumbs(pixels(seed)), CLASSES)


def rows(turn=0): return [[planted(j, (j + n + turn) % 12, (j + n) % 3) for n in range(K)] for j in range(P)]


def map_of(j): return torch.rand((SIZE, SIZE), generator=torch.Generator().manual_seed(j))


def evidence(j, target, weight): return Evidence(prototype=j, of=j * 3 // P, target=target, similarity=3.0 + j, weight=weight, cell=(j % 8, 0), box=planted(j, j, 0).box, map=map_of(j))


def told(): return [Explanation(c, sum((3.0 + j) * (1 - 0.5 * c) for j in range(3)) + 0.5, [evidence(j, c, 1 - 0.5 * c) for j in range(3)], 0.5) for c in range(3)]


def frame(n): return Frame(n, ("start", "warm", "project", "last layer")[n], int(n > 0), [planted(j, (j + n) % 12, j * 3 // P) for j in range(P)], {"accuracy": 0.25 * n})


def side(name, seed): return Side(name, album(seed), rows(seed), Thumbs(pixels(seed)), [0.5 + 0.1 * j for j in range(P)], {"accuracy": 0.9})


MADE = {
    "wall": lambda: WallGallery(album(), columns={"weight": torch.arange(P) / P, "purity": [1.0, float("nan")] + [0.5] * (P - 2)}, maps=map_of),
    "nearest": lambda: NearestGallery(album(), {"train": (rows(), Thumbs(pixels(0))), "test": (rows(3), Thumbs(pixels(1)))}, k=3),
    "explorer": lambda: ActivationGallery(album(), pixels(2)[0], [Lens(evidence(j, 0, 1.0), (0, 0, 40, 40), map_of(j) - 0.5) for j in range(4)]),
    "looks like": lambda: LooksLikeGallery(album(), pixels(2)[0], told(), truth=1),
    "stages": lambda: FilmGallery(album(), [frame(n) for n in range(4)]),
    "versus": lambda: VersusGallery(side("one <i>", 0), side("other", 1)),
    "pair": lambda: PairGallery(side("one <i>", 0), side("other", 1)),
}


@pytest.fixture(params=MADE)
def gallery(request):
    made = MADE[request.param]()
    yield made
    made.close()


def living(): return len(W.widget._instances)


def within(widget):
    "A widget and all that it holds"
    yield widget
    for child in getattr(widget, "children", ()): yield from within(child)


def controls(gallery): return [w for w in within(gallery) if hasattr(w, "value") and not isinstance(w, (W.HTML, W.Label))]


def turn(control, n):
    "The n-th setting of a control, round and round"
    if hasattr(control, "options"): control.index = n % len(control.options)
    elif isinstance(control.value, bool): control.value = not control.value
    elif isinstance(control.value, int): control.value = control.min + n % (control.max - control.min + 1)
    else: control.value = control.min + (n % 5) / 4 * (control.max - control.min)


def test_two_hundred_changes_make_no_widget(gallery):
    before, seen, own = living(), set(), controls(gallery)
    for n in range(200):
        turn(own[n % len(own)], n // len(own) + 1)
        seen.add(gallery.screen.value)
    assert living() == before
    assert len(seen) > 5                              # it did change


@pytest.mark.parametrize("name", MADE)
def test_closing_takes_all_of_it_away(name):
    before = set(W.widget._instances)
    MADE[name]().close()
    assert not [W.widget._instances[i] for i in set(W.widget._instances) - before]


def pictures_without_words(html): return [tag for tag in re.findall(r"<img[^>]*>", html) if not re.search(r'alt="[^"]*\w[^"]*"', tag)]


def test_the_page_is_whole_and_asks_for_nothing(gallery, tmp_path):
    gallery.to_html(tmp_path/"page.html")
    html = (tmp_path/"page.html").read_text(encoding="utf-8")
    assert html.startswith("<!doctype html>") and html.rstrip().endswith("</html>")
    assert html.count("<img") >= P and not pictures_without_words(html)
    assert not re.search(r"<script|<iframe|javascript:|\son\w+=", html)
    assert not re.search(r'(src|href)="(?!data:image/|#)|@import|url\((?!data:)', html)
    assert "<Pepper>" not in html and "<b>\"" not in html and "one <i>" not in html


def test_the_screen_has_words_for_each_picture(gallery):
    assert "<img" in gallery.screen.value and not pictures_without_words(gallery.screen.value)
    assert "<script" not in gallery.screen.value and "<Pepper>" not in gallery.screen.value


def still(gallery): return gallery._repr_mimebundle_()["image/jpeg"]


def test_the_still_picture_is_in_the_bundle_and_follows(gallery):
    bundle = gallery._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle and bundle["text/plain"] == gallery.title
    picture = Image.open(io.BytesIO(base64.b64decode(still(gallery))))
    assert picture.format == "JPEG" and 250 < picture.width <= 1400
    before = {still(gallery)}
    for control in controls(gallery):
        turn(control, 1)
        before.add(still(gallery))
    assert len(before) > 1                            # what one sees is what a page without a kernel shows


def test_every_list_has_a_slider(gallery):
    "JupyterLab keeps arrow keys from lists, so each list needs a slider that goes through it"
    lists = [w for w in controls(gallery) if isinstance(w, (W.Dropdown, W.Select))]
    before = [w.index for w in lists]
    for slider in [w for w in controls(gallery) if isinstance(w, W.IntSlider)]: turn(slider, 1)
    assert all(w.index != was or len(w.options) == 1 for w, was in zip(lists, before))
