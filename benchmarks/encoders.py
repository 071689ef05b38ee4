"""Which encoders can teach and which can learn: timm's families, transformers' vision types, open_clip's towers.

    python benchmarks/encoders.py teachers timm              those that are not in the results yet
    python benchmarks/encoders.py teachers hf --only clip    these again
    python benchmarks/encoders.py students timm --seconds 120    stops asking after so long; the next call goes on
    python benchmarks/encoders.py table                      writes docs/teachers.md and docs/students.md

Each model has a process of its own with limits on memory and time: one that takes all of either costs a row.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from benchmarks import encoders_students, encoders_teachers  # noqa: E402
from benchmarks.encoders_models import hf_models, open_clip_models, timm_models  # noqa: E402
from unicscale.errors import UserError  # noqa: E402

Row = dict[str, Any]
RESULTS = ROOT / "benchmarks" / "results"
LIBRARIES = {"timm": timm_models, "hf": hf_models, "open_clip": open_clip_models}
SMALL = 1.5e8  # parameters; of larger towers the shapes are asked, on meta
GIB, PATIENCE = 8, 600  # of one model's process: memory of its own, seconds


def main() -> None:
    """Ask and keep; or write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("teachers", "students", "table"))
    parser.add_argument("library", nargs="?", choices=LIBRARIES, default="timm")
    parser.add_argument("--only", nargs="*", default=[], help="families, types or towers, asked again")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="ask nothing more after so long")
    given = parser.parse_args()
    if given.what == "table":
        write_pages()
        return
    began, left = time.monotonic(), waiting(given.what, given.library, given.only)
    while left and time.monotonic() - began < given.seconds:
        family, ask = left.pop(0)
        row = {"library": given.library, "family": family} | apart(ask)
        keep(given.what, row)
        print(json.dumps(row, ensure_ascii=False), flush=True)
    print(f"{len(left)} left", flush=True)
    raise SystemExit(75 if left else 0)


def waiting(what: str, library: str, only: list[str]) -> list[tuple[str, Callable[[], Row]]]:
    """Families nobody has asked yet, or those named; each with the question."""
    if what == "students":
        import timm

        asks = {family: lambda family=family: encoders_students.of_family(family) for family in timm.list_modules()}
    else:
        asks = {family: lambda o=options: teacher(library, o) for family, options in LIBRARIES[library]().items()}
    known = {row["family"] for row in rows(what) if row["library"] == library}
    return [(f, ask) for f, ask in asks.items() if (f in only if only else f not in known)]


def teacher(library: str, options: Row) -> Row:
    """The model asked, and what it is."""
    return {"model": options.get("model", "")} | encoders_teachers.judged(library, options, SMALL)


# --- one model, one process -----------------------------------------------------------------------


def apart(ask: Callable[[], Row], *, gib: float = GIB, patience: float = PATIENCE) -> Row:
    """The answer of a process that may run out of memory or time without taking the table along."""
    began = time.monotonic()
    fork = multiprocessing.get_context("fork")  # what was imported once is not imported a hundred times
    here, there = fork.Pipe(duplex=False)
    child = fork.Process(target=_answer, args=(ask, there, gib))
    child.start()
    there.close()
    try:
        row = (
            here.recv() if here.poll(patience) else {"verdict": "not tried", "reason": f"longer than {patience:.0f} s"}
        )
    except EOFError:
        row = {"verdict": "not tried", "reason": f"its process died: more than {gib:g} GiB?"}
    child.kill()
    child.join()
    return row | {"seconds": round(time.monotonic() - began, 1)}


def _answer(ask: Callable[[], Row], there: Connection, gib: float) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (int(gib * 2**30),) * 2)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    try:
        row = ask()
    except MemoryError:
        row = {"verdict": "not tried", "reason": f"more than {gib:g} GiB"}
    except Exception as problem:  # the point of the exercise
        said = f"{type(problem).__name__}: {problem}"
        row = {"verdict": "traceback", "reason": said[:300], "where": traceback.format_exc().splitlines()[-4:-1]}
        if "can't allocate memory" in said:
            row = {"verdict": "not tried", "reason": f"more than {gib:g} GiB"}
    there.send(row)


# --- what was found -------------------------------------------------------------------------------


def rows(what: str) -> list[Row]:
    """All that is known."""
    file = RESULTS / f"encoders_{what}.json"
    return json.loads(file.read_text()) if file.exists() else []


def keep(what: str, row: Row) -> None:
    """One more, in its place."""
    kept = [r for r in rows(what) if (r["library"], r["family"]) != (row["library"], row["family"])]
    kept = sorted([*kept, row], key=lambda r: (list(LIBRARIES).index(r["library"]), r["family"].lower()))
    said = ",\n".join(json.dumps(r, ensure_ascii=False) for r in kept)
    (RESULTS / f"encoders_{what}.json").write_text(f"[\n{said}\n]\n")


def write_pages() -> None:
    """Between the two marks of each page."""
    for what, table in (("teachers", teachers_table), ("students", students_table)):
        page = ROOT / "docs" / f"{what}.md"
        begin, end = "<!-- tried: begin -->", "<!-- tried: end -->"
        before, rest = page.read_text().split(begin)
        page.write_text(f"{before}{begin}\n{table(rows(what))}{end}{rest.split(end)[1]}")


def teachers_table(found: list[Row]) -> str:
    """One table for each library, and a count before it."""
    lines: list[str] = []
    for library in LIBRARIES:
        mine = [r for r in found if r["library"] == library]
        if not mine:  # nobody was asked yet
            continue
        lines += [f"### {library}: {count(mine)}", ""]
        lines += ["| family | tried | teaches | summary | patches | stride | sizes | M |", "|" + "---|" * 8]
        for r in mine:
            tried = "" if r.get("model", "") in ("", r["family"]) else f"`{r['model']}`"
            numbers = [r.get(key) or "" for key in ("summary", "patches", "stride", "sizes", "million")]
            lines.append(f"| `{r['family']}` | {tried} | {verdict(r)} | " + " | ".join(map(str, numbers)) + " |")
        lines.append("")
    return "\n".join(lines)


def students_table(found: list[Row]) -> str:
    """timm's families as students."""
    lines = [f"### timm: {count(found)}", "", "| family | tried | learns | patch | widths | at | M |", "|" + "---|" * 7]
    for r in found:
        widths = " ".join(map(str, r.get("widths", "")))
        million = f"{r['parameters'] / 1e6:.1f}" if "parameters" in r else ""
        numbers = [r.get("patch", ""), widths, r.get("size", ""), million]
        lines.append(
            f"| `{r['family']}` | `{r.get('arch', '')}` | {verdict(r)} | " + " | ".join(map(str, numbers)) + " |"
        )
    return "\n".join([*lines, ""])


def count(found: list[Row]) -> str:
    """How many do, and how many ended in what must not be."""
    yes, bad = (sum(r["verdict"] in which for r in found) for which in (("yes",), ("traceback", "silent error")))
    meta = sum(r.get("compared") == "shapes only" for r in found)
    return (
        f"{yes} of {len(found)} asked"
        + (f" ({meta} by their shapes)" if meta else "")
        + f", {bad} tracebacks or silent errors"
    )


def verdict(row: Row) -> str:
    """Yes, or why not."""
    if row["verdict"] == "yes":
        return "yes" if row.get("compared", "yes") == "yes" else f"yes ({row['compared']})"
    return f"{row['verdict']}: {row['reason']}".replace("|", "/")


if __name__ == "__main__":
    try:
        main()
    except UserError as problem:
        raise SystemExit(str(problem)) from None
