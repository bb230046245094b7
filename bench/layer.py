"""The prototype layer at the paper's sizes, beside one matrix product of the same size: `make bench-layer` (about two minutes).

Writes docs/bench-layer.md. Times are taken in turn in one process, so that whatever else the machine does falls on all of them;
what counts is their ratio. Peak memory is taken in a fresh process for each row."""
import argparse
import datetime
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from protolab.core import atomic_path
from protolab.project import OwnSearch
from protolab.prototypes import log_similarity, min_distances, patch_rows

B, P, D, C = 80, 2000, 128, 200
PAGE = Path(__file__).parents[1]/"docs"/"bench-layer.md"


def inputs(side, images=B):
    "z (images,D,side,side) and p (P,D,1,1) as they start, both with gradients, and a gradient g (images,P) of the distances"
    torch.manual_seed(0)
    z, p = torch.rand(images, D, side, side), torch.rand(P, D, 1, 1)
    return z.requires_grad_(), p.requires_grad_(), torch.rand(images, P)


def plain(z, p):
    "The reference's formulation, written anew: convolutions, one with P filters of ones, all maps in memory, then the minimum"
    z2 = F.conv2d(z * z, torch.ones_like(p))
    p2 = (p * p).sum((1, 2, 3)).view(-1, 1, 1)
    d = F.relu(z2 + (p2 - 2 * F.conv2d(z, p)))
    return -F.max_pool2d(-d, d.shape[2:]).flatten(1)


def fused(z, p): return min_distances(z, p)[0]


LAYERS = {"fused": fused, "plain": plain}


def forward_backward(layer, z, p, g): torch.autograd.grad(layer(z, p), (z, p), g)


def seconds(f, *args):
    start = perf_counter()
    f(*args)
    return perf_counter() - start


def in_turn(side, repeats):
    "One row a repeat: seconds of the matrix product, of the fused layer and of the plain one, each right after the other"
    z, p, g = inputs(side)
    X, columns = patch_rows(z.detach()).flatten(0, 1), p.detach().flatten(1).T
    room = torch.empty(len(X), P)
    jobs = [lambda: torch.mm(X, columns, out=room), *(lambda f=f: forward_backward(f, z, p, g) for f in LAYERS.values())]
    for job in jobs: job()
    return [[seconds(job) for job in jobs] for _ in tqdm(range(repeats), desc=f"{side}x{side}")]


def status(key):
    "A figure of /proc/self/status, in bytes"
    line = next(line for line in open("/proc/self/status") if line.startswith(key + ":"))
    return int(line.split()[1]) * 1024


def own_peak(name, side):
    "Bytes that one forward and backward adds at its highest to what the process holds before, inputs included in before"
    forward_backward(LAYERS[name], *inputs(2, images=2))
    args = inputs(side)
    Path("/proc/self/clear_refs").write_text("5")   # the kernel forgets the highest resident size so far
    before = status("VmRSS")
    forward_backward(LAYERS[name], *args)
    return status("VmHWM") - before


def peak(name, side):
    "MB, measured in a fresh process; None where the system has no /proc"
    if not os.access("/proc/self/clear_refs", os.W_OK): return None
    command = [sys.executable, __file__, "--peak", name, str(side)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1e6


def self_similarity(layer):
    "Similarity of 2000 prototypes with the very patch they were copied from: (smallest, largest); the true value is ln 10000"
    torch.manual_seed(0)
    z = torch.rand(B, D, 7, 7)
    p = patch_rows(z).flatten(0, 1)[:P, :, None, None]
    s = log_similarity(layer(z, p).amin(0))
    return s.min().item(), s.max().item()


def bench_projection(repeats):
    "Milliseconds an image of projection's own work: 400 latent maps of 7x7, two of each class, against 2000 prototypes"
    z, p, _ = inputs(7, images=400)
    z, p, y, cls = z.detach(), p.detach(), torch.arange(400) // 2, torch.arange(P) // (P // C)

    def search():
        found = OwnSearch(p, cls, C)
        for images, labels in zip(z.split(B), y.split(B)): found.add(images, labels)

    search()
    return [seconds(search) / len(z) * 1e3 for _ in tqdm(range(repeats), desc="projection")]


def machine():
    "Processor, system and versions, in words"
    names = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")] if os.path.exists("/proc/cpuinfo") else []
    return (f"{(names or [platform.processor() or platform.machine()])[0]}, {os.cpu_count()} cores, {torch.get_num_threads()} used; {platform.system()}, "
            f"Python {platform.python_version()}, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}")


def busy():
    "How many jobs the machine ran in the last minute, on average"
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "an unknown number of"


def middle(values): return statistics.median(values)


def spread(values):
    low, _, high = statistics.quantiles(values, n=4)
    return f"{middle(values):.2f} ({low:.2f} to {high:.2f})"


def row(side, name, times, product, mb):
    "One markdown row: medians and best times, and both as a ratio to those of the matrix product"
    ratio = spread([t / one for t, one in zip(times, product)])
    memory = "not measured" if mb is None else f"{mb:.0f}"
    return f"| {side}x{side} | {name} | {middle(times) * 1e3:.1f} | {min(times) * 1e3:.1f} | {ratio} | {min(times) / min(product):.2f} | {memory} |"


def layer_rows(repeats):
    "Markdown rows of the time and memory table"
    for side in (7, 14):
        product, *others = zip(*in_turn(side, repeats))
        yield f"| {side}x{side} | one matrix product | {middle(product) * 1e3:.1f} | {min(product) * 1e3:.1f} | 1 | 1 | |"
        for name, times in zip(LAYERS, others): yield row(side, f"{name}, forward + backward", times, product, peak(name, side))


TEXT = """# The prototype layer, measured

Batch {B}, {P} prototypes of {D} channels, 1x1 cells, on maps of 7x7 and 14x14 cells; gradients for the latent map and for the prototypes.

- Command: `{command}`, {date}
- Machine: {machine}

| map | what | ms, median | ms, best | matrix products, median (quartiles) | matrix products, best by best | peak memory, MB |
|---|---|---|---|---|---|---|
{rows}

*One matrix product*: X (B h w, D) times the transposed prototypes (D, P), float32, into memory that is already there. *Fused* is `protolab.prototypes.min_distances`.
*Plain* is the formulation of the paper's code, written anew in `bench/layer.py`: a convolution with ones, a convolution with the
prototypes, all maps in memory, then the minimum. The three are timed one after the other, {repeats} times. The median ratio is taken within each round;
the ratio of the best times tells what a machine without other work would show (here {load} jobs were running at the start). Peak memory
is the highest resident size during one forward and backward pass, less the resident size just before it (with the inputs), in a fresh process.

Goals: at most 2 matrix products; at most 70 MB.

## Digits

Similarity of a prototype with the patch that it is a copy of, over {P} prototypes; the true value is ln 10000 = 9.21034.

| | smallest | largest |
|---|---|---|
{digits}

Goal: exact to 0.00001.

## Projection

Own work of projection, without the backbone: {projection} ms an image (median and quartiles of {repeats}) at {P} prototypes of {C} classes and 7x7 cells. Goal: at most 0.1 ms.
"""


def page(repeats):
    digits = ["| {} | {:.5f} | {:.5f} |".format(name, *self_similarity(f)) for name, f in LAYERS.items()]
    return TEXT.format(B=B, P=P, D=D, C=C, repeats=repeats, command="make bench-layer", date=datetime.date.today(), machine=machine(), load=busy(),
                       rows="\n".join(layer_rows(repeats)), digits="\n".join(digits), projection=spread(bench_projection(repeats)))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=21, help="rounds; the medians are reported (default 21)")
    parser.add_argument("--threads", type=int, default=1, help="threads that torch may use (default 1)")
    parser.add_argument("--peak", nargs=2, metavar=("LAYER", "SIDE"), help="print the peak memory of one layer, in bytes, and stop")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak: return print(own_peak(args.peak[0], int(args.peak[1])))
    text = page(args.repeats)
    with atomic_path(PAGE) as tmp: tmp.write_text(text)
    print(text)


if __name__ == "__main__": main()
