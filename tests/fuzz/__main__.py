"""`python -m tests.fuzz --minutes 10`: hostile inputs at every door; what was tried and found, as data.

A door's inputs follow from the seed, so that a fault can be met again: --door NAME --seed N.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

sys.dont_write_bytecode = True  # what limits files or disk leaves no half-written bytecode

BATCH = 20  # inputs that one seed gives


def fuzz(names: list[str], seconds: float, seed: int, batches: int | None) -> dict[str, Any]:
    """Each door in turn, as long as all others; faults by where they happened, each with its first words."""
    from tests.fuzz.doors import DOORS
    from tests.fuzz.guard import Guard, limited

    torch_quiet()
    guard, home = Guard(), Path(tempfile.mkdtemp(prefix="unicscale-fuzz-"))
    os.environ |= {
        "HOME": str(home),
        "XDG_STATE_HOME": str(home),
        "IMAGENET": "/data",
        "HF_HUB_OFFLINE": "1",
        "PATH": str(home),
    }
    tempfile.tempdir = str(home)
    warm(home)
    limited()
    found: dict[str, Any] = {}
    for name in names or list(DOORS):
        until, tried, faults, number = time.monotonic() + seconds, Counter[str](), dict[str, Any](), seed
        while number - seed < batches if batches else time.monotonic() < until:
            batch(DOORS[name], guard, home, number, tried, faults)
            number += 1
        print(f"{name:14} {sum(tried.values()):7,} tried  {dict(tried)}", flush=True)
        found[name] = {"tried": sum(tried.values()), "outcomes": dict(tried), "faults": faults}
    return found


def batch(door: Any, guard: Any, home: Path, seed: int, tried: Counter[str], faults: dict) -> None:
    """Those inputs."""
    import shutil

    import hypothesis
    from hypothesis import strategies as st

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=BATCH, deadline=None, database=None, phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck), verbosity=hypothesis.Verbosity.quiet,
    )  # fmt: skip
    @hypothesis.given(st.data())
    def each(data: Any) -> None:
        folder = Path(tempfile.mkdtemp(dir=home))
        enter = door(folder, data.draw)
        how, said = guard.judge(home, enter)
        shutil.rmtree(folder, ignore_errors=True)
        tried[how] += 1
        if how not in ("read", "refused"):
            faults.setdefault(f"{how}: {said}"[:400], {"seed": seed})

    each()


def warm(home: Path) -> None:
    """Every door once with what it is made for, unguarded: imports and caches are nobody's fault."""
    import random

    from hypothesis import strategies as st

    from tests.fuzz.doors import CONFIGS, DOORS
    from unicscale.recipe.sections import TeacherSection
    from unicscale.teacher.described import describe

    def draw(strategy: st.SearchStrategy) -> Any:
        return strategy.example()

    warnings.simplefilter("ignore")
    random.seed(0)
    for config in CONFIGS:
        describe("hf", TeacherSection.model_validate({"plugin": "hf", "config": config, "weights": "random"}))
    for door in DOORS.values():
        for _ in range(2):
            try:
                door(Path(tempfile.mkdtemp(dir=home)), draw)()
            except Exception:  # whatever it was will come again, under the guard
                continue


def torch_quiet() -> None:
    """Warnings about strange inputs are what strange inputs deserve."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")


def main() -> int:
    """Write the results; 1 where a door did anything but read or refuse."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="of all doors together")
    parser.add_argument("--batches", type=int, help=f"of {BATCH} inputs at each door, however long they take")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--door", action="append", default=[], help="one door only; repeatable")
    parser.add_argument("--out", type=Path, default=None, help="a JSON file")
    asked = parser.parse_args()
    from tests.fuzz.doors import DOORS

    names = asked.door or list(DOORS)
    began = time.time()
    found = fuzz(names, 60 * asked.minutes / len(names), asked.seed, asked.batches)
    tried = sum(door["tried"] for door in found.values())
    faults = {f"{name}: {said}": first for name, door in found.items() for said, first in door["faults"].items()}
    print(f"{tried:,} inputs at {len(found)} doors in {time.time() - began:.0f} s: {len(faults)} kinds of faults")
    for said, first in faults.items():
        print(f"  {said}  (--seed {first['seed']})")
    if asked.out:
        seconds = round(time.time() - began)
        facts = {"seed": asked.seed, "seconds": seconds, "tried": tried, "doors": found}
        asked.out.write_text(json.dumps(facts, indent=1) + "\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
