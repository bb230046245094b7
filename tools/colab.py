"Keep a hidden cell below each notebook's title that installs protolab in Colab and does nothing elsewhere: `python tools/colab.py nbs/00_core.ipynb ...`"
import json
import sys
from pathlib import Path

from nbdev.config import get_config

NAME = "colab"
SOURCE = """#| hide
# In Colab protolab is installed first; elsewhere this cell does nothing
import sys
if "google.colab" in sys.modules: get_ipython().run_line_magic("pip", "install -q git+{url}")"""


def cell(url):
    lines = SOURCE.format(url=url).splitlines(keepends=True)
    return {"cell_type": "code", "execution_count": None, "id": NAME, "metadata": {}, "outputs": [], "source": lines}


def with_cell(nb, url):
    "The notebook with the cell behind its title; an old one goes"
    title, *rest = [c for c in nb["cells"] if c.get("id") != NAME]
    return nb | {"cells": [title, cell(url), *rest]}


def keep(path, url):
    "Write the notebook only when something changes"
    old = json.loads(path.read_text(encoding="utf-8"))
    new = with_cell(old, url)
    if new != old: path.write_text(json.dumps(new, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:]: keep(Path(name), get_config().git_url)
