"""`make faults`: the whole table, with what was run, where and how it ended, as data.

    python -m tests.faults [--only 1,2,8] [--times 10] [--fresh] [--out benchmarks/results/faults.json]

Interrupted, it goes on from the file; --fresh begins anew.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests.faults.data import DATA
from tests.faults.signals import SIGNALS
from tests.faults.table import TABLE, Fault, Ground, NotHere, ways

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def once(fault: Fault, ground: Ground, seed: int, entry: dict[str, Any]) -> None:
    """One fault with one seed; what failed is told, and the table goes on."""
    began = time.monotonic()
    try:
        fault(ground, seed)
    except NotHere as why:
        entry["not_here"] = str(why)
        return
    except Exception as problem:
        said = traceback.format_exc(limit=2).replace(f"{REPOSITORY}/", "").replace(f"{tempfile.gettempdir()}/", "")
        entry["hangs"] += "still alive after" in str(problem)
        entry["silent"] += "the resumed run differs" in str(problem)
        entry["failed"].append({"seed": seed, "why": said[-1500:]})
    entry["run"] += 1
    entry["passed"] = entry["run"] - len(entry["failed"])
    entry["seconds"] = round(entry["seconds"] + time.monotonic() - began, 1)


def main() -> int:
    """The table, or a part of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="numbers of faults, 1,2,8")
    parser.add_argument("--times", type=int, help="at most so many repetitions of each")
    parser.add_argument("--engines", default="plain,fsdp2,zero3")
    parser.add_argument("--fresh", action="store_true", help="forget what was run before")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/faults.json"))
    options = parser.parse_args()
    wanted = {int(number) for number in options.only.split(",") if number}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    results = {"faults": {}} if options.fresh or not options.out.exists() else json.loads(options.out.read_text())
    results["machine"] = {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}
    rows = []
    for number, fault, asked in sorted([*TABLE, *SIGNALS, *DATA]):
        if wanted and number not in wanted:
            continue
        fresh = {"what": fault.__name__.split("_", 2)[2].replace("_", " "), "asked": asked, "run": 0, "passed": 0}
        fresh |= {"silent": 0, "hangs": 0, "seconds": 0.0, "engines": options.engines, "failed": []}
        rows.append((fault, results["faults"].setdefault(str(number), fresh)))
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        ground = Ground(Path(folder), ways(options.engines.split(",")))
        for turn in range(max(entry["asked"] for _, entry in rows)):  # in turns: a table cut short has a bit of each
            for fault, entry in rows:
                limit = min(entry["asked"], options.times or entry["asked"])
                if entry["run"] == turn < limit and "not_here" not in entry:
                    once(fault, ground, turn, entry)
                    entry["date"] = time.strftime("%Y-%m-%d")
                    options.out.write_text(json.dumps(results, indent=1) + "\n")
                    print(f"{entry['what']}: {entry['passed']} of {entry['run']}", file=sys.stderr, flush=True)
    for number, entry in sorted(results["faults"].items(), key=lambda item: int(item[0])):
        print(f"{number:>2} {entry['what']}: {entry['passed']} of {entry['run']}, {entry['asked']} asked")
    return sum(len(entry["failed"]) for entry in results["faults"].values())


if __name__ == "__main__":
    sys.exit(min(main(), 1))
