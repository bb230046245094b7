"Other classes' prototypes: the share by hand, its invariance, pairs and firings that were planted, and weights that are not negative."
import pytest
import torch

from protolab.backbone import geometry
from protolab.birds import CODES, PARTS
from protolab.collide import (class_means, coded_splits, collision_table, collisions, cross_class, cross_class_of, doubtful, fires_on,
                              firings, foreign_share, halfway, margin_terms, separated_loss, sister_species, solve_positive)
from protolab.core import Patch, seed_everything
from protolab.data import Images
from protolab.explain import map_geometry
from protolab.last_layer import objective, problem, slope, solve
from protolab.loss import default_loss, separation
from protolab.metrics import Looked, look_at
from protolab.model import tiny_model

NOTHING = Looked(*[None] * len(Looked._fields))


@pytest.fixture(autouse=True)
def seeded(): torch.manual_seed(0)


def random_layer(N=40, C=4, m=3):
    return torch.rand(N, C * m), torch.randint(C, (N,)), torch.randn(C, C * m), torch.arange(C).repeat_interleave(m)


def test_terms_sum_to_the_margin():
    s, _, W, _ = random_layer()
    terms, best = margin_terms(s, W)
    top = (s @ W.T).topk(2, 1)
    assert torch.equal(best, top.indices)
    torch.testing.assert_close(terms.sum(1), top.values[:, 0] - top.values[:, 1])


def test_the_share_by_hand():
    "Prototype 0 says 2 for its class; class 1's speaks for its own class; class 2's says 3 against class 1, which counts as a word for class 0"
    s, of = torch.tensor([[2.0, 1.0, 3.0]]), torch.tensor([0, 1, 2])
    W = torch.tensor([[1.0, 1.0, 0.0], [0.0, 4.0, -1.0], [0.0, 0.0, -1.0]])                      # logits 3, 1, -3; margins of 0 over 1: 2, -3, 3
    metric = cross_class_of(s, torch.tensor([0]), W, of)
    assert metric.value == pytest.approx(3 / 5) and metric.n == 1 and metric.better == "low"


def test_the_share_stays_between_0_and_1_and_does_not_see_a_shift():
    s, y, W, cls = random_layer()
    for scale in (1, -1, 100):
        terms, best = margin_terms(s, scale * W)
        share = foreign_share(terms, cls, best[:, 0])
        assert share.min() >= 0 and share.max() <= 1
        moved = margin_terms(s, scale * W + torch.randn(1, W.shape[1]))                         # another number for each column
        torch.testing.assert_close(foreign_share(moved[0], cls, moved[1][:, 0]), share, rtol=1e-3, atol=1e-3)


def test_extremes():
    s, y, W, cls = random_layer()
    own = (cls == torch.arange(4)[:, None]).float()
    assert cross_class_of(s, y, own, cls).value == 0
    assert cross_class_of(s, y, own.roll(1, 0), cls).value == 1                                    # each class is spoken for by another's prototypes alone
    assert foreign_share(torch.zeros(1, 2), torch.tensor([0, 1]), torch.tensor([0])).item() == 0


def test_wrong_and_narrow():
    margin, right = torch.arange(20.0), torch.ones(20, dtype=torch.bool)
    assert doubtful(margin, right).nonzero()[:, 0].tolist() == [0, 1]                            # a tenth of twenty
    right[15] = False
    assert doubtful(margin, right).nonzero()[:, 0].tolist() == [0, 1, 15]
    assert doubtful(margin[:1], right[:1]).all()
    with pytest.raises(ValueError, match="above 0 and up to 1"): doubtful(margin, right, 0)


def planted():
    "A net of two prototypes a class: 0 and 4 (classes 0 and 2) answer at the same place in all images, all others elsewhere and weakly"
    model, g = tiny_model(), torch.Generator().manual_seed(1)
    geo = map_geometry(model, geometry(model.backbone, (16, 16)))
    y = torch.arange(30) % 3
    s = 0.1 * torch.rand(30, 6, generator=g)
    s[torch.arange(30), 2 * y] += 0.1 + (y == 1)                                                  # the first prototype of each class knows its images
    s[:, [0, 4]] += (y != 1)[:, None] * 1.0                                                       # and 0 and 4 know each other's nearly as well
    cell = torch.tensor([5, 0, 3, 12, 6, 15]).expand(30, 6)                                       # in a map of 4 x 4: 5 and 6 touch
    return model, NOTHING._replace(s=s, cell=cell, y=y, geometry=geo)


def test_the_planted_pair_is_found_and_no_other():
    model, seen = planted()
    assert seen.geometry.cells == (4, 4)
    found = collisions(model, seen, narrow=1.0)
    assert {(c.winner, c.other) for c in found} == {(0, 4), (4, 0)}
    assert sum(len(c.images) for c in found) == 20                                              # the images of classes 0 and 2
    far = seen._replace(cell=seen.cell.clone())
    far.cell[:, 4] = 15                                                                           # two cells away: no longer one place
    assert collisions(model, far, narrow=1.0) == []


def test_fires_on_is_relative_to_the_average_class():
    _, seen = planted()
    cls = torch.tensor([0, 0, 1, 1, 2, 2])
    fires = fires_on(seen, cls)
    assert fires[[0, 2, 4]].tolist() == [[True, False, True], [False, True, False], [True, False, True]]
    shifted = seen._replace(s=seen.s + 7)                                                         # what all images get alike is no evidence
    assert torch.equal(fires_on(shifted, cls), fires)
    assert halfway(class_means(seen), cls).shape == (6, 1)


def test_the_code_explains_a_firing():
    "Species 0 and 1 share the crown alone, 0 and 2 nothing: prototype 0 sits on the crown"
    codes = {"a": (0, 0, 0, 0, 0), "b": (0, 1, 1, 1, 1), "c": (1, 2, 2, 2, 2)}
    model, seen = planted()
    model.provenance = [Patch(j, 0, "", model.cls[j].item(), (1, 1), (0, 0, 1, 1), 0.) for j in range(6)]
    parts = torch.full((1, 16, 16), PARTS.index("crown"), dtype=torch.uint8)
    project = Images(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), torch.tensor([0]), list(codes), ["x"], parts)
    seen = seen._replace(s=seen.s.clone())
    seen.s[seen.y == 1, 0] += 3                                                                   # prototype 0 now fires on species b, too, and most of all
    found = [f for f in firings(model, seen, project, codes) if f.prototype == 0]
    assert [(f.owner, f.part, f.species, f.shared) for f in found] == [("a", "crown", "b", True), ("a", "crown", "c", False)] or \
           [(f.species, f.shared) for f in found] == [("b", True)]
    row = collision_table(found, codes)[0]
    assert row[:4] == (0, "black cap", "a", "b")


def test_sisters_differ_in_one_part_each_in_turn():
    codes = list(sister_species().values())
    assert len(set(codes)) == 16 and set(codes[::2]) <= set(CODES)
    differ = [[k for k in range(5) if a[k] != b[k]] for a, b in zip(codes[::2], codes[1::2])]
    assert differ == [[k % 5] for k in range(8)]


def test_coded_birds_and_one_pass_over_them():
    codes = dict(list(sister_species().items())[:3])
    splits = coded_splits(codes, seed=3, sizes=(2, 1, 1), size=32)
    assert [len(part) for part in splits] == [6, 3, 6, 3] and splits.train.classes == list(codes) and splits.train.parts is not None
    seed_everything(0)
    model = tiny_model()
    model.classes = list(codes)
    seen = look_at(model, splits.test)
    assert seen.s.shape == (3, 6) and torch.equal(seen.y, splits.test.y)
    assert cross_class(model, splits.test, 1.0).value == pytest.approx(cross_class_of(seen.s, seen.y, model.last.weight.detach(), model.cls, 1.0).value)


def test_positive_weights_meet_the_conditions_of_the_optimum():
    "Where a weight is above 0 its slope is 0; where it is 0 the slope does not go down (Karush, Kuhn and Tucker)"
    s, y, _, cls = random_layer(60)
    s[torch.arange(60), y * 3] += 0.5
    W, task = solve_positive(s, y, cls, l1=1e-3, ridge=1e-2, steps=5000), problem(s, y, cls, 1e-3, 1e-2)
    G = slope(task, W)[1] + torch.where(task.own, 1e-2 * (W - 1), torch.full_like(W, 1e-3))
    assert W.min() == 0 and (W > 0).any()
    assert G[W > 0].abs().max() < 1e-4 and G[W == 0].min() > -1e-4
    assert objective(task, W) >= solve(s, y, cls, 1e-3).objective - 1e-6
    assert objective(task, W) <= objective(task, task.own.double())


def test_the_separation_is_taken_from_the_loss():
    model = tiny_model()
    x, y = torch.randn(6, 3, 16, 16), torch.arange(6) % 3
    out = model(x)
    terms, plain = separated_loss(model, out, y, weight=0.5), default_loss(model, out, y)
    apart = separation(out.d, y[:, None] == model.cls)
    assert terms["loss"].item() == pytest.approx((plain["loss"] - 0.5 * apart).item(), abs=1e-6)
    terms["loss"].backward()
    assert model.prototypes.vectors.grad.abs().sum() > 0
