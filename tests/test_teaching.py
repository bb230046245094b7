"The instructor's page: its links lead to headings that are there, its exercises are the cards of the lessons"
import re

import nbformat
import pytest
from conftest import ROOT

PAGE = (ROOT/"docs"/"teaching.md").read_text(encoding="utf-8")
BOOKS = {re.sub(r"^\d+_", "", p.stem): p for folder in ("nbs", "nbs/tutorials", ".") for p in (ROOT/folder).glob("*.ipynb")}
LINKS = sorted(set(re.findall(r"\]\(([\w-]+)\.ipynb(?:#([\w-]+))?\)", PAGE)))


def prose(name): return "\n\n".join(c.source for c in nbformat.read(BOOKS[name], 4).cells if c.cell_type == "markdown")


def anchors(text):
    "What the site calls the headings of a page"
    heads = re.findall(r"^#+ +(.+?) *$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize(("page", "anchor"), LINKS)
def test_a_link_leads_to_a_heading(page, anchor): assert not anchor or anchor in anchors(prose(page))


def test_the_exercises_of_the_unit_are_cards_with_these_minutes():
    asked = re.findall(r"\[([^\]]+)\]\((\w+)\.ipynb#exercises\) \((\d+)\)", PAGE)
    assert len(asked) > 15
    for name, page, minutes in asked:
        card = re.search(rf"^\*\*\d\. {re.escape(name.rstrip('.'))}\.?\*\* \*?\(\w+, (\d+) minutes\)", prose(page), re.M)
        assert card, f"{page} has no exercise {name!r}"
        assert card[1] == minutes, f"{page}, {name}: {card[1]} minutes, not {minutes}"


def test_misconceptions_are_corrected_by_a_cell():
    rows = [line for line in PAGE.split("## Where students go wrong")[1].split("## ")[0].splitlines() if line.startswith('| "')]
    assert len(rows) >= 8 and all(re.search(r"\]\(\w+\.ipynb#", row.split("|")[3]) for row in rows)
