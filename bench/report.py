"""The report card of the default recipe on five fresh sets of birds with five fresh networks: `make bench-report` (about three minutes).

Writes docs/bench-report.md. The seeds are those of bench/default.py, which were not used while anything was tuned; the limits of the card's
words were written down before the first run. The test images are read once, by the card."""
import argparse
import datetime
import statistics
from math import isfinite
from pathlib import Path
from time import perf_counter, process_time

import torch
from layer import machine
from tqdm import tqdm

from protolab.card import number, report
from protolab.core import atomic_path
from protolab.data import bird_splits
from protolab.street import frozen

PAGE = Path(__file__).parents[1] / "docs" / "bench-report.md"
SEEDS = (301, 302, 303, 304, 305)


def one_run(seed):
    "The card of one run, and the seconds that it took, by the clock and of processor"
    splits = bird_splits(seed)
    model = frozen(splits, seed + 1000).model
    start, used = perf_counter(), process_time()
    return report(model, splits, seed=seed, title=f"The default recipe, seed {seed}"), (perf_counter() - start, process_time() - used)


def row(lines):
    "One measure over the runs: mean, the worst run with its interval, baseline"
    first, values = lines[0], [m.value for m in lines]
    worst = (min if first.better == "high" else max)(lines, key=lambda m: m.value)
    better = {"high": "more", "low": "less"}.get(first.better, "")
    chance = number(statistics.mean(m.chance for m in lines)) if isfinite(first.chance) else ""
    return (f"| {first.name} | {number(statistics.mean(values))} | {number(worst.value)} | {number(worst.low)} to {number(worst.high)} | {chance} | {better} | "
            f"{first.n} {first.of} | {', '.join(map(number, values))} |")


def table(cards):
    "A row a measure"
    head = ["| | mean | worst | interval of the worst | by chance | better | n a run | each run |", "|---|---|---|---|---|---|---|---|"]
    return "\n".join([*head, *(row(lines) for lines in zip(*(card.metrics for card in cards)))])


def choices(card):
    "What had to be chosen, a line a measure"
    return "\n".join(f"- {m.name}: {'; '.join(filter(None, (m.choice, m.source)))}" for m in card.metrics if m.choice or m.source)


def words(cards):
    "What the cards say not to trust, with the number of runs that say it"
    said = [sentence.partition(":")[0] for card in cards for sentence in card.words]
    return "\n".join(f"- {one} ({said.count(one)} of {len(cards)} runs)" for one in dict.fromkeys(said)) or "No card has a word against its network."


def text(cards, seconds, seeds):
    "The page"
    clock, used = zip(*seconds)
    missing = "\n".join(f"- {what}: {why}" for what, why in cards[0].missing.items())
    return f"""# The report card of the default recipe

16 species, 40 training images of 96 px each, 5 prototypes a species; `protolab.street.frozen`, then `protolab.card.report` on 480 test images. {len(cards)} runs, each with
birds of its own seed ({', '.join(map(str, seeds))}) and a network of its own; none of these seeds was used in tuning. Intervals are 95 % bootstrap intervals within a run; *by chance* is what places chosen at random
get on the same images, mean over the runs. What each number means is told in the [card](card.ipynb) lesson.

- Command: `make bench-report`, {datetime.date.today()}
- Machine: {machine()}

{table(cards)}

The card alone took {number(statistics.mean(used))} seconds of processor time with {torch.get_num_threads()} thread(s), {number(statistics.mean(clock))} by the clock (mean; {number(max(clock))} in the slowest run).

## What not to trust the default recipe for

{words(cards)}

## What was chosen

{choices(cards[0])}
{f'''
## What was not measured

{missing}
''' if missing else ''}"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    seeds = parser.parse_args().seeds
    cards, seconds = zip(*(one_run(seed) for seed in tqdm(seeds, desc="runs")))
    print(table(cards), words(cards), sep="\n\n")
    if tuple(seeds) == SEEDS:
        with atomic_path(PAGE) as tmp: tmp.write_text(text(cards, seconds, seeds), encoding="utf-8")
