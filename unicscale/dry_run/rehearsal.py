"""The real shapes with random weights and synthetic pixels, every stage: proves a recipe before a cluster sees it."""

from __future__ import annotations

import ctypes
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from unicscale import cost, rng
from unicscale.assembly import assemble
from unicscale.checkpoint import Rated
from unicscale.contracts import Batch, Progress
from unicscale.data.stream.damage import Damage
from unicscale.engine.placement import memory_of
from unicscale.errors import RecipeError
from unicscale.ranks.failures import explained
from unicscale.ranks.voice import close_voice, open_voice
from unicscale.ranks.watchdog import Watchdog
from unicscale.ranks.world import World, joined
from unicscale.recipe import Recipe
from unicscale.recipe.sections import Evaluate, Save, Stage, Track
from unicscale.run.launches import owned_run
from unicscale.run.metrics import Log
from unicscale.run.mirrors import Console
from unicscale.run.phases import Phases
from unicscale.train import loop

GIB = 2**30
EPOCH = 1_281_167  # images of a pretended data set


def rehearse(recipe: Recipe) -> str:
    """`dry_run.steps` steps of every stage; times, memory and losses per part as a table."""
    try:
        with joined(recipe.engine) as world:
            root = Path(world.on_main(lambda: tempfile.mkdtemp(prefix="unicscale-dry-run-")))
            try:
                return rehearsed(shortened(recipe, world, root / "run"), world)
            finally:
                if world.main:
                    shutil.rmtree(root, ignore_errors=True)
    finally:
        close_voice()


def rehearsed(short: Recipe, world: World) -> str:
    """A shortened recipe, run; the table is rank 0's."""
    if world.device.type == "cpu":
        give_back_freed_memory()
    with owned_run(short, world) as (run, short), Peak(world.device) as peak:
        open_voice(None, world.rank, speaks=world.main)
        watchdog = Watchdog(run.logs, rank=world.rank, size=world.size, timeout=short.engine.timeout_seconds)
        with watchdog, explained(world.rank, watchdog):
            heard, steps = Heard(), sum(stage.steps or 0 for stage in short.stages)
            mirrors = [Console(steps, 0, list(short.teachers)), heard]
            log = Log(run.metrics, mirrors) if world.main else Log(None, [])
            parts = assemble(short, world, run, loader=Synthetic(short, world), saver=Unsaved(), log=log)
            loop(parts, Phases(world.device, watchdog))
            log.close()
        peaks = world.gather_objects((peak.read(), peak.program))
    return table(short, world, heard.records, peaks) if world.main else ""


def shortened(recipe: Recipe, world: World, out: Path) -> Recipe:
    """The same models, engine and loss; a few images, no data, no files, nobody listening."""
    assert recipe.dry_run is not None
    fewest = 3 if recipe.loss.relation is not None else 1  # between two images there is nothing to compare
    images = recipe.dry_run.images_per_step or world.size * fewest
    if images % world.size:
        raise RecipeError(f"'dry_run.images_per_step' is {images}, which {world.size} ranks cannot share evenly.")
    on_host = world.device.type == "cpu"
    return recipe.model_copy(
        update={
            "out": str(out),
            "data": recipe.data.model_copy(update={"images_per_step": images, "micro_batch": None}),
            "teachers": {n: t.model_copy(update={"weights": "random"}) for n, t in recipe.teachers.items()},
            "stages": [_brief(stage, recipe.dry_run.steps) for stage in recipe.stages],
            # compiling for a host takes minutes and says nothing about the cluster
            "engine": recipe.engine.model_copy(update={"compile": False} if on_host else {}),
            "track": Track(every_steps=1),
            "save": Save(every_minutes=None),
            "evaluate": Evaluate(),
        }
    )


def _brief(stage: Stage, steps: int) -> Stage:
    start = stage.start_from if stage.start_from == "scratch" else "weights"
    lengths = dict.fromkeys(("epochs", "images", "warmup_epochs", "warmup"))
    return stage.model_copy(update={**lengths, "steps": steps, "warmup_steps": 0, "start_from": start})


class Synthetic:
    """A loader whose pixels are drawn from (seed, step, sample)."""

    images_per_epoch = EPOCH

    def __init__(self, recipe: Recipe, world: World) -> None:
        self.seed, self.device, self.rank = recipe.seed, world.device, world.rank
        self.damage = Damage(0, 0, self.rank)  # drawn pixels are never damaged
        self.share, self.micro_batches = recipe.data.images_per_step // world.size, 1
        self.channels = recipe.data.channels.count

    def start(self, after: Progress, size: Callable[[int], int], steps: int) -> Iterator[Batch]:
        """One micro-batch per step."""
        for step in range(after.step, after.step + steps):
            index = torch.arange(self.share) + self.rank * self.share
            key = rng.key(self.seed, rng.Purpose.SYNTHETIC, step, self.rank)
            draws = torch.Generator().manual_seed(key >> 1)
            shape = (self.share, self.channels, size(step), size(step))
            images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=draws)
            yield Batch(images.to(self.device), index.to(self.device), torch.zeros_like(index, device=self.device))

    def close(self) -> None:
        """Nothing is open."""


class Unsaved:
    """A saver that keeps nothing."""

    def due(self) -> bool:
        """Never."""
        return False

    def save(self, *_: Any, **__: Any) -> None:
        """Into the void."""

    def judge(self, step: int, score: Rated) -> None:
        """Nothing was saved."""

    def settle(self) -> None:
        """Nothing in flight."""


class Heard:
    """A mirror that keeps the records."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def write(self, record: dict[str, Any]) -> None:
        """As the log has it."""
        self.records.append(record)

    def show(self, *_: Any) -> None:
        """Nothing is measured."""

    def close(self) -> None:
        """Nothing to flush."""


class Peak:
    """The most memory this rank ever had: the device's own account, or what the kernel says of the process."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.bytes, self.done = device, 0, threading.Event()
        self.program = 0  # what python and its libraries take before any of it is a model

    def __enter__(self) -> Peak:
        if self.device.type == "cpu":
            self.program = proportional()
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()

    def read(self) -> int:
        """Bytes."""
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else self.bytes

    def _watch(self) -> None:
        while not self.done.wait(0.2):
            self.bytes = max(self.bytes, proportional())


def proportional() -> int:
    """Bytes of this process, pages shared with others counted by their share."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def give_back_freed_memory() -> None:
    """glibc keeps about 2 GiB per rank of what torch frees; blocks of 4 MiB and more go straight to the kernel."""
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except OSError:  # not glibc
        return
    for option, value in ((-3, 4 << 20), (-1, 4 << 20), (-8, 2)):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_ARENA_MAX
        mallopt(option, value)


def table(recipe: Recipe, world: World, records: list[dict[str, Any]], peaks: list[tuple[int, int]]) -> str:
    """One column per stage: its last step."""
    records = [record for record in records if "loss" in record]
    last = [[r for r in records if r["stage"] == number][-1] for number in range(len(recipe.stages))]
    device = memory_of(world.device)
    planned = cost.costs(recipe, world.size, None if device is None else device / GIB)
    columns = [f"{stage.name}, {stage.size} px" for stage in planned.stages]
    engine, images = recipe.engine, recipe.data.images_per_step
    lines = [
        f"dry run: {engine.kind}, {engine.dtype}, checkpointing {engine.checkpointing}, {world.size} ranks on"
        f" {world.device.type}, {images} images per step",
        _row("seconds", columns),
    ]
    lines += [_row(f"  {key[5:]}", [f"{r[key]:.2f}" for r in last]) for key in last[0] if key.startswith("time/")]
    lines += [_row("loss", columns), _row("  all", [f"{r['loss']:.4f}" for r in last])]
    terms = [key for key in last[0] if key.startswith("loss/")]
    lines += [_row(f"  {key[5:]}", [f"{r[key]:.4f}" for r in last]) for key in terms]
    lines += [_row("  gradient norm", [f"{r['grad_norm']:.4f}" for r in last])]
    lines += [_row("GiB per rank", columns)]
    for part in planned.stages[0].memory:
        lines += [_row(f"  planned: {part}", [f"{s.memory[part] / GIB:.2f}" for s in planned.stages])]
    lines += [_row("  planned: total", [f"{sum(s.memory.values()) / GIB:.2f}" for s in planned.stages])]
    each = ", ".join(f"{peak / GIB:.2f}" for peak, _ in peaks)
    program = sum(before for _, before in peaks) / len(peaks) / GIB
    lines += [f"GiB at the peak, rank by rank: {each}; the program without models: {program:.2f}"]
    lines += [f"GiB at the peak, all ranks: {sum(peak for peak, _ in peaks) / GIB:.2f}"]
    return "\n".join(lines)


def _row(label: str, cells: list[str]) -> str:
    return f"{label:<40}" + "".join(f"{cell:>15}" for cell in cells)
