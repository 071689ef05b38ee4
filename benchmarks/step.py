"""One training step: FLOPs against the formula, host syncs, memory per rank, and the loop against its parts.

    python benchmarks/step.py [--steps 6] [--repeats 4] [--machine "2 cores, no GPU"]

The loop's row compares CPU seconds of the process, in turns, so that other load on the machine does not decide it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from unicscale.assembly import Parts, assemble
from unicscale.cost import costs
from unicscale.dry_run.rehearsal import Synthetic, Unsaved, shortened
from unicscale.objective.loss import distil
from unicscale.ranks.world import World
from unicscale.recipe import Recipe
from unicscale.recipe.sections import Track
from unicscale.run.launches import owned_run
from unicscale.run.phases import Phases
from unicscale.train import loop

SHAPE = {"embed_dim": 384, "depth": 6, "num_heads": 6, "patch_size": 16, "img_size": 112}
RECIPE = {
    "schema": 1,
    "out": "nowhere",
    "data": {"train": ["nowhere"], "images_per_step": 8},
    "student": {"arch": "vit_small", "patch": 16, "drop_path": 0.1, "options": {"depth": 6}},
    "teachers": {"a": {"plugin": "dino", "size": SHAPE}, "b": {"plugin": "deit3", "size": SHAPE}},
    "stages": [{"name": "one", "size": 112, "steps": 1, "lr": {"peak": 1e-4}}],
    "engine": {"device": "cpu"},
}


class Silent:
    """A watchdog that watches nothing."""

    def beat(self, doing: str) -> None:
        """Ignored."""


class Looks(TorchDispatchMode):
    """Counts every .item(), bool() and int() of a tensor."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def parts_of(steps: int, out: Path, world: World) -> tuple[Recipe, Parts]:
    """Everything the loop turns, log steps only at the end."""
    recipe = Recipe.model_validate(RECIPE | {"dry_run": {"steps": steps, "images_per_step": 8}})
    short = shortened(recipe, world, out).model_copy(update={"track": Track(every_steps=10_000)})
    with owned_run(short, world) as (run, short):
        parts = assemble(short, world, run, loader=Synthetic(short, world), saver=Unsaved())
    return recipe, parts


def run(steps: int) -> Callable[[], None]:
    """The loop, ready to go."""
    with TemporaryDirectory() as folder:
        _, parts = parts_of(steps, Path(folder) / "run", World())
    return lambda: loop(parts, Phases(parts.world.device, Silent()))  # type: ignore[arg-type]


def looks(steps: int) -> int:
    """How often the host waits in a run of so many steps."""
    go = run(steps)
    with Looks() as counter:
        go()
    return counter.count


def counted() -> dict[str, float]:
    """One step under torch's counter, and the formula's word."""
    with TemporaryDirectory() as folder:
        recipe, parts = parts_of(1, Path(folder) / "run", World())
    with FlopCounterMode(display=False) as counter:
        loop(parts, Phases(parts.world.device, Silent()))  # type: ignore[arg-type]
    formula = 8 * costs(recipe, 1, 80.0).stages[0].total
    return {
        "counted": counter.get_total_flops(),
        "formula": formula,
        "off_percent": 100 * (formula / counter.get_total_flops() - 1),
    }


def apart(steps: int) -> Callable[[], None]:
    """Teachers, student, loss, backward and optimiser, one after the other with nothing between them."""
    with TemporaryDirectory() as folder:
        _, parts = parts_of(steps, Path(folder) / "run", World())
    batches = list(parts.loader.start(parts.progress, lambda _: 112, steps))

    def go() -> None:
        for step, batch in enumerate(batches):
            parts.engine.student.set_draws((0, step), batch.index)
            targets = parts.teachers(batch.images)
            loss = distil(parts.engine.student(batch.images).answers, targets, key=(0, step), index=batch.index)
            parts.engine.backward(loss.sum, last=True)
            parts.engine.step(1e-4, loss.weight)
            parts.teachers.update(0.5)

    return go


def seconds(go: Callable[[], None]) -> float:
    """CPU time of one call."""
    before = time.process_time()
    go()
    return time.process_time() - before


def main() -> None:
    """Every row, one line each and one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--machine", default="2 cores, no GPU")
    parser.add_argument("--name", default="cpu", help="of the machine, in the result file's name")
    given = parser.parse_args()
    torch.set_num_threads(1)
    flops = counted()
    print(f"FLOPs of a step: formula {flops['off_percent']:+.2f} % off the counter")
    waits = looks(6) - looks(2)
    print(f"host syncs in four steps away from log steps: {waits}")
    for warm in (run(1), apart(1)):
        warm()
    ratios = []
    for _ in range(given.repeats):  # ABBA
        a, b, c, d = (
            seconds(run(given.steps)),
            seconds(apart(given.steps)),
            seconds(apart(given.steps)),
            seconds(run(given.steps)),
        )
        ratios.append((a + d) / (b + c))
    print(f"step of the loop against its parts timed apart: {statistics.median(ratios):.3f}")
    rows = {
        "flops": flops,
        "host_syncs_in_four_steps": waits,
        "loop_against_parts": statistics.median(ratios),
        "ratios": ratios,
    }
    result = rows | {"machine": given.machine, "date": date.today().isoformat(), "torch": torch.__version__}
    file = Path(__file__).parent / "results" / f"{result['date']}-{given.name}.json"
    kept = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(kept | {"step": result}, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
