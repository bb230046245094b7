"""Planted truths for the room of the ring: where objects are, who looks at them, what is left of them under a mask"""
import pytest
import torch

from protolab.backbone import geometry
from protolab.birds import CODES, PART_ID, Plant
from protolab.confound import (MARKED, SISTER, accuracy_on, bird_plan, covered, looks_into, object_share, on_object, own_terms, reseed_, ringed_splits,
                               sister_codes, sits_on_object, stand_ins, truly_from, with_objects)
from protolab.core import Patch, seed_everything
from protolab.data import Cached, Images, bird_splits
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


def test_nothing_of_a_hidden_cell_is_left():
    seed_everything(0)
    mask = torch.rand(3, 4, 5) < 0.4
    x = torch.rand(3, 2, 4, 5)
    loader = Cached(x.masked_fill(mask[:, None], 99.), bird_splits(5, 2, 96, 1, 1).train.subset([0, 1, 2]))
    source = stand_ins(mask)
    after = covered(loader, source).x
    assert after.max() < 1 and torch.equal(after[~mask[:, None].expand_as(after)], x[~mask[:, None].expand_as(x)])
    assert not mask.flatten(1).gather(1, source).any()


def test_papers_name_the_cell_that_stood_in(place):
    h, w = place.cells
    source = torch.arange(h * w)[None].clone()
    source[0, 1] = 2 * w + 3                                                    # cell (2, 3) stands in for (0, 1)
    patch = Patch(prototype=0, image=0, name="", label=0, cell=(0, 1), box=(0, 0, 1, 1), distance=0.)
    assert truly_from(patch, source, place).cell == (2, 3)


def test_only_the_forbidden_start_anew():
    seed_everything(0)
    net = tiny_model()                                                          # 2 prototypes for each of 3 classes
    images = Images(torch.zeros(12, 3, 16, 16, dtype=torch.uint8), torch.arange(12) % 3, ["a", "b", "c"], [str(n) for n in range(12)])
    before = net.prototypes.vectors.detach().clone()
    reseed_(net, Cached(torch.randn(12, 3, 16, 16), images), [1, 4, 5])          # one of class 0, both of class 2
    moved = (net.prototypes.vectors != before).flatten(1).any(1).nonzero()[:, 0].tolist()
    assert moved == [1, 4, 5]
