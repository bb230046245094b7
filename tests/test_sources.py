"One word, four sets: torchvision's data sets in their real layouts on the disk, and words that mean nothing"
import gzip
import sys
import types
from functools import lru_cache

import numpy as np
import pytest
import torch
from PIL import Image

from protolab import birds, sources
from protolab.data import leaks

SPECIES = (0, 5, 10)
ROLES = {"train": (0, 6), "val": (6, 8), "test": (8, 12)}      # first and last number of the birds in each official set


@lru_cache
def drawn(species, index): return Image.fromarray(birds.draw_bird(species, seed=3, index=index, size=48).image)


def draw(path, species, index):
    "One bird as a JPEG of its own size"
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn(species, index).resize((50 + index, 60 - index)).save(path, quality=92)


def rows(*roles): return [(c, species, i) for role in roles for c, species in enumerate(SPECIES) for i in range(*ROLES[role])]


# -- each data set as it lies on the disk -------------------------------------------------------------------------------------------

BREEDS = ("Abyssinian", "american_bulldog", "Egyptian_Mau")


def write_pets(root, mat):
    home = root/"oxford-iiit-pet"
    (home/"annotations"/"trimaps").mkdir(parents=True)
    for c, species, i in rows(*ROLES): draw(home/"images"/f"{BREEDS[c]}_{i + 1}.jpg", species, i)
    for name, roles in (("trainval", ("train", "val")), ("test", ("test",))):
        (home/"annotations"/f"{name}.txt").write_text("".join(f"{BREEDS[c]}_{i + 1} {c + 1} {1 + c % 2} 1\n" for c, _, i in rows(*roles)))


def write_aircraft(root, mat):
    data, names = root/"fgvc-aircraft-2013b"/"data", ("707-320", "A340-300", "Fokker 50")
    for c, species, i in rows(*ROLES): draw(data/"images"/f"{c}{i:06}.jpg", species, i)
    (data/"variants.txt").write_text("\n".join(names) + "\n")
    for role in ROLES: (data/f"images_variant_{role}.txt").write_text("".join(f"{c}{i:06} {names[c]}\n" for c, _, i in rows(role)))


def write_flowers(root, mat):
    home, numbers = root/"flowers-102", {}
    for k, (c, species, i) in enumerate(rows(*ROLES), 1):
        draw(home/"jpg"/f"image_{k:05}.jpg", species, i)
        numbers[c, i] = k
    mat(home/"imagelabels.mat", labels=np.array([c + 1 for c, _, _ in rows(*ROLES)]))
    mat(home/"setid.mat", **{key: np.array([numbers[c, i] for c, _, i in rows(role)]) for role, key in (("train", "trnid"), ("val", "valid"), ("test", "tstid"))})


def write_cars(root, mat):
    home = root/"stanford_cars"
    (home/"devkit").mkdir(parents=True)
    for where, file, roles in (("cars_train", "devkit/cars_train_annos.mat", ("train", "val")), ("cars_test", "cars_test_annos_withlabels.mat", ("test",))):
        annotations = np.array([(f"{c}{i:05}.jpg", c + 1) for c, _, i in rows(*roles)], dtype=[("fname", object), ("class", int)])
        for c, species, i in rows(*roles): draw(home/where/f"{c}{i:05}.jpg", species, i)
        mat(home/file, annotations=annotations)
    mat(home/"devkit"/"cars_meta.mat", class_names=np.array(["Audi TT", "BMW X6", "Fiat 500"], dtype=object))


def write_fashion(root, mat):
    home = root/"FashionMNIST"/"raw"
    home.mkdir(parents=True)
    for kind, each in (("train", 8), ("t10k", 4)):
        y = np.arange(10 * each, dtype=np.uint8) % 10
        x = np.random.default_rng(each).integers(0, 256, (len(y), 28, 28), dtype=np.uint8)
        x[:, :, 0] = y[:, None]                                                          # the label stands in the first column
        for what, a in (("images-idx3", x), ("labels-idx1", y)):
            (home/f"{kind}-{what}-ubyte").write_bytes(bytes([0, 0, 8, a.ndim]) + np.array(a.shape, ">i4").tobytes() + a.tobytes())


WRITERS = {"OxfordIIITPet": write_pets, "FGVCAircraft": write_aircraft, "Flowers102": write_flowers, "StanfordCars": write_cars, "FashionMNIST": write_fashion}


@pytest.fixture
def mat(monkeypatch):
    "Writes Matlab files: with scipy where it is, otherwise a stand-in for scipy hands back what was written"
    datasets = pytest.importorskip("torchvision").datasets
    words = {key: (name, None) for key, (name, _) in datasets.Flowers102._file_dict.items()}
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", words)                        # our files have other checksums
    try:
        from scipy.io import savemat
        return lambda path, **values: savemat(path, values)
    except ImportError: pass
    written, scipy = {}, types.ModuleType("scipy")
    scipy.io = types.ModuleType("scipy.io")
    scipy.io.loadmat = lambda path, squeeze_me: written[str(path)]
    for name, module in (("scipy", scipy), ("scipy.io", scipy.io)): monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(sources, "find_spec", lambda name: True)

    def write(path, **values):
        path.write_bytes(b"stand-in")
        written[str(path)] = values
    return write


@pytest.fixture
def written(tmp_path, mat):
    def write(name):
        WRITERS[name](tmp_path, mat)
        return tmp_path
    return write


# -- four official sets -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["FGVCAircraft", "Flowers102"])
def test_official_valid_is_used(written, name):
    splits = sources.torchvision_splits(name, written(name), size=32)
    assert [len(s) for s in splits] == [18, 6, 18, 12] and splits.project is splits.train
    assert [s.y.tolist() for s in (splits.train, splits.valid, splits.test)] == [[0] * n + [1] * n + [2] * n for n in (6, 2, 4)]


@pytest.mark.parametrize("name", ["OxfordIIITPet", "StanfordCars"])
def test_valid_is_dealt_from_train_where_there_is_none(written, name):
    "8 a class: 15 % of them are 1.2, so one goes to valid; the 4 official test images stay"
    splits = sources.torchvision_splits(name, written(name), size=32)
    assert [list(s.counts().values()) for s in splits] == [[7] * 3, [1] * 3, [7] * 3, [4] * 3]
    assert not set(splits.train.names) & set(splits.valid.names) and not leaks(splits.train, splits.test)


def nearest(x):
    "Which (species, number) was drawn here? Compared with every drawing"
    pictures = {(s, i): np.asarray(drawn(s, i).resize((32, 32), Image.BILINEAR), int) for _, s, i in rows(*ROLES)}
    return min(pictures, key=lambda key: np.abs(pictures[key] - x.permute(1, 2, 0).numpy()).mean())


@pytest.mark.parametrize("name", ["OxfordIIITPet", "FGVCAircraft", "Flowers102", "StanfordCars"])
def test_pictures_labels_and_official_sets_belong_together(written, name):
    "Planted: species and number of each bird say which class and which official set it was written to"
    splits = sources.torchvision_splits(name, written(name), size=32)
    for role, images in (("train", splits.train), ("valid", splits.valid), ("test", splits.test)):
        first, last = ROLES["test"] if role == "test" else (0, 8)
        for k in (0, len(images) // 2, len(images) - 1):
            species, number = nearest(images.x[k])
            assert species == SPECIES[images.y[k]] and first <= number < last, (role, k)


@pytest.mark.parametrize("name,classes", [("OxfordIIITPet", ["Abyssinian", "American Bulldog", "Egyptian Mau"]), ("FGVCAircraft", ["707-320", "A340-300", "Fokker 50"]),
                                          ("StanfordCars", ["Audi TT", "BMW X6", "Fiat 500"])])
def test_class_names(written, name, classes): assert sources.torchvision_splits(name, written(name), size=24).train.classes == classes


def test_flowers_have_their_102_names(written):
    assert sources.torchvision_splits("Flowers102", written("Flowers102"), size=24).test.classes[2] == "canterbury bells"


def test_a_version_without_names_says_class_7():
    class Old: _labels, _image_files = [0, 7], ["a.jpg", "b.jpg"]
    assert sources.listed(Old()).classes[7] == "class 7"


def test_fashion(written):
    splits = sources.torchvision_splits("FashionMNIST", written("FashionMNIST"), size=28)
    assert [len(s) for s in splits] == [70, 10, 70, 40] and splits.train.classes[9] == "Ankle boot"
    for images in splits: assert torch.equal(images.x[:, 0, 5, 0].long(), images.y)      # the label stands in the picture
    assert splits.test.names[0] == "test 0" and splits.train.names[0].startswith("train ")


@pytest.mark.parametrize("name,sizes", [("OxfordIIITPet", [4, 1, 4, 2]), ("FGVCAircraft", [4, 1, 4, 2]), ("FashionMNIST", [4, 1, 4, 2])])
def test_per_class(written, name, sizes):
    "At most 4 for training, a quarter as many for valid, half as many for the test"
    root = written(name)
    once, again, other = (sources.torchvision_splits(name, root, size=24, per_class=4, seed=s) for s in (0, 0, 1))
    assert [list(s.counts().values()) for s in once] == [[n] * len(once.train.classes) for n in sizes]
    assert once.train.names == again.train.names != other.train.names


def test_per_class_reads_nothing_else(written, monkeypatch):
    "Only what was chosen is decoded"
    read, root = [], written("FGVCAircraft")
    monkeypatch.setattr(sources, "read_images", lambda files, size: read.extend(files) or torch.randint(0, 256, (len(files), 3, size, size), dtype=torch.uint8))
    sources.torchvision_splits("FGVCAircraft", root, per_class=4)
    assert len(read) == 3 * (4 + 1 + 2)


def test_cache(written, tmp_path, monkeypatch):
    "The second time nothing is decoded, and the pixels are the same"
    from protolab import cache
    word = f"torchvision:FGVCAircraft:{written('FGVCAircraft')}"
    plain, first = (sources.source_splits(word, size=24, cache=c) for c in (None, tmp_path/"caches"))
    assert (tmp_path/"caches").is_dir()
    def never(*args, **words): raise AssertionError("decoded again")
    for room in (cache, sources): monkeypatch.setattr(room, "read_images", never)
    again = sources.source_splits(word, size=24, cache=tmp_path/"caches")
    for a, b, c in zip(plain, first, again): assert torch.equal(a.x, b.x) and torch.equal(b.x, c.x) and a.names == b.names == c.names


def test_a_copy_in_two_official_sets_is_told(written):
    root = written("FGVCAircraft")
    images = root/"fgvc-aircraft-2013b"/"data"/"images"
    (images/"0000008.jpg").write_bytes((images/"0000000.jpg").read_bytes())
    with pytest.warns(UserWarning, match="in test are in train too"): sources.torchvision_splits("FGVCAircraft", root, size=24)


def test_broken_pictures_are_named(written):
    root = written("OxfordIIITPet")
    (root/"oxford-iiit-pet"/"images"/"Abyssinian_3.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="Abyssinian_3.jpg"): sources.torchvision_splits("OxfordIIITPet", root, size=24)


# -- files that are missing ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["OxfordIIITPet", "Flowers102", "FGVCAircraft", "FashionMNIST"])
def test_missing_files(tmp_path, name):
    with pytest.raises(FileNotFoundError) as error: sources.torchvision_splits(name, tmp_path)
    said = str(error.value)
    assert " is not in " in said and str(tmp_path) in said and sources.DOORS[name].amount in said and sources.DOORS[name].origin in said
    assert f"get({name!r}, {str(tmp_path)!r}, download=True)" in said


@pytest.mark.parametrize("download", [False, True])
def test_cars_can_not_be_downloaded(tmp_path, download):
    with pytest.raises(FileNotFoundError) as error: sources.torchvision_splits("StanfordCars", tmp_path, download=download)
    assert "issue 7545" in str(error.value) and "cars_test_annos_withlabels.mat" in str(error.value)


def test_the_line_in_the_message_downloads(tmp_path, monkeypatch):
    "The command line that a message gives asks torchvision to download, and takes the root it names"
    line = sources.how_to_get("FGVCAircraft", tmp_path).split('python -c "')[1].split('"`')[0]
    asked = []
    monkeypatch.setattr(sources, "torchvision_splits", lambda name, root, download: asked.append((name, root, download)))
    exec(line)
    assert asked == [("FGVCAircraft", str(tmp_path), True)]


def test_download_is_torchvisions(tmp_path, mat, monkeypatch):
    "download=True lets torchvision fetch; here it 'fetches' what we write"
    datasets = pytest.importorskip("torchvision").datasets
    monkeypatch.setattr(datasets.FGVCAircraft, "_download", lambda self: (tmp_path/"fgvc-aircraft-2013b").exists() or write_aircraft(tmp_path, mat))
    assert len(sources.torchvision_splits("FGVCAircraft", tmp_path, size=24, download=True).train) == 18


def test_a_download_that_fails(tmp_path, monkeypatch):
    datasets = pytest.importorskip("torchvision").datasets
    def fail(self): raise OSError("no way out")
    monkeypatch.setattr(datasets.FGVCAircraft, "_download", fail)
    with pytest.raises(FileNotFoundError, match="no way out"): sources.torchvision_splits("FGVCAircraft", tmp_path, download=True)


@pytest.mark.parametrize("name,gone", [("OxfordIIITPet", "oxford-iiit-pet/annotations/test.txt"), ("FGVCAircraft", "fgvc-aircraft-2013b/data/images_variant_val.txt"),
                                       ("StanfordCars", "stanford_cars/devkit/cars_train_annos.mat"), ("FashionMNIST", "FashionMNIST/raw/t10k-labels-idx1-ubyte"),
                                       ("Flowers102", "flowers-102/setid.mat")])
def test_incomplete_files(written, name, gone):
    root = written(name)
    (root/gone).unlink()
    with pytest.raises(FileNotFoundError, match="is not complete in"): sources.torchvision_splits(name, root)


def test_garbled_lists(written):
    root = written("FGVCAircraft")
    (root/"fgvc-aircraft-2013b"/"data"/"images_variant_train.txt").write_text("0000000 Zeppelin\n")
    with pytest.raises(ValueError, match="can't be read .*Zeppelin.*get its files again"): sources.torchvision_splits("FGVCAircraft", root)


@pytest.mark.parametrize("name", ["Flowers102", "StanfordCars"])
def test_without_scipy(tmp_path, monkeypatch, name):
    (tmp_path/sources.DOORS[name].folder).mkdir()
    monkeypatch.setattr(sources, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="keeps its labels in Matlab's format, which needs scipy: `pip install scipy`"): sources.torchvision_splits(name, tmp_path)


@pytest.mark.parametrize("name,near", [("flowers", "Flowers102"), ("Pets", "OxfordIIITPet"), ("stanfordcars", "StanfordCars"), ("FGVC", "FGVCAircraft"), ("fashion", "FashionMNIST")])
def test_unknown_names_tell_the_nearest(name, near):
    with pytest.raises(ValueError, match=f"did you mean .*{near}"): sources.torchvision_splits(name)


def test_another_set_of_torchvision():
    with pytest.raises(ValueError, match="any other set of torchvision comes in by data.from_dataset"): sources.torchvision_splits("CIFAR10")


# -- words --------------------------------------------------------------------------------------------------------------------------

def test_birds():
    splits = sources.source_splits("birds", size=24, seed=7, per_class=1)
    assert len(splits.train) == 16 and splits.train.x.shape[-1] == 24 and splits.train.parts is not None


def photos(root, each=8):
    for c, species, i in [(c, s, i) for c, s in enumerate(SPECIES) for i in range(each)]: draw(root/f"class {c}"/f"{i}.jpg", species, i)
    return root


def test_folder(tmp_path):
    splits = sources.source_splits(str(photos(tmp_path/"my: photos")), size=24)
    assert splits.train.classes == ["class 0", "class 1", "class 2"] and splits.train.x.shape[-1] == 24


def test_torchvision(written):
    splits = sources.source_splits(f"torchvision:OxfordIIITPet:{written('OxfordIIITPet')}", size=24, per_class=4)
    assert [len(s) for s in splits] == [12, 3, 12, 6]


def test_torchvision_looks_in_data(written, monkeypatch):
    root = written("FGVCAircraft")
    (root/"data").mkdir()
    (root/"fgvc-aircraft-2013b").rename(root/"data"/"fgvc-aircraft-2013b")
    monkeypatch.chdir(root)
    assert len(sources.source_splits("torchvision:FGVCAircraft", size=24).train) == 18


def test_fashion_word(written):
    "From torchvision's folder, or from a folder with the packed files"
    root = written("FashionMNIST")
    assert [len(s) for s in sources.source_splits(f"fashion-mnist:{root}", size=28, per_class=4)] == [40, 10, 40, 20]
    flat = root/"flat"
    flat.mkdir()
    for f in (root/"FashionMNIST"/"raw").iterdir(): (flat/f"{f.name}.gz").write_bytes(gzip.compress(f.read_bytes()))
    assert len(sources.source_splits(f"fashion-mnist:{flat}", size=28, per_class=4).test) == 20


def test_cub_word(monkeypatch):
    asked = []
    monkeypatch.setattr(sources, "cub_splits", lambda folder, **words: asked.append((folder, words)))
    sources.source_splits("cub:CUB_200_2011", size=224, crop=False, cache="pixels")
    assert asked == [("CUB_200_2011", dict(size=224, crop=False, cache="pixels"))]


def test_cub_from_a_written_folder(tmp_path):
    home = birds.write_cub(tmp_path/"CUB", per_class=6, species=range(3))
    cropped, whole = (sources.source_splits(f"cub:{home}", size=32, crop=crop, cache=tmp_path/"caches") for crop in (True, False))
    assert len(cropped.train.classes) == 3 and cropped.train.x.shape[-1] == 32
    assert cropped.test.names == whole.test.names and not torch.equal(cropped.test.x, whole.test.x)


def test_empty_word():
    for word in ("", "  "):
        with pytest.raises(ValueError, match="an empty name for the images came"): sources.source_splits(word)


def test_unknown_prefix():
    with pytest.raises(ValueError, match="before the colon of 'cubs:here' is no kind of images, did you mean cub?"): sources.source_splits("cubs:here")
    with pytest.raises(ValueError, match=r"is no kind of images: choose birds"): sources.source_splits("https://example.invalid/photos.zip")


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere: choose birds"): sources.source_splits(str(tmp_path/"nowhere"))
    with pytest.raises(FileNotFoundError, match="did you mean fashion-mnist?"): sources.source_splits("fashion_mnist")


def test_what_has_no_meaning_is_refused(tmp_path):
    folder = str(photos(tmp_path))
    with pytest.raises(ValueError, match="leave it out, or put fewer images there"): sources.source_splits(folder, per_class=3)
    with pytest.raises(ValueError, match="leave it out, or put fewer images there"): sources.source_splits("cub:somewhere", per_class=3)
    for word in ("birds", folder, "torchvision:Flowers102", "fashion-mnist"):
        with pytest.raises(ValueError, match="only cub:FOLDER has boxes to cut to"): sources.source_splits(word, crop=False)
    with pytest.raises(ValueError, match="birds are drawn, nothing follows the colon; for a folder write ./mine"): sources.source_splits("birds:mine")
    with pytest.raises(ValueError, match="names no folder: write cub:FOLDER"): sources.source_splits("cub:")
    with pytest.raises(ValueError, match="images a class were asked for: give 1 or more"): sources.source_splits("birds", per_class=0)
