"The house rules (tests/rules.py), applied to every room, and the proof that each rule can fail"
import ast
import functools
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import rules
from conftest import ROOT

NOTEBOOKS = sorted([*ROOT.glob("index.ipynb"), *ROOT.glob("nbs/*.ipynb"), *ROOT.glob("nbs/tutorials/*.ipynb")])
TEXTS = [p for pattern in ("*.md", "docs/*.md", "protolab/*.py", "bench/*.py", "Makefile", "settings.ini", "NOTICE") for p in ROOT.glob(pattern)]


@functools.cache
def read(path):
    "A notebook, read once for all rules"
    return nbformat.read(path, 4)


each_room = pytest.mark.parametrize("room", rules.STREET)
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def module(room):
    path = ROOT/"protolab"/f"{room}.py"
    if not path.exists(): pytest.skip(f"the room {room} is not built yet")
    return path.read_text(encoding="utf-8")


def lesson(room):
    path = next(ROOT.glob(f"nbs/*_{room}.ipynb"), None)
    if path is None: pytest.skip(f"the lesson {room} is not written yet")
    return read(path)


def say(wrong):
    if wrong: pytest.fail("\n".join(["", *wrong]), pytrace=False)


# -- the street ---------------------------------------------------------------------------------------------------------------

def test_the_street_is_complete_and_in_order():
    "Each room has one numbered lesson and one module, and the package knows them all"
    import protolab
    numbered = [f"{i:02d}_{room}" for i, room in enumerate(rules.STREET)]
    assert [p.stem for p in sorted(ROOT.glob("nbs/*.ipynb"))] == numbered
    assert {p.stem for p in ROOT.glob("protolab/[!_]*.py")} == set(rules.STREET) == set(protolab.ROOMS)


def test_no_room_is_a_drawer(): assert not [p for p in ROOT.glob("protolab/*.py") if re.search("util|helper|common|misc", p.stem)]


# -- modules ------------------------------------------------------------------------------------------------------------------

@each_room
def test_imports(room): say(rules.import_rule(room, module(room)))


@each_room
def test_functions_are_short(room): say(rules.length_rule(module(room)))


@each_room
def test_few_parameters(room): say(rules.parameter_rule(module(room)))


@each_room
def test_docstrings(room): say(rules.docstring_rule(module(room)))


@each_room
def test_docments_and_shapes(room): say(rules.docment_rule(module(room)))


@functools.cache
def texts_that_are_waited_for():
    "The same for every room, so read once"
    notebooks = [c.source for p in NOTEBOOKS for c in rules.code(read(p))]
    return [w for source in [*notebooks, *(p.read_text(encoding="utf-8") for p in ROOT.glob("tests/test_*.py"))] for w in rules.expected(source)]


@each_room
def test_every_error_is_met(room): say(rules.raise_rule(module(room), texts_that_are_waited_for()))


def test_train_does_not_know_prototypes(): assert "prototype" not in module("train").lower()


def test_pyflakes():
    folders = [str(p) for name in ("protolab", "tools", "tests", "bench") for p in (ROOT/name).glob("*.py")]
    done = subprocess.run([sys.executable, "-m", "pyflakes", *folders], capture_output=True, text=True)
    assert not done.stdout + done.stderr


def fresh(source):
    "What a fresh Python prints"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


ALONE = """
import os, sys, torch, torchvision, numpy, ipywidgets, matplotlib.pyplot
for room in sys.argv[1:] or {rooms}:
    if (child := os.fork()) == 0:                      # a process in which no room has been imported
        try: __import__(f"protolab.{{room}}"); os._exit(0)
        except BaseException as error: print(f"{{room}}: {{error!r}}", flush=True); os._exit(1)
    os.waitpid(child, 0)
"""


def test_each_module_imports_alone():
    "Exported code reads no variable of its notebook"
    rooms = [r for r in rules.STREET if (ROOT/"protolab"/f"{r}.py").exists()]
    assert fresh(ALONE.format(rooms=rooms)) == ""


@pytest.mark.parametrize("name", ["protolab", "protolab.birds", "protolab.cli"])
def test_light_imports(name):
    "The package, the renderer and the command start without torch"
    if "." in name: module(name.split(".")[1])
    assert fresh(f"import sys, {name}; print('torch' in sys.modules)") == "False"


def public_names():
    "room -> its __all__, read without importing it"
    for room in rules.STREET:
        if (ROOT/"protolab"/f"{room}.py").exists():
            tree = ast.parse(module(room))
            yield room, next(ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__")


def test_names_are_unique():
    owner = {}
    for room, names in public_names():
        for name in names: assert owner.setdefault(name, room) == room, f"{name} is exported by {owner[name]} and by {room}"
    assert not owner.keys() & set(rules.STREET), "a name hides a room"


def test_star_import_gives_the_public_names():
    "All rooms give their names; the command's `main` and `say` are nobody's business in a notebook"
    names = {room: set(names) for room, names in public_names()}
    command = names.pop("cli")
    got = set(json.loads(fresh("from protolab import *; import json; print(json.dumps([n for n in dir() if n[0] != '_']))")))
    assert set().union(*names.values()) <= got and not command & got


# -- lessons ------------------------------------------------------------------------------------------------------------------

@each_notebook
def test_cells_are_short(path): say(rules.cell_rule(read(path)))


@each_room
def test_a_lesson_opens_well(room): say(rules.opening_rule(lesson(room), room))


@each_room
def test_a_lesson_closes_well(room): say(rules.closing_rule(lesson(room)))


@each_room
def test_a_lesson_says_what_you_will_build(room): say(rules.promise_rule(lesson(room)))


@each_room
def test_exercises_are_cards(room): say(rules.card_rule(lesson(room)))


@each_room
def test_checkers_say_what_is_wrong(room): say(rules.telling_rule(lesson(room)))


@each_room
def test_exported_cells_are_shown(room): say(rules.shown_rule(lesson(room)))


@each_notebook
def test_equations_are_computed(path): say(rules.equation_rule(read(path)))


@each_notebook
def test_figures(path): say(rules.figure_rule(read(path)))


@each_notebook
def test_links(path): say(rules.link_rule(read(path), path.parent))


@each_notebook
def test_saved_notebooks_are_small(path): assert path.stat().st_size <= 500_000


@each_notebook
def test_notebook_words(path):
    outputs = [json.dumps({k: v for k, v in o.get("data", {}).items() if k.startswith("text/plain")}) + str(o.get("text", ""))
               for c in rules.code(read(path)) for o in c.outputs]
    say(rules.word_rule("\n".join([*(c.source for c in read(path).cells), *outputs])))


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_words(path): say(rules.word_rule(path.read_text(encoding="utf-8")))


# -- every rule can fail ------------------------------------------------------------------------------------------------------

LONG = "def f(x):\n" + "    x += 1\n" * 25
BAD_MODULES = {
    "a star": (lambda s: rules.import_rule("data", s), "from torch import *", "import *"),
    "a room too many": (lambda s: rules.import_rule("show", s), "from protolab.data import Images", "the room data"),
    "a relative room": (lambda s: rules.import_rule("show", s), "from .data import Images", "the room data"),
    "a package too many": (lambda s: rules.import_rule("birds", s), "import torch", "the package torch"),
    "a room at the top of the command": (lambda s: rules.import_rule("cli", s), "from protolab.street import walk", "outside a function"),
    "a long function": (rules.length_rule, LONG, "26 lines, at most 25"),
    "long functions on the whole": (rules.length_rule, LONG.replace("x += 1\n" * 25, "") + "    x += 1\n" * 10, "the median function"),
    "six parameters": (rules.parameter_rule, "def f(a, b, c, d, e, g): pass", "6 parameters"),
    "keywords through": (rules.parameter_rule, "def f(**kw): return g(**kw)", "hands **kw through"),
    "no docstring": (rules.docstring_rule, "def f(x): return x", "no docstring"),
    "no docstring on a method": (rules.docstring_rule, "class A:\n    'A'\n    def f(self):\n        x = 1\n        y = 2\n        return x", "no docstring"),
    "a long docstring": (rules.docstring_rule, "def f(x):\n    '''One\n    two'''", "more than one line"),
    "no docment": (rules.docment_rule, "def f(\n    x, # what\n    y,\n): 'f'", "no comment after y"),
    "no docment of a field": (rules.docment_rule, "class A(NamedTuple):\n    'A'\n    x: int", "no comment after x"),
    "no shape": (rules.docment_rule, "def f(\n    x:Tensor, # images\n): 'f'", "has no shape"),
    "an error nobody meets": (lambda s: rules.raise_rule(s, ["labels from"]), "raise ValueError(f'{n} images came')", "nothing meets"),
}


@pytest.mark.parametrize("name", BAD_MODULES)
def test_a_module_rule_can_fail(name):
    rule, source, complaint = BAD_MODULES[name]
    assert any(complaint in wrong for wrong in rule(source)), rule(source)


GOOD_MODULE = '''
def f(
    x:Tensor, # (N,) numbers
    y:int=0, # a number
)->Tensor: # (N,)
    "Adds them"
    if y < 0: raise ValueError(f"y is {y}: expected 0 or more")
    return x + y
'''


def test_a_good_module_passes():
    found = [rules.import_rule("loss", "import torch\nfrom protolab.core import Out"), rules.length_rule(GOOD_MODULE), rules.parameter_rule(GOOD_MODULE),
             rules.docstring_rule(GOOD_MODULE), rules.docment_rule(GOOD_MODULE), rules.raise_rule(GOOD_MODULE, ["expected 0 or more"])]
    assert found == [[]] * 6


def notebook(*cells):
    "A notebook of strings; those that begin with a fence are code"
    make = lambda s: nbformat.v4.new_code_cell(s[1:]) if s[0] == "`" else nbformat.v4.new_markdown_cell(s)
    return nbformat.v4.new_notebook(cells=[make(s) for s in cells])


LESSON = ["# core\n\n> Nouns\n\n| In | Out | You need |\n|---|---|---|\n| a | b | c |", "`#| default_exp core", "`#| export\nimport os", "`#| hide\nimport re",
          "You will build a noun.\n\n## What goes wrong\n\n$$x = 1$$", "`x = 1", "`#| export\ndef one(): return 1", "`one()",
          "## Summary\n\n## Exercises\n\n**1. F.** *(easy, 5 minutes)* Write f.\n<details><summary>Hint</summary>a</details>\n<details><summary>Solution</summary>b</details>",
          "`def check_f(f):\n    assert f(), 'say something'\n    assert f() == 1, 'say 1'", "`#| hide\ncheck_f(f)",
          "**2. G** *(hard, 25 minutes)* Write g.\n<details><summary>Hint</summary>a</details>\n<details><summary>Solution</summary>b</details>",
          "`def check_g(f):\n    assert f(1), 'of 1 too'\n    assert f(2) == 2, 'of 2 too'", "`#| hide\ncheck_g(g)",
          "Next door: [birds](01_birds.ipynb), where birds are drawn."]
LESSON_RULES = [rules.cell_rule, lambda nb: rules.opening_rule(nb, "core"), rules.promise_rule, rules.closing_rule, rules.card_rule, rules.telling_rule,
                rules.equation_rule, rules.shown_rule, rules.figure_rule]


def test_a_good_lesson_passes(): assert [rule(notebook(*LESSON)) for rule in LESSON_RULES] == [[]] * len(LESSON_RULES)


def test_a_lesson_may_begin_with_colabs_cell():
    "And with no other cell"
    nb = notebook(LESSON[0], "`#| hide\nimport sys", *LESSON[1:])
    assert "begins with the cells" in rules.opening_rule(nb, "core")[0]
    nb.cells[1].id = "colab"
    assert not rules.opening_rule(nb, "core")


SPOILT = {  # what is replaced by what -> the complaint
    "another title": ("# core\n", "# Core\n", "the title"), "no subtitle": ("> Nouns", "Nouns", "subtitle"), "no table": ("| In |", "| Input |", "no table"),
    "no hidden imports": ("`#| hide\nimport re", "`import re", "begins with the cells"), "nothing goes wrong": ("What goes wrong", "Fine", "what goes wrong"),
    "no summary": ("## Summary", "## End", "## Summary"), "no hint": ("<summary>Hint", "<summary>Tip", "hint"),
    "no promise": ("You will build", "Here is", "what you will build"), "one exercise": ("**2. G**", "*2. G*", "1 exercises, expected 2 to 4"),
    "exercises out of order": ("**2. G**", "**3. G**", "not numbered"), "no minutes": ("(easy, 5 minutes)", "(easy)", "exercise 1 lacks *(difficulty"),
    "an odd difficulty": ("(hard, 25", "(nasty, 25", "exercise 2 lacks *(difficulty"), "no hint in one": ("Write g.\n<details><summary>Hint", "Write g.\n<details><summary>Tip", "exercise 2 lacks hint"),
    "no solution in one": ("Write f.\n<details><summary>Hint</summary>a</details>\n<details><summary>Solution", "Write f.\n<details><summary>Hint</summary>a</details>\n<details><summary>Answer", "exercise 1 lacks solution"),
    "one checker": ("`#| hide\ncheck_g(g)", "`#| hide\npass", "2 exercises and 1 checkers"),
    "a mute checker": (", 'of 1 too'", "", "an assertion without a sentence"), "a checker of few words": ("\n    assert f() == 1, 'say 1'", "", "can say 1 things"),
    "solution not run": ("`#| hide\ncheck_f(f)", "`#| hide\npass", "hidden cell"), "no next door": ("Next door:", "Next:", "Next door"),
    "an equation alone": ("`x = 1", "Then prose.", "after the equation"), "an export alone": ("`one()", "`1", "neither shown nor tested"),
    "a long cell": ("`x = 1", "`" + "x = 1\n" * 26, "26 lines"), "no picture": ("`x = 1", "`#| fig-alt: a bird\nx = 1", "no saved picture")}


@pytest.mark.parametrize("name", SPOILT)
def test_a_lesson_rule_can_fail(name):
    old, new, complaint = SPOILT[name]
    spoilt = notebook(*[cell.replace(old, new) if old in cell else cell for cell in LESSON])
    wrong = [w for rule in LESSON_RULES for w in rule(spoilt)]
    assert any(complaint in w for w in wrong), wrong


def test_the_median_cell_can_be_too_long():
    assert "median" in rules.cell_rule(notebook("`" + "x = 1\n" * 6))[0]


def test_a_picture_needs_words():
    nb = notebook("`draw()")
    nb.cells[0].outputs = [nbformat.v4.new_output("display_data", {"image/png": ""})]
    assert "a picture without" in rules.figure_rule(nb)[0]


def test_a_link_can_lead_nowhere(): assert rules.link_rule(notebook("[x](99_x.ipynb)"), Path(ROOT/"nbs"))


@pytest.mark.parametrize("text", ["see /work" "/main", "plt" ".show()", "from py" "pi", "/tmp" "/kit"])
def test_words_can_fail(text): assert rules.word_rule(text)
