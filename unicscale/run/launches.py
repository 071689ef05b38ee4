"""Who ran in a run folder, when, where, and how it ended: run.json, the lock, and the limit on launches in vain."""

from __future__ import annotations

import json
import os
import platform
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unicscale.errors import CheckpointError, RunError, StoppedOnRequest, UserError
from unicscale.ranks.scheduler import scheduler, submission_name
from unicscale.ranks.terminal import tell
from unicscale.recipe import Recipe
from unicscale.recipe.plan import Plan
from unicscale.recipe.sections import EngineSection
from unicscale.run.folder import (
    RunFolder,
    claim,
    facts_of,
    open_run,
    owner_of,
    refuse_unfit,
    set_aside,
    untouched,
    versions,
    write_whole,
)
from unicscale.run.lock import Lock, alive, in_use, read
from unicscale.run.provenance import command_line, commit, moment

if TYPE_CHECKING:
    from unicscale.ranks.world import World

PATIENCE = 3  # launches of one submission that may end without a new checkpoint


@contextmanager
def owned_run(recipe: Recipe, world: World, *, fresh: bool = False) -> Iterator[tuple[RunFolder, Recipe]]:
    """The recipe's run folder, locked and entered in run.json, until the run ends one way or another.

    The recipe comes back with the engine's `auto` settled: as the run began, else as this device can.
    """
    lock = Lock(Path(recipe.out)) if world.main else None
    folder, recipe = world.on_main(lambda: _take(recipe, world, lock, fresh))
    if world.main:
        world.stop.watch(folder.stop_request)
    how: dict[str, Any] = {"exit": 1, "reason": "an error of unicscale's own: its traceback is in the logs"}
    try:
        yield folder, recipe
        how = {"exit": 0, "reason": "finished"}
    except UserError as error:
        how = {"exit": error.exit_code, "reason": str(error).splitlines()[0], "kind": type(error).__name__}
        raise
    finally:
        if lock is not None:
            try:
                note_end(folder, how | {"asked": world.stop.reason})
            except (OSError, CheckpointError) as problem:  # a full disk must not hide how the run itself ended
                tell(f"{folder.facts} was not told of the end: {problem}")
            finally:
                lock.release()
        if how["exit"] in (0, StoppedOnRequest.exit_code):
            world.barrier()  # a launcher ends everybody as soon as the first is gone: rank 0 first finishes its notes


def _take(recipe: Recipe, world: World, lock: Lock | None, fresh: bool) -> tuple[RunFolder, Recipe]:
    folder = open_run(recipe)
    from unicscale.ranks.device import called, settled  # which bring torch

    assert lock is not None
    lock.take()
    try:
        if fresh:
            set_aside(folder)
        asked, engine = recipe.engine.open, as_begun(folder, recipe.engine)
        recipe = recipe.model_copy(update={"engine": settled(engine, world.device)})
        claim(folder, recipe)
        became = {f"engine.{key}": getattr(recipe.engine, key) for key in asked}
        number = len(note_launch(folder, world.size, called(world.device), became)["launches"])
        if meant_for(folder.stop_request) < number:
            folder.stop_request.unlink(missing_ok=True)
    except BaseException:
        lock.release()
        raise
    return folder, recipe


def as_begun(folder: RunFolder, engine: EngineSection) -> EngineSection:
    """A run that was begun goes on in its precision, on whatever device: another would change its numbers."""
    owner = None if untouched(folder) else owner_of(folder)
    if owner is None or engine.dtype != "auto":
        return engine
    return engine.model_copy(update={"dtype": owner.engine.dtype})


def meant_for(request: Path) -> int:
    """Which launch a stop request wants to end: one from yesterday must not stop today's."""
    try:
        return int(json.loads(request.read_text())["launch"])
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError):
        return 0


def refuse_early(recipe: Recipe, *, main: bool) -> None:
    """What would be refused anyway, before torch and the models are imported; changes nothing."""
    root = Path(recipe.out)
    refuse_unfit(root)
    lock = root / "lock"
    holder = read(lock) if main else None
    if holder is not None and alive(lock, holder):
        raise in_use(root, holder)


def note_launch(
    folder: RunFolder, world_size: int, device: str | None = None, became: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """run.json: the run's id (made once), versions, one entry for each launch; refuses after too many in vain."""
    facts = facts_of(folder)
    submission, step = submission_name(), committed_step(folder)
    if stalled(facts, submission, step):
        raise RunError(
            f"{folder.root}: {PATIENCE} launches in a row made no progress beyond step {step}; not trying again.\n"
            f"  `unicscale logs {folder.root}` shows why; the same command, given by you, starts a new count."
        )
    facts.setdefault("id", f"{time.strftime('%Y%m%d')}-{secrets.token_hex(4)}")
    now = time.time()
    facts.setdefault("launches", []).append(
        {
            "host": platform.node(),
            "nodes": scheduler().nodes(),
            "pid": os.getpid(),
            "ranks": world_size,
            "job": scheduler().job(),
            "submission": submission,
            "restart": scheduler().restarts(),
            "step": step,
            "time": round(now, 1),
            "date": moment(now),
            "device": device,
            "command": command_line(),
            "commit": commit(),
            "auto": dict(became or {}),
        }
    )
    facts["versions"] = versions()
    write_whole(folder.facts, json.dumps(facts, indent=1) + "\n")
    return facts


def note_plan(folder: RunFolder, plan: Plan) -> dict[str, Any]:
    """How long the run will be, for whoever looks at it from outside; returns all facts."""
    stages = [{"name": stage.name, "first": stage.first, "steps": stage.steps} for stage in plan.stages]
    facts = facts_of(folder) | {"steps": plan.steps, "stages": stages, "images_per_epoch": plan.pace.images_per_epoch}
    write_whole(folder.facts, json.dumps(facts, indent=1) + "\n")
    return facts


def note_end(folder: RunFolder, how: dict[str, Any]) -> None:
    """How the last launch ended; a launch without such an entry was killed."""
    facts = facts_of(folder)
    if facts.get("launches"):
        now = time.time()
        ended = how | {"step": committed_step(folder), "time": round(now, 1), "date": moment(now)}
        facts["launches"][-1]["ended"] = ended
        write_whole(folder.facts, json.dumps(facts, indent=1) + "\n")


def stalled(facts: dict[str, Any], submission: str, step: int) -> bool:
    """Whether the last launches of this submission all began where the run still is."""
    last = facts.get("launches", [])[-PATIENCE:]
    return len(last) == PATIENCE and all((x.get("submission"), x.get("step")) == (submission, step) for x in last)


def committed_step(folder: RunFolder) -> int:
    """The newest committed checkpoint's step, from its name alone; 0 before the first."""
    names = [path.parent.name for path in folder.checkpoints.glob("step-*/manifest.json")]
    return max((int(name.removeprefix("step-")) for name in names if name[5:].isdigit()), default=0)


def remember(folder: RunFolder) -> None:
    """Add a run to this user's list, so that `unicscale jobs` finds it wherever it lies."""
    try:
        known = index_file()
        known.parent.mkdir(parents=True, exist_ok=True)
        line = str(folder.root.absolute())
        if line not in known_runs():
            with known.open("a", encoding="utf-8", errors="surrogateescape") as lines:
                lines.write(line + "\n")
    except (OSError, RuntimeError):  # a home that cannot be written, or none, costs the list, not the run
        return


def known_runs() -> list[str]:
    """Folders of runs that were started through a front door, oldest first."""
    try:
        return index_file().read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except (OSError, RuntimeError):
        return []


def index_file() -> Path:
    """One per user; a RuntimeError where the user has no home."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local/state") / "unicscale" / "runs"
