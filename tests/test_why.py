"This looks like that: what a page prints adds up to the logit, its bars form a chain, and the contrast is the difference"
import io
import re
import time
from dataclasses import replace
from decimal import Decimal

import ipywidgets
import numpy as np
import pytest
import torch
from looking import EDGES, LONG, controls, look_at, settings
from PIL import Image

from protolab.birds import PARTS
from protolab.core import Evidence, Patch
from protolab.explain import Explanation, explanations
from protolab.gallery import STYLE, Album, Thumbs, page
from protolab.model import protopnet
from protolab.why import (WHY_STYLE, LooksLikeGallery, common_span, fall_tile, looks_like_sheet, looks_like_view, part_shares, rounding, running_sums, shortened,
                          told_apart, told_together, why_not_sheet, why_not_view)



def make_album(P=12, size=96):
    x = torch.randint(256, (20, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Album([Patch(j, j % 20, f"image {j}", j * 6 // P, (0, 0), EDGES[j % 6], 0.0) for j in range(P)], Thumbs(x), LONG)


def evidence(j, similarity, weight, target=0):
    return Evidence(j, j * 6 // 12, target, similarity, weight, (0, 0), EDGES[j % 6], torch.rand(96, 96, generator=torch.Generator().manual_seed(j)))


def planted(seed=0, classes=3, P=12, told=7):
    "Records with known sums: `told` of P prototypes have a row, similarities are shared, weights have both signs"
    draw = np.random.default_rng(seed)
    s, W = 3 * draw.random(P), draw.normal(size=(classes, P))
    def one(t):
        rows = sorted((evidence(j, float(s[j]), float(W[t, j]), t) for j in range(told)), key=lambda e: -e.contribution)
        return Explanation(t, float(s @ W[t]), rows, float(s[told:] @ W[t, told:]))
    return s, W, [one(t) for t in range(classes)]


@pytest.fixture(scope="module")
def tiny():
    "A network, an image, and what the network says of it, by torch alone"
    torch.manual_seed(0)
    model = protopnet("tiny", LONG, per_class=2, D=6).eval()
    with torch.no_grad(): model.last.weight.copy_(torch.randn(6, 12))
    x = torch.rand(3, 96, 96)
    with torch.no_grad(): out = model(x[None])
    return model, x, out


@pytest.fixture
def gallery():
    album = make_album()
    one = LooksLikeGallery(album, album.thumbs.x[3], planted()[2], 1, torch.randint(12, (96, 96), dtype=torch.uint8))
    yield one
    one.close()


# -- the sum ------------------------------------------------------------------------------------------------------------------

NUMBER = r"[+−]\d+\.\d\d"


def decimal(text): return Decimal(text.replace("−", "-"))


def chains(html):
    "Each chain of a page: (printed contributions, printed rest, printed rounding, printed sum)"
    for chain in re.split(r"<section", html.split("</header>")[1])[bool("<section" in html):]:
        terms = [decimal(v) for v in re.findall(rf"= <strong>({NUMBER})</strong>", chain)]
        plain = [decimal(v) for v in re.findall(rf'<div class="pl-say"><strong>({NUMBER})</strong>', chain)]
        gap = [decimal(v) for v in re.findall(rf"with ({NUMBER}) of rounding", chain)] or [Decimal(0)]
        yield terms, plain[:-1], gap[0], plain[-1]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("k", [1, 4, 7])
def test_what_is_printed_adds_up_to_the_last_cent(seed, k):
    "Every number is the true one, rounded; with the rounding that the page names, the printed sum is exact"
    album, (s, W, told) = make_album(), planted(seed)
    (terms, rest, gap, logit), = chains(looks_like_view(album, shortened(told[0], k), Thumbs(album.thumbs.x[:1])))
    true = sorted((s * W[0])[:7], key=abs)[-k:]
    assert sum(terms) + sum(rest) + gap == logit
    assert sorted(map(float, terms)) == pytest.approx(sorted(true), abs=0.00501)
    assert float(logit) == pytest.approx(s @ W[0], abs=0.00501) and float(rest[0]) == pytest.approx(s @ W[0] - sum(true), abs=0.00501)
    assert abs(gap) <= Decimal("0.005") * (k + 2)


def test_rounding_is_named_only_where_there_is_some():
    exact = Explanation(0, 2.25, [evidence(0, 4.0, 0.5)], 0.25)
    off = Explanation(0, 0.012, [evidence(0, 1.0, 0.004), evidence(1, 1.0, 0.004)], 0.004)
    views = [looks_like_view(make_album(), told, Thumbs(make_album().thumbs.x[:1])) for told in (exact, off)]
    assert ["of rounding" in html for html in views] == [False, True]
    assert rounding(exact) == 0 and rounding(off) == Decimal("0.01")


def test_the_page_ends_at_the_logit_of_the_network(tiny):
    model, x, out = tiny
    for told in told_together(model, x, [0, 5], k=3):
        for k in (1, len(told.rows)):
            (terms, rest, gap, logit), = chains(looks_like_view(make_album(), shortened(told, k), Thumbs(make_album().thumbs.x[:1])))
            assert float(logit) == pytest.approx(out.logits[0, told.target].item(), abs=0.00501)
            assert sum(terms) + sum(rest) + gap == logit


@pytest.mark.parametrize("k", range(1, 9))
def test_fewer_rows_keep_the_sum_and_the_largest_terms(k):
    s, W, told = planted(3)
    short = shortened(told[1], k)
    assert running_sums(short)[-1][1] == pytest.approx(s @ W[1])
    assert {e.prototype for e in short.rows} == set(np.argsort(-abs(s * W[1])[:7])[:k].tolist())
    assert [e.contribution for e in short.rows] == sorted((e.contribution for e in short.rows), reverse=True)


@pytest.mark.parametrize("broken", [dict(logit=9.0), dict(rest=3.0), dict(rows=[evidence(0, 9.0, 1.0)])])
def test_a_story_that_is_not_whole_is_not_drawn(broken):
    album, told = make_album(), planted()[2][0]._replace(**broken)
    for show in (looks_like_view, looks_like_sheet):
        with pytest.raises(ValueError, match="the story is not whole"): show(album, told, Thumbs(album.thumbs.x[:1]))


# -- the chain ----------------------------------------------------------------------------------------------------------------

def bars(html): return [tuple(map(float, b)) for b in re.findall(r"--s:([-\d.]+)%;--e:([-\d.]+)%;--z:([-\d.]+)%", html)]


@pytest.mark.parametrize("seed", range(5))
def test_each_bar_begins_where_the_last_one_ended(seed):
    s, W, told = planted(seed)
    *steps, total = bars(looks_like_view(make_album(), told[0], Thumbs(make_album().thumbs.x[:1])))
    low, high = common_span(told[0])
    sums = np.cumsum([0, *sorted((s * W[0])[:7], reverse=True), s[7:] @ W[0, 7:]])
    where = 100 * (sums - low) / (high - low)
    assert [b[0] for b in steps] == pytest.approx(where[:-1], abs=0.011) and [b[1] for b in steps] == pytest.approx(where[1:], abs=0.011)
    assert all(a[1] == b[0] for a, b in zip(steps, steps[1:])) and total == (total[2], steps[-1][1], steps[0][0])
    assert 0 <= min(map(min, steps)) and max(map(max, steps)) <= 100


def test_direction_is_told_without_colours():
    html = looks_like_view(make_album(), Explanation(0, 1.0, [evidence(0, 2.0, 1.0), evidence(1, 1.0, -1.5)], 0.5), Thumbs(make_album().thumbs.x[:1]))
    assert re.findall(r'role="img" aria-label="The sum (\w+) from (\S+) to (\S+?)"', html) == [
        ("rises", "+0.00", "+2.00"), ("falls", "+2.00", "+0.50"), ("rises", "+0.50", "+1.00"), ("rises", "+0.00", "+1.00")]
    assert html.count("pl-minus") == 1 and ".pl-minus b{border-color:#d9622b;background:repeating-linear-gradient" in WHY_STYLE


@pytest.mark.parametrize("start, end", [(0, 2), (2, 5), (5, 1), (0, -1), (-1, 5)])
def test_the_still_bar_covers_what_it_stands_for(start, end):
    pixels = np.asarray(fall_tile(start, end, (-1, 5), (605, 60)).image.convert("RGB")).astype(int)
    row = pixels[21]                                                        # the upper edge of the bar
    columns = np.flatnonzero((abs(row - row[[2 + 100 * (min(start, end) + 1)]]).sum(1) < 20))
    assert (columns[0], columns[-1]) == (2 + 100 * (min(start, end) + 1), 2 + 100 * (max(start, end) + 1) - 1)


# -- why not ------------------------------------------------------------------------------------------------------------------

def test_the_difference_is_a_sum_over_the_same_prototypes(tiny):
    model, x, out = tiny
    a, b = told_together(model, x, [4, 1], k=12)
    lead = told_apart(a, b)
    true = (out.s[0] * (model.last.weight[4] - model.last.weight[1])).detach()
    assert {e.prototype: e.contribution for e in lead.rows} == pytest.approx(dict(enumerate(true.tolist())), abs=1e-4)
    assert lead.logit == pytest.approx((out.logits[0, 4] - out.logits[0, 1]).item(), abs=1e-4) and lead.rest == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_records_that_tell_different_prototypes_stay_exact(tiny, k):
    "What is told in one record only goes to the rest, and the sum is still the difference"
    model, x, out = tiny
    a, b = explanations(model, x, [2, 5], k=k)
    lead = told_apart(a, b)
    both = {e.prototype for e in a.rows} & {e.prototype for e in b.rows}
    true = (out.s[0] * (model.last.weight[2] - model.last.weight[5])).detach()
    assert {e.prototype for e in lead.rows} == both
    assert lead.rest == pytest.approx(sum(true[j].item() for j in range(12) if j not in both), abs=1e-4)
    assert why_not_view(make_album(), a, b, Thumbs(make_album().thumbs.x[:1])).count("No prototype is told for both") == (not both)


def test_told_together_tells_the_terms_that_decide(tiny):
    model, x, out = tiny
    told = told_together(model, x, k=1)
    assert [t.target for t in told] == out.logits[0].argsort(descending=True)[:3].tolist()
    prototypes = {e.prototype for e in told[0].rows}
    assert all({e.prototype for e in t.rows} == prototypes for t in told)
    for t in told:                                                          # the largest term of the class, and of its lead over each other one
        for other in (torch.zeros(12), *(model.last.weight[u.target] for u in told if u is not t)):
            assert (out.s[0] * (model.last.weight[t.target] - other)).abs().argmax().item() in prototypes
        assert running_sums(t)[-1][1] == pytest.approx(out.logits[0, t.target].item(), abs=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_the_contrast_adds_up_and_shares_one_scale(seed):
    (s, W, told), album = planted(seed), make_album()
    html = why_not_view(album, told[0], told[1], Thumbs(album.thumbs.x[:1]), k=4)
    mine, theirs, lead = chains(html)
    for terms, rest, gap, total in (mine, theirs, lead): assert sum(terms) + sum(rest) + gap == total and len(terms) == 4
    assert [float(c[3]) for c in (mine, theirs, lead)] == pytest.approx([s @ W[0], s @ W[1], s @ (W[0] - W[1])], abs=0.00501)
    apart = sorted((s * (W[0] - W[1]))[:7], key=abs)[-4:]
    assert sorted(map(float, lead[0])) == pytest.approx(sorted(apart), abs=0.00501)
    ends = [bars(part)[-1] for part in html.split("<section")[1:3]]
    per_logit = [(e - z) / logit for (_, e, z), logit in zip(ends, (s @ W[0], s @ W[1]))]
    assert per_logit[0] == pytest.approx(per_logit[1], rel=0.02) and ends[0][2] == ends[1][2]


def test_two_images_are_not_compared():
    a, b, _ = planted()[2]
    other = b._replace(rows=[replace(e, similarity=e.similarity + 1) for e in b.rows], logit=b.logit + sum(e.weight for e in b.rows))
    with pytest.raises(ValueError, match="compare two classes of one image"): told_apart(a, other)


# -- the true parts -----------------------------------------------------------------------------------------------------------

def test_true_parts_stand_beside_the_rows():
    parts = torch.zeros(96, 96, dtype=torch.uint8)
    map = torch.zeros(96, 96)
    map[70, 20] = 1
    parts[70, 20] = PARTS.index("crown")                                    # one pixel, under the peak
    parts[:48] = PARTS.index("tail")                                        # the upper half of the box of prototype 4
    told = Explanation(0, 2.0, [replace(evidence(4, 2.0, 1.0), map=map)], 0.0)
    one, album = Thumbs(make_album().thumbs.x[:1]), make_album()
    with_parts, without = looks_like_view(album, told, one, None, parts), looks_like_view(album, told, one)
    assert re.search(r"True part: <span[^>]*><b[^>]*></b>crown</span>", with_parts) and "in the box: tail&nbsp;50%, background&nbsp;50%" in with_parts
    assert "The true part of each pixel: background, tail, crown" in with_parts
    assert with_parts.count("<img") == without.count("<img") + 1 and "True part" not in without
    assert part_shares(parts, (46, 0, 50, 2)) == {"tail": 0.5, "background": 0.5}


def test_parts_of_another_image_are_refused():
    album = make_album()
    for bad in (torch.zeros(48, 48, dtype=torch.uint8), torch.full((96, 96), 12, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="pass images.parts"): LooksLikeGallery(album, album.thumbs.x[0], planted()[2], 0, bad)


# -- the widget ---------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("other", [0, 1])
def test_each_control_changes_the_view(gallery, other):
    gallery.other.value = other
    for control in controls(gallery):
        seen = set()
        for value in settings(control):
            control.value = value
            seen.add(gallery.screen.value)
        assert len(seen) == len(settings(control))
        control.value = settings(control)[other if control is gallery.other else 0]


def test_another_class_keeps_the_question(gallery):
    gallery.other.value = 2
    gallery.target.value = 1
    assert gallery.other.value == 2 and f"Why {LONG[1].replace('<', '&lt;').replace('>', '&gt;').replace('& ', '&amp; ')} and not" in gallery.screen.value
    assert [label.split(" (")[0] for label, _ in gallery.other.options] == ["no other", LONG[0], LONG[2]]


def test_a_change_is_fast(gallery):
    gallery.other.value = 1
    def spent(to):
        start = time.perf_counter()
        gallery.target.value = to
        return time.perf_counter() - start
    assert min(spent(n % 3) for n in range(1, 7)) <= 0.2


@pytest.mark.parametrize("other", [0, 1])
def test_the_twin_is_a_picture(gallery, other):
    gallery.other.value = other
    bundle = gallery._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle and bundle["text/plain"] == gallery.title
    picture = Image.open(io.BytesIO(gallery.sheet(*gallery.shown())))
    assert picture.format == "JPEG" and 700 < picture.width < 1200
    assert [pair is gallery.shown()[0][1] for pair in (looks_like_sheet, why_not_sheet)] == [not other, bool(other)]


def test_every_row_of_buttons_has_a_slider(gallery):
    kinds = [type(c) for c in controls(gallery)]
    assert kinds == [ipywidgets.IntSlider, ipywidgets.ToggleButtons, ipywidgets.IntSlider, ipywidgets.ToggleButtons, ipywidgets.IntSlider]
    assert [c.description for c in controls(gallery)[::2]] == ["why", "and not", "rows"]
    controls(gallery)[0].value = 2
    controls(gallery)[2].value = 1
    assert gallery.target.value == 2 and gallery.other.value == 1


def test_one_class_alone_and_old_calls():
    "A single class has no rival; records, image and truth without parts are enough"
    album, told = make_album(), planted()[2]
    one = LooksLikeGallery(album, album.thumbs.x[3], told[:1], 1)
    assert [label for label, _ in one.other.options] == ["no other"] and len(one.sections()) == 1
    one.close()
    html = looks_like_view(album, told[0], Thumbs(album.thumbs.x[:1]), 1)
    assert "5 other prototypes" in html and "✗" in html
    assert "1 other prototype<" in looks_like_view(make_album(8), told[0], Thumbs(album.thumbs.x[:1]), 0)


def test_to_html_tells_all_and_asks_for_nothing(gallery, tmp_path):
    gallery.to_html(tmp_path/"why.html")
    html = (tmp_path/"why.html").read_text(encoding="utf-8")
    assert html.startswith("<!doctype html>") and html.endswith("</html>")
    assert not re.search(r'(src|href)="(?!data:image/jpeg;base64,|#)|@import|url\(|<script', html) and "<Pepper>" not in html
    assert html.count("<img") == len(re.findall(r'<img [^>]*alt="[^"]+"', html))
    assert html.count("<h2>") == 5 and html.count("What decided") == 2      # three classes alone, the first against two


# -- in a browser -------------------------------------------------------------------------------------------------------------

CHAIN = """() => ({columns: [...document.querySelectorAll('.pl-versus>section')].map(e => e.getBoundingClientRect().left),
  chain: [...document.querySelectorAll('.pl-why')].slice(0, 1).flatMap(w => [...w.querySelectorAll('.pl-fall b')].map(b => [b.getBoundingClientRect().left, b.getBoundingClientRect().right]))})"""


@pytest.fixture(scope="module")
def whole_page(tmp_path_factory):
    album, told = make_album(), [Explanation(t, 6.0 - t, [evidence(0, 2.0, 1.5, t), evidence(1, 1.0, 2.0, t), evidence(2, 1.0, 1.0, t)], float(-t)) for t in (0, 1)]
    one, parts = Thumbs(album.thumbs.x[3:4]), torch.randint(12, (96, 96), dtype=torch.uint8)
    sections = [("Why", looks_like_view(album, told[0], one, 1, parts)), ("Why not", why_not_view(album, *told, one, 1, parts))]
    path = tmp_path_factory.mktemp("page")/"page.html"
    path.write_text(page("A page & its <title>", sections, "Words.", STYLE + WHY_STYLE), encoding="utf-8")
    return path


@pytest.mark.parametrize("width, scheme", [(400, "dark"), (800, "light"), (1600, "dark")])
def test_a_page_in_the_browser(tab, whole_page, width, scheme):
    assert look_at(tab, whole_page, width, scheme) > 20
    state = tab.evaluate(CHAIN)
    assert (state["columns"][0] < state["columns"][1]) == (width > 400)
    *steps, total = state["chain"][:3] + state["chain"][-1:]                # three rows that rise, the others are 0, the sum
    assert all(abs(a[1] - b[0]) <= 1 for a, b in zip(steps, steps[1:])) and abs(total[0] - steps[0][0]) <= 1 and abs(total[1] - steps[-1][1]) <= 1
