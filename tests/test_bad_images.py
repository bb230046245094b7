"Bad input on files: each an error, or a warning, that names the file and says what to do"
import gzip
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from protolab import data


def picture(seed=0, size=(40, 30), mode="RGB"):
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


@pytest.fixture
def folder(tmp_path):
    for c in ("robin", "wren"):
        (tmp_path/c).mkdir()
        for i in range(6): picture(10 * i + len(c)).save(tmp_path/c/f"{i}.png")
    return tmp_path


def refused(call, *words, kind=ValueError):
    with pytest.raises(kind) as error: call()
    for word in words: assert word in str(error.value), f"{word!r} is missing in: {error.value}"


def warned(call, *words):
    "The result of `call`; all words occur in its warnings"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call()
    text = "\n".join(str(w.message) for w in caught)
    for word in words: assert word in text, f"{word!r} is missing in: {text}"
    return result


def one(path, size=8): return data.read_image(path, size)[0]


# folders

def test_good_folder_says_nothing(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        splits = data.folder_splits(folder, size=16)
    assert [len(s) for s in splits] == [8, 2, 8, 2]
    assert splits.train.classes == ["robin", "wren"]
    assert splits.train.x.shape[1:] == (3, 16, 16)


def test_empty_folder(tmp_path): refused(lambda: data.folder_splits(tmp_path), str(tmp_path), "one subfolder a class", ".jpg")
def test_no_folder(tmp_path): refused(lambda: data.folder_splits(tmp_path/"x"), "there is no folder", str(tmp_path/"x"), kind=FileNotFoundError)


def test_a_file_instead_of_a_folder(folder):
    refused(lambda: data.folder_splits(folder/"robin"/"0.png"), "there is no folder", "0.png", kind=FileNotFoundError)


def test_images_without_subfolders(folder):
    refused(lambda: data.folder_splits(folder/"robin"), "one subfolder a class", str(folder/"robin"))


def test_one_class(folder):
    for f in (folder/"wren").iterdir(): f.unlink()
    (folder/"wren").rmdir()
    refused(lambda: data.folder_splits(folder), "only one class, robin", "two or more")


def test_empty_class(folder):
    (folder/"owl").mkdir()
    (folder/"owl"/"notes.txt").write_text("none seen")
    refused(lambda: data.folder_splits(folder), "no image in owl", "add images, or remove the folder")


@pytest.mark.parametrize("n", [1, 2])
def test_class_with_too_few_images(folder, n):
    for f in sorted((folder/"wren").iterdir())[n:]: f.unlink()
    refused(lambda: data.folder_splits(folder), f"wren ({n})", "too few images", "add images")


def test_three_images_are_enough(folder):
    for f in sorted((folder/"wren").iterdir())[3:]: f.unlink()
    assert [s.counts()["wren"] for s in data.folder_splits(folder)] == [1, 1, 1, 1]


def test_other_files_among_images(folder):
    (folder/"robin"/"notes.txt").write_text("hello")
    (folder/"list.csv").write_text("a,b")
    picture().save(folder/"stray.png")
    (folder/".hidden").write_text("the system's")
    listing = warned(lambda: data.list_images(folder), "robin/notes.txt", "list.csv", "stray.png", "not used")
    assert len(listing.files) == 12


def test_hidden_files_are_passed_over(folder):
    (folder/".DS_Store").write_bytes(b"x")
    (folder/"robin"/"._0.png").write_bytes(b"x")
    (folder/".cache").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(data.list_images(folder).files) == 12


def test_capital_suffix_and_deep_folders(folder):
    (folder/"robin"/"more").mkdir()
    picture(77).save(folder/"robin"/"more"/"X.PNG")
    assert data.list_images(folder).files[-7].name == "X.PNG"


def test_names_with_blanks_and_umlauts(folder):
    (folder/"wren").rename(folder/"Zaunkönig, männlich")
    splits = data.folder_splits(folder)
    assert splits.train.classes == ["Zaunkönig, männlich", "robin"]


@pytest.mark.parametrize("valid,test", [(0, .2), (.5, .5), (-.1, .2), (1, .2)])
def test_shares_that_leave_nothing(folder, valid, test):
    refused(lambda: data.folder_splits(folder, valid=valid, test=test), "shares lie between 0 and 1")


def test_a_class_only_in_test(folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("given")
    for role in ("train", "valid", "test"):
        for c in ("robin", "wren"):
            (root/role/c).mkdir(parents=True)
            picture(hash((role, c)) % 999).save(root/role/c/"0.png")
    data.folder_splits(root)
    (root/"test"/"owl").mkdir()
    picture(5).save(root/"test"/"owl"/"0.png")
    refused(lambda: data.folder_splits(root), "train and test", "owl")


def test_a_copy_in_another_set_is_named(folder):
    copy = folder/"wren"/"copy.png"
    for i in range(20): picture(200 + i).save(folder/"robin"/f"more{i}.png")
    for i in range(20): (folder/"wren"/f"copy{i}.png").write_bytes((folder/"robin"/f"more{i}.png").read_bytes())
    warned(lambda: data.folder_splits(folder), "robin/more", "wren/copy", "will be too high", "remove the copies")
    assert not copy.exists()


def test_same_seed_same_split(folder):
    a, b, c = (data.folder_splits(folder, seed=s).test.names for s in (0, 0, 1))
    assert a == b != c


# files that can't be read

def test_all_broken_files_are_named_at_once(folder):
    whole = (folder/"robin"/"0.png").read_bytes()
    bad = {"cut.png": whole[:len(whole) // 2], "zero.png": b"", "text.jpg": b"this is a text", "head.png": whole[:20], "html.gif": b"<html>404</html>"}
    for name, content in bad.items(): (folder/"wren"/name).write_bytes(content)
    refused(lambda: data.folder_splits(folder), "5 of 17", "repair or remove", "0 bytes", *bad)


def test_flipped_bytes(folder):
    "Whatever bytes are wrong, the answer is a picture or an error that names the file, nothing else"
    path, rng = folder/"robin"/"0.png", np.random.default_rng(0)
    for suffix in ("png", "jpg", "gif", "webp", "tif", "bmp"):
        good = folder/f"good.{suffix}"
        picture().save(good)
        for _ in range(30):
            content = bytearray(good.read_bytes())
            for place in rng.integers(0, len(content), 4): content[place] = rng.integers(256)
            path = folder/f"bad.{suffix}"
            path.write_bytes(content)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try: x = data.read_images([path], 8)
                except ValueError as error: assert path.name in str(error)
                else: assert x.shape == (1, 3, 8, 8)


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize("side", [9_500, 20_000])
def test_huge_image(folder, side):
    Image.new("1", (side, side)).save(folder/"wren"/"huge.png")
    refused(lambda: data.read_images([folder/"wren"/"huge.png"]), "huge.png", "pixels")


def test_pixels_without_a_range(tmp_path):
    Image.fromarray(np.linspace(-1, 5, 64, dtype=np.float32).reshape(8, 8)).save(tmp_path/"float.tif")
    Image.fromarray(np.arange(64, dtype=np.int32).reshape(8, 8) * 2**20).save(tmp_path/"int32.tif")
    refused(lambda: data.read_images([tmp_path/"float.tif", tmp_path/"int32.tif"]), "float.tif", "int32.tif", "8 or 16 bits")


# files that are converted

def test_grey(tmp_path):
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path/"a.png")
    x = warned(lambda: data.read_images([tmp_path/"a.png"], 8), "1 grey")
    assert (x[0] == torch.arange(64).view(8, 8)).all()


def test_black_and_white(tmp_path):
    Image.new("1", (8, 8), 1).save(tmp_path/"a.png")
    assert (one(tmp_path/"a.png") == 255).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_are_scaled_not_cut(tmp_path, suffix):
    wide = np.array([0, 256, 257, 30_000, 65_535], np.uint16).repeat(5).reshape(5, 5)
    Image.fromarray(wide).save(tmp_path/f"a.{suffix}")
    assert one(tmp_path/f"a.{suffix}", 5)[:, 0, 0].tolist() == [0, 1, 1, 117, 255]
    warned(lambda: data.read_images([tmp_path/f"a.{suffix}"], 5), "1 16-bit")


def test_16_bit_pgm(tmp_path):
    (tmp_path/"a.pgm").write_bytes(b"P5 2 2 65535\n" + np.array([0, 257, 30_000, 65_535], ">u2").tobytes())
    assert one(tmp_path/"a.pgm", 2)[..., 0].ravel().tolist() == [0, 1, 117, 255]


def test_rgba_is_laid_over_white(tmp_path):
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path/"clear.png")
    Image.new("RGBA", (8, 8), (255, 0, 0, 128)).save(tmp_path/"half.png")
    x = warned(lambda: data.read_images([tmp_path/"clear.png", tmp_path/"half.png"], 8), "2 transparent", "over white")
    assert x[0].unique().tolist() == [255]
    assert x[1, :, 0, 0].tolist() == [255, 127, 127]


def test_grey_with_alpha(tmp_path):
    Image.new("LA", (8, 8), (10, 0)).save(tmp_path/"a.png")
    assert (one(tmp_path/"a.png") == 255).all()


def test_palette(tmp_path):
    Image.new("RGB", (8, 8), (200, 30, 60)).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path/"a.png")
    assert one(tmp_path/"a.png")[0, 0].tolist() == [200, 30, 60]


def test_palette_with_a_transparent_colour(tmp_path):
    flat = Image.new("P", (8, 8), 0)
    flat.putpalette([200, 30, 60] + [0] * 765)
    flat.save(tmp_path/"a.png", transparency=0)
    assert (one(tmp_path/"a.png") == 255).all()


def test_cmyk(tmp_path):
    Image.new("RGB", (16, 16), (250, 20, 20)).convert("CMYK").save(tmp_path/"a.jpg", quality=95)
    x = warned(lambda: data.read_images([tmp_path/"a.jpg"], 8), "1 CMYK")
    assert x[0, 0].min() > 235 and x[0, 1:].max() < 40


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_exif_turns_the_picture_upright(tmp_path, suffix):
    lying = Image.new("RGB", (32, 16), "black")
    lying.paste((255, 255, 255), (0, 0, 16, 16))         # the left half is white
    exif = Image.Exif()
    exif[0x0112] = 6                                     # "turn by 90 degrees clockwise": left becomes top
    lying.save(tmp_path/f"a.{suffix}", exif=exif, quality=95)
    x = warned(lambda: data.read_images([tmp_path/f"a.{suffix}"], 16), "1 turned upright")
    assert x[0, :, :6].min() > 200 and x[0, :, 10:].max() < 50


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_animated(tmp_path, suffix):
    red, blue = Image.new("RGB", (8, 8), (250, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 250))
    red.save(tmp_path/f"a.{suffix}", save_all=True, append_images=[blue])
    x = warned(lambda: data.read_images([tmp_path/f"a.{suffix}"], 8), "animated", f"a.{suffix}", "first picture")
    assert x[0, 0].min() > 230 and x[0, 2].max() < 20


def test_a_large_jpeg_keeps_its_colours(tmp_path):
    "Decoding at a fraction of the size must not change the picture"
    wide = Image.fromarray(np.linspace(0, 255, 800).astype(np.uint8)[None, :, None].repeat(600, 0).repeat(3, 2))
    wide.save(tmp_path/"a.jpg", quality=95)
    slow = np.asarray(Image.open(tmp_path/"a.jpg").convert("RGB").resize((32, 32), Image.Resampling.BILINEAR))
    assert np.abs(one(tmp_path/"a.jpg", 32).astype(int) - slow).max() <= 3


# tensors

def test_labels_out_of_range():
    x = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    refused(lambda: data.Images(x, torch.tensor([0, 5]), ["a", "b"], ["one.png", "two.png"]), "two.png has 5", "from 0 to 1")
    refused(lambda: data.Images(x, torch.tensor([-1, 0]), ["a", "b"], ["one.png", "two.png"]), "one.png has -1")


def test_nan():
    refused(lambda: data.as_uint8(torch.full((2, 3, 4, 4), torch.nan)), "NaN", "[0, 1]")
    refused(lambda: data.Images(torch.rand(2, 3, 4, 4), torch.tensor([0, 1]), ["a", "b"], ["1", "2"]), "as_uint8")


# Fashion-MNIST's files

def idx(array): return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


@pytest.fixture
def fashion(tmp_path):
    rng = np.random.default_rng(0)
    for kind, n in (("train", 100), ("t10k", 60)):
        (tmp_path/f"{kind}-images-idx3-ubyte").write_bytes(idx(rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)))
        (tmp_path/f"{kind}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.arange(n, dtype=np.uint8) % 10)))
    return tmp_path


def test_fashion(fashion):
    splits = data.fashion_splits(fashion, per_class=8, size=32)
    assert [len(s) for s in splits] == [80, 20, 80, 40]
    assert splits.train.x.shape == (80, 3, 32, 32)
    assert not set(splits.train.names) & set(splits.valid.names)
    assert data.fashion_splits(fashion, per_class=8).test.names == splits.test.names


def test_fashion_in_torchvisions_folder(fashion, tmp_path_factory):
    root = tmp_path_factory.mktemp("tv")
    (root/"FashionMNIST"/"raw").mkdir(parents=True)
    for f in fashion.iterdir(): f.rename(root/"FashionMNIST"/"raw"/f.name)
    assert len(data.fashion_splits(root, per_class=4)) == 4


def test_fashion_absent(tmp_path):
    refused(lambda: data.fashion_splits(tmp_path), str(tmp_path), "make data", "train-images-idx3-ubyte", kind=FileNotFoundError)


def test_fashion_incomplete(fashion):
    (fashion/"t10k-labels-idx1-ubyte.gz").unlink()
    refused(lambda: data.fashion_splits(fashion), "t10k-labels-idx1-ubyte", kind=FileNotFoundError)


def test_fashion_too_many(fashion): refused(lambda: data.fashion_splits(fashion, per_class=10), "has 10", "smaller per_class")


def test_fashion_files_that_do_not_belong_together(fashion):
    (fashion/"train-images-idx3-ubyte").write_bytes(idx(np.zeros((99, 28, 28), np.uint8)))
    with pytest.raises(ValueError, match="get both files again"): data.fashion_splits(fashion, per_class=8)


@pytest.mark.parametrize("content", [b"", b"\0\0\x08", b"PK\3\4", idx(np.zeros((3, 2), np.uint8))[:-1], bytes([0, 0, 8, 3, 0])])
def test_idx_broken(tmp_path, content):
    for name, stored in (("a", content), ("a.gz", gzip.compress(content)), ("b.gz", gzip.compress(content)[:-9]), ("c.gz", b"no gzip")):
        (tmp_path/name).write_bytes(stored)
        refused(lambda: data.read_idx(tmp_path/name), name)


# where birds are drawn

def test_birds_from_a_script_without_a_guard(tmp_path):
    import subprocess
    import sys
    script = tmp_path/"draw.py"
    script.write_text("from protolab.data import bird_images\nprint(len(bird_images([0] * 40, range(40), size=24)))\n")
    home = str(Path(data.__file__).parent.parent)
    done = subprocess.run([sys.executable, "-c", f"import sys; sys.path.insert(0, {home!r}); exec(open({str(script)!r}).read())"],
                          cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "40", done.stderr
