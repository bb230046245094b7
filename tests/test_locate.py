"Four answers to where, on a network that can be computed by hand; deletion and insertion with values derived by hand"
import sys
from math import log
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from protolab.backbone import Backbone, geometry, upsample
from protolab.birds import PART_ID
from protolab.core import Patch, Stats
from protolab.data import Images
from protolab.explain import map_geometry
from protolab.locate import (METHODS, area_under, blurred, captum_maps, claimed_parts, deletion, field_maps, insertion, located, on_mask, part_mask, random_map,
                             removal_curves, saliency_maps, similarity_maps, slopes, turns)
from protolab.model import ProtoPNet
from protolab.prototypes import PrototypeLayer

SIDE = 48


def red_model(right=0):
    "Redness of squares of 8 px, read some cells further right; prototype 0 is red, prototype 1 is not; class 1 has no weight"
    redness, look = nn.Conv2d(3, 1, 8, stride=8, bias=False), nn.Conv2d(1, 1, (1, 7), padding=(0, 3), bias=False)
    redness.weight.data = torch.tensor([1, -0.5, -0.5]).view(1, 3, 1, 1).expand(1, 3, 8, 8) / 64
    look.weight.data = F.one_hot(torch.tensor(3 + right), 7).float().view(1, 1, 1, 7)
    backbone = Backbone("red", nn.Sequential(redness, look), nn.Identity(), channels=1, stats=Stats((0.0,) * 3, (1.0,) * 3))
    made = ProtoPNet(backbone, nn.Identity(), PrototypeLayer(2, 1), torch.tensor([0, 1]), ["red", "not red"])
    made.prototypes.vectors.data = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)
    made.last.weight.data = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    return made.eval()


def spot(row, column, red=1.0, size=(SIDE, SIDE)):
    x = torch.full((3, *size), 0.5)
    x[:, 8 * row:8 * row + 8, 8 * column:8 * column + 8] = torch.tensor([0.5 + red / 2, 0.5 - red / 2, 0.5 - red / 2]).view(3, 1, 1)
    return x


def cell_of_peak(map): return tuple(v // 8 for v in divmod(map.argmax().item(), map.shape[1]))


@pytest.mark.parametrize("name", METHODS)
def test_on_an_honest_network_all_four_point_at_the_square(name):
    assert cell_of_peak(METHODS[name](red_model(), spot(2, 4), [0])[0]) == (2, 4)


@pytest.mark.parametrize("right", [1, 2, 3])
@pytest.mark.parametrize("name, truthful", [("upsampled map", False), ("receptive field", False), ("occlusion", True), ("gradient", True)])
def test_a_network_that_looks_aside_deceives_the_map_and_the_field_alone(name, truthful, right):
    "The answer comes from the cell `right` places to the left of what it reads"
    assert cell_of_peak(METHODS[name](red_model(right), spot(2, 4), [0])[0]) == ((2, 4) if truthful else (2, 4 - right))


def test_the_pointing_game_counts_it():
    x, masks = torch.stack([spot(2, 4), spot(1, 5)]), []
    for r, c in ((2, 4), (1, 5)):
        masks.append(torch.zeros(1, SIDE, SIDE, dtype=torch.bool))
        masks[-1][0, 8 * r:8 * r + 8, 8 * c:8 * c + 8] = True
    found = located(red_model(2), x, [[0], [0]], masks)
    assert {name: m.value for name, m in found.items()} == {"upsampled map": 0, "receptive field": 0, "occlusion": 1, "gradient": 1}
    assert all(m.n == 2 and m.chance == pytest.approx(1 / 36) for m in found.values())
    with pytest.raises(ValueError, match="give at least one, with a mask"): located(red_model(), x, [[], []], [masks[0][:0]] * 2)


def test_the_slope_by_hand():
    "s = ln((d + 1)/(d + eps)), d = (z - 1)^2, and each of 64 pixels has a 64th of dz"
    z = 0.5
    d = (z - 1) ** 2
    by_hand = (1 / (d + 1) - 1 / (d + 1e-4)) * 2 * (z - 1) / 64
    got = slopes(red_model(), spot(2, 4, red=z), [0, 0])
    assert torch.allclose(got[1, 0, 16:24, 32:40], torch.full((8, 8), by_hand), rtol=1e-4)
    assert torch.allclose(got[0, 1], -got[0, 0] / 2) and got[:, :, :16].abs().max() == 0


def test_a_perfect_match_has_no_slope_and_noise_makes_one():
    model, x = red_model(), spot(2, 4)
    assert slopes(model, x, [0]).abs().max() < 1e-4
    assert saliency_maps(model, x, [0], noise=0.0).max() < 1e-4 < saliency_maps(model, x, [0]).max()
    assert torch.equal(saliency_maps(model, x, [0]), saliency_maps(model, x, [0])), "the same seed, the same map"


def test_gradients_leave_the_model_as_it_was():
    model = red_model().train()
    saliency_maps(model, spot(2, 4), [0], samples=1)
    assert model.training and all(p.grad is None for p in model.parameters())


def test_blur_is_the_mean_of_what_is_there():
    dot = torch.zeros(1, 3, 3)
    dot[0, 0, 0] = 12
    assert torch.allclose(blurred(dot, 3)[0], torch.tensor([[3, 2, 0], [2, 12 / 9, 0], [0, 0, 0]]))


def test_the_field_says_the_window_and_no_more():
    one, other = (field_maps(red_model(3), x, [0])[0] for x in (spot(2, 4), spot(2, 4, red=0.9)))
    assert torch.equal(one, other) and int((one > 0).any(1).sum()) == 8


def test_masks_and_peaks():
    parts = torch.zeros(9, 9, dtype=torch.uint8)
    parts[4, 4], parts[0, 8] = PART_ID["eye"], PART_ID["wing"]
    assert [int(part_mask(parts, p, 1).sum()) for p in ("crown", "wing", "tail")] == [9, 4, 0]
    maps = torch.zeros(2, 9, 9)
    maps[0, 3, 3], maps[1, 2, 2] = 1, 1
    assert on_mask(maps, part_mask(parts, "crown", 1).expand(2, 9, 9)).tolist() == [True, False]


def test_claims_are_read_at_the_training_patch():
    parts = torch.zeros(2, SIDE, SIDE, dtype=torch.uint8)
    parts[0, 16:24, 32:40], parts[1, 0:8, 0:8] = PART_ID["tail"], PART_ID["beak"]
    images = Images(torch.zeros(2, 3, SIDE, SIDE, dtype=torch.uint8), torch.tensor([0, 1]), ["a", "b"], ["0", "1"], parts)
    papers = [Patch(j, i, "", i, cell, (0, 0, 8, 8), 0.0) for j, (i, cell) in enumerate([(0, (2, 4)), (1, (0, 0)), (1, (4, 4))])]
    assert claimed_parts(images, papers, geometry(red_model().backbone, (SIDE, SIDE))) == ["tail", "beak", "background"]


def test_turns_are_equal_shares_of_the_largest_first():
    when = turns(torch.arange(12.0).view(3, 4), 3)
    assert when.tolist() == [[3, 3, 3, 3], [2, 2, 2, 2], [1, 1, 1, 1]]


def test_area_under_a_straight_line(): assert area_under(torch.linspace(1, 0, 11)).item() == pytest.approx(0.5)


def planted():
    x = torch.stack([spot(0, 0, size=(8, 32)), spot(0, 3, size=(8, 32))])
    return Images((x * 255).round().byte(), torch.tensor([0, 0]), ["red", "not red"], ["a", "b"])


def p(d): return 1 / (1 + (d + 1e-4) / (d + 1)) # sigmoid(s), s = ln((d + 1)/(d + eps))


def test_deletion_and_insertion_by_hand():
    "A row of four squares, one at an end is red. The first step takes it and puts the mean colour there, of redness 1/4; what follows changes nothing"
    whole, gone = p(0.0), p(9 / 16)
    minus, plus = (f(red_model(), planted(), steps=4) for f in (deletion, insertion))
    assert minus.value == pytest.approx(whole / 8 + gone * 7 / 8, abs=2e-3)
    assert plus.value == pytest.approx(gone / 8 + whole * 7 / 8, abs=2e-3)
    assert (minus.n, minus.of, minus.better, plus.better) == (2, "images", "low", "high")


def test_chance_takes_the_red_square_when_its_turn_comes():
    "What is left of the red square after each step of a random map gives its redness, and that the probability"
    curves, geo = removal_curves(red_model(), planted(), steps=16), map_geometry(red_model(), geometry(red_model().backbone, (8, 32)))
    for n, left in enumerate((0, 24)):
        when = turns(random_map(geo, n), 16)[:, left:left + 8]
        red = torch.stack([(when > t).float().mean() for t in range(17)])                # share of the square that is left
        z = red + (1 - red) / 4
        expected = torch.tensor([p(float((v - 1) ** 2)) for v in z])
        assert torch.allclose(curves.random[n], expected, atol=0.03)
    assert deletion(red_model(), planted(), steps=16).chance > deletion(red_model(), planted(), steps=16).value


def test_a_liar_fails_deletion():
    "Where the map points aside, the pixels that count stay until late"
    images = Images((torch.stack([spot(2, 4)]) * 255).round().byte(), torch.tensor([0]), ["red", "not red"], ["a"])
    assert deletion(red_model(2), images).value > deletion(red_model(), images).value + 0.01


def test_captum_is_asked_only_when_it_is_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(ImportError, match="pip install captum"): captum_maps(red_model(), spot(2, 4), [0])


class Slope:
    "What captum.attr's classes promise: made of a function, asked for a column"
    def __init__(self, forward): self.forward = forward
    def attribute(self, x, target):
        x = x.clone().requires_grad_()
        return torch.autograd.grad(self.forward(x)[:, target].sum(), x)[0]


def test_with_captum_its_attribution_is_drawn(monkeypatch):
    fake = ModuleType("captum")
    fake.attr = SimpleNamespace(Slope=Slope)
    monkeypatch.setitem(sys.modules, "captum", fake)
    model, x = red_model(2).train(), spot(2, 4, red=0.5)
    got = captum_maps(model, x, [0, 1], "Slope")
    assert got.shape == (2, SIDE, SIDE) and cell_of_peak(got[0]) == (2, 4) and model.training
    assert torch.allclose(got[0], blurred(slopes(model, x, [0]).abs().sum(1), SIDE // 12 | 1)[0])
    with pytest.raises(ValueError, match="take IntegratedGradients"): captum_maps(model, x, [0], "Nothing")


def test_similarity_maps_have_the_value_of_a_cell_where_it_looks():
    "ln(1/eps) in one cell, ln(2/(1 + eps)) in all others, brought to the size of the image"
    map, geo = similarity_maps(red_model(), spot(2, 4), [0])[0], geometry(red_model().backbone, (SIDE, SIDE))
    cells = torch.full((6, 6), log(2 / 1.0001))
    cells[2, 4] = log(1 / 1e-4)
    assert torch.allclose(map, upsample(cells, geo), atol=1e-2)
