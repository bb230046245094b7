"Run notebooks in fresh kernels and keep their outputs: `python tools/run.py nbs/00_core.ipynb ...`"
import subprocess
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def run(path):
    nb = nbformat.read(path, 4)
    NotebookClient(nb, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
    nbformat.write(nb, path)


if __name__ == "__main__":
    paths = [Path(p) for p in sys.argv[1:]]
    for path in paths:
        print(path, flush=True)
        run(path)
        subprocess.run(["nbdev_clean", "--fname", str(path)], check=True)
    subprocess.run([sys.executable, "tools/strip.py", *map(str, paths)], check=True)
