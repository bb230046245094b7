"Run notebooks in place, each in a kernel of its own, and keep their outputs: `python tools/run.py nbs/00_core.ipynb ...`"
import subprocess
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError


def execute(path):
    "The notebook at `path` with fresh outputs, run where it lies; a failing cell stops it"
    nb = nbformat.read(path, 4)
    where = {"metadata": {"path": str(Path(path).parent)}}
    client = NotebookClient(nb, timeout=600, kernel_name="python3", resources=where, extra_arguments=["--IPKernelApp.log_level=CRITICAL"])
    try: client.execute()
    except CellExecutionError as error: raise RuntimeError(f"{path} fails in a kernel of its own:\n{error}") from None
    return nb


def main(paths):
    for path in paths:
        start = time.time()
        nbformat.write(execute(path), path)
        subprocess.run(["nbdev_clean", "--fname", path], check=True)
        print(f"{path}: {time.time() - start:.1f} s", flush=True)
    sys.exit(subprocess.run([sys.executable, Path(__file__).with_name("strip.py"), *paths]).returncode)


if __name__ == "__main__": main(sys.argv[1:])
