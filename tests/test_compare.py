"The comparison: maps and sums by hand, equal chances counted, the same seed twice, the recorded page"
import re

import pytest
import torch
from conftest import ROOT
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from protolab import compare
from protolab.backbone import cell_centre, geometry
from protolab.birds import PARTS
from protolab.compare import CONTESTANTS, ON_BIRDS, Chances, Ensemble, Pooled, cam_maps, compare_once, fresh, on_bird, part_at, plain_loss, summed_logits, train_both, train_pooled
from protolab.core import evaluating, seed_everything
from protolab.data import Images, Splits, bird_splits
from protolab.loss import default_loss
from protolab.model import tiny_model
from protolab.project import check_projection
from protolab.train import Stage, accuracy

BRIEF = Chances("tiny", False, 3, 1e-2, Stage("joint", 3, {"backbone": 1e-3, "add_on": 1e-3, "prototypes": 1e-2}, default_loss))


def toy(n=30, seed=0):
    "Three classes of noise, each with a colour of its own"
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    x = torch.randint(120, (n, 3, 24, 24), generator=g, dtype=torch.uint8)
    x[range(n), y] += 60
    images = Images(x, y, ["a", "b", "c"], [str(i) for i in range(n)])
    return Splits(images, images.subset(range(6)), images, images.subset(range(9, 21)))


# -- class activation maps ------------------------------------------------------------------------------------------------------

def test_a_map_by_hand():
    "Weights times features, cell by cell, in loops"
    seed_everything(0)
    head, h = nn.Linear(5, 4), torch.randn(2, 5, 3, 2)
    maps = cam_maps(head, h)
    for n in range(2):
        for c in range(4):
            for r in range(3):
                for q in range(2):
                    value = sum(head.weight[c, k].item() * h[n, k, r, q].item() for k in range(5))
                    assert abs(maps[n, c, r, q].item() - value) < 1e-6


def test_the_mean_of_a_map_is_its_logit():
    seed_everything(0)
    net, x = Pooled(tiny_model().backbone, ["a", "b", "c"], Tensor.mean).eval(), torch.randn(7, 3, 16, 16)
    with torch.no_grad(): seen = net(x)
    torch.testing.assert_close(cam_maps(net.head, seen.h).mean((2, 3)) + net.head.bias, seen.logits)


def test_the_black_box_takes_the_largest():
    seed_everything(0)
    net, x = Pooled(tiny_model().backbone, ["a", "b", "c"]).eval(), torch.randn(7, 3, 16, 16)
    with torch.no_grad(): seen = net(x)
    torch.testing.assert_close(seen.logits, seen.h.flatten(2).max(2).values @ net.head.weight.T + net.head.bias)


@pytest.mark.parametrize("shape", [(2, 4, 3, 3), (2, 5, 9), (5, 3, 3)])
def test_maps_of_another_backbone_are_refused(shape):
    with pytest.raises(ValueError, match="give the maps of its own backbone"): cam_maps(nn.Linear(5, 4), torch.zeros(shape))


# -- ensembles ------------------------------------------------------------------------------------------------------------------

def test_logits_are_added():
    seed_everything(0)
    models, x = [tiny_model() for _ in range(3)], torch.randn(6, 3, 16, 16)
    with torch.no_grad():
        each = [model(x).logits for model in models]
        torch.testing.assert_close(summed_logits(models, x), each[0] + each[1] + each[2])
        torch.testing.assert_close(Ensemble(models)(x).logits, each[0] + each[1] + each[2])
        terms = torch.cat([m(x).s for m in models], 1) @ torch.cat([m.last.weight for m in models], 1).T     # one network with all prototypes
        torch.testing.assert_close(terms, each[0] + each[1] + each[2], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("classes", [[], [3, 4]])
def test_members_must_agree(classes):
    with pytest.raises(ValueError, match="same classes in the same order"): Ensemble([tiny_model(c) for c in classes])


# -- equal chances --------------------------------------------------------------------------------------------------------------

def test_all_take_the_same_steps(monkeypatch):
    "Every step of every optimiser is counted, with the images in it"
    steps = []
    hook = register_optimizer_step_post_hook(lambda *_: steps.append(1))
    splits, counted = toy(), {}
    for name, train in {"max": lambda net, dls, geo: train_pooled(net, dls, BRIEF), "mean": lambda net, dls, geo: train_pooled(net, dls, BRIEF, Tensor.mean),
                        "prototypes": lambda net, dls, geo: train_both(net, dls, geo, BRIEF)}.items():
        steps.clear()
        net, dls, geo = fresh(splits, 0, BRIEF)
        dls = dls._replace(train=type(dls.train)(splits.train, batch=8, shuffle=True))
        monkeypatch.setattr(compare, "begin", begin_with_few_words)
        train(net, dls, geo)
        counted[name] = len(steps)
    hook.remove()
    assert counted == {"max": 6 * 4, "mean": 6 * 4, "prototypes": 6 * 4}                # 30 images in batches of 8


def begin_with_few_words(net, dls, seconds, epochs, rate):
    "`street.begin` without its vocabulary of 200 words, which thirty small images do not fill"
    from protolab.seeding import plain_classifier
    plain_classifier(net, dls.train, epochs, rate)


def test_both_ends_share_stage_one(monkeypatch):
    monkeypatch.setattr(compare, "begin", begin_with_few_words)
    net, dls, geo = fresh(toy(), 0, BRIEF)
    free, projected, history = train_both(net, dls, geo, BRIEF)
    assert len(history) == 3 and projected is net and free is not net
    assert not free.provenance and len(projected.provenance) == 15 and check_projection(projected, dls.project) == 0
    for name, value in free.state_dict().items():
        if name.split(".")[0] in ("backbone", "add_on"): assert torch.equal(value, projected.state_dict()[name]), name
    assert not torch.equal(free.prototypes.vectors, projected.prototypes.vectors)


def test_the_same_seed_twice():
    splits = toy()
    def weights(seed):
        net, dls, _ = fresh(splits, seed, BRIEF)
        return train_pooled(net, dls, BRIEF)[0].head.weight
    assert torch.equal(weights(3), weights(3)) and not torch.equal(weights(3), weights(4))


@pytest.fixture(scope="module")
def birds(): return bird_splits(seed=7, per_class=2, valid=1, test=1)


def test_five_contestants_twice_the_same(birds):
    brief = ON_BIRDS._replace(first=1, stage=Stage("warm", 1, ON_BIRDS.stage.rates, default_loss))
    first, second = (compare_once(birds, 5, brief, members=2) for _ in range(2))
    assert tuple(first) == CONTESTANTS
    assert [r.accuracy for r in first.values()] == [r.accuracy for r in second.values()]
    assert [r.steps for r in first.values()] == [2, 2, 2, 2, 4] and all(r.seconds > 0 for r in first.values())


def test_the_maps_of_a_still_trunk_serve_all(birds):
    "Given or made, they are the same, and so is what is trained on them"
    net, maps, geo = fresh(birds, 0, ON_BIRDS)
    other, again, _ = fresh(birds, 0, ON_BIRDS, maps)
    assert again is maps
    for (name, a), b in zip(net.state_dict().items(), other.state_dict().values()): assert torch.equal(a, b), name


def test_the_test_images_are_read_once(monkeypatch):
    "Each contestant's accuracy is of dls.test, and nothing else reads it"
    reads = []
    monkeypatch.setattr(compare, "accuracy", lambda model, loader: reads.append(loader.images) or accuracy(model, loader))
    monkeypatch.setattr(compare, "begin", begin_with_few_words)
    splits = toy()
    compare_once(splits, 0, BRIEF, members=1)
    assert len(reads) == 5 and all(images is splits.test for images in reads)


def test_plain_loss_is_cross_entropy():
    logits, y = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    found = plain_loss(None, compare.Seen(logits, None), y)
    torch.testing.assert_close(found["loss"], nn.functional.cross_entropy(logits, y))
    assert list(found) == ["loss"]


# -- pointing -------------------------------------------------------------------------------------------------------------------

def test_pointing_at_a_planted_part():
    "A wing in one cell of each image, a perch in another, sky elsewhere"
    geo = geometry(tiny_model().backbone, (24, 24))
    parts = torch.zeros(3, 24, 24, dtype=torch.uint8)
    y, x = (round(v) for v in cell_centre((2, 4), geo))
    parts[:, y, x], parts[:, 2, 2] = PARTS.index("wing"), PARTS.index("perch")
    images = Images(toy().train.x[:3], torch.arange(3), ["a", "b", "c"], list("abc"), parts)
    cell = torch.tensor([2 * 6 + 4, 0, 35])
    assert part_at(images, cell, geo) == ["wing", "perch", "background"] and on_bird(images, cell, geo) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="nobody knows where the bird is"): on_bird(toy().test, cell, geo)


def test_the_pooled_network_leaves_modes_alone():
    net = Pooled(tiny_model().backbone, ["a", "b", "c"]).train()
    with evaluating(net): net(torch.randn(2, 3, 16, 16))
    assert net.training and net.head.weight.requires_grad


# -- the page -------------------------------------------------------------------------------------------------------------------

def test_the_page_is_there_and_whole():
    "Two kinds of images or more, five contestants each, as many runs as seeds, a date and a machine"
    page = (ROOT/"docs"/"bench-compare.md").read_text(encoding="utf-8")
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| ")][1:]
    data = list(dict.fromkeys(row[0] for row in rows))
    assert [tuple(row[1] for row in rows if row[0] == d) for d in data] == [CONTESTANTS] * len(data)
    assert any("birds" in d for d in data) and any("Fashion-MNIST" in d for d in data)
    for row in rows:
        runs = [float(v) for v in row[4].split(",")]
        assert len(runs) == 3 and abs(sum(runs) / 3 - float(row[2])) < 0.02
    assert re.search(r"Command: .*, \d{4}-\d\d-\d\d", page) and "Machine: " in page
