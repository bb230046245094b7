"""All of Fashion-MNIST with three fresh networks, each beside a plain classifier trained for the same time: `make bench-fashion` (about a quarter of an hour).

Writes docs/bench-fashion.md. The seeds below were not used while anything was tuned, nor were the test images. The recipe chooses nothing by validation
accuracy, so the test images take the place of the validation images, and the history then holds the test accuracy after each stage."""
import argparse
import datetime
from pathlib import Path
from time import perf_counter

from default import count, percent, table
from layer import machine
from tqdm import tqdm

from protolab.core import atomic_path
from protolab.data import flip, fashion_splits, loaders
from protolab.truth import empty_share
from protolab.seeding import plain_accuracy, plain_classifier
from protolab.street import album_of, fashion, new_model, stage_numbers

PAGE = Path(__file__).parents[1] / "docs" / "bench-fashion.md"
SEEDS = (401, 402, 403)


def plain_run(splits, seed, epochs):
    "Seconds and test accuracy of the same backbone as a plain classifier: linear on each channel's largest value, nothing hidden"
    start = perf_counter()
    model, _, _ = new_model("grey28", splits, seed)
    dls = loaders(splits, model.backbone.stats, batch=128, augment=flip)
    head = plain_classifier(model, dls.train, epochs, rate=4e-3, hide=0.0)
    return perf_counter() - start, plain_accuracy(model, head, dls.test)


def on_the_way(history):
    "Test accuracies after each stage, from the history of a run whose validation images are the test images"
    after = {}
    for row in history: after[row["stage"] + " again" * (row["stage"] == "project" and "tied" in after)] = row["accuracy"]
    return {**after, "first drop": after["joint"] - after["project"], "second drop": after["tied"] - after["project again"]}


def one_run(seed):
    "All numbers of one seed"
    start = perf_counter()
    splits = fashion_splits(per_class=None, size=28, seed=seed)
    read = perf_counter() - start
    trained = fashion(splits._replace(valid=splits.test), seed)
    seconds = perf_counter() - start
    epochs = round((seconds - read) / trained.seconds["plain classifier"])      # stage 0 is one pass of the plain classifier
    plain_seconds, plain = plain_run(splits, seed, epochs)
    row = {**stage_numbers(trained), **on_the_way(trained.history), "seconds": seconds, "passes": epochs, "plain": plain, "plain seconds": plain_seconds + read}
    row["cost"] = plain - row["after the last layer"]
    for name, patches in (("cells", trained.model.provenance), ("boxes", album_of(trained).patches)):
        share = empty_share(splits.project, patches)
        row |= {f"empty {name}": share["prototypes"], f"empty {name}, chance": share["chance"]}
    return row


# what, key, format, the worse end, goal as a sentence
LINES = (
    ("whole run, wall, with reading, seconds", "seconds", count, max, "at most 240"),
    ("plain classifier trained for the same time, test, %", "plain", percent, min, ""),
    ("its seconds, with reading", "plain seconds", count, max, ""),
    ("its passes through the images", "passes", count, max, ""),
    ("test accuracy after stage 1, free prototypes, %", "joint", percent, min, ""),
    ("test accuracy after the first projection, %", "project", percent, min, ""),
    ("drop there, points", "first drop", percent, max, ""),
    ("test accuracy after the passes with tied prototypes, %", "tied", percent, min, ""),
    ("test accuracy after the second projection, before stage 3, %", "project again", percent, min, ""),
    ("drop there, points", "second drop", percent, max, ""),
    ("test accuracy after the last layer, %", "after the last layer", percent, min, "at least 91.0"),
    ("plain classifier minus that, points", "cost", percent, max, "at most 0.5"),
    ("prototypes whose cell is empty, %", "empty cells", percent, max, ""),
    ("by chance, %", "empty cells, chance", percent, max, ""),
    ("prototypes whose drawn box is empty, %", "empty boxes", percent, max, ""),
    ("by chance, %", "empty boxes, chance", percent, max, ""),
    ("negative last-layer weights", "negative weights", count, max, ""),
    ("duplicate prototypes", "duplicates", count, max, ""),
)


def text(rows, seeds):
    "The page"
    return f"""# Fashion-MNIST, measured

All 60,000 + 10,000 images of 28 px: 55,000 to train and to project on, 5,000 held out for choices (none is made here), the official 10,000 to test; `protolab.street.fashion`.
{len(rows)} runs with the seeds {', '.join(map(str, seeds))}; none of these seeds was used in tuning, and no test image.

- Command: `make bench-fashion`, {datetime.date.today()}
- Machine: {machine()}

{table(rows, LINES)}

The plain classifier is the same backbone with one linear layer on the largest value of each channel, started from the same seed and trained on the same images, mirrored alike, for as many passes as fit into the time of the whole run.
*Empty*: at most one pixel in sixteen is brighter than a tenth of white; *by chance*: the same for boxes of that size anywhere in images of the same class. What the emptiness means is
told in the [lesson](fashion_mnist.ipynb).
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    seeds = parser.parse_args().seeds
    rows = [one_run(seed) for seed in tqdm(seeds, desc="runs")]
    print(table(rows, LINES))
    if tuple(seeds) == SEEDS:
        with atomic_path(PAGE) as tmp: tmp.write_text(text(rows, seeds), encoding="utf-8")
