"The film where a lesson is too small: bits, a run that is stopped and goes on, planted patches, odd films, and the gallery's page"
import re

import pytest
import torch
from looking import look_at

from protolab.backbone import geometry
from protolab.core import Patch, seed_everything
from protolab.data import Images, Loader, Loaders
from protolab.film import Film, FilmGallery, Frame, film_reel, film_sheet, film_view, fate, highlights, life_html, moved_on, nearest_now, read_frames, strip_html
from protolab.gallery import Album, Thumbs
from protolab.last_layer import LastLayer
from protolab.loss import default_loss
from protolab.model import tiny_model
from protolab.project import Projection
from protolab.train import Stage, fit

LONG = ["Great Crested Flycatcher of the Northern Woods", "Salt & <Pepper>", "鸟"]


def dls(n=24):
    draw = torch.Generator().manual_seed(4)
    images = Images(torch.randint(256, (n, 3, 16, 16), dtype=torch.uint8, generator=draw), torch.arange(n) % 3, LONG, [f"<{i}>" for i in range(n)])
    return Loaders(Loader(images, batch=8, shuffle=True), *[Loader(images, batch=8)] * 3)


def stages(net): return [Stage("warm", 3, {"add_on": 1e-2, "prototypes": 1e-1}, default_loss), Projection(geometry(net.backbone, (16, 16))), LastLayer(),
                         Stage("joint", 2, {"add_on": 1e-2, "prototypes": 1e-1}, default_loss)]


def fresh():
    seed_everything(0)
    return tiny_model()


def film_of(net, folder=None): return Film(net, dls(), geometry(net.backbone, (16, 16)), folder)


def bare(history): return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


def test_filming_changes_no_bit():
    plain, filmed = fresh(), fresh()
    rows = fit(plain, dls(), stages(plain))
    filmed = fresh()
    film = film_of(filmed)
    assert bare(fit(filmed, dls(), stages(filmed), each=film)) == bare(rows)
    for name, value in plain.state_dict().items():
        if isinstance(value, torch.Tensor): assert torch.equal(value, filmed.state_dict()[name]), name
    assert [(f.stage, f.epoch) for f in film] == [("start", 0), ("warm", 1), ("warm", 2), ("warm", 3), ("project", 1), ("last layer", 1), ("joint", 1), ("joint", 2)]
    assert [f.numbers["accuracy"] for f in film[1:]] == [row["accuracy"] for row in rows]
    assert all("seconds" not in f.numbers and "stage" not in f.numbers for f in film)


def test_a_frame_names_what_projection_would_take():
    net = fresh()
    now = nearest_now(net, dls().project, geometry(net.backbone, (16, 16)))
    list(Projection(geometry(net.backbone, (16, 16)))(net, dls(), {}))
    assert now == net.provenance


def test_distances_before_at_and_after_projection():
    net = fresh()
    film = film_of(net)
    fit(net, dls(), stages(net), each=film)
    d = [[p.distance for p in f.patches] for f in film]
    assert min(map(min, d[:4])) > 0 and d[4] == d[5] == [0.0] * len(d[4]) and min(map(max, d[6:])) > 0   # a joint stage moves them away again
    assert not any(moved_on(film, 4, j) for j in range(len(net.cls)))


@pytest.mark.parametrize("stop", [1, 2, 4, 6])
def test_a_stopped_run_goes_on_with_its_film(tmp_path, stop):
    whole = fresh()
    film = film_of(whole)
    fit(whole, dls(), stages(whole), each=film)

    class Stop(Exception): pass
    net = fresh()
    first = film_of(net, tmp_path)
    def each(history):
        first(history)
        if len(history) == stop: raise Stop
    with pytest.raises(Stop): fit(net, dls(), stages(net), tmp_path, each)
    again = fresh()
    second = film_of(again, tmp_path)
    fit(again, dls(), stages(again), tmp_path, second)
    assert list(second) == list(film) == read_frames(tmp_path/"film.json")


def test_a_frame_that_was_lost_leaves_a_gap_that_its_number_shows(tmp_path):
    class Stop(Exception): pass
    net = fresh()
    first = film_of(net, tmp_path)
    def each(history):
        if len(history) == 2: raise Stop                      # after the checkpoint, before the frame
        first(history)
    with pytest.raises(Stop): fit(net, dls(), stages(net), tmp_path, each)
    again = fresh()
    second = film_of(again, tmp_path)
    fit(again, dls(), stages(again), tmp_path, second)
    assert [f.number for f in second] == [0, 1, 3, 4, 5, 6, 7]


def test_an_old_film_does_not_begin_a_new_run(tmp_path):
    old = film_of(fresh(), tmp_path)
    old.take("warm", 1, {"accuracy": 1.0}, 1)
    assert len(read_frames(tmp_path/"film.json")) == 2
    assert len(film_of(fresh(), tmp_path)) == 1               # no checkpoint there, so nothing to go on with


def test_rows_that_are_run_again_replace_their_frames():
    film = film_of(fresh())
    rows = [dict(stage="warm", epoch=n, accuracy=n / 10, seconds=1.0) for n in (1, 2, 3)]
    for n in (1, 2, 3): film(rows[:n])
    film([rows[0], rows[1] | {"accuracy": 0.9}])              # taken up again after the first row
    assert [(f.number, f.numbers["accuracy"]) for f in film[1:]] == [(1, 0.1), (2, 0.9)]


@pytest.mark.parametrize("wrong", ["shuffle", "augment"])
def test_a_loader_in_disorder_is_refused(wrong):
    net, sets = fresh(), dls()
    bad = sets.train if wrong == "shuffle" else Loader(sets.project.images, batch=8, augment=lambda x: x.flip(-1))
    with pytest.raises(ValueError, match="position in its stream" if wrong == "shuffle" else "augments"):
        Film(net, sets._replace(project=bad), geometry(net.backbone, (16, 16)))


# -- films made by hand -------------------------------------------------------------------------------------------------------

def acted(N=7, P=6, wide=96):
    "Prototype 0 stays; prototype 1 changes its image at frame 2, its cell at frame 4; all are projected at frame 5"
    def image(n, j): return 3 if j == 1 and n >= 2 else j
    def cell(n, j): return (1, 1) if j == 1 and n >= 4 else (0, 0)
    def one(n, j): return Patch(j, image(n, j), f"image <{j}>", j * 3 // P, cell(n, j), (8 * j, 8, 8 * j + 8, 16), 0.0 if n >= 5 else 1 / (1 + n))
    names = ["start", "warm", "warm", "warm", "warm", "project", "last layer"]
    numbers = [{"accuracy": n / 10} | ({"loss": 1 / n} if 1 <= n < 5 else {}) for n in range(N)]
    return [Frame(n, names[min(n, 6)], n and (n if n < 5 else 1), [one(n, j) for j in range(P)], numbers[n]) for n in range(N)]


def album(P=6, H=96, width=96): return Album(acted(P=P)[-1].patches, Thumbs(torch.full((P, 3, H, width), 120, dtype=torch.uint8)), LONG)


def test_what_is_told_of_a_prototype():
    film = acted()
    assert [moved_on(film, n, 1) for n in range(7)] == [False, False, True, False, True, False, False]
    assert not any(moved_on(film, n, 0) for n in range(7))
    assert moved_on(film, 6, 1, since=0) and not moved_on(film, 6, 1, since=4)
    assert [fate(film, n, 1) for n in (0, 1, 2, 5)] == ["near this patch", "the same patch as before", "another patch than before", "it is this patch"]
    assert re.findall("height:([0-9.]+)%", life_html(film, 2, 1, top=1.0)) == ["100.0", "50.0", "33.3", "25.0", "20.0", "0.0", "0.0"]
    assert life_html(film, 2, 1, top=1.0).count("●") == 2 and "warm 2, warm 4" in life_html(film, 2, 1, top=1.0)


@pytest.mark.parametrize("most", range(1, 9))
def test_highlights_keep_the_ends_of_stages(most):
    film = acted()
    shown = highlights(film, most)
    assert {0, 4, 5, 6} <= set(shown) and len(shown) == max(4, min(most, 7)) and shown == sorted(set(shown))


@pytest.fixture
def gallery():
    made = FilmGallery(album(), acted())
    yield made
    made.close()


def test_each_control_changes_the_view(gallery):
    for control, values in ((gallery.frame, range(7)), (gallery.label, range(3))):
        seen = set()
        for value in values:
            control.value = value
            seen.add(gallery.screen.value)
        assert len(seen) == len(values)


def test_the_gallery_without_a_kernel(gallery, tmp_path):
    gallery.frame.value, gallery.label.value = 2, 1
    sheet = gallery._repr_mimebundle_()["image/jpeg"]
    assert len(sheet) > 1000
    gallery.to_html(tmp_path/"film.html")
    html = (tmp_path/"film.html").read_text(encoding="utf-8")
    assert "<Pepper>" not in html and "<script" not in html and html.count("<img") == 7 * 6 == len(re.findall(r'<img [^>]*alt="[^"]+"', html))


def test_long_and_short_films():
    long = [Frame(n, "warm", n, acted()[min(n, 4)].patches, {}) for n in range(400)]       # no accuracy, no cost
    html = film_view(album(), long, 200, 0)
    assert html.count("<span") < 150 and len(html) < 60_000
    assert strip_html(album(), long, 0).count("<img") == 2 * 10
    one = acted()[:1]
    assert film_view(album(), one, 0, 0) and film_sheet(album(), one, 0, 0)


@pytest.mark.parametrize("size", [(96, 96), (28, 28), (60, 140)])
def test_images_of_any_shape(size):
    film = [f._replace(patches=[Patch(p.prototype, p.image, p.name, p.label, p.cell, (4, 4, 20, 20), p.distance) for p in f.patches]) for f in acted()]
    shown = Album(film[-1].patches, Thumbs(torch.zeros(6, 3, *size, dtype=torch.uint8)), LONG)
    assert film_view(shown, film, 3, 0).count("<img") == 4 and film_sheet(shown, film, 3, 0)


def test_a_reel_has_a_view_for_each_frame():
    reel = film_reel(album(), acted(), 1)
    assert len(reel.stack.children) == 7 and len({child.value for child in reel.stack.children}) == 7
    assert reel.sheet[:2] == b"\xff\xd8"
    reel.close()


@pytest.mark.parametrize("width, scheme", [(400, "dark"), (1600, "light")])
def test_a_film_in_the_browser(tab, tmp_path, width, scheme):
    from protolab.film import FILM_STYLE
    from protolab.gallery import STYLE, page
    (tmp_path/"f.html").write_text(page("Film", [("now", film_view(album(), acted(), 2, 0)), ("strip", strip_html(album(), acted(), 1))], style=STYLE + FILM_STYLE), encoding="utf-8")
    assert look_at(tab, tmp_path/"f.html", width, scheme) > 10
