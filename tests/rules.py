"""The house rules as functions: text in, complaints out (an empty list when all is well).
tests/test_house.py applies them to the project and shows that each of them can fail."""
import ast
import re
import statistics
import sys
import tokenize
from difflib import SequenceMatcher
from io import StringIO

STREET = ("core", "birds", "data", "show", "backbone", "prototypes", "model", "loss", "seeding", "train", "project", "last_layer",
          "explain", "gallery", "wall", "explore", "why", "film", "versus", "truth", "lint", "tied", "street",
          "metrics", "intervene", "locate", "diverse", "collide", "card", "ingredients", "prune", "edit", "board", "confound", "augment", "cache", "cub", "sources", "legacy", "paper", "compare", "runs", "cli")

# Which rooms a room may import; street, paper, compare, runs and cli compose those before them
ROOMS = {"core": "", "birds": "", "data": "core birds", "show": "core", "backbone": "core", "prototypes": "", "model": "core backbone prototypes",
         "loss": "core", "seeding": "core", "train": "core show", "project": "core backbone prototypes", "last_layer": "core",
         "explain": "core backbone project", "gallery": "core show", "wall": "core show gallery", "explore": "core backbone project show explain gallery",
         "why": "core backbone show explain gallery", "film": "core data backbone train project show explain gallery", "versus": "core show explain gallery wall",
         "tied": "core data backbone prototypes loss train project", "truth": "core birds data backbone explain project", "lint": "core data backbone project last_layer truth",
         "prune": "core project last_layer", "augment": "core", "cache": "core data", "cub": "core data cache", "sources": "core birds data cache cub",
         "legacy": "core backbone prototypes model loss train project last_layer explain prune"}
ROOMS |= {"metrics": "core birds data backbone project explain show truth", "intervene": "core birds data backbone project explain show truth metrics",
          "locate": "core birds data backbone project show explain explore truth metrics",
          "edit": "core data backbone prototypes model project last_layer explain prune", "board": "core data show explain gallery wall prune edit"}
ROOMS |= {room: " ".join(STREET[:STREET.index(room)]) for room in ("street", "diverse", "collide", "card", "ingredients", "confound", "paper", "compare", "runs", "cli")}

# Which packages: these everywhere but where PACKAGES says something else
ANYWHERE = "torch numpy fastcore tqdm"
PACKAGES = {"birds": "numpy PIL", "prototypes": "torch", "data": ANYWHERE + " PIL torchvision", "show": ANYWHERE + " matplotlib PIL",
            "backbone": ANYWHERE + " torchvision timm huggingface_hub safetensors", "model": ANYWHERE + " safetensors", "train": ANYWHERE + " safetensors",
            "core": ANYWHERE + " torchvision", "augment": ANYWHERE + " torchvision", "cub": ANYWHERE + " PIL", "sources": ANYWHERE + " PIL torchvision", "legacy": ANYWHERE + " safetensors", "runs": ANYWHERE + " PIL", "cli": ""}
PACKAGES |= {room: ANYWHERE + " ipywidgets matplotlib PIL" for room in ("gallery", "wall", "explore", "why", "film", "versus", "board")}
PACKAGES |= {room: ANYWHERE + " matplotlib PIL" for room in ("metrics", "intervene", "locate", "diverse", "collide", "card")}
PACKAGES["locate"] += " captum"


# -- modules ------------------------------------------------------------------------------------------------------------------

def imports(tree):
    "(top-level package or protolab room, is it inside a function, names) of each import"
    inner = {id(n) for f in functions(tree) for n in ast.walk(f)}
    for node in ast.walk(tree):
        inside = id(node) in inner
        if isinstance(node, ast.Import):
            for alias in node.names: yield alias.name, inside, ()
        if isinstance(node, ast.ImportFrom):
            module = "protolab." * bool(node.level) + (node.module or "")
            names = [alias.name for alias in node.names]
            for full in [f"protolab.{n}" for n in names] if module.strip(".") == "protolab" else [module]: yield full, inside, names


def import_rule(room, source):
    "Rooms import what the house plan allows, packages they need, and never a star"
    wrong, allowed = [], PACKAGES.get(room, ANYWHERE).split()
    for full, inside, names in imports(ast.parse(source)):
        top, *rest = full.split(".")
        if "*" in names: wrong.append(f"from {full} import *")
        if top == "protolab" and rest[0] not in ROOMS[room].split() and rest[0] != "__version__": wrong.append(f"imports the room {rest[0]}")
        elif top == "protolab" and room == "cli" and not inside: wrong.append(f"imports the room {rest[0]} outside a function")
        elif top != "protolab" and top not in (*sys.stdlib_module_names, *allowed): wrong.append(f"imports the package {top}")
    return wrong


def functions(tree): return [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]


def size(function): return function.end_lineno - function.lineno + 1


def body_size(function):
    "Lines below the signature and the docstring"
    body = function.body[1:] if ast.get_docstring(function) and len(function.body) > 1 else function.body
    return body[-1].end_lineno - body[0].lineno + 1


def length_rule(source, longest=25, median=8):
    "Functions are short"
    found = functions(ast.parse(source))
    wrong = [f"{f.name}: {size(f)} lines, at most {longest}" for f in found if size(f) > longest]
    middle = statistics.median(map(body_size, found)) if found else 0
    return wrong + [f"the median function has {middle:g} lines below its signature, at most {median}"] * (middle > median)


def parameter_rule(source, most=5):
    "Few parameters without a default, and no keywords handed through"
    wrong = []
    for f in functions(ast.parse(source)):
        a = f.args
        bare = [p.arg for p in (*a.posonlyargs, *a.args) if p.arg not in ("self", "cls")]
        needed = len(bare) - len(a.defaults) + sum(d is None for d in a.kw_defaults)
        if needed > most: wrong.append(f"{f.name}: {needed} parameters without a default, at most {most}")
        protocol = f.name.startswith("_repr_")  # Jupyter's own signature
        if a.kwarg and not protocol and any(k.arg is None and ast.unparse(k.value) == a.kwarg.arg for n in ast.walk(f) if isinstance(n, ast.Call) for k in n.keywords):
            wrong.append(f"{f.name}: hands **{a.kwarg.arg} through")
    return wrong


def is_patch(node): return any("patch" in ast.unparse(d) for d in node.decorator_list)


def methods(node):
    "Public methods that are long enough to need words; those of an autograd function have torch's signature"
    if "Function" in " ".join(map(ast.unparse, node.bases)): return []
    return [m for m in node.body if isinstance(m, ast.FunctionDef) and m.name[0] != "_" and size(m) > 3 and m.name != "extra_repr"]


def public(tree):
    "Public functions and classes of a module, and the public methods of its public classes"
    top = [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name[0] != "_"]
    return top + [m for c in top if isinstance(c, ast.ClassDef) for m in methods(c)]


def docstring_rule(source):
    "Public names say in one line what they are"
    wrong = []
    for node in public(ast.parse(source)):
        doc = ast.get_docstring(node, clean=False)
        if doc is None: wrong.append(f"{node.name} (line {node.lineno}): no docstring")
        if doc and "\n" in doc.strip(): wrong.append(f"{node.name} (line {node.lineno}): docstring of more than one line")
    return wrong


def comments(source):
    "line number -> the comment at its end"
    tokens = tokenize.generate_tokens(StringIO(source).readline)
    return {t.start[0]: t.string for t in tokens if t.type == tokenize.COMMENT}


def documented(tree):
    "(owner, node with a line, name, annotation) of everything that owes a comment: parameters, fields of records"
    for node in public(tree) + [m for c in public(tree) if isinstance(c, ast.ClassDef) for m in c.body if getattr(m, "name", "") == "__init__"]:
        if isinstance(node, ast.FunctionDef):
            a = node.args
            for p in (*a.posonlyargs, *a.args, *a.kwonlyargs): yield node, p, p.arg, p.annotation
        elif "NamedTuple" in map(ast.unparse, node.bases) or any("dataclass" in ast.unparse(d) for d in node.decorator_list):
            for field in node.body:
                if isinstance(field, ast.AnnAssign): yield node, field, field.target.id, field.annotation


def docment_rule(source):
    "Every parameter and field has a comment at its line; a tensor's comment states a shape"
    tree, notes, wrong = ast.parse(source), comments(source), []
    for owner, node, name, annotation in documented(tree):
        is_self = name in ("self", "cls") or (is_patch(owner) and node is owner.args.args[0])
        if is_self: continue
        note = notes.get(node.end_lineno) or notes.get(node.lineno, "")
        if not note: wrong.append(f"{owner.name} (line {node.lineno}): no comment after {name}")
        elif annotation is not None and "Tensor" in re.findall(r"\w+", ast.unparse(annotation)) and "(" not in note:
            wrong.append(f"{owner.name} (line {node.lineno}): the tensor {name} has no shape")
    return wrong


def messages(source):
    "line -> the constant texts of each `raise` with a message; None for a raise whose message is made elsewhere"
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            texts = [c.value for a in node.exc.args for c in ast.walk(a) if isinstance(c, ast.Constant) and isinstance(c.value, str)]
            found[node.lineno] = texts or None
    return found


def expected(source):
    "The texts that `expect_fail(contains=...)`, `pytest.raises(match=...)` and `assert ... in message` wait for"
    calls = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call)]
    given = [k.value for c in calls for k in c.keywords if k.arg in ("contains", "match", "regex")]
    asserted = [n.left for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Compare) and isinstance(n.ops[0], ast.In)]
    return [c.value for value in given + asserted for c in ast.walk(value) if isinstance(c, ast.Constant) and isinstance(c.value, str)]


def overlap(a, b):
    m = SequenceMatcher(None, a, b, autojunk=False).find_longest_match()
    return m.size


def raise_rule(source, waited):
    "Every message that a module can raise is waited for somewhere; `waited` are the texts that lessons and tests expect"
    def met(texts): return any(overlap(t, w) >= min(len(w), 10) and len(w) >= 4 for t in texts for w in waited)
    return [f"line {line}: nothing meets the error '{' ... '.join(texts)[:90]}'" for line, texts in messages(source).items() if texts and not met(texts)]


# -- notebooks ----------------------------------------------------------------------------------------------------------------

def code(nb): return [c for c in nb.cells if c.cell_type == "code"]


def first_directive(cell):
    found = re.match(r"#\| *(\w+)", cell.source) if cell.cell_type == "code" else None
    return found[1] if found else ""


def lines(cell): return [line for line in cell.source.splitlines() if not line.startswith("#|")]


def cell_rule(nb, longest=25, median=5):
    "Code cells are short"
    sizes = [len(lines(c)) for c in code(nb) if lines(c)]
    wrong = [f"a code cell of {len(lines(c))} lines, at most {longest}: {lines(c)[0]}" for c in code(nb) if len(lines(c)) > longest]
    middle = statistics.median(sizes) if sizes else 0
    return wrong + [f"the median code cell has {middle:g} lines, at most {median}"] * (middle > median)


def opening_rule(nb, room):
    "A lesson opens with title, subtitle, In / Out / You need; then default_exp, exported imports, hidden test imports; Colab's cell doesn't count"
    cells = [c for c in nb.cells if c.id != "colab"]
    start = next((i for i, c in enumerate(cells) if c.cell_type == "code"), 0)
    text, wrong = "\n".join(c.source for c in cells[:start]), []
    if not text.startswith(f"# {room}\n"): wrong.append(f"does not begin with the title `# {room}`")
    if not re.search(r"^> \S", text, re.M): wrong.append("no one-line subtitle `> ...`")
    if not re.search(r"^\| *In *\| *Out *\| *You need *\|", text, re.M): wrong.append("no table In / Out / You need")
    directives = [first_directive(c) for c in cells[start:start + 3]]
    if directives != ["default_exp", "export", "hide"]: wrong.append(f"begins with the cells {directives}, not default_exp, export, hide")
    return wrong


def closing_rule(nb):
    "A lesson shows what goes wrong, and ends with a summary, exercises with a checker that CI runs, and the next door"
    prose = "\n\n".join(c.source for c in nb.cells if c.cell_type == "markdown")
    seen, hidden = ("\n".join(c.source for c in code(nb) if (first_directive(c) == "hide") == h) for h in (False, True))
    checkers = set(re.findall(r"^def (check_\w+)", seen + "\n" + hidden, re.M))
    wanted = {"## Summary": "## Summary" in prose, "## Exercises": "## Exercises" in prose,
              "a part that shows what goes wrong": re.search("goes? wrong|went wrong", prose, re.I),
              "a folded hint": "<summary>Hint" in prose, "a folded solution": "<summary>Solution" in prose,
              "a visible check_... cell": re.search(r"\bcheck_\w+", seen),
              "a hidden cell in which CI runs the solution": not checkers or any(f"{c}(" in hidden for c in checkers),
              "a last line `Next door: ...`": nb.cells[-1].cell_type == "markdown" and re.search(r"^Next door: .*\S\Z", nb.cells[-1].source.strip(), re.M)}
    return [f"lacks {name}" for name, there in wanted.items() if not there]


def promise_rule(nb):
    "Before its first part a lesson says what you will build"
    prose = "\n".join(c.source for c in nb.cells if c.cell_type == "markdown")
    opening = re.split(r"^## ", prose, maxsplit=1, flags=re.M)[0]
    return [] if re.search(r"\b(you|we) (will )?build\b", opening, re.I) else ["does not say what you will build, before its first part"]


def cards(nb):
    "The exercises of a lesson: (number, text), each from its number to the next"
    prose = "\n\n".join(c.source for c in nb.cells if c.cell_type == "markdown")
    pieces = re.split(r"^\*\*(\d+)\. ", prose.partition("## Exercises")[2], flags=re.M)
    return [*zip(map(int, pieces[1::2]), pieces[2::2])]


def card_rule(nb, fewest=2, most=4):
    "Two to four exercises, each a card with difficulty, minutes, a folded hint and solution, and a checker that CI hands the solution to"
    found, wrong = cards(nb), []
    if not fewest <= len(found) <= most: wrong.append(f"{len(found)} exercises, expected {fewest} to {most}")
    if [number for number, _ in found] != [*range(1, len(found) + 1)]: wrong.append("the exercises are not numbered 1, 2, 3")
    for number, text in found:
        wanted = {"*(difficulty, N minutes)* after its title": r"\A[^\n*]+\*\* \*\((easy|medium|hard), \d+ minutes\)\*", "hint": "<summary>Hint</summary>", "solution": "<summary>Solution</summary>"}
        wrong += [f"exercise {number} lacks {name}" for name, pattern in wanted.items() if not re.search(pattern, text)]
    given = len(checkers(nb))
    return wrong + [f"{len(found)} exercises and {given} checkers that a hidden cell calls"] * (given != len(found))


def checkers(nb):
    "The checkers of a lesson: functions of a visible cell that a hidden cell hands a solution to"
    def trees(hidden): return [ast.parse(c.source) for c in code(nb) if (first_directive(c) == "hide") == hidden and "check_" in c.source and not re.search(r"^[%!]", c.source, re.M)]
    made = {n.name: n for tree in trees(False) for n in tree.body if isinstance(n, ast.FunctionDef) and n.name.startswith("check_")}
    called = [ast.unparse(n.value.func) for tree in trees(True) for n in tree.body if isinstance(n, ast.Expr) and isinstance(n.value, ast.Call)]
    return [made[name] for name in dict.fromkeys(called) if name in made]


def telling_rule(nb, fewest=2):
    "A checker says what is wrong, not only that it is: at least two assertions with a sentence, and none without"
    wrong = []
    for checker in checkers(nb):
        asserts = [n for n in ast.walk(checker) if isinstance(n, ast.Assert)]
        words = [n for n in asserts if n.msg is not None]
        if len(words) < fewest: wrong.append(f"{checker.name} can say {len(words)} things, expected {fewest} or more: name the typical mistakes, assert ..., \"you ...\"")
        if len(words) < len(asserts): wrong.append(f"{checker.name} has an assertion without a sentence")
    return wrong


def equation_rule(nb):
    "A displayed equation is followed by the cell that computes it"
    after = [*nb.cells[1:], None]
    return [f"no code after the equation in: {c.source.strip()[:60]}" for c, nxt in zip(nb.cells, after)
            if c.cell_type == "markdown" and "$$" in c.source and (nxt is None or nxt.cell_type != "code")]


def defined(source):
    "Names that an exported cell makes; of a patched method also its class"
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
            if isinstance(node, ast.FunctionDef) and is_patch(node): yield from re.findall(r"\w+", ast.unparse(node.args.args[0].annotation))
        for target in getattr(node, "targets", []):
            if isinstance(target, ast.Name): yield target.id


def shown_rule(nb, within=3):
    "What a cell exports is used in one of the next three cells that export nothing"
    wrong = []
    for i, cell in enumerate(nb.cells):
        names = [n for n in defined(cell.source) if n[0] != "_"] if first_directive(cell).startswith("export") else []
        near = [c.source for c in nb.cells[i + 1:] if c.cell_type == "code" and not first_directive(c).startswith("export")][:within]
        if names and not any(re.search(rf"\b{n}\b", source) for n in names for source in near):
            wrong.append(f"{names[0]} is exported, and neither shown nor tested within the next {within} cells")
    return wrong


def pictures(cell): return [m for o in cell.get("outputs", []) for m in o.get("data", {}) if m.startswith("image/")]


def figure_rule(nb):
    "A cell with a picture says in words what one sees, and a cell that says so holds its picture"
    wrong = [f"a picture without `#| fig-alt:` after: {c.source.strip()[:60]}" for c in code(nb) if pictures(c) and "#| fig-alt:" not in c.source]
    return wrong + [f"no saved picture: {c.source.strip()[:60]}" for c in code(nb) if "#| fig-alt:" in c.source and not pictures(c)]


def link_rule(nb, folder):
    "Links to notebooks and pages lead somewhere"
    targets = [t for c in nb.cells if c.cell_type == "markdown" for t in re.findall(r"\]\(([\w./-]+\.(?:ipynb|md))", c.source)]
    return [f"links to {t}, which is not there" for t in targets if not (folder/t).exists()]


# -- words --------------------------------------------------------------------------------------------------------------------

NOT_OURS = {"a path of somebody's machine": r"/work/|/tmp/[a-z]|/root/|/home/\w", "plt.show": r"plt\.show\b",
            "a package registry by name": "|".join(a + b for a, b in (("py", r"pi\b"), ("npm", r"js\b"), ("pythonhosted", r"\b"))),
            "who wrote it": r"\b(AI|language model|coding) (agent|assistant)s?\b|\bsub-?agents?\b|\bin this session\b"}


def word_rule(text):
    "The project speaks of itself, not of the machine it was made on"
    return [f"{what}: {m[0]!r}" for what, pattern in NOT_OURS.items() for m in re.finditer(pattern, text, re.I)]
