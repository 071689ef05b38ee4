"""The dry runs that prove a recipe: real shapes, every stage, ranks on this host, with the page that each one prints.

    python benchmarks/dry_runs.py --recipes unic_l --engines zero3 [--ranks 2] [--machine "2 cores, no GPU"]

unic_l takes about 16 GiB and five minutes on two cores. What is run replaces its own entry in the result file only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "dry_runs.json"
SPARE = 0.7  # GiB that the machine must keep: below, the run is ended before the kernel chooses whom to kill


def main() -> int:
    """Each recipe in each engine; 1 if any ended badly."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=["unic_b", "unic_l"])
    parser.add_argument("--engines", nargs="+", default=["fsdp2", "zero3"])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--machine", default="2 cores, no GPU")
    given = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    worst = 0
    for recipe in given.recipes:
        for engine in given.engines:
            found = rehearsed(recipe, engine, given.ranks)
            worst = max(worst, abs(found["exit"]))
            stamp = {"machine": given.machine, "date": date.today().isoformat()}
            results[f"{recipe} {engine} {given.ranks} ranks"] = found | stamp
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
            print("\n".join(found["page"]))
            print(f"exit {found['exit']} after {found['seconds']} s")
    return min(worst, 1)


def rehearsed(recipe: str, engine: str, ranks: int) -> dict[str, Any]:
    """One dry run: its exit code, seconds, page, and the least memory that the machine had left."""
    command = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m", "unicscale", "train"]
    command += [f"recipes/{recipe}.yaml", "dry_run.steps=1", f"engine.kind={engine}", "engine.device=cpu"]
    began, least = time.monotonic(), available()
    with subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        while run.poll() is None:
            time.sleep(0.2)
            least = min(least, available())
            if least < SPARE:
                run.terminate()
        assert run.stdout is not None  # a page fits the pipe
        page = run.stdout.read().splitlines()
    seconds = round(time.monotonic() - began)
    return {"exit": run.returncode, "seconds": seconds, "least_available_gib": round(least, 1), "page": page}


def available() -> float:
    """GiB that the machine could still give."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 2**20
    return float("inf")


if __name__ == "__main__":
    sys.exit(main())
