"The measures of explanations, on prototypes whose score is known by construction; each trap of the field has a test"
import math

import pytest
import torch
from protolab.backbone import clipped_box, geometry, upsample
from protolab.birds import NAMED, PART_ID
from protolab.cub import cub_splits, keypoints, read_cub
from protolab.data import Images, bird_images
from protolab.metrics import (BOX, PATCH, apartness, at_highest_pixel, at_random, bootstrap, box_sweep, boxes_round, boxes_without_part, by_chance,
                              cell_places, consistency, consistent, coverage, hits, look_at, measured, oirr, outside_inside, own_pairs, part_purity,
                              partless, planted, pointing_game, purities, same_parts, shares_of_parts, sparsity, stability, terms_needed, with_noise)
from protolab.model import protopnet
from protolab.truth import Truth, box_pixels, middle_pixel, truth_from_boxes, truth_from_points, truth_of

WING = NAMED.index("wing")


@pytest.fixture(scope="module")
def flock():
    "Forty birds of two species"
    return bird_images([0, 1] * 20, list(range(40)), seed=5)


@pytest.fixture(scope="module")
def truth(flock): return truth_of(flock)


@pytest.fixture(scope="module")
def geo(): return geometry(protopnet("lite0", ["a", "b"], pretrained=False).backbone, (96, 96))


def sky(truth):
    "The pixel of each image that is farthest from its bird: the background, known by construction"
    def farthest(mask):
        bird = mask.nonzero().double()
        pixels = torch.cartesian_prod(torch.arange(0, 96, 5), torch.arange(0, 96, 5)).double()
        return pixels[torch.cdist(pixels, bird).min(1).values.argmax()]
    return torch.stack([farthest(mask) for mask in truth.objects]).float()


@pytest.fixture(scope="module")
def glued(flock, truth, geo):
    "For each of two classes a prototype on the wing, one on the sky, one at a random place"
    anywhere = torch.rand(len(flock), 2, generator=torch.Generator().manual_seed(1)) * 95
    three = torch.stack([truth.points[:, WING].float(), sky(truth), anywhere], 1)
    return planted(flock.y, geo, three.repeat(1, 2, 1), torch.tensor([0, 0, 0, 1, 1, 1]))


# -- truth --------------------------------------------------------------------------------------------------------------------

def test_truth_of_part_maps_against_a_loop(flock, truth):
    for i in range(0, len(flock), 7):
        for k, part in enumerate(NAMED):
            mask = flock.parts[i] == PART_ID[part]
            if part == "crown": mask |= flock.parts[i] == PART_ID["eye"]
            assert truth.visible[i, k] == mask.any()
            if not mask.any(): continue
            pixels = mask.nonzero().double()
            away = (pixels - pixels.mean(0)).square().sum(1)
            y, x = truth.points[i, k].tolist()
            assert mask[y, x] and math.isclose((torch.tensor([y, x]) - pixels.mean(0)).square().sum(), away.min(), rel_tol=1e-5)
        bird = [PART_ID[p] for p in ("body", "legs", "tail", "breast", "wing", "crown", "eye", "beak")]
        assert torch.equal(truth.objects[i], torch.isin(flock.parts[i], torch.tensor(bird, dtype=torch.uint8)))


def test_middle_pixel_of_nothing(): assert middle_pixel(torch.zeros(2, 3, 4).bool()).tolist() == [[-1, -1]] * 2


def holds_naive(parts, box):
    top, left, bottom, right = box
    piece, found = parts[top:bottom, left:right], []
    for part in NAMED:
        ids = torch.tensor([PART_ID[part], PART_ID["eye"] if part == "crown" else PART_ID[part]], dtype=torch.uint8)
        inside, whole = torch.isin(piece, ids).sum().item(), torch.isin(parts, ids).sum().item()
        found.append(inside > 0 and (inside >= 0.1 * piece.numel() or inside >= 0.5 * whole))
    return found


def test_holds_against_a_loop(flock, truth):
    "Boxes of many sizes, at the edges too, of mixed images"
    draw = torch.Generator().manual_seed(0)
    i = torch.randint(len(flock), (60,), generator=draw)
    corner = torch.randint(0, 90, (60, 2), generator=draw)
    boxes = torch.cat([corner, (corner + torch.randint(1, 60, (60, 2), generator=draw)).clamp(max=96)], 1)
    naive = [holds_naive(flock.parts[n], box) for n, box in zip(i.tolist(), boxes.tolist())]
    assert truth.holds(i, boxes).tolist() == naive
    assert any(map(any, naive)) and truth.holds(i[:0], boxes[:0]).shape == (0, 5)


def test_a_thin_part_is_held_by_a_box_that_has_half_of_it():
    "A line of 10 pixels never fills a tenth of a box of 400, and yet lies in it"
    parts = torch.zeros(1, 40, 40, dtype=torch.uint8)
    parts[0, 20, 10:20] = PART_ID["beak"]
    truth = truth_of(Images(torch.zeros(1, 3, 40, 40, dtype=torch.uint8), torch.tensor([0]), ["a"], ["a"], parts))
    held = truth.holds(0, [[10, 5, 30, 25], [10, 15, 30, 35], [10, 16, 30, 36]])[:, NAMED.index("beak")]
    assert held.tolist() == [True, True, False]                       # all ten, five, four of them


def test_points_move_with_the_size():
    "One pixel of a 10 x 20 picture, at half the height and a quarter of the width; a visible point outside is not visible"
    points = torch.tensor([[[6., 9, 1], [6, 9, 0], [25, 9, 1]]])
    truth = truth_from_points(points, ["a", "b", "c"], (5, 5), was=torch.tensor([[10, 20]]))
    assert truth.points[0, 0].tolist() == [4.25, 1.125] and truth.visible.tolist() == [[True, False, False]]
    assert truth.holds(0, [[4, 1, 5, 2], [0, 0, 4, 5]]).tolist() == [[True, False, False], [False] * 3]


def test_boxes_move_with_the_size():
    boxes = torch.tensor([[0, 0, 4, 4], [4, 2, 8, 8]])
    same, half = box_pixels(boxes, (8, 8)), truth_from_boxes(boxes, (4, 4), torch.tensor([[8, 8], [8, 8]])).objects
    assert same.sum((1, 2)).tolist() == [16, 24] and same[1, 4:, 2:].all()
    assert half.sum((1, 2)).tolist() == [4, 6] and half[1, 2:, 1:].all()


def test_cub_in_three_lines(tmp_path, geo):
    "Prototypes glued to the points of CUB are consistent, by the points of the cropped and resized images"
    from protolab.birds import write_cub
    cub = read_cub(write_cub(tmp_path/"cub", per_class=6, species=(0, 1)))
    images = cub_splits(cub, 96, valid=.3, cache=tmp_path).test
    truth = truth_from_points(keypoints(cub, images.names, 96), cub.parts, (96, 96))
    beak = cub.parts.index("beak")
    place = torch.stack([truth.points[:, beak], torch.zeros(len(images), 2)], 1)
    looked = planted(images.y, geo, place.repeat(1, 2, 1), torch.tensor([0, 0, 1, 1]))
    assert truth.visible[:, beak].sum() >= 4
    shares = shares_of_parts(looked, truth, PATCH, least=1)
    assert shares[[0, 2], beak].tolist() == [1, 1] and (shares[[1, 3]].nan_to_num(0) < 0.8).all()


# -- the measures, on planted prototypes --------------------------------------------------------------------------------------

def test_consistency_is_known(glued, truth):
    "Wing 1, sky 0, random 0, in both classes; the boxes are 72 of 224"
    assert consistent(glued, truth).tolist() == [1, 0, 0, 1, 0, 0]
    got = consistency(glued, truth)
    assert got.value == pytest.approx(1 / 3) and got.n == 6 and got.chance <= 0.1 and got.low < got.value < got.high


def test_shares_against_a_loop(glued, truth):
    shares = shares_of_parts(glued, truth, PATCH)
    for j, k in ((0, WING), (2, 0), (5, WING)):
        images = [i for i in range(40) if glued.y[i] == glued.cls[j] and truth.visible[i, k]]
        boxes = [boxes_round(glued.place[i, j, None], PATCH, (96, 96)) for i in images]
        assert shares[j, k].item() == pytest.approx(sum(truth.holds(i, b)[0, k].item() for i, b in zip(images, boxes)) / len(images))


def test_trap_background_is_stable(glued, truth):
    "Stability 100 and consistency 0 for a prototype on the sky; the share of boxes without a part tells"
    pushed = glued._replace(place=glued.place + 1)
    steady, empty = same_parts(glued, pushed, truth, PATCH), boxes_without_part(glued, truth, PATCH)
    assert steady[[1, 4]].tolist() == [1, 1] and consistent(glued, truth, PATCH)[[1, 4]].tolist() == [0, 0]
    assert empty[[1, 4]].tolist() == [1, 1]
    got = partless(glued, truth, PATCH)
    assert got.better == "low" and 0.5 < got.chance < 1


def test_trap_one_image_does_not_make_consistent(glued, truth):
    "A part that is visible in one image, and there in the box"
    only = torch.zeros_like(truth.visible)
    only[:2] = truth.visible[:2]                                       # one image of each class
    rare = truth._replace(visible=only)
    assert consistent(glued, rare, least=1)[[0, 3]].tolist() == [1, 1]
    got = consistency(glued, rare)
    assert got.n == 0 and math.isnan(got.value) and math.isnan(got.chance)


def test_trap_four_of_five_is_enough(flock, truth, geo):
    "Ten images: on the wing in 8 of them consistent, in 7 not"
    ten = (flock.y == 0) & truth.visible[:, WING]
    rows = ten.nonzero().flatten()[:10]
    some = Truth(truth.names, truth.visible[rows], truth.points[rows], truth.objects[rows], truth.parts[rows])
    far = sky(some)
    for n, want in ((8, 1), (7, 0)):
        place = torch.where((torch.arange(10) < n)[:, None], some.points[:, WING].float(), far)
        assert consistent(planted(torch.zeros(10).long(), geo, place[:, None], torch.tensor([0])), some, PATCH).tolist() == [want]


def test_trap_noise_is_seeded():
    "The same noise in batches of any size, other noise with another seed, never above the clip; the global generator is left alone"
    x = torch.zeros(5, 3, 16, 16)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    whole = with_noise(x, 0)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(whole, torch.cat([with_noise(x[:2], 0), with_noise(x[2:], 2)]))
    assert not torch.equal(whole, with_noise(x, 0, seed=1)) and not torch.equal(whole[0], whole[1])
    assert whole.abs().max() == 0.25 and 0.13 < whole.std() < 0.19       # sigma 0.2, cut at 0.25: about 0.16


def test_trap_large_boxes_hold_parts_by_chance(glued, truth):
    "With growing boxes, chance gets what the prototype on the wing gets"
    points = truth._replace(parts=None)
    small, middle, all_ = box_sweep(glued, points, sides=(32, 72, 448))
    assert small.chance == 0 and all_.chance == 1 and all_.value == 1
    empty = box_sweep(glued, points, partless, sides=(16, 72, 448))
    assert empty[0].chance > 0.8 > empty[1].chance > 0.2 and empty[2].chance == 0


def test_trap_the_choice_is_told(glued, truth):
    assert "32%" in consistency(glued, truth).choice and "14%" in consistency(glued, truth, PATCH).choice
    assert "5 or more" in consistency(glued, truth).choice and "9 or more" in consistency(glued, truth, least=9).choice
    assert "3 best" in part_purity(glued, truth, k=3).choice and "winning cell" in pointing_game(glued, truth).choice


def test_purity_is_known(glued, truth, flock):
    "The similarity is 1 in a class's own images, so the ten best are its first ten: the wing's share is how often it is visible there"
    first = [(flock.y == c).nonzero().flatten()[:10] for c in (0, 1)]
    got = purities(glued, truth)
    assert got[[0, 3]].tolist() == pytest.approx([truth.visible[rows, WING].double().mean().item() for rows in first])
    assert got[[1, 4]].tolist() == [0, 0]
    idle = glued._replace(weight=glued.weight * torch.tensor([1, 1, 1, 1, 0, 0]))
    assert part_purity(idle, truth).n == 4 and torch.equal(purities(idle, truth), got[:4])


def test_pointing_game_is_known(glued, truth):
    "On the bird, on the sky; and chance is the share of cells whose centre lies on a bird"
    got = pointing_game(glued, truth)
    visible = [truth.visible[glued.y == c, WING].double().mean().item() for c in (0, 1)]
    assert got.values[[0, 3]].tolist() == pytest.approx(visible) and got.values[[1, 4]].tolist() == [0, 0]
    y, x = (cell_places(torch.arange(144), glued.geometry) + 0.5).floor().long().clamp(0, 95).T
    assert got.chance == pytest.approx(truth.objects[:, y, x].double().mean().item(), abs=0.08)


def test_oirr_against_the_map_at_full_size(glued, truth):
    "Random maps, every pixel of them"
    looked = glued._replace(maps=torch.rand(glued.maps.shape, generator=torch.Generator().manual_seed(2)))
    i, j = own_pairs(looked.y, looked.cls)
    low, high = (f(looked.maps, dim=(1, 2), keepdim=True) for f in (torch.amin, torch.amax))
    full = upsample((looked.maps - low) / (high - low), looked.geometry).double()
    for p in (0, 4):
        mine = (j == p).nonzero().flatten()
        outs, ins = zip(*[(full[n][~truth.objects[i[n]]].mean(), full[n][truth.objects[i[n]]].mean()) for n in mine])
        assert outside_inside(looked, truth)[p].item() == pytest.approx((sum(outs) / sum(ins)).item(), rel=1e-4)


def test_oirr_is_known(glued, truth):
    got = oirr(glued, truth)
    assert got.values[0] < 0.2 and got.values[1] > 20 and got.better == "low"
    flat = glued._replace(maps=torch.where(truth.objects[own_pairs(glued.y, glued.cls)[0]].any(2).any(1)[:, None, None], glued.maps, 0) * 0)
    assert outside_inside(flat, truth).tolist() == [0] * 6                # a flat map says nothing, and divides by nothing


def test_distinctiveness_is_known(flock, geo):
    "Two boxes of 14 px, seven apart: they share a third. Three prototypes of which two are twins: 2 of 3 pairs apart"
    def of(*columns):
        place = torch.stack([torch.full((40, 2), 30.) + torch.tensor([0., c]) for c in columns], 1)
        return apartness(planted(flock.y, geo, place, torch.zeros(len(columns)).long()), 14 / 96)
    assert of(0, 7).tolist() == pytest.approx([2 / 3]) and of(0, 0).tolist() == [0] and of(0, 40).tolist() == [1]
    assert of(0, 0, 40).tolist() == pytest.approx([2 / 3]) and of(0).tolist() == []


def test_comprehensiveness_is_known(flock, truth, geo):
    "One prototype a part covers all; without the wing's, all but it"
    full = planted(flock.y, geo, truth.points.repeat(1, 2, 1), torch.tensor([0] * 5 + [1] * 5))
    assert coverage(full, truth).unique().tolist() == [1]
    points = truth._replace(parts=None)
    tiny = coverage(planted(flock.y, geo, truth.points.repeat(1, 2, 1)[:, [0, 5]], torch.tensor([0, 1])), points, 1 / 96)
    assert tiny.tolist() == pytest.approx((points.visible[:, 0] / points.visible.sum(1)).tolist())


def test_sparsity_is_known(glued):
    assert sparsity(glued).values.tolist() == [3, 3]
    assert sparsity(glued._replace(weight=torch.tensor([[1., 0, 0, -.5, 1e-5, 0], [0, 0, 0, 0, 0, 0]]))).values.tolist() == [2, 0]
    terms = glued._replace(s=torch.tensor([[10., 5, 4, 1], [1, 1, 1, 1]]), weight=torch.tensor([[1., 1, -1, 0]]), logits=torch.zeros(2, 1))
    assert terms_needed(terms, 0.5).tolist() == [1, 2]                  # 10 of 19 is more than half, 1 of 3 is not
    assert terms_needed(terms._replace(s=terms.s * 0)).tolist() == [0, 0]


# -- interval and baseline ----------------------------------------------------------------------------------------------------

def test_the_interval_is_that_of_the_mean():
    "For many values the bootstrap agrees with mean ± 1.96 standard errors"
    values = torch.rand(400, generator=torch.Generator().manual_seed(0))
    low, high = bootstrap(values)
    error = 1.96 * values.std().item() / 20
    assert low == pytest.approx(values.mean().item() - error, abs=0.004) and high == pytest.approx(values.mean().item() + error, abs=0.004)
    assert bootstrap(values) == (low, high) and measured("x", [2, 2]).low == 2


def test_a_random_prototype_scores_as_chance_says(flock, truth, geo):
    "Forty prototypes at random places: their own measures and the baseline agree"
    anywhere = at_random(planted(flock.y, geo, torch.zeros(40, 40, 2), torch.arange(2).repeat(20)), seed=77)
    for measure in (partless, pointing_game):
        got = measure(anywhere, truth)
        assert got.value == pytest.approx(got.chance, abs=0.06)
    assert part_purity(anywhere, truth).value == pytest.approx(part_purity(anywhere, truth).chance, abs=0.06)


def test_at_random_is_uniform_and_seeded(glued):
    a, b = at_random(glued, 1), at_random(glued, 1)
    assert torch.equal(a.cell, b.cell) and torch.equal(a.maps, b.maps) and not torch.equal(a.cell, at_random(glued, 2).cell)
    pairs = own_pairs(a.y, a.cls)
    assert torch.equal(a.maps.flatten(1).argmax(1), a.cell[pairs])       # the map went with its peak
    assert by_chance(lambda one: (one.cell == glued.cell).double().flatten(), glued, draws=50) == pytest.approx(1 / 144, abs=0.003)


def test_boxes_are_those_of_the_backbone():
    places = torch.tensor([[0., 0], [95, 95], [47.5, 50], [3.2, 90.1]])
    assert boxes_round(places, 14 / 96, (96, 96)).tolist() == [list(clipped_box(tuple(p), (14, 14), (96, 96))) for p in places.tolist()]


# -- a real network whose prototypes are planted ------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def painted():
    "A network with the colour of a part as its prototype, and birds that are painted in the colours of their parts"
    birds = bird_images([0] * 12, list(range(12)), seed=9)
    wing, tail = ((birds.parts == PART_ID[p]) for p in ("wing", "tail"))
    x = torch.stack([wing, tail, torch.zeros_like(wing)], 1).to(torch.uint8) * 255
    images = Images(x, birds.y * 0, ["bird", "none of these"], birds.names, birds.parts)
    model = protopnet("tiny", images.classes, per_class=2, D=8, similarity="linear")
    conv = model.backbone.trunk[0]
    with torch.no_grad():
        conv.weight.zero_(), conv.bias.zero_()
        for channel in (0, 1): conv.weight[channel, channel] = 1 / 16
        conv.bias.fill_(3)                                             # normalised values go below 0, and a ReLU follows
    z = look_latent(model, images)
    with torch.no_grad():
        for j, part in enumerate((wing, tail)):
            share = torch.nn.functional.avg_pool2d(part[:, None].float(), 4)[:, 0]
            i, r, c = (share == share.max()).nonzero()[0]
            model.prototypes.vectors[j] = z[i, :, r, c, None, None]
    return model.eval(), images


def look_latent(model, images):
    from protolab.data import normalise
    with torch.no_grad(): return model.eval().features(normalise(images.x, model.backbone.stats))


def test_a_real_network_whose_prototypes_are_known(painted):
    "Wing and tail are found wherever they can be seen: by the same pass that reads any model"
    model, images = painted
    truth, looked = truth_of(images), look_at(model, images, batch=5)
    shares = shares_of_parts(looked, truth, PATCH)
    assert shares[0, WING] == 1 and shares[1, NAMED.index("tail")] == 1
    assert consistent(looked, truth).tolist() == [1, 1]
    assert torch.equal(looked.cell, look_at(model, images, batch=12).cell)
    assert looked.maps.shape[0] == 24 and torch.equal(looked.maps.flatten(1).amax(1), looked.s[own_pairs(looked.y, looked.cls)])


def test_stability_of_a_real_network(painted):
    "Noise does not move a prototype off a wing that glows; noise as loud as the picture does, and the seed decides how"
    model, images = painted
    truth, looked = truth_of(images), look_at(model, images)
    quiet = stability(model, images, looked, truth)
    loud = [stability(model, images, looked, truth, sigma=20, clip=50, seed=seed) for seed in (0, 0, 1)]
    assert quiet.value > loud[0].value and torch.equal(loud[0].values, loud[1].values)
    assert "sigma 20" in loud[0].choice and "seed 1" in loud[2].choice


def test_the_highest_pixel_is_near_the_winning_cell(painted):
    "For a map with one cell the two choices agree to a pixel"
    model, images = painted
    looked = look_at(model, images)
    one = looked._replace(maps=torch.nn.functional.one_hot(looked.cell[own_pairs(looked.y, looked.cls)], looked.maps[0].numel()).float().view_as(looked.maps))
    moved = (at_highest_pixel(one).place - one.place).abs()
    assert moved.max() <= 1 and hits(at_highest_pixel(one), truth_of(images)).min() > 0.8


def test_box_is_what_the_papers_take(): assert (round(BOX * 224), round(PATCH * 224)) == (72, 32)
