"`protolab walk` on real input: folders of image files, and Fashion-MNIST where its files are"
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from protolab.birds import SPECIES, draw_bird
from protolab.data import find_fashion
from protolab.model import load

COMMAND = Path(sys.executable).with_name("protolab")


def walk(*words, cwd):
    return subprocess.run([COMMAND, "walk", *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=300)


def photos(folder, n):
    "n pictures of each of three birds, as files"
    for species in (0, 5, 10):
        home = folder/SPECIES[species]
        home.mkdir(parents=True)
        for i in range(n): Image.fromarray(draw_bird(species, seed=4, index=i).image).save(home/f"{i}.jpg", quality=90)
    return folder


def check_page(path):
    "The page asks nobody for anything, and every picture says what it shows"
    html = path.read_text()
    assert not re.search(r'(?:src|href)="(?!data:|#)', html) and "<script" not in html and "url(" not in html
    assert html.count("<img") == len(re.findall(r'<img [^>]*alt="[^"]+"', html)) > 10


def test_a_folder_of_files_becomes_a_table_a_page_and_a_model(tmp_path):
    done = walk("--data", photos(tmp_path/"photos", 14), "--out", "mine.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert float(re.search(r"test \(read once\) +([\d.]+) %", done.stdout)[1]) > 60      # chance: 33
    assert "background" not in done.stdout, "nobody knows the parts of a photograph"
    check_page(tmp_path/"mine.html")
    model = load(tmp_path/"mine.safetensors")
    assert sorted(model.classes) == sorted(SPECIES[k] for k in (0, 5, 10))
    assert all(Path(p.name).suffix == ".jpg" for p in model.provenance)


@pytest.mark.parametrize("words, told", [
    (["--data", "nowhere"], "there is no folder"), (["--data", "empty"], "no image|no subfolder|no class"), (["--data", "one"], "class")])
def test_a_wrong_folder_is_one_sentence(tmp_path, words, told):
    (tmp_path/"empty").mkdir()
    home = tmp_path/"one"/"wren"
    home.mkdir(parents=True)
    for i in range(8): Image.fromarray(draw_bird(0, index=i).image).save(home/f"{i}.png")
    done = walk(*words, cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert re.search(told, done.stderr) and not list(tmp_path.glob("*.html"))


def fashion_is_here():
    try: return bool(find_fashion(None))
    except FileNotFoundError: return False


@pytest.mark.skipif(not fashion_is_here(), reason="the files of Fashion-MNIST are not here: `make data` gets them")
def test_fashion_mnist_walks_on_a_small_subset(tmp_path):
    done = walk("--data", "fashion-mnist", "--per-class", 24, "--out", "fashion.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert float(re.search(r"test \(read once\) +([\d.]+) %", done.stdout)[1]) > 40      # chance: 10
    check_page(tmp_path/"fashion.html")
