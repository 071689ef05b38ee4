"""The run folder: where everything of a run lies, and who it belongs to."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unicscale.errors import CheckpointError, RecipeError
from unicscale.ranks.terminal import tell
from unicscale.recipe import Recipe, dump, load
from unicscale.recipe.difference import differences
from unicscale.run.sound import problem_of

OURS = {"recipe.yaml", "run.json", "checkpoints"}  # any of these makes a folder a run's
NEUTRAL = {"launch", "logs", "lock", "scenes", "stop", "wandb"}  # may lie in a folder before its run begins


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths inside a run folder."""

    root: Path

    @property
    def recipe(self) -> Path:
        return self.root / "recipe.yaml"

    @property
    def facts(self) -> Path:
        return self.root / "run.json"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def evaluation(self) -> Path:
        return self.root / "evaluation"

    @property
    def pictures(self) -> Path:
        """What `unicscale look` saw."""
        return self.root / "pictures"

    @property
    def launch(self) -> Path:
        """Submissions: resolved recipes, code as it was, what the scheduler was given."""
        return self.root / "launch"

    @property
    def stop_request(self) -> Path:
        """Whoever writes this file asks the run to save and leave."""
        return self.root / "stop"

    @property
    def report(self) -> Path:
        return self.root / "report"

    def log_of(self, rank: int) -> Path:
        """Where one rank writes what it has to say."""
        return self.logs / f"rank-{rank:04d}.log"


def open_run(recipe: Recipe) -> RunFolder:
    """Make the folder, or find it; refuse one that cannot be written or is no run's."""
    folder = RunFolder(Path(recipe.out))
    refuse_unfit(folder.root)
    try:
        for path in (folder.root, folder.checkpoints, folder.evaluation):
            path.mkdir(parents=True, exist_ok=True)
        for path in (folder.logs, folder.launch):
            path.mkdir(mode=0o700, exist_ok=True)  # logs and submissions may show what nobody else should read
        probe = folder.root / f".probe-{os.getpid()}"
        probe.write_text("")
        probe.unlink()
    except OSError as problem:
        raise _unwritable(folder.root, problem.strerror) from None
    return folder


def claim(folder: RunFolder, recipe: Recipe) -> None:
    """Make the folder this recipe's, or refuse: a run goes on only with a recipe that computes the same."""
    owner = owner_of(folder)
    changed = differences(owner, recipe) if owner else []
    if changed and untouched(folder):
        tell(f"{folder.root} was made for another recipe that never took a step; it is this one's now")
    elif changed:
        lengths = [line for line in changed if re.match(r"stages\.\d+\.(epochs|steps|images): ", line)]
        way = f"out=FOLDER stages.0.start_from=checkpoint:{folder.root}"
        longer = f"\n  To train its student longer, begin a new run with it: {way}" if lengths == changed else ""
        raise CheckpointError(
            f"{folder.root} belongs to another recipe:\n    " + "\n    ".join(changed) + "\n"
            "  Choose another folder with out=FOLDER, undo the change, or start this one over with --fresh." + longer
        )
    write_whole(folder.recipe, dump(recipe))


def untouched(folder: RunFolder) -> bool:
    """Whether no step was ever taken here: a launch that failed before its first one leaves nothing to protect."""
    try:
        return not any(folder.checkpoints.glob("*")) and not (
            folder.metrics.exists() and folder.metrics.stat().st_size > 0
        )
    except OSError:
        return False


def owner_of(folder: RunFolder) -> Recipe | None:
    """Whose folder it is: recipe.yaml says so, and where that is lost the newest checkpoint whose copy is unharmed."""
    if folder.recipe.exists():
        return as_written(load(folder.recipe))
    for manifest in sorted(folder.checkpoints.glob("step-*/manifest.json"), reverse=True):
        copy = manifest.with_name("recipe.yaml")
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecipeError):
            proof = json.loads(manifest.read_bytes())["files"][copy.name]["sha256"]
            if hashlib.sha256(copy.read_bytes()).hexdigest() == proof:
                return as_written(load(copy))
    return None


def as_written(recipe: Recipe) -> Recipe:
    """What a run folder's own copy means: one that names no warm-up is older than the default, and had none."""
    none = {"warmup": None, "warmup_steps": 0}
    stages = [one if one.says_warmup else one.model_copy(update=none) for one in recipe.stages]
    return recipe.model_copy(update={"stages": stages})


def set_aside(folder: RunFolder) -> None:
    """What --fresh starts over from is kept beside it, in before-1, before-2, ..."""
    # checkpoints first, the recipe last: whenever this is cut short, another recipe finds nothing to go on from
    of_one_run = [folder.checkpoints, folder.metrics, folder.evaluation, folder.pictures, folder.report]
    of_one_run += [folder.facts, folder.recipe]
    old = [path for path in of_one_run if path.is_file() or (path.is_dir() and any(path.iterdir()))]
    if not old:
        return
    numbers = [int(path.name[7:]) for path in folder.root.glob("before-*") if path.name[7:].isdecimal()]
    aside = folder.root / f"before-{1 + max(numbers, default=0)}"
    aside.mkdir()
    for path in old:
        os.rename(path, aside / path.name)
    folder.checkpoints.mkdir(exist_ok=True)
    folder.evaluation.mkdir(exist_ok=True)


def refuse_unfit(root: Path) -> None:
    """A folder that holds something else, or that cannot be written; nothing is touched."""
    try:
        held = {path.name for path in root.iterdir()} if root.exists() else set()
    except OSError as problem:
        raise _unwritable(root, problem.strerror) from None
    strange = sorted(name for name in held if name not in NEUTRAL and not name.startswith("."))
    if strange and not held & OURS:
        raise CheckpointError(
            f"{root} holds {', '.join(strange[:3])}{' and more' if len(strange) > 3 else ''}, and is no run folder.\n"
            "  Choose an empty or a new one with out=FOLDER."
        )
    existing = next(path for path in (root, *root.absolute().parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise _unwritable(root, f"{existing} is read-only for this user")


def _unwritable(root: Path, why: str | None) -> CheckpointError:
    return CheckpointError(
        f"the run folder {root} cannot be written: {why}.\n  Choose another with out=FOLDER, or mend its permissions."
    )


def facts_of(folder: RunFolder) -> dict[str, Any]:
    """What run.json says; empty before the first launch."""
    try:
        facts = json.loads(folder.facts.read_text(encoding="utf-8"))
        wrong = problem_of(facts)
    except FileNotFoundError:
        return {}
    except OSError as problem:
        raise CheckpointError(f"{folder.facts} cannot be read: {problem.strerror}.") from None
    except (ValueError, RecursionError):
        wrong = "it is no JSON"
    if wrong:
        raise CheckpointError(
            f"{folder.facts} is damaged ({wrong}). Remove it: the checkpoints beside it know where to go on."
        )
    return facts


def versions() -> dict[str, str]:
    """What this run stands on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("unicscale", "torch", "timm", "open_clip_torch", "deepspeed", "ffcv", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_whole(path: Path, text: str) -> None:
    """A reader sees the old file or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())  # else a node that dies now may leave the new name without its contents
        os.replace(temporary, path)
    except OSError as problem:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise CheckpointError(f"{path} cannot be written: {problem.strerror}. What was there is as it was.") from None
