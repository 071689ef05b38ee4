"""Saving, as the training loop sees it: a snapshot now, a thread that writes it, its failure told to every rank."""

from __future__ import annotations

import json
import secrets
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor

from unicscale.checkpoint.best import Best, Rated, best_of, write_best
from unicscale.checkpoint.committing import commit, everybody, give_up, write_part
from unicscale.checkpoint.layout import divide, file_of, held, missing
from unicscale.checkpoint.manifest import Entry, Manifest
from unicscale.checkpoint.reading import States, committed
from unicscale.checkpoint.retention import Keeper
from unicscale.contracts import Progress
from unicscale.engine import Engine, Piece
from unicscale.errors import CheckpointError
from unicscale.ranks.voice import say
from unicscale.ranks.world import World
from unicscale.recipe import Recipe, dump
from unicscale.run.folder import versions

LAST_MOMENTS = 5.0  # seconds; a rank that is gone will not finish its file, and the others should not outlive it long


class Safe(Protocol):
    """Where the loop puts what must not be lost: a Saver's folder, or, in a dry run, nowhere."""

    def due(self) -> bool:
        """Whether it is time again; no collective."""
        ...

    def save(self, progress: Progress, engine: Engine, states: States, *, wait: bool = False) -> None:
        """All of the run as it stands; every rank calls this at the same step."""
        ...

    def judge(self, step: int, score: Rated) -> None:
        """The checkpoint of this step measured so; every rank calls this with the same score."""
        ...

    def settle(self) -> None:
        """The run is over, well or badly: bring what is in flight to an end."""
        ...


class Saver:
    """Writes the checkpoints of one run: at most one in flight, and a failed one never harms the ones before."""

    def __init__(
        self, folder: Path, recipe: Recipe, world: World, *, parameters: list[str], facts: dict[str, int] | None = None
    ) -> None:
        self.folder, self.recipe, self.world, self.parameters = folder, recipe, world, tuple(parameters)
        self.facts = facts or {}  # what must be the same in the run that goes on
        self.versions = versions()
        self.keeper = Keeper(folder, recipe.save)
        self.thread: threading.Thread | None = None
        self.written = threading.Event()  # this rank's part of the save in flight, or the failure to write it
        self.failure: str | None = None  # set by the thread, told to everybody by `wait`
        self.host: dict[str, Tensor] = {}  # the snapshot's memory, used again by the next one
        self.began = time.monotonic()  # when the last save began
        self.stalled = 0.0  # seconds training waited for the last save

    def save(self, progress: Progress, engine: Engine, states: States, *, wait: bool = False) -> None:
        """Snapshot now, write behind training's back; every rank calls this at the same step."""
        self.began = time.monotonic()
        self.wait()
        pieces = engine.pieces()
        if self.world.main:
            flat = {f"{kind}/{name}": value for kind, x in states.items() for name, value in x.state_dict().items()}
            pieces = pieces | {n: Piece(value.detach().reshape(-1), 0, tuple(value.shape)) for n, value in flat.items()}
        entries = divide(self.world.gather_objects(held(pieces)))
        lost = missing(entries, [f"weights/{name}" for name in self.parameters])
        assert not lost, f"no rank holds {lost[:3]}: such a checkpoint could not be read back"
        manifest = Manifest(
            asdict(progress), self.recipe.engine.kind, self.world.size, self.versions, self.parameters, entries, {}
        )
        folder = self._fresh_folder(progress)
        mine = self._snapshot(pieces, entries)
        self.written.clear()
        self.thread = threading.Thread(
            target=self._write, args=(folder, mine, manifest), name="checkpoint", daemon=True
        )
        self.thread.start()
        if wait or not self.recipe.save.asynchronous:
            self.wait()
        self.stalled = time.monotonic() - self.began

    def due(self) -> bool:
        """Whether `save.every_minutes` have passed, by rank 0's clock."""
        minutes = self.recipe.save.every_minutes
        return self.world.main and minutes is not None and time.monotonic() - self.began > 60 * minutes

    def wait(self) -> None:
        """Until the save in flight is committed; its failure becomes everybody's error."""
        if self.thread is None:
            return
        self.written.wait()
        self.world.barrier()  # a rank that died while it wrote is noticed here, and not by waiting for its file
        self.thread.join()
        self.thread = None
        failures = [failure for failure in self.world.gather_objects(self.failure) if failure]
        self.failure = None
        if failures:
            last = committed(self.folder)
            intact = f"{last[0].name} and the ones before it are intact" if last else "none was saved before"
            raise CheckpointError(
                f"{self.folder}: the save failed: {failures[0]}\n"
                f"  {intact}. Mend the cause (free some space, say), and the same command goes on from there."
            )

    def judge(self, step: int, score: Rated) -> None:
        """Spare the checkpoint of this step, if it measured better than the one that was spared so far."""
        self.wait()  # committed first: a launch that dies now must not have given up the old one for nothing
        best = Best(step, score.name, score.value, score.higher_is_better)
        if not self.world.main or not best.beats(best_of(self.folder)):
            return
        try:
            write_best(self.folder, best)
            say.info("best so far: %s", best.said)
        except OSError as problem:  # costs the mark; the checkpoints say themselves when the disk is full
            say.warning("%s could not be marked as the best: %s", best.said, problem.strerror)

    def settle(self) -> None:
        """On the way out of a run that broke: the save in flight needs no other rank to be committed, only moments."""
        if self.thread is not None:
            self.thread.join(LAST_MOMENTS)

    def _fresh_folder(self, progress: Progress) -> Path:
        name, problem = f".step-{progress.step:08d}.{secrets.token_hex(4)}.partial", None
        if self.world.main:
            try:
                (self.folder / name).mkdir()
            except OSError as error:
                problem = f"{self.folder} cannot be written: {error.strerror}."
        name, problem = self.world.broadcast_object((name, problem))
        seen = self.world.gather_objects((self.folder / name).is_dir())
        if problem is None and not all(seen):
            problem = f"{self.folder} is not the same folder on rank {seen.index(False)}; all hosts must share it."
        if problem:
            raise CheckpointError(f"{problem}\n  Choose another run folder with out=FOLDER.")
        return self.folder / name

    def _snapshot(self, pieces: dict[str, Piece], entries: dict[str, Entry]) -> dict[str, Tensor]:
        """This rank's part of the writing, copied to host memory."""
        file = file_of(self.world.rank)
        mine = [name for name, entry in entries.items() if any(part.file == file for part in entry.ranges)]
        self.host = {name: self._room(name, pieces[name].flat) for name in mine}
        for name in mine:
            self.host[name].copy_(pieces[name].flat.detach(), non_blocking=True)
        if self.world.device.type == "cuda":
            torch.cuda.current_stream().synchronize()
        return self.host

    def _room(self, name: str, flat: Tensor) -> Tensor:
        kept = self.host.get(name)
        if kept is not None and kept.shape == flat.shape and kept.dtype == flat.dtype:
            return kept
        return torch.empty(flat.shape, dtype=flat.dtype, pin_memory=flat.is_cuda)

    def _write(self, folder: Path, mine: dict[str, Tensor], manifest: Manifest) -> None:
        """The thread: this rank's file, and on rank 0 the commit."""
        rank = self.world.rank
        try:
            write_part(folder, rank, mine)
            self.written.set()
            if self.world.main:
                proofs = everybody(folder, self.world.size, self.recipe.engine.timeout_seconds)
                state = json.dumps(manifest.progress | self.facts, indent=1) + "\n"
                final = commit(folder, manifest, proofs, {"recipe.yaml": dump(self.recipe), "state.json": state})
                self.keeper.prove(final)
                self.keeper.sweep()
        except (OSError, SafetensorError, CheckpointError) as problem:
            self.failure = f"rank {rank}: {problem}"
        except BaseException as problem:  # a thread's own traceback would be printed and forgotten
            self.failure = f"rank {rank}: {type(problem).__name__}: {problem}"
        if self.failure:
            self.world.stop.raise_("a save failed")  # so that all ranks leave the loop at the same step
            give_up(folder, rank, self.failure)
        self.written.set()
