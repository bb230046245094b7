"The convex last layer where a lesson is too small: many random problems, degenerate similarities, and the model's own state"
import warnings

import pytest
import torch

from protolab.core import seed_everything
from protolab.last_layer import LastLayer, objective, problem, refit_, slope, solve
from protolab.model import protopnet, tiny_model


def data(seed, N=80, C=4, each=3, apart=1.0):
    g = torch.Generator().manual_seed(seed)
    y, cls = torch.arange(N) % C, torch.arange(C).repeat_interleave(each)
    return torch.randn(N, C * each, generator=g).abs() + apart * (y[:, None] == cls), y, cls


def optimality(task, W):
    "The largest break of the conditions that hold at the minimum, and only there"
    G = slope(task, W)[1] + task.ridge * (W - 1) * task.own
    off = ~task.own
    at_zero, moved = off & (W == 0), off & (W != 0)
    return max(G[task.own].abs().max().item(), (G.abs() - task.l1)[at_zero].max().item() if at_zero.any() else 0.,
               (G + task.l1 * W.sign())[moved].abs().max().item() if moved.any() else 0.)


@pytest.mark.parametrize("apart", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("l1", [1e-4, 3e-3, 3e-2])
@pytest.mark.parametrize("ridge", [1e-3, 1e-1])
def test_the_optimum_is_one(apart, l1, ridge):
    for seed in range(3):
        s, y, cls = data(seed, apart=apart)
        found = solve(s, y, cls, l1, ridge, gap=1e-7)
        task = problem(s, y, cls, l1, ridge)
        assert 0 <= found.gap <= 1e-7 and found.objective == objective(task, found.W).item()
        assert optimality(task, found.W) <= 1e-4 * max(l1, 1e-3)
        assert [row[1] for row in found.history] == sorted((row[1] for row in found.history), reverse=True)


@pytest.mark.parametrize("spoil", ["zero", "twin", "constant", "negative"])
def test_degenerate_similarities(spoil):
    s, y, cls = data(0)
    if spoil == "zero": s[:, 4] = 0
    if spoil == "twin": s[:, 4] = s[:, 3]
    if spoil == "constant": s[:, 4] = 5
    if spoil == "negative": s = -10 * s                # as the linear similarity gives them
    found = solve(s, y, cls)
    assert found.gap <= 1e-4 and found.W.isfinite().all()


def test_one_class():
    found = solve(torch.rand(5, 2), torch.zeros(5, dtype=torch.long), torch.tensor([0, 0]))
    assert found.W.tolist() == [[1, 1]] and found.objective == 0


def test_the_last_class_has_no_prototype():
    s, y, cls = data(0, C=3)
    with pytest.warns(UserWarning, match="class 3 has no prototype"): found = solve(s, y, cls, C=4)
    assert found.W.shape == (4, 9) and not found.W[3].gt(0).any()


def test_the_same_twice():
    s, y, cls = data(0)
    assert torch.equal(solve(s, y, cls).W, solve(s, y, cls).W)


def test_a_start_is_taken_where_it_is_better():
    s, y, cls = data(0)
    plain = solve(s, y, cls)
    good, bad = (solve(s, y, cls, start=W) for W in (plain.W, problem(s, y, cls).own * 6. - 5))
    assert good.steps == 0 and torch.equal(good.W, plain.W)
    assert torch.equal(bad.W, plain.W) and bad.history[0][1] == plain.history[0][1]
    outside = solve(s, y, cls, start=plain.W, banned=torch.ones(4, 12, dtype=torch.bool).tril(-1))
    assert outside.gap <= 1e-4 and not outside.W.tril(-1).any()


def test_the_model_keeps_its_modes_and_the_rest_of_its_weights():
    seed_everything(0)
    model = tiny_model().train()
    loader = [(torch.randn(9, 3, 16, 16), torch.arange(9) % 3)]
    before = {k: v.clone() for k, v in model.state_dict().items() if torch.is_tensor(v) and k != "last.weight"}
    solution = refit_(model, loader)
    assert all(m.training for m in model.modules())
    assert torch.equal(model.last.weight == 0, solution.W == 0)
    for name, value in before.items(): assert torch.equal(model.state_dict()[name], value), name


def test_an_unfinished_solution_says_so():
    s, y, cls = data(0)
    with pytest.warns(UserWarning, match="allow more steps"): found = solve(s, y, cls, gap=1e-9, steps=1)
    assert found.steps == 1 and found.gap > 1e-9


def test_no_class_of_the_row_is_lost():
    seed_everything(0)
    model = protopnet("tiny", ["a", "b"], per_class=1, D=4)
    class Dls: project = [(torch.randn(6, 3, 16, 16), torch.arange(6) % 2)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (row,) = LastLayer()(model, Dls, {})
    assert set(row) == {"objective", "gap", "negative", "nonzero"} and row["gap"] <= 1e-4
