"""The method derived a second time, in float64 with plain loops, from the specification; nothing of protolab takes part in the sums.
Tolerances: 1e-5 relative where the library computes in float32, 1e-10 where it is asked to compute in float64."""
import math
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from protolab.backbone import geometry
from protolab.core import evaluating
from protolab.data import Loader, Images
from protolab.explain import activation_maps, ask, high_box, high_pixels, map_geometry
from protolab.last_layer import adam_passes, objective, problem
from protolab.legacy import adam_last, legacy_loss, push_, stretch, stretched_box
from protolab.loss import paper_loss
from protolab.model import protopnet
from protolab.project import nearest, project_
from protolab.prototypes import DISTANCES

C, PER_CLASS, D, SIZE = 3, 2, 6, 24
CASES = list(product(("log", "linear"), ((1, 1), (2, 2)), ("exact", "expanded")))
each_case = pytest.mark.parametrize("similarity,patch,distance", CASES)


def make(similarity="log", patch=(1, 1), distance="exact"):
    "A network with random weights everywhere, statistics and last layer included, and twelve images of three classes"
    torch.manual_seed(0)
    model = protopnet("tiny", [f"class {c}" for c in range(C)], per_class=PER_CLASS, D=D, similarity=similarity, patch=patch, distance=distance)
    norm = model.backbone.adapter[0]
    with torch.no_grad():
        for t in (norm.weight, norm.running_var): t.uniform_(0.5, 2)
        for t in (norm.bias, norm.running_mean): t.normal_()
        model.last.weight.normal_()
    images = Images(torch.randint(0, 256, (12, 3, SIZE, SIZE), dtype=torch.uint8), torch.arange(12) % C, model.classes, [f"image {i}" for i in range(12)])
    return model, Loader(images, model.backbone.stats, batch=5)


# -- the second derivation ----------------------------------------------------------------------------------------------------

def latent(model, pixels):
    "(N,3,H,W) uint8 -> z (N,D,6,6), layer by layer with einsum, from the numbers in the state"
    w = {name: t.double() for name, t in model.state_dict().items() if isinstance(t, torch.Tensor) and t.is_floating_point()}
    mean, std = ([torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])
    x = (pixels.double() / 255 - mean) / std
    n, side = len(x), SIZE // 4
    tiles = x.reshape(n, 3, side, 4, side, 4)                                            # stride 4, kernel 4: tiles that do not overlap
    h = torch.einsum("ncrisj,kcij->nkrs", tiles, w["backbone.trunk.0.weight"]) + w["backbone.trunk.0.bias"].view(1, -1, 1, 1)
    h = torch.where(h > 0, h, torch.zeros_like(h))
    at = {name: w[f"backbone.adapter.0.{name}"].view(1, -1, 1, 1) for name in ("weight", "bias", "running_mean", "running_var")}
    h = (h - at["running_mean"]) / (at["running_var"] + 1e-5) ** 0.5 * at["weight"] + at["bias"]
    h = torch.einsum("nkrs,dk->ndrs", h, w["add_on.0.weight"][:, :, 0, 0]) + w["add_on.0.bias"].view(1, -1, 1, 1)
    h = torch.where(h > 0, h, torch.zeros_like(h))
    h = torch.einsum("nkrs,dk->ndrs", h, w["add_on.2.weight"][:, :, 0, 0]) + w["add_on.2.bias"].view(1, -1, 1, 1)
    return 1 / (1 + torch.exp(-h))


def all_distances(z, p):
    "(N,P,h',w') by four loops"
    (N, _, h, w), (P, _, hp, wp) = z.shape, p.shape
    d = torch.zeros(N, P, h - hp + 1, w - wp + 1, dtype=torch.float64)
    for n, j, r, c in product(*map(range, d.shape)): d[n, j, r, c] = ((z[n, :, r:r + hp, c:c + wp] - p[j]) ** 2).sum()
    return d


def similar(d, kind): return torch.log((d + 1) / (d + 1e-4)) if kind == "log" else -d


def derived(model, loader, similarity):
    "z, distances, smallest distances, their places, similarities, logits"
    z, p, W = latent(model, loader.images.x), model.prototypes.vectors.detach().double(), model.last.weight.detach().double()
    d = all_distances(z, p)
    least, place = torch.zeros(d.shape[:2], dtype=torch.float64), torch.zeros(d.shape[:2], dtype=torch.long)
    for n, j in product(range(len(d)), range(len(p))):
        cells = d[n, j].flatten().tolist()
        least[n, j], place[n, j] = min(cells), cells.index(min(cells))
    s = similar(least, similarity)
    return SimpleNamespace(z=z, p=p, d=d, least=least, place=place, s=s, logits=torch.einsum("nj,cj->nc", s, W))


def close(got, want, relative): torch.testing.assert_close(got.detach().double(), want.double(), rtol=relative, atol=relative)


# -- one forward pass ---------------------------------------------------------------------------------------------------------

@each_case
def test_logits_and_distances(similarity, patch, distance):
    model, loader = make(similarity, patch, distance)
    want = derived(model, loader, similarity)
    with evaluating(model): parts = [model(x) for x, _ in loader]
    got = {name: torch.cat([getattr(out, name) for out in parts]) for name in ("z", "d", "s", "logits", "cell")}
    close(got["z"], want.z, 1e-5); close(got["d"], want.least, 1e-5)
    close(got["s"], want.s, 2e-5); close(got["logits"], want.logits, 5e-5)              # sums of six similarities of either sign
    assert torch.equal(got["cell"], want.place)


@each_case
def test_the_layer_in_float64(similarity, patch, distance):
    model, loader = make(similarity, patch, distance)
    want, layer = derived(model, loader, similarity), model.double().prototypes
    s, d, cell = layer(want.z)
    close(d, want.least, 1e-10); close(s, want.s, 1e-10); close(layer.maps(want.z), similar(want.d, similarity), 1e-10)
    assert torch.equal(cell, want.place)


# -- the costs ----------------------------------------------------------------------------------------------------------------

def costs(want, W, y, inverted):
    "Cross entropy, cluster, separation, off-class L1 by loops; `inverted` writes the minima as maxima"
    N, P = want.least.shape
    most = want.p[0].numel()
    ce = sum(math.log(sum(math.exp(v - want.logits[n, y[n]].item()) for v in want.logits[n].tolist())) for n in range(N)) / N
    sums = {}
    for name, own in (("cluster", True), ("separation", False)):
        total = 0
        for n in range(N):
            counts = [(j // PER_CLASS == y[n].item()) == own for j in range(P)]
            d = want.least[n].tolist()
            total += most - max((most - v) * c for v, c in zip(d, counts)) if inverted else min(v for v, c in zip(d, counts) if c)
        sums[name] = total / N
    l1 = sum(abs(W[c, j].item()) for c in range(C) for j in range(P) if j // PER_CLASS != c)
    return dict(cross_entropy=ce, **sums, l1=l1, loss=ce + 0.8 * sums["cluster"] - 0.08 * sums["separation"] + 1e-4 * l1)


@pytest.mark.parametrize("shift", [0.0, 4.0])
@pytest.mark.parametrize("loss,inverted", [(paper_loss, False), (legacy_loss, True)])
@each_case
def test_the_cost_terms(similarity, patch, distance, loss, inverted, shift):
    "Within the unit cube both forms agree; prototypes shifted out of it are farther than D hp wp, and the forms part"
    model, loader = make(similarity, patch, distance)
    with torch.no_grad(): model.prototypes.vectors += shift
    want, y = derived(model, loader, similarity), loader.y
    with evaluating(model): out = model(torch.cat([x for x, _ in loader]))
    expected = costs(want, model.last.weight, y, inverted)
    for name, value in loss(model, out, y).items(): assert value.item() == pytest.approx(expected[name], rel=2e-5, abs=2e-5), name
    assert (expected["cluster"] == want.p[0].numel()) == (inverted and shift > 0)


# -- projection and neighbours ------------------------------------------------------------------------------------------------

def projected(want, y):
    "A strict <: the first image, then the first cell"
    best, vectors, hp, wp = [(math.inf, None)] * len(want.p), want.p.clone(), *want.p.shape[2:]
    for j, n, r, c in product(range(len(want.p)), range(len(y)), *map(range, want.d.shape[2:])):
        if y[n].item() == j // PER_CLASS and want.d[n, j, r, c] < best[j][0]:
            best[j] = (want.d[n, j, r, c].item(), (n, (r, c)))
            vectors[j] = want.z[n, :, r:r + hp, c:c + wp]
    return vectors, [where for _, where in best], [d for d, _ in best]


@pytest.mark.parametrize("project", [project_, push_])
@each_case
def test_projected_vectors(similarity, patch, distance, project):
    model, loader = make(similarity, patch, distance)
    vectors, places, moved = projected(derived(model, loader, similarity), loader.y)
    project(model, loader, geometry(model.backbone, (SIZE, SIZE)))
    close(model.prototypes.vectors, vectors, 1e-5)
    assert [(p.image, p.cell) for p in model.provenance] == places
    assert [p.distance for p in model.provenance] == pytest.approx(moved, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("k", [1, 5, 12])
@each_case
def test_nearest_patches(similarity, patch, distance, k):
    model, loader = make(similarity, patch, distance)
    want, near = derived(model, loader, similarity), nearest(model, loader, k)
    for j in range(len(want.p)):
        order = sorted(range(12), key=lambda n: (want.least[n, j].item(), n))[:k]
        assert near.image[j].tolist() == order
        assert near.cell[j].tolist() == [want.place[n, j].item() for n in order] and near.label[j].tolist() == [loader.y[n].item() for n in order]
        close(near.d[j], want.least[order, j], 1e-5)


# -- maps and boxes -----------------------------------------------------------------------------------------------------------

def kernel(t):
    "Keys's cubic with a = -0.75, as OpenCV has it"
    t = abs(t)
    return 1.25 * t ** 3 - 2.25 * t ** 2 + 1 if t <= 1 else -0.75 * (t ** 3 - 5 * t ** 2 + 8 * t - 4) if t < 2 else 0.0


def enlarged(map, size, down, across):
    "(h,w) -> (H,W): sixteen neighbours a pixel; `down` and `across` say where a pixel lies among the cells, and the border repeats"
    (h, w), values, out = map.shape, map.tolist(), torch.zeros(size, dtype=torch.float64)
    for y, x in product(*map_range(out)):
        v, u = down(y), across(x)
        out[y, x] = sum(kernel(v - r) * kernel(u - c) * values[min(max(r, 0), h - 1)][min(max(c, 0), w - 1)]
                        for r, c in product(range(math.floor(v) - 1, math.floor(v) + 3), range(math.floor(u) - 1, math.floor(u) + 3)))
    return out


def map_range(map): return [range(n) for n in map.shape]


def framed(map):
    "Bounding box of the pixels at or above the 95th percentile, interpolated between order statistics"
    values, rows = sorted(map.flatten().tolist()), map.tolist()
    place = 0.95 * (len(values) - 1)
    low = values[math.floor(place)]
    limit = low + (place - math.floor(place)) * (values[math.ceil(place)] - low)
    high = [(y, x) for y, x in product(*map_range(map)) if rows[y][x] >= limit]
    return min(y for y, _ in high), min(x for _, x in high), max(y for y, _ in high) + 1, max(x for _, x in high) + 1


@pytest.mark.parametrize("similarity,patch", [("log", (1, 1)), ("linear", (2, 2))])
def test_maps_and_boxes(similarity, patch):
    model, loader = make(similarity, patch)
    want, geo = similar(derived(model, loader, similarity).d[0], similarity), geometry(model.backbone, (SIZE, SIZE))
    out = ask(model, next(iter(loader))[0][0])
    ours, start = activation_maps(model, out, geo, list(range(6))), 1.5 + 2 * (patch[0] - 1)          # the middle of the first patch, in pixels
    def at(pixel): return min(max((pixel - start) / 4, 0), want.shape[1] - 1)            # flat beyond the outermost cells
    for j in range(6):
        mine = enlarged(want[j], (SIZE, SIZE), at, at)
        close(ours[j], mine, 1e-4)
        assert high_box(ours[j]) == framed(mine)
    assert map_geometry(model, geo).cells == tuple(want.shape[1:])


@pytest.mark.parametrize("cells,size", [((7, 7), (56, 56)), ((5, 6), (33, 47))])
def test_the_stretched_map_and_its_box(cells, size):
    "The released code's cubic resize takes cells for tiles of the image"
    torch.manual_seed(1)
    map = torch.rand(cells, dtype=torch.float64)
    (h, w), (H, W) = cells, size
    mine = enlarged(map, size, lambda y: (y + 0.5) * h / H - 0.5, lambda x: (x + 0.5) * w / W - 0.5)
    close(stretch(map[None], size)[0], mine, 1e-10)
    assert stretched_box(map, size) == framed(mine)


@pytest.mark.parametrize("shape", [(10, 10), (7, 9), (1, 40)])
def test_the_box_rule_alone(shape):
    torch.manual_seed(2)
    for _ in range(20):
        map = torch.rand(shape, dtype=torch.float64)
        assert high_box(map) == framed(map)
        assert high_pixels(map).sum() == math.ceil(0.05 * (map.numel() - 1))               # so many lie at or above it when all differ


# -- the last layer -----------------------------------------------------------------------------------------------------------

def adam_by_hand(s, y, W, steps, rate=1e-4, l1=1e-4):
    "Adam on cross entropy + l1 |off-class weights|, from its definition"
    m, v = torch.zeros_like(W), torch.zeros_like(W)
    off = torch.tensor([[j // PER_CLASS != c for j in range(W.shape[1])] for c in range(C)])
    for t in range(1, steps + 1):
        chance = torch.exp(s @ W.T) / torch.exp(s @ W.T).sum(1, keepdim=True)
        right = torch.stack([(y == c).double() for c in range(C)], 1)
        g = (chance - right).T @ s / len(y) + l1 * W.sign() * off
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g ** 2
        W = W - rate * (m / (1 - 0.9 ** t)) / ((v / (1 - 0.999 ** t)) ** 0.5 + 1e-8)
    return W


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("similarity,patch", [("log", (1, 1)), ("linear", (2, 2))])
def test_last_layer_steps(similarity, patch, steps):
    "Through the network in legacy mode, and on stored similarities in float64: the same steps"
    model, loader = make(similarity, patch)
    model.backbone.adapter[0].momentum = 0.0                                            # in train mode a batch is normalised by itself ...
    with torch.no_grad(): h = model.backbone.trunk(torch.cat([x for x, _ in loader]))
    model.backbone.adapter[0].running_mean.copy_(h.mean((0, 2, 3)))
    model.backbone.adapter[0].running_var.copy_(h.var((0, 2, 3), unbiased=False))        # ... which is what these say, so both modes agree
    want, W = derived(model, loader, similarity), model.last.weight.detach().double()
    by_hand = adam_by_hand(want.s, loader.y, W, steps)
    dls = SimpleNamespace(train=Loader(loader.images, model.backbone.stats, batch=12))
    assert len(list(adam_last(steps)(model, dls, {}))) == steps
    close(model.last.weight - W, by_hand - W, steps * 2.0 ** -22)                       # a step is 1e-4; 2^-22 is the last place of a float32 between 2 and 4
    close(adam_passes(want.s, loader.y, model.cls, W, passes=steps, batch=12).W, by_hand, 1e-10)


def test_the_objective_of_the_last_layer():
    model, loader = make()
    want, W = derived(model, loader, "log"), model.last.weight.detach().double()
    hand = costs(want, W, loader.y, False)
    ridge = sum((W[j // PER_CLASS, j].item() - 1) ** 2 for j in range(6)) * 0.5 * 0.01
    assert objective(problem(want.s, loader.y, model.cls, 1e-4, 0.01), W).item() == pytest.approx(hand["cross_entropy"] + 1e-4 * hand["l1"] + ridge, rel=1e-10)


def test_both_distances_are_tested(): assert {distance for *_, distance in CASES} == set(DISTANCES) - {"cosine"}   # not the paper's; its oracle is in test_prototypes
