"""Reading checkpoints back: the newest whole one, into any engine, on any number of ranks."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unicscale.checkpoint.layout import divide, held, missing
from unicscale.checkpoint.manifest import NAME, Damaged, Manifest, verify
from unicscale.contracts import Progress
from unicscale.engine import Engine, Piece
from unicscale.errors import CheckpointError
from unicscale.ranks.terminal import tell
from unicscale.ranks.world import World
from unicscale.recipe import Recipe, load_written


class Stateful(Protocol):
    """What is the same on every rank and fits into rank 0's file: statistics, balance."""

    def state_dict(self) -> Mapping[str, Any]:
        """Tensors by name."""
        ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> Any:
        """Strict."""
        ...


States = Mapping[str, Stateful]  # "statistics", "balance", ...
STEP = re.compile(r"^step-(\d{8,})$")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One committed checkpoint folder, whoever wrote it."""

    path: Path
    manifest: Manifest

    @property
    def progress(self) -> Progress:
        """Where the run stood; a fresh object, since the loop counts on it."""
        return Progress(**self.manifest.progress)

    @property
    def recipe(self) -> Recipe:
        """The recipe of the run as it was resolved."""
        return load_written(str(self.path / "recipe.yaml"))

    @property
    def facts(self) -> dict[str, int]:
        """Progress, and what else must be the same in the run that goes on."""
        try:
            held = json.loads((self.path / "state.json").read_text())
            return {str(name): int(number) for name, number in held.items()}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as problem:
            raise CheckpointError(f"{self.path}/state.json is not as it was saved: {problem}") from None

    def tensors(self, kind: str) -> dict[str, Tensor]:
        """All whole tensors of a kind (`weights`, `ema`, `statistics`, ...), under their names without the kind."""
        entries = {name: e for name, e in self.manifest.tensors.items() if name.startswith(f"{kind}/")}
        whole = {
            name: Piece(torch.empty(prod(entry.shape), dtype=getattr(torch, entry.dtype)), 0, entry.shape)
            for name, entry in entries.items()
        }
        self.fill(whole)
        return {name.removeprefix(f"{kind}/"): piece.flat.reshape(piece.shape) for name, piece in whole.items()}

    def fill(self, pieces: dict[str, Piece]) -> None:
        """Copy into every piece what the files hold of its range; each file is opened once."""
        parts: dict[str, list[tuple[str, int, int, int]]] = defaultdict(list)
        for name, piece in pieces.items():
            for start, stop, file in self.manifest.tensors[name].ranges:
                low, high = max(piece.start, start), min(piece.start + piece.flat.numel(), stop)
                if low < high:
                    parts[file].append((name, start, low, high))
        for file, wanted in parts.items():
            try:
                with safe_open(str(self.path / file), "pt") as stream:
                    for name, start, low, high in wanted:
                        piece = pieces[name]
                        part = stream.get_slice(name)[low - start : high - start]
                        piece.flat[low - piece.start : high - piece.start].copy_(part)
            except (SafetensorError, RuntimeError, OSError) as problem:  # a file other than its manifest says
                raise CheckpointError(f"{self.path}/{file} is not what {NAME} says: {problem}") from problem

    def problems(self, rank: int = 0, world: int = 1) -> list[str]:
        """What is wrong with this rank's share of the files."""
        mine = sorted(self.manifest.files.items())[rank::world]
        return [problem for file, proof in mine if (problem := verify(self.path, file, proof))]


def opened(path: Path) -> Checkpoint:
    """A checkpoint folder whose manifest is whole; Damaged otherwise."""
    return Checkpoint(path, Manifest.read(path))


def committed(folder: Path) -> list[Path]:
    """All checkpoint folders of a run, the highest step first; clocks have no say."""
    found = [path for path in folder.iterdir() if STEP.match(path.name)] if folder.is_dir() else []
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def newest(folder: Path, world: World | None = None) -> tuple[Checkpoint | None, list[str]]:
    """The highest step whose every file is what its manifest says, and what is wrong with the ones above it.

    Every rank verifies its share of the files, and all agree on the result. None only where nothing was ever saved.
    """
    world = world or World()
    names = world.broadcast_object([path.name for path in committed(folder)])
    skipped = []
    for path in (folder / name for name in names):
        try:
            candidate = opened(path)
            wrong = candidate.problems(world.rank, world.size)
        except Damaged as damage:
            candidate, wrong = None, [str(damage)]
        everywhere = list(dict.fromkeys(problem for some in world.gather_objects(wrong) for problem in some))
        if not everywhere:
            return candidate, skipped
        skipped.append(f"{path.name} is skipped: {'; '.join(everywhere)}")
    latest = world.broadcast_object(_latest(folder))
    if names or latest:
        listed = "".join(f"\n    {line}" for line in skipped) or f"\n    LATEST names {latest}, which is not there"
        raise CheckpointError(
            f"{folder}: something was saved here, and none of it can be used:{listed}\n"
            f"  Bring one back from a copy; or start over from the first step with --fresh."
        )
    return None, skipped


def _latest(folder: Path) -> str | None:
    try:
        return (folder / "LATEST").read_bytes().decode(errors="replace").strip()[:80]
    except FileNotFoundError:
        return None


def pointer(folder: Path, chosen: Checkpoint) -> str | None:
    """What to say where LATEST does not name the newest checkpoint."""
    latest = _latest(folder)
    if latest == chosen.path.name:
        return None
    state = "is missing" if latest is None else f"says '{latest}'"
    return f"{folder}/LATEST {state}; by their steps, {chosen.path.name} is the newest whole checkpoint."


def restore(
    found: Checkpoint,
    engine: Engine,
    world: World,
    *,
    parameters: list[str],
    states: States | None = None,
    fresh: tuple[str, ...] = (),
) -> None:
    """Copy a checkpoint into the engine; every parameter must be in both, unless its kind is declared `fresh`."""
    pieces = {name: piece for name, piece in engine.pieces().items() if name.split("/")[0] not in fresh}
    stored = found.manifest.tensors
    wanted = divide(world.gather_objects(held(pieces)))
    absent = missing(stored, list(wanted))
    unplaced = missing(wanted, [f"weights/{name}" for name in {*parameters, *found.manifest.parameters}])
    odd = [name for name in wanted if name in stored and stored[name].shape != wanted[name].shape]
    said = [
        *(f"{name} is not in the checkpoint" for name in absent),
        *(f"{name} has no place in this student" for name in unplaced),
        *(f"{name} is {stored[name].shape} in the checkpoint and {wanted[name].shape} here" for name in odd),
    ]
    if said:
        more = f"\n    and {len(said) - 8} more" if len(said) > 8 else ""
        raise CheckpointError(
            f"{found.path} does not fit this student:\n    " + "\n    ".join(said[:8]) + more + "\n"
            "  Load it with the recipe that wrote it (recipe.yaml beside it), or start over with --fresh."
        )
    with torch.no_grad():
        found.fill(pieces)
    engine.restored()
    for kind, stateful in (states or {}).items():
        try:
            stateful.load_state_dict(found.tensors(kind))
        except (RuntimeError, KeyError, TypeError, ValueError) as problem:
            said = " ".join(str(problem).split())[:200]
            raise CheckpointError(f"{found.path}: its {kind} do not fit this recipe: {said}") from problem


def locate(path: str | Path) -> Checkpoint:
    """The verified checkpoint that `path` means: a run folder, its checkpoints folder, or one checkpoint."""
    path = Path(path)
    if STEP.match(path.name) or (path / "manifest.json").exists():
        try:
            found = opened(path)
        except Damaged as damage:
            raise CheckpointError(f"{path}: {damage}.\n  Choose another checkpoint of the run.") from None
        if wrong := found.problems():
            raise CheckpointError(f"{path}: {'; '.join(wrong)}.\n  Choose another checkpoint of the run.")
        return found
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    found, skipped = newest(folder)
    if found is None:
        raise CheckpointError(f"{path} holds no checkpoint.\n  Give a run folder, or one step-… folder of it.")
    for line in skipped:
        tell(f"{path}: {line}; taken instead: {found.path.name}")
    return found


def glance(path: str | Path) -> Checkpoint:
    """The newest checkpoint that `path` means, for what it says of itself: manifest and recipe are whole, and nobody
    has read its tensors, which may be many GB."""
    path = Path(path)
    alone = STEP.match(path.name) or (path / "manifest.json").exists()
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    for each in [path] if alone else committed(folder):
        with suppress(Damaged, KeyError):
            found = opened(each)
            if verify(each, "recipe.yaml", found.manifest.files["recipe.yaml"]) is None:
                return found
    raise CheckpointError(f"{path} holds no checkpoint.\n  Give a run folder, or one step-… folder of it.")


def weights_of(path: str | Path, which: str = "weights") -> dict[str, Tensor]:
    """The student's whole parameters by name, or their moving average (`which="ema"`)."""
    found = locate(path)
    chosen = found.tensors(which)
    if not chosen:
        raise CheckpointError(f"{found.path} holds no '{which}'.\n  It was saved without engine.ema; take 'weights'.")
    return found.tensors("weights") | chosen  # frozen parameters have no average
