"""What logging takes of a step: phases, tally, the record, its mirrors; CPU seconds, beside a step of the demo.

    python benchmarks/telling.py [--repeats 400] [--machine "2 cores, no GPU"]

The step is the demo's (64 images at 48 px, drawn), in one process of one thread; a record every ten steps, as its
recipe says. wandb runs offline and TensorBoard writes, where they are installed; what wandb's own process does beside
it is not counted.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import time
from datetime import date
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from unicscale.assembly import assemble
from unicscale.contracts import Loss, Progress
from unicscale.cost.limit import limit_of
from unicscale.dry_run.rehearsal import Heard, Synthetic, Unsaved, shortened
from unicscale.ranks.world import World
from unicscale.recipe import load
from unicscale.recipe.sections import Track
from unicscale.run.launches import owned_run
from unicscale.run.metrics import Log, Tally
from unicscale.run.mirrors import Console, Mirror, Tracked, open_mirrors
from unicscale.run.phases import Phases, held_garbage
from unicscale.train import loop

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results" / "telling.json"
EVERY = 10  # steps between two records of the demo
OF_A_STEP = ("data", "teachers", "student", "projector", "loss", "backward", "backward", "optimizer", "boundary")
TRACKERS = {"wandb": {"wandb": {"mode": "offline"}}, "tensorboard": {"tensorboard": True}}


class Silent:
    """A watchdog that watches nothing."""

    def beat(self, doing: str) -> None:
        """Ignored."""


def of_the_demo(steps: int) -> tuple[float, dict[str, Any]]:
    """CPU seconds of a step without logging, by the steps after the first two; and what the last record says."""
    recipe = load(ROOT / "recipes" / "demo.yaml", [f"dry_run={{steps: {steps}, images_per_step: 64}}"])
    heard, world, ends = Heard(), World(), list[float]()

    class Timed(Phases):
        def __call__(self, name: str, step: int | None = None) -> None:
            super().__call__(name, step)
            if name == "boundary":
                ends.append(time.process_time())

    with TemporaryDirectory() as folder:
        short = shortened(recipe, world, Path(folder) / "run")
        short = short.model_copy(update={"stages": short.stages[:1], "track": Track(every_steps=10_000)})
        with owned_run(short, world) as (run, short):
            parts = assemble(
                short, world, run, loader=Synthetic(short, world), saver=Unsaved(), log=Log(run.metrics, [heard])
            )
            limit = limit_of(short, parts.plan, world)
            loop(parts, Timed(world.device, Silent(), limit))  # type: ignore[arg-type]
            parts.log.close()
    each = [after - before for before, after in pairwise(ends[2:])]
    return statistics.median(each), heard.records[-1]


def told(record: dict[str, Any], repeats: int, trackers: dict[str, Any]) -> float:
    """CPU seconds that logging takes of a step, on the average of the steps between two records."""
    terms = {k: torch.tensor(v) for k, v in record.items() if k.startswith(("loss/", "keep/"))}
    loss = Loss(torch.tensor(1.0), torch.tensor(1.0), terms)
    world, progress = World(), Progress()
    phases = Phases(world.device, Silent(), lambda step: 0.01)  # type: ignore[arg-type]
    with TemporaryDirectory() as folder:
        mirrors: list[Mirror] = [Console(repeats, 0, ["classes", "dense"])]
        mirrors += open_mirrors(Track.model_validate(trackers), Tracked(Path(folder), "told", {}))
        log = Log(Path(folder) / "metrics.jsonl", mirrors)
        with held_garbage():
            begin = time.process_time()
            for step in range(repeats):
                for name in OF_A_STEP:
                    phases(name, step)
                tally = Tally()
                tally.add(loss)
                progress.step, progress.images = step + 1, 64 * step
                if progress.step % EVERY == 0:
                    rates = {"grad_norm": torch.tensor(1.0), "lr": 1e-3, "momentum": 0.9}
                    log.write(progress, tally.terms(world) | rates | phases.measured())
            spent = time.process_time() - begin
        log.close()
    return spent / repeats


def main() -> None:
    """A row for metrics.jsonl and the console, and one for each tracker on top."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--machine", default="2 cores, no GPU")
    given = parser.parse_args()
    torch.set_num_threads(1)
    step, record = of_the_demo(given.steps)
    rows = {"step_seconds": step}
    for name, trackers in {"metrics.jsonl and console": {}, **TRACKERS}.items():
        if importlib.util.find_spec(name.split(".")[0]) or not trackers:
            seconds = statistics.median(told(record, given.repeats, trackers) for _ in range(3))
            rows[name] = {"microseconds": 1e6 * seconds, "percent_of_a_step": 100 * seconds / step}
            print(f"{name}: {1e6 * seconds:.0f} us of a step of {1e3 * step:.0f} ms, {100 * seconds / step:.3f} %")
    result = rows | {"every_steps": EVERY, "machine": given.machine, "date": date.today().isoformat()}
    RESULTS.write_text(json.dumps(result | {"torch": torch.__version__}, indent=1) + "\n")


if __name__ == "__main__":
    main()
