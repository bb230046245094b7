"""Run notebooks in place, each in a kernel of its own, and keep their outputs: `python tools/run.py nbs/00_core.ipynb ...`
`--twice`: run each of them twice in copies, and say where the saved bytes differ; nothing is written."""
import difflib
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from strip import check_size, strip_file


def execute(path):
    "The notebook at `path` with fresh outputs, run where it lies; a failing cell stops it"
    nb = nbformat.read(path, 4)
    where = {"metadata": {"path": str(Path(path).parent)}}
    client = NotebookClient(nb, timeout=600, kernel_name="python3", resources=where, extra_arguments=["--IPKernelApp.log_level=CRITICAL"])
    try: client.execute()
    except CellExecutionError as error: raise RuntimeError(f"{path} fails in a kernel of its own:\n{error}") from None
    return nb


def run(path):
    "Run one notebook in place, clean and stripped"
    start = time.time()
    nbformat.write(execute(path), path)
    subprocess.run(["nbdev_clean", "--fname", path], check=True)
    size = strip_file(Path(path))
    print(f"{path}: {time.time() - start:.1f} s, {size / 1000:.0f} kB", flush=True)
    return check_size(path, size)


def run_copy(path):
    "The text of the notebook after a run, the notebook itself left alone"
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(path, folder)
        run(copy)
        return Path(copy).read_text(encoding="utf-8")


def run_twice(path):
    "A complaint about a notebook whose two runs differ, or None"
    first, second = (run_copy(path).splitlines() for _ in range(2))
    changes = [line[:200] for line in difflib.unified_diff(first, second, "first run", "second run", lineterm="", n=0)]
    return "\n".join([f"{path}: two runs differ", *changes[:20]]) if changes else None


def main(words):
    one = run_twice if "--twice" in words else run
    try: sys.exit("\n".join([fault for path in words if path != "--twice" and (fault := one(path))]) or 0)
    except RuntimeError as error: sys.exit(error)


if __name__ == "__main__": main(sys.argv[1:])
