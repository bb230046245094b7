"Two sides made by hand: which belongs to which, what is marked, what a page and a widget say; and a real model against itself"
import copy
import re
import time
from dataclasses import replace

import pytest
import torch
from looking import look_at

from protolab.backbone import geometry
from protolab.core import Patch, seed_everything
from protolab.data import Images, Loader
from protolab.gallery import STYLE, Album, Thumbs, page
from protolab.model import tiny_model
from protolab.project import project_
from protolab.prune import keep_
from protolab.versus import (VERSUS_STYLE, Pair, PairGallery, Side, VersusGallery, alike, as_side, box_overlap, by_number, by_place, in_words, number_rows,
                             pair_of, pair_view, patch_overlap, shares, pair_differences, versus_sheet, versus_view)

NAMES = ["Great Crested Flycatcher of the Northern Woods", "Salt & <Pepper>", "鸟"]


def at(j, image, label, column=0, cell=None): return Patch(j, image, f"image {image}", label, cell or (0, column), (0, 8 * column, 8, 8 * column + 8), 0.125)


def made(name="left", P=6, k=3, change=None, near_change=None, weights=None):
    "Prototype j of class j // 2 is a patch of image j, at column j; its nearest are the images 0, 1, 2 at column j"
    thumbs = Thumbs(torch.full((12, 3, 96, 96), 90, dtype=torch.uint8))
    patches = [(change or {}).get(j) or at(j, j, j * 3 // P, j % 12) for j in range(P)]
    near = [(near_change or {}).get(j) or [at(j, n, n, j % 12) for n in range(k)] for j in range(P)]
    return Side(name, Album(patches, thumbs, NAMES), near, thumbs, weights or [1.0] * P, {"accuracy": 0.5, "prototypes": P})


def marked(left, right, pairs): return [pair[:2] for pair in pairs if pair_differences(left, right, pair)]


@pytest.mark.parametrize("pairing", [by_number, by_place])
def test_equal_sides_do_not_differ(pairing):
    left, right = made(), made("right")
    assert [pair[:2] for pair in pairing(left, right)] == [(j, j) for j in range(6)]
    assert marked(left, right, pairing(left, right)) == []
    assert all(pair[2:] == (1.0, 3, 3) for pair in pairing(left, right))


CHANGES = {"patch": dict(change={3: at(3, 9, 1, 3)}), "cell": dict(change={3: at(3, 3, 1, 3, cell=(1, 3))}), "nearest": dict(near_change={3: [at(3, n, n % 3, 3) for n in (0, 1, 5)]}),
           "weight": dict(weights=[1.0, 1.0, 1.0, 0.0, 1.0, 1.0])}


@pytest.mark.parametrize("pairing", [by_number, by_place])
@pytest.mark.parametrize("kind", list(CHANGES))
def test_a_planted_change_marks_its_pair_and_no_other(kind, pairing):
    left, right = made(), made("right", **CHANGES[kind])
    assert marked(left, right, pairing(left, right)) == [(3, 3)]
    html = versus_view(left, right, pairing(left, right), 1)
    assert html.count("pl-differs") == 1 and html.count("= no difference") == 1


def test_a_weight_that_differs_only_in_the_third_decimal_is_not_marked():
    assert marked(made(), made(weights=[1.001] * 6), by_number(made(), made(weights=[1.001] * 6))) == []


def test_what_is_not_known_is_not_compared():
    bare = Side("bare", made().album)
    assert marked(made(), bare, by_number(made(), bare)) == []
    assert versus_view(bare, bare, by_number(bare, bare), 0).count("<img") == 2 * 4 and versus_sheet(bare, bare, by_number(bare, bare), 0)


def turned(side, order):
    "The same side with its prototypes in another order"
    def number(p, j): return replace(p, prototype=j)
    patches = [number(side.album.patches[i], j) for j, i in enumerate(order)]
    return replace(side, name="turned", album=replace(side.album, patches=patches), near=[[number(p, j) for p in side.near[i]] for j, i in enumerate(order)], weights=[side.weights[i] for i in order])


def test_numbers_are_not_names():
    left = made(P=12)
    right = turned(left, [1, 2, 3, 0, 4, 5, 6, 7, 11, 10, 9, 8])
    assert len(marked(left, right, by_number(left, right))) == 8
    assert marked(left, right, by_place(left, right)) == []
    assert [right.album.patches[p.right].image for p in by_place(left, right)] == list(range(12))


def test_a_prototype_that_was_removed_has_no_partner():
    left = made()
    right = turned(left, [0, 1, 3, 4, 5])
    pairs = by_place(left, right)
    assert marked(left, right, pairs) == [(2, None)] and len(pairs) == 6
    assert pair_differences(left, right, Pair(2, None)) == ["only in left"] and pair_differences(left, right, Pair(None, 2)) == ["only in turned"]
    assert in_words(left, right, pairs) == "0 of 5 pairs differ, 1 only in left"
    assert [pair[:2] for pair in by_number(left, right)] == [(0, 0), (1, 1), (2, 2), (4, 4), (3, None), (5, None), (None, 3)]   # classes 0 0 1 1 2 2 and 0 0 1 2 2


def test_the_most_alike_go_first_and_nobody_twice():
    "Left 0 overlaps right 0 by a third and right 1 wholly; left 1 has only right 1 at a third"
    def side(columns):
        patches = [Patch(j, 0, "", 0, (0, 0), (0, c, 8, c + 8), 0.1) for j, c in enumerate(columns)]
        return Side("s", Album(patches, Thumbs(torch.zeros(1, 3, 96, 96, dtype=torch.uint8)), NAMES))
    pairs = by_place(side([8, 4]), side([12, 8]))
    assert [pair[:2] for pair in pairs] == [(0, 1), (1, None), (None, 0)]      # 1 and 0 touch at an edge only
    assert pairs[0].overlap == 1.0


@pytest.mark.parametrize("a, b, overlap", [((0, 0, 4, 4), (0, 0, 4, 4), 1), ((0, 0, 4, 4), (0, 4, 4, 8), 0), ((0, 0, 4, 4), (2, 2, 6, 6), 4 / 28), ((0, 0, 8, 8), (2, 2, 4, 4), 4 / 64), ((0, 0, 2, 2), (5, 5, 9, 9), 0)])
def test_overlap_by_counting_pixels(a, b, overlap):
    def mask(t, l, b, r): return {(y, x) for y in range(t, b) for x in range(l, r)}
    assert box_overlap(a, b) == box_overlap(b, a) == pytest.approx(overlap) == pytest.approx(len(mask(*a) & mask(*b)) / len(mask(*a) | mask(*b)))


def test_shared_images_and_places():
    side = made(near_change={0: [at(0, 0, 0, 2), at(0, 1, 0, 2), at(0, 2, 0, 2)], 1: [at(1, 0, 0, 2), at(1, 1, 0, 7), at(1, 9, 0, 2)]})
    pair = pair_of(side, 0, side, 1)
    assert pair == Pair(0, 1, 0.0, 2, 1)
    assert [shares(p, side.near[1]) for p in side.near[0]] == ["● same place", "○ same image", ""]
    assert alike(pair, False, 3) == "Different patches, no overlap. 2 of their 3 nearest images in common, 1 at the same place."
    html = pair_view(side, 0, side, 1)
    assert html.count("● same place") == 2 and html.count("○ same image") == 2
    assert patch_overlap(at(0, 1, 0, 2), at(0, 2, 0, 2)) == 0


def test_numbers():
    rows = number_rows(replace(made(), numbers={"accuracy": 0.9, "n": 4}), replace(made(), numbers={"accuracy": 0.85, "more": 1}))
    assert rows == [("accuracy", "0.900", "0.850", "−0.050"), ("n", "4", "–", "–"), ("more", "–", "1", "–")]


# -- a real model -------------------------------------------------------------------------------------------------------------

def test_sides_of_a_real_model():
    seed_everything(0)
    net = tiny_model()
    images = Images(torch.randint(256, (24, 3, 16, 16), dtype=torch.uint8), torch.arange(24) % 3, net.classes, [str(i) for i in range(24)])
    loader, g = Loader(images, batch=8), geometry(net.backbone, (16, 16))
    project_(net, loader, g)
    left = as_side("before", net, loader, loader, g, k=4)
    assert left.weights == [1.0] * 6 and all(len(row) == 4 for row in left.near)
    cut = copy.deepcopy(net)
    keep_(cut, [5, 0, 1, 4, 3])                               # without 2, in another order
    right = as_side("after", cut, loader, loader, g, k=4)
    assert marked(left, right, by_place(left, right)) == [(2, None)]
    with torch.no_grad(): net.last.weight[net.cls[4], 4] = 0.25
    silent = as_side("silent", net, loader, loader, g, k=4)
    assert marked(left, silent, by_number(left, silent)) == [(4, 4)]


# -- the widgets and the page -------------------------------------------------------------------------------------------------

@pytest.fixture
def gallery():
    shown = VersusGallery(made(), made("right <2>", **CHANGES["patch"]))
    yield shown
    shown.close()


def test_each_control_changes_the_view(gallery):
    gallery.label.value = 1
    seen = []
    for control, value in ((gallery.label, 0), (gallery.label, 1), (gallery.how, "by place"), (gallery.only, True)):
        control.value = value
        seen.append(gallery.screen.value)
    assert len(set(seen)) == 4
    assert gallery.screen.value.count("pl-pair ") == 1        # only the pair that differs


@pytest.mark.parametrize("kind", ["versus", "pair"])
def test_without_a_kernel(gallery, kind, tmp_path):
    shown = gallery if kind == "versus" else PairGallery(made(), made("<b>"))
    assert len(shown._repr_mimebundle_()["image/jpeg"]) > 500
    shown.to_html(tmp_path/"v.html")
    html = (tmp_path/"v.html").read_text(encoding="utf-8")
    assert "<Pepper>" not in html and "<b>" not in html and "<2>" not in html and "<script" not in html
    assert html.count("<img") == len(re.findall(r'<img [^>]*alt="[^"]+"', html)) > 8
    shown.close()


def test_two_thousand_prototypes_open_fast():
    classes = [f"class {c}" for c in range(200)]
    def big():
        side = made(P=2000)
        patches = [replace(p, label=j // 10, image=j % 12) for j, p in enumerate(side.album.patches)]
        return replace(side, album=Album(patches, side.thumbs, classes))
    left, right, spent = big(), big(), []
    for _ in range(2):
        start = time.perf_counter()
        VersusGallery(left, right).close()
        spent.append(time.perf_counter() - start)
    assert min(spent) <= 2


@pytest.mark.parametrize("width, scheme", [(400, "dark"), (1600, "light")])
def test_a_comparison_in_the_browser(tab, tmp_path, width, scheme):
    left, right = made(), made("right", **CHANGES["patch"])
    pairs = [*by_number(left, right), Pair(0, None), Pair(None, 1)]
    (tmp_path/"v.html").write_text(page("Versus", [("two", versus_view(left, right, pairs, 0)), ("large", pair_view(left, 0, right, 1))], style=STYLE + VERSUS_STYLE), encoding="utf-8")
    assert look_at(tab, tmp_path/"v.html", width, scheme) > 10
    halves = tab.evaluate("() => [...document.querySelectorAll('.pl-pair')].map(e => new Set([...e.children].filter(c => c.tagName == 'DIV').map(c => Math.round(c.getBoundingClientRect().left))).size)")
    assert set(halves) == ({1} if width == 400 else {2})      # stacked, or side by side
