"""Cures for prototypes that are all the same, each alone and together, on five fresh sets of birds: `make bench-diverse` (about four minutes).

Writes docs/bench-diverse.md. The same seeds as bench/default.py; none of them was used while anything was tuned. A seed's runs share the
features and the plain classifier. The test images take the place of the validation images, as in bench/default.py: nothing is chosen by them."""
import argparse
import datetime
from copy import deepcopy
from statistics import mean

from default import SEEDS, count, percent, two
from layer import machine
from pathlib import Path
from tqdm import tqdm

from protolab.core import atomic_path, seed_everything
from protolab.data import bird_splits
from protolab.diverse import Seated, diverse_loss, near_unique_share, refined_places, unique_share
from protolab.last_layer import LastLayer
from protolab.project import Projection, nearest
from protolab.seeding import evidence_start, plain_classifier, vocabulary_start
from protolab.street import WARM, new_model, on_maps
from protolab.train import Stage, fit
from protolab.truth import part_score, parts_at, pointed_part, shown_parts, window_part

PAGE = Path(__file__).parents[1] / "docs" / "bench-diverse.md"
SPACED = Stage("warm", 10, WARM.rates, diverse_loss)

# name -> start, stage 1, projection
RECIPES = {
    "no cure: evidence start": (evidence_start, WARM, Projection),
    "words that cover the parts (the default recipe)": (vocabulary_start, WARM, Projection),
    "diversity term": (evidence_start, SPACED, Projection),
    "no patch twice": (evidence_start, WARM, lambda geo: Projection(geo, distinct=True)),
    "best seated patch of ten": (evidence_start, WARM, Seated),
    "words + best seated patch": (vocabulary_start, WARM, Seated),
    "all together": (vocabulary_start, SPACED, Seated),
}


def one_recipe(net, head, maps, geo, recipe, seed):
    "The numbers of one recipe from a copy of the same start"
    net, (start, warm, projection) = deepcopy(net), recipe
    seed_everything(seed)
    start(net, head, maps.project)
    accuracy = {row["stage"]: row["accuracy"] for row in fit(net, maps, [warm, projection(geo), LastLayer()])}
    images, near = maps.project.images, nearest(net, maps.project, 10)
    places = refined_places(net, maps.project, near, geo)
    window, pointing = (part_score(shown_parts(images, near, geo, read), net.cls) for read in (window_part, pointed_part))
    refined = part_score(parts_at(images, near.image, places, geo, window_part), net.cls)
    return {"distinct": window.distinct, "background": window.background, "pure": window.pure, "refined": refined.background,
            "refined pure": refined.pure, "refined distinct": refined.distinct, "pointing": pointing.background, "pointing pure": pointing.pure,
            "unique": unique_share(net).value, "near": near_unique_share(net).value,
            "projected": accuracy["project"], "accuracy": accuracy["last layer"]}


def one_seed(seed):
    "All recipes on one set of birds"
    splits = bird_splits(seed)
    model, dls, geo = new_model("lite0", splits._replace(valid=splits.test), seed + 1000)
    net, maps = on_maps(model, dls, {})
    head = plain_classifier(net, maps.train)
    return {name: one_recipe(net, head, maps, geo, recipe, seed) for name, recipe in tqdm(RECIPES.items(), desc=f"seed {seed}")}


COLUMNS = (("distinct parts a class", "distinct", two), ("on background, of 80", "background", count), ("pure, %", "pure", percent),
           ("on background, refined place", "refined", count), ("pure, refined place, %", "refined pure", percent), ("distinct, refined place", "refined distinct", two),
           ("on background, pointing", "pointing", count), ("pure, pointing, %", "pointing pure", percent), ("unique, %", "unique", percent), ("near ones merged, %", "near", percent),
           ("test, projected, %", "projected", percent), ("test, %", "accuracy", percent))


def table(runs):
    "Mean of the seeds for each recipe"
    made = ["| recipe | " + " | ".join(name for name, _, _ in COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    return "\n".join(made + [f"| {name} | " + " | ".join(text(mean(run[name][key] for run in runs)) for _, key, text in COLUMNS) + " |" for name in RECIPES])


def each(runs):
    "On background, run by run"
    return "\n".join(f"- {name}: {', '.join(count(run[name]['background']) for run in runs)}; at the refined place {', '.join(count(run[name]['refined']) for run in runs)}"
                     for name in RECIPES)


def text(runs):
    "The page"
    return f"""# Cures for prototypes that are all the same, measured

16 species, 40 training images of 96 px each, 5 prototypes a species, a frozen trunk. Mean of {len(runs)} runs, each with birds of its own seed ({', '.join(map(str, SEEDS))}) and a network of its own;
none of these seeds was used in tuning. The runs of a seed share features and plain classifier.

- Command: `make bench-diverse`, {datetime.date.today()}
- Machine: {machine()}

{table(runs)}

Parts are read by the strict *window* reading of the [default benchmark](bench-default.md) unless the column says *pointing*; *pure* is the share of prototypes that show one named part in 9 of their 10 nearest training images.
*Refined place* reads the same window at the peak refined inside its cell, and not at the middle of the cell. *Unique* and *near ones merged* are `unique_share` and `near_unique_share` of the
[diverse](diverse.ipynb) lesson, which explains each cure.

Prototypes on background, of 80, run by run:

{each(runs)}
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    seeds = parser.parse_args().seeds
    runs = [one_seed(seed) for seed in seeds]
    print(table(runs), each(runs), sep="\n\n")
    if tuple(seeds) == SEEDS:
        with atomic_path(PAGE) as tmp: tmp.write_text(text(runs), encoding="utf-8")
