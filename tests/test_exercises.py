"The exercises of the lessons 00 to 12: each checker accepts the solution, and tells a typical mistake in words"
import pytest
from conftest import ROOT
from exercises import accepts, card, checkers, complaint, says

LESSONS = [p.stem for p in sorted(ROOT.glob("nbs/[01][0-9]_*.ipynb")) if p.stem < "13"]
ALL = [(lesson, checker) for lesson in LESSONS for checker in checkers(lesson)]

WRONG = [  # lesson, checker, a wrong answer (its source, or what is replaced in the solution), what the checker says
    ("00_core", "check_decided", "lambda s, W, c: s.argmax().item()", "multiply before you compare"),
]


@pytest.mark.parametrize("lesson, checker", ALL, ids=[checker for _, checker in ALL])
def test_the_solution_is_accepted(lesson, checker): accepts(lesson, checker)


@pytest.mark.parametrize("lesson, checker, wrong, phrase", WRONG, ids=[f"{checker}-{phrase}" for _, checker, _, phrase in WRONG])
def test_the_checker_says_what_is_wrong(lesson, checker, wrong, phrase): says(lesson, checker, wrong, phrase)
