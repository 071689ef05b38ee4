"""How far each engine is from the plain one-process engine after five steps, over the whole grid of the contract test.

    python benchmarks/engines.py [--ranks 1 2 4] [--engines plain fsdp2 zero3] [--fresh]

Relative deviations: the largest of five losses and of five gradient norms; the first gradient and the last weights as
one vector. Everything is compared with fp32, without recomputation, in one backward. Rows that are there are kept.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from tests.engine.test_engines import GRID, TOLERANCE, apart
from tests.kit import contract, ranks
from tests.kit.contract import Case, Trace

RESULTS = Path(__file__).parent / "results" / "contract.json"
STEPS = 5


def main() -> int:
    """What is missing, then the largest deviations; 1 if any is beyond what the contract test allows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--engines", nargs="+", default=["plain", "fsdp2", "zero3"])
    parser.add_argument("--machine", default="2 cores, no GPU")
    parser.add_argument("--fresh", action="store_true", help="forget what was run before")
    given = parser.parse_args()
    results: dict[str, Any] = {"rows": {}}
    if RESULTS.exists() and not given.fresh:
        results = json.loads(RESULTS.read_text())
    results |= {"machine": given.machine, "date": date.today().isoformat(), "torch": torch.__version__}
    plain = traces(1, [Case()])[0]
    for size in given.ranks:
        for engine in given.engines:
            cases = {label(size, case): case for case in GRID if case.kind == engine}
            missing = {name: case for name, case in cases.items() if name not in results["rows"]}
            for name, found in zip(missing, traces(size, list(missing.values())), strict=True):
                results["rows"][name] = deviation(found, plain)
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
            print(f"{engine}, {size} ranks: {len(cases)} rows", flush=True)
    return report(results["rows"])


def traces(size: int, cases: list[Case]) -> list[Trace]:
    """All in one process group."""
    return ranks.run(size, contract.in_group, contract.traces, cases, STEPS, timeout=880)[0] if cases else []


def label(size: int, case: Case) -> str:
    """A row's name."""
    return f"{case.kind} {size} {case.dtype} {case.checkpointing} {case.accumulation}"


def deviation(ours: Trace, plain: Trace) -> dict[str, float]:
    """All relative."""
    return {
        "loss": most(ours.losses, plain.losses),
        "norm": most(ours.norms, plain.norms),
        "gradient": apart(ours.first, plain.first, "exp_avg/"),
        "weights": apart(ours.last, plain.last, "weights/"),
    }


def most(ours: list[float], theirs: list[float]) -> float:
    """The largest relative difference."""
    return max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))


def report(rows: dict[str, dict[str, float]]) -> int:
    """The worst of each engine and precision, as a Markdown table."""
    print(
        "| engine | precision | rows | loss | gradient norm | first gradient | weights |\n|---|---|---|---|---|---|---|"
    )
    beyond = 0
    for engine in ("plain", "fsdp2", "zero3"):
        for dtype, allowed in TOLERANCE.items():
            found = [row for name, row in rows.items() if name.split()[0] == engine and name.split()[2] == dtype]
            worst = {
                kind: max((row[kind] for row in found), default=0.0) for kind in ("loss", "norm", "gradient", "weights")
            }
            beyond += any(worst[kind] > limit for kind, limit in allowed.items())
            print(f"| {engine} | {dtype} | {len(found)} | " + " | ".join(f"{v:.1e}" for v in worst.values()) + " |")
    return min(beyond, 1)


if __name__ == "__main__":
    sys.exit(main())
