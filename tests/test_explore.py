"The activation explorer: hidden squares against independent oracles, two planted networks, the gallery with and without a browser"
import io
import math
import re

import ipywidgets
import pytest
import torch
import torch.nn.functional as F
from looking import EDGES, LONG, controls, living, look_at, settings
from PIL import Image
from torch import nn

from protolab.backbone import Backbone, field_box, geometry
from protolab.core import Evidence, Patch, Stats
from protolab.explain import ask, local, map_geometry
from protolab.explore import ActivationGallery, Lens, activation_sheet, activation_view, captions, drops, hidden, lenses, occlusion_map, scale_html, spread, squares, still_panels
from protolab.gallery import Album, Thumbs
from protolab.model import ProtoPNet, protopnet, tiny_model
from protolab.prototypes import PrototypeLayer
from protolab.show import PART_COLOURS


def seeded(*shape, seed=0): return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# -- hidden squares -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("size, side, step", [((96, 96), None, None), ((28, 28), None, None), ((60, 140), None, None), ((17, 23), 5, 5), ((9, 40), 4, 3), ((8, 8), 8, 8)])
def test_each_pixel_is_hidden_and_the_number_of_places_is_the_formula(size, side, step):
    grid, seen = squares(size, side, step), torch.zeros(size)
    for r in range(grid.cells[0]):
        for c in range(grid.cells[1]):
            t, l, b, right = field_box((r, c), grid)
            seen[t:b, l:right] += 1
    assert seen.min() >= 1
    assert grid.cells == tuple(math.ceil(n / grid.stride) for n in size)


@pytest.mark.parametrize("side, step", [(8, 9), (0, 1), (8, 0), (97, 4)])
def test_squares_that_leave_gaps_or_do_not_fit_are_refused(side, step):
    with pytest.raises(ValueError, match="1 <= step <= side <= 96"): squares((96, 120), side, step)


def small_model():
    torch.manual_seed(3)
    return protopnet("small", ["a", "b"], per_class=3, D=8)


def patched_model():
    torch.manual_seed(1)
    return protopnet("tiny", ["a", "b", "c"], per_class=2, D=6, patch=(2, 2))


@pytest.mark.parametrize("make", [tiny_model, patched_model])
@pytest.mark.parametrize("batch", [1, 5, 64])
def test_drops_equal_slices_cut_by_hand(make, batch):
    "Squares of 4 px every 4 px need no geometry: they are the blocks of the image"
    torch.manual_seed(0)
    model, x, fill = make(), seeded(3, 16, 24), torch.tensor([0.3, 0.1, 0.2]).view(3, 1, 1)
    expected = torch.empty(3, 4, 6)
    for r in range(4):
        for c in range(6):
            cut = x.clone()
            cut[:, 4 * r:4 * r + 4, 4 * c:4 * c + 4] = fill
            with torch.no_grad(): expected[:, r, c] = (model(x[None]).s - model(cut[None]).s)[0, [4, 0, 2]]
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(drops(model, x, [4, 0, 2], squares((16, 24), 4, 4), fill, batch), expected, atol=1e-5, rtol=1e-5)


def test_the_default_fill_is_the_mean_colour_of_the_image():
    model, x, j = small_model(), seeded(3, 32, 48), [0, 1, 2]
    mean = torch.stack([x[c].sum() / (32 * 48) for c in range(3)]).view(3, 1, 1)
    torch.testing.assert_close(occlusion_map(model, x, j, 8, 8), occlusion_map(model, x[None], j, 8, 8, mean), atol=1e-5, rtol=1e-5)
    assert (occlusion_map(model, x, j, 8, 8) - occlusion_map(model, x, j, 8, 8, torch.zeros(3, 1, 1))).abs().max() > 1e-3


def test_hiding_with_the_image_itself_changes_nothing():
    model, x = tiny_model(), seeded(3, 16, 24)
    assert drops(model, x, [0, 1, 2], squares((16, 24)), x).abs().max() < 1e-5
    assert torch.equal(hidden(x, (1, 2), squares((16, 24)), x), x)


def test_looking_leaves_everything_as_it_was():
    model, x = tiny_model().train(), seeded(3, 16, 24)
    state, before = {k: v.clone() for k, v in model.state_dict().items()}, x.clone()
    made = lenses(model, x, k=2)
    assert model.training and torch.equal(x, before) and not any(l.drop.requires_grad for l in made)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_one_pass_a_place_whatever_the_number_of_prototypes():
    model, seen = tiny_model(), []
    model.backbone.register_forward_hook(lambda module, args, out: seen.append(len(args[0])))
    for prototypes in ([0], [0, 1, 2, 3, 4, 5]):
        seen.clear()
        occlusion_map(model, seeded(3, 96, 96), prototypes)
        assert sum(seen) == 12 * 12 + 1                   # and the whole image once


@pytest.mark.parametrize("size, step", [((24, 40), 4), ((20, 20), 5)])
def test_spread_is_bilinear_where_the_squares_tile_the_image(size, step):
    grid = squares(size, step, step)
    values = seeded(2, *grid.cells)
    torch.testing.assert_close(spread(values, grid), F.interpolate(values[None], size, mode="bilinear", align_corners=False)[0])


def test_no_pixel_shows_more_than_was_measured():
    for n in range(20):
        values = seeded(1, 12, 12, seed=n) ** 8 - 0.1
        made = spread(values, squares((96, 96)))
        assert values.min() - 1e-6 <= made.min() and made.max() <= values.max() + 1e-6


# -- the receptive field ------------------------------------------------------------------------------------------------------

def apart(a, b): return a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


@pytest.mark.parametrize("seed", range(3))
def test_the_field_holds_all_pixels_with_a_gradient_and_reaches_its_edges(seed):
    model, x = small_model(), seeded(1, 3, 64, 48, seed=seed)
    lens = lenses(model, x, k=1, side=16, step=16)[0]
    x.requires_grad_()
    (g,) = torch.autograd.grad(model.prototypes.maps(model.features(x))[0, lens.evidence.prototype][lens.evidence.cell], x)
    rows, columns = (g[0].abs().sum(0).sum(axis).nonzero().flatten().tolist() for axis in (1, 0))
    assert lens.field == (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1)


@pytest.mark.parametrize("seed", range(3))
def test_no_square_outside_the_field_lowers_the_similarity(seed):
    model, x, grid = small_model(), seeded(3, 64, 48, seed=seed), squares((64, 48), 8, 4)
    told = local(model, x, k=6)
    falls = drops(model, x, [e.prototype for e in told], grid, torch.zeros(3, 1, 1))
    g, counted = map_geometry(model, geometry(model.backbone, (64, 48))), 0
    for e, fall in zip(told, falls):
        field = field_box(e.cell, g)
        outside = torch.tensor([apart(field_box(divmod(n, grid.cells[1]), grid), field) for n in range(fall.numel())])
        counted += outside.sum().item()
        assert fall.flatten()[outside].max() < 1e-5 < fall.max()
    assert counted > 100


# -- planted networks ---------------------------------------------------------------------------------------------------------

def red_model(right=0):
    "Redness of cells of 8 px, read `right` cells to the right; prototype 0 is red, prototype 1 is not"
    redness, look = nn.Conv2d(3, 1, 8, stride=8, bias=False), nn.Conv2d(1, 1, (1, 9), padding=(0, 4), bias=False)
    redness.weight.data = torch.tensor([1, -0.5, -0.5]).view(1, 3, 1, 1).expand(1, 3, 8, 8) / 64
    look.weight.data = F.one_hot(torch.tensor(4 + right), 9).float().view(1, 1, 1, 9)
    backbone = Backbone("red", nn.Sequential(redness, look), nn.Identity(), channels=1, stats=Stats((0.0,) * 3, (1.0,) * 3))
    made = ProtoPNet(backbone, nn.Identity(), PrototypeLayer(2, 1), torch.tensor([0, 1]), ["red", "not red"])
    made.prototypes.vectors.data = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)
    return made.eval()


def spots(*places):
    "96 x 96 px of grey with red cells"
    x = torch.full((3, 96, 96), 0.5)
    for r, c in places: x[:, 8 * r:8 * r + 8, 8 * c:8 * c + 8] = torch.tensor([1.0, 0, 0]).view(3, 1, 1)
    return x


def peak(map): return divmod(map.argmax().item(), map.shape[1])


def test_a_fall_by_hand():
    "Red goes from d = 0 to d = 1, so the similarity from ln(1 / 0.0001) to ln(2 / 1.0001)"
    fall = drops(red_model(), spots((5, 9)), [0], squares((96, 96), 8, 8), torch.full((3, 1, 1), 0.5))[0]
    assert fall[5, 9].item() == pytest.approx(math.log(1 / 0.0001) - math.log(2 / 1.0001), abs=1e-4)
    fall[5, 9] = 0
    assert fall.abs().max() < 1e-4


@pytest.mark.parametrize("right", [-3, 0, 4])
@pytest.mark.parametrize("row, column", [(5, 6), (2, 5), (9, 7)])
def test_hidden_squares_find_what_the_box_misses(right, row, column):
    lens = lenses(red_model(right), spots((row, column)), target=0, k=1)[0]
    y, x = peak(lens.drop)
    assert 8 * row <= y < 8 * row + 8 and 8 * column <= x < 8 * column + 8     # always on the red cell
    assert lens.evidence.cell == (row, column - right)                        # the winner sits elsewhere
    t, l, b, r = lens.field
    assert t <= 8 * row and 8 * row + 8 <= b and l <= 8 * column and 8 * column + 8 <= r
    assert (lens.evidence.box[1] < 8 * column + 8 and lens.evidence.box[3] > 8 * column) == (right == 0)


def test_what_is_there_twice_is_not_missed():
    falls = [occlusion_map(red_model(), spots(*places), [0])[0].max().item() for places in (((5, 9),), ((5, 9), (5, 2)))]
    assert falls[0] > 8 and falls[1] < 1e-3


def test_a_fill_that_looks_like_the_prototype_raises_it():
    red, grey = (torch.tensor(v).view(3, 1, 1) for v in ([1.0, 0, 0], [0.5, 0.5, 0.5]))
    nothing = torch.full((3, 96, 96), 0.5)
    assert drops(red_model(), nothing, [0], squares((96, 96)), red).max() < -5
    assert drops(red_model(), nothing, [0], squares((96, 96)), grey).abs().max() < 1e-4


# -- records ------------------------------------------------------------------------------------------------------------------

def test_lenses_are_the_terms_of_the_logit_in_their_order():
    model, x = small_model(), seeded(3, 64, 48)
    made, told = lenses(model, x, target=1, k=4), local(model, x, target=1, k=4)
    assert [(l.evidence.prototype, l.evidence.target, l.evidence.box) for l in made] == [(e.prototype, 1, e.box) for e in told]
    for lens in made:
        torch.testing.assert_close(lens.drop, occlusion_map(model, x, [lens.evidence.prototype])[0], atol=1e-5, rtol=1e-5)
    assert lenses(model, x, k=1)[0].evidence.target == ask(model, x).logits.argmax().item()
    with pytest.raises(ValueError, match="one image"): lenses(model, seeded(2, 3, 64, 48))


# -- the gallery --------------------------------------------------------------------------------------------------------------

def a_lens(j, size=(96, 96), similarity=3.0, fall=1.25):
    map, box = seeded(*size, seed=j), EDGES[j % 5] if size == (96, 96) else (2, 3, size[0] // 2, size[1] // 2)
    drop = torch.full(size, -0.5)
    drop[size[0] // 2, size[1] // 4] = fall
    e = Evidence(prototype=j, of=j % 4, target=1, similarity=similarity, weight=1.0, cell=(0, 0), box=box, map=map)
    return Lens(e, (0, size[1] // 4, size[0] // 2, size[1]), drop)


def an_album(size=(96, 96)):
    x = torch.randint(256, (6, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Album([Patch(j, j, f"image {j}", j % 4, (0, 0), (0, 0, 8, 8), 0.1) for j in range(6)], Thumbs(x), LONG)


def explorer(parts=None, size=(96, 96)):
    album = an_album(size)
    return ActivationGallery(album, album.thumbs.x[3], [a_lens(j, size) for j in range(5)], parts)


@pytest.fixture
def gallery():
    made = explorer()
    yield made
    made.close()


def test_each_control_changes_the_view_and_leaves_no_widget_behind(gallery):
    before = living()
    for control in controls(gallery):
        seen = set()
        for value in settings(control):
            control.value = value
            seen.add(gallery.screen.value)
        assert len(seen) == len(settings(control))
        control.value = settings(control)[0]
    assert living() == before


def test_every_control_is_reached_by_keyboard(gallery):
    kinds = [type(c) for c in controls(gallery)]
    assert {*kinds} == {ipywidgets.Dropdown, ipywidgets.IntSlider, ipywidgets.ToggleButtons, ipywidgets.ToggleButton}
    assert kinds.count(ipywidgets.IntSlider) > kinds.count(ipywidgets.Dropdown)      # a slider steps through the list


def test_the_twin_is_a_picture_that_follows_the_controls(gallery):
    bundle = gallery._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle and bundle["text/plain"] == "Activation explorer"
    first = gallery.sheet(*gallery.shown())
    gallery.prototype.value, gallery.colours.value = 2, "jet"
    second = Image.open(io.BytesIO(gallery.sheet(*gallery.shown())))
    assert second.format == "JPEG" and 300 < second.width < 1200 and gallery.sheet(*gallery.shown()) != first


def test_the_legacy_colours_only_on_request(gallery):
    magma, jet = "#000004,#1", "#000080,#0"                 # how the strips of both begin
    assert magma in gallery.screen.value and jet not in gallery.screen.value
    assert [name for name, value in gallery.colours.options.items() if value == "jet"] == ["jet (legacy)"]
    gallery.colours.value = "jet"
    assert jet in gallery.screen.value and magma not in gallery.screen.value


def boxes(html): return len(re.findall(r"<i style=", html))


def test_marks_come_and_go():
    album, lens = an_album(), a_lens(0)
    def view(*marks): return activation_view(album, lens, album.thumbs, marks=marks)
    assert boxes(view("box")) == 4 + 2 and boxes(view()) == 2        # the prototype's own two boxes stay
    assert view("field").count("pl-field") == 2 and "pl-field" not in view("box", "peak")
    assert "pl-noring" in view("box") and "pl-noring" not in view("peak")


def test_marks_come_and_go_in_the_still_picture():
    lens, grey = a_lens(1), Image.new("RGB", (192, 192), (90, 90, 90))
    bare = still_panels(lens, grey, opacity=0.0, marks=())
    assert len(bare) == 4 and all(image.getcolors() == [(192 * 192, (90, 90, 90))] for image in bare)
    lit = still_panels(lens, grey, opacity=0.0, marks=("field",))[2]
    assert [lit.getpixel(p) for p in ((20, 20), (120, 40), (120, 150))] == [(36, 36, 36), (90, 90, 90), (36, 36, 36)]    # the field: upper half, right three quarters
    ring = still_panels(lens, grey, opacity=0.0, marks=("peak",))[3]
    assert ring.getpixel((2 * 24 + 1, 2 * 48 + 1 - 7)) == (255, 255, 255) and ring.getpixel((100, 20)) == (90, 90, 90)


def test_what_rises_is_as_dark_as_what_does_not_change():
    album, lens = an_album(), a_lens(0)
    flat = lens._replace(drop=lens.drop.clamp(min=0))
    assert lens.drop.min() < 0 and not torch.equal(lens.drop, flat.drop)
    for show in (activation_view, activation_sheet): assert show(album, lens, album.thumbs) == show(album, flat, album.thumbs)


def test_captions_by_hand():
    parts = torch.full((96, 96), list(PART_COLOURS).index("wing"), dtype=torch.uint8)
    parts[48, 24] = list(PART_COLOURS).index("beak")
    lens = a_lens(1)
    told = {title: shows for title, shows, _ in captions(lens, parts)}
    assert told["Box"] == "Where the map is high: 1% of the image."                # 8 x 8 of 96 x 96 px
    assert "38% of the image" in told["Receptive field"]                          # a half of three quarters
    assert "3.00 falls by up to 1.25" in told["Occlusion"] and told["Occlusion"].endswith("on the beak.")
    assert told["Map"].endswith("on the wing.") and "on the" not in captions(lens)[3][1]
    assert "−2.00 falls by up to 0.00" in captions(a_lens(1, similarity=-2.0, fall=-0.1))[3][1]


def test_each_picture_says_what_it_does_not_prove(gallery):
    for _, _, not_this in captions(a_lens(0)): assert not_this.startswith("It does not") and not_this in gallery.screen.value


def test_the_view_is_text_that_cannot_break_out(gallery):
    gallery.prototype.value = 1
    html = gallery.screen.value
    assert "<Pepper>" not in html and "&lt;Pepper&gt;" in html and "<script" not in html
    assert html.count("<img") == len(re.findall(r'<img [^>]*alt="[^"]+"', html)) == 8


def test_to_html_is_whole_and_asks_for_nothing(gallery, tmp_path):
    gallery.to_html(tmp_path/"g.html")
    html = (tmp_path/"g.html").read_text(encoding="utf-8")
    assert html.startswith("<!doctype html>") and html.endswith("</html>") and html.count('class="pl-four"') == 5
    assert not re.search(r'(src|href)="(?!data:image/jpeg;base64,|#)|@import|url\(', html)


@pytest.mark.parametrize("size", [(28, 28), (60, 140), (140, 60)])
def test_images_of_any_shape(size):
    gallery = explorer(torch.zeros(size, dtype=torch.uint8), size)
    assert "on the background" in gallery.screen.value
    assert Image.open(io.BytesIO(activation_sheet(*gallery.shown()))).format == "JPEG"
    gallery.close()


def test_maps_of_another_image_are_refused():
    album = an_album()
    for found, parts in (([], None), ([a_lens(0, (60, 140))], None), ([a_lens(0)], torch.zeros(60, 140))):
        with pytest.raises(ValueError, match="of this image"): ActivationGallery(album, album.thumbs.x[3], found, parts)


def test_the_scale_has_the_colours_of_the_map():
    assert re.findall("#[0-9a-f]{6}", scale_html(0, 1, "viridis"))[::8] == ["#440154", "#fde725"]      # from dark violet to yellow
    assert "<span>−1.0</span>" in scale_html(-1.04, 2)


PANELS = """() => ({panels: [...document.querySelector('.pl-four').children].map(f => { const r = f.querySelector('.pl-pic').getBoundingClientRect(); return [r.left, r.top, r.width].map(Math.round); }),
  cut: [...document.querySelectorAll('.pl-four figcaption, .pl-bar')].filter(e => e.scrollWidth > e.clientWidth).length})"""


@pytest.mark.parametrize("width, columns, scheme", [(400, 2, "light"), (1000, 4, "dark"), (1600, 4, "light")])
def test_the_page_in_the_browser(tab, gallery, tmp_path, width, columns, scheme):
    gallery.to_html(tmp_path/"g.html")
    assert look_at(tab, tmp_path/"g.html", width, scheme) == 5 * 8
    state = tab.evaluate(PANELS)
    assert len({left for left, _, _ in state["panels"]}) == columns and len({top for _, top, _ in state["panels"]}) == 4 // columns
    assert min(w for _, _, w in state["panels"]) >= 150 and not state["cut"]
