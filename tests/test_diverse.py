"Prototypes that are one: groups against a search by hand, planted twins, the refined peak, the choice at projection"
import pytest
import torch

from protolab.backbone import geometry
from protolab.core import Patch, seed_everything
from protolab.diverse import (Seated, crowding, groups_of, latent_gaps, near_unique_share, overlap_of, peak_offset, refine_papers,
                              twins, unique_share, untaken)
from protolab.loss import own_mask
from protolab.model import protopnet
from protolab.project import check_projection, duplicates, project_


def images(N=24, C=3, size=32, seed=0):
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(N, 3, size, size, generator=g), torch.arange(N) % C
    return list(zip(x.split(7), y.split(7)))


class Batches(list):
    class images: names = [f"n{i}" for i in range(24)]


class Dls: project = Batches(images())


def projected(seed=0):
    seed_everything(seed)
    model = protopnet("tiny", ["a", "b", "c"], per_class=3, D=6)
    geo = geometry(model.backbone, (32, 32))
    project_(model, Dls.project, geo)
    return model, geo


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_those_that_a_walk_finds(seed):
    g = torch.Generator().manual_seed(seed)
    alike = torch.rand(12, 12, generator=g) < 0.08
    alike |= alike.T.clone()
    found, seen = [], set()
    for start in range(12):
        group, front = set(), {start} - seen
        while front:
            group |= front
            front = {b for a in front for b in range(12) if alike[a, b]} - group
        seen |= group
        if len(group) > 1: found.append(sorted(group))
    assert groups_of(alike) == found


def test_overlap_is_the_share_of_pixels_that_both_paint():
    g = torch.Generator().manual_seed(1)
    first = torch.randint(0, 10, (8, 2), generator=g)
    boxes = torch.cat([first, first + torch.randint(1, 8, (8, 2), generator=g)], 1)
    painted = torch.zeros(8, 20, 20, dtype=torch.bool)
    for k, (t, l, b, r) in enumerate(boxes.tolist()): painted[k, t:b, l:r] = True
    got = overlap_of(boxes.float(), torch.tensor([0] * 6 + [1] * 2))
    for a in range(8):
        for b in range(8):
            both, any_ = (painted[a] & painted[b]).sum(), (painted[a] | painted[b]).sum()
            assert got[a, b] == pytest.approx(float(both / any_) if (a < 6) == (b < 6) else 0)


def test_planted_twins_are_counted_once_and_neighbours_apart():
    model, _ = projected()
    with torch.no_grad(): model.prototypes.vectors.copy_(torch.randn(model.prototypes.vectors.shape, generator=torch.Generator().manual_seed(2)))
    boxes = [(0, 0, 8, 8), (0, 0, 8, 8), (0, 2, 8, 10), *[(20, 4 * j, 24, 4 * j + 4) for j in range(6)]]
    model.provenance = [Patch(j, 0 if j < 3 else j, "", j // 3, (0, max(j, 1)), box, 0.0) for j, box in enumerate(boxes)]
    assert twins(model, gap=0)[:2] == ([[0, 1]], [[0, 1, 2]])
    assert unique_share(model).value == pytest.approx(8 / 9) and near_unique_share(model, gap=0).value == pytest.approx(7 / 9)
    assert (unique_share(model).n, unique_share(model).of, unique_share(model).better) == (9, "prototypes", "high")


def test_latent_twins_are_of_one_class():
    model, _ = projected()
    with torch.no_grad():
        model.prototypes.vectors.copy_(torch.randn(model.prototypes.vectors.shape, generator=torch.Generator().manual_seed(3)))
        model.prototypes.vectors[1] = model.prototypes.vectors[0] + 1e-3
        model.prototypes.vectors[3] = model.prototypes.vectors[0]          # of another class: a collision, no twin
    assert twins(model, gap=0.05).latent == [[0, 1]]
    assert latent_gaps(model.prototypes.vectors, model.cls)[0, 3] == torch.inf


def test_crowding_is_a_sum_over_pairs_of_one_class():
    g = torch.Generator().manual_seed(4)
    cls, y = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    p, cell = torch.rand(5, 2, 1, 1, generator=g), torch.randint(0, 2, (4, 5), generator=g)
    terms = []
    for a, b in [(0, 1), (0, 2), (1, 2), (3, 4)]:
        own = [i for i in range(4) if y[i] == cls[a]]
        meet = sum(bool(cell[i, a] == cell[i, b]) for i in own) / len(own)
        terms.append(meet * torch.exp(-((p[a] - p[b]) ** 2).sum()))
    assert crowding(p, cell, own_mask(y, cls), cls).item() == pytest.approx((sum(terms) / 4).item())


@pytest.mark.parametrize("top", [(2.0, 3.0), (2.3, 2.6), (1.55, 3.45), (2.0, 2.51)])
def test_the_top_of_a_hill_is_recovered(top):
    rows, cols = torch.meshgrid(torch.arange(5.0), torch.arange(6.0), indexing="ij")
    hill = 7 - 2 * (rows - top[0]) ** 2 - 0.5 * (cols - top[1]) ** 2
    at = hill.flatten().argmax()
    found = torch.tensor([at // 6, at % 6]) + peak_offset(hill[None], at[None])[0]
    assert found.tolist() == pytest.approx(top, abs=1e-4)


def test_a_peak_at_the_border_stays_within_half_a_cell():
    hill = torch.zeros(1, 4, 4); hill[0, 0, 0] = 1
    assert (peak_offset(hill, torch.tensor([0])).abs() <= 0.5).all()


def test_seated_prototypes_are_own_class_patches_that_nobody_shares():
    model, geo = projected()
    with torch.no_grad(): model.prototypes.vectors[1] = model.prototypes.vectors[0]
    row, = Seated(geo, k=6)(model, Dls, {})
    assert check_projection(model, Dls.project) == 0 and duplicates(model.provenance) == [] and row["duplicates"] == 0
    y = torch.cat([y for _, y in Dls.project])
    assert all(y[p.image] == model.cls[p.prototype] for p in model.provenance)


def test_one_candidate_is_the_nearest_patch():
    model, geo = projected()
    with torch.no_grad(): model.prototypes.vectors += 0.01
    near = [(p.image, p.cell) for p in model.provenance]
    list(Seated(geo, k=1)(model, Dls, {}))
    assert [(p.image, p.cell) for p in model.provenance] == near


def test_the_best_free_place_is_taken():
    worth = torch.tensor([[3.0, 2, 1], [3, 2, 1], [3, 2, 1]])
    image, cell = torch.tensor([[1, 2, 3], [1, 2, 3], [1, 1, 1]]), torch.tensor([[5, 5, 5], [5, 5, 5], [5, 6, 7]])
    assert untaken(worth, image, cell).tolist() == [0, 1, 1]


def test_refined_boxes_move_at_most_half_a_cell_and_keep_the_proof():
    model, geo = projected()
    before = list(model.provenance)
    after = refine_papers(model, Dls.project, geo)
    assert check_projection(model, Dls.project) == 0
    for old, new in zip(before, after):
        assert (old.image, old.cell) == (new.image, new.cell)
        assert all(abs(a - b) <= geo.stride / 2 + 1 for a, b in zip(old.box, new.box))
