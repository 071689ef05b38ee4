"""Which checkpoints stay: the last K that are verified, the end of every stage, every Nth step, and the best."""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from unicscale.checkpoint.best import best_of
from unicscale.checkpoint.manifest import Damaged
from unicscale.checkpoint.reading import STEP, committed, opened
from unicscale.recipe.sections import Save


class Keeper:
    """Deletes what is old, but never counts a torn checkpoint as one that protects the run."""

    def __init__(self, folder: Path, section: Save) -> None:
        self.folder, self.section = folder, section
        self.proven: dict[str, list[tuple[str, int, int]]] = {}  # what each looked like when its hashes were right
        self.stages: dict[str, int] = {}  # a step belongs to one stage, whoever saves it again

    def prove(self, path: Path) -> None:
        """Remember that this one's hashes are right: it was verified, or just written."""
        self.proven[path.name] = _looks(path)

    def sweep(self) -> None:
        """Delete what is older than the last `keep` verified ones; each stage's last, every Nth and the best stay."""
        good, ended, every = 0, set[int](), self.section.keep_every_steps
        best = best_of(self.folder) if self.section.best else None
        for path in committed(self.folder):
            step = int(path.name.removeprefix("step-"))
            nth = (every and step % every == 0) or (best is not None and step == best.step)
            stage = self._stage(path)
            if good >= self.section.keep and not nth and (stage is None or stage in ended):
                discard(path)
            elif self._whole(path):
                good += 1
                if stage is not None:
                    ended.add(stage)  # a torn one does not end its stage: the one before it stays too

    def _stage(self, path: Path) -> int | None:
        """The stage that a checkpoint was made in; None where its manifest cannot say."""
        if path.name not in self.stages:
            with suppress(Damaged):
                self.stages[path.name] = opened(path).progress.stage
        return self.stages.get(path.name)

    def _whole(self, path: Path) -> bool:
        if path.name in self.proven and self.proven[path.name] == _looks(path):
            return True
        try:
            whole = not opened(path).problems()
        except Damaged:
            return False
        if whole:
            self.prove(path)
        return whole


def _looks(path: Path) -> list[tuple[str, int, int]]:
    # a checkpoint proven once is not hashed again while nobody touched it: 20 GB per save for UNIC-L otherwise
    return sorted((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in path.iterdir())


def discard(path: Path) -> None:
    """Delete a folder; renamed first, so that a kill half-way never leaves something that looks like a checkpoint."""
    doomed = path.with_name(f".{path.name.lstrip('.')}.{secrets.token_hex(4)}.doomed")
    os.rename(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def tidy(folder: Path) -> None:
    """What killed launches left behind: half-written saves go, a checkpoint that was moved aside comes back.

    Only for the launch that holds the run folder.
    """
    for path in folder.glob(".step-*"):
        name = path.name.split(".")[1]
        if path.suffix == ".aside" and STEP.match(name) and not (folder / name).exists():
            os.rename(path, folder / name)
        elif path.suffix in (".partial", ".doomed", ".aside"):
            shutil.rmtree(path, ignore_errors=True)
    for path in [*folder.glob(".LATEST.*.tmp"), *folder.glob(".BEST.*.tmp")]:
        path.unlink()
