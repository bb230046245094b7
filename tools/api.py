"The API: a page of entries and a page of source a room, made from the modules' docments without importing them"
import ast
import functools
import re
import tokenize
from io import StringIO

from lessons import ROOT, door, names_in, page_name, patched, read, subtitle
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

TICK, FENCE = "`", "`" * 3


def module_of(room): return (ROOT/"protolab"/f"{room}.py").read_text(encoding="utf-8")


# -- what stands in a module --------------------------------------------------------------------------------------------------

def comments(source):
    "line number -> the comment at its end"
    tokens = tokenize.generate_tokens(StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT and t.line.strip() != t.string.strip()}


def listed(tree):
    "A module's `__all__`"
    return next(ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__")


def named(source):
    "Each public name of a module with its node, in the order of the lesson"
    tree = ast.parse(source)
    known = set(listed(tree))
    for node in tree.body:
        yield from ((name, node) for name in names_in(ast.unparse(node)) if name.split(".")[0] in known)


def slug(name): return name.lower().replace(".", "")


@functools.cache
def anchors(room):
    "name -> the anchor of its entry; where Walk and walk differ by a letter's size alone, MyST gives the second one a number"
    names = [name for name, _ in named(module_of(room))]
    return {name: slug(name) + (f"-{n}" if (n := sum(slug(other) == slug(name) for other in names[:i])) else "") for i, name in enumerate(names)}


def way(room, name): return f"api-{room}.md#{anchors(room)[name]}"


def parameters(f):
    "(name with its stars, node, default or None) of each parameter but `self`, a patched method's too"
    a = f.args
    plain = [*a.posonlyargs, *a.args]
    defaults = [None] * (len(plain) - len(a.defaults)) + a.defaults
    first = [(p.arg, p, d) for p, d in zip(plain, defaults)]
    if first and (first[0][0] in ("self", "cls") or patched(f)): first = first[1:]
    rest = [(p.arg, p, d) for p, d in zip(a.kwonlyargs, a.kw_defaults)]
    stars = [[("*" * n + p.arg, p, None)] if p else [] for n, p in ((1, a.vararg), (2, a.kwarg))]
    return [*first, *stars[0], *rest, *stars[1]]


def fields(c):
    "(name, node, default) of a record's fields"
    return [(n.target.id, n, n.value) for n in c.body if isinstance(n, ast.AnnAssign)]


def text_of(node): return ast.unparse(node) if node is not None else ""


def signature(name, f):
    "A call as one line, or one parameter a line when it is long"
    parts = [n + (f": {text_of(p.annotation)}" if p.annotation else "") + (f" = {text_of(d)}" if d is not None else "") for n, p, d in parameters(f)]
    end = f") -> {text_of(f.returns)}" if f.returns else ")"
    line = f"{name}({', '.join(parts)}{end}"
    return line if len(line) < 88 else f"{name}(\n    " + ",\n    ".join(parts) + f",\n{end}"


# -- one entry ----------------------------------------------------------------------------------------------------------------

def in_table(text): return re.sub(r"([|*_<$\[\]])", r"\\\1", text) if "`" not in text else text.replace("|", r"\|").replace("$", r"\$")


def code(text): return f"{TICK}{text}{TICK}".replace("|", r"\|") if text else ""


def table(rows, notes):
    "The docments: one row a parameter or field; no column of defaults where there are none"
    if not rows: return ""
    some = any(d is not None for _, _, d in rows)
    head = ["name", "type", *["default"] * some, "what"]
    lines = [[code(n), code(text_of(p.annotation)), *[code(text_of(d)) if d is not None else ""] * some, in_table(notes.get(p.end_lineno, ""))] for n, p, d in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *lines])


def returned(f, notes):
    "The comment behind a function's arrow, as a sentence"
    end = f.body[0].lineno
    line = next((n for n in range(end if end == f.lineno else end - 1, f.lineno - 1, -1) if n in notes), None)
    params = {p.end_lineno for _, p, _ in parameters(f) if p.end_lineno != f.lineno}
    return f"**Returns:** {in_table(notes[line])}" if line and line not in params and (f.returns or parameters(f) or notes[line]) else ""


def function(name, f, notes):
    "Signature, what it does, docments, what comes back"
    return [f"{FENCE}python\n{signature(name, f)}\n{FENCE}", ast.get_docstring(f) or "", table(parameters(f), notes), returned(f, notes)]


def methods(c):
    "Public methods that have words"
    return [m for m in c.body if isinstance(m, ast.FunctionDef) and m.name[0] != "_" and ast.get_docstring(m)]


def kind(name, c, notes):
    "A class: its fields or how it is made, then its methods"
    made = next((m for m in c.body if getattr(m, "name", "") == "__init__"), None)
    rows = fields(c) if fields(c) and made is None else parameters(made) if made else []
    bases = f"({', '.join(map(ast.unparse, c.bases))})" if c.bases else ""
    head = signature(name, made) if made else f"class {name}{bases}"
    below = [part for m in methods(c) for part in (f"### {code(name + '.' + m.name)}", *function(m.name, m, notes))]
    return [f"{FENCE}python\n{head}\n{FENCE}", ast.get_docstring(c) or "", table(rows, notes), *below]


def constant(node, notes):
    lines = ast.unparse(node).splitlines()
    short = [line if len(line) <= 100 else line[:100] + " ..." for line in lines[:6]]
    return [f"{FENCE}python\n" + "\n".join(short) + f"\n{FENCE}", notes.get(node.end_lineno, "")]


def entry(room, name, node, notes):
    "One public name"
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    where = (f'<p class="where"><a href="source-{room}.html#L-{first}">source</a> '
             f'<a href="{room}.html#def-{name}">where the lesson makes it</a></p>')
    make = {ast.FunctionDef: function, ast.ClassDef: kind}.get(type(node))
    parts = make(name.split(".")[-1], node, notes) if make else constant(node, notes)
    return "\n\n".join([f"## {TICK}{name}{TICK}", where, *filter(None, parts)])


# -- the pages ----------------------------------------------------------------------------------------------------------------

def room_page(path):
    "The entries of one room"
    room, nb = page_name(path), read(path)
    source = module_of(room)
    notes = comments(source)
    entries = [entry(room, name, node, notes) for name, node in named(source)]
    lead = f"{subtitle(nb)}. Door {door(path)}: [the lesson]({room}.ipynb), [the source](source-{room}.md)."
    return "\n\n".join([f"# protolab.{room}", lead, *entries])


def source_page(path):
    "A module with a number, and an anchor, at each line"
    room = page_name(path)
    form = HtmlFormatter(linenos="inline", lineanchors="L", anchorlinenos=True, nowrap=False, cssclass="highlight")
    html = highlight(module_of(room), PythonLexer(), form).replace('<a id="L-', '<a class="line" id="L-')
    lead = f"Made from [the lesson]({room}.ipynb), where it is explained; what each name takes and gives: [protolab.{room}](api-{room}.md)."
    return f"---\norphan: true\n---\n\n# The source of protolab.{room}\n\n{lead}\n\n{FENCE}{{raw}} html\n<div class=\"highlight-python source\">{html}</div>\n{FENCE}\n"


def first_page(chapters):
    "All names, room by room"
    parts = ["# API", "Every public name of protolab. `from protolab import *` gives them all (but those of `cli`), "
             "`from protolab.project import project_` gives one. Each name leads to its signature, its parameters, its source and the cell of the lesson that makes it."]
    for title, paths in chapters.items():
        rows = []
        for path in paths:
            room = page_name(path)
            links = ", ".join(f"[{TICK}{name}{TICK}]({way(room, name)})" for name, _ in named(module_of(room)))
            rows.append(f"| [{room}](api-{room}.md) | {links} |")
        parts += [f"## {title}", "| room | names |\n|---|---|\n" + "\n".join(rows)]
    rooms = "\n".join(f"api-{page_name(p)}" for paths in chapters.values() for p in paths)
    return "\n\n".join([*parts, f"{FENCE}{{toctree}}\n:hidden:\n{rooms}\n{FENCE}"]) + "\n"
