"The whole of the paper's pipeline by the command: a folder in the layout of CUB-200-2011 in, a run folder and two pages out"
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_walk import check_page

from protolab.birds import SPECIES, write_cub
from protolab.cli import main
from protolab.cub import cub_splits, read_cub
from protolab.data import normalise, read_images
from protolab.model import load
from protolab.runs import open_run, prove_run

KINDS = (0, 5, 10)
COMMAND = Path(sys.executable).with_name("protolab")
SMALL = "--size 64 --prototypes 2 --channels 16 --pushes 1 2 --warm 1 --last 1 --copies 1 --random-start --cache cache".split()


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def command(home, *words):
    "What the command says, in a process of its own"
    done = subprocess.run([COMMAND, *map(str, words)], cwd=home, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "A place with the folder CUB: three species, eight photographs of each, four of them for training"
    home = tmp_path_factory.mktemp("walk")
    write_cub(home/"CUB", per_class=8, species=KINDS, size=(60, 90))
    yield home
    shutil.rmtree(home)                              # vgg16's checkpoint is large


@pytest.fixture(scope="module")
def told(home): return command(home, "train", "--data", "cub:CUB", "--recipe", "paper", "--backbone", "vgg16", "--out", "RUN", *SMALL)


@pytest.fixture(scope="module")
def run(home, told): return open_run(home/"RUN")


ROWS = ["warm", *["joint", "project", "last layer", "candidate"] * 2]


def test_all_stages_in_their_order(told, run):
    assert [row["stage"] for row in run.history] == ROWS
    said = [line for line in told.stdout.splitlines() if re.search(r" \d+ of \d+ ", line)]
    assert [re.split(" {2,}", line)[0] for line in said] == ROWS and said[-1].endswith("done")
    assert "RANDOM" not in told.stderr, "a random start was asked for"


def test_the_record(run):
    assert run.config["pictures"] == "crops to the bounding boxes" and run.config["trunk"] == "random"
    assert (run.config["images"]["train"], run.config["images"]["valid"], run.config["images"]["test"]) == (9, 3, 12)
    assert run.config["images"]["size"] == [64, 64] and run.config["classes"] == [SPECIES[k] for k in KINDS]
    assert (run.config["settings"]["backbone"], run.config["settings"]["recipe"], run.config["settings"]["pretrained"]) == ("vgg16", "paper", False)


def test_the_choice_and_the_one_reading(home, run):
    "Both read again, from the photographs and the model file"
    best = max(run.choice["candidates"], key=lambda row: row["accuracy"])
    assert run.choice["chosen"] == best["candidate"] and len(run.choice["candidates"]) == 2
    assert (home/"RUN"/best["file"]).read_bytes() == (home/"RUN"/"model.safetensors").read_bytes()
    splits, model = cub_splits(home/"CUB", 64, cache=home/"cache"), load(home/"RUN"/"model.safetensors")
    for images, said in ((splits.valid, best["accuracy"]), (splits.test, run.test["accuracy"])):
        with torch.no_grad(): right = model(normalise(images.x, model.backbone.stats)).logits.argmax(1) == images.y
        assert said == right.sum().item() / len(images)


def test_prototypes_are_patches_of_official_training_images(home, run):
    cub, model = read_cub(home/"CUB"), run.model()
    known = {name: (label, train) for name, label, train in zip(cub.names, cub.y.tolist(), cub.train.tolist())}
    assert len(model.provenance) == 6
    for p in model.provenance: assert known[p.name] == (p.label, True) and p.label == model.cls[p.prototype]
    assert prove_run(run) < 1e-4


def test_the_same_command_shows_what_is_finished(home, run, monkeypatch, capsys):
    before = {p: p.stat().st_mtime_ns for p in (home/"RUN").rglob("*")}
    monkeypatch.chdir(home)
    assert main(["train", "--data", "cub:CUB", "--recipe", "paper", "--backbone", "vgg16", "--out", "RUN", *SMALL]) == 0
    assert "RUN is finished, nothing is left to train" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in (home/"RUN").rglob("*")}


def test_the_gallery(home, run):
    command(home, "gallery", "RUN", "--nearest", 4, "--cache", "cache", "--out", "gallery.html")
    check_page(home/"gallery.html")
    html = (home/"gallery.html").read_text()
    assert all(SPECIES[k] in html for k in KINDS)
    for words in ("3 classes, 6 prototypes", "The patches nearest to each", "cub:CUB, crops to the bounding boxes at 64 px"): assert words in html
    assert len(re.findall(r'alt="Number 4 nearest to prototype \d', html)) == 6 and "Number 5 nearest" not in html


def test_a_photograph_is_explained(home, run):
    cub, model = read_cub(home/"CUB"), run.model()
    i = (~cub.train).nonzero()[0].item()
    top, left, bottom, right = cub.boxes[i].tolist()
    Image.open(cub.files[i]).crop((left, top, right, bottom)).save(home/"bird.png")
    command(home, "explain", "RUN", "bird.png", "--out", "explain.html")
    check_page(home/"explain.html")
    with torch.no_grad(): logits = model(normalise(read_images([home/"bird.png"], 64), model.backbone.stats)).logits[0]
    html = (home/"explain.html").read_text()
    assert f"bird.png: {model.classes[logits.argmax()]}" in html and f"<td>{logits.max():.2f}</td>" in html
    assert "crop your photographs in the same way" in html


def test_full_images_are_another_run(home, run, monkeypatch, capsys):
    monkeypatch.chdir(home)
    words = ["train", "--data", "cub:CUB", "--recipe", "paper", "--backbone", "tiny", "--full-images", *SMALL]
    assert main([*words, "--out", "FULL"]) == 0
    assert "cub:CUB, full images at 64 px" in capsys.readouterr().out
    config = json.loads((home/"FULL"/"config.json").read_text())
    assert config["pictures"] == "full images" and config["images"]["digest"] != run.config["images"]["digest"]
    assert main([*words, "--out", "RUN"]) == 1
    assert "crop: was True, is False" in capsys.readouterr().err


@pytest.fixture
def leaky(home, tmp_path):
    "A copy of the folder in which a training photograph is a copy of a test photograph, box and all; the names of both"
    folder = shutil.copytree(home/"CUB", tmp_path/"LEAKY")
    cub = read_cub(folder)
    train, test = cub.train.nonzero()[0].item(), (~cub.train).nonzero()[0].item()
    shutil.copy(cub.files[test], cub.files[train])
    lines = (folder/"bounding_boxes.txt").read_text().splitlines()
    lines[train] = f"{train + 1} {lines[test].split(' ', 1)[1]}"
    (folder/"bounding_boxes.txt").write_text("\n".join(lines) + "\n")
    return folder, cub.names[train], cub.names[test]


@pytest.mark.parametrize("more", [[], ["--full-images"]], ids=["crops", "full images"])
def test_a_photograph_in_train_and_test_is_refused(more, leaky, tmp_path, monkeypatch, capsys):
    folder, train, test = leaky
    monkeypatch.chdir(tmp_path)
    words = ["train", "--data", f"cub:{folder}", "--recipe", "paper", "--backbone", "tiny", "--out", "OUT", *SMALL, *more]
    assert main(words) == 1 and not Path("OUT").exists()
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("protolab: the same pictures sit in two sets (train and test share 1: ") and train in said and test in said and "--allow-leaks" in said
    assert main([*words, "--allow-leaks"]) == 0 and open_run("OUT").config["leaks"] == {"train and test": 1}


def test_a_photograph_that_was_cut_differently_is_refused_too(home, tmp_path, monkeypatch, capsys):
    "The crops differ, so the pixels do not tell; the file does"
    folder = shutil.copytree(home/"CUB", tmp_path/"CUT")
    cub = read_cub(folder)
    train, test = cub.train.nonzero()[0].item(), (~cub.train).nonzero()[0].item()
    shutil.copy(cub.files[test], cub.files[train])
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--data", f"cub:{folder}", "--recipe", "paper", "--backbone", "tiny", "--out", "OUT", *SMALL]) == 1 and not Path("OUT").exists()
    said = capsys.readouterr().err.splitlines()[-1]
    assert "train and test share 1: " in said and cub.names[train] in said and cub.names[test] in said
