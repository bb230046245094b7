"What the tools know of the notebooks: which there are, which page and chapter each is, what a reader sees of it, how long it takes"
import ast
import functools
import re
from pathlib import Path

import nbformat
from nbdev.config import get_config

ROOT = Path(get_config().config_path)

# A chapter begins with the named room and ends before the next chapter
CHAPTERS = {"core": "Words and pictures", "backbone": "The network", "train": "Three stages", "explain": "This looks like that",
            "tied": "The whole walk", "metrics": "Is it true?", "prune": "By hand", "augment": "The paper, exactly"}


def notebooks(root=ROOT):
    "The front door, the street, the walks"
    walks = [p for p in sorted(root.glob("nbs/tutorials/*.ipynb")) if p.name[0] not in "._"]
    return [root/"index.ipynb", *sorted(root.glob("nbs/[0-9]*.ipynb")), *walks]


def page_name(path):
    "nbs/00_core.ipynb is the page `core`"
    return re.sub(r"^\d+[a-z]?_", "", Path(path).stem)


def door(path): return int(re.match(r"\d+", path.stem)[0])


def street(root=ROOT):
    "The lessons in order"
    return [p for p in notebooks(root) if p.parent.name == "nbs"]


def chapters(root=ROOT):
    "Title of a chapter -> its lessons"
    found, title = {}, ""
    for path in street(root):
        title = CHAPTERS.get(page_name(path), title)
        found.setdefault(title, []).append(path)
    return found


# -- cells --------------------------------------------------------------------------------------------------------------------

def directives(source):
    "nbdev's `#| name: value` lines, as a dict"
    found = re.findall(r"^#\| *([\w-]+)(?::? *(.*))$", source, re.M)
    return {name: value.strip() for name, value in found}


def without_directives(source): return re.sub(r"\A(#\|.*(\n|$))+", "", source)


def hidden(cell):
    d = directives(cell.source) if cell.cell_type == "code" else {}
    return "hide" in d or "default_exp" in d or d.get("include") == "false"


FOLDED = {"code-fold": "true", "echo": "false"}  # directives that take a cell's code out of sight, one click away


@functools.cache
def only_imports(source): return all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.parse(source).body)


def folded(cell):
    "Is this cell's code out of sight?"
    d = directives(cell.source)
    return any(d.get(name) == value for name, value in FOLDED.items()) or "export" in d and only_imports(cell.source)


def patched(node):
    "The class that a `@patch` function belongs to, the first of several, or None"
    first = node.args.args[0].annotation if isinstance(node, ast.FunctionDef) and node.args.args else None
    if isinstance(first, ast.Tuple): first = first.elts[0]
    return first.id if isinstance(first, ast.Name) and any("patch" in ast.unparse(d) for d in node.decorator_list) else None


def _names_in(source):
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != "_":
            yield f"{patched(node)}.{node.name}" if patched(node) else node.name
        for target in getattr(node, "targets", []):
            if isinstance(target, ast.Name) and target.id[0] not in "_0123456789": yield target.id


@functools.cache
def names_in(source):
    "Public functions, classes and constants that a piece of exported code makes; methods that are added later as Class.method"
    return tuple(_names_in(source))


def exported_in(cell):
    "The public names of a cell, none when it exports nothing"
    return list(names_in(cell.source)) if cell.cell_type == "code" and {"export", "exports"} & directives(cell.source).keys() else []


def exported_names(nb):
    "Public names in the order of the lesson"
    return [name for cell in nb.cells for name in exported_in(cell)]


def subtitle(nb):
    "The line `> ...` below the title"
    return re.search(r"^> (.*)$", nb.cells[0].source, re.M)[1]


# -- minutes ------------------------------------------------------------------------------------------------------------------

WORDS, LINES, PICTURES = 200, 15, 4  # a minute


def prose(nb):
    "What there is to read beside the code: no hints, solutions or links' addresses"
    text = "\n".join(c.source for c in nb.cells if c.cell_type == "markdown")
    return re.sub(r"<details>.*?</details>|\]\([^)]*\)|[|#*`$<>~-]+", " ", text, flags=re.S)


def shown_code(nb): return [c for c in nb.cells if c.cell_type == "code" and not hidden(c) and not folded(c)]


def pictures(nb): return sum(any(m.startswith("image/") for m in o.get("data", {})) for c in nb.cells for o in c.get("outputs", []))


def reading_minutes(nb):
    "So many words, lines of visible code and pictures a minute"
    lines = sum(len([line for line in without_directives(c.source).splitlines() if line.strip()]) for c in shown_code(nb))
    return max(1, round(len(prose(nb).split()) / WORDS + lines / LINES + pictures(nb) / PICTURES))


def exercise_minutes(nb):
    "The sum of what the cards say"
    return sum(int(n) for c in nb.cells if c.cell_type == "markdown" for n in re.findall(r"\*\(\w+, (\d+) minutes?\)\*", c.source))


def read(path): return nbformat.v4.reads(Path(path).read_text(encoding="utf-8"))  # without nbformat.read's check: what is written is checked
