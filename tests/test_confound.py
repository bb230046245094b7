"""Planted truths for the room of the ring: where objects are, who looks at them, what is left of them under the paint"""
import pytest
import torch

from protolab.backbone import geometry
from protolab.birds import CODES, PART_ID, Plant
from protolab.confound import (BELOW, MARKED, SISTER, accuracy_on, bird_plan, looks_into, object_share, on_object, own_terms, painted, planted_share, ringed_splits,
                               sister_codes, sister_splits, sits_on_object, with_objects)
from protolab.core import Patch
from protolab.data import Images, bird_splits
from protolab.model import tiny_model
from protolab.project import Nearest


@pytest.fixture(scope="module")
def trap(): return ringed_splits(5, sizes=(2, 1, 4))


@pytest.fixture(scope="module")
def place(): return geometry(tiny_model().backbone, (96, 96))


def ring(images): return images.parts == PART_ID["planted"]


def test_the_clean_twin_is_the_same_picture_away_from_the_object(trap):
    for shown, clean in zip(trap.shown, trap.clean):
        marked = torch.isin(shown.y, trap.marked)
        assert torch.equal(ring(shown).flatten(1).any(1), marked) and not ring(clean).any()
        differs = (shown.x != clean.x).any(1)
        assert differs[marked].flatten(1).any(1).all() and not differs[~marked].any()
        assert not differs[:, 30:].any() and not differs[:, :, 30:].any()      # the ring ends 0.24 * 96 = 23 pixels from the corner


def test_these_are_the_birds_of_the_street(trap):
    street = bird_splits(5, 2, 96, 1, 1)
    assert torch.equal(trap.clean.train.x, street.train.x) and trap.clean.train.names == street.train.names
    assert trap.clean.train is trap.clean.project


def test_marked_species_have_the_test_images(trap):
    assert trap.shown.test.y.bincount().tolist() == [4 if c in MARKED else 1 for c in range(16)]


def test_share_counts_training_images_only_and_test_keeps_all():
    some = ringed_splits(5, share=0.5, sizes=(2, 2, 4)).shown
    assert ring(some.train).flatten(1).any(1).sum() == 4 and ring(some.valid).flatten(1).any(1).sum() == 4
    assert ring(some.test).flatten(1).any(1).sum() == 16


def test_other_objects_at_other_places():
    one, _ = with_objects(bird_plan([1], 0), {0: Plant("berry", 0.2, (0.8, 0.8))}, CODES, 0)
    y, x = ring(one)[0].nonzero().float().mean(0).tolist()
    assert abs(y - 77) < 4 and abs(x - 77) < 4


def test_sisters_differ_in_the_beak_and_all_codes_in_something():
    codes = sister_codes()
    assert all([i for i in range(5) if codes[c][i] != codes[s][i]] == [1] for c, s in SISTER.items())
    assert len(set(codes)) == 16 and all(codes[c] == CODES[c] for c in range(16) if c not in SISTER)


def test_a_place_is_on_the_object_when_a_tenth_of_its_square_is(place):
    parts = torch.zeros(1, 96, 96, dtype=torch.uint8)
    parts[0, 40:56, 40:56] = PART_ID["planted"]
    images = Images(torch.zeros(1, 3, 96, 96, dtype=torch.uint8), torch.tensor([0]), ["a", "b"], ["one"], parts)
    width = place.cells[1]
    cells = torch.tensor([[12 * width + 12], [0], [12 * width + 20]])          # its middle, the corner, far to the right
    near = Nearest(torch.zeros(3, 1), torch.zeros(3, 1).long(), cells, torch.zeros(3, 1).long())
    assert on_object(images, near, place).tolist() == [[True], [False], [False]]
    assert on_object(images, near, place, least=1.01).any().item() is False


def test_half_of_the_nearest_patches_decide():
    assert sits_on_object(torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]).bool()) == [0, 2]


def test_the_eye_reads_the_middle_of_the_patch(place):
    def at(j, *cell): return Patch(prototype=j, image=0, name="", label=0, cell=cell, box=(0, 0, 1, 1), distance=0.)
    last = place.cells[0] - 1
    assert looks_into([at(7, 0, 0), at(3, last, 0), at(2, last, last)], place, (0, 0, 0.3, 0.3)) == [7]
    assert looks_into([at(7, 0, 0), at(3, last, 0)], place, (0.5, 0, 1, 1)) == [3]


def test_shares_by_hand():
    s, W = torch.tensor([[2., 1., 5.], [1., 1., 3.]]), torch.tensor([[1., 2., 9.], [9., 9., 1.]])
    terms = own_terms(s, torch.tensor([0, 1]), W, torch.tensor([0, 0, 1]))
    assert terms.tolist() == [[2, 2, 0], [0, 0, 3]]
    assert object_share(terms, [0]).tolist() == [0.5, 0]
    assert accuracy_on(s, torch.tensor([2, 0]), torch.tensor([2])) == 1 and accuracy_on(s, torch.tensor([2, 0]), torch.tensor([0, 2])) == 0.5


def test_nothing_of_the_object_is_left_under_the_paint():
    sisters = sister_splits(5, sizes=(2, 1, 1))
    shown, clean = (painted(splits.train, BELOW) for splits in (sisters.shown, sisters.clean))
    assert ring(sisters.shown.train).flatten(1).any(1).sum() == 8 and not ring(shown).any()
    assert torch.equal(shown.x, clean.x)                                        # nobody can tell the trap from its clean twin
    grey = (shown.x == 124).all(1)
    assert grey[:, 67:, :29].all() and grey.float().mean() < 0.15               # on the images of all species


def test_paint_leaves_the_rest_and_the_images_that_came(trap):
    images = trap.shown.train
    before = images.x.clone()
    after = painted(images, (0, 0.5, 0.25, 1), grey=7)
    assert torch.equal(images.x, before) and (after.x[:, :, :24, 48:] == 7).all() and not after.parts[:, :24, 48:].any()
    assert torch.equal(after.x[:, :, 24:], before[:, :, 24:]) and torch.equal(after.x[..., :48], before[..., :48])


def test_only_prototypes_that_speak_are_counted(place):
    parts = torch.zeros(1, 96, 96, dtype=torch.uint8)
    parts[0, :48] = PART_ID["planted"]                                          # the upper half
    images = Images(torch.zeros(1, 3, 96, 96, dtype=torch.uint8), torch.tensor([0]), ["a", "b"], ["one"], parts)
    last = place.cells[0] * place.cells[1] - 1
    near = Nearest(torch.zeros(3, 1), torch.zeros(3, 1).long(), torch.tensor([[0], [last], [last]]), torch.zeros(3, 1).long())
    every = planted_share(images, near, place, torch.tensor([[0., 1., 0.], [-1., 0., 2.]]))
    assert every.value == pytest.approx(1 / 3) and every.n == 3 and every.better == "low"
    assert 0.5 <= every.chance <= 0.6                                           # half of all places, and a margin
    assert planted_share(images, near, place, torch.tensor([[0., 1., 0.], [0., 0., 2.]])).values.tolist() == [0, 0]
