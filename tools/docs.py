"""Make README.md and the docs site: run the notebooks, make a page of each, let Sphinx build them into _docs.
`--readme`: README.md only. `--no-run`: take the outputs that are saved in the notebooks."""
import functools
import json
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import api
import guide
import nbformat
from lessons import (ROOT, chapters, directives, door, exercise_minutes, exported_in, exported_names, folded, hidden, notebooks, page_name, read,
                     reading_minutes, street, without_directives)
from nbdev.config import get_config
from nbdev.doclinks import NbdevLookup
from run import execute
from strip import VIEW, is_bar

PAGES, HTML = ROOT/"_proc"/"pages", ROOT/"_proc"/"html"
SITE = f"{get_config().doc_host}{get_config().doc_baseurl}/"  # where nbdev's symbol links point
STATE = "application/vnd.jupyter.widget-state+json"
TICK, FENCE = "`", "`" * 3


# -- one cell -----------------------------------------------------------------------------------------------------------------

@functools.cache
def references():
    "room -> its public names"
    return {page_name(p): set(exported_names(read(p))) for p in street()}


def symbols(text):
    "nbdev's links of symbols, as links to the API"
    def symbol(m):
        label, room, anchor = m.groups()
        names = [name for name in references().get(room, ()) if name.lower() == anchor]  # nbdev writes small letters: Walk and walk
        name = next((name for name in names if name in label), names[0] if names else None)
        return f"[{label}]({api.way(room, name)})" if name else label
    text = re.sub(rf"\[([^\]]*)\]\({re.escape(SITE)}(\w+)\.html#([\w.]+)\)", symbol, NbdevLookup().linkify(text))
    return re.sub(r"^#+ .*", lambda line: re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", line[0]), text, flags=re.M)  # a heading is no link


def links(text, here):
    "Links between notebooks, and of symbols, as links between pages; a door that isn't built yet is plain text"
    def page(m):
        label, path, anchor = m[1], here.parent/m[2], m[3] or ""
        return f"[{label}]({page_name(path)}{path.suffix}{anchor})" if path.exists() else label
    text = re.sub(r"\[([^\]]*)\]\(([\w./-]+\.(?:ipynb|md))(#[\w-]*)?\)", page, text).replace("](docs/", "](")
    return symbols(text)


def code_metadata(cell):
    "What myst-nb must know of a code cell: whether its code is folded, and what its pictures show"
    d = directives(cell.source)
    return {"tags": ["hide-input"] * folded(cell)} | ({"mystnb": {"image": {"alt": d["fig-alt"]}}} if "fig-alt" in d else {})


def cell_of(kind, text, name, **more):
    "A cell without nbformat's check: the page is checked once, when it is written"
    return nbformat.from_dict({"cell_type": kind, "id": name, "source": text, "metadata": {}, **more})


def markdown(text, name): return cell_of("markdown", text, name)


def shown(cell, here):
    "The cell as the page shows it, behind an anchor for each name that it makes"
    if cell.cell_type == "markdown": return [markdown(links(cell.source, here), cell.id)]
    outputs = [o for o in cell.outputs if not is_bar(o)]
    code = cell_of("code", without_directives(cell.source), cell.id, metadata=code_metadata(cell), outputs=outputs, execution_count=cell.execution_count)
    anchors = "".join(f'<div class="def" id="def-{name}"></div>' for name in exported_in(cell))
    return [markdown(anchors, f"def-{cell.id}"), code] if anchors else [code]


# -- what a page has that its notebook has not ----------------------------------------------------------------------------------

def bar(nb, path):
    "The small line below the title: which door, how long, where to get it"
    cfg, file, tasks = get_config(), path.relative_to(ROOT), exercise_minutes(nb)
    colab = f"https://colab.research.google.com/github/{cfg.user}/{cfg.repo}/blob/{cfg.branch}/{file}"
    facts = ([f"door {door(path)}"] if path in street() else []) + [f"{reading_minutes(nb)} minutes to read"] + [f"{tasks} minutes of exercises"] * (tasks > 0)
    spans = "".join(f"<span>{fact}</span>" for fact in facts)
    return (f'<p class="lesson-bar">{spans}<a href="notebooks/{path.name}" download>Download this notebook</a> '
            f'<a href="{colab}">Open in Colab</a></p>')


def with_bar(text, line):
    "The first cell with the line below title and subtitle"
    return re.sub(r"\A(# .*\n+(?:> .*\n?)?)", lambda m: f"{m[1].rstrip()}\n\n{line}\n\n", text)


def reference(nb, room):
    "The room's names, as links to the API; nothing for a notebook that exports nothing"
    names = exported_names(nb)
    if not names: return []
    links_ = " · ".join(f"[{TICK}{name}{TICK}]({api.way(room, name)})" for name in names)
    return [markdown(f"## Reference\n\nWhat `protolab.{room}` exports, each with its parameters: {links_}", "reference")]


def links_of(state, used):
    "The models that join two used ones (`jslink`): no view names them"
    linked = {model: re.findall(r"IPY_MODEL_(\w+)", json.dumps(s)) for model, s in state.items() if s.get("model_name") in ("LinkModel", "DirectionalLinkModel")}
    return {model: state[model] for model, ends in linked.items() if set(ends) <= used.keys()}


def used_state(state, cells):
    "The widget models that the page's views need; those of progress bars go"
    todo = [o.data[VIEW]["model_id"] for c in cells for o in c.get("outputs", []) if VIEW in o.get("data", {})]
    used = {}
    while todo:
        if (model := todo.pop()) in state and model not in used:
            used[model] = state[model]
            todo += re.findall(r"IPY_MODEL_(\w+)", json.dumps(state[model]))
    return used | links_of(state, used)


def page(nb, path):
    "The notebook at `path`, run, as the page that Sphinx reads"
    cells = [made for c in nb.cells if c.cell_type != "raw" and not hidden(c) for made in shown(c, path)]
    if path.parent != ROOT: cells[0].source = with_bar(cells[0].source, bar(nb, path))
    metadata = {k: nb.metadata[k] for k in ("kernelspec", "language_info") if k in nb.metadata}
    state = nb.metadata.get("widgets", {}).get(STATE, {})
    if used := used_state(state.get("state", {}), cells): metadata["widgets"] = {STATE: {**state, "state": used}}
    return nbformat.v4.new_notebook(cells=cells + reference(nb, page_name(path)), metadata=metadata)


# -- the front door -----------------------------------------------------------------------------------------------------------

def hero(cells, nb):
    "What the cell with the directive `hero` shows, and shows below the title instead"
    name = next((c.id for c in nb.cells if c.cell_type == "code" and "hero" in directives(c.source)), None)
    cell = next((c for c in cells if c.id == name), None)
    if cell is None: return []
    top = cell_of("code", cell.source, "hero", metadata=cell.metadata | {"tags": ["remove-input"]}, outputs=cell.outputs, execution_count=None)
    cell.outputs = []
    return [top]


READ = ("How to read a row: a part of a bird that the network had not seen, the patch of a training image that a prototype *is*, the image which that comes from, and similarity times weight. "
        "The rows add up to the class's score, the logit; nothing else goes into the answer.")
MOVE = " Move the slider, or press Tab and the arrow keys, for another of eight birds."


def hint(top):
    "How to read the hero, and how to move it where it moves"
    moves = any(VIEW in o.get("data", {}) for o in top.outputs)
    return markdown(READ + MOVE * moves, "hint")


def front(made, nb):
    "The home page: title, hero, and the doors as cards; the site's contents, out of sight"
    first, *rest = made.cells
    for cell in rest: cell.source = re.sub(r"\A(?=\| Learn)", "{.doors}\n", cell.source)
    top = hero(rest, nb)
    made.cells = [first, *top, *map(hint, top), *rest, contents()]
    return made


def contents():
    "The site's table of contents, one hidden tree a chapter"
    extra = [p.stem for p in sorted((ROOT/"docs").glob("*.md")) if not p.stem.startswith("bench-")]
    groups = {"Start here": ["map"]} | {title: [page_name(p) for p in paths] for title, paths in chapters().items()}
    groups["Walks"] = [page_name(p) for p in notebooks() if p.parent.name == "tutorials"]
    groups["Look up"] = ["api", "glossary", "benchmarks", "cite"]
    groups["More"] = [name for name in extra if name not in groups["Look up"] + ["map"]]
    trees = [f"{FENCE}{{toctree}}\n:hidden:\n:caption: {title}\n" + "\n".join(names) + f"\n{FENCE}" for title, names in groups.items() if names]
    return markdown("\n\n".join(trees), "contents")


# -- the whole ----------------------------------------------------------------------------------------------------------------

def readme(root=ROOT):
    "The front door as README.md: its prose and its visible code"
    cells = [c for c in read(root/"index.ipynb").cells if not hidden(c)]
    fenced = [c.source if c.cell_type == "markdown" else f"{FENCE}python\n{without_directives(c.source)}\n{FENCE}" for c in cells]
    (root/"README.md").write_text(re.sub(r"^> ", "", "\n\n".join(fenced), count=1, flags=re.M) + "\n", encoding="utf-8")


def complaints(nb):
    "What the notebook's cells wrote to stderr: a warning in a lesson is a mistake"
    return "".join(o.text for c in nb.cells for o in c.get("outputs", []) if o.get("name") == "stderr")


def run_one(path, run):
    "The notebook with fresh outputs, or with those that it holds, and the seconds that it took"
    start = time.time()
    nb = execute(path) if run else read(path)
    seconds = time.time() - start
    if run: print(f"  {path.relative_to(ROOT)}: {seconds:.1f} s\n", end="", flush=True)
    if complaints(nb): raise RuntimeError(f"{path.relative_to(ROOT)} writes to stderr:\n{complaints(nb)}")
    return nb, seconds


def write_notebooks(run):
    "Run the notebooks, two at a time and the long ones first, and write their pages; the seconds of each"
    paths, seconds = notebooks()[::-1], {}  # the lessons at the end of the street take longest
    with ThreadPoolExecutor(2) as pool: ran = pool.map(lambda p: run_one(p, run), paths)
    for path, (nb, seconds[path]) in zip(paths, ran):
        made = page(nb, path)
        nbformat.write(front(made, nb) if path.parent == ROOT else made, PAGES/f"{page_name(path)}.ipynb")
    return {path: seconds[path] for path in paths if path.parent != ROOT} if run else {}


def test_names(text):
    "A test's file and its function side by side, so that a table may break between them"
    return re.sub(r"`(test_\w+\.py)::(test_\w+)`", r"`\1` `\2`", text)


def write_words(seconds):
    "The pages of docs/, filled in, and a bench page's place below the benchmarks"
    for path in sorted(PAGES.glob("*.md")): path.write_text(symbols(test_names(guide.fill(path.read_text(encoding="utf-8"), seconds))), encoding="utf-8")
    bench = "\n".join(p.stem for p in sorted(PAGES.glob("bench-*.md")))
    with (PAGES/"benchmarks.md").open("a", encoding="utf-8") as file: file.write(f"\n{FENCE}{{toctree}}\n:hidden:\n{bench}\n{FENCE}\n")


def write_api():
    "The API: entries and source of each room"
    (PAGES/"api.md").write_text(api.first_page(chapters()), encoding="utf-8")
    for path in street():
        (PAGES/f"api-{page_name(path)}.md").write_text(symbols(api.room_page(path)), encoding="utf-8")
        (PAGES/f"source-{page_name(path)}.md").write_text(api.source_page(path), encoding="utf-8")


def write_pages(run):
    "All that Sphinx reads, and the notebooks to download"
    shutil.rmtree(PAGES.parent, ignore_errors=True)
    shutil.copytree(ROOT/"docs", PAGES)
    seconds = write_notebooks(run)
    write_words(seconds)
    write_api()
    (PAGES/"extra"/"notebooks").mkdir(parents=True)
    for path in notebooks()[1:]: shutil.copy(path, PAGES/"extra"/"notebooks")


def site(run=True):
    "Build the site; a warning is an error"
    write_pages(run)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-j", "2", "-d", str(PAGES.parent/"trees"), str(PAGES), str(HTML)]
    if subprocess.run(command).returncode: sys.exit("Sphinx found something wrong: see above")
    shutil.rmtree(get_config().doc_path, ignore_errors=True)
    shutil.copytree(HTML, get_config().doc_path)
    print(f"the site is in {get_config().doc_path}")


if __name__ == "__main__":
    readme()
    if "--readme" in sys.argv: sys.exit()
    try: site("--no-run" not in sys.argv)
    except RuntimeError as error: sys.exit(error)
