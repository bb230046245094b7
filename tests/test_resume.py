"A run that was stopped, anywhere and in any way, ends with the same bits as one that was not"
import os
import random
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from protolab.backbone import geometry
from protolab.core import seed_everything
from protolab.last_layer import LastLayer
from protolab.loss import default_loss, paper_loss
from protolab.model import tiny_model
from protolab.project import Projection
from protolab.train import Stage, accuracy, constant, fit, one_cycle, step_every


class Stream:
    "12 images of 3 classes in batches of 4; shuffled with torch's generator and blurred with all three, unless still"
    def __init__(self, still=False): self.still = still

    def __len__(self): return 3

    def __iter__(self):
        x = torch.randn(12, 3, 16, 16, generator=torch.Generator().manual_seed(5))
        y = torch.arange(12) % 3
        if not self.still: x = x + 0.1 * torch.randn_like(x) + np.random.rand() + random.random()
        order = torch.arange(12) if self.still else torch.randperm(12)
        for rows in order.split(4): yield x[rows], y[rows]


class Forbidden:
    def __iter__(self): raise AssertionError("somebody looked at the test images")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    "Tiny layers are faster with one"
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def loaders(): return SimpleNamespace(train=Stream(), valid=Stream(still=True), project=Stream(still=True), test=Forbidden())


HEAD = {"add_on": 5e-3, "prototypes": 1e-2}
ALL = {"backbone": 1e-3, **HEAD}
EPOCHS = (2, 3)
BATCHES = 3 * sum(EPOCHS)


class Plug:
    "A loss that does something at its n-th call; to `fit` it is the loss itself"
    def __init__(self, loss, n, what): self.loss, self.n, self.what, self.__qualname__ = loss, n, what, loss.__qualname__

    def __call__(self, model, out, y):
        self.n -= 1
        if self.n == 0: self.what()
        return self.loss(model, out, y)


def stages(model, n=0, what=None):
    "Warm, joint, projection, last layer; the n-th batch does `what`"
    place = geometry(model.backbone, (16, 16))
    loss = Plug(paper_loss, n, what)
    return [Stage("warm", EPOCHS[0], HEAD, loss, decay={"add_on": 1e-3}), Stage("joint", EPOCHS[1], ALL, loss, schedule=step_every(1, 0.5)), Projection(place), LastLayer(gap=0.5)]


def start():
    seed_everything(11)
    return tiny_model(3)


def bare(history): return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


def stop(): raise KeyboardInterrupt


def check_same(model, history, whole):
    other, past = whole
    for (name, a), b in zip(model.state_dict().items(), other.state_dict().values()): assert torch.equal(a, b), name
    assert bare(history) == bare(past) and model.provenance == other.provenance and len(model.provenance) == 6


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "The run that nobody stops, with a folder: writing checkpoints changes nothing either"
    model = start()
    history = fit(model, loaders(), stages(model), tmp_path_factory.mktemp("whole"))
    return model, history


def test_a_folder_changes_nothing(whole):
    model = start()
    check_same(model, fit(model, loaders(), stages(model)), whole)


def test_the_rows(whole):
    assert [(row["stage"], row["epoch"]) for row in whole[1]] == [("warm", 1), ("warm", 2), ("joint", 1), ("joint", 2), ("joint", 3), ("project", 1), ("last layer", 1)]
    assert all(0 <= row["accuracy"] <= 1 for row in whole[1])


@pytest.mark.parametrize("batch", range(1, BATCHES + 1))
def test_stopped_at_any_batch(batch, whole, tmp_path):
    model = start()
    with pytest.raises(KeyboardInterrupt): fit(model, loaders(), stages(model, batch, stop), tmp_path)
    again = start() if batch <= 3 else tiny_model(3)
    if batch > 3: seed_everything(99)
    check_same(again, fit(again, loaders(), stages(again), tmp_path), whole)


class StopAfter:
    "A stage that is stopped right after its row was kept"
    def __init__(self, stage): self.stage, self.name = stage, stage.name

    def __call__(self, model, dls, state):
        yield from self.stage(model, dls, state)
        raise KeyboardInterrupt


@pytest.mark.parametrize("number", range(4))
def test_stopped_between_stages(number, whole, tmp_path, monkeypatch):
    model = start()
    line = stages(model)
    monkeypatch.setattr("protolab.train.describe", lambda stage: "not compared here")
    with pytest.raises(KeyboardInterrupt): fit(model, loaders(), [StopAfter(s) if i == number else s for i, s in enumerate(line)], tmp_path)
    again = tiny_model(3)
    check_same(again, fit(again, loaders(), stages(again), tmp_path), whole)


def test_stopped_again_and_again(whole, tmp_path):
    "Only four batches at a time: an epoch is three, so each call gains one epoch"
    for call in range(20):
        model = start()
        try: history = fit(model, loaders(), stages(model, 4, stop), tmp_path)
        except KeyboardInterrupt: continue
        break
    assert call == 4
    check_same(model, history, whole)


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from test_resume import fit, loaders, stages, start, torch
torch.set_num_threads(1)
model = start()
fit(model, loaders(), stages(model, int(sys.argv[3]), lambda: os.kill(os.getpid(), signal.SIGKILL)), sys.argv[2])
"""


@pytest.mark.skipif(os.name != "posix", reason="there is no SIGKILL here")
@pytest.mark.parametrize("batch", [5, 11])
def test_killed(batch, whole, tmp_path):
    "The process is ended by the system, with no time for a last word"
    done = subprocess.run([sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path), str(batch)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [f.name for f in tmp_path.iterdir()] == ["checkpoint.safetensors"]
    again = tiny_model(3)
    check_same(again, fit(again, loaders(), stages(again), tmp_path), whole)


def test_a_finished_run_is_not_run_again(whole, tmp_path):
    model = start()
    fit(model, loaders(), stages(model), tmp_path)
    before = (tmp_path/"checkpoint.safetensors").read_bytes()
    again = tiny_model(3)
    check_same(again, fit(again, loaders(), stages(again, 1, stop), tmp_path), whole)
    assert (tmp_path/"checkpoint.safetensors").read_bytes() == before


def test_a_stage_may_be_added_at_the_end(whole, tmp_path):
    model = start()
    fit(model, loaders(), stages(model)[:2], tmp_path)
    again = tiny_model(3)
    check_same(again, fit(again, loaders(), stages(again), tmp_path), whole)


def test_a_view_resumes_like_the_model(tmp_path):
    def run(folder, batch):
        seed_everything(11)
        model = tiny_model(3)
        trunk, dls = model.backbone.trunk, loaders()
        for name in ("train", "valid", "project"): setattr(dls, name, Features(getattr(dls, name), trunk))
        line = stages(model, batch, stop)
        line[1] = Stage("joint", 3, HEAD, line[0].loss)
        return model, fit(model.after_trunk(), dls, line, folder)
    whole = run(None, 0)
    with pytest.raises(KeyboardInterrupt): run(tmp_path, 8)
    check_same(*run(tmp_path, 0), whole)


class Features:
    def __init__(self, stream, trunk): self.stream, self.trunk = stream, trunk

    def __len__(self): return len(self.stream)

    def __iter__(self):
        for x, y in self.stream: yield self.trunk(x).detach(), y


# -- another call, another file -----------------------------------------------------------------------------------------------

def begun(tmp_path):
    model = start()
    fit(model, loaders(), [Stage("warm", 2, HEAD, default_loss)], tmp_path)
    return tmp_path


OTHER = {"epochs": (Stage("warm", 3, HEAD, default_loss), "stages, 0, settings, epochs: was 2, is 3"),
         "name": (Stage("hot", 2, HEAD, default_loss), "stages, 0, name: was warm, is hot"),
         "rates": (Stage("warm", 2, {**HEAD, "add_on": 1e-3}, default_loss), "rates, add_on: was 0.005, is 0.001"),
         "parts": (Stage("warm", 2, ALL, default_loss), "rates, backbone: was absent, is 0.001"),
         "decay": (Stage("warm", 2, HEAD, default_loss, decay={"add_on": 0.1}), "decay, add_on: was absent, is 0.1"),
         "loss": (Stage("warm", 2, HEAD, paper_loss), "loss: was default_loss, is paper_loss"),
         "a weight of the loss": (Stage("warm", 2, HEAD, partial(default_loss, pull_weight=1.0)), "loss: was default_loss, is"),
         "schedule": (Stage("warm", 2, HEAD, default_loss, schedule=constant), "schedule: was one_cycle, is constant"),
         "optimiser": (Stage("warm", 2, HEAD, default_loss, optimizer=torch.optim.SGD), "optimizer: was Adam, is SGD"),
         "kind": (LastLayer(), "settings, kind: was Stage, is LastLayer")}


@pytest.mark.parametrize("what", OTHER)
def test_another_stage(what, tmp_path):
    stage, words = OTHER[what]
    with pytest.raises(ValueError, match=f"belongs to another run;.*{words}.*call fit as before to go on, or give another folder"):
        fit(tiny_model(3), loaders(), [stage], begun(tmp_path))


def test_no_stage_is_left(tmp_path):
    with pytest.raises(ValueError, match="stages, 0: was .*, is absent"): fit(tiny_model(3), loaders(), [], begun(tmp_path))


def test_another_architecture(tmp_path):
    with pytest.raises(ValueError, match="another run; model, cls: was \\(6,\\), is \\(8,\\); .*last.weight: was \\(3, 6\\), is \\(4, 8\\)"): fit(tiny_model(4), loaders(), [Stage("warm", 2, HEAD, default_loss)], begun(tmp_path))


def test_other_loaders(tmp_path):
    dls = loaders()
    dls.train = list(Stream()) * 2
    with pytest.raises(ValueError, match="batches: was 3, is 6"): fit(tiny_model(3), dls, [Stage("warm", 2, HEAD, default_loss)], begun(tmp_path))


@pytest.mark.parametrize("cut", [0, 5, 100, -1])
def test_a_damaged_checkpoint(cut, tmp_path):
    file = begun(tmp_path)/"checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(ValueError, match="is not a whole checkpoint.*delete it"): fit(tiny_model(3), loaders(), [Stage("warm", 2, HEAD, default_loss)], tmp_path)


def test_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    before = (begun(tmp_path)/"checkpoint.safetensors").read_bytes()
    def full(self, data): raise OSError(28, "No space left on device")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        fit(tiny_model(3), loaders(), [Stage("warm", 2, HEAD, default_loss), Stage("more", 2, HEAD, default_loss)], tmp_path)
    monkeypatch.undo()
    assert (tmp_path/"checkpoint.safetensors").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_no_pickle_in_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr("pickle.loads", None)
    monkeypatch.setattr("torch.load", None)
    fit(tiny_model(3), loaders(), [Stage("warm", 2, HEAD, default_loss)], begun(tmp_path))


# -- what else fit promises ---------------------------------------------------------------------------------------------------

def test_what_is_not_named_does_not_move():
    model = start()
    model.train()                                           # even in train mode, where statistics would move
    before = {k: v.clone() for k, v in model.state_dict().items()}
    fit(model, loaders(), [Stage("warm", 2, HEAD, default_loss)])
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {k for k in before if k.startswith(("add_on", "prototypes"))}
    assert all(p.requires_grad for p in model.parameters()) and not model.training


def test_a_named_part_keeps_its_statistics_moving():
    model = start()
    fit(model, loaders(), [Stage("joint", 1, {"backbone.adapter": 1e-3}, default_loss)])
    assert model.backbone.adapter[0].num_batches_tracked == 3


def test_nan_in_a_batch():
    dls = loaders()
    dls.train = list(Stream())
    dls.train[1][0][2, 0, 3, 3] = torch.nan
    model = start()
    with pytest.raises(FloatingPointError, match="stage 'warm', epoch 1, stopped at batch 2: the batch itself holds NaN or infinity, in its images \\[2\\] \\(of 4\\)"):
        fit(model, dls, [Stage("warm", 2, ALL, default_loss)])
    assert all(torch.isfinite(v).all() for v in model.state_dict().values())


def test_nan_in_the_network():
    model = start()
    model.last.weight.data[0, 0] = torch.inf
    with pytest.raises(FloatingPointError, match="the loss is .* though the batch is finite; not finite in the model: \\['last.weight'\\]"):
        fit(model, loaders(), [Stage("warm", 2, HEAD, default_loss)])


def test_accuracy_leaves_the_model_alone():
    model = start()
    model.add_on.train()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    accuracy(model, Stream(still=True))
    assert modes == [m.training for m in model.modules()] and all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("epochs", [1, 2, 3])
@pytest.mark.parametrize("schedule", [one_cycle, constant, step_every(1, 0.1)])
def test_very_short_stages(epochs, schedule):
    dls = loaders()
    dls.train = list(Stream())[:1]
    assert len(fit(start(), dls, [Stage("warm", epochs, HEAD, default_loss, schedule=schedule)])) == epochs


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_cuda_device(tmp_path):
    model = start().cuda()
    fit(model, loaders(), stages(model)[:2], tmp_path)
    again = tiny_model(3).cuda()
    fit(again, loaders(), stages(again)[:2], tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))
