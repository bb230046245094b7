"""The default recipe on five fresh sets of birds with five fresh networks: `make bench-default` (about two minutes).

Writes docs/bench-default.md. The seeds below were not used while anything was tuned. The recipe chooses nothing by validation accuracy,
so the test images take the place of the validation images, and the history then holds the test accuracy after each stage."""
import argparse
import datetime
import statistics
from pathlib import Path
from time import perf_counter

from layer import machine
from tqdm import tqdm

from protolab.core import atomic_path
from protolab.data import bird_splits
from protolab.truth import pointed_part, random_baseline, window_part
from protolab.street import frozen, part_numbers, stage_numbers

PAGE = Path(__file__).parents[1] / "docs" / "bench-default.md"
SEEDS = (301, 302, 303, 304, 305)
READINGS = {"pointing": pointed_part, "window": window_part}


def one_run(seed):
    "All numbers of one run, and what random cells of its images show"
    start = perf_counter()
    splits = bird_splits(seed)
    trained = frozen(splits._replace(valid=splits.test), seed + 1000)
    row = {"seconds": perf_counter() - start, **stage_numbers(trained)}
    for name, score in part_numbers(trained).items():
        row |= {f"{name}, {field}": getattr(score, field) for field in ("pure", "background", "distinct")}
        row[f"{name}, chance"] = random_baseline(splits.project, trained.geometry, READINGS[name])["background"]
    return row


def percent(x): return f"{100 * x:.2f}"
def count(x): return f"{x:.1f}".removesuffix(".0")
def two(x): return f"{x:.2f}"


# what, key, format, the worse end, goal as a sentence
LINES = (
    ("three stages, wall, with drawing, seconds", "seconds", count, max, "at most 20"),
    ("plain classifier, test, %", "plain classifier", percent, min, ""),
    ("test accuracy after stage 1, %", "after stage 1", percent, min, ""),
    ("test accuracy after projection, before stage 3, %", "after projection", percent, min, "at least 99.5"),
    ("drop at projection, points", "drop at projection", percent, max, "at most 0.3"),
    ("test accuracy after the last layer, %", "after the last layer", percent, min, ""),
    ("prototypes that show one named part in 9 of 10 nearest patches: pointing, %", "pointing, pure", percent, min, "at least 97"),
    ("the same: window, %", "window, pure", percent, min, "at least 85"),
    ("prototypes on background or perch, of 80: pointing", "pointing, background", count, max, "0"),
    ("the same: window", "window, background", count, max, "at most 5"),
    ("distinct parts a class, of 5: pointing", "pointing, distinct", two, min, "at least 4.7"),
    ("the same: window", "window, distinct", two, min, "at least 4"),
    ("negative last-layer weights, of 1200", "negative weights", count, max, "at most 20"),
    ("duplicate prototypes, of 80", "duplicates", count, max, ""),
    ("random cells on background: pointing, %", "pointing, chance", percent, max, ""),
    ("random cells on background: window, %", "window, chance", percent, max, ""),
)


def table(rows, lines):
    "Mean, worst and every run of each line"
    made = ["| | mean | worst | goal (mean) | each run |", "|---|---|---|---|---|"]
    for what, key, text, worse, goal in lines:
        values = [row[key] for row in rows]
        made.append(f"| {what} | {text(statistics.mean(values))} | {text(worse(values))} | {goal} | {', '.join(text(v) for v in values)} |")
    return "\n".join(made)


def text(rows, seeds):
    "The page"
    return f"""# The default recipe, measured

16 species, 40 training images of 96 px each, 5 prototypes a species; `protolab.street.frozen`. {len(rows)} runs, each with birds of its own seed
({', '.join(map(str, seeds))}) and a network of its own; none of these seeds was used in tuning. 480 test images a run.

- Command: `make bench-default`, {datetime.date.today()}
- Machine: {machine()}

{table(rows, LINES)}

How a prototype's part is read (pointing, window) is told in the [truth](truth.ipynb) lesson; both readings were fixed before tuning. *On background* and *distinct parts* speak of the
patch that a prototype became, *9 of 10* of its ten nearest training images, one patch an image. A prototype that sits anywhere would be on background as often as the last two lines say.
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    seeds = parser.parse_args().seeds
    rows = [one_run(seed) for seed in tqdm(seeds, desc="runs")]
    print(table(rows, LINES))
    if tuple(seeds) == SEEDS:
        with atomic_path(PAGE) as tmp: tmp.write_text(text(rows, seeds), encoding="utf-8")
