"""The cures against other classes' prototypes, on five fresh sets of sister species: `make bench-collide` (some minutes).

Writes docs/bench-collide.md. Nothing was tuned on these seeds; the test images are read once, at the end."""
import argparse
import datetime
import statistics
from functools import partial
from pathlib import Path

from layer import machine
from tqdm import tqdm

from protolab.collide import coded_splits, cross_class_of, cured_layers, firings, projected, separated_loss, sister_species
from protolab.core import atomic_path
from protolab.last_layer import stored
from protolab.loss import default_loss
from protolab.metrics import look_at

PAGE = Path(__file__).parents[1] / "docs" / "bench-collide.md"
SEEDS = (701, 702, 703, 704, 705)
LOSSES = {"default loss": default_loss, "separation 0.08": partial(separated_loss, weight=0.08), "separation 0.4": partial(separated_loss, weight=0.4)}
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776} # runs -> how many standard errors of the mean hold 95 % (Student's t)


def one_training(splits, seed, loss):
    "The network, and per layer (share, accuracy, doubtful images, wrong images)"
    trained = projected(splits, seed + 1000, loss)
    (s, y), (st, yt), cls = stored(trained.net, trained.dls.project), stored(trained.net, trained.dls.test), trained.model.cls
    rows = {}
    for name, W in cured_layers(s, y, cls).items():
        wrong = (st @ W.T).argmax(1) != yt
        metric = cross_class_of(st, yt, W, cls)
        rows[name] = dict(share=metric.value, accuracy=100 * (1 - wrong.float().mean().item()), n=metric.n, off=int((W[cls != cls.unique()[:, None]] != 0).sum()))
    return trained, rows


def explained(trained, splits, codes):
    "Firings on other species by prototypes on a part, and the share that a shared variant explains"
    found = [f for f in firings(trained.model, look_at(trained.model, splits.test), splits.project, codes) if f.part not in ("none", "background")]
    return dict(firings=len(found), explained=100 * sum(f.shared for f in found) / len(found))


def one_run(seed):
    "All trainings and layers of one seed"
    codes = sister_species()
    splits = coded_splits(codes, seed)
    rows = {}
    for name, loss in LOSSES.items():
        trained, layers = one_training(splits, seed, loss)
        rows |= {(name, layer): row for layer, row in layers.items()}
        if loss is default_loss: rows["firings"] = explained(trained, splits, codes)
    return rows


def interval(values, digits):
    "Mean and 95 % interval by Student's t"
    half = T95[len(values)] * statistics.stdev(values) / len(values) ** .5 if len(values) in T95 else float("nan")
    mean = statistics.mean(values)
    return f"{mean:.{digits}f} ({mean - half:.{digits}f} to {mean + half:.{digits}f})"


def table(runs):
    "A line a cure: share, its change, accuracy, its change"
    keys = [key for key in runs[0] if key[0] == "default loss"]
    free = keys[0]
    keys += [(loss, free[1]) for loss in list(LOSSES)[1:]]
    made = ["| loss | last layer | share of other classes | change of the share | accuracy, % | change, points | off-class weights that are not 0, of 1200 |", "|---|---|---|---|---|---|---|"]
    for key in keys:
        share, accuracy = ([run[key][what] for run in runs] for what in ("share", "accuracy"))
        before = {what: [run[free][what] for run in runs] for what in ("share", "accuracy")}
        moved = ["", ""] if key == free else [interval([a - b for a, b in zip(now, before[what])], digits) for now, what, digits in ((share, "share", 2), (accuracy, "accuracy", 1))]
        off = statistics.mean(run[key]["off"] for run in runs)
        made.append(f"| {key[0]} | {key[1]} | {interval(share, 2)} | {moved[0]} | {interval(accuracy, 1)} | {moved[1]} | {off:.0f} |")
    return "\n".join(made)


def text(runs, seeds):
    "The page"
    firing = [run["firings"] for run in runs]
    return f"""# Other classes' prototypes, and the cures

Eight species with a sister each that differs in one part; 10 training and 12 test images of each, 5 prototypes a species, the default recipe up to the projection, then the last layer as
named. {len(runs)} runs with birds and networks of their own seeds ({', '.join(map(str, seeds))}). The share is that of the [collide](collide.ipynb) lesson: of all that speaks for the winner against the
runner-up, what comes from prototypes of other classes, over the test images that are wrong or among the tenth with the smallest margins. Means over the runs with 95 % intervals (Student's t); changes are
paired with the first line.

- Command: `make bench-collide`, {datetime.date.today()}
- Machine: {machine()}

{table(runs)}

In these networks, prototypes that show a part fire on {statistics.mean(f['firings'] for f in firing):.0f} other species in all (mean of the runs), and a variant that both species wear explains {interval([f['explained'] for f in firing], 1)} % of that; of random
pairs of species and parts it would be 24 %.
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    seeds = parser.parse_args().seeds
    runs = [one_run(seed) for seed in tqdm(seeds, desc="runs")]
    print(table(runs))
    if tuple(seeds) == SEEDS:
        with atomic_path(PAGE) as tmp: tmp.write_text(text(runs, seeds), encoding="utf-8")
