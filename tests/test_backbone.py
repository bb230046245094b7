"Geometry against the network's own gradients at many sizes, upsampling against torch, VGG-16 against torchvision, and bad input"
import copy
import math
import random
import time
import urllib.request
import warnings

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from torch import nn

from protolab.backbone import (WEIGHTS, Geometry, add_on, make_backbone, cell_box, cell_centre, field_box, follow, geometry, load_weights, measure_lean, patched,
                               pixel_cell, read_weights, register, upsample)
from protolab.birds import draw_birds
from protolab.core import seed_everything

SIZES = [(96, 96), (97, 97), (96, 101), (64, 90), (127, 66)]
CASES = [("lite0", size) for size in SIZES] + [("small", size) for size in SIZES] + [("vgg16", (64, 64)), ("vgg16", (97, 150)), ("vgg16", (300, 300))]


def thin(layer):
    "The same window with one channel in and out"
    one = copy.copy(layer)
    if isinstance(layer, nn.Conv2d):
        one = type(layer)(1, 1, layer.kernel_size, layer.stride, layer.padding, layer.dilation, bias=False)
        nn.init.constant_(one.weight, 1 / one.weight.numel())
    if isinstance(layer, nn.MaxPool2d): one = nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding)
    if isinstance(layer, nn.BatchNorm2d): one = nn.Identity()
    return one


def positive(net):
    "A copy in which nothing can cancel: a gradient is positive exactly where an influence is possible"
    net = copy.deepcopy(net)
    for owner in list(net.modules()):
        for name, layer in list(owner.named_children()):
            if not list(layer.children()): setattr(owner, name, thin(layer))
    return net.double().eval()


def influence(net, size, cells):
    "(top, left, bottom, right) of the pixels that can change any of the cells; they must fill that box"
    x = torch.full((1, 1, *size), 0.1, dtype=torch.double, requires_grad=True)
    z = net.adapter(net.trunk(x))
    sum(z[0, 0, r, c] for r, c in cells).backward()
    seen = x.grad[0, 0] > 0
    rows, columns = [seen.any(axis).nonzero() for axis in (1, 0)]
    t, l, b, r = rows.min().item(), columns.min().item(), rows.max().item() + 1, columns.max().item() + 1
    assert seen.sum() == (b - t) * (r - l)
    return t, l, b, r


def some_cells(g):
    "The corners, the middle and a few at random"
    h, w = g.cells
    rng = random.Random(0)
    return [(0, 0), (h - 1, w - 1), (0, w - 1), (h // 2, w // 2), *[(rng.randrange(h), rng.randrange(w)) for _ in range(3)]]


@pytest.fixture(scope="module")
def nets():
    seed_everything(0)
    return {name: make_backbone(name, pretrained=name == "lite0").eval() for name in ("lite0", "small", "vgg16")}


@pytest.fixture(scope="module")
def thin_nets(nets): return {name: positive(net) for name, net in nets.items()}


# -- geometry -----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name,size", CASES)
def test_fields_are_what_the_gradient_says(nets, thin_nets, name, size):
    g = geometry(nets[name], size)
    for cell in some_cells(g): assert field_box(cell, g) == influence(thin_nets[name], size, [cell])


@pytest.mark.parametrize("name", ["lite0", "small", "vgg16"])
def test_cells_are_what_the_network_gives(nets, name):
    for size in ((64, 64), (65, 71), (96, 33)):
        with torch.no_grad(): assert nets[name](torch.zeros(1, 3, *size)).shape[-2:] == geometry(nets[name], size).cells


@pytest.mark.parametrize("patch", [(1, 1), (2, 2), (3, 1)])
def test_fields_of_larger_patches(nets, thin_nets, patch):
    g = geometry(nets["small"], (61, 64))
    p = patched(g, *patch)
    for r, c in some_cells(p):
        covered = [(r + i, c + j) for i in range(patch[0]) for j in range(patch[1])]
        assert field_box((r, c), p) == influence(thin_nets["small"], (61, 64), covered)


def test_a_patch_covers_the_boxes_of_its_cells(nets):
    for name in ("lite0", "small"):
        g = geometry(nets[name], (96, 96))
        p = patched(g, 3, 2)
        for r, c in some_cells(p):
            boxes = [cell_box((r + i, c + j), g) for i in range(3) for j in range(2)]
            whole = tuple(f(box[k] for box in boxes) for k, f in enumerate((min, min, max, max)))
            assert cell_box((r, c), p) == whole


def test_known_fields(nets):
    "VGG-16 sees 212 px and gives 7x7 at 224; the three backbones start where a hand calculation says"
    assert geometry(nets["vgg16"], (224, 224)) == Geometry(32, (15.5, 15.5), (212, 212), (7, 7), (224, 224))
    assert geometry(nets["lite0"], (224, 224))[:4] == (8, (7.0, 7.0), (67, 67), (28, 28))


@pytest.mark.parametrize("name,size", CASES)
def test_there_and_back(nets, name, size):
    g = geometry(nets[name], size)
    for cell in ((r, c) for r in range(g.cells[0]) for c in range(g.cells[1])):
        assert pixel_cell(*cell_centre(cell, g), g) == cell
        top, left, bottom, right = cell_box(cell, g)
        assert 0 <= top < bottom <= size[0] and 0 <= left < right <= size[1]
        assert {pixel_cell(y, x, g) for y in (top, bottom - 1) for x in (left, right - 1)} == {cell}


def test_the_walk_leaves_no_trace():
    net = make_backbone("small").train()
    before = copy.deepcopy(net.state_dict())
    geometry(net, (96, 96))
    assert net.training and not any(m._forward_hooks for m in net.modules())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_modes_come_back_even_when_the_walk_fails():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(1, 1)).train()
    with pytest.raises(ValueError, match="may carry anything"): follow(net, (8, 8))
    assert net.training and net[0].training
    assert not hasattr(net[0](torch.zeros(1, 3, 8, 8)), "reach")


def test_dilation_and_named_padding():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, dilation=2, padding="same"), nn.Conv2d(4, 4, 3, padding="valid"), nn.AvgPool2d(2))
    assert geometry(net, (34, 34)) == Geometry(2, (1.5, 1.5), (8, 8), (16, 16), (34, 34))


def test_pooling_that_is_no_module():
    "3x3 and then 2x2: a field of 4, and the first two cells' middle at 0.5"
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x): return F.max_pool2d(self.conv(x), 2)
    assert geometry(Hidden(), (32, 32)) == Geometry(2, (0.5, 0.5), (4, 4), (16, 16), (32, 32))


# -- where the weights look ---------------------------------------------------------------------------------------------------

def birds(size, hide=()):
    images = torch.from_numpy(draw_birds(range(16), size=size, hide=hide)[0]).permute(0, 3, 1, 2)
    return (images.float() - 127) / 128


def gravity(m): return torch.stack([(m.sum(2) * torch.arange(m.shape[1])).sum(1), (m.sum(1) * torch.arange(m.shape[2])).sum(1)], 1) / m.sum((1, 2))[:, None]


@pytest.mark.parametrize("size", [96, 97, 100])
@pytest.mark.parametrize("part", ["crown", "wing"])
@torch.no_grad()
def test_a_removed_part_is_found_where_it_was(nets, size, part):
    "The judge is an intervention: only the part's pixels change, and the map's change must lie on them, not beside"
    net, g = nets["lite0"], geometry(nets["lite0"], (size, size))
    a, b = birds(size), birds(size, hide=(part,))
    change = (net.trunk(a) - net.trunk(b)).square().sum(1)
    truth = gravity((a - b).square().sum(1))
    looks, middle = [(gravity(upsample(change, h).clamp(min=0)) - truth).mean(0) for h in (g, g._replace(lean=(0.0, 0.0)))]
    assert looks.abs().max() < 1, looks
    assert middle.min() > 2.5, middle


def test_lean_is_measured_and_saved(nets):
    seed_everything(0)
    assert measure_lean(nets["lite0"], birds(96)) == pytest.approx((-3.5, -3.5), abs=0.9)
    assert measure_lean(make_backbone("lite0", pretrained=False).eval(), birds(96)) == pytest.approx((0, 0), abs=0.9)
    again = make_backbone("lite0", pretrained=False)
    again.load_state_dict(nets["lite0"].state_dict())
    assert geometry(again, (96, 96)) == geometry(nets["lite0"], (96, 96))


# -- upsampling ---------------------------------------------------------------------------------------------------------------

def sampled(m, g):
    "`upsample` by torch's own sampler, at the places where the cells look"
    grids = [((torch.arange(n) - s - l) / g.stride).clamp(0, c - 1) for n, s, l, c in zip(g.size, g.start, g.lean, g.cells)]
    y, x = torch.meshgrid(*[(2 * u + 1) / c - 1 for u, c in zip(grids, g.cells)], indexing="ij")
    return F.grid_sample(m[None], torch.stack([x, y], -1)[None], mode="bicubic", padding_mode="border", align_corners=False)[0]


@pytest.mark.parametrize("name,size", CASES)
def test_upsample_equals_the_sampler(nets, name, size):
    g = geometry(nets[name], size)
    m = torch.rand(3, *g.cells)
    torch.testing.assert_close(upsample(m, g), sampled(m, g), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name,size", CASES)
def test_a_planted_peak_comes_out_at_its_cell(nets, name, size):
    g = geometry(nets[name], size)
    for cell in some_cells(g):
        m = torch.zeros(g.cells)
        m[cell] = 1
        big = upsample(m, g)
        rows, columns = [[min(max(f(v), 0), n - 1) for f in (math.floor, math.ceil)] for v, n in zip(cell_centre(cell, g), size)]
        assert big[rows][:, columns].max() == big.max() # a centre may lie between two pixels
        assert pixel_cell(*divmod(big.argmax().item(), size[1]), g) == cell


def test_upsample_keeps_constants_dtype_and_gradient(nets):
    g = geometry(nets["lite0"], (97, 90))
    m = torch.full((2, *g.cells), 3.0, dtype=torch.double, requires_grad=True)
    big = upsample(m, g)
    assert big.dtype == torch.double and torch.allclose(big, torch.tensor(3.0).double())
    big.sum().backward()
    assert m.grad.sum() == pytest.approx(2 * 97 * 90, rel=1e-5)


def test_one_cell():
    g = Geometry(32, (15.5, 15.5), (212, 212), (1, 1), (40, 33))
    assert torch.allclose(upsample(torch.full((1, 1), 2.0), g), torch.full((40, 33), 2.0))


# -- the three backbones ------------------------------------------------------------------------------------------------------

def test_shipped_weights():
    tensors, header = read_weights(WEIGHTS / "lite0_5.safetensors")
    assert (WEIGHTS / "lite0_5.safetensors").stat().st_size < 150_000
    assert {t.dtype for t in tensors.values() if t.ndim == 4} == {torch.half}
    assert "Apache-2.0" in header["licence"] and "TensorFlow" in (WEIGHTS / "NOTICE").read_text()
    assert (WEIGHTS / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


@torch.no_grad()
def test_lite0_is_standardised_before_it_is_trained(nets):
    "A fresh adapter in eval mode gets channels of mean about 0 and deviation about 1, so the add-on's sigmoid does not saturate"
    z = nets["lite0"].adapter[0](nets["lite0"].trunk(birds(96)))
    assert z.mean((0, 2, 3)).abs().mean() < 0.5 and 0.5 < z.std((0, 2, 3)).min() and z.std((0, 2, 3)).max() < 2
    latent = add_on(96, 64)(nets["lite0"](birds(96)))
    assert ((latent < 1e-3) | (latent > 1 - 1e-3)).float().mean() < 0.01


def test_same_seed_same_network():
    for name in ("lite0", "small"):
        a, b = [(seed_everything(s), make_backbone(name).state_dict())[1] for s in (3, 3)]
        assert all(torch.equal(a[k], b[k]) for k in a)


@torch.no_grad()
def test_vgg16_is_torchvisions(tmp_path, monkeypatch):
    "With torchvision's file in torch's cache: its features, bit for bit, and no network is asked"
    from torchvision.models import VGG16_Weights, vgg16
    theirs = vgg16(weights=None, init_weights=False).eval()
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    state = {k: v for k, v in theirs.state_dict().items() if k.startswith("features.")}
    torch.save(state, folder / VGG16_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[1])
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = make_backbone("vgg16").eval()
    x = torch.randn(1, 3, 70, 64)
    assert torch.equal(ours(x), theirs.features(x))


def test_vgg16_offline_is_quick_and_says_so(tmp_path, monkeypatch):
    import protolab.backbone as room
    def refuse(request, timeout): raise urllib.error.URLError(f"no route within {timeout} s")
    monkeypatch.setattr(room, "urlopen", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    began = time.perf_counter()
    with pytest.warns(UserWarning, match="RANDOM weights.*could not be fetched.*no route within 5 s.*pretrained=False") as told: net = make_backbone("vgg16")
    assert time.perf_counter() - began < 10 and net.channels == 512
    assert told[0].filename == __file__ # the warning points at the caller


# -- bad input ----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name,hint", [("lite", "did you mean 'lite0'"), ("vgg", "did you mean 'vgg1"), ("resnet43", "did you mean 'resnet34' or 'resnet"),
                                       ("swin", "The registry has lite0, small, .*vgg11, .*densenet201, .*timm:NAME")])
def test_unknown_backbone(name, hint):
    with pytest.raises(ValueError, match=hint): make_backbone(name)


@pytest.mark.parametrize("name,size", [("lite0", 7), ("small", 3), ("vgg16", 31)])
def test_too_small(nets, name, size):
    for call in (lambda: nets[name](torch.zeros(1, 3, size, 64)), lambda: geometry(nets[name], (64, size))):
        with pytest.raises(ValueError, match=f"too small for {name}.*enlarge"): call()
    assert nets[name](torch.zeros(1, 3, size + 1, size + 1)).shape[-2:] == (1, 1)


@pytest.mark.parametrize("shape", [(3, 96, 96), (1, 1, 96, 96), (2, 4, 96, 96)])
def test_not_a_batch_of_colour_images(nets, shape):
    with pytest.raises(ValueError, match="needs .N,3,H,W."): nets["lite0"](torch.zeros(shape))


@pytest.mark.parametrize("D,kind,hint", [(128, "bottleneck", "choose D <= 96"), (0, "regular", "at least 1"), (64, "Regular", "choose \"regular\" or")])
def test_bad_add_on(D, kind, hint):
    with pytest.raises(ValueError, match=hint): add_on(96, D, kind)


def test_add_on_starts_as_the_paper_says():
    seed_everything(0)
    layers = add_on(512, 128)
    assert [type(layer) for layer in layers] == [nn.Conv2d, nn.ReLU, nn.Conv2d, nn.Sigmoid]
    for conv in (layers[0], layers[2]):
        assert conv.kernel_size == (1, 1) and not conv.bias.any()
        assert conv.weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.05)


@pytest.mark.parametrize("cell", [(-1, 0), (12, 0), (0, 12)])
def test_cell_outside(nets, cell):
    g = geometry(nets["lite0"], (96, 96))
    for ask in (cell_centre, cell_box, field_box):
        with pytest.raises(ValueError, match="outside the map of 12x12"): ask(cell, g)


def test_map_of_another_size(nets):
    g = geometry(nets["lite0"], (96, 96))
    with pytest.raises(ValueError, match="11x11 cells and the geometry 12x12.*patched"): upsample(torch.zeros(2, 11, 11), g)
    with pytest.raises(ValueError, match="13x1 cells does not fit a map of 12x12"): patched(g, 13, 1)
    with pytest.raises(ValueError, match="outside the image of 96x96"): pixel_cell(0, 500, g)


def test_foreign_and_broken_weights(tmp_path):
    good = (WEIGHTS / "lite0_5.safetensors").read_bytes()
    for name, data in dict(empty=b"", short=good[:1000], cut=good[:-10], text=b"hello, I am not a network").items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match="not a whole safetensors file.*make it again"): read_weights(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no weights at"): read_weights(tmp_path / "nothing")
    before = copy.deepcopy(nn.Conv2d(3, 4, 1))
    with pytest.raises(ValueError, match="another network"): load_weights(before, WEIGHTS / "lite0_5.safetensors")


def test_a_pickle_is_refused_without_running_it(tmp_path):
    class Bomb:
        def __reduce__(self): return (exec, ("raise SystemExit('the file ran')",))
    torch.save(dict(weight=Bomb()), tmp_path / "bomb.safetensors")
    with pytest.raises(ValueError, match="not a whole safetensors file"): read_weights(tmp_path / "bomb.safetensors")


def test_register_your_own():
    from protolab.backbone import BACKBONES, IMAGENET, Backbone
    try:
        @register("mine")
        def mine(pretrained): return Backbone("mine", nn.Conv2d(3, 5, 4, 4), nn.Identity(), 5, IMAGENET)
        assert geometry(make_backbone("mine"), (96, 96)) == Geometry(4, (1.5, 1.5), (4, 4), (24, 24), (96, 96))
    finally: BACKBONES.pop("mine")
