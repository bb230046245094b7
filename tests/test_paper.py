"The paper's stages: the released code's loop written again in plain torch, and runs that are stopped at every row and every batch"
import warnings
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from protolab import train
from protolab.backbone import geometry
from protolab.core import seed_everything
from protolab.data import Images, Loader, Splits
from protolab.last_layer import LastLayer
from protolab.legacy import Push, adam_last
from protolab.model import protopnet
from protolab.paper import Copies, Turn, Turns, paper_loaders, paper_model, paper_stages, train_paper
from protolab.project import check_projection
from protolab.street import stage_numbers
from protolab.train import Stage, fit

NAMES = ["wren", "robin", "finch"]


def images(n=12, size=16):
    x = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    return Images(x, torch.arange(n) % 3, NAMES, [f"image {i}" for i in range(n)])


def start(legacy):
    seed_everything(11)
    return protopnet("tiny", NAMES, per_class=2, D=6, distance="expanded" if legacy else "exact")


def loaders():
    "Two copies of twelve images in shuffled batches of 7; the test images are nobody's business"
    def still(): return Loader(images(), batch=5)
    class Forbidden:
        def __iter__(self): raise AssertionError("somebody looked at the test images")
    return SimpleNamespace(train=Copies(Loader(images(), batch=7), 2), valid=still(), project=still(), test=Forbidden())


# -- the released code's loop, again ------------------------------------------------------------------------------------------

def released_run(model, dls, pushes, warm, last):
    "Three optimisers made once, everything in train mode, the staircase stepped before its epoch; sums in plain torch"
    parts = dict(backbone=model.backbone, add_on=model.add_on, prototypes=model.prototypes, last=model.last)
    def adam(**groups): return torch.optim.Adam([dict(params=parts[name].parameters(), lr=lr, weight_decay=decay) for name, (lr, decay) in groups.items()])
    head = dict(add_on=(3e-3, 1e-3), prototypes=(3e-3, 0))
    first, joint, ending = adam(**head), adam(backbone=(1e-4, 1e-3), **head), adam(last=(1e-4, 0))
    stairs, cls = torch.optim.lr_scheduler.StepLR(joint, 5, 0.1), torch.arange(6) // 2

    def distances(z):
        p = model.prototypes.vectors
        return F.relu(F.conv2d(z ** 2, torch.ones_like(p)) + (-2 * F.conv2d(z, p) + (p ** 2).sum((1, 2, 3)).view(-1, 1, 1)))

    def epoch(optimizer, names):
        model.train()
        for name, part in parts.items(): part.requires_grad_(name in names)
        for x, y in dls.train:
            d = distances(model.add_on(model.backbone(x))).flatten(2).min(2).values
            logits = torch.log((d + 1) / (d + 1e-4)) @ model.last.weight.T
            own = (y[:, None] == cls).float()
            cluster, separation = ((6 - ((6 - d) * mask).max(1).values).mean() for mask in (own, 1 - own))
            l1 = (model.last.weight * (torch.arange(3)[:, None] != cls)).norm(p=1)
            loss = F.cross_entropy(logits, y) + 0.8 * cluster - 0.08 * separation + 1e-4 * l1
            optimizer.zero_grad(); loss.backward(); optimizer.step()

    def push():
        model.eval()
        best, new = [float("inf")] * 6, torch.zeros_like(model.prototypes.vectors)
        with torch.no_grad():
            for x, y in dls.project:
                z = model.add_on(model.backbone(x)); d = distances(z)
                for j in range(6):
                    for n in (y == j // 2).nonzero()[:, 0].tolist():
                        if d[n, j].min() < best[j]:
                            best[j], cell = d[n, j].min().item(), d[n, j].argmin().item()
                            new[j] = z[n, :, cell // 4, cell % 4].view(-1, 1, 1)
            model.prototypes.vectors.copy_(new)

    for number in range(pushes[-1] + 1):
        if number < warm: epoch(first, ("add_on", "prototypes"))
        else: stairs.step(); epoch(joint, ("backbone", "add_on", "prototypes"))
        if number in pushes:
            push()
            for _ in range(last): epoch(ending, ("last",))
    return model.eval()


@pytest.mark.parametrize("pushes,warm,last", [((1,), 1, 2), ((4, 8), 2, 3), ((3, 5, 12), 0, 2)])
def test_legacy_is_the_released_loop(pushes, warm, last):
    "Same start, same batches: the same network at the end, buffers included"
    ours, theirs = start(True), start(True)
    seed_everything(3); fit(ours, loaders(), paper_stages(geometry(ours.backbone, (16, 16)), pushes, warm, last, legacy=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                                # torch complains about the order of the two steps, as well it may
        seed_everything(3); released_run(theirs, loaders(), pushes, warm, last)
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values()):
        if not name.endswith("_extra_state"): torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5, msg=lambda m: f"{name}: {m}")


@pytest.mark.parametrize("change", ["late stairs", "fresh last layer", "still statistics"])
def test_each_piece_of_the_loop_can_be_seen(change, monkeypatch):
    "The comparison above would notice if one piece were protolab's own"
    ours, theirs = start(True), start(True)
    stages = paper_stages(geometry(ours.backbone, (16, 16)), (4, 8), 1, 8, legacy=True)
    if change == "late stairs": monkeypatch.setattr("protolab.legacy._tread", lambda step, batches, every, gamma: gamma ** (step // batches // every))
    if change == "still statistics": stages[0] = Stage("warm", 1, stages[0].rates, stages[0].loss, stages[0].decay, stages[0].schedule)
    if change == "fresh last layer": stages[1].turns[:] = [Turn(adam_last(8)) if t.stage.name == "last layer" else t for t in stages[1].turns]
    seed_everything(3); fit(ours, loaders(), stages)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seed_everything(3); released_run(theirs, loaders(), (4, 8), 1, 8)
    part = "last.weight" if change == "fresh last layer" else "prototypes.vectors"
    with pytest.raises(AssertionError): torch.testing.assert_close(ours.state_dict()[part], theirs.state_dict()[part], rtol=1e-4, atol=2e-5)


# -- stopped and gone on ------------------------------------------------------------------------------------------------------

class Keep:
    "A stage that counts in its state, as one that keeps candidates might"
    name = "keep"
    def __call__(self, model, dls, state):
        for n in range(state.get("n", 0), 2):
            state.update(n=n + 1, weights=model.last.weight.detach().clone())
            yield {"n": n + 1}


def stages(model, legacy): return paper_stages(geometry(model.backbone, (16, 16)), (2, 3), warm=1, last=2, then=(Keep(),), legacy=legacy)
def bare(history): return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


@pytest.fixture(scope="module", params=[False, True], ids=["default", "legacy"])
def whole(request):
    model = start(request.param)
    return request.param, model, fit(model, loaders(), stages(model, request.param))


def same(model, history, whole):
    _, other, past = whole
    for (name, a), b in zip(model.state_dict().items(), other.state_dict().values()): assert torch.equal(a, b), name
    assert bare(history) == bare(past) and model.provenance == other.provenance


def interrupt_after(monkeypatch, name, calls):
    "The n-th call of a function of `train` does its work, and then the plug is pulled"
    real, left = getattr(train, name), [calls]
    def counted(*args, **kwargs):
        out = real(*args, **kwargs)
        left[0] -= 1
        if left[0] == 0: raise KeyboardInterrupt
        return out
    monkeypatch.setattr(train, name, counted)


def go_on(whole, folder, restart):
    again = start(whole[0])
    if not restart: seed_everything(99)
    same(again, fit(again, loaders(), stages(again, whole[0]), folder), whole)


def test_the_rows(whole):
    inner = ["last layer"] * (2 if whole[0] else 1) + ["keep"] * 2
    assert [row["stage"] for row in whole[2]] == ["warm", "joint", "joint", "project", *inner, "joint", "project", *inner]
    assert [row["epoch"] for row in whole[2] if row["stage"] == "joint"] == [1, 2, 3] and [row["epoch"] for row in whole[2] if row["stage"] == "project"] == [1, 2]
    assert len(whole[1].provenance) == 6


@pytest.mark.parametrize("part", range(1, 15))
def test_stopped_after_any_row(part, whole, tmp_path, monkeypatch):
    "Fourteen rows in legacy mode, twelve by default"
    interrupt_after(monkeypatch, "write_checkpoint", round(part * len(whole[2]) / 14))
    model = start(whole[0])
    with pytest.raises(KeyboardInterrupt): fit(model, loaders(), stages(model, whole[0]), tmp_path)
    monkeypatch.undo()
    go_on(whole, tmp_path, restart=False)


@pytest.mark.parametrize("part", range(1, 11))
def test_stopped_after_a_batch(part, whole, tmp_path, monkeypatch):
    "An epoch is four batches; in legacy mode the last layer is trained in batches, too"
    batch = round(part * 4 * (8 if whole[0] else 4) / 10)
    interrupt_after(monkeypatch, "train_step", batch)
    model = start(whole[0])
    with pytest.raises(KeyboardInterrupt): fit(model, loaders(), stages(model, whole[0]), tmp_path)
    monkeypatch.undo()
    go_on(whole, tmp_path, restart=batch <= 4)


def test_another_push_is_another_run(tmp_path):
    model = start(False)
    fit(model, loaders(), stages(model, False), tmp_path)
    with pytest.raises(ValueError, match="turns, 4, 1: was 1, is 2|belongs to another run"):
        fit(start(False), loaders(), paper_stages(geometry(model.backbone, (16, 16)), (2, 4), 1, 2, (Keep(),)), tmp_path)


def test_a_stage_that_ends_early_passes_its_turn():
    "And a stage without state is never done twice"
    def once(model, dls, state): yield {"n": 1}
    once.name = "once"
    rows = list(Turns("t", [Turn(once, 5), Turn(once), Turn(once, 5)])(None, None, {}))
    assert [row["epoch"] for row in rows] == [1, 2, 3]


# -- the lists ----------------------------------------------------------------------------------------------------------------

def test_the_papers_numbers():
    geo = geometry(start(False).backbone, (16, 16))
    (warm, turns), (_, old_turns) = paper_stages(geo), paper_stages(geo, legacy=True)
    assert warm.epochs == 5 and warm.rates == {"add_on": 3e-3, "prototypes": 3e-3} and warm.decay == {"add_on": 1e-3}
    assert [t.rows for t in turns.turns] == [6, None, None, 10, None, None, 10, None, None] and turns.turns[0].stage.epochs == 26
    assert [t.rows for t in old_turns.turns] == [6, None, 20, 10, None, 20, 10, None, 20] and old_turns.turns[2].stage.epochs == 60
    joint, last = old_turns.turns[0].stage, old_turns.turns[2].stage
    assert joint.rates == {"backbone": 1e-4, "add_on": 3e-3, "prototypes": 3e-3} and joint.decay == {"backbone": 1e-3, "add_on": 1e-3}
    assert last.rates == {"last": 1e-4} and last.decay == {} and isinstance(old_turns.turns[1].stage, Push) and isinstance(turns.turns[2].stage, LastLayer)
    assert {s.optimizer for s in (warm, joint, last)} == {torch.optim.Adam}


def test_thirty_copies_in_batches_of_eighty():
    model = paper_model("tiny", NAMES)
    dls = paper_loaders(Splits(*(images() for _ in range(4))), model.backbone.stats)
    seen = [y for _, y in dls.train]
    assert [len(y) for y in seen] == [80] * 4 + [40] and torch.cat(seen).bincount().tolist() == [120] * 3
    assert [dl.batch for dl in dls] == [80, 100, 75, 100] and dls.train.augment is not None and dls.project.augment is None


@pytest.mark.parametrize("legacy", [False, True])
def test_the_whole_recipe(legacy, tmp_path):
    "Twice with the same seed, once from its own checkpoint; the table of the street can read it"
    splits = Splits(*(images(size=24) for _ in range(4)))
    settings = dict(backbone="tiny", legacy=legacy, pushes=(1, 2), warm=1, last=1, copies=1, per_class=2)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        one, two, three = train_paper(splits, **settings), train_paper(splits, **settings, folder=tmp_path), train_paper(splits, **settings, folder=tmp_path)
    assert sum("TEST set takes the place" in str(w.message) for w in said) == (3 if legacy else 0)
    for other in (two, three):
        for a, b in zip(one.model.state_dict().values(), other.model.state_dict().values()): assert torch.equal(a, b)
    assert one.model.recipe["distance"] == ("expanded" if legacy else "exact")
    assert stage_numbers(one)["after the last layer"] == one.history[-1]["accuracy"]
    if not legacy: assert check_projection(one.model, one.dls.project) == 0
