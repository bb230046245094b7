"Interventions where the truth is planted: a drawing of blocks, and networks that read one block and nothing else"
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from protolab import intervene
from protolab.backbone import Geometry
from protolab.birds import REMOVABLE, SPECIES, Bird
from protolab.core import IMAGENET
from protolab.data import Images, denormalise
from protolab.intervene import (PIECES, background_independence, claimed_sets, deletion_check, distractibility, gains, margin, part_importance, preservation, ranks,
                                retaken, sets_by_chance, shuffled, small_changes, source_of, sources_of, spearman, swap_importance, target_sensitivity, try_pieces)

GEO = Geometry(stride=8, start=(3.5, 3.5), field=(8, 8), cells=(3, 3), size=(24, 24))


def blocks(species, seed, index, size, hide=(), swap=None, without=()):
    "A drawing in which each of the nine pieces is a block of 8 x 8 pixels; a swapped part is dimmer, a missing one is black"
    image = np.zeros((24, 24, 3), np.uint8)
    for k, piece in enumerate(PIECES):
        bright = 0 if piece in (*hide, *without) else 100 if piece in (swap or {}) else 200
        image[8 * (k // 3):8 * (k // 3) + 8, 8 * (k % 3):8 * (k % 3) + 8] = bright
    return Bird(image, None)


class Reader(nn.Module):
    "Similarity = brightness of one block; the maps may say another block than the logits"
    def __init__(self, reads, says):
        super().__init__()
        self.reads, self.says = ([PIECES.index(p) for p in pieces] for pieces in (reads, says))
        self.register_buffer("cls", torch.zeros(len(reads), dtype=torch.long))
        self.last = nn.Linear(len(reads), 16, bias=False)
        with torch.no_grad(): self.last.weight.copy_(torch.eye(16)[:, :1].expand(-1, len(reads)) * torch.arange(len(reads), 0, -1))
        self.backbone, self.prototypes = SimpleNamespace(stats=IMAGENET), SimpleNamespace(maps=self.maps)

    def features(self, x): return nn.functional.avg_pool2d(denormalise(x)[:, :1], 8)
    def shown(self, z, which): return torch.stack([z[:, 0] * nn.functional.one_hot(torch.tensor(k), 9).view(3, 3) for k in which], 1)
    def maps(self, z): return self.shown(z, self.says)
    def forward(self, x):
        return SimpleNamespace(logits=self.last(self.shown(self.features(x), self.reads).flatten(2).amax(2)))


@pytest.fixture
def tried(monkeypatch):
    "What a reader does on four drawings of blocks"
    monkeypatch.setattr(intervene, "draw_bird", blocks)
    monkeypatch.setattr(intervene, "geometry", lambda *_: GEO)
    monkeypatch.setattr(intervene, "map_geometry", lambda model, g: g)
    x = torch.from_numpy(blocks(0, 0, 0, 24).image).permute(2, 0, 1).expand(4, -1, -1, -1).contiguous()
    images = Images(x, torch.zeros(4, dtype=torch.long), SPECIES, [f"{SPECIES[0]} {i}" for i in range(4)])
    return lambda reads, says=None: try_pieces(Reader(reads, says or reads), images, seed=0)


# -- planted networks ---------------------------------------------------------------------------------------------------------

def test_a_network_that_reads_the_wing_and_says_so(tried):
    t = tried(["wing"])
    assert part_importance(t).value == pytest.approx(1) and swap_importance(t).value == pytest.approx(1)
    assert background_independence(t).value == 1 and background_independence(t).n == 4 * len(REMOVABLE)
    assert distractibility(t).value == 1 and distractibility(t).n == 4 * 8   # all but the wing
    assert preservation(t).value == 1


def test_a_network_that_says_wing_and_reads_the_beak(tried):
    t = tried(["beak"], ["wing"])
    assert part_importance(t).value == pytest.approx(-1 / 4)
    assert distractibility(t).value == pytest.approx(7 / 8)                  # the wing does not matter and is not left out


def test_a_network_that_reads_the_perch(tried):
    t = tried(["perch"])
    assert part_importance(t).value == 0                                     # nothing is claimed for a part, nothing falls
    assert background_independence(t).value == pytest.approx(3 / 4)
    assert distractibility(t).value == 1


def test_two_parts_in_the_order_of_their_weights(tried):
    t = tried(["tail", "crown"])                                             # weights 2 and 1
    assert part_importance(t).value == pytest.approx(1)
    crossed = tried(["tail", "crown"], ["crown", "tail"])                    # the other way round: ranks less their mean -1, -1, -1, 1, 2
    assert part_importance(crossed).value == pytest.approx(7 / 8)      # (3 + 2 + 2) / (3 + 1 + 4)
    assert part_importance(t).chance < 0.9


def test_kept_and_hidden_sets(tried):
    t = tried(["tail", "crown"])                                             # 2/3 and 1/3: both are needed for 80 %
    assert torch.equal(t.kept[0], t.logits)                                  # all that is read is kept
    assert t.gone[0].abs().max() < 1e-6                                      # and all of it is hidden
    lost = t._replace(gone=torch.stack([-t.logits, t.logits]))               # class 0 ends below the others
    assert deletion_check(lost).value == 1 and deletion_check(lost).chance == 0


# -- the trap of FunnyBirds: five per cent of a raw logit ------------------------------------------------------------------------

def test_a_constant_added_to_all_logits_moves_the_raw_rule_and_not_ours(tried):
    t = tried(["perch", "wing"])
    moved = t._replace(logits=t.logits + 100, removed=t.removed + 100)
    assert torch.allclose(t.logits.softmax(1), moved.logits.softmax(1))      # the same predictions
    def raw(t): return (intervene.falls(t, t.removed).abs() < 0.05 * t.logits[:, :1].abs()).float().mean().item()
    assert raw(moved) == 1 and raw(t) == pytest.approx(7 / 9)                # by the raw rule nothing matters any more
    assert torch.equal(small_changes(t), small_changes(moved))
    assert small_changes(t).float().mean().item() == pytest.approx(7 / 9)


def test_margin_by_hand():
    assert margin(torch.tensor([[1., 7., 3., 2.]]), torch.tensor([1])).item() == pytest.approx(5)   # 7 - (1 + 3 + 2) / 3


# -- pieces ----------------------------------------------------------------------------------------------------------------------

def test_spearman_by_hand_and_against_the_formula_without_ties():
    assert ranks(torch.tensor([2., 2., 2., 5.])).tolist() == [1, 1, 1, 3]
    assert spearman(torch.tensor([1., 1., 2.]), torch.tensor([1., 2., 3.])).item() == pytest.approx(3 ** 0.5 / 2)   # (-1/2,-1/2,1).(-1,0,1) / sqrt(3/2 * 2)
    g = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 50, 7, generator=g)
    d = (a.argsort(1).argsort(1) - b.argsort(1).argsort(1)).double()
    assert torch.allclose(spearman(a, b).double(), 1 - 6 * (d ** 2).sum(1) / (7 * 48))


def test_gain_is_zero_where_another_cell_is_as_good():
    maps = torch.tensor([[[[4., 4., 1.]]]])
    assert gains(maps, torch.tensor([[[True, False, False], [True, True, False]]])).flatten().tolist() == [0, 3]


def test_shuffled_maps_keep_their_values():
    maps = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(shuffled(maps).flatten(2).sort().values, maps.flatten(2).sort().values) and not torch.equal(shuffled(maps), maps)


def test_sets():
    claims = torch.tensor([[4., 4., 2., 0., -9.]])
    assert claimed_sets(claims).tolist() == [[True, True, False, False, False]]
    assert not claimed_sets(torch.zeros(1, 5)).any()
    assert sets_by_chance(claimed_sets(claims)).sum() == 2


def test_target_sensitivity_of_claims_that_follow_the_code(tried):
    t = tried(["wing"])
    same = (t.codes[t.y][:, None] == t.codes).float()
    follow = torch.cat([same, torch.zeros(4, 16, 4)], 2)
    assert target_sensitivity(t._replace(claims=follow)).value == 1
    assert target_sensitivity(t._replace(claims=-follow)).value == 0
    assert target_sensitivity(t._replace(claims=torch.zeros_like(follow))).value == 0


# -- real birds -------------------------------------------------------------------------------------------------------------------

def test_birds_are_drawn_again_from_their_names_and_changed_ones_are_refused():
    from protolab.data import bird_images
    images = bird_images([2, 9], [5, 40], seed=3, size=48)
    assert sources_of(images) == [(2, 3, 5, 48), (9, 3, 40, 48)]             # the seed is found
    assert torch.equal(retaken(sources_of(images, 3), [{}, {}]), images.x)
    with pytest.raises(ValueError, match="draws other pixels"): sources_of(images, seed=4)
    with pytest.raises(ValueError, match="is no name of a drawn bird"): source_of("a/b.jpg", 0, 48)
