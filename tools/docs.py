"""Make README.md and the docs site: run the notebooks, make a page of each, let Sphinx build them into _docs.
`--readme`: README.md only. `--no-run`: take the outputs that are saved in the notebooks."""
import ast
import functools
import importlib
import inspect
import json
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from nbdev.config import get_config
from nbdev.doclinks import NbdevLookup
from nbdev.showdoc import show_doc
from run import execute
from strip import VIEW, is_bar

ROOT = Path(get_config().config_path)
PAGES, HTML = ROOT/"_proc"/"pages", ROOT/"_proc"/"html"
SITE = f"{get_config().doc_host}{get_config().doc_baseurl}/"  # where nbdev's symbol links point
STATE = "application/vnd.jupyter.widget-state+json"
TICK, FENCE = "`", "`" * 3


# -- which notebook is which page ---------------------------------------------------------------------------------------------

def notebooks(root=ROOT):
    "The front door, the street, the walks"
    walks = [p for p in sorted(root.glob("nbs/tutorials/*.ipynb")) if p.name[0] not in "._"]
    return [root/"index.ipynb", *sorted(root.glob("nbs/[0-9]*.ipynb")), *walks]


def page_name(path):
    "nbs/00_core.ipynb is the page `core`"
    return re.sub(r"^\d+[a-z]?_", "", Path(path).stem)


# -- one cell -----------------------------------------------------------------------------------------------------------------

def directives(source):
    "nbdev's `#| name: value` lines, as a dict"
    found = re.findall(r"^#\| *([\w-]+)(?::? *(.*))$", source, re.M)
    return {name: value.strip() for name, value in found}


def without_directives(source): return re.sub(r"\A(#\|.*(\n|$))+", "", source)


def hidden(cell):
    d = directives(cell.source) if cell.cell_type == "code" else {}
    return "hide" in d or "default_exp" in d or d.get("include") == "false"


def links(text, here):
    "Links between notebooks, and nbdev's links of symbols, as links between pages; a door that isn't built yet is plain text"
    def page(m):
        label, path, anchor = m[1], Path(m[2]), m[3] or ""
        return f"[{label}]({page_name(path)}{path.suffix}{anchor})" if (here.parent/path).exists() else label

    def symbol(m):
        label, room, name = m.groups()
        return f"[{label}]({room}.ipynb#{anchor_of(name)})" if name in references().get(room, ()) else label
    text = re.sub(r"\[([^\]]*)\]\(([\w./-]+\.(?:ipynb|md))(#[\w-]*)?\)", page, text).replace("](docs/", "](")
    return re.sub(rf"\[([^\]]*)\]\({re.escape(SITE)}(\w+)\.html#([\w.]+)\)", symbol, NbdevLookup().linkify(text))


FOLDED = {"code-fold": "true", "echo": "false"}  # directives that take a cell's code out of sight, one click away


def only_imports(source): return all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.parse(source).body)


def code_metadata(source):
    "What myst-nb must know of a code cell: whether its code is folded, and what its pictures show"
    d = directives(source)
    folded = any(d.get(name) == value for name, value in FOLDED.items()) or "export" in d and only_imports(source)
    return {"tags": ["hide-input"] * folded} | ({"mystnb": {"image": {"alt": d["fig-alt"]}}} if "fig-alt" in d else {})


def shown(cell, here):
    "The cell as the page shows it"
    if cell.cell_type == "markdown": return nbformat.v4.new_markdown_cell(links(cell.source, here), id=cell.id)
    outputs = [o for o in cell.outputs if not is_bar(o)]
    return nbformat.v4.new_code_cell(without_directives(cell.source), id=cell.id, metadata=code_metadata(cell.source), outputs=outputs,
                                     execution_count=cell.execution_count)


# -- the reference at the end of a lesson -------------------------------------------------------------------------------------

def patched(node):
    "The class that a `@patch` function belongs to, or None"
    first = node.args.args[0].annotation if isinstance(node, ast.FunctionDef) and node.args.args else None
    return first.id if isinstance(first, ast.Name) and any("patch" in ast.unparse(d) for d in node.decorator_list) else None


def exported_names(nb):
    "Public functions and classes in the order of the lesson, methods that are added later as Class.method"
    for cell in nb.cells:
        if cell.cell_type == "code" and {"export", "exports"} & directives(cell.source).keys():
            for node in ast.parse(cell.source).body:
                if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != "_":
                    yield f"{patched(node)}.{node.name}" if patched(node) else node.name


@functools.cache
def references():
    "page -> the names in its reference, in small letters as in nbdev's links"
    return {page_name(p): {name.lower() for name in exported_names(nbformat.read(p, 4))} for p in notebooks()}


def anchor_of(name): return name.lower().replace(".", "")


def entry(module, name):
    "show_doc's section for one name; a record shows its fields instead of a signature that says nothing"
    thing = module
    for part in name.split("."): thing = getattr(thing, part)
    doc = re.sub(r"\A(---\s+)?(\[source\]\(.*\n+)?#+ .*\n+", "", show_doc(thing)._repr_markdown_())
    if hasattr(thing, "_fields"): doc = f"{FENCE}python\n{inspect.getsource(thing)}{FENCE}"
    doc = re.sub(rf"{FENCE}python\ndef \w+\(\n *\*args, \*\*kwargs\n\):\n{FENCE}\n", "", doc)
    return f"### {TICK}{name}{TICK}\n\n{doc}"


def reference(nb, room):
    "Every public name of the room, as one markdown cell; nothing for a notebook that exports nothing"
    names = list(exported_names(nb))
    if not names: return []
    module = importlib.import_module(f"protolab.{room}")
    text = "\n\n".join(["## Reference", f"The functions and classes of {TICK}protolab.{room}{TICK}.", *(entry(module, n) for n in names)])
    return [nbformat.v4.new_markdown_cell(text, id="reference")]


# -- one page -----------------------------------------------------------------------------------------------------------------

def used_state(state, cells):
    "The widget models that the page's views need; those of progress bars go"
    todo = [o.data[VIEW]["model_id"] for c in cells for o in c.get("outputs", []) if VIEW in o.get("data", {})]
    used = {}
    while todo:
        if (model := todo.pop()) in state and model not in used:
            used[model] = state[model]
            todo += re.findall(r"IPY_MODEL_(\w+)", json.dumps(state[model]))
    return used


def page(nb, path):
    "The notebook at `path`, run, as the page that Sphinx reads"
    cells = [shown(c, path) for c in nb.cells if c.cell_type != "raw" and not hidden(c)]
    metadata = {k: nb.metadata[k] for k in ("kernelspec", "language_info") if k in nb.metadata}
    state = nb.metadata.get("widgets", {}).get(STATE, {})
    if used := used_state(state.get("state", {}), cells): metadata["widgets"] = {STATE: {**state, "state": used}}
    return nbformat.v4.new_notebook(cells=cells + reference(nb, page_name(path)), metadata=metadata)


def contents():
    "The site's table of contents, one hidden tree a chapter"
    extra = [p.stem for p in sorted((ROOT/"docs").glob("*.md"))]
    street = [page_name(p) for p in notebooks() if p.parent.name == "nbs"]
    half = street.index("street") + 1
    chapters = {"The street": street[:half], "The paper, exactly": street[half:],
                "Walks": [page_name(p) for p in notebooks() if p.parent.name == "tutorials"],
                "Benchmarks": [name for name in extra if name.startswith("bench-")],
                "More": [name for name in extra if not name.startswith("bench-")]}
    trees = [f"{FENCE}{{toctree}}\n:hidden:\n:caption: {title}\n" + "\n".join(names) + f"\n{FENCE}" for title, names in chapters.items() if names]
    return nbformat.v4.new_markdown_cell("\n\n".join(trees), id="contents")


# -- the whole ----------------------------------------------------------------------------------------------------------------

def readme(root=ROOT):
    "The front door as README.md: its prose and its visible code"
    cells = [c for c in nbformat.read(root/"index.ipynb", 4).cells if not hidden(c)]
    fenced = [c.source if c.cell_type == "markdown" else f"{FENCE}python\n{without_directives(c.source)}\n{FENCE}" for c in cells]
    (root/"README.md").write_text(re.sub(r"^> ", "", "\n\n".join(fenced), count=1, flags=re.M) + "\n", encoding="utf-8")


def complaints(nb):
    "What the notebook's cells wrote to stderr: a warning in a lesson is a mistake"
    return "".join(o.text for c in nb.cells for o in c.get("outputs", []) if o.get("name") == "stderr")


def run_one(path, run):
    "The notebook with fresh outputs, or with those that it holds"
    start = time.time()
    nb = execute(path) if run else nbformat.read(path, 4)
    if run: print(f"  {path.relative_to(ROOT)}: {time.time() - start:.1f} s\n", end="", flush=True)
    if complaints(nb): raise RuntimeError(f"{path.relative_to(ROOT)} writes to stderr:\n{complaints(nb)}")
    return nb


def write_pages(run):
    "Run the notebooks, two at a time and the long ones first, and write their pages"
    shutil.rmtree(PAGES.parent, ignore_errors=True)
    shutil.copytree(ROOT/"docs", PAGES)
    paths = notebooks()[::-1]  # the lessons at the end of the street take longest
    with ThreadPoolExecutor(2) as pool: ran = pool.map(lambda p: run_one(p, run), paths)
    for path, nb in zip(paths, ran):
        made = page(nb, path)
        if path.parent == ROOT: made.cells.append(contents())
        nbformat.write(made, PAGES/f"{page_name(path)}.ipynb")


def site(run=True):
    "Build the site; a warning is an error"
    write_pages(run)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", str(PAGES.parent/"trees"), str(PAGES), str(HTML)]
    if subprocess.run(command).returncode: sys.exit("Sphinx found something wrong: see above")
    shutil.rmtree(get_config().doc_path, ignore_errors=True)
    shutil.copytree(HTML, get_config().doc_path)
    print(f"the site is in {get_config().doc_path}")


if __name__ == "__main__":
    readme()
    if "--readme" in sys.argv: sys.exit()
    try: site("--no-run" not in sys.argv)
    except RuntimeError as error: sys.exit(error)
