"""Bring library and README in step with the notebooks: export, clean, Colab's cell, strip, README.
`--check` does it in a copy and fails with the difference, so a test never changes the working tree."""
import difflib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("settings.ini", "setup.py", "README.md", "index.ipynb", "nbs", "protolab", "tools")


def sync(root):
    "Do the five steps in the project that lies at `root`"
    notebooks = sorted(str(p.relative_to(root)) for p in [*root.glob("*.ipynb"), *root.glob("nbs/**/[!._]*.ipynb")])
    python, env = sys.executable, os.environ | {"PYTHONPATH": str(root)}
    for command in (["nbdev_export"], ["nbdev_clean", "--fname", "."], [python, "tools/colab.py", *notebooks], [python, "tools/strip.py", *notebooks], [python, "tools/docs.py", "--readme"]):
        subprocess.run(command, cwd=root, env=env, check=True)


def copy(root, to):
    for part in PARTS:
        if (root/part).is_dir(): shutil.copytree(root/part, to/part, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
        elif (root/part).exists(): shutil.copy(root/part, to/part)


def texts(root):
    "What the gate compares: every notebook, every module, the README"
    files = [p for part in ("index.ipynb", "nbs", "protolab", "README.md") for p in [root/part, *(root/part).rglob("*")]]
    return {str(p.relative_to(root)): p.read_text(encoding="utf-8") for p in files if p.suffix in (".ipynb", ".py", ".md")
            and not {"__pycache__", ".ipynb_checkpoints"} & set(p.parts)}


def differences(old, new, lines=40):
    "One short diff for each file that differs"
    for name in sorted(old.keys() | new.keys()):
        a, b = (t.get(name, "").splitlines() for t in (old, new))
        if a != b: yield "\n".join(list(difflib.unified_diff(a, b, f"{name} (here)", f"{name} (after make sync)", lineterm="", n=1))[:lines])


def check(root=ROOT):
    "The differences that a sync would make"
    with tempfile.TemporaryDirectory() as tmp:
        copy(root, Path(tmp))
        sync(Path(tmp))
        return list(differences(texts(root), texts(Path(tmp))))


if __name__ == "__main__":
    if "--check" not in sys.argv: sync(ROOT)
    elif found := check(): sys.exit("\n\n".join(found) + "\n\nNotebooks, library and README differ: run `make sync` and commit")
    else: print("notebooks, library and README are in step")
