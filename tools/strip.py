"Take out of saved notebooks what no reader needs: widget state, and views that have a still picture beside them"
import json
import sys
from pathlib import Path

VIEW = "application/vnd.jupyter.widget-view+json"
LIMIT = 500_000  # bytes a notebook


def strip(nb):
    nb["metadata"].pop("widgets", None)
    for cell in nb["cells"]:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(VIEW, None)
    return nb


def main(paths):
    too_large = []
    for path in map(Path, paths):
        old = path.read_text(encoding="utf-8")
        new = json.dumps(strip(json.loads(old)), indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        if new != old:
            path.write_text(new, encoding="utf-8")
        if len(new.encode()) > LIMIT:
            too_large.append(f"{path}: {len(new.encode())} bytes, at most {LIMIT} wanted: show fewer or smaller pictures")
    sys.exit("\n".join(too_large) or 0)


if __name__ == "__main__":
    main(sys.argv[1:])
