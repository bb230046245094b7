"Projection where a lesson is too small: near ties, errors that leave the model alone, files, and a run that is stopped and goes on"
import pytest
import torch

from protolab.backbone import geometry
from protolab.core import seed_everything
from protolab.last_layer import LastLayer
from protolab.loss import default_loss
from protolab.model import load, save, tiny_model
from protolab.project import OwnSearch, Projection, check_projection, duplicates, nearest_own, project_
from protolab.train import Stage, fit


class Dls:
    def __init__(self, images=24, seed=0):
        g = torch.Generator().manual_seed(seed)
        x, y = torch.randn(images, 3, 16, 16, generator=g), torch.arange(images) % 3
        self.train = self.valid = self.project = list(zip(x.split(8), y.split(8)))


def exact(z, y, vectors, cls):
    "All distances in float64; the first of the smallest"
    d = (z.double().flatten(2)[:, None] - vectors.double().flatten(1)[None, :, :, None]).square().sum(2)
    d = d.masked_fill((y[:, None] != cls)[..., None], torch.inf).transpose(1, 2).flatten(0, 1)
    best = d.argmin(0)
    return d.min(0).values, best // z[0, 0].numel(), best % z[0, 0].numel()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("batch", [1, 7, 40])
def test_near_ties_far_from_zero(seed, batch):
    "Patches that a float32 expansion cannot tell apart; a third of them are exact copies"
    g = torch.Generator().manual_seed(seed)
    z = 10 + 0.002 * torch.rand(40, 16, 4, 4, generator=g)
    z[20:] = z[:20].flip(0)
    vectors, cls, y = 10 + 0.001 * torch.rand(9, 16, 1, 1, generator=g), torch.arange(9) // 3, torch.randint(3, (40,), generator=g)
    search = OwnSearch(vectors, cls, 3)
    for part, labels in zip(z.split(batch), y.split(batch)): search.add(part, labels)
    d, image, cell = exact(z, y, vectors, cls)
    torch.testing.assert_close(search.d[:, 0].double(), d, rtol=1e-4, atol=0)
    found = (z[search.image[:, 0], :, search.cell[:, 0] // 4, search.cell[:, 0] % 4].double() - vectors.flatten(1).double()).square().sum(1)
    torch.testing.assert_close(found, d, rtol=1e-6, atol=0)


def test_ties_are_exact_whatever_the_batches():
    z, vectors, cls = torch.rand(1, 5, 3, 3).expand(12, 5, 3, 3).contiguous(), torch.rand(2, 5, 1, 1), torch.tensor([0, 1])
    y = torch.tensor([1, 0] * 6)
    for batch in (1, 5, 12):
        search = OwnSearch(vectors, cls, 2)
        for part, labels in zip(z.split(batch), y.split(batch)): search.add(part, labels)
        assert search.image[:, 0].tolist() == [1, 0]


def test_a_class_without_images_gives_nothing():
    d, image, cell = nearest_own(torch.rand(3, 4, 2, 2), torch.tensor([0, 0, 2]), torch.rand(3, 4, 1, 1), torch.tensor([0, 1, 2]))
    assert d[1] == torch.inf and image[1] == cell[1] == -1


@pytest.mark.parametrize("wrong", ["class", "geometry", "nan"])
def test_an_error_leaves_the_model_alone(wrong):
    seed_everything(0)
    model, loader = tiny_model().train(), Dls().project
    geo = geometry(model.backbone, (24, 24) if wrong == "geometry" else (16, 16))
    if wrong == "class": loader = [(x[y != 1], y[y != 1]) for x, y in loader]
    if wrong == "nan": loader = [(x.clone().fill_(torch.nan), y) for x, y in loader]
    before = {k: v.clone() for k, v in model.state_dict().items() if torch.is_tensor(v)}
    with pytest.raises(ValueError): project_(model, loader, geo)
    assert model.training and model.provenance == []
    for name, value in before.items(): assert torch.equal(model.state_dict()[name], value), name


def test_distinct_takes_no_patch_twice():
    seed_everything(0)
    model, dls = tiny_model(), Dls()
    with torch.no_grad(): model.prototypes.vectors[:] = model.prototypes.vectors[:1]
    geo = geometry(model.backbone, (16, 16))
    assert duplicates(project_(model, dls.project, geo))
    with torch.no_grad(): model.prototypes.vectors[:] = model.prototypes.vectors[:1].clone()
    assert not duplicates(project_(model, dls.project, geo, distinct=True))
    assert check_projection(model, dls.project) == 0


def test_papers_survive_a_file(tmp_path):
    seed_everything(0)
    model, dls = tiny_model(), Dls()
    patches = project_(model, dls.project, geometry(model.backbone, (16, 16)))
    save(model, tmp_path/"model.safetensors")
    again = load(tmp_path/"model.safetensors")
    assert again.provenance == patches
    assert check_projection(again, dls.project) == 0


class Stop(Exception): pass


def stages(geo, stop_after):
    "Training, projection, last layer, training; an error in the middle when wanted"
    def interrupted(model, dls, state):
        if stop_after: raise Stop
        yield {}
    interrupted.name = "interrupted"
    rates = {"add_on": 1e-3}
    return [Stage("warm", 2, {**rates, "prototypes": 1e-2}, default_loss), Projection(geo), LastLayer(l1=0.05, ridge=0.1), interrupted,
            Stage("more", 1, {"prototypes": 1e-3}, default_loss)]


def test_a_stopped_run_goes_on_with_its_papers(tmp_path):
    def start():
        seed_everything(0)
        return tiny_model()
    whole, halves = start(), start()
    geo, dls = geometry(whole.backbone, (16, 16)), Dls()
    fit(whole, dls, stages(geo, False), tmp_path/"whole")
    seed_everything(0)
    halves = tiny_model()
    with pytest.raises(Stop): fit(halves, dls, stages(geo, True), tmp_path/"halves")
    papers, halves = list(halves.provenance), tiny_model()
    fit(halves, dls, stages(geo, False), tmp_path/"halves")
    assert halves.provenance == papers == whole.provenance
    for (name, a), b in zip(whole.state_dict().items(), halves.state_dict().values()):
        if torch.is_tensor(a): assert torch.equal(a, b), name
