"Each row of docs/deviations.md in numbers, the released code's way and protolab's; and that the page names what exists"
import ast
import importlib
import math
import re
import warnings

import protolab
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from protolab.backbone import Geometry, geometry, upsample
from protolab.core import seed_everything
from protolab.data import Images, Loader, Loaders, Splits
from protolab.explain import high_box, peak_box
from protolab.last_layer import LastLayer, solve, stored
from protolab.legacy import (Push, adam_last, in_float32, inverted_cost, legacy_loss, moving_statistics, peek, push_, step_before, stretch, stretched_box, would_save)
from protolab.loss import cluster, paper_loss, separation
from protolab.model import tiny_model
from protolab.paper import Copies, paper_loaders, paper_stages
from protolab.project import Projection, check_projection, duplicates, project_
from protolab.prototypes import DISTANCES, PrototypeLayer, patch_rows
from protolab.train import Stage, constant, fit, half_where_fast, learning, step_every, train_step

TOP = math.log(10_000)


def images(n=12, size=16, classes=3, seed=5):
    x = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Images(x, torch.arange(n) % classes, [f"class {c}" for c in range(classes)], [f"image {i}" for i in range(n)])


def start():
    seed_everything(0)
    model = tiny_model(3)
    return model, Loaders(*(Loader(images(seed=s), model.backbone.stats, batch=6) for s in range(4))), geometry(model.backbone, (16, 16))


# -- what chooses -------------------------------------------------------------------------------------------------------------

def test_the_set_that_chooses():
    "Legacy mode reads the test set in the place of validation, and says so; by default nobody touches it"
    model, dls, geo = start()
    splits = Splits(*(images(seed=s) for s in range(4)))
    with pytest.warns(UserWarning, match="TEST set takes the place of the validation set"): old = paper_loaders(splits, model.backbone.stats, legacy=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new = paper_loaders(splits, model.backbone.stats)
    assert old.valid.images is splits.test and new.valid.images is splits.valid
    with pytest.warns(UserWarning, match="choose the model"): assert peek(dls).valid is dls.test


def test_saved_above_seventy_percent():
    "Strictly above, the best first"
    assert would_save([{"accuracy": a} for a in (0.5, 0.70, 0.7001, 0.9)]) == [(3, 0.9), (2, 0.7001)]


# -- statistics ---------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("freeze,moves", [(learning, False), (moving_statistics, True)])
def test_statistics_of_frozen_parts(freeze, moves):
    "Only the running numbers differ; no frozen weight moves in either mode"
    model, dls, _ = start()
    before = {name: v.clone() for name, v in model.state_dict().items()}
    list(Stage("warm", 1, {"add_on": 3e-3}, paper_loss, schedule=constant, freeze=freeze)(model, dls, {}))
    changed = {name for name, v in model.state_dict().items() if not torch.equal(v, before[name])}
    running = {f"backbone.adapter.0.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert changed - running == {name for name in before if name.startswith("add_on.")}
    assert changed & running == (running if moves else set())
    assert not model.training and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("legacy", [False, True])
def test_prototypes_stay_patches(legacy):
    "After the last-layer stage each prototype equals its stored patch by default; in legacy mode the network moved on"
    model, dls, geo = start()
    fit(model, dls, paper_stages(geo, (1,), warm=1, last=3, legacy=legacy))
    if legacy:
        with pytest.raises(ValueError, match="is not its patch"): check_projection(model, dls.project)
    else: assert check_projection(model, dls.project) == 0


# -- distances ----------------------------------------------------------------------------------------------------------------

def test_distance_at_zero():
    "Prototypes that are patches: 9.2103 exactly, or up to a quarter less"
    seed_everything(0)
    z = torch.rand(8, 128, 7, 7)
    vectors = patch_rows(z).flatten(0, 1)[:, :, None, None]
    best = {}
    for name, way in DISTANCES.items():
        layer = PrototypeLayer(len(vectors), 128, distance=way)
        layer.vectors.data = vectors
        best[name] = layer(z)[0].amax(0)
        torch.testing.assert_close(layer.maps(z).amax((0, 2, 3)), best[name])
    assert (best["exact"] - TOP).abs().max() < 1e-5
    assert 8.9 < best["expanded"].min() < 9.1 and best["expanded"].max() <= TOP + 1e-5
    assert (DISTANCES["expanded"].nearest(z, vectors)[0] >= 0).all()                    # clamped


def test_filters_of_ones():
    "P identical filters give P times the sum over channels; protolab sums once"
    seed_everything(0)
    z, p = torch.rand(3, 5, 6, 7, dtype=torch.float64), torch.rand(4, 5, 2, 3, dtype=torch.float64)
    many = F.conv2d(z ** 2, torch.ones_like(p))
    once = F.conv2d((z ** 2).sum(1, keepdim=True), torch.ones(1, 1, 2, 3, dtype=torch.float64))
    torch.testing.assert_close(many, once.expand_as(many))
    released = F.relu(many - 2 * F.conv2d(z, p) + (p ** 2).sum((1, 2, 3)).view(-1, 1, 1))
    for name in ("exact", "expanded"): torch.testing.assert_close(DISTANCES[name].maps(z, p), released)


# -- costs --------------------------------------------------------------------------------------------------------------------

def test_costs_that_fall_silent():
    "Beyond D hp wp the released form is constant and without slope; a masked minimum goes on"
    own = torch.tensor([[True, True, False]])
    near, far = torch.tensor([[3.0, 2.0, 1.0]], requires_grad=True), torch.tensor([[13.0, 12.0, 11.0]], requires_grad=True)
    for ours, mask in ((cluster, own), (separation, ~own)):
        assert inverted_cost(near, mask, 10).item() == ours(near, own).item()
        assert inverted_cost(far, mask, 10).item() == 10 < ours(far, own).item()
        assert torch.autograd.grad(inverted_cost(far, mask, 10), far)[0].tolist() == [[0, 0, 0]]
        assert torch.equal(torch.autograd.grad(inverted_cost(near, mask, 10), near)[0], torch.autograd.grad(ours(near, own), near)[0])
    assert torch.autograd.grad(cluster(far, own), far)[0].tolist() == [[0, 1, 0]]


def test_both_losses_in_a_step():
    "One step from prototypes outside the cube: the legacy cluster cost doesn't move them towards the images, the plain one does"
    moved = {}
    for loss in (legacy_loss, paper_loss):
        model, dls, _ = start()
        with torch.no_grad(): model.prototypes.vectors += 5
        x, y = next(iter(dls.train))
        terms = loss(model, model(x), y)
        moved[loss.__name__] = torch.autograd.grad(terms["cluster"], model.prototypes.vectors)[0].abs().sum().item()
    assert moved["legacy_loss"] == 0 < moved["paper_loss"]


# -- the staircase ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("schedule,treads", [(step_every(5, 0.1), [5, 5, 2]), (step_before(5, 0.1), [4, 5, 3])])
@pytest.mark.parametrize("batches", [1, 3])
def test_the_first_tread(schedule, treads, batches):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, rates = schedule(optimizer, 12, batches), []
    for _ in range(12 * batches):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step(); scheduler.step()
    assert rates == pytest.approx([10.0 ** -k for k, n in enumerate(treads) for _ in range(n * batches)])


def test_the_staircase_of_the_released_code():
    "PyTorch's own StepLR, stepped as main.py steps it, gives the same rates"
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    stairs, theirs = torch.optim.lr_scheduler.StepLR(optimizer, 5, 0.1), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(12): stairs.step(); theirs.append(optimizer.param_groups[0]["lr"]); optimizer.step()
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    ours, rates = step_before(5, 0.1)(optimizer, 12, 1), []
    for _ in range(12): rates.append(optimizer.param_groups[0]["lr"]); optimizer.step(); ours.step()
    assert rates == pytest.approx(theirs)


# -- the last layer -----------------------------------------------------------------------------------------------------------

def test_the_last_layer():
    "Twenty epochs of Adam leave every weight within 20 steps of its start; the solver reaches a certified optimum, with exact zeros"
    model, dls, _ = start()
    before = model.last.weight.detach().clone()
    rows = list(adam_last(20)(model, dls, {}))
    steps = 20 * len(dls.train)
    assert len(rows) == 20 and 0 < (model.last.weight - before).abs().max() < 1.1e-4 * steps
    assert (model.last.weight[~model.own] == 0).sum() == 0
    with torch.no_grad(): model.last.weight.copy_(before)
    row, = LastLayer()(model, dls, {})
    assert row["gap"] <= 1e-4 and (model.last.weight[~model.own] == 0).any()
    best = solve(*stored(model, dls.project), model.cls)
    torch.testing.assert_close(model.last.weight.detach(), best.W.float())


# -- projection ---------------------------------------------------------------------------------------------------------------

def test_a_class_without_an_image():
    "The released code writes vectors of zeros; protolab names the class and changes nothing"
    model, dls, geo = start()
    some = Loader(dls.project.images.subset((dls.project.y != 1).nonzero()[:, 0]), model.backbone.stats)
    before = model.prototypes.vectors.detach().clone()
    with pytest.raises(ValueError, match="no image of 'class 1' came by"): project_(model, some, geo)
    assert torch.equal(model.prototypes.vectors, before)
    found = push_(model, some, geo)
    assert (model.prototypes.vectors.flatten(1).abs().sum(1) == 0).tolist() == [False, False, True, True, False, False]
    assert found.image.flatten()[2:4].tolist() == [-1, -1] and model.provenance == []


def test_two_prototypes_on_one_patch():
    "Unnoticed, reported, or forbidden"
    model, dls, geo = start()
    def twins():
        with torch.no_grad(): model.prototypes.vectors[1] = model.prototypes.vectors[0]
    twins(); push_(model, dls.project, geo)
    assert torch.equal(model.prototypes.vectors[0], model.prototypes.vectors[1])        # and nothing was said
    twins(); row, = Projection(geo)(model, dls, {})
    assert row["duplicates"] >= 1 and [0, 1] in duplicates(model.provenance)
    twins(); row, = Projection(geo, distinct=True)(model, dls, {})
    assert row["duplicates"] == 0 and not torch.equal(model.prototypes.vectors[0], model.prototypes.vectors[1])


def test_both_projections_agree_where_nothing_is_wrong():
    model, dls, geo = start()
    twin, *_ = start()
    mine, = Projection(geo)(model, dls, {})
    theirs, = Push(geo)(twin, dls, {})
    assert torch.equal(model.prototypes.vectors, twin.prototypes.vectors)
    assert [(p.image, p.cell, p.box) for p in model.provenance] == [(p.image, p.cell, p.box) for p in twin.provenance]
    assert mine["moved"] == pytest.approx(theirs["moved"], rel=1e-5) and mine["duplicates"] == theirs["duplicates"]


@pytest.mark.parametrize("batch", [1, 2, 6, 12])
def test_ties_go_to_the_first_image(batch):
    "A strict <, within a batch and between batches: of two equal images the first gives the patch, in both modes"
    model, dls, geo = start()
    set_ = dls.project.images
    twice = Images(set_.x[[*range(6), *range(6)]], set_.y[[*range(6), *range(6)]], set_.classes, [f"image {i}" for i in range(12)])
    for project in (project_, push_):
        project(model, Loader(twice, model.backbone.stats, batch), geo)
        assert max(p.image for p in model.provenance) < 6


# -- maps and boxes -----------------------------------------------------------------------------------------------------------

def test_boxes():
    "Round everything that is high, or round the peak"
    map = torch.zeros(40, 40)
    map[4:8, 5:9], map[30:33, 30:33] = 2, 1                                             # 25 of 1600 pixels: the percentile lies at 0 ...
    map += torch.linspace(-2, -1, 1600).view(40, 40)                                    # ... so a slope keeps the rest apart
    high = map >= map.flatten().quantile(0.95)
    assert high[4:8, 5:9].all() and high[30:33, 30:33].all()
    box = high_box(map)
    assert box[0] <= 4 and box[2] >= 33 and peak_box(map) == (4, 5, 8, 9)


def test_stretched_maps():
    "The peak of one cell lies in the middle of its tile, or where the cell looks: in a ResNet half a tile apart"
    map = torch.zeros(7, 7)
    map[1, 2] = 1
    resnet = Geometry(32, (0.0, 0.0), (435, 435), (7, 7), (224, 224))
    theirs, ours = stretch(map[None], (224, 224))[0], upsample(map, resnet)
    assert divmod(theirs.argmax().item(), 224) in {(47, 79), (48, 80), (47, 80), (48, 79)} and divmod(ours.argmax().item(), 224) == (32, 64)
    top, left, bottom, right = stretched_box(map, (224, 224))
    assert (top + bottom, left + right) == (2 * 48, 2 * 80)


# -- precision, copies --------------------------------------------------------------------------------------------------------

def test_precision():
    "Legacy stages ask for float32; the default asks for 16 bits only where a graphics card bears them"
    model, dls, geo = start()
    legacy, default = paper_stages(geo, legacy=True)[0], paper_stages(geo)[0]
    assert legacy.half is in_float32 and default.half is half_where_fast
    seen = []
    def watching(device):
        seen.append(device.type)
        return in_float32(device)
    x, y = next(iter(dls.train))
    train_step(model, paper_loss, torch.optim.SGD(model.parameters(), lr=0.0), x, y, watching)
    assert seen == ["cpu"]


def test_copies():
    "An epoch sees each image `copies` times; each time it is augmented anew"
    set_ = images(4)
    def dim(x): return x // torch.randint(1, 200, (len(x), 1, 1, 1), dtype=torch.uint8)
    loader = Copies(Loader(set_, batch=5, augment=dim), 30)
    x, y = (torch.cat(part) for part in zip(*loader))
    assert len(loader) == 24 and y.bincount().tolist() == [60, 30, 30]
    assert len({row.numpy().tobytes() for row in x[y == 1]}) > 20


# -- the page -----------------------------------------------------------------------------------------------------------------

def rows():
    "The cells of each row of the first table"
    text = (ROOT/"docs"/"deviations.md").read_text(encoding="utf-8")
    lines = next(block for block in text.split("\n\n") if block.startswith("|")).splitlines()
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines[2:]]


def exists(name):
    "Is there such a name in such a room? A room that isn't built yet is believed"
    room, *path = name.split(".")
    if room not in protolab.ROOMS: return False
    if not (ROOT/"protolab"/f"{room}.py").exists(): return True
    thing = importlib.import_module(f"protolab.{room}")
    for part in path: thing = getattr(thing, part, None)
    return thing is not None


def is_test(name):
    file, _, function = name.partition("::")
    path = ROOT/"tests"/file
    if not path.exists(): return file == "test_prune.py" and not (ROOT/"protolab"/"prune.py").exists()
    return any(isinstance(n, ast.FunctionDef) and n.name == function for n in ast.parse(path.read_text(encoding="utf-8")).body)


def test_the_page_names_what_exists():
    table = rows()
    assert len(table) >= 15
    for row in table:
        assert len(row) == 4, row
        functions = re.findall(r"`(\w+\.[\w.]+)`", row[1] + row[2])
        tests = re.findall(r"`(test_\w+\.py::test_\w+)`", row[3])
        assert functions and tests, row
        assert [f for f in functions if not exists(f)] == [], row
        assert [t for t in tests if not is_test(t)] == [], row


def test_names_that_do_not_exist_are_found():
    assert exists("legacy.push_") and not exists("legacy.pull_") and not exists("nowhere.push_")
    assert is_test("test_deviations.py::test_boxes") and not is_test("test_deviations.py::test_nothing") and not is_test("test_nothing.py::test_boxes")


def test_each_switch_of_legacy_is_in_the_table():
    "What the room exports, the page explains"
    told = (ROOT/"docs"/"deviations.md").read_text(encoding="utf-8")
    missing = [name for name in importlib.import_module("protolab.legacy").__all__ if name not in ("RELEASED", "Pushed", "push_search", "our_name", "released_recipe", "read_released")
               and f"legacy.{name}`" not in told]
    assert missing == []
