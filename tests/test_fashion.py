"Fashion-MNIST: all images arrive, the recipe learns from a part of them, and empty boxes are counted right"
import gzip

import pytest
import torch

from protolab.backbone import cell_box, field_box, geometry, make_backbone
from protolab.core import Patch
from protolab.data import FASHION, Images, Loader, fashion_splits, find_fashion, first_of_each, normalise
from protolab.model import protopnet
from protolab.project import check_projection, project_
from protolab.prototypes import log_similarity
from protolab.truth import empty_share
from protolab.street import RECIPES, fashion, stage_numbers
from protolab.tied import TiedNet, anchor


def here():
    try: return bool(find_fashion(None))
    except FileNotFoundError: return False


needs_files = pytest.mark.skipif(not here(), reason="the files of Fashion-MNIST are not here: `make data` gets them")


@pytest.fixture(scope="module")
def everything(): return fashion_splits(per_class=None, size=28)


def raw(key):
    "The values of an idx file, read without protolab"
    path = find_fashion(None)[key]
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return torch.frombuffer(bytearray(data[4 + 4 * data[3]:]), dtype=torch.uint8)


@needs_files
def test_all_images_are_there(everything):
    assert [len(s) for s in everything] == [55_000, 5_000, 55_000, 10_000]
    names = [*everything.train.names, *everything.valid.names]
    assert len(set(names)) == 60_000 and everything.project is everything.train
    assert set(everything.train.counts().values()) == {5_500} and set(everything.test.counts().values()) == {1_000}


@needs_files
def test_pixels_and_labels_are_those_of_the_files(everything):
    test = everything.test
    assert torch.equal(test.x[:, 0].flatten(), raw(("t10k", "images-idx3-ubyte"))), "not resized, not reordered"
    assert torch.equal(test.x[:, 0], test.x[:, 1]) and torch.equal(test.x[:, 0], test.x[:, 2])
    pixels, labels = raw(("train", "images-idx3-ubyte")).view(-1, 28, 28), raw(("train", "labels-idx1-ubyte"))
    for images in (everything.train, everything.valid):
        place = torch.tensor([int(name.split()[1]) for name in images.names])
        assert torch.equal(images.y, labels[place].long())
        assert torch.equal(images.x[::50, 0], pixels[place[::50]])


@needs_files
def test_another_seed_deals_other_validation_images(everything):
    other = fashion_splits(per_class=None, size=28, seed=1)
    shared = set(other.valid.names) & set(everything.valid.names)
    assert 250 < len(shared) < 650, "5,000 of 60,000, twice: 417 in common by chance"
    assert torch.equal(other.test.x, everything.test.x)


@needs_files
def test_the_recipe_learns_from_a_part():
    splits = fashion_splits(per_class=200, size=28, seed=3)
    trained = fashion(splits, seed=2)
    numbers = stage_numbers(trained)
    assert numbers["test"] > 0.70, numbers                              # chance: 10 %
    free, first, tied, second = (row["accuracy"] for row in trained.history[4:6] + trained.history[-3:-1])
    assert numbers["drop at projection"] == free - first, "the drop is that of the first projection"
    assert second == tied and trained.history[-2]["moved"] < 0.01, "tied prototypes have nowhere to go"
    assert check_projection(trained.model, trained.dls.project) < 1e-5
    assert [p.label for p in trained.model.provenance] == trained.model.cls.tolist()
    assert all(splits.project.names[p.image] == p.name for p in trained.model.provenance)


@pytest.fixture
def projected():
    "Two classes of noise, a model projected on them"
    torch.manual_seed(0)
    images = Images(torch.randint(0, 256, (12, 3, 28, 28), dtype=torch.uint8), torch.arange(12) % 2, FASHION[:2], [str(i) for i in range(12)])
    model = protopnet("grey28", FASHION[:2], per_class=2, D=5)
    project_(model, Loader(images, model.backbone.stats), geometry(model.backbone, (28, 28)))
    return model, images


def test_tied_prototypes_are_the_patches_of_their_images(projected):
    model, images = projected
    net, x = TiedNet(model, images).eval(), normalise(images.x[:3], model.backbone.stats)
    with torch.no_grad():
        model.add_on[0].weight.mul_(1.5)                                 # the network changes, the old prototypes don't
        z, own = model.features(x), model.features(net.x)
    p = torch.stack([own[j, :, r, c] for j, (r, c) in enumerate(q.cell for q in model.provenance)])
    d = (z[:, None] - p[None, :, :, None, None]).square().sum(2).flatten(2).amin(2)
    out = net(x)
    assert torch.allclose(out.d, d, atol=1e-4) and not torch.allclose(model(x).d, d, atol=1e-3)
    assert torch.allclose(out.logits, log_similarity(d) @ model.last.weight.T, atol=1e-2)
    net.settle_()
    assert torch.allclose(model(x).d, d, atol=1e-4)


def test_gradients_reach_the_tied_patches(projected):
    model, images = projected
    net = TiedNet(model, images).eval()
    net.x.requires_grad_()
    net(normalise(images.x[4:6], model.backbone.stats)).d.sum().backward()
    assert (net.x.grad.flatten(1).abs().amax(1) > 0).all(), "every prototype's own image has a say"
    assert model.prototypes.vectors.grad is None, "the stored prototypes have none"


def test_the_recipe_has_a_name(): assert RECIPES["fashion"] is fashion


def test_cells_of_grey28_are_aligned():
    g = geometry(make_backbone("grey28"), (28, 28))
    assert (g.stride, g.cells, g.lean) == (4, (7, 7), (0.0, 0.0))
    assert [cell_box((r, r), g) for r in (0, 3, 6)] == [(0, 0, 4, 4), (12, 12, 16, 16), (24, 24, 28, 28)]
    top, left, bottom, right = field_box((3, 3), g)
    assert (top, left) == (28 - bottom, 28 - right), "the field lies round the middle"


def box(label, image, *edges): return Patch(prototype=0, image=image, name="", label=label, cell=(0, 0), box=edges, distance=0.)


@pytest.fixture
def halves():
    "Class 0: the left half is bright; class 1: nothing at all"
    x = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    x[0, :, :, :4] = 255
    return Images(x, torch.tensor([0, 1]), ["left", "none"], ["a", "b"])


def test_empty_boxes_are_counted(halves):
    patches = [box(0, 0, 0, 0, 4, 4), box(0, 0, 2, 4, 6, 8), box(1, 1, 0, 0, 2, 2), box(0, 0, 0, 3, 4, 7)]      # full, empty, empty, a quarter
    assert empty_share(halves, patches)["prototypes"] == 0.5


def test_chance_is_that_of_the_class(halves):
    assert empty_share(halves, [box(1, 1, 0, 0, 4, 4)])["chance"] == 1
    assert empty_share(halves, [box(0, 0, 0, 0, 4, 4)])["chance"] == pytest.approx(1 / 5)     # one of five columns of places misses the left half


def test_dim_pixels_are_no_ink(halves):
    halves.x[1] = 25
    assert empty_share(halves, [box(1, 1, 0, 0, 4, 4)])["prototypes"] == 1
    halves.x[1] = 26
    assert empty_share(halves, [box(1, 1, 0, 0, 4, 4)])["prototypes"] == 0


def test_the_anchor_asks_each_prototype_for_one_near_image():
    d = torch.tensor([[1., 9., 5.], [4., 16., 5.], [0., 25., 5.]], requires_grad=True)
    own = torch.tensor([[True, False, False], [True, False, False], [False, True, False]])   # nobody is of the third prototype's class
    value = anchor(d, own)
    assert value.item() == pytest.approx((1 + 5) / 2, abs=1e-4)
    value.backward()
    assert (d.grad != 0).tolist() == [[True, False, False], [False, False, False], [False, True, False]]


def test_first_of_each_keeps_the_order_within_a_class():
    x = torch.zeros(6, 3, 4, 4, dtype=torch.uint8)
    images = Images(x, torch.tensor([1, 0, 1, 0, 1, 0]), FASHION[:2], list("abcdef"))
    assert first_of_each(images, 2).names == ["b", "d", "a", "c"]
