"The prototype layer where a lesson has no room to look: odd inputs, ties, rounding, blocks, settings, memory."
import copy
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from protolab import prototypes
from protolab.prototypes import DISTANCES, PrototypeLayer, cosine_maps, cosine_minima, cosine_similarity, distance_maps, distances_naive, full_precision, log_similarity, matmul_precision, min_distances

TOP = math.log(10_000)


@pytest.fixture(autouse=True)
def seeded(): torch.manual_seed(0)


def oracle(z, p):
    "Smallest distance and first place, in float64, from the naive loops"
    d = distances_naive(z.double(), p.double()).flatten(2)
    return d.amin(2), d.argmin(2)


def gradients(d, *inputs): return torch.autograd.grad((d * torch.arange(d.numel()).view_as(d).cos()).sum(), inputs)


@pytest.mark.parametrize("N,D,h,w,P,hp,wp", [(1, 1, 1, 1, 1, 1, 1), (3, 5, 1, 7, 2, 1, 1), (2, 4, 6, 5, 9, 1, 3), (2, 4, 6, 5, 9, 6, 5), (4, 8, 7, 7, 33, 2, 2)])
def test_equals_the_naive_loops(N, D, h, w, P, hp, wp):
    z, p = torch.rand(N, D, h, w, dtype=torch.float64, requires_grad=True), torch.rand(P, D, hp, wp, dtype=torch.float64, requires_grad=True)
    d, cell = min_distances(z, p)
    best, place = oracle(z, p)
    torch.testing.assert_close(d, best)
    assert torch.equal(cell, place)
    for ours, theirs in zip(gradients(d, z, p), gradients(best, z, p)): torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(distance_maps(z, p), distances_naive(z, p))


@pytest.mark.parametrize("name", ["exact", "expanded"])
@pytest.mark.parametrize("hp,wp", [(1, 1), (2, 3)])
def test_each_way_to_measure(name, hp, wp):
    "Both faces, both gradients and the place; in float64 all ways agree with the loops"
    z, p = torch.rand(3, 4, 5, 6, dtype=torch.float64, requires_grad=True), torch.rand(7, 4, hp, wp, dtype=torch.float64, requires_grad=True)
    way, (best, place) = DISTANCES[name], oracle(z, p)
    d, cell = way.nearest(z, p)
    torch.testing.assert_close(d, best)
    torch.testing.assert_close(way.maps(z, p), distances_naive(z, p))
    assert torch.equal(cell, place)
    for ours, theirs in zip(gradients(d, z, p), gradients(best, z, p)): torch.testing.assert_close(ours, theirs)
    with pytest.raises(ValueError, match="does not fit on a map"): way.maps(z[:, :, :1, :1], torch.rand(1, 4, 2, 2, dtype=torch.float64))


def cosines(z, p):
    "The judge of the cosine: torch's own, patch by patch"
    hp, wp = p.shape[2:]
    patches = z.unfold(2, hp, 1).unfold(3, wp, 1).permute(0, 2, 3, 1, 4, 5).flatten(3)          # (N,h',w',K)
    return torch.nn.functional.cosine_similarity(patches[:, None], p.flatten(1)[None, :, None, None], dim=-1)


@pytest.mark.parametrize("hp,wp", [(1, 1), (2, 2), (1, 3)])
def test_the_cosine_is_torchs_own_with_its_gradients(hp, wp):
    z, p = torch.randn(3, 4, 5, 6, dtype=torch.float64, requires_grad=True), torch.randn(7, 4, hp, wp, dtype=torch.float64, requires_grad=True)
    theirs, (d, cell) = cosines(z, p), cosine_minima(z, p)
    torch.testing.assert_close(cosine_similarity(cosine_maps(z, p)), theirs)
    best, place = theirs.flatten(2).max(2)
    assert torch.equal(cell, place)
    for ours, other in zip(gradients(cosine_similarity(d), z, p), gradients(best, z, p)): torch.testing.assert_close(ours, other)
    small = z.detach()[:1, :2, :hp, :wp + 1].clone().requires_grad_(), p.detach()[:2, :2].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z, p: cosine_minima(z, p)[0], small)


def test_the_cosine_of_a_patch_with_itself_is_exact():
    z = 1000 * torch.rand(1, 64, 7, 7)
    p = z[0, :, 3, 4].view(1, 64, 1, 1) * 1e-3
    d, cell = cosine_minima(z, p)
    assert d.item() < 1e-12 and cell.item() == 3 * 7 + 4
    with torch.autocast("cpu", dtype=torch.bfloat16): assert cosine_minima(z, p)[0].item() < 1e-12
    with pytest.raises(ValueError, match="does not fit on a map"): cosine_maps(z, torch.rand(1, 64, 8, 8))


def test_zero_vectors_have_no_direction_and_no_nan():
    z, p = torch.zeros(1, 3, 2, 2, requires_grad=True), torch.cat([torch.ones(1, 3, 1, 1), torch.zeros(1, 3, 1, 1)]).requires_grad_()
    d, _ = cosine_minima(z, p)
    torch.testing.assert_close(d, torch.tensor([[1.0, 0.0]]))                    # one from any direction; two zeros are the same patch
    d.sum().backward()
    assert z.grad.isfinite().all() and p.grad.isfinite().all()


@pytest.mark.parametrize("hp,wp", [(1, 1), (2, 2)])
def test_gradcheck(hp, wp):
    z, p = torch.rand(2, 2, 2, 3, dtype=torch.float64, requires_grad=True), torch.rand(3, 2, hp, wp, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z, p: min_distances(z, p)[0], (z, p))
    assert torch.autograd.gradcheck(distance_maps, (z, p))


def test_exact_small_distances_have_gradients_too():
    p = torch.rand(4, 16, 1, 1, dtype=torch.float64, requires_grad=True)
    z = (p.detach()[:, :, 0, 0].T.reshape(1, 16, 2, 2) + 1e-4).requires_grad_()
    d, _ = min_distances(z, p)
    torch.testing.assert_close(d, torch.full((1, 4), 16e-8, dtype=torch.float64))
    for ours, theirs in zip(gradients(d, z, p), gradients(oracle(z, p)[0], z, p)): torch.testing.assert_close(ours, theirs)


def test_more_patches_than_short_numbers_can_count():
    z, p = torch.rand(1400, 2, 5, 5, requires_grad=True), torch.rand(6, 2, 1, 1, requires_grad=True)
    assert 1400 * 5 * 5 > 2**15
    best, _ = oracle(z, p)
    for ours, theirs in zip(gradients(min_distances(z, p)[0], z, p), gradients(best.float(), z, p)): torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("block", [1, 100, 5000])
def test_the_size_of_a_block_changes_nothing(monkeypatch, block):
    z, p = torch.rand(7, 6, 5, 5), torch.rand(11, 6, 1, 1)
    z[3, :, 2, 2] = p[4, :, 0, 0]
    d, cell, maps = *min_distances(z, p), distance_maps(z, p)
    monkeypatch.setattr(prototypes, "BLOCK", block)
    again, place = min_distances(z, p)
    torch.testing.assert_close(again, d)
    assert torch.equal(place, cell)
    torch.testing.assert_close(distance_maps(z, p), maps)


def test_ties_go_to_the_first_cell():
    patterns = torch.rand(3, 64)
    which = torch.randint(0, 3, (20, 49))
    z = patterns[which].transpose(1, 2).reshape(20, 64, 7, 7)
    _, cell = min_distances(z, patterns[:, :, None, None])
    first = torch.stack([(which == j).int().argmax(1) for j in range(3)], 1)
    assert torch.equal(cell, first)


def test_rounding_does_not_choose_the_wrong_patch():
    "Two patches, one exact and one a hair away: by expansion both distances are noise"
    p = torch.rand(200, 128, 1, 1)
    z = torch.stack([p[:, :, 0, 0] + 1e-4, p[:, :, 0, 0]], 2)[:, :, None]      # (200,128,1,2)
    d, cell = min_distances(z, p)
    assert (d.diagonal() == 0).all() and (cell.diagonal() == 1).all()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
def test_a_copy_answers_with_the_largest_similarity(scale):
    z = scale * torch.rand(4, 128, 7, 7)
    p = prototypes.patch_rows(z).flatten(0, 1)[:, :, None, None]
    s = log_similarity(min_distances(z, p)[0].amin(0))
    torch.testing.assert_close(s, torch.full_like(s, TOP), atol=1e-5, rtol=0)
    assert (distance_maps(z, p) >= 0).all()


def test_a_collapsed_map_is_slow_but_right():
    z, p = torch.full((8, 32, 7, 7), 0.5), torch.full((300, 32, 1, 1), 0.5)
    d, cell = min_distances(z, p)
    assert (d == 0).all() and (cell == 0).all()


def test_nan_is_not_hidden():
    z, p = torch.rand(3, 4, 5, 5), torch.rand(6, 4, 1, 1)
    z[1, 2, 3, 3] = torch.nan
    d, _ = min_distances(z, p)
    assert d[1].isnan().all() and d[[0, 2]].isfinite().all()


def test_an_empty_batch_gives_empty_answers():
    d, cell = min_distances(torch.rand(0, 4, 5, 5), torch.rand(6, 4, 1, 1))
    assert d.shape == cell.shape == (0, 6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_floats_are_computed_in_float32(dtype):
    z, p = torch.rand(2, 64, 5, 5).to(dtype).requires_grad_(), torch.rand(6, 64, 1, 1, requires_grad=True)
    d, _ = min_distances(z, p)
    assert d.dtype == torch.float32
    torch.testing.assert_close(d.double(), oracle(z.detach(), p.detach())[0], atol=1e-4, rtol=1e-5)
    gz, gp = gradients(d, z, p)
    assert gz.dtype == dtype and gp.dtype == torch.float32


def test_autocast_changes_nothing():
    layer, z = PrototypeLayer(6, 64), torch.rand(2, 64, 5, 5)
    expected = layer(z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        answer = layer(z)
        maps = layer.maps(z)
        answer[0].sum().backward()
    for a, b in zip(answer, expected): assert torch.equal(a, b)
    assert maps.dtype == torch.float32 and torch.equal(maps, layer.maps(z))


@pytest.mark.parametrize("wanted", ["highest", "high", "medium"])
def test_precision_is_full_inside_and_as_before_outside(wanted):
    torch.set_float32_matmul_precision(wanted)
    before = matmul_precision()
    try:
        with pytest.raises(KeyError), full_precision():
            assert set(matmul_precision()) <= {"ieee", "highest"}
            raise KeyError
        assert matmul_precision() == before and torch.get_float32_matmul_precision() == wanted
    finally: torch.set_float32_matmul_precision("highest")


def test_layout_in_memory_does_not_matter():
    z, p = torch.rand(2, 8, 5, 6), torch.rand(6, 8, 1, 1)
    d, cell = min_distances(z, p)
    for other in (z.to(memory_format=torch.channels_last), z.transpose(2, 3).contiguous().transpose(2, 3)):
        again, place = min_distances(other, p)
        torch.testing.assert_close(again, d)
        assert torch.equal(place, cell)


def test_only_what_needs_a_gradient_gets_one():
    z, p = torch.rand(2, 8, 5, 6), torch.rand(6, 8, 1, 1, requires_grad=True)
    min_distances(z, p)[0].sum().backward()
    assert p.grad is not None and z.grad is None
    with torch.inference_mode(): assert not min_distances(z, p)[0].requires_grad
    d, cell = min_distances(z, p)
    assert d.requires_grad and not cell.requires_grad


def test_a_layer_copies_and_reloads():
    layer = PrototypeLayer(6, 8, 2, 3)
    twin = PrototypeLayer(6, 8, 2, 3)
    twin.load_state_dict(layer.state_dict())
    z = torch.rand(2, 8, 5, 6)
    for other in (twin, copy.deepcopy(layer)): assert torch.equal(other(z)[0], layer(z)[0])


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize("side", [7, 14])
def test_peak_memory_at_the_papers_size(side):
    bench = Path(__file__).parents[1]/"bench"/"layer.py"
    run = subprocess.run([sys.executable, bench, "--peak", "fused", str(side)], check=True, capture_output=True, text=True)
    assert int(run.stdout) < 70e6
