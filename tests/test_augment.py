"The paper's augmentation against PIL's own turning, tilting and cutting, done step by step"
import math

import numpy as np
import pytest
import torch
from PIL import Image

from protolab import augment

SIDES = [(224, 224), (300, 200), (160, 240)]      # width, height


def coordinates(w, h):
    "A picture whose red says how far right a pixel is, whose green how far down, both 0 to 255; so a warped picture says where it comes from"
    x, y = np.meshgrid((np.arange(w) + .5) / w * 255, (np.arange(h) + .5) / h * 255)
    return np.stack([x, y, np.zeros_like(x)], 2).round().astype(np.uint8)


def ours(picture, M):
    x = torch.from_numpy(picture).permute(2, 0, 1)[None]
    return augment.warp(x, M.expand(1, 3, 3))[0].permute(1, 2, 0).numpy()


def same(ours, theirs, most, mean):
    "Equal to so many levels away from the frame's edge, where the two resample differently; PIL's cuts are rounded to whole pixels"
    inner = np.abs(ours.astype(int) - theirs.astype(int))[3:-3, 3:-3]
    assert inner.max() <= most and inner.mean() <= mean, (inner.max(), inner.mean())


# -- against PIL, step by step; 255 levels a side, so a level is about a pixel -----------------------------------------------------

@pytest.mark.parametrize("w,h", SIDES)
@pytest.mark.parametrize("degrees", [-15, -4, 0, 7, 15])
def test_turned_like_the_reference(w, h, degrees):
    "PIL turns on a larger canvas; cut E from the sides and A from top and bottom, as the package's formula says; enlarge"
    picture = coordinates(w, h)
    large = Image.fromarray(picture).rotate(degrees, expand=True, resample=Image.BICUBIC)
    t = math.tan(math.radians(abs(degrees)))
    E = t * (large.height - large.width * t) - t ** 2
    A = t * (large.width - E)
    theirs = large.crop((round(E), round(A), round(large.width - E), round(large.height - A))).resize((w, h), Image.BICUBIC)
    same(ours(picture, augment.rotation_matrix(torch.tensor([degrees]), w / h)), np.asarray(theirs), 3, .45)


@pytest.mark.parametrize("w,h", SIDES)
@pytest.mark.parametrize("degrees", [-15, 3, 15])
def test_cut_like_the_reference(w, h, degrees):
    "The same cut from the package's formula with the canvas of the turned picture, exactly: without pixels to round to"
    a = math.radians(abs(degrees))
    s, c, t = math.sin(a), math.cos(a), math.tan(a)
    X, Y = w * c + h * s, w * s + h * c
    E = t * (Y - X * t)
    A = t * (X - E)
    M = augment.rotation_matrix(torch.tensor([degrees], dtype=torch.float64), w / h)[0].double()
    assert (M[0, 0] / c).item() == pytest.approx((X - 2 * E) / w, abs=1e-6) and (M[1, 1] / c).item() == pytest.approx((Y - 2 * A) / h, abs=1e-6)


@pytest.mark.parametrize("w,h", SIDES)
@pytest.mark.parametrize("degrees", [-9, 2, 11])
@pytest.mark.parametrize("along_x", [True, False])
def test_sheared_like_the_reference(w, h, degrees, along_x):
    "PIL pushes each row (or column) by its height times the tangent on a longer canvas; what is full is cut out and stretched"
    picture, t = Image.fromarray(coordinates(w, h)), math.tan(math.radians(degrees))
    long = round(abs(t) * (h if along_x else w))
    start = -long if degrees > 0 else 0
    if along_x: theirs = picture.transform((w + long, h), Image.AFFINE, (1, t, start, 0, 1, 0), Image.BICUBIC).crop((long, 0, w, h))
    else: theirs = picture.transform((w, h + long), Image.AFFINE, (1, 0, 0, t, 1, start), Image.BICUBIC).crop((0, long, w, h))
    M = augment.shear_matrix(torch.tensor([float(degrees)]), torch.tensor([along_x]), w / h)
    same(ours(np.array(picture), M), np.asarray(theirs.resize((w, h), Image.BICUBIC)), 3, .45)


QUADS = {0: lambda w, h, m: [(0, -m), (w, 0), (w, h), (0, h + m)], 1: lambda w, h, m: [(0, 0), (w, -m), (w, h + m), (0, h)],
         2: lambda w, h, m: [(-m, 0), (w + m, 0), (w, h), (0, h)], 3: lambda w, h, m: [(0, 0), (w, 0), (w + m, h), (-m, h)],
         4: lambda w, h, m: [(-m, 0), (w, 0), (w, h), (0, h)], 5: lambda w, h, m: [(0, -m), (w, 0), (w, h), (0, h)],
         8: lambda w, h, m: [(0, 0), (w, 0), (w + m, h), (0, h)], 11: lambda w, h, m: [(0, 0), (w, 0), (w, h), (0, h + m)]}


@pytest.mark.parametrize("w,h", SIDES)
@pytest.mark.parametrize("pull", QUADS)
def test_skewed_like_the_reference(w, h, pull):
    "torchvision's perspective, an independent solver, carries the corners to the pulled ones"
    from torchvision.transforms.functional import InterpolationMode, perspective
    m = round(.2 * max(w, h))
    frame, picture = [(0, 0), (w, 0), (w, h), (0, h)], coordinates(w, h)
    x = torch.from_numpy(picture).permute(2, 0, 1)[None]
    theirs = perspective(x, frame, QUADS[pull](w, h, m), InterpolationMode.BILINEAR)[0].permute(1, 2, 0).numpy()
    M = augment.skew_matrix(torch.tensor([pull]), torch.tensor([m / max(w, h)]), w / h)
    same(ours(picture, M), theirs, 1, .01)


# -- nothing but picture is left --------------------------------------------------------------------------------------------------

def reach(M):
    abc = torch.tensor([[-1., -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1]]) @ M.transpose(1, 2)
    return (abc[..., :2] / abc[..., 2:]).abs().max().item()


@pytest.mark.parametrize("ratio", [.6, 1., 1.6])
def test_no_black_corner(ratio):
    torch.manual_seed(0)
    assert .99 < reach(augment.paper_matrices(5000, ratio)) <= 1 + 1e-5


@pytest.mark.parametrize("shape", [(3, 3, 64, 64), (1, 3, 48, 80), (5, 3, 224, 224)])
def test_white_stays_white(shape):
    white = torch.full(shape, 255, dtype=torch.uint8)
    assert torch.equal(augment.paper_augment(white), white)


def test_a_turn_alone_would_leave_corners():
    "The check above can fail: without the cut the corners look out of the picture"
    c, s = math.cos(math.pi / 12), math.sin(math.pi / 12)
    assert reach(torch.tensor([[[c, -s, 0], [s, c, 0], [0, 0, 1]]])) == pytest.approx(c + s)


# -- the dice -----------------------------------------------------------------------------------------------------------------------

def test_same_seed_same_copies():
    x = torch.randint(0, 256, (9, 3, 32, 32), dtype=torch.uint8)
    torch.manual_seed(5)
    first, second = augment.paper_augment(x), augment.paper_augment(x)
    torch.manual_seed(5)
    assert torch.equal(augment.paper_augment(x), first) and not torch.equal(first, second)


def test_input_is_left_alone():
    x = torch.randint(0, 256, (9, 3, 32, 32), dtype=torch.uint8)
    before = x.clone()
    out = augment.paper_augment(x)
    assert torch.equal(x, before) and out.dtype == torch.uint8 and out.shape == x.shape


def test_shear_degrees_come_as_the_package_draws_them():
    "-9 to 11 without 0; -1 and 1 come twice as often as the others, 1/11 of the time"
    torch.manual_seed(0)
    M = augment.random_shear(44_000)
    k = torch.where(M[:, 0, 1] != 0, M[:, 0, 1], M[:, 1, 0])
    share = {d.item(): n.item() / len(k) for d, n in zip(*k.atan().rad2deg().round().int().unique(return_counts=True))}
    assert set(share) == {*range(-9, 0), *range(1, 12)}
    for d, s in share.items(): assert s == pytest.approx(2 / 22 if abs(d) == 1 else 1 / 22, abs=.005), d


def test_turns_come_as_the_package_draws_them():
    torch.manual_seed(0)
    M = augment.random_rotation(31_000)
    degrees = torch.atan2(M[:, 1, 0], M[:, 0, 0]).rad2deg().round().int()
    share = {d.item(): n.item() / len(M) for d, n in zip(*degrees.unique(return_counts=True))}
    assert set(share) == set(range(-15, 16))
    for d, s in share.items(): assert s == pytest.approx(1 / 16 if d == 0 else 1 / 32, abs=.005), d


def test_skews_come_as_the_package_draws_them(monkeypatch):
    "A quarter of the time one of the eight pulls of a corner, otherwise a side; by up to 0.2"
    drawn = []
    monkeypatch.setattr(augment, "skew_matrix", lambda pull, amount, ratio: drawn.append((pull, amount)))
    torch.manual_seed(0)
    augment.random_skew(32_000)
    pull, amount = drawn[0]
    share = pull.bincount(minlength=12) / len(pull)
    assert share.tolist() == pytest.approx([3 / 16] * 4 + [1 / 32] * 8, abs=.008)
    assert 0 <= amount.min() and .19 < amount.max() <= .2 and amount.mean().item() == pytest.approx(.1, abs=.002)


def test_a_third_each_and_half_mirrored():
    torch.manual_seed(0)
    M = augment.paper_matrices(30_000)
    skewed = M[:, 2, :2].abs().amax(1) > 1e-6
    turned = ~skewed & (M[:, 0, 1] != 0) & (M[:, 1, 0] != 0)
    assert skewed.float().mean().item() == pytest.approx(1 / 3, abs=.01)
    assert turned.float().mean().item() == pytest.approx(1 / 3 * 15 / 16, abs=.01)       # 0 degrees in one of 16
    assert (M[:, 0, 0] < 0).float().mean().item() == pytest.approx(.5, abs=.01)


def test_mirror_is_the_last_step():
    "A mirrored copy is a copy of the same kind, flipped"
    x = torch.randint(0, 256, (1, 3, 40, 40), dtype=torch.uint8)
    M = augment.rotation_matrix(torch.tensor([9]))
    mirrored = torch.cat([-M[:, :, :1], M[:, :, 1:]], 2)
    difference = augment.warp(x, mirrored).int() - augment.warp(x, M).flip(-1).int()
    assert difference.abs().max() <= 1                                                  # rounding of the places


# -- warp ---------------------------------------------------------------------------------------------------------------------------

def test_identity_is_exact():
    x = torch.randint(0, 256, (7, 3, 33, 50), dtype=torch.uint8)
    assert torch.equal(augment.warp(x, torch.eye(3).expand(7, 3, 3)), x)


def test_mirror_is_exact():
    x = torch.randint(0, 256, (3, 3, 33, 50), dtype=torch.uint8)
    assert torch.equal(augment.warp(x, torch.diag(torch.tensor([-1., 1, 1])).expand(3, 3, 3)), x.flip(-1))


def test_each_image_by_its_own_matrix():
    x = torch.randint(0, 256, (5, 3, 20, 20), dtype=torch.uint8)
    M = augment.paper_matrices(5)
    assert torch.equal(augment.warp(x, M), torch.cat([augment.warp(x[i:i + 1], M[i:i + 1]) for i in range(5)]))


def test_labels_are_never_mixed():
    parts = torch.tensor([2, 9], dtype=torch.uint8)[torch.randint(2, (6, 1, 40, 40))]
    assert set(augment.warp(parts, augment.paper_matrices(6), "nearest").unique().tolist()) == {2, 9}


@pytest.mark.parametrize("call,said", [
    (lambda: augment.warp(torch.rand(2, 3, 8, 8), torch.eye(3).expand(2, 3, 3)), "warp before you normalise"),
    (lambda: augment.warp(torch.zeros(3, 8, 8, dtype=torch.uint8), torch.eye(3)[None]), "shape (B,c,H,W)"),
    (lambda: augment.warp(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.eye(3)[None]), "one 3 x 3 matrix for each image"),
    (lambda: augment.rotation_matrix(torch.tensor([40])), "turn less"),
    (lambda: augment.shear_matrix(torch.tensor([50.]), torch.tensor([True])), "shear less"),
    (lambda: augment.skew_matrix(torch.tensor([0]), torch.tensor([-.1])), "0 or more")])
def test_bad_input(call, said):
    with pytest.raises(ValueError) as error: call()
    assert said in str(error.value)
