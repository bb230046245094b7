"What the site's own pages take from elsewhere, so that no number is typed twice: the map, the letters, the benchmarks' headlines"
import ast
import re
from html import escape

from lessons import LINES, PICTURES, ROOT, WORDS, chapters, door, exercise_minutes, notebooks, page_name, read, reading_minutes, street
from nbdev.config import get_config

# -- the map ------------------------------------------------------------------------------------------------------------------


def imported(room):
    "The rooms that a room's module imports"
    tree = ast.parse((ROOT/"protolab"/f"{room}.py").read_text(encoding="utf-8"))
    return {n.module.removeprefix("protolab.") for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module and (n.level or n.module.startswith("protolab."))}


def needs():
    "room -> all rooms that it needs, directly or through another"
    found = {}
    for room in map(page_name, street()):
        direct = imported(room) & found.keys()
        found[room] = direct.union(*(found[r] for r in direct))
    return found


def after(room, needed):
    "The rooms that a room needs and that no other of them needs: what must come just before it"
    return [r for r in needed[room] if not any(r in needed[other] for other in needed[room])]


def what_you_build():
    "room -> the words of the front door's table"
    text = "\n".join(c.source for c in read(ROOT/"index.ipynb").cells if c.cell_type == "markdown")
    return {page_name(path): what for path, what in re.findall(r"^\| *\d+ *\| *\[[^\]]*\]\(([^)]*)\) *\| *(.*?) *\|$", text, re.M)}


def door_html(path, needed):
    room, nb = page_name(path), read(path)
    before = ", ".join(r.replace("_", " ") for r in sorted(after(room, needed), key=list(needed).index))
    return (f'<a class="door" id="door-{room}" href="{room}.html"><b>{door(path)}</b><span>{room.replace("_", " ")}</span>'
            f'<small>{reading_minutes(nb)} min</small><em>{"after " + before if before else "needs no other"}</em></a>')


def lights(needed):
    "Point at a door, or reach it by Tab, and the doors that it needs light up"
    rules = [f".street-map:has(#door-{room}:is(:hover,:focus-visible)) :is({','.join(f'#door-{r}' for r in sorted(rooms))})" for room, rooms in needed.items() if rooms]
    return "<style>" + ",\n".join(rules) + "{border-color:var(--color-brand-primary);box-shadow:0 0 0 2px var(--color-brand-primary)}</style>"


def map_picture(_):
    "The street as houses, one a chapter, with doors"
    needed = needs()
    houses = [f'<section><h3>{escape(title)}</h3><div>{"".join(door_html(p, needed) for p in paths)}</div></section>' for title, paths in chapters().items()]
    return f'```{{raw}} html\n{lights(needed)}\n<div class="street-map" role="group" aria-label="The street: its doors in order">{"".join(houses)}</div>\n```'


def map_table(seconds):
    "Minutes and seconds of each lesson and walk"
    built, rows, totals = what_you_build(), [], [0, 0]
    for path in notebooks()[1:]:
        nb, name = read(path), page_name(path)
        minutes = reading_minutes(nb), exercise_minutes(nb)
        totals = [a + b for a, b in zip(totals, minutes)]
        title = f"[{name.replace('_', ' ')}]({name}.ipynb)" if path in street() else f"[{nb.cells[0].source.splitlines()[0].lstrip('# ')}]({name}.ipynb)"
        rows.append((door(path) if path in street() else "", title, built.get(name, ""), minutes[0], minutes[1] or "", f"{seconds[path]:.0f}" if path in seconds else ""))
    rows.append(("", "**all**", "", *(f"{m // 60} h {m % 60} min" for m in totals), f"{sum(seconds.values()):.0f}" if seconds else ""))
    shown = 6 if seconds else 5  # no column of seconds where nothing was run
    head = ("door", "lesson", "what you build", "minutes to read", "minutes of exercises", "seconds to run")
    return rows_as_table(head[:shown], [row[:shown] for row in rows], "rllrrr"[:shown])


def reading_rule(seconds):
    "How the minutes are counted"
    run = "The seconds were measured while this page was made, two notebooks at a time." if seconds else "The seconds are measured when this page is made by `make docs`."
    return (f"Minutes to read are counted from the notebook: {WORDS} words, {LINES} lines of visible code or {PICTURES} pictures a minute. Minutes of exercises are "
            f"the sum of what the cards say. {run}")


def rows_as_table(head, rows, align=""):
    marks = {"r": "---:", "l": "---"}
    line = "|" + "|".join(marks[a] for a in (align or "l" * len(head))) + "|"
    return "\n".join([f"| {' | '.join(map(str, head))} |", line, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


# -- letters and benchmarks ---------------------------------------------------------------------------------------------------

def tables(text):
    "Each table as a list of lines"
    return [m[0].strip().splitlines() for m in re.finditer(r"(?:^\|.*\n?)+", text, re.M)]


def letters(_):
    "The table of letters, from the first lesson"
    text = next(c.source for c in read(street()[0]).cells if "## The letters" in c.source)
    return "\n".join(tables(text.split("## The letters")[1])[0])


def without_runs(lines):
    "Rows of a table without its last column, if that tells each run"
    return [re.sub(r"\|[^|]*\|$", "|", line) for line in lines] if lines[0].rstrip("| ").endswith("each run") else lines


def headline(words):
    "Some rows of a benchmark's page, with its command, date and machine: `fill headline bench-default: accuracy; drop`"
    name, wanted = words.split(":", 1)
    text = (ROOT/"docs"/f"{name.strip()}.md").read_text(encoding="utf-8")
    facts = re.findall(r"^- (?:Command|Machine): .*$", text, re.M)
    rows = [line for t in tables(text) for line in t]
    found = [next((r for r in rows if r.lstrip("| ").startswith(w.strip())), None) for w in wanted.split(";")]
    if None in found: raise RuntimeError(f"docs/benchmarks.md: docs/{name.strip()}.md has no row that begins with {wanted.split(';')[found.index(None)].strip()!r}")
    home = next(t for t in tables(text) if found[0] in t)
    return "\n".join([*without_runs([*home[:2], *found]), "", *facts, f"- All rows, and how they were measured: [{name.strip()}]({name.strip()}.md)"])


def version(_): return get_config().version
def address(_): return get_config().git_url


MADE = {"version": version, "address": address, "map-picture": map_picture, "map-table": map_table, "reading-rule": reading_rule, "letters": letters}


def fill(text, seconds):
    "Replace `<!-- fill name -->` by what it stands for"
    def made(m):
        if m[1].startswith("headline "): return headline(m[1].removeprefix("headline "))
        if m[1] not in MADE: raise RuntimeError(f"<!-- fill {m[1]} --> is unknown: choose one of {', '.join(MADE)} or headline PAGE: ROW; ROW")
        return MADE[m[1]](seconds)
    return re.sub(r"<!-- fill (.*?) -->", made, text)
