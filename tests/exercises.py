"""Exercises taken out of a lesson without running the lesson: the reader's checker, the solution that CI runs, and only the
statements that these two need. tests/test_exercises.py shows with them that each checker says what is wrong."""
import ast
import dis
import importlib
from functools import cache
from types import SimpleNamespace

import nbformat
import torch
from conftest import ROOT


def names(code, *operations):
    "Global names that compiled code (functions inside it too) reads or writes"
    found = {i.argval for i in dis.get_instructions(code) if i.opname in operations}
    return found.union(*(names(c, *operations) for c in code.co_consts if hasattr(c, "co_code")))


def compiled(node): return compile(ast.Module([node], []), "lesson", "exec")


def reads(node): return names(compiled(node), "LOAD_NAME", "LOAD_GLOBAL")


def writes(node): return {i.argval for i in dis.get_instructions(compiled(node)) if i.opname == "STORE_NAME"}


@cache
def statements(lesson):
    "All code of a lesson (`00_core`) that its module does not hold already: (is it in a hidden cell, statement, names that it makes)"
    cells = [c.source for c in nbformat.read(ROOT/"nbs"/f"{lesson}.ipynb", 4).cells if c.cell_type == "code"]
    plain = [(s.startswith("#| hide"), "\n".join(line for line in s.splitlines() if not line.startswith(("%", "!"))))
             for s in cells if not s.startswith(("#| export", "#| default_exp"))]
    return [(hidden, node, writes(node)) for hidden, source in plain for node in ast.parse(source).body]


def calls(lesson):
    "Where a hidden cell hands a solution to a checker of this lesson: name of the checker -> (number of the statement, source of the solution)"
    made = {node.name for _, node, _ in statements(lesson) if isinstance(node, ast.FunctionDef) and node.name.startswith("check_")}
    called = [(i, node.value) for i, (hidden, node, _) in enumerate(statements(lesson)) if hidden and isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)]
    return {ast.unparse(call.func): (i, ast.unparse(call.args[0])) for i, call in called if ast.unparse(call.func) in made}


def checkers(lesson): return [*calls(lesson)]


def define(name, before, found, space):
    "Runs the last statement before number `before` that makes `name`, and first those that it needs"
    i = next((i for i in reversed(range(before)) if name in found[i][2]), None)
    if i is None or name in space: return
    _, node, made = found[i]
    for other in reads(node) - {name}: define(other, i if other in made else before, found, space)
    exec(compiled(node), space)


def spoilt(solution, found, old, new):
    "The source of a solution with `new` in place of `old`"
    source = ast.unparse(next(node for hidden, node, made in reversed(found) if hidden and solution in made))
    assert old in source, f"the solution does not contain {old!r}:\n{source}"
    return source.replace(old, new)


def card(
    lesson,    # `00_core`
    checker,   # the name of its checker: `check_decided`
    old="",    # a piece of the solution (as `ast.unparse` writes it), and
    new="",    # what a reader might have written instead
): # `.check` (the checker), `.solution` (what the hidden cell hands to it), `.names` (the lesson's namespace, as far as it was needed)
    "One exercise, without running the lesson"
    found, (last, solution) = statements(lesson), calls(lesson)[checker]
    space = dict(vars(importlib.import_module(f"protolab.{lesson.split('_', 1)[1]}")))
    torch.manual_seed(0)
    for name in [checker, *reads(ast.parse(solution).body[0])]: define(name, last, found, space)
    if old: exec(spoilt(solution, found, old, new), space)
    return SimpleNamespace(check=space[checker], solution=eval(solution, space), names=space)


def complaint(check, f):
    "What the checker says of `f`; nothing when it is content. Any other error goes through: a checker must speak in words"
    torch.manual_seed(0)
    try: check(f)
    except AssertionError as error: return str(error)
    return ""


def says(
    lesson,    # `00_core`
    checker,   # the name of its checker
    wrong,     # a typical wrong answer: a function; the source of one (`"lambda s, W, c: 0"`, run with the lesson's names); or (old, new): the solution, spoilt
    phrase,    # what the checker must say
):
    "Fails unless the checker meets a typical wrong answer with a telling phrase"
    one = card(lesson, checker, *(wrong if isinstance(wrong, tuple) else ()))
    f = one.solution if isinstance(wrong, tuple) else eval(wrong, one.names) if isinstance(wrong, str) else wrong
    said = complaint(one.check, f)
    assert said, f"{lesson}: {checker} is content with a wrong answer: {wrong}"
    assert phrase in said, f"{lesson}: {checker} says of {wrong}\n  {said!r}\nand not\n  {phrase!r}"


def accepts(lesson, checker):
    "Fails unless the checker is content with the lesson's own solution"
    one = card(lesson, checker)
    assert complaint(one.check, one.solution) == "", f"{lesson}: {checker} refuses the solution"
