"""A black box, a class activation map and ProtoPNet in three forms, on the same images with the same steps: `make bench-compare`.

Writes docs/bench-compare.md (some minutes on two cores). `--small` is the same with few images and steps: it shows that all works, and
says so on the page. Nothing is chosen by looking at the test images; the validation images are not used."""
import argparse
import datetime
import statistics
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from layer import machine
from tqdm import tqdm

from protolab.compare import CONTESTANTS, ON_BIRDS, ON_FASHION, compare_once
from protolab.core import atomic_path
from protolab.data import bird_splits, fashion_splits

PAGE = Path(__file__).parents[1] / "docs" / "bench-compare.md"
SEEDS = (401, 402, 403)


def brief(chances):
    "The same with few epochs"
    return chances._replace(first=2, stage=replace(chances.stage, epochs=2))


def contests(small):
    "name -> (splits of a seed, chances)"
    birds = {"birds, 10 a species": 10} | ({} if small else {"birds, 40 a species": 40})
    fashion = 50 if small else 250
    found = {name: (lambda seed, n=n: bird_splits(seed, per_class=n, valid=1, test=10 if small else 30), ON_BIRDS) for name, n in birds.items()}
    return found | {f"Fashion-MNIST, {fashion} a class": (lambda seed: fashion_splits(per_class=fashion, size=28, seed=seed), brief(ON_FASHION) if small else ON_FASHION)}


def lines(data, runs):
    "A line a contestant: test accuracy, steps, seconds"
    for name in CONTESTANTS:
        mine = [run[name] for run in runs]
        each = [100 * r.accuracy for r in mine]
        spread = f"{statistics.stdev(each):.2f}" if len(each) > 1 else "-"
        yield (f"| {data} | {name} | {statistics.mean(each):.2f} | {spread} | {', '.join(f'{v:.2f}' for v in each)} "
               f"| {mine[0].steps} | {statistics.mean(r.seconds for r in mine):.1f} |")


def text(table, seeds, small, seconds):
    "The page"
    head = "**A small run**, to show that all works: few images, few steps. Do not quote it.\n\n" if small else ""
    return f"""# Black box, class activation map, prototypes

{head}The same backbone, training images and number of steps for each contestant; {len(seeds)} runs a data set ({', '.join(map(str, seeds))}: the seeds of images and networks).
What each of them is, and why the comparison is made like this, is told in the [compare](compare.ipynb) lesson. Birds at 96 px with the pretrained trunk `{ON_BIRDS.backbone}`,
which stays as it is; Fashion-MNIST at 28 px with `{ON_FASHION.backbone}`, from nothing. *Together* are three ProtoPNets with summed logits, which have three times the steps.

- Command: `{'python bench/compare.py --small' if small else 'make bench-compare'}`, {datetime.date.today()}; {seconds:.0f} seconds
- Machine: {machine()}

| data | contestant | test accuracy, mean, % | standard deviation | each run | steps | seconds of training |
|---|---|---|---|---|---|---|
{table}

Standard deviation over the runs, with n - 1. The trunk's one run over the images is not in the seconds.
"""


def main(seeds, small):
    "Run all, print as it goes, write the page"
    start, rows = perf_counter(), []
    for data, (splits_of, chances) in contests(small).items():
        try: runs = [compare_once(splits_of(seed), seed, chances) for seed in tqdm(seeds, desc=data)]
        except FileNotFoundError as error: print(f"{data} is left out: {error}"); continue
        rows += lines(data, runs)
        print("\n".join(rows[-len(CONTESTANTS):]), flush=True)
    with atomic_path(PAGE) as tmp: tmp.write_text(text("\n".join(rows), seeds, small, perf_counter() - start), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--small", action="store_true", help="few images and steps")
    given = parser.parse_args()
    main(given.seeds, given.small)
