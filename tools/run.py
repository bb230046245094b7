"Run notebooks in place, each in a kernel of its own, and keep their outputs: `python tools/run.py nbs/00_core.ipynb ...`"
import subprocess
import sys
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


if __name__ == "__main__":
    try: sys.exit("\n".join([fault for path in sys.argv[1:] if (fault := run(path))]) or 0)
    except RuntimeError as error: sys.exit(error)
