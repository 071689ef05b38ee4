"""How long a report takes and how large it becomes: a million records, and five hundred runs.

python benchmarks/report.py [--records N] [--runs N]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TERMS = [f"loss/{teacher}{part}" for teacher in ("one", "two") for part in ("", "/cls", "/patch")]


def main() -> None:
    """Each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=500)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        a_run(root / "one" / "long", asked.records)
        for number in range(asked.runs):
            a_run(root / "many" / f"run-{number:03d}", 200, change=number)
        for name, what in (("one/long", f"{asked.records:,} records"), ("many", f"{asked.runs} runs of 200 records")):
            print(f"{what}: {measured(root / name)}", flush=True)


def a_run(folder: Path, records: int, change: int = 0) -> None:
    """A run of the demo's recipe, as its folder tells it."""
    folder.mkdir(parents=True)
    text = (ROOT / "recipes" / "demo.yaml").read_text()
    (folder / "recipe.yaml").write_text(text.replace("seed: 0", f"seed: {change}"))
    (folder / "run.json").write_text(json.dumps({"launches": [{"time": 1000.0, "host": "n1"}], "steps": records}))
    with (folder / "metrics.jsonl").open("w") as lines:
        for step in range(1, records + 1):
            values = {term: 1.0 / step + 0.1 for term in TERMS} | {
                "loss": 0.1 + 1.0 / step,
                "lr": 1e-3,
                "grad_norm": 0.5,
            }
            values |= {
                "keep/one": 0.9,
                "keep/two": 0.8,
                "time/data": 0.1,
                "time/student": 0.2,
                "images_per_second": 300.0,
            }
            where = {"step": step, "images": 64 * step, "stage": int(2 * step > records), "launch": 1}
            lines.write(json.dumps(where | values | {"time": 1000.0 + step}) + "\n")


def measured(runs: Path) -> str:
    """Seconds, memory and size of the page."""
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", "unicscale", "report", str(runs)], check=True, stdout=subprocess.DEVNULL)
    wall = time.monotonic() - start
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    page = (runs / "report" / "index.html").stat().st_size / 1e6
    cpu = spent.ru_utime + spent.ru_stime
    most = spent.ru_maxrss / 2**20
    return f"{wall:.1f} s ({cpu:.1f} s of CPU, all children so far), {most:.2f} GiB at most, {page:.2f} MB"


if __name__ == "__main__":
    main()
