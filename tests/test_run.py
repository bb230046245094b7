"Two runs of a saved notebook give the same bytes, and a difference is shown"
import subprocess
import sys

import nbformat
import pytest
from conftest import ROOT


def twice(path):
    return subprocess.run([sys.executable, "tools/run.py", "--twice", str(path)], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["nbs/03_show.ipynb"])
def test_two_runs_give_the_same_bytes(name):
    "A lesson with printed numbers and pictures; its own file is left alone"
    path = ROOT/name
    before = path.read_bytes()
    done = twice(path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert path.read_bytes() == before


def test_a_difference_between_two_runs_is_shown(tmp_path):
    cells = [nbformat.v4.new_code_cell("import time\ntime.time_ns()"), nbformat.v4.new_code_cell("1 + 1")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path/"clock.ipynb")
    done = twice(tmp_path/"clock.ipynb")
    assert done.returncode == 1 and "two runs differ" in done.stderr
