"A model's file: there and back bit for bit, bad files refused in words, nothing in a file ever run"
import io
import json
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from protolab.core import Patch
from protolab.model import ProtoPNet, load, paper_layout, protopnet, save, tensors_of, tiny_model
from protolab.prototypes import DISTANCES, SIMILARITIES, PrototypeLayer


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = protopnet("tiny", ["wren", "robin", "finch"], per_class=2, D=6)
    with torch.no_grad():
        for v in model.state_dict().values():
            if v.is_floating_point(): v.add_(torch.rand_like(v))
    model.provenance = [Patch(j, 3 * j, f"train/{j}", j // 2, (j, 1), (4 * j, 4, 4 * j + 4, 8), 0.1 + 0.2 * j) for j in range(6)]
    return model


@pytest.fixture
def file(model, tmp_path):
    save(model, tmp_path/"model.safetensors")
    return tmp_path/"model.safetensors"


IMAGES = torch.randn(4, 3, 24, 24, generator=torch.Generator().manual_seed(1))


def same(a, b):
    with torch.no_grad(): outs = a(IMAGES), b(IMAGES)
    return all(torch.equal(u, v) for u, v in zip(*outs)) and a.provenance == b.provenance and a.classes == b.classes and a.recipe == b.recipe


def rewritten(file, change):
    "The file again with another config, or other tensors"
    words, tensors = json.loads(header(file)["__metadata__"]["protolab"]), safetensors.torch.load_file(file)
    change(words, tensors)
    safetensors.torch.save_file(tensors, file, {"protolab": json.dumps(words)})
    return file


def header(file):
    data = file.read_bytes()
    return json.loads(data[8:8 + int.from_bytes(data[:8], "little")])


# -- there and back -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("change", [dict(), dict(similarity="linear"), dict(patch=(2, 3)), dict(kind="bottleneck", D=4), dict(per_class=1), dict(backbone="small"),
                                    dict(backbone="lite0")], ids=str)
def test_there_and_back(change, tmp_path):
    torch.manual_seed(3)
    one = protopnet(**{"backbone": "tiny", "classes": ["a", "b"], **change})
    save(one, tmp_path/"m.safetensors")
    assert same(one, load(tmp_path/"m.safetensors"))


def test_statistics_and_papers_are_kept(model, file):
    again = load(file)
    assert same(model, again) and not again.training
    assert torch.equal(again.backbone.adapter[0].running_mean, model.backbone.adapter[0].running_mean)
    assert again.provenance[5] == Patch(5, 15, "train/5", 2, (5, 1), (20, 4, 24, 8), 0.1 + 0.2 * 5)


def test_a_loaded_model_can_be_saved_again(model, file, tmp_path):
    save(load(file), tmp_path/"again.safetensors")
    assert (tmp_path/"again.safetensors").read_bytes() == file.read_bytes()


def test_own_layout_is_kept(tmp_path):
    "A model whose classes have different numbers of prototypes, as after pruning"
    from protolab.model import assemble
    one = assemble(dict(backbone="tiny", D=6, similarity="log", patch=(1, 1), kind="regular"), torch.tensor([1, 0, 1, 1]), ["a", "b"], pretrained=False)
    save(one, tmp_path/"m.safetensors")
    assert load(tmp_path/"m.safetensors").cls.tolist() == [1, 0, 1, 1]


def test_the_distance_is_remembered(tmp_path):
    "A model that expands comes back expanding; a file from before the choice means exact"
    for name in ("exact", "expanded"):
        one = protopnet("tiny", ["a", "b"], per_class=2, D=6, distance=name)
        save(one, tmp_path/"m.safetensors")
        assert load(tmp_path/"m.safetensors").prototypes.distance is DISTANCES[name]
    del one.recipe["distance"]
    save(one, tmp_path/"old.safetensors")
    assert "distance" not in json.loads(header(tmp_path/"old.safetensors")["__metadata__"]["protolab"])["recipe"]
    assert load(tmp_path/"old.safetensors").prototypes.distance is DISTANCES["exact"]


def test_a_distance_of_another_house(tmp_path):
    "A file names its distance; where nobody has added it, the message says how"
    DISTANCES["mine"] = DISTANCES["exact"]
    try: save(protopnet("tiny", ["a", "b"], distance="mine"), tmp_path/"m.safetensors")
    finally: del DISTANCES["mine"]
    with pytest.raises(ValueError, match="no distance is called 'mine'"): load(tmp_path/"m.safetensors")


def test_loading_takes_no_random_number_and_no_net(file, monkeypatch):
    monkeypatch.setattr("socket.socket", None)
    state = torch.get_rng_state()
    load(file)
    assert torch.equal(state, torch.get_rng_state())


def test_the_header_is_plain_json(file):
    words = json.loads(header(file)["__metadata__"]["protolab"])
    assert set(words) == {"format", "version", "recipe", "classes", "provenance"}
    assert words["recipe"] == dict(backbone="tiny", D=6, similarity="log", patch=[1, 1], kind="regular", distance="exact")
    assert words["provenance"][1]["name"] == "train/1"


def test_state_dict_takes_the_papers_along(model):
    other = protopnet("tiny", ["wren", "robin", "finch"], per_class=2, D=6)
    other.load_state_dict(model.state_dict())
    assert same(model, other)


# -- bad files ----------------------------------------------------------------------------------------------------------------

class Bomb:
    "Writes a file when it is unpickled"
    def __init__(self, path): self.path = str(path)
    def __reduce__(self): return Path.write_text, (Path(self.path), "it ran")


def zipped(bomb):
    buffer = io.BytesIO()
    torch.save(bomb, buffer)
    return buffer.getvalue()


def old_torch(bomb):
    buffer = io.BytesIO()
    torch.save(bomb, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


PICKLES = {"torch.save": zipped, "old torch.save": old_torch, **{f"protocol {p}": (lambda bomb, p=p: pickle.dumps(bomb, p)) for p in range(2, 6)}}


@pytest.mark.parametrize("kind", PICKLES)
def test_a_pickle_is_refused_and_does_not_run(kind, tmp_path):
    (tmp_path/"model.pth").write_bytes(PICKLES[kind](Bomb(tmp_path/"ran")))
    with pytest.raises(ValueError, match="is a pickle.*opening it would run the code inside, so it was not opened.*save\\(model, path\\)"): load(tmp_path/"model.pth")
    assert not (tmp_path/"ran").exists()


def test_an_ascii_pickle_is_refused_too(tmp_path):
    (tmp_path/"model.pth").write_bytes(pickle.dumps(Bomb(tmp_path/"ran"), 0))
    with pytest.raises(ValueError, match="no safetensors file"): load(tmp_path/"model.pth")
    assert not (tmp_path/"ran").exists()


def test_cut_at_any_length(file):
    whole = file.read_bytes()
    for length in sorted({*range(0, 64), *range(64, len(whole), 97), len(whole) - 1}):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="copy it again"): load(file)


def test_bytes_at_the_end(file):
    file.write_bytes(file.read_bytes() + b"more")
    with pytest.raises(ValueError, match="its header promises"): load(file)


def test_damaged_headers_never_crash(file):
    "One byte of the header changed, 300 times: the file loads, or a ValueError says why not"
    whole, draw = file.read_bytes(), random.Random(0)
    length = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(300):
        at = draw.randrange(length)
        file.write_bytes(whole[:at] + bytes([draw.randrange(256)]) + whole[at + 1:])
        try: load(file)
        except ValueError as error: assert ": " in str(error)


@pytest.mark.parametrize("data", [b"\xff" * 8 + b"{}", b"\0" * 8, b"\x02" + b"\0" * 7 + b"[]", b"\x02" + b"\0" * 7 + b"{}", b"not a model at all"], ids=str)
def test_nonsense(data, tmp_path):
    (tmp_path/"m.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="no safetensors file|no model of protolab"): load(tmp_path/"m.safetensors")


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="m.safetensors"): load(tmp_path/"m.safetensors")


def test_foreign(tmp_path):
    safetensors.torch.save_file({"encoder.weight": torch.ones(2)}, tmp_path/"m.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="no model of protolab: its header has \\['format'\\], its tensors are \\['encoder.weight'\\]"): load(tmp_path/"m.safetensors")


def test_a_later_format(file):
    rewritten(file, lambda words, tensors: words.update(format=2, version="9.9"))
    with pytest.raises(ValueError, match="written by protolab 9.9 in format 2.*install the later protolab"): load(file)


OTHER = {"another width": (lambda w, t: w["recipe"].update(D=7), "add_on.0.weight: \\(6, 8, 1, 1\\) float32, expected \\(7, 8, 1, 1\\) float32"),
         "another backbone": (lambda w, t: w["recipe"].update(backbone="small"), "another architecture.*and \\d+ more.*backbone 'small'"),
         "a tensor less": (lambda w, t: t.pop("last.weight"), "last.weight: absent, expected \\(3, 6\\)"),
         "a tensor more": (lambda w, t: t.update(extra=torch.ones(1)), "extra: \\(1,\\) float32, expected absent"),
         "half precision": (lambda w, t: t.update({"last.weight": t["last.weight"].half()}), "last.weight: \\(3, 6\\) float16"),
         "no classes of prototypes": (lambda w, t: t.pop("cls"), "is damaged"),
         "one class more": (lambda w, t: w["classes"].append("owl"), "last.weight: \\(3, 6\\) float32, expected \\(4, 6\\)"),
         "papers missing": (lambda w, t: w["provenance"].pop(), "5 papers for 6 prototypes"),
         "a backbone nobody knows": (lambda w, t: w["recipe"].update(backbone="tinny"), "no backbone is called 'tinny'"),
         "a similarity nobody knows": (lambda w, t: w["recipe"].update(similarity="mine"), "no similarity is called 'mine'"),
         "no recipe": (lambda w, t: w.pop("recipe"), "is damaged, its header does not describe a model")}


@pytest.mark.parametrize("kind", OTHER)
def test_another_architecture(kind, file):
    change, words = OTHER[kind]
    with pytest.raises(ValueError, match=words): load(rewritten(file, change))


# -- saving -------------------------------------------------------------------------------------------------------------------

def test_own_similarity(tmp_path, monkeypatch):
    def inverse(d): return 1 / (1 + d)
    with pytest.raises(ValueError, match="a function of your own, and a file holds its name only"): save(protopnet("tiny", ["a", "b"], similarity=inverse), tmp_path/"m")
    monkeypatch.setitem(SIMILARITIES, "inverse", inverse)
    one = protopnet("tiny", ["a", "b"], similarity="inverse")
    save(one, tmp_path/"m")
    assert same(one, load(tmp_path/"m"))


def test_what_cannot_be_loaded_is_not_saved(tmp_path):
    view, changed = tiny_model().after_trunk(), tiny_model()
    changed.last = torch.nn.Linear(6, 3)
    by_hand = tiny_model()
    by_hand = ProtoPNet(by_hand.backbone, by_hand.add_on, by_hand.prototypes, by_hand.cls, by_hand.classes)
    for model, words in (view, "save the whole model"), (changed, "last.bias"), (by_hand, "put together by hand"), (tiny_model().half(), "float16"):
        with pytest.raises(ValueError, match=words): save(model, tmp_path/"m")
    assert not list(tmp_path.iterdir())


def test_full_disk_leaves_the_old_file(model, file, monkeypatch):
    old = file.read_bytes()
    def full(self, data):
        with open(self, "wb") as out: out.write(data[:1000])
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"): save(tiny_model(8), file)
    assert file.read_bytes() == old and [f.name for f in file.parent.iterdir()] == [file.name]


FULL = """
import resource, signal, sys
from protolab.model import save, tiny_model
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))      # the system itself refuses more than 2000 bytes in a file
try: save(tiny_model(8), sys.argv[1])
except OSError as error: print(type(error).__name__, error)
"""


@pytest.mark.skipif(os.name != "posix", reason="limits of this kind exist on POSIX only")
def test_the_system_refuses_to_write(model, file):
    old = file.read_bytes()
    done = subprocess.run([sys.executable, "-c", FULL, str(file)], capture_output=True, text=True)
    assert done.stdout.startswith("OSError"), done.stderr
    assert file.read_bytes() == old and [f.name for f in file.parent.iterdir()] == [file.name]


# -- building -----------------------------------------------------------------------------------------------------------------

def test_channels_that_differ():
    from protolab.backbone import add_on, make_backbone
    with pytest.raises(ValueError, match="the add-on gives 5 channels and the prototypes have 6"):
        ProtoPNet(make_backbone("tiny"), add_on(8, 5), PrototypeLayer(4, 6), paper_layout(4, 2), ["a", "b"])


def test_prototypes_that_are_no_multiple():
    with pytest.raises(ValueError, match="5 prototypes can't be shared equally by 2 classes"): paper_layout(5, 2)


def test_patch_larger_than_the_map():
    with pytest.raises(ValueError, match="does not fit on a map of 6 x 6 cells"): protopnet("tiny", ["a", "b"], patch=(7, 7))(IMAGES)


def test_the_view_shares_everything(model):
    view, features = model.after_trunk(), model.backbone.trunk(IMAGES)
    assert torch.equal(view(features).logits, model(IMAGES).logits)
    shared = {id(p) for p in model.parameters()}
    assert all(id(p) in shared for p in view.parameters())
    view.provenance = []
    assert model.provenance == []
    model.double()
    assert view.prototypes.vectors.dtype == torch.float64 and view.cls is model.cls


def test_half_precision_ends_before_the_distances(model):
    with torch.autocast("cpu", torch.bfloat16): out = model(IMAGES)
    assert {v.dtype for v in (out.logits, out.s, out.d, out.z)} == {torch.float32}
    torch.testing.assert_close(out.s @ model.last.weight.T, out.logits)


def test_tensors_have_no_papers(model): assert "_extra_state" not in tensors_of(model)
