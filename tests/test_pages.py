"What the tools make of notebooks and modules for the site, by values that can be derived by hand"
import json
import re
import sys

import nbformat
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT/"tools"))
import api
import colab
import docs
import guide
import lessons

MODULE = '''"A room"
__all__ = ['A', 'f', 'R']

A = (1, 2) # two numbers

def f(
    x:int|None, # a number, or nothing
    *rest, # others
    k:str="a", # a letter
)->list: # all of them
    "Gathers them"
    return [x, *rest, k]

class R:
    "A record"
    n: int # how many

@patch
def more(self:R,
    by:int=1, # how much more
)->int: # the sum
    "Adds to it"
    return self.n + by

def inner(): "Is not public"
'''


def text(*cells): return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(c) for c in cells])


def test_reading_minutes():
    "400 words, 15 lines of visible code and 4 pictures: 2 + 1 + 1 minutes; hidden cells and hints are not read"
    nb = text("word " * 400, "<details><summary>Hint</summary>" + "word " * 400 + "</details>")
    picture = nbformat.v4.new_output("display_data", {"image/jpeg": ""})
    nb.cells += [nbformat.v4.new_code_cell("#| export\n" + "x = 1\n\n" * 15), nbformat.v4.new_code_cell("#| hide\n" + "x = 1\n" * 90)]
    nb.cells += [nbformat.v4.new_code_cell("", outputs=[picture]) for _ in range(4)]
    assert lessons.reading_minutes(nb) == 4


def test_exercise_minutes(): assert lessons.exercise_minutes(text("**1. A** *(easy, 5 minutes)* Do.\n\n**2. B** *(hard, 25 minutes)*", "takes 90 minutes")) == 30


def test_chapters_hold_the_street_in_order():
    assert [p for paths in lessons.chapters().values() for p in paths] == lessons.street() and "" not in lessons.chapters()


def test_names_that_differ_by_a_letters_size():
    "Each has an anchor of its own, and links find the right one"
    assert {name: api.anchors("street")[name] for name in ("Walk", "walk", "told")} == {"Walk": "walk", "walk": "walk-1", "told": "told"}
    assert re.findall(r"#([\w-]+)", docs.symbols("`Walk`, `walk`, `told`")) == ["walk", "walk-1", "told"]


def test_the_api_of_a_module():
    "The public names, in order, each with its docments"
    entries = {name: api.entry("room", name, node, api.comments(MODULE)) for name, node in api.named(MODULE)}
    assert list(entries) == ["A", "f", "R", "R.more"]
    assert "f(x: int | None, *rest, k: str = 'a') -> list" in entries["f"] and "**Returns:** all of them" in entries["f"]
    assert r"| `x` | `int \| None` |  | a number, or nothing |" in entries["f"] and "| `k` | `str` | `'a'` | a letter |" in entries["f"]
    assert "| `n` | `int` | how many |" in entries["R"] and "default" not in entries["R"]
    assert "more(by: int = 1) -> int" in entries["R.more"] and "source-room.html#L-18" in entries["R.more"] and "room.html#def-R.more" in entries["R.more"]
    assert "two numbers" in entries["A"]


def test_a_room_comes_after_those_that_it_needs():
    needed = guide.needs()
    assert not needed["core"] and {"core", "backbone", "prototypes"} <= needed["project"]
    assert set(guide.after("model", needed)) == {"backbone", "prototypes"}  # core comes with backbone


def test_a_page_is_filled():
    assert "| `z` | (N,D,h,w) |" in guide.fill("<!-- fill letters -->", {})
    assert "Machine:" in guide.fill("<!-- fill headline bench-layer: 7x7 | fused -->", {})
    assert "| 12 |" in guide.fill("<!-- fill map-table -->", {lessons.street()[0]: 12.3})


@pytest.mark.parametrize("words, complaint", [("letter", "is unknown: choose one of"), ("headline bench-layer: 7x7 | fussed", "has no row that begins with '7x7 | fussed'")])
def test_a_page_is_not_filled_with_nothing(words, complaint):
    with pytest.raises(RuntimeError) as failed: guide.fill(f"<!-- fill {words} -->", {})
    assert complaint in str(failed.value)


def test_no_page_is_left_unfilled():
    "And each word to fill is known"
    for path in ROOT.glob("docs/*.md"): assert "<!-- fill" not in guide.fill(path.read_text(encoding="utf-8"), {}), path.name


def test_colabs_cell_is_kept(tmp_path):
    "Behind the title, once, with the address of today"
    path = tmp_path/"a.ipynb"
    nbformat.write(text("# a", "b"), path)
    for url in ("http://old", "http://new", "http://new"): colab.keep(path, url)
    cells = nbformat.read(path, 4).cells
    assert [c.cell_type for c in cells] == ["markdown", "code", "markdown"] and cells[1].id == "colab"
    assert "git+http://new" in cells[1].source and lessons.hidden(cells[1])
    exec(cells[1].source, {})                         # elsewhere it does nothing


def test_a_page_carries_the_widgets_that_it_shows_and_what_joins_them():
    "Of a progress bar's models none; of two joined ones, their link too"
    def model(name, **state): return {"model_name": name, "state": state}
    state = {"box": model("VBoxModel", children=["IPY_MODEL_a", "IPY_MODEL_b"]), "a": model("SliderModel"), "b": model("StackModel"), "bar": model("HBoxModel"),
             "join": model("LinkModel", source=["IPY_MODEL_a", "index"], target=["IPY_MODEL_b", "selected_index"]),
             "other": model("LinkModel", source=["IPY_MODEL_a", "index"], target=["IPY_MODEL_bar", "value"])}
    view = nbformat.v4.new_output("display_data", {docs.VIEW: {"model_id": "box"}})
    assert docs.used_state(state, [nbformat.v4.new_code_cell("", outputs=[view])]).keys() == {"box", "a", "b", "join"}


def test_the_hero_moves_to_the_top():
    shown = nbformat.v4.new_output("display_data", {"image/jpeg": ""})
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# a"), nbformat.v4.new_code_cell("#| hero\nReel()", outputs=[shown])])
    made = docs.front(nbformat.from_dict(json.loads(json.dumps({**nb, "cells": [*nb.cells]}))), nb)
    assert [c.id for c in made.cells][1:3] == ["hero", "hint"] and made.cells[1].outputs == [shown] and not made.cells[3].outputs
