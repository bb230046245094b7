"""What the paper's run costs at full size, from the time of a few steps: `python bench/full_size.py` (some minutes a backbone).

Writes docs/full-size.md. Nothing is run at full size: each step is timed, and the hours are computed. Each backbone and each batch is measured
in a fresh process, with a random start (the time of a step does not depend on the weights). On a machine with a GPU the steps run there.
`python bench/full_size.py --backbones vgg16 --print` measures one backbone here and prints its row, without writing the page."""
import argparse
import datetime
import json
import resource
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import torch
from layer import busy, machine
from tqdm.auto import tqdm

from protolab.augment import paper_augment
from protolab.core import atomic_path, default_device, evaluating, seed_everything
from protolab.loss import paper_loss
from protolab.paper import paper_model
from protolab.project import OwnSearch
from protolab.runs import SETS, spoken
from protolab.train import learning, train_step

PAGE = Path(__file__).parents[1]/"docs"/"full-size.md"
BACKBONES = ("vgg16", "resnet34", "densenet121")
PUBLISHED = {"vgg16": 76.1, "vgg19": 78.0, "resnet34": 79.2, "resnet152": 78.0, "densenet121": 80.2, "densenet161": 80.1}
CLASSES, IMAGES, TEST, ALL = 200, 5994, 5794, 11788
VALID = 600                        # a tenth of the training images, 3 of each class
PAPER = SETS["paper"]
SIZE, COPIES, WARM = PAPER["size"], PAPER["copies"], PAPER["warm"]
PUSHES = len(PAPER["pushes"])
JOINT = PAPER["pushes"][-1] + 1 - WARM
ROWS = WARM + JOINT + 3 * PUSHES   # after each, the validation images are looked at
BATCHES = (2, 8)                   # memory at batch 80 is the line through these


# -- measured -----------------------------------------------------------------------------------------------------------------

def timed(job, times):
    "Seconds of the fastest of some calls, after one that does not count"
    def once():
        start = perf_counter()
        job()
        if torch.cuda.is_available(): torch.cuda.synchronize()
        return perf_counter() - start
    once()
    return min(once() for _ in range(times))


def peak(device):
    "The largest number of bytes in use so far"
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def stepping(model, rates, x, y):
    "Seconds of one training step of the parts with a rate"
    optimizer = torch.optim.Adam([dict(params=list(model.get_submodule(part).parameters()), lr=1e-5) for part in rates])
    with learning(model, rates): return timed(lambda: train_step(model, paper_loss, optimizer, x, y), 2)


def measure_one(name, batch):
    "Seconds an image of each kind of step, parameters, and the peak memory of the process"
    seed_everything(0)
    device = default_device()
    model = paper_model(name, [f"class {c}" for c in range(CLASSES)], PAPER["prototypes"], PAPER["D"], pretrained=False).to(device)
    x, y = torch.randn(batch, 3, SIZE, SIZE, device=device), torch.arange(batch, device=device)
    search = OwnSearch(model.prototypes.vectors, model.cls, CLASSES)
    with evaluating(model):
        forward = timed(lambda: model(x), 2)
        project = timed(lambda: search.add(model.features(x), y), 2)
    row = dict(forward=forward, project=project, warm=stepping(model, ("add_on", "prototypes"), x, y), joint=stepping(model, ("backbone", "add_on", "prototypes"), x, y))
    row = {what: seconds / batch for what, seconds in row.items()}
    pictures = torch.randint(256, (batch, 3, SIZE, SIZE), dtype=torch.uint8)
    row["augment"] = timed(lambda: paper_augment(pictures), 3) / batch
    return row | dict(parameters=sum(p.numel() for p in model.parameters()), peak=peak(device), device=device.type)


def in_fresh_process(name, batch):
    done = subprocess.run([sys.executable, __file__, "--one", name, str(batch)], capture_output=True, text=True)
    if done.returncode: raise RuntimeError(f"{name} at batch {batch} could not be measured: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def measured(name, batches):
    "One backbone: times at the larger batch, memory at batch 80 from the line through both"
    small, large = (in_fresh_process(name, n) for n in batches)
    slope = (large["peak"] - small["peak"]) / (batches[1] - batches[0])
    return large | dict(memory=large["peak"] + slope * (80 - batches[1]))


# -- computed -----------------------------------------------------------------------------------------------------------------

def costs(row):
    "Seconds of each part of the run: how often an image goes through, times what it costs"
    n = IMAGES - VALID
    return {"warm": WARM * COPIES * n * (row["warm"] + row["augment"]), "joint": JOINT * COPIES * n * (row["joint"] + row["augment"]),
            "projection, and its proof": PUSHES * n * (row["project"] + row["forward"]), "similarities for the last layer": PUSHES * n * row["forward"],
            "validation": ROWS * VALID * row["forward"], "the one test reading": TEST * row["forward"]}


def gb(n): return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.0f} MB"
def ms(seconds): return f"{1000 * seconds:.0f}" if seconds >= 0.02 else f"{1000 * seconds:.1f}"


def weights(name):
    "What torchvision would fetch, in MB"
    from torchvision.models import get_model_weights
    return f"{get_model_weights(name).IMAGENET1K_V1.meta['_file_size']:.0f} MB"


def time_table(rows):
    lines = ["| backbone | warm step | joint step | forward | projection | augmenting | computed: the whole run | of it joint | published accuracy, % |", "|---|---|---|---|---|---|---|---|---|"]
    for name, row in rows.items():
        parts = costs(row)
        times = " | ".join(ms(row[what]) for what in ("warm", "joint", "forward", "project", "augment"))
        lines.append(f"| {name} | {times} | **{spoken(sum(parts.values()))}** | {parts['joint'] / sum(parts.values()):.0%} | {PUBLISHED.get(name, '')} |")
    return "\n".join(lines)


def space_table(rows):
    lines = ["| backbone | parameters | weights to fetch | memory at batch 80 (computed) | checkpoint, at most (computed) | model and three candidates (computed) |", "|---|---|---|---|---|---|"]
    for name, row in rows.items():
        n = 4 * row["parameters"]
        lines.append(f"| {name} | {row['parameters'] / 1e6:.1f} million | {weights(name)} | {gb(row['memory'])} | {gb(3 * n)} | {gb(4 * n)} |")
    return "\n".join(lines)


def part_table(name, row):
    lines = ["| part | how often an image goes through | computed |", "|---|---|---|"]
    n = IMAGES - VALID
    often = (f"{WARM} epochs x {COPIES} copies x {n:,}", f"{JOINT} epochs x {COPIES} copies x {n:,}", f"{PUSHES} x 2 x {n:,}", f"{PUSHES} x {n:,}", f"{ROWS} rows x {VALID}", f"{TEST:,}")
    return "\n".join([*lines, *(f"| {part} | {count} | {spoken(seconds)} |" for (part, seconds), count in zip(costs(row).items(), often))])


COMMAND = "protolab train --data cub:CUB_200_2011 --recipe paper --backbone vgg16 --out vgg16"


def text(rows, batches):
    first, n = next(iter(rows)), IMAGES - VALID
    device = rows[first]["device"]
    return f"""# A run at full size

This is the command that reproduces the paper's network on CUB-200-2011, what it needs, and how long it takes. **Nothing on this page was run at full size.** The steps were timed, each
alone, and the hours are computed from them; the columns and sentences that are computed say so.

~~~sh
{COMMAND}
~~~

| word | what it does |
|---|---|
| `--data cub:CUB_200_2011` | the folder as it comes from its authors: `images.txt`, `image_class_labels.txt`, `classes.txt`, `train_test_split.txt`, `bounding_boxes.txt`, `parts/`, and `images/` with {ALL:,} photographs. Pictures are cut to their bounding boxes, as in the paper; `--full-images` takes whole photographs |
| `--recipe paper` | {WARM} warm epochs, {JOINT} joint ones, a projection and a last layer after the epochs {', '.join(map(str, PAPER['pushes']))}, counted from 0; {PAPER['prototypes']} prototypes a class, D = {PAPER['D']}, {SIZE} px, batches of 80, each image {COPIES} times an epoch, turned, skewed, sheared and mirrored anew each time |
| `--backbone vgg16` | or `resnet34`, `densenet121`, ...; ImageNet weights are fetched once, by torchvision. Without a network connection the trunk starts from chance, and the run's record says so |
| `--out vgg16` | the run folder. The **same command** goes on after a stop, and shows the run when it is finished |

`--legacy` does as the authors' code does, faults included: it trains on all {IMAGES:,} training images and chooses on the test images. Without it, {VALID} of the training images are kept for validation and choose among the
{PUSHES} candidates, and the test images are read once, at the end. Then:

~~~sh
protolab explain vgg16 wren.jpg robin.jpg     # why? crop the photographs as the training images were cropped
protolab gallery vgg16                        # all {CLASSES * PAPER['prototypes']:,} prototypes
~~~

## Disk and memory

- Pixels: {ALL:,} x 3 x {SIZE} x {SIZE} bytes = {gb(ALL * 3 * SIZE * SIZE)} (computed), decoded once into a cache (`--cache FOLDER` says where), beside the photographs themselves. The cache is mapped into memory and needs no room there of its own; with `--legacy` the training and validation images are joined in memory, {gb(IMAGES * 3 * SIZE * SIZE)} (computed).
- The run folder: the checkpoint is written anew after each epoch (weights and two numbers of Adam's for each), the candidates stay, and so do the up to {CLASSES * PAPER['prototypes']:,} pictures that hold prototypes, as PNG.
- Memory was measured at batches of {batches[0]} and {batches[1]} ({'the process on a CPU' if device == 'cpu' else 'on the GPU'}, joint step) and drawn on in a straight line to 80.

{space_table(rows)}

## Time

- Command: `make bench-full-size`, {datetime.date.today()}
- Machine: {machine()}; device: {device}; {busy()} jobs were running at the start

Milliseconds **an image**, measured at batch {batches[1]}, {CLASSES} classes, {SIZE} px. The whole run is **computed, not run**.

{time_table(rows)}

Where the time goes for {first} (computed):

{part_table(first, rows[first])}

Not in it: reading the photographs once, solving the last layer (on stored similarities, after the passes above), writing the checkpoints. A machine with a CPU alone can do it, but should not: take a GPU.

## Your machine

Measure the steps of one backbone there (on the GPU if there is one), and see the same row:

~~~sh
python bench/full_size.py --backbones vgg16 --batches 20 80 --print
~~~

Or insert your own times, in seconds an image, into

hours = ({WARM} x {COPIES} x {n:,} x (warm + augment) + {JOINT} x {COPIES} x {n:,} x (joint + augment)) / 3600
= {WARM * COPIES * n / 3600:.0f} x (warm + augment) + {JOINT * COPIES * n / 3600:.0f} x (joint + augment)

The rest is less than a hundredth. With a step of 80 images in 0.2 s, augmenting included, that is {spoken((WARM + JOINT) * COPIES * n * 0.2 / 80)} (computed). While it runs, the command itself says after each epoch how much time is left.
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    parser.add_argument("--batches", type=int, nargs=2, default=BATCHES, help="times are taken at the second, memory is the line through both")
    parser.add_argument("--print", action="store_true", dest="only_print", help="print the rows, leave the page as it is")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one: print(json.dumps(measure_one(args.one[0], int(args.one[1]))))
    else:
        rows = {name: measured(name, args.batches) for name in tqdm(args.backbones, desc="backbones")}
        print(time_table(rows), space_table(rows), sep="\n\n")
        if not args.only_print:
            with atomic_path(PAGE) as tmp: tmp.write_text(text(rows, args.batches), encoding="utf-8")
