"""A run killed at a random step and resumed ends in the bits of the run that nobody disturbed: engine by engine.

    python benchmarks/resume.py [--times 10] [--engines plain fsdp2 zero3] [--readers ffcv beton] [--seconds 480]

Each repetition kills both ranks of a tiny run of two stages somewhere in its sixteen steps, starts the same command
again, and compares one sha256 over the final weights, moments, statistics and balance. What was run is kept.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.faults.table import Ground, fault_1_kill_all_ranks_at_a_random_step

RESULTS = Path(__file__).parent / "results" / "resume.json"
RANKS = 2


def main() -> int:
    """Every engine with every reader, in turns; 1 if any resumed run ended otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--engines", nargs="+", default=["plain", "fsdp2", "zero3"])
    parser.add_argument("--readers", nargs="+", default=["ffcv", "beton"])
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin nothing after so long")
    parser.add_argument("--machine", default="2 cores, no GPU")
    given = parser.parse_args()
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": {}}
    results |= {"machine": given.machine, "date": date.today().isoformat(), "ranks": RANKS}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        grounds = {
            f"{engine} {reader}": Ground(Path(folder), [(engine, RANKS, reader)])
            for engine in given.engines
            for reader in given.readers
        }
        for turn in range(given.times):
            for name, ground in grounds.items():
                row = results["rows"].setdefault(name, {"run": 0, "equal": 0, "failed": []})
                if row["run"] == turn and time.monotonic() - began < given.seconds:
                    once(ground, turn, row)
                    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    for name, row in results["rows"].items():
        print(f"{name}: {row['equal']} of {row['run']} equal")
    return int(any(row["failed"] for row in results["rows"].values()))


def once(ground: Ground, seed: int, row: dict[str, Any]) -> None:
    """One kill and one resumption."""
    try:
        fault_1_kill_all_ranks_at_a_random_step(ground, seed)
        row["equal"] += 1
    except Exception as problem:  # what went wrong is data too
        row["failed"].append({"seed": seed, "why": str(problem)[-1500:]})
    row["run"] += 1


if __name__ == "__main__":
    sys.exit(main())
