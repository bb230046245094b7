"Take out of saved notebooks what no reader needs: widget state, widgets that have a still picture beside them, progress bars"
import json
import re
import sys
from pathlib import Path

VIEW = "application/vnd.jupyter.widget-view+json"
LIMIT = 500_000  # bytes a notebook


def is_bar(output):
    "A progress bar: only its first state is ever saved"
    data = output.get("data", {})
    return VIEW in data and re.search(r"\d%\|.*\[|\dit \[", "".join(data.get("text/plain", ""))) is not None


def strip(nb):
    nb["metadata"].pop("widgets", None)
    for cell in nb["cells"]:
        if "outputs" in cell: cell["outputs"] = [o for o in cell["outputs"] if not is_bar(o)]
        for output in cell.get("outputs", []): output.get("data", {}).pop(VIEW, None)
    return nb


def strip_file(path):
    "Strip one notebook in place; its size in bytes"
    old = path.read_text(encoding="utf-8")
    new = json.dumps(strip(json.loads(old)), indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    if new != old: path.write_text(new, encoding="utf-8")
    return len(new.encode())


def check_size(path, size):
    "A complaint about a notebook that is too large, or None"
    return f"{path}: {size} bytes, at most {LIMIT} wanted: show fewer or smaller pictures" if size > LIMIT else None


def main(paths):
    faults = [check_size(path, strip_file(Path(path))) for path in paths]
    sys.exit("\n".join(filter(None, faults)) or 0)


if __name__ == "__main__": main(sys.argv[1:])
