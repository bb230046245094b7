"""What the default recipe claims about each part, against what happens: `make bench-interventions` (about four minutes).

Writes docs/bench-interventions.md. Five fresh sets of birds, five fresh networks, 240 test images each. How a claim is read was settled on the
seeds 21 to 25; the seeds below were not used for that."""
import argparse
import datetime
import statistics
from pathlib import Path

import torch
from default import SEEDS, machine
from tqdm import tqdm

from protolab.birds import NAMED
from protolab.core import atomic_path
from protolab.data import bird_splits
from protolab.intervene import falls, spearman, tried_metrics, true_class, try_pieces
from protolab.street import frozen

PAGE = Path(__file__).parents[1] / "docs" / "bench-interventions.md"
IMAGES = 240
GOALS = {"part importance": "at least .85", "part importance, swapped": "at least .75"}

TRIED = """## How a claim is read: what was tried

On the seeds 21 to 24 (240 images a seed for the first three rows, 80 for the others), part importance by hiding / by swapping. The first three rows place a contribution where the prototype's map peaks.

| reading | hidden | swapped |
|---|---|---|
| contributions of the class's own prototypes | .72 | .73 |
| contributions of all prototypes | .77 | .78 |
| the same, above each prototype's median on other species | .79 | .80 |
| fall of the peaks without the part's cells, own prototypes | .77 | .79 |
| **the same, all prototypes (taken)** | .81 | .82 |
| the same, cells counted as touched within 6 pixels instead of 3 | .73 | .77 |

The five parts of these birds matter almost equally to the default recipe, which has about one prototype a part; small errors then change ranks. Means over a species' images rank better.
"""


def by_species(tried, fall):
    "Rank correlation of the parts' means over the images of a species, mean over the species"
    claims = true_class(tried.claims, tried.y)[:, :len(NAMED)]
    means = [torch.stack([rows[tried.y == c].mean(0) for c in tried.y.unique()]) for rows in (claims, fall)]
    return spearman(*means).mean().item()


def one_run(seed):
    "Value and chance of each measure of one run"
    splits = bird_splits(seed)
    tried = try_pieces(frozen(splits, seed + 1000).model, splits.test.subset(torch.arange(IMAGES)), seed)
    row = {m.name: (m.value, m.chance) for m in tried_metrics(tried)}
    none = float("nan")
    row["part importance, means of a species"] = by_species(tried, falls(tried, tried.removed)[:, :len(NAMED)]), none
    row["part importance, swapped, means of a species"] = by_species(tried, falls(tried, tried.swapped)), none
    row["test accuracy of these images"] = (tried.logits.argmax(1) == tried.y).float().mean().item(), none
    return row


def table(rows):
    "Mean, chance, worst and every run of each measure"
    made = ["| | mean | by chance | worst | goal (mean) | each run |", "|---|---|---|---|---|---|"]
    for name in rows[0]:
        values, chances = zip(*(row[name] for row in rows))
        chance = statistics.mean(chances)
        made.append(f"| {name} | {statistics.mean(values):.3f} | {'' if chance != chance else f'{chance:.3f}'} | {min(values):.3f} | {GOALS.get(name, '')} | {', '.join(f'{v:.3f}' for v in values)} |")
    return "\n".join(made)


def text(rows, seeds):
    "The page"
    return f"""# Interventions, measured

What the default recipe (`protolab.street.frozen`) claims about the parts of a bird, against what happens when they are taken away or swapped. {len(rows)} runs, each with birds of
its own seed ({', '.join(map(str, seeds))}) and a network of its own, {IMAGES} test images a run; how a claim is read was settled on the seeds 21 to 25.

- Command: `make bench-interventions`, {datetime.date.today()}
- Machine: {machine()}

{table(rows)}

The [intervene](intervene.ipynb) lesson defines the measures. *Part importance* is the rank correlation of claim and fall over the five parts of an image, mean over the images; *means of a
species* takes the means of the parts over the images of a species first. *By chance*: the maps' cells are shuffled, or random parts are kept or hidden.

{TRIED}"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    seeds = parser.parse_args().seeds
    rows = [one_run(seed) for seed in tqdm(seeds, desc="runs")]
    print(table(rows))
    if tuple(seeds) == SEEDS:
        with atomic_path(PAGE) as tmp: tmp.write_text(text(rows, seeds), encoding="utf-8")
