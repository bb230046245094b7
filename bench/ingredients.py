"""Cosine or log, one cell or four: the default recipe with each, on five fresh sets of birds: `make bench-ingredients` (some minutes).

Writes docs/bench-ingredients.md. Nothing was tuned on these seeds; the test images are read once, at the end."""
import argparse
import datetime
import statistics
from pathlib import Path

from layer import machine
from tqdm import tqdm

from protolab.core import atomic_path
from protolab.data import bird_splits
from protolab.ingredients import INGREDIENTS, cook, judged, trunk_maps

PAGE = Path(__file__).parents[1] / "docs" / "bench-ingredients.md"
SEEDS = (801, 802, 803, 804, 805)
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776} # runs -> how many standard errors of the mean hold 95 % (Student's t)


def one_run(seed):
    "The numbers of each way to compare"
    splits = bird_splits(seed, per_class=20, valid=10, test=10)
    maps = trunk_maps(splits)
    return {name: judged(cook(maps, seed + 1000, use), splits) for name, use in INGREDIENTS.items()}


def interval(values):
    "Mean and 95 % interval by Student's t"
    mean = statistics.mean(values)
    half = T95[len(values)] * statistics.stdev(values) / len(values) ** .5 if len(values) in T95 else float("nan")
    return f"{mean:+.2f} ({mean - half:+.2f} to {mean + half:+.2f})"


def effects(run, what):
    "What the cosine changes, over both sizes; what the size changes, over both similarities"
    a, b, c, d = (run[name][what] for name in INGREDIENTS)
    return (b - a + d - c) / 2, (c - a + d - b) / 2


def table(runs):
    "A line a number: its mean for each way to compare, then the two effects"
    made = [f"| | {' | '.join(INGREDIENTS)} | effect of the cosine | effect of 2x2 |", "|---" * (len(INGREDIENTS) + 3) + "|"]
    for what in runs[0]["log, 1x1"]:
        means = [f"{statistics.mean(run[name][what] for run in runs):.2f}" for name in INGREDIENTS]
        made.append(f"| {what} | {' | '.join(means)} | {' | '.join(interval(list(v)) for v in zip(*(effects(run, what) for run in runs)))} |")
    return "\n".join(made)


def text(runs, seeds):
    "The page"
    return f"""# Cosine or log, one cell or four

16 species, 20 training and 10 test images of each, 5 prototypes a species; the default recipe (`protolab.street.frozen`) with each way to compare of the [ingredients](ingredients.ipynb) lesson. All else
is the same, and none of it was tuned for the cosine or for larger patches. {len(runs)} runs, each with birds and a network of its own seed ({', '.join(map(str, seeds))}). Means; effects are paired, with 95 % intervals
(Student's t): an interval that holds 0 shows no effect.

- Command: `make bench-ingredients`, {datetime.date.today()}
- Machine: {machine()}

{table(runs)}

The lines from *consistency* on are those of the [report card](card.ipynb), which names for each what was counted and what had to be chosen; parts above them are read by pointing ([truth](truth.ipynb)), at the centre of a patch.
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    seeds = parser.parse_args().seeds
    runs = [one_run(seed) for seed in tqdm(seeds, desc="runs")]
    print(table(runs))
    if tuple(seeds) == SEEDS:
        with atomic_path(PAGE) as tmp: tmp.write_text(text(runs, seeds), encoding="utf-8")
