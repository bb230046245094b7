"Pruning where a lesson is too small: the pruned set re-derived in float64, planted answers, errors that change nothing, files and runs"
import warnings
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from protolab.backbone import geometry
from protolab.core import Patch, evaluating, seed_everything
from protolab.data import Images, Loader
from protolab.loss import default_loss
from protolab.model import ProtoPNet, load, protopnet, save, tiny_model
from protolab.project import Nearest, check_projection, duplicates, project_
from protolab.prototypes import PrototypeLayer
from protolab.prune import adam_again, emptied, keep_, merge_, own_count, prune_, to_keep, twins_of
from protolab.train import Stage, fit


def images(N=24, C=3, size=16, seed=0):
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(N, 3, size, size, generator=g), torch.arange(N) % C
    return list(zip(x.split(7), y.split(7)))


def projected(seed=0, loader=None, **options):
    "A small projected model, and the images that it was projected on"
    seed_everything(seed)
    model = protopnet("tiny", ["a", "b", "c"], per_class=3, D=6, **options)
    loader = loader or images(seed=seed)
    project_(model, loader, geometry(model.backbone, (16, 16)))
    return model, loader


def tensors(model): return {k: v.clone() for k, v in model.state_dict().items() if torch.is_tensor(v)}


def assert_same(model, before):
    now = model.state_dict()
    for name, value in before.items(): assert torch.equal(now[name], value), name


# -- the rule, by hand ----------------------------------------------------------------------------------------------------------

def pruned_by_loops(model, loader, k, threshold):
    "The prototypes that the rule drops: loops over prototypes, images and cells, in float64, from the specification"
    with evaluating(model): z = torch.cat([model.features(x) for x, _ in loader]).double()
    y, gone, closest = torch.cat([y for _, y in loader]).tolist(), [], torch.inf
    for j, p in enumerate(model.prototypes.vectors.detach().double()):
        best = []
        for i in range(len(z)):
            smallest = torch.inf
            for r in range(z.shape[2] - p.shape[1] + 1):
                for c in range(z.shape[3] - p.shape[2] + 1):
                    smallest = min(smallest, ((z[i, :, r:r + p.shape[1], c:c + p.shape[2]] - p) ** 2).sum().item())
            best.append((smallest, i))
        best.sort()
        closest = min(closest, best[k][0] - best[k - 1][0])
        if sum(y[i] == model.cls[j] for _, i in best[:k]) < threshold: gone.append(j)
    return gone, closest


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("options", [{}, {"patch": (2, 3)}, {"similarity": "linear"}], ids=["1x1", "2x3", "linear"])
def test_the_pruned_set(seed, options):
    model, loader = projected(seed, **options)
    gone, closest = pruned_by_loops(model, loader, 6, 3)
    assert closest > 1e-6, "the sixth and the seventh are too near to tell: another seed"
    said = prune_(model, loader, allow_empty=True, again=None)
    assert 0 < len(gone) < 9 and [p.prototype for p in said.gone] == gone and said.kept == [j for j in range(9) if j not in gone]


class Pixels(nn.Module):
    "A backbone that leaves the image as it is: what a lesson calls z can be written down"
    channels = 3
    def forward(self, x): return x


def planted():
    """Two prototypes a class, classes 0 and 1, on images of 2 x 2 cells; the brightness of one cell of each image is the distance to prototype 0
    (channel 0), 1 (channel 1) or both of class 1 (channel 2)."""
    y = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1])
    far = torch.full((9, 3, 2, 2), 9.0)
    far[:, 0, 0, 0] = torch.tensor([.0, .1, .2, 5, .3, .4, .5, 6, 7])      # its six nearest: 0 1 2 4 5 6, three of class 0
    far[:, 1, 0, 1] = torch.tensor([.0, .1, 8, 8, .2, .3, .4, .5, 7])      # its six nearest: 0 1 4 5 6 7, two of class 0
    far[:, 2, 1, 0] = torch.tensor([5., 6, 7, 8, .0, .1, .2, .3, .4])      # its six nearest: 4 to 8 and 0, five of class 1
    return far, y


def flat_model():
    "Prototypes that look at one channel each: the others are given the value that never is near"
    layer = PrototypeLayer(4, 3)
    model = ProtoPNet(Pixels(), nn.Identity(), layer, torch.tensor([0, 0, 1, 1]), ["a", "b"]).eval()
    with torch.no_grad(): layer.vectors.copy_(torch.tensor([[0., 9, 9], [9, 0, 9], [9, 9, 0], [9, 9, 0]]).view(4, 3, 1, 1))
    model.provenance = [Patch(0, 0, "", 0, (0, 0), (0, 0, 1, 1), 0.), Patch(1, 0, "", 0, (0, 1), (0, 0, 1, 1), 0.),
                        Patch(2, 4, "", 1, (1, 0), (0, 0, 1, 1), 0.), Patch(3, 4, "", 1, (1, 0), (0, 0, 1, 1), 0.)]
    return model


def test_a_planted_answer():
    x, y = planted()
    model = flat_model()
    with torch.no_grad(): model.last.weight.copy_(torch.tensor([[1., 1, -.5, .25], [-.5, -.5, 1, 2]]))
    assert twins_of(model) == [[2, 3]]
    said = prune_(model, [(x, y)], again=None)
    assert said.count.tolist() == [3, 2, 5, 5] and said.kept == [0, 2, 3] and said.merged == [[2, 3]] and [p.prototype for p in said.gone] == [1]
    assert model.last.weight.tolist() == [[1, -.25], [-.5, 3]] and model.cls.tolist() == [0, 1]
    assert [(p.prototype, p.image, p.cell) for p in model.provenance] == [(0, 0, (0, 0)), (1, 4, (1, 0))]


def test_the_threshold_is_met_by_equality():
    "3 of 6 stays, 2 of 6 goes; 0 keeps all and k keeps the pure"
    near = Nearest(None, None, None, torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]))
    cls = torch.tensor([0, 0, 1])
    assert own_count(near, cls).tolist() == [3, 2, 6]
    assert to_keep(near, cls) == [0, 2] and to_keep(near, cls, 0) == [0, 1, 2] and to_keep(near, cls, 6) == [2]


def test_ties_go_to_the_earlier_image():
    "The same picture under two labels: the first counts, as with the reference's heap, which never replaces equals"
    x = torch.full((2, 3, 2, 2), 9.0)
    x[:, 0, 0, 0] = 0
    for labels, kept in (([0, 1], [0]), ([1, 0], [])):
        model = flat_model()
        model.provenance = [Patch(j, j, "", 0, (0, 0), (0, 0, 1, 1), 0.) for j in range(4)]
        if not kept:
            with pytest.raises(ValueError, match="no prototype would be left of 'a'"): prune_(model, [(x, torch.tensor(labels))], 1, 1)
        else: assert 0 in prune_(model, [(x, torch.tensor(labels))], 1, 1, allow_empty=True, again=None).kept


# -- never empty ----------------------------------------------------------------------------------------------------------------

def emptying():
    "A model whose class b has no prototype with two images of its own among its two nearest"
    model, loader = projected(2)
    with torch.no_grad(): model.last.weight.normal_()
    return model, loader


def test_a_refusal_changes_nothing():
    model, loader = emptying()
    before, papers = tensors(model), list(model.provenance)
    with pytest.raises(ValueError, match="allow_empty=True") as error: prune_(model, loader, k=6, threshold=6)
    assert_same(model, before)
    assert model.provenance == papers
    safe = int(str(error.value).split("threshold=")[1].split(" ")[0])
    assert prune_(deepcopy(model), loader, 6, safe, again=None).kept                   # what the error advises works
    with pytest.raises(ValueError, match="no prototype would be left"): prune_(model, loader, 6, safe + 1)


def test_the_last_class_may_be_emptied_when_asked():
    "The last layer keeps a row for it, and both ways of fitting it again bear that"
    seed_everything(0)
    model, loader = projected(0)
    keep_(model, [0, 1, 2, 3, 4, 5])
    assert model.last.weight.shape == (3, 6) and emptied(torch.tensor([0, 1, 2]), [0, 1]) == [2]
    with pytest.warns(UserWarning, match="class 2 has no prototype"): adam_again(model, loader, passes=2)
    with pytest.warns(UserWarning, match="class 2 has no prototype"): prune_(model, loader, threshold=0)
    assert model.last.weight.shape == (3, len(model.cls)) and model.last.weight.isfinite().all()


def test_all_may_not_go():
    model, loader = projected(0)
    before = tensors(model)
    model.cls.copy_(torch.zeros(9))                       # every prototype is of class 0 now
    for n, (x, y) in enumerate(loader): loader[n] = (x, torch.ones_like(y))
    with pytest.raises(ValueError, match="keep at least one"): prune_(model, loader, allow_empty=True)
    before.pop("cls")
    assert_same(model, before)


# -- merging --------------------------------------------------------------------------------------------------------------------

def exact_logits(model, x):
    "In float64, by differences"
    with evaluating(model): z = model.features(x).double().flatten(2)
    d = (z[:, None] - model.prototypes.vectors.detach().double().flatten(1)[None, :, :, None]).square().sum(2).amin(2)
    return ((d + 1) / (d + 1e-4)).log() @ model.last.weight.detach().double().T


@pytest.mark.parametrize("seed", range(3))
def test_merging_keeps_the_logits(seed):
    seed_everything(seed)
    model, loader = protopnet("tiny", ["a", "b", "c"], per_class=4, D=6), images(seed=seed)
    with torch.no_grad():
        model.prototypes.vectors[[1, 3]] = model.prototypes.vectors[0].clone()       # three of class a
        model.prototypes.vectors[6] = model.prototypes.vectors[5]                    # two of class b
        model.last.weight.normal_()
    project_(model, loader, geometry(model.backbone, (16, 16)))
    x = images(seed=seed + 10)[0][0]
    with evaluating(model): fast = model(x).logits
    before, papers, groups = exact_logits(model, x), list(model.provenance), duplicates(model.provenance)
    assert [0, 1, 3] in [g[:3] for g in groups]
    assert merge_(model) == groups and len(model.cls) == 12 - sum(len(g) - 1 for g in groups)
    torch.testing.assert_close(exact_logits(model, x), before, rtol=0, atol=1e-5)
    with evaluating(model): torch.testing.assert_close(model(x).logits, fast, rtol=1e-4, atol=1e-3)    # what float32 expansion bears
    assert {(p.image, p.cell) for p in model.provenance} == {(p.image, p.cell) for p in papers}
    assert merge_(model) == [] and check_projection(model, loader) == 0


def test_merging_wants_papers_that_are_true():
    model, loader = projected(0)
    with torch.no_grad(): model.prototypes.vectors[1] = model.prototypes.vectors[0]
    project_(model, loader, geometry(model.backbone, (16, 16)))
    with torch.no_grad(): model.prototypes.vectors[1] += 1e-3
    before = tensors(model)
    for change in (merge_, lambda m: prune_(m, loader)):
        with pytest.raises(ValueError, match="trained after projection"): change(model)
    assert_same(model, before)
    with pytest.raises(ValueError, match="project it first"): merge_(tiny_model())
    with pytest.raises(ValueError, match="project it first"): prune_(tiny_model(), loader)


# -- what is left is a model like any other -------------------------------------------------------------------------------------

def test_a_file_after_pruning(tmp_path):
    model, loader = projected(1)
    prune_(model, loader, threshold=2, allow_empty=True, again=None)
    assert 0 < len(model.cls) < 9
    save(model, tmp_path/"pruned.safetensors")
    again = load(tmp_path/"pruned.safetensors")
    assert again.provenance == model.provenance and [p.prototype for p in again.provenance] == list(range(len(model.cls)))
    assert check_projection(again, loader) == 0
    with evaluating(again), evaluating(model):
        for a, b in zip(model(loader[0][0]), again(loader[0][0])): assert torch.equal(a, b)


def test_a_view_stays_in_step():
    "Pruning through the view that starts after the trunk prunes the whole model, and the other way round"
    model, loader = projected(1)
    view = model.after_trunk()
    with evaluating(model): maps = [(model.backbone.trunk(x), y) for x, y in loader]
    kept = prune_(view, maps, threshold=2, allow_empty=True).kept
    assert len(model.cls) == len(kept) == len(model.provenance) == model.last.in_features
    keep_(model, [0])
    assert len(view.cls) == len(view.provenance) == 1
    with evaluating(model), evaluating(view): assert torch.equal(model(loader[0][0]).logits, view(maps[0][0]).logits)


def test_modes_and_gradients_are_kept():
    model, loader = projected(0)
    model.train()
    model.prototypes.requires_grad_(False)
    keep_(model, [8, 0])
    assert model.training and not model.prototypes.vectors.requires_grad and model.last.weight.requires_grad
    assert model.cls.tolist() == [2, 0] and model.own.tolist() == [[False, True], [False, False], [True, False]]


class Dls:
    def __init__(self, loader): self.train = self.valid = self.project = loader


def test_runs_before_and_after(tmp_path):
    "The folder of the run before does not take the pruned model; a run of its own can be stopped and goes on"
    model, loader = projected(0)
    dls, stages = Dls(loader), [Stage("more", 3, {"prototypes": 1e-3}, default_loss)]
    fit(model, dls, stages, tmp_path/"before")
    project_(model, loader, geometry(model.backbone, (16, 16)))
    kept = [0, 1, 3, 6, 7]
    keep_(model, kept)
    with pytest.raises(ValueError, match="belongs to another run; model, cls: was"): fit(deepcopy(model), dls, stages, tmp_path/"before")
    whole, halves = deepcopy(model), deepcopy(model)
    seed_everything(5)
    fit(whole, dls, stages, tmp_path/"whole")
    seed_everything(5)
    class Stopping(Dls):
        @property
        def valid(self): self.reads += 1; return 1 / 0 if self.reads == 3 else self.train
        @valid.setter
        def valid(self, _): self.reads = 0
    with pytest.raises(ZeroDivisionError): fit(halves, Stopping(loader), stages, tmp_path/"halves")
    fit(halves, dls, stages, tmp_path/"halves")
    assert_same(halves, tensors(whole))
    assert halves.provenance == whole.provenance == model.provenance


def test_the_reference_fit_after_pruning():
    "adam_again is Adam at 1e-4 on batches of 80 with an L1 price of 1e-4 on foreign weights, from the weights that are there"
    model, loader = projected(3)
    keep_(model, [0, 2, 3, 4, 8])
    with evaluating(model): s, y = torch.cat([model(x).s for x, _ in loader]).double(), torch.cat([y for _, y in loader])
    W = model.last.weight.detach().double().clone().requires_grad_()
    adam, foreign = torch.optim.Adam([W], lr=1e-4), ~model.own
    for _ in range(100):                                  # 24 images are one batch, whose order does not matter
        adam.zero_grad()
        (F.cross_entropy(s @ W.T, y) + 1e-4 * W[foreign].abs().sum()).backward()
        adam.step()
    adam_again(model, loader)
    torch.testing.assert_close(model.last.weight.detach(), W.detach().float(), rtol=0, atol=1e-6)


# -- bad input ------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("change, said", [(dict(k=25), "ask for fewer"), (dict(k=0), "ask for 1 or more"), (dict(threshold=7), "threshold is 7 of 6"),
                                          (dict(threshold=-1), "threshold is -1 of 6")])
def test_bad_numbers(change, said):
    model, loader = projected(0)
    before = tensors(model)
    with pytest.raises(ValueError, match=said): prune_(model, loader, **change)
    assert_same(model, before)


def test_a_shuffled_loader_is_refused():
    x = torch.randint(256, (12, 3, 16, 16), dtype=torch.uint8)
    loader = Loader(Images(x, torch.arange(12) % 3, ["a", "b", "c"], list("abcdefghijkl")))
    model, _ = projected(0, loader)
    loader.shuffle = True
    with pytest.raises(ValueError, match="shuffle=False"): prune_(model, loader)


@pytest.mark.parametrize("kept", [[], [0, 0], [9], [-1]])
def test_bad_numbers_to_keep(kept):
    model, _ = projected(0)
    before = tensors(model)
    with pytest.raises(ValueError, match="keep at least one|give different numbers from 0 to 8"): keep_(model, kept)
    assert_same(model, before)


def test_the_same_twice():
    model, loader = projected(1)
    first, second = deepcopy(model), deepcopy(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for one in (first, second): prune_(one, loader, allow_empty=True, threshold=2)
    assert_same(first, tensors(second))
