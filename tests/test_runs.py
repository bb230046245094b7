"Run folders: the same end after any stop, choices that can't be cheated, refusals with reasons, and pages that need nobody"
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_walk import check_page

from protolab import runs
from protolab.birds import SPECIES, draw_bird
from protolab.cli import main
from protolab.core import seed_everything
from protolab.data import loaders
from protolab.model import protopnet
from protolab.runs import OnMaps, PlainStage, Settings, open_run, prove_run, train_run
from protolab.sources import source_splits
from protolab.train import fit

KINDS = (0, 5, 10)
COMMAND = Path(sys.executable).with_name("protolab")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw(folder, n=14):
    "n pictures of each of three birds, as files"
    for species in KINDS:
        home = folder/SPECIES[species]
        home.mkdir(parents=True)
        for i in range(n): Image.fromarray(draw_bird(species, seed=4, index=i, size=40).image).save(home/f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory): return draw(tmp_path_factory.mktemp("data")/"photos")


def ours(photos): return Settings(str(photos), "tiny", size=32, prototypes=2, D=8, epochs=2)
def papers(photos): return Settings(str(photos), "tiny", "paper", size=32, prototypes=2, D=8, pushes=(2, 3), warm=1, last=2, copies=1)
RECIPES = {"default": ours, "paper": papers}


def silent(line): pass


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    "Runs that nobody stopped, by recipe"
    home = tmp_path_factory.mktemp("whole")
    return {name: train_run(home/name, settings(photos), tell=silent) for name, settings in RECIPES.items()}


def bare(history): return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


SAME = ("model.safetensors", "config.json", "choice.json", "provenance.json", "test.json", "environment.json")


def check_same(run, other):
    for name in SAME: assert (run.folder/name).read_bytes() == (other.folder/name).read_bytes(), name
    assert bare(run.history) == bare(other.history)
    pictures = [sorted((p.name, p.read_bytes()) for p in (r.folder/"sources").iterdir()) for r in (run, other)]
    assert pictures[0] == pictures[1]
    assert not list(run.folder.rglob(".*")), "half-written files are left"


# -- what is in a folder ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("recipe", RECIPES)
def test_the_files(recipe, whole):
    run = whole[recipe]
    assert {p.name for p in run.folder.iterdir()} == {*SAME, "history.json", "checkpoint.safetensors", "candidates", "sources", "lints.json"}
    for file in run.folder.glob("*.json"): json.loads(file.read_text())
    model = run.model()
    assert model.provenance and len(model.provenance) == len(json.loads((run.folder/"provenance.json").read_text())) == 6
    assert prove_run(run) < 1e-5


def test_the_config_says_what_was_done(whole, photos):
    config = whole["default"].config
    assert config["settings"]["data"] == str(photos) and config["settings"]["seed"] == 0 and config["trunk"] == "random"
    assert [(s["name"], s["settings"].get("epochs")) for s in config["stages"]] == [
        ("plain classifier", 2), ("joint", 2), ("project", None), ("last layer", None), ("candidate", None)]
    assert config["stages"][1]["settings"]["rates"]["prototypes"] == 5e-3
    assert (config["images"]["train"], config["images"]["valid"], config["images"]["test"]) == (27, 6, 9)


def test_nothing_personal(whole):
    text = "".join(p.read_text() for p in (whole["default"].folder/"environment.json", whole["default"].folder/"history.json"))
    for word in (platform.node(), os.environ.get("USER", ""), str(Path.home())): assert len(word) < 5 or word not in text


def test_a_moved_folder_is_the_same_run(whole, photos, tmp_path):
    shutil.copytree(whole["default"].folder, tmp_path/"elsewhere")
    (tmp_path/"elsewhere"/"test.json").unlink()
    check_same(train_run(tmp_path/"elsewhere", ours(photos), tell=silent), whole["default"])


# -- stopped ------------------------------------------------------------------------------------------------------------------

class After:
    "Hears lines, and stops the run at the n-th"
    def __init__(self, n): self.n = n

    def __call__(self, line):
        if " of " not in line: return
        self.n -= 1
        if self.n == 0: raise KeyboardInterrupt


@pytest.mark.parametrize("recipe, row", [("default", n) for n in range(1, 8)] + [("paper", n) for n in (1, 3, 4, 5, 6, 9)])
def test_stopped_after_any_row(recipe, row, whole, photos, tmp_path):
    settings = RECIPES[recipe](photos)
    with pytest.raises(KeyboardInterrupt): train_run(tmp_path/"run", settings, tell=After(row))
    assert open_run(tmp_path/"run").test is None and len(open_run(tmp_path/"run").history) == row
    seed_everything(99)
    check_same(train_run(tmp_path/"run", settings, tell=silent), whole[recipe])


def test_boxes_know_what_the_weights_know_after_a_stop(photos, tmp_path):
    "Lite0's shipped weights lean: where a cell looks is kept with them, and goes into the papers"
    settings = ours(photos)._replace(backbone="lite0", epochs=1)
    whole = train_run(tmp_path/"whole", settings, tell=silent)
    with pytest.raises(KeyboardInterrupt): train_run(tmp_path/"run", settings, tell=After(2))
    check_same(train_run(tmp_path/"run", settings, tell=silent), whole)
    assert whole.config["trunk"] == "pretrained" and whole.model().backbone.lean.tolist() == [-3.5, -3.5]


@pytest.mark.parametrize("step", [1, 2])
def test_stopped_within_an_epoch_of_the_plain_classifier(step, whole, photos, tmp_path, monkeypatch):
    "An epoch is one batch here: the plug is pulled before its end"
    left = [step]

    def plug(model, out, y):
        left[0] -= 1
        if left[0] == 0: raise KeyboardInterrupt
        return loss(model, out, y)
    loss, plug.__qualname__ = runs.plain_loss, "plain_loss"
    monkeypatch.setattr(runs, "plain_loss", plug)
    with pytest.raises(KeyboardInterrupt): train_run(tmp_path/"run", ours(photos), tell=silent)
    assert len(open_run(tmp_path/"run").history) == step - 1
    check_same(train_run(tmp_path/"run", ours(photos), tell=silent), whole["default"])


@pytest.mark.parametrize("name", ["write_choice", "keep_sources", "read_test"])
def test_stopped_after_the_last_stage(name, whole, photos, tmp_path, monkeypatch):
    def stop(*args): raise KeyboardInterrupt
    with monkeypatch.context() as patched:
        patched.setattr(runs, name, stop)
        with pytest.raises(KeyboardInterrupt): train_run(tmp_path/"run", ours(photos), tell=silent)
    check_same(train_run(tmp_path/"run", ours(photos), tell=silent), whole["default"])


def words(settings, out):
    given = settings._asdict() | dict(channels=settings.D)
    for name in ("crop", "pretrained", "legacy", "per_class", "D"): given.pop(name)
    some = [(f"--{name}", *(v if isinstance(v, tuple) else [v])) for name, v in given.items() if v is not None]
    return ["train", "--out", str(out), *(str(w) for group in some for w in group)]


def hear_interrupts(): signal.signal(signal.SIGINT, signal.SIG_DFL) # what runs in the background of a script is deaf to them, and its children too


def start(settings, out):
    "The command in a process of its own, in a group of its own as on a terminal"
    return subprocess.Popen([COMMAND, *words(settings, out)], env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, start_new_session=True, preexec_fn=hear_interrupts)


@pytest.mark.skipif(os.name != "posix", reason="signals as posix has them")
@pytest.mark.parametrize("recipe, line, how", [("default", "joint", signal.SIGINT), ("paper", "project", signal.SIGKILL)])
def test_a_process_is_ended_from_outside(recipe, line, how, whole, photos, tmp_path):
    settings = RECIPES[recipe](photos)
    with start(settings, tmp_path/"run") as process:
        for said in process.stdout:
            if said.startswith(line): break
        os.killpg(process.pid, how)
        told = process.communicate(timeout=60)[1]
    if how == signal.SIGINT:
        assert process.returncode == 130 and "Traceback" not in told
        assert told.strip().splitlines()[-1] == "protolab: stopped; give the same command again, and it goes on after the last whole epoch"
    else: assert process.returncode == -signal.SIGKILL
    assert len(json.loads((tmp_path/"run"/"history.json").read_text())) >= 3
    check_same(train_run(tmp_path/"run", settings, tell=silent), whole[recipe])


def test_half_written_files_are_swept(whole, photos, tmp_path):
    with pytest.raises(KeyboardInterrupt): train_run(tmp_path/"run", ours(photos), tell=After(2))
    (tmp_path/"run"/f".checkpoint.safetensors.{'a1' * 16}").write_bytes(b"half")
    (tmp_path/"run"/"candidates").mkdir()
    (tmp_path/"run"/"candidates"/f".00.safetensors.{'b2' * 16}").write_bytes(b"half")
    check_same(train_run(tmp_path/"run", ours(photos), tell=silent), whole["default"])


def test_a_finished_run_trains_nothing(whole, photos, monkeypatch):
    told, before = [], {p: p.read_bytes() for p in whole["default"].folder.rglob("*") if p.is_file()}
    monkeypatch.setattr(runs, "fit", None)
    monkeypatch.setattr(runs, "source_splits", None)
    again = train_run(whole["default"].folder, ours(photos), tell=told.append)
    assert "is finished, nothing is left to train" in told[0] and again.test == whole["default"].test
    assert before == {p: p.read_bytes() for p in whole["default"].folder.rglob("*") if p.is_file()}


def test_another_machine_is_written_down(whole, photos, tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt): train_run(tmp_path/"run", ours(photos), tell=After(2))
    monkeypatch.setattr("platform.platform", lambda: "another")
    told = []
    train_run(tmp_path/"run", ours(photos), tell=told.append)
    places = json.loads((tmp_path/"run"/"environment.json").read_text())
    assert len(places) == 2 and places[1]["platform"] == "another"
    assert any("was elsewhere before (platform: was" in line for line in told)


# -- refused ------------------------------------------------------------------------------------------------------------------

OTHER = {"seed": (dict(seed=3), "seed: was 0, is 3"), "size": (dict(size=24), "size: was 32, is 24"), "epochs": (dict(epochs=3), "epochs: was 2, is 3"),
         "backbone": (dict(backbone="small"), "backbone: was tiny, is small"), "start": (dict(pretrained=False), "pretrained: was True, is False"),
         "D": (dict(D=9), "D: was 8, is 9"), "data": (dict(data="birds"), "data: was .*photos, is birds"),
         "recipe": (dict(recipe="paper", epochs=None), "recipe: was default, is paper")}


@pytest.mark.parametrize("what", OTHER)
def test_other_settings(what, whole, photos):
    change, told = OTHER[what]
    with pytest.raises(ValueError, match=f"holds another run; .*{told}.*: say it as before to go on, or give another folder"):
        train_run(whole["default"].folder, ours(photos)._replace(**change), tell=silent)


def spoilt(whole, tmp_path, change):
    "A copy of a run with another config"
    folder = tmp_path/"spoilt"
    shutil.copytree(whole["default"].folder, folder)
    config = json.loads((folder/"config.json").read_text())
    (folder/"config.json").write_text(json.dumps(config | change))
    return folder


def test_a_run_of_another_format(whole, photos, tmp_path):
    folder = spoilt(whole, tmp_path, dict(format=0, protolab="0.0.0"))
    for call in (lambda: train_run(folder, ours(photos), tell=silent), lambda: open_run(folder)):
        with pytest.raises(ValueError, match="was written by protolab 0.0.0 in format 0, and this is protolab .* reads format 1: use that protolab, or begin a new run"): call()


def test_an_unfinished_run_of_another_protolab(whole, photos, tmp_path):
    folder = spoilt(whole, tmp_path, dict(protolab="0.0.0"))
    assert open_run(folder).test == train_run(folder, ours(photos), tell=silent).test, "a finished one may be looked at"
    (folder/"test.json").unlink()
    with pytest.raises(ValueError, match="was begun by protolab 0.0.0, and this is .*: go on with that one, or begin again"): train_run(folder, ours(photos), tell=silent)


@pytest.mark.parametrize("name", ["config.json", "history.json", "test.json"])
def test_a_damaged_file_is_named(name, whole, tmp_path):
    folder = spoilt(whole, tmp_path, {})
    (folder/name).write_text((folder/name).read_text()[:20])
    with pytest.raises(ValueError, match=f"{name} is damaged .*: put back a copy of it, or begin a new run"): open_run(folder)


def test_a_folder_of_other_things(photos):
    before = sorted(photos.rglob("*"))
    with pytest.raises(ValueError, match="is no run folder and not empty .*: give a new folder"): train_run(photos, ours(photos), tell=silent)
    assert sorted(photos.rglob("*")) == before


def test_a_file_instead_of_a_folder(photos, tmp_path):
    (tmp_path/"file").write_text("mine")
    with pytest.raises(ValueError, match="it is a file"): train_run(tmp_path/"file", ours(photos), tell=silent)


def test_no_run_at_all(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no run folder, for it has no config.json"): open_run(tmp_path)


def test_other_images(photos, tmp_path):
    folder = draw(tmp_path/"mine")
    with pytest.raises(KeyboardInterrupt): train_run(tmp_path/"run", ours(folder), tell=After(2))
    file = sorted(folder.rglob("*.png"))[0]
    Image.fromarray(draw_bird(0, seed=77, size=40).image).save(file)
    with pytest.raises(ValueError, match="was begun with other images; digest: was .*: put the old images back"): train_run(tmp_path/"run", ours(folder), tell=silent)
    file.unlink()
    with pytest.raises(ValueError, match="other images; "): train_run(tmp_path/"run", ours(folder), tell=silent)


def leaky(tmp_path):
    "A folder in which a test picture is also a training picture"
    splits, mine = tmp_path/"leaky", draw(tmp_path/"mine")
    for role, numbers in (("train", range(9)), ("valid", (9, 10)), ("test", (11, 12, 13))):
        for species in KINDS:
            (splits/role/SPECIES[species]).mkdir(parents=True)
            for i in numbers: shutil.copy(mine/SPECIES[species]/f"{i}.png", splits/role/SPECIES[species])
    shutil.copy(mine/SPECIES[0]/"3.png", splits/"test"/SPECIES[0]/"a-copy.png")
    return splits


@pytest.mark.filterwarnings("ignore:1 of the images in test are in train too")
def test_test_images_found_in_training(tmp_path):
    settings = ours(leaky(tmp_path))
    with pytest.raises(ValueError, match="the same pictures sit in two sets \\(train and test share 1: .*3.png = .*a-copy.png\\).*--allow-leaks"):
        train_run(tmp_path/"run", settings, tell=silent)
    assert not (tmp_path/"run").exists()
    run = train_run(tmp_path/"run", settings, allow_leaks=True, tell=silent)
    assert run.config["leaks"] == {"train and test": 1} and "LEAKS" in repr(run)
    assert "train and test share 1 pictures: accuracy is too high" in runs.run_gallery(run, k=0)


@pytest.mark.parametrize("given, told", [
    (dict(backbone="vgg61"), "no backbone is called 'vgg61'"), (dict(recipe="papre"), "recipe 'papre' is unknown: choose one of default, paper"),
    (dict(pushes=(1,)), "pushes=\\(1,\\) came with the recipe 'default'"), (dict(legacy=True), "legacy=True came with the recipe 'default'"),
    (dict(recipe="paper", epochs=None, pushes=(3, 2)), "in rising order"), (dict(size=0), "size is 0: give 1 or more"), (dict(epochs=0), "epochs is 0: give 1 or more"), (dict(data="nowhere"), "nowhere")])
def test_wrong_settings(given, told, photos, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=told): train_run(tmp_path/"run", ours(photos)._replace(**given), tell=silent)
    assert not (tmp_path/"run").exists()


def test_a_full_disk_loses_one_epoch(whole, photos, tmp_path, monkeypatch):
    def full(self, data): raise OSError(28, "No space left on device")
    with pytest.raises(KeyboardInterrupt): train_run(tmp_path/"run", ours(photos), tell=After(3))
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"): train_run(tmp_path/"run", ours(photos), tell=silent)
    check_same(train_run(tmp_path/"run", ours(photos), tell=silent), whole["default"])


# -- the choice, and the test images ------------------------------------------------------------------------------------------

class Says:
    "A stage after which the model takes everything for class c"
    def __init__(self, c): self.c, self.name = c, f"says {c}"

    def __call__(self, model, dls, state):
        with torch.no_grad(): model.last.weight.copy_((torch.arange(len(model.classes)) == self.c)[:, None].float().expand_as(model.last.weight))
        yield {}


def planted(photos, monkeypatch, *order):
    "The paper's recipe with candidates that say one class only; all validation images are of class 2, all test images of class 0"
    splits = source_splits(str(photos), size=32)
    valid, test = (images.subset((images.y == c).nonzero().flatten()) for images, c in ((splits.valid, 2), (splits.test, 0)))
    monkeypatch.setattr(runs, "source_splits", lambda *args, **words: splits._replace(valid=valid, test=test))

    def stages(place, then=(), **_): return [runs.Projection(place), *(stage for c in order for stage in (Says(c), *then))]
    monkeypatch.setattr(runs, "paper_stages", stages)


@pytest.mark.parametrize("order, legacy, best", [((2, 0), False, 0), ((0, 2), False, 1), ((0, 2, 2, 0), False, 1), ((0, 1), False, 0), ((2, 0), True, 1), ((0, 2), True, 0)])
def test_the_best_on_validation_is_taken(order, legacy, best, photos, tmp_path, monkeypatch):
    "Neither the last one, nor the best on test; of equals the first. The authors' code takes the best on test"
    planted(photos, monkeypatch, *order)
    run = train_run(tmp_path/"run", papers(photos)._replace(legacy=legacy), tell=silent)
    right = 0 if legacy else 2
    assert [c["accuracy"] for c in run.choice["candidates"]] == [float(c == right) for c in order]
    assert run.choice["chosen"] == best and run.choice["on"].startswith("test" if legacy else "validation")
    assert (run.folder/"model.safetensors").read_bytes() == (run.folder/"candidates"/f"{best:02d}.safetensors").read_bytes()
    assert run.test["accuracy"] == float(order[best] == 0)


class Counted:
    "A loader that notes when it is read"
    def __init__(self, loader, notes, name): self.loader, self.notes, self.name = loader, notes, name

    def __getattr__(self, name): return getattr(self.loader, name)

    def __len__(self): return len(self.loader)

    def __iter__(self):
        self.notes.append(self.name)
        return iter(self.loader)


def counting(monkeypatch):
    "Notes of what is read, and of what is written"
    notes, job_of, write = [], runs.job_of, runs.write_json

    def job(*args):
        found = job_of(*args)
        return found._replace(dls=found.dls._replace(test=Counted(found.dls.test, notes, "test images")))

    def writing(path, thing):
        notes.append(Path(path).name)
        write(path, thing)
    monkeypatch.setattr(runs, "job_of", job)
    monkeypatch.setattr(runs, "write_json", writing)
    return notes


def test_test_is_read_once_and_after_the_choice(photos, tmp_path, monkeypatch):
    notes = counting(monkeypatch)
    run = train_run(tmp_path/"run", ours(photos), tell=silent)
    assert notes.count("test images") == 1
    assert notes.index("choice.json") < notes.index("test images") < notes.index("test.json")
    assert run.test["read"] == "read once, after the choice" and run.test["images"] == 9
    train_run(tmp_path/"run", ours(photos), tell=silent)
    assert notes.count("test images") == 1
    (tmp_path/"run"/"choice.json").unlink()                                   # whatever else is asked of the folder
    assert runs.read_test(tmp_path/"run", None, None) == run.test


def test_the_stored_reading_is_that_of_the_model(whole, photos):
    run = whole["paper"]
    splits = source_splits(str(photos), size=32)
    model = run.model()
    with torch.no_grad(): right = [model(x).logits.argmax(1) == y for x, y in loaders(splits, model.backbone.stats).test]
    assert run.test["accuracy"] == torch.cat(right).sum().item() / 9


def test_legacy_looks_at_test_and_says_so(photos, tmp_path):
    run = train_run(tmp_path/"run", papers(photos)._replace(legacy=True), tell=silent)
    assert run.choice["on"] == "test images, as the reference does" and "looked at in every epoch" in run.test["read"]
    best = run.choice["candidates"][run.choice["chosen"]]
    assert best["accuracy"] == run.test["accuracy"] == max(c["accuracy"] for c in run.choice["candidates"])
    model = run.model()
    assert max(p.image for p in model.provenance) < 33 and len(runs.reopened(run).train) == 33, "valid trains too"


# -- our own recipe, for any backbone -----------------------------------------------------------------------------------------

def test_a_trunk_that_is_kept_does_not_move(photos):
    "`small` stands for the networks of the zoo: its adapter has nothing to learn"
    seed_everything(0)
    splits = source_splits(str(photos), size=32)
    model = protopnet("small", splits.train.classes, 2, 8)
    place = runs.geometry(model.backbone, (32, 32))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    line = runs.default_stages(model, place, epochs=2, pretrained=True)
    history = fit(model, loaders(splits, model.backbone.stats), line[:2])
    moved = {k.split(".")[0] for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {"add_on", "prototypes"} and [row["stage"] for row in history] == ["plain classifier"] * 2 + ["warm"] * 2
    fit(model, loaders(splits, model.backbone.stats), line[2:])
    assert any(not torch.equal(v, before[k]) for k, v in model.backbone.trunk.state_dict(prefix="backbone.trunk.").items())
    assert len(model.provenance) == 6


@pytest.mark.parametrize("room", [0, 1e9])
def test_kept_maps_change_nothing_and_resume(room, photos, tmp_path):
    "Maps in memory or made anew: each alone goes on after a stop to the same bits"
    def run(folder, epochs):
        seed_everything(3)
        splits = source_splits(str(photos), size=32)
        model = protopnet("lite0", splits.train.classes, 2, 8)
        stage = OnMaps(PlainStage(3, {"backbone.adapter": 1e-2}), room)
        told = []

        def each(history):
            told.append(1)
            if len(told) == epochs: raise KeyboardInterrupt
        fit(model, loaders(splits, model.backbone.stats), [stage], folder, each)
        return model
    whole = run(None, 0)
    with pytest.raises(KeyboardInterrupt): run(tmp_path, 2)
    again = run(tmp_path, 0)
    for (name, a), b in zip(whole.state_dict().items(), again.state_dict().values()): assert torch.equal(a, b), name


def test_weights_that_cannot_be_had(photos, tmp_path, monkeypatch):
    "A run that starts from chance against its will goes on, and says so in its folder"
    def offline(url): raise OSError("no route to host")
    monkeypatch.setattr("protolab.backbone.fetch_checkpoint", offline)
    with pytest.warns(UserWarning, match="RANDOM weights"): model, trunk = runs.built(runs.settled(Settings(str(photos), "vgg16")), ["a", "b"])
    assert trunk == "random"


# -- pages --------------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    "A run whose data are gone"
    home = tmp_path_factory.mktemp("shown")
    run = train_run(home/"run", ours(draw(home/"photos")), tell=silent)
    (home/"photos").rename(home/"moved")
    return run


def test_a_page_for_images_of_any_size(shown, tmp_path, capsys):
    for size, name in ((300, "large.jpg"), (24, "small.png")): Image.fromarray(draw_bird(5, seed=8, size=size).image).save(tmp_path/name)
    Image.fromarray(draw_bird(5, seed=8, size=90).image).resize((200, 50)).convert("L").save(tmp_path/"wide & grey.png")
    files = [str(tmp_path/name) for name in ("large.jpg", "small.png", "wide & grey.png")]
    assert main(["explain", str(shown.folder), *files, "--out", str(tmp_path/"page.html")]) == 0
    check_page(tmp_path/"page.html")
    html = (tmp_path/"page.html").read_text()
    assert html.count("<section id=") == 3 and "wide &amp; grey.png: " in html and html.count("share by softmax") == 3
    assert "page.html" in capsys.readouterr().out


def test_the_answers_on_the_page_are_the_models(shown, tmp_path):
    Image.fromarray(draw_bird(5, seed=8, size=32).image).save(tmp_path/"a.png")
    html, model = runs.explained_images(shown, [tmp_path/"a.png"]), shown.model()
    x = runs.normalise(runs.read_images([tmp_path/"a.png"], 32), model.backbone.stats)
    with torch.no_grad(): logits = model(x).logits[0]
    best = logits.argsort(descending=True).tolist()
    for c in best: assert f"<tr><th>{model.classes[c]}</th><td>{logits[c]:.2f}</td><td>{100 * logits.softmax(0)[c]:.1f} %</td></tr>" in html
    assert f"a.png: {model.classes[best[0]]}" in html


def test_one_bad_image_stops_the_page_before_any_work(shown, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runs, "own_album", None)
    Image.fromarray(draw_bird(5, size=32).image).save(tmp_path/"good.png")
    (tmp_path/"bad.jpg").write_bytes(b"\xff\xd8 no picture")
    files = [str(tmp_path/name) for name in ("good.png", "bad.jpg", "absent.png")]
    assert main(["explain", str(shown.folder), *files, "--out", str(tmp_path/"page.html")]) == 1
    told = capsys.readouterr().err
    assert "2 of 3 images can't be read" in told and "bad.jpg" in told and "absent.png" in told and "good.png" not in told
    assert not (tmp_path/"page.html").exists()


def test_the_wall_when_the_data_are_gone(shown, tmp_path, capsys):
    assert main(["gallery", str(shown.folder)]) == 0
    told = capsys.readouterr().out
    assert "the nearest patches are left out, for the images are not to be had:" in told and "photos" in told
    check_page(shown.folder/"gallery.html")
    html = (shown.folder/"gallery.html").read_text()
    assert "left out" in html and html.count("<section id=") == 2


def test_the_whole_gallery_where_the_data_are_now(shown, tmp_path):
    moved = shown.folder.parent/"moved"
    assert main(["gallery", str(shown.folder), "--data", str(moved), "--nearest", "3", "--out", str(tmp_path/"all.html")]) == 0
    check_page(tmp_path/"all.html")
    html = (tmp_path/"all.html").read_text()
    assert "The patches nearest to each" in html and html.count("Number 3 nearest to prototype") == 6


def test_other_images_are_not_shown_as_this_run_s(shown, tmp_path):
    told = []
    other = draw(tmp_path/"other", n=10)
    html = runs.run_gallery(shown, data=str(other), tell=told.append)
    assert "was begun with other images" in told[0] and "The patches nearest to each</h2>" not in html


def test_an_unfinished_run_has_no_pages(photos, tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt): train_run(tmp_path/"run", ours(photos), tell=After(2))
    assert main(["gallery", str(tmp_path/"run")]) == 1
    assert "is not finished: give its train command again, and it goes on" in capsys.readouterr().err
    assert "not finished" in repr(open_run(tmp_path/"run"))


def test_a_picture_of_a_prototype_is_lost(shown, tmp_path):
    shutil.copytree(shown.folder, tmp_path/"run")
    lost = sorted((tmp_path/"run"/"sources").iterdir())[-1]
    lost.unlink()
    with pytest.raises(ValueError, match=f"(?s)1 of . images can't be read.*{lost.name}"): runs.run_gallery(open_run(tmp_path/"run"))


# -- the command --------------------------------------------------------------------------------------------------------------

def test_the_command_shows_a_finished_run(whole, photos, capsys):
    assert main(words(ours(photos), whole["default"].folder)) == 0
    told = capsys.readouterr().out
    assert "is finished" in told and "read once" in told


def test_a_refusal_is_one_sentence_and_status_1(whole, photos, capsys):
    assert main([*words(ours(photos), whole["default"].folder), "--seed", "7"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("protolab: ") and told.count("\n") == 1 and "seed: was 0, is 7" in told


def test_a_warning_is_one_line(tmp_path, capsys):
    assert main([*words(ours(leaky(tmp_path)), tmp_path/"run"), "--allow-leaks"]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "in train too" in line]
    assert len(told) == 1 and told[0].startswith("protolab: 1 of the images in test")


@pytest.mark.parametrize("job", ["explain", "gallery"])
def test_no_run_there(job, tmp_path, capsys):
    assert main([job, str(tmp_path), *(["a.png"] if job == "explain" else [])]) == 1
    assert "has no config.json" in capsys.readouterr().err


# -- CUB's layout, end to end -------------------------------------------------------------------------------------------------

def test_cub_end_to_end(tmp_path):
    pytest.importorskip("protolab.cub")
    from protolab.birds import write_cub
    folder = write_cub(tmp_path/"cub", per_class=12, species=KINDS, size=(40, 60))
    settings = papers(folder)._replace(data=f"cub:{folder}")
    run = train_run(tmp_path/"run", settings, cache=tmp_path/"cache", tell=silent)
    assert run.config["pictures"] == "crops to the bounding boxes" and len(run.choice["candidates"]) == 2
    full = train_run(tmp_path/"full", settings._replace(crop=False), cache=tmp_path/"cache", tell=silent)
    assert full.config["pictures"] == "full images" and full.config["images"]["digest"] != run.config["images"]["digest"]
    assert "crop your photographs in the same way" in runs.explained_images(run, [next(folder.rglob("*.jpg"))])
    assert "The patches nearest to each" in runs.run_gallery(run, cache=tmp_path/"cache", k=2)
