"Editing on small planted problems: limits against a slow oracle, moves against the whole layer, histories on the wrong model"
import pytest
import torch

from protolab.core import seed_everything
from protolab.edit import Desk, forbidden, moved, opened, removed, replay, required, refitted
from protolab.last_layer import solve
from protolab.model import load, save, tiny_model
from protolab.project import check_projection, project_
from protolab.backbone import geometry


def slow(s, y, cls, banned, least, steps=200000, l1=3e-3, ridge=1e-2):
    "Projected proximal gradient in float64, which shares nothing with the solver"
    s, own = s.double(), cls == torch.arange(int(cls.max()) + 1)[:, None]
    W, onehot = own.double(), torch.nn.functional.one_hot(y).double()
    step = 1 / (0.5 * torch.linalg.matrix_norm(s, 2) ** 2 / len(s) + ridge)
    V, t = W, 1.
    for _ in range(steps):
        G = ((s @ V.T).softmax(1) - onehot).T @ s / len(s) + ridge * (V - 1) * own
        U = V - step * G
        new = torch.where(own, U.maximum(least), U.sign() * (U.abs() - step * l1).clamp(min=0)).masked_fill(banned, 0)
        if (new - W).abs().max() < 1e-12: return new
        again = ((V - new) * (new - W)).sum() > 0
        t, old = (1., 1.) if again else ((1 + (1 + 4 * t * t) ** .5) / 2, t)
        V, W = new + (0. if again else (old - 1) / t) * (new - W), new
    return W


def data(seed, N=60, C=3, each=3):
    g = torch.Generator().manual_seed(seed)
    y, cls = torch.arange(N) % C, torch.arange(C).repeat_interleave(each)
    return torch.randn(N, C * each, generator=g).abs() + (y[:, None] == cls), y, cls


@pytest.mark.parametrize("seed", range(4))
def test_limits_against_a_slow_oracle(seed):
    s, y, cls = data(seed)
    banned, least = torch.zeros(3, 9, dtype=torch.bool), torch.full((3, 9), -torch.inf, dtype=torch.float64)
    banned[:, 1], banned[2, 4], least[2, 6] = True, True, 2.0
    free = solve(s, y, cls, gap=1e-8)
    cold, warm = (solve(s, y, cls, gap=1e-8, banned=banned, least=least, start=W) for W in (None, free.W))
    oracle = slow(s, y, cls, banned, least)
    assert torch.allclose(cold.W, oracle, atol=1e-3) and torch.allclose(warm.W, oracle, atol=1e-3)
    assert max(cold.gap, warm.gap) <= 1e-8 and not warm.W[banned].any() and warm.W[2, 6] >= 2 and warm.objective > free.objective


@pytest.fixture(scope="module")
def room():
    seed_everything(0)
    model = tiny_model()
    x, y = torch.rand(12, 3, 16, 16), torch.arange(12) % 3
    class Dls: project, valid = [(x[:6], y[:6]), (x[6:], y[6:])], [(torch.rand(6, 3, 16, 16), torch.arange(6) % 3)]
    project_(model, Dls.project, geometry(model.backbone, (16, 16)))
    return model, Dls


def test_a_removed_prototype_is_as_if_it_had_never_been(room):
    state = opened(*room)
    left = [j for j in range(6) if j != 2]
    alone = solve(state.train.s[:, left], state.train.y, state.cls[left], gap=1e-8)
    assert torch.allclose(refitted(removed(state, 2), gap=1e-8).W[:, left], alone.W, atol=1e-3)


def test_a_move_is_what_the_whole_model_measures(room):
    model, dls = room
    desk = Desk(model, dls)
    image = [i for i in range(12) if i % 3 == model.cls[4]][2]
    desk.move(4, image, (1, 2))
    twin = desk.edited()
    assert check_projection(twin, dls.project) <= 1e-5 and twin.provenance[4].image == image
    assert torch.allclose(opened(twin, dls).train.s, desk.state.train.s, atol=1e-4)
    assert model.provenance[4] != twin.provenance[4] and not model.edits


def test_history_through_a_file_and_on_with_old_numbers(room, tmp_path):
    model, dls = room
    desk = Desk(model, dls)
    desk.remove(0); desk.forbid(3, [0, 1]); desk.require(5, 1.5)
    twin = desk.edited()
    save(twin, tmp_path/"m.safetensors")
    loaded = load(tmp_path/"m.safetensors")
    assert loaded.edits == desk.edits and len(loaded.cls) == 5
    assert all(torch.equal(loaded(x).logits, twin(x).logits) for x, _ in dls.project) and torch.equal(loaded.last.weight, desk.state.W[:, 1:].float())
    on = Desk(loaded, dls)
    with pytest.warns(UserWarning, match="class 0 has no prototype left"): on.forbid(0)      # was prototype 1 before prototype 0 left
    assert on.edits[-1].prototype == 1 and on.state.banned[0, 2] and on.state.W[2, 4] >= 1.5
    assert torch.equal(replay(model, dls, loaded.edits).state.W, desk.state.W)
    with pytest.warns(UserWarning, match="class 0 has no prototype left"): again = replay(model, dls, on.edits)
    assert torch.allclose(again.state.W[:, 1:], on.state.W, atol=0.05)


def test_undo_gives_the_very_state_and_a_new_edit_forgets_what_was_undone(room):
    desk = Desk(*room)
    first = desk.state
    second = desk.forbid(1)
    assert desk.undo() is first and desk.redo() is second
    desk.undo(); desk.remove(2)
    with pytest.raises(ValueError, match="nothing to redo"): desk.redo()


def test_another_model_is_refused(room):
    model, dls = room
    seed_everything(1)
    other = tiny_model()
    project_(other, dls.project, geometry(other.backbone, (16, 16)))
    changed = next(j for j in range(6) if other.provenance[j].cell != model.provenance[j].cell or other.provenance[j].image != model.provenance[j].image)
    with pytest.raises(ValueError, match="in the record that prototype is the patch"): replay(other, dls, forbidden(opened(model, dls), changed).edits)


def test_a_class_without_evidence_is_named(room):
    desk = Desk(*room)
    desk.forbid(0)
    with pytest.warns(UserWarning, match="class 0 has no prototype left"): desk.remove(1)
    assert len(desk.warnings) == 1
    desk.undo()
    assert desk.warnings == []


def test_a_move_lifts_the_limits_of_what_the_prototype_was(room):
    state = forbidden(opened(*room), 0)
    image = [i for i in range(12) if i % 3 == 0][1]
    assert not moved(state, 0, image, (0, 0)).banned.any()
    assert not required(state, 0).banned[0, 0]
