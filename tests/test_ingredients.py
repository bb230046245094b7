"The cosine from end to end: trained, projected on the most similar patch, proven, saved and loaded; and larger patches."
import pytest
import torch

from protolab.backbone import geometry
from protolab.core import evaluating, seed_everything
from protolab.data import bird_splits
from protolab.ingredients import INGREDIENTS, cook, trunk_maps
from protolab.loss import default_loss
from protolab.model import load, protopnet, save
from protolab.project import check_projection, project_
from protolab.prototypes import patch_rows
from protolab.street import frozen, part_numbers
from protolab.train import train_step

CLASSES = ["a", "b", "c"]


def batches(n=24):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(n, 3, 16, 16, generator=g), torch.arange(n) % 3
    return list(zip(x.split(8), y.split(8)))


def net(patch=(1, 1), similarity="cosine"):
    seed_everything(0)
    return protopnet("tiny", CLASSES, per_class=2, D=6, similarity=similarity, distance="cosine", patch=patch)


@pytest.mark.parametrize("patch", [(1, 1), (2, 2)])
def test_each_prototype_becomes_the_most_similar_patch_of_its_class(patch):
    model, loader = net(patch), batches()
    with torch.no_grad(): model.prototypes.vectors.mul_(torch.linspace(.01, 5, 6).view(-1, 1, 1, 1))     # lengths that the cosine must ignore
    with evaluating(model): z = torch.cat([model.features(x) for x, _ in loader])
    rows, y = patch_rows(z, *patch), torch.cat([y for _, y in loader])
    score = torch.nn.functional.cosine_similarity(rows[:, :, None], model.prototypes.vectors.detach().flatten(1), dim=-1)   # (N,L,P)
    score = score.masked_fill((y[:, None] != model.cls)[:, None], -2).flatten(0, 1)
    plain = (rows[:, :, None] - model.prototypes.vectors.detach().flatten(1)).square().sum(-1).masked_fill((y[:, None] != model.cls)[:, None], torch.inf).flatten(0, 1)
    project_(model, loader, geometry(model.backbone, (16, 16)))
    best = score.argmax(0)
    assert not torch.equal(best, plain.argmin(0))                                                      # else this test tells nothing
    torch.testing.assert_close(model.prototypes.vectors.detach().flatten(1), rows.flatten(0, 1)[best])
    assert check_projection(model, loader) == 0


def test_a_projected_prototype_answers_one_to_its_own_image():
    model, loader = net(), batches()
    papers = project_(model, loader, geometry(model.backbone, (16, 16)))
    with evaluating(model): s = torch.cat([model(x).s for x, _ in loader])
    for p in papers: assert s[p.image, p.prototype].item() == pytest.approx(1, abs=1e-6)
    assert s.max() <= 1 + 1e-6 and s.min() >= -1


def test_it_learns_and_survives_its_file(tmp_path):
    model, loader = net((2, 2)), batches()
    before = model.prototypes.vectors.detach().clone()
    optimiser = torch.optim.SGD(model.parameters(), lr=.1)
    train_step(model, default_loss, optimiser, *loader[0])
    assert (model.prototypes.vectors != before).any()
    save(model.eval(), tmp_path / "cosine.safetensors")
    back = load(tmp_path / "cosine.safetensors")
    assert back.recipe["distance"] == back.recipe["similarity"] == "cosine"
    with evaluating(model), evaluating(back): assert torch.equal(back(loader[0][0]).logits, model(loader[0][0]).logits)


def test_the_first_ingredients_are_the_default_recipe():
    splits = bird_splits(0, per_class=4, valid=1, test=1, size=64)
    ours, theirs = cook(trunk_maps(splits), 3, INGREDIENTS["log, 1x1"]), frozen(splits, 3)
    for name, tensor in theirs.net.state_dict().items(): assert torch.equal(tensor, ours.net.state_dict()[name]), name
    assert part_numbers(ours, k=4)["pointing"].n == 80
