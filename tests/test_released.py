"Weights of the released code: its names, its networks built again from torchvision's, and what is refused"
import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from protolab.backbone import BACKBONES
from protolab.legacy import load_released, our_name, read_released
from protolab.model import load, save

torchvision = pytest.importorskip("torchvision")
CLASSES = ["wren", "robin"]


def released(name, P=4, D=5, patch=(1, 1), kind="regular", seed=0):
    "(state dict with the released code's names, its features as a function); the backbone is torchvision's own"
    torch.manual_seed(seed)
    net = torchvision.models.get_model(name, weights=None).eval()
    kept = {n: t for n, t in net.state_dict().items() if not n.startswith(("classifier.", "fc."))}
    state = {f"features.{n}": t for n, t in kept.items()}                               # "features.features.0.weight", "features.conv1.weight"
    channels = {"vgg": 512, "res": 512, "den": 1024}[name[:3]]
    widths = [channels]
    while widths[-1] > D: widths += [D if kind == "regular" else max(D, widths[-1] // 2)] * 2
    for i, (a, b) in enumerate(zip(widths, widths[1:])):
        state |= {f"add_on_layers.{2 * i}.weight": torch.randn(b, a, 1, 1) / a ** 0.5, f"add_on_layers.{2 * i}.bias": torch.randn(b)}
    state |= {"prototype_vectors": torch.rand(P, D, *patch), "ones": torch.ones(P, D, *patch), "last_layer.weight": torch.randn(len(CLASSES), P)}
    def features(x):
        if name.startswith("res"):
            for part in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"): x = getattr(net, part)(x)
            return x
        return net.features(x) if name.startswith("vgg") else F.relu(net.features(x))
    return state, features


def logits(state, features, x):
    "The released code's forward pass in its own words, in float32"
    z, n = features(x), 0
    while f"add_on_layers.{2 * n}.weight" in state:
        z, n = F.conv2d(z, state[f"add_on_layers.{2 * n}.weight"], state[f"add_on_layers.{2 * n}.bias"]), n + 1
        z = F.relu(z) if f"add_on_layers.{2 * n}.weight" in state else torch.sigmoid(z)
    p = state["prototype_vectors"]
    d = F.relu(F.conv2d(z ** 2, state["ones"]) - 2 * F.conv2d(z, p) + (p ** 2).sum((1, 2, 3)).view(-1, 1, 1)).flatten(2).min(2).values
    return torch.log((d + 1) / (d + 1e-4)) @ state["last_layer.weight"].T


@pytest.mark.parametrize("name", ["vgg16", "vgg11_bn", "resnet18", "densenet121"])
@pytest.mark.parametrize("kind,patch,legacy", [("regular", (1, 1), True), ("bottleneck", (2, 1), False)])
def test_logits_of_a_released_network(name, kind, patch, legacy, tmp_path):
    if name not in BACKBONES: pytest.skip(f"{name} is not in the registry")
    state, features = released(name, kind=kind, patch=patch)
    torch.save(state, tmp_path/"state.pth")
    random = torch.get_rng_state()
    model = load_released(tmp_path/"state.pth", name, CLASSES, legacy=legacy)
    assert torch.equal(random, torch.get_rng_state())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad(): torch.testing.assert_close(model(x).logits, logits(state, features, x), rtol=1e-4, atol=1e-4)
    assert model.cls.tolist() == [0, 0, 1, 1] and not model.training and model.recipe["kind"] == kind and model.recipe["distance"] == ("expanded" if legacy else "exact")
    save(model, tmp_path/"ours.safetensors")
    assert torch.equal(load(tmp_path/"ours.safetensors")(x).logits, model(x).logits)


@pytest.fixture(scope="module")
def state(): return released("vgg16")[0]


def test_a_pruned_network_needs_its_classes(state, tmp_path):
    pruned = state | {"prototype_vectors": torch.rand(3, 5, 1, 1), "ones": torch.ones(3, 5, 1, 1), "last_layer.weight": torch.randn(2, 3)}
    torch.save(pruned, tmp_path/"s.pth")
    with pytest.raises(ValueError, match="say yourself which class each belongs to"): load_released(tmp_path/"s.pth", "vgg16", CLASSES)
    assert load_released(tmp_path/"s.pth", "vgg16", CLASSES, cls=torch.tensor([0, 1, 1])).cls.tolist() == [0, 1, 1]


@pytest.mark.parametrize("change,said", [
    (lambda s: {n: t for n, t in s.items() if n != "features.features.28.bias"}, r"backbone.trunk.28.bias: absent, expected \(512,\) float32"),
    (lambda s: s | {"features.features.99.weight": torch.ones(1)}, r"backbone.trunk.99.weight: \(1,\) float32, expected absent"),
    (lambda s: s | {"last_layer.weight": torch.ones(3, 4)}, r"last.weight: \(3, 4\) float32, expected \(2, 4\) float32"),
    (lambda s: s | {"last_layer.bias": torch.ones(2)}, "last.bias"),
    (lambda s: {f"module.{n}": t for n, t in s.items()}, "no prototype_vectors")])
def test_what_does_not_fit_is_listed(state, change, said, tmp_path):
    torch.save(change(state), tmp_path/"s.pth")
    with pytest.raises(ValueError, match=said): load_released(tmp_path/"s.pth", "vgg16", CLASSES)


class Surprise:
    ran = []
    def __reduce__(self): return Surprise.ran.append, ("opened",)


@pytest.mark.parametrize("make", [lambda: torch.nn.Linear(2, 2), Surprise, lambda: {"prototype_vectors": torch.ones(1), "more": Surprise()}])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_module_is_refused(make, zipped, tmp_path):
    "Nothing of it runs, in the new archive and in the old format of the released files; the lines to run elsewhere are in the message"
    Surprise.ran.clear()
    path = tmp_path/"10_18push0.7822.pth"
    torch.save(make(), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="opening a pickled object runs its code") as refused: read_released(path)
    assert Surprise.ran == []
    told = str(refused.value)
    assert f"torch.load({str(path)!r}" in told and f"torch.save(model.state_dict(), {str(tmp_path/'10_18push0.7822.state.pth')!r})" in told


def test_the_lines_in_the_message_work(tmp_path):
    "Run as they stand, where the classes of the pickle are at hand, they write a state dict that can be read"
    class Small(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.prototype_vectors = torch.nn.Parameter(torch.rand(2, 3, 1, 1))
    globals()["Small"] = Small; Small.__qualname__ = "Small"
    path = tmp_path/"model.pth"
    torch.save(Small(), path)
    with pytest.raises(ValueError) as refused: read_released(path)
    lines = [line.strip() for line in str(refused.value).splitlines() if line.startswith("    ")]
    assert len(lines) == 3
    exec("\n".join(lines).replace('map_location="cpu")', 'map_location="cpu", weights_only=False)'), {})
    assert list(read_released(path.with_suffix(".state.pth"))) == ["prototype_vectors"]


@pytest.mark.parametrize("data", [b"", b"no pickle at all", b"PK\x03\x04 torn", *(pickle.dumps({"prototype_vectors": 1}, 2)[:n] for n in range(1, 30, 4))])
def test_other_files_are_refused_in_words(data, tmp_path):
    Path(tmp_path/"f.pth").write_bytes(data)
    with pytest.raises(ValueError, match="is no file of torch.save"): read_released(tmp_path/"f.pth")


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError): read_released(tmp_path/"f.pth")


def test_other_contents_are_refused_in_words(tmp_path):
    torch.save(torch.ones(3), tmp_path/"t.pth")
    with pytest.raises(ValueError, match="holds Tensor, and no prototype_vectors"): read_released(tmp_path/"t.pth")


def test_names():
    assert our_name("features.features.denseblock1.denselayer1.norm1.weight") == "backbone.trunk.denseblock1.denselayer1.norm1.weight"
    assert our_name("features.layer1.0.downsample.0.weight") == "backbone.trunk.layer1.0.downsample.0.weight"
    assert our_name("add_on_layers.2.bias") == "add_on.2.bias" and our_name("ones") == "ones"
