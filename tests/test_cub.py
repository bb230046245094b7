"CUB-200-2011 from its folder, the folder of drawn birds in its layout, and the cache of pixels: round trips, planted truth, bad input, kills and races"
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from protolab import birds, cache, cub, data

ROOT = Path(__file__).resolve().parents[1]
SMALL = dict(per_class=4, species=range(4), size=(60, 90))


@pytest.fixture(scope="module")
def original(tmp_path_factory): return birds.write_cub(tmp_path_factory.mktemp("cub")/"CUB_200_2011", **SMALL)


@pytest.fixture
def folder(original, tmp_path): return Path(shutil.copytree(original, tmp_path/"CUB_200_2011"))


def edit(file, change):
    "Change the lines of a text file"
    file.write_text("\n".join(change(file.read_text().splitlines())) + "\n")


def refused(call, *words, kind=ValueError):
    with pytest.raises(kind) as error: call()
    for word in words: assert word in str(error.value), f"{word!r} is missing in: {error.value}"


def warned(call, *words):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call()
    text = "\n".join(str(w.message) for w in caught)
    for word in words: assert word in text, f"{word!r} is missing in: {text}"
    return result


def quiet(call):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return call()


def contents(folder): return {f.relative_to(folder).as_posix(): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


# -- the folder that birds writes ---------------------------------------------------------------------------------------------

def test_the_layout_is_that_of_cub(original):
    files = contents(original)
    assert {f for f in files if not f.startswith("images/")} == {"images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt",
                                                                 "bounding_boxes.txt", "parts/parts.txt", "parts/part_locs.txt"}
    images = (original/"images.txt").read_text().splitlines()
    assert images[0] == "1 001.Emberfork/Emberfork_0001_3000000.jpg" and images[15] == "16 004.Goldfan/Goldfan_0004_3000051.jpg"
    assert {line.split()[1] for line in images} == {f.removeprefix("images/") for f in files if f.startswith("images/")}
    assert (original/"classes.txt").read_text().splitlines() == ["1 001.Emberfork", "2 002.Pinspeckle", "3 003.Mooncollar", "4 004.Goldfan"]
    assert (original/"image_class_labels.txt").read_text().split()[1::2] == [c for c in "1234" for _ in range(4)]
    split = (original/"train_test_split.txt").read_text().split()[1::2]
    assert [split[i:i + 4].count("1") for i in range(0, 16, 4)] == [2, 2, 2, 2]
    known = "back beak belly breast crown forehead,left eye,left leg,left wing,nape,right eye,right leg,right wing,tail,throat"
    assert all(line.split(maxsplit=1)[1] in known for line in (original/"parts"/"parts.txt").read_text().splitlines())


def test_pictures_have_many_sizes_and_shapes(original):
    sizes = {Image.open(f).size for f in original.glob("images/*/*.jpg")}
    assert len(sizes) > 12 and len({round(w / h, 1) for w, h in sizes}) > 2
    assert all(Image.open(f).format == "JPEG" and max(Image.open(f).size) <= 90 for f in original.glob("images/*/*.jpg"))


def test_same_seed_same_bytes(original, tmp_path):
    again, other = birds.write_cub(tmp_path/"a", **SMALL), birds.write_cub(tmp_path/"b", **SMALL, seed=1)
    assert contents(again) == contents(original)
    assert contents(again).keys() == contents(other).keys() and (again/"bounding_boxes.txt").read_text() != (other/"bounding_boxes.txt").read_text()


def test_the_progress_is_told(tmp_path):
    seen = []
    def progress(plan):
        for step in plan: seen.append(step); yield step
    birds.write_cub(tmp_path/"a", 2, [3], size=(40, 50), progress=progress)
    assert len(seen) == 2


def test_an_error_leaves_nothing(tmp_path, monkeypatch):
    draw, count = birds.snapshot, []
    def fails(*args):
        count.append(1)
        if len(count) == 3: raise KeyboardInterrupt
        return draw(*args)
    monkeypatch.setattr(birds, "snapshot", fails)
    with pytest.raises(KeyboardInterrupt): birds.write_cub(tmp_path/"birds", 2, [0, 1], size=(40, 50))
    assert len(count) == 3 and list(tmp_path.iterdir()) == []


def test_what_write_cub_refuses(tmp_path, original):
    before = contents(original)
    refused(lambda: birds.write_cub(original), "already there", "remove it", kind=FileExistsError)
    assert contents(original) == before
    refused(lambda: birds.write_cub(tmp_path/"a", species=[]), "at least one")
    refused(lambda: birds.write_cub(tmp_path/"a", species=[1, 16]), "species is 16", "0 to 15")
    refused(lambda: birds.write_cub(tmp_path/"a", 2, size=(90, 60)), "the smaller side first")
    refused(lambda: birds.write_cub(tmp_path/"a", 2, size=(4, 60)), "from 24 to 1024")
    assert list(tmp_path.iterdir()) == []


# -- planted truth ------------------------------------------------------------------------------------------------------------

BIRD = [birds.PART_ID[part] for part in ("body", "legs", "tail", "breast", "wing", "crown", "eye", "beak")]
SHOWS = {name: birds.PART_ID["legs" if name.endswith("leg") else name.split()[-1]] for name in birds.CUB_PARTS}


def part_map(name):
    species, _, index = Path(name).stem.split("_")
    return birds.snapshot(birds.SPECIES.index(species), 0, int(index), SMALL["size"]).parts


def test_what_is_read_is_what_was_drawn(original):
    read = quiet(lambda: cub.read_cub(original))
    assert read.classes == list(birds.SPECIES[:4]) and read.y.tolist() == [c for c in range(4) for _ in range(4)]
    assert read.parts == list(birds.CUB_PARTS) and read.points.shape == (16, 10, 3)
    for i, name in enumerate(read.names):
        parts = part_map(name)
        assert read.sizes[i].tolist() == list(parts.shape) == list(Image.open(read.files[i]).size[::-1])
        rows, columns = np.isin(parts, BIRD).nonzero()
        assert read.boxes[i].tolist() == [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
        seen = {name: parts[int(y), int(x)] for name, (x, y, visible) in zip(read.parts, read.points[i].tolist()) if visible}
        assert seen == {name: SHOWS[name] for name in seen}
        shown = {p for p in SHOWS.values() if (parts == p).any()}
        assert {SHOWS[name] for name in seen} == shown, "each part that can be seen has a place"
        assert len({name.split()[0] for name in seen} & {"left", "right"}) == 1, "a bird shows one side"


def test_the_crown_is_on_the_crown_of_the_crop(original):
    "The part map, cropped and enlarged without mixing, has the part where `keypoints` says it is; at sizes that enlarge"
    read = cub.read_cub(original)
    for size in (90, 224):
        for crop in (True, False):
            points = cub.keypoints(read, size=size, crop=crop)
            for i, name in enumerate(read.names):
                parts = part_map(name)
                top, left, bottom, right = read.boxes[i].tolist() if crop else (0, 0, *parts.shape)
                large = np.asarray(Image.fromarray(parts[top:bottom, left:right]).resize((size, size), Image.Resampling.NEAREST))
                for part, (x, y, visible) in zip(read.parts, points[i].tolist()):
                    if visible: assert large[round(y), round(x)] == SHOWS[part], (name, part)


def test_a_dot_in_the_photograph_is_found_at_its_keypoint(folder):
    "An oracle that knows no formula: paint a part's place, crop and resize with PIL, look where the paint went"
    read = cub.read_cub(folder)
    i, k = 5, read.parts.index("breast")
    x, y, _ = read.points[i, k].long().tolist()
    picture = np.zeros((*read.sizes[i].tolist(), 3), np.uint8)
    picture[y, x] = 255
    top, left, bottom, right = read.boxes[i].tolist()
    for size in (48, 200):
        light = np.asarray(Image.fromarray(picture).crop((left, top, right, bottom)).resize((size, size), Image.Resampling.BILINEAR))[..., 0].astype(float)
        rows, columns = np.indices(light.shape)
        middle = ((columns * light).sum() / light.sum(), (rows * light).sum() / light.sum())
        assert cub.keypoints(read, [read.names[i]], size)[0, k, :2].tolist() == pytest.approx(middle, abs=0.05)


def test_parts_outside_the_crop_are_not_visible(folder):
    "A box around the left half of a picture: parts in the right half are 0, 0, 0"
    read = cub.read_cub(folder)
    height, width = read.sizes[0].tolist()
    half = read._replace(boxes=torch.tensor([[0, 0, height, width // 2]] * 16))
    got = cub.keypoints(half, half.names[:1], 50)[0]
    inside = (read.points[0, :, 2] > 0) & (read.points[0, :, 0] < width // 2)
    assert 0 < inside.sum() < (read.points[0, :, 2] > 0).sum()
    assert got[:, 2].bool().tolist() == inside.tolist() and not got[~inside].any()
    whole = cub.keypoints(half, half.names[:1], 50, crop=False)[0]
    assert whole[:, 2].tolist() == read.points[0, :, 2].tolist()


# -- reading ------------------------------------------------------------------------------------------------------------------

def test_numbers_join_the_files_not_the_order_of_lines(folder):
    before = cub.read_cub(folder)
    for n, file in enumerate(cub.TABLES):
        edit(folder/file, lambda lines: [lines[i] for i in np.random.default_rng(n).permutation(len(lines))])
    after = cub.read_cub(folder)
    for a, b in zip(before, after): assert torch.equal(a, b) if torch.is_tensor(a) else a == b


def test_line_ends_of_windows_and_blank_lines(folder):
    before = cub.read_cub(folder)
    for file in cub.TABLES: (folder/file).write_bytes((folder/file).read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert cub.read_cub(folder).names == before.names and torch.equal(cub.read_cub(folder).points, before.points)


def test_classes_of_any_number(folder):
    "A part of CUB: classes 7 and 150 only"
    edit(folder/"classes.txt", lambda _: ["7 007.Crow", "150 150.Blue_jay", "12 012.Wren", "13 013.Tit"])
    edit(folder/"image_class_labels.txt", lambda lines: [line.split()[0] + " " + {"1": "150", "2": "7", "3": "12", "4": "13"}[line.split()[1]] for line in lines])
    read = cub.read_cub(folder)
    assert read.classes == ["Crow", "Wren", "Tit", "Blue jay"] and read.y.tolist() == [c for c in (3, 0, 1, 2) for _ in range(4)]


def drop(n): return lambda lines: lines[:-n]
def first(line): return lambda lines: [line, *lines[1:]]


@pytest.mark.parametrize("file, change, words", [
    ("images.txt", first("one 001.Emberfork/x.jpg"), ["images.txt, line 1: 'one 001.Emberfork/x.jpg' was found", "<image_id> <file> was expected"]),
    ("image_class_labels.txt", first("1 1 7"), ["image_class_labels.txt, line 1", "<image_id> <class_id>"]),
    ("train_test_split.txt", first("1 2"), ["train_test_split.txt, line 1", "0 or 1"]),
    ("bounding_boxes.txt", first("1 3.0 4.0 50.0"), ["bounding_boxes.txt, line 1", "<x> <y> <width> <height>"]),
    ("parts/part_locs.txt", first("1 1 a 4 1"), ["part_locs.txt, line 1", "<visible, 0 or 1>"]),
    ("classes.txt", first("1"), ["classes.txt, line 1", "<class_name>"]),
    ("bounding_boxes.txt", lambda lines: [*lines, lines[3]], ["bounding_boxes.txt, line 17: 4 stands there for the second time"]),
    ("bounding_boxes.txt", drop(2), ["images.txt and bounding_boxes.txt do not belong together", "15, 16 only in images.txt"]),
    ("bounding_boxes.txt", drop(9), ["8, 9, 10, 11, 12 and 4 more only in images.txt"]),
    ("train_test_split.txt", lambda lines: [*lines, "99 1"], ["99 only in train_test_split.txt"]),
    ("image_class_labels.txt", drop(1), ["16 only in images.txt"]),
    ("image_class_labels.txt", first("1 9"), ["gives the images 1 a class that classes.txt does not have"]),
    ("classes.txt", drop(1), ["gives the images 13, 14, 15, 16 a class"]),
    ("parts/part_locs.txt", lambda lines: [line.replace("1 ", "500 ", 1) if line.startswith("1 ") else line for line in lines], ["1 only in images.txt and 500 only in parts/part_locs.txt"]),
    ("parts/parts.txt", drop(1), ["parts/parts.txt and parts/part_locs.txt do not belong together", "10 only in parts/part_locs.txt"]),
    ("parts/part_locs.txt", drop(1), ["no line for (image, part) (16, 10)"]),
    ("bounding_boxes.txt", first("1 500.0 4.0 50.0 20.0"), ["1 boxes hold no pixel of their pictures", "Emberfork_0001_3000000.jpg has the box x y width height = 500 4 50 20", "Correct these lines"]),
    ("bounding_boxes.txt", first("1 5.0 4.0 -3.0 20.0"), ["hold no pixel"]),
    ("bounding_boxes.txt", first("1 5.0 4.0 inf 20.0"), ["hold no pixel"])])
def test_a_spoilt_file_is_named(folder, file, change, words):
    edit(folder/file, change)
    refused(lambda: cub.read_cub(folder), *words)


def test_a_box_over_the_edge_is_cut_and_named(folder):
    "As some boxes of CUB-200-2011 itself are"
    height, width = cub.picture_size(folder/"images/001.Emberfork/Emberfork_0001_3000000.jpg")
    edit(folder/"bounding_boxes.txt", first(f"1 5.0 4.0 {width}.0 20.0"))
    read = warned(lambda: cub.read_cub(folder), "1 boxes reach beyond their pictures and are cut at the edge", f"Emberfork_0001_3000000.jpg has the box x y width height = 5 4 {width} 20 and {width} x {height} pixels")
    assert read.boxes[0].tolist() == [4, 5, 24, width]


def test_fractions_are_kept_whole():
    "A box from 1.5 to 3.5 touches the pixels 1, 2 and 3"
    assert cub.inner_boxes(torch.tensor([[1.5, 0, 2, 2.25]]), torch.tensor([[9, 9]]), ["a"]).tolist() == [[0, 1, 3, 4]]


def test_missing_files_and_folders_are_named(folder):
    refused(lambda: cub.read_cub(folder.parent), f"{folder} is: give that one")
    refused(lambda: cub.read_cub(folder/"parts"), f"{folder} is: give that one")
    refused(lambda: cub.read_cub(folder/"no"), "there is no folder", "CUB_200_2011", kind=FileNotFoundError)
    (folder/"images/001.Emberfork/Emberfork_0001_3000000.jpg").unlink()
    refused(lambda: cub.read_cub(folder), "1 of 16 images missing from", "Emberfork_0001_3000000.jpg", "Unpack the archive again", kind=FileNotFoundError)
    for file in ("bounding_boxes.txt", "parts/part_locs.txt"): (folder/file).unlink()
    refused(lambda: cub.read_cub(folder), "has no bounding_boxes.txt, no parts/part_locs.txt", "unpack CUB_200_2011.tgz again", kind=FileNotFoundError)


def test_any_other_folder(tmp_path):
    refused(lambda: cub.read_cub(tmp_path), "has no images.txt", kind=FileNotFoundError)


@pytest.mark.parametrize("contents", [b"", b"\xff\xd8\xff\xe0no jpeg", b"GIF89a"])
def test_a_broken_picture_is_named(folder, contents):
    (folder/"images/002.Pinspeckle/Pinspeckle_0001_3000001.jpg").write_bytes(contents)
    refused(lambda: cub.read_cub(folder), "Pinspeckle_0001_3000001.jpg can't be read as a picture", "unpack the archive again")


# -- four sets ----------------------------------------------------------------------------------------------------------------

def test_the_sets_are_the_official_ones(original, tmp_path):
    splits = quiet(lambda: cub.cub_splits(original, 64, valid=.5, cache=tmp_path))
    read = cub.read_cub(original)
    official = {name for name, train in zip(read.names, read.train) if train}
    assert set(splits.train.names) | set(splits.valid.names) == official and not set(splits.train.names) & set(splits.valid.names)
    assert splits.test.names == [name for name in read.names if name not in official] and splits.project is splits.train
    assert splits.valid.y.bincount().tolist() == [1, 1, 1, 1]
    torch.manual_seed(7)
    assert cub.cub_splits(original, 64, valid=.5, cache=tmp_path).valid.names == splits.valid.names


def test_pixels_are_those_of_pil(original, tmp_path):
    "JPEG, crop, resize: the reference's way, by PIL, differs by rounding alone; crops and whole pictures"
    read = cub.read_cub(original)
    for crop in (True, False):
        splits = cub.cub_splits(original, 50, valid=.5, crop=crop, cache=tmp_path)
        for images in splits:
            for x, y, name in zip(images.x, images.y, images.names):
                i = read.names.index(name)
                top, left, bottom, right = read.boxes[i].tolist()
                picture = Image.open(read.files[i]).convert("RGB")
                if crop: picture = picture.crop((left, top, right, bottom))
                expected = np.asarray(picture.resize((50, 50), Image.Resampling.BILINEAR)).astype(int)
                assert y == read.y[i] and np.abs(x.permute(1, 2, 0).numpy() - expected).max() <= 1


def test_grey_photographs_are_converted(folder, tmp_path):
    "CUB-200-2011 has a few"
    file = folder/"images/002.Pinspeckle/Pinspeckle_0001_3000001.jpg"
    Image.open(file).convert("L").save(file)
    splits = warned(lambda: cub.cub_splits(folder, 40, valid=.5, cache=tmp_path/"c"), "1 grey")
    assert all(len(images.x) for images in splits)


def swap_in(folder, row, other):
    "The picture of one line takes the place of another's"
    names = [line.split()[1] for line in (folder/"images.txt").read_text().splitlines()]
    shutil.copy(folder/"images"/names[other], folder/"images"/names[row])
    return names[row], names[other]


def about_copies(call):
    "The warnings that speak of copies"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in caught if "remove the copies" in str(w.message)]


def rows(folder): return [[i for i, train in enumerate((folder/"train_test_split.txt").read_text().split()[1::2]) if train == flag] for flag in "10"]


def test_a_test_image_in_training_is_found_by_its_pixels(folder, tmp_path):
    train, test = rows(folder)
    copy, source = swap_in(folder, train[0], test[0])
    edit(folder/"bounding_boxes.txt", lambda lines: [f"{train[0] + 1} {lines[test[0]].split(' ', 1)[1]}" if i == train[0] else line for i, line in enumerate(lines)])
    about = about_copies(lambda: cub.cub_splits(folder, 40, valid=.5, cache=tmp_path/"c"))
    assert len(about) == 1 and "1 of the images in test are in" in about[0] and copy in about[0] and source in about[0]


def test_a_test_image_in_training_is_found_by_its_bytes(folder, tmp_path):
    "With another box the crops differ"
    train, test = rows(folder)
    copy, source = swap_in(folder, train[0], test[0])
    edit(folder/"bounding_boxes.txt", lambda lines: [f"{i + 1} 2 2 30 30" if i == train[0] else line for i, line in enumerate(lines)])
    about = about_copies(lambda: cub.cub_splits(folder, 40, valid=.5, cache=tmp_path/"c"))
    assert len(about) == 1 and "1 files of one set are in another set too" in about[0] and copy in about[0] and source in about[0]


def test_a_split_with_one_side_only(folder, tmp_path):
    edit(folder/"train_test_split.txt", lambda lines: [line.split()[0] + " 1" for line in lines])
    refused(lambda: cub.cub_splits(folder, cache=tmp_path/"c"), "16 images for training and 0 for the test", "both are needed")


def test_strange_names_have_no_keypoints(original): refused(lambda: cub.keypoints(cub.read_cub(original), ["x.jpg"]), "1 names are no images", "x.jpg")


# -- the cache ----------------------------------------------------------------------------------------------------------------

@pytest.fixture
def files(original): return sorted(original.glob("images/*/*.jpg"))


def test_the_second_call_reads_no_picture(original, files, tmp_path, monkeypatch):
    splits, x = cub.cub_splits(original, 40, valid=.5, cache=tmp_path), cache.pixel_cache(files, 40, cache=tmp_path)
    made = {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*")}
    def never(*args, **named): raise AssertionError("a picture was read again")
    monkeypatch.setattr(cache, "read_images", never)
    monkeypatch.setattr(data, "read_image", never)
    for a, b in zip(splits, cub.cub_splits(original, 40, valid=.5, cache=tmp_path)): assert torch.equal(a.x, b.x)
    assert torch.equal(cache.pixel_cache(files, 40, cache=tmp_path), x)
    assert {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*")} == made
    with pytest.raises(AssertionError, match="read again"): cache.pixel_cache(files, 41, cache=tmp_path)


def test_what_changes_the_pixels_changes_the_cache(folder, tmp_path):
    files = sorted(folder.glob("images/*/*.jpg"))
    def place(files=files, size=40, boxes=None): return cache.cache_place(files, size, boxes, tmp_path)
    before = place()
    others = [place(size=41), place(files[::-1]), place(files[:-1]), place(boxes=[(0, 0, 40, 40)] * 16), place(boxes=[(0, 0, 40, 40)] * 15 + [(0, 0, 40, 41)]), place(boxes=[None] * 15 + [(0, 0, 40, 41)])]
    assert len({before, *others}) == 7 and place() == before
    os.utime(files[3], (1, 1))
    assert place() != before, "the same length, another time"
    before = place()
    time_of = files[3].stat()
    files[3].write_bytes(files[3].read_bytes() + b"x"); os.utime(files[3], ns=(time_of.st_atime_ns, time_of.st_mtime_ns))
    assert place() != before, "the same time, another length"


def test_a_moved_data_set_keeps_its_cache(folder, tmp_path):
    before = cache.cache_place(sorted(folder.glob("images/*/*.jpg")), 40, cache=tmp_path)
    moved = folder.rename(folder.parent/"elsewhere")
    assert cache.cache_place(sorted(moved.glob("images/*/*.jpg")), 40, cache=tmp_path) == before


def test_two_sizes_two_caches(files, tmp_path):
    small, large = cache.pixel_cache(files, 30, cache=tmp_path), cache.pixel_cache(files, 60, cache=tmp_path)
    assert small.shape[2:] == (30, 30) and large.shape[2:] == (60, 60) and len(list(tmp_path.iterdir())) == 2


def test_the_usual_place(files, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path/"xdg"))
    cache.pixel_cache(files[:2], 30)
    assert len(list((tmp_path/"xdg"/"protolab").iterdir())) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_home() == Path.home()/".cache"/"protolab"


def test_damage_is_noticed_and_not_repaired(files, tmp_path):
    cache.pixel_cache(files, 40, cache=tmp_path)
    place = cache.cache_place(files, 40, cache=tmp_path)
    assert cache.verify_pixels(place) == 16
    pixels = bytearray((place/"pixels.npy").read_bytes())
    pixels[5000] ^= 1
    time.sleep(0.02)
    (place/"pixels.npy").write_bytes(pixels)
    refused(lambda: cache.pixel_cache(files, 40, cache=tmp_path), str(place), "the pixels of images 0 to 15", "Remove this folder")
    assert (place/"pixels.npy").read_bytes() == pixels
    shutil.rmtree(place)
    cache.pixel_cache(files, 40, cache=tmp_path)
    assert cache.verify_pixels(place) == 16


@pytest.mark.parametrize("spoil", [lambda p: (p/"about.json").unlink(), lambda p: (p/"pixels.npy").unlink(), lambda p: (p/"about.json").write_text("{"),
                                   lambda p: (p/"about.json").write_text("[]"), lambda p: os.truncate(p/"pixels.npy", 3000), lambda p: (p/"pixels.npy").write_bytes(b"")])
def test_a_spoilt_cache_is_named(files, tmp_path, spoil):
    cache.pixel_cache(files, 40, cache=tmp_path)
    place = cache.cache_place(files, 40, cache=tmp_path)
    spoil(place)
    refused(lambda: cache.pixel_cache(files, 40, cache=tmp_path), str(place), "it can't be opened", "Remove this folder")


def test_a_copied_cache_is_checked_and_good(files, tmp_path):
    "A copy has another time, so all pixels are summed, and they are right"
    x = cache.pixel_cache(files, 40, cache=tmp_path/"a")
    place = cache.cache_place(files, 40, cache=tmp_path/"a")
    shutil.copytree(place, tmp_path/"b"/place.name, copy_function=shutil.copyfile)
    assert torch.equal(cache.pixel_cache(files, 40, cache=tmp_path/"b"), x)


def test_no_room(files, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(Path(path)) or SimpleNamespace(free=76_000))
    refused(lambda: cache.pixel_cache(files, 40, cache=tmp_path/"deep"/"c"), "no room for the cache", "it takes 0 MB, and 0 MB are free", "cache=FOLDER", "smaller size", kind=OSError)
    assert asked == [tmp_path] and not (tmp_path/"deep").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=16 * 3 * 40 * 40))
    assert len(cache.pixel_cache(files, 40, cache=tmp_path/"deep"/"c")) == 16


def test_a_disk_that_fills_up_meanwhile(files, tmp_path, monkeypatch):
    def full(*args): raise OSError(28, "No space left on device")
    if not hasattr(os, "posix_fallocate"): pytest.skip("this system can't take room beforehand")
    monkeypatch.setattr(os, "posix_fallocate", full)
    refused(lambda: cache.pixel_cache(files, 40, cache=tmp_path/"c"), "No space left", kind=OSError)
    assert list((tmp_path/"c").iterdir()) == []


def test_all_broken_pictures_are_named_and_nothing_is_left(files, tmp_path):
    for name in ("x.jpg", "y.jpg"): (tmp_path/name).write_bytes(files[0].read_bytes()[:900])
    refused(lambda: cache.pixel_cache([*files, tmp_path/"x.jpg", tmp_path/"y.jpg"], 40, cache=tmp_path/"c"), "2 of 18 images can't be read", "x.jpg", "y.jpg")
    assert list((tmp_path/"c").iterdir()) == []


def test_writing_into_the_tensor_does_not_reach_the_file(files, tmp_path):
    x = cache.pixel_cache(files, 40, cache=tmp_path)
    x[:] = 0
    assert cache.verify_pixels(cache.cache_place(files, 40, cache=tmp_path)) == 16 and cache.pixel_cache(files, 40, cache=tmp_path).any()


START = """
import sys, time
from pathlib import Path
from protolab import cache
files, home = sorted(Path(sys.argv[1]).glob("images/*/*.jpg")), sys.argv[2]
"""
SLOW = START + """
read = cache.read_images
def slow(files, size, boxes, into):
    read(files[:8], size, boxes, into=into[:8])
    time.sleep(60)
cache.read_images = slow
cache.pixel_cache(files, 40, cache=home)
"""
RACE = START + """
print("ready", flush=True)
sys.stdin.readline()
for size in range(30, 40): assert cache.pixel_cache(files, size, cache=home).any(3).any(2).any(1).all()
"""


def start(code, *args):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, args)], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_killed_while_writing_leaves_no_half_cache(original, files, tmp_path):
    with start(SLOW, original, tmp_path) as process:
        while not any(f.stat().st_size > 8 * 3 * 40 * 40 for f in tmp_path.glob(".*/pixels.npy")) and process.poll() is None: time.sleep(0.05)
        time.sleep(0.2)
        os.kill(process.pid, signal.SIGKILL)
    left = list(tmp_path.iterdir())
    assert len(left) == 1 and left[0].name.startswith("."), "the half cache has no name that anybody looks for"
    assert cache.pixel_cache(files, 40, cache=tmp_path).flatten(1).any(1).all()
    assert left[0].exists(), "it might belong to a process that still works"
    os.utime(left[0], (0, 0))
    cache.pixel_cache(files, 41, cache=tmp_path)
    assert not left[0].exists()


def test_two_processes_at_once(original, files, tmp_path):
    both = [start(RACE, original, tmp_path) for _ in range(2)]
    for process in both: process.stdout.readline()
    for process in both: process.stdin.write("go\n"); process.stdin.flush()
    assert [process.wait(60) for process in both] == [0, 0]
    assert sorted(f.name[:11] for f in tmp_path.iterdir()) == [f"pixels-{size}px" for size in range(30, 40)]
    for size in range(30, 40): assert cache.verify_pixels(cache.cache_place(files, size, cache=tmp_path)) == 16


MEMORY = START + """
import torch
from protolab.data import Images, Loader
def memory(): return {line.split(":")[0]: int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith(("VmRSS", "RssAnon"))}
many = files * 25
before = memory()
x = cache.pixel_cache(many, 224, cache=home)
opened = memory()
images = Images(x, torch.zeros(len(x), dtype=torch.long), ["a"], [str(f) for f in many])
total = sum(float(batch.sum()) for batch, _ in Loader(images, batch=8, shuffle=True))
after = memory()
print(x.numel() // 2**20, opened["VmRSS"] - before["VmRSS"], after["RssAnon"] - before["RssAnon"])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the memory of a process")
def test_memory_stays_flat(original, files, tmp_path):
    "A cache of 57 MB: opening it takes nearly nothing, and an epoch leaves nothing in memory of the process's own"
    cache.pixel_cache(files * 25, 224, cache=tmp_path)
    with start(MEMORY, original, tmp_path) as process: size, opened, kept = map(int, process.communicate()[0].split())
    assert size == 57 and opened <= 10 and kept <= 40, (size, opened, kept)
