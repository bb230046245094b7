"""Every backbone of the paper, and timm's: cuts, shapes, fields against formulas and gradients, weights without a network, and one walk through
training, projection, explanation and a file"""
import copy
import re
import sys
import time
import urllib.error
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import protolab.backbone as room
from protolab.backbone import IMAGENET, ZOO, Backbone, Geometry, field_box, follow, geometry, ghost, make_backbone, start_, zoo_trunk
from protolab.core import seed_everything
from protolab.explain import local
from protolab.loss import default_loss
from protolab.model import load, protopnet, save
from protolab.project import check_projection, project_
from protolab.train import Stage, fit

models = pytest.importorskip("torchvision").models
CHANNELS = dict(resnet18=512, resnet34=512, resnet50=2048, resnet101=2048, resnet152=2048, densenet121=1024, densenet161=2208, densenet169=1664, densenet201=1920)
VGG_CONVS = dict(vgg11=(1, 1, 2, 2, 2), vgg13=(2, 2, 2, 2, 2), vgg16=(2, 2, 3, 3, 3), vgg19=(2, 2, 4, 4, 4))
BLOCKS = dict(resnet18=(2, 2, 2, 2), resnet34=(3, 4, 6, 3), resnet50=(3, 4, 6, 3), resnet101=(3, 4, 23, 3), resnet152=(3, 8, 36, 3),
              densenet121=(6, 12, 24, 16), densenet161=(6, 12, 36, 24), densenet169=(6, 12, 32, 32), densenet201=(6, 12, 48, 32))


# -- shapes and fields --------------------------------------------------------------------------------------------------------

def field_of(name):
    "From the papers' tables of layers: a 3x3 adds two of the steps at which it works, a 2x2 one"
    if name.startswith("vgg"): return 1 + sum(2 * n * 2**i + 2**i for i, n in enumerate(VGG_CONVS[name.removesuffix("_bn")]))
    stem = 7 + 2 * 2                                                    # 7x7 at step 1, 3x3 pooling at step 2; then a step of 4
    if name.startswith("densenet"): return stem + sum(2 * n * 4 * 2**i for i, n in enumerate(BLOCKS[name])) + sum(4 * 2**i for i in range(3))
    per_block = 1 if int(name[6:]) >= 50 else 2                         # 3x3 convolutions in a block
    all_3x3 = sum(2 * per_block * n * 4 * 2**i for i, n in enumerate(BLOCKS[name]))
    return stem + all_3x3 - sum(2 * 2 * 2**i for i in (1, 2, 3))        # the one that steps works at the step before it


@pytest.mark.parametrize("name,field", [("vgg19", 268), ("resnet34", 899), ("densenet121", 2071), ("vgg16", 212)])
def test_the_formula_knows_the_published_fields(name, field): assert field_of(name) == field


@pytest.mark.parametrize("name", ZOO)
def test_shape_and_field(name):
    trunk, channels = zoo_trunk(name)
    assert channels == CHANNELS.get(name, 512)
    assert ghost(trunk, torch.empty(2, 3, 224, 224, device="meta")).shape == (2, channels, 7, 7)
    start = dict(vgg=15.5, res=0.0, den=14.0)[name[:3]]
    assert geometry(trunk, (224, 224)) == Geometry(32, (start, start), (field_of(name), field_of(name)), (7, 7), (224, 224))


def test_all_are_registered():
    assert set(ZOO) == {"vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn", *CHANNELS} <= set(room.BACKBONES)


def thin(layer):
    "The same window with one channel in and out, all weights positive"
    if isinstance(layer, nn.Conv2d):
        one = nn.Conv2d(1, 1, layer.kernel_size, layer.stride, layer.padding, layer.dilation, bias=False)
        nn.init.constant_(one.weight, 1 / one.weight.numel())
        return one
    if isinstance(layer, nn.MaxPool2d): return nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding)
    return nn.Identity() if isinstance(layer, nn.BatchNorm2d) else layer


def thinned(net):
    for owner in list(net.modules()):
        for name, layer in list(owner.named_children()):
            if not list(layer.children()): setattr(owner, name, thin(layer))
    return net.double().eval()


def positive(net):
    "As it is, with weights that cannot cancel"
    for owner in list(net.modules()):
        if isinstance(owner, nn.Conv2d): nn.init.constant_(owner.weight, 1 / owner.weight[0].numel())
        if isinstance(owner, nn.BatchNorm2d): nn.init.ones_(owner.weight)  # timm's last one of a block starts at 0
        for name, layer in owner.named_children():
            if isinstance(layer, nn.MaxPool2d): setattr(owner, name, thin(layer))
    return net.double().eval()


def seen_by(net, channels, size, cell):
    "(top, left, bottom, right) of the pixels whose gradient is not 0"
    x = torch.full((1, channels, *size), 0.1, dtype=torch.double, requires_grad=True)
    net(x)[0, :, cell[0], cell[1]].sum().backward()
    rows, columns = [(x.grad[0, 0] > 0).any(axis).nonzero() for axis in (1, 0)]
    return rows.min().item(), columns.min().item(), rows.max().item() + 1, columns.max().item() + 1


@pytest.mark.parametrize("name,size", [("resnet18", (500, 513)), ("resnet18", (97, 64)), ("resnet34", (960, 932)), ("resnet50", (480, 471)), ("vgg19", (300, 331))])
def test_fields_are_what_the_gradient_says(name, size):
    g, net = geometry(zoo_trunk(name)[0], size), thinned(start_(zoo_trunk(name)[0], "fan_out"))
    h, w = g.cells
    for cell in ((0, 0), (h // 2, w // 2), (h - 1, 1)): assert field_box(cell, g) == seen_by(net, 1, size, cell)


@pytest.mark.parametrize("size", [(330, 317), (64, 95)])
def test_a_small_densenet_against_its_gradient(size):
    "Two layers a block, so that the field fits into an image"
    net = room.cut_densenet(models.DenseNet(growth_rate=4, block_config=(2, 2, 2, 2), num_init_features=8))[0]
    g = geometry(net, size)
    assert g.field == (11 + 2 * 2 * (4 + 8 + 16 + 32) + 4 + 8 + 16,) * 2
    net = positive(net)
    for cell in ((0, 0), (g.cells[0] // 2, g.cells[1] // 2), (g.cells[0] - 1, 1)): assert field_box(cell, g) == seen_by(net, 3, size, cell)


class Block(nn.Module):
    "A block of a ResNet, with its shortcut made by hand"
    def __init__(self, kernel, shift=0):
        super().__init__()
        self.main = nn.Sequential(nn.Conv2d(3, 2, 3, 2, 1), nn.Conv2d(2, 2, 3, 1, 1))
        self.downsample, self.shift = nn.Conv2d(3, 2, kernel, 2, kernel // 2), shift

    def forward(self, x):
        s = self.shift
        return self.main(x) + self.downsample(F.pad(x, (s, -s, s, -s)))


@pytest.mark.parametrize("kernel,shift,field,start", [(1, 0, 7, 0.0), (9, 0, 9, 0.0), (1, 6, 10, -1.5), (3, -7, 12, 2.5)])
def test_a_shortcut_is_measured_and_not_skipped(kernel, shift, field, start):
    "One that lies inside the main way changes nothing; one that is wider, or looks elsewhere, does. The main way sees -3 to 3"
    net = Block(kernel, shift)
    g = geometry(net, (64, 64))
    assert g == Geometry(2, (start, start), (field, field), (32, 32), (64, 64))
    top, left, bottom, right = seen_by(positive(net), 3, (64, 64), (15, 10))
    assert field_box((15, 10), g) == (top, left, bottom, right)


def test_ways_of_other_steps_and_sizes_are_refused():
    class Broadcast(nn.Module):
        def __init__(self):
            super().__init__()
            self.all = nn.Conv2d(3, 3, 8)

        def forward(self, x): return x * self.all(x)                    # one cell that sees everything, spread over the map
    with pytest.raises(ValueError, match="may carry anything"): follow(Broadcast(), (8, 8))


def stamped(z):
    both = torch.zeros(1, 8, *z.shape[2:], device=z.device)
    both[:, :4].add_(z)                                                 # a view knows its reach, the tensor behind it does not
    return both


@pytest.mark.parametrize("forget", [stamped, lambda z: z * z.mean((2, 3), keepdim=True), lambda z: z + z.flatten(2).softmax(2).view(z.shape), lambda z: z.flip(3),
                                    lambda z: z.roll(1, 2), lambda z: z.transpose(2, 3), lambda z: F.interpolate(z, scale_factor=2), lambda z: z.cumsum(3),
                                    lambda z: torch.cat([z, z], 2), lambda z: F.layer_norm(z, z.shape[1:]), lambda z: F.instance_norm(z), lambda z: F.group_norm(z, 1),
                                    lambda z: F.adaptive_avg_pool2d(z, 4), lambda z: z / z.norm(), lambda z: F.conv_transpose2d(z, torch.ones(4, 1, 2, 2, device=z.device), stride=2)])
def test_what_may_mix_cells_is_refused(forget):
    "Each of these would make a wrong, small field if it were passed over"
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x): return forget(self.conv(x))
    with pytest.raises(ValueError, match="may carry anything"): follow(Net(), (16, 16))


def test_ways_that_step_differently_are_refused():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 3, 4, 4), nn.Conv2d(3, 3, 2, 2)

        def forward(self, x): return self.a(x) + self.b(F.pad(x, (0, -4, 0, -4)))  # 2x2 cells on both ways
    with pytest.raises(ValueError, match="two ways meet that step"): follow(Two(), (8, 8))


def test_a_backbone_that_gives_a_wrong_stride():
    net = Backbone("mine", Block(1), nn.Identity(), 2, IMAGENET)
    with pytest.raises(ValueError, match="mine says that it steps 4 px, and its layers step 2.*stride=2"): geometry(net, (64, 64))
    assert geometry(Backbone("mine", Block(1), nn.Identity(), 2, IMAGENET, stride=2), (64, 64)).field == (7, 7)


def test_a_backbone_is_walked_once_a_size_and_anew_when_it_changed(monkeypatch):
    net = Backbone("mine", nn.Sequential(nn.Conv2d(3, 2, 4, 4)), nn.Identity(), 2, IMAGENET)
    once = geometry(net, (64, 64))
    with monkeypatch.context() as m:
        m.setattr(room, "follow", None)
        net.lean[:] = torch.tensor([1.0, -2.0])
        assert geometry(net, (64, 64)) == once._replace(lean=(1.0, -2.0))
        with pytest.raises(TypeError): geometry(net, (32, 64))
    assert geometry(copy.deepcopy(net), (64, 64)) == geometry(net, (64, 64))
    net.trunk[0] = nn.Conv2d(3, 2, 6, 4, 1)
    assert geometry(net, (64, 64)).field == (6, 6)


# -- weights ------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["vgg11_bn", "resnet18", "densenet121"])
def test_a_random_start_is_a_start(name):
    "Memory that was reserved without being filled would show here"
    for _ in range(2):                                                  # the second one gets the memory that the first gave back
        net = make_backbone(name, pretrained=False)
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                assert layer.num_batches_tracked == 0 and layer.weight.eq(1).all() and layer.bias.eq(0).all()
                assert layer.running_mean.eq(0).all() and layer.running_var.eq(1).all()
            if isinstance(layer, nn.Conv2d):
                fan = layer.weight[0].numel() if name.startswith("densenet") else layer.weight[:, 0].numel()
                assert layer.weight.std().item() == pytest.approx((2 / fan) ** 0.5, rel=0.1) and (layer.bias is None or layer.bias.eq(0).all())
        for t in net.state_dict().values(): t.fill_(7)
        del net


@pytest.fixture
def hub(tmp_path, monkeypatch):
    "torch's cache in a folder of its own, and nobody answers on the network"
    def no(request, timeout): raise urllib.error.URLError(f"no route within {timeout} s")
    monkeypatch.setattr(room, "urlopen", no)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def theirs(name):
    net = models.get_model(name, weights=None).eval()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d): nn.init.uniform_(layer.running_mean), nn.init.uniform_(layer.running_var, 0.5, 2)
    return net


def old_style(name, state):
    "As the files of 2017 are: no num_batches_tracked, and DenseNet's norm.1 and conv.1"
    short = {k: v for k, v in state.items() if "num_batches" not in k and not k.startswith("classifier")}
    return {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", k): v for k, v in short.items()} if name.startswith("densenet") else short


def before_pooling(net, x):
    "What torchvision's own forward gives to its pooling"
    seen = []
    pool = net.avgpool if hasattr(net, "avgpool") else None
    if pool is None: return F.relu(net.features(x))
    pool.register_forward_hook(lambda layer, args, out: seen.append(args[0]))
    net(x)
    return seen[0]


@pytest.mark.parametrize("name", ["vgg11", "vgg13_bn", "resnet18", "resnet50", "densenet121"])
@torch.no_grad()
def test_the_weights_and_the_cut_are_torchvisions(hub, name):
    "Bit for bit, from the file in torch's cache; no network is asked and nothing is said"
    seed_everything(0)
    net = theirs(name)
    torch.save(old_style(name, net.state_dict()), hub / models.get_model_weights(name).IMAGENET1K_V1.url.rsplit("/", 1)[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = make_backbone(name).eval()
    x = torch.randn(1, 3, 70, 64)
    assert torch.equal(ours(x), before_pooling(net, x)) and (ours(x) >= 0).all()


@pytest.mark.parametrize("name,size", [("vgg19_bn", "548 MiB"), ("resnet50", "98 MiB"), ("densenet121", "31 MiB")])
def test_offline_is_quick_and_says_what_is_missing(hub, name, size):
    began = time.perf_counter()
    with pytest.warns(UserWarning, match="RANDOM weights") as told: make_backbone(name)
    assert time.perf_counter() - began < 10 and len(told) == 1 and told[0].filename == __file__
    said = str(told[0].message)
    for part in (name, models.get_model_weights(name).IMAGENET1K_V1.url, size, "no route within 5 s", str(hub), "pretrained=False"): assert part in said


def test_a_damaged_file_is_named(hub):
    file = hub / models.ResNet18_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[1]
    whole = hub / "whole.pth"
    torch.save(dict(a=torch.zeros(1000)), whole)
    for data in (b"", b"<html>not found</html>", whole.read_bytes()[:-500]):
        file.write_bytes(data)
        with pytest.raises(ValueError, match=f"{file.name}.*is damaged.*delete it"): make_backbone("resnet18")


def test_a_pickle_in_the_cache_is_not_run(hub):
    class Bomb:
        def __reduce__(self): return (exec, ("raise SystemExit('the file ran')",))
    torch.save(dict(weight=Bomb()), hub / models.ResNet18_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[1])
    with pytest.raises(ValueError, match="is damaged"): make_backbone("resnet18")


def test_pretrained_false_asks_nobody(hub, monkeypatch):
    monkeypatch.setattr(room, "urlopen", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("resnet18", "densenet121"): make_backbone(name, pretrained=False)


# -- one walk: train, project, explain, save -----------------------------------------------------------------------------------

class Dls:
    "Four images, two classes; the second class is brighter"
    def __init__(self, size):
        y = torch.arange(4) % 2
        x = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0)) + y[:, None, None, None]
        self.train = self.valid = self.project = [(x, y)]


def walked(name, size=64):
    "A model after one joint step and projection; checks all of it on the way"
    seed_everything(0)
    model, dls = protopnet(name, ["dark", "bright"], per_class=1, D=8, pretrained=False), Dls(size)
    first = next(model.backbone.trunk.parameters()).detach().clone()
    fit(model, dls, [Stage("joint", 1, {"backbone": 1e-4, "add_on": 3e-3, "prototypes": 3e-3}, default_loss)])
    assert not torch.equal(first, next(model.backbone.trunk.parameters()))  # the gradient came all the way down
    g = geometry(model.backbone, (size, size))
    patches = project_(model, dls.project, g)
    assert check_projection(model, dls.project) <= 1e-5 and [p.label for p in patches] == [0, 1]
    x = dls.project[0][0][0]
    why = local(model.eval(), x, k=2)
    with torch.no_grad(): logits = model(x[None]).logits[0]
    assert sum(e.contribution for e in why) == pytest.approx(logits.max().item(), rel=1e-4) and why[0].map.shape == (size, size)
    return model, x


def same_after_saving(model, x, path):
    save(model, path)
    again = load(path)
    with torch.no_grad(): assert torch.equal(again(x[None]).logits, model(x[None]).logits)
    assert again.provenance == model.provenance and geometry(again.backbone, (64, 64)) == geometry(model.backbone, (64, 64))


@pytest.mark.parametrize("name", ZOO)
def test_train_project_explain_save(name, tmp_path):
    model, x = walked(name)
    if name in ("vgg11_bn", "resnet18", "densenet121"): same_after_saving(model, x, tmp_path / "model.safetensors")  # one a family; the rest are the same code


# -- timm ---------------------------------------------------------------------------------------------------------------------

try: import timm
except ImportError: timm = None
needs_timm = pytest.mark.skipif(timm is None, reason="timm is not installed: pip install 'protolab[timm]'")


@pytest.fixture
def no_timm(monkeypatch): monkeypatch.setitem(sys.modules, "timm", None)


def test_without_timm(no_timm):
    with pytest.raises(ImportError, match=r"timm:NAME need the package timm.*pip install 'protolab\[timm\]'"): make_backbone("timm:resnet18")


@needs_timm
@pytest.mark.parametrize("name,channels,field", [("test_resnet", 96, 167), ("resnet10t", 512, None), ("mobilenetv2_035", 112, None)])
def test_timm_convolutions_are_walked(name, channels, field):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = make_backbone(f"timm:{name}", pretrained=False).eval()
    g = geometry(net, (224, 224))
    assert (net.channels, net.stride, net.grid, g.cells) == (channels, 32, False, (7, 7)) and field in (None, g.field[0])
    with torch.no_grad(): assert net(torch.zeros(1, 3, 64, 96)).shape == (1, channels, *geometry(net, (64, 96)).cells)


@needs_timm
def test_timms_resnet18_is_torchvisions():
    "Two libraries, one network, one geometry"
    assert geometry(make_backbone("timm:resnet18", pretrained=False), (224, 224)) == geometry(zoo_trunk("resnet18")[0], (224, 224))


@needs_timm
def test_a_timm_field_against_its_gradient():
    net = make_backbone("timm:test_resnet", pretrained=False)
    g = geometry(net, (230, 201))
    net.trunk.net = positive(net.trunk.net)
    for cell in ((0, 0), (3, 3), (7, 1)): assert field_box(cell, g) == seen_by(net.trunk, 3, (230, 201), cell)


BLIND = [("vit_tiny_patch16_224", 192, 16), ("test_vit", 64, 16), ("test_efficientnet", 64, 32), ("seresnet18", 512, 32), ("mobilenetv3_small_050", 288, 32),
         ("convnext_atto", 320, 32), ("efficientformer_l1", 448, 32)]


@needs_timm
@pytest.mark.parametrize("name,channels,stride", BLIND)
def test_timm_networks_that_see_everything_say_so(name, channels, stride):
    "Attention, squeeze-and-excitation, and what the walk does not know: the whole image from every cell"
    with pytest.warns(UserWarning, match=f"each cell of timm:{name} may see the whole image") as told: net = make_backbone(f"timm:{name}", pretrained=False)
    assert told[0].filename == __file__ and net.grid and (net.channels, net.stride) == (channels, stride)
    g = geometry(net, (224, 224))
    n = 224 // stride
    assert g == Geometry(stride, ((stride - 1) / 2,) * 2, (447, 447), (n, n), (224, 224))
    assert {field_box((r, c), g) for r in (0, n // 2, n - 1) for c in (0, n // 2, n - 1)} == {(0, 0, 224, 224)}


@needs_timm
@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet"])
@pytest.mark.filterwarnings("ignore:each cell of timm")
def test_they_do_see_everything(name):
    "The gradient of the corner cell reaches the far corner"
    seed_everything(0)
    net = make_backbone(f"timm:{name}", pretrained=False).double().eval()
    x = torch.randn(1, 3, 160, 160, dtype=torch.double, requires_grad=True)
    net(x)[0, :, 0, 0].square().sum().backward()
    assert x.grad[..., -16:, -16:].abs().max() > 0


@needs_timm
@pytest.mark.filterwarnings("ignore:each cell of timm")
def test_sizes_and_order_of_transformers():
    "Any multiple of a patch; channels come first whatever timm's order is"
    vit = make_backbone("timm:test_vit", pretrained=False).eval()
    with torch.no_grad(): assert geometry(vit, (64, 96)).cells == tuple(vit(torch.zeros(1, 3, 64, 96)).shape[2:]) == (4, 6)
    for call in (lambda: vit(torch.zeros(1, 3, 70, 64)), lambda: geometry(vit, (70, 64))):
        with pytest.raises(ValueError, match="does not take images of 70x64 px.*give images of 160x160 px"): call()
    swin = make_backbone("timm:swin_tiny_patch4_window7_224", pretrained=False).eval()
    with torch.no_grad(): assert swin(torch.zeros(1, 3, 96, 224)).shape == (1, 768, *geometry(swin, (96, 224)).cells) == (1, 768, 3, 7)


@needs_timm
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
@pytest.mark.filterwarnings("ignore:each cell of timm")
def test_timm_train_project_explain_save(name, tmp_path): same_after_saving(*walked(f"timm:{name}"), tmp_path / "model.safetensors")


@needs_timm
@pytest.mark.parametrize("name,hint", [("resnet17", "no model called 'resnet17': did you mean 'resnet18' or"), ("resnet18.zz", "Invalid pretrained tag.*take one of resnet18.a1_in1k"),
                                       ("", "no model called ''")])
def test_unknown_timm(name, hint):
    with pytest.raises(ValueError, match=hint): make_backbone(f"timm:{name}")


@needs_timm
def test_timm_scales_as_it_was_trained():
    assert make_backbone("timm:test_resnet", pretrained=False).stats == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert make_backbone("timm:resnet18", pretrained=False).stats == IMAGENET


@pytest.fixture
def timm_cache(hub, tmp_path, monkeypatch):
    "An empty cache of timm's hub"
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    return tmp_path / "hf"


@needs_timm
def test_timm_offline_is_quick_and_says_what_is_missing(timm_cache):
    began = time.perf_counter()
    with pytest.warns(UserWarning, match="RANDOM weights") as told: make_backbone("timm:test_resnet")
    assert time.perf_counter() - began < 10 and told[0].filename == __file__
    for part in ("timm:test_resnet", "timm/test_resnet.r160_in1k/resolve/main/model.safetensors", "no route within 5 s", str(timm_cache), "pretrained=False"): assert part in str(told[0].message)


@needs_timm
def test_timm_without_weights_says_so():
    with pytest.warns(UserWarning, match="timm:mobilenetv2_035 starts from RANDOM weights: timm has none for it") as told: make_backbone("timm:mobilenetv2_035")
    assert told[0].filename == __file__


@needs_timm
def test_timm_weights_from_the_cache(timm_cache):
    "Laid out as the hub lays it out; no network is asked"
    from safetensors.torch import save_file
    seed_everything(0)
    whole = timm.create_model("test_resnet", pretrained=False)
    folder = timm_cache / "models--timm--test_resnet.r160_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    save_file(whole.state_dict(), folder / "snapshots" / "abc" / "model.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = make_backbone("timm:test_resnet").eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad(): assert torch.equal(net(x), whole.eval().forward_features(x))
